"""What may be replaced: only what dissect wrote, whole, and with --force no more than that."""

import errno
import os
from pathlib import Path

import pandas as pd
import pytest

from dissect.cli import screen
from dissect.errors import DissectError, UsageError
from dissect.runs import replace
from dissect.tables.text import Column, Table

OURS = {"a.txt", "inner/", "inner/b.txt"}
EXPORT = replace.Kind("an export", lambda folder: OURS if (folder / "a.txt").exists() else ())
EVENTS = EXPORT._replace(what="events", needs_force=False)


def fill(folder, text):
    (folder / "inner").mkdir(parents=True)
    (folder / "a.txt").write_text(text)
    (folder / "inner" / "b.txt").write_text(text)


def write(folder, kind, force):
    with replace.whole(folder, kind, force) as new:
        fill(new, "new")


FOREIGN = {
    "file": lambda out: out.write_text("mine"),
    "link": lambda out: (fill(out.with_name("other"), "mine"), out.symlink_to(out.with_name("other"))),
    "dangling": lambda out: out.symlink_to(out.with_name("nowhere")),
    "beside": lambda out: (fill(out, "old"), (out / "thesis.txt").write_text("mine")),
    "below": lambda out: (fill(out, "old"), (out / "inner" / "thesis.txt").write_text("mine")),
    "folder": lambda out: (fill(out, "old"), (out / "thesis").mkdir()),
    "linked": lambda out: (fill(out, "old"), (out / "a.txt").unlink(), (out / "a.txt").symlink_to(out / "inner")),
    "unsigned": lambda out: (out.mkdir(), (out / "b.txt").write_text("mine")),
}


def everything(folder):
    found = {path: path.is_symlink() or (path.is_file() and path.read_text()) for path in folder.rglob("*")}
    return {str(path): content for path, content in found.items()}


@pytest.mark.parametrize("force", [False, True])
@pytest.mark.parametrize("kind", [EXPORT, EVENTS], ids=["export", "events"])
@pytest.mark.parametrize("make", FOREIGN.values(), ids=FOREIGN)
def test_a_foreign_folder_is_never_replaced(tmp_path, make, kind, force):
    make(tmp_path / "out")
    before = everything(tmp_path)
    with pytest.raises(UsageError, match="out is not replaced: it "):
        write(tmp_path / "out", kind, force)
    assert everything(tmp_path) == before


def test_what_is_ours_is_replaced_and_what_costs_much_only_with_force(tmp_path):
    out = tmp_path / "out"
    write(out, EXPORT, False)
    with pytest.raises(UsageError, match="it is an export already") as refused:
        write(out, EXPORT, False)
    assert "--force" in refused.value.hint
    for kind, force in ((EXPORT, True), (EVENTS, False)):
        (out / "a.txt").write_text("old")
        write(out, kind, force)
        assert (out / "a.txt").read_text() == "new" and [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("force", [False, True])
def test_an_empty_folder_is_free(tmp_path, force):
    (tmp_path / "out").mkdir()
    write(tmp_path / "out", EXPORT, force)
    assert (tmp_path / "out" / "inner" / "b.txt").exists()


@pytest.mark.parametrize("number", [1, 2])
def test_an_exchange_that_fails_in_the_middle_loses_nothing(tmp_path, monkeypatch, number):
    write(tmp_path / "out", EXPORT, False)
    (tmp_path / "out" / "a.txt").write_text("old")
    rename, calls = os.rename, []

    def fails(*paths):
        calls.append(paths)
        if len(calls) == number:
            raise OSError(5, "Input/output error")
        rename(*paths)

    monkeypatch.setattr(os, "rename", fails)
    with pytest.raises(OSError, match="Input/output"):
        write(tmp_path / "out", EXPORT, True)
    assert (tmp_path / "out" / "a.txt").read_text() == "old" and [p.name for p in tmp_path.iterdir()] == ["out"]


def test_a_text_is_written_over_one_that_begins_like_it_alone(tmp_path):
    ours, mine, empty = (tmp_path / name for name in ("ours.csv", "mine.csv", "empty.csv"))
    text = "dataset,split_hash,protocol,ties,label\n"
    ours.write_text(text + "old\n")
    mine.write_text("years of work\n")
    empty.touch()
    with pytest.raises(UsageError, match=r"mine\.csv is not replaced: it is no table like this one"):
        replace.write_texts({ours: text, mine: text}, "table like this one")
    assert ours.read_text() == text + "old\n" and mine.read_text() == "years of work\n"
    (tmp_path / "link.csv").symlink_to(ours)
    replace.write_texts({tmp_path / "link.csv": text, empty: text}, "table like this one")
    assert (tmp_path / "link.csv").is_symlink() and ours.read_text() == empty.read_text() == text
    with pytest.raises(UsageError, match="it is a folder"):
        replace.write_texts({tmp_path: text}, "table like this one")


def test_what_was_set_aside_stays(tmp_path):
    for number in (1, 2):
        (tmp_path / "s1").mkdir()
        (tmp_path / "s1" / "DONE").write_text(str(number))
        replace.set_aside(tmp_path / "s1")
    assert [(tmp_path / f"s1.old-{number}" / "DONE").read_text() for number in (1, 2)] == ["1", "2"]


@pytest.mark.parametrize("name", ["t.md", "t.csv", "t.tex", "t.json", "t.txt", "t-pairs.csv"])
def test_a_table_is_not_written_over_a_file_of_others(tmp_path, name):
    named = tmp_path / name.replace("-pairs", "")
    header = "dataset,split_hash,protocol,ties,label\n"

    def write():
        views = [Table("shop (split 0123456789abcdef)", [Column("label", ["srgnn"])])]
        csv = {"": header + "srgnn\n", "-pairs": header + "a,b\n"}
        screen.write(views, screen.chosen_form(None, str(named), False), str(named), lambda: "{}", lambda: csv)

    write()
    write()  # one of ours is replaced
    for path in tmp_path.iterdir():
        path.unlink()
    (tmp_path / name).write_text("years of work\n")
    with pytest.raises(UsageError, match=f"{name} is not replaced: it is no table like this one"):
        write()
    assert [path.read_text() for path in tmp_path.iterdir()] == ["years of work\n"]


def test_a_full_disk_leaves_the_old_figure_and_is_said(tmp_path, monkeypatch):
    """Matplotlib's own writing fails in two places at once on a full disk: the second is no OSError."""
    from matplotlib.figure import Figure

    from dissect.drawing import Drawing

    def full(path, content):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    drawing = Drawing("line", Figure(), "a line", pd.DataFrame({"x": [1.0]}))
    old = {path: path.read_bytes() for path in drawing.save(tmp_path)}
    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(DissectError, match="No space left"):
        drawing.save(tmp_path)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == old


def test_a_pipe_by_its_link_takes_what_is_written():
    reading, writing = os.pipe()
    replace.write_file(Path(f"/dev/fd/{writing}"), b"a table")  # a link to a name that does not exist
    os.close(writing)
    with open(reading, "rb") as pipe:
        assert pipe.read() == b"a table"


def test_a_copy_that_another_process_made_first_counts_and_a_full_disk_does_not(tmp_path, monkeypatch):
    fill(tmp_path / "source", "new")
    fill(tmp_path / "target", "of another")
    replace.copy_folder(tmp_path / "source", tmp_path / "target")
    assert (tmp_path / "target" / "a.txt").read_text() == "of another"

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(replace.shutil, "copytree", full)
    with pytest.raises(DissectError, match="No space left"):
        replace.copy_folder(tmp_path / "source", tmp_path / "target")
