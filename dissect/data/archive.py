"""Files as they come: packed in one of several ways, and known by their checksum."""

from __future__ import annotations

import bz2
import gzip
import hashlib
import lzma
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, Any

from dissect.errors import DataError, in_short, why
from dissect.text import shown

READ_ERRORS = (OSError, EOFError, zlib.error, lzma.LZMAError, zipfile.BadZipFile, tarfile.TarError)
# Errors of the readers for a damaged archive.
OPEN_ERRORS = (*READ_ERRORS, ValueError, LookupError, TypeError, ArithmeticError, RuntimeError, struct.error)
MOST_FILES = 10_000  # in a tar archive
LONGEST_HEADER = 1 << 24  # bytes of names and notes of one file in a tar archive


@contextmanager
def opened(path: Path, member: str = "") -> Iterator[IO[bytes]]:
    """The bytes of a log: of the file `member` (or the only one) in a zip or tar archive, or of the contents of a .gz,
    .bz2 or .xz file. Archives are read as streams: nothing is unpacked, so no path in them is used.

    Raises DataError if the file or the member is missing, or the archive is damaged.
    """
    with ExitStack() as stack:
        try:
            file = _open(path, member, stack)
        except OPEN_ERRORS as error:
            raise _unreadable(path, error) from error
        try:
            yield file
        except (*READ_ERRORS, NotImplementedError) as error:
            raise _unreadable(path, error) from error


def _open(path: Path, member: str, stack: ExitStack) -> IO[bytes]:
    if zipfile.is_zipfile(path):
        archive = stack.enter_context(zipfile.ZipFile(path))
        names = [info.filename for info in archive.infolist() if info.filename and not info.is_dir()]
        return stack.enter_context(archive.open(_member(path, names, member)))
    unpack = {".gz": gzip.open, ".tgz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}.get(path.suffix, open)
    file = stack.enter_context(unpack(path, "rb"))  # type: ignore[operator]  # functions of one shape
    if not path.name.endswith((".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")):
        return file
    bounded: Any = _Bounded(file)
    tar = stack.enter_context(tarfile.TarFile(fileobj=bounded))
    files = {}
    for number, info in enumerate(tar):
        if number == MOST_FILES:
            raise tarfile.ReadError(f"it holds more than {MOST_FILES:,} files")
        if info.isreg():
            files[info.name] = info
    inside = tar.extractfile(files[_member(path, list(files), member)])
    assert inside is not None  # a regular file
    return stack.enter_context(inside)


class _Bounded:
    """A file that limits the bytes of one read: a tar header can ask for any number."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file, self.seek, self.tell = file, file.seek, file.tell

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= LONGEST_HEADER:
            raise tarfile.ReadError("it has a header that is too long")
        return self.file.read(size)


def _unreadable(path: Path, error: BaseException) -> DataError:
    if isinstance(error, EOFError):
        return DataError(f"{path} is cut off: {error}.")
    reason = str(why(error))
    return DataError(f"{path} cannot be read: {reason or type(error).__name__}.")


def _member(path: Path, names: list[str], wanted: str) -> str:
    matching = [name for name in names if Path(name).name == wanted] or (names if len(names) == 1 else [])
    if len(matching) != 1:
        if not names:
            raise DataError(f"{path} holds no file.")
        some = shown(in_short(names, 5))
        says = f"{path} holds {len(names)} files ({some}){f', and not one {wanted}' if wanted else ''}."
        raise DataError(says, "Unpack it and name the log with --from.")
    return matching[0]


def sha256(path: Path) -> str:
    """The SHA-256 of a file, in hex."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
