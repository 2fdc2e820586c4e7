"""What a run looks like while it goes on: a live view on a terminal, plain lines elsewhere. All of it to stderr."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from dissect.sparsevd.density import key
from dissect.training.record import Observer

BAR_WIDTH = 24
BLOCKS = " ▏▎▍▌▋▊▉█"
QUIET = 10.0  # seconds after which a file is told how far an evaluation is


def bar(share: float, width: int = BAR_WIDTH) -> str:
    """A bar of `share` (0..1) of `width` characters, in eighths of a character."""
    eighths = round(max(0.0, min(1.0, share)) * width * 8)
    full, rest = divmod(eighths, 8)
    return ("█" * full + (BLOCKS[rest] if rest else "")).ljust(width)


def duration(seconds: float) -> str:
    """1 h 02 min, 3 min 20 s, or 12 s."""
    whole = round(seconds)
    hours, minutes, rest = whole // 3600, whole // 60 % 60, whole % 60
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


class _Clock:
    """Steps done, and the time that is left by the pace of this process, or that it took."""

    def __init__(self) -> None:
        self.began, self.first, self.now, self.steps, self.per_epoch = time.monotonic(), 0, 0, 1, 1

    def begin(self, step: int, steps: int, per_epoch: int) -> None:
        self.began, self.first, self.now, self.steps, self.per_epoch = (
            time.monotonic(),
            step,
            step,
            steps,
            per_epoch,
        )

    def left(self) -> str:
        done = self.now - self.first
        if done < 1:
            return "…"
        if self.now >= self.steps:
            return f"took {duration(time.monotonic() - self.began)}"
        return f"{duration((time.monotonic() - self.began) / done * (self.steps - self.now))} left"


class _Evaluation:
    """How far the evaluation at hand is."""

    def __init__(self) -> None:
        self.split, self.clock = "", _Clock()

    def in_words(self, split: str, done: int, total: int) -> str:
        """What is evaluated, how many prefixes are ranked, and the time left."""
        if split != self.split or done < self.clock.now:
            self.split = split
            self.clock.begin(0, total, 1)
        self.clock.now = done
        return f"ranking {split} {done:,}/{total:,}, {self.clock.left()}"


class PlainObserver(Observer):
    """A line for the beginning, each evaluation, each tenth of a run, and each QUIET seconds of an evaluation: for
    files and pipes.
    """

    def __init__(self, console: Console, title: str) -> None:
        self.console, self.title, self.clock, self.tenth = console, title, _Clock(), -1
        self.evaluation, self.said = _Evaluation(), time.monotonic()

    def evaluating(self, split: str, done: int, total: int) -> None:
        text = self.evaluation.in_words(split, done, total)
        if done < total and time.monotonic() - self.said > QUIET:
            self.say(text)

    def say(self, text: str) -> None:
        self.said = time.monotonic()
        self.console.print(f"{self.title}: {text}", markup=False, highlight=False, soft_wrap=True)

    def begin(self, run: Path, step: int, steps: int, steps_per_epoch: int) -> None:
        self.clock.begin(step, steps, steps_per_epoch)
        self.tenth = 10 * step // max(1, steps)
        going_on = f"going on at step {step} of" if step else "beginning"
        if steps:  # a model without gradients makes none
            self.say(f"{going_on} {steps} steps, {steps_per_epoch} an epoch, in {run}")

    def step(self, step: int, loss: float, kl_weight: float, lr: float) -> None:
        self.clock.now = step
        tenth = 10 * step // self.clock.steps
        if tenth > self.tenth:
            self.tenth = tenth
            self.say(
                f"step {step}/{self.clock.steps}, epoch {step / self.clock.per_epoch:.2f}, loss {loss:.4f}, "
                + (f"KL weight {kl_weight:.2f}, " if kl_weight else "")
                + self.clock.left()
            )

    def evaluated(self, split: str, step: int, values: dict[str, float]) -> None:
        self.say(f"step {step}, {split}: HR@20 {values['hr@20']:.2f}, MRR@20 {values['mrr@20']:.2f}")

    def note(self, text: str) -> None:
        self.say(text)


class LiveObserver(Observer):
    """Epoch, loss, KL weight, HR and MRR, density per matrix as bars, time left; redrawn in place."""

    def __init__(self, console: Console, title: str, threshold: float) -> None:
        self.console, self.title, self.threshold, self.clock = console, title, threshold, _Clock()
        self.loss = self.kl_weight = self.lr = float("nan")
        self.accuracy: dict[str, tuple[int, dict[str, float]]] = {}
        self.rows: list[dict[str, Any]] = []
        self.doing, self.evaluation = "", _Evaluation()
        self.live = Live(console=console, refresh_per_second=4, get_renderable=self.render, transient=False)

    def begin(self, run: Path, step: int, steps: int, steps_per_epoch: int) -> None:
        self.clock.begin(step, steps, steps_per_epoch)
        if step:
            self.console.print(f"Going on at step {step:,} of {steps:,}.", highlight=False)
        self.live.start()

    def step(self, step: int, loss: float, kl_weight: float, lr: float) -> None:
        self.clock.now, self.loss, self.kl_weight, self.lr, self.doing = step, loss, kl_weight, lr, ""

    def density(self, step: int, rows: list[dict[str, Any]]) -> None:
        self.rows = [row for row in rows if not row["block"]]

    def evaluating(self, split: str, done: int, total: int) -> None:
        text = self.evaluation.in_words(split, done, total)
        self.doing = text if done < total else ""

    def evaluated(self, split: str, step: int, values: dict[str, float]) -> None:
        self.accuracy[split] = (step, values)

    def note(self, text: str) -> None:
        self.console.print(Text(text, style="yellow"))

    def end(self) -> None:
        self.live.stop()
        self.console.print()

    def render(self) -> Group:
        clock = self.clock
        head = Table.grid(padding=(0, 2))
        where = (f"step {clock.now:,}/{clock.steps:,}", f"epoch {clock.now / clock.per_epoch:.2f}", clock.left())
        bar_of_steps = ProgressBar(total=clock.steps, completed=clock.now, width=16 if self.doing else 28)
        head.add_row(bar_of_steps, *((self.doing,) if self.doing else where))
        facts = Table.grid(padding=(0, 2))
        kl = [f"KL weight {self.kl_weight:.2f}"] if self.rows else []  # a dense run has none
        facts.add_row(f"loss {self.loss:.3f}", *kl, f"learning rate {self.lr:.1e}")
        parts: list[Any] = [Text(self.title, style="bold"), head, facts]
        for split, (step, values) in self.accuracy.items():
            parts.append(
                Text(f"{split:5} HR@20 {values['hr@20']:5.2f}  MRR@20 {values['mrr@20']:5.2f}  (step {step:,})")
            )
        if self.rows:
            parts.append(density_table(self.rows, self.threshold))
        return Group(*parts)


def density_table(rows: list[dict[str, Any]], threshold: float) -> Table:
    """Matrices with their density at `threshold` as bars."""
    table = Table(box=None, padding=(0, 1), title=f"density, log α < {threshold:g}", title_justify="left")
    for name in ("matrix", "role", "shape"):
        table.add_column(name)
    table.add_column("kept", justify="right")
    table.add_column("")
    for row in rows:
        share = row["kept"][key(threshold)] / row["numel"]
        shape = "×".join(map(str, row["shape"]))
        style = "dim" if row["role"] == "control" else ""
        table.add_row(row["matrix"], row["role"], shape, f"{share:.3f}", f"[cyan]{bar(share)}[/]", style=style)
    return table


def make_observer(console: Console, title: str, threshold: float, quiet: bool) -> Observer:
    """The live view on a terminal, plain lines elsewhere, nothing where `quiet`."""
    if quiet:
        return Observer()
    return LiveObserver(console, title, threshold) if console.is_terminal else PlainObserver(console, title)
