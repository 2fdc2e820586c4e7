"""docs/records.md: it names every field of the records of a run folder, and no field that no record has."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import dissect
from tests.test_house import PAGES

PAGE = PAGES["docs/records.md"]
LINES = {"train", "eval"}  # the kinds of metrics.jsonl
# Fields whose value has keys by role, matrix, seed, threshold or check, and the fields of each within.
KEYED = {"kept", "theta_abs_gt", "theta_gt", "roles", "modules", "undeclared", "dense", "by_seed", "beyond_control_at"}
KEYED |= {"checks", "need", "left_out", "milliseconds"}
OPAQUE = {"provenance"}  # each source tells what it knows
# What the runs here do not write: other protocols, tuned settings, names of a log.
ELSEWHERE = {"test_worst_ties_at_best", "file", "sha256", "trials", "asked", "identifiers"}
WRITTEN = ("summary.json", "metrics.jsonl", "density.jsonl", "verdict.json", "environment.json", "coverage.json")


def fields(record: Any, options: set[str]) -> Iterator[str]:
    """All names of fields within a record, but those of the `options` of a model, and thresholds such as "kept 3"."""
    for value in record if isinstance(record, list) else ():
        yield from fields(value, options)
    for key, value in record.items() if isinstance(record, dict) else ():
        if key not in options and " " not in key:
            yield key
        within = value.values() if key in KEYED and isinstance(value, dict) else [] if key in OPAQUE else [value]
        for each in within:
            yield from fields(each, options)


def found_in(path: Path, options: set[str]) -> set[str]:
    text = path.read_text()
    lines = text.splitlines() if path.suffix == ".jsonl" else [text]
    return {name for line in lines for name in fields(json.loads(line), options)}


@pytest.fixture(scope="module")
def group(tmp_path_factory):
    """A dissection with its matched dense models, two seeds without propagation, and a literal one beside it."""
    how: dict[str, Any] = {"dim": 4, "max_steps": 4, "seeds": (1, 2), "runs_dir": tmp_path_factory.mktemp("runs")}
    dissect.run("srgnn", "demo", literal=True, **how)
    dissect.run("srgnn", "demo", **how)
    done = dissect.run("srgnn", "demo", without=["propagation"], **how)
    done.verdict()
    return done


def named() -> set[str]:
    """The fields in the tables of the page, and in the paragraph on the matrices of a verdict."""
    rows = [line.split("|")[1:] for line in PAGE.splitlines() if line.startswith("| ")]
    first = {name for row in rows for name in re.findall(r"`([^`]+)`", " ".join(row[:-2] or row[:1]))}
    return {name for name in first if "<" not in name and "." not in name}


@pytest.mark.parametrize("name", [*WRITTEN, "data.json"])
def test_every_field_of_a_record_stands_on_the_page(group, name):
    options = set(group.config.model_options)
    paths = [path for path in Path(group.path).rglob(name) if path.stat().st_size]
    assert paths
    backticks = {word for quoted in re.findall(r"`([^`\n]+)`", PAGE) for word in quoted.split()}
    lacking = {field for path in paths for field in found_in(path, options)} - backticks
    assert not lacking, f"docs/records.md does not name {sorted(lacking)} of {name}"


def test_every_field_that_the_page_names_is_written(group):
    options = set(group.config.model_options)
    paths = [path for name in [*WRITTEN, "data.json"] for path in Path(group.path).rglob(name)]
    there = {field for path in paths for field in found_in(path, options)}
    summaries = [json.loads(path.read_text()) for path in paths if path.name == "summary.json"]
    checks = {check for summary in summaries for check in summary["checks"]}
    with np.load(next(Path(group.path).rglob("ranks-test-*.npz"))) as ranks:
        there |= set(ranks)
    unknown = named() - there - checks - ELSEWHERE - LINES
    assert not unknown, f"docs/records.md names {sorted(unknown)}"
