"""The models, by the name that the command line knows them by."""

from typing import Any

from models.attenmixer import AttenMixer
from models.base import Matrix, SessionModel
from models.batch import Batch, Prefixes
from models.neighbours import FilteredSessionKNN, SessionKNN, VectorSessionKNN
from models.niser import NISER
from models.popularity import Popularity, SessionPopularity
from models.sgnnhn import SGNNHN
from models.rules import SequentialRules
from models.srgnn import SRGNN
from models.stan import STAN, VSTAN

MODELS: dict[str, Any] = {
    "srgnn": SRGNN,
    "attenmixer": AttenMixer,
    "niser": NISER,
    "sgnnhn": SGNNHN,
    "pop": Popularity,
    "spop": SessionPopularity,
    "sr": SequentialRules,
    "sknn": SessionKNN,
    "vsknn": VectorSessionKNN,
    "sfsknn": FilteredSessionKNN,
    "stan": STAN,
    "vstan": VSTAN,
}

__all__ = ["MODELS", "NISER", "SGNNHN", "SRGNN", "AttenMixer", "Batch", "Matrix", "Prefixes", "SessionModel"]
