"""How long a trained model and its export take to recommend."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from statistics import median
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dissect.data.sessions import Sessions, prefix_index
from dissect.experiment.plan import Report, silent
from dissect.training.scoring import scores_over
from dissect.training.smaller import Served, scores_by
from models.base import catalogue, session_vectors
from models.batch import Batch

ROUNDS, SECONDS = 200, 4.0  # of a measurement, at most


def times(
    trained: Any, served: Served, sessions: Sessions, longest: int = 0, report: Report = silent
) -> dict[str, Any]:
    """Milliseconds of processor time on one thread, the models in turn: medians over sessions and batches of 100.

    encode: from item numbers to the vector; rank: the product with the catalogue, and the 20 highest. `whole` scores as
    every model here does, `whole_same_way` as an export (smaller.scores_by). All have item table and catalogue ready.
    """
    ends, threads = prefix_index(sessions), torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.inference_mode():
            ways = {"whole": (trained, scores_over), "whole_same_way": (trained, scores_by)}
            models = {name: _steps(*way) for name, way in {**ways, "export": (served, scores_by)}.items()}
            chosen = np.random.default_rng(0).permutation(len(ends[0]))[:1000]
            picked = [_prefix(sessions, ends, i, longest) for i in chosen]
            one = _alternate(models, [[clicks] for clicks in picked[:ROUNDS]], "timing single sessions", report)
            hundreds = [picked[low : low + 100] for low in range(0, len(picked), 100)]
            many = _alternate(models, hundreds * 3, "timing batches", report)
    finally:
        torch.set_num_threads(threads)
    return {"session": one, "batch": {**many, "sessions": len(hundreds[0])}}


def _prefix(sessions: Sessions, ends: tuple[np.ndarray, np.ndarray], i: int, longest: int) -> list[int]:
    clicks: list[int] = sessions[ends[0][i]][: ends[1][i]].tolist()
    return clicks[-longest:]


def some(sessions: Sessions, longest: int) -> list[list[int]]:
    """Prefixes of several lengths, two at least."""
    ends = prefix_index(sessions)
    clicks = [_prefix(sessions, ends, i, longest) for i in np.unique(ends[1], return_index=True)[1][:20]]
    return [*clicks, clicks[0]]


def _steps(model: Any, score: Any) -> tuple[Callable[[list[list[int]]], Tensor], Callable[[Tensor], object]]:
    """(encode, rank) of a model in evaluation."""
    S = model.item_states()
    matrix, bias = catalogue(model, S)
    k = min(20, len(matrix))
    return lambda clicks: session_vectors(model, S, Batch.of(clicks)), lambda v: score(v, matrix, bias).topk(k)


def _alternate(
    models: Mapping[str, Any], inputs: Sequence[list[list[int]]], what: str, report: Report
) -> dict[str, Any]:
    """Median milliseconds of the models over the inputs, in turn, for SECONDS at most."""
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in models}
    began = time.monotonic()
    for number, clicks in enumerate(inputs):
        for name in list(models)[:: 1 - 2 * (number % 2)]:
            encode, rank = models[name]
            start = time.thread_time()
            vectors = encode(clicks)
            half = time.thread_time()
            rank(vectors)
            taken[name].append((half - start, time.thread_time() - half))
        report(what, number, len(inputs))
        if time.monotonic() - began > SECONDS and number >= 10:
            break

    def in_ms(rows: list[tuple[float, float]]) -> dict[str, float]:
        rows = rows[2:] or rows  # the first ones warm up
        encode, rank = (1e3 * median(row[i] for row in rows) for i in (0, 1))
        return {"encode": encode, "rank": rank, "total": 1e3 * median(map(sum, rows))}

    return {**{name: in_ms(rows) for name, rows in taken.items()}, "rounds": len(taken["whole"])}
