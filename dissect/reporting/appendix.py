"""The appendix of a report: what it takes to do the runs again, and what their records do not say."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import dissect
from analyses import compare, unshadowed
from analyses.entries import Entry
from analyses.need import NEED_LIMIT
from dissect.errors import DataError
from dissect.runs import files, folders
from dissect.runs.config import CALIBRATED, DENSE, LITERAL, Config
from dissect.runs.records import Environment
from dissect.sparsevd.rules import CLEAR, EMPTY, FALL, FALSE_LIMIT, PRUNED
from dissect.tables.cells import time
from dissect.tables.text import Table, by_rows
from dissect.text import plural, trials_of

ABOUT = ("dissect", "commit", "python", "torch", "numpy", "system", "processor", "threads", "device", "cuda")
# Settings that say what was trained, or follow from it, and are no choice of a setting.
GIVEN = ("model", "dataset", "split_hash", "model_options", "model_source", "max_steps", "where", "init_from")


def appendix(groups: Sequence[Path], entries: Sequence[Entry]) -> dict[str, Any]:
    """Commands, versions, machines, data, seeds and times of `groups`, and how settings and epochs were chosen.

    `entries` are the rows that the report shows. What is missing or damaged in a record is left out and told.
    """
    runs = [(group, variant, run) for group in groups for variant in folders.variants(group)
            for run in folders.group_runs(group, variant)]  # fmt: skip
    known = {run: _read(run / "environment.json", Environment) for _, _, run in runs}
    return {
        "commands": commands(runs, known),
        "machines": machines(runs, known),
        "data": data(groups),
        "seeds": seeds(runs, known),
        "settings": [of for group in groups if (of := settings(group))],
        "chosen": chosen(entries, searches(runs, known)),
        "again": " ".join(map(shlex.quote, dissect.command)) or "dissect.report(...), from Python",
    }


def _read(path: Path, kind: Any) -> dict[str, Any]:
    try:
        return files.read_json(path, kind) if path.exists() else {}
    except DataError as error:
        folders.left_out(error)
        return {}


Runs = Sequence[tuple[Path, str, Path]]  # group, variant, run


def commands(runs: Runs, known: Mapping[Path, dict[str, Any]]) -> list[dict[str, str]]:
    """Every command on record, once, with the runs that it made."""
    found: dict[str, dict[str, list[str]]] = {}
    for group, _, run in runs:
        words = " ".join(map(shlex.quote, known[run].get("command", [])))
        found.setdefault(words, {}).setdefault(group.name, []).append(str(run.relative_to(group)))
    return [
        {"command": command, "runs": "; ".join(f"{group}: {', '.join(names)}" for group, names in of.items())}
        for command, of in found.items()
    ]


def machines(runs: Runs, known: Mapping[Path, dict[str, Any]]) -> Table:
    """The versions and machines that runs were made with."""
    found: dict[tuple[str, ...], int] = {}
    for _, _, run in runs:
        about = tuple(str(known[run].get(name) or "") for name in ABOUT)
        found[about] = found.get(about, 0) + 1
    return by_rows(
        "What the runs were made with", ["runs", *ABOUT], [[plural(n, "run"), *about] for about, n in found.items()]
    )


def seeds(runs: Runs, known: Mapping[Path, dict[str, Any]]) -> Table:
    """Every run: seed, when it began, how long it was trained, and whether it counts."""
    rows = []
    for group, variant, run in runs:
        state, summary = "not finished", dict[str, Any]()
        if folders.is_done(run):
            try:
                state, summary = "finished", folders.read_summary(run)
            except DataError as error:
                folders.left_out(error)
                state = "unreadable"
        length = [f"{summary['steps']:,}" if "steps" in summary else "", f"{summary['epochs']:.3g}" if summary else ""]
        took = time(summary.get("seconds"))
        seed, began = str(folders.place_of(run)[1]), str(known[run].get("started", ""))[:16].replace("T", " ")
        rows.append([group.name, variant, seed, began, *length, took, state])
    head = ["group", "variant", "seed", "begun (UTC)", "steps", "epochs", "time of training", "state"]
    return by_rows("Every run, with its time of training (without evaluation)", head, rows)


def data(groups: Sequence[Path]) -> list[Table]:
    """Each data set: counts, split, and where it comes from, with the hashes of its files."""
    found: dict[str, dict[str, Any]] = {}
    for group in groups:
        record = _read(group / "data.json", dict[str, Any])
        found.setdefault(str(record.get("split_hash")), record)
    return [
        by_rows(f"Data set {record.get('name', '')}", ["what", "value"], rows)
        for record in found.values()
        if (rows := [[name, value] for name, value in flat(record) if name not in ("schema", "name")])
    ]


def flat(record: Mapping[str, Any], before: str = "") -> list[tuple[str, str]]:
    """A record of records as one, with names in words: {"train": {"n_items": 9}} becomes "train, items"."""
    rows: list[tuple[str, str]] = []
    for name, value in record.items():
        if isinstance(value, Mapping):
            rows += flat(value, f"{before}{name.replace('_', ' ')}, ")
        else:
            is_count = isinstance(value, int) and not isinstance(value, bool)
            words = name.removeprefix("n_").replace("_", " ")
            rows.append((f"{before}{words}", f"{value:,}" if is_count else str(value)))
    return rows


def settings(group: Path) -> dict[str, Any] | None:
    """The settings of a group as its file has them, and those that are not the defaults of its verb."""
    try:
        config = Config(**folders.group_config(group))
        text = (group / folders.CONFIG).read_text(encoding="utf-8")
    except (DataError, OSError):
        return None  # told by the section of the group
    usual = {"dissect run": CALIBRATED, "dissect run --literal": LITERAL, "dissect train": DENSE}
    given = {name: getattr(config, name) for name in GIVEN}
    base = {verb: Config(**{**of, **given}) for verb, of in usual.items()}
    is_dense = config.where == "none"
    verbs = ["dissect train"] if is_dense else ["dissect run", "dissect run --literal"]
    apart = {verb: {n: v for n, v in config.to_dict().items() if v != getattr(base[verb], n)} for verb in verbs}
    verb = min(verbs, key=lambda each: len(apart[each]))
    changed = ", ".join(f"{name} = {value}" for name, value in {**config.model_options, **apart[verb]}.items())
    return {"group": group.name, "text": text, "verb": verb, "changed": changed}


def searches(runs: Runs, known: Mapping[Path, dict[str, Any]]) -> list[str]:
    """The groups whose settings were tuned, with what they, or the commands of their runs, tell of it."""
    found = {
        g: f"{g.name} (its command has --tuned)" for g, _, run in runs if "--tuned" in known[run].get("command", [])
    }
    groups = dict.fromkeys(group for group, _, _ in runs)
    for group, record in folders.each_sound(groups, lambda group: (group, folders.tuned_by(group)), required=False):
        if record:
            of = f"{record['file']}, SHA-256 {record['sha256'][:12]}"
            found[group] = f"{group.name} on validation, {trials_of(record['trials'], record.get('asked', 0))} ({of})"
    return list(found.values())


def chosen(entries: Sequence[Entry], tuned: Sequence[str] = ()) -> list[list[str]]:
    """What was chosen, and on what; `tuned` are the searches on record."""
    held = {str(entry.config.get("validation", "")) for entry in entries if entry.selection == "validation"}
    ways = dict.fromkeys(entry.selection for entry in entries if entry.selection)
    epochs = [
        f"{compare.EPOCHS[how][1]}" + (f" ({', '.join(sorted(held))} of the training sessions)" * (how == "validation"))
        for how in ways
    ]
    limits = (
        f"excess {EMPTY}, pruned {PRUNED}, clear {CLEAR}, by chance {100 * FALSE_LIMIT:g} %, swapped inputs "
        f"{100 * FALL:g} %, need {100 * NEED_LIMIT:g} %; without shadows {unshadowed.WITHERED_AT} and "
        f"{unshadowed.ALIVE_FROM}"
    )
    on_test = "nothing is chosen by them"
    if "test" in ways:
        on_test = "and where the protocol is that of the paper, the epoch is chosen on it: such numbers are too high"
    return [
        ["epoch reported", "; ".join(epochs) or "nothing was trained"],
        [
            "settings, KL weight, threshold",
            f"{'tuned: ' + '; '.join(tuned) + '. All others ' if tuned else ''}set before each training, by its "
            f"command or the defaults (below). The records tell of no {'other ' * bool(tuned)}search; whether somebody "
            "had seen other results before, they cannot tell",
        ],
        ["limits of the rules", f"fixed in the code for all models and data: {limits}"],
        ["test set", f"accuracy, need, quick checks and swapped inputs are measured on it; {on_test}"],
        ["energy", "not measured"],
    ]
