"""Several seeds at the same time: what happens when a process does not end as it should."""

import os
import signal
import threading
import time

import pytest

from dissect.cli.jobs import at_once, device_of
from dissect.errors import DissectError


def is_taken_away(seeds, console):
    os._exit(9)


def takes_long(seeds, console):
    time.sleep(60)


def test_a_process_that_was_taken_away_is_an_error():
    with pytest.raises(DissectError, match="from outside") as error:
        at_once(is_taken_away, [1, 2], 2)
    assert error.value.exit_code == 1


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
