"""dissect resume: go on with what was interrupted."""

from __future__ import annotations

from typing import Any

import click

from dissect.cli import options


@click.command(
    epilog="""\b
Examples:
  dissect resume runs/srgnn-demo-58ce72c0/s1
  dissect resume srgnn-demo"""
)
@click.argument("run")
@options.own_model
@click.option(
    "--device", type=click.Choice(["auto", "cpu", "cuda"]), help="[default: as in the command that began the run]"
)
@options.runs_dir
@options.data_dir
@options.as_json
@options.quiet
def command(run: str, **given: Any) -> None:
    """Go on with RUN where it stopped, by what its folder says; a group is all its unfinished seeds, and those
    of the same command that were not begun yet.

    The numbers are those of the same command again. It ends as that does: with the verdict, or with the table of
    what was trained on the split.
    """
    from dissect.cli.trained import go_on

    go_on(run, **given)
