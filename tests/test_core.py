"""CORE against its equations, written once more as plain loops over one session's clicks and heads."""

import itertools
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from dissect.runs.config import Config
from dissect.training.resume import restore, snapshot
from dissect.training.setup import assemble
from models import CORE, Batch, Prefixes
from models.base import catalogue, with_current_names
from models.normalise import unit

V, D, H = 9, 6, 2
# Repeats, self loops, one click, as many clicks as count, one more, and many more.
SESSIONS = [
    [1, 2, 3, 2, 4],
    [6, 6],
    [5],
    [7, 8, 7, 8, 7, 7],
    [9, 1, 2, 3, 4, 5, 6, 1],
    [9, 1, 2, 3, 4, 5, 6, 1, 2],
    [3, 4] * 9,
]
LENGTH = 8
BOTH = pytest.mark.parametrize("encoder", ["trm", "ave"])


def make(seed=0, spread=0.6, **options):
    """With weights far from their small beginnings, norms and biases included."""
    torch.manual_seed(seed)
    model = CORE(V, D, **{"inner": 7, "length": LENGTH, **options}).double().eval()
    with torch.no_grad():
        for p in model.parameters():
            p.uniform_(-spread, spread)
    return model


def vectors_of(model, sessions):
    return model.encode(model.item_states(), Batch.of(sessions)).detach()


def norm(x, w, name):
    z = (x - x.mean()) / np.sqrt(((x - x.mean()) ** 2).mean() + 1e-12)
    return w[f"{name}.weight"] * z + w.get(f"{name}.bias", 0.0)


def attended(w, layer, h, t):
    """What click t reads from the clicks up to it, head by head."""
    E, out = D // H, []
    for head in range(H):
        rows = slice(head * E, (head + 1) * E)
        q = w[f"{layer}.query.weight"][rows] @ h[t] + w[f"{layer}.query.bias"][rows]
        keys = [w[f"{layer}.key.weight"][rows] @ h[s] for s in range(t + 1)]
        values = [w[f"{layer}.value.weight"][rows] @ h[s] + w[f"{layer}.value.bias"][rows] for s in range(t + 1)]
        e = np.exp([q @ k / math.sqrt(E) for k in keys])
        out.append(sum(a * v for a, v in zip(e / e.sum(), values, strict=True)))
    return w[f"{layer}.out.weight"] @ np.concatenate(out) + w[f"{layer}.out.bias"]


def logits(model, x, off=None):
    """The logit of each click."""
    w = {name.removeprefix("encoder."): p.detach().numpy() for name, p in model.named_parameters()}
    P = w["position_bias"] if off != "positions" else np.zeros((LENGTH, D))
    h = [norm(x_t + P[t], w, "norm") for t, x_t in enumerate(x)]
    for layer in (f"layers.{i}" for i in range(len(model.encoder.layers))):
        if off != "self-attention":
            h = [
                norm(h_t + attended(w, f"{layer}.attention", h, t), w, f"{layer}.norm_attention")
                for t, h_t in enumerate(h)
            ]
        after = []
        for h_t in h:
            a = w[f"{layer}.inner.weight"] @ h_t + w[f"{layer}.inner.bias"]
            gelu = np.array([y * 0.5 * (1 + math.erf(y / math.sqrt(2))) for y in a])
            after.append(norm(h_t + w[f"{layer}.outer.weight"] @ gelu + w[f"{layer}.outer.bias"], w, f"{layer}.norm"))
        h = after
    return np.array([w["weigh.weight"][0] @ h_t for h_t in h])


def twin(model, session, off=None):
    """The session vector over the temperature, in float64."""
    table = model.items.detach().numpy()
    x = [table[item - 1] for item in session[-LENGTH:]]
    is_mean = model.encoder is None or off == "encoder"
    weights = np.ones(len(x)) if is_mean else np.exp(logits(model, x, off))
    s = sum(a * x_t for a, x_t in zip(weights / weights.sum(), x, strict=True))
    return s / np.sqrt(s @ s) / 0.07


@pytest.mark.parametrize("off", [None, "encoder", "self-attention", "positions"])
@BOTH
def test_equals_the_equations(encoder, off):
    model = make(encoder=encoder)
    model.switched_off = off
    expected = np.stack([twin(model, session, off) for session in SESSIONS])
    np.testing.assert_allclose(vectors_of(model, SESSIONS).numpy(), expected, rtol=0, atol=1e-10)


@BOTH
def test_scores_are_those_of_the_authors(encoder):
    """Fixture: their module with these weights, and with the weights of the clicks in double."""
    known = json.loads((Path(__file__).parent / "parity" / "core.json").read_text())
    model = CORE(known["n_items"], **known[encoder]["options"]).double().eval()
    weights = known[encoder]["weights"].items()
    model.load_state_dict({name: torch.tensor(w, dtype=torch.float64) for name, w in weights})
    expected = torch.tensor(known[encoder]["scores"], dtype=torch.float64)
    torch.testing.assert_close(model.scores(Batch.of(known["sessions"])), expected, rtol=1e-9, atol=1e-12)


@BOTH
def test_a_session_lies_between_its_items(encoder):
    """Consistent representation: a mean with weights above 0 that sum to 1, of the very rows that are compared."""
    model, seen = make(encoder=encoder), []
    if encoder == "trm":
        model.encoder.weigh.register_forward_hook(lambda module, inputs, out: seen.append(out.detach()))
    vectors = vectors_of(model, [[4, 2, 4]])
    alpha = torch.cat(seen).softmax(0) if seen else torch.full((3, 1), 1 / 3, dtype=torch.float64)
    s = (alpha * model.items.detach()[[3, 1, 3]]).sum(0)
    torch.testing.assert_close(vectors[0], unit(s) / 0.07)
    assert vectors_of(model, SESSIONS).norm(dim=1).tolist() == pytest.approx([1 / 0.07] * len(SESSIONS))


@BOTH
def test_after_one_click_its_own_item_is_always_first(encoder):
    model = make(encoder=encoder)
    scores = model.scores(Batch.of([[item] for item in range(1, V + 1)]))
    assert torch.equal(scores.argmax(1), torch.arange(V))
    assert scores.diagonal().tolist() == pytest.approx([1 / 0.07] * V)


def test_ave_knows_no_order_and_trm_does():
    orders = [list(order) for order in itertools.permutations([1, 2, 3])]
    ave, trm = make(encoder="ave"), make(spread=2.0)
    torch.testing.assert_close(vectors_of(ave, orders), vectors_of(ave, orders[:1]).expand(6, -1))
    apart = torch.cdist(vectors_of(trm, orders), vectors_of(trm, orders)) + torch.eye(6)
    assert apart.min() > 1e-3
    trm.switched_off = "self-attention"  # the positions alone tell the order
    assert not torch.allclose(vectors_of(trm, [[1, 2, 3]]), vectors_of(trm, [[3, 2, 1]]))
    both = make(spread=2.0, without=("self-attention", "positions"))
    torch.testing.assert_close(vectors_of(both, orders), vectors_of(both, orders[:1]).expand(6, -1))


def test_without_its_encoder_it_is_core_ave():
    ave, without, off = make(encoder="ave"), make(without=("encoder",)), make()
    off.switched_off = "encoder"
    for other in (without, off):
        other.load_state_dict({**other.state_dict(), **ave.state_dict()})
        torch.testing.assert_close(vectors_of(other, SESSIONS), vectors_of(ave, SESSIONS))
    assert ave.removable == () and ave.matrices == {}


@pytest.mark.parametrize("part", ["self-attention", "positions"])
def test_switched_off_it_is_as_if_built_without(part):
    whole, without = make(spread=2.0), make(without=(part,))
    without.load_state_dict({name: whole.state_dict()[name] for name in without.state_dict()})
    assert not torch.allclose(vectors_of(whole, SESSIONS), vectors_of(without, SESSIONS))
    whole.switched_off = part
    torch.testing.assert_close(vectors_of(whole, SESSIONS), vectors_of(without, SESSIONS))


def test_the_matrices_of_the_attention_have_a_block_for_each_head():
    model = make(heads=3)
    of_head = ("head0", "head1", "head2")
    assert (
        model.matrices["encoder.layers.1.attention.query"].rows
        == of_head
        == model.matrices["encoder.layers.0.attention.out"].cols
    )
    parts = {name.rpartition(".")[2] for name, matrix in model.matrices.items() if matrix.is_of("self-attention")}
    assert parts == {"query", "key", "value", "out"}
    assert all(matrix.is_of("encoder") for matrix in model.matrices.values())


@pytest.mark.parametrize("longest", [0, 8, 12])
def test_of_longer_sessions_the_last_clicks_count_whatever_the_batch_keeps(longest):
    model, items = make(), [item for session in SESSIONS for item in (*session, 1)]
    offsets = list(itertools.accumulate((len(session) + 1 for session in SESSIONS), initial=0))
    prefixes = Prefixes(items, offsets, longest=longest)
    vectors = model.encode(model.item_states(), prefixes.batch(prefixes.whole)).detach()
    cut = [session[-LENGTH:] for session in SESSIONS]
    torch.testing.assert_close(vectors, vectors_of(model, cut), rtol=0, atol=1e-12)
    assert not torch.allclose(vectors, vectors_of(make(length=9), SESSIONS))


def test_candidates_lose_numbers_before_they_get_unit_length():
    model = make(encoder="ave", item_dropout=0.5).train()
    torch.manual_seed(0)
    matrix = catalogue(model, model.items.detach())[0]
    is_lost = matrix == 0
    assert 0.2 < is_lost.double().mean() < 0.8
    torch.testing.assert_close(matrix, unit(model.items.detach() * ~is_lost))
    torch.testing.assert_close(catalogue(model.eval(), model.items)[0], unit(model.items))


def test_clicks_on_one_item_lose_different_numbers():
    model, seen = make(session_dropout=0.5).train(), []
    model.encoder.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].detach()))
    vectors_of(model, [[4] * 8])
    lost = seen[0] == 0
    assert lost.any() and not torch.equal(lost, lost[:1].expand(8, -1))


def test_initial_values_are_those_of_the_authors():
    torch.manual_seed(0)
    model = CORE(3000, 64)
    assert model.items.abs().max().item() == pytest.approx(1 / 8, rel=1e-3)
    for p in (
        model.encoder.position_bias,
        model.encoder.layers[0].attention.key.weight,
        model.encoder.layers[1].inner.weight,
    ):
        assert p.std().item() == pytest.approx(0.02, rel=0.1)
    assert not model.encoder.layers[1].outer.bias.any() and (model.encoder.norm.weight == 1).all()


@pytest.mark.parametrize(
    "wrong", [{"heads": 4}, {"layers": 0}, {"inner": 0}, {"length": 0}, {"temperature": 0.0}], ids=str
)
def test_wrong_sizes_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        CORE(3, 6, **wrong)


@pytest.mark.parametrize(
    "wrong", [{"encoder": "gru"}, {"session_dropout": 1.0}, {"item_dropout": -0.1}, {"inner_dropout": 1.5}], ids=str
)
def test_wrong_options_are_refused(wrong):
    with pytest.raises(ValueError, match=f"^{next(iter(wrong))} is "):
        CORE(3, 6, **wrong)


def test_weights_of_earlier_versions_fit():
    model = make()
    earlier = {name.replace(".attention.", "."): weight for name, weight in model.state_dict().items()}
    assert earlier.keys() != model.state_dict().keys() == with_current_names(CORE, earlier).keys()


def test_a_run_of_an_earlier_version_goes_on_with_its_averages(tmp_path):
    config, prefixes = Config("core", "x", "", where="none", average=0.5), Prefixes([1, 2, 3], [0, 3])
    trained, fresh = (assemble(lambda: CORE(3, 6), config, prefixes, seed, "full") for seed in (1, 1))
    trained.averages.add()
    saved = snapshot(trained)
    for part in (saved, saved["averages"]):
        which = "model" if part is saved else "means"
        part[which] = {name.replace(".attention.", "."): weight for name, weight in part[which].items()}
    restore(fresh, saved, tmp_path / "checkpoints" / "last.pt")
    assert fresh.averages.means.keys() == trained.averages.means.keys()
    assert all(torch.equal(fresh.averages.means[name], mean) for name, mean in trained.averages.means.items())
