"""From a request to a plan: a Config, the folder of its group, and whether model, data and settings go together."""

from __future__ import annotations

import math
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch
from torch import Tensor

from dissect.data import planted
from dissect.data.sessions import Dataset, split_validation, times_hash
from dissect.errors import UsageError, unknown
from dissect.experiment.subject import Subject, changes, defaults, find_model, model_options, try_out
from dissect.experiment.tuned import arguments_of, in_words, trace, tuned_for, verb_of
from dissect.runs import folders
from dissect.runs.config import CALIBRATED, CALIBRATED_EPOCHS, DENSE, EPOCHS, LITERAL, SETTINGS, Config
from dissect.runs.records import in_words as in_plain_words
from dissect.text import as_name, check_name
from dissect.training.losses import some_candidates
from dissect.training.start import Start, weights_of
from dissect.usual import RUNS
from models import base, check

DIM = 256  # default width of a model, as in the paper
CALIBRATED_DIM = 64  # that of `dissect run`, whose settings were chosen at widths 32 and 64: at 256 models overfit
# The defaults on built-in data: a small model, trained in about a minute a seed.
BUILT_IN_DIM = 32
BUILT_IN_STEPS = {"demo": 2_000, "demo-bag": 3_000, "demo-walk": 3_000}
LONG_PREFIX = 200  # clicks
LARGE_BATCH = 2**26  # bytes of a padded layer
OF_BASELINE = ("where", "protocol", "longest")  # the settings that count for a model without gradients

Say = Callable[[str], None]  # takes a note of one line
Report = Callable[[str, int, int], None]  # what is being done, how much of it is done, and of how much (0: unknown)


def unsaid(text: str) -> None:
    """Drop a note."""


def silent(what: str, done: int, total: int) -> None:
    """Tell nobody how far it is."""


@dataclass(frozen=True)
class Plan:
    """What is trained: some seeds of a configuration, into the folder of its group."""

    subject: Subject
    data: Dataset
    config: Config
    group: Path
    seeds: tuple[int, ...] = (1,)
    without: tuple[str, ...] = ()  # roles left out of the model
    weights: dict[str, Tensor] | None = None  # to start from
    steps: Mapping[int, int] = field(default_factory=dict)  # of seeds that do not make config.max_steps
    is_matched: bool = False  # the dense training beside a dissection: config is that of Config.matched
    parts: tuple[str, ...] = ()  # of the group's name, between model and data set
    tuned: Mapping[str, Any] | None = None  # where tuned settings come from (records.TunedBy)

    @property
    def variant(self) -> str:
        if self.is_matched:
            return folders.MATCHED
        return f"{folders.WITHOUT}{'-'.join(sorted(self.without))}" if self.without else folders.FULL

    @property
    def is_done(self) -> bool:
        return all(folders.is_done(self.run(seed)) for seed in self.seeds)

    @property
    def beside(self) -> tuple[Plan, ...]:
        """The matched dense training that belongs to a dissection with shadows."""
        is_dissection = self.config.shadows and not self.without and not self.is_matched
        return (replace(self, config=self.config.matched(), is_matched=True),) if is_dissection else ()

    def run(self, seed: int) -> Path:
        return folders.run_path(self.group, seed, self.variant)

    def build(self) -> Any:
        extra = {"without": self.without} if self.without else {}
        return self.subject.cls(n_items=self.data.n_items, **self.config.model_options, **extra)


def planned(
    model: str | type | Subject,
    data: Dataset,
    *,
    options: Mapping[str, Any] | None = None,
    preset: str | None = None,
    without: Sequence[str] = (),
    seeds: Sequence[int] = (1,),
    epochs: float | None = None,
    runs_dir: str | Path = RUNS,
    name: str | None = None,
    init_from: str | Path | None = None,
    refit: bool = False,
    tuned: str | Path | bool | None = None,
    anyway: bool = False,
    say: Say = unsaid,
    usual: Mapping[str, Any] = CALIBRATED,
    **settings: Any,
) -> Plan:
    """What `train` with the same arguments trains, and where; nothing is trained or written. Raises as it does."""
    subject, runs_dir, given, tuned_by = find_model(model), Path(runs_dir), dict(options or {}), None
    without = tuple(dict.fromkeys(without))
    if anyway and not tuned:
        raise UsageError("--anyway takes tuned settings from another data set, and none are asked for.", "Add --tuned.")
    if tuned:
        path, best = tuned_for(subject, data, verb_of(usual), tuned, runs_dir, preset, given, settings, anyway)
        say(f"Tuned settings: {path} ({in_words(best, given, settings)}).")
        tuned_by = trace(path, best)
        preset, given, epochs, settings = arguments_of(best, subject, preset, given, epochs, settings)
    settings = settings_of(subject, usual, preset, epochs, settings)
    if usual == CALIBRATED and epochs is None and not {"max_steps", "select"} & settings.keys():
        epochs = CALIBRATED_EPOCHS
    if settings.get("protocol") == "paper":
        if settings.get("validation") not in (None, 0.0, Config.validation):
            raise UsageError("--validation has no effect with --protocol paper, which trains on everything.")
        if refit:
            raise UsageError("--refit has nothing to add to --protocol paper, which trains on everything already.")
        say("Protocol 'paper': trained on everything, each metric at its best epoch on test. These numbers flatter.")
    if not subject.learns:
        idle = {"--seed": tuple(seeds) != (1,), "--epochs": epochs is not None, "--dim": given.pop("dim", None)}
        idle |= {"--init-from": init_from, "--refit": refit}
        settings = untrained(subject, settings, [flag for flag, value in idle.items() if value], say)
        seeds, epochs, init_from, refit = (1,), None, None, False
    kept = model_options(subject, given, preset, default_dim(data, usual), without)
    start = starting_weights(init_from, runs_dir, subject, kept, data)
    config = configure(subject, data, {**settings, "model_options": kept, "init_from": start.fingerprint}, epochs)
    if refit and not config.chooses:
        raise UsageError("--refit trains for the epochs that validation chose; a dissection chooses none.")
    if start.says:
        say(start.says)
    parts = [preset] if preset and changes(subject, preset) else []
    parts += [str(kept[option]) for option in subject.cls.in_name if option in given and option in kept]
    group, once = folder_of(config, runs_dir, name, parts), tuple(dict.fromkeys(seeds))
    return Plan(subject, data, config, group, once, without, start.weights, parts=tuple(parts), tuned=tuned_by)


def default_dim(data: Dataset, usual: Mapping[str, Any]) -> int:
    """The width of a model if nothing else says one, for the verb whose settings are `usual`."""
    if data.name in planted.BUILT_IN:
        return BUILT_IN_DIM
    return CALIBRATED_DIM if usual == CALIBRATED else DIM


def settings_of(
    subject: Subject, usual: Mapping[str, Any], preset: str | None, epochs: float | None, given: Mapping[str, Any]
) -> dict[str, Any]:
    """The settings `given`, then those of the preset's recipe, whose length counts only without `epochs`, then `usual`.

    CALIBRATED and LITERAL come before a recipe: a density can be read only with their batch, rates and schedule, and at
    the last step.

    Raises UsageError for an unknown setting, for one of SparseVD without it, and if a baseline is to be dissected.
    """
    known = {each.name for each in SETTINGS} | {"select"}
    for setting in given.keys() - known:
        raise unknown("setting", setting, known)
    recipe = dict(subject.cls.recipes.get(preset, {}))
    if epochs is not None:
        recipe.pop("max_steps", None)
    if is_dissection := usual in (CALIBRATED, LITERAL):
        recipe.pop("patience", None)
    first, then = (recipe, usual) if is_dissection else (usual, recipe)
    settings = {**first, **then, **given}
    if settings.get("where", "both") != "none":
        subject.require_weights()
        return settings
    own = {each.name: each for each in SETTINGS if each.group == "SparseVD" and each.name != "where"}
    for name in given.keys() & own.keys():  # it would only give the same training another hash
        if given[name] != own[name].default:
            raise UsageError(
                f"{own[name].flag} {given[name]} has no effect with --where none.", "Leave one of them out."
            )
    return {name: value for name, value in settings.items() if name not in own}


def configure(subject: Subject, data: Dataset, settings: Mapping[str, Any], epochs: float | None) -> Config:
    """The configuration of these settings, with the steps of `epochs` if the settings do not say the steps.

    If neither is given, a training that chooses its epoch makes EPOCHS; one that reports its last step makes the
    default of `max_steps`, or less on built-in data. Raises UsageError for a wrong value.
    """
    where = settings.get("where", "none")
    if where not in ("both", "none", *base.MODULES, *base.ROLES):
        raise UsageError(
            f"There is no module or role named {where!r} (--where).",
            f"It is both, none, a module ({', '.join(base.MODULES)}) or a role ({', '.join(base.ROLES)}).\n"
            f"Those of this model: dissect models {shlex.quote(subject.given or subject.name)}",
        )
    if epochs is not None and "max_steps" in settings:
        raise UsageError("--epochs and --max-steps exclude each other.")
    about = {"model": subject.name, "dataset": data.name, "split_hash": data.split_hash, "model_source": subject.source}
    if subject.cls.reads_times:
        about["times_hash"] = times_hash(data.train)
    try:  # with 1.0 for 1, so that both are the same group
        config = msgspec.convert({**about, **settings}, Config)
    except msgspec.ValidationError as error:
        raise UsageError(f"{in_plain_words(error, settings)}.") from error
    if "max_steps" in settings:
        return config
    if epochs is None and not config.chooses:
        return replace(config, max_steps=BUILT_IN_STEPS.get(data.name, config.max_steps))
    return replace(config, max_steps=steps_of(EPOCHS if epochs is None else epochs, subject, data, config))


def steps_of(epochs: float, subject: Subject, data: Dataset, config: Config) -> int:
    """Steps of so many epochs through the examples of a model. Raises UsageError unless they are more than 0."""
    if not isinstance(epochs, int | float):
        raise UsageError(f"epochs must be a number, not {epochs!r}.")
    if not 0 < epochs < 1e6:
        raise UsageError(f"--epochs must be above 0, and below a million, not {epochs:g}.")
    train = split_validation(data.train, config.held_out)[0]
    whole = try_out(subject, config.model_options)[0].every_position  # may depend on an option
    examples = int((train.lengths > 1).sum()) if whole else train.n_prefixes
    return max(1, math.ceil(epochs * math.ceil(examples / config.batch_size)))


def untrained(subject: Subject, settings: Mapping[str, Any], idle: Sequence[str], say: Say) -> dict[str, Any]:
    """The settings that count for a model without gradients, which makes no steps; warns of the others that were given.

    Several models of a comparison may be given the same settings.
    """
    usual = {each.name: each.default for each in SETTINGS} | dict(DENSE)
    changed = [
        e.flag for e in SETTINGS if e.name not in OF_BASELINE and settings.get(e.name, usual[e.name]) != usual[e.name]
    ]
    if flags := [*idle, *changed]:
        say(f"{', '.join(flags)}: ignored, because {subject.name} is not trained.")
    return {**{name: settings[name] for name in OF_BASELINE if name in settings}, "max_steps": 0}


def idle_options(subject: Subject, data: Dataset, config: Config) -> tuple[str, ...]:
    """The options of the model that have no effect on these data."""
    model, _ = try_out(subject, config.model_options)
    return model.idle(data.train.times is not None)


def suits(subject: Subject, data: Dataset, config: Config, say: Say) -> None:
    """Warns of what a user should know about the model on these data.

    Raises UsageError if the data set is too small for the configuration or the model, or the two do not go together.
    """
    model, _ = try_out(subject, config.model_options)
    usual = defaults(subject)
    for name in model.idle(data.train.times is not None):
        if config.model_options.get(name, usual[name]) != usual[name]:
            say(f"{subject.name} on {data.name}: {name} has no effect without times (docs/models.md).")
    longest = longest_prefix(data, config, say)
    try:
        for warning in model.warnings(longest):
            say(f"{subject.name} on {data.name}: {warning}")
    except ValueError as error:
        raise UsageError(f"{subject.name} does not suit {data.name}: {error}.") from error
    if subject.learns and config.max_steps == 0:
        raise UsageError(f"{subject.name} learns in steps, and --max-steps is 0.", "Give it some, or --epochs.")
    if subject.learns and not split_validation(data.train, config.held_out)[0].n_prefixes:
        raise UsageError(
            f"--validation {config.validation:g} leaves no session of {data.name} to train on.",
            "Hold out less.",
        )
    on_valid = config.chooses and config.protocol == "clean"
    if on_valid and not split_validation(data.train, config.held_out)[1].n_prefixes:
        n = len(data.train)
        hint = f"Hold out a part of the {n:,} training sessions, such as --validation {max(0.1, 1 / n):.2g}"
        hint = hint if n > 1 else "There is one training session, so nothing can be held out"
        says = f"--validation {config.validation:g} leaves nothing to choose the epoch on."
        raise UsageError(says, f"{hint}; --protocol paper chooses on test.")
    if config.negatives >= data.n_items and config.loss == "cross-entropy":
        raise UsageError(
            f"--negatives {config.negatives} must be fewer than the {data.n_items} items of {data.name}.",
            "Leave the option out: the whole catalogue is exact, and quicker.",
        )
    if config.negatives or config.loss != "cross-entropy":
        some_candidates(model, model.item_states(), torch.zeros(1, dtype=torch.long))  # refused before anything runs
    if config.is_sparse and config.loss != "cross-entropy":
        say(f"{config.loss} is no likelihood: the KL has no natural weight beside it, so compare densities with care.")
    if unnamed := check.without_role(model):
        say(f"{subject.name} gives no role to {', '.join(unnamed)}: see `matrices` in models/base.py. Role: other.")


def longest_prefix(data: Dataset, config: Config, say: Say) -> int:
    """The number of clicks of the longest prefix that a model gets; warns if it makes batches large."""
    lengths = np.concatenate([data.train.lengths, data.test.lengths]) - 1
    longest, dim = int(lengths.max()), config.model_options.get("dim", DIM)
    size = 4 * config.batch_size * longest * dim
    if longest > LONG_PREFIX and size > LARGE_BATCH and not config.longest:
        usual = max(20, int(np.quantile(lengths, 0.99)))
        cut = np.maximum(lengths - usual, 0).sum() / lengths.sum()
        say(
            f"The longest prefix of {data.name} has {longest:,} clicks. A batch that is padded to it takes "
            f"{size / 1e9:.2g} GB in each layer of width {dim}, and its step is slow. --longest {usual} keeps the last "
            f"{usual} clicks; {100 * cut:.2g} % of the prefixes are longer."
        )
    return config.kept(longest)


def starting_weights(
    run: str | Path | None, runs_dir: Path, subject: Subject, options: Mapping[str, Any], data: Dataset
) -> Start:
    """The weights of a finished run to start from; an empty Start if none is asked for."""
    if run is None:
        return Start()
    return weights_of(folders.resolve_run(run, runs_dir), data, lambda n: subject.cls(n_items=n, **options))


def folder_of(config: Config, runs_dir: Path, name: str | None, parts: Sequence[str] = ()) -> Path:
    """runs/<name>-<hash>; unless given, the name has the model, `parts` and the data set.

    A group that an older version named otherwise keeps its name. Raises UsageError for a name that no folder can have.
    """
    if name is not None:
        check_name(name, "A group (--name)")
        return runs_dir / f"{name}-{config.hash}"
    file, _, cls = config.model.rpartition(":")  # of a user's own
    told = [*parts, config.dataset]
    of_option = [part for part in told if part not in config.model_options.values()]
    older = ([Path(file or cls).stem, *told], [cls, *of_option])
    paths = [runs_dir / f"{as_name('-'.join(words))}-{config.hash}" for words in (*older, [cls, *told])]
    return next((path for path in paths if path.exists()), paths[-1])


def work(config: Config, n_items: int) -> int:
    """Multiplications in the scores of a batch: `prepare_device` recognises small problems by them."""
    return int(config.batch_size * n_items * config.model_options.get("dim", DIM))
