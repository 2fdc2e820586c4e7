"""Shadows and averaged parameters against what they stand for, written plainly."""

import copy
import math
from dataclasses import replace
from functools import partial
from typing import ClassVar

import numpy as np
import pytest
import torch
from scipy import special, stats
from torch import nn

from dissect.errors import DataError, UsageError
from dissect.runs.config import CALIBRATED, Config
from dissect.runs.files import read_jsonl, write_toml
from dissect.runs.folders import group_config
from dissect.sparsevd import Shadows, log_alpha, named_variational, penalty, protocol, shadows, sparsify
from dissect.sparsevd.averages import EVERY, Averages, is_averaged
from dissect.sparsevd.batches import Feed
from dissect.sparsevd.kl import kl_per_weight, null_share
from dissect.sparsevd.layers import VARIANCE_EPS, sigma_name
from dissect.sparsevd.shadows import aside, others
from dissect.tables.verdict import beside
from dissect.training.checkpoint import load_checkpoint
from dissect.training.evaluation import evaluate, metrics, prefixes_of
from dissect.training.loop import ExampleOrder, examples_of, fit, run_whole, train_step
from dissect.training.rebuild import reported
from dissect.training.record import density_rows
from dissect.training.resume import Interrupted
from dissect.training.setup import assemble, set_lr
from models import SRGNN, AttenMixer
from models.base import session_vectors
from tests.test_durability import assert_same_run
from tests.test_training import DATA, StopAt, train


class Every(nn.Module):
    """A layer of each kind."""

    def __init__(self):
        super().__init__()
        self.linear, self.cell = nn.Linear(6, 8), nn.GRUCell(8, 8)
        self.gru, self.conv = nn.GRU(8, 8, batch_first=True), nn.Conv1d(8, 8, 3, padding=1)

    def forward(self, x):  # [B, T, 6]
        h = self.linear(x)
        h = self.gru(h)[0]
        h = self.conv(h.transpose(1, 2)).transpose(1, 2)
        return self.cell(h[:, -1], h[:, 0])


@pytest.fixture(params=["lrt", "weight"])
def made(request):
    torch.manual_seed(0)
    model = Every()
    sparsify(model, noise=request.param, log_sigma2=-30.0)
    return model, Shadows(model)


def test_every_matrix_has_a_shadow_of_its_shape_numbers_and_noise(made):
    model, shadows = made
    thetas = {name: theta for name, theta, _ in named_variational(model)}
    assert shadows.names == list(thetas)
    for (_, shadow, log_sigma2), theta in zip(named_variational(shadows), thetas.values()):
        assert shadow.shape == theta.shape and log_sigma2.eq(-30).all()
        assert torch.equal(shadow.flatten().sort().values, theta.flatten().sort().values)
        assert not torch.equal(shadow, theta)


def test_shadows_act_in_training_only_and_leave_nothing_behind(made):
    model, shadows = made
    x = torch.randn(12, 5, 6)
    torch.manual_seed(1)
    plain = model(x)
    with shadows.cast(model):
        torch.manual_seed(1)
        assert (model(x) - plain).abs().max() > 0.01
        model.eval()
        with_them = model(x)
    torch.testing.assert_close(with_them, model(x))
    model.train()
    torch.manual_seed(1)
    assert torch.equal(model(x), plain)
    with pytest.raises(ZeroDivisionError), shadows.cast(model):
        raise ZeroDivisionError
    assert all(layer._shadow is None for layer in model.modules() if hasattr(layer, "_shadow"))


def test_every_shadow_gets_a_gradient_and_hands_none_to_its_inputs(made):
    model, shadows = made
    x = torch.randn(12, 5, 6, requires_grad=True)
    with shadows.cast(model):
        model(x).square().sum().backward()
    assert all(theta.grad.abs().max() > 0 for _, theta, _ in named_variational(shadows))
    linear = sparsify_one(nn.Linear(6, 8))
    shadow = Shadows(linear)
    with torch.no_grad():
        linear[0].weight.zero_()  # all that is left is what the shadow makes
    x.grad = None
    with shadow.cast(linear):
        linear(x).square().sum().backward()
    assert x.grad.abs().max() < 1e-6  # but for what the noise of the layer itself lets through


MATRICES = {
    "linear": (lambda: nn.Linear(3, 4), "weight", (8, 3)),
    "conv": (lambda: nn.Conv1d(3, 4, 3, padding=1), "weight", (8, 3, 5)),
    "cell, inputs": (lambda: nn.GRUCell(3, 4), "weight_ih", (8, 3)),
    "cell, states": (lambda: nn.GRUCell(3, 4), "weight_hh", (8, 4)),
    "gru, states": (lambda: nn.GRU(3, 4), "weight_hh_l0", (8, 4)),
}


@pytest.mark.parametrize("kind", MATRICES)
def test_a_matrix_and_its_shadow_share_one_draw_of_the_right_moments(kind, monkeypatch):
    torch.manual_seed(0)
    make, name, shape = MATRICES[kind]
    model, x, y, draws = nn.Sequential(make()), torch.randn(shape), torch.randn(shape), 3000
    sparsify(model)
    of = Shadows(model)
    for part in (model, of):
        for _, theta, log_sigma2 in named_variational(part):
            torch.nn.init.normal_(theta)
            torch.nn.init.normal_(log_sigma2)
    monkeypatch.setattr(shadows, "others", lambda *_, **__: y)
    layer = model[0]
    shadow = of._of[id(layer.get_parameter(name))]
    bias = layer.get_parameter(name.replace("weight", "bias"))
    times = partial(nn.functional.conv1d, padding=1) if isinstance(layer, nn.Conv1d) else nn.functional.linear
    log_sigma2 = layer.get_parameter(sigma_name(name))
    mean = times(x, layer.get_parameter(name), bias) + times(y, shadow.weight)
    variance = times(x**2, log_sigma2.exp()) + times(y**2, shadow.log_sigma2.exp())
    with torch.no_grad(), of.cast(model):
        sampled = torch.stack([layer._product(name, x, bias) for _ in range(draws)])
        torch.manual_seed(1)
        one = layer(x) if name == "weight" else layer._product(name, x, bias)
    assert ((sampled.mean(0) - mean).abs() < 5 * (variance / draws).sqrt()).all()
    assert (sampled.var(0) / variance - 1).abs().max() < 5 * (2 / draws) ** 0.5
    torch.manual_seed(1)
    torch.testing.assert_close(one, mean + (variance + VARIANCE_EPS).sqrt() * torch.randn(mean.shape))


def test_with_weight_noise_a_shadow_has_one_draw_in_a_step():
    model = sparsify_one(nn.Linear(3, 4), noise="weight", log_sigma2=0.0)
    of = Shadows(model)
    (shadow,) = of._of.values()
    for _ in range(2):
        with of.cast(model):
            drawn = [shadow(torch.eye(3)) for _ in range(2)]
        assert torch.equal(*drawn)
        assert not torch.equal(drawn[0], shadow(torch.eye(3)))


def sparsify_one(layer, **settings):
    model = nn.Sequential(layer)
    sparsify(model, **{"log_sigma2": -30.0, **settings})
    return model


def test_tied_matrices_have_one_shadow():
    a, b = nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False)
    b.weight = a.weight
    model = nn.Sequential(a, b)
    sparsify(model)
    assert len(Shadows(model).names) == 1


def test_others_are_other_rows_centred():
    x = torch.randn(20, 3)
    seen = set()
    for _ in range(200):
        y = others(x)
        shift = next(k for k in range(20) if torch.allclose(y, (x - x.mean(0)).roll(k, 0)))
        seen.add(shift)
    assert seen == set(range(5, 16))
    assert others(x[None].expand(2, 20, 3)).shape == (2, 20, 3)
    assert not others(torch.randn(3, 4)).any()  # too few
    y = others(torch.randn(8, 3, 5), spatial=1)
    assert y.mean((0, 2)).abs().max() < 1e-6


USELESS = {
    "linear": (lambda: nn.Linear(4, 16), [(64, 4)]),
    "conv": (lambda: nn.Conv1d(4, 16, 3), [(64, 4, 3)]),
    "cell": (lambda: nn.GRUCell(4, 16), [(64, 4), (64, 16)]),
}
KINDS = ["linear", pytest.param("conv", marks=pytest.mark.slow), pytest.param("cell", marks=pytest.mark.slow)]


@pytest.mark.parametrize("kind", KINDS)
def test_a_useless_layer_ends_like_its_shadow(kind):
    """A branch that is fed with noise: its log alpha has the distribution of its shadow's."""
    make, shapes = USELESS[kind]
    kept, shadowed = [], []
    for seed in range(4):
        torch.manual_seed(seed)
        needed, useless, head = nn.Linear(4, 16), make(), nn.Linear(16, 1)
        model = nn.ModuleList([needed, useless, head])
        sparsify(model, lambda name, _: name == "1")
        shadows = Shadows(model)
        optimiser = torch.optim.Adam([*model.parameters(), *shadows.parameters()], lr=0.01)
        for step in range(400):
            x, noise = torch.randn(64, 4), map(torch.randn, shapes)
            with shadows.cast(model):
                h = torch.tanh(model[0](x)) + model[1](*noise).view(64, 16)
            loss = (model[2](h)[:, 0] - x[:, 0].sin()).square().mean()
            loss = loss + min(1, step / 100) / 2000 * (penalty(model) + penalty(shadows))
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        for part, found in ((model, kept), (shadows, shadowed)):
            found += [log_alpha(theta, s).flatten() for _, theta, s in named_variational(part)]
    assert stats.ks_2samp(torch.cat(kept).detach(), torch.cat(shadowed).detach()).pvalue > 0.001


def test_averages_are_the_plain_mean_of_snapshots():
    model = nn.Linear(3, 2)
    averages, snapshots = Averages(model=model, controls=None), []
    with averages.in_place():  # none so far
        pass
    for _ in range(7):
        with torch.no_grad():
            model.weight.add_(torch.randn(2, 3))
        averages.add()
        snapshots.append(copy.deepcopy(model.state_dict()))
    now = model.weight.detach().clone()
    with averages.in_place():
        torch.testing.assert_close(model.weight, torch.stack([s["weight"] for s in snapshots]).mean(0))
    assert torch.equal(model.weight, now)
    with pytest.raises(ZeroDivisionError), averages.in_place():
        raise ZeroDivisionError
    assert torch.equal(model.weight, now)
    other = Averages(model=nn.Linear(3, 2), controls=None)
    other.restore(averages.state())
    assert other.count == 7 and torch.equal(other.means["model.weight"], averages.means["model.weight"])


def test_the_last_share_of_the_steps_is_averaged():
    assert [step for step in range(101) if is_averaged(step, 100, 0.4)] == list(range(65, 101, EVERY))
    assert not any(is_averaged(step, 100, 0.0) for step in range(101))


# --- the share of useless weights that is kept for ever (docs/method.md) ---

KEPT = {  # beta -> at t = 3, 2, 1, 0 with the KL that is trained with, and with the exact one
    1: ((0.289, 0.259, 0.195, 0.090), (0.298, 0.267, 0.198, 0.089)),
    2: ((0.134, 0.110, 0.067, 0.017), (0.141, 0.116, 0.069, 0.016)),
    3: ((0.066, 0.051, 0.025, 0.003), (0.071, 0.054, 0.026, 0.003)),
    4: ((0.034, 0.024, 0.010, 0.001), (0.037, 0.026, 0.010, 0.001)),
    5: ((0.018, 0.012, 0.004, 0.000), (0.020, 0.013, 0.004, 0.000)),
}


def test_useless_weights_are_kept_as_often_as_the_method_says():
    """Weights N(theta, sigma^2) with data term (w - z)^2 / 2, z standard normal: trained to the end, then counted."""
    beta = torch.tensor(list(KEPT))[:, None]
    z = torch.tensor(stats.norm.isf(torch.arange(0.5, 500) / 1000)).repeat(len(beta), 1)  # quantiles of |z|
    theta, log_sigma2 = z.clone().requires_grad_(), torch.full_like(z, -2.0).requires_grad_()
    optimiser = torch.optim.Adam([theta, log_sigma2], lr=0.03)
    for step in range(3000):
        optimiser.param_groups[0]["lr"] = 0.03 * min(1.0, 2 - step / 1500)
        loss = ((theta - z).square() + log_sigma2.exp()).sum() / 2 + (beta * kl_per_weight(theta, log_sigma2)).sum()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    kept = [(log_alpha(theta, log_sigma2) < t).double().mean(1) for t in (3, 2, 1, 0)]
    assert torch.stack(kept, 1).numpy() == pytest.approx(np.array([rows[0] for rows in KEPT.values()]), abs=0.0025)


@pytest.mark.parametrize("beta", KEPT)
def test_the_share_that_verdicts_subtract_is_that_of_the_method(beta):
    shares = [null_share(float(beta), float(t)) for t in (3, 2, 1, 0)]
    assert shares == pytest.approx(KEPT[beta][0], abs=0.0006)


@pytest.mark.parametrize("beta", KEPT)
def test_with_the_exact_kl_the_shares_are_nearly_the_same(beta):
    """With the best theta the loss is beta KL(a) + z^2 / 2 sigmoid(a), a = log alpha. Its slope is 0 at the minimum."""
    for t, share in zip((3, 2, 1, 0), KEPT[beta][1]):
        x = math.exp(-t / 2) / math.sqrt(2)
        slope = x * special.dawsn(x)  # of the KL, downwards
        z = math.sqrt(2 * beta * slope / (special.expit(t) * special.expit(-t)))  # for which t is the minimum
        assert special.erfc(z / math.sqrt(2)) == pytest.approx(share, abs=0.0006)


SMALL = Config("srgnn", "small", DATA.split_hash, {"dim": 8}, **{**CALIBRATED, "batch_size": 16, "max_steps": 50})


PART = replace(SMALL, shadow_items=9)


@pytest.mark.parametrize("config", [SMALL, PART, SMALL.matched()], ids=["dissected", "part", "matched"])
def test_a_run_that_is_stopped_goes_on_with_its_shadows_and_averages(tmp_path, config):
    train(tmp_path / "whole", config)
    for moment in (20, 45):  # before the averages, and among them
        with pytest.raises(Interrupted):
            train(tmp_path / "stopped", config, observer=StopAt(moment))
    train(tmp_path / "stopped", config)
    assert_same_run(tmp_path / "stopped", tmp_path / "whole")


def test_densities_and_accuracy_are_of_the_averages_and_so_is_the_model_that_is_opened(tmp_path):
    summary = train(tmp_path, SMALL)
    saved = load_checkpoint(tmp_path / "checkpoints" / "last.pt")
    weights = reported(saved)
    assert saved["averages"]["count"] == 4  # steps 35, 40, 45, 50 of the last 20
    assert not torch.equal(weights["items"], saved["model"]["items"])
    model = SRGNN(30, dim=8)
    sparsify(model)
    model.load_state_dict(weights)
    assert metrics(evaluate(model, prefixes_of(DATA.test))) == summary["test"]
    kept = {row["matrix"]: row["kept"]["3"] for row in summary["density"] if not row["block"]}
    for name, theta, log_sigma2 in named_variational(model):
        assert kept[name] == int((log_alpha(theta, log_sigma2) < 3).sum())


def test_each_group_of_parameters_has_its_rate():
    training = assemble(lambda: SRGNN(30, dim=8), SMALL, prefixes_of(DATA.train), 1, "full")
    for step, host in ((0, 1.0), (20, 1.0), (35, 0.5), (50, 0.0)):
        set_lr(training.optimiser, SMALL, step, 10)
        rates = {group["kind"]: group["lr"] / SMALL.lr for group in training.optimiser.param_groups}
        assert rates == pytest.approx({"host": host, "penalised": 1.0, "own": 3.0})
    covered = {id(p) for group in training.optimiser.param_groups for p in group["params"]}
    assert covered == {id(p) for part in (training.model, training.controls) for p in part.parameters()}
    set_lr(training.optimiser, Config("x", "", "", max_steps=100), 50, 10)
    assert {group["lr"] for group in training.optimiser.param_groups} == {1e-3}


@pytest.mark.parametrize("build", [lambda: SRGNN(30, dim=8), lambda: AttenMixer(30, dim=8)], ids=["gates", "heads"])
def test_each_block_stands_beside_the_same_block_of_its_shadow(build):
    training = assemble(build, SMALL, prefixes_of(DATA.train), 1, "full")
    of = training.controls.shadows
    for _, _, log_sigma2 in named_variational(of):
        torch.nn.init.normal_(log_sigma2, -3.0, 3.0)
    rows = density_rows(training)
    own = [(row["matrix"], row["block"]) for row in rows if row["role"] not in ("control", "shadow")]
    beside = {(row["matrix"], row["block"]): row for row in rows if row["role"] == "shadow"}
    assert list(beside) == [(f"shadow.{matrix}", block) for matrix, block in own] and any(block for _, block in own)
    for name, (_, theta, log_sigma2) in zip(of.names, named_variational(of)):
        blocks = training.model.matrices[name].rows
        for block, counted in zip(blocks, (log_alpha(theta, log_sigma2) < 3).chunk(max(1, len(blocks)))):
            assert beside[f"shadow.{name}", block]["kept"]["3"] == int(counted.sum())


class Normed(SRGNN):
    """A user's model whose session vectors pass a batch norm."""

    def __init__(self):
        super().__init__(30, dim=8)
        self.norm = nn.BatchNorm1d(8)

    def encode(self, S, batch):
        return self.norm(super().encode(S, batch))


class Projected(SRGNN):
    """A user's model whose item table is computed by a matrix, and whose sessions pass it again."""

    def __init__(self):
        super().__init__(30, dim=8)
        self.project = nn.Linear(8, 8)

    def item_states(self):
        return self.project(self.items)

    def encode(self, S, batch):
        return self.project(super().encode(S, batch))


@pytest.mark.parametrize(("noise", "negatives"), [("lrt", 0), ("weight", 0), ("lrt", 5)])
def test_a_matrix_that_makes_the_item_table_has_a_shadow_that_learns(noise, negatives):
    class Apart(Projected):
        def encode(self, S, batch):  # the matrix runs in item_states only
            return SRGNN.encode(self, S, batch)

    for build in (Apart, Projected):
        config = replace(SMALL, noise=noise, negatives=negatives)
        training = assemble(build, config, prefixes_of(DATA.train), 1, "full")
        assert training.has_dissected_table
        train_step(training, prefixes_of(DATA.train).batch(torch.arange(16)), 0.0, torch.empty(30, 16))
        of = training.controls.shadows
        grads = {name: layer.weight.grad for name, layer in zip(of.names, of.children(), strict=True)}
        assert "project" in grads and all(grad.abs().max() > 0 for grad in grads.values())
    assert not assemble(lambda: SRGNN(30, dim=8), SMALL, prefixes_of(DATA.train), 1, "full").has_dissected_table


def test_batch_norm_has_the_statistics_of_the_averaged_weights(tmp_path):
    summary = fit(Normed, DATA, SMALL, tmp_path / "whole", seed=1)
    saved = load_checkpoint(tmp_path / "whole" / "checkpoints" / "last.pt")
    model, seen = Normed(), []
    sparsify(model)
    model.load_state_dict(reported(saved))
    model.eval()
    assert metrics(evaluate(model, prefixes_of(DATA.test))) == summary["test"]
    model.norm.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    prefixes = examples_of(DATA, SMALL, "cpu")[0]
    order = ExampleOrder(prefixes, SMALL, 1)
    with torch.no_grad():
        for step in range(len(prefixes) // SMALL.batch_size):  # fewer than BATCHES
            session_vectors(model, model.items, prefixes.batch(order.batch(step)))
    torch.testing.assert_close(model.norm.running_mean, torch.stack([h.mean(0) for h in seen]).mean(0))
    torch.testing.assert_close(model.norm.running_var, torch.stack([h.var(0) for h in seen]).mean(0))
    assert model.norm.num_batches_tracked == len(seen) and model.norm.momentum == 0.1
    assert (saved["model"]["norm.running_mean"] - model.norm.running_mean).abs().max() > 1e-4  # those of the steps
    with pytest.raises(Interrupted):
        fit(Normed, DATA, SMALL, tmp_path / "stopped", seed=1, observer=StopAt(45))
    fit(Normed, DATA, SMALL, tmp_path / "stopped", seed=1)
    assert_same_run(tmp_path / "stopped", tmp_path / "whole")


def test_statistics_are_left_alone_without_averages_and_where_the_model_keeps_them():
    model, batches = Normed(), [prefixes_of(DATA.train).batch(torch.arange(9))]
    before, averages = copy.deepcopy(model.state_dict()), Averages(model=model, controls=None)
    averages.take_statistics(model, partial(run_whole, model), batches)
    assert not averages.means
    averages.add()
    model.norm.eval()
    averages.take_statistics(model, partial(run_whole, model), batches)
    assert not any("running" in name for name in averages.means)
    model.norm.train()
    averages.take_statistics(model, partial(run_whole, model), batches)
    assert averages.means["model.norm.running_mean"].abs().max() > 0
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert model.training and model.norm.training and model.norm.momentum == 0.1


@pytest.mark.parametrize("size", [1, 3])
def test_batches_too_small_for_shadows_are_refused(size):
    config = Config("srgnn", "small", DATA.split_hash, {"dim": 8}, **{**CALIBRATED, "batch_size": size})
    with pytest.raises(UsageError, match=f"need 4 of them: batches of {size} are too small"):
        assemble(lambda: SRGNN(30, dim=8), config, prefixes_of(DATA.train), 1, "full")


def test_a_last_batch_of_one_example_is_harmless(tmp_path):
    examples = len(examples_of(DATA, SMALL, "cpu")[0])
    size = next(size for size in range(16, examples) if examples % size == 1)
    train(tmp_path, replace(SMALL, batch_size=size, max_steps=math.ceil(examples / size)))


def test_a_model_without_a_matrix_is_refused():
    class Bag(SRGNN):
        matrices: ClassVar = {}

        def __init__(self):
            super().__init__(30, dim=8, steps=0, without=("attention",))
            self.readout = None

        def encode(self, S, batch):
            return S[batch.items.clamp(min=1) - 1].mean(1)

    with pytest.raises(DataError, match="SparseVD can replace no layer"):
        assemble(Bag, SMALL, prefixes_of(DATA.train), 1, "full")


@pytest.mark.parametrize(("noise", "shadow_items"), [("lrt", 0), ("weight", 0), ("lrt", 9)])
@pytest.mark.parametrize(
    "build",
    [
        lambda: SRGNN(30, dim=8),
        pytest.param(lambda: AttenMixer(30, dim=8), marks=pytest.mark.slow),
        Normed,
        pytest.param(Projected, marks=pytest.mark.slow),
    ],
    ids=["srgnn", "attenmixer", "normed", "projected"],
)
def test_a_model_ends_the_same_with_shadows_without_them_and_without_controls(tmp_path, build, noise, shadow_items):
    """Bit for bit: weights, statistics of batch norm, accuracy and densities."""
    ends, told = [], []
    for way, shadowed, variant in (("with", True, "full"), ("without", False, "full"), ("alone", False, "without-x")):
        config = replace(SMALL, noise=noise, shadows=shadowed, shadow_items=shadow_items)
        summary = fit(build, DATA, config, tmp_path / way, seed=1, variant=variant)  # "without-x" has no controls
        saved = load_checkpoint(tmp_path / way / "checkpoints" / "last.pt")
        means = {name: mean for name, mean in saved["averages"]["means"].items() if name.startswith("model.")}
        ends.append({**saved["model"], **means})
        told.append(summary["test"])
    assert len(ends[0]) > 10 and ends[0].keys() == ends[1].keys() == ends[2].keys()
    for name, value in ends[0].items():
        assert torch.equal(value, ends[1][name]) and torch.equal(value, ends[2][name]), name
    assert told[0] == told[1] == told[2]
    lines = [read_jsonl(tmp_path / way / "metrics.jsonl") for way in ("with", "without", "alone")]
    values = [[(row["loss"], row["kl"]) for row in each if row["kind"] == "train"] for each in lines]
    assert len(values[0]) > 10 and values[0] == values[1] == values[2]  # of the model alone


def test_a_pass_aside_leaves_no_trace():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.5), nn.Linear(4, 1))
    model[0].bias.requires_grad_(False)
    sparsify(model)
    of, before = Shadows(model), copy.deepcopy(model.state_dict())
    x, learning = torch.randn(12, 3), [p.requires_grad for p in model.parameters()]
    state = torch.get_rng_state()
    for seed, value in ((5, []), (5, []), (6, [])):
        with aside(model, seed), of.cast(model):
            value.append(model(x).square().mean())
            value[0].backward()
    assert torch.equal(torch.get_rng_state(), state)
    assert [p.requires_grad for p in model.parameters()] == learning
    assert all(p.grad is None for p in model.parameters())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(theta.grad.abs().max() > 0 for _, theta, _ in named_variational(of))
    with pytest.raises(ZeroDivisionError), aside(model, 1):
        raise ZeroDivisionError
    assert [p.requires_grad for p in model.parameters()] == learning


def test_the_draws_of_a_pass_aside_come_from_its_seed():
    model, found = nn.Dropout(0.5), []
    for seed in (5, 5, 6):
        with aside(model, seed):
            found.append(model(torch.ones(64)))
    assert torch.equal(found[0], found[1]) and not torch.equal(found[0], found[2])


def test_runs_whose_shadows_changed_the_model_are_read_but_not_continued(tmp_path):
    group = tmp_path / f"old-{replace(SMALL, apart=False).hash}"
    write_toml(group / "config.toml", {name: v for name, v in SMALL.to_dict().items() if name != "apart"})
    old = Config(**group_config(group))
    assert not old.apart and old.hash != SMALL.hash and old.matched().hash == SMALL.matched().hash
    with pytest.raises(UsageError, match="of an earlier version: its shadows and controls ran within the model"):
        train(group / "s1", old)
    write_toml(group.with_name("dense") / "config.toml", {**SMALL.matched().to_dict(), "apart": True})
    assert Config(**group_config(group.with_name("dense"))).apart
    (said,) = [*beside({"apart": False}), *beside({"apart": True}), *beside({})]
    assert "ran within the model and may have changed it" in said


def test_a_model_of_ones_own_ends_the_same_with_and_without_shadows():
    def loss(model, batch):
        x, y = batch
        return (model(x)[:, 0] - y).square().mean()

    torch.manual_seed(3)
    x = torch.randn(96, 3)
    feed, ends = Feed(list(zip(x.split(24), x[:, 0].sin().split(24))), "batches"), []
    for shadowed in (True, False):
        torch.manual_seed(0)
        made = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.3), nn.Linear(4, 1))
        trained = protocol.train(made, loss, feed, 96, protocol.Protocol(steps=30, shadows=shadowed), seed=1)
        ends.append(trained.model.state_dict())
        assert (trained.shadows is not None) is shadowed
    assert all(torch.equal(value, ends[1][name]) for name, value in ends[0].items())


def test_tied_weights_are_read_back_as_the_means(tmp_path):
    """A parameter with two names has its mean under the first one; the second must not bring the last step back."""

    class Tied(SRGNN):
        def __init__(self, n_items, dim=8):
            super().__init__(n_items, dim)
            self.again = self.readout.transform

    config = replace(SMALL, where="none", shadows=False, select="last", kl_weight=0.0)
    fit(lambda: Tied(30, 8), DATA, config, tmp_path / "s1", seed=1)
    saved = load_checkpoint(tmp_path / "s1" / "checkpoints" / "last.pt")
    weights, first, second = reported(saved), "readout.transform.weight", "again.weight"
    assert torch.equal(weights[first], weights[second]) and not torch.equal(weights[first], saved["model"][first])
    model = Tied(30, 8)
    model.load_state_dict(weights)
    assert torch.equal(model.readout.transform.weight, saved["averages"]["means"][f"model.{first}"])


def test_layers_may_be_called_as_the_attributes_of_shadows_are():
    class Named(nn.Module):
        def __init__(self):
            super().__init__()
            self.cast, self.names = nn.Linear(4, 3), nn.Linear(4, 3)

    model = Named()
    sparsify(model)
    assert Shadows(model).names == ["cast", "names"]


def test_a_shadow_adds_nothing_to_padding():
    model = nn.Sequential(nn.Embedding(6, 3, padding_idx=0))
    sparsify(model, "0")
    ids = torch.tensor([[0, 1, 2], [3, 0, 5], [4, 2, 1], [5, 5, 0]])
    with Shadows(model).cast(model):
        vectors = model(ids)
    assert not vectors[ids == 0].any() and vectors[ids != 0].std() > 0
