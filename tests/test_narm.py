"""NARM against its equations, written once more as plain loops, and against the scores of two PyTorch ports."""

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from models import NARM, Batch, check
from models.base import catalogue

PARITY = json.loads((Path(__file__).parent / "parity" / "narm.json").read_text())
SESSIONS = [[5], [1, 2, 3, 2, 4], [6, 6], [9, 1, 2, 3, 4, 5, 6, 1, 2, 2], [7, 8, 7, 8, 7, 7], [3]]


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def weights_of(model):
    return {name: p.detach().numpy() for name, p in model.named_parameters()}


def states_of(w, session, hidden):
    """The state of a GRU after each click."""
    h, states = np.zeros(hidden), []
    nothing = np.zeros(3 * hidden)
    for item in session:
        gi = w["gru.weight_ih_l0"] @ w["items"][item - 1] + w.get("gru.bias_ih_l0", nothing)
        gh = w["gru.weight_hh_l0"] @ h + w.get("gru.bias_hh_l0", nothing)
        (i_r, i_z, i_n), (h_r, h_z, h_n) = np.split(gi, 3), np.split(gh, 3)
        r, z = sigmoid(i_r + h_r), sigmoid(i_z + h_z)
        h = (1 - z) * np.tanh(i_n + r * h_n) + z * h
        states.append(h)
    return states


def readout(w, states, weigh):
    local = np.zeros_like(states[0])
    a = []
    for h in states:
        inner = w["readout.attend_last.weight"] @ states[-1] + w["readout.attend_all.weight"] @ h
        a.append(w["readout.attend_score.weight"][0] @ sigmoid(inner))
    for weight, h in zip(weigh(np.array(a)), states, strict=True):
        local += weight * h
    return w["readout.transform.weight"] @ np.concatenate([local, states[-1]])


def raw(a):
    return a


def softmax(a):
    return np.exp(a) / np.exp(a).sum()


def mean(a):
    return np.full_like(a, a.mean())


def make(seed=0, **options):
    torch.manual_seed(seed)
    model = NARM(9, **{"dim": 4, "hidden": 6, **options}).double().eval()
    with torch.no_grad():
        for p in model.parameters():
            p.normal_(0, 0.7)
    return model


def encode(model, sessions=SESSIONS):
    return model.encode(model.item_states(), Batch.of(sessions)).detach().numpy()


def assert_same(model, expected):
    np.testing.assert_allclose(encode(model), np.stack(expected), rtol=0, atol=1e-10)


@pytest.mark.parametrize("hidden", [4, 6, 3])
@pytest.mark.parametrize(("options", "weigh"), [({}, raw), ({"softmax": True}, softmax), ({"gru_bias": False}, raw)])
def test_equals_the_equations(hidden, options, weigh):
    model = make(hidden=hidden, **options)
    w = weights_of(model)
    assert ("gru.bias_ih_l0" in w) is options.get("gru_bias", True)
    assert_same(model, [readout(w, states_of(w, session, hidden), weigh) for session in SESSIONS])


def test_of_raw_weights_longer_sessions_have_larger_sums():
    """Without softmax the weights need not add up to 1: n equal states give n times the local part of one."""
    model = make(without=("encoder",))
    w = weights_of(model)
    matrix, x = w["readout.transform.weight"][:, :4], w["items"][1]
    one, three = encode(model, [[2], [2, 2, 2]])
    a = w["readout.attend_score.weight"][0] @ sigmoid(
        (w["readout.attend_last.weight"] + w["readout.attend_all.weight"]) @ x
    )
    np.testing.assert_allclose(three - one, 2 * a * matrix @ x, rtol=0, atol=1e-12)
    assert np.ptp(encode(make(softmax=True, without=("encoder",)), [[2], [2, 2, 2]]), axis=0) == pytest.approx(0)


@pytest.mark.parametrize("case", PARITY["cases"], ids=lambda case: case["source"])
def test_scores_are_those_of_the_ports(case):
    """The ports' own modules wrote these scores, with random weights in float64; their candidate 0 is left out."""
    model = NARM(11, dim=4, hidden=case["hidden"], gru_bias=case["gru_bias"]).double().eval()
    model.load_state_dict({name: torch.tensor(w, dtype=torch.float64) for name, w in case["weights"].items()})
    expected = torch.tensor(case["scores"], dtype=torch.float64)
    torch.testing.assert_close(model.scores(Batch.of(PARITY["sessions"])), expected, rtol=1e-9, atol=1e-13)


@pytest.mark.parametrize(("softmax_", "weigh"), [(False, mean), (True, mean)])
def test_attention_switched_off_gives_all_clicks_the_mean_weight(softmax_, weigh):
    model = make(softmax=softmax_)
    model.switched_off, w = "attention", weights_of(model)
    after = (lambda a: weigh(softmax(a))) if softmax_ else weigh
    assert_same(model, [readout(w, states_of(w, session, 6), after) for session in SESSIONS])


def test_built_without_attention_it_has_the_mean_of_the_states():
    model = make(without=("attention",))
    w, expected = weights_of(model), []
    for session in SESSIONS:
        h = np.stack(states_of(w, session, 6))
        expected.append(w["readout.transform.weight"] @ np.concatenate([h.mean(0), h[-1]]))
    assert_same(model, expected)


@pytest.mark.parametrize("hidden", [4, 6, 3])
def test_without_the_encoder_the_states_are_the_embeddings(hidden):
    off = make(hidden=hidden)
    off.switched_off, w = "encoder", weights_of(off)
    filled = np.zeros((9, hidden))
    filled[:, : min(4, hidden)] = w["items"][:, :hidden]
    assert_same(off, [readout(w, [filled[i - 1] for i in session], raw) for session in SESSIONS])
    built = make(hidden=hidden, without=("encoder",))
    w = weights_of(built)
    assert built.gru is None and w["readout.attend_all.weight"].shape == (4, 4)
    assert_same(built, [readout(w, [w["items"][i - 1] for i in session], raw) for session in SESSIONS])


def test_the_order_of_clicks_counts_through_the_gru_only():
    sessions = [[1, 2, 3, 4], [2, 3, 1, 4]]
    one, other = encode(make(), sessions)
    assert not np.allclose(one, other)
    one, other = encode(make(without=("encoder",)), sessions)
    np.testing.assert_allclose(one, other)


def test_dropout_falls_on_the_clicks_before_the_gru_and_on_both_parts():
    model, seen = make(dropout=0.5, session_dropout=0.0, without=("encoder",)).train(), {}
    model.readout.register_forward_pre_hook(lambda module, inputs: seen.update(states=inputs[0].detach()))
    model.readout.transform.register_forward_pre_hook(lambda module, inputs: seen.update(parts=inputs[0].detach()))
    encode(model, [[2] * 400])
    kept = seen["states"] != 0
    assert not (kept[0] == kept).all() and 0.4 < kept.double().mean() < 0.6  # clicks on one item differ
    torch.testing.assert_close(seen["states"][kept], 2 * model.items[1].detach().expand(400, 4)[kept])
    assert (seen["parts"][:, :4] != 0).all()
    model.dropout, model.readout.dropout = 0.0, 0.5
    encode(model, [[2]] * 400)
    lost = (seen["parts"] == 0).double().mean(0)
    assert (seen["states"] != 0).all() and ((lost > 0.4) & (lost < 0.6)).all()
    model.eval()
    np.testing.assert_allclose(*(encode(model) for _ in range(2)), rtol=0, atol=0)


def test_defaults_and_presets_are_those_of_the_sources():
    model = NARM(9)
    assert (model.dropout, model.readout.dropout, model.hidden) == (0.25, 0.5, 256)
    sizes = {name: NARM(9, **options) for name, options in NARM.presets.items()}
    shapes = {name: (model.items.shape[1], model.hidden) for name, model in sizes.items()}
    assert shapes == {
        "paper": (256, 256),
        "authors": (50, 100),
        "port": (50, 100),
        "recbole": (64, 128),
        "attenmixer": (256, 256),
    }
    assert [name for name, model in sizes.items() if getattr(model.readout, "softmax", None) is True] == ["authors"]
    assert NARM.recipes.keys() == {"authors", "port", "recbole"}


def test_initial_weights_of_the_sources():
    def spread(init, name, **options):
        torch.manual_seed(0)
        model = NARM(3000, dim=50, hidden=100, init=init, **options)
        return dict(model.named_parameters())[name].detach()

    assert spread("uniform", "items").abs().max() <= 50**-0.5 and spread("uniform", "gru.bias_ih_l0").std() > 0.01
    assert spread("port", "items").std() == pytest.approx(1, rel=0.05)
    assert spread("port", "readout.transform.weight").abs().max() == pytest.approx(50**-0.5, rel=0.01)
    assert spread("port", "readout.attend_all.weight").abs().max() == pytest.approx(0.1, rel=0.01)
    for name, ends in (("items", (3000, 50)), ("readout.transform.weight", (50, 200))):
        assert spread("recbole", name).std() == pytest.approx((2 / sum(ends)) ** 0.5, rel=0.05)
    assert spread("recbole", "gru.weight_hh_l0").abs().max() == pytest.approx(0.1, rel=0.01)
    rows = {"items": 3000, "gru.weight_ih_l0": 50, "readout.attend_all.weight": 100, "readout.transform.weight": 50}
    for name, n in rows.items():
        assert spread("authors", name).std() == pytest.approx((2 / n) ** 0.5, rel=0.05)
    for gate in spread("authors", "gru.weight_hh_l0").chunk(3):
        torch.testing.assert_close(gate @ gate.T, torch.eye(100), atol=1e-5, rtol=0)
    assert not spread("authors", "gru.bias_hh_l0").any()


def test_atten_mixer_reads_the_states_of_the_gru():
    model = make(hidden=None, readout="attenmixer", heads=2, levels=2, scale=3.0)
    w, seen = weights_of(model), []
    model.readout.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].detach().numpy()))
    vectors = encode(model)
    h = np.concatenate([states_of(w, session, 4) for session in SESSIONS])
    np.testing.assert_allclose(seen[0], h, rtol=0, atol=1e-12)
    assert vectors.shape == (len(SESSIONS), 4) and model.readout.scale == 3.0
    S = model.item_states()
    torch.testing.assert_close(catalogue(model, S)[0], S / S.norm(dim=1, keepdim=True))
    assert {m.role for m in model.matrices.values()} == {"encoder", "attention", "transformation"}
    check.check(model.float(), 9)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"hidden": 0}, "hidden is at least 1"),
        ({"dropout": 1.0}, "^dropout is from 0"),
        ({"session_dropout": -0.1}, "^session_dropout is from 0"),
        ({"init": "zeros"}, "init is one of"),
        ({"readout": "mean"}, "readout is"),
        ({"heads": 2}, "heads"),
        ({"readout": "attenmixer", "hidden": 3}, "hidden = dim"),
        ({"readout": "attenmixer", "softmax": True}, "softmax"),
        ({"readout": "attenmixer", "init": "port"}, "init"),
    ],
    ids=str,
)
def test_wrong_options_are_refused(wrong, says):
    with pytest.raises(ValueError, match=says):
        NARM(3, 2, **wrong)


def test_a_batch_of_any_order_gives_the_vectors_of_the_sessions_alone():
    model = make()
    alone = np.concatenate([encode(model, [session]) for session in SESSIONS])
    for order in itertools.islice(itertools.permutations(range(len(SESSIONS))), 0, 720, 97):
        np.testing.assert_allclose(encode(model, [SESSIONS[i] for i in order]), alone[list(order)], rtol=0, atol=1e-12)
