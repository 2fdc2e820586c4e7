"""dissect recommend: what a trained model puts first after a session."""

from __future__ import annotations

import click

from dissect.cli import options


@click.command(
    epilog="""\b
Examples:
  dissect recommend runs/srgnn-demo-58ce72c0/s1 --session 12,7,99
  dissect recommend srgnn-demo --session 12,7,99 --k 5 --unseen --json
  dissect recommend srgnn-shop --session sku-881,sku-17 --identifiers"""
)
@click.argument("run")
@click.option("--session", required=True, metavar="ITEMS", help="Item numbers in the order of the clicks: 12,7,99")
@click.option(
    "--identifiers",
    "by_identifier",
    is_flag=True,
    help="The session names items as the log or the files do; quotes go around a name with a comma.",
)
@click.option("--k", type=click.IntRange(1), default=20, show_default=True, help="Length of the list.")
@click.option("--unseen", is_flag=True, help="Leave out the items of the session.")
@options.own_model
@options.device
@options.runs_dir
@options.data_dir
@options.as_json
def command(
    run: str,
    session: str,
    by_identifier: bool,
    k: int,
    unseen: bool,
    model: str | None,
    device: str,
    runs_dir: str,
    data_dir: str | None,
    as_json: bool,
) -> None:
    """The K items with the highest scores after a session, by the trained model of RUN.

    RUN is a seed's folder, or a group with one seed. Items are numbered as in its data set; where its log or files
    call them otherwise, that stands beside the numbers. The probability is that of the softmax over the whole
    catalogue; a baseline has none.
    """
    import json

    import torch
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from dissect import runs
    from dissect.cli.trained import finished_run, read_identified, read_session, scores_after, shown, trained_model
    from dissect.errors import UsageError
    from models import BASELINES

    record = finished_run(run, runs_dir)
    identifiers = runs.read_identifiers(record.group, record.n_items)
    clicks = (
        read_identified(session, identifiers)
        if by_identifier
        else read_session(session, record.n_items, bool(identifiers))
    )
    found, _, where = trained_model(record, model, device, data_dir, Console(stderr=True))
    # All of them where `longest` is 0.
    scores = scores_after(found, clicks[-record.config.longest :], where).cpu()
    probability = scores.double().softmax(0)
    order = torch.argsort(scores, descending=True, stable=True)
    if unseen:
        order = order[~torch.isin(order, torch.tensor(clicks) - 1)]
    if not len(order):
        raise UsageError("The session has every item: with --unseen nothing is left.", "Leave --unseen out.")
    rows = [
        {
            "rank": rank,
            "item": row + 1,
            **({"identifier": identifiers[row]} if identifiers else {}),
            "score": float(scores[row]),
            "probability": None if record.config.model in BASELINES else float(probability[row]),
        }
        for rank, row in enumerate(order[:k].tolist(), 1)
    ]
    if as_json:
        named = {"identifiers": [identifiers[item - 1] for item in clicks]} if identifiers else {}
        print(json.dumps({"run": str(record.run), "session": clicks, **named, "items": rows}, indent=1))
        return
    called = [f"{item} ({shown(identifiers[item - 1])})" if identifiers else str(item) for item in clicks]
    title = f"{record.run} after {', '.join(called)}"
    table = Table(box=None, padding=(0, 2, 0, 0))
    for name in rows[0]:
        table.add_column(name, justify="left" if name == "identifier" else "right")
    for row in rows:
        *names, score, p = row.values()
        table.add_row(*(escape(shown(name)) for name in names), f"{score:.4f}", "-" if p is None else f"{p:.4f}")
    Console().print(title, highlight=False, markup=False, soft_wrap=True)
    Console().print(table)
