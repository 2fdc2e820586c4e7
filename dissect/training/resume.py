"""Stop a run, and continue it as if it had not been stopped."""

from __future__ import annotations

import shlex
import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dissect.errors import DataError, DissectError
from dissect.runs.files import anew
from dissect.training import workers
from dissect.training.setup import Training
from models.base import with_current_names


class Interrupted(DissectError):
    """The run was asked to stop; its checkpoint is written (exit code 130)."""

    exit_code = 130


def interrupted(step: int, steps: int, where: Path) -> Interrupted:
    """What a run raises that has written a checkpoint to the folder `where`, at a step."""
    return Interrupted(
        f"Stopped; the checkpoint in {where} is of step {step} of {steps}.",
        "Go on from there by the same command (without --force), or by:\n"
        f"  dissect resume {shlex.quote(str(where.parent))}",
    )


@contextmanager
def stop_on_signal() -> Iterator[Callable[[], bool]]:
    """SIGINT and SIGTERM set a flag that the loop reads; a second SIGINT breaks off at once."""
    seen: list[int] = []

    def handler(number: int, frame: Any) -> None:
        if seen and number == signal.SIGINT:
            raise KeyboardInterrupt
        seen.append(number)

    try:
        before = {number: signal.signal(number, handler) for number in (signal.SIGINT, signal.SIGTERM)}
    except ValueError:  # not the main thread: signals are not ours to catch
        before = {}
    try:
        yield lambda: bool(seen)
    finally:
        for number, old in before.items():
            signal.signal(number, old)


def identity(training: Training) -> dict[str, Any]:
    """The run that a checkpoint belongs to."""
    return {"config": training.config.hash, "variant": training.variant, "seed": training.seed}


def snapshot(training: Training) -> dict[str, Any]:
    """All that a run needs to continue, as tensors and primitives."""
    return {
        **identity(training),
        "model": training.model.state_dict(),
        "controls": training.controls.state_dict() if training.controls is not None else {},
        "optimiser": training.optimiser.state_dict(),
        "averages": training.averages.state(),
        "state": asdict(training.state),
        "kernel": training.kernel,  # was measured; a second time another could be chosen
        "threads": torch.get_num_threads(),  # sums round differently with another number
        "rng": torch.get_rng_state(),
        "rng_cuda": torch.cuda.get_rng_state() if torch.cuda.is_available() else None,
        "rng_others": _rng_of_others(),
    }


def _rng_of_others() -> list[dict[str, Any]]:
    """The generators of the other processes of this training, where there are any."""
    states = workers.gather(torch.get_rng_state())[1:]
    on_cuda = workers.gather(torch.cuda.get_rng_state())[1:] if torch.cuda.is_available() else [None] * len(states)
    return [{"rng": cpu, "rng_cuda": cuda} for cpu, cuda in zip(states, on_cuda, strict=True)]


def require_order(module: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Raise ValueError if `state` has other names than a module, or has them in another order.

    An optimiser knows its parameters by their order alone, so it would give each the moments of another one.
    """
    mine = list(module.state_dict())
    if lacking := [name for name in mine if name not in state]:
        raise ValueError(f"it has no {lacking[0]}")
    if more := [name for name in state if name not in mine]:
        raise ValueError(f"it has {more[0]}, which the model does not have now")
    if mine != list(state):
        raise ValueError("its parameters stand in another order")


def restore(training: Training, saved: dict[str, Any], path: Path) -> None:
    """Restore a snapshot. Raises DataError if it is of another configuration, seed or version."""
    mine = (training.config.hash, training.variant, training.seed)
    if tuple(saved.get(key) for key in ("config", "variant", "seed")) != mine:
        raise DataError(f"The checkpoint {path} belongs to another configuration.", anew(path.parents[1]))
    try:
        weights = with_current_names(type(training.model), saved["model"])
        parts = [(training.model, weights)]
        parts += [] if training.controls is None else [(training.controls, saved["controls"])]
        for module, state in parts:
            require_order(module, state)
            module.load_state_dict(state)
        kinds = [group["kind"] for group in training.optimiser.param_groups]  # earlier versions saved none
        training.optimiser.load_state_dict(saved["optimiser"])
        for group, kind in zip(training.optimiser.param_groups, kinds, strict=True):
            group["kind"] = kind
        if "averages" in saved:
            means = with_current_names(type(training.model), saved["averages"]["means"], "model.")
            training.averages.restore({**saved["averages"], "means": means})
        training.state = type(training.state)(**saved["state"])
    except (KeyError, RuntimeError, TypeError, ValueError) as error:
        says = str(error).splitlines()[-1].strip()  # torch begins with what it was doing
        raise DataError(
            f"The checkpoint {path} is of another version of the model: {says}",
            anew(path.parents[1]),
        ) from error
    others = saved.get("rng_others", [])
    if len(others) + 1 != workers.count():
        raise DataError(
            f"The checkpoint {path} was written by {len(others) + 1} processes, not by {workers.count()}.",
            f"Go on with as many. {anew(path.parents[1])}",
        )
    training.kernel = saved.get("kernel") or {"bf16": "bf16-mode"}.get(
        training.config.products, training.config.products
    )
    torch.set_num_threads(saved.get("threads", torch.get_num_threads()))
    generators = saved if workers.is_first() else others[workers.number() - 1]
    torch.set_rng_state(generators["rng"])
    if generators["rng_cuda"] is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(generators["rng_cuda"])
