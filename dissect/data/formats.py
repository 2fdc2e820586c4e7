"""The field's exchange files, read without trusting them.

srgnn  pickles of lists: whole sessions, or (prefixes, targets); items from 1
lessr  text: one session a line, items from 0 and separated by commas; num_items.txt beside it where it is there

Tables of clicks (recbole, gru4rec, parquet) are read by dissect/data/exchange.py. A file that is not what it should
be is a DataError that names the file and the place.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from dissect.data.archive import sha256
from dissect.data.exchange import TABLES, Read, exported, read_tables
from dissect.data.prefixes import INT32, flatten, rebuild
from dissect.data.sessions import Dataset, Sessions
from dissect.errors import DataError, UsageError

LOWEST_ID = {"lessr": 0}  # in the file; elsewhere 1
MANY, FAR_APART = 1_000_000, 100  # a catalogue of more numbers, and so many times the items in use, is a mistake


class _DataOnly(pickle.Unpickler):
    """Reads lists, tuples, numbers and strings; any reference to code is refused before it is loaded."""

    def find_class(self, module: str, name: str) -> Any:
        raise pickle.UnpicklingError(f"it refers to {module}.{name}; session files hold lists of numbers only")


def read_pickle(path: Path) -> Any:
    """The plain data in a pickle. Raises DataError for a file that is missing, empty, cut off or refers to code."""
    content = _bytes(path)
    try:
        return _DataOnly(io.BytesIO(content)).load()
    except (
        pickle.UnpicklingError,
        EOFError,
        ValueError,
        IndexError,
        KeyError,
        TypeError,
        AttributeError,
        OverflowError,
        MemoryError,
    ) as error:
        raise DataError(
            f"{path} is not a pickle of sessions, or is cut off: {error or type(error).__name__}."
        ) from error


def _bytes(path: Path) -> bytes:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}.") from error
    if not content:
        raise DataError(f"{path} is empty.")
    return content


def _sessions(path: Path, content: Any) -> Sessions:
    """A list of whole sessions, or (prefixes, targets), from which they are rebuilt. Raises DataError for others."""
    return rebuild(path, *content) if _is_prefixes(content) else flatten(path, content, 1)


def _is_prefixes(content: Any) -> bool:
    is_pair = isinstance(content, list | tuple) and len(content) == 2
    return is_pair and _is_lists(content[0]) and not _is_lists(content[1])


def _is_lists(value: Any) -> bool:
    return isinstance(value, list | tuple) and bool(value) and isinstance(value[0], list | tuple)


def read_lessr(path: Path) -> Sessions:
    """Sessions of a LESSR text file, renumbered from 1. Raises DataError with the line that is none."""
    lines = _bytes(path).decode("utf-8", "replace").splitlines()
    sessions: list[list[int]] = []
    for number, line in enumerate(lines, 1):
        try:
            sessions.append([int(text) for text in line.split(",")])
        except ValueError:
            raise DataError(
                f"{path}, line {number}, is {line[:60]!r}: items are whole numbers with commas between."
            ) from None
    flat = flatten(path, sessions, 0)
    if flat.items.max() == INT32:
        raise DataError(f"{path} has the item {INT32}, which leaves no number for it when counting from 1.")
    return Sessions(flat.items + np.int32(1), flat.offsets)


def _srgnn(paths: Sequence[Path]) -> Read:
    """Raises DataError for prefixes to train on and whole sessions to test on: the field's files, swapped."""
    contents = [read_pickle(path) for path in paths]
    parts = list(map(_sessions, paths, contents))
    if _is_prefixes(contents[0]) and not _is_prefixes(contents[-1]):
        raise DataError(
            f"{paths[0]} holds prefixes and {paths[-1]} whole sessions: as the field writes them, the first is a test "
            "file and the second all_train_seq.txt.",
            f"The training file comes first: {paths[-1]} {paths[0]}",
        )
    return Read(parts, *_exported_items(paths))


def _lessr(paths: Sequence[Path]) -> Read:
    count = paths[0].parent / "num_items.txt"
    if not count.exists():
        return Read([read_lessr(path) for path in paths])
    try:
        n_items = int(_bytes(count))
    except ValueError:
        raise DataError(f"{count} should hold one whole number.") from None
    return Read([read_lessr(path) for path in paths], n_items)


def _exported_items(paths: Sequence[Path]) -> tuple[int | None]:
    record = exported(paths)
    return (record["n_items"] if record else None,)


READERS: dict[str, Callable[[Sequence[Path]], Read]] = {
    "srgnn": _srgnn,
    "lessr": _lessr,
    **{name: partial(read_tables, format=format) for name, format in TABLES.items()},
}


def import_files(
    name: str,
    format: str,
    train: Path,
    test: Path,
    recent: float = 1.0,
    valid: Path | None = None,
    n_items: int | None = None,
) -> Dataset:
    """A data set from a train and a test file; `recent` keeps the last share of the training sessions in time.

    Sessions of a `valid` file follow those of the train file: validation is cut off again when a model is trained.
    `n_items` is the size of the catalogue where it is more than the largest number that is clicked.
    Single-click sessions are dropped and counted. With `recent` below 1, items that the kept sessions do not
    have are dropped from the test sessions and the rest renumbered, as SR-GNN does with Yoochoose 1/64.
    Raises DataError where a file is not what it should be, or test repeats train.
    """
    if not 0 < recent <= 1:
        raise UsageError(f"--recent is a share of the training sessions, above 0 and at most 1, not {recent}.")
    files = {"train": train, **({"valid": valid} if valid else {}), "test": test}
    read = READERS[format](list(files.values()))
    parts, dropped = {}, {}
    for (part, path), sessions in zip(files.items(), read.parts):
        parts[part], dropped[part] = drop_single_clicks(sessions)
        if not len(parts[part]):
            raise DataError(f"{path} has no session of two clicks or more.")
    sources = {part: {"file": path.name, "sha256": sha256(path)} for part, path in files.items()}
    for part in list(files)[:-1]:
        if sources[part]["sha256"] == sources["test"]["sha256"] or _same(parts[part], parts["test"]):
            raise DataError(f"{test} repeats {files[part]}: a test file holds other sessions.")
    if valid:
        parts["train"] = joined(parts["train"], parts.pop("valid"))
    largest = int(max(parts["train"].items.max(), parts["test"].items.max()))
    known = n_items or read.n_items or largest
    lowest = LOWEST_ID.get(format, 1)
    if known < largest:
        raise DataError(
            f"{train} and {test} have the item {largest - 1 + lowest}, but of {known} items the last is "
            f"{known - 1 + lowest}."
        )
    in_train = np.unique(parts["train"].items)
    if n_items is None and known > max(MANY, FAR_APART * len(in_train)):
        raise DataError(
            f"{train} and {test} number {len(in_train):,} items up to {known - 1 + lowest:,}: a model would have a row "
            "for every number.",
            f"Number them without gaps, or insist on it: --items {known}",
        )
    if not np.isin(_targets(parts["test"]), in_train).any():
        raise DataError(
            f"No session of {test} goes on to an item that {train} has: there is nothing to predict.",
            "Are both files of the same split, with the same numbers for items?",
        )
    provenance: dict[str, Any] = {"format": format, **sources, "dropped_single_clicks": dropped, **read.notes}
    identifiers = read.identifiers
    if identifiers is not None:  # of clicked items only, and of some that were dropped since
        identifiers = [*identifiers[:known], *[""] * (known - len(identifiers))]
    elif lowest != 1:
        identifiers = range(lowest, known + lowest)
    if recent < 1:
        kept, parts["train"], parts["test"], lost = keep_recent(parts["train"], parts["test"], recent)
        provenance |= {"recent": recent, "dropped_unseen": lost}
        identifiers = [identifiers[item - 1] if identifiers else item for item in kept.tolist()]
        known = len(kept)
    return Dataset(name, known, parts["train"], parts["test"], provenance, identifiers)


def _targets(sessions: Sessions) -> np.ndarray:
    """All clicks but the first of each session."""
    is_target = np.ones(len(sessions.items), bool)
    is_target[sessions.offsets[:-1] - sessions.offsets[0]] = False
    return sessions.items[is_target]


def _same(a: Sessions, b: Sessions) -> bool:
    return np.array_equal(a.offsets, b.offsets) and np.array_equal(a.items, b.items)


def joined(first: Sessions, then: Sessions) -> Sessions:
    """The sessions of both, one after the other; times and users where both have them."""

    def both(name: str) -> np.ndarray | None:
        a, b = getattr(first, name), getattr(then, name)
        return None if a is None or b is None else np.concatenate([a, b])

    return Sessions(
        np.concatenate([first.items, then.items]),
        np.concatenate([first.offsets, first.offsets[-1] + then.offsets[1:]]),
        both("times"),
        both("users"),
        both("click_times"),
    )


def drop_single_clicks(sessions: Sessions) -> tuple[Sessions, int]:
    """Sessions of two clicks or more, and how many were dropped."""
    return keep_clicks(sessions, np.ones(len(sessions.items), bool))


def keep_clicks(sessions: Sessions, keep: np.ndarray) -> tuple[Sessions, int]:
    """The clicks chosen by `keep` (bool [C]) in the sessions that have two or more of them, and how many had not."""
    owner = np.repeat(np.arange(len(sessions)), sessions.lengths)
    left = np.bincount(owner[keep], minlength=len(sessions))
    stay = left >= 2
    keep = keep & stay[owner]

    def some(values: np.ndarray | None, chosen: np.ndarray) -> np.ndarray | None:
        return None if values is None else np.ascontiguousarray(values[chosen])

    kept = Sessions(
        np.ascontiguousarray(sessions.items[keep]),
        np.concatenate([[0], np.cumsum(left[stay])]).astype(np.int64),
        some(sessions.times, stay),
        some(sessions.users, stay),
        some(sessions.click_times, keep),
    )
    return kept, len(sessions) - len(kept)


def keep_recent(train: Sessions, test: Sessions, share: float) -> tuple[np.ndarray, Sessions, Sessions, dict[str, int]]:
    """(items kept, train, test, what test lost) of the last `share` of the training sessions.

    Items are renumbered from 1 by first appearance, the order in which they are returned; those that training lost are
    dropped from test.
    """
    train = train.part(len(train) - max(1, round(len(train) * share)), len(train))
    items, first = np.unique(train.items, return_index=True)
    number = np.zeros(int(max(train.items.max(), test.items.max())) + 1, np.int32)
    items = items[np.argsort(first)]
    number[items] = np.arange(1, len(items) + 1)
    known = number[test.items] > 0
    left, sessions_lost = keep_clicks(test, known)
    if not len(left):
        raise DataError(f"With the last {share:g} of the training sessions no test session is left.")
    return (
        items,
        replace(train, items=number[train.items]),
        replace(left, items=number[left.items]),
        {"clicks": int((~known).sum()), "sessions": sessions_lost},
    )
