"""Figures by name: from groups of runs, or data sets, to pictures with their captions and numbers.

Here the tables of analyses/ meet the drawings of figures/. `dissect plot NAME` and the Python API call FIGURES[NAME].
"""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from dissect.errors import DissectError, UsageError, unknown

if TYPE_CHECKING:  # imported when a figure is drawn, so that --help stays instant
    import pandas as pd
    from matplotlib.figure import Figure

    from dissect.data.sessions import Dataset

STEMS = {  # module -> the name of its density figure
    "gnn": "figure3-density-gnn",
    "encoder": "density-encoder",
    "readout": "figure4-density-readout",
    "other": "density-other",
}


class Drawing(NamedTuple):
    """A figure, its caption (the figure in words) and the numbers that it shows; `name` is that of its files."""

    name: str
    figure: Figure
    caption: str
    table: pd.DataFrame

    def save(self, folder: Path) -> list[Path]:
        """Write PDF, SVG, PNG, CSV and the caption; returns the paths. Raises DissectError if the disk refuses."""
        from dissect.text import without_formulas
        from figures.style import save

        try:
            return save(self.figure, folder / self.name, without_formulas(self.table), self.caption)
        except OSError as error:
            raise DissectError(
                f"Could not write to {folder}: {error.strerror or error}.", "Choose a folder by --out."
            ) from error


def density(
    group: Path,
    *,
    threshold: float | None = None,
    x: str = "epoch",
    measure: str = "D1",
    tau: str = "0.01",
    variant: str = "full",
    module: str | None = None,
) -> list[Drawing]:
    """Draw density against training: Figure 3 (GNN module) and Figure 4 (readout).

    One drawing for each module that has densities, or for `module` alone. A weight counts by `measure`: D1, if
    log alpha is below the threshold (the group's unless given); D2, |theta| > tau; D2s, theta > tau.
    """
    from analyses.coverage import coverage
    from analyses.density import density_table
    from dissect.runs import folders
    from dissect.sparsevd import in_words
    from dissect.sparsevd.density import key
    from figures import density as figure

    if module is not None and module not in STEMS:
        raise unknown("module", module, STEMS)
    config, table = folders.group_config(group), density_table(group, variant)
    t = config["threshold"] if threshold is None else threshold
    column, says = {
        "D1": (f"kept {key(t)}", f"log α < {t:g}"),
        "D2": (f"abs {tau}", f"|θ| > {tau}"),
        "D2s": (f"signed {tau}", f"θ > {tau}"),
    }[measure]
    if column not in table:
        known = [name.split()[1] for name in table if name.startswith(column.split()[0] + " ")]
        raise UsageError(f"{group.name} has no counts for {column}.", f"Recorded: {', '.join(known)}.")
    suffix, reduced = ("", "") if variant == folders.FULL else (f"-{variant}", f" {_without(variant)}")
    lines = [
        f"{config['model']}{reduced}, {config['dataset']}",
        f"share with {says}; {_over_seeds('mean and range of', {table['seed'].nunique()})}",
        f"SparseVD: {config['where']}, KL weight {config['kl_weight']:g}, {config['prior']} prior, "
        f"noise {config['noise']}",
    ]
    if (table["role"] == "shadow").any():
        lines.append("thin dots: the shadow of each matrix, useless by construction")
    covered = (coverage(folders.group_runs(group, variant)) or {}).get("modules", {})
    drawings = []
    for name in STEMS if module is None else (module,):
        words = [in_words(covered[name])] if name in covered else []
        if not (table["module"] == name).any():
            if words:
                print(f"No figure of the {figure.TITLES[name]}: {words[0]}.", file=sys.stderr)
            continue
        partly = words if words and covered[name]["share"] < 1 else []
        values = figure.by_seed(table, name, column)
        shown = figure.lines(values)
        under = "\n".join([*lines, *(part for text in partly for part in textwrap.wrap(text, figure.CAPTION))])
        drawn = figure.draw(values, name, under, x, f"density ({says})")
        drawings.append(
            Drawing(STEMS[name] + suffix, drawn, figure.describe(shown, name, "; ".join([*lines, *partly])), shown)
        )
    return drawings


def histogram(group: Path, *, threshold: float | None = None) -> list[Drawing]:
    """Draw histograms of log alpha at the end of training, with the threshold."""
    from analyses.density import density_table, log_alpha_shares
    from dissect.runs import folders
    from figures import histogram as figure

    config, table = folders.group_config(group), log_alpha_shares(density_table(group))
    t = config["threshold"] if threshold is None else threshold
    if not -20 <= t <= 20:
        raise UsageError(f"--threshold is of log alpha, whose histogram goes from -20 to 20, not {t:g}.")
    caption = (
        f"{config['model']} on {config['dataset']}, end of training, all seeds; "
        f"kept (blue) below the threshold log α = {t:g} (dashed)"
    )
    return [Drawing("log-alpha", figure.draw(table, t, caption), figure.describe(table, t, caption), table)]


def training(
    *groups: Path, by: str = "epoch", variants: Sequence[str] = (), runs_dir: Path | str = "runs"
) -> list[Drawing]:
    """Draw loss, HR@20 and MRR@20 by epoch or by time, for several groups in one figure. Unfinished runs are included.

    A line for each of the `variants` (all unless given) of each group. A hint names groups as `runs_dir` has them.
    """
    import pandas as pd

    from analyses.entries import Entry, labels, same_test_set
    from analyses.sound import each_sound
    from analyses.training import evaluated_on, over_seeds, training_table
    from dissect.runs import folders
    from figures import training as figure
    from figures.style import COLOURS

    entries = [
        Entry(group, variant, config, tuple(folders.group_runs(group, variant)))
        for group, config in each_sound(dict.fromkeys(groups), lambda group: (group, folders.group_config(group)))
        for variant in variants or folders.variants(group) or (folders.FULL,)
    ]
    same_test_set(entries, runs_dir, "dissect plot training")
    if len(entries) > len(COLOURS):
        raise UsageError(
            f"{len(entries)} lines are more than can be told apart.",
            f"Name groups with at most {len(COLOURS)} variants in all, or give --variant full.",
        )
    read = each_sound(entries, lambda row: (row, training_table(row.group, row.variant)))
    names, tables = labels([row for row, _ in read]), [table for _, table in read]
    split = evaluated_on(tables)
    shown = pd.concat([over_seeds(table).assign(line=name) for name, table in zip(names, tables)], ignore_index=True)
    seeds = _over_seeds("mean and range over", {int(table["seed"].nunique()) for table in tables})
    caption = (
        f"{names[0] + ', ' if len(names) == 1 else ''}{read[0][0].config['dataset']}: {seeds}\n"
        f"HR and MRR on {figure.SPLITS[split]}; loss is the cross-entropy, without KL"
    )
    stem, x = {"epoch": ("training", "epoch"), "time": ("training-by-time", "minutes")}[by]
    words = figure.describe(shown, split, caption.replace("\n", "; "))
    return [Drawing(stem, figure.draw(shown, split, caption, x), words, shown)]


def data(*sets: Dataset) -> list[Drawing]:
    """Draw data sets side by side: session lengths and item popularity."""
    from dissect.data.stats import curves
    from figures import data as figure

    table = curves(list(sets))
    return [Drawing("data", figure.draw(table), figure.describe(table), table)]


def _without(variant: str) -> str:
    """without-gnn-attention -> without gnn, attention"""
    return variant.replace("-", " ", 1).replace("-", ", ")


def _over_seeds(what: str, numbers: set[int]) -> str:
    """What a line shows, for groups with these numbers of seeds."""
    if numbers == {1}:
        return "1 seed"
    return f"{what} {' to '.join(map(str, sorted({min(numbers), max(numbers)})))} seeds"


# Name -> what draws it. The first line of each docstring is the help of `dissect plot NAME`.
FIGURES: dict[str, Callable[..., list[Drawing]]] = {
    "density": density,
    "histogram": histogram,
    "training": training,
    "data": data,
}
