"""SGNN-HN against its equations, written once more as plain loops over one session's nodes and clicks."""

import itertools

import numpy as np
import pytest
import torch

from models import SGNNHN, Batch, Prefixes
from models.base import catalogue
from models.mixer import AttenMixerReadout
from models.normalise import centred_unit, centred_unit_rows

# Repeats, self loops, one click, as many clicks as count, one more, and many more: with an edge across the cut.
SESSIONS = [[1, 2, 3, 2, 4], [6, 6], [7, 8, 7, 8, 7, 7], [5], [9, 1, 2, 3, 4, 5, 6, 1, 2, 2]]
LONGER = [[4, 9, 1, 2, 3, 4, 5, 6, 1, 2, 2], [2, 1, 7, 7, 2, 1, 3, 2, 1, 2, 1, 2, 5, 1], [8] * 23, [3, 4, 5, 6] * 5]


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def centred(x):
    x = x - x.mean()
    return x / np.sqrt((x * x).sum())


def linear(w, name, x):
    return w[f"{name}.weight"] @ x + w.get(f"{name}.bias", 0)


def propagated(w, h, edges):
    """One step of gated propagation: what each node becomes."""
    new, D = {}, len(next(iter(h.values())))
    for v in h:
        heard = []
        for side, name, neighbours in (
            (0, "gnn.edge_in", [a for a, b in edges if b == v]),
            (1, "gnn.edge_out", [b for a, b in edges if a == v]),
        ):
            if f"{name}.weight" not in w:
                continue
            total = w["gnn.bias_node"][side].copy()
            for u in neighbours:
                total += (w[f"{name}.weight"] @ h[u] + w["gnn.bias_along"][side]) / len(neighbours)
            heard.append(total)
        gi = linear(w, "gnn.gate_ih", np.concatenate(heard)) if heard else w["gnn.gate_bias"]
        gh = linear(w, "gnn.gate_hh", h[v])
        r, z = sigmoid(gi[:D] + gh[:D]), sigmoid(gi[D : 2 * D] + gh[D : 2 * D])
        new[v] = (1 - z) * np.tanh(gi[2 * D :] + r * gh[2 * D :]) + z * h[v]
    return new


def states(model, session):
    """(the states of the items of a session, its star)."""
    w = {name: p.detach().numpy() for name, p in model.named_parameters()}
    D, clicks = w["items"].shape[1], session[-model.length :]
    edges = set(itertools.pairwise(clicks))
    h0 = {v: w["items"][v - 1] for v in clicks}
    star = sum(h0.values()) / len(h0)  # each item once, however often it was clicked
    if model.gnn is None:
        return h0, star
    mapped = "star.gate_node.weight" in w
    through = lambda name, x: w[f"star.{name}.weight"] @ x if mapped else x  # noqa: E731
    h = h0
    for _ in range(model.steps):
        h = propagated(w, h, edges)
        if model.star is None:
            continue
        for v in h:
            gate = through("gate_node", h[v]) @ through("gate_star", star) / np.sqrt(D)
            gate = gate if mapped else sigmoid(gate)
            h[v] = (1 - gate) * h[v] + gate * star
        e = {
            v: np.exp(through("attend_node", h[v]) @ through("attend_star", star) / (D**0.5 if mapped else 1))
            for v in h
        }
        star = sum(e[v] * h[v] for v in h) / sum(e.values())
    if "highway.weight" in w:
        for v in h:
            g = sigmoid(linear(w, "highway", np.concatenate([h0[v], h[v]])))
            h[v] = g * h0[v] + (1 - g) * h[v]
    return h, star


def twin(model, session):
    """tau s, the centred session vector of length tau, in float64."""
    w = {name: p.detach().numpy() for name, p in model.named_parameters()}
    h, star = states(model, session)
    u = [h[v] for v in session[-model.length :]]
    if "position_bias" in w:
        u = [x + w["position_bias"][t] for t, x in enumerate(u)]
    overall = 0
    for u_t in u:
        if "readout.attend_score.weight" in w:
            asks = linear(w, "readout.attend_last", u[-1]) + linear(w, "readout.attend_all", u_t)
            asks = asks + linear(w, "attend_star", star) if "attend_star.weight" in w else asks
            alpha = w["readout.attend_score.weight"][0] @ sigmoid(asks)
        else:
            alpha = 1 / len(u)
        overall = overall + alpha * u_t
    return model.scale * centred(linear(w, "readout.transform", np.concatenate([overall, u[-1]])))


def make(seed=0, **options):
    torch.manual_seed(seed)
    return SGNNHN(9, **{"dim": 6, **options}).double().eval()


def encode(model, sessions):
    return model.encode(model.item_states(), Batch.of(sessions)).detach()


OPTIONS = [
    {},
    {"steps": 3},
    {"steps": 0},
    {"star": "mapped"},
    {"star": "mapped", "steps": 6, "length": 12},
    {"highway": False, "steps": 2},
    {"scale": 3.0},
    {"star": "mapped", "steps": 2, "without": ("star",)},
    *({"steps": 2, "without": (part,)} for part in SGNNHN.removable),
    {"without": ("star", "highway", "positions")},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_equals_the_equations(options):
    model, sessions = make(**options), [*SESSIONS, *LONGER]
    expected = np.stack([twin(model, session) for session in sessions])
    np.testing.assert_allclose(encode(model, sessions).numpy(), expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("options", OPTIONS[1:], ids=str)
def test_every_option_changes_the_vectors(options):
    """With the same weights where both have them."""
    model, other = make(), make(**options)
    wanted = other.state_dict()
    same = {name: p for name, p in model.state_dict().items() if name in wanted and p.shape == wanted[name].shape}
    other.load_state_dict({**wanted, **same})
    assert not torch.allclose(encode(other, LONGER[1:2]), encode(model, LONGER[1:2]))


@pytest.mark.parametrize("longest", [0, 10, 14])
def test_of_longer_sessions_the_last_ten_clicks_count_whatever_the_batch_keeps(longest):
    model, items = make(), [item for session in LONGER for item in (*session, 1)]
    offsets = list(itertools.accumulate((len(session) + 1 for session in LONGER), initial=0))
    prefixes = Prefixes(items, offsets, longest=longest)
    vectors = model.encode(model.item_states(), prefixes.batch(prefixes.whole)).detach()
    torch.testing.assert_close(vectors, encode(model, [session[-10:] for session in LONGER]), rtol=0, atol=1e-12)


def test_the_star_begins_as_the_mean_of_the_different_items():
    model = make(without=("gnn",))
    for session in SESSIONS:
        batch = Batch.of([session, [1] * 9])  # a longer one beside it: padding has no part in the mean
        star = model.states(model.items[batch.nodes.items - 1], batch)[1][0]
        torch.testing.assert_close(star, model.items[torch.tensor(sorted(set(session))) - 1].mean(0))


def test_scores_are_twelve_times_a_correlation():
    model = make()
    vectors, scores = encode(model, SESSIONS), model.scores(Batch.of(SESSIONS))
    assert vectors.norm(dim=1).tolist() == pytest.approx([12.0] * len(SESSIONS))
    correlation = np.corrcoef(vectors.numpy(), model.items.detach().numpy())[: len(SESSIONS), len(SESSIONS) :]
    np.testing.assert_allclose(scores.numpy(), 12 * correlation, atol=1e-12)
    S, rows = model.item_states(), torch.tensor([3, 0, 3])
    torch.testing.assert_close(
        catalogue(model, S)[0][rows], catalogue(model, S[rows])[0]
    )  # sampled softmax asks for rows


@pytest.mark.parametrize("V", [3, 2500])
def test_the_table_is_centred_in_parts_with_the_gradient_of_the_whole(V):
    torch.manual_seed(V)
    whole, parts = (torch.randn(V, 5, dtype=torch.float64).requires_grad_() for _ in range(2))
    with torch.no_grad():
        whole.copy_(parts)
    weights = torch.randn(V, 5, dtype=torch.float64)
    expected, found = centred_unit(whole), centred_unit_rows(parts)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(found.sum(1), torch.zeros(V).double())
    (expected * weights).sum().backward()
    (found * weights).sum().backward()
    torch.testing.assert_close(parts.grad, whole.grad)


@pytest.mark.parametrize("star", ["dot", "mapped"])
@pytest.mark.parametrize("part", ["gnn", "star", "highway", "positions"])
def test_switching_off_equals_leaving_out(part, star):
    model, reduced = make(star=star, steps=2), make(star=star, steps=2, without=(part,))
    state = model.state_dict()
    if part == "star":  # of the star's own question only the bias remains
        state["readout.attend_all.bias"] = state["readout.attend_all.bias"] + state["attend_star.bias"]
    reduced.load_state_dict({name: state[name] for name in reduced.state_dict()})
    before = encode(model, SESSIONS)
    model.switched_off = part
    torch.testing.assert_close(encode(model, SESSIONS), encode(reduced, SESSIONS))
    assert not torch.allclose(encode(model, SESSIONS), before)


def test_switched_off_propagation_leaves_only_the_input_bias():
    model, reduced = make(steps=2), make(steps=2, without=("propagation",))
    state = {**model.state_dict(), "gnn.gate_bias": model.gnn.gate_ih.bias.detach()}
    reduced.load_state_dict({name: state[name] for name in reduced.state_dict()})
    model.switched_off = "propagation"
    torch.testing.assert_close(encode(model, SESSIONS), encode(reduced, SESSIONS))


def test_switched_off_attention_keeps_the_total_weight():
    model = make(without=("positions",))
    before = encode(model, [[4, 4, 4], [5]]), encode(model, SESSIONS)
    model.switched_off = "attention"
    torch.testing.assert_close(encode(model, [[4, 4, 4], [5]]), before[0])  # equal clicks have equal weights already
    assert not torch.allclose(encode(model, SESSIONS), before[1])


@pytest.mark.parametrize("options", [{}, {"steps": 2, "star": "mapped"}, {"without": ("positions",)}], ids=str)
def test_atten_mixer_reads_out_the_states_of_the_clicks(options):
    model = make(readout="attenmixer", levels=3, heads=2, **options)
    own = AttenMixerReadout(6, levels=3, heads=2).double()
    own.load_state_dict(model.readout.state_dict())
    for vector, session in zip(encode(model, SESSIONS), SESSIONS, strict=True):
        u = torch.from_numpy(np.stack([states(model, session)[0][item] for item in session]))
        if model.position_bias is not None:
            u = u + model.position_bias.detach()[: len(u)]
        torch.testing.assert_close(vector, own(u, Batch.of([session]).clicks)[0].detach())
    S = model.item_states()
    torch.testing.assert_close(catalogue(model, S)[0], S / S.norm(dim=1, keepdim=True))
    layers = {name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)}
    assert layers == set(model.matrices)


def test_matrices_are_those_of_the_options():
    shares = {
        name: {n for n, matrix in make(star=name).matrices.items() if matrix.is_of("star")}
        for name in ("dot", "mapped")
    }
    assert shares["dot"] == {"attend_star"} and len(shares["mapped"]) == 5
    assert "highway" in make().matrices and "highway" not in make(highway=False).matrices
    for options in OPTIONS:
        model = make(**{k: v for k, v in options.items() if k != "without"})
        layers = {name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)}
        absent = set(model.matrices) - layers
        assert layers <= set(model.matrices) and all(model.matrices[name].module == "gnn" for name in absent)
        assert not absent or model.steps == 0


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"dim": 1}, "dim is at least 2"),
        ({"steps": -1}, "steps is at least 0"),
        ({"length": 0}, "length is at least 1"),
        ({"star": "gate"}, "star is one of dot, mapped"),
        ({"readout": "mean"}, "attenmixer"),
        ({"levels": 3}, "levels=3: only with"),
    ],
    ids=str,
)
def test_wrong_options_are_refused(wrong, says):
    with pytest.raises(ValueError, match=says):
        make(**wrong)


def test_more_levels_than_clicks_that_count_are_refused():
    model = make(readout="attenmixer", levels=11, heads=1)
    with pytest.raises(ValueError, match="levels"):
        model.warnings(30)  # clicks of the longest prefix, of which 10 count
    assert make(readout="attenmixer", levels=11, heads=1, length=12).warnings(30) == []
    assert make().warnings(30) == []
