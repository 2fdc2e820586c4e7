"""Check that a model keeps the contract of models/base.py, by a few runs on small sessions."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from models.base import Matrix, encoded, session_vectors
from models.batch import Batch

LENGTHS = (3, 1, 5, 2, 4, 1)  # of the sessions that are tried together and alone
PADDING = "0 in batch.items is padding and no item: clamp it, as in batch.items.clamp(min=1), or use batch.clicks"


def check(model: Any, n_items: int) -> Tensor:
    """Run a model of `n_items` items on two sessions of three slots, in training and in evaluation, and on more.

    Returns the vectors [B, D] of the evaluation. Raises ValueError if the model breaks the contract, with what was
    expected (B = 2, L = 3, V = n_items) and what came.
    """
    _check_declaration(model)
    _check_signature(model)
    batch = Batch.of([[1, 2, 1], [2]])
    mode, vectors = model.training, torch.empty(0)
    # As in training, as in evaluation, and as when a part of the trained model is switched off.
    try:
        for training, off in ((True, None), (False, None), *((False, part) for part in model.removable)):
            model.train(training)
            model.switched_off = off
            try:
                answer = _check_once(model, batch, n_items)
            except ValueError as error:
                raise ValueError(f"with switched_off = {off!r}, {error}" if off else str(error)) from error.__cause__
            vectors = answer if off is None else vectors
    finally:
        model.switched_off = None
        model.train(mode)
    return vectors


@torch.no_grad()
def _check_once(model: Any, batch: Batch, n_items: int) -> Tensor:
    if not model.learns:
        scores = _call("scores(batch)", model.scores, batch)
        wanted = f"scores, float32 [B, V] with B = {len(batch)} and V = {n_items}"
        _expect(_is_float(scores, len(batch), n_items), "scores(batch)", wanted, scores)
        assert isinstance(scores, Tensor)
        return scores
    S = _call("item_states()", model.item_states)
    _expect(_is_float(S, n_items, None), "item_states()", f"the item table, float32 [V, D] with V = {n_items}", S)
    B, L = batch.items.shape
    call = f"encode(S {list(S.shape)}, batch of items {[B, L]})"
    try:
        answer = _call(call, model.encode, S, batch)
    except ValueError as error:
        is_padding = isinstance(error.__cause__, IndexError) and not refusal(model, L, model.training)
        raise ValueError(f"{error}; {PADDING}" if is_padding else str(error)) from error.__cause__
    is_right = isinstance(answer, Tensor) or (
        isinstance(answer, tuple) and len(answer) == 2 and isinstance(answer[1], Mapping)
    )
    _expect(is_right, call, "vectors [B, D], or a pair: these and a dict of auxiliary losses by name", answer)
    vectors, auxiliary = answer if isinstance(answer, tuple) else (answer, {})
    if model.every_position:
        is_fit = isinstance(vectors, Tensor) and vectors.dim() == 3 and vectors.shape[:2] == (B, L)
        _expect(is_fit, call, f"vectors for every click, [B, L, D] with B = {B} and L = {L}", vectors)
        vectors = vectors[torch.arange(B), batch.lengths - 1]
    _expect(_is_float(vectors, B, None), call, f"vectors, float32 [B, D] with B = {B}", vectors)
    _expect(bool(torch.isfinite(vectors).all()), call, "vectors of finite numbers", "NaN or infinity")
    for name, loss in auxiliary.items():
        _expect(isinstance(loss, Tensor) and loss.dim() == 0, call, f"a scalar as the loss {name!r}", loss)
    call = f"candidates(S {list(S.shape)})"
    answer = _call(call, model.candidates, S)
    is_pair = isinstance(answer, tuple) and len(answer) == 2
    _expect(is_pair, call, "a pair: the catalogue [V, D], and a bias [V] or None", answer)
    matrix, bias = answer
    width = vectors.shape[1]
    wanted = f"the catalogue, float32 [V, D] with V = {n_items} and D = {width}, the width of the vectors of encode"
    _expect(_is_float(matrix, n_items, width), call, wanted, matrix)
    is_bias = bias is None or (isinstance(bias, Tensor) and bias.shape == (n_items,))
    _expect(is_bias, call, f"a bias [V] with V = {n_items}, or None", bias)
    assert isinstance(vectors, Tensor)
    if not model.training:
        _check_dependence(model, S)
    return vectors


def _check_dependence(model: Any, S: Tensor) -> None:
    """Raises ValueError if a vector depends on more than the clicks of its session up to its position."""
    most = 3 if refusal(model, max(LENGTHS)) else max(LENGTHS)  # a model may have few places
    sessions = [[(i + k * k) % len(S) + 1 for k in range(min(n, most))] for i, n in enumerate(LENGTHS)]
    alone = torch.cat([_vectors(model, S, Batch.of([session])) for session in sessions])
    again = torch.cat([_vectors(model, S, Batch.of([session])) for session in sessions])
    if not _same(alone, again):
        raise ValueError("the vector of a session in evaluation is another one at each call")
    order = list(range(len(sessions)))
    for rows in (order, order[::-1]):
        batch = Batch.of([sessions[row] for row in rows])
        if not _same(_vectors(model, S, batch), alone[rows]):
            padding = ", or on the padding of batch.items" if "items" in vars(batch) else ""
            raise ValueError(f"the vector of a session depends on the other sessions of its batch{padding}")
    if model.every_position:
        clicks = sessions[LENGTHS.index(max(LENGTHS))]
        prefixes = Batch.of([clicks[:end] for end in range(1, len(clicks) + 1)])
        whole = encoded(model, S, Batch.of([clicks]))[0][0]  # [L, D]
        if not _same(whole, _vectors(model, S, prefixes)):
            raise ValueError(
                "a vector at a position must not depend on later clicks: at some position of a session it is not the "
                "last vector of the clicks up to there"
            )


def _vectors(model: Any, S: Tensor, batch: Batch) -> Tensor:
    vectors: Tensor = _call(f"encode of sessions of {batch.lengths.tolist()} clicks", session_vectors, model, S, batch)
    return vectors


def _same(some: Tensor, other: Tensor) -> bool:
    return some.shape == other.shape and torch.allclose(some, other, rtol=1e-3, atol=1e-5)


def refusal(model: Any, length: int, training: bool = False) -> str:
    """The error of a model that cannot encode one session of `length` clicks; "" if it can."""
    mode = model.training
    model.train(training)
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            batch = Batch.of([[1] * length])
            model.encode(model.item_states(), batch) if model.learns else model.scores(batch)
    except (Exception, SystemExit) as error:
        return f"{type(error).__name__}: {error}"
    finally:
        model.train(mode)
    return ""


def longest_taken(model: Any, length: int) -> int:
    """The largest number of clicks that a model can encode, if `length` is too many."""
    low, high = 1, length
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if refusal(model, middle) else (middle, high)
    return low


def _call(call: str, method: Any, *arguments: Any) -> Any:
    try:
        return method(*arguments)
    except (Exception, SystemExit) as error:
        raise ValueError(f"{call} raised {type(error).__name__}: {error}") from error


def _check_signature(model: Any) -> None:
    """Raises ValueError if `encode` cannot be called with (S, batch), as models of earlier versions cannot."""
    try:
        inspect.signature(model.encode).bind("S", "batch")
    except TypeError as error:
        given = ", ".join(inspect.signature(model.encode).parameters)
        says = "encode takes (S, batch) now: items and lengths are batch.items and batch.lengths"
        raise ValueError(f"{says}; here it takes ({given})") from error


def _is_float(value: object, rows: int, columns: int | None) -> bool:
    is_matrix = isinstance(value, Tensor) and value.dtype == torch.float32 and value.dim() == 2
    return is_matrix and value.shape[0] == rows and columns in (None, value.shape[1])  # type: ignore[attr-defined]


def _expect(right: bool, call: str, wanted: str, came: object) -> None:
    if not right:
        raise ValueError(f"{call} should return {wanted}, and returned {_in_words(came)}")


def _in_words(value: object) -> str:
    if isinstance(value, Tensor):
        return f"{str(value.dtype).removeprefix('torch.')} {list(value.shape)}"
    if isinstance(value, str):
        return value
    if isinstance(value, tuple):
        return f"({', '.join(map(_in_words, value))})"
    return "None" if value is None else f"a {type(value).__name__}"


def _check_declaration(model: Any) -> None:
    """Raises ValueError if the class, `matrices` or `removable` is not what it should be."""
    if not isinstance(model, nn.Module):
        raise ValueError("it should be an nn.Module: derive from SessionModel")
    if not isinstance(model.removable, (tuple, list)):
        raise ValueError(f"removable should be a tuple of roles such as ('attention',), not {model.removable!r}")
    if not isinstance(model.matrices, Mapping):
        raise ValueError(f"matrices should be a dict of Matrix(role, module) by name, not {model.matrices!r}")
    parameters = model.named_parameters(remove_duplicate=False)
    weights = {name: p.shape for name, p in parameters if not is_lazy(p) and p.dim() >= 2}
    absent = not_there(model)
    for name, matrix in model.matrices.items():
        if not isinstance(name, str) or not isinstance(matrix, Matrix):
            raise ValueError(f"matrices[{name!r}] should be Matrix(role, module) under a text, not {matrix!r}")
        own = {weight: shape for weight, shape in weights.items() if f"{weight}.".startswith(f"{name}.")}
        if not own and name not in absent:
            raise ValueError(f"matrices[{name!r}] has no weight matrix, a parameter of two dimensions or more")
        for weight, shape in own.items():
            sides = zip(shape, (matrix.rows, matrix.cols))
            if "bias" not in weight and any(size % max(1, len(blocks)) for size, blocks in sides):
                what = weight.removesuffix(".weight")
                raise ValueError(
                    f"{what} {list(shape)} does not divide into the blocks {matrix.rows} and {matrix.cols}"
                )


def not_there(model: Any) -> list[str]:
    """Names in `matrices` that are neither a layer nor a parameter of this model."""
    there = {*dict(model.named_modules()), *dict(model.named_parameters())}
    return [name for name in model.matrices if name not in there]


def without_role(model: Any) -> list[str]:
    """Layers with weight matrices that `matrices` does not name: not the weight, the layer, nor a module around it."""
    kinds = (nn.Linear, nn.Bilinear, nn.modules.conv._ConvNd, nn.RNNBase, nn.RNNCellBase, nn.MultiheadAttention)
    named = {part for name in model.matrices for part in (name, name.rpartition(".")[0])}
    return [
        name
        for name, module in model.named_modules()
        if isinstance(module, kinds) and name not in named and not any(name.startswith(f"{n}.") for n in model.matrices)
    ]
