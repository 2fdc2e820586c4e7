"""An export read back: its record and its model, without running code from a file.

model.safetensors   the item table and the weights that are left
export.json         where it came from, what was left out, sizes, times, accuracy, and hashes of the other files
data.json           the data set that its items belong to
items.json          the log's own names of the items, if it has any
README.txt          what it is and how to use it

export.py writes it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dissect.data.archive import sha256
from dissect.errors import DataError, DissectError, UsageError, why
from dissect.experiment.recorded import model_of
from dissect.runs import files, records
from dissect.runs.config import Config
from dissect.sparsevd import compact as making
from dissect.sparsevd.sparsify import exchange
from dissect.training.rebuild import Recorded, roles_without
from dissect.training.smaller import Served
from models.base import catalogue

RECORD, WEIGHTS = "export.json", "model.safetensors"
AGAIN = "Export the run again: dissect export RUN --out FOLDER"


def is_export(folder: Path | str) -> bool:
    return (Path(folder) / RECORD).is_file()


def read_export(folder: Path | str) -> Recorded:
    """The record of an export, as that of a run. Raises DataError if it is missing or damaged."""
    folder = Path(folder)
    found = read_record(folder)
    try:
        records.check(found["config"], Config, str(folder / RECORD), AGAIN)
        config = Config(**found["config"])
        read = {name: float(v) if v in ("inf", "-inf") else v for name, v in config.model_options.items()}
        config = replace(config, model_options=read)
    except (TypeError, UsageError) as error:
        raise DataError(
            f"{folder / RECORD} is of another version of dissect: {str(error).rstrip('.')}.", AGAIN
        ) from error
    run, command = found["run"], tuple(found["run"]["command"])
    return Recorded(folder, folder, run["variant"], run["seed"], config, run["step"], found["n_items"], command)


def load_export(folder: Path | str, model: str | type | None = None) -> Served:
    """The model of an export, on the CPU, in evaluation mode.

    It keeps the contract of models/base.py: `scores(batch)` gives the scores [B, V] of a `Batch.of([[12, 7, 99]])`.
    `model` is the class of a model of one's own, or its file. Raises DataError if the folder is damaged or no export.
    """
    folder = Path(folder)
    record, found = read_export(folder), read_record(folder)
    subject, state = model_of(record, model), _tensors(folder, found)
    try:
        shape = list(state["table"].shape)
        if shape != [found["n_items"], shape[-1] if "columns" in state else found["dim"]]:  # before memory is taken
            says = f"{RECORD} has {found['n_items']:,} items of width {found['dim']:,}"
            raise ValueError(f"{says}, and the table in {WEIGHTS} is {shape}")
        without = roles_without(record.variant, subject.cls.removable)
        extra = {"without": without} if without else {}
        with torch.random.fork_rng(devices=[]):
            inner = subject.cls(n_items=record.n_items, **record.config.model_options, **extra)
        _fill(inner, found, {name.removeprefix("model."): t for name, t in state.items() if name.startswith("model.")})
        return _served(inner.eval(), found, state)
    except DissectError:
        raise
    except Exception as error:  # the class may be a user's, and fail in any way
        raise DataError(f"{folder} does not fit the model {subject.name}: {error}", AGAIN) from error


def _fill(inner: Any, found: Mapping[str, Any], state: dict[str, Tensor]) -> None:
    """Put compact layers into a new model, and the weights of an export into it."""
    dense = {inner.get_submodule(name): sizes["left"] for name, sizes in found["layers"].items()}
    kinds = {layer: kind for layer in dense if (kind := making.kind_for(layer))}
    exchange(inner, {id(layer): kind(layer, *dense[layer]) for layer, kind in kinds.items()})
    inner.switched_off = found["part"]
    absent = set(inner.load_state_dict(state, strict=False).missing_keys) ^ set(found["unread"])
    if absent:
        raise ValueError(f"it lacks or has {', '.join(sorted(absent))}")
    for layer in making.layers_of(inner).values():
        if isinstance(layer, making.Compact):
            layer.spread_small()
    for name in found["unread"]:
        owner, _, own = name.rpartition(".")
        tensor = getattr(inner.get_submodule(owner), own)
        tensor.data = tensor.new_zeros(()).expand(tensor.shape)  # its shape counts, and no memory holds it


def _served(inner: Any, found: Mapping[str, Any], state: Mapping[str, Tensor]) -> Served:
    """The served model from an encoder and the tensors of an export."""
    table, places = state["table"], state.get("places")
    if (columns := state.get("columns")) is not None:
        table = table.new_zeros(len(table), found["dim"]).index_copy_(1, columns, table)
    matrix, bias = state.get("matrix"), state.get("bias")
    if matrix is None:
        with torch.no_grad():
            matrix = table if found["is_table"] else catalogue(inner, table)[0]
        matrix = matrix if places is None else matrix.index_select(1, places)
    return Served(inner, table, matrix, bias, places)


def read_record(folder: Path) -> dict[str, Any]:
    if not is_export(folder):
        raise DataError(f"{folder} is no export: it has no {RECORD}.", "Make one: dissect export RUN --out FOLDER")
    return files.read_json(folder / RECORD, records.Export, AGAIN)


def _tensors(folder: Path, found: Mapping[str, Any]) -> dict[str, Tensor]:
    """The tensors of an export whose files are as they were written. Raises DataError otherwise."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    for name, right in found["sha256"].items():
        path = folder / name
        if not path.is_file():
            raise DataError(f"{path} is missing.", AGAIN)
        if (is_now := sha256(path)) != right:
            says = f"its SHA-256 begins with {is_now[:12]}, and with {right[:12]} when it was written"
            raise DataError(f"{path} is damaged or another one: {says}.", AGAIN)
    try:
        return load_file(folder / WEIGHTS)
    except (SafetensorError, OSError) as error:
        raise DataError(f"{folder / WEIGHTS} cannot be read: {why(error)}.", AGAIN) from error
