"""Where data sets lie, by name: a folder of flat arrays with a record of where they came from.

<data folder>/<name>/
  data.json                              counts, split hash, provenance
  train-items.npy train-offsets.npy ...  the arrays of Sessions; times and users where the source has them
  test-items.npy test-offsets.npy ...
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import platformdirs

from dissect.data import planted
from dissect.data.sessions import Dataset, Sessions
from dissect.errors import DataError, DissectError, UsageError, unknown
from dissect.runs import write_json

ARRAYS = ("items", "offsets", "times", "users", "click_times")

# Data sets that people will ask for by name, and the command that brings each.
KNOWN = {
    "diginetica": "dissect data import diginetica --format lessr train.txt test.txt",
    "diginetica-srgnn": "dissect data import diginetica-srgnn --format srgnn all_train_seq.txt test.txt",
    "gowalla": "dissect data import gowalla --format lessr train.txt test.txt",
    "lastfm": "dissect data import lastfm --format lessr train.txt test.txt",
    "tmall": "dissect data import tmall --format srgnn all_train_seq.txt test.txt",
}

# Another split of the same log, used in its stead where it is all there is; the caller says so.
STAND_INS = {"diginetica": "diginetica-srgnn"}


def data_root(data_dir: str | Path | None = None) -> Path:
    """The data folder: `data_dir`, else $DISSECT_DATA, else the user's data folder."""
    return Path(data_dir or os.environ.get("DISSECT_DATA") or platformdirs.user_data_dir("dissect"))


def names(data_dir: str | Path | None = None) -> list[str]:
    """The data sets that are on disk."""
    root = data_root(data_dir)
    return sorted(path.parent.name for path in root.glob("*/data.json"))


def load(name: str, data_dir: str | Path | None = None) -> Dataset:
    """A data set by name, its arrays mapped into memory; a built-in one is made on the spot.

    Where only another split of `name` is present (STAND_INS), that one is returned, under its own name. Raises
    UsageError for an unknown name, DataError for one that is not on disk (with the command that brings it) or
    whose folder is damaged.
    """
    if name in planted.BUILT_IN:
        return planted.generate(name)
    present = names(data_dir)
    if name not in present and STAND_INS.get(name) in present:
        name = STAND_INS[name]
    if name not in present:
        if name in KNOWN:
            raise DataError(f"The data set '{name}' is not in {data_root(data_dir)}.", f"Bring it: {KNOWN[name]}")
        raise unknown("data set", name, [*present, *planted.BUILT_IN, *KNOWN])
    folder = data_root(data_dir) / name
    try:
        record = json.loads((folder / "data.json").read_text())
        dataset = Dataset(name, record["n_items"], _read(folder, "train"), _read(folder, "test"), record["provenance"])
        recorded = record["split_hash"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"The data set in {folder} cannot be read: {error}",
            f"Bring it again with --force: {KNOWN.get(name, 'dissect data import')}",
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
    if name in planted.BUILT_IN or name in ("", ".", "..") or Path(name).name != name:
        raise UsageError(
            f"A data set cannot be named {name!r}.",
            f"Choose a plain folder name other than {', '.join(planted.BUILT_IN)}.",
        )
    folder = root / name
    if folder.exists() and not force:
        raise UsageError(
            f"There is a data set '{name}' in {root} already.",
            "Choose another name, or --force to replace it.",
        )
    staging: Path | None = None
    try:
        root.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(dir=root, prefix=f".{name}."))
        for part in ("train", "test"):
            for array in ARRAYS:
                values = getattr(getattr(dataset, part), array)
                if values is not None:
                    np.save(staging / f"{part}-{array}.npy", values)
        write_json(staging / "data.json", describe(dataset))
        if folder.exists():
            shutil.rmtree(folder)
        os.replace(staging, folder)
    except OSError as error:
        raise DissectError(
            f"Could not write {folder}: {error.strerror or error}.",
            "Make room, or name another folder with --data-dir.",
        ) from error
    finally:
        if staging is not None:
            shutil.rmtree(staging, ignore_errors=True)
    return folder


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
