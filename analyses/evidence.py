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
from scipy import stats

from analyses import study as studying
from analyses.answers import FAILS, HOLDS, UNDECIDED, too_few
from analyses.compare import Comparison
from analyses.significance import ALPHA, enough_resamples, gains_of_ranks, holm, pairs_table
from analyses.studies import Study
from analyses.study import LONGEST, Job
from dissect.errors import UsageError
from dissect.runs import folders
from dissect.training.evaluation import gains

NOT_RUN = "not run"
PAPER_ALPHA = 0.01  # of the paper's t-tests
LONG = 6  # clicks of a "relatively long" session
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
        is_apart = row["p t-test"] < PAPER_ALPHA if self.protocol == "paper" else row["p bootstrap holm"] <= ALPHA
        return int(np.sign(row["difference"])) if is_apart else 0

    def found(self, answer: str, measured: str, labels: Iterable[str]) -> Finding:
        """The finding from these arms. A fair answer from too few seeds is undecided."""
        rows = self.rows.loc[[label for label in dict.fromkeys(labels) if label in self.rows.index]]
        seeds = rows["seeds"][rows["selection"] != ""]
        doubts = too_few(int(seeds.min())) if len(seeds) and self.protocol == "clean" else []
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


def peaked(of: Evidence, metric: str = "hr@20") -> Finding:
    """Whether accuracy rises from the first x and falls to the last: the best x between them is better than both.

    Which one that is, is read from the same numbers; Holm corrects for all pairs.
    """
    means = at_x(of, metric)
    first, last = ends(of)
    inner = means.drop([x for x in (first, last) if x in means])
    if inner.empty or not {first, last} <= set(means.index):
        return MISSING
    top = means.attrs[inner.idxmax()]
    found = ordered(of, [(top, means.attrs[end], metric) for end in (first, last)])
    return found._replace(measured=f"highest between the ends: {top}. {found.measured}")


def best_at(of: Evidence, x: float, metric: str = "hr@20") -> Finding:
    """Whether accuracy is higher at x than at every other one."""
    label = {arm.x: arm.label for arm in of.study.arms}[x]
    return best(of, label, [arm.label for arm in of.study.arms], [metric])


def worst_at(of: Evidence, x: float, metric: str = "hr@20") -> Finding:
    """Whether accuracy is lower at x than at every other one."""
    label = {arm.x: arm.label for arm in of.study.arms}[x]
    return ordered(of, [(arm.label, label, metric) for arm in of.study.arms if arm.label != label])


def rising(of: Evidence, metric: str = "hr@20") -> Finding:
    """Whether accuracy rises along x: the last is better than the first, and no step goes down significantly."""
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
    return of.found(answer, says, labels)


def growth(of: Evidence, most: float) -> Finding:
    """Whether the time of an epoch grows no faster than the power `most` of x: by the slope of their logarithms."""
    means = at_x(of, "seconds_per_epoch").dropna()
    if len(means) < 3:
        return MISSING
    slope = float(np.polyfit(np.log(means.index.to_numpy(float)), np.log(means.to_numpy()), 1)[0])
    says = (
        f"{means.iloc[0]:.1f} s at {means.index[0]:g}, {means.iloc[-1]:.1f} s at {means.index[-1]:g}: power {slope:.2f}"
    )
    return of.found(HOLDS if slope <= most else FAILS, says, means.attrs.values())


# --- by the length of the session --------------------------------------------------------------------------


def ranks_of(todo: Sequence[Job]) -> dict[str, dict[str, np.ndarray]]:
    """By label: rank [K, P] of its finished seeds, session [P] and length [P]."""
    found: dict[str, dict[str, Any]] = {}
    for job in todo:
        if job.is_done:
            ranks = folders.read_ranks(folders.test_ranks(job.run))
            here = found.setdefault(job.arm.label, {**ranks, "rank": []})
            here["rank"].append(ranks["rank"])
    return {label: {**ranks, "rank": np.stack(ranks["rank"])} for label, ranks in found.items()}


def pairs_by_length(todo: Sequence[Job]) -> dict[tuple[str, int], pd.DataFrame]:
    """`pairs_table` of the arms on the prefixes of each length (LONGEST stands for that and more) and, at 0, of LONG
    clicks or more; columns a and b are labels, and Holm corrects for all lengths together. By (metric, length).
    """
    ranks = ranks_of(todo)
    if len(ranks) < 2:
        return {}
    labels, tables = list(ranks), {}
    lengths = np.minimum(next(iter(ranks.values()))["length"], LONGEST)
    parts = {int(x): lengths == x for x in np.unique(lengths)} | {0: lengths >= LONG}
    tests = len(parts) * len(labels) * (len(labels) - 1)
    for x, here in parts.items():
        session = np.unique(next(iter(ranks.values()))["session"][here], return_inverse=True)[1]
        if session.size and session.max() > 0:  # a single session has no interval
            rows = [gains_of_ranks(of["rank"][:, here], session) for of in ranks.values()]
            tables[x] = pairs_table(rows, np.bincount(session), enough_resamples(tests))
    p = holm(np.concatenate([table["p bootstrap"].to_numpy() for table in tables.values()]))
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
            is_apart = row["p t-test"] < PAPER_ALPHA if of.protocol == "paper" else row["p bootstrap holm"] <= ALPHA
            return turn * int(np.sign(row["difference"])) if is_apart else 0
    return 0


def mostly(of: Evidence, label: str, others: Sequence[str], metrics: Sequence[str], way: int = 1) -> Finding:
    """Whether a row is better (`way` -1: worse) than all others at most lengths.

    Holds if it is significantly at more than half of them, fails if one of the others is the other way at half or more.
    """
    if not {label, *others} <= set(of.rows.index):
        return MISSING
    cells = [(metric, x) for metric in metrics for name, x in of.by_length if name == metric and x]
    signs = [[way * sign_at(of, label, other, metric, x) for other in others] for metric, x in cells]
    ahead, behind = sum(min(each) == 1 for each in signs), sum(min(each) == -1 for each in signs)
    answer = HOLDS if 2 * ahead > len(cells) else FAILS if 2 * behind >= len(cells) else UNDECIDED
    words = ("better", "worse")[::way]
    says = f"{words[0]} than both at {ahead} of {len(cells)} points, {words[1]} than one at {behind}"
    return of.found(answer, says, [label, *others])


def on_long(of: Evidence, a: str, b: str, metric: str = "hr@20") -> Finding:
    """Whether a is better than b on sessions of LONG clicks or more."""
    if not {a, b} <= set(of.rows.index) or (metric, 0) not in of.by_length:
        return MISSING
    sign = sign_at(of, a, b, metric, 0)
    gain = {label: 100 * gains(ranks["rank"][:, ranks["length"] >= LONG], metric).mean() for label, ranks in
            ranks_of(of.todo).items() if label in (a, b)}  # fmt: skip
    says = f"{LONG} clicks or more: {metric.upper()} {a} {gain[a]:.2f}, {b} {gain[b]:.2f}"
    return of.found({1: HOLDS, 0: UNDECIDED, -1: FAILS}[sign], says, [a, b])


def slope(gain: np.ndarray, length: np.ndarray, session: np.ndarray) -> tuple[float, float]:
    """(slope, standard error) of the gain [P] against the length [P], by least squares.

    The error takes the prefixes of one session together (Liang & Zeger 1986): sessions are drawn, not prefixes.
    """
    x = length - length.mean()
    squares = float(x @ x)
    if not squares:
        return 0.0, 0.0
    b = float(x @ gain) / squares
    scores = np.bincount(np.unique(session, return_inverse=True)[1], x * (gain - gain.mean() - b * x))
    return b, float(np.sqrt(scores @ scores)) / squares


def along_length(of: Evidence, labels: Sequence[str], way: int, metrics: Sequence[str]) -> Finding:
    """Whether the accuracy of all arms rises (`way` 1) or falls (-1) with length: holds if all slopes do significantly
    (Holm over them, 0.05), fails if one goes the other way significantly.
    """
    ranks = {label: of_label for label, of_label in ranks_of(of.todo).items() if label in labels}
    if set(ranks) != set(labels):
        return MISSING
    names, found = [], []
    for label, arrays in ranks.items():
        for metric in metrics:
            names.append(f"{label} {metric.upper()}")
            gain = gains(arrays["rank"], metric).mean(0)
            found.append(slope(gain, np.minimum(arrays["length"], LONGEST).astype(float), arrays["session"]))
    b, error = np.array(found).T
    p = holm(2 * stats.norm.sf(np.abs(np.divide(b, error, out=np.zeros_like(b), where=error > 0))))
    signs = way * np.sign(b) * (p <= ALPHA)
    answer = FAILS if (signs < 0).any() else HOLDS if (signs > 0).all() else UNDECIDED
    says = ", ".join(f"{name} {100 * each:+.2f}" for name, each in zip(names, b))
    return of.found(answer, f"points a click: {says}", labels)


# --- time --------------------------------------------------------------------------------------------------


def times_slower(of: Evidence, label: str, others: Sequence[str], least: float) -> Finding:
    """Whether an epoch of a row takes `least` times that of the median other row, or more."""
    there = [other for other in others if other in of.rows.index and other != label]
    if label not in of.rows.index or len(there) < 2:
        return MISSING
    seconds = of.rows["seconds_per_epoch"]
    usual = float(seconds[there].median())
    ratio = float(seconds[label]) / usual
    says = f"{seconds[label]:.1f} s an epoch, the median of {len(there)} others {usual:.1f} s: {ratio:.1f} times"
    return of.found(HOLDS if ratio >= least else FAILS, says, [label, *there])


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
    says = f"{seconds[label]:.1f} s an epoch; the quickest of {len(there)} others, {worst}, {seconds[worst]:.1f} s"
    return of.found(answer, says + f"; {len(others) - len(there)} not run" * (not is_whole), [label, *there])
