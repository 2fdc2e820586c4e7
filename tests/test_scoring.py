"""Loss and ranks against torch's own cross-entropy and plain loops."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from dissect.training.evaluation import metrics
from dissect.training.scoring import catalogue_loss, ranks, ranks_of_scores


@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize("with_buffer", [False, True])
@pytest.mark.parametrize("scale", [0.1, 30.0])  # with 30 the target's probability is far below the smallest float
def test_loss_and_gradients_equal_cross_entropy(with_bias, with_buffer, scale):
    torch.manual_seed(0)
    vectors = (torch.randn(5, 7, dtype=torch.double) * scale).requires_grad_()
    matrix = torch.randn(11, 7, dtype=torch.double, requires_grad=True)
    bias = torch.randn(11, dtype=torch.double, requires_grad=True) if with_bias else None
    targets = torch.tensor([0, 3, 3, 10, 5])
    inputs = [x for x in (vectors, matrix, bias) if x is not None]
    buffer = torch.full((5, 11), float("nan"), dtype=torch.double) if with_buffer else None

    mine = catalogue_loss(vectors, matrix, bias, targets, buffer)
    theirs = F.cross_entropy(F.linear(vectors, matrix, bias), targets)
    torch.testing.assert_close(mine, theirs)
    for a, b in zip(torch.autograd.grad(3 * mine, inputs), torch.autograd.grad(3 * theirs, inputs)):
        torch.testing.assert_close(a, b)


def test_loss_of_an_impossible_target_is_finite_in_single_precision():
    vectors = torch.tensor([[500.0]], requires_grad=True)
    matrix = torch.tensor([[1.0], [-1.0]], requires_grad=True)
    loss = catalogue_loss(vectors, matrix, None, torch.tensor([1]))
    assert loss.item() == pytest.approx(1000.0)


def test_the_loss_is_differentiated_once():
    vectors = torch.randn(2, 3, requires_grad=True)
    loss = catalogue_loss(vectors, torch.randn(4, 3), None, torch.tensor([0, 1]))
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="once"):
        loss.backward()


def plain_rank(scores: list[float], target: int, ties: str) -> int:
    better = sum(s > scores[target] for s in scores)
    equal = sum(s == scores[target] for s in scores) - 1
    return 1 + better + {"best": 0, "worst": equal, "mean": equal // 2}[ties]


@pytest.mark.parametrize("ties", ["best", "worst", "mean"])
def test_ranks_equal_a_plain_count(ties):
    generator = torch.Generator().manual_seed(0)
    scores = torch.randint(0, 4, (50, 9), generator=generator).float()  # few values: many ties
    targets = torch.randint(0, 9, (50,), generator=generator)
    expected = [plain_rank(row.tolist(), int(t), ties) for row, t in zip(scores, targets)]
    assert ranks_of_scores(scores, targets, ties).tolist() == expected
    assert ranks(scores, torch.eye(9), None, targets, ties).tolist() == expected


def test_bias_enters_the_ranks():
    assert ranks(torch.ones(1, 1), torch.zeros(3, 1), torch.tensor([0.0, 1.0, 2.0]), torch.tensor([0])).tolist() == [3]


def test_unknown_ties_are_refused():
    with pytest.raises(ValueError, match="best"):
        ranks(torch.ones(1, 1), torch.ones(2, 1), None, torch.tensor([0]), ties="median")


def test_metrics_equal_a_plain_mean():
    rank = np.array([1, 2, 5, 6, 20, 21, 1000], np.int32)
    values = metrics(rank)
    for k in (5, 10, 20):
        inside = [r for r in rank.tolist() if r <= k]
        assert values[f"hr@{k}"] == pytest.approx(100 * len(inside) / 7)
        assert values[f"mrr@{k}"] == pytest.approx(100 * sum(1 / r for r in inside) / 7)
