"""The contract between a model and everything around it.

Dimension letters, used in every model: B sessions of a batch, L clicks (padded), C real clicks of the batch,
N graph nodes of the batch, D width, V items, H heads.

A model says three things: `item_states` gives the table that everything of one step reads, `encode` turns
sessions into vectors, `candidates` gives the catalogue as it enters the dot product. Loss and ranks belong to
the training loop, which can so run over the catalogue in pieces. A model does not know that it is dissected:
its weight matrices are ordinary Linear layers, named and declared in `matrices`.

The constructor takes n_items=V and further numbers; dim=D where the width can be chosen, and without=(role, ...)
where `removable` names roles. `check` runs a model once and says what is not as it should be.
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


class SessionModel(nn.Module):
    """A next-item model over sessions of items 1..V. A subclass defines item_states and encode; see also candidates.

    matrices   the weight matrices by the qualified name of their layer
    removable  what `without` in the constructor leaves out of the model, and `switched_off` out of a trained one
    more_options  arguments of the constructor that it takes by ** and hands on
    presets    arguments of the constructor by a name
    all_slots  an instance's layout of a batch: every slot of the padded sessions, session by session, or only the real
               clicks; None: every slot on any device but the CPU (models/graph.py)
    """

    matrices: ClassVar[Mapping[str, Matrix]] = {}
    removable: ClassVar[tuple[str, ...]] = ()
    more_options: ClassVar[tuple[str, ...]] = ()
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {}

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

        Row by row: with some rows of S it gives the candidates of those items (sampled softmax asks so).
        """
        return S, None


def check(model: Any, n_items: int) -> Tensor:
    """Run a model of `n_items` items once on two sessions of three slots, in training and in evaluation.

    Returns the vectors [B, D] of the evaluation. Raises ValueError where the model breaks the contract: what was
    expected, with B = 2, L = 3 and V = n_items, and what came.
    """
    _check_declaration(model)
    items, lengths = torch.tensor([[1, 2, 1], [2, 0, 0]]), torch.tensor([3, 1])
    mode, vectors = model.training, torch.empty(0)
    # As in training, as in evaluation, and as when a part of the trained model is switched off.
    for training, off in ((True, None), (False, None), *((False, part) for part in model.removable)):
        model.train(training)
        model.switched_off = off
        try:
            answer = _check_once(model, items, lengths, n_items)
        except ValueError as error:
            raise ValueError(f"with switched_off = {off!r}, {error}" if off else str(error)) from error.__cause__
        finally:
            model.switched_off = None
        vectors = answer if off is None else vectors
    model.train(mode)
    return vectors


@torch.no_grad()
def _check_once(model: Any, items: Tensor, lengths: Tensor, n_items: int) -> Tensor:
    S = _call("item_states()", model.item_states)
    _expect(_is_float(S, n_items, None), "item_states()", f"the item table, float [V, D] with V = {n_items}", S)
    call = f"encode(S {list(S.shape)}, items {list(items.shape)}, lengths {list(lengths.shape)})"
    answer = _call(call, model.encode, S, items, lengths)
    is_pair = isinstance(answer, tuple) and len(answer) == 2 and isinstance(answer[1], Mapping)
    _expect(is_pair, call, "a pair: vectors [B, D], and a dict of auxiliary losses by name", answer)
    vectors, auxiliary = answer
    _expect(_is_float(vectors, len(items), None), call, f"vectors, float [B, D] with B = {len(items)}", vectors)
    for name, loss in auxiliary.items():
        _expect(isinstance(loss, Tensor) and loss.dim() == 0, call, f"a scalar as the loss {name!r}", loss)
    call = f"candidates(S {list(S.shape)})"
    answer = _call(call, model.candidates, S)
    is_pair = isinstance(answer, tuple) and len(answer) == 2
    _expect(is_pair, call, "a pair: the catalogue [V, D], and a bias [V] or None", answer)
    matrix, bias = answer
    width = vectors.shape[1]
    wanted = f"the catalogue, float [V, D] with V = {n_items} and D = {width}, the width of the vectors of encode"
    _expect(_is_float(matrix, n_items, width), call, wanted, matrix)
    is_bias = bias is None or (isinstance(bias, Tensor) and bias.shape == (n_items,))
    _expect(is_bias, call, f"a bias [V] with V = {n_items}, or None", bias)
    assert isinstance(vectors, Tensor)
    return vectors


def _call(call: str, method: Any, *arguments: Tensor) -> Any:
    try:
        return method(*arguments)
    except Exception as error:
        raise ValueError(f"{call} raised {type(error).__name__}: {error}") from error


def _is_float(value: object, rows: int, columns: int | None) -> bool:
    is_matrix = isinstance(value, Tensor) and value.is_floating_point() and value.dim() == 2
    return is_matrix and value.shape[0] == rows and columns in (None, value.shape[1])  # type: ignore[attr-defined]


def _expect(right: bool, call: str, wanted: str, came: object) -> None:
    if not right:
        raise ValueError(f"{call} should return {wanted}, and returned {_in_words(came)}")


def _in_words(value: object) -> str:
    if isinstance(value, Tensor):
        return f"{str(value.dtype).removeprefix('torch.')} {list(value.shape)}"
    if isinstance(value, tuple):
        return f"({', '.join(map(_in_words, value))})"
    return "None" if value is None else f"a {type(value).__name__}"


def _check_declaration(model: Any) -> None:
    """Raises ValueError where the class, `matrices` or `removable` is not what it should be."""
    if not isinstance(model, nn.Module):
        raise ValueError("it should be an nn.Module: derive from SessionModel")
    if isinstance(model.removable, str):
        raise ValueError(f"removable should be a tuple of roles: ({model.removable!r},)")
    parameters = dict(model.named_parameters())
    declared: Mapping[str, Any] = model.matrices  # type: ignore[assignment]
    for name, matrix in declared.items():
        if not isinstance(matrix, Matrix):
            raise ValueError(f"matrices[{name!r}] should be Matrix(role, module), not {matrix!r}")
        shape = parameters[f"{name}.weight"].shape if f"{name}.weight" in parameters else torch.Size((0, 0))
        if any(size % max(1, len(blocks)) for size, blocks in zip(shape, (matrix.rows, matrix.cols))):
            raise ValueError(f"{name} {list(shape)} does not divide into the blocks {matrix.rows} and {matrix.cols}")


def not_there(model: Any) -> list[str]:
    """Names in `matrices` that are neither a layer nor a parameter of this model."""
    there = {*dict(model.named_modules()), *dict(model.named_parameters())}
    return [name for name in model.matrices if name not in there]


def without_role(model: Any) -> list[str]:
    """Layers with weight matrices that `matrices` does not name."""
    kinds = (nn.Linear, nn.Conv1d, nn.GRU, nn.GRUCell)  # what can be dissected
    named = {part for name in model.matrices for part in (name, name.rpartition(".")[0])}
    return [name for name, module in model.named_modules() if isinstance(module, kinds) and name not in named]


def lookup(S: Tensor, ids: Tensor) -> Tensor:
    """Rows [..., D] of the table for item numbers `ids` [...] from 1 on.

    The gradient is sparse: it is added to the dense gradient of the scores in place, instead of costing
    another table of V x D zeros at every step.
    """
    return F.embedding(ids - 1, S, sparse=True)


def init_uniform(module: nn.Module, dim: int) -> None:
    """Every parameter from U(-1/sqrt(D), 1/sqrt(D)), biases too, as this field initialises its models."""
    bound = dim**-0.5
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.uniform_(-bound, bound)
