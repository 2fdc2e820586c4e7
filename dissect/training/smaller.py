"""A trained model made smaller for serving, with the same scores (dissect/sparsevd/compact.py).

In evaluation the item table S and the catalogue are constants, so a served model is an encoder, S and the catalogue:
what only makes them (the hypergraph of DHCN, say) is left out. Letters: B sessions, D width, V items.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from dissect.data.sessions import Sessions
from dissect.sparsevd import compact as making
from dissect.training.scoring import scores_over
from models.base import SessionModel, catalogue, session_vectors
from models.batch import Batch

# By how much a catalogue in single precision may differ from one in double, relative to its largest number.
ALIKE = 1e-5
EXACT = 1e-9  # by how much vectors may differ in double precision, relative to the largest number
ROUNDS = 20  # of folding constants and leaving out what is unread: each makes the model smaller
PROBES = 50  # sessions of the data among those that a smaller model is tried on
# Numbers of a catalogue from which on one vector is multiplied as two: with one, BLAS on the CPUs that we measured
# takes twice the time as soon as the catalogue no longer fits its cache (docs/export.md).
LARGE = 3 << 20


class Served(SessionModel):
    """A trained model for serving; it keeps the contract of models/base.py. Scores are vector . row + bias.

    model   the encoder
    table   S [V, D], as its `encode` reads it
    matrix  the catalogue [V, D'], in evaluation a constant
    bias    [V] or None
    places  [D'] the numbers of a session vector that the catalogue has; None: all
    """

    table: Tensor
    matrix: Tensor
    bias: Tensor | None
    places: Tensor | None

    def __init__(
        self, model: nn.Module, table: Tensor, matrix: Tensor, bias: Tensor | None = None, places: Tensor | None = None
    ) -> None:
        super().__init__()
        self.model, self.n_items = model, len(matrix)
        for name, tensor in (("table", table), ("matrix", matrix), ("bias", bias), ("places", places)):
            self.register_buffer(name, tensor)
        self.eval()

    def item_states(self) -> Tensor:
        return self.table

    def encode(self, S: Tensor, batch: Batch) -> Tensor:
        vectors = session_vectors(self.model, S, batch)
        return vectors if self.places is None else vectors.index_select(1, self.places)

    def candidates(self, S: Tensor) -> tuple[Tensor, Tensor | None]:
        return self.matrix, self.bias

    @torch.no_grad()
    def scores(self, batch: Batch) -> Tensor:
        return scores_by(self.encode(self.table, batch), self.matrix, self.bias)


def scores_by(vectors: Tensor, matrix: Tensor, bias: Tensor | None) -> Tensor:
    """Scores [B, V] as `scores_over` gives them; for a single vector in less time."""
    if len(vectors) == 1 and vectors.device.type == "cpu" and matrix.numel() > LARGE:
        return scores_over(torch.cat([vectors, vectors]), matrix, bias)[:1]
    return scores_over(vectors, matrix, bias)


@dataclass(frozen=True)
class Shrunk:
    """What became of a model.

    served   the smaller model
    sizes    by the name of each compact layer: its rows and columns in the whole model, and those left
    unused   the names of the layers that are no longer called
    whole    the names of pruned layers of a kind that stays as it is
    unread   the names of the parameters that scores do not depend on
    part     the part that is left out ("attention", ...), because scores are the same without it
    read     [U] the columns of S that sessions or the catalogue read
    is_table the catalogue is S, or some columns of it
    derived  the catalogue can be made from S: it need not be kept beside it
    """

    served: Served
    sizes: dict[str, tuple[tuple[int, int], tuple[int, int]]]
    unused: list[str]
    whole: list[str]
    unread: list[str]
    part: str | None
    read: Tensor
    is_table: bool
    derived: bool


def probes(sessions: Sessions, n_items: int, longest: int = 0) -> list[Batch]:
    """Sessions of all kinds, as batches: some of these sessions, and made-up ones that no data set need have.

    Of each length there are sessions of one item, of two in turn, of three at random and of all at random: a constant
    has to be the same in all of them. One batch has all, one those of a single click.
    """
    most = int(sessions.lengths.max()) - 1
    most = min(most, longest) if longest else most
    random = torch.Generator().manual_seed(0)

    def drawn(n: int, length: int) -> list[int]:
        among = torch.randint(1, n_items + 1, (n,), generator=random)
        return among[torch.randint(n, (length,), generator=random)].tolist()

    clicks = [list(sessions.items[low:high][:most]) for low, high in pairwise(sessions.offsets[:PROBES].tolist())]
    for length in [n for n in range(1, most + 1) if n <= 12 or n % 10 == 0 or n == most]:
        pair = drawn(2, 2)
        clicks += [
            pair[:1] * length,
            (pair * length)[:length],
            drawn(3, length),
            *(drawn(length, length) for _ in "12"),
        ]
    clicks += [drawn(3, 1) for _ in range(PROBES)]
    clicks.sort(key=len)
    return [Batch.of(clicks), Batch.of([each for each in clicks if len(each) == 1])]


def shrink(
    model: Any, batches: Sequence[Batch], item_width: bool = False, report: Callable[[str], object] = lambda _: None
) -> Shrunk:
    """A smaller copy of a trained model on the CPU, whose session vectors on `batches` (of `probes`) are the same.

    `item_width` leaves out columns of the item table and of the catalogue, too, that no score needs. `report` hears
    what is being done. Raises ValueError if the vectors of the smaller model are not the same.
    """
    small = copy.deepcopy(model)
    before = _shapes(small)
    whole = making.compact(small)
    small.double().eval()
    with torch.no_grad():
        S = model.item_states().detach()
        matrix, bias = catalogue(model, S)
        dyed, table = torch.full_like(S, torch.nan, dtype=torch.double), S.double()

    def vectors(of: Tensor = table) -> Tensor:
        return torch.cat([session_vectors(small, of, batch) for batch in batches])

    with torch.no_grad():
        right = vectors()
    _settle(small, lambda: vectors(dyed), vectors, report)
    if part := _part_to_leave_out(small, right, vectors):
        _settle(small, lambda: vectors(dyed), vectors, report)
    with torch.no_grad():
        if not _same(vectors(), right):
            raise ValueError("the session vectors of the smaller model are not those of the whole one")
        is_constant, values = _constant(vectors(dyed), right)
    read, places, is_table = torch.arange(S.shape[1]), None, torch.equal(matrix, S)
    derived = is_table or _is_made_again(small, table, matrix, bias)
    if item_width:
        report("looking for columns of the item table that nothing reads")
        needed = _columns_read(table, vectors)
        places = (~is_constant).nonzero()[:, 0]
        matrix, bias = _narrower(matrix, bias, is_constant, values)
        if is_table:
            needed |= ~is_constant
        elif derived := derived and int(needed.sum()) + len(places) >= S.shape[1]:
            needed[:] = True
        read = needed.nonzero()[:, 0]
        S = S if needed.all() else S * needed
        places = None if is_constant.sum() == 0 else places

    def needs() -> Tensor:
        made = catalogue(small, table) if derived and not is_table else ()
        return torch.cat([vectors().flatten(), *(each.sum()[None] for each in made if each is not None)])

    report("looking for parameters that nothing reads")
    unread, unused = making.unread_parameters(small, needs), making.never_ran(small, vectors)
    sizes = {name: (before[name], layer.size) for name, layer in making.layers_of(small).items()}
    served = Served(small.float(), S, matrix.detach(), bias, places)
    return Shrunk(served, sizes, unused, whole, unread, part, read, is_table, derived)


def _shapes(model: nn.Module) -> dict[str, tuple[int, int]]:
    """Rows and columns of the matrix of each Linear; units and inputs of each GRU."""
    found = {}
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear):
            found[name] = module.out_features, module.in_features
        elif isinstance(module, nn.GRU):
            found[name] = module.hidden_size, module.input_size
    return found


def _same(found: Tensor, right: Tensor) -> bool:
    return bool((found - right).abs().max() <= EXACT * right.abs().max())


def _settle(small: nn.Module, dyed: making.Run, true: making.Run, report: Callable[[str], object]) -> None:
    """Fold constants and leave out what nothing reads until nothing more is found."""
    for number in range(1, ROUNDS + 1):
        report(f"looking for constants, and for what nothing reads: round {number}")
        if not making.fold_constants(small, dyed, true) + making.drop_unread(small, true):
            break


@torch.no_grad()
def _part_to_leave_out(small: Any, right: Tensor, vectors: making.Run) -> str | None:
    """Switch off the part without which the vectors are the same and most layers need not run; None: there is none.

    Only layers that give constants may go with it: then this holds for all sessions, not for those at hand alone.
    """
    usual, best = small.switched_off, (0, None)
    layers = making.layers_of(small)
    for part in small.removable:
        small.switched_off = part
        try:
            found, idle = vectors(), making.never_ran(small, vectors)
        except Exception:  # a user's own model may not know how to leave it out
            continue
        is_constant = all(isinstance(layers[name], making.Compact) and not layers[name].size[0] for name in idle)
        if len(idle) > best[0] and is_constant and found.shape == right.shape and _same(found, right):
            best = len(idle), part
    small.switched_off = best[1] or usual
    return best[1]


def _constant(dyed: Tensor, vectors: Tensor) -> tuple[Tensor, Tensor]:
    """(bool [D], values [D]): which numbers of the vectors [B, D] are the same whatever the items are."""
    same = making.SAME * (1 + vectors.abs().amax(0))
    values = vectors[0]
    return ((vectors - values).abs() <= same).all(0) & ((dyed - values).abs() <= same).all(0), values


@torch.no_grad()
def _is_made_again(small: Any, table: Tensor, matrix: Tensor, bias: Tensor | None) -> bool:
    """Whether the smaller model makes the catalogue from S; layers that only the catalogue needs may be gone."""
    made, added = catalogue(small, table)
    pairs = [(made, matrix)] if bias is None or added is None else [(made, matrix), (added, bias)]
    near = [a.shape == b.shape and bool((a - b).abs().max() <= ALIKE * b.abs().max()) for a, b in pairs]
    return all(near) and (bias is None) == (added is None)


def _columns_read(table: Tensor, vectors: Callable[[Tensor], Tensor]) -> Tensor:
    """Which columns of S [V, D] the encoder reads, bool [D]: by the gradient, and without one by the dye."""
    with torch.enable_grad():
        S = table.clone().requires_grad_()
        result = vectors(S)
        by_table = None
        if result.requires_grad:  # else all vectors are the same
            (by_table,) = torch.autograd.grad(result, S, torch.randn_like(result), allow_unused=True)
    read = torch.zeros(table.shape[1], dtype=torch.bool) if by_table is None else (by_table != 0).any(0)
    with torch.no_grad():
        for column in (~read).nonzero()[:, 0].tolist():
            S = table.clone()
            S[:, column] = torch.nan
            read[column] = not bool(torch.isfinite(vectors(S)).all())
    return read


def _narrower(matrix: Tensor, bias: Tensor | None, is_constant: Tensor, values: Tensor) -> tuple[Tensor, Tensor | None]:
    """The catalogue [V, D'] and its bias [V] without the numbers of a vector that are constant: c_d M[i, d] is one."""
    added = (matrix[:, is_constant].double() @ values[is_constant]).to(matrix.dtype)
    if bool(added.any()):
        bias = added if bias is None else bias + added
    return (matrix if not is_constant.any() else matrix[:, ~is_constant].contiguous()), bias
