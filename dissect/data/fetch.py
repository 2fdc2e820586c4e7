"""Download a file, resume what was cut off, and trust nothing but its checksum."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import requests

from dissect.data.archive import sha256
from dissect.data.sources import Source
from dissect.errors import DataBusyError, DataError, DissectError, UsageError, why
from dissect.runs.files import hold, write_atomically

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
    """The file of a source in `folder`, downloaded unless it is there already with the right checksum.

    If the source gives no SHA-256, that of the first download is kept beside the file (FILE.sha256), and later ones
    must have it too. The part (FILE.part) that a broken connection left is continued by the next attempt or call.
    `show` gets the progress, `say` the address. Raises UsageError if terms are not accepted, DataError if no
    address gives the file.
    """
    if source.terms and not accept_terms:
        raise UsageError(f"{source.file}: {source.terms}", "If you accept these terms, add --accept-terms.")
    path, part = folder / source.file, folder / f"{source.file}.part"
    if path.exists() and matches(path, source.checksum) and _is_as_first(path, source):
        return path
    problems = []
    try:
        with _alone(part):
            for url in source.urls:
                say(f"Fetching {url}")
                try:
                    _download(url, part, source, show)
                    return part.replace(path)
                except _Missing as problem:
                    problems.append(f"{url}: {problem}")
    except OSError as error:
        raise DataError(f"Could not write to {folder}: {why(error)}.", "Make room.") from error
    kept = ": the downloaded part is kept" if part.exists() else ""  # an empty one is not
    raise DataError(
        "\n".join(problems),
        f"Try again later{kept}. Or bring {source.file} by hand: dissect data prepare NAME --from FILE",
    )


@contextmanager
def _alone(part: Path) -> Iterator[None]:
    """Lock the unfinished file while it grows; if it stays empty, it is removed, with the folders made for it.

    Raises DataBusyError if another process holds it.
    """
    made = [folder for folder in (part.parent, part.parent.parent) if not folder.exists()]
    part.parent.mkdir(parents=True, exist_ok=True)
    with open(part, "ab") as file:
        says = f"Another process is fetching {part.stem} to {part.parent}."
        busy = DataBusyError(says, "Wait until it has finished, then give the command again.")
        hold(file, busy)
        if not (part.exists() and os.path.samestat(os.fstat(file.fileno()), part.stat())):  # it has just finished
            raise busy
        try:
            yield
        finally:
            if part.exists() and not part.stat().st_size:
                part.unlink()
                with suppress(OSError):  # other files are in it by now
                    for folder in made:
                        folder.rmdir()


def _download(url: str, part: Path, source: Source, show: Show) -> None:
    """Continue the download to `part` as long as each attempt brings something new.

    Raises _Missing if it is then incomplete, or another file.
    """
    arrived = part.stat().st_size
    while problem := _continue(url, part, source, show):
        before, arrived = arrived, part.stat().st_size
        if arrived <= before:
            raise _Missing(f"{problem}; {arrived:,} bytes are kept" if arrived else problem)
    if not matches(part, source.checksum):
        found = checksum(part, source.checksum.split(":")[0])
        raise _thrown_away(part, f"its checksum is {found}, and should be {source.checksum}")
    if not _is_as_first(part, source):
        raise _thrown_away(
            part, f"its SHA-256 is not that of the first download, in {part.with_name(f'{source.file}.sha256')}"
        )


def _thrown_away(part: Path, reason: str) -> _Missing:
    os.truncate(part, 0)  # and not unlink: it carries the lock
    return _Missing(f"{reason}; the download was deleted")


def _continue(url: str, part: Path, source: Source, show: Show) -> str:
    """Download what `part` lacks; "" when the server has no more, else why there is more to come."""
    start = part.stat().st_size
    headers = {"Accept-Encoding": "identity", **({"Range": f"bytes={start}-"} if start else {})}
    try:
        with requests.get(url, headers=headers, stream=True, timeout=TIMEOUT) as answer:
            if answer.status_code == 416:  # nothing behind `start`: it is whole, or another file
                return ""
            if answer.status_code not in (200, 206):
                raise _Missing(f"the server says {answer.status_code} {answer.reason}")
            resumed, length = answer.status_code == 206, answer.headers.get("Content-Length", "")
            done = start if resumed else 0
            total = done + int(length) if length.isdecimal() else None
            with open(part, "ab" if resumed else "wb") as file:
                for block in answer.iter_content(BLOCK):
                    done += len(block)
                    if max(done, total or 0) > source.limit:
                        break
                    file.write(block)
                    show(done, total)
        if max(done, total or 0) > source.limit:
            raise _thrown_away(part, f"it is larger than {source.file} can be ({source.limit:,} bytes)")
        is_cut = total is not None and done < total
        return f"the connection ended after {done:,} of {total:,} bytes" if is_cut else ""
    except requests.exceptions.ConnectionError as error:
        return f"no connection ({_reason(error)})"
    except requests.exceptions.RequestException as error:
        return f"the connection broke ({_reason(error)})"


def _reason(error: BaseException) -> str:
    while error.__cause__ or error.__context__:
        error = error.__cause__ or error.__context__  # type: ignore[assignment]  # one of them is not None
    return str(error) or type(error).__name__


def _is_as_first(path: Path, source: Source) -> bool:
    """Whether a file has the SHA-256 of the first download, which is recorded as sha256sum writes it.

    Nothing is recorded if the source gives its SHA-256. A record without a whole one counts for none.
    """
    if source.checksum.startswith("sha256:"):
        return True
    found, record = sha256(path), path.with_name(f"{source.file}.sha256")
    if record.exists() and (first := re.match(rb"[0-9a-f]{64}\b", record.read_bytes())):
        return first[0] == found.encode()
    with suppress(DissectError):  # a cache that can only be read serves as well
        write_atomically(record, lambda file: file.write(f"{found}  {source.file}\n".encode()))
    return True


def matches(path: Path, expected: str) -> bool:
    """Whether a file has a checksum such as md5:..., sha256:... or git:..."""
    return checksum(path, expected.split(":")[0]) == expected.lower()


def checksum(path: Path, kind: str) -> str:
    """The checksum of a file as kind:hex; of kind `git`, the SHA-1 of "blob <size>\\0" and the content."""
    digest = hashlib.new("sha1" if kind == "git" else kind, usedforsecurity=False)
    if kind == "git":
        digest.update(f"blob {path.stat().st_size}\0".encode())
    with open(path, "rb") as file:
        return f"{kind}:{hashlib.file_digest(file, lambda: digest).hexdigest()}"
