"""Times of clicks as milliseconds since 1970, and how columns write them.

A clock is `iso`, a unit of UNITS since 1970, or a pattern such as `%d/%m/%Y %H:%M` for Python's strptime.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime

import numpy as np
import pandas as pd

from dissect.errors import UsageError

NO_TIME = np.iinfo(np.int64).min
EARLIEST = 631_152_000_000  # the year 1990, in milliseconds: nobody clicked before
LAST = 4_102_444_800_000  # the year 2100
UNITS = {"seconds": 1e3, "milliseconds": 1.0, "microseconds": 1e-3, "nanoseconds": 1e-6}
UNIT_FROM = {"nanoseconds": 1e17, "microseconds": 1e14, "milliseconds": 1e11}  # in other units far from 1990 to 2100
DIGITS = {8: "%Y%m%d", 12: "%Y%m%d%H%M", 14: "%Y%m%d%H%M%S"}  # of as many digits
LOOKED_AT = 10_000  # values of a column
HINT = (
    "Times are ISO 8601 (2014-04-07, 2014-04-07T10:51:09.277Z, 2014-04-07 10:51:09 UTC), 20140407, 20140407105109, or "
    "seconds, milliseconds, microseconds or nanoseconds since 1970. `dissect data prepare` accepts other formats "
    "with --time-format, such as '%d/%m/%Y %H:%M', and --time-format seconds if times do not count from 1970."
)


def guess(values: pd.Series, since: int = 0) -> str:
    """The clock of a column, by most of its first values; "" if they are numbers before `since` in every unit."""
    some = values.dropna().iloc[:LOOKED_AT]
    if isinstance(some.dtype, pd.DatetimeTZDtype):
        return "iso"
    numbers = pd.to_numeric(some, errors="coerce").replace([np.inf, -np.inf], np.nan).dropna()
    if not len(some) or len(numbers) * 2 < len(some):
        return "iso"
    text = _text(some)
    for digits, form in DIGITS.items():
        if 2 * (text.str.len() == digits).sum() > len(some):
            _, wrong = to_milliseconds(text, form, EARLIEST)
            if 2 * wrong.sum() < len(some):
                return form
    middle = float(numbers.median())
    unit = next((unit for unit, least in UNIT_FROM.items() if middle >= least), "seconds")
    return unit if since <= middle * UNITS[unit] else ""


def to_milliseconds(values: pd.Series, clock: str, since: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """(milliseconds int64 [N] or NO_TIME; which values are not a time between `since` and the year 2100)."""
    empty = values.isna().to_numpy()
    if clock in UNITS and not isinstance(values.dtype, pd.DatetimeTZDtype):
        numbers = pd.to_numeric(values, errors="coerce").to_numpy(np.float64, na_value=np.nan) * UNITS[clock]
        good = (numbers >= since) & (numbers <= LAST)
        found = np.where(good, numbers, 0).round().astype(np.int64)
    else:
        found = _stamps(values, clock).dt.as_unit("ms").to_numpy(np.int64, na_value=NO_TIME)
        good = (found >= since) & (found <= LAST)
    found[~good] = NO_TIME
    return found, ~good & ~empty


def _stamps(values: pd.Series, clock: str) -> pd.Series:
    """Timestamps in UTC from text, NaT if the text is not a time. Days without a year get 1972, a leap year."""
    if isinstance(values.dtype, pd.DatetimeTZDtype):
        return values
    text = _text(values)
    if clock != "iso":
        if not any(sign in clock for sign in ("%Y", "%y", "%c", "%x", "%G")):
            text, clock = "1972 " + text, "%Y " + clock
        return pd.to_datetime(text, format=clock, utc=True, errors="coerce")
    stamps = pd.to_datetime(text, format="ISO8601", utc=True, errors="coerce")
    left = stamps.isna() & text.notna()
    if left.any():
        bare = text[left].str.replace(r"^(\d.*) (UTC|GMT)$", r"\1", regex=True)
        stamps[left] = pd.to_datetime(bare, format="ISO8601", utc=True, errors="coerce")
    stamps[text.isin(["now", "today"])] = pd.NaT  # which pandas takes for times
    return stamps


def _text(values: pd.Series) -> pd.Series:
    """Times as text, missing ones missing; whole numbers as such."""
    if values.dtype == object:
        return values
    text = values.astype(str)
    if pd.api.types.is_numeric_dtype(values.dtype) and not pd.api.types.is_bool_dtype(values.dtype):
        whole = (values.mod(1).eq(0) & values.abs().lt(2.0**63)).fillna(False).astype(bool)
        text = text.where(~whole, values.where(whole, 0).astype("int64").astype(str))
    return text.astype(object).where(values.notna(), None)


def check_format(name: str) -> str:
    """`--time-format` as a clock. Raises UsageError for a format that cannot be used."""
    try:
        day = datetime(2014, 4, 17, 10, 51, 9, tzinfo=UTC)
        if name in ("iso", *UNITS) or ("%" in name and time.strptime(day.strftime(name), name)):
            return name
    except ValueError:
        pass
    forms = f"Use iso, {', '.join(UNITS)}, or a pattern such as '%d/%m/%Y %H:%M'."
    raise UsageError(f"--time-format {name!r} is not a time format.", forms)


def described(clock: str, since: int = 0) -> str:
    """A clock in words."""
    words = "ISO 8601" if clock == "iso" else f"{clock} since 1970" if clock in UNITS else f"the form {clock}"
    return words + (f", from {datetime.fromtimestamp(since / 1000, UTC).year} to 2100" if since else "")
