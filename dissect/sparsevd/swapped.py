"""What a trained layer is worth to unseen data: its inputs swapped with those of other rows.

Density says that a layer keeps weights, not what for: it may have memorised the training set. Here the layer runs
on the inputs of other rows of the batch. Its outputs keep their distribution, and lose what they tell about their own
rows. A layer that tells nothing about unseen rows can be swapped without loss.
"""

from __future__ import annotations

import inspect
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

ARGUMENTS = tuple(inspect.signature(nn.MultiheadAttention.forward).parameters)[1:]  # query, key, value, then the masks
FEWEST_TO_SWAP = 3  # rows of a batch; of fewer none stands some way off
AWAY = 0.382  # of the rows. Layers in a row add their shifts up: no small multiple of this is near a whole number


@contextmanager
def swapped(
    layers: Iterable[nn.Module], of_attention: Mapping[nn.Module, Collection[str]] | None = None
) -> Iterator[None]:
    """Within it, each of the layers gets the inputs of rows that stand some way off. It draws no random number.

    Rows are those of the first dimension, or sequences where the layer says that they come second. A batch of one or
    two rows stays as it is. `of_attention`: for an attention, those of query, key and value that are
    swapped, if not all; the masks stay then.
    """
    of = of_attention or {}
    with ExitStack() as hooks:
        for layer in layers:
            hook = partial(_of_others, only=of.get(layer))
            hooks.enter_context(layer.register_forward_pre_hook(hook, with_kwargs=True))
        yield


def _of_others(
    layer: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any], only: Collection[str] | None = None
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    if isinstance(layer, nn.RNNBase):  # a first state, if there is one, has its sequences elsewhere
        is_second = not layer.batch_first
        if "input" in named:
            return inputs, {**named, "input": rolled(named["input"], is_second)}
        return (rolled(inputs[0], is_second), *inputs[1:]), named
    if isinstance(layer, nn.MultiheadAttention):
        given = {**dict(zip(ARGUMENTS, inputs)), **named}
        names = () if given["query"].dim() == 2 else only or given  # one sequence has no others
        return (), {name: _of_attention(layer, name, x) if name in names else x for name, x in given.items()}
    return tuple(rolled(x) for x in inputs), {name: rolled(x) for name, x in named.items()}


def _of_attention(layer: nn.MultiheadAttention, name: str, x: Any) -> Any:
    """An argument of an attention for the sequences of others: with the inputs go their masks."""
    if name in ARGUMENTS[:3]:
        return rolled(x, not layer.batch_first)
    if name == "attn_mask" and isinstance(x, Tensor) and x.dim() == 3:  # [B x H, L, S]
        return rolled(x.unflatten(0, (-1, layer.num_heads))).flatten(0, 1)
    return rolled(x) if name == "key_padding_mask" else x


def rolled(x: Any, is_second: bool = False) -> Any:
    """The inputs of rows that stand some way off, or with `is_second` of sequences in the second dimension."""
    if isinstance(x, PackedSequence):
        return x._replace(data=rolled(x.data))
    if isinstance(x, tuple):  # the states of an LSTM cell
        return tuple(rolled(part) for part in x)
    if not isinstance(x, Tensor) or x.dim() < (2 if x.is_floating_point() else 1):  # whole numbers: ids of an Embedding
        return x
    rows = 1 if is_second and x.dim() > 2 else 0
    return x.roll(int(AWAY * x.shape[rows]), rows)
