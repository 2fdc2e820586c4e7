"""Models on the screen: their accuracy, what they recommend, what they are made of."""

from __future__ import annotations

import csv
import json
import sys
import time
from collections.abc import Iterable, Iterator
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import Progress
from rich.table import Table

from dissect.sparsevd import in_words
from dissect.text import shown, without_formula
from models import MODELS

Rows = list[dict[str, Any]]
PATIENCE = 2.0  # seconds before progress is shown


def show_accuracy(found: dict[str, Any]) -> None:
    """Print the accuracy; and, where the model does not know every target, how many misses that makes."""
    screen, names = Console(highlight=False), [name for name in found if "@" in name]
    screen.print(
        "{run}, step {step:,}; {dataset}, {split}: {n:,} prefixes, ties {ties}".format(**found),
        markup=False,
        soft_wrap=True,
    )
    rows = {"all prefixes": found}
    if found.get("unknown_targets") or found.get("without_known_click"):  # else both rows would be the same
        rows["known targets"] = found["known_targets"]
        says = (
            "Counted as misses: {unknown_targets:,} prefixes whose target the model does not know, and "
            "{without_known_click:,} without a click that it knows."
        )
        screen.print(says.format(**found), soft_wrap=True)
    table = Table(box=None, padding=(0, 2, 0, 0))
    for name in [*([""] if len(rows) > 1 else []), *names]:
        table.add_column(name.upper(), justify="right" if name else "left")
    for title, row in rows.items():
        table.add_row(*([title] if len(rows) > 1 else []), *(f"{row[name]:.2f}" for name in names))
    screen.print(table)


def with_progress(answers: Iterator[Rows], total: int, console: Any) -> Iterator[Rows]:
    """The answers as they come; on a terminal, with a bar once they take a while."""
    began = time.monotonic()
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("sessions", total=total, visible=False)
        for answer in answers:
            progress.update(task, advance=1, visible=time.monotonic() - began > PATIENCE)
            yield answer


def print_rows(rows: Iterable[dict[str, Any]], as_json: bool) -> None:
    """CSV with a header, or JSON lines; on a terminal, CSV shows as escapes what could steer it."""

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


def print_list(run: str, clicks: list[int], identifiers: list[int | str] | None, rows: Rows, as_json: bool) -> None:
    """What comes after one session."""
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


def list_models(as_json: bool) -> None:
    console = Console()
    if as_json:
        print(json.dumps(sorted(MODELS)))
        return
    table = Table("model", "what it is", "can do without", box=None, padding=(0, 2, 0, 0))
    for known, cls in MODELS.items():
        removable = ", ".join(cls.removable) or ("-" if cls.learns else "- (a baseline, without weights)")
        table.add_row(known, (cls.__doc__ or "").strip().splitlines()[0], removable)
    console.print(table)
    console.print("More of one: dissect models NAME, or path/to/file.py:ClassName of your own", highlight=False)


def show_model(model: dict[str, Any]) -> None:
    console = Console(highlight=False)
    if not model["parameters"]:
        console.print(
            f"{model['model']} is a baseline: it has no weights. Rank with it: dissect train {model['model']}"
        )
        show_options(model, console)
        return
    width = f"D = {model['dim']}, " if model["dim"] is not None else ""
    table = Table(
        title=f"{model['model']}, {width}V = {model['items']:,}: {model['parameters']:,} parameters",
        title_justify="left",
        box=None,
        padding=(0, 1, 0, 0),
    )
    for column in ("matrix", "shape", "weights", "role", "module", "dissected", "blocks"):
        table.add_column(column, justify="right" if column == "weights" else "left", no_wrap=column != "blocks")
    for row in model["matrices"]:
        shape = "×".join(map(str, row["shape"])) if row["shape"] else f"{len(row['shapes'])} matrices"
        dissected = "yes" if not row["reason"] else "in part" if row["dissected"] else "no"
        texts = (row["role"] or "other", row["module"] or "-", dissected, " ".join(row["blocks"]))
        table.add_row(*map(escape, (row["matrix"], shape, f"{row['parameters']:,}", *texts)))
    console.print(table)
    for role, share in model["roles"].items():
        if share["share"] < 1:
            console.print(f"{role}: {in_words(share)}.", markup=False, style="yellow")
    for row in model["matrices"]:
        if row["role"] is None and row["reason"]:
            console.print(f"{row['matrix']}, no role: {row['reason']}.", markup=False, style="yellow")
    rest = model["parameters"] - sum(row["parameters"] for row in model["matrices"])
    console.print(f"The rest, {rest:,}: item table, biases and norms, which stay as they are.")
    show_options(model, console)


def show_options(model: dict[str, Any], console: Console) -> None:
    told = [f"{name}={_text(value)}" for name, value in model["options"].items()]
    console.print(f"Options (--option), with their defaults: {', '.join(told) or 'none'}", markup=False)
    for preset, values in model["presets"].items():
        says = ", ".join(f"{name}={_text(value)}" for name, value in values.items())
        console.print(f"--preset {preset}: {says}", markup=False)


def _text(value: Any) -> str:
    """A value as --option takes it."""
    return str(value).lower() if value is None or isinstance(value, bool) else str(value)
