"""Results side by side, as tables of text: of `dissect train`, `dissect compare`, studies and reports."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import pandas as pd

from analyses import compare
from analyses.compare import Comparison
from analyses.entries import JUDGED
from analyses.studies import Study
from dissect.runs import files
from dissect.runs.records import LISTED, METRICS
from dissect.tables.cells import metric_in_words, number, p_value, seconds, setting, signed
from dissect.tables.text import Column, Table
from dissect.text import without_formulas


def render_results(results: pd.DataFrame, dataset: str, protocol: str, newest: str) -> Table:
    """The table of analyses.compare.results_table; the group just trained stands out."""
    names = [*map(name_and_settings, compare.run_names(results), results["label"], results["model"])]
    notes = [*compare.explanations(results, of_training=True), *compare.cautions(results)]
    columns = means_columns(results.assign(label=names), JUDGED, newest)
    return Table(f"{dataset}, protocol {protocol}, test", columns, notes)


def name_and_settings(name: str, label: str, model: str) -> str:
    """The name of a run with, in brackets, what its label says beyond it."""
    known = set(re.split("[-/]", name))
    parts = re.findall(r"\(.*\)$|\S+", label.removeprefix(model))  # words, then all settings in brackets
    beyond = [part for part in parts if part.strip("[],") not in known]
    said = " ".join(beyond) if len(beyond) != 1 else beyond[0].removeprefix("(").removesuffix(")")
    return f"{name} ({said})" if beyond else name


def means_columns(rows: pd.DataFrame, metrics: Sequence[str], newest: str | None = None) -> list[Column]:
    """The means of analyses.compare with the best in bold, or the group `newest`, then without the bias.

    Seeds, settings and the selection of the epoch have a column only if rows differ in them, ties only if they matter.
    """
    is_new = (rows["group"] == newest).tolist()
    columns: list[Column] = []

    def add(name: str, cells: pd.Series, bold: Sequence[bool] = ()) -> None:
        if (cells != "").any():
            columns.append(Column(name, cells.tolist(), bold))

    add("model" if newest is None else "run", rows["label"], is_new)
    for metric in [name for name in metrics if name in METRICS]:
        name = metric_in_words(metric) + ("\n(all items)" if compare.is_certain(rows, metric) else "")
        sd = rows[f"{metric} sd"].map(lambda value: "" if pd.isna(value) else f" ± {value:.2f}")
        best = is_new if newest is not None else compare.is_best(rows, metric).tolist()
        add(name, rows[metric].map("{:.2f}".format) + sd, best)
    for metric in [name for name in metrics if name not in METRICS and name in rows]:
        cells = rows[metric].map(lambda value: "–" if pd.isna(value) else f"{value:.2f}")
        add(metric_in_words(metric), cells)
    if (tied := compare.has_ties(rows)).any():
        worst = at_20(rows, "worst").where(tied, "").mask(rows["worst mrr@20"].isna(), "?")  # not measured
        add("ties against\nHR / MRR", worst)
    if len(compare.selections(rows)) > 1:
        words_of = {how: words for how, (words, _) in compare.EPOCHS.items()}
        add("epoch", rows["selection"].map({**words_of, "": ""}))
    if newest is None:  # `within`: the numbers contain it
        within = at_20(rows, "bias").mask(rows["bias hr@20"].isna(), "within")
        add("bias of\nHR / MRR", within.where(compare.has_bias(rows), ""))
    if rows["seeds"].nunique() > 1:
        add("seeds", rows["seeds"].map(str))
    elif rows["seed_list"][rows["selection"] != ""].nunique() > 1:
        add("seeds", rows["seed_list"].where(rows["selection"] != "", ""))
    add("s/epoch", rows["seconds_per_epoch"].map(seconds))
    add("parameters", rows["parameters"].map("{:,}".format))
    for words, name in compare.settings_apart(rows).items():
        add(words.replace(" ", "\n"), rows[name].map(setting))
    return columns


def views_of(table: Comparison, metrics: Sequence[str], every_pair: bool, is_named_once: bool = True) -> list[Table]:
    """The means and, if there are two rows, the pairs; `every_pair` says that they are all."""
    facts = table.rows.attrs
    label = f"tab:{facts['dataset']}-{facts['split_hash'][:8]}-{facts['protocol']}"
    of_lists = compare.about_lists(table.rows) if set(LISTED) & set(metrics) else []
    notes = [*compare.explanations(table.rows), *of_lists, *facts["notes"]]
    means = Table(table.title, means_columns(table.rows, metrics), notes, label)
    if table.pairs.empty:
        return [means]
    columns, title = pairs_columns(table, every_pair, is_named_once), table.title_of_pairs(every_pair)
    return [means, Table(title, columns, compare.notes_of_pairs(table), f"{label}-pairs")]


def pairs_columns(table: Comparison, every_pair: bool, is_named_once: bool) -> list[Column]:
    """Differences with their intervals, effect sizes, and p values by Holm (the raw ones are in CSV and JSON).

    A pair has a line for either metric and is named in the first, or in both.
    """
    pairs, shown = table.pairs, dict(zip(table.rows["label"], compare.marked(table.rows)))
    names = pairs["b"].map(shown)
    names = pairs["a"].map(shown) + " against " + names if every_pair else names
    names = names.where(pairs["metric"] == JUDGED[0], "") if is_named_once else names
    interval = zip(*(pairs[name].map(signed) for name in ("difference", "low", "high")))
    return [
        Column("pair" if every_pair else "against", names.tolist()),
        Column("metric", pairs["metric"].str.upper().tolist(), is_key=True),
        Column("difference\n[95 % interval]", [f"{at} [{low}, {high}]" for at, low, high in interval]),
        Column("in %", [signed(value, 1) for value in pairs["relative"]]),
        Column("bootstrap\np (Holm)", [*map(p_value, pairs["p bootstrap holm"], pairs["at most"])]),
        Column("t-test as\nthe paper\np (Holm)", [*map(p_value, pairs["p t-test holm"])]),
        Column("Cohen's\nd_z", [signed(value, 3) for value in pairs["d_z"]]),
    ]


def views_of_study(
    found: Study, table: Comparison, metrics: Sequence[str], is_named_once: bool = True, is_tuned: bool = False
) -> list[Table]:
    """The means with the paper's figures, then the pairs."""
    means, *pairs = views_of(table, metrics, bool(found.pairs), is_named_once)
    apart, notes = compare.settings_apart(table.rows), list(means.notes)
    if apart:  # no columns: the labels of the arms stand for them
        tuned = "; those that were tuned are in tuned.toml, and in --out FILE.csv" * is_tuned
        notes.append(f"The settings of each arm: dissect study show, with the same study{tuned}.")
    columns = with_paper([each for each in means.columns if each.name.replace("\n", " ") not in apart], table.rows)
    means = replace(means, title=f"{found.name}: {found.question} {means.title}", columns=columns, notes=notes)
    if found.pairs:
        pairs = [replace(view, title=f"{found.name}: the pairs that it asks about") for view in pairs]
    return [means, *pairs]


def with_paper(columns: Sequence[Column], rows: pd.DataFrame) -> list[Column]:
    """The means of a study: behind MRR@20 the time of an epoch, as in Table 2, and what the paper prints, if it does,
    with how far ours are from it.
    """
    cells = dict[str, pd.Series]()
    if (printed := rows["paper mrr@20"].notna()).any():
        apart = [(rows[name] - rows[f"paper {name}"]).map(signed) for name in JUDGED]
        cells["paper\nHR / MRR"] = at_20(rows, "paper")
        cells["ours - paper\nHR / MRR"] = apart[0] + " / " + apart[1]
        cells["paper\ns/epoch"] = rows["paper seconds"].map(seconds)
    shown = {name: column.where(printed, "").tolist() for name, column in cells.items()}
    beside = [column for column in columns if column.name == "s/epoch"]
    beside += [Column(name, column) for name, column in shown.items() if any(column)]
    others = [column for column in columns if column.name != "s/epoch"]
    place = next(i for i, column in enumerate(others) if column.name.startswith("MRR@20")) + 1
    return [*others[:place], *beside, *others[place:]]


# --- cells --------------------------------------------------------------------------------------------------


def at_20(rows: pd.DataFrame, kind: str) -> pd.Series:
    """HR@20 and MRR@20 of a kind, such as `bias`, in a cell."""
    hr, mrr = (rows[f"{kind} {metric}"].map(number) for metric in JUDGED)
    return hr + " / " + mrr


# --- for programs -------------------------------------------------------------------------------------------


def to_csv(parts: Iterable[pd.DataFrame]) -> str:
    """Tables below each other with every column, each with its data set, split, protocol and rule for ties."""
    named = []
    for part in parts:
        facts = {name: part.attrs[name] for name in ("dataset", "split_hash", "protocol", "ties")}
        front = pd.DataFrame(facts, index=part.index)
        named.append(pd.concat([front, part.drop(columns=list(facts), errors="ignore")], axis=1))
    return without_formulas(pd.concat(named)).to_csv(index=False, float_format="%.6g")


def to_json(found: Iterable[Comparison]) -> str:
    """Tables with everything that is known of them, as JSON."""
    return json.dumps({"schema": files.SCHEMA, "tables": [as_record(table) for table in found]}, indent=1)


def notes_of(found: Iterable[Comparison]) -> list[str]:
    """What the numbers of several tables cannot show, each note once."""
    return list(dict.fromkeys(note for table in found for note in table.rows.attrs["notes"]))


def as_record(table: Comparison) -> dict[str, Any]:
    """For --json; NaN and infinities are written as null."""

    def records(part: pd.DataFrame) -> list[dict[str, Any]]:
        return list(json.loads(part.to_json(orient="records", double_precision=15)))

    facts = table.rows.attrs
    front = {name: facts[name] for name in list(facts)[: list(facts).index("holm_tests")]}
    return {**front, "rows": records(table.rows), "pairs": records(table.pairs), **facts}
