"""What finished runs say of a claim: one rule for a pair of arms, and one for each shape of a claim.

Under the fair protocol (the epoch chosen on validation) a row is better than another if the bootstrap's p, corrected by
Holm over all pairs of the table, is at most 0.05, and an answer from fewer than three seeds is undecided. Under the
paper's (each metric at its best epoch on test) it is better if the paired t-test over prefixes has p < 0.01, as there.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy import optimize, stats

from analyses import study as studying
from analyses.answers import FAILS, HOLDS, UNDECIDED, too_few
from analyses.bootstrap import resampled
from analyses.compare import Comparison
from analyses.entries import UNKNOWN, machine_of
from analyses.significance import (
    ALPHA,
    FEW_SESSIONS,
    can_count,
    enough_resamples,
    gains_of_ranks,
    holm,
    p_value,
    pairs_table,
)
from analyses.studies import Study
from analyses.study import LONGEST, Job
from dissect.errors import DataError, UsageError
from dissect.runs import folders
from dissect.runs.files import anew
from dissect.text import plural
from dissect.training.evaluation import gains

NOT_RUN = "not run"
PAPER_ALPHA = 0.01  # of the paper's t-tests
LONG = 6  # clicks of a "relatively long" session
POWERS = np.arange(5, 601) / 100  # that are tried for the growth of time
Pair = tuple[str, str, str]  # labels of the better and of the worse row, and the metric


class Finding(NamedTuple):
    """The answer to a claim, what was measured, and the groups it comes from; `says`: without the doubts."""

    answer: str
    measured: str = ""
    groups: tuple[str, ...] = ()
    says: str = ""


MISSING = Finding(NOT_RUN)


@dataclass(frozen=True)
class Evidence:
    """The runs of a study on a data set under one protocol ("clean" or "paper"), read when they are asked for."""

    study: Study
    todo: Sequence[Job]
    protocol: str = "clean"

    @cached_property
    def table(self) -> Comparison | None:
        """The finished arms with every pair; None if fewer than two are."""
        try:
            return studying.compared(self.study, self.todo, every_pair=True)
        except UsageError:
            return None

    @cached_property
    def rows(self) -> pd.DataFrame:
        """The finished arms by label."""
        return pd.DataFrame() if self.table is None else self.table.rows.set_index("label")

    @cached_property
    def by_length(self) -> dict[tuple[str, int], pd.DataFrame]:
        """The `pairs` of `pairs_by_length`."""
        return pairs_by_length(self.todo)

    def pair(self, a: str, b: str, metric: str) -> pd.Series | None:
        """The row of the pair a against b; None if one of them is not there."""
        if a not in self.rows.index or b not in self.rows.index or self.table is None:
            return None
        found = studying.oriented(self.table, a, b)
        return found[found["metric"] == metric].iloc[0]

    def sign(self, a: str, b: str, metric: str) -> int | None:
        """1 if a is significantly better than b, -1 if worse, 0 if neither; None if one of them is not there."""
        row = self.pair(a, b, metric)
        if row is None:
            return None
        return self.sign_of(row)

    def sign_of(self, row: Any) -> int:
        """The same of a row of a table of pairs."""
        is_apart = row["p t-test"] < PAPER_ALPHA if self.protocol == "paper" else row["p bootstrap holm"] <= ALPHA
        return int(np.sign(row["difference"])) if is_apart else 0

    def found(self, answer: str, measured: str, labels: Iterable[str], doubts: Sequence[str] = ()) -> Finding:
        """The finding from these arms. One with `doubts`, or a fair one from too few seeds, is undecided."""
        rows = self.rows.loc[[label for label in dict.fromkeys(labels) if label in self.rows.index]]
        seeds = rows["seeds"][rows["selection"] != ""]
        few = too_few(int(seeds.min())) if len(seeds) and self.protocol == "clean" else []
        doubts = [*doubts, *few]
        groups = tuple(dict.fromkeys(rows["group"]))
        if not doubts or answer in (UNDECIDED, NOT_RUN):
            return Finding(answer, measured, groups, answer)
        return Finding(UNDECIDED, f"{measured}; {doubts[0]}", groups, answer)


# --- an order of rows --------------------------------------------------------------------------------------


def ordered(of: Evidence, pairs: Iterable[Pair]) -> Finding:
    """Whether each pair is as claimed: holds if all are significantly, fails if one is significantly the other way."""
    signs = {pair: of.sign(*pair) for pair in pairs}
    known = {pair: sign for pair, sign in signs.items() if sign is not None}
    if not known:
        return MISSING
    worst = min(known, key=lambda pair: (known[pair], of.pair(*pair)["difference"]))  # type: ignore[index]
    answer = FAILS if known[worst] < 0 else HOLDS if all(sign == 1 for sign in signs.values()) else UNDECIDED
    if len(known) <= 2:
        says = "; ".join(in_words(of, pair) for pair in known)
    else:
        counts = [(list(known.values()).count(sign), words) for sign, words in AS_CLAIMED.items()]
        says = ", ".join(f"{count} {words}" for count, words in counts if count)
        says = f"of {len(signs)} pairs {says}; lowest: {in_words(of, worst)}"
    if lacking := len(signs) - len(known):
        says += f"; {lacking} of {len(signs)} pairs not run"
    return of.found(answer, says, [label for pair in known for label in pair[:2]])


AS_CLAIMED = {1: "as claimed", 0: "not told apart", -1: "the other way"}


def in_words(of: Evidence, pair: Pair) -> str:
    """A difference with its interval."""
    row = of.pair(*pair)
    assert row is not None
    at, low, high = (f"{row[name]:+.2f}" for name in ("difference", "low", "high"))
    return f"{pair[2].upper()} {pair[0]} against {pair[1]} {at} [{low}, {high}]"


def best(of: Evidence, label: str, others: Iterable[str], metrics: Sequence[str]) -> Finding:
    """Whether a row is better than each of the others."""
    return ordered(of, [(label, other, metric) for other in others if other != label for metric in metrics])


# --- lines: an axis with an arm at each x ------------------------------------------------------------------


def at_x(of: Evidence, metric: str = "hr@20") -> pd.Series:
    """The means of the finished arms by their x; the labels are in `.attrs`."""
    x_of = {arm.label: arm.x for arm in of.study.arms}
    known = {x_of[label]: label for label in of.rows.index if x_of.get(label) is not None}
    means = pd.Series({x: of.rows[metric][label] for x, label in sorted(known.items())}, dtype=float)
    means.attrs = dict(sorted(known.items()))
    return means


def ends(of: Evidence) -> tuple[float, float]:
    """The first and the last x that the study plans."""
    x = sorted(arm.x for arm in of.study.arms if arm.x is not None)
    return x[0], x[-1]


def with_gaps(of: Evidence, means: pd.Series, found: Finding, final: str) -> Finding:
    """The finding from the means of `at_x`; if arms are not run, they could change any answer but `final`."""
    planned = sum(arm.x is not None for arm in of.study.arms)
    if len(means) == planned:
        return found
    measured = f"{found.measured}; {planned - len(means)} of {planned} not run"
    if final in (found.answer, found.says):
        return found._replace(measured=measured)
    return found._replace(answer=UNDECIDED, says=UNDECIDED, measured=measured)


def peaked(of: Evidence, metric: str = "hr@20") -> Finding:
    """Whether accuracy rises from the first x and falls to the last: the best x between them is better than both.

    Which one that is, is read from the same numbers; Holm corrects for all pairs. While an x is not run, the claim may
    hold but not fail.
    """
    means = at_x(of, metric)
    first, last = ends(of)
    inner = means.drop([x for x in (first, last) if x in means])
    if inner.empty or not {first, last} <= set(means.index):
        return MISSING
    top = means.attrs[inner.idxmax()]
    found = ordered(of, [(top, means.attrs[end], metric) for end in (first, last)])
    found = found._replace(measured=f"highest between the ends: {top}. {found.measured}")
    return with_gaps(of, means, found, HOLDS)


def best_at(of: Evidence, x: float, metric: str = "hr@20") -> Finding:
    """Whether accuracy is higher at x than at every other one."""
    label = {arm.x: arm.label for arm in of.study.arms}[x]
    return best(of, label, [arm.label for arm in of.study.arms], [metric])


def worst_at(of: Evidence, x: float, metric: str = "hr@20") -> Finding:
    """Whether accuracy is lower at x than at every other one."""
    label = {arm.x: arm.label for arm in of.study.arms}[x]
    return ordered(of, [(arm.label, label, metric) for arm in of.study.arms if arm.label != label])


def rising(of: Evidence, metric: str = "hr@20") -> Finding:
    """Whether accuracy rises along x: the last is better than the first, and no step goes down significantly.

    While an x is not run, the claim may fail but not hold.
    """
    means = at_x(of, metric)
    first, last = ends(of)
    if not {first, last} <= set(means.index):
        return MISSING
    labels = list(means.attrs.values())
    whole = (labels[-1], labels[0], metric)
    steps = [(after, before, metric) for before, after in pairwise(labels)]
    down = [step for step in steps if of.sign(*step) == -1]
    sign = of.sign(*whole)
    answer = FAILS if down or sign == -1 else HOLDS if sign == 1 else UNDECIDED
    says = "; ".join(in_words(of, pair) for pair in [whole, *down])
    return with_gaps(of, means, of.found(answer, says, labels), FAILS)


def growth(of: Evidence, most: float) -> Finding:
    """Whether the time of an epoch, beyond a fixed cost, grows no faster than the power `most` of x.

    Holds if all powers that `powers` finds plausible are at most `most`, fails if all are above, else undecided: the
    times of the seeds lie too far apart to tell, time hardly grows, or an x is not run.
    """
    means = at_x(of, "seconds_per_epoch").dropna()
    if len(means) < 3:
        return MISSING
    x_of = {means.attrs[x]: float(x) for x in means.index}
    runs = [(x_of[job.arm.label], folders.read_summary(job.run)) for job in of.todo
            if job.is_done and job.arm.label in x_of]  # fmt: skip
    x, seconds = np.array([(x, summary["seconds"] / summary["epochs"]) for x, summary in runs]).T
    power, low, high = powers(x, seconds)
    answer = HOLDS if high <= most else FAILS if low > most else UNDECIDED
    says = f"{_seconds(means.iloc[0])} s at {means.index[0]:g}, {_seconds(means.iloc[-1])} s at {means.index[-1]:g}"
    says += f": beyond a fixed cost power {power:.2f} [{low:.2f}, {high:.2f}]"
    return with_gaps(of, means, of.found(answer, says, x_of, unlike(of, x_of)), UNDECIDED)


def powers(x: np.ndarray, seconds: np.ndarray) -> tuple[float, float, float]:
    """(p, low, high): the power of seconds [N] = a + b x^p with a, b >= 0, and its 95 % interval, among POWERS.

    Least squares of the relative errors: the spread of a time is in proportion to it. The interval has each p that the
    F test does not reject against the best (1 and N - 3 degrees of freedom); with three times or fewer, every p.
    """
    columns = [np.stack([1 / seconds, (x / x.max()) ** p / seconds], 1) for p in POWERS]
    squares = np.array([optimize.nnls(each, np.ones(len(x)))[1] ** 2 for each in columns])
    free = len(x) - 3
    factor = 1 + stats.f.ppf(1 - ALPHA, 1, free) / free if free > 0 else np.inf
    plausible = POWERS[squares <= squares.min() * factor + 1e-12]  # the last: rounding, if the fit is exact
    return float(POWERS[squares.argmin()]), float(plausible[0]), float(plausible[-1])


# --- by the length of the session --------------------------------------------------------------------------


def ranks_of(todo: Sequence[Job]) -> dict[str, dict[str, np.ndarray]]:
    """By label: rank [K, P] of its finished seeds, session [P] and length [P].

    Raises DataError if ranks are damaged, or runs rank different prefixes.
    """
    found: dict[str, dict[str, Any]] = {}
    first: dict[str, np.ndarray] = {}
    for job in todo:
        if job.is_done:
            ranks = folders.read_ranks(folders.test_ranks(job.run))
            first = first or ranks
            if not all(np.array_equal(ranks[name], first[name]) for name in ("session", "length", "target")):
                raise DataError(f"{job.run} ranks other test prefixes than the others on its split.", anew(job.run))
            here = found.setdefault(job.arm.label, {**ranks, "rank": []})
            here["rank"].append(ranks["rank"])
    return {label: {**ranks, "rank": np.stack(ranks["rank"])} for label, ranks in found.items()}


def pairs_by_length(todo: Sequence[Job]) -> dict[tuple[str, int], pd.DataFrame]:
    """`pairs_table` of the arms on the prefixes of each length (LONGEST stands for that and more) and, at 0, of LONG
    clicks or more; columns a and b are labels, and Holm corrects for all lengths together. By (metric, length).

    A length that fewer than FEW_SESSIONS sessions have is left out: its intervals would be too narrow.
    """
    ranks = ranks_of(todo)
    if len(ranks) < 2:
        return {}
    labels, tables = list(ranks), {}
    lengths, sessions = np.minimum(ranks[labels[0]]["length"], LONGEST), ranks[labels[0]]["session"]
    parts = {int(x): lengths == x for x in np.unique(lengths)} | {0: lengths >= LONG}
    parts = {x: here for x, here in parts.items() if len(np.unique(sessions[here])) >= FEW_SESSIONS}
    tests = len(parts) * len(labels) * (len(labels) - 1)
    for x, here in parts.items():
        session = np.unique(sessions[here], return_inverse=True)[1]
        rows = [gains_of_ranks(of["rank"][:, here], session) for of in ranks.values()]
        tables[x] = pairs_table(rows, np.bincount(session), tests=tests)
    p = holm(np.array([p for table in tables.values() for p in table["p bootstrap"]]))
    found, at = {}, 0
    for x, table in tables.items():
        table = table.assign(**{"p bootstrap holm": p[at : at + len(table)]})
        at += len(table)
        table[["a", "b"]] = table[["a", "b"]].map(lambda place: labels[place])
        for metric, part in table.groupby("metric"):
            found[str(metric), x] = part
    return found


def sign_at(of: Evidence, a: str, b: str, metric: str, x: int) -> int:
    """`Evidence.sign` on the prefixes of length x; 0 where nothing can be said."""
    table = of.by_length.get((metric, x))
    if table is None:
        return 0
    for one, other, turn in ((a, b, 1), (b, a, -1)):
        for row in table[(table["a"] == one) & (table["b"] == other)].to_dict("records"):
            return turn * of.sign_of(row)
    return 0


def mostly(of: Evidence, label: str, others: Sequence[str], metrics: Sequence[str], way: int = 1) -> Finding:
    """Whether a row is better (`way` -1: worse) than all others at most lengths.

    Holds if it is significantly at more than half of them, fails if one of the others is the other way at half or more.
    """
    if not {label, *others} <= set(of.rows.index):
        return MISSING
    cells = [(metric, x) for metric in metrics for name, x in of.by_length if name == metric and x]
    if not cells:
        return of.found(UNDECIDED, f"no length has prefixes of {FEW_SESSIONS} sessions", [label, *others])
    signs = [[way * sign_at(of, label, other, metric, x) for other in others] for metric, x in cells]
    ahead, behind = sum(min(each) == 1 for each in signs), sum(min(each) == -1 for each in signs)
    answer = HOLDS if 2 * ahead > len(cells) else FAILS if 2 * behind >= len(cells) else UNDECIDED
    words = ("better", "worse")[::way]
    says = f"{words[0]} than both at {ahead} of {len(cells)} points, {words[1]} than one at {behind}"
    return of.found(answer, says, [label, *others])


def on_long(of: Evidence, a: str, b: str, metric: str = "hr@20") -> Finding:
    """Whether a is better than b on sessions of LONG clicks or more."""
    if not {a, b} <= set(of.rows.index):
        return MISSING
    if (metric, 0) not in of.by_length:
        return of.found(UNDECIDED, f"fewer than {FEW_SESSIONS} sessions have prefixes of {LONG} clicks or more", [a, b])
    sign = sign_at(of, a, b, metric, 0)
    gain = {label: 100 * gains(ranks["rank"][:, ranks["length"] >= LONG], metric).mean() for label, ranks in
            ranks_of(of.todo).items() if label in (a, b)}  # fmt: skip
    says = f"{LONG} clicks or more: {metric.upper()} {a} {gain[a]:.2f}, {b} {gain[b]:.2f}"
    return of.found({1: HOLDS, 0: UNDECIDED, -1: FAILS}[sign], says, [a, b])


def slopes(gain: np.ndarray, length: np.ndarray, session: np.ndarray, resamples: int) -> tuple[np.ndarray, np.ndarray]:
    """Slopes by least squares of the gains [M, K, P] of M metrics and K seeds against the length [P]: [M], the mean
    over seeds, and [M, R] in resamples of seeds, then of sessions with all their prefixes (bootstrap.resampled).

    Where the slopes of three seeds differ three times as much as sessions explain, a slope of 0 is called another at
    p <= 0.05 in 15 % of simulated data (5 seeds: 11 %), as in analyses/significance.py; as much: in 7 %.
    """
    at = np.unique(session, return_inverse=True)[1]
    metrics, seeds, prefixes = gain.shape
    x = np.broadcast_to(length - length.mean(), (1, seeds, prefixes))
    columns = np.concatenate([gain, gain * x, x, x * x])
    sums = np.array([[np.bincount(at, weights=seed) for seed in column] for column in columns])  # [2M + 2, K, S]

    def fitted(means: np.ndarray) -> np.ndarray:
        y, xy, (x, xx) = means[:metrics], means[metrics:-2], means[-2:]
        spread = np.broadcast_to(xx - x * x, y.shape)
        return np.divide(xy - x * y, spread, out=np.zeros_like(y), where=spread > 1e-12)  # 0: all of one length

    (drawn,) = resampled([sums], np.bincount(at), resamples)
    return fitted(sums.sum(2).mean(1) / prefixes), fitted(drawn)


def along_length(of: Evidence, labels: Sequence[str], way: int, metrics: Sequence[str]) -> Finding:
    """Whether the accuracy of all arms rises (`way` 1) or falls (-1) with length: holds if all slopes do significantly,
    fails if one goes the other way significantly.

    Fair: the bootstrap's p of `slopes`, corrected by Holm over them, is at most 0.05. The paper's: p < 0.01 in the
    t-test of a slope over prefixes.
    """
    ranks = {label: of_label for label, of_label in ranks_of(of.todo).items() if label in labels}
    if set(ranks) != set(labels) or not set(labels) <= set(of.rows.index):  # a damaged summary has no row
        return MISSING
    tests = len(labels) * len(metrics)
    resamples = enough_resamples(tests)
    b, p = [], []
    for arrays in ranks.values():
        gain = np.stack([gains(arrays["rank"], metric) for metric in metrics])
        length = np.minimum(arrays["length"], LONGEST).astype(float)
        own, drawn = slopes(gain, length, arrays["session"], resamples)
        b += list(own)
        if of.protocol != "paper":
            p += list(p_value(drawn, tail=not can_count(resamples, tests)))
        elif length.min() < length.max():
            p += [stats.linregress(length, each.mean(0)).pvalue for each in gain]
        else:
            p += [1.0] * len(metrics)
    is_apart = np.array(p) < PAPER_ALPHA if of.protocol == "paper" else holm(np.array(p)) <= ALPHA
    signs = way * np.sign(b) * is_apart
    answer = FAILS if (signs < 0).any() else HOLDS if (signs > 0).all() else UNDECIDED
    names = [f"{label} {metric.upper()}" for label in ranks for metric in metrics]
    says = ", ".join(f"{name} {100 * each:+.2f}" for name, each in zip(names, b))
    sessions = min(len(np.unique(arrays["session"])) for arrays in ranks.values())
    few = [f"{plural(sessions, 'test session')}: too few for a slope ({FEW_SESSIONS} are asked)"]
    return of.found(answer, f"points a click: {says}", labels, few if sessions < FEW_SESSIONS else [])


# --- time --------------------------------------------------------------------------------------------------


def unlike(of: Evidence, labels: Iterable[str]) -> list[str]:
    """The doubt about times if the runs of these arms are not all of one processor, number of threads and device."""
    machines = set[str]()
    for run in (job.run for job in of.todo if job.is_done and job.arm.label in set(labels)):
        machines.add(machine_of(run))
    if len(machines) == 1 and machines != {UNKNOWN}:
        return []
    return [f"the times are not of one machine, as far as environment.json says: {'; '.join(sorted(machines))}"]


def _seconds(value: float) -> str:
    return f"{value:.1f}" if value >= 1 else f"{value:.2g}"


def times_slower(of: Evidence, label: str, others: Sequence[str], least: float) -> Finding:
    """Whether an epoch of a row takes `least` times that of the median other row, or more.

    Undecided if those that are not run could change the answer, however long their epochs are.
    """
    others = [other for other in others if other != label]
    there = [other for other in others if other in of.rows.index]
    if label not in of.rows.index or len(there) < 2:
        return MISSING
    seconds = of.rows["seconds_per_epoch"]
    usual = float(seconds[there].median())
    says = f"{_seconds(seconds[label])} s an epoch, the median of {len(there)} others {_seconds(usual)} s: "
    says += f"{seconds[label] / usual:.1f} times"
    lacking = len(others) - len(there)
    says += f"; {lacking} not run" * (lacking > 0)
    medians = [np.median([*seconds[there], *[unknown] * lacking]) for unknown in (0.0, np.inf)]
    is_slower = [bool(seconds[label] >= least * median) for median in medians]
    answer = HOLDS if all(is_slower) else UNDECIDED if any(is_slower) else FAILS
    return of.found(answer, says, [label, *there], unlike(of, [label, *there]))


def quicker(of: Evidence, label: str, others: Sequence[str], margin: float = 0.1) -> Finding:
    """Whether an epoch of a row takes less time than that of each other; undecided within a `margin` of 10 %."""
    there = [other for other in others if other in of.rows.index]
    if label not in of.rows.index or not there:
        return MISSING
    seconds = of.rows["seconds_per_epoch"]
    ratios = {other: float(seconds[label] / seconds[other]) for other in there}
    worst = max(ratios, key=lambda other: ratios[other])
    is_whole = len(there) == len(others)
    answer = FAILS if ratios[worst] > 1 + margin else UNDECIDED
    answer = HOLDS if is_whole and ratios[worst] < 1 - margin else answer
    says = f"{_seconds(seconds[label])} s an epoch; the quickest of {len(there)} others, "
    says += f"{worst}, {_seconds(seconds[worst])} s"
    says += f"; {len(others) - len(there)} not run" * (not is_whole)
    return of.found(answer, says, [label, *there], unlike(of, [label, *there]))
