"""What a trained model recommends after sessions, which are read as a user writes them."""

from __future__ import annotations

import csv
import difflib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from dissect.data.sessions import Dataset
from dissect.data.translate import number_by_name
from dissect.errors import DataError, UsageError
from dissect.experiment.opened import trained_model
from dissect.experiment.train import Say
from dissect.training.rebuild import Recorded
from dissect.training.recommend import Recommended, recommend

QUOTED = "As in sku-881,sku-17, with quotes around what has a comma or begins with a space: '\"a, b\",c'."
NEAR_AMONG = 100_000  # identifiers, the first so many: more would take seconds


def recommended(
    record: Recorded,
    sessions: Sequence[Sequence[int]],
    data: Callable[[], Dataset],
    identifiers: Sequence[int | str] | None = None,
    *,
    k: int = 20,
    unseen: bool = False,
    model: str | type | None = None,
    device: str = "auto",
) -> Iterator[list[dict[str, Any]]]:
    """For each session of item numbers, rows of rank, item, identifier where there are any, score and probability."""
    found, _, where = trained_model(record, data, max(map(len, sessions)), model, device)
    for answer in recommend(found, sessions, record.n_items, where, k, unseen, record.config.longest):
        yield rows_of(answer, identifiers)


def rows_of(answer: Sequence[Recommended], identifiers: Sequence[int | str] | None) -> list[dict[str, Any]]:
    """What was recommended after one session as rows of a table."""
    return [
        {
            "rank": rank,
            "item": each.item,
            **({"identifier": identifiers[each.item - 1]} if identifiers else {}),
            "score": each.score,
            "probability": each.probability,
        }
        for rank, each in enumerate(answer, 1)
    ]


def read(
    session: str | None,
    file: str | Path | None,
    n_items: int,
    identifiers: list[int | str] | None,
    by_identifier: bool,
    say: Say,
) -> dict[int, list[int]]:
    """The sessions of a file by the number of their line, or the one session, as number 1."""
    if file is not None:
        sessions, says = read_sessions(Path(file), n_items, identifiers, by_identifier)
        if says:
            say(says)
        return sessions
    text = str(session)
    return {1: read_identified(text, identifiers) if by_identifier else read_session(text, n_items, bool(identifiers))}


def read_session(text: str, n_items: int, named: bool = False) -> list[int]:
    """Item numbers from "12,7,99". Raises UsageError for an empty session, a gap, or an item that there is not.

    `named` items could be asked for by their identifiers too, and the error says so.
    """
    words = text.replace(",", " ").split()
    if not words:
        raise UsageError("The session is empty.", "Give its items in the order of the clicks: --session 12,7,99")
    if not all(part.strip() for part in text.split(",")):
        raise UsageError(
            f"The session {text} has a gap: no item stands beside a comma.", f"--session {','.join(words)}?"
        )
    session = []
    for word in words:
        if not (word.isascii() and word.isdigit() and 1 <= int(word) <= n_items):
            hint = f"The items of this run are numbered from 1 to {n_items}."
            raise UsageError(f"There is no item {word!r}.", hint + " By what they are called: --identifiers" * named)
        session.append(int(word))
    return session


def read_identified(text: str, identifiers: list[int | str] | None) -> list[int]:
    """Item numbers from "sku-881,sku-17", what the log or the files call the items; quotes around one with a comma.

    Raises UsageError for an empty session, a gap, what no item is called, or a data set without such identifiers.
    """
    number = _number_of(identifiers)
    words = _split(text)
    for word in words:
        if word not in number:
            near = difflib.get_close_matches(word, list(number)[:NEAR_AMONG], n=3)
            raise UsageError(f"No item is called {word!r}.", f"Did you mean {' or '.join(near)}?" if near else QUOTED)
    return [number[word] for word in words]


def read_sessions(
    path: Path, n_items: int, identifiers: list[int | str] | None, by_identifier: bool
) -> tuple[dict[int, list[int]], str]:
    """(the session of each line of a file, what to say about clicks that were left out).

    By identifier, a session keeps its clicks on items that the model knows; one that has none is left out. Raises
    DataError, with the line, where a line is not a session.
    """
    try:
        lines = path.read_text("utf-8-sig").rstrip("\n").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read: {error}.", "It should be UTF-8 text, a session a line.") from error
    number = _number_of(identifiers) if by_identifier else {}
    sessions: dict[int, list[int]] = {}
    unknown: list[tuple[int, str]] = []
    for place, line in enumerate(lines, 1):
        try:
            if not by_identifier:
                sessions[place] = read_session(line, n_items, bool(identifiers))
                continue
            words = _split(line)
        except UsageError as error:
            raise DataError(f"{path}, line {place}: {error.message}", error.hint) from error
        unknown += [(place, word) for word in words if word not in number]
        if known := [number[word] for word in words if word in number]:
            sessions[place] = known
    if not sessions:
        raise DataError(f"{path} has no session with an item that the model knows.", "Are they of the same shop?")
    if not unknown:
        return sessions, ""
    place, word = unknown[0]
    without = len(lines) - len(sessions)
    return sessions, (
        f"Clicks left out because the model does not know the item: {len(unknown):,} "
        f"(the first: {word!r} in line {place}). Sessions left out because it knows no item of them: {without:,}."
    )


def _number_of(identifiers: list[int | str] | None) -> dict[str, int]:
    if identifiers is None:
        raise UsageError(
            "The run knows its items by their numbers only: there is no items.json in its group.",
            "Leave --identifiers out.",
        )
    return number_by_name(identifiers, "The run's data set")


def _split(text: str) -> list[str]:
    """The identifiers of a session. Raises UsageError for an empty one, a gap, or quotes that are not closed."""
    try:
        words = next(csv.reader([text], skipinitialspace=True, strict=True), [])
    except csv.Error as error:
        raise UsageError(f"The session {text!r} cannot be read: {error}.", QUOTED) from error
    if not all(words) or not words:
        raise UsageError(f"The session {text!r} is empty, or has a gap.", QUOTED)
    return words
