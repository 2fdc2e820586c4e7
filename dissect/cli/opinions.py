"""dissect opinions: what other criteria than SparseVD say of the matrices of a trained model."""

from __future__ import annotations

from typing import Any

import click

from dissect.cli import options
from dissect.usual import L0_WEIGHT, RANKED

RETRAIN = "Train everything else for N steps with each matrix and role at zero, and judge what is left."
L0 = "Train the model with L0 gates too, with as many steps as the dissection, for each seed."
WEIGHT = "What an open L0 gate costs, in nats over all training examples."
CURVES = "Prune by each criterion to a grid of shares, and rank: accuracy against kept share."
PREFIXES = "Validation prefixes that accuracy is measured on, at equal distances; 0 takes all."
OUT = "Write the tables (CSV) and the figure to this folder."


@options.verb(
    "opinions srgnn-demo",
    "opinions srgnn-demo/s1 --retrain 200 --curves",
    "opinions srgnn-demo --l0 --curves --out talk/figures",
)
@click.argument("group", required=False, metavar="[RUN_OR_GROUP]")
@click.option("--retrain", type=options.Integer(0, 10**6), default=0, metavar="N", help=RETRAIN)
@click.option("--l0", "with_l0", is_flag=True, help=L0)
@click.option("--l0-weight", type=click.FloatRange(0, min_open=True), default=L0_WEIGHT, show_default=True, help=WEIGHT)
@click.option("--curves", is_flag=True, help=CURVES)
@click.option("--prefixes", "n", type=options.Integer(0), default=RANKED, show_default=True, help=PREFIXES)
@options.own_model
@click.option("--out", metavar="DIR", help=OUT)
@options.places
@click.pass_context
def command(
    context: click.Context, /, group: str | None, runs_dir: str, as_json: bool, quiet: bool, out: str | None, **how: Any
) -> None:
    """Set SparseVD beside other criteria: magnitude, Taylor, Fisher, Bayesian model reduction, ablation, L0 gates.

    They judge the same matrices in the matched dense model that `dissect run` trains beside each dissection (of a group
    of `dissect train`, the model itself). Without --retrain and --l0 nothing is trained. Results are kept in the
    group's folder opinions/; the same command continues there. Below the table: where the opinions differ, first what
    speaks against SparseVD.
    """
    from functools import partial
    from pathlib import Path

    from analyses.opinions import opinions
    from dissect import drawing
    from dissect.cli import screen
    from dissect.errors import UsageError
    from dissect.experiment.opinions import opinions_of, seeds_of
    from dissect.progress import telling
    from dissect.runs import folders
    from dissect.tables.opinions import on_screen

    if "l0_weight" in options.typed(context) and not how["with_l0"]:
        raise UsageError("--l0-weight is for the model with L0 gates, which only --l0 trains.", "Add --l0.")
    if group is None:
        at, named = folders.newest_dissected(runs_dir), list[Path]()
    else:
        at, named = folders.resolve_both(group, runs_dir, dissected=True)
    seeds = seeds_of(at, {folders.place_of(run)[1] for run in named})
    for number, seed in enumerate(seeds, 1):
        title = f"seed {seed}" + (f" ({number} of {len(seeds)})" if len(seeds) > 1 else "")
        with telling(title, quiet) as tell:
            opinions_of(at, seed, options.loader(partial(options.say, quiet=quiet)), tell=tell, **how)
    found = opinions(at)
    if out is not None:
        for drawn in drawing.opinions(at):
            drawn.save(Path(out))
        found.to_csv(Path(out))
    screen.show_json(found.to_record()) if as_json else screen.show(*on_screen(found, at), sep="\n")
