"""What was trained on one split, side by side."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from dissect import runs

METRICS = ("hr@5", "hr@10", "hr@20", "mrr@5", "mrr@10", "mrr@20")


def results_table(runs_dir: Path, split_hash: str, protocol: str) -> pd.DataFrame:
    """The finished groups of a split and protocol: one row per group and variant, best MRR@20 first.

    Columns: group, model, variant, where, seeds, parameters, seconds_per_epoch, and for each metric its mean
    and standard deviation over seeds (percent; NaN for one seed).
    """
    rows = []
    for group in runs.find_groups(runs_dir):
        for variant in runs.variants(group):
            done = [run for run in runs.group_runs(group, variant) if runs.is_done(run)]
            summaries = [runs.read_json(run / "summary.json") for run in done]
            if not summaries or (summaries[0]["split_hash"], summaries[0]["protocol"]) != (split_hash, protocol):
                continue
            test = pd.DataFrame([summary["test"] for summary in summaries])
            epochs = [s["seconds"] / s["epochs"] for s in summaries if s["epochs"]]
            rows.append(
                {
                    "group": group.name,
                    "model": summaries[0]["model"],
                    "variant": variant,
                    "where": summaries[0]["where"],
                    "seeds": len(summaries),
                    "parameters": summaries[0]["n_parameters"],
                    "seconds_per_epoch": float(np.mean(epochs)) if epochs else float("nan"),
                    **{metric: float(test[metric].mean()) for metric in METRICS},
                    **{f"{metric} sd": float(test[metric].std(ddof=1)) for metric in METRICS},
                }
            )
    table = pd.DataFrame(rows)
    return table.sort_values("mrr@20", ascending=False, ignore_index=True) if len(table) else table
