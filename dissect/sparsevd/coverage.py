"""How many weights of a model SparseVD covers. A density describes those alone, so it is shown with this count.

A weight matrix is a parameter of two or more dimensions that is no bias and belongs to no normalisation.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from dissect.errors import in_short
from dissect.sparsevd.sparsifier import own_parameters, sparsified
from dissect.sparsevd.sparsify import nearest

NORMALISATIONS = (nn.LayerNorm, nn.RMSNorm, nn.GroupNorm, nn.modules.batchnorm._NormBase)
SCALES = ("_g", ".original0")  # names of the row lengths that weight normalisation takes out of a matrix
SHOWN = 6  # names in a sentence, at most

Row = dict[str, Any]


def declared_for(matrix: str, declared: Mapping[str, Any]) -> Any | None:
    """What is `declared` of a matrix, by its name in `sparsified`: a layer, or a weight of a layer that has several."""
    name = nearest(f"{matrix}.weight", declared)
    return None if name is None else declared[name]


def coverage(model: nn.Module, declared: Mapping[str, Any], left_out: Mapping[str, str], n_items: int) -> list[Row]:
    """What became of each declared name, and of every layer with weight matrices that no name covers.

    Parameters
    ----------
    model : nn.Module
        After `sparsify`.
    declared : mapping
        By the name of a parameter, of a layer, or of what holds layers: an object with `role` and `module`.
    left_out : mapping
        As in `SparsifyReport`.
    n_items : int
        An undeclared table with n_items to n_items + 2 rows is taken as the item embedding and left out.

    Returns
    -------
    list of dict
        A row for each: matrix, declared, role and module ("other" if undeclared), shapes of its weight matrices, numel
        (their weights), covered (those in SparseVD layers), reason (why the others are not, or empty). A weight with
        two names counts for the first; under the second it is not covered if the role differs.
    """
    covered = {id(weight) for weight in sparsified(model).values()}
    rows: dict[str, Row] = {}
    first: dict[int, Row] = {}  # by the id of a weight, the row that counts it
    for name, weight in _weight_matrices(model, declared):
        known_as = nearest(name, declared)
        if known_as is None and _is_item_table(model, name, weight, n_items):
            continue
        layer = known_as or name.rpartition(".")[0] or name
        role, module = ("other", "other") if known_as is None else (declared[known_as].role, declared[known_as].module)
        counted = first.get(id(weight))
        if counted is not None and counted["role"] == role:
            continue
        new = {"matrix": layer, "declared": known_as is not None, "role": role, "module": module}
        row = rows.setdefault(layer, {**new, "shapes": [], "numel": 0, "covered": 0, "reason": ""})
        first.setdefault(id(weight), row)
        row["shapes"].append(list(weight.shape))
        row["numel"] += weight.numel()
        if counted is None and id(weight) in covered:
            row["covered"] += weight.numel()
        elif counted is None:
            key = nearest(name, left_out)
            _add_reason(row, left_out[key] if key else "no SparseVD layer has it")
        else:
            _add_reason(row, f"its weight is that of {counted['matrix']}, which counts as {counted['role']}")
    return list(rows.values())


def shares(rows: Iterable[Row], by: str) -> dict[str, dict[str, Any]]:
    """For each role or module (`by`) in rows of `coverage`: `weights`, how many are `dissected`, their `share`; and by
    name the `dense` ones: how many `weights`, and the `reason`.
    """
    result: dict[str, dict[str, Any]] = {}
    for row in rows:
        of = result.setdefault(row[by], {"weights": 0, "dissected": 0, "share": 0.0, "dense": {}})
        of["weights"] += row["numel"]
        of["dissected"] += row["covered"]
        of["share"] = of["dissected"] / of["weights"]
        if row["covered"] < row["numel"]:
            of["dense"][row["matrix"]] = {"weights": row["numel"] - row["covered"], "reason": row["reason"]}
    return result


def is_partial(share: Mapping[str, Any]) -> bool:
    """Whether some weights are dissected and others are not, by a `share` (a value of `shares`)."""
    return 0 < share["dissected"] < share["weights"]


def in_words(share: Mapping[str, Any]) -> str:
    """A `share` (a value of `shares`) in words.

    "400 of 1,000 weights are dissected (40.0 %); dense: lstm (no SparseVD layer for LSTM)".
    """
    percent = min(100 * share["share"], 99.9) if share["dissected"] < share["weights"] else 100
    words = f"{share['dissected']:,} of {share['weights']:,} weights are dissected ({percent:.1f} %)"
    by_reason: dict[str, list[str]] = {}
    for name, part in share["dense"].items():
        by_reason.setdefault(part["reason"], []).append(name)
    dense = [f"{in_short(names, SHOWN)} ({reason})" for reason, names in by_reason.items()]
    return words + (f"; dense: {', '.join(dense)}" if dense else "")


def _add_reason(row: Row, reason: str) -> None:
    if reason not in row["reason"]:
        row["reason"] = "; ".join(filter(None, (row["reason"], reason)))


def _weight_matrices(model: nn.Module, declared: Mapping[str, Any]) -> Iterator[tuple[str, Tensor]]:
    """(name, parameter) of each weight matrix of the dense model; a shared one under each of its names.

    A parameter declared by its own name always is one.
    """
    own = {id(parameter) for parameter in own_parameters(model)}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        if id(parameter) in own or is_lazy(parameter) or parameter.dim() < 2:
            continue
        owner, _, last = name.rpartition(".")
        is_other = "bias" in last or name.endswith(SCALES) or isinstance(model.get_submodule(owner), NORMALISATIONS)
        if name in declared or not is_other:
            yield name, parameter


def _is_item_table(model: nn.Module, name: str, weight: Tensor, n_items: int) -> bool:
    owner, _, own = name.rpartition(".")
    is_table = isinstance(model.get_submodule(owner), nn.Embedding | nn.EmbeddingBag) or "weight" not in own
    return is_table and n_items <= len(weight) <= n_items + 2
