"""Intervals that respect how the data came about: seeds were drawn, then sessions; prefixes only come along."""

from __future__ import annotations

import numpy as np

RESAMPLES = 2_000


def session_sums(
    rank: np.ndarray, session: np.ndarray, chosen: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """(sums of 1/rank within 20, number of prefixes) per session, float64 [S] each; `chosen` bool [P] restricts."""
    gain = np.where(rank <= 20, 1.0 / rank, 0.0)
    used = np.ones(len(rank)) if chosen is None else chosen.astype(float)
    session = np.unique(session, return_inverse=True)[1]  # numbered without gaps, however large the numbers are
    return np.bincount(session, gain * used), np.bincount(session, used)


def relative_loss_interval(
    full: np.ndarray, reduced: np.ndarray, count: np.ndarray, resamples: int = RESAMPLES, seed: int = 0
) -> tuple[float | None, float | None, float | None]:
    """(estimate, low, high): relative loss of MRR, 1 - MRR(reduced) / MRR(full), with its 95 % interval.

    full [K, S] and reduced [K', S] are sums of reciprocal ranks per seed and session, count [S] prefixes per
    session. Hierarchical bootstrap: draws seeds of either model, then sessions, the same for both.

    A loss relative to nothing is None: the estimate where MRR(full) is 0, the limits where it is 0 in a resample.
    """
    rng = np.random.default_rng(seed)
    chosen = np.flatnonzero(count)
    full, reduced, count = full[:, chosen], reduced[:, chosen], count[chosen]
    if not full.any():
        return None, None, None
    estimate = float(1 - reduced.sum(1).mean() / full.sum(1).mean())
    sessions = len(chosen)
    losses = np.empty(resamples)
    chunk = max(1, 20_000_000 // sessions)
    for start in range(0, resamples, chunk):
        size = min(chunk, resamples - start)
        # How often each session was drawn, then both models on the same draw.
        times = rng.multinomial(sessions, np.full(sessions, 1 / sessions), size=size).astype(np.float32)  # [R, S]
        of_full = times @ full.T.astype(np.float32)  # [R, K]
        of_reduced = times @ reduced.T.astype(np.float32)
        a = _mean_of_drawn(rng, of_full)
        b = _mean_of_drawn(rng, of_reduced)
        if not a.all():
            return estimate, None, None
        losses[start : start + size] = 1 - b / a
    low, high = np.quantile(losses, [0.025, 0.975])
    return estimate, float(low), float(high)


def _mean_of_drawn(rng: np.random.Generator, values: np.ndarray) -> np.ndarray:
    """Mean [R] over as many columns of `values` [R, K] as there are, drawn anew for each row with replacement."""
    drawn = rng.integers(0, values.shape[1], values.shape)
    return np.asarray(np.take_along_axis(values, drawn, 1).mean(1))
