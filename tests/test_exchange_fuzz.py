"""Spoiled exchange files, whatever is wrong with them: words and exit 3, or a data set that loads. Nothing else.

Files that are read are spoiled at random places, or made of values that do not belong there, and imported by the
command, so that a traceback, a warning, code that ran and a folder that is half written would all be seen.
"""

from __future__ import annotations

import io
import json
import os
import pickle
import shutil
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dissect.cli import main
from dissect.data import catalog
from dissect.data.exchange import EXPORTED
from dissect.data.export import export
from dissect.data.sessions import Dataset, Sessions

LONG = 30  # seconds, on a busy machine; reading takes milliseconds
quick = settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])

TRAIN = [[1, 2, 3], [4, 5], [2, 2, 300, 1]]
TEST = [[3, 1], [5, 4, 2]]
TOKENS = [b"", b"\n", b"\n\n", b"\r", b"\t", b",", b" ", b'"', b"\0", b"\xff", b"\x1b[31m", b"-1", b"0", b"007", b"1e5"]
TOKENS += [b"nan", b"99999999999999999999", b"1.5", b"item_id", b"\xef\xbb\xbf", b"2020-01-01", b"=1", b"x" * 300]


def spoiled(content: bytes, edits) -> bytes:
    """The content after some edits, each at a place: (place, bytes that go there, how many it loses there)."""
    for place, some, lost in edits:
        at = place % (len(content) + 1)
        content = content[:at] + some + content[at + lost :]
    return content


some_edits = st.lists(
    st.tuples(
        st.integers(0, 10_000),
        st.one_of(st.sampled_from(TOKENS), st.binary(min_size=1, max_size=8)),
        st.one_of(st.integers(0, 4), st.just(10_000)),  # or all the rest: cut off
    ),
    min_size=1,
    max_size=4,
)


def check(folder: Path, format: str, train: bytes, test: bytes, ending: str = "", *more: str) -> int:
    """Import two files; returns the exit code once it has seen that nothing went wrong but the import itself."""
    paths = [folder / f"train{ending}", folder / f"test{ending}"]
    for path, content in zip(paths, (train, test)):
        path.write_bytes(content)
    words = ["data", "import", "x", "--format", format, *map(str, paths), "--data-dir", str(folder / "data"), *more]
    start = time.perf_counter()
    result = CliRunner().invoke(main, words, prog_name="dissect")
    assert time.perf_counter() - start < LONG
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    if result.exit_code:
        assert result.exit_code == 3 and result.stderr.startswith("Error: ") and not (folder / "data").exists()
    else:
        assert len(catalog.load("x", folder / "data").train)
        assert {path.name for path in (folder / "data").iterdir()} == {"x", ".x.lock"}
        shutil.rmtree(folder / "data")
    return result.exit_code


# --- pickles -------------------------------------------------------------------------------------------------


class Canary:
    """A pickle of it makes a folder when it is loaded by pickle itself."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def prefixed(sessions):
    pairs = [(s[:k], s[k]) for s in sessions for k in range(len(s) - 1, 0, -1)]
    return [prefix for prefix, _ in pairs], [target for _, target in pairs]


@quick
@given(
    st.sampled_from([TRAIN, prefixed(TRAIN), [[np.int64(i) for i in s] for s in TRAIN], "canary"]),
    st.integers(0, 5),
    some_edits,
)
def test_spoiled_pickles(tmp_path, content, protocol, edits):
    canary = tmp_path / "canary"
    whole = pickle.dumps([[1, 2], Canary(canary)] if content == "canary" else content, protocol)
    check(tmp_path, "srgnn", spoiled(whole, edits), pickle.dumps(TEST))
    check(tmp_path, "srgnn", whole, spoiled(pickle.dumps(prefixed(TEST), protocol), edits))
    assert not canary.exists()


def test_the_canary_sings_where_pickle_itself_reads_it(tmp_path):
    pickle.loads(pickle.dumps(Canary(tmp_path / "canary")))
    assert (tmp_path / "canary").exists()


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3) | st.binary(max_size=3),
    lambda each: st.lists(each, max_size=4) | st.tuples(each, each) | st.dictionaries(st.text(max_size=2), each),
    max_leaves=12,
)


@quick
@given(anything | st.lists(st.lists(st.integers(-1, 9) | anything, max_size=4)), st.integers(0, 5))
def test_pickles_of_other_values(tmp_path, value, protocol):
    check(tmp_path, "srgnn", pickle.dumps(value, protocol), pickle.dumps(TEST))


# --- text ----------------------------------------------------------------------------------------------------

CLICKS = "1\t7\t100\n1\t9\t101\n2\t9\t102\n2\ta1\t103\n2\t7\t104\n"
TEXTS = {
    "lessr": ("0,1,2\n3,4\n1,1,5,0\n", "2,0\n4,3,1\n"),
    "gru4rec": ("SessionId\tItemId\tTime\n" + CLICKS, "SessionId\tItemId\tTime\n3\t9\t200\n3\t7\t201\n"),
    "recbole": (
        "session_id:token\titem_id:token\ttimestamp:float\n" + CLICKS,
        "session_id:token\titem_id:token\ttimestamp:float\n3\t9\t200\n3\t7\t201\n",
    ),
    "recbole lists": (
        "session_id:token\titem_id_list:token_seq\titem_id:token\n1\t1 2\t3\n1\t1\t2\n2\t3\t1\n",
        "session_id:token\titem_id_list:token_seq\titem_id:token\n3\t3\t1\n",
    ),
}


@quick
@given(some_edits)
@pytest.mark.parametrize("name", TEXTS)
def test_spoiled_text(tmp_path, name, edits):
    train, test = (text.encode() for text in TEXTS[name])
    format = name.split()[0]
    check(tmp_path, format, spoiled(train, edits), test)
    check(tmp_path, format, train, spoiled(test, edits))


# --- parquet -------------------------------------------------------------------------------------------------


def parquet(**columns) -> bytes:
    file = io.BytesIO()
    pd.DataFrame(columns).to_parquet(file)
    return file.getvalue()


GOOD = {"session": [1, 1, 2, 2], "item": [1, 2, 2, 1]}
STRANGE = {
    "float16": np.array([1, 2, 2, 1], np.float16),
    "floats": [1.0, 2.0, 2.5, float("inf")],
    "none": [None] * 4,
    "some": [1, None, 2, 1],
    "texts": ["a", "b\0", "", "a"],
    "long": [2**63 - 1, -(2**63), 0, 1],
    "unsigned": np.array([2**64 - 1, 1, 2, 1], np.uint64),
    "lists": [[1], [2], [], None],
    "dicts": [{"a": 1}] * 4,
    "bytes": [b"\xff", b"a", b"a", b"\0"],
    "booleans": [True, False, True, True],
    "dates": pd.to_datetime(["2020-01-01", None, "2020-01-03", "1677-09-22"]),
    "zones": pd.to_datetime(["2020-01-01"] * 4, utc=True),
    "spans": pd.to_timedelta([1, 2, 3, 4], unit="s"),
    "categories": pd.Categorical(["a", "b", "a", None]),
}


@quick
@given(some_edits)
def test_spoiled_parquet(tmp_path, edits):
    train, test = parquet(**GOOD, time=[1, 2, 3, 4]), parquet(session=[3, 3], item=[2, 1])
    check(tmp_path, "parquet", spoiled(train, edits), test, ".parquet")


@pytest.mark.parametrize("role", ["session", "item", "time", "user"])
@pytest.mark.parametrize("kind", STRANGE)
def test_parquet_of_other_types(tmp_path, kind, role):
    test = parquet(session=[3, 3], item=[2, 1])
    check(tmp_path, "parquet", parquet(**(GOOD | {role: STRANGE[kind]})), test, ".parquet")


# --- the record beside an export -----------------------------------------------------------------------------


@quick
@given(
    st.sampled_from(["files", "n_items", "times", "format", "split_hash", "name"]),
    st.one_of(st.just("gone"), anything),
    st.sampled_from(["gru4rec", "srgnn", "lessr"]),
)
def test_records_with_other_values(tmp_path_factory, key, value, format):
    folder = tmp_path_factory.mktemp("r")
    dataset = Dataset("x", 300, Sessions.from_lists(TRAIN), Sessions.from_lists(TEST))
    out, files = export(dataset, format, folder / "out")
    record = json.loads((out / EXPORTED).read_text())
    if value == "gone":
        del record[key]
    else:
        record[key] = repr(value) if isinstance(value, bytes) else value
    (out / EXPORTED).write_text(json.dumps(record, default=repr))
    paths = [str(out / name) for name in files]
    words = ["data", "import", "x", "--format", format, *paths, "--data-dir", str(folder / "data")]
    result = CliRunner().invoke(main, words, prog_name="dissect")
    assert result.exit_code in (0, 3) and (result.exit_code == 0 or EXPORTED in result.stderr), result.output
