"""A trained model exported for serving: a folder with a smaller model, read back without running code from a file.

model.safetensors   the item table and the weights that are left
export.json         where it came from, what was left out, sizes, times, accuracy, and hashes of the other files
data.json           the data set that its items belong to
items.json          the log's own names of the items, if it has any
README.txt          what it is and how to use it
"""

from __future__ import annotations

import math
import os
import platform
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import dissect
from dissect.data import folders
from dissect.data.archive import sha256
from dissect.data.sessions import Dataset, Sessions, prefix_index
from dissect.errors import DataError, DissectError, UsageError
from dissect.experiment import opened, to_onnx
from dissect.runs import files, records
from dissect.runs.config import Config
from dissect.sparsevd import compact as making
from dissect.sparsevd import densify
from dissect.text import shown
from dissect.training.evaluation import evaluate, metrics, prefixes_of
from dissect.training.rebuild import Recorded, roles_without
from dissect.training.scoring import scores_over
from dissect.training.smaller import Served, Shrunk, probes, scores_by, shrink
from models.base import catalogue, session_vectors
from models.batch import Batch

RECORD, WEIGHTS, ONNX = "export.json", "model.safetensors", "model.onnx"
OURS = (RECORD, WEIGHTS, ONNX, "data.json", "items.json", "README.txt")
SAME = 1e-6  # by how much scores may differ, relative to the largest of a session
CHECKED = 512  # test prefixes whose scores are compared; their ranks are compared on all
AGAIN = "Export the run again: dissect export RUN --out FOLDER"
ROUNDS, SECONDS = 200, 4.0  # of a measurement, at most

Report = Callable[[str, int, int], None]  # what is being done, how much of it is done, and of how much (0: unknown)


def silent(what: str, done: int, total: int) -> None:
    """Tell nobody."""


def is_export(folder: Path | str) -> bool:
    return (Path(folder) / RECORD).is_file()


def export(
    record: Recorded,
    out: Path,
    load: opened.Load,
    *,
    item_width: bool = False,
    onnx: bool = False,
    force: bool = False,
    model: str | type | None = None,
    data_dir: str | None = None,
    data: Dataset | None = None,
    report: Report = silent,
) -> dict[str, Any]:
    """Write the trained model of a run to the folder `out`, as small as it can be with the same scores; its record.

    item_width  leave out columns of the item table and catalogue, too, that no score needs
    onnx        write the scoring model as model.onnx, too (to_onnx.py)
    force       replace an export that is already in `out`
    data        the run's data set, if it is at hand; else `load` gives it

    The folder appears whole or not at all. Raises UsageError for a baseline and for a folder that is not ours,
    DataError if the data set is another one than the run's, DissectError if the scores would not be the same.
    """
    if out.name in ("", ".."):  # the current folder
        out = out.resolve()
    _require_place(out, force)
    if onnx:
        to_onnx.require_onnx()
    if is_export(record.run):
        raise UsageError(f"{record.run} is an export already.", "Name the run that it came from.")
    subject = opened.model_of(record, model)
    if not subject.learns:
        raise UsageError(f"{subject.name} is a baseline: it has no weights.", "Export what dissect run has trained.")
    data = data or opened.data_of(record, load, data_dir)
    trained, step, _ = opened.trained_model(record, lambda: data, 1, model, "cpu")
    batches = probes(data.train, record.n_items, record.config.longest)
    try:
        made = shrink(trained, batches, item_width, lambda what: report(what, 0, 0))
    except ValueError as error:
        raise DissectError(f"Nothing was exported: {error}.", "The model may compare or sort its states.") from error
    densify(trained)
    try:
        with folders.whole(out, partial(_require_place, out, force), force) as folder:
            found = _write(folder, record, trained, step, made, item_width)
            served = load_export(folder, model)
            found |= _checked(trained, served, data.test, record.config.longest, report)
            found["times"] = times(trained, served, data.test, record.config.longest, report)
            if onnx:
                report(f"writing {ONNX}", 0, 0)
                to_onnx.write_onnx(served, subject.name, folder / ONNX, _some(data.test, record.config.longest))
                found["sha256"][ONNX] = sha256(folder / ONNX)
            files.write_json(folder / RECORD, found)
            (folder / "README.txt").write_text(_readme(found), encoding="utf-8")
    except OSError as error:
        raise files.refused(out, error) from error
    return files.read_json(out / RECORD, records.Export, AGAIN)


def read_export(folder: Path | str) -> Recorded:
    """The record of an export, as that of a run. Raises DataError if it is missing or damaged."""
    folder = Path(folder)
    found = _record(folder)
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
    record, found = read_export(folder), _record(folder)
    subject, state = opened.model_of(record, model), _tensors(folder, found)
    try:
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
    for name, sizes in found["layers"].items():
        layer = inner.get_submodule(name)
        if kind := making.kind_for(layer):
            making.replace(inner, name, kind(layer, *sizes["left"]))
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


def _record(folder: Path) -> dict[str, Any]:
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
        raise DataError(f"{folder / WEIGHTS} cannot be read: {error}.", AGAIN) from error


def _require_place(out: Path, force: bool) -> None:
    """Raises UsageError if `out` is anything but a new place, an empty folder, or with `force` an export of ours."""
    if not os.path.lexists(out) or (out.is_dir() and not out.is_symlink() and not any(out.iterdir())):
        return
    if out.is_symlink() or not _is_ours(out):
        raise UsageError(f"{out} is there, and is no export of ours.", "Name a new folder: --out FOLDER")
    if others := sorted(path.name for path in out.iterdir() if path.name not in OURS or path.is_dir()):
        more = f" and {len(others) - 3} more" if len(others) > 3 else ""
        says = f"{out} holds an export, and other files with it: {', '.join(map(shown, others[:3]))}{more}."
        raise UsageError(says, "Move them away, or name a new folder: --out FOLDER")
    if not force:
        raise UsageError(f"{out} holds an export already.", "Name another folder, or replace it: --force")


def _is_ours(folder: Path) -> bool:
    """Whether it has the record of an export."""
    with suppress(DataError):
        return bool(_record(folder))
    return False


def _write(
    folder: Path, record: Recorded, trained: nn.Module, step: int, made: Shrunk, item_width: bool
) -> dict[str, Any]:
    """Write the files of an export but README.txt; returns what is known of it so far, which is written too."""
    from safetensors.torch import save

    served, unread = made.served, set(made.unread)
    tensors: dict[str, Tensor | None] = {"places": served.places, "table": served.table}
    width = served.table.shape[1]
    if len(made.read) < width:
        tensors |= {"table": served.table.index_select(1, made.read), "columns": made.read}
    if not made.derived:
        tensors["matrix"] = served.matrix
    tensors["bias"] = served.bias
    inner = {f"model.{name}": t for name, t in served.model.state_dict().items() if name not in unread}
    there = {name: t.detach() for name, t in (tensors | inner).items() if t is not None}
    kept = {name: t.clone(memory_format=torch.contiguous_format) for name, t in there.items()}  # of shared layers, too
    files.write_atomically(folder / WEIGHTS, lambda file: file.write(save(kept)))
    files.write_identifiers(folder, files.read_identifiers(record.group, record.n_items))
    shutil.copyfile(record.group / "data.json", folder / "data.json")
    numbers = {name: t.numel() for name, t in kept.items() if t.is_floating_point()}
    rest = sum(n for name, n in numbers.items() if name.startswith("model."))
    whole = sum(parameter.numel() for parameter in trained.parameters())
    checkpoint = record.run / "checkpoints" / ("last.pt" if record.config.select == "last" else "best.pt")
    config = {name: value for name, value in record.config.to_dict().items() if value is not None}
    run = {"path": str(record.run), "variant": record.variant, "seed": record.seed, "step": step}
    found = {
        "kind": "dissect export",
        "versions": {"dissect": dissect.__version__, "torch": torch.__version__, "python": platform.python_version()},
        "run": {**run, "command": list(record.command), "checkpoint_sha256": sha256(checkpoint)},
        "config": {**config, "model_options": _spelled(config["model_options"])},
        "n_items": record.n_items,
        "dim": width,
        "item_width": {"asked": item_width, "table": len(made.read), "catalogue": served.matrix.shape[1]},
        "is_table": made.is_table,
        "part": made.part,
        "layers": {
            name: {
                "kind": "GRU" if isinstance(served.model.get_submodule(name), making.CompactGRU) else "Linear",
                "whole": list(whole),
                "left": list(left),
                "unused": name in made.unused,
            }
            for name, (whole, left) in made.sizes.items()
        },
        "left_whole": made.whole,
        "unread": made.unread,
        "parameters": {"whole": whole, "left": sum(numbers.values()), "left_beside_items": rest},
        "bytes": {"whole": 4 * whole, "left": (folder / WEIGHTS).stat().st_size},
        "sha256": {path.name: sha256(path) for path in sorted(folder.iterdir())},
    }
    files.write_json(folder / RECORD, found)
    return found


def _spelled(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options as JSON can have them: an infinity as a word."""
    is_odd = {name: isinstance(value, float) and not math.isfinite(value) for name, value in options.items()}
    return {name: str(value) if is_odd[name] else value for name, value in options.items()}


def _checked(trained: Any, served: Served, test: Sessions, longest: int, report: Report) -> dict[str, Any]:
    """How much the scores of two models differ, and the accuracy of both; DissectError if they are not the same."""
    prefixes = prefixes_of(test, longest=longest)
    index = torch.randperm(len(prefixes), generator=torch.Generator().manual_seed(0))[:CHECKED]
    off = []
    with torch.inference_mode():
        for number, part in enumerate(prefixes.by_length(index).split(64)):
            report("comparing scores", 64 * number, len(index))
            batch = prefixes.batch(part)
            right, found = trained.scores(batch), served.scores(batch)
            off.append(((found - right).abs().amax(1) / right.abs().amax(1).clamp(min=1e-30)).max())
    largest = float(torch.stack(off).max())  # NaN, if one is
    if not largest <= SAME:
        raise DissectError(
            f"Nothing was exported: scores would differ by {largest:.1e} of the largest, and may by {SAME:g}.",
            "Please report it with the model: what was left out should not have changed a score.",
        )
    ranks = {}
    for name, model in (("whole", trained), ("export", served)):
        ranks[name] = evaluate(model, prefixes, report=partial(report, f"ranking test, {name}"))
    differ = int((ranks["whole"] != ranks["export"]).sum())
    accuracy = {name: metrics(rank) for name, rank in ranks.items()}
    return {"difference": largest, "accuracy": {**accuracy, "prefixes": len(prefixes), "ranks_that_differ": differ}}


def times(
    trained: Any, served: Served, sessions: Sessions, longest: int = 0, report: Report = silent
) -> dict[str, Any]:
    """Milliseconds of processor time on one thread, the models in turn: medians over sessions and batches of 100.

    encode: from item numbers to the vector; rank: the product with the catalogue, and the 20 highest. `whole` scores as
    every model here does, `whole_same_way` as an export (smaller.scores_by). All have item table and catalogue ready.
    """
    ends, threads = prefix_index(sessions), torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.inference_mode():
            ways = {"whole": (trained, scores_over), "whole_same_way": (trained, scores_by)}
            models = {name: _steps(*way) for name, way in {**ways, "export": (served, scores_by)}.items()}
            chosen = np.random.default_rng(0).permutation(len(ends[0]))[:1000]
            picked = [_prefix(sessions, ends, i, longest) for i in chosen]
            one = _alternate(models, [[clicks] for clicks in picked[:ROUNDS]], "timing single sessions", report)
            hundreds = [picked[low : low + 100] for low in range(0, len(picked), 100)]
            many = _alternate(models, hundreds * 3, "timing batches", report)
    finally:
        torch.set_num_threads(threads)
    return {"session": one, "batch": {**many, "sessions": len(hundreds[0])}}


def _prefix(sessions: Sessions, ends: tuple[np.ndarray, np.ndarray], i: int, longest: int) -> list[int]:
    clicks: list[int] = sessions[ends[0][i]][: ends[1][i]].tolist()
    return clicks[-longest:]


def _some(sessions: Sessions, longest: int) -> list[list[int]]:
    """Prefixes of several lengths, two at least."""
    ends = prefix_index(sessions)
    clicks = [_prefix(sessions, ends, i, longest) for i in np.unique(ends[1], return_index=True)[1][:20]]
    return [*clicks, clicks[0]]


def _steps(model: Any, score: Any) -> tuple[Callable[[list[list[int]]], Tensor], Callable[[Tensor], object]]:
    """(encode, rank) of a model in evaluation."""
    S = model.item_states()
    matrix, bias = catalogue(model, S)
    k = min(20, len(matrix))
    return lambda clicks: session_vectors(model, S, Batch.of(clicks)), lambda v: score(v, matrix, bias).topk(k)


def _alternate(
    models: Mapping[str, Any], inputs: Sequence[list[list[int]]], what: str, report: Report
) -> dict[str, Any]:
    """Median milliseconds of the models over the inputs, in turn, for SECONDS at most."""
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in models}
    began = time.monotonic()
    for number, clicks in enumerate(inputs):
        for name in list(models)[:: 1 - 2 * (number % 2)]:
            encode, rank = models[name]
            start = time.thread_time()
            vectors = encode(clicks)
            half = time.thread_time()
            rank(vectors)
            taken[name].append((half - start, time.thread_time() - half))
        report(what, number, len(inputs))
        if time.monotonic() - began > SECONDS and number >= 10:
            break

    def in_ms(rows: list[tuple[float, float]]) -> dict[str, float]:
        rows = rows[2:] or rows  # the first ones warm up
        encode, rank = (1e3 * median(row[i] for row in rows) for i in (0, 1))
        return {"encode": encode, "rank": rank, "total": 1e3 * median(map(sum, rows))}

    return {**{name: in_ms(rows) for name, rows in taken.items()}, "rounds": len(taken["whole"])}


def sameness(difference: float) -> str:
    """How much the scores of an export differ from the model's, in words."""
    return f"differ by {difference:.0e} of a session's largest at most" if difference else "are equal"


def _readme(found: Mapping[str, Any]) -> str:
    """README.txt of an export, in plain words."""
    onnx = ONNX in found["sha256"]
    more = """
model.onnx gives the same scores to other programs: items [B, L] (0 pads on the right) and lengths [B], both int64, make
scores [B, V], of item 1 in the first column.
"""
    names = " --identifiers" if "items.json" in found["sha256"] else ""
    item = "NAME,NAME" if names else "12,7,99"
    after = found["accuracy"]["export"]
    return f"""A trained session-based recommender, exported by dissect {found["versions"]["dissect"]}.

Model:     {found["config"]["model"]}
Data set:  {found["config"]["dataset"]}, {found["n_items"]:,} items
Run:       {found["run"]["path"]}
Accuracy:  HR@20 {after["hr@20"]:.2f}, MRR@20 {after["mrr@20"]:.2f} on {found["accuracy"]["prefixes"]:,} test prefixes
Size:      {found["bytes"]["left"]:,} bytes; the whole model has {found["bytes"]["whole"]:,}

It gives the scores of the whole model (they {sameness(found["difference"])}).
Rows and columns of weights that the training had pruned, and what they alone fed, were left out: export.json lists
them.

Recommend with it:

    dissect recommend FOLDER --session {item}{names}
    dissect recommend FOLDER --sessions FILE{names}     (a session a line)

From Python, a list of items for each session:

    import dissect
    dissect.recommend("FOLDER", [[12, 7, 99]])
    model = dissect.load_export("FOLDER")        # a torch.nn.Module

The weights are in model.safetensors: reading them runs no code. data.json says to which data set the item numbers
belong.
{more * onnx}"""
