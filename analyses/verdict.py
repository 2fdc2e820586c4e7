"""The verdict on a group: does propagation wither, does the readout hold, and is either needed?

Three answers, kept apart, each by a fixed rule:

    O1    the paper's Figure 3: propagation withers       holds, fails, undecided      } from the densities:
    O2    the paper's Figure 4: the readout holds         holds, fails, undecided      } shadowed.py, unshadowed.py
    need  density is not importance: the loss of MRR@20   redundant, needed, undecided   need.py
          of the model retrained without a role

An answer with a doubt is undecided, whatever the numbers say.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from analyses import shadowed, unshadowed
from analyses.answers import NOT_APPLICABLE, UNDECIDED, answered
from analyses.coverage import coverage, read_coverage
from analyses.density import at_step, counted, densities, finished
from analyses.need import need
from analyses.paragraph import paragraph
from dissect.errors import DataError, DissectError
from dissect.runs import files, folders
from dissect.runs.config import CALIBRATED, LITERAL, SETTINGS, Config
from dissect.runs.folders import each_sound
from dissect.sparsevd.density import key
from models import MODELS

QUESTIONS = ("O1", "O2")
TOLD = ("model", "dataset", "protocol", "where", "prior", "noise", "threshold", "kl_weight", "apart")
Summaries = list[dict[str, Any]]


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
        **{name: config[name] for name in TOLD},
        "steps": config["max_steps"],
        "seeds": [summary["seed"] for summary in known],
        "removable": removable(config["model"], known),
        "accuracy": accuracy(known),
        "checks": checks(known),
        "coverage": covered,
        **observations(group, config, known, table, covered),
        "need": need(group, runs, judged),
    }
    verdict["paragraph"] = paragraph(verdict)
    try:
        files.write_json(group / "verdict.json", verdict)
    except DissectError as error:  # read-only runs can be judged too
        print(f"{error.message} The verdict was not saved.", file=sys.stderr)
    return verdict


def observations(
    group: Path, config: dict[str, Any], summaries: Summaries, table: pd.DataFrame, covered: dict[str, Any] | None
) -> dict[str, Any]:
    """The results from densities (density_of): the table, and an answer to O1 and O2."""
    if not summaries:
        return {"density": {}} | dict.fromkeys(QUESTIONS, answered(UNDECIDED, ["no seed is finished"]))
    if config["where"] == "none":
        why = "the model was trained dense (--where none)"
        return {"density": {}} | dict.fromkeys(QUESTIONS, answered(NOT_APPLICABLE, [why]))
    counts = densities(table, key(config["threshold"]), unshadowed.CONTROL_LIMIT)
    if not (table["role"] == "shadow").any():
        return {"rules": "density", "density": counts, **unshadowed.observed(group, config, summaries, table, covered)}
    beside = {(row["matrix"], row["block"]): row["density"] for row in counts["matrices"] if row["role"] == "shadow"}
    counts["matrices"] = [
        {**row, "shadow": beside.get((f"shadow.{row['matrix']}", row["block"]))}
        for row in counts["matrices"]
        if row["role"] != "shadow"
    ]
    found = shadowed.observed(group, config, summaries, table, covered)
    literal = literally(group, config)
    if literal is None:
        found["not_run"].append(literal_option(config))
    return {"rules": "shadows", "density": counts, **found, "literal": literal}


def literal_option(config: dict[str, Any]) -> str:
    """--literal, and the options of this group's command that would win over its settings."""
    own = [each.flag for each in SETTINGS if each.name in CALIBRATED and config[each.name] != CALIBRATED[each.name]]
    return f"--literal (without {', '.join(own)})" if own else "--literal"


def literally(group: Path, config: dict[str, Any]) -> dict[str, Any] | None:
    """What the paper's own measure says: O1 and O2 by the density at t = 3 and KL weight 1, without shadows.

    Of the group beside this one that trained the same model on the same data with the settings of LITERAL, the longest
    if there are several; None if there is none.
    """
    of_model, of_data = ("model", "model_options", "model_source", "where", "init_from"), ("dataset", "split_hash")
    about = [*of_model, *of_data, "longest", "order", "validation"]
    about += ["loss", "negatives", "sample_alpha", "bpreg", "elu", "optimiser", "l2"]
    mine, found = Config(**config), []
    for other, there in folders.configs(group.parent):
        wanted = {name: getattr(mine, name) for name in about}
        wanted |= {name: getattr(there, name) for name in ("max_steps", "apart", "products")}
        if there == Config(**wanted, **LITERAL) and finished(other):
            found.append((there, other))
    if not found:
        return None
    there, other = max(found, key=lambda each: each[0].max_steps)
    read = each_sound([other], lambda g: at_step(counted(finished(g), g, there.to_dict())), required=False)
    if not read:
        return None
    table = read[0]
    says = unshadowed.by_figures(table, key(there.threshold))
    answers = {name: {"figures_say": answer, "reasons": [reason]} for name, (answer, reason) in says.items()}
    return {"group": other.name, "steps": there.max_steps, "seeds": sorted(map(int, set(table["seed"]))), **answers}


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
        read_coverage(run)
        return run, summary

    sound = dict(each_sound(finished(group), read))
    if not (sound and is_sparse):
        return sound, pd.DataFrame()
    table = counted(list(sound), group, config)
    whole = set(table["seed"])
    return {run: summary for run, summary in sound.items() if summary["seed"] in whole}, table


def accuracy(summaries: Summaries) -> dict[str, Any]:
    """Mean and standard deviation over seeds of the test metrics, also with ties against the target, and of the
    selection bias; HR@20 and MRR@20 by seed.
    """
    result: dict[str, Any] = {
        "by_seed": {str(each["seed"]): {m: each["test"][m] for m in ("hr@20", "mrr@20")} for each in summaries}
    }
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
