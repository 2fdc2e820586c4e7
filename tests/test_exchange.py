"""Exchange files: every format there and back is the same split; other people's files; what is refused."""

from __future__ import annotations

import json
import os
import pickle
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dissect.data import catalog, exchange, formats, log
from dissect.data import export as module
from dissect.data.exchange import AS_IN_FILES, EXPORTED
from dissect.data.export import export, timing
from dissect.data.formats import import_files
from dissect.data.sessions import Dataset, Sessions
from dissect.data.translate import Numbering, numbering_of, translation
from dissect.errors import DataError, UsageError

TEXT_FORMATS = ("srgnn", "lessr", "recbole", "gru4rec")


@pytest.fixture(params=[*TEXT_FORMATS, "parquet"])
def format(request):
    return request.param


def dataset(train, test, n_items=None, times=True, users=True):
    parts = []
    clock = 1_500_000_000
    for lists in (train, test):
        sessions = Sessions.from_lists(lists)
        clicks = clock + np.arange(sessions.n_clicks) * 7
        clock += sessions.n_clicks * 7
        parts.append(
            Sessions(
                sessions.items,
                sessions.offsets,
                clicks[sessions.offsets[1:] - 1] if times else None,
                np.arange(len(sessions), dtype=np.int64) * 3 if users else None,
                clicks if times else None,
            )
        )
    largest = int(max(parts[0].items.max(), parts[1].items.max()))
    return Dataset("x", n_items or largest, *parts)


def listed(sessions):
    return [sessions[i].tolist() for i in range(len(sessions))]


def back(data, format, folder, **more):
    out, files = export(data, format, folder, **more)
    paths = [out / name for name in files]
    valid = paths[1] if len(paths) == 3 else None
    return import_files("x", format, paths[0], paths[-1], valid=valid)


some_sessions = st.lists(st.lists(st.integers(1, 9), min_size=2, max_size=6), min_size=2, max_size=6)


@settings(deadline=None, max_examples=15)
@given(train=some_sessions, test=some_sessions, more=st.integers(0, 200), timed=st.booleans())
@pytest.mark.parametrize("name", TEXT_FORMATS)
def test_there_and_back_is_the_same_split(tmp_path_factory, name, train, test, more, timed):
    # An item that both have; the last session is too long for a part of train to be the same.
    data = dataset([*train, [1, 1]], [*test, [1] * 7], times=timed)
    data = Dataset("x", data.n_items + more, data.train, data.test)
    read = back(data, name, tmp_path_factory.mktemp("e") / "out", validation=0.5)
    assert read.split_hash == data.split_hash


@pytest.mark.parametrize("name", ["gru4rec", "parquet"])
@pytest.mark.parametrize("times", [True, False])
def test_tables_of_clicks_keep_times_and_users(tmp_path, name, times):
    data = dataset([[1, 2], [2, 3, 3]], [[3, 1], [2, 1]], times=times)
    read = back(data, name, tmp_path / "out")
    for before, after in ((data.train, read.train), (data.test, read.test)):
        fields = ("times", "click_times", *(("users",) if name == "parquet" else ()))
        for field in fields:
            a, b = getattr(before, field), getattr(after, field)
            assert (a is None) == (b is None) and (a is None or a.tolist() == b.tolist()), field


def test_times_that_are_not_in_order_are_told_as_the_ends_of_sessions(tmp_path):
    data = dataset([[1, 2], [2, 3, 3]], [[3, 1], [2, 1]])
    data.train.click_times[:2] = data.train.click_times[:2][::-1].copy()
    assert timing(data) == "ends"
    read = back(data, "gru4rec", tmp_path / "out")
    assert read.split_hash == data.split_hash and read.train.times.tolist() == data.train.times.tolist()
    assert read.train.click_times is None


def test_a_built_in_set_comes_back_from_every_format(tmp_path, format):
    data = dataset([[3, 1, 2], [5, 5], [1, 4]] * 5, [[1, 2], [4, 3, 1]], n_items=12)
    assert back(data, format, tmp_path / "out").split_hash == data.split_hash
    record = json.loads((tmp_path / "out" / EXPORTED).read_text())
    assert record["split_hash"] == data.split_hash and record["n_items"] == 12
    (tmp_path / "out" / EXPORTED).unlink()  # without the record only the size of the catalogue is lost
    files = sorted(tmp_path.joinpath("out").iterdir())
    if format != "recbole":
        train = next(p for p in files if p.name.startswith(("all_train", "train.t", "train.p")))
        test = next(p for p in files if p.name.startswith("test"))
        again = import_files("x", format, train, test)
        assert listed(again.train) == listed(data.train) and listed(again.test) == listed(data.test)
        assert again.n_items == (12 if format == "lessr" else 5)


def test_the_files_are_as_their_programs_want_them(tmp_path):
    data = dataset([[3, 1, 2], [2, 2]], [[1, 2], [3, 1]])
    srgnn, _ = export(data, "srgnn", tmp_path / "s")
    assert pickle.loads((srgnn / "train.txt").read_bytes()) == ([[3, 1], [3], [2]], [2, 1, 2])
    assert pickle.loads((srgnn / "all_train_seq.txt").read_bytes()) == [[3, 1, 2], [2, 2]]
    assert pickle.loads((srgnn / "test.txt").read_bytes()) == ([[1], [3]], [2, 1])
    assert (srgnn / "train.txt").read_bytes()[:2] == b"\x80\x02"  # protocol 2
    lessr, _ = export(data, "lessr", tmp_path / "l")
    assert (lessr / "train.txt").read_text() == "2,0,1\n1,1\n" and (lessr / "num_items.txt").read_text() == "3"
    recbole, files = export(data, "recbole", tmp_path / "r", validation=0.5)
    assert files == ["x.train.inter", "x.valid.inter", "x.test.inter"]
    assert (recbole / "x.train.inter").read_text().splitlines() == [
        "session_id:token\titem_id_list:token_seq\titem_id:token",
        "1\t3 1\t2",
        "1\t3\t1",
    ]
    assert (recbole / "x.test.inter").read_text().splitlines()[1:] == ["3\t1\t2", "4\t3\t1"]
    assert "benchmark_filename: [train, valid, test]" in (recbole / "x.yaml").read_text()
    gru, _ = export(data, "gru4rec", tmp_path / "g")
    assert (gru / "test.tsv").read_text().splitlines()[:2] == ["SessionId\tItemId\tTime", "3\t1\t1500000035"]


def test_the_augmented_form_of_training_comes_back_too(tmp_path):
    data = dataset([[3, 1, 2], [2, 2]], [[1, 2], [3, 1]])
    out, _ = export(data, "srgnn", tmp_path / "s")
    assert import_files("x", "srgnn", out / "train.txt", out / "test.txt").split_hash == data.split_hash


# --- other people's files ---------------------------------------------------------------------------------------


def test_gru4rec_files_of_others_are_put_in_the_order_of_time(tmp_path):
    (tmp_path / "train").write_text("SessionId\tItemId\tTime\n9\t77\t300\n9\t55\t200\n4\t55\t110\n4\t66\t100.5\n")
    (tmp_path / "test").write_text("ItemId\tTime\tSessionId\n55\t400\t1\n99999\t500\t1\n66\t501\t1\n")
    data = import_files("x", "gru4rec", tmp_path / "train", tmp_path / "test")
    # Numbered by appearance in the files (77, 55, 66, 99999), sessions by their end.
    assert listed(data.train) == [[3, 2], [2, 1]] and listed(data.test) == [[2, 4, 3]] and data.n_items == 4
    assert data.train.times.tolist() == [110, 300]
    assert data.provenance["items"] == "numbered by first appearance"


def test_recbole_files_with_a_click_a_line(tmp_path):
    head = "session_id:token\titem_id:token\ttimestamp:float\n"
    (tmp_path / "a").write_text(head + "s1\tb\t2\ns1\ta\t1\ns2\ta\t9\ns2\ta\t9\n")
    (tmp_path / "b").write_text(head + "s3\tb\t12\ns3\tc\t13\ns3\ta\t14\n")
    data = import_files("x", "recbole", tmp_path / "a", tmp_path / "b")
    assert listed(data.train) == [[2, 1], [2, 2]] and listed(data.test) == [[1, 3, 2]]


def test_recbole_prefixes_with_words_for_items(tmp_path):
    head = "session_id:token\titem_id_list:token_seq\titem_id:token\n"
    (tmp_path / "a").write_text(head + "1\tapple pear\tfig\n1\tapple\tpear\n2\tfig\tfig\n")
    (tmp_path / "b").write_text(head + "3\tpear kiwi\tfig\n3\tpear\tkiwi\n")
    data = import_files("x", "recbole", tmp_path / "a", tmp_path / "b")
    assert listed(data.train) == [[1, 2, 3], [3, 3]] and listed(data.test) == [[2, 4, 3]]


@pytest.mark.parametrize(
    ("name", "train", "says"),
    [
        ("gru4rec", "SessionId.ItemId.Time\n1.2.3\n", "expected SessionId or session_id"),
        ("gru4rec", "SessionId\tItemId\n1\t2\n", "expected"),
        ("gru4rec", "SessionId\tItemId\tTime\n1\t2\tsoon\n1\t3\t5\n", "line 2"),
        ("gru4rec", "SessionId\tItemId\tTime\n1\t2\t3\n", "no session of two clicks"),
        ("gru4rec", "SessionId\tItemId\tTime\n", "no clicks"),
        ("gru4rec", "", "empty"),
        ("recbole", "session_id:token\titem_id_list:token_seq\titem_id:token\n1\t2 3\t4\n1\t3\t2\n", "no prefix"),
    ],
)
def test_bad_tables_are_refused(tmp_path, name, train, says):
    (tmp_path / "bad").write_text(train)
    good = {
        "gru4rec": "SessionId\tItemId\tTime\n1\t2\t3\n1\t2\t4\n",
        "recbole": "session_id:token\titem_id:token\ttimestamp:float\n1\t2\t3\n1\t2\t4\n",
    }[name]
    (tmp_path / "good").write_text(good)
    with pytest.raises(DataError, match=says) as error:
        import_files("x", name, tmp_path / "bad", tmp_path / "good")
    assert "bad" in error.value.message


def test_a_catalogue_smaller_than_its_items_is_refused(tmp_path):
    out, files = export(dataset([[1, 5], [2, 1]], [[5, 2]]), "lessr", tmp_path / "l")
    (out / "num_items.txt").write_text("3")
    with pytest.raises(DataError, match="of 3 items the last is 2"):
        import_files("x", "lessr", *(out / name for name in files))
    (out / "num_items.txt").write_text("three")
    with pytest.raises(DataError, match="one whole number"):
        import_files("x", "lessr", *(out / name for name in files))


def test_an_export_is_whole_or_not_there(tmp_path, monkeypatch):
    data = dataset([[1, 2], [2, 1]], [[1, 1]])
    export(data, "lessr", tmp_path / "out")
    with pytest.raises(UsageError, match="it is an export already"):
        export(data, "lessr", tmp_path / "out")
    export(data, "lessr", tmp_path / "out", force=True)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setitem(module.WRITERS, "lessr", full)
    with pytest.raises(DataError, match="No space left"):
        export(data, "lessr", tmp_path / "other")
    with pytest.raises(UsageError, match="leaves a part empty"):
        export(data, "recbole", tmp_path / "third", validation=0.0)
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("force", [False, True])
def test_what_came_while_it_was_exported_stays(tmp_path, monkeypatch, force):
    out, write = tmp_path / "out", module.WRITERS["lessr"]

    def slow(*about):
        out.mkdir()
        (out / "thesis.txt").write_text("years of work")
        return write(*about)

    monkeypatch.setitem(module.WRITERS, "lessr", slow)
    with pytest.raises(UsageError, match="do not belong"):
        export(dataset([[1, 2], [2, 1]], [[1, 1]]), "lessr", out, force=force)
    assert (out / "thesis.txt").exists() and [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_data_set_that_came_while_another_was_written_stays(tmp_path, monkeypatch):
    data, write = replace(dataset([[1, 2], [2, 1]], [[1, 1]]), name="shop"), catalog.write_identifiers

    def slow(*about):
        monkeypatch.setattr(catalog, "write_identifiers", write)
        catalog.save(data, tmp_path)
        write(*about)

    monkeypatch.setattr(catalog, "write_identifiers", slow)
    with pytest.raises(UsageError, match="shop is not replaced: it is a data set already"):
        catalog.save(replace(data, n_items=3), tmp_path)
    assert catalog.load("shop", tmp_path).n_items == data.n_items
    assert [path.name for path in tmp_path.iterdir()] == ["shop"]


@pytest.mark.parametrize("number", [1, 2])
def test_ctrl_c_while_an_export_is_replaced_leaves_a_whole_one(tmp_path, monkeypatch, number):
    """At the first or the second of its two renames."""
    data, out, rename, calls = dataset([[1, 2], [2, 1]], [[1, 1]]), tmp_path / "out", os.rename, []
    export(data, "lessr", out)
    before = {path.name: path.read_bytes() for path in out.iterdir()}

    def interrupted(*paths):
        calls.append(paths)
        if len(calls) == number:
            raise KeyboardInterrupt
        rename(*paths)

    monkeypatch.setattr(os, "rename", interrupted)
    with pytest.raises(KeyboardInterrupt):
        export(data, "lessr", out, force=True)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


# --- identifiers, times, sessions ---------------------------------------------------------------------------------


def called(data):
    """The sessions of both parts, as their files call the items."""
    names = data.identifiers or range(1, data.n_items + 1)
    return [[str(names[item - 1]) for item in session] for part in (data.train, data.test) for session in listed(part)]


SKUS = [["0123", "123"], ["1E5", "100000"], ["0100000", "123", "0123"]]
SKUS_TEST = [["123", "1E5", "0123"]]


def click_files(folder, format, head, rows="{session}\t{item}\t{time}\n"):
    """Train and test files of SKUS with a click a row."""
    paths, time, session = [], 0, 0
    for name, sessions in (("train", SKUS), ("test", SKUS_TEST)):
        clicks = []
        for visit in sessions:
            session += 1
            for item in visit:
                time += 7
                clicks.append({"session": f"0{session}", "item": item, "time": 1_500_000_000 + time})
        paths.append(folder / (name + (".parquet" if format == "parquet" else "")))
        if format == "parquet":
            pd.DataFrame(clicks).to_parquet(paths[-1])
        else:
            paths[-1].write_text(head + "".join(rows.format(**click) for click in clicks))
    return paths


@pytest.mark.parametrize(
    ("name", "head"),
    [
        ("gru4rec", "SessionId\tItemId\tTime\n"),
        ("recbole", "session_id:token\titem_id:token\ttimestamp:float\n"),
        ("parquet", ""),
    ],
)
def test_an_identifier_is_the_text_that_stands_there(tmp_path, name, head):
    data = import_files("x", name, *click_files(tmp_path, name, head))
    assert data.n_items == 5 and called(data) == [*SKUS, *SKUS_TEST]
    assert back(data, name, tmp_path / "out", validation=0.4).split_hash == data.split_hash


def test_recbole_lists_and_targets_are_the_same_text(tmp_path):
    head = "session_id:token\titem_id_list:token_seq\titem_id:token\n"
    (tmp_path / "a").write_text(head + "1\t 001  002\t003\n1\t001\t002\n2\t003\t1\n")
    (tmp_path / "b").write_text(head + "3\t1\t001\n")
    data = import_files("x", "recbole", tmp_path / "a", tmp_path / "b")
    assert called(data) == [["001", "002", "003"], ["003", "1"], ["1", "001"]] and data.n_items == 4


def test_a_list_is_cut_at_spaces_only(tmp_path):
    head = "session_id:token\titem_id_list:token_seq\titem_id:token\n"
    (tmp_path / "a").write_text(head + "1\ta\u00a0b c\x0bd\te\x1cf\n1\ta\u00a0b\tc\x0bd\n", encoding="utf-8")
    (tmp_path / "b").write_text(head + "3\te\x1cf\ta\u00a0b\n", encoding="utf-8")
    data = import_files("x", "recbole", tmp_path / "a", tmp_path / "b")
    assert called(data) == [["a\u00a0b", "c\x0bd", "e\x1cf"], ["e\x1cf", "a\u00a0b"]]


def test_what_a_share_of_the_sessions_drops_is_said(typed, tmp_path):
    head, rows = "SessionId\tItemId\tTime\n", "{0}\t{1}\t{3}\n{0}\t{2}\t{4}\n"
    train = [rows.format(n, *items, 100 + 2 * n, 101 + 2 * n) for n, items in enumerate([(1, 3), (1, 2), (2, 1)])]
    test = [rows.format(n, *items, 200 + 2 * n, 201 + 2 * n) for n, items in enumerate([(1, 2), (1, 3)])]
    (tmp_path / "a.tsv").write_text(head + "".join(train))
    (tmp_path / "b.tsv").write_text(head + "".join(test))
    paths = [str(tmp_path / "a.tsv"), str(tmp_path / "b.tsv")]
    code, out, err = typed("data", "import", "x", "--format", "gru4rec", *paths, "--recent", "2/3")
    assert code == 0, err
    assert "Dropped from test: 1 click on items that no kept training session has, and 1 session with them." in out


@pytest.mark.parametrize(
    ("items", "n_items", "identifiers"),
    [
        (["2", "3", "7"], 7, None),
        (["2", "3", "07"], 3, ["2", "3", "07"]),
        (["0", "1", "2"], 3, ["0", "1", "2"]),
        (["1", "2", "31"], 3, ["1", "2", "31"]),  # too many gaps
        (["1", "2", "3.0"], 3, ["1", "2", "3.0"]),
        (["1", "2", "٣"], 3, ["1", "2", "٣"]),  # a digit to Python
    ],
)
def test_identifiers_that_are_numbers_from_1_are_the_numbers(tmp_path, items, n_items, identifiers):
    rows = "".join(f"1\t{item}\t{time}\n" for time, item in enumerate(items, 100))
    (tmp_path / "a").write_text("SessionId\tItemId\tTime\n" + rows, encoding="utf-8")
    (tmp_path / "b").write_text(f"SessionId\tItemId\tTime\n2\t{items[0]}\t200\n2\t{items[1]}\t201\n")
    data = import_files("x", "gru4rec", tmp_path / "a", tmp_path / "b")
    assert (data.n_items, data.identifiers) == (n_items, identifiers)


def test_an_export_brings_its_identifiers_back(tmp_path, format):
    names = ["0012", "12", "", "shoe", "=cup"]  # the third is never clicked
    data = replace(dataset([[5, 1, 2], [2, 4], [1, 4]], [[1, 2], [4, 1]]), identifiers=names)
    data.provenance["format"] = "log"
    read = back(data, format, tmp_path / "out", validation=0.4)
    assert called(read) == called(data) and read.identifiers == numbering_of(read).names == names
    shuffled = replace(data, identifiers=names[::-1], name="y")
    again = back(shuffled, format, tmp_path / "other", validation=0.4)
    again.provenance["format"] = "gru4rec"  # whatever wrote it
    assert translation(numbering_of(read), replace(numbering_of(again), split_hash="1")).tolist() == [0, 5, 4, 0, 2, 1]
    twice = back(read, format, tmp_path / "twice", validation=0.4)
    assert numbering_of(twice).names == names


def test_numbers_that_are_the_identifiers_come_back_as_such(tmp_path, format):
    data = dataset([[3, 1, 2], [2, 4], [1, 4]], [[1, 2], [4, 1]])
    data.provenance.update(format="gru4rec", items=AS_IN_FILES)
    assert numbering_of(back(data, format, tmp_path / "out", validation=0.4)).names == ["1", "2", "3", "4"]


@pytest.mark.parametrize("record", ["has none", "is of an earlier version", "is of other files"])
def test_numbers_of_an_export_are_no_names(tmp_path, format, record):
    data = dataset([[3, 1, 2], [2, 4], [1, 4]], [[1, 2], [4, 1]])
    if record != "has none":
        data = replace(data, identifiers=["a", "b", "c", "d"], provenance={"format": "log"})
    out, files = export(data, format, tmp_path / "out", validation=0.4)
    written = json.loads((out / EXPORTED).read_text())
    if record == "is of an earlier version":
        del written["identifiers"]
    elif record == "is of other files":  # changed since, such as by a filter
        written["files"] = dict.fromkeys(written["files"], "0" * 64)
    (out / EXPORTED).write_text(json.dumps(written))
    read = import_files("x", format, out / files[0], out / files[-1])
    assert numbering_of(read).names is None
    with pytest.raises(DataError, match="numbers only") as error:
        translation(Numbering("b", 2, "1", {"format": "log"}, ["1", "2"]), numbering_of(read))
    assert EXPORTED in error.value.hint


@pytest.mark.parametrize(("name", "first"), [("srgnn", 0), ("lessr", 1)])
def test_an_export_counts_its_items_from_where_its_format_does(tmp_path, name, first):
    data = replace(dataset([[2, 3], [3, 2]], [[2, 2]]), identifiers=["", "b", "c"], provenance={"format": "log"})
    out, files = export(data, name, tmp_path / "out")
    with pytest.raises(UsageError, match="is of an export, whose items count from") as error:
        import_files("x", name, out / files[0], out / files[-1], first_id=first, n_items=4)
    assert "--first-id" in error.value.hint


@pytest.mark.parametrize(
    ("separator", "unit", "session"),
    [("\t", 1, "session_id"), (",", 1000, "session_id"), (",", 1, "user_id"), ("\t", 1000, "visitor_id")],
)
def test_recbole_files_of_many_makes(tmp_path, separator, unit, session):
    head = separator.join([f"{session}:token", "item_id:token", "timestamp:float"]) + "\n"
    row = separator.join(["{}", "{}", "{}"]) + "\n"
    clicks = [("u1", "b", 2), ("u1", "a", 1), ("u2", "a", 3), ("u2", "b", 4)]
    rows = [row.format(user, item, (1_500_000_000 + time) * unit) for user, item, time in clicks]
    (tmp_path / "a").write_text(head + "".join(rows) + "\n")  # a blank last line
    (tmp_path / "b").write_text(head + "".join(rows[2:]) + row.format("u2", "a", 1_500_000_005 * unit))
    data = import_files("x", "recbole", tmp_path / "a", tmp_path / "b")
    assert called(data) == [["a", "b"], ["a", "b"], ["a", "b", "a"]]
    assert data.train.times.tolist() == [1_500_000_002, 1_500_000_004]


def test_how_times_were_read_is_said(tmp_path, monkeypatch):
    """Where the reader of logs tells it, and the order of the clicks depends on it."""
    read_log = exchange.read_log

    def read(path, format):
        source = read_log(path, format)
        return replace(source, record=source.record | {"times": f"{path.name}'s clock"})

    monkeypatch.setattr(exchange, "read_log", read)
    paths = click_files(tmp_path, "gru4rec", "SessionId\tItemId\tTime\n")
    assert import_files("x", "gru4rec", *paths).provenance["times"] == "train's clock and test's clock"
    data = dataset([[1, 2], [2, 3, 3]], [[3, 1], [2, 1]])
    assert "times" not in back(data, "gru4rec", tmp_path / "out").provenance


def test_sessions_counted_anew_for_each_user_stay_apart(tmp_path):
    table = pd.DataFrame(
        {
            "session": [1, 1, 1, 1, 2, 2],
            "user": ["ann", "ann", "bob", "bob", "ann", "ann"],
            "item": [1, 2, 2, 1, 1, 1],
            "time": [1_500_000_000 + k for k in range(6)],
        }
    )
    table.to_parquet(tmp_path / "a.parquet")
    table[:2].to_parquet(tmp_path / "b.parquet")
    data = import_files("x", "parquet", tmp_path / "a.parquet", tmp_path / "b.parquet")
    assert listed(data.train) == [[1, 2], [2, 1], [1, 1]] and data.train.users.tolist() == [0, 1, 0]


def test_clicks_without_a_user_stay_in_their_session(tmp_path):
    clicks = [(session, item) for session in range(8) for item in (1, 2, 3, 4)]
    table = pd.DataFrame(clicks, columns=["session", "item"])
    table["user"] = [None if item == 1 else f"u{session // 2}" for session, item in clicks]
    table.to_parquet(tmp_path / "a.parquet")
    table[:8].to_parquet(tmp_path / "b.parquet")
    data = import_files("x", "parquet", tmp_path / "a.parquet", tmp_path / "b.parquet")
    assert data.train.lengths.tolist() == [4] * 8 and data.train.users.tolist() == [0, 0, 1, 1, 2, 2, 3, 3]


def test_sessions_without_a_user_come_back_without_one(tmp_path):
    data = dataset([[1, 2], [2, 1], [1, 1]], [[1, 1]])
    data.train.users[:] = [7, -1, 12]
    assert back(data, "parquet", tmp_path / "out").train.users.tolist() == [7, -1, 12]


@pytest.mark.parametrize(
    ("users", "read"),
    [
        ([None, None, None, None], None),
        (["7", "7", "12", "12"], [7, 12]),
        (["07", "07", "7", "7"], [0, 1]),
        (["7", "7", None, None], [7, -1]),
        (["7", None, None, "12"], [7, 12]),
        ([None, "7", None, None], [7, -1]),
    ],
)
def test_users_of_parquet(tmp_path, users, read):
    table = pd.DataFrame({"session": [1, 1, 2, 2], "item": [1, 2, 2, 1], "user": pd.array(users, dtype="string")})
    table.to_parquet(tmp_path / "a.parquet")
    table[:2].to_parquet(tmp_path / "b.parquet")
    data = import_files("x", "parquet", tmp_path / "a.parquet", tmp_path / "b.parquet")
    assert (None if data.train.users is None else data.train.users.tolist()) == read


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda record: "{", "cannot be read as JSON"),
        (lambda record: "[" * 100_000, "cannot be read as JSON"),
        (lambda record: [], "has no `files`"),
        (lambda record: {k: v for k, v in record.items() if k != "n_items"}, "has no `n_items`"),
        (lambda record: record | {"n_items": 2**31}, "has no `n_items`"),
        (lambda record: record | {"n_items": True}, "has no `n_items`"),
        (lambda record: {k: v for k, v in record.items() if k != "times"}, "has no `times`"),
        (lambda record: record | {"identifiers": ["a"]}, "has no `identifiers`"),
        (lambda record: record | {"identifiers": ["a", 2]}, "has no `identifiers`"),
        (lambda record: record | {"identifiers": "ab"}, "has no `identifiers`"),
    ],
)
def test_a_damaged_record_is_named(tmp_path, spoil, says):
    name = "srgnn" if "times" in says else "gru4rec"  # formats share the reader of the record
    out, files = export(dataset([[1, 2], [2, 1]], [[1, 1]]), name, tmp_path / "out")
    paths = [out / file for file in files]
    record = spoil(json.loads((out / EXPORTED).read_text()))
    (out / EXPORTED).write_text(record if isinstance(record, str) else json.dumps(record))
    with pytest.raises(DataError, match=says) as error:
        import_files("x", name, *paths)
    assert EXPORTED in error.value.message and "delete the record" in error.value.hint
    (out / EXPORTED).unlink()
    assert import_files("x", name, *paths).n_items == 2


def test_a_table_is_hashed_once(tmp_path, monkeypatch):
    planted = Sessions.from_lists([[1, 2, 3], [2, 3, 1]])
    export(Dataset("x", 3, planted, Sessions.from_lists([[3, 1], [1, 2]])), "gru4rec", tmp_path / "out")
    (tmp_path / "out" / EXPORTED).unlink()
    hashed, sha256 = [], log.sha256
    for place in (log, formats):
        monkeypatch.setattr(place, "sha256", lambda path: hashed.append(path.name) or sha256(path))
    data = import_files("x", "gru4rec", tmp_path / "out" / "train.tsv", tmp_path / "out" / "test.tsv")
    assert sorted(hashed) == ["test.tsv", "train.tsv"]
    assert data.provenance["test"]["sha256"] == sha256(tmp_path / "out" / "test.tsv")
