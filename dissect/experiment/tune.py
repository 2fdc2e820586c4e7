"""Tuning: a model's options and its training tried out on validation, and the best setting written down."""

from __future__ import annotations

import csv
import io
import math
import os
import shlex
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

import dissect
from dissect.data.sessions import Dataset
from dissect.errors import DissectError, UsageError
from dissect.experiment import tuned
from dissect.experiment.plan import Say, unsaid, work
from dissect.experiment.subject import Subject, defaults
from dissect.experiment.task import Task, task
from dissect.experiment.train import unobserved
from dissect.experiment.trials import JOURNAL, alone, opened, perform, take
from dissect.runs import files
from dissect.runs.config import SETTINGS
from dissect.text import without_formula
from dissect.training.device import prepare_device
from dissect.training.products import at_hand
from dissect.training.record import Observer

if TYPE_CHECKING:
    import optuna

# What a trial's configuration has of its own: a training with the tuned settings has these as it would without them.
ITSELF = {"protocol", "validation", "max_steps"}


def tune(
    model: str | type | Subject,
    data: Dataset,
    *,
    timeout: float | None = None,
    device: str = "auto",
    observe: Callable[[str], Observer] | None = None,
    say: Say | None = None,
    **about: Any,
) -> Path:
    """Tune a model on the validation part of a data set; returns the folder with tuned.toml and trials.csv.

    `about` are the arguments of `task`: trials, sparsevd (train it with SparseVD, whose KL weight is tuned too),
    options, preset, epochs, seed, and settings, which then are not searched. The first trial has the defaults. The same
    call goes on where one was stopped, with more `trials` too; several processes may make it at once. `timeout` is in
    hours: after it no trial begins.

    Raises UsageError for names and values that do not exist or fit, DataError for a damaged journal, DissectError if no
    trial came to its end.
    """
    say = say or unsaid
    require_hours(timeout)
    todo = task(model, data, say=say, **about)
    where = prepare_device(device if todo.subject.learns else "cpu", work(todo.plan.config, data.n_items))
    at_hand(todo.plan.config.products, where)
    study, ends = opened(todo), time.monotonic() + 3600 * (timeout or math.inf)
    if not todo.space and todo.asked > 1:
        say(f"{todo.subject.name} has nothing to tune: one trial, its defaults.")
        todo = replace(todo, asked=1)
    while time.monotonic() < ends:
        with ExitStack() as held:
            trial = take(todo, study, held)
            if trial is None:
                break
            perform(todo, study, trial, where, observe or unobserved)
            with alone(todo.folder):
                write(todo, study)
            say(in_words(todo, study, trial.number))
    with alone(todo.folder):
        write(todo, study)
    if not (todo.folder / tuned.FILE).exists():
        raise DissectError(
            f"No trial of {todo.subject.name} came to its end: {todo.folder / tuned.TABLE} has the reasons.",
            "Give more trials, or fix the setting that fails, such as --lr 0.001.",
        )
    return todo.folder


def require_hours(timeout: float | None) -> None:
    """Raises UsageError for a time that is over before anything begins, or endless."""
    if timeout is not None and not 0 < timeout < math.inf:
        raise UsageError(f"--timeout is in hours and above 0, not {timeout:g}.")


def look(model: str | type | Subject, data: Dataset, **about: Any) -> Path:
    """The folder of a tuning that has a finished trial, as `tune` with the same arguments finds it; trains nothing.

    A tuned.toml or trials.csv that is lost is written again from the journal. Raises UsageError if no trial is
    finished, DataError for a damaged journal.
    """
    todo = task(model, data, **about)
    if any(os.path.lexists(todo.folder / name) for name in (JOURNAL, tuned.TABLE)):
        study = opened(todo)
        if not all((todo.folder / name).exists() for name in (tuned.FILE, tuned.TABLE)):
            with alone(todo.folder):
                write(todo, study)
    if not (todo.folder / tuned.FILE).exists():
        raise UsageError(f"No trial is finished in {todo.folder}.", "Without --status the same command makes some.")
    return todo.folder


def best_of(study: optuna.Study) -> optuna.trial.FrozenTrial | None:
    """The trial with the highest accuracy, of equal ones the first; None if none is finished."""
    from optuna.trial import TrialState

    whole = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    return max(whole, key=lambda each: (each.value, -each.number), default=None)


def write(todo: Task, study: optuna.Study) -> None:
    """Write trials.csv and, once a trial is finished, tuned.toml."""
    rows = table(todo, study)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(rows[0] if rows else [])
    writer.writerows([without_formula(cell) for cell in row.values()] for row in rows)
    files.write_atomically(todo.folder / tuned.TABLE, lambda file: file.write(text.getvalue().encode()))
    if (best := best_of(study)) is not None:
        files.write_toml(todo.folder / tuned.FILE, record(todo, study, best))


def table(todo: Task, study: optuna.Study) -> list[dict[str, Any]]:
    """A row for each trial: trial, state, mrr@20 (on validation, ties against the target; None unless finished), epoch,
    epochs, seconds, what was tried, note.
    """
    rows = []
    for each in study.get_trials(deepcopy=False):
        failed, word = each.user_attrs.get("failed"), {"COMPLETE": "finished", "PRUNED": "pruned"}
        about = {
            "trial": each.number,
            "state": "failed" if failed else word.get(each.state.name, each.state.name.lower()),
        }
        about["mrr@20"] = each.value if about["state"] == "finished" else None
        about |= {name: each.user_attrs.get(name) for name in ("epoch", "epochs", "seconds")}
        values = todo.values(each.params)
        tried = {name: "none" if name in values and values[name] is None else values.get(name) for name in todo.space}
        rows.append({**about, **tried, "note": each.user_attrs.get("note", "")})
    return rows


def record(todo: Task, study: optuna.Study, best: optuna.trial.FrozenTrial) -> dict[str, Any]:
    """What tuned.toml holds (tuned.Tuned)."""
    import optuna

    values, takes = todo.values(best.params), defaults(todo.subject)
    config = replace(todo.plan.config, **{name: value for name, value in values.items() if name not in takes})
    more, given = todo.more, {name: value for name, value in todo.about["options"].items() if name != "dim"}
    trials = study.get_trials(deepcopy=False)
    settings = {
        each.name: getattr(config, each.name)
        for each in SETTINGS
        if each.name not in ITSELF
        and (getattr(config, each.name) != each.default or each.name in {*more["usual"], *values})
    }
    if settings.get("where") == "none":
        del settings["where"]
    settings |= {name: more["fixed"][name] for name in ("max_steps",) if name in more["fixed"]}
    settings |= {"validation": more["validation"]} if "validation" in more else {}
    return {
        "model": todo.subject.name,
        "model_source": todo.subject.source,
        "verb": more["verb"],
        **dict(zip(("dataset", "split_hash"), todo.of_data)),
        "preset": more["preset"],
        "dim": config.model_options.get("dim"),
        "epochs": more["epochs"],
        "trials": sum(each.state.is_finished() for each in trials),
        "asked": max(todo.asked, len(trials)),  # another process, or an earlier call, may have asked for more
        "best_trial": best.number,
        "mrr_20": best.value,
        "default_mrr_20": trials[0].value if trials[0].state.name == "COMPLETE" else None,
        "seed": todo.seed,
        "dissect": dissect.__version__,
        "torch": torch.__version__,
        "optuna": optuna.__version__,
        "command": shlex.join(dissect.command),
        "options": {name: value for name, value in values.items() if name in takes},
        "settings": settings if todo.subject.learns else {},
        "given": given,
        "fixed": {name: value for name, value in more["fixed"].items() if name not in (*ITSELF, "products")},
        "searched": {name: str(space) for name, space in todo.space.items()},
    }


def in_words(todo: Task, study: optuna.Study, number: int) -> str:
    """What came of a trial, the best so far, and how long the others will take here."""
    rows = table(todo, study)
    own, best = rows[number], best_of(study)
    done = [row for row in rows if row["state"] in ("finished", "pruned", "failed")]
    says = f"{len(done)} of {todo.asked}: trial {number} {own['state']}"
    says += f", MRR@20 {own['mrr@20']:.2f}" if own["mrr@20"] is not None else f" ({own['note']})" if own["note"] else ""
    says += f". Best: {best.value:.2f}, trial {best.number}." if best else "."
    if left := max(0, todo.asked - len(done)):
        each = sum(row["seconds"] or 0.0 for row in done) / len(done)
        says += f" {timedelta(seconds=round(left * each))} left."
    return says
