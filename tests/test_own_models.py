"""A user's own model: what breaks the contract is a message with shapes, before anything is written."""

import textwrap
from pathlib import Path

import pytest

from dissect.data import planted
from dissect.data.sessions import split_validation
from dissect.runs import files, folders
from dissect.training import loop
from models import MODELS, check

TINY = ["--max-steps", "3", "--device", "cpu", "--quiet"]
MODEL = """
    import torch
    from torch import nn
    from models.base import Matrix, SessionModel, init_uniform, lookup


    class Own(SessionModel):
        matrices = {"mean": Matrix("encoder", "readout"), "last": Matrix("transformation", "readout")}
        removable = ("encoder",)

        def __init__(self, n_items, dim=8, without=()):
            super().__init__()
            self.items = nn.Parameter(torch.empty(n_items, dim))
            self.drop = nn.Dropout(0.0)
            self.last = nn.Linear(dim, dim)
            if "encoder" not in without:
                self.mean = nn.Linear(dim, dim, bias=False)
            init_uniform(self, dim)

        def item_states(self):
            return self.items

        def encode(self, S, batch):
            items, lengths = batch.items, batch.lengths
            vectors = self.last(lookup(S, items[:, 0]))
            if hasattr(self, "mean"):
                vectors = vectors + self.mean((lookup(S, items.clamp(min=1)) * (items > 0)[..., None]).sum(1))
            return vectors, {}
"""


@pytest.fixture
def own(typed, tmp_path):
    """Runs the model above with some of its text replaced."""

    def run(*changes, words=(), verb="run"):
        text = textwrap.dedent(MODEL)
        for old, new in changes:
            assert text.count(old) == 1
            text = text.replace(old, new)
        (tmp_path / "own.py").write_text(text)
        model = (
            ["train", "own.py:Own", "--dataset", "demo"]
            if verb == "train"
            else ["run", "--seed", "1", "--model", "own.py:Own"]
        )
        return typed(*model, *TINY, *words)

    return run


def test_the_model_as_it_is_runs(own):
    code, out, err = own(words=["--dim", "4"])
    assert code == 0 and err == ""
    assert "--without encoder" in " ".join(out.split())  # what this model can do without, not what SR-GNN can


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("return self.items", "return self.items[1:]", "float32 [V, D] with V = 5, and returned float32 [4, 8]"),
        ("return self.items", "return self.items.double()", "and returned float64 [5, 8]"),
        (
            "items.clamp(min=1)) * (items > 0)[..., None]).sum(1)",
            "items.clamp(min=1))).sum(1)",
            "depends on the other sessions of its batch, or on the padding of batch.items",
        ),
        ("return self.items", "pass", "the item table, float32 [V, D] with V = 5, and returned None"),
        ("return vectors, {}", "return 1", "vectors [B, D], or a pair: these and a dict of auxiliary losses by name"),
        ("return vectors, {}", "return vectors, []", "and returned (float32 [2, 8], a list)"),
        (
            "return vectors, {}",
            "return vectors[:, None], {}",
            "float32 [B, D] with B = 2, and returned float32 [2, 1, 8]",
        ),
        ("return vectors, {}", "return vectors[:, :7], {}", "[V, D] with V = 5 and D = 7, the width of the vectors"),
        ("return vectors, {}", "return vectors, {'a': vectors}", "should return a scalar as the loss 'a'"),
        (
            "return vectors, {}",
            "return vectors / nothing, {}",
            "NameError: name 'nothing' is not defined (own.py, line 28)",
        ),
        ("return vectors, {}", "return (vectors if not self.switched_off else 1), {}", "with switched_off = 'encoder'"),
        (
            "self.last(lookup(S, items[:, 0]))",
            "self.last(items)",
            "encode(S [5, 8], batch of items [2, 3]) raised",
        ),
        ("        return self.items", "        return super().item_states()", "must define item_states()"),
        (
            "return vectors, {}",
            "return vectors + vectors.roll(1, 0) * (len(vectors) > 2), {}",
            "the vector of a session depends on the other sessions of its batch",
        ),
        ("return vectors, {}", "return vectors + torch.rand(()), {}", "is another one at each call"),
        ("items.clamp(min=1)", "items", "0 in batch.items is padding and no item: clamp it, as in batch.items.clamp"),
        (
            "self, S, batch):\n        items, lengths = batch.items, batch.lengths",
            "self, S, items, lengths):",
            "encode takes (S, batch) now: items and lengths are batch.items and batch.lengths; here it takes (S, items",
        ),
        ("return vectors, {}", "return vectors * torch.nan, {}", "vectors of finite numbers, and returned NaN"),
        ("(dim, dim)\n", "(dim, dim)\n        dim / 0\n", "cannot be built with these options: ZeroDivisionError"),
        ("class Own(SessionModel)", "class Own", "Own lacks candidates"),
        ('("encoder",)', '("encoder")', "removable should be a tuple of roles such as ('attention',), not 'encoder'"),
        ('"readout"), "last"', '"readout", ("a", "b", "c")), "last"', "mean [8, 8] does not divide"),
        ('Matrix("encoder", "readout")', '("encoder", "readout")', "should be Matrix(role, module)"),
        ('{"mean": Matrix("encoder", "readout"), ', '{3: Matrix("encoder", "readout"), ', "matrices[3] should be"),
        ("matrices = {", "matrices = ['mean', 'last']; roles = {", "matrices should be a dict of Matrix(role, module)"),
        ("matrices = {", "matrices = None; roles = {", "matrices should be a dict of Matrix(role, module)"),
        ("removable = (", "removable = None; other = (", "removable should be a tuple of roles"),
        ('{"mean": M', '{"drop": Matrix("update", "gnn"), "mean": M', "matrices['drop'] has no weight matrix"),
        (
            "self.last = nn.Linear(dim, dim)",
            'self.last = nn.GRUCell(dim, dim); self.matrices = {"last": Matrix("update", "gnn", rows=tuple("abcde"))}',
            "last.weight_ih [24, 8] does not divide",
        ),
    ],
)
def test_what_breaks_the_contract_is_said_with_shapes_and_leaves_nothing(own, tmp_path, old, new, says):
    for verb in ("run", "train"):
        code, out, err = own((old, new), verb=verb)
        assert (code, out) == (2, "") and says in err, err
        assert "models/base.py" in err and not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ('"encode", "readout"', "role 'encode' must be one of"),
        ('"encoder"', "missing 1 required positional argument: 'module'"),
        (
            '"encoder", "readout", cols=("in")',
            "cols must be a tuple of different texts such as ('in', 'out'), not 'in'",
        ),
        ('"encoder", "readout", rows=("a", "a")', "rows must be a tuple of different texts"),
        ('"encoder", "readout", rows=2', "rows must be a tuple of different texts such as ('in', 'out'), not 2"),
    ],
)
def test_what_is_no_matrix_is_said_when_the_file_is_read(own, tmp_path, given, says):
    code, _, err = own(('"encoder", "readout"', given))
    assert code == 2 and "cannot be imported" in err and says in err
    assert not (tmp_path / "runs").exists()


def test_a_matrix_declared_by_its_parameter_or_by_what_holds_it_has_its_role(own):
    """So that no weight counts as another role's without a word."""
    new = 'self.mean = nn.ModuleDict({"map": nn.Linear(dim, dim, bias=False)})'
    changes = (("self.mean = nn.Linear(dim, dim, bias=False)", new), ("self.mean((", 'self.mean["map"](('))
    code, _, err = own(*changes, ('"last": Matrix', '"last.weight": Matrix'))
    assert code == 0 and err == ""
    rows = files.read_json(folders.newest_group("runs") / "s1" / "summary.json")["density"]
    roles = {row["matrix"]: row["role"] for row in rows}
    assert (roles["mean.map"], roles["last"]) == ("encoder", "transformation")


def test_a_misspelt_matrix_is_an_error_with_the_right_name(own, tmp_path):
    code, _, err = own(('{"mean"', '{"maen"'))
    assert code == 2 and "declares matrices that it does not have: maen" in err and "Did you mean mean" in err
    code, _, err = own(('"last": Matrix(', '"last": Matrix("other", "other"), "gone": Matrix('))
    assert code == 2 and "gone" in err and not (tmp_path / "runs").exists()


def test_a_matrix_without_a_role_is_named(own):
    code, _, err = own((', "last": Matrix("transformation", "readout")', ""))
    assert code == 0 and "gives no role to last" in err


def test_the_role_of_a_gru_is_that_of_both_its_matrices(own):
    assert own(("self.last = nn.Linear", "self.last = nn.GRUCell"))[0] == 0
    rows = files.read_json(folders.newest_group("runs") / "s1" / "summary.json")["density"]
    roles = {row["matrix"]: row["role"] for row in rows}
    assert roles["last.weight_ih"] == roles["last.weight_hh"] == "transformation"


def test_a_model_without_a_width_runs_and_one_without_options_says_so(own):
    fixed = (("dim=8, without", "without"), ("super().__init__()\n", "super().__init__()\n        dim = 8\n"))
    assert own(*fixed)[0] == 0
    assert "dim" not in folders.group_config(folders.newest_group("runs")).get("model_options", {})
    code, _, err = own(*fixed, words=["--dim", "4"])
    assert code == 2 and "takes no dim" in err and "It takes no options. The contract" in err
    code, _, err = own(*fixed, words=["--preset", "x"])
    assert code == 2 and "has no presets" in err


def test_leaving_out_what_is_not_there_is_refused(own, typed):
    code, _, err = own(
        ('if hasattr(self, "mean")', "if False"),
        ('if "encoder" not in without', "if True"),
        words=["--without", "encoder"],
    )
    assert code == 2 and "--without encoder changes nothing" in err
    code, _, err = typed("run", *TINY, "--option", "steps=0", "--without", "propagation")
    assert code == 2 and "srgnn has none with --option steps=0" in err
    code, _, err = typed("run", *TINY, "--without", "gnn", "--without", "propagation")
    assert code == 2 and "--without propagation changes nothing" in err


NORM = (
    ("init_uniform(self, dim)", "init_uniform(self, dim)\n        self.norm = nn.BatchNorm1d(dim)"),
    ("return vectors, {}", "return self.norm(vectors), {}"),
)


def test_a_batch_of_one_is_refused_for_a_model_that_needs_two(own, tmp_path):
    train, examples, share = planted.generate("demo").train, 0, 0.1
    while examples % 4 != 1:
        share += 0.01
        examples = split_validation(train, share)[0].n_prefixes
    words = ["--validation", str(share), "--batch-size"]
    half, quarter = (examples - 1) // 2, (examples - 1) // 4
    code, out, err = own(*NORM, words=[*words, str(half)])  # the third of three steps has one example
    assert (code, out) == (2, "") and f"{examples:,} examples in batches of {half:,}" in err, err
    assert examples % int(err.rsplit("--batch-size ", 1)[1]) > 1 and not (tmp_path / "runs").exists()
    assert own(*NORM, words=["--batch-size", "1", "--no-shadows"])[0] == 2
    assert own(*NORM, words=[*words, str(quarter)])[0] == 0  # it never comes to that batch
    assert own(words=["--batch-size", "1", "--no-shadows"])[0] == 0  # a model that needs no two
    code, _, err = own(words=["--batch-size", "3"])  # shadows need four
    assert code == 2 and "batches of 3 are too small" in err and "--no-shadows" in err


def test_a_table_of_positions_that_is_too_short_is_told_with_the_longest_session(own, typed, tmp_path):
    places = (
        ("init_uniform(self, dim)", "self.places = nn.Embedding(places, dim)\n        init_uniform(self, dim)"),
        ("dim=8, without=()", "dim=8, places=4, without=()"),
        ("return vectors, {}", "return vectors + self.places(lengths - 1), {}"),
    )
    data = planted.generate("demo")
    longest = int(max(data.train.lengths.max(), data.test.lengths.max())) - 1
    for verb in ("run", "train"):
        code, out, err = own(*places, verb=verb)
        assert (code, out) == (3, "") and not (tmp_path / "runs").exists()
        says = f"takes at most 4 clicks, but the longest session of demo has {longest}: "
        assert says in err and "--longest 4" in err
    assert own(*places, words=["--option", f"places={longest}"])[0] == 0
    run = str(folders.newest_group("runs"))
    assert typed("recommend", run, "--session", ",".join(["1"] * longest))[0] == 0
    code, _, err = typed("recommend", run, "--session", ",".join(["1"] * (longest + 1)))
    assert code == 3 and f"the longest session asked for has {longest + 1}: " in err


ROWS = (
    ("items, lengths = batch.items, batch.lengths\n", "clicks = batch.clicks\n"),
    ("lookup(S, items[:, 0])", "lookup(S, clicks.items[clicks.last])"),
    ("(lookup(S, items.clamp(min=1)) * (items > 0)[..., None]).sum(1)", "clicks.sum(lookup(S, clicks.items))"),
)


def test_padding_is_not_blamed_for_a_model_that_reads_rows(own):
    assert own(*ROWS)[0] == 0
    code, _, err = own(*ROWS, ("return vectors, {}", "return vectors + vectors.mean(0), {}"))
    assert code == 2 and "depends on the other sessions of its batch." in err and "padding" not in err


def test_padding_is_not_blamed_for_a_table_of_two_places(own):
    places = ("return vectors, {}", "return vectors + lookup(S[:2], lengths)[0], {}")
    code, _, err = own(places)
    assert code == 2 and "IndexError" in err and "padding" not in err


CAUSAL = (
    ('removable = ("encoder",)', 'removable = ("encoder",)\n    every_position = True'),
    ("self.last(lookup(S, items[:, 0]))", "self.last(lookup(S, items.clamp(min=1)))"),
    (
        "self.mean((lookup(S, items.clamp(min=1)) * (items > 0)[..., None]).sum(1))",
        "self.mean(lookup(S, items.clamp(min=1)).cumsum(1))",
    ),
)


def test_a_vector_at_a_position_must_not_depend_on_later_clicks(own, tmp_path):
    mean = "clicks = (items > 0)[..., None]\n        mean = ((vectors * clicks).sum(1) / clicks.sum(1))[:, None]"
    code, out, err = own(*CAUSAL, ("return vectors, {}", f"{mean}\n        return vectors + mean, {{}}"))
    assert (code, out) == (2, "") and "a vector at a position must not depend on later clicks" in err, err
    assert not (tmp_path / "runs").exists()
    assert own(*CAUSAL)[0] == 0


def test_an_error_in_training_is_a_line_with_its_place_and_keeps_the_run(own):
    count = "self.steps = getattr(self, 'steps', 0) + (self.training and len(batch) > 50)\n        "
    fault = "if self.steps == 3:\n            raise RuntimeError('too many')\n        "
    changed = ("return vectors, {}", f"{count}{fault}return vectors, {{}}")
    code, _, err = own(changed, verb="train", words=["--batch-size", "100000"])  # an epoch is a step
    assert code == 1 and "own.py:Own raised RuntimeError in training: too many (own.py, line 30)." in err, err
    assert "Traceback" not in err and (folders.newest_group("runs") / "s1" / "checkpoints" / "last.pt").exists()


def test_an_error_in_training_that_is_not_the_users_keeps_its_traceback(typed, monkeypatch):
    def fails(*_):
        raise RuntimeError("ours")

    monkeypatch.setattr(loop, "train_step", fails)
    for model in ("srgnn", "own.py:Own"):
        Path("own.py").write_text(textwrap.dedent(MODEL))
        with pytest.raises(RuntimeError, match="ours"):
            typed("train", model, "--dataset", "demo", *TINY, "--dim", "4")


def test_a_model_that_ends_the_program_is_a_message(own, tmp_path):
    for old in ("super().__init__()", "vectors = self.last(lookup(S, items[:, 0]))"):
        code, out, err = own((old, f"{old}; raise SystemExit(0)"))
        assert (code, out) == (2, "") and "SystemExit" in err and not (tmp_path / "runs").exists()


@pytest.mark.parametrize("name", [name for name, cls in MODELS.items() if cls.learns])
def test_our_own_models_keep_the_contract(name):
    for preset in MODELS[name].presets.values():
        model = MODELS[name](n_items=5, **{**preset, "dim": 8})
        assert check.check(model, 5).shape == (2, 8)
        assert not check.not_there(model) and not check.without_role(model)
        assert model.training and model.switched_off is None


def test_a_models_own_default_width_is_taken(typed, tmp_path):
    """It stands in the user's file, and says more than any default of ours; --dim says more still."""
    text = (tmp_path / "own.py").read_text() if (tmp_path / "own.py").exists() else ""
    assert not text
    (tmp_path / "own.py").write_text(
        "from models import SRGNN\n\nclass Own(SRGNN):\n    def __init__(self, n_items, dim=6, without=()):\n"
        "        super().__init__(n_items, dim=dim, without=without)\n"
    )
    words = ["train", "own.py:Own", "--dataset", "demo", "--max-steps", "2", "--quiet", "--device", "cpu"]
    for more, width in (([], 6), (["--dim", "5"], 5)):
        assert typed(*words, *more)[0] == 0
        assert folders.group_config(folders.newest_group("runs"))["model_options"]["dim"] == width


def test_a_training_that_patience_ends_says_so(typed):
    words = ["train", "srgnn", "--dataset", "demo", "--dim", "4", "--epochs", "9", "--lr", "1e-9", "--patience", "1"]
    code, _, err = typed(*words, "--device", "cpu")
    assert code == 0 and "no better MRR@20 in 1 epoch (--patience)" in " ".join(err.split())
