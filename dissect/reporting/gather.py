"""Read what a report shows: groups of runs and studies, into plain data for the template."""

from __future__ import annotations

import reprlib
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import pandas as pd

import dissect
from analyses import claims, compare, study
from analyses.entries import JUDGED, Entry, by_split, entry
from analyses.path import groups_of_path
from analyses.significance import read_gains
from analyses.studies import STUDIES, find_study
from dissect import drawing
from dissect.data import catalog
from dissect.errors import DataError, DissectError, UsageError, in_short, unknown
from dissect.reporting.appendix import appendix
from dissect.reporting.groups import STEPS, Step, attempt, figure, of_group, path, training
from dissect.runs import folders
from dissect.studied import studied
from dissect.tables.claims import side_by_side as of_claims
from dissect.tables.counts import view_of_counts
from dissect.tables.results import views_of, views_of_study
from dissect.tables.studies import status
from dissect.tables.text import Column, Table, by_rows
from dissect.text import as_options
from dissect.usual import DATASET, RUNS, SCALE

Claim = Mapping[str, Any]


def gathered(
    names: Sequence[str | Path],
    *,
    runs_dir: str | Path = RUNS,
    claims: Sequence[Claim] = (),
    progress: Callable[[str, int, int], object] = lambda what, done, total: None,
    **of_study: Any,
) -> dict[str, Any]:
    """Everything that a report on groups and studies shows.

    claims     sections of the caller's own, in their order: {"title": ..., "answer": ..., "text": ..., "table": a
               DataFrame or a `Table`}, all but the title optional
    progress   told what is read next, and how many of how many steps are done
    of_study   which trainings of a study are meant: dataset, scale, dim, epochs, seeds, protocol, arms, tuned, data_dir

    Damaged runs are named in it as unreadable. Raises UsageError for an unknown name, and for `of_study` (but data_dir)
    if no study is named; DataError if nothing can be read.
    """
    groups, studies = named(names, runs_dir)
    if (chosen := [name for name in of_study if name != "data_dir"]) and not studies:
        raise UsageError(
            f"Given for a study, but no study is named: {in_short(chosen)}.",
            f"Name a study ({', '.join(STUDIES)}, or a TOML file), or leave that out.",
        )
    total = STEPS * len(groups) + len(studies) + len(("comparisons", "paths", "records"))
    steps = iter(range(total))

    def say(what: str) -> None:
        progress(what, next(steps, total), total)

    with folders.hearing() as lost:
        sections = folders.each_sound(groups, lambda group: of_group(group, say), required=False)
        answered = folders.each_sound(
            studies, lambda name: of_a_study(name, Path(runs_dir), say, **of_study), required=False
        )
        if not sections and not answered:
            asked = in_short([*(str(group) for group in groups), *studies])
            raise DataError(f"Nothing of {asked} can be read. {lost[-1].message}", lost[-1].hint)
        entries = [row for section in sections for row in section["entries"]]
        say("comparisons")
        sets = list(comparisons(entries, Path(runs_dir)))
        say("paths over the KL weight")
        paths = list(of_paths([section["path"] for section in sections if section["dissected"]]))
        say("records")
        read = dict.fromkeys([*(section["path"] for section in sections), *chain(*(a["groups"] for a in answered))])
        record = appendix(list(read), [*entries, *chain(*(a["entries"] for a in answered))])
    about = [section["title"] for section in sections] + [f"{a['name']} on {a['dataset']}" for a in answered]
    return {
        "title": in_short(about, 1),
        "made": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "version": dissect.__version__,
        "unreadable": list({error.message: error for error in lost}.values()),
        "summary": summary(sections),
        "groups": sections,
        "paths": paths,
        "comparisons": sets,
        "studies": answered,
        "claims": [as_claim(each) for each in claims],
        "appendix": record,
    }


def named(names: Sequence[str | Path], runs_dir: str | Path) -> tuple[list[Path], list[str]]:
    """The groups and the studies that names stand for; without names, the newest dissected group, or else
    the newest; stderr tells which.

    A study is one of `dissect study list`, or a TOML file. Raises UsageError for a name that is neither.
    """
    groups, studies = dict[Path, Path](), dict[str, None]()
    for name in names:
        if str(name) in STUDIES or str(name).endswith(".toml"):
            find_study(str(name))
            studies[str(name)] = None
            continue
        known = [group.name for group in folders.find_groups(runs_dir)]
        is_path = any((at / folders.CONFIG).exists() for at in (Path(name), *Path(name).parents, Path(runs_dir) / name))
        first = "".join(Path(name).parts[:1])
        if not is_path and not any(first and other.startswith(first) for other in known):
            there = next((path for path in (Path(name), Path(runs_dir) / name) if path.is_dir()), None)
            if there is None:
                raise unknown("group or study", str(name), [*known, *STUDIES])
            groups[there.resolve()] = there  # a group without its configuration: `each_sound` says so
            continue
        group, _ = folders.resolve_both(name, runs_dir)
        groups.setdefault(group.resolve(), group)
    if not names:
        return [folders.newest_dissected(runs_dir)], []
    return list(groups.values()), list(studies)


def summary(sections: Sequence[dict[str, Any]]) -> Table | None:
    """A row for each dissected group: the answers, and MRR@20 beside that of the same training without SparseVD."""
    rows = []
    for section in sections:
        verdict = section["verdict"]
        if verdict is None or not verdict["seeds"]:  # perhaps only its dense model is finished
            continue
        needs = ", ".join(f"{role} {given['answer']}" for role, given in verdict["need"].items())
        matched = (verdict.get("matched") or {}).get("mrr@20")
        numbers = [f"{verdict['accuracy']['test']['mrr@20']:.2f}", "" if matched is None else f"{matched:.2f}"]
        answers = [verdict[name]["answer"] for name in ("O1", "O2")]
        rules = "without shadows" if verdict.get("rules") == "density" else ""
        rows.append([section["title"], *answers, needs or "not asked", *numbers, str(len(verdict["seeds"])), rules])
    head = ["group", "propagation withers", "the readout holds", "need"]
    head += ["MRR@20 (%)", "without SparseVD (%)", "seeds", "rules"]
    return by_rows("The answers side by side", head, rows) if rows else None


def comparisons(entries: Sequence[Entry], runs_dir: Path) -> Iterator[dict[str, Any]]:
    """The rows of each split and protocol side by side, largest table first, and how they were trained."""
    for rows in by_split(entries):
        groups = list(dict.fromkeys(row.group for row in rows if row.is_trained))
        found = {"dataset": rows[0].config["dataset"], "figures": training(groups, runs_dir) if groups else []}
        found |= {"tables": [], "notes": []}
        if len(rows) > 1:
            views = partial(views_of, metrics=JUDGED, every_pair=False, is_named_once=False)
            found |= compared(partial(side_by_side, rows), views)
        if found["tables"] or found["figures"]:
            yield found


def side_by_side(rows: list[Entry]) -> compare.Comparison:
    """The comparison of these rows. Raises UsageError if the ranks of fewer than two can be read."""
    sound, gains, count = read_gains(rows)
    if len(sound) < 2:
        raise UsageError(f"The ranks of {len(sound)} of {len(rows)} rows can be read, and it takes two to compare.")
    return compare.compared(sound, gains, count)


def compared(
    read: Callable[[], compare.Comparison], views: Callable[[compare.Comparison], list[Table]]
) -> dict[str, Any]:
    """The tables of a comparison; nothing if too little of it can be read."""
    try:
        return {"tables": views(read())}
    except UsageError as error:
        return {"notes": [error.message]}
    except DataError as error:
        folders.left_out(error)
        return {}


def of_paths(groups: Sequence[Path]) -> Iterator[dict[str, Any]]:
    """The figure of each path over the KL weight that a group lies on, once."""
    shown = set[Path]()
    for group in groups:
        if group.resolve() not in shown:
            shown |= {other.resolve() for _, other in groups_of_path(group)}
            yield from path(group)


def of_a_study(
    name: str,
    runs_dir: Path,
    say: Step,
    dataset: str = DATASET,
    scale: str = SCALE,
    data_dir: str | Path | None = None,
    **of: Any,
) -> dict[str, Any]:
    """The section of a study: its question, how far it is, and its table or figure. Nothing is fetched for it.

    Raises DataError if its data set is not here.
    """
    say(f"study {name}")
    asked = studied(name, catalog.load(dataset, data_dir), runs_dir, scale, **of)
    found, data, size, todo = asked.study, asked.data, dict(asked.size), asked.jobs
    done = [job for job in todo if job.is_done]
    section: dict[str, Any] = {"name": found.name, "question": found.question, "dataset": data.name, "scale": scale}
    section |= {"tables": [], "notes": [], "status": None, "figures": []}
    section["groups"] = list(dict.fromkeys(job.plan.group for job in todo if job.plan.group.exists()))
    places = dict.fromkeys((job.plan.group, job.plan.variant) for job in done)
    section["entries"] = [row for place in places if (row := entry(*place)) is not None]
    if found.shows == "data":
        return section | {"tables": [view_of_counts(data)]}
    if found.shows == "claims":
        return section | {"tables": [of_claims(claims.judged(data, size, runs_dir), data.name)]}
    try:
        rows = study.status(todo)
        view = status(rows, found.name, data.name)
        section["status"] = replace(view, columns=[*view.columns, Column("group", rows["group"].tolist())])
    except DataError as error:
        folders.left_out(error)
    views = partial(views_of_study, found, metrics=JUDGED, is_named_once=False)
    section |= compared(partial(study.compared, found, todo), views)
    if not done or found.shows == "table":
        return section
    drawn = list(attempt(partial(drawing.of_study, found, data.name, size, todo)))
    given = {"dataset": dataset, "scale": scale, "runs_dir": runs_dir, "data_dir": data_dir, **of}
    words = as_options(given, dataset=DATASET, scale=SCALE, runs_dir=Path(RUNS))
    command = shlex.join(["dissect", "study", "figure", name, *words])
    digits = 3 if found.shows == "density" else 2
    titles = [found.question if len(drawn) == 1 else f"{found.question} ({each.name})" for each in drawn]
    return section | {"figures": [figure(each, title, command, digits) for each, title in zip(drawn, titles)]}


def as_claim(given: Claim) -> dict[str, Any]:
    """A claim of the caller's with its table as one of ours. Raises DissectError if it is not such.

    UsageError for a table that is neither a DataFrame nor a `Table`.
    """
    if not isinstance(given, Mapping) or not given.get("title"):
        raise DissectError(
            "A claim of a report is a dict with a title.", 'For example: {"title": "...", "text": "..."}'
        )
    shown = given.get("table")
    if isinstance(shown, pd.DataFrame):
        rows = [[f"{v:.4g}" if isinstance(v, float) else str(v) for v in row] for row in shown.itertuples(index=False)]
        shown = by_rows(str(given["title"]), [str(name) for name in shown.columns], rows)
    elif shown is not None and not isinstance(shown, Table):
        raise UsageError(f"The table of a claim is a DataFrame; it cannot be {reprlib.repr(shown)}.")
    return {"answer": "", "text": "", **given, "table": shown}
