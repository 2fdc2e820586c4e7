"""The batches of any training: read again in each epoch, and counted."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sized
from typing import Any

from torch import Tensor
from torch.nn.utils.rnn import PackedSequence
from torch.utils.data import BatchSampler, DataLoader

from dissect.errors import DataError, UsageError

MOST = 100_000  # batches that are counted

Batches = Iterable[Any] | Callable[[], Iterable[Any]]


class Feed:
    """Batches that can be read as often as needed: an iterable that begins anew, or a function that makes one."""

    def __init__(self, batches: Batches, name: str) -> None:
        """`name` is that of the argument. Raises UsageError for what can be read only once."""
        if isinstance(batches, Iterator):
            raise UsageError(
                f"`{name}` is a generator, or another iterator: it can be read once, and training reads it many times.",
                "Give a list, a DataLoader, or a function that returns a new iterator: lambda: batches_of(data).",
            )
        if not (callable(batches) or isinstance(batches, Iterable)):
            raise UsageError(
                f"`{name}` is {type(batches).__name__}, and gives no batches.",
                "Give a list of batches, a DataLoader, or a function that returns an iterator.",
            )
        self.source, self.name = batches, name

    def once(self) -> Iterator[Any]:
        """All batches, once. Raises DataError if there are none."""
        found = self.source() if callable(self.source) else self.source
        if not isinstance(found, Iterable):
            raise UsageError(f"The function `{self.name}` returned {type(found).__name__}, which gives no batches.")
        empty = True
        for batch in found:
            empty = False
            yield batch
        if empty:
            again = " this time: does it return the same generator at each call?" if callable(self.source) else "."
            raise DataError(f"`{self.name}` gave no batch{again}", "Check that the data are not empty.")

    def endless(self) -> Iterator[Any]:
        """Batches for ever, epoch after epoch."""
        while True:
            yield from self.once()

    def n_examples(self) -> int:
        """The number of examples: those that the sampler of a DataLoader draws from, or all rows counted.

        Raises UsageError if a batch does not tell how many it has, and if the batches do not end.
        """
        if (sampled := _sampled(self.source)) is not None:
            if not sampled:
                raise DataError(f"The data set of `{self.name}` is empty.")
            return sampled
        total = 0
        for n, batch in enumerate(self.once()):
            if n == MOST and not isinstance(self.source, Sized):
                raise UsageError(
                    f"`{self.name}` gave {MOST:,} batches and goes on: the examples of an epoch cannot be counted.",
                    "Give their number: n_examples=... (training examples in all, not batches).",
                )
            rows = rows_of(batch)
            if rows is None:
                raise UsageError(
                    f"How many examples a {type(batch).__name__} of `{self.name}` has is not known, and the KL is "
                    "divided by their number.",
                    "Give it: n_examples=... (training examples in all, not batches).",
                )
            total += rows
        return total


def rows_of(batch: Any) -> int | None:
    """The number of examples in a batch: the length of its first tensor, or of the batch; None if it has neither.

    The first dimension has to be that of the examples: of [T, B, D] it would count the steps. Of a PackedSequence the
    sequences count.
    """
    for tensor in _tensors(batch):
        if isinstance(tensor, PackedSequence):
            return int(tensor.batch_sizes[0])
        return len(tensor) if tensor.dim() else None
    if isinstance(batch, list | tuple | Mapping | str) or not hasattr(batch, "__len__"):
        return None
    return len(batch)


def _sampled(source: Any) -> int | None:
    """How many different examples an epoch of a DataLoader may have; None if it does not say."""
    if not isinstance(source, DataLoader) or type(source.batch_sampler) is not BatchSampler:
        return None
    drawn = source.batch_sampler.sampler
    if not isinstance(drawn, Sized) or not isinstance(source.dataset, Sized):
        return None
    return min(len(drawn), len(source.dataset))  # some samplers draw an example twice


def _tensors(batch: Any) -> Iterator[Tensor | PackedSequence]:
    if isinstance(batch, Tensor | PackedSequence):
        yield batch
    elif isinstance(batch, Mapping):
        yield from _tensors(list(batch.values()))
    elif isinstance(batch, list | tuple):
        for part in batch:
            yield from _tensors(part)
