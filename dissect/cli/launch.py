"""From the options of `dissect run` and `dissect train` to finished run folders: shared by both verbs."""

from __future__ import annotations

import difflib
import hashlib
import importlib.util
import inspect
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from dissect import runs
from dissect.cli.jobs import at_once
from dissect.cli.live import make_observer
from dissect.data.sessions import Dataset, PrefixTensors
from dissect.errors import DataError, UsageError, unknown
from dissect.training import workers
from dissect.training.checkpoint import load_checkpoint
from dissect.training.config import Config
from dissect.training.device import describe_environment, prepare_device
from dissect.training.evaluation import evaluate_scores, metrics
from dissect.training.finish import write_ranks_of
from dissect.training.loop import fit
from dissect.training.record import Observer
from dissect.training.setup import load_dense, selects
from models import BASELINES, MODELS

_BY_NAME = inspect.Parameter.VAR_KEYWORD


@dataclass(frozen=True)
class Subject:
    """A model class under the name by which it is recorded, with what identifies its source."""

    name: str
    cls: Any
    source: str | None = None  # SHA-256 of the file of a user's own model
    given: str = ""  # what the user called it, where that is not the name


def find_model(name: str) -> Subject:
    """A registered model, or a user's own as `path/to/file.py:ClassName`.

    Raises UsageError with the nearest names, or with what is wrong about the file.
    """
    if ".py:" not in name:
        if name not in MODELS:
            raise unknown("model", name, MODELS)
        return Subject(name, MODELS[name])
    path, class_name = name.rsplit(":", 1)
    file = Path(path)
    if not file.is_file():
        raise UsageError(f"There is no file {path}.", "--model takes path/to/file.py:ClassName.")
    source = hashlib.sha256(file.read_bytes()).hexdigest()
    # A name of its own, so that no other module is shadowed and sys.path stays as it is.
    spec = importlib.util.spec_from_file_location(f"dissect_user_model_{source[:12]}", file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where dataclasses look for the module of a class
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise UsageError(f"{path} cannot be imported: {type(error).__name__}: {error}") from error
    cls = getattr(module, class_name, None)
    if not inspect.isclass(cls):
        classes = [n for n, v in vars(module).items() if inspect.isclass(v)]
        raise unknown(f"class in {path}", class_name, classes)
    needed = [method for method in ("item_states", "encode", "candidates") if not hasattr(cls, method)]
    if needed:
        raise UsageError(
            f"{class_name} lacks {', '.join(needed)}().",
            "The contract is in models/base.py: derive from SessionModel.",
        )
    return Subject(f"{file.name}:{class_name}", cls, source, name)


def model_options(
    subject: Subject, given: Mapping[str, Any], preset: str | None = None, extra: Sequence[str] = ()
) -> dict[str, Any]:
    """Arguments for the constructor: those of a preset, then `given`, then `key=value` texts.

    Raises UsageError for an argument that the model does not take, or a preset that it does not have.
    """
    parameters = inspect.signature(subject.cls).parameters
    named = [name for name, parameter in parameters.items() if parameter.kind is not _BY_NAME]
    more = getattr(subject.cls, "more_options", ())
    takes = [name for name in dict.fromkeys([*named, *more]) if name not in ("n_items", "without")]
    anything = len(named) < len(parameters) and not more
    options: dict[str, Any] = {}
    if preset is not None:
        presets = getattr(subject.cls, "presets", {})
        if preset not in presets:
            raise unknown(f"preset of {subject.name}", preset, presets)
        options |= presets[preset]
    for name, value in given.items():
        if value is None:
            continue
        if name not in takes:
            raise UsageError(f"{subject.name} takes no {name}.", f"It takes: {', '.join(takes)}.")
        options[name] = value
    for text in extra:
        name, equals, value = text.partition("=")
        if not equals or not (name in takes or anything):
            near = difflib.get_close_matches(name, takes, n=1)
            raise UsageError(
                f"{subject.name} takes no option {text!r}.",
                f"Did you mean {near[0]}=...?" if near else f"It takes: {', '.join(f'{t}=...' for t in takes)}.",
            )
        options[name] = _value(value)
    # TOML has no word for none: where it is the default it need not be said, elsewhere it would be lost.
    lost = [n for n, v in options.items() if v is None and n in named and parameters[n].default is not None]
    if lost:
        raise UsageError(f"{subject.name} takes no {lost[0]}=none.", "Leave it out for the default.")
    options = {name: value for name, value in options.items() if value is not None}
    try:
        subject.cls(n_items=2, **options)  # the model itself says what does not fit, before anything is written
    except (TypeError, ValueError) as error:
        raise UsageError(f"{subject.name} cannot be built so: {error}.", f"dissect models {subject.name}") from error
    return options


def _value(text: str) -> Any:
    """A number, true, false, none, or the text itself."""
    plain = {"true": True, "false": False, "none": None}
    if text.lower() in plain:
        return plain[text.lower()]
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            pass
    return text


def starting_weights(run: str | None, runs_dir: Path) -> tuple[dict[str, Any] | None, str | None]:
    """(weights, fingerprint) of a finished run's model, for --init-from; (None, None) where it is not asked for.

    Raises UsageError or DataError where there is no such run, or no checkpoint in it.
    """
    if run is None:
        return None, None
    folder = next((p for p in (Path(run), runs_dir / run) if (p / "checkpoints").is_dir()), None)
    if folder is None:
        raise UsageError(
            f"{run!r} is no run with checkpoints.",
            f"A run is a seed folder of a group, e.g. {runs_dir}/<group>/s1.",
        )
    best, last = folder / "checkpoints" / "best.pt", folder / "checkpoints" / "last.pt"
    weights = load_checkpoint(best if best.exists() else last)["model"]
    if any(name.endswith("log_sigma2") for name in weights):
        raise DataError(f"{run} is itself dissected.", "--init-from takes a dense run: dissect train, or --where none.")
    digest = hashlib.sha256()
    for name in sorted(weights):
        digest.update(weights[name].contiguous().numpy().tobytes())
    return weights, digest.hexdigest()[:16]


def group_folder(config: Config, name: str | None, runs_dir: Path) -> Path:
    """runs/<name>-<hash>, where the name is the model's and the data set's unless given."""
    return runs_dir / f"{name or f'{Path(config.model).stem}-{config.dataset}'}-{config.hash}"


def prepare_group(group: Path, config: Config, data: Dataset) -> None:
    """Write what a group is about, once."""
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
        runs.write_json(
            group / "data.json",
            {"name": data.name, "split_hash": data.split_hash, **counts, "provenance": data.provenance},
        )
        runs.write_toml(group / "config.toml", config.to_dict())


def check_start(build: Callable[[], Any], config: Config, weights: dict[str, Any] | None) -> None:
    """Raises DataError, before anything is written, where weights do not fit the model, or `where` names none of it."""
    if weights is not None:
        load_dense(build(), weights)
    if config.where not in ("both", "none"):
        model = build()
        chosen = selects(config.where, model.matrices)
        if chosen is not None and not any(chosen(name, module) for name, module in model.named_modules()):
            raise DataError(f"The model has no weight matrix that '{config.where}' names.", "See: dissect models")


def variant_name(without: Sequence[str]) -> str:
    """The folder name of a model without some roles; "full" for all of it."""
    return f"without-{'-'.join(sorted(without))}" if without else runs.FULL


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
) -> list[dict[str, Any]]:
    """Train each seed into the group, or the reduced model of `without` beside it; returns their summaries.

    `steps` are those of a seed that is not to make the `max_steps` of the configuration; `jobs` seeds are trained at
    the same time. A run without DONE goes on where it stopped. Raises UsageError where all are finished already (unless
    `force`, which keeps the old ones aside).
    """
    variant = variant_name(without)
    folders = {seed: runs.run_path(group, seed, variant) for seed in dict.fromkeys(seeds)}
    done = [seed for seed, folder in folders.items() if runs.is_done(folder)]
    where = prepare_device(device, config.batch_size * data.n_items * config.model_options.get("dim", 256))
    workers.wait()
    if force:
        for folder in folders.values():
            if folder.exists() and workers.is_first():
                console.print(f"The old run is kept as {runs.set_aside(folder)}", highlight=False, markup=False)
    elif len(done) == len(folders):
        raise UsageError(
            f"Finished already: {', '.join(str(folders[seed]) for seed in done)}.",
            "Choose another --seed, or --force (the old run is kept aside). See it: dissect plot density",
        )
    options = dict(config.model_options)

    def build() -> Any:
        extra = {"without": tuple(without)} if without else {}
        return subject.cls(n_items=data.n_items, **options, **extra)

    check_start(build, config, weights)
    if workers.is_first():
        prepare_group(group, config, data)
    workers.wait()
    todo = [seed for seed, folder in folders.items() if not runs.is_done(folder)]
    if jobs > 1 and len(todo) > 1:
        shared = {"data": data, "config": config, "group": group, "without": without, "device": device}
        also = {"quiet": quiet, "weights": weights, "steps": steps}
        at_once(_train_named, todo, min(jobs, len(todo)), model=subject.given or subject.name, **shared, **also)
    summaries = []
    for number, (seed, folder) in enumerate(folders.items(), 1):
        if runs.is_done(folder):
            if seed in done:
                console.print(f"Seed {seed} is finished already: {folder}", highlight=False, markup=False)
            summaries.append(runs.read_json(folder / "summary.json"))
            continue
        of = f" ({number} of {len(folders)})" if len(folders) > 1 else ""
        title = f"{subject.name} on {data.name}, seed {seed}{of}" + (
            f", without {', '.join(without)}" if without else ""
        )
        observer = make_observer(console, title, config.threshold, quiet or not workers.is_first())
        summaries.append(
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
        )
    return summaries


def _train_named(model: str, **arguments: Any) -> None:
    """`train_seeds` in a process of its own, where the class of a user's model has to be found again."""
    train_seeds(find_model(model), **arguments)


def rank_baseline(
    name: str, data: Dataset, config: Config, group: Path, force: bool, quiet: bool, console: Console
) -> dict[str, Any]:
    """Fit a model without gradients and rank the test set, into a run folder like any other (seed 1).

    It has no epochs to choose and uses no validation part: it is fitted on all training sessions.
    """
    run = runs.run_path(group, 1)
    if run.exists() and force:
        console.print(f"The old run is kept as {runs.set_aside(run)}", highlight=False, markup=False)
    if runs.is_done(run):
        console.print(f"Finished already: {run}", highlight=False, markup=False)
        return runs.read_json(run / "summary.json")
    prepare_device()
    prepare_group(group, config, data)
    with runs.locked(run):
        began = time.perf_counter()
        model = BASELINES[name](data.n_items).fit(data.train)
        fitted = time.perf_counter() - began
        observer = make_observer(console, f"{name} on {data.name}", config.threshold, quiet)
        try:
            rank = evaluate_scores(model, PrefixTensors(data.test), report=_report_to(observer))
        finally:
            observer.end()
        write_ranks_of(run / "ranks-test-last.npz", rank, data.test)
        runs.write_json(run / "environment.json", describe_environment(torch.device("cpu")))
        summary = {
            "model": name,
            "dataset": data.name,
            "split_hash": data.split_hash,
            "seed": 1,
            "variant": runs.FULL,
            "protocol": config.protocol,
            "where": "none",
            "epochs": 0,
            "seconds": fitted,
            "seconds_evaluation": time.perf_counter() - began - fitted,
            "n_parameters": 0,
            "selected": {"rule": "no epochs", "step": 0, "epoch": 0},
            "test": metrics(rank),
            "valid": None,
            "selection_bias": {"hr@20": 0.0, "mrr@20": 0.0},
            "checks": {},
        }
        runs.write_json(run / "summary.json", summary)
        runs.mark_done(run)
    return summary


def _report_to(observer: Observer) -> Callable[[int, int], None]:
    return lambda done, total: observer.evaluating("test", done, total)
