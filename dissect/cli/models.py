"""dissect models: what models there are, and what a model is made of (the paper's Figure 2)."""

from __future__ import annotations

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

    from dissect.cli.models_view import list_models, show_model
    from dissect.experiment.subject import describe, find_model, model_options, option_values

    if name is None:
        list_models(as_json)
        return
    subject = find_model(name)
    given = {**({"dim": dim} if dim is not None else {}), **option_values(extra)}
    model = describe(subject, model_options(subject, given, preset, dim=256), items)
    if as_json:
        click.echo(json.dumps(model, indent=1, allow_nan=False))
    else:
        show_model(model)
