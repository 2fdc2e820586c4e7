"""LSTM layers and both directions against their equations, written step by step."""

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from dissect.sparsevd import GRUVD, LSTMVD, LSTMCellVD, Shadows, named_variational, sparsify
from dissect.sparsevd.layers import VARIANCE_EPS
from tests.test_layers import DRAWS, assert_same_moments

KINDS = {"gru": nn.GRU, "lstm": nn.LSTM}
VD = {nn.GRU: GRUVD, nn.LSTM: LSTMVD}


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def flat(outputs):
    """The output and each state of a recurrent layer."""
    out, states = outputs
    out = pad_packed_sequence(out)[0] if isinstance(out, PackedSequence) else out
    return [out, *(states if isinstance(states, tuple) else (states,))]


def lstm_step(x, h, c, layer, suffix, noise):
    """The equations of torch.nn.LSTM with noise on both products, gate by gate."""
    ih, hh = f"ih{suffix}", f"hh{suffix}"
    H = c.shape[1]
    found = []
    for gate in range(4):
        rows, total = slice(gate * H, gate * H + H), 0
        for which, v, eps in ((ih, x, noise[0]), (hh, h, noise[1])):
            w = getattr(layer, f"weight_{which}")[rows]
            s = getattr(layer, f"log_sigma2_{which}")[rows].exp()
            b = getattr(layer, f"bias_{which}")[rows]
            total = total + v @ w.t() + b + (v**2 @ s.t() + VARIANCE_EPS).sqrt() * eps[:, rows]
        found.append(total)
    i, f, g, o = found
    c = f.sigmoid() * c + i.sigmoid() * g.tanh()
    return o.sigmoid() * c.tanh(), c


def test_a_cell_against_its_equations():
    layer = LSTMCellVD.from_dense(nn.LSTMCell(4, 3), log_sigma2=-2.0)
    x, h, c = torch.randn(2, 4), torch.randn(2, 3), torch.randn(2, 3)
    torch.manual_seed(4)
    found = layer(x, (h, c))
    torch.manual_seed(4)
    noise = torch.randn(2, 12), torch.randn(2, 12)
    torch.testing.assert_close(found, lstm_step(x, h, c, layer, "", noise))
    assert layer(x)[0].shape == (2, 3) and layer(x[0])[1].shape == (3,)
    layer.eval()
    torch.testing.assert_close(layer(x[0], (h[0], c[0])), tuple(state[0] for state in layer(x, (h, c))))


def test_both_directions_against_loops_over_steps():
    """Noise of its own at each step: first the product with all inputs, then step by step with the state."""
    layer = LSTMVD.from_dense(nn.LSTM(4, 3, bidirectional=True), log_sigma2=-2.0)
    x = torch.randn(3, 2, 4)  # [T, B, in]
    torch.manual_seed(4)
    out, (h_n, c_n) = layer(x)
    torch.manual_seed(4)
    expected, last = [], []
    for suffix, steps in (("_l0", range(3)), ("_l0_reverse", reversed(range(3)))):
        of_inputs = torch.randn(6, 12).view(3, 2, 12)
        h, c, outputs = torch.zeros(2, 3), torch.zeros(2, 3), {}
        for t in steps:
            h, c = lstm_step(x[t], h, c, layer, suffix, (of_inputs[t], torch.randn(2, 12)))
            outputs[t] = h
        expected.append(torch.stack([outputs[t] for t in range(3)]))
        last.append((h, c))
    torch.testing.assert_close(out, torch.cat(expected, -1))
    for state, of_direction in zip((h_n, c_n), zip(*last)):
        torch.testing.assert_close(state, torch.stack(of_direction))


@pytest.mark.parametrize("noise", ["lrt", "weight"])
@pytest.mark.parametrize("options", [{}, {"bidirectional": True}, {"bias": False}, {"batch_first": True}], ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_without_noise_it_is_pytorchs_own(kind, options, noise):
    dense = KINDS[kind](4, 3, num_layers=2, **options)
    layer = VD[type(dense)].from_dense(dense, noise=noise, log_sigma2=-40.0)
    x, packed = torch.randn(5, 5, 4), pack_padded_sequence(torch.randn(5, 3, 4), [5, 1, 3], enforce_sorted=False)
    n = 4 if dense.bidirectional else 2

    def states(batch):
        found = tuple(torch.randn(n, *batch, 3) for _ in range(2))
        return found if kind == "lstm" else found[0]

    for given, state in ((x, states((5,))), (packed, states((3,))), (x[0], states(())), (x, None), (packed, None)):
        for ours, theirs in zip(flat(layer(given, state)), flat(dense(given, state)), strict=True):
            torch.testing.assert_close(ours, theirs, atol=1e-3, rtol=0)


@pytest.mark.filterwarnings("ignore:LSTM with projections")
def test_a_projected_state_has_noise_too():
    dense = nn.LSTM(4, 6, proj_size=3, batch_first=True, bidirectional=True)
    x = torch.randn(2, 5, 4)
    layer = LSTMVD.from_dense(dense, log_sigma2=-40.0)
    for ours, theirs in zip(flat(layer(x)), flat(dense(x)), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-3, rtol=0)
    assert len(layer.theta_names()) == 6 and layer.log_sigma2_hr_l0_reverse.shape == (3, 6)
    with torch.no_grad():
        layer.log_sigma2_hr_l0.fill_(0.0)
    assert (layer(x)[0] - dense(x)[0])[..., :3].abs().mean() > 0.1
    assert (layer(x)[0] - dense(x)[0])[..., 3:].abs().max() < 1e-3


def test_one_step_has_the_moments_of_sampled_weights():
    layer = LSTMVD.from_dense(nn.LSTM(4, 3, batch_first=True), log_sigma2=-1.0)
    x, states = torch.randn(1, 1, 4), (torch.randn(1, 1, 3), torch.randn(1, 1, 3))
    with torch.no_grad():
        many = layer(x.expand(DRAWS, 1, 4), tuple(state.expand(1, DRAWS, 3) for state in states))[0][:, 0]
        layer.noise = "weight"
        sampled = torch.stack([layer(x, states)[0][0, 0] for _ in range(DRAWS)])
    assert_same_moments(many, sampled)


def test_steps_have_noise_of_their_own():
    dense = nn.LSTM(4, 3, batch_first=True)
    with torch.no_grad():
        dense.weight_hh_l0.zero_()
        dense.bias_hh_l0[3:6] = -30  # nothing of the cell is kept
    layer = LSTMVD.from_dense(dense, log_sigma2=-2.0)
    y = layer(torch.ones(1, 2, 4))[0][0]
    assert (y[0] - y[1]).abs().max() > 1e-2


def test_lateral_weights_read_the_state():
    """soskek's LSTM multiplies its lateral weights by x."""
    layer, h = LSTMVD(4, 4, log_sigma2=-4.0), torch.randn(1, 1, 4)
    layer(torch.zeros(1, 1, 4), (h, h))[0].sum().backward()
    assert layer.weight_hh_l0.grad.abs().sum() > 0 and layer.weight_ih_l0.grad.abs().sum() == 0


def test_gates_are_named_in_the_order_of_their_rows():
    """A gate whose rows are zero has the value of its bias."""
    layer = LSTMVD(4, 3)
    assert layer.blocks("weight_ih_l0") == {gate: (slice(3 * k, 3 * k + 3),) for k, gate in enumerate("ifgo")}
    assert LSTMVD(4, 3, proj_size=2).blocks("weight_hr_l0") == {}
    assert list(GRUVD(4, 3).blocks("weight_hh_l0")) == ["r", "z", "n"]
    layer.eval().masked = False
    with torch.no_grad():
        for name, parameter in layer.named_parameters():
            if "log" not in name:
                parameter.zero_()
        rows = layer.blocks("weight_ih_l0")
        layer.bias_ih_l0[rows["i"]], layer.bias_ih_l0[rows["o"]] = 30.0, 30.0  # open
        layer.bias_ih_l0[rows["g"]] = 0.5
    _, (_, c) = layer(torch.zeros(1, 1, 4), (torch.zeros(1, 1, 3), torch.ones(1, 1, 3)))
    torch.testing.assert_close(c, torch.full((1, 1, 3), 0.5 + torch.tensor(0.5).tanh().item()))  # f is a half


def test_each_direction_has_shadows():
    model = nn.Sequential(nn.LSTM(4, 3, bidirectional=True))
    sparsify(model, log_sigma2=-30.0)
    shadows, x = Shadows(model), torch.randn(5, 6, 4)
    assert shadows.names == [name for name, _, _ in named_variational(model)] and len(shadows.names) == 4
    plain = model(x)[0]
    with shadows.cast(model):
        out = model(x)[0]
        out.square().sum().backward()
    assert all((out - plain)[..., part].abs().max() > 0.01 for part in (slice(3), slice(3, 6)))
    assert all(theta.grad.abs().max() > 0 for _, theta, _ in named_variational(shadows))
