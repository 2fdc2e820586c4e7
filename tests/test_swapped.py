"""A layer with the inputs of other rows: what it does to the outputs, and to what a model is worth."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence

from dissect.data.sessions import Dataset, Sessions
from dissect.runs.config import Config
from dissect.sparsevd import sparsify, swapped
from dissect.training.finish import layers_by_role
from dissect.training.loop import fit
from models import SRGNN

N, D = 20, 3


def rows(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("shape", [(N, D), (N, 5, D)], ids=str)
def test_a_linear_layer_gives_the_outputs_of_other_rows(shape):
    layer, x = nn.Linear(D, 4), rows(*shape)
    plain = layer(x)
    with swapped([layer]):
        out = layer(x)
    torch.testing.assert_close(out, plain.roll(7, 0))  # 0.382 x 20
    torch.testing.assert_close(layer(x), plain)
    assert torch.equal(layer(x[0]), plain[0]) and not torch.isclose(out, plain).all(-1).any()


@pytest.mark.parametrize("kind", [torch.long, torch.int32])
def test_ids_of_one_dimension_are_those_of_other_rows(kind):
    layer, ids = nn.Embedding(N, D), torch.arange(N, dtype=kind)
    with swapped([layer]):
        out = layer(ids)
    torch.testing.assert_close(out, layer.weight[ids.long().roll(7)])


def test_layers_in_a_row_never_give_a_row_its_own_again():
    layers = [nn.Identity() for _ in range(8)]
    x = torch.arange(512.0)[:, None]
    with swapped(layers):
        for layer in layers:
            x = layer(x)
            assert (x[:, 0] != torch.arange(512.0)).all()
            assert sorted(x[:, 0].tolist()) == list(range(512))


def test_recurrent_layers_and_convolutions_swap_sequences():
    x = rows(N, 6, D)
    for layer, given in (
        (nn.GRU(D, 4, batch_first=True), x),
        (nn.GRU(D, 4), x.transpose(0, 1)),
        (nn.Conv1d(D, 4, 2), x.transpose(1, 2)),
    ):
        plain = layer(given)
        with swapped([layer]):
            out = layer(given)
        out, plain = (y[0] if isinstance(y, tuple) else y for y in (out, plain))
        torch.testing.assert_close(out, plain.roll(7, 1 if given.shape[0] == 6 else 0))
    cell, h = nn.GRUCell(D, 4), rows(N, 4)
    with swapped([cell]):
        out = cell(x[:, 0], h)
    torch.testing.assert_close(out, cell(x[:, 0], h).roll(7, 0))
    gru, packed = nn.GRU(D, 4), pack_padded_sequence(x, torch.full((N,), 6), batch_first=True)
    with swapped([gru]):
        out = gru(packed)[0]
    torch.testing.assert_close(out.data, gru(packed._replace(data=packed.data.roll(45, 0)))[0].data)


def test_layers_are_found_by_the_role_of_their_matrices():
    model = SRGNN(9, 8)
    sparsify(model)
    found = {role: {id(layer) for layer in layers} for role, layers in layers_by_role(model).items()}
    declared = {}
    for name, matrix in model.matrices.items():
        declared.setdefault(matrix.role, set()).add(id(model.get_submodule(name)))
    assert found == declared


def test_a_run_with_shadows_measures_it_for_each_role(tmp_path):
    """Item i is followed by i + 1: the last click tells all, through the transformation."""
    starts = np.random.default_rng(0).integers(9, size=160)
    sessions = [[int(start + step) % 9 + 1 for step in range(2 + n % 4)] for n, start in enumerate(starts)]
    data = Dataset("planted", 9, Sessions.from_lists(sessions[:120]), Sessions.from_lists(sessions[120:]))
    settings = {"max_steps": 80, "batch_size": 32, "lr": 0.02, "schedule": "constant", "kl_weight": 0.1, "average": 0.2}
    config = Config("srgnn", "planted", data.split_hash, {"dim": 16}, shadows=True, **settings)
    checks = fit(lambda: SRGNN(9, 16), data, config, tmp_path, seed=1)["checks"]
    roles = {"propagation", "update", "attention", "transformation"}
    assert {name for name in checks if name.startswith("swapped")} == {f"swapped_{role}" for role in roles}
    assert checks["masked"]["mrr@20"] > 90 and checks["swapped_transformation"]["mrr@20"] < 50
    plain = fit(lambda: SRGNN(9, 16), data, replace(config, shadows=False), tmp_path / "plain", seed=1)["checks"]
    assert not any(name.startswith("swapped") for name in plain)
