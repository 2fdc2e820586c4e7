"""The models, by the name that the command line knows them by."""

from typing import Any

from models.attenmixer import AttenMixer
from models.base import Matrix, SessionModel
from models.batch import Batch, Prefixes
from models.core import CORE
from models.dhcn import DHCN
from models.dsan import DSAN
from models.gcsan import GCSAN
from models.gru4rec import GRU4Rec
from models.lessr import LESSR
from models.narm import NARM
from models.neighbours import SessionKNN
from models.nextitnet import NextItNet
from models.niser import NISER
from models.popularity import Popularity, SessionPopularity
from models.rules import SequentialRules
from models.sasrec import SASRec
from models.sfsknn import FilteredSessionKNN
from models.sgnnhn import SGNNHN
from models.srgnn import SRGNN
from models.stan import STAN
from models.vsknn import VectorSessionKNN
from models.vstan import VSTAN

MODELS: dict[str, Any] = {
    "srgnn": SRGNN,
    "niser": NISER,
    "gcsan": GCSAN,
    "sgnnhn": SGNNHN,
    "lessr": LESSR,
    "dhcn": DHCN,
    "attenmixer": AttenMixer,
    "dsan": DSAN,
    "narm": NARM,
    "nextitnet": NextItNet,
    "gru4rec": GRU4Rec,
    "sasrec": SASRec,
    "core": CORE,
    "pop": Popularity,
    "spop": SessionPopularity,
    "sr": SequentialRules,
    "sknn": SessionKNN,
    "vsknn": VectorSessionKNN,
    "sfsknn": FilteredSessionKNN,
    "stan": STAN,
    "vstan": VSTAN,
}

__all__ = [
    "CORE",
    "DHCN",
    "DSAN",
    "GCSAN",
    "LESSR",
    "MODELS",
    "NARM",
    "NISER",
    "SGNNHN",
    "SRGNN",
    "STAN",
    "VSTAN",
    "AttenMixer",
    "Batch",
    "FilteredSessionKNN",
    "GRU4Rec",
    "Matrix",
    "NextItNet",
    "Popularity",
    "Prefixes",
    "SASRec",
    "SequentialRules",
    "SessionKNN",
    "SessionModel",
    "SessionPopularity",
    "VectorSessionKNN",
]
