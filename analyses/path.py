"""The path over the KL weight: what the groups that differ in nothing else keep, and how accurate they are."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import pandas as pd

from analyses.density import at_step, density_of, finished, recorded
from analyses.shadowed import matched_mrr
from dissect.errors import UsageError
from dissect.runs import folders
from dissect.runs.folders import each_sound
from dissect.sparsevd.density import key
from dissect.usual import RUNS

NOT_OWN = ("shadow", "control")  # roles of matrices that are no part of the model


def path_table(group: Path, threshold: float | None = None) -> pd.DataFrame:
    """What each matrix and each role keeps at the end, by KL weight and seed, with shadow and accuracy.

    Columns: kl_weight, matrix ("" for the sum of a role), role, module, seed, density, shadow (NaN without shadows),
    mrr@20 (on test, in percent), dense (that of the matched dense model with this seed, NaN without one).
    The groups are those in the same folder whose settings equal those of `group` except for the KL weight and the items
    that shadows learn from; seeds count once they are finished. A weight is kept if its log alpha is below the
    threshold, the group's unless given.
    Raises UsageError if there are fewer than two KL weights, DataError if all runs are damaged.
    """
    config = folders.group_config(group)
    column = f"kept {key(config['threshold'] if threshold is None else threshold)}"
    runs: dict[tuple[float, int], Path] = {}
    dense: dict[int, float] = {}
    groups = groups_of_path(group)
    for kl_weight, each in groups:
        for run in finished(each):
            runs.setdefault((kl_weight, folders.place_of(run)[1]), run)
        dense = {**matched_mrr(each), **dense}

    def read(place: tuple[tuple[float, int], Path]) -> pd.DataFrame:
        (kl_weight, seed), run = place
        table = recorded(density_of([run], folders.group_of(run)), column, group.name)
        accuracy = folders.read_summary(run)["test"]["mrr@20"]
        return _kept(table, column).assign(kl_weight=kl_weight, seed=seed, **{"mrr@20": accuracy})

    parts = each_sound(sorted(runs.items()), read)
    weights = sorted({float(part["kl_weight"].iloc[0]) for part in parts})
    if len(weights) < 2:
        raise too_few(group, config, weights)
    table = pd.concat(parts, ignore_index=True)
    table["dense"] = table["seed"].map(dense).astype(float)
    return table[["kl_weight", "matrix", "role", "module", "seed", "density", "shadow", "mrr@20", "dense"]]


def groups_of_path(group: Path) -> list[tuple[float, Path]]:
    """(KL weight, group) of all groups beside this one with the same other settings, this one first."""
    fixed = _without_kl_weight(folders.group_config(group))
    beside = folders.find_groups(group.parent if group.name else group.resolve().parent)
    others = [each for each in beside if each.resolve() != group.resolve()]
    configs = each_sound([group, *others], lambda each: (each, folders.group_config(each)))
    found = [(config, each) for each, config in configs if _without_kl_weight(config) == fixed]
    items = found[0][0]["shadow_items"]
    found.sort(key=lambda one: one[0]["shadow_items"] != items)
    return [(float(config["kl_weight"]), each) for config, each in found]


def _without_kl_weight(config: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in config.items() if name not in ("kl_weight", "shadow_items")}


def _kept(table: pd.DataFrame, column: str) -> pd.DataFrame:
    """Density and shadow of each matrix of a run, then of each role, all of its weights taken together."""
    final = at_step(table)
    whole = final[final["block"] == ""].set_index("matrix")
    own = whole[~whole["role"].isin(NOT_OWN)].copy()
    own["shadow"] = whole[column].reindex([f"shadow.{name}" for name in own.index]).to_numpy()
    own = own.reset_index()[["matrix", "role", "module", column, "shadow", "numel"]]
    sums = own.groupby("role", sort=False)
    roles = sums[[column, "numel"]].sum().assign(shadow=sums["shadow"].sum(min_count=1), module=sums["module"].first())
    both = pd.concat([own, roles.reset_index().assign(matrix="")], ignore_index=True)
    return both.assign(density=both[column] / both["numel"], shadow=both["shadow"] / both["numel"]).drop(
        columns=[column, "numel"]
    )


def too_few(group: Path, config: dict[str, Any], weights: list[float]) -> UsageError:
    """The refusal of a path of one point, with the command that adds another."""
    own = config["kl_weight"]
    other = (own / 2 or 1) if own in weights else own
    seeds = " ".join(f"--seed {folders.place_of(run)[1]}" for run in folders.group_runs(group)) or "--seed 1"
    words = ["dissect", "run", "--config", str(group / folders.CONFIG), "--kl-weight", f"{other:.15g}"]
    where = [] if group.parent == Path(RUNS) else ["--runs-dir", str(group.parent)]
    said = f"KL weight {weights[0]:g} only" if weights else "no KL weight at all"
    return UsageError(
        f"A path needs two KL weights or more. {group.name} and the groups with its other settings have finished "
        f"seeds for {said}.",
        f"Add one: {shlex.join(words)} {seeds} {shlex.join(where)}".rstrip(),
    )
