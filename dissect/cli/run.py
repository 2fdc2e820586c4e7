"""dissect run: dissect a model with SparseVD and print the verdict."""

from __future__ import annotations

from typing import Any

import click

from dissect.cli import options
from dissect.runs.config import CALIBRATED, DISSECTED

EXAMPLES = (
    "run",
    "run --model srgnn --dataset diginetica --seed 1 --seed 2 --seed 3",
    "run --model srgnn --dataset diginetica --without propagation",
    "run --model path/to/mymodel.py:MyModel --dataset diginetica",
    "run --config runs/srgnn-demo-58ce72c0/config.toml --seed 2",
)
CALIBRATES = (
    "Settings under which density tells needed from useless: KL weight 4, averaged parameters, shadows, and a dense"
    " training beside it. Settings given here win."
)
MODEL = (
    "A name from `dissect models`, or path/to/file.py:ClassName. That file is executed; it cannot import its"
    " neighbours."
)


@click.command(cls=options.Training, epilog=options.examples(*EXAMPLES))
@options.of_model("--model", default="srgnn", show_default=True, help=MODEL)
@options.option("--dataset", default="demo", show_default=True, group="data", help="A name from `dissect data list`.")
@options.option("--calibrated", is_flag=True, group="SparseVD", help=CALIBRATES)
@options.training
@options.settings(DISSECTED, but=("protocol", "patience"))
@click.pass_context
def command(context: click.Context, /, **given: Any) -> None:
    """Dissect a model: which of its weight matrices carry the prediction?

    Puts Sparse Variational Dropout in place of the model's weight matrices, trains, records the density of every
    matrix, and prints a verdict. If the run is stopped, the same command continues it.
    """
    options.start(context, CALIBRATED if given.pop("calibrated") else DISSECTED, **given)
