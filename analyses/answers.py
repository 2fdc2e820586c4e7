"""The answers that a verdict gives, and how doubts change them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dissect.runs.config import SEEDS

HOLDS, FAILS = "holds", "fails"  # of an observation
ALIVE, WITHERED = "alive", "withered"  # of a role, by what it keeps beyond its shadows
REDUNDANT, NEEDED = "redundant", "needed"  # of a role, by retraining without it
UNDECIDED, NOT_APPLICABLE = "undecided", "not applicable"
FEWEST_SEEDS = len(SEEDS)
NO_PENALTY = "the KL weight is 0, so that nothing was pruned: density says nothing (--kl-weight)"


def answered(answer: str, reasons: Sequence[str], doubts: Sequence[str] = ()) -> dict[str, Any]:
    """An answer with the reasons for it in words; `figures_say` is the answer before any doubt."""
    return {"answer": UNDECIDED if doubts else answer, "figures_say": answer, "reasons": [*reasons, *doubts]}


def too_few(seeds: int) -> list[str]:
    """The doubt if there are fewer seeds than a verdict needs."""
    return [f"only {seeds} seed{'s' * (seeds != 1)}; a verdict needs {FEWEST_SEEDS}"] if seeds < FEWEST_SEEDS else []
