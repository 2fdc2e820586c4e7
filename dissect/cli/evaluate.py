"""dissect evaluate: the accuracy of a trained model, from its run folder."""

from __future__ import annotations

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
@click.option("--dataset", help="Another data set over the same items. [default: the run's own]")
@click.option("--split", type=click.Choice(["test", "valid", "train"]), default="test", show_default=True)
@click.option(
    "--ties",
    type=click.Choice(["best", "worst", "mean"]),
    default="best",
    show_default=True,
    help="Rank of a target among items of equal score: before them, behind them, or half-way.",
)
@click.option("--ranks", "out", metavar="OUT.npz", help="Write the rank of each prefix there.")
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
    """
    import json
    from pathlib import Path

    from rich.console import Console
    from rich.table import Table

    from dissect.cli.trained import data_of, finished_run, other_data, trained_model
    from dissect.data.sessions import PrefixTensors, split_validation
    from dissect.errors import UsageError
    from dissect.training.evaluation import evaluate, evaluate_scores, metrics
    from dissect.training.finish import write_ranks_of

    console = Console(stderr=True, quiet=quiet)
    if out is not None and Path(out).suffix != ".npz":
        raise UsageError(f"--ranks writes a NumPy archive, not {out!r}.", "Give a name that ends in .npz.")
    record = finished_run(run, runs_dir)
    config = record.config
    data = other_data(record, dataset, data_dir, console) if dataset else data_of(record, data_dir, console)
    train, valid = split_validation(data.train, config.validation if config.protocol == "clean" else 0.0)
    sessions = {"test": data.test, "valid": valid, "train": train}[split]
    if not sessions.n_prefixes:
        raise UsageError(f"The run's '{split}' part has no prefix to rank.", "It can be evaluated on: --split test")
    found, step, where = trained_model(record, model, device, data_dir, console)
    prefixes = PrefixTensors(sessions, where, config.longest)
    with console.status(f"ranking {len(prefixes):,} prefixes over {data.n_items:,} items"):
        rank = (evaluate if hasattr(found, "encode") else evaluate_scores)(found, prefixes, ties=ties)
    if out is not None:
        write_ranks_of(Path(out), rank, sessions)
    values = metrics(rank)
    if as_json:
        where_from = {"run": str(record.run), "model": config.model, "variant": record.variant, "seed": record.seed}
        what = {"dataset": data.name, "split_hash": data.split_hash, "split": split, "ties": ties, "n": len(rank)}
        print(json.dumps({**where_from, "step": step, **what, **values}, indent=1))
        return
    title = f"{record.run}, step {step:,}; {data.name}, {split}: {len(rank):,} prefixes, ties {ties}"
    table = Table(box=None, padding=(0, 2, 0, 0))
    for name in values:
        table.add_column(name.upper(), justify="right")
    table.add_row(*(f"{value:.2f}" for value in values.values()))
    Console().print(title, highlight=False, markup=False, soft_wrap=True)
    Console().print(table)
