"""Counts that describe how many weights of a matrix, and of its blocks, are still in use.

    D1   kept: log alpha < t                      (the SNR |theta| / sigma is above exp(-t / 2))
    D2   theta_abs_gt: |theta| > tau
    D2s  theta_gt: theta > tau                    (equation 3 of the Atten-Mixer paper, read literally)

Counts, never ratios: blocks add up to their matrix, matrices to a module. A density is a count divided by numel.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from dissect.errors import UsageError
from dissect.sparsevd.kl import kept, kl_per_weight, log_alpha
from dissect.sparsevd.sparsifier import matrices_of, named_variational, variational_layers

THRESHOLDS = (0.5, 1.0, 2.0, 3.0, 4.0, 5.0)  # t, of log alpha
TAUS = (0.001, 0.01, 0.05)
SIGNED_TAUS = (0.0, *TAUS)
BINS_PER_UNIT, LOWEST, BINS = 4, -20, 160  # the histogram of log alpha: 160 bins of 0.25 from -20 to 20

Grid = tuple[Sequence[str], Sequence[str]]  # names of the blocks of rows and of the blocks of columns
Blocks = Mapping[str, Grid]
Named = Iterable[tuple[str, Tensor, Tensor]]


class _Counts(NamedTuple):
    """Counts of each cell in a matrix's grid of blocks, int64 [cells, thresholds], and the KL [cells]: tensors on the
    device, arrays on the host."""

    hist: Any
    kept: Any
    theta_abs_gt: Any
    theta_gt: Any
    kl: Any


@torch.no_grad()
def density(model: nn.Module, threshold: float | None = None) -> Any:
    """Which share of each SparseVD matrix is kept.

    Parameters
    ----------
    model : nn.Module
        After `sparsify`.
    threshold : float, optional
        Of log alpha; that of each layer unless given. Another one needs no new training.

    Returns
    -------
    DataFrame
        A row for each matrix: matrix (its name as in `sparsified`), kept and size (weights with log alpha below the
        threshold, and all of them), density (kept / size), threshold, median_log_alpha (far below the threshold most
        weights are sure, far above it most are noise).
    """
    import pandas

    own = {name: layer.threshold for at, layer in variational_layers(model) for name, _, _ in matrices_of(at, layer)}
    rows = []
    for name, theta, log_sigma2 in named_variational(model):
        a, t, size = log_alpha(theta, log_sigma2), own[name] if threshold is None else threshold, theta.numel()
        n = int(kept(a, t).sum())
        rows.append((name, n, size, n / size, t, float(a.median())))
    return pandas.DataFrame(rows, columns=["matrix", "kept", "size", "density", "threshold", "median_log_alpha"])


@torch.no_grad()
def measure(
    model: nn.Module | Named,
    blocks: Blocks | None = None,
    *,
    thresholds: Sequence[float] = (),
    prior: str = "log-uniform",
) -> list[dict[str, Any]]:
    """Count the weights of every SparseVD matrix of a model, or of (name, theta, log_sigma2) triples.

    Parameters
    ----------
    model : nn.Module, or iterable of triples
        After `sparsify`.
    blocks : mapping, optional
        By matrix, the names of its blocks of rows and of its blocks of columns, of equal size, e.g.
        {"gate_ih": (("r", "z", "n"), ("in", "out"))}.
    thresholds : sequence of float
        More t than THRESHOLDS.
    prior : str
        Of the `kl`, one of PRIORS.

    Returns
    -------
    list of dict
        For each matrix a row for the whole (block ""), then for each block of rows ("r"), of columns ("in"), and for
        each crossing ("r/in"): matrix, block, shape, numel, kl (nats, summed), log_alpha_hist (BINS counts between
        those below and above), kept, theta_abs_gt and theta_gt, each count under its threshold as text. One transfer
        from the device.

    Raises
    ------
    UsageError
        Blocks do not divide a matrix.
    """
    named = list(named_variational(model) if isinstance(model, nn.Module) else model)
    ts = sorted({*THRESHOLDS, *(float(t) for t in thresholds)})
    grids = [_grid(name, theta, (blocks or {}).get(name, ((), ()))) for name, theta, _ in named]
    counts = [_count(theta, s, grid, ts, prior) for (_, theta, s), grid in zip(named, grids, strict=True)]
    rows = []
    for (name, theta, _), (row_names, col_names), on_host in zip(named, grids, _to_host(counts), strict=True):
        for block, cells, shape in _blocks(row_names, col_names, theta.shape):
            c = _Counts(*(part[cells].sum(0) for part in on_host))
            rows.append(
                {
                    "matrix": name,
                    "block": block,
                    "shape": shape,
                    "numel": theta.numel() * len(cells) // (len(row_names) * len(col_names)),
                    "kl": float(c.kl),
                    "log_alpha_hist": c.hist.tolist(),
                    "kept": dict(zip(map(key, ts), c.kept.tolist(), strict=True)),
                    "theta_abs_gt": dict(zip(map(key, TAUS), c.theta_abs_gt.tolist(), strict=True)),
                    "theta_gt": dict(zip(map(key, SIGNED_TAUS), c.theta_gt.tolist(), strict=True)),
                }
            )
    return rows


def key(threshold: float) -> str:
    """A threshold as written in a record, "3" or "0.5": the shortest text that reads back as the number."""
    text = f"{threshold:g}"
    return text if float(text) == threshold else repr(threshold)


def _grid(name: str, theta: Tensor, blocks: Grid) -> Grid:
    """The names of the blocks of rows and of columns; [""] for a side that is not divided."""
    rows, cols = (list(side) or [""] for side in blocks)
    width = theta.shape[1] if theta.dim() > 1 else 1
    if theta.shape[0] % len(rows) or width % len(cols):
        raise UsageError(
            f"{name} of shape {tuple(theta.shape)} does not divide into {len(rows)} blocks of rows "
            f"and {len(cols)} of columns."
        )
    return rows, cols


def _blocks(rows: Sequence[str], cols: Sequence[str], shape: torch.Size) -> list[tuple[str, list[int], list[int]]]:
    """(name, cells, shape) of the whole, of each block of rows and of columns, and of each crossing."""
    n, m = len(rows), len(cols)
    height, rest = shape[0] // n, list(shape[1:])
    narrow = [rest[0] // m, *rest[1:]] if rest else rest
    out = [("", list(range(n * m)), list(shape))]
    if rows != [""]:
        out += [(row, [i * m + j for j in range(m)], [height, *rest]) for i, row in enumerate(rows)]
    if cols != [""]:
        out += [(col, [i * m + j for i in range(n)], [shape[0], *narrow]) for j, col in enumerate(cols)]
    if rows != [""] and cols != [""]:
        out += [
            (f"{row}/{col}", [i * m + j], [height, *narrow]) for i, row in enumerate(rows) for j, col in enumerate(cols)
        ]
    return out


def _count(theta: Tensor, log_sigma2: Tensor, grid: Grid, ts: Sequence[float], prior: str) -> _Counts:
    n, m = len(grid[0]), len(grid[1])

    def per_cell(x: Tensor) -> Tensor:
        """x of the shape of theta -> [cells, weights of a cell]."""
        x = x.reshape(n, x.shape[0] // n, m, -1)  # columns first, then the taps of a convolution
        return x.transpose(1, 2).reshape(n * m, -1)

    def counts(*masks: Tensor) -> Tensor:
        return torch.stack(masks, 1).sum(2)

    t, a = per_cell(theta), per_cell(log_alpha(theta, log_sigma2))
    # Times 4 and floor are exact, so a bin holds what its edges say, and its counts agree with `kept`.
    bins = (a * BINS_PER_UNIT).floor() - LOWEST * BINS_PER_UNIT
    bins = bins.nan_to_num(nan=BINS, posinf=BINS, neginf=-1).clamp(-1, BINS).long() + 1
    hist = torch.zeros(n * m, BINS + 2, dtype=torch.long, device=a.device)
    hist.scatter_add_(1, bins, torch.ones_like(bins))
    magnitude = t.abs()
    return _Counts(
        hist,
        counts(*(kept(a, x) for x in ts)),
        counts(*(magnitude > tau for tau in TAUS)),
        counts(*(t > tau for tau in SIGNED_TAUS)),
        per_cell(kl_per_weight(theta, log_sigma2, prior)).sum(1, dtype=torch.float64),
    )


def _to_host(counts: Sequence[_Counts]) -> list[_Counts]:
    """The same as arrays, by a single transfer; counts go as float64, which holds them exactly."""
    if not counts:
        return []
    flat = torch.cat([part.double().flatten() for c in counts for part in c]).cpu().numpy()
    out, at = [], 0
    for c in counts:
        parts = []
        for part in c:
            piece = flat[at : at + part.numel()].reshape(part.shape)
            parts.append(piece if part.is_floating_point() else piece.astype("int64"))
            at += part.numel()
        out.append(_Counts(*parts))
    return out
