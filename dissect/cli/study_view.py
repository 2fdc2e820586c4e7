"""What `dissect study` prints and writes."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console

from analyses import claims, study
from analyses.entries import JUDGED
from analyses.studies import STUDIES, Study, find_study
from dissect import drawing
from dissect.cli import options, screen
from dissect.data import catalog
from dissect.data.sessions import Dataset
from dissect.errors import UsageError
from dissect.progress import observer
from dissect.runs.records import EVERY
from dissect.studied import Studied, studied, time_left
from dissect.tables import claims as told
from dissect.tables import results, studies
from dissect.tables.counts import view_of_counts
from dissect.tables.trials import best_of
from dissect.text import as_options
from dissect.usual import DATASET, FIGURES, RUNS, SCALE
from models import MODELS

ANY_DATA = "demo-bag"  # made in memory; what a study asks for can be checked on any data


def listed(as_json: bool) -> None:
    """The studies, with their questions."""
    if as_json:
        screen.show_json({name: each.question for name, each in STUDIES.items()})
    else:
        screen.show(studies.studies())


def refuse_unsound(found: Study) -> None:
    """Raises UsageError for the study of a file that `study run` would refuse. It runs no model file of the user."""
    size = study.size_of("quick")
    for arm in found.arms:
        study.arguments(arm, size)
    ours = tuple(arm for arm in found.arms if arm.model in MODELS)
    study.jobs(replace(found, arms=ours), catalog.load(ANY_DATA), size, RUNS)


def shown(name: str, as_json: bool) -> None:
    """The arms of a study."""
    found = find_study(name)
    if name not in STUDIES:
        refuse_unsound(found)
    if as_json:
        screen.show_json(asdict(found))
    elif found.arms or found.shows == "claims":
        screen.show(studies.arms(found))
    else:
        print(f"{found.name}: {found.question}\nIt trains nothing. See it: dissect study table {found.name}")


def planned(name: str, dataset: str, data_dir: str | None, quiet: bool = False, **given: Any) -> Studied:
    """The study on a data set, as a command asks for it; with `quiet` it does not say how far it is."""
    data, progress = options.loader()(dataset, data_dir), partial(options.say, quiet=quiet)
    return studied(name, data, say=options.say, progress=progress, **given)


def trained(shard: str | None, device: str, quiet: bool, **given: Any) -> None:
    """Train what is missing, and print the table."""
    part, how = part_of(shard), {"device": device, "observe": partial(observer, quiet=quiet)}
    asked = planned(**given, quiet=quiet, how=how)
    if asked.study.shows != "data":
        asked.run(part)
    elif shard or given["tuned"] or given["protocol"]:
        name = "--shard" if shard else "--tuned" if given["tuned"] else "--protocol"
        raise UsageError(f"{name} has no effect on {asked.study.name}, which trains nothing.", "Leave it out.")
    arms = {job.arm.label for job in asked.jobs if job.is_done}
    if not asked.jobs or asked.study.shows == "claims" or len(arms) > 1:
        print_answer(asked, given)


def tune_all(trials: int, timeout: float | None, device: str, quiet: bool, **given: Any) -> None:
    """Tune what a study trains, one after the other, with equally many trials."""
    how = {"device": device, "observe": partial(observer, quiet=quiet, stays=False)}
    for model, folder in planned(**given, quiet=quiet, how=how).tune(trials, timeout):
        table, use = best_of(folder, model, given["data_dir"])
        screen.show(table)
        print(use)


def part_of(shard: str | None) -> tuple[int, int]:
    """(i, n) of "i/n". Raises UsageError for another text."""
    if match := re.fullmatch(r"(\d{1,9})/(\d{1,9})", shard or "1/1"):
        number, of = map(int, match.groups())
        if 1 <= number <= of:
            return number, of
    raise UsageError(f"--shard is i/n with i from 1 to n, such as 2/4, not {shard}.")


@contextmanager
def to_train(given: Mapping[str, Any]) -> Iterator[None]:
    """Context manager: where a study has nothing to show, the error tells the command that trains or prints it."""
    try:
        yield
    except UsageError as error:
        if error.hint not in (study.TRAIN, drawing.PRINT):
            raise
        does, verb = ("Train", "run") if error.hint == study.TRAIN else ("Print it", "table")
        raise UsageError(error.message, f"{does}: {as_command(verb, given)}") from error


def as_command(verb: str, given: Mapping[str, Any]) -> str:
    """The command of a verb for the same study with the same options."""
    size = {name: value for name, value in given.items() if name != "name"}
    words = as_options(size, dataset=DATASET, scale=SCALE, runs_dir=RUNS)
    return shlex.join(["dissect", "study", verb, given["name"], *words])


def stand(as_json: bool, **given: Any) -> None:
    """How far a study is."""
    asked = planned(**given)
    name = asked.study.name
    if not asked.jobs:
        raise UsageError(f"{name} trains nothing.", f"See it: {as_command('table', given)}")
    rows = asked.status()
    if as_json:
        print(rows.to_json(orient="records", indent=1))
        return
    screen.show(studies.status(rows, name, asked.data.name))
    if (rows["done"] < rows["wanted"]).any():
        print(time_left(rows))


def answered(out: str | None, all_metrics: bool, as_json: bool, **given: Any) -> None:
    """The table of a study."""
    asked = planned(**given)
    if all_metrics and asked.study.shows in ("data", "claims"):
        raise UsageError(f"--all-metrics has no effect on {asked.study.name}.", "Leave it out.")
    print_answer(asked, given, screen.chosen_form(None, out, as_json), out, EVERY if all_metrics else JUDGED)


def print_answer(
    asked: Studied, given: Mapping[str, Any], form: str = "screen", out: str | None = None, metrics: Any = JUDGED
) -> None:
    """What answers a study, on the screen or in a file; `given` are the options of the command."""
    if asked.study.shows == "claims":
        print_claims(asked.data, dict(asked.size), given, form, out)
    elif asked.study.shows == "data":
        rows = study.counts(asked.data)
        to_json = partial(rows.to_json, orient="records", indent=1)
        screen.write([view_of_counts(asked.data)], form, out, to_json, lambda: {"": rows.to_csv(index=False)})
    else:
        with to_train(given):
            table = study.compared(asked.study, asked.jobs)
        views = results.views_of_study(asked.study, table, metrics, is_tuned=bool(asked.size.get("tuned")))

        def to_csv() -> dict[str, str]:
            return {"": results.to_csv([table.rows]), "-pairs": results.to_csv([table.pairs])}

        screen.write(views, form, out, partial(results.to_json, [table]), to_csv, results.notes_of([table]))


def print_claims(data: Dataset, size: dict[str, Any], given: Mapping[str, Any], form: str, out: str | None) -> None:
    """Judge the claims, then print them or write them to a file."""
    if form not in ("screen", "markdown", "json") or (out and form == "screen"):
        raise UsageError(f"The claims cannot be written to {out}.", "End its name in .md or .json.")
    with Console(stderr=True).status("reading runs"):
        rows = claims.judged(data, size, given["runs_dir"])
    words = told.options_of(given)
    if form == "screen":
        screen.show(*told.on_screen(rows, data.name, words), sep="\n")
    elif form == "json":
        screen.put(json.dumps(told.record(rows, data, words), indent=1), out)
    else:
        screen.put(told.to_markdown(rows, data, words), out)


def drawn(out: str | None, **given: Any) -> None:
    """The figures of a study, and their files."""
    asked = planned(**given)
    folder = Path(out) if out else asked.runs_dir / FIGURES
    with to_train(given):
        drawings = drawing.of_study(asked.study, asked.data.name, dict(asked.size), asked.jobs)
    for each in drawings:
        print(each.caption, *each.save(folder), sep="\n")
