"""Raw logs as they come: headers and archives that are taken, and what is refused, in words, with nothing written."""

from __future__ import annotations

import bz2
import contextlib
import fcntl
import gzip
import io
import lzma
import os
import random
import resource
import signal
import subprocess
import sys
import tarfile
import time
import zipfile
from dataclasses import replace
from decimal import Decimal
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from dissect.cli import main
from dissect.data import archive, catalog, lines, log
from dissect.data.bring import prepare
from dissect.data.formats import import_files
from dissect.data.recipes import RECIPES, own_log
from dissect.errors import DataError

ROOT = Path(__file__).resolve().parent.parent
HEAD = "sessionId;userId;itemId;timeframe;eventdate"


def clicks():
    """Lines of a log of which the recipe leaves something."""
    rng = random.Random(0)
    return [f"{s};NA;{rng.randint(1, 20)};{t};2016-05-{s % 27 + 1:02d}" for s in range(200) for t in (0, 3000, 6000)]


LINES = [HEAD, *clicks()]
LOG = "\n".join(LINES) + "\n"


def at_51(*lines):
    """The log with lines put in as lines 52 and on."""
    return "\n".join([*LINES[:51], *lines, *LINES[51:]])


@pytest.fixture
def typed(tmp_path, monkeypatch):
    """Runs `dissect data prepare ...`; returns exit code, stdout, stderr. Files lie in the current folder."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("DISSECT_DATA", str(tmp_path / "data"))

    def run(*words):
        result = CliRunner().invoke(main, ["data", "prepare", *words], prog_name="dissect")
        if result.exception and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result.exit_code, result.stdout, result.stderr

    return run


@pytest.fixture
def split_hash(typed, tmp_path):
    """The split of the log as it stands."""
    Path("plain.csv").write_text(LOG)
    assert typed("diginetica", "--from", "plain.csv", "--data-dir", str(tmp_path / "plain"))[0] == 0
    return catalog.load("diginetica", tmp_path / "plain").split_hash


def zipped(path, files):
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)


def tarred(path, files):
    with tarfile.open(path, "w:gz") as archive:
        for name, content in files.items():
            Path("member").write_text(content)
            archive.add("member", name)
        link = tarfile.TarInfo("train-item-views.csv")  # a link is no file
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("a.csv", lambda path: path.write_text(LOG.replace(HEAD, "session_id;user_id;item_id;timeframe;eventdate"))),
        ("a.csv", lambda path: path.write_bytes(LOG.replace("\n", "\r\n").encode())),
        ("a.csv", lambda path: path.write_text(LOG, encoding="utf-8-sig")),
        ("a.csv", lambda path: path.write_text(at_51("", ""))),
        ("a.csv", lambda path: path.write_text(LOG.replace("\n1;", ";\n1;", 1))),  # an empty field too much
        ("a.csv", lambda path: path.write_text(LOG.replace(";", ","))),
        ("a.csv", lambda path: path.write_text(LOG.replace(";", "\t"))),
        ("a.csv", lambda path: path.write_text(LOG + "\n  \n")),
        ("a.csv.gz", lambda path: path.write_bytes(gzip.compress(LOG.encode()))),
        ("a.csv.bz2", lambda path: path.write_bytes(bz2.compress(LOG.encode()))),
        ("a.csv.xz", lambda path: path.write_bytes(lzma.compress(LOG.encode()))),
        ("a.zip", lambda path: zipped(path, {"../../evil.csv": LOG})),
        ("a.zip", lambda path: zipped(path, {"x/train-item-views.csv": LOG, "other.csv": "1"})),
        ("a.tar.gz", lambda path: tarred(path, {"../evil.csv": LOG})),
    ],
    ids=[
        "underscores",
        "crlf",
        "bom",
        "blank",
        "trailing",
        "commas",
        "tabs",
        "blank at the end",
        "gz",
        "bz2",
        "xz",
        "zip outside",
        "zip of several",
        "tar outside",
    ],
)
def test_one_log_in_many_wrappings(typed, tmp_path, split_hash, name, write):
    write(Path(name))
    code, _, err = typed("diginetica", "--from", name)
    assert code == 0, err
    assert catalog.load("diginetica", tmp_path / "data").split_hash == split_hash
    assert {path.name for path in tmp_path.iterdir()} == {"here", "data", "plain"}  # nothing beside the folder


BAD = {
    "other columns": (LOG.replace(HEAD, "a;b;c;d;e"), "expected sessionId or session_id"),
    "near columns": (LOG.replace("timeframe", "timeframes"), "Did you mean timeframes?"),
    "no header": ("\n".join(LINES[1:]), "first line has the columns 0, NA"),
    "short lines": (at_51("17;NA", "18;NA;4"), "2 lines are broken. The first is line 52, '17;NA': it has no itemId"),
    "long line": (at_51("17;NA;5;100;2016-05-01;x;y"), "1 line is broken. The first is line 52"),
    "bad times": (at_51("17;NA;5;abc;2016-05-01", "17;NA;5;1;2016-15-01"), "2 lines are broken. The first is line 52"),
    "bad day": (
        at_51("", "17;NA;5;1;2016-15-01"),
        "line 53, '17;NA;5;1;2016-15-01': it has '2016-15-01' in the column eventdate",
    ),
    "no item": (at_51("17;NA;;100;2016-05-01"), "it has no itemId"),
    "empty": ("", "is empty"),
    "only a header": (HEAD, "no clicks"),
    "all filtered": (HEAD + "".join(f"\n{i // 2};NA;{i};1;2016-05-01" for i in range(99)), "drop_rare_items 0"),
    "one day": (HEAD + "".join(f"\n{i // 2};NA;{i % 2};1;2016-05-01" for i in range(99)), "No training session"),
    "utf-16": (LOG.encode("utf-16"), "no text in UTF-8"),
    "bytes": (random.Random(1).randbytes(4000), "no text in UTF-8"),
}


@pytest.mark.parametrize("what", BAD)
def test_bad_logs_are_refused_in_words_and_nothing_is_written(typed, tmp_path, what):
    content, says = BAD[what]
    Path("log.csv").write_bytes(content if isinstance(content, bytes) else content.encode())
    code, out, err = typed("diginetica", "--from", "log.csv")
    assert (code, out) == (3, "") and says in err and "log.csv" in err and "Traceback" not in err
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize(
    ("name", "write", "says"),
    [
        ("a.csv", lambda path: None, "No such file"),
        ("a.csv", lambda path: path.mkdir(), "Is a directory"),
        ("a.csv.gz", lambda path: path.write_bytes(gzip.compress(LOG.encode())[:500]), "cut off"),
        ("a.csv.gz", lambda path: path.write_text(LOG), "gzipped"),
        ("a.zip", lambda path: zipped(path, {"a.csv": LOG, "b.csv": LOG}), "2 files (a.csv, b.csv)"),
        ("a.zip", lambda path: zipped(path, {}), "holds no file"),
        ("a.tar.gz", lambda path: tarred(path, {}), "holds no file"),
        ("a.tar.gz", lambda path: path.write_bytes(b"x"), "cannot be read"),
    ],
)
def test_files_that_hold_no_log(typed, tmp_path, name, write, says):
    write(Path(name))
    code, out, err = typed("diginetica", "--from", name)
    assert (code, out) == (3, "") and says in err and name in err
    assert not (tmp_path / "data").exists()


OWN = ["shop", "--from", "log.csv", "--item-col", "item", "--time-col", "at"]


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        ([*OWN, "--session-col", "visit", "--separator", ";"], 3, "separated by ','"),
        ([*OWN, "--session-col", "visits"], 3, "Did you mean visit?"),
        ([*OWN, "--session-col", "at"], 2, "same column twice"),
        (OWN, 2, "--session-col, or from --user-col and --gap"),
        ([*OWN, "--user-col", "visit", "--gap", "30"], 2, "such as 30m"),
        (["shop", "--from", "log.csv", "--item-col", "item"], 2, "--time-col"),
        (["shop", "--from", "log.csv"], 2, "--item-col and --time-col"),
        (["shop", "--from", "log.csv", "--recipe", "yoochose-1-64"], 2, "Did you mean yoochoose-1-64"),
        (["demo", *OWN[1:], "--session-col", "visit"], 2, "cannot be named 'demo'"),
        (["../shop", *OWN[1:], "--session-col", "visit"], 2, "cannot be named"),
    ],
)
def test_a_log_of_ones_own_that_is_named_wrongly(typed, tmp_path, words, code, says):
    Path("log.csv").write_text(
        "visit,item,at\n" + "".join(f"{i // 3},{i % 5},{1_600_000_000 + i}\n" for i in range(90))
    )
    given, out, err = typed(*words)
    assert (given, out) == (code, "") and says in err
    assert not (tmp_path / "data").exists()
    assert typed(*OWN, "--session-col", "visit")[0] == 0


def test_rows_of_parquet_that_are_broken(typed, tmp_path):
    good = pd.DataFrame({"visit": [i // 3 for i in range(90)], "item": [i % 5 for i in range(90)]})
    good["at"] = 1_600_000_000 + good.index
    good.assign(item=good["item"].astype(object).where(good.index != 7)).to_parquet("log.parquet")
    words = [word.replace(".csv", ".parquet") for word in OWN]
    code, _, err = typed(*words, "--session-col", "visit")
    assert code == 3 and "1 row is broken. The first is row 7: it has no item" in err
    good.to_parquet("log.parquet")
    assert typed(*words, "--session-col", "visit")[0] == 0


# --- while it is made ----------------------------------------------------------------------------------------------


def test_a_full_disk_leaves_nothing(typed, tmp_path):
    """Of a process that may write 1,000 bytes a file and no more, for as long as the command takes."""
    Path("log.csv").write_text(LOG)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        code, _, err = typed("diginetica", "--from", "log.csv")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert code == 3 and "File too large" in err and "--data-dir" in err
    assert not (tmp_path / "data").exists()


def test_a_second_process_is_refused_while_the_first_is_at_it(typed, tmp_path):
    Path("log.csv").write_text(LOG)
    (tmp_path / "data").mkdir()
    with open(tmp_path / "data" / ".diginetica.lock", "w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        code, _, err = typed("diginetica", "--from", "log.csv")
        assert code == 3 and "Another process is making" in err
    assert typed("diginetica", "--from", "log.csv")[0] == 0


def test_ctrl_c_leaves_nothing(tmp_path):
    """The log is a pipe that never ends, so that the process waits in the middle of it."""
    os.mkfifo(tmp_path / "log.csv")
    words = [sys.executable, "-m", "dissect", "data", "prepare", "diginetica", "--from", str(tmp_path / "log.csv")]
    process = subprocess.Popen(
        [*words, "--data-dir", str(tmp_path / "data")],
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
        # Tests that run in the background of a shell inherit that SIGINT is ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    deadline = time.monotonic() + 60
    while not (tmp_path / "data" / ".diginetica.lock").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    pipe = None
    while pipe is None and time.monotonic() < deadline:
        try:
            pipe = os.open(tmp_path / "log.csv", os.O_WRONLY | os.O_NONBLOCK)  # an error until it is being read
        except OSError:
            time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    os.close(pipe)
    assert process.returncode == 130 and err == "Interrupted.\n"
    assert not (tmp_path / "data").exists()


def test_what_a_killed_process_left_is_cleared_away_or_put_back(typed, tmp_path):
    Path("log.csv").write_text(LOG)
    assert typed("diginetica", "--from", "log.csv")[0] == 0
    data = tmp_path / "data"
    before = catalog.load("diginetica", data).split_hash
    (data / "diginetica").rename(data / ".diginetica~0123abcd.old")  # killed between the two renames of `save`
    (data / ".diginetica~0123abcd").mkdir()
    with catalog.claimed("diginetica", data):
        pass
    assert catalog.load("diginetica", data).split_hash == before
    assert {path.name for path in data.iterdir()} == {"diginetica", ".diginetica.lock"}


# --- identifiers ---------------------------------------------------------------------------------------------------

SHOP = own_log(session="visit", item="item", time="at")


def shop_log(items):
    """Ten visits of 5 clicks on each item, so that no rule drops any."""
    rows = [(f"v{i}", item, 1_600_000_000 + 1000 * i + k) for i in range(10) for k in range(5) for item in items]
    return "visit,item,at\n" + "".join(f"{visit},{item},{at}\n" for visit, item, at in rows)


def test_an_identifier_is_the_text_that_stands_there(tmp_path):
    items = ["0123", "123", "1E5", "100000", "0100000", "+5", "5.0", "5", " 5", "TRUE", "café", "cafè"]
    (tmp_path / "log.csv").write_text(shop_log(items))
    assert sorted(prepare("x", tmp_path / "log.csv", SHOP).identifiers) == sorted(items)


def test_the_kind_of_identifiers_is_not_decided_block_by_block(tmp_path, monkeypatch):
    monkeypatch.setattr(log, "CHUNK", 7)  # 00005 and 5 in one block, A1 in another
    (tmp_path / "log.csv").write_text(shop_log(["00005", "5"]) + "v9,A1,1600010000\n")
    source = log.read_log(tmp_path / "log.csv", SHOP.log)
    assert source.labels["item"].tolist() == ["00005", "5", "A1"]
    assert np.bincount(source.table["item"]).tolist() == [50, 50, 1]


@pytest.mark.parametrize(
    ("identifiers", "ordered"),
    [
        (["10", "9", "-3", "0"], ["-3", "0", "9", "10"]),
        (["10", "9", "007"], ["007", "10", "9"]),
        (["10", "9", "99999999999999999999"], ["10", "9", "99999999999999999999"]),
    ],
)
def test_whole_numbers_are_in_the_order_of_numbers_and_others_in_that_of_text(tmp_path, identifiers, ordered):
    (tmp_path / "log.csv").write_text(shop_log(identifiers))
    assert log.read_log(tmp_path / "log.csv", SHOP.log).labels["item"].tolist() == ordered


def parquet(path, **columns):
    """Clicks in parquet: visit, item and at, or what `columns` has instead."""
    n = len(next(iter(columns.values())))
    good = {"visit": [f"v{i // 5}" for i in range(n)], "at": range(1_600_000_000, 1_600_000_000 + n)}
    pq.write_table(pa.table(good | columns), path)
    return path


@pytest.mark.parametrize(
    ("items", "labels"),
    [
        (pa.array([2**62 + 1, None, 2**62 + 2]), [str(2**62 + 1), str(2**62 + 2)]),  # as floats they would be one
        (pa.array(["007", "7", None]), ["007", "7"]),
        (pa.array(["b", "a", "b"]).dictionary_encode(), ["a", "b"]),
        (pa.array([10.0, 9.0, float("nan")]), ["9", "10"]),
        (pa.array(np.array([10, 9, 9], np.float16)), ["9", "10"]),
        (pa.array([Decimal("10.00"), Decimal(9), None]), ["9", "10"]),
        (pa.nulls(3), []),
    ],
    ids=["int64", "text", "dictionary", "float", "half", "decimal", "null"],
)
def test_identifiers_in_parquet_are_text_whatever_their_type(tmp_path, items, labels):
    format = replace(SHOP.log, may_lack=("item",))
    source = log.read_log(parquet(tmp_path / "log.parquet", item=items), format)
    assert source.labels["item"].tolist() == labels
    numbers = source.table["item"].tolist()
    found = [labels[number] if number >= 0 else None for number in numbers]
    values = [None if v is None or v != v else v if isinstance(v, str) else str(int(v)) for v in items.to_pylist()]
    assert found == values


@pytest.mark.parametrize(
    ("columns", "says"),
    [
        (
            {"item": [1.0, 2.5, 3.5]},
            "2 rows are broken. The first is row 1: it has 2.5 in the column item, which is neither",
        ),
        ({"item": [1.0, 2.0, 1e300]}, "row 2: it has 1e+300 in the column item"),
        ({"item": [[1], [2], [3]]}, "the column item holds list<element: int64>; expected text or whole numbers"),
        ({"item": [b"a", b"b", b"c"]}, "the column item holds binary"),
        ({"item": [1, None, 3]}, "row 1: it has no item"),
        ({"item": [1, 2, 3], "at": [[1], [2], [3]]}, "the column at holds list<element: int64>; expected times"),
    ],
)
def test_cells_of_parquet_that_are_no_identifiers_or_times(tmp_path, columns, says):
    with pytest.raises(DataError) as error:
        log.read_log(parquet(tmp_path / "log.parquet", **columns), SHOP.log)
    assert says in error.value.message


# --- quotation marks -----------------------------------------------------------------------------------------------

GOOD = ["visit\ttitle\tat", *(f"{i // 4}\tp{i % 7}\t{1_600_000_000 + i}" for i in range(240))]


def with_titles(**titles):
    """A log with other titles in some lines, counted from 1."""
    lines = list(GOOD)
    for line, title in titles.items():
        number = int(line[1:])
        visit, _, at = lines[number - 1].split("\t")
        lines[number - 1] = f"{visit}\t{title}\t{at}"
    return "\n".join(lines) + "\n"


def read_titles(path, text):
    path.write_text(text)
    return log.read_log(path, own_log(session="visit", item="title", time="at").log)


@pytest.mark.parametrize(
    "other",
    [
        {"_152": '"Other title"'},
        {"_152": '"Other title'},
        {"_152": 'TV of 5"'},  # closes it by the rules of csv
        {"_23": 'TV of 5"'},
        {},
        {"_241": '"'},
    ],
)
@pytest.mark.parametrize("block", [1 << 20, 100])
def test_a_quotation_mark_that_is_not_closed_is_refused_with_its_line(tmp_path, monkeypatch, other, block):
    monkeypatch.setattr(lines, "BLOCK", block)
    with pytest.raises(DataError, match=r"log\.tsv, line 22: the field that begins with '\"Unclosed title"):
        read_titles(tmp_path / "log.tsv", with_titles(_22='"Unclosed title', **other))


@pytest.mark.parametrize(
    ("title", "label"),
    [
        ('"Two\nlines"', "Two\nlines"),
        ('"a tab\there"', "a tab\there"),
        ('"say ""no"""', 'say "no"'),
        ('a 5" screen', 'a 5" screen'),
        ('""""', '"'),
    ],
)
@pytest.mark.parametrize("block", [1 << 20, 100])
def test_quotation_marks_as_csv_has_them(tmp_path, monkeypatch, title, label, block):
    monkeypatch.setattr(lines, "BLOCK", block)
    source = read_titles(tmp_path / "log.tsv", with_titles(_22=title, _240=title))
    assert len(source.table) == 240 and label in source.labels["item"]
    assert np.flatnonzero(source.table["item"] == source.labels["item"].tolist().index(label)).tolist() == [20, 238]


def test_two_fields_with_line_breaks_in_one_click():
    text = b'a,b,c\n"p\nq","r\ns,",t\n'  # before it and at its end are lines of three fields, its own first has one
    assert list(lines.Quotes(Path("log.csv"), ",", 3).checked([text], 1)) == [text]


def test_a_field_over_many_lines_is_not_read_again_at_each(monkeypatch):
    quotes = lines.Quotes(Path("log.csv"), ",", 2)
    asked, whole = [], quotes.whole
    monkeypatch.setattr(quotes, "whole", lambda text: asked.append(len(text)) or whole(text))
    field = b'"a\n' + b'b ""c""\nd\n' * 1_000 + b'e"'
    found = list(lines.clicks([b"1,x\n2," + field[:3], field[3:] + b"\n3,y\n"], quotes, ","))
    assert [number for number, _ in found] == [1, 2, 2004] and found[1][1] == f"2,{field.decode()}"
    assert len(asked) < 10


def test_lines_are_counted_over_fields_with_line_breaks(tmp_path):
    with pytest.raises(DataError) as error:
        read_titles(tmp_path / "log.tsv", with_titles(_22='"Two\nlines"', _32=""))
    assert r"The first is line 33, '7\t\t1600000030': it has no title" in error.value.message


# --- text ----------------------------------------------------------------------------------------------------------

OWN_COLUMNS = ["--session-col", "visit", "--item-col", "item", "--time-col", "at"]


def test_bytes_that_are_not_utf8_are_refused_with_their_place_or_read_as_told(typed, tmp_path):
    items = ["café", "cafè", "plain"]
    Path("log.csv").write_bytes(shop_log(items).encode("latin-1"))
    code, out, err = typed("shop", "--from", "log.csv", *OWN_COLUMNS)
    assert (code, out) == (3, "") and r"log.csv, line 2: b'v0,caf\xe9,160000000' is not UTF-8" in err
    assert "--encoding latin-1" in err
    code, _, err = typed("shop", "--from", "log.csv", *OWN_COLUMNS, "--encoding", "latin-1")
    assert code == 0, err
    assert sorted(catalog.load("shop", tmp_path / "data").identifiers) == sorted(items)
    code, _, err = typed("other", "--from", "log.csv", *OWN_COLUMNS, "--encoding", "hex")
    assert code == 2 and "no known encoding" in err


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "gb18030"])
def test_other_encodings_give_the_same_identifiers(tmp_path, monkeypatch, encoding):
    monkeypatch.setattr(lines, "BLOCK", 101)  # in the middle of characters
    (tmp_path / "log.csv").write_text(shop_log(["é", "中文"]), encoding=encoding)
    format = own_log(session="visit", item="item", time="at", encoding=encoding).log
    source = log.read_log(tmp_path / "log.csv", format)
    assert source.labels["item"].tolist() == ["é", "中文"] and source.labels["session"][0] == "v0"


def test_names_that_are_not_read_may_be_of_any_bytes_where_the_format_says_so(tmp_path):
    path = tmp_path / "plays.tsv"
    path.write_bytes(b"u1\t2009-05-04T23:08:57Z\ta1\tCaf\xe9\tt1\tname\nu1\t2009-05-04T23:09:57Z\ta2\tx\tt\tn\n")
    assert log.read_log(path, RECIPES["lastfm"].log).labels["item"].tolist() == ["a1", "a2"]
    path.write_bytes(path.read_bytes().replace(b"a2", b"a\xe9"))
    with pytest.raises(DataError, match=r"The first is line 2.* bytes that are not UTF-8 in its artid"):
        log.read_log(path, RECIPES["lastfm"].log)


def test_texts_that_stand_for_no_value_are_counted_and_refused_or_kept_when_told(typed, tmp_path):
    Path("log.csv").write_text(shop_log(["NULL", "nan", "None", "NA", "a", "nano"]))
    code, _, err = typed("shop", "--from", "log.csv", *OWN_COLUMNS)
    assert code == 3 and "200 lines are broken. The first is line 2, 'v0,NULL,1600000000': it has no item" in err
    assert "--missing" in err
    assert typed("shop", "--from", "log.csv", *OWN_COLUMNS, "--missing", "")[0] == 0
    known = catalog.load("shop", tmp_path / "data").identifiers
    assert sorted(known) == ["NA", "NULL", "None", "a", "nan", "nano"]


@pytest.mark.parametrize(("missing", "known"), [("-", ["-", "NULL", "a"]), ("", ["-", "NULL", "a"])])
def test_an_empty_field_is_empty_whatever_else_stands_for_no_value(typed, tmp_path, missing, known):
    Path("log.csv").write_text(shop_log(["NULL", "a", "-"]))
    code, _, err = typed("shop", "--from", "log.csv", *OWN_COLUMNS, "--missing", missing)
    if missing:
        assert code == 3 and "it has no item" in err and "- count as empty" in err and "fields" not in err
        Path("log.csv").write_text(shop_log(["NULL", "a"]))
        assert typed("shop", "--from", "log.csv", *OWN_COLUMNS, "--missing", missing)[0] == 0
        known = known[1:]
    else:
        assert code == 0, err
    assert sorted(catalog.load("shop", tmp_path / "data").identifiers) == known
    Path("log.csv").write_text(shop_log(["", "a"]))
    code, _, err = typed("empty", "--from", "log.csv", *OWN_COLUMNS, "--missing", missing)
    assert code == 3 and "it has no item" in err and "--missing" not in err


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_hints_name_missing_only_where_a_text_stands_for_no_value(tmp_path, kind):
    format = own_log(session="visit", item="item", time="at").log
    for item, is_hinted in ((None, False), ("NULL", True)):
        path = tmp_path / f"log.{kind}"
        table = pd.DataFrame({"visit": ["v"] * 3, "item": ["a", item, "b"], "at": np.arange(3) + 1_600_000_000})
        table.to_csv(path, index=False) if kind == "csv" else table.to_parquet(path)
        with pytest.raises(DataError, match="has no item") as error:
            log.read_log(path, format)
        assert ("NULL" in error.value.hint and "--missing" in error.value.hint) == is_hinted
        assert "Mend or delete" in error.value.hint or is_hinted
        with pytest.raises(DataError, match="has no item") as error:  # as an import and a fixed recipe read it
            log.read_log(path, replace(format, options=()))
        assert "--missing" not in error.value.hint


@pytest.mark.parametrize("broken", [b"1\tcaf\xe9\t1\n", b"1\ta\0\t1\n"])
def test_an_import_has_no_option_for_the_encoding_to_name(tmp_path, broken):
    for content in (b"SessionId\tItemId\tTime\n" + broken, b"\x00\xff\xfe\x01" * 9):
        (tmp_path / "a").write_bytes(content)
        with pytest.raises(DataError) as error:
            import_files("x", "gru4rec", tmp_path / "a", tmp_path / "a")
        assert "UTF-8: iconv" in error.value.hint and "--encoding" not in error.value.hint


def test_clicks_without_a_user_are_told_where_users_are_not_needed(typed):
    rows = [f"v{i // 3},{'u1' if i % 3 else 'NULL'},i{i % 5},{1_600_000_000 + i}" for i in range(90)]
    Path("log.csv").write_text("\n".join(["visit,user,item,at", *rows]))
    code, out, err = typed("shop", "--from", "log.csv", *OWN_COLUMNS, "--user-col", "user")
    assert code == 0 and "Clicks without user: 30." in out, err


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"visit,item,at\n" + b"a" * 3000, "line 2, is longer than 0 MB"),
        (b"a" * 3000, "line 1, is longer than 0 MB"),
        (b'visit,item,at\n1,"' + b"a,b,c\n" * 500, "line 2: the field that begins with '\"a,b,c'"),
        (b"visit,item,at\n1,a\0b,2\n", "line 2 holds a NUL byte"),
    ],
)
def test_lines_without_end_are_refused_before_they_are_read(tmp_path, monkeypatch, content, says):
    monkeypatch.setattr(lines, "BLOCK", 100)
    monkeypatch.setattr(lines, "LONGEST", 2000)

    class Counted(io.BytesIO):
        read_so_far = 0

        def read(self, size):
            Counted.read_so_far += size
            return super().read(size)

    monkeypatch.setattr(log, "opened", lambda path, member: contextlib.closing(Counted(content + b"z" * 100_000)))
    (tmp_path / "log.csv").write_bytes(b"")
    with pytest.raises(DataError) as error:
        log.read_log(tmp_path / "log.csv", SHOP.log)
    assert says in error.value.message and Counted.read_so_far < 10_000


def test_a_column_that_the_header_names_twice(typed):
    Path("log.csv").write_text("visit,item,Item,at\n1,2,3,4\n")
    code, _, err = typed("shop", "--from", "log.csv", *OWN_COLUMNS)
    assert code == 3 and "names the column item twice" in err


@pytest.mark.parametrize("end", ["", "\n", "\n\n", "  \n"])
def test_a_header_without_clicks(typed, end):
    Path("log.csv").write_text("visit,item,at,unused" + end)
    code, _, err = typed("shop", "--from", "log.csv", *OWN_COLUMNS)
    assert code == 3 and "has no clicks in it" in err


@pytest.mark.parametrize("header", ["session_id,timestamp,item_id,category", "sessionId,itemId,timestamp"])
def test_yoochoose_with_a_header(tmp_path, header):
    fields = {"session": "7", "timestamp": "2014-04-07T10:51:09.277Z", "item": "9", "category": "0"}
    row = [next(value for name, value in fields.items() if column.startswith(name)) for column in header.split(",")]
    (tmp_path / "log.dat").write_text(header + "\n" + ",".join(row) + "\n")
    source = log.read_log(tmp_path / "log.dat", RECIPES["yoochoose-1-64"].log)
    assert (source.labels["session"].tolist(), source.labels["item"].tolist()) == (["7"], ["9"])
    assert source.table["time"].tolist() == [1_396_867_869_277]


@pytest.mark.parametrize("header", ["timestamp,visitorid,event,itemid", "timestamp,visitor_id,event,item_id"])
def test_retailrocket_with_either_spelling(tmp_path, header):
    (tmp_path / "events.csv").write_text(header + "\n1433221332117,257597,view,355908\n")
    assert log.read_log(tmp_path / "events.csv", RECIPES["retailrocket"].log).labels["user"].tolist() == ["257597"]


# --- archives and parquet ------------------------------------------------------------------------------------------


def test_names_in_archives_that_are_empty_or_cannot_be_decoded(typed, tmp_path):
    nameless = zipfile.ZipInfo("a")
    nameless.filename = ""
    with zipfile.ZipFile("empty.zip", "w") as archive:
        archive.writestr(nameless, LOG)
    zipped(Path("strange.zip"), {"é.csv": LOG})
    content = Path("strange.zip").read_bytes()
    Path("strange.zip").write_bytes(content.replace("é".encode(), b"\xff\xff"))
    for name in ("empty.zip", "strange.zip"):
        code, out, err = typed("diginetica", "--from", name)
        assert (code, out) == (3, "") and name in err
        assert name == "strange.zip" or "holds no file" in err
    assert not (tmp_path / "data").exists()


def test_control_characters_of_headers_and_archives_reach_no_screen(typed):
    Path("log.csv").write_text("visit,it\x1b[31mem,at,aaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\n")
    zipped(Path("log.zip"), {"a\x1b[31m.csv": LOG, "b\n.csv": LOG})
    for name, shown in (("log.csv", r"it\x1b[31mem"), ("log.zip", r"a\x1b[31m.csv, b\n.csv")):
        code, _, err = typed("shop", "--from", name, *OWN_COLUMNS)
        assert code == 3 and shown in err and "\x1b" not in err


def test_a_tar_of_more_files_than_are_looked_at(tmp_path, monkeypatch):
    monkeypatch.setattr(archive, "MOST_FILES", 2)
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for name in "abc":
            tar.addfile(tarfile.TarInfo(name))
    with pytest.raises(DataError, match="more than 2 files"), archive.opened(tmp_path / "a.tar"):
        pass


def test_a_tar_whose_header_asks_for_much_is_refused(tmp_path):
    header = tarfile.TarInfo("long")
    header.type, header.size = tarfile.XHDTYPE, 1 << 30
    (tmp_path / "a.tar").write_bytes(header.tobuf() + b"1" * 2000)
    with pytest.raises(DataError, match="header that is too long"), archive.opened(tmp_path / "a.tar"):
        pass


def test_parquet_whose_user_column_is_all_null(tmp_path):
    path = parquet(tmp_path / "log.parquet", item=[1, 2, 3], user=pa.nulls(3))
    format = own_log(session="visit", user="user", item="item", time="at").log
    assert log.read_log(path, format).table["user"].tolist() == [-1, -1, -1]


@pytest.mark.parametrize(
    "at",
    [
        pa.array([1_396_867_869_277] * 3, pa.timestamp("ms")),
        pa.array([1_396_867_869_277_000_000] * 3, pa.timestamp("ns", "Europe/Berlin")),
        pa.array([1_396_867_869_277_000] * 3),
        pa.array(["2014-04-07T12:51:09.277+02:00"] * 3),
        pa.array([1_396_867_869.277] * 3),
    ],
)
def test_times_of_parquet_in_whatever_type(tmp_path, at):
    source = log.read_log(parquet(tmp_path / "log.parquet", item=[1, 2, 3], at=at), SHOP.log)
    assert source.table["time"].tolist() == [1_396_867_869_277] * 3


def test_parquet_that_is_none(tmp_path):
    (tmp_path / "log.parquet").write_text(LOG)
    with pytest.raises(DataError, match="cannot be read as parquet"):
        log.read_log(tmp_path / "log.parquet", SHOP.log)


# --- times ---------------------------------------------------------------------------------------------------------

NOON = 1_586_260_800_000  # 2020-04-07 12:00 UTC, in milliseconds


@pytest.mark.parametrize(
    ("written", "read_as", "time"),
    [
        ("1586260800", "seconds since 1970", NOON),
        ("1586260800.5", "seconds since 1970", NOON + 500),
        ("1586260800000", "milliseconds since 1970", NOON),
        ("1586260800000000", "microseconds since 1970", NOON),
        ("1586260800000000000", "nanoseconds since 1970", NOON),
        ("20200407", "the form %Y%m%d", NOON - 43_200_000),
        ("202004071200", "the form %Y%m%d%H%M", NOON),
        ("20200407120000", "the form %Y%m%d%H%M%S", NOON),
        ("2020-04-07T12:00:00Z", "ISO 8601", NOON),
        ("2020-04-07 12:00:00 UTC", "ISO 8601", NOON),
        ("2020-04-07 14:00:00+02:00", "ISO 8601", NOON),
        ("2020-04-07", "ISO 8601", NOON - 43_200_000),
    ],
)
def test_the_unit_of_times_is_seen_and_said(typed, tmp_path, written, read_as, time):
    rows = [f"v{i // 3},i{i % 5},{written}" for i in range(90)]
    Path("log.csv").write_text("\n".join(["visit,item,at", *rows]))
    code, out, err = typed("shop", "--from", "log.csv", *OWN_COLUMNS)
    assert code == 0 and f"Times read as {read_as}: sessions end from 2020-04-07" in out, err
    assert set(catalog.load("shop", tmp_path / "data").train.times.tolist()) == {time // 1000}


@pytest.mark.parametrize(
    "written", ["0511", "17", "1000", "04/07/2014", "07.04.2014", "today", "now", "today UTC", "99999999999999999999"]
)
def test_times_that_are_none_or_that_nobody_can_tell_are_refused_with_what_is_taken(typed, written):
    rows = [f"v{i // 3},i{i % 5},{written}" for i in range(90)]
    Path("log.csv").write_text("\n".join(["visit,item,at", *rows]))
    code, out, err = typed("shop", "--from", "log.csv", *OWN_COLUMNS)
    assert (code, out) == (3, "") and written in err and "ISO 8601" in err and "--time-format" in err


@pytest.mark.parametrize(
    ("form", "written", "time"),
    [
        ("%d/%m/%Y", "07/04/2020", NOON - 43_200_000),
        ("%d.%m.%Y %H:%M", "07.04.2020 12:00", NOON),
        ("%Y/%m/%d %I:%M:%S.%f %p %z", "2020/04/07 02:00:00.250 PM +0200", NOON + 250),
        ("%m%d", "0229", 68_169_600_000),  # Tmall's days; 1972 had a 29 February
        ("seconds", "17", 17_000),
        ("microseconds", "1586260800000000", NOON),
    ],
)
def test_times_in_a_form_that_is_said(tmp_path, form, written, time):
    (tmp_path / "log.csv").write_text(f"visit,item,at\n1,2,{written}\n1,3,{written}\n")
    format = own_log(session="visit", item="item", time="at", clock=form).log
    assert log.read_log(tmp_path / "log.csv", format).table["time"].tolist() == [time, time]


def test_one_time_in_another_unit_is_a_broken_line(tmp_path):
    rows = [f"v,i{i},{1_600_000_000 + i}" for i in range(20)]
    (tmp_path / "log.csv").write_text("\n".join(["visit,item,at", *rows, "v,i,1600000000000", "v,i,0"]))
    with pytest.raises(DataError) as error:
        log.read_log(tmp_path / "log.csv", SHOP.log)
    assert "2 lines are broken. The first is line 22" in error.value.message
    assert "expected seconds since 1970, from 1990 to 2100" in error.value.message


@pytest.mark.parametrize(
    "words",
    [["--time-format", "%Q"], ["--time-format", "sekunden"], ["--separator", "||"], ["--separator", "§"]],
)
def test_forms_and_separators_that_are_none(typed, words):
    Path("log.csv").write_text(shop_log(["a"]))
    code, _, err = typed("shop", "--from", "log.csv", *OWN_COLUMNS, *words)
    assert code == 2 and words[0] in err


def test_options_of_ones_own_log_are_refused_beside_a_recipe(typed):
    Path("log.csv").write_text(LOG)
    code, _, err = typed("diginetica", "--from", "log.csv", "--min-clicks", "3")
    assert code == 2 and "--min-clicks is for a log of your own" in err


# --- what prepare says ---------------------------------------------------------------------------------------------


def test_prepare_says_what_each_rule_dropped(typed):
    """Ten visits of a and b; in each an item of its own; a visit of one click; c in three visits; a second a."""
    rows = [f"v{i},{item},{1_600_000_000 + 100 * i}" for i in range(10) for item in ("a", "b", f"own{i}")]
    rows += ["w0,a,1600000000", "w1,c,1600000000", "w1,c,1600000001", "v0,b,1600000000", "v0,b,1600000000"]
    Path("log.csv").write_text("\n".join(["visit,item,at", *rows]))
    code, out, err = typed("shop", "--from", "log.csv", *OWN_COLUMNS, "--drop-repeats", "--longest", "4")
    assert code == 0, err
    assert out.splitlines()[2:-1] == [
        "Of 35 clicks in log.csv these were dropped:",
        "  drop_immediate_repeats: 2 clicks, 0 sessions",
        "  drop_short_sessions (least 2): 2 clicks, 2 sessions",
        "  drop_rare_items (least 5): 10 clicks, 0 sessions",
    ]


def test_a_data_set_of_one_training_session_is_not_told_to_hold_a_part_out(typed, monkeypatch, tmp_path):
    Path("log.csv").write_text(
        "visit,item,at\n" + "".join(f"{v},{i},{1_600_000_000 + v}\n" for v in (1, 2) for i in "ab")
    )
    assert typed("shop", "--from", "log.csv", *OWN_COLUMNS, "--min-clicks", "1", "--test-share", "0.5")[0] == 0
    words = ["train", "srgnn", "--dataset", "shop", "--runs-dir", str(tmp_path / "runs"), "--quiet"]
    result = CliRunner().invoke(main, words, prog_name="dissect")
    assert result.exit_code == 2 and "There is one training session" in result.stderr
    assert "such as --validation" not in result.stderr
