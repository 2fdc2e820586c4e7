"""The pass of shadows over a part of the catalogue: its estimate of the gradient, and when it is used."""

import math
from contextlib import nullcontext
from dataclasses import replace
from itertools import count

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from dissect.sparsevd import named_variational, noise
from dissect.sparsevd.layers import VariationalLayer
from dissect.training import loop
from dissect.training.evaluation import prefixes_of
from dissect.training.loop import train_step
from dissect.training.nearby import Near, part_of, surrogate_near
from dissect.training.setup import assemble
from models import MODELS, SRGNN
from tests.test_shadows import DATA, SMALL, Projected

B, V, D, N = 5, 60, 4, 12
PART = replace(SMALL, shadow_items=9)  # of 30 items


def case(step, norm=False):
    """(vectors, near, matrix, bias, targets, unit_of, exact gradient) with vectors `step` away from those of near."""
    torch.manual_seed(0)
    matrix, bias, targets = torch.randn(V, D).double(), torch.randn(V).double(), torch.tensor([7, 3, 7, 59, 0])
    unit_of = torch.randn(V, D).double() if norm else None
    rows = matrix if unit_of is None else matrix / unit_of.norm(dim=1, keepdim=True)
    at = torch.randn(B, D).double()
    away = at + step * torch.randn(B, D).double()

    def exact(vectors):
        vectors = vectors.clone().requires_grad_()
        F.cross_entropy(F.linear(vectors, rows, bias), targets).backward()
        return vectors.grad

    return away, Near(at, exact(at), lambda: None), matrix, bias, targets, unit_of, exact(away)


def estimate(vectors, near, matrix, bias, targets, n, unit_of):
    vectors = vectors.clone().requires_grad_()
    surrogate_near(vectors, near, matrix, bias, targets, n, unit_of).backward()
    return vectors.grad


@pytest.mark.parametrize("norm", [False, True])
def test_the_gradient_is_exact_with_all_items_and_where_it_is_known(norm):
    *about, unit_of, exact = case(1.0, norm)
    torch.testing.assert_close(estimate(*about, V, unit_of), exact)
    *about, unit_of, exact = case(0.0, norm)
    torch.testing.assert_close(estimate(*about, N, unit_of), exact)


def test_the_gradient_is_a_plain_sum_over_the_part():
    vectors, near, matrix, bias, targets, unit_of, _ = case(0.5, norm=True)
    torch.manual_seed(1)
    mine = estimate(vectors, near, matrix, bias, targets, N, unit_of)
    torch.manual_seed(1)
    drawn = {*torch.randperm(V)[:N].tolist(), *targets.tolist()}
    for b in range(B):
        right = near.gradient[b].clone()
        for sign, v in ((1, vectors[b]), (-1, near.vectors[b])):
            rows = {i: matrix[i] / unit_of[i].norm() for i in drawn}
            e = {i: math.exp(v @ row + bias[i]) * (1 if i in targets else V / N) for i, row in rows.items()}
            for i, row in rows.items():
                right += sign * e[i] / sum(e.values()) * row / B
        torch.testing.assert_close(mine[b], right)


def test_the_error_falls_with_the_distance_and_is_far_below_that_of_the_part_alone():
    errors, biases = {}, {}
    for step, n in ((0.4, N), (0.1, N), (0.1, 4 * N)):
        *about, unit_of, exact = case(step)
        found = torch.stack([estimate(*about, n, unit_of) for _ in range(800)])
        errors[step, n], biases[step, n] = (found - exact).std(), (found.mean(0) - exact).norm()
    vectors, _, matrix, bias, targets, _, exact = case(0.1)
    alone = []
    for _ in range(800):
        ids, log_weight = part_of(targets, V, N)
        v = vectors.clone().requires_grad_()
        F.cross_entropy(F.linear(v, matrix[ids], bias[ids] + log_weight), torch.searchsorted(ids, targets)).backward()
        alone.append(v.grad)
    assert 3 < errors[0.4, N] / errors[0.1, N] < 5.5  # in proportion
    assert (torch.stack(alone) - exact).std() > 5 * errors[0.1, N] > 0
    _, near, *_, exact = case(0.1)
    change = (exact - near.gradient).norm()
    # A quotient of two estimates is off on average, by a part of the change that falls with n.
    assert biases[0.1, N] > 2 * biases[0.1, 4 * N] and biases[0.1, 4 * N] < 0.2 * change


def test_a_sum_over_the_part_has_no_bias():
    torch.manual_seed(0)
    scores, targets, sums = torch.randn(3, 40).double(), torch.tensor([7, 3, 7]), []
    for _ in range(2_000):
        ids, log_weight = part_of(targets, 40, 10)
        assert {7, 3} <= set(ids.tolist()) and len(ids.unique()) == len(ids) <= 12
        sums.append((scores[:, ids] + log_weight).exp().sum(1))
    found = torch.stack(sums)
    error = found.std(0) / len(found) ** 0.5
    assert (abs(found.mean(0) - scores.exp().sum(1)) < 4 * error).all()
    assert (found.std(0) > 0.05 * found.mean(0)).all()  # so that the test can fail


@pytest.mark.parametrize("noise", ["lrt", "weight"])
@pytest.mark.parametrize(
    ("name", "options"),
    [
        *((name, {}) for name in ("srgnn", "attenmixer", "niser", "narm", "lessr", "sasrec")),  # four have dropout
        ("gru4rec", {"layers": 2, "hidden_dropout": 0.5}),
    ],
)
def test_both_passes_draw_the_same_noise_and_dropout(monkeypatch, name, options, noise):
    """With shadows and controls that add nothing the second pass meets the vectors of the first."""
    config = replace(PART, model=name, noise=noise)
    training = assemble(lambda: MODELS[name](30, dim=8, **options), config, prefixes_of(DATA.train), 1, "full")
    assert training.estimates
    silent, met = True, []

    def noted(vectors, near, *about):
        met.append((vectors.detach(), near.vectors))
        return surrogate_near(vectors, near, *about)

    monkeypatch.setattr(loop, "surrogate_near", noted)
    prefixes = prefixes_of(DATA.train)
    for silent in (True, False):
        with torch.no_grad():
            for _, theta, log_sigma2 in named_variational(training.controls):
                theta.fill_(0.0 if silent else 0.3)
                log_sigma2.fill_(-60.0)
        batch = prefixes.batch(prefixes.whole[:16] if training.model.every_position else torch.arange(16))
        train_step(training, batch, 0.0, torch.empty(30, 200))
        close = torch.isclose(*met.pop(), atol=1e-3, rtol=1e-3)  # the noise of no variance is 1e-4
        assert close.all() if silent else not close.all()


def after_three_steps(training, prefixes):
    """The parameters of the model, its shadows and its controls, and torch's random state."""
    torch.manual_seed(5)
    for step in range(3):
        index = prefixes.whole[:16] if training.model.every_position else torch.arange(16) + step
        train_step(training, prefixes.batch(index), 0.01, torch.empty(30, 200))
    return [*training.model.parameters(), *training.controls.parameters(), torch.get_rng_state()]


@pytest.mark.parametrize("name", ["srgnn", "attenmixer", "niser", "narm", "lessr", "sasrec"])
def test_noise_that_is_kept_is_what_would_be_drawn_again(monkeypatch, name):
    """Bit for bit, with dropout between the draws, and each number is drawn once."""
    prefixes, ends, drawn = prefixes_of(DATA.train), [], []
    randn = torch.randn

    def counted(*shape, **more):
        made = randn(*shape, **more)
        drawn[-1] += [shape] * (made.numel() > 0)
        return made

    monkeypatch.setattr(noise.torch, "randn", counted)
    for least in (1, 10**9):
        monkeypatch.setattr(noise, "LEAST", least)
        drawn.append([])
        training = assemble(lambda: MODELS[name](30, dim=8), replace(PART, model=name), prefixes, 1, "full")
        drawn[-1].clear()
        ends.append(after_three_steps(training, prefixes))
    assert all(torch.equal(a, b) for a, b in zip(*ends, strict=True))
    own = 3 * 1  # `rolled` draws noise of its own at each step
    assert 2 * (len(drawn[0]) - own) == len(drawn[1]) - own > 0


@pytest.mark.parametrize("name", ["srgnn", "gcsan", "narm", "attenmixer", "nextitnet"])
@pytest.mark.parametrize("config", [SMALL, PART, replace(SMALL, noise="weight")], ids=["all", "part", "weight"])
def test_products_that_are_kept_are_what_would_be_made_again(monkeypatch, name, config):
    """Bit for bit, of the model, its shadows and its controls; the first layers are not multiplied again."""
    prefixes, ends, made = prefixes_of(DATA.train), [], []
    moments = VariationalLayer._moments

    def counted(*about):
        made[-1] += 1
        return moments(*about)

    monkeypatch.setattr(VariationalLayer, "_moments", counted)
    for keeps in (True, False):
        if not keeps:
            monkeypatch.setattr(loop, "moments_kept", nullcontext)
        made.append(0)
        training = assemble(lambda: MODELS[name](30, dim=8), replace(config, model=name), prefixes, 1, "full")
        ends.append(after_three_steps(training, prefixes))
    assert all(torch.equal(a, b) for a, b in zip(*ends, strict=True))
    draws_weights, drops_items = config.noise == "weight", name == "attenmixer" and config is SMALL
    assert made[0] == made[1] if draws_weights or drops_items else made[0] < made[1]


def test_a_product_is_taken_for_the_same_inputs_and_rows_of_fixed_weights_only():
    theta, x, rows, values = nn.Parameter(torch.randn(3, 2)), torch.randn(5, 2), slice(0, 2), count(1)

    def product(x, rows=None):
        return noise.moments_once(theta, rows, x, lambda: (torch.tensor(next(values)), None))[0].item()

    assert [product(x), product(x)] == [1, 2]  # nothing is kept outside
    with noise.moments_kept():
        assert [product(x), product(x, rows)] == [3, 4]
        theta.requires_grad_(False)
        assert [product(x.clone()), product(x.clone(), slice(0, 2))] == [3, 4]
        assert [product(x + 1), product(x, slice(1, 2)), product(x.clone().requires_grad_())] == [5, 6, 7]
    assert product(x) == 8


class MadeCandidates(SRGNN):
    """A matrix makes the candidates, and nothing else."""

    def __init__(self):
        super().__init__(30, dim=8)
        self.made = nn.Linear(8, 8)

    def candidates(self, S):
        return self.made(S), None


@pytest.mark.parametrize(
    ("build", "config", "estimates"),
    [
        (lambda: SRGNN(30, dim=8), PART, True),
        (lambda: SRGNN(30, dim=8), SMALL, False),  # fewer items than are drawn
        (lambda: SRGNN(30, dim=8), replace(PART, shadow_items=0), False),
        (lambda: SRGNN(30, dim=8), replace(PART, shadow_items=14), True),
        (lambda: SRGNN(30, dim=8), replace(PART, shadow_items=15), False),  # nothing would be saved
        (lambda: SRGNN(30, dim=8), replace(PART, shadows=False), True),  # the controls learn from it, too
        (lambda: SRGNN(30, dim=8), replace(PART, negatives=5), False),
        (lambda: SRGNN(30, dim=8), PART.matched(), False),
        (Projected, PART, False),  # shadows change the table
        (MadeCandidates, PART, False),  # shadows change the candidates
    ],
)
def test_a_part_is_scored_where_only_the_vectors_change(monkeypatch, build, config, estimates):
    training = assemble(build, config, prefixes_of(DATA.train), 1, "full")
    assert training.estimates is estimates
    calls = []
    monkeypatch.setattr(loop, "surrogate_near", lambda *about: calls.append(1) or surrogate_near(*about))
    train_step(training, prefixes_of(DATA.train).batch(torch.arange(16)), 0.0, torch.empty(30, 16))
    assert bool(calls) is estimates
    if training.controls is not None and training.controls.shadows is not None:
        assert all(layer.weight.grad.abs().max() > 0 for layer in training.controls.shadows.children())


def test_a_part_of_a_batch_that_weighs_nothing_gives_no_gradient():
    training = assemble(lambda: SRGNN(30, dim=8), PART, prefixes_of(DATA.train), 1, "full")
    batch = prefixes_of(DATA.train).batch(torch.arange(16))
    train_step(training, batch, 0.0, torch.empty(30, 16), weight=0.0)
    grads = [p.grad for p in training.controls.parameters() if p.grad is not None]
    assert grads and not any(grad.any() for grad in grads)


def gradients(weight, build=lambda: SRGNN(30, dim=8)):
    training = assemble(build, PART, prefixes_of(DATA.train), 1, "full")
    torch.manual_seed(1)
    train_step(training, prefixes_of(DATA.train).batch(torch.arange(16)), 0.01, torch.empty(30, 16), weight=weight)
    return [p.grad for p in training.controls.parameters() if p.grad is not None]


def test_gradients_are_in_proportion_to_the_part_of_a_batch():
    for whole, quarter in zip(gradients(1.0), gradients(0.25), strict=True):
        torch.testing.assert_close(0.25 * whole, quarter, rtol=1e-3, atol=1e-8)


def test_vectors_without_a_gradient_are_allowed():
    class Fixed(SRGNN):
        def encode(self, S, batch):
            return super().encode(S, batch).detach()

    assert gradients(1.0, lambda: Fixed(30, dim=8))


def test_a_vector_that_is_no_number_stops_the_pass():
    vectors, near, matrix, bias, targets, *_ = case(0.5)
    vectors[1, 2] = torch.nan
    assert surrogate_near(vectors, near, matrix, bias, targets, N).isnan()


class DrawnTable(SRGNN):
    """Dropout in the item table."""

    def item_states(self):
        return F.dropout(self.items, 0.3, self.training)


def test_a_table_that_draws_numbers_is_drawn_again(monkeypatch):
    training, met = assemble(lambda: DrawnTable(30, dim=8), PART, prefixes_of(DATA.train), 1, "full"), []
    monkeypatch.setattr(
        loop, "surrogate_near", lambda v, near, *about: met.append((v, near)) or surrogate_near(v, near, *about)
    )
    with torch.no_grad():
        for _, theta, log_sigma2 in named_variational(training.controls):
            theta.fill_(0.0)
            log_sigma2.fill_(-60.0)
    train_step(training, prefixes_of(DATA.train).batch(torch.arange(16)), 0.0, torch.empty(30, 16))
    ((vectors, near),) = met
    torch.testing.assert_close(vectors, near.vectors, atol=1e-3, rtol=1e-3)


def test_controls_draw_nothing_that_the_model_draws_in_the_next_step(monkeypatch):
    training, drawn, randn = (
        assemble(lambda: SRGNN(30, dim=8), PART, prefixes_of(DATA.train), 1, "full"),
        [],
        torch.randn,
    )
    monkeypatch.setattr(torch, "randn", lambda *size, **how: drawn.append(randn(*size, **how)) or drawn[-1])
    ends = []
    for _ in range(2):
        train_step(training, prefixes_of(DATA.train).batch(torch.arange(16)), 0.0, torch.empty(30, 16))
        training.state.step += 1
        ends.append(len(drawn))
    of_rolled, first_of_next = drawn[ends[0] - 1].flatten(), drawn[ends[0]].flatten()
    n = min(len(of_rolled), len(first_of_next), 64)
    assert n > 30 and not torch.isclose(of_rolled[:n], first_of_next[:n]).any()
