"""The error of the gradient that shadows and controls learn from, for parts of the catalogue of several sizes.

    python benchmarks/nearby.py --dataset diginetica-eighth --dim 64

Trains SR-GNN with shadows for some steps. At the steps named the gradient by the session vectors is taken over all
items, and its estimate (dissect/training/nearby.py) from n drawn ones, DRAWS times. Printed, in percent of the length
of the exact gradient: how far it is from that of the model's own pass, the root mean square error, and the bias.
"""

from __future__ import annotations

from typing import Any
from unittest import mock

import click
import torch
from torch import Tensor

from dissect.data import catalog
from dissect.runs.config import CALIBRATED, Config, kl_weight_at
from dissect.training import loop, nearby
from dissect.training.evaluation import prefixes_of
from dissect.training.scoring import score_buffer
from dissect.training.setup import assemble, set_lr
from models import SRGNN

SIZES = (512, 1024, 2048, 4096, 8192)
AT = (20, 150, 299)  # steps
DRAWS = 24


def errors(vectors: Tensor, near: nearby.Near, *about: Any) -> list[str]:
    """A line for each size; `about` are the other arguments of `surrogate_near`."""
    matrix, bias, targets, _, unit_of = about

    def gradient(n: int) -> Tensor:
        at = vectors.detach().clone().requires_grad_()
        nearby.surrogate_near(at, near, matrix, bias, targets, n, unit_of).backward()
        assert at.grad is not None
        return at.grad

    exact, lines = gradient(len(matrix)), []
    change = (exact - near.gradient).norm() / exact.norm()
    for n in SIZES:
        found = torch.stack([gradient(n) for _ in range(DRAWS)])
        error = (found - exact).square().sum((1, 2)).mean().sqrt() / exact.norm()
        bias_of = (found.mean(0) - exact).norm() / exact.norm()
        lines.append(f"{n:>6,} items: change {change:.1%}, error {error:.1%}, bias {bias_of:.1%}")
    return lines


@click.command()
@click.option("--dataset", default="diginetica-eighth", show_default=True)
@click.option("--data-dir", default=None)
@click.option("--dim", default=64, show_default=True)
def main(dataset: str, data_dir: str | None, dim: int) -> None:
    data = catalog.load(dataset, data_dir)
    prefixes = prefixes_of(data.train)
    config = Config("srgnn", data.name, data.split_hash, {"dim": dim}, **{**CALIBRATED, "max_steps": 1_301})
    training = assemble(lambda: SRGNN(data.n_items, dim=dim), config, prefixes, 1, "full")
    if not training.estimates:
        raise click.UsageError(f"{dataset} has {data.n_items:,} items: all of them are scored.")
    order, buffer = loop.ExampleOrder(prefixes, config, 1), score_buffer(config.batch_size, data.n_items, "cpu")
    usual = nearby.surrogate_near
    for step in range(max(AT) + 1):
        set_lr(training.optimiser, config, step, order.steps)

        def measured(*about: Any, step: int = step) -> Tensor:
            if step in AT:
                click.echo("\n".join([f"step {step}", *errors(*about)]))
            return usual(*about)

        with mock.patch.object(loop, "surrogate_near", measured):
            beta = kl_weight_at(config, step) / order.targets
            loop.train_step(training, prefixes.batch(order.batch(step)), beta, buffer)
        training.state.step += 1


if __name__ == "__main__":
    main()
