"""Exchange files: what is read, and what is refused, with file and place, before anything is written."""

import contextlib
import os
import pickle
import re
import tracemalloc
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dissect.data import catalog, formats
from dissect.data.formats import _sessions, import_files, read_lessr, read_pickle
from dissect.data.sessions import Sessions
from dissect.errors import DataError, DissectError, UsageError

TRAIN = [[1, 2, 3], [4, 5], [2, 2, 6, 1]]
TEST = [[3, 1], [5, 4, 2]]


def dump(path: Path, value) -> Path:
    path.write_bytes(pickle.dumps(value, protocol=2))
    return path


def read_srgnn(path):
    return _sessions(path, read_pickle(path))


def prefixed(sessions, longest_first=True):
    pairs = [[(s[:k], s[k]) for k in range(1, len(s))] for s in sessions]
    flat = [pair for p in pairs for pair in (p[::-1] if longest_first else p)]
    return [list(p) for p, _ in flat], [t for _, t in flat]


def listed(sessions: Sessions) -> list[list[int]]:
    return [sessions[i].tolist() for i in range(len(sessions))]


@given(st.lists(st.lists(st.integers(1, 6), min_size=2, max_size=6), min_size=1, max_size=8), st.booleans())
def test_sessions_are_rebuilt_from_their_prefixes(tmp_path_factory, sessions, longest_first):
    content = prefixed(sessions, longest_first)
    found = listed(read_srgnn(dump(tmp_path_factory.mktemp("p") / "t.txt", content)))
    if longest_first:
        assert found == sessions
    else:  # a few repetitive files can be read both ways; then as longest first, which is what the field writes
        assert found == sessions or prefixed(found) == content


def test_whole_sessions_and_text_are_read(tmp_path):
    assert listed(read_srgnn(dump(tmp_path / "a", TRAIN))) == TRAIN
    (tmp_path / "b").write_text("0,1,2\n3,4\n")
    assert listed(read_lessr(tmp_path / "b")) == [[1, 2, 3], [4, 5]]


def test_an_import_has_counts_and_provenance_and_reads_back_equal(tmp_path):
    train, test = dump(tmp_path / "train.txt", [*TRAIN, [7]]), dump(tmp_path / "test.txt", prefixed(TEST))
    data = import_files("x", "srgnn", train, test)
    assert (data.n_items, len(data.train), len(data.test)) == (6, 3, 2)
    assert data.provenance["dropped_single_clicks"] == {"train": 1, "test": 0}
    assert data.provenance["train"]["file"] == "train.txt"
    catalog.save(data, tmp_path / "data")
    back = catalog.load("x", tmp_path / "data")
    assert listed(back.train) == TRAIN and listed(back.test) == TEST
    assert back.split_hash == data.split_hash and isinstance(back.train.items, np.memmap)


def test_the_recent_part_keeps_the_last_sessions_and_their_items(tmp_path):
    train, test = dump(tmp_path / "train.txt", TRAIN), dump(tmp_path / "test.txt", [[2, 6, 3, 1], [5, 4]])
    data = import_files("x", "srgnn", train, test, recent=0.3)
    assert listed(data.train) == [[1, 1, 2, 3]]  # 2, 2, 6, 1 renumbered by first appearance
    assert listed(data.test) == [[1, 2, 3]] and data.n_items == 3


class Evil:
    def __reduce__(self):
        return (os.system, ("true",))


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "is empty"),
        (pickle.dumps(TRAIN)[:-4], "cut off"),
        (pickle.dumps([Evil()]), "refers to"),
        (pickle.dumps({"a": 1}), "a dict"),
        (pickle.dumps([]), "nothing"),
        (pickle.dumps([1, 2]), "session 0, should be a list"),
        (pickle.dumps([[1, 2], [3, 0]]), "session 1, click 1, is 0"),
        (pickle.dumps([[1, 2], [3, -4]]), "session 1, click 1, is -4"),
        (pickle.dumps([[1, 2.5]]), "session 0, click 1, is 2.5"),
        (pickle.dumps([[1, "2"]]), "session 0, click 1, is '2'"),
        (pickle.dumps([[1, True]]), "session 0, click 1, is True"),
        (pickle.dumps([[1, 2**31]]), "session 0, click 1, is 2147483648"),
        (b"]" * 50_000 + b"a" * 49_999 + b".", "session 0, click 0, is a list"),
        (b"(" * 50_000 + b"t" * 50_000 + b".", "session 0, click 0, is a tuple"),
        (pickle.dumps(([[1, 2], [1]], None)), "two lists, and the second is nothing"),
        (pickle.dumps(([[1, 2], [1]], "ab")), "two lists, and the second is 'ab'"),
        (pickle.dumps(([[1, 2], [2]], [3, 2])), "prefix 1, is no prefix"),
        (pickle.dumps(([[1, 2], [1]], [3, 4])), "prefix 1, is no prefix"),
        (pickle.dumps(([[1, 2]], [3])), "prefix 0, is no prefix"),
        (pickle.dumps(([[1, 2], [1]], [3])), "2 prefixes and 1 targets"),
        (pickle.dumps(([[1, 2], []], [3, 1])), "prefix 1, is empty"),
        (pickle.dumps([[3], [4]]), "no session of two clicks"),
    ],
)
def test_bad_pickles_are_refused_with_file_and_place(tmp_path, content, says):
    bad, good = tmp_path / "bad.txt", dump(tmp_path / "good.txt", TRAIN)
    bad.write_bytes(content)
    with pytest.raises(DataError, match=says) as error:
        import_files("x", "srgnn", bad, good)
    assert "bad.txt" in error.value.message and error.value.exit_code == 3


@pytest.mark.parametrize("bad", [b"\x80\x02]q\x00(K\x01e", b"\x80\x04\x95garbage", b"cos\nsystem\n(S'true'\ntR."])
def test_any_bytes_are_a_data_error_and_nothing_else(tmp_path, bad):
    (tmp_path / "x").write_bytes(bad)
    with pytest.raises(DataError):
        read_pickle(tmp_path / "x")


@given(st.binary(max_size=60))
def test_random_bytes_never_escape(tmp_path_factory, content):
    path = tmp_path_factory.mktemp("r") / "x"
    path.write_bytes(content)
    for read in (read_srgnn, read_lessr):
        with contextlib.suppress(DataError):
            read(path)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("1,2\n3,x\n", "line 2"),
        ("1,,2\n", "line 1"),
        ("1,-1\n", "line 1"),
        ("1,2\n\n2,3\n", "line 2"),
        ("1,2\n3,01\n", "line 2.*zeros in front"),
        ("1,2\n3,1_0\n", "line 2"),
        ("1,2\n3,2147483647\n", "line 2, has the item 2147483647: items run from 0 to 2147483646"),
        ("\n\n", "no line with a session"),
        ("1," * 600_000 + "1", "line 1, is longer than 1,000,000 bytes"),
    ],
    ids=range(9),
)
def test_bad_text_is_refused(tmp_path, text, says):
    (tmp_path / "bad").write_text(text)
    with pytest.raises(DataError, match=says):
        read_lessr(tmp_path / "bad")


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("kind", ["i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8"])
def test_numpys_integers_are_whole_numbers(tmp_path, kind, protocol):
    largest = min(int(np.iinfo(kind).max), 2**31 - 1)
    content = [[np.array(item, kind)[()] for item in session] for session in [*TRAIN, [1, largest]]]
    (tmp_path / "a").write_bytes(pickle.dumps(content, protocol))
    assert listed(read_srgnn(tmp_path / "a")) == [*TRAIN, [1, largest]]
    if kind[0] == "i":
        (tmp_path / "a").write_bytes(pickle.dumps([[1, np.array(-2, kind)[()]]], protocol))
        with pytest.raises(DataError, match="session 0, click 1, is -2"):
            read_srgnn(tmp_path / "a")


def test_numpys_integers_of_another_byte_order(tmp_path):
    content = pickle.dumps([[np.int32(258), 1]], 4)
    (tmp_path / "a").write_bytes(content.replace(b"<", b">"))
    assert content.count(b"<") == 1 and listed(read_srgnn(tmp_path / "a")) == [[0x02010000, 1]]


@pytest.mark.parametrize("module", ["numpy.core.multiarray", "numpy._core.multiarray"])
def test_a_pickle_of_an_older_python_and_numpy_is_read(tmp_path, module):
    kind = b"cnumpy\ndtype\n(U\x02i8I0\nI1\ntR(I3\nU\x01<NNNI-1\nI-1\nI0\ntb"
    scalar = b"c%s\nscalar\n(%sU\x08\xff\x01\0\0\0\0\0\0tR" % (module.encode(), kind)
    (tmp_path / "a").write_bytes(b"\x80\x02](](K\x07%sL12L\nee." % scalar)
    assert listed(read_srgnn(tmp_path / "a")) == [[7, 511, 12]]


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (np.float64(1), "no integers"),
        (np.bool_(True), "no integers"),
        (np.array([1, 2]), "numpy.*_reconstruct"),
        (pd.Series([[1, 2]]), "instruction"),
    ],
)
def test_other_values_of_numpy_and_pandas_are_refused_with_the_cure(tmp_path, value, says):
    with pytest.raises(DataError, match=says) as error:
        read_srgnn(dump(tmp_path / "a", [[1, value]]))
    assert "[[int(item) for item in session] for session in sessions]" in error.value.hint


TO_I8 = b"cnumpy.core.multiarray\nscalar\n(cnumpy\ndtype\n(X\x02\0\0\0i8I0\nI1\ntR"
BOMBS = {
    "a list again and again": (pickle.dumps([list(range(1, 60_000))] * 16_000), "repeats lists by reference"),
    "prefixes again and again": (pickle.dumps(([[1] * 50_000] * 9_000, [1] * 9_000)), "repeats lists by reference"),
    "lists in lists": (b"]q\0(" + b"h\0h\0h\0](" * 9_000 + b"e" * 9_001 + b".", "is a list"),
    "the last place of the memo": (b"\x80\x02]r\xff\xff\xff\x7f.", "at byte 3 it has the instruction LONG_BINPUT"),
    "the same in text": (b"(lp2000000000\n.", "at byte 2 it has the instruction PUT"),
    "ten times its size": (b"(lp999999\n" + b"K\x01a" * 33_400 + b".", "at byte 2 it has the instruction PUT"),
    "text to come": (b"\x80\x04\x8d\0\0\0\0\x10\0\0\0.", "at byte 2 it has the instruction BINUNICODE8"),
    "bytes to come": (b"\x80\x05\x96\0\0\0\0\x10\0\0\0.", "at byte 2 it has the instruction BYTEARRAY8"),
    "a frame to come": (b"\x80\x04\x95\0\0\0\0\x10\0\0\0].", "exhausted|truncated"),
    "bytes of a size": (b"](](%sI2000000000\ntRee." % TO_I8, "NumPy integer whose bytes are not 8"),
    "a long number": (b"](](\x8b\x00\x00\x10\x00" + b"\x01" * (1 << 20) + b"ee.", "the instruction LONG4"),
    "a key that takes for ever": (b")" + b"q\0h\0\x86" * 40 + b"}h\0Ns.", "a dict"),
    "two in one": (pickle.dumps(TRAIN) + pickle.dumps(TEST), "data after its end"),
}


@pytest.mark.parametrize("what", BOMBS)
def test_a_pickle_takes_no_more_than_its_size(tmp_path, what):
    content, says = BOMBS[what]
    (tmp_path / "bomb").write_bytes(content)
    tracemalloc.start()
    try:
        with pytest.raises(DataError, match=says) as error:
            read_srgnn(tmp_path / "bomb")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 2_000_000 + 100 * len(content) and len(error.value.message) < 1_000


def test_a_place_of_the_memo_is_at_most_the_size_of_the_file():
    for most in (10, 19, 99, 100, 101, 1_000, 1_234, 20_506):
        pattern = re.compile(formats._up_to(most))
        assert [n for n in range(11 * most) if pattern.fullmatch(b"%d" % n)] == list(range(most + 1))


def test_lists_repeated_by_reference_are_read_as_far_as_is_sane(tmp_path):
    assert len(read_srgnn(dump(tmp_path / "a", TRAIN * 1_000))) == 3_000


def test_a_blank_last_line_and_a_mark_of_utf_8_are_none_the_worse(tmp_path):
    (tmp_path / "a").write_bytes(b"\xef\xbb\xbf0,1, 2\r\n3,4 \r\n\r\n\n")
    assert listed(read_lessr(tmp_path / "a")) == [[1, 2, 3], [4, 5]]


@pytest.mark.parametrize("format", ["lessr", "srgnn"])
@pytest.mark.parametrize("first", [0, 1, 7])
def test_items_count_from_where_one_says(tmp_path, format, first):
    write = {"lessr": text, "srgnn": dump}[format]
    train = write(tmp_path / "a", [[item + first - 1 for item in session] for session in TRAIN])
    test = write(tmp_path / "b", [[item + first - 1 for item in session] for session in TEST])
    data = import_files("x", format, train, test, first_id=first)
    assert listed(data.train) == TRAIN and listed(data.test) == TEST and data.n_items == 6
    assert data.identifiers == (None if first == 1 else range(first, first + 6))
    test = write(tmp_path / "b", prefixed(TEST)) if format == "srgnn" and first == 1 else test
    assert listed(import_files("x", format, train, test, first_id=first).test) == TEST
    with pytest.raises(DataError, match=rf"items run from {first + 1} to"):
        import_files("x", format, train, test, first_id=first + 1)


def test_items_that_count_from_0_are_told_apart(tmp_path):
    train, test = dump(tmp_path / "a", [[0, 1], [1, 2]]), dump(tmp_path / "b", [[0, 2]])
    with pytest.raises(DataError, match="session 0, click 0, is 0") as error:
        import_files("x", "srgnn", train, test)
    assert "--first-id 0" in error.value.hint
    with pytest.raises(UsageError, match="srgnn and lessr, not gru4rec"):
        import_files("x", "gru4rec", train, test, first_id=0)
    (tmp_path / "num_items.txt").write_text("3")
    with pytest.raises(DataError, match="have the item 3, but of 3 items the last is 2") as error:
        import_files("x", "lessr", text(tmp_path / "a", [[1, 3], [3, 2]]), text(tmp_path / "b", [[1, 2]]))
    assert "--first-id 1" in error.value.hint


def test_a_first_number_that_never_occurs_is_noticed(typed):
    text(Path("train.txt"), [[1, 2], [2, 3], [3, 1]]), text(Path("test.txt"), [[1, 3]])
    words = ["data", "import", "x", "--format", "lessr", "train.txt", "test.txt"]
    code, out, err = typed(*words)
    assert code == 0 and "4 items" in out
    assert "0 never occurs" in err and "--first-id 1 --force" in err
    code, out, err = typed(*words, "--first-id", "1", "--force")
    assert (code, err) == (0, "") and "3 items" in out
    text(Path("test.txt"), [[0, 3]])
    code, out, err = typed(*words, "--force")
    assert (code, err) == (0, "") and "4 items" in out


def test_a_test_file_that_repeats_train_is_refused(tmp_path):
    train, test = dump(tmp_path / "train.txt", TRAIN), dump(tmp_path / "test.txt", prefixed(TRAIN))
    with pytest.raises(DataError, match="repeats"):
        import_files("x", "srgnn", train, test)


def test_the_fields_files_the_wrong_way_round_are_refused(tmp_path):
    prefixes, whole = dump(tmp_path / "test.txt", prefixed(TEST)), dump(tmp_path / "all_train_seq.txt", TRAIN)
    with pytest.raises(DataError, match="as the field writes them") as error:
        import_files("x", "srgnn", prefixes, whole)
    assert error.value.hint.endswith(f"{whole} {prefixes}")
    assert len(import_files("x", "srgnn", whole, prefixes).train) == len(TRAIN)


def text(path, sessions):
    path.write_text("".join(",".join(map(str, session)) + "\n" for session in sessions))
    return path


def test_a_catalogue_of_unused_numbers_is_refused_unless_asked_for(tmp_path):
    train, test = text(tmp_path / "a", [[0, 2_000_000_000, 1]]), text(tmp_path / "b", [[0, 1]])
    with pytest.raises(DataError, match=r"3 item numbers up to 2,000,000,000") as error:
        import_files("x", "lessr", train, test)
    n_items = int(error.value.hint.split()[-1])
    assert import_files("x", "lessr", train, test, n_items=n_items).n_items == n_items == 2_000_000_001


@pytest.mark.parametrize(("format", "says"), [("lessr", "item 5, but of 3 items the last is 2"), ("srgnn", "5.* is 3")])
def test_an_item_beyond_the_catalogue_is_named_as_in_the_file(tmp_path, format, says):
    write = {"lessr": text, "srgnn": dump}[format]
    train, test = write(tmp_path / "a", [[1, 5], [1, 2]]), write(tmp_path / "b", [[2, 1]])
    with pytest.raises(DataError, match=says):
        import_files("x", format, train, test, n_items=3)


def test_a_test_file_of_other_items_is_refused(tmp_path):
    with pytest.raises(DataError, match="nothing to predict"):
        import_files("x", "lessr", text(tmp_path / "a", [[0, 1], [1, 0]]), text(tmp_path / "b", [[0, 2], [1, 3]]))
    assert import_files("x", "lessr", text(tmp_path / "a", [[0, 1]]), text(tmp_path / "b", [[2, 1]])).n_items == 3


def make(tmp_path, name="x"):
    return import_files(name, "srgnn", dump(tmp_path / "a.txt", TRAIN), dump(tmp_path / "b.txt", TEST))


def test_a_name_is_taken_once_unless_forced(tmp_path):
    data = make(tmp_path)
    catalog.save(data, tmp_path / "data")
    with pytest.raises(UsageError, match="already"):
        catalog.save(data, tmp_path / "data")
    catalog.save(data, tmp_path / "data", force=True)
    assert catalog.names(tmp_path / "data") == ["x"]
    assert [p.name for p in (tmp_path / "data").iterdir()] == ["x"]  # nothing half-written beside it


@pytest.mark.parametrize("name", ["demo", "..", "a/b", ""])
def test_names_that_are_no_folder_names_are_refused(tmp_path, name):
    with pytest.raises(UsageError):
        catalog.save(make(tmp_path, name), tmp_path / "data")


def test_a_full_disk_leaves_no_data_set(tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "save", full)
    with pytest.raises(DissectError, match="No space left"):
        catalog.save(make(tmp_path), tmp_path / "data")
    assert list((tmp_path / "data").iterdir()) == []


def test_a_data_set_that_was_tampered_with_is_noticed(tmp_path):
    folder = catalog.save(make(tmp_path), tmp_path / "data")
    items = np.load(folder / "train-items.npy")
    items[0] += 1
    np.save(folder / "train-items.npy", items)
    with pytest.raises(DataError, match="changed"):
        catalog.load("x", tmp_path / "data")
    (folder / "train-items.npy").write_bytes(b"rubbish")
    with pytest.raises(DataError, match="cannot be read"):
        catalog.load("x", tmp_path / "data")


def test_missing_and_unknown_names(tmp_path):
    with pytest.raises(DataError) as missing:
        catalog.load("gowalla", tmp_path)
    assert missing.value.exit_code == 3 and "dissect data import gowalla" in missing.value.hint
    with pytest.raises(UsageError) as unknown:
        catalog.load("gowala", tmp_path)
    assert unknown.value.exit_code == 2 and "gowalla" in unknown.value.hint


def test_another_split_stands_in_under_its_own_name(tmp_path):
    catalog.save(make(tmp_path, "diginetica-srgnn"), tmp_path / "data")
    assert catalog.load("diginetica", tmp_path / "data").name == "diginetica-srgnn"
