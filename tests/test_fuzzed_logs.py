"""Damaged logs of every kind: a data set or an error in words, never a traceback, and nothing half-written."""

from __future__ import annotations

import csv
import gzip
import io
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from dissect.cli import main
from dissect.data import catalog, lines
from dissect.errors import DataError

ROWS = [(f"v{i // 3}", f"u{i // 9}", f"sku-{i % 5}", 1_600_000_000 + 60 * i) for i in range(60)]
TEXT = "visit,user,item,at\n" + "".join("{},{},{},{}\n".format(*row) for row in ROWS)
COLUMNS = ["--session-col", "visit", "--user-col", "user", "--item-col", "item", "--time-col", "at"]


def parquet():
    visit, user, _, at = zip(*ROWS)
    file = io.BytesIO()
    table = {"visit": visit, "user": pa.array(user).dictionary_encode(), "item": np.arange(60) % 5, "at": at}
    pq.write_table(pa.table(table), file)
    return file.getvalue()


def zipped():
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("log.csv", TEXT)
    return file.getvalue()


def tarred():
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        member = tarfile.TarInfo("log.csv")
        member.size = len(TEXT)
        archive.addfile(member, io.BytesIO(TEXT.encode()))
    return file.getvalue()


FILES = {
    "log.csv": TEXT.encode(),
    "log.tsv": TEXT.replace(",", "\t").encode(),
    "quoted.csv": TEXT.replace("sku", '"sku').replace(",16", '",16').encode(),
    "log.csv.gz": gzip.compress(TEXT.encode()),
    "log.zip": zipped(),
    "log.tar": tarred(),
    "log.parquet": parquet(),
}
PIECES = [
    *(b'"', b'""', b'",', b"\n", b"\r", b"\r\n", b"\0", b",", b"\t", b"\xff", b"\xef\xbb\xbf", "é".encode(), b"NULL"),
    *(b"", b"nan", b"-1", b"1e999", b"99999999999999999999", b"20140407", b"2014-04-07", b"inf", b" ", b"item"),
]
CHANGES = st.lists(
    st.tuples(st.integers(0, 1 << 12), st.integers(0, 12), st.sampled_from(PIECES) | st.binary(max_size=6)), max_size=4
)


def damaged(content, changes, length):
    """`content` cut off at a length, with pieces of it replaced: (place, bytes that go, bytes that come)."""
    for place, gone, piece in changes:
        place %= len(content) + 1
        content = content[:place] + piece + content[place + gone :]
    return content[:length]


@pytest.mark.parametrize("name", FILES)
@settings(max_examples=30, deadline=5_000, suppress_health_check=list(HealthCheck))
@given(changes=CHANGES, length=st.sampled_from([1 << 20, 1 << 20, 1 << 20, 700, 90, 20, 0]))
def test_damaged_logs(tmp_path_factory, name, changes, length):
    folder = tmp_path_factory.mktemp("log")
    (folder / name).write_bytes(damaged(FILES[name], changes, length))
    words = ["data", "prepare", "shop", "--from", str(folder / name), *COLUMNS, "--min-clicks", "1"]
    result = CliRunner().invoke(main, [*words, "--data-dir", str(folder / "data")], prog_name="dissect")
    assert isinstance(result.exception, SystemExit | None), result.exception
    assert result.exit_code in (0, 3), result.stderr
    if result.exit_code == 0:
        assert catalog.load("shop", folder / "data").train.n_clicks
    else:
        assert result.stdout == "" and name in result.stderr and "Traceback" not in result.stderr
        assert not [path for path in folder.glob("data/*") if not path.name.endswith(".lock")]


def test_what_the_files_hold_when_they_are_whole(tmp_path):
    """Else every one of the examples above could be refused for a reason of its own."""
    hashes = set()
    for name, content in FILES.items():
        Path(tmp_path / name).write_bytes(content)
        words = ["data", "prepare", name, "--from", str(tmp_path / name), *COLUMNS, "--min-clicks", "1"]
        assert CliRunner().invoke(main, [*words, "--data-dir", str(tmp_path / "data")]).exit_code == 0
        hashes.add(catalog.load(name, tmp_path / "data").split_hash)
    assert len(hashes) == 1


def by_the_csv_module(text):
    """The physical lines of each click; None where the quotation marks are against the rules of csv."""
    lines, before, found = io.StringIO(text, newline="").readlines(), 0, []
    reader = csv.reader(lines, strict=True)
    try:
        for _ in reader:
            found.append(lines[before : reader.line_num])
            before = reader.line_num
    except csv.Error:
        return None
    return found


@settings(max_examples=400, deadline=None)
@example(text=',,"\n,","\n"', block=1 << 20)  # its second line looks like a click, and is not the last of the record
@given(text=st.text(alphabet='ab",\n', min_size=1, max_size=40), block=st.sampled_from([1, 2, 3, 7, 1 << 20]))
def test_quotation_marks_against_the_csv_module(text, block):
    """Two clicks that an open quotation mark joins are refused: the first line of the record, and one on which a field
    closes, each have all fields of a click.
    """
    text += "\n"
    records = by_the_csv_module(text)
    first_and_more = [record for record in records or [] if record[0].count(",") == 2]
    may_be_joined = any(line.count(",") == 2 for record in first_and_more for line in record[1:])
    joined = any(len(record) > 1 and record[-1].count(",") == 2 for record in first_and_more)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lines, "BLOCK", block)
        quotes = lines.Quotes(Path("log.csv"), ",", 3)
        try:
            read = list(quotes.checked(lines.blocks(Path("log.csv"), io.BytesIO(text.encode())), 1))
        except DataError:
            assert records is None or may_be_joined
            return
    assert records is not None and not joined
    assert b"".join(read).decode() == text
    numbers = [number for number, _ in lines.clicks(read, quotes, ",")]
    begins = np.cumsum([1, *map(len, records)])
    assert numbers == [begin for begin, record in zip(begins, records) if "".join(record).strip()]
