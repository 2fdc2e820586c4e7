"""Putting SparseVD layers into a model, and taking them out again."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from dissect.sparsevd.kl import kl_divergence
from dissect.sparsevd.layers import LinearVD


@dataclass(frozen=True)
class SparsifyReport:
    swapped: dict[str, tuple[int, ...]] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)


def sparsify(
    model: nn.Module,
    where: Callable[[str, nn.Module], bool] | None = None,
    *,
    noise: str = "lrt",
    threshold: float = 3.0,
    log_sigma2: float | None = None,
    probe: Callable[[], object] | None = None,
) -> SparsifyReport:
    report = SparsifyReport()
    for name, module in list(model.named_modules()):
        if not isinstance(module, nn.Linear):
            continue
        if where is not None and not where(name, module):
            report.left_out[name] = "not chosen"
            continue
        parent, _, child = name.rpartition(".")
        layer = LinearVD.from_dense(module, noise=noise, threshold=threshold, log_sigma2=log_sigma2)
        setattr(model.get_submodule(parent), child, layer)
        report.swapped[name] = tuple(module.weight.shape)
    return report


def densify(model: nn.Module, prune: bool = True) -> nn.Module:
    return model


def named_variational(model: nn.Module) -> Iterator[tuple[str, Tensor, Tensor]]:
    for name, module in model.named_modules():
        if isinstance(module, LinearVD):
            for _, theta, log_sigma2 in module.variational():
                yield name, theta, log_sigma2


def total_kl(model: nn.Module, prior: str = "log-uniform") -> Tensor:
    return torch.stack([kl_divergence(t, s, prior) for _, t, s in named_variational(model)]).sum()


@contextmanager
def unmasked(model: nn.Module) -> Iterator[None]:
    layers = [m for m in model.modules() if isinstance(m, LinearVD)]
    for layer in layers:
        layer.masked = False
    try:
        yield
    finally:
        for layer in layers:
            layer.masked = True
