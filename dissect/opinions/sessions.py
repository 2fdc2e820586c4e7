"""The loss, the batches and the rankings of a run of ours, as the opinions take them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from dissect.errors import DivergedError, UsageError
from dissect.opinions import l0
from dissect.opinions.criteria import Loss, Report
from dissect.opinions.tuning import train
from dissect.runs.config import Config
from dissect.sparsevd import one_sample
from dissect.sparsevd.averages import BATCHES, Averages, is_averaged
from dissect.sparsevd.probe import as_before
from dissect.sparsevd.sparsifier import groups_of
from dissect.training.evaluation import metrics, scorer
from dissect.training.loop import CHECKPOINT_SECONDS, ExampleOrder, next_item_loss, run_whole
from dissect.training.losses import Shares
from dissect.training.scoring import ranks_by, score_buffer
from dissect.training.setup import optimiser_of, set_lr
from dissect.usual import L0_WEIGHT
from models.base import encoded
from models.batch import Batch, Prefixes

AT_ONCE = 512  # sessions that are ranked together


def loss_of(config: Config, buffer: Tensor | None = None, last: bool = False, shares: Shares | None = None) -> Loss:
    """The loss that a run of this configuration makes smaller, without the penalty of a sparsifier.

    shares the items' among the negatives, as Training has them
    last   of a model that predicts at every position, the loss of the last one only: of the prefix and its target. All
           prefixes of a session together have the loss of each of its targets once, as the other models
    """

    def loss(model: Any, batch: Batch) -> Tensor:
        S = model.item_states()
        vectors, auxiliary = encoded(model, S, batch)
        targets, owner = batch.targets, None
        if model.every_position and last:
            vectors = vectors[torch.arange(len(batch), device=vectors.device), batch.lengths - 1]
        elif model.every_position:
            vectors, targets, owner = batch.clicks.unpadded(vectors), batch.targets_of_clicks, batch.clicks.owner
        room = buffer if buffer is not None else score_buffer(len(targets), len(S), vectors.device)
        total = next_item_loss(model, vectors, S, targets - 1, config, room, shares=shares, owner=owner)
        for value in auxiliary.values():
            total = total + value
        return total

    return loss


def examples(prefixes: Prefixes, n: int, seed: int = 0) -> Iterator[Batch]:
    """n of the prefixes, drawn without replacement, each as a batch of its own: one target (`last` of `loss_of`)."""
    drawn = torch.randperm(len(prefixes), generator=torch.Generator().manual_seed(seed))[:n]
    for index in drawn:
        yield prefixes.batch(index[None])


class Ranking:
    """MRR@20 (percent) of models on some prefixes of unseen sessions: `chosen` ones, or `n` at equal distances."""

    def __init__(self, prefixes: Prefixes, n: int = 0, chosen: Tensor | None = None) -> None:
        if not len(prefixes):
            raise UsageError("There is no unseen session to rank.")
        if chosen is None:
            count = min(n, len(prefixes)) if n else len(prefixes)
            chosen = torch.linspace(0, len(prefixes) - 1, count).round().long()
        self.prefixes, self.chosen = prefixes, prefixes.by_length(chosen)

    def __len__(self) -> int:
        return len(self.chosen)

    @torch.no_grad()  # a model may keep what it makes, a mask say, and train on
    def __call__(self, model: Any) -> float:
        """Raises DivergedError if scores are NaN."""
        ranks = []
        with as_before(model), one_sample(model):
            model.eval()
            scores_of, _, is_sound = scorer(model)
            for batch in self.batches():
                scores, is_finite = scores_of(batch)
                is_sound = is_sound & is_finite
                ranks.append(ranks_by(scores, batch.targets - 1, ("worst",))[0])  # equal scores win nothing
        if not is_sound:
            raise DivergedError("The model's scores are no longer numbers: there is nothing to rank by.")
        return metrics(torch.cat(ranks).cpu().numpy())["mrr@20"]

    def batches(self) -> Iterator[Batch]:
        """As they are ranked."""
        for index in self.chosen.split(AT_ONCE):
            yield self.prefixes.batch(index)


def l0_trained(
    model: Any,
    config: Config,
    prefixes: Prefixes,
    *,
    seed: int,
    steps: int,
    weight: float = L0_WEIGHT,
    names: Sequence[str] | None = None,
    shares: Shares | None = None,
    begun: dict[str, Any] | None = None,
    keep: Callable[[dict[str, Any]], None] = lambda state: None,
    report: Report | None = None,
) -> Any:
    """A fresh model trained with L0 gates in place of SparseVD, otherwise as a dissection of `config`.

    The same batches, rates, warm-up of the penalty and averages of the parameters; no shadows and no controls. `weight`
    is what an open gate costs, in nats over all N examples. `names` are the matrices that get gates; all by default.
    `keep` is given the state of the training every CHECKPOINT_SECONDS; with it as `begun`, it goes on from there.
    """
    torch.manual_seed(seed)
    l0.gate(model, names)
    order = ExampleOrder(prefixes, config, seed, model.every_position)
    groups = groups_of(model, [*l0.sparsified(model).values()], l0.own_parameters(model))
    optimiser = optimiser_of(groups, config)
    averages = Averages(model=model)

    warmup = config.kl_warmup * steps  # of the penalty, as that of a KL weight
    if begun:
        model.load_state_dict(begun["model"])
        optimiser.load_state_dict(begun["optimiser"])
        averages.restore(begun["averages"])
        torch.set_rng_state(begun["rng"])
    first, kept_at = begun["step"] if begun else 0, time.monotonic()

    def add(step: int) -> None:
        nonlocal kept_at
        if is_averaged(step + 1, config.max_steps, config.average):
            averages.add()
        if time.monotonic() - kept_at > CHECKPOINT_SECONDS:
            state = {"model": model.state_dict(), "optimiser": optimiser.state_dict(), "averages": averages.state()}
            keep({"step": step + 1, **state, "rng": torch.get_rng_state()})
            kept_at = time.monotonic()

    train(
        model,
        loss_of(config, score_buffer(order.most_targets, len(model.item_states()), prefixes.device), shares=shares),
        (prefixes.batch(order.batch(step)) for step in range(first, steps)),
        optimiser,
        penalty=lambda step: min(1.0, step / warmup if warmup else 1.0) * weight / order.targets * l0.penalty(model),
        before=lambda step: set_lr(optimiser, config, step, order.steps),
        after=add,
        first=first,
        report=report,
    )
    averages.take_statistics(model, partial(run_whole, model), order.first(BATCHES))
    model.load_state_dict({name.removeprefix("model."): mean for name, mean in averages.means.items()}, strict=False)
    return model.eval()
