"""Folders that appear whole or not at all, and that replace only what this program wrote."""

from __future__ import annotations

import fcntl
import os
import re
import secrets
import shutil
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from dissect.errors import UsageError, in_short
from dissect.text import shown

OLD = ".old"


@contextmanager
def whole(folder: Path, require: Callable[[], object], replaces: bool) -> Iterator[Path]:
    """Yield a new folder to fill. It takes the place of `folder` when the block ends, and goes if the block fails.

    Filling takes a while, so `require` is asked at both ends whether the place is free: it raises UsageError if not. A
    folder that is there goes only if it `replaces`; it comes back if the exchange is stopped. What a killed process
    left is cleared first. Raises OSError if the disk refuses.
    """
    folder = folder if folder.name not in ("", "..") else folder.resolve()  # the current folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    clear(folder)
    require()
    staging = folder.with_name(f".{folder.name}~{secrets.token_hex(4)}")
    staging.mkdir()
    lock = os.open(staging, os.O_RDONLY)
    try:
        _take(lock)
        yield staging
        require()
        old = staging.with_name(staging.name + OLD)
        try:
            if replaces and folder.exists():
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


def require_own(folder: Path, what: str, known: Collection[str], signs: Collection[str]) -> None:
    """Raises UsageError, with the reason, unless --force may replace the folder: it is empty, or `what`.

    `what` is a folder with one of the files `signs` and no files but `known`.
    """
    elsewhere = "Choose another name, or move it away."
    if folder.is_symlink() or not folder.is_dir():
        raise UsageError(
            f"{folder} is not an ordinary folder (it is a link or a file), so --force does not replace it.", elsewhere
        )
    try:
        entries = sorted(folder.iterdir())
    except OSError as error:
        raise UsageError(f"{folder} cannot be read: {error.strerror or error}.", elsewhere) from error
    has_sign = any(path.name in signs for path in entries)
    foreign = [shown(path.name) for path in entries if path.name not in known or path.is_dir()]
    if foreign := foreign or ([] if has_sign else [shown(path.name) for path in entries]):
        says = f"{folder} holds files that do not belong to {what}: {in_short(foreign, 3)}. "
        raise UsageError(f"{says}--force does not replace it.", elsewhere)
