"""Bring data sets in: from a name, a raw log or exchange files to a data set on disk, and a report on it.

Nothing is printed here: lines go to `say`, the bytes of a download to `progress`.
"""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from dissect.data import catalog, sources
from dissect.data.formats import import_files
from dissect.data.log import read_log
from dissect.data.preprocess import apply, to_sessions
from dissect.data.recipes import Recipe, choose
from dissect.data.sessions import Dataset
from dissect.errors import DataBusyError, DataError, UsageError
from dissect.text import plural

WAIT = 1.0  # seconds between two looks at what another process brings
FEW = 100  # training prefixes below which --recent is doubtful
Say = Callable[[str], Any]
Show = Callable[[int, int | None], Any]  # bytes so far, bytes in all
Progress = Callable[[sources.Source], AbstractContextManager[Show]]


def nobody(*_: object) -> None:
    """A listener that does nothing."""


def no_bar(source: sources.Source) -> AbstractContextManager[Show]:
    return nullcontext(nobody)


# --- ways in -------------------------------------------------------------------------------------------------


def load(
    name: str,
    data_dir: str | Path | None = None,
    fetch: bool = True,
    say: Say | None = None,
    progress: Progress = no_bar,
) -> Dataset:
    """The data set of that name: built in, on disk, or else fetched and prepared if its log is public.

    `say` gets a line for each download and its outcome, and if another split stands in. While another process brings
    the data set, this one waits. With `fetch` False nothing is fetched. Raises UsageError for an unknown name,
    DataError, with the commands that bring it, for a data set that is not there and cannot be fetched.
    """
    say, known, root = say or nobody, catalog.canonical(name), catalog.data_root(data_dir)
    source = sources.SOURCES.get(known)
    if fetch and source and not source.terms and catalog.present_as(known, data_dir) is None:
        say(f"The data set '{known}' is not in {root}: its log is public.")
        _bring(known, data_dir, say, progress)
    dataset = catalog.load(known, data_dir)
    if dataset.name != known:
        say(f"'{name}' is not here; using '{dataset.name}', another split of the same log: compare with care.")
    return dataset


def _bring(name: str, data_dir: str | Path | None, say: Say, progress: Progress) -> None:
    """Fetch and prepare a data set, unless another process does: then wait until it has."""
    waits = False
    while catalog.present_as(name, data_dir) is None:
        try:
            path = download(name, data_dir, say=say, progress=progress)
            lines = report(*from_log(name, path, data_dir=data_dir))
        except DataBusyError as error:
            if not waits:
                say(f"{error.message} Waiting for it.")
            waits = True
            time.sleep(WAIT)
        except DataError as error:
            says = f"The data set '{name}' is not in {catalog.data_root(data_dir)}, and could not be fetched:"
            hint = f"{error.hint}\n{catalog.ways(name)}".strip()
            raise DataError(f"{says}\n{error.message}", hint) from error
        except UsageError:  # it has come in between
            if catalog.present_as(name, data_dir) is None:
                raise
        else:
            for line, _ in lines:
                say(line)


def download(
    name: str,
    data_dir: str | Path | None = None,
    accept_terms: bool = False,
    say: Say = nobody,
    progress: Progress = no_bar,
) -> Path:
    """The log of a data set in the cache, which lies beside the data sets."""
    from dissect.data.fetch import fetch

    source = sources.find(name)
    with progress(source) as show:
        return fetch(source, catalog.data_root(data_dir) / ".downloads", accept_terms, show, say)


def from_log(
    name: str,
    path: Path,
    recipe: str | None = None,
    data_dir: str | Path | None = None,
    force: bool = False,
    **own: Any,
) -> tuple[Dataset, Path]:
    """(data set, its folder) of a raw log: by the rules of `recipe`, else of `name`, else `own` (`recipes.choose`)."""
    if recipe and own.get("item"):
        raise UsageError("--recipe has the rules of another log: leave out either --recipe or --item-col and the like.")
    rules = choose(recipe or name, **own)  # first: without them --force is no way out of a name that is taken
    name = catalog.check_name(name, data_dir, force)
    return _kept(lambda: prepare(name, path, rules), name, data_dir, force)


def from_files(
    name: str, format: str, files: Sequence[Path], data_dir: str | Path | None = None, force: bool = False, **how: Any
) -> tuple[Dataset, Path]:
    """(data set, its folder) of a train, perhaps a valid, and a test file; `how` as `import_files` takes it."""
    if len(files) not in (2, 3):
        raise UsageError(
            f"Import takes a TRAIN, perhaps a VALID, and a TEST file, not {len(files)} files.",
            "For example: dissect data import NAME --format srgnn all_train_seq.txt test.txt",
        )
    name, valid = catalog.check_name(name, data_dir, force), files[1] if len(files) == 3 else None
    made = partial(import_files, name, format, files[0], files[-1], valid=valid, **how)
    return _kept(made, name, data_dir, force)


def _kept(make: Callable[[], Dataset], name: str, data_dir: str | Path | None, force: bool) -> tuple[Dataset, Path]:
    """(data set, its folder), with the name held while it is made."""
    with catalog.claimed(name, data_dir):
        dataset = make()
        return dataset, catalog.save(dataset, data_dir, force)


# --- from a log to a data set --------------------------------------------------------------------------------


def prepare(name: str, path: Path, recipe: Recipe) -> Dataset:
    """The data set that the recipe makes of the log at `path`.

    The provenance has the file with its SHA-256, every rule with its settings, the clicks that it left and dropped, and
    each count that differs from what the recipe expects (`differences`). Raises DataError if the log is not as it
    should be, or nothing is left of it.
    """
    source = read_log(path, recipe.log)
    items, table = source.labels["item"], [source.table]
    source.table, source.labels = source.table[:0], {}
    try:
        # Popped, so that the rules can free the tables that they replace.
        train, test, rules, numbered = apply(table.pop(), recipe.rules, recipe.split, recipe.after)
    except DataError as error:
        raise DataError(f"{path}: {error.message}", error.hint) from error
    provenance = {"format": "log", "source": source.record, **rules, "expected": dict(recipe.expected)}
    dataset = Dataset(name, len(numbered), to_sessions(train), to_sessions(test), provenance, items[numbered].tolist())
    provenance["differences"] = differences(dataset, recipe.expected)
    return dataset


def differences(dataset: Dataset, expected: Mapping[str, int]) -> dict[str, dict[str, Any]]:
    """The counts that are not as expected: count -> {expected, found}."""
    train, test = dataset.train, dataset.test
    found = {"items": dataset.n_items, "train_prefixes": train.n_prefixes, "test_prefixes": test.n_prefixes}
    found |= {"clicks": train.n_clicks + test.n_clicks, "prefixes": train.n_prefixes + test.n_prefixes}
    return {count: {"expected": n, "found": found[count]} for count, n in expected.items() if found[count] != n}


# --- what to tell of it --------------------------------------------------------------------------------------


def report(dataset: Dataset, folder: Path) -> Iterator[tuple[str, bool]]:
    """(line, whether it is a warning): what a new data set has, where it lies, what to do next, what surprises."""
    record = dataset.provenance
    for count, numbers in record.get("differences", {}).items():
        yield f"Warning: {count.replace('_', ' ')}: {numbers['found']:,}, expected {numbers['expected']:,}.", True
    if record.get("differences"):
        file = record["source"]["file"]
        yield f"Is {file} the whole log? The numbers expected are in {folder / 'data.json'} too.", True
    if times := record.get("times"):
        yield f"Clicks are in the order of their times, read as {times}.", False
    counts = "; ".join(
        f"{part} {plural(len(sessions), 'session')} = {plural(sessions.n_prefixes, 'prefix')}"
        for part, sessions in (("train", dataset.train), ("test", dataset.test))
    )
    yield f"{dataset.name}: {plural(dataset.n_items, 'item')}; {counts}.", False
    if dropped := [f"{n:,} ({part})" for part, n in record.get("dropped_single_clicks", {}).items() if n]:
        yield f"Single-click sessions dropped: {', '.join(dropped)}.", False
    if unseen := record.get("dropped_unseen"):
        clicks = f"{plural(unseen.get('clicks', 0), 'click')} on items that no kept training session has"
        yield f"Dropped from test: {clicks}, and {plural(unseen.get('sessions', 0), 'session')} with them.", False
    if record.get("recent", 1) < 1 and dataset.train.n_prefixes < FEW:
        left = f"{plural(len(dataset.train), 'training session')} ({plural(dataset.train.n_prefixes, 'prefix')})"
        yield f"Warning: --recent {record['recent']:g} leaves {left}, which is too little to train on.", True
    if record.get("format") == "log":
        yield from ((line, False) for line in _report_log(dataset))
    elsewhere = [] if folder.parent == catalog.data_root() else ["--data-dir", str(folder.parent)]
    yield f"In {folder}. Next: {shlex.join(['dissect', 'run', '--dataset', dataset.name, *elsewhere])}", False
    first, smallest = (record.get(what, 0) for what in ("first_id", "smallest_id"))
    if smallest > first:
        yield (
            (
                f"Warning: items were taken to count from {first}, but {first} never occurs in the files; "
                f"the smallest number is {smallest}."
            ),
            True,
        )
        yield f"If they count from {smallest}: the same command with --first-id {smallest} --force", True


def _report_log(dataset: Dataset) -> Iterator[str]:
    """How the log was read, and what each rule dropped."""
    record, source = dataset.provenance, dataset.provenance["source"]
    ends = [part.times for part in (dataset.train, dataset.test) if part.times is not None]
    first, last = (datetime.fromtimestamp(int(end), UTC) for end in (ends[0].min(), ends[-1].max()))
    yield f"Times read as {source['times']}: sessions end from {first:%Y-%m-%d %H:%M} to {last:%Y-%m-%d %H:%M}."
    for column, count in source["empty"].items():
        yield f"Clicks without {column}: {count:,}."
    for step in record["rules"]:
        before, after = step.get("sessions", (0, 0))
        if before != after:
            yield f"Users share {before:,} session numbers: taken as {after:,} sessions, each of one user."
    yield f"Of {plural(source['rows'], 'click')} in {source['file']} these were dropped:"
    for row in record["dropped"]:
        settings = ", ".join(f"{key} {row[key]}" for key in row if key not in ("rule", "clicks", "sessions"))
        sessions = f", {plural(row['sessions'], 'session')}" if "sessions" in row else ""
        yield f"  {row['rule']}{f' ({settings})' if settings else ''}: {plural(row['clicks'], 'click')}{sessions}"
    if not record["dropped"]:
        yield "  none"
