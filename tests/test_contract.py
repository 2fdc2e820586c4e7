"""What every model keeps, ours and the next one: a new entry in MODELS gets all of these tests."""

import copy
import itertools

import pytest
import torch
import torch.nn.functional as F

import models
from dissect.data.sessions import Dataset, Sessions, split_validation
from dissect.runs.config import Config
from dissect.sparsevd import densify, sparsify
from dissect.training.evaluation import evaluate, metrics, prefixes_of
from dissect.training.loop import fit
from models import MODELS, Batch, check
from models.base import catalogue, encoded, session_vectors

V, D = 9, 8
SESSIONS = [[1, 2, 3, 2, 4], [5], [6, 6], [7, 8, 7, 8, 7], [9, 1, 2, 3, 4, 5, 6, 1, 2], [3, 2, 1], [4], [1, 2]]
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]
LEARNING = [name for name, cls in MODELS.items() if cls.learns]
# Every preset of every model that learns, in small.
CASES = [(name, preset) for name in LEARNING for preset in (None, *MODELS[name].presets)]
WITHOUT = [(name, role) for name in LEARNING for role in MODELS[name].removable]
# The levels of -LP that are nowhere the largest have no gradient.
WITHOUT_GRADIENT = {("attenmixer", "paper-LP"): "readout.query"}
# Nothing is nearer to a session than its own clicks, and a cosine does not know which of two items comes first. Before
# it has learnt, it reaches 17 to 26.
LEAST = {"core": 30}


def make(name, preset=None, device="cpu", seed=0, **more):
    torch.manual_seed(seed)
    options = dict(MODELS[name].presets[preset]) if preset else {}
    for option, small in (("dim", D), ("heads", 2), ("padded_length", 11)):
        if option in options or (option == "dim"):
            options[option] = small
    if name == "attenmixer":
        options["heads"] = 2
    model = MODELS[name](n_items=V, **{**options, **more}).to(device)
    return model.double() if device == "cuda" else model  # CUDA adds rows in any order


def vectors_of(model, sessions, device="cpu"):
    return session_vectors(model, model.item_states(), Batch.of(sessions, device)).detach()


def same(x, y):
    """Bit for bit on the CPU; on CUDA, where rows are added in any order, to within the rounding of doubles."""
    return torch.equal(x, y) if x.device.type == "cpu" else torch.allclose(x, y, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(("name", "preset"), CASES, ids=str)
class TestEveryPreset:
    def test_a_session_alone_is_what_it_is_in_a_batch(self, name, preset, device):
        model = make(name, preset, device).double().eval()
        for off in (None, *model.removable):
            model.switched_off = off
            together = vectors_of(model, SESSIONS, device)
            assert together.shape == (len(SESSIONS), D) and torch.isfinite(together).all()
            alone = torch.cat([vectors_of(model, [session], device) for session in SESSIONS])
            torch.testing.assert_close(alone, together)
            order = torch.randperm(len(SESSIONS), generator=torch.Generator().manual_seed(1)).tolist()
            torch.testing.assert_close(vectors_of(model, [SESSIONS[i] for i in order], device), together[order])

    def test_it_is_deterministic_in_evaluation_and_after_a_seed(self, name, preset, device):
        model = make(name, preset, device)
        torch.manual_seed(1)
        first = vectors_of(model, SESSIONS, device)
        torch.manual_seed(1)
        assert same(vectors_of(model, SESSIONS, device), first)
        model.eval()
        assert same(vectors_of(model, SESSIONS, device), vectors_of(model, SESSIONS, device))

    def test_gradients_reach_every_parameter(self, name, preset, device):
        model = make(name, preset, device)
        S = model.item_states()
        vectors, losses = encoded(model, S, Batch.of(SESSIONS, device))
        scores = F.linear(vectors.reshape(-1, D), *catalogue(model, S))
        (scores.logsumexp(1).sum() + sum(losses.values())).backward()
        for parameter, p in model.named_parameters():
            assert p.grad is not None and torch.isfinite(p.grad).all(), parameter
            left_out = WITHOUT_GRADIENT.get((name, preset))
            assert p.grad.abs().max() > 0 or (left_out and parameter.startswith(left_out)), parameter

    def test_its_matrices_are_declared_and_divide_into_their_blocks(self, name, preset, device):
        model = make(name, preset, device)
        assert check.check(model.cpu().float(), V).shape == (2, D)
        assert not check.without_role(model)
        absent = check.not_there(model)
        assert all(any(model.matrices[layer].is_of(part) for part in model.removable) for layer in absent)
        assert model.training and model.switched_off is None

    def test_saved_and_loaded_it_gives_the_same_vectors(self, name, preset, device):
        model, other = make(name, preset, device).eval(), make(name, preset, device, seed=1).eval()
        assert not same(vectors_of(model, SESSIONS, device), vectors_of(other, SESSIONS, device))
        other.load_state_dict(model.state_dict())
        assert same(vectors_of(model, SESSIONS, device), vectors_of(other, SESSIONS, device))

    def test_swapped_for_sparse_layers_and_back_it_is_the_same(self, name, preset, device):
        model = make(name, preset, device).eval()
        before = vectors_of(model, SESSIONS, device)
        swapped = copy.deepcopy(model)
        report = sparsify(swapped, log_sigma2=-30.0, refuse=False)
        for layer in {n for n in model.matrices if n not in check.not_there(model)} - {"items"}:
            assert any(f"{matrix}.".startswith(f"{layer}.") for matrix in report.swapped), layer  # a GRU has several
        torch.testing.assert_close(vectors_of(swapped, SESSIONS, device), before)
        back = densify(swapped)
        torch.testing.assert_close(vectors_of(back, SESSIONS, device), before)


def test_every_model_can_be_imported_from_models():
    assert {cls.__name__ for cls in MODELS.values()} <= {*models.__all__}


def test_a_check_that_fails_leaves_the_model_in_its_mode(monkeypatch):
    model = make("srgnn").eval()  # the first of what is tried is a training
    monkeypatch.setattr(model.readout, "forward", lambda h, clicks, uniform: h)
    with pytest.raises(ValueError, match="should return vectors"):
        check.check(model, V)
    assert not model.training and not model.readout.training and model.switched_off is None


@pytest.mark.parametrize(("name", "part"), WITHOUT, ids=str)
def test_a_model_without_a_part_has_none_of_its_matrices(name, part):
    model, reduced = make(name), make(name, without=(part,))
    gone = {layer for layer, matrix in model.matrices.items() if matrix.is_of(part)}
    layers = {layer for layer, _ in reduced.named_modules()}
    assert not gone & layers
    assert gone or model.state_dict().keys() > reduced.state_dict().keys()
    assert vectors_of(reduced, SESSIONS).shape == (len(SESSIONS), D)
    check.check(reduced, V)


def planted_log(seed=0):
    """Sessions in which item i is followed by i + 1: the last click tells all."""
    generator = torch.Generator().manual_seed(seed)
    starts = torch.randint(0, V, (160,), generator=generator).tolist()
    sessions = [[(start + step) % V + 1 for step in range(2 + start % 4)] for start in starts]
    return Dataset("planted", V, Sessions.from_lists(sessions[:120]), Sessions.from_lists(sessions[120:]))


@pytest.mark.parametrize("adam", [torch.optim.Adam, torch.optim.AdamW, torch.optim.SGD])
@pytest.mark.parametrize("name", LEARNING)
def test_a_plain_loop_trains_it(name, adam):
    """Nothing of dissect: PyTorch's loss and any optimiser."""
    data, model = planted_log(), make(name, dim=16)
    steep = 5.0 if name == "dhcn" else 0.5  # the gradients of means over layers are small
    optimiser = adam(model.parameters(), lr=steep if adam is torch.optim.SGD else 0.02)
    prefixes = prefixes_of(data.train)
    batch, losses = prefixes.batch(torch.arange(len(prefixes))), []
    for _ in range(45):  # at most: most need a few steps
        if losses and losses[-1] < 0.8 * losses[0]:
            return
        S = model.item_states()
        matrix, bias = catalogue(model, S)
        loss = F.cross_entropy(F.linear(session_vectors(model, S, batch), matrix, bias), batch.targets - 1)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]


@pytest.mark.parametrize("name", MODELS)
def test_it_learns_a_planted_log_through_the_loop_and_writes_a_run(name, tmp_path):
    data = planted_log()
    settings = {"where": "none", "schedule": "steps", "lr": 0.02, "max_steps": 120 if name in LEARNING else 0}
    settings |= {"batch_size": 32, **({"lr": 0.05} if name == "dhcn" else {})}
    config = Config(name, "planted", data.split_hash, {"dim": 16} if name in LEARNING else {}, **settings)
    options = {"attenmixer": {"heads": 2}, "dhcn": {"ssl": 0.0}}.get(name, {})
    summary = fit(lambda: MODELS[name](n_items=V, **config.model_options, **options), data, config, tmp_path, seed=1)
    ranks = metrics(evaluate(*_trained(name, data, config, options, tmp_path)))
    assert {m: summary["test"][m] for m in ranks} == ranks
    assert summary["test"]["mrr@20"] > LEAST.get(name, 60 if name in LEARNING else 20)  # baselines know no order


def _trained(name, data, config, options, run):
    from dissect.training.checkpoint import load_checkpoint

    model = MODELS[name](n_items=V, **config.model_options, **options)
    model.prepare(split_validation(data.train, config.held_out)[0])
    model.load_state_dict(load_checkpoint(run / "checkpoints" / "last.pt")["model"])
    return model, prefixes_of(data.test)


@pytest.mark.parametrize("name", MODELS)
def test_the_scores_of_the_catalogue_are_finite_and_depend_on_the_session(name):
    model = make(name) if name in LEARNING else MODELS[name](n_items=V)
    model.prepare(Sessions.from_lists(SESSIONS))
    scores = model.eval().scores(Batch.of(SESSIONS))
    assert scores.shape == (len(SESSIONS), V) and torch.isfinite(scores).all()
    differ = any(not torch.equal(a, b) for a, b in itertools.pairwise(scores))
    assert differ is (name != "pop")


@pytest.mark.parametrize(
    ("name", "options", "says"),
    [
        ("dsan", {"scale": -3.0}, "scale is above 0"),
        ("niser", {"scale": 0.0}, "scale is above 0"),
        ("attenmixer", {"scale": 0.0}, "scale is above 0"),
        ("attenmixer", {"preset": "official", "attention_dropout": 3.0}, "attention_dropout is from 0 to below 1"),
        ("srgnn", {"scale": 20.0}, "only with normalised"),
        ("gcsan", {"scale": 20.0}, "only with readout='attenmixer'"),
        ("narm", {"readout": "attenmixer", "session_dropout": 0.9}, "session_dropout=0.9: only with readout='narm'"),
    ],
)
def test_options_that_cannot_be_or_would_do_nothing_are_refused(name, options, says):
    given = dict(options)
    with pytest.raises(ValueError, match=says):
        MODELS[name](n_items=9, **{**MODELS[name].presets.get(given.pop("preset", ""), {}), "dim": 8, **given})


def test_options_that_are_fine():
    assert MODELS["core"](n_items=9, dim=101, encoder="ave").items.shape == (9, 101)  # its heads divide nothing
    assert MODELS["nextitnet"](n_items=9, dim=8, dilations=2, repeats=2).dilations == [2, 2]
    with pytest.raises(ValueError, match="levels=50 needs prefixes"):
        MODELS["narm"](n_items=9, dim=8, readout="attenmixer", levels=50).warnings(5)
