"""The models, by the name that the command line knows them by."""

from typing import Any

from models.attenmixer import AttenMixer
from models.base import Matrix, SessionModel
from models.neighbours import SessionKNN, VectorSessionKNN
from models.popularity import Popularity, SessionPopularity
from models.srgnn import SRGNN

MODELS: dict[str, type[SessionModel]] = {
    "srgnn": SRGNN,
    "attenmixer": AttenMixer,
}

# Without gradients: `fit(train_sessions)`, then `scores(items, lengths)`.
BASELINES: dict[str, Any] = {
    "pop": Popularity,
    "spop": SessionPopularity,
    "sknn": SessionKNN,
    "vsknn": VectorSessionKNN,
}

__all__ = ["BASELINES", "MODELS", "SRGNN", "AttenMixer", "Matrix", "SessionModel"]
