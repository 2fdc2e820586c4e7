"""Density against training: the paper's Figures 3 (GNN module) and 4 (readout)."""

from __future__ import annotations

import matplotlib as mpl
import pandas as pd
from matplotlib.figure import Figure

from figures.style import COLOURS, COLUMN, GREY, LINES, SETTINGS, label_ends, short_names

TITLES = {"gnn": "GNN module", "readout": "Readout module", "encoder": "Encoder", "other": "Other matrices"}
CONTROLS = {"control.kl_only": ":"}  # both are grey; the other one is solid
LETTER = 0.054  # inches, a letter of a label on average


def lines(table: pd.DataFrame, module: str, count: str, split_gates: bool = True) -> pd.DataFrame:
    """What the figure of a module shows: line, x columns, mean, low and high over seeds, n.

    A line is a matrix; one with named row blocks (the gates of a GRU) is drawn by its blocks where
    `split_gates`. `count` names the counted column, e.g. "kept 3". Controls are lines too.
    """
    chosen = table[table["module"].isin([module, "control"])]
    has_rows = chosen[chosen["block"].isin(["r", "z", "n"])]["matrix"].unique() if split_gates else []
    whole = (chosen["block"] == "") & ~chosen["matrix"].isin(has_rows)
    gates = chosen["matrix"].isin(has_rows) & chosen["block"].isin(["r", "z", "n"])
    chosen = chosen[whole | gates].copy()
    chosen["line"] = (chosen["matrix"] + " " + chosen["block"]).str.strip()
    chosen["density"] = chosen[count] / chosen["numel"]
    grouped = chosen.groupby(["line", "role", "step", "epoch"], sort=False)["density"]
    return grouped.agg(mean="mean", low="min", high="max", seeds="count").reset_index()


def draw(shown: pd.DataFrame, module: str, caption: str, x: str = "epoch", ylabel: str = "density") -> Figure:
    """Mean density of each line with the range over seeds as a band; controls thin and grey; labels at the ends."""
    with mpl.rc_context(SETTINGS):
        figure = Figure(figsize=(COLUMN, 2.6))
        words = short_names(list(shown["line"].unique()))
        room = 0.86 - (LETTER * max(map(len, words.values())) + 0.05) / COLUMN  # what labels leave to axes and leaders
        axes = figure.add_axes((0.14, 0.145, room / 1.12, 0.665))
        axes.set_ylim(0, 1.02)
        labels = []
        own = list(shown[shown["role"] != "control"]["line"].unique())
        for number, line in enumerate(own):
            part = shown[shown["line"] == line]
            colour = COLOURS[number % len(COLOURS)]
            style = LINES[(number + number // len(COLOURS)) % len(LINES)]  # another one when colours come again
            axes.fill_between(part[x], part["low"], part["high"], color=colour, alpha=0.18, linewidth=0)
            axes.plot(part[x], part["mean"], color=colour, linestyle=style)
            labels.append((float(part["mean"].iloc[-1]), words[line], colour))
        for line, part in shown[shown["role"] == "control"].groupby("line", sort=False):
            axes.fill_between(part[x], part["low"], part["high"], color=GREY, alpha=0.18, linewidth=0)
            axes.plot(part[x], part["mean"], color=GREY, linewidth=0.6, linestyle=CONTROLS.get(str(line), "-"))
            labels.append((float(part["mean"].iloc[-1]), words[str(line)], GREY))
        axes.set_xlim(0, shown[x].max() or 1)
        axes.set_xlabel(x)
        axes.set_ylabel(ylabel)
        label_ends(axes, labels, gap=0.062, margin=-0.1)
        figure.text(0.015, 0.96, TITLES.get(module, module), fontsize=8, fontweight="bold", va="center")
        figure.text(0.015, 0.882, caption, fontsize=6, color="#444444", va="center")
    return figure


def describe(shown: pd.DataFrame, module: str, caption: str) -> str:
    """The figure in words, from its data."""
    last = shown[shown["step"] == shown["step"].max()]
    ends = "; ".join(
        f"{row.line} {row.mean_:.3f}"
        + (f" (range over {row.seeds} seeds {row.low:.3f} to {row.high:.3f})" if row.seeds > 1 else "")
        for row in last.rename(columns={"mean": "mean_"}).itertuples()
    )
    first = shown[shown["step"] == shown["step"].min()]["mean"]
    return (
        f"Density of the matrices of the {TITLES.get(module, module)} against training. {caption}. "
        f"At the start the lines lie between {first.min():.3f} and {first.max():.3f}; at the end: {ends}."
    )
