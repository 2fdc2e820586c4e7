"""The two controls of every dissected run: what a useless matrix looks like in this very run."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from dissect.sparsevd import Shadows, sparsify
from dissect.sparsevd.probe import seed_torch

ROLE, SHADOW = "control", "shadow"


class Controls(nn.Module):
    """Two D x D matrices with the initialisation, noise and learning rate of the model's own; and the shadows of those.

    kl_only  never runs: it feels the penalty and no data
    rolled   is fed with the session vector of another row, cut off from the gradient, and added to the vector: it
             runs, gets a gradient from data, and cannot help. The mean over the batch is taken away first: it is the
             same for every row, and through it the matrix would learn a popularity vector, which does help

    They are trained in a pass of their own (`train_beside` in loop.py), which leaves the model as it is.
    """

    kl_only: nn.Module
    rolled: nn.Module

    def __init__(self, dim: int, shadowed: nn.Module | None = None, **sparsity: Any) -> None:
        """`shadowed`: the model whose matrices get shadows; `sparsity`: the settings of `sparsify`."""
        super().__init__()
        for name in ("kl_only", "rolled"):
            matrix = nn.Linear(dim, dim, bias=False)
            nn.init.uniform_(matrix.weight, -(dim**-0.5), dim**-0.5)
            setattr(self, name, matrix)
        sparsify(self, **sparsity)
        self.shadows = None if shadowed is None else Shadows(shadowed)

    def cast(self, model: nn.Module, draws: torch.Generator | None = None) -> AbstractContextManager[None]:
        """Within it the shadows run beside the matrices of the model; `draws` as in `Shadows.cast`."""
        return nullcontext() if self.shadows is None else self.shadows.cast(model, draws)

    def forward(self, vectors: Tensor, shift: int = 1, owner: Tensor | None = None) -> Tensor:
        """Vectors [B, D] with what `rolled` adds to them. `shift`: how many rows away another session stands.

        `owner` [B], if sessions have several rows: a row gets nothing where the other row is of its own session.
        """
        others = vectors.detach()
        others = (others - others.mean(0)).roll(shift, 0)
        if owner is not None:
            others = others.masked_fill((owner.roll(shift) == owner)[:, None], 0.0)
        added: Tensor = self.rolled(others)
        return vectors + added


def seeded_controls(seed: int, dim: int, shadowed: nn.Module | None = None, **sparsity: Any) -> Controls:
    """Controls drawn from their own generator, so that a model is the same with and without them."""
    with torch.random.fork_rng(devices=[]):
        seed_torch(seed + 1_000_003, torch.device("cpu"))
        return Controls(dim, shadowed, **sparsity)
