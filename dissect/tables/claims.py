"""The page of claims: each claim of the paper, what it prints and what was measured, as Markdown and for programs."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any

import pandas as pd

from analyses import claims, paper
from analyses.answers import UNDECIDED
from analyses.evidence import NOT_RUN
from dissect.data.sessions import Dataset
from dissect.runs import files
from dissect.usual import RUNS

OPTION = "--protocol paper"
TITLES = {"clean": "fair", "paper": "its own"}
RULES = (
    "Fair: the epoch is chosen on validation; a difference counts if the bootstrap over seeds and sessions, corrected "
    "by Holm over all pairs of the table, has p <= 0.05; fewer than three seeds decide nothing. Its own protocol: each "
    "metric at its best epoch on test, and paired t-tests with p < 0.01; for densities, SparseVD as published. A claim "
    "on several pairs holds if each is as claimed, fails if one is the other way, and is undecided otherwise."
)


def options_of(given: Mapping[str, Any]) -> str:
    """The options of size as a command takes them."""
    words = [f"--scale {given['scale']}"]
    words += [f"--{name} {given[name]:g}" for name in ("dim", "epochs") if given[name] is not None]
    words += [f"--seed {seed}" for seed in given["seeds"]]
    folders = {"runs_dir": RUNS, "data_dir": None}  # and their usual values
    words += [
        f"--{name.replace('_', '-')} {shlex.quote(str(given[name]))}"
        for name in folders
        if given.get(name) != folders[name]
    ]
    words += ["--tuned"] if given.get("tuned") else []
    return " ".join(words)


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
