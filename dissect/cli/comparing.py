"""From the words of `dissect compare` to tables on the screen or in a file."""

from __future__ import annotations

import json
import os
import shlex
import sys
from pathlib import Path

import numpy as np
import pandas as pd
from rich.console import Console
from rich.progress import Progress

from analyses.bootstrap import Report
from analyses.compare import (
    Entry,
    Warn,
    by_table,
    entries_named,
    entries_of_dataset,
    means,
    same_test_set,
)
from analyses.significance import (
    Gains,
    can_count,
    enough_resamples,
    n_tests,
    pairs_table,
    read_gains,
)
from dissect.cli.compare_view import PAPER, Comparison, as_record, cautions, means_csv, pairs_csv, views_of
from dissect.cli.text_table import NO_LIMIT, to_latex, to_markdown, to_screen
from dissect.errors import DataError, DissectError, UsageError
from dissect.runs import files, folders

SUFFIXES = {".md": "markdown", ".csv": "csv", ".tex": "latex", ".json": "json", ".txt": "screen"}


def compare(
    *,
    names: tuple[str, ...],
    dataset: str | None,
    all_metrics: bool,
    pairs: bool,
    resamples: int | None,
    seed: int,
    form: str | None,
    out: str | None,
    runs_dir: str,
    as_json: bool,
) -> None:
    """Print or write what `dissect compare` was asked for; notes that belong to no table go to stderr."""
    form = chosen_form(form, out, as_json)
    stderr = Console(stderr=True, highlight=False, soft_wrap=True)
    if names and dataset:
        raise UsageError("RUN and --dataset exclude each other.", "dissect compare --dataset takes all groups on it.")
    lost: list[DataError] = []

    def warn(error: DataError) -> None:
        lost.append(error)
        folders.left_out(error)

    if names:
        entries = entries_of_names(names, runs_dir, warn)
        same_test_set(entries, runs_dir)
    else:
        entries, empty, found = entries_of_dataset(dataset, runs_dir, warn)
        if dataset is None:
            stderr.print(f"Data set: {found} (as in the newest group).", markup=False)
        elif found != dataset:
            stderr.print(f"No run on '{dataset}'; these are on '{found}', another split of the same log.", markup=False)
        for name in empty:
            stderr.print(f"{name} has no finished seed and is left out.", markup=False)
    with Progress(console=stderr, transient=True, disable=not stderr.is_terminal) as progress:
        read = [read_gains(rows, warn, report_to(progress, "reading ranks")) for rows in by_table(entries)]
        read = [table for table in read if table[0]]
        require_two([rows for rows, _, _ in read], bool(lost))
        drawing = report_to(progress, "drawing resamples")
        compared = [comparison(*table, resamples, seed, pairs, drawing) for table in read]
    write(compared, form, out, all_metrics, pairs)


def report_to(progress: Progress, what: str) -> Report:
    """What to call with (done, total), for a line of `progress`."""
    task = progress.add_task(what, total=None, visible=False)
    return lambda done, total: progress.update(task, completed=done, total=total, visible=True)


def require_two(tables: list[list[Entry]], lost: bool) -> None:
    """Raises DataError or UsageError, with the way out, where there are no two rows; `lost`: what is damaged is not."""
    if not tables:
        raise DataError("Nothing is left to compare.", "What is wrong with each run stands above.")
    if len(tables) == len(tables[0]) == 1:
        row = tables[0][0]
        on = row.config["dataset"]
        raise (DataError if lost else UsageError)(
            f"Only {row.name} is there: it takes two to compare.",
            f"Train another on the same data: dissect train attenmixer --dataset {shlex.quote(on)}\n"
            f"or name one of the finished: dissect compare --dataset {shlex.quote(on)}",
        )


def entries_of_names(names: tuple[str, ...], runs_dir: str, warn: Warn) -> list[Entry]:
    """The rows of all names, each once. What is no run, or has nothing finished, is left out, and `warn` is told."""
    found: dict[tuple[Path, ...], Entry] = {}
    for name in names:
        try:
            rows = entries_named(name, runs_dir, warn)
        except DataError as error:
            warn(error)
            continue
        again = [row.name for row in rows if row.runs in found]
        if again:
            print(f"Named more than once, counts once: {', '.join(again)}.", file=sys.stderr)
        found.update({row.runs: row for row in rows})
    return list(found.values())


def chosen_form(form: str | None, out: str | None, as_json: bool) -> str:
    """The format asked for, or that of the file's suffix. Raises UsageError where they contradict or say nothing."""
    if as_json and form not in (None, "json"):
        raise UsageError(f"--json and --format {form} exclude each other.")
    asked = "json" if as_json else form
    if out is None:
        return asked or "screen"
    by_name = SUFFIXES.get(Path(out).suffix)
    if asked is None and by_name is None:
        raise UsageError(f"{out}: what should be in it?", f"End it in {', '.join(SUFFIXES)}, or give --format.")
    if asked and by_name not in (None, "screen", asked):  # any text may stand in a .txt
        raise UsageError(
            f"--out {out} means {by_name} by its ending, and {'--json' if as_json else f'--format {form}'} does not.",
            f"Leave one of them out, or end the name in {next(s for s, f in SUFFIXES.items() if f == asked)}.",
        )
    return asked or str(by_name)


def comparison(
    entries: list[Entry],
    gains: list[Gains],
    count: np.ndarray,
    resamples: int | None,
    seed: int,
    every_pair: bool,
    report: Report | None = None,
) -> Comparison:
    """The means of rows of one split and protocol, and their pairs: those with the best row unless `every_pair`."""
    rows = means(entries)
    order = rows.pop("entry")  # best first
    ordered = [entries[place] for place in order]
    tests = n_tests(len(ordered))
    resamples = resamples or enough_resamples(tests)
    of_rows = [gains[place] for place in order]
    pairs = pairs_table(of_rows, count, resamples, seed, every_pair, report) if tests else pd.DataFrame()
    split, protocol = ordered[0].split
    return Comparison(
        str(ordered[0].config["dataset"]),
        split,
        protocol,
        int(count.sum()),
        len(count),
        rows,
        pairs,
        tests,
        resamples,
        tuple(notes(ordered, rows, protocol, tests, resamples)),
    )


def notes(entries: list[Entry], rows: pd.DataFrame, protocol: str, tests: int, resamples: int) -> list[str]:
    """What the numbers cannot show."""
    said = cautions(rows)
    if protocol == "paper":
        said.append(f"{PAPER} The pairs compare the epoch with the best MRR@20.")
    trained = [(label, row) for label, row in zip(rows["label"], entries) if row.is_trained]
    single = [label for label, row in trained if len(row.summaries) == 1]
    if single and tests:
        which = "each" if len(single) == len(trained) > 1 else f"({', '.join(single)})"
        said.append(
            f"One seed {which}: intervals and p say what other test sessions would change, not what "
            "another seed would. Train three or more: --seed 1 --seed 2 --seed 3."
        )
    for what in ("unfinished", "damaged"):
        left = [f"{n} of {label}" for label, n in zip(rows["label"], rows[what]) if n]
        if left:
            said.append(f"Left out, {what}: {', '.join(left)}.")
    if not can_count(resamples, tests):
        said.append(
            f"For {tests:,} tests a p that is counted in {resamples:,} resamples is too coarse: where none of them "
            "contradicts the sign, p is that of a normal distribution with their mean and standard deviation."
        )
    if not tests:
        said.append("Nothing else has this split and protocol: nothing to compare it with.")
    return said


def write(found: list[Comparison], form: str, out: str | None, all_metrics: bool, every_pair: bool) -> None:
    """Print the tables, or write them to `out` and print its path."""
    views = [view for table in found for view in views_of(table, all_metrics, every_pair)]
    texts: dict[str, str]  # by what the name of the file is extended with
    if form == "screen":
        if out is None:
            # In a pipe a row is a line, unless COLUMNS says otherwise.
            width = None if sys.stdout.isatty() or "COLUMNS" in os.environ else NO_LIMIT
            for view in views:
                Console(width=width).print(view, "")
            return
        texts = {"": "\n\n".join(to_screen(view, NO_LIMIT).plain for view in views)}
    elif form == "json":
        texts = {"": json.dumps({"schema": files.SCHEMA, "tables": [as_record(table) for table in found]}, indent=1)}
    elif form == "csv":
        texts = {"": means_csv(found), "-pairs": pairs_csv(found)}
        if out is None:
            texts = {"": texts["-pairs" if every_pair else ""]}
        for note in dict.fromkeys(note for table in found for note in table.notes):
            print(note, file=sys.stderr)
    else:
        texts = {"": "\n".join((to_markdown if form == "markdown" else to_latex)(view) for view in views)}
    for extension, text in texts.items():
        if out is None:
            print(text.rstrip("\n"))
            continue
        path = Path(out).with_stem(Path(out).stem + extension)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text.rstrip("\n") + "\n")
        except OSError as error:
            raise DissectError(f"Could not write {path}: {error.strerror or error}.") from error
        print(path)
