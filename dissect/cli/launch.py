"""From the options of `dissect run` and `dissect train` to finished run folders: shared by both verbs."""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from dissect.cli.live import make_observer
from dissect.data.sessions import Dataset, PrefixTensors
from dissect.errors import UsageError
from dissect.experiment.jobs import at_once
from dissect.experiment.subject import Subject, find_model
from dissect.runs import files, folders
from dissect.runs.config import Config
from dissect.text import as_name, check_name
from dissect.training import workers
from dissect.training.device import describe_environment, prepare_device
from dissect.training.evaluation import evaluate_scores, metrics
from dissect.training.finish import write_ranks_of
from dissect.training.loop import fit
from dissect.training.products import at_hand
from dissect.training.record import Observer
from dissect.training.setup import exchange, load_dense, require_compiler
from dissect.training.start import Start, weights_of
from models import BASELINES


def starting_weights(
    run: str | None, runs_dir: Path, subject: Subject, options: Mapping[str, Any], data: Dataset
) -> Start:
    """The weights of a finished run, for --init-from; an empty Start where it is not asked for."""
    if run is None:
        return Start()
    return weights_of(folders.resolve_run(run, runs_dir), data, lambda n: subject.cls(n_items=n, **options))


def group_folder(config: Config, name: str | None, runs_dir: Path) -> Path:
    """runs/<name>-<hash>, where the name is the model's and the data set's unless given.

    Raises UsageError where a group cannot have that name.
    """
    name = as_name(f"{class_of(config.model)}-{config.dataset}") if name is None else name
    check_name(name, "A group (--name)")
    return runs_dir / f"{name}-{config.hash}"


def class_of(model: str) -> str:
    """A model's name in that of a folder: for a user's own, `file.py:Class`, the class."""
    return model.rpartition(":")[2]


def prepare_group(group: Path, config: Config, data: Dataset) -> None:
    """Write what a group is about, once. Raises DataError where what is there has been changed by hand."""
    if (group / "config.toml").exists():
        folders.group_config(group)
    if not (group / "config.toml").exists():
        counts = {
            "n_items": data.n_items,
            "train": {
                "sessions": len(data.train),
                "clicks": data.train.n_clicks,
                "prefixes": data.train.n_prefixes,
            },
            "test": {
                "sessions": len(data.test),
                "clicks": data.test.n_clicks,
                "prefixes": data.test.n_prefixes,
            },
        }
        files.write_json(
            group / "data.json",
            {"name": data.name, "split_hash": data.split_hash, **counts, "provenance": data.provenance},
        )
        files.write_identifiers(group, data.identifiers)
        files.write_toml(group / "config.toml", config.to_dict())


def check_start(build: Callable[[], Any], config: Config, weights: dict[str, Any] | None) -> None:
    """Raises DataError, before anything is written, where weights do not fit the model, or `where` names none of it."""
    if weights is not None:
        load_dense(build(), weights)
    if config.is_sparse:
        exchange(build(), config)


def variant_name(without: Sequence[str]) -> str:
    """The folder name of a model without some roles; "full" for all of it."""
    return f"without-{'-'.join(sorted(without))}" if without else folders.FULL


def train_seeds(
    subject: Subject,
    data: Dataset,
    config: Config,
    group: Path,
    *,
    seeds: Sequence[int],
    without: Sequence[str] = (),
    device: str = "auto",
    force: bool = False,
    quiet: bool = False,
    console: Console,
    weights: dict[str, Any] | None = None,
    steps: Mapping[int, int] | None = None,
    jobs: int = 1,
) -> None:
    """Train each seed into the group, or the reduced model of `without` beside it.

    `steps` are those of a seed that is not to make the `max_steps` of the configuration; `jobs` seeds are trained at
    the same time. A run without DONE goes on where it stopped. Raises UsageError where all are finished already (unless
    `force`, which keeps the old ones aside).
    """
    variant = variant_name(without)
    places = {seed: folders.run_path(group, seed, variant) for seed in dict.fromkeys(seeds)}
    done = [seed for seed, folder in places.items() if folders.is_done(folder)]
    where = prepare_device(device, config.batch_size * data.n_items * config.model_options.get("dim", 256))
    at_hand(config.products, where)  # refused before anything is written
    require_compiler(config)
    workers.wait()
    if force:
        for folder in places.values():
            if folder.exists() and workers.is_first():
                _tell(console, f"The old run is kept as {files.set_aside(folder)}")
    elif len(done) == len(places):
        for seed in done:
            folders.read_summary(places[seed])  # says how to write a lost one again
        see = f"dissect verdict {shlex.quote(str(group))}"
        raise UsageError(
            f"Finished already: {', '.join(str(places[seed]) for seed in done)}.",
            "Choose another --seed, or --force (the old run is kept aside). See it: "
            + (see if config.is_sparse else f"dissect compare --dataset {shlex.quote(data.name)}"),
        )
    options = dict(config.model_options)

    def build() -> Any:
        extra = {"without": tuple(without)} if without else {}
        return subject.cls(n_items=data.n_items, **options, **extra)

    check_start(build, config, weights)
    if workers.is_first():
        prepare_group(group, config, data)
    workers.wait()
    todo = [seed for seed, folder in places.items() if not folders.is_done(folder)]
    if jobs > 1 and len(todo) > 1:
        shared = {"data": data, "config": config, "group": group, "without": without, "device": device}
        also = {"quiet": quiet, "weights": weights, "steps": steps}
        at_once(_train_named, todo, min(jobs, len(todo)), model=subject.given or subject.name, **shared, **also)
    for number, (seed, folder) in enumerate(places.items(), 1):
        if folders.is_done(folder):
            if seed in done:
                _tell(console, f"Seed {seed} is finished already: {folder}")
            continue
        of = f" ({number} of {len(places)})" if len(places) > 1 else ""
        title = f"{subject.name} on {data.name}, seed {seed}{of}" + (
            f", without {', '.join(without)}" if without else ""
        )
        observer = make_observer(console, title, config.threshold, quiet or not workers.is_first())
        fit(
            build,
            data,
            replace(config, max_steps=(steps or {}).get(seed, config.max_steps)),
            folder,
            seed=seed,
            variant=variant,
            device=where,
            observer=observer,
            weights=weights,
        )


def _train_named(model: str, **arguments: Any) -> None:
    """`train_seeds` in a process of its own, where the class of a user's model has to be found again."""
    train_seeds(find_model(model), **arguments)


def rank_baseline(
    name: str, data: Dataset, config: Config, group: Path, force: bool, quiet: bool, console: Console
) -> dict[str, Any]:
    """Fit a model without gradients and rank the test set, into a run folder like any other (seed 1).

    It has no epochs to choose and uses no validation part: it is fitted on all training sessions.
    """
    run = folders.run_path(group, 1)
    if run.exists() and force:
        _tell(console, f"The old run is kept as {files.set_aside(run)}")
    if folders.is_done(run):
        _tell(console, f"Finished already: {run}")
        return folders.read_summary(run)
    prepare_device()
    prepare_group(group, config, data)
    with files.locked(run):
        began = time.perf_counter()
        model = BASELINES[name](data.n_items).fit(data.train)
        fitted = time.perf_counter() - began
        observer = make_observer(console, f"{name} on {data.name}", config.threshold, quiet)
        test = PrefixTensors(data.test)
        try:
            rank = evaluate_scores(model, test, report=_report_to(observer, "test"))
            worst = evaluate_scores(model, test, report=_report_to(observer, "test, ties against it"), ties="worst")
        finally:
            observer.end()
        write_ranks_of(run / "ranks-test-last.npz", rank, data.test)
        files.write_json(run / "environment.json", describe_environment(torch.device("cpu")))
        summary = {
            "model": name,
            "dataset": data.name,
            "split_hash": data.split_hash,
            "seed": 1,
            "variant": folders.FULL,
            "protocol": config.protocol,
            "where": "none",
            "epochs": 0,
            "seconds": fitted,
            "seconds_evaluation": time.perf_counter() - began - fitted,
            "n_parameters": 0,
            "selected": {"rule": "no epochs", "step": 0, "epoch": 0},
            "test": metrics(rank),
            "test_worst_ties": metrics(worst),  # many scores of these models are equal
            "valid": None,
            "selection_bias": {"hr@20": 0.0, "mrr@20": 0.0},
            "checks": {},
        }
        files.write_json(run / "summary.json", summary)
        folders.mark_done(run)
    return summary


def _report_to(observer: Observer, what: str) -> Callable[[int, int], None]:
    return lambda done, total: observer.evaluating(what, done, total)


def _tell(console: Console, text: str) -> None:
    """One line that names a path, as it is."""
    console.print(text, highlight=False, markup=False, soft_wrap=True)
