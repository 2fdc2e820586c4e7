"""Exchanging layers: names, ties, hooks, refusals, the way back, and a task with a planted answer."""

import copy
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import prune, weight_norm
from torch.nn.utils.parametrizations import spectral_norm

from dissect.errors import UsageError
from dissect.sparsevd import (
    GRUVD,
    LinearVD,
    VariationalLayer,
    densify,
    kept_count,
    kl_divergence,
    layers_in,
    measure,
    named_variational,
    one_sample,
    own_parameters,
    penalty,
    reset_log_sigma2,
    scores,
    sparsified,
    sparsify,
    unmasked,
)


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


class Nested(nn.Module):
    """Linear layers at several depths, a GRU, a table, a bare matrix, and one layer that never runs."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(10, 4)
        self.inner = nn.ModuleDict({"first": nn.Linear(4, 4), "deep": nn.Sequential(nn.Linear(4, 4), nn.ReLU())})
        self.rnn = nn.GRU(4, 4, batch_first=True)
        self.conv = nn.Conv1d(4, 4, 3, padding=1)
        self.cell = nn.GRUCell(4, 4)
        self.dead = nn.Linear(4, 4)
        self.bare = nn.Parameter(torch.randn(4, 4))
        self.vector = nn.Parameter(torch.randn(4))
        self.norm = nn.BatchNorm1d(4)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.rnn(self.table(ids))[0]
        x = self.inner["deep"](self.inner["first"](x)) @ self.bare + self.vector
        x = self.conv(x.transpose(1, 2)).transpose(1, 2)
        return F.dropout(self.norm(self.cell(x[:, -1])), 0.5, self.training)


def run(model: nn.Module) -> Callable[[], Tensor]:
    ids = torch.arange(8).reshape(2, 4)
    return lambda: model(ids)


def names(model: nn.Module) -> list[str]:
    return [name for name, _, _ in named_variational(model)]


def everything(model: nn.Module) -> tuple[Any, ...]:
    """What must be the same after an exchange that did not happen."""
    return (
        {name: id(module) for name, module in model.named_modules(remove_duplicate=False)},
        {name: id(parameter) for name, parameter in model.named_parameters(remove_duplicate=False)},
        {name: (len(m._forward_hooks), len(m._forward_pre_hooks)) for name, m in model.named_modules()},
        {name: m.training for name, m in model.named_modules()},
    )


# --- what is exchanged ---


def test_walks_the_whole_tree_and_reports_everything() -> None:
    """senya walks children() only and misses nested layers."""
    model = Nested()
    report = sparsify(model, probe=run(model))
    assert report.swapped == {
        "inner.first": (4, 4),
        "inner.deep.0": (4, 4),
        "rnn.weight_ih_l0": (12, 4),
        "rnn.weight_hh_l0": (12, 4),
        "conv": (4, 4, 3),
        "cell.weight_ih": (12, 4),
        "cell.weight_hh": (12, 4),
    }
    assert names(model) == list(report.swapped)
    assert report.left_out.keys() == {"dead", "table.weight", "bare"}
    assert "never ran" in report.left_out["dead"]
    assert "Embedding" in report.left_out["table.weight"] and "Nested" in report.left_out["bare"]
    assert type(model.dead) is nn.Linear and isinstance(model.rnn, GRUVD)
    assert sorted(model._modules) == sorted(Nested()._modules)


def test_where_chooses_by_name_and_module() -> None:
    model = Nested()
    report = sparsify(model, lambda name, module: name.startswith("inner") and isinstance(module, nn.Linear))
    assert names(model) == ["inner.first", "inner.deep.0"]
    assert report.left_out["dead"] == report.left_out["rnn"] == "not chosen"
    # The rest in a second call; what is there already is left alone.
    first = model.inner["first"]
    report = sparsify(model, noise="weight")
    assert model.inner["first"] is first and first.noise == "lrt" and model.dead.noise == "weight"
    assert "already" in report.left_out["inner.first"] and "inner.first" not in report.swapped
    assert "dead" in report.swapped


@pytest.mark.parametrize("where", [["inner", "conv"], ("inner.first", "inner.deep.0", "conv"), {"inner", "conv"}])
def test_where_may_be_names_of_layers_or_of_what_holds_them(where: Any) -> None:
    model = Nested()
    report = sparsify(model, where, probe=run(model))
    assert names(model) == ["inner.first", "inner.deep.0", "conv"] == report.layers
    assert report.left_out["dead"] == report.left_out["rnn"] == "not chosen"
    model = Nested()
    sparsify(model, "rnn")
    assert names(model) == ["rnn.weight_ih_l0", "rnn.weight_hh_l0"]


@pytest.mark.parametrize(
    ("where", "says"),
    [
        (["inner", "con"], "no layer named 'con'"),
        ("both", "no layer named 'both'"),
        ([], "neither names of layers nor a function"),
        (3, "`where` is 3: neither"),
        ([nn.Linear], "neither names of layers nor a function"),
        (["norm", "inner"], "norm cannot be replaced by a SparseVD layer"),
        (["conv", "dead"], "dead cannot be replaced by a SparseVD layer: never ran in the probe"),
        (["rnn_tanh"], "rnn_tanh cannot be replaced by a SparseVD layer: no SparseVD layer for RNN"),
    ],
)
def test_where_that_leads_nowhere_is_refused(where: Any, says: str) -> None:
    model = Nested()
    model.rnn_tanh = nn.RNN(4, 4)
    before = everything(model)
    with pytest.raises(UsageError, match=re.escape(says)):
        sparsify(model, where, probe=run(model))
    assert everything(model) == before


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("inner.deep.0.weight", float("nan"), r"inner\.deep\.0: weight holds NaN or infinity"),
        ("rnn.weight_hh_l0", float("-inf"), r"rnn: weight_hh_l0 holds NaN or infinity"),
    ],
)
def test_weights_that_are_no_numbers_are_refused_by_name(name: str, value: float, says: str) -> None:
    """Their log sigma^2 would start at NaN, and every density at 0."""
    model = Nested()
    with torch.no_grad():
        model.get_parameter(name)[0, 0] = value
    before = everything(model)
    with pytest.raises(UsageError, match=says):
        sparsify(model)
    assert everything(model) == before
    sparsify(model, ["conv"])  # what is left alone is not looked at
    assert names(model) == ["conv"]


def test_layers_without_a_shape_yet_are_left_alone() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.LazyLinear(2))
    report = sparsify(model)
    assert names(model) == ["0"] and "1" in report.left_out


def test_settings_reach_every_layer() -> None:
    model = Nested()
    sparsify(model, noise="weight", threshold=2.0, log_sigma2=-7.0)
    for module in model.modules():
        if isinstance(module, VariationalLayer):
            assert (module.noise, module.threshold) == ("weight", 2.0)
    assert all((log_sigma2 == -7).all() for _, _, log_sigma2 in named_variational(model))


def test_keeps_parameters_mode_and_hooks() -> None:
    model = Nested().eval()
    calls: list[str] = []
    handle = model.inner["first"].register_forward_hook(lambda *_: calls.append("hook"))
    before = dict(model.named_parameters())
    sparsify(model, probe=run(model))
    calls.clear()
    assert all(dict(model.named_parameters())[name] is parameter for name, parameter in before.items())
    assert not any(module.training for module in model.modules())
    run(model)()
    assert calls == ["hook"]
    handle.remove()
    run(model)()
    assert calls == ["hook"]
    # An optimiser made before still trains theta.
    model.train()
    optimiser = torch.optim.SGD(before.values(), lr=0.1)
    theta = model.inner["first"].weight.clone()
    run(model)().sum().backward()
    optimiser.step()
    assert not torch.equal(model.inner["first"].weight, theta)


@pytest.mark.parametrize("layer", [nn.Linear(2, 2), nn.GRU(2, 2), nn.Conv1d(2, 2, 1)])
def test_a_model_that_is_one_layer(layer: nn.Module) -> None:
    with pytest.raises(UsageError, match="single") as caught:
        sparsify(layer)
    assert "from_dense" in caught.value.hint
    wrapped = nn.Sequential(layer)
    sparsify(wrapped)
    assert isinstance(wrapped[0], VariationalLayer)


def test_a_layer_is_its_own_model() -> None:
    layer = LinearVD(3, 2)
    assert names(layer) == ["weight"]
    assert torch.equal(penalty(layer), kl_divergence(layer.weight, layer.log_sigma2))
    assert type(densify(layer)) is nn.Linear


def test_a_model_without_layers() -> None:
    with pytest.raises(UsageError, match=r"has no weight matrix to dissect\."):
        sparsify(nn.ReLU())
    with pytest.raises(UsageError, match="dissect: rnn: no SparseVD layer for RNN"):
        sparsify(nn.ModuleDict({"rnn": nn.RNN(2, 2)}))
    report = sparsify(nn.ReLU(), refuse=False)
    assert not report.swapped and not report.left_out
    assert penalty(nn.ReLU()).item() == 0 and measure(nn.ReLU()) == []


def test_a_model_that_has_its_layers_already() -> None:
    model = nn.Sequential(nn.Linear(2, 2))
    sparsify(model)
    layer = model[0]
    with pytest.raises(UsageError, match="has SparseVD layers already") as caught:
        sparsify(model, threshold=2.0)
    assert model[0] is layer and layer.threshold == 3.0 and "densify(model)" in caught.value.hint


# --- what is left out ---


def test_an_output_projection_goes_with_its_attention() -> None:
    """PyTorch's attention never calls it: swapped alone, it would feel the KL and no data."""
    model = nn.ModuleDict({"attention": nn.MultiheadAttention(4, 2), "after": nn.Linear(4, 4)})
    report = sparsify(model)
    assert names(model) == list(report.swapped) == ["attention", "attention.out_proj", "after"]
    assert report.layers == ["attention", "after"] and not report.left_out
    with pytest.raises(UsageError, match=r"attention\.out_proj cannot.*; choose attention"):
        sparsify(nn.ModuleDict({"attention": nn.MultiheadAttention(4, 2)}), lambda name, _: "out_proj" in name)
    model = nn.ModuleDict({"attention": nn.MultiheadAttention(4, 2), "after": nn.Linear(4, 4)})
    sparsify(model, lambda _, module: isinstance(module, nn.Linear), refuse=False)
    assert names(model) == ["after"]


def test_an_embedding_is_exchanged_only_if_it_is_named() -> None:
    model = Nested()
    report = sparsify(model, lambda *_: True)
    assert "named" in report.left_out["table.weight"] and type(model.table) is nn.Embedding
    report = sparsify(model, ["table"], probe=run(model))
    assert report.swapped == {"table": (10, 4)} and "table.weight" not in report.left_out
    densify(model)
    assert type(model.table) is nn.Embedding
    for wrong in ({"max_norm": 1.0}, {"sparse": True}, {"scale_grad_by_freq": True}):
        with pytest.raises(UsageError, match="table: EmbeddingVD has no max_norm"):
            sparsify(nn.ModuleDict({"table": nn.Embedding(3, 2, **wrong)}), "table")


class ReadsPast(nn.Module):
    """Calls `used`, and multiplies by the weight of `read` and of `both` itself; `looked` gives its shape."""

    def __init__(self, read: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.used, self.read, self.both, self.looked = (nn.Linear(3, 3) for _ in range(4))
        self.function = read

    def forward(self, x: Tensor) -> Tensor:
        w = self.looked.weight
        x = self.looked(x) + torch.zeros(w.size(0), device=w.device, dtype=w.dtype) + w.new_zeros(w.shape[0])
        return self.function(self.both(self.used(x)), self.read.weight) + self.function(x, self.both.weight)


@pytest.mark.parametrize(
    "function",
    [
        F.linear,
        torch.matmul,
        lambda x, w: x @ w.t(),
        lambda x, w: x @ w.T,
        lambda x, w: torch.cat([x, w])[:2],
    ],
    ids=["linear", "matmul", "t()", "T", "cat"],
)
def test_the_probe_sees_weights_that_are_read_past_forward(
    function: Callable[[Tensor, Tensor], Tensor],
) -> None:
    model = ReadsPast(function)
    report = sparsify(model, probe=lambda: model(torch.randn(2, 3)))
    assert list(report.swapped) == ["used", "looked"]
    assert (
        "without calling its forward" in report.left_out["read"]
        and "without calling its forward" in report.left_out["both"]
    )
    model = ReadsPast(function)
    before = everything(model)
    with pytest.raises(UsageError, match="without calling its forward"):
        sparsify(model, lambda *_: True, probe=lambda: model(torch.randn(2, 3)))
    assert everything(model) == before


class OwnAttention(nn.MultiheadAttention):
    """A subclass may do anything."""


class Scaled(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * super().forward(x)


def test_layers_with_a_mind_of_their_own_are_left_out() -> None:
    replaced = nn.Linear(3, 3)
    replaced.forward = lambda x: x  # type: ignore[method-assign,assignment]
    masked = nn.Linear(3, 3)
    prune.random_unstructured(masked, "weight", 0.5)
    normed = nn.Linear(3, 3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the norm is of the old kind, by a hook
        weight_norm(normed)
        empty = nn.Linear(3, 0)
    spectral = spectral_norm(nn.Linear(3, 3))
    model = nn.ModuleDict(
        {
            "subclass": Scaled(3, 3),
            "replaced": replaced,
            "masked": masked,
            "normed": normed,
            "spectral": spectral,
            "rnn": nn.RNN(3, 3),
            "transposed": nn.ConvTranspose2d(3, 3, 1),
            "attention": OwnAttention(4, 2),
            "lazy": nn.LazyLinear(3),
            "empty": empty,
            "plain": nn.Linear(3, 3),
        }
    )
    report = sparsify(model)
    assert names(model) == ["plain"]
    assert "run a batch" in report.left_out["lazy"] and "without a single weight" in report.left_out["empty"]
    assert model.keys() <= report.left_out.keys() | {"plain"}
    assert "derived from" in report.left_out["subclass"] and "replaced" in report.left_out["replaced"]
    assert "computed" in report.left_out["masked"] and "computed" in report.left_out["normed"]
    assert report.left_out["spectral"] == report.left_out["normed"] and "spectral.parametrizations" not in " ".join(
        report.left_out
    )
    assert "RNN" in report.left_out["rnn"] and "ConvTranspose2d" in report.left_out["transposed"]
    assert "derived from" in report.left_out["attention"]
    assert "never calls it" in report.left_out["attention.out_proj"]


# --- ties ---


class Shared(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(3, 3)
        self.b = self.a
        self.list = nn.ModuleList([self.a, nn.Linear(3, 3)])

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.a(x)) + self.list[0](x) + self.list[1](x)


def test_a_layer_at_several_places_stays_one() -> None:
    """gpt-fast's swap unties it."""
    model = Shared()
    report = sparsify(model, probe=lambda: model(torch.randn(2, 3)))
    assert isinstance(model.a, LinearVD) and model.a is model.b is model.list[0]
    assert list(report.swapped) == names(model) == ["a", "list.1"]
    expected = penalty(model.a) + penalty(model.list[1])
    assert penalty(model).item() == pytest.approx(expected.item())  # once
    assert len(sparsified(model)) == len(own_parameters(model)) == 2
    densify(model)
    assert type(model.a) is nn.Linear and model.a is model.b is model.list[0]


def tied() -> nn.Module:
    model = nn.ModuleDict({"a": nn.Linear(3, 3), "b": nn.Linear(3, 3), "c": nn.Linear(3, 3)})
    model["b"].weight = model["a"].weight
    return model


def test_layers_that_share_a_weight_share_its_posterior() -> None:
    model = tied()
    report = sparsify(model, noise="weight")
    assert list(report.swapped) == ["a", "b", "c"]
    assert model["a"].weight is model["b"].weight and model["a"].log_sigma2 is model["b"].log_sigma2
    assert names(model) == ["a", "c"] and len(own_parameters(model)) == 2
    assert penalty(model).item() == pytest.approx((penalty(model["a"]) + penalty(model["c"])).item())
    x = torch.randn(2, 3)
    with one_sample(model):  # one weight, hence one draw
        assert torch.allclose(model["a"](x) - model["a"].bias, model["b"](x) - model["b"].bias, atol=1e-6)
    densify(model)
    assert model["a"].weight is model["b"].weight


def test_half_of_a_tie_is_not_exchanged() -> None:
    model = tied()
    report = sparsify(model, lambda name, _: name != "b")
    assert names(model) == ["c"]
    assert "b.weight" in report.left_out["a"] and report.left_out["b"] == "not chosen"


@pytest.mark.parametrize("with_probe", [True, False])
def test_a_layer_tied_to_an_embedding_is_left_out(with_probe: bool) -> None:
    model = nn.Sequential(nn.Embedding(5, 5), nn.Linear(5, 5), nn.Linear(5, 5, bias=False))
    model[2].weight = model[0].weight
    ids = torch.arange(5)
    report = sparsify(model, probe=(lambda: model(ids)) if with_probe else None)
    assert names(model) == ["1"]
    assert "0.weight" in report.left_out["2"] or "embedding" in report.left_out["2"]
    assert model[2].weight is model[0].weight


def test_a_layer_tied_to_a_bare_parameter_is_left_out() -> None:
    model = nn.ModuleDict({"a": nn.Linear(3, 3)})
    model.register_parameter("table", model["a"].weight)
    report = sparsify(model, refuse=False)
    assert not report.swapped and "table" in report.left_out["a"]


# --- the probe leaves no trace ---


def test_the_probe_puts_everything_back() -> None:
    model = Nested()
    model.inner["first"].eval()  # modes differ from module to module
    before, state = everything(model), copy.deepcopy(model.state_dict())
    rng = torch.get_rng_state()

    def probe() -> None:
        run(model)()
        model.norm.running_var = torch.zeros(4)  # replaced, not changed in place
        model.eval()
        assert not torch.is_grad_enabled()

    ids = {name: id(buffer) for name, buffer in model.named_buffers()}
    report = sparsify(model, lambda *_: False, probe=probe, refuse=False)
    assert not report.swapped
    sparsify(model, lambda name, _: name == "dead", probe=probe, refuse=False)
    assert everything(model) == before
    assert torch.equal(torch.get_rng_state(), rng)
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert {name: id(buffer) for name, buffer in model.named_buffers()} == ids
    assert all(p.grad is None for p in model.parameters())


def test_nothing_changes_when_the_probe_fails() -> None:
    """Hooks undone after success and after an error."""
    model = Nested()
    before = everything(model)

    def probe() -> None:
        run(model)()
        raise RuntimeError("in the middle")

    with pytest.raises(RuntimeError, match="in the middle"):
        sparsify(model, probe=probe)
    assert everything(model) == before
    with pytest.raises(ValueError, match="where"):
        sparsify(model, lambda name, _: (_ for _ in ()).throw(ValueError("where")))
    assert everything(model) == before


def test_nothing_changes_when_a_layer_is_refused() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3).half(), nn.Linear(3, 3))
    before = everything(model)
    with pytest.raises(UsageError, match="float16"):
        sparsify(model)
    assert everything(model) == before
    with pytest.raises(UsageError, match="no noise named"):
        sparsify(nn.Sequential(nn.Linear(3, 3)), noise="gauss")


# --- the way back ---


@pytest.mark.parametrize("prune", [True, False])
def test_round_trip(prune: bool) -> None:
    model = Nested()
    parameters = dict(model.named_parameters())
    values = {name: parameter.clone() for name, parameter in parameters.items()}
    kinds = {name: type(module) for name, module in model.named_modules()}
    sparsify(model, probe=run(model))
    with torch.no_grad():
        for _, theta, log_sigma2 in named_variational(model):
            log_sigma2.copy_(torch.where(torch.rand_like(theta) < 0.5, 10.0, -10.0))
    model.eval()
    masked = run(model)()
    with unmasked(model):
        whole = run(model)()
    assert not torch.allclose(masked, whole)
    counts = {name: int(kept_count(t, s, 3.0)) for name, t, s in named_variational(model)}
    assert densify(model, prune) is model
    assert {name: type(module) for name, module in model.named_modules()} == kinds
    assert dict(model.named_parameters()).keys() == parameters.keys()
    assert all(model.get_parameter(name) is parameter for name, parameter in parameters.items())
    assert torch.equal(run(model)(), masked if prune else whole)
    for name, count in counts.items():
        theta = model.get_parameter(name if "weight" in name else f"{name}.weight")
        assert int((theta != 0).sum()) == (count if prune else theta.numel())
    if not prune:
        assert all(torch.equal(parameters[name], value) for name, value in values.items())


def test_dense_checkpoints_load_into_sparse_models_and_back() -> None:
    dense, model = Nested(), Nested()
    sparsify(model)
    result = model.load_state_dict(dense.state_dict(), strict=False)
    assert not result.unexpected_keys and all("log_sigma2" in key for key in result.missing_keys)
    assert len(result.missing_keys) == len(names(model))
    model.eval(), dense.eval()
    with unmasked(model):
        assert torch.equal(run(model)(), run(dense)())
    other = Nested().eval()
    result = other.load_state_dict(model.state_dict(), strict=False)
    assert not result.missing_keys and all("log_sigma2" in key for key in result.unexpected_keys)
    assert torch.equal(run(other)(), run(dense)())


def test_density_survives_files_and_modes() -> None:
    model = Nested()
    sparsify(model)
    before = measure(model)
    twin = Nested()
    sparsify(twin)
    twin.load_state_dict(model.state_dict())
    assert measure(model.eval()) == before == measure(twin)


def test_unmasked_restores_what_was() -> None:
    model = Nested()
    sparsify(model)
    model.dead.masked = False
    with pytest.raises(RuntimeError), unmasked(model):
        assert not model.inner["first"].masked
        raise RuntimeError
    assert model.inner["first"].masked and not model.dead.masked


def test_log_sigma2_after_the_hosts_own_reset() -> None:
    """SR-GNN's reset_parameters fills every parameter: sigma about 1 and a density of 0 at step 0."""
    model = Nested()
    sparsify(model)
    for parameter in model.parameters():
        parameter.data.uniform_(-0.5, 0.5)
    kept = sum(row["kept"]["3"] for row in measure(model))
    reset_log_sigma2(model)
    numel = sum(row["numel"] for row in measure(model))
    assert kept < 0.85 * numel < 0.95 * numel < sum(row["kept"]["3"] for row in measure(model))


@pytest.mark.parametrize("prior", ["log-uniform", "normal", "ard"])
def test_the_penalty_reaches_every_matrix(prior: str) -> None:
    model = Nested()
    sparsify(model)
    total = penalty(model, prior)
    total.backward()
    assert total.item() == pytest.approx(sum(row["kl"] for row in measure(model, prior=prior)), rel=1e-5)
    for _, theta, log_sigma2 in named_variational(model):
        assert theta.grad.abs().sum() > 0 and log_sigma2.grad.abs().sum() > 0


# --- what others ask of a sparsifier ---


def test_the_score_of_a_weight_says_whether_it_is_kept() -> None:
    model = Nested()
    sparsify(model, threshold=1.0)
    with torch.no_grad():
        for parameter in own_parameters(model):
            parameter.uniform_(-8, 4)
    found = scores(model)
    assert list(found) == list(sparsified(model)) == names(model)
    for (name, score), weight, (_, theta, log_sigma2) in zip(
        found.items(), sparsified(model).values(), named_variational(model), strict=True
    ):
        assert weight is theta and not score.requires_grad
        torch.testing.assert_close(score, 2 * (theta.abs() / (log_sigma2 / 2).exp()).log(), atol=1e-4, rtol=1e-4)
        for t in (1.0, 3.0):
            assert 0 < int((score > -t).sum()) == int(kept_count(theta, log_sigma2, t)) < theta.numel(), name
    densify(model)
    assert torch.equal(model.dead.weight != 0, found["dead"] > -1)


def test_own_parameters_are_what_the_dense_model_does_not_have() -> None:
    dense, model = Nested(), Nested()
    sparsify(model)
    new = dict(model.named_parameters()).keys() - dict(dense.named_parameters()).keys()
    assert {id(model.get_parameter(name)) for name in new} == {id(p) for p in own_parameters(model)}
    assert own_parameters(dense) == [] and sparsified(dense) == {} and scores(dense) == {}


def test_a_state_dict_tells_which_layers_it_is_of() -> None:
    model = Nested()
    assert layers_in(model.state_dict()) == set()
    report = sparsify(model, ["inner", "rnn", "cell"])
    assert layers_in(model.state_dict()) == set(report.layers) == {"inner.first", "inner.deep.0", "rnn", "cell"}
    assert layers_in(LinearVD(2, 2).state_dict()) == {""}


# The setting of that name: a field or argument, its value, a keyword, an entry in a list of settings.
SETTING = re.compile(
    r"""config\.log_sigma2|log_sigma2: float|log_sigma2=|["']log_sigma2["'](?=[,:\]}])|: log_sigma2,"""
)


def spells(line: str) -> bool:
    """Whether a line of code speaks of the parameter log_sigma2."""
    return "log_sigma2" in SETTING.sub("", line)


def test_nobody_else_spells_the_parameters_of_sparsevd() -> None:
    root = Path(__file__).resolve().parent.parent
    files = [path for room in ("dissect", "analyses", "figures") for path in (root / room).rglob("*.py")]
    others = [path for path in files if path.parent != root / "dissect" / "sparsevd"]
    lines = [(path.name, line) for path in others for line in path.read_text().splitlines()]
    assert len(others) > 50 and [(name, line) for name, line in lines if spells(line)] == []


@pytest.mark.parametrize(
    ("line", "wrong"),
    [
        ('if "log_sigma2" in name:', True),
        ('if name.startswith("log_sigma2"):', True),
        ("for _, theta, log_sigma2 in named_variational(model):", True),
        ("layer.log_sigma2.exp()", True),
        ("log_sigma2: dict[int, Tensor] = {}", True),
        ("    log_sigma2: float | None = None", False),
        ('{"noise": config.noise, "log_sigma2": config.log_sigma2}', False),
        ('sparsify(model, log_sigma2=-8.0, **{"log_sigma2": log_sigma2, "noise": noise})', False),
        ('idle |= {"noise", "log_sigma2", "kl_weight"}', False),
    ],
)
def test_a_spelling_is_seen(line: str, wrong: bool) -> None:
    assert spells(line) is wrong


# --- a planted answer ---


class Branches(nn.Module):
    """Scores from needed(x) + useless(z), where z is fresh noise; `dead` never runs."""

    def __init__(self) -> None:
        super().__init__()
        self.needed, self.useless, self.dead = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 8)
        self.out = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(torch.tanh(self.needed(x) + self.useless(torch.randn_like(x))))


@pytest.mark.parametrize("noise", ["lrt", "weight"])
def test_planted_branches_come_out(noise: str) -> None:
    """The useless one falls while the learning rate does: before, Adam's steps keep its weights up."""
    n, steps, lr = 1000, 400, 2e-2
    x = torch.randn(n, 8)
    scores = torch.tanh(x @ torch.randn(8, 8) * 0.5) @ torch.randn(8, 4)
    y = (scores + 0.3 * torch.randn(n, 4)).argmax(1)
    model = Branches()
    sparsify(model, noise=noise)
    theta, log_sigma2 = [*sparsified(model).values()], own_parameters(model)
    variational = {id(p) for p in (*theta, *log_sigma2)}
    host = [p for p in model.parameters() if id(p) not in variational]
    groups = [{"params": host}, {"params": theta}, {"params": log_sigma2, "eps": 1e-12}]
    optimiser = torch.optim.Adam(groups, lr=lr)
    for step in range(steps):
        for group in optimiser.param_groups:
            group["lr"] = lr * min(1.0, (steps - step) / (0.2 * steps))
        optimiser.zero_grad()
        with one_sample(model):
            loss = F.cross_entropy(model(x), y)
        (loss + min(1.0, step / (0.3 * steps)) / n * penalty(model)).backward()
        optimiser.step()
    density = {row["matrix"]: row["kept"]["3"] / row["numel"] for row in measure(model)}
    assert density["useless"] < 0.1 and density["dead"] < 0.01
    assert density["needed"] > 0.55

    def accuracy() -> float:
        return (model(x).argmax(1) == y).float().mean().item()

    model.eval()
    masked = accuracy()
    with unmasked(model):
        assert accuracy() == pytest.approx(masked, abs=0.03)
    assert masked > 0.75
    for branch, lost in ((model.useless, False), (model.needed, True)):
        with torch.no_grad():
            before = branch.weight.clone()
            branch.weight.zero_()
            assert (accuracy() < masked - 0.2) == lost
            branch.weight.copy_(before)
