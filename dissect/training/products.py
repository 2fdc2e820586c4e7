"""Kernels for the products with the catalogue, and the choice of the fastest on this machine."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor

from dissect.errors import UsageError


class Kernel(NamedTuple):
    """precision: torch's setting for products of float32 matrices; operands: the type to convert factors to, or None.

    Products are added up in float32 with every kernel.
    """

    precision: str
    operands: torch.dtype | None = None


KERNELS = {
    "float32": Kernel("highest"),
    "tf32": Kernel("high"),
    "bf16-mode": Kernel("medium"),  # torch rounds the factors itself
    "bf16-operands": Kernel("highest", torch.bfloat16),
}
# The kernels that each value of --products may take; the quickest of those at hand is taken.
ALLOWED = {
    "float32": ("float32",),
    "tf32": ("tf32",),
    "bf16": ("bf16-operands", "bf16-mode"),
    "auto": tuple(KERNELS),
}
ROUNDS = 3


@contextmanager
def multiplying_as(kernel: str) -> Iterator[None]:
    """Context manager: torch multiplies float32 matrices as `kernel` says; later backward passes are not affected."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(KERNELS[kernel].precision)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def factor(x: Tensor, operands: torch.dtype | None) -> Tensor:
    """x as it enters a product with these `operands` (of Kernel)."""
    return x if operands is None else x.to(operands)


def multiply(a: Tensor, b: Tensor, out: Tensor | None = None) -> Tensor:
    """a [n, k] times b [k, m], [n, m]: in float32 (or the type of `out`) if the factors are bfloat16, else in theirs.

    A product of bfloat16 factors is added up in float32. On a CPU torch rounds the result to bfloat16 as well.
    """
    if a.dtype != torch.bfloat16 or (out is not None and out.dtype == torch.bfloat16):
        return torch.mm(a, b, out=out)
    product = torch.mm(a, b, out_dtype=torch.float32) if a.is_cuda else torch.mm(a, b)
    return product.float() if out is None else out.copy_(product)


def is_usable(kernel: str, device: torch.device) -> bool:
    """Whether torch multiplies as `kernel` says on this device; if not, it would silently do something else."""
    if kernel == "tf32":
        return device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 0)
    if kernel == "bf16-mode":
        return device.type == "cpu" and _mode_rounds()
    return True


def _mode_rounds() -> bool:
    """Whether torch's "medium" precision rounds factors to bfloat16 on this CPU: measured, since some only claim it."""
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randn(64, 256, generator=generator), torch.randn(256, 64, generator=generator)
    with multiplying_as("float32"):
        exact = a @ b
    with multiplying_as("bf16-mode"):
        return bool((a @ b - exact).norm() > 1e-4 * exact.norm())  # eight bits give 3e-3


def at_hand(products: str, device: torch.device | str) -> list[str]:
    """The kernels that `products` (of ALLOWED) may take on this device. Raises UsageError if there is none."""
    kernels = [kernel for kernel in ALLOWED[products] if is_usable(kernel, torch.device(device))]
    if not kernels:
        raise UsageError("This device has no TF32 products; CUDA devices from Ampere on do.", "Use --products auto.")
    return kernels


def quickest(kernels: Sequence[str], run: Callable[[str], object], device: torch.device) -> dict[str, float]:
    """Median milliseconds of `run` with each kernel, the quickest first.

    They take turns, so that other work on the machine slows all alike; the first round warms up.
    """

    def now() -> float:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return 1e3 * time.perf_counter()

    times: dict[str, list[float]] = {kernel: [] for kernel in kernels}
    for _ in range(ROUNDS + 1):
        for kernel in kernels:
            began = now()
            run(kernel)
            times[kernel].append(now() - began)
    medians = {kernel: statistics.median(values[1:]) for kernel, values in times.items()}
    return dict(sorted(medians.items(), key=lambda found: found[1]))
