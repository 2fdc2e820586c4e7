"""What the readouts and models share, against plain loops and numbers."""

import math

import pytest
import torch
from torch import nn

from models import Batch
from models.levels import level_maps, level_matrices, level_queries, pooled
from models.normalise import cut, cut_factor
from models.readout import additive

SESSIONS = [[1, 2, 3], [4], [5, 5]]


@pytest.mark.parametrize("softmax", [False, True])
@pytest.mark.parametrize("uniform", [False, True])
def test_additive_attention_is_a_sum_over_each_session(softmax, uniform):
    torch.manual_seed(0)
    clicks, score = Batch.of(SESSIONS).clicks, nn.Linear(4, 1, bias=False)
    query, keys, x = torch.randn(3, 4), torch.randn(6, 4), torch.randn(6, 5)
    sums = []
    for session in range(3):
        rows = clicks.owner == session
        weights = score(torch.sigmoid(query[session] + keys[rows]))
        weights = weights.softmax(0) if softmax else weights
        weights = weights.mean(0).expand_as(weights) if uniform else weights
        sums.append((weights * x[rows]).sum(0))
    torch.testing.assert_close(additive(score, query, keys, x, clicks, softmax, uniform), torch.stack(sums))


@pytest.mark.parametrize("concat", [False, True])
def test_each_level_asks_with_its_last_clicks(concat):
    torch.manual_seed(0)
    maps, recent = level_maps(4, 3, concat), torch.randn(2, 3, 4)
    queries = level_queries(maps, recent, concat)
    for level, W in enumerate(maps):
        clicks = recent[:, : level + 1]
        torch.testing.assert_close(queries[:, level], W(clicks.flatten(1) if concat else clicks.sum(1)))
    assert [len(matrix.cols) for matrix in level_matrices(3, concat).values()] == ([1, 2, 3] if concat else [0, 0, 0])


def test_pooling_is_the_norm_of_the_weights():
    a = torch.rand(2, 3, 4)
    torch.testing.assert_close(pooled(a.log(), 3.0), (a**3).sum(2) ** (1 / 3))
    assert torch.equal(pooled(a.log(), math.inf), a.log().amax(2).exp())


def test_a_vector_that_is_longer_by_rounding_is_left_alone():
    x = torch.tensor([[3.0, 4.0], [0.6, 0.8], [1 + 5e-7, 0.0]])
    factor = cut_factor(x, 1.0, tolerance=1e-6)
    assert factor[:, 0].tolist() == [pytest.approx(0.2), 1, 1] and cut_factor(x, 1.0)[2, 0] < 1
    torch.testing.assert_close(cut(x, 1.0), x * cut_factor(x, 1.0))
