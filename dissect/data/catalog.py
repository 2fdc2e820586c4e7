"""Where data sets lie, by name: a folder of flat arrays with a record of where they came from.

<data folder>/<name>/
  data.json                              counts, split hash, provenance
  train-items.npy train-offsets.npy ...  the arrays of Sessions; times and users where the source has them
  test-items.npy test-offsets.npy ...
  items.json                             the source's names of the items, if they are not the item numbers
"""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import platformdirs

from dissect import text
from dissect.data import planted
from dissect.data.sessions import Dataset, Sessions, require_sound
from dissect.errors import DataBusyError, DataError, DissectError, UsageError, unknown, why
from dissect.runs import replace
from dissect.runs.files import hold, read_identifiers, write_identifiers, write_json

ARRAYS = ("items", "offsets", "times", "users", "click_times")
ARRAY_FILES = tuple(f"{part}-{array}.npy" for part in ("train", "test") for array in ARRAYS)
FILES = ("data.json", "items.json", *ARRAY_FILES)
INT32 = int(np.iinfo(np.int32).max)

# Data sets that people will ask for by name, and the commands that bring each.
FETCH = "fetch {name}"
SRGNN = "import {name} --format srgnn all_train_seq.txt test.txt"
LESSR = "import {name} --format lessr train.txt test.txt"
KNOWN = {
    "diginetica": (FETCH, "prepare {name} --from train-item-views.csv", LESSR),
    "diginetica-srgnn": (FETCH, "prepare {name} --from train-item-views.csv", SRGNN),
    "gowalla": (FETCH, "prepare {name} --from loc-gowalla_totalCheckins.txt.gz", LESSR),
    "lastfm": (FETCH + " --accept-terms", "prepare {name} --from lastfm-dataset-1K.tar.gz", LESSR),
    "retailrocket": ("prepare {name} --from events.csv",),
    "tmall": (SRGNN,),
    "yoochoose-1-4": ("prepare {name} --from yoochoose-clicks.dat",),
    "yoochoose-1-64": ("prepare {name} --from yoochoose-clicks.dat",),
}

# Names as papers write them, which are no folder names.
WRITTEN_AS = {"yoochoose-1/4": "yoochoose-1-4", "yoochoose-1/64": "yoochoose-1-64"}

# Another split of the same log, used if it is the only one; the caller says so.
STAND_INS = {"diginetica": "diginetica-srgnn"}


def data_root(data_dir: str | Path | None = None) -> Path:
    """The data folder: `data_dir`, else $DISSECT_DATA, else the user's data folder."""
    return Path(data_dir or os.environ.get("DISSECT_DATA") or platformdirs.user_data_dir("dissect"))


def names(data_dir: str | Path | None = None) -> list[str]:
    """The data sets on disk, also damaged ones and those whose names `check_name` would refuse today."""
    found = (path.parent.name for path in data_root(data_dir).glob("*/data.json"))
    return sorted(name for name in found if not name.startswith("."))  # those are half made


def damaged(data_dir: str | Path | None = None) -> dict[str, str]:
    """The data sets whose record cannot be read, each with the reason."""
    reasons = {}
    for name in names(data_dir):
        try:
            read_record(data_root(data_dir) / name)
        except DataError as error:
            reasons[name] = error.message
    return reasons


def at_hand(data_dir: str | Path | None = None) -> dict[str, Any]:
    """The data sets that are present, damaged (with the reason), built in, and those known that are not here."""
    here, reasons = names(data_dir), damaged(data_dir)
    return {
        "present": [name for name in here if name not in reasons],
        "damaged": reasons,
        "built_in": list(planted.BUILT_IN),
        "known": [name for name in KNOWN if name not in here],
    }


def canonical(name: str) -> str:
    """The name under which a data set lies."""
    return WRITTEN_AS.get(name, name)


def ways(name: str) -> str:
    """The commands that bring a known data set, one a line; "" for one that is not known."""
    commands = [f"\n  dissect data {command.format(name=name)}" for command in KNOWN.get(name, ())]
    return f"Bring it:{''.join(commands)}" if commands else ""


def present_as(name: str, data_dir: str | Path | None = None) -> str | None:
    """The name under which `load` would find a data set: its own, or its stand-in's; None if neither is there."""
    name, present = canonical(name), [*planted.BUILT_IN, *names(data_dir)]
    return next((known for known in (name, STAND_INS.get(name)) if known in present), None)


def load(name: str, data_dir: str | Path | None = None) -> Dataset:
    """A data set by name, its arrays mapped into memory; a built-in one is made on the spot.

    If only another split of `name` is present (STAND_INS), that one is returned, under its own name. Raises UsageError
    for an unknown name, DataError for one that is not on disk (with the command that brings it) or whose folder is
    damaged.
    """
    asked = canonical(name)
    name = present_as(asked, data_dir) or ""
    if not name and asked in KNOWN:
        raise DataError(f"The data set '{asked}' is not in {data_root(data_dir)}.", ways(asked))
    if not name:
        raise unknown("data set", asked, {*names(data_dir), *planted.BUILT_IN, *KNOWN})
    if name in planted.BUILT_IN:
        return planted.generate(name)
    folder = data_root(data_dir) / name
    record = read_record(folder)
    try:
        identifiers = read_identifiers(folder, record["n_items"])
        train, test = (_read(folder, part, record["n_items"]) for part in ("train", "test"))
    except (OSError, ValueError, RecursionError, DataError) as error:
        raise _damaged(folder, error) from error
    dataset = Dataset(name, record["n_items"], train, test, record["provenance"], identifiers)
    if dataset.split_hash != record["split_hash"]:
        raise DataError(f"The data set in {folder} has changed since it was imported.", "Import it again with --force.")
    return dataset


def read_record(folder: Path) -> dict[str, Any]:
    """The data.json of a data set. Raises DataError unless n_items, split_hash and provenance are sound."""
    try:
        record = json.loads((folder / "data.json").read_text(encoding="utf-8"))
        if not isinstance(record, dict):
            raise ValueError("data.json should hold one JSON object")
        kinds = {"n_items": (int, "a whole number"), "split_hash": (str, "a text"), "provenance": (dict, "an object")}
        for key, (kind, words) in kinds.items():
            if type(record.get(key)) is not kind:
                raise ValueError(f"data.json lacks {key}, {words}")
        if not 1 <= record["n_items"] <= INT32:
            raise ValueError(f"n_items in data.json should be 1 to {INT32:,}, not {record['n_items']}")
    except json.JSONDecodeError as error:
        raise _damaged(folder, ValueError(f"data.json: {why(error)}")) from error
    except (OSError, ValueError, RecursionError) as error:
        raise _damaged(folder, error) from error
    return record


def _damaged(folder: Path, error: Exception) -> DataError:
    says = error.message if isinstance(error, DataError) else str(why(error))
    how = ways(folder.name) or "Bring it: dissect data import NAME, or dissect data prepare NAME, as the first time."
    again = how.replace("Bring it", "Bring it again with --force")
    return DataError(f"The data set in {folder} cannot be read: {says.rstrip('.')}.", again)


def save(dataset: Dataset, data_dir: str | Path | None = None, force: bool = False) -> Path:
    """Write a data set to the data folder, whole or not at all; returns its folder.

    Raises UsageError if the name is taken (see `check_name`), DataError if the sessions are not sound or the disk
    refuses.
    """
    folder = data_root(data_dir) / check_name(dataset.name, data_dir, force)
    room = "Make room, or name another folder with --data-dir."
    try:
        for sessions in (dataset.train, dataset.test):
            require_sound(sessions, dataset.n_items)
    except ValueError as error:
        raise DataError(f"The data set '{dataset.name}' cannot be kept: {error}.") from error
    try:
        with replace.whole(folder, KEPT, force) as staging:
            for part, array in product(("train", "test"), ARRAYS):
                if (values := getattr(getattr(dataset, part), array)) is not None:
                    np.save(staging / f"{part}-{array}.npy", values)
            write_identifiers(staging, dataset.identifiers)
            write_json(staging / "data.json", describe(dataset))
    except UsageError:  # another data set has come under that name
        raise
    except DissectError as error:
        raise DataError(error.message, room) from error
    except OSError as error:
        raise DataError(f"Could not write {folder}: {why(error)}.", room) from error
    return folder


def check_name(name: str, data_dir: str | Path | None = None, force: bool = False) -> str:
    """The name under which a new data set will lie.

    Raises UsageError if the name is not allowed, or is taken and `force` is not given; even with `force`, if its folder
    holds anything but a data set.
    """
    name = canonical(name)
    text.check_name(name, "A data set")
    if name in planted.BUILT_IN:
        raise UsageError(
            f"A data set cannot be named {name!r}: it is the name of a built-in one.", "Choose another name."
        )
    replace.require_folder(data_root(data_dir) / name, KEPT, force)
    return name


def _files_of(folder: Path) -> Collection[str]:
    """The names of the files of a data set; none for a folder that holds none."""
    return FILES if any((folder / name).exists() for name in ARRAY_FILES) else ()


KEPT = replace.Kind("a data set", _files_of, "choose another name")


@contextmanager
def claimed(name: str, data_dir: str | Path | None = None) -> Iterator[None]:
    """Hold the name of a data set while it is made, and remove what a killed process left half-written.

    Raises DataBusyError if another process holds the name.
    """
    root = data_root(data_dir)
    lock, is_new = root / f".{name}.lock", not root.exists()
    try:
        root.mkdir(parents=True, exist_ok=True)
        file = open(lock, "w")  # noqa: SIM115  # closed below; the empty file stays for the next
    except OSError as error:
        says = f"Could not write to {root}: {why(error)}."
        raise DataError(says, "Name another folder with --data-dir.") from error
    with file:
        busy = f"Another process is making the data set '{name}' in {root}."
        hold(file, DataBusyError(busy, "Wait until it has finished, then give the command again."))
        replace.clear(root / name)
        try:
            yield
        finally:
            if is_new and not names(data_dir):  # it failed, so leave no trace
                lock.unlink(missing_ok=True)
                with suppress(OSError):
                    root.rmdir()


def describe(dataset: Dataset) -> dict[str, Any]:
    """The record of a data set: counts, split hash, provenance."""
    counts = {
        part: {"sessions": len(sessions), "clicks": sessions.n_clicks, "prefixes": sessions.n_prefixes}
        for part, sessions in (("train", dataset.train), ("test", dataset.test))
    }
    about = {"name": dataset.name, "n_items": dataset.n_items, "split_hash": dataset.split_hash}
    return {**about, **counts, "provenance": dataset.provenance}


def _read(folder: Path, part: str, n_items: int) -> Sessions:
    """One part of a data set, its arrays mapped into memory. Raises ValueError if they are not sound."""
    arrays: dict[str, Any] = {}
    for path in (folder / f"{part}-{array}.npy" for array in ARRAYS):
        if path.stem.endswith(("items", "offsets")) or path.exists():
            try:
                with warnings.catch_warnings(action="error"):  # of headers as Python 2 wrote them
                    array = np.load(path, mmap_mode="r", allow_pickle=False)
            except Exception as error:  # the parser of a damaged header raises whatever Python's own raises
                raise ValueError(f"{path.name} is no array: {error or type(error).__name__}") from error
            if not isinstance(array, np.ndarray):
                raise ValueError(f"{path.name} is an archive, not an array")
            arrays[path.stem.partition("-")[2]] = array
    sessions = Sessions(**arrays)
    try:
        require_sound(sessions, n_items)
    except ValueError as error:
        raise ValueError(f"{part}: {error}") from error
    return sessions
