"""What `dissect tune` shows: the trials that did best."""

from __future__ import annotations

import json
import shlex
from functools import partial
from pathlib import Path
from typing import Any

import click
import msgspec
from click.core import ParameterSource

from dissect.cli import options, screen
from dissect.cli.models_view import as_option
from dissect.experiment import tune
from dissect.experiment.subject import option_values
from dissect.experiment.tuned import FILE, read, read_trials
from dissect.progress import observer
from dissect.runs.config import SETTINGS
from dissect.tables.trials import view_of_trials
from dissect.usual import RUNS


def tuned(
    context: click.Context,
    model: str,
    dataset: str,
    status: bool,
    data_dir: str | None,
    as_json: bool,
    quiet: bool,
    **given: Any,
) -> None:
    """Tune, or with `status` only look, and print the best trials."""
    say = partial(options.say, quiet=quiet)
    names = {each.name for each in SETTINGS}
    typed = {name for name in given if context.get_parameter_source(name) is ParameterSource.COMMANDLINE}
    about = {name: value for name, value in given.items() if name not in names or name in typed}
    about["options"] = option_values(about.pop("extra"), about.pop("dim"))
    how = {name: about.pop(name) for name in ("timeout", "device")}
    data = options.loader(say)(dataset, data_dir)
    if status:
        folder = tune.look(model, data, **about)
    else:
        watch = partial(observer, quiet=quiet, stays=False)
        folder = tune.tune(model, data, observe=watch, say=say, **how, **about)
    show(folder, model, as_json, data_dir)


def show(folder: Path, model: str, as_json: bool = False, data_dir: str | None = None) -> None:
    """The best trials of a tuning beside the defaults, and the command that uses them."""
    record, table = read(folder / FILE), read_trials(folder)
    if as_json:
        rows = json.loads(table.to_json(orient="records"))
        screen.show_json({**msgspec.to_builtins(record), "file": str(folder / FILE), "rows": rows})
        return
    screen.show(view_of_trials(record, table))
    words = ["run", "--model", model] if record.verb == "run" else ["train", model]
    words += ["--dataset", record.dataset, *(["--preset", record.preset] if record.preset else [])]
    words += [word for name, value in record.given.items() for word in ("--option", f"{name}={as_option(value)}")]
    runs = str(folder.parents[1])
    words += [] if runs == RUNS else ["--runs-dir", runs]
    words += ["--data-dir", data_dir] if data_dir else []
    print(f"\n{folder / FILE}")
    print(f"Use it: dissect {shlex.join(words)} --tuned")
