"""What `dissect tune` shows: the trials that did best."""

from __future__ import annotations

import json
import shlex
from functools import partial
from pathlib import Path
from typing import Any

import click
import msgspec
import pandas as pd
from click.core import ParameterSource

from dissect.cli import options, screen
from dissect.cli.live import observer
from dissect.experiment import tune
from dissect.experiment.subject import option_values
from dissect.experiment.tuned import FILE, Tuned, read, read_trials
from dissect.runs.config import SETTINGS, Config
from dissect.tables.text import Column, TextTable

BEST = 5  # trials shown
ABOUT = ("trial", "state", "mrr@20", "epoch", "epochs", "seconds")  # columns of trials.csv before what was tried


def tuned(
    context: click.Context,
    model: str,
    dataset: str,
    timeout: float | None,
    dim: int | None,
    extra: tuple[str, ...],
    device: str,
    status: bool,
    data_dir: str | None,
    as_json: bool,
    quiet: bool,
    **given: Any,
) -> None:
    """Tune, or with `status` only look, and print the best trials."""
    say = options.say_on(options.console(quiet))
    names = {each.name for each in SETTINGS}
    typed = {name for name in given if context.get_parameter_source(name) is ParameterSource.COMMANDLINE}
    about = {name: value for name, value in given.items() if name not in names or name in typed}
    about["options"] = option_values(extra, dim)
    data = options.loader(say)(dataset, data_dir)
    if status:
        folder = tune.look(model, data, **about)
    else:
        watch = partial(observer, threshold=Config.threshold, quiet=quiet, stays=False)
        folder = tune.tune(model, data, timeout=timeout, device=device, observe=watch, say=say, **about)
    show(folder, model, as_json)


def show(folder: Path, model: str, as_json: bool = False) -> None:
    """The best trials of a tuning beside the defaults, and the command that uses them."""
    record, table = read(folder / FILE), read_trials(folder)
    if as_json:
        rows = json.loads(table.to_json(orient="records"))
        screen.show_json({**msgspec.to_builtins(record), "file": str(folder / FILE), "rows": rows})
        return
    screen.show(view(record, table))
    words = ["run", "--model", model] if record.verb == "run" else ["train", model]
    words += ["--dataset", record.dataset, *(["--preset", record.preset] if record.preset else [])]
    words += [word for name, value in record.given.items() for word in ("--option", f"{name}={cell(value)}")]
    runs = str(folder.parents[1])
    words += [] if runs == "runs" else ["--runs-dir", runs]
    print(f"\n{folder / FILE}")
    print(f"Use it: dissect {shlex.join(words)} --tuned")


def view(record: Tuned, table: pd.DataFrame) -> TextTable:
    """The best trials and the defaults, with what was tried."""
    best = table[table["state"] == "finished"].sort_values(["mrr@20", "trial"], ascending=[False, True])
    rows = pd.concat([best[:BEST], best[(best["trial"] == 0)]]).drop_duplicates("trial")
    tried = [name for name in table.columns if name not in (*ABOUT, "note")]
    names = [f"{n}{', defaults' if n == 0 else ''}" for n in rows["trial"]]
    columns = [Column("trial", names), Column("MRR@20", [f"{value:.2f}" for value in rows["mrr@20"]])]
    if rows["epochs"].any():
        columns.append(Column("epoch", [f"{value:.2f}" for value in rows["epoch"]]))
    columns += [Column(name.replace("_", "\n"), [cell(value) for value in rows[name]], below=True) for name in tried]
    counts = table["state"].value_counts()
    told = ", ".join(
        f"{counts[state]} {state}" for state in ("finished", "pruned", "failed", "running") if state in counts
    )
    sparse = " with SparseVD" if record.verb == "run" else ""
    width = f", width {record.dim}" if record.dim else ""
    fixed = [record.preset or "", *(f"{name}={cell(value)}" for name, value in record.given.items())]
    sparse += f" ({', '.join(filter(None, fixed))})" if any(fixed) else ""
    title = f"{record.model}{sparse} on {record.dataset}{width}: {told}, of {record.asked} trials"
    notes = [f"MRR@20 is on validation, with seed {record.seed}. The best of many is too high: report the test part."]
    notes += [
        f"Trial {row['trial']} failed: {row['note']}" for row in table[table["state"] == "failed"].to_dict("records")
    ]
    return TextTable(title, columns, notes)


def cell(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
