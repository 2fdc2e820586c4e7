"""The observations of a verdict where every matrix has a shadow: what a role keeps beyond its shadows.

    density   share of weights kept, of a role in a seed
    shadow    the same of the shadows of its matrices, which are useless by construction and stand at the same places
    excess    density - shadow: what the data pay for
    false     the share of the weights kept that chance alone would keep (false discoveries): the larger of shadow and
              of what the KL weight lets useless weights keep in theory (null_share), divided by density

A role is alive or withered by the 95 % interval of its mean excess over seeds (t distribution; of one seed, the value).
Doubts are one-sided. False discoveries cast doubt on a role that seems alive, never on a withered one. A withered role
decides only if the run has pruned, and could have kept it: the role and the control without data keep little, the
dissected model is as good as the matched dense one, and some matrix is clearly alive or unseen data need some role.

Few weights may be enough: a role that the trained model clearly uses on unseen data has not withered.

A shadow has other partners at each step. It sees the noise of the gradient, but cannot memorise the training set, as a
useless matrix can: what it keeps is the least that chance keeps. So a role is alive only if the trained model uses it
on unseen data too: with the inputs of other rows in its layers (sparsevd/swapped.py), MRR@20 on test has to fall.
The matrices of a role do more than their name says: self-attention has a map of values too. So the readout holds only
if MRR@20 falls with equal attention weights as well.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from analyses.answers import ALIVE, FAILS, HOLDS, NO_PENALTY, NOT_APPLICABLE, UNDECIDED, WITHERED, answered, too_few
from analyses.coverage import absences
from analyses.coverage import doubts as doubts_of_coverage
from analyses.density import at_step, counted, finished, siblings
from analyses.significance import FEW_SESSIONS, few_sessions
from analyses.training import peak
from dissect.errors import DataError
from dissect.runs import files, folders, records
from dissect.runs.files import AGAIN
from dissect.runs.folders import each_sound
from dissect.sparsevd import rules
from dissect.sparsevd.density import key
from dissect.sparsevd.kl import null_share
from dissect.sparsevd.rules import AS_GOOD, CLEAR, EMPTY, FALL, FALSE_LIMIT, PRUNED
from dissect.text import decimal, percent

TIMES_DENSER = 3.0
OTHER_THRESHOLD = key(rules.OTHER_THRESHOLD)
OBSERVED = {"O1": ("propagation",), "O2": ("propagation", "attention")}
EQUAL = "attention_uniform"  # the check that gives all clicks the same attention weight
OPPOSITE = {ALIVE: WITHERED, WITHERED: ALIVE, HOLDS: FAILS, FAILS: HOLDS}


class Excess(NamedTuple):
    """Of one role: by seed, and the 95 % interval of the mean over seeds (None for one seed)."""

    by_seed: pd.Series
    low: float | None
    high: float | None

    @property
    def least(self) -> float:
        """The lower end of the interval; of one seed, its value."""
        return float(self.by_seed.mean()) if self.low is None else self.low

    @property
    def says(self) -> str:
        """Alive, withered or undecided, by the numbers alone; of one seed, by its value."""
        return rules.by_excess(self.least, self.least if self.high is None else self.high)


def kept_by_role(final: pd.DataFrame, threshold: str, by: str = "role", null: float = 0.0) -> pd.DataFrame:
    """density, shadow, excess and false, by role (or `by` matrix) and seed; matrices weighted by their weights.

    `null` is what useless weights keep in theory; false is NaN where nothing is kept.
    """
    whole = final[final["block"] == ""]
    count = f"kept {threshold}"
    shadows = whole[whole["role"] == "shadow"].assign(matrix=lambda t: t["matrix"].str.removeprefix("shadow."))
    own = whole[~whole["role"].isin(["shadow", "control"])]
    both = own.merge(shadows, on=["seed", "matrix"], suffixes=("", " of shadow"))
    if len(both) < len(own):
        raise DataError(f"{len(own) - len(both)} matrices lack their shadow in density.jsonl.", AGAIN)
    sums = both.groupby([by, "seed"], sort=False)[[count, f"{count} of shadow", "numel"]].sum()
    density, shadow = sums[count] / sums["numel"], sums[f"{count} of shadow"] / sums["numel"]
    false = (shadow.clip(lower=null) / density.where(density > 0)).clip(upper=1.0)
    return pd.DataFrame({"density": density, "shadow": shadow, "excess": density - shadow, "false": false})


def excess_of(kept: pd.DataFrame, role: str) -> Excess:
    """The excess of a role in `kept` (of kept_by_role), with its interval if there are two seeds or more."""
    return over_seeds(kept["excess"].xs(role, level="role"))


def over_seeds(values: pd.Series) -> Excess:
    """Values by seed with the 95 % interval of their mean."""
    return Excess(values, *(rules.interval(list(values)) or (None, None)))


def roles_of(kept: pd.DataFrame) -> list[str]:
    """The roles of `kept`, in the order of the record."""
    return list(dict.fromkeys(kept.index.get_level_values("role")))


def sure(final: pd.DataFrame, config: dict[str, Any], summaries: list[dict[str, Any]]) -> dict[str, str]:
    """`by_excess`, undecided where another threshold answers otherwise, or no unseen data need what seems alive."""
    kept = kept_by_role(final, key(config["threshold"]))
    answers, other = by_excess(kept), by_excess(kept_by_role(final, OTHER_THRESHOLD))
    doubted = {role for role in roles_of(kept) if (fall := falls(summaries, f"swapped_{role}")) and fall.least <= FALL}

    equal = falls(summaries, EQUAL)
    doubted |= {"O2"} if equal and equal.least <= FALL else set()

    def is_sure(name: str) -> bool:
        doubts = {living(name, answers)} | ({name} if answers[name] == HOLDS else set())
        is_used = used(withering(name, answers), summaries)
        return other[name] == answers[name] and not doubts & doubted and not is_used

    return {name: answer if is_sure(name) else UNDECIDED for name, answer in answers.items()}


def living(name: str, answers: dict[str, str]) -> str | None:
    """The role that has to be alive for the answer of `by_excess` to a role or a question; None if there is none.

    O2 may fail only because attention keeps less than propagation: then it is propagation that has to be alive.
    """
    if name == "O2":
        is_sparser = answers[name] == FAILS and answers["attention"] != WITHERED
        return "attention" if answers[name] == HOLDS else "propagation" if is_sparser else None
    return OBSERVED.get(name, (name,))[-1] if answers[name] in (ALIVE, FAILS) else None


def withering(name: str, answers: dict[str, str]) -> str | None:
    """The role that has to be withered for the answer of `by_excess` to a role or a question; None if there is none."""
    role = OBSERVED.get(name, (name,))[-1]
    return role if answers[name] in (WITHERED, HOLDS, FAILS) and answers[role] == WITHERED else None


def used(role: str | None, summaries: list[dict[str, Any]]) -> Excess | None:
    """The fall of MRR@20 if the inputs of a role are swapped, where unseen data clearly need it; else None."""
    fall = falls(summaries, f"swapped_{role}")
    return fall if fall and fall.least > FALL else None


def null_of(config: dict[str, Any]) -> float:
    """What useless weights keep in theory (null_share); 0 where there is none: for another prior, and for rows and
    columns, over whose weights z^2 is averaged.
    """
    is_known = config["prior"] == "log-uniform" and config["unit"] == "weight"
    return null_share(config["kl_weight"], config["threshold"]) if is_known else 0.0


def by_excess(kept: pd.DataFrame) -> dict[str, str]:
    """The answer for each role, and to O1 and O2, by the numbers alone."""
    found = {role: excess_of(kept, role) for role in roles_of(kept)}
    answers = {role: excess.says for role, excess in found.items()}
    propagation, attention = (found.get(role) for role in OBSERVED["O2"])
    first = answers.get("propagation", NOT_APPLICABLE)
    result = {**answers, "O1": {WITHERED: HOLDS, ALIVE: FAILS}.get(first, first), "O2": NOT_APPLICABLE}
    if propagation is not None and attention is not None:
        denser = bool((attention.by_seed >= TIMES_DENSER * propagation.by_seed).all())
        sparser = less_by(found).least > 0
        is_held, is_failed = attention.says == ALIVE and denser, attention.says == WITHERED or sparser
        result["O2"] = FAILS if is_failed else HOLDS if is_held else UNDECIDED
    return result


def less_by(found: Mapping[str, Excess]) -> Excess:
    """How much less attention keeps beyond its shadows than propagation, of the excess by role."""
    return over_seeds(found["propagation"].by_seed - found["attention"].by_seed)


def unclear(name: str, kept: pd.DataFrame) -> str:
    """Why the numbers alone decide nothing for a role or a question."""
    found = {role: excess_of(kept, role) for role in roles_of(kept)}
    role = OBSERVED.get(name, (name,))[-1]
    if name == "O2" and found[role].says != UNDECIDED:
        return f"attention keeps neither clearly less than propagation nor {TIMES_DENSER:g} times as much in each seed"
    low, high = found[role].low, found[role].high
    assert low is not None and high is not None  # one seed is above the limit or below it
    span = f"{decimal(low)} to {decimal(high)} (95 %)"
    return f"the excess of {role} is {span}, on both sides of the limit: train more seeds"


def observed(
    group: Path,
    config: dict[str, Any],
    summaries: list[dict[str, Any]],
    table: pd.DataFrame,
    covered: dict[str, Any] | None,
) -> dict[str, Any]:
    """O1 and O2 with reasons and doubts; `roles` with the answer and the numbers of each; `matched`, the MRR@20 of the
    matched dense models in percent, and that of the dissected ones of the same `seeds` (None without one); `not_run`,
    the checks to run.
    """
    final, threshold = at_step(table), key(config["threshold"])
    kept = kept_by_role(final, threshold, null=null_of(config))
    here, at_other = by_excess(kept), by_excess(kept_by_role(final, OTHER_THRESHOLD))
    others, not_run = _siblings(group, config)
    dense = matched_mrr(group)
    common = [*too_few(len(summaries)), *too_few_sessions(group)]

    course = cache(partial(peak, finished(group)))

    @cache
    def control(may_lower: bool) -> list[str]:
        found = list(doubts_of_withered(summaries, dense, final, kept, threshold, course, may_lower))
        return found if config["kl_weight"] else [NO_PENALTY]

    def doubts(name: str, roles: Sequence[str]) -> list[str]:
        answer, found = here[name], [*common, *doubts_of_coverage(covered, tuple(roles))]
        found += [unclear(name, kept)] if answer == UNDECIDED else []
        if role := living(name, here):
            fall = falls(summaries, f"swapped_{role}")
            found += doubts_of_alive(kept, role, fall) if config["kl_weight"] else [NO_PENALTY]
        if name == "O2" and answer == HOLDS:
            found += doubts_of_weights(falls(summaries, EQUAL))
        if fall := used(sparse := withering(name, here), summaries):
            lost = percent(-fall.by_seed.mean(), 1, "+")
            why = f"(MRR@20 changes by {lost} with swapped inputs)"
            is_sparse = kept["density"].xs(sparse, level="role").max() <= PRUNED
            keeps = "few weights" if is_sparse else "little more than its shadows"
            found.append(f"unseen data need {sparse}, though it keeps {keeps} {why}: retraining without it decides")
        if answer == WITHERED or (name, answer) in (("O1", HOLDS), ("O2", FAILS)):
            found += too_dense(kept, roles[-1]) if here[roles[-1]] == WITHERED and config["kl_weight"] else []
            may_lower = role is None or not is_by_chance(kept, role)
            found += [doubt for doubt in control(may_lower) if doubt not in found]
        if UNDECIDED != answer != at_other[name]:
            found.append(f"the answer depends on the threshold: '{at_other[name]}' at t = {OTHER_THRESHOLD}")
        against = [option for option, there in others.items() if there.get(name) == OPPOSITE.get(answer, "none")]
        return [*found, *(f"the answer depends on {option}: '{others[option][name]}' there" for option in against)]

    both = [summary for summary in summaries if summary["seed"] in dense]
    matched = {
        "mrr@20": float(np.mean([dense[summary["seed"]] for summary in both])) if both else None,
        "mrr@20_dissected": float(np.mean([summary["test"]["mrr@20"] for summary in both])) if both else None,
        "seeds": [summary["seed"] for summary in both],
    }
    result: dict[str, Any] = {"not_run": not_run, "matched": matched, "roles": {}}
    for name, roles in OBSERVED.items():
        if here[name] == NOT_APPLICABLE:
            absent = next(role for role in roles if role not in here)
            reason = f"no {absent} matrix was sparsified in these runs"
            result[name] = answered(NOT_APPLICABLE, [reason, *absences(covered, roles)])
        else:
            is_alone = name == "O1" or here["attention"] == WITHERED  # else it is set beside propagation
            reasons = [in_words(kept, role) for role in ((roles[-1],) if is_alone else reversed(roles))]
            if name == "O2" and here[name] == FAILS and not is_alone:
                less = less_by({role: excess_of(kept, role) for role in roles_of(kept)})
                ends = [decimal(end) for end in (less.low, less.high) if end is not None]
                span = f" (by {' to '.join(ends)})" if ends else ""
                reasons.insert(0, f"attention keeps less than propagation{span}")
            result[name] = answered(here[name], reasons, doubts(name, roles))
    for role in roles_of(kept):
        of_role, excess = kept.xs(role, level="role"), excess_of(kept, role)
        means = of_role[["density", "shadow", "excess", "false"]].mean()
        numbers = {name: None if np.isnan(value) else float(value) for name, value in means.items()}
        by_seed = dict(zip(map(str, of_role.index), map(float, of_role["excess"])))
        answer = answered(here[role], [in_words(kept, role)], doubts(role, (role,)))
        fall = falls(summaries, f"swapped_{role}")
        numbers["swapped"] = None if fall is None else float(fall.by_seed.mean())
        result["roles"][role] = {**answer, **numbers, "low": excess.low, "high": excess.high, "by_seed": by_seed}
    return result


def too_few_sessions(group: Path) -> Iterator[str]:
    """The doubt if the test part has fewer sessions than a statement about others needs."""
    there = group / "data.json"
    parts = files.read_json(there, records.Parts, "Put back what was there.") if there.exists() else {}
    sessions = parts["test"]["sessions"] if "test" in parts else FEW_SESSIONS
    if sessions < FEW_SESSIONS:
        yield few_sessions(sessions)


def in_words(kept: pd.DataFrame, role: str) -> str:
    """The excess of a role by seed, beside the limit."""
    return f"excess of {role}: {', '.join(map(decimal, excess_of(kept, role).by_seed))} (limit {EMPTY})"


def falls(summaries: list[dict[str, Any]], check: str) -> Excess | None:
    """The share of MRR@20 that the trained model loses in a check ("swapped_<role>"); None if it was not made."""
    found = {}
    for summary in summaries:
        checks = summary.get("checks", {})
        if check in checks:
            whole = checks["masked"]["mrr@20"]
            found[summary["seed"]] = 1 - checks[check]["mrr@20"] / whole if whole else 0.0
    return over_seeds(pd.Series(found)) if found else None


def is_by_chance(kept: pd.DataFrame, role: str) -> bool:
    """Whether chance would keep too much of what a role keeps, in some seed."""
    return bool(kept["false"].xs(role, level="role").max() > FALSE_LIMIT)


def doubts_of_alive(kept: pd.DataFrame, role: str, fall: Excess | None) -> Iterator[str]:
    """Why a role that seems alive may not be: chance would keep as much, or only the training set needs it."""
    worst = kept["false"].xs(role, level="role").max()
    if is_by_chance(kept, role):
        limit = f"(> {percent(FALSE_LIMIT, 0)})"
        digits = int(round(worst, 2) <= FALSE_LIMIT)  # 10.2 %, not "10 % (> 10 %)"
        yield f"chance would keep {percent(worst, digits)} of what {role} keeps {limit}: raise --kl-weight"
    if fall is None:
        yield f"no run swapped the inputs of {role}: an earlier version trained them"
    elif fall.least <= FALL:
        yield f"unseen data may not need {role}: {change(fall, 'with swapped inputs')}"


def doubts_of_weights(fall: Excess | None) -> Iterator[str]:
    """Why a readout whose matrices are alive may not attend: all clicks could have equal weights."""
    if fall is None:
        yield "no run gave all clicks equal weights: an earlier version trained them, or the model has no such part"
    elif fall.least <= FALL:
        yield f"unseen data may not need the attention weights: {change(fall, 'if they are equal')}"


def change(fall: Excess, how: str) -> str:
    """How MRR@20 changes in a check, beside what is asked and the interval."""
    low, high = (None, None) if fall.low is None or fall.high is None else (-fall.high, -fall.low)
    between = "" if low is None or high is None else f", {percent(low, 1, '+')} to {percent(high, 1, '+')}"
    return f"MRR@20 changes by {percent(-fall.by_seed.mean(), 1, '+')} {how} ({percent(-FALL, 0)} is asked{between})"


def too_dense(kept: pd.DataFrame, role: str) -> Iterator[str]:
    """Why a role that seems withered is not: it and its shadows keep much, since little was pruned."""
    most = kept["density"].xs(role, level="role").max()
    if most > PRUNED:
        yield f"{role} still keeps {most:.3f} (> {PRUNED}), as its shadows do: too little was pruned; train longer"


def doubts_of_withered(
    summaries: list[dict[str, Any]],
    dense: dict[int, float],
    final: pd.DataFrame,
    kept: pd.DataFrame,
    threshold: str,
    course: Callable[[], tuple[float, float, float] | None],
    may_lower: bool,
) -> Iterator[str]:
    """Why a role that seems withered may not tell: the run may not have pruned, or kept nothing that it needed.

    `kept` is that of kept_by_role; `dense` is the MRR@20 of the matched dense models by seed, in percent; only seeds of
    both are compared. `course` gives that of `peak`. Without `may_lower`, another doubt asks for a higher KL weight, so
    none asks for a lower one.
    """
    idle = final[(final["matrix"] == "control.kl_only") & (final["block"] == "")]
    if len(idle) and (most := (idle[f"kept {threshold}"] / idle["numel"]).max()) > PRUNED:
        yield f"control.kl_only, which no data reach, still keeps {most:.3f} (> {PRUNED}): train longer"
    mine = {summary["seed"]: summary["test"]["mrr@20"] for summary in summaries}
    both = sorted(mine.keys() & dense.keys())
    if not both:
        yield "no matched dense run is finished: the same `dissect run` trains it"
    else:
        own, other = (float(np.mean([values[seed] for seed in both])) for values in (mine, dense))
        if own < AS_GOOD * other:
            below = f"below {percent(AS_GOOD, 0)} of the {other:.2f} of the matched dense model"
            yield f"MRR@20 is {own:.2f}, {below}: {against_loss(course(), may_lower)}"
    clearest = kept_by_role(final, threshold, by="matrix")["excess"].groupby(level="matrix").mean().max()
    of_roles = [falls(summaries, f"swapped_{role}") for role in roles_of(kept)]
    if clearest < CLEAR and not any(fall and fall.least > FALL for fall in of_roles):
        yield (
            f"no matrix keeps more than {CLEAR} beyond its shadow, and unseen data need no role: nothing shows that the"
            " run keeps what it needs"
        )


def against_loss(course: tuple[float, float, float] | None, may_lower: bool) -> str:
    """What to try against a lower accuracy than that of the dense model, by the `course` on validation (`peak`)."""
    best, last, lost = course or (0.0, 1.0, 0.0)  # of an earlier version: nothing is known
    if lost > 1 - AS_GOOD:
        return f"it overfits, so lower --epochs (best on validation after {best:.1f} of {last:.1f})"
    ways = ["train longer"] * (best == last) + ["lower --kl-weight"] * may_lower
    return ", or ".join(ways) or "see `dissect plot training`"


def matched_mrr(group: Path) -> dict[int, float]:
    """MRR@20 on test of the matched dense runs, by seed."""
    found = each_sound(finished(group, folders.MATCHED), folders.read_summary, required=False)
    return {summary["seed"]: float(summary["test"]["mrr@20"]) for summary in found}


def _siblings(group: Path, config: dict[str, Any]) -> tuple[dict[str, dict[str, str]], list[str]]:
    """(what other settings answer, by the option in words; the options not run). None should say the opposite."""
    half = config["kl_weight"] / 2
    changes: dict[str, dict[str, Any]] = {f"--kl-weight {half:.15g}": {"kl_weight": half}} if half else {}
    if config["noise"] != "weight":
        changes["--noise weight"] = {"noise": "weight"}
    answers, not_run = {}, []

    for option, changed in changes.items():
        there = {**config, **changed}

        def answers_of(of: tuple[Path, list[Path]], there: dict[str, Any] = there) -> dict[str, str]:
            other, runs = of
            summaries = each_sound(runs, folders.read_summary, required=False)
            return sure(at_step(counted(runs, other, there)), there, summaries)

        if read := each_sound(siblings(group, config, **changed), answers_of, required=False):
            answers[option] = read[0]
        else:
            not_run.append(option)
    return answers, not_run
