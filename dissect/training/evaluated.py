"""The evaluations at the end of a run that are done, kept until the run is: a resume goes on with the next one."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dissect.errors import DataError
from dissect.runs.folders import checkpoint
from dissect.training import workers
from dissect.training.checkpoint import load_checkpoint, save_checkpoint
from dissect.training.evaluation import Report, evaluate_by
from dissect.training.lists import Lists
from dissect.training.resume import identity
from dissect.training.setup import Training
from models.batch import Prefixes


class Evaluated:
    """Results of evaluations of a run, each in a file that is named by what was evaluated, down to the last weight.

    A result of other weights, or of another run, is never taken: it has another name.
    """

    def __init__(self, run: Path, training: Training, device: torch.device) -> None:
        self.folder, self.training, self.device = checkpoint(run, "evaluated"), training, device

    def once(self, what: str, evaluate: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """The result of `evaluate` (tensors and primitives) on the present weights, or the one kept."""
        path, found = self.folder / f"{self._digest(what)}.pt", None
        with suppress(DataError):  # not there, or damaged
            found = load_checkpoint(path)
        # Several processes evaluate together or not at all.
        (is_missing,) = workers.any_says(found is None, device=self.device)
        if found is None or is_missing:
            found = evaluate()
            save_checkpoint(path, found)
        return found

    def ranks(self, split: str, prefixes: Prefixes, report: Report) -> tuple[np.ndarray, Lists]:
        """(ranks by the best and by the worst rule for ties, int32 [2, P]; what stands in the lists, of test only)."""

        def evaluate() -> dict[str, Any]:
            lists = Lists() if split == "test" else None
            ranks = evaluate_by(self.training.model, prefixes, ("best", "worst"), report=report, lists=lists)
            return {"ranks": torch.from_numpy(ranks), "times": lists.times if lists else None}

        found, lists = self.once(split, evaluate), Lists()
        lists.times = found["times"]
        return found["ranks"].numpy(), lists

    def clear(self) -> None:
        """Throw the results away: the summary has them now."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _digest(self, what: str) -> str:
        """SHA-256 of the evaluation, the run and the weights."""
        digest = hashlib.sha256(json.dumps([what, identity(self.training)]).encode())
        for name, value in self.training.model.state_dict().items():
            digest.update(name.encode())
            digest.update(_bytes_of(value) if isinstance(value, Tensor) else repr(value).encode())  # of one's own model
        return digest.hexdigest()


def _bytes_of(value: Tensor) -> Any:
    """The numbers of a tensor as bytes, whatever its layout."""
    dense = value.cpu() if value.layout == torch.strided else value.cpu().to_dense()
    return dense.contiguous().flatten().view(torch.uint8).numpy()
