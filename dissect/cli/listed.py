"""dissect list: what a runs folder has."""

from __future__ import annotations

from pathlib import Path

import click

from dissect.cli import options
from dissect.errors import UsageError
from dissect.usual import RUNS


@options.verb("list", "list --runs-dir old --json")
@options.runs_dir
@options.as_json
def command(runs_dir: str, as_json: bool) -> None:
    """List the groups of a runs folder, newest first: model, data set, finished seeds, MRR@20.

    Their names are what other verbs take; the beginning of a name is enough.
    """
    from dissect.cli import screen
    from dissect.runs.folders import find_groups
    from dissect.tables.groups import groups_of, view_of_groups

    rows = groups_of(runs_dir)
    if as_json:
        screen.show_json(rows)
    elif rows:
        screen.show_tables(view_of_groups(rows, runs_dir))
    elif not Path(runs_dir).is_dir() and runs_dir != RUNS:
        what = "is a file, not a folder" if Path(runs_dir).exists() else "does not exist"
        raise UsageError(f"{runs_dir} {what}.", "Name the folder of the runs with --runs-dir.")
    elif find_groups(runs_dir):
        click.echo(f"There are no undamaged runs in {runs_dir}.")
    else:
        click.echo(f"There are no runs in {runs_dir}. Make some: dissect train srgnn")
