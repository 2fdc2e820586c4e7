"""What all figures share: sizes of the ACM template, colours that colour-blind readers can tell apart, files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib as mpl
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

COLUMN = 3.337  # inches, \columnwidth of acmart sigconf
TEXT = 7.006  # inches, \textwidth

# Okabe and Ito's colours without the yellow, which is too light for lines; each goes with a line style of its own.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
LINES: tuple[Any, ...] = ("-", "--", "-.", (0, (1, 1)), (0, (5, 1, 1, 1, 1, 1)), (0, (3, 1)), ":")
GREY = "#777777"

SETTINGS = {
    "font.size": 7.5,
    "axes.titlesize": 8,
    "axes.labelsize": 7.5,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "lines.linewidth": 1.3,
    "pdf.fonttype": 42,
    "svg.hashsalt": "dissect",
    "svg.fonttype": "none",
}


def save(figure: Figure, stem: Path, table: pd.DataFrame, description: str) -> list[Path]:
    """Write PDF, SVG, PNG (300 dpi), the plotted numbers as CSV and a description in words; returns the paths.

    The files are the same to the byte for the same data: no dates, fixed identifiers.
    """
    stem.parent.mkdir(parents=True, exist_ok=True)
    paths = []
    with mpl.rc_context(SETTINGS):
        for suffix, metadata in (
            ("pdf", {"CreationDate": None, "ModDate": None}),
            ("svg", {"Date": None}),
            ("png", {"Software": None}),
        ):
            path = stem.with_name(f"{stem.name}.{suffix}")
            figure.savefig(path, dpi=300, metadata=metadata)
            paths.append(path)
    numbers, words = stem.with_name(f"{stem.name}.csv"), stem.with_name(f"{stem.name}.txt")
    table.to_csv(numbers, index=False, float_format="%.6g")
    words.write_text(description + "\n")
    return [*paths, numbers, words]


def label_ends(axes: Axes, labels: list[tuple[float, str, str]], gap: float) -> None:
    """Write labels (y, text, colour) beside the right end of the lines, at least `gap` (data units) apart."""
    low, high = axes.get_ylim()
    for y, (end, text, colour) in zip(spread([label[0] for label in labels], gap, low, high), labels):
        axes.annotate(
            text,
            xy=(1.0, end),
            xytext=(1.035, y),
            xycoords=("axes fraction", "data"),
            textcoords=("axes fraction", "data"),
            color=colour,
            va="center",
            fontsize=7,
            annotation_clip=False,
            arrowprops={"arrowstyle": "-", "lw": 0.4, "color": colour, "shrinkA": 0, "shrinkB": 1},
        )


def spread(positions: list[float], gap: float, low: float, high: float) -> list[float]:
    """Positions at least `gap` apart, in the same order, each as near as can be to where it was, within limits."""
    order = sorted(range(len(positions)), key=lambda i: positions[i])
    placed: list[list[float]] = []  # blocks of labels that touch: [sum of wished starts, how many]
    for rank in order:
        placed.append([positions[rank], 1.0])
        while len(placed) > 1 and _start(placed[-2], gap) + placed[-2][1] * gap > _start(placed[-1], gap):
            total, count = placed.pop()
            placed[-1] = [placed[-1][0] + total, placed[-1][1] + count]
    result = [0.0] * len(positions)
    index = 0
    for block in placed:
        for step in range(int(block[1])):
            result[order[index]] = _start(block, gap) + step * gap
            index += 1
    shift = max(0.0, low - min(result, default=low)) or min(0.0, high - max(result, default=high))
    return [y + shift for y in result]


def _start(block: list[float], gap: float) -> float:
    """Where the lowest label of a block of touching labels stands, so that the block is centred on its wishes."""
    return block[0] / block[1] - gap * (block[1] - 1) / 2
