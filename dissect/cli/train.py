"""dissect train: train a model as it is, and set it beside what was trained before."""

from __future__ import annotations

from typing import Any

import click

from dissect.cli import options


@click.command(
    epilog="""\b
Examples:
  dissect train attenmixer --dataset diginetica
  dissect train attenmixer --preset official --seed 1 --seed 2 --seed 3
  dissect train srgnn --dataset diginetica --protocol paper
  dissect train srgnn --dataset diginetica --readout attenmixer
  dissect train vsknn --dataset diginetica"""
)
@click.argument("model")
@click.option("--dataset", help="A name of `dissect data list`. [default: that of the newest group, else demo]")
@click.option(
    "--protocol",
    type=click.Choice(["clean", "paper"]),
    default="clean",
    show_default=True,
    help="clean: the epoch is chosen on validation; paper: trained on all, each metric at its best epoch on test.",
)
@click.option(
    "--patience", type=int, default=3, show_default=True, help="Epochs without a better MRR@20; 0 never stops."
)
@click.option(
    "--refit", is_flag=True, help="Then train on everything, validation too, for the epochs chosen, and report that."
)
@options.training
def command(**given: Any) -> None:
    """Train MODEL without SparseVD and report HR and MRR, beside the finished runs on the same split.

    MODEL is a name of `dissect models`, a baseline (pop, spop, sknn, vsknn), or path/to/file.py:ClassName: that file is
    executed, and its folder is not on Python's path. The same command again goes on with a run that was stopped.
    """
    from dissect.cli.dissecting import train_dense

    train_dense(**given)
