"""dissect tune: find good settings for a model on the validation part of a data set."""

from __future__ import annotations

from typing import Any

import click

from dissect.cli import options
from dissect.runs.config import DENSE, EPOCHS, SETTINGS
from dissect.usual import DATASET, TRIALS

SPARSEVD = "Train with SparseVD, with the settings of `dissect run` as defaults; its KL weight is tuned too."
LENGTH = f"Most epochs of a trial; or --max-steps. [default: {EPOCHS:g}; with --sparsevd that of `dissect run`]"
SEED = "Seed of the sampler, and of the trials; report results with other seeds."


@options.verb(
    "tune srgnn --dataset diginetica --trials 12",
    "tune stan --dataset diginetica --trials 50",
    "tune srgnn --dataset diginetica --sparsevd --timeout 8",
    "tune srgnn --dataset diginetica --status",
    cls=options.Training,
)
@click.argument("model", metavar="MODEL")
@options.option("--dataset", default=DATASET, show_default=True, group="data", help="A name from `dissect data list`.")
@options.of_training("--trials", type=int, default=TRIALS, show_default=True, help="How many settings to try in all.")
@options.of_training("--timeout", type=float, metavar="HOURS", help="Begin no trial after this many hours.")
@options.of_training("--sparsevd", is_flag=True, help=SPARSEVD)
@options.arguments
@options.of_training("--epochs", type=float, help=LENGTH)
@options.of_training("--seed", type=options.SEED, default=0, show_default=True, help=SEED)
@options.settings(DENSE, but=("SparseVD", "protocol", "test_at_end"))
@options.device
@options.option("--status", is_flag=True, help="Show how far the tuning is, and train nothing.")
@options.places
@click.pass_context
def command(
    context: click.Context,
    /,
    model: str,
    dataset: str,
    status: bool,
    data_dir: str | None,
    as_json: bool,
    quiet: bool,
    **given: Any,
) -> None:
    """Tune MODEL: try settings of its training and of itself, and keep the best on validation.

    MODEL is a name from `dissect models`, baselines included, or path/to/file.py:ClassName. The first trial has the
    defaults. Settings and options that you give are kept, the others are searched. The test part is never used. If it
    is stopped, the same command continues; several may run at once. `dissect train MODEL --tuned` uses the result.
    """
    import json
    from functools import partial

    import msgspec

    from dissect.cli import screen
    from dissect.errors import UsageError
    from dissect.experiment import tune
    from dissect.experiment.subject import option_values
    from dissect.experiment.tuned import FILE, read, read_trials
    from dissect.progress import observer
    from dissect.tables.trials import best_of

    say = partial(options.say, quiet=quiet)
    names = {each.name for each in SETTINGS}
    typed = options.typed(context)
    about = {name: value for name, value in given.items() if name not in names or name in typed}
    about["options"] = option_values(about.pop("extra"), about.pop("dim"))
    how = {name: about.pop(name) for name in ("timeout", "device")}
    if status and "timeout" in typed:
        raise UsageError("--status trains nothing, so --timeout has no effect.", "Leave one of them out.")
    data = options.loader(say)(dataset, data_dir)
    if status:
        folder = tune.look(model, data, **about)
    else:
        watch = partial(observer, quiet=quiet, stays=False)
        folder = tune.tune(model, data, observe=watch, say=say, **how, **about)
    if as_json:
        rows = json.loads(read_trials(folder).to_json(orient="records"))
        record = msgspec.to_builtins(read(folder / FILE))
        screen.show_json({**record, "file": str(folder / FILE), "rows": rows})
    else:
        table, use = best_of(folder, model, data_dir)
        screen.show(table)
        print(use)
