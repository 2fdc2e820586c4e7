"""What a model puts into its lists: coverage and popularity of the first K items after each prefix.

Letters: B sessions, V items, K items of a list.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from dissect.data.sessions import Sessions

LENGTH = 20  # K, items of a list


def first_items(scores: Tensor, k: int = LENGTH) -> Tensor:
    """The columns int64 [B, min(k, V)] with the highest float32 scores [B, V]; of equal ones the lowest column.

    One pass over the scores takes the maximum of each block of neighbouring columns. Only the k blocks with the highest
    maxima can hold one of the first k: of each of k blocks before its own, one column would stand before it.
    """
    V = scores.shape[1]
    size = max(1, math.isqrt(V // k))
    whole = V // size
    if whole <= k:
        return _first(scores, torch.arange(V, device=scores.device), k)
    by_item = scores.t()[: whole * size].unflatten(0, (whole, size))  # [blocks, size, B]
    # In the order of memory, which is item by item for a trained model: twenty times as fast as across it.
    highest = by_item.amax(1).t() if scores.stride(0) == 1 else by_item.permute(2, 0, 1).amax(2)  # [B, blocks]
    blocks = _first(highest, torch.arange(whole, device=scores.device), k)
    columns = (size * blocks[:, :, None] + torch.arange(size, device=scores.device)).flatten(1)  # [B, k * size]
    rest = torch.arange(whole * size, V, device=scores.device).expand(len(scores), -1)  # fewer than a block
    columns = torch.cat([columns, rest], 1)
    return _first(scores.gather(1, columns), columns, k)


def _first(values: Tensor, columns: Tensor, k: int) -> Tensor:
    """The k of `columns` [B, n] or [n] with the highest values [B, n], by one key of value and column."""
    bits = (values + 0.0).contiguous().view(torch.int32)  # + 0.0: -0 is as high as 0
    ordered = bits ^ ((bits >> 31) & 0x7FFFFFFF)  # in the order of the values
    keys = (ordered.long() << 32) - columns  # the lower column is the higher key
    top = keys.topk(min(k, keys.shape[1]), dim=1).indices
    return columns[top] if columns.dim() == 1 else columns.gather(1, top)


class Lists:
    """How many of the lists of some prefixes have each item: `times`, int64 [V], once a batch was added."""

    def __init__(self) -> None:
        self.times: Tensor | None = None

    def add(self, scores: Tensor) -> None:
        """Count the lists of B prefixes, by their scores [B, V]."""
        found = torch.bincount(first_items(scores).flatten(), minlength=scores.shape[1])
        self.times = found if self.times is None else self.times + found

    def about(self, train: Sessions) -> dict[str, float]:
        """Coverage and popularity in percent; {} if nothing was added. `train` has the training sessions.

        coverage@20    the share of the catalogue that is in any list
        popularity@20  the mean over lists of the mean popularity of their items: clicks on the item in the training
                       sessions, divided by those on the most clicked item

        Both are defined as in session-rec (Ludewig & Jannach 2018, Evaluation of session-based recommendation
        algorithms), but that a list has 20 items always: of equal scores the lower item number comes first.
        """
        if self.times is None:
            return {}
        times = self.times.cpu().numpy()
        clicks = np.bincount(np.asarray(train.items), minlength=len(times) + 1)[1:]  # [V]
        return {
            "coverage@20": 100 * float((times > 0).mean()),
            "popularity@20": 100 * float(times @ clicks) / float(times.sum() * max(1, clicks.max())),
        }
