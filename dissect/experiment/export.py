"""A trained model exported for serving: a folder with a smaller model (exported.py reads it)."""

from __future__ import annotations

import math
import platform
import shutil
from collections.abc import Collection, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import dissect
from dissect.data.archive import sha256
from dissect.data.sessions import Dataset, Sessions
from dissect.errors import DataError, DissectError, UsageError
from dissect.experiment import to_onnx
from dissect.experiment.exported import AGAIN, RECORD, WEIGHTS, is_export, load_export, read_record
from dissect.experiment.opened import trained_model
from dissect.experiment.plan import Report, silent
from dissect.experiment.recorded import Load, data_of, model_of
from dissect.experiment.serving_times import some, times
from dissect.runs import files, folders, records, replace
from dissect.sparsevd import compact as making
from dissect.sparsevd import densify
from dissect.training.evaluation import evaluate, metrics, prefixes_of
from dissect.training.rebuild import Recorded
from dissect.training.smaller import Served, Shrunk, probes, shrink

ONNX = "model.onnx"
OURS = (RECORD, WEIGHTS, ONNX, "data.json", "items.json", "README.txt")
SAME = 1e-6  # by how much scores may differ, relative to the largest of a session
CHECKED = 512  # test prefixes whose scores are compared; their ranks are compared on all


def export(
    record: Recorded,
    out: Path,
    load: Load,
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
    replace.require_folder(out, KIND, force)
    if onnx:
        to_onnx.require_onnx()
    if is_export(record.run):
        raise UsageError(f"{record.run} is an export already.", "Name the run that it came from.")
    subject = model_of(record, model)
    if not subject.learns:
        raise UsageError(f"{subject.name} is a baseline: it has no weights.", "Export what dissect run has trained.")
    data = data or data_of(record, load, data_dir)
    trained, step, _ = trained_model(record, lambda: data, 1, model, "cpu")
    batches = probes(data.train, record.n_items, record.config.longest)
    try:
        made = shrink(trained, batches, item_width, lambda what: report(what, 0, 0))
    except ValueError as error:
        raise DissectError(f"Nothing was exported: {error}.", "The model may compare or sort its states.") from error
    except DissectError:
        raise
    except Exception as error:  # a user's model may do anything with its layers
        says = f"{subject.name} cannot be made smaller: {type(error).__name__}: {' '.join(str(error).split())}"
        hint = "While an export is made, the model runs in double precision, with small layers in place of its own."
        raise DissectError(f"Nothing was exported: {says}.", hint) from error
    densify(trained)
    try:
        with replace.whole(out, KIND, force) as folder:
            found = _write(folder, record, trained, step, made, item_width)
            served = load_export(folder, model)
            found |= _checked(trained, served, data.test, record.config.longest, report)
            found["times"] = times(trained, served, data.test, record.config.longest, report)
            if onnx:
                report(f"writing {ONNX}", 0, 0)
                to_onnx.write_onnx(served, subject.name, folder / ONNX, some(data.test, record.config.longest))
                found["sha256"][ONNX] = sha256(folder / ONNX)
            files.write_json(folder / RECORD, found)
            (folder / "README.txt").write_text(_readme(found), encoding="utf-8")
    except OSError as error:
        raise files.refused(out, error) from error
    return files.read_json(out / RECORD, records.Export, AGAIN)


def _ours(folder: Path) -> Collection[str]:
    """The names of the files of an export; none for a folder without the record of one."""
    with suppress(DataError):
        return OURS if read_record(folder) else ()
    return ()


KIND = replace.Kind("an export", _ours)


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
    checkpoint = folders.reported(record.run, record.config.select)
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


def remarks(found: Mapping[str, Any]) -> list[str]:
    """What a reader should know beside the tables."""
    layers, width, dim = found["layers"], found["item_width"], found["dim"]
    says = []
    if not any(layer["left"] != layer["whole"] for layer in layers.values()):
        says.append(
            "No row or column is dead: the export is no smaller than the model, and as slow. Weights that are pruned "
            "here and there save nothing; a larger --kl-weight prunes more of them."
        )
    elif found["bytes"]["left"] > found["bytes"]["whole"]:
        says.append(
            "The file is larger than the model's weights: its constants and its index take more than was saved."
        )
    if found["part"]:
        says.append(f"Left out: {found['part']}. Scores are the same without it.")
    if found["left_whole"]:
        says.append(f"Layers of a kind that stays whole: {', '.join(found['left_whole'])}.")
    if width["asked"] and width["table"] == width["catalogue"] == dim:
        says.append(f"Item width: all {dim} columns of the item table are needed, so none was left out.")
    elif width["asked"]:
        says.append(
            f"Item width: of {dim} columns the item table keeps {width['table']}, the catalogue {width['catalogue']}."
        )
    return says


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
