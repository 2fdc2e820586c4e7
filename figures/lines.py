"""Accuracy against a number, such as the paper's Figures 6 to 8: lines with the range over seeds as a band."""

from __future__ import annotations

import textwrap

import matplotlib as mpl
import pandas as pd
from matplotlib.figure import Figure

from figures.style import COLUMN, GREY, SETTINGS, label_ends, linestyle, look

HEIGHT, LEFT, BOTTOM, TOP = 2.3, 0.52, 0.38, 0.1  # inches; many labels make it taller
FREE = 0.08  # inches above the axes, below the note, that a label may use
SMALL, COUNT = 6.5, 5.5  # points: of the note; of numbers of three digits, ten side by side
LETTER, LINE, WRAP = 0.066, 0.11, 14  # inches, a letter and a line of a label; letters of a line


def over_seeds(table: pd.DataFrame) -> pd.DataFrame:
    """From columns x, line, seed, value: mean, low, high and number of seeds for each line and x."""
    by = table.groupby(["line", "x"], sort=False)["value"]
    found = by.agg(mean="mean", low="min", high="max", seeds="count").reset_index()
    if "prefixes" in table:
        found["prefixes"] = table.groupby(["line", "x"], sort=False)["prefixes"].first().to_numpy()
    return found


def draw(shown: pd.DataFrame, xlabel: str, ylabel: str, last: str = "", note: str = "") -> Figure:
    """Lines of `over_seeds` with labels at their right ends; `last` is what the highest x is called, `note` stands
    above. Below each x stands the number of prefixes, if there is one.
    """
    places = sorted(shown["x"].unique())
    at = {x: place for place, x in enumerate(places)}  # equal steps: 1, 2, 4, ..., 32 are no straight scale
    with mpl.rc_context(SETTINGS):
        words = {line: textwrap.fill(str(line), WRAP, break_on_hyphens=False) for line in shown["line"].unique()}
        is_one = len(words) == 1  # the axis says what it is
        longest = max(len(part) for text in words.values() for part in text.split("\n"))
        beside = 0.1 if is_one else LETTER * longest + 0.05
        apart = LINE * max(text.count("\n") + 1 for text in words.values()) + 0.02  # inches, from label to label
        bottom, above = BOTTOM + LINE * ("prefixes" in shown), TOP + 1.3 * LINE * bool(note)
        height = max(HEIGHT, bottom + apart * len(words) + above)
        wide, tall = (COLUMN - LEFT - beside) / (1 if is_one else 1.12), height - bottom - above
        figure = Figure(figsize=(COLUMN, height))
        axes = figure.add_axes((LEFT / COLUMN, bottom / height, wide / COLUMN, tall / height))
        if note:
            figure.text(LEFT / COLUMN, 1 - 0.06 / height, note, ha="left", va="top", color=GREY, fontsize=SMALL)
        labels = []
        for number, (line, part) in enumerate(shown.groupby("line", sort=False)):
            part, (colour, dashes, marker) = part.sort_values("x"), look(number)
            x = part["x"].map(at)
            axes.fill_between(x, part["low"], part["high"], color=colour, alpha=0.15, linewidth=0)
            axes.plot(x, part["mean"], color=colour, linestyle=linestyle(dashes), marker=marker, markersize=3.2)
            labels.append((float(part["mean"].iloc[-1]), words[line], colour))
        names = [f"{x:g}" for x in places]
        names[-1] = last or names[-1]
        if "prefixes" in shown:
            counts = shown.drop_duplicates("x").set_index("x")["prefixes"]
            short = {x: f"{n:.0f}" if n < 1000 else f"{n / 1000:.0f}k" for x, n in counts.items()}
            names = [f"{name}\n{short[x]}" for name, x in zip(names, places)]
            axes.tick_params(axis="x", labelsize=COUNT)
        axes.set_xticks(range(len(places)), names)
        says = f"{xlabel}; number of prefixes" if "prefixes" in shown else xlabel
        axes.set_xlabel(says, parse_math=False)
        axes.set_ylabel(ylabel)
        low, high = axes.get_ylim()
        axes.set_ylim(low, high)
        inch = (high - low) / tall
        label_ends(axes, [] if is_one else labels, apart * inch, margin=max(0.0, apart / 2 - FREE) * inch)
    return figure


def describe(shown: pd.DataFrame, title: str, xlabel: str, last: str = "") -> str:
    """The figure in words, from its data; `last` names the last x, if it stands for more than itself."""
    said, end = [], shown["x"].max()

    def name(x: float) -> str:
        return last if last and x == end else f"{x:g}"

    for line, part in shown.groupby("line", sort=False):
        part = part.sort_values("x")
        values = ", ".join(f"{mean:.2f} at {name(x)}" for x, mean in part[["x", "mean"]].to_numpy())
        said.append(f"{line}: {values}")
    counts = ""
    if "prefixes" in shown:
        first = shown.drop_duplicates("x").sort_values("x")
        counts = f" Prefixes: {', '.join(f'{n:,} of {name(x)}' for x, n in first[['x', 'prefixes']].to_numpy(int))}."
    return f"{title}, against {xlabel}. {'. '.join(said)}.{counts}"
