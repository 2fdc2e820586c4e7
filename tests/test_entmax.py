"""alpha-entmax against what it must be: closed forms at both ends of alpha, its optimality, an optimiser, gradcheck."""

import numpy as np
import pytest
import torch
from scipy.optimize import brentq, minimize

from models.entmax import entmax
from models.rows import Rows

SIZES = [1, 2, 3, 5, 9, 40]
ALPHAS = [1.00001, 1.05, 1.3, 1.5, 1.77, 1.95, 2.0]


def rows_of(sizes):
    return Rows(torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes)), len(sizes))


def logits(sizes, seed=0, spread=2.0, dtype=torch.float64):
    return spread * torch.randn(sum(sizes), generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(
        dtype
    )


def weights(z, alpha, sizes):
    alphas = torch.full((len(sizes),), alpha, dtype=z.dtype)
    return entmax(z, alphas, rows_of(sizes))


def sparsemax(z):
    """Martins and Astudillo (2016): the projection onto the simplex, by sorting."""
    z = np.sort(z)[::-1]
    sums = z.cumsum()
    size = np.arange(1, len(z) + 1)
    k = size[1 + size * z > sums][-1]
    return (sums[k - 1] - 1) / k


def test_at_alpha_two_it_is_the_projection_onto_the_simplex():
    z = logits(SIZES)
    for mine, its in zip(weights(z, 2.0, SIZES).split(SIZES), z.split(SIZES), strict=True):
        np.testing.assert_allclose(mine, np.maximum(its.numpy() - sparsemax(its.numpy()), 0), rtol=0, atol=1e-14)
    assert (weights(z, 2.0, SIZES) == 0).sum() > 20


def test_as_alpha_tends_to_one_it_is_softmax():
    z, rows = logits(SIZES), rows_of(SIZES)
    softmax = rows.softmax(z[:, None])[:, 0]
    torch.testing.assert_close(weights(z, 1 + 1e-9, SIZES), softmax, rtol=0, atol=1e-7)
    apart = [(weights(z, 1 + a, SIZES) - softmax).abs().max() for a in (1e-2, 1e-3, 1e-4)]
    assert apart[0] > 9 * apart[1] > 81 * apart[2]


@pytest.mark.parametrize("alpha", ALPHAS)
@pytest.mark.parametrize("spread", [0.01, 0.05, 0.3, 1.0, 10.0, "falling"])
def test_the_steps_are_enough_for_many_rows_and_any_spread(spread, alpha):
    sizes = [69, 300] * 20
    if spread == "falling":  # each z half as far from 0 as the one before
        z = torch.cat([-(2.0 ** -torch.arange(n, dtype=torch.float64)) * k for k, n in enumerate(sizes)])
    else:
        z = logits(sizes, seed=2, spread=spread)
    p = weights(z, alpha, sizes)
    torch.testing.assert_close(rows_of(sizes).sum(p), torch.ones(40, dtype=torch.float64), rtol=0, atol=1e-10)


@pytest.mark.parametrize("alpha", ALPHAS)
def test_it_has_the_root_that_another_solver_finds(alpha):
    """p = [(alpha - 1) z - tau]_+^(1 / (alpha - 1)), as Peters et al. write it."""
    z = logits(SIZES, seed=1)
    for mine, its in zip(weights(z, alpha, SIZES).split(SIZES), z.split(SIZES), strict=True):
        x = (alpha - 1) * its.numpy()

        def p(tau, x=x):
            return np.maximum(x - tau, 0) ** (1 / (alpha - 1))

        tau = brentq(lambda tau: p(tau).sum() - 1, x.max() - 1 - 1e-6, x.max(), xtol=1e-16, rtol=1e-15)
        np.testing.assert_allclose(mine, p(tau), rtol=0, atol=1e-10 if alpha < 1.01 else 1e-14)


@pytest.mark.parametrize("alpha", [1.2, 1.5, 1.8, 2.0])
def test_it_maximises_what_defines_it(alpha):
    """The largest p . z + H_alpha(p) on the simplex, H the Tsallis entropy: an optimiser finds nothing better."""
    z = logits([6], seed=3, spread=1.0).numpy()

    def loss(p):
        return -(p @ z + (1 - np.power(np.maximum(p, 0), alpha).sum()) / (alpha * (alpha - 1)))

    on_simplex = {"type": "eq", "fun": lambda p: p.sum() - 1}
    found = minimize(loss, np.full(6, 1 / 6), bounds=[(0, 1)] * 6, constraints=on_simplex, tol=1e-14)
    mine = weights(torch.tensor(z), alpha, [6]).numpy()
    assert found.success and loss(mine) <= found.fun + 1e-12
    np.testing.assert_allclose(mine, found.x, rtol=0, atol=1e-5)


@pytest.mark.parametrize("seed", range(4))
def test_gradients_by_logits_and_by_alpha_are_exact(seed):
    sizes = [4, 1, 6, 9]
    z = logits(sizes, seed).requires_grad_()
    alpha = torch.tensor([1.1, 1.5, 1.5, 1.85], dtype=torch.float64, requires_grad=True)
    p = entmax(z, alpha, rows_of(sizes))
    assert (p == 0).any() and (p > 0).sum() > 6
    assert torch.autograd.gradcheck(lambda z, alpha: entmax(z, alpha, rows_of(sizes)), (z, alpha))
    assert torch.autograd.grad((p * z.detach()).sum(), alpha)[0][1] == 0  # a single row has weight 1 at any alpha


@pytest.mark.parametrize("alpha", ALPHAS)
def test_the_gradient_is_the_one_in_closed_form(alpha):
    """dp/dz = diag(s) - s s' / sum(s) with s = p^(2 - alpha) where p > 0 (Peters et al., proposition 2)."""
    sizes = [12]
    z = logits(sizes, seed=5, spread=1.0)
    mine = torch.autograd.functional.jacobian(lambda z: weights(z, alpha, sizes), z)
    p = weights(z, alpha, sizes)
    s = torch.where(p > 0, p ** (2 - alpha), 0)
    torch.testing.assert_close(mine, s.diag() - s[:, None] * s / s.sum(), rtol=0, atol=1e-10)


@pytest.mark.parametrize("alpha", ALPHAS)
def test_single_precision_is_close_to_double_also_near_softmax(alpha):
    z = logits(SIZES, seed=2, dtype=torch.float32)
    some = weights(z, alpha, SIZES)
    torch.testing.assert_close(some.double(), weights(z.double(), alpha, SIZES), rtol=1e-5, atol=3e-7)
    torch.testing.assert_close(rows_of(SIZES).sum(some), torch.ones(len(SIZES)))


def test_owners_have_alphas_of_their_own_and_rows_in_any_order():
    sizes = [3, 4]
    z, alpha = logits(sizes, seed=4), torch.tensor([1.3, 1.9], dtype=torch.float64)
    p, order = entmax(z, alpha, rows_of(sizes)), torch.tensor([3, 0, 6, 1, 4, 2, 5])
    torch.testing.assert_close(p[:3], weights(z[:3], 1.3, [3]), rtol=0, atol=1e-15)
    torch.testing.assert_close(p[3:], weights(z[3:], 1.9, [4]), rtol=0, atol=1e-15)
    shuffled = Rows(rows_of(sizes).owner[order], 2)
    torch.testing.assert_close(entmax(z[order], alpha, shuffled), p[order], rtol=0, atol=1e-15)


@pytest.mark.parametrize("place", ["logit", "alpha"])
def test_what_is_no_number_makes_the_weights_of_its_owner_none(place):
    """An export asks which numbers are read by putting NaN in their place."""
    z, alpha = logits([3, 4], seed=4), torch.tensor([1.3, 1.9], dtype=torch.float64)
    {"logit": z, "alpha": alpha}[place][1] = torch.nan
    p = entmax(z, alpha, rows_of([3, 4]))
    own = slice(0, 3) if place == "logit" else slice(3, 7)
    assert p[own].isnan().all() and p.isnan().sum() == len(p[own])


def test_far_logits_and_equal_ones():
    z = torch.tensor([1e4, -1e4, 0.0, 7.0, 7.0, 7.0, 7.0], requires_grad=True)
    p = entmax(z, torch.tensor([1.00001, 1.6]), rows_of([3, 4]))
    torch.testing.assert_close(p.detach(), torch.tensor([1, 0, 0, 0.25, 0.25, 0.25, 0.25]))
    p.square().sum().backward()
    assert torch.isfinite(z.grad).all()
