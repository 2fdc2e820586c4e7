"""GRU4Rec against its equations, in plain loops over the clicks of one session, and against the authors' scores."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from dissect.data.sessions import Dataset, Sessions
from dissect.experiment.plan import steps_of
from dissect.experiment.subject import find_model
from dissect.runs.config import Config
from dissect.training.evaluation import prefixes_of
from dissect.training.loop import ExampleOrder
from models import Batch, GRU4Rec
from models.base import session_vectors

SESSIONS = [[1, 2, 3, 2, 4], [6, 6], [7, 8, 7, 8, 7, 7], [5], [9, 1, 2, 3, 4, 5, 6, 1, 2, 2]]
THEIRS = json.loads((Path(__file__).parent / "parity" / "gru4rec.json").read_text())
OPTIONS = [
    {},
    {"layers": 3},
    {"hidden": 5, "dense": True, "bias": False},
    {"hidden": 8, "layers": 2, "dense": True},
    {"dense": True},
]


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def twin(model, session):
    """The vector after each click, [L, D], in float64."""
    w = {name: p.detach().numpy() for name, p in model.named_parameters()}
    H, layers, vectors = model.gru.hidden_size, model.gru.num_layers, []
    states = [np.zeros(H) for _ in range(layers)]
    for item in session:
        x = w["items"][item - 1]
        for layer in range(layers):
            h = states[layer]
            gi = w[f"gru.weight_ih_l{layer}"] @ x + w[f"gru.bias_ih_l{layer}"]
            gh = w[f"gru.weight_hh_l{layer}"] @ h + w[f"gru.bias_hh_l{layer}"]
            r, z = sigmoid(gi[:H] + gh[:H]), sigmoid(gi[H : 2 * H] + gh[H : 2 * H])
            x = states[layer] = (1 - z) * np.tanh(gi[2 * H :] + r * gh[2 * H :]) + z * h
        vectors.append(w["dense.weight"] @ x + w["dense.bias"] if "dense.weight" in w else x)
    return np.stack(vectors)


def make(seed=0, **options):
    torch.manual_seed(seed)
    model = GRU4Rec(9, dim=6, **options).double().eval()
    for parameter in model.parameters():  # biases too
        torch.nn.init.normal_(parameter, std=0.5)
    return model


def encode(model, sessions):
    return model.encode(model.item_states(), Batch.of(sessions)).detach()


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_equals_the_equations_after_every_click(options):
    model = make(**options)
    vectors = encode(model, SESSIONS)
    assert vectors.shape == (len(SESSIONS), 10, 6)
    for row, session in zip(vectors, SESSIONS, strict=True):
        np.testing.assert_allclose(row[: len(session)].numpy(), twin(model, session), rtol=0, atol=1e-10)


@pytest.mark.parametrize("theirs", THEIRS["models"], ids=lambda theirs: f"{theirs['layers']} layers")
def test_scores_are_those_of_the_authors_model(theirs):
    weights = {name: torch.tensor(values, dtype=torch.float64) for name, values in theirs["weights"].items()}
    V, D = weights["items"].shape
    model = GRU4Rec(V, D, layers=theirs["layers"]).double().eval()
    model.load_state_dict(weights)
    scores = torch.tensor(theirs["scores"], dtype=torch.float64)
    torch.testing.assert_close(model.scores(Batch.of(THEIRS["sessions"])), scores, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("built", [True, False])
def test_without_the_encoder_the_vector_is_the_state_of_the_last_click(built):
    model = make(without=("encoder",)) if built else make(hidden=5, dense=True)
    model.switched_off = None if built else "encoder"
    last = model.items.detach()[[session[-1] - 1 for session in SESSIONS]]
    batch = Batch.of(SESSIONS)
    torch.testing.assert_close(session_vectors(model, model.items, batch).detach(), last)
    torch.testing.assert_close(model.scores(batch)[0], (model.items @ last[0] + model.item_bias).detach())


def test_the_bias_enters_the_scores_and_may_be_left_out():
    model, without = make(), make(bias=False)
    difference = model.scores(Batch.of(SESSIONS)) - (
        session_vectors(model, model.items, Batch.of(SESSIONS)) @ model.items.t()
    )
    torch.testing.assert_close(difference, model.item_bias.expand_as(difference))
    assert without.candidates(without.items)[1] is None
    assert "item_bias" not in dict(without.named_parameters())


def test_dropout_falls_on_clicks_and_on_what_each_layer_gives_away():
    model, seen = make(dropout=0.5).train(), []
    model.gru.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].data.detach()))
    torch.manual_seed(0)
    encode(model, [[4] * 9])
    kept = seen[0] != 0
    assert 0.2 < kept.double().mean() < 0.8 and not (kept == kept[0]).all()  # each click on its own
    torch.testing.assert_close(seen[0][kept], (2 * model.items.detach()[3]).expand(9, -1)[kept])
    torch.manual_seed(0)
    model = make(hidden_dropout=0.5, layers=2).train()
    assert model.gru.dropout == 0.5 and make(hidden_dropout=0.5).gru.dropout == 0.0
    vectors, whole = encode(make(hidden_dropout=0.5).train(), SESSIONS), encode(make(), SESSIONS)
    kept = vectors != 0
    torch.testing.assert_close(vectors[kept], 2 * whole[kept])  # the state that goes on is whole


def test_each_gate_starts_as_a_matrix_of_its_own():
    torch.manual_seed(0)
    model = GRU4Rec(500, 20, hidden=40, dense=True)
    bounds = {"items": (500, 20), "gru.weight_ih_l0": (40, 20), "gru.weight_hh_l0": (40, 40), "dense.weight": (20, 40)}
    for name, parameter in model.named_parameters():
        if name in bounds:
            bound = math.sqrt(6 / sum(bounds[name]))
            assert 0.97 * bound < parameter.abs().max() <= bound
        else:
            assert not parameter.any(), name


def test_an_epoch_goes_through_the_sessions_and_its_batches_find_room_for_their_scores():
    sessions = Sessions.from_lists([[1, 2, 3, 4, 5], [6, 7], [8, 9, 1], [2], [3, 4, 5, 6]] * 40)
    data, config = Dataset("x", 9, sessions, sessions), Config("x", "x", "", batch_size=20, protocol="paper")
    prefixes = prefixes_of(sessions)
    order = ExampleOrder(prefixes, config, 1, every_position=True)
    assert order.steps == 8 == steps_of(1, find_model("gru4rec"), data, config)
    assert steps_of(1, find_model("srgnn"), data, config) == 20  # 400 prefixes
    targets = [int(prefixes.length[order.batch(step)].sum()) for step in range(8)]
    assert max(targets) <= order.most_targets < 2 * np.mean(targets)
    assert ExampleOrder(prefixes, config, 1).most_targets == 20


def test_the_recipe_of_each_preset_is_a_configuration():
    for preset, recipe in GRU4Rec.recipes.items():
        assert preset in GRU4Rec.presets
        Config("gru4rec", "x", "", {}, **recipe)


@pytest.mark.parametrize(
    "wrong",
    [{"layers": 0}, {"hidden": 0, "dense": True}, {"dropout": 1.0}, {"hidden_dropout": -0.1}, {"hidden": 3}],
    ids=str,
)
def test_wrong_options_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        GRU4Rec(3, 2, **wrong)
