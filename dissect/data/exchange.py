"""Exchange files that are tables of clicks or of prefixes: RecBole's atomic files, GRU4Rec's tsv, parquet.

recbole  NAME.train.inter, NAME.valid.inter, NAME.test.inter: typed headers; either a click a line, or a prefix a
         line (item_id_list) with its target (item_id)
gru4rec  SessionId, ItemId, Time: a click a line
parquet  session, item, and time and user if known: a click a row, in order

An identifier is the text in the file: 0123 and 123 are two items. If all are plain whole numbers from 1 on without too
many gaps, they are the item numbers too.

If tables of clicks have times, clicks are sorted by time and sessions by their end; else the order of the file is kept.
Files of `dissect data export` are recognised by the record beside them (EXPORTED) and come back exactly as they were,
with the identifiers in the record. Without these the numbers in an export are our own and do not name the items
(OF_EXPORT).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from dissect.data.archive import sha256
from dissect.data.log import MISSING, WHOLE, LogFormat, Source, heads, read_log
from dissect.data.prefixes import INT32, rebuild
from dissect.data.preprocess import order_sessions, part_users, sort_clicks, to_sessions
from dissect.data.sessions import Sessions
from dissect.errors import DataError

EXPORTED = "dissect.json"  # beside exported files: what they are, and their SHA-256
TIMES = ("clicks", "ends", "none")  # what its `times` may say

# Where the identifiers of a data set come from (`items` of its provenance).
AS_IN_FILES = "as in the files"
BY_APPEARANCE = "numbered by first appearance"
BY_RECORD = "named by the record of an export"
OF_EXPORT = "numbers of an export"

SPARSE = 10  # ids up to this many times the number of items are kept as they are

TABLES = {
    "gru4rec": LogFormat(
        separator="",
        columns=heads("session:SessionId,session_id,session item:ItemId,item_id,item time:Time,timestamp,time"),
        options=(),
    ),
    "parquet": LogFormat(
        separator=",",
        columns=heads(
            "session:session,SessionId,session_id item:item,ItemId,item_id time:time,Time,timestamp "
            "user:user,UserId,user_id,visitor_id,visitorid"
        ),
        optional=("time", "user"),
        options=(),
    ),
    "recbole": LogFormat(
        separator="",
        columns=heads(
            "session:session_id,sessionid,user_id,userid,visitor_id,visitorid item:item_id,itemid history:item_id_list "
            "time:timestamp user:user_id,userid,visitor_id,visitorid"
        ),
        typed=True,
        optional=("history", "time", "user"),
        options=(),
    ),
}


@dataclass
class Read:
    """The sessions of each file, the number of items if known, and the facts for the provenance.

    identifiers  the names of items 1, 2, ... in the files; None if these are the numbers
    hashes       the SHA-256 of each file, if they are known already
    """

    parts: list[Sessions]
    n_items: int | None = None
    notes: dict[str, Any] = field(default_factory=dict)
    identifiers: Sequence[int | str] | None = None
    hashes: Sequence[str] = ()


def exported(paths: Sequence[Path]) -> dict[str, Any] | None:
    """The record of `dissect data export` beside the first file, if it is of these very files.

    Raises DataError if the record itself is damaged.
    """
    path = paths[0].parent / EXPORTED
    try:
        content = path.read_bytes()
        found = {file.name: sha256(file) for file in paths}
    except OSError:
        return None
    try:
        record = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise _damaged(path, "cannot be read as JSON") from error
    if not isinstance(record, dict) or not isinstance(record.get("files"), dict):
        raise _damaged(path, "has no `files`")
    if not found.items() <= record["files"].items():
        return None
    if type(record.get("n_items")) is not int or not 1 <= record["n_items"] <= INT32:
        raise _damaged(path, "has no `n_items` that is a whole number from 1 on")
    if record.get("times") not in TIMES:
        raise _damaged(path, f"has no `times` that is one of {', '.join(TIMES)}")
    names = record.get("identifiers")
    if names is not None and not (
        isinstance(names, list) and len(names) == record["n_items"] and all(isinstance(name, str) for name in names)
    ):
        raise _damaged(path, f"has no `identifiers` that are a text for each of {record['n_items']:,} items")
    return record


def recorded_files(folder: Path) -> list[str]:
    """The files that the record of an export names; none if there is no such record."""
    try:
        record = json.loads((folder / EXPORTED).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return []
    files = record.get("files") if isinstance(record, dict) and "split_hash" in record else None
    return list(files) if isinstance(files, dict) else []


def named(record: dict[str, Any] | None) -> tuple[list[str] | None, dict[str, Any]]:
    """(identifiers, their entries in the provenance) from the record of an export."""
    names = record.get("identifiers") if record else None
    return names, {} if names is None else {"items": BY_RECORD}


def _damaged(path: Path, what: str) -> DataError:
    return DataError(
        f"{path}, the record of `dissect data export`, {what}.",
        "Export again, or delete the record to import the files without their item names.",
    )


def read_tables(paths: Sequence[Path], format: LogFormat) -> Read:
    """The sessions of train, further training and test files. Raises DataError if one is not what it should be."""
    record = exported(paths)
    sources = [read_log(path, format) for path in paths]
    histories = [_histories(source) for source in sources]
    found = dict.fromkeys(word for pair in zip(sources, histories) for word in _items_in_order(*pair))
    kept = _are_numbers(found, sparse=record is not None)
    place = {text: int(text) if kept else number for number, text in enumerate(found, 1)}
    users = _number_users(sources)
    parts = []
    for path, source, history in zip(paths, sources, histories):
        table = source.table.assign(item=_translate(source, "item", place))
        if history is not None:
            lists = [[place[word] for word in words] for words in history]
            prefixes = [lists[code] for code in table["history"].tolist()]
            parts.append(rebuild(path, prefixes, table["item"].tolist()))
            continue
        if "user" in table:
            table = part_users(table)
            table["user"] = _translate(source, "user", users)
        parts.append(_from_clicks(table, record))
    identifiers, notes = named(record) if kept else (list(found), {"items": BY_APPEARANCE})
    if not notes:  # a changed file of an export still has our numbers
        ours = record is not None or any(path.name in recorded_files(path.parent) for path in paths)
        notes = {"items": OF_EXPORT if ours else AS_IN_FILES}
    clocks = {source.record["times"]: None for source in sources if "times" in source.record}
    if clocks and record is None and any(part.times is not None for part in parts):
        notes["times"] = " and ".join(clocks)
    hashes = [source.record["sha256"] for source in sources]
    return Read(parts, record["n_items"] if record else None, notes, identifiers, hashes)


def _histories(source: Source) -> list[list[str]] | None:
    """The words of each distinct item_id_list, None if the table has a click a row."""
    if "history" not in source.table:
        return None
    return [[word for word in text.split(" ") if word] for text in source.labels["history"].tolist()]


def _items_in_order(source: Source, history: list[list[str]] | None) -> Iterator[str]:
    """The identifiers of a file in the order in which they first appear: those of lists, then those of items."""
    if history is not None:
        for row in pd.unique(source.table["history"].to_numpy()).tolist():
            yield from history[row]
    yield from source.labels["item"][pd.unique(source.table["item"].to_numpy())].tolist()


def _are_numbers(found: dict[str, None], sparse: bool) -> bool:
    """Whether identifiers are the numbers of the items: whole numbers from 1 on, without many gaps unless `sparse`."""
    if not all(map(WHOLE.fullmatch, found)):
        return False
    numbers = list(map(int, found))
    return min(numbers) >= 1 and max(numbers) <= (INT32 if sparse else min(INT32, SPARSE * len(numbers)))


def _number_users(sources: Sequence[Source]) -> dict[str, int]:
    """The users of all files, by number: their identifiers where those are whole numbers, else by appearance."""
    found = dict.fromkeys(text for source in sources for text in source.labels.get("user", np.zeros(0)).tolist())
    are_numbers = all(map(WHOLE.fullmatch, found))
    return {text: int(text) if are_numbers else number for number, text in enumerate(found)}


def _translate(source: Source, role: str, place: dict[str, int]) -> np.ndarray:
    """The column of a table in numbers that all files share, int64 [N]; MISSING where there is none."""
    numbers = np.array([*(place[text] for text in source.labels[role].tolist()), MISSING], np.int64)
    return numbers[source.table[role].to_numpy()]  # MISSING is the last


def _from_clicks(table: pd.DataFrame, record: dict[str, Any] | None) -> Sessions:
    """Sessions of a table with a click a row: by time, or in file order if there is none or an export wrote them."""
    clicks = table.assign(session=pd.factorize(table["session"].to_numpy())[0])
    has_time = "time" in clicks
    if record is None and has_time and not (np.diff(clicks["time"].to_numpy()) == 1000).all():  # not a mere count
        clicks = sort_clicks(clicks, ["session", "time"])
        return to_sessions(order_sessions(clicks, clicks[:0], "time")[0])
    timing = record["times"] if record else "none"
    sessions = to_sessions(sort_clicks(clicks if record and has_time else clicks.assign(time=0), ["session"]))
    return replace(
        sessions,
        times=None if timing == "none" else sessions.times,
        click_times=sessions.click_times if timing == "clicks" else None,
    )
