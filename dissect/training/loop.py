"""The training loop: from a model and a data set to a finished run folder.

Read `fit` from top to bottom. Everything is a function of (configuration, seed): the order of the examples
comes from (seed, epoch), the noise from one generator whose state travels in the checkpoint. A run that was
stopped goes on as if it had not been.
"""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from dissect.data.sessions import Dataset, PrefixTensors, prefix_index, split_validation
from dissect.errors import DataError, DissectError, DivergedError
from dissect.runs import Lines, locked, write_json, write_ranks
from dissect.sparsevd import densify, measure, named_variational, one_sample, sparsify, total_kl, unmasked
from dissect.training.checkpoint import latest_checkpoint, load_checkpoint, save_checkpoint
from dissect.training.config import Config, decay_step, kl_weight_at, lr_at
from dissect.training.controls import ROLE, Controls, seeded_controls
from dissect.training.device import describe_environment
from dissect.training.evaluation import evaluate, metrics
from dissect.training.scoring import catalogue_loss

CHECKPOINT_SECONDS = 300.0
MEASUREMENTS = 200  # of density, over a run
LOSS_LINES = 500  # over a run


class Interrupted(DissectError):
    """The run was asked to stop and wrote a checkpoint (exit code 130)."""

    exit_code = 130


class Observer:
    """What a run tells while it goes on; this one keeps quiet."""

    def begin(self, run: Path, step: int, steps: int, steps_per_epoch: int) -> None:
        """A run begins, or goes on, at `step` of `steps`."""

    def step(self, step: int, loss: float, kl_weight: float, lr: float) -> None:
        """Some steps were made; `loss` is their mean cross-entropy."""

    def density(self, step: int, rows: list[dict[str, Any]]) -> None:
        """The density of every matrix was measured."""

    def evaluating(self, split: str, done: int, total: int) -> None:
        """An evaluation has ranked `done` of `total` prefixes."""

    def evaluated(self, split: str, step: int, values: dict[str, float]) -> None:
        """HR and MRR (percent) after `step` steps."""

    def note(self, text: str) -> None:
        """Something that a user should know."""

    def end(self) -> None:
        """The run is over, whatever the reason."""


@dataclass
class State:
    """What changes while training, apart from weights, optimiser and generator; it travels in the checkpoint."""

    step: int = 0
    seconds: float = 0.0  # spent in training, over all processes that worked on the run
    sum_ce: float = 0.0  # since the last loss line
    sum_kl: float = 0.0
    n_sum: int = 0
    best_value: float = -1.0
    best_step: int = 0
    metrics_size: int = 0  # bytes of metrics.jsonl and density.jsonl before the work due at `step`
    density_size: int = 0


def fit(
    build: Callable[[], nn.Module],
    data: Dataset,
    config: Config,
    run: Path,
    *,
    seed: int,
    variant: str = "full",
    device: torch.device | str = "cpu",
    observer: Observer | None = None,
    init_state: dict[str, Tensor] | None = None,
) -> dict[str, Any]:
    """Train one seed of a configuration into the folder `run`, or go on where it stopped; returns the summary.

    `build` makes the model (models/base.py is the contract) after the seed was set. Raises Interrupted with a
    checkpoint written on SIGINT and SIGTERM, DivergedError where the loss stops being a number, UsageError
    where another process holds the folder.
    """
    observer = observer or Observer()
    with locked(run), stop_on_signal() as stopped:
        try:
            return _fit(build, data, config, run, seed, variant, torch.device(device), observer, init_state, stopped)
        finally:
            observer.end()


def _fit(
    build: Callable[[], nn.Module],
    data: Dataset,
    config: Config,
    run: Path,
    seed: int,
    variant: str,
    device: torch.device,
    observer: Observer,
    init_state: dict[str, Tensor] | None,
    stopped: Callable[[], bool],
) -> dict[str, Any]:
    training, valid = split_validation(data.train, config.validation if config.protocol == "clean" else 0.0)
    prefixes = PrefixTensors(training, device)
    splits = {"test": PrefixTensors(data.test, device)}
    if len(valid):
        splits["valid"] = PrefixTensors(valid, device)
    n_examples = len(prefixes)
    if not n_examples:
        raise DataError(f"{data.name} has no training prefix left after the validation split.")
    steps_per_epoch = math.ceil(n_examples / config.batch_size)

    torch.manual_seed(seed)
    model: Any = build()
    if init_state is not None:
        load_dense(model, init_state)
    if hasattr(model, "prepare"):
        model.prepare(training)
    left_out: dict[str, str] = {}
    if config.is_sparse:
        left_out = instrument(model, config, prefixes)
    model.to(device)
    controls = None
    if config.is_sparse:
        dim = model.candidates(model.item_states())[0].shape[1]
        controls = seeded_controls(seed, dim, config.noise, config.threshold, config.log_sigma2).to(device)
    optimiser = make_optimiser(model, controls, config)
    buffer = torch.empty(config.batch_size, data.n_items, device=device)  # [B, V], the scores of every step

    state = State()
    last_pt = run / "checkpoints" / "last.pt"
    saved, note = latest_checkpoint(last_pt)
    if note:
        observer.note(note)
    if saved is not None:
        restore(saved, model, controls, optimiser, state, config, variant, seed, last_pt)
    else:
        write_json(run / "environment.json", describe_environment(device))
    metric_lines = Lines(run / "metrics.jsonl", state.metrics_size)
    density_lines = Lines(run / "density.jsonl", state.density_size)

    def checkpoint() -> None:
        state.metrics_size, state.density_size = metric_lines.size(), density_lines.size()
        save_checkpoint(last_pt, snapshot(model, controls, optimiser, state, config, variant, seed))

    def progress() -> dict[str, Any]:
        return {
            "step": state.step,
            "epoch": state.step / steps_per_epoch,
            "examples": min(state.step * config.batch_size, state.step // steps_per_epoch * n_examples
                            + state.step % steps_per_epoch * config.batch_size),
            "kl_weight": kl_weight_at(config, state.step),
            "lr": lr_at(config, min(state.step, config.max_steps - 1), steps_per_epoch),
        }

    def write_loss() -> None:
        n = max(state.n_sum, 1)
        ce, kl = state.sum_ce / n, state.sum_kl / n
        at = progress()
        loss = ce + at["kl_weight"] * kl / n_examples
        metric_lines.append({"kind": "train", **at, "loss": loss, "ce": ce, "kl": kl, "seconds": state.seconds})
        observer.step(state.step, ce, at["kl_weight"], at["lr"])
        state.sum_ce, state.sum_kl, state.n_sum = 0.0, 0.0, 0

    def write_density() -> None:
        rows = [{**progress(), **row} for row in density_rows(model, controls, config)]
        density_lines.append(*rows)
        observer.density(state.step, rows)

    def write_evaluation() -> dict[str, dict[str, float]]:
        values = {}
        for split, part in splits.items():
            rank = evaluate(model, part, report=evaluation_report(observer, split, stopped))
            values[split] = metrics(rank)
            where = {"step": state.step, "epoch": state.step / steps_per_epoch}
            metric_lines.append({"kind": "eval", "split": split, **where, "n": len(rank), **values[split]})
            observer.evaluated(split, state.step, values[split])
        return values

    order = ExampleOrder(n_examples, config, seed, device)
    measure_every = max(1, config.max_steps // MEASUREMENTS)
    report_every = max(1, config.max_steps // LOSS_LINES)
    observer.begin(run, state.step, config.max_steps, steps_per_epoch)
    saved_at = time.monotonic()
    finished = False
    try:
        while True:
            # What is due at this step. A checkpoint is made before it, so that a run stopped here does it again.
            ends_epoch = state.step > 0 and state.step % steps_per_epoch == 0
            at_end = state.step == config.max_steps
            if ends_epoch or at_end or time.monotonic() - saved_at > CHECKPOINT_SECONDS:
                checkpoint()
                saved_at = time.monotonic()
            if state.n_sum and (state.step % report_every == 0 or at_end):
                write_loss()
            if config.is_sparse and (state.step % measure_every == 0 or at_end or state.step == decay_step(config)):
                write_density()
            if ends_epoch or at_end:
                values = write_evaluation()
                if config.select != "last" and choose_epoch(model, state, values, config, run):
                    finished = early_stop(state, config, steps_per_epoch)
            if at_end or finished:
                break
            if stopped():
                checkpoint()
                raise Interrupted(
                    f"Stopped at step {state.step} of {config.max_steps}; the checkpoint is in {last_pt.parent}.",
                    "The same command again goes on from there.",
                )
            began = time.perf_counter()
            set_lr(optimiser, lr_at(config, state.step, steps_per_epoch))
            beta = kl_weight_at(config, state.step) / n_examples
            index = order.batch(state.step, steps_per_epoch)
            ce, kl = train_step(model, controls, optimiser, prefixes.batch(index), beta, config, buffer)
            state.step += 1
            state.seconds += time.perf_counter() - began
            if not math.isfinite(ce + kl):
                raise diverged(model, controls, state.step, ce, kl, run)
            state.sum_ce, state.sum_kl, state.n_sum = state.sum_ce + ce, state.sum_kl + kl, state.n_sum + 1
    except StopEvaluation:
        checkpoint_of_the_past = load_checkpoint(last_pt)  # the one made before the evaluation is the right one
        raise Interrupted(
            f"Stopped at step {checkpoint_of_the_past['state']['step']} of {config.max_steps}, in an evaluation; "
            f"the checkpoint is in {last_pt.parent}.",
            "The same command again goes on from there.",
        ) from None
    finally:
        metric_lines.close()
        density_lines.close()
    summary = finish(model, controls, data, config, run, seed, variant, state, splits, observer, steps_per_epoch)
    summary["left_out"] = left_out
    write_json(run / "summary.json", summary)
    (run / "DONE").touch()
    return summary


# --- one step --------------------------------------------------------------------------------------------


def train_step(
    model: Any,
    controls: Controls | None,
    optimiser: torch.optim.Optimizer,
    batch: tuple[Tensor, Tensor, Tensor],
    beta: float,
    config: Config,
    buffer: Tensor,
) -> tuple[float, float]:
    """One update on items [B, L], lengths [B], targets [B]; returns the mean cross-entropy and the summed KL (nats).

    loss = mean CE + beta * sum of KL over all SparseVD weights, where beta is already divided by N.
    """
    items, lengths, targets = batch
    optimiser.zero_grad(set_to_none=True)
    S = model.item_states()  # [V, D]
    with one_sample(model):
        vectors, auxiliary = model.encode(S, items, lengths)  # [B, D]
    if controls is not None:
        vectors = controls(vectors)
    matrix, bias = model.candidates(S)  # [V, D], [V]
    loss = catalogue_loss(vectors, matrix, bias, targets - 1, buffer[: len(vectors)])
    ce = loss.detach()
    for value in auxiliary.values():
        loss = loss + value
    kl = loss.new_zeros(())
    if controls is not None:
        kl = total_kl(model, config.prior) + total_kl(controls, config.prior)
        loss = loss + beta * kl
    loss.backward()
    optimiser.step()
    return float(ce), float(kl.detach())


class ExampleOrder:
    """Which examples make up which batch: a permutation for each epoch from (seed, epoch), or time order."""

    def __init__(self, n_examples: int, config: Config, seed: int, device: torch.device) -> None:
        self.n, self.config, self.seed, self.device = n_examples, config, seed, device
        self.epoch, self.permutation = -1, torch.empty(0)

    def batch(self, step: int, steps_per_epoch: int) -> Tensor:
        """Indices [B] of the examples of a step; the last batch of an epoch may be smaller."""
        epoch, at = divmod(step, steps_per_epoch)
        if epoch != self.epoch:
            if self.config.order == "chronological":
                permutation = torch.arange(self.n)
            else:
                generator = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
                permutation = torch.randperm(self.n, generator=generator)
            self.epoch, self.permutation = epoch, permutation.to(self.device)
        return self.permutation[at * self.config.batch_size : (at + 1) * self.config.batch_size]


def set_lr(optimiser: torch.optim.Optimizer, lr: float) -> None:
    for group in optimiser.param_groups:
        group["lr"] = lr


# --- preparing -------------------------------------------------------------------------------------------


def selects(where: str, matrices: Any) -> Callable[[str, nn.Module], bool]:
    """The choice that `where` makes among a model's layers: "both" is all, else a module or a role."""

    def chosen(name: str, module: nn.Module) -> bool:
        if where == "both":
            return True
        declared = matrices.get(name)
        return declared is not None and where in (declared.module, declared.role)

    return chosen


def instrument(model: Any, config: Config, prefixes: PrefixTensors) -> dict[str, str]:
    """Put SparseVD layers in place of the chosen matrices; returns what was left out, and why.

    Raises DataError where the choice names no matrix of this model.
    """
    items, lengths, _ = prefixes.batch(torch.arange(min(len(prefixes), 64), device=prefixes.start.device))

    def probe() -> None:
        model.encode(model.item_states(), items, lengths)

    report = sparsify(
        model,
        selects(config.where, model.matrices),
        noise=config.noise,
        threshold=config.threshold,
        log_sigma2=config.log_sigma2,
        probe=probe,
    )
    if not report.swapped:
        raise DataError(f"The model has no weight matrix that '{config.where}' names.", "See: dissect models")
    return dict(report.left_out)


def make_optimiser(model: nn.Module, controls: Controls | None, config: Config) -> torch.optim.Optimizer:
    """Fused Adam in three groups: the host's parameters with L2, theta and log sigma^2 without.

    The gradient of the KL with respect to log sigma^2 is at most 0.5 / N, below Adam's usual epsilon, hence a
    smaller one there.
    """
    theta: dict[int, Tensor] = {}
    log_sigma2: dict[int, Tensor] = {}
    for part in (model, controls):
        if part is not None:
            for _, t, s in named_variational(part):
                theta[id(t)], log_sigma2[id(s)] = t, s
    special = theta.keys() | log_sigma2.keys()
    host = [p for p in model.parameters() if p.requires_grad and id(p) not in special]
    decay = config.l2 if config.decay_everything else 0.0
    groups = [
        {"params": host, "weight_decay": config.l2, "eps": 1e-8},
        {"params": list(theta.values()), "weight_decay": decay, "eps": 1e-8},
        {"params": list(log_sigma2.values()), "weight_decay": decay, "eps": 1e-12},
    ]
    return torch.optim.Adam([g for g in groups if g["params"]], lr=config.lr, fused=True)


def load_dense(model: nn.Module, weights: dict[str, Tensor]) -> None:
    """Load the weights of a dense (or dissected) model of the same shape. Raises DataError where they do not fit."""
    mine = model.state_dict()
    missing = [name for name in mine if name not in weights]
    wrong = [name for name in mine if name in weights and weights[name].shape != mine[name].shape]
    if missing or wrong:
        raise DataError(
            f"The weights to start from do not fit the model: missing {missing or 'none'}, other shape {wrong or 'none'}.",
            "--init-from takes a run of the same model, width and data set.",
        )
    model.load_state_dict({name: weights[name] for name in mine})


# --- records ---------------------------------------------------------------------------------------------


def density_rows(model: Any, controls: Controls | None, config: Config) -> list[dict[str, Any]]:
    """Counts for every matrix and block of the model and of the controls, with roles and modules."""
    blocks = {name: (m.rows, m.cols) for name, m in model.matrices.items()}
    rows = measure(model, blocks, thresholds=(config.threshold,), prior=config.prior)
    for row in rows:
        declared = model.matrices.get(row["matrix"])
        row["role"] = declared.role if declared else "other"
        row["module"] = declared.module if declared else "other"
    if controls is not None:
        for row in measure(controls, {}, thresholds=(config.threshold,), prior=config.prior):
            rows.append({**row, "matrix": f"control.{row['matrix']}", "role": ROLE, "module": ROLE})
    return rows


def finish(
    model: Any,
    controls: Controls | None,
    data: Dataset,
    config: Config,
    run: Path,
    seed: int,
    variant: str,
    state: State,
    splits: dict[str, PrefixTensors],
    observer: Observer,
    steps_per_epoch: int,
) -> dict[str, Any]:
    """Ranks, the quick accuracy checks and the summary of a run whose last step is done."""
    from dissect.runs import read_jsonl

    chosen_step = state.step if config.select == "last" else state.best_step
    if config.select != "last":
        model.load_state_dict(load_checkpoint(run / "checkpoints" / "best.pt")["model"])
    values: dict[str, dict[str, float]] = {}
    for split, part in splits.items():
        rank = evaluate(model, part, report=lambda done, total, split=split: observer.evaluating(split, done, total))  # type: ignore[misc]
        values[split] = metrics(rank)
        write_rank_file(run, split, "last" if config.select == "last" else "best", rank, data, config)
    history = [row for row in read_jsonl(run / "metrics.jsonl") if row["kind"] == "eval" and row["split"] == "test"]
    summary = {
        "model": config.model,
        "dataset": data.name,
        "split_hash": data.split_hash,
        "seed": seed,
        "variant": variant,
        "protocol": config.protocol,
        **{k: getattr(config, k) for k in ("where", "noise", "prior", "threshold", "kl_weight", "batch_size")},
        **config.model_options,
        "steps": state.step,
        "epochs": state.step / steps_per_epoch,
        "seconds": state.seconds,
        "n_parameters": sum(p.numel() for n, p in model.named_parameters() if not n.endswith("log_sigma2")),
        "selected": {"rule": config.select, "step": chosen_step, "epoch": chosen_step / steps_per_epoch},
        "test": values["test"],
        "valid": values.get("valid"),
        "selection_bias": {
            name: max(row[name] for row in history) - values["test"][name] for name in ("hr@20", "mrr@20")
        },
        "checks": quick_checks(model, splits["test"], observer),
        "density": [{"step": state.step, **row} for row in density_rows(model, controls, config)],
    }
    return summary


def quick_checks(model: Any, test: PrefixTensors, observer: Observer) -> dict[str, dict[str, float]]:
    """HR@20 and MRR@20 on test with the weights changed or parts of the trained model switched off."""

    def accuracy(name: str) -> dict[str, float]:
        rank = evaluate(model, test, report=lambda done, total: observer.evaluating(name, done, total))
        values = metrics(rank)
        return {k: values[k] for k in ("hr@20", "mrr@20")}

    checks = {}
    if any(True for _ in named_variational(model)):
        checks["masked"] = accuracy("masked")
        with unmasked(model):
            checks["mean"] = accuracy("mean")
    for part, check in (("propagation", "propagation_zero"), ("gnn", "gnn_bypassed"), ("attention", "attention_uniform")):
        if part in model.removable and any(m.role == part or m.module == part for m in present(model).values()):
            model.switched_off = part
            try:
                checks[check] = accuracy(check)
            finally:
                model.switched_off = None
    return checks


def present(model: Any) -> dict[str, Any]:
    """The declared matrices that this model, perhaps reduced, really has."""
    names = {name for name, _ in model.named_modules()}
    return {name: matrix for name, matrix in model.matrices.items() if name in names}


def write_rank_file(run: Path, split: str, which: str, rank: np.ndarray, data: Dataset, config: Config) -> None:
    sessions = data.test if split == "test" else split_validation(data.train, config.validation)[1]
    session, length = prefix_index(sessions)
    target = sessions.items[sessions.offsets[session] + length]
    write_ranks(run / f"ranks-{split}-{which}.npz", rank=rank, session=session, length=length, target=target)


# --- choosing an epoch -----------------------------------------------------------------------------------


def choose_epoch(model: nn.Module, state: State, values: dict[str, dict[str, float]], config: Config, run: Path) -> bool:
    """Keep the weights of the epoch that is best on validation (MRR@20); True where this one was not better."""
    value = values["valid" if "valid" in values else "test"]["mrr@20"]
    if value <= state.best_value:
        return True
    state.best_value, state.best_step = value, state.step
    save_checkpoint(run / "checkpoints" / "best.pt", {"model": model.state_dict(), "step": state.step})
    return False


def early_stop(state: State, config: Config, steps_per_epoch: int) -> bool:
    return bool(config.patience) and state.step - state.best_step >= config.patience * steps_per_epoch


# --- stopping and going on -------------------------------------------------------------------------------


class StopEvaluation(Exception):
    """A signal came during an evaluation."""


def evaluation_report(observer: Observer, split: str, stopped: Callable[[], bool]) -> Callable[[int, int], None]:
    def report(done: int, total: int) -> None:
        observer.evaluating(split, done, total)
        if stopped():
            raise StopEvaluation

    return report


@contextmanager
def stop_on_signal() -> Iterator[Callable[[], bool]]:
    """SIGINT and SIGTERM set a flag that the loop reads between steps; a second SIGINT breaks off at once."""
    seen: list[int] = []

    def handler(number: int, frame: Any) -> None:
        if seen and number == signal.SIGINT:
            raise KeyboardInterrupt
        seen.append(number)

    try:
        before = {number: signal.signal(number, handler) for number in (signal.SIGINT, signal.SIGTERM)}
    except ValueError:  # not the main thread: signals are not ours to catch
        before = {}
    try:
        yield lambda: bool(seen)
    finally:
        for number, old in before.items():
            signal.signal(number, old)


def snapshot(
    model: nn.Module,
    controls: Controls | None,
    optimiser: torch.optim.Optimizer,
    state: State,
    config: Config,
    variant: str,
    seed: int,
) -> dict[str, Any]:
    """All that a run needs in order to go on, as tensors and primitives."""
    return {
        "config": config.hash,
        "variant": variant,
        "seed": seed,
        "model": model.state_dict(),
        "controls": controls.state_dict() if controls is not None else {},
        "optimiser": optimiser.state_dict(),
        "state": vars(state).copy(),
        "rng": torch.get_rng_state(),
        "rng_cuda": torch.cuda.get_rng_state() if torch.cuda.is_available() else None,
    }


def restore(
    saved: dict[str, Any],
    model: nn.Module,
    controls: Controls | None,
    optimiser: torch.optim.Optimizer,
    state: State,
    config: Config,
    variant: str,
    seed: int,
    path: Path,
) -> None:
    """Put a snapshot back. Raises DataError where it belongs to another configuration."""
    if (saved["config"], saved["variant"], saved["seed"]) != (config.hash, variant, seed):
        raise DataError(f"The checkpoint {path} belongs to another configuration.", "Start over with --force.")
    model.load_state_dict(saved["model"])
    if controls is not None:
        controls.load_state_dict(saved["controls"])
    optimiser.load_state_dict(saved["optimiser"])
    for name, value in saved["state"].items():
        setattr(state, name, value)
    torch.set_rng_state(saved["rng"])
    if saved["rng_cuda"] is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(saved["rng_cuda"])


def diverged(model: nn.Module, controls: Controls | None, step: int, ce: float, kl: float, run: Path) -> DivergedError:
    """The error for a loss that is no number, with the first parameter that is not finite as the suspect."""
    named = [*model.named_parameters(), *([] if controls is None else controls.named_parameters())]
    bad = [name for name, p in named if not torch.isfinite(p).all()]
    bad += [f"the gradient of {name}" for name, p in named if p.grad is not None and not torch.isfinite(p.grad).all()]
    suspect = bad[0] if bad else ("the KL" if not math.isfinite(kl) else "the scores")
    return DivergedError(
        f"The loss is no longer a number at step {step} (cross-entropy {ce}, KL {kl}); suspect: {suspect}. "
        f"The record and the last good checkpoint are kept in {run}.",
        "A smaller --lr, or a longer --kl-warmup, usually helps.",
    )


def variants_without(roles: Collection[str]) -> str:
    """The name of the variant folder of a model without some roles."""
    return f"without-{'-'.join(sorted(roles))}" if roles else "full"
