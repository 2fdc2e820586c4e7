"""Names, and texts of others: what a folder may be called, what a terminal is shown, what a CSV cell holds."""

import json
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from matplotlib.figure import Figure

from dissect import runs
from dissect.cli import LazyGroup, plot
from dissect.cli.compare_view import Comparison, means_csv, pairs_csv
from dissect.data import catalog
from dissect.data.export import export
from dissect.data.sessions import Dataset, Sessions
from dissect.errors import DataError, DissectError, UsageError
from dissect.text import as_name, check_name, shown, shown_lines, without_formulas

BAD = ["", ".", "..", ".x", "-x", "a/b", "../x", "a*", "?", "[ab]", "~", "a b", "a\nb", "\x1b[2J", "é", "x" * 101]


def small(name="shop", **more):
    train = Sessions.from_lists([[1, 2, 3], [2, 3]])
    return Dataset(name, 3, train, Sessions.from_lists([[3, 1]]), **more)


@pytest.mark.parametrize("name", BAD)
def test_a_name_is_of_letters_digits_and_a_few_signs(typed, tmp_path, name):
    with pytest.raises(UsageError) as error:
        check_name(name, "A data set")
    assert "letters" in error.value.hint and error.value.message.isprintable()
    Path("log.csv").write_text("visit,item,at\n1,2,3\n")
    bring = ["data", "prepare", f"--from={tmp_path}/log.csv", "--item-col=item", "--time-col=at", "--session-col=visit"]
    short = ["--max-steps", "2", "--quiet", f"--name={name}"]
    for words in ([*bring, "--", name], ["train", "pop", *short], ["run", *short], ["train", "srgnn", *short]):
        code, out, err = typed(*words)
        assert (code, out) == (2, "") and "cannot be named" in err and "\x1b" not in err
    assert not (tmp_path / "data").exists() and not (tmp_path / "runs").exists()


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


def test_a_folder_whose_name_steers_the_terminal_is_no_data_set(typed, tmp_path):
    folder = catalog.save(small(), tmp_path / "data")
    folder.rename(folder.with_name("\x1b[31mshop"))
    assert catalog.names(tmp_path / "data") == []
    assert "\x1b" not in "".join(map(str, typed("data", "list")))
    assert typed("data", "stats", "\x1b[31mshop")[0] == 2


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
    pairs = pd.DataFrame({"a": [0], "b": [0], "difference": [-0.5]})
    table = Comparison("-x", "0" * 16, "clean", 1, 1, rows, pairs, 1, 100, ())
    assert means_csv([table]).splitlines()[1] == "'-x,0000000000000000,clean,best,'=HYPERLINK(1),'@g,full,-1.25"
    assert "'=HYPERLINK(1),'=HYPERLINK(1),-0.5" in pairs_csv([table])
    plot._save(Figure(figsize=(1, 1)), tmp_path / "x", rows, "words")
    assert (tmp_path / "x.csv").read_text().splitlines()[1] == "'=HYPERLINK(1),'@g,full,-1.25"


# --- umask ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mask", [0o077, 0o022, 0o002])
def test_files_and_folders_have_the_mode_that_the_umask_says(tmp_path, mask):
    before = os.umask(mask)
    try:
        folder = catalog.save(small(identifiers=["a", "b", "c"]), tmp_path / "data")
        out, _ = export(small(), "lessr", tmp_path / "out")
        runs.write_json(tmp_path / "group" / "summary.json", {})
    finally:
        os.umask(before)
    for path in (folder, out, *folder.iterdir(), *out.iterdir(), tmp_path / "group" / "summary.json"):
        assert path.stat().st_mode & 0o777 == (0o777 if path.is_dir() else 0o666) & ~mask, path


def test_a_file_that_could_not_be_written_leaves_nothing(tmp_path):
    with pytest.raises(DissectError, match="Could not write"):
        runs.write_atomically(tmp_path / "x", lambda file: os.open(tmp_path / "missing", os.O_RDONLY))
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
