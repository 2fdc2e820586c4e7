"""Errors that a user can act on, each with the exit code that the command line returns."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path

SHOWN = 24  # names in a message, at most


class DissectError(Exception):
    """Something went wrong in a way that the message explains (exit code 1).

    `message` says what was given and what would be right, `hint` names the command that mends it.
    """

    exit_code = 1

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class UsageError(DissectError):
    """A name or a value that does not exist or does not fit (exit code 2)."""

    exit_code = 2


class BusyError(UsageError):
    """Another process holds what this one wants to write (exit code 2)."""


class FinishedError(UsageError):
    """Nothing is left to train: `group` is the folder that has it all (exit code 2)."""

    def __init__(self, message: str, hint: str, group: Path) -> None:
        super().__init__(message, hint)
        self.group = group


class DataError(DissectError):
    """Data that is missing or not as expected (exit code 3)."""

    exit_code = 3


class DataBusyError(DataError):
    """Another process is bringing the same data (exit code 3)."""


class DivergedError(DissectError):
    """The loss became NaN or infinite (exit code 4)."""

    exit_code = 4


class ModelError(DissectError):
    """A user's own model raised an error in training (exit code 1)."""


def why(error: BaseException) -> object:
    """What the system says about an error, without its number and without the path that a message has anyway."""
    if isinstance(error, json.JSONDecodeError):
        return f"it is not JSON from line {error.lineno}, column {error.colno} on"
    return getattr(error, "strerror", None) or error


def in_short(names: Sequence[str], most: int = SHOWN) -> str:
    """A list of names on one line; of more than `most` + 1 the first ones, and how many there are beside them."""
    apart = "; " if any("," in name for name in names) else ", "
    shown = names if len(names) <= most + 1 else names[:most]  # "and 1 more" is no shorter than the name
    return apart.join(shown) + (f" and {len(names) - len(shown)} more" if len(shown) < len(names) else "")


def unknown(kind: str, given: object, valid: Iterable[str]) -> UsageError:
    """A UsageError for a name that is not among `valid`, with the nearest names as the hint."""
    names = sorted(valid)
    near = difflib.get_close_matches(str(given), names, n=3, cutoff=0.5)
    known = f"Known: {in_short(names) or 'none'}."
    hint = f"Did you mean {' or '.join(near)}?" if near else known
    return UsageError(f"There is no {kind} named {given!r}.", hint)
