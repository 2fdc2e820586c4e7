"""From the words of `dissect compare` to tables on the screen or in a file."""

from __future__ import annotations

import io
import json
import re
import sys
from pathlib import Path

import pandas as pd
from rich.console import Console
from rich.markup import escape

from analyses.compare import (
    JUDGED,
    Entry,
    by_table,
    entries_named,
    entries_of_dataset,
    means,
    same_test_set,
)
from analyses.significance import ALPHA, enough_resamples, pairs_table, read_gains
from dissect import runs
from dissect.cli.compare_view import Comparison, as_record, means_csv, pairs_csv, views_of
from dissect.cli.text_table import to_latex, to_markdown, to_screen
from dissect.errors import DissectError, UsageError

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
    if names:
        entries = [row for name in names for row in entries_named(name, runs_dir)]
        same_test_set(entries, runs_dir)
    else:
        asked = dataset or runs.group_config(runs.newest_group(runs_dir))["dataset"]
        entries, empty, found = entries_of_dataset(asked, runs_dir)
        if dataset is None:
            stderr.print(f"Data set: {asked} (as in the newest group).", markup=False)
        if found != asked:
            stderr.print(f"No run on '{asked}'; these are on '{found}', another split of the same log.", markup=False)
        for name in empty:
            stderr.print(f"{name} has no finished seed and is left out.", markup=False)
    tables = by_table(entries)
    if len(tables) == 1 and len(tables[0]) == 1:
        row = tables[0][0]
        on = row.config["dataset"]
        raise UsageError(
            f"Only {row.name} is there: it takes two to compare.",
            f"Train another on the same data: dissect train attenmixer --dataset {on}\n"
            f"or name one of the finished: dissect compare --dataset {on}",
        )
    found_tables = [comparison(table, resamples, seed) for table in tables]
    write(found_tables, form, out, all_metrics, pairs)


def chosen_form(form: str | None, out: str | None, as_json: bool) -> str:
    """The format asked for, or that of the file's suffix. Raises UsageError where they contradict or say nothing."""
    if as_json:
        if form is not None:
            raise UsageError(f"--json and --format {form} exclude each other.")
        return "json"
    if form is None and out is not None:
        if Path(out).suffix not in SUFFIXES:
            raise UsageError(f"{out}: what should be in it?", f"End it in {', '.join(SUFFIXES)}, or give --format.")
        return SUFFIXES[Path(out).suffix]
    return form or "screen"


def comparison(entries: list[Entry], resamples: int | None, seed: int) -> Comparison:
    """The means and pairs of rows of one split and protocol."""
    rows = means(entries)
    ordered = [entries[place] for place in rows.pop("entry")]  # best first
    gains, count = read_gains(ordered)
    tests = len(ordered) * (len(ordered) - 1) // 2 * len(JUDGED)
    resamples = resamples or enough_resamples(tests)
    pairs = pairs_table(gains, count, resamples, seed) if tests else pd.DataFrame()
    split, protocol = ordered[0].split
    return Comparison(
        str(ordered[0].config["dataset"]),
        split,
        protocol,
        int(count.sum()),
        len(count),
        rows,
        pairs,
        resamples,
        tuple(notes(ordered, rows, protocol, tests, resamples)),
    )


def notes(entries: list[Entry], rows: pd.DataFrame, protocol: str, tests: int, resamples: int) -> list[str]:
    """What the numbers cannot show."""
    said = []
    if protocol == "paper":
        said.append(
            "Protocol paper: every metric is taken at its best epoch on the test set. Such numbers flatter: the "
            "selection bias is within them and cannot be told apart. The pairs compare the epoch with the best MRR@20."
        )
    single = [label for label, row in zip(rows["label"], entries) if len(row.summaries) == 1 and row.is_trained]
    if single and tests:
        said.append(
            f"One seed ({', '.join(single)}): intervals and p say what other test sessions would change, not what "
            "another seed would. Train three or more: --seed 1 --seed 2 --seed 3."
        )
    unfinished = [(label, row.unfinished) for label, row in zip(rows["label"], entries) if row.unfinished]
    if unfinished:
        said.append("Left out, unfinished: " + ", ".join(f"{n} of {label}" for label, n in unfinished) + ".")
    lowest = 2 / (resamples + 1) * tests
    if lowest > ALPHA:
        said.append(
            f"With {tests} tests, {resamples} resamples cannot give a p below {lowest:.2g} after Holm: nothing can be "
            f"significant. Give --resamples {enough_resamples(tests)}."
        )
    if not tests:
        said.append("Nothing else has this split and protocol: nothing to compare it with.")
    return said


def write(found: list[Comparison], form: str, out: str | None, all_metrics: bool, every_pair: bool) -> None:
    """Print the tables, or write them to `out` and print its path."""
    views = [view for table in found for view in views_of(table, all_metrics, every_pair)]
    texts: dict[str, str]  # by what the name of the file is extended with
    if form == "screen":
        # A file is as wide as its widest row, the screen as wide as it is.
        console = Console(highlight=False) if out is None else Console(file=io.StringIO(), width=200, highlight=False)
        for view in views:
            console.print(f"[bold]{escape(view.title)}[/bold]", to_screen(view), sep="\n")
            console.print(*(f"[dim]{escape(note)}[/dim]" for note in view.notes), "", sep="\n")
        if out is None:
            return
        texts = {"": re.sub(r" +$", "", console.file.getvalue(), flags=re.MULTILINE)}  # type: ignore[attr-defined]
    elif form == "json":
        texts = {"": json.dumps({"schema": runs.SCHEMA, "tables": [as_record(table) for table in found]}, indent=1)}
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
