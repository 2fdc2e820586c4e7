"""The training loop: from a model and a data set to a finished run folder.

Everything is a function of (configuration, seed): the order of the examples comes from (seed, epoch), the
noise from one generator whose state travels in the checkpoint.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dissect.data.sessions import Dataset, split_validation
from dissect.errors import DataError, DivergedError, UsageError
from dissect.runs.config import Config, decay_step, kl_weight_at
from dissect.runs.files import write_json
from dissect.runs.folders import BEST, CHECKPOINTS, checkpoint, mark_done
from dissect.sparsevd import one_sample, penalty
from dissect.sparsevd.averages import BATCHES, is_averaged
from dissect.sparsevd.noise import moments_kept, noise_kept
from dissect.sparsevd.probe import seed_torch
from dissect.sparsevd.shadows import aside
from dissect.text import plural
from dissect.training import workers
from dissect.training.checkpoint import latest_checkpoint, save_checkpoint
from dissect.training.controls import Controls
from dissect.training.device import describe_environment
from dissect.training.evaluated import Evaluated
from dissect.training.evaluation import prefixes_of
from dissect.training.finish import finish
from dissect.training.losses import Shares, loss_over_sample
from dissect.training.nearby import Near, draws_again, surrogate_near
from dissect.training.record import Observer, Recorder
from dissect.training.resume import identity, interrupted, restore, snapshot, stop_on_signal
from dissect.training.scoring import catalogue_loss, score_buffer
from dissect.training.setup import ITEMS_TIMED, Training, assemble, choose_kernel, set_lr
from dissect.usual import FULL
from models.base import encoded, session_vectors, sparse_lookups, unit_rows
from models.batch import Batch, Prefixes

CHECKPOINT_SECONDS = 300.0
DENSITY_MEASUREMENTS = 100  # over a run
LOSS_LINES = 500  # over a run


def fit(
    build: Callable[[], nn.Module],
    data: Dataset,
    config: Config,
    run: Path,
    *,
    seed: int,
    variant: str = FULL,
    device: torch.device | str = "cpu",
    observer: Observer | None = None,
    weights: dict[str, Tensor] | None = None,
) -> dict[str, Any]:
    """Train one seed of a configuration into the folder `run`, or continue it; returns the summary.

    `build` makes the model (the contract is in models/base.py) after the seed was set; `weights` are a dense model's,
    to start from. Raises Interrupted with a checkpoint written on SIGINT and SIGTERM, DivergedError if the loss becomes
    NaN or infinite, UsageError if another process holds the folder, if the machine cannot do what the configuration
    asks, and for a run of an earlier version.
    """
    if not config.apart:
        raise UsageError(
            f"{run} is of an earlier version: its shadows and controls ran within the model, and changed it.",
            "It can be read, but not continued. Train anew, with the same command.",
        )
    observer = observer or Observer()
    with workers.run_folder(run) as folder, stop_on_signal() as stopped:
        try:
            prefixes, splits = examples_of(data, config, device)
            train, _ = split_validation(data.train, config.held_out)
            training = assemble(build, config, prefixes, seed, variant, weights, train)
            begin(training, data.n_items, folder, torch.device(device), observer)
            return _Fit(folder, training, data, prefixes, splits, observer, stopped).run_all()
        finally:
            observer.end()


def examples_of(data: Dataset, config: Config, device: torch.device | str) -> tuple[Prefixes, dict[str, Prefixes]]:
    """(training prefixes, ranked prefixes by name): test, and valid if a part of the sessions is held out."""
    train, valid = split_validation(data.train, config.held_out)
    if not train.n_prefixes:
        raise DataError(f"{data.name} has no training prefix left after the validation split.")
    splits = {"test": data.test, **({"valid": valid} if valid.n_prefixes else {})}
    ranked = {name: prefixes_of(sessions, device, config.longest) for name, sessions in splits.items()}
    return prefixes_of(train, device, config.longest), ranked


def begin(training: Training, n_items: int, run: Path, device: torch.device, observer: Observer) -> None:
    """Restore the last checkpoint of a run, or begin it: choose a kernel and write environment.json."""
    config, last = training.config, checkpoint(run)
    saved, note = latest_checkpoint(last)
    if note:
        observer.note(note)
    if not workers.is_first():  # noise of its own; the weights are the same
        torch.manual_seed(training.seed + 1_000_033 * workers.number())
    if saved is not None:
        restore(training, saved, last)
        return
    tried = choose_kernel(training, n_items, device)
    bf16, single = tried.get(training.kernel, 0.0), tried.get("float32", 0.0)
    if config.products == "bf16" and bf16 > max(1.2 * single, single + 5):  # less is within the error of the timing
        slow = f"{bf16:,.0f} against {single:,.0f} milliseconds for the loss over {min(n_items, ITEMS_TIMED):,} items"
        observer.note(f"bf16 products are slower than float32 here: {slow}. --products auto takes the faster of them.")
    products = {"kernel": training.kernel, "milliseconds": tried}
    environment = {**describe_environment(device), "max_steps": config.max_steps, "products": products}
    write_json(run / "environment.json", environment)


class _Fit:
    """A run in training: the loop over its steps, and the work due between them."""

    def __init__(
        self,
        run: Path,
        training: Training,
        data: Dataset,
        prefixes: Prefixes,
        splits: dict[str, Prefixes],
        observer: Observer,
        stopped: Callable[[], bool],
    ) -> None:
        self.run, self.training, self.data, self.prefixes, self.splits = run, training, data, prefixes, splits
        self.observer, self.stopped = observer, stopped
        config = training.config
        self.order = ExampleOrder(prefixes, config, training.seed, training.model.every_position)
        self.recorder = Recorder(run, training, self.order, observer)
        self.evaluated = Evaluated(run, training, prefixes.device)
        # For the scores of every step.
        self.buffer = score_buffer(self.order.most_targets, data.n_items, prefixes.device)
        self.loss_every = max(1, config.max_steps // LOSS_LINES)
        self.density_every = max(1, config.max_steps // DENSITY_MEASUREMENTS)

    def run_all(self) -> dict[str, Any]:
        """Train to the end and write the summary, which is returned."""
        state, config = self.training.state, self.training.config
        self.observer.begin(self.run, state.step, config.max_steps, self.order.steps)
        self.saved_at = time.monotonic()
        try:
            while not self.due():
                self.step()
        finally:
            self.recorder.close()
        with self.training.averages.in_place():
            known = (self.splits, self.order.steps, self.report, self.evaluated)
            summary = finish(self.training, self.data, self.run, *known)
        write_json(self.run / "summary.json", summary)
        self.evaluated.clear()
        mark_done(self.run)
        return summary

    def due(self) -> bool:
        """Do the work due at this step; True if the run ends here. Raises Interrupted after a signal.

        The checkpoint comes first: if the run stops during the rest, its records are cut back and written again.
        """
        config, state = self.training.config, self.training.state
        ends = state.step == config.max_steps
        ends_epoch = ends or (state.step > 0 and state.step % self.order.steps == 0)
        is_late = time.monotonic() - self.saved_at > CHECKPOINT_SECONDS
        stops, is_late = workers.any_says(self.stopped(), is_late, device=self.prefixes.device)
        if ends_epoch:  # before the checkpoint: what it holds is what is evaluated
            model = self.training.model
            run = partial(run_whole, model)
            self.training.averages.take_statistics(model, run, self.order.first(BATCHES))
        if ends_epoch or stops or is_late:
            self.recorder.mark()
            save_checkpoint(checkpoint(self.run), snapshot(self.training))
            self.saved_at = time.monotonic()
        if stops:
            raise interrupted(state.step, config.max_steps, self.run / CHECKPOINTS)
        if state.n_sum and (ends or state.step % self.loss_every == 0):
            self.recorder.loss()
        is_due = ends or state.step in (0, decay_step(config)) or state.step % self.density_every == 0
        if not (ends_epoch or (config.is_sparse and is_due)):
            return False
        with self.training.averages.in_place():
            if config.is_sparse and is_due:
                self.recorder.density()
            return self.is_over(ends) if ends_epoch else False

    def is_over(self, ends: bool) -> bool:
        """Rank at the end of an epoch; whether the run is over, because it `ends` or patience has run out."""
        config, state = self.training.config, self.training.state
        left = {"test"} if config.test_at_end and not ends else set()
        ranked = {name: prefixes for name, prefixes in self.splits.items() if name not in left}
        values = self.recorder.accuracy(ranked, self.report, self.evaluated if ends else None)
        if choose_epoch(self.training, values, self.run, self.order.steps) and not ends:
            waited = plural(config.patience, "epoch")
            self.observer.note(f"Stopped after step {state.step:,}: no better MRR@20 in {waited} (--patience).")
            return True
        return ends

    def step(self) -> None:
        """One update. Raises DivergedError if the loss is NaN or infinite."""
        training, state = self.training, self.training.state
        began = time.perf_counter()
        set_lr(training.optimiser, training.config, state.step, self.order.steps)
        beta = kl_weight_at(training.config, state.step) / self.order.targets
        index, weight = workers.share(self.order.batch(state.step), self.order.targets_of)
        ce, kl, loss = train_step(training, self.prefixes.batch(index), beta, self.buffer, weight)
        state.step += 1
        if is_averaged(state.step, training.config.max_steps, training.config.average):
            training.averages.add()
        state.seconds += time.perf_counter() - began
        if not math.isfinite(loss):
            raise diverged(training, ce, kl, self.run)
        state.sum_ce, state.sum_kl, state.n_sum = state.sum_ce + ce, state.sum_kl + kl, state.n_sum + 1

    def report(self, split: str) -> Callable[[int, int], None]:
        """The callback of an evaluation: it tells the observer, and stops after a signal."""

        def tell(done: int, total: int) -> None:
            self.observer.evaluating(split, done, total)
            # The checkpoint made before this evaluation stands. Several processes stop together, in the loop.
            if workers.count() == 1 and self.stopped():
                state, config = self.training.state, self.training.config
                raise interrupted(state.step, config.max_steps, self.run / CHECKPOINTS)

        return tell


def run_whole(model: Any, batch: Batch) -> None:
    """Run every part of a model on a batch, for what its norms see: table, session vectors and candidates."""
    S = model.item_states()
    session_vectors(model, S, batch)
    model.candidates(S)


def train_step(
    training: Training, batch: Batch, beta: float, buffer: Tensor, weight: float = 1.0
) -> tuple[float, float, float]:
    """One update on B sessions; returns the mean cross-entropy, the summed KL of the model, and the loss (nats).

    loss = mean CE + beta * sum of KL over all SparseVD weights, with those of the controls, where beta is already
    divided by N; `--loss` puts another loss in the place of the cross-entropy. `buffer` (of `score_buffer`) takes the
    scores. Shadows and controls have a pass of their own, which leaves the model as it is. If several processes share
    a batch, `weight` is this one's part, gradients are summed, and the values are those of the whole batch. A loss that
    is NaN or infinite leaves the weights unchanged.
    """
    model, controls, prior = training.model, training.controls, training.config.prior
    training.optimiser.zero_grad(set_to_none=True)
    with (
        noise_kept() if training.estimates else nullcontext(),
        moments_kept() if controls is not None else nullcontext(),
    ):
        draw_again = draws_again(batch.lengths.device) if training.estimates else None
        with one_sample(model):
            S = model.item_states()  # [V, D]
            # The table enters twice. Kept apart, its dense gradient and that of a few rows can be added in place.
            looked_up, scored = S.detach().requires_grad_(), S.detach().requires_grad_()
            loss, cross_entropy, vectors = loss_of(training, looked_up, scored, batch, buffer)
        if draw_again is not None and vectors.requires_grad:
            vectors.retain_grad()
        kl = penalty(model, prior) if training.config.is_sparse else loss.new_zeros(())
        loss = loss + beta * kl
        total, ce, kl_sum = workers.add_up(torch.stack([loss, cross_entropy, kl]).detach().double() * weight).tolist()
        if math.isfinite(total):
            # What makes the table may be read again: a draw of weights, or a state for an auxiliary loss.
            (loss * weight).backward(retain_graph=S.grad_fn is not None)
            backward_to_table(S, scored.grad, looked_up.grad)
            if controls is not None:
                near = None
                if draw_again is not None and vectors.grad is not None:
                    near = Near(vectors.detach(), vectors.grad / (weight or 1.0), draw_again)
                total += train_beside(training, controls, S, batch, beta, buffer, weight, near)
    if math.isfinite(total):
        workers.add_up_gradients(p for group in training.optimiser.param_groups for p in group["params"])
        training.optimiser.step()
    return ce, kl_sum, total


def train_beside(
    training: Training,
    controls: Controls,
    S: Tensor,
    batch: Batch,
    beta: float,
    buffer: Tensor,
    weight: float,
    near: Near | None,
) -> float:
    """Gradients for the shadows and controls on the batch; none for the model, which stays as it is.

    With what the model's own pass found (`near`), this one draws the same noise and dropout, and scores a part of the
    catalogue. Returns the KL that they add, in the loss; NaN if their loss is NaN or infinite.
    """
    model, seed = training.model, seed_beside(training)
    with aside(model, seed):
        # Of their own, so that the model's draws are the same.
        own = None if near is None else torch.Generator().manual_seed(seed + 500_009)
        with one_sample(model), controls.cast(model, own):
            if near is not None:
                near.draw_again()
            if S.grad_fn is not None and model.remakes_table:  # it may have shadows, draw numbers, or be read again
                S = model.item_states()
            S = S if training.has_dissected_table else S.detach()
            loss, _, _ = loss_of(training, S, S, batch, buffer, controls, near)
        kl = penalty(controls, training.config.prior)
        told = workers.add_up(torch.stack([loss, kl]).detach().double() * weight).tolist()
        if not math.isfinite(sum(told)):
            return math.nan
        ((loss + beta * kl) * weight).backward()
    return float(beta * told[1])


def loss_of(
    training: Training,
    looked_up: Tensor,
    scored: Tensor,
    batch: Batch,
    buffer: Tensor,
    controls: Controls | None = None,
    near: Near | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """(loss with what the model adds to it, loss without, vectors [B, D]) of B sessions: means, without the KL.

    looked_up and scored [V, D] are the item table, as it is read and as it is scored. `controls` add to the vectors.
    With `near` the loss is `surrogate_near`, whose gradient alone counts.
    """
    model = training.model
    with sparse_lookups(looked_up):
        vectors, auxiliary = encoded(model, looked_up, batch)  # [B, D]
    targets, owner = batch.targets, None
    if model.every_position:  # [B, L, D]
        vectors, targets, owner = batch.clicks.unpadded(vectors), batch.targets_of_clicks, batch.clicks.owner
    if near is not None:  # the last that the pass without controls has drawn; what they draw must be new
        matrix, bias = model.candidates(scored)
        seed_torch(seed_beside(training), vectors.device)
    if controls is not None:
        vectors = controls(vectors, rows_apart(batch, training.config, model.every_position), owner)
    vectors = vectors.view_as(vectors)  # `auxiliary` may come from the vectors; its gradient is not in these
    if near is None:
        how = (training.config, buffer, training.kernel, training.shares, owner)
        loss = next_item_loss(model, vectors, scored, targets - 1, *how)
    else:
        about = (targets - 1, training.config.shadow_items, unit_rows(model, scored, matrix))
        loss = surrogate_near(vectors, near, matrix, bias, *about)
    return loss + sum(auxiliary.values()), loss, vectors


def seed_beside(training: Training) -> int:
    """Of what shadows and controls draw at this step."""
    return 1_000_003 * (training.state.step + 1) + 1_009 * training.seed + workers.number()


def rows_apart(batch: Batch, config: Config, every_position: bool) -> int:
    """How many rows away a vector belongs to another session.

    The vectors of all clicks of a session stand side by side; so do the prefixes of a session in time order.
    """
    if every_position:
        return batch.clicks.width
    return 1 if config.order == "shuffled" else max(1, len(batch) // 2)


def next_item_loss(
    model: Any,
    vectors: Tensor,
    S: Tensor,
    targets: Tensor,
    config: Config,
    buffer: Tensor,
    kernel: str = "float32",
    shares: Shares | None = None,
    owner: Tensor | None = None,
) -> Tensor:
    """Mean loss of `targets` [B] (rows of S [V, D]): the cross-entropy over the catalogue, or what `config` asks for.

    The last two are those of `loss_over_sample`.
    """
    if config.negatives or config.loss != "cross-entropy":
        return loss_over_sample(model, vectors, S, targets, config, shares, owner)
    matrix, bias = model.candidates(S)  # [V, D], [V]
    return catalogue_loss(vectors, matrix, bias, targets, buffer, unit_rows(model, S, matrix), kernel)


def backward_to_table(S: Tensor, *gradients: Tensor | None) -> None:
    """Pass the gradients of the item table S [V, D] on to its parameters; sparse ones come last."""
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

    An example is a prefix; with `every_position` a whole session, with a target after every click.
    """

    def __init__(self, prefixes: Prefixes, config: Config, seed: int, every_position: bool = False) -> None:
        self.prefixes, self.config, self.seed, self.every_position = prefixes, config, seed, every_position
        self.examples = prefixes.whole if every_position else torch.arange(len(prefixes))
        self.steps = math.ceil(len(self.examples) / config.batch_size)  # of an epoch
        self.epoch, self.permutation = -1, self.examples

    @cached_property
    def targets(self) -> int:
        """Of an epoch: the N by which the KL is divided. A session cut to its last clicks has fewer of them."""
        return int(self.prefixes.length[self.examples].sum()) if self.every_position else len(self.examples)

    def targets_of(self, index: Tensor) -> Tensor:
        """How many targets some examples have: [B]."""
        return self.prefixes.length[index] if self.every_position else torch.ones_like(index)

    @property
    def most_targets(self) -> int:
        """Of a batch: no more than this, with `every_position` in all but the rarest batches."""
        if not self.every_position:
            return self.config.batch_size
        clicks = self.prefixes.length[self.examples].double()
        usual = clicks.mean() + 3 * clicks.std(correction=0) / self.config.batch_size**0.5
        return math.ceil(float(usual) * self.config.batch_size)

    def batch(self, step: int) -> Tensor:
        """The prefixes [B] of a step, fewer at an epoch's end: in the order of their lengths, which is fastest, or if
        `rows_apart` counts on it in time order.
        """
        (epoch, at), B = divmod(step, self.steps), self.config.batch_size
        if epoch != self.epoch:
            self.epoch, self.permutation = epoch, self.examples
            if self.config.order == "shuffled":
                generator = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
                self.permutation = self.examples[torch.randperm(len(self.examples), generator=generator)]
        index = self.permutation[at * B : (at + 1) * B]
        is_in_time_order = self.config.order == "chronological" and self.config.is_sparse
        return index if is_in_time_order else self.prefixes.by_length(index)

    def first(self, count: int) -> Iterator[Batch]:
        """The first whole batches of the first epoch, `count` at most; what there is, if that makes none."""
        for step in range(min(count, max(1, len(self.examples) // self.config.batch_size))):
            yield self.prefixes.batch(self.batch(step))


def choose_epoch(training: Training, values: dict[str, dict[str, float]], run: Path, steps_per_epoch: int) -> bool:
    """Keep the weights of the epoch with the best MRR@20 on validation; True if patience has run out.

    Does nothing for a run that reports its final step.
    """
    config, state = training.config, training.state
    if config.select == "last":
        return False
    split = "test" if config.protocol == "paper" else "valid"
    value = values[split]["mrr@20"] if split in values else float(state.step)  # without validation, the last epoch
    if value > state.best_value:
        state.best_value, state.best_step = value, state.step
        best = {**identity(training), "model": training.model.state_dict(), "step": state.step}
        save_checkpoint(checkpoint(run, BEST), best)
    return bool(config.patience) and state.step - state.best_step >= config.patience * steps_per_epoch


def diverged(training: Training, ce: float, kl: float, run: Path) -> DivergedError:
    """The error for a loss that is not finite; the first parameter that is not finite is the suspect."""
    controls = [] if training.controls is None else list(training.controls.named_parameters())
    named = [*training.model.named_parameters(), *controls]
    bad = [name for name, parameter in named if not torch.isfinite(parameter).all()]
    of_batch = "the scores of this batch"
    if not bad and math.isfinite(ce + kl):  # the pass beside that of the model
        of_batch = "the shadows and controls, which train beside the model"
    suspect = bad[0] if bad else ("the KL" if not math.isfinite(kl) else of_batch)
    kept = "The record and the last good checkpoint are" if checkpoint(run).exists() else "The record is"
    return DivergedError(
        f"The loss is no longer a number at step {training.state.step} (cross-entropy {ce}, KL {kl}); "
        f"suspect: {suspect}. {kept} kept in {run}.",
        "A smaller --lr or a longer --kl-warmup usually helps.",
    )
