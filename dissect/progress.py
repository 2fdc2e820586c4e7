"""How far a training or another piece of work is, on stderr: a live view on a terminal, plain lines elsewhere."""

from __future__ import annotations

import multiprocessing
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

from rich.bar import Bar
from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from dissect.runs.config import Config
from dissect.sparsevd.density import key
from dissect.text import plural
from dissect.training import workers
from dissect.training.record import Observer

QUIET = 10.0  # seconds between lines on the progress of an evaluation
PATIENCE = 2.0  # seconds before a bar is shown


def is_shown(quiet: bool) -> bool:
    """Whether a script or a notebook shows progress: on a terminal and in a notebook, unless `quiet`."""
    return not quiet and (sys.stderr.isatty() or "ipykernel" in sys.modules)


def console(quiet: bool = False) -> Console:
    """The console for notes and progress; a process that trains one of several seeds writes plain lines."""
    is_terminal = False if multiprocessing.parent_process() else None
    return Console(stderr=True, markup=False, quiet=quiet or not workers.is_first(), force_terminal=is_terminal)


def say_on(screen: Console) -> Callable[[str], None]:
    """A function that prints a note on the screen, on one line and as it is."""
    return partial(screen.print, highlight=False, markup=False, soft_wrap=True)


def bars(*columns: Any, **more: Any) -> Progress:
    """Progress bars on stderr, if that is a terminal; stdout is left alone, for the results."""
    screen = console()
    return Progress(*columns, console=screen, disable=not screen.is_terminal, redirect_stdout=False, **more)


class Pace:
    """The time left for `total` pieces of work from `first` on, by the pace so far, or the time that they took."""

    def __init__(self, total: int, first: int = 0) -> None:
        self.total, self.first, self.now, self.began = total, first, first, time.monotonic()

    def left(self, now: int) -> str:
        """Empty as long as nothing is done: what was done at `first` may have taken any time."""
        self.now, took = now, time.monotonic() - self.began
        if now <= self.first:
            return ""
        if now >= self.total:
            return f"took {timedelta(seconds=round(took))}"
        return f"{timedelta(seconds=round(took / (now - self.first) * (self.total - now)))} left"


class PlainObserver(Observer):
    """For files and pipes: a line at the beginning, for each evaluation, each tenth of a run, and each QUIET seconds of
    an evaluation.
    """

    def __init__(self, console: Console, title: str) -> None:
        self.console, self.title, self.tenth, self.split = console, title, -1, ""
        self.pace, self.ranking, self.said, self.per_epoch = Pace(1), Pace(1), time.monotonic(), 1

    def say(self, text: str) -> None:
        self.said = time.monotonic()
        self.console.print(f"{self.title}: {text}", markup=False, highlight=False, soft_wrap=True)

    def begin(self, run: Path, step: int, steps: int, steps_per_epoch: int) -> None:
        self.pace, self.per_epoch = Pace(steps, step), steps_per_epoch
        self.tenth = 10 * step // max(1, steps)
        going_on = f"continuing at step {step} of" if step else "beginning"
        if step < steps:  # a model without gradients makes none, and a training may be finished but not ranked
            self.say(f"{going_on} {plural(steps, 'step')}, {steps_per_epoch} an epoch, in {run}")

    def step(self, step: int, loss: float, kl_weight: float, lr: float) -> None:
        left, steps = self.pace.left(step), self.pace.total
        if 10 * step // steps > self.tenth:
            self.tenth = 10 * step // steps
            kl = f"KL weight {kl_weight:.2f}, " if kl_weight else ""
            self.say(f"step {step}/{steps}, epoch {step / self.per_epoch:.2f}, loss {loss:.4f}, {kl}{left}")

    def evaluating(self, what: str, done: int, total: int) -> None:
        if what != self.split or done < self.ranking.now:
            self.split, self.ranking = what, Pace(total, done)
        left = self.ranking.left(done)
        if left and done < total and time.monotonic() - self.said > QUIET:
            self.say(f"ranking {what} {done:,}/{total:,}, {left}")

    def evaluated(self, split: str, step: int, values: dict[str, float]) -> None:
        self.say(f"step {step}, {split}: HR@20 {values['hr@20']:.2f}, MRR@20 {values['mrr@20']:.2f}")

    note = say


class LiveObserver(Observer):
    """Step, epoch, loss, KL weight, HR and MRR, density per matrix as bars, time left; redrawn in place."""

    def __init__(self, console: Console, title: str, threshold: float = Config.threshold, stays: bool = True) -> None:
        self.console, self.title, self.threshold, self.steps, self.per_epoch = console, title, threshold, 1, 1
        self.stays = stays  # on the screen at the end
        self.facts, self.accuracy, self.rows = "", dict[str, str](), list[dict[str, Any]]()
        counts = TextColumn("{task.completed:,.0f}/{task.total:,.0f}, {task.fields[time]}")
        time_left = TimeRemainingColumn(elapsed_when_finished=True)
        columns = (TextColumn("{task.description}", markup=False), BarColumn(16), counts, time_left)
        self.progress = Progress(*columns, console=console, speed_estimate_period=600)
        self.training = self.progress.add_task("step", time="left")
        self.ranking = self.progress.add_task("ranking", time="left", visible=False)
        self.live = Live(console=console, refresh_per_second=4, get_renderable=self.render, transient=not stays)

    def begin(self, run: Path, step: int, steps: int, steps_per_epoch: int) -> None:
        self.steps, self.per_epoch = steps, steps_per_epoch
        self.progress.reset(self.training, total=steps, completed=step)
        if 0 < step < steps:
            self.console.print(f"Continuing at step {step:,} of {steps:,}.", highlight=False)
        self.live.start()

    def step(self, step: int, loss: float, kl_weight: float, lr: float) -> None:
        kl = f"  KL weight {kl_weight:.2f}" if self.rows else ""  # a dense run has none
        self.facts = f"epoch {step / self.per_epoch:.2f}  loss {loss:.3f}{kl}  learning rate {lr:.1e}"
        self.progress.update(self.training, completed=step, time="left" if step < self.steps else "took")

    def density(self, step: int, rows: list[dict[str, Any]]) -> None:
        self.rows = [row for row in rows if not row["block"]]

    def evaluating(self, what: str, done: int, total: int) -> None:
        task, words = self.progress.tasks[1], f"ranking {what}"
        if words != task.description or done < task.completed:
            self.progress.reset(self.ranking, total=total, description=words)
        self.progress.update(self.ranking, completed=done, visible=done < total)

    def evaluated(self, split: str, step: int, values: dict[str, float]) -> None:
        at_20 = f"HR@20 {values['hr@20']:5.2f}  MRR@20 {values['mrr@20']:5.2f}"
        self.accuracy[split] = f"{split:5} {at_20}  (step {step:,})"

    def note(self, text: str) -> None:
        self.console.print(Text(text, style="yellow"))

    def end(self) -> None:
        self.live.stop()
        if self.stays:
            self.console.print()

    def render(self) -> Group:
        table = [density_table(self.rows, self.threshold)] if self.rows else []
        facts = (Text(text) for text in (self.facts, *self.accuracy.values()))
        return Group(Text(self.title, style="bold"), self.progress, *facts, *table)


def density_table(rows: list[dict[str, Any]], threshold: float) -> Table:
    """Matrices with their density at `threshold` as bars."""
    title = f"density, log α < {threshold:g}"
    table = Table(title=title, title_style="bold", title_justify="left", box=None, padding=(0, 1, 0, 0))
    for name in ("matrix", "role", "shape", "kept", ""):
        table.add_column(name, justify="right" if name == "kept" else "left", overflow="fold")
    for row in rows:
        share = row["kept"][key(threshold)] / row["numel"]
        style, shape = "dim" if row["role"] == "control" else "", "×".join(map(str, row["shape"]))
        bar = Bar(1, 0, share, width=24, color="cyan")
        table.add_row(row["matrix"], row["role"], shape, f"{share:.3f}", bar, style=style)
    return table


def observer(title: str, threshold: float = Config.threshold, quiet: bool = False, stays: bool = True) -> Observer:
    """The live view on a terminal, which stays there at the end, plain lines elsewhere, nothing if `quiet`."""
    screen = console(quiet)
    if screen.quiet:
        return Observer()
    return LiveObserver(screen, title, threshold, stays) if screen.is_terminal else PlainObserver(screen, title)


@contextmanager
def telling(title: str = "", quiet: bool = False) -> Iterator[Callable[[str, int, int], None]]:
    """A function that is told what is being done, how much of it is done, and of how much (0: not known).

    On a terminal a bar with the time left, of the piece of work at hand; elsewhere a line every QUIET seconds.
    """
    screen = console(quiet)
    began, said, pace = time.monotonic(), time.monotonic(), Pace(1)
    columns = (TextColumn("{task.description}", markup=False), BarColumn(24), TimeRemainingColumn())
    with bars(*columns, transient=True) as shown:
        bar = shown.add_task("", total=None, visible=False)

        def tell(what: str, done: int, total: int) -> None:
            nonlocal said, pace
            words, now = f"{title}: {what}" if title else what, time.monotonic()
            if shown.tasks[0].total != (total or None) or done < shown.tasks[0].completed:  # another piece of work
                shown.reset(bar, total=total or None)
                pace = Pace(max(1, total), done)
            left, is_shown = pace.left(done), not quiet and now - began > PATIENCE
            shown.update(bar, description=words, completed=done, visible=is_shown)
            if not screen.is_terminal and now - said > QUIET:
                said = now
                counts = f" {done:,}/{total:,}" + (f", {left}" if left else "") if total else ""
                say_on(screen)(words + counts)

        yield tell
