"""How many weights each matrix, block, role and module keeps, along the training of a group's seeds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from dissect.errors import DataError, unknown
from dissect.runs.files import AGAIN, read_jsonl
from dissect.runs.folders import group_runs, is_done, leave_out, read_summary, variants
from dissect.runs.records import Density
from dissect.sparsevd.density import BINS_PER_UNIT, LOWEST

COUNTS = ("kept ", "abs ", "signed ")  # how the columns of counts begin


def density_table(group: Path, variant: str = "full") -> pd.DataFrame:
    """The density records of every seed: one row per seed, step, matrix and block.

    Columns: seed, step, epoch, matrix, block, role, module, numel, kl_weight, the counts `kept <t>`,
    `abs <tau>`, `signed <tau>`, and log_alpha_hist. A damaged seed is left out, and said. Raises DataError where
    nothing was recorded or all is damaged, UsageError for another variant, with those that there are.
    """
    known = variants(group)
    if variant not in known and known:
        raise unknown(f"variant in {group.name}", variant, known)
    return density_of(group_runs(group, variant), group)


def density_of(found: list[Path], group: Path) -> pd.DataFrame:
    """`density_table` of some runs of a group."""
    rows: list[dict[str, Any]] = []
    damaged = []
    for run in found:
        try:
            of_run = density_rows(run)
            if rows and of_run and rows[0].keys() != of_run[0].keys():
                raise DataError(f"{run} counts by other thresholds than seed {rows[0]['seed']}.", AGAIN)
            rows += of_run
        except DataError as error:
            damaged.append(error)
    leave_out(damaged, is_all=not rows)
    if not rows:
        raise DataError(f"{group} has no density record.", "A dense run (--where none, dissect train) has none.")
    return pd.DataFrame(rows)


def density_rows(run: Path) -> list[dict[str, Any]]:
    """The density records of a run. Raises DataError where one is damaged, or that of a finished run lacks its end."""
    path, seed = run / "density.jsonl", int(run.name[1:])
    rows = [{"seed": seed, **flat(record)} for record in read_jsonl(path, Density)]
    for number, row in enumerate(rows, 1):
        if row.keys() != rows[0].keys():
            raise DataError(f"{path}, line {number}, counts by other thresholds than the first.", AGAIN)
        counted, most = sum(row["log_alpha_hist"]), max(row[name] for name in row if name.startswith(COUNTS))
        if counted != row["numel"] or most > row["numel"]:
            raise DataError(
                f"{path}, line {number}, is damaged: it counts {max(counted, most):,} of {row['numel']:,} weights.",
                AGAIN,
            )
    if rows and is_done(run):
        last, steps = rows[-1]["step"], read_summary(run).get("steps")
        if last != steps:
            raise DataError(f"{path} ends at step {last}, and the run has {steps}: the rest is lost.", AGAIN)
    return rows


def flat(record: dict[str, Any]) -> dict[str, Any]:
    """A density record with its counts as columns."""
    plain = ("step", "epoch", "matrix", "block", "role", "module", "numel", "kl_weight", "log_alpha_hist")
    row = {name: record[name] for name in plain}
    for prefix, counts in (("kept", "kept"), ("abs", "theta_abs_gt"), ("signed", "theta_gt")):
        row.update({f"{prefix} {limit}": n for limit, n in record[counts].items()})
    return row


def density(table: pd.DataFrame, by: list[str], count: str) -> pd.Series:
    """Share of weights counted by `count` (e.g. "kept 3") in the groups `by`, each matrix weighted by its entries.

    Only whole matrices enter, so that no weight is counted twice.
    """
    whole = table[table["block"] == ""]
    sums = whole.groupby(by, sort=False)[[count, "numel"]].sum()
    return (sums[count] / sums["numel"]).rename("density")


def at_step(table: pd.DataFrame, share: float = 1.0) -> pd.DataFrame:
    """The rows of each seed at its last measurement that lies at or before `share` of its last step."""
    last = table.groupby("seed")["step"].transform("max")
    early = table[table["step"] <= (share * last).astype(int)]
    return early[early["step"] == early.groupby("seed")["step"].transform("max")]


def beyond_control(final: pd.DataFrame, control: str = "control.rolled", limit: float = 0.05) -> pd.DataFrame:
    """What a matrix keeps where a useless one keeps at most `limit`: one row per seed, matrix and block of `final`.

    Columns: seed, matrix, block, limit_at (the highest edge of the histogram of log alpha below which `control` has at
    most that share of its weights, in this very seed), density (the share of weights below that edge). Seeds without
    that control are left out, and so are those where already the lowest bin holds more.
    """
    rows = []
    for seed, part in final.groupby("seed"):
        useless = part[(part["matrix"] == control) & (part["block"] == "")]
        if useless.empty:
            continue
        below = np.cumsum(useless["log_alpha_hist"].iloc[0]) / useless["numel"].iloc[0]
        bins = int(np.searchsorted(below, limit, side="right"))  # the first so many hold at most `limit`
        if not bins:
            continue
        at = LOWEST + (bins - 1) / BINS_PER_UNIT
        for matrix, block, counts, numel in part[["matrix", "block", "log_alpha_hist", "numel"]].itertuples(
            index=False
        ):
            share = sum(counts[:bins]) / numel
            rows.append({"seed": seed, "matrix": matrix, "block": block, "limit_at": at, "density": share})
    return pd.DataFrame(rows, columns=["seed", "matrix", "block", "limit_at", "density"])


def log_alpha_shares(table: pd.DataFrame) -> pd.DataFrame:
    """Histogram of log alpha of each whole matrix at the end, over all seeds: matrix, log_alpha (left edge), share.

    The overflow bins stand at the two ends of the range, -20.25 and 20.
    """
    final = at_step(table)
    rows = []
    for matrix, part in final[final["block"] == ""].groupby("matrix", sort=False):
        counts = np.sum(part["log_alpha_hist"].tolist(), axis=0)
        edges = LOWEST + (np.arange(len(counts)) - 1) / BINS_PER_UNIT
        rows.append(pd.DataFrame({"matrix": matrix, "log_alpha": edges, "share": counts / counts.sum()}))
    return pd.concat(rows, ignore_index=True)
