"""Candidates of unit length: training, evaluation, recommendation and sampled softmax read the same scores."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from dissect.data.sessions import Sessions
from dissect.runs.config import Config
from dissect.training.evaluation import evaluate, prefixes_of
from dissect.training.loop import next_item_loss
from dissect.training.losses import sampled_loss
from dissect.training.recommend import scores_after
from models import MODELS, Batch

V = 23
SESSIONS = [[1, 2, 3, 2, 4], [5, 5], [6, 7, 8, 9, 6, 7], [10, 11, 10], [18, 19, 20], [21, 22, 23]]
CASES = [
    ("attenmixer", {"heads": 2}),
    ("srgnn", {"normalised": True}),
    ("attenmixer", {"candidate_dropout": 0.5}),
    ("core", {}),
]


@pytest.fixture(params=CASES, ids=str)
def model(request):
    """A model whose rows have lengths from a third to three, so that a length that is left in changes every rank."""
    name, options = request.param
    torch.manual_seed(0)
    made = MODELS[name](n_items=V, dim=8, **options).eval()
    with torch.no_grad():
        made.items *= torch.logspace(-0.5, 0.5, V)[torch.randperm(V), None]
    return made


def scores_by_hand(model, batch):
    rows = model.items.detach().numpy()
    unit = rows / np.sqrt((rows * rows).sum(1, keepdims=True))
    return model.encode(model.item_states(), batch).detach().numpy() @ unit.T  # [B, V]


def test_ranks_and_recommendations_are_by_unit_rows(model):
    prefixes = prefixes_of(Sessions.from_lists(SESSIONS))
    batch = prefixes.batch(torch.arange(len(prefixes)))
    scores = scores_by_hand(model, batch)
    own = scores[np.arange(len(batch)), batch.targets.numpy() - 1]
    assert evaluate(model, prefixes).tolist() == (1 + (scores > own[:, None]).sum(1)).tolist()
    session = SESSIONS[2]
    by_hand = scores_by_hand(model, Batch.of([session]))[0]
    np.testing.assert_allclose(
        scores_after(model, [session], torch.device("cpu"))[0].numpy(), by_hand, rtol=1e-5, atol=1e-6
    )


def test_the_sampled_loss_is_by_unit_rows(model):
    S, targets, config = model.items, torch.tensor([0, 4, 22]), Config("x", "", "", negatives=7)
    vectors = torch.randn(3, 8, generator=torch.Generator().manual_seed(1)) * 5
    torch.manual_seed(2)
    mine = next_item_loss(model, vectors, S, targets, config, torch.empty(0))
    torch.manual_seed(2)
    drawn = torch.randint(V, (7,))
    unit = F.normalize(S)
    scores, is_target = vectors @ unit.t(), targets[:, None] == drawn
    own = scores.gather(1, targets[:, None])[:, 0]
    torch.testing.assert_close(mine, sampled_loss(own, scores[:, drawn], is_target, -math.log(V)))
