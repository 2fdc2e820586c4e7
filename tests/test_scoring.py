"""Loss and ranks against torch's own cross-entropy and plain loops."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from dissect.training import device, scoring
from dissect.training.evaluation import metrics
from dissect.training.scoring import (
    PIECE,
    catalogue_loss,
    ranks_by,
    score_buffer,
    scores_over,
)
from models import normalise

# Each pair of values is in a case, and each combination of what shares code: scores kept or not, unit, bias, layout.
CASES = [
    # width of the buffer: below 11 the scores are made twice
    # piece: rows at a time
    # unit: whose rows' lengths the scores are divided by
    # with a bias or not
    # scale: with 30 the target's probability is far below the smallest float
    # by item or by session: how the scores lie
    (None, 11, "own", True, 30.0, False),
    (None, 11, "other", True, 30.0, False),
    (None, 4, "no", True, 0.1, False),
    (None, 4, "no", False, 0.1, False),
    (None, 4, "other", False, 30.0, True),
    (None, 4, "other", True, 30.0, True),
    (None, 1, "no", False, 30.0, True),
    (None, 1, "own", False, 30.0, True),
    (11, 11, "no", True, 30.0, True),
    (11, 4, "own", True, 30.0, True),
    (11, 1, "own", False, 30.0, False),
    (11, 1, "other", False, 0.1, False),
    (10, 11, "other", True, 0.1, False),
    (10, 4, "no", False, 0.1, False),
    (10, 4, "own", False, 0.1, True),
    (10, 1, "other", True, 30.0, True),
    (3, 11, "own", False, 30.0, False),
    (3, 4, "no", True, 0.1, True),
    (3, 1, "own", True, 0.1, True),
    (3, 1, "other", False, 0.1, True),
    (1, 11, "no", False, 0.1, True),
    (1, 4, "other", False, 30.0, False),
    (1, 1, "no", True, 0.1, False),
    (1, 1, "own", True, 30.0, False),
]


@pytest.mark.parametrize(("width", "piece", "unit", "with_bias", "scale", "by_item"), CASES)
def test_loss_and_gradients_equal_cross_entropy(width, piece, unit, with_bias, scale, by_item, monkeypatch):
    monkeypatch.setitem(PIECE, "cpu", 4 * 5 * piece)
    monkeypatch.setattr(scoring, "multiplies_faster_by_item", lambda: by_item)
    monkeypatch.setattr(normalise, "ROWS_IN_CACHE", 3)
    torch.manual_seed(0)
    vectors = (torch.randn(5, 7, dtype=torch.double) * scale).requires_grad_()
    matrix = torch.randn(11, 7, dtype=torch.double, requires_grad=True)
    bias = torch.randn(11, dtype=torch.double, requires_grad=True) if with_bias else None
    targets = torch.tensor([0, 3, 3, 10, 5])
    inputs = [x for x in (vectors, matrix, bias) if x is not None]
    buffer = torch.full((width, 5), float("nan"), dtype=torch.double) if width else None

    def table() -> torch.Tensor:
        return matrix.sin() + 1 if unit == "other" else matrix

    mine = catalogue_loss(vectors, table(), bias, targets, buffer, None if unit == "no" else matrix)
    rows = table() if unit == "no" else table() / matrix.norm(dim=1, keepdim=True)
    theirs = F.cross_entropy(F.linear(vectors, rows, bias), targets)
    torch.testing.assert_close(mine, theirs)
    for a, b in zip(torch.autograd.grad(3 * mine, inputs), torch.autograd.grad(3 * theirs, inputs)):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("kernel", ["float32", "bf16-operands"])
@pytest.mark.parametrize("piece", [2, 1])  # rows at a time: the highest score is that of all so far
def test_loss_of_an_impossible_target_is_finite_in_single_precision(piece, kernel, monkeypatch):
    monkeypatch.setitem(PIECE, "cpu", {"float32": 4, "bf16-operands": 2}[kernel] * piece)
    vectors = torch.tensor([[512.0]], requires_grad=True)
    matrix = torch.tensor([[1.0], [-1.0]], requires_grad=True)
    loss = catalogue_loss(vectors, matrix, None, torch.tensor([1]), kernel=kernel)
    assert loss.item() == pytest.approx(1024.0)
    loss.backward()
    assert vectors.grad.tolist() == [[2.0]] and matrix.grad.tolist() == [[512.0], [-512.0]]


@pytest.mark.parametrize("kernel", ["float32", "bf16-operands"])
def test_a_loss_is_the_same_whether_the_highest_score_is_sought_or_not(kernel, monkeypatch):
    """Targets up to 69 nats below the best need no maximum; the result is that with one, up to rounding."""
    torch.manual_seed(0)
    vectors, matrix = torch.randn(4, 16) * 3, torch.randn(50, 16)
    targets = (vectors @ matrix.t()).argmin(1)
    assert 50 < float(F.cross_entropy(vectors @ matrix.t(), targets, reduction="none").max()) < 69
    found, rises, made = [], [], scoring._exponentials
    monkeypatch.setattr(scoring, "_exponentials", lambda *given: rises.append(given[2]) or made(*given))
    for highest in (scoring.HIGHEST, 0.0):
        monkeypatch.setattr(scoring, "HIGHEST", highest)
        leaves = [x.clone().requires_grad_() for x in (vectors, matrix)]
        loss = catalogue_loss(*leaves, None, targets, kernel=kernel)
        found.append((loss.detach(), *torch.autograd.grad(loss, leaves)))
    assert rises == [False, False, True]
    for plain, sought in zip(*found):
        assert float((plain - sought).norm() / sought.norm()) < {"float32": 1e-5, "bf16-operands": 0.3}[kernel]


@pytest.mark.parametrize("kernel", ["float32", "bf16-operands"])
@pytest.mark.parametrize("with_bias", [False, True])
def test_the_way_of_a_gpu_has_the_same_loss_and_gradients(kernel, with_bias, monkeypatch):
    """There scores are float32, by session, and lose t after the product; t is the highest so far."""

    class Elsewhere(scoring._Pieces):
        def __init__(self, vectors, *about):
            super().__init__(vectors, *about)
            self.space, self.on_cpu, self.by_item = torch.empty(5 * 11), False, False
            self.pieces = [(0, 4), (4, 8), (8, 11)]

    torch.manual_seed(0)
    vectors, matrix, bias = torch.randn(5, 7), torch.randn(11, 7), torch.randn(11) if with_bias else None
    found, targets = [], torch.tensor([0, 3, 3, 10, 5])
    for pieces in (scoring._Pieces, Elsewhere):
        monkeypatch.setattr(scoring, "_Pieces", pieces)
        leaves = [x.clone().requires_grad_() for x in (vectors, matrix, bias) if x is not None]
        loss = catalogue_loss(*leaves[:2], leaves[2] if with_bias else None, targets, kernel=kernel)
        found.append((loss.detach(), *torch.autograd.grad(loss, leaves)))
    for here, there in zip(*found):
        assert float((here - there).norm() / here.norm()) < {"float32": 1e-6, "bf16-operands": 1e-2}[kernel]


def test_a_row_of_zeros_has_a_score_and_a_gradient_without_nan():
    matrix = torch.tensor([[0.0, 0.0], [3.0, 4.0]], requires_grad=True)
    loss = catalogue_loss(torch.tensor([[1.0, 1.0]]), matrix, None, torch.tensor([1]), unit_of=matrix)
    assert loss.item() == pytest.approx(math.log(1 + math.exp(-1.4)))
    (gradient,) = torch.autograd.grad(loss, matrix)
    assert torch.isfinite(gradient).all() and float(gradient[1] @ matrix[1].detach()) == pytest.approx(0, abs=1e-6)


def test_the_machine_decides_how_scores_lie(tmp_path):
    for index, size in enumerate(("48K", "2048K", "480M", "")):
        assert device.largest_cache.__wrapped__(tmp_path) == (0, 48 << 10, 2 << 20, 480 << 20)[index]
        (tmp_path / f"index{index}").mkdir()
        (tmp_path / f"index{index}" / "size").write_text(f"{size}\n")
    assert device.largest_cache.__wrapped__(tmp_path) == 480 << 20
    for vendor, answer in (("GenuineIntel", False), ("AuthenticAMD", True)):
        (tmp_path / "cpuinfo").write_text(f"vendor_id : {vendor}\n")
        assert device.multiplies_faster_by_item.__wrapped__(tmp_path / "cpuinfo") is answer


def test_the_loss_is_differentiated_once():
    vectors = torch.randn(2, 3, requires_grad=True)
    loss = catalogue_loss(vectors, torch.randn(4, 3), None, torch.tensor([0, 1]))
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="once"):
        loss.backward()


def test_buffers_hold_the_catalogue_where_memory_allows():
    assert score_buffer(100, 43_097, "cpu").shape == (43_097, 100)
    assert score_buffer(512, 1_000_000, "cpu").numel() * 4 <= PIECE["cpu"]


def plain_rank(scores: list[float], target: int, ties: str) -> int:
    better = sum(s > scores[target] for s in scores)
    equal = sum(s == scores[target] for s in scores) - 1
    return 1 + better + {"best": 0, "worst": equal, "mean": equal // 2}[ties]


@pytest.mark.parametrize("ties", ["best", "worst", "mean"])
@pytest.mark.parametrize("items", [1, 4, 100])
@pytest.mark.parametrize("by_item", [True, False])
def test_ranks_equal_a_plain_count(ties, items, by_item, monkeypatch):
    """However many items a piece has, the last of which is smaller, and in both orders of memory."""
    monkeypatch.setitem(PIECE, "cpu", 4 * 50 * items)
    generator = torch.Generator().manual_seed(0)
    scores = torch.randint(0, 4, (50, 9), generator=generator).float()  # few values: many ties
    scores = scores.t().contiguous().t() if by_item else scores
    targets = torch.randint(0, 9, (50,), generator=generator)
    expected = [plain_rank(row.tolist(), int(t), ties) for row, t in zip(scores, targets)]
    assert ranks_by(scores, targets, (ties, "best"))[0].tolist() == expected


def test_bias_enters_the_ranks():
    scores = scores_over(torch.ones(1, 1), torch.zeros(3, 1), torch.tensor([0.0, 1.0, 2.0]))
    assert ranks_by(scores, torch.tensor([0]), ("best",)).tolist() == [[3]]


def test_scores_in_a_buffer_are_those_without_one():
    vectors, matrix, bias = torch.randn(5, 3), torch.randn(7, 3), torch.randn(7)
    buffer = torch.full((50,), torch.nan)  # larger than needed, and of an earlier batch
    assert torch.equal(scores_over(vectors, matrix, bias, buffer), scores_over(vectors, matrix, bias))
    assert buffer[:35].isfinite().all()


def test_no_sessions_have_no_ranks():
    assert ranks_by(torch.zeros(0, 5), torch.zeros(0, dtype=torch.long), ("best", "mean")).shape == (2, 0)


def test_unknown_ties_are_refused():
    with pytest.raises(ValueError, match="best"):
        ranks_by(torch.ones(1, 2), torch.tensor([0]), ("median",))


def test_metrics_equal_a_plain_mean():
    rank = np.array([1, 2, 5, 6, 20, 21, 1000], np.int32)
    values = metrics(rank)
    for k in (5, 10, 20):
        inside = [r for r in rank.tolist() if r <= k]
        assert values[f"hr@{k}"] == pytest.approx(100 * len(inside) / 7)
        assert values[f"mrr@{k}"] == pytest.approx(100 * sum(1 / r for r in inside) / 7)
