"""Rebuild the model of a run folder: its configuration, and the weights that the run reports."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Any

import torch

from dissect.data.sessions import Sessions, split_validation
from dissect.errors import DataError, DissectError
from dissect.runs import files, folders, records
from dissect.runs.config import Config
from dissect.sparsevd import layers_in, sparsify
from dissect.sparsevd.probe import seed_torch
from dissect.training.checkpoint import load_checkpoint
from models.base import prepares, with_current_names


@dataclass(frozen=True)
class Recorded:
    """The facts about a run in its folder."""

    run: Path
    group: Path
    variant: str
    seed: int
    config: Config  # of the group
    steps: int  # of this seed
    n_items: int
    command: tuple[str, ...]  # that began it; empty if none is on record

    def options(self, name: str) -> list[str]:
        """The values of an option in the command that began the run."""
        following = zip(self.command, self.command[1:], strict=False)
        apart = [(at, value) for at, (word, value) in enumerate(following) if word == name]
        joined = [(at, word[len(name) + 1 :]) for at, word in enumerate(self.command) if word.startswith(f"{name}=")]
        return [value for _, value in sorted(apart + joined)]

    def option(self, name: str) -> str | None:
        """The last of `options`, which is the one that counts; None if there is none."""
        return next(reversed(self.options(name)), None)


def read_run(run: Path) -> Recorded:
    """Read the record of a run, finished or not. Raises DataError if it is missing or garbled."""
    variant, seed = folders.place_of(run)
    group = folders.group_of(run)
    config = Config(**folders.group_config(group))
    config = config.matched() if variant == folders.MATCHED else config
    by_hand = "Has it been changed by hand? Put back what was there."
    n_items = files.read_json(group / "data.json", records.Data, by_hand)["n_items"]
    path, environment = run / "environment.json", dict[str, Any]()
    if path.exists():
        environment = files.read_json(path, records.Environment, by_hand)
    steps, command = environment.get("max_steps", config.max_steps), environment.get("command", ())
    return Recorded(run, group, variant, seed, config, steps, n_items, tuple(command))


def require_finished(record: Recorded) -> None:
    """Raises DataError, with the command that continues it, for a run without DONE."""
    if not folders.is_done(record.run):
        again = f"Go on with it: dissect resume {shlex.quote(str(record.run))}"
        raise DataError(f"The run {record.run} is not finished.", again)


def roles_without(variant: str, removable: Collection[str]) -> tuple[str, ...]:
    """The roles that a variant lacks: without-<role>-<role>, or none. Raises DataError for another."""
    if variant in (folders.FULL, folders.MATCHED):
        return ()
    text = variant.removeprefix(folders.WITHOUT)
    for count in range(1, len(removable) + 1):
        for roles in combinations(sorted(removable), count):
            if "-".join(roles) == text:
                return roles
    raise DataError(f"The model cannot be built without {text!r}, as this run was.", "Has its class changed since?")


def rebuild(record: Recorded, cls: Any, train: Callable[[], Sessions]) -> tuple[Any, int]:
    """(model, step): the trained model of class `cls` with the weights that the run reports, and their step.

    The weights are checkpoints/best.pt if the run has chosen an epoch, else last.pt, with SparseVD layers as in the
    run. `train` gives the training sessions, for a model that prepares itself with them. The model is on the CPU, in
    evaluation mode.

    Raises DataError if the checkpoint is missing, damaged, or of another model, configuration or seed.
    """
    config = record.config
    path = folders.reported(record.run, config.select)
    again = files.anew(record.run)
    try:
        saved = load_checkpoint(path)
    except DataError as error:
        raise DataError(error.message, again) from error
    mine = {"config": replace(config, max_steps=record.steps).hash, "variant": record.variant, "seed": record.seed}
    other = [f"{key} {saved[key]}, not {value}" for key, value in mine.items() if saved.get(key, value) != value]
    if other:
        raise DataError(f"The checkpoint {path} belongs to another run: {'; '.join(other)}.", again)
    without = roles_without(record.variant, cls.removable)
    try:
        weights = with_current_names(cls, reported(saved))
        step = saved["step"] if "step" in saved else saved["state"]["step"]
        if record.n_items > (held := sum(weight.numel() for weight in weights.values())):  # before memory is taken
            raise ValueError(f"it has {record.n_items:,} items, and its weights are {held:,} numbers")
        with torch.random.fork_rng(devices=[]):
            seed_torch(record.seed, torch.device("cpu"))
            extra = {"without": without} if without else {}
            model = cls(n_items=record.n_items, **config.model_options, **extra)
        if prepares(model):
            model.prepare(split_validation(train(), config.held_out)[0])
        if config.is_sparse and (layers := layers_in(weights)):
            how: dict[str, Any] = {name: getattr(config, name) for name in ("noise", "threshold", "unit")}
            sparsify(model, lambda name, _: name in layers, **how)
        model.load_state_dict(weights)
    except DissectError:
        raise
    except Exception as error:  # the class may be a user's, and fail in any way
        reason = " ".join(str(error).split())
        raise DataError(f"The checkpoint {path} does not fit the model {config.model}: {reason}", again) from error
    return model.eval(), int(step)


def reported(saved: dict[str, Any]) -> dict[str, torch.Tensor]:
    """The weights that a checkpoint's run reports: the means, where parameters were averaged.

    A parameter with two names (tied weights) has its mean under the first one.
    """
    weights, means = saved["model"], saved.get("averages", {}).get("means", {})
    averaged = {name.removeprefix("model."): mean for name, mean in means.items() if name.startswith("model.")}
    tied = {(weights[name].data_ptr(), weights[name].shape): mean for name, mean in averaged.items()}
    return {name: tied.get((weight.data_ptr(), weight.shape), weight) for name, weight in weights.items()}
