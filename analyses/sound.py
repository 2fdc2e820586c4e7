"""Reading what may be damaged: one bad run or group stops nothing but itself."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeVar

from dissect.errors import DataError
from dissect.runs.folders import leave_out

Given = TypeVar("Given")
Read = TypeVar("Read")


def each_sound(given: Iterable[Given], read: Callable[[Given], Read], required: bool = True) -> list[Read]:
    """What `read` makes of each. What is damaged is left out, and said.

    Raises DataError where all is damaged, unless it is not `required`.
    """
    found, damaged = [], []
    for each in given:
        try:
            found.append(read(each))
        except DataError as error:
            damaged.append(error)
    leave_out(damaged, is_all=required and not found)
    return found
