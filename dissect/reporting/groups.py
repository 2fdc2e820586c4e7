"""What a report says about one group: the verdict in words, and the tables and figures behind it."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from analyses.answers import ALIVE, CHECKS, WITHERED
from analyses.entries import JUDGED, Entry, entries_of_group
from analyses.need import NEED_LIMIT
from analyses.verdict import judge
from dissect import drawing
from dissect.data import planted
from dissect.drawing import Drawing
from dissect.errors import DataError, UsageError
from dissect.reporting.tables import Table, behind, percent, seconds, share, table
from dissect.runs import folders
from dissect.runs.config import Config
from dissect.tables.results import signed
from dissect.text import plural

QUESTIONS = {"O1": "Propagation withers (the paper's Figure 3):", "O2": "The readout holds (the paper's Figure 4):"}
CONTROLS = {
    "control.kl_only": "gets no gradient from the data: what it keeps says how far pruning came",
    "control.rolled": "reads the vectors of other sessions: the worst case, used by no rule",
}
MODULES = {
    "gnn": "GNN module: share of weights kept against training (the paper's Figure 3)",
    "readout": "Readout: share of weights kept against training (the paper's Figure 4)",
    "encoder": "Encoder: share of weights kept against training",
    "other": "Other matrices: share of weights kept against training",
}
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


def of_group(group: Path, say: Step) -> dict[str, Any]:
    """The section of a group. Raises DataError if nothing of it can be read."""
    config = folders.group_config(group)
    say(f"accuracy of {group.name}")
    entries = entries_of_group(group)
    if not entries:
        again = f"Go on with it: dissect resume {shlex.quote(str(group))}"
        raise DataError(f"{group} has no finished seed that is undamaged.", again)
    means, by_seed = accuracy(entries)
    section = {
        "name": group.name,
        "path": group,
        "config": config,
        "dissected": Config(**config).has_verdict,
        "title": title_of(config),
        "entries": entries,
        "accuracy": means,
        "by_seed": by_seed,
        "figures": [],
        "verdict": None,
    }
    if section["dissected"]:
        say(f"verdict on {group.name}")
        section |= of_verdict(judge(group, judged=planted.judged(str(config["dataset"]))))
        say(f"densities of {group.name}")
        section["figures"] = densities(group) if section["rules"] else []
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
            cells = [f"{test['hr@20']:.2f}", f"{test['mrr@20']:.2f}", ties, epoch, seconds(summary["seconds"])]
            rows.append([f"{entry.variant}, seed {summary['seed']}", *cells])
    metrics = ["HR@20 (%)", "MRR@20 (%)"]
    head = ["variant", *metrics, "ties against it: HR / MRR (%)", "epoch reported", "training"]
    return (
        table(
            "On the test set, mean ± standard deviation over seeds", ["variant", "seeds", *metrics, "left out"], means
        ),
        table("On the test set", head, rows),
    )


def of_verdict(verdict: dict[str, Any]) -> dict[str, Any]:
    """The verdict as texts and tables."""
    found: dict[str, Any] = {"verdict": verdict, "paragraph": verdict["paragraph"], "rules": verdict.get("rules")}
    answers = [{"question": QUESTIONS[name], **verdict[name]} for name in QUESTIONS]
    for role, given in verdict["need"].items():
        question = f"Need of {role} (the model retrained without it):"
        answers.append({"question": question, **given, "reasons": [_loss(given), *given["reasons"]]})
    found["answers"] = answers
    found["roles"] = roles(verdict) if found["rules"] == "shadows" else None
    found["matrices"] = matrices(verdict) if verdict["density"] else None
    found["controls"] = controls(verdict) if verdict["density"] else None
    found["need"] = need(verdict["need"]) if verdict["need"] else None
    found["checks"] = checks(verdict["checks"]) if verdict["checks"] else None
    found["not_run"], found["literal"] = verdict.get("not_run", []), verdict.get("literal")
    found["removable"] = [role for role in verdict["removable"] if role not in verdict["need"]]
    covered = (verdict.get("coverage") or {"roles": {}})["roles"]
    found["not_dissected"] = [
        f"{name} ({role}, {part['weights']:,} weights): {part['reason']}"
        for role, of in covered.items()
        for name, part in of["dense"].items()
    ]
    return found


def roles(verdict: dict[str, Any]) -> Table:
    """What each role keeps beyond its shadows, with the interval, and what unseen data lose without it."""
    rows, bars = [], []
    for role, given in verdict["roles"].items():
        interval = "" if given["low"] is None else f" [{share(given['low'])}, {share(given['high'])}]"
        false = "" if given["false"] is None else f"{100 * given['false']:.0f} %"
        swapped = "" if given.get("swapped") is None else f"{signed(-100 * given['swapped'], 1)} %"
        kept = [share(given["density"]), share(given["shadow"]), share(given["excess"]) + interval]
        rows.append([role, *kept, false, swapped, given["answer"]])
        bars.append((given["density"], given["shadow"]))
    head = ["part", "kept", "shadow keeps", "excess [95 % interval]", "by chance", "swapped inputs", "answer"]
    says = f"Share of weights kept (log α < {verdict['threshold']:g}), {_over(verdict)}"
    return table(f"{says}; change of MRR@20 with swapped inputs, in percent of it", head, rows, bars)


def matrices(verdict: dict[str, Any]) -> Table:
    """Every matrix, and its blocks: weights, what it keeps at three thresholds, and what its shadow keeps."""
    rows, bars = [], []
    for row in verdict["density"]["matrices"]:
        if row["role"] == "control":
            continue
        name = row["matrix"] if not row["block"] else f"{row['matrix']} {row['block']}"
        counts = [share(row[f"kept {t}"]) for t in ("2", "4") if f"kept {t}" in row]
        rows.append([name, row["role"], f"{row['numel']:,}", share(row["density"]), share(row["sd"]),
                     share(row.get("shadow")), *counts])  # fmt: skip
        bars.append((row["density"], row.get("shadow") or 0.0))
    t = f"{verdict['threshold']:g}"
    head = ["matrix or block", "part", "weights", "kept", "sd over seeds", "shadow keeps", "kept, t = 2", "kept, t = 4"]
    return table(
        f"Share of weights kept by each matrix (log α < {t} unless t is given), {_over(verdict)}", head, rows, bars
    )


def controls(verdict: dict[str, Any]) -> Table | None:
    """What the controls keep, which are useless by construction."""
    own = [row for row in verdict["density"]["matrices"] if row["role"] == "control" and not row["block"]]
    rows = [[row["matrix"], share(row["density"]), share(row["sd"]), CONTROLS.get(row["matrix"], "")] for row in own]
    head = ["control", "kept", "sd over seeds", "what it is"]
    return table(f"Controls, useless by construction: share kept, {_over(verdict)}", head, rows) if rows else None


def need(found: dict[str, Any]) -> Table:
    """What MRR@20 loses without a role, in all and by seed."""
    rows = []
    for role, given in found.items():
        values = [percent(given["mrr@20_full"]), percent(given["mrr@20_reduced"])]
        rows.append([f"{role}, all seeds", *values, _interval(given), given["answer"]])
        rows += [[f"{role}, seed {seed}", "", "", _interval(of), of["answer"]] for seed, of in given["by_seed"].items()]
    judged = next(iter(found.values()))["judged_prefixes"]
    head = ["without", "MRR@20 whole (%)", "MRR@20 without (%)", "loss in % [95 % interval]", "answer"]
    return table(f"Models retrained without a part; {judged:,} test prefixes, limit {100 * NEED_LIMIT:g} %", head, rows)


def _interval(given: dict[str, Any]) -> str:
    if given["loss"] is None:
        return ""
    loss, low, high = (None if given[name] is None else 100 * given[name] for name in ("loss", "low", "high"))
    return signed(loss) + ("" if low is None else f" [{signed(low)}, {signed(high)}]")


def _loss(given: dict[str, Any]) -> str:
    whole, without = percent(given["mrr@20_full"]), percent(given["mrr@20_reduced"])
    return f"MRR@20 {whole} % with it, {without} % without: a loss of {_interval(given) or 'unknown size'} %"


def checks(found: dict[str, dict[str, float]]) -> Table:
    """Accuracy of the trained model with a part switched off, or with the inputs of other sessions in it."""
    words = {name: f"{name.removeprefix('swapped_')} on the inputs of other sessions" for name in found}
    words |= {name: says for name, (_, says) in CHECKS.items()}
    whole = found.get("masked", {}).get("mrr@20")
    rows = [
        [words[name], percent(of["hr@20"]), percent(of["mrr@20"]),
         signed(100 * (of["mrr@20"] / whole - 1), 1) if whole else ""]
        for name, of in found.items()
    ]  # fmt: skip
    head = ["the trained model", "HR@20 (%)", "MRR@20 (%)", "change of MRR@20 (%)"]
    return table("Quick checks on the test set, means over seeds; nothing is trained again", head, rows)


def _over(verdict: dict[str, Any]) -> str:
    return f"mean of {plural(len(verdict['seeds']), 'seed')}"


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
