"""Interrupted runs continued from their folders."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import dissect
from dissect.data.sessions import Dataset
from dissect.errors import DataError, FinishedError, UsageError
from dissect.experiment.plan import Plan, starting_weights
from dissect.experiment.recorded import Load, data_of, model_of
from dissect.experiment.subject import Subject
from dissect.experiment.train import Manner, train_seeds
from dissect.runs import folders
from dissect.runs.config import SEEDS
from dissect.runs.replace import set_aside
from dissect.training import workers
from dissect.training.rebuild import Recorded, read_run, roles_without
from dissect.usual import RUNS


def unfinished(name: str, runs_dir: str | Path) -> list[Recorded]:
    """The records of the runs to continue: of the run named, or of all unfinished ones of a group.

    Those that the same command had not begun are among them. Raises FinishedError if nothing is left to do, DataError
    if only damaged ones are.
    """
    with folders.hearing(is_aloud=True) as lost:
        found = folders.each_sound(folders.resolve_runs(name, runs_dir), read_run)
    if not folders.RUN.fullmatch(Path(name).resolve().name):
        # A refit's steps come out of the run before; a matched run may be a copy, and name the seeds of another group.
        for record in [each for each in found if not each.config.refit and each.variant != folders.MATCHED]:
            given = list(map(int, filter(str.isdecimal, record.options("--seed"))))
            begins = "run" in record.command[:2]  # not a resume, which names no seed
            seeds = given or (SEEDS if begins else (record.seed,))
            own = [(record.variant, record.config)]
            if record.variant == folders.FULL and record.config.shadows:
                own.append((folders.MATCHED, record.config.matched()))
            for variant, config in own:
                for seed in seeds:
                    run = folders.run_path(record.group, seed, variant)
                    if not run.exists() and run not in [each.run for each in found]:
                        found.append(replace(record, run=run, seed=seed, variant=variant, config=config))
    records = [record for record in found if not folders.is_done(record.run)]
    if not records and lost:
        raise lost[0]
    if not found:
        raise UsageError(f"{name} has no run yet.", "Make one: dissect run")
    if not records:
        for record in found:
            folders.read_summary(record.run)  # says how to write a lost one again
        sparse = [record.group for record in found if record.config.is_sparse]
        see = f"dissect verdict {shlex.quote(str(sparse[0]))}" if sparse else "dissect compare; dissect evaluate RUN"
        raise FinishedError(
            f"Finished already: {', '.join(str(each.run) for each in found)}.", f"See it: {see}", found[0].group
        )
    for record in records:
        _require_in_place(record)
    return records


def to_begin_anew(name: str, runs_dir: str | Path) -> Recorded:
    """The record of the run `name`, which is to be trained once more. Raises UsageError if `name` is a group."""
    if not folders.RUN.fullmatch(Path(name).resolve().name):
        raise UsageError(
            f"{name} is a group: only a single run is begun anew.",
            f"Name one: dissect resume {shlex.quote(f'{name}/s1')} --force",
        )
    (run,) = folders.resolve_runs(name, runs_dir)
    record = read_run(run)
    _require_in_place(record)
    return record


def _require_in_place(record: Recorded) -> None:
    if record.run != folders.run_path(record.group, record.seed, record.variant):
        raise UsageError(f"{record.run} was set aside by --force.", "Name the run that came in its place.")


def go_on(
    records: Sequence[Recorded],
    load: Load,
    manner: Manner,
    runs_dir: str | Path = RUNS,
    model: str | None = None,
    data_dir: str | None = None,
    device: str | None = None,
) -> Dataset:
    """Continue runs of one group, as the command that began them would; returns their data set.

    `model` is the present place of the user's own model. The device is that of the command unless given. With
    `manner.force` they begin anew, and what is there is set aside.
    """
    data, subject = data_of(records[0], load, data_dir), model_of(records[0], model)
    for record in records:
        without = roles_without(record.variant, subject.cls.removable) if subject.learns else ()
        is_matched = record.variant == folders.MATCHED
        weights = _weights_for(record, runs_dir, subject, data, manner.force)  # refused before anything is set aside
        if manner.force and workers.is_first():
            manner.say(f"The old run is kept as {set_aside(record.run)}")
        workers.wait()
        plan = Plan(subject, data, record.config, record.group, (record.seed,), without, is_matched=is_matched)
        plan = replace(plan, weights=weights, steps={record.seed: record.steps})
        with _commanded(record):
            train_seeds(plan, replace(manner, device=device or record.option("--device") or "auto"))
    command = records[0].command
    if not records[0].config.refit and "--refit" in command:
        manner.say(f"The training on everything comes next: {shlex.join(command)}")
    return data


@contextmanager
def _commanded(record: Recorded) -> Iterator[None]:
    """A run without a checkpoint begins, and records the command that began it or the others: that names the data, the
    seeds and the user's model.
    """
    was = dissect.command
    if not _checkpoints(record):
        dissect.command = record.command
    try:
        yield
    finally:
        dissect.command = was


def _checkpoints(record: Recorded) -> list[Path]:
    return [*(record.run / folders.CHECKPOINTS).glob("last*.pt")]


def _weights_for(
    record: Recorded, runs_dir: str | Path, subject: Subject, data: Dataset, anew: bool
) -> dict[str, Any] | None:
    """The weights that a run without a checkpoint, or one that begins `anew`, starts from: those of the run that its
    command names.
    """
    config = record.config
    if _checkpoints(record) and not anew:
        return None
    if config.refit and not (record.run / "environment.json").exists():
        raise DataError(f"{record.run} stopped before it recorded its number of steps.", "Give the same command again.")
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
