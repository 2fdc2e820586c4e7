"""dissect recommend: the items that a trained model ranks first after a session, or after each session of a file."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Iterable, Iterator
from functools import partial
from typing import Any

import click

from dissect.cli import options
from dissect.text import shown, without_formula
from dissect.usual import LISTED

Rows = list[dict[str, Any]]
IDENTIFIERS = "Sessions name items as the log or the files do; a name with a comma needs quotes."


@options.verb(
    "recommend runs/srgnn-demo-c3707d9a/s1 --session 12,7,99",
    "recommend srgnn-demo --session 12,7,99 --k 5 --unseen --json",
    "recommend srgnn-shop --session sku-881,sku-17 --identifiers",
    "recommend srgnn-shop --sessions today.txt --identifiers --json",
)
@click.option("--session", metavar="ITEMS", help="Item numbers in the order of the clicks: 12,7,99")
@click.option("--sessions", "file", metavar="FILE", help="A file with a session a line, written as for --session.")
@click.option("--identifiers", "by_identifier", is_flag=True, help=IDENTIFIERS)
@click.option("--k", type=options.Integer(1), default=LISTED, show_default=True, help="Length of the list.")
@click.option("--unseen", is_flag=True, help="Leave out the items of the session.")
@options.of_run()
def command(
    run: str, runs_dir: str, data_dir: str | None, as_json: bool, quiet: bool, by_identifier: bool, **given: Any
) -> None:
    """List the K items that the trained model of RUN scores highest after a session.

    RUN is a seed's folder, a group with one seed, or an export (dissect export). Items have the numbers of its data
    set; if the log has its own names, the output shows them too. Probabilities come from the softmax over the whole
    catalogue; a baseline has none.

    For a file of sessions it prints CSV, or JSON lines with --json: a row for each session (by the number of its line)
    and rank. In CSV, an identifier that a spreadsheet would take for a formula gets a ' before it; --json has
    identifiers exactly. With --identifiers, clicks on items that the model does not know are left out and counted.
    """
    from pathlib import Path

    from dissect.cli import screen
    from dissect.errors import UsageError
    from dissect.experiment.opened import finished_run
    from dissect.experiment.recommended import read_session, read_sessions, recommended
    from dissect.experiment.recorded import data_of
    from dissect.runs import files
    from dissect.tables.models import recommended as view_of

    session, file = given.pop("session"), given.pop("file")
    if (session is None) == (file is None):
        raise UsageError("Give one session, or a file of them.", "--session 12,7,99, or --sessions FILE")
    record, tell = finished_run(run, runs_dir), partial(options.say, quiet=quiet)
    named = (record.n_items, files.read_identifiers(record.group, record.n_items), by_identifier)
    sessions = read_sessions(Path(file), *named, tell) if file is not None else {1: read_session(session, *named)}
    data = partial(data_of, record, options.loader(tell), data_dir)
    answers = recommended(record, list(sessions.values()), data, named[1], **given)
    if file is not None:
        lists = zip(sessions, with_progress(answers, len(sessions), quiet), strict=True)
        print_rows(({"session": at, **row} for at, rows in lists for row in rows), as_json)
        return
    rows = next(answers)
    if not rows:
        raise UsageError("The session has every item: with --unseen nothing is left.", "Leave --unseen out.")
    if as_json:
        by_name = {"identifiers": [named[1][item - 1] for item in sessions[1]]} if named[1] else {}
        screen.show_json({"run": str(record.run), "session": sessions[1], **by_name, "items": rows})
    else:
        screen.show(view_of(str(record.run), sessions[1], named[1], rows))


def with_progress(answers: Iterator[Rows], total: int, quiet: bool) -> Iterator[Rows]:
    """The answers as they come; on a terminal, with a bar if they take long."""
    from dissect.progress import telling

    with telling(quiet=quiet) as tell:
        for done, answer in enumerate(answers, 1):
            tell("sessions", done, total)
            yield answer


def print_rows(rows: Iterable[dict[str, Any]], as_json: bool) -> None:
    """CSV with a header, or JSON lines. On a terminal, CSV shows control characters as escapes."""

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
