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
    import shlex

    from dissect.cli.run import show_verdict
    from dissect.errors import UsageError
    from dissect.runs import folders
    from dissect.runs.config import Config

    if group is None:
        found = folders.newest_group(runs_dir, dissected=True)
    else:
        named = folders.resolve_runs(group, runs_dir)
        found = folders.group_of(named[0]) if named else folders.resolve_group(group, runs_dir)
    config = Config(**folders.group_config(found))
    if not config.has_verdict:
        raise UsageError(
            f"{found.name} was made by dissect train: a verdict is on what dissect run has trained to its end.",
            f"See it: dissect compare {shlex.quote(str(found))}",
        )
    show_verdict(found, config.dataset, as_json)
