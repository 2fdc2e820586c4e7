"""The groups of a runs folder as a table of text."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from analyses.entries import entry, sound_configs
from dissect.runs import folders
from dissect.runs.config import CALIBRATED, DENSE, LITERAL, Config, flat, in_words
from dissect.tables.text import Table, by_rows
from dissect.text import shown

SHOWN_APART = ("dim", "model", "dataset", "split_hash", "max_steps", "kl_weight", "apart")
HEADS = {"dataset": "data", "kl_weight": "KL", "max_steps": "steps", "mrr@20": "MRR@20"}
NOTE = "MRR@20 is on test, the mean over the finished seeds. KL: the KL weight; a dash, if there is no SparseVD."


def groups_of(runs_dir: Path | str) -> list[dict[str, Any]]:
    """A row for each group, newest first; damaged ones are left out with a warning.

    Keys: group, model, dataset, dim (None: the model has no width), kl_weight (None: without SparseVD), max_steps
    (None: of a baseline), seeds (finished), seeds_begun, mrr@20 (None: no seed is finished), unusual (settings that are
    not the defaults of its verb, in words).
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
                "max_steps": config.max_steps or None,
                "seeds": len(found),
                "seeds_begun": len(folders.group_runs(group)),
                "mrr@20": float(np.mean(found)) if found else None,
                "unusual": unusual(config),
            }
        )
    return rows


def unusual(config: Config) -> str:
    """The settings that are not those of `dissect run`, `run --literal` or `train`, in words."""
    if not config.max_steps:  # a baseline without gradients has the options of its constructor only
        return ", ".join(in_words(name, value) for name, value in config.model_options.items())
    is_literal = config.is_sparse and all(getattr(config, name) == value for name, value in LITERAL.items())
    usual = flat(Config("", "", "", {}, **(LITERAL if is_literal else CALIBRATED if config.is_sparse else DENSE)))
    own = {name: value for name, value in flat(config).items() if name not in SHOWN_APART}
    differ = [in_words(name, value) for name, value in own.items() if name not in usual or usual[name] != value]
    is_older = config.is_sparse and config.shadows and not config.apart
    return ", ".join(["literal"] * is_literal + differ + ["shadows within the model"] * is_older)


def view_of_groups(rows: Sequence[dict[str, Any]], runs_dir: Path | str) -> Table:
    is_told = all(row["group"].startswith(f"{row['model']}-") and row["dataset"] in row["group"] for row in rows)
    keys = {"dim": "", "kl_weight": "g", "max_steps": ",", "seeds": "", "mrr@20": ".2f"}
    keys = keys if is_told else {"model": "", "dataset": "", **keys}
    lines = []
    for row in rows:
        of = {**row, "seeds": f"{row['seeds']} of {row['seeds_begun']}"}
        lines.append(
            [row["group"], *("–" if of[key] is None else shown(format(of[key], how)) for key, how in keys.items())]
        )
        lines += [[f"  {row['unusual']}"]] if row["unusual"] else []
    title = f"Groups in {runs_dir}, newest first"
    return by_rows(title, ["group", *(HEADS.get(key, key) for key in keys)], lines, notes=[NOTE])
