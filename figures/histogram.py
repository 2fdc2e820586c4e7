"""Where the weights lie: histograms of log alpha per matrix, with the threshold."""

from __future__ import annotations

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from figures.style import COLOURS, SETTINGS, TEXT


def draw(table: pd.DataFrame, threshold: float, caption: str) -> Figure:
    """One small panel per matrix; `table` has matrix, log_alpha (left edge of a bin) and share of the weights."""
    matrices = list(table["matrix"].unique())
    columns = 4
    rows = -(-len(matrices) // columns)
    with mpl.rc_context(SETTINGS):
        figure = Figure(figsize=(TEXT, 0.45 + 1.15 * rows), layout="constrained")
        panels = figure.subplots(rows, columns, squeeze=False, sharex=True)
        for panel in panels.flat[len(matrices) :]:
            panel.set_visible(False)
        for panel, matrix in zip(panels.flat, matrices):
            part = table[table["matrix"] == matrix]
            panel.fill_between(part["log_alpha"], part["share"], step="post", color=COLOURS[0], linewidth=0)
            panel.axvline(threshold, color=COLOURS[1], linewidth=0.8, linestyle="--")
            kept = part[part["log_alpha"] < threshold]["share"].sum()
            panel.set_title(f"{matrix}: {kept:.3f} kept", fontsize=7, loc="left")
            panel.set_yticks([])
            panel.set_xlim(*limits(table))
        for panel in panels[-1]:
            panel.set_xlabel("log α")
        figure.suptitle(caption, fontsize=6.5, x=0.01, ha="left", color="#444444")
    return figure


def limits(table: pd.DataFrame) -> tuple[float, float]:
    """The range of log alpha that holds all but a thousandth of any matrix's weights, with some air."""
    seen = table[table["share"] > 1e-3]["log_alpha"]
    return (float(np.floor(seen.min())) - 1, float(np.ceil(seen.max())) + 1) if len(seen) else (-20.0, 20.0)
