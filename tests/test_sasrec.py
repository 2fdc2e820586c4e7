"""SASRec against its equations, written once more as plain loops over one session, and against the port's scores."""

import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from models import Batch, Prefixes, SASRec
from models.base import session_vectors

# One click, repeats, as many clicks as are seen (6), one more, and many more.
SHORT = [[5], [6, 6], [1, 2, 3, 2, 4], [7, 8, 7, 8, 7, 7]]
LONGER = [[3, 2, 1, 3, 4, 9, 9], [9, 1, 2, 3, 4, 5, 6, 1, 2, 2], [8] * 13, [2, 1, 7, 7, 2, 1, 3, 2, 1, 2, 1]]
SEEN = 6
PARITY = json.loads((Path(__file__).parent / "parity" / "sasrec.json").read_text())


def normed(w, name, x):
    x = (x - x.mean()) / np.sqrt(((x - x.mean()) ** 2).mean() + 1e-8)
    return w[f"{name}.weight"] * x + w[f"{name}.bias"]


def linear(w, name, x):
    return w[f"{name}.weight"] @ x + w.get(f"{name}.bias", 0)


def attended(w, name, heads, asks, x):
    """What a click that `asks` gathers from those that it sees, head by head."""
    D, q, gathered = len(x[0]), linear(w, f"{name}.query", asks), []
    for rows in np.arange(D).reshape(heads, -1):
        weights = [np.exp(q[rows] @ linear(w, f"{name}.key", y)[rows] / np.sqrt(D / heads)) for y in x]
        values = [linear(w, f"{name}.value", y)[rows] for y in x]
        gathered.append(sum(a * v for a, v in zip(weights, values, strict=True)) / sum(weights))
    out = np.concatenate(gathered)
    return linear(w, f"{name}.out", out) if f"{name}.out.weight" in w else out


def fed(w, name, x):
    return linear(w, f"{name}.second", np.maximum(linear(w, f"{name}.first", x), 0))


def twin(model, session, heads=2, norm="query"):
    """The vector after the last click of a session, in float64."""
    w = {name: p.detach().numpy() for name, p in model.named_parameters()}
    D = w["items"].shape[1]
    positions = w.get("position_bias", np.zeros((SEEN, D)))
    x = [np.sqrt(D) * w["items"][item - 1] + positions[t] for t, item in enumerate(session[-SEEN:])]
    for block in ("blocks.0", "blocks.1"):
        attend = partial(attended, w, f"{block}.attention", heads)
        feed = partial(fed, w, f"{block}.feed")
        of_attention, of_feed = f"{block}.attention_norm", f"{block}.feed_norm"
        z = [normed(w, of_attention, y) for y in x]
        if norm == "query":
            x = [z[t] + attend(z[t], x[: t + 1]) for t in range(len(x))]
            z = [normed(w, of_feed, y) for y in x]
            x = [y + feed(y) for y in z]
        elif norm == "pre":
            x = [x[t] + attend(z[t], z[: t + 1]) for t in range(len(x))]
            x = [y + feed(normed(w, of_feed, y)) for y in x]
        else:
            x = [normed(w, of_attention, x[t] + attend(x[t], x[: t + 1])) for t in range(len(x))]
            x = [normed(w, of_feed, y + feed(y)) for y in x]
    return normed(w, "last_norm", x[-1])


def make(seed=0, **options):
    """With norms and biases that do something."""
    torch.manual_seed(seed)
    model = SASRec(9, **{"dim": 6, "length": SEEN, **options}).double().eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias") or "norm" in name:
                parameter.add_(0.5 * torch.randn_like(parameter))
    return model


def encode(model, sessions):
    return model.encode(model.item_states(), Batch.of(sessions)).detach()


@pytest.mark.parametrize(
    "options",
    [{}, {"heads": 3}, {"norm": "pre"}, {"norm": "post", "output": True}, {"output": True, "heads": 1}],
    ids=str,
)
def test_equals_the_equations_after_every_click(options):
    model, sessions = make(**options), [*SHORT, *LONGER]
    plain = {name: value for name, value in options.items() if name != "output"}
    vectors = encode(model, sessions).numpy()
    assert vectors.shape == (len(sessions), 13, 6)
    for row, session in enumerate(sessions):
        for end in range(1, len(session) + 1):
            expected = twin(model, session[:end], **plain)
            np.testing.assert_allclose(vectors[row, end - 1], expected, rtol=0, atol=1e-10)
        assert not vectors[row, len(session) :].any()


def test_the_scores_of_the_port_on_sessions_without_padding():
    assert "pmixer/SASRec.pytorch" in PARITY["source"]
    assert [case["options"]["norm"] for case in PARITY["cases"]] == ["post", "pre", "query"]
    for case in PARITY["cases"]:
        model = SASRec(9, **case["options"]).double().eval()
        model.load_state_dict({name: torch.tensor(x, dtype=torch.float64) for name, x in case["weights"].items()})
        expected = torch.tensor(case["scores"], dtype=torch.float64)
        torch.testing.assert_close(model.scores(Batch.of(case["sessions"])), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("longest", [0, 5, 6, 9, 13])
def test_a_click_sees_the_last_six_whatever_the_batch_keeps(longest):
    model, sessions = make(), [*SHORT, *LONGER]
    items = [item for session in sessions for item in (*session, 1)]
    offsets = np.cumsum([0, *(len(session) + 1 for session in sessions)])
    prefixes = Prefixes(items, offsets, longest=longest)
    batch = prefixes.batch(prefixes.whole)
    kept = [session[-longest:] for session in sessions]
    assert batch.lengths.tolist() == [len(session) for session in kept]
    vectors = model.encode(model.item_states(), batch).detach()
    torch.testing.assert_close(vectors, encode(model, kept), rtol=0, atol=1e-12)
    last = session_vectors(model, model.item_states(), batch).detach()
    torch.testing.assert_close(last, session_vectors(model, model.item_states(), Batch.of(kept)).detach())


def test_windows_are_what_each_click_sees():
    batch = Batch.of([[1, 2], [3, 4, 5, 6, 7], [8, 9, 8]])
    windows, row = batch.windows(3)
    kept = [[1, 2], [3, 4, 5], [4, 5, 6], [5, 6, 7], [8, 9, 8]]
    assert [x[x > 0].tolist() for x in windows.items] == kept
    assert row.tolist() == [0, 1, 2, 3, 4, 7, 10, 11, 12, 13]
    assert torch.equal(windows.clicks.items[row], batch.clicks.items)
    assert batch.windows(5)[0] is batch and batch.windows(5)[1].tolist() == list(range(10))
    lone, row = batch.windows(1)
    assert lone.lengths.tolist() == [1] * 10 and torch.equal(lone.clicks.items[row], batch.clicks.items)


def test_windows_ask_the_device_for_no_number():
    prefixes = Prefixes([1, 2, 1, 3, 4, 4, 2, 3, 2, 3, 2], [0, 4, 6, 11], "meta")
    model = SASRec(5, 8, length=2).to("meta")
    vectors = model.encode(model.item_states(), prefixes.batch(torch.arange(len(prefixes))))
    vectors.sum().backward()
    assert vectors.shape == (8, 4, 8)


def test_long_sessions_have_gradients_of_every_window():
    model = make().train()
    model.dropout = 0.0
    for block in model.blocks:
        block.dropout = block.attention.dropout = block.feed.dropout = 0.0
    session = LONGER[1]
    gradients = []
    for sessions in ([session], [session[:end] for end in range(1, len(session) + 1)]):
        model.zero_grad()
        S = model.item_states()
        batch = Batch.of(sessions)
        vectors = model.encode(S, batch)
        chosen = vectors[0] if len(sessions) == 1 else session_vectors(model, S, batch)
        (chosen * torch.arange(60.0).view(10, 6).double().sin()).sum().backward()
        gradients.append({name: p.grad.clone() for name, p in model.named_parameters()})
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradient, gradients[1][name], rtol=1e-9, atol=1e-12)


def test_positions_count_forward_from_the_first_click_seen():
    model = make(without=("self-attention", "transformation"))  # what is left: norms of item and position
    vectors = encode(model, [[4] * 8])[0]
    for t, s in ((0, 1), (1, 2), (4, 5)):
        assert not torch.allclose(vectors[t], vectors[s])
    torch.testing.assert_close(vectors[5:], vectors[5].expand(3, -1))  # a click that sees six is the sixth
    model.switched_off = "positions"
    without = encode(model, [[4] * 8])[0]
    torch.testing.assert_close(without, without[0].expand(8, -1))
    assert "position_bias" not in dict(make(without=("positions",)).named_parameters())


@pytest.mark.parametrize("norm", ["query", "pre", "post"])
def test_parts_are_left_out_at_construction_as_in_a_trained_model(norm):
    model = make(norm=norm, output=True)
    whole = encode(model, SHORT)
    for part in model.removable:
        model.switched_off = part
        off = encode(model, SHORT)
        assert not torch.allclose(off, whole), part
        model.switched_off = None
        reduced = make(norm=norm, output=True, without=(part,))
        reduced.load_state_dict(model.state_dict(), strict=False)
        if part != "attention":  # a trained model still maps the values
            torch.testing.assert_close(encode(reduced, SHORT), off, msg=part)
    alone = make(norm=norm, without=("self-attention", "positions"))
    first, second = encode(alone, [[1, 2, 4]])[0, 2], encode(alone, [[3, 3, 4]])[0, 2]
    torch.testing.assert_close(first, second)  # no click sees another


def test_without_attention_a_click_gets_the_mean_of_what_it_sees():
    model, seen = make(without=("attention",)), []
    model.blocks[0].attention.register_forward_hook(lambda module, inputs, out: seen.append((inputs[1], out)))
    encode(model, [[1, 2, 3], [4]])
    x, gathered = (t.detach() for t in seen[0])
    torch.testing.assert_close(gathered, torch.stack([x[0], x[:2].mean(0), x[:3].mean(0), x[3]]))
    trained, seen = make(), []
    trained.blocks[0].attention.register_forward_hook(lambda module, inputs, out: seen.append((inputs[1], out)))
    trained.switched_off = "attention"
    encode(trained, [[1, 2, 3], [4]])
    x, gathered = (t.detach() for t in seen[0])
    value = trained.blocks[0].attention.value(x).detach()
    torch.testing.assert_close(gathered, torch.stack([value[0], value[:2].mean(0), value[:3].mean(0), value[3]]))


def test_one_bias_at_the_keys_would_cancel():
    """Why keys have none: the same number in all logits of a click changes no weight."""
    model = make()
    before = encode(model, SHORT)
    key = model.blocks[0].attention.key
    assert key.bias is None
    key.bias = torch.nn.Parameter(torch.randn(6).double())
    torch.testing.assert_close(encode(model, SHORT), before, rtol=0, atol=1e-12)


def test_dropout_acts_in_training_only_and_at_four_places():
    model = make(dropout=0.5)
    torch.testing.assert_close(encode(model, SHORT), encode(make(dropout=0.0), SHORT))
    model.train()
    places = [(model,), *[(block, block.attention, block.feed) for block in model.blocks[:1]]]
    every = [module for group in places for module in group] + [model.blocks[1]]
    for module in (*every, model.blocks[1].attention, model.blocks[1].feed):
        module.dropout = 0.0
    torch.testing.assert_close(encode(model, SHORT), encode(make(), SHORT))
    for module in every[:4]:
        module.dropout = 0.5
        assert not torch.allclose(encode(model, SHORT), encode(model, SHORT)), type(module).__name__
        module.dropout = 0.0


def test_the_blocks_of_a_matrix_are_its_heads():
    matrices, heads = make(heads=3, output=True).matrices, ("head0", "head1", "head2")
    for number in (0, 1):
        name = f"blocks.{number}.attention"
        assert all(matrices[f"{name}.{layer}"].rows == heads for layer in ("query", "key", "value"))
        assert matrices[f"{name}.out"].cols == heads
        assert {matrices[f"{name}.{layer}"].part for layer in ("query", "key", "value", "out")} == {"self-attention"}
    assert {matrix.module for matrix in matrices.values()} == {"encoder"}


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"heads": 4}, "heads=4 does not divide dim=6"),
        ({"heads": -1}, "heads is at least 1, not -1"),
        ({"blocks": 0}, "blocks is at least 1, not 0"),
        ({"length": 0}, "length is at least 1, not 0"),
        ({"norm": "layer"}, "norm is one of query, pre, post, not 'layer'"),
        ({"dropout": 1.0}, "dropout is from 0 to below 1"),
        ({"dropout": -0.1}, "dropout is from 0 to below 1"),
    ],
    ids=str,
)
def test_wrong_options_are_refused(wrong, says):
    with pytest.raises(ValueError, match=says):
        SASRec(9, **{"dim": 6, **wrong})
