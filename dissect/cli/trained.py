"""What the verbs for trained models share: from the name of a run to its record, data set, class and weights."""

from __future__ import annotations

import csv
import difflib
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import Tensor

from dissect import runs
from dissect.cli.dissecting import load_dataset, show_results, show_verdict
from dissect.cli.launch import rank_baseline, starting_weights, train_seeds
from dissect.cli.subject import Subject, find_model
from dissect.data.sessions import Dataset
from dissect.errors import DataError, DivergedError, UsageError
from dissect.training import workers
from dissect.training.device import prepare_device
from dissect.training.rebuild import Recorded, read_run, rebuild, require_finished, roles_without
from dissect.training.scoring import catalogue
from models import BASELINES

QUOTED = "As in --session sku-881,sku-17, with quotes around what has a comma or begins with a space: '\"a, b\",c'."
NEAR_AMONG = 100_000  # identifiers, the first so many: more would take seconds


def finished_run(name: str, runs_dir: str) -> Recorded:
    """The record of a finished run by its name, or by that of a group with one seed."""
    record = read_run(runs.resolve_run(name, runs_dir))
    require_finished(record)
    return record


def model_of(record: Recorded, given: str | None = None) -> Subject:
    """The class that a run was made with: a registered one, or that of a user's file.

    The file is `given`, else the one that the run's command names. Raises DataError where it is gone or has changed.
    """
    config = record.config
    if config.model_source is None:
        return find_model(config.model)
    named = [word.removeprefix("--model=") for word in record.command]
    path = given or next((word for word in named if Path(word).name == config.model), config.model)
    hint = "Name it: --model path/to/file.py:ClassName"
    if not Path(path.rsplit(":", 1)[0]).is_file():
        raise DataError(f"The run's model was {path}, and that file is not here.", hint)
    subject = find_model(path)
    if subject.source != config.model_source:
        raise DataError(
            f"{path} is not the file that the run was made with: its SHA-256 begins with {str(subject.source)[:12]}, "
            f"that of the run's with {config.model_source[:12]}.",
            hint,
        )
    return subject


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


def other_data(record: Recorded, name: str, data_dir: str | None, console: Console) -> Dataset:
    """Another data set for a run. Raises DataError where its catalogue has another size."""
    data = load_dataset(name, data_dir, console)
    if data.n_items != record.n_items:
        raise DataError(
            f"'{data.name}' has {data.n_items:,} items, the run's '{record.config.dataset}' {record.n_items:,}: "
            "the model has no scores for its catalogue.",
            "Train on it: " + shlex.join(["dissect", "train", record.config.model, "--dataset", data.name]),
        )
    if data.split_hash != record.config.split_hash:
        console.print(
            f"'{data.name}' is another split than the run's ({data.split_hash}, not {record.config.split_hash}). The "
            "numbers mean something only where both number their items alike, which an equal count does not show.",
            style="yellow",
            highlight=False,
            soft_wrap=True,
        )
    return data


def trained_model(
    record: Recorded, given: str | None, device: str, data_dir: str | None, console: Console
) -> tuple[Any, int, torch.device]:
    """(model, step, device): the trained model of a run; a baseline is fitted again, its step is 0."""
    config = record.config
    if config.model in BASELINES:
        prepare_device("cpu")
        fitted = BASELINES[config.model](record.n_items).fit(data_of(record, data_dir, console).train)
        return fitted, 0, torch.device("cpu")
    subject = model_of(record, given)
    where = prepare_device(device, config.batch_size * record.n_items * config.model_options.get("dim", 256))
    model, step = rebuild(record, subject.cls, lambda: data_of(record, data_dir, console).train)
    return model.to(where), step, where


@torch.inference_mode()
def scores_after(model: Any, session: list[int], device: torch.device) -> Tensor:
    """The score of each item [V] after a session, as an evaluation sees them.

    Raises DivergedError where a trained model's are no numbers.
    """
    items, lengths = torch.tensor([session], device=device), torch.tensor([len(session)], device=device)
    if not hasattr(model, "encode"):
        scores: Tensor = model.scores(items, lengths)[0]
        return scores
    S = model.item_states()
    matrix, bias = catalogue(model, S)
    scores = model.encode(S, items, lengths)[0][0] @ matrix.t()
    scores = scores if bias is None else scores + bias
    if not torch.isfinite(scores).all():
        raise DivergedError("The model's scores are no longer numbers: there is nothing to recommend by.")
    return scores


def read_session(text: str, n_items: int, named: bool = False) -> list[int]:
    """Item numbers from "12,7,99". Raises UsageError for an empty session, a gap, or an item that there is not.

    `named` items could be asked for by their identifiers too, and the error says so.
    """
    words = text.replace(",", " ").split()
    if not words:
        raise UsageError("The session is empty.", "Give its items in the order of the clicks: --session 12,7,99")
    if not all(part.strip() for part in text.split(",")):
        raise UsageError(f"--session {text} has a gap: no item stands beside a comma.", f"--session {','.join(words)}?")
    session = []
    for word in words:
        if not (word.isascii() and word.isdigit() and 1 <= int(word) <= n_items):
            hint = f"The items of this run are numbered from 1 to {n_items}."
            raise UsageError(f"There is no item {word!r}.", hint + " By what they are called: --identifiers" * named)
        session.append(int(word))
    return session


def shown(value: object) -> str:
    """A value of a record on one line, whatever is in it."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in str(value))


def read_identified(text: str, identifiers: list[int | str] | None) -> list[int]:
    """Item numbers from "sku-881,sku-17", what the log or the files call the items; quotes around one with a comma.

    Raises UsageError for an empty session, a gap, what no item is called, or a data set without such identifiers.
    """
    if identifiers is None:
        raise UsageError(
            "The run knows its items by their numbers only: there is no items.json in its group.",
            "Leave --identifiers out.",
        )
    try:
        words = next(csv.reader([text], skipinitialspace=True, strict=True), [])
    except csv.Error as error:
        raise UsageError(f"--session {text!r} cannot be read: {error}.", QUOTED) from error
    if not all(words) or not words:
        raise UsageError(f"--session {text!r} is empty, or has a gap.", QUOTED)
    number = {str(known): item for item, known in enumerate(identifiers, 1) if known != ""}
    for word in words:
        if word not in number:
            near = difflib.get_close_matches(word, list(number)[:NEAR_AMONG], n=3)
            raise UsageError(f"No item is called {word!r}.", f"Did you mean {' or '.join(near)}?" if near else QUOTED)
    return [number[word] for word in words]


def go_on(
    name: str, *, runs_dir: str, model: str | None, data_dir: str | None, device: str | None, quiet: bool, as_json: bool
) -> None:
    """Go on with an interrupted run, or with all of a group, and end as the command that began it would."""
    workers.join()
    console = Console(stderr=True, quiet=not workers.is_first())
    found, damaged = list[Recorded](), list[DataError]()
    for run in runs.resolve_runs(name, runs_dir):
        try:
            found.append(read_run(run))
        except DataError as error:
            damaged.append(error)
    runs.leave_out(damaged, is_all=not found)
    if not runs.RUN.fullmatch(Path(name).resolve().name):
        found += _not_begun(found)
    records = [record for record in found if not runs.is_done(record.run)]
    if not records:
        for record in found:
            runs.read_summary(record.run)  # says how to write a lost one again
        sparse = [record.group for record in found if record.config.is_sparse]
        see = f"dissect verdict {shlex.quote(str(sparse[0]))}" if sparse else "dissect compare; dissect evaluate RUN"
        raise UsageError(
            f"Finished already: {', '.join(str(record.run) for record in found) or name}.", f"See it: {see}"
        )
    config, group = records[0].config, records[0].group
    for record in records:
        if record.run != runs.run_path(group, record.seed, record.variant):
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
            weights=_weights_for(record, runs_dir),
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
            run = runs.run_path(record.group, int(text), record.variant) if text.isdigit() else record.run
            if not run.exists() and not record.config.refit:  # a refit's steps come out of the run before it
                to_come[run] = replace(record, run=run, seed=int(text))
    return list(to_come.values())


def _weights_for(record: Recorded, runs_dir: str) -> dict[str, Any] | None:
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
    weights, fingerprint = starting_weights(source, Path(record.option("--runs-dir") or runs_dir))
    if fingerprint != config.init_from:
        raise DataError(
            f"{record.run} starts from weights {config.init_from}, and {source or 'the run they came from'} "
            f"has {fingerprint or 'none'}.",
            "Give the same command again.",
        )
    return weights
