"""Read records that may be damaged: a bad run or group stops only itself."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeVar

from dissect.errors import DataError
from dissect.runs.folders import leave_out

Given = TypeVar("Given")
Read = TypeVar("Read")


def each_sound(given: Iterable[Given], read: Callable[[Given], Read], required: bool = True) -> list[Read]:
    """`read` of each. Damaged ones are skipped with a warning.

    Raises DataError if all are damaged, unless `required` is False.
    """
    found, damaged = [], []
    for each in given:
        try:
            found.append(read(each))
        except DataError as error:
            damaged.append(error)
    leave_out(damaged, is_all=required and not found)
    return found
