"""Data sets: how long their sessions are, and how clicks spread over items."""

from __future__ import annotations

import matplotlib as mpl
import pandas as pd
from matplotlib.figure import Figure

from figures.style import SETTINGS, TEXT, label_points, look

PANELS = {  # curve -> title, x axis, y axis
    "length": ("Session lengths", "clicks", "share of sessions as long or longer"),
    "popularity": ("Item popularity", "rank of the item", "share of all clicks"),
}
LETTER = 0.054  # inches, a letter of a label on average
EXACT = 15  # clicks, up to which the table has every length
LENGTHS = (2, 5, 10, 20, 50, 100, 200, 500, 1000)


def draw(table: pd.DataFrame) -> Figure:
    """Two panels with logarithmic axes; a line for each data set, named at its end.

    `table` has dataset, curve (`length` or `popularity`), x and y (dissect/data/stats.py: curves).
    """
    import seaborn as sns

    names = list(table["dataset"].unique())
    colours = {name: look(number)[0] for number, name in enumerate(names)}
    dashes = {name: look(number)[1] for number, name in enumerate(names)}
    with mpl.rc_context(SETTINGS):
        figure = Figure(figsize=(TEXT, 2.5))
        wide = (0.488 - 0.072 - LETTER * max(map(len, names)) / TEXT) / 1.06  # labels begin there
        for place, (curve, (title, xlabel, ylabel)) in enumerate(PANELS.items()):
            axes = figure.add_axes((0.072 + 0.505 * place, 0.165, wide, 0.72))
            shown = table[table["curve"] == curve]
            styles = {"hue": "dataset", "palette": colours, "style": "dataset", "dashes": dashes}
            sns.lineplot(shown, x="x", y="y", **styles, estimator=None, legend=False, ax=axes)
            axes.set(xscale="log", yscale="log")  # seaborn would round numbers that it draws on such axes
            ends = shown.groupby("dataset", sort=False)[["x", "y"]].last()
            labels = [(float(end.x), float(end.y), str(end.Index), colours[end.Index]) for end in ends.itertuples()]
            axes.set_xlabel(xlabel)
            axes.set_ylabel(ylabel)
            axes.set_title(title, loc="left", fontweight="bold")
            if curve == "length":
                axes.set_xticks(LENGTHS, [str(length) for length in LENGTHS])
                axes.set_xlim(1.9, 1.1 * max(20, shown["x"].max()))
            axes.minorticks_off()
            label_points(axes, labels, gap=0.07)
    return figure


def describe(table: pd.DataFrame) -> str:
    """The figure in words, from its data."""
    words = []
    for name, part in table.groupby("dataset", sort=False):
        length, popularity = (part[part["curve"] == curve] for curve in PANELS)
        median = length[length["y"] >= 0.5]["x"].max()  # half of them have so many clicks, or more
        about = "about " if median > EXACT else ""
        words.append(
            f"{name}: sessions of {length['x'].min()} to {length['x'].max()} clicks, median {about}{median}; the most "
            f"clicked of {popularity['x'].max():,} items has {100 * popularity['y'].max():.3f} % of all clicks, "
            f"the least clicked {100 * popularity['y'].min():.5f} %."
        )
    return (
        "Left, the share of sessions with at least so many clicks; right, the share of all clicks that an item has, "
        "by its rank; both axes logarithmic.\n" + "\n".join(words)
    )
