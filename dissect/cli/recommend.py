"""dissect recommend: what a trained model puts first after a session, or after each of a file."""

from __future__ import annotations

from typing import Any

import click

from dissect.cli import options


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
    runs_dir: str,
    data_dir: str | None,
    as_json: bool,
    quiet: bool,
    **given: Any,
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

    from dissect.cli.models_view import print_list, print_rows, with_progress
    from dissect.errors import UsageError
    from dissect.experiment.opened import data_of, finished_run
    from dissect.experiment.recommended import read, recommended
    from dissect.runs import files

    if (session is None) == (file is None):
        raise UsageError("Give one session, or a file of them.", "--session 12,7,99, or --sessions FILE")
    screen = options.console(quiet)
    record, tell = finished_run(run, runs_dir), options.say_on(screen)
    identifiers = files.read_identifiers(record.group, record.n_items)
    sessions = read(session, file, record.n_items, identifiers, by_identifier, tell)
    data = partial(data_of, record, options.loader(tell), data_dir)
    answers = recommended(record, list(sessions.values()), data, identifiers, **given)
    if file is not None:
        lists = zip(sessions, with_progress(answers, len(sessions), screen), strict=True)
        print_rows(({"session": at, **row} for at, rows in lists for row in rows), as_json)
        return
    rows = next(answers)
    if not rows:
        raise UsageError("The session has every item: with --unseen nothing is left.", "Leave --unseen out.")
    print_list(str(record.run), sessions[1], identifiers, rows, as_json)
