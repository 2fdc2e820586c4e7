"""Histograms of log alpha per matrix, with the threshold."""

from __future__ import annotations

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from figures.style import COLOURS, SETTINGS, TEXT, short_names

BIN = 0.25  # of log alpha
BEYOND = "#B5B5B5"  # of the weights at or above the threshold


def draw(table: pd.DataFrame, threshold: float, caption: str) -> Figure:
    """One small panel per matrix; `table` has matrix, log_alpha (left edge of a bin) and share of the weights.

    Weights that are kept are blue, the others grey. The bins at the ends of the range, -20.25 and 20, hold all that
    lies beyond: its share is written, not drawn.
    """
    import seaborn as sns

    matrices = list(table["matrix"].unique())
    names = short_names(matrices)
    columns = 4
    rows = -(-len(matrices) // columns)
    low, high = limits(table, threshold)
    with mpl.rc_context(SETTINGS):
        figure = Figure(figsize=(TEXT, 0.45 + 1.25 * rows), layout="constrained")
        panels = figure.subplots(rows, columns, squeeze=False)
        for panel in panels.flat[len(matrices) :]:
            panel.set_visible(False)
        for panel, matrix in zip(panels.flat, matrices):
            part = table[table["matrix"] == matrix]
            inside = part[(part["log_alpha"] >= -20) & (part["log_alpha"] < 20)]
            sns.histplot(
                inside.assign(middle=inside["log_alpha"] + BIN / 2, kept=inside["log_alpha"] < threshold),
                x="middle",
                weights="share",
                binwidth=BIN,
                binrange=(-20, 20),
                hue="kept",
                palette={True: COLOURS[0], False: BEYOND},
                alpha=1,
                linewidth=0,
                legend=False,
                ax=panel,
            )
            panel.set(xlabel="", ylabel="")
            panel.axvline(threshold, color=COLOURS[1], linewidth=0.8, linestyle="--")
            panel.set_title(f"{names[matrix]}\n{in_words(part, threshold)}", fontsize=6.5, loc="left")
            panel.set_xlim(low, high)
            panel.set_ylim(0, max(1.05 * inside["share"].max(), 0.02))
            panel.yaxis.set_major_locator(MaxNLocator(3, steps=[1, 2, 5, 10]))
            panel.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        figure.supxlabel("log α", fontsize=7.5)
        figure.supylabel(f"share of the weights in a bin of {BIN}", fontsize=7.5)
        figure.suptitle(caption, fontsize=6.5, x=0.01, ha="left", color="#444444")
    return figure


def in_words(part: pd.DataFrame, threshold: float) -> str:
    """The share of a matrix's weights that is kept, and the shares beyond the range if they are not tiny."""
    kept = part[part["log_alpha"] < threshold]["share"].sum()
    below, above = (part[beyond]["share"].sum() for beyond in (part["log_alpha"] < -20, part["log_alpha"] >= 20))
    words = [f"{kept:.3f} kept"]
    words += [f"{share:.1%} {side}" for share, side in ((below, "below −20"), (above, "above 20")) if share >= 0.001]
    return ", ".join(words)


def limits(table: pd.DataFrame, threshold: float) -> tuple[float, float]:
    """The range of log alpha with every bin of more than a thousandth of a matrix and the threshold, with some air."""
    seen = [*table[table["share"] > 1e-3]["log_alpha"].clip(-20, 20), threshold]
    return float(np.floor(min(seen))) - 1, float(np.ceil(max(seen))) + 1


def describe(table: pd.DataFrame, threshold: float, caption: str) -> str:
    """The figure in words, from its data."""
    kept = table[table["log_alpha"] < threshold].groupby("matrix", sort=False)["share"].sum()
    shares = "; ".join(f"{name} {value:.3f}" for name, value in kept.items())
    return f"{caption}. Share of weights below it: {shares}."
