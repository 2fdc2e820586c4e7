"""How far a training or another piece of work is, for scripts and notebooks: one line of stderr."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

from dissect.training.record import Observer


def is_shown(quiet: bool) -> bool:
    """Whether progress is shown: on a terminal and in a notebook, unless `quiet`."""
    return not quiet and (sys.stderr.isatty() or "ipykernel" in sys.modules)


class Pace:
    """The time left for `total` pieces of work from `first` on, by the pace so far, or the time that they took."""

    def __init__(self, total: int, first: int = 0) -> None:
        self.total, self.first, self.now, self.began = total, first, first, time.monotonic()

    def left(self, now: int) -> str:
        """Empty as long as nothing is done: what was done at `first` may have taken any time."""
        self.now, took = now, time.monotonic() - self.began
        if now <= self.first:
            return ""
        if now >= self.total:
            return f"took {timedelta(seconds=round(took))}"
        return f"{timedelta(seconds=round(took / (now - self.first) * (self.total - now)))} left"


@contextmanager
def telling(title: str, quiet: bool = False) -> Iterator[Callable[[str, int, int], None]]:
    """A function that is told what is being done, how much of it, and of how much (0: not known).

    Where progress `is_shown`, each piece of work has a line, with the time left.
    """
    paces: dict[str, Pace] = {}

    def tell(what: str, done: int, total: int) -> None:
        if not is_shown(quiet):
            return
        line = f"{title}: {what}"
        if paces and what not in paces:  # another piece of work
            print(file=sys.stderr)
        left = paces.setdefault(what, Pace(total, done)).left(done)
        if total:
            line += f" {done:,} of {total:,}"
            line += f", {left}" if left else ""
        print(f"\r{line}   ", end="", file=sys.stderr, flush=True)

    try:
        yield tell
    finally:
        if paces:
            print(file=sys.stderr)


class ProgressLine(Observer):
    """How far a run is, on one line of stderr that is written over."""

    def __init__(self, title: str) -> None:
        super().__init__(title)
        self.steps, self.where, self.accuracy, self.width = 0, "", "", 0

    def begin(self, run: Path, step: int, steps: int, steps_per_epoch: int) -> None:
        self.steps = steps

    def step(self, step: int, loss: float, kl_weight: float, lr: float) -> None:
        self.where = f"step {step:,} of {self.steps:,}, loss {loss:.3f}"
        self.show(self.where + self.accuracy)

    def evaluating(self, what: str, done: int, total: int) -> None:
        self.show(f"ranking {what}, {done:,} of {total:,}")

    def evaluated(self, split: str, step: int, values: dict[str, float]) -> None:
        self.accuracy = f", {split} HR@20 {values['hr@20']:.2f}, MRR@20 {values['mrr@20']:.2f}"

    def note(self, text: str) -> None:
        self.show(f"{text}\n")

    def end(self) -> None:
        self.show(f"{self.where}{self.accuracy}\n")

    def show(self, text: str) -> None:
        line = f"{self.title}: {text}"
        print(f"\r{line:{self.width}}", end="", file=sys.stderr, flush=True)
        self.width = len(line)
