"""Sessions cut, joined and looked at click by click."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import numpy as np

from dissect.data.sessions import Sessions


def session_of_clicks(sessions: Sessions) -> np.ndarray:
    """The session of each click, from 0, int64 [C]."""
    return np.repeat(np.arange(len(sessions)), sessions.lengths)


def are_targets(sessions: Sessions) -> np.ndarray:
    """Which clicks are the target of a prefix, bool [C]: all but the first of each session."""
    found = np.ones(sessions.n_clicks, bool)
    found[sessions.offsets[:-1] - sessions.offsets[0]] = False
    return found


def joined(first: Sessions, then: Sessions) -> Sessions:
    """The sessions of both, one after the other; times and users where both have them."""
    arrays: dict[str, Any] = {}
    for name in (field.name for field in fields(Sessions)):
        a, b = getattr(first, name), getattr(then, name)
        if name == "offsets":
            b = first.offsets[-1] + then.offsets[1:]
        arrays[name] = None if a is None or b is None else np.concatenate([a, b])
    return Sessions(**arrays)


def keep_clicks(sessions: Sessions, keep: np.ndarray) -> tuple[Sessions, int]:
    """The clicks chosen by `keep` (bool [C]) in sessions that keep two or more, and the number of other sessions."""
    owner = session_of_clicks(sessions)
    left = np.bincount(owner[keep], minlength=len(sessions))
    stay = left >= 2
    clicks = keep & stay[owner]
    chosen = {"items": clicks, "click_times": clicks, "times": stay, "users": stay}
    arrays: dict[str, Any] = {name: getattr(sessions, name) for name in chosen}
    arrays = {name: values if values is None else values[chosen[name]] for name, values in arrays.items()}
    return Sessions(offsets=np.append(0, np.cumsum(left[stay])), **arrays), int((~stay).sum())
