"""A verdict as words and tables, for the screen and for a report."""

from __future__ import annotations

import io
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console, RenderableType, group
from rich.padding import Padding
from rich.text import Text

from analyses.answers import CHECKS, NOT_APPLICABLE, UNDECIDED
from analyses.need import NEED_LIMIT
from dissect.runs.config import Config
from dissect.runs.folders import group_runs
from dissect.tables.cells import number, over, share, signed
from dissect.tables.text import COLOURS, Table, by_rows
from dissect.text import decimal, percent, plural, shortest_ends

SHOWN = 12  # lines of a list, at most
LINES = 40  # of a verdict on a screen of 80 columns
PARTS = ("part", "kept", "shadow", "excess", "by chance", "swapped", "answer")
CAPTION = "excess: kept - shadow, 95 %; by chance: of kept; swapped: change of MRR@20"
MATRICES = ("matrix", "part", "weights", "kept", "sd", "shadow", "t = 2", "t = 4", "beyond")
BRIEFLY = {"transformation": "transform."}
QUESTIONS = {"O1": "O1  propagation withers (Figure 3)", "O2": "O2  the readout holds (Figure 4)"}
Verdict = dict[str, Any]


def on_screen(verdict: Verdict, folder: Path | None = None) -> RenderableType:
    """The whole verdict: first a paragraph to quote, then the evidence, and the answers with their reasons.

    On 80 columns it has at most LINES lines, if fewer matrices make room for it. `folder` is that of its group: where
    no seed is finished, the command that goes on is told.
    """
    console = Console(width=80, file=io.StringIO())
    for most in range(SHOWN, -1, -1):
        shown = _evidence(verdict, folder, most)
        if len(console.render_lines(shown)) <= LINES:
            break
    return shown


@group()
def _evidence(verdict: Verdict, folder: Path | None, most: int) -> Iterator[RenderableType]:
    """What `on_screen` shows, with at most so many matrices of a role."""
    is_new = verdict.get("rules") == "shadows"
    quoted = verdict.get("paragraph") if verdict["seeds"] else ""
    if not quoted:
        yield title(verdict)
    yield from map(Text, settings(verdict))
    if quoted:
        yield Text(quoted)
    if verdict["density"]:
        yield Text()
        yield parts(verdict, most) if is_new else matrices(verdict, is_brief=True)
        if dense := not_dissected(verdict, but="not chosen"):
            dense[SHOWN:] = [f"and {len(dense) - SHOWN} more: --json"] * (len(dense) > SHOWN)
            yield Text("\nNot dissected, so not in the densities above:", "yellow")
            yield from (Text(f"  {words}") for words in dense)
    if verdict["checks"] and is_new:
        says = (f"{CHECKS.get(name, (name,))[0]} {of['mrr@20']:.2f}" for name, of in verdict["checks"].items()
                if not name.startswith("swapped"))  # fmt: skip
        yield Text("\nMRR@20 of the trained model: ", "bold").append(f"{', '.join(says)}.", "not bold")
    elif verdict["checks"]:
        yield Text()
        yield checks(verdict["checks"])
    yield Text()
    for of in answers(verdict, folder):
        words = Text(f"{of['question']}: ").append(of["answer"], f"bold {COLOURS.get(of['answer'], '')}")
        words.append(f", {of['numbers']}" * bool(of["numbers"]))
        yield words.append(f" (the numbers alone say: {of['figures_say']})" * (of["figures_say"] != of["answer"]))
        yield from (indented(reason, 4) for reason in of["reasons"])
    yield from (Text(words, "dim") for words in beside(verdict))


def indented(words: str, by: int, style: str = "dim") -> Padding:
    """Words that are folded, with an indent before every line."""
    return Padding(Text(words, style), (0, 0, 0, by), expand=False)


def title(verdict: Verdict) -> Text:
    """What was dissected, where no paragraph tells it."""
    seeds = verdict["seeds"]
    numbers = f"seed{'s' * (len(seeds) != 1)} {', '.join(map(str, seeds))}" if seeds else "no seed finished"
    words = f", {plural(verdict['steps'], 'step')}, {numbers}"
    return Text(f"\n{verdict['model']} on {verdict['dataset']}", "bold").append(words, "not bold")


def settings(verdict: Verdict) -> list[str]:
    """How it was dissected, where that is not usual, and the accuracy that no paragraph has."""
    accuracy, is_new = verdict["accuracy"], verdict.get("rules") == "shadows"
    lines = []
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
    return lines


# --- tables -------------------------------------------------------------------------------------------------


def parts(verdict: Verdict, most: int = SHOWN) -> Table:
    """Roles with their matrices, and the controls: the share of weights kept, and what their shadows keep.

    Of a role at most so many matrices, those that keep most; with 0 none, and a note says where they are.
    """
    whole = [row for row in verdict["density"]["matrices"] if not row["block"]]

    def kept(of: dict[str, Any]) -> list[str]:
        return [share(of["density"]), share(of.get("shadow"))]

    found: list[tuple[list[str], str, dict[str, Any]]] = []
    for role, given in verdict["roles"].items():
        excess = share(given["excess"])
        excess = excess if given["low"] is None else f"{share(given['low'])} to {share(given['high'])}"
        false = "" if given["false"] is None else percent(given["false"], 0)
        swapped = "" if given.get("swapped") is None else percent(-given["swapped"], sign="+")
        found.append(([role, *kept(given), excess, false, swapped, given["answer"]], "bold", given))
        own = [row for row in whole if row["role"] == role]
        ends = shortest_ends([row["matrix"] for row in own])
        own = own if len(own) > 1 else []  # the line of a single matrix would say what that of its role says
        densest = sorted(own, key=lambda row: -row["density"])[:most]
        found += [([f"  {ends[row['matrix']]}", *kept(row)], "", row) for row in own if row in densest]
        if 0 < most < len(own):
            found.append(([f"  and {len(own) - most} more: --json"], "", {}))
    found += [([row["matrix"], *kept(row)], "dim", row) for row in whole if row["role"] == "control"]
    title = f"Share of weights kept (log α < {verdict['threshold']:g}), {over(len(verdict['seeds']))}"
    rows, styles, of = zip(*found)
    notes = [CAPTION, "bars: kept" if most else "single matrices: --json, or dissect plot density"]
    return by_rows(title, PARTS, rows, notes=notes, styles=styles, bars=[*map(shares, of)] if most else ())


def shares(row: dict[str, Any]) -> tuple[float, float] | None:
    """What a bar shows of a row: what it keeps, and what its shadow keeps."""
    return (row["density"], row.get("shadow") or 0.0) if row else None


def matrices(verdict: Verdict, is_brief: bool = False) -> Table:
    """Every matrix, and its blocks: what it keeps at three thresholds and at that of the useless control.

    On the screen there is no room for the finest blocks, for sizes and for what differs between seeds: `is_brief`.
    """
    found = [row for row in verdict["density"]["matrices"] if not (is_brief and "/" in row["block"])]
    at = sorted({f"{value:g}" for value in verdict["density"]["beyond_control_at"].values()}, key=float)
    counts = ("density", "sd", "shadow", "kept 2", "kept 4", *["beyond_control"] * bool(at))
    rows = [
        [f"  {row['block']}" if row["block"] else row["matrix"], row["role"], f"{row['numel']:,}",
         *(share(row.get(name)) for name in counts)]
        for row in found
    ]  # fmt: skip
    title = f"Share of weights kept (log α < {verdict['threshold']:g}, or t), {over(len(verdict['seeds']))}"
    notes = [f"beyond: kept below log α = {', '.join(at)}, where control.rolled keeps at most 5 %"] * bool(at)
    styles = ["dim" if row["block"] or row["role"] == "control" else "" for row in found]
    table = by_rows(title, MATRICES, rows, notes=notes, styles=styles, bars=[*map(shares, found)])
    return table.without("weights", "sd") if is_brief else table


def need(verdict: Verdict) -> Table:
    """What MRR@20 loses without a role, in all and by seed."""
    rows = []
    for role, given in verdict["need"].items():
        values = [number(given["mrr@20_full"]), number(given["mrr@20_reduced"])]
        rows.append([f"{role}, all seeds", *values, loss(given), given["answer"]])
        rows += [[f"{role}, seed {seed}", "", "", loss(of), of["answer"]] for seed, of in given["by_seed"].items()]
    judged = next(iter(verdict["need"].values()))["judged_prefixes"]
    head = ("without", "MRR@20 whole (%)", "MRR@20 without (%)", "loss in % [95 % interval]", "answer")
    title = f"Models retrained without a part; {judged:,} test prefixes, limit {100 * NEED_LIMIT:g} %"
    return by_rows(title, head, rows)


def loss(given: dict[str, Any]) -> str:
    """A loss in percent, with its interval if there is one."""
    at, low, high = (None if given[name] is None else signed(100 * given[name]) for name in ("loss", "low", "high"))
    return "" if at is None else at if low is None else f"{at} [{low}, {high}]"


def checks(found: dict[str, dict[str, float]]) -> Table:
    """Accuracy of the trained model with a part switched off, or with the inputs of other sessions in it."""
    words = {name: f"{name.removeprefix('swapped_')} on the inputs of other sessions" for name in found}
    words |= {name: says for name, (_, says) in CHECKS.items()}
    whole = found.get("masked", {}).get("mrr@20")
    rows = [
        [words[name], number(of["hr@20"]), number(of["mrr@20"]),
         signed(100 * (of["mrr@20"] / whole - 1), 1) if whole else ""]
        for name, of in found.items()
    ]  # fmt: skip
    title = "Quick checks on the test set, means over seeds; nothing is trained again"
    return by_rows(title, ("the trained model", "HR@20 (%)", "MRR@20 (%)", "change (%)"), rows)


def path(verdicts: Sequence[Verdict], runs_dir: str = "") -> Table:
    """Verdicts that differ in the KL weight, a line for each: what the roles keep and what their shadows keep.

    `runs_dir` is where their groups are, if that is not the usual place.
    """
    first = verdicts[0]
    roles = [role for role in first["density"]["roles"] if role not in ("control", "shadow")]
    numbers = {tuple(each["seeds"]) for each in verdicts}

    def kept(verdict: Verdict, role: str) -> str:
        shadow = f" ({verdict['roles'][role]['shadow']:.2f})" if role in verdict.get("roles", {}) else ""
        return f"{verdict['density']['roles'][role]:.2f}{shadow}"

    def row(verdict: Verdict) -> list[str]:
        seeds = " ".join(map(str, verdict["seeds"])) if len(numbers) > 1 else ""
        named = [f"{verdict['kl_weight']:g}", seeds, f"{verdict['accuracy']['test']['mrr@20']:.2f}"]
        return [*named, *(kept(verdict, role) for role in roles), *(verdict[name]["answer"] for name in QUESTIONS)]

    rows = [row(each) for each in sorted(verdicts, key=lambda each: float(each["kl_weight"]))]
    matched = (first.get("matched") or {}).get("mrr@20")
    notes = [f"MRR@20 of the matched dense model: {matched:.2f}."] if matched and len(numbers) == 1 else []
    named = [shlex.quote(f"{runs_dir}/{each['group']}" if runs_dir else each["group"]) for each in verdicts]
    notes.append(f"Draw it: dissect plot path {named[0]}")
    notes += [f"{'' if number else 'Each verdict: '}dissect verdict {name}" for number, name in enumerate(named)]
    of = over(len(first["seeds"])) if len(numbers) == 1 else "means over the seeds of each row"
    title = f"{first['model']} on {first['dataset']}: share of weights kept (of shadows), {of}"
    names = ("KL", "seeds", "MRR@20", *(BRIEFLY.get(role, role) for role in roles), *QUESTIONS)
    return by_rows(title, names, rows, notes=notes)


# --- words --------------------------------------------------------------------------------------------------


def answers(verdict: Verdict, folder: Path | None = None) -> list[dict[str, Any]]:
    """Each question with its answer and the reasons for it; doubts that both observations share stand by themselves."""
    first, second = verdict["O1"], verdict["O2"]
    common = [doubt for doubt in first["doubts"] if doubt in second["doubts"]]
    found = [{"question": question, **verdict[name]} for name, question in QUESTIONS.items()]
    for of, said in zip(found, (common, [*common, *first["reasons"]])):
        of["reasons"] = [reason for reason in of["reasons"] if reason not in said]
    if common:
        found.append({"question": "O1 and O2", "answer": UNDECIDED, "reasons": common})
    if {first["answer"], second["answer"]} == {NOT_APPLICABLE}:  # then no question has the doubts about the roles
        doubted = {role: of for role, of in verdict.get("roles", {}).items() if of["doubts"]}
        found += [{"question": role, **of, "reasons": of["doubts"]} for role, of in doubted.items()]
    for role, given in verdict["need"].items():
        found.append({"question": f"need  for {role}", **given, "numbers": need_words(given)})
    if not verdict["need"] and verdict["where"] != "none":
        found.append({"question": "need", "answer": "not asked", "reasons": [need_hint(verdict, folder)]})
    return [{"figures_say": of["answer"], "numbers": "", **of} for of in found]


def need_words(given: dict[str, Any]) -> str:
    """The loss of the model without a role, with the 95 % interval if there is one, and the MRR@20 that is left."""
    words = "" if given["loss"] is None else f"loss {percent(given['loss'], 2)}"
    if given["low"] is not None:
        words += f" ({decimal(100 * given['low'], 2)} to {decimal(100 * given['high'], 2)})"
    return f"{words}{', ' * bool(words)}MRR@20 {given['mrr@20_reduced']:.2f}"


def need_hint(verdict: Verdict, folder: Path | None = None) -> str:
    """How to ask for need, with the parts that this model can do without."""
    removable = verdict["removable"]
    if not verdict["seeds"] and folder is not None and group_runs(folder):
        return f"go on with the training: dissect resume {shlex.quote(str(folder))}"
    if not verdict["seeds"]:
        return "train the whole model: the same `dissect run` without --without"
    if not removable:
        return "this model cannot be built without a part: its class names none in `removable`"
    rest = f" (or {', '.join(removable[1:])})" if removable[1:] else ""
    return f"the same `dissect run` with --without {removable[0]}{rest}"


def beside(verdict: Verdict) -> list[str]:
    """What the paper's own measure says, the checks that were not run, and by which rules it was judged."""
    lines = []
    if literal := verdict.get("literal"):
        says = ", ".join(f"{name} {literal[name]['figures_say']}" for name in QUESTIONS)
        how = f"--literal, {plural(literal['steps'], 'step')}, {plural(len(literal['seeds']), 'seed')}"
        lines.append(f"With the published settings ({how}), density alone says: {says}.")
    if not_run := verdict.get("not_run"):
        options = " or ".join(filter(None, (", ".join(not_run[:-1]), not_run[-1])))
        lines.append(f"Not run: the same `dissect run` with {options}.")
    if verdict.get("rules") == "density":
        why = "Without them a useless matrix cannot be told from a needed one at a small KL weight."
        lines.append(f"Judged by the rules for runs without shadows. {why}")
    if not verdict.get("apart", True):
        how = "shadows and controls ran within the model and may have changed it."
        lines.append(f"From an earlier version, in which {how}")
    return lines


def not_dissected(verdict: Verdict, but: str = "") -> list[str]:
    """The weights that no density covers, each name with the reason; without those whose reason is `but`."""
    coverage = verdict.get("coverage") or {"roles": {}}
    dense = [(role, *item) for role, of in coverage["roles"].items() for item in of["dense"].items()]
    roles = dict.fromkeys(coverage.get("undeclared", ()), "no role")
    return [
        f"{name}, {roles.get(name, role)}, {part['weights']:,} weights: {part['reason']}"
        for role, name, part in dense
        if part["reason"] != but
    ]
