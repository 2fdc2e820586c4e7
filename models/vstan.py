"""VSTAN: STAN with the weights of V-SKNN for late clicks and rare items (Ludewig et al., RecSys 2019).

After session-rec (algorithms/knn/vstan.py), with the exceptions of models/stan.py, and no negative factors, as in
models/vsknn.py. It compares by cosine: session-rec's option "vec", which its settings name, has no effect there either.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar

from torch import Tensor

from models.limits import require
from models.search import Float
from models.stan import CLICKS, STAN, fading, require_lengths


class VSTAN(STAN):
    """VSTAN: STAN where, as in V-SKNN, neighbours that share late clicks and rare items weigh more.

    lambda4  the votes of a neighbour whose latest shared item is `step` clicks from the end are multiplied by
             exp(-(step - 1) / lambda4)
    idf      and by 1 + idf ln(S / number of clicks on the item), but at least by 0
    """

    search: ClassVar = {**STAN.search, "lambda4": CLICKS, "idf": Float(0.0, 10.0, step=1.0)}
    # As for STAN. session-rec calls lambda1 to lambda4 lambda_spw, lambda_snh, lambda_inh and lambda_ipw.
    presets: ClassVar[dict[str, dict[str, Any]]] = {
        name: dict(zip(("k", "sample", "lambda1", "lambda2", "lambda3", "lambda4", "idf"), values))
        for name, values in {
            "single-mrr": (1500, 5000, 1.25, 100.0, 10.0, 10.0, 10.0),
            "single-hr": (1500, 10000, 5.0, 80.0, 5.0, 5.0, 1.0),
            "window-mrr": (1500, 5000, 4.9, 40.0, 4.9, 1.225, 10.0),
            "window-hr": (100, 1000, 4.9, 80.0, 9.8, 4.9, 5.0),
        }.items()
    }

    def __init__(
        self,
        n_items: int,
        k: int = 1500,
        sample: int = 5000,
        lambda1: float = 1.25,
        lambda2: float = 100.0,
        lambda3: float = 10.0,
        days: float = 0.0,
        lambda4: float = 10.0,
        idf: float = 10.0,
    ) -> None:
        super().__init__(n_items, k, sample, lambda1, lambda2, lambda3, days)
        require_lengths(lambda4=lambda4)
        require("a finite number", math.isfinite, idf=idf)
        self.lambda4, self.idf_weight = lambda4, idf

    def decay(self, step: Tensor) -> Tensor:
        return fading(step - 1, self.lambda4)
