"""All matrices against training at a glance: how much each keeps, with its shadow below it."""

from __future__ import annotations

from itertools import groupby

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from figures.style import GREY, SETTINGS, TEXT, above, write_above

SHADOW = "shadow."  # begins the name of a shadow
COLOURS = "mako_r"  # from light to dark without a turn: prints in grey, and no hue needs to be told apart
ROW, LETTER = 0.135, 0.056  # inches, a row and a letter of its name
LEAST = 0.6  # inches, left of the rows
TITLE = "Density against training"
BESIDE, BAR = 0.95, 0.6  # inches, right of the cells: the roles, and the colour bar with its words


def draw(table: pd.DataFrame, caption: str, label: str = "density") -> Figure:
    """A row for each matrix, a column for each moment, dark where much is kept.

    `table` has matrix, role, module, moment, step, epoch and density, in the order of the rows
    (analyses/density.py: over_training). The row of a shadow follows that of its matrix and is named so, in grey.
    """
    import seaborn as sns

    rows = list(dict.fromkeys(table["matrix"]))
    cells = table.pivot(index="matrix", columns="moment", values="density").loc[rows]
    left = max(LEAST, LETTER * max(map(len, rows)))
    below = 0.36
    height = above(caption) + ROW * len(rows) + below
    with mpl.rc_context(SETTINGS):
        figure = Figure(figsize=(TEXT, height))
        wide = TEXT - left - BESIDE - BAR
        axes = figure.add_axes((left / TEXT, below / height, wide / TEXT, ROW * len(rows) / height))
        bar = figure.add_axes(
            ((left + wide + BESIDE) / TEXT, below / height, 0.1 / TEXT, min(1.5, ROW * len(rows)) / height)
        )
        sns.heatmap(
            cells, vmin=0, vmax=1, cmap=COLOURS, ax=axes, cbar_ax=bar, cbar_kws={"label": label}, rasterized=True
        )
        axes.set(xlabel="epoch", ylabel="")
        _epochs(axes, table)
        axes.set_yticks(np.arange(len(rows)) + 0.5, ["shadow" if _is_shadow(row) else row for row in rows], rotation=0)
        axes.tick_params(axis="y", length=0, labelsize=6.5)
        for text, row in zip(axes.get_yticklabels(), rows):
            if _is_shadow(row):
                text.set(color=GREY, fontstyle="italic")
        _roles(axes, table)
        write_above(figure, TITLE, caption)
    return figure


def _is_shadow(row: str) -> bool:
    return row.startswith(SHADOW)


def _epochs(axes: Axes, table: pd.DataFrame) -> None:
    """Ticks at round epochs; column number k stands for the k-th of evenly spaced moments."""
    moments, last = int(table["moment"].max()), float(table["epoch"].max())
    ticks = [tick for tick in MaxNLocator(7, steps=[1, 2, 5, 10]).tick_values(0, last) if tick <= last] if last else [0]
    axes.set_xticks([(tick / last * moments if last else 0) + 0.5 for tick in ticks], [f"{t:g}" for t in ticks])
    axes.tick_params(axis="x", rotation=0)


def _roles(axes: Axes, table: pd.DataFrame) -> None:
    """White lines between matrices, wider ones between modules; beside the rows of each role a bracket and its name."""
    each = table.drop_duplicates("matrix")
    own = each[["module", "role"]].where(each["role"] != "shadow").ffill()  # a shadow stands below its matrix
    for row in range(1, len(each)):
        if own["module"].iloc[row] != own["module"].iloc[row - 1]:
            axes.axhline(row, color="white", linewidth=3)
        elif not _is_shadow(each["matrix"].iloc[row]):
            axes.axhline(row, color="white", linewidth=1.2)
    beside, top = axes.get_yaxis_transform(), 0
    for (_, role), rows in groupby(own.itertuples(index=False)):
        end = top + len(list(rows))
        axes.plot([1.012, 1.012], [top + 0.12, end - 0.12], transform=beside, color=GREY, linewidth=0.6, clip_on=False)
        axes.text(1.025, (top + end) / 2, role, transform=beside, fontsize=6.5, va="center", color="#444444")
        top = end


def describe(table: pd.DataFrame, caption: str) -> str:
    """The figure in words, from its data."""
    ends = table[table["moment"] == table["moment"].max()]
    said = ";\n".join(f"{row.matrix} {row.density:.3f}" for row in ends.itertuples())
    return f"{TITLE}. {caption}. Rows are matrices, columns are moments of training. At the end:\n{said}."
