"""The path over the KL weight, as a lasso path is drawn: what is kept, what chance keeps, and the accuracy."""

from __future__ import annotations

import textwrap
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from figures.style import COLUMN, GREY, SETTINGS, above, label_ends, linestyle, look, short_names, write_above

LETTER, LABEL_LINE = 0.054, 0.11  # inches, a letter and a line of a label
UPPER, LOWER, BETWEEN, BOTTOM = 1.9, 0.95, 0.14, 0.38  # inches: panels, and what lies between and below
TITLE = "The path over the KL weight"
DISSECTED, DENSE = "dissected", "matched dense"


def lines(table: pd.DataFrame, by: str) -> pd.DataFrame:
    """The numbers of the figure: panel (kept, mrr@20), line, kl_weight, mean, low and high over seeds, their number,
    and shadow (mean over seeds). From analyses/path.py: path_table; a line is a role or a matrix.
    """
    chosen = table[(table["matrix"] == "") if by == "role" else (table["matrix"] != "")]
    parts = [_over_seeds(chosen, "density", [by, "kl_weight"]).rename(columns={by: "line"})]
    parts[0]["shadow"] = chosen.groupby([by, "kl_weight"], sort=False)["shadow"].mean().to_numpy()
    runs = table.drop_duplicates(["kl_weight", "seed"])
    parts.append(_over_seeds(runs, "mrr@20", ["kl_weight"]).assign(line=DISSECTED))
    dense = runs.dropna(subset="dense").drop_duplicates("seed")
    if len(dense):  # the same training without SparseVD has no KL weight: one value for all
        whole = _over_seeds(dense.assign(line=DENSE), "dense", ["line"])
        parts.append(whole.merge(parts[1][["kl_weight"]], how="cross"))
    panels = ["kept", *["mrr@20"] * (len(parts) - 1)]
    names = ["panel", "line", "kl_weight", "mean", "low", "high", "seeds", "shadow"]
    return pd.concat([part.assign(panel=panel) for part, panel in zip(parts, panels)], ignore_index=True)[names]


def _over_seeds(table: pd.DataFrame, value: str, by: list[str]) -> pd.DataFrame:
    return table.groupby(by, sort=False)[value].agg(mean="mean", low="min", high="max", seeds="count").reset_index()


def draw(shown: pd.DataFrame, caption: str, kept: str = "kept share") -> Figure:
    """Above what each line of `lines` keeps, below the accuracy, against the KL weight on a logarithmic axis."""
    weights = sorted(shown["kl_weight"].unique())
    at = places(weights)
    names = list(shown[shown["panel"] == "kept"]["line"].unique())
    words = short_names(names) | {DISSECTED: DISSECTED, DENSE: textwrap.fill(DENSE, 8)}
    beside = LETTER * max(len(line) for text in words.values() for line in text.split("\n")) + 0.05
    upper = max(UPPER, (LABEL_LINE + 0.02) * len(names))
    height = above(caption) + upper + BETWEEN + LOWER + BOTTOM
    left, wide = 0.467, (COLUMN - 0.467 - beside) / 1.12
    with mpl.rc_context(SETTINGS):
        figure = Figure(figsize=(COLUMN, height))
        write_above(figure, TITLE, caption)
        for panel, below, tall, ylabel in (
            ("kept", BOTTOM + LOWER + BETWEEN, upper, kept),
            ("mrr@20", BOTTOM, LOWER, "MRR@20 (%)"),
        ):
            axes = figure.add_axes((left / COLUMN, below / height, wide / COLUMN, tall / height))
            axes.set_xscale("log", base=2)
            axes.set_xticks([at[weight] for weight in weights], [f"{weight:g}" for weight in weights])
            axes.minorticks_off()
            _panel(axes, shown[shown["panel"] == panel], at, words, tall)
            axes.set_ylabel(ylabel)
            axes.yaxis.set_label_coords(0.13 / COLUMN, (below + tall / 2) / height, transform=figure.transFigure)
        figure.axes[0].tick_params(labelbottom=False)
        figure.axes[1].set_xlabel("KL weight β")
    return figure


def places(weights: list[float]) -> dict[float, float]:
    """Where each KL weight stands on a logarithmic axis: 0, which has no place there, one step left of the least."""
    least = min((weight for weight in weights if weight > 0), default=1.0)
    return {weight: weight or least / 2 for weight in weights}


def _panel(axes: Axes, shown: pd.DataFrame, at: dict[float, float], words: dict[str, str], tall: float) -> None:
    """Lines with the range over seeds as a band, shadows as thin dots, and labels at the right end."""
    labels = []
    for number, (line, part) in enumerate(shown.groupby("line", sort=False)):
        part = part.sort_values("kl_weight")
        x, (colour, dashes, marker) = part["kl_weight"].map(at), look(number)
        own: dict[str, Any] = {"color": colour, "linestyle": linestyle(dashes), "marker": marker}
        own |= {"markersize": 3.2, "linewidth": 1.1}
        if line == DENSE:
            own = {"color": GREY, "linewidth": 0.9}
        elif line == DISSECTED:
            own |= {"color": "black", "linestyle": "-", "marker": "o"}
        axes.fill_between(x, part["low"], part["high"], color=own["color"], alpha=0.15, linewidth=0)
        axes.plot(x, part["mean"], **own)
        if part["shadow"].notna().any():
            dots: dict[str, Any] = {"linestyle": (0, (1, 1.2)), "linewidth": 0.8, "markersize": 2.2}
            axes.plot(x, part["shadow"], **{**own, **dots, "markerfacecolor": "white", "markeredgewidth": 0.5})
        labels.append((float(part["mean"].iloc[-1]), words[line], own["color"]))
    if (shown["panel"] == "kept").all():
        top = min(1.02, 1.08 * shown["high"].max()) or 1
        axes.set_ylim(-0.03 * top, top)  # what is at 0 is seen whole
    low, high = axes.get_ylim()
    axes.set_ylim(low, high)
    inch, high_label = (high - low) / tall, LABEL_LINE * max(text.count("\n") + 1 for _, text, _ in labels)
    label_ends(axes, labels, (high_label + 0.02) * inch, margin=(high_label / 2 - 0.05) * inch)


def describe(shown: pd.DataFrame, caption: str) -> str:
    """The figure in words, from its data."""
    said = []
    for (panel, line), part in shown.groupby(["panel", "line"], sort=False):
        if line == DENSE:
            said.append(f"MRR@20 of the matched dense model: {part['mean'].iloc[0]:.2f}")
            continue
        digits = 3 if panel == "kept" else 2
        values = ", ".join(
            f"{mean:.{digits}f}" + ("" if np.isnan(shadow) else f" (shadow {shadow:.{digits}f})") + f" at {weight:g}"
            for weight, mean, shadow in part.sort_values("kl_weight")[["kl_weight", "mean", "shadow"]].to_numpy()
        )
        said.append(f"{f'{line} keeps' if panel == 'kept' else 'MRR@20 of the dissected model:'} {values}")
    return f"{TITLE}. {caption}. {'. '.join(said)}."
