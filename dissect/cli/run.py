"""dissect run: dissect a model with SparseVD and print the verdict."""

from __future__ import annotations

from typing import Any

import click

from dissect.cli import options
from dissect.runs.config import CALIBRATED, CALIBRATED_EPOCHS, LITERAL, SEEDS, Config
from dissect.usual import DATASET, MODEL

IS_LITERAL = (
    f"Use SparseVD as it was published (KL weight {Config.kl_weight:g}, batches of {Config.batch_size},"
    f" {Config.max_steps:,} steps, no averages, no shadows). With these settings useless weights stay alive. Settings"
    " given here win."
)
NAMED = (
    "A name from `dissect models`, or path/to/file.py:ClassName. That file is executed; it cannot import its"
    " neighbours."
)


@options.verb(
    "run",
    "run --model srgnn --dataset diginetica",
    "run --model srgnn --dataset diginetica --without propagation",
    "run --model srgnn --dataset diginetica --literal",
    "run --dataset diginetica --kl-weight 1 --kl-weight 2 --kl-weight 4",
    "run --model path/to/mymodel.py:MyModel --dataset diginetica",
    "run --config runs/srgnn-demo-c3707d9a/config.toml --seed 2",
    cls=options.Training,
)
@options.of_model("--model", default=MODEL, show_default=True, help=NAMED)
@options.option("--dataset", default=DATASET, show_default=True, group="data", help="A name from `dissect data list`.")
@options.option("--literal", is_flag=True, group="SparseVD", help=IS_LITERAL)
@options.training(SEEDS, CALIBRATED_EPOCHS)
@options.settings(CALIBRATED, but=("protocol", "patience"), many=("kl_weight",))
@click.pass_context
def command(context: click.Context, /, **given: Any) -> None:
    """Dissect a model: which of its weight matrices carry the prediction?

    Puts Sparse Variational Dropout in place of the model's weight matrices, with a useless shadow beside each, trains,
    records the density of every matrix, trains the same model without SparseVD, and prints a verdict. If the run is
    stopped, the same command continues it.
    """
    options.start(context, LITERAL if given.pop("literal") else CALIBRATED, **given)
