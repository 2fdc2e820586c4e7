"""What the command line answers to errors, interruptions, slips of the pen and readers that leave."""

from __future__ import annotations

import shlex
import subprocess
import sys
import types
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from dissect import errors
from dissect.cli import COMMANDS, main, same_places

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def typed(monkeypatch, tmp_path):
    """Type a command of a verb `probe` whose body is given: (exit code, stderr)."""

    def type_(body, *words):
        monkeypatch.setitem(COMMANDS, "probe", ("probe_module", "Only here."))
        module = types.ModuleType("probe_module")
        module.command = click.Command("probe", callback=body)
        monkeypatch.setitem(sys.modules, "probe_module", module)
        result = CliRunner().invoke(main, ["probe", *words], prog_name="dissect")
        assert result.stdout == ""
        return result.exit_code, result.stderr

    return type_


def raising(error):
    def body():
        raise error

    return body


def test_an_error_is_its_message_its_hint_and_its_exit_code(typed):
    assert typed(raising(errors.DissectError("No room."))) == (1, "Error: No room.\n")
    assert typed(raising(errors.DataError("x is empty.", "Bring it: ..."))) == (
        3,
        "Error: x is empty.\nBring it: ...\n",
    )
    assert typed(raising(errors.unknown("model", "srgn", ["srgnn", "narm"]))) == (
        2,
        "Error: There is no model named 'srgn'.\nDid you mean srgnn?\n",
    )
    assert typed(raising(errors.DivergedError("NaN at step 3.")))[0] == 4
    assert typed(raising(KeyboardInterrupt())) == (130, "Interrupted.\n")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["rnu"], "There is no command named 'rnu'.\nDid you mean run"),
        (["plot", "densty"], "'density'"),
        (["run", "--sed", "1"], "'--seed'"),
        (["run", "--prior", "norml"], "'normal'"),
        (["run", "--seed", "x"], "'x' is not a valid integer"),
    ],
    ids=" ".join,
)
def test_a_slip_of_the_pen_is_usage_and_names_what_is_near(words, says):
    result = CliRunner().invoke(main, words, prog_name="dissect")
    assert (result.exit_code, result.stdout) == (2, "")
    assert says in result.stderr


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["verdict", "folder"], "folder is not a group of runs: it has no config.toml.\nSee the groups"),
        (["train", "./x.txt:Mine", "--dataset", "demo"], "'./x.txt:Mine' is not a model.\nOne of your own is a class"),
        (["list", "--runs-dir", "file"], "file is a file, not a folder.\n"),
        (["list", "--runs-dir", "nowhere"], "nowhere does not exist.\n"),
        (["report", "--out", "file/page.html"], "file/page.html cannot be written: file is a file, not a folder."),
    ],
    ids=" ".join,
)
def test_a_name_of_another_kind_is_said_to_be_so(tmp_path, monkeypatch, words, says):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("years of work")
    result = CliRunner().invoke(main, words, prog_name="dissect")
    assert (result.exit_code, result.stdout) == (2, "") and says in result.stderr
    assert (tmp_path / "file").read_text() == "years of work"


@pytest.mark.parametrize(
    ("words", "adds"),
    [
        (["verdict", "--runs-dir", "my runs"], "Add --runs-dir 'my runs' to it, as here.\n"),
        (["compare", "--runs-dir=else where"], "Add --runs-dir 'else where' to it, as here.\n"),
        (["verdict"], ""),
        (["models", "srgn"], ""),  # its hint names no command
    ],
    ids=["apart", "joined", "the usual place", "no command"],
)
def test_a_hint_names_the_folder_that_was_given(tmp_path, monkeypatch, words, adds):
    monkeypatch.chdir(tmp_path)
    says = CliRunner().invoke(main, words, prog_name="dissect").stderr
    assert ("Add --" in says) == bool(adds)
    assert says.endswith(adds)


def test_a_hint_that_names_the_folder_or_takes_none_is_left_as_it_is():
    words = ["run", "--runs-dir", "r", "--data-dir", "d"]
    assert same_places("Go on with it: dissect resume r/srgnn/s1", words) == "Add --data-dir d to it, as here."
    assert same_places("See: dissect models MODEL", words) == ""
    assert same_places("Bring it: dissect data import x", words) == "Add --data-dir d to it, as here."


def test_a_reader_that_leaves_is_no_traceback():
    done = subprocess.run(
        f"{shlex.quote(sys.executable)} -m dissect data stats demo --json | head -c 1",
        shell=True,
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert (done.stdout, done.stderr) == ("{", "")
