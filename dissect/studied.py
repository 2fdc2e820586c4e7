"""A study on a data set, from Python: what `dissect study run`, `status`, `table` and `figure` do."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from analyses import claims
from analyses import study as studying
from analyses.studies import Study
from analyses.study import Job
from dissect import drawing
from dissect.data.sessions import Dataset
from dissect.errors import UsageError
from dissect.experiment.plan import Say, unsaid

if TYPE_CHECKING:
    from matplotlib.figure import Figure


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

    def __repr__(self) -> str:
        done = sum(job.is_done for job in self.jobs)
        return f"Studied({self.study.name} on {self.data.name}: {done} of {len(self.jobs)} trainings are finished)"

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
        number, of = shard
        if not 1 <= number <= of:
            raise UsageError(f"shard is (i, n) with i from 1 to n, such as (2, 4), not {shard}.")
        left = [job for job in self.jobs[number - 1 :: of] if not job.is_complete]
        for count, job in enumerate(studying.perform(left, dict(self.size), self.say, **self.how), 1):
            self.say(f"{count} of {len(left)}: {job.arm.label}, seed {job.seed}.")
        return self

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
