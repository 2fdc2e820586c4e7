"""dissect evaluate: the accuracy of a trained model, from its run folder."""

from __future__ import annotations

from functools import partial
from typing import Any

import click

from dissect.cli import options

DATASET = "Another data set of the same shop; its items are matched by identifier. [default: the run's own]"
TIES = "Rank of a target among items of equal score: before them, behind them, or half-way."
KEEP = "Add coverage and popularity to the run's summary, for `compare`; runs of earlier versions lack them."
RANKS = "Write the rank of each prefix there (2147483647: the model does not know the target)."


@options.verb(
    "evaluate runs/srgnn-demo-c3707d9a/s1",
    "evaluate srgnn-demo --split valid --ties worst",
    "evaluate srgnn-demo/s2 --ranks ranks.npz --json",
)
@click.option("--dataset", help=DATASET)
@click.option("--split", type=click.Choice(["test", "valid", "train"]), default="test", show_default=True)
@click.option("--ties", type=click.Choice(["best", "worst", "mean"]), default="best", show_default=True, help=TIES)
@click.option("--keep", is_flag=True, help=KEEP)
@click.option("--ranks", metavar="OUT.npz", help=RANKS)
@options.of_run()
def command(run: str, runs_dir: str, as_json: bool, quiet: bool, ranks: str | None, **given: Any) -> None:
    """Compute HR@K, MRR@K and NDCG@20 of the trained model of RUN over the whole catalogue.

    RUN is a seed's folder, a group with one seed, or an export (dissect export). It uses the weights that the run
    reports: those of the chosen epoch, or else the last. `train` and `valid` are the same parts as in the run. A
    baseline is fitted again on both.

    On another data set, clicks on items that the model does not know are dropped. A prefix counts as a miss if the
    model does not know its target, or knows none of its clicks. The result over known targets alone is printed too.

    On its own data set also coverage@20, the share of the catalogue in any list of 20 items, and popularity@20, the
    mean number of training clicks on the items of the lists, in percent of those on the most clicked item.
    """
    from pathlib import Path

    from dissect.cli import screen
    from dissect.errors import UsageError
    from dissect.experiment.opened import evaluate, finished_run
    from dissect.progress import console
    from dissect.tables.models import accuracy

    if ranks is not None and Path(ranks).suffix != ".npz":
        raise UsageError(f"--ranks writes a NumPy archive, not {ranks!r}.", "Give a name that ends in .npz.")
    record, tell = finished_run(run, runs_dir), partial(options.say, quiet=quiet)
    with console(quiet).status("ranking"):
        where = None if ranks is None else Path(ranks)
        found = evaluate(record, options.loader(tell), ranks=where, say=tell, **given)
    screen.show_json(found) if as_json else screen.show(accuracy(found))
