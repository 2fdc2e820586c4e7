"""SparseVD layers against sampled weights, PyTorch's own layers and the faults of public implementations."""

import copy
import io
import math
from contextlib import nullcontext

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from dissect.errors import UsageError
from dissect.sparsevd import (
    GRUVD,
    NOISES,
    Conv1dVD,
    GRUCellVD,
    LinearVD,
    MultiheadAttentionVD,
    VariationalLayer,
    kl_divergence,
    log_alpha,
    one_sample,
)
from dissect.sparsevd.layers import CONSTANT_LOG_SIGMA2, VARIANCE_EPS, initial_log_sigma2
from dissect.sparsevd.sparsify import LAYERS

DRAWS = 10_000
DENSE = {
    "linear": lambda: nn.Linear(4, 3),
    "linear without bias": lambda: nn.Linear(4, 3, bias=False),
    "conv": lambda: nn.Conv1d(4, 3, 3, padding=1),
    "cell": lambda: nn.GRUCell(4, 3),
    "gru": lambda: nn.GRU(4, 3, num_layers=2, batch_first=True),
    "conv of pictures": lambda: nn.Conv2d(4, 3, (2, 3), padding=(1, 0)),
    "lstm cell": lambda: nn.LSTMCell(4, 3),
    "lstm": lambda: nn.LSTM(4, 3, num_layers=2, batch_first=True, bidirectional=True),
}
VD = LAYERS
INPUT = {
    "linear": (2, 4),
    "linear without bias": (2, 4),
    "conv": (2, 4, 6),
    "cell": (2, 4),
    "gru": (2, 3, 4),
    "conv of pictures": (2, 4, 3, 4),
    "lstm cell": (2, 4),
    "lstm": (2, 2, 4),
}


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def make(kind: str, noise: str = "lrt", log_sigma2: float | None = None) -> tuple[nn.Module, VariationalLayer]:
    dense = DENSE[kind]()
    return dense, VD[type(dense)].from_dense(dense, noise=noise, log_sigma2=log_sigma2)


def first(output: Tensor | tuple[Tensor, Tensor]) -> Tensor:
    return output[0] if isinstance(output, tuple) else output


def linear(theta: Tensor, log_sigma2: Tensor, noise: str = "lrt", bias: bool = False) -> LinearVD:
    """A LinearVD of given parameters [out, in]."""
    dense = nn.Linear(theta.shape[1], theta.shape[0], bias=bias, dtype=theta.dtype)
    with torch.no_grad():
        dense.weight.copy_(theta)
    layer = LinearVD.from_dense(dense, noise=noise)
    with torch.no_grad():
        layer.log_sigma2.copy_(log_sigma2)
    return layer


def sampled_outputs(layer: LinearVD | Conv1dVD, x: Tensor, draws: int = DRAWS) -> Tensor:
    """[draws, ...]: what W ~ N(theta, sigma^2) gives for a batch x, by the plain definition."""
    noise = torch.randn(draws, *layer.weight.shape)
    w = layer.weight + (0.5 * layer.log_sigma2).exp() * noise
    if isinstance(layer, LinearVD):
        return torch.vmap(lambda w: F.linear(x, w, layer.bias))(w)
    return torch.vmap(lambda w: layer._conv_forward(x, w, layer.bias))(w)


def assert_same_moments(a: Tensor, b: Tensor) -> None:
    """Mean and standard deviation over the first axis, within 5 standard errors."""
    assert a.shape == b.shape
    error = a.std(0) * math.sqrt(2 / len(a))
    assert ((a.mean(0) - b.mean(0)).abs() < 5 * error).all()
    assert torch.allclose(a.std(0), b.std(0), rtol=5 / math.sqrt(len(a)))


# --- moments ---


def test_fixture_in_double_precision() -> None:
    """x . w with w ~ N(theta, exp(log_sigma2)): mean 0.65, variance 0.339062466, computed by hand."""
    theta = torch.tensor([[0.1, -0.2, 0.3]], dtype=torch.float64)
    log_sigma2 = torch.tensor([[-2.0, -3.0, -4.0]], dtype=torch.float64)
    layer = linear(theta, log_sigma2)
    x = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
    with torch.no_grad():
        y = layer(x.expand(400_000, 3))
    assert y.dtype == torch.float64
    assert y.mean().item() == pytest.approx(0.65, abs=5 * math.sqrt(0.339 / 400_000))
    assert y.var().item() == pytest.approx(0.339062466, rel=0.012)
    layer.eval()
    assert layer(x).item() == pytest.approx(0.65)  # all three are kept
    variance = F.linear(x.square(), layer.log_sigma2.exp()).item()
    assert variance == pytest.approx(0.339062466, abs=1e-9)
    second = torch.tensor([-0.5, 1.0, 2.0], dtype=torch.float64)
    assert F.linear(second.square(), layer.log_sigma2.exp()).item() == pytest.approx(0.156883, abs=1e-6)
    assert F.linear(x * second, layer.log_sigma2.exp()).item() == pytest.approx(-0.148926, abs=1e-6)


def test_noise_is_the_square_root_of_the_variance_times_a_standard_normal() -> None:
    """The very numbers, with the generator in the same state."""
    layer = linear(torch.randn(3, 4), torch.randn(3, 4), bias=True)
    x = torch.randn(5, 4)
    torch.manual_seed(3)
    y = layer(x)
    torch.manual_seed(3)
    eps = torch.randn(5, 3)
    variance = x.square() @ layer.log_sigma2.exp().t()
    expected = x @ layer.weight.t() + layer.bias + (variance + VARIANCE_EPS).sqrt() * eps
    assert torch.allclose(y, expected, atol=1e-6)


def test_linear_has_the_moments_of_sampled_weights() -> None:
    layer = linear(torch.randn(3, 4), torch.randn(3, 4), bias=True)
    x = torch.randn(2, 4)
    with torch.no_grad():
        ours = layer(x.expand(DRAWS, 2, 4))  # every row has noise of its own
        sampled = sampled_outputs(layer, x)
    assert_same_moments(ours, sampled)


@pytest.mark.parametrize(
    "options",
    [
        {"padding": 1},
        {"stride": 2},
        {"dilation": 2, "padding": 2},
        {"padding": 2, "padding_mode": "circular"},
        {"groups": 2},
        {"padding": "same", "bias": False},
    ],
    ids=str,
)
def test_conv_has_the_moments_of_sampled_weights(options: dict[str, object]) -> None:
    dense = nn.Conv1d(2, 4, 3, **options)  # type: ignore[arg-type]
    layer = Conv1dVD.from_dense(dense, log_sigma2=-1.0)
    x = torch.randn(1, 2, 8)
    with torch.no_grad():
        ours = layer(x.expand(DRAWS, 2, 8))[:, None]
        sampled = sampled_outputs(layer, x)
    assert_same_moments(ours, sampled)


def test_weight_noise_is_exact_jointly() -> None:
    """Two rows under one W have the covariance sum x_t x_s sigma^2; the fixture's correlation is -0.646."""
    layer = linear(torch.tensor([[0.1, -0.2, 0.3]]), torch.tensor([[-2.0, -3.0, -4.0]]), noise="weight")
    x = torch.tensor([[1.0, -2.0, 0.5], [-0.5, 1.0, 2.0]])
    with torch.no_grad():
        y = torch.stack([layer(x)[:, 0] for _ in range(DRAWS)])
    assert torch.cov(y.t())[0, 1].item() == pytest.approx(-0.148926, abs=0.008)
    assert torch.corrcoef(y.t())[0, 1].item() == pytest.approx(-0.646, abs=0.02)


def test_rows_are_independent_by_local_reparameterisation() -> None:
    layer = linear(torch.randn(1, 3), torch.zeros(1, 3))
    x = torch.randn(1, 2, 3)  # [B, T, in]
    with torch.no_grad():
        y = layer(x.expand(DRAWS, 2, 3))[..., 0]
    assert torch.corrcoef(y.t())[0, 1].item() == pytest.approx(0.0, abs=0.05)


# --- one sample ---


@pytest.mark.parametrize("noise", NOISES)
@pytest.mark.parametrize("kind", DENSE)
def test_noise_differs_between_calls(kind: str, noise: str) -> None:
    """google's RNN made it in build(): ported to __init__ it freezes."""
    _, layer = make(kind, noise, log_sigma2=-2.0)
    x = torch.randn(INPUT[kind])
    assert not torch.allclose(first(layer(x)), first(layer(x)))


@pytest.mark.parametrize("kind", DENSE)
def test_one_sample_draws_weights_once(kind: str) -> None:
    _, layer = make(kind, "weight", log_sigma2=-2.0)
    x = torch.randn(INPUT[kind])
    with one_sample(layer):
        y = first(layer(x))
        assert torch.equal(y, first(layer(x)))
        with one_sample(layer):  # the outer one counts
            assert torch.equal(y, first(layer(x)))
        assert torch.equal(y, first(layer(x)))
    assert not torch.allclose(y, first(layer(x)))
    with one_sample(layer):
        assert not torch.allclose(y, first(layer(x)))


def test_one_sample_ends_with_an_error() -> None:
    _, layer = make("linear", "weight", log_sigma2=-2.0)
    x = torch.randn(2, 4)
    with pytest.raises(RuntimeError), one_sample(layer):
        layer(x)
        raise RuntimeError
    assert not torch.allclose(layer(x), layer(x))


def test_gradient_of_a_sample_that_is_used_twice() -> None:
    """d/dtheta of W x1 + W x2 is the sum, d/dlog_sigma2 half of it times sigma eps."""
    layer = linear(torch.randn(1, 3).double(), torch.randn(1, 3).double(), noise="weight")
    x = torch.randn(2, 3, dtype=torch.float64)
    with one_sample(layer):
        w = layer._weight("weight").detach()
        (layer(x[:1]) + layer(x[1:])).sum().backward()
    assert torch.allclose(layer.weight.grad, x.sum(0, keepdim=True))
    assert torch.allclose(layer.log_sigma2.grad, x.sum(0, keepdim=True) * (w - layer.weight.detach()) / 2)


@pytest.mark.parametrize("kind", DENSE)
def test_one_sample_with_lrt_computes_sigma2_once(kind: str) -> None:
    """sigma^2 is computed once for both calls: outputs and gradients are those of two calls outside."""
    _, layer = make(kind, "lrt", log_sigma2=-2.0)
    x, found = torch.randn(2, *INPUT[kind]), []
    for context in (nullcontext(), one_sample(layer)):
        layer.zero_grad()
        torch.manual_seed(0)
        with context:
            y = torch.stack([first(layer(x[0])), first(layer(x[1]))])
            name = layer.theta_names()[0]
            assert (layer._sigma2(name) is layer._sigma2(name)) == (layer._held is not None)
        y.square().sum().backward()
        found.append([y, *(p.grad for p in layer.parameters())])
    for outside, inside in zip(*found):
        torch.testing.assert_close(inside, outside, rtol=1e-5, atol=1e-6)


def test_one_sample_keeps_the_masked_weights_of_an_evaluation() -> None:
    _, layer = make("linear")
    layer.eval()
    x = torch.randn(2, 4)
    expected = layer(x)
    with one_sample(layer):
        assert torch.equal(layer(x), expected)
        kept_weights = layer._weight("weight")
        assert layer._weight("weight") is kept_weights
        layer.train()
        assert not torch.allclose(layer(x), expected)  # it is not mistaken for a sample
        layer.eval()
        layer.masked = False
        assert layer._weight("weight") is layer.weight
    assert layer._weight("weight") is layer.weight


# --- evaluation ---


@pytest.mark.parametrize("noise", NOISES)
@pytest.mark.parametrize("kind", DENSE)
def test_evaluation_is_the_dense_layer_with_pruned_weights(kind: str, noise: str) -> None:
    """cplxmodule reports the density of masked weights and evaluates unmasked ones."""
    dense, layer = make(kind, noise)
    with torch.no_grad():
        for _, theta, log_sigma2 in layer.variational():
            log_sigma2.copy_(torch.where(torch.rand_like(theta) < 0.5, 10.0, -10.0))
    x = torch.randn(INPUT[kind])
    layer.eval()
    pruned = copy.deepcopy(dense).eval()
    n_pruned = 0
    with torch.no_grad():
        for name, theta, log_sigma2 in layer.variational():
            off = log_alpha(theta, log_sigma2) >= 3
            n_pruned += int(off.sum())
            pruned.get_parameter(name)[off] = 0
    assert n_pruned > 0
    assert torch.equal(first(layer(x)), first(pruned(x)))
    assert torch.equal(first(layer(x)), first(layer(x)))  # no noise
    assert not torch.allclose(first(layer(x)), first(dense(x)))
    layer.masked = False
    assert torch.equal(first(layer(x)), first(dense(x)))
    assert torch.equal(layer.theta_names() and dense.get_parameter(layer.theta_names()[0]), theta_of(layer))


def theta_of(layer: VariationalLayer) -> Tensor:
    return next(layer.variational())[1]


def test_threshold_is_the_one_that_was_given() -> None:
    """senya ignores `threshold`: 3 is hard-coded."""
    theta = torch.ones(1, 4)
    layer = linear(theta, torch.tensor([[0.9, 1.9, 2.9, 3.9]]))
    layer.eval()
    x = torch.ones(1, 4)
    for threshold, left in ((0.0, 0), (1.0, 1), (2.0, 2), (3.0, 3), (4.0, 4)):
        layer.threshold = threshold
        assert layer(x).item() == left


def test_mask_follows_the_parameters_not_the_last_forward() -> None:
    """senya caches log alpha in forward: a mask that is a step late."""
    layer = linear(torch.ones(1, 2), torch.zeros(1, 2))
    layer.eval()
    x = torch.ones(1, 2)
    assert layer(x).item() == 2
    with torch.no_grad():
        layer.log_sigma2[0, 0] = 5
    assert layer(x).item() == 1


def test_evaluation_draws_no_random_number() -> None:
    for kind in DENSE:
        _, layer = make(kind)
        layer.eval()
        state = torch.get_rng_state()
        layer(torch.randn(INPUT[kind], generator=torch.Generator().manual_seed(0)))
        assert torch.equal(torch.get_rng_state(), state)


# --- gradients and numerics ---


@pytest.mark.parametrize("noise", NOISES)
@pytest.mark.parametrize("kind", DENSE)
def test_gradcheck_with_fixed_noise(kind: str, noise: str) -> None:
    dense = DENSE[kind]().double()
    layer = VD[type(dense)].from_dense(dense, noise=noise, log_sigma2=-1.0)
    x = torch.randn(INPUT[kind], dtype=torch.float64, requires_grad=True)
    names = [name for name, _ in layer.named_parameters()]

    def function(x: Tensor, *parameters: Tensor) -> Tensor:
        torch.manual_seed(5)
        saved = {name: layer._parameters[name] for name in names}
        try:
            layer._parameters.update(zip(names, parameters))  # type: ignore[arg-type]
            return first(layer(x))
        finally:
            layer._parameters.update(saved)

    if kind in ("gru", "lstm") and noise == "weight":  # PyTorch's own GRU runs, on the list that it keeps
        function(x).sum().backward()
        assert all(layer.get_parameter(name).grad.abs().sum() > 0 for name in names)
    else:
        inputs = (x, *(layer.get_parameter(name) for name in names))
        assert torch.autograd.gradcheck(function, inputs, fast_mode=kind == "lstm")  # which has 24 parameters


@pytest.mark.parametrize("noise", NOISES)
@pytest.mark.parametrize("kind", DENSE)
def test_rows_of_zeros_have_finite_gradients(kind: str, noise: str) -> None:
    """sqrt(0) has an infinite slope; KarenUllrich is saved only by the variance of biases, ours have none."""
    _, layer = make(kind, noise)
    x = torch.zeros(INPUT[kind], requires_grad=True)
    y = first(layer(x))
    y.square().sum().backward()
    assert torch.isfinite(y).all() and torch.isfinite(x.grad).all()
    assert all(torch.isfinite(p.grad).all() for p in layer.parameters())


def test_variance_keeps_its_gradient_where_it_is_tiny() -> None:
    """clamp(var, 1e-8) kills it."""
    layer = linear(torch.zeros(1, 2), torch.full((1, 2), -25.0))
    layer(torch.ones(8, 2)).square().sum().backward()
    assert (layer.log_sigma2.grad != 0).all()


@pytest.mark.parametrize("level", [-100.0, 40.0])
def test_extreme_log_sigma2(level: float) -> None:
    layer = linear(torch.zeros(2, 3), torch.full((2, 3), level))
    y = layer(torch.randn(4, 3))
    y.sum().backward()
    assert torch.isfinite(y).all() and torch.isfinite(layer.log_sigma2.grad).all()


def test_noise_does_not_vanish_with_theta() -> None:
    """pytorch_ard takes the variance from a clamped alpha times theta^2: none at theta = 0."""
    layer = linear(torch.zeros(1, 3), torch.zeros(1, 3))
    with torch.no_grad():
        y = layer(torch.ones(5000, 3))
    assert y.std().item() == pytest.approx(math.sqrt(3), rel=0.05)


@pytest.mark.parametrize("kind", ["linear", "conv"])
def test_variance_does_not_depend_on_the_bias(kind: str) -> None:
    """deepbayes-2019 issue 7 passes the bias to the variance: NaN where it is negative."""
    dense, layer = make(kind)
    with torch.no_grad():
        dense.bias.fill_(-1e4)
    x = torch.randn(INPUT[kind])
    torch.manual_seed(1)
    y = layer(x)
    with torch.no_grad():
        dense.bias.zero_()
    torch.manual_seed(1)
    assert torch.allclose(y + 1e4, layer(x), atol=5e-3)


@pytest.mark.parametrize("out", [1, 3])
def test_bias_of_any_size_trains_and_may_be_absent(out: int) -> None:
    """pytorch_ard's `if self.bias:` raises for several elements and skips a single zero; eval adds None."""
    dense = nn.Linear(4, out)
    nn.init.zeros_(dense.bias)
    layer = LinearVD.from_dense(dense)
    layer(torch.randn(2, 4)).sum().backward()
    assert torch.equal(dense.bias.grad, torch.full((out,), 2.0))
    without = LinearVD.from_dense(nn.Linear(4, out, bias=False))
    for mode in (True, False):
        without.train(mode)
        assert without(torch.randn(2, 4)).shape == (2, out)


def test_the_standard_deviation_adds_up_in_squares() -> None:
    """A port uses sum |x| sigma^2 as std: log_sigma2 + 2 ln 2 must double it, a doubled input give sqrt 2."""
    x = torch.randn(1, 4)
    layer = linear(torch.zeros(1, 4), torch.zeros(1, 4))
    torch.manual_seed(1)
    y = layer(x).item()
    with torch.no_grad():
        layer.log_sigma2 += 2 * math.log(2)
    torch.manual_seed(1)
    assert layer(x).item() == pytest.approx(2 * y, rel=1e-5)
    twice = linear(torch.zeros(1, 8), torch.zeros(1, 8))
    torch.manual_seed(1)
    assert twice(torch.cat([x, x], 1)).item() == pytest.approx(math.sqrt(2) * y, rel=1e-5)


@pytest.mark.parametrize("kind", DENSE)
@pytest.mark.parametrize("noise", NOISES)
def test_parameters_and_noise_stay_single_under_autocast(kind: str, noise: str) -> None:
    dense, layer = make(kind, noise)
    x = torch.randn(INPUT[kind])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        if noise == "weight":  # runs the dense layer's own code
            try:
                dense(x)
            except RuntimeError as error:
                pytest.skip(f"torch's own layer cannot run in bfloat16 on this processor: {error}")
        y = first(layer(x))
        kl = sum(kl_divergence(t, s) for _, t, s in layer.variational())
        y.float().sum().backward()
    assert isinstance(kl, Tensor) and kl.dtype == torch.float32
    for parameter in layer.parameters():
        assert parameter.dtype == torch.float32 and parameter.grad.dtype == torch.float32


def test_linear_under_autocast_has_the_dense_layers_type_and_an_exact_variance() -> None:
    dense, layer = make("linear", log_sigma2=-20.0)
    x = torch.randn(2, 4)
    seen = []
    real = F.linear

    def watched(x: Tensor, w: Tensor, b: Tensor | None = None) -> Tensor:
        y = real(x, w, b)
        seen.append(y.dtype)
        return y

    with pytest.MonkeyPatch.context() as patch, torch.autocast("cpu", dtype=torch.bfloat16):
        patch.setattr(F, "linear", watched)
        assert layer(x.bfloat16()).dtype == dense(x).dtype == torch.bfloat16
    assert seen[:2] == [torch.bfloat16, torch.float32]  # the mean as the dense layer, the variance in full


# --- GRU ---


def gru_step(x: Tensor, h: Tensor, layer: GRUCellVD, noise: tuple[Tensor, Tensor]) -> Tensor:
    """The twin: equations of torch.nn.GRUCell with noise on both products, gate by gate."""

    def product(v: Tensor, which: str, eps: Tensor, gate: int) -> Tensor:
        block = slice(gate * 3, gate * 3 + 3)
        w, s = getattr(layer, f"weight_{which}")[block], getattr(layer, f"log_sigma2_{which}")[block].exp()
        b = getattr(layer, f"bias_{which}")[block]
        return v @ w.t() + b + (v**2 @ s.t() + 1e-8).sqrt() * eps[:, block]

    i, e = noise
    r = torch.sigmoid(product(x, "ih", i, 0) + product(h, "hh", e, 0))
    z = torch.sigmoid(product(x, "ih", i, 1) + product(h, "hh", e, 1))
    n = torch.tanh(product(x, "ih", i, 2) + r * product(h, "hh", e, 2))
    return (1 - z) * n + z * h


def test_cell_against_its_equations() -> None:
    _, layer = make("cell", log_sigma2=-2.0)
    x, h = torch.randn(2, 4), torch.randn(2, 3)
    torch.manual_seed(4)
    y = layer(x, h)
    torch.manual_seed(4)
    noise = torch.randn(2, 9), torch.randn(2, 9)
    assert torch.allclose(y, gru_step(x, h, layer, noise), atol=1e-6)
    assert layer(x).shape == (2, 3) and layer(x[0]).shape == (3,)
    layer.eval()  # as PyTorch's own: a single one without the axis of the batch
    torch.testing.assert_close(layer(x[0], h[0]), layer(x, h)[0])


@pytest.mark.parametrize("noise", NOISES)
@pytest.mark.parametrize("kind", ["cell", "gru"])
def test_without_noise_it_is_pytorchs_own(kind: str, noise: str) -> None:
    dense, layer = make(kind, noise, log_sigma2=-40.0)
    x = torch.randn(INPUT[kind])
    assert torch.allclose(first(layer(x)), first(dense(x)), atol=1e-3)  # VARIANCE_EPS is still there


@pytest.mark.parametrize("noise", NOISES)
@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("given_state", [True, False])
def test_gru_shapes_and_states(noise: str, batch_first: bool, given_state: bool) -> None:
    dense = nn.GRU(4, 3, num_layers=2, batch_first=batch_first)
    layer = GRUVD.from_dense(dense, noise=noise, log_sigma2=-40.0)
    x = torch.randn(2, 5, 4)
    h = torch.randn(2, 2 if batch_first else 5, 3) if given_state else None
    for ours, theirs in zip(layer(x, h), dense(x, h)):
        assert ours.shape == theirs.shape and torch.allclose(ours, theirs, atol=1e-3)
    one, h_one = torch.randn(5, 4), (torch.randn(2, 3) if given_state else None)  # without a batch
    for ours, theirs in zip(layer(one, h_one), dense(one, h_one)):
        assert ours.shape == theirs.shape and torch.allclose(ours, theirs, atol=1e-3)


@pytest.mark.parametrize("noise", NOISES)
@pytest.mark.parametrize("enforce_sorted", [True, False])
def test_gru_on_packed_sequences(noise: str, enforce_sorted: bool) -> None:
    dense = nn.GRU(4, 3, num_layers=2, batch_first=True)
    layer = GRUVD.from_dense(dense, noise=noise, log_sigma2=-40.0)
    lengths = torch.tensor([5, 3, 1] if enforce_sorted else [1, 5, 3])
    packed = pack_padded_sequence(torch.randn(3, 5, 4), lengths, batch_first=True, enforce_sorted=enforce_sorted)
    h = torch.randn(2, 3, 3)
    ours, theirs = layer(packed, h), dense(packed, h)
    assert isinstance(ours[0], PackedSequence)
    assert torch.allclose(pad_packed_sequence(ours[0])[0], pad_packed_sequence(theirs[0])[0], atol=1e-3)
    assert torch.allclose(ours[1], theirs[1], atol=1e-3)
    assert torch.allclose(layer(packed)[1], dense(packed)[1], atol=1e-3)


@pytest.mark.parametrize("dense", [nn.GRU, nn.LSTM])
def test_dropout_is_between_layers_and_not_at_the_inputs(dense: type[nn.Module]) -> None:
    """A number that is lost has no gradient."""
    layer = VD[dense].from_dense(dense(4, 32, num_layers=2, dropout=0.5), log_sigma2=-30.0)
    x = torch.randn(3, 2, 4, requires_grad=True)
    layer(x)[0].sum().backward()
    assert x.grad is not None and x.grad.ne(0).all()


def test_gru_without_bias_and_with_dropout() -> None:
    layer = GRUVD.from_dense(nn.GRU(4, 3, num_layers=2, bias=False, dropout=0.5), log_sigma2=-40.0)
    x = torch.randn(5, 2, 4)
    assert not torch.allclose(layer(x)[0], layer(x)[0], atol=1e-2)  # dropout between the layers
    layer.eval()
    assert torch.equal(layer(x)[0], layer(x)[0])


def test_gru_of_one_step_has_the_moments_of_the_cell() -> None:
    gru = nn.GRU(4, 3, batch_first=True)
    layer = GRUVD.from_dense(gru, log_sigma2=-1.0)
    cell = GRUCellVD(4, 3, log_sigma2=-1.0)
    cell.load_state_dict({name.replace("_l0", ""): p for name, p in layer.state_dict().items()})
    x, h = torch.randn(1, 4), torch.randn(1, 3)
    with torch.no_grad():
        xs, hs = x.repeat(DRAWS, 1), h.repeat(DRAWS, 1)
        a, b = layer(xs[:, None], hs[None])[0][:, 0], cell(xs, hs)
    assert_same_moments(a, b)


def test_gru_noise_over_the_steps() -> None:
    """Equal inputs at every step, no state: each step has noise of its own."""
    dense = nn.GRU(4, 3, batch_first=True)
    with torch.no_grad():
        dense.weight_hh_l0.zero_()
        dense.bias_hh_l0.zero_()
        dense.bias_hh_l0[3:6] = -30  # z = 0: the state is the candidate
    x = torch.ones(1, 2, 4)
    layer = GRUVD.from_dense(dense, log_sigma2=-2.0)
    y = layer(x)[0][0]
    assert (y[0] - y[1]).abs().max() > 1e-2


def test_lateral_weights_read_the_state() -> None:
    """soskek's LSTM multiplies its lateral weights by x."""
    for layer, call in (
        (GRUCellVD(4, 4, log_sigma2=-4.0), lambda m, h: m(torch.zeros(1, 4), h)),
        (GRUVD(4, 4, log_sigma2=-4.0), lambda m, h: m(torch.zeros(1, 1, 4), h[None])[0]),
    ):
        h = torch.randn(1, 4)
        call(layer, h).sum().backward()
        by_h = {name: p.grad.abs().sum() for name, p in layer.named_parameters()}
        for name, gradient in by_h.items():
            if "_hh" in name and "bias" not in name:
                assert gradient > 0
            if "_ih" in name and "weight" in name:
                assert gradient == 0


# --- from and to dense ---


@pytest.mark.parametrize("kind", DENSE)
def test_from_dense_shares_parameters_and_keeps_the_rest(kind: str) -> None:
    dense = DENSE[kind]()
    dense.eval()
    dense.note = "kept"  # type: ignore[assignment]
    calls = []
    handle = dense.register_forward_hook(lambda *_: calls.append("post"))
    dense.register_forward_pre_hook(lambda *_: calls.append("pre"))
    layer = VD[type(dense)].from_dense(dense)
    assert isinstance(layer, type(dense))
    for name, parameter in dense.named_parameters():
        assert layer.get_parameter(name) is parameter
    assert not layer.training and layer.note == "kept"
    layer(torch.randn(INPUT[kind]))
    assert calls == ["pre", "post"]
    handle.remove()  # the handle that the user holds
    layer(torch.randn(INPUT[kind]))
    assert calls == ["pre", "post", "pre"]
    assert not any("log_sigma2" in name for name, _ in dense.named_parameters())
    assert "noise" not in dense.__dict__

    back = layer.to_dense(prune=False)
    assert type(back) is type(dense) and set(back.__dict__) == set(dense.__dict__)
    assert dict(back.named_parameters()).keys() == dict(dense.named_parameters()).keys()
    for name, parameter in dense.named_parameters():
        assert back.get_parameter(name) is parameter
    x = torch.randn(INPUT[kind])
    assert torch.equal(first(back(x)), first(dense(x)))


@pytest.mark.parametrize("kind", DENSE)
def test_to_dense_prunes(kind: str) -> None:
    dense, layer = make(kind)
    with torch.no_grad():
        for _, theta, log_sigma2 in layer.variational():
            log_sigma2.copy_(torch.where(torch.rand_like(theta) < 0.5, 10.0, -10.0))
    layer.eval()
    x = torch.randn(INPUT[kind])
    expected = first(layer(x))
    pruned = layer.to_dense(prune=True)
    assert torch.equal(first(pruned(x)), expected)
    assert pruned.get_parameter(layer.theta_names()[0]) is dense.get_parameter(layer.theta_names()[0])


def test_to_dense_prunes_at_the_threshold_of_the_layer() -> None:
    layer = linear(torch.ones(1, 4), torch.tensor([[0.9, 1.9, 2.9, 3.9]]))
    layer.threshold = 2.0
    assert layer.to_dense().weight.tolist() == [[1, 1, 0, 0]]


def test_layers_that_share_a_weight_mask_it_at_their_own_thresholds() -> None:
    a = linear(torch.ones(1, 2), torch.tensor([[0.0, 2.0]]))
    b = linear(torch.ones(1, 2), torch.zeros(1, 2))
    b.weight, b.log_sigma2, b.threshold = a.weight, a.log_sigma2, 1.0
    model = nn.ModuleList([a, b]).eval()
    with one_sample(model):
        assert [layer(torch.ones(1, 2)).item() for layer in model] == [2, 1]


def test_frozen_weights_stay_frozen() -> None:
    dense = nn.Linear(4, 3).requires_grad_(False)
    layer = LinearVD.from_dense(dense)
    assert not layer.log_sigma2.requires_grad
    layer(torch.randn(2, 4))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_refused(dtype: torch.dtype) -> None:
    with pytest.raises(UsageError, match=str(dtype)) as caught:
        LinearVD.from_dense(nn.Linear(4, 3).to(dtype))
    assert "autocast" in caught.value.hint


def test_wrong_arguments() -> None:
    with pytest.raises(UsageError, match="no noise named 'ltr'"):
        LinearVD.from_dense(nn.Linear(4, 3), noise="ltr")
    with pytest.raises(UsageError, match="threshold"):
        LinearVD.from_dense(nn.Linear(4, 3), threshold=math.nan)
    with pytest.raises(UsageError, match="log_sigma2"):
        LinearVD.from_dense(nn.Linear(4, 3), log_sigma2=math.inf)
    with pytest.raises(UsageError, match="takes the place of Linear, not of Conv1d"):
        LinearVD.from_dense(nn.Conv1d(4, 3, 1))


def test_every_matrix_starts_at_the_same_density() -> None:
    for shape in ((64, 64), (300, 200), (192, 64)):
        dense = nn.Linear(shape[1], shape[0])
        nn.init.uniform_(dense.weight, -(shape[1] ** -0.5), shape[1] ** -0.5)
        layer = LinearVD.from_dense(dense)
        assert layer.log_sigma2.unique().numel() == 1
        density = (log_alpha(layer.weight, layer.log_sigma2) < 3).float().mean().item()
        # |theta| > exp(-1.5) sigma with sigma^2 = e^-4 / (3 d): 1 - exp(-3.5) / sqrt(3)
        assert density == pytest.approx(1 - math.exp(-3.5) / math.sqrt(3), abs=0.006)


def test_start_of_log_sigma2() -> None:
    theta = torch.tensor([[1.0, -1.0]])
    assert initial_log_sigma2(theta) == pytest.approx(-4)
    assert initial_log_sigma2(torch.full((2, 2), 0.3)) == CONSTANT_LOG_SIGMA2
    assert initial_log_sigma2(torch.zeros(2, 2)) == CONSTANT_LOG_SIGMA2
    assert initial_log_sigma2(torch.ones(1, 1)) == CONSTANT_LOG_SIGMA2
    assert initial_log_sigma2(theta * 1e-4) == pytest.approx(-4 + 2 * math.log(1e-4), rel=1e-6)
    assert LinearVD.from_dense(nn.Linear(4, 3), log_sigma2=-10).log_sigma2.unique().tolist() == [-10]


@pytest.mark.parametrize("kind", DENSE)
def test_reset_parameters_leaves_log_sigma2_whole(kind: str) -> None:
    """nn.GRU's fills every parameter with U(-1/sqrt(d), 1/sqrt(d)): sigma about 1, density 0 at step 0."""
    _, layer = make(kind)
    before = theta_of(layer).clone()
    layer.reset_parameters()
    assert not torch.equal(theta_of(layer), before)
    for _, theta, log_sigma2 in layer.variational():
        assert log_sigma2.unique().item() == pytest.approx(initial_log_sigma2(theta), rel=1e-5)
    _, fixed = make(kind, log_sigma2=-8.0)
    fixed.reset_parameters()
    assert all((log_sigma2 == -8).all() for _, _, log_sigma2 in fixed.variational())


def test_made_directly() -> None:
    layers = [
        LinearVD(4, 3, bias=False, noise="weight", threshold=2.0),
        Conv1dVD(4, 3, 3, padding=1),
        GRUCellVD(4, 3, log_sigma2=-9.0),
        GRUVD(4, 3, 2, batch_first=True, noise="weight"),
    ]
    assert layers[0].bias is None and layers[0].noise == "weight" and layers[0].threshold == 2
    assert "noise=weight, threshold=2" in repr(layers[0]) and "in_features=4" in repr(layers[0])
    assert "(noise=lrt, threshold=3" in repr(MultiheadAttentionVD(4, 2)).replace("\n  ", "")
    assert layers[2].log_sigma2_hh.unique().tolist() == [-9]
    for layer, shape in zip(layers, ((2, 4), (2, 4, 6), (2, 4), (2, 5, 4))):
        assert torch.isfinite(first(layer(torch.randn(shape)))).all()


@pytest.mark.parametrize("kind", DENSE)
def test_copies_and_files(kind: str) -> None:
    _, layer = make(kind)
    twin = copy.deepcopy(layer)
    assert theta_of(twin) is not theta_of(layer) and type(twin) is type(layer)
    x = torch.randn(INPUT[kind])
    torch.manual_seed(0)
    y = first(layer(x))
    torch.manual_seed(0)
    assert torch.equal(first(twin(x)), y)
    file = io.BytesIO()
    torch.save(layer.state_dict(), file)
    file.seek(0)
    _, other = make(kind)
    other.load_state_dict(torch.load(file, weights_only=True))
    torch.manual_seed(0)
    assert torch.equal(first(other(x)), y)
    for (_, theta, log_sigma2), (_, t, s) in zip(layer.variational(), other.variational()):
        assert torch.equal(theta, t) and torch.equal(log_sigma2, s)


@pytest.mark.parametrize("kind", DENSE)
def test_moves_to_another_precision_as_a_module(kind: str) -> None:
    _, layer = make(kind)
    layer.double()
    for noise in NOISES:
        layer.noise = noise
        assert first(layer(torch.randn(INPUT[kind], dtype=torch.float64))).dtype == torch.float64
