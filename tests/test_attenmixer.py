"""Atten-Mixer against its equations and the rules of the released code, as plain loops over one session."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from models.attenmixer import AttenMixer
from models.base import catalogue
from models.batch import Batch
from models.mixer import AttenMixerReadout, atten_mixer_readout
from models.normalise import unit
from models.released import ReleasedReadout

SESSIONS = [
    [1, 2, 3, 2, 4],
    [5],
    [6, 6],
    [7, 8, 7, 8, 7],
    [9, 1, 2, 3, 4, 5, 6, 1, 2],
    [3, 2, 1],
    [4],
    [1, 2],
]
N_ITEMS, DIM = 9, 8
ROLE = "attention"


def make(preset: str | None = None, sharp: float = 6.0, **options) -> AttenMixer:
    """A small model in float64 with attention matrices `sharp` times larger than at the start of training."""
    torch.manual_seed(0)
    base = {"dim": DIM, "levels": 4, "heads": 2}
    if preset in ("official", "fixed"):
        base = {**AttenMixer.presets[preset], **base}
        if preset == "official":
            base["padded_length"] = 11
    model = AttenMixer(N_ITEMS, **{**base, **options}).double().eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "attend" in name:
                parameter *= sharp
    return model


def encode(model: AttenMixer, sessions: list[list[int]]) -> Tensor:
    return model.encode(model.item_states(), Batch.of(sessions)).detach()


def scores(model: AttenMixer, sessions: list[list[int]]) -> np.ndarray:
    S = model.item_states()
    matrix, bias = catalogue(model, S)
    assert bias is None
    return (model.encode(S, Batch.of(sessions)) @ matrix.t()).detach().numpy()


def weights_of(model: AttenMixer) -> dict[str, np.ndarray]:
    return {name.removeprefix("readout."): p.detach().numpy() for name, p in model.named_parameters()}


def length_one(x: np.ndarray) -> np.ndarray:
    return x / np.sqrt((x * x).sum())


def softmax(x: list[float]) -> list[float]:
    e = [math.exp(v - max(x)) for v in x]
    return [v / sum(e) for v in e]


def paper_twin(
    model: AttenMixer,
    session: list[int],
    levels: int = 4,
    heads: int = 2,
    p: float = 4.0,
    query: str = "sum",
    windows: str = "last",
    short: str = "clamp",
    head_layout: str = "full",
    attention_scale: float | None = None,
) -> np.ndarray:
    """Scores of all items by Equations 4 to 8, item by item, level by level, head by head."""
    w, D, n = weights_of(model), DIM, len(session)
    h = [length_one(w["items"][i - 1]) for i in session]
    queries = []
    for level in range(1, levels + 1):
        if short == "drop" and level > n:
            continue
        W = w[f"query.{level - 1}.weight"]
        if query == "concat":
            queries.append(W @ np.concatenate([h[n - 1 - a] if a < n else np.zeros(D) for a in range(level)]))
        elif windows == "all":
            for start in range(max(n - level, 0) + 1):
                queries.append(W @ sum(h[start : min(start + level, n)]))
        else:
            queries.append(W @ sum(h[max(n - level, 0) :]))
    E = D if head_layout == "full" else D // heads
    s = []
    for head in range(heads):
        W_Q, W_K = (w[f"attend_{x}.weight"][head * E : (head + 1) * E] for x in ("query", "key"))
        alpha = [softmax([(W_Q @ q) @ (W_K @ h_j) / (attention_scale or math.sqrt(D)) for h_j in h]) for q in queries]
        s_h = np.zeros(E)
        for j in range(n):
            over_levels = [alpha[m][j] for m in range(len(queries))]
            pooled = max(over_levels) if math.isinf(p) else sum(a**p for a in over_levels) ** (1 / p)
            s_h += pooled * (h[j] if head_layout == "full" else h[j][head * E : (head + 1) * E])
        s.append(s_h)
    z = w["transform.weight"] @ np.concatenate([length_one(np.concatenate(s)), h[-1]])
    return np.array([12.0 * (z @ length_one(e)) for e in w["items"]])


def released_twin(model: AttenMixer, session: list[int], fixed: bool = False, T: int = 11) -> np.ndarray:
    """Scores of all items by the rules of the released code; `fixed`: true heads, one softmax over clicks."""
    w, D, K, H, p, n = weights_of(model), DIM, 4, 2, 4.0, len(session)
    E = D // H
    h = [length_one(w["items"][i - 1]) for i in session] + [np.zeros(D)] * (T - n)
    q = []
    for level in range(K):
        joined = np.concatenate([h[n - 1 - a] if a < n else np.zeros(D) for a in range(level + 1)])
        q.append(w[f"query.{level}.weight"] @ joined + w[f"query.{level}.bias"])
    norms = [math.sqrt(sum(x[c] ** 2 for x in q)) for c in range(D)]
    Q = [w["attend_query.weight"] @ (x / norms) + w["attend_query.bias"] for x in q]
    key = [w["attend_key.weight"] @ x + w["attend_key.bias"] for x in h]
    value = [w["value.weight"] @ x + w["value.bias"] for x in h]

    def block(x: np.ndarray, b: int) -> np.ndarray:
        return x[b * E : (b + 1) * E]

    s = []
    for head in range(H):
        a = []
        for k in range(K):
            if fixed:
                a.append(softmax([float(block(Q[k], head) @ block(key[t], head)) for t in range(n)]))
                continue
            row = head * K + k
            asks = block(Q[row // H], row % H)
            logits = []
            for t in range(T):
                row = head * T + t
                logits.append(2 / (1 + math.exp(-float(asks @ block(key[row // H], row % H)))))
            a.append(softmax(logits))
        pooled = [sum(a[k][t] ** p for k in range(K)) ** (1 / p) for t in range(n)]
        final = pooled if fixed else softmax([2 * x for x in pooled])
        s.append(sum(final[t] * block(value[t], head) for t in range(n)))
    joined = np.concatenate(s)
    joined = (joined - joined.mean()) / math.sqrt(joined.var() + 1e-8) * w["norm.weight"] + w["norm.bias"]
    z = length_one(w["transform.weight"] @ np.concatenate([joined, h[n - 1]]) + w["transform.bias"])
    return np.array([16.0 * (z @ length_one(e)) for e in w["items"]])


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"levels": 1},
        {"levels": 7, "heads": 1},
        {"p": 1.0},
        {"p": math.inf},
        {"query": "concat"},
        {"windows": "all"},
        {"windows": "all", "short": "drop"},
        {"short": "drop"},
        {"head_layout": "split", "heads": 4},
        {"attention_scale": 1.0},
    ],
    ids=str,
)
def test_paper_equals_the_equations(options):
    model = make(**options)
    expected = np.stack([paper_twin(model, s, **options) for s in SESSIONS])
    np.testing.assert_allclose(scores(model, SESSIONS), expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("preset", ["official", "fixed"])
def test_released_code(preset):
    model = make(preset)
    expected = np.stack([released_twin(model, s, fixed=preset == "fixed") for s in SESSIONS])
    np.testing.assert_allclose(scores(model, SESSIONS), expected, rtol=0, atol=1e-9)


def test_official_keeps_the_last_clicks_of_long_sessions():
    model = make("official", padded_length=6)
    long = SESSIONS[4]
    torch.testing.assert_close(encode(model, [long, [5]]), encode(model, [long[-5:], [5]]))


PRESETS = ["paper", "official", "fixed"]


def test_official_depends_on_its_padded_length_and_paper_has_none():
    short, long = make("official", padded_length=11), make("official", padded_length=12)
    assert (encode(short, SESSIONS) - encode(long, SESSIONS)).abs().max() > 1e-3


@pytest.mark.parametrize("options", [{}, {"query": "concat"}, {"p": math.inf}, {"attention_scale": 2.0}], ids=str)
@pytest.mark.parametrize("uniform", [False, True])
def test_both_readouts_compute_the_equations(options, uniform):
    """The paper's form in rows and the general one on padded sessions: values and gradients."""
    torch.manual_seed(1)
    rows, padded = (cls(DIM, 4, 2, **options).double() for cls in (AttenMixerReadout, ReleasedReadout))
    padded.load_state_dict(rows.state_dict())
    clicks = Batch.of([[1] * n for n in (3, 1, 6, 2, 6)]).clicks
    h = torch.randn(18, DIM, dtype=torch.float64).requires_grad_()
    mine, wanted = rows(h, clicks, uniform=uniform), padded(h, clicks, uniform=uniform)
    torch.testing.assert_close(mine, wanted)
    by = torch.randn_like(mine)
    inputs = [[h, *readout.parameters()] for readout in (rows, padded)]
    gradients = [
        torch.autograd.grad(out, given, by, materialize_grads=True)
        for out, given in zip((mine, wanted), inputs, strict=True)
    ]
    torch.testing.assert_close(*gradients)


def test_only_what_the_paper_lacks_takes_the_general_form():
    assert isinstance(atten_mixer_readout(DIM, heads=2, query="concat", windows="last"), AttenMixerReadout)
    assert isinstance(atten_mixer_readout(DIM, heads=2, windows="all"), ReleasedReadout)
    assert isinstance(atten_mixer_readout(DIM, heads=2, bias=True), ReleasedReadout)


def test_lone_clicks_only():
    model = make()
    vectors = model.encode(model.item_states(), Batch.of([[3], [5]]))
    vectors.sum().backward()
    assert torch.isfinite(model.items.grad).all()


def test_order_inside_a_level_does_not_matter():
    """Q_l reads the last l clicks as a set: local invariance."""
    model = make().readout
    h = unit(torch.randn(6, DIM, dtype=torch.float64))

    def Q(h: Tensor) -> Tensor:
        return model.queries(h, Batch.of([[1] * 6]).clicks)[0]

    before = Q(h)
    for level in range(2, 5):
        after = Q(torch.cat([h[: 6 - level], h[6 - level :].flip(0)]))
        torch.testing.assert_close(after[level - 1], before[level - 1])
        assert (after[0] - before[0]).abs().max() > 1e-3


def test_pooling_limits():
    log_a = torch.randn(2, 3, 4, 5, dtype=torch.float64).log_softmax(3)
    one, large, largest = (ReleasedReadout(DIM, p=p).pool_queries(log_a, None) for p in (1.0, 2000.0, math.inf))
    torch.testing.assert_close(one, log_a.exp().sum(2))
    torch.testing.assert_close(largest, log_a.exp().amax(2))
    torch.testing.assert_close(large, largest, rtol=1e-3, atol=0)


@pytest.mark.parametrize(("T", "K"), [(20, 7), (20, 1), (40, 7)])
def test_official_attention_cannot_leave_its_bound(T, K):
    """Whatever the weights, the largest weight in a session is at most so many times the smallest."""
    bound = math.exp(2 * K**0.25 * (math.e**2 - 1) / (math.e**2 + T - 1))
    torch.manual_seed(0)
    options = {**AttenMixer.presets["official"], "dim": 16, "heads": 4, "levels": K, "padded_length": T}
    readout = AttenMixer(N_ITEMS, **options).readout.eval()
    real = torch.ones(50, T, dtype=torch.bool)
    real[:, -1] = False
    weights = readout.weights(torch.randn(50, 4, K, T) * 1000, real, None)[:, :, :-1]
    ratio = (weights.amax(2) / weights.amin(2)).max()
    assert 1 + (bound - 1) / 4 < ratio <= bound * (1 + 1e-5)


def test_official_queries_of_one_level_are_signs():
    readout = make("official", levels=1).readout
    recent = unit(torch.randn(5, 1, DIM, dtype=torch.float64))
    Q = readout.queries(recent, torch.ones(5, dtype=torch.long))
    torch.testing.assert_close(Q.abs(), torch.ones_like(Q))


@pytest.mark.parametrize("preset", PRESETS)
def test_attention_switched_off_reads_no_attention_matrix(preset):
    model = make(preset)
    before = encode(model, SESSIONS)
    model.switched_off = ROLE
    off = encode(model, SESSIONS)
    assert (off - before).abs().max() > 1e-4
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "attend" in name or "query" in name:
                parameter.zero_()
    torch.testing.assert_close(encode(model, SESSIONS), off)


@pytest.mark.parametrize("preset", PRESETS)
def test_without_attention_nothing_of_it_is_built(preset):
    reduced = make(preset, without=(ROLE,))
    assert not any("attend" in name or "query" in name for name, _ in reduced.named_parameters())
    assert all(m.role != ROLE for m in reduced.matrices.values())
    assert encode(reduced, SESSIONS).shape == (len(SESSIONS), DIM)


def test_without_attention_the_clicks_are_averaged():
    model = make(without=(ROLE,))
    h = unit(model.items[[0, 1, 1]])
    expected = model.readout.transform.weight @ torch.cat([unit(h.mean(0)), h[2]])
    torch.testing.assert_close(encode(model, [[1, 2, 2]])[0], 12 * expected.detach())


def test_repeated_items_lose_the_same_numbers():
    torch.manual_seed(0)
    model = AttenMixer(N_ITEMS, dim=64, dropout=0.5).train()
    seen = []
    model.readout.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0] != 0))
    model.encode(model.item_states(), Batch.of([[1, 2, 1, 3, 2], [1, 1]]))
    kept = seen[0]  # [C, D]
    assert torch.equal(kept[0], kept[2]) and torch.equal(kept[1], kept[4]) and torch.equal(kept[5], kept[6])
    assert not torch.equal(kept[0], kept[1]) and not torch.equal(kept[0], kept[5])


def test_dropout_acts_in_training_only():
    model = make("fixed")
    assert torch.equal(encode(model, SESSIONS), encode(model, SESSIONS))
    model.train()
    assert not torch.equal(encode(model, SESSIONS), encode(model, SESSIONS))
    kept = model.candidates(model.items)[0] != 0
    assert 0.5 < kept.double().mean() < 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"query": "mean"}, "query is one of sum, concat, not 'mean'"),
        ({"heads": 3, "head_layout": "split"}, "heads=3 does not divide dim=8"),
        ({"attention": "sigmoid"}, "padded_length is needed"),
        ({"head_layout": "raw_view"}, "padded_length is needed"),
        ({"levels": 0}, "at least 1"),
        ({"attention_scale": 0.0}, "attention_scale is above 0"),
        ({"attention_scale": -1.0, "bias": True}, "attention_scale is above 0"),
        ({"p": 0.5}, "at least 1"),
        ({"windows": "all", "query": "concat"}, "windows='all' goes with"),
        ({"padded_length": 1}, "at least 2"),
    ],
    ids=str,
)
def test_contradicting_switches_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        atten_mixer_readout(DIM, **options)


def test_unknown_switch_is_refused():
    with pytest.raises(TypeError, match="colour"):
        AttenMixer(N_ITEMS, colour="red")
