"""The records that a run writes on its way: losses, density and accuracy, as JSON lines."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from dissect.runs.config import kl_weight_at, lr_at
from dissect.runs.files import Lines, write_json
from dissect.sparsevd import declared_for, in_words, is_partial, measure, shares, sparsified
from dissect.training.controls import ROLE, SHADOW
from dissect.training.evaluated import Evaluated
from dissect.training.evaluation import Report, evaluate, metrics
from dissect.training.setup import Training
from models.batch import Prefixes


class Observer:
    """What is told about a run while it trains. A class derived from it defines the methods that it needs.

    `dissect.train(..., observe=Mine)` makes one for each run: each seed, and the matched dense model of each. All
    methods are called in the process that trains the run, between two steps; a slow one slows the training.
    docs/tracking.md has examples.

    Parameters
    ----------
    title : str
        What is trained, such as "srgnn on demo, seed 1 (1 of 3)".
    """

    def __init__(self, title: str = "") -> None:
        self.title = title

    def begin(self, run: Path, step: int, steps: int, steps_per_epoch: int) -> None:
        """A run begins, or continues.

        Parameters
        ----------
        run : Path
            Its folder. `dissect.open_group(run)` has the configuration.
        step, steps : int
            It begins at `step` (0, or that of a checkpoint) of `steps`; 0 for a model without gradients.
        steps_per_epoch : int
            `step / steps_per_epoch` is the epoch, from 0.
        """

    def step(self, step: int, loss: float, kl_weight: float, lr: float) -> None:
        """Some steps are made: about 500 calls in a run.

        Parameters
        ----------
        step : int
            Steps made so far.
        loss : float
            Mean cross-entropy (nats) over the steps since the call before, without the KL.
        kl_weight, lr : float
            KL weight, which rises during the warm-up, and learning rate of the last of them.
        """

    def density(self, step: int, rows: list[dict[str, Any]]) -> None:
        """The density was measured: about 100 calls in a run with SparseVD.

        Parameters
        ----------
        step : int
            Steps made so far.
        rows : list of dict
            The lines of density.jsonl of this step, one for each matrix, shadow, control and block
            (docs/records.md has the fields).
        """

    def evaluating(self, what: str, done: int, total: int) -> None:
        """An evaluation goes on.

        Parameters
        ----------
        what : str
            What is ranked: a split, or a quick check at the end.
        done, total : int
            Prefixes ranked so far, and in all.
        """

    def evaluated(self, split: str, step: int, values: dict[str, float]) -> None:
        """A split was ranked, at the end of an epoch.

        Parameters
        ----------
        split : str
            "test" or "valid".
        step : int
            Steps made so far.
        values : dict
            hr@5, hr@10, hr@20, mrr@5, mrr@10, mrr@20, in percent.
        """

    def note(self, text: str) -> None:
        """Something that a user should know. It may come before `begin`.

        Parameters
        ----------
        text : str
            A note of one line.
        """

    def end(self) -> None:
        """The run is over: finished, interrupted or failed. The file DONE in its folder tells which."""


class Recorder:
    """The records of a run: coverage.json at its start, and two files of lines.

    A resume cuts these back to the checkpoint. `order` is the ExampleOrder of the run: it knows
    the examples, targets and steps of an epoch.
    """

    def __init__(self, run: Path, training: Training, order: Any, observer: Observer) -> None:
        self.training, self.observer = training, observer
        self.n_examples, self.n_targets, self.steps_per_epoch = len(order.examples), order.targets, order.steps
        if training.config.is_sparse:
            write_json(run / "coverage.json", {"coverage": training.coverage})
            for role, share in shares(training.coverage, "role").items():
                if is_partial(share):
                    observer.note(f"{role}: {in_words(share)}. Its density speaks for that part only.")
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
        """The progress of the run, with KL weight and learning rate of the last step: the first fields of a line."""
        config, step = self.training.config, self.training.state.step
        last = max(step - 1, 0)
        epochs, rest = divmod(step, self.steps_per_epoch)
        return {
            "step": step,
            "epoch": step / self.steps_per_epoch,
            "examples": epochs * self.n_examples + rest * config.batch_size,
            "kl_weight": kl_weight_at(config, last),
            "lr": lr_at(config, last, self.steps_per_epoch),
        }

    def loss(self) -> None:
        """Write the mean loss since the line before."""
        state, now = self.training.state, self.now()
        ce, kl = state.sum_ce / state.n_sum, state.sum_kl / state.n_sum
        loss = ce + now["kl_weight"] * kl / self.n_targets
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
        self, splits: dict[str, Prefixes], report: Callable[[str], Report], evaluated: Evaluated | None
    ) -> dict[str, dict[str, float]]:
        """Rank every split and write HR and MRR; returns them by split.

        At the end of a run, `evaluated` keeps all that the summary wants of these ranks.
        """
        now = self.now()
        values = {}
        for split, prefixes in splits.items():
            says = report(split)
            if evaluated is None:
                rank = evaluate(self.training.model, prefixes, report=says)
            else:
                rank = evaluated.ranks(split, prefixes, says)[0][0]
            values[split] = metrics(rank)
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
