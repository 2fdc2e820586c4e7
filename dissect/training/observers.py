"""A user's observers of a run: told what happens, and kept from changing it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from dissect.errors import UsageError
from dissect.training.record import Observer

GOES_ON = "What the run has recorded is kept, and the same call goes on from its last checkpoint."


class Watched(Observer):
    """Several observers as one. Whatever they do, the training comes out the same, bit for bit, or stops.

    - Random numbers that an observer draws are not missing in the training.
    - Each gets dictionaries of its own, so that it may change them.
    - An exception stops the run with its traceback, and a note that names the observer.
    - `end` is called only after `begin`. If one of them raises in it, the others are called all the same.
    """

    def __init__(self, *observers: Observer) -> None:
        super().__init__()
        self.observers, self.begun = observers, list[Observer]()

    def begin(self, run: Path, step: int, steps: int, steps_per_epoch: int) -> None:
        for each in self.observers:
            self.begun.append(each)
            _tell(each, "begin", run, step, steps, steps_per_epoch)

    def step(self, step: int, loss: float, kl_weight: float, lr: float) -> None:
        for each in self.observers:
            _tell(each, "step", step, loss, kl_weight, lr)

    def density(self, step: int, rows: list[dict[str, Any]]) -> None:
        for each in self.observers:
            _tell(each, "density", step, [dict(row) for row in rows])

    def evaluating(self, what: str, done: int, total: int) -> None:
        for each in self.observers:
            _tell(each, "evaluating", what, done, total)

    def evaluated(self, split: str, step: int, values: dict[str, float]) -> None:
        for each in self.observers:
            _tell(each, "evaluated", split, step, dict(values))

    def note(self, text: str) -> None:
        for each in self.observers:
            _tell(each, "note", text)

    def end(self) -> None:
        try:
            while self.begun:
                _tell(self.begun.pop(0), "end")
        finally:
            if self.begun:
                self.end()


def _tell(observer: Observer, event: str, *what: Any) -> None:
    """Call a method of an observer. Random numbers are afterwards as they were; an exception gets a note."""
    devices = [torch.cuda.current_device()] if torch.cuda.is_initialized() else []
    try:
        with torch.random.fork_rng(devices=devices):
            getattr(observer, event)(*what)
    except Exception as error:
        error.add_note(f"Raised by the observer {type(observer).__name__}, in {event}(). {GOES_ON}")
        raise


def is_of_observer(error: BaseException) -> bool:
    """Whether an exception was raised by an observer that is `Watched`."""
    return any(GOES_ON in note for note in getattr(error, "__notes__", ()))


def require_observer(made: Any) -> Observer:
    """What a user's `observe` has made. Raises UsageError if it is no observer."""
    if isinstance(made, Observer):
        return made
    raise UsageError(
        f"observe made {type(made).__name__}, which is no observer.",
        "Derive a class from dissect.Observer, and give the class: observe=Mine",
    )
