"""dissect run: instrument a model with SparseVD, train it, track density, say the verdict."""

from __future__ import annotations

from typing import Any

import click

# What a run on the built-in data uses where nothing else is said: small, and done in about a minute a seed.
BUILT_IN_SETTINGS: dict[str, dict[str, Any]] = {
    "demo": {"dim": 32, "max_steps": 2_000},
    "demo-bag": {"dim": 32, "max_steps": 6_000},
    "demo-walk": {"dim": 32, "max_steps": 6_000},
}


@click.command(
    epilog="""\b
Examples:
  dissect run
  dissect run --model srgnn --dataset diginetica --seed 1 --seed 2 --seed 3
  dissect run --model srgnn --dataset diginetica --without propagation
  dissect run --model path/to/mymodel.py:MyModel --dataset diginetica"""
)
@click.option(
    "--model",
    default="srgnn",
    show_default=True,
    help="A name of `dissect models`, or path/to/file.py:ClassName.",
)
@click.option("--dataset", default="demo", show_default=True, help="A name of `dissect data list`.")
@click.option(
    "--where",
    default="both",
    show_default=True,
    help="Which matrices: both, none, a module (gnn, encoder, readout) or a role.",
)
@click.option(
    "--without",
    multiple=True,
    help="Train the model without a role (propagation, gnn, attention), for the verdict on need.",
)
@click.option(
    "--seed",
    "seeds",
    type=int,
    multiple=True,
    default=(1,),
    show_default=True,
    help="Repeat for several seeds.",
)
@click.option("--epochs", type=float, help="Length of the training; or --max-steps.")
@click.option("--max-steps", type=int, help="Steps of training. [default: 60000; fewer on built-in data]")
@click.option("--batch-size", type=int, default=100, show_default=True)
@click.option("--dim", type=int, help="Width D of the model. [default: 256; 32 on built-in data]")
@click.option(
    "--propagation",
    type=click.Choice(["(AH)W", "A(HW)"], case_sensitive=False),
    help="Average the neighbours, then map; or as SR-GNN's authors wrote it.",
)
@click.option(
    "--option",
    "extra",
    multiple=True,
    metavar="KEY=VALUE",
    help="Another argument of the model, e.g. steps=2.",
)
@click.option("--lr", type=float, default=1e-3, show_default=True, help="Adam's learning rate.")
@click.option(
    "--schedule",
    type=click.Choice(["linear-end", "steps"]),
    default="linear-end",
    show_default=True,
    help="Constant to 80 %, then linear to 0; or x 0.1 every 3 epochs.",
)
@click.option("--l2", type=float, default=1e-5, show_default=True, help="Decay of what SparseVD does not regularise.")
@click.option(
    "--decay-everything",
    is_flag=True,
    help="Decay theta and log sigma^2 too (what the authors' optimiser would do; distorts density).",
)
@click.option(
    "--kl-weight",
    type=float,
    default=1.0,
    show_default=True,
    help="Final weight beta of the KL; the loss has beta / N.",
)
@click.option(
    "--kl-warmup",
    type=float,
    default=0.3,
    show_default=True,
    help="Share of the steps over which beta rises from 0.",
)
@click.option("--prior", type=click.Choice(["log-uniform", "normal", "ard"]), default="log-uniform", show_default=True)
@click.option(
    "--noise",
    type=click.Choice(["lrt", "lrt_shared", "weight"]),
    default="lrt",
    show_default=True,
    help="How weight noise is drawn.",
)
@click.option(
    "--threshold",
    type=float,
    default=3.0,
    show_default=True,
    help="A weight is kept where log alpha lies below.",
)
@click.option("--log-sigma2", type=float, help="Initial log sigma^2. [default: log Var(theta) - 4 in each matrix]")
@click.option(
    "--validation",
    type=float,
    default=0.1,
    show_default=True,
    help="Last share of the training sessions, held out.",
)
@click.option("--order", type=click.Choice(["shuffled", "chronological"]), default="shuffled", show_default=True)
@click.option("--init-from", metavar="RUN", help="Start from the weights of a trained dense run.")
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True)
@click.option("--runs-dir", type=click.Path(path_type=str), default="runs", show_default=True)
@click.option(
    "--data-dir",
    type=click.Path(path_type=str),
    help="Where data sets lie. [default: $DISSECT_DATA, else the user's data folder]",
)
@click.option("--name", help="Name of the group's folder, before the hash. [default: <model>-<dataset>]")
@click.option("--force", is_flag=True, help="Train again what is finished; the old run is kept aside.")
@click.option("--json", "as_json", is_flag=True, help="The verdict as JSON on stdout.")
@click.option("--quiet", is_flag=True, help="No progress.")
def command(**options: Any) -> None:
    """Dissect a model: which of its weight matrices carry the prediction?

    Puts Sparse Variational Dropout in place of the model's weight matrices, trains, records the density of
    every matrix, and says the verdict. The same command again goes on with a run that was stopped.
    """
    from pathlib import Path

    from dissect.cli.dissecting import dissect_model

    options["runs_dir"] = Path(options["runs_dir"])
    dissect_model(**options)
