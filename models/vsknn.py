"""V-SKNN: session-kNN where late clicks and rare items weigh more (Ludewig and Jannach 2018).

After session-rec (algorithms/knn/vsknn.py), with the exceptions of models/neighbours.py. Moreover negative weights are
0. `linear` is negative more than ten clicks from the end: session-rec keeps that, and gives every click from the
eleventh on weight 0. The factor of an item is negative if it has far more clicks than there are sessions.

Letters as in models/votes.py.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar

from torch import Tensor

from models.limits import require, require_choice
from models.neighbours import SessionKNN
from models.search import Choice, Float
from models.votes import DECAYS, Asked, Matches, falling


class VectorSessionKNN(SessionKNN):
    """SKNN where late clicks and rare items weigh more.

    weighting  weight of the item clicked i-th of m, when sessions are compared: "div" i / m, "quadratic"
               (i / m)^2, "linear" 1 - 0.1 (m - i) but at least 0, "log" 1 / log10(m - i + 1.7), "same" 1;
               similarity is the sum of the weights of the shared items / number of different items
    decay      weight of a neighbour whose latest shared item is `step` clicks from the end: "div" 1 / step,
               "quadratic" 1 / step^2, "linear" 1 - 0.1 step but at least 0, "log" 1 / log10(step + 1.7),
               "same" 1
    idf        votes are multiplied by 1 + idf ln(S / number of clicks on the item), but at least by 0
    """

    search: ClassVar = {
        **SessionKNN.search,
        "weighting": Choice(DECAYS),
        "decay": Choice(DECAYS),
        "idf": Float(0.0, 10.0, step=1.0),
    }

    presets: ClassVar[dict[str, dict[str, Any]]] = {  # as for SKNN
        "single": {"k": 1500, "sample": 10_000, "weighting": "quadratic", "decay": "linear", "idf": 10.0},
        "window": {"k": 500, "sample": 5000, "weighting": "quadratic", "decay": "div", "idf": 5.0},
    }

    def __init__(
        self,
        n_items: int,
        k: int = 500,
        sample: int = 5000,
        weighting: str = "quadratic",
        decay: str = "div",
        idf: float = 5.0,
    ) -> None:
        super().__init__(n_items, k, sample)
        require_choice(DECAYS, weighting=weighting, decay=decay)
        require("a finite number", math.isfinite, idf=idf)
        self.weighting, self.decay_kind, self.idf_weight = weighting, decay, idf

    def similarity(self, found: Matches, asked: Asked) -> Tensor:
        return found.weight / asked.size[found.query]

    def weight(self, position: Tensor, length: Tensor) -> Tensor:
        if self.weighting == "div":
            return position / length
        if self.weighting == "quadratic":
            return (position / length) ** 2
        return falling(self.weighting, length - position)

    def decay(self, step: Tensor) -> Tensor:
        return falling(self.decay_kind, step)
