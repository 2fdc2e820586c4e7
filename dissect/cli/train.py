"""dissect train: train a model as it is, and set it beside what was trained before."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dissect.cli import options
from dissect.runs.config import DENSE

if TYPE_CHECKING:
    from dissect.data.sessions import Dataset


@click.command(
    cls=options.Command,
    epilog="""\b
Examples:
  dissect train attenmixer --dataset diginetica
  dissect train attenmixer --preset official --seed 1 --seed 2 --seed 3
  dissect train srgnn --dataset diginetica --protocol paper
  dissect train srgnn --dataset diginetica --readout attenmixer
  dissect train vsknn --dataset diginetica""",
)
@click.argument("model", required=False, metavar="MODEL")
@options.option(
    "--dataset",
    group="data",
    help="A name of `dissect data list`. [default: that of the newest group, else demo]",
)
@options.training
@options.settings(DENSE, but=("SparseVD",))
@options.option(
    "--refit",
    is_flag=True,
    group="training",
    help="Then train on everything, validation too, for the epochs chosen, and report that.",
)
@click.pass_context
def command(context: click.Context, /, as_json: bool, **given: Any) -> None:
    """Train MODEL without SparseVD and report HR and MRR, beside the finished runs on the same split.

    MODEL is a name of `dissect models`, a baseline (pop, spop, sknn, vsknn), or path/to/file.py:ClassName: that file is
    executed, and its folder is not on Python's path. The same command again goes on with a run that was stopped.
    """
    from dissect.training import workers

    group, data = options.start(context, DENSE, **given)
    if workers.is_first():
        show_results(group, data, as_json)


def show_results(group: Path, data: Dataset, as_json: bool) -> None:
    """Print what was trained on a split, the group that was trained just now among it."""
    from rich.console import Console

    from analyses.compare import results_table
    from dissect.cli.compare_view import render_results
    from dissect.runs.folders import group_config

    protocol = group_config(group)["protocol"]
    table = results_table(group.parent, data.split_hash, protocol)
    if as_json:
        print(table.to_json(orient="records", indent=1))
    else:
        Console().print(render_results(table, data.name, protocol, newest=group.name))
