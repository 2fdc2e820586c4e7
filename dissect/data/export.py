"""Write a data set in the files of the field, so that other people's code runs on the same split.

Every export is a folder. Its files know items by number; a record beside them (dissect.json) has the names of the
items. With it `dissect data import` restores the very same split, times included.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from dissect.data.archive import sha256
from dissect.data.catalog import describe
from dissect.data.exchange import EXPORTED, recorded_files
from dissect.data.parquet import no_parquet
from dissect.data.parts import session_of_clicks
from dissect.data.sessions import Dataset, Sessions, split_validation
from dissect.data.translate import numbering_of
from dissect.errors import DataError, DissectError, UsageError, why
from dissect.runs.files import write_json
from dissect.runs.replace import Kind, whole
from dissect.usual import VALIDATION_SHARE

Files = list[str]  # in the order in which `dissect data import` takes them, others after them


def export(
    dataset: Dataset, format: str, out: Path, validation: float = VALIDATION_SHARE, force: bool = False
) -> tuple[Path, list[str]]:
    """(folder, the files to import from it, in order) of a data set written in one of WRITERS' formats.

    `validation` is the share of the training sessions, the last ones, for a file of its own if the format has one. The
    folder appears whole or not at all. Raises UsageError if it may not be replaced, DataError if the disk refuses.
    """
    if not 0 <= validation < 1:
        raise UsageError(f"--validation is a share of the training sessions, at least 0 and below 1, not {validation}.")
    if out.name in ("", ".."):  # the current folder
        out = out.resolve()
    try:
        with whole(out, KIND, force) as staging:
            files = WRITERS[format](dataset, staging, validation)
            record = {**describe(dataset), "format": format, "times": timing(dataset)}
            record["files"] = {path.name: sha256(path) for path in sorted(staging.iterdir())}
            write_json(staging / EXPORTED, {**record, "identifiers": numbering_of(dataset).names})
    except OSError as error:
        raise DataError(f"Could not write {out}: {why(error)}.", "Make room, or choose --out.") from error
    except DissectError as error:
        if type(error) is DissectError:  # from write_json, whose disk is full
            raise DataError(error.message, "Make room, or choose --out.") from error
        raise
    return out, files


KIND = Kind("an export", lambda folder: {EXPORTED, *files} if (files := recorded_files(folder)) else ())


def timing(dataset: Dataset) -> str:
    """The times of a data set: of `clicks`, of `ends` of sessions, or `none`.

    Times of clicks are exported only if a stable sort by them keeps the order of the data set.
    """
    parts = (dataset.train, dataset.test)
    if any(part.times is None for part in parts):
        return "none"
    return "clicks" if all(_in_order(part) for part in parts) else "ends"


def _in_order(sessions: Sessions) -> bool:
    times = sessions.click_times
    if times is None or sessions.times is None:
        return False
    inside = np.diff(session_of_clicks(sessions)) == 0
    ends = times[sessions.offsets[1:] - 1]
    return bool((np.diff(times)[inside] >= 0).all() and (np.diff(ends) >= 0).all() and (ends == sessions.times).all())


def listed(sessions: Sessions) -> list[list[int]]:
    """The items of each session."""
    items, offsets = sessions.items.tolist(), sessions.offsets.tolist()
    return [items[start:stop] for start, stop in pairwise(offsets)]


def prefixes(sessions: Sessions) -> Iterator[tuple[int, list[int], int]]:
    """(session, prefix, target) of every prefix, a session's longest first, as SR-GNN lists them."""
    for session, items in enumerate(listed(sessions)):
        for end in range(len(items) - 1, 0, -1):
            yield session, items[:end], items[end]


def tables(dataset: Dataset) -> dict[str, pd.DataFrame]:
    """The clicks of train and test: session, item, time as `timing` says (else clicks are counted), and user if known.

    Sessions are counted from 1, and those of test go on from those of train.
    """
    found, kind, session, click = {}, timing(dataset), 1, 0
    for name, part in (("train", dataset.train), ("test", dataset.test)):
        time = part.click_times if kind == "clicks" else np.arange(click, click + part.n_clicks)
        if kind == "ends" and part.times is not None:
            time = np.repeat(part.times, part.lengths)
        users = {} if part.users is None else {"user": np.repeat(part.users, part.lengths)}
        found[name] = pd.DataFrame(
            {"session": session_of_clicks(part) + session, "item": part.items, "time": time, **users}
        )
        session, click = session + len(part), click + part.n_clicks
    return found


# --- one function a format -----------------------------------------------------------------------------------


def write_srgnn(dataset: Dataset, folder: Path, validation: float) -> Files:
    """all_train_seq.txt with whole sessions; train.txt and test.txt with (prefixes, targets)."""
    content: dict[str, Any] = {"all_train_seq.txt": listed(dataset.train)}
    for name, part in (("train.txt", dataset.train), ("test.txt", dataset.test)):
        rows = list(prefixes(part))
        content[name] = ([prefix for _, prefix, _ in rows], [target for _, _, target in rows])
    for name, value in content.items():
        with open(folder / name, "wb") as file:
            pickle.dump(value, file, protocol=2)
    return ["all_train_seq.txt", "test.txt"]


def write_lessr(dataset: Dataset, folder: Path, validation: float) -> Files:
    """train.txt and test.txt: a session a line, items from 0; num_items.txt."""
    for name, part in (("train.txt", dataset.train), ("test.txt", dataset.test)):
        from_0 = listed(replace(part, items=part.items - 1))
        (folder / name).write_text("".join(",".join(map(str, items)) + "\n" for items in from_0), encoding="utf-8")
    (folder / "num_items.txt").write_text(str(dataset.n_items), encoding="utf-8")
    return ["train.txt", "test.txt"]


RECBOLE_CONFIG = """# For RecBole: run with --dataset={name} and this file as a configuration.
data_path: ..
field_separator: "\\t"
seq_separator: " "
USER_ID_FIELD: session_id
ITEM_ID_FIELD: item_id
LIST_SUFFIX: _list
ITEM_LIST_LENGTH_FIELD: item_length
MAX_ITEM_LIST_LENGTH: {longest}
benchmark_filename: [{parts}]
alias_of_item_id: [item_id_list]
load_col:
  inter: [session_id, item_id_list, item_id]
  item: [item_id]
train_neg_sample_args: ~
"""


def write_recbole(dataset: Dataset, folder: Path, validation: float) -> Files:
    """NAME.train.inter, NAME.valid.inter, NAME.test.inter with a prefix a line; NAME.item with all items; NAME.yaml.

    Raises UsageError if `validation` leaves a part empty.
    """
    name = dataset.name
    train, valid = split_validation(dataset.train, validation)
    if not len(train) or not len(valid):
        raise UsageError(f"RecBole wants a validation part: --validation {validation:g} leaves a part empty.")
    first, files = 0, []
    for part, sessions in (("train", train), ("valid", valid), ("test", dataset.test)):
        with open(folder / f"{name}.{part}.inter", "w", encoding="utf-8") as file:
            file.write("session_id:token\titem_id_list:token_seq\titem_id:token\n")
            for session, prefix, target in prefixes(sessions):
                file.write(f"{first + session + 1}\t{' '.join(map(str, prefix))}\t{target}\n")
        first += len(sessions)
        files.append(f"{name}.{part}.inter")
    items = "".join(f"{i}\n" for i in range(1, dataset.n_items + 1))
    (folder / f"{name}.item").write_text(f"item_id:token\n{items}", encoding="utf-8")
    longest = int(max(dataset.train.lengths.max(), dataset.test.lengths.max())) - 1
    config = RECBOLE_CONFIG.format(name=name, longest=longest, parts="train, valid, test")
    (folder / f"{name}.yaml").write_text(config, encoding="utf-8")
    return files


def write_gru4rec(dataset: Dataset, folder: Path, validation: float) -> Files:
    """train.tsv and test.tsv: SessionId, ItemId, Time in seconds, or a count of the clicks if times are unknown."""
    heads = {"session": "SessionId", "item": "ItemId", "time": "Time"}
    for name, table in tables(dataset).items():
        table[list(heads)].rename(columns=heads).to_csv(folder / f"{name}.tsv", sep="\t", index=False)
    return ["train.tsv", "test.tsv"]


def write_parquet(dataset: Dataset, folder: Path, validation: float) -> Files:
    """train.parquet and test.parquet: session, item, and time and user if known."""
    for name, table in tables(dataset).items():
        known = table.drop(columns="time") if timing(dataset) == "none" else table
        try:
            known.to_parquet(folder / f"{name}.parquet", index=False)
        except ImportError as error:
            raise no_parquet() from error
    return ["train.parquet", "test.parquet"]


WRITERS: dict[str, Callable[[Dataset, Path, float], Files]] = {
    "srgnn": write_srgnn,
    "lessr": write_lessr,
    "recbole": write_recbole,
    "gru4rec": write_gru4rec,
    "parquet": write_parquet,
}
