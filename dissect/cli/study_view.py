"""What `dissect study` prints and writes."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Collection
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
from rich.console import Console

from analyses import compare, study
from analyses.entries import JUDGED
from analyses.studies import SCALES, STUDIES, Study, find_study
from dissect.cli import INTERRUPTED, compare_view, options
from dissect.cli.live import observer
from dissect.cli.text_table import Column, TextTable, plain, to_latex, to_markdown
from dissect.data.sessions import Dataset
from dissect.errors import DissectError, UsageError
from dissect.runs.records import METRICS


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
    table = plain(("arm", "model", "how", "paper, Diginetica"), (), f"\n{found.name}: {found.question}")
    for arm in found.arms:
        words = [arm.preset or "", *(f"{key}={value}" for key, value in arm.options.items())]
        words += [f"without {', '.join(arm.without)}" if arm.without else "", "" if arm.verb == "train" else arm.verb]
        printed = arm.printed.get("diginetica")
        says = f"{printed.hr:.2f} / {printed.mrr:.2f}" if printed else ""
        table.add_row(arm.label, arm.model, ", ".join(filter(None, words)), says)
    Console().print(table)


def planned(
    name: str,
    dataset: str,
    scale: str,
    dim: int | None,
    epochs: float | None,
    seeds: tuple[int, ...],
    runs_dir: str,
    data_dir: str | None,
    tuned: bool = False,
) -> tuple[Study, Dataset, dict[str, Any], list[study.Job]]:
    """The study, the data, its size, and its trainings."""
    found, data = find_study(name), options.loader()(dataset, data_dir)
    given = {"dim": dim, "epochs": epochs, "seeds": seeds or None}
    size = SCALES[scale] | {key: value for key, value in given.items() if value is not None}
    if tuned:
        size["tuned"] = study.tuned_arms(found, data, size, runs_dir)
        if lacking := [arm.label for arm in found.arms if arm.label not in size["tuned"]]:
            options.say(f"Without tuned settings: {'; '.join(lacking)}.")
    return found, data, size, study.jobs(found, data, size, runs_dir)


def trained(shard: str | None, device: str, quiet: bool, **given: Any) -> None:
    """Train what is missing, and print the table."""
    found, data, size, todo = planned(**given)
    if found.shows == "data":
        print_data(data)
        return
    number, of = part_of(shard)
    mine = todo[number - 1 :: of]
    say = options.say_on(options.console(quiet))
    left = [job for job in mine if not job.is_done]
    say(f"{found.name}: {len(todo)} trainings, {sum(job.is_done for job in todo)} finished; {len(left)} to do here.")
    watch = partial(observer, threshold=3.0, quiet=quiet)
    for count, job in enumerate(study.perform(left, size, say, device=device, observe=watch), 1):
        seconds = study.seconds_left(study.status(mine))
        wait = f" {in_words(seconds)} left." if count < len(left) else ""
        say(f"{count} of {len(left)}: {job.arm.label}, seed {job.seed}.{wait}")
    if sum(bool(row) for row in study.status(todo)["done"]) > 1:
        print_table(found, todo, tuned=size.get("tuned", {}))


def tune_all(trials: int, timeout: float | None, device: str, quiet: bool, **given: Any) -> None:
    """Tune what a study trains, one after the other, with equally many trials."""
    from dissect.cli.tune_view import observer, show
    from dissect.experiment.trials import require_optuna
    from dissect.experiment.tune import tune

    require_optuna()
    found, data, size, _ = planned(**given)
    say, ends = options.say_on(options.console(quiet)), time.monotonic() + 3600 * (timeout or math.inf)
    todo = study.to_tune(found, size)
    for count, (label, about) in enumerate(todo.items(), 1):
        say(f"{count} of {len(todo)}: {label}.")
        if (hours := (ends - time.monotonic()) / 3600) <= 0:
            say("The time is over; the same command goes on.")
            return
        how: dict[str, Any] = {"timeout": hours if timeout else None, "device": device, "say": say}
        how |= {"runs_dir": given["runs_dir"], "observe": partial(observer, quiet=quiet)}
        try:
            folder = tune(model := about.pop("model"), data, trials=trials, **how, **about)
        except DissectError as error:
            if error.exit_code == INTERRUPTED:
                raise
            say(f"{label} is left out: {error.message}")
            continue
        show(folder, model)


def part_of(shard: str | None) -> tuple[int, int]:
    """(i, n) of "i/n". Raises UsageError for another text."""
    number, _, of = (shard or "1/1").partition("/")
    if number.isdecimal() and of.isdecimal() and 1 <= int(number) <= int(of):
        return int(number), int(of)
    raise UsageError(f"--shard is i/n with i from 1 to n, such as 2/4, not {shard}.")


def in_words(seconds: float) -> str:
    """A time to wait."""
    if math.isnan(seconds):
        return "An unknown time"
    minutes = seconds / 60
    return f"About {minutes / 60:.1f} h" if minutes > 90 else f"About {max(1, round(minutes))} min"


def stand(as_json: bool, **given: Any) -> None:
    """How far a study is."""
    found, data, _, todo = planned(**given)
    if not todo:
        raise UsageError(f"{found.name} trains nothing.", f"See it: dissect study table {found.name}")
    rows = study.status(todo)
    if as_json:
        print(rows.to_json(orient="records", indent=1))
        return
    title = f"\n{found.name} on {data.name}: {rows['done'].sum()} of {rows['wanted'].sum()} trainings are finished"
    table = plain(("arm", "seeds", "min each", "HR@20", "MRR@20"), ("seeds", "min each", "HR@20", "MRR@20"), title)
    for row in rows.assign(minutes=rows["seconds"] / 60).to_dict("records"):
        numbers = (row[name] for name in ("minutes", "hr@20", "mrr@20"))
        cells = ("" if math.isnan(value) else f"{value:.2f}" for value in numbers)
        table.add_row(row["label"], f"{row['done']} of {row['wanted']}", *cells)
    Console().print(table)
    if (rows["done"] < rows["wanted"]).any():
        Console().print(f"  {in_words(study.seconds_left(rows))} of training left.")


def answered(out: str | None, all_metrics: bool, **given: Any) -> None:
    """The table of a study."""
    found, data, size, todo = planned(**given)
    if found.shows == "data":
        print_data(data)
        return
    print_table(found, todo, out, all_metrics, size.get("tuned", {}))


def print_table(
    found: Study,
    todo: list[study.Job],
    out: str | None = None,
    all_metrics: bool = False,
    tuned: Collection[str] = (),
) -> None:
    """The finished arms side by side, on the screen or in a file; a note names the `tuned` ones."""
    table = study.compared(found, todo)
    if out and Path(out).suffix == ".csv":
        text = compare_view.to_csv([table.rows])
    else:
        views = views_of(found, table, all_metrics)
        if tuned:
            says = f"Tuned on validation: {'; '.join(tuned)}."
            views[0] = replace(views[0], notes=[*views[0].notes, says])
        if not out:
            for view in views:
                Console().print(view, "")
            return
        forms = {".md": to_markdown, ".tex": to_latex}
        if Path(out).suffix not in forms:
            raise UsageError(f"The name {out} does not say which format to write.", "End it in .md, .tex or .csv.")
        text = "\n".join(forms[Path(out).suffix](view) for view in views)
    try:
        Path(out).parent.mkdir(parents=True, exist_ok=True)
        Path(out).write_text(text.rstrip("\n") + "\n")
    except OSError as error:
        raise DissectError(f"Could not write {out}: {error.strerror or error}.") from error
    print(out)


def views_of(found: Study, table: compare.Comparison, all_metrics: bool) -> list[TextTable]:
    """The means with the paper's figures, then the pairs."""
    views = compare_view.views_of(table, METRICS if all_metrics else JUDGED, False)
    rows = table.rows
    if rows["paper mrr@20"].notna().any():
        cells = rows["paper hr@20"].map("{:.2f}".format) + " / " + rows["paper mrr@20"].map("{:.2f}".format)
        cells = cells.where(rows["paper mrr@20"].notna(), "")
        place = next(i for i, column in enumerate(views[0].columns) if column.name.startswith("MRR@20")) + 1
        printed = [Column("paper\nHR / MRR", cells.tolist(), spare=False)]
        if rows["paper seconds"].notna().any():
            seconds = rows["paper seconds"].map(compare_view.seconds).tolist()
            printed.append(Column("paper\ns/epoch", seconds, spare=True))
        views[0] = replace(views[0], columns=[*views[0].columns[:place], *printed, *views[0].columns[place:]])
    views[0] = replace(views[0], title=f"{found.name}: {found.question} {views[0].title}")
    return views


def print_data(data: Dataset) -> None:
    """Table 1: the counts of a data set beside the paper's."""
    from analyses import paper
    from dissect.data.stats import ROWS, statistics

    counts = statistics(data)
    printed = paper.TABLE1.get(study.name_in_paper(data.name), (None,) * 4)
    said = printed[0] and data.name not in paper.SETS
    note = "This split of the log is not the one that the paper counts." if said else None
    table = plain(("Table 1", data.name, "paper"), (data.name, "paper"), caption=note)
    for name, there in zip(("clicks", "prefixes", "items", "mean_length"), printed):
        table.add_row(ROWS[name], number(counts[name]), number(there))
    Console().print(table)


def number(value: float | None) -> str:
    return "" if value is None else f"{value:,.2f}" if isinstance(value, float) else f"{value:,}"


def drawn(out: str | None, **given: Any) -> None:
    """The figure of a study, and its files."""
    from dissect import drawing
    from figures import lines

    found, data, size, todo = planned(**given)
    folder = Path(out) if out else Path(given["runs_dir"]) / "figures"
    if found.shows == "density":
        groups = list(dict.fromkeys(job.plan.group for job in todo if job.is_done))
        if not groups:
            raise UsageError(*study.NONE_FINISHED)
        both = drawing.density(groups[0], module=found.module, beside=groups[1] if len(groups) > 1 else None)
        drawings = [each._replace(name=f"{each.name}-{data.name}") for each in both]
    elif found.shows in ("lines", "lengths"):
        is_line = found.shows == "lines"
        table = lines.over_seeds(study.lines(todo, ("hr@20",)) if is_line else study.lengths(todo))
        axis, last = (found.axis, "") if is_line else ("clicks of the session", f"≥ {study.LONGEST}")
        figure = lines.draw(table, axis, "HR@20 (%)", last)
        says = lines.describe(table, f"{found.name} on {data.name}: HR@20", axis)
        drawings = [drawing.Drawing(f"{found.name}-{data.name}-d{size['dim']}", figure, says, pd.DataFrame(table))]
    else:
        raise UsageError(f"{found.name} is a table.", f"Print it: dissect study table {found.name}")
    for each in drawings:
        print(each.caption)
        for path in each.save(folder):
            print(path)
