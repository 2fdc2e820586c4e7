"""The work behind `dissect run`, apart from its options."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from rich.console import Console

from analyses.verdict import judge
from dissect.cli.launch import (
    find_model,
    group_folder,
    model_options,
    starting_weights,
    train_seeds,
)
from dissect.cli.run import BUILT_IN_SETTINGS
from dissect.cli.verdict_view import render_verdict
from dissect.data import catalog, planted
from dissect.data.sessions import Dataset, split_validation
from dissect.errors import UsageError, unknown
from dissect.training.config import Config
from models.base import MODULES, ROLES

DEFAULT_STEPS = 60_000


def load_dataset(name: str, data_dir: str | None, console: Console) -> Dataset:
    """The data set of that name; says so where another split stands in for it."""
    data = catalog.load(name, data_dir)
    if data.name != name:
        console.print(
            f"'{name}' is not here; using '{data.name}', another split: compare the two with care.",
            highlight=False,
        )
    return data


def resolve_steps(
    epochs: float | None,
    max_steps: int | None,
    default: int,
    data: Dataset,
    batch_size: int,
    validation: float,
) -> int:
    """Steps of training from --epochs or --max-steps. Raises UsageError for both, or for none above 0."""
    if epochs is not None and max_steps is not None:
        raise UsageError("--epochs and --max-steps exclude each other.")
    if epochs is None:
        return max_steps if max_steps is not None else default
    if epochs <= 0:
        raise UsageError(f"--epochs must be above 0, not {epochs}.")
    prefixes = split_validation(data.train, validation)[0].n_prefixes
    return math.ceil(epochs * math.ceil(prefixes / batch_size))


def dissect_model(
    *,
    model: str,
    dataset: str,
    where: str,
    without: tuple[str, ...],
    seeds: tuple[int, ...],
    epochs: float | None,
    max_steps: int | None,
    dim: int | None,
    propagation: str | None,
    extra: tuple[str, ...],
    init_from: str | None,
    device: str,
    runs_dir: Path,
    data_dir: str | None,
    name: str | None,
    force: bool,
    as_json: bool,
    quiet: bool,
    **settings: Any,
) -> None:
    """Train every seed asked for and print the verdict of the group. `settings` are fields of Config."""
    console = Console(stderr=True)
    choices = ("both", "none", *MODULES, *ROLES)
    if where not in choices:
        raise unknown("module or role", where, choices)
    subject = find_model(model)
    for role in without:
        if role not in subject.cls.removable:
            raise UsageError(
                f"{subject.name} cannot be built without {role!r}.",
                f"It can without: {', '.join(subject.cls.removable) or 'nothing'}.",
            )
    data = load_dataset(dataset, data_dir, console)
    built_in = BUILT_IN_SETTINGS.get(data.name, {})
    options = model_options(subject, {"dim": dim or built_in.get("dim", 256), "propagation": propagation}, extra)
    weights, fingerprint = starting_weights(init_from, runs_dir)
    config = Config(
        model=subject.name,
        dataset=data.name,
        split_hash=data.split_hash,
        model_options=options,
        model_source=subject.source,
        where=where,
        max_steps=resolve_steps(
            epochs,
            max_steps,
            built_in.get("max_steps", DEFAULT_STEPS),
            data,
            settings["batch_size"],
            settings["validation"],
        ),
        init_from=fingerprint,
        **settings,
    )
    group = group_folder(config, name, runs_dir)
    train_seeds(
        subject,
        data,
        config,
        group,
        seeds=seeds,
        without=without,
        device=device,
        force=force,
        quiet=quiet,
        console=console,
        weights=weights,
    )
    verdict = judge(group, judged=planted.judged(data))
    if as_json:
        print(json.dumps(verdict, indent=1))
    else:
        Console().print(render_verdict(verdict))
