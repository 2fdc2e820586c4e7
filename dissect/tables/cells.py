"""Numbers in the cells of tables: each kind is written in one way."""

from __future__ import annotations

from functools import partial
from typing import Any

import pandas as pd

from dissect.runs.records import LISTED
from dissect.text import decimal, in_time

SHORT = 16  # letters of a setting in a cell: the beginning of a hash will do


def number(value: float | None, digits: int = 2, sign: str = "") -> str:
    """With a true minus, and no sign before a zero; nothing if there is none. `sign` "+" writes a plus too."""
    if value is None or pd.isna(value):
        return ""
    return decimal(value, digits, sign).replace("inf", "∞")


share, signed = partial(number, digits=3), partial(number, sign="+")


def count(value: float) -> str:
    """A count, or a mean with two digits."""
    return f"{value:,.0f}" if value == int(value) else f"{value:,.2f}"


def p_value(p: float, at_most: bool = False) -> str:
    """Three digits; `at_most` if the number of resamples sets the limit."""
    digits = 4 if p > 0.05 and f"{p:.3f}" == "0.050" else 3  # 0.0504 is not below the usual limit
    return "<0.001" if p < 0.001 else ("≤" if at_most and p < 1 else "") + f"{p:.{digits}f}"


def seconds(value: float) -> str:
    """Rounded, without the unit; nothing if there are none."""
    return "" if pd.isna(value) else f"{value:,.0f}" if value >= 10 else f"{value:.2g}"


def time(value: float | None) -> str:
    """Seconds, in the unit that suits them; nothing if there are none."""
    return "" if value is None or pd.isna(value) else in_time(value)


def setting(value: Any) -> str:
    """A setting; nothing if a row has no such setting."""
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "none"}[value]
    if isinstance(value, float):
        return "" if pd.isna(value) else f"{value:g}"
    return str(value)[:SHORT]


def as_option(value: Any) -> str:
    """A value as --option takes it."""
    return str(value).lower() if value is None or isinstance(value, bool) else str(value)


def metric_in_words(metric: str) -> str:
    """HR@20, or Coverage@20."""
    return metric.capitalize() if metric in LISTED else metric.upper()


def over(seeds: int) -> str:
    """The number of seeds behind a table, in words."""
    return "one seed" if seeds == 1 else f"mean of {seeds} seeds"
