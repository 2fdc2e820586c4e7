"""The verdict on a group: does propagation wither, does the readout hold, and is either needed?

Three answers, kept apart, each holds / fails / undecided by fixed rules:

    O1    the paper's Figure 3: density of the propagation matrices <= 0.05 in every seed; fails above 0.2
    O2    the paper's Figure 4: density of attention > 0.2 and >= 3 x that of propagation; fails below it
    need  density is not importance: the loss of MRR@20 of the model retrained without a role

and the reasons for which an answer is undecided whatever the figures say; one is that a role is dissected in part only.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from analyses.bootstrap import relative_loss_interval, session_sums
from analyses.coverage import absences, coverage
from analyses.coverage import doubts as doubts_of_coverage
from analyses.density import at_step, beyond_control, density, density_of
from dissect.errors import DataError, DissectError
from dissect.runs import files, folders
from dissect.runs.config import Config
from dissect.sparsevd.density import key
from models import MODELS

HOLDS, FAILS, UNDECIDED, NOT_APPLICABLE = "holds", "fails", "undecided", "not applicable"
REDUNDANT, NEEDED = "redundant", "needed"
WITHERED, ALIVE = 0.05, 0.2
TIMES_DENSER = 3.0
NEED_LIMIT = 0.01  # relative loss of MRR@20 below which a role is redundant
MASKED_MRR = 0.98  # of the unmasked MRR@20, below which the mask hides what the weights do
CONTROL_LIMIT = 0.05
FEWEST_SEEDS = 3
OTHER_THRESHOLDS = ("2", "4")
RESTS_ON = {"O1": ("propagation",), "O2": ("propagation", "attention")}  # the roles whose densities an answer compares
Ranks = dict[Path, dict[str, np.ndarray]]  # of runs, as folders.read_ranks gives them


@dataclass
class Answer:
    """An answer with the reasons for it in words; `figures_say` is the answer before any doubt."""

    answer: str
    reasons: list[str] = field(default_factory=list)
    figures_say: str = ""

    def to_dict(self) -> dict[str, Any]:
        return {
            "answer": self.answer,
            "figures_say": self.figures_say or self.answer,
            "reasons": self.reasons,
        }


def judge(group: Path, judged: np.ndarray | None = None) -> dict[str, Any]:
    """The verdict on the finished runs of a group, also written to its verdict.json.

    `judged` (bool, test prefixes in file order) restricts the question of need to prefixes that can decide it.
    """
    config = folders.group_config(group)
    finished, summaries, table = sound_runs(group, config)
    verdict: dict[str, Any] = {
        "group": group.name,
        "model": config["model"],
        "dataset": config["dataset"],
        "protocol": config["protocol"],
        "where": config["where"],
        "prior": config["prior"],
        "noise": config["noise"],
        "threshold": config["threshold"],
        "kl_weight": config["kl_weight"],
        "steps": config["max_steps"],
        "seeds": [summary["seed"] for summary in summaries],
        "removable": removable(config["model"], summaries),
        "accuracy": accuracy(summaries),
        "checks": checks(summaries),
        "coverage": coverage(finished),
        "density": {},
        "O1": Answer(UNDECIDED, ["no seed is finished"]).to_dict(),
        "O2": Answer(UNDECIDED, ["no seed is finished"]).to_dict(),
        "need": need(group, finished, judged),
    }
    if summaries and config["where"] != "none":
        verdict |= judge_density(group, config, summaries, table, verdict["coverage"])
    elif summaries:
        verdict["O1"] = verdict["O2"] = Answer(NOT_APPLICABLE, ["the model was trained dense (--where none)"]).to_dict()
    try:
        files.write_json(group / "verdict.json", verdict)
    except DissectError as error:  # runs that may only be read can be judged all the same
        print(f"{error.message} The verdict is not kept there.", file=sys.stderr)
    return verdict


def sound_runs(group: Path, config: dict[str, Any]) -> tuple[list[Path], list[dict[str, Any]], pd.DataFrame]:
    """(runs, their summaries, their density records) of the finished seeds; the table is empty for a dense group.

    A damaged seed is left out, and said. Raises DataError where all are damaged.
    """
    done = [run for run in folders.group_runs(group) if folders.is_done(run)]
    is_sparse, table = config["where"] != "none", pd.DataFrame()
    sound, damaged = dict[Path, dict[str, Any]](), list[DataError]()
    for run in done:
        try:
            summary = folders.read_summary(run)
            if is_sparse and not {"masked", "mean"} <= summary.get("checks", {}).keys():
                again = folders.write_again(run)
                raise DataError(f"{run / 'summary.json'} lacks the checks of the masked and the mean weights.", again)
            sound[run] = summary
        except DataError as error:
            damaged.append(error)
    folders.leave_out(damaged, is_all=not sound)
    if sound and is_sparse:
        table = counted(list(sound), group, config)
        whole = set(table["seed"])
        sound = {run: summary for run, summary in sound.items() if summary["seed"] in whole}
    return list(sound), list(sound.values()), table


def counted(found: list[Path], group: Path, config: dict[str, Any]) -> pd.DataFrame:
    """`density_of` some runs. Raises DataError where it lacks a threshold that a verdict asks for."""
    table = density_of(found, group)
    lacking = [t for t in (key(config["threshold"]), *OTHER_THRESHOLDS) if f"kept {t}" not in table]
    if lacking:
        raise DataError(f"{group} has no counts of the weights with log α below {', '.join(lacking)}.", files.AGAIN)
    return table


def judge_density(
    group: Path,
    config: dict[str, Any],
    summaries: list[dict[str, Any]],
    table: pd.DataFrame,
    covered: dict[str, Any] | None,
) -> dict[str, Any]:
    """The parts of a verdict that come from densities (density_of): the table, O1 and O2."""
    final = at_step(table)
    threshold = key(config["threshold"])
    doubts = [*doubts_of_runs(final, summaries, threshold), *doubt_of_noise(group, config, final)]
    result = {"density": densities(final, threshold) | {"before_decay": by_role(at_step(table, 0.8), threshold)}}
    elsewhere = {t: answers(final, t) for t in OTHER_THRESHOLDS}
    for index, (name, given) in enumerate(zip(("O1", "O2"), answers(final, threshold))):
        other = [
            f"'{said[index].answer}' at t = {t}" for t, said in elsewhere.items() if said[index].answer != given.answer
        ]
        reasons = doubts_of_coverage(covered, RESTS_ON[name]) + doubts
        reasons += [f"another answer at another threshold: {', '.join(other)}"] * bool(other)
        if given.answer == NOT_APPLICABLE:
            given.reasons.extend(absences(covered, RESTS_ON[name]))
        result[name] = _doubted(given, reasons).to_dict()
    return result


def _doubted(given: Answer, doubts: list[str]) -> Answer:
    """An answer that is undecided where there are doubts, whatever the figures say."""
    if given.answer == NOT_APPLICABLE:
        return given
    if given.answer == UNDECIDED or not doubts:
        return Answer(given.answer, given.reasons + doubts, given.answer)
    return Answer(UNDECIDED, [f"by the figures it {given.answer}", *given.reasons, *doubts], given.answer)


def answers(final: pd.DataFrame, threshold: str) -> tuple[Answer, Answer]:
    """(O1, O2) at a threshold, by the figures alone."""
    roles = density(final, ["seed", "role"], f"kept {threshold}").unstack("role")
    if "propagation" not in roles:
        missing = "no propagation matrix was sparsified in these runs"
        return Answer(NOT_APPLICABLE, [missing]), Answer(NOT_APPLICABLE, [missing])
    propagation = roles["propagation"]
    figures = f"density of propagation by seed: {_list(propagation)}"
    if (propagation <= WITHERED).all():
        first = Answer(HOLDS, [f"{figures}; all <= {WITHERED}"])
    elif (propagation > ALIVE).all():
        first = Answer(FAILS, [f"{figures}; all > {ALIVE}"])
    else:
        first = Answer(UNDECIDED, [f"{figures}; neither all <= {WITHERED} nor all > {ALIVE}"])
    if "attention" not in roles:
        return first, Answer(NOT_APPLICABLE, ["no attention matrix was sparsified in these runs"])
    attention = roles["attention"]
    figures = f"attention {_list(attention)} against propagation {_list(propagation)}"
    if ((attention >= TIMES_DENSER * propagation) & (attention > ALIVE)).all():
        second = Answer(HOLDS, [figures])
    elif (attention < propagation).all():
        second = Answer(FAILS, [f"{figures}: attention is the sparser one"])
    else:
        second = Answer(
            UNDECIDED, [f"{figures}: neither {TIMES_DENSER:g} times as dense and above {ALIVE}, nor sparser"]
        )
    return first, second


def _list(values: pd.Series) -> str:
    return ", ".join(f"{value:.3f}" for value in values)


def doubts_of_runs(final: pd.DataFrame, summaries: list[dict[str, Any]], threshold: str) -> list[str]:
    """Why the densities of these runs decide nothing, whatever they are; empty where they may."""
    doubts = []
    if len(summaries) < FEWEST_SEEDS:
        doubts.append(f"{len(summaries)} seed{'s' * (len(summaries) != 1)}; it takes {FEWEST_SEEDS}")
    controls = final[final["role"] == "control"]
    for matrix, by_seed in density(controls, ["matrix", "seed"], f"kept {threshold}").groupby("matrix", sort=False):
        high = by_seed[by_seed > CONTROL_LIMIT]
        if len(high):
            doubts.append(
                f"{matrix}, which is useless by construction, still has density {_list(high)} (> {CONTROL_LIMIT})"
            )
    for summary in summaries:
        checks = summary["checks"]
        masked, mean = checks["masked"]["mrr@20"], checks["mean"]["mrr@20"]
        if masked < MASKED_MRR * mean:
            unmasked = f"below {MASKED_MRR:.0%} of the unmasked {mean:.2f}"
            doubts.append(f"seed {summary['seed']}: masked weights have MRR@20 {masked:.2f}, {unmasked}")
        best, worst = summary["test"]["mrr@20"], summary.get("test_worst_ties", summary["test"])["mrr@20"]
        if worst < MASKED_MRR * best:
            doubts.append(
                f"seed {summary['seed']}: MRR@20 {best:.2f} is {worst:.2f} where ties count against the target: "
                "the scores hardly tell items apart"
            )
    return doubts


def doubt_of_noise(group: Path, config: dict[str, Any], final: pd.DataFrame) -> list[str]:
    """Whether a run with one weight sample per step, in the group beside this one, answers the same."""
    if config["noise"] == "weight":
        return []
    sibling_config = Config(**{**config, "noise": "weight"})
    prefix = group.name.rsplit("-", 1)[0]
    sibling = group.with_name(f"{prefix}-{sibling_config.hash}")
    done = [run for run in folders.group_runs(sibling) if folders.is_done(run)] if sibling.exists() else []
    other = None
    try:
        other = counted(done, sibling, config) if done else None
    except DataError as error:
        folders.left_out(error)
    if other is None:
        return [
            "not checked with one weight sample per step: the same command with --noise weight (one seed is enough)"
        ]
    threshold = key(config["threshold"])
    here, there = (answers(table, threshold) for table in (final, at_step(other)))
    return [
        f"{name} answers '{b.answer}' with --noise weight ({'; '.join(b.reasons)})"
        for name, a, b in zip(("O1", "O2"), here, there)
        if a.answer != b.answer
    ]


def densities(final: pd.DataFrame, threshold: str) -> dict[str, Any]:
    """Mean over seeds of the density per matrix and block, role and module, at the threshold and at others.

    `beyond_control` is the density where the useless control keeps at most CONTROL_LIMIT (None without that control),
    `beyond_control_at` the log alpha at which that is so, by seed. It describes; no rule of O1 and O2 uses it.
    """
    counts = [name for name in final if name.startswith(("kept ", "abs ", "signed "))]
    beyond = beyond_control(final, limit=CONTROL_LIMIT)
    mean_beyond = beyond.groupby(["matrix", "block"])["density"].mean().to_dict()
    matrices = []
    for (matrix, block), part in final.groupby(["matrix", "block"], sort=False):
        shares = part[counts].div(part["numel"], axis=0)
        per_seed = shares[f"kept {threshold}"]
        matrices.append(
            {
                "matrix": matrix,
                "block": block,
                "role": part["role"].iloc[0],
                "module": part["module"].iloc[0],
                "numel": int(part["numel"].iloc[0]),
                "density": float(per_seed.mean()),
                "sd": float(per_seed.std(ddof=1)) if len(per_seed) > 1 else None,
                "beyond_control": mean_beyond.get((matrix, block)),
                **{name: float(shares[name].mean()) for name in counts},
                "log_alpha_hist": np.sum(part["log_alpha_hist"].tolist(), axis=0).tolist(),
            }
        )
    return {
        "matrices": matrices,
        "beyond_control_at": {str(seed): at for seed, at in beyond.groupby("seed")["limit_at"].first().items()},
        "roles": by_role(final, threshold),
        "modules": _shares(final, "module", threshold),
        "roles_macro": _macro(final, "role", threshold),
    }


def by_role(table: pd.DataFrame, threshold: str) -> dict[str, float]:
    """Mean density over seeds of each role, matrices weighted by their entries."""
    return _shares(table, "role", threshold)


def _shares(table: pd.DataFrame, by: str, threshold: str) -> dict[str, float]:
    shares = density(table, ["seed", by], f"kept {threshold}").groupby(level=by, sort=False).mean()
    return {str(name): float(value) for name, value in shares.items()}


def _macro(table: pd.DataFrame, by: str, threshold: str) -> dict[str, float]:
    """Mean density over seeds and matrices, each matrix counting the same."""
    whole = table[table["block"] == ""]
    shares = (whole[f"kept {threshold}"] / whole["numel"]).groupby(whole[by], sort=False).mean()
    return {str(name): float(value) for name, value in shares.items()}


def accuracy(summaries: list[dict[str, Any]]) -> dict[str, Any]:
    """Mean and standard deviation over seeds of the test metrics, also with ties against the target, and of the
    selection bias.
    """
    result: dict[str, Any] = {}
    for part in ("test", "test_worst_ties", "selection_bias"):
        table = pd.DataFrame([summary[part] for summary in summaries if part in summary])
        result[part] = {str(k): float(v) for k, v in table.mean().items()}
        result[f"{part}_sd"] = {str(k): float(v) for k, v in table.std(ddof=1).items()} if len(table) > 1 else {}
    return result


def checks(summaries: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Mean over seeds of the quick accuracy checks."""
    by_seed = [summary.get("checks", {}) for summary in summaries]
    return {
        name: {m: float(np.mean([given[name][m] for given in by_seed])) for m in ("hr@20", "mrr@20")}
        for name in (by_seed[0] if by_seed else {})
        if all(name in given for given in by_seed)
    }


def removable(model: str, summaries: list[dict[str, Any]]) -> list[str]:
    """What the model can be trained without, as its runs say; older runs leave it to its class."""
    known = MODELS[model].removable if model in MODELS else ()
    return list(summaries[0].get("removable", known) if summaries else known)


def need(group: Path, finished: list[Path], judged: np.ndarray | None) -> dict[str, Any]:
    """For each role that models were retrained without: redundant, needed or undecided, over all seeds and by seed."""
    reduced = {
        variant: sound_ranks([run for run in folders.group_runs(group, variant) if folders.is_done(run)])
        for variant in folders.variants(group)
        if variant != folders.FULL
    }
    full = sound_ranks(finished) if any(reduced.values()) else {}
    return {
        variant.removeprefix("without-"): compare_need(full, ranks, judged)
        for variant, ranks in reduced.items()
        if full and ranks
    }


def sound_ranks(found: list[Path]) -> Ranks:
    """The ranks on test of some runs; one whose ranks are missing or damaged is left out, and said."""
    sound = {}
    for run in found:
        try:
            sound[run] = folders.read_ranks(folders.test_ranks(run))
        except DataError as error:
            folders.left_out(error)
    return sound


def compare_need(full: Ranks, reduced: Ranks, judged: np.ndarray | None) -> dict[str, Any]:
    """The answer on need from the ranks of full and of reduced runs. Raises DataError where those rank others."""
    first, reference = next(iter(full.items()))
    if judged is not None and len(judged) != len(reference["rank"]):
        raise DataError(f"{first} ranks {len(reference['rank']):,} test prefixes, its data set has {len(judged):,}.")

    def load(those: Ranks) -> tuple[np.ndarray, np.ndarray, float]:
        sums, count, hits = [], np.zeros(0), []
        for path, ranks in those.items():
            if any(not np.array_equal(ranks[name], reference[name]) for name in ("session", "length", "target")):
                raise DataError(f"{path} ranks other test prefixes than {first}.", "Train it again with --force.")
            total, count = session_sums(ranks["rank"], ranks["session"], judged)
            sums.append(total)
            hit = ranks["rank"] <= 20
            hits.append(100 * float((hit if judged is None else hit[judged]).mean()))
        return np.stack(sums), count, float(np.mean(hits))

    a, count, hr_full = load(full)
    b, _, hr_reduced = load(reduced)
    estimate, low, high = relative_loss_interval(a, b, count)
    answer, reasons = need_answer(low, high), []
    if estimate is None:
        reasons.append("the full model ranks nothing: MRR@20 is 0")
    elif low is None:
        reasons.append("no interval: too few sessions have a target that the full model ranks within 20")
    fewest = min(len(full), len(reduced))
    if fewest < FEWEST_SEEDS:
        reasons.append(f"{fewest} seed{'s' * (fewest != 1)}; it takes {FEWEST_SEEDS}")
    by_seed = {}
    other = {int(path.name[1:]): index for index, path in enumerate(reduced)}
    for index, path in enumerate(full):
        seed = int(path.name[1:])
        if seed in other:
            one = relative_loss_interval(a[[index]], b[[other[seed]]], count)
            by_seed[seed] = {"answer": need_answer(*one[1:]), "loss": one[0], "low": one[1], "high": one[2]}
    return {
        "answer": UNDECIDED if reasons else answer,
        "figures_say": answer,
        "reasons": reasons,
        "loss": estimate,
        "low": low,
        "high": high,
        "hr@20_full": hr_full,
        "hr@20_reduced": hr_reduced,
        "mrr@20_full": 100 * float(a.sum(1).mean() / max(1, count.sum())),
        "mrr@20_reduced": 100 * float(b.sum(1).mean() / max(1, count.sum())),
        "judged_prefixes": int(count.sum()),
        "by_seed": by_seed,
    }


def need_answer(low: float | None, high: float | None) -> str:
    """Redundant where the whole interval of the relative loss lies below 1 %, needed where it lies above."""
    if low is None or high is None:
        return UNDECIDED
    if high < NEED_LIMIT:
        return REDUNDANT
    return NEEDED if low > NEED_LIMIT else UNDECIDED
