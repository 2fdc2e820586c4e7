"""Several processes on one training, a device each: how they communicate.

`torchrun --nproc-per-node N -m dissect train ...` starts them. Each takes its share of every batch and of every
evaluation; gradients and ranks are added up, so that all hold the same weights. The first one writes the run folder,
the others write to a scratch copy of it that is deleted. Without torchrun there is one process, and these functions do
nothing.
"""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor

from dissect.runs.files import locked


def join() -> None:
    """Meet the other processes that torchrun has started, if it has."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and not dist.is_initialized():
        if torch.cuda.is_available():
            torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
        atexit.register(dist.destroy_process_group)


def count() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def number() -> int:
    """The number of this process, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def is_first() -> bool:
    return number() == 0


def wait() -> None:
    """Wait until all processes have called this."""
    if count() > 1:
        dist.barrier()


def share(batch: Tensor, targets_of: Callable[[Tensor], Tensor] = torch.ones_like) -> tuple[Tensor, float]:
    """(this process's part of the indices [B], its share of the batch); a part is never empty, but may weigh 0.

    The share is that of the targets: a loss is a mean over them. `targets_of` tells how many some examples have.
    """
    mine = batch[number() :: count()]
    if not len(mine):
        return batch[:1], 0.0
    return mine, float(targets_of(mine).sum() / targets_of(batch).sum())


def add_up(tensor: Tensor) -> Tensor:
    """The sum over all processes, in place."""
    if count() > 1:
        dist.all_reduce(tensor)
    return tensor


def add_up_gradients(parameters: Iterable[Tensor]) -> None:
    """Sum the gradients over all processes: large ones one by one, small ones in a single message."""
    if count() == 1:
        return
    small = []
    for parameter in parameters:
        if parameter.grad is None:  # in another process it may have one
            parameter.grad = torch.zeros_like(parameter)
        if parameter.numel() > 1 << 20:
            dist.all_reduce(parameter.grad)
        else:
            small.append(parameter.grad)
    if not small:
        return
    together = torch.cat([gradient.flatten() for gradient in small])
    dist.all_reduce(together)
    for gradient, total in zip(small, together.split([gradient.numel() for gradient in small]), strict=True):
        gradient.copy_(total.view_as(gradient))


def any_says(*flags: bool, device: torch.device | str = "cpu") -> tuple[bool, ...]:
    """Each flag: whether any process has it set."""
    if count() == 1:
        return flags
    seen = torch.tensor(flags, dtype=torch.int32, device=device)
    dist.all_reduce(seen, dist.ReduceOp.MAX)
    return tuple(bool(flag) for flag in seen.tolist())


def gather(state: Tensor) -> list[Tensor]:
    """The tensors of all processes, of one shape, in their order; on the CPU."""
    if count() == 1:
        return [state]
    found: list[Tensor | None] = [None] * count()
    dist.all_gather_object(found, state.cpu())
    return [tensor for tensor in found if tensor is not None]


@contextmanager
def run_folder(run: Path) -> Iterator[Path]:
    """The folder for this process to write to: the locked run folder, or a scratch copy of it."""
    if is_first():
        with locked(run):
            wait()  # now the others may copy it
            wait()  # they have
            yield run
        return
    wait()
    with tempfile.TemporaryDirectory(prefix="dissect-") as scratch:
        shutil.copytree(run, copy := Path(scratch) / run.name)
        wait()
        yield copy
