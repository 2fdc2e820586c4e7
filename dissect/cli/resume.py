"""dissect resume: continue an interrupted run."""

from __future__ import annotations

import click

from dissect.cli import options

DEVICE = click.option("--device", type=options.DEVICE, help="[default: as in the command that began the run]")


@options.verb("resume runs/srgnn-demo-c3707d9a/s1", "resume srgnn-demo", "resume runs/srgnn-demo-c3707d9a/s2 --force")
@options.of_run(DEVICE)
@click.option("--force", is_flag=True, help="Begin RUN anew, finished or not; what is there is kept aside.")
def command(
    run: str,
    model: str | None,
    device: str | None,
    force: bool,
    runs_dir: str,
    data_dir: str | None,
    as_json: bool,
    quiet: bool,
) -> None:
    """Continue RUN where it stopped. If RUN is a group, continue all its unfinished seeds and start those that the
    same command had not begun.

    This gives the same numbers as giving the original command again, and ends with the same output: the verdict or the
    table of results. If everything is finished, only that output is printed.
    """
    from functools import partial

    from dissect.errors import FinishedError
    from dissect.experiment.resume import go_on, to_begin_anew, unfinished
    from dissect.experiment.train import Manner
    from dissect.progress import observer
    from dissect.training import workers

    workers.join()
    try:
        records = [to_begin_anew(run, runs_dir)] if force else unfinished(run, runs_dir)
    except FinishedError as error:
        options.say(f"Nothing to do. {error.message}", quiet)
        options.show([error.group], as_json)
        return
    observe = partial(observer, threshold=records[0].config.threshold, quiet=quiet)
    manner = Manner(observe=observe, say=options.say, force=force)
    go_on(records, options.loader(), manner, runs_dir, model, data_dir, device)
    options.show([records[0].group], as_json)
