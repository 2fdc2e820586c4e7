"""docs/tutorial.md: its commands run one after another, and its numbers are those of the results."""

import json
import re
import shlex
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner

import dissect
from dissect.cli import main
from dissect.data import bring, catalog

ROOT = Path(__file__).resolve().parent.parent
PAGE = (ROOT / "docs" / "tutorial.md").read_text()
COMMANDS = re.findall(r"^    (dissect .*)$", PAGE, re.MULTILINE)


@pytest.fixture
def small(tmp_path, monkeypatch):
    """The built-in sets, cut so that they are ranked in no time, and files like those of Diginetica."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DISSECT_DATA", str(tmp_path / "data"))
    load = bring.load

    def cut(name, *rest, **more):
        data = load(name, *rest, **more)
        if name not in ("demo-walk", "demo-bag"):
            return data
        return dissect.Dataset(name, data.n_items, data.train.part(0, 600), data.test.part(0, 60))

    monkeypatch.setattr(bring, "load", cut)
    demo = dissect.load("demo")
    catalog.save(dissect.Dataset("tiny", demo.n_items, demo.train.part(0, 800), demo.test.part(0, 60)))
    assert CliRunner().invoke(main, ["data", "export", "tiny", "--format", "srgnn", "--out", "files"]).exit_code == 0
    for path in Path("files").iterdir():
        shutil.copy(path, path.name)
    return tmp_path


@pytest.mark.slow
def test_the_commands_run_one_after_another(small, monkeypatch):
    monkeypatch.setattr("dissect.data.planted.judged", lambda name: None)  # which tells of the whole data set
    assert len(COMMANDS) >= 14
    said = {}
    for line in COMMANDS:
        words = shlex.split(line)[1:]
        if words[0] == "run":
            words = _without(_without(words, "--jobs", "2"), "--dim", "64")
            words += ["--max-steps", "4", "--dim", "8", "--device", "cpu", "--quiet"]
            words += [] if "--seed" in words else ["--seed", "1"]
        result = CliRunner().invoke(main, words, catch_exceptions=False)
        assert result.exit_code == 0, f"{line}\n{result.stderr}"
        said[line] = result.stdout
    found = json.loads(said[COMMANDS[-1]])
    assert found["dataset"] == "demo-bag" and found["need"]["propagation"]["answer"] == "undecided"
    assert "Not run: the same `dissect run` with --kl-weight 2" in said[COMMANDS[0]]
    checked = said["dissect verdict srgnn-demo-walk"]  # the runs at other settings are found by their settings
    assert "--kl-weight 2" not in checked.split("Not run")[-1] and "--noise weight" not in checked.split("Not run")[-1]
    assert list(Path("runs").glob("srgnn-demo-walk-*/figures/figure3-density-gnn.png"))


def _without(words, option, value):
    """The words without the first `option value` that they have."""
    pairs = list(zip(words, [*words[1:], ""]))
    at = next((i for i, pair in enumerate(pairs) if pair == (option, value)), None)
    return words if at is None else [*words[:at], *words[at + 2 :]]


def test_the_numbers_on_real_data_are_those_of_the_results():
    pages = (ROOT / "docs" / "results" / "README.md").read_text()
    results = pages.split("\n## An eighth of Diginetica\n")[1].split("\n## ")[0]
    rows = re.findall(
        r"^\| ([248]) \| (\S+ \(\S+\)) \| (\S+ \(\S+\)) \| (\S+ \(\S+\)) \| (\S+) \| ", PAGE, re.MULTILINE
    )
    assert [row[0] for row in rows] == ["2", "4", "8"]
    for weight, propagation, attention, transformation, mrr in rows:
        pattern = rf"^\| {weight} \| (.*?) \| (.*?) \| .*? \| (.*?) \| (.*?) \|"
        assert re.findall(pattern, results, re.MULTILINE)[0] == (propagation, attention, transformation, mrr)
    assert all("13.40" in text and re.search(r"-2\.2\s+to\s+1\.1", text) for text in (PAGE, results))


def test_the_tutorial_shows_a_decided_verdict_of_each_kind():
    for answer in (
        "O1  propagation withers (Figure 3): fails",
        "(Figure 3): holds",
        "needed",
        "redundant",
        "undecided",
    ):
        assert answer in PAGE
    pictures = list((ROOT / "docs" / "tutorial").iterdir())
    # Small, but with all their colours: with fewer, lines look alike.
    assert sum(path.stat().st_size for path in pictures) <= 450_000
    assert all(f"(tutorial/{path.name})" in PAGE for path in pictures)
