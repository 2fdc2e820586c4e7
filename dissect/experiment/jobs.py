"""Several seeds at the same time, each in a process of its own."""

from __future__ import annotations

import multiprocessing
import multiprocessing.resource_tracker
import os
import pickle
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnContext, SpawnProcess
from typing import Any

import torch

import dissect
from dissect.errors import DataError, DissectError, DivergedError, UsageError
from dissect.training.resume import Interrupted

Failure = tuple[int, str, str]  # exit code, message, hint: an exception does not travel between processes whole
LONGEST = 10_000  # letters of a message from another process
AGAIN = "The same command again continues from the checkpoints."


def at_once(train: Callable[..., Any], seeds: Sequence[Any], jobs: int, **arguments: Any) -> None:
    """Call `train(seed, **arguments)` for each seed, `jobs` at a time, each in its own process.

    A seed may come with what else tells its run, as the last of a tuple.

    The cores, or the CUDA devices, are shared out. SIGINT and SIGTERM reach all of them, and if this process is killed
    they write their checkpoints and end. Raises DissectError, with the exit code of the first seed that failed, once
    all have ended; 130 after a signal.
    """
    context = multiprocessing.get_context("spawn")
    threads, devices = max(1, _cores() // jobs), torch.cuda.device_count()
    left, failures = list(seeds), list[Failure]()
    work = pickle.dumps((train, arguments, dissect.command))
    running: dict[int, tuple[SpawnProcess, Connection]] = {}  # by their place among `jobs`
    with _noting_signals() as seen:
        while running or (left and not seen):
            while left and len(running) < jobs and not seen:
                turn = min(set(range(jobs)) - running.keys())
                share = (threads, device_of(turn, devices, os.environ.get("CUDA_VISIBLE_DEVICES")))
                running[turn] = _begin(context, work, left.pop(0), share)
            handed_on = len(seen)
            for process, _ in running.values() if seen else ():
                process.terminate()
            # A signal that comes during this wait is handed on within a second.
            ends = [end for process, result in running.values() for end in (process.sentinel, result)]
            while ends and len(seen) == handed_on and not wait(ends, 1.0):
                pass
            for turn, (process, result) in list(running.items()):
                if result.poll() or not process.is_alive():  # one that reports may wait until it is heard
                    failures += _failure(process, result, bool(seen))
                    del running[turn]
        if seen and not failures:
            failures.append((Interrupted.exit_code, "Stopped.", AGAIN))
    if failures:
        codes, messages, hints = zip(*failures)
        kinds = {kind.exit_code: kind for kind in (UsageError, DataError, DivergedError, Interrupted)}
        raise kinds.get(codes[0], DissectError)("\n".join(messages), "\n".join(dict.fromkeys(hints)))


def _begin(
    context: SpawnContext, work: bytes, seed: Any, share: tuple[int, str | None]
) -> tuple[SpawnProcess, Connection]:
    """Start a process, and a thread that hands it its work; returns the process, and where it reports a failure.

    The work has the data and is large. `process.start()` writes what it hands on into a pipe with both ends open, and
    would wait for ever for a process that dies before it has read all; here only the process has the end to read from.
    """
    (result, given), (taken, handed) = context.Pipe(duplex=False), context.Pipe(duplex=False)
    process = context.Process(target=_train_one, args=(given, taken, seed, share))
    multiprocessing.resource_tracker.ensure_running()  # its own start would end the blocking
    # The process inherits that SIGINT is blocked: Ctrl-C is not for it, also before it has left the group.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        process.start()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        given.close()
        taken.close()
    threading.Thread(target=_hand, args=(handed, work), daemon=True).start()
    return process, result


def _hand(handed: Connection, work: bytes) -> None:
    """Hand a process its work, unless it ends before."""
    with handed, suppress(OSError):
        handed.send_bytes(work)


def _failure(process: SpawnProcess, result: Connection, is_stopped: bool) -> list[Failure]:
    """The failure that a process reports at its end; empty if there is none."""
    try:
        failure: Failure | None = result.recv()
    except (EOFError, OSError):  # a signal before it could be handled, or the system took the process away
        process.join()
        how = f"A training process ended before its time (exit code {process.exitcode}): it was killed from outside"
        ended = (1, f"{how}, perhaps because memory ran out, unless an error is printed above.", AGAIN)
        failure = None if is_stopped else ended
    process.join()
    result.close()
    return [failure] if failure else []


def _train_one(given: Connection, taken: Connection, seed: Any, share: tuple[int, str | None]) -> None:
    """Train in a separate process with its share of the machine. Signals reach it only through the parent."""
    threads, device = share
    os.setpgrp()
    usual = signal.signal(signal.SIGINT, signal.SIG_IGN)  # drops one from before, which the parent hands on as SIGTERM
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    signal.signal(signal.SIGINT, usual)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(threads)
    if device is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = device
    failure: Failure | None = None
    try:
        train, arguments, dissect.command = pickle.loads(taken.recv_bytes())
        train(seed, **arguments)
    except DissectError as error:
        says = f"Seed {seed[-1] if isinstance(seed, tuple) else seed}: {error.message}"
        failure = error.exit_code, says[:LONGEST], error.hint[:LONGEST]
    given.send(failure)


def _end_with_parent() -> None:
    """End this process when its parent has ended for any reason: the run writes its checkpoint and stops."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os.kill(os.getpid(), signal.SIGTERM)


def device_of(turn: int, devices: int, visible: str | None) -> str | None:
    """The name of the CUDA device for a process's turn, among those `visible` to the parent; None if all share one."""
    if devices < 2:
        return None
    names = visible.split(",") if visible else [str(n) for n in range(devices)]
    return names[turn % devices].strip()


def _cores() -> int:
    """How many cores this process may use: a batch queue may give it a part of the machine."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def _noting_signals() -> Iterator[list[int]]:
    """Context manager: SIGINT and SIGTERM are only noted, in the list that it yields; only Python's main thread can."""
    seen: list[int] = []

    def note(number: int, frame: Any) -> None:
        seen.append(number)

    is_main = threading.current_thread() is threading.main_thread()
    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM) if is_main}
    try:
        yield seen
    finally:
        for number, old in before.items():
            signal.signal(number, old)
