"""The KL against the published table, the Dawson function, numerical integration and its plain twin."""

import math

import pytest
import torch
from scipy import integrate
from scipy.special import dawsn
from torch import Tensor

from dissect.errors import UsageError
from dissect.sparsevd import PRIORS, kept, kept_count, kl, kl_divergence, log_alpha
from dissect.sparsevd.kl import EPS, kl_ard, kl_log_uniform, kl_normal, kl_per_weight, sum_of_kl

# log alpha, KL exact, KL approximated, dKL / d log alpha exact, approximated (computed apart from this code)
TABLE = [
    (-10, 5.635159, 5.635781, -0.50002, -0.49998),
    (-8, 4.635014, 4.635899, -0.50017, -0.49987),
    (-6, 3.633937, 3.636446, -0.50125, -0.49958),
    (-4, 2.625755, 2.634208, -0.50971, -0.50654),
    (-3, 2.107978, 2.115590, -0.53021, -0.53778),
    (-2, 1.544155, 1.540533, -0.61123, -0.61747),
    (-1, 0.914531, 0.913872, -0.59970, -0.59327),
    (0, 0.426686, 0.431239, -0.36239, -0.35913),
    (1, 0.173194, 0.177970, -0.16296, -0.16514),
    (2, 0.066168, 0.068417, -0.06470, -0.06691),
    (3, 0.024688, 0.025420, -0.02448, -0.02538),
    (5, 0.003365, 0.003415, -0.00336, -0.00343),
    (8, 0.000168, 0.000168, -0.000168, -0.000169),
]
THETA = torch.tensor([0.1, -0.2, 0.3], dtype=torch.float64)
LOG_SIGMA2 = torch.tensor([-2.0, -3.0, -4.0], dtype=torch.float64)


def at(a: float, theta: float = 0.3, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    """theta and log_sigma2 with gradients, such that log alpha is a."""
    t = torch.tensor([theta], dtype=dtype, requires_grad=True)
    s = (a + torch.log(t.detach().double() ** 2 + EPS)).to(dtype).requires_grad_()
    return t, s


def plain_sum(theta: Tensor, log_sigma2: Tensor) -> Tensor:
    """The twin: equation 14 as it is printed, with its sign turned, and autograd."""
    a = log_sigma2 - (theta**2 + 1e-16).log()
    minus_kl = 0.63576 * torch.sigmoid(1.87320 + 1.48695 * a) - 0.5 * torch.log1p((-a).exp()) - 0.63576
    return -minus_kl.sum()


def exact_slope(a: float) -> float:
    """dKL / da = -x D(x), D the Dawson function, x = |theta| / (sqrt 2 sigma) = exp(-a / 2) / sqrt 2."""
    x = math.exp(-a / 2) / math.sqrt(2)
    return -x * float(dawsn(x))


def exact_kl(a: float) -> float:
    return -float(integrate.quad(exact_slope, a, 60, limit=200)[0])


@pytest.mark.parametrize(("a", "exact", "approximate", "slope_exact", "slope"), TABLE)
def test_table(a: float, exact: float, approximate: float, slope_exact: float, slope: float) -> None:
    theta, log_sigma2 = at(a)
    kl = kl_divergence(theta, log_sigma2)
    kl.backward()
    assert kl.item() == pytest.approx(approximate, abs=1e-6)
    assert kl.item() == pytest.approx(exact, abs=0.0095)
    assert log_sigma2.grad.item() == pytest.approx(slope, abs=1e-5)
    assert log_sigma2.grad.item() == pytest.approx(slope_exact, abs=0.0138)
    single = kl_divergence(*at(a, dtype=torch.float32))
    assert single.dtype == torch.float32 and single.item() == pytest.approx(approximate, abs=3e-6)


def test_the_table_is_the_integral_of_the_dawson_function() -> None:
    for a, exact, _, slope_exact, _ in TABLE:
        assert exact_slope(a) == pytest.approx(slope_exact, abs=6e-6)
        assert exact_kl(a) == pytest.approx(exact, abs=1e-6)


def test_approximation_stays_within_its_errors() -> None:
    worst_value = worst_slope = 0.0
    for a in torch.arange(-10, 10.01, 0.25).tolist():
        theta, log_sigma2 = at(a)
        kl = kl_divergence(theta, log_sigma2)
        kl.backward()
        worst_value = max(worst_value, abs(kl.item() - exact_kl(a)))
        worst_slope = max(worst_slope, abs(log_sigma2.grad.item() - exact_slope(a)))
        x = math.exp(-a / 2) / math.sqrt(2)
        by_theta = math.sqrt(2) * dawsn(x) / math.exp(0.5 * log_sigma2.item())  # exact, for theta > 0
        assert theta.grad.item() == pytest.approx(by_theta, abs=2 * 0.0138 / theta.item())
    assert 0.009 < worst_value < 0.0095
    assert 0.013 < worst_slope < 0.0138


def test_fixture_in_double_precision() -> None:
    assert log_alpha(THETA, LOG_SIGMA2).tolist() == pytest.approx([2.605170, 0.218876, -1.592054], abs=1e-6)
    per_weight = kl_per_weight(THETA, LOG_SIGMA2)
    assert per_weight.tolist() == pytest.approx([0.037667, 0.358337, 1.283501], abs=1e-6)
    assert kl_divergence(THETA, LOG_SIGMA2).item() == pytest.approx(1.679505, abs=1e-6)
    normal = kl_per_weight(THETA, LOG_SIGMA2, "normal")
    assert normal.tolist() == pytest.approx([0.572668, 1.044894, 1.554158], abs=1e-6)
    for prior in PRIORS:
        assert kl_divergence(THETA, LOG_SIGMA2, prior).dtype == torch.float64
        assert kl_divergence(THETA.float(), LOG_SIGMA2.float(), prior).dtype == torch.float32


def test_normal_prior_is_pytorchs_own_divergence() -> None:
    posterior = torch.distributions.Normal(THETA, (0.5 * LOG_SIGMA2).exp())
    expected = torch.distributions.kl_divergence(posterior, torch.distributions.Normal(0.0, 1.0))
    assert torch.allclose(kl_normal(THETA, LOG_SIGMA2), expected, atol=1e-7)


def test_ard_prior_is_the_best_normal_prior() -> None:
    """0.5 log(1 + 1 / alpha) is the least KL from N(0, s^2) over s, at s^2 = sigma^2 + theta^2."""
    prior = torch.distributions.Normal(torch.zeros(3).double(), (LOG_SIGMA2.exp() + THETA**2).sqrt())
    posterior = torch.distributions.Normal(THETA, (0.5 * LOG_SIGMA2).exp())
    expected = torch.distributions.kl_divergence(posterior, prior)
    assert torch.allclose(kl_ard(log_alpha(THETA, LOG_SIGMA2)), expected, atol=1e-9)


@pytest.mark.parametrize("prior", PRIORS)
def test_gradcheck(prior: str) -> None:
    torch.manual_seed(0)
    theta = torch.randn(4, 5, dtype=torch.float64, requires_grad=True)
    log_sigma2 = (torch.randn(4, 5, dtype=torch.float64) * 3).requires_grad_()
    assert torch.autograd.gradcheck(lambda t, s: kl_divergence(t, s, prior), (theta, log_sigma2))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_closed_gradient_is_that_of_the_plain_formula(dtype: torch.dtype) -> None:
    torch.manual_seed(1)
    theta = torch.randn(64, 48, dtype=dtype) * 0.1
    log_sigma2 = torch.randn(64, 48, dtype=dtype) * 4 - 5
    theta[0, :5] = 0
    results = []
    for function, precision in ((kl_divergence, dtype), (plain_sum, torch.float64)):
        t, s = (x.detach().to(precision, copy=True).requires_grad_() for x in (theta, log_sigma2))
        value = function(t, s)
        (3.0 * value).backward()  # a factor, so that the gradient that comes in matters
        results.append((value.detach(), t.grad, s.grad))
    for ours, plain in zip(*results):
        torch.testing.assert_close(ours.double(), plain, rtol=1e-5 if dtype == torch.float32 else 1e-9, atol=1e-10)


def test_gradient_of_one_input_alone() -> None:
    theta, log_sigma2 = at(0.5)
    for inputs, wanted in (((theta, log_sigma2.detach()), theta), ((theta.detach(), log_sigma2), log_sigma2)):
        expected = torch.autograd.grad(plain_sum(theta, log_sigma2), wanted)[0]
        assert torch.allclose(torch.autograd.grad(kl_divergence(*inputs), wanted)[0], expected)
    assert not kl_divergence(theta.detach(), log_sigma2.detach()).requires_grad


def test_inputs_stay_as_they_are() -> None:
    theta, log_sigma2 = at(0.5)
    before = theta.clone(), log_sigma2.clone()
    kl_divergence(theta, log_sigma2).backward()
    assert torch.equal(theta, before[0]) and torch.equal(log_sigma2, before[1])


def test_sign_and_shape_of_the_curve() -> None:
    """It is to be minimised: positive, falls in alpha, 0 for noise alone and -a / 2 + 0.6358 for no noise."""
    a = torch.linspace(-12, 12, 200, dtype=torch.float64)
    kl = kl_log_uniform(a)
    assert (kl > 0).all() and (kl.diff() < 0).all()
    assert kl_log_uniform(torch.tensor(60.0)).item() < 1e-12
    assert kl_log_uniform(torch.tensor(-60.0).double()).item() == pytest.approx(30 + 0.63576, abs=1e-6)


def test_it_is_a_sum_over_weights_never_a_mean() -> None:
    """kefirski divides by numel: then a matrix feels the less KL the larger it is."""
    for prior in PRIORS:
        one = kl_divergence(THETA, LOG_SIGMA2, prior)
        two = kl_divergence(torch.cat([THETA, THETA]), torch.cat([LOG_SIGMA2, LOG_SIGMA2]), prior)
        assert two.item() == pytest.approx(2 * one.item())


def test_several_matrices_add_up() -> None:
    """kefirski overwrites its accumulator: only the last layer counts."""
    pairs = [(THETA, LOG_SIGMA2), (THETA[:1], LOG_SIGMA2[:1])]
    expected = sum(kl_divergence(*pair) for pair in pairs)
    assert sum_of_kl(pairs).item() == pytest.approx(float(expected))
    assert sum_of_kl([]).item() == 0


@pytest.mark.parametrize("small", [0, 7, 10**6])
def test_small_matrices_in_one_have_the_value_and_gradients_of_each(
    small: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kl, "SMALL", small)
    torch.manual_seed(0)
    shapes: list[tuple[tuple[int, ...], tuple[int, ...], torch.dtype]] = [
        ((2, 3), (2, 3), torch.float32),
        ((4, 5), (4, 1), torch.float32),  # rows share sigma^2
        ((1, 7), (1, 7), torch.float64),
        ((3,), (3,), torch.float32),
        ((50, 9), (50, 9), torch.float32),
    ]
    pairs = [
        (torch.randn(a, dtype=dtype).requires_grad_(), torch.randn(b, dtype=dtype).requires_grad_())
        for a, b, dtype in shapes
    ]
    leaves = [leaf for pair in pairs for leaf in pair]
    calls: list[int] = []
    one = kl.kl_divergence
    monkeypatch.setattr(kl, "kl_divergence", lambda *given: calls.append(1) or one(*given))
    total = sum_of_kl([(theta, log_sigma2) for theta, log_sigma2 in pairs])
    assert len(calls) == {0: 5, 7: 4, 10**6: 3}[small]
    apart = [kl_per_weight(*pair).double().sum() for pair in pairs]
    assert total.item() == pytest.approx(sum(apart).item(), rel=1e-6)
    for mine, right in zip(torch.autograd.grad(total, leaves), torch.autograd.grad(sum(apart), leaves), strict=True):
        torch.testing.assert_close(mine, right, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("prior", ["log-uniform", "ard"])
@pytest.mark.parametrize("a", [-100.0, -89.0, 0.0, 89.0, 100.0])
def test_extreme_log_alpha_is_finite(a: float, prior: str) -> None:
    """log1p(exp(-a)) overflows at a <= -89 in single precision."""
    for theta in (1.0, 1e-3):
        t, s = at(a, theta, torch.float32)
        kl = kl_divergence(t, s, prior)
        kl.backward()
        assert torch.isfinite(kl) and torch.isfinite(t.grad).all() and torch.isfinite(s.grad).all()
    if a == -100:
        assert kl.item() == pytest.approx(50 + (0.63576 if prior == "log-uniform" else 0), rel=1e-4)
    if a == 100:
        assert kl.item() < 1e-6


@pytest.mark.parametrize("prior", PRIORS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_theta_of_zero(prior: str, dtype: torch.dtype) -> None:
    """Without an epsilon under the logarithm its gradient is NaN, even behind a clamp."""
    theta = torch.zeros(3, dtype=dtype, requires_grad=True)
    log_sigma2 = torch.full((3,), -10.0, dtype=dtype, requires_grad=True)
    kl = kl_divergence(theta, log_sigma2, prior)
    kl.backward()
    assert torch.isfinite(kl) and torch.equal(theta.grad, torch.zeros(3, dtype=dtype))
    assert torch.isfinite(log_sigma2.grad).all()
    assert log_alpha(theta, log_sigma2)[0].item() == pytest.approx(-10 - math.log(1e-16), rel=1e-5)


def test_the_epsilon_does_not_hold_log_alpha_down() -> None:
    """With 1e-8 in its place log alpha of a weight with log sigma^2 = -16 could never pass 3."""
    assert log_alpha(torch.tensor([1e-7]), torch.tensor([-16.0])).item() > 15


def test_nothing_is_clamped() -> None:
    """pytorch_ard clamps at +-10: outside of it neither theta nor log sigma^2 feels anything."""
    for a in (-30.0, -12.0, 12.0):
        theta, log_sigma2 = at(a)
        kl_divergence(theta, log_sigma2).backward()
        assert log_sigma2.grad.item() != 0 and theta.grad.item() != 0
    assert log_alpha(*at(-30.0)).item() == pytest.approx(-30)


@pytest.mark.parametrize("prior", PRIORS)
def test_half_precision_inputs_and_autocast_are_widened(prior: str) -> None:
    theta = torch.full((20_000,), 0.05)
    log_sigma2 = torch.full((20_000,), -10.0)
    expected = kl_divergence(theta, log_sigma2, prior)
    half = kl_divergence(theta.half(), log_sigma2.half(), prior)  # a sum that fp16 cannot hold
    assert half.dtype == torch.float32 and half.item() == pytest.approx(expected.item(), rel=1e-3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = kl_divergence(theta, log_sigma2, prior)
    assert inside.dtype == torch.float32 and torch.equal(inside, expected)


def test_unknown_prior_names_the_nearest() -> None:
    with pytest.raises(UsageError, match="no prior named 'normall'") as caught:
        kl_divergence(THETA, LOG_SIGMA2, "normall")
    assert "normal" in caught.value.hint


def test_kept_is_strict_and_not_for_nan() -> None:
    a = torch.tensor([2.9, 3.0, 3.1, math.nan, -math.inf, math.inf])
    assert kept(a, 3.0).tolist() == [True, False, False, False, True, False]


def test_kept_count_is_the_signal_to_noise_rule() -> None:
    """log alpha < t is |theta| / sigma > exp(-t / 2); t = 3 is a dropout rate of 0.9526."""
    torch.manual_seed(2)
    theta, log_sigma2 = torch.randn(1000, dtype=torch.float64), torch.randn(1000, dtype=torch.float64)
    for t in (0.5, 3.0, 5.0):
        snr = theta.abs() / (0.5 * log_sigma2).exp()
        assert kept_count(theta, log_sigma2, t).item() == int((snr > math.exp(-t / 2)).sum())
    alpha = math.exp(3)
    assert alpha / (1 + alpha) == pytest.approx(0.9526, abs=1e-4)


def test_the_loss_prefers_noise_on_weights_that_nothing_needs() -> None:
    """With the sign wrong every log alpha falls instead of rising."""
    theta = torch.full((50,), 0.05, requires_grad=True)
    log_sigma2 = torch.full((50,), -6.0, requires_grad=True)
    optimiser = torch.optim.Adam([theta, log_sigma2], lr=0.05)
    for _ in range(200):
        optimiser.zero_grad()
        kl_divergence(theta, log_sigma2).backward()
        optimiser.step()
    assert kept_count(theta, log_sigma2, 3.0).item() == 0


@pytest.mark.parametrize(("device", "limit"), [("cpu", kl.SMALL), ("meta", kl.LARGE)])
def test_small_matrices_are_joined_and_how_small_depends_on_the_device(device: str, limit: int) -> None:
    sizes = [3, limit, limit + 1, 5]
    pairs = [(torch.empty(1, n, device=device), torch.empty(1, n, device=device)) for n in sizes]
    assert [theta.numel() for theta, _ in kl._small_joined(pairs)] == [limit + 1, 3 + limit + 5]


def test_joined_or_not_sum_and_gradients_are_those_of_each_matrix() -> None:
    torch.manual_seed(3)
    shapes = [(2, 3), (1, kl.SMALL + 1), (4, 1), (5, 2)]
    pairs = [(torch.randn(s, requires_grad=True), torch.randn(s, requires_grad=True)) for s in shapes]
    flat = [x for pair in pairs for x in pair]
    one_by_one = torch.stack([kl_per_weight(*pair, "log-uniform").double().sum() for pair in pairs]).sum()
    expected = torch.autograd.grad(one_by_one, flat)
    total = sum_of_kl(pairs)
    assert total.item() == pytest.approx(one_by_one.item(), rel=1e-6)
    for got, want in zip(torch.autograd.grad(total, flat), expected, strict=True):
        torch.testing.assert_close(got, want)
