"""DSAN against its equations, written once more as plain loops, and against the scores of the authors' notebook."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.optimize import brentq

from models import DSAN, Batch, dsan, places
from models.entmax import entmax
from models.normalise import cut
from models.places import pairs_of, with_token

PARITY = json.loads((Path(__file__).parent / "parity" / "dsan.json").read_text())
SESSIONS = [[5], [1, 2, 3, 2, 4], [6, 6], [9, 1, 2, 3, 4, 5, 6, 1, 2, 2], [7, 8, 7, 8, 7, 7], [3]]


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def relu(x):
    return np.maximum(x, 0)


def selu(x):
    return 1.0507009873554805 * np.where(x > 0, x, 1.6732632423543772 * np.expm1(x))


def shortened(x):
    length = np.sqrt((x * x).sum())
    return x * 1.5 / (length + 1e-7) if length > 1.5 else x


def sparse(z, alpha):
    z = (alpha - 1) * np.array(z)

    def p(tau):
        return relu(z - tau) ** (1 / (alpha - 1))

    return p(brentq(lambda tau: p(tau).sum() - 1, z.max() - 1 - 1e-9, z.max(), xtol=1e-16, rtol=1e-15))


def twin(model, session, encodes=True, attends=True, placed=True):
    """The session vector in float64, of length `scale`."""
    w = {name: p.detach().numpy() for name, p in model.named_parameters()}

    def linear(name, x):
        return w[f"{name}.weight"] @ x + w.get(f"{name}.bias", 0)

    def alpha(x):
        return 1 + sigmoid(linear("alpha", x)[0])

    clicks = session[-model.length :]
    c = [shortened(x) for x in (*(w["items"][item - 1] for item in clicks), w["token"])]
    if "position_bias" in w:
        c = [np.concatenate([x, placed * shortened(w["position_bias"][at])]) for at, x in enumerate(c)]
    o = c
    if encodes:
        queries = [relu(linear("encoder.query", x)) for x in c]
        o = []
        for q in queries:
            weights = sparse([q @ k / np.sqrt(len(k)) for k in c], alpha(c[-1]))
            x = sum(weight * v for weight, v in zip(weights, c, strict=True))
            x = linear("encoder.feed_out", relu(linear("encoder.feed_in", x))) + x
            x = (x - x.mean()) / np.sqrt(x.var() + 1e-5)
            o.append(w["encoder.norm.weight"] * x + w["encoder.norm.bias"])
    m, o, c = o[-1], o[:-1], c[:-1]
    weights = np.full(len(c), 1 / len(c))
    if attends:
        inner = [relu(linear("attend_all", x) + linear("attend_token", m)) for x in o]
        weights = sparse([w["attend_score.weight"][0] @ x for x in inner], alpha(m))
    overall = sum(weight * x for weight, x in zip(weights, c, strict=True))
    vector = selu(linear("transform", np.concatenate([overall, m])))
    return model.scale * vector / np.sqrt((vector * vector).sum())


def make(seed=0, **options):
    torch.manual_seed(seed)
    model = DSAN(9, **{"dim": 3, **options}).double().eval()
    with torch.no_grad():
        for name, p in model.named_parameters():
            p.normal_(0, 1 if name in ("items", "token", "position_bias") else 0.5)
    return model


def encode(model, sessions=SESSIONS):
    return model.encode(model.item_states(), Batch.of(sessions)).detach().numpy()


def assert_same(model, expected):
    np.testing.assert_allclose(encode(model), np.stack(expected), rtol=0, atol=1e-10)


@pytest.mark.parametrize("options", [{}, {"length": 4}, {"scale": 3.0}, {"without": ("positions",)}], ids=str)
def test_equals_the_equations(options):
    model = make(**options)
    assert (model.items.norm(dim=1) > 1.5).any() and (model.items.norm(dim=1) < 1.5).any()
    assert_same(model, [twin(model, session) for session in SESSIONS])


@pytest.mark.parametrize("part", ["encoder", "attention", "positions"])
def test_parts_switched_off_or_left_out(part):
    off = make()
    off.switched_off = part
    names = {"encoder": "encodes", "attention": "attends", "positions": "placed"}
    assert_same(off, [twin(off, session, **{names[part]: False}) for session in SESSIONS])
    built = make(without=(part,))
    gone = {} if part == "positions" else {names[part]: False}  # without positions a place is narrower
    assert_same(built, [twin(built, session, **gone) for session in SESSIONS])
    assert {"positions": "position_bias", "encoder": "encoder.query.weight", "attention": "attend_score.weight"}[
        part
    ] not in {name for name, _ in built.named_parameters()}


def test_without_both_attentions_there_is_no_alpha():
    model = make(without=("encoder", "attention"))
    assert model.alpha is None
    assert_same(model, [twin(model, session, encodes=False, attends=False) for session in SESSIONS])


def test_scores_are_those_of_the_notebook():
    """The authors' module wrote them, with random weights in float64; the last of its candidates, the token, is left
    out. Some vectors are longer than 1.5, one session has 80 clicks, and the notebook was given its last 69."""
    model = DSAN(10, dim=3).double().eval()
    model.load_state_dict({name: torch.tensor(w, dtype=torch.float64) for name, w in PARITY["weights"].items()})
    assert (model.items.norm(dim=1) > 1.5).any() and max(map(len, PARITY["sessions"])) == 80
    expected = torch.tensor(PARITY["scores"], dtype=torch.float64)
    torch.testing.assert_close(model.scores(Batch.of(PARITY["sessions"])), expected, rtol=1e-9, atol=1e-13)


@pytest.mark.parametrize("room", [dsan, places])
def test_each_attention_gives_some_weights_of_zero(room, monkeypatch):
    seen = []
    monkeypatch.setattr(room, "entmax", lambda *given: seen.append(entmax(*given)) or seen[-1])
    model = make()
    with torch.no_grad():
        model.encoder.query.weight *= 5
        model.attend_score.weight *= 5
    assert_same(model, [twin(model, session) for session in SESSIONS])
    assert (seen[0] == 0).any() and (seen[0] > 0).any() and len(seen) == 1


def test_alpha_is_learned_and_stays_between_softmax_and_sparsemax():
    model = make()
    with torch.no_grad():
        model.alpha.weight.zero_()
        for bias, alpha in ((-80.0, 1.00001), (0.0, 1.5), (80.0, 2.0)):
            model.alpha.bias.fill_(bias)
            assert model.sparsity(torch.ones(1, 6).double()).item() == pytest.approx(alpha, abs=1e-12)
            assert np.isfinite(encode(model)).all()
    with torch.no_grad():
        model.alpha.bias.zero_()
    model.encode(model.item_states(), Batch.of(SESSIONS))[:, 0].sum().backward()
    assert model.alpha.weight.grad.abs().max() > 0


def test_vectors_longer_than_the_limit_are_cut_where_they_are_used_and_tables_begin_so():
    long = torch.tensor([[3.0, 4.0], [0.3, 0.4], [0.0, 0.0]], requires_grad=True)
    torch.testing.assert_close(cut(long, 1.5), torch.tensor([[0.9, 1.2], [0.3, 0.4], [0.0, 0.0]]))
    cut(long, 1.5).sum().backward()
    assert torch.isfinite(long.grad).all()
    model = make()
    before = encode(model)
    with torch.no_grad():
        far = model.items.norm(dim=1) > 1.5
        model.items[far] *= 7
    np.testing.assert_allclose(encode(model), before, rtol=0, atol=1e-5)
    with torch.no_grad():
        model.items[~far] *= 0.5
    assert not np.allclose(encode(model), before)
    fresh = DSAN(500, dim=100)
    for table in (fresh.items, fresh.token[None], fresh.position_bias):
        torch.testing.assert_close(table.norm(dim=1), torch.full((len(table),), 1.5))


def test_scores_are_twenty_times_a_cosine_and_the_token_is_no_candidate():
    model = make()
    assert np.linalg.norm(encode(model), axis=1) == pytest.approx(20.0)
    scores = model.scores(Batch.of(SESSIONS))
    assert scores.shape == (len(SESSIONS), 9) and scores.abs().max() <= 20
    unit = model.items / model.items.norm(dim=1, keepdim=True)
    torch.testing.assert_close(scores, torch.tensor(encode(model)) @ unit.detach().T)


def test_places_and_pairs_of_a_batch():
    clicks = Batch.of([[4], [7, 8]]).clicks
    rows, of_click = with_token(clicks)
    assert rows.owner.tolist() == [0, 0, 1, 1, 1] and of_click.tolist() == [0, 2, 3]
    assert rows.last.tolist() == [1, 4] and rows.position.tolist() == [0, 1, 0, 1, 2]
    pairs, cell = pairs_of(rows)
    assert pairs.owner.tolist() == [0, 0, 1, 1, 2, 2, 2, 3, 3, 3, 4, 4, 4]
    table = torch.arange(18).view(2, 3, 3)
    assert cell.tolist() == [*table[0, :2, :2].flatten().tolist(), *table[1].flatten().tolist()]


def test_dropout_falls_on_queries_feed_forward_and_vector():
    model = make().train()
    torch.manual_seed(0)
    zeros = np.mean([encode(model) == 0 for _ in range(60)])
    assert 0.4 < zeros < 0.6
    model.dropout = 0.0
    one, other = encode(model), encode(model)
    assert (one != 0).all() and not np.allclose(one, other)
    model.encoder.dropout = 0.0
    np.testing.assert_array_equal(encode(model), encode(model))
    np.testing.assert_array_equal(encode(model), encode(model.eval()))


def test_presets_and_the_recipe_are_those_of_the_sources():
    model = DSAN(9)
    assert (model.scale, model.dropout, model.max_norm, model.items.shape[1]) == (20.0, 0.5, 1.5, 100)
    assert model.position_bias.shape == (70, 100) and model.transform.weight.shape == (100, 400)
    assert DSAN.presets == {"authors": {"dim": 100}, "paper": {"dim": 256}}
    assert DSAN.recipes["authors"]["optimiser"] == "amsgrad" and DSAN.recipes["authors"]["l2"] == 0.0
    assert model.attend_all.weight.std().item() == pytest.approx(0.05, rel=0.05)
    assert not model.attend_token.bias.any() and not model.encoder.query.bias.any() and model.alpha.bias.any()


@pytest.mark.parametrize("wrong", [{"dropout": 1.0}, {"dropout": -0.1}, {"length": 0}, {"max_norm": 0.0}], ids=str)
def test_wrong_options_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        DSAN(3, 2, **wrong)
