"""A study on a data set, from Python: what `dissect study run`, `status`, `table` and `figure` do."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from analyses import claims
from analyses import study as studying
from analyses.studies import Study, find_study, only
from analyses.study import Job
from dissect import drawing
from dissect.arguments import check
from dissect.data.sessions import Dataset
from dissect.errors import DissectError, UsageError
from dissect.experiment.own_models import require_named
from dissect.experiment.plan import Say, unsaid
from dissect.experiment.trials import require_optuna
from dissect.experiment.tune import require_hours, tune
from dissect.runs import folders
from dissect.runs.config import is_file_name
from dissect.text import in_time, plural
from dissect.training.device import processor_as_it_was
from dissect.training.resume import Interrupted
from dissect.usual import TRIALS

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def studied(
    name: str,
    data: Dataset,
    runs_dir: str | Path,
    scale: str,
    *,
    arms: Sequence[str] = (),
    tuned: bool = False,
    how: Mapping[str, Any] | None = None,
    say: Say = unsaid,
    progress: Say | None = None,
    **size: Any,
) -> Studied:
    """A study by its name or file, or only some of its `arms`, on a data set at a scale; `size` wins over the scale.

    With `tuned`, arms take the settings that were found for them in `runs_dir`; those that have none are said. How far
    the work is goes to `progress`, which is `say` unless given. Raises UsageError for a name or value that does not
    exist, DataError if an arm has a model file that the user never named.
    """
    if not isinstance(tuned, bool):
        raise UsageError(
            f"tuned is True or False for a study, which takes what lies in the runs folder, not {tuned!r}."
        )
    if Path(runs_dir).exists() and not Path(runs_dir).is_dir():
        raise UsageError(f"{runs_dir} is a file, not a folder.", "Name the folder of the runs with --runs-dir.")
    found = claims.whole(only(find_study(name), arms))
    for arm in found.arms:
        if is_file_name(arm.model):
            require_named(arm.model, f"The study {name}")
    of = studying.size_of(scale, **size)
    if tuned:
        of["tuned"] = studying.tuned_arms(found, data, of, runs_dir)
        if lacking := [arm.label for arm in found.arms if arm.label not in of["tuned"]]:
            say(f"Without tuned settings: {'; '.join(lacking)}.")
    return Studied(found, data, of, Path(runs_dir), how or {}, say, progress or say)


def time_left(rows: pd.DataFrame) -> str:
    """How long the trainings that are not finished take, in a sentence; `rows` are those of `Studied.status`."""
    seconds = studying.seconds_left(rows)
    if math.isnan(seconds):
        return "How long the rest takes is not known yet."
    return f"About {in_time(seconds)} of training left."


@dataclass(frozen=True)
class Studied:
    """A study on a data set at a size.

    Its trainings are ordinary run folders in `runs_dir`: what is there is not trained again, whoever trained it.
    """

    study: Study
    data: Dataset
    size: Mapping[str, Any]
    runs_dir: Path
    how: Mapping[str, Any] = dataclasses.field(default_factory=dict, repr=False)  # of a training: device, observe
    say: Say = dataclasses.field(default=unsaid, repr=False)
    progress: Say = dataclasses.field(default=unsaid, repr=False)

    def __repr__(self) -> str:
        done = sum(job.is_complete for job in self.jobs)
        return f"Studied({self.study.name} on {self.data.name}: {done} of {len(self.jobs)} trainings finished)"

    @cached_property
    def jobs(self) -> list[Job]:
        """The trainings that it needs, seed by seed: job.arm, job.seed, job.run, job.is_done, and job.is_complete: with
        the matched dense model beside a dissection.
        """
        return claims.jobs_of(self.study, self.data, dict(self.size), self.runs_dir)

    def run(self, shard: tuple[int, int] = (1, 1)) -> Studied:
        """Train what is not finished, and return the study; of n workers, number i of `shard` (i, n) trains every n-th.

        A run that another process trains is left to it. An arm that diverges or does not suit the data is left out, and
        said.
        """
        check({"shard": shard})
        number, of = shard
        mine = self.jobs[number - 1 :: of]
        left = [job for job in mine if not job.is_complete]
        done, in_all = sum(job.is_complete for job in self.jobs), len(self.jobs)
        trainings = plural(in_all, "training")
        self.progress(f"{self.study.name}: {trainings}, {done} finished; {len(left)} to do here.")
        for count, job in enumerate(studying.perform(left, self.say, self.jobs, **self.how), 1):
            with folders.hearing():  # what is damaged is said once, by the table
                wait = f" {time_left(studying.status(mine))}" if count < len(left) else ""
            self.progress(f"{count} of {len(left)}: {job.arm.label}, seed {job.seed}.{wait}")
        return self

    def tune(self, trials: int = TRIALS, timeout: float | None = None) -> Iterator[tuple[str, Path]]:
        """Tune what it trains on validation, one after the other, each with as many trials, until `timeout` hours are
        over; yields the model and the folder of each tuning.

        An arm that cannot be tuned is said and left out; if that leaves nothing, its error is raised.
        """
        check({"trials": trials, "timeout": timeout})
        if self.size.get("protocol") == "paper":
            raise UsageError("Tuning has no protocol: it always judges on validation.", "Leave protocol out.")
        require_optuna()
        require_hours(timeout)
        ends = time.monotonic() + 3600 * (timeout or math.inf)
        todo, _ = studying.to_tune(self.study, dict(self.size)), self.jobs  # planned, so that wrong arms are refused
        failed: list[DissectError] = []
        for count, (label, about) in enumerate(todo.items(), 1):
            self.progress(f"{count} of {len(todo)}: {label}.")
            if (hours := (ends - time.monotonic()) / 3600) <= 0:
                self.say("The time is over; the same command goes on.")
                return
            how = {**self.how, "timeout": hours if timeout else None, "say": self.progress, "runs_dir": self.runs_dir}
            try:
                with processor_as_it_was(self.how.get("device", "auto")):
                    folder = tune(model := about.pop("model"), self.data, trials=trials, **how, **about)
            except DissectError as error:
                if isinstance(error, Interrupted) or isinstance(error.__cause__, OSError):  # no arm's fault
                    raise
                self.say(f"{label} is left out: {error.message}")
                failed.append(error)
                continue
            yield model, folder
        if failed and len(failed) == len(todo):
            raise failed[0]

    def status(self) -> pd.DataFrame:
        """A row for each arm: label, verb, learns, done and wanted (seeds), seconds (each), hr@20, mrr@20, group."""
        return studying.status(self.jobs)

    def table(self, pairs: bool = False) -> pd.DataFrame:
        """The finished arms, best MRR@20 first, with what the paper prints; with `pairs` the differences that the study
        asks about, with intervals and p, as in dissect.compare.

        Of `claims`, a row for each claim: name, says, printed, `clean answer` (fair), `paper answer`, what was
        measured, and in which groups. Of `table1`, the counts.

        Raises UsageError if fewer than two arms have a finished seed.
        """
        if self.study.shows == "claims":
            return claims.judged(self.data, dict(self.size), self.runs_dir)
        if self.study.shows == "data":
            return studying.counts(self.data)
        table = studying.compared(self.study, self.jobs)
        return table.pairs if pairs else table.rows

    def figures(self) -> dict[str, Figure]:
        """The figures that answer it, by the names of their files. Raises UsageError if it is a table."""
        drawings = drawing.of_study(self.study, self.data.name, dict(self.size), self.jobs)
        return {each.name: each.figure for each in drawings}

    def figure(self) -> Figure:
        """The first of `figures`."""
        return next(iter(self.figures().values()))
