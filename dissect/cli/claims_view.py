"""The page of claims: on the screen, in Markdown, or as JSON."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterator, Mapping
from typing import Any

import pandas as pd
from rich.console import Console
from rich.text import Text

from analyses import claims
from analyses.evidence import NOT_RUN
from dissect.cli import screen
from dissect.data.sessions import Dataset
from dissect.errors import UsageError
from dissect.tables.claims import OPTION, RULES, TITLES, counts, in_words, options_of, record, to_markdown
from dissect.tables.text import PROSE, fold

COLOURS = {"holds": "green", "fails": "red", "undecided": "yellow", NOT_RUN: "dim"}


def listed() -> None:
    """The claims, with the studies that answer them."""
    table = screen.plain(("claim", "where", "says", "study"))
    for claim in claims.CLAIMS:
        logs = "" if len(claim.logs) == 3 else f" ({', '.join(claim.logs)})"
        table.add_row(claim.name, claim.where, claim.says + logs, claim.study or "the data")
    screen.show(table)


def show(
    data: Dataset, size: dict[str, Any], given: Mapping[str, Any], out: str | None = None, as_json: bool = False
) -> None:
    """Judge the claims, then print them or write them to a file; `given` are the options of the command."""
    form = screen.chosen_form(None, out, as_json)
    if form not in ("screen", "markdown", "json") or (out and form == "screen"):
        raise UsageError(f"The claims cannot be written to {out}.", "End its name in .md or .json.")
    with Console(stderr=True).status("reading runs"):
        rows = claims.judged(data, size, given["runs_dir"])
    words = options_of(given)
    if form == "screen":
        screen.show(*on_screen(rows, data.name, words), sep="\n")
    else:
        as_text = json.dumps(record(rows, data, words), indent=1) if form == "json" else to_markdown(rows, data, words)
        screen.put(as_text, out)


def on_screen(rows: pd.DataFrame, data: str, words: str) -> Iterator[Text]:
    """A paragraph for each claim."""
    width = min(Console().width, PROSE)
    yield Text(f"Claims of the paper, on {data} ({words})", "bold")
    for protocol, title in TITLES.items():
        yield Text(f"  {title} protocol: {counts(rows, protocol)}")
    for row in rows.to_dict("records"):
        yield Text(f"\n{row['where']}: {row['says']}  [{row['name']}]", "bold")
        if row["printed"]:
            yield from lines("paper", row["printed"], width)
        if {row[f"{protocol} answer"] for protocol in TITLES} == {NOT_RUN}:
            yield from lines("not run", in_words(row, "paper", data, words)[1].replace(OPTION, f"[{OPTION}]"), width)
            continue
        for protocol, title in TITLES.items():
            answer, measured = in_words(row, protocol, data, words)
            yield from lines(title, f"{answer}. {measured}", width, COLOURS.get(answer.split(" (")[0], ""), len(answer))
    yield Text("")
    yield Text(textwrap.fill(RULES, width), "dim")


def lines(title: str, words: str, width: int, colour: str = "", coloured: int = 0) -> Iterator[Text]:
    """Words beside a title, folded; the first `coloured` letters have a colour."""
    indent = " " * 10
    found = Text(fold(words, width, f"  {title:<8}", indent))
    if colour:
        found.stylize(colour, len(indent), len(indent) + coloured)
    yield found
