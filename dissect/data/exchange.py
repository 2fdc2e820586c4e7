"""Exchange files that are tables of clicks or of prefixes: RecBole's atomic files, GRU4Rec's tsv, parquet.

recbole  NAME.train.inter, NAME.valid.inter, NAME.test.inter: typed headers; either a click a line, or a prefix a
         line (item_id_list) with its target (item_id)
gru4rec  SessionId, ItemId, Time: a click a line
parquet  session, item, and time and user where they are known: a click a row, in order

Where tables of clicks come with times, clicks and sessions are put in their order (a session is where it ends), else
the order of the file is taken. Files that `dissect data export` wrote are recognised by the record beside them
(EXPORTED), and come back exactly as they were.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from dissect.data.archive import sha256
from dissect.data.log import LogFormat, Source, read_log
from dissect.data.prefixes import rebuild
from dissect.data.preprocess import order_sessions, sort_clicks, to_sessions
from dissect.data.sessions import Sessions

EXPORTED = "dissect.json"  # beside exported files: what they are, and their SHA-256

INT32 = np.iinfo(np.int32).max
SPARSE = 10  # ids up to this many times the number of items are kept as they are

GRU4REC = LogFormat(
    separator="\t",
    columns={
        "session": ("SessionId", "session_id", "session"),
        "item": ("ItemId", "item_id", "item"),
        "time": ("Time", "timestamp", "time"),
    },
)
PARQUET = LogFormat(
    separator=",",
    columns={
        "session": ("session", "SessionId", "session_id"),
        "item": ("item", "ItemId", "item_id"),
        "time": ("time", "Time", "timestamp"),
        "user": ("user", "UserId", "user_id"),
    },
    optional=("time", "user"),
)
RECBOLE = LogFormat(
    separator="\t",
    typed=True,
    columns={
        "session": ("session_id", "user_id"),
        "item": ("item_id",),
        "history": ("item_id_list",),
        "time": ("timestamp",),
    },
    clock="seconds",
    optional=("history", "time"),
)
TABLES = {"recbole": RECBOLE, "gru4rec": GRU4REC, "parquet": PARQUET}


@dataclass
class Read:
    """What was read: the sessions of each file, the number of items where it is known, and what goes on record.

    identifiers  what the files call items 1, 2, ...; None where that is their numbers
    """

    parts: list[Sessions]
    n_items: int | None = None
    notes: dict[str, Any] = field(default_factory=dict)
    identifiers: Sequence[int | str] | None = None


def exported(paths: Sequence[Path]) -> dict[str, Any] | None:
    """The record of `dissect data export` beside the first file, if it is of these very files."""
    try:
        record = json.loads((paths[0].parent / EXPORTED).read_text())
        known = record["files"]
        same = all(known.get(path.name) == sha256(path) for path in paths)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return record if same else None


def read_tables(paths: Sequence[Path], format: LogFormat) -> Read:
    """The sessions of train, further training and test files. Raises DataError where one is not what it should be."""
    record = exported(paths)
    sources = [read_log(path, format) for path in paths]
    histories = [_histories(source) for source in sources]
    known, kept = _number_items(sources, histories, keep=record is not None)
    users = _number_users(sources)
    parts = []
    for path, source, history in zip(paths, sources, histories):
        labels = source.labels["item"]
        texts = labels if known.dtype == np.int64 else labels.astype(str).astype(object)
        numbers = known.get_indexer(pd.Index(texts, dtype=known.dtype)).astype(np.int64)
        numbers = known.to_numpy()[numbers].astype(np.int64) if kept else numbers + 1
        items = numbers[source.table["item"].to_numpy()]
        if history is None:
            table = source.table.assign(item=items.astype(np.int32))
            if "user" in table:
                table["user"] = users.get_indexer(pd.Index(source.labels["user"], dtype=users.dtype))[
                    table["user"].to_numpy()
                ]
            parts.append(_from_clicks(table, record))
            continue
        place = {key: int(key) if kept else number for number, key in enumerate(known.tolist(), 1)}
        lists = [[place[word] for word in words] for words in history]
        parts.append(rebuild(path, [lists[code] for code in source.table["history"].tolist()], items.tolist()))
    notes = {"items": "as in the files" if kept else "numbered by first appearance"}
    return Read(parts, record["n_items"] if record else None, notes, None if kept else known.tolist())


def _histories(source: Source) -> list[list[str]] | None:
    """The words of each distinct item_id_list, None where the table has a click a row."""
    if "history" not in source.table:
        return None
    return [str(text).split() for text in source.labels["history"].tolist()]


def _number_items(
    sources: Sequence[Source], histories: Sequence[list[list[str]] | None], keep: bool
) -> tuple[pd.Index, bool]:
    """(identifiers in the order of their numbers, whether the identifiers are the numbers).

    They are where they are whole numbers from 1 on without too many gaps, or `keep` says so; else items are numbered
    from 1 in the order in which they appear in the files. Identifiers are text where the table has histories.
    """
    ordered: list[Any] = []
    for source, history in zip(sources, histories):
        labels = source.labels["item"][pd.unique(source.table["item"].to_numpy())]
        if history is None:
            ordered.append(labels)
        else:
            rows = pd.unique(source.table["history"].to_numpy())
            words = dict.fromkeys(word for row in rows.tolist() for word in history[row])
            ordered.append(np.array([*words, *labels.astype(str)], object))
    if any(labels.dtype == object for labels in ordered):
        ordered = [labels.astype(str).astype(object) for labels in ordered]
    joined = np.concatenate(ordered)
    known = pd.Index(pd.unique(joined), dtype=joined.dtype)
    try:
        numbers = known.to_numpy().astype(np.int64)
    except (ValueError, OverflowError):
        return known, False
    low, high = int(numbers.min()), int(numbers.max())
    plain = known.dtype == np.int64 or list(map(str, numbers.tolist())) == known.tolist()
    return known, plain and low >= 1 and high <= INT32 and (keep or high <= SPARSE * len(known))


def _number_users(sources: Sequence[Source]) -> pd.Index:
    """The users of all files, by number: their identifiers where those are whole numbers, else by appearance."""
    found = [source.labels["user"] for source in sources if "user" in source.labels]
    joined = np.concatenate(found) if found else np.zeros(0, object)
    known = pd.Index(pd.unique(joined), dtype=joined.dtype)
    if known.dtype == np.int64 and len(known) and known.min() >= 0:
        return pd.RangeIndex(known.max() + 1)
    return known


def _from_clicks(table: pd.DataFrame, record: dict[str, Any] | None) -> Sessions:
    """Sessions of a table with a click a row."""
    clicks = table.assign(session=pd.factorize(table["session"].to_numpy())[0])
    timed = "time" in clicks and not (np.diff(clicks["time"].to_numpy()) == 1000).all()  # a mere count is no time
    if record is not None:  # as it was written: the order, and times of clicks, of ends, or none
        sessions = to_sessions(sort_clicks(clicks if "time" in clicks else clicks.assign(time=0), ["session"]))
        timing = record["times"]
        return Sessions(
            sessions.items,
            sessions.offsets,
            None if timing == "none" else sessions.times,
            sessions.users,
            sessions.click_times if timing == "clicks" else None,
        )
    if timed:
        clicks = sort_clicks(clicks, ["session", "time"])
        return to_sessions(order_sessions(clicks, clicks[:0], "time")[0])
    sessions = to_sessions(sort_clicks(clicks.assign(time=0), ["session"]))
    return Sessions(sessions.items, sessions.offsets, None, sessions.users, None)
