"""The claims of the paper: what it prints and what was measured, on the screen, as Markdown and for programs."""

from __future__ import annotations

import shlex
import textwrap
from collections.abc import Iterator, Mapping
from typing import Any

import pandas as pd
from rich.console import Console
from rich.text import Text

from analyses import claims, paper
from analyses.answers import UNDECIDED
from analyses.evidence import NOT_RUN
from dissect.data.sessions import Dataset
from dissect.runs import files
from dissect.tables.text import COLOURS, PROSE, Table, by_rows, fold
from dissect.text import as_options
from dissect.usual import RUNS

OPTION = "--protocol paper"
INDENT = " " * 10
TITLES = {"clean": "fair", "paper": "its own"}
RULES = (
    "Fair: the epoch is chosen on validation; a difference counts if the bootstrap over seeds and sessions, corrected "
    "by Holm over all pairs of the table, has p <= 0.05; fewer than three seeds decide nothing. Its own protocol: each "
    "metric at its best epoch on test, and paired t-tests with p < 0.01; for densities, SparseVD as published. A claim "
    "on several pairs holds if each is as claimed, fails if one is the other way, and is undecided otherwise."
)


def options_of(given: Mapping[str, Any]) -> str:
    """The options of size as a command takes them."""
    names = ("scale", "dim", "epochs", "seeds", "runs_dir", "data_dir", "tuned")
    return shlex.join(as_options({name: given.get(name) for name in names}, runs_dir=RUNS))


def counts(rows: pd.DataFrame, protocol: str) -> str:
    """How many claims have which answer."""
    found = rows[f"{protocol} answer"].value_counts()
    return ", ".join(f"{found[answer]} {answer}" for answer in claims.ANSWERS if answer in found)


def in_words(row: Mapping[str, Any], protocol: str, data: str, words: str) -> tuple[str, str]:
    """(answer, what was measured), or how to run it."""
    answer, says = row[f"{protocol} answer"], row[f"{protocol} says"]
    if answer == NOT_RUN:
        if not row["study"]:
            return answer, f"needs the paper's own data set: --dataset {'|'.join(paper.SETS)}"
        return answer, claims.command(row["study"], data, words, protocol)
    leaning = f" (the numbers say: {says})" if answer == UNDECIDED and says not in (answer, "") else ""
    measured = row[f"{protocol} measured"]
    if NOT_RUN in measured:
        measured += f". The rest: {claims.command(row['study'], data, words, protocol)}"
    return f"{answer}{leaning}", measured


def side_by_side(rows: pd.DataFrame, dataset: str) -> Table:
    """Each claim: what the paper prints, and what the runs say by either protocol."""
    head = ("claim", "the paper prints", "fair", "measured", "by the paper's protocol", "measured")
    names = ["printed", "clean answer", "clean measured", "paper answer", "paper measured"]
    cells = ((f"{row['where']}: {row['says']}", *(row[name] for name in names)) for row in rows.to_dict("records"))
    return by_rows(f"The claims of the paper, asked of {dataset}", head, cells)


def on_screen(rows: pd.DataFrame, data: str, words: str) -> Iterator[Text]:
    """A paragraph for each claim."""
    width = min(Console().width, PROSE)

    def line(title: str, said: str, style: str = "", coloured: int = 0) -> Text:
        found = Text(fold(said, width, f"  {title:<8}", INDENT))
        found.stylize(style, len(INDENT), len(INDENT) + coloured)
        return found

    yield Text(f"Claims of the paper, on {data} ({words})", "bold")
    for protocol, title in TITLES.items():
        yield Text(f"  {title} protocol: {counts(rows, protocol)}")
    for row in rows.to_dict("records"):
        yield Text(f"\n{row['where']}: {row['says']}  [{row['name']}]", "bold")
        if row["printed"]:
            yield line("paper", row["printed"])
        if {row[f"{protocol} answer"] for protocol in TITLES} == {NOT_RUN}:
            yield line("not run", in_words(row, "paper", data, words)[1].replace(OPTION, f"[{OPTION}]"))
            continue
        for protocol, title in TITLES.items():
            answer, measured = in_words(row, protocol, data, words)
            yield line(title, f"{answer}. {measured}", COLOURS.get(answer.split(" (")[0], "dim"), len(answer))
    yield Text("\n" + textwrap.fill(RULES, width), "dim")


def to_markdown(rows: pd.DataFrame, data: Dataset, words: str) -> str:
    """A table of all answers, then a section for each claim."""
    said = [
        f"# Claims of the paper, on `{data.name}`",
        f"Made from run folders by `dissect study table claims --dataset {data.name} {words} --out claims.md`.",
        f"Split `{data.split_hash}`, {data.test.n_prefixes:,} test prefixes. {RULES}",
        "\n".join(f"- {TITLES[protocol]} protocol: {counts(rows, protocol)}" for protocol in TITLES),
    ]
    table = ["| claim | where | fair | its own protocol |", "|---|---|---|---|"]
    for row in rows.to_dict("records"):
        answers = " | ".join(row[f"{protocol} answer"] for protocol in TITLES)
        table.append(f"| {row['says']} | {row['where']} | {answers} |")
    said.append("\n".join(table))
    for row in rows.to_dict("records"):
        said.append(f"## {row['where']}: {row['says']}")
        parts = [f"- The paper: {row['printed']}"] if row["printed"] else []
        for protocol, title in TITLES.items():
            answer, measured = in_words(row, protocol, data.name, words)
            is_command = row[f"{protocol} answer"] == NOT_RUN and row["study"]
            parts.append(f"- {title.capitalize()}: **{answer}**. {f'`{measured}`' if is_command else measured}")
            if groups := row[f"{protocol} groups"]:
                parts.append(f"  Runs: {', '.join(f'`{group}`' for group in groups)}.")
        said.append("\n".join(parts))
    return "\n\n".join(said) + "\n"


def record(rows: pd.DataFrame, data: Dataset, words: str) -> dict[str, Any]:
    """For programs."""
    found = []
    for row in rows.to_dict("records"):
        about = {name: row[name] for name in ("name", "where", "says", "printed", "study")}
        for protocol in TITLES:
            keys = ("answer", "says", "measured", "groups")
            about[protocol] = {key: row[f"{protocol} {key}"] for key in keys}
            if row["study"]:
                about[protocol]["command"] = claims.command(row["study"], data.name, words, protocol)
        found.append(about)
    return {"schema": files.SCHEMA, "dataset": data.name, "split_hash": data.split_hash, "claims": found}
