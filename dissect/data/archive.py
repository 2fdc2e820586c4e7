"""Files as they come: packed in one of several ways, and known by their checksum."""

from __future__ import annotations

import bz2
import gzip
import hashlib
import lzma
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from dissect.errors import DataError

READ_ERRORS = (OSError, EOFError, zlib.error, lzma.LZMAError, zipfile.BadZipFile, tarfile.TarError)


@contextmanager
def opened(path: Path, member: str = "") -> Iterator[IO[bytes]]:
    """The bytes of a log; of the file `member` (or the only one) where `path` is a zip or tar archive, or of what a
    .gz, .bz2 or .xz file holds. Archives are read as streams: nothing is unpacked, so no path in them is used.

    Raises DataError where the file or the member is missing, or the archive is damaged.
    """
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                names = [info.filename for info in archive.infolist() if not info.is_dir()]
                with archive.open(_member(path, names, member)) as file:
                    yield file
        elif path.name.endswith((".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")):
            with tarfile.open(path) as archive:
                files = {info.name: info for info in archive if info.isreg()}
                inside = archive.extractfile(files[_member(path, list(files), member)])
                assert inside is not None  # a regular file
                with inside:
                    yield inside
        else:
            suffix = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}.get(path.suffix, open)
            with suffix(path, "rb") as file:  # type: ignore[operator]  # functions of one shape
                yield file
    except READ_ERRORS as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise DataError(f"{path} cannot be read: {reason or type(error).__name__}.") from error


def _member(path: Path, names: list[str], wanted: str) -> str:
    matching = [name for name in names if Path(name).name == wanted] or (names if len(names) == 1 else [])
    if len(matching) != 1:
        held = f"{len(names)} files ({', '.join(names[:5])}{', ...' if len(names) > 5 else ''})" if names else "no file"
        raise DataError(
            f"{path} holds {held}{f', and not one {wanted}' if wanted and names else ''}.",
            "Unpack it and name the log with --from." if names else "",
        )
    return matching[0]


def sha256(path: Path) -> str:
    """The SHA-256 of a file, in hex."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
