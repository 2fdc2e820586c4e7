"""From the options of `dissect run` and `dissect train` to finished run folders: shared by both verbs."""

from __future__ import annotations

import difflib
import hashlib
import importlib.util
import inspect
import sys
import time
import traceback
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import Tensor

from dissect import runs
from dissect.cli.jobs import at_once
from dissect.cli.live import make_observer
from dissect.data.sessions import Dataset, PrefixTensors, Sessions
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
from models import BASELINES, MODELS, base

_BY_NAME = inspect.Parameter.VAR_KEYWORD
CONTRACT = f"The contract is in models/base.py ({base.__file__})"
PROBE_ITEMS = 5
PLAIN = {int: "a whole number", float: "a number", bool: "true or false", str: "a text", type(None): "none"}


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
    if name in BASELINES:
        raise UsageError(
            f"{name} is a baseline: it has no weight matrices, and nothing to dissect.",
            f"Rank with it: dissect train {name}",
        )
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
    needed = ("item_states", "encode", "candidates", "matrices", "removable")
    lacking = [name for name in needed if not hasattr(cls, name)]
    if lacking:
        raise UsageError(f"{class_name} lacks {', '.join(lacking)}.", f"{CONTRACT}: derive from SessionModel.")
    return Subject(f"{file.name}:{class_name}", cls, source, name)


def model_options(
    subject: Subject,
    given: Mapping[str, Any],
    preset: str | None = None,
    extra: Sequence[str] = (),
    dim: int | None = None,
    without: Sequence[str] = (),
) -> dict[str, Any]:
    """Arguments for the constructor: those of a preset, then `given`, then `key=value` texts.

    `dim` is the width where nothing else says one and the model takes one. Raises UsageError for an argument that the
    model does not take, a preset that it does not have, and for a model that breaks the contract when it is tried out.
    """
    parameters = inspect.signature(subject.cls).parameters
    named = [name for name, parameter in parameters.items() if parameter.kind is not _BY_NAME]
    more = getattr(subject.cls, "more_options", ())
    takes = [name for name in dict.fromkeys([*named, *more]) if name not in ("n_items", "without")]
    anything = len(named) < len(parameters) and not more
    options: dict[str, Any] = {}
    if preset is not None:
        presets = getattr(subject.cls, "presets", {})
        if not presets:
            raise UsageError(f"{subject.name} has no presets.", "Give its arguments by --option KEY=VALUE.")
        if preset not in presets:
            raise unknown(f"preset of {subject.name}", preset, presets)
        options |= presets[preset]
    all_of_it = f"It takes: {', '.join(takes)}." if takes else f"Its constructor takes no options. {CONTRACT}."
    for name, value in given.items():
        if value is None:
            continue
        if name not in takes:
            raise UsageError(f"{subject.name} takes no {name}.", all_of_it)
        options[name] = value
    for text in extra:
        name, equals, value = text.partition("=")
        if not equals or not (name in takes or anything):
            near = difflib.get_close_matches(name, takes, n=1)
            raise UsageError(
                f"{subject.name} takes no option {text!r}.",
                f"Did you mean {near[0]}=...?" if near else all_of_it,
            )
        options[name] = _value(value)
    if dim is not None and "dim" in takes:
        options.setdefault("dim", dim)
    # TOML has no word for none: where it is the default it need not be said, elsewhere it would be lost.
    lost = [n for n, v in options.items() if v is None and n in named and parameters[n].default is not None]
    if lost:
        raise UsageError(f"{subject.name} takes no {lost[0]}=none.", "Leave it out for the default.")
    options = {name: value for name, value in options.items() if value is not None}
    _check_kinds(subject, options)
    _check_names(subject, try_out(subject, options)[0], options)
    for role in without:
        others = [other for other in without if other != role]
        (some, before), (less, after) = (try_out(subject, options, roles) for roles in (others, without))
        if some.state_dict().keys() == less.state_dict().keys() and torch.equal(before, after):
            said = " ".join([*(f"--option {text}" for text in extra), *(f"--without {other}" for other in others)])
            raise UsageError(
                f"--without {role} changes nothing: {subject.name} has none{said and ' with '}{said}.",
                f"Leave --without {role} out.",
            )
    return options


def try_out(subject: Subject, options: Mapping[str, Any], without: Sequence[str] = ()) -> tuple[Any, Tensor]:
    """(model, vectors): built with a catalogue of five items and run once, before anything is written.

    Raises UsageError where it cannot be built so, or breaks the contract: what was expected and what came.
    """
    extra = {"without": tuple(without)} if without else {}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        try:
            model = subject.cls(n_items=PROBE_ITEMS, **options, **extra)
        except Exception as error:
            kind = "" if isinstance(error, (TypeError, ValueError)) else f"{type(error).__name__}: "
            hint = f"See it: dissect models {subject.name}" if subject.source is None else f"{CONTRACT}."
            raise UsageError(f"{subject.name} cannot be built so: {kind}{error}.", hint) from error
        try:
            if hasattr(model, "prepare"):
                model.prepare(Sessions.from_lists([[1, 2, 3], [2, 4, 5, 1]]))
            return model, base.check(model, PROBE_ITEMS)
        except Exception as error:
            message = str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"
            line = _line_of(error.__cause__ or error, subject)
            raise UsageError(
                f"{subject.name} breaks the contract of models: {message}{line}.",
                f"{CONTRACT}." if subject.source else f"See what it takes: dissect models {subject.name}",
            ) from error


def _line_of(error: BaseException, subject: Subject) -> str:
    """Where in the user's file an error arose: " (own.py, line 12)"; empty where it did not."""
    file = inspect.getsourcefile(subject.cls) if subject.source else None
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == file]
    return f" ({Path(str(file)).name}, line {lines[-1]})" if lines else ""


def _check_kinds(subject: Subject, options: Mapping[str, Any]) -> None:
    """Raises UsageError for a value that is not of the kind that the constructor declares, if that is a plain one."""
    try:
        hints = typing.get_type_hints(subject.cls.__init__)
    except (NameError, TypeError):  # a user's own, which may name what it likes
        return
    for name, value in options.items():
        hint = hints.get(name)
        is_union = typing.get_origin(hint) in (typing.Union, types.UnionType)
        kinds = set(typing.get_args(hint)) if is_union else {hint}
        if kinds <= PLAIN.keys() and type(value) not in kinds | ({int} if float in kinds else set()):
            wanted = " or ".join(PLAIN[kind] for kind in PLAIN if kind in kinds)
            raise UsageError(f"{name} of {subject.name} is {wanted}, not {value!r}.")


def _check_names(subject: Subject, model: Any, options: Mapping[str, Any]) -> None:
    """Raises UsageError where `matrices` names what the model has not, unless an option or a role explains it."""
    absent, unnamed = base.not_there(model), base.without_role(model)
    removable = [n for n in absent if {model.matrices[n].role, model.matrices[n].module} & set(model.removable)]
    wrong = absent if unnamed else [name for name in absent if name not in removable]
    if wrong:
        near = difflib.get_close_matches(wrong[0], unnamed, n=1)
        raise UsageError(
            f"{subject.name} declares matrices that it has not: {', '.join(wrong)}."
            + (f" These have no role: {', '.join(unnamed)}." if unnamed else ""),
            (f"Did you mean {near[0]} instead of {wrong[0]}? " if near else "")
            + "`matrices` names layers as named_modules() does.",
        )


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
