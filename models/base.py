"""The contract between a model and everything around it.

Dimension letters, used in every model: B sessions of a batch, L clicks (padded), C real clicks of the batch,
N graph nodes of the batch, D width, V items, H heads.

A model says three things: `item_states` gives the table that everything of one step reads, `encode` turns
sessions into vectors, `candidates` gives the catalogue as it enters the dot product. Loss and ranks belong to
the training loop, which can so run over the catalogue in pieces. A model does not know that it is dissected:
its weight matrices are ordinary Linear layers, named and declared in `matrices`.

The constructor takes n_items=V and further numbers; dim=D where the width can be chosen, and without=(role, ...)
where `removable` names roles. models/check.py runs a model once and says what is not as it should be.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

ROLES = ("embedding", "propagation", "update", "encoder", "attention", "transformation", "other")
MODULES = ("gnn", "encoder", "readout", "other")


@dataclass(frozen=True)
class Matrix:
    """What one weight matrix is for: its role and module (Figure 2 of the paper), and its named equal blocks.

    `rows` and `cols` name blocks of equal height and width, e.g. the gates r, z, n of a GRU; empty is one block.
    """

    role: str
    module: str
    rows: tuple[str, ...] = ()
    cols: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.role not in ROLES or self.module not in MODULES:
            raise ValueError(f"role {self.role!r} must be one of {ROLES} and module {self.module!r} one of {MODULES}")
        for name, blocks in (("rows", self.rows), ("cols", self.cols)):
            is_tuple = isinstance(blocks, (tuple, list)) and all(isinstance(block, str) for block in blocks)
            if not is_tuple or len(set(blocks)) < len(blocks):
                raise ValueError(f"{name} must be a tuple of different texts such as ('in', 'out'), not {blocks!r}")


class SessionModel(nn.Module):
    """A next-item model over sessions of items 1..V. A subclass defines item_states and encode; see also candidates.

    matrices   the weight matrices by the qualified name of their layer
    removable  what `without` in the constructor leaves out of the model, and `switched_off` out of a trained one
    more_options  arguments of the constructor that it takes by ** and hands on, with their defaults
    presets    arguments of the constructor by a name
    in_name    options that, where a user gives them, are part of the name of the run's folder
    all_slots  an instance's layout of a batch: every slot of the padded sessions, session by session, or only the real
               clicks; None: every slot on any device but the CPU (models/graph.py)
    unit_candidates  vector . candidate is divided by the length of the item's row of S, by whoever multiplies: the loss
               over the catalogue does so without writing down a table of unit rows
    """

    matrices: ClassVar[Mapping[str, Matrix]] = {}
    removable: ClassVar[tuple[str, ...]] = ()
    more_options: ClassVar[Mapping[str, Any]] = {}
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    in_name: ClassVar[tuple[str, ...]] = ()
    unit_candidates: bool = False

    def __init__(self) -> None:
        super().__init__()
        self.switched_off: str | None = None
        self.all_slots: bool | None = None

    def item_states(self) -> Tensor:
        """Abstract. A subclass returns the table S, float [V, D], that one step reads: item i is row i - 1.

        There is no row for the padding. S may be a parameter or be computed from one; it is asked for once a step.
        """
        raise NotImplementedError(f"{type(self).__name__} must define item_states()")

    def encode(self, S: Tensor, items: Tensor, lengths: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Abstract. A subclass returns (vectors, auxiliary losses) of B sessions.

        S        [V, D], what item_states returned
        items    int [B, L], item numbers from 1, padded with 0 on the right; the padding must not change the result
        lengths  int [B], how many clicks are real, at least 1

        The vectors are float [B, D], with the D of `candidates`. The losses are scalars by name, each added to the
        cross-entropy; {} where there are none.
        """
        raise NotImplementedError(f"{type(self).__name__} must define encode()")

    def candidates(self, S: Tensor) -> tuple[Tensor, Tensor | None]:
        """The catalogue [V, D] and a bias [V] or None; the score of item i is vector . row i - 1 + bias.

        With `unit_candidates` it is vector . row i - 1 / |row i - 1 of S| + bias.

        Row by row: with some rows of S it gives the candidates of those items (sampled softmax asks so).
        """
        return S, None

    def warnings(self, longest: int) -> list[str]:
        """What a user should know where the longest prefix has so many clicks. Raises ValueError for what cannot be."""
        return []


def lookup(S: Tensor, ids: Tensor) -> Tensor:
    """Rows [..., D] of the table for item numbers `ids` [...] from 1 on.

    The gradient is sparse: it is added to the dense gradient of the scores in place, instead of costing
    another table of V x D zeros at every step. (torch.compile knows no sparse gradients.)
    """
    return F.embedding(ids - 1, S, sparse=not torch.compiler.is_compiling())


def init_uniform(module: nn.Module, dim: int) -> None:
    """Every parameter from U(-1/sqrt(D), 1/sqrt(D)), biases too, as this field initialises its models."""
    bound = dim**-0.5
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.uniform_(-bound, bound)
