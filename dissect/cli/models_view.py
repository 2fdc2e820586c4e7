"""Models on the screen: their accuracy, what they recommend, their matrices."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Iterable, Iterator
from typing import Any

from rich.text import Text

from dissect.cli.screen import plain, show
from dissect.progress import telling
from dissect.sparsevd import in_words
from dissect.tables.results import metric_in_words
from dissect.tables.text import Column, TextTable
from dissect.text import plural, shown, without_formula
from models import MODELS

Rows = list[dict[str, Any]]
TIES = {  # --ties in words
    "best": "ties in the target's favour",
    "worst": "ties against the target",
    "mean": "ties half-way",
}


def show_accuracy(found: dict[str, Any]) -> None:
    """Print the accuracy, and that over known targets if the model does not know every target."""
    title = "{run}, step {step:,}; {dataset}, {split}, percent, {ties}".format(**{**found, "ties": TIES[found["ties"]]})
    names, sets, notes = [name for name in found if "@" in name], {plural(found["n"], "prefix"): found}, []
    if found.get("unknown_targets") or found.get("without_known_click"):  # else both columns would be the same
        sets["known targets"] = found["known_targets"]
        notes = [
            f"Counted as misses: {plural(found['unknown_targets'], 'prefix')} whose target the model does not know, "
            f"and {found['without_known_click']:,} without a click that it knows."
        ]
    numbers = {head: ["-" if of[name] is None else f"{of[name]:.2f}" for name in names] for head, of in sets.items()}
    columns = [Column(head, of) for head, of in numbers.items()]
    show(TextTable(title, [Column("", [*map(metric_in_words, names)]), *columns], notes))


def with_progress(answers: Iterator[Rows], total: int, quiet: bool) -> Iterator[Rows]:
    """The answers as they come; on a terminal, with a bar if they take long."""
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


def print_list(run: str, clicks: list[int], identifiers: list[int | str] | None, rows: Rows, as_json: bool) -> None:
    """The items recommended after one session."""
    if as_json:
        named = {"identifiers": [identifiers[item - 1] for item in clicks]} if identifiers else {}
        print(json.dumps({"run": run, "session": clicks, **named, "items": rows}, indent=1))
        return
    called = [f"{item} ({shown(identifiers[item - 1])})" if identifiers else str(item) for item in clicks]
    table = plain([*rows[0]], rows[0].keys() - {"identifier"})
    for row in rows:
        *names, score, p = row.values()
        table.add_row(*map(shown, names), f"{score:.4f}", "-" if p is None else f"{p:.4f}")
    print(f"{run} after {', '.join(called)}")
    show(table)


def list_models() -> None:
    table = plain(["model", "description", "can do without"])
    for known, cls in MODELS.items():
        removable = ", ".join(cls.removable) or ("-" if cls.learns else "a baseline")
        table.add_row(known, (cls.__doc__ or "").strip().splitlines()[0], removable)
    show(table)
    print("More on one: dissect models NAME, or path/to/file.py:ClassName for your own")


def show_model(model: dict[str, Any]) -> None:
    if model["parameters"]:
        show_matrices(model)
    else:
        print(f"{model['model']} is a baseline: it has no weights. Rank with it: dissect train {model['model']}")
    told = [f"{name}={as_option(value)}" for name, value in model["options"].items()]
    show(f"Options (--option), with their defaults: {', '.join(told) or 'none'}")
    for preset, values in model["presets"].items():
        show(f"--preset {preset}: {', '.join(f'{name}={as_option(value)}' for name, value in values.items())}")


def show_matrices(model: dict[str, Any]) -> None:
    """The matrices of a model with their roles, what SparseVD leaves out, and the other parameters."""
    width = f"D = {model['dim']}, " if model["dim"] is not None else ""
    title = f"{model['model']}, {width}V = {model['items']:,}: {model['parameters']:,} parameters"
    table = plain(("matrix", "shape", "weights", "role", "module", "dissected", "blocks"), ("weights",), "blocks")
    for row in model["matrices"]:
        shape = "×".join(map(str, row["shape"])) if row["shape"] else f"{len(row['shapes'])} matrices"
        dissected = "yes" if not row["reason"] else "in part" if row["dissected"] else "no"
        texts = (row["role"] or "other", row["module"] or "-", dissected, " ".join(row["blocks"]))
        table.add_row(row["matrix"], shape, f"{row['parameters']:,}", *texts)
    show(Text(title, "bold"), table, sep="\n")
    partly = [f"{role}: {in_words(share)}." for role, share in model["roles"].items() if share["share"] < 1]
    nameless = [row for row in model["matrices"] if row["role"] is None and row["reason"]]
    for text in [*partly, *(f"{row['matrix']}, no role: {row['reason']}." for row in nameless)]:
        show(text, style="yellow")
    rest = model["parameters"] - sum(row["parameters"] for row in model["matrices"])
    show(f"The rest, {rest:,}: item table, biases and norms, which stay as they are.")


def as_option(value: Any) -> str:
    """A value as --option takes it."""
    return str(value).lower() if value is None or isinstance(value, bool) else str(value)
