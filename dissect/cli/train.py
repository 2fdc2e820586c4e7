"""dissect train: train a model without SparseVD and compare it with other runs."""

from __future__ import annotations

from typing import Any

import click

from dissect.cli import options
from dissect.runs.config import DENSE, EPOCHS
from dissect.usual import DATASET

DATA = f"A name from `dissect data list`. [default: that of the newest group, else {DATASET}]"
REFIT = (
    "Train again on all sessions, validation included, for the number of epochs that validation chose, and report that"
    " run."
)


@options.verb(
    "train attenmixer --dataset diginetica",
    "train attenmixer --preset official --seed 1 --seed 2 --seed 3",
    "train srgnn --dataset diginetica --protocol paper",
    "train srgnn --dataset diginetica --readout attenmixer",
    "train vsknn --dataset diginetica",
    cls=options.Training,
)
@click.argument("model", required=False, metavar="MODEL")
@options.option("--dataset", group="data", help=DATA)
@options.training(seeds=(1,), epochs=EPOCHS)
@options.settings(DENSE, but=("SparseVD",))
@options.of_training("--refit", is_flag=True, help=REFIT)
@click.pass_context
def command(context: click.Context, /, **given: Any) -> None:
    """Train MODEL without SparseVD and report HR and MRR, beside the finished runs on the same split.

    MODEL is a name from `dissect models`, baselines included (pop, sknn, stan, ...), or path/to/file.py:ClassName.
    That file is executed; it cannot import its neighbours. If the run is stopped, the same command continues it.
    """
    options.start(context, DENSE, **given)
