"""Results side by side: for the screen, for papers and for programs."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import pandas as pd
from rich.table import Table

from dissect.cli.text_table import Cell, TextTable

METRICS = ("hr@5", "hr@10", "hr@20", "mrr@5", "mrr@10", "mrr@20")
AT_20 = ("hr@20", "mrr@20")


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
    resamples: int
    notes: tuple[str, ...]

    @property
    def title(self) -> str:
        return (
            f"{self.dataset} (split {self.split_hash[:8]}), protocol {self.protocol}: "
            f"{self.prefixes:,} test prefixes of {self.sessions:,} sessions"
        )


def render_results(results: pd.DataFrame, dataset: str, protocol: str, newest: str) -> Table:
    """The table of analyses.compare.results_table; the group just trained stands out."""
    table = Table(title=f"{dataset}, protocol {protocol}, test", title_justify="left", box=None, padding=(0, 1))
    for name in ("group", "variant"):
        table.add_column(name)
    for name in ("seeds", "HR@20", "MRR@20", "parameters", "s/epoch"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in results.to_dict("records"):
        dissected = "" if row["where"] == "none" else f"SparseVD {row['where']}"
        table.add_row(
            str(row["group"]),
            ", ".join(word for word in ("" if row["variant"] == "full" else str(row["variant"]), dissected) if word),
            str(row["seeds"]),
            _with_sd(row, "hr@20"),
            _with_sd(row, "mrr@20"),
            f"{row['parameters']:,}",
            "" if pd.isna(row["seconds_per_epoch"]) else f"{row['seconds_per_epoch']:.0f}",
            style="bold" if row["group"] == newest else "",
        )
    return table


def _with_sd(row: dict[Any, Any], metric: str) -> str:
    sd = row[f"{metric} sd"]
    return f"{row[metric]:.2f}" + ("" if pd.isna(sd) else f" ± {sd:.2f}")


# --- dissect compare ---------------------------------------------------------------------------------------


def views_of(table: Comparison, all_metrics: bool, every_pair: bool) -> list[TextTable]:
    """The means and, where there are two rows, the pairs: those with the best row unless `every_pair`."""
    metrics = METRICS if all_metrics else AT_20
    columns = (
        ("model", False),
        *((metric.upper(), True) for metric in metrics),
        ("bias of\nHR / MRR", True),
        ("s/epoch", True),
        ("parameters", True),
        ("protocol", False),
        ("seeds", True),
    )
    best = {metric: f"{table.rows[metric].max():.2f}" if len(table.rows) > 1 else None for metric in metrics}
    rows = tuple(
        (
            Cell(str(row["label"])),
            # What looks the same is equally good.
            *(Cell(_with_sd(row, metric), f"{row[metric]:.2f}" == best[metric]) for metric in metrics),
            Cell(bias(row)),
            Cell("" if pd.isna(row["seconds_per_epoch"]) else seconds(row["seconds_per_epoch"])),
            Cell(f"{row['parameters']:,}"),
            Cell(str(row["protocol"])),
            Cell(str(row["seeds"])),
        )
        for row in table.rows.to_dict("records")
    )
    explained = (
        "Percent, mean ± standard deviation over seeds; best in bold. "
        "Bias: how much higher HR@20 and MRR@20 of the best epoch on test lie."
    )
    views = [TextTable(table.title, columns, rows, (explained, *table.notes))]
    return views if table.pairs.empty else [*views, pairs_view(table, every_pair)]


def bias(row: dict[Any, Any]) -> str:
    """The selection bias of HR@20 and MRR@20; `within` where the numbers contain it, nothing without epochs."""
    if pd.isna(row["seconds_per_epoch"]):
        return ""
    return "within" if pd.isna(row["bias hr@20"]) else f"{row['bias hr@20']:.2f} / {row['bias mrr@20']:.2f}"


def pairs_view(table: Comparison, every_pair: bool) -> TextTable:
    """Differences with their intervals, effect sizes, and p values by Holm (the raw ones are in CSV and JSON)."""
    label = table.rows["label"]
    shown = table.pairs if every_pair else table.pairs[table.pairs["a"] == 0]
    columns = (
        *((("model", False),) if every_pair else ()),
        ("against", False),
        ("metric", False),
        ("difference\n[95 % interval]", True),
        ("in %", True),
        ("bootstrap\np (Holm)", True),
        ("t-test as\nthe paper\np (Holm)", True),
        ("Cohen's\nd_z", True),
    )
    rows = tuple(
        (
            # A pair has a line for either metric and is named in the first.
            *((Cell(label[row["a"]] if row["metric"] == AT_20[0] else ""),) if every_pair else ()),
            Cell(label[row["b"]] if row["metric"] == AT_20[0] else ""),
            Cell(row["metric"].upper()),
            Cell(f"{signed(row['difference'])} [{signed(row['low'])}, {signed(row['high'])}]"),
            Cell("" if pd.isna(row["relative"]) else signed(row["relative"], 1)),
            Cell(p_value(row["p bootstrap holm"], row["at most"])),
            Cell(p_value(row["p t-test holm"])),
            Cell(signed(row["d_z"], 3)),
        )
        for row in shown.to_dict("records")
    )
    note = (
        f"Difference in percentage points, and in percent of the second. Bootstrap over seeds, then sessions "
        f"({table.resamples:,} resamples): the test that counts. Paired t-test over prefixes: as the paper tests. "
        f"Both p by Holm over {len(table.pairs)} tests: all pairs, both metrics. d_z: mean of the per-prefix "
        "differences in units of their standard deviation."
    )
    title = "Every pair" if every_pair else f"{label[0]} (the best MRR@20) against the others"
    return TextTable(title, columns, rows, (note,))


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
    """Every pair with every column, whatever the screen shows."""
    return pd.concat([_identified(t, named_pairs(t)) for t in tables]).to_csv(index=False, float_format="%.6g")


def _identified(table: Comparison, part: pd.DataFrame) -> pd.DataFrame:
    part = part.drop(columns="protocol", errors="ignore")
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
        "test_prefixes": table.prefixes,
        "test_sessions": table.sessions,
        "rows": records(table.rows),
        "pairs": records(named_pairs(table)),
        "resamples": table.resamples,
        "notes": list(table.notes),
    }
