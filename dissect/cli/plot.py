"""dissect plot: figures from run folders, and of data sets."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import click

from dissect.cli.options import data_dir


@click.group()
def command() -> None:
    """Draw figures from the newest group of runs that has what they show, or from the groups named; `data` draws
    data sets."""


def _shared(function: Any) -> Any:
    for option in (
        click.argument("groups", nargs=-1, metavar="[GROUP ...]"),
        click.option("--runs-dir", default="runs", show_default=True),
        click.option("--out", help="Folder for the files. [default: the group's figures/]"),
        click.option(
            "--threshold",
            type=float,
            help="A weight is kept where log alpha lies below. [default: the group's]",
        ),
    ):
        function = option(function)
    return function


@command.command(
    epilog="""\b
Examples:
  dissect plot density
  dissect plot density srgnn-diginetica --x step"""
)
@_shared
@click.option("--x", type=click.Choice(["epoch", "step"]), default="epoch", show_default=True)
@click.option(
    "--measure",
    type=click.Choice(["D1", "D2", "D2s"]),
    default="D1",
    show_default=True,
    help="D1: log alpha below the threshold; D2: |theta| > tau; D2s: theta > tau, the paper's Equation 3 literally.",
)
@click.option(
    "--tau",
    type=click.Choice(["0", "0.001", "0.01", "0.05"]),
    default="0.01",
    show_default=True,
    help="For D2 and D2s.",
)
@click.option("--variant", default="full", show_default=True, help="full, or without-<role>.")
def density(
    groups: tuple[str, ...],
    runs_dir: str,
    out: str | None,
    threshold: float | None,
    x: str,
    measure: str,
    tau: str,
    variant: str,
) -> None:
    """Density against training: Figure 3 (GNN module) and Figure 4 (readout)."""
    import textwrap
    from pathlib import Path

    from analyses.coverage import coverage
    from analyses.density import density_table
    from dissect.errors import UsageError
    from dissect.runs.folders import group_runs
    from dissect.sparsevd import in_words
    from dissect.sparsevd.density import key
    from figures import density as figure

    named = _groups(groups, runs_dir, dissected=True)
    for group, config, table in _each_sound(named, lambda given: (*given, density_table(given[0], variant))):
        t = config["threshold"] if threshold is None else threshold
        column = {"D1": f"kept {key(t)}", "D2": f"abs {tau}", "D2s": f"signed {tau}"}[measure]
        if column not in table:
            known = [name.split()[1] for name in table if name.startswith(column.split()[0] + " ")]
            raise UsageError(f"{group.name} has no counts for {column}.", f"Recorded: {', '.join(known)}.")
        says = {"D1": f"log α < {t:g}", "D2": f"|θ| > {tau}", "D2s": f"θ > {tau}"}[measure]
        seeds = table["seed"].nunique()
        reduced = "" if variant == "full" else f" {variant.replace('-', ' ', 1).replace('-', ', ')}"
        shown_as = "1 seed" if seeds == 1 else f"mean and range of {seeds} seeds"
        caption = (
            f"{config['model']}{reduced}, {config['dataset']}\n"
            f"share with {says}; {shown_as}\n"
            f"SparseVD: {config['where']}, KL weight {config['kl_weight']:g}, "
            f"{config['prior']} prior, noise {config['noise']}"
        )
        of_module = (coverage(group_runs(group, variant)) or {}).get("modules", {})
        for module in ("gnn", "encoder", "readout", "other"):
            covered = in_words(of_module[module]) if module in of_module else ""
            if not (table["module"] == module).any():
                if covered:
                    click.echo(f"No figure of the {figure.TITLES[module]}: {covered}.", err=True)
                continue
            values = figure.by_seed(table, module, column)
            shown = figure.lines(values)
            name = {"gnn": "figure3-density-gnn", "readout": "figure4-density-readout"}.get(module, f"density-{module}")
            stem = (Path(out) if out else group / "figures") / (name + ("" if variant == "full" else f"-{variant}"))
            partly = covered if covered and of_module[module]["share"] < 1 else ""
            under = "\n".join([caption, *textwrap.wrap(partly, figure.CAPTION)])
            drawn = figure.draw(values, module, under, x, f"density ({says})")
            in_full = "; ".join([*caption.split("\n"), *([partly] if partly else [])])
            _save(drawn, stem, shown, figure.describe(shown, module, in_full))


@command.command(epilog="\b\nExample:\n  dissect plot histogram")
@_shared
def histogram(groups: tuple[str, ...], runs_dir: str, out: str | None, threshold: float | None) -> None:
    """Histograms of log alpha at the end of training, with the threshold."""
    from pathlib import Path

    from analyses.density import density_table, log_alpha_shares
    from dissect.errors import UsageError
    from figures import histogram as figure

    named = _groups(groups, runs_dir, dissected=True)
    for group, config, table in _each_sound(named, lambda given: (*given, log_alpha_shares(density_table(given[0])))):
        t = config["threshold"] if threshold is None else threshold
        if not -20 <= t <= 20:
            raise UsageError(f"--threshold is of log alpha, whose histogram goes from -20 to 20, not {t:g}.")
        caption = (
            f"{config['model']} on {config['dataset']}, end of training, all seeds; "
            f"kept (blue) below the threshold log α = {t:g} (dashed)"
        )
        drawn = figure.draw(table, t, caption)
        stem = (Path(out) if out else group / "figures") / "log-alpha"
        kept = table[table["log_alpha"] < t].groupby("matrix", sort=False)["share"].sum()
        words = (
            f"{caption}. Share of weights below it: "
            + "; ".join(f"{name} {value:.3f}" for name, value in kept.items())
            + "."
        )
        _save(drawn, stem, table, words)


@command.command(
    epilog="""\b
Examples:
  dissect plot data diginetica
  dissect plot data diginetica gowalla lastfm --out talk/figures"""
)
@click.argument("names", nargs=-1, required=True, metavar="NAME ...")
@click.option("--out", default="figures", show_default=True, metavar="DIR", help="Folder for the files.")
@data_dir
def data(names: tuple[str, ...], out: str, data_dir: str | None) -> None:
    """Data sets side by side: session lengths and item popularity."""
    from pathlib import Path

    from dissect.data import catalog
    from dissect.data.stats import curves
    from figures import data as figure

    table = curves([catalog.load(name, data_dir) for name in dict.fromkeys(names)])
    _save(figure.draw(table), Path(out) / "data", table, figure.describe(table))


@command.command(
    epilog="""\b
Examples:
  dissect plot training
  dissect plot training srgnn-diginetica attenmixer-diginetica --by time"""
)
@click.argument("groups", nargs=-1, metavar="[GROUP ...]")
@click.option("--by", type=click.Choice(["epoch", "time"]), default="epoch", show_default=True)
@click.option("--variant", "variants", multiple=True, help="full, without-<role>; repeatable. [default: all]")
@click.option("--runs-dir", default="runs", show_default=True, help="Where run folders lie.")
@click.option("--out", help="Folder for the files. [default: the group's figures/; of several, figures/ in --runs-dir]")
def training(groups: tuple[str, ...], by: str, variants: tuple[str, ...], runs_dir: str, out: str | None) -> None:
    """Loss, HR@20 and MRR@20 by epoch or by time, several groups in one figure; runs that go on included."""
    from pathlib import Path

    import pandas as pd

    from analyses.entries import Entry, labels, same_test_set
    from analyses.training import evaluated_on, over_seeds, training_table
    from dissect.errors import UsageError
    from dissect.runs import folders
    from figures import training as figure
    from figures.style import COLOURS

    chosen = dict(_groups(groups, runs_dir))
    entries = [
        Entry(group, variant, config, tuple(folders.group_runs(group, variant)))
        for group, config in chosen.items()
        for variant in variants or folders.variants(group)
    ]
    same_test_set(entries, runs_dir, "dissect plot training")
    if len(entries) > len(COLOURS):
        raise UsageError(
            f"{len(entries)} lines are more than can be told apart.",
            f"Name groups with at most {len(COLOURS)} variants in all, or give --variant full.",
        )
    read = _each_sound(entries, lambda row: (row, training_table(row.group, row.variant)))
    entries, tables = [row for row, _ in read], [table for _, table in read]
    split = evaluated_on(tables)
    shown = pd.concat(
        [over_seeds(table).assign(line=label) for label, table in zip(labels(entries), tables)], ignore_index=True
    )
    seeds = sorted({int(table["seed"].nunique()) for table in tables})
    number = f"{seeds[0]}" if len(seeds) == 1 else f"{seeds[0]} to {seeds[-1]}"
    shown_as = "1 seed" if seeds == [1] else f"mean and range over {number} seeds"
    caption = (
        f"{entries[0].config['dataset']}: {shown_as}\n"
        f"HR and MRR on {figure.SPLITS[split]}; loss is the cross-entropy, without KL"
    )
    if len(labels(entries)) == 1:
        caption = f"{labels(entries)[0]}, {caption}"
    at = Path(out) if out else (next(iter(chosen)) if len(chosen) == 1 else Path(runs_dir)) / "figures"
    stem = at / ("training" if by == "epoch" else "training-by-time")
    drawn = figure.draw(shown, split, caption, "epoch" if by == "epoch" else "minutes")
    _save(drawn, stem, shown, figure.describe(shown, split, caption.replace("\n", "; ")))


def _save(drawn: Any, stem: Any, table: Any, words: str) -> None:
    """Write a figure and say its files. Raises DissectError where the disk refuses."""
    from dissect.errors import DissectError
    from dissect.text import without_formulas
    from figures.style import save

    try:
        paths = save(drawn, stem, without_formulas(table), words)
    except OSError as error:
        raise DissectError(
            f"Could not write to {stem.parent}: {error.strerror or error}.", "Choose a folder by --out."
        ) from error
    for path in paths:
        click.echo(path)


def _groups(names: tuple[str, ...], runs_dir: str, dissected: bool = False) -> list[tuple[Any, dict[str, Any]]]:
    """The groups asked for with their configurations; the newest, or the newest `dissected` one, where none is.

    Of several, a damaged one is left out, and said.
    """
    from dissect.runs import folders

    groups = [folders.resolve_group(name, runs_dir) for name in names] or [folders.newest_group(runs_dir, dissected)]
    return _each_sound(groups, lambda group: (group, folders.group_config(group)))


def _each_sound(given: Sequence[Any], read: Callable[[Any], Any]) -> list[Any]:
    """What `read` makes of each; what is damaged is left out and said. Raises DataError where all is."""
    from dissect.errors import DataError
    from dissect.runs import folders

    found, damaged = [], []
    for each in given:
        try:
            found.append(read(each))
        except DataError as error:
            damaged.append(error)
    folders.leave_out(damaged, is_all=not found)
    return found
