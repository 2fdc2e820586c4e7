"""Data set folders that were changed, damaged, or are none: refused with the reason, and never lost."""

import json
import shutil
import tracemalloc
import warnings

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from dissect.data import catalog
from dissect.data.export import export
from dissect.data.sessions import Dataset, Sessions, require_sound
from dissect.errors import DataError, UsageError
from dissect.runs.replace import Kind, whole

LISTS = [[1, 2, 3], [2, 3], [4, 1]]


def full(lists):
    """Sessions with everything that they can have."""
    flat = Sessions.from_lists(lists)
    ends = np.arange(len(flat), dtype=np.int64)
    return Sessions(flat.items, flat.offsets, ends, ends + 7, np.arange(len(flat.items), dtype=np.int64))


def shop(name="shop"):
    return Dataset(name, 4, full(LISTS), full([[1, 4], [2, 3, 1]]), {"format": "x"}, ["a", "b", 3, "d"])


def changed(folder, array, change):
    path = folder / f"{array}.npy"
    np.save(path, change(np.load(path)))


def put(place, value):
    def change(values):
        values[place] = value
        return values

    return change


@pytest.mark.parametrize(
    ("array", "change", "says"),
    [
        ("train-items", lambda items: items + 0.9, "train: items should be int32 of 1 dimension, not float64"),
        ("test-items", lambda items: items.astype(np.int64) + 2**32, "test: items should be int32"),
        ("train-items", lambda items: items[:, None], "of 1 dimension, not int32 of 2"),
        ("train-items", lambda items: items.astype(">i4"), "items should be int32"),
        ("train-items", put(4, 0), "items should be 1 to 4, and click 4 is 0"),
        ("train-items", put(2, 5), "items should be 1 to 4, and click 2 is 5"),
        ("train-items", put(0, -1), "click 0 is -1"),
        ("train-items", lambda items: items[:-1], "offsets should lead from 0 to the 6 items"),
        ("train-offsets", put(0, 1), "offsets should lead from 0"),
        ("train-offsets", put(1, 6), "offsets should rise, and do not after session 1"),
        ("train-offsets", put(1, 0), "offsets should rise, and do not after session 0"),
        ("train-offsets", lambda offsets: offsets + 0.5, "offsets should be int64"),
        ("train-offsets", lambda offsets: offsets[:0], "over one session or more"),
        ("train-times", lambda times: times[:-1], "times should be 3 numbers, not 2"),
        ("test-users", lambda users: np.append(users, 1), "users should be 2 numbers, not 3"),
        ("test-users", lambda users: users.astype("datetime64[s]"), "users should be int64"),
        ("train-click_times", lambda times: times[:3], "click_times should be 7 numbers, not 3"),
    ],
)
def test_arrays_that_are_not_those_of_sessions_are_refused(tmp_path, array, change, says):
    folder = catalog.save(shop(), tmp_path)
    assert catalog.load("shop", tmp_path).split_hash == shop().split_hash
    changed(folder, array, change)
    with pytest.raises(DataError) as error:
        catalog.load("shop", tmp_path)
    assert says in error.value.message and str(folder) in error.value.message and "--force" in error.value.hint


def test_offsets_whose_differences_overflow_are_refused():
    low, high = np.iinfo(np.int64).min, np.iinfo(np.int64).max
    sessions = Sessions(np.ones(5, np.int32), np.array([0, high, low, -1, 5]))
    with np.errstate(all="ignore"):
        assert (np.diff(sessions.offsets) > 0).all()
    with pytest.raises(ValueError, match="after session 1"):
        require_sound(sessions, 9)


def test_a_hash_is_of_the_numbers_themselves_not_of_what_a_cast_makes_of_them(tmp_path):
    train, test = full(LISTS), full([[1, 4]])
    for wrong in (train.items + 0.9, train.items.astype(np.int64) + 2**32):
        with pytest.raises(TypeError):
            _ = Dataset("x", 4, Sessions(wrong, train.offsets), test).split_hash
    with pytest.raises(DataError, match="cannot be kept: items should be int32"):
        catalog.save(Dataset("x", 4, Sessions(train.items.astype(np.int64), train.offsets), test), tmp_path)


@pytest.mark.parametrize("n_items", [0, -1, 2**31, 4.0, "4", True, None])
def test_a_record_says_how_many_items_there_are(tmp_path, n_items):
    folder = catalog.save(shop(), tmp_path)
    record = json.loads((folder / "data.json").read_text())
    (folder / "data.json").write_text(json.dumps({**record, "n_items": n_items}))
    with pytest.raises(DataError, match="n_items"):
        catalog.load("shop", tmp_path)


# --- what --force may replace ------------------------------------------------------------------------------------


def test_force_replaces_a_data_set_and_nothing_else(tmp_path):
    folder = catalog.save(shop(), tmp_path)
    catalog.save(shop(), tmp_path, force=True)
    (folder / "thesis.txt").write_text("mine")
    with pytest.raises(UsageError, match=r"do not belong to a data set: thesis.txt\."):
        catalog.save(shop(), tmp_path, force=True)
    assert (folder / "thesis.txt").read_text() == "mine"
    (folder / "thesis.txt").unlink()
    (folder / "data.json").write_text("garbled")  # a damaged one may be brought again
    catalog.save(shop(), tmp_path, force=True)
    assert [path.name for path in tmp_path.iterdir()] == ["shop"]  # nothing half-written, nothing aside


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda folder: folder.write_text("mine"), "not an ordinary folder"),
        (lambda folder: folder.symlink_to(folder.parent), "not an ordinary folder"),
        (lambda folder: (folder / "train-items.npy").mkdir(parents=True), "belong to a data set: train-items.npy"),
        (lambda folder: (folder.mkdir(), (folder / "data.json").write_text("{}")), "belong to a data set: data.json"),
    ],
)
def test_force_does_not_replace_what_only_looks_like_a_data_set(tmp_path, make, says):
    make(tmp_path / "shop")
    with pytest.raises(UsageError, match=says):
        catalog.save(shop(), tmp_path, force=True)
    assert (tmp_path / "shop").exists()


def test_force_fills_an_empty_folder(tmp_path):
    (tmp_path / "shop").mkdir()
    catalog.save(shop(), tmp_path, force=True)
    assert catalog.load("shop", tmp_path).n_items == 4


def test_an_import_over_a_folder_of_others_is_refused_before_anything_is_read(typed, tmp_path):
    (tmp_path / "data" / "shop").mkdir(parents=True)
    (tmp_path / "data" / "shop" / "data.json").write_text("mine")
    code, out, err = typed("data", "import", "shop", "--format", "lessr", "none.txt", "none.txt", "--force")
    assert (code, out) == (2, "") and "do not belong to a data set: data.json." in err
    assert "--force replaces only what dissect wrote" in err
    assert (tmp_path / "data" / "shop" / "data.json").read_text() == "mine"


def test_force_replaces_an_export_and_nothing_else(tmp_path):
    out = tmp_path / "out"
    export(shop(), "srgnn", out)
    export(shop(), "lessr", out, force=True)
    assert {path.name for path in out.iterdir()} == {"train.txt", "test.txt", "num_items.txt", "dissect.json"}
    (out / "notes.md").write_text("mine")
    with pytest.raises(UsageError, match=r"do not belong to an export: notes.md\."):
        export(shop(), "lessr", out, force=True)
    (out / "notes.md").unlink()
    of_others = {"files": dict.fromkeys(("train.txt", "test.txt", "num_items.txt"))}
    for record in ("{}", "[1]", "\x00", json.dumps(of_others), "[" * 100_000):
        (out / "dissect.json").write_text(record)
        with pytest.raises(UsageError, match=r"do not belong to an export: dissect\.json, num_items"):
            export(shop(), "lessr", out, force=True)
    (out / "dissect.json").unlink()
    with pytest.raises(UsageError, match="do not belong to an export"):
        export(shop(), "lessr", out, force=True)
    assert (out / "num_items.txt").exists()


def test_an_export_that_was_killed_between_two_renames_comes_back(tmp_path):
    out = tmp_path / "out"
    export(shop(), "srgnn", out)
    out.rename(tmp_path / ".out~01234567.old")
    (tmp_path / ".out~01234567").mkdir()
    (tmp_path / ".out~1~01234567").mkdir()  # of a folder out~1
    with pytest.raises(UsageError, match="it is an export already"):
        export(shop(), "lessr", out)
    assert {path.name for path in tmp_path.iterdir()} == {"out", ".out~1~01234567"}
    assert (out / "all_train_seq.txt").exists()


def test_a_folder_that_another_process_fills_is_left_to_it(tmp_path):
    kind = Kind("an export", lambda folder: ())
    with whole(tmp_path / "out", kind) as first:
        with whole(tmp_path / "out", kind, force=True) as second:
            assert first.is_dir() and second.is_dir()
            (second / "of").write_text("the second")
        assert first.is_dir()
        (tmp_path / "out" / "of").unlink()


@pytest.mark.parametrize("words", [["--out", "."], ["--out", "thesis"]])
def test_an_export_over_a_folder_of_others_is_refused(typed, tmp_path, words):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter1.tex").write_text("mine")
    code, _, err = typed("data", "export", "demo-walk", "--format", "lessr", *words, "--force")
    assert code == 2 and "--force replaces only what dissect wrote" in err
    assert (tmp_path / "thesis" / "chapter1.tex").read_text() == "mine"


# --- any bytes --------------------------------------------------------------------------------------------------

HEADER = b"\x93NUMPY\x01\x00v\x00"


def header(text):
    return HEADER + text.ljust(117).encode() + b"\n"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return catalog.save(shop(), tmp_path_factory.mktemp("fuzzed"))


@st.composite
def damage(draw):
    """(file, what is done to its bytes)."""
    name = draw(st.sampled_from(catalog.FILES))
    start, length = draw(st.floats(0, 1)), draw(st.integers(0, 12))
    return name, start, length, draw(st.binary(max_size=12) | st.sampled_from(BYTES))


BYTES = (b"9" * 12, b"1L", b"-1", b"}", b"[" * 2000, b"null", b"NaN", b"1e999", b'"', b",", b"\\ud800", b"\xff", b"|O")


@settings(max_examples=100)
@given(damage())
@example(("data.json", 0.0, 10**6, b"[" * 100_000))
@example(("items.json", 0.0, 10**6, b'{"identifiers":' + b"[" * 100_000))
@example(("train-items.npy", 0.0, 10**6, b""))
@example(("train-items.npy", 0.0, 10**6, b"PK\x05\x06" + bytes(18)))
@example(
    ("train-items.npy", 0.0, 10**6, header("{'descr': '<i4', 'fortran_order': False, 'shape': (1L,), }") + b"1234")
)
@example(("train-items.npy", 0.0, 10**6, header("{'descr': '<i4', 'fortran_order': False, 'shape': (7,), ")))
@example(("train-items.npy", 0.0, 10**6, header("{'descr': '<i4', 'fortran_order': False, 'shape': (-7,), }")))
@example(("train-items.npy", 0.0, 10**6, header("{'descr': '<i4', 'fortran_order': False, 'shape': (10**30,), }")))
def test_a_damaged_data_set_is_a_data_error_and_nothing_else(folder, damaged):
    name, start, length, new = damaged
    path = folder / name
    whole = path.read_bytes()
    at = int(start * len(whole))
    path.write_bytes(whole[:at] + new + whole[at + length :])
    try:
        found = catalog.load(folder.name, folder.parent)
    except DataError as error:
        assert str(folder) in error.message
    else:  # in what the hash does not cover: times, users, identifiers, provenance
        assert found.split_hash == shop().split_hash and len(found.identifiers) == 4
        for part in (found.train, found.test):
            require_sound(part, 4)
    finally:
        path.write_bytes(whole)


def test_a_header_as_python_2_wrote_it_is_refused_without_a_warning(folder, tmp_path):
    copy = tmp_path / "shop"
    shutil.copytree(folder, copy)
    (copy / "train-items.npy").write_bytes(
        header("{'descr': '<i4', 'fortran_order': False, 'shape': (7L,), }")
        + (folder / "train-items.npy").read_bytes()[-28:]
    )
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        with pytest.raises(DataError, match=r"train-items.npy is no array"):
            catalog.load("shop", tmp_path)
    assert not said


def test_a_header_that_claims_much_takes_no_memory(folder, tmp_path):
    copy = tmp_path / "shop"
    shutil.copytree(folder, copy)
    claims = "{'descr': '<i4', 'fortran_order': False, 'shape': (100000000000,), }"
    (copy / "train-items.npy").write_bytes(header(claims) + bytes(28))
    tracemalloc.start()
    try:
        with pytest.raises(DataError, match=r"train-items.npy is no array"):
            catalog.load("shop", tmp_path)
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()
