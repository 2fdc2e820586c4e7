"""The field's exchange files, read without trusting them.

srgnn  pickles of lists: whole sessions, or (prefixes, targets); items from 1
lessr  text: one session a line, items from 0 and separated by commas

A file that is not what it should be is a DataError that names the file and the place.
"""

from __future__ import annotations

import hashlib
import io
import pickle
from collections.abc import Callable, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from dissect.data.sessions import Dataset, Sessions
from dissect.errors import DataError, UsageError

INT32 = np.iinfo(np.int32).max


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


def flatten(path: Path, sessions: Any, lowest: int) -> Sessions:
    """Sessions from a list of lists of whole numbers of at least `lowest`, as they stand.

    Raises DataError with the first session and click that is none.
    """
    if not isinstance(sessions, list | tuple) or not sessions:
        raise DataError(f"{path} should hold a list of sessions, and holds {_kind(sessions)}.")
    for number, session in enumerate(sessions):
        if not isinstance(session, list | tuple):
            raise DataError(f"{path}, session {number}, should be a list of items, and is {_kind(session)}.")
    lengths = np.fromiter(map(len, sessions), np.int64, len(sessions))
    flat = list(chain.from_iterable(sessions))
    # bool is an int to Python, so the types are compared and not asked.
    if any(t is not int for t in set(map(type, flat))):
        place = next(i for i, value in enumerate(flat) if type(value) is not int)
        raise DataError(f"{path}, {_place(lengths, place)}, is {flat[place]!r}: items are whole numbers.")
    low, high = (min(flat), max(flat)) if flat else (lowest, lowest)
    if low < lowest or high > INT32:
        place = next(i for i, value in enumerate(flat) if not lowest <= value <= INT32)
        raise DataError(f"{path}, {_place(lengths, place)}, is {flat[place]}: items run from {lowest} to {INT32}.")
    return Sessions(np.array(flat, np.int32), np.concatenate([[0], np.cumsum(lengths)]))


def _kind(value: Any) -> str:
    return "nothing" if value is None or value == [] else f"a {type(value).__name__}"


def _place(lengths: np.ndarray, click: int) -> str:
    ends = np.cumsum(lengths)
    session = int(np.searchsorted(ends, click, side="right"))
    return f"session {session}, click {click - int(ends[session] - lengths[session])}"


def read_srgnn(path: Path) -> Sessions:
    """Sessions of an SR-GNN pickle: a list of whole sessions, or (prefixes, targets), from which they are rebuilt.

    Raises DataError for anything else.
    """
    content = read_pickle(path)
    if isinstance(content, list | tuple) and len(content) == 2 and _is_lists(content[0]) and not _is_lists(content[1]):
        return rebuild(path, content[0], content[1])
    return flatten(path, content, 1)


def _is_lists(value: Any) -> bool:
    return isinstance(value, list | tuple) and bool(value) and isinstance(value[0], list | tuple)


def rebuild(path: Path, prefixes: Sequence[Any], targets: Sequence[Any]) -> Sessions:
    """Whole sessions from all their prefixes with targets, longest first or shortest first.

    Raises DataError at the first prefix that does not continue, or begin, a session.
    """
    if len(prefixes) != len(targets):
        raise DataError(f"{path} has {len(prefixes)} prefixes and {len(targets)} targets.")
    heads = flatten(path, prefixes, 1)
    tails = flatten(path, [[target] for target in targets], 1)
    lengths = heads.lengths
    if (lengths == 0).any():
        raise DataError(f"{path}, prefix {int((lengths == 0).argmax())}, is empty.")
    problems = []
    for longest_first in (True, False):
        try:
            return _rebuild(path, prefixes, targets, heads, tails, longest_first)
        except DataError as error:
            problems.append(error)
    raise problems[0] if lengths[0] > 1 else problems[1]


def _rebuild(
    path: Path,
    prefixes: Sequence[Any],
    targets: Sequence[Any],
    heads: Sessions,
    tails: Sessions,
    longest_first: bool,
) -> Sessions:
    """`rebuild` for one of the two orders: a session of k clicks is prefixes of k - 1 to 1 clicks, or of 1 to k - 1."""
    lengths = heads.lengths
    step = lengths[::-1] if longest_first else lengths  # now every session counts 1, 2, 3, ...
    starts = np.flatnonzero(step == 1)
    wrong = np.flatnonzero((np.diff(step) != 1) & (step[1:] != 1))
    if step[0] != 1 or len(wrong):
        at = int(wrong[0]) + 1 if step[0] == 1 else 0
        raise _no_prefix(path, len(step) - 1 - at if longest_first else at)
    # The longest prefix of each session with its target is the session; every other one must be its beginning.
    last = np.append(starts[1:], len(step)) - 1  # in the order of `step`
    index = len(step) - 1 - last[::-1] if longest_first else last
    sessions = Sessions.from_lists([[*prefixes[i], targets[i]] for i in index.tolist()])
    owner = np.repeat(np.arange(len(index)), sessions.lengths - 1)  # session of each prefix, in file order
    inside = np.repeat(sessions.offsets[owner], lengths)  # where the clicks of each prefix should stand
    position = np.arange(heads.n_clicks) - np.repeat(heads.offsets[:-1], lengths)
    same = sessions.items[inside + position] == heads.items
    same_target = sessions.items[sessions.offsets[owner] + lengths] == tails.items
    if not (same.all() and same_target.all()):
        by_click = np.flatnonzero(~same)
        bad = [int(np.searchsorted(heads.offsets, by_click[0], side="right")) - 1] if len(by_click) else []
        bad += [int(np.flatnonzero(~same_target)[0])] if not same_target.all() else []
        raise _no_prefix(path, min(bad))
    return sessions


def _no_prefix(path: Path, number: int) -> DataError:
    return DataError(
        f"{path}, prefix {number}, is no prefix of the session beside it.",
        "The file should list all prefixes of each session, longest first or shortest first.",
    )


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


READERS: dict[str, Callable[[Path], Sessions]] = {"srgnn": read_srgnn, "lessr": read_lessr}


def import_files(name: str, format: str, train: Path, test: Path, recent: float = 1.0) -> Dataset:
    """A data set from a train and a test file; `recent` keeps the last share of the training sessions in time.

    Single-click sessions are dropped and counted. With `recent` below 1, items that the kept sessions do not
    have are dropped from the test sessions and the rest renumbered, as SR-GNN does with Yoochoose 1/64.
    Raises DataError where a file is not what it should be, or test repeats train.
    """
    if not 0 < recent <= 1:
        raise UsageError(f"--recent is a share of the training sessions, above 0 and at most 1, not {recent}.")
    parts, sources, dropped = {}, {}, {}
    for part, path in (("train", train), ("test", test)):
        sessions = READERS[format](path)
        parts[part], dropped[part] = drop_single_clicks(sessions)
        sources[part] = {"file": path.name, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
        if not len(parts[part]):
            raise DataError(f"{path} has no session of two clicks or more.")
    if sources["train"]["sha256"] == sources["test"]["sha256"] or _same(parts["train"], parts["test"]):
        raise DataError(f"{test} repeats {train}: a test file holds other sessions.")
    n_items = int(max(parts["train"].items.max(), parts["test"].items.max()))
    provenance: dict[str, Any] = {"format": format, **sources, "dropped_single_clicks": dropped}
    if recent < 1:
        n_items, parts["train"], parts["test"] = keep_recent(parts["train"], parts["test"], recent)
        provenance["recent"] = recent
    return Dataset(name, n_items, parts["train"], parts["test"], provenance)


def _same(a: Sessions, b: Sessions) -> bool:
    return np.array_equal(a.offsets, b.offsets) and np.array_equal(a.items, b.items)


def drop_single_clicks(sessions: Sessions) -> tuple[Sessions, int]:
    """Sessions of two clicks or more, and how many were dropped."""
    return keep_clicks(sessions, np.ones(len(sessions.items), bool))


def keep_clicks(sessions: Sessions, keep: np.ndarray) -> tuple[Sessions, int]:
    """The clicks chosen by `keep` (bool [C]) in the sessions that have two or more of them, and how many had not."""
    owner = np.repeat(np.arange(len(sessions)), sessions.lengths)
    left = np.bincount(owner[keep], minlength=len(sessions))
    keep = keep & (left >= 2)[owner]
    left = left[left >= 2]
    kept = Sessions(np.ascontiguousarray(sessions.items[keep]), np.concatenate([[0], np.cumsum(left)]).astype(np.int64))
    return kept, len(sessions) - len(left)


def keep_recent(train: Sessions, test: Sessions, share: float) -> tuple[int, Sessions, Sessions]:
    """(items, train, test) of the last `share` of the training sessions; items renumbered by first appearance."""
    train = train.part(len(train) - max(1, round(len(train) * share)), len(train))
    items, first = np.unique(train.items, return_index=True)
    number = np.zeros(int(max(train.items.max(), test.items.max())) + 1, np.int32)
    number[items[np.argsort(first)]] = np.arange(1, len(items) + 1)
    test, _ = keep_clicks(test, number[test.items] > 0)
    return (
        len(items),
        Sessions(number[train.items], train.offsets),
        Sessions(number[test.items], test.offsets),
    )
