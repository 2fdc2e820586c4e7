"""A finished run read back: its record, data set, class and weights; and sessions as a user writes them."""

from __future__ import annotations

import csv
import difflib
import shlex
import tomllib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dissect.data.sessions import Dataset, Sessions, split_validation
from dissect.data.translate import (
    in_words,
    is_identity,
    number_by_name,
    numbering_of,
    numbering_of_group,
    translation,
)
from dissect.errors import DataError, UsageError, unknown
from dissect.experiment import own_models
from dissect.experiment.subject import Subject, find_model, require_length, subject_of
from dissect.experiment.train import Say, work
from dissect.runs import folders
from dissect.runs.config import Config, is_file_name
from dissect.training.device import prepare_device
from dissect.training.rebuild import Recorded, read_run, rebuild, require_finished

QUOTED = "As in sku-881,sku-17, with quotes around what has a comma or begins with a space: '\"a, b\",c'."
NEAR_AMONG = 100_000  # identifiers, the first so many: more would take seconds

Load = Callable[[str, str | None], Dataset]  # the data set of a name, from a data folder or the usual one


def finished_run(name: str | Path, runs_dir: str | Path) -> Recorded:
    """The record of a finished run by its name, or by that of a group with one seed."""
    record = read_run(folders.resolve_run(name, runs_dir))
    require_finished(record)
    return record


def read_settings(path: Path) -> dict[str, Any]:
    """What a group's config.toml holds, or a file with some of it. Raises UsageError for what cannot be trained."""
    try:
        found = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UsageError(f"{path} cannot be read: {error}.", "It should be like the config.toml of a group.") from error
    for name in found.keys() - Config.__dataclass_fields__.keys():
        wrong = unknown("setting", name, Config.__dataclass_fields__)
        raise UsageError(f"{path}: {wrong.message}", wrong.hint)
    if found.pop("refit", False):
        raise UsageError(
            f"{path} is of a training on everything, whose length each seed chose before.",
            "Name the config.toml of the group that chose it, and --refit.",
        )
    return found


def model_of(record: Recorded, given: str | type | None = None) -> Subject:
    """The class that a run was made with: a registered one, or that of a user's file (`recorded_model`)."""
    config = record.config
    return recorded_model(config.model, config.model_source, str(record.run), record.command, given)


def recorded_model(
    name: str, source: str | None, where: str, command: Sequence[str] = (), given: str | type | None = None
) -> Subject:
    """The class that the record at `where` names: a registered one, or that of a user's file with this SHA-256.

    The file is `given`, else the one that the command on record names; or the class itself is given. Raises DataError
    where it is gone or has changed, or where only the record names it and this user never did (own_models.py).
    """
    if source is None:
        return find_model(name)
    if isinstance(given, type) or not is_file_name(name):  # a class that was given to Python: its text is known
        if given is None:
            raise DataError(
                f"{where} was made with the class {name}, which was given to Python and stands in no record.",
                f"In Python: dissect.open_group({where!r}, model={name}); else --model path/to/file.py:{name}",
            )
        cls = given if isinstance(given, type) else subject_of(own_models.read(given), given).cls
        if own_models.sha256_of(cls) != source:
            raise DataError(
                f"{cls.__name__} is not the class that {where} was made with: its text is another, or that of a class "
                "from which it derives.",
                "Give it as it was then, or train anew.",
            )
        return Subject(name, cls, source)
    named = [word.removeprefix("--model=") for word in command]
    path = given or next((word for word in named if Path(word).name == name), name)
    hint = "Name it: --model path/to/file.py:ClassName"
    if not Path(path.rsplit(":", 1)[0]).is_file():
        raise DataError(f"The run's model was {path}, and that file is not here.", hint)
    file = own_models.read(path)
    if file.sha256 != source:
        raise DataError(
            f"{path} is not the file that the run was made with: its SHA-256 begins with {file.sha256[:12]}, "
            f"that of the run's with {source[:12]}.",
            hint,
        )
    if given is None and not own_models.was_named(file):
        raise DataError(
            f"{where} was made with the model in {path}, and to open it means to execute that file. "
            "You have not named this file in a command so far.",
            f"Read it first. If you trust it, name it: --model {shlex.quote(path)}",
        )
    return subject_of(file, path)


def data_of(record: Recorded, load: Load, data_dir: str | None = None) -> Dataset:
    """The data set of a run. Raises DataError, with both hashes, where what has its name is another split."""
    data = load(record.config.dataset, data_dir or record.option("--data-dir"))
    require_split(data, record.config.split_hash, str(record.run))
    return data


def require_split(data: Dataset, split_hash: str, run: str) -> None:
    """Raises DataError, with both hashes, where a data set has another split than a run."""
    if data.split_hash != split_hash:
        raise DataError(
            f"The data set '{data.name}' is not the one of the run: its split is {data.split_hash}, "
            f"that of {run} is {split_hash}.",
            "Bring the run's own split (its provenance stands in data.json of the group), or name a --data-dir.",
        )


def numbers_for(record: Recorded, data: Dataset, say: Say) -> np.ndarray | None:
    """The number that a run has for each item of another data set; None where both number them alike.

    Says how many items were matched. Raises DataError where nothing tells which item is which.
    """
    mine, runs_own = numbering_of(data), numbering_of_group(record.group)
    numbers = translation(mine, runs_own)
    if is_identity(numbers, record.n_items):
        return None
    say(in_words(mine, runs_own, numbers))
    return numbers


def sessions_of(record: Recorded, data: Dataset, split: str) -> Sessions:
    """The "train", "valid" or "test" part of a data set, parted as the run did. Raises UsageError where it is empty."""
    train, valid = split_validation(data.train, record.config.held_out)
    sessions = {"test": data.test, "valid": valid, "train": train}[split]
    if not sessions.n_prefixes:
        raise UsageError(f"The run's '{split}' part has no prefix to rank.", "It can be evaluated on: --split test")
    return sessions


def trained_model(
    record: Recorded, data: Callable[[], Dataset], longest: int, given: str | type | None = None, device: str = "auto"
) -> tuple[Any, int, torch.device]:
    """(model, step, device): the trained model of a run; a baseline is fitted again, its step is 0.

    `data` gives the run's data set, where that is needed; `given` is where the user's own model lies now. Raises
    DataError where the model cannot take a session of `longest` clicks.
    """
    config, subject = record.config, model_of(record, given)
    if not subject.learns:
        prepare_device("cpu")
        return subject.cls(record.n_items).fit(data().train), 0, torch.device("cpu")
    where = prepare_device(device, work(config, record.n_items))
    model, step = rebuild(record, subject.cls, lambda: data().train)
    require_length(model, subject.name, config.kept(longest), "session asked for")
    return model.to(where), step, where


def read_session(text: str, n_items: int, named: bool = False) -> list[int]:
    """Item numbers from "12,7,99". Raises UsageError for an empty session, a gap, or an item that there is not.

    `named` items could be asked for by their identifiers too, and the error says so.
    """
    words = text.replace(",", " ").split()
    if not words:
        raise UsageError("The session is empty.", "Give its items in the order of the clicks: --session 12,7,99")
    if not all(part.strip() for part in text.split(",")):
        raise UsageError(
            f"The session {text} has a gap: no item stands beside a comma.", f"--session {','.join(words)}?"
        )
    session = []
    for word in words:
        if not (word.isascii() and word.isdigit() and 1 <= int(word) <= n_items):
            hint = f"The items of this run are numbered from 1 to {n_items}."
            raise UsageError(f"There is no item {word!r}.", hint + " By what they are called: --identifiers" * named)
        session.append(int(word))
    return session


def read_identified(text: str, identifiers: list[int | str] | None) -> list[int]:
    """Item numbers from "sku-881,sku-17", what the log or the files call the items; quotes around one with a comma.

    Raises UsageError for an empty session, a gap, what no item is called, or a data set without such identifiers.
    """
    number = _number_of(identifiers)
    words = _split(text)
    for word in words:
        if word not in number:
            near = difflib.get_close_matches(word, list(number)[:NEAR_AMONG], n=3)
            raise UsageError(f"No item is called {word!r}.", f"Did you mean {' or '.join(near)}?" if near else QUOTED)
    return [number[word] for word in words]


def read_sessions(
    path: Path, n_items: int, identifiers: list[int | str] | None, by_identifier: bool
) -> tuple[dict[int, list[int]], str]:
    """(the session of each line of a file, what to say about clicks that were left out).

    By identifier, a session keeps its clicks on items that the model knows; one that has none is left out. Raises
    DataError, with the line, where a line is not a session.
    """
    try:
        lines = path.read_text("utf-8-sig").rstrip("\n").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read: {error}.", "It should be UTF-8 text, a session a line.") from error
    number = _number_of(identifiers) if by_identifier else {}
    sessions: dict[int, list[int]] = {}
    unknown: list[tuple[int, str]] = []
    for place, line in enumerate(lines, 1):
        try:
            if not by_identifier:
                sessions[place] = read_session(line, n_items, bool(identifiers))
                continue
            words = _split(line)
        except UsageError as error:
            raise DataError(f"{path}, line {place}: {error.message}", error.hint) from error
        unknown += [(place, word) for word in words if word not in number]
        if known := [number[word] for word in words if word in number]:
            sessions[place] = known
    if not sessions:
        raise DataError(f"{path} has no session with an item that the model knows.", "Are they of the same shop?")
    if not unknown:
        return sessions, ""
    place, word = unknown[0]
    without = len(lines) - len(sessions)
    return sessions, (
        f"Clicks left out because the model does not know the item: {len(unknown):,} "
        f"(the first: {word!r} in line {place}). Sessions left out because it knows no item of them: {without:,}."
    )


def _number_of(identifiers: list[int | str] | None) -> dict[str, int]:
    if identifiers is None:
        raise UsageError(
            "The run knows its items by their numbers only: there is no items.json in its group.",
            "Leave --identifiers out.",
        )
    return number_by_name(identifiers, "The run's data set")


def _split(text: str) -> list[str]:
    """The identifiers of a session. Raises UsageError for an empty one, a gap, or quotes that are not closed."""
    try:
        words = next(csv.reader([text], skipinitialspace=True, strict=True), [])
    except csv.Error as error:
        raise UsageError(f"The session {text!r} cannot be read: {error}.", QUOTED) from error
    if not all(words) or not words:
        raise UsageError(f"The session {text!r} is empty, or has a gap.", QUOTED)
    return words
