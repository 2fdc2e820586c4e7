"""The training step, with all its short cuts, against the plain one that they stand for: same seed, same numbers."""

import copy

import pytest
import torch
import torch.nn.functional as F

from dissect.data.sessions import Sessions
from dissect.runs.config import Config
from dissect.sparsevd import named_variational, penalty
from dissect.sparsevd.kl import kl_per_weight
from dissect.training.controls import seeded_controls
from dissect.training.evaluation import prefixes_of
from dissect.training.loop import ExampleOrder, next_item_loss, rows_apart, train_step
from dissect.training.nearby import part_of
from dissect.training.scoring import score_buffer
from dissect.training.setup import assemble
from models import MODELS
from models.base import Matrix, encoded, lookup

V, B = 23, 6
SESSIONS = [
    [1, 2, 3, 2, 4],
    [5, 5],
    [6, 7, 8, 9, 6, 7],
    [10, 11, 10],
    [12, 13, 14, 15, 16, 17],
    [18, 19, 20],
    [21, 22, 23],
]


class Mapped(MODELS["srgnn"]):
    """Candidates by a layer, with a constant: their length is not that of S's rows. And a bias that reads S."""

    def __init__(self, n_items, dim):
        super().__init__(n_items, dim, normalised=True, dropout=0.0)
        self.map = torch.nn.Linear(dim, dim)
        self.matrices = {**type(self).matrices, "map": Matrix("transformation", "readout")}

    def candidates(self, S):
        return self.map(S), S.sum(1)


class AsideVectors(MODELS["niser"]):
    """An auxiliary loss reads the session vectors, as a contrast between sessions does."""

    def encode(self, S, batch):
        vectors = super().encode(S, batch)
        return vectors, {"large": 3 * vectors.square().mean()}


class UnitRows(MODELS["srgnn"]):
    """It looks up in a table that is made from S."""

    def encode(self, S, batch):
        return super().encode(F.normalize(S, dim=1), batch)


class TwoTables(MODELS["srgnn"]):
    """It looks up in a table of its own too."""

    def __init__(self, n_items, dim):
        super().__init__(n_items, dim)
        self.context = torch.nn.Parameter(0.3 * torch.randn(n_items, dim))

    def encode(self, S, batch):
        return super().encode(S, batch) + batch.clicks.mean(lookup(self.context, batch.clicks.items))


BUILD = {
    **{name: cls for name, cls in MODELS.items() if cls.learns},
    "mapped": Mapped,
    "unit rows": UnitRows,
    "aside": AsideVectors,
    "two tables": TwoTables,
}
VARIANTS = [(name, {}) for name in BUILD] + [
    ("srgnn", {"normalised": True}),
    ("srgnn", {"readout": "attenmixer", "heads": 2}),
    ("attenmixer", {"heads": 2, "candidate_dropout": 0.2}),
    ("nextitnet", {"tied": True}),
]


def plain_loss(training, batch, controls=None, near=None):
    """(loss, session vectors, gradient of the cross-entropy by them): autograd throughout, torch's cross-entropy.

    With `near`, vectors and the gradient there, the gradient is that one and the change of an estimate.
    """
    model = training.model
    S = model.item_states()
    (vectors, losses), targets = encoded(model, S, batch), batch.targets
    if model.every_position:
        vectors = torch.cat([row[:n] for row, n in zip(vectors, batch.lengths.tolist())])
        targets = batch.targets_of_clicks
    if near is not None:
        matrix, bias = model.candidates(S)
        torch.manual_seed(1_000_003 + 1_009 * training.seed)
    if controls is not None:
        vectors = controls(vectors, rows_apart(batch, training.config, model.every_position))
    if near is None:
        matrix, bias = model.candidates(S)
    if model.unit_candidates:
        rows = matrix if model.unit_candidates == "returned" else S
        matrix = matrix / rows.norm(dim=1, keepdim=True)
    if near is None:
        ce = F.cross_entropy(F.linear(vectors, matrix, bias), targets - 1)
        (by_vectors,) = torch.autograd.grad(ce, vectors, retain_graph=True)
        return ce + sum(losses.values()), vectors.detach(), by_vectors
    ids, log_weight = part_of(targets - 1, V, training.config.shadow_items)
    shift = (log_weight + (0 if bias is None else bias[ids])).detach()
    places, at = torch.searchsorted(ids, targets - 1), near[0].clone().requires_grad_()
    there, here = (F.cross_entropy(x @ matrix[ids].detach().t() + shift, places) for x in (at, vectors))
    (by_part,) = torch.autograd.grad(there, at)
    return here + (vectors * (near[1] - by_part)).sum() + sum(losses.values()), vectors, None


def plain_step(training, batch, beta):
    """The same update without a word about speed. The controls read a copy of the model."""
    state, twin = torch.get_rng_state(), copy.deepcopy(training)
    loss, *near = plain_loss(training, batch)
    for part in filter(None, (training.model, training.controls)):
        for _, theta, log_sigma2 in named_variational(part):
            loss = loss + beta * kl_per_weight(theta, log_sigma2).sum()
    training.optimiser.zero_grad()
    loss.backward()
    if training.controls is not None:
        torch.manual_seed(1_000_003 + 1_009 * training.seed)
        if training.config.shadow_items:
            torch.set_rng_state(state)
        plain_loss(twin, batch, training.controls, near if training.config.shadow_items else None)[0].backward()
    training.optimiser.step()


def make(name, options, where, shadow_items=0):
    prefixes = prefixes_of(Sessions.from_lists(SESSIONS))
    how = {"where": where, "batch_size": B, "max_steps": 50, "shadow_items": shadow_items}
    config = Config(name, "x", "", {"dim": 8}, **how)
    return prefixes, assemble(lambda: BUILD[name](n_items=V, dim=8, **options), config, prefixes, 1, "full")


@pytest.mark.parametrize(("where", "shadow_items"), [("none", 0), ("both", 0), ("both", 7)])
@pytest.mark.parametrize("width", [V, 5])  # of the score buffer: scores kept, and made twice
@pytest.mark.parametrize(("name", "options"), VARIANTS, ids=str)
def test_the_step_equals_the_plain_step(name, options, where, shadow_items, width):
    prefixes, training = make(name, options, where, shadow_items if name != "mapped" else 0)
    twin = make(name, options, where, shadow_items if name != "mapped" else 0)[1]
    for number in range(4):
        batch = prefixes.batch(torch.arange(len(prefixes))[number * 3 : number * 3 + B])
        torch.manual_seed(number)
        train_step(training, batch, 0.01, torch.empty(width, B))
        torch.manual_seed(number)
        plain_step(twin, batch, 0.01)
    for part in ("model", "controls"):
        mine, theirs = getattr(training, part), getattr(twin, part)
        if mine is not None:
            for (key, a), b in zip(mine.named_parameters(), theirs.parameters()):
                # Adam turns the rounding of a gradient that is almost zero, as entmax gives, into a part of its step.
                atol = 5e-4 if name == "dsan" else 2e-5
                torch.testing.assert_close(a, b, atol=atol, rtol=1e-4, msg=lambda text, key=key: f"{key}: {text}")


def test_shares_of_a_batch_add_up_to_the_whole():
    """What several processes do, one after the other: the sum of the weighted gradients is that of the batch."""
    prefixes, training = make("srgnn", {}, "none")
    index, model = torch.arange(7), training.model

    def gradients(index, weight):
        model.zero_grad()
        batch, S = prefixes.batch(index), model.item_states()
        vectors = model.encode(S, batch)
        loss = next_item_loss(model, vectors, S, batch.targets - 1, training.config, score_buffer(7, V, "cpu"))
        (loss * weight).backward()
        return [copy.copy(p.grad.to_dense() if p.grad.is_sparse else p.grad) for p in model.parameters()]

    whole = gradients(index, 1.0)
    parts = [gradients(index[k::2], len(index[k::2]) / 7) for k in (0, 1)]
    for a, b, c in zip(whole, *parts):
        torch.testing.assert_close(a, b + c)


def test_sampled_steps_learn():
    prefixes, training = make("srgnn", {}, "none")
    training = assemble(
        lambda: MODELS["srgnn"](n_items=V, dim=8),
        Config("srgnn", "x", "", {"dim": 8}, where="none", negatives=5, lr=0.05),
        prefixes,
        1,
        "full",
    )
    batch = prefixes.batch(torch.arange(6))
    exact = []
    for _ in range(60):
        S = training.model.item_states()
        scores = training.model.encode(S, batch) @ S.t()
        exact.append(F.cross_entropy(scores, batch.targets - 1).item())
        train_step(training, batch, 0.0, torch.empty(0))
    assert exact[-1] < 0.3 * exact[0]


def test_the_kl_of_a_model_is_that_of_its_weights():
    _, training = make("srgnn", {}, "both")
    by_hand = sum(
        kl_per_weight(theta, log_sigma2).sum().item() for _, theta, log_sigma2 in named_variational(training.model)
    )
    assert penalty(training.model).item() == pytest.approx(by_hand, rel=1e-5)


@pytest.mark.parametrize("prior", ["normal", "ard"])
def test_the_kl_of_a_step_is_from_the_prior_that_was_chosen(prior):
    prefixes, config = prefixes_of(Sessions.from_lists(SESSIONS)), Config("srgnn", "x", "", batch_size=B, prior=prior)
    training = assemble(lambda: MODELS["srgnn"](n_items=V, dim=8), config, prefixes, 1, "full")
    own, beside = (
        sum(kl_per_weight(theta, log_sigma2, prior).sum().item() for _, theta, log_sigma2 in named_variational(part))
        for part in (training.model, training.controls)
    )
    ce, kl, loss = train_step(training, prefixes.batch(torch.arange(B)), 0.01, torch.empty(V, B))
    assert kl == pytest.approx(own, rel=1e-5) and loss == pytest.approx(ce + 0.01 * (own + beside))


def test_with_weight_noise_a_step_has_one_draw():
    """A layer that is called twice in a step multiplies by the same weights."""
    alike = []

    class Twice(MODELS["srgnn"]):
        def encode(self, S, batch):
            x = torch.ones(1, 16)
            alike.append(torch.equal(self.readout.transform(x), self.readout.transform(x)))
            return super().encode(S, batch)

    prefixes, config = prefixes_of(Sessions.from_lists(SESSIONS)), Config("srgnn", "x", "", noise="weight")
    training = assemble(lambda: Twice(n_items=V, dim=8), config, prefixes, 1, "full")
    for _ in range(2):
        train_step(training, prefixes.batch(torch.arange(B)), 0.01, torch.empty(V, B))
    assert all(alike) and len(alike) >= 2


@pytest.mark.parametrize("order", ["shuffled", "chronological"])
@pytest.mark.parametrize("every_position", [False, True])
def test_the_rolled_control_reads_another_session(order, every_position):
    """Vectors of one session stand side by side: those of its clicks, and in time order those of its prefixes."""
    prefixes = prefixes_of(Sessions.from_lists([[1, 2, 3, 4, 5], [6, 7, 8, 9, 1]]))
    config = Config("x", "", "", order=order, batch_size=len(prefixes))
    index = ExampleOrder(prefixes, config, 1, every_position).batch(0)
    batch = prefixes.batch(index)
    owner = batch.clicks.owner if every_position else torch.arange(2).repeat_interleave(4)[index]
    shift = rows_apart(batch, config, every_position)
    if every_position or order == "chronological":
        assert not (owner == owner.roll(shift)).any()
    else:
        assert shift == 1  # neighbours of a shuffled batch are of other sessions as it is


def test_the_rolled_control_gets_nothing_from_its_own_session():
    """With one long session among short ones no distance leads all rows to another session."""
    controls, vectors = seeded_controls(1, 4).eval(), torch.randn(6, 4)  # without noise
    owner = torch.tensor([0, 0, 0, 0, 0, 1])
    added = controls(vectors, 4, owner) - vectors
    is_own = owner == owner.roll(4)
    assert is_own.any() and not added[is_own].any() and added[~is_own].all()
    torch.testing.assert_close(added[~is_own], (controls(vectors, 4) - vectors)[~is_own])
