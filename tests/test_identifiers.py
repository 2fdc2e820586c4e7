"""What a log or a file calls its items goes with the data set and its runs, and comes back in recommendations."""

import csv
import io
import json
import sys

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from rich.console import Console

from dissect.cli import main
from dissect.cli.recommend import print_rows, with_progress
from dissect.data import catalog
from dissect.data.bring import prepare
from dissect.data.formats import import_files
from dissect.data.recipes import own_log
from dissect.errors import DataError, DivergedError, UsageError
from dissect.experiment.recommended import read_session, read_sessions, rows_of
from dissect.runs import files, folders
from dissect.training.recommend import Recommended, scores_after
from models import SRGNN


def shop(path, names):
    """A log of 300 visits, each on a cycle of the names; a rare item first, which the rules drop."""
    rng = np.random.default_rng(0)
    visits = []
    for _ in range(300):
        start = int(rng.integers(len(names)))
        visits.append([names[(start + k) % len(names)] for k in range(int(rng.integers(2, 6)))])
    rows = [
        f"v{v},{name},{1_600_000_000 + 1000 * v + k}" for v, visit in enumerate(visits) for k, name in enumerate(visit)
    ]
    path.write_text("\n".join(["visit,what,at", f"first,{names[0]},1600000000", "first,rare,1600000001", *rows]) + "\n")
    return visits


def called(dataset):
    """The sessions of both parts, as their source writes them."""
    parts = (dataset.train, dataset.test)
    return [[dataset.identifiers[i - 1] for i in part[s].tolist()] for part in parts for s in range(len(part))]


def invoke(*words):
    words = [str(word) for word in words]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["dissect", *words])
        result = CliRunner().invoke(main, words, prog_name="dissect")
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout, result.stderr


@pytest.mark.parametrize("names", [[f"sku-{n:02d}" for n in range(12)], list(range(900, 912))])
def test_a_prepared_log_reads_as_it_was_written(tmp_path, names):
    visits = shop(tmp_path / "log.csv", names)
    recipe = own_log(session="visit", item="what", time="at")
    dataset = prepare("shop", tmp_path / "log.csv", recipe)
    expected = [[str(name) for name in visit] for visit in visits]
    assert [[str(name) for name in session] for session in called(dataset)] == expected
    catalog.save(dataset, tmp_path / "data")
    assert catalog.load("shop", tmp_path / "data").identifiers == dataset.identifiers


def test_imported_items_are_called_as_in_their_files(tmp_path):
    head = "SessionId\tItemId\tTime\n"
    (tmp_path / "a").write_text(head + "1\tpear\t1\n1\tfig\t2\n2\tfig\t3\n2\tpear\t4\n3\tkiwi\t5\n")
    (tmp_path / "b").write_text(head + "9\tfig\t11\n9\tpear\t12\n")
    assert called(import_files("x", "gru4rec", tmp_path / "a", tmp_path / "b")) == [
        ["pear", "fig"],
        ["fig", "pear"],
        ["fig", "pear"],
    ]
    (tmp_path / "train.txt").write_text("0,2\n2,1,0\n3,2\n")
    (tmp_path / "test.txt").write_text("1,2\n")
    dataset = import_files("x", "lessr", tmp_path / "train.txt", tmp_path / "test.txt")
    assert called(dataset) == [[0, 2], [2, 1, 0], [3, 2], [1, 2]]
    (tmp_path / "test.txt").write_text("1,2\n3,2\n")
    recent = import_files("x", "lessr", tmp_path / "train.txt", tmp_path / "test.txt", recent=0.3)
    assert called(recent) == [[3, 2], [3, 2]] and recent.identifiers == [3, 2]


def test_numbers_of_a_catalogue_without_clicks_are_filled_up(tmp_path):
    head = "SessionId\tItemId\tTime\n"
    (tmp_path / "a").write_text(head + "1\tpear\t1\n1\tfig\t2\n")
    (tmp_path / "b").write_text(head + "9\tfig\t11\n9\tpear\t12\n")
    dataset = import_files("x", "gru4rec", tmp_path / "a", tmp_path / "b", n_items=4)
    assert dataset.identifiers == ["pear", "fig", "", ""]


@pytest.mark.parametrize("content", ['{"identifiers": ["a"]}', '{"identifiers": [1.5, true]}', "{}", "[]", "rubbish"])
def test_damaged_identifiers_are_data_errors(tmp_path, content):
    (tmp_path / "items.json").write_text(content)
    with pytest.raises(DataError, match=r"items\.json"):
        files.read_identifiers(tmp_path, 2)


def test_a_session_is_named_and_answered_by_identifiers(tmp_path):
    names = [*(f"sku-{n:02d}" for n in range(10)), '"big, red"', "[bold]"]
    shop(tmp_path / "log.csv", names)
    places = ["--runs-dir", tmp_path / "runs", "--data-dir", tmp_path / "data"]
    how = ["--session-col", "visit", "--item-col", "what", "--time-col", "at", "--data-dir", tmp_path / "data"]
    assert invoke("data", "prepare", "shop", "--from", tmp_path / "log.csv", *how)[0] == 0
    training = ["train", "srgnn", "--dataset", "shop", "--dim", 16, "--epochs", 30, "--lr", 0.01, "--device", "cpu"]
    assert invoke(*training, "--quiet", *places)[0] == 0
    run = ["recommend", folders.newest_group(tmp_path / "runs"), *places]

    by_identifier = [*run, "--identifiers", "--json", "--session"]
    for text, after in (("sku-03", "sku-04"), ("sku-08, sku-09", "big, red"), ('"big, red"', "[bold]")):
        code, out, err = invoke(*by_identifier, text)
        assert code == 0, err
        found = json.loads(out)
        assert found["items"][0]["identifier"] == after
        assert json.loads(invoke(*run, "--session", ",".join(map(str, found["session"])), "--json")[1]) == found
    code, out, _ = invoke(*run, "--identifiers", "--session", '"big, red"')
    assert "(big, red)" in out and "[bold]" in out
    for text in ("sku-3", "", "sku-03,,sku-04", '"sku-03', "sku-03\nsku-04"):
        code, out, err = invoke(*by_identifier, text)
        assert ((code, out) == (2, "") and "sku-0" in err) or "sku-881" in err
    code, _, err = invoke(*run, "--session", "sku-03")
    assert code == 2 and "--identifiers" in err
    everything = ",".join(map(str, range(1, len(names) + 1)))
    assert "has every item" in invoke(*run, "--unseen", "--session", everything)[2]


def test_items_that_are_never_clicked_have_no_name():
    assert read_session("3", 4, [7, 3, "", ""], by_identifier=True) == [2]
    with pytest.raises(UsageError, match="empty, or has an empty place"):
        read_session('""', 4, [7, 3, "", ""], by_identifier=True)
    assert read_session('" lead", x', 4, [" lead", "x"], by_identifier=True) == [1, 2]


def test_items_are_found_by_the_text_of_what_they_are_called(tmp_path):
    names = ["0123", 123, "1E5", "100000", "0100000"]
    assert read_session("0123,100000,123,1E5", 4, names, by_identifier=True) == [1, 4, 2, 3]
    with pytest.raises(UsageError, match="'00123'"):
        read_session("00123", 4, names, by_identifier=True)
    with pytest.raises(DataError, match="items 1 and 2 are both called '5'"):  # an older version split them
        read_session("5", 4, [5, "5"], by_identifier=True)


def test_a_file_of_sessions_keeps_the_clicks_that_the_model_knows(tmp_path):
    names = ["0123", 123, "a, b", "x"]
    file = tmp_path / "sessions.csv"
    file.write_bytes('\ufeff123,new,0123\r\nnew\r\n"a, b"\r\n'.encode())
    said: list[str] = []
    assert read_sessions(file, 4, names, True, said.append) == {1: [2, 1], 3: [3]}
    assert "the item: 2 (the first: 'new' in line 1)" in said[0] and "no item of them: 1." in said[0]
    file.write_text("new\n")
    with pytest.raises(DataError, match="no session with an item that the model knows"):
        read_sessions(file, 4, names, True, said.append)
    file.write_text('x\n"a\n')
    with pytest.raises(DataError, match="line 2: The session"):
        read_sessions(file, 4, names, True, said.append)


@pytest.mark.parametrize("on_terminal", [False, True])
def test_identifiers_in_csv_are_no_formulas_and_steer_no_terminal(capsys, monkeypatch, on_terminal):
    names = ["=cmd|'/c calc'!A0", "@x", "-1+1", -7, "-7", "\x1b[31mred", "a\nb", "tea"]
    rows = [{"session": 1, **row} for row in rows_of([Recommended(i, 0.5, None) for i in range(1, 9)], names)]
    print_rows(rows, as_json=True)
    assert [json.loads(line)["identifier"] for line in capsys.readouterr().out.splitlines()] == names
    monkeypatch.setattr("sys.stdout.isatty", lambda: on_terminal)
    print_rows(rows, as_json=False)
    out = capsys.readouterr().out
    safe = ["'=cmd|'/c calc'!A0", "'@x", "'-1+1", "-7", "-7", "\x1b[31mred", "a\nb", "tea"]
    if on_terminal:
        safe[5:7] = ["\\x1b[31mred", "a\\nb"]
    assert [row["identifier"] for row in csv.DictReader(io.StringIO(out))] == safe


def test_without_identifiers_they_cannot_be_used(tmp_path):
    assert invoke("train", "pop", "--dataset", "demo", "--quiet", "--runs-dir", tmp_path)[0] == 0
    run = ["recommend", folders.newest_group(tmp_path), "--runs-dir", tmp_path, "--session", "1"]
    code, out, err = invoke(*run, "--identifiers")
    assert (code, out) == (2, "") and "numbers only" in err
    assert "item  identifier" not in invoke(*run)[1]


def test_a_model_whose_scores_are_no_numbers_recommends_nothing():
    model = SRGNN(5, dim=4)
    assert scores_after(model, [[1, 2]], torch.device("cpu")).shape == (1, 5)
    with torch.no_grad():
        model.items[3] = float("nan")
    with pytest.raises(DivergedError, match="nothing to recommend"):
        scores_after(model, [[1, 2]], torch.device("cpu"))


def test_progress_on_a_terminal_leaves_the_answers_on_stdout(capsys, monkeypatch):
    """`dissect recommend --sessions FILE --json > answers.jsonl`, typed on a terminal."""
    screen = Console(file=io.StringIO(), force_terminal=True)
    monkeypatch.setattr("dissect.progress.console", lambda quiet=False: screen)
    for rows in with_progress(iter([[{"item": 1}], [{"item": 2}]]), 2, quiet=False):
        print_rows(rows, as_json=True)
    assert capsys.readouterr().out == '{"item": 1}\n{"item": 2}\n'
