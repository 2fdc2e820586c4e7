"""Counts that describe how many weights of a matrix, and of its blocks, are still in use."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from dissect.sparsevd.kl import kl_divergence, log_alpha
from dissect.sparsevd.sparsify import named_variational

THRESHOLDS = (0.5, 1.0, 2.0, 3.0, 4.0, 5.0)
TAUS = (0.001, 0.01, 0.05)
SIGNED_TAUS = (0.0, *TAUS)
LOWEST, WIDTH, BINS = -20.0, 0.25, 160


@torch.no_grad()
def measure(
    model: nn.Module,
    blocks: Mapping[str, tuple[Sequence[str], Sequence[str]]],
    *,
    thresholds: Sequence[float] = (),
    prior: str = "log-uniform",
) -> list[dict[str, Any]]:
    rows = []
    limits = sorted({*THRESHOLDS, *thresholds})
    for name, theta, log_sigma2 in named_variational(model):
        for block, t, s in cut(theta, log_sigma2, *blocks.get(name, ((), ()))):
            a = log_alpha(t, s)
            bins = ((a - LOWEST) / WIDTH).floor().nan_to_num(nan=BINS).clamp(-1, BINS).long() + 1
            rows.append(
                {
                    "matrix": name,
                    "block": block,
                    "shape": list(t.shape),
                    "numel": t.numel(),
                    "kl": float(kl_divergence(t, s, prior)),
                    "log_alpha_hist": torch.bincount(bins.flatten(), minlength=BINS + 2).tolist(),
                    "kept": {f"{x:g}": int((a < x).sum()) for x in limits},
                    "theta_abs_gt": {f"{x:g}": int((t.abs() > x).sum()) for x in TAUS},
                    "theta_gt": {f"{x:g}": int((t > x).sum()) for x in SIGNED_TAUS},
                }
            )
    return rows


def cut(theta: Tensor, log_sigma2: Tensor, rows: Sequence[str], cols: Sequence[str]) -> Iterator[tuple[str, Tensor, Tensor]]:
    yield "", theta, log_sigma2
    for r, row in enumerate(rows or [""]):
        for c, col in enumerate(cols or [""]):
            name = "/".join(n for n in (row, col) if n)
            if name:
                parts = [x.chunk(len(rows) or 1, 0)[r].chunk(len(cols) or 1, 1)[c] for x in (theta, log_sigma2)]
                yield name, parts[0], parts[1]
