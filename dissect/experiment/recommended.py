"""What a trained model recommends after sessions, which are read as a user writes them."""

from __future__ import annotations

import csv
import difflib
import reprlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from dissect.data.sessions import Dataset
from dissect.data.translate import number_by_name
from dissect.errors import DataError, UsageError, why
from dissect.experiment.opened import trained_model
from dissect.experiment.plan import Say
from dissect.training.rebuild import Recorded
from dissect.training.recommend import Recommended, recommend
from dissect.usual import LISTED

QUOTED = "Write sku-881,sku-17, with quotes around a name with a comma or a leading space: '\"a, b\",c'."
NEAR_AMONG = 100_000  # identifiers: to compare with more would take seconds


def recommended(
    record: Recorded,
    sessions: Sequence[Sequence[int]],
    data: Callable[[], Dataset],
    identifiers: Sequence[int | str] | None = None,
    *,
    k: int = LISTED,
    unseen: bool = False,
    model: str | type | None = None,
    device: str = "auto",
) -> Iterator[list[dict[str, Any]]]:
    """For each session of item numbers, rows of rank, item, identifier (if there are any), score and probability."""
    found, _, where = trained_model(record, data, max(map(len, sessions)), model, device)
    for answer in recommend(found, sessions, record.n_items, where, k, unseen, record.config.longest):
        yield rows_of(answer, identifiers)


def rows_of(answer: Sequence[Recommended], identifiers: Sequence[int | str] | None) -> list[dict[str, Any]]:
    """What was recommended after one session as rows of a table."""
    rows = []
    for rank, each in enumerate(answer, 1):
        named = {"identifier": identifiers[each.item - 1]} if identifiers else {}
        rows.append({"rank": rank, "item": each.item, **named, "score": each.score, "probability": each.probability})
    return rows


def read_session(
    text: str, n_items: int, identifiers: list[int | str] | None = None, by_identifier: bool = False
) -> list[int]:
    """Item numbers from "12,7,99", or from "sku-881,sku-17": the names in the log or the files, by identifier.

    Raises UsageError for an empty session, an empty place, an unknown item, or a data set without identifiers.
    """
    if by_identifier:
        number, words = _number_of(identifiers), _split(text)
        for word in words:
            if word not in number:
                near = difflib.get_close_matches(word, list(number)[:NEAR_AMONG], n=3)
                hint = f"Did you mean {' or '.join(near)}?" if near else QUOTED
                raise UsageError(f"There is no item named {word!r}.", hint)
        return [number[word] for word in words]
    words = text.replace(",", " ").split()
    if not words:
        raise UsageError("The session is empty.", "Give its items in the order of the clicks: --session 12,7,99")
    if not all(part.strip() for part in text.split(",")):
        raise UsageError(
            f"The session {text} has an empty place: an item is missing before or after a comma.",
            f"--session {','.join(words)}?",
        )
    for word in words:
        is_number = word.isascii() and word.isdigit() and len(word) < 20  # Python refuses to read thousands of digits
        if not (is_number and 1 <= int(word) <= n_items):
            hint = f"The items of this run are numbered from 1 to {n_items}."
            hint += " To use names: --identifiers" * bool(identifiers)
            raise UsageError(f"There is no item {reprlib.repr(word)}.", hint)
    return list(map(int, words))


def read_sessions(
    path: Path, n_items: int, identifiers: list[int | str] | None, by_identifier: bool, say: Say
) -> dict[int, list[int]]:
    """The sessions of a file by the number of their line; empty lines are skipped.

    By identifier, a session keeps its clicks on items that the model knows; one that has none is left out, and both are
    counted. Raises DataError, with the line, if a line is not a session.
    """
    try:
        lines = path.read_text("utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"{path} cannot be read: {why(error)}.", "It should be UTF-8 text, a session a line."
        ) from error
    filled = {place: line for place, line in enumerate(lines, 1) if line.strip()}
    if not filled:
        raise DataError(f"{path}: the file is empty.", "A line is a session, such as 12,7,99.")
    number = _number_of(identifiers) if by_identifier else {}
    sessions: dict[int, list[int]] = {}
    unknown: list[tuple[int, str]] = []
    for place, line in filled.items():
        try:
            words = _split(line) if by_identifier else []
            known = [number[word] for word in words if word in number]
            known = known if by_identifier else read_session(line, n_items, identifiers)
        except UsageError as error:
            raise DataError(f"{path}, line {place}: {error.message}", error.hint) from error
        unknown += [(place, word) for word in words if word not in number]
        if known:
            sessions[place] = known
    if not sessions:
        raise DataError(f"{path} has no session with an item that the model knows.", "Are they of the same shop?")
    if unknown:
        place, word = unknown[0]
        say(
            f"Clicks left out because the model does not know the item: {len(unknown):,} (the first: {word!r} in line "
            f"{place}). Sessions left out because it knows no item of them: {len(filled) - len(sessions):,}."
        )
    return sessions


def _number_of(identifiers: list[int | str] | None) -> dict[str, int]:
    if identifiers is None:
        raise UsageError(
            "The run knows its items by their numbers only: there is no items.json in its group.",
            "Leave --identifiers out.",
        )
    return number_by_name(identifiers, "The run's data set")


def _split(text: str) -> list[str]:
    """The identifiers of a session. Raises UsageError if it is empty, has an empty place or quotes not closed."""
    try:
        words = next(csv.reader([text], skipinitialspace=True, strict=True), [])
    except csv.Error as error:
        raise UsageError(f"The session {text!r} cannot be read: {why(error)}.", QUOTED) from error
    if not all(words) or not words:
        raise UsageError(f"The session {text!r} is empty, or has an empty place.", QUOTED)
    return words
