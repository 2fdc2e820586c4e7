"""L0 gates: the distribution, its penalty and gradients against independent ones, and what a training finds."""

import math

import pytest
import torch
import torch.nn.functional as F
from scipy import integrate, optimize
from torch import nn
from torch.nn.utils import parametrize

import dissect
from dissect import sparsevd
from dissect.data import planted
from dissect.errors import DivergedError, UsageError
from dissect.experiment.opinions import subject_of
from dissect.experiment.pieces import gated
from dissect.experiment.plan import silent
from dissect.opinions import l0, sessions
from dissect.opinions.tuning import train

ALPHAS = (-4.0, -1.0, 0.0, 2.0, 5.0)


def plain_gate(log_alpha, u):
    """The gate of one weight, from equations 10 and 11 as they are written."""
    s = 1 / (1 + math.exp(-(math.log(u) - math.log(1 - u) + log_alpha) / (2 / 3)))
    return min(1.0, max(0.0, s * (1.1 - -0.1) + -0.1))


@pytest.mark.parametrize("log_alpha", ALPHAS)
def test_a_gate_is_that_of_the_equations(log_alpha):
    us = torch.linspace(0.01, 0.99, 21, dtype=torch.float64)
    expected = [plain_gate(log_alpha, float(u)) for u in us]
    torch.testing.assert_close(l0.gates(torch.full_like(us, log_alpha), us).tolist(), expected)
    assert {0.0, 1.0} <= set(l0.gates(torch.full_like(us, 0.0), us).tolist())


@pytest.mark.parametrize("log_alpha", ALPHAS)
def test_the_penalty_is_the_probability_that_a_gate_is_open(log_alpha):
    """Exactly: a gate opens from one u on, found by bisection. And by sampling."""
    opens = optimize.brentq(lambda u: 1 / (1 + ((1 - u) / u * math.exp(-log_alpha)) ** 1.5) * 1.2 - 0.1, 1e-9, 1 - 1e-9)
    probability = float(l0.open_probability(torch.tensor(log_alpha, dtype=torch.float64)))
    assert probability == pytest.approx(1 - opens, abs=1e-9)
    u = torch.rand(200_000, generator=torch.Generator().manual_seed(0))
    share = float((l0.gates(torch.full_like(u, log_alpha), u) > 0).float().mean())
    assert share == pytest.approx(probability, abs=4 * math.sqrt(0.25 / len(u)))


@pytest.mark.parametrize("log_alpha", ALPHAS)
def test_the_mean_of_gates_is_that_of_numerical_integration(log_alpha):
    u = torch.rand(400_000, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    mean = integrate.quad(lambda v: plain_gate(log_alpha, v), 0, 1, limit=200)[0]
    assert float(l0.gates(torch.full_like(u, log_alpha), u).mean()) == pytest.approx(mean, abs=3e-3)


def test_gradients_of_loss_and_penalty_are_finite_differences():
    torch.manual_seed(2)
    model = nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 2)).double()
    l0.gate(model)
    x, y = torch.randn(7, 4, dtype=torch.float64), torch.randint(2, (7,))
    with torch.no_grad():
        for own in l0.own_parameters(model):
            own.uniform_(-3, 3)

    def value():
        torch.manual_seed(3)  # the same draws each time
        with parametrize.cached():
            return F.cross_entropy(model(x), y) + 0.05 * l0.penalty(model)

    value().backward()
    for parameter in (*l0.own_parameters(model), *l0.sparsified(model).values()):
        for i in range(parameter.numel()):
            flat, step, ends = parameter.data.view(-1), 1e-6, []
            for sign in (1, -1):
                flat[i] += sign * step
                ends.append(float(value().detach()))
                flat[i] -= sign * step
            assert float(parameter.grad.view(-1)[i]) == pytest.approx((ends[0] - ends[1]) / (2 * step), abs=1e-7)


def test_it_has_the_functions_of_the_sparsifier():
    model = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2))
    names = [*sparsevd.sparsify(nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2))).swapped]
    weights = {name: model.get_submodule(name).weight for name in names}
    assert l0.gate(model) == names
    assert [*l0.scores(model)] == [*l0.sparsified(model)] == names
    assert all(l0.sparsified(model)[name] is weights[name] for name in names)
    assert [own.numel() for own in l0.own_parameters(model)] == [12, 6]
    expected = sum(torch.sigmoid(own + 2 / 3 * math.log(11)).sum() for own in l0.own_parameters(model))
    torch.testing.assert_close(l0.penalty(model), expected)
    assert float(l0.penalty(nn.Linear(2, 2))) == 0


def test_a_score_above_0_is_a_gate_that_is_open_in_evaluation():
    model = nn.Sequential(nn.Linear(50, 40)).eval()
    l0.gate(model)
    with torch.no_grad():
        l0.own_parameters(model)[0].normal_(0, 4)
    torch.testing.assert_close(l0.scores(model)["0"] > 0, model[0].weight != 0)
    assert 0.1 < float((model[0].weight == 0).float().mean()) < 0.9
    assert torch.equal(model[0].weight, model[0].weight)  # no draw


@pytest.mark.parametrize(
    "layer", [nn.Linear(5, 4), nn.Conv1d(5, 4, 2), nn.GRUCell(5, 4), nn.GRU(5, 4, batch_first=True)]
)
def test_every_kind_of_layer_runs_on_its_gated_weights(layer):
    model = nn.ModuleDict({"it": layer})
    x = torch.randn(6, 5) if isinstance(layer, nn.Linear | nn.GRUCell) else torch.randn(6, 7, 5)
    x = x.transpose(1, 2) if isinstance(layer, nn.Conv1d) else x
    more = (torch.randn(1, 4).expand(6, 4),) if isinstance(layer, nn.GRUCell) else ()

    def first(out):
        return out[0] if isinstance(out, tuple) else out

    before = first(layer(x, *more)).detach()
    l0.gate(model)
    model.eval()
    with torch.no_grad():
        for own in l0.own_parameters(model):
            own.fill_(20.0)
    torch.testing.assert_close(first(layer(x, *more)), before)  # wide open
    with torch.no_grad():
        for own in l0.own_parameters(model):
            own.fill_(-20.0)
    shut = first(layer(x, *more))
    row = (
        shut.movedim(1, -1).reshape(-1, 4) if isinstance(layer, nn.Conv1d) else shut[:, -1] if shut.dim() > 2 else shut
    )
    assert torch.allclose(row, row[0].expand_as(row), atol=1e-6) and not torch.allclose(shut, before)
    model.train()
    with torch.no_grad():
        for own in l0.own_parameters(model):
            own.fill_(0.0)
    first(layer(x, *more)).sum().backward()
    assert all(own.grad is not None and bool(own.grad.any()) for own in l0.own_parameters(model))


def test_a_training_closes_the_gates_of_useless_inputs():
    torch.manual_seed(4)
    model = nn.Sequential(nn.Linear(10, 1))
    l0.gate(model)
    optimiser = torch.optim.Adam(model.parameters(), lr=0.02)
    x = torch.randn(2000, 10)
    y = 2 * x[:, :1] - x[:, 1:2]
    rows = (torch.randint(2000, (100,)) for _ in range(800))

    def loss(model, rows):
        return F.mse_loss(model(x[rows]), y[rows])

    train(model, loss, rows, optimiser, penalty=lambda step: 40 / 2000 * l0.penalty(model))
    is_open = l0.scores(model.eval())["0"][0] > 0
    assert is_open.tolist() == [True] * 2 + [False] * 8


def test_a_step_that_reads_a_weight_twice_has_one_draw():
    torch.manual_seed(5)
    model = nn.Sequential(nn.Linear(6, 6, bias=False))
    l0.gate(model, start=0.0)
    differences = []

    def loss(model, x):
        differences.append(float((model[0].weight - model[0].weight).detach().abs().sum()))
        return model(x).square().mean()

    optimiser = torch.optim.SGD(model.parameters(), lr=0.1)
    train(model, loss, [torch.randn(3, 6)] * 2, optimiser)
    assert differences == [0.0, 0.0] and not torch.equal(model[0].weight, model[0].weight)


def test_a_training_that_breaks_says_so():
    model = nn.Sequential(nn.Linear(2, 1))
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(DivergedError, match="step 0"):
        train(model, lambda model, x: model(x).mean() * math.inf, [torch.ones(1, 2)], optimiser)
    with pytest.raises(UsageError, match="scalar"):
        train(model, lambda model, x: model(x), [torch.ones(3, 2)], optimiser)
    with pytest.raises(UsageError, match="has no matrix 'x'"):
        l0.gate(model, ["x"])


def test_a_training_that_is_stopped_goes_on_from_its_last_checkpoint(tmp_path, monkeypatch):
    demo = planted.generate("demo")
    tiny = dissect.Dataset("tiny", demo.n_items, demo.train.part(0, 300), demo.test.part(0, 100))
    settings = {"dim": 8, "max_steps": 30, "batch_size": 40, "runs_dir": tmp_path, "quiet": True}
    group = dissect.run("srgnn", tiny, seeds=(1,), **settings).path
    subject = subject_of(group, 1, lambda *_: tiny, 20, None, None, None)
    whole, _ = gated(subject, silent, 1.0)
    (group / "opinions" / "s1.l0.pt").unlink()
    monkeypatch.setattr(sessions, "CHECKPOINT_SECONDS", 0.0)

    def stop(what, done, total):
        if done == 17:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        gated(subject, stop, 1.0)
    told = []
    gated(subject, lambda *given: told.append(given), 2.0)  # at another price it begins anew
    assert told[0] == ("L0 training", 0, 30)
    with pytest.raises(KeyboardInterrupt):
        gated(subject, stop, 1.0)
    again, before = gated(subject, lambda *given: told.append(given), 1.0)
    assert told[31] == ("L0 training", 17, 30) and told[-1] == ("L0 training", 30, 30) and before > 0
    assert all(torch.equal(weight, again.state_dict()[name]) for name, weight in whole.state_dict().items())
    assert not list((group / "opinions").glob("*.part*"))
