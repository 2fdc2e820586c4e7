"""Is one model better than another, or was it luck? Two tests on the ranks of the test prefixes.

    bootstrap   the test that counts: resamples the seeds of either model, then sessions, the same for all models.
                Its interval covers what would change with other seeds and other visitors.
    t-test      as in the paper: paired on examples. It takes the prefixes of one session for independent and the
                trained weights for given, so its p is too small; it is reported to compare with published ones.

Both are corrected by Holm's method over all pairs and both metrics of a table, even if only the pairs with the best row
are shown: the best is chosen by the same numbers. Simulated with 24 equally good rows of one seed, some row is called
worse than the best in 2 % of tables; with a correction for the pairs with the best only, in 17 %.

Simulated (tests/test_significance.py), equally good models are called different at p <= 0.05 by the bootstrap (by the
t-test) in

    5 % (5 %)     where only the sessions differ, or there is one seed
    1 % (5 %)     where each seed differs on each session anew: resampling seeds and sessions counts that noise twice
    4 % (7 %)     three seeds, both kinds of noise and one of seeds as a whole, each about as large
    20 % (98 %)   where only the seed as a whole matters: three seeds cannot tell the width of their distribution;
                  with five it is 13 % (98 %)

With few test sessions the bootstrap is too bold: of one seed 22 % with 2 sessions, 15 % with 5, 9 % with 10, 6 % with
20. A single session tells nothing apart: p is 1.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from analyses.bootstrap import Report, prefixes_of, resampled
from analyses.entries import JUDGED, Entry
from dissect.errors import DataError
from dissect.runs import folders
from dissect.runs.files import anew
from dissect.runs.records import ALSO
from dissect.text import plural
from dissect.training.evaluation import gains
from dissect.usual import MOST_RESAMPLES, RESAMPLES

ALPHA = 0.05
NOTHING = 1e-12  # a difference of shares that is rounding
FEW_SESSIONS = 20  # below which resampled sessions call too much significant


def few_sessions(sessions: int) -> str:
    """The doubt in words, if there are fewer test sessions than FEW_SESSIONS."""
    return f"only {plural(sessions, 'test session')}; {FEW_SESSIONS} are asked"


@dataclass(frozen=True)
class Gains:
    """The gains of K seeds of a row on P test prefixes of S sessions, as shares; first axis HR@20, MRR@20.

    example [2, P]: mean over seeds, per prefix; session [2, K, S]: sum over the prefixes of a session.
    """

    example: np.ndarray
    session: np.ndarray
    also: dict[str, np.ndarray] = field(default_factory=dict)  # of metrics without a test: the mean by seed [K]


def gains_of_ranks(rank: np.ndarray, session: np.ndarray) -> Gains:
    """The gains of K seeds from their ranks [K, P] and the session of each prefix, numbered 0..S-1, [P]."""
    gain = np.stack([gains(rank, metric) for metric in JUDGED])  # [2, K, P]
    sums = [[np.bincount(session, weights=seed) for seed in of_metric] for of_metric in gain]
    return Gains(gain.mean(1), np.array(sums), {name: gains(rank, name).mean(1) for name in ALSO})


def read_gains(entries: list[Entry], report: Report | None = None) -> tuple[list[Entry], list[Gains], np.ndarray]:
    """(rows whose ranks are sound, gains of each, number of prefixes of each session [S]).

    A run is skipped with a warning if its ranks are missing or damaged, contradict its summary, or belong to
    other prefixes than those of most runs. Raises DataError if no set of prefixes has a majority.
    """
    sessions: dict[str, np.ndarray] = {}  # by `prefixes_of`
    ranks: dict[Path, tuple[str, np.ndarray]] = {}  # by run: (which prefixes, rank)
    summary_of = {run: summary for row in entries for run, summary in zip(row.runs, row.summaries)}
    for done, (run, summary) in enumerate(summary_of.items(), 1):
        try:
            arrays = _read_run(run, summary)
        except DataError as error:
            folders.left_out(error)
        else:
            which = prefixes_of(arrays)
            sessions.setdefault(which, arrays["session"])
            ranks[run] = which, arrays["rank"]
        if report:
            report(done, len(summary_of))
    if not ranks:
        return [], [], np.zeros(0, int)
    usual = _of_most({run: which for run, (which, _) in ranks.items()})
    for run, (which, _) in ranks.items():
        if which != usual:
            folders.left_out(DataError(f"{run} ranks other test prefixes than the others on its split.", anew(run)))
    _, session, count = np.unique(sessions[usual], return_inverse=True, return_counts=True)
    sound, found = [], []
    for row in entries:
        if runs := tuple(run for run in row.runs if run in ranks and ranks[run][0] == usual):
            lost = row.damaged + len(row.runs) - len(runs)
            sound.append(replace(row, runs=runs, summaries=tuple(summary_of[run] for run in runs), damaged=lost))
            found.append(gains_of_ranks(np.stack([ranks[run][1] for run in runs]), session))
    return sound, found, count


def _of_most(which: dict[Path, str]) -> str:
    """The prefixes that most runs rank. Raises DataError if others have as many runs."""
    votes = Counter(which.values()).most_common(2)
    if len(votes) == 2 and votes[0][1] == votes[1][1]:
        a, b = (next(run for run in which if which[run] == vote) for vote, _ in votes)
        raise DataError(
            f"{a} and {b} rank different test prefixes, though their split hash is the same.",
            "One of them is damaged: train it again with the same command and --force.",
        )
    return votes[0][0]


def _read_run(run: Path, summary: dict[str, Any]) -> dict[str, np.ndarray]:
    """The ranks of a run on test, checked against its summary."""
    path = folders.test_ranks(run)
    arrays = folders.read_ranks(path)
    for name in JUDGED if summary["protocol"] != "paper" else ():  # there each metric is of an epoch of its own
        found, said = 100 * gains(arrays["rank"], name).mean(), summary["test"][name]
        if abs(found - said) > 1e-3:
            raise DataError(
                f"{path} gives {name.upper()} {found:.3f}, the summary beside it {said:.3f}: one of them is damaged.",
                folders.write_again(run),
            )
    return arrays


def pairs_table(
    rows: list[Gains],
    count: np.ndarray,
    resamples: int | None = None,
    seed: int = 0,
    every: bool = True,
    report: Report | None = None,
    tests: int = 0,
) -> pd.DataFrame:
    """Every pair of rows (a before b, as places in `rows`), or those with the first, by HR@20 and by MRR@20.

    The first is the best of these same numbers, so Holm corrects for all pairs even if only its own are returned.
    `tests` is how many the caller corrects for, if it joins several tables: p must be small enough for all of them.

    Columns: a, b, metric; difference (a - b), low, high: percentage points, with the bootstrap's 95 % interval;
    relative: the difference in percent of b; p bootstrap, t, p t-test, each p also with ` holm`; at most: whether
    no resample contradicts the sign, so that the bootstrap's p may be smaller still; d_z: Cohen's d_z, the mean of
    the per-example differences (averaged over seeds) in units of their standard deviation.
    """
    a, b = np.triu_indices(len(rows), 1)
    tests = tests or n_tests(len(rows))
    resamples = resamples or enough_resamples(tests)
    counts = can_count(resamples, tests)
    drawn = resampled([g.session for g in rows], count, resamples, seed, report)
    limits, p = [], []
    for first in range(len(rows) - 1):
        apart = drawn[first] - drawn[first + 1 :]  # [its pairs, 2, R]
        p.append(p_value(apart, tail=not counts))
        if every or not first:
            limits.append(np.quantile(apart, [ALPHA / 2, 1 - ALPHA / 2], axis=-1))
    shown = len(a) if every else len(rows) - 1
    low, high = np.concatenate(limits, 1)
    share = np.array([g.session.sum(2).mean(1) for g in rows]) / count.sum()  # [G, 2]
    difference, of_b = (share[a] - share[b])[:shown], share[b][:shown]
    by_t = [paired_t_tests([g.example[m] for g in rows]) for m in range(len(JUDGED))]
    t, p_t, d_z = (np.stack([of[number][a, b] for of in by_t], 1) for number in range(3))
    p_bootstrap = np.concatenate(p) if len(count) > 1 else np.ones((len(a), len(JUDGED)))  # one is always drawn again
    by_pair = {
        "a": np.repeat(a, len(JUDGED)),
        "b": np.repeat(b, len(JUDGED)),
        "metric": np.tile(JUDGED, len(a)),
        "difference": 100 * difference,
        "low": 100 * low,
        "high": 100 * high,
        "relative": 100 * np.divide(difference, of_b, out=np.full_like(of_b, np.nan), where=of_b > 0),
        "p bootstrap": p_bootstrap,
        "at most": counts & (p_bootstrap <= 2 / (resamples + 1)),
        "t": t,
        "p t-test": p_t,
        "d_z": d_z,
        "p bootstrap holm": holm(p_bootstrap.ravel()),
        "p t-test holm": holm(p_t.ravel()),
    }
    return pd.DataFrame({name: values.ravel()[: shown * len(JUDGED)] for name, values in by_pair.items()})


def n_tests(rows: int) -> int:
    """The number of tests for all pairs of `rows` rows: Holm corrects for all of them, whatever is shown."""
    return rows * (rows - 1) // 2 * len(JUDGED)


def enough_resamples(tests: int) -> int:
    """2,000, or as many as the correction needs: the smallest p, 2 / (resamples + 1), times `tests` is below 0.025.

    With 90 tests and 2,000 resamples no difference could be significant. If that takes more than MOST_RESAMPLES, it is
    2,000 again: `p_value` then takes p from the tail of a normal distribution.
    """
    needed = round(4 / ALPHA * tests)
    return max(RESAMPLES, needed) if needed <= MOST_RESAMPLES else RESAMPLES


def can_count(resamples: int, tests: int) -> bool:
    """Whether a p counted in `resamples` resamples can be significant after the correction for all tests."""
    return 2 / (resamples + 1) * tests <= ALPHA


def p_value(drawn: np.ndarray, tail: bool = False) -> np.ndarray:
    """Two-sided p of resampled differences [..., R].

    It is twice the share of resamples on the rarer side of zero, with 1 added to numerator and denominator (R resamples
    cannot show p = 0). Those at zero count for both sides, so equal models have p = 1. With `tail`, if no resample
    contradicts the sign, p is that of a normal distribution with their mean and standard deviation, at most the counted
    one.
    """
    rarer = np.minimum((drawn <= NOTHING).sum(-1), (drawn >= -NOTHING).sum(-1))
    p = np.minimum(1.0, 2 * (rarer + 1) / (drawn.shape[-1] + 1))
    if tail:
        with np.errstate(divide="ignore", invalid="ignore"):  # the same difference in every resample
            beyond = 2 * stats.norm.sf(np.abs(drawn.mean(-1)) / drawn.std(-1))
        p = np.where(rarer == 0, np.fmin(p, beyond), p)
    return np.asarray(p)


def paired_t(differences: np.ndarray) -> tuple[float, float, float]:
    """(t, two-sided p, Cohen's d_z) of per-example differences [P]; (0, 1, 0) if there is none, or one."""
    if len(differences) < 2 or np.abs(differences).max() <= NOTHING:
        return 0.0, 1.0, 0.0
    sd = float(differences.std(ddof=1))
    if sd <= NOTHING:  # the same difference everywhere
        return float(np.copysign(np.inf, differences[0])), 0.0, float(np.copysign(np.inf, differences[0]))
    t, p = stats.ttest_1samp(differences, 0.0)  # of paired values: the t-test of their differences
    return float(t), float(p), float(differences.mean()) / sd


def paired_t_tests(examples: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """`paired_t` of every pair a < b of G rows of examples [P], as [G, G] each.

    The variances of differences come from the covariances of the rows, in one product. If one is tiny beside those of
    the rows, it is rounding, and the pair is computed by itself.
    """
    values = np.stack(examples)
    n, mean = values.shape[1], values.mean(1)
    centred = values - mean[:, None]
    products = centred @ centred.T
    spread = np.add.outer(products.diagonal(), products.diagonal())
    squares = spread - 2 * products
    alone = np.argwhere(np.triu(squares <= 1e-6 * spread, 1))
    with np.errstate(divide="ignore", invalid="ignore"):  # of the pairs that are done below
        d_z = np.subtract.outer(mean, mean) / np.sqrt(np.maximum(squares, 0) / (n - 1))
        t = d_z * np.sqrt(n)
        p = 2 * stats.t.sf(np.abs(t), n - 1)
    for a, b in alone:
        t[a, b], p[a, b], d_z[a, b] = paired_t(values[a] - values[b])
    return t, p, d_z


def holm(p: np.ndarray) -> np.ndarray:
    """Adjusted p values [m] by Holm's step-down method (1979): reject if they are at most alpha.

    The i-th smallest of m (from 0) is multiplied by m - i, is at least the one before it, and at most 1.
    """
    order = np.argsort(p, kind="stable")
    stepped = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    adjusted = np.empty(len(p))
    adjusted[order] = np.minimum(stepped, 1.0)
    return adjusted
