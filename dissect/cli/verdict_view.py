"""A verdict on the screen: densities as bars, checks, and the answers with their reasons in plain words."""

from __future__ import annotations

from typing import Any

from rich.bar import Bar
from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from dissect.cli.text_table import plain

SHOWN = 12  # lines of a list, at most
QUESTIONS = {"O1": "O1  propagation withers (Figure 3)", "O2": "O2  the readout holds (Figure 4)"}
STYLES = {"holds": "green", "fails": "red", "undecided": "yellow", "redundant": "green", "needed": "red"}
CHECKS = {
    "masked": "as evaluated: weights with log α above the threshold are zero",
    "mean": "all weights at their means",
    "propagation_zero": "trained model, messages set to zero",
    "gnn_bypassed": "trained model, GNN module bypassed",
    "attention_uniform": "trained model, attention replaced by its mean",
}


def render_verdict(verdict: dict[str, Any]) -> Group:
    """The whole verdict as something that rich can print."""
    parts: list[RenderableType] = [heading(verdict)]
    if verdict["density"]:
        parts += [density_bars(verdict), dense_weights(verdict.get("coverage") or {"roles": {}})]
    if verdict["checks"]:
        parts.append(check_table(verdict["checks"]))
    parts.append(Text("\nVerdict", style="bold"))
    first, second = verdict["O1"], verdict["O2"]
    common = [r for r in first["reasons"] if r in second["reasons"] and first["answer"] == "undecided"]
    for name, question in QUESTIONS.items():
        own = [reason for reason in verdict[name]["reasons"] if reason not in common]
        parts.append(answer_text(f"{question}: ", {**verdict[name], "reasons": own}))
    if common:
        parts.append(answer_text("O1 and O2 are ", {"answer": "undecided", "reasons": common}, " because:"))
    for role, given in verdict["need"].items():
        parts.append(answer_text(f"need  for {role}: ", {**given, "reasons": [need_words(given), *given["reasons"]]}))
    if not verdict["need"] and verdict["where"] != "none":
        parts.append(answer_text("need: ", {"answer": "not asked", "reasons": [need_hint(verdict["removable"])]}))
    return Group(*parts)


def heading(verdict: dict[str, Any]) -> Text:
    seeds, accuracy = verdict["seeds"], verdict["accuracy"]
    lines = [
        f", {verdict['steps']:,} steps, seed{'s' * (len(seeds) != 1)} {', '.join(map(str, seeds)) or 'none finished'}",
        "where {where}, prior {prior}, noise {noise}, KL weight {kl_weight:g}".format_map(verdict),
    ]
    if verdict["need"]:
        lines.append('These numbers are of the full model; "need" below says what it loses without a role.')
    if test := accuracy.get("test"):
        bias, worst = accuracy["selection_bias"], accuracy.get("test_worst_ties") or test  # absent in the oldest runs
        lines.append(f"test: HR@20 {test['hr@20']:.2f}, MRR@20 {test['mrr@20']:.2f} at the final step")
        if worst["mrr@20"] < 0.995 * test["mrr@20"]:
            lines[-1] += f"; {worst['hr@20']:.2f} and {worst['mrr@20']:.2f} with ties counted against the target"
        if bias:
            lines.append(f"(choosing the epoch on test would add {bias['hr@20']:.2f} and {bias['mrr@20']:.2f})")
    return Text(f"\n{verdict['model']} on {verdict['dataset']}", "bold").append("\n".join(lines), "not bold")


def density_bars(verdict: dict[str, Any]) -> Table:
    """Matrices and blocks with the share of weights kept, at three thresholds and at that of the useless control."""
    if verdict.get("rules") == "shadows":
        return shadow_bars(verdict)
    at = sorted({f"{value:g}" for value in verdict["density"]["beyond_control_at"].values()}, key=float)
    t, more = f"{verdict['threshold']:g}", ("beyond",) if at else ()
    caption = f"beyond: kept below log α = {', '.join(at)}, where control.rolled keeps at most 5 %" if at else None
    title, numbers = f"\nDensity: share of weights with log α < {t}", ("t = 2", f"t = {t}", "t = 4", *more)
    columns = ("matrix", "role", *numbers[:3], "", *more)
    table = plain(columns, numbers, title, caption=caption)
    for row in (row for row in verdict["density"]["matrices"] if "/" not in row["block"]):  # too fine for the screen
        names = (f"  {row['block']}", "") if row["block"] else (row["matrix"], row["role"])
        shares = [f"{row[name]:.3f}" for name in ("kept 2", "density", "kept 4", *(["beyond_control"] if at else []))]
        style = "dim" if row["block"] or row["role"] == "control" else ""
        table.add_row(*names, *shares[:3], Bar(1, 0, row["density"], width=16), *shares[3:], style=style)
    return table


def shadow_bars(verdict: dict[str, Any]) -> Table:
    """Matrices and blocks with the share of weights kept, and what their shadows keep."""
    t = f"{verdict['threshold']:g}"
    title = f"\nDensity: share of weights with log α < {t}"
    caption = "shadow: what a matrix keeps that is useless by construction, at the same place"
    table = plain(("matrix", "role", f"t = {t}", "shadow", ""), (f"t = {t}", "shadow"), title, caption=caption)
    for row in (row for row in verdict["density"]["matrices"] if "/" not in row["block"]):
        names = (f"  {row['block']}", "") if row["block"] else (row["matrix"], row["role"])
        shadow = "" if row["shadow"] is None else f"{row['shadow']:.3f}"
        style = "dim" if row["block"] or row["role"] == "control" else ""
        table.add_row(*names, f"{row['density']:.3f}", shadow, Bar(1, 0, row["density"], width=24), style=style)
    return table


def check_table(checks: dict[str, dict[str, float]]) -> Table:
    numbers = ("HR@20", "MRR@20")
    table = plain(("", *numbers), numbers, "\nQuick checks on test, at the end of training")
    for name, values in checks.items():
        table.add_row(CHECKS.get(name, name), f"{values['hr@20']:.2f}", f"{values['mrr@20']:.2f}")
    return table


def dense_weights(coverage: dict[str, Any]) -> Text:
    """The weights that no density covers, a line for each name; without those that --where has left out."""
    dense = [(role, *item) for role, share in coverage["roles"].items() for item in share["dense"].items()]
    lines = [
        f"\n  {name}, {'no role' if name in coverage['undeclared'] else role}, {part['weights']:,} weights: "
        + part["reason"]
        for role, name, part in dense
        if part["reason"] != "not chosen"
    ]
    more = f"\n  and {len(lines) - SHOWN} more: --json" if len(lines) > SHOWN else ""
    text = Text("\nNot dissected, so not in the densities above:" if lines else "", style="yellow")
    return text.append("".join(lines[:SHOWN]) + more, style="not bold")


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
    changes = [
        f"{name.upper()} goes from {given[f'{name}_full']:.2f} to {given[f'{name}_reduced']:.2f}"
        for name in ("hr@20", "mrr@20")
        if f"{name}_full" in given  # older verdicts have MRR only
    ]
    words = f"without it, {' and '.join(changes)}"
    if given["loss"] is not None:
        words += f": a relative loss of {100 * given['loss']:.2f} % in MRR@20"
    if given["low"] is not None:
        words += f", 95 % interval (seeds and sessions) {100 * given['low']:.2f} to {100 * given['high']:.2f} %"
    return words


def need_hint(removable: list[str]) -> str:
    """How to ask for need, with the roles that this model can do without."""
    if not removable:
        return "this model cannot be built without a role: its class names none in `removable`"
    return f"train the model without a role ({', '.join(removable)}): the same command with --without {removable[0]}"
