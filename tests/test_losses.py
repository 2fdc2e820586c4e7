"""Losses over a sample of the catalogue against plain loops, GRU4Rec's code, and finite differences."""

import itertools
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from dissect.data.sessions import Sessions
from dissect.errors import UsageError
from dissect.runs.config import Config
from dissect.training.evaluation import prefixes_of
from dissect.training.loop import train_step
from dissect.training.losses import Shares, bpr_max, drawn, loss_over_sample, sampled_loss, shares_of, top1_max
from dissect.training.scoring import catalogue_loss
from dissect.training.setup import assemble
from models import MODELS, SRGNN, SessionModel
from models.base import catalogue

THEIRS = json.loads((Path(__file__).parent / "parity" / "gru4rec.json").read_text())
V = 23
SESSIONS = [[1, 2, 3, 2, 4], [5, 5], [6, 7, 8, 9, 6, 7], [10, 11, 10], [12, 13, 14], [18, 19, 20], [4, 2, 11, 5]]


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


def softmax(scores):
    total = sum(math.exp(r) for r in scores)
    return [math.exp(r) / total for r in scores]


def plain_bpr_max(target, negatives, bpreg):
    s = softmax(negatives)
    likelihood = sum(w * sigmoid(target - r) for w, r in zip(s, negatives, strict=True))
    return -math.log(likelihood) + bpreg * sum(w * r * r for w, r in zip(s, negatives, strict=True))


def plain_top1_max(target, negatives):
    s = softmax(negatives)
    return sum(w * (sigmoid(r - target) + sigmoid(r * r)) for w, r in zip(s, negatives, strict=True))


def scores_and_mask(seed=0, B=5, m=7):
    generator = torch.Generator().manual_seed(seed)
    others = 3 * torch.randn(B, m, dtype=torch.float64, generator=generator)
    target = torch.randn(B, dtype=torch.float64, generator=generator)
    return target, others, torch.rand(B, m, generator=generator) < 0.4


def test_bpr_max_and_top1_max_equal_plain_loops():
    target, others, left_out = scores_and_mask()
    left_out[3] = True  # no negative at all
    for mine, plain in (
        (bpr_max(target, others, left_out, 0.7), lambda t, n: plain_bpr_max(t, n, 0.7)),
        (top1_max(target, others, left_out), plain_top1_max),
    ):
        each = []
        for t, row, out in zip(target.tolist(), others.tolist(), left_out.tolist(), strict=True):
            negatives = [r for r, is_out in zip(row, out, strict=True) if not is_out]
            each.append(plain(t, negatives) if negatives else 0.0)
        assert float(mine) == pytest.approx(np.mean(each), rel=1e-12)


@pytest.mark.parametrize("loss", [lambda t, o, m: bpr_max(t, o, m, 0.7), top1_max], ids=["bpr-max", "top1-max"])
def test_their_gradients_are_those_of_finite_differences(loss):
    target, others, left_out = scores_and_mask()
    left_out[3] = True
    target.requires_grad_(), others.requires_grad_()
    assert torch.autograd.gradcheck(lambda t, o: loss(t, o, left_out), (target, others))
    loss(target, others, left_out).backward()
    assert not others.grad[left_out].any() and not target.grad[3].any()
    assert (others.grad[~left_out] != 0).all()


def test_scores_far_apart_stay_finite():
    target = torch.tensor([-200.0, 300.0], requires_grad=True)
    others = torch.tensor([[250.0, -90.0], [-300.0, 10.0]], requires_grad=True)
    none = torch.zeros(2, 2, dtype=torch.bool)
    loss = bpr_max(target, others, none, 0.0)
    assert loss.item() == pytest.approx((450 - math.log(2)) / 2)  # where the authors' 1e-24 stops at 55
    (loss + top1_max(target, others, none)).backward()
    assert torch.isfinite(target.grad).all() and torch.isfinite(others.grad).all()


@pytest.mark.parametrize("theirs", THEIRS["losses"], ids=lambda theirs: theirs["loss"])
def test_values_and_gradients_are_those_of_the_authors_code(theirs):
    """Rows of scores: the targets of the batch, own ones on the diagonal, then drawn items."""
    scores = torch.tensor(theirs["scores"], dtype=torch.float64, requires_grad=True)
    B, n = scores.shape[0], scores.shape[1] - scores.shape[0]
    if theirs["loss"] == "bpr-max":
        bent = F.elu(scores, theirs["elu"]) if theirs["elu"] else scores
        loss = bpr_max(bent.diagonal(), bent, F.pad(torch.eye(B, dtype=torch.bool), (0, n)), theirs["bpreg"])
    else:  # one example, the own weight of its target 1
        log_share = torch.tensor(theirs["log_share"], dtype=torch.float64)
        loss = sampled_loss(scores[:, 0], scores[:, 1:], torch.zeros(1, n, dtype=torch.bool), log_share)
    loss.backward()
    assert loss.item() == pytest.approx(theirs["value"], rel=1e-9)
    gradient = torch.tensor(theirs["gradient"], dtype=torch.float64)
    torch.testing.assert_close(scores.grad, gradient, rtol=1e-9, atol=1e-12)


def test_adagrad_is_the_authors_but_for_its_momentum():
    said, prefixes = THEIRS["adagrad"], prefixes_of(Sessions.from_lists([[1, 2]]))
    config = Config("x", "x", "", where="none", optimiser="adagrad", lr=said["lr"], l2=0.0)
    start = torch.tensor(said["start"], dtype=torch.float64)

    class Numbers(SessionModel):
        def __init__(self):
            super().__init__()
            self.numbers = nn.Parameter(start.clone())

        def item_states(self):
            return self.numbers[:, None]

    training = assemble(Numbers, config, prefixes, 1, "full")
    for gradient in said["gradients"]:
        training.model.numbers.grad = torch.tensor(gradient, dtype=torch.float64)
        training.optimiser.step()
    moved = torch.tensor(said["end"], dtype=torch.float64) - start
    torch.testing.assert_close(training.model.numbers.detach() - start, moved, rtol=2e-5, atol=0)


# --- the cross-entropy with drawn items -------------------------------------------------------------------


@pytest.mark.parametrize("uniform", [True, False])
def test_sampled_loss_equals_a_plain_loop(uniform):
    torch.manual_seed(0)
    scores, targets, sample = torch.randn(3, 6).double(), [0, 5, 2], [5, 1, 1, 2]
    q = np.full(6, 1 / 6) if uniform else np.array([1, 5, 2, 4, 3, 9]) / 24
    log_share = -math.log(6) if uniform else torch.tensor(np.log(q[sample]))
    is_target = torch.tensor(targets)[:, None] == torch.tensor(sample)
    mine = sampled_loss(scores[[0, 1, 2], targets], scores[:, sample], is_target, log_share)
    losses = []
    for row, target in zip(scores.exp().tolist(), targets, strict=True):
        others = [row[j] / (4 * q[j]) for j in sample if j != target]
        losses.append(math.log(row[target] + sum(others)) - math.log(row[target]))
    assert float(mine) == pytest.approx(np.mean(losses), abs=1e-12)


@pytest.mark.parametrize("alpha", [0.0, 0.75])
def test_the_sampled_normaliser_has_no_bias_and_the_loss_tends_to_the_exact_one(alpha):
    torch.manual_seed(0)
    vector, table = torch.randn(1, 4).double(), torch.randn(50, 4).double()
    exact, scores = float(catalogue_loss(vector, table, None, torch.tensor([7]))), (vector @ table.t())[0]
    shares = shares_of(torch.randint(1, 40, (300,)), 50, alpha) if alpha else None  # nobody clicked the last items

    def losses(n: int, draws: int) -> torch.Tensor:
        sample = drawn(draws * n, 50, shares, torch.device("cpu")).view(draws, n)
        log = torch.full((50,), -math.log(50)) if shares is None else shares.log

        def one(d: torch.Tensor) -> torch.Tensor:
            return sampled_loss(scores[[7]], scores[d][None], (d == 7)[None], log[d].double())

        return torch.vmap(one)(sample)

    few, many = losses(5, 20_000), losses(500, 400)
    normaliser = few.exp().mean()  # times exp(target): relative to it
    assert float(normaliser) == pytest.approx(math.exp(exact), rel=0.05)
    assert exact - 1 < float(few.mean()) < exact - 0.05  # Jensen
    assert abs(float(many.mean()) - exact) < 0.02


def test_items_are_drawn_by_a_power_of_their_clicks():
    items = torch.tensor([1] * 16 + [2] * 4 + [4])
    shares = shares_of(items, 4, 0.5)
    expected = torch.tensor([4.0, 2.0, 1.0, 1.0]) / 8  # item 3 has no click and counts as if it had one
    torch.testing.assert_close(shares.log.exp(), expected)
    torch.manual_seed(0)
    found = torch.bincount(drawn(80_000, 4, shares, torch.device("cpu")), minlength=4) / 80_000
    torch.testing.assert_close(found, expected, rtol=0, atol=0.01)
    assert set(drawn(1000, 4, Shares(shares.total, shares.log), torch.device("cpu")).tolist()) == {0, 1, 2, 3}


# --- with models ------------------------------------------------------------------------------------------

CASES = list(itertools.product(("gru4rec", "srgnn", "niser"), ("cross-entropy", "bpr-max", "top1-max"), (0.0, 0.5)))


@pytest.mark.parametrize(("name", "loss", "alpha"), CASES, ids=str)
def test_the_loss_of_a_step_is_by_hand_what_its_scores_say(name, loss, alpha):
    """Session by session and target by target: negatives are the targets of other examples, and what is drawn."""
    elu = 0.0 if loss == "cross-entropy" else 0.8
    settings = {"loss": loss, "negatives": 6, "sample_alpha": alpha, "elu": elu}
    config = Config(name, "x", "", {"dim": 8}, where="none", batch_size=7, max_steps=50, **settings)
    prefixes = prefixes_of(Sessions.from_lists(SESSIONS))
    options = {"dropout": 0.0} if name == "niser" else {}
    training = assemble(lambda: MODELS[name](n_items=V, dim=8, **options), config, prefixes, 1, "full")
    model = training.model
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.7)
    batch = prefixes.batch(prefixes.whole)
    with torch.no_grad():
        vectors, targets, owner = model.encode(model.items, batch), batch.targets.tolist(), list(range(len(batch)))
        if name == "gru4rec":
            vectors, targets, owner = (
                vectors[batch.items > 0],
                batch.targets_of_clicks.tolist(),
                batch.clicks.owner.tolist(),
            )
        matrix, bias = catalogue(model, model.items)
        scores = F.linear(vectors, matrix, bias).double()
    shares = None if alpha == 0 else shares_of(prefixes.items, V, alpha)
    torch.manual_seed(5)
    sample = drawn(6, V, shares, torch.device("cpu")).tolist()
    log_share = [-math.log(V)] * V if shares is None else shares.log.tolist()
    each = []
    for row, item, session in zip(scores.tolist(), targets, owner, strict=True):
        row = [r if r > 0 or not elu else elu * (math.exp(r) - 1) for r in row]
        own, in_sample = row[item - 1], [j for j in sample if j != item - 1]
        others = [t - 1 for t, of in zip(targets, owner, strict=True) if of != session and t != item]
        negatives = [row[j] for j in (*others, *in_sample)]
        if loss == "cross-entropy":
            total = math.exp(own) + sum(math.exp(row[j] - log_share[j]) / 6 for j in in_sample)
            each.append(math.log(total) - own)
        else:
            each.append(plain_bpr_max(own, negatives, 1.0) if loss == "bpr-max" else plain_top1_max(own, negatives))
    torch.manual_seed(5)
    value = train_step(training, batch, 0.0, torch.empty(0))[0]
    assert value == pytest.approx(np.mean(each), rel=1e-4)


@pytest.mark.parametrize("loss", ["bpr-max", "top1-max"])
@pytest.mark.parametrize("name", ["gru4rec", "srgnn"])
def test_training_with_it_ranks_the_targets_first(name, loss):
    prefixes = prefixes_of(Sessions.from_lists([[k, k + 1, k + 2] for k in range(1, 21)]))
    config = Config(name, "x", "", {"dim": 16}, where="none", loss=loss, lr=0.02, batch_size=40)
    training = assemble(lambda: MODELS[name](n_items=V, dim=16), config, prefixes, 1, "full")
    batch = prefixes.batch(prefixes.whole)
    for _ in range(120):
        train_step(training, batch, 0.0, torch.empty(0))
    ranks = (
        (training.model.eval().scores(batch).argsort(1, descending=True) + 1 == batch.targets[:, None]).int().argmax(1)
    )
    assert ranks.double().mean() < 0.5


def test_the_last_batch_of_one_example_adds_nothing():
    prefixes = prefixes_of(Sessions.from_lists(SESSIONS))
    config = Config("gru4rec", "x", "", {"dim": 8}, where="none", loss="bpr-max", batch_size=6)
    training = assemble(lambda: MODELS["gru4rec"](n_items=V, dim=8), config, prefixes, 1, "full")
    assert train_step(training, prefixes.batch(prefixes.whole[:1]), 0.0, torch.empty(0))[0] == 0.0
    assert all(torch.isfinite(parameter).all() for parameter in training.model.parameters())


class Biased(SRGNN):
    """A bias that is a parameter, without a word about it."""

    def __init__(self, n_items, dim):
        super().__init__(n_items, dim)
        self.by_item = nn.Parameter(torch.zeros(n_items))

    def candidates(self, S):
        return S, self.by_item


def test_a_bias_must_be_that_of_the_rows_or_be_declared_whole():
    model, config = Biased(V, 4), Config("x", "x", "", negatives=5)
    given = (torch.randn(2, 4), model.items, torch.tensor([3, 4]), config)
    with pytest.raises(UsageError, match="23 numbers for 7 rows"):
        loss_over_sample(model, *given)
    model.whole_bias = True
    loss_over_sample(model, *given).backward()
    assert (model.by_item.grad != 0).sum() <= 7 and model.by_item.grad[3] < 0


WRONG = [
    ({"loss": "bpr-max", "batch_size": 1}, "batch_size=1 and negatives=0 there are none"),
    ({"loss": "top1-max", "products": "bf16"}, "loss=top1-max needs products=float32"),
    ({"negatives": 5, "products": "bf16"}, "negatives=5 needs products=float32"),
    ({"sample_alpha": 0.5}, "negatives=0 draws none"),
    ({"elu": 1.0}, "elu=1 is for loss=bpr-max and loss=top1-max, not for cross-entropy"),
    ({"bpreg": 0.5, "loss": "top1-max"}, "bpreg=0.5 is for loss=bpr-max, not for top1-max"),
    ({"loss": "hinge"}, "loss must be one of cross-entropy, bpr-max, top1-max"),
]


@pytest.mark.parametrize(("settings", "says"), WRONG, ids=lambda each: str(each))
def test_settings_that_contradict_each_other_are_refused(settings, says):
    with pytest.raises(UsageError, match=says):
        Config("srgnn", "x", "", **settings)
    Config("srgnn", "x", "", loss="bpr-max", batch_size=1, negatives=3, sample_alpha=0.5, elu=1.0, bpreg=0.0)
