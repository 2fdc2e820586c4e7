"""Finished runs and exports read back: record, weights and accuracy."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

from dissect.data.sessions import Dataset, split_validation, times_hash
from dissect.data.translate import in_words, is_identity, numbering_of, numbering_of_group, translation
from dissect.errors import DataError, UsageError
from dissect.experiment import exported
from dissect.experiment.plan import Say, unsaid, work
from dissect.experiment.recorded import Load, data_of, model_of
from dissect.experiment.subject import require_length
from dissect.runs import files, folders
from dissect.runs.records import ALSO, METRICS
from dissect.runs.replace import require_file
from dissect.training.device import prepare_device
from dissect.training.evaluation import metrics, rank_sessions
from dissect.training.finish import write_ranks_of
from dissect.training.lists import Lists
from dissect.training.rebuild import Recorded, read_run, rebuild, require_finished
from dissect.usual import DATASET


def finished_run(name: str | Path, runs_dir: str | Path, dissected: bool = False) -> Recorded:
    """The record of a finished run by its name, or by that of a group with one seed; or of an export by its folder.

    `dissected` is that of `folders.resolve_group`.
    """
    if exported.is_export(name) or (Path(name) / exported.WEIGHTS).is_file():  # of one without a record: it says so
        return exported.read_export(name)
    record = read_run(folders.resolve_run(name, runs_dir, dissected))
    require_finished(record)
    return record


def newest_dataset(runs_dir: str | Path, say: Say) -> str:
    """The name of the data set of the newest group, or else of the built-in one; says so."""
    newest = folders.newest_sound_group(runs_dir)
    dataset = str(folders.group_config(newest)["dataset"]) if newest else DATASET
    say(f"Data set: {dataset} ({'as in the newest group' if newest else 'built in'}).")
    return dataset


def trained_model(
    record: Recorded, data: Callable[[], Dataset], longest: int, given: str | type | None = None, device: str = "auto"
) -> tuple[Any, int, torch.device]:
    """(model, step, device): the trained model of a run; a baseline is fitted again, its step is 0.

    `data` gives the run's data set if it is needed; `given` is the present place of the user's own model. Raises
    DataError if the model cannot take a session of `longest` clicks.
    """
    config, subject = record.config, model_of(record, given)
    if exported.is_export(record.run):
        where = prepare_device(device, work(config, record.n_items))
        served = exported.load_export(record.run, given)
        require_length(served, subject.name, config.kept(longest), "session asked for")
        return served.to(where), record.steps, where
    if not subject.learns:
        prepare_device("cpu")
        sessions = data().train
        if config.times_hash not in (None, times_hash(sessions)):
            raise DataError(
                f"The data set has other times than {record.run} was fitted on.",
                f"Fit it again: dissect train {shlex.quote(subject.given or subject.name)}",
            )
        try:
            fitted = subject.cls(record.n_items, **config.model_options)
        except (TypeError, ValueError) as error:  # the record of another version, or of somebody else
            raise DataError(f"The settings of {record.run} do not fit {subject.name}: {error}.") from error
        fitted.prepare(sessions)
        return fitted, 0, torch.device("cpu")
    where = prepare_device(device, work(config, record.n_items))
    model, step = rebuild(record, subject.cls, lambda: data().train)
    require_length(model, subject.name, config.kept(longest), "session asked for")
    return model.to(where), step, where


def evaluate(
    record: Recorded,
    load: Load,
    *,
    split: str = "test",
    ties: str = "best",
    dataset: str | None = None,
    ranks: Path | None = None,
    keep: bool = False,
    model: str | None = None,
    device: str = "auto",
    data_dir: str | None = None,
    say: Say = unsaid,
) -> dict[str, Any]:
    """HR and MRR of the trained model of a run, on a part of its own data set or of another; writes `ranks`.

    On another data set its items are matched by identifier: misses are counted, and the accuracy over the targets that
    the model knows is given too. On its own data set coverage and popularity of the lists are given; `keep` adds them
    to the summary of a run of an earlier version, which lacks them.
    """
    if keep and (dataset or split != "test"):
        raise UsageError("--keep is for the run's own test set.", "Leave out --dataset and --split.")
    if keep and exported.is_export(record.run):
        raise UsageError(f"--keep adds to the summary of a run, and {record.run} is an export.", "Leave out --keep.")
    if ranks is not None:
        ranks = ranks.resolve()  # what a link names is written, and the link stays
        require_file(ranks, "file of ranks", lambda head: b"rank.npy" in head[:60], "choose another --ranks")
    own = partial(data_of, record, load, data_dir)
    data, numbers = load(dataset, data_dir) if dataset else own(), None
    if dataset:
        mine, runs_own = numbering_of(data), numbering_of_group(record.group)
        if not is_identity(found := translation(mine, runs_own), record.n_items):
            numbers = found
            say(in_words(mine, runs_own, numbers))
    train, valid = split_validation(data.train, record.config.held_out)
    sessions = {"test": data.test, "valid": valid, "train": train}[split]
    if not sessions.n_prefixes:
        why = "" if record.config.held_out else ": it held no sessions out of the training"
        raise UsageError(
            f"The run's '{split}' part has no prefix to rank{why}.", "It can be evaluated on: --split test"
        )
    trained, step, where = trained_model(record, own, int(sessions.lengths.max()) - 1, model, device)
    lists = None if dataset else Lists()
    ranked = rank_sessions(trained, sessions, where, ties, numbers, record.config.longest, lists)
    if ranks is not None:
        write_ranks_of(ranks, ranked.rank, sessions)
    result = {"run": str(record.run), "model": record.config.model, "variant": record.variant, "seed": record.seed}
    result |= {"step": step, "dataset": data.name, "split_hash": data.split_hash, "split": split, "ties": ties}
    result |= {"n": len(ranked.rank), **metrics(ranked.rank, (*METRICS, *ALSO))}
    if lists is not None:
        result |= (about := lists.about(data.train))
        if keep:
            files.write_json(record.run / "summary.json", {**folders.read_summary(record.run), "lists": about})
    if ranked.known is not None:
        misses = {"unknown_targets": int((~ranked.known).sum()), "without_known_click": ranked.without_click}
        names, of_known = (*METRICS, *ALSO), ranked.rank[ranked.known]
        result |= {**misses, "known_targets": metrics(of_known, names) if len(of_known) else dict.fromkeys(names)}
    return result
