"""LESSR against its equations, written once more as plain loops over one session's nodes and transitions."""

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from dissect.data.sessions import Dataset, Sessions
from dissect.runs.config import Config
from dissect.sparsevd import one_sample, sparsify
from dissect.sparsevd.shadows import Shadows
from dissect.training.checkpoint import load_checkpoint
from dissect.training.loop import fit
from models import LESSR, Batch
from models.lessr_layers import EOPA, SGAT, Norm

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


def test_scores_are_those_of_the_authors_modules():
    """tests/parity/lessr.json: random weights, sessions, and the scores of twchen/lessr (39a21e3) in double."""
    kept = json.loads((Path(__file__).parent / "parity" / "lessr.json").read_text())
    model = LESSR(**kept["options"]).double().eval()
    missing, unexpected = model.load_state_dict(
        {name: torch.tensor(value, dtype=torch.float64) for name, value in kept["weights"].items()}, strict=False
    )
    assert all(name.endswith("num_batches_tracked") for name in missing) and not unexpected
    scores = torch.tensor(kept["scores"], dtype=torch.float64)
    torch.testing.assert_close(model.scores(Batch.of(kept["sessions"])), scores, rtol=1e-9, atol=1e-12)


def test_the_order_of_transitions_into_a_node_counts_and_every_one_of_them():
    """Item 2 hears from 1 and 3: once each in either order, or from 1 twice. Merged edges see no difference."""
    sessions = [[1, 2, 3, 2], [3, 2, 1, 2], [1, 2, 1, 2], [1, 2]]
    for options, differ in (({}, True), ({"without": ("order",)}, False)):
        layer, batch = make(**options).layers["0"], Batch.of(sessions)
        x = make().items.detach()[batch.nodes.items - 1]
        out = layer(x, batch.transitions, None).detach()
        last = out[batch.nodes.of_click[batch.clicks.last]]
        assert torch.allclose(last[0], last[1]) is not differ
        assert torch.allclose(last[2], last[3]) is not differ  # the mean of two that are equal is that one


def test_batch_norm_is_over_the_nodes_of_a_batch():
    model, sessions = make(dropout=0.0).train(), SESSIONS[:4]
    model.readout.norm.momentum = 1.0
    seen = []
    model.readout.norm.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].detach()))
    vectors = encode(model, sessions)
    assert len(seen[0]) == sum(len(set(session)) for session in sessions)
    torch.testing.assert_close(model.readout.norm.running_mean, seen[0].mean(0))
    torch.testing.assert_close(encode(model, sessions[::-1]), vectors.flip(0))  # whatever their order
    mean = model.readout.last_norm.running_mean.clone()
    assert encode(model, [[1, 2]]).isfinite().all()  # one session alone has no statistics for the norm of its vector
    assert torch.equal(model.readout.last_norm.running_mean, mean)


def test_rows_longer_than_one_are_cut_as_an_embedding_with_max_norm_cuts_them():
    torch.manual_seed(0)
    model, embedding = LESSR(9, D, dropout=0.0), nn.Embedding(9, D, max_norm=1.0)
    with torch.no_grad():
        model.items *= torch.linspace(0.1, 1.5, 9)[:, None]
        embedding.weight.copy_(model.items)
    before, ids, by = model.items.detach().clone(), torch.arange(9), torch.randn(9, D)
    of_evaluation = model.eval().item_states()
    assert torch.equal(model.items, before)  # evaluation leaves the weights as they are
    S = model.train().item_states()
    (embedding(ids) * by).sum().backward()
    (S * by).sum().backward()
    torch.testing.assert_close(S, embedding.weight)
    torch.testing.assert_close(model.items.grad, embedding.weight.grad)
    torch.testing.assert_close(of_evaluation, S, rtol=0, atol=0)
    assert (before.norm(dim=1) > 1).any() and (before.norm(dim=1) < 0.9).any() and S.norm(dim=1).max() <= 1 + 1e-6
    assert torch.equal(model.item_states().detach(), S.detach().clone())  # nothing is left to cut
    many = LESSR(3000, 16)
    assert torch.equal(many.item_states().detach().clone(), many.item_states().detach())  # in spite of rounding
    assert S is model.items  # so gradients of a plain loop and of sparse look-ups are those of the parameter


def planted(seed=0):
    starts = torch.randint(0, 9, (80,), generator=torch.Generator().manual_seed(seed)).tolist()
    sessions = [[(start + step) % 9 + 1 for step in range(2 + start % 4)] * 2 for start in starts]
    return Dataset("planted", 9, Sessions.from_lists(sessions[:60]), Sessions.from_lists(sessions[60:]))


def test_a_last_batch_of_one_session_trains_too(tmp_path):
    data = Dataset("one", 12, Sessions.from_lists([[1, 2, 3, 4]] * 11), Sessions.from_lists([[1, 2]] * 3))
    config = Config("lessr", "one", data.split_hash, {"dim": D}, where="none", max_steps=10, batch_size=8, validation=0)
    fit(lambda: LESSR(12, D), data, config, tmp_path / "s1", seed=1)  # 33 prefixes: the last batch of an epoch has one
    norm = Norm(3)
    assert torch.equal(norm(torch.ones(1, 3)), norm.eval()(torch.ones(1, 3))) and norm.num_batches_tracked == 0


def test_averaged_parameters_get_statistics_of_their_own(tmp_path):
    data = planted()
    settings = {"where": "none", "lr": 0.02, "max_steps": 40, "batch_size": 32, "average": 0.5, "optimiser": "adamw"}
    config = Config("lessr", "planted", data.split_hash, {"dim": 8}, **settings)
    fit(lambda: LESSR(9, 8), data, config, tmp_path, seed=1)
    saved = load_checkpoint(tmp_path / "checkpoints" / "last.pt")
    name = "readout.norm.running_mean"
    means = {key.removeprefix("model."): value for key, value in saved["averages"]["means"].items()}
    assert not torch.equal(means[name], saved["model"][name])
    assert means["items"].norm(dim=1).max() < 1.1


@pytest.mark.parametrize("noise", ["lrt", "weight"])
def test_with_sparse_layers_and_shadows_every_matrix_learns(noise):
    model, batch = LESSR(9, 8), Batch.of(SESSIONS)
    sparsify(model, noise=noise)
    shadows = Shadows(model)
    assert {name.removesuffix(".weight") for name in shadows.names} == set(model.matrices)
    with one_sample(model), shadows.cast(model):
        vectors = model.encode(model.item_states(), batch)
    F.cross_entropy(vectors @ model.items.t(), torch.zeros(len(batch)).long()).backward()
    for name, parameter in (*model.named_parameters(), *shadows.named_parameters()):
        # The second of three transitions into a node has too few others in this batch for a shadow of gate_hh.
        assert parameter.grad is not None and torch.isfinite(parameter.grad).all(), name
        assert parameter.grad.abs().max() > 0 or "gate_hh" in name, name


@pytest.mark.parametrize("sessions", [[[1], [2]], [[1, 2], [3, 4, 5]]], ids=str)
def test_batches_without_transitions_or_with_one_into_each_node_use_the_same_matrices(sessions):
    model = LESSR(9, D)
    model.encode(model.item_states(), Batch.of(sessions)).sum().backward()
    assert [name for name, p in model.named_parameters() if p.grad is None] == []


def test_dropout_is_at_the_inputs_of_the_layers_but_not_at_what_a_node_keeps_of_itself():
    model, seen = make(dropout=0.5).train(), {}
    for name, module in model.named_modules():
        hook = lambda module, inputs, name=name: seen.update({name: inputs[0].detach()})  # noqa: E731
        module.register_forward_pre_hook(hook)
    encode(model, SESSIONS)
    dropped = {f"layers.{i}.{name}" for i, name in itertools.product("13", ("query", "key", "value"))}
    dropped |= {"layers.0.gate_ih", "layers.2.gate_ih", *(f"readout.{n}" for n in ("attend_all", "attend_last"))}
    for name in (*dropped, "readout.transform"):
        assert 0.3 < (seen[name] == 0).double().mean() < 0.7, name
    kept = ("layers.0.own", "layers.2.own", "layers.0.norm", "layers.3.norm", "readout.norm", "readout.last_norm")
    for name in kept:
        assert (seen[name] == 0).double().mean() < 0.01, name


def test_it_begins_as_pytorch_begins():
    torch.manual_seed(0)
    model = LESSR(2000, 16)
    assert model.items.std().item() == pytest.approx(1, abs=0.02)
    gru, layer = nn.GRU(48, 48), model.layers["2"]
    for mine, usual in ((layer.gate_ih, "ih"), (layer.gate_hh, "hh")):
        for kind in ("weight", "bias"):
            a, b = getattr(mine, kind), getattr(gru, f"{kind}_{usual}_l0")
            assert a.shape == b.shape and a.abs().max().item() == pytest.approx(b.abs().max().item(), rel=0.05)
            assert a.std().item() == pytest.approx(b.std().item(), rel=0.2)


def test_presets_are_those_of_the_sources():
    recipe = {"optimiser": "adamw", "lr": 1e-3, "l2": 1e-4, "schedule": "constant", "batch_size": 512, "patience": 2}
    for preset, dim in (("authors", 32), ("authors-gowalla", 64), ("authors-lastfm", 128)):
        assert LESSR.presets[preset] == {"dim": dim, "layers": 4} and LESSR.recipes[preset] == recipe
    assert LESSR.presets["paper"]["dim"] == 256 and "paper" not in LESSR.recipes


@pytest.mark.parametrize("wrong", [{"dropout": 1.0}, {"dropout": -0.1}, {"layers": 0}, {"layers": 17}], ids=str)
def test_wrong_options_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        LESSR(3, 2, **wrong)
