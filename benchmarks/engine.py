"""The time around the training step (start-up, loading, evaluation), and memory.

python benchmarks/engine.py --dataset diginetica
"""

from __future__ import annotations

import resource
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import click
import torch
from rich.console import Console
from rich.table import Table

from dissect.data import catalog
from dissect.training.device import prepare_device
from dissect.training.evaluation import evaluate, prefixes_of
from models import MODELS


def best_of(run: Callable[[], Any], times: int) -> float:
    """Seconds of the fastest of several calls."""
    seconds = []
    for _ in range(times):
        began = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - began)
    return min(seconds)


@click.command()
@click.option("--dataset", default="diginetica", show_default=True)
@click.option("--data-dir")
@click.option("--dim", default=256, show_default=True)
@click.option("--device", default="auto", show_default=True)
def main(dataset: str, data_dir: str | None, dim: int, device: str) -> None:
    """Print the times and the peak memory."""
    where = prepare_device(device)
    table = Table(title=f"{dataset}, {torch.get_num_threads()} threads, {where}")
    table.add_column("what")
    table.add_column("value", justify="right")

    def start(*words: str) -> Callable[[], Any]:
        return lambda: subprocess.run([sys.executable, *words], check=True, capture_output=True)

    table.add_row("dissect --help", f"{best_of(start('-m', 'dissect', '--help'), 5):.2f} s")
    table.add_row("import of the training loop", f"{best_of(start('-c', 'import dissect.training.loop'), 3):.2f} s")
    table.add_row("data set opened", f"{best_of(lambda: catalog.load(dataset, data_dir), 3):.2f} s")
    data = catalog.load(dataset, data_dir)
    table.add_row("prefixes on the device", f"{best_of(lambda: prefixes_of(data.train, where), 3):.2f} s")
    test = prefixes_of(data.test, where)
    for name, cls in MODELS.items():
        if not cls.learns:
            continue
        model = cls(n_items=data.n_items, dim=dim).to(where)
        evaluate(model, test)
        seconds = best_of(lambda model=model: evaluate(model, test), 1)  # type: ignore[misc]
        rate = len(test) / seconds
        table.add_row(f"evaluation of {name}, D = {dim}, V = {data.n_items:,}", f"{rate:,.0f} prefixes a second")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    table.add_row("peak memory of this process", f"{peak:.2f} GB")
    Console(width=None if sys.stdout.isatty() else 160).print(table)


if __name__ == "__main__":
    main()
