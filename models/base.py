"""The contract between a model and everything around it.

Dimension letters, used in every model: B sessions of a batch, L clicks of its longest session, C clicks, N nodes and
E edges of the batch, D width, V items, H heads.

A model has three methods: `item_states` gives the item table of a step, `encode` turns sessions into vectors,
`candidates` gives the catalogue as it enters the dot product. Loss and ranks are the training loop's job, so it can
process the catalogue in pieces. A model does not know that it is dissected: its weight matrices are ordinary Linear
layers, named and declared in `matrices`.

The constructor takes n_items=V and further numbers; dim=D if the width can be chosen, and without=(role, ...) if
`removable` names parts. models/check.py runs a model once and reports what breaks the contract.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.batch import Batch
from models.normalise import EPS
from models.search import Space

ROLES = ("embedding", "propagation", "update", "encoder", "attention", "transformation", "other")
MODULES = ("gnn", "encoder", "readout", "other")


@dataclass(frozen=True)
class Matrix:
    """The role and module of a weight matrix (Figure 2 of the paper), and the names of its blocks.

    `rows` and `cols` name blocks of equal height and width, e.g. the gates r, z, n of a GRU; empty means one block.
    `part` names a part of the model that is neither a role nor a module, e.g. the star of SGNN-HN.
    """

    role: str
    module: str
    rows: tuple[str, ...] = ()
    cols: tuple[str, ...] = ()
    part: str = ""

    def is_of(self, part: str) -> bool:
        """Whether it belongs to a role, a module or another part of the model."""
        return part in (self.role, self.module, self.part)

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
    removable  parts that `without` leaves out of a new model, and `switched_off` out of a trained one: roles, modules,
               parts of `Matrix`, or names of what has no matrix, such as positions
    presets    named sets of constructor arguments; the name tells their source
    recipes    settings of the training (fields of Config: lr, l2, optimiser, schedule, ...) that belong to a preset
    search     what `dissect tune` tries out: a space (models/search.py) for each option that is worth tuning, or for a
               setting of the training that needs another space than the common one
    in_name    options that enter the name of the run folder if a user gives them
    more_options     constructor arguments taken by ** and passed on, with their defaults
    unit_candidates  scores are cosines: the caller divides by |S_i|, so no normalised table is stored; "returned": by
                     the length of the row that `candidates` returns, for dropout before the unit length
    whole_bias       the bias of `candidates` is a parameter [V], whole even if S is some rows of the table
    every_position   `encode` gives a vector for each click, [B, L, D]: an example is a whole session with a target
                     after every click; otherwise an example is a prefix, with one vector
    remakes_table    False if a second pass over a batch may take the table of the first: `item_states` draws no
                     numbers and leaves nothing that `encode` reads
    learns           False for a model without gradients: `prepare` fits it, `scores` ranks
    reads_times      `prepare` uses the times of the sessions: other times are another configuration
    older_names      beginnings of parameter names in earlier checkpoints -> their present names
    """

    matrices: ClassVar[Mapping[str, Matrix]] = {}
    removable: ClassVar[tuple[str, ...]] = ()
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    recipes: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    search: ClassVar[Mapping[str, Space]] = {}
    in_name: ClassVar[tuple[str, ...]] = ()
    more_options: ClassVar[Mapping[str, Any]] = {}
    unit_candidates: bool | str = False
    whole_bias: bool = False
    every_position: bool = False
    remakes_table: bool = True
    learns: bool = True
    reads_times: bool = False
    older_names: ClassVar[Mapping[str, str]] = {}

    def __init__(self) -> None:
        super().__init__()
        self.switched_off: str | None = None

    def prepare(self, sessions: Any) -> None:
        """See the training sessions once, before training: arrays `items` (from 1) and `offsets`. Optional.

        `times`, the end of each session in Unix seconds, is there if the data have times, else None.
        """

    def item_states(self) -> Tensor:
        """Abstract. A subclass returns the item table S, float [V, D]: item i is row i - 1; padding has no row.

        S is a parameter or computed from one, once a step. Raises NotImplementedError if a subclass lacks it.
        """
        raise NotImplementedError(f"{type(self).__name__} must define item_states()")

    def encode(self, S: Tensor, batch: Batch) -> Tensor | tuple[Tensor, dict[str, Tensor]]:
        """Abstract. A subclass returns the vectors of B sessions, or (vectors, auxiliary losses).

        S      [V, D], what item_states returned
        batch  the sessions: `batch.items` [B, L] (0 pads on the right) and `batch.lengths` [B], or as rows without
               padding `batch.clicks`, `batch.nodes`, `batch.edges` (models/rows.py)

        The vectors are float [B, D], with the D of `candidates`; [B, L, D] with `every_position`. The losses are
        scalars by name, each added to the cross-entropy. Padding and the other sessions must not change a vector. With
        `every_position` a vector must not depend on later clicks, which hold its target: it is the last vector of the
        session that ends at its position. Raises NotImplementedError if a subclass lacks it.
        """
        raise NotImplementedError(f"{type(self).__name__} must define encode()")

    def candidates(self, S: Tensor) -> tuple[Tensor, Tensor | None]:
        """The catalogue [V, D] and a bias [V] or None; the score of item i is vector . row i - 1 + bias.

        With `unit_candidates` it is vector . row i - 1 / |row i - 1 of S| + bias, or of the catalogue ("returned").

        It works row by row: given some rows of S it returns the candidates of those items (for a loss over a sample of
        the catalogue), and their bias, or with `whole_bias` that of all V.
        """
        return S, None

    def warnings(self, longest: int) -> list[str]:
        """Hints for a user whose longest prefix has `longest` clicks. Raises ValueError for impossible options."""
        return []

    def idle(self, has_times: bool) -> tuple[str, ...]:
        """The options that have no effect on these data; `has_times` says whether their sessions have times."""
        return ()

    @torch.no_grad()
    def scores(self, batch: Batch) -> Tensor:
        """The score of each item after each session of the batch, [B, V]."""
        S = self.item_states()
        matrix, bias = catalogue(self, S)
        scores = session_vectors(self, S, batch) @ matrix.t()
        return scores if bias is None else scores + bias


def prepares(model: Any) -> bool:
    """Whether a model wants to see the training sessions before training."""
    return getattr(type(model), "prepare", None) is not SessionModel.prepare


def encoded(model: Any, S: Tensor, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
    """(vectors, auxiliary losses) of a model for its table S [V, D] and a batch, whether or not it has such losses."""
    answer = model.encode(S, batch)
    return answer if isinstance(answer, tuple) else (answer, {})


def session_vectors(model: Any, S: Tensor, batch: Batch) -> Tensor:
    """The vectors [B, D] of a model, with its table S [V, D], at the ends of the sessions of a batch."""
    vectors = encoded(model, S, batch)[0]
    if vectors.dim() == 2:
        return vectors
    return vectors[torch.arange(len(batch), device=vectors.device), batch.lengths - 1]


def catalogue(model: Any, S: Tensor) -> tuple[Tensor, Tensor | None]:
    """(candidates [V, D], bias [V] or None) of a model and its table S as they enter the dot product."""
    matrix, bias = model.candidates(S)
    unit_of = unit_rows(model, S, matrix)
    return matrix if unit_of is None else matrix / lengths_of(unit_of)[:, None], bias


def unit_rows(model: Any, S: Tensor, matrix: Tensor) -> Tensor | None:
    """The rows [V, D] by whose lengths scores are divided, if the model has unit candidates: `matrix` or S."""
    if not model.unit_candidates:
        return None
    return matrix if model.unit_candidates == "returned" else S


def lengths_of(rows: Tensor) -> Tensor:
    """|row| [n] of rows [n, D]; EPS for a row of zeros."""
    return torch.linalg.vector_norm(rows, dim=1).clamp(min=EPS)


_sparse: Tensor | None = None


def lookup(S: Tensor, ids: Tensor) -> Tensor:
    """Rows [..., D] of the table S [V, D] for item numbers `ids` [...] from 1 on."""
    return F.embedding(ids - 1, S, sparse=S is _sparse)


@contextmanager
def sparse_lookups(S: Tensor) -> Iterator[None]:
    """Context manager: `lookup` in the leaf S has sparse gradients, which the caller adds to a dense one in place.

    Other tables keep dense gradients: most optimisers, and what makes a table, take no sparse ones.
    """
    global _sparse
    before, _sparse = _sparse, S if S.is_leaf else None
    try:
        yield
    finally:
        _sparse = before


def head_names(heads: int) -> tuple[str, ...]:
    """Names of the blocks of a matrix with a block for each of so many `heads`."""
    return tuple(f"head{h}" for h in range(heads))


def inside(name: str, matrices: Mapping[str, Matrix]) -> dict[str, Matrix]:
    """The `matrices` of the part `name` of a model, under their names in the whole model."""
    return {f"{name}.{inner}": matrix for inner, matrix in matrices.items()}


def with_current_names(cls: Any, weights: Mapping[str, Tensor], prefix: str = "") -> dict[str, Tensor]:
    """The `weights` (a state dict) of an earlier version of a model class, with the present names of its parameters.

    Only names that begin with `prefix` are the model's, and go on as its own do.
    """

    def current(name: str) -> str:
        for old, new in getattr(cls, "older_names", {}).items():
            if name == prefix + old or name.startswith(f"{prefix}{old}."):
                return prefix + new + name[len(prefix + old) :]
        return name

    return {current(name): weight for name, weight in weights.items()}


def init_uniform(module: nn.Module, dim: int) -> None:
    """Every parameter of a module from U(-1/sqrt(D), 1/sqrt(D)), D = `dim`, biases too, as is usual in this field."""
    bound = dim**-0.5
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.uniform_(-bound, bound)
