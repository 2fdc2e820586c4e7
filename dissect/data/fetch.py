"""Download a file, resume what was cut off, and trust nothing but its checksum."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pooch  # type: ignore[import-untyped]  # has no types of its own
import requests

from dissect.data.archive import sha256
from dissect.data.sources import Source
from dissect.errors import DataError, UsageError
from dissect.runs.files import hold

TIMEOUT = 30  # seconds without a byte
BLOCK = 1 << 14  # bytes; of a broken connection, at most one block is lost

Show = Callable[[int, int | None], None]  # bytes so far, bytes in all


class _Missing(Exception):
    """An address that does not give the file, and why."""


def fetch(
    source: Source,
    folder: Path,
    accept_terms: bool = False,
    show: Show = lambda done, total: None,
    say: Callable[[str], Any] = lambda line: None,
) -> Path:
    """The file of a source in `folder`, downloaded unless it lies there with the right checksum already.

    Where the checksum of the source is no SHA-256, that of the first download is kept beside the file (FILE.sha256),
    and later ones must have it too. What a broken connection left is kept (FILE.part) and continued by the next attempt
    or the next call. `show` is told of progress, `say` where the file comes from.
    Raises UsageError where terms are not accepted, DataError where no address gives the file.
    """
    if source.terms and not accept_terms:
        raise UsageError(f"{source.file}: {source.terms}", "If you accept that, say --accept-terms.")
    path = folder / source.file
    if path.exists() and matches(path, source.checksum) and _is_as_first(path, source, folder):
        return path
    path.unlink(missing_ok=True)  # another file under that name; pooch would take it for the right one
    pooch.get_logger().setLevel("WARNING")  # it says on stderr what `say` says better
    problems = []
    try:
        with _alone(folder / f"{source.file}.part"):
            for url in source.urls:
                say(f"Fetching {url}")
                try:
                    pooch.retrieve(url, None, source.file, folder, downloader=_Resuming(folder, source, show))
                    return path
                except _Missing as problem:
                    problems.append(f"{url}: {problem}")
    except OSError as error:
        raise DataError(f"Could not write to {folder}: {error.strerror or error}.", "Make room.") from error
    raise DataError("\n".join(problems), "Try again later: what has arrived is kept. Or bring the file by hand.")


@contextmanager
def _alone(part: Path) -> Iterator[None]:
    """Hold the unfinished file while it grows; an empty one does not stay, nor do folders made for it.

    Raises DataError where another process holds it.
    """
    made = [folder for folder in (part.parent, part.parent.parent) if not folder.exists()]
    part.parent.mkdir(parents=True, exist_ok=True)
    with open(part, "ab") as file:
        busy = f"Another process is fetching {part.stem} to {part.parent}."
        hold(file, DataError(busy, "Wait for it; then it is there."))
        try:
            yield
        finally:
            if part.exists() and not part.stat().st_size:
                part.unlink()
                with suppress(OSError):  # other files are in it by now
                    for folder in made:
                        folder.rmdir()


class _Resuming:
    """A downloader for pooch that continues a broken download and checks what it hands over."""

    def __init__(self, folder: Path, source: Source, show: Show) -> None:
        self.part = folder / f"{source.file}.part"
        self.source, self.show = source, show

    def __call__(self, url: str, output_file: str, _: Any) -> None:
        arrived = self._arrived()
        while (problem := self._continue(url, arrived)) is not None:
            before, arrived = arrived, self._arrived()
            if arrived <= before:  # as long as an attempt brings something new, there is another
                raise _Missing(f"{problem}; {arrived:,} bytes are kept" if arrived else problem)
        if not matches(self.part, self.source.checksum):
            found = checksum(self.part, self.source.checksum.split(":")[0])
            raise self._thrown_away(f"its checksum is {found}, and should be {self.source.checksum}")
        if not _is_as_first(self.part, self.source, self.part.parent):
            raise self._thrown_away(f"its SHA-256 is not that of the first download, in {self.source.file}.sha256")
        Path(output_file).unlink(missing_ok=True)
        self.part.replace(output_file)

    def _thrown_away(self, reason: str) -> _Missing:
        os.truncate(self.part, 0)  # and not unlink: it carries the lock
        return _Missing(f"{reason}; it was thrown away")

    def _arrived(self) -> int:
        return self.part.stat().st_size if self.part.exists() else 0

    def _continue(self, url: str, start: int) -> str | None:
        """Download from byte `start` on; None when the file is whole, else why it is not."""
        headers = {"Accept-Encoding": "identity", **({"Range": f"bytes={start}-"} if start else {})}
        try:
            with requests.get(url, headers=headers, stream=True, timeout=TIMEOUT) as answer:
                if answer.status_code == 416:  # nothing behind `start`: it is whole, or another file
                    return None
                if answer.status_code not in (200, 206):
                    raise _Missing(f"the server says {answer.status_code} {answer.reason}")
                resumed = answer.status_code == 206
                length = answer.headers.get("Content-Length", "")
                done = start if resumed else 0
                total = done + int(length) if length.isdecimal() else None
                with open(self.part, "ab" if resumed else "wb") as file:
                    for block in answer.iter_content(BLOCK):
                        done += len(block)
                        if max(done, total or 0) > self.source.limit:
                            break
                        file.write(block)
                        self.show(done, total)
            if max(done, total or 0) > self.source.limit:
                raise self._thrown_away(
                    f"it is longer than the {self.source.limit:,} bytes that {self.source.file} may have"
                )
            if total is not None and done < total:
                return f"the connection ended after {done:,} of {total:,} bytes"
            return None
        except requests.exceptions.ConnectionError as error:
            return f"no connection ({_reason(error)})"
        except requests.exceptions.RequestException as error:
            return f"the connection broke ({_reason(error)})"


def _reason(error: BaseException) -> str:
    while error.__cause__ or error.__context__:
        error = error.__cause__ or error.__context__  # type: ignore[assignment]  # one of them is not None
    return str(error) or type(error).__name__


def _is_as_first(path: Path, source: Source, folder: Path) -> bool:
    """Whether a file has the SHA-256 that the first download had; the first is put on record, as sha256sum writes it.

    Of a source whose SHA-256 is known nothing is recorded.
    """
    if source.checksum.startswith("sha256:"):
        return True
    found, record = sha256(path), folder / f"{source.file}.sha256"
    if not record.exists():
        with suppress(OSError):  # a cache that can only be read serves as well
            record.write_text(f"{found}  {source.file}\n")
        return True
    return record.read_bytes().split()[:1] == [found.encode()]


def matches(path: Path, expected: str) -> bool:
    """Whether a file has a checksum such as md5:..., sha256:... or git:..."""
    return checksum(path, expected.split(":")[0]) == expected.lower()


def checksum(path: Path, kind: str) -> str:
    """The checksum of a file as kind:hex; of kind `git`, the SHA-1 of "blob <size>\\0" and the content."""
    if kind != "git":
        return f"{kind}:{pooch.file_hash(str(path), alg=kind)}"
    digest = hashlib.sha1(f"blob {path.stat().st_size}\0".encode(), usedforsecurity=False)
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return f"git:{digest.hexdigest()}"
