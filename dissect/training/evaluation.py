"""Ranks of all targets over the whole catalogue, and the metrics made of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from dissect.data.sessions import Sessions
from dissect.data.translate import translated
from dissect.errors import DivergedError
from dissect.runs.records import METRICS
from dissect.sparsevd import one_sample
from dissect.training import workers
from dissect.training.lists import Lists
from dissect.training.scoring import AT_ONCE, ranks_by, scores_over
from models.base import catalogue, session_vectors
from models.batch import Batch, Prefixes

MISS = int(np.iinfo(np.int32).max)  # the rank of a target that the model does not know: beyond every cutoff
Report = Callable[[int, int], None]


def prefixes_of(sessions: Sessions, device: torch.device | str = "cpu", longest: int = 0) -> Prefixes:
    """All prefixes of some sessions that have a target, on a device; each keeps its last `longest` clicks (0: all)."""
    return Prefixes(sessions.items, sessions.offsets, device, longest)


def evaluate(model: Any, prefixes: Prefixes, report: Report | None = None) -> np.ndarray:
    """`evaluate_by` with ties in the target's favour: ranks int32 [P]."""
    return evaluate_by(model, prefixes, ("best",), report=report)[0]


@torch.no_grad()  # a model may keep what it makes, a mask say, and train on
def evaluate_by(
    model: Any,
    prefixes: Prefixes,
    ties: Sequence[str],
    batch_size: int | None = None,
    report: Report | None = None,
    lists: Lists | None = None,
) -> np.ndarray:
    """Ranks int32 [len(ties), P] of the target of each prefix among all V items.

    `batch_size` sessions are ranked at once: by default 512, or fewer if their scores would take more than AT_ONCE.
    Draws no random number and restores the model's mode. `report(done, total)` is called after each batch; `ties` as in
    scoring.ranks_by. `lists` counts what stands in the lists of all prefixes, which takes half as long again. Raises
    DivergedError if scores are NaN: they would compare as lower than the target's score.
    """
    was_training = model.training
    model.eval()
    out = torch.zeros(len(ties), len(prefixes), dtype=torch.int32, device=prefixes.device)
    try:
        with one_sample(model):  # the masked weights are computed once
            scores_of, n_items, sound = scorer(model)
            batch_size = batch_size or max(1, min(512, AT_ONCE // (4 * n_items)))
            # Kernels are fastest if prefixes of equal length are together.
            by_length = prefixes.by_length(torch.arange(len(prefixes)))[workers.number() :: workers.count()]
            for start in range(0, len(by_length), batch_size):
                batch = prefixes.batch(by_length[start : start + batch_size])
                scores, is_sound = scores_of(batch)
                sound = sound & is_sound
                out[:, batch.index.to(out.device)] = ranks_by(scores, batch.targets - 1, ties).int()
                if lists is not None:
                    lists.add(scores)
                if report:
                    report(min(start + batch_size, len(by_length)), len(by_length))
    finally:
        model.train(was_training)
    (broken,) = workers.any_says(not sound, device=out.device)
    if broken:
        raise DivergedError("The model's scores are no longer numbers: there is nothing to rank by.")
    if lists is not None and workers.count() > 1:  # one of them may have had nothing to rank
        lists.times = workers.add_up(
            torch.zeros(n_items, dtype=torch.int64, device=out.device) if lists.times is None else lists.times
        )
    return workers.add_up(out).cpu().numpy()


def scorer(model: Any) -> tuple[Callable[[Batch], tuple[Tensor, Tensor]], int, Tensor]:
    """(function, V, sound): the function gives the scores [B, V] of a batch, and whether they are finite.

    The catalogue is computed once; `sound` says whether it is finite. The next call overwrites the scores of the last:
    new memory for each batch would cost as much time as the products. A model without gradients has scores of its own.
    """
    if not model.learns:

        def own_scores(batch: Batch) -> tuple[Tensor, Tensor]:
            scores = model.scores(batch)
            return scores, ~torch.isnan(scores).any()

        return own_scores, model.n_items, torch.tensor(True)
    S = model.item_states()
    matrix, bias = catalogue(model, S)
    sound = torch.isfinite(matrix).all() & (bias is None or torch.isfinite(bias).all())
    buffer = matrix.new_empty(0)

    def scores_of(batch: Batch) -> tuple[Tensor, Tensor]:
        nonlocal buffer
        vectors = session_vectors(model, S, batch)
        if buffer.numel() < len(vectors) * len(matrix):
            buffer = matrix.new_empty(len(vectors) * len(matrix))
        return scores_over(vectors, matrix, bias, buffer), torch.isfinite(vectors).all()

    return scores_of, len(matrix), sound


class Ranked(NamedTuple):
    """The ranks of P prefixes; if their items were translated, also which targets the model knows."""

    rank: np.ndarray  # int32 [P]
    known: np.ndarray | None = None  # bool [P]
    without_click: int = 0  # prefixes whose target the model knows, but none of their clicks


def rank_sessions(
    model: Any,
    sessions: Sessions,
    device: torch.device,
    ties: str = "best",
    numbers: np.ndarray | None = None,
    longest: int = 0,
    lists: Lists | None = None,
) -> Ranked:
    """The ranks of all prefixes of some sessions, by a model with gradients or without.

    `numbers` maps items to the model's numbers (translate.py). A prefix keeps the clicks that the model knows; its rank
    is MISS if the model does not know its target or any of its clicks. After that only the last `longest` clicks are
    used; 0 uses all. `lists` is that of `evaluate_by`.
    """

    def ranks(of: Sessions) -> np.ndarray:
        found: np.ndarray = evaluate_by(model, prefixes_of(of, device, longest), (ties,), lists=lists)[0]
        return found

    if numbers is None:
        return Ranked(ranks(sessions))
    kept, ranked, known = translated(sessions, numbers)
    rank = np.full(len(ranked), MISS, np.int32)
    if ranked.any():
        rank[ranked] = ranks(kept)
    return Ranked(rank, known, int((known & ~ranked).sum()))


def gains(rank: np.ndarray, metric: str) -> np.ndarray:
    """The contribution of each prefix to a metric such as hr@20 or mrr@5, by its rank (from 1), 0 beyond K.

    hr: 1. mrr: 1 / rank. ndcg: 1 / log2(1 + rank); with a single target the ideal list has gain 1 (Järvelin &
    Kekäläinen 2002). The mean over prefixes is the metric as a share. float64, of the shape of `rank`.
    """
    kind, k = metric.split("@")
    gain = 1 / rank if kind == "mrr" else 1 / np.log2(1.0 + rank) if kind == "ndcg" else 1.0
    return np.where(rank <= int(k), gain, 0.0)


def metrics(rank: np.ndarray, names: Sequence[str] = METRICS) -> dict[str, float]:
    """HR@K and MRR@K, or the metrics named, in percent from ranks [P]: the means of `gains`."""
    return {metric: 100 * float(gains(rank, metric).mean()) if len(rank) else 0.0 for metric in names}
