"""dissect data: bring data sets in, list them, count them."""

from __future__ import annotations

import click

FORMATS = ("srgnn", "lessr")


@click.group()
def command() -> None:
    """Bring data sets in, list them, count them."""


data_dir_option = click.option(
    "--data-dir", help="Where data sets lie. [default: $DISSECT_DATA, else the user's data folder]"
)
json_option = click.option("--json", "as_json", is_flag=True, help="JSON on stdout.")


@command.command(
    "import",
    epilog="""\b
Example:
  dissect data import diginetica-srgnn --format srgnn all_train_seq.txt test.txt""",
)
@click.argument("name")
@click.option(
    "--format",
    "format_",
    type=click.Choice(FORMATS),
    required=True,
    help="srgnn: pickles, items from 1; lessr: comma lists, items from 0.",
)
@click.argument("train", type=click.Path())
@click.argument("test", type=click.Path())
@click.option(
    "--recent",
    type=float,
    default=1.0,
    show_default=True,
    help="Keep the last share of the training sessions in time.",
)
@click.option("--force", is_flag=True, help="Replace a data set of that name.")
@data_dir_option
def import_(name: str, format_: str, train: str, test: str, recent: float, force: bool, data_dir: str | None) -> None:
    """Import TRAIN and TEST files as the data set NAME."""
    from pathlib import Path

    from dissect.data import catalog, formats

    dataset = formats.import_files(name, format_, Path(train), Path(test), recent)
    folder = catalog.save(dataset, data_dir, force)
    dropped = dataset.provenance["dropped_single_clicks"]
    click.echo(
        f"{name}: {dataset.n_items:,} items; "
        f"train {len(dataset.train):,} sessions = {dataset.train.n_prefixes:,} prefixes; "
        f"test {len(dataset.test):,} sessions = {dataset.test.n_prefixes:,} prefixes; "
        f"single-click sessions dropped: {dropped['train']:,} + {dropped['test']:,}."
    )
    click.echo(f"In {folder}. Next: dissect run --dataset {name}")


@command.command("list", epilog="\b\nExample:\n  dissect data list")
@data_dir_option
@json_option
def list_(data_dir: str | None, as_json: bool) -> None:
    """List the data sets at hand, and those that have a known way in."""
    import json

    from dissect.data import catalog, planted

    present = catalog.names(data_dir)
    missing = [name for name in catalog.KNOWN if name not in present]
    if as_json:
        click.echo(json.dumps({"present": present, "built_in": list(planted.BUILT_IN), "known": missing}))
        return
    click.echo(f"In {catalog.data_root(data_dir)}: {', '.join(present) or 'none'}")
    click.echo(f"Built in: {', '.join(planted.BUILT_IN)}")
    for name in missing:
        click.echo(f"Not here: {name}. Bring it: {catalog.KNOWN[name]}")


@command.command(epilog="\b\nExample:\n  dissect data stats diginetica demo-walk")
@click.argument("names", nargs=-1, required=True)
@data_dir_option
@json_option
def stats(names: tuple[str, ...], data_dir: str | None, as_json: bool) -> None:
    """Count data sets: Table 1 of the paper (whose "sessions" are prefixes), and more."""
    import json

    from rich.console import Console
    from rich.table import Table

    from dissect.data import catalog
    from dissect.data.stats import ROWS, statistics

    columns = [statistics(catalog.load(name, data_dir)) for name in names]
    if as_json:
        click.echo(json.dumps({column["name"]: column for column in columns}, indent=1))
        return
    table = Table(
        box=None,
        padding=(0, 1),
        caption_justify="left",
        caption='The paper\'s Table 1 prints "clicks", prefixes as "No. of Sessions", items, and mean length.',
    )
    table.add_column("", no_wrap=True)
    for column in columns:
        table.add_column(str(column["name"]), justify="right", overflow="fold")
    for key, label in ROWS.items():
        values = [column[key] for column in columns]
        table.add_row(label, *(f"{v:,}" if isinstance(v, int) else f"{v:.2f}" for v in values))
    Console().print(table)
