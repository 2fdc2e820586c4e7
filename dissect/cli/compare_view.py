"""Results side by side: for the screen, for papers and for programs."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from analyses.compare import TIES, fair
from dissect.cli.text_table import Cell, Column, TextTable
from dissect.text import without_formulas

SHORT = 16  # letters of a setting in a cell: the beginning of a hash will do
METRICS = ("hr@5", "hr@10", "hr@20", "mrr@5", "mrr@10", "mrr@20")
AT_20 = ("hr@20", "mrr@20")
# How the epoch reported came about (analyses.compare.Entry.selection): in a cell, and in words.
EPOCHS = {
    "validation": ("best valid", "chosen by MRR@20 on validation"),
    "refit": ("refit", "trained again on everything for as many epochs as were chosen on validation"),
    "test": ("best test", "chosen on test"),
    "final": ("last", "the final step, nothing chosen (as dissect run reports)"),
}
TIES_NOTE = (
    f"Ties count in the target's favour ({TIES}): a rank is one more than the number of items with a strictly higher "
    "score. That flatters models with many equal scores, such as neighbours and popularity"
)
TIED = (
    "† Its scores tie with the target's. Differences and tests count ties in the target's favour, which flatters this "
    "row: see its values with ties against it."
)
PAPER = (
    "Protocol paper: every metric is taken at its best epoch on the test set. Such numbers flatter: the selection bias "
    "is within them and cannot be told apart."
)


@dataclass(frozen=True)
class Comparison:
    """A table of rows that may stand in one column: their means, their pairs, and what a reader must know."""

    dataset: str
    split_hash: str
    protocol: str
    prefixes: int
    sessions: int
    rows: pd.DataFrame  # analyses.compare.means
    pairs: pd.DataFrame  # analyses.significance.pairs_table; empty where there is one row
    tests: int  # that Holm corrects for
    resamples: int
    notes: tuple[str, ...]

    @property
    def label(self) -> str:
        """For references in LaTeX."""
        return f"tab:{self.dataset}-{self.split_hash[:8]}-{self.protocol}"

    @property
    def title(self) -> str:
        return (
            f"{self.dataset} (split {self.split_hash[:8]}), protocol {self.protocol}: "
            f"{self.prefixes:,} test prefixes of {self.sessions:,} sessions"
        )


def render_results(results: pd.DataFrame, dataset: str, protocol: str, newest: str) -> TextTable:
    """The table of analyses.compare.results_table; the group just trained stands out."""
    names = run_names(results)
    named = results.assign(label=[*map(_name_and_settings, names, results["label"], results["model"])])
    table = means_view(f"{dataset}, protocol {protocol}, test", named, AT_20, newest)
    return replace(table, notes=(*table.notes, *cautions(results), *([PAPER] if protocol == "paper" else [])))


def _name_and_settings(name: str, label: str, model: str) -> str:
    """The name of a run with, in brackets, what its label says beyond it."""
    known = set(re.split("[-/]", name))
    beyond = [word for word in label.removeprefix(model).split() if word.strip("()[],") not in known]
    return f"{name} ({' '.join(beyond).strip('()')})" if beyond else name


def means_view(title: str, rows: pd.DataFrame, metrics: tuple[str, ...], newest: str | None = None) -> TextTable:
    """The means of analyses.compare with the best in bold, or those of the group `newest`, then without the bias.

    Seeds, settings and the selection of the epoch have a column only where rows differ in them, and so have ties where
    they matter.
    """
    is_new = [newest is not None and group == newest for group in rows["group"]]
    bold = {m: is_new if newest is not None else list(is_best(rows, m)) for m in metrics}
    records = rows.to_dict("records")
    chosen = [how for how in EPOCHS if how in set(rows["selection"])]
    columns: list[tuple[Column, list[Cell]]] = []

    def add(column: Column, text: Callable[[dict[Any, Any]], str], bold: Sequence[bool] = ()) -> None:
        texts = [text(row) for row in records]
        if any(texts):
            columns.append((column, [Cell(*cell) for cell in zip(texts, bold or [False] * len(texts))]))

    add(Column("model" if newest is None else "run", False), lambda row: str(row["label"]), is_new)
    for metric in metrics:
        name = metric.upper() + ("\n(all items)" if is_certain(rows, metric) else "")
        add(Column(name, spare=metric not in AT_20), partial(_with_sd, metric=metric), bold[metric])
    if any(map(has_ties, records)):
        add(Column("ties against\nHR / MRR"), ties_against)
    if len(chosen) > 1:
        add(Column("epoch", False), lambda row: EPOCHS.get(row["selection"], ("", ""))[0])
    for name in settings_apart(rows):
        shown = name.removeprefix("setting ").replace("_", " ")
        add(Column(shown, spare=True), partial(setting_of, name=name))
    if newest is None:
        add(Column("bias of\nHR / MRR", spare=True), bias)
    if rows["seeds"].nunique() > 1:
        add(Column("seeds", spare=True), lambda row: str(row["seeds"]))
    elif rows["seed_list"][rows["selection"] != ""].nunique() > 1:
        add(Column("seeds", spare=True), lambda row: row["seed_list"] if row["selection"] else "")
    add(Column("s/epoch", spare=True), lambda row: seconds(row["seconds_per_epoch"]))
    add(Column("parameters", spare=True), lambda row: f"{row['parameters']:,}")
    notes = explanations(rows, chosen, newest)
    return TextTable(title, tuple(column for column, _ in columns), tuple(zip(*(cells for _, cells in columns))), notes)


def is_best(rows: pd.DataFrame, metric: str) -> pd.Series:
    """Which rows are bold: what looks the same is equally good, ties against the target where that is known.

    None is where there is nothing to win: a row that stands alone, or a metric that `is_certain`.
    """
    value = fair(rows, metric).map("{:.2f}".format)
    if len(rows) < 2 or is_certain(rows, metric):
        return pd.Series(False, rows.index)
    return value == f"{fair(rows, metric).max():.2f}"


def is_certain(rows: pd.DataFrame, metric: str) -> bool:
    """Whether a hit rate is 100 % whatever the model does, because the list is as long as the catalogue."""
    kind, cutoff = metric.split("@")
    return kind == "hr" and bool((rows["items"] <= int(cutoff)).any())


def has_ties(row: dict[Any, Any]) -> bool:
    """Whether HR@20 or MRR@20 looks another with ties against the target."""
    return any(f"{row[m]:.2f}" != f"{row[f'worst {m}']:.2f}" for m in AT_20 if not pd.isna(row[f"worst {m}"]))


def ties_against(row: dict[Any, Any]) -> str:
    """HR@20 and MRR@20 with ties against the target where they look others; `?` where they were not measured."""
    if pd.isna(row["worst mrr@20"]):
        return "?"
    return f"{row['worst hr@20']:.2f} / {row['worst mrr@20']:.2f}" if has_ties(row) else ""


def settings_apart(rows: pd.DataFrame) -> list[str]:
    """The columns of settings that rows differ in, without those of options, which the labels name."""
    return [name for name in rows.columns if name.startswith("setting ")]


def setting_of(row: dict[Any, Any], name: str) -> str:
    """A setting in a cell; nothing for a row that has no such setting."""
    value = row[name]
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "none"}[value]
    if isinstance(value, float):
        return "" if pd.isna(value) else f"{value:g}"
    return str(value)[:SHORT]


def cautions(rows: pd.DataFrame) -> list[str]:
    """What makes numbers of a table incomparable or empty, in words."""
    said = []
    if names := settings_apart(rows):
        shown = ", ".join(name.removeprefix("setting ").replace("_", " ") for name in names)
        said.append(f"Rows differ in settings: {shown}. What sets such rows apart need not be the model.")
    for metric in METRICS:
        if is_certain(rows, metric):
            n_items = int(rows["items"].max())
            said.append(f"{metric.upper()} is 100 % by construction: the catalogue has {n_items} items.")
    return said


def explanations(rows: pd.DataFrame, chosen: list[str], newest: str | None) -> tuple[str, ...]:
    """What the numbers of the means are, how the epoch was chosen, and how ties count."""
    seeds = sorted(set(rows["seeds"]))
    over = "seeds" if len(seeds) > 1 else f"{seeds[0]} seeds"
    said = "Percent, one seed each" if seeds == [1] else f"Percent, mean ± standard deviation over {over}"
    said += "; best in bold." if newest is None else "; in bold what was trained now."
    if newest is None and any(map(bias, rows.to_dict("records"))):
        said += " Bias: how much higher HR@20 and MRR@20 of the best epoch on test lie."
    notes = [said, TIES_NOTE + against(rows)]
    if len(chosen) > 1:
        notes.insert(1, "Epoch reported: " + "; ".join(f"{EPOCHS[how][0]}, {EPOCHS[how][1]}" for how in chosen) + ".")
    return tuple(notes)


def against(rows: pd.DataFrame) -> str:
    """The end of TIES_NOTE: where ties matter, and for which rows that is unknown."""
    measured = rows["worst hr@20"].notna()
    if not measured.any():
        return "; by how much, dissect evaluate RUN --ties worst says."
    others = "" if measured.all() else "; of the others, dissect evaluate RUN --ties worst tells"
    if not any(map(has_ties, rows.to_dict("records"))):
        return f". Counting ties against the target changes no number here{others}."
    return (
        ". Rows whose numbers change when ties count against the target show both; order and bold follow the lower"
        f"{others}."
    )


def _with_sd(row: dict[Any, Any], metric: str) -> str:
    sd = row[f"{metric} sd"]
    return f"{row[metric]:.2f}" + ("" if pd.isna(sd) else f" ± {sd:.2f}")


# --- dissect compare ---------------------------------------------------------------------------------------


def views_of(table: Comparison, all_metrics: bool, every_pair: bool) -> list[TextTable]:
    """The means and, where there are two rows, the pairs; `every_pair` says that they are all."""
    view = means_view(table.title, table.rows, METRICS if all_metrics else AT_20)
    views = [replace(view, notes=(*view.notes, *table.notes), label=table.label)]
    return views if table.pairs.empty else [*views, pairs_view(table, every_pair)]


def bias(row: dict[Any, Any]) -> str:
    """The selection bias of HR@20 and MRR@20; `within` where the numbers contain it, nothing where there is none."""
    if pd.isna(row["seconds_per_epoch"]):
        return ""
    if pd.isna(row["bias hr@20"]):
        return "within" if row["protocol"] == "paper" else ""
    return f"{row['bias hr@20']:.2f} / {row['bias mrr@20']:.2f}"


def pairs_view(table: Comparison, every_pair: bool) -> TextTable:
    """Differences with their intervals, effect sizes, and p values by Holm (the raw ones are in CSV and JSON)."""
    label = table.rows["label"]
    columns = (
        Column("pair" if every_pair else "against", is_number=False),
        Column("metric", is_number=False),
        Column("difference\n[95 % interval]"),
        Column("in %", spare=True),
        Column("bootstrap\np (Holm)"),
        Column("t-test as\nthe paper\np (Holm)", spare=True),
        Column("Cohen's\nd_z", spare=True),
    )

    flattered = [has_ties(row) for row in table.rows.to_dict("records")]
    label = label + np.where(flattered, " †", "")

    def name(row: dict[Any, Any]) -> str:
        """A pair has a line for either metric and is named in the first."""
        against = str(label[row["b"]])
        return "" if row["metric"] != AT_20[0] else f"{label[row['a']]} against {against}" if every_pair else against

    rows = tuple(
        (
            Cell(name(row)),
            Cell(row["metric"].upper()),
            Cell(f"{signed(row['difference'])} [{signed(row['low'])}, {signed(row['high'])}]"),
            Cell("" if pd.isna(row["relative"]) else signed(row["relative"], 1)),
            Cell(p_value(row["p bootstrap holm"], row["at most"])),
            Cell(p_value(row["p t-test holm"])),
            Cell(signed(row["d_z"], 3)),
        )
        for row in table.pairs.to_dict("records")
    )
    note = (
        f"Difference in percentage points, and in percent of the second. Bootstrap over seeds, then sessions "
        f"({table.resamples:,} resamples): the test that counts. Paired t-test over prefixes: as the paper tests. "
        f"Both p by Holm over {table.tests:,} tests: all pairs, both metrics. d_z: mean of the per-prefix "
        "differences in units of their standard deviation."
    )
    notes = (note, TIED) if any(flattered) else (note,)
    against_it = ", ties against it" if any(flattered) else ""
    title = "every pair" if every_pair else f"{label[0]} (the best MRR@20{against_it}) against the others"
    title = f"{table.dataset}, protocol {table.protocol}: {title}"
    return TextTable(title, columns, rows, notes, f"{table.label}-pairs")


def seconds(value: float) -> str:
    """Rounded for a cell; nothing where there are none."""
    if pd.isna(value):
        return ""
    return f"{value:,.0f}" if value >= 10 else f"{value:.2g}"


def signed(value: float, digits: int = 2) -> str:
    """With a sign, a true minus, and no sign before a zero."""
    text = f"{value:+.{digits}f}"
    return text[1:] if float(text) == 0 else text.replace("-", "−").replace("inf", "∞")


def p_value(p: float, at_most: bool = False) -> str:
    """Three digits; `at_most` where the number of resamples sets the limit."""
    return "<0.001" if p < 0.001 else ("≤" if at_most and p < 1 else "") + f"{p:.3f}"


def named_pairs(table: Comparison) -> pd.DataFrame:
    """The pairs by the labels of their rows, with their groups and variants."""
    if table.pairs.empty:
        return table.pairs
    pairs = table.pairs.copy()
    for side in ("a", "b"):
        place = table.pairs[side]
        pairs[side] = place.map(table.rows["label"])
        pairs[f"{side} run"] = place.map(run_names(table.rows))
    return pairs


def run_names(rows: pd.DataFrame) -> pd.Series:
    """<group>, or <group>/<variant>, as `dissect compare` takes it."""
    return rows["group"].where(rows["variant"] == "full", rows["group"] + "/" + rows["variant"])


def means_csv(tables: Iterable[Comparison]) -> str:
    """Every column of the means, tables below each other, each with its data set, split and protocol."""
    means = pd.concat([_identified(t, t.rows) for t in tables])
    return without_formulas(means).to_csv(index=False, float_format="%.6g")


def pairs_csv(tables: Iterable[Comparison]) -> str:
    """The pairs with every column."""
    pairs = pd.concat([_identified(t, named_pairs(t)) for t in tables])
    return without_formulas(pairs).to_csv(index=False, float_format="%.6g")


def _identified(table: Comparison, part: pd.DataFrame) -> pd.DataFrame:
    part = part.drop(columns=["protocol", "ties"], errors="ignore")
    part.insert(0, "ties", TIES)
    part.insert(0, "protocol", table.protocol)
    part.insert(0, "split_hash", table.split_hash)
    part.insert(0, "dataset", table.dataset)
    return part


def as_record(table: Comparison) -> dict[str, Any]:
    """For --json; what is no number (NaN, infinite) is null."""

    def records(part: pd.DataFrame) -> list[dict[str, Any]]:
        return list(json.loads(part.to_json(orient="records", double_precision=15)))

    return {
        "dataset": table.dataset,
        "split_hash": table.split_hash,
        "protocol": table.protocol,
        "ties": TIES,
        "test_prefixes": table.prefixes,
        "test_sessions": table.sessions,
        "rows": records(table.rows),
        "pairs": records(named_pairs(table)),
        "holm_tests": table.tests,
        "resamples": table.resamples,
        "notes": list(table.notes),
    }
