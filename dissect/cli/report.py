"""dissect report: one page of HTML about groups and studies, to hand around."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from dissect.cli import options
from dissect.usual import REPORT


@options.verb(
    "report srgnn-diginetica",
    "report srgnn-diginetica attenmixer-diginetica --out paper/report.html",
    "report table2 --dataset diginetica --scale eighth",
)
@click.argument("names", nargs=-1, metavar="[GROUP|STUDY ...]")
@click.option("--out", default=REPORT, metavar="FILE", show_default=True, help="The page, in this folder.")
@options.of_study("For a study: ")
@click.pass_context
def command(context: click.Context, /, names: tuple[str, ...], out: str, **given: Any) -> None:
    """Write one page about groups of runs and studies: verdicts, figures, comparisons, and how to do it again.

    A GROUP is named as in `dissect verdict`, a STUDY as in `dissect study`; without names, the newest dissected group
    is taken. The page is one file that loads nothing: mail it, print it, or keep it beside a paper. A report that is
    there is replaced.
    """
    from dissect import reporting
    from dissect.progress import telling
    from dissect.text import shown_lines

    reporting.require_ours(Path(out))
    # Only what was typed: the rest are defaults, and what is for a study is refused where no study is named.
    about = {name: given[name] for name in options.typed(context) if name in given}
    with telling() as tell:
        report = reporting.gathered(names, progress=tell, **about)
        tell("figures", 0, 0)
        reporting.write(reporting.as_html(report), Path(out))
    for error in report["unreadable"]:
        click.echo(shown_lines(f"Left out: {error.message} {error.hint}".rstrip()), err=True)
    click.echo(out)
