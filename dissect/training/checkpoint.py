"""Checkpoints of tensors and primitives: loading one runs no code, and a damaged one is noticed."""

from __future__ import annotations

import hashlib
import os
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, cast

import torch

from dissect.errors import DataError
from dissect.runs.files import refused, write_atomically

# What torch.load raises on files that are cut off, garbled or of another kind.
_UNREADABLE = (RuntimeError, OSError, EOFError, LookupError, ValueError, TypeError, AttributeError)


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write `state` (nested dicts and lists of tensors and primitives); the one before stays as `<stem>-1.pt`.

    Raises DissectError where the disk refuses; then both earlier files are as they were.
    """
    sealed = {**state, "digest": _digest(state)}
    beside = path.with_name(f".new-{path.name}")
    write_atomically(beside, lambda file: _save(sealed, file))
    try:
        if path.exists():
            os.replace(path, _before(path))
        os.replace(beside, path)
    except OSError as error:
        raise refused(path, error) from error


class _Noting:
    """A file that notes the error of a disk that refuses: torch.save may raise another one over it."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file = file
        self.refusal: OSError | None = None

    def write(self, data: bytes) -> int:
        try:
            return self.file.write(data)
        except OSError as error:
            self.refusal = error
            raise

    def flush(self) -> None:
        self.file.flush()


def _save(state: dict[str, Any], file: IO[bytes]) -> None:
    noting = _Noting(file)
    try:
        torch.save(state, cast("IO[bytes]", noting))
    except RuntimeError:
        if noting.refusal is not None:
            raise noting.refusal from None
        raise


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read one checkpoint. Raises DataError where it is missing, cut off, garbled or not of this kind."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        digest = state.pop("digest")
    except FileNotFoundError:
        raise DataError(f"There is no checkpoint {path}.") from None
    except (*_UNREADABLE, pickle.UnpicklingError) as error:
        raise DataError(f"The checkpoint {path} cannot be read: it is cut off, garbled or no checkpoint.") from error
    if digest != _digest(state):
        raise DataError(f"The checkpoint {path} is damaged: its contents do not match their checksum.")
    return state


def latest_checkpoint(path: Path) -> tuple[dict[str, Any] | None, str]:
    """(state, note): the checkpoint at `path`, or the one before it where that is damaged; None if there is none.

    The note is empty unless something was damaged. Raises DataError where neither can be read.
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
        raise DataError(problems[0], "Start over with --force; the old run is kept aside.")
    return None, ""


def _before(path: Path) -> Path:
    return path.with_name(f"{path.stem}-1{path.suffix}")


def _leaves(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for key in sorted(value, key=str):
            yield from _leaves(value[key], f"{name}/{key}")
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            yield from _leaves(item, f"{name}/{index}")
    else:
        yield name, value


def _digest(state: dict[str, Any]) -> str:
    """SHA-256 over every tensor and primitive with its place in the structure."""
    digest = hashlib.sha256()
    for name, value in _leaves(state):
        digest.update(name.encode())
        if isinstance(value, torch.Tensor):
            digest.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
        else:
            digest.update(repr(value).encode())
    return digest.hexdigest()
