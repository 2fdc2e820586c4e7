"""dissect run: instrument a model with SparseVD, train it, track density, say the verdict."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from dissect.cli import options
from dissect.runs.config import CALIBRATED, DISSECTED


@click.command(
    cls=options.Command,
    epilog="""\b
Examples:
  dissect run
  dissect run --model srgnn --dataset diginetica --seed 1 --seed 2 --seed 3
  dissect run --model srgnn --dataset diginetica --without propagation
  dissect run --model path/to/mymodel.py:MyModel --dataset diginetica
  dissect run --config runs/srgnn-demo-58ce72c0/config.toml --seed 2""",
)
@options.option(
    "--model",
    default="srgnn",
    show_default=True,
    group="model",
    help="A name of `dissect models`, or path/to/file.py:ClassName; the file is executed, its folder is not on Python's"
    " path.",
)
@options.option("--dataset", default="demo", show_default=True, group="data", help="A name of `dissect data list`.")
@options.option(
    "--calibrated",
    is_flag=True,
    group="SparseVD",
    help="Settings under which density tells needed from useless: KL weight 4, averaged parameters, shadows, and a"
    " dense training beside it. Settings given here win.",
)
@options.training
@options.settings(DISSECTED, but=("protocol", "patience"))
@click.pass_context
def command(context: click.Context, /, as_json: bool, **given: Any) -> None:
    """Dissect a model: which of its weight matrices carry the prediction?

    Puts Sparse Variational Dropout in place of the model's weight matrices, trains, records the density of
    every matrix, and says the verdict. The same command again goes on with a run that was stopped.
    """
    from dissect.training import workers

    usual = CALIBRATED if given.pop("calibrated") else DISSECTED
    group, data = options.start(context, usual, **given)
    if workers.is_first():
        show_verdict(group, data.name, as_json)


def show_verdict(group: Path, dataset: str, as_json: bool) -> None:
    """Judge a group, trained on the data set of that name, and print its verdict."""
    import json

    from rich.console import Console

    from analyses.verdict import judge
    from dissect.cli.verdict_view import render_verdict
    from dissect.data import planted

    verdict = judge(group, judged=planted.judged(dataset))
    if as_json:
        print(json.dumps(verdict, indent=1, allow_nan=False))
    else:
        Console().print(render_verdict(verdict))
