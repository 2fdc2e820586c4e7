"""What the verbs for trained models share: from the name of a run to its record, data set, class and weights."""

from __future__ import annotations

import csv
import difflib
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console

from dissect.cli.dissecting import load_dataset, show_results, show_verdict
from dissect.cli.launch import rank_baseline, starting_weights, train_seeds
from dissect.data.sessions import Dataset
from dissect.data.translate import (
    in_words,
    is_identity,
    number_by_name,
    numbering_of,
    numbering_of_group,
    translation,
)
from dissect.errors import DataError, UsageError
from dissect.experiment import own_models
from dissect.experiment.subject import Subject, find_model, require_length, subject_of
from dissect.runs import folders
from dissect.training import workers
from dissect.training.device import prepare_device
from dissect.training.rebuild import Recorded, read_run, rebuild, require_finished, roles_without
from models import BASELINES

QUOTED = "As in sku-881,sku-17, with quotes around what has a comma or begins with a space: '\"a, b\",c'."
NEAR_AMONG = 100_000  # identifiers, the first so many: more would take seconds


def finished_run(name: str, runs_dir: str) -> Recorded:
    """The record of a finished run by its name, or by that of a group with one seed."""
    record = read_run(folders.resolve_run(name, runs_dir))
    require_finished(record)
    return record


def model_of(record: Recorded, given: str | None = None) -> Subject:
    """The class that a run was made with: a registered one, or that of a user's file.

    The file is `given`, else the one that the run's command names. Raises DataError where it is gone or has changed,
    or where only the record names it and this user never did (own_models.py).
    """
    config = record.config
    if config.model_source is None:
        return find_model(config.model)
    named = [word.removeprefix("--model=") for word in record.command]
    path = given or next((word for word in named if Path(word).name == config.model), config.model)
    hint = "Name it: --model path/to/file.py:ClassName"
    if not Path(path.rsplit(":", 1)[0]).is_file():
        raise DataError(f"The run's model was {path}, and that file is not here.", hint)
    file = own_models.read(path)
    if file.sha256 != config.model_source:
        raise DataError(
            f"{path} is not the file that the run was made with: its SHA-256 begins with {file.sha256[:12]}, "
            f"that of the run's with {config.model_source[:12]}.",
            hint,
        )
    if given is None and not own_models.was_named(file):
        raise DataError(
            f"{record.run} was made with the model in {path}, and to open it means to execute that file. "
            "You have not named this file in a command so far.",
            f"Read it first. If you trust it, name it: --model {shlex.quote(path)}",
        )
    return subject_of(file, path)


def data_of(record: Recorded, data_dir: str | None, console: Console) -> Dataset:
    """The data set of a run. Raises DataError, with both hashes, where what has its name is another split."""
    config = record.config
    data = load_dataset(config.dataset, data_dir or record.option("--data-dir"), console)
    if data.split_hash != config.split_hash:
        raise DataError(
            f"The data set '{data.name}' is not the one of the run: its split is {data.split_hash}, "
            f"that of {record.run} is {config.split_hash}.",
            "Bring the run's own split (its provenance stands in data.json of the group), or name a --data-dir.",
        )
    return data


def other_data(
    record: Recorded, name: str, data_dir: str | None, console: Console
) -> tuple[Dataset, np.ndarray | None]:
    """(another data set for a run, the run's number of each of its items); None where both number them alike.

    Says how many items were matched. Raises DataError where nothing tells which item is which.
    """
    data = load_dataset(name, data_dir, console)
    mine, runs_own = numbering_of(data), numbering_of_group(record.group)
    numbers = translation(mine, runs_own)
    if is_identity(numbers, record.n_items):
        return data, None
    console.print(in_words(mine, runs_own, numbers), highlight=False, markup=False, soft_wrap=True)
    return data, numbers


def trained_model(
    record: Recorded, given: str | None, device: str, data_dir: str | None, console: Console, longest: int
) -> tuple[Any, int, torch.device]:
    """(model, step, device): the trained model of a run; a baseline is fitted again, its step is 0.

    Raises DataError where it cannot take a session of `longest` clicks.
    """
    config = record.config
    if config.model in BASELINES:
        prepare_device("cpu")
        fitted = BASELINES[config.model](record.n_items).fit(data_of(record, data_dir, console).train)
        return fitted, 0, torch.device("cpu")
    subject = model_of(record, given)
    where = prepare_device(device, config.batch_size * record.n_items * config.model_options.get("dim", 256))
    model, step = rebuild(record, subject.cls, lambda: data_of(record, data_dir, console).train)
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


def go_on(
    name: str, *, runs_dir: str, model: str | None, data_dir: str | None, device: str | None, quiet: bool, as_json: bool
) -> None:
    """Go on with an interrupted run, or with all of a group, and end as the command that began it would."""
    workers.join()
    console = Console(stderr=True, quiet=not workers.is_first())
    found, damaged = list[Recorded](), list[DataError]()
    for run in folders.resolve_runs(name, runs_dir):
        try:
            found.append(read_run(run))
        except DataError as error:
            damaged.append(error)
    folders.leave_out(damaged, is_all=not found)
    if not folders.RUN.fullmatch(Path(name).resolve().name):
        found += _not_begun(found)
    records = [record for record in found if not folders.is_done(record.run)]
    if not records:
        for record in found:
            folders.read_summary(record.run)  # says how to write a lost one again
        sparse = [record.group for record in found if record.config.is_sparse]
        see = f"dissect verdict {shlex.quote(str(sparse[0]))}" if sparse else "dissect compare; dissect evaluate RUN"
        raise UsageError(
            f"Finished already: {', '.join(str(record.run) for record in found) or name}.", f"See it: {see}"
        )
    config, group = records[0].config, records[0].group
    for record in records:
        if record.run != folders.run_path(group, record.seed, record.variant):
            raise UsageError(f"{record.run} was set aside by --force.", "Name the run that came in its place.")
    data = data_of(records[0], data_dir, console)
    for record in records:
        if config.model in BASELINES:
            rank_baseline(config.model, data, config, group, False, quiet, console)
            continue
        subject = model_of(record, model)
        train_seeds(
            subject,
            data,
            config,
            group,
            seeds=[record.seed],
            without=roles_without(record.variant, subject.cls.removable),
            device=device or record.option("--device") or "auto",
            quiet=quiet,
            console=console,
            weights=_weights_for(record, runs_dir, subject, data),
            steps={record.seed: record.steps},
        )
    if not workers.is_first():
        return
    if not config.refit and "--refit" in (command := records[0].command):
        console.print(f"The training on everything comes next: {shlex.join(command)}", highlight=False, soft_wrap=True)
    if config.is_sparse:
        show_verdict(group, data.name, as_json)
    else:
        show_results(group, data, config.protocol, as_json)


def _not_begun(found: list[Recorded]) -> list[Recorded]:
    """The seeds that the commands of these runs name and that have no folder yet."""
    to_come: dict[Path, Recorded] = {}
    for record in found:
        for text in record.options("--seed"):
            run = folders.run_path(record.group, int(text), record.variant) if text.isdigit() else record.run
            if not run.exists() and not record.config.refit:  # a refit's steps come out of the run before it
                to_come[run] = replace(record, run=run, seed=int(text))
    return list(to_come.values())


def _weights_for(record: Recorded, runs_dir: str, subject: Subject, data: Dataset) -> dict[str, Any] | None:
    """The weights that a run starts from, where it has no checkpoint yet; from the run that its command names."""
    config, begun = record.config, any((record.run / "checkpoints").glob("last*.pt"))
    if begun:
        return None
    if config.refit and not (record.run / "environment.json").exists():
        raise DataError(
            f"{record.run} stopped before it was on record for how many steps it is.", "Give the same command again."
        )
    if config.init_from is None:
        return None
    source = record.option("--init-from")
    folder = Path(record.option("--runs-dir") or runs_dir)
    start = starting_weights(source, folder, subject, config.model_options, data)
    if start.fingerprint != config.init_from:
        raise DataError(
            f"{record.run} starts from weights {config.init_from}, and {source or 'the run they came from'} "
            f"has {start.fingerprint or 'none'}.",
            "Give the same command again.",
        )
    return start.weights
