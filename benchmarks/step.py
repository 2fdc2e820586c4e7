"""Time of one training step against its floor, measured in turn in the same process.

    python benchmarks/step.py --dataset diginetica --dim 256 --batch-size 100
    python benchmarks/step.py --dataset diginetica --dim 256 --shares      what loading, forward, scoring, ... take
    python benchmarks/step.py --dataset diginetica --products bf16         of the step; the floor's stay in float32

The floor is the work that every step over the whole catalogue needs: the three catalogue products (scores and the two
gradients), one logsumexp and one softmax pass over B x V, one fused Adam update of the item table, and the matrix
products of the model itself, forward and backward, without SparseVD. All of them are in float32.
Steps and floors alternate, so that a busy machine slows both: compare the ratios of the medians.
"""

from __future__ import annotations

import itertools
import statistics
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from typing import Any
from unittest import mock

import click
import torch
from rich.console import Console
from rich.table import Table
from torch.utils._python_dispatch import TorchDispatchMode

from dissect.data import catalog
from dissect.data.sessions import Dataset
from dissect.runs.config import CALIBRATED, PRODUCTS, Config
from dissect.training import loop
from dissect.training.device import prepare_device
from dissect.training.evaluation import prefixes_of
from dissect.training.loop import ExampleOrder, train_step
from dissect.training.record import density_rows
from dissect.training.scoring import score_buffer
from dissect.training.setup import Training, assemble, choose_kernel
from models import MODELS, Batch
from models.base import encoded

LEARNING = tuple(name for name, cls in MODELS.items() if cls.learns)
WEIGHTS: dict[str, dict[str, Any]] = {  # settings of each kind of training
    "dense": {"where": "none"},
    "SparseVD": {},  # without controls, as a model that lacks a part is trained
    "with controls": {"shadow_items": CALIBRATED["shadow_items"]},
    "with shadows": {name: CALIBRATED[name] for name in ("shadows", "shadow_items")},
}
PARTS = ("loading", "forward", "KL", "scoring", "backward", "update")  # of a step
COLUMNS = ("model", "weights", "D", "B", "step ms", "dense ms", "floor ms", "own ms", "step / dense", "step / floor")
COLUMNS += ("step / SparseVD", "density ms", "products")


def floor_step(
    vectors: torch.Tensor, table: torch.nn.Parameter, candidates: torch.Tensor, buffer: torch.Tensor
) -> Callable[[], None]:
    """The floor as a function without arguments; vectors [B, D], table [V, ...], candidates [V, D], buffer [B, V]."""
    table.grad = torch.zeros_like(table)
    adam = torch.optim.Adam([table], lr=1e-3, fused=True)
    weights, grad = candidates.contiguous(), torch.zeros_like(candidates)

    def run() -> None:
        torch.mm(vectors, weights.t(), out=buffer)
        torch.logsumexp(buffer, 1)
        torch.softmax(buffer, 1, out=buffer)
        torch.mm(buffer, weights)
        torch.mm(buffer.t(), vectors, out=grad)
        adam.step()

    return run


class Products(TorchDispatchMode):
    """Context manager: collects the matrix products that run in it, as functions that repeat them on random numbers."""

    KINDS = ("mm", "addmm", "bmm", "baddbmm")

    def __init__(self) -> None:
        super().__init__()
        self.found: list[Callable[[], Any]] = []

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function.overloadpacket.__name__ in self.KINDS:
            a, b = (torch.randn_like(x) for x in args[-2:])
            self.found.append(partial(torch.bmm if a.dim() == 3 else torch.mm, a, b))
        return function(*args, **(kwargs or {}))


def own_products(training: Training, batch: Batch) -> Callable[[], None]:
    """The products of a model's encoder for a batch, forward and backward, as a function without arguments."""
    S = training.model.item_states().detach().requires_grad_()
    with Products() as products:
        encoded(training.model, S, batch)[0].sum().backward()
    training.optimiser.zero_grad(set_to_none=True)

    def run() -> None:
        for product in products.found:
            product()

    return run


def timed(run: Callable[[], Any], device: torch.device) -> float:
    """Milliseconds of one call."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    began = time.perf_counter()
    run()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return 1e3 * (time.perf_counter() - began)


def measure(
    model: str,
    data: Dataset,
    options: dict[str, Any],
    batch_size: int,
    weights: str,
    products: str,
    device: torch.device,
    rounds: int,
) -> dict[str, Any]:
    """Medians in milliseconds over `rounds`: step, dense step, floor (its part that is the model's own), one density
    measurement; step / dense, step / floor, with a second pass step / step without it; and the kernel."""
    prefixes = prefixes_of(data.train, device)
    settings: dict[str, Any] = {"batch_size": batch_size, "products": products, "max_steps": 10_000}
    settings |= WEIGHTS[weights]
    config = Config(model, data.name, data.split_hash, options, **settings)
    build = lambda: MODELS[model](n_items=data.n_items, **options)  # noqa: E731
    training = assemble(build, config, prefixes, 1, "full")
    dense = assemble(build, replace(config, where="none", shadows=False), prefixes, 1, "full")
    order, steps = ExampleOrder(prefixes, config, 1, training.model.every_position), itertools.count()
    own = own_products(dense, prefixes.batch(order.batch(0)))
    choose_kernel(training, data.n_items, device)
    dense.kernel = training.kernel
    alone = assemble(build, config, prefixes, 1, "full")  # without the second pass
    alone.kernel, alone.controls, alone.estimates = training.kernel, None, False
    if weights == "SparseVD":
        training = alone
    dim = options["dim"]
    clicks = prefixes.length[order.examples].double().mean() if order.every_position else 1
    targets = round(float(clicks * batch_size))  # of a usual step
    buffer, plain = (
        score_buffer(order.most_targets, data.n_items, device),
        torch.empty(targets, data.n_items).to(device),
    )
    assert buffer.numel() >= plain.numel(), "the loss would make the scores twice"
    vectors = torch.randn(targets, dim, device=device) * 0.1
    S = training.model.item_states().detach()
    candidates = training.model.candidates(S)[0].detach()
    floor = floor_step(vectors, torch.nn.Parameter(S.clone()), candidates, plain)

    def load() -> Batch:
        return prefixes.batch(order.batch(next(steps)))

    def step(training: Training) -> None:
        train_step(training, load(), 1 / len(prefixes), buffer)

    pieces = (
        ("step", partial(step, training)),
        ("alone", partial(step, alone) if training.controls is not None else lambda: None),
        ("dense", partial(step, dense)),
        ("catalogue", floor),
        ("own", own),
        ("density", lambda: density_rows(training)),
    )
    times: dict[str, list[float]] = {name: [] for name, _ in pieces}
    for number in range(rounds + 3):
        for name, run in pieces:
            milliseconds = timed(run, device)
            if number >= 3:  # the first rounds warm up
                times[name].append(milliseconds)
    result = {name: statistics.median(values) for name, values in times.items()}
    floor_ms = result["catalogue"] + result["own"]
    return {
        **result,
        "floor": floor_ms,
        "kernel": training.kernel,
        "ratio": result["step"] / floor_ms,
        "by_dense": result["step"] / result["dense"],
        "by_alone": result["step"] / result["alone"] if training.controls is not None else None,
        **shares(training, load, buffer, rounds),
    }


def shares(training: Training, load: Callable[[], Batch], buffer: torch.Tensor, rounds: int) -> dict[str, float]:
    """Mean milliseconds of the parts of a step: the functions that the step calls, with a clock around each.

    "loading" draws the prefixes; the rows of a batch are made in "forward", when the model asks for them. "scoring"
    makes the scores, their softmax and its gradients; "backward" is everything from there to the parameters.
    """
    spent = dict.fromkeys(PARTS, 0.0)

    def clocked(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            began = time.perf_counter()
            result = function(*args, **kwargs)
            spent[name] += time.perf_counter() - began
            return result

        return call

    with ExitStack() as undo:
        for owner, attribute, name in (
            (loop, "encoded", "forward"),
            (loop, "next_item_loss", "scoring"),
            (loop, "surrogate_near", "scoring"),
            (loop, "penalty", "KL"),
            (torch.Tensor, "backward", "backward"),
            (loop, "backward_to_table", "backward"),
            (training.optimiser, "step", "update"),
        ):
            undo.enter_context(mock.patch.object(owner, attribute, clocked(name, getattr(owner, attribute))))
        for _ in range(rounds):
            train_step(training, clocked("loading", load)(), 1e-6, buffer)
    return {name: 1e3 * seconds / rounds for name, seconds in spent.items()}


@click.command()
@click.option("--dataset", default="diginetica", show_default=True)
@click.option("--data-dir")
@click.option("--model", "models", type=click.Choice(LEARNING), multiple=True, default=LEARNING, show_default=True)
@click.option("--dim", "dims", type=int, multiple=True, default=(100, 256), show_default=True)
@click.option("--batch-size", "batch_sizes", type=int, multiple=True, default=(100,), show_default=True)
@click.option("--weights", "kinds", type=click.Choice(WEIGHTS), multiple=True, default=WEIGHTS, show_default=True)
@click.option("--preset", help="Arguments of the model by name, e.g. normalised for srgnn.")
@click.option("--products", type=click.Choice(PRODUCTS), default="float32", show_default=True)
@click.option("--device", default="auto", show_default=True)
@click.option("--rounds", default=20, show_default=True)
@click.option("--shares", "with_shares", is_flag=True, help="Also the parts of a step, in milliseconds (CPU only).")
def main(
    dataset: str,
    data_dir: str | None,
    models: tuple[str, ...],
    dims: tuple[int, ...],
    batch_sizes: tuple[int, ...],
    kinds: tuple[str, ...],
    preset: str | None,
    products: str,
    device: str,
    rounds: int,
    with_shares: bool,
) -> None:
    """Print step time, floor and their ratio for each model: dense, with SparseVD, and with shadows beside it."""
    where_it_runs = prepare_device(device)
    lacking = [model for model in models if preset and preset not in MODELS[model].presets]
    if lacking:
        raise click.UsageError(f"{', '.join(lacking)} has no preset {preset!r}: choose by --model.")
    data = catalog.load(dataset, data_dir)
    machine = f"{torch.get_num_threads()} threads, {where_it_runs}, products in {products}"
    table = Table(title=f"{data.name}: V = {data.n_items:,}, {machine}")
    parts = PARTS if with_shares else ()
    for column in (*COLUMNS, *parts):
        table.add_column(column, justify="left" if column in ("model", "weights") else "right")
    for model in models:
        for dim in dims:
            for batch_size in batch_sizes:
                for weights in kinds:
                    options = {**(MODELS[model].presets[preset] if preset else {}), "dim": dim}
                    row = measure(model, data, options, batch_size, weights, products, where_it_runs, rounds)
                    table.add_row(
                        f"{model} {preset}" if preset else model,
                        weights,
                        str(dim),
                        str(batch_size),
                        f"{row['step']:.1f}",
                        f"{row['dense']:.1f}",
                        f"{row['floor']:.1f}",
                        f"{row['own']:.1f}",
                        f"{row['by_dense']:.2f}",
                        f"{row['ratio']:.2f}",
                        "" if row["by_alone"] is None else f"{row['by_alone']:.2f}",
                        f"{row['density']:.1f}",
                        row["kernel"],
                        *(f"{row[part]:.1f}" for part in parts),
                    )
    Console(width=None if sys.stdout.isatty() else 160).print(table)


if __name__ == "__main__":
    main()
