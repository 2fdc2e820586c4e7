"""Is one model better than another, or was it luck? Two tests on the ranks of the test prefixes.

    bootstrap   the test that counts: resamples the seeds of either model, then sessions, the same for all models.
                Its interval covers what would change with other seeds and other visitors.
    t-test      as in the paper: paired on examples. It takes the prefixes of one session for independent and the
                trained weights for given, so its p is too small; it is there to be compared with published ones.

Both are corrected by Holm's method over all pairs and both metrics of a table.

Simulated (tests/test_significance.py), equally good models are called different at p <= 0.05 by the bootstrap (by the
t-test) in

    5 % (5 %)     where only the sessions differ, or there is one seed
    1 % (5 %)     where each seed differs on each session anew: resampling seeds and sessions counts that noise twice
    4 % (7 %)     three seeds, both kinds of noise and one of seeds as a whole, each about as large
    20 % (98 %)   where only the seed as a whole matters: three seeds cannot tell the width of their distribution;
                  with five it is 13 % (98 %)
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from analyses.bootstrap import RESAMPLES
from analyses.compare import JUDGED, Entry, Warn
from dissect import runs
from dissect.errors import DataError
from dissect.runs import left_out

CUTOFF = 20
ALPHA = 0.05
CHUNK = 2_000_000  # numbers in a scratch array of the resampling, 16 MB
NOTHING = 1e-12  # a difference of shares that is rounding


@dataclass(frozen=True)
class Gains:
    """What K seeds of a row gained on P test prefixes of S sessions, as shares; first axis HR@20, MRR@20.

    example [2, P]: mean over seeds, per prefix; session [2, K, S]: sum over the prefixes of a session.
    """

    example: np.ndarray
    session: np.ndarray


def gains_of_ranks(rank: np.ndarray, session: np.ndarray) -> Gains:
    """The gains of K seeds from their ranks [K, P] and the session of each prefix, numbered 0..S-1, [P]."""
    hit = rank <= CUTOFF
    gain = np.stack([hit.astype(float), np.where(hit, 1.0 / rank, 0.0)])  # [2, K, P]
    sums = [[np.bincount(session, weights=seed) for seed in metric] for metric in gain]
    return Gains(gain.mean(1), np.array(sums))


def read_gains(entries: list[Entry], warn: Warn = left_out) -> tuple[list[Entry], list[Gains], np.ndarray]:
    """(rows whose ranks are sound, gains of each, number of prefixes of each session [S]).

    A run whose ranks are missing or damaged, or are not those of the summary beside them, is left out, and `warn`
    is told. Raises DataError where two runs rank different prefixes: which of them is right cannot be known.
    """
    reference: tuple[dict[str, np.ndarray], str] | None = None
    sound, ranks = [], []
    for row in entries:
        of_row = {}
        for run, summary in zip(row.runs, row.summaries):
            try:
                arrays = _read_run(run, summary)
            except DataError as error:
                warn(error)
                continue
            reference = reference or (arrays, str(run))
            if any(not np.array_equal(arrays[name], reference[0][name]) for name in ("session", "length", "target")):
                raise DataError(
                    f"{run} and {reference[1]} rank different test prefixes, though their split hash is the same.",
                    "One of them is damaged: train it again with the same command and --force.",
                )
            of_row[run] = (summary, arrays["rank"])
        if of_row:
            summaries, rank = zip(*of_row.values())
            lost = len(row.runs) - len(of_row)
            sound.append(replace(row, runs=tuple(of_row), summaries=summaries, damaged=row.damaged + lost))
            ranks.append(np.stack(rank))
    if reference is None:
        return [], [], np.zeros(0, int)
    _, session, count = np.unique(reference[0]["session"], return_inverse=True, return_counts=True)
    return sound, [gains_of_ranks(rank, session) for rank in ranks], count


def _read_run(run: Path, summary: dict[str, Any]) -> dict[str, np.ndarray]:
    """The ranks of a run on test, checked against its summary."""
    path = runs.test_ranks(run)
    arrays = runs.read_ranks(path)
    rank = arrays["rank"]
    if summary["protocol"] != "paper":  # there each metric of the summary is of an epoch of its own
        hit = rank <= CUTOFF
        for metric, value in (("hr@20", hit.mean()), ("mrr@20", np.where(hit, 1 / rank, 0.0).mean())):
            if abs(100 * value - summary["test"][metric]) > 1e-3:
                raise DataError(
                    f"{path} gives {metric.upper()} {100 * value:.3f}, the summary beside it "
                    f"{summary['test'][metric]:.3f}: one of them is damaged.",
                    runs.write_again(run),
                )
    return arrays


def pairs_table(gains: list[Gains], count: np.ndarray, resamples: int | None = None, seed: int = 0) -> pd.DataFrame:
    """Every pair of rows (a before b, as places in `gains`) by HR@20 and by MRR@20, one row each.

    Columns: a, b, metric; difference (a - b), low, high: percentage points, with the bootstrap's 95 % interval;
    relative: the difference in percent of b; p bootstrap, t, p t-test, each p also with ` holm`; at most: whether
    no resample contradicts the sign, so that the bootstrap's p may be smaller still; d_z: Cohen's d_z, the mean of
    the per-example differences (averaged over seeds) in units of their standard deviation.
    """
    resamples = resamples or enough_resamples(len(gains) * (len(gains) - 1) // 2 * len(JUDGED))
    pairs = list(combinations(range(len(gains)), 2))
    drawn = resampled(gains, count, resamples, seed)
    rows = []
    for a, b in pairs:
        for m, metric in enumerate(JUDGED):
            of_a, of_b = (g.session[m].sum() / len(g.session[m]) / count.sum() for g in (gains[a], gains[b]))
            low, high, p = interval(drawn[a, m] - drawn[b, m])
            t, p_t, d_z = paired_t(gains[a].example[m] - gains[b].example[m])
            rows.append(
                {
                    "a": a,
                    "b": b,
                    "metric": metric,
                    "difference": 100 * (of_a - of_b),
                    "low": 100 * low,
                    "high": 100 * high,
                    "relative": 100 * (of_a / of_b - 1) if of_b else float("nan"),
                    "p bootstrap": p,
                    "at most": p <= 2 / (resamples + 1),
                    "t": t,
                    "p t-test": p_t,
                    "d_z": d_z,
                }
            )
    table = pd.DataFrame(rows)
    for test in ("p bootstrap", "p t-test"):
        table[f"{test} holm"] = holm(table[test].to_numpy())
    return table


def enough_resamples(tests: int) -> int:
    """2,000, or as many as the correction needs: the smallest p, 2 / (resamples + 1), times `tests` is below 0.025.

    With 90 tests and 2,000 resamples no difference whatever could be significant.
    """
    return max(RESAMPLES, round(4 / ALPHA * tests))


def resampled(gains: list[Gains], count: np.ndarray, resamples: int, seed: int = 0) -> np.ndarray:
    """HR@20 and MRR@20 (shares) of each of G rows in each resample: [G, 2, R].

    A resample draws S sessions with replacement, the same for all rows, and for each row K of its K seeds.
    Prefixes come along with their session.
    """
    rng = np.random.default_rng(seed)
    sessions = len(count)
    # One column for each row, metric and seed, so that one product serves all of them.
    columns = np.concatenate([count[None], *(g.session.reshape(-1, sessions) for g in gains)]).T.astype(float)
    totals = np.empty((resamples, columns.shape[1]))
    chunk = max(1, CHUNK // sessions)
    for start in range(0, resamples, chunk):
        size = min(chunk, resamples - start)
        # How often each session was drawn: the draws of one resample are numbered after those of the one before.
        draws = rng.integers(0, sessions, (size, sessions)) + sessions * np.arange(size)[:, None]
        times = np.bincount(draws.ravel(), minlength=size * sessions).reshape(size, sessions).astype(float)
        totals[start : start + size] = times @ columns
    means = totals[:, 1:] / totals[:, :1]
    result, at = np.empty((len(gains), len(JUDGED), resamples)), 0
    for place, g in enumerate(gains):
        seeds = g.session.shape[1]
        chosen = rng.integers(0, seeds, (resamples, seeds))  # the same seeds for both metrics
        for m in range(len(JUDGED)):
            result[place, m] = np.take_along_axis(means[:, at : at + seeds], chosen, 1).mean(1)
            at += seeds
    return result


def interval(drawn: np.ndarray) -> tuple[float, float, float]:
    """(low, high, p) of resampled differences [R]: the 95 % percentile interval and the two-sided p.

    p is twice the share of resamples on the rarer side of zero, with one added on either side of the fraction (a
    p of 0 cannot be known from R resamples); those at zero count for both sides, so models that are the same have
    p = 1.
    """
    low, high = np.quantile(drawn, [ALPHA / 2, 1 - ALPHA / 2])
    rarer = min(int((drawn <= NOTHING).sum()), int((drawn >= -NOTHING).sum()))
    return float(low), float(high), min(1.0, 2 * (rarer + 1) / (len(drawn) + 1))


def paired_t(differences: np.ndarray) -> tuple[float, float, float]:
    """(t, two-sided p, Cohen's d_z) of per-example differences [P]; (0, 1, 0) where there are none."""
    if np.abs(differences).max() <= NOTHING or len(differences) < 2:
        return 0.0, 1.0, 0.0
    sd = float(differences.std(ddof=1))
    if sd <= NOTHING:  # the same difference everywhere
        return float(np.copysign(np.inf, differences[0])), 0.0, float(np.copysign(np.inf, differences[0]))
    t, p = stats.ttest_1samp(differences, 0.0)  # of paired values: the t-test of their differences
    return float(t), float(p), float(differences.mean()) / sd


def holm(p: np.ndarray) -> np.ndarray:
    """Adjusted p values [m] by Holm's step-down method (1979): reject where they are at most alpha.

    The i-th smallest of m (from 0) is multiplied by m - i, is at least the one before it, and at most 1.
    """
    order = np.argsort(p, kind="stable")
    stepped = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    adjusted = np.empty(len(p))
    adjusted[order] = np.minimum(stepped, 1.0)
    return adjusted
