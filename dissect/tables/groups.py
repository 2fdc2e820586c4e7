"""The groups of a runs folder as a table of text."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from analyses.entries import entry, sound_configs
from dissect.runs import folders
from dissect.runs.config import Config
from dissect.tables.text import Column, Table
from dissect.text import shown

NOTE = "MRR@20 is on test, the mean over the finished seeds. KL: the KL weight; a dash, if there is no SparseVD."


def groups_of(runs_dir: Path | str) -> list[dict[str, Any]]:
    """A row for each group, newest first; damaged ones are left out with a warning.

    Keys: group, model, dataset, dim (None: the model has no width), kl_weight (None: without SparseVD), seeds
    (finished), seeds_begun, mrr@20 (None: no seed is finished).
    """
    rows = []
    for group, settings in reversed(sound_configs(runs_dir).items()):
        config, row = Config(**settings), entry(group)
        found = [summary["test"]["mrr@20"] for summary in row.summaries] if row else []
        rows.append(
            {
                "group": group.name,
                "model": config.model,
                "dataset": config.dataset,
                "dim": config.model_options.get("dim"),
                "kl_weight": config.kl_weight if config.is_sparse else None,
                "seeds": len(found),
                "seeds_begun": len(folders.group_runs(group)),
                "mrr@20": float(np.mean(found)) if found else None,
            }
        )
    return rows


def view_of_groups(rows: Sequence[dict[str, Any]], runs_dir: Path | str) -> Table:
    """The rows of `groups_of`; model and data have columns unless the names of all groups tell them."""

    def column(name: str, key: str, how: str = "") -> Column:
        return Column(name, ["–" if row[key] is None else shown(format(row[key], how)) for row in rows])

    seeds = [f"{row['seeds']} of {row['seeds_begun']}" for row in rows]
    columns = [column("group", "group")]
    if not all(row["group"].startswith(f"{row['model']}-") and row["dataset"] in row["group"] for row in rows):
        columns += [column("model", "model"), column("data", "dataset")]
    columns += [
        column("dim", "dim"),
        column("KL", "kl_weight", "g"),
        Column("seeds", seeds),
        column("MRR@20", "mrr@20", ".2f"),
    ]
    return Table(f"Groups in {runs_dir}, newest first", columns, [NOTE])
