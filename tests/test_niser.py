"""NISER+ against its equations, written once more as plain loops over one session's nodes and clicks."""

import itertools

import numpy as np
import pytest
import torch

from models import NISER, SRGNN, Batch, Prefixes
from models.base import catalogue

# Repeats, self loops, one click, as many clicks as count, one more, and many more: with an edge across the cut.
SESSIONS = [[1, 2, 3, 2, 4], [6, 6], [7, 8, 7, 8, 7, 7], [5], [9, 1, 2, 3, 4, 5, 6, 1, 2, 2]]
LONGER = [[4, 9, 1, 2, 3, 4, 5, 6, 1, 2, 2], [2, 1, 7, 7, 2, 1, 3, 2, 1, 2, 1, 2, 5, 1], [8] * 23, [3, 4, 5, 6] * 5]


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def unit(x):
    return x / np.sqrt((x * x).sum())


def twin(model, session):
    """sigma s, the session vector of length sigma, in float64."""
    w = {name: p.detach().numpy() for name, p in model.named_parameters()}
    D, clicks = w["items"].shape[1], session[-10:]
    edges = set(itertools.pairwise(clicks))
    h0 = {v: unit(w["items"][v - 1]) for v in clicks}
    h = {}
    for v in h0:
        heard = []
        for side, name, neighbours in (
            (0, "gnn.edge_in.weight", [a for a, b in edges if b == v]),
            (1, "gnn.edge_out.weight", [b for a, b in edges if a == v]),
        ):
            total = w["gnn.bias_node"][side].copy()
            for u in neighbours:
                total += (w[name] @ h0[u] + w["gnn.bias_along"][side]) / len(neighbours)
            heard.append(total)
        gi = w["gnn.gate_ih.weight"] @ np.concatenate(heard) + w["gnn.gate_ih.bias"]
        gh = w["gnn.gate_hh.weight"] @ h0[v] + w["gnn.gate_hh.bias"]
        r, z = sigmoid(gi[:D] + gh[:D]), sigmoid(gi[D : 2 * D] + gh[D : 2 * D])
        h[v] = (1 - z) * np.tanh(gi[2 * D :] + r * gh[2 * D :]) + z * h0[v]
    P = w.get("position_bias", np.zeros((10, D)))
    u = [h[v] + P[t] for t, v in enumerate(clicks)]
    query = w["readout.attend_last.weight"] @ u[-1] + w["readout.attend_last.bias"] + w["readout.attend_all.bias"]
    overall = np.zeros(D)
    for u_t in u:
        alpha = w["readout.attend_score.weight"][0] @ sigmoid(query + w["readout.attend_all.weight"] @ u_t)
        overall += alpha * u_t
    return 16 * unit(w["readout.transform.weight"] @ np.concatenate([overall, u[-1]]) + w["readout.transform.bias"])


def make(seed=0, **options):
    torch.manual_seed(seed)
    return NISER(9, dim=6, **options).double().eval()


def encode(model, sessions):
    return model.encode(model.item_states(), Batch.of(sessions)).detach()


@pytest.mark.parametrize("options", [{}, {"positions": False}, {"without": ("positions",)}], ids=str)
def test_equals_the_equations(options):
    model, sessions = make(**options), [*SESSIONS, *LONGER]
    expected = np.stack([twin(model, session) for session in sessions])
    np.testing.assert_allclose(encode(model, sessions).numpy(), expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("longest", [0, 10, 14])
def test_of_longer_sessions_the_last_ten_clicks_count_whatever_the_batch_keeps(longest):
    model, items = make(), [item for session in LONGER for item in (*session, 1)]
    offsets = list(itertools.accumulate((len(session) + 1 for session in LONGER), initial=0))
    prefixes = Prefixes(items, offsets, longest=longest)
    vectors = model.encode(model.item_states(), prefixes.batch(prefixes.whole)).detach()
    torch.testing.assert_close(vectors, encode(model, [session[-10:] for session in LONGER]), rtol=0, atol=1e-12)
    assert not torch.allclose(vectors, encode(make(length=11), LONGER))


def test_without_the_plus_it_is_sr_gnn_with_unit_lengths():
    plain = NISER(9, **{**NISER.presets["niser"], "dim": 6}).double()  # it trains: there is no dropout to switch off
    srgnn = SRGNN(9, 6, normalised=True, scale=16.0, dropout=0.0).double()
    srgnn.load_state_dict(plain.state_dict())
    torch.testing.assert_close(encode(plain, SESSIONS), encode(srgnn, SESSIONS), rtol=0, atol=1e-12)
    for S, of in ((plain.item_states(), plain), (srgnn.item_states(), srgnn)):
        torch.testing.assert_close(catalogue(of, S)[0], S / S.norm(dim=1, keepdim=True))


def test_scores_are_sixteen_times_a_cosine():
    model = make()
    assert encode(model, SESSIONS).norm(dim=1).tolist() == pytest.approx([16.0] * len(SESSIONS))
    scores = model.scores(Batch.of(SESSIONS))
    with torch.no_grad():
        model.items *= torch.linspace(0.1, 9, 9)[:, None]  # lengths of items tell nothing
    torch.testing.assert_close(model.scores(Batch.of(SESSIONS)), scores)
    torch.testing.assert_close(make(scale=3.0).scores(Batch.of(SESSIONS)) * 16 / 3, scores)


def test_positions_count_forward_from_the_first_click():
    """The second click gets the second position, however many follow; the states of the graph have none."""
    model, seen = make(), []
    model.readout.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].detach()))
    for session in ([1, 2], [1, 2, 1], LONGER[0]):
        encode(model, [session])
        u, P = seen[-1], model.position_bias.detach()
        h = u - P[: len(u)]
        clicks = session[-10:]
        for s, t in itertools.combinations(range(len(clicks)), 2):
            assert torch.allclose(h[s], h[t]) is (clicks[s] == clicks[t])
    assert "position_bias" not in dict(make(positions=False).named_parameters())


def test_dropout_is_per_node_and_before_the_unit_length():
    model, seen = make(dropout=0.5, positions=False, without=("gnn",)).train(), []
    model.readout.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].detach()))
    encode(model, [[4, 2, 4]])
    u = seen[0]
    torch.testing.assert_close(u[0], u[2])  # both clicks on item 4 lost the same numbers
    torch.testing.assert_close(u.norm(dim=1), torch.ones(3).double())
    assert (u == 0).any()


def test_switched_off_positions_are_left_out():
    model, reduced = make(), make(without=("positions",))
    reduced.load_state_dict({name: model.state_dict()[name] for name in reduced.state_dict()})
    before = encode(model, SESSIONS)
    model.switched_off = "positions"
    torch.testing.assert_close(encode(model, SESSIONS), encode(reduced, SESSIONS))
    assert not torch.allclose(encode(model, SESSIONS), before)


def test_with_atten_mixers_readout_it_is_sr_gnn_with_that_readout_and_positions():
    """And its cut to ten clicks: the readout sees the states and positions of the last ten."""
    model = make(readout="attenmixer", levels=3, heads=2)
    srgnn = SRGNN(9, 6, readout="attenmixer", levels=3, heads=2, scale=16.0).double().eval()
    srgnn.load_state_dict({name: p for name, p in model.state_dict().items() if name != "position_bias"})
    assert not torch.allclose(encode(model, SESSIONS), encode(srgnn, SESSIONS))
    with torch.no_grad():
        model.position_bias.zero_()
    torch.testing.assert_close(encode(model, SESSIONS), encode(srgnn, SESSIONS), rtol=0, atol=1e-12)
    cut = encode(srgnn, [session[-10:] for session in LONGER])
    torch.testing.assert_close(encode(model, LONGER), cut, rtol=0, atol=1e-12)
    S = model.item_states()
    torch.testing.assert_close(catalogue(model, S)[0], S / S.norm(dim=1, keepdim=True))
    with pytest.raises(ValueError, match="levels"):
        make(readout="attenmixer", levels=11, heads=1).warnings(30)  # of which 10 count


@pytest.mark.parametrize(
    "wrong", [{"dropout": 1.0}, {"dropout": -0.1}, {"length": 0}, {"readout": "mean"}, {"levels": 3}], ids=str
)
def test_wrong_options_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        NISER(3, 2, **wrong)
