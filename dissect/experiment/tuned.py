"""Tuned settings: the file that `dissect tune` leaves in the runs folder, found, checked and put into a training.

runs/tuned/<model>-<dataset>-<hash>/
  tuned.toml      the best setting so far, what was searched and fixed, versions and command
  trials.csv      every trial
  trials.journal  the same for Optuna
  trials/<n>/s<seed>/   the records of trial n. In them `test` is the validation part: no trial sees the test part
"""

from __future__ import annotations

import hashlib
import shlex
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import msgspec

from dissect.data.sessions import Dataset
from dissect.errors import DataError, UsageError, why
from dissect.experiment.subject import Subject
from dissect.runs.config import CALIBRATED
from dissect.runs.folders import each_sound
from dissect.runs.records import Count, Percent, Positive, Words
from dissect.text import trials_of

if TYPE_CHECKING:
    import pandas as pd

FOLDER, FILE, TABLE = "tuned", "tuned.toml", "trials.csv"
Value = int | float | str | bool
Verb = Literal["train", "run"]


class Tuned(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """tuned.toml

    options   of the model, the best found
    settings  of the training, all that differ from the defaults of `Config`, the best found among them
    given     options that the user had fixed, and did not search
    fixed     settings of the training that the user had fixed
    searched  the space of each option and setting, in words
    """

    model: Words
    model_source: str | None = None
    verb: Verb  # "run": with SparseVD
    dataset: Words
    split_hash: Words
    preset: Words | None = None
    dim: Positive | None = None
    epochs: Annotated[float, msgspec.Meta(gt=0)] | None = None  # if the user gave them
    trials: Count  # finished, pruned and failed ones
    asked: Positive
    best_trial: Count
    mrr_20: Percent  # on validation, ties against the target, of the best trial
    default_mrr_20: Percent | None = None  # and of the defaults; None if they failed
    seed: Count
    dissect: Words
    torch: Words
    optuna: Words
    command: str = ""
    options: dict[str, Value] = {}
    settings: dict[str, Value] = {}
    given: dict[str, Value] = {}
    fixed: dict[str, Value] = {}
    searched: dict[str, Words] = {}


def read(path: Path) -> Tuned:
    """A file of tuned settings. Raises UsageError if it is not there, DataError if it is damaged."""
    path = path / FILE if path.is_dir() and path.name != FILE else path
    try:
        return msgspec.convert(tomllib.loads(path.read_text(encoding="utf-8")), Tuned)
    except OSError as error:
        raise UsageError(f"There are no tuned settings in {path}: {why(error)}.") from error
    except (ValueError, RecursionError) as error:  # msgspec's and tomllib's errors are ValueErrors
        hint = "`dissect tune` with the same arguments writes it again from its trials."
        raise DataError(f"{path} holds no tuned settings: {error}.", hint) from error


class Tuning:
    """What `dissect.tune` found, read from its folder."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __repr__(self) -> str:
        return f"Tuning({str(self.path)!r})"

    @property
    def record(self) -> Tuned:
        """All that tuned.toml holds."""
        return read(self.path)

    @property
    def best(self) -> dict[str, Any]:
        """The options and settings that were searched, as in the best trial."""
        record = self.record
        return {**record.options, **{name: value for name, value in record.settings.items() if name in record.searched}}

    def trials(self) -> pd.DataFrame:
        """A row for each trial (`read_trials`)."""
        return read_trials(self.path)


def read_trials(folder: Path) -> pd.DataFrame:
    """The table of trials, a row for each: trial, state, mrr@20 (on validation, percent), epoch (the best), epochs,
    seconds, what was tried, note. Raises DataError if it is missing or damaged.
    """
    import pandas as pd

    try:
        trials = pd.read_csv(folder / TABLE)
        if lacking := [name for name in ("trial", "state", "mrr@20") if name not in trials.columns]:
            raise ValueError(f"it has no column {lacking[0]}")
        return trials
    except (OSError, ValueError) as error:  # pandas' are ValueErrors
        raise DataError(
            f"{folder / TABLE} cannot be read: {why(error)}.", "The same `dissect tune` writes it."
        ) from error


def verb_of(usual: Mapping[str, Any]) -> str:
    """Which tuned settings suit the `usual` settings of a verb; "literal" has none."""
    return "train" if usual.get("where") == "none" else "run" if usual == CALIBRATED else "literal"


def find(
    model: str,
    split_hash: str,
    verb: str,
    runs_dir: Path,
    preset: str | None = None,
    options: Mapping[str, Any] | None = None,
    source: str | None = None,
    settings: Mapping[str, Any] | None = None,
) -> Path | None:
    """The file of tuned settings for a model on a split: of the same preset and options, else of the preset or the
    model as it is.

    Of several, one for this `source` (SHA-256) of a user's own model comes first, then one for which nobody had fixed
    other `settings` than these, then that of the same preset and options, of the preset, of the same width, the newest.
    None if there is none. A damaged file is left out, and said on stderr. A folder moved to NAME.old does not count.
    """
    options = dict(options or {})
    dim, found = options.pop("dim", None), []
    paths = [path for path in (runs_dir / FOLDER).glob(f"*/{FILE}") if path.parent.suffix != ".old"]
    for path, each in each_sound(paths, lambda path: (path, read(path)), False):
        if (each.model, each.split_hash, each.verb) != (model, split_hash, verb):
            continue
        is_same, is_preset = (each.preset, each.given) == (preset, options), each.preset == preset
        if is_same or (not each.given and each.preset in (preset, None)):
            nearness = (each.model_source == source, not beyond(each, settings or {}), is_same, is_preset)
            found.append((*nearness, each.dim == dim, path.stat().st_mtime_ns, path))
    return max(found)[-1] if found else None


def beyond(record: Tuned, settings: Mapping[str, Any]) -> dict[str, Value]:
    """The settings that were fixed for a tuning, and are not among those that are given now."""
    return {name: value for name, value in record.fixed.items() if settings.get(name) != value}


def tuned_for(
    subject: Subject,
    data: Dataset,
    verb: str,
    tuned: str | Path | Literal[True],
    runs_dir: Path,
    preset: str | None,
    options: Mapping[str, Any],
    settings: Mapping[str, Any],
    anyway: bool,
) -> tuple[Path, Tuned]:
    """The tuned settings that a training asks for: those of the file `tuned`, or with True those in the runs folder.

    Raises UsageError if there are none, or if they belong to another model, verb or split, unless `anyway`.
    """
    sparse = " --sparsevd" if verb == "run" else ""
    make = f"dissect tune {shlex.quote(subject.given or subject.name)} --dataset {data.name}{sparse}"
    if verb == "literal":
        says = "--tuned goes with the usual settings of the command, not with --literal or the --config of a group."
        raise UsageError(says, "Leave one of them out.")
    path = (
        find(subject.name, data.split_hash, verb, runs_dir, preset, options, subject.source, settings)
        if tuned is True
        else Path(tuned)
    )
    if path is None:
        how = " with SparseVD" if sparse else ""
        says = f"{runs_dir / FOLDER} has no tuned settings of {subject.name} on {data.name}{how}."
        raise UsageError(says, f"Tune it: {make}")
    record = read(path)
    if record.model != subject.name:
        raise UsageError(f"{path} has the settings of {record.model}, not of {subject.name}.", f"Tune it: {make}")
    wrong = ""
    if record.split_hash != data.split_hash:
        wrong = f"were tuned on {record.dataset} (split {record.split_hash}), not on {data.name} ({data.split_hash})"
    elif record.verb != verb:
        wrong = f"were tuned {'with' if record.verb == 'run' else 'without'} SparseVD"
    elif record.model_source != subject.source:
        wrong = f"were tuned for another version of {subject.name}"
    if wrong and not anyway:
        raise UsageError(f"The settings in {path} {wrong}.", f"Tune: {make}, or take them by --anyway.")
    return path, record


def arguments_of(
    record: Tuned,
    subject: Subject,
    preset: str | None,
    options: Mapping[str, Any],
    epochs: float | None,
    settings: Mapping[str, Any],
) -> tuple[str | None, dict[str, Any], float | None, dict[str, Any]]:
    """(preset, options, epochs, settings) of a training with tuned settings: what is given wins.

    So does a given preset, with its recipe, unless it is the one that was tuned.
    """
    own: set[str] = set()
    if preset is not None and preset != record.preset:
        own = {*subject.cls.presets.get(preset, {}), *subject.cls.recipes.get(preset, {})}
    if epochs is not None:
        own.add("max_steps")
    elif "max_steps" not in settings:
        epochs = record.epochs
    dim = {} if record.dim is None else {"dim": record.dim}
    best = {name: value for name, value in {**dim, **record.given, **record.options}.items() if name not in own}
    trained = {name: value for name, value in record.settings.items() if name not in own}
    return preset or record.preset, {**best, **options}, epochs, {**trained, **settings}


def trace(path: Path, record: Tuned) -> dict[str, Any]:
    """What a group records of the tuning that its settings come from (records.TunedBy)."""
    path = (path / FILE if path.is_dir() else path).resolve()
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    return {"file": f"{path.parent.name}/{path.name}", "sha256": sha256, "trials": record.trials, "asked": record.asked}


def in_words(record: Tuned, options: Mapping[str, Any], settings: Mapping[str, Any]) -> str:
    """Where tuned settings come from, and what a reader should know who trains with these options and settings."""
    says = f"{trials_of(record.trials, record.asked)}, MRR@20 {record.mrr_20:.2f} on validation"
    if fixed := beyond(record, settings):
        says += f", with {', '.join(f'{name} = {value}' for name, value in fixed.items())} fixed by hand"
    dim = options.get("dim", record.dim)
    return says if dim == record.dim else f"{says}, at width {record.dim}"
