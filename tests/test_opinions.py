"""Second opinions: each criterion against an independent twin, and the verb on tiny runs."""

import json
import math
import shutil

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from click.testing import CliRunner
from scipy import integrate
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence

import dissect
from analyses import opinions as analysis
from dissect import drawing, opinions, sparsevd
from dissect.cli import main
from dissect.data import catalog, planted
from dissect.data.sessions import split_validation
from dissect.errors import BusyError, DataError, UsageError
from dissect.experiment import pieces
from dissect.experiment.opinions import opinions_of, subject_of
from dissect.experiment.pieces import weights_of
from dissect.experiment.plan import silent
from dissect.opinions import sessions
from dissect.opinions.tuning import recovered
from dissect.runs import files, folders
from dissect.runs.config import Config
from dissect.training.evaluation import evaluate, metrics, prefixes_of
from figures import opinions as figure
from models import SRGNN, GRU4Rec

TINY = {"dim": 8, "max_steps": 30, "batch_size": 40, "quiet": True}


@pytest.fixture(autouse=True)
def few(monkeypatch):
    """Fewer batches and examples than a user has: their number is not what is tested."""
    monkeypatch.setattr(pieces, "BATCHES", 4)
    monkeypatch.setattr(pieces, "EXAMPLES", 40)


def softmax_loss(model, batch):
    x, y = batch
    return F.cross_entropy(model(x), y)


@pytest.fixture
def small():
    """(model, batches) in double precision."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double()
    return model, [(torch.randn(n, 3).double(), torch.randint(2, (n,))) for n in (5, 9)]


# --- the weights on trial ----------------------------------------------------------------------------------


@pytest.mark.parametrize("cls", [SRGNN, GRU4Rec])
def test_matrices_have_the_names_that_sparsevd_gives_them(cls):
    model = cls(9, 8)
    found = opinions.matrices(model)
    sparsevd.sparsify(model)
    dissected = opinions.matrices(model)
    assert list(found) == list(sparsevd.sparsified(model)) == list(dissected)
    assert all(found[name] is dissected[name] for name in found)


def test_a_model_without_a_matrix_and_an_unknown_one_are_refused():
    with pytest.raises(UsageError, match="no weight matrix"):
        opinions.matrices(nn.Sequential(nn.ReLU(), nn.LayerNorm(3)))
    with pytest.raises(UsageError, match="no matrix 'two'"):
        opinions.matrices(nn.Sequential(nn.Linear(2, 2)), ["two"])


def test_a_loss_that_is_no_scalar_is_refused(small):
    model, batches = small
    weights = opinions.matrices(model)
    for wrong in (lambda model, batch: model(batch[0]), lambda model, batch: 1.0, lambda model, batch: torch.ones(())):
        with pytest.raises(UsageError, match="scalar"):
            opinions.taylor(model, wrong, batches, weights)
    with pytest.raises(UsageError, match="no batch"):
        opinions.taylor(model, softmax_loss, [], weights)


# --- scores ------------------------------------------------------------------------------------------------


def test_magnitude_counts_in_spreads():
    model = nn.Sequential(nn.Linear(2, 1))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[-3.0, 2.0]]))
    weights = opinions.matrices(model)
    assert opinions.magnitude(weights)["0"].tolist() == [[3.0, 2.0]]
    assert opinions.magnitude(weights, {"0": 0.5})["0"].tolist() == [[6.0, 4.0]]


def test_taylor_is_the_first_order_of_what_zeroing_a_weight_costs(small):
    """Weights so small that the second order vanishes: the difference of the loss itself."""
    model, batches = small
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1e-3)
    weights = opinions.matrices(model)
    scores = opinions.taylor(model, softmax_loss, batches, weights)
    for name, weight in weights.items():
        for i in range(weight.numel()):
            flat, changes = weight.data.view(-1), []
            kept = float(flat[i])
            for batch in batches:
                with torch.no_grad():
                    whole = float(softmax_loss(model, batch))
                    flat[i] = 0.0
                    changes.append(abs(float(softmax_loss(model, batch)) - whole))
                    flat[i] = kept
            assert float(scores[name].view(-1)[i]) == pytest.approx(np.mean(changes), rel=2e-2, abs=1e-10)


def test_fisher_is_that_of_a_loop_over_examples_in_closed_form():
    """Softmax regression: the gradient of an example is (p - y) x."""
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(3, 4, bias=False)).double()
    x, y = torch.randn(6, 3).double(), torch.randint(4, (6,))
    weights = opinions.matrices(model)
    found = opinions.fisher(model, softmax_loss, [(x[i : i + 1], y[i : i + 1]) for i in range(6)], weights)["0"]
    expected = torch.zeros(4, 3).double()
    for i in range(6):
        p = torch.softmax(model[0].weight.detach() @ x[i], 0)
        expected += torch.outer(p - F.one_hot(y[i], 4), x[i]) ** 2 / 6
    torch.testing.assert_close(found, expected)
    together = opinions.fisher(model, softmax_loss, [(x, y)], weights)["0"]
    assert float(together.sum()) < 0.7 * float(found.sum())  # that of a batch is something else


def test_scores_leave_the_model_as_it_was_and_see_no_dropout(small):
    _, batches = small
    model = nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.5), nn.BatchNorm1d(4), nn.Linear(4, 2)).double().train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.random.get_rng_state()
    twice = [opinions.taylor(model, softmax_loss, batches, opinions.matrices(model)) for _ in range(2)]
    assert all(torch.equal(twice[0][name], twice[1][name]) for name in twice[0])
    assert model.training and torch.equal(state, torch.random.get_rng_state())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize("reduced", [0.5, 0.05, 0.001])
@pytest.mark.parametrize(("mean", "variance", "prior"), [(0.3, 0.2, 1.0), (-1.2, 0.05, 2.0), (0.0, 0.4, 0.5)])
def test_reduction_is_the_integral(mean, variance, prior, reduced):
    """log of the mean under q of p~ / p, with scipy's normal densities."""

    def integrand(w):
        log = -0.5 * ((w - mean) ** 2 / variance + w**2 / reduced - w**2 / prior)
        return math.exp(log) / math.sqrt(2 * math.pi * variance) * math.sqrt(prior / reduced)

    integral = integrate.quad(integrand, -8, 8, points=[0, mean], limit=500)[0]
    given = [torch.tensor(value, dtype=torch.float64) for value in (mean, variance, prior)]
    found = opinions.log_evidence_ratio(*given, reduced=reduced)
    assert float(found) == pytest.approx(math.log(integral), abs=1e-7)


def test_reduction_to_nothing_is_the_limit_and_the_ratio_of_the_densities():
    m, v, v0 = (torch.tensor(value, dtype=torch.float64) for value in (0.7, 0.1, 1.5))
    found = float(opinions.log_evidence_ratio(m, v, v0))
    assert found == pytest.approx(float(opinions.log_evidence_ratio(m, v, v0, reduced=1e-9)), abs=1e-6)
    normal = torch.distributions.Normal
    assert found == pytest.approx(float(normal(m, v.sqrt()).log_prob(0 * m) - normal(0 * m, v0.sqrt()).log_prob(0 * m)))


def test_reduction_takes_laplaces_posterior():
    weight, fisher = nn.Parameter(torch.tensor([[0.5, 0.0]])), torch.tensor([[0.02, 0.02]])
    found = opinions.reduction({"w": weight}, {"w": fisher}, 1000, {"w": 0.25})["w"]
    precision = 1000 * 0.02 + 16
    expected = [0.5 * precision * w * w - 0.5 * math.log(precision / 16) for w in (0.5, 0.0)]
    torch.testing.assert_close(found, torch.tensor([expected]))
    assert found[0, 0] > 0 > found[0, 1]


# --- pruning and ablation ----------------------------------------------------------------------------------


def test_pruning_keeps_the_best_of_all_matrices_together(small):
    model, _ = small
    weights = opinions.matrices(model)
    scores = opinions.magnitude(weights)
    before = {name: weight.detach().clone() for name, weight in weights.items()}
    limit = torch.cat([score.flatten() for score in scores.values()]).sort(descending=True).values[4]
    with opinions.pruned(weights, scores, 0.25) as shares:  # 5 of 20
        for name, weight in weights.items():
            expected = torch.where(scores[name] >= limit, before[name], 0.0)
            torch.testing.assert_close(weight.detach(), expected)
            assert shares[name] == pytest.approx(float((expected != 0).double().mean()))
    with pytest.raises(KeyError), opinions.pruned(weights, scores, 0.0):
        assert not any(bool(weight.any()) for weight in weights.values())
        raise KeyError
    assert all(torch.equal(weights[name], before[name]) for name in weights)
    with pytest.raises(UsageError, match="between 0 and 1"), opinions.pruned(weights, scores, 1.5):
        pass


N, D = 20, 3


def rows(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_ablations_of_a_linear_layer_are_plain_loops():
    model, x = nn.Sequential(nn.Linear(D, 4), nn.Tanh(), nn.Linear(4, 2)), rows(N, D)
    first, last = model[0], model[2]
    means = opinions.mean_inputs(model, lambda batch: model(batch), [x[:8], x[8:]], ["0", "2"])
    hidden = torch.stack([torch.tanh(first(x[i])) for i in range(N)]).detach()
    torch.testing.assert_close(means["2"], sum(hidden) / N)

    def out(kind):
        with opinions.ablated(model, ["2"], kind, means):
            return model(x)

    torch.testing.assert_close(out("zero"), last.bias.expand(N, 2))
    torch.testing.assert_close(out("mean"), last(hidden.mean(0)).expand(N, 2))
    for i in range(N):
        torch.testing.assert_close(out("resample")[i], last(hidden[i - 7]))  # 0.382 x 20 rows away
    torch.testing.assert_close(model(x), last(hidden))
    assert not model[0]._forward_pre_hooks and not model[2]._forward_pre_hooks


def test_ablations_know_the_two_inputs_of_a_cell():
    model, x, h = nn.ModuleDict({"cell": nn.GRUCell(D, 4)}), rows(N, D), rows(N, 4, seed=1)
    cell = model["cell"]
    means = opinions.mean_inputs(model, lambda batch: cell(*batch), [(x, h)], ["cell.weight_ih", "cell.weight_hh"])
    torch.testing.assert_close(means, {"cell.weight_ih": x.mean(0), "cell.weight_hh": h.mean(0)})
    with opinions.ablated(model, ["cell.weight_ih"], "mean", means):
        out = cell(x, h)
    torch.testing.assert_close(out, cell(x.mean(0).expand(N, D), h))
    with opinions.ablated(model, ["cell.weight_hh"], "resample"):
        out = cell(x, h)
    torch.testing.assert_close(out, cell(x, h.roll(7, 0)))
    with opinions.ablated(model, ["cell.weight_hh"], "zero"):
        assert not cell.weight_hh.any()
    assert cell.weight_hh.all()


def test_ablations_of_recurrent_layers_and_convolutions():
    gru, x = nn.GRU(D, 4, batch_first=True), rows(N, 6, D)
    model = nn.ModuleDict({"gru": gru, "conv": nn.Conv1d(D, 4, 2)})
    padded = x.clone()
    padded[:, 4:] = 0
    means = opinions.mean_inputs(model, lambda batch: gru(batch), [padded], ["gru.weight_ih_l0", "gru.weight_hh_l0"])
    torch.testing.assert_close(means, {"gru.weight_ih_l0": x[:, :4].reshape(-1, D).mean(0)})  # padding does not count
    with opinions.ablated(model, ["gru.weight_ih_l0"], "resample"):
        out = gru(x)[0]
    torch.testing.assert_close(out, gru(x.roll(7, 0))[0])
    packed = pack_padded_sequence(x, torch.full((N,), 6), batch_first=True)
    with opinions.ablated(model, ["gru.weight_ih_l0"], "mean", means):
        out, last = gru(x)[0], gru(packed)[1]
    constant = means["gru.weight_ih_l0"].expand_as(x)
    torch.testing.assert_close(out, gru(constant)[0])
    torch.testing.assert_close(last, gru(constant)[1])
    with (
        pytest.raises(ValueError, match="only be zeroed"),
        opinions.ablated(model, ["gru.weight_hh_l0"], "mean", means),
    ):
        pass
    with pytest.raises(ValueError, match="kind is one of"), opinions.ablated(model, ["conv"], "gone"):
        pass
    signal = x.transpose(1, 2)
    means = opinions.mean_inputs(model, lambda batch: model["conv"](batch), [signal], ["conv"])
    torch.testing.assert_close(means["conv"][:, 0], x.reshape(-1, D).mean(0))
    with opinions.ablated(model, ["conv"], "mean", means):
        out = model["conv"](signal)
    torch.testing.assert_close(out, model["conv"](x.reshape(-1, D).mean(0)[:, None].expand(N, D, 6)))


class Mixed(nn.Module):
    def __init__(self):
        super().__init__()
        self.mix, self.cell = nn.MultiheadAttention(4, 2, batch_first=True), nn.GRUCell(4, 4)
        self.image, self.head = nn.Conv2d(2, 4, 2), nn.Linear(4, 2)

    def forward(self, picture):  # [B, 2, 3, 5]
        x = self.image(input=picture).flatten(2).transpose(1, 2)
        return self.head(input=self.cell(input=self.mix(query=x, key=x, value=x)[0][:, 0]))


def test_matrices_of_an_attention_and_a_picture():
    torch.manual_seed(0)
    model, x = Mixed(), rows(N, 2, 3, 5)
    found = opinions.matrices(model)
    assert found["mix"] is model.mix.in_proj_weight and found["mix.out_proj"] is model.mix.out_proj.weight
    means = opinions.mean_inputs(model, model, [x[:8], x[8:]], list(found))
    assert set(means) == {"image", "head", "cell.weight_ih"}  # the state is never given
    torch.testing.assert_close(means["image"], x.mean((0, 2, 3))[:, None, None])
    whole = model(x)
    for name in ("mix", "mix.out_proj", "cell.weight_hh"):
        with opinions.ablated(model, [name], "zero"):
            assert name == "cell.weight_hh" or not torch.allclose(model(x), whole)
            assert not found[name].any()
    for name in ("mix", "mix.out_proj"):
        with pytest.raises(ValueError, match=r"MultiheadAttention|Linear.*only be zeroed"):
            opinions.ablated(model, [name], "resample").__enter__()
    with opinions.ablated(model, ["image"], "mean", means):
        out = model(x)
    torch.testing.assert_close(out, model(means["image"].expand_as(x)))
    with opinions.ablated(model, ["image"], "resample"):
        out = model(x)
    torch.testing.assert_close(out, model(x.roll(7, 0)))
    with opinions.ablated(model, ["head"], "mean", means):  # a layer that is called by keyword
        out = model(x)
    torch.testing.assert_close(out, model.head(means["head"]).expand(N, 2))
    assert opinions.l0.gate(model) == list(found) == list(opinions.l0.scores(model))


def test_layers_whose_inputs_feed_more_than_one_matrix_are_refused():
    model = nn.ModuleDict({"two": nn.GRU(4, 4, bidirectional=True), "cell": nn.LSTMCell(4, 4)})
    for name in ("two.weight_ih_l0", "cell.weight_hh"):
        with pytest.raises(ValueError, match="only be zeroed"):
            opinions.ablated(model, [name], "resample").__enter__()


def test_recovery_trains_all_but_the_part_that_is_zero(small):
    model, batches = small
    before = {name: value.clone() for name, value in model.state_dict().items()}
    recovered(model, ["2"], softmax_loss, batches * 20, lr=0.05)
    assert not model[2].weight.any() and model[2].weight.requires_grad and not model.training
    assert not torch.equal(model[2].bias, before["2.bias"])
    shares = torch.cat([y for _, y in batches]).bincount().double() / 14
    best = -float((shares * shares.log()).sum())  # nothing but the bias is left
    assert np.average([float(softmax_loss(model, b).detach()) for b in batches], weights=[5, 9]) == pytest.approx(
        best, abs=0.02
    )


# --- on sessions -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tiny():
    demo = planted.generate("demo")
    return dissect.Dataset("tiny", demo.n_items, demo.train.part(0, 300), demo.test.part(0, 100))


def config_of(data, **more):
    return Config("srgnn", data.name, data.split_hash, {"dim": 8}, batch_size=40, **more)


def test_gates_are_trained_by_the_optimiser_of_the_house(tiny, monkeypatch):
    from dissect.training import setup

    made, real = [], setup.optimiser_of
    monkeypatch.setattr(sessions, "optimiser_of", lambda *given: made.append(real(*given)) or made[0])
    config = config_of(tiny, max_steps=2, l2=0.01, optimiser="adamw")
    sessions.l0_trained(SRGNN(tiny.n_items, 8), config, prefixes_of(tiny.train), seed=1, steps=2)
    kinds = {group["kind"]: (group["weight_decay"], group["eps"]) for group in made[0].param_groups}
    assert kinds == {"host": (0.01, 1e-8), "penalised": (0.0, 1e-8), "own": (0.0, 1e-12)}
    assert type(made[0]) is torch.optim.AdamW


def test_the_loss_and_fisher_of_sessions_are_those_of_a_loop(tiny):
    torch.manual_seed(2)
    model, prefixes = SRGNN(tiny.n_items, 8), prefixes_of(tiny.test)
    batch = prefixes.batch(torch.arange(30))
    loss = sessions.loss_of(config_of(tiny))
    expected = F.cross_entropy(model.scores(batch), batch.targets - 1)
    torch.testing.assert_close(loss(model, batch).detach(), expected)
    weights = opinions.matrices(model, ["gnn.edge_in", "readout.transform"])
    found = opinions.fisher(model, loss, sessions.examples(prefixes, 12, seed=3), weights)
    drawn = torch.randperm(len(prefixes), generator=torch.Generator().manual_seed(3))[:12]
    squares = {name: torch.zeros_like(weight) for name, weight in weights.items()}
    for i in drawn:
        one = prefixes.batch(i[None])
        S = model.item_states()
        ce = F.cross_entropy(model.encode(S, one) @ S.t(), one.targets - 1)
        for name, gradient in zip(weights, torch.autograd.grad(ce, list(weights.values()), allow_unused=True)):
            squares[name] += 0 if gradient is None else gradient.square() / 12
    torch.testing.assert_close(found, squares, rtol=1e-4, atol=1e-9)


def test_fisher_of_a_model_that_predicts_everywhere_is_of_a_prefix_and_its_target(tiny):
    torch.manual_seed(2)
    model, prefixes = GRU4Rec(tiny.n_items, 8).eval(), prefixes_of(tiny.test)
    assert model.every_position
    weights = opinions.matrices(model)
    loss = sessions.loss_of(config_of(tiny), last=True)
    found = opinions.fisher(model, loss, sessions.examples(prefixes, 12, seed=3), weights)
    drawn = torch.randperm(len(prefixes), generator=torch.Generator().manual_seed(3))[:12]
    assert int(prefixes.length[drawn].max()) > 1
    squares = {name: torch.zeros_like(weight) for name, weight in weights.items()}
    for i in drawn:
        one = prefixes.batch(i[None])
        S = model.item_states()
        matrix, bias = model.candidates(S)
        scores = model.encode(S, one)[:, int(one.lengths) - 1] @ matrix.t()  # [1, V], of the last click alone
        ce = F.cross_entropy(scores if bias is None else scores + bias, one.targets - 1)
        for name, gradient in zip(weights, torch.autograd.grad(ce, list(weights.values()))):
            squares[name] += gradient.square() / 12
    torch.testing.assert_close(found, squares, rtol=1e-3, atol=1e-8)


def test_a_ranking_is_that_of_the_house_on_its_prefixes(tiny):
    torch.manual_seed(3)
    model, prefixes = SRGNN(tiny.n_items, 8), prefixes_of(tiny.test)
    ranks = evaluate(model, prefixes)
    chosen = torch.tensor([5, 1, 40, 17])
    assert sessions.Ranking(prefixes, chosen=chosen)(model) == pytest.approx(metrics(ranks[chosen])["mrr@20"])
    assert sessions.Ranking(prefixes)(model) == pytest.approx(metrics(ranks)["mrr@20"])
    assert len(sessions.Ranking(prefixes, 50)) == 50
    with torch.no_grad():
        model.items.zero_()  # all scores are equal
    assert sessions.Ranking(prefixes)(model) == 0.0  # and win nothing
    with pytest.raises(UsageError, match="no unseen session"):
        sessions.Ranking(prefixes_of(tiny.test.part(0, 0)))


def test_the_l0_training_of_sessions_is_reproducible_and_closes_gates(tiny):
    prefixes = prefixes_of(tiny.train)
    config = config_of(tiny, max_steps=40, lr=0.05, own_rate=5.0, average=0.3, kl_weight=4.0)

    def trained(weight):
        torch.manual_seed(0)
        return sessions.l0_trained(SRGNN(tiny.n_items, 8), config, prefixes, seed=1, steps=40, weight=weight)

    def share(model):
        return float(torch.cat([each.flatten() for each in opinions.l0.scores(model).values()]).gt(0).float().mean())

    first, again, heavy = trained(1.0), trained(1.0), trained(1e5)
    assert all(torch.equal(a, b) for a, b in zip(first.state_dict().values(), again.state_dict().values()))
    assert share(heavy) < 0.05 < 0.4 < share(first) and not heavy.training


def test_l0_closes_gates_in_a_training_without_sparsevd_too(tiny):
    config = config_of(tiny, max_steps=30, lr=0.05, own_rate=5.0, where="none")
    model = sessions.l0_trained(SRGNN(tiny.n_items, 8), config, prefixes_of(tiny.train), seed=1, steps=30, weight=1e5)
    assert all(bool((score < 0).all()) for score in opinions.l0.scores(model).values())


def test_the_verb_has_the_default_of_the_library():
    from dissect.cli.opinions import command

    assert next(each.default for each in command.params if each.name == "l0_weight") == sessions.L0_WEIGHT


# --- the verb ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def group(tiny, tmp_path_factory):
    """Two seeds of SR-GNN, dissected beside the dense model, and what the criteria say of the first."""
    folder = tmp_path_factory.mktemp("my runs")
    return dissect.run("srgnn", tiny, seeds=(1, 2), runs_dir=folder, **TINY)


def invoke(group, tmp_path, *words):
    data = tmp_path / "data"
    done = CliRunner().invoke(main, ["opinions", str(group.path), "--data-dir", str(data), *words])
    assert done.exit_code == 0, done.output
    return done


@pytest.fixture
def kept(tiny, tmp_path, monkeypatch):
    monkeypatch.setenv("DISSECT_DATA", str(tmp_path / "data"))
    catalog.save(tiny, tmp_path / "data")


def test_the_verb_says_what_each_criterion_says(group, kept, tmp_path):
    first = invoke(group, tmp_path, "--prefixes", "60", "--retrain", "3", "--l0", "--curves", "--json")
    told = json.loads(first.stdout)
    assert {row["seed"] for row in told["matrices"]} == {1, 2} and told["ranked"] <= 60 and told["split"] == "valid"
    names = set(sparsevd.sparsified(dissected(group)))
    assert {row["matrix"] for row in told["matrices"]} == names
    for row in told["matrices"]:
        assert all(row[name] is not None for name in ("sparsevd", "excess", "l0", "reduction", "fisher", "retrained"))
    assert {row["criterion"] for row in told["curves"]} >= {"sparsevd", "l0", "magnitude", "random"}
    record = group.path / "opinions" / "s1.json"
    before = record.stat().st_mtime_ns
    again = invoke(
        group, tmp_path, "--prefixes", "60", "--retrain", "3", "--l0", "--curves", "--out", str(tmp_path / "o")
    )
    assert record.stat().st_mtime_ns == before  # nothing is computed twice
    invoke(group, tmp_path, "--prefixes", "60", "--l0", "--l0-weight", "1e6", "--curves", "--json")
    pieces = json.loads(record.read_text())["pieces"]
    assert pieces["l0"]["how"] == {"weight": 1e6} and pieces["curves"]["how"] == {"l0_weight": 1e6}  # not the old curve
    assert "agree with VD" in again.stdout and "MRR@20 on" in again.stdout and "L0 gates" in again.stdout
    assert "Drawit:dissectplotopinions'" in "".join(again.stdout.split())
    assert max(map(len, again.stdout.splitlines())) <= 80
    written = {path.name for path in (tmp_path / "o").iterdir()}
    assert {"opinions.png", "opinions.csv", "opinions-matrices.csv", "opinions-agreement.csv"} <= written
    (tmp_path / "o" / "opinions-agreement.csv").write_text("criterion,mine\n")
    (tmp_path / "o" / "opinions-matrices.csv").unlink()
    with pytest.raises(UsageError, match=r"opinions-agreement\.csv is not replaced: it is no table of opinions"):
        group.opinions().to_csv(tmp_path / "o")
    assert not (tmp_path / "o" / "opinions-matrices.csv").exists()


def dissected(group, seed=1):
    from dissect.training.rebuild import read_run, rebuild

    return rebuild(read_run(group.path / f"s{seed}"), SRGNN, lambda: None)[0]


def test_densities_are_those_of_the_record_and_falls_those_of_a_loop(group, tiny):
    found = opinions_of(group.path, 2, lambda name, folder: tiny, n=0)
    density = group.density()
    last = density[(density["seed"] == 2) & (density["step"] == density["step"].max())].set_index("matrix")["density"]
    values = found["pieces"]["scores"]["values"]
    for name, each in values.items():
        assert each["sparsevd"] == pytest.approx(last[name])
        if f"shadow.{name}" in last:
            assert each["excess"] == pytest.approx(last[name] - last[f"shadow.{name}"], abs=1e-6)
    model = dissected(group, 2)
    from dissect.data.sessions import split_validation

    prefixes = prefixes_of(split_validation(tiny.train, group.config.held_out)[1])
    whole = metrics(evaluate(model, prefixes))["mrr@20"]
    with torch.no_grad():
        model.readout.transform.weight.zero_()
    left = metrics(evaluate(model, prefixes))["mrr@20"]
    fall = found["pieces"]["ablation"]["values"]["readout.transform"]["zero (dissected)"]
    assert fall == pytest.approx(100 * (1 - left / whole), abs=1e-6)


def test_from_python_and_of_a_dense_group(tiny, group, tmp_path):
    found = group.opinions(n=40)
    assert list(found.matrices["seed"].unique()) == [1, 2] and found.words and found.curves.empty
    assert found.agreement.loc["sparsevd", "sparsevd"] == pytest.approx(1)
    for row in (*found.matrices.to_dict("records"), *found.roles.to_dict("records")):
        assert row["constant"] == min(row["zero"], row["mean"])
    for role, own in found.matrices[found.matrices["seed"] == 1].groupby("role"):
        density = found.roles.set_index(["seed", "role"]).loc[(1, role), "sparsevd"]
        assert density == pytest.approx(np.average(own["sparsevd"], weights=own["size"]))
    dense = dissect.train("gru4rec", tiny, seeds=(1,), runs_dir=tmp_path, dim=8, max_steps=12, quiet=True)
    table = dense.opinions(n=40).matrices
    assert table["sparsevd"].isna().all() and table["magnitude"].notna().all()
    assert np.isfinite(table.set_index("matrix").loc[table["matrix"].str.contains("_ih").to_numpy(), "mean"]).all()


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ({"n": -1}, "n is a number of prefixes, 0 or more; it cannot be -1."),
        ({"n": "all"}, "n is a number of prefixes"),
        ({"retrain": -1}, "retrain is a number of steps, 0 or more; it cannot be -1."),
        ({"retrain": True}, "retrain is a number of steps"),
        ({"with_l0": True, "l0_weight": 0}, "l0_weight is a number above 0; it cannot be 0."),
        ({"curve": True}, "There is no option of opinions named 'curve'."),
        ({"tell": print}, "There is no option of opinions named 'tell'."),
        ({"chosen": [1]}, "There is no option of opinions named 'chosen'."),
    ],
)
def test_from_python_what_makes_no_sense_is_told(group, how, says):
    with pytest.raises(UsageError) as error:
        group.opinions(quiet=True, **how)
    assert error.value.message.startswith(says)


def test_opinions_are_of_the_present_weights(tiny, group, tmp_path):
    import fcntl

    def load(*_):
        return tiny

    copy = tmp_path / group.path.name
    shutil.copytree(group.path, copy, ignore=shutil.ignore_patterns("opinions"))
    first = opinions_of(copy, 1, load, n=20)
    last = {f"{run}/checkpoints/last.pt" for run in ("s1", "without-sparsevd/s1")}
    assert last <= first["judged"]["weights"].keys() and analysis.read(copy)
    for variant in (copy, copy / "without-sparsevd"):  # as after a training with --force
        shutil.rmtree(variant / "s1" / "checkpoints")
        shutil.copytree(variant / "s2" / "checkpoints", variant / "s1" / "checkpoints")
    with pytest.raises(UsageError, match="no second opinions"):
        analysis.read(copy)
    with pytest.raises(DataError, match="belongs to another run"):  # it is judged anew, and not what is on record given
        opinions_of(copy, 1, load, n=20)
    shutil.rmtree(copy / "s1")
    with pytest.raises(DataError):
        opinions_of(copy, 1, load, n=20)
    with open(copy / "opinions" / "s2.lock", "w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(BusyError, match="Another process"):
            opinions_of(copy, 2, load, n=20)
    assert opinions_of(copy, 2, load, n=20)["pieces"]


def test_every_part_is_retrained_with_the_same_dropout(tiny, group, monkeypatch):
    subject = subject_of(group.path, 1, lambda *_: tiny, 20, None, None, None)
    drawn = []
    monkeypatch.setattr(pieces, "recovered", lambda *_, **__: drawn.append(float(torch.rand(()))))
    state = torch.random.get_rng_state()
    pieces.of_retraining(subject, silent, 2)
    assert len(drawn) > 2 and len(set(drawn)) == 1 and torch.equal(state, torch.random.get_rng_state())


def test_a_group_without_its_dense_model_is_refused(tiny, group, tmp_path):
    copy = tmp_path / "my runs" / group.path.name
    shutil.copytree(group.path, copy)
    shutil.rmtree(copy / "without-sparsevd")
    shutil.rmtree(copy / "opinions", ignore_errors=True)
    literal = dissect.run("srgnn", tiny, seeds=(1,), literal=True, runs_dir=copy.parent, **TINY).path
    for path, way in ((copy, f"dissect resume '{copy}'"), (literal, "without --literal or --no-shadows")):
        with pytest.raises(UsageError, match="no finished seed with a dense model") as error:
            dissect.open_group(path).opinions()
        assert way in error.value.hint
        with pytest.raises(DataError) as error:
            opinions_of(path, 1, lambda name, folder: tiny)
        assert way in error.value.hint
    with pytest.raises(UsageError, match="There are no second opinions"):
        analysis.opinions(copy)
    (copy / "opinions").mkdir()
    for damage in ("{", "[]", '{"pieces": {"scores": 3}}'):
        (copy / "opinions" / "s1.json").write_text(damage)
        with pytest.raises(DataError):
            analysis.opinions(copy)
    for run in folders.group_runs(copy):
        shutil.rmtree(run)
    said = CliRunner().invoke(main, ["opinions", copy.name, "--runs-dir", str(copy.parent)])
    assert said.exit_code == 2 and f"{copy.name} has no finished seed" in said.output  # not the table of another group


def test_a_damaged_record_of_opinions_is_told_with_the_command(tiny, group, tmp_path):
    copy = tmp_path / group.path.name
    shutil.copytree(group.path, copy, ignore=shutil.ignore_patterns("opinions"))
    (copy / "opinions").mkdir()
    path = copy / "opinions" / "s1.json"
    judged = {"n": 20, "weights": weights_of(copy, 1)}
    path.write_text(json.dumps({"judged": judged, "pieces": {"scores": 3}}))
    with pytest.raises(DataError) as error:
        opinions_of(copy, 1, lambda *_: tiny, n=20)
    assert error.value.hint == f"Remove it and ask again: rm {path}"


# --- what they say -----------------------------------------------------------------------------------------


def tables(**columns):
    """(matrices, roles) of two seeds; four matrices, one for each role."""
    roles = ["propagation", "attention", "update", "transformation"]
    usual = {"sparsevd": 0.5, "excess": 0.5, "constant": 10.0, f"constant{analysis.OWN}": 10.0}
    rows = []
    for seed in (1, 2):
        for i, role in enumerate(roles):
            own = {name: usual[name] for name in usual} | {name: each[i] for name, each in columns.items()}
            rows.append({"seed": seed, "matrix": role[:4], "role": role, "size": 10, **own})
    table = pd.DataFrame(rows).reindex(columns=["seed", "matrix", "role", "size", *analysis.CRITERIA])
    return table, table.drop(columns="matrix")


def test_what_speaks_against_sparsevd_comes_first():
    matrices, roles = tables(
        sparsevd=[0.4, 0.6, 0.5, 0.08],
        excess=[-0.01, 0.55, 0.5, 0.08],
        constant=[7.0, 5.0, 6.0, 90.0],
        magnitude=[3.0, 1.0, 2.0, 4.0],
        fisher=[1.0, 3.0, 4.0, 0.5],
        **{f"constant{analysis.OWN}": [0.1, 0.2, 5.0, 40.0]},
    )
    words = analysis.in_words(matrices, roles)
    assert words[0].startswith(
        "propagation: SparseVD keeps 0.400 of it, 0.010 less than its shadow, but the dense model seems to use it: its "
        "MRR@20 falls by 7.0 %"
    )
    assert words[1].startswith("attention: SparseVD keeps 0.600 of it, 0.550 more than its shadow, but unseen sessions")
    assert words[2].startswith("tran: sparse and needed. It keeps 0.080")
    assert words[3] == "Nearest to ablation of the dense model is magnitude (rank correlation 1.00)."
    assert words[4].startswith("Far from it: SparseVD (-1.00), Fisher (-0.80)")
    assert len(words) == 5


def test_an_accuracy_that_rises_is_said_to_rise_and_of_which_model():
    words = analysis.in_words(*tables(**{f"constant{analysis.OWN}": [-22.4, 10.0, 10.0, 10.0]}))
    assert words == [
        "propagation: SparseVD keeps 0.500 of it, 0.500 more than its shadow, but unseen sessions seem not to need "
        "what it keeps: MRR@20 of the dissected model rises by 22.4 % with a constant in its place (own)."
    ]


def test_a_criterion_is_near_to_ablation_or_far_from_it():
    near = {"magnitude": [1, 2, 4, 3], "fisher": [4, 3, 2, 1], "sparsevd": [3, 1, 2, 4]}
    words = analysis.in_words(*tables(constant=[1, 3, 2, 4], **near))[-2:]
    said = " ".join(words)
    assert all(said.count(name) == 1 for name in ("magnitude", "Fisher", "SparseVD"))
    assert words[0].endswith("is magnitude (rank correlation 0.40), which is far.") and "magnitude" not in words[1]


def test_agreement_is_spearmans_of_each_seed():
    matrices, _ = tables(sparsevd=[1, 2, 3, 4], constant=[1, 2, 4, 3])
    expected = 1 - 6 * (0 + 0 + 1 + 1) / (4 * 15)
    assert analysis.agreement(matrices).loc["sparsevd", "constant"] == pytest.approx(expected)
    matrices["l0"] = [1.0, 2.0, 3.0, 4.0] + [np.nan] * 4  # asked of one seed
    assert analysis.agreement(matrices).loc["sparsevd", "l0"] == pytest.approx(1)


@pytest.mark.parametrize("has_curves", [False, True])
def test_the_figure_is_drawn_with_and_without_curves(has_curves):
    matrices, _ = tables(sparsevd=[1, 2, 3, 4], constant=[1, 2, 4, 3], magnitude=[2, 1, 3, 4])
    names = analysis.compared(matrices)
    order = matrices.groupby("matrix", sort=False)[names].mean().rank(ascending=False)
    assert order["sparsevd"].tolist() == [4, 3, 2, 1]
    curves = pd.DataFrame(
        [
            {"criterion": name, "share": share, "mean": 10 * share, "low": 9 * share, "high": 11 * share}
            for name in ("sparsevd", "random")
            for share in (0.0, 0.1, 1.0)
        ]
        if has_curves
        else [],
        columns=["criterion", "share", "mean", "low", "high"],
    )
    drawn = figure.draw(order, analysis.agreement(matrices), curves, analysis.WORDS, "a model\nits data")
    assert len(drawn.axes) == 2 + has_curves
    words = figure.describe(order, curves, analysis.WORDS, "a model")
    assert "SparseVD: tran" in words and ("SparseVD 1.00, random 1.00" in words) == has_curves


def test_a_correlation_has_one_digit_and_no_sign_before_a_zero():
    shown = [figure.correlation(value) for value in (1.0, 0.97, 0.44, 0.0, -0.04, -0.06, -1.0)]
    assert shown == ["1.0", "1.0", ".4", ".0", ".0", "-.1", "-1.0"]


def test_matrices_that_are_equally_good_share_the_better_place(monkeypatch, tmp_path):
    """There was none in place 1 if two were the best: both stood at 1.5, which was printed as 2."""
    matrices, roles = tables(sparsevd=[0.6, 0.6, 0.1, 0.0])
    rest = pd.DataFrame(columns=["criterion", "share", "mrr@20"]), pd.DataFrame(), pd.DataFrame(), [], 9, "valid"
    found = analysis.Opinions(matrices, roles, analysis.agreement(matrices), *rest)
    monkeypatch.setattr(analysis, "opinions", lambda group: found)
    monkeypatch.setattr(folders, "group_config", lambda group: {"model": "srgnn", "dataset": "x"})
    (drawn,) = drawing.opinions(tmp_path)
    of_density = drawn.table[drawn.table["criterion"] == "sparsevd"].set_index("matrix")["rank"]
    assert of_density.tolist() == [1, 1, 3, 4]


def test_opinions_that_were_asked_in_another_way_are_not_averaged(tiny, group, tmp_path, capsys):
    copy = tmp_path / group.path.name
    shutil.copytree(group.path, copy, ignore=shutil.ignore_patterns("opinions"))
    for number in (3, 4):
        for variant in (copy, copy / "without-sparsevd"):
            shutil.copytree(variant / "s1", variant / f"s{number}")
    records = {}
    for seed in (1, 2):
        opinions_of(copy, seed, lambda *_: tiny, n=0, retrain=1)
        records[seed] = json.loads((copy / "opinions" / f"s{seed}.json").read_text())
    for number, change in ((3, {"ranked": 7}), (4, {})):
        weights = {path.replace("s1/", f"s{number}/"): each for path, each in records[1]["judged"]["weights"].items()}
        own = {**records[1], "judged": {**records[1]["judged"], "weights": weights}, **change}
        if number == 4:
            own["pieces"] = {**own["pieces"], "retrain": {**own["pieces"]["retrain"], "how": {"steps": 50}}}
        files.write_json(copy / "opinions" / f"s{number}.json", own)
    found = analysis.opinions(copy)
    assert set(found.matrices["seed"]) == {1, 2, 4} and found.ranked == records[1]["ranked"]
    retrained = found.matrices.groupby("seed")["retrained"].count()
    assert retrained[1] > 0 and retrained[2] > 0 and retrained[4] == 0
    told = capsys.readouterr().err
    assert (
        "seed 3 was judged on other sessions than most" in told
        and "seed 4 was retrained for another number of steps than most" in told
    )


def test_what_never_falls_agrees_with_nothing():
    matrices, roles = tables(constant=[0.0] * 4, sparsevd=[0.5] * 4)
    assert not any("Nearest" in line for line in analysis.in_words(matrices, roles))


def test_curves_of_gates_at_another_price_go(tiny, group, tmp_path):
    copy = tmp_path / group.path.name
    shutil.copytree(group.path, copy, ignore=shutil.ignore_patterns("opinions"))
    how = {"n": 20, "with_l0": True}
    assert "curves" in opinions_of(copy, 1, lambda *_: tiny, **how, l0_weight=9.0, curves=True)["pieces"]
    assert "curves" not in opinions_of(copy, 1, lambda *_: tiny, **how, l0_weight=1.0)["pieces"]
    gates = copy / "opinions" / "s1.l0.pt"
    gates.write_bytes(b"damaged")
    assert "curves" in opinions_of(copy, 1, lambda *_: tiny, **how, l0_weight=1.0, curves=True)["pieces"]


def test_l0_has_gates_where_sparsevd_was(tiny, tmp_path):
    given = {**TINY, "where": "attention"}
    own = dissect.run("srgnn", tiny, seeds=(1,), runs_dir=tmp_path, **given)
    found = opinions_of(own.path, 1, lambda *_: tiny, n=20, with_l0=True)
    assert found["pieces"]["l0"]["values"].keys() == {name for names in found["roles"].values() for name in names}
    assert {*found["roles"]} == {"attention"}


def test_a_role_is_ablated_whole_or_not_at_all():
    names = ["gru.weight_ih_l0", "gru.weight_hh_l0", "linear.weight"]
    assert pieces._reached(names, dict.fromkeys(names[::2])) == names[::2]  # the inputs of a GRU speak for its states
    assert pieces._reached(names, dict.fromkeys(names[:1])) == [] and pieces._reached(names[1:2], {}) == []


def test_negatives_are_drawn_as_in_the_training(tiny, tmp_path):
    how = {"negatives": 16, "sample_alpha": 0.75}
    own = dissect.train("srgnn", tiny, seeds=(1,), runs_dir=tmp_path, dim=8, max_steps=4, quiet=True, **how)
    shares = subject_of(own.path, 1, lambda *_: tiny, 20, None, None, None).shares
    clicks = np.bincount(
        np.asarray(split_validation(tiny.train, own.config.held_out)[0].items), minlength=tiny.n_items + 1
    )[1:]
    often, rare = clicks.argmax(), clicks.argmin()
    ratio = (np.maximum(clicks[often], 1) / np.maximum(clicks[rare], 1)) ** 0.75
    assert float((shares.log[often] - shares.log[rare]).exp()) == pytest.approx(ratio, rel=1e-4)
