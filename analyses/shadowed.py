"""The observations of a verdict where every matrix has a shadow: what it keeps beyond what it would keep by chance.

    density   share of weights kept, of a role in a seed
    shadow    the same of the shadows of its matrices, which are useless by construction and stand at the same places
    excess    density - shadow: what the data pay for

An answer is about the mean excess over seeds, by its 95 % interval (t distribution). Doubts are one-sided: a dense
shadow casts doubt on a role that seems alive, never on one that is empty. An empty role decides only if the run could
have kept it: the dissected model is as good as the matched dense one, and some role of it is alive.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy import stats

from analyses.density import at_step, counted, finished
from dissect.runs import folders
from dissect.runs.config import Config
from dissect.sparsevd.density import key

HOLDS, FAILS, UNDECIDED, NOT_APPLICABLE = "holds", "fails", "undecided", "not applicable"
EMPTY = 0.05  # excess below which a role has withered
ALIVE = 0.2  # excess of a role that shows that the run keeps what it needs
TIMES_DENSER = 3.0
SHADOW_LIMIT = 0.05  # kept by a shadow; above it a high density may be chance
AS_GOOD = 0.98  # of the matched dense model's MRR@20
OTHER_THRESHOLD = "2"


class Excess(NamedTuple):
    """Of one role: by seed, and the 95 % interval of the mean over seeds (None for one seed)."""

    by_seed: pd.Series
    low: float | None
    high: float | None

    @property
    def is_empty(self) -> bool:
        return self.high is not None and self.high <= EMPTY

    @property
    def is_alive(self) -> bool:
        return self.low is not None and self.low > EMPTY


def kept_by_role(final: pd.DataFrame, threshold: str) -> pd.DataFrame:
    """Density, shadow, excess and false (the share of what is kept that chance would keep), by role and seed."""
    whole = final[final["block"] == ""]
    count = f"kept {threshold}"
    shadows = whole[whole["role"] == "shadow"].assign(matrix=lambda t: t["matrix"].str.removeprefix("shadow."))
    own = whole[~whole["role"].isin(["shadow", "control"])]
    both = own.merge(shadows, on=["seed", "matrix"], suffixes=("", " of shadow"))
    sums = both.groupby(["role", "seed"], sort=False)[[count, f"{count} of shadow", "numel"]].sum()
    density, shadow = sums[count] / sums["numel"], sums[f"{count} of shadow"] / sums["numel"]
    false = (shadow / density.where(density > 0)).clip(upper=1.0)
    return pd.DataFrame({"density": density, "shadow": shadow, "excess": density - shadow, "false": false})


def excess_of(kept: pd.DataFrame, role: str) -> Excess:
    values = kept["excess"].xs(role, level="role")
    if len(values) < 2:
        return Excess(values, None, None)
    half = stats.t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values))
    return Excess(values, float(values.mean() - half), float(values.mean() + half))


def by_excess(kept: pd.DataFrame) -> dict[str, tuple[str, str]]:
    """(answer, reason) of both observations, by the numbers alone."""
    roles = set(kept.index.get_level_values("role"))
    answers = {}
    for name, needed in (("O1", ("propagation",)), ("O2", ("propagation", "attention"))):
        if missing := [role for role in needed if role not in roles]:
            answers[name] = (NOT_APPLICABLE, f"no {missing[0]} matrix was sparsified in these runs")
            continue
        first, last = excess_of(kept, needed[0]), excess_of(kept, needed[-1])
        says = "; ".join(f"{role} {_in_words(kept, role)}" for role in needed)
        if name == "O1":
            answer = HOLDS if first.is_empty else FAILS if first.is_alive else UNDECIDED
        else:
            denser = bool((last.by_seed >= TIMES_DENSER * first.by_seed).all())
            sparser = bool((last.by_seed < first.by_seed).all())
            answer = HOLDS if last.is_alive and denser else FAILS if last.is_empty or sparser else UNDECIDED
        answers[name] = (answer, f"kept beyond chance, by seed: {says}")
    return answers


def _in_words(kept: pd.DataFrame, role: str) -> str:
    of_role = kept.xs(role, level="role")
    values = ", ".join(f"{value:.3f}" for value in of_role["excess"])
    return f"{values} (shadows keep {of_role['shadow'].max():.3f} at most)"


def observed(
    group: Path, config: dict[str, Any], summaries: list[dict[str, Any]], table: pd.DataFrame
) -> dict[str, tuple[str, list[str], list[str]]]:
    """(answer, reasons, doubts) of both observations."""
    final, threshold = at_step(table), key(config["threshold"])
    kept = kept_by_role(final, threshold)
    other = by_excess(kept_by_role(final, OTHER_THRESHOLD))
    control = list(doubts_of_empty(group, summaries, kept))
    result = {}
    for name, (answer, reason) in by_excess(kept).items():
        role = "propagation" if name == "O1" else "attention"
        doubts = []
        is_high = answer == (FAILS if name == "O1" else HOLDS)
        if is_high:
            doubts += list(doubts_of_alive(kept, role))
        elif answer in (HOLDS, FAILS):
            doubts += control
        if other[name][0] != answer:
            doubts.append(f"the answer depends on the threshold: '{other[name][0]}' at t = {OTHER_THRESHOLD}")
        missing = []
        for said, changed in siblings(config):
            doubt, note = _sibling(group, config, changed, name, answer, said)
            doubts += doubt
            missing += note
        result[name] = (answer, [reason, *missing], doubts)
    return result


def doubts_of_alive(kept: pd.DataFrame, role: str) -> Iterator[str]:
    """Why a role that seems alive may not be: its shadows keep much too."""
    worst = kept["shadow"].xs(role, level="role").max()
    if worst > SHADOW_LIMIT:
        yield f"the shadows of {role} keep {worst:.3f} (> {SHADOW_LIMIT}): what it keeps may be chance"


def doubts_of_empty(group: Path, summaries: list[dict[str, Any]], kept: pd.DataFrame) -> Iterator[str]:
    """Why a role that is empty may not tell: the run may have kept nothing that it needed."""
    dense = [
        folders.read_summary(run)["test"]["mrr@20"]
        for run in folders.group_runs(group, folders.MATCHED)
        if folders.is_done(run)
    ]
    if not dense:
        yield "no matched dense run is finished: the same command trains it"
    else:
        mine, theirs = np.mean([summary["test"]["mrr@20"] for summary in summaries]), np.mean(dense)
        if mine < AS_GOOD * theirs:
            yield f"MRR@20 is {mine:.2f}, below {AS_GOOD:.0%} of the {theirs:.2f} of the matched dense model"
    roles = kept["excess"].groupby(level="role").mean()
    if roles.max() < ALIVE:
        yield f"no role keeps more than {ALIVE} beyond chance: the KL may be too strong"


def siblings(config: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """The other settings under which the answer should be the same: (in words, what changes)."""
    half = config["kl_weight"] / 2
    found = [(f"--kl-weight {half:g}", {"kl_weight": half})]
    return found if config["noise"] == "weight" else [*found, ("--noise weight", {"noise": "weight"})]


def _sibling(
    group: Path, config: dict[str, Any], changed: dict[str, Any], name: str, answer: str, said: str
) -> tuple[list[str], list[str]]:
    """(doubts, notes): whether the group with these settings, beside this one, answers the same; one seed may do."""
    prefix = group.name.rsplit("-", 1)[0]
    sibling = group.with_name(f"{prefix}-{Config(**{**config, **changed}).hash}")
    done = finished(sibling)
    if not done:
        return [], [f"not run: the same with {said}"]
    kept = kept_by_role(at_step(counted(done, sibling, config)), key(config["threshold"]))
    there = kept["excess"].xs("propagation" if name == "O1" else "attention", level="role")
    is_empty = bool((there <= EMPTY).all())
    was_empty = answer == (HOLDS if name == "O1" else FAILS)
    if answer != UNDECIDED and is_empty != was_empty:
        return [f"with {said} it keeps {', '.join(f'{v:.3f}' for v in there)} beyond chance"], []
    return [], []
