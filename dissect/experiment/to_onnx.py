"""The scoring model of an export as an ONNX file, for servers without PyTorch; needs the extra `onnx`.

Inputs: items, int64 [B, L], item numbers from 1, 0 pads on the right; lengths, int64 [B]. Output: scores, float [B, V],
of item 1 in the first column. B and L may be anything from 1 on.
"""

from __future__ import annotations

import importlib
import importlib.util
import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence

from dissect.errors import UsageError
from models.batch import Batch
from models.padded import Scoring

NEEDED = ("onnx", "onnxscript", "onnxruntime")
LONGEST = 1000  # clicks of a session
SAME = 1e-5  # by how much scores may differ, relative to the largest: another program rounds elsewhere


def require_onnx() -> None:
    """Raises UsageError if a package that writes or tries ONNX files is missing."""
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise UsageError(f"--onnx needs {', '.join(missing)}.", "In the clone of dissect: pip install -e '.[onnx]'")


def write_onnx(model: Any, name: str, path: Path, sessions: Sequence[list[int]]) -> None:
    """Write a model of the contract to an ONNX file, and compare its scores with the model's own.

    `sessions` are tried in batches of several sizes; scores may differ by SAME. Raises UsageError if the
    model cannot be written so that it takes any batch.
    """
    require_onnx()
    refusal = f"{name} cannot be written as ONNX"
    hint = "Export it without --onnx."
    items, lengths = padded(sessions)
    B, L = torch.export.Dim("B", min=1, max=1 << 20), torch.export.Dim("L", min=1, max=LONGEST)
    how: dict[str, Any] = {"input_names": ["items", "lengths"], "output_names": ["scores"], "dynamo": True}
    how |= {"dynamic_shapes": ({0: B, 1: L}, {0: B}), "verbose": False}
    scoring = Scoring(model).eval()
    try:
        with torch.no_grad():
            scoring(items, lengths)
    except Exception as error:  # what a batch of padded tensors cannot say, in whatever way the model finds out
        raise UsageError(f"{refusal}: it needs {_said(error)}, which padded tensors do not give.", hint) from error
    try:
        with _quiet():
            program = torch.onnx.export(scoring, (items, lengths), **how)
            if program is None:
                raise ValueError("nothing came out")
            program.save(path)
    except Exception as error:
        raise UsageError(f"{refusal}: PyTorch's exporter says {_said(error)}.", hint) from error
    off = _difference(model, path, [sessions, sessions[:1], sessions[-1:], [*sessions[:2], [*sessions[-1], 1, 1]]])
    if not off <= SAME:
        says = (
            f"in a batch of another size its scores differ by {off:.0e}" if off < np.inf else "it takes one size only"
        )
        raise UsageError(f"{refusal}: {says}.", hint)


def padded(sessions: Sequence[list[int]]) -> tuple[torch.Tensor, torch.Tensor]:
    """(items [B, L], lengths [B]) of sessions."""
    items = pad_sequence([torch.tensor(session) for session in sessions], batch_first=True)
    return items, torch.tensor([len(session) for session in sessions])


def _difference(model: Any, path: Path, batches: Sequence[Sequence[list[int]]]) -> float:
    """By how much scores of the file and the model differ at most, relative to the largest; infinite if it refuses."""
    runtime = importlib.import_module("onnxruntime")
    session, most = runtime.InferenceSession(path, providers=["CPUExecutionProvider"]), 0.0
    for batch in batches:
        items, lengths = padded(batch)
        right = model.scores(Batch.of(batch)).numpy()
        try:
            (found,) = session.run(None, {"items": items.numpy(), "lengths": lengths.numpy()})
        except Exception:  # the runtime has errors of its own, of no common class
            return float("inf")
        same_shape = found.shape == right.shape and np.isfinite(found).all()
        most = max(most, float(np.abs(found - right).max() / np.abs(right).max()) if same_shape else np.inf)
    return most


def _said(error: Exception) -> str:
    """The first line of an error."""
    first = (str(error).strip() or type(error).__name__).splitlines()[0]
    return first[:200].rstrip(".")


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the warnings of the exporter, which are about itself."""
    logger = logging.getLogger("torch.onnx")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(before)
