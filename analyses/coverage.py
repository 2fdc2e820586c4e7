"""How many weights of each role and module the runs of a group have dissected: those that their densities describe."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dissect.errors import DataError
from dissect.runs.files import anew, read_json
from dissect.runs.records import Coverage
from dissect.sparsevd import in_words, is_partial, shares


def read_coverage(run: Path) -> list[dict[str, Any]] | None:
    """The rows of a run (dissect/sparsevd/coverage.py); None if the run is older than this record.

    Raises DataError if the record is damaged.
    """
    path = run / "coverage.json"
    if not path.exists():
        return None
    rows: list[dict[str, Any]] = read_json(path, Coverage, anew(path.parent))["coverage"]
    for row in rows:
        if row["covered"] > row["numel"]:
            says = f"{row['covered']} of {row['numel']} weights of {row['matrix']}"
            raise DataError(f"{path} is damaged: {says}.", anew(path.parent))
    return rows


def coverage(runs: list[Path]) -> dict[str, Any] | None:
    """How much `runs` have dissected: {"roles": ..., "modules": ..., "undeclared": ...}; None if none has recorded it.

    Roles and modules are as in `shares`; undeclared holds by name the weights of layers that the model gives no role,
    how many are dissected, and why not all. If seeds differ, the one that has dissected least of a matrix counts.
    """
    known = [rows for run in runs if (rows := read_coverage(run)) is not None]
    if not known:
        return None
    least: dict[str, dict[str, Any]] = {}
    for row in (row for rows in known for row in rows):
        if row["matrix"] not in least or row["covered"] < least[row["matrix"]]["covered"]:
            least[row["matrix"]] = row
    undeclared = {
        name: {"weights": row["numel"], "dissected": row["covered"], "reason": row["reason"]}
        for name, row in least.items()
        if not row["declared"]
    }
    return {
        "roles": shares(least.values(), "role"),
        "modules": shares(least.values(), "module"),
        "undeclared": undeclared,
    }


def doubts(covered: dict[str, Any] | None, roles: tuple[str, ...]) -> list[str]:
    """Which of `roles` are only partly dissected, in words; empty if all are dissected completely."""
    known = covered["roles"] if covered else {}
    return [
        f"{role} is dissected in part only: {in_words(known[role])}"
        for role in roles
        if role in known and is_partial(known[role])
    ]


def absences(covered: dict[str, Any] | None, roles: tuple[str, ...]) -> list[str]:
    """Which of `roles` the model has but are not dissected at all, with the reason; empty if there are none."""
    known = covered["roles"] if covered else {}
    return [f"{role}: {in_words(known[role])}" for role in roles if role in known and not known[role]["dissected"]]
