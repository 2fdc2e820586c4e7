"""What a trained layer is worth to unseen data: its inputs swapped with those of other rows.

Density says that a layer keeps weights, not what for: it may have learnt the training set by heart. Here the layer runs
on the inputs of other rows of the batch. Its outputs keep their distribution, and lose what they tell about their own
rows. A layer that tells nothing about unseen rows can be swapped without loss.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

AWAY = 0.382  # of the rows. Layers in a row add their shifts up: no small multiple of this is near a whole number


@contextmanager
def swapped(layers: Iterable[nn.Module]) -> Iterator[None]:
    """Within it, each of the layers gets the inputs of rows that stand some way off. It draws no random number.

    Rows are those of the first dimension, or sequences where the layer says that they come second. A batch of one or
    two rows stays as it is.
    """
    hooks = [layer.register_forward_pre_hook(_of_others) for layer in layers]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _of_others(layer: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    if isinstance(layer, nn.RNNBase):  # a first state, if there is one, has its sequences elsewhere
        return _rolled(inputs[0], not layer.batch_first), *inputs[1:]
    return tuple(_rolled(x) for x in inputs)


def _rolled(x: Any, is_second: bool = False) -> Any:
    if isinstance(x, PackedSequence):
        return x._replace(data=_rolled(x.data))
    if not isinstance(x, Tensor) or x.dim() < 2:
        return x
    rows = 1 if is_second and x.dim() > 2 else 0
    return x.roll(int(AWAY * x.shape[rows]), rows)
