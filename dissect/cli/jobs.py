"""Several seeds at the same time, each in a process of its own."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import Any

import torch
from rich.console import Console

from dissect.errors import DissectError
from dissect.training.resume import Interrupted

Failure = tuple[int, str, str]  # exit code, message, hint: an exception does not travel between processes whole
AGAIN = "The same command again goes on from the checkpoints."


def at_once(train: Callable[..., Any], seeds: Sequence[int], jobs: int, **arguments: Any) -> None:
    """Call `train(seeds=[seed], console=..., **arguments)` for each seed, `jobs` at a time.

    The cores, or the CUDA devices, are shared out. Progress comes as lines. SIGINT and SIGTERM reach all of them.
    Raises DissectError, with the exit code of the first seed that failed, once all have ended; 130 after a signal.
    """
    context = multiprocessing.get_context("spawn")
    turns = context.Value("i", 0)
    threads = max(1, (os.cpu_count() or 1) // jobs)
    left, running, failures = list(seeds), set[Future[Failure | None]](), list[Failure]()
    with (
        ProcessPoolExecutor(jobs, context, _settle, (turns, threads, torch.cuda.device_count())) as pool,
        _handing_on_signals(pool) as stopped,
    ):
        try:
            while running or (left and not stopped()):
                while left and len(running) < jobs and not stopped():
                    running.add(pool.submit(_train_one, train, left.pop(0), arguments))
                done, running = wait(running, return_when=FIRST_COMPLETED)
                failures += [failure for future in done if (failure := future.result())]
        except BrokenProcessPool:  # a signal before it could be handled, or the system took the process away
            if not stopped():
                failures.append((1, "A training process was ended from outside, perhaps for want of memory.", AGAIN))
        if stopped() and not failures:
            failures.append((Interrupted.exit_code, "Stopped.", AGAIN))
    if failures:
        error = DissectError(
            "\n".join(message for _, message, _ in failures), "\n".join(dict.fromkeys(hint for _, _, hint in failures))
        )
        error.exit_code = failures[0][0]
        raise error


def _settle(turns: Any, threads: int, devices: int) -> None:
    """At the start of a process: its share of the machine, and no Ctrl-C but by way of the parent."""
    os.setpgrp()
    torch.set_num_threads(threads)
    if devices > 1:
        with turns.get_lock():
            os.environ["CUDA_VISIBLE_DEVICES"] = device_of(turns.value, devices, os.environ.get("CUDA_VISIBLE_DEVICES"))
            turns.value += 1


def device_of(turn: int, devices: int, visible: str | None) -> str:
    """The name of the CUDA device for a process's turn, among those `visible` to the parent."""
    names = visible.split(",") if visible else [str(n) for n in range(devices)]
    return names[turn % devices].strip()


def _train_one(train: Callable[..., Any], seed: int, arguments: dict[str, Any]) -> Failure | None:
    try:
        train(seeds=[seed], console=Console(file=sys.stderr, force_terminal=False), **arguments)
    except DissectError as error:
        return error.exit_code, f"Seed {seed}: {error.message}", error.hint
    return None


@contextmanager
def _handing_on_signals(pool: ProcessPoolExecutor) -> Iterator[Callable[[], bool]]:
    """Within it, SIGINT and SIGTERM make the processes write their checkpoints and end; yields whether one came."""
    seen: list[int] = []

    def hand_on(number: int, frame: Any) -> None:
        seen.append(number)
        for process in list(pool._processes.values()):  # there is no public way to them
            if process.pid is not None and process.is_alive():
                os.kill(process.pid, signal.SIGTERM)

    before = {number: signal.signal(number, hand_on) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: bool(seen)
    finally:
        for number, old in before.items():
            signal.signal(number, old)
