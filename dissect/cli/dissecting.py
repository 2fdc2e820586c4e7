"""The work behind `dissect run` and `dissect train`, apart from their options."""

from __future__ import annotations

import json
import math
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from analyses.compare import results_table
from analyses.verdict import judge
from dissect.cli.bring import load_or_fetch
from dissect.cli.compare_view import render_results
from dissect.cli.launch import (
    class_of,
    group_folder,
    rank_baseline,
    starting_weights,
    train_seeds,
    variant_name,
)
from dissect.cli.verdict_view import render_verdict
from dissect.data import catalog, planted
from dissect.data.sessions import Dataset, split_validation
from dissect.errors import DataError, UsageError, unknown
from dissect.experiment.subject import changes, find_model, model_options, try_on, try_out
from dissect.runs import folders
from dissect.runs.config import Config
from dissect.text import as_name
from dissect.training import workers
from models import BASELINES
from models.base import MODULES, ROLES
from models.check import without_role

DEFAULT_DIM = 256
DEFAULT_STEPS = 60_000  # of dissect run
DEFAULT_EPOCHS = 10.0  # of dissect train
# What a run on the built-in data uses where nothing else is said: small, and done in about a minute a seed.
BUILT_IN_STEPS = {"demo": 2_000, "demo-bag": 3_000, "demo-walk": 3_000}
BUILT_IN_DIM = 32
LONG_PREFIX = 200  # clicks
LARGE_BATCH = 2**26  # bytes of a padded layer


@dataclass(frozen=True)
class Asked:
    """What `dissect run` and `dissect train` are asked in common (dissect/cli/options.py: training)."""

    model: str
    dataset: str
    epochs: float | None
    max_steps: int | None
    without: tuple[str, ...]
    seeds: tuple[int, ...]
    jobs: int
    batch_size: int
    longest: int
    negatives: int
    products: str
    compiled: bool
    dim: int | None
    propagation: str | None
    readout: str | None
    preset: str | None
    extra: tuple[str, ...]
    lr: float
    l2: float
    validation: float
    order: str
    init_from: str | None
    device: str
    runs_dir: str
    data_dir: str | None
    name: str | None
    force: bool
    as_json: bool
    quiet: bool


def dissect_model(
    *,
    where: str,
    kl_weight: float,
    kl_warmup: float,
    prior: str,
    noise: str,
    threshold: float,
    log_sigma2: float | None,
    schedule: str,
    decay_everything: bool,
    **common: Any,
) -> None:
    """Train every seed asked for with SparseVD and print the verdict of the group."""
    workers.join()
    asked, console = Asked(**common), Console(stderr=True, quiet=not workers.is_first())
    choices = tuple(dict.fromkeys(("both", "none", *MODULES, *ROLES)))
    if where not in choices:
        raise unknown("module or role", where, choices)
    find_model(asked.model)  # an unknown one is told before anything is fetched
    data = load_dataset(asked.dataset, asked.data_dir, console)
    settings = {
        "where": where,
        "max_steps": steps_asked(asked, data, asked.validation) or BUILT_IN_STEPS.get(data.name, DEFAULT_STEPS),
        "kl_weight": kl_weight,
        "kl_warmup": kl_warmup,
        "prior": prior,
        "noise": noise,
        "threshold": threshold,
        "log_sigma2": log_sigma2,
        "schedule": schedule,
        "decay_everything": decay_everything,
    }
    group = train_group(asked, data, settings, console)
    if not workers.is_first():
        return
    show_verdict(group, data.name, asked.as_json)


def train_dense(*, protocol: str, patience: int, refit: bool, dataset: str | None, **common: Any) -> None:
    """Train every seed asked for without SparseVD and print it beside the finished groups of the same split."""
    workers.join()
    console = Console(stderr=True, quiet=not workers.is_first())
    runs_dir = Path(common["runs_dir"])
    if dataset is None:
        newest = folders.newest_sound_group(runs_dir)
        dataset = folders.group_config(newest)["dataset"] if newest else "demo"
        console.print(f"Data set: {dataset} ({'as in the newest group' if newest else 'built in'}).", highlight=False)
    asked = Asked(dataset=str(dataset), **common)
    if asked.model in BASELINES:
        refuse_for_baselines(asked, console)
    else:
        find_model(asked.model)  # an unknown one is told before anything is fetched
    data = load_dataset(asked.dataset, asked.data_dir, console)
    if protocol == "paper":
        if refit:
            raise UsageError("--refit has nothing to add to --protocol paper, which trains on everything already.")
        console.print(
            "Protocol 'paper': trained on everything, each metric at its best epoch on test. These numbers flatter.",
            style="bold yellow",
            highlight=False,
        )
    if asked.model in BASELINES:
        config = Config(asked.model, data.name, data.split_hash, where="none", protocol=protocol, max_steps=1)
        group = group_folder(config, asked.name, runs_dir)
        if workers.is_first():
            rank_baseline(asked.model, data, config, group, asked.force, asked.quiet, console)
    else:
        held_out = asked.validation if protocol == "clean" else 0.0
        settings = {
            "where": "none",
            "max_steps": steps_asked(asked, data, held_out)
            or steps_of(DEFAULT_EPOCHS, data, asked.batch_size, held_out),
            "schedule": "steps",
            "select": "mrr@20",
            "protocol": protocol,
            "patience": patience,
        }
        group = (train_and_refit if refit else train_group)(asked, data, settings, console)
    if not workers.is_first():
        return
    show_results(group, data, protocol, asked.as_json)


def refuse_for_baselines(asked: Asked, console: Console) -> None:
    """Raises UsageError where a baseline is given what only a model with weights takes.

    What several models of a comparison are given alike is let pass, with a word about it.
    """
    given = {
        "--preset": asked.preset,
        "--option": asked.extra,
        "--propagation": asked.propagation,
        "--readout": asked.readout,
        "--without": asked.without,
        "--init-from": asked.init_from,
    }
    flags = [flag for flag, value in given.items() if value]
    if flags:
        raise UsageError(
            f"{asked.model} is a baseline without weights or settings: it takes no {', '.join(flags)}.",
            f"Leave it out: dissect train {asked.model} --dataset {shlex.quote(asked.dataset)}",
        )
    idle = {
        "--seed": asked.seeds != (1,),
        "--epochs": asked.epochs is not None,
        "--max-steps": asked.max_steps is not None,
        "--dim": asked.dim is not None,
        "--lr": asked.lr != 0.001,
        "--longest": asked.longest,
        "--negatives": asked.negatives,
        "--products": asked.products != "float32",
        "--compile": asked.compiled,
    }
    flags = [flag for flag, is_given in idle.items() if is_given]
    if flags:
        console.print(f"{', '.join(flags)}: without effect on {asked.model}, which is not trained.", highlight=False)


def show_verdict(group: Path, dataset: str, as_json: bool) -> None:
    """Judge a group, trained on the data set of that name, and print its verdict."""
    verdict = judge(group, judged=planted.judged(dataset))
    if as_json:
        print(json.dumps(verdict, indent=1, allow_nan=False))
    else:
        Console().print(render_verdict(verdict))


def show_results(group: Path, data: Dataset, protocol: str, as_json: bool) -> None:
    """Print what was trained on a split, the group that was trained just now among it."""
    table = results_table(group.parent, data.split_hash, protocol)
    if as_json:
        print(table.to_json(orient="records", indent=1))
    else:
        Console().print(render_results(table, data.name, protocol, newest=group.name))


def train_group(asked: Asked, data: Dataset, settings: dict[str, Any], console: Console) -> Path:
    """Resolve the configuration, train its seeds, and return the folder of the group."""
    return train(asked, data, resolve(asked, data, settings, console), console)


def train_and_refit(asked: Asked, data: Dataset, settings: dict[str, Any], console: Console) -> Path:
    """`train_group`, then again on all training sessions, each seed for the epochs that it chose before."""
    config = resolve(asked, data, settings, console)
    group = folder_of(asked, config)
    variant = variant_name(asked.without)
    chosen = {seed: folders.run_path(group, seed, variant) for seed in asked.seeds}
    everything = replace(config, refit=True, validation=0.0, select="last", patience=0)
    try_on(find_model(asked.model), data, everything, asked.without)  # now, not after the first training
    if asked.force or not all(folders.is_done(run) for run in chosen.values()):
        train(asked, data, config, console)
    steps = {}
    for seed, run in chosen.items():
        selected = folders.read_summary(run).get("selected")
        if selected is None:
            raise DataError(f"{run / 'summary.json'} does not tell the epoch chosen.", folders.write_again(run))
        epochs = selected["epoch"]
        steps[seed] = steps_of(epochs, data, asked.batch_size, validation=0.0)
        console.print(f"Seed {seed}: {epochs:g} epochs, now on everything.", highlight=False)
    return train(asked, data, everything, console, steps)


def _hold_out(sessions: int) -> str:
    if sessions == 1:
        return "There is one training session, so nothing can be held out"
    return f"Hold a part of the {sessions:,} training sessions out, such as --validation {max(0.1, 1 / sessions):.2g}"


def resolve(asked: Asked, data: Dataset, settings: dict[str, Any], console: Console) -> Config:
    """The configuration that is asked for. Raises UsageError for what the model does not take or cannot do without.

    Says on the console which weight matrices of the model have no role.
    """
    subject = find_model(asked.model)
    for role in asked.without:
        if role not in subject.cls.removable:
            raise UsageError(
                f"{subject.name} cannot be built without {role!r}.",
                f"It can without: {', '.join(subject.cls.removable) or 'nothing'}.",
            )
    usual = BUILT_IN_DIM if data.name in planted.BUILT_IN else DEFAULT_DIM
    given = {"dim": asked.dim, "propagation": asked.propagation, "readout": asked.readout}
    options = model_options(subject, given, asked.preset, asked.extra, usual, asked.without)
    longest = longest_prefix(data, asked, options.get("dim", usual), console)
    if subject.source is None and options.get("levels", 0) > longest:
        raise UsageError(
            f"{subject.name} cannot ask with the last 1 to {options['levels']} clicks: the longest prefix of "
            f"{data.name} has {longest}.",
            f"At most --option levels={longest}.",
        )
    model, _ = try_out(subject, options)
    chooses = settings.get("select", "last") != "last" and settings["protocol"] == "clean"
    if chooses and not split_validation(data.train, asked.validation)[1].n_prefixes:
        raise UsageError(
            f"--validation {asked.validation:g} leaves nothing to choose the epoch on.",
            f"{_hold_out(len(data.train))}; --protocol paper chooses on test.",
        )
    if asked.negatives >= data.n_items:
        raise UsageError(
            f"--negatives {asked.negatives} are no fewer than the {data.n_items} items of {data.name}.",
            "Leave the option out: the whole catalogue is exact, and quicker.",
        )
    if asked.negatives and model.candidates(model.item_states())[1] is not None:
        raise UsageError(f"--negatives is for models without a bias per item; {subject.name} has one.", "Leave it out.")
    slots = options.get("padded_length")
    if subject.source is None and slots and slots <= longest:
        console.print(
            f"padded_length={slots}: of longer sessions the last {slots - 1} clicks count. The released code takes the "
            f"longest prefix and an empty slot: on {data.name} that is --option padded_length={longest + 1}.",
            style="yellow",
            highlight=False,
            soft_wrap=True,
        )
    unnamed = without_role(model)
    if unnamed:
        says = f"{subject.name} gives no role to {', '.join(unnamed)}: see `matrices` in models/base.py. Role: other."
        console.print(says, style="yellow", highlight=False, markup=False, soft_wrap=True)
    return Config(
        model=subject.name,
        dataset=data.name,
        split_hash=data.split_hash,
        model_options=options,
        model_source=subject.source,
        batch_size=asked.batch_size,
        longest=asked.longest,
        negatives=asked.negatives,
        products=asked.products,
        compiled=asked.compiled,
        lr=asked.lr,
        l2=asked.l2,
        validation=asked.validation,
        order=asked.order,
        init_from=starting_weights(asked.init_from, Path(asked.runs_dir), subject, options, data).fingerprint,
        **settings,
    )


def longest_prefix(data: Dataset, asked: Asked, dim: int, console: Console) -> int:
    """How many clicks the longest prefix has that a model is given; says so where it makes batches large."""
    lengths = np.concatenate([data.train.lengths, data.test.lengths]) - 1
    longest = int(lengths.max())
    if asked.longest:
        return min(longest, asked.longest)
    size = 4 * asked.batch_size * longest * dim
    if longest > LONG_PREFIX and size > LARGE_BATCH:
        usual = max(20, int(np.quantile(lengths, 0.99)))
        cut = np.maximum(lengths - usual, 0).sum() / lengths.sum()
        console.print(
            f"The longest prefix of {data.name} has {longest:,} clicks. A batch that is padded to it takes "
            f"{size / 1e9:.2g} GB in each layer of width {dim}, and its step is slow. --longest {usual} keeps the last "
            f"{usual} clicks; {100 * cut:.2g} % of the prefixes are longer.",
            style="yellow",
            highlight=False,
            soft_wrap=True,
        )
    return longest


def train(
    asked: Asked, data: Dataset, config: Config, console: Console, steps: Mapping[int, int] | None = None
) -> Path:
    """Train the seeds of a configuration, each for its own `steps` where given; returns the folder of the group."""
    group = folder_of(asked, config)
    subject = find_model(asked.model)
    start = starting_weights(asked.init_from, Path(asked.runs_dir), subject, config.model_options, data)
    if start.fingerprint != config.init_from:
        raise DataError(f"{asked.init_from} has changed since this command began.", "Give it again.")
    try_on(subject, data, config, asked.without)
    if start.says:
        console.print(start.says, highlight=False, markup=False, soft_wrap=True)
    train_seeds(
        subject,
        data,
        config,
        group,
        seeds=asked.seeds,
        without=asked.without,
        device=asked.device,
        force=asked.force,
        quiet=asked.quiet,
        console=console,
        weights=start.weights,
        steps=steps,
        jobs=asked.jobs,
    )
    return group


def folder_of(asked: Asked, config: Config) -> Path:
    """The group's folder; its name tells model, preset, readout and data set where the user gives none."""
    preset = asked.preset if asked.preset and changes(find_model(asked.model), asked.preset) else None
    runs_dir, parts = Path(asked.runs_dir), (preset, asked.readout, "refit" if config.refit else None, config.dataset)
    if asked.name is not None:
        return group_folder(config, asked.name, runs_dir)
    older = as_name("-".join(filter(None, (Path(config.model).stem, *parts))))  # as groups of users' models were named
    if (before := group_folder(config, older, runs_dir)).exists():
        return before
    return group_folder(config, as_name("-".join(filter(None, (class_of(config.model), *parts)))), runs_dir)


def load_dataset(name: str, data_dir: str | None, console: Console) -> Dataset:
    """The data set of that name, fetched where it is not here and can be; says so where another split stands in."""
    data = load_or_fetch(name, data_dir)
    if data.name != catalog.canonical(name):
        console.print(
            f"'{name}' is not here; using '{data.name}', another split of the same log: compare with care.",
            highlight=False,
            soft_wrap=True,
        )
    return data


def steps_asked(asked: Asked, data: Dataset, validation: float) -> int | None:
    """The steps that --max-steps or --epochs say; None where neither is given. Raises UsageError where both are."""
    if asked.epochs is not None and asked.max_steps is not None:
        raise UsageError("--epochs and --max-steps exclude each other.")
    if asked.epochs is not None:
        return steps_of(asked.epochs, data, asked.batch_size, validation)
    return asked.max_steps


def steps_of(epochs: float, data: Dataset, batch_size: int, validation: float) -> int:
    """Steps of so many epochs. Raises UsageError unless they are more than 0."""
    if not 0 < epochs < 1e6:
        raise UsageError(f"--epochs must be above 0, and below a million, not {epochs:g}.")
    prefixes = split_validation(data.train, validation)[0].n_prefixes
    return max(1, math.ceil(epochs * math.ceil(prefixes / batch_size)))
