"""How much of a role is dissected: counted, recorded, and said wherever a density is."""

import json
import textwrap
import warnings
from types import SimpleNamespace

import pandas as pd
import pytest
import torch
from torch import nn
from torch.nn.utils import weight_norm
from torch.nn.utils.parametrizations import weight_norm as parametrised_weight_norm

from analyses.coverage import coverage as coverage_of_runs
from analyses.coverage import read_coverage
from dissect.errors import DataError
from dissect.runs import files
from dissect.sparsevd import coverage, declared_for, in_words, shares, sparsify
from dissect.training.loop import run_whole
from models import MODELS
from models.base import Matrix
from models.batch import Batch

P = Matrix("propagation", "gnn")
A = Matrix("attention", "readout")
D = 4


def old_weight_norm(layer):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it is the old kind, by a hook
        return weight_norm(layer)


def covered(model, declared, n_items=1000, **more):
    report = sparsify(model, **more, refuse=False)
    return {row["matrix"]: row for row in coverage(model, declared, report.left_out, n_items)}


class OwnAttention(nn.MultiheadAttention):
    """A subclass may do anything."""


# What a role may consist of beside a Linear -> its weights of two dimensions or more, and a word of the reason.
PARTS = {
    "rnn": (lambda: nn.RNN(D, D, 2), 4 * D * D, "RNN"),
    "attention": (lambda: nn.MultiheadAttention(D, 2), 0, ""),
    "own attention": (lambda: OwnAttention(D, 2), 4 * D * D, "derived from"),
    "transformer": (lambda: nn.TransformerEncoderLayer(D, 2, 8), 0, ""),
    "both ways": (lambda: nn.LSTM(D, D, bidirectional=True), 0, ""),
    "weight norm": (lambda: parametrised_weight_norm(nn.Linear(D, D)), D * D, "computed from other parameters"),
    "old weight norm": (lambda: old_weight_norm(nn.Linear(D, D)), D * D, "computed from other parameters"),
    "bilinear": (lambda: nn.Bilinear(D, D, D), D**3, "Bilinear"),
    "convolution": (lambda: nn.ConvTranspose2d(D, D, 3), 9 * D * D, "ConvTranspose2d"),
    "table": (lambda: nn.Embedding(7, D), 7 * D, "Embedding"),
    "parameter": (lambda: nn.Parameter(torch.ones(D, 3)), 3 * D, "a parameter of"),
    "recurrent": (lambda: nn.GRU(D, D), 0, ""),
}


@pytest.mark.parametrize("part", PARTS)
def test_weights_that_are_not_dissected_are_counted_with_the_reason(part):
    make, dense, reason = PARTS[part]
    model = nn.Module()
    model.part, model.map = make(), nn.Linear(D, D)
    rows = covered(model, {"part": P, "map": P})
    whole = rows["part"]["numel"]
    assert whole - rows["part"]["covered"] == dense and reason in rows["part"]["reason"]
    assert (rows["map"]["numel"], rows["map"]["covered"], rows["map"]["reason"]) == (D * D, D * D, "")
    share = shares(rows.values(), "role")["propagation"]
    assert (share["weights"], share["dissected"]) == (whole + D * D, whole + D * D - dense)
    assert share["share"] == pytest.approx(1 - dense / (whole + D * D))
    assert set(share["dense"]) == ({"part"} if dense else set())
    undeclared = covered(nn.ModuleDict({"other": model}), {})
    assert sum(row["numel"] for row in undeclared.values()) == whole + D * D
    assert not any(row["declared"] for row in undeclared.values())


def test_a_weight_goes_by_its_own_name_its_layers_or_what_holds_it():
    model = nn.ModuleDict({"block": nn.Sequential(nn.Linear(D, D), nn.GRU(D, D)), "rnn": nn.GRU(D, D)})
    declared = {"block": P, "rnn.weight_ih_l0": A, "block.1.weight_hh_l0": A}
    rows = covered(model, declared)
    assert {name: (row["role"], row["numel"]) for name, row in rows.items()} == {
        "block": ("propagation", D * D + 3 * D * D),
        "block.1.weight_hh_l0": ("attention", 3 * D * D),
        "rnn.weight_ih_l0": ("attention", 3 * D * D),
        "rnn": ("other", 3 * D * D),
    }
    assert declared_for("block.0", declared) is P and declared_for("block.1.weight_hh_l0", declared) is A
    assert declared_for("block.1.weight_ih_l0", declared) is P and declared_for("blocks.0", declared) is None
    assert declared_for("map", {"map.weight": A}) is A  # a Linear, declared by its parameter


def test_what_is_no_weight_matrix_is_not_counted():
    model = nn.ModuleDict({"map": nn.Linear(D, D), "norm": nn.LayerNorm((3, D)), "lazy": nn.LazyLinear(3)})
    model.register_parameter("table", nn.Parameter(torch.ones(50, D)))
    model.register_parameter("bias_along", nn.Parameter(torch.ones(2, D)))
    model.register_parameter("positions", nn.Parameter(torch.ones(20, D)))
    assert covered(model, {"map": P}, n_items=49).keys() == {"map", "positions"}
    declared = covered(model, {"map": P, "bias_along": P, "table": A}, n_items=49)
    assert declared["bias_along"]["numel"] == 2 * D and declared["table"]["numel"] == 50 * D


def test_a_shared_weight_counts_for_the_role_that_its_density_counts_for():
    model = nn.ModuleDict({"a": nn.Linear(D, D), "b": nn.Linear(D, D), "c": nn.Linear(D, D)})
    model["b"].weight = model["a"].weight
    rows = covered(model, {"a": P, "b": A, "c": A})
    assert (rows["a"]["covered"], rows["b"]["covered"], rows["b"]["numel"]) == (D * D, 0, D * D)
    assert rows["b"]["reason"] == "its weight is that of a, which counts as propagation"
    model = nn.ModuleDict({"a": nn.Linear(D, D), "b": nn.Linear(D, D)})
    model["b"].weight = model["a"].weight
    assert covered(model, {"a": P, "b": P}).keys() == {"a"}


@pytest.mark.parametrize("name", [name for name, cls in MODELS.items() if cls.learns])
def test_our_own_models_are_dissected_whole(name):
    batch = Batch.of([[3, 1, 2, 1], [5, 4], [6]])
    for preset in MODELS[name].presets.values():
        model = MODELS[name](n_items=100, **{**preset, "dim": 8})
        rows = covered(model, model.matrices, 100, probe=lambda model=model: run_whole(model, batch))
        assert rows.keys() == set(model.matrices)
        assert all(row["covered"] == row["numel"] > 0 for row in rows.values())


def test_shares_in_words_do_not_round_a_part_to_the_whole():
    share = {"weights": 100_000, "dissected": 99_999, "share": 0.99999, "dense": {"w": {"weights": 1, "reason": "why"}}}
    assert in_words(share) == "99,999 of 100,000 weights are dissected (99.9 %); dense: w (why)"
    whole = {"weights": 8, "dissected": 8, "share": 1.0, "dense": {}}
    assert in_words(whole) == "8 of 8 weights are dissected (100.0 %)"


def row(matrix, covered, numel=10, role="propagation"):
    known = {"matrix": matrix, "declared": True, "role": role, "module": "gnn", "shapes": [[1, numel]]}
    return {**known, "numel": numel, "covered": covered, "reason": "why" if covered < numel else ""}


def test_the_seed_that_dissects_least_counts_and_old_runs_say_nothing(tmp_path):
    for seed, rows in ((1, [row("a", 10), row("b", 0)]), (2, [row("a", 5), row("b", 10)]), (3, None)):
        (tmp_path / f"s{seed}").mkdir()
        if rows is not None:
            files.write_json(tmp_path / f"s{seed}" / "coverage.json", {"coverage": rows})
    seeds = [tmp_path / f"s{seed}" for seed in (1, 2, 3)]
    share = coverage_of_runs(seeds)["roles"]["propagation"]
    assert (share["weights"], share["dissected"], list(share["dense"])) == (20, 5, ["a", "b"])
    assert coverage_of_runs(seeds[2:]) is None and read_coverage(seeds[2]) is None


IMPOSSIBLE = ({"coverage": [{**row("a", 0), "numel": 0}]}, {"coverage": [row("a", 11)]})


@pytest.mark.parametrize(
    "text", ['{"coverage": 3}', '{"coverage": [{"matrix": "a"}]}', "{}", *map(json.dumps, IMPOSSIBLE)]
)
def test_a_record_of_coverage_that_is_none_is_said(tmp_path, text):
    (tmp_path / "coverage.json").write_text(text)
    with pytest.raises(DataError, match=r"coverage\.json (is damaged|cannot be read)"):
        read_coverage(tmp_path)


OWN = """
    import torch
    from torch import nn
    from models.base import Matrix, SessionModel, init_uniform, lookup


    class Own(SessionModel):
        matrices = {
            "rnn": Matrix("propagation", "gnn"),
            "map": Matrix("propagation", "gnn"),
            "attend": Matrix("attention", "readout"),
            "both.gru": Matrix("update", "gnn", rows=("r", "z", "n")),
        }

        def __init__(self, n_items, dim=8):
            super().__init__()
            self.items = nn.Parameter(torch.empty(n_items, dim))
            self.map, self.attend, self.extra = (nn.Linear(dim, dim) for _ in range(3))
            self.bare = nn.Parameter(torch.empty(dim, dim))
            self.rnn = nn.RNN(dim, dim, batch_first=True)
            self.both = nn.ModuleDict({"gru": nn.GRU(dim, dim, batch_first=True)})
            init_uniform(self, dim)

        def item_states(self):
            return self.items

        def encode(self, S, batch):
            items = batch.items
            real = (items > 0)[..., None]
            x = self.map(lookup(S, items.clamp(min=1)) * real) @ self.bare
            x = (self.rnn(x)[0] + self.both["gru"](x)[0]) * real
            return self.attend(x.sum(1)) + self.extra(x[:, 0])
"""
TINY = ["--literal", "--seed", "1", "--max-steps", "3", "--dim", "8", "--device", "cpu", "--quiet"]
RNN, MAP = 2 * 64, 64


@pytest.fixture
def own(typed, tmp_path):
    (tmp_path / "own.py").write_text(textwrap.dedent(OWN))
    return typed


def test_a_role_dissected_in_part_is_said_everywhere(own, tmp_path):
    says = f"{MAP} of {MAP + RNN} weights are dissected (33.3 %); dense: rnn (no SparseVD layer for RNN)"
    code, out, _ = own("run", "--model", "own.py:Own", *TINY, "--json")
    verdict = json.loads(out)
    share = verdict["coverage"]["roles"]["propagation"]
    assert code == 0 and (share["weights"], share["dissected"]) == (MAP + RNN, MAP)
    assert share["share"] == pytest.approx(1 / 3)
    assert verdict["coverage"]["roles"]["attention"]["share"] == 1
    assert verdict["coverage"]["undeclared"] == {
        "bare": {"weights": 64, "dissected": 0, "reason": "a parameter of Own, for which there is no SparseVD layer"},
        "extra": {"weights": 64, "dissected": 64, "reason": ""},
    }
    for answer in ("O1", "O2"):
        assert verdict[answer]["answer"] == "undecided"
        assert f"propagation is dissected in part only: {says}" in verdict[answer]["reasons"]
    screen = " ".join(own("verdict")[1].split())
    assert f"rnn, propagation, {RNN} weights: no SparseVD layer for RNN" in screen and "bare, no role" in screen
    assert says in screen
    assert own("plot", "density")[0] == 0
    words = {path.name: path.read_text() for path in tmp_path.glob("runs/*/figures/*.txt")}
    gnn = MAP + 2 * 3 * 64
    assert f"{gnn} of {gnn + RNN} weights are dissected" in words["figure3-density-gnn.txt"]
    assert "weights are dissected" not in words["figure4-density-readout.txt"]
    rows = pd.DataFrame(files.read_jsonl(next(tmp_path.glob("runs/*/s1/density.jsonl"))))
    assert {"both.gru.weight_ih_l0", "both.gru.weight_hh_l0"} == set(rows[rows["role"] == "update"]["matrix"])
    assert "z" in set(rows[rows["matrix"] == "both.gru.weight_hh_l0"]["block"])


def test_models_says_what_will_be_dissected_and_what_not(own):
    screen = " ".join(own("models", "own.py:Own", "--dim", "8")[1].split())
    says = f"propagation: {MAP} of {MAP + RNN} weights are dissected (33.3 %); dense: rnn (no SparseVD layer for RNN)"
    assert says in screen and "bare, no role: a parameter of Own" in screen and "D = 8" in screen
    told = json.loads(own("models", "own.py:Own", "--dim", "8", "--json")[1])
    dissected = {row["matrix"]: (row["parameters"], row["dissected"]) for row in told["matrices"]}
    assert dissected == {
        "rnn": (RNN, 0),
        "map": (64, 64),
        "attend": (64, 64),
        "both.gru": (384, 384),
        "bare": (64, 0),
        "extra": (64, 64),
    }
    assert told["options"] == {"dim": 8} and told["presets"] == {}


def test_models_lists_options_with_their_defaults_and_presets(typed):
    told = json.loads(typed("models", "attenmixer", "--dim", "16", "--json")[1])
    assert told["options"]["levels"] == 7 and told["options"]["query"] == "sum" and "n_items" not in told["options"]
    assert told["presets"]["paper-LP"] == {"p": "inf"} and told["presets"]["paper-M"] == {"levels": 1}
    screen = " ".join(typed("models", "srgnn", "--dim", "16", "--preset", "attenmixer")[1].split())
    assert "steps=1" in screen and "head_layout=full" in screen and "--preset normalised: normalised=true" in screen
    assert "readout.query.6" in screen


def test_a_choice_that_leads_to_nothing_is_refused_before_anything_is_written(own, tmp_path):
    text = (tmp_path / "own.py").read_text().replace('"map": Matrix("propagation", "gnn"),', "")
    (tmp_path / "own.py").write_text(text)
    code, _, err = own("run", "--model", "own.py:Own", *TINY, "--where", "propagation")
    assert code == 3 and "no layer that 'propagation' names: rnn: no SparseVD layer for RNN" in err
    assert not (tmp_path / "runs").exists()


def test_a_role_that_is_dense_altogether_is_not_applicable_with_the_reason(own, tmp_path):
    text = (tmp_path / "own.py").read_text().replace('"map": Matrix("propagation", "gnn"),', "")
    (tmp_path / "own.py").write_text(text)
    verdict = json.loads(own("run", "--model", "own.py:Own", *TINY, "--json")[1])
    assert verdict["O1"]["answer"] == "not applicable"
    assert f"propagation: 0 of {RNN} weights are dissected (0.0 %); dense: rnn" in verdict["O1"]["reasons"][1]


def test_a_choice_that_leads_to_a_part_is_dissected_and_said(own, tmp_path):
    code, out, _ = own("run", "--model", "own.py:Own", *TINY, "--json", "--where", "propagation")
    verdict = json.loads(out)
    assert code == 0 and {row["matrix"] for row in verdict["density"]["matrices"]} >= {"map"}
    says = "64 of 192 weights are dissected (33.3 %); dense: rnn (no SparseVD layer for RNN)"
    assert verdict["O1"]["answer"] == "undecided" and says in " ".join(verdict["O1"]["reasons"])
    assert verdict["coverage"]["roles"]["attention"]["dense"]["attend"]["reason"] == "not chosen"
    assert "attend, attention" not in own("verdict")[1]  # --where has left it out


def test_a_dense_run_has_no_coverage(own):
    verdict = json.loads(own("run", "--model", "own.py:Own", *TINY, "--json", "--where", "none")[1])
    assert verdict["coverage"] is None and verdict["O1"]["answer"] == "not applicable"


def test_declared_things_need_a_role_and_a_module_only():
    model = nn.ModuleDict({"map": nn.Linear(D, D)})
    assert covered(model, {"map": SimpleNamespace(role="r", module="m")})["map"]["role"] == "r"
