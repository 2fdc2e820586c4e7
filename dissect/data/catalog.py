"""Where data sets lie, by name: a folder of flat arrays with a record of where they came from.

<data folder>/<name>/
  data.json                              counts, split hash, provenance
  train-items.npy train-offsets.npy ...  the arrays of Sessions; times and users where the source has them
  test-items.npy test-offsets.npy ...
  items.json                             what the source calls each item, where that is not its number
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import platformdirs

from dissect.data import planted
from dissect.data.sessions import Dataset, Sessions
from dissect.errors import DataError, DissectError, UsageError, unknown
from dissect.locks import hold
from dissect.runs import read_identifiers, write_identifiers, write_json

ARRAYS = ("items", "offsets", "times", "users", "click_times")

# Data sets that people will ask for by name, and the commands that bring each.
PREPARE = "dissect data prepare {name} --from {file}"
FETCH = "dissect data fetch {name}"
SRGNN = "dissect data import {name} --format srgnn all_train_seq.txt test.txt"
LESSR = "dissect data import {name} --format lessr train.txt test.txt"
KNOWN = {
    "diginetica": (FETCH, PREPARE.replace("{file}", "train-item-views.csv"), LESSR),
    "diginetica-srgnn": (FETCH, PREPARE.replace("{file}", "train-item-views.csv"), SRGNN),
    "gowalla": (FETCH, PREPARE.replace("{file}", "loc-gowalla_totalCheckins.txt.gz"), LESSR),
    "lastfm": (FETCH + " --accept-terms", PREPARE.replace("{file}", "lastfm-dataset-1K.tar.gz"), LESSR),
    "retailrocket": (PREPARE.replace("{file}", "events.csv"),),
    "tmall": (SRGNN,),
    "yoochoose-1-4": (PREPARE.replace("{file}", "yoochoose-clicks.dat"),),
    "yoochoose-1-64": (PREPARE.replace("{file}", "yoochoose-clicks.dat"),),
}

# Names as papers write them, which are no folder names.
WRITTEN_AS = {"yoochoose-1/4": "yoochoose-1-4", "yoochoose-1/64": "yoochoose-1-64"}

# Another split of the same log, used in its stead where it is all there is; the caller says so.
STAND_INS = {"diginetica": "diginetica-srgnn"}


def data_root(data_dir: str | Path | None = None) -> Path:
    """The data folder: `data_dir`, else $DISSECT_DATA, else the user's data folder."""
    return Path(data_dir or os.environ.get("DISSECT_DATA") or platformdirs.user_data_dir("dissect"))


def names(data_dir: str | Path | None = None) -> list[str]:
    """The data sets that are on disk."""
    root = data_root(data_dir)
    return sorted(path.parent.name for path in root.glob("*/data.json") if path.parent.name[0] != ".")


def canonical(name: str) -> str:
    """The name under which a data set lies."""
    return WRITTEN_AS.get(name, name)


def ways(name: str) -> str:
    """The commands that bring a known data set, one a line; "" for one that is not known."""
    commands = [command.format(name=name) for command in KNOWN.get(name, ())]
    return "Bring it:\n" + "\n".join(f"  {command}" for command in commands) if commands else ""


def present_as(name: str, data_dir: str | Path | None = None) -> str | None:
    """The name under which `load` would find a data set: its own, or its stand-in's; None where neither is there."""
    name, present = canonical(name), [*planted.BUILT_IN, *names(data_dir)]
    return next((known for known in (name, STAND_INS.get(name)) if known in present), None)


def load(name: str, data_dir: str | Path | None = None) -> Dataset:
    """A data set by name, its arrays mapped into memory; a built-in one is made on the spot.

    Where only another split of `name` is present (STAND_INS), that one is returned, under its own name. Raises
    UsageError for an unknown name, DataError for one that is not on disk (with the command that brings it) or
    whose folder is damaged.
    """
    name = canonical(name)
    found = present_as(name, data_dir)
    if found is None and name in KNOWN:
        raise DataError(f"The data set '{name}' is not in {data_root(data_dir)}.", ways(name))
    if found is None:
        raise unknown("data set", name, {*names(data_dir), *planted.BUILT_IN, *KNOWN})
    name = found
    if name in planted.BUILT_IN:
        return planted.generate(name)
    folder = data_root(data_dir) / name
    try:
        record = json.loads((folder / "data.json").read_text())
        n_items, recorded = record["n_items"], record["split_hash"]
        identifiers = read_identifiers(folder, n_items)
        parts = _read(folder, "train"), _read(folder, "test")
        dataset = Dataset(name, n_items, *parts, record["provenance"], identifiers)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"The data set in {folder} cannot be read: {error}",
            f"Bring it again with --force. {ways(name)}".strip(),
        ) from error
    if dataset.split_hash != recorded:
        raise DataError(f"The data set in {folder} has changed since it was imported.", "Import it again with --force.")
    return dataset


def save(dataset: Dataset, data_dir: str | Path | None = None, force: bool = False) -> Path:
    """Write a data set to the data folder, whole or not at all; returns its folder.

    Raises UsageError where the name is taken (unless `force`) or is no folder name, DissectError where the disk
    refuses.
    """
    root, name = data_root(data_dir), dataset.name
    check_name(name, data_dir, force)
    folder = root / name
    staging: Path | None = None
    try:
        root.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(dir=root, prefix=f".{name}~"))
        staging.chmod(0o755)
        for part in ("train", "test"):
            for array in ARRAYS:
                values = getattr(getattr(dataset, part), array)
                if values is not None:
                    np.save(staging / f"{part}-{array}.npy", values)
        write_identifiers(staging, dataset.identifiers)
        write_json(staging / "data.json", describe(dataset))
        old = staging.with_name(staging.name + ".old")
        if folder.exists():  # stays until the new one is whole
            os.replace(folder, old)
        os.replace(staging, folder)
        shutil.rmtree(old, ignore_errors=True)
    except (OSError, DissectError) as error:
        says = error.message if isinstance(error, DissectError) else f"Could not write {folder}: {error.strerror}."
        raise DataError(says, "Make room, or name another folder with --data-dir.") from error
    finally:
        if staging is not None:
            shutil.rmtree(staging, ignore_errors=True)
    return folder


def check_name(name: str, data_dir: str | Path | None = None, force: bool = False) -> None:
    """Raises UsageError where a data set cannot have this name, or one has it already and `force` is not given."""
    root = data_root(data_dir)
    if name in planted.BUILT_IN or name in ("", ".", "..") or Path(name).name != name or name.startswith("."):
        raise UsageError(
            f"A data set cannot be named {name!r}.",
            f"Choose a plain folder name other than {', '.join(planted.BUILT_IN)}.",
        )
    if (root / name).exists() and not force:
        raise UsageError(
            f"There is a data set '{name}' in {root} already.",
            "Choose another name, or --force to replace it.",
        )


@contextmanager
def claimed(name: str, data_dir: str | Path | None = None) -> Iterator[None]:
    """Hold the name of a data set while it is made, and clear away what a killed process left half-written.

    Raises DataError where another process holds the name.
    """
    root = data_root(data_dir)
    lock, is_new = root / f".{name}.lock", not root.exists()
    try:
        root.mkdir(parents=True, exist_ok=True)
        file = open(lock, "w")  # noqa: SIM115  # closed below; the empty file stays for the next
    except OSError as error:
        raise DataError(
            f"Could not write to {root}: {error.strerror}.", "Name another folder with --data-dir."
        ) from error
    with file:
        busy = f"Another process is making the data set '{name}' in {root}."
        hold(file, DataError(busy, "Wait for it; then it is there."))
        for left in root.glob(f".{name}~*"):
            if left.suffix == ".old" and not (root / name).exists():
                os.replace(left, root / name)  # it was to be replaced by what never became whole
            else:
                shutil.rmtree(left, ignore_errors=True)
        try:
            yield
        finally:
            if is_new and not names(data_dir):  # nothing came of it: as if it had not been tried
                lock.unlink(missing_ok=True)
                with suppress(OSError):
                    root.rmdir()


def describe(dataset: Dataset) -> dict[str, Any]:
    """The record of a data set: counts, split hash, provenance."""
    counts = {
        part: {"sessions": len(sessions), "clicks": sessions.n_clicks, "prefixes": sessions.n_prefixes}
        for part, sessions in (("train", dataset.train), ("test", dataset.test))
    }
    return {
        "name": dataset.name,
        "n_items": dataset.n_items,
        "split_hash": dataset.split_hash,
        **counts,
        "provenance": dataset.provenance,
    }


def _read(folder: Path, part: str) -> Sessions:
    arrays: dict[str, Any] = {}
    for array in ARRAYS:
        path = folder / f"{part}-{array}.npy"
        if array in ("items", "offsets") or path.exists():
            arrays[array] = np.load(path, mmap_mode="r", allow_pickle=False)
    if len(arrays["items"]) != arrays["offsets"][-1]:
        raise ValueError(f"{part}: {len(arrays['items'])} items, but the offsets say {arrays['offsets'][-1]}")
    return Sessions(**arrays)
