"""Downloads, from a server on this machine that behaves as servers do."""

from __future__ import annotations

import fcntl
import hashlib
import http.server
import json
import os
import threading
import time

import numpy as np
import pytest

from dissect.data import bring, sources
from dissect.data import fetch as module
from dissect.data.bring import load
from dissect.data.fetch import checksum, fetch
from dissect.data.sources import Source
from dissect.errors import DataError, UsageError

CONTENT = bytes(range(256)) * 1200  # 307,200 bytes
truncate = os.truncate
SHA = "sha256:" + hashlib.sha256(CONTENT).hexdigest()


class Server(http.server.ThreadingHTTPServer):
    """Serves its content under any name; `cuts` says after how many bytes each answer breaks off (None: never)."""

    def __init__(self, ranges=True):
        super().__init__(("127.0.0.1", 0), Handler)
        self.ranges, self.cuts, self.asked, self.content, self.tells = ranges, [], [], CONTENT, True
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    def url(self, name):
        return f"http://127.0.0.1:{self.server_address[1]}/{name}"


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        server = self.server
        server.asked.append((self.path, self.headers.get("Range")))
        if "missing" in self.path:
            self.send_error(404)
            return
        start = 0
        if server.ranges and self.headers.get("Range"):
            start = int(self.headers["Range"].removeprefix("bytes=").rstrip("-"))
            if start >= len(server.content):
                self.send_error(416)
                return
        self.send_response(206 if start else 200)
        if server.tells:
            self.send_header("Content-Length", str(len(server.content) - start))
        self.end_headers()
        cut = server.cuts.pop(0) if server.cuts else None
        self.wfile.write(server.content[start:] if cut is None else server.content[start : start + cut])

    def log_message(self, *_):
        pass


@pytest.fixture(params=[True, False], ids=["ranges", "no ranges"])
def any_server(request):
    yield from running(Server(request.param))


@pytest.fixture
def server():
    yield from running(Server())


def running(server):
    yield server
    server.shutdown()
    server.server_close()


def source(*urls, check=SHA, **more):
    return Source("log.csv", urls, check, **more)


def test_a_good_file_comes_once(server, tmp_path):
    seen, said = [], []
    what = source(server.url("log.csv"))
    path = fetch(what, tmp_path / "cache", show=lambda done, total: seen.append((done, total)), say=said.append)
    assert path.read_bytes() == CONTENT and seen[-1] == (len(CONTENT), len(CONTENT))
    assert said == [f"Fetching {server.url('log.csv')}"]
    assert [p.name for p in path.parent.iterdir()] == ["log.csv"]
    assert fetch(what, tmp_path / "cache") == path and len(server.asked) == 1


def test_a_wrong_checksum_is_refused_and_thrown_away(server, tmp_path):
    with pytest.raises(DataError, match="should be sha256:00") as error:
        fetch(source(server.url("log.csv"), check="sha256:00"), tmp_path)
    assert SHA in error.value.message and list(tmp_path.iterdir()) == []


def test_a_file_that_changed_in_the_cache_is_fetched_again(server, tmp_path):
    (tmp_path / "log.csv").write_bytes(b"old")
    assert fetch(source(server.url("log.csv")), tmp_path).read_bytes() == CONTENT


def whole_blocks(count):
    return count // module.BLOCK * module.BLOCK


def test_what_is_cut_off_is_continued(any_server, tmp_path):
    any_server.cuts = [100_000, 150_000, None]
    if any_server.ranges:
        path = fetch(source(any_server.url("log.csv")), tmp_path)
        starts = [int(r.strip("bytes=-")) if r else 0 for _, r in any_server.asked]
        assert starts == [0, whole_blocks(100_000), whole_blocks(whole_blocks(100_000) + 150_000)]
    else:  # starts again each time, and gets further each time
        path = fetch(source(any_server.url("log.csv")), tmp_path)
        assert len(any_server.asked) == 3
    assert path.read_bytes() == CONTENT


def test_what_has_arrived_is_kept_for_the_next_call(server, tmp_path):
    server.cuts = [100_000, 0]
    with pytest.raises(DataError, match="98,304 bytes are kept"):
        fetch(source(server.url("log.csv")), tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["log.csv.part"]
    assert fetch(source(server.url("log.csv")), tmp_path).read_bytes() == CONTENT
    assert server.asked[-1][1] == f"bytes={whole_blocks(100_000)}-"


def test_a_part_that_is_whole_already_is_only_checked(server, tmp_path):
    (tmp_path / "log.csv.part").write_bytes(CONTENT)
    assert fetch(source(server.url("log.csv")), tmp_path).read_bytes() == CONTENT


def test_a_part_of_another_file_is_no_good(server, tmp_path):
    (tmp_path / "log.csv.part").write_bytes(b"x" * 100)
    with pytest.raises(DataError, match="checksum"):
        fetch(source(server.url("log.csv")), tmp_path)
    assert fetch(source(server.url("log.csv")), tmp_path).read_bytes() == CONTENT


@pytest.mark.parametrize("tells", [True, False], ids=["length told", "length not told"])
@pytest.mark.parametrize("limit", [{"size": 99_999}, {"at_most": 99_999}], ids=["size", "at most"])
def test_a_download_stops_at_the_size_that_is_right(server, tmp_path, monkeypatch, tells, limit):
    server.tells, taken = tells, []
    monkeypatch.setattr(
        module.os, "truncate", lambda path, size: taken.append(path.stat().st_size) or truncate(path, size)
    )
    what = source(server.url("missing.csv"), server.url("log.csv"), **limit)
    with pytest.raises(DataError, match=r"larger than log\.csv can be \(99,999 bytes\); the download was deleted"):
        fetch(what, tmp_path)
    assert taken and max(taken) <= 99_999 and list(tmp_path.iterdir()) == []


def test_a_download_of_the_very_size_is_taken(server, tmp_path):
    server.tells = False
    assert fetch(source(server.url("log.csv"), size=len(CONTENT)), tmp_path).read_bytes() == CONTENT


def md5(content):
    return "md5:" + hashlib.md5(content).hexdigest()


def test_where_no_sha256_is_known_that_of_the_first_download_counts(server, tmp_path, monkeypatch):
    what = source(server.url("log.csv"), check=md5(CONTENT))
    path, record = fetch(what, tmp_path), tmp_path / "log.csv.sha256"
    assert record.read_text() == f"{SHA.removeprefix('sha256:')}  log.csv\n"  # as sha256sum writes it
    assert fetch(what, tmp_path) == path and len(server.asked) == 1
    monkeypatch.setattr(module, "matches", lambda *_: True)  # as if two files had one MD5
    path.write_bytes(b"forged")
    assert fetch(what, tmp_path).read_bytes() == CONTENT and len(server.asked) == 2
    path.unlink()
    server.content = b"forged"
    with pytest.raises(
        DataError, match=r"not that of the first download, in /.*log\.csv\.sha256; the download was deleted"
    ):
        fetch(what, tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["log.csv.sha256"]


def test_a_cache_that_can_only_be_read_serves_as_well(server, tmp_path, monkeypatch):
    (tmp_path / "log.csv").write_bytes(CONTENT)

    def refused(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(module.Path, "write_text", refused)
    assert fetch(source(check=md5(CONTENT)), tmp_path).read_bytes() == CONTENT and not server.asked


def test_a_missing_file_is_asked_for_elsewhere(server, tmp_path):
    what = source(server.url("missing.csv"), server.url("log.csv"))
    assert fetch(what, tmp_path).read_bytes() == CONTENT
    with pytest.raises(DataError, match="404"):
        fetch(source(server.url("missing.csv")), tmp_path / "other")


def test_no_network_says_so(tmp_path):
    closed = Server()
    url = closed.url("log.csv")
    closed.shutdown()
    closed.server_close()
    with pytest.raises(DataError, match="no connection") as error:
        fetch(source(url), tmp_path)
    assert error.value.exit_code == 3 and list(tmp_path.iterdir()) == []


def test_terms_are_accepted_first(server, tmp_path):
    what = source(server.url("log.csv"), terms="Be kind.")
    with pytest.raises(UsageError, match="Be kind") as error:
        fetch(what, tmp_path)
    assert "--accept-terms" in error.value.hint and not server.asked
    assert fetch(what, tmp_path, accept_terms=True).exists()


def test_a_full_disk_is_said(server, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "_continue", full)
    with pytest.raises(DataError, match="No space left"):
        fetch(source(server.url("log.csv")), tmp_path)


def test_checksums_as_their_tools_give_them(tmp_path):
    (tmp_path / "x").write_bytes(b"hello\n")
    assert checksum(tmp_path / "x", "git") == "git:ce013625030ba8dba906f756967f9e9ca394464a"  # git hash-object
    assert checksum(tmp_path / "x", "md5") == "md5:b1946ac92492d2347c6235b4d2611184"  # md5sum


def test_sources_are_recipes_and_can_be_checked():
    from dissect.data.recipes import RECIPES

    for name, what in sources.SOURCES.items():
        assert name in RECIPES and what.urls and all(url.startswith("https://") for url in what.urls)
        kind, digest = what.checksum.split(":")
        assert len(digest) == {"md5": 32, "sha256": 64, "git": 40}[kind]
    with pytest.raises(DataError, match="tmall"):
        sources.find("tmall")
    with pytest.raises(UsageError, match="gowala"):
        sources.find("gowala")


# --- a name is enough -------------------------------------------------------------------------------------------


def a_log():
    """A log in the form of Diginetica's, of which something is left."""
    rng = np.random.default_rng(0)
    lines = ["sessionId;userId;itemId;timeframe;eventdate"]
    for session in range(200):
        day = f"2016-05-{rng.integers(1, 28):02d}"
        lines += [f"{session};NA;{rng.integers(1, 20)};{time};{day}" for time in range(0, 9000, 3000)]
    return "\n".join(lines).encode()


def test_run_fetches_what_is_not_there(server, typed, tmp_path, monkeypatch):
    server.content = a_log()
    check = "sha256:" + hashlib.sha256(server.content).hexdigest()
    monkeypatch.setitem(sources.SOURCES, "diginetica", source(server.url("log.csv"), check=check))
    words = ["run", "--dataset", "diginetica", "--max-steps", "2", "--dim", "4", "--device", "cpu", "--quiet", "--json"]
    code, out, err = typed(*words)
    assert code == 0 and json.loads(out)["model"] == "srgnn"  # stdout has the result and nothing else
    assert f"Fetching {server.url('log.csv')}" in err and "expected 42,596" in err
    record = json.loads((tmp_path / "data" / "diginetica" / "data.json").read_text())
    assert record["provenance"]["source"]["sha256"] == check.removeprefix("sha256:")
    code, out, _ = typed("data", "fetch", "diginetica", "--force")  # the log is still in the cache
    assert code == 0 and "prefixes" in out and len(server.asked) == 1


def test_a_name_is_enough_in_python_too(server, tmp_path, monkeypatch):
    server.content, said = a_log(), []
    check = "sha256:" + hashlib.sha256(server.content).hexdigest()
    monkeypatch.setitem(sources.SOURCES, "diginetica-srgnn", source(server.url("log.csv"), check=check))
    assert load("demo", tmp_path, say=said.append).name == "demo"
    with pytest.raises(DataError, match="is not in"):
        load("diginetica-srgnn", tmp_path, fetch=False, say=said.append)
    assert not server.asked and not said
    assert load("diginetica-srgnn", tmp_path, say=said.append).n_items == 19
    assert f"Fetching {server.url('log.csv')}" in said and said[-1].startswith(f"In {tmp_path}")
    assert load("diginetica-srgnn", tmp_path).n_items == 19 and len(server.asked) == 1
    assert load("diginetica", tmp_path, say=said.append).name == "diginetica-srgnn"
    assert said[-1].startswith("'diginetica' is not here; using 'diginetica-srgnn', another split")


def test_where_nothing_can_be_fetched_the_manual_way_is_said(server, typed, tmp_path, monkeypatch):
    monkeypatch.setitem(sources.SOURCES, "gowalla", source(server.url("missing.gz")))
    for verb in (["run", "--dataset", "gowalla"], ["train", "srgnn", "--dataset", "gowalla"]):
        code, out, err = typed(*verb)
        assert (code, out) == (3, "") and "404" in err
        assert "dissect data prepare gowalla --from loc-gowalla_totalCheckins.txt.gz" in err
    code, _, err = typed("run", "--dataset", "lastfm")  # whose terms nobody has accepted
    assert code == 3 and "--accept-terms" in err
    code, _, err = typed("data", "fetch", "lastfm")
    assert code == 2 and "non-commercial" in err and "--accept-terms" in err
    code, _, err = typed("run", "--dataset", "retailrocket")
    assert code == 3 and "dissect data prepare retailrocket --from events.csv" in err
    assert list(tmp_path.iterdir()) == []


def test_one_of_two_that_need_a_data_set_brings_it_and_the_other_waits(server, tmp_path, monkeypatch):
    server.content, said = a_log(), []
    monkeypatch.setattr(bring, "WAIT", 0.01)
    monkeypatch.setitem(sources.SOURCES, "diginetica-srgnn", source(server.url("log.csv"), check="md5:x"))
    monkeypatch.setattr(module, "matches", lambda *_: True)
    (tmp_path / ".downloads").mkdir()
    loaded = []
    with open(tmp_path / ".downloads" / "log.csv.part", "ab") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        others = [
            threading.Thread(target=lambda: loaded.append(load("diginetica-srgnn", tmp_path, say=said.append)))
            for _ in range(2)
        ]
        for thread in others:
            thread.start()
        until = time.monotonic() + 60
        while sum("Waiting for it." in line for line in said) < 2:
            assert time.monotonic() < until
            time.sleep(0.01)
    for thread in others:
        thread.join(60)
    assert [data.n_items for data in loaded] == [19, 19] and len(server.asked) == 1


def test_a_part_that_was_finished_while_another_waited_for_its_lock_is_not_filled_again(server, tmp_path, monkeypatch):
    def held(file, refusal):
        (tmp_path / "log.csv.part").rename(tmp_path / "log.csv")

    monkeypatch.setattr(module, "hold", held)
    with pytest.raises(DataError, match="Another process is fetching"):
        fetch(source(server.url("log.csv")), tmp_path)
    assert not server.asked


@pytest.mark.parametrize("record", ["", "half 0123\n"])
def test_a_record_of_the_first_download_that_was_cut_off_counts_for_none(server, tmp_path, record):
    what = source(server.url("log.csv"), check="md5:" + hashlib.md5(CONTENT).hexdigest())
    first = tmp_path / "log.csv.sha256"
    first.write_text(record)
    assert fetch(what, tmp_path).read_bytes() == CONTENT
    assert first.read_text() == f"{hashlib.sha256(CONTENT).hexdigest()}  log.csv\n"
    first.write_text("0" * 64)
    with pytest.raises(DataError, match=f"in {first}"):
        fetch(what, tmp_path)


def test_a_second_process_waits_for_its_turn(server, tmp_path):
    what = source(server.url("log.csv"))
    with open(tmp_path / "log.csv.part", "ab") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(DataError, match="Another process is fetching"):
            fetch(what, tmp_path)
    assert not server.asked
    assert fetch(what, tmp_path).read_bytes() == CONTENT
