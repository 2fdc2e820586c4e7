"""The field's exchange files, read without trusting them.

srgnn  pickles of lists: whole sessions, or (prefixes, targets); items from 1
lessr  text: one session a line, items from 0 and separated by commas; num_items.txt beside it is used if there is one

Tables of clicks (recbole, gru4rec, parquet) are read by dissect/data/exchange.py. An unsound file raises a DataError
that names the file and the place.
"""

from __future__ import annotations

import io
import pickle
import pickletools
import re
from array import array
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from dissect.data.archive import sha256
from dissect.data.exchange import TABLES, Read, exported, named, read_tables
from dissect.data.parts import are_targets, joined, keep_clicks
from dissect.data.prefixes import INT32, flatten, rebuild
from dissect.data.sessions import Dataset, Sessions
from dissect.errors import DataError, UsageError, why

FIRST_ID = {"srgnn": 1, "lessr": 0}  # the number of the first item in files that know items by number only
MANY, FAR_APART = 1_000_000, 100  # a catalogue above MANY and FAR_APART times the items in use is a mistake
REPEATED = 4  # clicks in a pickle for each byte of it; more are lists that it repeats by reference
LONGEST_LINE = 1_000_000  # bytes
LESSR_LINE = re.compile(rb" *(?:0|[1-9]\d{0,9}) *(?:, *(?:0|[1-9]\d{0,9}) *)*")


# --- pickles -------------------------------------------------------------------------------------------------


def _instructions(size: int) -> re.Pattern[bytes]:
    """What a pickle of sessions is made of, apart from its end: numbers, lists, tuples, and short text.

    Pickles may ask for far more than they hold: one high memo index allocates all lower ones, and hashing a dict key
    may take forever. So only the instructions that sessions need are allowed, and the memo is limited to what a file of
    `size` bytes can fill.
    """

    def counted(head: bytes, tail: bytes = b"", most: int = 40) -> bytes:
        """Instructions that say how many bytes follow."""
        return head + b"(?:%s)" % b"|".join(b"\\x%02x%s.{%d}" % (n, tail, n) for n in range(most + 1))

    width = min(4, (size.bit_length() + 7) // 8)
    place = rb".{%d}[\x00-\x%02x]\x00{%d}" % (width - 1, min(255, size >> 8 * (width - 1)), 4 - width)
    digits = b"(?:%s)" % _up_to(size)
    kinds = (
        rb"K.|M..|J.{4}|I-?\d{1,20}\n|L-?\d{1,20}L?\n|" + counted(rb"\x8a", most=16),  # whole numbers
        rb"[]()late\x85-\x87]",  # lists and tuples
        rb"[qh].|j.{4}|\x94|r" + place + rb"|p" + digits + rb"\n|g" + digits + rb"\n",  # the memo
        rb"[N\x88\x89]|G.{8}|F[^\n]{1,40}\n",  # what is refused later, with its place
        rb"V[^\n]{0,99}\n|" + counted(rb"[\x8cUC]") + b"|" + counted(b"X", rb"\x00{3}"),
        rb"c[^\n]{1,99}\n[^\n]{1,99}\n|[\x93Rb]",  # NumPy's integers, which `_DataOnly` makes itself
        rb"\x80.|\x95.{8}",  # protocol and frame
    )
    return re.compile(b"(?:%s){1,1000}+" % b"|".join(kinds), re.DOTALL)


def _up_to(most: int) -> bytes:
    """The pattern of a whole number of at most `most` (10 or more), in digits."""
    text = str(most)
    below = (rf"{text[:at]}[0-{int(d) - 1}]\d{{{len(text) - 1 - at}}}" for at, d in enumerate(text) if d > "0")
    return "|".join([rf"\d{{1,{len(text) - 1}}}", *below, text]).encode()


def _check_instructions(content: bytes) -> None:
    """Raises UnpicklingError at the first byte that is no part of a pickle of sessions."""
    instructions, at = _instructions(max(10, len(content))), 0
    while match := instructions.match(content, at):
        at = match.end()
    if content[at:] == b".":  # the end
        return
    known = {op.code.encode("latin-1"): op.name for op in pickletools.opcodes}
    name = known.get(content[at : at + 1], "")
    what = {"EMPTY_SET": "a set", "STOP": "data after its end", "": "no instruction"}
    what |= dict.fromkeys(("SETITEM", "SETITEMS", "EMPTY_DICT", "DICT"), "a dict")
    held = "no end" if at == len(content) else what.get(name, f"the instruction {name}")
    raise pickle.UnpicklingError(f"at byte {at} it has {held}")


class _IntegerType:
    """A NumPy type as pickles make it: `dtype("i8", False, True)`, then its byte order."""

    def __init__(self, code: Any, *_: Any) -> None:
        self.code, self.order = code, "little"

    def __setstate__(self, state: Any) -> None:
        self.order = "big" if state[1] == ">" else "little"


def _integer(kind: Any, data: Any) -> int:
    """A NumPy integer as pickles make it, from its type and bytes (as text before protocol 3)."""
    if not isinstance(kind, _IntegerType) or kind.code not in ("i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8"):
        raise pickle.UnpicklingError("it has NumPy values that are no integers")
    content = data.encode("latin-1") if isinstance(data, str) else data
    if not isinstance(content, bytes) or len(content) != int(kind.code[1]):
        raise pickle.UnpicklingError(f"it has a NumPy integer whose bytes are not {kind.code[1]}")
    return int.from_bytes(content, "big" if kind.order == "big" else "little", signed=kind.code[0] == "i")


# The references allowed in a pickle, and their stand-ins: nothing is imported; NumPy itself would unpickle arguments.
STAND_FOR: dict[tuple[str, str], Callable[..., Any]] = {
    ("numpy", "dtype"): _IntegerType,
    ("numpy.core.multiarray", "scalar"): _integer,
    ("numpy._core.multiarray", "scalar"): _integer,
    ("_codecs", "encode"): lambda text, _: text,
}


class _DataOnly(pickle.Unpickler):
    """Reads lists, tuples, numbers and strings; any reference to code is refused before it is loaded."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in STAND_FOR:
            return STAND_FOR[module, name]
        reference = f"{module}.{name}"
        raise pickle.UnpicklingError(f"it refers to {reference!r:.80}")


def read_pickle(path: Path) -> Any:
    """The plain data in a pickle. Raises DataError for a file that is missing, empty, cut off or refers to code."""
    content = _bytes(path)
    try:
        _check_instructions(content)
        return _DataOnly(io.BytesIO(content), encoding="latin-1").load()
    except Exception as error:  # "including (but not necessarily limited to)", says the manual of what may be raised
        raise DataError(
            f"{path} is no pickle of lists of whole numbers, or is cut off: {str(error) or type(error).__name__}.",
            "Write sessions as plain lists: [[int(item) for item in session] for session in sessions]",
        ) from error


def _sessions(path: Path, content: Any, lowest: int = 1) -> Sessions:
    """A list of whole sessions, or (prefixes, targets), from which they are rebuilt. Raises DataError for others."""
    is_prefixes = _is_prefixes(content)
    lists = content[0] if is_prefixes else content
    if isinstance(lists, list | tuple):
        clicks = sum(len(session) for session in lists if isinstance(session, list | tuple))
        if clicks > max(MANY, REPEATED * path.stat().st_size):
            raise DataError(
                f"{path} repeats lists by reference: it would expand to {clicks:,} clicks, far more than it holds.",
                "Write every session as a list of its own.",
            )
    return rebuild(path, lists, content[1], lowest) if is_prefixes else flatten(path, content, lowest)


def _is_prefixes(content: Any) -> bool:
    def is_lists(value: Any) -> bool:
        return isinstance(value, list | tuple) and bool(value) and isinstance(value[0], list | tuple)

    is_pair = isinstance(content, list | tuple) and len(content) == 2
    return is_pair and is_lists(content[0]) and not is_lists(content[1])


def _srgnn(paths: Sequence[Path], lowest: int) -> tuple[list[Sessions], int | None]:
    """Raises DataError for prefixes to train on and whole sessions to test on: the field's files, swapped."""
    contents = [read_pickle(path) for path in paths]
    parts = [_sessions(path, content, lowest) for path, content in zip(paths, contents)]
    if _is_prefixes(contents[0]) and not _is_prefixes(contents[-1]):
        raise DataError(
            f"{paths[0]} holds prefixes and {paths[-1]} whole sessions: as the field writes them, the first is a test "
            "file and the second all_train_seq.txt.",
            f"The training file comes first: {paths[-1]} {paths[0]}",
        )
    return parts, None


# --- text ----------------------------------------------------------------------------------------------------


def read_lessr(path: Path, lowest: int = 0) -> Sessions:
    """Sessions of a LESSR text file, whose items count from `lowest`, as items from 1.

    Raises DataError with the first line that is not a session; blank lines at the end are ignored.
    """
    flat, lengths = array("q"), array("q")
    for number, line in enumerate(_bytes(path).removeprefix(b"\xef\xbb\xbf").rstrip().splitlines(), 1):
        if len(line) > LONGEST_LINE:
            raise DataError(f"{path}, line {number}, is longer than {LONGEST_LINE:,} bytes: a session is a line.")
        if not LESSR_LINE.fullmatch(line):
            raise DataError(
                f"{path}, line {number}, is {line[:60].decode('utf-8', 'replace')!r}: items are whole numbers "
                f"(without zeros in front) with commas between."
            )
        items = list(map(int, line.split(b",")))
        if min(items) < lowest or max(items) > INT32 - 1 + lowest:
            wrong = next(item for item in items if not lowest <= item < INT32 + lowest)
            raise DataError(
                f"{path}, line {number}, has the item {wrong}: items run from {lowest} to {INT32 - 1 + lowest}.",
                "If the files count items from 0: --first-id 0" if wrong == 0 else "",
            )
        flat.extend(items)
        lengths.append(len(items))
    if not lengths:
        raise DataError(f"{path} has no line with a session.")
    numbers = np.array(flat, np.int64) - (lowest - 1)
    return Sessions(numbers.astype(np.int32), np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]))


def _lessr(paths: Sequence[Path], lowest: int) -> tuple[list[Sessions], int | None]:
    parts, count = [read_lessr(path, lowest) for path in paths], paths[0].parent / "num_items.txt"
    if not count.exists():
        return parts, None
    try:
        n_items = int(_bytes(count))
    except ValueError:
        n_items = 0
    if n_items < 1:
        raise DataError(f"{count} should hold one whole number, how many items there are.")
    return parts, n_items


def _bytes(path: Path) -> bytes:
    try:
        content = path.read_bytes()
    except OSError as error:
        hint = "Give the path from the folder you are in." if isinstance(error, FileNotFoundError) else ""
        raise DataError(f"{path} cannot be read: {why(error)}.", hint) from error
    if not content:
        raise DataError(f"{path} is empty.")
    return content


# Formats that know items by number only -> (sessions of each file, number of items where it is told).
NUMBERED = {"srgnn": _srgnn, "lessr": _lessr}
FORMATS = (*NUMBERED, *TABLES)


def _read(paths: Sequence[Path], format: str, lowest: int) -> Read:
    if format in TABLES:
        return read_tables(paths, TABLES[format])
    parts, n_items = NUMBERED[format](paths, lowest)
    record = exported(paths)
    names, notes = named(record)
    if names is not None and lowest != FIRST_ID[format]:
        raise UsageError(
            f"{paths[0]} is of an export, whose items count from {FIRST_ID[format]}, not {lowest}.",
            "Leave --first-id out.",
        )
    return Read(parts, n_items or (record["n_items"] if record else None), notes, names)


# --- an import as a whole ------------------------------------------------------------------------------------


def import_files(
    name: str,
    format: str,
    train: Path,
    test: Path,
    recent: str | float = 1.0,
    valid: Path | None = None,
    n_items: int | None = None,
    first_id: int | None = None,
) -> Dataset:
    """A data set from a train and a test file; `recent` keeps the last share of the training sessions in time.

    Sessions of a `valid` file follow those of the train file: validation is cut off again when a model is trained.
    `n_items` is the size of the catalogue if it exceeds the largest number clicked, `first_id` the number of the first
    item if not FIRST_ID's. Single-click sessions are dropped and counted. With `recent` below 1, items that the kept
    sessions do not have are dropped from the test sessions and the rest renumbered, as SR-GNN does with Yoochoose 1/64.
    Raises DataError if a file is not sound, or test repeats train.
    """
    share = _as_share(recent)
    if share < 1 and n_items is not None:
        raise UsageError(
            "--recent keeps only items that are clicked in what it keeps, so --items has no effect.",
            "Leave one of them out.",
        )
    if first_id is not None and format not in FIRST_ID:
        raise UsageError(
            f"--first-id is for files that know items by number only: {' and '.join(FIRST_ID)}, not {format}."
        )
    lowest = FIRST_ID.get(format, 1) if first_id is None else first_id
    files = {"train": train, **({"valid": valid} if valid else {}), "test": test}
    read = _read(list(files.values()), format, lowest)
    parts, record = _checked(files, read)
    known = _catalogue(files, parts, n_items or read.n_items, lowest, insisted=n_items is not None)
    provenance = {"format": format, **record, **read.notes}
    if format in FIRST_ID:
        smallest = min(int(sessions.items.min()) for sessions in read.parts if len(sessions.items))
        provenance |= {"first_id": lowest, "smallest_id": smallest - 1 + lowest}
    identifiers = read.identifiers
    if identifiers is not None:  # of clicked items only, and of some that were dropped since
        identifiers = [*identifiers[:known], *[""] * (known - len(identifiers))]
    elif lowest != 1:
        identifiers = range(lowest, known + lowest)
    if share < 1:
        kept, parts["train"], parts["test"], lost = keep_recent(parts["train"], parts["test"], share)
        provenance |= {"recent": share, "dropped_unseen": lost}
        identifiers = [identifiers[item - 1] if identifiers else item for item in kept.tolist()]
        known = len(kept)
    return Dataset(name, known, parts["train"], parts["test"], provenance, identifiers)


def _as_share(recent: str | float) -> float:
    try:
        share = float(Fraction(recent))
    except (ValueError, ArithmeticError):
        says = f"--recent is a share of the training sessions, such as 0.125 or 1/8, not {recent!r}."
        raise UsageError(says) from None
    if not 0 < share <= 1:
        raise UsageError(f"--recent is a share of the training sessions, above 0 and at most 1, not {share}.")
    return share


def _checked(files: Mapping[str, Path], read: Read) -> tuple[dict[str, Sessions], dict[str, Any]]:
    """(train and test sessions of two clicks or more, what goes on record of the files).

    Raises DataError if nothing is left of a file, test repeats train, or there is nothing to predict.
    """
    parts, dropped = {}, {}
    for (part, path), sessions in zip(files.items(), read.parts):
        parts[part], dropped[part] = keep_clicks(sessions, np.ones(len(sessions.items), bool))
        if not len(parts[part]):
            raise DataError(f"{path} has no session of two clicks or more.")
    hashes = read.hashes or map(sha256, files.values())
    sources = {part: {"file": path.name, "sha256": found} for (part, path), found in zip(files.items(), hashes)}
    test = parts["test"]
    for part in list(files)[:-1]:
        same = np.array_equal(parts[part].offsets, test.offsets) and np.array_equal(parts[part].items, test.items)
        if same or sources[part]["sha256"] == sources["test"]["sha256"]:
            raise DataError(f"{files['test']} repeats {files[part]}: a test file holds other sessions.")
    if "valid" in parts:
        parts["train"] = joined(parts["train"], parts.pop("valid"))
    if not np.isin(test.items[are_targets(test)], parts["train"].items).any():
        raise DataError(
            f"No test session in {files['test']} clicks an item of {files['train']}, so there is nothing to predict.",
            "Are both files of the same split, with the same numbers for items?",
        )
    return parts, {**sources, "dropped_single_clicks": dropped}


def _catalogue(
    files: Mapping[str, Path], parts: Mapping[str, Sessions], told: int | None, lowest: int, insisted: bool
) -> int:
    """The number of items: as `told`, else the largest that is used.

    Raises DataError if it is less than the files need or, unless `insisted`, far more.
    """
    both = f"{files['train']} and {files['test']}"
    used = np.unique(np.concatenate([sessions.items for sessions in parts.values()]))
    largest = int(used[-1])
    known = told or largest
    if known < largest:
        counts_on = lowest == 0 and known == largest - 1 and used[0] > 1
        raise DataError(
            f"{both} have the item {largest - 1 + lowest}, but of {known} items the last is {known - 1 + lowest}.",
            "If the files count items from 1: --first-id 1" if counts_on else "",
        )
    if known > INT32:
        raise DataError(f"{both} cannot have {known:,} items: at most {INT32:,}.")
    if not insisted and known > max(MANY, FAR_APART * len(used)):
        raise DataError(
            f"{both} use {len(used):,} item numbers up to {known - 1 + lowest:,}; "
            "a model would need a row for each number up to that.",
            f"Number them without gaps, or insist on it: --items {known}",
        )
    return known


def keep_recent(train: Sessions, test: Sessions, share: float) -> tuple[np.ndarray, Sessions, Sessions, dict[str, int]]:
    """(items kept, train, test, what test lost) of the last `share` of the training sessions.

    Items are renumbered from 1 by first appearance, the order in which they are returned; those that training lost are
    dropped from test.
    """
    train = train.part(len(train) - max(1, round(len(train) * share)), len(train))
    items, first = np.unique(train.items, return_index=True)
    items = items[np.argsort(first)]
    number = np.zeros(int(max(train.items.max(), test.items.max())) + 1, np.int32)
    number[items] = np.arange(1, len(items) + 1)
    known = number[test.items] > 0
    left, sessions_lost = keep_clicks(test, known)
    if not len(left):
        raise DataError(f"With the last {share:g} of the training sessions no test session is left.")
    train, left = (replace(part, items=number[part.items]) for part in (train, left))
    return items, train, left, {"clicks": int((~known).sum()), "sessions": sessions_lost}
