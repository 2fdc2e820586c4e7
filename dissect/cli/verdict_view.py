"""A verdict on the screen: densities as bars, checks, and the answers with their reasons in plain words."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.bar import Bar
from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.text import Text

from analyses.answers import CHECKS, NOT_APPLICABLE
from dissect.cli.screen import plain
from dissect.runs.config import Config
from dissect.runs.folders import group_runs
from dissect.text import percent, plural, shortest_ends

SHOWN = 12  # lines of a list, at most
CAPTION = "excess: kept - shadow, 95 %; false: kept by chance; swapped: change of MRR@20"
ROLES_BRIEFLY = {"transformation": "transform."}
QUESTIONS = {"O1": "O1  propagation withers (Figure 3)", "O2": "O2  the readout holds (Figure 4)"}
STYLES = {"holds": "green", "fails": "red", "undecided": "yellow", "redundant": "green", "needed": "red"}


def render_verdict(verdict: dict[str, Any], group: Path | None = None) -> Group:
    """The whole verdict as something that rich can print: first a paragraph to quote, then the evidence.

    `group` is its folder: where no seed is finished, the command that goes on is told.
    """
    parts: list[RenderableType] = [heading(verdict)]
    if "paragraph" in verdict and verdict["seeds"]:
        parts.append(Text(f"\n{verdict['paragraph']}"))
    if verdict["density"]:
        parts.append(density_bars(verdict))
        parts += dense_weights(verdict.get("coverage") or {"roles": {}})
    if verdict["checks"]:
        parts.append(checks_in_words(verdict) if verdict.get("rules") == "shadows" else check_table(verdict["checks"]))
    parts.append(Text("\nVerdict", style="bold"))
    first, second = verdict["O1"], verdict["O2"]
    common = [doubt for doubt in first["doubts"] if doubt in second["doubts"]]
    for name, question in QUESTIONS.items():
        said = [*common, *(first["reasons"] if name == "O2" else ())]
        own = [reason for reason in verdict[name]["reasons"] if reason not in said]
        parts.append(answer_text(f"{question}: ", {**verdict[name], "reasons": own}))
    if common:
        parts.append(answer_text("O1 and O2 are ", {"answer": "undecided", "reasons": common}, " because:"))
    if {first["answer"], second["answer"]} == {NOT_APPLICABLE}:  # then no question has the doubts about the roles
        doubted = {role: of for role, of in verdict.get("roles", {}).items() if of["doubts"]}
        parts += [answer_text(f"{role}: ", {**of, "reasons": of["doubts"]}) for role, of in doubted.items()]
    for role, given in verdict["need"].items():
        parts.append(answer_text(f"need  for {role}: ", {**given, "reasons": [need_words(given), *given["reasons"]]}))
    if not verdict["need"] and verdict["where"] != "none":
        parts.append(answer_text("need: ", {"answer": "not asked", "reasons": [need_hint(verdict, group)]}))
    parts += beside(verdict)
    return Group(*parts)


def render_path(verdicts: Sequence[dict[str, Any]], runs_dir: str = "") -> Group:
    """Verdicts that differ in the KL weight, a line for each: what the roles keep and what their shadows keep.

    `runs_dir` is where their groups are, if that is not the usual place.
    """
    first = verdicts[0]
    roles = [role for role in first["density"]["roles"] if role not in ("control", "shadow")]
    names = ("KL", "MRR@20", *(ROLES_BRIEFLY.get(role, role) for role in roles), *QUESTIONS)
    title = f"\n{first['model']} on {first['dataset']}: share of weights kept (of shadows), {over(first)}"
    table = plain(names, names[: len(roles) + 2])
    for verdict in sorted(verdicts, key=lambda each: float(each["kl_weight"])):
        shadows = {role: given["shadow"] for role, given in verdict.get("roles", {}).items()}
        kept = [
            f"{verdict['density']['roles'][role]:.2f}" + (f" ({shadows[role]:.2f})" if role in shadows else "")
            for role in roles
        ]
        accuracy = f"{verdict['accuracy']['test']['mrr@20']:.2f}"
        table.add_row(f"{verdict['kl_weight']:g}", accuracy, *kept, *(verdict[name]["answer"] for name in QUESTIONS))
    lines = []
    if matched := (first.get("matched") or {}).get("mrr@20"):
        lines.append(f"MRR@20 of the matched dense model: {matched:.2f}.")
    named = [shlex.quote(f"{runs_dir}/{each['group']}" if runs_dir else each["group"]) for each in verdicts]
    lines += [f"Draw it:       dissect plot path {named[0]}", "Each verdict:  "]
    lines[-1] += "\n               ".join(f"dissect verdict {name}" for name in named)
    below = (Padding(Text(line), (0, 0, 0, 2), expand=False) for line in lines)
    return Group(Text(title, "bold"), table, *below)


def beside(verdict: dict[str, Any]) -> list[RenderableType]:
    """What the paper's own measure says, and the checks that were not run."""
    lines = []
    if literal := verdict.get("literal"):
        says = ", ".join(f"{name} {literal[name]['figures_say']}" for name in QUESTIONS)
        how = f"--literal, {plural(literal['steps'], 'step')}, {plural(len(literal['seeds']), 'seed')}"
        lines.append(f"With the published settings ({how}), density alone says: {says}.")
    if verdict.get("not_run"):
        lines.append(f"Not run: the same command with {', or '.join(verdict['not_run'])}.")
    if verdict.get("rules") == "density":
        lines.append("Judged by the rules for runs without shadows.")
    if not verdict.get("apart", True):
        how = "shadows and controls ran within the model and may have changed it."
        lines.append(f"From an earlier version, in which {how}")
    return [Padding(Text(line, style="dim"), (0, 0, 0, 2), expand=False) for line in lines]


def heading(verdict: dict[str, Any]) -> Text:
    seeds, accuracy = verdict["seeds"], verdict["accuracy"]
    numbers = f"seed{'s' * (len(seeds) != 1)} {', '.join(map(str, seeds))}" if seeds else "no seed finished"
    lines = [f", {plural(verdict['steps'], 'step')}, {numbers}"]
    is_new = verdict.get("rules") == "shadows"  # then the paragraph has the accuracy
    usual = [getattr(Config, name) for name in ("where", "prior", "noise")]
    if not is_new or [verdict[name] for name in ("where", "prior", "noise")] != usual:
        lines.append("SparseVD on: {where}; prior {prior}, noise {noise}, KL weight {kl_weight:g}".format_map(verdict))
    if test := accuracy.get("test"):
        bias, worst = accuracy["selection_bias"], accuracy.get("test_worst_ties") or test  # absent in the oldest runs
        says = f"test: HR@20 {test['hr@20']:.2f}, MRR@20 {test['mrr@20']:.2f} at the final step"
        if worst["mrr@20"] < 0.995 * test["mrr@20"]:
            says += f"; {worst['hr@20']:.2f} and {worst['mrr@20']:.2f} with ties counted against the target"
        lines += [] if is_new and ";" not in says else [says]
        if bias and not is_new:
            lines.append(f"(choosing the epoch on test would add {bias['hr@20']:.2f} and {bias['mrr@20']:.2f})")
    return Text(f"\n{verdict['model']} on {verdict['dataset']}", "bold").append("\n".join(lines), "not bold")


def density_bars(verdict: dict[str, Any]) -> Group:
    """Matrices and blocks with the share of weights kept, at three thresholds and at that of the useless control."""
    if verdict.get("rules") == "shadows":
        return shadow_bars(verdict)
    at = sorted({f"{value:g}" for value in verdict["density"]["beyond_control_at"].values()}, key=float)
    t, more = f"{verdict['threshold']:g}", ("beyond",) if at else ()
    caption = f"beyond: kept below log α = {', '.join(at)}, where control.rolled keeps at most 5 %"
    title, numbers = f"\nDensity: share of weights with log α < {t}", ("t = 2", f"t = {t}", "t = 4", *more)
    columns = ("matrix", "role", *numbers[:3], "", *more)
    table = plain(columns, numbers)
    for row in (row for row in verdict["density"]["matrices"] if "/" not in row["block"]):  # too fine for the screen
        names = (f"  {row['block']}", "") if row["block"] else (row["matrix"], row["role"])
        shares = [f"{row[name]:.3f}" for name in ("kept 2", "density", "kept 4", *(["beyond_control"] if at else []))]
        style = "dim" if row["block"] or row["role"] == "control" else ""
        table.add_row(*names, *shares[:3], Bar(1, 0, row["density"], width=16), *shares[3:], style=style)
    return Group(Text(title, "bold"), table, *[Text(caption, "dim")] * bool(at))


def shadow_bars(verdict: dict[str, Any]) -> Group:
    """Roles, and their matrices, with the share of weights kept and what their shadows keep."""
    columns = ("", "kept", "shadow", "excess", "false", "swapped", "")
    title = f"\nShare of weights kept (log α < {verdict['threshold']:g}), {over(verdict)}"
    table = plain(columns, columns[1:6])
    whole = [row for row in verdict["density"]["matrices"] if not row["block"]]
    for role, given in verdict["roles"].items():
        interval = "" if given["low"] is None else f"{share(given['low'])} to {share(given['high'])}"
        false = "" if given["false"] is None else percent(given["false"], 0)
        numbers = [f"{given['density']:.3f}", f"{given['shadow']:.3f}", interval or f"{given['excess']:.3f}", false]
        swapped = "" if given.get("swapped") is None else percent(-given["swapped"], sign="+")
        table.add_row(role, *numbers, swapped, Text(given["answer"], STYLES.get(given["answer"], "")), style="bold")
        own = [row for row in whole if row["role"] == role]
        ends = shortest_ends([row["matrix"] for row in own])
        for row in own[:SHOWN]:
            shares = [f"{row['density']:.3f}", "" if row["shadow"] is None else f"{row['shadow']:.3f}"]
            table.add_row(f"  {ends[row['matrix']]}", *shares, "", "", "", Bar(1, 0, row["density"], width=14))
        if len(own) > SHOWN:
            table.add_row(f"  and {len(own) - SHOWN} more: --json")
    for row in (row for row in whole if row["role"] == "control"):
        table.add_row(
            row["matrix"], f"{row['density']:.3f}", "", "", "", "", Bar(1, 0, row["density"], width=14), style="dim"
        )
    return Group(Text(title, "bold"), table, Text(CAPTION, "dim"))


def share(value: float) -> str:
    """Three digits, and no sign of what is rounded to 0."""
    return f"{value:.3f}".removeprefix("-" if abs(value) < 0.0005 else "+")


def over(verdict: dict[str, Any]) -> str:
    seeds = len(verdict["seeds"])
    return "one seed" if seeds == 1 else f"mean of {seeds} seeds"


def checks_in_words(verdict: dict[str, Any]) -> Text:
    """The quick checks in a sentence or two."""
    shown = {name: values for name, values in verdict["checks"].items() if not name.startswith("swapped")}
    says = [f"{CHECKS.get(name, (name,))[0]} {values['mrr@20']:.2f}" for name, values in shown.items()]
    return Text("\nMRR@20 of the trained model: ", style="bold").append(f"{', '.join(says)}.", style="not bold")


def check_table(checks: dict[str, dict[str, float]]) -> Group:
    numbers = ("HR@20", "MRR@20")
    table = plain(("", *numbers), numbers)
    for name, values in checks.items():
        of = "trained model, " if name in CHECKS and name not in ("masked", "mean") else ""
        table.add_row(of + CHECKS.get(name, (name,))[-1], f"{values['hr@20']:.2f}", f"{values['mrr@20']:.2f}")
    return Group(Text("\nQuick checks on test, at the end of training", "bold"), table)


def dense_weights(coverage: dict[str, Any]) -> list[RenderableType]:
    """The weights that no density covers, a line for each name; without those that --where has left out."""
    dense = [(role, *item) for role, share in coverage["roles"].items() for item in share["dense"].items()]
    lines = [
        f"\n  {name}, {'no role' if name in coverage['undeclared'] else role}, {part['weights']:,} weights: "
        + part["reason"]
        for role, name, part in dense
        if part["reason"] != "not chosen"
    ]
    more = f"\n  and {len(lines) - SHOWN} more: --json" if len(lines) > SHOWN else ""
    text = Text("\nNot dissected, so not in the densities above:", style="yellow")
    return [text.append("".join(lines[:SHOWN]) + more, style="not bold")] if lines else []


def answer_text(question: str, given: dict[str, Any], then: str = "") -> Group:
    """A question with its answer, and the reasons below it, indented on every line that they take."""
    text = Text(f"  {question}").append(given["answer"], style=f"bold {STYLES.get(given['answer'], '')}")
    without_doubts = given.get("figures_say", given["answer"])
    if without_doubts != given["answer"]:
        text.append(f" (the numbers alone say: {without_doubts})")
    reasons = (Padding(Text(reason, style="dim"), (0, 0, 0, 6), expand=False) for reason in given["reasons"])
    return Group(text.append(then), *reasons)


def need_words(given: dict[str, Any]) -> str:
    """The loss of the model without a role, with the interval if there is one."""
    words = f"MRR@20 {given['mrr@20_full']:.2f}, without it {given['mrr@20_reduced']:.2f}"
    if given["loss"] is not None:
        words += f": a loss of {100 * given['loss']:.2f} %"
    if given["low"] is not None:
        words += f" (95 %: {100 * given['low']:.2f} to {100 * given['high']:.2f})"
    return words


def need_hint(verdict: dict[str, Any], group: Path | None = None) -> str:
    """How to ask for need, with the parts that this model can do without."""
    removable = verdict["removable"]
    if not verdict["seeds"] and group is not None and group_runs(group):
        return f"go on with the training: dissect resume {shlex.quote(str(group))}"
    if not verdict["seeds"]:
        return "train the whole model: the same command without --without"
    if not removable:
        return "this model cannot be built without a part: its class names none in `removable`"
    return f"train the model without a part ({', '.join(removable)}): the same command with --without {removable[0]}"
