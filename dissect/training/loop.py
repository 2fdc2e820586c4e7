"""The training loop: from a model and a data set to a finished run folder.

Everything is a function of (configuration, seed): the order of the examples comes from (seed, epoch), the
noise from one generator whose state travels in the checkpoint.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dissect.data.sessions import Dataset, PrefixTensors, split_validation
from dissect.errors import DataError, DivergedError, UsageError
from dissect.runs.config import Config, decay_step, kl_weight_at, lr_at
from dissect.runs.files import write_json
from dissect.runs.folders import mark_done
from dissect.sparsevd import one_sample, total_kl
from dissect.training import workers
from dissect.training.checkpoint import latest_checkpoint, save_checkpoint
from dissect.training.device import describe_environment
from dissect.training.finish import finish
from dissect.training.record import Observer, Recorder
from dissect.training.resume import Interrupted, identity, restore, snapshot, stop_on_signal
from dissect.training.scoring import (
    catalogue,
    catalogue_loss,
    sampled_loss,
    score_buffer,
)
from dissect.training.setup import Training, assemble, choose_kernel, require_compiler, set_lr

CHECKPOINT_SECONDS = 300.0
DENSITY_MEASUREMENTS = 200  # over a run
LOSS_LINES = 500  # over a run
WIDTHS = 8  # of padded batches are multiples of it, where shapes are to be few


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
    weights: dict[str, Tensor] | None = None,
) -> dict[str, Any]:
    """Train one seed of a configuration into the folder `run`, or go on where it stopped; returns the summary.

    `build` makes the model (the contract is in models/base.py) after the seed was set; `weights` are a dense
    model's, to start from. Raises Interrupted with a checkpoint written on SIGINT and SIGTERM, DivergedError where the
    loss stops being a number, UsageError where another process holds the folder, or the machine lacks what the
    configuration asks for.
    """
    observer = observer or Observer()
    with workers.run_folder(run) as folder, stop_on_signal() as stopped:
        try:
            return _fit(build, data, config, folder, seed, variant, device, observer, weights, stopped)
        finally:
            observer.end()


def _fit(
    build: Callable[[], nn.Module],
    data: Dataset,
    config: Config,
    run: Path,
    seed: int,
    variant: str,
    device: torch.device | str,
    observer: Observer,
    weights: dict[str, Tensor] | None,
    stopped: Callable[[], bool],
) -> dict[str, Any]:
    train, valid = split_validation(data.train, config.held_out)
    if not train.n_prefixes:
        raise DataError(f"{data.name} has no training prefix left after the validation split.")
    require_compiler(config)
    prefixes = PrefixTensors(train, device, config.longest)
    splits = {"test": PrefixTensors(data.test, device, config.longest)}
    if valid.n_prefixes:
        splits["valid"] = PrefixTensors(valid, device, config.longest)
    steps_per_epoch = math.ceil(len(prefixes) / config.batch_size)

    training = assemble(build, config, prefixes, seed, variant, weights)
    if hasattr(training.model, "prepare"):
        training.model.prepare(train)
    last = run / "checkpoints" / "last.pt"
    saved, note = latest_checkpoint(last)
    if note:
        observer.note(note)
    if not workers.is_first():  # noise of its own; the weights are the same
        torch.manual_seed(seed + 1_000_033 * workers.number())
    if saved is None:
        tried = choose_kernel(training, data.n_items, device)
        environment = describe_environment(torch.device(device))
        products = {"kernel": training.kernel, "milliseconds": tried}
        write_json(run / "environment.json", {**environment, "max_steps": config.max_steps, "products": products})
    else:
        restore(training, saved, last)
    state = training.state
    recorder = Recorder(run, training, len(prefixes), steps_per_epoch, observer)
    order = ExampleOrder(prefixes.length, config, seed, static=config.compiled or prefixes.start.device.type != "cpu")
    buffer = score_buffer(config.batch_size, data.n_items, device)  # for the scores of every step
    loss_every = max(1, config.max_steps // LOSS_LINES)
    density_every = max(1, config.max_steps // DENSITY_MEASUREMENTS)

    def checkpoint() -> None:
        recorder.mark()
        save_checkpoint(last, snapshot(training))

    def report(split: str) -> Callable[[int, int], None]:
        def tell(done: int, total: int) -> None:
            observer.evaluating(split, done, total)
            # The checkpoint made before this evaluation stands. Several processes stop together, in the loop.
            if workers.count() == 1 and stopped():
                raise Interrupted(state.step, config.max_steps, last.parent)

        return tell

    observer.begin(run, state.step, config.max_steps, steps_per_epoch)
    saved_at = time.monotonic()
    try:
        while True:
            # First what is due at this step. A checkpoint comes before it: a run that stops in between cuts its
            # records back to the checkpoint and writes them again.
            ends = state.step == config.max_steps
            ends_epoch = ends or (state.step > 0 and state.step % steps_per_epoch == 0)
            is_late = time.monotonic() - saved_at > CHECKPOINT_SECONDS
            stops, is_late = workers.any_says(stopped(), is_late, device=device)
            if ends_epoch or stops or is_late:
                checkpoint()
                saved_at = time.monotonic()
            if stops:
                raise Interrupted(state.step, config.max_steps, last.parent)
            if state.n_sum and (ends or state.step % loss_every == 0):
                recorder.loss()
            if config.is_sparse and (ends or state.step in (0, decay_step(config)) or state.step % density_every == 0):
                recorder.density()
            if ends_epoch:
                values = recorder.accuracy(splits, report)
                if choose_epoch(training, values, run, steps_per_epoch) and not ends:
                    epochs = config.patience
                    observer.note(
                        f"Stopped after step {state.step:,}: no better MRR@20 in {epochs} epochs (--patience)."
                    )
                    ends = True
            if ends:
                break

            began = time.perf_counter()
            set_lr(training.optimiser, lr_at(config, state.step, steps_per_epoch))
            beta = kl_weight_at(config, state.step) / len(prefixes)
            index, pad_to = order.batch(state.step, steps_per_epoch)
            index, weight = workers.share(index)
            ce, kl, loss = train_step(training, prefixes.batch(index, pad_to), beta, buffer, weight)
            state.step += 1
            state.seconds += time.perf_counter() - began
            if not math.isfinite(loss):
                raise diverged(training, ce, kl, run)
            state.sum_ce, state.sum_kl, state.n_sum = state.sum_ce + ce, state.sum_kl + kl, state.n_sum + 1
    finally:
        recorder.close()
    summary = finish(training, data, run, splits, steps_per_epoch, report)
    write_json(run / "summary.json", summary)
    mark_done(run)
    return summary


def train_step(
    training: Training, batch: tuple[Tensor, Tensor, Tensor], beta: float, buffer: Tensor, weight: float = 1.0
) -> tuple[float, float, float]:
    """One update on items [B, L], lengths [B], targets [B]; returns the mean cross-entropy, the summed KL, and the loss
    that both are part of (nats).

    loss = mean CE + beta * sum of KL over all SparseVD weights, where beta is already divided by N. `buffer`
    (of `score_buffer`) takes the scores. Where several processes share a batch, `weight` is this one's part of it, the
    gradients are added up, and the values are those of the whole batch. A loss that is no number leaves the weights
    as they were.
    """
    model, controls = training.model, training.controls
    items, lengths, targets = batch
    training.optimiser.zero_grad(set_to_none=True)
    S = model.item_states()  # [V, D]
    # The table enters twice. Apart, its two gradients can be added in place: one is dense, the other a few rows.
    looked_up, scored = S.detach().requires_grad_(), S.detach().requires_grad_()
    with one_sample(model):
        vectors, auxiliary = training.encode(looked_up, items, lengths)  # [B, D]
        if controls is not None:
            vectors = controls(vectors)
        loss = cross_entropy = next_item_loss(
            model, vectors, scored, targets - 1, training.config, buffer, training.kernel
        )
    for value in auxiliary.values():
        loss = loss + value
    kl = loss.new_zeros(())
    if controls is not None:
        kl = total_kl(model, training.config.prior) + total_kl(controls, training.config.prior)
        loss = loss + beta * kl
    told = workers.add_up(torch.stack([loss.detach(), cross_entropy.detach(), kl.detach()]).double() * weight)
    total, ce, kl_sum = told.tolist()
    if math.isfinite(total):
        (loss if weight == 1 else loss * weight).backward()
        backward_to_table(S, scored.grad, looked_up.grad)
        workers.add_up_gradients(p for group in training.optimiser.param_groups for p in group["params"])
        training.optimiser.step()
    return ce, kl_sum, total


def next_item_loss(
    model: Any, vectors: Tensor, S: Tensor, targets: Tensor, config: Config, buffer: Tensor, kernel: str = "float32"
) -> Tensor:
    """Mean cross-entropy of `targets` [B] (rows of S [V, D]), over the catalogue or over `negatives` drawn items."""
    if not config.negatives:
        matrix, bias = model.candidates(S)  # [V, D], [V]
        unit_of = S if model.unit_candidates else None
        return catalogue_loss(vectors, matrix, bias, targets, buffer, unit_of, kernel)
    drawn = torch.randint(len(S), (config.negatives,), device=S.device)
    rows = F.embedding(torch.cat([targets, drawn]), S, sparse=True)
    matrix, bias = catalogue(model, rows)  # [B + n, D]
    if bias is not None:
        raise UsageError("--negatives is for models without a bias per item.", "Leave it out.")
    is_target = targets[:, None] == drawn
    return sampled_loss(vectors, matrix[: len(targets)], matrix[len(targets) :], is_target, len(S))


def backward_to_table(S: Tensor, *gradients: Tensor | None) -> None:
    """Send the gradients of the item table S [V, D] on to the parameters it was made of; sparse ones come last."""
    given = [gradient for gradient in gradients if gradient is not None]
    if not given or not S.requires_grad:
        return
    total = torch.zeros_like(S) if given[0].is_sparse else given.pop(0)
    for gradient in given:
        total.add_(gradient)
    if S.is_leaf and S.grad is None:
        S.grad = total  # handed over; backward() would copy it
    else:
        S.backward(total)


class ExampleOrder:
    """Which examples make up which batch: a permutation for each epoch from (seed, epoch), or time order.

    `lengths` [P] are those of all examples, on the device. `static`: the widths to which batches are padded are fetched
    once an epoch, so that no step waits for its own, and are few.
    """

    def __init__(self, lengths: Tensor, config: Config, seed: int, static: bool) -> None:
        self.lengths, self.config, self.seed, self.static = lengths, config, seed, static
        self.epoch, self.permutation = -1, torch.empty(0)
        self.widths: list[int] = []

    def batch(self, step: int, steps_per_epoch: int) -> tuple[Tensor, int | None]:
        """(indices [B] of the examples of a step, fewer at an epoch's end; width to pad them to, or None)."""
        (epoch, at), B = divmod(step, steps_per_epoch), self.config.batch_size
        if epoch != self.epoch:
            n = len(self.lengths)
            if self.config.order == "chronological":
                permutation = torch.arange(n)
            else:
                generator = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
                permutation = torch.randperm(n, generator=generator)
            self.epoch, self.permutation = epoch, permutation.to(self.lengths.device)
            if self.static:
                longest = F.pad(self.lengths[self.permutation], (0, -n % B)).view(-1, B).amax(1)
                self.widths = [WIDTHS * -(-width // WIDTHS) for width in longest.tolist()]
        return self.permutation[at * B : (at + 1) * B], self.widths[at] if self.static else None


def choose_epoch(training: Training, values: dict[str, dict[str, float]], run: Path, steps_per_epoch: int) -> bool:
    """Keep the weights of the epoch with the best MRR@20 on validation; True where patience has run out.

    Does nothing for a run that reports its final step.
    """
    config, state = training.config, training.state
    if config.select == "last":
        return False
    value = values["test" if config.protocol == "paper" else "valid"]["mrr@20"]
    if value > state.best_value:
        state.best_value, state.best_step = value, state.step
        best = {**identity(training), "model": training.model.state_dict(), "step": state.step}
        save_checkpoint(run / "checkpoints" / "best.pt", best)
    return bool(config.patience) and state.step - state.best_step >= config.patience * steps_per_epoch


def diverged(training: Training, ce: float, kl: float, run: Path) -> DivergedError:
    """The error for a loss that is no number; the first parameter that is not finite is the suspect."""
    controls = [] if training.controls is None else list(training.controls.named_parameters())
    named = [*training.model.named_parameters(), *controls]
    bad = [name for name, parameter in named if not torch.isfinite(parameter).all()]
    suspect = bad[0] if bad else ("the KL" if not math.isfinite(kl) else "the scores of this batch")
    return DivergedError(
        f"The loss is no longer a number at step {training.state.step} (cross-entropy {ce}, KL {kl}); "
        f"suspect: {suspect}. The record and the last good checkpoint are kept in {run}.",
        "A smaller --lr or a longer --kl-warmup usually helps.",
    )
