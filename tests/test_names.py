"""Names, and texts of others: what a folder may be called, what a terminal is shown, what a CSV cell holds."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from matplotlib.figure import Figure

from analyses import entries
from analyses.entries import Entry
from dissect.cli import LazyGroup
from dissect.data import catalog
from dissect.data.export import export
from dissect.data.sessions import Dataset, Sessions
from dissect.drawing import Drawing
from dissect.errors import DataError, DissectError, UsageError, unknown
from dissect.runs import files, folders
from dissect.runs.config import SETTINGS, Config
from dissect.tables.results import to_csv
from dissect.text import as_name, check_name, shown, shown_lines, without_formulas

BAD = ["", ".", "..", ".x", "-x", "a/b", "../x", "a*", "?", "[ab]", "~", "a b", "a\nb", "\x1b[2J", "é", "x" * 101]


def small(name="shop", **more):
    train = Sessions.from_lists([[1, 2, 3], [2, 3]])
    return Dataset(name, 3, train, Sessions.from_lists([[3, 1]]), **more)


@pytest.mark.parametrize("name", BAD)
def test_a_name_is_of_letters_digits_and_a_few_signs(name):
    with pytest.raises(UsageError) as error:
        check_name(name, "A data set")
    assert "letters" in error.value.hint and error.value.message.isprintable()


@pytest.mark.parametrize("name", ["", "-x", "../x", "\x1b[2J"])  # none, like an option, elsewhere, what steers
def test_every_command_that_gives_a_name_checks_it_first(typed, tmp_path, name):
    Path("log.csv").write_text("visit,item,at\n1,2,3\n")
    bring = ["data", "prepare", f"--from={tmp_path}/log.csv", "--item-col=item", "--time-col=at", "--session-col=visit"]
    short = ["--max-steps", "2", "--quiet", f"--name={name}"]
    for words in (
        [*bring, "--", name],
        ["train", "pop", *short],
        ["run", "--literal", "--seed", "1", *short],
        ["train", "srgnn", *short],
    ):
        code, out, err = typed(*words)
        assert (code, out) == (2, "") and "cannot be named" in err and "\x1b" not in err
    assert not (tmp_path / "data").exists() and not (tmp_path / "runs").exists()


def test_settings_that_would_steer_the_terminal_are_refused_before_anything_is_written(typed, tmp_path):
    for words in (["--option", "steps=\x1b[31m1"], ["--where", "\x1b[31m"]):
        code, out, err = typed("run", "--literal", "--seed", "1", "--max-steps", "2", "--quiet", *words)
        assert (code, out) == (2, "") and "\x1b" not in err and not (tmp_path / "runs").exists()
    for given in ({"model": "a\nb"}, {"model_options": {"x": "\x9b31m"}}, {"model_options": {"x\u202e": 1}}):
        with pytest.raises(UsageError, match="must have no control characters"):
            Config(**{"model": "srgnn", "dataset": "my shop", "split_hash": "0", **given})
    assert Config("modèle.py:Été", "my shop", "0", {"x": "a b", "y": ["\x1b"]}, "0").model == "modèle.py:Été"


@pytest.mark.parametrize("given", [{"model": "p\x1b[31mop"}, {"model_options": {"x": "\x1b[31mA"}}], ids=str)
def test_settings_that_would_steer_the_terminal_reach_no_table(typed, given):
    train = ["train", "--dataset", "demo", "--quiet"]
    assert typed(*train, "pop")[0] == 0
    pop = folders.newest_group("runs")
    config = Config(**folders.group_config(pop))
    for name, value in given.items():
        object.__setattr__(config, name, value)  # as in a file edited by hand, with its hash
    by_hand = pop.with_name(f"pop-demo-{config.hash}")
    shutil.copytree(pop, by_hand)
    files.write_toml(by_hand / "config.toml", config.to_dict())
    forms = (["compare", "--dataset", "demo", "--format", form] for form in ("screen", "csv", "markdown", "latex"))
    for words in ([*train, "spop"], *forms):
        code, out, err = typed(*words)
        assert code == 0 and "spop" in out and "\x1b" not in out + err, words
        assert by_hand.name in err and "must have no control characters" in err


@pytest.mark.parametrize("name", ["a", "A-b_c.d", "0", "_", "x" * 100, "yoochoose-1-64"])
def test_a_plain_name_is_taken(name):
    check_name(name, "A data set")
    assert as_name(name) == name


@pytest.mark.parametrize("text", [*BAD, "my model-demo", "\x1b[31mred"])
def test_any_text_can_be_made_a_name(text):
    check_name(as_name(text), "A group")


def test_no_name_reaches_the_half_made_data_set_of_another(tmp_path):
    other = tmp_path / ".shop-2~abcdefgh"
    other.mkdir()
    for name in ("shop", "*", "shop*", "[s]hop-2", "?hop-2"):
        (tmp_path / f".{name}~12345678").mkdir()
        with catalog.claimed(name, tmp_path):
            assert other.exists() and not (tmp_path / f".{name}~12345678").exists()


@pytest.mark.parametrize("name", ["my shop", "shop*", "é", "-x", "[s]hop", "\x1b[31mshop"])
def test_a_data_set_from_before_names_were_checked_is_there_under_its_exact_name(typed, tmp_path, name):
    data = tmp_path / "data"
    for half_made in (".shop~12345678", ".shop"):
        catalog.save(small(), data).rename(data / half_made)
    catalog.save(small(), data).rename(data / name)
    catalog.save(small("shop-2"), data)
    assert catalog.names(data) == sorted([name, "shop-2"])
    assert catalog.load(name, data).name == name
    code, out, _ = typed("data", "list")
    assert code == 0 and shown(name) in out.splitlines()[0] and "\x1b" not in out
    code, out, _ = typed("data", "stats", "--", name)
    assert code == 0 and shown(name) in out and "\x1b" not in out
    code, out, _ = typed("data", "export", "--format", "lessr", "--out", "out", "--", name)
    assert code == 0 and "\x1b" not in out and f"import {as_name(f'{name}-copy')} --format" in out
    assert typed("data", "stats", "shop")[0] == 2


def test_what_steers_a_terminal_is_shown_as_an_escape():
    assert shown("a\nb\tc\x1b[31m é") == "a\\nb\\tc\\x1b[31m é"
    assert shown("\x9b2J\u202e\ud800\x7f") == "\\x9b2J\\u202e\\ud800\\x7f"  # C1, a turn of direction, half a letter
    assert shown_lines("a\x1b\n\rb") == "a\\x1b\n\\rb"


def test_errors_show_what_a_file_says_as_escapes(monkeypatch):
    def fail(*_):
        raise DataError("line 3 is \x1b]0;title\x07\nsecond line", "Mend \x1b[2Jit.\nThen again.")

    monkeypatch.setattr("click.Group.invoke", fail)
    result = CliRunner().invoke(LazyGroup("dissect"), ["x"])
    assert result.exit_code == 3
    assert result.stderr == "Error: line 3 is \\x1b]0;title\\x07\nsecond line\nMend \\x1b[2Jit.\nThen again.\n"


# --- CSV --------------------------------------------------------------------------------------------------------


def test_a_cell_of_a_csv_is_no_formula_and_a_number_stays_one():
    texts = ["=1+1", "+a", "-a", "@a", "\ta", "\ra", "\t1", "a=1", "-1.5", "+2", "", "'="]
    table = without_formulas(pd.DataFrame({"=x": texts, "y": range(-3, 9), "z": np.arange(12) / -7}))
    assert list(table["'=x"]) == ["'=1+1", "'+a", "'-a", "'@a", "'\ta", "'\ra", "'\t1", "a=1", "-1.5", "+2", "", "'="]
    assert table["y"].dtype == np.int64 and list(table["z"]) == list(np.arange(12) / -7)
    assert without_formulas(pd.DataFrame()).empty


def test_every_csv_is_written_without_formulas(tmp_path):
    rows = pd.DataFrame({"label": ["=HYPERLINK(1)"], "group": ["@g"], "variant": ["full"], "hr@20": [-1.25]})
    rows.attrs = {"dataset": "-x", "split_hash": "0" * 16, "protocol": "clean", "ties": "best"}
    assert to_csv([rows]).splitlines()[1] == "'-x,0000000000000000,clean,best,'=HYPERLINK(1),'@g,full,-1.25"
    Drawing("x", Figure(figsize=(1, 1)), "words", rows).save(tmp_path)
    assert (tmp_path / "x.csv").read_text().splitlines()[1] == "'=HYPERLINK(1),'@g,full,-1.25"


# --- umask ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mask", [0o077, 0o022, 0o002])
def test_files_and_folders_have_the_mode_that_the_umask_says(tmp_path, mask):
    before = os.umask(mask)
    try:
        folder = catalog.save(small(identifiers=["a", "b", "c"]), tmp_path / "data")
        out, _ = export(small(), "lessr", tmp_path / "out")
        files.write_json(tmp_path / "group" / "summary.json", {})
    finally:
        os.umask(before)
    for path in (folder, out, *folder.iterdir(), *out.iterdir(), tmp_path / "group" / "summary.json"):
        assert path.stat().st_mode & 0o777 == (0o777 if path.is_dir() else 0o666) & ~mask, path


def test_a_file_that_could_not_be_written_leaves_nothing(tmp_path):
    with pytest.raises(DissectError, match="Could not write"):
        files.write_atomically(tmp_path / "x", lambda file: os.open(tmp_path / "missing", os.O_RDONLY))
    assert list(tmp_path.iterdir()) == []


# --- a damaged neighbour ----------------------------------------------------------------------------------------


def test_one_damaged_data_set_does_not_stop_the_list_or_another(typed, tmp_path):
    data = tmp_path / "data"
    for name in ("good", "lacking", "garbled", "nested"):
        catalog.save(small(name), data)
    (data / "lacking" / "data.json").write_text("{}")
    (data / "garbled" / "data.json").write_bytes(b"\xff{")
    (data / "nested" / "data.json").write_text("[" * 100_000)
    code, out, err = typed("data", "list")
    assert (code, err) == (0, "") and out.splitlines()[0].endswith(": good")
    assert out.count("Damaged:") == 3 and "data.json lacks n_items, a whole number" in out
    found = json.loads(typed("data", "list", "--json")[1])
    assert found["present"] == ["good"] and set(found["damaged"]) == {"lacking", "garbled", "nested"}
    assert typed("data", "stats", "good")[0] == 0
    for name in found["damaged"]:
        code, out, err = typed("data", "stats", name)
        assert (code, out) == (3, "") and str(data / name) in err and "--force" in err
        catalog.save(small(name), data, force=True)  # as the error says
        assert typed("data", "stats", name)[0] == 0


@pytest.mark.parametrize("where", ["none", "both"])
def test_settings_of_sparsevd_are_no_settings_of_a_dense_model(tmp_path, where):
    """So that rows without SparseVD do not seem to differ in shadows or in the rate of log σ²."""
    config = Config("srgnn", "demo", "0" * 16, where=where)
    row = Entry(tmp_path / "srgnn-demo-00000000", "full", config.to_dict(), (), ({"epochs": 1.0},))
    of_sparsevd = {f"setting {each.name}" for each in SETTINGS if each.group == "SparseVD"} - {"setting where"}
    assert {"setting shadows", "setting own_rate", "setting unit"} < of_sparsevd
    assert of_sparsevd & entries.settings(row).keys() == (of_sparsevd if where == "both" else set())


def test_known_names_with_commas_are_told_apart():
    assert unknown("arm", "x", ["srgnn", "srgnn, normalised"]).hint == "Known: srgnn; srgnn, normalised."
