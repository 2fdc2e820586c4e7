"""The records of a run as events of TensorBoard.

    loss/cross_entropy, loss/kl, loss/total       nats; the KL is summed over all weights
    schedule/kl_weight, schedule/learning_rate
    test/hr_20, valid/mrr_20, ...                 percent
    density/<matrix>                              share of its weights with log alpha below the threshold
    log_alpha/<matrix>                            its histogram

What belongs to a shadow stands under the tags of its matrix, in a run of its own inside (`s1/shadow`): TensorBoard
draws both in one chart.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from dissect.errors import DataError, UsageError
from dissect.runs import files, folders, replace
from dissect.runs.records import METRICS, Density, Environment, Eval, Train
from dissect.sparsevd.density import BINS, BINS_PER_UNIT, LOWEST, key

SHADOW = "shadow"
EVENTS = "events.out.tfevents."  # how the names of TensorBoard's files begin
OURS = ".dissect"  # how the names of those end that we have written, and may replace
INSTALL = 'pip install -e ".[tensorboard]"'
# Right edges of the bins of log alpha. The first and the last bin hold what lies beyond -20 and 20.
EDGES = [LOWEST + i / BINS_PER_UNIT for i in range(BINS + 2)]


class Point(NamedTuple):
    """A value, or the counts of a histogram of log alpha, at a step; `seconds` of training were spent until then."""

    tag: str
    step: int
    seconds: float
    value: float | list[int]


def points(run: Path) -> Iterator[Point]:
    """The records of a run, those of shadows under `shadow/<tag>`. Raises DataError for a damaged record."""
    threshold = key(folders.group_config(folders.group_of(run))["threshold"])
    lines = folders.read_records(run, "metrics.jsonl", Train | Eval)
    trained = [line for line in lines if line["kind"] == "train"]
    steps = np.array([0, *(line["step"] for line in trained)])
    seconds = np.array([0.0, *(line["seconds"] for line in trained)])

    def at(line: Mapping[str, Any]) -> tuple[int, float]:
        """Step and seconds; only losses have their time on record, others lie between them."""
        return line["step"], float(np.interp(line["step"], steps, seconds))

    of_loss = {"loss/cross_entropy": "ce", "loss/kl": "kl", "loss/total": "loss"}
    of_loss |= {"schedule/kl_weight": "kl_weight", "schedule/learning_rate": "lr"}
    for line in lines:
        if line["kind"] == "train":
            yield from (
                Point(tag, *at(line), line[name]) for tag, name in of_loss.items() if line.get(name) is not None
            )
        else:
            yield from (Point(tag_of(line["split"], name), *at(line), line[name]) for name in METRICS)
    for line in folders.read_records(run, "density.jsonl", Density):
        if line["block"]:
            continue
        if threshold not in line["kept"]:
            raise DataError(f"{run / 'density.jsonl'} has no counts at log alpha < {threshold}.", files.AGAIN)
        if (counted := sum(line["log_alpha_hist"])) != line["numel"]:
            says = f"{run / 'density.jsonl'} is damaged: of {line['matrix']} it counts {counted:,} of {line['numel']:,}"
            raise DataError(f"{says} weights.", files.AGAIN)
        is_shadow = line["role"] == SHADOW
        of, name = f"{SHADOW}/" * is_shadow, line["matrix"].removeprefix(f"{SHADOW}." * is_shadow)
        yield Point(f"{of}density/{name}", *at(line), line["kept"][threshold] / line["numel"])
        yield Point(f"{of}log_alpha/{name}", *at(line), line["log_alpha_hist"])


def tag_of(split: str, metric: str) -> str:
    """test, hr@20 -> test/hr_20: TensorBoard allows no @ in a tag."""
    return f"{split}/{metric.replace('@', '_')}"


def export(run: Path, folder: Path) -> list[Path]:
    """Write the events of a run into `folder`, and those of its shadows into `folder`/shadow; the folders written.

    An event's wall time is the start of the run and the time in training steps since; evaluations take none. The
    events of an earlier export are replaced. The run may be unfinished.

    Raises UsageError if the package tensorboard is missing, or the folder holds anything else; DataError if the
    run has no record, or a damaged one; DissectError if the disk refuses.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise UsageError("Writing events for TensorBoard needs the package tensorboard.", INSTALL) from error
    replace.require_folder(folder, BOARD)
    found = list(points(run))
    if not found:
        raise DataError(f"{run} has no record of a training yet.", "A baseline has none; a run begins with one.")
    started = files.read_json(run / "environment.json", Environment).get("started")
    began = 0.0
    with suppress(ValueError):  # a record of somebody else's may say anything
        began = datetime.fromisoformat(str(started)).timestamp()
    parts = {folder: [point for point in found if not point.tag.startswith(f"{SHADOW}/")]}
    if of_shadows := [p._replace(tag=p.tag.partition("/")[2]) for p in found if p.tag.startswith(f"{SHADOW}/")]:
        parts[folder / SHADOW] = of_shadows
    try:
        with replace.whole(folder, BOARD) as new:
            for part, own in parts.items():
                with SummaryWriter(new / part.relative_to(folder), max_queue=1000, filename_suffix=OURS) as writer:
                    write(writer, own, began)
                    if part == folder:
                        write_settings(writer, run)
    except OSError as error:
        raise files.refused(folder, error) from error
    return list(parts)


def write(writer: Any, found: Sequence[Point], began: float) -> None:
    """Write points through a SummaryWriter."""
    for tag, step, seconds, value in found:
        wall = began + seconds
        if not isinstance(value, list):
            writer.add_scalar(tag, value, step, walltime=wall)
            continue
        counts = np.asarray(value)
        middles, filled = np.array(EDGES) - 0.5 / BINS_PER_UNIT, np.flatnonzero(counts)
        writer.add_histogram_raw(
            tag,
            min=EDGES[filled[0]] - 1 / BINS_PER_UNIT,
            max=EDGES[filled[-1]],
            num=int(counts.sum()),
            sum=float(counts @ middles),
            sum_squares=float(counts @ middles**2),
            bucket_limits=EDGES,
            bucket_counts=value,
            global_step=step,
            walltime=wall,
        )


def write_settings(writer: Any, run: Path) -> None:
    """Write the settings of the group, seed and variant as hyperparameters, with the accuracy on test as metrics."""
    from torch.utils.tensorboard.summary import hparams

    config = folders.group_config(folders.group_of(run))
    options = {f"model.{name}": value for name, value in config.pop("model_options", {}).items()}
    variant, seed = folders.place_of(run)
    plain = {
        name: value if isinstance(value, (bool, int, float, str)) else repr(value)
        for name, value in {**config, **options, "variant": variant, "seed": seed}.items()
    }
    shown = {tag_of("test", name): 0.0 for name in ("hr@20", "mrr@20")}  # whose curves stand in the same folder
    for summary in hparams(plain, shown):
        writer._get_file_writer().add_summary(summary)


def _ours(folder: Path) -> Collection[str]:
    """The names of all that `export` writes into a folder."""
    return {f"{SHADOW}/", *(path.relative_to(folder).as_posix() for path in folder.rglob(f"{EVENTS}*{OURS}"))}


BOARD = replace.Kind("events of dissect", _ours, needs_force=False)
