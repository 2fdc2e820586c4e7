"""STAN: session-kNN that weighs neighbours by order and age (Garg et al., SIGIR 2019).

The definitions are those of session-rec (algorithms/knn/stan.py), with the exceptions of models/neighbours.py. Moreover
the age of a training session counts from the last of them, not from the session that is ranked. This divides all scores
of a session by the same number, so that no time of the session is needed. session-rec counts from the time of the click
to be predicted, which nobody has when it is predicted.

Letters as in models/votes.py.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
from torch import Tensor

from models.limits import require
from models.neighbours import SessionKNN
from models.search import Float
from models.votes import Asked, Matches, Votes

DAY = 24 * 3600
CLICKS = Float(0.4, 20.0, log=True)  # how soon a weight fades


class STAN(SessionKNN):
    """STAN: SKNN where late clicks, recent sessions, and items near the shared ones weigh more.

    An item `step` clicks from the end of the session has weight w = exp(-(step - 1) / lambda1). Similarity is
    (sum of w over shared items) / (sqrt(sum of w^2) sqrt(|n|)) times exp(-age / lambda2); a vote for an item is that
    times exp(-(clicks between it and the latest shared item) / lambda3). Last clicks on an item count. A lambda of 0
    leaves its factor out.

    lambda2  in days. If the data have no times, the sessions are spread evenly over `days`; with 0 lambda2 has no
             effect
    """

    reads_times = True
    search: ClassVar = {
        **SessionKNN.search,
        "lambda1": CLICKS,
        "lambda2": Float(2.0, 200.0, log=True),
        "lambda3": CLICKS,
    }
    # session-rec's settings for Diginetica (conf/save/diginetica): one split or five windows, tuned for MRR or HR.
    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "single-mrr": {"k": 500, "sample": 5000, "lambda1": 1.25, "lambda2": 80.0, "lambda3": 5.0},
        "single-hr": {"k": 500, "sample": 2500, "lambda1": 2.5, "lambda2": 80.0, "lambda3": 5.0},
        "window-mrr": {"k": 500, "sample": 10000, "lambda1": 1.225, "lambda2": 20.0, "lambda3": 4.9},
        "window-hr": {"k": 100, "sample": 5000, "lambda1": 2.45, "lambda2": 20.0, "lambda3": 9.8},
    }

    def __init__(
        self,
        n_items: int,
        k: int = 500,
        sample: int = 5000,
        lambda1: float = 1.25,
        lambda2: float = 80.0,
        lambda3: float = 5.0,
        days: float = 0.0,
    ) -> None:
        super().__init__(n_items, k, sample)
        require_lengths(lambda1=lambda1, lambda2=lambda2, lambda3=lambda3)
        require("at least 0 and finite", lambda x: 0 <= x < math.inf, days=days)
        self.lambda1, self.lambda2, self.lambda3, self.days = lambda1, lambda2, lambda3, days

    def prepare(self, sessions: Any) -> None:
        """As SessionKNN; the ends of the sessions in seconds, `times` [S], are used if they are there."""
        super().prepare(sessions)
        times = getattr(sessions, "times", None)
        if times is None:
            age = torch.arange(self.n_sessions, dtype=torch.float64).flip(0) * self.days / self.n_sessions
        else:
            times = torch.tensor(times, dtype=torch.long)
            age = (times.max() - times) / DAY
        self.freshness = fading(age, self.lambda2).float()  # [S]

    def idle(self, has_times: bool) -> tuple[str, ...]:
        return () if has_times or self.days else ("lambda2",)

    def weight(self, position: Tensor, length: Tensor) -> Tensor:
        return fading(length - position, self.lambda1)

    def similarity(self, found: Matches, asked: Asked) -> Tensor:
        norm = asked.sum(asked.weight**2)[found.query] * self.size[found.session]
        return found.weight / norm.sqrt() * self.freshness[found.session]

    def counted(self, votes: Votes, asked: Asked) -> Votes:
        shared = torch.zeros(len(asked.size) * self.n_items, dtype=torch.bool)
        shared[asked.query * self.n_items + asked.item] = True
        position = self.position[votes.place]
        n_neighbours = int(votes.neighbour[-1]) + 1 if len(votes.neighbour) else 0
        latest = torch.full((n_neighbours,), -1.0)  # position of the latest shared item; each neighbour has one
        latest.scatter_reduce_(0, votes.neighbour, torch.where(shared[votes.cell], position, -1.0), "amax")
        between = (position - latest[votes.neighbour]).abs()
        return votes._replace(value=votes.value * fading(between, self.lambda3))


def fading(distance: Tensor, length: float) -> Tensor:
    """exp(-distance / length), or 1 for a length of 0."""
    return (-distance / length).exp() if length else torch.ones_like(distance)


def require_lengths(**given: float) -> None:
    """Raises ValueError unless all are 0, or large enough for exp(-distance / length) in single precision."""
    require("at least 0.001, or 0 to leave its factor out", lambda x: x == 0 or 0.001 <= x < math.inf, **given)
