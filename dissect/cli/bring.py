"""The work behind `dissect data fetch` and `prepare`, apart from their options."""

from __future__ import annotations

import shlex
import sys
from dataclasses import replace
from datetime import UTC, datetime
from fractions import Fraction
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from dissect.data import catalog, sources
from dissect.data.lines import check_encoding
from dissect.data.prepare import prepare
from dissect.data.recipes import RECIPES, Recipe, own_log
from dissect.data.sessions import Dataset
from dissect.errors import DataError, UsageError, unknown

# Option of `dissect data prepare` -> argument of recipes.own_log.
OWN = {
    "item_col": "item",
    "time_col": "time",
    "session_col": "session",
    "user_col": "user",
    "gap": "gap",
    "separator": "separator",
    "min_clicks": "least_clicks",
    "longest": "longest",
    "top_items": "top",
    "drop_repeats": "drop_repeats",
    "test_share": "test_share",
    "test_last": "test_last",
    "time_format": "clock",
    "missing": "missing",
}
COLUMNS = ("item_col", "time_col", "session_col", "user_col", "gap")


def choose_recipe(name: str, own: dict[str, Any], encoding: str | None = None) -> Recipe:
    """The recipe of that name, for a log in that encoding; where columns are named, one for a log of one's own."""
    given = {option: value for option, value in own.items() if value not in (None, False, ())}
    if any(option in given for option in COLUMNS):
        if not {"item_col", "time_col"} <= set(given):
            raise UsageError("A log of your own needs --item-col and --time-col.")
        arguments = {OWN[option]: value for option, value in given.items()}
        arguments["separator"] = arguments.get("separator", "").replace("\\t", "\t")
        return own_log(**arguments, encoding=encoding or "utf-8")
    if catalog.canonical(name) not in RECIPES:
        error = unknown("recipe", name, RECIPES)
        raise UsageError(error.message, f"{error.hint} For a log of your own, say --item-col and --time-col.")
    if given:
        option = "--" + next(iter(given)).replace("_", "-")
        raise UsageError(f"{option} is for a log of your own; the rules of {name} are fixed.", f"Leave {option} out.")
    recipe = RECIPES[catalog.canonical(name)]
    return replace(recipe, log=replace(recipe.log, encoding=check_encoding(encoding or "utf-8")))


def prepare_and_save(name: str, path: Path, recipe: Recipe, data_dir: str | None, force: bool) -> Dataset:
    """Prepare a log, keep the data set, and say what came of it; counts that surprise are a warning on stderr."""
    with catalog.claimed(name, data_dir):
        dataset = prepare(name, path, recipe)
        folder = catalog.save(dataset, data_dir, force)
    for count, numbers in dataset.provenance["differences"].items():
        click.echo(
            f"Warning: {count.replace('_', ' ')}: {numbers['found']:,}, expected {numbers['expected']:,}.", err=True
        )
    if dataset.provenance["differences"]:
        click.echo(f"Is {path.name} the whole log? The numbers expected are in {folder / 'data.json'} too.", err=True)
    tell(dataset, folder)
    return dataset


def tell(dataset: Dataset, folder: Path) -> None:
    """Say what a data set has, where it lies, and what to do with it."""
    click.echo(
        f"{dataset.name}: {dataset.n_items:,} items; "
        f"train {len(dataset.train):,} sessions = {dataset.train.n_prefixes:,} prefixes; "
        f"test {len(dataset.test):,} sessions = {dataset.test.n_prefixes:,} prefixes."
    )
    dropped = {part: n for part, n in dataset.provenance.get("dropped_single_clicks", {}).items() if n}
    if dropped:
        click.echo(f"Single-click sessions dropped: {', '.join(f'{n:,} ({part})' for part, n in dropped.items())}.")
    if unseen := dataset.provenance.get("dropped_unseen"):
        clicks, sessions = (unseen.get(what, 0) for what in ("clicks", "sessions"))
        click.echo(
            f"Dropped from test: {clicks:,} clicks on items that no kept training session has, "
            f"and {sessions:,} sessions with them."
        )
    if dataset.provenance.get("format") == "log":
        tell_log(dataset)
    click.echo(f"In {folder}. Next: dissect run --dataset {shlex.quote(dataset.name)}")


def tell_log(dataset: Dataset) -> None:
    """Say how the log was read, and what each rule dropped."""
    record, source = dataset.provenance, dataset.provenance["source"]
    ends = [part.times for part in (dataset.train, dataset.test) if part.times is not None]
    first, last = (datetime.fromtimestamp(int(end), UTC) for end in (ends[0].min(), ends[-1].max()))
    click.echo(f"Times read as {source['times']}: sessions end from {first:%Y-%m-%d %H:%M} to {last:%Y-%m-%d %H:%M}.")
    for column, count in source["empty"].items():
        click.echo(f"Clicks without {column}: {count:,}.")
    for step in record["rules"]:
        before, after = step.get("sessions", (0, 0))
        if before != after:
            click.echo(f"Users share {before:,} session numbers: taken as {after:,} sessions, each of one user.")
    click.echo(f"Of {source['rows']:,} clicks in {source['file']} these were dropped:")
    for row in record["dropped"]:
        settings = ", ".join(
            f"{key} {value}" for key, value in row.items() if key not in ("rule", "clicks", "sessions")
        )
        sessions = f", {row['sessions']:,} sessions" if "sessions" in row else ""
        click.echo(f"  {row['rule']}{f' ({settings})' if settings else ''}: {row['clicks']:,} clicks{sessions}")
    if not record["dropped"]:
        click.echo("  none")


def download(name: str, data_dir: str | None, accept_terms: bool) -> Path:
    """The log of a data set in the cache, with a progress bar where stderr is a terminal."""
    from dissect.data.fetch import fetch

    source = sources.find(name)
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    console = Console(stderr=True)
    with Progress(*columns, TimeRemainingColumn(), console=console, disable=not sys.stderr.isatty()) as progress:
        task = progress.add_task(source.file, total=source.size)

        def show(done: int, total: int | None) -> None:
            progress.update(task, completed=done, total=total or source.size)

        return fetch(source, cache(data_dir), accept_terms, show, lambda line: click.echo(line, err=True))


def cache(data_dir: str | None) -> Path:
    """Where downloads lie: beside the data sets."""
    return catalog.data_root(data_dir) / ".downloads"


def load_or_fetch(name: str, data_dir: str | None) -> Dataset:
    """The data set of that name; one that is not on disk is fetched and prepared where a public source is known.

    Raises DataError with the manual ways where it cannot be fetched.
    """
    known = catalog.canonical(name)
    if catalog.present_as(known, data_dir) is None and known in sources.SOURCES and not sources.SOURCES[known].terms:
        click.echo(f"The data set '{known}' is not in {catalog.data_root(data_dir)}: its log is public.", err=True)
        try:
            path = download(known, data_dir, accept_terms=False)
        except DataError as error:
            raise DataError(
                f"The data set '{known}' is not in {catalog.data_root(data_dir)}, and could not be fetched:\n"
                f"{error.message}",
                catalog.ways(known),
            ) from error
        prepare_to_stderr(known, path, data_dir)
    return catalog.load(known, data_dir)


def prepare_to_stderr(name: str, path: Path, data_dir: str | None) -> None:
    """`prepare_and_save` on the way to something else: what it says goes to stderr."""
    import contextlib

    with contextlib.redirect_stdout(sys.stderr):
        prepare_and_save(name, path, RECIPES[name], data_dir, force=False)


def as_share(text: str) -> float:
    """A share such as 0.125 or 1/8. Raises UsageError for anything else."""
    try:
        return float(Fraction(text))
    except (ValueError, ZeroDivisionError):
        raise UsageError(f"--recent is a share of the training sessions, such as 0.125 or 1/8, not {text!r}.") from None
