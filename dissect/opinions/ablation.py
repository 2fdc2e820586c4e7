"""A trained model with single matrices put out of action: at zero, at their mean, or on the inputs of another row.

zero      the weight is 0: what the matrix adds is gone, and a bias stays
mean      the layer sees the mean of its inputs: it adds a constant, and tells nothing of its row
resample  the layer sees the inputs of another row of the batch (sparsevd/swapped.py): its outputs keep their
          distribution, and tell of another session

Mean and resample change an argument of a layer: of Linear, Conv1d, Conv2d, GRUCell, and that of weight_ih in an
LSTMCell and in the first layer of a GRU or LSTM of one direction. Every other matrix can only be zeroed.

Zero leaves what the model has never seen in training and may hurt for that reason alone; mean and resample measure
what the row's own information is worth.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear
from torch.nn.utils.rnn import PackedSequence

from dissect.opinions.matrices import place_of
from dissect.sparsevd.swapped import rolled

KINDS = ("zero", "mean", "resample")


def argument_of(model: nn.Module, name: str) -> int | None:
    """Which argument of its layer a matrix alone multiplies; None if there is none, as with the states inside a GRU.

    None, too, for an attention, which gives one input to several matrices and does not call its output projection; for
    the state of an LSTMCell, and for an Embedding, whose input is no factor.
    """
    layer, attribute = place_of(model, name)
    if isinstance(layer, nn.RNNBase):
        return 0 if attribute == "weight_ih_l0" and not layer.bidirectional else None
    if isinstance(layer, nn.RNNCellBase) and attribute == "weight_hh":
        return 1 if isinstance(layer, nn.GRUCell) else None
    known = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.RNNCellBase)
    return 0 if isinstance(layer, known) and not isinstance(layer, NonDynamicallyQuantizableLinear) else None


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
                raise ValueError(f"{name} has no argument of its layer ({type(layer).__name__}): it can only be zeroed")
            change = _exchanged(layer) if kind == "resample" else _constant((means or {})[name])
            hook = layer.register_forward_pre_hook(_changing(number, change), with_kwargs=True)
            stack.callback(hook.remove)
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


def _changing(number: int, change: Callable[[Any], Any]) -> Callable[..., Any]:
    """A hook that changes one argument of a layer, given by its place or by its name; a state that is None stays."""

    def hook(layer: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]) -> Any:
        if (name := _name_of(layer, number)) in named:
            return inputs, {**named, name: change(named[name])}
        return tuple(change(x) if i == number else x for i, x in enumerate(inputs)), named

    return hook


def _name_of(layer: nn.Module, number: int) -> str:
    return list(inspect.signature(layer.forward).parameters)[number]


def _exchanged(layer: nn.Module) -> Callable[[Any], Any]:
    second = isinstance(layer, nn.RNNBase) and not layer.batch_first
    return lambda x: rolled(x, second)


def _constant(mean: Tensor) -> Callable[[Any], Any]:
    def change(x: Any) -> Any:
        if x is None:
            return None
        if isinstance(x, PackedSequence):
            return x._replace(data=mean.expand_as(x.data))
        return mean.expand_as(x)

    return change


@torch.no_grad()
def mean_inputs(
    model: nn.Module, run: Callable[[Any], object], batches: Iterable[Any], names: Sequence[str]
) -> dict[str, Tensor]:
    """The mean input of each matrix over all rows of the batches, [in]; [in, 1] and [in, 1, 1] of a convolution.

    `run(batch)` runs the model, in the mode that it is in. Rows of zeros in a recurrent layer are padding, and do not
    count. A matrix whose input is no argument of its layer, or is never given, is left out.
    """
    sums: dict[str, Tensor] = {}
    counts: dict[str, int] = {}

    def add(name: str, number: int) -> Callable[..., None]:
        def hook(layer: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]) -> None:
            given = inputs[number] if number < len(inputs) else named.get(_name_of(layer, number))
            if given is None:  # the first state of a cell
                return
            rows = _rows(layer, given)
            sums[name] = sums.get(name, 0) + rows.sum(0)
            counts[name] = counts.get(name, 0) + len(rows)

        return hook

    with ExitStack() as stack:
        for name in names:
            if (number := argument_of(model, name)) is not None:
                layer = place_of(model, name)[0]
                stack.callback(layer.register_forward_pre_hook(add(name, number), with_kwargs=True).remove)
        for batch in batches:
            run(batch)
    means = {name: total / max(1, counts[name]) for name, total in sums.items()}
    return {n: m.view(-1, *[1] * _places(place_of(model, n)[0])) for n, m in means.items()}


def _places(layer: nn.Module) -> int:
    """The dimensions behind the channels."""
    return len(layer.kernel_size) if isinstance(layer, nn.Conv1d | nn.Conv2d) else 0


def _rows(layer: nn.Module, x: Any) -> Tensor:
    """The inputs of a layer as rows [n, in]."""
    x = x.data if isinstance(x, PackedSequence) else x
    x = x.movedim(-1 - _places(layer), -1)
    rows = x.reshape(-1, x.shape[-1])
    return rows[(rows != 0).any(1)] if isinstance(layer, nn.RNNBase) else rows
