"""The items that a trained model ranks first after sessions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from dissect.errors import DivergedError
from dissect.training.scoring import AT_ONCE
from models.batch import Batch


class Recommended(NamedTuple):
    """An item [1..V] with its score, and its probability under the softmax; a model without gradients has none."""

    item: int
    score: float
    probability: float | None


def recommend(
    model: Any,
    sessions: Sequence[Sequence[int]],
    n_items: int,
    device: torch.device,
    k: int,
    unseen: bool = False,
    longest: int = 0,
) -> Iterator[list[Recommended]]:
    """The k items with the highest scores after each session, best first; of equal scores the lower number first.

    `unseen` leaves out the items of the session, so there may be fewer than k. Only the last `longest` clicks of a
    session are used; 0 uses all. Raises DivergedError if scores are NaN or infinite.
    """
    at_once = max(1, min(256, AT_ONCE // (4 * n_items)))
    for start in range(0, len(sessions), at_once):
        part = sessions[start : start + at_once]
        scores = scores_after(model, [session[-longest:] for session in part], device).cpu()  # -0 keeps all
        chances = scores.double().softmax(1) if model.learns else None
        for row, session in enumerate(part):
            rows = _best(scores[row], torch.tensor(session).unique() - 1 if unseen else None, k)
            probable = [None] * len(rows) if chances is None else chances[row][rows].tolist()
            yield list(map(Recommended, (rows + 1).tolist(), scores[row][rows].tolist(), probable))


def _best(scores: Tensor, without: Tensor | None, k: int) -> Tensor:
    """The rows [k] of the highest scores [V] except the rows `without`; of equal scores the first."""
    if without is not None:
        scores = scores.index_fill(0, without, -torch.inf)
        k = min(k, len(scores) - len(without))
    k = min(k, len(scores))
    if k == 0:
        return torch.zeros(0, dtype=torch.long)
    among = (scores >= scores.topk(k).values[-1]).nonzero()[:, 0]  # all that tie with the last one, too
    return among[scores[among].argsort(descending=True, stable=True)][:k]


@torch.no_grad()  # a model may keep what it makes, a mask say, and train on
def scores_after(model: Any, sessions: Sequence[Sequence[int]], device: torch.device) -> Tensor:
    """The score [B, V] of each item after each session, as in an evaluation.

    Raises DivergedError if a trained model's scores are NaN or infinite.
    """
    scores: Tensor = model.scores(Batch.of(sessions, device))
    if not torch.isfinite(scores).all():
        raise DivergedError("The model's scores are no longer numbers: there is nothing to recommend by.")
    return scores
