"""dissect recommend: what a trained model puts first after a session, or after each of a file."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import click

from dissect.cli import options

if TYPE_CHECKING:
    from dissect.training.recommend import Recommended

PATIENCE = 2.0  # seconds before progress is shown


@click.command(
    epilog="""\b
Examples:
  dissect recommend runs/srgnn-demo-58ce72c0/s1 --session 12,7,99
  dissect recommend srgnn-demo --session 12,7,99 --k 5 --unseen --json
  dissect recommend srgnn-shop --session sku-881,sku-17 --identifiers
  dissect recommend srgnn-shop --sessions today.txt --identifiers --json"""
)
@click.argument("run")
@click.option("--session", metavar="ITEMS", help="Item numbers in the order of the clicks: 12,7,99")
@click.option("--sessions", "file", metavar="FILE", help="A session a line, written as for --session.")
@click.option(
    "--identifiers",
    "by_identifier",
    is_flag=True,
    help="Sessions name items as the log or the files do; quotes go around a name with a comma.",
)
@click.option("--k", type=click.IntRange(1), default=20, show_default=True, help="Length of the list.")
@click.option("--unseen", is_flag=True, help="Leave out the items of the session.")
@options.own_model
@options.device
@options.runs_dir
@options.data_dir
@options.as_json
@options.quiet
def command(
    run: str,
    session: str | None,
    file: str | None,
    by_identifier: bool,
    k: int,
    unseen: bool,
    model: str | None,
    device: str,
    runs_dir: str,
    data_dir: str | None,
    as_json: bool,
    quiet: bool,
) -> None:
    """The K items with the highest scores after a session, by the trained model of RUN.

    RUN is a seed's folder, or a group with one seed. Items are numbered as in its data set; where its log or files
    call them otherwise, that stands beside the numbers. The probability is that of the softmax over the whole
    catalogue; a baseline has none.

    For a file of sessions it prints CSV, with --json JSON lines: a row for each session (the number of its line) and
    rank. In CSV, an identifier that a spreadsheet would take for a formula has a ' before it; --json has identifiers
    exactly. By identifier, clicks on items that the model does not know are left out and counted.
    """
    from functools import partial
    from pathlib import Path

    from dissect.errors import UsageError
    from dissect.experiment.opened import (
        data_of,
        finished_run,
        read_identified,
        read_session,
        read_sessions,
        trained_model,
    )
    from dissect.runs import files
    from dissect.training.recommend import recommend

    if (session is None) == (file is None):
        raise UsageError("Give one session, or a file of them.", "--session 12,7,99, or --sessions FILE")
    notes = (lambda text: None) if quiet else options.say
    record = finished_run(run, runs_dir)
    identifiers = files.read_identifiers(record.group, record.n_items)
    if file is not None:
        sessions, says = read_sessions(Path(file), record.n_items, identifiers, by_identifier)
        if says:
            notes(says)
    elif by_identifier:
        sessions = {1: read_identified(str(session), identifiers)}
    else:
        sessions = {1: read_session(str(session), record.n_items, bool(identifiers))}
    own = partial(data_of, record, partial(options.load, say=notes), data_dir)
    found, _, where = trained_model(record, own, max(map(len, sessions.values())), model, device)
    answers = recommend(found, list(sessions.values()), record.n_items, where, k, unseen, record.config.longest)
    if file is not None:
        lists = zip(sessions, _with_progress(answers, len(sessions), options.console(quiet)), strict=True)
        _print_rows(({"session": at, **row} for at, found in lists for row in _rows(found, identifiers)), as_json)
        return
    rows = _rows(next(answers), identifiers)
    if not rows:
        raise UsageError("The session has every item: with --unseen nothing is left.", "Leave --unseen out.")
    _print_list(str(record.run), sessions[1], identifiers, rows, as_json)


def _rows(found: Iterable[Recommended], identifiers: list[int | str] | None) -> list[dict[str, Any]]:
    return [
        {
            "rank": rank,
            "item": each.item,
            **({"identifier": identifiers[each.item - 1]} if identifiers else {}),
            "score": each.score,
            "probability": each.probability,
        }
        for rank, each in enumerate(found, 1)
    ]


def _with_progress(answers: Iterator[list[Recommended]], total: int, console: Any) -> Iterator[list[Recommended]]:
    """The answers as they come; on a terminal, with a bar once they take a while."""
    import time

    from rich.progress import Progress

    began = time.monotonic()
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("sessions", total=total, visible=False)
        for answer in answers:
            progress.update(task, advance=1, visible=time.monotonic() - began > PATIENCE)
            yield answer


def _print_rows(rows: Iterable[dict[str, Any]], as_json: bool) -> None:
    """CSV with a header, or JSON lines; on a terminal, CSV shows as escapes what could steer it."""
    import csv
    import json
    import sys

    from dissect.text import shown, without_formula

    def cell(value: Any) -> Any:
        safe = without_formula(value)
        return shown(safe) if isinstance(safe, str) and sys.stdout.isatty() else safe

    writer = csv.writer(sys.stdout, lineterminator="\n")
    for number, row in enumerate(rows):
        if as_json:
            print(json.dumps(row))
            continue
        if number == 0:
            writer.writerow(row)
        writer.writerow(map(cell, row.values()))


def _print_list(
    run: str, clicks: list[int], identifiers: list[int | str] | None, rows: list[dict[str, Any]], as_json: bool
) -> None:
    import json

    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from dissect.text import shown

    if as_json:
        named = {"identifiers": [identifiers[item - 1] for item in clicks]} if identifiers else {}
        print(json.dumps({"run": run, "session": clicks, **named, "items": rows}, indent=1))
        return
    called = [f"{item} ({shown(identifiers[item - 1])})" if identifiers else str(item) for item in clicks]
    table = Table(box=None, padding=(0, 2, 0, 0))
    for name in rows[0]:
        table.add_column(name, justify="left" if name == "identifier" else "right")
    for row in rows:
        *names, score, p = row.values()
        table.add_row(*(escape(shown(name)) for name in names), f"{score:.4f}", "-" if p is None else f"{p:.4f}")
    Console().print(f"{run} after {', '.join(called)}", highlight=False, markup=False, soft_wrap=True)
    Console().print(table)
