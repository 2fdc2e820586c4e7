"""dissect evaluate: the accuracy of a trained model, from its run folder."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from dissect.cli import options

if TYPE_CHECKING:
    from dissect.training.evaluation import Ranked


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
    "out",
    metavar="OUT.npz",
    help="Write the rank of each prefix there (2147483647: the model does not know the target).",
)
@options.own_model
@options.device
@options.runs_dir
@options.data_dir
@options.as_json
@options.quiet
def command(
    run: str,
    dataset: str | None,
    split: str,
    ties: str,
    out: str | None,
    model: str | None,
    device: str,
    runs_dir: str,
    data_dir: str | None,
    as_json: bool,
    quiet: bool,
) -> None:
    """HR@K and MRR@K of the trained model of RUN, over the whole catalogue.

    RUN is a seed's folder, or a group with one seed. The weights are those that the run reports: of the epoch it
    chose, else the last. `train` and `valid` are parted as the run did; a baseline is fitted again, on both.

    Of another data set, a prefix keeps the clicks on items that the model knows. One whose target the model does not
    know, or none of whose clicks, counts as a miss; what comes out over the known targets alone is said beside it.
    """
    from functools import partial
    from pathlib import Path

    from dissect.errors import UsageError
    from dissect.experiment.opened import data_of, finished_run, numbers_for, sessions_of, trained_model
    from dissect.training.evaluation import rank_sessions
    from dissect.training.finish import write_ranks_of

    if out is not None and Path(out).suffix != ".npz":
        raise UsageError(f"--ranks writes a NumPy archive, not {out!r}.", "Give a name that ends in .npz.")
    notes = (lambda text: None) if quiet else options.say
    load = partial(options.load, say=notes)
    record = finished_run(run, runs_dir)
    config, own = record.config, partial(data_of, record, load, data_dir)
    data = load(dataset, data_dir) if dataset else own()
    numbers = numbers_for(record, data, notes) if dataset else None
    sessions = sessions_of(record, data, split)
    found, step, where = trained_model(record, own, int(sessions.lengths.max()) - 1, model, device)
    with options.console(quiet).status(f"ranking {sessions.n_prefixes:,} prefixes over {record.n_items:,} items"):
        ranked = rank_sessions(found, sessions, where, ties, numbers, config.longest)
    if out is not None:
        write_ranks_of(Path(out), ranked.rank, sessions)
    where_from = {"run": str(record.run), "model": config.model, "variant": record.variant, "seed": record.seed}
    what = {"dataset": data.name, "split_hash": data.split_hash, "split": split, "ties": ties, "n": len(ranked.rank)}
    _show({**where_from, "step": step, **what}, ranked, as_json)


def _show(about: dict[str, Any], ranked: Ranked, as_json: bool) -> None:
    """Print the accuracy; and, where the model does not know every target, how many misses that makes."""
    import json

    from rich.console import Console
    from rich.table import Table

    from dissect.training.evaluation import metrics

    every = metrics(ranked.rank)
    misses: dict[str, Any] = {}
    of_known: dict[str, float] = {}
    if ranked.known is not None:
        misses = {"unknown_targets": int((~ranked.known).sum()), "without_known_click": ranked.without_click}
        of_known = metrics(ranked.rank[ranked.known])
    if as_json:
        print(json.dumps({**about, **every, **misses, **({"known_targets": of_known} if misses else {})}, indent=1))
        return
    if not any(misses.values()):  # every target is known, and both rows would be the same
        misses = {}
    rows = {"all prefixes": every, **({"known targets": of_known} if misses else {})}
    title = "{run}, step {step:,}; {dataset}, {split}: {n:,} prefixes, ties {ties}".format(**about)
    table = Table(box=None, padding=(0, 2, 0, 0))
    if misses:
        table.add_column("")
    for name in every:
        table.add_column(name.upper(), justify="right")
    for name, row in rows.items():
        table.add_row(*([name] if misses else []), *(f"{value:.2f}" for value in row.values()))
    Console().print(title, highlight=False, markup=False, soft_wrap=True)
    if misses:
        says = (
            "Counted as misses: {unknown_targets:,} prefixes whose target the model does not know, and "
            "{without_known_click:,} without a click that it knows."
        )
        Console().print(says.format(**misses), highlight=False, soft_wrap=True)
    Console().print(table)
