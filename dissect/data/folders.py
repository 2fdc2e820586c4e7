"""Folders that appear whole or not at all, and that replace only what this program wrote."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

from dissect.errors import UsageError, in_short
from dissect.text import shown

OLD = ".old"


@contextmanager
def whole(folder: Path, require: Callable[[], object], replaces: bool) -> Iterator[Path]:
    """Yield a new folder to fill. It takes the place of `folder` when the block ends, and goes if the block fails.

    Filling takes a while, so `require` is asked again whether the place is free: it raises UsageError if not. A folder
    that is there goes only if it `replaces`; it comes back if the exchange is stopped. Raises OSError if the disk
    refuses.
    """
    folder = folder if folder.name not in ("", "..") else folder.resolve()  # the current folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    staging = folder.with_name(f".{folder.name}~{secrets.token_hex(4)}")
    staging.mkdir()
    try:
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
        shutil.rmtree(staging, ignore_errors=True)


def clear(folder: Path) -> None:
    """Remove what a killed process left of `whole`; a folder that it had moved away and not replaced comes back."""
    begun = f".{folder.name}~"  # no name has a ~ (dissect.text.NAME), so no other folder is meant
    for left in [path for path in folder.parent.iterdir() if path.name.startswith(begun)]:
        if left.name.endswith(OLD) and not folder.exists():
            os.replace(left, folder)
        else:
            shutil.rmtree(left, ignore_errors=True)


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
