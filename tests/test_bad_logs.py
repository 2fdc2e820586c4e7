"""Raw logs as they come: headers and archives that are taken, and what is refused, in words, with nothing written."""

from __future__ import annotations

import bz2
import fcntl
import gzip
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
from dissect.data import catalog, log
from dissect.data.prepare import prepare
from dissect.data.recipes import own_log
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


def test_a_full_disk_leaves_nothing(tmp_path):
    """Of a process that may write 1,000 bytes a file and no more."""
    (tmp_path / "log.csv").write_text(LOG)
    words = [sys.executable, "-m", "dissect", "data", "prepare", "diginetica", "--from", str(tmp_path / "log.csv")]
    done = subprocess.run(
        [*words, "--data-dir", str(tmp_path / "data")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000)),
    )
    assert done.returncode == 3 and "File too large" in done.stderr and "--data-dir" in done.stderr
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
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130 and err == "Interrupted.\n"
    assert not (tmp_path / "data").exists()


def test_what_a_killed_process_left_is_cleared_away_or_put_back(typed, tmp_path):
    Path("log.csv").write_text(LOG)
    assert typed("diginetica", "--from", "log.csv")[0] == 0
    data = tmp_path / "data"
    before = catalog.load("diginetica", data).split_hash
    (data / "diginetica").rename(data / ".diginetica~abc.old")  # killed between the two renames of `save`
    (data / ".diginetica~abc").mkdir()
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
