"""dissect tensorboard: the records of runs for TensorBoard."""

from __future__ import annotations

import click

from dissect.cli import options

OUT = "Folder for the events. [default: tensorboard/ in --runs-dir]"


@options.verb("tensorboard", "tensorboard srgnn-demo srgnn-diginetica/s1 --out board")
@click.argument("names", nargs=-1, metavar="[GROUP|RUN ...]")
@click.option("--out", metavar="DIR", help=OUT)
@options.runs_dir
@options.quiet
def command(names: tuple[str, ...], out: str | None, runs_dir: str, quiet: bool) -> None:
    """Write loss, accuracy, KL, densities and histograms of log alpha of runs as events of TensorBoard.

    Without a name, those of the newest group. Runs may be unfinished: the same command again replaces their events.
    """
    import shlex
    from pathlib import Path

    from rich.progress import track

    from dissect.errors import UsageError
    from dissect.experiment.tensorboard import export
    from dissect.progress import console
    from dissect.runs import folders
    from dissect.runs.folders import each_sound

    groups = names or [folders.newest_group(runs_dir)]
    runs = dict.fromkeys(run for name in groups for run in folders.resolve_runs(name, runs_dir))
    if not runs:
        raise UsageError(f"{', '.join(map(str, groups))} has no run yet.", "Make one: dissect run")
    folders.require_own_names(map(folders.group_of, runs))
    board, screen = Path(out or Path(runs_dir) / "tensorboard"), console(quiet)

    def write(run: Path) -> list[Path]:
        group = folders.group_of(run)
        return export(run, board / group.name / run.relative_to(group))

    shown = track(runs, "writing events", console=screen, disable=not screen.is_terminal, transient=True)
    for folder in each_sound(shown, write):
        click.echo(folder[0])
    options.say(f"See them: tensorboard --logdir {shlex.quote(str(board))}", quiet)
