"""Raw logs: a click a line, as shops and services write them, read into a table of numbers.

The table has a row per click in file order, and of these columns those that the log has:

    session, user, item   int32, numbers of the identifiers in their order; MISSING where the field is empty
    time                  int64, milliseconds since 1970; NO_TIME where the field is empty
    day, offset           int64, milliseconds: the day of a click and its time since the session began
    event                 category

An identifier is the text in the file: `0123`, `123` and `123.0` are three. They are sorted as numbers if all of a
column are plain whole numbers, else as text.

Nothing is dropped here: that is done by the rules of the recipe (dissect/data/preprocess.py). A line whose time cannot
be read is broken. If any line is, the log is refused, with their number and the first.
"""

from __future__ import annotations

import csv
import difflib
import io
import itertools
import re
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import IO, Any

import numpy as np
import pandas as pd

from dissect.data.archive import READ_ERRORS, opened, sha256
from dissect.data.clock import EARLIEST, HINT, described, guess, to_milliseconds
from dissect.data.lines import BLOCK, ENCODING_HINT, TO_UTF8, Quotes, Stream, blocks, clicks, not_utf8
from dissect.data.parquet import identifiers, read_columns, times
from dissect.errors import DataError
from dissect.text import shown

CHUNK = 1_000_000  # rows that are text at a time
MISSING = -1
# How programs write a missing value.
NO_VALUE = ("NULL", "Null", "null", "NaN", "nan", "NA", "N/A", "<NA>", "None", "none")
SEPARATORS = "\t;,|"
WHOLE = re.compile("0|-?[1-9][0-9]{0,17}")  # fits int64, and no other text is the same number
IDS = ("session", "user", "item")
CLOCKS = ("time", "day", "offset")


def heads(text: str) -> dict[str, tuple[str, ...]]:
    """Columns with the headers that each may have, from `session:sessionId,session_id item:itemId`."""
    return {role: tuple(names.split(",")) for role, names in (column.split(":") for column in text.split())}


@dataclass(frozen=True)
class LogFormat:
    """How a log is written down.

    separator  between the fields of a line; "" to find it from the header
    columns    what a column is (session, user, item, time, day, offset, event, history) -> the headers it may have
    names      all columns in order, if the log has no header; a header with these names is taken as one
    clock      how times are written (dissect/data/clock.py), or auto: found from the first rows
    counts     whether numeric times may count from another year than 1970, with clock auto
    typed      whether the header says types, as in item_id:token
    free       unread fields may hold stray separators and bytes that are not UTF-8: such lines are accepted
    quoted     whether fields may stand in quotation marks (and then hold separators)
    encoding   of the text; "" is UTF-8
    member     the file inside an archive that holds the log, if it is not the only one
    missing    texts that stand for an empty field
    may_lack   columns that may be empty; elsewhere an empty field makes a broken line
    optional   columns that are read if the log has them
    options    for hints: which of --encoding and --missing the reading command has
    """

    separator: str
    columns: Mapping[str, tuple[str, ...]]
    names: tuple[str, ...] = ()
    clock: str = "auto"
    counts: bool = True
    typed: bool = False
    free: bool = False
    quoted: bool = False
    encoding: str = ""
    member: str = ""
    missing: tuple[str, ...] = ("", *NO_VALUE)
    may_lack: tuple[str, ...] = ("user",)
    optional: tuple[str, ...] = ("user",)
    options: tuple[str, ...] = ("--encoding",)

    @property
    def encoding_hint(self) -> str:
        return ENCODING_HINT if "--encoding" in self.options else TO_UTF8

    @property
    def since(self) -> int:
        """Times before this (milliseconds since 1970) are broken."""
        return 0 if self.counts or self.clock != "auto" else EARLIEST


@dataclass
class Source:
    """A log that has been read.

    table   its clicks
    labels  the identifiers behind the numbers of a column, text
    record  the facts about the file for the provenance
    """

    table: pd.DataFrame
    labels: dict[str, np.ndarray] = field(default_factory=dict)
    record: dict[str, Any] = field(default_factory=dict)


# --- reading -------------------------------------------------------------------------------------------------


def read_log(path: Path, format: LogFormat) -> Source:
    """Read a log. Raises DataError for a file that is missing, empty, damaged, has other columns or broken lines."""
    if path.suffix == ".parquet":
        return _read_parquet(path, format)
    layout = _find_layout(path, format)
    read = _Read(path, format, layout)
    with ThreadPoolExecutor(1) as other, opened(path, format.member) as file:
        checksum = other.submit(sha256, path)
        for chunk in _chunks(path, file, format, layout):
            for role, position in layout.columns.items():
                if role in CLOCKS:
                    read.add_times(role, chunk[position])
                    continue
                codes, known = pd.factorize(chunk[position].to_numpy())
                read.add_identifiers(role, codes.astype(np.int32), known)
                if format.free:
                    bad = np.array([*("\ufffd" in text for text in known), False])
                    read.add_broken(bad[codes], f"has bytes that are not UTF-8 in its {format.columns[role][0]}")
            if layout.width in chunk:
                read.add_broken(chunk[layout.width].notna().to_numpy(), f"has more than {layout.width} fields")
            read.rows += len(chunk)
        return read.finish(checksum.result)


def _chunks(path: Path, file: IO[bytes], format: LogFormat, layout: _Layout) -> Iterator[pd.DataFrame]:
    """The fields of a log as text, by position, CHUNK clicks at a time. Raises DataError if it is no table."""
    lines = blocks(path, file, format.encoding, format.encoding_hint)
    if layout.header:
        lines = itertools.chain([next(lines).partition(b"\n")[2]], lines)
    if format.quoted:
        lines = Quotes(path, layout.separator, layout.width).checked(lines, 1 + layout.header)
    # Our own header gives pandas one column more, for fields beyond the last.
    ours = layout.separator.join(map(str, range(layout.width + 1))) + "\n"
    try:
        yield from pd.read_csv(
            io.BufferedReader(Stream(itertools.chain([ours.encode()], lines)), BLOCK),
            sep=layout.separator,
            header=0,
            names=range(layout.width + 1),
            usecols=sorted({*layout.columns.values(), *(() if format.free else (layout.width,))}),
            dtype=object,  # text as it stands; a category would be read as numbers where it can be
            quoting=csv.QUOTE_MINIMAL if format.quoted else csv.QUOTE_NONE,
            keep_default_na=False,
            na_values=list(format.missing),
            encoding="utf-8",
            encoding_errors="replace" if format.free else "strict",
            chunksize=CHUNK,
        )
    except pd.errors.EmptyDataError:
        return
    except UnicodeDecodeError:
        with opened(path, format.member) as again:
            raise not_utf8(path, again, format.encoding_hint) from None
    except READ_ERRORS as error:
        raise DataError(f"{path} is damaged or cut off: {error}.") from error
    except ValueError as error:  # pandas' ParserError is one
        raise DataError(f"{path} cannot be read as a table: {error}.") from error


def _read_parquet(path: Path, format: LogFormat) -> Source:
    """`read_log` for parquet."""

    def choose(names: list[str]) -> dict[str, str]:
        found = _places(path, names, format)
        if set(format.columns) - set(found) - set(format.optional):
            raise _other_columns(path, names, format, format.separator or ",")
        return {role: names[place] for role, place in found.items()}

    columns = read_columns(path, choose)
    read = _Read(path, format)
    if not (rows := len(next(iter(columns.values())))):
        raise DataError(f"{path} has no clicks in it.")
    for role, column in columns.items():
        _add_column(read, role, column)
    read.rows = rows
    return read.finish(partial(sha256, path))


def _add_column(read: _Read, role: str, column: Any) -> None:
    """Raises DataError for a parquet column of another type."""
    name, values = read.format.columns[role][0], times(column) if role in CLOCKS else identifiers(column)
    if values is None:
        wanted = "times" if role in CLOCKS else "text or whole numbers"
        raise DataError(f"{read.path}: the column {name} holds {column.type}; expected {wanted}.")

    def held(row: int) -> object:
        return column[row].as_py()

    if isinstance(values, pd.Series):
        return read.add_times(role, values, held)
    codes, texts = values
    none = np.array([*(text is None for text in texts), False])[codes]  # code -1 is the last
    says = f"in the column {name}, which is neither text nor a whole number"
    read.add_broken(none, lambda row: f"has {held(row)!r} {says}")
    place, known = pd.factorize(np.array([None if text in read.format.missing else text for text in texts], object))
    return read.add_identifiers(role, np.append(place, MISSING).astype(np.int32)[codes], known, held)


class _Read:
    """The result so far: the chunks of each column, the number of broken lines, and the first of them.

    A chunk begins at row `rows`; `layout` is None if the file has rows and no lines.
    """

    def __init__(self, path: Path, format: LogFormat, layout: _Layout | None = None) -> None:
        self.path, self.format, self.layout, self.rows = path, format, layout, 0
        self.kept: dict[str, list[Any]] = {}
        self.clocks: dict[str, str] = {}
        self.broken: list[np.ndarray] = []
        self.first: tuple[int, str, Callable[[str], str]] | None = None

    def add_times(self, role: str, values: pd.Series, held: Callable[[int], object] | None = None) -> None:
        """Times of a chunk. Raises DataError if no clock fits them."""
        name, since = self.format.columns[role][0], self.format.since if role != "offset" else 0
        if role not in self.clocks:
            fixed = "milliseconds" if role == "offset" else self.format.clock
            self.clocks[role] = clock = guess(values, since) if fixed == "auto" else fixed
            if not clock:
                some = str(values.dropna().iloc[0])
                says = f"the times in the column {name}, such as {some!r}, are before 1990 in every unit."
                raise DataError(f"{self.path}: {says}", HINT)
        clock = self.clocks[role]
        found, bad = to_milliseconds(values, clock, since)
        expected = f"in the column {name}; expected {described(clock, since)}"
        self.add_broken(bad, lambda row: f"has {str(values.iloc[row])!r} {expected}", lambda line: HINT)
        self.kept.setdefault(role, []).append(found)
        self._add_empty(values.isna().to_numpy(), role, held)

    def add_identifiers(
        self, role: str, codes: np.ndarray, known: np.ndarray, held: Callable[[int], object] | None = None
    ) -> None:
        """Identifiers of a chunk: their numbers int32 [N], and the texts."""
        self.kept.setdefault(role, []).append((codes, known))
        self._add_empty(codes == MISSING, role, held)

    def add_broken(
        self, bad: np.ndarray, what: str | Callable[[int], str], hint: Callable[[str], str] = lambda line: ""
    ) -> None:
        """Rows `bad` (bool [N]) of a chunk: `what` says what is wrong with one, `hint` what to do, from its line."""
        places = np.flatnonzero(bad)
        if len(places):
            if self.first is None or self.rows + places[0] < self.first[0]:
                says = what if isinstance(what, str) else what(int(places[0]))
                self.first = (self.rows + int(places[0]), says, hint)
            self.broken.append(places + self.rows)

    def _add_empty(self, empty: np.ndarray, role: str, held: Callable[[int], object] | None) -> None:
        """Rows that are empty in the column of `role`; `held` gives the value of a row if the file has no lines."""
        none = [text for text in self.format.missing if text and "--missing" in self.format.options]

        def hint(line: str) -> str:
            if (held(int(empty.argmax())) if held else self._field(line, role)) not in none:
                return ""
            return f"{', '.join(none)} count as empty. To change this, use `dissect data prepare --missing`."

        if role not in self.format.may_lack:
            self.add_broken(empty, f"has no {self.format.columns[role][0]}", hint)

    def _field(self, line: str, role: str) -> str:
        """The text of a column on a line."""
        assert self.layout is not None
        return dict(enumerate(_fields(line, self.layout.separator, self.format))).get(self.layout.columns[role], "")

    def _line(self, row: int, layout: _Layout) -> tuple[int, str]:
        """(number from 1, text) of the line on which the click of a row begins."""
        quotes = Quotes(self.path, layout.separator, layout.width) if self.format.quoted else None
        with opened(self.path, self.format.member) as file:
            found = clicks(blocks(self.path, file, self.format.encoding), quotes, layout.separator)
            return next(itertools.islice(found, row + layout.header, None), (row + 1, ""))

    def finish(self, checksum: Callable[[], str]) -> Source:
        """The log that has been read. Raises DataError if it has no clicks, or has broken lines."""
        if not self.rows:
            raise DataError(f"{self.path} has no clicks in it.")
        if self.first is not None:
            row, what, hint = self.first
            kind, number, line, text = "row", row, "", ""
            if self.layout is not None:
                kind, (number, text) = "line", self._line(row, self.layout)
                line = f", {text[:120]!r}"
            count = len(np.unique(np.concatenate(self.broken)))
            raise DataError(
                f"{self.path}: {count:,} {kind}{'s are' if count > 1 else ' is'} broken. "
                f"The first is {kind} {number}{line}: it {what}.",
                hint(text) or f"Mend or delete the broken {kind}s; nothing was written.",
            )
        record = {"file": self.path.name, "sha256": checksum(), "rows": self.rows}
        table, labels = _table(self.kept)
        if seen := self.clocks.get("time", self.clocks.get("day", "")):
            record["times"] = described(seen)
        empty = {role: int((table[role].to_numpy() == MISSING).sum()) for role in labels if role in IDS}
        return Source(table, labels, record | {"empty": {role: count for role, count in empty.items() if count}})


def _table(kept: dict[str, list[Any]]) -> tuple[pd.DataFrame, dict[str, np.ndarray]]:
    """(table, identifiers) of the chunks of each column; the chunks of a column are freed once they are joined."""
    table: dict[str, Any] = {}
    labels: dict[str, np.ndarray] = {}
    for role, chunks in kept.items():
        if role in CLOCKS:
            table[role] = np.concatenate(chunks)
        else:
            table[role], labels[role] = _join(chunks)
        chunks.clear()
    if "event" in table:
        table["event"] = pd.Categorical.from_codes(table["event"], labels["event"].astype(str))
    if "day" in table and "time" not in table:
        table["time"] = table["day"] + table["offset"] if "offset" in table else table["day"]
    return pd.DataFrame(table), labels


def _join(chunks: list[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    """(numbers int32 [N], identifiers in order) of (numbers, identifiers) of each chunk.

    They are sorted as numbers if all are plain whole numbers, else as text.
    """
    number, known = pd.factorize(np.concatenate([found for _, found in chunks]))
    order = np.argsort(known.astype(np.int64) if all(map(WHOLE.fullmatch, known)) else known)
    place = np.empty(len(known), np.int32)
    place[order] = np.arange(len(known), dtype=np.int32)
    ends = np.cumsum([len(found) for _, found in chunks])
    to = [np.append(place[part], np.int32(MISSING)) for part in np.split(number, ends[:-1])]  # code -1 is the last
    return np.concatenate([part[codes] for part, (codes, _) in zip(to, chunks)]), known[order]


# --- columns -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Layout:
    """Where the columns are (column -> position), what separates them, fields a line, whether there is a header."""

    columns: dict[str, int]
    separator: str
    width: int
    header: bool


def _find_layout(path: Path, format: LogFormat) -> _Layout:
    """The layout that the first line shows. Raises DataError if it lacks columns of the format."""
    with opened(path, format.member) as file:
        block = next(blocks(path, file, format.encoding, format.encoding_hint), b"")
    first = block.partition(b"\n")[0].decode("utf-8", "replace").rstrip("\r")
    if not first.strip():
        raise DataError(f"{path} is empty, or begins with an empty line.")
    if sum(not c.isprintable() or c == "\ufffd" for c in first if c != "\t") * 20 > len(first):
        raise DataError(f"{path} is no text in UTF-8: it begins with {first[:20]!r}.", format.encoding_hint)
    separators = [format.separator] if format.separator else sorted(SEPARATORS, key=first.count, reverse=True)
    for separator in separators:
        fields = _fields(first, separator, format)
        columns = _places(path, fields, format)
        if not set(format.columns) - set(columns) - set(format.optional):
            return _Layout(columns, separator, len(fields), True)
    fields = _fields(first, separators[0], format)
    if len(fields) == len(format.names) or (format.free and len(fields) > len(format.names) > 0):
        columns = {role: format.names.index(names[0]) for role, names in format.columns.items()}
        return _Layout(columns, separators[0], len(format.names), False)
    raise _other_columns(path, fields, format, separators[0])


def _fields(line: str, separator: str, format: LogFormat) -> list[str]:
    """The names in a header."""
    try:
        parts = next(csv.reader([line], delimiter=separator)) if format.quoted else line.split(separator)
    except csv.Error:  # a field of more than 128 kB
        parts = line.split(separator)
    names = [part.strip().strip('"') for part in parts]
    return [name.split(":")[0] for name in names] if format.typed else names


def _places(path: Path, fields: list[str], format: LogFormat) -> dict[str, int]:
    """Where the columns of a format are among the fields of a header: column -> position of those that are there.
    Raises DataError if it names one of them twice.
    """
    lower = [name.lower() for name in fields]
    found = {}
    for role, names in format.columns.items():
        named = next((name.lower() for name in names if name.lower() in lower), None)
        if named is not None:
            found[role] = lower.index(named)
            if lower.count(named) > 1:
                raise DataError(f"{path}: the first line names the column {shown(fields[found[role]])} twice.")
    return found


def _other_columns(path: Path, fields: list[str], format: LogFormat, separator: str) -> DataError:
    roles = [" or ".join(names) for role, names in format.columns.items() if role not in format.optional]
    words = {"\t": "tabs"}
    others = [s for s in SEPARATORS if s != separator and len(fields) == 1 and s in fields[0]]
    lower = [name.lower() for name in fields]
    missing = [names[0] for role, names in format.columns.items() if not {n.lower() for n in names} & set(lower)]
    hint = ""
    if others:
        hint = f"Its fields seem to be separated by {words.get(others[0], repr(others[0]))}."
    elif not format.names:
        found = [n for name in missing for n in difflib.get_close_matches(name.lower(), lower, n=1)]
        near = list(dict.fromkeys(found))  # two columns may resemble one
        hint = f"Did you mean {shown(' or '.join(fields[lower.index(n)] for n in near))}?" if near else ""
    return DataError(
        f"{path}: the first line has the columns {shown(', '.join(fields)[:200])}; "
        f"expected {', '.join(format.names or roles)}, separated by {words.get(separator, repr(separator))}.",
        hint,
    )
