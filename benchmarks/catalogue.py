"""Time and memory of a training step against the size of the catalogue: whole, and with a sampled softmax.

    python benchmarks/catalogue.py --items 10000 --items 100000 --items 1000000

Each line is a separate process on random sessions, so that it has its own peak memory. The floor of memory is the
item table, its gradient and Adam's two moments: 16 bytes a number.
"""

from __future__ import annotations

import json
import resource
import statistics
import subprocess
import sys
import time

import click
import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from dissect.data.sessions import Sessions
from dissect.runs.config import Config
from dissect.training.device import prepare_device
from dissect.training.evaluation import prefixes_of
from dissect.training.loop import train_step
from dissect.training.scoring import score_buffer
from dissect.training.setup import assemble
from models import MODELS

LENGTH = 5  # clicks a session


def measure(model: str, items: int, dim: int, batch_size: int, negatives: int, rounds: int) -> dict[str, float]:
    """Median milliseconds of a step, and the peak memory of this process in GB."""
    device = prepare_device()
    clicks = np.random.default_rng(0).integers(1, items + 1, 2_000 * LENGTH, dtype=np.int32)
    sessions = Sessions(clicks, np.arange(0, len(clicks) + 1, LENGTH))
    prefixes = prefixes_of(sessions, device)
    config = Config(model, "random", "", {"dim": dim}, where="none", batch_size=batch_size, negatives=negatives)
    training = assemble(lambda: MODELS[model](n_items=items, dim=dim), config, prefixes, 1, "full")
    buffer = score_buffer(batch_size, items, device) if not negatives else torch.empty(0)
    times = []
    for number in range(rounds + 1):
        index = torch.randint(0, len(prefixes), (batch_size,))
        began = time.perf_counter()
        train_step(training, prefixes.batch(prefixes.by_length(index)), 0.0, buffer)  # ends with the loss on the host
        if number:
            times.append(1e3 * (time.perf_counter() - began))
    if device.type == "cuda":
        memory = torch.cuda.max_memory_allocated()
    else:
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {"ms": statistics.median(times), "gb": memory / 1e9}


@click.command()
@click.option("--model", default="srgnn", show_default=True)
@click.option("--items", type=int, multiple=True, default=(10_000, 100_000, 1_000_000), show_default=True)
@click.option("--dim", default=100, show_default=True)
@click.option("--batch-size", default=100, show_default=True)
@click.option("--negatives", type=int, multiple=True, default=(0, 5_000), show_default=True)
@click.option("--rounds", default=5, show_default=True)
@click.option("--one", is_flag=True, hidden=True)
def main(
    model: str, items: tuple[int, ...], dim: int, batch_size: int, negatives: tuple[int, ...], rounds: int, one: bool
) -> None:
    """Print step time and peak memory for each size of the catalogue."""
    if one:
        print(json.dumps(measure(model, items[0], dim, batch_size, negatives[0], rounds)))
        return
    table = Table(title=f"{model}, D = {dim}, B = {batch_size}, {torch.get_num_threads()} threads")
    for column in ("V", "softmax over", "step ms", "peak GB", "floor GB"):
        table.add_column(column, justify="right")
    for n in items:
        for drawn in negatives:
            words = ["--items", n, "--negatives", drawn, "--model", model, "--dim", dim, "--batch-size", batch_size]
            command = [sys.executable, __file__, "--one", "--rounds", str(rounds), *map(str, words)]
            answer = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
            floor = 16 * n * dim / 1e9
            what = f"{drawn:,} drawn" if drawn else "all"
            table.add_row(f"{n:,}", what, f"{answer['ms']:.0f}", f"{answer['gb']:.2f}", f"{floor:.2f}")
    Console(width=None if sys.stdout.isatty() else 160).print(table)


if __name__ == "__main__":
    main()
