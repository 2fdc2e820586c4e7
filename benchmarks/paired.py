"""Steps of another checkout against steps of this one: two processes, one for each, that take turns.

    python benchmarks/paired.py ../old --model attenmixer --dataset diginetica --dim 256

Both train on the same batches, on the CPU with one thread. A busy machine slows both, so what counts is the median of
the ratios of neighbouring turns; the first round warms up. The losses agree if both draw the same random numbers.
OLD_TREE may be as old as commit 38f9eb4.
"""

from __future__ import annotations

import json
import math
import os
import statistics
import subprocess
import sys
import time
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import click
import torch

HERE = Path(__file__).resolve().parents[1]


class Task(NamedTuple):
    """What both processes train."""

    model: str
    dataset: str
    data_dir: str | None
    options: dict[str, Any]
    where: str
    batch_size: int
    shadows: bool
    kernel: str | None


def work(task: Task) -> None:
    """Make as many steps as each line of the input says, and print their seconds and the last loss."""
    from dissect.data import catalog
    from dissect.training import loop
    from dissect.training.device import prepare_device
    from dissect.training.scoring import score_buffer
    from dissect.training.setup import assemble
    from models import MODELS

    prepare_device("cpu")
    torch.set_num_threads(1)
    data = catalog.load(task.dataset, task.data_dir)
    build = lambda: MODELS[task.model](n_items=data.n_items, **task.options)  # noqa: E731
    settings: Any = {"where": task.where, "batch_size": task.batch_size, "max_steps": 100_000}
    settings |= {"shadows": True} if task.shadows else {}
    try:
        from dissect.runs.config import Config
        from dissect.training.evaluation import prefixes_of
    except ImportError:  # before batches were written in rows
        Config = import_module("dissect.training.config").Config
        prefixes_of, is_old = import_module("dissect.data.sessions").PrefixTensors, True
    else:
        is_old = False
        calibrated = getattr(import_module("dissect.runs.config"), "CALIBRATED", {})
        if task.shadows and "shadow_items" in calibrated:
            settings["shadow_items"] = calibrated["shadow_items"]
    prefixes: Any = prefixes_of(data.train)
    config = Config(task.model, data.name, data.split_hash, task.options, **settings)
    training = assemble(build, config, prefixes, 1, "full")
    if task.kernel:
        training.kernel = task.kernel
    if is_old:
        order: Any = loop.ExampleOrder(prefixes.length, config, 1, False)
        steps_per_epoch = math.ceil(len(prefixes) / task.batch_size)
        batch = lambda step: order.batch(step, steps_per_epoch)[0]  # noqa: E731
    else:
        batch = loop.ExampleOrder(prefixes, config, 1, training.model.every_position).batch
    buffer, step = score_buffer(task.batch_size, data.n_items, "cpu"), 0
    print("ready", flush=True)
    for line in sys.stdin:
        began = time.perf_counter()
        for _ in range(int(line)):
            loss = loop.train_step(training, prefixes.batch(batch(step)), 1 / len(prefixes), buffer)[0]
            step += 1
        print(time.perf_counter() - began, loss, flush=True)


def begun(tree: Path, task: Task) -> subprocess.Popen[str]:
    """A process that works with the package in `tree`."""
    environment = {**os.environ, "PYTHONPATH": str(tree), "OMP_NUM_THREADS": "1"}
    words = [sys.executable, __file__, str(tree), "--worker", json.dumps(task)]
    pipes: Any = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    return subprocess.Popen(words, cwd=tree, env=environment, text=True, **pipes)


def told(process: subprocess.Popen[str], line: str = "") -> str:
    """What a process answers to a line; ends the program if it has failed."""
    if line:
        print(line, file=process.stdin, flush=True)
    answer = process.stdout.readline() if process.stdout else ""
    return answer or sys.exit("One of the processes failed.")


@click.command()
@click.argument("old_tree", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--model", default="srgnn", show_default=True)
@click.option("--dataset", default="diginetica", show_default=True)
@click.option("--data-dir", type=click.Path(path_type=Path))
@click.option("--dim", default=256, show_default=True)
@click.option("--preset", help="Arguments of the model by name, e.g. normalised for srgnn.")
@click.option("--where", default="none", show_default=True, help="none is a dense model, both has SparseVD.")
@click.option("--shadows", is_flag=True, help="With shadows beside it.")
@click.option("--kernel", help="Of the catalogue products, such as bf16-operands (dissect/training/products.py).")
@click.option("--batch-size", default=100, show_default=True)
@click.option("--steps", default=20, show_default=True, help="Steps in a turn.")
@click.option("--rounds", default=12, show_default=True)
@click.option("--worker", hidden=True)
def main(
    old_tree: Path,
    model: str,
    dataset: str,
    data_dir: Path | None,
    dim: int,
    preset: str | None,
    where: str,
    shadows: bool,
    kernel: str | None,
    batch_size: int,
    steps: int,
    rounds: int,
    worker: str | None,
) -> None:
    """Print the milliseconds of a step in OLD_TREE and in this checkout, and the median of their ratios."""
    if worker:
        work(Task(*json.loads(worker)))
        return
    if not (old_tree / "dissect").is_dir():
        raise click.UsageError(f"{old_tree} is not a checkout of dissect: it has no folder dissect.")
    sys.path.insert(0, str(HERE))
    from models import MODELS

    options = {**(MODELS[model].presets[preset] if preset else {}), "dim": dim}
    folder = str(data_dir.resolve()) if data_dir else None
    task = Task(model, dataset, folder, options, where, batch_size, shadows, kernel)
    processes = [begun(tree, task) for tree in (old_tree.resolve(), HERE)]
    for process in processes:
        told(process)
    milliseconds: list[tuple[float, float]] = []
    loss = ["", ""]
    for number in range(rounds + 1):
        turn = [0.0, 0.0]
        for which in (0, 1) if number % 2 else (1, 0):
            seconds, loss[which] = told(processes[which], str(steps)).split()
            turn[which] = 1e3 * float(seconds) / steps
        if number:
            milliseconds.append((turn[0], turn[1]))
    for process in processes:
        process.communicate()  # ends its input
    before, now = (statistics.median(values) for values in zip(*milliseconds))
    ratio = statistics.median(new / old for old, new in milliseconds)
    print(f"{model} on {dataset}, {options}, B = {batch_size}, where = {where}{', with shadows' * shadows}")
    print(f"old {before:.2f} ms, new {now:.2f} ms; new / old {ratio:.3f} (medians of {rounds} rounds of {steps} steps)")
    print(f"loss of the last step: old {float(loss[0]):.5f}, new {float(loss[1]):.5f}")


if __name__ == "__main__":
    main()
