"""The noise of SparseVD layers, which a second pass over a batch need not draw again."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor

LEAST = 1 << 14  # numbers of a draw that is kept; fewer are drawn as fast as they are found
Key = tuple[bytes, tuple[int, ...], torch.dtype]
# Of this thread: several may train at once.
_kept: ContextVar[dict[Key, tuple[Tensor, Tensor]] | None] = ContextVar("kept", default=None)


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
