"""The trials of a tuning as a table, and the command that uses the best."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import pandas as pd

from dissect.experiment.tuned import FILE, Tuned, find, read, read_trials
from dissect.tables.cells import as_option
from dissect.tables.text import Column, Table
from dissect.text import plural
from dissect.usual import RUNS

BEST = 5  # trials shown
ABOUT = ("trial", "state", "mrr@20", "epoch", "epochs", "seconds")  # columns of trials.csv before what was tried


def best_of(folder: Path, model: str, data_dir: str | None) -> tuple[Table, str]:
    """The best trials of a tuning beside the defaults, and the command that uses them."""
    record, runs = read(folder / FILE), str(folder.parents[1])
    words = ["run", "--model", model] if record.verb == "run" else ["train", model]
    words += ["--dataset", record.dataset, *(["--preset", record.preset] if record.preset else [])]
    words += [word for name, value in record.given.items() for word in ("--option", f"{name}={as_option(value)}")]
    words += ["--runs-dir", runs] if runs != RUNS else []
    words += ["--data-dir", data_dir] if data_dir else []
    about = (record.model, record.split_hash, record.verb, folder.parents[1])
    taken = find(*about, record.preset, record.given, record.model_source)
    tuned = ["--tuned"] if taken == folder / FILE else ["--tuned", str(folder / FILE)]
    use = f"\n{folder / FILE}\nUse it: dissect {shlex.join([*words, *tuned])}"
    return view_of_trials(record, read_trials(folder)), use


def view_of_trials(record: Tuned, table: pd.DataFrame) -> Table:
    """The best trials and the defaults, with what was tried."""
    best = table[table["state"] == "finished"].sort_values(["mrr@20", "trial"], ascending=[False, True])
    rows = pd.concat([best[:BEST], best[(best["trial"] == 0)]]).drop_duplicates("trial")
    tried = [name for name in table.columns if name not in (*ABOUT, "note")]
    names = [f"{n}{', defaults' if n == 0 else ''}" for n in rows["trial"]]
    columns = [Column("trial", names), Column("MRR@20", [f"{value:.2f}" for value in rows["mrr@20"]])]
    if rows["epochs"].any():
        columns.append(Column("epoch", [f"{value:.2f}" for value in rows["epoch"]]))
    columns += [Column(name.replace("_", "\n"), [in_cell(value) for value in rows[name]]) for name in tried]
    counts = table["state"].value_counts()
    told = ", ".join(
        f"{counts[state]} {state}" for state in ("finished", "pruned", "failed", "running") if state in counts
    )
    sparse = " with SparseVD" if record.verb == "run" else ""
    width = f", width {record.dim}" if record.dim else ""
    fixed = [record.preset or "", *(f"{name}={in_cell(value)}" for name, value in record.given.items())]
    sparse += f" ({', '.join(filter(None, fixed))})" if any(fixed) else ""
    title = f"{record.model}{sparse} on {record.dataset}{width}: {told}, of {plural(record.asked, 'trial')}"
    optimistic = "The best trial was chosen by it, so its value is optimistic: report the test part."
    notes = [f"MRR@20 is on validation, ties against the target, with seed {record.seed}. {optimistic}"]
    notes += [
        f"Trial {row['trial']} failed: {row['note']}" for row in table[table["state"] == "failed"].to_dict("records")
    ]
    return Table(title, columns, notes)


def in_cell(value: Any) -> str:
    """A value that was tried, in few digits."""
    return f"{value:g}" if isinstance(value, float) else str(value)
