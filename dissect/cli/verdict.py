"""dissect verdict: the verdict on runs that are finished, again."""

from __future__ import annotations

import click

from dissect.cli import options


@click.command(
    epilog="""\b
Examples:
  dissect verdict
  dissect verdict srgnn-diginetica --json"""
)
@click.argument("group", required=False)
@options.runs_dir
@options.as_json
def command(group: str | None, runs_dir: str, as_json: bool) -> None:
    """Judge the finished seeds of GROUP, as `dissect run` does at its end; without GROUP, of the newest dissected one.

    What was trained since counts: further seeds, the model without a role, and the same with --noise weight.
    """
    from dissect import runs
    from dissect.cli.dissecting import show_verdict

    found = runs.resolve_group(group, runs_dir) if group else runs.newest_group(runs_dir, dissected=True)
    show_verdict(found, runs.group_config(found)["dataset"], as_json)
