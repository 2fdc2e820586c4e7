"""Lists of item numbers as sessions, and whole sessions from lists of their prefixes."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from dissect.data.sessions import Sessions
from dissect.errors import DataError

INT32 = np.iinfo(np.int32).max


def flatten(path: Path, sessions: Any, lowest: int) -> Sessions:
    """Sessions from a list of lists of whole numbers of at least `lowest`, which becomes item 1.

    Raises DataError with the first session and click that is not one.
    """
    if not isinstance(sessions, list | tuple) or not sessions:
        raise DataError(f"{path} should hold a list of sessions, and holds {said(sessions)}.")
    for number, session in enumerate(sessions):
        if not isinstance(session, list | tuple):
            raise DataError(f"{path}, session {number}, should be a list of items, and is {said(session)}.")
    lengths = np.fromiter(map(len, sessions), np.int64, len(sessions))
    flat = list(chain.from_iterable(sessions))
    # bool is a subclass of int, so the types must be equal.
    if any(t is not int for t in set(map(type, flat))):
        place = next(i for i, value in enumerate(flat) if type(value) is not int)
        raise DataError(f"{path}, {_place(lengths, place)}, is {said(flat[place])}: items are whole numbers.")
    low, high, highest = (min(flat), max(flat), INT32 - 1 + lowest) if flat else (lowest, lowest, lowest)
    if low < lowest or high > highest:
        place = next(i for i, value in enumerate(flat) if not lowest <= value <= highest)
        raise DataError(
            f"{path}, {_place(lengths, place)}, is {flat[place]}: items run from {lowest} to {highest}.",
            "If the files count items from 0: --first-id 0" if flat[place] == 0 else "",
        )
    items = (np.array(flat, np.int64) - (lowest - 1)).astype(np.int32)
    return Sessions(items, np.concatenate([[0], np.cumsum(lengths)]))


def said(value: Any) -> str:
    """A value from a file for a message; only short ones are shown."""
    if value is None or value == [] or value == ():
        return "nothing"
    return repr(value) if isinstance(value, int | float | str) else f"a {type(value).__name__}"


def _place(lengths: np.ndarray, click: int) -> str:
    ends = np.cumsum(lengths)
    session = int(np.searchsorted(ends, click, side="right"))
    return f"session {session}, click {click - int(ends[session] - lengths[session])}"


def rebuild(path: Path, prefixes: Sequence[Any], targets: Any, lowest: int = 1) -> Sessions:
    """Whole sessions from all their prefixes with targets, longest first or shortest first; items as in `flatten`.

    Raises DataError at the first prefix that does not continue, or begin, a session.
    """
    if not isinstance(targets, list | tuple):
        raise DataError(f"{path} should hold (prefixes, targets), two lists, and the second is {said(targets)}.")
    if len(prefixes) != len(targets):
        raise DataError(f"{path} has {len(prefixes)} prefixes and {len(targets)} targets.")
    heads = flatten(path, prefixes, lowest)
    tails = flatten(path, list(zip(targets)), lowest)
    lengths = heads.lengths
    if (lengths == 0).any():
        raise DataError(f"{path}, prefix {int((lengths == 0).argmax())}, is empty.")
    problems = []
    for longest_first in (True, False):
        try:
            return _rebuild(path, heads, tails, longest_first)
        except DataError as error:
            problems.append(error)
    raise problems[0] if lengths[0] > 1 else problems[1]


def _rebuild(path: Path, heads: Sessions, tails: Sessions, longest_first: bool) -> Sessions:
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
    clicks = heads.items[np.repeat(np.isin(np.arange(len(heads)), index), lengths)]
    items = np.insert(clicks, np.cumsum(lengths[index]), tails.items[index])
    sessions = Sessions(items, np.concatenate([[0], np.cumsum(lengths[index] + 1)]))
    owner = np.repeat(np.arange(len(index)), sessions.lengths - 1)  # session of each prefix, in file order
    inside = np.repeat(sessions.offsets[owner], lengths)  # where the clicks of each prefix should stand
    position = np.arange(heads.n_clicks) - np.repeat(heads.offsets[:-1], lengths)
    same = sessions.items[inside + position] == heads.items
    same_target = sessions.items[sessions.offsets[owner] + lengths] == tails.items
    if not (same.all() and same_target.all()):
        wrong_click = np.repeat(np.arange(len(heads)), lengths)[~same]  # the prefix of each
        raise _no_prefix(path, min(*wrong_click[:1].tolist(), *np.flatnonzero(~same_target)[:1].tolist(), len(heads)))
    return sessions


def _no_prefix(path: Path, number: int) -> DataError:
    return DataError(
        f"{path}, prefix {number}, is no prefix of the session beside it.",
        "The file should list all prefixes of each session, longest first or shortest first.",
    )
