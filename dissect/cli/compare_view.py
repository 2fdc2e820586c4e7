"""Results side by side: the columns and cells of tables that people read."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import pandas as pd

from analyses import compare
from analyses.compare import Comparison
from analyses.entries import JUDGED
from dissect.cli.text_table import Column, TextTable

SHORT = 16  # letters of a setting in a cell: the beginning of a hash will do


def render_results(results: pd.DataFrame, dataset: str, protocol: str, newest: str) -> TextTable:
    """The table of analyses.compare.results_table; the group just trained stands out."""
    names = [*map(name_and_settings, compare.run_names(results), results["label"], results["model"])]
    notes = [*compare.explanations(results, of_training=True), *compare.cautions(results)]
    columns = means_columns(results.assign(label=names), JUDGED, newest)
    return TextTable(f"{dataset}, protocol {protocol}, test", columns, notes)


def name_and_settings(name: str, label: str, model: str) -> str:
    """The name of a run with, in brackets, what its label says beyond it."""
    known = set(re.split("[-/]", name))
    parts = re.findall(r"\(.*\)$|\S+", label.removeprefix(model))  # words, then all settings in brackets
    beyond = [part for part in parts if part.strip("[],") not in known]
    said = " ".join(beyond) if len(beyond) != 1 else beyond[0].removeprefix("(").removesuffix(")")
    return f"{name} ({said})" if beyond else name


def means_columns(rows: pd.DataFrame, metrics: Sequence[str], newest: str | None = None) -> list[Column]:
    """The means of analyses.compare with the best in bold, or the group `newest`, then without the bias.

    Seeds, settings and the selection of the epoch have a column only where rows differ in them, and so have ties where
    they matter.
    """
    is_new = (rows["group"] == newest).tolist()
    columns: list[Column] = []

    def add(name: str, cells: pd.Series, bold: Sequence[bool] = (), spare: bool = True) -> None:
        if (cells != "").any():
            columns.append(Column(name, cells.tolist(), bold, spare))

    add("model" if newest is None else "run", rows["label"], is_new, False)
    for metric in metrics:
        name = metric.upper() + ("\n(all items)" if compare.is_certain(rows, metric) else "")
        sd = rows[f"{metric} sd"].map(lambda value: "" if pd.isna(value) else f" ± {value:.2f}")
        best = is_new if newest is not None else compare.is_best(rows, metric).tolist()
        add(name, rows[metric].map("{:.2f}".format) + sd, best, metric not in JUDGED)
    if (tied := compare.has_ties(rows)).any():
        worst = at_20(rows, "worst").where(tied, "").mask(rows["worst mrr@20"].isna(), "?")  # not measured
        add("ties against\nHR / MRR", worst, spare=False)
    if len(compare.selections(rows)) > 1:
        add(
            "epoch",
            rows["selection"].map({how: words for how, (words, _) in compare.EPOCHS.items()} | {"": ""}),
            (),
            False,
        )
    for words, name in compare.settings_apart(rows).items():
        add(words, rows[name].map(setting))
    if newest is None:  # `within`: the numbers contain it
        within = at_20(rows, "bias").mask(rows["bias hr@20"].isna(), "within")
        add("bias of\nHR / MRR", within.where(compare.has_bias(rows), ""))
    if rows["seeds"].nunique() > 1:
        add("seeds", rows["seeds"].map(str))
    elif rows["seed_list"][rows["selection"] != ""].nunique() > 1:
        add("seeds", rows["seed_list"].where(rows["selection"] != "", ""))
    add("s/epoch", rows["seconds_per_epoch"].map(seconds))
    add("parameters", rows["parameters"].map("{:,}".format))
    return columns


def at_20(rows: pd.DataFrame, kind: str) -> pd.Series:
    """HR@20 and MRR@20 of a kind, such as `bias`, in a cell."""
    hr, mrr = (rows[f"{kind} {metric}"].map("{:.2f}".format) for metric in JUDGED)
    return hr + " / " + mrr


def setting(value: Any) -> str:
    """A setting in a cell; nothing where a row has no such setting."""
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "none"}[value]
    if isinstance(value, float):
        return "" if pd.isna(value) else f"{value:g}"
    return str(value)[:SHORT]


def seconds(value: float) -> str:
    """Rounded for a cell; nothing where there are none."""
    return "" if pd.isna(value) else f"{value:,.0f}" if value >= 10 else f"{value:.2g}"


# --- dissect compare ---------------------------------------------------------------------------------------


def views_of(table: Comparison, metrics: Sequence[str], every_pair: bool) -> list[TextTable]:
    """The means and, where there are two rows, the pairs; `every_pair` says that they are all."""
    facts = table.rows.attrs
    label = f"tab:{facts['dataset']}-{facts['split_hash'][:8]}-{facts['protocol']}"
    notes = [*compare.explanations(table.rows), *facts["notes"]]
    means = TextTable(table.title, means_columns(table.rows, metrics), notes, label)
    if table.pairs.empty:
        return [means]
    columns, title = pairs_columns(table, every_pair), table.title_of_pairs(every_pair)
    return [means, TextTable(title, columns, compare.notes_of_pairs(table), f"{label}-pairs")]


def pairs_columns(table: Comparison, every_pair: bool) -> list[Column]:
    """Differences with their intervals, effect sizes, and p values by Holm (the raw ones are in CSV and JSON).

    A pair has a line for either metric and is named in the first.
    """
    pairs, shown = table.pairs, dict(zip(table.rows["label"], compare.marked(table.rows)))
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
