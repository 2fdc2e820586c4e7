"""dissect models: the models, and the matrices of a model (the paper's Figure 2)."""

from __future__ import annotations

import click

from dissect.cli import options

ITEMS = 43_097  # of Diginetica
WIDTH = "Width D. [default: the preset's or the model file's, else 256]"


@options.verb("models", "models srgnn --dim 256", "models my_model.py:MyModel")
@click.argument("name", required=False)
@click.option("--dim", type=options.Integer(1), help=WIDTH)
@click.option("--items", type=options.Integer(1), help=f"Size V of the catalogue. [default: {ITEMS:,}]")
@options.preset
@options.extra
@options.as_json
def command(
    name: str | None, dim: int | None, items: int | None, preset: str | None, extra: tuple[str, ...], as_json: bool
) -> None:
    """List the models, or the matrices of one with their shapes and roles, what SparseVD can dissect of them, and the
    options and presets of the model.

    NAME is one of the list, or path/to/file.py:ClassName.
    """
    from dissect.cli import screen
    from dissect.errors import UsageError
    from dissect.experiment.subject import describe, find_model, model_options, option_values
    from dissect.tables.models import models, on_screen
    from models import MODELS

    given = {"--dim": dim, "--items": items, "--preset": preset, "--option": extra}
    if name is None and (idle := [flag for flag, value in given.items() if value]):
        raise UsageError(f"{', '.join(idle)}: of which model?", f"Name it: dissect models NAME {idle[0]} ...")
    if name is None:
        screen.show_json(sorted(MODELS)) if as_json else screen.show(models())
        return
    subject = find_model(name)
    model = describe(subject, model_options(subject, option_values(extra, dim), preset, dim=256), items or ITEMS)
    screen.show_json(model) if as_json else screen.show(*on_screen(model), sep="\n")
