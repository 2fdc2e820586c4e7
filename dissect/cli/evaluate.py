"""dissect evaluate: the accuracy of a trained model, from its run folder."""

from __future__ import annotations

from typing import Any

import click

from dissect.cli import options


@click.command(
    epilog="""\b
Examples:
  dissect evaluate runs/srgnn-demo-58ce72c0/s1
  dissect evaluate srgnn-demo --split valid --ties worst
  dissect evaluate srgnn-demo/s2 --ranks ranks.npz --json"""
)
@click.argument("run")
@click.option(
    "--dataset", help="Another data set of the same shop; its items are matched by identifier. [default: the run's own]"
)
@click.option("--split", type=click.Choice(["test", "valid", "train"]), default="test", show_default=True)
@click.option(
    "--ties",
    type=click.Choice(["best", "worst", "mean"]),
    default="best",
    show_default=True,
    help="Rank of a target among items of equal score: before them, behind them, or half-way.",
)
@click.option(
    "--ranks",
    metavar="OUT.npz",
    help="Write the rank of each prefix there (2147483647: the model does not know the target).",
)
@options.own_model
@options.device
@options.runs_dir
@options.data_dir
@options.as_json
@options.quiet
def command(run: str, runs_dir: str, as_json: bool, quiet: bool, ranks: str | None, **given: Any) -> None:
    """HR@K and MRR@K of the trained model of RUN, over the whole catalogue.

    RUN is a seed's folder, or a group with one seed. The weights are those that the run reports: of the epoch it
    chose, else the last. `train` and `valid` are parted as the run did; a baseline is fitted again, on both.

    Of another data set, a prefix keeps the clicks on items that the model knows. One whose target the model does not
    know, or none of whose clicks, counts as a miss; what comes out over the known targets alone is said beside it.
    """
    import json
    from pathlib import Path

    from dissect.cli.models_view import show_accuracy
    from dissect.errors import UsageError
    from dissect.experiment.opened import evaluate, finished_run

    if ranks is not None and Path(ranks).suffix != ".npz":
        raise UsageError(f"--ranks writes a NumPy archive, not {ranks!r}.", "Give a name that ends in .npz.")
    screen = options.console(quiet)
    record, tell = finished_run(run, runs_dir), options.say_on(screen)
    with screen.status("ranking"):
        load = options.loader(tell)
        found = evaluate(record, load, ranks=None if ranks is None else Path(ranks), say=tell, **given)
    if as_json:
        print(json.dumps(found, indent=1))
    else:
        show_accuracy(found)
