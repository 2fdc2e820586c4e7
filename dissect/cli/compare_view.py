"""Results side by side, on the screen."""

from __future__ import annotations

from typing import Any

import pandas as pd
from rich.table import Table


def render_results(results: pd.DataFrame, dataset: str, protocol: str, newest: str) -> Table:
    """The table of analyses.compare.results_table; the group just trained stands out."""
    table = Table(title=f"{dataset}, protocol {protocol}, test", title_justify="left", box=None, padding=(0, 1))
    for name in ("group", "variant"):
        table.add_column(name)
    for name in ("seeds", "HR@20", "MRR@20", "parameters", "s/epoch"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in results.to_dict("records"):
        dissected = "" if row["where"] == "none" else f"SparseVD {row['where']}"
        table.add_row(
            str(row["group"]),
            ", ".join(word for word in ("" if row["variant"] == "full" else str(row["variant"]), dissected) if word),
            str(row["seeds"]),
            _with_sd(row, "hr@20"),
            _with_sd(row, "mrr@20"),
            f"{row['parameters']:,}",
            "" if pd.isna(row["seconds_per_epoch"]) else f"{row['seconds_per_epoch']:.0f}",
            style="bold" if row["group"] == newest else "",
        )
    return table


def _with_sd(row: dict[Any, Any], metric: str) -> str:
    sd = row[f"{metric} sd"]
    return f"{row[metric]:.2f}" + ("" if pd.isna(sd) else f" ± {sd:.2f}")
