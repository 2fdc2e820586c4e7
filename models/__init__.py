"""The models, by the name that the command line knows them by."""

from typing import Any

from models.attenmixer import AttenMixer
from models.base import Matrix, SessionModel
from models.batch import Batch, Prefixes
from models.core import CORE
from models.neighbours import SessionKNN, VectorSessionKNN
from models.nextitnet import NextItNet
from models.niser import NISER
from models.popularity import Popularity, SessionPopularity
from models.srgnn import SRGNN

MODELS: dict[str, Any] = {
    "srgnn": SRGNN,
    "attenmixer": AttenMixer,
    "niser": NISER,
    "nextitnet": NextItNet,
    "core": CORE,
    "pop": Popularity,
    "spop": SessionPopularity,
    "sknn": SessionKNN,
    "vsknn": VectorSessionKNN,
}

__all__ = ["CORE", "MODELS", "NISER", "SRGNN", "AttenMixer", "Batch", "Matrix", "NextItNet", "Prefixes", "SessionModel"]
