"""What `dissect tune` tunes: the training of the defaults, the space around it, and data without a test part.

A trial is an ordinary training, except that its data set ends with the validation part: it trains on the same sessions,
in the same batches, as `dissect train` would, and what it takes for the test part is the validation part. The test part
is not there. So the accuracy of trial 0, the defaults, is the validation accuracy of `dissect train`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from dissect.data.sessions import Dataset, split_validation
from dissect.errors import UsageError, unknown
from dissect.experiment import tuned
from dissect.experiment.plan import Plan, Say, idle_options, planned, suits, unsaid
from dissect.experiment.subject import PROBE_ITEMS, Subject, defaults, find_model, try_on
from dissect.runs.config import CALIBRATED, DENSE, SETTINGS, Config
from dissect.text import as_name
from dissect.usual import RUNS, TRIALS
from models.search import SPARSE, TRAINED, Choice, Space

DIGITS = 3  # of a number that is tried, so that it can be written and given again
SEED = 0  # of sampler and trainings: results are reported with other seeds


@dataclass(frozen=True)
class Task:
    """What is tuned, and how far.

    data      the training part as `train`, the validation part as `test`
    plan      the training of trial 0: the defaults, or what the user fixed
    space     what is searched; `start` has its values in trial 0
    about     the arguments of `planned` in every trial
    asked     how many trials
    of_data   name and split hash of the data set
    more      further fields of tuned.toml
    """

    subject: Subject
    data: Dataset
    plan: Plan
    space: Mapping[str, Space]
    start: Mapping[str, Any]
    about: Mapping[str, Any]
    folder: Path
    seed: int
    asked: int
    of_data: tuple[str, str]
    more: Mapping[str, Any]

    def trial_folder(self, number: int) -> Path:
        return self.folder / "trials" / f"{number:03d}"

    def run(self, number: int) -> Path:
        return self.trial_folder(number) / f"s{self.seed}"

    def values(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """What Optuna chose as it is trained: numbers with DIGITS digits, but the defaults as they are."""

        def plain(name: str, value: Any) -> Any:
            is_exact = not isinstance(value, float) or value == self.start[name]
            return value if is_exact else float(f"{value:.{DIGITS}g}")

        return {name: plain(name, value) for name, value in params.items()}

    def trial(self, values: Mapping[str, Any]) -> Plan:
        """The training with these values. Raises UsageError if they do not fit the model."""
        about, takes = dict(self.about), defaults(self.subject)
        options = {name: value for name, value in values.items() if name in takes}
        settings = {name: value for name, value in values.items() if name not in takes}
        return planned(self.subject, self.data, **{**about, "options": {**about["options"], **options}, **settings})


def task(
    model: str | type | Subject,
    data: Dataset,
    *,
    trials: int = TRIALS,
    sparsevd: bool = False,
    options: Mapping[str, Any] | None = None,
    preset: str | None = None,
    epochs: float | None = None,
    runs_dir: str | Path = RUNS,
    seed: int = SEED,
    usual: Mapping[str, Any] | None = None,
    say: Say = unsaid,
    **settings: Any,
) -> Task:
    """What `tune` with the same arguments tunes, and where; nothing is trained or written. Raises as it does."""
    if trials < 1:
        raise UsageError(f"--trials must be at least 1, not {trials}.")
    subject, runs_dir = find_model(model), Path(runs_dir)
    if sparsevd:
        subject.require_weights()
    for name in {"protocol", "select"} & settings.keys():
        raise UsageError(f"Tuning has no setting {name}: it always trains on one part and judges on the other.")
    if sparsevd and "patience" in settings:
        raise UsageError("--patience and --sparsevd exclude each other: a density counts at the last step.")
    usual = usual or (CALIBRATED if sparsevd else DENSE)
    share = settings.get("validation", Config.validation)
    seen = without_test(data, share)
    fixed = {name: value for name, value in settings.items() if name != "validation"}
    held_out = {"protocol": "paper", "validation": 0.0} if subject.learns else {}
    about: dict[str, Any] = {"options": dict(options or {}), "preset": preset, "epochs": epochs, "usual": usual}
    about |= {"runs_dir": runs_dir, **fixed, **held_out}
    # Protocol `paper` is only how a trial is told to judge on its last part: no note on it.
    first = planned(subject, seen, **about, say=lambda text: None if text.startswith("Protocol 'paper'") else say(text))
    suits(subject, seen, first.config, say)
    try_on(subject, seen, first.config)
    space, start = space_of(subject, first, about, sparsevd, idle_options(subject, seen, first.config))
    told = repr([first.config.hash, data.split_hash, seed, sorted((name, str(each)) for name, each in space.items())])
    words = [as_name(subject.name), *([preset] if preset else []), *(["sparsevd"] if sparsevd else []), data.name]
    name = f"{as_name('-'.join(words))}-{hashlib.sha256(told.encode()).hexdigest()[:8]}"
    more = {"verb": "run" if sparsevd else "train", "epochs": epochs, "preset": preset, "fixed": fixed, "usual": usual}
    more |= {"validation": share} if subject.learns and share != Config.validation else {}
    of_data, folder = (data.name, data.split_hash), runs_dir / tuned.FOLDER / name
    return Task(subject, seen, first, space, start, about, folder, seed, trials, of_data, more)


def without_test(data: Dataset, share: float) -> Dataset:
    """The data set without its test part: the last `share` of the training sessions stands in its place.

    Raises UsageError if there is nothing to validate on, or to train on.
    """
    if not 0 < share < 1:
        raise UsageError(f"--validation must be above 0 and below 1 to tune on, not {share:g}.")
    train, valid = split_validation(data.train, share)
    if not valid.n_prefixes or not train.n_prefixes:
        raise UsageError(
            f"{data.name} has {len(data.train):,} training sessions: --validation {share:g} leaves "
            f"{valid.n_prefixes:,} prefixes to judge a trial on and {train.n_prefixes:,} to train on.",
            "Tune on a larger data set, or choose another --validation.",
        )
    return replace(data, train=train, test=valid)


def space_of(
    subject: Subject, first: Plan, about: Mapping[str, Any], sparsevd: bool, idle: Collection[str]
) -> tuple[dict[str, Space], dict[str, Any]]:
    """(what is searched, where the search starts), by name: the model's space and, if it learns, that of a training.

    What the user gave, a preset other than its recipe names, or is `idle` stays as it is. A space is made wide enough
    for its start. Raises UsageError for a name that is neither an option nor a setting.
    """
    takes, known = defaults(subject), {each.name for each in SETTINGS}
    usual = {**TRAINED, **(SPARSE if sparsevd else {})} if subject.learns else {}
    own = {name: each for name, each in usual.items() if name not in takes} | dict(subject.cls.search)
    for name in own.keys() - takes.keys() - known:
        raise unknown(f"option of {subject.name}, or setting,", name, takes.keys() | known)
    fixed = {*about, *idle, *about["options"], *subject.cls.presets.get(about["preset"], {})}
    now = {**takes, **first.config.model_options}
    space, start = dict[str, Space](), dict[str, Any]()
    for name, each in own.items():
        if name in fixed or (each.when and not any(now.get(option) == value for option, value in each.when)):
            continue
        start[name] = now[name] if name in takes else getattr(first.config, name)
        space[name] = each.with_value(start[name])
        if isinstance(each, Choice) and name in takes:
            # None is not written down: it stands for the default, and can be no other value.
            possible = [each for each in space[name].values if each is not None or start[name] is None]  # type: ignore
            values = tuple(value for value in possible if _fits(subject, first, name, value))
            space[name] = replace(each, values=values)
    return space, start


def _fits(subject: Subject, first: Plan, name: str, value: Any) -> bool:
    """Whether the model can be built with another value of an option: heads, say, may have to divide the width."""
    try:
        with torch.random.fork_rng(devices=[]):
            subject.cls(n_items=PROBE_ITEMS, **{**first.config.model_options, name: value})
    except Exception:  # of whatever kind: with such a value no trial can be made
        return False
    return True
