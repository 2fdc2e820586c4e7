"""Tables of a report as plain data, and the numbers in their cells."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
import pandas as pd

from analyses import compare
from analyses.entries import JUDGED
from dissect.drawing import Drawing

MOMENTS = 8  # of a training, that a table behind a figure shows
# A number, with its sign, its unit, and its spread or interval in a cell; nothing, or "?", which is not known.
NUMBER = re.compile(
    r"([<≤+−] ?)?[\d,]*[\d∞](\.\d+)?( %| s| min| h)?( [±(/\[] ?[−+\d., /∞]+[)\]]?)?|\??|\d+( of)?( \d+)+"
)


class Table(TypedDict):
    """A caption (with the units), the names of the columns, which of them hold numbers, and rows of texts.

    The first cell of a row is its name. `bars` has for each row None, or two shares to draw in it: kept and shadow;
    `best` has the places (row, column) of the best values.
    """

    caption: str
    head: list[str]
    numeric: list[bool]
    rows: list[list[str]]
    bars: list[tuple[float, float] | None]
    best: list[tuple[int, int]]


def table(
    caption: str,
    head: Sequence[str],
    rows: Iterable[Sequence[str]],
    bars: Sequence[tuple[float, float] | None] = (),
    best: Mapping[str, Sequence[bool]] | None = None,
) -> Table:
    """A table; columns that hold nothing are left out. `best`: the name of a column -> whether each row is best."""
    cells = [list(map(str, row)) for row in rows]
    kept = [place for place in range(len(head)) if not place or any(row[place] for row in cells)]
    numeric = [place > 0 and all(NUMBER.fullmatch(row[place]) for row in cells) for place in kept]
    names = [head[place] for place in kept]
    marks = [(row, names.index(name)) for name, of in (best or {}).items() for row, is_best in enumerate(of) if is_best]
    return {
        "caption": caption,
        "head": names,
        "numeric": numeric,
        "rows": [[row[place] for place in kept] for row in cells],
        "bars": list(bars),
        "best": marks,
    }


def share(value: float | None) -> str:
    """A share with three digits, without a sign before what is rounded to 0; "" for none."""
    return "" if value is None or math.isnan(value) else f"{value:.3f}".replace("-0.000", "0.000").replace("-", "−")


def percent(value: float | None, digits: int = 2) -> str:
    """A number in percent, "" for none."""
    return "" if value is None or math.isnan(value) else f"{value:.{digits}f}".replace("-", "−")


def signed(value: float | None, digits: int = 2) -> str:
    """With a sign, a true minus, and no sign before a zero."""
    if value is None or math.isnan(value):
        return ""
    text = f"{value:+.{digits}f}"
    return text[1:] if float(text) == 0 else text.replace("-", "−").replace("inf", "∞")


def seconds(value: float | None) -> str:
    """A time in the unit that suits it."""
    if value is None or math.isnan(value):
        return ""
    return f"{value:.0f} s" if value < 100 else f"{value / 60:.0f} min" if value < 6000 else f"{value / 3600:.1f} h"


def setting(value: Any) -> str:
    """A setting in a cell; nothing if a row has no such setting."""
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "none"}[value]  # as `dissect compare` says it
    return ("" if math.isnan(value) else f"{value:g}") if isinstance(value, float) else str(value)[:40]


def plural(number: int, what: str) -> str:
    """1 seed, 2 seeds."""
    return f"{number:,} {what}{'s' * (number != 1)}"


def behind(drawing: Drawing, digits: int = 3) -> Table:
    """The numbers behind a figure: a row for each line, a column for each of a few moments, or for each KL weight.

    Groups side by side have rows of their own, which begin with their names.
    """
    found = drawing.table.copy()
    x = next(name for name in ("kl_weight", "epoch", "x") if name in found)
    names = {"kl_weight": "KL weight", "epoch": "epoch", "x": ""}[x]
    by = [name for name in ("group", "panel", "curve", "split", "line") if name in found]
    if "group" in found:
        found["group"] = found["group"].map(lambda group: Path(group).name)
    wide = found.pivot_table(index=by, columns=x, values="mean", sort=False).sort_index(axis=1)
    shadows = found.pivot_table(index=by, columns=x, values="shadow", sort=False) if "shadow" in found else None
    if x == "epoch":  # lines are measured at moments of their own: the last value by then
        wide = wide.ffill(axis=1)
    places = np.unique(np.linspace(0, wide.shape[1] - 1, min(wide.shape[1], MOMENTS if x == "epoch" else 99)).round())
    last = found.sort_values(x).groupby(by, sort=False)[["low", "high", "seeds"]].last()

    def cell(line: Any, at: float) -> str:
        text = percent(wide.loc[line, at], digits if "mrr@20" not in line else 2)
        of_shadow = float("nan") if shadows is None or line not in shadows.index else shadows.loc[line].get(at, np.nan)
        return text if math.isnan(of_shadow) else f"{text} ({percent(of_shadow, digits)})"

    rows = []
    chosen = [wide.columns[int(place)] for place in places]
    for line in wide.index:
        parts = line if isinstance(line, tuple) else (line,)
        low, high, seeds = last.loc[line]
        ends = f"{percent(low, digits)} to {percent(high, digits)}" if seeds > 1 else ""
        rows.append([", ".join(map(str, parts)), *(cell(line, at) for at in chosen), ends])
    of = f" at {len(chosen)} of {wide.shape[1]} moments" if len(chosen) < wide.shape[1] else ""
    caption = f"Means over seeds{of}{'; in brackets the shadow' if shadows is not None else ''}"
    return table(
        caption, ["line", *(f"{names} {at:.3g}".strip() for at in chosen), "range over seeds at the end"], rows
    )


def of_means(found: compare.Comparison) -> Table:
    """The rows of a comparison: accuracy, how the epoch was chosen, what differs, and the cost."""
    rows = found.rows
    columns: dict[str, list[str]] = {"model": rows["label"].tolist()}
    for metric in JUDGED:
        over = [
            f"{m:.2f}" + ("" if math.isnan(sd) else f" ± {sd:.2f}") for m, sd in zip(rows[metric], rows[f"{metric} sd"])
        ]
        columns[f"{metric.upper()} (%)"] = over
    if compare.has_ties(rows).any():
        both = zip(rows["worst hr@20"], rows["worst mrr@20"])
        columns["ties against it: HR / MRR (%)"] = ["?" if math.isnan(m) else f"{h:.2f} / {m:.2f}" for h, m in both]
    if "paper mrr@20" in rows:
        printed = zip(rows["paper hr@20"], rows["paper mrr@20"])
        columns["the paper: HR / MRR (%)"] = ["" if math.isnan(m) else f"{h:.2f} / {m:.2f}" for h, m in printed]
    columns["epoch reported"] = [
        {**{k: w for k, (w, _) in compare.EPOCHS.items()}, "": ""}[how] for how in rows["selection"]
    ]
    for words, name in compare.settings_apart(rows).items():
        columns[words] = [setting(value) for value in rows[name]]
    columns["seeds"] = rows["seed_list"].where(rows["selection"] != "", "").tolist()
    biases = zip(rows["bias hr@20"], rows["bias mrr@20"], compare.has_bias(rows))
    columns["choosing on test would add: HR / MRR (points)"] = [
        ("in the numbers" if math.isnan(m) else f"{h:.2f} / {m:.2f}") if has else "" for h, m, has in biases
    ]
    columns["seconds per epoch"] = ["" if math.isnan(s) else f"{s:.3g}" for s in rows["seconds_per_epoch"]]
    columns["parameters"] = [f"{number:,}" if number else "" for number in rows["parameters"]]
    caption = f"{found.title}. Mean ± standard deviation over seeds, the best in bold"
    best = {f"{metric.upper()} (%)": compare.is_best(rows, metric).tolist() for metric in JUDGED}
    return table(caption, list(columns), zip(*columns.values()), best=best)


def of_pairs(found: compare.Comparison) -> Table:
    """The best row against each other one, or the pairs that a study asks about."""
    pairs, marked = found.pairs, dict(zip(found.rows["label"], compare.marked(found.rows)))
    best = found.rows["label"].iloc[0]
    is_with_best = bool((pairs["a"] == best).all())
    rows = [
        [
            marked[pair["b"]] if is_with_best else f"{marked[pair['a']]} against {marked[pair['b']]}",
            pair["metric"].upper(),
            f"{signed(pair['difference'])} [{signed(pair['low'])}, {signed(pair['high'])}]",
            signed(pair["relative"], 1),
            ("≤ " if pair["at most"] and pair["p bootstrap holm"] < 1 else "") + _p(pair["p bootstrap holm"]),
            _p(pair["p t-test holm"]),
            signed(pair["d_z"], 3),
        ]
        for pair in pairs.to_dict("records")
    ]
    head = [
        "against" if is_with_best else "pair",
        "metric",
        "difference in points [95 % interval]",
        "in %",
        "p (bootstrap, Holm)",
        "p (t-test, Holm)",
        "d_z",
    ]
    says = f"{marked[best]}, which has the best MRR@20, against the others"
    return table(says if is_with_best else "The pairs that the study asks about", head, rows)


def _p(value: float) -> str:
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def of_status(rows: pd.DataFrame) -> Table:
    """How far each arm of a study is (analyses/study.py: status)."""
    cells = [
        [row["label"], f"{row['done']} of {row['wanted']}", seconds(row["seconds"]), percent(row["hr@20"]),
         percent(row["mrr@20"]), row["group"]]
        for row in rows.to_dict("records")
    ]  # fmt: skip
    head = ["arm", "seeds finished", "training of a seed", "HR@20 (%)", "MRR@20 (%)", "group"]
    return table(f"{rows['done'].sum()} of {rows['wanted'].sum()} trainings are finished", head, cells)
