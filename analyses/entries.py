"""Which runs make a row of a table, which rows may share a table, and how rows differ.

Runs are comparable only if they share the split and the protocol. A row is one configuration in one variant: the full
model, or the model without a role.
"""

from __future__ import annotations

import inspect
import os
import shlex
import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dissect.data.catalog import STAND_INS
from dissect.errors import DataError, UsageError, unknown
from dissect.runs import folders
from dissect.runs.config import OF_SPARSEVD, Config, flat, in_words, settings_apart, telling, with_sparsevd
from dissect.runs.files import read_json
from dissect.runs.folders import each_sound, left_out, read_summary
from dissect.runs.records import Environment
from models import MODELS

JUDGED = ("hr@20", "mrr@20")  # the metrics of the tests, with a recorded selection bias
MOST_SETTINGS = 3  # that a label names
# Settings that labels or the selection of the epoch already name; and those without effect on a dense model.
SAID = ("model", "dataset", "split_hash", "model_options", "where", "protocol", "select", "refit", "test_at_end")
UNKNOWN = "unknown"  # a machine


def machine_of(run: Path) -> str:
    """The processor, device and number of threads that trained a run, in words; UNKNOWN if it does not tell."""
    try:
        about = read_json(run / "environment.json", Environment)
    except DataError:  # nothing else depends on this file
        return UNKNOWN
    parts = [str(about[name]) for name in ("processor", "device") if name in about]
    parts += [f"threads {about['threads']}"] if "threads" in about else []
    return ", ".join(parts) if len(parts) == 3 else UNKNOWN


@dataclass(frozen=True)
class Entry:
    """A row: a group in one variant, its seeds that count, their summaries, and how many are left out and why."""

    group: Path
    variant: str
    config: dict[str, Any]
    runs: tuple[Path, ...]
    summaries: tuple[dict[str, Any], ...] = ()
    unfinished: int = 0
    damaged: int = 0

    @property
    def name(self) -> str:
        return self.group.name if self.variant == folders.FULL else f"{self.group.name}/{self.variant}"

    @property
    def split(self) -> tuple[str, str]:
        """(split hash, protocol): the table to which the row belongs."""
        return str(self.config["split_hash"]), str(self.config["protocol"])

    @property
    def machines(self) -> set[str]:
        """Where its seeds were trained: `machine_of` each; empty for a baseline without gradients."""
        return {machine_of(run) for run in self.runs} if self.is_trained else set()

    @property
    def is_trained(self) -> bool:
        """Whether anything was trained: a baseline without gradients has no epochs."""
        return any(summary["epochs"] for summary in self.summaries)

    @property
    def selection(self) -> str:
        """The epoch reported: chosen by MRR@20 on `validation`, or by each metric on `test`; the `final` one; the final
        one of a `refit`, whose length was chosen on validation; "" without epochs.
        """
        if not self.is_trained or self.config.get("refit"):
            return "refit" if self.is_trained else ""
        if self.config.get("select", "last") == "last":
            return "final"
        return "test" if self.config["protocol"] == "paper" else "validation"


def entry(group: Path, variant: str = folders.FULL, runs: Sequence[Path] | None = None) -> Entry | None:
    """The finished runs of a variant, or those of `runs`; None if there are none. A damaged run is skipped with a
    warning. Raises DataError if the configuration is damaged.
    """
    config = folders.group_config(group)
    found = folders.group_runs(group, variant) if runs is None else runs
    done = [run for run in found if folders.is_done(run)]
    sound = dict(each_sound(done, lambda run: (run, read_summary(run)), required=False))
    if not sound:
        return None
    left = len(found) - len(done), len(done) - len(sound)
    return Entry(group, variant, of_variant(config, variant), tuple(sound), tuple(sound.values()), *left)


def of_variant(config: dict[str, Any], variant: str) -> dict[str, Any]:
    """The settings of a variant: the matched dense model of a group has none of SparseVD."""
    return Config(**config).matched().to_dict() if variant == folders.MATCHED else config


def entries_of_group(group: Path) -> list[Entry]:
    """The rows of a group: its variants with a finished run."""
    rows = (entry(group, variant) for variant in folders.variants(group))
    return [row for row in rows if row is not None]


def entries_named(name: str, runs_dir: Path | str) -> list[Entry]:
    """The rows that a name stands for (folders.resolve_runs): a group with all its variants, a variant, or a seed.

    Raises UsageError for an unknown name, DataError if it is not a run, or has no finished and undamaged seed.
    """
    try:
        found = folders.resolve_runs(name, runs_dir)
    except UsageError:
        at = next((path for path in (Path(name), Path(runs_dir) / name) if path.exists()), None)
        if at is None:
            raise
        raise DataError(f"{at} is not a run: its group folder must have a config.toml.") from None
    by_variant: dict[tuple[Path, str], list[Path]] = {}
    for run in (path.resolve() for path in found):  # the same thing by two names is one row
        by_variant.setdefault((folders.group_of(run), folders.place_of(run)[0]), []).append(run)
    rows = (entry(group, variant, runs) for (group, variant), runs in by_variant.items())
    entries = [row for row in rows if row is not None]
    if not entries:
        inside = os.path.commonpath(found or [folders.resolve_group(name, runs_dir)])
        again = f"Go on with it: dissect resume {shlex.quote(inside)}"
        raise DataError(f"{inside} has no finished seed that is undamaged.", again)
    return entries


def entries_of_names(names: Iterable[str], runs_dir: Path | str) -> list[Entry]:
    """The rows of all names, each once. Names without a finished run are skipped with a warning."""
    found: dict[tuple[Path, ...], Entry] = {}
    for name in names:
        try:
            rows = entries_named(name, runs_dir)
        except DataError as error:
            left_out(error)
            continue
        if again := [row.name for row in rows if row.runs in found]:
            print(f"These runs are named more than once and count once: {', '.join(again)}.", file=sys.stderr)
        found.update({row.runs: row for row in rows})
    return each_once(found.values())


def each_once(entries: Iterable[Entry]) -> list[Entry]:
    """The rows without matched dense models that another row has too: groups of one path share them, as copies."""
    rows, again = list(entries), set[int]()
    matched: dict[str, list[set[str]]] = {}  # by settings: the seeds of each row
    for place, row in sorted(enumerate(rows), key=lambda each: -len(each[1].runs)):
        if row.variant == folders.MATCHED:
            seeds, known = {run.name for run in row.runs}, matched.setdefault(repr(sorted(row.config.items())), [])
            if any(seeds <= others for others in known):
                again.add(place)
            known.append(seeds)
    return [row for place, row in enumerate(rows) if place not in again]


def sound_configs(runs_dir: Path | str) -> dict[Path, dict[str, Any]]:
    """The groups of a runs folder, oldest first, with their configurations; warns of damaged ones."""
    groups = folders.find_groups(runs_dir)
    return dict(each_sound(groups, lambda group: (group, folders.group_config(group)), required=False))


def entries_of_dataset(dataset: str | None, runs_dir: Path | str) -> list[Entry]:
    """The rows of all groups on a data set, or on the newest group's; stderr tells the choice and what is skipped.

    If only a stand-in of the data set was trained on (`diginetica-srgnn` for `diginetica`), its rows are returned.
    Raises UsageError with near names if no group was trained on it, DataError if none is finished and undamaged.
    """
    configs = sound_configs(runs_dir)
    if not configs:
        there = folders.find_groups(runs_dir)
        raise (DataError if there else UsageError)(
            f"There are no {'undamaged ' if there else ''}runs in {runs_dir}.",
            "Make some: dissect train srgnn; dissect train attenmixer",
        )
    groups: dict[str, list[Path]] = {}
    for group, config in configs.items():
        groups.setdefault(str(config["dataset"]), []).append(group)
    asked = dataset or str(list(configs.values())[-1]["dataset"])
    on = asked if asked in groups else STAND_INS.get(asked, asked)
    if on not in groups:
        raise unknown(f"data set among the runs in {runs_dir}", asked, groups)
    if dataset is None:
        print(f"Data set: {on} (as in the newest group).", file=sys.stderr)
    elif on != dataset:
        print(f"No run on '{dataset}'; these are on '{on}', another split of the same log.", file=sys.stderr)
    entries = each_once(row for group in groups[on] for row in entries_of_group(group))
    empty = [group.name for group in groups[on] if not _has_finished(group)]
    if not entries:
        others = [shlex.quote(name) for name in sorted(groups) if name != on and any(map(_has_finished, groups[name]))]
        hint = f"Finished: {', '.join(f'--dataset {name}' for name in others)}." if others else "dissect train"
        raise DataError(f"No run on {on} is finished and undamaged. Unfinished: {', '.join(empty) or 'none'}.", hint)
    for name in empty:
        print(f"{name} has no finished seed and is left out.", file=sys.stderr)
    return entries


def _has_finished(group: Path) -> bool:
    return any(folders.is_done(run) for v in folders.variants(group) for run in folders.group_runs(group, v))


def by_split(entries: Iterable[Entry]) -> list[list[Entry]]:
    """The rows of each split and protocol, the largest table first."""
    tables: dict[tuple[str, str], list[Entry]] = {}
    for row in entries:
        tables.setdefault(row.split, []).append(row)
    return sorted(tables.values(), key=len, reverse=True)


def same_test_set(entries: Iterable[Entry], runs_dir: Path | str, verb: str = "dissect compare") -> None:
    """Raises UsageError, with calls of `verb` that split them, if rows were tested on different data."""
    by_split: dict[str, list[Entry]] = {}
    for row in entries:
        by_split.setdefault(row.split[0], []).append(row)
    if len(by_split) > 1:
        a, b = (rows[0] for rows in list(by_split.values())[:2])
        here = Path(runs_dir).resolve()
        paths = [dict.fromkeys(row.group.resolve() for row in rows) for rows in by_split.values()]
        names = [[path.name if path.parent == here else str(path) for path in groups] for groups in paths]
        raise UsageError(
            f"{a.name} and {b.name} have different test sets (split {a.split[0][:8]} of {a.config['dataset']}, "
            f"{b.split[0][:8]} of {b.config['dataset']}): their results cannot be compared.",
            "Each by itself:" + "".join(f"\n  {verb} {shlex.join(group)}" for group in names),
        )


# --- labels and settings -----------------------------------------------------------------------------------


def labels(entries: list[Entry]) -> list[str]:
    """A distinct name for each row: model, variant, dissected or not; only if names would be equal, also the settings
    in which rows differ, the group's hash, the seed, the group's name.
    """
    found = [_plain_label(row) for row in entries]
    for tell_apart in (_settings_in_words, _hashes, _seeds, _names):
        places: dict[str, list[int]] = {}
        for i, label in enumerate(found):
            places.setdefault(label, []).append(i)
        for rivals in (rivals for rivals in places.values() if len(rivals) > 1):
            words = tell_apart([entries[i] for i in rivals])
            for i, more in zip(rivals, words):
                found[i] += more if len(set(words)) > 1 else ""
    return found


def _settings_in_words(rows: list[Entry]) -> list[str]:
    of_rows = [flat(Config(**row.config)) for row in rows]
    names = telling(of_rows, MOST_SETTINGS)
    return [f" ({', '.join(in_words(name, of.get(name)) for name in names)})" for of in of_rows]


def _hashes(rows: list[Entry]) -> list[str]:
    return [f" [{row.group.name.rsplit('-', 1)[-1]}]" for row in rows]


def _seeds(rows: list[Entry]) -> list[str]:
    return [f" seed{'s' * (len(row.runs) != 1)} {', '.join(run.name[1:] for run in row.runs)}" for row in rows]


def _names(rows: list[Entry]) -> list[str]:
    return [f" [{row.group.name}]" for row in rows]


def _plain_label(row: Entry) -> str:
    model = str(row.config["model"])
    words = [model, *_model_words(model, row.config.get("model_options", {}))]
    if row.variant == folders.MATCHED:
        words.append("matched")
    elif row.variant != folders.FULL:
        words.append("without " + row.variant.removeprefix(folders.WITHOUT).replace("-", ", "))
    if row.config["where"] != "none":
        words.append(with_sparsevd(row.config["where"]))
    if row.config.get("refit"):  # trained on the validation part too
        words.append("refit")
    return " ".join(words)


def _defaults(model: str) -> dict[str, Any]:
    """The default arguments of a built-in model."""
    parameters = inspect.signature(MODELS[model]).parameters if model in MODELS else {}
    return {name: p.default for name, p in parameters.items() if p.default is not p.empty and name != "without"}


def _model_words(model: str, options: Mapping[str, Any]) -> list[str]:
    """How a model differs from its defaults: a preset if there is one, then single settings; not the width."""
    if model not in MODELS:
        return []
    defaults = _defaults(model)

    def special(settings: Mapping[str, Any]) -> dict[str, Any]:
        return {name: value for name, value in settings.items() if name != "dim" and defaults.get(name) != value}

    left, presets = special(options), {name: special(of) for name, of in MODELS[model].presets.items()}
    fitting = [name for name, settings in presets.items() if settings and settings.items() <= left.items()]
    preset = max(fitting, key=lambda name: len(presets[name]), default="")
    rest = [in_words(name, value) for name, value in left.items() if name not in presets.get(preset, {})]
    return [preset, *rest] if preset else rest


def settings(row: Entry) -> dict[str, Any]:
    """The settings of a row that can change its result; {} for a baseline.

    Settings without effect on the row are left out, and so are those that the label or the selection already names.
    `option <name>` are arguments of a built-in model, which the label names if not default; `setting <name>` are all
    others.
    """
    if not row.is_trained:
        return {}
    config = Config(**row.config)
    idle = {*SAID, *(() if config.is_sparse else OF_SPARSEVD)}
    if config.select == "last":
        idle.add("patience")
    if config.refit or config.protocol == "paper":
        idle.add("validation")
    found = {f"setting {name}": value for name, value in config.to_dict().items() if name not in idle}
    for name, value in {**_defaults(config.model), **config.model_options}.items():
        found[f"option {name}" if config.model in MODELS and name != "dim" else f"setting {name}"] = value
    return found


def differing(entries: list[Entry]) -> dict[str, list[Any]]:
    """The `settings` that differ among the rows that have them, with the value of each row; NaN if it has none."""
    of_rows = [settings(row) for row in entries]
    files = {(row.config["model"], row.config.get("model_source")) for row in entries}
    number_of_files = Counter(model for model, _ in files)
    for row, of in zip(entries, of_rows):
        if number_of_files[row.config["model"]] == 1:  # another model has another file: the label says so
            of.pop("setting model_source", None)
    return {name: [of.get(name, np.nan) for of in of_rows] for name in settings_apart(of_rows)}
