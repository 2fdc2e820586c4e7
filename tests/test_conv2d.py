"""Convolutions over pictures and tables of vectors with SparseVD, against sampled weights and plain loops."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from dissect.sparsevd import (
    Conv2dVD,
    EmbeddingVD,
    Shadows,
    densify,
    named_variational,
    one_sample,
    sparsify,
    swapped,
)
from dissect.sparsevd.layers import VARIANCE_EPS
from dissect.sparsevd.shadows import others
from tests.test_layers import DRAWS, assert_same_moments


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def sampled(layer, run):
    w = layer.weight + (0.5 * layer.log_sigma2).exp() * torch.randn(DRAWS, *layer.weight.shape)
    return torch.vmap(run)(w)


@pytest.mark.parametrize(
    "options",
    [
        {"padding": 1},
        {"stride": (1, 2)},
        {"dilation": 2, "padding": 2},
        {"padding": 1, "padding_mode": "circular"},
        {"padding": 1, "padding_mode": "reflect"},
        {"groups": 2},
        {"padding": "same", "dilation": 2, "bias": False},
    ],
    ids=str,
)
def test_a_convolution_has_the_moments_of_sampled_weights(options):
    layer = Conv2dVD.from_dense(nn.Conv2d(2, 4, (3, 2), **options), log_sigma2=-1.0)
    x = torch.randn(1, 2, 5, 4)
    with torch.no_grad():
        ours = layer(x.expand(DRAWS, 2, 5, 4))[:, None]
        assert_same_moments(ours, sampled(layer, lambda w: layer._conv_forward(x, w, layer.bias)))


def test_each_position_is_a_weighted_sum_with_noise_of_its_own():
    layer = Conv2dVD.from_dense(nn.Conv2d(2, 3, 2, stride=2), log_sigma2=-2.0)
    x = torch.randn(2, 2, 4, 6)
    torch.manual_seed(3)
    found = layer(x)
    torch.manual_seed(3)
    eps = torch.randn(2, 3, 2, 3)
    for b in range(2):
        for o in range(3):
            for i in range(2):
                for j in range(3):
                    window = x[b, :, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2]
                    mean = (window * layer.weight[o]).sum() + layer.bias[o]
                    variance = (window**2 * layer.log_sigma2[o].exp()).sum()
                    expected = mean + (variance + VARIANCE_EPS).sqrt() * eps[b, o, i, j]
                    torch.testing.assert_close(found[b, o, i, j], expected)


def test_one_picture_and_its_way_back():
    model = nn.Sequential(nn.Conv2d(2, 3, 3, padding=1, padding_mode="circular"))
    x = torch.randn(2, 5, 5)
    sparsify(model, noise="weight")
    with torch.no_grad():
        model[0].log_sigma2.copy_(torch.where(torch.rand_like(model[0].weight) < 0.5, 10.0, -10.0))
    model.eval()
    masked = model(x)
    torch.testing.assert_close(masked, model(x[None])[0])
    densify(model)
    assert type(model[0]) is nn.Conv2d and torch.equal(model(x), masked)
    assert 0.2 < (model[0].weight == 0).float().mean() < 0.8


def test_pictures_of_others_are_centred_by_channel():
    x = torch.randn(8, 3, 5, 4) + 2
    y = others(x, spatial=2)
    assert y.shape == x.shape and y.mean((0, 2, 3)).abs().max() < 1e-5
    centred = x - x.mean((0, 2, 3), keepdim=True)
    assert any(torch.allclose(y, centred.roll(shift, 0)) for shift in range(2, 7))
    assert not others(x[0], spatial=2).any()  # one picture has no others


def test_shadows_and_swaps_of_a_convolution():
    model = nn.Sequential(nn.Conv2d(2, 4, 3, groups=2, stride=2, padding=1))
    sparsify(model, log_sigma2=-30.0)
    shadows, x = Shadows(model), torch.randn(20, 2, 5, 5)
    plain = model(x)
    with shadows.cast(model):
        out = model(x)
        out.square().sum().backward()
    assert (out - plain).abs().max() > 0.01
    assert all(theta.grad.abs().max() > 0 for _, theta, _ in named_variational(shadows))
    model.eval()
    with swapped(model):
        out = model(x)
    torch.testing.assert_close(out, model(x).roll(7, 0))


# --- tables ---


def test_a_table_has_the_moments_of_sampled_weights():
    layer = EmbeddingVD.from_dense(nn.Embedding(5, 3), log_sigma2=-1.0)
    ids = torch.tensor([[3, 0], [3, 4]])
    with torch.no_grad():
        ours = layer(ids.expand(DRAWS, 2, 2))
        assert_same_moments(ours, sampled(layer, lambda w: F.embedding(ids, w)))
    torch.manual_seed(1)
    found = layer(ids)
    torch.manual_seed(1)
    expected = layer.weight[ids] + (layer.log_sigma2[ids].exp() + VARIANCE_EPS).sqrt() * torch.randn(2, 2, 3)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("noise", ["lrt", "weight"])
def test_padding_stays_what_it_is(noise):
    model = nn.Sequential(nn.Embedding(5, 3, padding_idx=2))
    sparsify(model, "0", noise=noise, log_sigma2=0.0)
    ids = torch.tensor([2, 1])
    out = model(ids)
    assert out[1].abs().max() > 0.1 and not out[0].any()
    model.eval()
    with one_sample(model):
        assert not model(ids)[0].any()
    out = model.train()(ids).sum()
    out.backward()
    assert not model[0].weight.grad[2].any() and model[0].weight.grad[1].any()


def test_the_shadow_of_a_table_tells_nothing_on_average():
    """Its vectors are those of other ids of the batch, less their mean."""
    model = nn.Sequential(nn.Embedding(6, 3))
    sparsify(model, "0", log_sigma2=-40.0)
    shadows, ids = Shadows(model), torch.randint(6, (40, 2))
    with torch.no_grad():
        plain = model(ids)
        with shadows.cast(model):
            added = model(ids) - plain
    (shadow,) = shadows._of.values()
    assert shadow.weight.shape == (6, 3) and added.flatten(0, 1).mean(0).abs().max() < 1e-2
    vectors = shadow.weight[ids.flatten()] - shadow.weight[ids.flatten()].mean(0)
    shifts = [math.dist(added.flatten().tolist(), vectors.roll(k, 0).flatten().tolist()) for k in range(80)]
    assert min(shifts) < 0.02 and 20 <= shifts.index(min(shifts)) <= 60
    with swapped(model):
        model.eval()
        torch.testing.assert_close(model(ids), model[0].weight[ids.roll(15, 0)])
