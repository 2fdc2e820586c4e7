"""dissect data: import, prepare, export, list and count data sets."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import click

from dissect.cli.options import Integer, as_json, data_dir, subverb
from dissect.usual import LEAST_CLICKS, TEST_SHARE, VALIDATION_SHARE

ITEM = "A log of your own: the column of the items clicked."
TIME = "The times: ISO 8601, 20140407, or numbers since 1970 in any unit."
CLOCK = "Format of the times: iso, seconds, milliseconds, ... or a pattern such as '%d/%m/%Y %H:%M'."
GAP = "A session ends when a user pauses for longer than this, such as 30m."
ENCODING = "Encoding of the log, such as latin-1 or cp1252. [default: UTF-8]"
MISSING = "A text that counts as empty; may be repeated. [default: '', NULL, NaN, NA, N/A, None and the like]"
SHARE = f"Share of the sessions, the last in time, for the test part. [default: {TEST_SHARE:g}]"
RARE = f"Drop items with fewer clicks. [default: {LEAST_CLICKS}]"
LAST = "Instead of a share: sessions that end in the last span, such as 7d, are the test part."
FORMAT = "srgnn: pickles, items from 1; lessr: comma lists, items from 0; the others: tables of clicks or prefixes."
RECENT = "Keep this share of the training sessions, the last in time, such as 1/8."
ITEMS = "Size of the catalogue. [default: the largest number in use]"
FIRST = "Number of the first item in srgnn and lessr files. [default: 1 in srgnn, 0 in lessr]"
VALIDATION = "Share of the training sessions, the last in time, for RecBole's valid file."


@click.group()
def command() -> None:
    """Import, prepare, list and count data sets."""


verb = partial(subverb, command, "data")
option = click.option
force = option("--force", is_flag=True, help="Replace a data set of that name.")
column = partial(option, metavar="COLUMN")
in_format = partial(option, "--format", required=True)
FORMATS = click.Choice(["srgnn", "lessr", "recbole", "gru4rec", "parquet"])


@verb("fetch", "Download a public log, check it, prepare it.", "diginetica", "lastfm --accept-terms")
@click.argument("name")
@option("--accept-terms", is_flag=True, help="Say that you accept the terms of the data set's owner.")
@option("--only-download", is_flag=True, help="Download only; do not prepare.")
@force
@data_dir
def fetch(name: str, accept_terms: bool, only_download: bool, force: bool, data_dir: str | None) -> None:
    """Download a data set whose log is public, check it, and prepare it."""
    from dissect.data import bring, catalog, sources

    name = catalog.canonical(name)
    sources.find(name)  # first: without a public file --force is no way out of a name that is taken
    if not only_download:
        catalog.check_name(name, data_dir, force)
    path = bring.download(name, data_dir, accept_terms, partial(click.echo, err=True), progress_bar)
    if only_download:
        click.echo(path)
    else:
        report(*bring.from_log(name, path, None, data_dir, force))


@verb(
    "prepare",
    "Make a data set from a raw log.",
    "diginetica --from train-item-views.csv",
    "lastfm --from lastfm-dataset-1K.tar.gz",
    "shop --from log.csv --session-col visit --item-col product --time-col time",
    "radio --from plays.tsv --user-col user --gap 30m --item-col track --time-col at",
)
@click.argument("name")
@option("--from", "source", required=True, metavar="FILE", help="The log, or the archive with it.")
@option("--recipe", help="The data set whose rules to follow. [default: NAME]")
@column("--item-col", "item", help=ITEM)
@column("--time-col", "time", help=TIME)
@option("--time-format", "clock", metavar="FORMAT", help=CLOCK)
@column("--session-col", "session", help="The session; or give --user-col and --gap.")
@column("--user-col", "user", help="The user. With --session-col too, each session belongs to one user.")
@option("--gap", metavar="SPAN", help=GAP)
@option("--separator", help="Character between fields. [default: found from the header]")
@option("--encoding", metavar="NAME", help=ENCODING)
@option("--missing", multiple=True, metavar="TEXT", help=MISSING)
@option("--min-clicks", "least_clicks", type=Integer(1), help=RARE)
@option("--longest", type=Integer(2), help="Keep only this many clicks of a session, the first ones.")
@option("--top-items", "top", type=Integer(1), help="Keep only this many items, the most clicked ones.")
@option("--drop-repeats", is_flag=True, help="Drop clicks on the item clicked just before.")
@option("--test-share", type=float, help=SHARE)
@option("--test-last", metavar="SPAN", help=LAST)
@force
@data_dir
def prepare(name: str, source: str, recipe: str | None, force: bool, data_dir: str | None, **own: Any) -> None:
    """Make the data set NAME from a raw log, by the rules of a recipe or by your own."""
    from dissect.data import bring

    report(*bring.from_log(name, Path(source), recipe, data_dir, force, **own))


@verb(
    "import",
    "Import a split from exchange files.",
    "diginetica-srgnn --format srgnn all_train_seq.txt test.txt",
    "gowalla --format lessr train.txt test.txt",
    "mine --format lessr --first-id 1 train.txt test.txt",
    "shop --format recbole shop.train.inter shop.valid.inter shop.test.inter",
    "quick --format srgnn all_train_seq.txt test.txt --recent 1/8",
)
@click.argument("name")
@in_format(type=FORMATS, help=FORMAT)
@click.argument("files", nargs=-1, type=click.Path(path_type=Path), required=True, metavar="TRAIN [VALID] TEST")
@option("--recent", default="1", show_default=True, metavar="SHARE", help=RECENT)
@option("--items", "n_items", type=Integer(1, 2**31 - 1), help=ITEMS)
@option("--first-id", type=Integer(0, 2**31 - 1), help=FIRST)
@force
@data_dir
def import_(name: str, format: str, files: tuple[Path, ...], force: bool, data_dir: str | None, **how: Any) -> None:
    """Import TRAIN and TEST files as the data set NAME; a VALID file joins the training sessions."""
    from dissect.data import bring

    report(*bring.from_files(name, format, files, data_dir, force, **how))


@verb("export", None, "diginetica --format recbole", "demo-walk --format srgnn --out walk")
@click.argument("name")
@in_format(type=FORMATS, help="As for import.")
@option("--out", metavar="DIR", help="Folder for the files. [default: NAME-FORMAT]")
@option("--validation", type=float, default=VALIDATION_SHARE, show_default=True, help=VALIDATION)
@option("--force", is_flag=True, help="Replace the folder.")
@data_dir
def export(name: str, format: str, out: str | None, validation: float, force: bool, data_dir: str | None) -> None:
    """Write a data set in the file formats of other projects."""
    from dissect.data import catalog
    from dissect.data.export import export as write
    from dissect.text import as_name

    dataset = catalog.load(name, data_dir)
    folder, files = write(dataset, format, Path(out or f"{dataset.name}-{format}"), validation, force)
    click.echo("\n".join(map(str, sorted(folder.iterdir()))))
    paths = shlex.join(str(folder / file) for file in files)
    back = f"dissect data import {as_name(f'{dataset.name}-copy')} --format {format} {paths}"
    click.echo(f"Back again: {back}{f' --data-dir {shlex.quote(data_dir)}' if data_dir else ''}")


@verb("list", None, "")
@data_dir
@as_json
def list_(data_dir: str | None, as_json: bool) -> None:
    """List the data sets here, and those you can bring in."""
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
@option("--markdown", is_flag=True, help="A table for a document.")
@data_dir
@as_json
def stats(names: tuple[str, ...], markdown: bool, data_dir: str | None, as_json: bool) -> None:
    """Count data sets: Table 1 of the paper (whose "sessions" are prefixes), and more.

    The graph of a session is a chain if no item repeats. It is a chain but for loops if items repeat only right after
    themselves.
    """
    from rich.console import Console

    from dissect.cli import screen
    from dissect.data import catalog
    from dissect.data.stats import statistics
    from dissect.tables.counts import views_of_statistics
    from dissect.tables.text import NO_LIMIT, as_text

    counted = [statistics(catalog.load(name, data_dir)) for name in names]
    if as_json:
        screen.show_json({column["name"]: column for column in counted})
        return
    views = views_of_statistics(counted, NO_LIMIT if markdown else Console().width)
    screen.put(as_text(views, "markdown"), None) if markdown else screen.show(*views, sep="\n\n")


def report(*made: Any) -> None:
    """Print what is known of a data set that was made; warnings go to stderr."""
    from dissect.data import bring

    for line, is_warning in bring.report(*made):
        click.echo(line, err=is_warning)


@contextmanager
def progress_bar(source: Any) -> Iterator[Callable[[int, int | None], None]]:
    """A bar on stderr for a download, if that is a terminal."""
    from rich import progress as rich

    from dissect.progress import bars

    kinds = rich.BarColumn, rich.DownloadColumn, rich.TransferSpeedColumn, rich.TimeRemainingColumn
    with bars(rich.TextColumn("{task.description}", markup=False), *(kind() for kind in kinds)) as shown:
        task = shown.add_task(source.file, total=source.size)
        yield lambda done, total: shown.update(task, completed=done, total=total or source.size)
