"""What a command asks for: what was typed over the settings of a file, as the arguments of `train`."""

from __future__ import annotations

import shlex
import tomllib
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from dissect.data.sessions import Dataset
from dissect.errors import UsageError, unknown, why
from dissect.experiment.opened import newest_dataset
from dissect.experiment.plan import OF_BASELINE, Say
from dissect.experiment.recorded import Load, recorded_model, require_split
from dissect.experiment.subject import Subject, find_model, is_option, option_values
from dissect.runs.config import LITERAL, SETTINGS, Config
from dissect.runs.folders import HASHED

OF_COMMAND = {"config", "model", "dataset", "data_dir", "extra", "dim"}  # what `train` gets in another form


def requested(
    given: Mapping[str, Any], typed: Collection[str], usual: Mapping[str, Any], load: Load, say: Say
) -> tuple[Subject, Dataset, dict[str, Any]]:
    """(model, data set, arguments of `train`) of a command.

    `given` are the values of its options, `typed` the names of those that the user gave. They win over the file
    `given["config"]`, which wins over `usual`, the settings of the verb. A preset that is typed is worth what it sets.
    """
    source, is_dense, preset = given["config"], usual.get("where") == "none", given["preset"]
    file = read_settings(source, usual, "init_from" in typed) if source else {}
    is_group = "split_hash" in file
    if is_group and given["tuned"]:
        says = "--tuned and the --config of a group exclude each other: the group has its own value of every setting."
        raise UsageError(says, "Leave one of them out.")
    replaced = {*LITERAL, "max_steps"} if usual is LITERAL else set()  # --literal wins over the file
    if is_group and not is_dense:  # it has every setting but those that are newer than it
        usual = LITERAL
    model, dataset = (given[name] if name in typed else file.get(name, given[name]) for name in ("model", "dataset"))
    if model is None:
        raise UsageError("MODEL is missing.", "Name one of `dissect models`: dissect train srgnn")
    is_files = "model" not in typed and "model" in file
    subject = recorded_model(model, file.get("model_source"), source) if is_files else find_model(model)
    if not is_dense:
        subject.require_weights()
    data = load(dataset or newest_dataset(given["runs_dir"], say), given["data_dir"])
    is_its_data = is_group and file.get("dataset") == data.name
    if is_its_data:
        require_split(data, file["split_hash"], source)
    names, recipe = {each.name for each in SETTINGS}, subject.cls.recipes.get(preset, {})
    wins = {name for name in recipe if is_dense or name not in usual}  # as in `settings_of`
    counts = ({*names, "select"} if subject.learns else set(OF_BASELINE)) - wins - replaced
    settings = {name: value for name, value in file.items() if name in counts}
    if given["epochs"] is not None:
        settings.pop("max_steps", None)
    settings |= {name: given[name] for name in typed if name in names}
    options, name = dict[str, Any](), given["name"]
    if file.get("model", subject.name) == subject.name:
        of_preset = subject.cls.presets.get(preset, {})
        options = {name: value for name, value in file.get("model_options", {}).items() if name not in of_preset}
        if is_its_data and not preset and HASHED.search(group := Path(source).resolve().parent.name):
            name = name or HASHED.sub("", group)
    options |= option_values(given["extra"], given["dim"])
    about = {name: value for name, value in given.items() if name not in names | OF_COMMAND}
    return subject, data, {**about, **settings, "options": options, "name": name, "usual": usual}


def read_settings(path: str | Path, usual: Mapping[str, Any], has_weights: bool = False) -> dict[str, Any]:
    """The settings in a group's config.toml, or in a file like it, for the verb whose settings are `usual`.

    Raises UsageError for an unknown setting, for a file of the other verb, and for one that starts from weights if the
    request does not (`has_weights`).
    """
    try:
        found = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UsageError(
            f"{path} cannot be read: {why(error)}.", "It should be like the config.toml of a group."
        ) from error
    for name in found.keys() - Config.__dataclass_fields__.keys():
        if is_option(name):
            raise UsageError(
                f"{path}: {name} is an option of a model, not a setting.",
                "It belongs below a line [model_options], at the end of the file.",
            )
        wrong = unknown("setting", name, Config.__dataclass_fields__)
        raise UsageError(f"{path}: {wrong.message}", f"{wrong.hint} Options of a model stand below [model_options].")
    texts = ("model", "dataset", "split_hash", "model_source", "init_from", "select")
    others = [name for name in texts if not isinstance(found.get(name, ""), str)]
    if others or not isinstance(found.get("model_options", {}), dict):
        says = f"{others[0]} is a text" if others else "model_options is a table"
        raise UsageError(f"{path}: {says}.", "See the config.toml of a group.")
    if found.pop("refit", False):
        raise UsageError(
            f"{path} belongs to a training on all sessions, whose length each seed had chosen before.",
            "Name the config.toml of the group that chose it, and add --refit.",
        )
    require_own(path, found, usual)
    if "init_from" in found and not has_weights:
        raise UsageError(f"{path} starts from the weights {found['init_from']}.", "Name their run: --init-from RUN")
    return found


def require_own(path: str | Path, found: Mapping[str, Any], usual: Mapping[str, Any]) -> None:
    """Raises UsageError for a file of the other verb: it chooses the epoch as that does, or has settings of it."""
    own, other = ("train", "run") if usual.get("where") == "none" else ("run", "train")
    select = usual.get("select", "last")
    if found.get("select", select) != select and found.get("max_steps") != 0:  # a baseline chooses nothing
        use = f"Use it there: dissect {other} --config {shlex.quote(str(path))}"
        raise UsageError(f"{path} belongs to dissect {other}.", use)
    for each in SETTINGS:
        is_other = each.group == "SparseVD" if own == "train" else each.name in ("protocol", "patience")
        nothing = "none" if each.name == "where" else each.default
        if is_other and found.get(each.name, nothing) != nothing:
            says = f"{path} has {each.name} = {found[each.name]}, and dissect {own} has no such setting."
            raise UsageError(says, f"Leave it out of the file: dissect {other} has it.")
