"""dissect study: the paper's tables and figures, each by its name, resumable."""

from __future__ import annotations

from functools import partial
from types import ModuleType
from typing import Any

import click

from dissect.cli import options
from dissect.cli.options import as_json
from dissect.usual import TRIALS

SHARD = "i/n: this is worker i of n, such as 2/4, and trains every n-th. For batch queues."


@click.group()
def command() -> None:
    """Train and show what a table or figure of the paper needs, or a study of your own."""


def view() -> ModuleType:
    """What the verbs do; loaded when one of them is called."""
    from dissect.cli import study_view

    return study_view


verb = partial(options.subverb, command, "study")
argument = click.argument("name")
of_study = options.several(argument, options.of_study())


@verb("list", "List the studies.", "")
@as_json
def list_(as_json: bool) -> None:
    """List the studies: the tables and figures of the paper."""
    view().listed(as_json)


@verb("show", "Show what a study trains.", "table2", "mine.toml")
@argument
@as_json
def show(name: str, as_json: bool) -> None:
    """Show the arms of a study: what is trained, and what the paper prints.

    NAME is one of the list, or a TOML file of your own (docs/studies.md).
    """
    view().shown(name, as_json)


@verb("run", "Train what is not there yet.", "table2 --dataset diginetica --scale eighth", "table4 --shard 1/4")
@of_study
@click.option("--shard", metavar="i/n", help=SHARD)
@options.device
@options.quiet
def run(**given: Any) -> None:
    """Train the arms of a study that are not finished, seed by seed, then print its table.

    Stop it whenever you like: the same command goes on. Several processes, on several machines too, may run the same
    study in one runs folder; each takes what no other is training.
    """
    view().trained(**given)


@verb("tune", "Tune what a study trains, each with as many trials.", "table2 --dataset diginetica --scale eighth")
@argument
@options.of_study(tuned=False)
@click.option("--trials", type=options.Integer(1), default=TRIALS, help="Settings to try for each.", **options.SHOWN)
@click.option("--timeout", type=float, metavar="HOURS", help="Begin no trial after this many hours in all.")
@options.device
@options.quiet
def tune(**given: Any) -> None:
    """Tune each arm of a study on validation, with equal trials, the same sampler and the size of the study.

    Stop it whenever you like: the same command goes on, and several may run at once. Then: dissect study run NAME
    --tuned, with the same options.
    """
    view().tune_all(**given)


@verb("status", "What is finished, and how long the rest takes.", "table2 --dataset diginetica --scale eighth")
@of_study
@as_json
def status(**given: Any) -> None:
    """Show how many seeds of each arm are finished, and how long the others will take here."""
    view().stand(**given)


@verb(
    "table",
    "Print the table that answers a study.",
    "table2 --dataset diginetica --scale eighth --out table2.tex",
    "claims --dataset diginetica --out claims.md",
)
@of_study
@options.all_metrics
@click.option("--out", metavar="FILE", help="Write to a .md, .tex, .csv, .json or .txt file.")
@as_json
def table(**given: Any) -> None:
    """Print the finished arms of a study, with intervals and tests, beside what the paper prints.

    The study `claims` has a page instead: each claim of the paper, what the paper prints, what was measured, and
    whether it holds, under the fair protocol and under the paper's.
    """
    view().answered(**given)


@verb("figure", "Draw the figure that answers a study.", "figure6 --dataset diginetica --scale eighth")
@of_study
@click.option("--out", metavar="DIR", help="Folder for PDF, SVG, PNG, CSV and text. [default: RUNS/figures]")
def figure(**given: Any) -> None:
    """Draw a figure of the paper from the finished runs of its study."""
    view().drawn(**given)
