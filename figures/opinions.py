"""Second opinions: the order of the matrices by each criterion, how far they agree, and what pruning by them costs."""

from __future__ import annotations

from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from figures.style import COLOURS, DASHES, GREY, SETTINGS, TEXT, above, short_names, write_above

ORDER, AGREEMENT = "mako", "vlag"  # rank 1 is dark; -1 to 1 with white at 0
TITLE = "Second opinions"
CELL, LETTER = 0.17, 0.052  # inches: a row, a letter of its name
HEADS, BELOW, CURVES, BETWEEN = 0.62, 0.42, 1.75, 0.55  # inches: names of columns, an axis, the lower panels
WIDE = 0.3  # inches, a column of the heatmaps
LEAST_SHARE = 0.005  # where a share of 0 stands on the logarithmic axis


def draw(
    order: pd.DataFrame, agreement: pd.DataFrame, curves: pd.DataFrame, words: dict[str, str], caption: str
) -> Figure:
    """Above the order of the matrices and the rank correlations, below the accuracy if there are curves.

    order      matrix x criterion, 1 for the matrix that matters most
    agreement  criterion x criterion, -1 to 1
    curves     criterion, share, mean, low and high over seeds
    words      of the criteria
    """
    names = short_names(list(order.index))
    left = LETTER * max(map(len, names.values())) + 0.12
    tall = CELL * max(len(order), len(agreement))
    top = above(caption) + HEADS
    lower = BETWEEN + CURVES + BELOW if len(curves) else 0.15
    height = top + tall + lower
    with mpl.rc_context(SETTINGS):
        figure = Figure(figsize=(TEXT, height))
        write_above(figure, TITLE, caption)

        def place(x: float, y: float, w: float, h: float) -> Axes:  # inches, y from the top
            return figure.add_axes((x / TEXT, 1 - (y + h) / height, w / TEXT, h / height))

        n = len(order.columns)
        _cells(place(left, top, WIDE * n, CELL * len(order)), order, names, words, "order of the matrices", "{:.0f}")
        own = {name: words.get(name, name) for name in agreement.index}
        more = LETTER * max(map(len, own.values())) + 0.1
        at = left + WIDE * n + 0.35 + more
        room = min(WIDE, (TEXT - at - 0.4) / len(agreement))  # the last name leans to the right
        _cells(
            place(at, top, room * len(agreement), CELL * len(agreement)), agreement, own, words, "rank correlation", ""
        )
        if len(curves):
            _curves(place(0.45, top + tall + BETWEEN, TEXT - 0.45 - 1.1, CURVES), curves, words)
    return figure


def _cells(axes: Axes, cells: pd.DataFrame, rows: dict[str, str], words: dict[str, str], title: str, form: str) -> None:
    """A heatmap with its numbers: an order with 1 dark, or correlations."""
    import seaborn as sns

    is_order = bool(form)
    numbers = cells.map(lambda v: "" if pd.isna(v) else form.format(v) if is_order else correlation(v))
    scale: dict[str, Any] = {"cmap": ORDER, "vmin": 0.5, "vmax": len(cells) + 2}
    if not is_order:
        scale = {"cmap": AGREEMENT, "vmin": -1, "vmax": 1}
    sns.heatmap(cells, ax=axes, cbar=False, annot=numbers, fmt="", annot_kws={"fontsize": 6}, linewidths=0.4, **scale)
    axes.set(xlabel="", ylabel="")
    axes.xaxis.tick_top()
    axes.set_xticks(
        np.arange(len(cells.columns)) + 0.5, [words.get(c, c) for c in cells.columns], rotation=40, ha="left"
    )
    axes.set_yticks(np.arange(len(cells)) + 0.5, [rows[row] for row in cells.index], rotation=0)
    axes.tick_params(length=0, labelsize=6.5, pad=1)
    axes.set_xlabel(title, fontsize=6.5, labelpad=3, loc="left", color="#444444")
    axes.xaxis.set_label_position("bottom")


def correlation(value: float) -> str:
    """One digit, no 0 before the point, and no sign before a zero."""
    return f"{round(value, 1) + 0.0:.1f}".replace("0.", ".")


def _curves(axes: Axes, curves: pd.DataFrame, words: dict[str, str]) -> None:
    """MRR@20 against the share of weights that is kept, on a logarithmic axis with 0 at its left end."""
    heights = curves[curves["share"].between(0.001, 0.5)].groupby("criterion")["mean"].mean()
    names = [name for name in heights.sort_values(ascending=False).index if name in words]  # as they lie
    for name in names:
        i = [*words].index(name)
        line = curves[curves["criterion"] == name].sort_values("share")
        colour, dashes = GREY if name == "random" else COLOURS[i % len(COLOURS)], DASHES[i % len(DASHES)]
        x, look = line["share"].clip(lower=LEAST_SHARE), {"dashes": dashes} if dashes else {}
        axes.plot(x, line["mean"], color=colour, marker="o", markersize=2, label=words[name], **look)
        axes.fill_between(x, line["low"], line["high"], color=colour, alpha=0.12, linewidth=0)
    axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False, fontsize=6.5, handlelength=2.6)
    axes.set_xscale("log")
    shares = sorted(curves["share"].clip(lower=LEAST_SHARE).unique())
    axes.set_xticks(shares, ["0" if s == LEAST_SHARE else f"{s:g}" for s in shares])
    axes.minorticks_off()
    axes.set_xlim(LEAST_SHARE, 1)
    axes.set(xlabel="share of all weights kept, the best by each criterion", ylabel="MRR@20 (%)")
    axes.grid(axis="y", linewidth=0.3, color="#dddddd")


def _first(places: pd.Series) -> str:
    """The names in the first place; several may share it."""
    first = places.index[places == places.min()]
    return "none (all alike)" if 1 < len(first) == places.notna().sum() else ", ".join(first)


def describe(order: pd.DataFrame, curves: pd.DataFrame, words: dict[str, str], caption: str) -> str:
    """The figure in words, from its data."""
    first = "; ".join(f"{words.get(name, name)}: {_first(order[name])}" for name in order if order[name].notna().any())
    said = f"{TITLE}. {caption}. Which matrix matters most: {first}."
    if len(curves):
        at = curves[np.isclose(curves["share"], 0.1)]
        tenth = ", ".join(
            f"{words[name]} {mean:.2f}" for name, mean in zip(at["criterion"], at["mean"]) if name in words
        )
        said += f" MRR@20 with a tenth of the weights: {tenth}."
    return said
