"""dissect models: what models there are, and what a model is made of (the paper's Figure 2)."""

from __future__ import annotations

from typing import Any

import click

from dissect.cli import options


@click.command(
    epilog="""\b
Examples:
  dissect models
  dissect models srgnn --dim 256
  dissect models my_model.py:MyModel"""
)
@click.argument("name", required=False)
@click.option("--dim", type=click.IntRange(1), help="Width D. [default: the preset's or the model file's, else 256]")
@click.option("--items", type=click.IntRange(1), default=43_097, show_default=True, help="Size V of the catalogue.")
@options.preset
@options.extra
@options.as_json
def command(
    name: str | None, dim: int | None, items: int, preset: str | None, extra: tuple[str, ...], as_json: bool
) -> None:
    """List the models, or what one is made of: its matrices with shapes and roles, what SparseVD can dissect of them,
    its options and presets.

    NAME is one of the list, or path/to/file.py:ClassName.
    """
    import json

    if name is None:
        _list_all(as_json)
        return
    from dissect.experiment.subject import describe, find_model, model_options, option_values

    subject = find_model(name)
    subject.require_weights()
    given = {**({"dim": dim} if dim is not None else {}), **option_values(extra)}
    model = describe(subject, model_options(subject, given, preset, dim=256), items)
    if as_json:
        click.echo(json.dumps(_plain(model), indent=1, allow_nan=False))
    else:
        _show(model)


def _list_all(as_json: bool) -> None:
    import json

    from rich.console import Console
    from rich.table import Table

    from models import BASELINES, MODELS

    console = Console()
    if as_json:
        click.echo(json.dumps(sorted(MODELS)))
        return
    table = Table("model", "what it is", "can do without", box=None, padding=(0, 2, 0, 0))
    for known, cls in MODELS.items():
        table.add_row(known, (cls.__doc__ or "").strip().splitlines()[0], ", ".join(cls.removable) or "-")
    console.print(table)
    console.print(f"Baselines, which have no weights: {', '.join(BASELINES)}", highlight=False)
    console.print("More of one: dissect models NAME, or path/to/file.py:ClassName of your own", highlight=False)


def _plain(value: Any) -> Any:
    """A value in the words of JSON; what it has none for (infinity, a class) as text."""
    import math

    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    known = value is None or isinstance(value, str | int) or (isinstance(value, float) and math.isfinite(value))
    return value if known else str(value)


def _show(model: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from dissect.sparsevd import in_words

    console = Console(highlight=False)
    width = f"D = {model['dim']}, " if model["dim"] is not None else ""
    table = Table(
        title=f"{model['model']}, {width}V = {model['items']:,}: {model['parameters']:,} parameters",
        title_justify="left",
        box=None,
        padding=(0, 1, 0, 0),
    )
    for column in ("matrix", "shape", "weights", "role", "module", "dissected", "blocks"):
        table.add_column(column, justify="right" if column == "weights" else "left", no_wrap=column != "blocks")
    for row in model["matrices"]:
        shape = "×".join(map(str, row["shape"])) if row["shape"] else f"{len(row['shapes'])} matrices"
        dissected = "yes" if not row["reason"] else "in part" if row["dissected"] else "no"
        texts = (row["role"] or "other", row["module"] or "-", dissected, " ".join(row["blocks"]))
        table.add_row(*map(escape, (row["matrix"], shape, f"{row['parameters']:,}", *texts)))
    console.print(table)
    for role, share in model["roles"].items():
        if share["share"] < 1:
            console.print(f"{role}: {in_words(share)}.", markup=False, style="yellow")
    for row in model["matrices"]:
        if row["role"] is None and row["reason"]:
            console.print(f"{row['matrix']}, no role: {row['reason']}.", markup=False, style="yellow")
    rest = model["parameters"] - sum(row["parameters"] for row in model["matrices"])
    console.print(f"The rest, {rest:,}: item table, biases and norms, which stay as they are.")
    told = [f"{name}={_text(value)}" for name, value in model["options"].items()]
    console.print(f"Options (--option), with their defaults: {', '.join(told) or 'none'}", markup=False)
    for preset, values in model["presets"].items():
        says = ", ".join(f"{name}={_text(value)}" for name, value in values.items())
        console.print(f"--preset {preset}: {says}", markup=False)


def _text(value: Any) -> str:
    """A value as --option takes it."""
    return str(value).lower() if value is None or isinstance(value, bool) else str(value)
