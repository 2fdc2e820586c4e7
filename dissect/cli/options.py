"""Options that several verbs share, so that each is spelt, explained and defaulted in one place."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from dissect.runs.config import ORDERS, PRODUCTS

Decorator = Callable[[Any], Any]

runs_dir = click.option("--runs-dir", default="runs", show_default=True, metavar="DIR", help="Where run folders lie.")
data_dir = click.option(
    "--data-dir", metavar="DIR", help="Where data sets lie. [default: $DISSECT_DATA or the user's data folder]"
)
as_json = click.option("--json", "as_json", is_flag=True, help="The result as JSON on stdout.")
quiet = click.option("--quiet", is_flag=True, help="No progress on stderr.")
own_model = click.option(
    "--model",
    metavar="FILE:CLASS",
    help="Where the run's own model lies now; the file is executed. [default: the file it was trained with, if you"
    " have named it in a command before]",
)
device = click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True)


def several(*decorators: Decorator) -> Decorator:
    """One decorator for several options, in the order in which --help lists them."""

    def decorate(function: Any) -> Any:
        for decorator in reversed(decorators):
            function = decorator(function)
        return function

    return decorate


def each_once(context: click.Context, parameter: click.Parameter, values: tuple[Any, ...]) -> tuple[Any, ...]:
    """The values of a repeatable option without repetitions; says so on stderr."""
    for value in dict.fromkeys(value for value in values if values.count(value) > 1):
        click.echo(f"{parameter.opts[0]} {value} is given more than once, and counts once.", err=True)
    return tuple(dict.fromkeys(values))


# What a training has, with SparseVD or without.
training = several(
    click.option("--epochs", type=float, help="Length of the training; or --max-steps. [default of train: 10]"),
    click.option(
        "--max-steps",
        type=click.IntRange(1, 10**9),
        help="Steps of training. [default of run: 60000; fewer on built-in data]",
    ),
    click.option(
        "--without",
        multiple=True,
        callback=each_once,
        metavar="ROLE",
        help="Leave a role out of the model: propagation, gnn, attention.",
    ),
    click.option(
        "--seed",
        "seeds",
        type=click.IntRange(0, 10**9),
        multiple=True,
        callback=each_once,
        default=(1,),
        show_default=True,
        help="Repeat for several seeds.",
    ),
    click.option(
        "--jobs", type=click.IntRange(1), default=1, show_default=True, help="Train so many seeds at the same time."
    ),
    click.option("--batch-size", type=click.IntRange(1, 10**6), default=100, show_default=True),
    click.option(
        "--longest",
        type=click.IntRange(0, 10**6),
        default=0,
        show_default=True,
        metavar="N",
        help="Keep the last N clicks of longer prefixes, in training and in every ranking; 0 keeps all.",
    ),
    click.option(
        "--negatives",
        type=int,
        default=0,
        show_default=True,
        help="Sampled softmax over so many drawn items, for catalogues beyond memory or patience (biased: the loss"
        " comes out too small); 0 is the whole catalogue.",
    ),
    click.option(
        "--products",
        type=click.Choice(PRODUCTS),
        default="float32",
        show_default=True,
        help="How products with the catalogue multiply in training; sums and ranks stay in float32. bf16: factors of 8"
        " bits, three times as fast on CPUs that have them; tf32: 11 bits, CUDA only; auto: whatever is quickest here.",
    ),
    click.option(
        "--dim",
        type=click.IntRange(1),
        help="Width D of the model. [default: the preset's or the model file's, else 256; 32 on built-in data]",
    ),
    click.option(
        "--propagation",
        type=click.Choice(["(AH)W", "A(HW)"], case_sensitive=False),
        help="SR-GNN: average the neighbours, then map; or as its authors wrote it.",
    ),
    click.option(
        "--readout",
        type=click.Choice(["attention", "attenmixer"]),
        help="SR-GNN: its own readout, or that of Atten-Mixer with items of unit length.",
    ),
    click.option("--preset", help="Arguments of the model by name, e.g. official for attenmixer."),
    click.option(
        "--option", "extra", multiple=True, metavar="KEY=VALUE", help="Another argument of the model, e.g. steps=2."
    ),
    click.option("--lr", type=float, default=1e-3, show_default=True, help="Adam's learning rate."),
    click.option(
        "--l2", type=float, default=1e-5, show_default=True, help="Decay of what SparseVD does not regularise."
    ),
    click.option(
        "--validation",
        type=float,
        default=0.1,
        show_default=True,
        help="Last share of the training sessions, held out.",
    ),
    click.option(
        "--order",
        type=click.Choice(ORDERS),
        default="shuffled",
        show_default=True,
        help="Order of the training examples.",
    ),
    click.option("--init-from", metavar="RUN", help="Start from the weights of a trained dense run."),
    device,
    runs_dir,
    data_dir,
    click.option("--name", help="Name of the group's folder, before the hash. [default: <model>-<dataset>]"),
    click.option("--force", is_flag=True, help="Train again what is finished; the old run is kept aside."),
    as_json,
    quiet,
)
