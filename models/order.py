"""An order of the nodes of a graph with neighbours near each other: products with its matrix find rows in the cache."""

from __future__ import annotations

import torch
from torch import Tensor

from models.batch import at

ROUNDS = 12  # each at least halves the groups that still have neighbours


def neighbours_near(row: Tensor, column: Tensor, weight: Tensor, n: int) -> Tensor:
    """An order of n nodes, [n], by the edges (row, column, weight) of a graph, each given in both directions.

    Again and again each group of nodes joins the one that it is tied to most, for its size (as Boruvka makes trees);
    groups that joined early stand side by side.
    """
    groups, group_of = [], torch.arange(n)
    for _ in range(ROUNDS):
        apart = row != column
        row, column, weight = row[apart], column[apart], weight[apart]
        if not len(row):
            break
        joined = _joined(row, column, weight, torch.bincount(group_of).double())
        group_of = at(joined, group_of)
        groups.append(group_of)
        size = (int(joined.max()) + 1,) * 2
        ties = torch.stack([at(joined, row), at(joined, column)])
        ties = torch.sparse_coo_tensor(ties, weight, size, check_invariants=True).coalesce()
        (row, column), weight = ties.indices(), ties.values()
    order = torch.arange(n)
    for group in groups:  # the last one, the coarsest, decides first
        order = at(order, at(group, order).argsort(stable=True))
    return order


def _joined(row: Tensor, column: Tensor, weight: Tensor, size: Tensor) -> Tensor:
    """The new group of each of k groups, from 0, [k]; `size` [k] counts their nodes."""
    k = len(size)
    me = torch.arange(k)
    tie = weight / (at(size, row) * at(size, column)).sqrt()
    strongest = tie.new_zeros(k).scatter_reduce(0, row, tie, "amax")
    chosen = tie == at(strongest, row)
    to = me.scatter_reduce(0, row[chosen], column[chosen], "amax", include_self=False)
    to = torch.where((at(to, to) == me) & (me < to), me, to)  # of two that choose each other one stays
    for _ in range(k.bit_length()):
        to = at(to, to)
    return to.unique(return_inverse=True)[1]
