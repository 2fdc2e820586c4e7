"""The verdict on a group: does propagation wither, does the readout hold, and is either needed?

Three answers, kept apart, each by a fixed rule:

    O1    the paper's Figure 3: propagation withers       holds, fails, undecided      } from the densities,
    O2    the paper's Figure 4: the readout holds         holds, fails, undecided      } RULES
    need  density is not importance: the loss of MRR@20   redundant, needed, undecided   need_answer
          of the model retrained without a role

An answer with a doubt is undecided, whatever the numbers say: `doubts_of_runs`, `doubts_of_noise`, another answer at
another threshold, a role that is dissected in part only.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from analyses import shadowed
from analyses.bootstrap import relative_loss_interval, session_sums
from analyses.coverage import absences, coverage
from analyses.coverage import doubts as doubts_of_coverage
from analyses.density import OTHER_THRESHOLDS, at_step, counted, densities, density, finished
from analyses.sound import each_sound
from dissect.errors import DataError, DissectError
from dissect.runs import files, folders
from dissect.runs.config import Config
from dissect.sparsevd.density import key
from models import MODELS

HOLDS, FAILS, UNDECIDED, NOT_APPLICABLE = "holds", "fails", "undecided", "not applicable"
REDUNDANT, NEEDED = "redundant", "needed"
WITHERED, ALIVE, TIMES_DENSER = 0.05, 0.2, 3.0
NEED_LIMIT = 0.01  # relative loss of MRR@20 below which a role is redundant
FEWEST_SEEDS = 3
CONTROL_LIMIT = 0.05  # density of a useless matrix above which densities tell nothing
MASKED_MRR = 0.98  # of the unmasked MRR@20; below it the mask hides what the weights do
SETTINGS = ("model", "dataset", "protocol", "where", "prior", "noise", "threshold", "kl_weight")  # on record in it
Summaries = list[dict[str, Any]]
Ranks = dict[Path, dict[str, np.ndarray]]  # of runs, as folders.read_ranks gives them


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
        holds=(f"all <= {WITHERED}", lambda propagation: propagation <= WITHERED),
        fails=(f"all > {ALIVE}", lambda propagation: propagation > ALIVE),
    ),
    "O2": Rule(
        ("propagation", "attention"),
        holds=(
            f"attention all > {ALIVE} and at least {TIMES_DENSER:g} times as dense",
            lambda propagation, attention: (attention > ALIVE) & (attention >= TIMES_DENSER * propagation),
        ),
        fails=("attention sparser in every seed", lambda propagation, attention: attention < propagation),
    ),
}


def need_answer(low: float | None, high: float | None) -> str:
    """Redundant if the whole interval of the relative loss is below 1 %, needed if it is above."""
    if low is None or high is None:
        return UNDECIDED
    if high < NEED_LIMIT:
        return REDUNDANT
    return NEEDED if low > NEED_LIMIT else UNDECIDED


def answered(answer: str, reasons: Sequence[str], doubts: Sequence[str] = ()) -> dict[str, Any]:
    """An answer with the reasons for it in words; `figures_say` is the answer before any doubt."""
    return {"answer": UNDECIDED if doubts else answer, "figures_say": answer, "reasons": [*reasons, *doubts]}


def judge(group: Path, judged: np.ndarray | None = None) -> dict[str, Any]:
    """The verdict on the finished runs of a group, also written to its verdict.json.

    `judged` (bool, test prefixes in file order) restricts the question of need to prefixes that can decide it.
    """
    config = folders.group_config(group)
    summaries, table = sound_runs(group, config)
    runs, known = list(summaries), list(summaries.values())
    covered = coverage(runs)
    verdict = {
        "group": group.name,
        **{name: config[name] for name in SETTINGS},
        "steps": config["max_steps"],
        "seeds": [summary["seed"] for summary in known],
        "removable": removable(config["model"], known),
        "accuracy": accuracy(known),
        "checks": checks(known),
        "coverage": covered,
        **observations(group, config, known, table, covered),
        "need": need(group, runs, judged),
    }
    try:
        files.write_json(group / "verdict.json", verdict)
    except DissectError as error:  # read-only runs can be judged too
        print(f"{error.message} The verdict was not saved.", file=sys.stderr)
    return verdict


def observations(
    group: Path, config: dict[str, Any], summaries: Summaries, table: pd.DataFrame, covered: dict[str, Any] | None
) -> dict[str, Any]:
    """The results from densities (density_of): the table, and an answer for each of RULES."""
    if not summaries:
        return {"density": {}} | dict.fromkeys(RULES, answered(UNDECIDED, ["no seed is finished"]))
    if config["where"] == "none":
        why = "the model was trained dense (--where none)"
        return {"density": {}} | dict.fromkeys(RULES, answered(NOT_APPLICABLE, [why]))
    if (table["role"] == "shadow").any():
        return by_shadows(group, config, summaries, table, covered)
    final, threshold = at_step(table), key(config["threshold"])
    doubts = [*doubts_of_runs(final, summaries, threshold), *doubts_of_noise(group, config, final)]
    result: dict[str, Any] = {"density": densities(table, threshold, CONTROL_LIMIT)}
    elsewhere = {t: by_figures(final, t) for t in OTHER_THRESHOLDS}
    for name, (answer, reason) in by_figures(final, threshold).items():
        roles = RULES[name].roles
        if answer == NOT_APPLICABLE:
            result[name] = answered(answer, [reason, *absences(covered, roles)])
            continue
        other = [f"'{said[name][0]}' at t = {t}" for t, said in elsewhere.items() if said[name][0] != answer]
        depends = [f"the answer depends on the threshold: {', '.join(other)}"] if other else []
        result[name] = answered(answer, [reason], [*doubts_of_coverage(covered, roles), *doubts, *depends])
    return result


def by_shadows(
    group: Path, config: dict[str, Any], summaries: Summaries, table: pd.DataFrame, covered: dict[str, Any] | None
) -> dict[str, Any]:
    """`observations` by the rules of shadowed.py: the shadows stand in a column of the table of densities."""
    threshold = key(config["threshold"])
    counts = densities(table, threshold, CONTROL_LIMIT)
    shadows = {(row["matrix"], row["block"]): row["density"] for row in counts["matrices"] if row["role"] == "shadow"}
    counts["matrices"] = [
        {**row, "shadow": shadows.get((f"shadow.{row['matrix']}", row["block"]))}
        for row in counts["matrices"]
        if row["role"] != "shadow"
    ]
    result: dict[str, Any] = {"rules": "shadows", "density": counts}
    for name, (answer, reasons, doubts) in shadowed.observed(group, config, summaries, table).items():
        roles = RULES[name].roles
        if answer == NOT_APPLICABLE:
            result[name] = answered(answer, [*reasons[:1], *absences(covered, roles)])
            continue
        result[name] = answered(
            answer, reasons, [*too_few(len(summaries)), *doubts_of_coverage(covered, roles), *doubts]
        )
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


def too_few(seeds: int) -> list[str]:
    """The doubt if there are fewer seeds than a verdict needs."""
    return [f"only {seeds} seed{'s' * (seeds != 1)}; a verdict needs {FEWEST_SEEDS}"] if seeds < FEWEST_SEEDS else []


def doubts_of_runs(final: pd.DataFrame, summaries: Summaries, threshold: str) -> Iterator[str]:
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
            below = f"below {MASKED_MRR:.0%} of the unmasked {mean:.2f}"
            yield f"seed {seed}: masked weights have MRR@20 {masked:.2f}, {below}"
        best, worst = test["mrr@20"], (summary.get("test_worst_ties") or test)["mrr@20"]
        if worst < MASKED_MRR * best:
            ties = f"MRR@20 is {best:.2f}, but {worst:.2f} with ties counted against the target"
            yield f"seed {seed}: {ties}: many items have the same score"


def doubts_of_noise(group: Path, config: dict[str, Any], final: pd.DataFrame) -> Iterator[str]:
    """Whether a run with one weight sample per step, in the group beside this one, answers the same."""
    if config["noise"] == "weight":
        return
    prefix = group.name.rsplit("-", 1)[0]
    sibling = group.with_name(f"{prefix}-{Config(**{**config, 'noise': 'weight'}).hash}")
    done = finished(sibling)
    other = each_sound([done] if done else [], lambda runs: at_step(counted(runs, sibling, config)), required=False)
    if not other:
        yield "not checked with one weight sample per step: add --noise weight to the same command (one seed is enough)"
        return
    here, there = (by_figures(table, key(config["threshold"])) for table in (final, other[0]))
    for name, (answer, reason) in there.items():
        if answer != here[name][0]:
            yield f"{name} answers '{answer}' with --noise weight ({reason})"


def sound_runs(group: Path, config: dict[str, Any]) -> tuple[dict[Path, dict[str, Any]], pd.DataFrame]:
    """(run -> its summary, their density records) of the finished seeds; the table is empty for a dense group.

    A damaged seed is skipped with a warning. Raises DataError if all are damaged.
    """
    is_sparse = config["where"] != "none"

    def read(run: Path) -> tuple[Path, dict[str, Any]]:
        summary = folders.read_summary(run)
        if is_sparse and not {"masked", "mean"} <= summary.get("checks", {}).keys():
            again = folders.write_again(run)
            raise DataError(f"{run / 'summary.json'} lacks the checks of the masked and the mean weights.", again)
        return run, summary

    sound = dict(each_sound(finished(group), read))
    if not (sound and is_sparse):
        return sound, pd.DataFrame()
    table = counted(list(sound), group, config)
    whole = set(table["seed"])
    return {run: summary for run, summary in sound.items() if summary["seed"] in whole}, table


def accuracy(summaries: Summaries) -> dict[str, Any]:
    """Mean and standard deviation over seeds of the test metrics, also with ties against the target, and of the
    selection bias.
    """
    result: dict[str, Any] = {}
    for part in ("test", "test_worst_ties", "selection_bias"):
        table = pd.DataFrame([summary[part] for summary in summaries if part in summary])
        result[part] = table.mean().to_dict()
        result[f"{part}_sd"] = table.std(ddof=1).to_dict() if len(table) > 1 else {}
    return result


def checks(summaries: Summaries) -> dict[str, dict[str, float]]:
    """Mean over seeds of the quick accuracy checks that all of them have."""
    by_seed = [summary.get("checks", {}) for summary in summaries]
    return {
        name: {m: float(np.mean([given[name][m] for given in by_seed])) for m in ("hr@20", "mrr@20")}
        for name in (by_seed[0] if by_seed else {})
        if all(name in given for given in by_seed)
    }


def removable(model: str, summaries: Summaries) -> list[str]:
    """Roles that the model can be trained without, from its runs or, if they are old, from its class."""
    known = MODELS[model].removable if model in MODELS else ()
    return list(summaries[0].get("removable", known) if summaries else known)


def need(group: Path, full: list[Path], judged: np.ndarray | None) -> dict[str, Any]:
    """For each role that models were retrained without: redundant, needed or undecided, over all seeds and by seed.

    A run whose ranks on test are missing or damaged is skipped with a warning.
    """

    def ranks(runs: list[Path]) -> Ranks:
        return dict(each_sound(runs, lambda run: (run, folders.read_ranks(folders.test_ranks(run))), required=False))

    reduced = {
        name: ranks(finished(group, name))
        for name in folders.variants(group)
        if name not in (folders.FULL, folders.MATCHED)
    }
    of_full = ranks(full) if any(reduced.values()) else {}
    return {
        name.removeprefix("without-"): compare_need(of_full, of_reduced, judged)
        for name, of_reduced in reduced.items()
        if of_full and of_reduced
    }


def compare_need(full: Ranks, reduced: Ranks, judged: np.ndarray | None) -> dict[str, Any]:
    """The answer on need from the ranks of full and of reduced runs. Raises DataError if these rank other prefixes."""
    first, reference = next(iter(full.items()))
    if judged is not None and len(judged) != len(reference["rank"]):
        raise DataError(f"{first} ranks {len(reference['rank']):,} test prefixes, its data set has {len(judged):,}.")
    for path, ranks in [*full.items(), *reduced.items()]:
        if any(not np.array_equal(ranks[name], reference[name]) for name in ("session", "length", "target")):
            raise DataError(f"{path} ranks other test prefixes than {first}.", "Train it again with --force.")

    def sums(those: Ranks) -> np.ndarray:  # of reciprocal ranks: [K seeds, S sessions]
        return np.stack([session_sums(ranks["rank"], ranks["session"], judged)[0] for ranks in those.values()])

    def hit_rate(those: Ranks) -> float:
        hits = [ranks["rank"] <= 20 for ranks in those.values()]
        return float(np.mean([100 * float((hit if judged is None else hit[judged]).mean()) for hit in hits]))

    a, b = sums(full), sums(reduced)
    _, count = session_sums(reference["rank"], reference["session"], judged)
    estimate, low, high = relative_loss_interval(a, b, count)
    doubts = too_few(min(len(full), len(reduced)))
    if estimate is None:
        doubts.insert(0, "the full model ranks nothing: MRR@20 is 0")
    elif low is None:
        doubts.insert(0, "no interval: too few sessions have a target that the full model ranks within 20")
    rows = [{folders.place_of(run)[1]: index for index, run in enumerate(those)} for those in (full, reduced)]
    by_seed = {}
    for seed in (seed for seed in rows[0] if seed in rows[1]):
        loss, *limits = relative_loss_interval(a[[rows[0][seed]]], b[[rows[1][seed]]], count)
        by_seed[seed] = {"answer": need_answer(*limits), "loss": loss, "low": limits[0], "high": limits[1]}
    return {
        **answered(need_answer(low, high), [], doubts),
        "loss": estimate,
        "low": low,
        "high": high,
        "hr@20_full": hit_rate(full),
        "hr@20_reduced": hit_rate(reduced),
        "mrr@20_full": 100 * float(a.sum(1).mean() / max(1, count.sum())),
        "mrr@20_reduced": 100 * float(b.sum(1).mean() / max(1, count.sum())),
        "judged_prefixes": int(count.sum()),
        "by_seed": by_seed,
    }
