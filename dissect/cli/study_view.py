"""What `dissect study` prints and writes."""

from __future__ import annotations

import json
import math
import re
import time
from collections.abc import Collection
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
from rich.console import Console

from analyses import claims, compare, paper, study
from analyses.entries import JUDGED
from analyses.studies import STUDIES, Study, find_study, only
from dissect.cli import INTERRUPTED, claims_view, compare_view, options
from dissect.cli.live import observer
from dissect.cli.text_table import Column, TextTable, plain
from dissect.data.sessions import Dataset
from dissect.errors import DissectError, UsageError
from dissect.reporting.tables import plural
from dissect.runs.records import EVERY
from dissect.studied import Studied


def listed(as_json: bool) -> None:
    """The studies, with their questions."""
    if as_json:
        print(json.dumps({name: each.question for name, each in STUDIES.items()}, indent=1))
        return
    table = plain(("study", "arms", "question"), ("arms",))
    for name, each in STUDIES.items():
        table.add_row(name, str(len(each.arms)), each.question)
    Console().print(table)


def shown(name: str, as_json: bool) -> None:
    """The arms of a study."""
    found = find_study(name)
    if as_json:
        print(json.dumps(asdict(found), indent=1, default=str))
        return
    if found.shows == "claims":
        claims_view.listed()
        return
    title = f"\n{found.name}: {found.question}"
    if not found.arms:
        says = f"It trains nothing. See it: dissect study table {found.name}"
        Console(highlight=False, markup=False).print(f"{title}\n{says}")
        return
    has_paper = any("diginetica" in arm.printed for arm in found.arms)
    table = plain(("arm", "model", "how", *["paper, Diginetica"] * has_paper), (), title)
    for arm in found.arms:
        words = [arm.preset or "", *(f"{key}={value}" for key, value in {**arm.options, **arm.settings}.items())]
        words += [f"without {', '.join(arm.without)}" if arm.without else "", "" if arm.verb == "train" else arm.verb]
        printed = arm.printed.get("diginetica")
        says = f"{printed.hr:.2f} / {printed.mrr:.2f}" if printed else ""
        table.add_row(arm.label, arm.model, ", ".join(filter(None, words)), *[says] * has_paper)
    Console().print(table)


def planned(
    name: str,
    dataset: str,
    runs_dir: str,
    data_dir: str | None,
    tuned: bool = False,
    arms: Collection[str] = (),
    **given: Any,
) -> Studied:
    """The study, or only some of its arms, on a data set at a size."""
    found = only(find_study(name), arms)
    found, data = claims.whole(found), options.loader()(dataset, data_dir)
    size = study.size_of(**given)
    if tuned:
        size["tuned"] = study.tuned_arms(found, data, size, runs_dir)
        if lacking := [arm.label for arm in found.arms if arm.label not in size["tuned"]]:
            options.say(f"Without tuned settings: {'; '.join(lacking)}.")
    return Studied(found, data, size, Path(runs_dir))


def trained(shard: str | None, device: str, quiet: bool, **given: Any) -> None:
    """Train what is missing, and print the table."""
    asked = planned(**given)
    found, todo, size = asked.study, asked.jobs, dict(asked.size)
    if found.shows == "data":
        print_data(asked.data)
        return
    number, of = part_of(shard)
    mine = todo[number - 1 :: of]
    say = options.say_on(options.console(quiet))
    left = [job for job in mine if not job.is_complete]
    in_all = plural(len(todo), "training")
    say(f"{found.name}: {in_all}, {sum(job.is_done for job in todo)} finished; {len(left)} to do here.")
    watch = partial(observer, threshold=3.0, quiet=quiet)
    for count, job in enumerate(study.perform(left, size, say, device=device, observe=watch), 1):
        seconds = study.seconds_left(study.status(mine))
        wait = f" {in_words(seconds)} left." if count < len(left) else ""
        say(f"{count} of {len(left)}: {job.arm.label}, seed {job.seed}.{wait}")
    if found.shows == "claims":
        claims_view.show(asked.data, size, given)
    elif sum(bool(row) for row in study.status(todo)["done"]) > 1:
        print_table(asked)


def tune_all(trials: int, timeout: float | None, device: str, quiet: bool, **given: Any) -> None:
    """Tune what a study trains, one after the other, with equally many trials."""
    from dissect.cli.tune_view import observer, show
    from dissect.experiment.trials import require_optuna
    from dissect.experiment.tune import require_hours, tune

    require_optuna()
    require_hours(timeout)
    asked = planned(**given)
    say, ends = options.say_on(options.console(quiet)), time.monotonic() + 3600 * (timeout or math.inf)
    todo, _ = study.to_tune(asked.study, dict(asked.size)), asked.jobs  # planned, so that wrong arms are refused
    failed: list[DissectError] = []
    for count, (label, about) in enumerate(todo.items(), 1):
        say(f"{count} of {len(todo)}: {label}.")
        if (hours := (ends - time.monotonic()) / 3600) <= 0:
            say("The time is over; the same command goes on.")
            return
        how: dict[str, Any] = {"timeout": hours if timeout else None, "device": device, "say": say}
        how |= {"runs_dir": given["runs_dir"], "observe": partial(observer, quiet=quiet)}
        try:
            folder = tune(model := about.pop("model"), asked.data, trials=trials, **how, **about)
        except DissectError as error:
            if error.exit_code == INTERRUPTED or isinstance(error.__cause__, OSError):  # no arm's fault
                raise
            say(f"{label} is left out: {error.message}")
            failed.append(error)
            continue
        show(folder, model)
    if failed and len(failed) == len(todo):
        raise failed[0]


def part_of(shard: str | None) -> tuple[int, int]:
    """(i, n) of "i/n". Raises UsageError for another text."""
    if match := re.fullmatch(r"(\d{1,9})/(\d{1,9})", shard or "1/1"):
        number, of = map(int, match.groups())
        if 1 <= number <= of:
            return number, of
    raise UsageError(f"--shard is i/n with i from 1 to n, such as 2/4, not {shard}.")


def in_words(seconds: float) -> str:
    """A time to wait."""
    if math.isnan(seconds):
        return "An unknown time"
    minutes = seconds / 60
    return f"About {minutes / 60:.1f} h" if minutes > 90 else f"About {max(1, round(minutes))} min"


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
    title = f"\n{name} on {asked.data.name}: {rows['done'].sum()} of {rows['wanted'].sum()} trainings are finished"
    table = plain(("arm", "seeds", "min each", "HR@20", "MRR@20"), ("seeds", "min each", "HR@20", "MRR@20"), title)
    for row in rows.assign(minutes=rows["seconds"] / 60).to_dict("records"):
        numbers = (row[name] for name in ("minutes", "hr@20", "mrr@20"))
        cells = ("" if math.isnan(value) else f"{value:.2f}" for value in numbers)
        table.add_row(row["label"], f"{row['done']} of {row['wanted']}", *cells)
    Console().print(table)
    if (rows["done"] < rows["wanted"]).any():
        Console().print(f"  {in_words(study.seconds_left(rows))} of training left.")


def answered(out: str | None, all_metrics: bool, as_json: bool, **given: Any) -> None:
    """The table of a study."""
    asked = planned(**given)
    if asked.study.shows == "data":
        print_data(asked.data, out, as_json)
    elif asked.study.shows == "claims":
        claims_view.show(asked.data, dict(asked.size), given, out, as_json)
    else:
        print_table(asked, out, all_metrics, as_json)


def print_table(asked: Studied, out: str | None = None, all_metrics: bool = False, as_json: bool = False) -> None:
    """The finished arms side by side, on the screen or in a file."""
    table = study.compared(asked.study, asked.jobs)
    form = compare_view.chosen_form(None, out, as_json)
    metrics = EVERY if all_metrics else JUDGED
    compare_view.write([table], form, out, lambda table: views_of(asked.study, table, metrics))


def views_of(found: Study, table: compare.Comparison, metrics: tuple[str, ...]) -> list[TextTable]:
    """The means with the paper's figures, then the pairs."""
    views = compare_view.views_of(table, metrics, bool(found.pairs))
    rows = table.rows
    if found.pairs and len(views) > 1:
        views[1] = replace(views[1], title=f"{found.name}: the pairs that it asks about")
    beside = [column for column in views[0].columns if column.name == "s/epoch"]  # a column of Table 2
    columns = [each for each in views[0].columns if each.name not in {"s/epoch", *compare.settings_apart(rows)}]
    if (printed := rows["paper mrr@20"].notna()).any():
        beside += paper_columns(rows, printed)
    notes = list(views[0].notes)
    if compare.settings_apart(rows):  # no columns: the labels of the arms stand for them
        notes.append("The settings of each arm: dissect study show, with the same study.")
    place = next(i for i, column in enumerate(columns) if column.name.startswith("MRR@20")) + 1
    title = f"{found.name}: {found.question} {views[0].title}"
    views[0] = replace(views[0], title=title, columns=[*columns[:place], *beside, *columns[place:]], notes=notes)
    return views


def paper_columns(rows: pd.DataFrame, printed: pd.Series) -> list[Column]:
    """What the paper prints for the rows that are `printed`, and how far ours are from it."""
    apart = rows[list(JUDGED)] - rows[[f"paper {name}" for name in JUDGED]].to_numpy()
    values = {"paper\nHR / MRR": compare_view.at_20(rows, "paper")}
    values["ours - paper\nHR / MRR"] = (
        apart[JUDGED[0]].map(compare_view.signed) + " / " + apart[JUDGED[1]].map(compare_view.signed)
    )
    values["paper\ns/epoch"] = rows["paper seconds"].map(compare_view.seconds)
    cells = {name: column.where(printed, "").tolist() for name, column in values.items()}
    return [Column(name, column, spare=name[0] != "p") for name, column in cells.items() if any(column)]


def print_data(data: Dataset, out: str | None = None, as_json: bool = False) -> None:
    """Table 1: the counts of a data set beside the paper's, on the screen or in a file."""
    from dissect.data.stats import ROWS

    form, rows = compare_view.chosen_form(None, out, as_json), study.counts(data)
    here, there = rows[data.name].map(number).tolist(), [None if math.isnan(x) else x for x in rows["paper"]]
    columns = [Column("", [ROWS[name] for name in rows["count"]]), Column(data.name, here)]
    if has_paper := None not in there:
        columns.append(Column("paper", [number(x) for x in there if x is not None]))
    log, notes = study.log_of(data.name), []
    if has_paper and data.name not in paper.SETS:
        notes = [f"Another split of the log than the paper's {log}: the counts need not be the same."]
    elif not has_paper:
        notes = [f"A part of the log of the paper's {log}." if log else "Not a data set of the paper."]
    view = TextTable(f"Table 1: {data.name} (split {data.split_hash})", columns, notes, f"tab:{data.name}")
    if form == "screen" and out is None:
        Console().print(view)
        return
    if form == "json":
        text = str(rows.to_json(orient="records", indent=1))
    else:
        text = str(rows.to_csv(index=False)) if form == "csv" else compare_view.as_text([view], form)
    compare_view.put(text, out)


def number(value: float) -> str:
    return f"{value:,.0f}" if value == int(value) else f"{value:,.2f}"


def drawn(out: str | None, **given: Any) -> None:
    """The figures of a study, and their files."""
    from dissect import drawing

    asked = planned(**given)
    folder = Path(out) if out else Path(given["runs_dir"]) / "figures"
    for each in drawing.of_study(asked.study, asked.data.name, dict(asked.size), asked.jobs):
        print(each.caption)
        for path in each.save(folder):
            print(path)
