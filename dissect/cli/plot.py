"""dissect plot: figures from run folders, and of data sets; a command for each of dissect.drawing.FIGURES."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import click

from dissect.cli import options
from dissect.drawing import FIGURES, Drawing

Draw = Callable[..., list[Drawing]]


@click.group()
def command() -> None:
    """Draw figures from the newest group of runs that has what they show, or from the groups named; `data` draws
    data sets."""


def draw_each(draw: Draw, groups: Sequence[str], runs_dir: str, out: str | None, **more: Any) -> None:
    """A figure of each dissected group, in its own folder."""
    from analyses.sound import each_sound

    found = named(groups, runs_dir, dissected=True)
    for group, drawings in each_sound(found, lambda group: (group, draw(group, **more))):
        save(drawings, Path(out) if out else group / "figures")


def draw_together(draw: Draw, groups: Sequence[str], runs_dir: str, out: str | None, **more: Any) -> None:
    """One figure of all groups, in the folder of the group where there is but one."""
    found = named(groups, runs_dir)
    at = found[0] if len(set(found)) == 1 else Path(runs_dir)
    save(draw(*found, runs_dir=runs_dir, **more), Path(out) if out else at / "figures")


def draw_data(draw: Draw, names: Sequence[str], data_dir: str | None, out: str | None) -> None:
    """One figure of all data sets."""
    from dissect.data import catalog

    save(draw(*(catalog.load(name, data_dir) for name in dict.fromkeys(names))), Path(out or "figures"))


def named(names: Sequence[str], runs_dir: str, dissected: bool = False) -> list[Path]:
    """The groups asked for; the newest, or the newest `dissected` one, where none is named."""
    from dissect.runs import folders

    return [folders.resolve_group(name, runs_dir) for name in names] or [folders.newest_group(runs_dir, dissected)]


def save(drawings: list[Drawing], folder: Path) -> None:
    """Write figures and say their files."""
    for drawing in drawings:
        for path in drawing.save(folder):
            click.echo(path)


def choice(flag: str, values: Sequence[str], default: str, help: str | None = None) -> options.Decorator:
    return click.option(flag, type=click.Choice(values), default=default, show_default=True, help=help)


def out(default: str) -> options.Decorator:
    return click.option("--out", metavar="DIR", help=f"Folder for the files. [default: {default}]")


groups = click.argument("groups", nargs=-1, metavar="[GROUP ...]")
of_each = (
    groups,
    click.option("--threshold", type=float, help="A weight is kept where log alpha lies below. [default: the group's]"),
    out("the group's figures/"),
    options.runs_dir,
)
measures = "D1: log alpha below the threshold; D2: |theta| > tau; D2s: theta > tau, the paper's Equation 3 literally."
# Figure -> how its sources are found and drawn, its arguments and options, examples.
COMMANDS: dict[str, tuple[Callable[..., None], tuple[options.Decorator, ...], tuple[str, ...]]] = {
    "density": (
        draw_each,
        (
            choice("--x", ["epoch", "step"], "epoch"),
            choice("--measure", ["D1", "D2", "D2s"], "D1", measures),
            choice("--tau", ["0", "0.001", "0.01", "0.05"], "0.01", "For D2 and D2s."),
            click.option("--variant", default="full", show_default=True, help="full, or without-<role>."),
            *of_each,
        ),
        ("", " srgnn-diginetica --x step"),
    ),
    "histogram": (draw_each, of_each, ("",)),
    "training": (
        draw_together,
        (
            groups,
            choice("--by", ["epoch", "time"], "epoch"),
            click.option(
                "--variant", "variants", multiple=True, help="full, without-<role>; repeatable. [default: all]"
            ),
            out("the group's figures/; of several, figures/ in --runs-dir"),
            options.runs_dir,
        ),
        ("", " srgnn-diginetica attenmixer-diginetica --by time"),
    ),
    "data": (
        draw_data,
        (
            click.argument("names", nargs=-1, required=True, metavar="NAME ..."),
            out("figures/ where you are, since data sets belong to no group"),
            options.data_dir,
        ),
        (" diginetica", " diginetica gowalla lastfm --out talk/figures"),
    ),
}
for name, figure in FIGURES.items():
    run, declared, examples = COMMANDS[name]
    command.command(
        name,
        help=(figure.__doc__ or "").split("\n")[0],
        epilog="\b\nExamples:\n" + "\n".join(f"  dissect plot {name}{example}" for example in examples),
    )(options.several(*declared)(partial(run, figure)))
