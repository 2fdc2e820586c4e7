"""How far a training is, for scripts and notebooks."""

from __future__ import annotations

import sys
from pathlib import Path

from dissect.training.record import Observer


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
