"""NextItNet against its equations, written once more as plain loops over one session's clicks and taps."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from models import Batch, NextItNet, Prefixes
from models.base import catalogue, encoded, session_vectors

V, D = 9, 5
# Repeats, self loops, one click; shorter than any dilation, and long enough for every tap.
SESSIONS = [[1, 2, 3, 2, 4], [6, 6], [5], [7, 8, 7, 8, 7, 7], [9, 1, 2, 3, 4, 5, 6, 1, 2, 2] * 3]
SMALL = [{"dilations": "1,2", "repeats": 2}, {"dilations": "1,4", "repeats": 1, "tied": True}, {"dilations": 3}]


def make(seed=0, **options):
    """With weights far from their small beginnings, gains and biases included."""
    torch.manual_seed(seed)
    model = NextItNet(V, D, **options).double().eval()
    with torch.no_grad():
        for p in model.parameters():
            p.uniform_(-0.5, 0.5)
    return model


def norm(x, gain, bias):
    return gain * (x - x.mean()) / np.sqrt(((x - x.mean()) ** 2).mean() + 1e-8) + bias


def twin(model, session):
    """The score of each item after each click of one session, in float64: [clicks, V]."""
    w = {name: p.detach().numpy() for name, p in model.named_parameters()}

    def convolve(x, name, dilation):
        out = []
        for t in range(len(x)):
            y = w[f"{name}.bias"].copy()
            for tap, back in enumerate((2 * dilation, dilation, 0)):
                for j in range(D):
                    if t >= back:
                        y += w[f"{name}.weight"][:, tap * D + j] * x[t - back][j]
            out.append(y)
        return out

    x = [w["items"][item - 1] for item in session]
    for i, d in enumerate(model.dilations):
        y = x
        for name, dilation in (("first", d), ("second", 2 * d)):
            gain, bias = w[f"blocks.{i}.norm_{name}.weight"], w[f"blocks.{i}.norm_{name}.bias"]
            y = [np.maximum(norm(h, gain, bias), 0) for h in convolve(y, f"blocks.{i}.{name}", dilation)]
        x = [a + b for a, b in zip(x, y, strict=True)]
    if model.output is None:
        return np.stack([w["items"] @ (w["transform.weight"] @ h + w["transform.bias"]) for h in x])
    return np.stack([w["output"][:, :D] @ np.maximum(h, 0) + w["output"][:, D] for h in x])


def all_scores(model, sessions):
    """[B, L, V], the scores after every click."""
    S = model.item_states()
    return F.linear(encoded(model, S, Batch.of(sessions))[0], *catalogue(model, S)).detach().numpy()


@pytest.mark.parametrize("options", SMALL, ids=str)
def test_equals_the_equations_after_every_click(options):
    model = make(**options)
    scores = all_scores(model, SESSIONS)
    for row, session in enumerate(SESSIONS):
        np.testing.assert_allclose(scores[row, : len(session)], twin(model, session), rtol=0, atol=1e-10)


@pytest.mark.parametrize("padded_right", [0, 1, 7])
def test_a_block_is_two_dilated_convolutions_of_padded_sessions(padded_right):
    """nn.Conv1d with the same weights: zeros on the left, and whatever stands on the right changes nothing."""
    model, session = make(dilations="2", repeats=1), SESSIONS[4]
    block, x = model.blocks[0], torch.randn(1, D, len(session) + padded_right, dtype=torch.float64)
    y = x
    for name, d in (("first", 2), ("second", 4)):
        linear, layer_norm = getattr(block, name), getattr(block, f"norm_{name}")
        convolution = torch.nn.Conv1d(D, D, 3, dilation=d).double()
        convolution.weight.data, convolution.bias.data = (
            linear.weight.data.view(D, 3, D).transpose(1, 2),
            linear.bias.data,
        )
        y = layer_norm(convolution(F.pad(y, (2 * d, 0))).transpose(1, 2)).relu().transpose(1, 2)
    clicks = Batch.of([session]).clicks
    rows = block(x[0].t()[: len(session)], clicks)
    torch.testing.assert_close(rows, (x + y)[0].t()[: len(session)], rtol=0, atol=1e-12)


@pytest.mark.parametrize("options", SMALL, ids=str)
def test_a_vector_depends_on_no_later_click_and_on_no_padding(options):
    model, session = make(**options), SESSIONS[4]
    whole = all_scores(model, [session])[0]
    for end in (1, 2, 5, 17, 30):
        alone = all_scores(model, [session[:end]])[0]
        beside = all_scores(model, [[3], session[:end], [1] * 40])[1, :end]
        np.testing.assert_allclose(alone, whole[:end], rtol=0, atol=1e-12)
        np.testing.assert_allclose(beside, whole[:end], rtol=0, atol=1e-12)


def test_the_first_click_that_can_be_seen_is_that_of_the_dilations():
    """Two convolutions of dilations d and 2d reach 2d + 4d clicks back, and no further."""
    model = make(dilations="1,2", repeats=1)
    reach = 6 * (1 + 2)
    before = all_scores(model, [[1] * (reach + 2)])[0, -1]
    assert np.allclose(all_scores(model, [[2] + [1] * (reach + 1)])[0, -1], before, rtol=0, atol=1e-13)
    assert not np.allclose(all_scores(model, [[1, 2] + [1] * reach])[0, -1], before, rtol=0, atol=1e-9)


def test_the_loss_of_whole_sessions_is_that_of_their_prefixes():
    """One target after every click, and no other: `every_position` only changes what an example is."""
    whole, last = make(), make(every_position=False)
    last.load_state_dict(whole.state_dict())
    items, offsets = [1, 2, 3, 2, 4, 6, 6, 5, 7, 8, 7], [0, 5, 7, 11]
    prefixes = Prefixes(items, offsets)
    sessions, each = prefixes.batch(prefixes.whole), prefixes.batch(torch.arange(len(prefixes)))
    vectors = whole.encode(whole.item_states(), sessions)  # [B, L, D]
    assert whole.every_position and not last.every_position
    torch.testing.assert_close(sessions.clicks.unpadded(vectors), last.encode(last.item_states(), each))
    assert torch.equal(sessions.targets_of_clicks, each.targets)


def test_an_output_of_its_own_works_row_by_row():
    model = make()
    S, chosen = model.item_states(), torch.tensor([3, 0, 3, 8])
    output, bias = model.candidates(S)
    assert (
        S.shape == (V, 2 * D + 1) and torch.equal(output, model.output[:, :D]) and torch.equal(bias, model.output[:, D])
    )
    some, some_bias = model.candidates(S[chosen])
    assert torch.equal(some, output[chosen]) and torch.equal(some_bias, bias[chosen])
    with torch.no_grad():
        before = session_vectors(model, S, Batch.of(SESSIONS))
        model.output += 1.0  # the sessions do not read it
        torch.testing.assert_close(session_vectors(model, model.item_states(), Batch.of(SESSIONS)), before)
        assert make(tied=True).item_states().shape == (V, D)


@pytest.mark.parametrize("tied", [False, True])
def test_without_its_encoder_the_last_click_is_all(tied):
    model = make(tied=tied)
    model.switched_off = "encoder"
    reduced = make(tied=tied, without=("encoder",))
    assert len(reduced.blocks) == 0
    reduced.load_state_dict({name: model.state_dict()[name] for name in reduced.state_dict()})
    last = torch.tensor([session[-1] for session in SESSIONS]) - 1
    x = model.items[last]
    expected = model.transform(x) if tied else x.relu()
    for each in (model, reduced):
        torch.testing.assert_close(session_vectors(each, each.item_states(), Batch.of(SESSIONS)), expected)


def test_initial_values_are_those_of_the_source():
    torch.manual_seed(0)
    own, tied = NextItNet(4000, 32), NextItNet(4000, 32, tied=True)
    for table in (own.items, own.output[:, :-1], own.blocks[0].first.weight):
        assert 0.017 < table.std() < 0.019 and table.abs().max() <= 0.04  # a normal of 0.02, cut at two of them
    assert not own.output[:, -1].any() and not own.blocks[3].second.bias.any()
    assert tied.items.abs().max().item() == pytest.approx(4000**-0.5, rel=1e-3) and (tied.transform.bias == 0.1).all()
    assert tied.transform.weight.std().item() == pytest.approx((2 / 64) ** 0.5, rel=0.1)


@pytest.mark.parametrize("dilations", ["0", "1,", "", "-1", "1.5", "one", 0])
def test_wrong_dilations_are_refused(dilations):
    with pytest.raises(ValueError, match="dilations are whole numbers from 1 on"):
        NextItNet(3, 2, dilations=dilations)


@pytest.mark.parametrize(
    ("repeats", "says"),
    [
        (0, "repeats is at least 1, not 0"),
        (-1, "not -1"),
        (33, "dilations '1,2' with repeats=33$"),
    ],
)
def test_too_few_and_too_many_blocks_are_refused(repeats, says):
    with pytest.raises(ValueError, match=says):
        NextItNet(3, 2, repeats=repeats)


def test_a_dilation_beyond_all_prefixes_is_told():
    assert make(dilations="1,4").warnings(9) == []
    assert "dilation 4 the second" in make(dilations="1,4").warnings(8)[0]
    assert "dilation 1, 4 the second" in make(dilations="1,4").warnings(1)[0]


@pytest.mark.parametrize("every_position", [True, False])
def test_scores_are_those_of_recbole(every_position):
    """Fixture: RecBole's module with these weights, one session at a time, so that its last slot is the last click."""
    known = json.loads((Path(__file__).parent / "parity" / "nextitnet.json").read_text())
    model = NextItNet(known["n_items"], **known["options"], every_position=every_position).double().eval()
    model.load_state_dict({name: torch.tensor(w, dtype=torch.float64) for name, w in known["weights"].items()})
    expected = torch.tensor(known["scores"], dtype=torch.float64)
    torch.testing.assert_close(model.scores(Batch.of(known["sessions"])), expected, rtol=1e-9, atol=1e-12)
