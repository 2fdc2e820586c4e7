"""Checkpoints of tensors and primitives: loading one runs no code, and a damaged one is noticed."""

from __future__ import annotations

import hashlib
import io
import os
from pathlib import Path
from typing import Any

import torch

from dissect.errors import DataError
from dissect.runs.files import anew, refused, write_atomically

SEAL = 32  # bytes of a SHA-256


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write `state` (nested dicts and lists of tensors and primitives); the one before stays as `<stem>-1.pt`.

    Raises DissectError if the disk refuses; then both earlier files are as they were.
    """
    archive, beside = io.BytesIO(), path.with_name(f".new-{path.name}")
    torch.save(state, archive)
    archive.write(_seal(archive.getbuffer()))  # behind the archive, where torch.load does not look
    write_atomically(beside, lambda file: file.write(archive.getbuffer()))
    try:
        if path.exists():
            os.replace(path, _before(path))
        os.replace(beside, path)
    except OSError as error:
        raise refused(path, error) from error


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read one checkpoint. Raises DataError if it is missing, cut off, garbled or not of this kind."""
    try:
        data = path.read_bytes()
        state = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
        is_older = state.pop("digest", None) is not None  # checkpoints of earlier versions have no seal
    except FileNotFoundError:
        raise DataError(f"There is no checkpoint {path}.") from None
    except Exception as error:  # zip and pickle have many ways to fail on garbled bytes
        raise DataError(f"The checkpoint {path} cannot be read: it is cut off, garbled or no checkpoint.") from error
    if not is_older and data[-SEAL:] != _seal(memoryview(data)[:-SEAL]):
        raise DataError(f"The checkpoint {path} is damaged: its contents do not match their checksum.")
    return dict(state)


def latest_checkpoint(path: Path) -> tuple[dict[str, Any] | None, str]:
    """(state, note): the checkpoint at `path`, or the one before it if that is damaged; None if there is none.

    The note is empty unless something was damaged. Raises DataError if neither can be read.
    """
    candidates = [p for p in (path, _before(path)) if p.exists()]
    problems = []
    for candidate in candidates:
        try:
            state = load_checkpoint(candidate)
        except DataError as error:
            problems.append(error.message)
            continue
        note = f"{problems[0]} Going on from the one before it." if problems else ""
        return state, note
    if problems:
        raise DataError(problems[0], anew(path.parents[1]))
    return None, ""


def _before(path: Path) -> Path:
    return path.with_name(f"{path.stem}-1{path.suffix}")


def _seal(data: memoryview) -> bytes:
    return hashlib.sha256(data).digest()
