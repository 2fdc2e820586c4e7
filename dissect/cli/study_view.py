"""What `dissect study` prints and writes."""

from __future__ import annotations

import math
import re
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from rich.text import Text

from analyses import study
from analyses.entries import JUDGED
from analyses.studies import STUDIES, find_study
from dissect import drawing
from dissect.cli import claims_view, options, screen, tune_view
from dissect.data.sessions import Dataset
from dissect.errors import UsageError
from dissect.progress import observer
from dissect.runs.records import EVERY
from dissect.studied import Studied, studied, time_left
from dissect.tables import results
from dissect.tables.counts import view_of_counts
from dissect.text import plural
from dissect.usual import FIGURES


def listed(as_json: bool) -> None:
    """The studies, with their questions."""
    if as_json:
        screen.show_json({name: each.question for name, each in STUDIES.items()})
        return
    table = screen.plain(("study", "arms", "question"), ("arms",))
    for name, each in STUDIES.items():
        table.add_row(name, str(len(each.arms)), each.question)
    screen.show(table)


def shown(name: str, as_json: bool) -> None:
    """The arms of a study."""
    found = find_study(name)
    for arm in found.arms:
        study.arguments(arm, study.size_of("quick"))  # refuses what does not exist, as `study run` does
    if as_json:
        screen.show_json(asdict(found))
        return
    if found.shows == "claims":
        claims_view.listed()
        return
    title = Text(f"\n{found.name}: {found.question}", "bold")
    if not found.arms:
        screen.show(title, f"It trains nothing. See it: dissect study table {found.name}", sep="\n")
        return
    has_paper = any("diginetica" in arm.printed for arm in found.arms)
    table = screen.plain(("arm", "model", "how", *["paper, Diginetica"] * has_paper))
    for arm in found.arms:
        words = [arm.preset or "", *(f"{key}={value}" for key, value in {**arm.options, **arm.settings}.items())]
        words += [f"without {', '.join(arm.without)}" if arm.without else "", "" if arm.verb == "train" else arm.verb]
        printed = arm.printed.get("diginetica")
        says = f"{printed.hr:.2f} / {printed.mrr:.2f}" if printed else ""
        table.add_row(arm.label, arm.model, ", ".join(filter(None, words)), *[says] * has_paper)
    screen.show(title, table, sep="\n")


def planned(name: str, dataset: str, data_dir: str | None, quiet: bool = False, **given: Any) -> Studied:
    """The study on a data set, as a command asks for it; with `quiet` it says nothing of itself."""
    return studied(name, options.loader()(dataset, data_dir), say=partial(options.say, quiet=quiet), **given)


def trained(shard: str | None, device: str, quiet: bool, **given: Any) -> None:
    """Train what is missing, and print the table."""
    how = {"device": device, "observe": partial(observer, quiet=quiet)}
    asked = planned(**given, quiet=quiet, how=how)
    if asked.study.shows == "data":
        print_data(asked.data)
        return
    asked.run(part_of(shard))
    if asked.study.shows == "claims":
        claims_view.show(asked.data, dict(asked.size), given)
    elif sum(bool(row) for row in asked.status()["done"]) > 1:
        print_table(asked)


def tune_all(trials: int, timeout: float | None, device: str, quiet: bool, **given: Any) -> None:
    """Tune what a study trains, one after the other, with equally many trials."""
    how = {"device": device, "observe": partial(observer, quiet=quiet, stays=False)}
    for model, folder in planned(**given, quiet=quiet, how=how).tune(trials, timeout):
        tune_view.show(folder, model, data_dir=given["data_dir"])


def part_of(shard: str | None) -> tuple[int, int]:
    """(i, n) of "i/n". Raises UsageError for another text."""
    if match := re.fullmatch(r"(\d{1,9})/(\d{1,9})", shard or "1/1"):
        number, of = map(int, match.groups())
        if 1 <= number <= of:
            return number, of
    raise UsageError(f"--shard is i/n with i from 1 to n, such as 2/4, not {shard}.")


def stand(as_json: bool, **given: Any) -> None:
    """How far a study is."""
    asked = planned(**given)
    name = asked.study.name
    if not asked.jobs:
        raise UsageError(f"{name} trains nothing.", f"See it: dissect study table {name}")
    rows = asked.status()
    if as_json:
        print(rows.to_json(orient="records", indent=1))
        return
    title = (
        f"\n{name} on {asked.data.name}: {rows['done'].sum()} of {plural(rows['wanted'].sum(), 'training')} finished"
    )
    numbers = ("seeds", "min each", "HR@20", "MRR@20")
    table = screen.plain(("arm", *numbers), numbers)
    for row in rows.assign(minutes=rows["seconds"] / 60).to_dict("records"):
        cells = ("" if math.isnan(row[name]) else f"{row[name]:.2f}" for name in ("minutes", "hr@20", "mrr@20"))
        table.add_row(row["label"], f"{row['done']} of {row['wanted']}", *cells)
    screen.show(Text(title, "bold"), table, sep="\n")
    if (rows["done"] < rows["wanted"]).any():
        screen.show(f"  {time_left(rows)}")


def answered(out: str | None, all_metrics: bool, as_json: bool, **given: Any) -> None:
    """The table of a study."""
    asked = planned(**given)
    if all_metrics and asked.study.shows in ("data", "claims"):
        raise UsageError(f"--all-metrics has no effect on {asked.study.name}.", "Leave it out.")
    if asked.study.shows == "data":
        print_data(asked.data, out, as_json)
    elif asked.study.shows == "claims":
        claims_view.show(asked.data, dict(asked.size), given, out, as_json)
    else:
        print_table(asked, out, all_metrics, as_json)


def print_table(asked: Studied, out: str | None = None, all_metrics: bool = False, as_json: bool = False) -> None:
    """The finished arms side by side, on the screen or in a file."""
    table, form = study.compared(asked.study, asked.jobs), screen.chosen_form(None, out, as_json)
    views = results.views_of_study(asked.study, table, EVERY if all_metrics else JUDGED)

    def to_csv() -> dict[str, str]:
        return {"": results.to_csv([table.rows]), "-pairs": results.to_csv([table.pairs])}

    screen.write(views, form, out, lambda: results.to_json([table]), to_csv, results.notes_of([table]))


def print_data(data: Dataset, out: str | None = None, as_json: bool = False) -> None:
    """Table 1: the counts of a data set beside the paper's, on the screen or in a file."""
    form, rows = screen.chosen_form(None, out, as_json), study.counts(data)
    to_json = partial(rows.to_json, orient="records", indent=1)
    screen.write([view_of_counts(data)], form, out, to_json, lambda: {"": rows.to_csv(index=False)})


def drawn(out: str | None, **given: Any) -> None:
    """The figures of a study, and their files."""
    asked = planned(**given)
    folder = Path(out) if out else asked.runs_dir / FIGURES
    for each in drawing.of_study(asked.study, asked.data.name, dict(asked.size), asked.jobs):
        print(each.caption, *each.save(folder), sep="\n")
