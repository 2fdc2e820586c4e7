"""The models, by the name that the command line knows them by."""

from typing import Any

from models.attenmixer import AttenMixer
from models.base import Matrix, SessionModel
from models.batch import Batch, Prefixes
from models.gcsan import GCSAN
from models.neighbours import SessionKNN, VectorSessionKNN
from models.niser import NISER
from models.popularity import Popularity, SessionPopularity
from models.sasrec import SASRec
from models.srgnn import SRGNN

MODELS: dict[str, Any] = {
    "srgnn": SRGNN,
    "attenmixer": AttenMixer,
    "niser": NISER,
    "gcsan": GCSAN,
    "sasrec": SASRec,
    "pop": Popularity,
    "spop": SessionPopularity,
    "sknn": SessionKNN,
    "vsknn": VectorSessionKNN,
}

__all__ = ["GCSAN", "MODELS", "NISER", "SRGNN", "AttenMixer", "Batch", "Matrix", "Prefixes", "SASRec", "SessionModel"]
