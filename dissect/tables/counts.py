"""Counts of data sets as tables of text: Table 1 of the paper, and what `dissect data stats` shows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from analyses import paper, study
from dissect.data.sessions import Dataset
from dissect.data.stats import ROWS
from dissect.tables.cells import count
from dissect.tables.text import Column, Table
from dissect.text import shown

TABLE1 = 'The paper\'s Table 1 prints "clicks", prefixes as "No. of Sessions", items, and mean length.'


def view_of_counts(data: Dataset) -> Table:
    """Table 1: the counts of a data set, beside the paper's if it has some."""
    rows = study.counts(data)
    columns = [
        Column("", [ROWS[name] for name in rows["count"]]),
        Column(data.name, rows[data.name].map(count).tolist()),
    ]
    log, notes = study.log_of(data.name), []
    if rows["paper"].notna().all():
        columns.append(Column("paper", rows["paper"].map(count).tolist()))
        if data.name not in paper.SETS:
            notes = [f"Another split of the log than the paper's {log}: the counts need not be the same."]
    else:
        notes = [f"A part of the log of the paper's {log}." if log else "Not a data set of the paper."]
    return Table(f"Table 1: {data.name} (split {data.split_hash})", columns, notes, f"tab:{data.name}")


def views_of_statistics(counted: Sequence[Mapping[str, Any]], width: int) -> list[Table]:
    """A column for each data set (of data.stats.statistics), as many beside one another as fit into the width.

    Counts that none of them has are left out.
    """

    def cell(value: float | None) -> str:
        if value is None:
            return "not known"
        return f"{value:,}" if isinstance(value, int) else f"{value:.2f}"  # a mean has digits, also if it is whole

    keys = [key for key in ROWS if any(of[key] is not None for of in counted)]
    names = max(map(len, ROWS.values()))
    room = max(1, (width - names) // (2 + max(10, *(len(of["name"]) for of in counted))))
    views: list[Table] = []
    for some in (counted[start : start + room] for start in range(0, len(counted), room)):
        columns = [Column(shown(of["name"]), [cell(of[key]) for key in keys]) for of in some]
        notes = [TABLE1] if some[-1] is counted[-1] else []
        views.append(
            Table("Train and test together" * (not views), [Column("", [ROWS[key] for key in keys]), *columns], notes)
        )
    return views
