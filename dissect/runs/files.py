"""Files that appear whole or not at all, records that are checked when they are read, and locks.

JSON lines are appended one line at a time and can be read while the run goes on. Every record carries `schema`.
"""

from __future__ import annotations

import errno
import fcntl
import json
import math
import os
import re
import secrets
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from dissect.errors import BusyError, DataError, DissectError, why
from dissect.runs import records

SCHEMA = 1
HALF_WRITTEN = re.compile(r"\..+\.[a-z0-9_]{8}")  # what `write_atomically` fills
AGAIN = "Begin the run anew; what is there is kept aside: dissect resume RUN --force"
_held: set[Path] = set()  # run folders in which this process trains


def anew(run: Path) -> str:
    """The remedy for a run folder that has lost something: the command that begins it anew."""
    return AGAIN.replace("RUN", shlex.quote(str(run)))


def write_atomically(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    """Let `write` fill a temporary file beside `path`, then put it in place: readers see the old file or the new.

    Raises DissectError, with `path` as it was, if the disk refuses.
    """
    temporary = None
    for run in _held.intersection(path.parents):
        if not run.is_dir():  # do not make half of it again
            raise DissectError(f"{run} was deleted while it was trained.", "The same command trains it anew.")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
        with open(temporary, "xb") as file:  # as the umask says: mkstemp keeps files from everybody else
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException as error:
        if temporary is not None:
            with suppress(OSError):  # a file system that takes no file gives none back either
                temporary.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise refused(path, error) from error
        raise


def refused(path: Path, error: OSError) -> DissectError:
    """The error for a disk that refuses a file."""
    hint = "Choose a place that you can write to, by --out or --runs-dir."
    if error.errno == errno.EISDIR:
        hint = "There is a folder in its place: move it away."
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        hint = "Make room on the disk and give the same command again: the run goes on from its last checkpoint."
    return DissectError(f"Could not write {path}: {why(error)}.", hint)


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write a record, with its schema number first; NaN and infinities are written as null."""
    text = _as_json({"schema": SCHEMA, **value}, indent=1) + "\n"
    write_atomically(path, lambda file: file.write(text.encode()))


def _as_json(value: Mapping[str, Any], indent: int | None = None) -> str:
    try:
        return json.dumps(value, indent=indent, allow_nan=False)
    except (ValueError, TypeError):  # NaN or an infinity, or a mapping that is no dict: rare, and slow to look for
        return json.dumps(_finite(value), indent=indent, allow_nan=False)


def _finite(value: Any) -> Any:
    """The record with NaN and infinities replaced by None."""
    if isinstance(value, Mapping):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def write_toml(path: Path, values: Mapping[str, Any]) -> None:
    """Write flat settings (strings, numbers, booleans, and tables one deep); None is left out."""

    def line(name: str, value: Any) -> str:
        if not re.fullmatch("[A-Za-z0-9_-]+", name):  # TOML's keys without quotes
            name = json.dumps(name, ensure_ascii=False)
        is_odd = isinstance(value, float) and not math.isfinite(value)  # JSON spells inf and nan differently
        return f"{name} = {value if is_odd else json.dumps(value, ensure_ascii=False)}"

    tables = {k: v for k, v in values.items() if isinstance(v, Mapping)}
    lines = [line(k, v) for k, v in values.items() if v is not None and k not in tables]
    for name, table in tables.items():
        lines += ["", f"[{name}]", *(line(k, v) for k, v in table.items() if v is not None)]
    write_atomically(path, lambda file: file.write(("\n".join(lines) + "\n").encode()))


class Lines:
    """A file of JSON lines that can be cut back, so that a resumed run has no line twice."""

    def __init__(self, path: Path, size: int = 0) -> None:
        self.path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self.file = open(path, "ab")  # noqa: SIM115  # open as long as the run
        except OSError as error:
            raise refused(path, error) from error
        if self.file.tell() < size:
            raise DataError(
                f"{path} is shorter than its checkpoint says ({self.file.tell()} < {size} bytes).",
                anew(path.parent),
            )
        self.file.truncate(size)
        self.file.seek(0, os.SEEK_END)

    def append(self, *rows: Mapping[str, Any]) -> None:
        """Write rows, as `write_json` does, and hand them to the system at once. Raises DissectError on a full disk."""
        try:
            for row in rows:
                self.file.write(_as_json({"schema": SCHEMA, **row}).encode() + b"\n")
            self.file.flush()
        except OSError as error:
            raise refused(self.path, error) from error

    def size(self) -> int:
        """Bytes of the file, all written to disk: a checkpoint may rely on them after a power failure."""
        try:
            os.fsync(self.file.fileno())
        except OSError as error:
            raise refused(self.path, error) from error
        return self.file.tell()

    def close(self) -> None:
        with suppress(OSError):  # the disk may refuse again what `append` reported
            self.file.close()


@contextmanager
def locked(run: Path) -> Iterator[None]:
    """Hold a run folder for this process; a second process is refused (exit code 2).

    Files that a killed process left half-written (see `write_atomically`) are removed.
    """
    try:
        run.mkdir(parents=True, exist_ok=True)
        lock = open(run / ".lock", "w")  # noqa: SIM115  # closed below
    except OSError as error:
        raise refused(run, error) from error
    with lock as file:
        hold(file, BusyError(f"Another process is training in {run}.", "Wait for it, or choose --seed or --name."))
        for left in (*run.glob(".*"), *run.glob("checkpoints/.*")):
            if HALF_WRITTEN.fullmatch(left.name):
                left.unlink(missing_ok=True)
        _held.add(run)
        try:
            yield
        finally:
            _held.discard(run)


def read_json(path: Path, kind: Any = dict[str, Any], hint: str = "") -> dict[str, Any]:
    """Read a record of a `kind` (of runs.records). Raises DataError, with the hint, if it is missing or damaged."""
    try:
        value = json.loads(path.read_bytes())
    except FileNotFoundError:
        hint = hint or "The run has not got that far, or is not a run folder."
        raise DataError(f"{path} is missing.", hint) from None
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path} cannot be read: {why(error)}.", hint) from error
    records.check(value, kind, str(path), hint)
    return dict(value)


def read_jsonl(path: Path, kind: Any = None) -> list[dict[str, Any]]:
    """The rows of a file of JSON lines; a last line that is cut off (still being written) is left out.

    Raises DataError, with the line number, if another line is garbled or not of this `kind` (of runs.records), or if
    steps fall.
    """
    rows: list[dict[str, Any]] = []
    try:
        lines = path.read_bytes().split(b"\n")
    except FileNotFoundError:
        return []
    except OSError as error:
        raise DataError(f"{path} cannot be read: {why(error)}.") from error
    for number, line in enumerate(lines, 1):
        if not line:
            continue
        place = f"{path}, line {number},"
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            if number == len(lines):  # no newline behind it: still being written
                break
            raise DataError(f"{place} is not JSON: {error}.", anew(path.parent)) from error
        records.check(row, kind or dict[str, Any], place, anew(path.parent))
        if kind and rows and row["step"] < rows[-1]["step"]:
            raise DataError(f"{place} is of step {row['step']}, after one of {rows[-1]['step']}.", anew(path.parent))
        rows.append(row)
    return rows


def write_identifiers(folder: Path, identifiers: Sequence[int | str] | None) -> None:
    """Write the source's names of the items to items.json, unless they are the item numbers."""
    if identifiers is not None:
        write_json(folder / "items.json", {"identifiers": list(identifiers)})


def read_identifiers(folder: Path, n_items: int) -> list[int | str] | None:
    """What `write_identifiers` wrote, item i at i - 1; None if it wrote nothing.

    Raises DataError unless there is one, a text or a whole number, for each of `n_items` items.
    """
    path = folder / "items.json"
    if not path.exists():
        return None
    found: list[int | str] = read_json(path, records.Identifiers)["identifiers"]
    if len(found) != n_items:
        raise DataError(f"{path} names {len(found):,} items, and should name each of {n_items:,}.")
    return found


def hold(file: IO[Any], refusal: DissectError) -> None:
    """Lock an open file until it is closed. Dies with the process.

    Raises `refusal` where another process holds it, DissectError on a file system without locks.
    """
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise refusal from None
    except OSError as error:
        says = f"{file.name} cannot be locked: {why(error)}. Perhaps its file system has no locks."
        raise DissectError(says, "Name a folder on another one: --runs-dir, or --data-dir for data sets.") from error
