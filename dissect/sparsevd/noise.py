"""What a second pass over a batch takes from the first: draws of noise, and products of the same inputs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor

LEAST = 1 << 14  # numbers of a draw that is kept; fewer are drawn as fast as they are found
Key = tuple[bytes, tuple[int, ...], torch.dtype]
Place = tuple[int, tuple[int, int] | None]  # the matrix, and its rows if not all
Moments = tuple[Tensor, Tensor | None]  # the mean and the variance of a product
# Of this thread: several may train at once.
_kept: ContextVar[dict[Key, tuple[Tensor, Tensor]] | None] = ContextVar("kept", default=None)
_moments: ContextVar[dict[Place, list[tuple[Tensor, Moments]]] | None] = ContextVar("moments", default=None)


@contextmanager
def noise_kept() -> Iterator[None]:
    """Context manager: what `standard_normal` draws in it on the CPU is kept.

    If torch's random state is put back, and comes to the same place again, the same numbers are found in place of being
    drawn, and the state moves on as if they had been: all random numbers are those of two passes that draw.
    """
    token = _kept.set({})
    try:
        yield
    finally:
        _kept.reset(token)


def standard_normal(shape: Sequence[int], dtype: torch.dtype, device: torch.device) -> Tensor:
    """torch.randn, but see `noise_kept`. The result may be shared: do not change it in place."""
    shape = torch.Size(shape)
    kept = _kept.get()
    if kept is None or device.type != "cpu" or shape.numel() < LEAST:
        return torch.randn(shape, dtype=dtype, device=device)
    key = torch.get_rng_state().numpy().tobytes(), shape, dtype
    if key in kept:
        noise, state = kept.pop(key)
        torch.set_rng_state(state)
        return noise
    noise = torch.randn(shape, dtype=dtype, device=device)
    kept[key] = noise, torch.get_rng_state()
    return noise


@contextmanager
def moments_kept() -> Iterator[None]:
    """Context manager: on the CPU a layer that learns keeps the moments of its products in it. If its weights are fixed
    later, and it gets the same inputs again, as the first layers of a model do, it takes these moments.
    """
    token = _moments.set({})
    try:
        yield
    finally:
        _moments.reset(token)


def moments_once(theta: Tensor, rows: slice | None, x: Tensor, multiply: Callable[[], Moments]) -> Moments:
    """The mean and the variance [..., out] of x [..., in] times the rows of theta [out, in], as `multiply` makes them,
    or as they were kept (`moments_kept`).
    """
    found = _moments.get()
    if found is None or x.device.type != "cpu":
        return multiply()
    place = id(theta), None if rows is None else (rows.start, rows.stop)
    if theta.requires_grad:
        mean, variance = multiply()
        kept = mean.detach(), None if variance is None else variance.detach()
        found.setdefault(place, []).append((x.detach(), kept))
        return mean, variance
    if not x.requires_grad:
        for known, moments in found.get(place, []):
            if torch.equal(known, x):
                return moments
    return multiply()
