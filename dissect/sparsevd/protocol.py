"""Training any model by the calibrated protocol, that of `dissect run` without L2, on a loss and batches of one's own.

Adam at a constant rate for the weights and three times that for log sigma^2; the rate of all that SparseVD does not
cover falls to 0 from 40 % of the steps on. The KL weight rises over the first 40 %; the parameters are averaged over
the last 40 %. docs/method.md gives the reasons. The numbers are those of runs/config.py.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from itertools import islice
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from dissect.errors import DataError, DivergedError, UsageError
from dissect.runs.config import CALIBRATED, HOST_FALLS_FROM, SEEDS, Config, left, risen
from dissect.sparsevd.averages import BATCHES, Averages, is_averaged
from dissect.sparsevd.batches import Feed, rows_of
from dissect.sparsevd.kl import kept_count
from dissect.sparsevd.layers import one_sample
from dissect.sparsevd.noise import moments_kept
from dissect.sparsevd.shadows import FEWEST, Shadows, aside
from dissect.sparsevd.sparsifier import named_variational, parameter_groups, penalty
from dissect.sparsevd.sparsify import SparsifyReport, Where, require_some, sparsify

__all__ = ["SEEDS", "Loss", "Protocol", "Trained", "train"]

KL_WEIGHT, LR = CALIBRATED["kl_weight"], CALIBRATED["lr"]
STEPS = 1500  # enough for log sigma^2 to travel far at the usual rate: 13 units
RECORDS = 40  # of the densities, over a training

Loss = Callable[[nn.Module, Any], Tensor]
Row = dict[str, Any]


class Protocol(NamedTuple):
    """How to train. `where`, `noise` and `threshold` are those of `sparsify`."""

    steps: int = STEPS
    kl_weight: float = KL_WEIGHT
    lr: float = LR
    where: Where | None = None
    noise: str = Config.noise
    threshold: float = Config.threshold
    shadows: bool = True
    prior: str = Config.prior


class Trained(NamedTuple):
    """One model, trained, in evaluation, with its averaged parameters; `records` of densities and the loss by step.

    Without SparseVD `report` and `shadows` are None.
    """

    seed: int
    model: nn.Module
    shadows: Shadows | None
    report: SparsifyReport | None
    records: list[Row]


def train(
    build: nn.Module | Callable[[], nn.Module],
    loss: Loss,
    feed: Feed,
    n_examples: int,
    protocol: Protocol,
    seed: int,
    is_sparse: bool = True,
    report: Callable[[int, float], None] = lambda step, value: None,
) -> Trained:
    """Train a copy of a model, or what `build` makes, from a seed; torch's random state stays as it was.

    `report` is told the steps done and the loss. Without `is_sparse` the model is trained dense, for as many steps; its
    batches come in another order, since noise draws from the same generator.
    Raises UsageError for a model without a matrix to dissect and for a loss that is no scalar, DivergedError for one
    that is NaN or infinite, DataError if there are no batches.
    """
    with _forked():
        torch.manual_seed(seed)
        model = _made(build).train()
        with _forked():
            first = next(feed.once())  # shuffling is not to depend on this look
        what = _instrumented(model, loss, first, protocol) if is_sparse else None
        shadows = _shadows_of(model, seed, first, feed.name) if is_sparse and protocol.shadows else None
        averages = Averages(model=model, shadows=shadows)
        fit = _Fit(model, shadows, averages, loss, n_examples, protocol, is_sparse, seed)
        for step, batch in enumerate(islice(feed.endless(), protocol.steps), 1):
            report(step, fit.step(step, batch))
        averages.take_statistics(model, lambda batch: loss(model, batch), islice(feed.once(), BATCHES))
        averages.swap()
        fit.record(protocol.steps)
        return Trained(seed, model.eval(), shadows, what, fit.records)


class _Fit:
    """A training: its optimiser, its schedule and its records."""

    def __init__(
        self,
        model: nn.Module,
        shadows: Shadows | None,
        averages: Averages,
        loss: Loss,
        n_examples: int,
        protocol: Protocol,
        is_sparse: bool,
        seed: int,
    ) -> None:
        self.model, self.shadows, self.averages, self.loss, self.seed = model, shadows, averages, loss, seed
        self.n_examples, self.protocol, self.is_sparse = n_examples, protocol, is_sparse
        parts = [model] if shadows is None else [model, shadows]
        self.optimiser = torch.optim.Adam([group for group in parameter_groups(*parts) if group["params"]], protocol.lr)
        self.records: list[Row] = []
        self.every = max(1, protocol.steps // RECORDS)
        self.value = math.nan

    def step(self, step: int, batch: Any) -> float:
        """The update number `step`, from 1; returns the loss without the KL."""
        protocol, done = self.protocol, step - 1
        steps = protocol.steps
        rates = {"host": left(done, steps, HOST_FALLS_FROM * steps), "own": CALIBRATED["own_rate"]}
        for group in self.optimiser.param_groups:
            group["lr"] = protocol.lr * rates.get(group["kind"], 1.0)
        if self.is_sparse and done % self.every == 0:
            with self.averages.in_place():
                self.record(done)
        self.optimiser.zero_grad()
        beta = protocol.kl_weight * risen(done, CALIBRATED["kl_warmup"] * steps)
        with moments_kept() if self.shadows is not None else nullcontext():
            with one_sample(self.model):
                loss = checked(self.loss(self.model, batch))
            self.value = self._finite(loss, "", step)
            self._with_penalty(loss, self.model, beta).backward()
            if self.shadows is not None:
                with aside(self.model, 1_000_003 * step + self.seed):
                    with one_sample(self.model), self.shadows.cast(self.model):
                        loss = self.loss(self.model, batch)
                    self._finite(loss, " with the shadows beside the model", step)
                    self._with_penalty(loss, self.shadows, beta).backward()
        self.optimiser.step()
        if is_averaged(step, protocol.steps, CALIBRATED["average"]):
            self.averages.add()
        return self.value

    def _finite(self, loss: Tensor, where: str, step: int) -> float:
        """The value of a loss. Raises DivergedError if it is NaN or infinite."""
        value = float(loss.detach())
        if not math.isfinite(value):
            raise DivergedError(
                f"The loss{where} is {value} at step {step} of {self.protocol.steps}.",
                f"Check the data for NaN, or give a smaller rate: lr={self.protocol.lr / 10:g}.",
            )
        return value

    def _with_penalty(self, loss: Tensor, part: nn.Module, beta: float) -> Tensor:
        """The loss with the KL of the model or of its shadows."""
        if not self.is_sparse:
            return loss
        return loss + beta / self.n_examples * penalty(part, self.protocol.prior).to(loss.device)

    @torch.no_grad()
    def record(self, step: int) -> None:
        """Add what each matrix and its shadow keep now, and the loss."""
        t = self.protocol.threshold
        beside: list[Any] = [None] * len([*named_variational(self.model)])
        if self.shadows is not None:
            beside = [int(kept_count(theta, own, t)) for _, theta, own in named_variational(self.shadows)]
        for (name, theta, own), shadow in zip(named_variational(self.model), beside, strict=True):
            row = {"step": step, "matrix": name, "kept": int(kept_count(theta, own, t)), "size": theta.numel()}
            self.records.append({**row, "shadow kept": shadow, "loss": self.value})


def checked(loss: Any) -> Tensor:
    """The loss, if it is a scalar that depends on parameters. Raises UsageError if not."""
    if not isinstance(loss, Tensor) or loss.dim():
        given = f"a tensor of shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else type(loss).__name__
        raise UsageError(
            f"The loss has to be a scalar tensor, the mean over the examples of a batch, and is {given}.",
            "End it with .mean().",
        )
    if not loss.requires_grad:
        raise UsageError(
            "The loss does not depend on the parameters of the model: it has no gradient.",
            "Compute it from the outputs of the model that is given, without .detach(), .item() or no_grad.",
        )
    return loss


def _forked() -> AbstractContextManager[None]:
    """torch's random state, on the CPU and on the GPU in use, is put back at the end."""
    return torch.random.fork_rng(devices=[torch.cuda.current_device()] if torch.cuda.is_available() else [])


def _made(build: nn.Module | Callable[[], nn.Module]) -> nn.Module:
    if not isinstance(build, nn.Module):
        model: Any = build()
        if not isinstance(model, nn.Module):
            raise UsageError(f"The function for the model returned {type(model).__name__}, not an nn.Module.")
        return model
    try:
        return copy.deepcopy(build)
    except Exception as error:  # a module may hold anything
        raise UsageError(
            f"The model cannot be copied: {' '.join(str(error).split())}",
            "Give a function that builds it: dissect(lambda: Model(...), ...).",
        ) from error


def _instrumented(model: nn.Module, loss: Loss, batch: Any, protocol: Protocol) -> SparsifyReport:
    """Put SparseVD in the model. Raises UsageError, with the reasons, if there is nothing to put it in."""

    def probe() -> None:
        with torch.enable_grad():
            checked(loss(model, batch))

    where = protocol.where
    report = sparsify(
        model, where, noise=protocol.noise, threshold=protocol.threshold, probe=probe, refuse=not callable(where)
    )
    require_some(report, model)
    return report


def _shadows_of(model: nn.Module, seed: int, batch: Any, name: str) -> Shadows:
    """Shadows from a generator of their own. Raises DataError for batches too small for them."""
    rows = rows_of(batch)
    if rows is not None and rows < FEWEST:
        raise DataError(
            f"Shadows read the inputs of other rows of the batch and need {FEWEST} of them: a batch of `{name}` has "
            f"{rows}.",
            "Give larger batches (400 is usual), or shadows=False.",
        )
    with _forked():
        torch.manual_seed(seed + 1_000_003)
        return Shadows(model)
