"""dissect data: bring data sets in, hand them on, list them, count them."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import click

from dissect.cli.options import Decorator, as_json, data_dir

FORMATS = ("srgnn", "lessr", "recbole", "gru4rec", "parquet")


@click.group()
def command() -> None:
    """Bring data sets in, hand them on, list them, count them."""


def verb(name: str, short_help: str | None, *examples: str) -> Decorator:
    """A command with examples, which its help shows last."""
    lines = [f"  dissect data {name} {words}".rstrip() for words in examples]
    head = f"\b\nExample{'s' if len(examples) > 1 else ''}:\n"
    return command.command(name, short_help=short_help, epilog=head + "\n".join(lines))


force = click.option("--force", is_flag=True, help="Replace a data set of that name.")
column = partial(click.option, metavar="COLUMN")
in_format = partial(click.option, "--format", type=click.Choice(FORMATS), required=True)


@verb("fetch", "Download a public log, check it, prepare it.", "diginetica", "lastfm --accept-terms")
@click.argument("name")
@click.option("--accept-terms", is_flag=True, help="Say that you accept the terms of the data set's owner.")
@click.option("--only-download", is_flag=True, help="Leave it at the download.")
@force
@data_dir
def fetch(name: str, accept_terms: bool, only_download: bool, force: bool, data_dir: str | None) -> None:
    """Download a data set whose log is public, check it, and prepare it."""
    from dissect.data import bring, catalog

    name = catalog.canonical(name) if only_download else catalog.check_name(name, data_dir, force)
    path = bring.download(name, data_dir, accept_terms, partial(click.echo, err=True), progress_bar)
    if only_download:
        click.echo(path)
    else:
        for line, is_warning in bring.report(*bring.from_log(name, path, None, data_dir, force)):
            click.echo(line, err=is_warning)


@verb(
    "prepare",
    "Make a data set from a raw log.",
    "diginetica --from train-item-views.csv",
    "lastfm --from lastfm-dataset-1K.tar.gz",
    "shop --from log.csv --session-col visit --item-col product --time-col time",
    "radio --from plays.tsv --user-col user --gap 30m --item-col track --time-col at",
)
@click.argument("name")
@click.option("--from", "source", required=True, metavar="FILE", help="The log, or the archive with it.")
@click.option("--recipe", help="Whose rules to follow. [default: those of NAME]")
@column("--item-col", "item", help="A log of your own: what was clicked.")
@column("--time-col", "time", help="When: ISO 8601, 20140407, or a number since 1970 in any unit.")
@click.option(
    "--time-format", "clock", metavar="FORMAT", help="iso, seconds, milliseconds, ... or such as '%d/%m/%Y %H:%M'."
)
@column("--session-col", "session", help="The session; or give --user-col and --gap.")
@column("--user-col", "user", help="The user; with --session-col, a session is of one user.")
@click.option("--gap", metavar="SPAN", help="A session ends where a user pauses for longer, such as 30m.")
@click.option("--separator", help="Between fields. [default: seen from the header]")
@click.option("--encoding", metavar="NAME", help="Of the text, such as latin-1 or cp1252. [default: UTF-8]")
@click.option(
    "--missing",
    multiple=True,
    metavar="TEXT",
    help="What stands for no value; may be repeated. [default: '', NULL, NaN, NA, N/A, None and the like]",
)
@click.option("--min-clicks", "least_clicks", type=click.IntRange(1), help="Drop items with fewer. [default: 5]")
@click.option("--longest", type=click.IntRange(2), help="Keep the first clicks of a session only.")
@click.option("--top-items", "top", type=click.IntRange(1), help="Keep the most clicked items only.")
@click.option("--drop-repeats", is_flag=True, help="Drop clicks on the item clicked just before.")
@click.option("--test-share", type=float, help="Last share of the sessions that tests. [default: 0.2]")
@click.option("--test-last", metavar="SPAN", help="Or: what ends in the last span, such as 7d, tests.")
@force
@data_dir
def prepare(name: str, source: str, recipe: str | None, force: bool, data_dir: str | None, **own: Any) -> None:
    """Make the data set NAME from a raw log, by the rules of a recipe or of your own."""
    from dissect.data import bring

    for line, is_warning in bring.report(*bring.from_log(name, Path(source), recipe, data_dir, force, **own)):
        click.echo(line, err=is_warning)


@verb(
    "import",
    "Bring in a split from exchange files.",
    "diginetica-srgnn --format srgnn all_train_seq.txt test.txt",
    "gowalla --format lessr train.txt test.txt",
    "mine --format lessr --first-id 1 train.txt test.txt",
    "shop --format recbole shop.train.inter shop.valid.inter shop.test.inter",
    "quick --format srgnn all_train_seq.txt test.txt --recent 1/8",
)
@click.argument("name")
@in_format(
    help="srgnn: pickles, items from 1; lessr: comma lists, items from 0; the others: tables of clicks or prefixes."
)
@click.argument("files", nargs=-1, type=click.Path(path_type=Path), required=True, metavar="TRAIN [VALID] TEST")
@click.option(
    "--recent",
    default="1",
    show_default=True,
    metavar="SHARE",
    help="Keep the last share of the training sessions in time, such as 1/8.",
)
@click.option(
    "--items",
    "n_items",
    type=click.IntRange(1, 2**31 - 1),
    help="Size of the catalogue. [default: the largest number in use]",
)
@click.option(
    "--first-id",
    type=click.IntRange(0, 2**31 - 1),
    help="Number of the first item in srgnn and lessr files. [default: 1 in srgnn, 0 in lessr]",
)
@force
@data_dir
def import_(name: str, format: str, files: tuple[Path, ...], force: bool, data_dir: str | None, **how: Any) -> None:
    """Import TRAIN and TEST files as the data set NAME; a VALID file joins the training sessions."""
    from dissect.data import bring

    for line, is_warning in bring.report(*bring.from_files(name, format, files, data_dir, force, **how)):
        click.echo(line, err=is_warning)


@verb("export", None, "diginetica --format recbole", "demo-walk --format srgnn --out walk")
@click.argument("name")
@in_format(help="As for import.")
@click.option("--out", metavar="DIR", help="Folder for the files. [default: NAME-FORMAT]")
@click.option(
    "--validation", type=float, default=0.1, show_default=True, help="Last share of training, as RecBole's valid file."
)
@click.option("--force", is_flag=True, help="Replace the folder.")
@data_dir
def export(name: str, format: str, out: str | None, validation: float, force: bool, data_dir: str | None) -> None:
    """Write a data set in the files of other people's code."""
    from dissect.data import catalog
    from dissect.data.export import export as write
    from dissect.text import as_name

    dataset = catalog.load(name, data_dir)
    folder, files = write(dataset, format, Path(out or f"{dataset.name}-{format}"), validation, force)
    click.echo("\n".join(map(str, sorted(folder.iterdir()))))
    paths = shlex.join(str(folder / file) for file in files)
    click.echo(f"Back again: dissect data import {as_name(f'{dataset.name}-copy')} --format {format} {paths}")


@verb("list", None, "")
@data_dir
@as_json
def list_(data_dir: str | None, as_json: bool) -> None:
    """List the data sets at hand, and those that have a known way in."""
    from dissect.data import catalog
    from dissect.text import shown

    found = catalog.at_hand(data_dir)
    if as_json:
        click.echo(json.dumps(found))
        return
    click.echo(f"In {catalog.data_root(data_dir)}: {', '.join(map(shown, found['present'])) or 'none'}")
    for reason in found["damaged"].values():
        click.echo(f"Damaged: {shown(reason)} Bring it again with --force.")
    click.echo(f"Built in: {', '.join(found['built_in'])}")
    for name in found["known"]:
        click.echo(f"Not here: {name}. {catalog.ways(name)}")


@verb("stats", "Count data sets: Table 1 and beyond.", "diginetica demo-walk")
@click.argument("names", nargs=-1, required=True)
@click.option("--markdown", is_flag=True, help="A table for a document.")
@data_dir
@as_json
def stats(names: tuple[str, ...], markdown: bool, data_dir: str | None, as_json: bool) -> None:
    """Count data sets: Table 1 of the paper (whose "sessions" are prefixes), and more.

    The graph of a session is a chain where no item comes back, and a chain but for loops where one comes back only
    right after itself.
    """
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
    console = Console()
    room = max(1, (console.width - max(map(len, ROWS.values()))) // (2 + max(10, *(len(c["name"]) for c in counted))))
    room = len(counted) if markdown else room  # beside one another as far as the screen goes
    for some in (counted[start : start + room] for start in range(0, len(counted), room)):
        columns = [Column("", list(ROWS.values()))]
        for c in some:
            cells = [f"{c[key]:,}" if isinstance(c[key], int) else f"{c[key]:.2f}" for key in ROWS]
            columns.append(Column(shown(c["name"]), cells))
        table = TextTable("Train and test together", columns, [note] if some[-1] is counted[-1] else [])
        click.echo(to_markdown(table), nl=False) if markdown else console.print(table)


@contextmanager
def progress_bar(source: Any) -> Iterator[Callable[[int, int | None], None]]:
    """A bar on stderr for a download, where that is a terminal."""
    from rich import progress as rich
    from rich.console import Console

    kinds = rich.BarColumn, rich.DownloadColumn, rich.TransferSpeedColumn, rich.TimeRemainingColumn
    columns = rich.TextColumn("{task.description}"), *(kind() for kind in kinds)
    with rich.Progress(*columns, console=Console(stderr=True), disable=not sys.stderr.isatty()) as progress:
        task = progress.add_task(source.file, total=source.size)
        yield lambda done, total: progress.update(task, completed=done, total=total or source.size)
