"""Density against training: the paper's Figures 3 (GNN module) and 4 (readout)."""

from __future__ import annotations

import matplotlib as mpl
import pandas as pd
from matplotlib.figure import Figure

from figures.style import COLOURS, COLUMN, DASHES, GREY, SETTINGS, label_ends, short_names

TITLES = {"gnn": "GNN module", "readout": "Readout module", "encoder": "Encoder", "other": "Other matrices"}
SHADOW = (1, 1)  # dots
CONTROLS = {"control.kl_only": (1, 1.65)}  # both are grey; the other one is solid
LETTER = 0.054  # inches, a letter of a label on average
CAPTION = 74  # letters that fit in a line of the caption
HEADING, LINE = 0.15, 0.1  # inches, the title and a line of the caption


def by_seed(table: pd.DataFrame, module: str, count: str, split_gates: bool = True) -> pd.DataFrame:
    """The densities that the figure of a module shows: line, role, seed, step, epoch, density.

    A line is a matrix; one with named row blocks (the gates of a GRU) is drawn by its blocks where
    `split_gates`. `count` names the counted column, e.g. "kept 3". Controls are lines too, and shadows ("shadow.", then
    the line that it belongs to).
    """
    of_module = {f"shadow.{matrix}" for matrix in table[table["module"] == module]["matrix"]}
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


def draw(values: pd.DataFrame, module: str, caption: str, x: str = "epoch", ylabel: str = "density") -> Figure:
    """Mean of each line of `by_seed`, the range over seeds as a band; controls thin and grey; labels at the ends."""
    import seaborn as sns

    own, controls, shadows = (
        list(values[chosen]["line"].unique())
        for chosen in (
            ~values["role"].isin(["control", "shadow"]),
            values["role"] == "control",
            values["role"] == "shadow",
        )
    )
    colours = {line: COLOURS[number % len(COLOURS)] for number, line in enumerate(own)} | dict.fromkeys(controls, GREY)
    # Other dashes when the colours repeat.
    dashes = {line: DASHES[(number + number // len(COLOURS)) % len(DASHES)] for number, line in enumerate(own)}
    dashes |= {line: CONTROLS.get(line, "") for line in controls}
    for line in shadows:  # thin, in the colour of its matrix, and without a label
        colours[line], dashes[line] = colours[line.removeprefix("shadow.")], SHADOW
    above = 0.12 + HEADING + LINE * (caption.count("\n") + 1)  # inches, of title and caption
    height = above + 2.0
    with mpl.rc_context(SETTINGS):
        figure = Figure(figsize=(COLUMN, height))
        words = short_names([*own, *controls])
        room = 0.86 - (LETTER * max(map(len, words.values())) + 0.05) / COLUMN  # what labels leave to axes and leaders
        axes = figure.add_axes((0.14, 0.36 / height, room / 1.12, (height - above - 0.36) / height))
        sns.lineplot(
            values,
            x=x,
            y="density",
            hue="line",
            palette=colours,
            style="line",
            dashes=dashes,
            size="line",
            sizes=dict.fromkeys(own, SETTINGS["lines.linewidth"]) | dict.fromkeys([*controls, *shadows], 0.6),
            errorbar=("pi", 100),  # from the lowest to the highest seed
            err_kws={"alpha": 0.18, "linewidth": 0},
            legend=False,
            ax=axes,
        )
        axes.set(xlim=(0, values[x].max() or 1), ylim=(0, 1.02), xlabel=x, ylabel=ylabel)
        ends = lines(values).groupby("line", sort=False)["mean"].last()
        labels = [(float(ends[line]), words[line], colours[line]) for line in [*own, *controls]]
        label_ends(axes, labels, gap=0.062, margin=-0.1)
        title, top = TITLES.get(module, module), 1 - 0.05 / height
        figure.text(0.015, top, title, fontsize=8, fontweight="bold", va="top")
        figure.text(0.015, top - HEADING / height, caption, fontsize=6, color="#444444", va="top")
    return figure


def describe(shown: pd.DataFrame, module: str, caption: str) -> str:
    """The figure in words, from its data."""
    last = shown[shown["step"] == shown["step"].max()]
    ends = "; ".join(
        f"{line} {mean:.3f}" + (f" (range over {seeds} seeds {low:.3f} to {high:.3f})" if seeds > 1 else "")
        for line, mean, low, high, seeds in last[["line", "mean", "low", "high", "seeds"]].itertuples(index=False)
    )
    first = shown[shown["step"] == shown["step"].min()]["mean"]
    return (
        f"Density of the matrices of the {TITLES.get(module, module)} against training. {caption}. "
        f"At the start the lines lie between {first.min():.3f} and {first.max():.3f}; at the end: {ends}."
    )
