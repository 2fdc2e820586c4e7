"""dissect plot: figures from run folders, and of data sets; a command for each of dissect.drawing.FIGURES."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import click

from dissect import usual
from dissect.cli import options
from dissect.drawing import CHOICES, FIGURES, TAU, Drawing
from dissect.errors import UsageError

Draw = Callable[..., list[Drawing]]


EXAMPLES = (
    "plot density",
    "plot density GROUP1 GROUP2 --together",
    "plot heatmap srgnn-diginetica",
    "plot path srgnn-diginetica-3ce81429 --by matrix",
)


@click.group(epilog=options.examples(*EXAMPLES))
def command() -> None:
    """Draw figures of the newest suitable group, or of the groups that you name. `data` draws data sets."""


def draw_each(draw: Draw, groups: Sequence[str], runs_dir: str, out: str | None, **more: Any) -> None:
    """A figure of each dissected group, in its own folder; of several, in `out`, a folder for each."""
    from dissect.runs.folders import each_sound, require_own_names

    found = list(dict.fromkeys(named(groups, runs_dir, dissected=True)))
    if out:
        require_own_names(found)
    for group, drawings in each_sound(found, lambda group: (group, draw(group, **more))):
        own = Path(out) / group.name if out and len(found) > 1 else Path(out or group / usual.FIGURES)
        save(drawings, own)


def draw_density(
    draw: Draw, groups: Sequence[str], runs_dir: str, out: str | None, together: bool, **more: Any
) -> None:
    """Figures of each group, or of two groups side by side."""
    if not together:
        draw_each(draw, groups, runs_dir, out, **more)
    elif len(groups) == 2:
        left, right = named(groups, runs_dir, dissected=True)
        save(draw(left, beside=right, **more), Path(out) if out else Path(runs_dir) / usual.FIGURES)
    else:
        raise UsageError(
            f"--together sets two groups side by side, not {len(groups)}.",
            "Name two: dissect plot density GROUP1 GROUP2 --together",
        )


def draw_together(draw: Draw, groups: Sequence[str], runs_dir: str, out: str | None, **more: Any) -> None:
    """One figure of all groups, in the folder of the group if there is but one."""
    found = named(groups, runs_dir, trained=True)
    at = found[0] if len(set(found)) == 1 else Path(runs_dir)
    save(draw(*found, runs_dir=runs_dir, **more), Path(out) if out else at / usual.FIGURES)


def draw_data(draw: Draw, names: Sequence[str], data_dir: str | None, runs_dir: str, out: str | None) -> None:
    """One figure of all data sets, beside the groups."""
    from dissect.data import catalog

    sets = [catalog.load(name, data_dir) for name in dict.fromkeys(names)]
    save(draw(*sets), Path(out) if out else Path(runs_dir) / usual.FIGURES)


def named(names: Sequence[str], runs_dir: str, dissected: bool = False, trained: bool = False) -> list[Path]:
    """The groups asked for, or the newest, which must be `dissected` or `trained`."""
    from dissect.runs import folders

    newest = [] if names else [folders.newest_group(runs_dir, dissected, trained)]
    return newest or [folders.resolve_group(name, runs_dir, dissected) for name in names]


def save(drawings: list[Drawing], folder: Path) -> None:
    """Write figures and print the paths of their files."""
    for drawing in drawings:
        for path in drawing.save(folder):
            click.echo(path)


def choice(flag: str, values: Sequence[str], help: str | None = None) -> options.Decorator:
    return click.option(flag, type=click.Choice(values), default=values[0], show_default=True, help=help)


def out(default: str, more: str = "") -> options.Decorator:
    return click.option("--out", metavar="DIR", help=f"Folder for the files{more}. [default: {default}]")


MEASURES = "D1: log alpha below the threshold; D2: |theta| > tau; D2s: theta > tau, the paper's Equation 3 literally."
BELOW = "Keep a weight if its log alpha is below this. [default: the group's]"
TAUS = ("0", "0.001", "0.01", "0.05")
VARIANTS = "full, or without-<role>; may be repeated. [default: all]"
groups = click.argument("groups", nargs=-1, metavar="[GROUP ...]")
out_of_each = out("the group's figures/", ", with one in it for each of several groups")
of_each = (groups, click.option("--threshold", type=float, help=BELOW), out_of_each, options.runs_dir)

counted = (
    choice("--measure", CHOICES["heatmap"]["measure"], MEASURES),
    click.option("--tau", type=click.Choice(TAUS), help=f"For D2 and D2s. [default: {TAU}]"),
    click.option("--variant", default=usual.FULL, show_default=True, help="full, or without-<role>."),
)


def figure(name: str, run: Callable[..., None], words: Sequence[str], *declared: options.Decorator) -> None:
    """A command for a figure: `run` finds its sources and draws it; `words` are those of its examples."""
    says = (FIGURES[name].__doc__ or "").split("\n")[0]
    make = options.subverb(command, "plot", name, says, *words, help=says)
    make(options.several(*declared)(partial(run, FIGURES[name])))


figure(
    "density",
    draw_density,
    ["", "srgnn-diginetica --x step", "GROUP1 GROUP2 --together"],
    choice("--x", CHOICES["density"]["x"]),
    click.option("--together", is_flag=True, help="Two groups side by side, with one axis and the same lines."),
    *counted,
    *of_each,
)
figure("heatmap", draw_each, ["", "srgnn-diginetica --threshold 2"], *counted, *of_each)
figure("histogram", draw_each, [""], *of_each)
figure(
    "path",
    draw_each,
    ["", "srgnn-diginetica-3ce81429 --by matrix"],
    choice("--by", CHOICES["path"]["by"], "A line for each role, or for each matrix."),
    *of_each,
)
figure("opinions", draw_each, ["", "srgnn-diginetica"], groups, out_of_each, options.runs_dir)
figure(
    "training",
    draw_together,
    ["", "srgnn-diginetica attenmixer-diginetica --by time"],
    groups,
    choice("--by", CHOICES["training"]["by"]),
    click.option("--variant", "variants", multiple=True, help=VARIANTS),
    out("the group's figures/; for several groups, figures/ in --runs-dir"),
    options.runs_dir,
)
figure(
    "data",
    draw_data,
    ["diginetica", "diginetica gowalla lastfm --out talk/figures"],
    click.argument("names", nargs=-1, required=True, metavar="NAME ..."),
    out("figures/ in --runs-dir"),
    options.runs_dir,
    options.data_dir,
)
