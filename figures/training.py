"""Loss and accuracy against training, by epoch or by time: a panel each, a line for each model."""

from __future__ import annotations

import textwrap
from typing import Any

import matplotlib as mpl
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from figures.style import COLUMN, SETTINGS, above, label_ends, linestyle, look, write_above

AXES = {"epoch": "epoch", "minutes": "minutes of training, without evaluation"}
TITLE = "Training"
LABEL = 17  # letters that fit beside a panel
LABEL_LINE = 0.11  # inches, a line of a label
SPLITS = {"valid": "validation", "test": "test"}


def panels(split: str) -> dict[str, str]:
    """Curve -> what its axis says."""
    return {
        "loss": "training loss (nats)",
        "HR@20": f"HR@20, {SPLITS[split]} (%)",
        "MRR@20": f"MRR@20, {SPLITS[split]} (%)",
    }


def draw(shown: pd.DataFrame, split: str, caption: str, x: str = "epoch") -> Figure:
    """Means with the range over seeds as a band; a line continues thin after some of its seeds have stopped.

    `shown` has line, curve, split, epoch, minutes, mean, low, high and seeds; `x` is "epoch" or "minutes".
    """
    lines = list(dict.fromkeys(shown["line"]))
    words = {line: textwrap.fill(line, LABEL) for line in lines}
    tall = max(text.count("\n") + 1 for text in words.values()) * LABEL_LINE + 0.03  # inches, a label
    panel = max(1.1, tall * len(lines))
    between, bottom = 0.22, 0.42
    height = above(caption) + 3 * (panel + between) - between + bottom
    # One line needs no label, and the panels take its room.
    left, right = 0.18, 0.66 if len(lines) > 1 else 0.96
    with mpl.rc_context(SETTINGS):
        figure = Figure(figsize=(COLUMN, height))
        for number, (curve, ylabel) in enumerate(panels(split).items()):
            below = bottom + (2 - number) * (panel + between)
            axes = figure.add_axes((left, below / height, right - left, panel / height))
            axes.set_xlim(0, shown[x].max() * 1.02)
            labels: dict[str, tuple[float, str, str]] = {}
            for place, line in enumerate(lines):
                if len(part := _curve(shown, line, curve, split)):
                    colour, dashes, _ = look(place)
                    _line(axes, part, x, colour, dashes, dots=curve != "loss")
                    labels[line] = (float(part["mean"].iloc[-1]), words[line], colour)
            axes.set_ylabel(ylabel)
            axes.yaxis.set_label_coords(0.04, below / height + panel / height / 2, transform=figure.transFigure)
            if number == 2:
                axes.set_xlabel(AXES[x])
            else:
                axes.tick_params(labelbottom=False)
            if len(lines) > 1:
                low, high = axes.get_ylim()
                axes.set_ylim(low, high)  # what leads to a label does not stretch it
                for line, (end, _, colour) in labels.items():
                    last = shown[(shown["line"] == line) & (shown["curve"] == curve)][x].max()
                    axes.plot([last, axes.get_xlim()[1]], [end, end], color=colour, linewidth=0.5, linestyle=":")
                apart = tall / panel * (high - low)
                label_ends(axes, list(labels.values()), apart, margin=max(0.0, apart / 2 - 0.05 * (high - low)))
        write_above(figure, TITLE, caption)
    return figure


def _curve(shown: pd.DataFrame, line: str, curve: str, split: str) -> pd.DataFrame:
    """The points of one curve of one model."""
    is_split = shown["split"] == ("train" if curve == "loss" else split)
    return shown[(shown["line"] == line) & (shown["curve"] == curve) & is_split]


def _line(axes: Axes, part: pd.DataFrame, x: str, colour: str, dashes: Any, dots: bool) -> None:
    """One curve: solid and banded as far as all seeds go, thin beyond; evaluations are few and get dots."""
    whole = part[part["seeds"] == part["seeds"].max()]
    rest = part[part.index >= whole.index[-1]]
    axes.fill_between(whole[x], whole["low"], whole["high"], color=colour, alpha=0.18, linewidth=0)
    marker = {"marker": "o", "markersize": 2.2} if dots or len(part) == 1 else {}
    style = linestyle(dashes)
    axes.plot(whole[x], whole["mean"], color=colour, linestyle=style, linewidth=1.0, **marker)  # type: ignore[arg-type]
    if len(rest) > 1:
        axes.plot(rest[x], rest["mean"], color=colour, linewidth=0.5, **marker)  # type: ignore[arg-type]


def describe(shown: pd.DataFrame, split: str, caption: str) -> str:
    """The figure in words, from its data."""
    said = []
    for line in dict.fromkeys(shown["line"]):
        ends = []
        for curve in panels(split):
            if not len(part := _curve(shown, line, curve, split)):
                continue
            whole = part[part["seeds"] == part["seeds"].max()]  # beyond, the mean is of those that went on
            goes_on, part = len(whole) < len(part), whole
            last = part.iloc[-1]
            best = part.loc[part["mean"].idxmin() if curve == "loss" else part["mean"].idxmax()]
            ends.append(
                f"{curve} {last['mean']:.2f} at epoch {last['epoch']:.3g} "
                f"({'lowest' if curve == 'loss' else 'highest'} {best['mean']:.2f} at epoch {best['epoch']:.3g})"
                f"{', after which fewer seeds go on' * goes_on}"
            )
        minutes = shown[shown["line"] == line]["minutes"].max()
        said.append(f"{line}, {minutes:.2g} minutes of training: {'; '.join(ends)}")
    what = f"Training loss, HR@20 and MRR@20 ({SPLITS[split]}) against training"
    return f"{what}. {caption}. Means over seeds. {'. '.join(said)}."
