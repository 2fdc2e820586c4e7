"""The models, by the name that the command line knows them by."""

from models.base import Matrix, SessionModel
from models.srgnn import SRGNN

MODELS: dict[str, type[SessionModel]] = {
    "srgnn": SRGNN,
}

__all__ = ["MODELS", "SRGNN", "Matrix", "SessionModel"]
