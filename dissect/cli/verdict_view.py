"""A verdict on the screen: densities as bars, checks, and the answers with their reasons in plain words."""

from __future__ import annotations

from typing import Any

from rich.console import Group
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from dissect.cli.live import bar

SHOWN = 12  # lines of a list, at most
QUESTIONS = {
    "O1": "O1  propagation withers (Figure 3)",
    "O2": "O2  the readout holds (Figure 4)",
}
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
    parts: list[Any] = [heading(verdict)]
    if verdict["density"]:
        parts.append(density_bars(verdict))
        parts.append(dense_weights(verdict.get("coverage")))
    if verdict["checks"]:
        parts.append(check_table(verdict))
    parts.append(Text("\nVerdict", style="bold"))
    common = [
        reason
        for reason in verdict["O1"]["reasons"]
        if reason in verdict["O2"]["reasons"] and not reason.startswith("by the figures")
    ]
    if verdict["O1"]["answer"] == "not applicable":
        common = []
    for name, question in QUESTIONS.items():
        own = [reason for reason in verdict[name]["reasons"] if reason not in common]
        parts.append(answer_text(question, {**verdict[name], "reasons": own}))
    if common:
        parts.append(answer_text("O1 and O2 stay", {"answer": "undecided", "reasons": common}, "while"))
    for role, given in verdict["need"].items():
        parts.append(answer_text(f"need  of {role}", {**given, "reasons": [need_words(given), *given["reasons"]]}))
    if not verdict["need"] and verdict["where"] != "none":
        parts.append(answer_text("need", {"answer": "not asked", "reasons": [need_hint(verdict["removable"])]}))
    return Group(*parts)


def heading(verdict: dict[str, Any]) -> Text:
    seeds = ", ".join(map(str, verdict["seeds"])) or "none finished"
    text = Text(f"\n{verdict['model']} on {verdict['dataset']}", style="bold")
    text.append(
        f", {verdict['steps']:,} steps, seed{'s' * (len(verdict['seeds']) != 1)} {seeds}\n"
        f"where {verdict['where']}, prior {verdict['prior']}, noise {verdict['noise']}, "
        f"KL weight {verdict['kl_weight']:g}",
        style="not bold",
    )
    if verdict["need"]:
        text.append("\nthe full model; what it loses without a role stands under need", style="not bold")
    test = verdict["accuracy"].get("test")
    if test:
        bias = verdict["accuracy"]["selection_bias"]  # not on record in the oldest runs
        worst = verdict["accuracy"].get("test_worst_ties") or test
        ties = f"; {worst['hr@20']:.2f} and {worst['mrr@20']:.2f} where ties count against the target"
        text.append(
            f"\ntest: HR@20 {test['hr@20']:.2f}, MRR@20 {test['mrr@20']:.2f} at the final step"
            + (ties if worst["mrr@20"] < 0.995 * test["mrr@20"] else "")
            + (
                f"\n(choosing the epoch on test would add {bias['hr@20']:.2f} and {bias['mrr@20']:.2f})" if bias else ""
            ),
            style="not bold",
        )
    return text


def density_bars(verdict: dict[str, Any]) -> Table:
    """Matrices and blocks with the share of weights kept, at three thresholds and at that of the useless control."""
    at = sorted({f"{value:g}" for value in verdict["density"]["beyond_control_at"].values()}, key=float)
    table = Table(
        box=None,
        padding=(0, 1),
        title=f"\nDensity: share of weights with log α < {verdict['threshold']:g}",
        title_justify="left",
        title_style="bold",
        caption=f"beyond: where control.rolled keeps at most 5 %, at log α < {', '.join(at)}" if at else None,
        caption_justify="left",
    )
    for name in ("matrix", "role"):
        table.add_column(name, no_wrap=True)
    for name in ("t = 2", f"t = {verdict['threshold']:g}", "t = 4"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    if at:
        table.add_column("beyond", justify="right", no_wrap=True)
    for row in verdict["density"]["matrices"]:
        block = row["block"]
        if "/" in block:  # in verdict.json, and too fine for the screen
            continue
        values = (
            f"{row['kept 2']:.3f}",
            f"{row['density']:.3f}",
            f"{row['kept 4']:.3f}",
            bar(row["density"], 16),
            *([f"{row['beyond_control']:.3f}"] if at else []),
        )
        style = "dim" if block or row["role"] == "control" else ""
        table.add_row(f"  {block}" if block else row["matrix"], "" if block else row["role"], *values, style=style)
    return table


def dense_weights(coverage: dict[str, Any] | None) -> Text:
    """The weights that no density speaks for, a line for each name; without those that --where has left out."""
    lines = []
    for role, share in (coverage or {"roles": {}})["roles"].items():
        for name, part in share["dense"].items():
            known_as = "no role" if coverage and name in coverage["undeclared"] else role
            if part["reason"] != "not chosen":
                lines.append(f"\n  {name}, {known_as}, {part['weights']:,} weights: {part['reason']}")
    more = f"\n  and {len(lines) - SHOWN} more: --json" if len(lines) > SHOWN else ""
    text = Text("\nNot dissected, so not in the densities above:" if lines else "", style="yellow")
    return text.append("".join(lines[:SHOWN]) + more, style="not bold")


def check_table(verdict: dict[str, Any]) -> Table:
    table = Table(
        box=None,
        padding=(0, 1),
        title="\nQuick checks on test, at the end of training",
        title_justify="left",
        title_style="bold",
    )
    table.add_column("", no_wrap=True)
    table.add_column("HR@20", justify="right")
    table.add_column("MRR@20", justify="right")
    for name, values in verdict["checks"].items():
        table.add_row(CHECKS.get(name, name), f"{values['hr@20']:.2f}", f"{values['mrr@20']:.2f}")
    return table


def answer_text(question: str, given: dict[str, Any], then: str = "") -> Group:
    """A question with its answer, and the reasons below it, indented on every line that they take."""
    text = Text(f"  {question}{'' if then else ':'} ")
    text.append(given["answer"], style=f"bold {STYLES.get(given['answer'], '')}")
    text.append(f" {then}" if then else "")
    return Group(text, *(Padding(Text(reason, style="dim"), (0, 0, 0, 6), expand=False) for reason in given["reasons"]))


def need_words(given: dict[str, Any]) -> str:
    words = "without it "
    if "hr@20_full" in given:  # older verdicts have MRR only
        words += f"HR@20 goes from {given['hr@20_full']:.2f} to {given['hr@20_reduced']:.2f}, "
    words += f"MRR@20 from {given['mrr@20_full']:.2f} to {given['mrr@20_reduced']:.2f}"
    if given["loss"] is None:
        return words
    words += f": a loss of {100 * given['loss']:.2f} %"
    if given["low"] is None:
        return words
    return (
        f"{words} [{100 * given['low']:.2f}, {100 * given['high']:.2f}] "
        f"(95 %, seeds and sessions), by the figures {given['figures_say']}"
    )


def need_hint(removable: list[str]) -> str:
    """How to ask for need: with the roles that this model can be built without."""
    if not removable:
        return "this model cannot be built without a role: its class names none in `removable`"
    return f"train the model without a role ({', '.join(removable)}): the same command with --without {removable[0]}"
