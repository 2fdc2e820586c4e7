"""dissect models: what models there are, and what a model is made of (the paper's Figure 2)."""

from __future__ import annotations

import click


@click.command(
    epilog="""\b
Examples:
  dissect models
  dissect models srgnn --dim 256"""
)
@click.argument("name", required=False)
@click.option("--dim", type=click.IntRange(1), help="Width D. [default: 256]")
@click.option("--items", type=click.IntRange(1), default=43_097, show_default=True, help="Size V of the catalogue.")
@click.option("--json", "as_json", is_flag=True, help="JSON on stdout.")
def command(name: str | None, dim: int | None, items: int, as_json: bool) -> None:
    """List the models, or the matrices of one: shapes, parameters, roles, modules."""
    import json

    from rich.console import Console
    from rich.table import Table

    from dissect.cli.subject import find_model, model_options
    from models import BASELINES, MODELS

    console = Console()
    if name is None:
        if as_json:
            click.echo(json.dumps(sorted(MODELS)))
            return
        table = Table(box=None, padding=(0, 2, 0, 0))
        table.add_column("model")
        table.add_column("what it is")
        table.add_column("can do without")
        for known, cls in MODELS.items():
            table.add_row(known, (cls.__doc__ or "").strip().splitlines()[0], ", ".join(cls.removable) or "-")
        console.print(table)
        console.print(f"Baselines, which have no weights: {', '.join(BASELINES)}", highlight=False)
        console.print("More of one: dissect models NAME. Your own: --model path/to/file.py:ClassName", highlight=False)
        return
    subject = find_model(name)
    options = model_options(subject, {"dim": dim}, dim=256)
    model = subject.cls(n_items=items, **options)
    parameters = dict(model.named_parameters())
    rows = [
        {
            "matrix": matrix,
            "shape": list(parameters[f"{matrix}.weight"].shape),
            "parameters": parameters[f"{matrix}.weight"].numel(),
            "role": declared.role,
            "module": declared.module,
            "blocks": [*declared.rows, *declared.cols],
        }
        for matrix, declared in model.matrices.items()
        if f"{matrix}.weight" in parameters
    ]
    total = sum(p.numel() for p in parameters.values())
    if as_json:
        click.echo(
            json.dumps(
                {
                    "model": subject.name,
                    "dim": options.get("dim"),
                    "items": items,
                    "parameters": total,
                    "matrices": rows,
                },
                indent=1,
            )
        )
        return
    width = f"D = {options['dim']}, " if "dim" in options else ""
    table = Table(
        title=f"{subject.name}, {width}V = {items:,}: {total:,} parameters",
        title_justify="left",
        box=None,
        padding=(0, 2, 0, 0),
    )
    for column in ("matrix", "shape", "parameters", "role", "module", "blocks"):
        table.add_column(column, justify="right" if column == "parameters" else "left", no_wrap=column != "blocks")
    for row in rows:
        shape = "×".join(map(str, row["shape"]))
        table.add_row(
            row["matrix"],
            shape,
            f"{row['parameters']:,}",
            row["role"],
            row["module"],
            " ".join(row["blocks"]),
        )
    in_matrices = sum(row["parameters"] for row in rows)
    console.print(table)
    presets = ", ".join(getattr(subject.cls, "presets", {}))
    if presets:
        console.print(f"Presets (--preset): {presets}", highlight=False, soft_wrap=True)
    console.print(f"The rest, {total - in_matrices:,}: item table and biases, which stay as they are.", highlight=False)
