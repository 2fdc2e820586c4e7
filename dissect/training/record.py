"""The records that a run writes on its way: losses, density and accuracy, as JSON lines."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dissect.runs.config import kl_weight_at, lr_at
from dissect.runs.files import Lines, write_json
from dissect.sparsevd import declared_for, in_words, is_partial, measure, shares, sparsified
from dissect.training.controls import ROLE, SHADOW
from dissect.training.evaluation import evaluate_by, metrics
from dissect.training.lists import Lists
from dissect.training.setup import Training
from models.batch import Prefixes


class Observer:
    """Callbacks for the progress of a run; this base class does nothing."""

    def begin(self, run: Path, step: int, steps: int, steps_per_epoch: int) -> None:
        """A run begins or continues at `step` of `steps`."""

    def step(self, step: int, loss: float, kl_weight: float, lr: float) -> None:
        """Called after some steps; `loss` is their mean cross-entropy."""

    def density(self, step: int, rows: list[dict[str, Any]]) -> None:
        """The density of every matrix was measured."""

    def evaluating(self, what: str, done: int, total: int) -> None:
        """An evaluation has ranked `done` of `total` prefixes."""

    def evaluated(self, split: str, step: int, values: dict[str, float]) -> None:
        """HR and MRR (percent) after `step` steps."""

    def note(self, text: str) -> None:
        """Something that a user should know."""

    def end(self) -> None:
        """The run is over, whatever the reason."""


class Recorder:
    """The records of a run: coverage.json at its start, and two files of lines.

    A resume cuts these back to the checkpoint.
    """

    def __init__(
        self, run: Path, training: Training, n_examples: int, steps_per_epoch: int, observer: Observer
    ) -> None:
        self.training, self.observer = training, observer
        self.n_examples, self.steps_per_epoch = n_examples, steps_per_epoch
        if training.config.is_sparse:
            write_json(run / "coverage.json", {"coverage": training.coverage})
            for role, share in shares(training.coverage, "role").items():
                if is_partial(share):
                    observer.note(f"{role}: {in_words(share)}. Its density speaks for that part only.")
        self.ranks: dict[str, np.ndarray] = {}  # of the last evaluation, by split: [ties, P]
        self.lists = Lists()  # of test, at the last evaluation
        self.metrics = Lines(run / "metrics.jsonl", training.state.metrics_size)
        self.densities = Lines(run / "density.jsonl", training.state.density_size)

    def mark(self) -> None:
        """Note in the state how long the files are now."""
        state = self.training.state
        state.metrics_size, state.density_size = self.metrics.size(), self.densities.size()

    def close(self) -> None:
        self.metrics.close()
        self.densities.close()

    def now(self) -> dict[str, Any]:
        """The progress of the run: the first fields of a line."""
        config, step = self.training.config, self.training.state.step
        epochs, rest = divmod(step, self.steps_per_epoch)
        return {
            "step": step,
            "epoch": step / self.steps_per_epoch,
            "examples": epochs * self.n_examples + rest * config.batch_size,
            "kl_weight": kl_weight_at(config, step),
            "lr": lr_at(config, step, self.steps_per_epoch),
        }

    def loss(self) -> None:
        """Write the mean loss since the line before."""
        state, now = self.training.state, self.now()
        ce, kl = state.sum_ce / state.n_sum, state.sum_kl / state.n_sum
        loss = ce + now["kl_weight"] * kl / self.n_examples
        self.metrics.append({"kind": "train", **now, "loss": loss, "ce": ce, "kl": kl, "seconds": state.seconds})
        self.observer.step(state.step, ce, now["kl_weight"], now["lr"])
        state.sum_ce, state.sum_kl, state.n_sum = 0.0, 0.0, 0

    def density(self) -> None:
        """Write the counts of every matrix and block."""
        now = self.now()
        rows = [{**now, **row} for row in density_rows(self.training)]
        self.densities.append(*rows)
        self.observer.density(now["step"], rows)

    def accuracy(
        self, splits: dict[str, Prefixes], report: Callable[[str], Callable[[int, int], None]], ties: Sequence[str]
    ) -> dict[str, dict[str, float]]:
        """Rank every split and write HR and MRR; returns them by split. The ranks by each rule for ties are kept."""
        now = self.now()
        values = {}
        for split, prefixes in splits.items():
            self.lists = Lists() if split == "test" else self.lists
            lists = self.lists if split == "test" and len(ties) > 1 else None  # both are for the summary alone
            self.ranks[split] = evaluate_by(self.training.model, prefixes, ties, report=report(split), lists=lists)
            values[split] = metrics(self.ranks[split][0])
            where = {"step": now["step"], "epoch": now["epoch"], "n": len(prefixes)}
            self.metrics.append({"kind": "eval", "split": split, **where, **values[split]})
            self.observer.evaluated(split, now["step"], values[split])
        return values


def density_rows(training: Training) -> list[dict[str, Any]]:
    """Counts for every matrix and block of the model and of the controls, with roles and modules."""
    model, controls, rows = training.model, training.controls, []
    settings: dict[str, Any] = {"thresholds": (training.config.threshold,), "prior": training.config.prior}
    declared = {name: declared_for(name, model.matrices) for name in sparsified(model)}
    blocks = {name: (matrix.rows, matrix.cols) for name, matrix in declared.items() if matrix}
    for row in measure(model, blocks, **settings):
        matrix = declared[row["matrix"]]
        role, module = (matrix.role, matrix.module) if matrix else ("other", "other")
        rows.append({**row, "role": role, "module": module})
    if controls is None:
        return rows
    for name in ("kl_only", "rolled"):
        for row in measure(getattr(controls, name), **settings):
            rows.append({**row, "matrix": f"control.{name}", "role": ROLE, "module": ROLE})
    if controls.shadows is not None:
        names = dict(zip(sparsified(controls.shadows), controls.shadows.names, strict=True))
        like = {own: blocks.get(name, ((), ())) for own, name in names.items()}
        for row in measure(controls.shadows, like, **settings):
            rows.append({**row, "matrix": f"shadow.{names[row['matrix']]}", "role": SHADOW, "module": SHADOW})
    return rows
