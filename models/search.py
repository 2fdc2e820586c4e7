"""The space that `dissect tune` explores, as plain data: a range or choices for each option of a model.

A model names its own options in `search` (models/base.py). What a training adds is here: TRAINED for every model with
gradients, SPARSE for one that is trained with SparseVD. The width is no part of a space: models are compared at one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

When = tuple[tuple[str, Any], ...]


@dataclass(frozen=True)
class Float:
    """Numbers from `low` to `high`: in steps of `step`, or on a log scale.

    when  as (option, value) pairs: it counts only for a model in which one of the options has that value; () always
    """

    low: float
    high: float
    log: bool = False
    step: float | None = None
    when: When = ()

    def holds(self, value: Any) -> bool:
        return isinstance(value, (int, float)) and not isinstance(value, bool) and self.low <= value <= self.high

    def with_value(self, value: Any) -> Float:
        """The same space, made wide enough for a number."""
        return replace(self, low=min(self.low, value), high=max(self.high, value))

    def __str__(self) -> str:
        how = ", log scale" if self.log else f", steps of {self.step:g}" if self.step else ""
        return f"{self.low:g} to {self.high:g}{how}"


@dataclass(frozen=True)
class Int:
    """Whole numbers from `low` to `high`, both included; `when` as in `Float`."""

    low: int
    high: int
    log: bool = False
    when: When = ()

    def holds(self, value: Any) -> bool:
        return isinstance(value, int) and not isinstance(value, bool) and self.low <= value <= self.high

    def with_value(self, value: Any) -> Int:
        """The same space, made wide enough for a number."""
        return replace(self, low=min(self.low, int(value)), high=max(self.high, int(value)))

    def __str__(self) -> str:
        return f"{self.low} to {self.high}{', log scale' if self.log else ''}"


@dataclass(frozen=True)
class Choice:
    """One of some values: numbers, texts, truth values, or None if that is the default; `when` as in `Float`."""

    values: tuple[Any, ...]
    when: When = ()

    def holds(self, value: Any) -> bool:
        return any(type(value) is type(each) and value == each for each in self.values)

    def with_value(self, value: Any) -> Choice:
        """The same space with one more value, unless it is there."""
        return self if self.holds(value) else replace(self, values=(*self.values, value))

    def __str__(self) -> str:
        return ", ".join("none" if value is None else str(value) for value in self.values)


Space = Float | Int | Choice


def only_with(spaces: Mapping[str, Space], *when: tuple[str, Any]) -> dict[str, Space]:
    """The spaces, for models in which one of the options has its value."""
    return {name: replace(space, when=when) for name, space in spaces.items()}


DROPOUT = Float(0.0, 0.7, step=0.05)
SCALE = Float(6.0, 24.0, log=True)  # sigma of scores that are cosines: a temperature, which rates and widths shift
# The learning rate has the range of the Atten-Mixer paper (section 5.1), which tunes no L2. Batches are not tuned: all
# trials of a model make equally many steps in an epoch, so that they can be compared epoch by epoch.
TRAINED: Mapping[str, Space] = MappingProxyType(
    {"lr": Float(5e-4, 2e-2, log=True), "l2": Choice((0.0, 1e-6, 1e-5, 1e-4))}
)
# `dissect run` has 4, at which few useless weights stay. What is best for accuracy is another question, so the space
# begins far below 1, the published weight.
SPARSE: Mapping[str, Space] = MappingProxyType({"kl_weight": Float(0.25, 8.0, log=True)})
