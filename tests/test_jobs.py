"""Several seeds at the same time: what happens when a process does not end as it should."""

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

import pytest

from dissect.errors import DissectError
from dissect.experiment import jobs
from dissect.experiment.jobs import at_once, device_of


def is_taken_away(seed):
    os._exit(9)


def takes_long(seed):
    time.sleep(60)


def test_a_process_that_was_taken_away_is_an_error():
    with pytest.raises(DissectError, match="from outside") as error:
        at_once(is_taken_away, [1], 1)
    assert error.value.exit_code == 1


def says_much(seed):
    raise DissectError("much " * 100_000)


def test_an_error_that_is_larger_than_a_pipe_is_heard():
    with pytest.raises(DissectError, match="Seed 1: much") as error:
        at_once(says_much, [1, 2], 2)
    assert len(error.value.message) <= 2 * jobs.LONGEST + 1


@pytest.mark.parametrize("reported", [b"", b"\0\0\1", b"\0\0\1\0half"])
def test_a_process_that_ends_in_the_middle_of_its_report_is_an_error(reported):
    result, given = multiprocessing.Pipe(duplex=False)
    process = multiprocessing.get_context("spawn").Process(target=is_taken_away, args=(1,))
    process.start()
    os.write(given.fileno(), reported)
    given.close()
    ((code, says, _),) = jobs._failure(process, result, False)
    assert code == 1 and "exit code 9" in says


def test_a_signal_before_the_training_begins_ends_with_130():
    """Processes that are still starting have nothing that would write a checkpoint, and simply end."""
    threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGTERM)).start()
    began = time.monotonic()
    with pytest.raises(DissectError) as error:
        at_once(takes_long, [1, 2, 3], 2)
    assert error.value.exit_code == 130 and time.monotonic() - began < 50


@pytest.mark.parametrize(("visible", "names"), [(None, "01010"), ("4,5", "45454"), ("GPU-a, GPU-b", None)])
def test_devices_are_those_that_the_parent_may_use(visible, names):
    found = [device_of(turn, 2, visible) for turn in range(5)]
    assert found == (list(names) if names else ["GPU-a", "GPU-b", "GPU-a", "GPU-b", "GPU-a"])
    assert device_of(1, 1, visible) is None


PARENT = """
import os, sys, time
from pathlib import Path

from dissect.experiment.jobs import at_once
from dissect.training.resume import stop_on_signal


def train(seed, folder):
    with stop_on_signal() as stopped:
        (folder / f"{seed}.tmp").write_text(str(os.getpid()))
        (folder / f"{seed}.tmp").rename(folder / f"{seed}.begun")
        while not stopped():
            time.sleep(0.05)
    (folder / f"{seed}.ended").touch()


if __name__ == "__main__":
    at_once(train, [1], 1, folder=Path(sys.argv[1]))
"""


def test_a_process_writes_its_checkpoint_and_ends_when_its_parent_is_killed(tmp_path):
    (tmp_path / "parent.py").write_text(PARENT)
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parent.parent)}
    parent = subprocess.Popen([sys.executable, tmp_path / "parent.py", tmp_path], env=environment)
    wait_for((tmp_path / "1.begun").exists)
    child = int((tmp_path / "1.begun").read_text())
    parent.kill()
    parent.wait()
    try:
        wait_for((tmp_path / "1.ended").exists)
        wait_for(lambda: not Path(f"/proc/{child}/cmdline").exists())
    finally:
        with suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)


def wait_for(condition, seconds=60):
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.05)


BOTH = """
import sys, time

import numpy as np

from dissect.experiment.jobs import at_once


def train(seed, data):
    print(seed, len(data), flush=True)
    time.sleep(60)


if __name__ == "__main__":
    print("begun", flush=True)
    try:
        at_once(train, [1, 2, 3], 2, data=np.zeros(2_000_000))
    except BaseException as error:
        sys.exit(getattr(error, "exit_code", 1))
"""


@pytest.mark.parametrize(
    "delay", [0.5, *(pytest.param(delay, marks=pytest.mark.slow) for delay in (0.2, 1.0, 2.0, 3.0, 4.0, 6.0, 9.0))]
)
def test_ctrl_c_ends_processes_that_are_still_starting(tmp_path, delay):
    """A terminal's Ctrl-C is for the whole group; the data are larger than a pipe holds. No traceback is shown."""
    (tmp_path / "both.py").write_text(BOTH)
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parent.parent)}
    how = {"env": environment, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, tmp_path / "both.py"], process_group=0, **how) as parent:
        try:
            assert parent.stdout.readline() == "begun\n"
            time.sleep(delay)
            os.killpg(parent.pid, signal.SIGINT)
            _, stderr = parent.communicate(timeout=30)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(parent.pid, signal.SIGKILL)
    assert (parent.returncode, stderr) == (130, "")


def dies_while_starting():
    os.kill(os.getpid(), signal.SIGKILL)


class Deadly:
    """What kills the process that reads it."""

    def __reduce__(self):
        return dies_while_starting, ()


def test_a_process_that_dies_before_it_has_its_work_is_an_error():
    with pytest.raises(DissectError, match="from outside"):
        at_once(takes_long, [1], 1, deadly=Deadly(), data=bytes(1_000_000))


def test_seeds_share_the_cores_that_this_process_may_use(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3, 5}, raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    assert jobs._cores() == 2


def test_beside_the_main_thread_signals_are_left_alone():
    found = []

    def work():
        with jobs._noting_signals() as seen:
            found.append(seen)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [[]]
