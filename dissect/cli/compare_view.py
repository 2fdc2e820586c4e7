"""Results side by side: the columns and cells of tables that people read."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import pandas as pd

from analyses.compare import (
    EPOCHS,
    Comparison,
    cautions,
    explanations,
    has_bias,
    has_ties,
    is_best,
    is_certain,
    marked,
    notes_of_pairs,
    run_names,
    selections,
    settings_apart,
)
from analyses.entries import JUDGED
from dissect.cli.text_table import Column, TextTable

SHORT = 16  # letters of a setting in a cell: the beginning of a hash will do


def render_results(results: pd.DataFrame, dataset: str, protocol: str, newest: str) -> TextTable:
    """The table of analyses.compare.results_table; the group just trained stands out."""
    names = [*map(_name_and_settings, run_names(results), results["label"], results["model"])]
    columns = means_columns(results.assign(label=names), JUDGED, newest)
    notes = [*explanations(results, of_training=True), *cautions(results)]
    return TextTable(f"{dataset}, protocol {protocol}, test", columns, notes)


def _name_and_settings(name: str, label: str, model: str) -> str:
    """The name of a run with, in brackets, what its label says beyond it."""
    known = set(re.split("[-/]", name))
    beyond = [word for word in label.removeprefix(model).split() if word.strip("()[],") not in known]
    return f"{name} ({' '.join(beyond).strip('()')})" if beyond else name


def means_columns(rows: pd.DataFrame, metrics: Sequence[str], newest: str | None = None) -> list[Column]:
    """The means of analyses.compare with the best in bold, or the group `newest`, then without the bias.

    Seeds, settings and the selection of the epoch have a column only where rows differ in them, and so have ties where
    they matter.
    """
    is_new = (rows["group"] == newest).tolist()
    records = rows.assign(tied=has_ties(rows), biased=has_bias(rows)).to_dict("records")
    columns: list[Column] = []

    def add(name: str, cell: Callable[[dict[Any, Any]], str], bold: Sequence[bool] = (), spare: bool = True) -> None:
        cells = [cell(row) for row in records]
        if any(cells):
            columns.append(Column(name, cells, bold, spare))

    add("model" if newest is None else "run", lambda row: str(row["label"]), is_new, False)
    for metric in metrics:
        name = metric.upper() + ("\n(all items)" if is_certain(rows, metric) else "")
        best = is_new if newest is not None else is_best(rows, metric).tolist()
        add(name, partial(with_sd, metric=metric), best, metric not in JUDGED)
    if has_ties(rows).any():
        add("ties against\nHR / MRR", ties_against, spare=False)
    if len(selections(rows)) > 1:
        add("epoch", lambda row: EPOCHS.get(row["selection"], ("", ""))[0], spare=False)
    for words, name in settings_apart(rows).items():
        add(words, partial(setting, name=name))
    if newest is None:
        add("bias of\nHR / MRR", bias)
    if rows["seeds"].nunique() > 1:
        add("seeds", lambda row: str(row["seeds"]))
    elif rows["seed_list"][rows["selection"] != ""].nunique() > 1:
        add("seeds", lambda row: row["seed_list"] if row["selection"] else "")
    add("s/epoch", lambda row: seconds(row["seconds_per_epoch"]))
    add("parameters", lambda row: f"{row['parameters']:,}")
    return columns


def with_sd(row: dict[Any, Any], metric: str) -> str:
    sd = row[f"{metric} sd"]
    return f"{row[metric]:.2f}" + ("" if pd.isna(sd) else f" ± {sd:.2f}")


def ties_against(row: dict[Any, Any]) -> str:
    """HR@20 and MRR@20 with ties against the target where they look others; `?` where they were not measured."""
    if pd.isna(row["worst mrr@20"]):
        return "?"
    return f"{row['worst hr@20']:.2f} / {row['worst mrr@20']:.2f}" if row["tied"] else ""


def setting(row: dict[Any, Any], name: str) -> str:
    """A setting in a cell; nothing for a row that has no such setting."""
    value = row[name]
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "none"}[value]
    if isinstance(value, float):
        return "" if pd.isna(value) else f"{value:g}"
    return str(value)[:SHORT]


def bias(row: dict[Any, Any]) -> str:
    """The selection bias of HR@20 and MRR@20; `within` where the numbers contain it, nothing where there is none."""
    if not row["biased"]:
        return ""
    return "within" if pd.isna(row["bias hr@20"]) else f"{row['bias hr@20']:.2f} / {row['bias mrr@20']:.2f}"


def seconds(value: float) -> str:
    """Rounded for a cell; nothing where there are none."""
    return "" if pd.isna(value) else f"{value:,.0f}" if value >= 10 else f"{value:.2g}"


# --- dissect compare ---------------------------------------------------------------------------------------


def views_of(table: Comparison, metrics: Sequence[str], every_pair: bool) -> list[TextTable]:
    """The means and, where there are two rows, the pairs; `every_pair` says that they are all."""
    facts = table.rows.attrs
    label = f"tab:{facts['dataset']}-{facts['split_hash'][:8]}-{facts['protocol']}"
    notes = [*explanations(table.rows), *facts["notes"]]
    means = TextTable(table.title, means_columns(table.rows, metrics), notes, label)
    if table.pairs.empty:
        return [means]
    columns, title = pairs_columns(table, every_pair), table.title_of_pairs(every_pair)
    return [means, TextTable(title, columns, notes_of_pairs(table), f"{label}-pairs")]


def pairs_columns(table: Comparison, every_pair: bool) -> list[Column]:
    """Differences with their intervals, effect sizes, and p values by Holm (the raw ones are in CSV and JSON).

    A pair has a line for either metric and is named in the first.
    """
    pairs, shown = table.pairs, dict(zip(table.rows["label"], marked(table.rows)))
    names = pairs["b"].map(shown)
    names = pairs["a"].map(shown) + " against " + names if every_pair else names
    interval = zip(*(pairs[name].map(signed) for name in ("difference", "low", "high")))
    return [
        Column("pair" if every_pair else "against", names.where(pairs["metric"] == JUDGED[0], "").tolist()),
        Column("metric", pairs["metric"].str.upper().tolist()),
        Column("difference\n[95 % interval]", [f"{at} [{low}, {high}]" for at, low, high in interval]),
        Column("in %", ["" if pd.isna(value) else signed(value, 1) for value in pairs["relative"]], spare=True),
        Column("bootstrap\np (Holm)", [*map(p_value, pairs["p bootstrap holm"], pairs["at most"])]),
        Column("t-test as\nthe paper\np (Holm)", [*map(p_value, pairs["p t-test holm"])], spare=True),
        Column("Cohen's\nd_z", [signed(value, 3) for value in pairs["d_z"]], spare=True),
    ]


def signed(value: float, digits: int = 2) -> str:
    """With a sign, a true minus, and no sign before a zero."""
    text = f"{value:+.{digits}f}"
    return text[1:] if float(text) == 0 else text.replace("-", "−").replace("inf", "∞")


def p_value(p: float, at_most: bool = False) -> str:
    """Three digits; `at_most` where the number of resamples sets the limit."""
    return "<0.001" if p < 0.001 else ("≤" if at_most and p < 1 else "") + f"{p:.3f}"
