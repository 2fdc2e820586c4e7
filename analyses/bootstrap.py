"""Bootstrap intervals over the two levels of the data: seeds, then sessions with all their prefixes."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from dissect.training.evaluation import gains
from dissect.usual import RESAMPLES

CHUNK = 4_000_000  # weights of sessions held at once, 32 MB

Report = Callable[[int, int], object]  # is told (done, total)


def prefixes_of(ranks: Mapping[str, np.ndarray]) -> str:
    """Which test prefixes are ranked (folders.read_ranks), as a hash."""
    columns = (ranks[name].astype(np.int32).tobytes() for name in ("session", "length", "target"))
    return hashlib.sha256(b"".join(columns)).hexdigest()


def session_sums(
    rank: np.ndarray, session: np.ndarray, chosen: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """(sums of the gains in MRR@20, number of prefixes) per session, float64 [S] each; `chosen` bool [P] restricts."""
    used = np.ones(len(rank)) if chosen is None else chosen.astype(float)
    session = np.unique(session, return_inverse=True)[1]  # numbered without gaps, however large the numbers are
    return np.bincount(session, gains(rank, "mrr@20") * used), np.bincount(session, used)


def resampled(
    sums: Sequence[np.ndarray], count: np.ndarray, resamples: int, seed: int = 0, report: Report | None = None
) -> np.ndarray:
    """Means per prefix of G models by M metrics in each of R resamples: [G, M, R].

    sums: for each model, the sums of its gains per metric, seed and session [M, K, S]; K may differ between models.
    count: the number of prefixes of each session [S].

    A resample draws S sessions with replacement, the same for all models, and for each model K - 1 of its K seeds, the
    same for all metrics. Prefixes come along with their session. The mean of K drawn of K would have (K - 1) / K of
    the variance that it should, two thirds with three seeds; that of K - 1 has the variance of the mean of K new seeds
    (Rao and Wu, JASA 1988). A single seed is always drawn.
    """
    rng = np.random.default_rng(seed)
    sessions = len(count)
    # A column for each model, metric and seed: one product of [resamples x sessions] weights serves all of them.
    columns = np.concatenate([count[None], *(of.reshape(-1, sessions) for of in sums)]).T.astype(float)
    totals = np.empty((resamples, columns.shape[1]))
    chunk = max(1, CHUNK // sessions)
    for start in range(0, resamples, chunk):
        size = min(chunk, resamples - start)
        # How often each session is drawn: the draws of one resample are numbered after those of the one before.
        draws = rng.integers(0, sessions, (size, sessions)) + sessions * np.arange(size)[:, None]
        weights = np.bincount(draws.ravel(), minlength=size * sessions).reshape(size, sessions).astype(float)
        np.matmul(weights, columns, out=totals[start : start + size])
        if report:
            report(start + size, resamples)
    means = totals[:, 1:] / totals[:, :1]
    result, at = np.empty((len(sums), len(sums[0]), resamples)), 0
    for model, of in enumerate(sums):
        seeds = of.shape[1]
        drawn = rng.integers(0, seeds, (resamples, max(seeds - 1, 1)))
        for metric in range(len(of)):
            result[model, metric] = np.take_along_axis(means[:, at : at + seeds], drawn, 1).mean(1)
            at += seeds
    return result


def relative_loss_interval(
    full: np.ndarray, reduced: np.ndarray, count: np.ndarray, resamples: int = RESAMPLES, seed: int = 0
) -> tuple[float | None, float | None, float | None]:
    """(estimate, low, high): relative loss of MRR, 1 - MRR(reduced) / MRR(full), with its 95 % interval.

    full [K, S] and reduced [K', S] are sums of reciprocal ranks per seed and session, count [S] prefixes per session.
    The estimate is None if MRR(full) is 0; the limits are None if MRR(full) is 0 in a resample.
    """
    chosen = np.flatnonzero(count)
    full, reduced = full[:, chosen], reduced[:, chosen]
    if not full.any():
        return None, None, None
    estimate = float(1 - reduced.sum(1).mean() / full.sum(1).mean())
    (of_full,), (of_reduced,) = resampled([full[None], reduced[None]], count[chosen], resamples, seed)
    if not of_full.all():
        return estimate, None, None
    low, high = np.quantile(1 - of_reduced / of_full, [0.025, 0.975])
    return estimate, float(low), float(high)
