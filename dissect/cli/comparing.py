"""The tables of `dissect compare`, on the screen or in a file."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pandas as pd
from rich.console import Console
from rich.progress import Progress

from analyses import compare as analysis
from analyses.bootstrap import Report
from analyses.compare import Comparison
from analyses.entries import JUDGED
from dissect.cli import options
from dissect.cli.compare_view import views_of
from dissect.cli.text_table import NO_LIMIT, to_latex, to_markdown, to_screen
from dissect.errors import DissectError, UsageError
from dissect.runs import files
from dissect.runs.records import METRICS
from dissect.text import without_formulas

SUFFIXES = {".md": "markdown", ".csv": "csv", ".tex": "latex", ".json": "json", ".txt": "screen"}


def compare(*, form: str | None, out: str | None, all_metrics: bool, pairs: bool, as_json: bool, **asked: Any) -> None:
    """Print or write what `dissect compare` was asked for; `asked` goes to analyses.compare.compare."""
    form = chosen_form(form, out, as_json)
    with options.progress(transient=True) as bars:
        found = analysis.compare(**asked, every_pair=pairs, report=lambda what: report_to(bars, what))
    write(found, form, out, METRICS if all_metrics else JUDGED, pairs)


def report_to(progress: Progress, what: str) -> Report:
    """A function of (done, total) that updates a line of `progress`."""
    task = progress.add_task(what, total=None, visible=False)
    return lambda done, total: progress.update(task, completed=done, total=total, visible=True)


def chosen_form(form: str | None, out: str | None, as_json: bool) -> str:
    """The format asked for, or that of the file's suffix. Raises UsageError if they contradict or none is given."""
    if as_json and form not in (None, "json"):
        raise UsageError(f"--json and --format {form} exclude each other.")
    asked = "json" if as_json else form
    if out is None:
        return asked or "screen"
    by_name = SUFFIXES.get(Path(out).suffix)
    if asked is None and by_name is None:
        raise UsageError(
            f"The name {out} does not say which format to write.", f"End it in {', '.join(SUFFIXES)}, or give --format."
        )
    if asked and by_name not in (None, "screen", asked):  # any text may stand in a .txt
        raise UsageError(
            f"--out {out} means {by_name} by its ending, and {'--json' if as_json else f'--format {form}'} does not.",
            f"Leave one of them out, or end the name in {next(s for s, f in SUFFIXES.items() if f == asked)}.",
        )
    return asked or str(by_name)


def write(found: list[Comparison], form: str, out: str | None, metrics: tuple[str, ...], every_pair: bool) -> None:
    """Print the tables, or write them to `out` and print its path."""
    texts: dict[str, str]  # by what the name of the file is extended with
    views = [view for table in found for view in views_of(table, metrics, every_pair)]
    if form == "json":
        texts = {"": json.dumps({"schema": files.SCHEMA, "tables": [as_record(table) for table in found]}, indent=1)}
    elif form == "csv":
        texts = {"": to_csv(table.rows for table in found), "-pairs": to_csv(table.pairs for table in found)}
        if out is None:
            texts = {"": texts["-pairs" if every_pair else ""]}
        for note in dict.fromkeys(note for table in found for note in table.rows.attrs["notes"]):
            print(note, file=sys.stderr)
    elif form == "screen" and out is None:
        # In a pipe a row is a line, unless COLUMNS says otherwise.
        width = None if sys.stdout.isatty() or "COLUMNS" in os.environ else NO_LIMIT
        for view in views:
            Console(width=width).print(view, "")
        return
    elif form == "screen":
        texts = {"": "\n\n".join(to_screen(view, NO_LIMIT).plain for view in views)}
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


def to_csv(parts: Iterable[pd.DataFrame]) -> str:
    """Tables below each other with every column, each with its data set, split, protocol and rule for ties."""
    named = []
    for part in parts:
        facts = {name: part.attrs[name] for name in ("dataset", "split_hash", "protocol", "ties")}
        front = pd.DataFrame(facts, index=part.index)
        named.append(pd.concat([front, part.drop(columns=list(facts), errors="ignore")], axis=1))
    return without_formulas(pd.concat(named)).to_csv(index=False, float_format="%.6g")


def as_record(table: Comparison) -> dict[str, Any]:
    """For --json; NaN and infinities are written as null."""

    def records(part: pd.DataFrame) -> list[dict[str, Any]]:
        return list(json.loads(part.to_json(orient="records", double_precision=15)))

    facts = table.rows.attrs
    front = {name: facts[name] for name in list(facts)[: list(facts).index("holm_tests")]}
    return {**front, "rows": records(table.rows), "pairs": records(table.pairs), **facts}
