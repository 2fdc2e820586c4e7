"""The observations of a verdict by the densities alone, where no matrix has a shadow: the paper's own question.

An answer with a doubt is undecided, whatever the numbers say: `doubts_of_runs`, `doubts_of_noise`, another answer at
another threshold, a role that is dissected in part only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from analyses.answers import FAILS, HOLDS, NO_PENALTY, NOT_APPLICABLE, UNDECIDED, answered, too_few
from analyses.coverage import absences
from analyses.coverage import doubts as doubts_of_coverage
from analyses.density import OTHER_THRESHOLDS, at_step, counted, density, siblings
from dissect.runs.folders import each_sound
from dissect.sparsevd.density import key

WITHERED_AT, ALIVE_FROM, TIMES_DENSER = 0.05, 0.2, 3.0
CONTROL_LIMIT = 0.05  # density of a useless matrix above which densities tell nothing
MASKED_MRR = 0.98  # of the unmasked MRR@20; below it the mask hides what the weights do


class Rule(NamedTuple):
    """An observation about the densities of `roles`: it holds, or fails, if the test is true in every seed.

    `holds` and `fails` are (words, test of the densities by seed). Otherwise the observation is undecided.
    """

    roles: tuple[str, ...]
    holds: tuple[str, Callable[..., pd.Series]]
    fails: tuple[str, Callable[..., pd.Series]]


RULES = {
    "O1": Rule(
        ("propagation",),
        holds=(f"all <= {WITHERED_AT}", lambda propagation: propagation <= WITHERED_AT),
        fails=(f"all > {ALIVE_FROM}", lambda propagation: propagation > ALIVE_FROM),
    ),
    "O2": Rule(
        ("propagation", "attention"),
        holds=(
            f"attention all > {ALIVE_FROM} and at least {TIMES_DENSER:g} times as dense",
            lambda propagation, attention: (attention > ALIVE_FROM) & (attention >= TIMES_DENSER * propagation),
        ),
        fails=("attention sparser in every seed", lambda propagation, attention: attention < propagation),
    ),
}


def observed(
    group: Path,
    config: dict[str, Any],
    summaries: list[dict[str, Any]],
    table: pd.DataFrame,
    covered: dict[str, Any] | None,
) -> dict[str, dict[str, Any]]:
    """The answer to each of RULES, with reasons and doubts."""
    final, threshold = at_step(table), key(config["threshold"])
    doubts = [*doubts_of_runs(final, summaries, threshold), *doubts_of_noise(group, config, final)]
    if not config["kl_weight"]:
        doubts.insert(0, NO_PENALTY)
    elsewhere = {t: by_figures(final, t) for t in OTHER_THRESHOLDS}
    result = {}
    for name, (answer, reason) in by_figures(final, threshold).items():
        roles = RULES[name].roles
        if answer == NOT_APPLICABLE:
            result[name] = answered(answer, [reason, *absences(covered, roles)])
            continue
        other = [f"'{said[name][0]}' at t = {t}" for t, said in elsewhere.items() if said[name][0] != answer]
        depends = [f"the answer depends on the threshold: {', '.join(other)}"] if other else []
        result[name] = answered(answer, [reason], [*doubts_of_coverage(covered, roles), *doubts, *depends])
    return result


def by_figures(final: pd.DataFrame, threshold: str) -> dict[str, tuple[str, str]]:
    """(answer, reason) of each rule at a threshold, by the densities alone."""
    roles = density(final, ["seed", "role"], f"kept {threshold}").unstack("role")
    answers = {}
    for name, (needed, (held, holds), (failed, fails)) in RULES.items():
        if missing := [role for role in needed if role not in roles]:
            answers[name] = (NOT_APPLICABLE, f"no {missing[0]} matrix was sparsified in these runs")
            continue
        values = [roles[role] for role in needed]
        answer, says = UNDECIDED, f"neither {held} nor {failed}"
        if holds(*values).all():
            answer, says = HOLDS, held
        elif fails(*values).all():
            answer, says = FAILS, failed
        by_seed = "; ".join(f"{role} {_list(roles[role])}" for role in needed)
        answers[name] = (answer, f"density by seed: {by_seed}: {says}")
    return answers


def _list(values: pd.Series) -> str:
    return ", ".join(f"{value:.3f}" for value in values)


def doubts_of_runs(final: pd.DataFrame, summaries: list[dict[str, Any]], threshold: str) -> Iterator[str]:
    """Reasons why these runs cannot decide O1 or O2, whatever their densities; empty if there are none."""
    yield from too_few(len(summaries))
    controls = final[final["role"] == "control"]
    for matrix, by_seed in density(controls, ["matrix", "seed"], f"kept {threshold}").groupby("matrix", sort=False):
        if len(high := by_seed[by_seed > CONTROL_LIMIT]):
            yield f"{matrix}, which is useless by construction, still has density {_list(high)} (> {CONTROL_LIMIT})"
    for summary in summaries:
        seed, test, by_weights = summary["seed"], summary["test"], summary["checks"]
        masked, mean = by_weights["masked"]["mrr@20"], by_weights["mean"]["mrr@20"]
        if masked < MASKED_MRR * mean:
            below = f"below {100 * MASKED_MRR:.0f} % of the unmasked {mean:.2f}"
            yield f"seed {seed}: masked weights have MRR@20 {masked:.2f}, {below}"
        best, worst = test["mrr@20"], (summary.get("test_worst_ties") or test)["mrr@20"]
        if worst < MASKED_MRR * best:
            ties = f"MRR@20 is {best:.2f}, but {worst:.2f} with ties counted against the target"
            yield f"seed {seed}: {ties}: many items have the same score"


def doubts_of_noise(group: Path, config: dict[str, Any], final: pd.DataFrame) -> Iterator[str]:
    """Whether a run with one weight sample per step, in the group beside this one, answers the same."""
    if config["noise"] == "weight":
        return
    there = siblings(group, config, noise="weight")
    other = each_sound(there, lambda of: at_step(counted(of[1], of[0], config)), required=False)
    if not other:
        yield "not checked with one weight sample per step: add --noise weight to the same command (one seed is enough)"
        return
    here, by_weight = (by_figures(table, key(config["threshold"])) for table in (final, other[0]))
    for name, (answer, reason) in by_weight.items():
        if answer != here[name][0]:
            yield f"{name} answers '{answer}' with --noise weight ({reason})"
