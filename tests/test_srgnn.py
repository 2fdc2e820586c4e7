"""SR-GNN against its equations, written once more as plain loops over sessions, nodes and clicks."""

import itertools

import numpy as np
import pytest
import torch
from torch import Tensor

from dissect.training.scoring import catalogue
from models.graph import build, pack
from models.readout import AttenMixerReadout
from models.srgnn import SRGNN

SESSIONS = [[1, 2, 3, 2, 4], [5], [6, 6], [7, 8, 7, 8, 7], [9, 1, 2, 3, 4, 5, 6, 1, 2], [3, 2, 1], [1, 2, 1, 2, 3, 2]]


def pad(sessions: list[list[int]], width: int | None = None) -> tuple[Tensor, Tensor]:
    lengths = torch.tensor([len(s) for s in sessions])
    items = torch.zeros(len(sessions), width or int(lengths.max()), dtype=torch.long)
    for row, session in enumerate(sessions):
        items[row, : len(session)] = torch.tensor(session)
    return items, lengths


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def length_one(x: np.ndarray) -> np.ndarray:
    return x / np.sqrt((x * x).sum())


def twin_states(model: SRGNN, session: list[int]) -> dict[int, np.ndarray]:
    """The states of a session's items after propagation (AAAI 2019, eq. 1-5, as the authors' code computes them)."""
    w = {name: p.detach().numpy() for name, p in model.named_parameters()}
    D = w["items"].shape[1]
    nodes = list(dict.fromkeys(session))
    edges = {(a, b) for a, b in itertools.pairwise(session)}  # a transition seen twice counts once
    H = {v: length_one(w["items"][v - 1]) if model.normalised else w["items"][v - 1] for v in nodes}
    for _ in range(model.steps):
        new = {}
        for v in nodes:
            if "edge_in.weight" in w:
                g = []
                for side, name, neighbours in (
                    (0, "edge_in", [a for a in nodes if (a, v) in edges]),
                    (1, "edge_out", [b for b in nodes if (v, b) in edges]),
                ):
                    total = w["bias_node"][side].copy()
                    for u in neighbours:
                        total += (w[f"{name}.weight"] @ H[u] + w["bias_along"][side]) / len(neighbours)
                    g.append(total)
                gi = w["gate_ih.weight"] @ np.concatenate(g) + w["gate_ih.bias"]
            else:
                gi = w["gate_bias"]
            gh = w["gate_hh.weight"] @ H[v] + w["gate_hh.bias"]
            r, z = sigmoid(gi[:D] + gh[:D]), sigmoid(gi[D : 2 * D] + gh[D : 2 * D])
            n = np.tanh(gi[2 * D :] + r * gh[2 * D :])
            new[v] = (1 - z) * n + z * H[v]
        H = new
    return H


def twin(model: SRGNN, session: list[int]) -> np.ndarray:
    """The session vector by SR-GNN's equations (eq. 6 and 7), with the length of NISER where that is asked."""
    w = {name: p.detach().numpy() for name, p in model.named_parameters()}
    D = w["items"].shape[1]
    H = twin_states(model, session)
    last = H[session[-1]]
    s_g = np.zeros(D)
    for v in session:
        if "attend_last.weight" in w:
            inner = w["attend_last.weight"] @ last + w["attend_last.bias"] + w["attend_all.weight"] @ H[v]
            alpha = w["attend_score.weight"][0] @ sigmoid(inner + w["attend_all.bias"])
        else:
            alpha = 1 / len(session)
        s_g += alpha * H[v]
    vector = w["transform.weight"] @ np.concatenate([s_g, last]) + w["transform.bias"]
    return 16 * length_one(vector) if model.normalised else vector


def make(dim: int = 6, n_items: int = 9, seed: int = 0, **options) -> SRGNN:
    torch.manual_seed(seed)
    return SRGNN(n_items, dim, **options).double()


def encode(model: SRGNN, sessions: list[list[int]], width: int | None = None) -> Tensor:
    return model.encode(model.item_states(), *pad(sessions, width))[0].detach()


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"steps": 3},
        {"steps": 0},
        {"propagation": "A(HW)"},
        {"without": ("propagation",)},
        {"without": ("gnn",)},
        {"without": ("attention",)},
        {"normalised": True, "scale": 16.0},
        {"normalised": True, "scale": 16.0, "steps": 0},
    ],
    ids=str,
)
def test_equals_the_equations(options):
    model = make(**options).eval()
    expected = np.stack([twin(model, session) for session in SESSIONS])
    np.testing.assert_allclose(encode(model, SESSIONS).numpy(), expected, atol=1e-12)


@pytest.mark.parametrize("steps", [0, 1])
def test_atten_mixer_reads_out_the_propagated_states(steps):
    model = make(steps=steps, readout="attenmixer", levels=3, heads=2).eval()
    own = AttenMixerReadout(6, levels=3, heads=2).double()
    own.load_state_dict(model.readout.state_dict())
    for vector, session in zip(encode(model, SESSIONS), SESSIONS, strict=True):
        H = twin_states(model, session)
        states = torch.from_numpy(np.stack([H[item] for item in session]))
        torch.testing.assert_close(vector, own(states, torch.tensor([len(session)]))[0].detach())
    layers = {name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)}
    assert layers == {name for name, matrix in model.matrices.items() if steps or matrix.module != "gnn"}


def test_normalised_candidates_have_length_one_and_dropout_is_per_node():
    model = make(normalised=True, dropout=0.5, steps=0, without=("attention",))
    S = model.item_states()
    assert model.unit_candidates and not make().unit_candidates and model.candidates(S)[0] is S
    torch.testing.assert_close(catalogue(model, S)[0], S / S.norm(dim=1, keepdim=True))
    seen = []
    model.read_out = lambda states, clicks: seen.append(states) or states[:1]  # type: ignore[method-assign]
    model.encode(S, *pad([[4, 2, 4]]))
    dropped = seen[0]
    torch.testing.assert_close(dropped[0], dropped[2])  # both clicks on item 4 lost the same numbers
    torch.testing.assert_close(dropped.norm(dim=1), torch.ones(3).double())
    assert (dropped == 0).any() and not torch.allclose(dropped[0], S[3] / S[3].norm())


def test_scores_use_the_raw_item_table():
    model = make()
    matrix, bias = model.candidates(model.item_states())
    assert matrix is model.items and bias is None


def test_padding_order_and_batch_size_change_nothing():
    model = make()
    together = encode(model, SESSIONS)
    torch.testing.assert_close(encode(model, SESSIONS, width=40), together)
    torch.testing.assert_close(encode(model, SESSIONS[::-1]).flip(0), together)
    alone = torch.cat([encode(model, [session]) for session in SESSIONS])
    torch.testing.assert_close(alone, together)


def test_the_two_orders_of_propagation_are_equal_without_noise():
    one, other = make(), make(propagation="A(HW)")
    torch.testing.assert_close(encode(one, SESSIONS), encode(other, SESSIONS))


def test_gradient_reaches_every_parameter():
    model = make()
    vectors, _ = model.encode(model.item_states(), *pad(SESSIONS))
    (vectors * torch.randn_like(vectors)).sum().backward()
    for name, parameter in model.named_parameters():
        gradient = parameter.grad.to_dense() if parameter.grad.is_sparse else parameter.grad
        assert gradient.abs().sum() > 0, name


def test_every_weight_matrix_is_declared():
    model = make()
    matrices = {name.removesuffix(".weight") for name, p in model.named_parameters() if name.endswith(".weight")}
    assert matrices == set(SRGNN.matrices)


@pytest.mark.parametrize(("off", "without"), [("gnn", "gnn")])
def test_switching_off_equals_leaving_out(off, without):
    model, reduced = make(), make(without=(without,))
    reduced.load_state_dict({name: model.state_dict()[name] for name in reduced.state_dict()})
    model.switched_off = off
    torch.testing.assert_close(encode(model, SESSIONS), encode(reduced, SESSIONS))


def test_switched_off_propagation_leaves_only_the_input_bias():
    model, reduced = make(), make(without=("propagation",))
    state = {name: model.state_dict()[name] for name in reduced.state_dict() if name != "gate_bias"}
    reduced.load_state_dict({**state, "gate_bias": model.gate_ih.bias.detach()})
    model.switched_off = "propagation"
    torch.testing.assert_close(encode(model, SESSIONS), encode(reduced, SESSIONS))


def test_switched_off_attention_keeps_the_total_weight():
    model = make()
    model.switched_off = "attention"
    # Equal clicks have equal states, so replacing their weights by the mean changes nothing.
    torch.testing.assert_close(encode(model, [[4, 4, 4], [5]]), encode(make(), [[4, 4, 4], [5]]))
    assert not torch.allclose(encode(model, SESSIONS), encode(make(), SESSIONS))


def test_graph_of_the_textbook_session():
    graph = build(pack(*pad([[1, 2, 3, 2, 4]])))
    item = graph.nodes.tolist()
    edges = {(item[a], item[b]) for a, b in zip(graph.source.tolist(), graph.target.tolist())}
    assert edges == {(1, 2), (2, 3), (3, 2), (2, 4)}
    assert dict(zip(item, graph.in_degree.tolist())) == {1: 0, 2: 2, 3: 1, 4: 1}
    assert dict(zip(item, graph.out_degree.tolist())) == {1: 1, 2: 2, 3: 1, 4: 0}
    assert [item[n] for n in graph.click_node.tolist()] == [1, 2, 3, 2, 4]


def test_the_same_item_in_two_sessions_is_two_nodes():
    graph = build(pack(*pad([[1, 2], [2, 1]])))
    assert len(graph.nodes) == 4 and len(graph.source) == 2


def test_unknown_order_of_propagation_is_refused():
    with pytest.raises(ValueError, match=r"\(AH\)W"):
        SRGNN(3, 2, propagation="HW")


def test_arguments_of_another_readout_are_refused():
    with pytest.raises(ValueError, match="levels"):
        SRGNN(3, 2, levels=3)
    with pytest.raises(ValueError, match="attenmixer"):
        SRGNN(3, 2, readout="mean")
