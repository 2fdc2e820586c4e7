"""The rules by which a part of a model is alive or withered; docs/verdict.md gives the reason for each."""

from __future__ import annotations

from collections.abc import Sequence

ALIVE, WITHERED, UNDECIDED = "alive", "withered", "undecided"
FEWEST_SEEDS = 3  # that a verdict needs
EMPTY = 0.05  # excess below which a part has withered
PRUNED = 0.1  # density of a withered part, or of the control without data, above which too little was pruned
CLEAR = 0.2  # excess of a matrix that shows that the run keeps what it needs
FALSE_LIMIT = 0.1  # share of false discoveries above which a part may seem alive by chance
FALL = 0.01  # share of its accuracy that unseen data lose with the inputs of a living part swapped, at least
AS_GOOD = 0.98  # of the matched dense model's accuracy
OTHER_THRESHOLD = 2.0  # at which the answer has to be the same


def interval(values: Sequence[float]) -> tuple[float, float] | None:
    """The 95 % interval of the mean (t distribution); None for fewer than two values."""
    import scipy.stats

    n = len(values)
    if n < 2:
        return None
    mean = sum(values) / n
    deviation = (sum((value - mean) ** 2 for value in values) / (n - 1)) ** 0.5
    half = float(scipy.stats.t.ppf(0.975, n - 1)) * deviation / n**0.5
    return mean - half, mean + half


def too_few(seeds: int) -> list[str]:
    """The doubt if there are fewer seeds than a verdict needs."""
    return [f"only {seeds} seed{'s' * (seeds != 1)}; a verdict needs {FEWEST_SEEDS}"] if seeds < FEWEST_SEEDS else []


def by_excess(low: float, high: float) -> str:
    """Alive, withered or undecided, by the interval of what a part keeps beyond its shadows."""
    return WITHERED if high <= EMPTY else ALIVE if low > EMPTY else UNDECIDED
