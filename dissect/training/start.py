"""The weights that a training starts from: those of a finished dense run, in the item numbers of its own data set."""

from __future__ import annotations

import hashlib
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from dissect.data.sessions import Dataset
from dissect.data.translate import in_words, is_identity, numbering_of, numbering_of_group, translation
from dissect.errors import DataError, UsageError
from dissect.runs import folders
from dissect.sparsevd import layers_in
from dissect.training.checkpoint import load_checkpoint
from dissect.training.rebuild import reported


class Start(NamedTuple):
    """Weights to start from (NaN if an item is new), their fingerprint, and what to say about them."""

    weights: dict[str, Tensor] | None = None
    fingerprint: str | None = None
    says: str = ""


def weights_of(run: Path, data: Dataset, build: Callable[[int], nn.Module]) -> Start:
    """The weights of a finished dense run, for a model on `data`; `build` makes the model for a number of items.

    If the run's data set numbers the items differently, their rows are put in the order of `data`, by identifier.
    Raises UsageError or DataError if the run is not finished, is dissected, or its items cannot be found in `data`.
    """
    if not folders.is_done(run):
        raise UsageError(f"{run} is not finished.", f"Finish it first: dissect resume {shlex.quote(str(run))}")
    best, last = folders.checkpoint(run, folders.BEST), folders.checkpoint(run)
    if not last.exists() and not best.exists():
        raise UsageError(f"{run} has no weights to start from.", "--init-from takes a dense run: dissect train MODEL")
    weights = reported(load_checkpoint(best if best.exists() else last))
    if layers_in(weights):
        raise DataError(f"{run} is itself dissected.", "--init-from takes a dense run: dissect train, or --where none.")
    if broken := [name for name, weight in weights.items() if not weight.isfinite().all()]:
        raise DataError(f"{run} has weights that are NaN or infinite: {', '.join(broken)}.", "Start from another run.")
    mine, theirs = numbering_of(data), numbering_of_group(folders.group_of(run))
    numbers, says = translation(mine, theirs), ""
    if not is_identity(numbers, theirs.n_items):
        weights = _renumbered(weights, numbers, theirs.n_items, item_axes(build))
        says = in_words(mine, theirs, numbers) + " Items without weights begin as the model makes them."
    digest = hashlib.sha256()
    for name in sorted(weights):
        digest.update(weights[name].contiguous().numpy().tobytes())
    return Start(weights, digest.hexdigest()[:16], says)


def item_axes(build: Callable[[int], nn.Module]) -> dict[str, list[int]]:
    """For each weight, the axes that count items: those that grow with the catalogue."""
    with torch.random.fork_rng(devices=[]):
        few, more = (build(n_items).state_dict() for n_items in (5, 6))
    grows = {name: [a != b for a, b in zip(few[name].shape, more[name].shape, strict=True)] for name in few}
    return {name: [axis for axis, grown in enumerate(axes) if grown] for name, axes in grows.items() if any(axes)}


def _renumbered(
    weights: dict[str, Tensor], numbers: np.ndarray, n_items: int, axes: dict[str, list[int]]
) -> dict[str, Tensor]:
    """The weights with row numbers[i] - 1 of `n_items` as row i - 1, and NaN if numbers[i] is 0."""
    rows = torch.from_numpy(numbers[1:].astype(np.int64)) - 1
    new = (rows < 0).nonzero()[:, 0]
    moved = dict(weights)
    for name in axes.keys() & weights.keys():
        for axis in axes[name]:
            size = moved[name].shape[axis]
            if size != n_items or not moved[name].is_floating_point():
                raise DataError(
                    f"{name} has {size} rows for {n_items} items, so rows cannot be matched with items.",
                    "A model whose items --init-from can renumber has a row for each item, and none for the padding.",
                )
            moved[name] = moved[name].index_select(axis, rows.clamp(min=0)).index_fill_(axis, new, torch.nan)
    return moved
