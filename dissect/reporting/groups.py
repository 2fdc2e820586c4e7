"""What a report says about one group: the verdict in words, and the tables and figures behind it."""

from __future__ import annotations

import math
import shlex
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from analyses.answers import ALIVE, WITHERED
from analyses.entries import JUDGED, Entry, entries_of_group
from analyses.verdict import judge
from dissect import drawing
from dissect.data import planted
from dissect.drawing import Drawing
from dissect.errors import DataError, UsageError
from dissect.runs import folders
from dissect.runs.config import Config
from dissect.tables import verdict as words
from dissect.tables.cells import number, time
from dissect.tables.text import Table, by_rows

MODULES = {
    "gnn": "GNN module: share of weights kept against training (the paper's Figure 3)",
    "readout": "Readout: share of weights kept against training (the paper's Figure 4)",
    "encoder": "Encoder: share of weights kept against training",
    "other": "Other matrices: share of weights kept against training",
}
MOMENTS = 8  # of a training, that a table behind a figure shows
Figure = dict[str, Any]
Step = Callable[[str], object]  # told what is read next
STEPS = 3  # of a group: accuracy, verdict, densities


def figure(drawn: Drawing, title: str, command: str, digits: int = 3) -> Figure:
    """A figure with its words, the table behind it, and the command that draws it."""
    return {
        "drawing": drawn,
        "title": title,
        "words": drawn.caption,
        "command": command,
        "table": behind(drawn, digits),
    }


def behind(drawing: Drawing, digits: int = 3) -> Table:
    """The numbers behind a figure: a row for each line, a column for each of a few moments, or for each KL weight.

    Groups side by side have rows of their own, which begin with their names.
    """
    found = drawing.table.copy()
    x = next(name for name in ("kl_weight", "epoch", "x") if name in found)
    names = {"kl_weight": "KL weight", "epoch": "epoch", "x": ""}[x]
    by = [name for name in ("group", "panel", "curve", "split", "line") if name in found]
    if "group" in found:
        found["group"] = found["group"].map(lambda group: Path(group).name)
    wide = found.pivot_table(index=by, columns=x, values="mean", sort=False).sort_index(axis=1)
    shadows = found.pivot_table(index=by, columns=x, values="shadow", sort=False) if "shadow" in found else None
    if x == "epoch":  # lines are measured at moments of their own: the last value by then
        measured = wide.loc[wide.count(axis=1).idxmin()].dropna().index
        wide = wide.ffill(axis=1)[measured]
    places = np.unique(np.linspace(0, wide.shape[1] - 1, min(wide.shape[1], MOMENTS if x == "epoch" else 99)).round())
    last = found.sort_values(x).groupby(by, sort=False)[["low", "high", "seeds"]].last()

    def cell(line: Any, at: float) -> str:
        text = number(wide.loc[line, at], digits if "mrr@20" not in line else 2)
        of_shadow = float("nan") if shadows is None or line not in shadows.index else shadows.loc[line].get(at, np.nan)
        return text if math.isnan(of_shadow) else f"{text} ({number(of_shadow, digits)})"

    rows = []
    chosen = [wide.columns[int(place)] for place in places]
    for line in wide.index:
        parts = line if isinstance(line, tuple) else (line,)
        low, high, seeds = last.loc[line]
        ends = f"{number(low, digits)} to {number(high, digits)}" if seeds > 1 else ""
        rows.append([", ".join(map(str, parts)), *(cell(line, at) for at in chosen), ends])
    of = f" at {len(chosen)} of {wide.shape[1]} moments" if len(chosen) < wide.shape[1] else ""
    caption = f"Means over seeds{of}{'; in brackets the shadow' if shadows is not None else ''}"
    return by_rows(
        caption, ["line", *(f"{names} {at:.3g}".strip() for at in chosen), "range over seeds at the end"], rows
    )


def of_group(group: Path, say: Step) -> dict[str, Any]:
    """The section of a group. Raises DataError if nothing of it can be read."""
    config = folders.group_config(group)
    say(f"accuracy of {group.name}")
    entries = entries_of_group(group)
    if not entries:
        again = f"Go on with it: dissect resume {shlex.quote(str(group))}"
        raise DataError(f"{group} has no finished seed that is undamaged.", again)
    section: dict[str, Any] = {"name": group.name, "path": group, "config": config, "title": title_of(config)}
    section |= {"dissected": Config(**config).has_verdict, "verdict": None, "figures": [], "entries": entries}
    section["accuracy"], section["by_seed"] = accuracy(entries)
    if section["dissected"]:
        say(f"verdict on {group.name}")
        verdict = judge(group, judged=planted.judged(str(config["dataset"])))
        say(f"densities of {group.name}")
        section |= of_verdict(verdict, group) | {"figures": densities(group) if verdict.get("rules") else []}
    return section | {"in_short": in_short(section)}


def title_of(config: dict[str, Any]) -> str:
    """srgnn on diginetica, KL weight 4; srgnn on diginetica, trained without SparseVD"""
    how = f"KL weight {config['kl_weight']:g}" if config["where"] != "none" else "trained without SparseVD"
    return f"{config['model']} on {config['dataset']}, {how}"


def accuracy(entries: Sequence[Entry]) -> tuple[Table, Table]:
    """HR@20 and MRR@20 on test: mean and standard deviation of each variant, and every seed."""
    means, rows = [], []
    for entry in entries:
        tests = pd.DataFrame([summary["test"] for summary in entry.summaries])
        over = [f"{tests[m].mean():.2f}" + (f" ± {tests[m].std():.2f}" if len(tests) > 1 else "") for m in JUDGED]
        left = [
            f"{entry.unfinished} unfinished" * bool(entry.unfinished),
            f"{entry.damaged} damaged" * bool(entry.damaged),
        ]
        means.append([entry.variant, str(len(tests)), *over, ", ".join(filter(None, left))])
        for summary in entry.summaries:
            test, worst = summary["test"], summary.get("test_worst_ties") or summary["test"]
            ties = "" if worst["mrr@20"] >= 0.995 * test["mrr@20"] else f"{worst['hr@20']:.2f} / {worst['mrr@20']:.2f}"
            epoch = f"{summary.get('selected', {'epoch': summary['epochs']})['epoch']:.3g}"
            cells = [f"{test['hr@20']:.2f}", f"{test['mrr@20']:.2f}", ties, epoch, time(summary["seconds"])]
            rows.append([f"{entry.variant}, seed {summary['seed']}", *cells])
    metrics = ["HR@20 (%)", "MRR@20 (%)"]
    head = ["variant", *metrics, "ties against it: HR / MRR (%)", "epoch reported", "training"]
    spread = "On the test set, mean ± standard deviation over seeds"
    return by_rows(spread, ["variant", "seeds", *metrics, "left out"], means), by_rows("On the test set", head, rows)


def of_verdict(verdict: dict[str, Any], group: Path) -> dict[str, Any]:
    """The verdict as texts and tables."""
    has_densities = bool(verdict["density"])
    return {
        "verdict": verdict,
        "answers": words.answers(verdict, group),
        "beside": words.beside(verdict),
        "parts": words.parts(verdict) if has_densities and verdict.get("rules") == "shadows" else None,
        "matrices": words.matrices(verdict) if has_densities else None,
        "not_dissected": words.not_dissected(verdict),
        "need": words.need(verdict) if verdict["need"] else None,
        "removable": [role for role in verdict["removable"] if role not in verdict["need"]],
        "checks": words.checks(verdict["checks"]) if verdict["checks"] else None,
    }


def densities(group: Path) -> list[Figure]:
    """The figures of density, of each module that has one."""
    drawn = partial(drawing.density, group)
    stems = {stem: module for module, stem in drawing.STEMS.items()}
    command = shlex.join(["dissect", "plot", "density", str(group)])
    return [figure(each, MODULES[stems[each.name]], command) for each in attempt(drawn)]


def path(group: Path) -> list[Figure]:
    """The path over the KL weight, if there are groups that differ in nothing else."""
    title = f"{folders.group_config(group)['model']}: what is kept, and MRR@20, against the KL weight"
    command = shlex.join(["dissect", "plot", "path", str(group)])
    return [figure(each, title, command) for each in attempt(partial(drawing.path, group))]


def training(groups: Sequence[Path], runs_dir: Path) -> list[Figure]:
    """Loss and accuracy against training, of all groups on one data set."""
    draw = partial(drawing.training, *groups, variants=(folders.FULL,), runs_dir=runs_dir)
    command = shlex.join(["dissect", "plot", "training", *map(str, groups), "--variant", "full"])
    return [figure(each, "Loss and accuracy against training", command, 2) for each in attempt(draw)]


def attempt(draw: Callable[[], list[Drawing]]) -> Iterator[Drawing]:
    """The drawings; none where the runs have nothing to draw, or are damaged (which folders.hearing tells)."""
    try:
        yield from draw()
    except UsageError:
        return
    except DataError as error:
        folders.left_out(error)


def in_short(section: dict[str, Any]) -> str:
    """The answers about each role in a sentence: propagation has withered and is redundant; attention is alive."""
    verdict = section["verdict"]
    if verdict is None or not verdict["density"]:
        first: Entry = section["entries"][0]
        which = "" if first.variant == folders.FULL else f" of {first.variant}"
        mean = sum(summary["test"]["mrr@20"] for summary in first.summaries) / len(first.summaries)
        state = "not dissected" if section["config"]["where"] == "none" else "not finished"
        return f"{state}; MRR@20{which} {mean:.2f} %"
    says = {ALIVE: "is alive", WITHERED: "has withered"}
    parts = {role: says.get(given["answer"], "is undecided") for role, given in verdict.get("roles", {}).items()}
    for role, given in verdict["need"].items():
        words = "its need is undecided" if given["answer"] == "undecided" else f"is {given['answer']}"
        parts[role] = f"{parts[role]} and {words}" if role in parts else words
    return "; ".join(f"{role} {words}" for role, words in parts.items()) or "judged by density alone"
