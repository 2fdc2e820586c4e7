"""Shadows and averaged parameters against what they stand for, written plainly."""

import copy

import pytest
import torch
from scipy import stats
from torch import nn

from dissect.runs.config import CALIBRATED, Config
from dissect.sparsevd import Shadows, log_alpha, named_variational, penalty, sparsify
from dissect.sparsevd.shadows import others
from dissect.training.averages import EVERY, Averages, averages_at
from dissect.training.checkpoint import load_checkpoint
from dissect.training.evaluation import evaluate, metrics, prefixes_of
from dissect.training.rebuild import reported
from dissect.training.resume import Interrupted
from dissect.training.setup import assemble, set_lr
from models import SRGNN
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


def sparsify_one(layer):
    model = nn.Sequential(layer)
    sparsify(model, log_sigma2=-30.0)
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
    y = others(torch.randn(8, 3, 5), is_sequence=True)
    assert y.mean((0, 2)).abs().max() < 1e-6


def test_a_useless_layer_ends_like_its_shadow():
    """A branch that is fed with noise: its log alpha has the distribution of its shadow's."""
    kept, shadowed = [], []
    for seed in range(4):
        torch.manual_seed(seed)
        needed, useless, head = nn.Linear(4, 16), nn.Linear(4, 16), nn.Linear(16, 1)
        model = nn.ModuleList([needed, useless, head])
        sparsify(model, lambda name, _: name == "1")
        shadows = Shadows(model)
        optimiser = torch.optim.Adam([*model.parameters(), *shadows.parameters()], lr=0.01)
        for step in range(400):
            x, noise = torch.randn(64, 4), torch.randn(64, 4)
            with shadows.cast(model):
                h = torch.tanh(model[0](x)) + model[1](noise)
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
    config = Config("x", "", "", max_steps=100, average=0.4)
    steps = [step for step in range(101) if averages_at(config, step)]
    assert steps == list(range(65, 101, EVERY)) and not any(
        averages_at(Config("x", "", "", max_steps=100), step) for step in range(101)
    )


SMALL = Config("srgnn", "small", DATA.split_hash, {"dim": 8}, **{**CALIBRATED, "batch_size": 16, "max_steps": 50})


@pytest.mark.parametrize("config", [SMALL, SMALL.matched()], ids=["dissected", "matched"])
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
