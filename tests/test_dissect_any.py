"""`dissect` on any module: its training, its tables, its verdicts, its errors; and branches with a known answer."""

import copy
import io
import itertools
import math
from contextlib import nullcontext

import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from scipy import stats
from torch import nn
from torch.nn.utils.rnn import pack_sequence
from torch.utils.data import DataLoader, RandomSampler, SubsetRandomSampler, TensorDataset

from analyses import answers, shadowed
from dissect.errors import DataError, DivergedError, UsageError
from dissect.runs.config import CALIBRATED, SEEDS
from dissect.sparsevd import Dissected, LinearVD, Shadows, density, dissect, log_alpha, protocol, rules, sparsify
from dissect.sparsevd import batches as dissect_batches
from dissect.sparsevd.averages import EVERY
from dissect.sparsevd.batches import Feed, rows_of
from dissect.sparsevd.dissected import _Progress, scored
from dissect.sparsevd.groups import Count, count, is_all_that_reads, layers_of, masks_of
from dissect.sparsevd.kl import kept_count, null_share
from dissect.sparsevd.protocol import Protocol

N = 64


class Branches(nn.Module):
    """needed(x) + useless(z), where z tells nothing; `dead` never runs."""

    def __init__(self, make=lambda: nn.Linear(4, 8), run=lambda layer, x: layer(x), width=8, classes=2):
        super().__init__()
        self.needed, self.useless, self.dead = make(), make(), nn.Linear(3, 3)
        self.head, self.run = nn.Linear(width, classes), run

    def forward(self, x, z):
        return self.head(torch.tanh(self.run(self.needed, x) + self.run(self.useless, z)))


def data(n=N, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x, z = (torch.randn(n, 4, generator=generator) for _ in range(2))
    return x, z, (x[:, 0] > 0).long()


def loss(model, batch):
    x, z, y = batch
    return F.cross_entropy(model(x, z), y)


def accuracy(model, batch):
    x, z, y = batch
    return (model(x, z).argmax(1) == y).float().mean()


BATCHES = [tuple(part[i : i + 16] for part in data()) for i in range(0, N, 16)]
QUICK = {"steps": 60, "lr": 0.03, "quiet": True}
GROUPS = {"needed": ["needed"], "useless": "useless*"}


@pytest.fixture(scope="module")
def found():
    torch.manual_seed(0)
    unseen = [data(200, seed=1)]
    return dissect(Branches, loss, BATCHES, held_out=unseen, score=accuracy, seeds=(1, 2), **QUICK)


# --- the training ---


def test_settings_are_those_of_dissect_run():
    assert Protocol().kl_weight == CALIBRATED["kl_weight"] and Protocol().lr == CALIBRATED["lr"]
    assert CALIBRATED["schedule"] == "host"


def test_the_schedule_step_by_step(monkeypatch):
    """KL up over 40 %, biases' rate down from 40 %, three times the rate for log sigma^2, the last 40 % averaged."""
    steps, seen, betas = 50, [], []
    real = torch.optim.Adam.step

    def watched(optimiser, *args, **kwargs):
        seen.append({group["kind"]: group["lr"] for group in optimiser.param_groups})
        result = real(optimiser, *args, **kwargs)
        snapshots.append(optimiser.param_groups[1]["params"][0].detach().clone())
        return result

    def told(model, batch):
        betas.append(model)
        return loss(model, batch)

    def counted(theta, log_sigma2, threshold):
        recorded.append(theta.detach().clone())
        return kept_count(theta, log_sigma2, threshold)

    snapshots, recorded = [], []
    monkeypatch.setattr(torch.optim.Adam, "step", watched)
    monkeypatch.setattr(protocol, "kept_count", counted)
    result = dissect(Branches, told, BATCHES, seeds=(1,), steps=steps, lr=0.01, quiet=True)
    assert len(seen) == steps
    for done, rates in enumerate(seen):
        assert rates["own"] == pytest.approx(0.03) and rates["penalised"] == 0.01
        assert rates["host"] == pytest.approx(0.01 * min(1, (steps - done) / (0.6 * steps)))
    averaged = [snapshot for step, snapshot in enumerate(snapshots, 1) if step > 30 and (steps - step) % EVERY == 0]
    assert len(averaged) == 4
    torch.testing.assert_close(result.model.needed.weight, torch.stack(averaged).mean(0))
    of_needed = recorded[3::6]  # at each step three shadows, then three matrices
    assert len(of_needed) == steps + 1 and torch.equal(of_needed[20], snapshots[19])
    torch.testing.assert_close(of_needed[41], (snapshots[34] + snapshots[39]) / 2)  # what is recorded is averaged
    assert set(map(type, betas)) == {Branches} and not result.model.training


def test_the_kl_counts_once_for_the_whole_data_set(monkeypatch):
    """With a loss that is flat the gradient of log sigma^2 is that of the KL, in closed form, divided by N."""
    seen, model = [], Branches()

    def watched(optimiser, *_, **__):
        seen.append(optimiser.param_groups[2]["params"][0].grad.clone())

    monkeypatch.setattr(torch.optim.Adam, "step", watched)
    flat = {"loss": lambda model, batch: model(*batch[:2]).mean() * 0, "batches": BATCHES, "shadows": False}
    for n in (N, 10 * N):
        dissect(model, **flat, seeds=(1,), steps=10, kl_weight=2.0, quiet=True, n_examples=n)
    assert not seen[0].any()  # the KL weight rises over four steps
    a = log_alpha(model.needed.weight.detach(), _start(model.needed.weight))
    s = torch.sigmoid(-(1.8732 + 1.48695 * a))
    slope = -0.5 * torch.sigmoid(-a) - 0.63576 * 1.48695 * s * (1 - s)
    for done in (1, 2, 4, 9):
        torch.testing.assert_close(seen[done], 2.0 * min(1, done / 4) / N * slope)
        torch.testing.assert_close(seen[10 + done], seen[done] / 10)


def test_shadows_have_their_kl_too_by_the_prior_that_was_chosen(monkeypatch):
    seen = []

    def watched(optimiser, *_, **__):
        thetas, own = (optimiser.param_groups[at]["params"] for at in (1, 2))
        seen[:] = [(log_alpha(theta, s).detach(), s.grad.clone()) for theta, s in zip(thetas, own, strict=True)]

    monkeypatch.setattr(torch.optim.Adam, "step", watched)
    flat = {"loss": lambda model, batch: model(*batch[:2]).mean() * 0, "batches": BATCHES, "prior": "ard"}
    dissect(Branches, **flat, seeds=(1,), steps=10, kl_weight=2.0, quiet=True)
    assert len(seen) == 6  # of three matrices and their shadows
    for a, grad in seen:
        torch.testing.assert_close(grad, -0.5 * torch.sigmoid(-a) * 2.0 / N)


def test_with_weight_noise_a_step_has_one_draw():
    alike = []

    def told(model, batch):
        alike.append(torch.equal(model.needed(batch[0]), model.needed(batch[0])))
        return loss(model, batch)

    dissect(Branches, told, BATCHES, seeds=(1,), steps=4, noise="weight", shadows=False, quiet=True)
    assert all(alike) and len(alike) >= 4


def test_products_of_the_pass_of_shadows_are_those_of_the_models_pass(monkeypatch):
    """The first layers are not multiplied twice: their product and its variance are taken over, bit for bit."""
    calls = []
    linear = F.linear
    monkeypatch.setattr(F, "linear", lambda *inputs: calls.append(1) or linear(*inputs))

    def trained(taken):
        calls.clear()
        with monkeypatch.context() as patch:
            if not taken:
                patch.setattr(protocol, "moments_kept", nullcontext)
            torch.manual_seed(0)
            model = dissect(Branches, loss, BATCHES, seeds=(1,), steps=4, quiet=True).models[1]
        return len(calls), model.state_dict()

    (fewer, ours), (more, twice) = trained(True), trained(False)
    assert more - fewer == 2 * 2 * 4  # mean and variance, two branches, four steps
    assert all(torch.equal(ours[name], twice[name]) for name in twice)


def _start(weight):
    layer = nn.Linear(weight.shape[1], weight.shape[0])
    layer.weight = nn.Parameter(weight.detach().clone())
    return LinearVD.from_dense(layer).log_sigma2.detach()


def test_the_model_stays_as_it_was_and_so_does_torch():
    model = Branches().eval()
    before, state = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    result = dissect(model, loss, BATCHES, seeds=(1, 2), **QUICK)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert type(model.needed) is nn.Linear and not model.training
    assert torch.equal(torch.get_rng_state(), state)
    again = dissect(model, loss, BATCHES, seeds=(2,), **QUICK)
    assert torch.equal(again.model.needed.weight, result.models[2].needed.weight)
    assert not torch.equal(result.models[1].needed.weight, result.models[2].needed.weight)


def test_statistics_of_batch_norm_are_those_of_the_averages():
    class Normed(Branches):
        def __init__(self):
            super().__init__()
            self.norm = nn.BatchNorm1d(8)

        def forward(self, x, z):
            return self.head(torch.tanh(self.norm(self.needed(x) + self.useless(z))))

    model = dissect(Normed, loss, BATCHES, seeds=(1,), **QUICK).model
    with torch.no_grad():
        means = [(model.needed(x) + model.useless(z)).mean(0) for x, z, _ in BATCHES]
    torch.testing.assert_close(model.norm.running_mean, torch.stack(means).mean(0))


# --- tables ---


def test_density_and_shadows_are_counted(found):
    table = found.density()
    assert list(table) == ["seed", "matrix", "block", "group", "kept", "size", "density", "shadow"]
    assert list(table.matrix) == ["needed", "useless", "head"] * 2 and list(table.seed) == [1] * 3 + [2] * 3
    for seed, model in found.models.items():
        mine = table[table.seed == seed].set_index("matrix")
        assert list(mine.kept) == list(density(model).kept)
        assert list(mine.shadow) == list(density(found.shadows[seed]).density)
    assert "never ran" in found.left_out["dead"] and "3 matrices, 2 seeds of 60 steps" in repr(found)
    assert (found.density(threshold=-20.0).kept == 0).all()
    grouped = found.density(GROUPS)
    assert list(grouped.group) == ["needed", "useless", ""] * 2


def test_history_and_scores(found):
    history = found.history()
    assert set(history.seed) == {1, 2} and history.step.max() == 60 and history.step.min() == 0
    last = history[history.step == 60].reset_index()
    assert list(last.density) == list(found.density().density)
    first = history[(history.step == 0)]
    assert first.loss.isna().all() and (first.density > 0.9).all() and (first.shadow > 0.9).all()
    scores = found.scores()
    x, z, y = data(200, seed=1)
    with torch.no_grad():
        expected = (found.models[2](x, z).argmax(1) == y).float().mean().item()
    assert scores.masked[1] == pytest.approx(expected) and (scores.dense > 0.9).all()


def test_blocks_are_counted_apart():
    def run(model, batch):
        return model(batch[0][:, None], batch[0][:, None]).square().mean()

    class Own(nn.Module):
        def __init__(self):
            super().__init__()
            self.rnn, self.mix = nn.LSTM(4, 4, batch_first=True), nn.MultiheadAttention(4, 2, batch_first=True)

        def forward(self, x, z):
            h = self.rnn(x)[0]
            return self.mix(h, z, z)[0]

    result = dissect(Own, run, BATCHES, seeds=(1,), **QUICK)
    table = result.density(blocks=True).set_index(["matrix", "block"])
    assert list(table.loc["rnn.weight_ih_l0"].index) == ["", "i", "f", "g", "o"]
    assert table.loc["rnn.weight_hh_l0"].kept[["i", "f", "g", "o"]].sum() == table.loc["rnn.weight_hh_l0"].kept[""]
    assert table.loc["mix"].kept[["q", "k", "v"]].sum() == table.loc["mix"].kept[""]
    assert table.loc["mix"].kept[["q.head0", "q.head1"]].sum() == table.loc["mix"].kept["q"]
    model = result.model
    kept = log_alpha(model.mix.in_proj_weight, model.mix.in_proj_log_sigma2) < 3
    assert table.loc["mix"].kept["k.head1"] == int(kept[6:8].sum())
    of = masks_of(
        model, {"gates": ["rnn.*/i", "rnn.*/[fo]"], "keys": ["mix/k", "mix/k.head0"], "all": ["mix", "mix/q"]}
    )
    assert {name: int(mask.sum()) for name, mask in of["gates"].items()} == {
        "rnn.weight_ih_l0": 48,
        "rnn.weight_hh_l0": 48,
    }
    assert int(of["keys"]["mix"].sum()) == 16 and bool(of["all"]["mix"].all())
    assert count(model, None, of["keys"], 3.0) == Count(int(kept[4:8].sum()), 16, None)
    layers, read = layers_of(model, of["keys"])
    assert list(layers) == ["mix"] and read == {model.mix: ["key"]}
    assert layers_of(model, of["all"])[1] == {}


# --- verdicts ---


def test_rules_stand_in_one_place():
    shared = ("ALIVE", "WITHERED", "UNDECIDED")
    assert all(getattr(rules, name) == getattr(answers, name) for name in shared)
    assert shadowed.FALL is rules.FALL and shadowed.EMPTY is rules.EMPTY and answers.too_few is rules.too_few
    assert len(SEEDS) == rules.FEWEST_SEEDS
    values = [0.1, 0.4, 0.2]
    low, high = stats.t.interval(0.95, 2, loc=sum(values) / 3, scale=stats.sem(values))
    assert rules.interval(values) == pytest.approx((low, high)) and rules.interval([1.0]) is None
    assert [rules.by_excess(*span) for span in ((0.01, 0.04), (0.06, 0.3), (0.04, 0.3))] == [
        "withered",
        "alive",
        "undecided",
    ]


def made(densities, shadows, scores, matched, seeds=SEEDS, kl_weight=8.0):
    """A result whose numbers are given: densities and shadows by matrix; scores by what is swapped."""
    result = Dissected.__new__(Dissected)
    result.protocol, result._held_out, result._score = Protocol(kl_weight=kl_weight), None, None
    torch.manual_seed(0)
    model = Branches()
    sparsify(model, ["needed", "useless", "head"])
    beside = Shadows(model)
    for part, wanted in ((model, densities), (beside, shadows)):
        for layer, share in zip((m for m in part.modules() if isinstance(m, LinearVD)), wanted, strict=True):
            n = layer.weight.numel()
            with torch.no_grad():
                layer.weight.fill_(1.0)
                layer.log_sigma2.copy_(torch.where(torch.arange(n) < round(share * n), -5.0, 8.0).view_as(layer.weight))
    result.runs = {seed: type("Run", (), {"model": model, "shadows": beside})() for seed in seeds}
    result.models = dict.fromkeys(seeds, model)
    result.matched = dict.fromkeys(seeds, matched) if matched else {}
    if scores:
        result._held_out = Feed([1], "held_out")
        result._scored = lambda seed, layers, read: scores[layers]  # type: ignore[method-assign]
    return result


WELL = {(): 0.9, ("needed",): 0.5, ("useless",): 0.9}


def test_a_needed_branch_is_alive_and_a_useless_one_withered():
    verdict = made((0.5, 0.0, 0.9), (0.0, 0.0, 0.0), WELL, 0.9).verdict(GROUPS)
    assert verdict["needed"]["answer"] == "alive" and verdict["useless"]["answer"] == "withered"
    assert verdict["needed"]["swapped"] == pytest.approx(4 / 9) and verdict["needed"]["excess"] == 0.5
    assert verdict["needed"]["by_seed"] == dict.fromkeys(SEEDS, 0.5)


@pytest.mark.parametrize(
    ("change", "group", "says"),
    [
        ({"seeds": (1,)}, "needed", "only 1 seed; a verdict needs 3"),
        ({"scores": {}, "matched": 0}, "needed", "no held-out batches were given: whether unseen data need needed"),
        ({"scores": {}, "matched": 0}, "useless", "no held-out batches were given: whether the model is as good"),
        (
            {"scores": {**WELL, ("needed",): 0.895}},
            "needed",
            "unseen data may not need needed: the score changes by −0.6 %",
        ),
        ({"matched": 0.95}, "useless", "the score is 0.9, below 98 % of the 0.95"),
        ({"densities": (0.1, 0.0, 0.1)}, "useless", "no matrix keeps more than 0.2 beyond its shadow"),
        ({"densities": (0.5, 0.25, 0.9), "shadows": (0, 0.25, 0)}, "useless", "useless still keeps 0.250 (> 0.1)"),
        ({"shadows": (0.25, 0, 0)}, "needed", "chance would keep 50 % of what needed keeps (> 10 %)"),
        ({"kl_weight": 0.0}, "needed", "the KL weight is 0"),
        ({"kl_weight": 1.0}, "needed", f"chance would keep {100 * null_share(1.0, 3.0) / 0.5:.0f} %"),
    ],
)
def test_doubts_are_said(change, group, says):
    usual = {"densities": (0.5, 0.0, 0.9), "shadows": (0, 0, 0), "scores": WELL, "matched": 0.9}
    answer = made(**{**usual, **change}).verdict(GROUPS)[group]
    assert answer["answer"] == "undecided" and says in " | ".join(answer["reasons"]), answer["reasons"]
    assert answer["figures_say"] == {"needed": "alive", "useless": "withered"}[group]


def test_a_verdict_that_hangs_on_the_threshold_is_undecided():
    result = made((0.5, 0.0, 0.9), (0, 0, 0), WELL, 0.9)
    with torch.no_grad():
        result.models[1].needed.log_sigma2.clamp_(min=-9).masked_fill_(result.models[1].needed.log_sigma2 < 0, 2.5)
    answer = result.verdict(GROUPS)["needed"]
    assert answer["answer"] == "undecided" and answer["figures_say"] == "alive"
    assert "the answer depends on the threshold: 'withered' at t = 2" in answer["reasons"]


def test_a_swap_takes_what_unseen_data_need(found):
    verdict = found.verdict(GROUPS)
    assert verdict["needed"]["swapped"] > 0.3 and abs(verdict["useless"]["swapped"]) < 0.1
    assert all("only 2 seeds" in " ".join(answer["reasons"]) for answer in verdict.values())
    x, z, y = data(200, seed=1)
    model = found.models[1]
    with torch.no_grad():
        whole = (model(x, z).argmax(1) == y).float().mean()
        other = (model(x.roll(76, 0), z).argmax(1) == y).float().mean()
    falls = found._falls({seed: masks_of(model, GROUPS)["needed"] for seed, model in found.models.items()})
    assert falls[0] == pytest.approx(((whole - other) / whole).item())
    assert set(found.verdict()) == {"needed", "useless", "head"}


def recurrent(wrong):
    """A GRU that keeps every weight while its shadow keeps none, and whose weights `wrong` are next to nothing."""
    torch.manual_seed(0)
    model = nn.ModuleDict({"rnn": nn.GRU(4, 4, batch_first=True)})
    sparsify(model)
    beside = Shadows(model)
    with torch.no_grad():
        for name, parameter in model["rnn"].named_parameters():
            if name.startswith("weight"):
                parameter.copy_(
                    1e-4 * torch.randn_like(parameter) if wrong in name else 3 * torch.randn_like(parameter)
                )
            elif "log_sigma2" in name:
                parameter.fill_(-40.0)
        for name, parameter in beside.named_parameters():
            parameter.fill_(20.0 if "log_sigma2" in name else 1e-3)
    x = torch.randn(50, 1, 4)
    with torch.no_grad():
        y = model.eval()["rnn"](x)[0]
    result = Dissected.__new__(Dissected)
    result.protocol, result.matched, result._scores = Protocol(kl_weight=8.0), dict.fromkeys(SEEDS, 1.0), {}
    result._held_out = Feed([(x, y)], "held_out")
    result._score = lambda m, b: (m["rnn"](b[0])[0].sign() == b[1].sign()).float().mean()
    result.runs = {seed: type("Run", (), {"model": model, "shadows": beside})() for seed in SEEDS}
    result.models = dict.fromkeys(SEEDS, model)
    return result


def test_weights_of_a_layer_that_others_make_useful_are_not_alive():
    """The layer is needed, its state and a gate of that are not; with swapped inputs of the layer all would be lost."""
    result = recurrent("_hh")
    groups = {"state": "rnn.weight_hh*", "input": "rnn.weight_ih*", "all": "rnn.*", "gate": "rnn.weight_hh_l0/z"}
    before = {name: value.clone() for name, value in result.model.state_dict().items()}
    verdict = result.verdict(groups)
    assert all(torch.equal(value, before[name]) for name, value in result.model.state_dict().items())
    for name in ("input", "all"):
        assert verdict[name]["answer"] == "alive" and verdict[name]["swapped"] > 0.3 and verdict[name]["zeroed"] is None
    for name in ("state", "gate"):
        says = verdict[name]
        assert says["figures_say"] == "alive" and says["answer"] == "undecided", name
        assert says["swapped"] is None and says["zeroed"] == 0.0
        assert (
            f"unseen data may not need {name}: the score changes by 0.0 % with its weights at 0" in says["reasons"][1]
        )
    assert result.verdict({"gates": ["rnn.weight_ih_l0/n"]})["gates"]["zeroed"] > 0.3


def test_a_swap_is_of_everything_that_reads_the_inputs():
    class Parts(nn.Module):
        def __init__(self):
            super().__init__()
            self.mix, self.two = nn.MultiheadAttention(4, 2), nn.GRU(4, 4, num_layers=2, bidirectional=True)
            self.cell = nn.GRUCell(4, 4)

    model = Parts()
    sparsify(model)
    swappable = {
        "mix": True,
        "mix/q": True,
        "mix/q.head1": False,
        "mix.out_proj": True,
        "mix.out_proj/head0": False,
        "two.weight_ih_l0": False,
        "two.weight_ih_l0*": True,
        "two.weight_ih_l1": False,
        "two*/z": False,
        "cell.weight_ih": False,
        "cell*": True,
    }
    for pattern, expected in swappable.items():
        assert is_all_that_reads(model, masks_of(model, {"a": pattern})["a"]) is expected, pattern
    assert not is_all_that_reads(model, masks_of(model, {"a": ["mix/q", "mix/k.head0"]})["a"])


# --- errors ---


def nan_with_shadows(model, batch):
    has_shadows = any(getattr(layer, "_shadow", None) for layer in model.modules())
    return model(batch[0], batch[1]).mean() * (math.nan if has_shadows else 1)


@pytest.mark.parametrize(
    ("change", "error", "says"),
    [
        ({"model": nn.Sequential(nn.ReLU())}, UsageError, "no weight matrix to dissect"),
        ({"model": nn.Sequential(nn.RNN(4, 4))}, UsageError, "0: no SparseVD layer for RNN"),
        ({"model": lambda: 3}, UsageError, "returned int, not an nn.Module"),
        ({"loss": lambda m, b: m(b[0], b[1])}, UsageError, r"shape \(16, 2\)"),
        ({"loss": lambda m, b: 0.5}, UsageError, "scalar tensor.*is float"),
        ({"loss": lambda m, b: m(b[0], b[1]).mean().detach()}, UsageError, "does not depend on the parameters"),
        ({"loss": lambda m, b: m(b[0], b[1]).mean() * math.nan}, DivergedError, "loss is nan at step 1 of 60"),
        ({"loss": nan_with_shadows}, DivergedError, "loss with the shadows beside the model is nan at step 1 of 60"),
        ({"batches": []}, DataError, "`batches` gave no batch"),
        ({"batches": iter(BATCHES)}, UsageError, "generator"),
        ({"batches": lambda: 3}, UsageError, "returned int"),
        ({"batches": 3}, UsageError, "`batches` is int"),
        ({"batches": ["a", "b"]}, UsageError, "is not known"),
        ({"batches": [tuple(part[:3] for part in data())]}, DataError, "need 4 of them: a batch of `batches` has 3"),
        ({"n_examples": 0}, UsageError, "n_examples is the number of training examples, not 0"),
        ({"held_out": BATCHES}, UsageError, "go together"),
        ({"seeds": ()}, UsageError, "`seeds`"),
        ({"seeds": (1, 1)}, UsageError, "`seeds`"),
        ({"seeds": -3}, UsageError, "`seeds` is -3"),
        ({"seeds": (1.5,)}, UsageError, "different whole numbers"),
        ({"step": 3}, UsageError, "no setting named 'step'"),
        ({"steps": 0}, UsageError, "at least 1, not 0"),
        ({"steps": 1e3}, UsageError, "whole number of updates, at least 1, not 1000.0"),
        ({"kl_weight": -1}, UsageError, "kl_weight is at least 0"),
        ({"kl_weight": "4"}, UsageError, "kl_weight is a number, not '4'"),
        ({"lr": None}, UsageError, "lr is a number, not None"),
        ({"threshold": math.nan}, UsageError, "threshold is a number"),
        ({"n_examples": "3"}, UsageError, "n_examples is the number of training examples, not '3'"),
        ({"seeds": (2**70,)}, UsageError, "whole numbers from 0 to 1,000,000,000"),
        ({"lr": 0}, UsageError, "lr above 0"),
        ({"noise": "ltr"}, UsageError, "no noise named 'ltr'"),
        ({"prior": "gauss"}, UsageError, "no prior named 'gauss'"),
        ({"steps": True}, UsageError, "steps is a whole number"),
        ({"where": ["dead"]}, UsageError, "dead cannot be replaced.*never ran"),
        ({"where": ["nedded"]}, UsageError, "no layer named 'nedded'"),
    ],
)
def test_errors_are_in_words(change, error, says):
    usual = {"model": Branches, "loss": loss, "batches": BATCHES, "seeds": (1,), **QUICK}
    with pytest.raises(error, match=says):
        dissect(**{**usual, **change})


def test_a_model_that_cannot_be_copied_is_said():
    model = Branches()
    model.held = model.needed.weight * 2  # a tensor with a gradient in it
    with pytest.raises(UsageError, match="cannot be copied") as caught:
        dissect(model, loss, BATCHES, seeds=(1,), **QUICK)
    assert "lambda" in caught.value.hint


def test_a_function_that_hands_out_one_generator_is_found():
    one = iter(BATCHES)
    with pytest.raises(DataError, match="the same generator at each call"):
        dissect(Branches, loss, lambda: one, seeds=(1,), **QUICK)


def test_scores_and_groups_that_cannot_be(found):
    bare = dissect(Branches, loss, BATCHES, seeds=(1,), shadows=False, **QUICK)
    with pytest.raises(UsageError, match="Without shadows"):
        bare.verdict()
    with pytest.raises(UsageError, match="no score without held-out"):
        bare.scores()
    assert bare.density().shadow.isna().all()
    for groups, says in (({"a": ["nedded"]}, "nedded"), ({}, "needs a name"), (["needed"], "needs a name")):
        with pytest.raises(UsageError, match=says):
            found.verdict(groups)
    with pytest.raises(UsageError, match="has no pattern"):
        found.verdict({"a": []})
    with pytest.raises(UsageError, match="has to be one number, and is a str"):
        scored(found.model, Feed(BATCHES, "held_out"), lambda m, b: "good")
    with pytest.raises(UsageError, match=r"one number, and is a Tensor of shape \[3, 2\]"):
        scored(found.model, Feed(BATCHES, "held_out"), lambda m, b: torch.zeros(3, 2))
    with pytest.raises(DataError, match="The score is nan"):
        scored(found.model, Feed(BATCHES, "held_out"), lambda m, b: math.nan)
    uneven = [torch.zeros(3), torch.ones(1)]
    assert scored(found.model, Feed(uneven, "held_out"), lambda m, b: b[0]) == 0.25


# --- batches and progress ---


def test_examples_are_counted():
    loader = DataLoader(TensorDataset(*data()), batch_size=10, drop_last=True, shuffle=True)
    assert Feed(loader, "batches").n_examples() == N == Feed(BATCHES, "batches").n_examples()
    assert Feed(lambda: iter(BATCHES), "batches").n_examples() == N
    assert rows_of({"a": torch.zeros(3, 2)}) == 3 and rows_of([("x", torch.zeros(5))]) == 5
    assert rows_of("abc") is None and rows_of(3) is None and rows_of(torch.tensor(1.0)) is None
    packed = pack_sequence([torch.zeros(4, 2), torch.zeros(3, 2)])
    assert rows_of((packed, torch.zeros(2))) == 2 == rows_of(packed)
    assert rows_of(pd.DataFrame({"a": [1, 2]})) == 2
    result = dissect(Branches, loss, loader, seeds=(1,), **QUICK)
    assert result.n_examples == N


def test_a_sampler_says_what_is_trained_on(monkeypatch):
    rows = TensorDataset(torch.zeros(1000, 2))

    def counted(**how):
        return Feed(DataLoader(rows, **how), "batches").n_examples()

    assert counted(batch_size=10, sampler=SubsetRandomSampler(range(100))) == 100
    assert counted(batch_size=10, sampler=RandomSampler(rows, replacement=True, num_samples=5000)) == 1000
    assert counted(batch_sampler=[[0, 1], [2]]) == 3
    assert Feed(DataLoader([torch.zeros(7, 2)] * 3, batch_size=None), "batches").n_examples() == 21
    with pytest.raises(DataError, match="The data set of `batches` is empty"):
        Feed(DataLoader(TensorDataset(torch.zeros(0, 2))), "batches").n_examples()
    monkeypatch.setattr(dissect_batches, "MOST", 50)
    with pytest.raises(UsageError, match="gave 50 batches and goes on") as caught:
        Feed(lambda: (torch.zeros(2, 2) for _ in itertools.count()), "batches").n_examples()
    assert "n_examples=" in caught.value.hint
    assert Feed([torch.zeros(2, 2)] * 60, "batches").n_examples() == 120  # a list ends


def test_a_line_tells_the_time_left(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    clock = iter([0.0, 1.0, 4.0, 4.1])
    monkeypatch.setattr("dissect.sparsevd.dissected.time.monotonic", lambda: next(clock))
    stream = Terminal()
    progress = _Progress(8, stream)
    with progress:
        tell = progress.of("seed 1")
        for step in (1, 2, 3):
            tell(step, 0.5)
    assert stream.getvalue() == "\r\x1b[Kseed 1: step 2, loss 0.5; 12 s left\r\x1b[K"
    monkeypatch.undo()
    assert _Progress(8, io.StringIO()).stream is None


# --- branches with a known answer ---


def planted(kind, n, seed):
    """x decides the class, z is like x and tells nothing."""
    g, weights = torch.Generator().manual_seed(seed), torch.Generator().manual_seed(99)
    if kind == "attention":  # the value of the position whose key is that of the first one
        keys = torch.stack([torch.randperm(4, generator=g) for _ in range(n)])
        values, ask = torch.randint(4, (n, 4), generator=g), torch.randint(4, (n,), generator=g)
        x = torch.zeros(n, 5, 8)
        x[torch.arange(n), 0, ask] = 2
        x[:, 1:, :4], x[:, 1:, 4:] = 2.0 * F.one_hot(keys, 4), F.one_hot(values, 4).float()
        return x, x[torch.randperm(n, generator=g)], (values * (keys == ask[:, None])).sum(1)
    if kind == "conv":  # which of four patterns lies somewhere in the picture
        patterns, y = torch.randn(4, 3, 3, generator=weights).sign(), torch.randint(4, (n,), generator=g)
        x, at = 0.7 * torch.randn(n, 1, 6, 6, generator=g), torch.randint(4, (n, 2), generator=g)
        for i in range(4):
            for j in range(4):
                here = (at[:, 0] == i) & (at[:, 1] == j)
                x[here, 0, i : i + 3, j : j + 3] += patterns[y[here]]
        return x, x[torch.randperm(n, generator=g)], y
    x, z = (torch.randn(n, 4, 4, generator=g) for _ in range(2))
    hidden = torch.tanh(x @ torch.randn(4, 4, generator=weights)).sum(1)
    scores = hidden @ torch.randn(4, 4, generator=weights)
    return x, z, (scores - scores.mean(0)).argmax(1)


KINDS = {
    "lstm": (lambda: nn.LSTM(4, 4, batch_first=True), lambda layer, x: layer(x)[0][:, -1], 4),
    "attention": (
        lambda: nn.MultiheadAttention(8, 1, batch_first=True),
        lambda layer, x: layer(x[:, :1], x, x)[0][:, 0],
        8,
    ),
    "conv": (lambda: nn.Conv2d(1, 8, 3), lambda layer, x: torch.relu(layer(x)).amax((2, 3)), 8),
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_verdict_tells_a_needed_branch_from_a_useless_one(kind):
    """The numbers are in docs/sparsevd.md."""
    make, run, width = KINDS[kind]
    train, unseen = planted(kind, 16_000, 1), planted(kind, 2000, 2)

    def batches():
        return (tuple(part[rows] for part in train) for rows in torch.randperm(16_000).split(200))

    result = dissect(
        lambda: Branches(make, run, width, 4),
        loss,
        batches,
        held_out=[unseen],
        score=accuracy,
        steps={"lstm": 300, "attention": 500, "conv": 400}[kind],
        lr=0.01,
        kl_weight=8.0,
        quiet=True,
    )
    verdict = result.verdict({"needed": ["needed*"], "useless": ["useless*"]})
    print(kind, verdict, result.scores().to_string())
    assert verdict["needed"]["answer"] == "alive", verdict["needed"]["reasons"]
    # The useless LSTM lies at the limit: one seed keeps 0.03.
    right = ("withered", "undecided") if kind == "lstm" else ("withered",)
    assert verdict["useless"]["answer"] in right, verdict["useless"]["reasons"]
