"""Trains as a device with TF32 products would, on any machine: to see what they do to accuracy, not to time.

    python benchmarks/tf32.py train srgnn --dataset diginetica-eighth --dim 64 --epochs 4 --runs-dir runs-tf32

The words are those of dissect. In the products with the catalogue, and only there, factors are rounded to the 10 bits
of TF32's mantissa and added up in float32, as `--products tf32` has it done on CUDA. The configuration on record says
float32, so the runs belong in a folder of their own.
"""

from __future__ import annotations

from typing import Any
from unittest import mock

import torch
from torch import Tensor

from dissect.cli import main

LOST_BITS = 13  # of the 23 of a float32's mantissa


def rounded(x: Tensor) -> Tensor:
    """x with 10 bits of mantissa, to the nearest, ties to even."""
    bits = x.contiguous().view(torch.int32)
    half = (1 << (LOST_BITS - 1)) - 1 + ((bits >> LOST_BITS) & 1)
    return ((bits + half) & -(1 << LOST_BITS)).view(torch.float32)


def train_with_rounded_factors() -> None:
    """The command line with torch.mm and addmm_, which only the loss over the catalogue calls, over rounded factors."""
    ulp = 2.0**-10
    exact = torch.tensor([1 + 0.5 * ulp, 1 + 0.51 * ulp, 1 + 1.5 * ulp, -1 - ulp, 0.0])
    assert rounded(exact).tolist() == [1, 1 + ulp, 1 + 2 * ulp, -1 - ulp, 0]
    mm, addmm_ = torch.mm, Tensor.addmm_

    def rounded_mm(a: Tensor, b: Tensor, **more: Any) -> Tensor:
        return mm(rounded(a), rounded(b), **more)

    def rounded_addmm_(total: Tensor, a: Tensor, b: Tensor) -> Tensor:
        return addmm_(total, rounded(a), rounded(b))

    with mock.patch.object(torch, "mm", rounded_mm), mock.patch.object(Tensor, "addmm_", rounded_addmm_):
        main()


if __name__ == "__main__":
    train_with_rounded_factors()
