"""Density against training: the paper's Figures 3 (GNN module) and 4 (readout)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import matplotlib as mpl
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from figures.style import (
    COLOURS,
    COLUMN,
    GREY,
    NOTE,
    SETTINGS,
    TEXT,
    above,
    label_ends,
    linestyle,
    look,
    short_names,
    write_above,
)

TITLES = {"gnn": "GNN module", "readout": "Readout module", "encoder": "Encoder", "other": "Other matrices"}
SHADOW = "shadow."  # begins the name of a shadow's line
CONTROLS = {"control.kl_only": (1, 1.65)}  # both are grey; the other one is solid
THIN = 0.6  # of controls and shadows
MANY = "colours repeat with other dashes; plot heatmap has a row for each matrix"
LETTER = 0.054  # inches, a letter of a label on average
CAPTION = 74  # letters that fit in a line of the caption, for each panel
LEFT, BOTTOM, PANEL = 0.467, 0.36, 1.64  # inches, beside and below the axes, and their least height
LABEL = 0.108  # inches from label to label
ABOVE = 0.26  # inches, the two lines above each of several panels


def by_seed(table: pd.DataFrame, module: str, count: str, split_gates: bool = True) -> pd.DataFrame:
    """The densities that the figure of a module shows: line, role, seed, step, epoch, density.

    A line is a matrix; one with named row blocks (the gates of a GRU) is drawn by its blocks where
    `split_gates`. `count` names the counted column, e.g. "kept 3". Controls are lines too, and shadows ("shadow.", then
    the line that it belongs to).
    """
    of_module = {f"{SHADOW}{matrix}" for matrix in table[table["module"] == module]["matrix"]}
    chosen = table[table["module"].isin([module, "control"]) | table["matrix"].isin(of_module)]
    has_rows = chosen[chosen["block"].isin(["r", "z", "n"])]["matrix"].unique() if split_gates else []
    whole = (chosen["block"] == "") & ~chosen["matrix"].isin(has_rows)
    gates = chosen["matrix"].isin(has_rows) & chosen["block"].isin(["r", "z", "n"])
    chosen = chosen[whole | gates].copy()
    chosen["line"] = (chosen["matrix"] + " " + chosen["block"]).str.strip()
    chosen["density"] = chosen[count] / chosen["numel"]
    return chosen[["line", "role", "seed", "step", "epoch", "density"]]


def lines(values: pd.DataFrame) -> pd.DataFrame:
    """The numbers of the figure, from `by_seed`: line, role, x columns, mean, low and high over seeds, their number."""
    grouped = values.groupby(["line", "role", "step", "epoch"], sort=False)["density"]
    return grouped.agg(mean="mean", low="min", high="max", seeds="count").reset_index()


def draw(
    shown: pd.DataFrame,
    module: str,
    caption: str,
    x: str = "epoch",
    ylabel: str = "density",
    panels: Mapping[str, str] | None = None,
) -> Figure:
    """Mean of each line of `lines`, the range over seeds as a band; controls thin and grey; labels at the ends.

    A shadow is thin, in the colour and the dashes of its matrix, and shaded down to 0. `panels`: group -> title, a
    panel for each, side by side; `shown` then tells the group of each row. A line looks the same in all of them.
    """
    own, controls = (
        list(shown[chosen]["line"].unique())
        for chosen in (~shown["role"].isin(["control", "shadow"]), shown["role"] == "control")
    )
    if len(own) > len(COLOURS):
        caption += f"\n{MANY}"
    looks = styles(own, controls)
    words = short_names([*own, *controls])
    tall = max(PANEL, LABEL * len(words))
    over = LABEL / 2 if tall > PANEL else 0  # the first of many labels stands above the axes
    height, width = above(caption) + over + (ABOVE if panels else 0) + tall + BOTTOM, TEXT if panels else COLUMN
    beside = LETTER * max(map(len, words.values())) + 0.05
    each = (width - LEFT) / max(len(panels or ()), 1)  # inches, a panel with its labels
    with mpl.rc_context(SETTINGS):
        figure = Figure(figsize=(width, height))
        for place, (group, title) in enumerate((panels or {"": ""}).items()):
            box = (LEFT + place * each, BOTTOM, (each - beside) / 1.12, tall)
            axes = figure.add_axes((box[0] / width, box[1] / height, box[2] / width, box[3] / height))
            part = shown[shown["group"] == group] if panels else shown
            _panel(axes, part, looks, x)
            axes.set(xlim=(0, part[x].max() or 1), ylim=(0, 1.02), xlabel=x, ylabel="" if place else ylabel)
            axes.tick_params(labelleft=not place)
            if panels:
                _heading(axes, title, tall)
            ends = part.groupby("line", sort=False)["mean"].last()
            labels = [(float(ends[line]), words[line], looks[line]["color"]) for line in looks if line in ends]
            margin = 0 if panels else -0.05 / tall
            label_ends(axes, labels, gap=1.02 * LABEL / tall, margin=margin, below=(BOTTOM - LABEL) / tall)
        write_above(figure, TITLES.get(module, module), caption)
    return figure


def styles(own: list[str], controls: list[str]) -> dict[str, dict[str, Any]]:
    """How the lines of matrices and controls look."""
    looks: dict[str, dict[str, Any]] = {}
    for number, line in enumerate(own):
        colour, dashes, _ = look(number)
        looks[line] = {"color": colour, "linestyle": linestyle(dashes)}
    for line in controls:
        looks[line] = {"color": GREY, "linestyle": linestyle(CONTROLS.get(line, "")), "linewidth": THIN}
    return looks


def _panel(axes: Axes, shown: pd.DataFrame, looks: Mapping[str, Any], x: str) -> None:
    """The lines of a panel, shadows first, so that they lie below."""
    shade = 0.3 / max(3, shown[shown["role"] == "shadow"]["line"].nunique())  # many on top of each other stay light
    for (role, line), part in sorted(shown.groupby(["role", "line"], sort=False), key=lambda of: of[0][0] != "shadow"):
        own = looks[line.removeprefix(SHADOW)]
        if role == "shadow":
            axes.fill_between(part[x], 0, part["mean"], color=own["color"], alpha=shade, linewidth=0)
            axes.plot(part[x], part["mean"], **{**own, "linewidth": THIN})
        else:
            axes.fill_between(part[x], part["low"], part["high"], color=own["color"], alpha=0.18, linewidth=0)
            axes.plot(part[x], part["mean"], **own)


def _heading(axes: Axes, title: str, tall: float) -> None:
    """Two lines above a panel: what it shows, and where that comes from."""
    first, _, second = title.partition("\n")
    axes.text(0, 1 + 0.18 / tall, first, transform=axes.transAxes, fontsize=7, fontweight="bold")
    axes.text(0, 1 + 0.07 / tall, second[:CAPTION], transform=axes.transAxes, **{**NOTE, "va": "baseline"})


def describe(shown: pd.DataFrame, module: str, caption: str, panels: Mapping[str, str] | None = None) -> str:
    """The figure in words, from its data."""
    if panels is None:
        said = [_ends(shown)]
    else:
        titles = {group: ", ".join(title.splitlines()) for group, title in panels.items()}
        said = [f"{title}: {_ends(shown[shown['group'] == group])}" for group, title in titles.items()]
    what = f"Density of the matrices of the {TITLES.get(module, module)} against training"
    return "\n".join([f"{what}. {caption}.", *said])


def _ends(shown: pd.DataFrame) -> str:
    """Where the lines of a panel begin and end, a line of text for each."""
    last = shown[shown["step"] == shown["step"].max()]
    ends = []
    for line, mean, low, high in last[["line", "mean", "low", "high"]].itertuples(index=False):
        low, high = f"{low:.3f}", f"{high:.3f}"
        ends.append(f"{line} {mean:.3f}" + (f" ({low} to {high})" if low != high else ""))
    listed = ";\n".join(ends)
    first = shown[shown["step"] == shown["step"].min()]["mean"]
    return f"At the start the lines lie between {first.min():.3f} and {first.max():.3f}; at the end:\n{listed}."
