"""GC-SAN against its equations, written once more as plain loops over one session, and against the port's scores."""

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from models import GCSAN, SRGNN, Batch
from models.base import catalogue, lengths_of

# One click, self loops, repeats, a longer one.
SESSIONS = [[5], [6, 6], [1, 2, 3, 2, 4], [7, 8, 7, 8, 7, 7], [9, 1, 2, 3, 4, 5, 6, 1, 2, 2, 5, 5]]
PARITY = json.loads((Path(__file__).parent / "parity" / "gcsan.json").read_text())


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def propagated(w, session):
    """The state of each item of a session after one propagation."""
    D, edges = w["items"].shape[1], set(itertools.pairwise(session))
    h0 = {v: w["items"][v - 1] for v in session}
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
    return h


def attended(w, name, E, heads):
    """The self-attention of each click, head by head and pair by pair."""
    linear = lambda layer, x: w[f"{name}.{layer}.weight"] @ x + w.get(f"{name}.{layer}.bias", 0)  # noqa: E731
    D, F = len(E[0]), []
    for asking in E:
        q, heads_of = linear("query", asking), []
        for rows in np.arange(D).reshape(heads, -1):
            weights = [np.exp(q[rows] @ linear("key", x)[rows] / np.sqrt(D / heads)) for x in E]
            heads_of.append(sum(a * linear("value", x)[rows] for a, x in zip(weights, E, strict=True)) / sum(weights))
        gathered = np.concatenate(heads_of)
        F.append(linear("out", gathered) if f"{name}.out.weight" in w else gathered)
    return F


def twin(model, session, blocks=1, shared=False, heads=1, omega=0.6):
    """The session vector in float64."""
    w = {name: p.detach().numpy() for name, p in model.named_parameters()}
    h = propagated(w, session)
    E = [h[v] for v in session]
    for number in range(blocks):
        name = f"blocks.{0 if shared else number}"
        F = attended(w, f"{name}.attention", E, heads)
        E = []
        for f in F:
            inner = np.maximum(w[f"{name}.feed.first.weight"] @ f + w[f"{name}.feed.first.bias"], 0)
            E.append(f + w[f"{name}.feed.second.weight"] @ inner + w[f"{name}.feed.second.bias"])
    return omega * E[-1] + (1 - omega) * h[session[-1]]


def make(seed=0, **options):
    torch.manual_seed(seed)
    return GCSAN(9, dim=6, **options).double().eval()


def encode(model, sessions=SESSIONS):
    return model.encode(model.item_states(), Batch.of(sessions)).detach()


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"heads": 3, "omega": 0.3},
        {"blocks": 2},
        {"blocks": 3, "shared": True},
        {"blocks": 2, "output": True, "heads": 2},
        {"blocks": 4, "shared": True, "output": True, "omega": 0.52},
    ],
    ids=str,
)
def test_equals_the_equations(options):
    model = make(**options)
    plain = {name: value for name, value in options.items() if name != "output"}
    expected = np.stack([twin(model, session, **plain) for session in SESSIONS])
    np.testing.assert_allclose(encode(model).numpy(), expected, rtol=0, atol=1e-10)
    assert model.blocks[0].attention.out is None or "output" in options


def test_the_scores_of_the_port_on_sessions_without_padding():
    assert "johnny12150/GC-SAN" in PARITY["source"]
    for case in PARITY["cases"]:
        model = GCSAN(9, **case["options"]).double().eval()
        model.load_state_dict({name: torch.tensor(x, dtype=torch.float64) for name, x in case["weights"].items()})
        expected = torch.tensor(case["scores"], dtype=torch.float64)
        torch.testing.assert_close(model.scores(Batch.of(case["sessions"])), expected, rtol=1e-9, atol=1e-9)


def test_the_parity_data_are_of_the_preset():
    for case in PARITY["cases"]:
        assert {**case["options"], "dim": 120} == GCSAN.presets["port"]


def test_shared_blocks_are_one_block_and_others_are_not():
    shared, own = make(blocks=3, shared=True), make(blocks=3)
    assert len(shared.blocks) == 1 and len(own.blocks) == 3
    own.load_state_dict(
        {name: shared.state_dict()[name.replace("blocks.1", "blocks.0").replace("blocks.2", "blocks.0")]
         for name in own.state_dict()}
    )  # fmt: skip
    torch.testing.assert_close(encode(own), encode(shared))
    assert not torch.allclose(encode(shared), encode(make(blocks=1)))


def test_omega_weighs_the_last_click_after_the_blocks_and_before():
    before, after, half = (encode(make(omega=omega)) for omega in (0.0, 1.0, 0.5))
    torch.testing.assert_close(half, (before + after) / 2)
    torch.testing.assert_close(before, encode(make(omega=0.0, without=("self-attention", "transformation"))))


def test_without_attention_a_click_gets_the_mean_and_without_self_attention_its_own_state():
    full, seen = make(heads=2), []

    def into_the_feed_forward(model):
        model.load_state_dict(full.state_dict(), strict=False)
        handle = model.blocks[0].feed.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].detach()))
        encode(model, [[1, 2, 3]])
        handle.remove()
        return seen[-1]

    own = into_the_feed_forward(make(without=("self-attention",)))
    mean = into_the_feed_forward(make(without=("attention",)))
    torch.testing.assert_close(mean, own.mean(0).expand(3, -1))
    # In a trained model all clicks weigh alike, and values are still mapped.
    full.switched_off = "attention"
    mapped = full.blocks[0].attention.value(own).mean(0).expand(3, -1).detach()
    torch.testing.assert_close(into_the_feed_forward(full), mapped)
    full.switched_off = "self-attention"
    torch.testing.assert_close(into_the_feed_forward(full), own)


def test_parts_are_left_out_at_construction_and_from_a_trained_model():
    model = make(blocks=2)
    whole = encode(model)
    for part in model.removable:
        model.switched_off = part
        assert not torch.allclose(encode(model), whole), part
    model.switched_off = None
    layers = dict(make(blocks=2, without=("transformation", "self-attention")).named_modules())
    assert not [name for name in layers if "feed" in name or "attention" in name]


def test_dropout_is_inside_the_feed_forward_and_nowhere_else():
    model = make(dropout=0.5).train()
    torch.manual_seed(1)
    first, second = encode(model), encode(model)
    assert not torch.allclose(first, second)
    model.switched_off = "transformation"
    torch.testing.assert_close(encode(model), encode(model), rtol=0, atol=0)
    assert not torch.equal(encode(make(dropout=0.5)), first)


def test_the_blocks_of_a_matrix_are_its_heads():
    matrices = make(heads=3, output=True).matrices
    heads = ("head0", "head1", "head2")
    assert matrices["blocks.0.attention.query"].rows == matrices["blocks.0.attention.value"].rows == heads
    assert matrices["blocks.0.attention.out"].cols == heads and matrices["blocks.0.attention.out"].rows == ()
    assert make().matrices["blocks.0.attention.key"].rows == ()
    assert "blocks.0.attention.out" not in make().matrices


def test_multi_level_attention_reads_the_sums_of_all_clicks():
    model, seen = make(readout="attenmixer", levels=3), []
    model.readout.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].detach()))
    vectors = encode(model)
    own = make()
    own.load_state_dict(model.state_dict(), strict=False)
    clicks = Batch.of(SESSIONS).clicks
    torch.testing.assert_close(seen[0][clicks.last], encode(own))  # GC-SAN's own readout takes the last of them
    readout = SRGNN(9, 6, readout="attenmixer", levels=3).double().readout
    readout.load_state_dict(model.readout.state_dict())
    torch.testing.assert_close(vectors, readout(seen[0], clicks).detach())
    S = model.item_states()
    torch.testing.assert_close(catalogue(model, S)[0] * lengths_of(S)[:, None], S)  # cosines


def test_the_blocks_are_the_readout_unless_another_one_follows():
    own, mixed = make().matrices, make(readout="attenmixer").matrices
    assert {own[name].module for name in own if name.startswith("blocks")} == {"readout"}
    assert {mixed[name].module for name in mixed if name.startswith("blocks")} == {"encoder"}
    assert mixed["readout.attend_query"].module == "readout"


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"heads": 4}, "heads=4 does not divide dim=6"),
        ({"heads": 0}, "heads is at least 1, not 0"),
        ({"blocks": 0}, "blocks is at least 1, not 0"),
        ({"steps": -1}, "steps is at least 0"),
        ({"omega": 1.1}, "omega is from 0 to 1"),
        ({"omega": -0.1}, "omega is from 0 to 1"),
        ({"dropout": 1.0}, "dropout is from 0 to below 1"),
        ({"dropout": -0.1}, "dropout is from 0 to below 1"),
        ({"readout": "mean"}, "readout is one of last, attenmixer"),
        ({"levels": 3}, "levels=3: only with readout='attenmixer'"),
    ],
    ids=str,
)
def test_wrong_options_are_refused(wrong, says):
    with pytest.raises(ValueError, match=says):
        GCSAN(9, **{"dim": 6, **wrong})
