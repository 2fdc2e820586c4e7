"""The trials of a tuning, chosen by Optuna and trained by any number of processes.

All trials stand in an Optuna journal. A process takes the next trial under a lock, and holds another one while it
trains it; a trial that nobody holds was cut off, and the next process continues it from its checkpoint.
"""

from __future__ import annotations

import math
import os
import shlex
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from textwrap import shorten
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from dissect.errors import BusyError, DataError, DissectError, DivergedError, ModelError, UsageError
from dissect.experiment.subject import faults_named
from dissect.experiment.task import Task
from dissect.experiment.tuned import TABLE
from dissect.runs import files, folders, replace
from dissect.text import shown
from dissect.training.loop import fit
from dissect.training.observers import is_of_observer
from dissect.training.record import Observer
from dissect.training.resume import Interrupted
from models.search import Choice, Int, Space

if TYPE_CHECKING:
    import optuna

JOURNAL = "trials.journal"
RANDOM_TRIALS = 5  # the first ones, with that of the defaults, before the sampler (TPE) learns
PATIENCE = 5.0  # seconds to wait for another process before saying so
PRUNED_AFTER = (4, 2)  # whole trials before any is pruned, and epochs before this one is
INSTALL = "Install it, in the clone of dissect: pip install -e '.[tune]'"


class _Pruned(Exception):
    """A trial is worse than the others were at its epoch."""


def require_optuna() -> None:
    """Raises UsageError, with the command that installs it, without Optuna."""
    try:
        import optuna  # noqa: F401
    except ImportError as error:
        raise UsageError("Tuning needs Optuna, which is not installed.", INSTALL) from error


def opened(todo: Task) -> optuna.Study:
    """The journal of a task, made if it is not there. Raises UsageError without Optuna, DataError if it is damaged."""
    require_optuna()
    import optuna
    from optuna.storages.journal import JournalFileBackend, JournalFileSymlinkLock

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    path = todo.folder / JOURNAL
    if os.path.lexists(path) and not path.is_file():
        raise _damaged(path, "it is no file")
    try:
        todo.folder.mkdir(parents=True, exist_ok=True)
        path.touch()
        lock = JournalFileSymlinkLock(
            str(path.resolve())
        )  # of a relative path it would wait for a dead process for ever
        with alone(todo.folder):
            cut_back(path, lock)
    except OSError as error:
        raise files.refused(path, error) from error
    _require_beginning(path)
    pruner = optuna.pruners.MedianPruner(*PRUNED_AFTER)
    try:
        storage = optuna.storages.JournalStorage(JournalFileBackend(str(path), lock))
        study = optuna.create_study(
            storage=storage, study_name="tune", direction="maximize", pruner=pruner, load_if_exists=True
        )
        study.get_trials()
    except Exception as error:  # a garbled journal can fail anywhere in Optuna
        raise _damaged(path, f"{type(error).__name__}: {error}") from error
    return study


def _damaged(path: Path, why: str) -> DataError:
    folder = shlex.quote(str(path.parent))
    return DataError(f"{path} is damaged: {why}.", f"Move it away and tune anew: mv {folder} {folder}.old")


def _require_beginning(path: Path) -> None:
    """Raises DataError if a journal lost its first lines: Optuna would begin anew, beside trials that are there."""
    with open(path, "rb") as file:
        first = file.readline()
    if not first and (path.parent / TABLE).exists():
        raise _damaged(path, f"it is empty, and {TABLE} has trials")
    if first and b'"study_name"' not in first:
        raise _damaged(path, "its beginning is not that of a tuning")


def cut_back(path: Path, lock: Any) -> None:
    """Cut off a last line that a killed process left half-written: what is appended to it could not be read."""
    lock.acquire()
    try:
        content = path.read_bytes()
        if len(content) > (whole := content.rfind(b"\n") + 1):
            os.truncate(path, whole)
    finally:
        lock.release()


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Context manager: no other process chooses a trial or writes the table. Ctrl-C waits until it is over.

    That takes moments: if another process takes longer, the file that it holds is named on stderr.
    """
    late = time.monotonic() + PATIENCE
    with ExitStack() as held:
        while True:
            try:
                held.enter_context(files.locked(folder))
                break
            except BusyError:
                if time.monotonic() > late:
                    late = math.inf
                    print(f"Waiting for another process, which holds {folder / '.lock'}.", file=sys.stderr)
                time.sleep(0.05)
        stops = {signal.SIGINT, signal.SIGTERM} if threading.current_thread() is threading.main_thread() else set()
        before = signal.pthread_sigmask(signal.SIG_BLOCK, stops)
        try:
            yield
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)


def take(todo: Task, study: optuna.Study, held: ExitStack) -> optuna.Trial | None:
    """The next trial: one that was cut off, or else a new one; None if there are enough. `held` keeps it for us.

    Its values follow from the seed, its number and the trials before it. So a tuning that was stopped goes on with the
    trials that it would have made.
    """
    import optuna

    waiting, running = optuna.trial.TrialState.WAITING, optuna.trial.TrialState.RUNNING
    with alone(todo.folder):
        begun = [each for each in study.get_trials(deepcopy=False) if each.state != waiting]
        for each in begun:
            if each.state == running and _is_free(todo.trial_folder(each.number), held):
                study.sampler = sampler(todo.seed, each.number)
                return chosen(optuna.Trial(study, each._trial_id), todo.space)
        if len(begun) >= todo.asked:
            return None
        if not study.get_trials(deepcopy=False):
            study.enqueue_trial(dict(todo.start))
        study.sampler = sampler(todo.seed, len(begun))
        trial = study.ask()
        held.enter_context(files.locked(todo.trial_folder(trial.number)))
        return chosen(trial, todo.space)


def _is_free(folder: Path, held: ExitStack) -> bool:
    """Whether nobody trains in the folder of a trial; then we hold it."""
    try:
        held.enter_context(files.locked(folder))
    except BusyError:
        return False
    return True


def sampler(seed: int, number: int) -> optuna.samplers.TPESampler:
    """The sampler of a trial: random numbers of its own, so that it does not matter which process made those before."""
    import optuna

    own = int(np.random.SeedSequence([seed, number]).generate_state(1)[0])
    return optuna.samplers.TPESampler(n_startup_trials=RANDOM_TRIALS, seed=own)


def chosen(trial: optuna.Trial, space: Mapping[str, Space]) -> optuna.Trial:
    """The trial with a value for each name of the space; those that it has already stay."""
    for name, each in space.items():
        if isinstance(each, Choice):
            trial.suggest_categorical(name, each.values)
        elif isinstance(each, Int):
            trial.suggest_int(name, each.low, each.high, log=each.log)
        else:
            trial.suggest_float(name, each.low, each.high, step=each.step, log=each.log)
    return trial


def perform(
    todo: Task, study: optuna.Study, trial: optuna.Trial, device: torch.device, observe: Callable[[str], Observer]
) -> None:
    """Train a trial and tell the journal: its accuracy, or why it has none. Raises DissectError (130) after a signal.

    The same values as in an earlier trial have the same accuracy, and are not trained again.
    """
    from optuna.trial import TrialState

    values, number, began = todo.values(trial.params), trial.number, time.monotonic()
    whole = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    if same := next((each for each in whole if todo.values(each.params) == values), None):
        for name in ("epoch", "epochs"):
            trial.set_user_attr(name, same.user_attrs.get(name))
        trial.set_user_attr("note", f"the same as trial {same.number}")
        study.tell(trial, same.value)
        return
    title = f"{todo.subject.name} on {todo.of_data[0]}, trial {number} ({number + 1} of {max(todo.asked, number + 1)})"
    watch, value = _Watch(observe(title), trial), None
    notes: dict[str, Any]
    try:
        try:
            summary = trained(todo, values, number, device, watch)
        finally:
            seconds = trial.user_attrs.get("seconds", 0.0) + time.monotonic() - began
            trial.set_user_attr("seconds", seconds)
    except _Pruned:
        notes = {"epochs": watch.epoch}
    except Interrupted as stop:
        raise stopped(todo, number) from stop
    except Exception as error:
        if not fails(trial, error):
            raise
        says = error.message if isinstance(error, DissectError) else f"{type(error).__name__}: {error}"
        notes = {"note": shown(shorten(says, 300)), "failed": True}
    else:
        notes, value = {"epoch": summary["selected"]["epoch"], "epochs": summary["epochs"]}, accuracy(summary)
    for name, note in notes.items():
        trial.set_user_attr(name, note)
    # Pruned or failed: the sampler learns from it, as from one that is worse than those that came further.
    study.tell(trial, value, state=TrialState.PRUNED if value is None else None)
    shutil.rmtree(todo.run(number) / folders.CHECKPOINTS, ignore_errors=True)


def accuracy(summary: Mapping[str, Any]) -> float:
    """MRR@20 of a finished trial, percent, with ties against the target.

    Ties in its favour would reward settings that give many items the same score, as neighbour methods have them.
    """
    names = ("test_worst_ties", "test_worst_ties_at_best", "test")  # earlier versions wrote only the last
    return float(next(summary[name]["mrr@20"] for name in names if name in summary))


def fails(trial: optuna.Trial, error: Exception) -> bool:
    """Whether an error is the trial's, which has failed then, and the tuning goes on; else it ends the tuning.

    Values that do not fit, a loss that diverges, too little memory and errors of a user's model are. Those two in the
    first trial, which has the defaults, and errors that nobody expects end the tuning once: the next call takes the
    trial again, and skips it if it raises again. A disk that refuses, and an observer, are never the trial's fault.
    """
    if isinstance(error, (UsageError, DivergedError)):
        return not isinstance(error, BusyError)
    is_short = isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and "memory" in str(error).lower())
    if isinstance(error, ModelError) or is_short:
        if trial.number:
            return True
    elif isinstance(error, (DissectError, OSError)) or is_of_observer(error):
        return False
    is_second = bool(trial.user_attrs.get("raised"))
    trial.set_user_attr("raised", True)
    return is_second


def trained(
    todo: Task, values: Mapping[str, Any], number: int, device: torch.device, watch: Observer
) -> dict[str, Any]:
    """Train a trial, or go on with it; its summary. What it left behind is set aside if it cannot go on from there."""
    plan, run = todo.trial(values), todo.run(number)
    about: dict[str, Any] = {"seed": todo.seed, "device": device, "observer": watch}
    with faults_named(todo.subject, run):
        try:
            if folders.is_done(run):
                return folders.read_summary(run)
            return fit(plan.build, todo.data, plan.config, run, **about)
        except DataError:
            if not run.exists():
                raise
        watch.note(f"Trial {number} begins anew: what it left could not be read, and is {replace.set_aside(run)}.")
        return fit(plan.build, todo.data, plan.config, run, **about)


def stopped(todo: Task, number: int) -> Interrupted:
    """The error after a signal."""
    return Interrupted(
        f"Stopped in trial {number}. It has a checkpoint, and all trials before it are in {todo.folder}.",
        "The same command goes on.",
    )


class _Watch(Observer):
    """Passes on what happens in a trial, tells the journal the accuracy of each epoch, and prunes the trial.

    The first trial is never pruned: the defaults are what all others are measured against.
    """

    def __init__(self, inner: Observer, trial: optuna.Trial) -> None:
        self.inner, self.trial, self.steps, self.per_epoch, self.epoch = inner, trial, 0, 1, 0
        self.step, self.note, self.end = inner.step, inner.note, inner.end  # type: ignore[method-assign]

    def begin(self, run: Path, step: int, steps: int, steps_per_epoch: int) -> None:
        self.steps, self.per_epoch = steps, steps_per_epoch
        self.inner.begin(run, step, steps, steps_per_epoch)

    def evaluating(self, what: str, done: int, total: int) -> None:
        self.inner.evaluating(what.replace("test", "validation", 1), done, total)

    def evaluated(self, split: str, step: int, values: dict[str, float]) -> None:
        self.inner.evaluated("validation", step, values)
        self.epoch = math.ceil(step / self.per_epoch)
        if step == self.steps:
            return
        if self.epoch not in self.trial.storage.get_trial(self.trial._trial_id).intermediate_values:
            self.trial.report(values["mrr@20"], self.epoch)  # not again if it goes on from a checkpoint
        if self.trial.number and self.trial.should_prune():
            raise _Pruned
