"""Models of one's own that are allowed and unusual: what torch, the averages and the evaluation make of them."""

import copy
from dataclasses import replace

import pytest
import torch
from torch import nn

from dissect.data.sessions import split_validation
from dissect.errors import UsageError
from dissect.experiment.subject import find_model, try_on
from dissect.sparsevd import one_sample, sparsify
from dissect.sparsevd.averages import Averages
from dissect.training.checkpoint import load_checkpoint
from dissect.training.evaluated import _bytes_of
from dissect.training.evaluation import prefixes_of
from dissect.training.loop import fit, train_step
from dissect.training.rebuild import Recorded, rebuild
from dissect.training.setup import assemble, optimiser_of
from models.base import SessionModel, lookup
from tests.test_shadows import DATA, SMALL


class Plain(SessionModel):
    """The mean of the clicks through a layer."""

    def __init__(self, n_items=30, dim=8):
        super().__init__()
        self.items = nn.Parameter(0.1 * torch.randn(n_items, dim))
        self.out = nn.Linear(dim, dim)

    def item_states(self):
        return self.items

    def encode(self, S, batch):
        return self.out(batch.clicks.mean(lookup(S, batch.clicks.items)))


def test_layers_that_are_called_from_a_plain_list_are_refused():
    """The list would go on with the dense layers, and the SparseVD ones look useless."""

    class Held(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Linear(4, 8), nn.Linear(8, 3)
            self.steps = [self.first, self.second]

        def forward(self, x):
            for step in self.steps:
                x = step(x)
            return x

    model, x = Held(), torch.randn(5, 4)
    before, own = model(x), model.first
    with pytest.raises(UsageError, match="first, second: the model calls this by a reference"):
        sparsify(model, probe=lambda: model(x))
    assert model.first is own and torch.equal(model(x), before)
    kept = nn.ModuleList([nn.Linear(4, 4), nn.Linear(4, 4)])
    assert sparsify(kept, probe=lambda: [layer(x) for layer in kept]).layers == ["0", "1"]


class NormedCandidates(Plain):
    def __init__(self):
        super().__init__()
        self.norm, self.idle = nn.BatchNorm1d(8), nn.BatchNorm1d(8)

    def candidates(self, S):
        return self.norm(S), None


def test_norms_of_candidates_have_statistics_too_and_one_that_never_runs_keeps_its_own(tmp_path):
    fit(NormedCandidates, DATA, replace(SMALL, where="none", shadows=False), tmp_path / "s1", seed=1)
    saved = load_checkpoint(tmp_path / "s1" / "checkpoints" / "last.pt")
    means = saved["averages"]["means"]
    table = means["model.items"]
    torch.testing.assert_close(means["model.norm.running_var"], table.var(0), rtol=1e-3, atol=1e-6)
    torch.testing.assert_close(means["model.norm.running_mean"], table.mean(0), rtol=1e-3, atol=1e-6)
    assert "model.idle.running_var" not in means


def test_a_mask_that_evaluation_makes_serves_in_training(tmp_path):
    class Cached(Plain):
        mask = None

        def encode(self, S, batch):
            if self.mask is None or not self.training:
                self.mask = torch.linspace(1, 2, 8)
            return super().encode(S, batch) * self.mask

    fit(Cached, DATA, replace(SMALL, where="none", shadows=False), tmp_path / "s1", seed=1)


@pytest.mark.parametrize("kind", [nn.GRU, nn.LSTM])
def test_a_recurrent_layer_is_masked_at_its_first_evaluation(kind):
    """Torch looks whether weights were changed within the forward, and would put them back."""
    layer = nn.Sequential(kind(4, 4, batch_first=True))
    layer[0].weight_hh_l0 = nn.Parameter(torch.randn_like(layer[0].weight_hh_l0))
    x = torch.randn(2, 3, 4)
    sparsify(layer, log_sigma2=20.0)  # every log alpha is above the threshold
    layer.eval()
    first, second = layer(x)[0], layer(x)[0]
    assert torch.equal(first, second)
    for parameter in ("weight_ih_l0", "weight_hh_l0"):
        nn.init.zeros_(layer[0].get_parameter(parameter))
    assert torch.equal(layer(x)[0], first)


def test_whole_numbers_are_not_averaged_and_complex_ones_train():
    model = nn.Module()
    model.order = nn.Parameter(torch.tensor([2, 0, 1]), requires_grad=False)
    model.filters = nn.Parameter(torch.randn(3, dtype=torch.cfloat))
    averages = Averages(model=model)
    for _ in range(3):
        averages.add()
    assert averages.means.keys() == {"model.filters"}
    optimiser = optimiser_of([{"params": [model.filters], "kind": "host"}], SMALL)
    before = model.filters.detach().clone()
    model.filters.abs().sum().backward()
    optimiser.step()
    assert (model.filters != before).all()


LAYOUTS = [torch.arange(12.0).view(6, 2)[:, 0], torch.eye(3).to_sparse(), torch.ones(())]


@pytest.mark.parametrize("value", LAYOUTS)
def test_every_layout_of_a_buffer_has_bytes(value):
    dense = value if value.layout == torch.strided else value.to_dense()
    assert _bytes_of(value).tobytes() == dense.contiguous().numpy().tobytes()


class EveryClick(Plain):
    """A target after every click, and a norm that cannot be trained on one session alone."""

    every_position = True

    def __init__(self, n_items, dim=8):
        super().__init__(n_items, dim)
        self.norm = nn.BatchNorm1d(dim)

    def encode(self, S, batch):
        x = batch.clicks.padded(self.out(lookup(S, batch.clicks.items)))  # [B, L, D]
        return x + self.norm(x[:, 0])[:, None]


def test_the_last_batch_counts_sessions_where_each_click_has_a_target():
    train = split_validation(DATA.train, SMALL.held_out)[0]
    config = replace(SMALL, where="none", shadows=False, max_steps=1000)
    refused = next(B for B in range(4, 100) if len(train) % B == 1 != train.n_prefixes % B)
    fit_size = next(B for B in range(4, 60) if train.n_prefixes % B == 1 != len(train) % B)
    with pytest.raises(UsageError, match=rf"the last batch has one \({len(train):,} examples"):
        try_on(find_model(EveryClick), DATA, replace(config, batch_size=refused))
    try_on(find_model(EveryClick), DATA, replace(config, batch_size=fit_size))


class Prepared(Plain):
    """A layer is made in `prepare`, as wide as the training sessions say."""

    def prepare(self, sessions):
        self.late = nn.Linear(8, len(sessions) % 7 + 8, bias=False)

    def encode(self, S, batch):
        return self.late(super().encode(S, batch))[:, :8]


def test_a_layer_that_prepare_makes_is_dissected_trained_and_rebuilt(tmp_path):
    config = replace(SMALL, max_steps=3, average=0.0)
    fit(Prepared, DATA, config, tmp_path / "g" / "s1", seed=1)
    saved = load_checkpoint(tmp_path / "g" / "s1" / "checkpoints" / "last.pt")["model"]
    assert "late.log_sigma2" in saved
    torch.manual_seed(1)
    fresh = Prepared(n_items=30, dim=8)
    fresh.prepare(split_validation(DATA.train, config.held_out)[0])
    assert not torch.equal(fresh.late.weight, saved["late.weight"])  # the layer has learned
    record = Recorded(tmp_path / "g" / "s1", tmp_path / "g", "full", 1, config, 3, 30, ())
    model, step = rebuild(record, Prepared, lambda: DATA.train)
    assert step == 3 and torch.equal(model.late.weight, saved["late.weight"])
    assert model.late.log_sigma2.shape == model.late.weight.shape


class Aside(Plain):
    """An auxiliary loss reads a state that `item_states` has made."""

    def __init__(self, n_items=30, dim=8):
        super().__init__(n_items, dim)
        self.first = nn.Linear(dim, dim)

    def item_states(self):
        self.state = self.first(self.items).tanh()
        return self.state * 2

    def encode(self, S, batch):
        return super().encode(S, batch), {"small": self.state.square().mean()}


@pytest.mark.parametrize(("where", "shadow_items"), [("none", 0), ("both", 0), ("both", 9)])
def test_an_auxiliary_loss_may_read_what_the_table_is_made_of(where, shadow_items):
    config = replace(SMALL, average=0.0, where=where, shadow_items=shadow_items)
    config = config if where == "both" else config.matched()
    training = assemble(Aside, config, prefixes_of(DATA.train), 1, "full")
    twin = copy.deepcopy(training.model)
    batch = prefixes_of(DATA.train).batch(torch.arange(16))
    torch.manual_seed(5)
    train_step(training, batch, 0.0, torch.empty(30, 16))
    torch.manual_seed(5)
    with one_sample(twin):
        S = twin.item_states()
        vectors, losses = twin.encode(S, batch)
        (nn.functional.cross_entropy(vectors @ S.t(), batch.targets - 1) + losses["small"]).backward()
    for mine, theirs in zip(training.model.parameters(), twin.parameters(), strict=True):
        if theirs.grad is not None:
            torch.testing.assert_close(mine.grad, theirs.grad, atol=1e-5, rtol=1e-4)


def test_a_dense_model_may_call_a_parameter_log_sigma2(tmp_path):
    class Spread(Plain):
        def __init__(self, n_items=30, dim=8):
            super().__init__(n_items, dim)
            self.out.log_sigma2 = nn.Parameter(torch.zeros(dim))

        def encode(self, S, batch):
            return super().encode(S, batch) * self.out.log_sigma2.exp()

    config = replace(SMALL.matched(), max_steps=3, average=0.0)
    fit(Spread, DATA, config, tmp_path / "g" / "s1", seed=1)
    record = Recorded(tmp_path / "g" / "s1", tmp_path / "g", "full", 1, config, 3, 30, ())
    model, _ = rebuild(record, Spread, lambda: DATA.train)
    assert type(model.out) is nn.Linear and model.out.log_sigma2.any()
