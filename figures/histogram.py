"""Histograms of log alpha per matrix, with the threshold; that of its shadow mirrored below."""

from __future__ import annotations

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import FuncFormatter, MaxNLocator

from figures.style import COLOURS, SETTINGS, TEXT, above, short_names, write_above

TITLE = "Log α at the end of training"
BIN = 0.25  # of log alpha
BEYOND = "#B5B5B5"  # of the weights at or above the threshold
SHADOW = "shadow."  # begins the name of a shadow
PERCENT = FuncFormatter(lambda share, _: f"{abs(100 * share):.0f} %")


def draw(table: pd.DataFrame, threshold: float, caption: str) -> Figure:
    """One small panel per matrix; `table` has matrix, log_alpha (left edge of a bin) and share of the weights.

    Weights that are kept are blue, the others grey. A matrix with a shadow has the shadow's histogram upside down below
    its own, on the same scale. The bins at the ends of the range, -20.25 and 20, hold all that lies beyond: its share
    is written, not drawn.
    """
    parts = dict(list(table.groupby("matrix", sort=False)))
    matrices = [matrix for matrix in parts if not matrix.startswith(SHADOW)]
    names = short_names(matrices)
    has_shadows = any(f"{SHADOW}{matrix}" in parts for matrix in matrices)
    columns = 4
    rows = -(-len(matrices) // columns)
    low, high = limits(table, threshold)
    with mpl.rc_context(SETTINGS):
        height = above(caption) + 0.2 + (1.55 if has_shadows else 1.25) * rows
        layout = ConstrainedLayoutEngine(rect=(0, 0, 1, 1 - above(caption) / height))
        figure = Figure(figsize=(TEXT, height), layout=layout)
        panels = figure.subplots(rows, columns, squeeze=False)
        for panel in panels.flat[len(matrices) :]:
            panel.set_visible(False)
        for panel, matrix in zip(panels.flat, matrices):
            _panel(panel, names[matrix], parts[matrix], parts.get(f"{SHADOW}{matrix}"), threshold)
            panel.set_xlim(low, high)
        figure.supxlabel("log α", fontsize=7.5)
        figure.supylabel(f"share in a bin of {BIN}", fontsize=7.5)
        write_above(figure, TITLE, caption)
    return figure


def _panel(axes: Axes, name: str, part: pd.DataFrame, shadow: pd.DataFrame | None, threshold: float) -> None:
    """The histogram of a matrix, and that of its shadow upside down."""
    tallest = max(_bars(axes, part, threshold, 1), 0.02)
    title = axes.set_title(f"{name}\n{in_words(part, threshold)}", fontsize=6.5, loc="left")
    title.set_in_layout(False)  # nothing stands beside it
    low = 0.0
    if shadow is not None:
        tallest = low = max(tallest, _bars(axes, shadow, threshold, -1))
        axes.axhline(0, color="black", linewidth=0.6)
        said = f"shadow: {in_words(shadow, threshold)}".replace(", ", ",\n", 1)
        axes.text(0.02, 0.02, said, transform=axes.transAxes, fontsize=6.5, va="bottom", in_layout=False)
    axes.set_ylim(-1.75 * low, 1.05 * tallest)  # below, with room for two lines of words
    axes.plot([threshold] * 2, [-1.05 * low, 1.05 * tallest], color=COLOURS[1], linewidth=0.8, linestyle="--")
    nice = MaxNLocator(3 if shadow is None else 2, steps=[1, 2, 5, 10])
    ticks = [tick for tick in nice.tick_values(0, tallest) if tick <= 1.05 * tallest]
    axes.set_yticks(ticks if shadow is None else [*(-tick for tick in ticks[:0:-1]), *ticks])
    axes.yaxis.set_major_formatter(PERCENT)


def _bars(axes: Axes, part: pd.DataFrame, threshold: float, way: int) -> float:
    """Draw the bins within the range upward (`way` 1) or downward (-1); returns the largest share."""
    inside = part[(part["log_alpha"] >= -20) & (part["log_alpha"] < 20)]
    edges = np.linspace(-20, 20, round(40 / BIN) + 1)
    for chosen, colour in ((inside["log_alpha"] < threshold, COLOURS[0]), (inside["log_alpha"] >= threshold, BEYOND)):
        shares, _ = np.histogram(inside[chosen]["log_alpha"] + BIN / 2, edges, weights=inside[chosen]["share"])
        axes.stairs(way * shares, edges, fill=True, color=colour)
    return float(inside["share"].max())


def in_words(part: pd.DataFrame, threshold: float) -> str:
    """The share of a matrix's weights that is kept, and the shares beyond the range if they are not tiny."""
    kept = part[part["log_alpha"] < threshold]["share"].sum()
    beyond = {"below −20": part["log_alpha"] < -20, "above 20": part["log_alpha"] >= 20}
    shares = {side: part[chosen]["share"].sum() for side, chosen in beyond.items()}
    words = [f"{kept:.3f} kept"]
    words += [f"{100 * share:.1f} % {side}" for side, share in shares.items() if share >= 0.001]
    return ", ".join(words)


def limits(table: pd.DataFrame, threshold: float) -> tuple[float, float]:
    """The range of log alpha with every bin of more than a thousandth of a matrix and the threshold, with some air."""
    seen = [*table[table["share"] > 1e-3]["log_alpha"].clip(-20, 20), threshold]
    return float(np.floor(min(seen))) - 1, float(np.ceil(max(seen))) + 1


def describe(table: pd.DataFrame, threshold: float, caption: str) -> str:
    """The figure in words, from its data."""
    kept = table[table["log_alpha"] < threshold].groupby("matrix", sort=False)["share"].sum()
    shares = ";\n".join(f"{name} {value:.3f}" for name, value in kept.items())
    return f"{TITLE}. {caption}. Share of weights below the threshold:\n{shares}."
