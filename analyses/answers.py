"""The answers that a verdict gives, and how doubts change them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dissect.sparsevd.rules import ALIVE as ALIVE  # of a role, by what it keeps beyond its shadows
from dissect.sparsevd.rules import UNDECIDED as UNDECIDED
from dissect.sparsevd.rules import WITHERED as WITHERED
from dissect.sparsevd.rules import too_few as too_few

HOLDS, FAILS = "holds", "fails"  # of an observation
REDUNDANT, NEEDED = "redundant", "needed"  # of a role, by retraining without it
NOT_APPLICABLE = "not applicable"
NO_PENALTY = "the KL weight is 0, so that nothing was pruned: density says nothing (--kl-weight)"
# Quick checks of the trained model, on test: briefly, and in words.
CHECKS = {
    "masked": ("as evaluated", "as evaluated: weights with log α above the threshold are zero"),
    "mean": ("with all weights", "all weights at their means"),
    "propagation_zero": ("messages zero", "messages set to zero"),
    "gnn_bypassed": ("GNN bypassed", "GNN module bypassed"),
    "attention_uniform": ("attention replaced by its mean", "attention replaced by its mean"),
}


def answered(answer: str, reasons: Sequence[str], doubts: Sequence[str] = ()) -> dict[str, Any]:
    """An answer with the reasons for it in words, doubts last; `figures_say` is the answer before any doubt."""
    return {
        "answer": UNDECIDED if doubts else answer,
        "figures_say": answer,
        "reasons": [*reasons, *doubts],
        "doubts": list(doubts),
    }
