"""The course of training: cross-entropy and accuracy of every seed by epoch and by time."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from analyses.density import settled
from dissect.errors import DataError
from dissect.runs import folders
from dissect.runs.folders import each_sound
from dissect.runs.records import Eval, Train

CURVES = {"ce": "loss", "hr@20": "HR@20", "mrr@20": "MRR@20"}  # field of a record -> what it is called
LOSS_POINTS = 100  # along a training


def training_table(group: Path, variant: str = folders.FULL) -> pd.DataFrame:
    """The records of the finished seeds, or of the unfinished if there are none: one row per seed, step and curve.

    Columns: seed, curve (loss, HR@20, MRR@20), split (train, valid, test), step, epoch, minutes, value. The loss is the
    mean cross-entropy (nats), without the KL, over stretches of a hundredth of the steps configured; minutes are those
    spent in training steps, without evaluation. A damaged seed is skipped with a warning. Raises DataError if nothing
    was recorded or all is damaged.
    """
    stretch = max(1, round(folders.group_config(group)["max_steps"] / LOSS_POINTS))
    rows = [
        row for of_run in each_sound(settled(group, variant), lambda run: training_rows(run, stretch)) for row in of_run
    ]
    if not any(row["step"] for row in rows):  # a baseline is ranked at step 0
        known = folders.variants(group)
        raise DataError(
            f"{group.name} has no record of a training{'' if variant == folders.FULL else f' {variant}'}.",
            "A baseline without gradients has none." if variant in known else f"In it: {', '.join(known) or 'no run'}.",
        )
    return pd.DataFrame(rows)


def peak(runs: Iterable[Path]) -> tuple[float, float, float] | None:
    """(epoch after which MRR@20 on validation was highest, last epoch, share lost since), of the means over runs.

    None where no epoch has it for every run. Damaged records are passed over: no answer depends on them.
    """
    found = []
    for run in runs:
        with suppress(DataError):
            records = folders.read_records(run, "metrics.jsonl", Train | Eval)
            evals = {of["epoch"]: of["mrr@20"] for of in records if of.get("split") == "valid"}
            found.append(pd.Series(evals, dtype=float))
    means = pd.concat(found, axis=1).dropna().mean(axis=1) if found else pd.Series(dtype=float)
    if not means.any():
        return None
    return float(means.idxmax()), float(means.index[-1]), float(1 - means.iloc[-1] / means.max())


def training_rows(run: Path, stretch: int) -> list[dict[str, Any]]:
    """The rows of a run, its losses as means over `stretch` steps. Raises DataError if its record is damaged."""
    records = folders.read_records(run, "metrics.jsonl", Train | Eval)
    trained = [record for record in records if record["kind"] == "train"]
    # Evaluations have no time on record: it is interpolated between the losses around them.
    steps = [0, *(record["step"] for record in trained)]
    seconds = [0.0, *(record["seconds"] for record in trained)]
    return [
        {
            "seed": folders.place_of(run)[1],
            "curve": curve,
            "split": record.get("split", "train"),
            "step": record["step"],
            "epoch": record["epoch"],
            "minutes": float(np.interp(record["step"], steps, seconds)) / 60,
            "value": record[name],
        }
        for record in [*averaged(trained, stretch), *(record for record in records if record["kind"] == "eval")]
        for name, curve in CURVES.items()
        if name in record
    ]


def averaged(records: list[dict[str, Any]], stretch: int) -> list[dict[str, Any]]:
    """Records of the loss averaged over stretches of `stretch` steps: step and epoch of the last, mean ce.

    Each record is a mean over the steps since the one before, and is weighted by their number.
    """
    parts: dict[int, list[tuple[int, dict[str, Any]]]] = {}
    before = 0
    for record in records:
        # A rest of less than half a stretch belongs to the stretch before it.
        number = min((record["step"] - 1) // stretch, max(0, round(records[-1]["step"] / stretch) - 1))
        parts.setdefault(number, []).append((record["step"] - before, record))
        before = record["step"]
    return [
        {
            "step": part[-1][1]["step"],
            "epoch": part[-1][1]["epoch"],
            "ce": sum(steps * record["ce"] for steps, record in part) / max(1, sum(steps for steps, _ in part)),
        }
        for part in parts.values()
    ]


def over_seeds(table: pd.DataFrame) -> pd.DataFrame:
    """Mean, low and high over seeds of each curve and split at each step, with the number of seeds that got there.

    Columns: curve, split, step, epoch, minutes (mean over seeds), mean, low, high, seeds.
    """
    by_step = table.groupby(["curve", "split", "step"], sort=True)
    shown = by_step.agg(
        epoch=("epoch", "mean"),
        minutes=("minutes", "mean"),
        mean=("value", "mean"),
        low=("value", "min"),
        high=("value", "max"),
        seeds=("seed", "nunique"),
    )
    return shown.reset_index()


def evaluated_on(tables: list[pd.DataFrame]) -> str:
    """The split by which curves are drawn: validation if every table has it, else test for all of them."""
    return "valid" if all((table["split"] == "valid").any() for table in tables) else "test"
