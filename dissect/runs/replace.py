"""What may be replaced or deleted: one rule for everything that dissect writes.

- Where nothing is, or an empty file or folder, anything may be written.
- What is ours is known by its files and by how they begin. What the same command makes again (a figure, a table, a
  page, events) is replaced; a data set or an export only with --force. A finished run is never replaced: --force sets
  it aside.
- Everything else stays, with --force too: files of others, links, and folders that hold anything beside ours.

What is new takes its place when it is complete, and only then the old one goes.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import secrets
import shutil
import tempfile
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from dissect.errors import DissectError, UsageError, in_short, why
from dissect.runs.files import locked, write_atomically
from dissect.text import shown

OLD = ".old"
BEGINS = 30  # bytes of a table that the same command begins with: dataset,split_hash,...
HEAD = 2000  # bytes at the beginning of a file by which it is known
OUT = "choose another --out"


class Kind(NamedTuple):
    """A kind of folder that dissect writes.

    `ours` gives the names of all that belongs to one, those of folders with a / behind them; none if it is not ours.
    """

    what: str  # "a data set"
    ours: Callable[[Path], Collection[str]]
    elsewhere: str = OUT  # how to name another place
    needs_force: bool = True


def refusal(path: Path, why: str, elsewhere: str = OUT) -> UsageError:
    """The error for a place where something of others is."""
    return UsageError(f"{path} is not replaced: {why}.", f"Move it away, or {elsewhere}.")


def require_folders_above(path: Path, elsewhere: str = OUT) -> None:
    """Raises UsageError if something above a path is a file."""
    if file := next((above for above in path.parents if above.exists() and not above.is_dir()), None):
        hint = f"{elsewhere[0].upper()}{elsewhere[1:]}."
        raise UsageError(f"{path} cannot be written: {file} is a file, not a folder.", hint)


def require_folder(folder: Path, kind: Kind, force: bool = False) -> None:
    """Raises UsageError unless a folder of this kind may come there."""
    require_folders_above(folder, kind.elsewhere)
    if not os.path.lexists(folder):
        return
    if folder.is_symlink() or not folder.is_dir():
        raise refusal(folder, "it is not an ordinary folder (it is a link or a file)", kind.elsewhere)
    try:
        if not any(folder.iterdir()):
            return
        foreign = [*islice(_foreign(folder, kind.ours(folder)), 100)]
    except OSError as error:
        raise refusal(folder, f"it cannot be read: {why(error)}", kind.elsewhere) from error
    if foreign:
        says = f"it holds files that do not belong to {kind.what}: {in_short(foreign, 3)}"
        raise refusal(folder, says, f"{kind.elsewhere}{'; --force replaces only what dissect wrote' * force}")
    if kind.needs_force and not force:
        says = f"{folder} is not replaced: it is {kind.what} already."
        raise UsageError(says, f"Replace it by --force, or {kind.elsewhere}.")


def _foreign(folder: Path, ours: Collection[str], front: str = "") -> Iterator[str]:
    """The names of what lies in a folder and is not among `ours`."""
    for path in sorted(folder.iterdir()):
        name = f"{front}{path.name}{'/' * path.is_dir()}"
        if path.is_symlink() or name not in ours:
            yield shown(name)
        elif path.is_dir():
            yield from _foreign(path, ours, name)


def require_file(path: Path, what: str, is_ours: Callable[[bytes], bool], elsewhere: str = OUT) -> None:
    """Raises UsageError unless `what` ("table of dissect") may be written to a file: it is new or empty, or `is_ours`
    says so of its first bytes. A pipe or a device takes everything."""
    require_folders_above(path, elsewhere)
    if path.is_dir():
        raise refusal(path, "it is a folder", elsewhere)
    if path.is_file():
        try:
            with open(path, "rb") as file:
                head = file.read(HEAD)
        except OSError as error:
            raise refusal(path, f"it cannot be read: {why(error)}", elsewhere) from error
        if head and not is_ours(head):
            raise refusal(path, f"it is no {what}", elsewhere)


def write_texts(texts: Mapping[Path, str], what: str, is_ours: Callable[[bytes], bool] | None = None) -> None:
    """Write texts to files; none of them if one is of others: not `is_ours`, else unless it begins as its text does."""
    for path, text in texts.items():
        begins = text.encode()[:BEGINS]
        require_file(path, what, is_ours or partial(_begins, begins=begins))
    for path, text in texts.items():
        write_file(path, text.encode())


def _begins(head: bytes, begins: bytes) -> bool:
    return head.startswith(begins)


def write_file(path: Path, content: bytes) -> None:
    """Write a file that `require_file` allows: readers see the old one or the new. A link stays, and names the new one.

    Raises DissectError if the disk refuses.
    """
    try:
        if path.exists() and not path.is_file():  # a pipe, or /dev/stdout: what it links to may have no name
            path.write_bytes(content)
        else:
            write_atomically(path.resolve(), lambda file: file.write(content))
    except OSError as error:
        raise DissectError(f"Could not write {path}: {why(error)}.", "Make room, or choose another place.") from error
    except DissectError as error:
        raise DissectError(error.message, "Make room, or choose another place.") from error


def set_aside(run: Path) -> Path:
    """Rename a run folder to the first free `<run>.old-<n>` and return that path; nothing is ever deleted.

    Raises UsageError if a process is training in it.
    """
    n = 1
    with locked(run):
        while os.path.lexists(aside := run.with_name(f"{run.name}{OLD}-{n}")):
            n += 1
        os.rename(run, aside)
    return aside


def copy_folder(source: Path, target: Path) -> None:
    """Copy a folder; the target appears complete or not at all. Raises DissectError if the disk refuses."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{target.name}-", dir=target.parent) as folder:
            shutil.copytree(source, Path(folder) / "copy").rename(target)
    except OSError as error:
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
            return  # another process was quicker
        raise DissectError(f"Could not copy {source} to {target}: {why(error)}.") from error


@contextmanager
def whole(folder: Path, kind: Kind, force: bool = False) -> Iterator[Path]:
    """Yield a new folder to fill. It takes the place of `folder` when the block ends, and goes if the block fails.

    Filling takes a while, so `require_folder` is asked at both ends. A folder that is replaced comes back if the
    exchange is stopped. What a killed process left is cleared first. Raises OSError if the disk refuses.
    """
    folder = folder if folder.name not in ("", "..") else folder.resolve()  # the current folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    clear(folder)
    require_folder(folder, kind, force)
    staging = folder.with_name(f".{folder.name}~{secrets.token_hex(4)}")
    staging.mkdir()
    lock = os.open(staging, os.O_RDONLY)
    try:
        _take(lock)
        yield staging
        require_folder(folder, kind, force)
        old = staging.with_name(staging.name + OLD)
        try:
            if (force or not kind.needs_force) and folder.exists():
                os.rename(folder, old)
            os.rename(staging, folder)  # takes the place of an empty folder, and refuses any other
        except BaseException:
            if old.exists() and not folder.exists():
                os.rename(old, folder)
            raise
        shutil.rmtree(old, ignore_errors=True)
    finally:
        os.close(lock)
        shutil.rmtree(staging, ignore_errors=True)


def clear(folder: Path) -> None:
    """Remove what a killed process left of `whole`; a folder that it had moved away and not replaced comes back."""
    begun = re.compile(rf"\.{re.escape(folder.name)}~[0-9a-f]{{8}}({re.escape(OLD)})?")
    for left in [path for path in folder.parent.iterdir() if begun.fullmatch(path.name)]:
        if _is_filled(left.with_name(left.name.removesuffix(OLD))):
            continue
        if left.name.endswith(OLD) and not folder.exists():
            os.replace(left, folder)
        else:
            shutil.rmtree(left, ignore_errors=True)


def _is_filled(staging: Path) -> bool:
    """Whether another process is at work on the new folder."""
    try:
        lock = os.open(staging, os.O_RDONLY)
    except OSError:
        return False
    try:
        return not _take(lock)
    finally:
        os.close(lock)


def _take(lock: int) -> bool:
    """Lock an open folder; False if another process has it. On a file system without locks nobody has."""
    with suppress(OSError):
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True
