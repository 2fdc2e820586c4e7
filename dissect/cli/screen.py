"""Where results go: to the screen, or to a file whose name says in which form."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from dissect.errors import UsageError
from dissect.runs.replace import require_file, write_texts
from dissect.tables.text import NO_LIMIT, Table, as_text, starred

TABLE = "table like this one"
SUFFIXES = {".md": "markdown", ".csv": "csv", ".tex": "latex", ".json": "json", ".txt": "screen"}


def show(*parts: Any, **how: Any) -> None:
    """Print on stdout as it stands: names of files and users are neither coloured nor read as markup.

    No line ends in blanks, with which rich fills the rows of a table.
    """
    console = Console(highlight=False, markup=False, width=how.pop("width", None))
    with console.capture() as printed:
        console.print(*parts, **how)
    print(re.sub(" +$", "", printed.get(), flags=re.MULTILINE), end="")


def show_tables(*views: Any) -> None:
    """Print tables with an empty line behind each. In a pipe a row is a line, unless COLUMNS says otherwise."""
    is_seen = sys.stdout.isatty()
    width = None if is_seen or "COLUMNS" in os.environ else NO_LIMIT
    for view in views:
        show(view if is_seen or not isinstance(view, Table) else starred(view), "", width=width)


def show_json(found: Any) -> None:
    print(json.dumps(found, indent=1, allow_nan=False))


def chosen_form(form: str | None, out: str | None, as_json: bool) -> str:
    """The format asked for, or that of the file's suffix.

    Raises UsageError if they contradict or none is given, or if no file can be written at `out`. So the user hears of
    it before a computation that may take minutes. A file that is already there is checked later, with its new text.
    """
    if as_json and form not in (None, "json"):
        raise UsageError(f"--json and --format {form} exclude each other.")
    asked = "json" if as_json else form
    if out is None:
        return asked or "screen"
    require_file(Path(out), TABLE, lambda head: True)
    by_name = SUFFIXES.get(Path(out).suffix)
    if asked is None and by_name is None:
        hint = f"End it in {', '.join(SUFFIXES)}."
        raise UsageError(f"The name {out} does not say which format to write.", hint)
    if asked and by_name not in (None, "screen", asked):  # any text may stand in a .txt
        raise UsageError(
            f"--out {out} means {by_name} by its ending, and {'--json' if as_json else f'--format {form}'} does not.",
            f"Leave one of them out, or end the name in {next(s for s, f in SUFFIXES.items() if f == asked)}.",
        )
    return asked or str(by_name)


def write(
    views: Sequence[Table],
    form: str,
    out: str | None,
    to_json: Callable[[], str],
    to_csv: Callable[[], Mapping[str, str]],
    notes: Sequence[str] = (),
) -> None:
    """Print tables, or write them to `out` and print its path.

    CSV may be several files: `to_csv` has each by what the name is extended with; of these the last is printed. The
    `notes`, which CSV has no room for, go to stderr.
    """
    if form == "screen" and out is None:
        show_tables(*views)
    elif form == "json":
        put(to_json(), out)
    elif form == "csv":
        print(*notes, sep="\n", end="\n" * bool(notes), file=sys.stderr)
        texts = to_csv()
        if out is None:
            put([*texts.values()][-1], None)
            return
        files = {Path(out).with_stem(Path(out).stem + extension): text for extension, text in texts.items()}
        write_texts(files, TABLE)
        print(*files, sep="\n")
    else:
        put(as_text(views, form), out)


def put(text: str, out: str | Path | None) -> None:
    """Print a text, or write it to a file and print its path.

    Raises UsageError for a file that is not ours, DissectError if the disk refuses.
    """
    if out is None:
        print(text.rstrip("\n"))
        return
    write_texts({Path(out): text.rstrip("\n") + "\n"}, TABLE)
    print(out)
