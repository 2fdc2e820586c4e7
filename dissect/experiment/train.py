"""A plan is carried out: its seeds are trained into run folders, and the matched dense model beside them."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from dissect.data import catalog
from dissect.data.sessions import Dataset, split_validation
from dissect.errors import DataError, FinishedError
from dissect.experiment.jobs import at_once
from dissect.experiment.plan import Plan, Say, folder_of, planned, steps_of, suits, unsaid, work
from dissect.experiment.subject import Subject, faults_named, try_on
from dissect.runs import files, folders
from dissect.runs.config import Config
from dissect.runs.replace import copy_folder, set_aside
from dissect.training import workers
from dissect.training.device import prepare_device
from dissect.training.loop import fit
from dissect.training.products import at_hand
from dissect.training.record import Observer
from dissect.training.setup import exchange, load_dense


def unobserved(title: str) -> Observer:
    """An observer that shows nothing."""
    return Observer()


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
    borrows: bool = True  # copy a matched dense run that another group has


def train(
    model: str | type | Subject,
    data: Dataset,
    *,
    jobs: int = 1,
    device: str = "auto",
    force: bool = False,
    observe: Callable[[str], Observer] | None = None,
    say: Say | None = None,
    matched: bool = True,
    **about: Any,
) -> Path:
    """Train a model on a data set, each seed in a run folder of its own; returns the folder of the group.

    `about` are the arguments of `planned`. Settings win over the recipe of the preset, which wins over DENSE, the
    `usual` ones of `dissect train`; but those of `dissect run`, CALIBRATED and LITERAL (the published ones), win over a
    recipe. `options` are arguments of the model, on top of those of the preset; `without` names parts that are left out
    of it. `init_from` is a finished dense run to start from; `refit` trains once more on everything, for the epochs
    chosen. `tuned` takes the settings that `dissect tune` found: those in the runs folder, or those of a file; what is
    given wins. `anyway` takes them from another data set too.
    Beside a model with shadows it trains the matched dense one, unless `matched` is False.

    The same call again continues a run that was stopped. Raises UsageError, before anything is written, for names and
    values that do not exist or fit; and if all is finished already, unless `force`.
    """
    manner = Manner(device, jobs, force, observe or unobserved, say or unsaid)
    plan = planned(model, data, say=manner.say, **about)
    if about.get("refit") and plan.subject.learns:
        _require_to_suit(plan, manner)
        return _train_twice(plan, about.get("name"), manner)
    return train_plan(plan, manner, matched)


def train_plan(plan: Plan, manner: Manner, matched: bool = True) -> Path:
    """`train` what is planned, in the group that the plan names."""
    _require_to_suit(plan, manner)
    beside = plan.beside if matched else ()
    is_clean = plan.config.protocol == "clean"
    if beside and is_clean and not split_validation(plan.data.train, plan.config.held_out)[1].n_prefixes:
        manner.say("Nothing is held out, so the matched dense model reports its last epoch, not its best one.")
    return train_seeds(plan, manner, *beside)


def _require_to_suit(plan: Plan, manner: Manner) -> None:
    """Raises an error, before anything is written, if the model and its settings do not suit the data."""
    suits(plan.subject, plan.data, plan.config, manner.say)
    try_on(plan.subject, plan.data, plan.config, plan.without)


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
    devices = [_ready(each, manner) for each in plans]  # all the same
    done = {each.run(seed) for each in plans for seed in each.seeds if folders.is_done(each.run(seed))}
    todo = [
        (number, seed)
        for number, each in enumerate(plans)
        for seed in each.seeds
        if not folders.is_done(each.run(seed))
    ]
    if manner.jobs > 1 and len(todo) > 1:
        alone = replace(manner, jobs=1, force=False, borrows=not manner.force)
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
            if folders.is_done(run) and workers.is_first():  # one that was stopped goes on
                manner.say(f"The old run is kept as {set_aside(run)}")
    elif plan.is_done:
        for run in runs:
            folders.read_summary(run)  # says how to write a lost one again
        note_tuning(plan)
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
    note_tuning(plan)
    workers.wait()
    if plan.is_matched and manner.borrows and not manner.force:
        borrow(plan, manner.say)
    return where


def prepare_group(group: Path, config: Config, data: Dataset) -> None:
    """Write the records of a group once. Raises DataError if they have been changed by hand."""
    if (group / folders.CONFIG).exists():
        folders.group_config(group)
        return
    about = {"name": data.name, "split_hash": data.split_hash, **catalog.describe(data)}
    files.write_json(group / "data.json", about)
    files.write_identifiers(group, data.identifiers)
    files.write_toml(group / folders.CONFIG, config.to_dict())


def note_tuning(plan: Plan) -> None:
    """Write which tuning the settings of a group come from, if any; the group may be older than the tuning."""
    if plan.tuned and workers.is_first():
        files.write_json(plan.group / folders.TUNED_BY, plan.tuned)


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
                copy_folder(there, run)
                say(f"Seed {seed} of the matched dense model: copied from {there}")
    workers.wait()


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
