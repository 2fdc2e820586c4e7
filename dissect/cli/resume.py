"""dissect resume: go on with what was interrupted."""

from __future__ import annotations

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
@click.option("--device", type=options.DEVICES, help="[default: as in the command that began the run]")
@options.runs_dir
@options.data_dir
@options.as_json
@options.quiet
def command(
    run: str, model: str | None, device: str | None, runs_dir: str, data_dir: str | None, as_json: bool, quiet: bool
) -> None:
    """Go on with RUN where it stopped, by what its folder says; a group is all its unfinished seeds, and those
    of the same command that were not begun yet.

    The numbers are those of the same command again. It ends as that does: with the verdict, or with the table of
    what was trained on the split.
    """
    from functools import partial

    from dissect.cli.run import show_verdict
    from dissect.cli.train import show_results
    from dissect.experiment.resume import go_on, unfinished
    from dissect.experiment.train import Manner
    from dissect.training import workers

    workers.join()
    records = unfinished(run, runs_dir)
    config, group = records[0].config, records[0].group
    observe = partial(options.observer, threshold=config.threshold, quiet=quiet)
    data = go_on(records, options.loader(), Manner(observe=observe, say=options.say), runs_dir, model, data_dir, device)
    if workers.is_first() and config.is_sparse:
        show_verdict(group, data.name, as_json)
    elif workers.is_first():
        show_results(group, data, as_json)
