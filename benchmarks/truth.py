"""The truth test of the instrument: does a verdict find what was planted?

    python benchmarks/truth.py --out FOLDER [--case NAME ...] [--sets chosen] [--protocol calibrated] [--jobs 2]
    python benchmarks/truth.py --out FOLDER --dense     # only the truth itself: MRR@20 with and without the part

Each case is a planted data set, a model and the roles on trial. For each data seed the model is dissected with three
training seeds, beside the matched dense model and the model without the part; that is one verdict. Runs are kept in
FOLDER, and the same command continues there. It writes results.csv (a row for each verdict on a role), matrices.csv
(a row for each matrix and training seed) and summary.md into FOLDER/PROTOCOL-SETS.

The seeds of the data are in three disjoint sets: `chosen` for choosing constants, `reported` for the results, and
`held-back` for review, which nobody runs before.
"""

from __future__ import annotations

import argparse
import os
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from multiprocessing import get_context, parent_process
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import planted_sets
import torch
from scipy import stats

import dissect
from analyses import shadowed, unshadowed
from analyses.density import at_step, counted, finished
from analyses.verdict import judge
from dissect.runs import folders
from dissect.runs.config import CALIBRATED, CALIBRATED_EPOCHS, LITERAL
from dissect.sparsevd.density import key
from dissect.training.evaluation import gains

SETS = {"chosen": range(101, 111), "reported": range(201, 211), "held-back": range(301, 311)}  # seeds of the data
TRAINING_SEEDS = (1, 2, 3)
# Protocol -> its settings; all make as many epochs.
PROTOCOLS: dict[str, dict[str, Any]] = {
    "calibrated": {**CALIBRATED},
    "literal": {**LITERAL},
    "half": {**CALIBRATED, "kl_weight": CALIBRATED["kl_weight"] / 2},
    "not-averaged": {**CALIBRATED, "average": 0.0},
}
OWN = Path(__file__).with_name("planted_models.py")

NEEDED, USELESS, REDUNDANT, RANK_1 = "needed", "useless", "redundant", "rank 1"
# Truth -> (the right answer by density, the right answer by retraining). A redundant part tells what another part tells
# too, and may keep its weights or not; a useless one has nothing to tell. A
# matrix of rank 1 may be needed with few weights: to call it withered is no mistake unless it is empty (`by_density`).
RIGHT = {
    NEEDED: ("alive", "needed"),
    USELESS: ("withered", "redundant"),
    REDUNDANT: (None, "redundant"),
    RANK_1: ("not empty", "needed"),
}
RIGHTS = ("right", "wrong", "undecided")


@dataclass(frozen=True)
class Case:
    """A data set (a function of planted_sets), a model, and the truth about each role on trial.

    "encoder+update" are two roles together.
    """

    data: str
    model: str
    truth: dict[str, str]
    dim: int = 16

    @property
    def subject(self) -> str:
        return self.model if self.model.islower() else f"{OWN}:{self.model}"


# Redundant are, in `branches`, the mean of the clicks before, which can serve as a bias, and in `gru-average` the GRU,
# which can count clicks as their mean does. In `gru-successor` it reads clicks that mean nothing.
CASES = {
    "walk": Case("walk", "srgnn", {"propagation": NEEDED}, dim=32),
    "bag": Case("bag", "srgnn", {"propagation": USELESS}, dim=32),
    "attention-pointer": Case("pointer", "Attentive", {"attention": NEEDED}),
    "attention-average": Case("average", "Attentive", {"attention": USELESS}, dim=24),
    "gru-order": Case("order", "Recurrent", {"encoder": NEEDED}),
    "gru-successor": Case("successor", "Recurrent", {"encoder": USELESS}),
    "gru-average": Case("average", "Recurrent", {"encoder": REDUNDANT}, dim=24),
    "branches": Case("successor", "Branches", {"encoder": NEEDED, "transformation": REDUNDANT, "update": USELESS}),
    "pair": Case("successor", "Pair", {"encoder": REDUNDANT, "update": REDUNDANT, "encoder+update": NEEDED}),
    "nothing": Case("nothing", "Branches", {"encoder": USELESS, "transformation": USELESS, "update": USELESS}),
    "rank-1": Case("half", "FirstAndLast", {"encoder": RANK_1}),
}


# --- one verdict -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Task:
    """One verdict: a case with one seed of the data, dissected by a protocol, or trained dense only."""

    case: str
    seed: int
    protocol: str
    out: Path
    epochs: float = CALIBRATED_EPOCHS
    dense: bool = False

    @property
    def runs(self) -> Path:
        """Each protocol has a folder of its own: a verdict reads the groups beside it."""
        protocol = "" if self.protocol == "calibrated" else f"-{self.protocol}"
        return self.out / "runs" / f"{self.case}-{self.seed}{protocol}"


def perform(task: Task) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """(rows of results, rows of matrices) of a task; trains what is not finished."""
    torch.set_num_threads(1)
    case = CASES[task.case]
    planted = getattr(planted_sets, case.data)(task.seed)
    if task.dense:
        return trained_dense(task, planted), []
    settings = {"literal": task.protocol == "literal", "epochs": task.epochs, **PROTOCOLS[task.protocol]}
    for without in [(), *(role.split("+") for role in case.truth)]:
        options = {"dim": case.dim, "without": without, "seeds": TRAINING_SEEDS, "runs_dir": task.runs, "quiet": True}
        group = dissect.run(case.subject, planted.data, **options, **settings)
    return read(task, group.path, planted.judged)


def read(task: Task, group: Path, judged: np.ndarray) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """What a group says: a row for each role on trial, and for each of its matrices and training seeds."""
    verdict, config = judge(group, judged), folders.group_config(group)
    runs, threshold = finished(group), key(config["threshold"])
    final = at_step(counted(runs, group, config))
    about = {"case": task.case, "data seed": task.seed}
    everything = [run for variant in folders.variants(group) for run in finished(group, variant)]
    seconds = sum(folders.read_summary(run)["seconds"] for run in everything)
    matched, summaries = finished(group, folders.MATCHED), [folders.read_summary(run) for run in runs]
    results, matrices = [], []
    for role, truth in CASES[task.case].truth.items():
        need = verdict["need"]["-".join(sorted(role.split("+")))]
        results.append(
            {
                **about,
                "role": role,
                "truth": truth,
                **of_density(verdict, final, role, threshold, summaries),
                "swapped by seed": " ".join(f"{change:+.4f}" for change in swapped(summaries, role)),
                "need": need["answer"],
                **{f"loss {name}": need[name] for name in ("loss", "low", "high")},
                "mrr full": need["mrr@20_full"],
                "mrr dense": mean_mrr(matched, judged),
                "mrr without": need["mrr@20_reduced"],
                "seconds": round(seconds, 1),
            }
        )
        if "+" not in role:
            rows = of_matrices(final, role, f"kept {threshold}")
            matrices += [{**about, "role": role, "truth": truth, **row} for row in rows]
    return results, matrices


def swapped(summaries: list[dict[str, Any]], role: str) -> list[float]:
    """The relative change of MRR@20 with swapped inputs, by training seed; empty for a pair of roles."""
    falls = shadowed.falls(summaries, f"swapped_{role}")
    return [] if falls is None else [0 - fall for fall in falls.by_seed]


def of_density(
    verdict: dict[str, Any], final: pd.DataFrame, role: str, threshold: str, summaries: list[dict[str, Any]]
) -> dict[str, Any]:
    """What the densities say of a role, or of several together: the answer, before any doubt too, and the numbers."""
    parts = role.split("+")
    together = final.assign(role=final["role"].where(~final["role"].isin(parts), role))
    if "roles" in verdict:
        kept = shadowed.kept_by_role(together, threshold)
        excess, numbers = shadowed.excess_of(kept, role), kept.xs(role, level="role")
        said = [verdict["roles"][part] for part in parts]
        answer, figures = (joined([each[name] for each in said]) for name in ("answer", "figures_say"))
        doubts = [reason for each in said for reason in each["reasons"]]
        limits = {"low": excess.low, "high": excess.high, "false": numbers["false"].mean()}
    else:  # the rule of old for propagation, asked of this role; its check with --noise weight was not run
        by_role = unshadowed.density(together, ["role", "seed"], f"kept {threshold}")
        numbers = pd.DataFrame({"density": by_role.xs(role, level="role"), "shadow": np.nan, "excess": np.nan})
        is_low, is_high = numbers["density"] <= unshadowed.WITHERED, numbers["density"] > unshadowed.ALIVE
        figures = "withered" if is_low.all() else "alive" if is_high.all() else "undecided"
        doubts = list(unshadowed.doubts_of_runs(final, summaries, threshold))
        answer = "undecided" if doubts else figures
        limits = {"low": np.nan, "high": np.nan, "false": np.nan}
    columns = {"density": "kept", "shadow": "shadow", "excess": "excess"}
    by_seed = {f"{name} by seed": " ".join(f"{v:.4f}" for v in numbers[column]) for column, name in columns.items()}
    means = {name: numbers[column].mean() for column, name in columns.items()}
    return {**means, **by_seed, **limits, "density": answer, "figures": figures, "doubts": "; ".join(doubts)}


def joined(answers: list[str]) -> str:
    """The answer for several roles together: alive if one of them is, withered if all are."""
    if "alive" in answers:
        return "alive"
    return "withered" if set(answers) == {"withered"} else "undecided"


def of_matrices(final: pd.DataFrame, role: str, count: str) -> Iterator[dict[str, Any]]:
    """Kept share of each matrix of a role in each training seed, of its shadow, and the excess."""
    whole = final[final["block"] == ""].set_index(["seed", "matrix"])
    share = whole[count] / whole["numel"]
    for seed, matrix in whole.index[whole["role"] == role]:
        kept, shadow = share[seed, matrix], share.get((seed, f"shadow.{matrix}"), np.nan)
        yield {"seed": seed, "matrix": matrix, "kept": kept, "shadow": shadow, "excess": kept - shadow}


def mean_mrr(runs: list[Path], judged: np.ndarray) -> float:
    """Mean MRR@20 in percent of runs on the judged test prefixes; NaN without runs."""
    ranks = [folders.read_ranks(folders.test_ranks(run))["rank"][judged] for run in runs]
    return 100 * float(np.mean([gains(rank, "mrr@20").mean() for rank in ranks])) if ranks else float("nan")


def trained_dense(task: Task, planted: planted_sets.Planted) -> list[dict[str, Any]]:
    """MRR@20 of the dense model with and without each part on trial: is the truth as planned?"""
    case = CASES[task.case]
    settings = {name: CALIBRATED[name] for name in ("batch_size", "lr", "schedule", "average")}
    settings |= {"epochs": task.epochs, "patience": 0}

    def mrr(without: list[str]) -> float:
        options = {"dim": case.dim, "without": without, "seeds": TRAINING_SEEDS, "runs_dir": task.runs, "quiet": True}
        group = dissect.train(case.subject, planted.data, **options, **settings)
        variant = f"without-{'-'.join(sorted(without))}" if without else folders.FULL
        return mean_mrr(group.runs(variant), planted.judged)

    full = mrr([])
    rows = []
    for role, truth in case.truth.items():
        without = mrr(role.split("+"))
        row = {"case": task.case, "data seed": task.seed, "role": role, "truth": truth}
        rows.append({**row, "mrr full": full, "mrr without": without, "loss": 1 - without / full})
    return rows


# --- what the results say ----------------------------------------------------------------------------------


def by_density(row: pd.Series) -> str:
    """right, wrong, undecided, or "" where the truth says nothing about density."""
    wanted = RIGHT[row["truth"]][0]
    if wanted is None:
        return ""
    if wanted == "not empty" and row["density"] == "withered":  # no mistake, if a few weights beyond chance are left
        return "wrong" if row["high"] <= 0 else "undecided"
    if wanted == "not empty":
        return "right" if row["density"] == "alive" else "undecided"
    return "undecided" if row["density"] == "undecided" else "right" if row["density"] == wanted else "wrong"


def by_need(row: pd.Series) -> str:
    answer = row["need"]
    return "undecided" if answer == "undecided" else "right" if answer == RIGHT[row["truth"]][1] else "wrong"


def outcomes(results: pd.DataFrame) -> pd.DataFrame:
    """How often each role of each case was judged right, wrong and not, by density and by need; and in all."""
    told = results.assign(
        density=results.apply(by_density, axis=1),
        need=results.apply(by_need, axis=1),
    )
    by_role = told.groupby(["case", "role", "truth"], sort=False)
    counts = {
        (question, r): by_role[question].agg(lambda v, r=r: (v == r).sum())
        for question in ("density", "need")
        for r in RIGHTS
    }
    table = pd.DataFrame(counts)
    table.loc[("in all", "", ""), :] = table.sum()
    return table.astype(int)


def auc(matrices: pd.DataFrame, by: str) -> float:
    """The chance that a needed matrix has a higher `by` than a useless one; NaN if there are none to compare."""
    needed, useless = (matrices.loc[matrices["truth"] == truth, by].dropna() for truth in (NEEDED, USELESS))
    if not len(needed) or not len(useless):
        return float("nan")
    return float(stats.mannwhitneyu(needed, useless).statistic / (len(needed) * len(useless)))


def summary(results: pd.DataFrame, matrices: pd.DataFrame, title: str) -> str:
    """The results in Markdown."""
    table = outcomes(results)
    lines = [f"# {title}", "", "Right / wrong / undecided, by density and by retraining (need).", ""]
    lines += ["| case | role | truth | density | need |", "|---|---|---|---|---|"]
    for names, row in table.iterrows():
        said = [" / ".join(str(row[question, r]) for r in RIGHTS) for question in ("density", "need")]
        lines.append(f"| {' | '.join([*names, *said])} |")
    asked = table.loc["in all"].iloc[0]
    for question in ("density", "need"):
        n = sum(asked[question, r] for r in RIGHTS)
        decided = n - asked[question, "undecided"]
        share = f"{decided / n:.0%}" if n else "none"
        lines += ["", f"By {question}: {asked[question, 'wrong']} wrong of {n}, {share} decided."]
    alive = results[results["density"] == "alive"]
    lines += [
        "",
        f"False discoveries: of {len(alive)} roles said to be alive, {(alive['truth'] == USELESS).sum()} useless.",
    ]
    useless = results[results["truth"] == USELESS]
    if len(useless):
        lines += [
            f"Useless roles keep {useless['kept'].mean():.4f} of their weights, their shadows "
            f"{useless['shadow'].mean():.4f}."
        ]
    n = {truth: int((matrices["truth"] == truth).sum()) for truth in (NEEDED, USELESS)}
    says = ", ".join(
        f"{auc(matrices, by):.3f} by {name}" for by, name in (("excess", "excess density"), ("kept", "kept share"))
    )
    lines += [
        "",
        f"AUC of {n[NEEDED]} needed against {n[USELESS]} useless matrices (each training seed counts): {says}.",
    ]
    return "\n".join([*lines, "", *numbers_by_case(results)]) + "\n"


def numbers_by_case(results: pd.DataFrame) -> Iterator[str]:
    """The mean numbers of each case, as lines of a table."""
    names = ["kept", "shadow", "excess", "loss loss", "mrr full", "mrr dense", "mrr without", "seconds"]
    yield "| case | role | verdicts | kept | shadow | excess | loss | MRR full | dense | without | seconds a verdict |"
    yield "|---|---|---|---|---|---|---|---|---|---|---|"
    for (case, role), rows in results.groupby(["case", "role"], sort=False):
        means = rows[names].mean()
        shares = [f"{means[name]:.4f}" for name in names[:4]]
        percents = [f"{means[name]:.2f}" for name in names[4:7]]
        cells = [case, role, str(len(rows)), *shares, *percents, f"{means['seconds']:.0f}"]
        yield f"| {' | '.join(cells)} |"


# --- the command -------------------------------------------------------------------------------------------


def ends_with_parent() -> None:
    """Let this process end when its parent has ended for any reason; the run continues where it stopped."""
    parent = parent_process()
    assert parent is not None
    threading.Thread(target=lambda: (parent.join(), os._exit(1)), daemon=True).start()


def performed(tasks: list[Task], jobs: int) -> Iterator[tuple[Task, Any]]:
    """(task, its rows) as they are finished, with a line of progress for each; one that fails is left out."""
    began, failed = time.perf_counter(), 0
    with ProcessPoolExecutor(jobs, get_context("spawn"), ends_with_parent) as pool:
        running = {pool.submit(perform, task): task for task in tasks}
        for number, future in enumerate(as_completed(running), 1):
            task, spent = running[future], time.perf_counter() - began
            left = spent / number * (len(tasks) - number)
            times = f"{spent:.0f} s, about {left / 60:.0f} min left"
            line = f"[{number}/{len(tasks)}] {task.case}, data seed {task.seed}: {times}"
            if error := future.exception():
                failed += 1
                print(f"{line}: failed", file=sys.stderr)
                traceback.print_exception(error)
                continue
            print(line, flush=True)
            yield task, future.result()
    if failed:
        raise SystemExit(f"{failed} of {len(tasks)} failed. The same command tries them again.")


def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of runs and results")
    parser.add_argument("--case", action="append", choices=list(CASES), help="repeat for several; all by default")
    parser.add_argument("--sets", choices=list(SETS), default="chosen", help="which seeds of the data")
    parser.add_argument("--first", type=int, default=10, help="how many of these seeds")
    parser.add_argument("--protocol", choices=list(PROTOCOLS), default="calibrated")
    parser.add_argument("--epochs", type=float, default=CALIBRATED_EPOCHS, help="by default as dissect run")
    parser.add_argument("--jobs", type=int, default=1, help="verdicts at the same time, each on one core")
    parser.add_argument("--dense", action="store_true", help="only train dense, with and without the part")
    given = parser.parse_args(words)
    names, seeds = given.case or list(CASES), SETS[given.sets][: given.first]
    print(f"Protocol {given.protocol}, {given.epochs:g} epochs, {given.sets} seeds of the data {list(seeds)}.")
    for name in names:
        case = CASES[name]
        truths = ", ".join(f"{role} {truth}" for role, truth in case.truth.items())
        print(f"{name}: {case.model} (D = {case.dim}) on {case.data}: {truths}")
    tasks = [Task(name, seed, given.protocol, given.out, given.epochs, given.dense) for seed in seeds for name in names]
    results, matrices = list[dict[str, Any]](), list[dict[str, Any]]()
    folder = given.out / ("dense" if given.dense else given.protocol)
    length = "" if given.epochs == CALIBRATED_EPOCHS else f"-{given.epochs:g}-epochs"
    folder = folder.with_name(f"{folder.name}{length}-{given.sets}")
    folder.mkdir(parents=True, exist_ok=True)
    for _, (rows, of_matrices_) in performed(tasks, given.jobs):
        results += rows
        matrices += of_matrices_
        for row in rows:
            print("   ", said(row))
        write(folder, results, matrices, given)


def said(row: dict[str, Any]) -> str:
    """One line about a row of results."""
    accuracy = f"MRR@20 {row['mrr full']:.2f}, without {row['mrr without']:.2f}"
    if "density" not in row:
        return f"{row['role']} ({row['truth']}): dense {accuracy}"
    shares = f"kept {row['kept by seed']}, shadow {row['shadow by seed']}"
    return f"{row['role']} ({row['truth']}): {row['density']}, {row['need']}; {shares}; {accuracy}"


def write(folder: Path, results: list[dict[str, Any]], matrices: list[dict[str, Any]], given: Any) -> None:
    """The tables so far, in the order of the cases."""
    order = {name: place for place, name in enumerate(CASES)}
    table, of_each = (
        pd.DataFrame(rows).sort_values(
            ["case", "data seed"], key=lambda c: c.map(order) if c.name == "case" else c, kind="stable"
        )
        for rows in (results, matrices or [{"case": "", "data seed": 0}])
    )
    table.to_csv(folder / "results.csv", index=False)
    if given.dense:
        return
    of_each.to_csv(folder / "matrices.csv", index=False)
    title = f"Truth test: protocol {given.protocol}, {given.epochs:g} epochs, {given.sets} seeds"
    (folder / "summary.md").write_text(summary(table, of_each, title))


if __name__ == "__main__":
    main()
