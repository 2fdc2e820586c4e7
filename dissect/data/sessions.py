"""Sessions as flat arrays.

A data set of C clicks in S sessions is two arrays: the items one after the other, and the offsets at which
sessions begin. A training example is a prefix (session, length) whose target is the click that follows;
prefixes are index pairs and never lists (models/batch.py makes batches of them).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, fields
from functools import cached_property
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Sessions:
    """S sessions in time order, with C clicks in all.

    Parameters
    ----------
    items : int32 [C]
        Numbered from 1 (0 pads).
    offsets : int64 [S + 1]
        Session s is items[offsets[s]:offsets[s + 1]].
    times : int64 [S], optional
        End of each session in Unix seconds.
    users : int64 [S], optional
        The user of each session.
    click_times : int64 [C], optional
        Unix seconds of each click.
    """

    items: np.ndarray
    offsets: np.ndarray
    times: np.ndarray | None = None
    users: np.ndarray | None = None
    click_times: np.ndarray | None = None

    @classmethod
    def from_lists(cls, sessions: Iterable[Sequence[int]]) -> Sessions:
        """The `sessions` as arrays: each is a list of item numbers from 1 on."""
        lists = list(sessions)
        offsets = np.zeros(len(lists) + 1, np.int64)
        np.cumsum([len(s) for s in lists], out=offsets[1:])
        items = np.fromiter((i for s in lists for i in s), np.int32, count=int(offsets[-1]))
        return cls(items, offsets)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, session: int) -> np.ndarray:
        return self.items[self.offsets[session] : self.offsets[session + 1]]

    @property
    def lengths(self) -> np.ndarray:
        """Clicks per session, int64 [S]."""
        return np.diff(self.offsets)

    @property
    def n_clicks(self) -> int:
        """Clicks in all, C."""
        return int(self.offsets[-1] - self.offsets[0])

    @property
    def n_prefixes(self) -> int:
        """Prefixes with a target: a session of k clicks has k - 1."""
        return self.n_clicks - len(self)

    def part(self, start: int, stop: int) -> Sessions:
        """Sessions start..stop - 1, as views of the same items."""
        lo, hi = int(self.offsets[start]), int(self.offsets[stop])

        def cut(values: np.ndarray | None, a: int, b: int) -> np.ndarray | None:
            return None if values is None else values[a:b]

        return Sessions(
            self.items[lo:hi],
            self.offsets[start : stop + 1] - lo,
            cut(self.times, start, stop),
            cut(self.users, start, stop),
            cut(self.click_times, lo, hi),
        )


def require_sound(sessions: Sessions, n_items: int) -> None:
    """Raises ValueError, with the array and the place, if arrays are not as `Sessions` says."""
    arrays = {field.name: getattr(sessions, field.name) for field in fields(Sessions)}
    for name, values in arrays.items():
        kind = np.dtype(np.int32 if name == "items" else np.int64)
        if values is not None and (values.dtype != kind or values.ndim != 1):
            raise ValueError(f"{name} should be {kind} of 1 dimension, not {values.dtype} of {values.ndim}")
    items, offsets = sessions.items, sessions.offsets
    if len(offsets) < 2 or offsets[0] != 0 or offsets[-1] != len(items):
        raise ValueError(f"offsets should lead from 0 to the {len(items):,} items, over one session or more")
    if not (rises := offsets[1:] > offsets[:-1]).all():  # a difference could overflow
        raise ValueError(f"offsets should rise, and do not after session {int(rises.argmin()):,}")
    if items.min() < 1 or items.max() > n_items:
        place = int(np.flatnonzero((items < 1) | (items > n_items))[0])
        raise ValueError(f"items should be 1 to {n_items:,}, and click {place:,} is {items[place]}")
    for name, length in {"times": len(sessions), "users": len(sessions), "click_times": len(items)}.items():
        if arrays[name] is not None and len(arrays[name]) != length:
            raise ValueError(f"{name} should be {length:,} numbers, not {len(arrays[name]):,}")


@dataclass(frozen=True)
class Dataset:
    """A train / test split over items 1..n_items, with the record of where it came from.

    Parameters
    ----------
    name : str
        Groups are named after it.
    n_items : int
        V, the number of items.
    train, test : Sessions
        The two parts.
    provenance : dict
        Where it came from and how it was made.
    identifiers : sequence [n_items], optional
        The source's names of the items, item i at i - 1, "" if never clicked; None if they are these numbers.
    """

    name: str
    n_items: int
    train: Sessions
    test: Sessions
    provenance: dict[str, Any] = field(default_factory=dict)
    identifiers: Sequence[int | str] | None = None

    def __repr__(self) -> str:
        parts = {"train": self.train, "test": self.test}
        counts = [f"{part} {len(of):,} sessions = {of.n_prefixes:,} prefixes" for part, of in parts.items()]
        return f"Dataset({self.name!r}: {self.n_items:,} items; {'; '.join(counts)})"

    @cached_property
    def split_hash(self) -> str:
        """16 hex digits of SHA-256 over the items and offsets of both parts: comparisons key on it, not on names.

        Raises TypeError for other types than those of `Sessions`: a cast could change the numbers.
        """
        digest = hashlib.sha256(str(self.n_items).encode())
        for part in (self.train, self.test):
            for values, kind in ((part.offsets, "<i8"), (part.items, "<i4")):
                same = values.astype(kind, casting="equiv", copy=False)
                digest.update(np.ascontiguousarray(same).data)  # read where they lie, not copied
        return digest.hexdigest()[:16]


def times_hash(sessions: Sessions) -> str | None:
    """16 hex digits of SHA-256 over the times of the sessions; None without times."""
    return None if sessions.times is None else hashlib.sha256(sessions.times.astype("<i8").tobytes()).hexdigest()[:16]


def prefix_index(sessions: Sessions) -> tuple[np.ndarray, np.ndarray]:
    """(session int32 [P], length int32 [P]) of every prefix that has a target: session order, shortest first."""
    per_session = sessions.lengths - 1
    session = np.repeat(np.arange(len(sessions), dtype=np.int32), per_session)
    first = np.repeat(np.cumsum(per_session) - per_session, per_session)
    length = (np.arange(len(session)) - first + 1).astype(np.int32)
    return session, length


def split_validation(train: Sessions, fraction: float) -> tuple[Sessions, Sessions]:
    """(the rest, the last `fraction` of the sessions in time). Raises ValueError unless 0 <= fraction < 1."""
    if not 0 <= fraction < 1:
        raise ValueError(f"The validation fraction must be at least 0 and below 1, not {fraction}.")
    cut = len(train) - round(len(train) * fraction)
    return train.part(0, cut), train.part(cut, len(train))
