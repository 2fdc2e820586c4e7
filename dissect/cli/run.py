"""dissect run: instrument a model with SparseVD, train it, track density, say the verdict."""

from __future__ import annotations

from typing import Any

import click

from dissect.cli import options


@click.command(
    epilog="""\b
Examples:
  dissect run
  dissect run --model srgnn --dataset diginetica --seed 1 --seed 2 --seed 3
  dissect run --model srgnn --dataset diginetica --without propagation
  dissect run --model path/to/mymodel.py:MyModel --dataset diginetica"""
)
@click.option(
    "--model",
    default="srgnn",
    show_default=True,
    help="A name of `dissect models`, or path/to/file.py:ClassName; the file is executed, its folder is not on Python's"
    " path.",
)
@click.option("--dataset", default="demo", show_default=True, help="A name of `dissect data list`.")
@click.option(
    "--where",
    default="both",
    show_default=True,
    help="Which matrices: both, none, a module (gnn, encoder, readout) or a role.",
)
@click.option("--kl-weight", type=float, default=1.0, show_default=True, help="Final beta; the loss has beta / N x KL.")
@click.option(
    "--kl-warmup",
    type=float,
    default=0.3,
    show_default=True,
    help="Share of the steps over which beta rises from 0.",
)
@click.option("--prior", type=click.Choice(["log-uniform", "normal", "ard"]), default="log-uniform", show_default=True)
@click.option(
    "--noise",
    type=click.Choice(["lrt", "weight"]),
    default="lrt",
    show_default=True,
    help="How weight noise is drawn.",
)
@click.option(
    "--threshold",
    type=float,
    default=3.0,
    show_default=True,
    help="A weight is kept where log alpha lies below.",
)
@click.option("--log-sigma2", type=float, help="Initial log sigma^2. [default: log Var(theta) - 4 in each matrix]")
@click.option(
    "--schedule",
    type=click.Choice(["linear-end", "steps", "constant"]),
    default="linear-end",
    show_default=True,
    help="Rate constant to 80 %, then linear to 0; x 0.1 every 3 epochs; or constant.",
)
@click.option(
    "--decay-everything",
    is_flag=True,
    help="Decay theta and log sigma^2 too (what the authors' optimiser would do; distorts density).",
)
@options.training
def command(**given: Any) -> None:
    """Dissect a model: which of its weight matrices carry the prediction?

    Puts Sparse Variational Dropout in place of the model's weight matrices, trains, records the density of
    every matrix, and says the verdict. The same command again goes on with a run that was stopped.
    """
    from dissect.cli.dissecting import dissect_model

    dissect_model(**given)
