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
from dissect.tables.results import means_columns, pairs_columns, with_paper
from dissect.tables.text import TextTable
from dissect.text import plural

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


def seconds(value: float | None) -> str:
    """A time in the unit that suits it."""
    if value is None or math.isnan(value):
        return ""
    return f"{value:.0f} s" if value < 100 else f"{value / 60:.0f} min" if value < 6000 else f"{value / 3600:.1f} h"


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


def of_text(view: TextTable) -> Table:
    """A table of text, as the screen and Markdown have it, on the page; its notes stand elsewhere."""
    rows = [[cell for cell, _ in row] for row in view.rows()]
    names = {column.name: " ".join(column.name.split()) for column in view.columns}
    best = {names[column.name]: column.bold for column in view.columns[1:] if any(column.bold)}
    return table(view.title, list(names.values()), rows, best=best)


def of_means(found: compare.Comparison) -> Table:
    """The rows of a comparison: accuracy, how the epoch was chosen, what differs, and the cost."""
    columns = means_columns(found.rows, JUDGED)
    return of_text(TextTable(found.title, with_paper(columns, found.rows) if "paper mrr@20" in found.rows else columns))


def of_pairs(found: compare.Comparison) -> Table:
    """The best row against each other one, or the pairs that a study asks about."""
    best = compare.marked(found.rows)[0]
    is_with_best = bool((found.pairs["a"] == found.rows["label"][0]).all())
    title = f"{best}, which has the best MRR@20, against the others"
    columns = pairs_columns(found, not is_with_best, is_named_once=False)
    return of_text(TextTable(title if is_with_best else "The pairs that the study asks about", columns))


def of_status(rows: pd.DataFrame) -> Table:
    """How far each arm of a study is (analyses/study.py: status)."""
    cells = [
        [row["label"], f"{row['done']} of {row['wanted']}", seconds(row["seconds"]), percent(row["hr@20"]),
         percent(row["mrr@20"]), row["group"]]
        for row in rows.to_dict("records")
    ]  # fmt: skip
    head = ["arm", "seeds finished", "training of a seed", "HR@20 (%)", "MRR@20 (%)", "group"]
    return table(f"{rows['done'].sum()} of {plural(rows['wanted'].sum(), 'training')} finished", head, cells)
