"""LESSR against its equations, written once more as plain loops over one session's nodes and transitions."""

import itertools

import numpy as np
import pytest
import torch
from torch import nn

from models import LESSR, Batch
from models.lessr_layers import EOPA, SGAT

# One click, repeats, self loops, a transition seen twice, and nodes with many transitions into them.
SESSIONS = [
    [5],
    [1, 2, 3, 2, 4],
    [6, 6],
    [7, 8, 7, 8, 7, 7],
    [9, 1, 2, 3, 4, 5, 6, 1, 2, 2],
    [3, 4, 3, 4, 5, 4],
    [8] * 5,
]
LONGER = [[4, 9, 1, 2, 3, 4, 5, 6, 1, 2, 2] * 2, [2, 1, 7, 7, 2, 1, 3, 2, 1, 2, 1, 2, 5, 1]]
D = 4


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def softmax(x):
    e = np.exp(np.array(x) - max(x))
    return e / e.sum()


class Weights:
    """The parameters and statistics of a model by name, and its layers as functions of one row."""

    def __init__(self, model):
        self.of = {name: value.detach().numpy() for name, value in model.state_dict().items()}

    def linear(self, name, x):
        return self.of[f"{name}.weight"] @ x + self.of.get(f"{name}.bias", 0.0)

    def norm(self, name, x):
        mean, var = self.of[f"{name}.running_mean"], self.of[f"{name}.running_var"]
        return (x - mean) / np.sqrt(var + 1e-5) * self.of[f"{name}.weight"] + self.of[f"{name}.bias"]

    def act(self, name, x):
        return np.where(x > 0, x, self.of[f"{name}.weight"] * x)

    def gru(self, at, x, h):
        gi = self.linear(f"{at}.gate_ih", x)
        alone = f"{at}.gate_bias" in self.of
        gh = self.of[f"{at}.gate_bias"] if alone else self.linear(f"{at}.gate_hh", h)
        (i_r, i_z, i_n), (h_r, h_z, h_n) = np.split(gi, 3), np.split(gh, 3)
        z = sigmoid(i_z + h_z)
        return (1 - z) * np.tanh(i_n + sigmoid(i_r + h_r) * h_n) + z * h


def twin(model, session, off=()):
    """The session vector in float64; `off` are the parts left out, in the model or after its training."""
    w = Weights(model)
    nodes = list(dict.fromkeys(session))
    x = {v: w.of["items"][v - 1] for v in nodes}
    x = {v: row / (np.linalg.norm(row) + 1e-7) if np.linalg.norm(row) > 1 else row for v, row in x.items()}
    for i in model.layers:
        at, layer = f"layers.{i}", eopa if int(i) % 2 == 0 else sgat
        out = {v: np.zeros(D) for v in nodes} if "gnn" in off else layer(w, at, x, session, off)
        x = {v: np.concatenate([out[v], x[v]]) for v in nodes}
    h = {v: w.norm("readout.norm", x[v]) for v in nodes}
    if "attention" in off:
        alpha = np.full(len(nodes), 1 / len(nodes))
    else:
        query = w.linear("readout.attend_last", h[session[-1]])
        alpha = softmax(
            [w.linear("readout.attend_score", sigmoid(w.linear("readout.attend_all", h[v]) + query))[0] for v in nodes]
        )
    overall = w.act("readout.act", w.linear("readout.overall", sum(a * h[v] for a, v in zip(alpha, nodes))))
    both = np.concatenate([x[session[-1]], overall])
    return w.linear("readout.transform", w.norm("readout.last_norm", both))


def eopa(w, at, x, session, off):
    x, out = {v: w.norm(f"{at}.norm", row) for v, row in x.items()}, {}
    for v in x:
        sources = [a for a, b in itertools.pairwise(session) if b == v]  # in order, as often as they occur
        state = np.zeros_like(x[v])
        for u in () if "propagation" in off else sources:
            if "order" in off:
                state = state + w.gru(at, x[u], np.zeros_like(state)) / len(sources)
            else:
                state = w.gru(at, x[u], state)
        out[v] = w.linear(f"{at}.own", x[v])
        if "propagation" not in off:
            out[v] = out[v] + w.linear(f"{at}.neighbours", state)
        out[v] = w.act(f"{at}.act", out[v])
    return out


def sgat(w, at, x, session, off):
    if {"shortcut", "propagation"} & set(off):
        return {v: np.zeros(D) for v in x}
    x, out = {v: w.norm(f"{at}.norm", row) for v, row in x.items()}, {}
    for v in x:
        sources = list({session[i]: 0 for i in range(len(session)) for j in range(i, len(session)) if session[j] == v})
        e = [
            w.linear(f"{at}.score", sigmoid(w.linear(f"{at}.query", x[u]) + w.linear(f"{at}.key", x[v])))[0]
            for u in sources
        ]
        heard = sum(a * w.linear(f"{at}.value", x[u]) for a, u in zip(softmax(e), sources))
        out[v] = w.act(f"{at}.act", heard)
    return out


def make(seed=0, **options):
    """A model whose batch norms have statistics and parameters of their own, and some items longer than 1."""
    torch.manual_seed(seed)
    model = LESSR(9, **{"dim": D, **options}).double()
    with torch.no_grad():
        model.items *= torch.linspace(0.1, 1.5, 9)[:, None]
        for module in model.modules():
            if isinstance(module, nn.BatchNorm1d):
                module.running_mean.normal_(0, 0.3)
                module.running_var.uniform_(0.5, 2)
                module.weight.uniform_(0.5, 1.5)
                module.bias.normal_(0, 0.3)
            if isinstance(module, nn.PReLU):
                module.weight.uniform_(-0.5, 0.5)
    return model.eval()


def encode(model, sessions):
    return model.encode(model.item_states(), Batch.of(sessions)).detach()


@pytest.mark.parametrize("layers", [1, 2, 4, 5])
def test_equals_the_equations(layers):
    model, sessions = make(layers=layers), [*SESSIONS, *LONGER]
    expected = np.stack([twin(model, session) for session in sessions])
    np.testing.assert_allclose(encode(model, sessions).numpy(), expected, rtol=0, atol=1e-10)
    assert [type(layer) for layer in model.layers.values()] == [EOPA, SGAT, EOPA, SGAT, EOPA][:layers]


@pytest.mark.parametrize("off", LESSR.removable)
def test_equals_the_equations_without_a_part(off):
    switched, built = make(), make(without=(off,))
    switched.switched_off = off
    for model in (switched, built):
        expected = np.stack([twin(model, session, (off,)) for session in SESSIONS])
        np.testing.assert_allclose(encode(model, SESSIONS).numpy(), expected, rtol=0, atol=1e-10)
    assert not torch.allclose(encode(make(), SESSIONS), encode(switched, SESSIONS))
    absent = {"propagation": {"1", "3"}, "shortcut": {"1", "3"}, "gnn": {*"0123"}}.get(off, set())
    assert set(built.layers) == {*"0123"} - absent
