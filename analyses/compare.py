"""What was trained on one split, side by side: which runs belong together, and their means over seeds.

Runs belong in one column only where they share the split and the protocol. A row is one configuration in one
variant: the full model, or the model without a role.
"""

from __future__ import annotations

import inspect
import shlex
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from dissect.data.catalog import STAND_INS
from dissect.errors import DataError, UsageError, unknown
from dissect.runs import files, folders
from dissect.runs.config import Config
from dissect.runs.folders import left_out, read_summary
from dissect.runs.records import METRICS
from models import MODELS

JUDGED = ("hr@20", "mrr@20")  # what the pairs are judged by, and for what the selection bias is on record
MOST_SETTINGS = 3  # that a label names
TIES = "best"  # how every training ranks: one more than the number of strictly better scores

Warn = Callable[[DataError], object]


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
    def is_trained(self) -> bool:
        """Whether a seed had anything to decide: a baseline without gradients has no epochs."""
        return any(summary["epochs"] for summary in self.summaries)

    @property
    def selection(self) -> str:
        """The epoch reported: chosen by MRR@20 on `validation`, or by each metric on `test`; the `final` one; the
        final one of a `refit`, whose length was chosen on validation; nothing where there are no epochs.
        """
        if not self.is_trained or self.config.get("refit"):
            return "refit" if self.is_trained else ""
        if self.config.get("select", "last") == "last":
            return "final"
        return "test" if self.config["protocol"] == "paper" else "validation"


def entry(group: Path, variant: str = folders.FULL, seed: int | None = None, warn: Warn = left_out) -> Entry | None:
    """The finished seeds (or the one seed) of a variant; None where there is none.

    A damaged seed is left out, and `warn` is told. Raises DataError where the configuration is damaged.
    """
    config = folders.group_config(group)
    found = [run for run in folders.group_runs(group, variant) if seed is None or run.name == f"s{seed}"]
    done = [run for run in found if folders.is_done(run)]
    sound: dict[Path, dict[str, Any]] = {}
    for run in done:
        try:
            sound[run] = read_summary(run)
        except DataError as error:
            warn(error)
    if not sound:
        return None
    left = len(found) - len(done), len(done) - len(sound)
    return Entry(group, variant, config, tuple(sound), tuple(sound.values()), *left)


def entries_named(name: str, runs_dir: Path | str, warn: Warn = left_out) -> list[Entry]:
    """The rows that a name stands for: a group with all its variants, one variant, or one seed.

    A name is a path, or is looked for below `runs_dir`: <group>, <group>/without-<role>, <group>[/...]/s<seed>;
    the unique beginning of a group's name will do. Raises UsageError where there is no such thing, DataError
    where it is no run, or nothing of it is finished and whole.
    """
    given = name.rstrip("/")
    at = next((path for path in (Path(given), Path(runs_dir) / given) if path.exists()), None)
    head, rest = str(at or given), list[str]()
    while not (Path(head) / "config.toml").exists() and Path(head).name and _is_part(Path(head).name):
        head, rest = str(Path(head).parent), [Path(head).name, *rest]
    if at is not None and not (Path(head) / "config.toml").exists():
        raise DataError(f"{at} is no run: a run lies in a folder with a config.toml.")
    group = folders.resolve_group(head, runs_dir).resolve()  # the same thing by two names is one row
    folders.group_config(group)
    seeds = [int(part[1:]) for part in rest if part[1:].isdigit()]
    variants = [part for part in rest if not part[1:].isdigit()]
    inside = group.joinpath(*rest)
    if not inside.is_dir():
        known = [v if v != folders.FULL else "s<seed>" for v in folders.variants(group)]
        raise UsageError(f"There is no run {'/'.join(rest)} in {group.name}.", f"In it: {', '.join(known) or 'none'}.")
    wanted = variants or ([folders.FULL] if seeds else folders.variants(group))
    found = [entry(group, variant, seeds[0] if seeds else None, warn) for variant in wanted]
    entries = [row for row in found if row is not None]
    if not entries:
        raise DataError(
            f"{inside} has no finished seed that is whole.", f"Go on with it: dissect resume {shlex.quote(str(inside))}"
        )
    return entries


def _is_part(name: str) -> bool:
    return name.startswith("without-") or (name[:1] == "s" and name[1:].isdigit())


def sound_configs(runs_dir: Path | str, warn: Warn = left_out) -> dict[Path, dict[str, Any]]:
    """The groups of a runs folder, oldest first, with their configurations; `warn` is told of damaged ones."""
    configs = {}
    for group in folders.find_groups(runs_dir):
        try:
            configs[group] = folders.group_config(group)
        except DataError as error:
            warn(error)
    return configs


def entries_of_dataset(
    dataset: str | None, runs_dir: Path | str, warn: Warn = left_out
) -> tuple[list[Entry], list[str], str]:
    """(rows, names of groups without a finished seed, data set) of all groups on a data set, or on the newest's.

    Where only a stand-in of the data set was trained on (`diginetica-srgnn` for `diginetica`) its rows come.
    Raises UsageError with near names where no group was trained on it, DataError where none is finished and whole.
    """
    configs = sound_configs(runs_dir, warn)
    if not configs:
        there = folders.find_groups(runs_dir)
        raise (DataError if there else UsageError)(
            f"There are no {'undamaged ' if there else ''}runs in {runs_dir}.",
            "Make some: dissect train srgnn; dissect train attenmixer",
        )
    known = {config["dataset"] for config in configs.values()}
    dataset = dataset or str(list(configs.values())[-1]["dataset"])
    if dataset not in known and STAND_INS.get(dataset) in known:
        dataset = STAND_INS[dataset]
    if dataset not in known:
        raise unknown(f"data set among the runs in {runs_dir}", dataset, known)
    entries, empty = [], []
    for group in (group for group, config in configs.items() if config["dataset"] == dataset):
        rows = [row for row in (entry(group, v, warn=warn) for v in folders.variants(group)) if row is not None]
        entries += rows
        if not any(
            folders.is_done(run) for variant in folders.variants(group) for run in folders.group_runs(group, variant)
        ):
            empty.append(group.name)
    if not entries:
        other = {
            config["dataset"]
            for group, config in configs.items()
            if any(map(folders.is_done, folders.group_runs(group)))
        } - {dataset}
        raise DataError(
            f"No run on {dataset} is finished and whole. Begun: {', '.join(empty) or 'none'}.",
            f"Finished: {', '.join(f'--dataset {shlex.quote(name)}' for name in sorted(other))}."
            if other
            else "dissect train",
        )
    return entries, empty, dataset


def same_test_set(entries: Iterable[Entry], runs_dir: Path | str, verb: str = "dissect compare") -> None:
    """Raises UsageError, with the calls of `verb` that split them, where rows were tested on different data."""
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
            f"{b.split[0][:8]} of {b.config['dataset']}): their numbers do not belong in one column.",
            "Each by itself:" + "".join(f"\n  {verb} {shlex.join(group)}" for group in names),
        )


def by_table(entries: Iterable[Entry]) -> list[list[Entry]]:
    """Rows by split and protocol, the largest table first; a row named twice counts once."""
    tables: dict[tuple[str, str], list[Entry]] = {}
    seen = set()
    for row in entries:
        if row.runs not in seen:
            seen.add(row.runs)
            tables.setdefault(row.split, []).append(row)
    return sorted(tables.values(), key=len, reverse=True)


def labels(entries: list[Entry]) -> list[str]:
    """A name for each row that says what sets it apart: model, variant, dissected or not, and only where rows would
    still be called the same, settings in which they differ, the group's hash, the seed.
    """
    found = [_plain_label(row) for row in entries]
    flat = [_flat(row.config) for row in entries]
    for label, rivals in _places(found).items():
        names = dict.fromkeys(name for i in rivals for name in flat[i])
        apart = [name for name in names if len({repr(flat[i].get(name)) for i in rivals}) > 1][:MOST_SETTINGS]
        for i in rivals if apart else ():
            found[i] = f"{label} ({', '.join(_in_words(name, flat[i].get(name, 'unset')) for name in apart)})"
    for label, rivals in _places(found).items():
        groups = {entries[i].group for i in rivals}
        same = Counter(entries[i].name for i in rivals)
        for i in rivals:
            if len(groups) > 1:
                found[i] = f"{label} [{entries[i].group.name.rsplit('-', 1)[-1]}]"
            if same[entries[i].name] > 1:
                seeds = [run.name[1:] for run in entries[i].runs]
                found[i] += f" seed{'s' * (len(seeds) != 1)} {', '.join(seeds)}"
    return found


def _in_words(name: str, value: Any) -> str:
    return f"{name.replace('_', ' ')} {value:g}" if isinstance(value, float) else f"{name.replace('_', ' ')} {value}"


def _places(found: list[str]) -> dict[str, list[int]]:
    """Where each label stands."""
    places: dict[str, list[int]] = {}
    for i, label in enumerate(found):
        places.setdefault(label, []).append(i)
    return places


def _plain_label(row: Entry) -> str:
    model = str(row.config["model"])
    words = [model, *_model_words(model, row.config.get("model_options", {}))]
    if row.variant != folders.FULL:
        words.append("without " + row.variant.removeprefix("without-").replace("-", ", "))
    if row.config["where"] != "none":
        words.append(f"SparseVD {row.config['where']}")
    if row.config.get("refit"):  # trained on the validation part too
        words.append("refit")
    return " ".join(words)


def _model_words(model: str, options: Mapping[str, Any]) -> list[str]:
    """What sets a model apart from its defaults: a preset where there is one, then single settings; not the width."""
    if model not in MODELS:
        return []
    cls: Any = MODELS[model]
    defaults = {name: parameter.default for name, parameter in inspect.signature(cls).parameters.items()}

    def special(settings: Mapping[str, Any]) -> dict[str, Any]:
        return {name: value for name, value in settings.items() if name != "dim" and defaults.get(name) != value}

    left, words = special(options), []
    presets = {name: special(settings) for name, settings in cls.presets.items()}
    fitting = [name for name, settings in presets.items() if settings and settings.items() <= left.items()]
    if fitting:
        best = max(fitting, key=lambda name: len(presets[name]))
        words, left = [best], {name: value for name, value in left.items() if name not in presets[best]}
    return [*words, *(_in_words(name, value) for name, value in left.items())]


def _flat(config: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a group, those of the model's constructor first."""
    plain = {name: value for name, value in config.items() if not isinstance(value, Mapping)}
    return {**config.get("model_options", {}), **plain}


def settings(row: Entry) -> dict[str, Any]:
    """What decided the outcome of a row and may differ within a table: nothing of a baseline, which has no settings.

    What is without effect on the row is left out, and so is what label and selection say. `option <name>` are arguments
    of a model of ours, which the label names unless they are the defaults; `setting <name>` is all else.
    """
    if not row.is_trained:
        return {}
    config = Config(**row.config)
    idle = {"model", "dataset", "split_hash", "model_options", "where", "protocol", "select", "refit"}
    if not config.is_sparse:
        idle |= {"noise", "prior", "threshold", "log_sigma2", "kl_weight", "kl_warmup", "decay_everything"}
    if config.select == "last":
        idle |= {"patience"}
    if config.refit or config.protocol == "paper":
        idle |= {"validation"}
    found = {f"setting {name}": value for name, value in config.to_dict().items() if name not in idle}
    for name, value in {**_defaults(config.model), **config.model_options}.items():
        found[f"option {name}" if config.model in MODELS and name != "dim" else f"setting {name}"] = value
    return found


def _defaults(model: str) -> dict[str, Any]:
    """The arguments of a model of ours that it need not be given."""
    parameters = inspect.signature(MODELS[model]).parameters if model in MODELS else {}
    return {name: p.default for name, p in parameters.items() if p.default is not p.empty and name != "without"}


def differing(entries: list[Entry]) -> dict[str, list[Any]]:
    """The `settings` in which rows differ that have them, with the value of each row; NaN where it has none."""
    of_rows = [settings(row) for row in entries]
    for row, of in zip(entries, of_rows):  # another model has another file: the label says so
        sources = {
            other.config.get("model_source") for other in entries if other.config["model"] == row.config["model"]
        }
        if len(sources) == 1:
            of.pop("setting model_source", None)
    names = dict.fromkeys(name for of in of_rows for name in of)
    apart = [name for name in names if len({repr(of[name]) for of in of_rows if name in of}) > 1]
    return {name: [of.get(name, np.nan) for of in of_rows] for name in apart}


def catalogue_size(entries: list[Entry]) -> float:
    """How many items are ranked, as the first group says that can be read; NaN where none does."""
    for row in entries:
        try:
            n_items = files.read_json(row.group / "data.json").get("n_items")
        except DataError:
            continue
        if isinstance(n_items, int):
            return n_items
    return float("nan")


def means(entries: list[Entry]) -> pd.DataFrame:
    """One row per entry, best MRR@20 first: means and standard deviations over seeds, in percent.

    Columns: label, group, model, variant, where, protocol, ties, selection (Entry.selection), seeds (number),
    seed_list, unfinished, damaged (numbers of seeds left out), parameters, items (of the catalogue), seconds_per_epoch
    (NaN without epochs), the metrics, `<metric> sd` (ddof 1; NaN for one seed), `worst <metric>`, where ties count
    against the target (NaN where the run has not measured it), and for HR@20 and MRR@20
    `bias <metric>`: how much higher the best epoch on test lies, NaN where the protocol
    has chosen on test already, so that the bias is in the number; then what rows `differing` in. `entry` is the row's
    place in `entries`.

    Where MRR@20 is known with ties against the target, the place of a row goes by that: equal scores win nothing.
    """
    items = catalogue_size(entries)
    rows = []
    for place, (row, label) in enumerate(zip(entries, labels(entries))):
        first = row.summaries[0]
        test = pd.DataFrame([summary["test"] for summary in row.summaries])
        epochs = [s["seconds"] / s["epochs"] for s in row.summaries if s["epochs"]]
        bias = {m: [(s.get("selection_bias") or {}).get(m, np.nan) for s in row.summaries] for m in JUDGED}
        worst = {m: [(s.get("test_worst_ties") or {}).get(m, np.nan) for s in row.summaries] for m in METRICS}
        chosen_on_test = row.config["protocol"] == "paper" and row.is_trained
        rows.append(
            {
                "label": label,
                "group": row.group.name,
                "model": row.config["model"],
                "variant": row.variant,
                "where": row.config["where"],
                "protocol": row.config["protocol"],
                "ties": TIES,
                "selection": row.selection,
                "seeds": len(row.summaries),
                "seed_list": " ".join(str(summary["seed"]) for summary in row.summaries),
                "unfinished": row.unfinished,
                "damaged": row.damaged,
                "parameters": first["n_parameters"],
                "items": items,
                "seconds_per_epoch": float(np.mean(epochs)) if epochs else float("nan"),
                **{metric: float(test[metric].mean()) for metric in METRICS},
                **{f"{metric} sd": float(test[metric].std(ddof=1)) for metric in METRICS},
                **{f"worst {m}": float(np.mean(worst[m])) for m in METRICS},
                **{f"bias {m}": float("nan") if chosen_on_test else float(np.mean(bias[m])) for m in JUDGED},
                "entry": place,
            }
        )
    table = pd.DataFrame(rows).assign(**{n: pd.Series(v, dtype=object) for n, v in differing(entries).items()})
    # A stable order: ties by name, so that the same runs give the same table.
    order = table.assign(fair=fair(table, "mrr@20")).sort_values(["fair", "label"], ascending=[False, True]).index
    return table.loc[order].reset_index(drop=True)


def fair(rows: pd.DataFrame, metric: str) -> pd.Series:
    """A metric of `means` with ties against the target, where that is known."""
    return np.fmin(rows[metric], rows[f"worst {metric}"])


def results_table(runs_dir: Path, split_hash: str, protocol: str) -> pd.DataFrame:
    """`means` of the finished groups of a split and protocol; empty where there are none."""
    rows = []
    for group, config in sound_configs(runs_dir).items():
        if (config["split_hash"], config["protocol"]) == (split_hash, protocol):
            rows += [entry(group, variant) for variant in folders.variants(group)]
    finished = [row for row in rows if row is not None]
    return means(finished).drop(columns="entry") if finished else pd.DataFrame()
