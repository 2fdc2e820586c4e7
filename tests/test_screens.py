"""Screens of 80 columns: titles, zeros, plurals, percents, blanks at the ends of lines, and the list of groups."""

import json

import pandas as pd
import pytest

from analyses.shadowed import in_words
from dissect.cli import screen
from dissect.runs import folders
from dissect.tables.text import by_rows
from dissect.tables.verdict import parts
from dissect.text import decimal, percent, plural
from tests.test_shadowed import GOOD, make_group


@pytest.mark.parametrize(
    ("share", "how", "words"),
    [
        (0.95, {}, "95 %"),
        (0.0994, {}, "9.9 %"),
        (0.0996, {}, "10 %"),
        (-0.002, {"sign": "+"}, "−0.2 %"),
        (-0.0002, {"sign": "+"}, "0.0 %"),
        (0.0002, {"sign": "+"}, "0.0 %"),
        (0.5, {"sign": "+"}, "+50 %"),
        (1.0, {}, "100 %"),
    ],
)
def test_a_share_in_percent_has_one_decimal_below_ten_and_a_zero_no_sign(share, how, words):
    assert percent(share, **how) == words


def test_a_zero_has_no_sign():
    assert [decimal(value) for value in (-0.0004, -0.0006, 0.0)] == ["0.000", "−0.001", "0.000"]
    by_seed = pd.MultiIndex.from_tuples([("attention", 1), ("attention", 2)], names=["role", "seed"])
    kept = pd.DataFrame({"excess": [-0.0004, 0.012]}, index=by_seed)
    assert in_words(kept, "attention") == "excess of attention: 0.000, 0.012 (limit 0.05)"


def test_one_thing_has_no_plural():
    assert [plural(n, "session") for n in (0, 1, 2000)] == ["0 sessions", "1 session", "2,000 sessions"]
    assert plural(1, "prefix") == "1 prefix" and plural(2, "test prefix") == "2 test prefixes"


def test_no_line_ends_in_blanks(capsys):
    table = by_rows("", ("name", "words"), [("a", ""), ("b", "x")])
    screen.show("words that rich folds at the width of its screen", table, "", sep="\n", width=20)
    lines = capsys.readouterr().out.splitlines()
    assert "a" in lines and "b     x" in lines and [line for line in lines if line != line.rstrip()] == []


def test_a_title_has_the_width_of_the_screen(typed, tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    arm = '[[arm]]\nlabel = "{}"\nmodel = "srgnn"\noptions = {{ steps = {} }}\n'
    question = "Does a second step of propagation help at all, or not?"
    (tmp_path / "own.toml").write_text(f'question = "{question}"\n' + arm.format("one", 1) + arm.format("two", 2))
    assert f"own: {question}" in typed("study", "show", "own.toml")[1].splitlines()
    assert "own on demo: 0 of 2 trainings finished" in typed("study", "status", "own.toml")[1].splitlines()


def test_every_matrix_of_a_verdict_has_a_bar(tmp_path, capsys):
    from dissect.group import Group

    kept = {**GOOD, "readout.attend_score": 1.0}
    screen.show(parts(Group(make_group(tmp_path, kept, falls=0.0)).verdict()), width=80)
    lines = capsys.readouterr().out.splitlines()
    (alone,) = (line for line in lines if line.startswith("  attend_score "))
    assert "█" in alone and not any("+0" in line or "-0 " in line for line in lines)


def test_groups_are_listed_newest_first(typed, tmp_path, monkeypatch):
    assert typed("list") == (0, "There are no runs in runs. Make some: dissect train srgnn\n", "")
    assert typed("list", "--json")[1] == "[]\n"
    old, new = make_group(tmp_path / "runs"), make_group(tmp_path / "runs", mrr=9.0, kl_weight=2.0)
    (new / "s3" / "DONE").unlink()
    for seed in (1, 2, 3):
        (folders.run_path(old, seed) / "DONE").unlink()
    monkeypatch.setenv("COLUMNS", "80")
    rows = json.loads(typed("list", "--json")[1])
    assert [row["group"] for row in rows] == [new.name, old.name]
    assert rows[0] | {"group": ""} == {
        "group": "",
        "model": "srgnn",
        "dataset": "x",
        "dim": 4,
        "kl_weight": 2.0,
        "max_steps": 60000,
        "seeds": 2,
        "seeds_begun": 3,
        "mrr@20": pytest.approx(9.0),
        "unusual": "",
    }
    assert rows[1]["seeds"] == 0 and rows[1]["mrr@20"] is None
    lines = typed("list")[1].splitlines()
    assert lines[1].split() == ["group", "dim", "KL", "steps", "seeds", "MRR@20"]
    assert lines[2].split() == [new.name, "4", "2", "60,000", "2", "of", "3", "9.00"]
    assert lines[3].split()[-4:] == ["0", "of", "3", "–"] and max(map(len, lines)) <= 80
    new.rename(new.with_name("mine"))  # a name that tells neither model nor data
    lines = typed("list")[1].splitlines()
    assert lines[1].split() == ["group", "model", "data", "dim", "KL", "steps", "seeds", "MRR@20"]
    assert lines[2].split() == ["mine", "srgnn", "x", "4", "2", "60,000", "2", "of", "3", "9.00"]
    make_group(tmp_path / "runs", lr=0.01, noise="weight")
    assert [line for line in typed("list")[1].splitlines() if line.startswith("  ")] == ["  noise weight, lr 0.01"]
    assert typed("list", "--runs-dir", "nope")[0] == 2
