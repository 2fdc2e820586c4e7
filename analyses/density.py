"""How many weights each matrix, block, role and module keeps, along the training of a group's seeds."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from dissect.errors import DataError, UsageError, unknown
from dissect.runs import folders
from dissect.runs.config import CALIBRATED, Config
from dissect.runs.files import AGAIN, anew
from dissect.runs.folders import (
    FULL,
    MATCHED,
    each_sound,
    group_config,
    group_runs,
    is_done,
    place_of,
    read_records,
    variants,
)
from dissect.runs.records import Density
from dissect.sparsevd.density import BINS_PER_UNIT, LOWEST, key

OTHER_THRESHOLDS = ("2", "4")  # at which a verdict asks again
COUNTS = ("kept ", "abs ", "signed ")  # how the columns of counts begin


def density_table(group: Path, variant: str = folders.FULL) -> pd.DataFrame:
    """The density records of the finished seeds, or of all if none is: one row per seed, step, matrix and block.

    Columns: seed, step, epoch, matrix, block, role, module, numel, kl_weight, the counts `kept <t>`, `abs <tau>`,
    `signed <tau>`, and log_alpha_hist. A damaged seed is skipped with a warning. Raises DataError if nothing was
    recorded or all is damaged, UsageError for an unknown variant.
    """
    known = variants(group)
    if variant not in known and known:
        raise unknown(f"variant in {group.name}", variant, known)
    return density_of(settled(group, variant), group)


def settled(group: Path, variant: str = FULL) -> list[Path]:
    """The finished runs of a variant, or all if none is: a seed that has just begun would shift every mean."""
    return finished(group, variant) or group_runs(group, variant)


def density_of(found: list[Path], group: Path) -> pd.DataFrame:
    """`density_table` of some runs of a group. A run that records other matrices or thresholds than most is damaged."""
    read = {run: rows for run, rows in each_sound(found, lambda run: (run, density_rows(run))) if rows}
    is_dense = group_config(group)["where"] == "none" or MATCHED in {place_of(run)[0] for run in found}
    if not read and is_dense:
        says = f"{group} was trained without SparseVD, so it has no densities."
        raise DataError(says, "Only dissected models have them: dissect run")
    if not read:
        raise DataError(f"{group} has no density record: it is lost or damaged.", AGAIN)
    kinds = {  # the columns, and the matrices and blocks of the last measurement
        run: (frozenset(rows[0]), frozenset((r["matrix"], r["block"]) for r in rows if r["step"] == rows[-1]["step"]))
        for run, rows in read.items()
    }
    votes = Counter(kinds.values())
    usual = max(votes, key=lambda kind: (votes[kind], len(kind[1])))  # of equal votes the one with more matrices

    def require_usual(run: Path) -> list[dict[str, Any]]:
        if kinds[run][0] != usual[0]:
            raise DataError(f"{run} counts by other thresholds than the other seeds.", anew(run))
        if kinds[run] != usual:
            raise DataError(f"{run} records other matrices than the other seeds: some are lost.", anew(run))
        return read[run]

    return pd.DataFrame(list(chain.from_iterable(each_sound(read, require_usual))))


def finished(group: Path, variant: str = FULL) -> list[Path]:
    """The runs of a variant that are finished."""
    return [run for run in group_runs(group, variant) if is_done(run)]


def counted(found: list[Path], group: Path, config: dict[str, Any]) -> pd.DataFrame:
    """`density_of` some runs. Raises DataError where it lacks a threshold that a verdict asks for."""
    table = density_of(found, group)
    lacking = [t for t in (key(config["threshold"]), *OTHER_THRESHOLDS) if f"kept {t}" not in table]
    if lacking:
        raise DataError(f"{group} has no counts of the weights with log α below {', '.join(lacking)}.", AGAIN)
    return table


def recorded(table: pd.DataFrame, column: str, name: str) -> pd.DataFrame:
    """The table of a group of this name. Raises UsageError if it lacks a column of counts, e.g. "kept 2.5"."""
    if column in table:
        return table
    known = [each.split()[1] for each in table if each.startswith(column.split()[0] + " ")]
    of = "log α" if column.startswith("kept ") else "|θ|"
    raise UsageError(f"{name} has no counts at {of} = {column.split()[-1]}.", f"Recorded: {', '.join(known)}.")


def density_rows(run: Path) -> list[dict[str, Any]]:
    """The density records of a run. Raises DataError if one is damaged, or those of a finished run lack their end."""
    path, seed = run / "density.jsonl", place_of(run)[1]
    rows = [{"seed": seed, **flat(record)} for record in read_records(run, path.name, Density)]
    for number, row in enumerate(rows, 1):
        if row.keys() != rows[0].keys():
            raise DataError(f"{path}, line {number}, counts by other thresholds than the first.", anew(run))
        counted, most = sum(row["log_alpha_hist"]), max(row[name] for name in row if name.startswith(COUNTS))
        if counted != row["numel"] or most > row["numel"]:
            raise DataError(
                f"{path}, line {number}, is damaged: it counts {max(counted, most):,} of {row['numel']:,} weights.",
                anew(run),
            )
    return rows


def siblings(group: Path, config: dict[str, Any], **changed: Any) -> list[tuple[Path, list[Path]]]:
    """(group, its finished runs) of the groups beside `group` that have its settings but for what is changed.

    Shadows may have learnt from a part of the catalogue in one group and from all of it in the other: that changes no
    model. Those that are like `group` in this, too, come first.
    """
    mine = Config(**{**config, **changed})
    parts = dict.fromkeys([mine.shadow_items, CALIBRATED["shadow_items"], 0])
    there = [
        (other, finished(other))
        for items in parts
        for other in sorted(group.parent.glob(f"*-{replace(mine, shadow_items=items).hash}"))
    ]
    return [(other, runs) for other, runs in there if runs]


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


def densities(table: pd.DataFrame, threshold: str, limit: float) -> dict[str, Any]:
    """Mean density over seeds at the end of training, of matrices and blocks (also at other thresholds), roles and
    modules.

    `beyond_control` is the density at the log alpha at which the useless control keeps at most `limit` (None without
    that control), `beyond_control_at` this log alpha by seed. No rule of a verdict uses them.
    """
    final, kept = at_step(table), f"kept {threshold}"
    counts = [name for name in final if name.startswith(COUNTS)]
    beyond = beyond_control(final, limit=limit)
    mean_beyond = beyond.groupby(["matrix", "block"])["density"].mean().to_dict()
    matrices = []
    for (matrix, block), part in final.groupby(["matrix", "block"], sort=False):
        shares, first = part[counts].div(part["numel"], axis=0), part.iloc[0]
        matrices.append(
            {
                "matrix": matrix,
                "block": block,
                "role": first["role"],
                "module": first["module"],
                "numel": int(first["numel"]),
                "density": float(shares[kept].mean()),
                "sd": float(shares[kept].std(ddof=1)) if len(part) > 1 else None,
                "beyond_control": mean_beyond.get((matrix, block)),
                **shares.mean().to_dict(),
                "log_alpha_hist": np.sum(part["log_alpha_hist"].tolist(), axis=0).tolist(),
            }
        )
    return {
        "matrices": matrices,
        "beyond_control_at": {str(seed): at for seed, at in beyond.groupby("seed")["limit_at"].first().items()},
        "roles": over_seeds(final, "role", kept),
        "modules": over_seeds(final, "module", kept),
    }


def over_seeds(table: pd.DataFrame, by: str, count: str) -> dict[str, float]:
    """Mean over seeds of `density`, by role or module."""
    shares: dict[str, float] = density(table, ["seed", by], count).groupby(level=by, sort=False).mean().to_dict()
    return shares


def beyond_control(final: pd.DataFrame, control: str = "control.rolled", limit: float = 0.05) -> pd.DataFrame:
    """Density of each matrix and block at the log alpha at which the control keeps at most `limit`, by seed.

    Columns: seed, matrix, block, limit_at (the highest edge of the histogram of log alpha below which `control` has at
    most that share of its weights, in this very seed), density (the share of weights below that edge). Seeds without
    that control are left out, and so are those whose lowest bin already holds more.
    """
    parts = [pd.DataFrame(columns=["seed", "matrix", "block", "limit_at", "density"])]
    for _, part in final.groupby("seed"):
        useless = part[(part["matrix"] == control) & (part["block"] == "")]
        if useless.empty:
            continue
        below = np.cumsum(useless["log_alpha_hist"].iloc[0]) / useless["numel"].iloc[0]
        bins = int(np.searchsorted(below, limit, side="right"))  # this many of the first bins hold at most `limit`
        if bins:
            counts = np.stack(part["log_alpha_hist"])[:, :bins].sum(1)
            at = LOWEST + (bins - 1) / BINS_PER_UNIT
            parts.append(part[["seed", "matrix", "block"]].assign(limit_at=at, density=counts / part["numel"]))
    return pd.concat(parts[1:] or parts, ignore_index=True)


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


def over_training(table: pd.DataFrame, column: str, most: int = 60) -> pd.DataFrame:
    """Mean density of each whole matrix over seeds at evenly spaced moments of training, at most `most` of them.

    Columns: matrix, role, module, moment (from 0), step, epoch (of the last measurement by then), density, seeds.
    Matrices come by module, then by role, each with its shadow after it; controls come last.
    """
    whole = table[table["block"] == ""]
    steps = np.sort(whole["step"].unique())
    even = np.linspace(steps[0], steps[-1], min(most, len(steps))).round()
    moments = pd.DataFrame({"step": steps[np.searchsorted(steps, even, side="right") - 1]}).rename_axis("moment")
    means = (
        whole.assign(density=whole[column] / whole["numel"])
        .groupby(["matrix", "role", "module", "step", "epoch"], sort=False)["density"]
        .agg(["mean", "count"])
        .set_axis(["density", "seeds"], axis=1)
        .reset_index()
    )
    order = {matrix: place for place, matrix in enumerate(in_order(means))}
    found = moments.reset_index().merge(means, on="step")
    found = found.sort_values(["matrix", "moment"], key=lambda of: of.map(order) if of.name == "matrix" else of)
    names = ["matrix", "role", "module", "moment", "step", "epoch", "density", "seeds"]
    return found[names].reset_index(drop=True)


def in_order(table: pd.DataFrame) -> list[str]:
    """The matrices by module and role, in the order in which these appear; each with its shadow after it."""
    each = table.drop_duplicates("matrix")
    own = each[each["role"] != "shadow"]
    modules, roles = (list(dict.fromkeys(own[name])) for name in ("module", "role"))
    modules.sort(key=lambda module: module == "control")
    by = sorted(own.itertuples(), key=lambda row: (modules.index(row.module), roles.index(row.role)))
    known = set(each["matrix"])
    return [name for row in by for name in (row.matrix, f"shadow.{row.matrix}") if name in known]
