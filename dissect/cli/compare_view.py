"""Results side by side: the tables of `dissect train` and `dissect compare`, on the screen or in a file."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from rich.console import Console
from rich.progress import Progress

from analyses import compare
from analyses.bootstrap import Report
from analyses.compare import Comparison
from analyses.entries import JUDGED
from dissect.cli import options
from dissect.cli.text_table import NO_LIMIT, Column, TextTable, to_latex, to_markdown, to_screen
from dissect.errors import DissectError, UsageError
from dissect.runs import files
from dissect.runs.records import ALSO, EVERY, LISTED, METRICS
from dissect.text import without_formulas

SUFFIXES = {".md": "markdown", ".csv": "csv", ".tex": "latex", ".json": "json", ".txt": "screen"}
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

    Seeds, settings and the selection of the epoch have a column only if rows differ in them, ties only if they matter.
    """
    is_new = (rows["group"] == newest).tolist()
    columns: list[Column] = []

    def add(name: str, cells: pd.Series, bold: Sequence[bool] = (), spare: bool = True, **how: Any) -> None:
        if (cells != "").any():
            columns.append(Column(name, cells.tolist(), bold, spare, **how))

    add("model" if newest is None else "run", rows["label"], is_new, False)
    for metric in [name for name in metrics if name in METRICS]:
        name = metric.upper() + ("\n(all items)" if compare.is_certain(rows, metric) else "")
        sd = rows[f"{metric} sd"].map(lambda value: "" if pd.isna(value) else f" ± {value:.2f}")
        best = is_new if newest is not None else compare.is_best(rows, metric).tolist()
        add(name, rows[metric].map("{:.2f}".format) + sd, best, metric not in JUDGED)
    for metric in [name for name in metrics if name not in METRICS and name in rows]:
        cells = rows[metric].map(lambda value: "–" if pd.isna(value) else f"{value:.2f}")
        add(metric.upper() if metric in ALSO else metric, cells)
    if (tied := compare.has_ties(rows)).any():
        worst = at_20(rows, "worst").where(tied, "").mask(rows["worst mrr@20"].isna(), "?")  # not measured
        add("ties against\nHR / MRR", worst, spare=False)
    if len(compare.selections(rows)) > 1:
        words_of = {how: words for how, (words, _) in compare.EPOCHS.items()}
        add("epoch", rows["selection"].map({**words_of, "": ""}), spare=False)
    for words, name in compare.settings_apart(rows).items():
        add(words, rows[name].map(setting), below=True)
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
    """A setting in a cell; nothing if a row has no such setting."""
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "none"}[value]
    if isinstance(value, float):
        return "" if pd.isna(value) else f"{value:g}"
    return str(value)[:SHORT]


def seconds(value: float) -> str:
    """Rounded for a cell; nothing if there are none."""
    return "" if pd.isna(value) else f"{value:,.0f}" if value >= 10 else f"{value:.2g}"


# --- dissect compare, its tables ---------------------------------------------------------------------------


def views_of(table: Comparison, metrics: Sequence[str], every_pair: bool) -> list[TextTable]:
    """The means and, if there are two rows, the pairs; `every_pair` says that they are all."""
    facts = table.rows.attrs
    label = f"tab:{facts['dataset']}-{facts['split_hash'][:8]}-{facts['protocol']}"
    of_lists = compare.about_lists(table.rows) if set(LISTED) & set(metrics) else []
    notes = [*compare.explanations(table.rows), *of_lists, *facts["notes"]]
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
    """Three digits; `at_most` if the number of resamples sets the limit."""
    return "<0.001" if p < 0.001 else ("≤" if at_most and p < 1 else "") + f"{p:.3f}"


# --- dissect compare, where they go ------------------------------------------------------------------------


def run(*, form: str | None, out: str | None, all_metrics: bool, pairs: bool, as_json: bool, **asked: Any) -> None:
    """Print or write what `dissect compare` was asked for; `asked` goes to analyses.compare.compare."""
    form = chosen_form(form, out, as_json)
    with options.progress(transient=True) as bars:
        found = compare.compare(**asked, every_pair=pairs, report=lambda what: report_to(bars, what))
    metrics = EVERY if all_metrics else JUDGED
    write(found, form, out, lambda table: views_of(table, metrics, pairs), pairs)


def report_to(progress: Progress, what: str) -> Report:
    """A function of (done, total) that updates a line of `progress`."""
    task = progress.add_task(what, total=None, visible=False)
    return lambda done, total: progress.update(task, completed=done, total=total, visible=True)


def chosen_form(form: str | None, out: str | None, as_json: bool) -> str:
    """The format asked for, or that of the file's suffix. Raises UsageError if they contradict or none is given."""
    if as_json and form not in (None, "json"):
        raise UsageError(f"--json and --format {form} exclude each other.")
    asked = "json" if as_json else form
    if out is None:
        return asked or "screen"
    by_name = SUFFIXES.get(Path(out).suffix)
    if asked is None and by_name is None:
        hint = f"End it in {', '.join(SUFFIXES)}, or give --format."
        raise UsageError(f"The name {out} does not say which format to write.", hint)
    if asked and by_name not in (None, "screen", asked):  # any text may stand in a .txt
        raise UsageError(
            f"--out {out} means {by_name} by its ending, and {'--json' if as_json else f'--format {form}'} does not.",
            f"Leave one of them out, or end the name in {next(s for s, f in SUFFIXES.items() if f == asked)}.",
        )
    return asked or str(by_name)


def write(
    found: list[Comparison],
    form: str,
    out: str | None,
    views_of: Callable[[Comparison], list[TextTable]],
    every_pair: bool = False,
) -> None:
    """Print the tables, or write them to `out` and print its path."""
    texts: dict[str, str]  # by what the name of the file is extended with
    views = [view for table in found for view in views_of(table)]
    if form == "json":
        texts = {"": json.dumps({"schema": files.SCHEMA, "tables": [as_record(table) for table in found]}, indent=1)}
    elif form == "csv":
        texts = {"": to_csv(table.rows for table in found), "-pairs": to_csv(table.pairs for table in found)}
        if out is None:
            texts = {"": texts["-pairs" if every_pair else ""]}
        for note in dict.fromkeys(note for table in found for note in table.rows.attrs["notes"]):
            print(note, file=sys.stderr)
    elif form == "screen" and out is None:
        # In a pipe a row is a line, unless COLUMNS says otherwise.
        width = None if sys.stdout.isatty() or "COLUMNS" in os.environ else NO_LIMIT
        for view in views:
            Console(width=width).print(view, "")
        return
    else:
        texts = {"": as_text(views, form)}
    for extension, text in texts.items():
        put(text, None if out is None else Path(out).with_stem(Path(out).stem + extension))


def as_text(views: Iterable[TextTable], form: str) -> str:
    """Tables below each other as they stand in a file of text, Markdown or LaTeX."""
    if form == "screen":
        return "\n\n".join(to_screen(view, NO_LIMIT).plain for view in views)
    return "\n".join(map(to_markdown if form == "markdown" else to_latex, views))


def put(text: str, out: str | Path | None) -> None:
    """Print a text, or write it to a file and print its path. Raises DissectError if the disk refuses."""
    if out is None:
        print(text.rstrip("\n"))
        return
    try:
        Path(out).parent.mkdir(parents=True, exist_ok=True)
        Path(out).write_text(text.rstrip("\n") + "\n", encoding="utf-8")
    except OSError as error:
        raise DissectError(f"Could not write {out}: {error.strerror or error}.") from error
    print(out)


def to_csv(parts: Iterable[pd.DataFrame]) -> str:
    """Tables below each other with every column, each with its data set, split, protocol and rule for ties."""
    named = []
    for part in parts:
        facts = {name: part.attrs[name] for name in ("dataset", "split_hash", "protocol", "ties")}
        front = pd.DataFrame(facts, index=part.index)
        named.append(pd.concat([front, part.drop(columns=list(facts), errors="ignore")], axis=1))
    return without_formulas(pd.concat(named)).to_csv(index=False, float_format="%.6g")


def as_record(table: Comparison) -> dict[str, Any]:
    """For --json; NaN and infinities are written as null."""

    def records(part: pd.DataFrame) -> list[dict[str, Any]]:
        return list(json.loads(part.to_json(orient="records", double_precision=15)))

    facts = table.rows.attrs
    front = {name: facts[name] for name in list(facts)[: list(facts).index("holm_tests")]}
    return {**front, "rows": records(table.rows), "pairs": records(table.pairs), **facts}
