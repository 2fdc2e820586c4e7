"""A trained model with single matrices put out of action: at zero, at their mean, or on the inputs of another row.

zero      the weight is 0: what the matrix adds is gone, and a bias stays
mean      the layer sees the mean of its inputs: it adds a constant, and tells nothing of its row
resample  the layer sees the inputs of another row of the batch (sparsevd/swapped.py): its outputs keep their
          distribution, and tell of another session

Zero leaves what the model has never seen in training and may hurt for that reason alone; mean and resample measure
what the row's own information is worth.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from dissect.opinions.matrices import place_of
from dissect.sparsevd.swapped import rolled

KINDS = ("zero", "mean", "resample")


def argument_of(model: nn.Module, name: str) -> int | None:
    """Which argument of its layer a matrix multiplies; None if it is no argument, as with the states inside a GRU."""
    layer, attribute = place_of(model, name)
    if isinstance(layer, nn.RNNBase):
        return 0 if attribute == "weight_ih_l0" else None
    return 1 if isinstance(layer, nn.RNNCellBase) and attribute == "weight_hh" else 0


@contextmanager
def ablated(
    model: nn.Module, names: Sequence[str], kind: str, means: Mapping[str, Tensor] | None = None
) -> Iterator[None]:
    """Within it the matrices `names` are ablated; `means` are those of `mean_inputs`, for kind "mean".

    Raises ValueError for a matrix whose input is no argument of its layer, unless the kind is "zero".
    """
    if kind not in KINDS:
        raise ValueError(f"kind is one of {KINDS}, not {kind!r}")
    with ExitStack() as stack:
        for name in names:
            layer, attribute = place_of(model, name)
            if kind == "zero":
                stack.enter_context(_zeroed(layer.get_parameter(attribute)))
                continue
            number = argument_of(model, name)
            if number is None:
                raise ValueError(f"the input of {name} is no argument of its layer: it can only be zeroed")
            change = _exchanged(layer) if kind == "resample" else _constant((means or {})[name])
            stack.callback(layer.register_forward_pre_hook(_changing(number, change)).remove)
        yield


@contextmanager
def _zeroed(weight: nn.Parameter) -> Iterator[None]:
    before = weight.detach().clone()
    with torch.no_grad():
        weight.zero_()
    try:
        yield
    finally:
        with torch.no_grad():
            weight.copy_(before)


def _changing(number: int, change: Callable[[Any], Any]) -> Callable[[nn.Module, tuple[Any, ...]], tuple[Any, ...]]:
    """A hook that changes one argument of a layer."""
    return lambda _, inputs: tuple(change(x) if i == number else x for i, x in enumerate(inputs))


def _exchanged(layer: nn.Module) -> Callable[[Any], Any]:
    second = isinstance(layer, nn.RNNBase) and not layer.batch_first
    return lambda x: rolled(x, second)


def _constant(mean: Tensor) -> Callable[[Any], Any]:
    def change(x: Any) -> Any:
        if isinstance(x, PackedSequence):
            return x._replace(data=mean.expand_as(x.data))
        return mean.expand_as(x)

    return change


@torch.no_grad()
def mean_inputs(
    model: nn.Module, run: Callable[[Any], object], batches: Iterable[Any], names: Sequence[str]
) -> dict[str, Tensor]:
    """The mean input of each matrix over all rows of the batches, [in] ([in, 1] of a convolution).

    `run(batch)` runs the model, in the mode that it is in. Rows of zeros in a recurrent layer are padding, and do not
    count. A matrix whose input is no argument of its layer is left out.
    """
    sums: dict[str, Tensor] = {}
    counts: dict[str, int] = {}

    def add(name: str, number: int) -> Callable[[nn.Module, tuple[Any, ...]], None]:
        def hook(layer: nn.Module, inputs: tuple[Any, ...]) -> None:
            rows = _rows(layer, inputs[number])
            sums[name] = sums.get(name, 0) + rows.sum(0)
            counts[name] = counts.get(name, 0) + len(rows)

        return hook

    with ExitStack() as stack:
        for name in names:
            if (number := argument_of(model, name)) is not None:
                layer = place_of(model, name)[0]
                stack.callback(layer.register_forward_pre_hook(add(name, number)).remove)
        for batch in batches:
            run(batch)
    means = {name: total / max(1, counts[name]) for name, total in sums.items()}
    return {n: m[:, None] if isinstance(place_of(model, n)[0], nn.Conv1d) else m for n, m in means.items()}


def _rows(layer: nn.Module, x: Any) -> Tensor:
    """The inputs of a layer as rows [n, in]."""
    x = x.data if isinstance(x, PackedSequence) else x
    if isinstance(layer, nn.Conv1d):
        return x.transpose(-1, -2).flatten(0, -2)
    rows = x.reshape(-1, x.shape[-1])
    return rows[(rows != 0).any(1)] if isinstance(layer, nn.RNNBase) else rows
