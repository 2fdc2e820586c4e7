"""dissect verdict: the verdict on finished runs, again."""

from __future__ import annotations

import shlex

import click

from dissect.cli import options


@options.verb("verdict", "verdict srgnn-diginetica --json")
@click.argument("group", required=False)
@options.runs_dir
@options.as_json
def command(group: str | None, runs_dir: str, as_json: bool) -> None:
    """Judge the finished seeds of GROUP again, or of the newest dissected group.

    The verdict includes runs trained since: more seeds, the model without a role, and runs with --noise weight.
    """
    from dissect.errors import in_short
    from dissect.group import Group
    from dissect.runs import folders

    if group is None:
        found = folders.newest_group(runs_dir, dissected=True)
    else:
        found, _ = folders.resolve_both(group, runs_dir, dissected=True)
    Group(found).require_verdict()
    runs = [run for variant in folders.variants(found) for run in folders.group_runs(found, variant)]
    if unfinished := [str(run) for run in runs if not folders.is_done(run)]:
        go_on = f"dissect resume {shlex.quote(unfinished[0])}"
        click.echo(f"Not finished, so not counted: {in_short(unfinished)}. Go on: {go_on}", err=True)
    options.show([found], as_json)
