"""Text from files and users, made safe for a terminal, for a file system and for a spreadsheet."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from dissect.errors import UsageError

if TYPE_CHECKING:
    import pandas as pd

LONGEST_NAME = 100  # characters
NAME = re.compile(rf"[A-Za-z0-9_][A-Za-z0-9._-]{{0,{LONGEST_NAME - 1}}}")
# Control characters, line ends, changes of direction, surrogates: none belongs in a name from a record.
STEERS = r"\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff"  # within [ ] of a pattern
FORMULA = ("=", "+", "-", "@", "\t", "\r")  # how a formula begins for a spreadsheet


def shown(value: object) -> str:
    """A value of a file on one line: characters that could steer a terminal, also newlines, become escapes."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in str(value))


def shown_lines(text: str) -> str:
    """The same for a message of several lines, which are kept."""
    return "\n".join(map(shown, text.split("\n")))


def check_name(name: str, kind: str) -> None:
    """Raises UsageError if `kind` ("A data set", "A group") cannot have this name: it is that of its folder too."""
    if not NAME.fullmatch(name):
        raise UsageError(
            f"{kind} cannot be named {name[:LONGEST_NAME]!r}.",
            f"A name has letters (A to Z), digits and . _ -, at most {LONGEST_NAME} in all, and begins with neither "
            ". nor -.",
        )


def as_name(text: str) -> str:
    """A text, such as that of a file's name, made a name that `check_name` takes."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip(".-")[:LONGEST_NAME] or "_"


def decimal(value: float, digits: int = 3, sign: str = "") -> str:
    """A number with so many decimals and a true minus; zero has no sign. `sign` "+" writes a plus too."""
    text = f"{value:{sign}.{digits}f}"
    return text.lstrip("+-") if float(text) == 0 else text.replace("-", "−")


def percent(share: float, digits: int | None = None, sign: str = "") -> str:
    """A share in percent: with one decimal below 10 %, unless `digits` says how many; zero has no sign.

    `sign` "+" writes a plus too.
    """
    value = 100 * share
    digits = int(abs(value) < 9.95) if digits is None else digits
    return f"{decimal(value, digits, sign)} %"


def as_options(given: Mapping[str, Any], **usual: Any) -> list[str]:
    """Arguments as a command takes them, such as --dim 8, without the `usual` ones; those in a list each."""
    words = []
    for name, value in given.items():
        values, name = (value, name.removesuffix("s")) if isinstance(value, list | tuple) else ([value], name)
        for each in values if value not in (None, False, usual.get(name)) else ():
            words += [f"--{name.replace('_', '-')}"]
            words += [] if each is True else [f"{each:.15g}" if isinstance(each, float) else str(each)]
    return words


def in_time(seconds: float) -> str:
    """Seconds, in the unit that suits them."""
    minutes = seconds / 60
    return f"{seconds:.0f} s" if seconds < 100 else f"{minutes:.0f} min" if minutes < 100 else f"{minutes / 60:.1f} h"


def plural(number: int, noun: str) -> str:
    """1 session, 2,000 sessions; a noun in -x or -s takes -es."""
    many = f"{noun}{'es' if noun[-1] in 'xs' else 's'}"
    return f"{number:,} {noun if number == 1 else many}"


def trials_of(made: int, asked: int) -> str:
    """12 trials; 3 of 12 trials, of a tuning that goes on or was stopped."""
    return f"{made} of {asked} trials" if made < asked else plural(made, "trial")


def shortest_ends(names: Sequence[str]) -> dict[str, str]:
    """Of each dotted name the fewest last parts that no other one has and that are more than a number.

    Of blocks.0.key and blocks.1.key 0.key; of query.0 and query.1 the whole names.
    """

    def ends(name: str) -> list[str]:
        parts = name.split(".")
        return [".".join(parts[-n:]) for n in range(1, len(parts) + 1)]

    taken = Counter(end for name in names for end in ends(name))
    return {name: next((end for end in ends(name) if taken[end] == 1 and not end.isdigit()), name) for name in names}


def without_formulas(table: pd.DataFrame) -> pd.DataFrame:
    """A table for a CSV file without formulas for a spreadsheet: a text that would be one gets a ' before it.

    Numbers stay as they are, also those that are written as text.
    """
    texts = table.select_dtypes(exclude=["number", "bool"])
    safe = {str(name): column.map(without_formula) for name, column in texts.items()}
    return table.assign(**safe).rename(columns=without_formula)


def without_formula(value: Any) -> Any:
    """The same for one cell."""
    is_formula = isinstance(value, str) and value.startswith(FORMULA) and not _is_number(value)
    return f"'{value}" if is_formula else value


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return text.isprintable()  # float takes a tab before the digits, too
