"""dissect data: bring data sets in, hand them on, list them, count them."""

from __future__ import annotations

from typing import Any

import click

from dissect.cli.options import as_json, data_dir

FORMATS = ("srgnn", "lessr", "recbole", "gru4rec", "parquet")


@click.group()
def command() -> None:
    """Bring data sets in, hand them on, list them, count them."""


force = click.option("--force", is_flag=True, help="Replace a data set of that name.")


@command.command(
    short_help="Download a public log, check it, prepare it.",
    epilog="""\b
Examples:
  dissect data fetch diginetica
  dissect data fetch lastfm --accept-terms""",
)
@click.argument("name")
@click.option("--accept-terms", is_flag=True, help="Say that you accept the terms of the data set's owner.")
@click.option("--only-download", is_flag=True, help="Leave it at the download.")
@force
@data_dir
def fetch(name: str, accept_terms: bool, only_download: bool, force: bool, data_dir: str | None) -> None:
    """Download a data set whose log is public, check it, and prepare it."""
    from dissect.cli.bring import download, prepare_and_save
    from dissect.data import catalog
    from dissect.data.recipes import RECIPES

    name = catalog.canonical(name)
    if not only_download:
        catalog.check_name(name, data_dir, force)
    path = download(name, data_dir, accept_terms)
    if only_download:
        click.echo(path)
    else:
        prepare_and_save(name, path, RECIPES[name], data_dir, force)


@command.command(
    short_help="Make a data set from a raw log.",
    epilog="""\b
Examples:
  dissect data prepare diginetica --from train-item-views.csv
  dissect data prepare lastfm --from lastfm-dataset-1K.tar.gz
  dissect data prepare shop --from log.csv --session-col visit --item-col product --time-col time
  dissect data prepare radio --from plays.tsv --user-col user --gap 30m --item-col track --time-col at""",
)
@click.argument("name")
@click.option("--from", "source", required=True, metavar="FILE", help="The log, or the archive with it.")
@click.option("--recipe", help="Whose rules to follow. [default: those of NAME]")
@click.option("--item-col", metavar="COLUMN", help="A log of your own: what was clicked.")
@click.option("--time-col", metavar="COLUMN", help="When: ISO 8601, 20140407, or a number since 1970 in any unit.")
@click.option("--time-format", metavar="FORMAT", help="iso, seconds, milliseconds, ... or such as '%d/%m/%Y %H:%M'.")
@click.option("--session-col", metavar="COLUMN", help="The session; or give --user-col and --gap.")
@click.option("--user-col", metavar="COLUMN", help="The user; with --session-col, a session is of one user.")
@click.option("--gap", metavar="SPAN", help="A session ends where a user pauses for longer, such as 30m.")
@click.option("--separator", help="Between fields. [default: seen from the header]")
@click.option("--encoding", metavar="NAME", help="Of the text, such as latin-1 or cp1252. [default: UTF-8]")
@click.option(
    "--missing",
    multiple=True,
    metavar="TEXT",
    help="What stands for no value; may be repeated. [default: '', NULL, NaN, NA, N/A, None and the like]",
)
@click.option("--min-clicks", type=click.IntRange(1), help="Drop items with fewer. [default: 5]")
@click.option("--longest", type=click.IntRange(2), help="Keep the first clicks of a session only.")
@click.option("--top-items", type=click.IntRange(1), help="Keep the most clicked items only.")
@click.option("--drop-repeats", is_flag=True, help="Drop clicks on the item clicked just before.")
@click.option("--test-share", type=float, help="Last share of the sessions that tests. [default: 0.2]")
@click.option("--test-last", metavar="SPAN", help="Or: what ends in the last span, such as 7d, tests.")
@force
@data_dir
def prepare(
    name: str, source: str, recipe: str | None, encoding: str | None, force: bool, data_dir: str | None, **own: Any
) -> None:
    """Make the data set NAME from a raw log, by the rules of a recipe or of your own."""
    from pathlib import Path

    from dissect.cli.bring import choose_recipe, prepare_and_save
    from dissect.data import catalog

    name = catalog.canonical(name)
    catalog.check_name(name, data_dir, force)
    prepare_and_save(name, Path(source), choose_recipe(recipe or name, own, encoding), data_dir, force)


@command.command(
    "import",
    short_help="Bring in a split from exchange files.",
    epilog="""\b
Examples:
  dissect data import diginetica-srgnn --format srgnn all_train_seq.txt test.txt
  dissect data import gowalla --format lessr train.txt test.txt
  dissect data import mine --format lessr --first-id 1 train.txt test.txt
  dissect data import shop --format recbole shop.train.inter shop.valid.inter shop.test.inter
  dissect data import quick --format srgnn all_train_seq.txt test.txt --recent 1/8""",
)
@click.argument("name")
@click.option(
    "--format",
    "format_",
    type=click.Choice(FORMATS),
    required=True,
    help="srgnn: pickles, items from 1; lessr: comma lists, items from 0; the others: tables of clicks or prefixes.",
)
@click.argument("files", nargs=-1, type=click.Path(), required=True, metavar="TRAIN [VALID] TEST")
@click.option(
    "--recent",
    default="1",
    show_default=True,
    metavar="SHARE",
    help="Keep the last share of the training sessions in time, such as 1/8.",
)
@click.option(
    "--items", type=click.IntRange(1, 2**31 - 1), help="Size of the catalogue. [default: the largest number in use]"
)
@click.option(
    "--first-id",
    type=click.IntRange(0, 2**31 - 1),
    help="Number of the first item in srgnn and lessr files. [default: 1 in srgnn, 0 in lessr]",
)
@force
@data_dir
def import_(
    name: str,
    format_: str,
    files: tuple[str, ...],
    recent: str,
    items: int | None,
    first_id: int | None,
    force: bool,
    data_dir: str | None,
) -> None:
    """Import TRAIN and TEST files as the data set NAME; a VALID file joins the training sessions."""
    from pathlib import Path

    from dissect.cli.bring import as_share, tell
    from dissect.data import catalog, formats
    from dissect.errors import UsageError

    if len(files) not in (2, 3):
        raise UsageError(
            f"Import takes a TRAIN, perhaps a VALID, and a TEST file, not {len(files)} files.",
            "For example: dissect data import NAME --format srgnn all_train_seq.txt test.txt",
        )
    name = catalog.canonical(name)
    catalog.check_name(name, data_dir, force)
    paths = [Path(file) for file in files]
    with catalog.claimed(name, data_dir):
        valid = paths[1] if len(paths) == 3 else None
        dataset = formats.import_files(name, format_, paths[0], paths[-1], as_share(recent), valid, items, first_id)
        folder = catalog.save(dataset, data_dir, force)
    if times := dataset.provenance.get("times"):
        click.echo(f"Clicks are in the order of their times, read as {times}.")
    tell(dataset, folder)
    counts_from, smallest = (dataset.provenance.get(what, 0) for what in ("first_id", "smallest_id"))
    if smallest > counts_from:
        click.echo(
            f"Warning: items were taken to count from {counts_from}, but {counts_from} never occurs in the files; the "
            f"smallest number is {smallest}.\nIf they count from {smallest}: the same command with "
            f"--first-id {smallest} --force",
            err=True,
        )


@command.command(
    epilog="""\b
Examples:
  dissect data export diginetica --format recbole
  dissect data export demo-walk --format srgnn --out walk"""
)
@click.argument("name")
@click.option("--format", "format_", type=click.Choice(FORMATS), required=True, help="As for import.")
@click.option("--out", metavar="DIR", help="Folder for the files. [default: NAME-FORMAT]")
@click.option(
    "--validation", type=float, default=0.1, show_default=True, help="Last share of training, as RecBole's valid file."
)
@click.option("--force", is_flag=True, help="Replace the folder.")
@data_dir
def export(name: str, format_: str, out: str | None, validation: float, force: bool, data_dir: str | None) -> None:
    """Write a data set in the files of other people's code."""
    import shlex
    from pathlib import Path

    from dissect.data import catalog
    from dissect.data.export import export as write
    from dissect.errors import UsageError
    from dissect.text import as_name

    if not 0 <= validation < 1:
        raise UsageError(f"--validation is a share of the training sessions, at least 0 and below 1, not {validation}.")
    dataset = catalog.load(name, data_dir)
    folder, files = write(dataset, format_, Path(out or f"{dataset.name}-{format_}"), validation, force)
    for path in sorted(folder.iterdir()):
        click.echo(path)
    paths = shlex.join(str(folder / file) for file in files)
    click.echo(f"Back again: dissect data import {as_name(f'{dataset.name}-copy')} --format {format_} {paths}")


@command.command("list", epilog="\b\nExample:\n  dissect data list")
@data_dir
@as_json
def list_(data_dir: str | None, as_json: bool) -> None:
    """List the data sets at hand, and those that have a known way in."""
    import json

    from dissect.data import catalog, planted
    from dissect.text import shown

    names, damaged = catalog.names(data_dir), catalog.damaged(data_dir)
    present = [name for name in names if name not in damaged]
    missing = [name for name in catalog.KNOWN if name not in names]
    if as_json:
        found = {"present": present, "damaged": damaged, "built_in": list(planted.BUILT_IN), "known": missing}
        click.echo(json.dumps(found))
        return
    click.echo(f"In {catalog.data_root(data_dir)}: {', '.join(map(shown, present)) or 'none'}")
    for reason in damaged.values():
        click.echo(f"Damaged: {shown(reason)} Bring it again with --force.")
    click.echo(f"Built in: {', '.join(planted.BUILT_IN)}")
    for name in missing:
        click.echo(f"Not here: {name}. {catalog.ways(name)}")


@command.command(
    short_help="Count data sets: Table 1 and beyond.", epilog="\b\nExample:\n  dissect data stats diginetica demo-walk"
)
@click.argument("names", nargs=-1, required=True)
@click.option("--markdown", is_flag=True, help="A table for a document.")
@data_dir
@as_json
def stats(names: tuple[str, ...], markdown: bool, data_dir: str | None, as_json: bool) -> None:
    """Count data sets: Table 1 of the paper (whose "sessions" are prefixes), and more.

    The graph of a session is a chain where no item comes back, and a chain but for loops where one comes back only
    right after itself.
    """
    import json

    from rich.console import Console

    from dissect.cli.text_table import Column, TextTable, to_markdown
    from dissect.data import catalog
    from dissect.data.stats import ROWS, statistics
    from dissect.text import shown

    counted = [statistics(catalog.load(name, data_dir)) for name in names]
    if as_json:
        click.echo(json.dumps({column["name"]: column for column in counted}, indent=1))
        return
    note = 'The paper\'s Table 1 prints "clicks", prefixes as "No. of Sessions", items, and mean length.'

    def table(some: list[dict[str, Any]]) -> TextTable:
        columns = [Column("", list(ROWS.values()))]
        for column in some:
            cells = [f"{v:,}" if isinstance(v := column[key], int) else f"{v:.2f}" for key in ROWS]
            columns.append(Column(shown(column["name"]), cells))
        return TextTable("Train and test together", columns, [note] if some[-1] is counted[-1] else [])

    if markdown:
        click.echo(to_markdown(table(counted)), nl=False)
        return
    console = Console()
    room = max(1, (console.width - max(map(len, ROWS.values()))) // (2 + max(10, *(len(c["name"]) for c in counted))))
    for start in range(0, len(counted), room):  # beside one another as far as the screen goes
        console.print(table(counted[start : start + room]))
