"""SR-GNN against its equations, written once more as plain loops over sessions, nodes and clicks."""

import itertools

import numpy as np
import pytest
import torch
from torch import Tensor

from dissect.data import planted
from dissect.data.sessions import split_validation
from dissect.runs.config import Config
from dissect.training.evaluation import evaluate, metrics, prefixes_of
from dissect.training.loop import ExampleOrder, train_step
from dissect.training.scoring import score_buffer
from dissect.training.setup import assemble
from models.base import catalogue, with_current_names
from models.batch import Batch
from models.mixer import AttenMixerReadout
from models.srgnn import SRGNN

SESSIONS = [[1, 2, 3, 2, 4], [5], [6, 6], [7, 8, 7, 8, 7], [9, 1, 2, 3, 4, 5, 6, 1, 2], [3, 2, 1], [1, 2, 1, 2, 3, 2]]


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def length_one(x: np.ndarray) -> np.ndarray:
    return x / np.sqrt((x * x).sum())


def weights_of(model: SRGNN) -> dict[str, np.ndarray]:
    """By their names within the part that has them."""
    short = lambda name: name.removeprefix("gnn.").removeprefix("readout.")  # noqa: E731
    return {short(name): p.detach().numpy() for name, p in model.named_parameters()}


def twin_states(model: SRGNN, session: list[int]) -> dict[int, np.ndarray]:
    """The states of a session's items after propagation (AAAI 2019, eq. 1-5, as the authors' code computes them)."""
    w = weights_of(model)
    D = w["items"].shape[1]
    nodes = list(dict.fromkeys(session))
    edges = {(a, b) for a, b in itertools.pairwise(session)}  # a transition seen twice counts once
    H = {v: length_one(w["items"][v - 1]) if model.normalised else w["items"][v - 1] for v in nodes}
    for _ in range(model.gnn.steps if model.gnn is not None else 0):
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
    w = weights_of(model)
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


def encode(model: SRGNN, sessions: list[list[int]]) -> Tensor:
    return model.encode(model.item_states(), Batch.of(sessions)).detach()


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
        torch.testing.assert_close(vector, own(states, Batch.of([session]).clicks)[0].detach())
    layers = {name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)}
    assert layers == {name for name, matrix in model.matrices.items() if steps or matrix.module != "gnn"}


def test_normalised_candidates_have_length_one_and_dropout_is_per_node():
    model = make(normalised=True, dropout=0.5, steps=0, without=("attention",))
    S = model.item_states()
    assert model.unit_candidates and not make().unit_candidates and model.candidates(S)[0] is S
    torch.testing.assert_close(catalogue(model, S)[0], S / S.norm(dim=1, keepdim=True))
    seen = []
    model.readout.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    torch.manual_seed(1)  # with others an item can lose all its numbers
    model.encode(S, Batch.of([[4, 2, 4]]))
    dropped = seen[0]
    torch.testing.assert_close(dropped[0], dropped[2])  # both clicks on item 4 lost the same numbers
    torch.testing.assert_close(dropped.norm(dim=1), torch.ones(3).double())
    assert (dropped == 0).any() and not torch.allclose(dropped[0], S[3] / S[3].norm())


@pytest.mark.parametrize(
    ("options", "p"),
    [({}, 0.0), ({"normalised": True}, 0.1), ({"readout": "attenmixer", "heads": 2}, 0.1), ({"dropout": 0.3}, 0.3)],
    ids=str,
)
def test_dropout_is_a_tenth_if_normalised_unless_given(options, p):
    assert make(**options).dropout == p


def test_scores_use_the_raw_item_table():
    model = make()
    matrix, bias = model.candidates(model.item_states())
    assert matrix is model.items and bias is None


def test_the_two_orders_of_propagation_are_equal_without_noise():
    one, other = make(), make(propagation="A(HW)")
    torch.testing.assert_close(encode(one, SESSIONS), encode(other, SESSIONS))


@pytest.mark.parametrize(("off", "without"), [("gnn", "gnn")])
def test_switching_off_equals_leaving_out(off, without):
    model, reduced = make(), make(without=(without,))
    reduced.load_state_dict({name: model.state_dict()[name] for name in reduced.state_dict()})
    model.switched_off = off
    torch.testing.assert_close(encode(model, SESSIONS), encode(reduced, SESSIONS))


def test_switched_off_propagation_leaves_only_the_input_bias():
    model, reduced = make(), make(without=("propagation",))
    state = {name: model.state_dict()[name] for name in reduced.state_dict() if name != "gnn.gate_bias"}
    reduced.load_state_dict({**state, "gnn.gate_bias": model.gnn.gate_ih.bias.detach()})
    model.switched_off = "propagation"
    torch.testing.assert_close(encode(model, SESSIONS), encode(reduced, SESSIONS))


def test_switched_off_attention_keeps_the_total_weight():
    model = make()
    model.switched_off = "attention"
    # Equal clicks have equal states, so replacing their weights by the mean changes nothing.
    torch.testing.assert_close(encode(model, [[4, 4, 4], [5]]), encode(make(), [[4, 4, 4], [5]]))
    assert not torch.allclose(encode(model, SESSIONS), encode(make(), SESSIONS))


def test_graph_of_the_textbook_session():
    batch = Batch.of([[1, 2, 3, 2, 4]])
    item, edges = batch.nodes.items.tolist(), batch.edges
    pairs = {(item[a], item[b]) for a, b in zip(edges.source.tolist(), edges.target.tolist())}
    assert pairs == {(1, 2), (2, 3), (3, 2), (2, 4)} and len(edges.source) == 4
    assert dict(zip(item, edges.into.count.tolist())) == {1: 0, 2: 2, 3: 1, 4: 1}
    assert dict(zip(item, edges.out_of.count.tolist())) == {1: 1, 2: 2, 3: 1, 4: 0}
    assert [item[n] for n in batch.nodes.of_click.tolist()] == [1, 2, 3, 2, 4]


def test_the_same_item_in_two_sessions_is_two_nodes():
    batch = Batch.of([[1, 2], [2, 1]])
    assert len(batch.nodes) == 4 and len(batch.edges.source) == 2


def test_weights_of_earlier_versions_fit():
    model = make(steps=2)
    earlier = {name.removeprefix("gnn.").removeprefix("readout."): p for name, p in model.state_dict().items()}
    assert "edge_in.weight" in earlier and "bias_along" in earlier
    current = with_current_names(SRGNN, earlier)
    assert current.keys() == model.state_dict().keys()
    mixed = make(readout="attenmixer", levels=2, heads=2)
    earlier = {name.removeprefix("gnn."): p for name, p in mixed.state_dict().items()}
    assert with_current_names(SRGNN, earlier).keys() == mixed.state_dict().keys()


# Recorded before the models were written in rows: cross-entropy of some steps, then the metrics on test.
GOLDEN = [
    (
        {"dim": 32},
        [5.700027, 5.707323, 5.699419, 5.682643, 5.649994, 5.754805],
        {"hr@5": 5.4143, "hr@20": 15.8973, "mrr@20": 3.6111},
    ),
    (
        {"dim": 24, "steps": 2, "normalised": True, "dropout": 0.0},
        [8.28215, 8.128178, 7.888927, 6.482603, 6.286872, 5.901768],
        {"hr@5": 5.7599, "hr@20": 15.6505, "mrr@20": 3.8012},
    ),
]


@pytest.mark.parametrize(("options", "losses", "accuracy"), GOLDEN, ids=str)
def test_the_same_seed_gives_the_numbers_that_it_gave(options, losses, accuracy):
    data = planted.made("demo", planted.Recipe("bag", n_items=300, n_train=2_500, n_test=1_200))
    config = Config("srgnn", "demo", data.split_hash, options, where="none", schedule="steps")
    prefixes = prefixes_of(split_validation(data.train, 0.1)[0])
    training = assemble(lambda: SRGNN(data.n_items, **options), config, prefixes, 7, "full")
    order, buffer = ExampleOrder(prefixes, config, 7), score_buffer(100, data.n_items, "cpu")
    found = [train_step(training, prefixes.batch(order.batch(step)), 0.0, buffer)[0] for step in range(60)]
    assert [found[step] for step in (0, 1, 5, 20, 40, 59)] == pytest.approx(losses, rel=1e-5)
    values = metrics(evaluate(training.model, prefixes_of(data.test)))
    assert {name: values[name] for name in accuracy} == pytest.approx(accuracy, abs=0.03)  # a rank may tip over


def test_unknown_order_of_propagation_is_refused():
    with pytest.raises(ValueError, match=r"\(AH\)W"):
        SRGNN(3, 2, propagation="HW")


def test_arguments_of_another_readout_are_refused():
    with pytest.raises(ValueError, match="levels"):
        SRGNN(3, 2, levels=3)
    with pytest.raises(ValueError, match="attenmixer"):
        SRGNN(3, 2, readout="mean")
