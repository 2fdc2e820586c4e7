"""Where a run computes, and how that machine is set up for it."""

from __future__ import annotations

import ctypes
import platform
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

import dissect
from dissect.errors import UsageError, unknown
from dissect.runs.config import DEVICES

# glibc's mallopt parameters and the values that keep freed memory in the process: without them every buffer of
# a step (17 MB of scores, 44 MB of gradients) is given back and faulted in again page by page, which doubles
# the time of a step.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_KEEP_BELOW = 1 << 30


# Below this many multiplications in a product of scores, threads wait for each other longer than they work.
_WORTH_THREADS = 20_000_000


def prepare_device(choice: str = "auto", work: int | None = None) -> torch.device:
    """The device to train on: "auto" is CUDA where there is one.

    Raises UsageError if `choice` is none of DEVICES, or "cuda" without a CUDA device.

    On the CPU denormal numbers are flushed to zero (they cost a hundred times a normal one), freed buffers stay
    with the process, and a small problem (`work` = B x V x D multiplications) gets one thread.
    """
    if choice not in DEVICES:
        raise unknown("device", choice, DEVICES)
    if choice == "cuda" and not torch.cuda.is_available():
        raise UsageError("There is no CUDA device here.", "Use --device cpu, or --device auto.")
    if choice == "cuda" or (choice == "auto" and torch.cuda.is_available()):
        return torch.device("cuda", torch.cuda.current_device())
    torch.set_flush_denormal(True)
    if work is not None and work < _WORTH_THREADS:
        torch.set_num_threads(1)
    if sys.platform == "linux" and platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        libc.mallopt(_M_MMAP_THRESHOLD, _KEEP_BELOW)
        libc.mallopt(_M_TRIM_THRESHOLD, _KEEP_BELOW)
    return torch.device("cpu")


@contextmanager
def processor_as_it_was(device: str = "auto") -> Iterator[None]:
    """Threads and random numbers of the process are as before at the end of a training; denormals are on again."""
    threads = torch.get_num_threads()
    try:
        n_devices = 0 if device == "cpu" else torch.cuda.device_count()
        with torch.random.fork_rng(devices=range(n_devices)):
            yield
    finally:
        torch.set_num_threads(threads)
        torch.set_flush_denormal(False)


@cache
def multiplies_faster_by_item(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Whether this CPU makes scores faster item by item [V, B] than session by session [B, V].

    Measured: faster on an AMD EPYC (27 ms instead of 40 for B = 100, D = 256, V = 43,097). On an Intel Xeon the
    products take the same time, and maxima and sums are four times as fast by session (docs/performance.md).
    """
    return not (cpuinfo.exists() and "GenuineIntel" in cpuinfo.read_text())


@cache
def largest_cache(folder: Path = Path("/sys/devices/system/cpu/cpu0/cache")) -> int:
    """Bytes of the largest cache of the first core; 0 if the system does not tell."""
    unit = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
    sizes = [file.read_text().strip() for file in folder.glob("index*/size")]
    return max((int(s[:-1]) * unit[s[-1]] for s in sizes if s[:-1].isdigit() and s[-1] in unit), default=0)


def describe_environment(device: torch.device) -> dict[str, Any]:
    """The versions, processor, commit and command behind the numbers of a run."""
    processor = platform.processor()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [line.split(":", 1)[1].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line]
        processor = names[0] if names else processor
    return {
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": list(dissect.command),
        "dissect": dissect.__version__,
        "commit": _commit(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "system": f"{platform.system()} {platform.machine()}",
        "processor": processor,
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "cuda": torch.version.cuda,
    }


def _commit() -> str | None:
    """The commit of the checkout of this package, with `+` if files differ; None outside a checkout."""
    where = Path(dissect.__file__).resolve().parents[1]
    try:
        result = subprocess.run(
            ["git", "-C", str(where), "describe", "--always", "--dirty=+", "--abbrev=12", "--match="],
            capture_output=True,
            text=True,
            timeout=5,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return result.stdout.strip() or None
