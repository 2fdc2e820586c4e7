"""Results side by side: for the screen, for papers and for programs."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd

from analyses.compare import TIES
from dissect.cli.text_table import Cell, Column, TextTable

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
    return replace(table, notes=(*table.notes, PAPER)) if protocol == "paper" else table


def _name_and_settings(name: str, label: str, model: str) -> str:
    """The name of a run with, in brackets, what its label says beyond it."""
    known = set(re.split("[-/]", name))
    beyond = [word for word in label.removeprefix(model).split() if word.strip("()[],") not in known]
    return f"{name} ({' '.join(beyond).strip('()')})" if beyond else name


def means_view(title: str, rows: pd.DataFrame, metrics: tuple[str, ...], newest: str | None = None) -> TextTable:
    """The means of analyses.compare with the best in bold, or those of the group `newest`, then without the bias.

    Seeds and the selection of the epoch have a column only where rows differ in them.
    """
    best = {metric: f"{rows[metric].max():.2f}" if len(rows) > 1 else None for metric in metrics}
    seeds = sorted(set(rows["seeds"]))
    chosen = [how for how in EPOCHS if how in set(rows["selection"])]
    columns = [Column("model" if newest is None else "run", is_number=False)]
    columns += [Column(metric.upper(), spare=metric not in AT_20) for metric in metrics]
    columns += [Column("bias of\nHR / MRR", spare=True)] * (newest is None)
    columns += [Column("epoch", is_number=False)] * (len(chosen) > 1)
    columns += [Column("seeds", spare=True)] * (len(seeds) > 1)
    columns += [Column("s/epoch", spare=True), Column("parameters", spare=True)]
    lines = []
    for row in rows.to_dict("records"):
        is_new = row["group"] == newest
        # What looks the same is equally good.
        bold = {m: is_new if newest else f"{row[m]:.2f}" == best[m] for m in metrics}
        cells = [Cell(str(row["label"]), is_new), *(Cell(_with_sd(row, m), bold[m]) for m in metrics)]
        cells += [Cell(bias(row))] * (newest is None)
        cells += [Cell(EPOCHS.get(row["selection"], ("", ""))[0])] * (len(chosen) > 1)
        cells += [Cell(str(row["seeds"]))] * (len(seeds) > 1)
        cells += [Cell("" if pd.isna(row["seconds_per_epoch"]) else seconds(row["seconds_per_epoch"]))]
        lines.append((*cells, Cell(f"{row['parameters']:,}")))
    over = "seeds" if len(seeds) > 1 else f"{seeds[0]} seeds"
    explained = "Percent, one seed each" if seeds == [1] else f"Percent, mean ± standard deviation over {over}"
    explained += "; best in bold." if newest is None else "; in bold what was trained now."
    told = [i for i in range(len(columns)) if not i or any(cells[i].text for cells in lines)]
    if any(map(bias, rows.to_dict("records"))) and newest is None:
        explained += " Bias: how much higher HR@20 and MRR@20 of the best epoch on test lie."
    notes = [explained, TIES_NOTE + against(rows)]
    if len(chosen) > 1:
        notes.insert(1, "Epoch reported: " + "; ".join(f"{EPOCHS[how][0]}, {EPOCHS[how][1]}" for how in chosen) + ".")
    shown = tuple(tuple(cells[i] for i in told) for cells in lines)
    return TextTable(title, tuple(columns[i] for i in told), shown, tuple(notes))


def against(rows: pd.DataFrame) -> str:
    """The end of TIES_NOTE: HR@20 and MRR@20 with ties against the target, of the rows where they are others."""
    measured = rows["worst hr@20"].notna()
    if not measured.any():
        return "; by how much, dissect evaluate RUN --ties worst says."
    differ = [
        f"{row['label']} {row['worst hr@20']:.2f} / {row['worst mrr@20']:.2f}"
        for row in rows[measured].to_dict("records")
        if any(f"{row[metric]:.2f}" != f"{row[f'worst {metric}']:.2f}" for metric in ("hr@20", "mrr@20"))
    ]
    others = "" if measured.all() else "; of the others, dissect evaluate RUN --ties worst tells"
    if not differ:
        return f". Of what was measured here nothing changes with ties against it{others}."
    return f". With ties against it HR@20 / MRR@20 are: {', '.join(differ)}{others}."


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
    """The selection bias of HR@20 and MRR@20; `within` where the numbers contain it, nothing without epochs."""
    if pd.isna(row["seconds_per_epoch"]):
        return ""
    return "within" if pd.isna(row["bias hr@20"]) else f"{row['bias hr@20']:.2f} / {row['bias mrr@20']:.2f}"


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
    title = "every pair" if every_pair else f"{label[0]} (the best MRR@20) against the others"
    title = f"{table.dataset}, protocol {table.protocol}: {title}"
    return TextTable(title, columns, rows, (note,), f"{table.label}-pairs")


def seconds(value: float) -> str:
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
    return pd.concat([_identified(t, t.rows) for t in tables]).to_csv(index=False, float_format="%.6g")


def pairs_csv(tables: Iterable[Comparison]) -> str:
    """The pairs with every column."""
    return pd.concat([_identified(t, named_pairs(t)) for t in tables]).to_csv(index=False, float_format="%.6g")


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
