"""Averaged parameters of a recommender: which of its steps are averaged, and how its batch norm sees the means."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from dissect.runs.config import Config
from dissect.sparsevd.averages import BATCHES as BATCHES
from dissect.sparsevd.averages import Averages as AnyAverages
from dissect.sparsevd.averages import is_averaged
from models.base import session_vectors
from models.batch import Batch


class Averages(AnyAverages):
    """The means of the parameters of a recommender and its controls."""

    def settle(self, model: Any, batches: Iterable[Batch]) -> None:
        """Take the statistics of batch norm over some batches: see `take_statistics`."""
        self.take_statistics(model, lambda batch: session_vectors(model, model.item_states(), batch), batches)


def averages_at(config: Config, step: int) -> bool:
    """Whether the parameters after `step` steps belong to the mean."""
    return is_averaged(step, config.max_steps, config.average)
