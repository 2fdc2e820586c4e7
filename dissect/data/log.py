"""Raw logs: a click a line, as shops and services write them, read into a table of numbers.

The table has a row per click in file order, and of these columns those that the log has:

    session, user, item   int32, numbers in the order of the identifiers in the log; MISSING where the field is empty
    time                  int64, milliseconds since 1970; NO_TIME where the field is empty
    day, offset           int64, milliseconds: the day of a click and its time since the session began
    event                 category

Nothing is dropped here: what the recipe does not want, its rules drop by name (dissect/data/preprocess.py).
A line whose time is no time is broken: one of them, and the log is refused with their number and the first.
"""

from __future__ import annotations

import csv
import difflib
import io
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np
import pandas as pd

from dissect.data.archive import READ_ERRORS, opened, sha256
from dissect.errors import DataError

CHUNK = 1_000_000  # rows that are text at a time
BLOCK = 1 << 20  # bytes read at a time
MISSING = -1
NO_TIME = np.iinfo(np.int64).min
LAST_TIME = 4_102_444_800_000  # the year 2100, in milliseconds
MILLISECONDS_FROM = 100_000_000_000  # as seconds this would be the year 5138, so it is milliseconds

IDS = ("session", "user", "item")
CLOCKS = ("time", "day", "offset")


@dataclass(frozen=True)
class LogFormat:
    """How a log is written down.

    separator  between the fields of a line; "" where it is to be seen from the header
    columns    what a column is (session, user, item, time, day, offset, event, history) -> the headers it may have
    names      all columns in order, where the log has no header; a header with these names is skipped
    clock      what times are written as: iso, seconds, milliseconds, or auto (seen from the first rows)
    typed      whether the header says types, as in item_id:token
    free       whether fields may hold separators by mistake, so that a line with too many is none the worse
    quoted     whether fields may stand in quotation marks (and then hold separators)
    member     the file inside an archive that holds the log, where it is not the only one
    missing    what an empty field looks like
    may_lack   columns that may be empty; elsewhere an empty field makes a broken line
    optional   columns that are read where the log has them
    """

    separator: str
    columns: Mapping[str, tuple[str, ...]]
    names: tuple[str, ...] = ()
    clock: str = "auto"
    typed: bool = False
    free: bool = False
    quoted: bool = False
    member: str = ""
    missing: tuple[str, ...] = ("",)
    may_lack: tuple[str, ...] = ("user",)
    optional: tuple[str, ...] = ("user",)


@dataclass
class Source:
    """A log that has been read: the table, the identifiers behind its numbers, and what goes on record of the file."""

    table: pd.DataFrame
    labels: dict[str, np.ndarray] = field(default_factory=dict)
    record: dict[str, Any] = field(default_factory=dict)


# --- reading -------------------------------------------------------------------------------------------------


def read_log(path: Path, format: LogFormat) -> Source:
    """Read a log. Raises DataError for a file that is missing, empty, damaged, has other columns or broken lines."""
    if path.suffix == ".parquet":
        return _read_parquet(path, format)
    columns, separator, header, width = _find_columns(path, format)
    kept: dict[str, list[Any]] = {role: [] for role in columns}
    clocks = {role: format.clock for role in columns if role in CLOCKS}
    broken = _Broken(path, format, header)
    with ThreadPoolExecutor(1) as other, opened(path, format.member) as file:
        checksum = other.submit(sha256, path)
        try:
            if header:
                file.readline()
            # A header of our own tells pandas of one column more, for what a line has too much.
            ours = separator.join(map(str, range(width + 1))) + "\n"
            chunks = pd.read_csv(
                io.BufferedReader(_Headed(ours.encode(), file), BLOCK),
                sep=separator,
                header=0,
                names=range(width + 1),
                usecols=sorted({*columns.values(), *(() if format.free else (width,))}),
                dtype=object,
                quoting=csv.QUOTE_MINIMAL if format.quoted else csv.QUOTE_NONE,
                keep_default_na=False,
                na_values=list(format.missing),
                encoding="utf-8",
                encoding_errors="replace",
                chunksize=CHUNK,
            )
            rows = 0
            for chunk in chunks:
                for role, position in columns.items():
                    values = chunk[position]
                    if role in CLOCKS:
                        clocks[role] = clocks[role] if clocks[role] != "auto" else _guess_clock(values)
                        kept[role].append(_times(values, clocks[role], role, broken, rows))
                    else:
                        kept[role].append(_labels(values))
                    if role not in format.may_lack:
                        broken.add_values(rows, np.flatnonzero(values.isna()), role, values)
                if width in chunk:
                    too_long = np.flatnonzero(chunk[width].notna())
                    broken.add(rows, too_long, lambda _: f"has more than {width} fields")
                rows += len(chunk)
        except pd.errors.EmptyDataError:
            rows = 0
        except READ_ERRORS as error:
            raise DataError(f"{path} is damaged or cut off: {error}.") from error
        except ValueError as error:  # pandas' ParserError is one
            raise DataError(f"{path} cannot be read as a table: {error}.") from error
        if not rows:
            raise DataError(f"{path} has no clicks in it.")
        broken.refuse()
        return Source(*_table(kept), {"file": path.name, "sha256": checksum.result(), "rows": rows})


class _Headed(io.RawIOBase):
    """A file with something before it."""

    def __init__(self, head: bytes, file: IO[bytes]) -> None:
        self.head, self.file = head, file

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data, self.head = self.head[: len(buffer)], self.head[len(buffer) :]
        data = data or self.file.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)


def _table(kept: Mapping[str, list[Any]]) -> tuple[pd.DataFrame, dict[str, np.ndarray]]:
    """(table, identifiers) of the chunks of each column; the chunks of a column are given up once they are joined."""
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


def _labels(values: pd.Series) -> tuple[np.ndarray, np.ndarray]:
    """(numbers int32 [N], distinct identifiers) of a chunk: an identifier is the text that stands there."""
    codes, known = pd.factorize(values)
    return codes.astype(np.int32), np.array([str(text) for text in known], object)


def _join(chunks: list[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    """(numbers int32 [N], identifiers in order): numbers of one chunk and the next agree, in the order of the ids."""
    labels = [found for _, found in chunks]
    number, known = pd.factorize(np.concatenate(labels), sort=True)
    ends = np.cumsum([len(found) for found in labels])
    joined = []
    for (codes, found), end in zip(chunks, ends):
        to = np.append(number[end - len(found) : end], MISSING).astype(np.int32)  # code -1 is the last
        joined.append(to[codes])
    return np.concatenate(joined), np.asarray(known)


def _guess_clock(values: pd.Series) -> str:
    numbers = pd.to_numeric(values, errors="coerce").dropna()
    if len(numbers) * 2 < values.notna().sum():
        return "iso"
    return "milliseconds" if numbers.max() >= MILLISECONDS_FROM else "seconds"


def _times(values: pd.Series, clock: str, role: str, broken: _Broken, rows: int) -> np.ndarray:
    """Milliseconds int64 [N] of a chunk of text that begins at row `rows`; what is no time goes to `broken`."""
    if clock == "iso" and role != "offset":
        stamps = pd.to_datetime(values, format="ISO8601", utc=True, errors="coerce")
        bad = stamps.isna() & values.notna()
        found = stamps.dt.as_unit("ms").to_numpy(np.int64, na_value=NO_TIME)
    else:
        numbers = pd.to_numeric(values, errors="coerce").astype(np.float64)
        numbers *= 1000 if clock == "seconds" and role != "offset" else 1
        bad = (numbers.isna() | ~numbers.between(0, LAST_TIME)) & values.notna()
        found = numbers.where(~bad).round().fillna(0).to_numpy(np.int64)
        found[(numbers.isna() | bad).to_numpy()] = NO_TIME
    places = np.flatnonzero(bad)
    broken.add_values(rows, places, role, values)
    return found


class _Broken:
    """Broken lines: how many there are, and where and what the first is."""

    def __init__(self, path: Path, format: LogFormat, header: bool) -> None:
        self.path, self.format, self.header = path, format, header
        self.rows: list[np.ndarray] = []
        self.first: tuple[int, str] | None = None

    def add(self, rows: int, places: np.ndarray, what: Callable[[int], str]) -> None:
        """Rows `places` of a chunk that begins at row `rows`; `what` says what is wrong with a row of the chunk."""
        if not len(places):
            return
        if self.first is None or rows + places[0] < self.first[0]:
            self.first = (rows + int(places[0]), what(int(places[0])))
        self.rows.append(places + rows)

    def add_values(self, rows: int, places: np.ndarray, role: str, values: pd.Series) -> None:
        """Rows whose value in the column of `role` is none."""
        name = self.format.columns[role][0]

        def what(place: int) -> str:
            value = values.iloc[place]
            return f"has no {name}" if pd.isna(value) else f"has the {name} {value!r}, which is none"

        self.add(rows, places, what)

    def refuse(self, lines: bool = True) -> None:
        """Raises DataError where there was one; rows are counted where the file has no `lines`."""
        if self.first is None:
            return
        row, what = self.first
        number, text = self._line(row) if lines else (row, "")
        kind, count = "line" if lines else "row", len(np.unique(np.concatenate(self.rows)))
        raise DataError(
            f"{self.path}: {count:,} {kind}{'s are' if count > 1 else ' is'} broken. "
            f"The first is {kind} {number}{f', {text[:120]!r}' if lines else ''}: it {what}.",
            f"Mend or delete the broken {kind}s; nothing was written.",
        )

    def _line(self, row: int) -> tuple[int, str]:
        """(number from 1, text) of the line that holds the row; blank lines are no rows."""
        wanted = row + (1 if self.header else 0)
        with opened(self.path, self.format.member) as file, io.TextIOWrapper(file, "utf-8", "replace") as lines:
            for number, line in enumerate(lines, 1):
                if line.strip("\r\n"):
                    if wanted == 0:
                        return number, line.rstrip("\r\n")
                    wanted -= 1
        return row + 1, ""


# --- columns -------------------------------------------------------------------------------------------------


def _find_columns(path: Path, format: LogFormat) -> tuple[dict[str, int], str, bool, int]:
    """(column -> its position, separator, whether the first line is a header, fields a line).

    Raises DataError where the first line does not have the columns of the format.
    """
    with opened(path, format.member) as file:
        first = file.readline(1_000_000).decode("utf-8", "replace").lstrip("\ufeff").rstrip("\r\n")
    if not first.strip():
        raise DataError(f"{path} is empty, or begins with an empty line.")
    if sum(not c.isprintable() or c == "\ufffd" for c in first if c != "\t") * 20 > len(first):
        raise DataError(f"{path} is no text in UTF-8: it begins with {first[:20]!r}.")
    separator = format.separator or max("\t;,|", key=first.count)
    fields = [part.strip().strip('"') for part in first.split(separator)]
    if format.typed:
        fields = [name.split(":")[0] for name in fields]
    if format.names:
        found = {role: format.names.index(names[0]) for role, names in format.columns.items()}
        if len(fields) < len(format.names) or (len(fields) > len(format.names) and not format.free):
            raise _other_columns(path, fields, format, separator)
        given = {name.lower() for names in format.columns.values() for name in names}
        return found, separator, fields[found["item"]].lower() in given, len(format.names)
    lower = [name.lower() for name in fields]
    found = {}
    for role, names in format.columns.items():
        places = [lower.index(name.lower()) for name in names if name.lower() in lower]
        if places:
            found[role] = places[0]
    if set(format.columns) - set(found) - set(format.optional):
        raise _other_columns(path, fields, format, separator)
    return found, separator, True, len(fields)


def _other_columns(path: Path, fields: list[str], format: LogFormat, separator: str) -> DataError:
    roles = [" or ".join(names) for role, names in format.columns.items() if role not in format.optional]
    shown = {"\t": "tabs"}
    others = [s for s in "\t;,|" if s != separator and len(fields) == 1 and s in fields[0]]
    lower = [name.lower() for name in fields]
    missing = [names[0] for role, names in format.columns.items() if not {n.lower() for n in names} & set(lower)]
    hint = ""
    if others:
        hint = f"Its fields seem to be separated by {shown.get(others[0], repr(others[0]))}."
    elif not format.names:
        near = [n for name in missing for n in difflib.get_close_matches(name.lower(), lower, n=1)]
        hint = f"Did you mean {' or '.join(fields[lower.index(n)] for n in near)}?" if near else ""
    return DataError(
        f"{path}: the first line has the columns {', '.join(fields)[:200]}; "
        f"expected {', '.join(format.names or roles)}, separated by {shown.get(separator, repr(separator))}.",
        hint,
    )


def _read_parquet(path: Path, format: LogFormat) -> Source:
    """`read_log` for parquet, by way of pandas."""
    frame = read_parquet(path)
    if frame.empty:
        raise DataError(f"{path} has no clicks in it.")
    lower = {str(name).lower(): name for name in frame.columns}
    kept: dict[str, list[Any]] = {}
    broken = _Broken(path, format, False)
    for role, names in format.columns.items():
        found = [lower[name.lower()] for name in names if name.lower() in lower]
        if not found and role not in format.optional:
            raise _other_columns(path, [str(name) for name in frame.columns], format, format.separator or ",")
        if found and role in CLOCKS:
            values = frame[found[0]]
            text = values.map(lambda v: None if pd.isna(v) else str(v)).astype(object)
            clock = _guess_clock(text) if format.clock == "auto" else format.clock
            kept[role] = [_times(text, clock, role, broken, 0)]
        elif found:
            kept[role] = [_labels(frame[found[0]])]
        if found and role not in format.may_lack:
            broken.add_values(0, np.flatnonzero(frame[found[0]].isna()), role, frame[found[0]])
    broken.refuse(lines=False)
    return Source(*_table(kept), {"file": path.name, "sha256": sha256(path), "rows": len(frame)})


def read_parquet(path: Path) -> pd.DataFrame:
    """A parquet file. Raises DataError where it is none, or the package that reads it is missing."""
    try:
        return pd.read_parquet(path)
    except ImportError as error:
        raise no_parquet() from error
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read as parquet: {error}.") from error


def no_parquet() -> DataError:
    return DataError(
        "Parquet files need the package pyarrow.", "Install it: pip install 'dissect[parquet]', or pip install pyarrow"
    )
