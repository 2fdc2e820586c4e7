"""What all figures share: sizes of the ACM template, colours that colour-blind readers can tell apart, files."""

from __future__ import annotations

import io
import tempfile
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

COLUMN = 3.337  # inches, \columnwidth of acmart sigconf
TEXT = 7.006  # inches, \textwidth

# Okabe and Ito's colours, a brown in place of the yellow, which is too light for lines; each with its dashes.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000", "#8C6D31")
DASHES: tuple[Any, ...] = (
    "",  # seaborn's word for a solid line
    (3.7, 1.6),
    (6.4, 1.6, 1, 1.6),
    (1, 1),
    (5, 1, 1, 1, 1, 1),
    (3, 1),
    (1, 1.65),
    (6, 1.5),
)
MARKERS = "osD^v<>P"  # beside colours and dashes, where a line has few points
GREY = "#777777"
# The metadata of each kind of file about when, and by what, it was made.
UNDATED: dict[str, Any] = {
    "pdf": {"CreationDate": None, "ModDate": None},
    "svg": {"Date": None},
    "png": {"Software": None},
}
SUFFIXES = (*UNDATED, "csv", "txt")  # of the files of a figure
LONGEST = 24  # letters of a name; of a longer one the end is shown
# Texts with names that others have given: a $ in them is a $, not the beginning of a formula.
LABEL: Any = {"va": "center", "fontsize": 6.5, "parse_math": False}  # beside a line
EDGE, HEADING, LINE = 0.05, 0.15, 0.1  # inches: to the edge of a figure, its title, a line of its caption
NOTE: Any = {"va": "top", "fontsize": 6, "color": "#444444", "parse_math": False}  # above a figure

SETTINGS: Any = {  # typed by matplotlib as a dict of all its literal names
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

    The files are the same to the byte for the same data: no dates, fixed identifiers. They take their places once all
    are written.
    """
    stem.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{stem.name}~", dir=stem.parent) as new, mpl.rc_context(SETTINGS):
        made = {suffix: Path(new, f"{stem.name}.{suffix}") for suffix in SUFFIXES}
        for suffix, metadata in UNDATED.items():
            content = io.BytesIO()  # a full disk would break Matplotlib's own writing in more places than one
            figure.savefig(content, format=suffix, dpi=300, metadata=metadata)
            made[suffix].write_bytes(content.getvalue())
        table.to_csv(made["csv"], index=False, float_format="%.6g")
        made["txt"].write_text(description + "\n", encoding="utf-8")
        return [path.replace(stem.with_name(path.name)) for path in made.values()]


def above(caption: str) -> float:
    """Inches that a title and a caption need above a figure."""
    return 0.12 + HEADING + LINE * (caption.count("\n") + 1)


def write_above(figure: Figure, title: str, caption: str) -> None:
    """A title in bold, and the caption below it."""
    width, height = figure.get_size_inches()
    top = 1 - EDGE / height
    figure.text(EDGE / width, top, title, fontsize=8, fontweight="bold", va="top")
    figure.text(EDGE / width, top - HEADING / height, caption, **NOTE)


def look(number: int) -> tuple[str, Any, str]:
    """Colour, dashes and marker of the line with this number, from 0; other dashes and markers when colours repeat."""
    other = number + number // len(COLOURS)
    return COLOURS[number % len(COLOURS)], DASHES[other % len(DASHES)], MARKERS[other % len(MARKERS)]


def linestyle(dashes: Any) -> Any:
    """Dashes as matplotlib takes them."""
    return (0, dashes) if dashes else "-"


def short_names(names: list[str]) -> dict[str, str]:
    """Short names of matrices for a figure: without a "readout." that all (controls apart) have."""
    own = [name for name in names if not name.startswith("control.")]
    first = {name.split(".")[0] for name in own}
    common = f"{first.pop()}." if len(first) == 1 and all("." in name for name in own) else ""
    short = {name: name.removeprefix(common) for name in names}
    return {name: text if len(text) <= LONGEST else f"…{text[1 - LONGEST :]}" for name, text in short.items()}


def label_ends(
    axes: Axes, labels: list[tuple[float, str, str]], gap: float, margin: float = 0.0, below: float = 0.0
) -> None:
    """Write labels (y, text, colour) beside the right end of the lines, at least `gap` (data units) apart.

    Their middles stay `margin` away from the ends of the axis, but may go so far `below` it. They stand in the order of
    the ends, so that the straight lines that lead to them do not cross; labels of ends that look the same share one,
    with a bracket.
    """
    low, high = axes.get_ylim()
    same = 0.01 * (high - low)  # about the width of a line
    low, high = low + margin - below, high - margin
    labels = labels[::-1]  # of equal ends the first is on top
    beside = axes.get_yaxis_transform()  # x in shares of the axes, y in data units
    places = spread([label[0] for label in labels], gap, low, high)
    bundles: list[list[int]] = []  # labels that share a leader, from below
    for index in sorted(range(len(labels)), key=lambda i: places[i]):
        if not bundles or labels[index][0] - labels[bundles[-1][0]][0] >= same:
            bundles.append([])
        bundles[-1].append(index)
        axes.text(1.12, places[index], labels[index][1], transform=beside, color=labels[index][2], **LABEL)
    for bundle in bundles:
        colour = labels[bundle[0]][2] if len(bundle) == 1 else GREY
        heights = [places[index] for index in bundle]
        ends = [labels[index][0] for index in bundle]
        middle = sum(heights) / len(heights)
        way: Any = {"transform": beside, "color": colour, "linewidth": 0.5, "clip_on": False}
        axes.plot([1.005, 1.1], [sum(ends) / len(ends), middle], **way)
        if len(bundle) > 1:
            axes.plot([1.1, 1.1], [heights[0] - gap / 3, heights[-1] + gap / 3], **way)


def label_points(axes: Axes, labels: list[tuple[float, float, str, str]], gap: float) -> None:
    """Write labels (x, y, text, colour) right of the axes, each with a thin line to its point; on any scale.

    `gap` is the least distance of two labels as a share of the axes' height. Limits and scales are set before.
    """
    axes.get_xlim()  # settles limits that follow from what is plotted
    points = axes.transAxes.inverted().transform(axes.transData.transform([label[:2] for label in labels]))
    heights = spread([float(y) for _, y in points], gap, 0.0, 1.0)
    for (x, y), height, (_, _, text, colour) in zip(points, heights, labels):
        way: Any = {"transform": axes.transAxes, "color": colour}
        axes.plot([x, max(x, 1.0), 1.03, 1.05], [y, y, height, height], linewidth=0.5, clip_on=False, **way)
        axes.text(1.06, height, text, **way, **LABEL)


def spread(positions: list[float], gap: float, low: float, high: float) -> list[float]:
    """Positions at least `gap` apart, in the same order, each as near as can be to where it was, within limits."""
    from scipy.optimize import isotonic_regression

    if not positions:
        return []
    order = np.argsort(positions, kind="stable")
    steps = gap * np.arange(len(positions))
    # Without the gaps between them, labels only have to rise.
    placed = isotonic_regression(np.asarray(positions)[order] - steps).x.clip(low, max(low, high - steps[-1]))
    result = np.empty(len(positions))
    result[order] = placed + steps
    return [float(place) for place in result]
