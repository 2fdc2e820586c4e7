"""Need: what MRR@20 a model loses that was retrained without a role. Density is not importance; this is."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from analyses.answers import NEEDED, REDUNDANT, UNDECIDED, answered, too_few
from analyses.bootstrap import prefixes_of, relative_loss_interval, session_sums
from analyses.density import finished
from analyses.significance import FEW_SESSIONS, few_sessions
from dissect.errors import DataError
from dissect.runs import folders
from dissect.runs.files import anew
from dissect.runs.folders import each_sound

NEED_LIMIT = 0.01  # relative loss of MRR@20 below which a role is redundant
Ranks = dict[Path, dict[str, np.ndarray]]  # of runs, as folders.read_ranks gives them


def need_answer(low: float | None, high: float | None) -> str:
    """Redundant if the whole interval of the relative loss is below 1 %, needed if it is above."""
    if low is None or high is None:
        return UNDECIDED
    if high < NEED_LIMIT:
        return REDUNDANT
    return NEEDED if low > NEED_LIMIT else UNDECIDED


def need(group: Path, full: list[Path], judged: np.ndarray | None) -> dict[str, Any]:
    """For each role that models were retrained without: redundant, needed or undecided, over all seeds and by seed.

    A run whose ranks on test are missing or damaged, or are of other prefixes than most, is skipped with a warning.
    """

    def ranks(runs: list[Path]) -> Ranks:
        return dict(each_sound(runs, lambda run: (run, folders.read_ranks(folders.test_ranks(run))), required=False))

    reduced = {
        name: ranks(finished(group, name))
        for name in folders.variants(group)
        if name not in (folders.FULL, folders.MATCHED)
    }
    of_full = ranks(full) if any(reduced.values()) else {}
    known = {run: prefixes_of(each) for those in (of_full, *reduced.values()) for run, each in those.items()}
    usual = Counter(known.values()).most_common(1)[0][0] if known else ""
    for those in (of_full, *reduced.values()):
        for run in [run for run in those if known[run] != usual]:
            folders.left_out(DataError(f"{run} ranks other test prefixes than most.", anew(run)))
            del those[run]
    return {
        name.removeprefix(folders.WITHOUT): compare_need(of_full, of_reduced, judged)
        for name, of_reduced in reduced.items()
        if of_full and of_reduced
    }


def compare_need(full: Ranks, reduced: Ranks, judged: np.ndarray | None) -> dict[str, Any]:
    """The answer on need from the ranks of full and of reduced runs, all of the same test prefixes.

    Raises DataError if `judged`, a mask of them, has another length.
    """
    first, reference = next(iter(full.items()))
    if judged is not None and len(judged) != len(reference["rank"]):
        raise DataError(f"{first} ranks {len(reference['rank']):,} test prefixes, its data set has {len(judged):,}.")

    def sums(those: Ranks) -> np.ndarray:  # of reciprocal ranks: [K seeds, S sessions]
        return np.stack([session_sums(ranks["rank"], ranks["session"], judged)[0] for ranks in those.values()])

    def hit_rate(those: Ranks) -> float:
        hits = [ranks["rank"] <= 20 for ranks in those.values()]
        return float(np.mean([100 * float((hit if judged is None else hit[judged]).mean()) for hit in hits]))

    a, b = sums(full), sums(reduced)
    _, count = session_sums(reference["rank"], reference["session"], judged)
    estimate, low, high = relative_loss_interval(a, b, count)
    sessions = int((count > 0).sum())
    of_sessions = [few_sessions(sessions)] if sessions < FEW_SESSIONS else []
    doubts = [*too_few(min(len(full), len(reduced))), *of_sessions]
    if estimate is None:
        doubts.insert(0, "the full model ranks nothing: MRR@20 is 0")
    elif low is None:
        doubts.insert(0, "no interval: too few sessions have a target that the full model ranks within 20")
    rows = [{folders.place_of(run)[1]: index for index, run in enumerate(those)} for those in (full, reduced)]
    by_seed = {}
    for seed in (seed for seed in rows[0] if seed in rows[1]):
        loss, *limits = relative_loss_interval(a[[rows[0][seed]]], b[[rows[1][seed]]], count)
        answer = UNDECIDED if of_sessions else need_answer(*limits)
        by_seed[seed] = {"answer": answer, "loss": loss, "low": limits[0], "high": limits[1]}
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
        "prefixes": len(reference["rank"]),
        "by_seed": by_seed,
    }
