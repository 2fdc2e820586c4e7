"""Exports: the same scores from fewer weights, the folder, and what is refused."""

import copy
import json
import os
import shutil
import sys

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from torch import nn

import dissect
from dissect.cli import main
from dissect.data import catalog
from dissect.data.archive import sha256
from dissect.data.sessions import Dataset, Sessions
from dissect.errors import DataError, DissectError, UsageError
from dissect.experiment import export as exporting
from dissect.experiment import to_onnx
from dissect.runs import replace
from dissect.sparsevd import densify, sparsify
from dissect.sparsevd.compact import Compact, CompactGRU, compact, drop_unread, fold_constants, layers_of
from dissect.sparsevd.sparsifier import variational_layers
from dissect.training.evaluation import evaluate, prefixes_of
from dissect.training.smaller import LARGE, probes, scores_by, shrink
from models import MODELS, SRGNN, Batch
from models.padded import Scoring

V = 40
LEARN = [name for name, cls in MODELS.items() if cls.learns]


def sessions(count: int = 60, longest: int = 9, seed: int = 0) -> Sessions:
    random = np.random.default_rng(seed)
    return Sessions.from_lists([random.integers(1, V + 1, random.integers(2, longest)).tolist() for _ in range(count)])


def pruned(model: nn.Module, rows: float = 0.5, cols: float = 0.5, scattered: float = 0.2, seed: int = 0) -> nn.Module:
    """A model with SparseVD layers, in whose matrices shares of the rows, columns and single weights are pruned."""
    torch.manual_seed(seed)
    sparsify(model, refuse=False)
    for _, layer in variational_layers(model):
        for _, theta, log_sigma2 in layer.variational():
            theta.data.normal_(std=0.3)
            dead = torch.rand(theta.shape) < scattered
            dead |= torch.rand(len(theta), 1) < (rows if len(theta) > 1 else 0)
            dead |= torch.rand(theta.shape[1]) < cols
            log_sigma2.data = torch.where(dead, 20.0, -20.0)
    return model.eval()


def built(name: str, **options) -> nn.Module:
    torch.manual_seed(1)
    model = MODELS[name](V, **{"dim": 8, **options})
    model.prepare(sessions())
    return model


# --- layers ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("rows", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("cols", [0.0, 0.5, 1.0])
def test_a_compact_linear_computes_the_same(rows, cols, bias):
    model = pruned(nn.Sequential(nn.Linear(12, 10, bias=bias)), rows, cols, 0.0).double()
    x = torch.randn(3, 4, 12, dtype=torch.double)
    right = model(x)
    live = densify(copy.deepcopy(model))[0].weight != 0
    compact(model)
    assert isinstance(model[0], Compact)
    torch.testing.assert_close(model(x), right, rtol=1e-12, atol=1e-12)
    assert model[0].size == (int(live.any(1).sum()), int(live.any(0).sum()))
    model[0].spread_small()
    torch.testing.assert_close(model(x), right, rtol=1e-12, atol=1e-12)


def test_a_layer_at_two_places_is_compact_at_both():
    model = nn.Sequential(layer := nn.Linear(4, 4), nn.ReLU(), layer)
    sparsify(model)
    assert compact(model) == [] and isinstance(model[0], Compact) and model[2] is model[0]


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("first", [True, False])
def test_a_compact_gru_computes_the_same(bias, first):
    model = nn.ModuleDict({"gru": nn.GRU(12, 10, bias=bias, batch_first=first)})
    pruned(model, 0.3, 0.5).double()
    x, h = torch.randn(5, 4, 12, dtype=torch.double), torch.randn(1, 5 if first else 4, 10, dtype=torch.double)
    packed = nn.utils.rnn.pack_padded_sequence(x, [3] * (5 if first else 4), batch_first=first)
    right = [model["gru"](x), model["gru"](x, h), model["gru"](packed, h)]
    compact(model)
    assert isinstance(model["gru"], CompactGRU) and model["gru"].size[1] < 12
    found = [model["gru"](x), model["gru"](x, h), model["gru"](packed, h)]
    for mine, theirs in zip(found, right, strict=True):
        out, other = (getattr(each[0], "data", each[0]) for each in (mine, theirs))
        torch.testing.assert_close(out, other, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(mine[1], theirs[1], rtol=1e-12, atol=1e-12)


def test_units_of_a_gru_stay_if_one_that_stays_reads_them():
    """Unit 0 reads unit 1, unit 1 reads unit 2; nothing reads unit 3 but itself."""
    gru = nn.GRU(2, 4, batch_first=True).double()
    hh = torch.zeros(4, 4)
    hh[0, 1] = hh[1, 2] = hh[3, 3] = 1.0
    with torch.no_grad():
        gru.weight_hh_l0.copy_(hh.repeat(3, 1))
    x = torch.randn(5, 7, 2, dtype=torch.double)
    small = CompactGRU.of(gru)
    small.drop(torch.tensor([False, True, True, True]))
    assert small.rows.tolist() == [0, 1, 2]
    torch.testing.assert_close(small(x)[0][..., 0], gru(x)[0][..., 0])


class Between(nn.Module):
    """Code between layers: the constant of `first` is read through a sigmoid, and only a half of `second` is read."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.third = nn.Linear(4, 6), nn.Linear(6, 8), nn.Linear(4, 1)

    def forward(self, x):
        return self.third(torch.relu(self.second(torch.sigmoid(self.first(x))))[:, ::2])


def test_constants_are_folded_and_what_nothing_reads_goes():
    model = Between()
    sparsify(model)
    for _, layer in variational_layers(model):
        layer.log_sigma2.data.fill_(-20.0)
    model.first.log_sigma2.data[:4] = 20.0  # four of six rows are dead
    model.third.log_sigma2.data[0, 0] = 20.0  # row 0 of `second` is not read
    model.double().eval()
    x = torch.randn(7, 4, dtype=torch.double)
    right = model(x)
    compact(model)
    dyed = torch.full_like(x, torch.nan)
    assert fold_constants(model, lambda: model(dyed), lambda: model(x)) == 4
    assert drop_unread(model, lambda: model(x)) == 5
    assert {name: layer.size for name, layer in layers_of(model).items()} == {
        "first": (2, 4), "second": (3, 2), "third": (1, 3)
    }  # fmt: skip
    torch.testing.assert_close(model(x), right, rtol=1e-12, atol=1e-12)


def test_a_row_with_a_gradient_of_zero_may_be_read():
    """The relu is off at these inputs, so the gradient is zero: only the dye knows that the row is read."""
    model = nn.Sequential(nn.Linear(3, 1), nn.ReLU(), nn.Linear(1, 1)).double()
    model[0].bias.data.fill_(-100.0)
    sparsify(model, log_sigma2=-20.0)
    compact(model.eval())
    x = torch.randn(6, 3, dtype=torch.double)
    assert drop_unread(model, lambda: model(x)) == 0
    assert not torch.equal(model(1000 * x), model(x))


# --- models ------------------------------------------------------------------------------------------------

MORE = {"gru4rec": {"layers": 1}, "attenmixer": {"heads": 2}, "core": {"heads": 2, "inner": 8, "layers": 1}}


@pytest.mark.parametrize("name", LEARN)
def test_scores_of_each_model_stay_the_same(name):
    model = pruned(built(name, **MORE.get(name, {})), 0.4, 0.4)
    made = shrink(model, probes(sessions(200), V), item_width=True)
    batch = Batch.of([[1], [2, 3, 2], [5, 6, 7, 8, 5, 6], [9] * 4])
    right, found = model.scores(batch), made.served.scores(batch)
    assert float((found - right).abs().max()) <= 2e-6 * float(right.abs().max())
    rank = [evaluate(each, prefixes_of(sessions(40, seed=9))) for each in (model, made.served)]
    assert (rank[0] == rank[1]).mean() > 0.99
    assert any(left != whole for whole, left in made.sizes.values())


@pytest.mark.parametrize("name", LEARN)
def test_of_a_model_in_which_nothing_is_pruned_all_that_is_read_stays(name):
    model = built(name, **MORE.get(name, {})).eval()
    right = model.scores(batch := Batch.of([[1], [2, 3, 2], [5, 6, 7, 8, 5, 6], [9] * 4]))
    found = shrink(model, probes(sessions(200), V)).served.scores(batch)
    assert float((found - right).abs().max()) <= 2e-6 * float(right.abs().max())


@pytest.mark.parametrize(("name", "part"), [("attenmixer", "attention"), ("sgnnhn", "propagation"), ("gcsan", "gnn")])
def test_a_part_whose_matrices_are_dead_is_left_out(name, part):
    model = built(name, **MORE.get(name, {}))
    sparsify(model, log_sigma2=-20.0)
    dead = {"attenmixer": "query.|attend_", "sgnnhn": "gate_ih", "gcsan": "nothing"}[name].split("|")
    for layer_name, layer in variational_layers(model):
        if any(each in layer_name for each in dead):
            layer.log_sigma2.data.fill_(30.0)
    made = shrink(model.eval(), probes(sessions(), V))
    assert made.part == (None if name == "gcsan" else part)
    assert bool(made.unused) == (name != "gcsan")


def test_item_width_goes_where_no_score_needs_it():
    """Rows of the transformation are dead: that number of each vector is its bias, a constant for each item."""
    model = built("srgnn")
    sparsify(model, log_sigma2=-20.0)
    for name, layer in variational_layers(model):
        layer.log_sigma2.data[:, [1, 4]] = 30.0  # nobody reads columns 1 and 4
        if name == "readout.transform":
            layer.log_sigma2.data[:, [9, 12]] = 30.0
            layer.log_sigma2.data[[0, 1, 4]] = 30.0
    model.readout.transform.bias.data = torch.arange(8.0)
    made = shrink(model.eval(), probes(sessions(), V), item_width=True)
    assert made.served.places.tolist() == [2, 3, 5, 6, 7]
    assert made.read.tolist() == [0, 2, 3, 5, 6, 7]  # sessions read column 0
    S = model.items.detach()
    torch.testing.assert_close(made.served.bias, S[:, 1] * 1 + S[:, 4] * 4)
    whole = shrink(model, probes(sessions(), V))
    assert whole.served.places is None and len(whole.read) == 8


@pytest.mark.parametrize("item_width", [False, True])
@pytest.mark.parametrize("shared", [False, True])
def test_a_layer_that_makes_the_candidates_is_exported(item_width, shared):
    """No session vector needs it, so the smaller model cannot make the catalogue again: it is kept."""

    class Made(SRGNN):
        def __init__(self):
            super().__init__(V, dim=8)
            self.made = nn.Linear(8, 8)

        def candidates(self, S):
            return (self.readout.transform(torch.cat([S, S], 1)) if shared else self.made(S)), None

    model = pruned(Made(), rows=0.2, cols=0.2)
    made, batch = shrink(model, probes(sessions(), V), item_width), Batch.of([[1], [2, 3, 2]])
    assert not made.derived or shared
    scores = model.encode(model.item_states(), batch) @ model.candidates(model.item_states())[0].t()
    torch.testing.assert_close(made.served.scores(batch), scores, rtol=1e-4, atol=1e-5)


def test_a_transformer_of_torch_is_exported():
    """In evaluation its fast path reads the weights of its layers, so these stay whole."""

    class Transforms(SRGNN):
        def __init__(self):
            super().__init__(V, dim=8)
            self.block = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)

        def encode(self, S, batch):
            return self.block(super().encode(S, batch)[:, None])[:, 0]

    model, batch = pruned(Transforms()), Batch.of([[1], [2, 3, 2]])
    made = shrink(model, probes(sessions(), V))
    assert {"block.linear1", "block.linear2"} <= set(made.whole) and "readout.transform" in made.sizes
    with torch.no_grad():
        scores = model.encode(model.items, batch) @ model.items.t()
        torch.testing.assert_close(made.served.scores(batch), scores, rtol=1e-4, atol=1e-5)


def test_a_model_that_reads_its_layers_is_refused_with_the_reason(there, tmp_path, monkeypatch):
    def fails(*_):
        raise AttributeError("'CompactGRU' object has no attribute 'num_layers'")

    monkeypatch.setattr(exporting, "shrink", fails)
    code, _, err = invoke("export", there["sparse"], "--out", tmp_path / "out", "--quiet")
    assert code == 1 and "cannot be made smaller: AttributeError: 'CompactGRU'" in " ".join(err.split())
    assert not (tmp_path / "out").exists()


def test_a_model_that_is_all_dead_gives_each_session_the_same_scores():
    model = built("srgnn")
    sparsify(model, log_sigma2=30.0)
    made = shrink(model.eval(), probes(sessions(), V), item_width=True)
    assert made.served.matrix.shape == (V, 0) and not len(made.read)
    batch = Batch.of([[1], [2, 3, 2]])
    torch.testing.assert_close(made.served.scores(batch), model.scores(batch))


def test_a_single_vector_is_multiplied_right():
    matrix, bias = torch.randn(LARGE // 64 + 1, 64), torch.randn(LARGE // 64 + 1)
    vector = torch.randn(1, 64)
    torch.testing.assert_close(scores_by(vector, matrix, bias), vector @ matrix.t() + bias, rtol=1e-4, atol=1e-4)


def test_what_compares_its_states_is_refused():
    """NaN compares as false, so the dye does not find that the row matters: the vectors tell."""

    class Sly(SRGNN):
        def encode(self, S, batch):
            vectors = super().encode(S, batch)
            return torch.where(vectors > vectors.mean(), 1.0, 0.0)

    model = Sly(V, dim=8)
    sparsify(model, log_sigma2=-20.0)
    with pytest.raises(ValueError, match="not those of the whole one"):
        shrink(model.eval(), probes(sessions(), V))


# --- as plain tensors ------------------------------------------------------------------------------------------

PADDED = ["srgnn", "niser", "gcsan", "sgnnhn", "attenmixer", "narm", "core", "stamp"]
SESSIONS = [[1], [2, 3, 2], [5, 6, 7, 8, 5, 6], [9] * 4, [1, 2, 1, 2, 3, 3], [4, *range(1, 13), 4]]


@pytest.mark.parametrize("name", [name for name in PADDED if name in MODELS])
def test_a_batch_of_padded_tensors_gives_the_same_scores(name):
    model = built(name, **MORE.get(name, {})).eval()
    for layer in model.modules():
        if isinstance(layer, nn.Linear):
            layer.weight.data.normal_(std=0.5)
    scoring = Scoring(shrink(model, probes(sessions(), V)).served)
    with torch.no_grad():
        for batch in (SESSIONS, SESSIONS[:1], SESSIONS[3:]):
            right = model.scores(Batch.of(batch))
            torch.testing.assert_close(scoring(*to_onnx.padded(batch)), right, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_an_onnx_file_takes_any_batch(there, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    code, _, err = invoke("export", there["sparse"], "--out", tmp_path / "out", "--item-width", "--onnx", "--quiet")
    assert code == 0, err
    session = onnxruntime.InferenceSession(tmp_path / "out" / "model.onnx", providers=["CPUExecutionProvider"])
    assert "model.onnx gives the same" in (tmp_path / "out" / "README.txt").read_text()
    model = dissect.load_export(tmp_path / "out")
    for batch in (SESSIONS, SESSIONS[:1], SESSIONS[:2] * 30):
        items, lengths = to_onnx.padded(batch)
        (found,) = session.run(None, {"items": items.numpy(), "lengths": lengths.numpy()})
        torch.testing.assert_close(torch.tensor(found), model.scores(Batch.of(batch)), rtol=1e-4, atol=1e-5)


def test_what_padded_tensors_cannot_say_is_refused_as_onnx(tmp_path):
    pytest.importorskip("onnxruntime")
    model = shrink(built("lessr").eval(), probes(sessions(), V)).served
    with pytest.raises(UsageError, match="lessr cannot be written as ONNX: it needs"):
        to_onnx.write_onnx(model, "lessr", tmp_path / "model.onnx", SESSIONS)
    assert not (tmp_path / "model.onnx").exists()


def test_a_layout_that_padded_tensors_lack_is_named_by_its_option():
    options = {**MODELS["attenmixer"].presets["official"], "dim": 8, "heads": 2, "padded_length": 5}
    scoring = Scoring(MODELS["attenmixer"](n_items=V, **options).eval())
    with pytest.raises(NotImplementedError, match=r"the last 4 clicks only \(its padded_length - 1\)"):
        scoring(*to_onnx.padded([[1, 2], [3]]))


def test_onnx_without_its_packages_says_what_to_install(there, tmp_path, monkeypatch):
    monkeypatch.setattr(to_onnx, "NEEDED", ("no_such_package",))
    code, _, err = invoke("export", there["sparse"], "--out", tmp_path / "out", "--onnx")
    assert code == 2 and "pip install -e '.[onnx]'" in err


# --- the folder ----------------------------------------------------------------------------------------------


def invoke(*words):
    words = [str(word) for word in words]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["dissect", *words])  # goes on record
        result = CliRunner().invoke(main, words, prog_name="dissect")
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout, result.stderr


def shop(seed: int = 0) -> Dataset:
    names = [f"sku-{i}" for i in range(1, V + 1)]
    return Dataset("shop", V, sessions(120, seed=seed), sessions(30, seed=seed + 1), identifiers=names)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder with data, a dissected run, a dense one, a baseline, one of an own model, and exports. Read it only."""
    folder = tmp_path_factory.mktemp("made")
    catalog.save(shop(), folder / "data")
    own = folder / "own.py"
    own.write_text("from models import SRGNN\n\nclass Own(SRGNN):\n    pass\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DISSECT_DATA", str(folder / "data"))
        patch.chdir(folder)
        words = ["--dataset", "shop", "--device", "cpu", "--quiet", "--batch-size", 32, "--dim", 8]
        runs = {
            "sparse": ["run", "--literal", "--seed", 1, "--max-steps", 40, "--kl-weight", 2, "--lr", 0.03],
            "dense": ["train", "srgnn", "--epochs", 1],
            "own": ["train", f"{own}:Own", "--epochs", 1],
        }
        for name, verb in runs.items():
            assert invoke(*verb, *words, "--name", name)[0] == 0
        assert invoke("train", "pop", "--dataset", "shop", "--name", "base", "--quiet")[0] == 0
        found = {name: next((folder / "runs").glob(f"{name}-*")) / "s1" for name in [*runs, "base"]}
        for name in ("sparse", "dense"):
            code, out, err = invoke("export", found[name], "--out", folder / f"{name}-out", "--item-width", "--json")
            assert code == 0, err
            found[f"{name}-record"] = json.loads(out)
            found[f"{name}-out"] = folder / f"{name}-out"
    return {**found, "folder": folder}


@pytest.fixture
def there(made, monkeypatch):
    monkeypatch.setenv("DISSECT_DATA", str(made["folder"] / "data"))
    monkeypatch.chdir(made["folder"])
    return made


def test_an_export_recommends_and_ranks_like_its_run(there, tmp_path):
    for kind in ("sparse", "dense"):
        for words in (["--session", "1,2,3"], ["--session", "sku-4,sku-9", "--identifiers", "--unseen"]):
            answers = [
                json.loads(invoke("recommend", there[which], *words, "--k", 5, "--json")[1])["items"]
                for which in (kind, f"{kind}-out")
            ]
            assert [row["item"] for row in answers[0]] == [row["item"] for row in answers[1]]
            for mine, theirs in zip(*answers, strict=True):
                assert mine["score"] == pytest.approx(theirs["score"], rel=1e-4, abs=1e-6)
        ranks = []
        for which in (kind, f"{kind}-out"):
            code, out, _ = invoke("evaluate", there[which], "--json", "--ranks", tmp_path / "r.npz")
            assert code == 0
            ranks.append((json.loads(out)["mrr@20"], np.load(tmp_path / "r.npz")["rank"]))
        assert ranks[0][0] == pytest.approx(ranks[1][0], abs=0.2)
        assert (ranks[0][1] == ranks[1][1]).mean() > 0.98
    file = tmp_path / "sessions.txt"
    file.write_text("1,2,3\n7\n")
    assert invoke("recommend", there["sparse-out"], "--sessions", file)[1].count("\n") == 41


def test_an_option_that_is_infinite_is_exported(there, tmp_path):
    words = ["--dataset", "shop", "--device", "cpu", "--quiet", "--dim", 8, "--max-steps", 2, "--runs-dir", tmp_path]
    assert invoke("train", "attenmixer", "--preset", "paper-LP", "--name", "lp", *words)[0] == 0
    run = next(tmp_path.glob("lp-*")) / "s1"
    code, _, err = invoke("export", run, "--out", tmp_path / "out")
    assert code == 0, err
    answers = [invoke("recommend", which, "--session", "1,2,3", "--json")[1] for which in (run, tmp_path / "out")]
    assert len({str([row["item"] for row in json.loads(each)["items"]]) for each in answers}) == 1


def test_a_layer_that_stands_at_two_places_is_exported(there, tmp_path):
    own = tmp_path / "shared.py"
    own.write_text(
        "from models import SRGNN\n\nclass Shared(SRGNN):\n    def __init__(self, n_items, dim=8):\n"
        "        super().__init__(n_items, dim)\n        self.again = self.readout.transform\n"
    )
    words = ["--dataset", "shop", "--device", "cpu", "--quiet", "--dim", 8, "--max-steps", 2, "--runs-dir", tmp_path]
    assert invoke("train", f"{own}:Shared", "--name", "shared", *words)[0] == 0
    run = next(tmp_path.glob("shared-*")) / "s1"
    found = dissect.export(run, tmp_path / "out", quiet=True)
    assert found["accuracy"]["ranks_that_differ"] <= 2


def test_python_exports_and_loads(there, tmp_path):
    found = dissect.export(there["sparse"], tmp_path / "out", quiet=True)
    assert found["layers"] == there["sparse-record"]["layers"]
    model = dissect.load_export(tmp_path / "out")
    table = dissect.recommend(tmp_path / "out", [[1, 2], ["sku-3"]], k=3)
    scores = model.scores(Batch.of([[1, 2], [3]]))
    assert table["item"].tolist() == (scores.topk(3).indices + 1).flatten().tolist()
    held = sum(tensor.untyped_storage().nbytes() for tensor in model.model.parameters())
    assert held <= 4 * (found["parameters"]["left_beside_items"] + len(found["unread"]))


def test_the_record_says_what_was_left_out(there):
    record = there["sparse-record"]
    assert record["difference"] <= exporting.SAME
    assert record["accuracy"]["whole"]["mrr@20"] == pytest.approx(record["accuracy"]["export"]["mrr@20"], abs=0.1)
    assert any(layer["left"] != layer["whole"] for layer in record["layers"].values())
    assert record["parameters"]["left"] < record["parameters"]["whole"]
    assert {*os.listdir(there["sparse-out"])} == {*exporting.OURS} - {"model.onnx"}
    assert set(record["sha256"]) == {"model.safetensors", "data.json", "items.json"}
    assert there["dense-record"]["layers"] == {}
    readme = (there["sparse-out"] / "README.txt").read_text()
    assert "dissect recommend" in readme and max(map(len, readme.splitlines())) <= 120


def test_the_screen_fits_80_columns(there, tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    for kind in ("sparse", "dense"):
        code, out, _ = invoke("export", there[kind], "--out", tmp_path / kind, "--quiet")
        assert code == 0
        assert max(map(len, out.splitlines())) <= 80
        assert ("No row or column is dead" in " ".join(out.split())) == (kind == "dense")
        assert "MRR@20 on test" in out


def test_an_export_of_an_own_model_runs_no_file_that_the_user_never_named(there, tmp_path, monkeypatch):
    assert invoke("export", there["own"], "--out", tmp_path / "out", "--quiet")[0] == 0
    assert invoke("recommend", tmp_path / "out", "--session", "1,2", "--quiet")[0] == 0
    monkeypatch.setenv("DISSECT_STATE", str(tmp_path / "another-user"))
    code, _, err = invoke("recommend", tmp_path / "out", "--session", "1,2", "--quiet")
    assert code == 3 and "you have never named it" in err


# --- refusals ------------------------------------------------------------------------------------------------


def test_what_cannot_be_exported_is_refused(there, tmp_path):
    code, _, err = invoke("export", there["base"], "--out", tmp_path / "out")
    assert code == 2 and "baseline" in err
    code, _, err = invoke("export", there["sparse-out"], "--out", tmp_path / "out")
    assert code == 2 and "is an export already" in err
    code, _, err = invoke("evaluate", there["sparse-out"], "--keep")
    assert code == 2 and "is an export" in err
    unfinished = tmp_path / "runs" / there["sparse"].parent.name
    shutil.copytree(there["sparse"].parent, unfinished)
    (unfinished / "s1" / "DONE").unlink()
    code, _, err = invoke("export", unfinished / "s1", "--out", tmp_path / "out")
    assert code == 3 and "not finished" in err and "dissect resume" in err
    assert not (tmp_path / "out").exists()


def test_another_split_is_refused(there, tmp_path):
    catalog.save(shop(seed=5), tmp_path / "data")
    code, _, err = invoke("export", there["sparse"], "--out", tmp_path / "out", "--data-dir", tmp_path / "data")
    assert code == 3 and "is not the one of the run" in err
    code, _, err = invoke("evaluate", there["sparse-out"], "--data-dir", tmp_path / "data")
    assert code == 3 and "is not the one of the run" in err
    assert not (tmp_path / "out").exists()


def test_an_export_without_its_record_is_said_to_lack_it(there, tmp_path):
    out = tmp_path / "out"
    shutil.copytree(there["sparse-out"], out)
    (out / "export.json").unlink()
    code, _, err = invoke("recommend", out, "--session", "1,2")
    assert code == 3 and "is no export: it has no export.json." in err
    (out / "model.safetensors").unlink()
    assert invoke("recommend", out, "--session", "1,2")[0] == 2


def test_a_sentence_about_a_record_has_one_full_stop(there, tmp_path):
    out = tmp_path / "out"
    shutil.copytree(there["sparse-out"], out)
    found = json.loads((out / "export.json").read_text())
    found["config"]["model"] = "mine.py:Mine"  # a file, and nothing says which
    (out / "export.json").write_text(json.dumps(found))
    code, _, err = invoke("recommend", out, "--session", "1,2")
    assert code == 3 and "its SHA-256 is missing.\n" in err


def test_equal_scores_are_called_equal():
    assert exporting.sameness(0.0) == "are equal"
    assert exporting.sameness(2.3e-7) == "differ by 2e-07 of a session's largest at most"


@pytest.mark.parametrize("folder", [None, 3, [], True])
def test_what_is_no_path_is_no_export(folder):
    with pytest.raises(UsageError, match="folder is the path of an export; it cannot be"):
        dissect.load_export(folder)


def test_the_current_folder_can_hold_an_export(there, tmp_path, monkeypatch):
    """It was written, and then said to be missing."""
    monkeypatch.chdir(tmp_path)
    assert dissect.export(there["sparse"], ".", quiet=True)["n_items"] and (tmp_path / "export.json").is_file()


def test_only_our_own_folders_are_replaced(there, tmp_path):
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.txt").write_text("years of work")
    for words in ([], ["--force"]):
        code, _, err = invoke("export", there["sparse"], "--out", mine, *words)
        assert code == 2 and "do not belong to an export: thesis.txt" in err
    assert (mine / "thesis.txt").read_text() == "years of work"
    out = tmp_path / "out"
    shutil.copytree(there["sparse-out"], out)
    code, _, err = invoke("export", there["dense"], "--out", out)
    assert code == 2 and "--force" in err
    assert invoke("export", there["dense"], "--out", out, "--force", "--quiet")[0] == 0
    assert json.loads((out / "export.json").read_text())["layers"] == {}
    (out / "thesis.txt").write_text("years of work")
    code, _, err = invoke("export", there["dense"], "--out", out, "--force")
    assert code == 2 and "do not belong to an export: thesis.txt." in err
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_files_of_others_with_names_of_ours_stay(there, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    for name in ("export.json", "data.json", "README.txt"):
        (out / name).write_text("{}")
    code, _, err = invoke("export", there["dense"], "--out", out, "--force")
    assert code == 2 and "do not belong to an export" in err and len(list(out.iterdir())) == 3


@pytest.mark.parametrize("words", [[], ["--force"]])
def test_what_came_while_it_was_exported_stays(there, tmp_path, monkeypatch, words):
    out, times = tmp_path / "out", exporting.times

    def slow(*about):
        if not out.exists():
            out.mkdir()
            (out / "thesis.txt").write_text("years of work")
        return times(*about)

    monkeypatch.setattr(exporting, "times", slow)
    code, _, err = invoke("export", there["dense"], "--out", out, *words)
    assert code == 2 and "do not belong to an export: thesis.txt" in err
    assert (out / "thesis.txt").read_text() == "years of work" and list(tmp_path.iterdir()) == [out]


def test_of_two_exports_to_one_place_the_first_stays(there, tmp_path, monkeypatch):
    out, times, require = tmp_path / "out", exporting.times, replace.require_folder

    def slow(*about):
        if not out.exists():
            shutil.copytree(there["sparse-out"], out)
        return times(*about)

    monkeypatch.setattr(exporting, "times", slow)
    code, _, err = invoke("export", there["dense"], "--out", out)
    assert code == 2 and "--force" in err
    before = (out / "export.json").read_bytes()
    monkeypatch.setattr(replace, "require_folder", lambda out, *how: None if out.exists() else require(out, *how))
    code, _, err = invoke("export", there["dense"], "--out", out)  # it came after the last look
    assert code == 1 and "not empty" in err
    assert (out / "export.json").read_bytes() == before and list(tmp_path.iterdir()) == [out]


@pytest.mark.parametrize(
    "damage", ["cut", "flipped", "gone", "items", "record", "layers", "config", "pickle", "many", "wide"]
)
def test_a_damaged_export_is_refused(there, tmp_path, damage):
    out = tmp_path / "out"
    shutil.copytree(there["sparse-out"], out)
    weights, record = out / "model.safetensors", json.loads((out / "export.json").read_text())
    raw = weights.read_bytes()
    if damage == "cut":
        weights.write_bytes(raw[:-100])
    elif damage == "flipped":
        weights.write_bytes(raw[:-1] + bytes([raw[-1] ^ 1]))
    elif damage == "gone":
        weights.unlink()
    elif damage == "items":
        (out / "items.json").write_text('{"schema": 1, "identifiers": [1]}')
    elif damage == "record":
        (out / "export.json").write_text('{"kind": "something else"}')
    elif damage == "pickle":
        torch.save({"table": torch.zeros(2)}, weights)
        record["sha256"]["model.safetensors"] = sha256(weights)
    elif damage == "layers":
        name = next(iter(record["layers"]))
        record["layers"][name]["left"] = [3, 1]
    else:
        record |= {"many": {"n_items": 2**30}, "wide": {"dim": 2**30}}.get(damage, {})
        record["config"]["model_options"]["dim"] = 9
    if damage in ("pickle", "layers", "config", "many", "wide"):
        (out / "export.json").write_text(json.dumps(record))
    code, _, err = invoke("recommend", out, "--session", "1,2")
    assert code == 3 and ("dissect export RUN" in err or "items.json names" in err)
    with pytest.raises(DataError) as error:
        dissect.load_export(out)
    assert ("1,073,741,824" in error.value.message) == (damage in ("many", "wide"))  # no memory is taken


def test_scores_that_differ_are_not_exported(there, tmp_path, monkeypatch):
    monkeypatch.setattr(exporting, "SAME", 0.0)
    with pytest.raises(DissectError, match="Nothing was exported: scores would differ"):
        dissect.export(there["sparse"], tmp_path / "out", quiet=True, item_width=True)
    assert not (tmp_path / "out").exists()


def test_a_group_of_several_seeds_needs_one(there, tmp_path):
    with pytest.raises(UsageError):
        dissect.export("no-such-run", tmp_path / "out")
