"""The lines of a log as UTF-8, in blocks of whole lines that are checked before a table is made of them.

A line that is too long is refused before memory is taken for it. So is a quotation mark that is not closed: what
follows it, line breaks and all, would become one field, and the clicks on these lines would be lost.
"""

from __future__ import annotations

import codecs
import io
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any

from dissect.errors import DataError, UsageError

BLOCK = 1 << 20  # bytes read at a time
LONGEST = 1 << 24  # bytes of a line, or of a click whose quoted fields hold line breaks
TO_UTF8 = "Turn the text into UTF-8: iconv -f LATIN1 -t UTF-8."
ENCODING_HINT = f"{TO_UTF8} Or say how it is encoded, such as `dissect data prepare ... --encoding latin-1`."


def blocks(path: Path, file: IO[bytes], encoding: str = "", hint: str = ENCODING_HINT) -> Iterator[bytes]:
    """Blocks of whole lines, without a byte order mark; the last line ends with a line break too.

    Raises DataError for a line that is too long or (with the hint) holds a NUL byte. UTF-8 is not checked here; text in
    another `encoding` is converted to it.
    """
    line, rest = 1, b""
    for data in _as_utf8(path, file, encoding):
        whole = data.rfind(b"\n") + 1
        if not whole:
            rest += data
        else:
            block, rest = rest + data[:whole], data[whole:]
            if (at := block.find(b"\0")) >= 0:
                line += block.count(b"\n", 0, at)
                raise DataError(f"{path} is no text in UTF-8: line {line:,} holds a NUL byte.", hint)
            yield block
            line += block.count(b"\n")
        if len(rest) > LONGEST:
            raise DataError(f"{path}, line {line:,}, is longer than {LONGEST >> 20} MB: this is no log of clicks.")


def _as_utf8(path: Path, file: IO[bytes], encoding: str) -> Iterator[bytes]:
    decoder = codecs.getincrementaldecoder(encoding)() if encoding else None
    mark, ends, more = codecs.BOM_UTF8, b"\n", True
    while more:
        data = file.read(BLOCK)
        more = bool(data)
        if decoder is not None:
            try:
                data = decoder.decode(data, not more).encode()
            except ValueError as error:
                raise DataError(f"{path} is not in the encoding {encoding}: {error}.") from error
        if data:
            data, mark = data.removeprefix(mark), b""
            ends = data[-1:] or ends
            yield data
    if ends != b"\n":
        yield b"\n"


def check_encoding(name: str) -> str:
    """The encoding of that name, "" for UTF-8. Raises UsageError if Python knows no such encoding of text."""
    try:
        "".encode(name)
        found = codecs.lookup(name).name
    except (LookupError, ValueError):
        says = f"--encoding {name!r} is no known encoding of text."
        raise UsageError(says, "For example latin-1, cp1252, utf-16 or gb18030.") from None
    return "" if found in ("utf-8", "utf-8-sig") else found


def not_utf8(path: Path, file: IO[bytes], hint: str) -> DataError:
    """The error for a file that is not UTF-8, with the place of the first bytes that are none."""
    line = 1
    for block in blocks(path, file, hint=hint):
        try:
            block.decode()
        except UnicodeDecodeError as error:
            line += block.count(b"\n", 0, error.start)
            begin = max(block.rfind(b"\n", 0, error.start) + 1, error.start - 20)
            some = block[begin : error.end + 10].splitlines()[0]
            return DataError(f"{path}, line {line:,}: {some!r} is not UTF-8.", hint)
        line += block.count(b"\n")
    return DataError(f"{path} is not UTF-8.", hint)


# --- quotation marks -----------------------------------------------------------------------------------------


class Quotes:
    """Fields in quotation marks, by the rules of csv: a field that begins with a quotation mark ends with one, and
    has quotation marks inside doubled. Elsewhere in a field they are text."""

    def __init__(self, path: Path, separator: str, width: int) -> None:
        self.path, self.separator, self.width = path, separator.encode(), width
        ends = b"[" + re.escape(self.separator) + b"\r\n]"
        opening = rb'(?:\A|(?<=%b))"' % ends
        inside_text = rb'(?<=[^%b\r\n])"' % re.escape(self.separator)
        # First the fields that close on their line; then the one that does not, over as many lines as it takes.
        self.on_one_line = re.compile(rb'(?:[^"]++|%b|%b(?:[^"\r\n]++|"")*+"(?=%b))*+' % (inside_text, opening, ends))
        self.field = re.compile(rb'"(?:[^"]++|"")*+"')
        self.ends = separator.encode() + b"\r\n"

    def checked(self, lines: Iterable[bytes], line: int) -> Iterator[bytes]:
        """Blocks of whole lines, the first of them `line`, as blocks of whole clicks.

        Raises DataError, with the line, for a quotation mark that is not closed.
        """
        rest = b""
        for block in lines:
            data = rest + block
            done = self.whole(data, line)
            if done:
                yield data[:done]
            line, rest = line + data.count(b"\n", 0, done), data[done:]
            if len(rest) > LONGEST:
                break
        if rest:
            raise self._not_closed(rest, self.on_one_line.match(rest).end(), line)  # type: ignore[union-attr]

    def whole(self, data: bytes, line: int = 0) -> int:
        """How many bytes of `data`, which begins with line `line`, are whole clicks."""
        begin = at = 0
        if b'"' not in data:
            return len(data)
        while (opens := self.on_one_line.match(data, at).end()) < len(data):  # type: ignore[union-attr]
            begin = data.rfind(b"\n", at, opens) + 1 or begin
            field = self.field.match(data, opens)
            if field is None:
                return begin
            at = field.end()
            if data[at] not in self.ends or self._are_clicks(data, begin, at):
                raise self._not_closed(data, opens, line)
        return len(data)

    def _are_clicks(self, data: bytes, begin: int, closes: int) -> bool:
        """Whether the first and the last line of a click over several lines each have all fields of a click."""
        lines = data[begin : data.find(b"\n", closes)].splitlines()
        return all(line.count(self.separator) + 1 == self.width for line in (lines[0], lines[-1]))

    def _not_closed(self, data: bytes, opens: int, line: int) -> DataError:
        text = data[opens : opens + 60].splitlines()[0].decode("utf-8", "replace")
        line += data.count(b"\n", 0, opens)
        return DataError(
            f"{self.path}, line {line:,}: the field that begins with {text!r} does not end "
            "with a quotation mark before a separator or the end of the line.",
            "Close it, double the quotation marks inside it, or delete the line; nothing was written.",
        )


def clicks(lines: Iterable[bytes], quotes: Quotes | None, separator: str) -> Iterator[tuple[int, str]]:
    """(number of its first line, text) of every click in blocks of whole lines; blank lines are none, as in pandas."""
    number, begins, parts = 0, 1, list[bytes]()
    for block in lines:
        for line in block.splitlines(keepends=True):
            number += 1
            begins = begins if parts else number
            parts.append(line)
            if len(parts) > 1 and b'"' not in line.replace(b'""', b""):  # the field goes on
                continue
            text = b"".join(parts)
            if quotes is not None and quotes.whole(text) < len(text):
                continue
            if text.strip(b" \t\r\n") or separator.encode() in text:
                yield begins, text.decode("utf-8", "replace").rstrip("\r\n")
            parts = []


class Stream(io.RawIOBase):
    """Blocks of bytes as a file."""

    def __init__(self, blocks: Iterable[bytes]) -> None:
        self.blocks, self.rest = iter(blocks), memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self.rest:
            block = next(self.blocks, None)
            if block is None:
                return 0
            self.rest = memoryview(block)
        size = min(len(buffer), len(self.rest))
        buffer[:size], self.rest = self.rest[:size], self.rest[size:]
        return size
