"""From a request to finished run folders: a Config, and its seeds trained into a group."""

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

from dissect.data import catalog, planted
from dissect.data.sessions import Dataset, split_validation
from dissect.errors import DataError, FinishedError, UsageError, unknown
from dissect.experiment.jobs import at_once
from dissect.experiment.subject import Subject, changes, faults_named, find_model, model_options, try_on, try_out
from dissect.experiment.tuned import arguments_of, in_words, tuned_for, verb_of
from dissect.runs import files, folders
from dissect.runs.config import CALIBRATED, CALIBRATED_EPOCHS, DENSE, EPOCHS, SETTINGS, Config
from dissect.text import as_name, check_name
from dissect.training import workers
from dissect.training.device import prepare_device
from dissect.training.loop import fit
from dissect.training.losses import some_candidates
from dissect.training.products import at_hand
from dissect.training.record import Observer
from dissect.training.setup import exchange, load_dense
from dissect.training.start import Start, weights_of
from models import base, check

DIM = 256  # default width of a model
# The defaults on built-in data: a small model, trained in about a minute a seed.
BUILT_IN_DIM = 32
BUILT_IN_STEPS = {"demo": 2_000, "demo-bag": 3_000, "demo-walk": 3_000}
LONG_PREFIX = 200  # clicks
LARGE_BATCH = 2**26  # bytes of a padded layer

Say = Callable[[str], None]  # takes a note of one line


def unsaid(text: str) -> None:
    """Drop a note."""


def unobserved(title: str) -> Observer:
    """An observer that shows nothing."""
    return Observer()


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

    @property
    def variant(self) -> str:
        if self.is_matched:
            return folders.MATCHED
        return f"without-{'-'.join(sorted(self.without))}" if self.without else folders.FULL

    @property
    def is_done(self) -> bool:
        return all(folders.is_done(self.run(seed)) for seed in self.seeds)

    def run(self, seed: int) -> Path:
        return folders.run_path(self.group, seed, self.variant)

    def build(self) -> Any:
        extra = {"without": self.without} if self.without else {}
        return self.subject.cls(n_items=self.data.n_items, **self.config.model_options, **extra)


@dataclass(frozen=True)
class Manner:
    """How it is trained, and who is told. `observe` makes the observer of a run from its title.

    With several `jobs`, both travel to other processes, so that they must be functions that pickle knows.
    """

    device: str = "auto"
    jobs: int = 1
    force: bool = False  # train again what is finished; the old run is kept aside
    observe: Callable[[str], Observer] = unobserved
    say: Say = unsaid


def train(
    model: str | type | Subject,
    data: Dataset,
    *,
    options: Mapping[str, Any] | None = None,
    preset: str | None = None,
    without: Sequence[str] = (),
    seeds: Sequence[int] = (1,),
    epochs: float | None = None,
    jobs: int = 1,
    device: str = "auto",
    runs_dir: str | Path = "runs",
    name: str | None = None,
    force: bool = False,
    init_from: str | Path | None = None,
    refit: bool = False,
    tuned: str | Path | bool | None = None,
    anyway: bool = False,
    observe: Callable[[str], Observer] | None = None,
    say: Say | None = None,
    usual: Mapping[str, Any] = CALIBRATED,
    matched: bool = True,
    **settings: Any,
) -> Path:
    """Train a model on a data set, each seed in a run folder of its own; returns the folder of the group.

    `settings` are fields of `Config`. They win over the recipe of the preset, which wins over `usual`: LITERAL, the
    published settings, or DENSE, those of `dissect train`; but CALIBRATED, those of `dissect run`, win over a recipe.
    `options` are arguments of the model, on top of those of the preset; `without` names parts that are left out of it.
    `init_from` is a finished dense run to start from; `refit` trains once more on everything, for the epochs chosen.
    `tuned` takes the settings that `dissect tune` found: those in the runs folder, or those of a file; what is given
    wins. `anyway` takes them from another data set too.
    Beside a model with shadows it trains the matched dense one, unless `matched` is False.

    The same call again continues a run that was stopped. Raises UsageError, before anything is written, for names and
    values that do not exist or fit; and if all is finished already, unless `force`.
    """
    about: dict[str, Any] = {"options": options, "preset": preset, "without": without, "seeds": seeds, "epochs": epochs}
    about |= {"runs_dir": runs_dir, "name": name, "init_from": init_from, "refit": refit, "usual": usual}
    about |= {"tuned": tuned, "anyway": anyway}
    plan = planned(model, data, say=say or unsaid, **about, **settings)
    suits(plan.subject, data, plan.config, say or unsaid)
    try_on(plan.subject, data, plan.config, without)
    manner = Manner(device, jobs, force, observe or unobserved, say or unsaid)
    if refit and plan.subject.learns:
        return _train_twice(plan, name, manner)
    beside = replace(plan, config=plan.config.matched(), is_matched=True)
    wanted = [beside] if matched and plan.config.shadows and not without else []
    return train_seeds(plan, manner, *wanted)


def planned(
    model: str | type | Subject,
    data: Dataset,
    *,
    options: Mapping[str, Any] | None = None,
    preset: str | None = None,
    without: Sequence[str] = (),
    seeds: Sequence[int] = (1,),
    epochs: float | None = None,
    runs_dir: str | Path = "runs",
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
    subject, runs_dir, given = find_model(model), Path(runs_dir), dict(options or {})
    if tuned:
        path, best = tuned_for(subject, data, verb_of(usual), tuned, runs_dir, preset, given, anyway)
        say(f"Tuned settings: {path} ({in_words(best, given)}).")
        preset, given, epochs, settings = arguments_of(best, subject, preset, given, epochs, settings)
    settings = settings_of(subject, usual, preset, epochs, settings)
    if usual == CALIBRATED and epochs is None and not {"max_steps", "select"} & settings.keys():
        epochs = CALIBRATED_EPOCHS
    if settings.get("protocol") == "paper":
        if refit:
            raise UsageError("--refit has nothing to add to --protocol paper, which trains on everything already.")
        say("Protocol 'paper': trained on everything, each metric at its best epoch on test. These numbers flatter.")
    if not subject.learns:
        idle = {"--seed": tuple(seeds) != (1,), "--epochs": epochs is not None, "--dim": given.pop("dim", None)}
        idle |= {"--init-from": init_from, "--refit": refit}
        settings = untrained(subject, settings, [flag for flag, value in idle.items() if value], say)
        seeds, epochs, init_from, refit = (1,), None, None, False
    kept = model_options(subject, given, preset, BUILT_IN_DIM if data.name in planted.BUILT_IN else DIM, without)
    start = starting_weights(init_from, runs_dir, subject, kept, data)
    config = configure(subject, data, {**settings, "model_options": kept, "init_from": start.fingerprint}, epochs)
    if start.says:
        say(start.says)
    parts = [preset] if preset and changes(subject, preset) else []
    parts += [str(kept[option]) for option in subject.cls.in_name if option in given and option in kept]
    group, once = folder_of(config, runs_dir, name, parts), tuple(dict.fromkeys(seeds))
    return Plan(subject, data, config, group, once, tuple(without), start.weights, parts=tuple(parts))


def settings_of(
    subject: Subject, usual: Mapping[str, Any], preset: str | None, epochs: float | None, given: Mapping[str, Any]
) -> dict[str, Any]:
    """The settings `given`, then those of the preset's recipe, whose length counts only without `epochs`, then `usual`.

    CALIBRATED comes before a recipe: a density can be read only with its batch, rates and schedule.

    Raises UsageError for an unknown setting, and if a baseline is to be dissected.
    """
    known = {each.name for each in SETTINGS} | {"select"}
    for setting in given.keys() - known:
        raise unknown("setting", setting, known)
    recipe = dict(subject.cls.recipes.get(preset, {}))
    if epochs is not None:
        recipe.pop("max_steps", None)
    first, then = (recipe, usual) if usual == CALIBRATED else (usual, recipe)
    settings = {**first, **then, **given}
    if settings.get("where", "both") != "none":
        subject.require_weights()
        return settings
    own = {each.name for each in SETTINGS if each.group == "SparseVD" and each.name != "where"}
    return {name: value for name, value in settings.items() if name not in own or name in given}


def configure(subject: Subject, data: Dataset, settings: Mapping[str, Any], epochs: float | None) -> Config:
    """The configuration of these settings, with the steps of `epochs` if the settings do not say the steps.

    If neither is given, a training that chooses its epoch makes EPOCHS; one that reports its last step makes the
    default of `max_steps`, or less on built-in data. Raises UsageError for a wrong value.
    """
    choices = dict.fromkeys(("both", "none", *base.MODULES, *base.ROLES))
    if settings.get("where", "none") not in choices:
        raise unknown("module or role", settings["where"], choices)
    if epochs is not None and "max_steps" in settings:
        raise UsageError("--epochs and --max-steps exclude each other.")
    about = {"model": subject.name, "dataset": data.name, "split_hash": data.split_hash, "model_source": subject.source}
    try:  # with 1.0 for 1, so that both are the same group
        config = msgspec.convert({**about, **settings}, Config)
    except msgspec.ValidationError as error:
        raise UsageError(f"A setting has a value of another kind: {error}.") from error
    if "max_steps" in settings:
        return config
    if epochs is None and not config.chooses:
        return replace(config, max_steps=BUILT_IN_STEPS.get(data.name, config.max_steps))
    return replace(config, max_steps=steps_of(EPOCHS if epochs is None else epochs, subject, data, config))


def steps_of(epochs: float, subject: Subject, data: Dataset, config: Config) -> int:
    """Steps of so many epochs through the examples of a model. Raises UsageError unless they are more than 0."""
    if not 0 < epochs < 1e6:
        raise UsageError(f"--epochs must be above 0, and below a million, not {epochs:g}.")
    train = split_validation(data.train, config.held_out)[0]
    whole = try_out(subject, config.model_options)[0].every_position  # may depend on an option
    examples = int((train.lengths > 1).sum()) if whole else train.n_prefixes
    return max(1, math.ceil(epochs * math.ceil(examples / config.batch_size)))


def suits(subject: Subject, data: Dataset, config: Config, say: Say) -> None:
    """Warns of what a user should know about the model on these data.

    Raises UsageError if the data set is too small for the configuration or the model, or the two do not go together.
    """
    model, _ = try_out(subject, config.model_options)
    longest = longest_prefix(data, config, say)
    try:
        for warning in model.warnings(longest):
            say(f"{subject.name} on {data.name}: {warning}")
    except ValueError as error:
        raise UsageError(f"{subject.name} does not suit {data.name}: {error}.") from error
    if subject.learns and config.max_steps == 0:
        raise UsageError(f"{subject.name} learns in steps, and --max-steps is 0.", "Give it some, or --epochs.")
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


def prepare_group(group: Path, config: Config, data: Dataset) -> None:
    """Write the records of a group once. Raises DataError if they have been changed by hand."""
    if (group / "config.toml").exists():
        folders.group_config(group)
        return
    about = {"name": data.name, "split_hash": data.split_hash, **catalog.describe(data)}
    files.write_json(group / "data.json", about)
    files.write_identifiers(group, data.identifiers)
    files.write_toml(group / "config.toml", config.to_dict())


def borrow(plan: Plan, say: Say) -> None:
    """Copy finished seeds of a matched dense training from other groups of the folder that need the very same one.

    A path over the KL weight has the same dense model in every group.
    """
    for seed in plan.seeds:
        run = plan.run(seed)
        for other in folders.find_groups(plan.group.parent):
            there = folders.run_path(other, seed, folders.MATCHED)
            if run.exists() or not folders.is_done(there) or not workers.is_first():
                continue
            try:
                is_same = Config(**folders.group_config(other)).matched() == plan.config
                folders.read_summary(there)
            except DataError:
                continue  # a damaged neighbour has nothing to give
            if is_same:
                files.copy_folder(there, run)
                say(f"Seed {seed} of the matched dense model: copied from {there}")
    workers.wait()


def _train_twice(plan: Plan, name: str | None, manner: Manner) -> Path:
    """`train_seeds`, then again on all training sessions, each seed for the epochs that it chose before."""
    everything = replace(plan.config, refit=True, validation=0.0, select="last", patience=0)
    try_on(plan.subject, plan.data, everything, plan.without)  # now, not after the first training
    chosen = {seed: plan.run(seed) for seed in plan.seeds}
    if manner.force or not all(folders.is_done(run) for run in chosen.values()):
        train_seeds(plan, manner)
    steps = {}
    for seed, run in chosen.items():
        selected = folders.read_summary(run).get("selected")
        if selected is None:
            raise DataError(f"{run / 'summary.json'} does not tell the epoch chosen.", folders.write_again(run))
        steps[seed] = steps_of(selected["epoch"], plan.subject, plan.data, everything)
        manner.say(f"Seed {seed}: {selected['epoch']:g} epochs, now on everything.")
    group = folder_of(everything, plan.group.parent, name, [*plan.parts, "refit"])
    return train_seeds(replace(plan, config=everything, group=group, steps=steps), manner)


def train_seeds(plan: Plan, manner: Manner, *beside: Plan) -> Path:
    """Train each seed into the group, and those of plans beside it in the same group; returns the folder of the group.

    A run without DONE continues where it stopped. Raises UsageError if all are finished already, unless `force`.
    """
    plans = [each for each in (plan, *beside) if manner.force or not each.is_done] or [plan]
    done = {each.run(seed) for each in plans for seed in each.seeds if folders.is_done(each.run(seed))}
    devices = [_ready(each, manner) for each in plans]  # all the same
    todo = [
        (number, seed)
        for number, each in enumerate(plans)
        for seed in each.seeds
        if not folders.is_done(each.run(seed))
    ]
    if manner.jobs > 1 and len(todo) > 1:
        alone = replace(manner, jobs=1, force=False)
        at_once(_train_one, todo, min(manner.jobs, len(todo)), plans=plans, manner=alone)
    for each in plans:
        for number, seed in enumerate(each.seeds, 1):
            run, of = each.run(seed), f" ({number} of {len(each.seeds)})" if len(each.seeds) > 1 else ""
            if not folders.is_done(run):
                _fit_one(each, seed, of, manner, devices[0])
            elif run in done and not each.is_matched:
                manner.say(f"Seed {seed} is finished already: {run}")
    return plan.group


def _ready(plan: Plan, manner: Manner) -> torch.device:
    """Check whether a plan can be trained, make its group, and put aside what `force` trains again; the device."""
    config, data = plan.config, plan.data
    where = prepare_device(manner.device if plan.subject.learns else "cpu", work(config, data.n_items))
    at_hand(config.products, where)  # refused before anything is written
    workers.wait()
    runs = [plan.run(seed) for seed in plan.seeds]
    if manner.force:
        for run in runs:
            if run.exists() and workers.is_first():
                manner.say(f"The old run is kept as {files.set_aside(run)}")
    elif plan.is_done:
        for run in runs:
            folders.read_summary(run)  # says how to write a lost one again
        dense = f"dissect compare --dataset {shlex.quote(data.name)}"
        see = f"dissect verdict {shlex.quote(str(plan.group))}" if config.is_sparse else dense
        hint = f"Choose another --seed, or --force (the old run is kept aside). See it: {see}"
        raise FinishedError(f"Finished already: {', '.join(map(str, runs))}.", hint, plan.group)
    if plan.weights is not None:  # whether they fit, and `where` names a matrix, is checked before anything is written
        load_dense(plan.build(), plan.weights)
    if config.is_sparse and not plan.without:
        exchange(plan.build(), config)
    if workers.is_first():
        prepare_group(plan.group, config, data)
    workers.wait()
    if plan.is_matched and not manner.force:
        borrow(plan, manner.say)
    return where


def _fit_one(plan: Plan, seed: int, of: str, manner: Manner, device: torch.device) -> None:
    """Train one seed in this process."""
    parts = ("SparseVD",) if plan.is_matched else plan.without
    lacking = f", without {', '.join(parts)}" if parts else ""
    watch = manner.observe(f"{plan.subject.name} on {plan.data.name}, seed {seed}{of}{lacking}")
    more: dict[str, Any] = {"seed": seed, "variant": plan.variant, "weights": plan.weights, "observer": watch}
    own, run = replace(plan.config, max_steps=plan.steps.get(seed, plan.config.max_steps)), plan.run(seed)
    with faults_named(plan.subject, run):
        fit(plan.build, plan.data, own, run, device=device, **more)


def _train_one(job: tuple[int, int], plans: Sequence[Plan], manner: Manner) -> None:
    """`train_seeds` for one seed of one plan, in a process of its own."""
    number, seed = job
    train_seeds(replace(plans[number], seeds=(seed,)), manner)


def work(config: Config, n_items: int) -> int:
    """Multiplications in the scores of a batch: `prepare_device` recognises small problems by them."""
    return int(config.batch_size * n_items * config.model_options.get("dim", DIM))


def untrained(subject: Subject, settings: Mapping[str, Any], idle: Sequence[str], say: Say) -> dict[str, Any]:
    """The settings that count for a model without gradients, which makes no steps; warns of the others that were given.

    Several models of a comparison may be given the same settings.
    """
    counts = ("where", "protocol", "longest")
    usual = {each.name: each.default for each in SETTINGS} | dict(DENSE)
    changed = [
        e.flag for e in SETTINGS if e.name not in counts and settings.get(e.name, usual[e.name]) != usual[e.name]
    ]
    if flags := [*idle, *changed]:
        say(f"{', '.join(flags)}: ignored, because {subject.name} is not trained.")
    return {**{name: settings[name] for name in counts if name in settings}, "max_steps": 0}
