"""dissect from Python: the examples of docs/python.md as they stand there, and the same folders as the command line."""

import ast
import itertools
import json
import linecache
import re
import subprocess
import sys
import textwrap
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from click.testing import CliRunner

import dissect
from dissect import errors
from dissect.cli import main
from dissect.data import catalog, planted
from dissect.data.sessions import Sessions

ROOT = Path(__file__).resolve().parent.parent
HEAVY = ("torch", "numpy", "pandas", "scipy", "matplotlib", "seaborn", "rich", "click")
TINY = {"dim": 8, "max_steps": 12, "device": "cpu"}
OWN = """
    import torch
    from torch import nn
    from models.base import Matrix, SessionModel, init_uniform, lookup


    class Own(SessionModel):
        matrices = {"map": Matrix("transformation", "readout")}

        def __init__(self, n_items, dim=8, lr=1.0):
            super().__init__()
            self.items = nn.Parameter(torch.empty(n_items, dim))
            self.map = nn.Linear(dim, dim)
            self.scale = lr
            init_uniform(self, dim)

        def item_states(self):
            return self.items

        def encode(self, S, batch):
            return self.scale * self.map(lookup(S, batch.items[:, 0]))
"""
cells = itertools.count(1)


def run_cell(text, names=None):
    """Execute a text as a notebook does: its lines can be found by the names of its functions. Returns its names."""
    text, file = textwrap.dedent(text), f"<cell {next(cells)}>"
    linecache.cache[file] = (len(text), None, text.splitlines(True), file)
    names = {"__name__": "notebook"} if names is None else names
    exec(compile(text, file, "exec"), names)
    return names


@pytest.fixture(scope="module")
def tiny():
    """A data set whose evaluation takes no time."""
    demo = planted.generate("demo")
    return dissect.Dataset("tiny", demo.n_items, demo.train.part(0, 300), demo.test.part(0, 100))


@pytest.fixture(autouse=True)
def scratch(tmp_path, monkeypatch, tiny):
    """Each test in a folder with nothing but the data set."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DISSECT_DATA", str(tmp_path / "data"))
    catalog.save(tiny)
    return tmp_path


@pytest.fixture(scope="module")
def trained(tiny, tmp_path_factory):
    """Two seeds of SR-GNN, trained for a few steps."""
    return dissect.train("srgnn", tiny, **TINY, seeds=(1, 2), runs_dir=tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="module")
def dissected(tiny, tmp_path_factory):
    return dissect.run("srgnn", tiny, **TINY, seeds=(1, 2), runs_dir=tmp_path_factory.mktemp("runs"))


# --- the package -------------------------------------------------------------------------------------------


def test_import_loads_nothing_heavy():
    """In a process of its own; neither does looking for a name that is not there."""
    code = "import sys, dissect\ndir(dissect), hasattr(dissect, 'no')\n"
    code += f"print(sorted(set(sys.modules) & set({HEAVY!r})))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_every_public_name_is_there_for_python_and_for_tools():
    """The table of lazy imports, __all__, and the imports that type checkers see say the same."""
    tree = ast.parse((ROOT / "dissect" / "__init__.py").read_text())
    seen = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and str(node.module).startswith("dissect"):
            for alias in node.names:
                own = f"{node.module}.{alias.name}" if node.module == "dissect" else node.module
                seen[alias.name] = own
    assert seen == dissect._MODULES
    assert sorted(dissect.__all__) == dissect.__all__ == sorted(dissect._MODULES)
    for name in dissect.__all__:
        assert getattr(dissect, name).__doc__ and name in dir(dissect)
    with pytest.raises(AttributeError, match="'dissect' has no attribute 'trian'"):
        dissect.trian  # noqa: B018


@pytest.mark.slow
def test_the_examples_of_the_docs_run():
    text = (ROOT / "docs" / "python.md").read_text()
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    names = {"__name__": "notebook"}
    for block in blocks:
        run_cell(block, names)
    assert Path("density.png").exists()
    assert names["group"].metrics()["seed"].tolist() == [1, 1, 2, 2]
    for method, columns in re.findall(r"^\| `(\w+)\(\)` \|.*\| (.*) \|$", text, re.MULTILINE):
        of = names["dissected"] if method == "density" else names["group"]
        named = [name.split(" ")[0] for name in columns.split(", ")]
        assert [name for name in getattr(of, method)().columns if name in named] == named, method


# --- the same as the command line --------------------------------------------------------------------------


def files_in(folder):
    """Every file but those that tell when and where it was made."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in ("environment.json", ".lock")
    }


@pytest.mark.parametrize("verb", ["train", "run"])
def test_python_and_the_command_line_leave_the_same_files(verb, scratch, tiny, monkeypatch):
    def reset_clock():
        ticks = itertools.count()
        monkeypatch.setattr("time.perf_counter", lambda: next(ticks) / 1024)

    words = ["--dataset", "tiny", "--dim", "8", "--max-steps", "12", "--seed", "1", "--seed", "2", "--lr", "0.01"]
    words += ["--option", "steps=2", "--device", "cpu", "--runs-dir", "by-command", "--quiet"]
    reset_clock()
    done = CliRunner().invoke(main, [verb, *(["srgnn"] if verb == "train" else ["--model", "srgnn"]), *words])
    assert done.exit_code == 0, done.output
    reset_clock()
    call = getattr(dissect, verb)
    group = call("srgnn", tiny, steps=2, **TINY, lr=0.01, seeds=[1, 2], runs_dir="by-python")
    by_command, by_python = files_in(scratch / "by-command"), files_in(scratch / "by-python")
    assert by_python.keys() == by_command.keys()
    assert [name for name in by_command if by_command[name] != by_python[name]] == []
    assert {f"{group.path.name}/{name}" for name in ("config.toml", "s2/summary.json", "s2/DONE")} <= by_python.keys()
    assert any(name.endswith("verdict.json") for name in by_python) == (verb == "run")


def test_a_group_of_the_command_line_is_read_by_python(tiny):
    words = ["train", "srgnn", "--dataset", "tiny", "--dim", "8", "--max-steps", "12", "--device", "cpu", "--quiet"]
    assert CliRunner().invoke(main, words).exit_code == 0
    group = dissect.open_group("srgnn-tiny")
    assert group.config.where == "none" and group.config.max_steps == 12
    again = dissect.train("srgnn", tiny, **TINY)  # nothing is left to train
    assert again.path.resolve() == group.path.resolve()
    assert len(group.summaries()) == 1


# --- training ----------------------------------------------------------------------------------------------


def test_the_same_call_again_trains_only_what_is_missing(tiny):
    first = dissect.train("srgnn", tiny, **TINY, seeds=(1,))
    before = (first.path / "s1" / "summary.json").stat().st_mtime_ns
    both = dissect.train("srgnn", "tiny", **TINY, seeds=(1, 2))
    again = dissect.train("srgnn", tiny, **TINY, seeds=(1, 2))
    assert first.path == both.path == again.path
    assert [path.name for path in again.runs()] == ["s1", "s2"]
    assert (first.path / "s1" / "summary.json").stat().st_mtime_ns == before
    dissect.train("srgnn", tiny, **TINY, seeds=(1,), force=True)
    assert (first.path / "s1.old-1").is_dir()


@pytest.mark.parametrize(
    ("given", "message", "hint"),
    [
        ({"batchsize": 10}, "'batchsize'", "batch_size"),
        ({"step": 2}, "'step'", "steps"),
        ({"zzz": 2}, "'zzz'", "Known: "),
        ({"kl_weight": 2}, "kl_weight", "dissect.run"),
        ({"lr": "fast"}, "lr", ""),
        ({"lr": 20}, "lr must be", ""),
        ({"dim": "wide"}, "dim of srgnn is a whole number", ""),
        ({"options": {"lr": 3}}, "srgnn takes no lr", ""),
        ({"epochs": 1, "max_steps": 1}, "exclude each other", ""),
        ({"without": "propagation"}, "without", "['propagation']"),
        ({"device": "gpu"}, "'gpu'", "cpu"),
        ({"init_from": "nothing"}, "'nothing'", ""),
        ({"model_source": "0"}, "'model_source'", ""),
        ({"seeds": ()}, "seeds is a whole number, or a list of them, such as (1, 2, 3); it cannot be ()", ""),
        ({"seeds": (-1,)}, "cannot be (-1,)", ""),
        ({"seeds": (1.5,)}, "cannot be (1.5,)", ""),
        ({"seeds": ("a",)}, "cannot be ('a',)", ""),
        ({"seeds": (True,)}, "cannot be (True,)", ""),
        ({"seeds": None}, "cannot be None", ""),
        ({"jobs": 0}, "jobs is a whole number, at least 1", ""),
        ({"jobs": "2"}, "cannot be '2'", ""),
        ({"epochs": "a"}, "epochs is a number", ""),
        ({"preset": 3}, "no preset of srgnn named 3", "Known: "),
        ({"options": 3}, "options is a dict", ""),
        ({"without": [3]}, "without is a list of roles", ""),
        ({"without": None}, "without is a list of roles", ""),
        ({"name": 3}, "name is a text", ""),
        ({"runs_dir": 3}, "runs_dir is the path", ""),
        ({"init_from": 3}, "init_from is a group", ""),
        ({"device": 3}, "device is one of auto, cpu, cuda; it cannot be 3", ""),
        ({"matched": False}, "'matched'", ""),
        ({"where": 3}, "no setting where", "dissect.run"),
        ({"options": {3: 4}}, "options is a dict", ""),
        ({"force": "no"}, "force is True or False; it cannot be 'no'", ""),
        ({"refit": 1}, "refit is True or False", ""),
        ({"usual": {"lr": 1}}, "'usual'", ""),
    ],
)
def test_what_does_not_exist_is_an_error_with_what_does(tiny, scratch, given, message, hint):
    with pytest.raises(errors.UsageError) as caught:
        dissect.train("srgnn", tiny, **given)
    assert message in caught.value.message and hint in caught.value.message + caught.value.hint
    assert not (scratch / "runs").exists()


def test_names_of_models_and_data_sets_are_checked_before_anything_else(tiny):
    with pytest.raises(errors.UsageError, match="srgn") as caught:
        dissect.train("srgn", "tiny")
    assert "srgnn" in caught.value.hint
    with pytest.raises(errors.UsageError, match="dema"):
        dissect.load("dema")
    with pytest.raises(errors.UsageError, match="group named 'nothing'"):
        dissect.open_group("nothing")
    with pytest.raises(errors.UsageError, match="nothing to dissect"):
        dissect.run("pop", tiny)


def test_progress_is_shown_on_a_terminal_and_not_elsewhere(tiny, monkeypatch, capsys):
    dissect.train("srgnn", tiny, **TINY, seeds=(1,))
    assert capsys.readouterr() == ("", "")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    dissect.train("srgnn", tiny, **TINY, seeds=(2,), quiet=True)
    assert capsys.readouterr() == ("", "")
    monkeypatch.setattr("dissect.progress.PATIENCE", 0.0)
    dissect.train("srgnn", tiny, **TINY, seeds=(3,))
    out, err = capsys.readouterr()
    assert out == "" and "srgnn on tiny, seed 3" in err and "12/12" in err and err.endswith("\n")
    dissect.export(dissect.train("srgnn", tiny, **TINY, seeds=(1,), quiet=True), "small", seed=1)
    assert ": timing single sessions " in capsys.readouterr().err


def test_models_data_and_groups_of_another_kind_are_refused(tiny, trained):
    wrong = {
        "model is a name": [lambda: dissect.train(3, tiny), lambda: dissect.run(3, tiny)],
        "data is a Dataset": [lambda: dissect.train("srgnn", 3), lambda: dissect.load(3)],
        "group is a group": [lambda: dissect.open_group(3), lambda: dissect.recommend(3, [[1]])],
        "groups is a list of groups": [
            lambda: dissect.compare(trained),
            lambda: dissect.compare([]),
            lambda: dissect.compare("srgnn"),
            lambda: dissect.compare([3]),
        ],
        "no argument of dissect.compare named 'foo'": [lambda: dissect.compare([trained], foo=1)],
        "resamples is a whole number": [lambda: dissect.compare([trained], resamples="a")],
        "A session is a list of items, not 1": [lambda: dissect.recommend(trained, [1, 2], seed=1)],
        "There is no item '1'.": [lambda: dissect.recommend(trained, [["1"]], seed=1)],
        "There is no item True.": [lambda: dissect.recommend(trained, [[True]], seed=1)],
        "There is no item 1.0.": [lambda: dissect.recommend(trained, [[1.0]], seed=1)],
        "sessions is a list of sessions": [lambda: dissect.recommend(trained, 3, seed=1)],
        "k is a whole number": [
            lambda: dissect.recommend(trained, [[1]], k="a", seed=1),
            lambda: dissect.recommend(trained, [[1]], k=0, seed=1),
        ],
        "seed is a whole number": [lambda: dissect.recommend(trained, [[1]], seed="a")],
        "device is one of auto, cpu, cuda": [lambda: dissect.recommend(trained, [[1]], seed=1, device="gpu")],
        "data_dir is the path": [
            lambda: dissect.load("demo", data_dir=3),
            lambda: dissect.recommend(trained, [[1]], seed=1, data_dir=3),
            lambda: dissect.export(trained, "out", seed=1, data_dir=3),
        ],
        "beside is a group": [lambda: trained.figure("density", beside=3)],
    }
    for message, calls in wrong.items():
        for call in calls:
            with pytest.raises(errors.UsageError, match=message):
                call()


def test_a_dissection_has_no_epoch_to_train_again_for(tiny, scratch):
    """It was refused only after the first training, and the second one, had come to an end."""
    with pytest.raises(errors.UsageError, match="refit"):
        dissect.run("srgnn", tiny, **TINY, refit=True)
    with pytest.raises(errors.UsageError, match="module or role"):
        dissect.run("srgnn", tiny, **TINY, where=["gnn"])
    assert not (scratch / "runs").exists()


def test_numbers_of_numpy_are_settings_and_options_like_others(tiny):
    plain = dissect.train("srgnn", tiny, dim=8, lr=0.01, batch_size=50, max_steps=2, quiet=True)
    sweep = {"dim": np.int64(8), "lr": np.float64(0.01), "batch_size": np.int32(50), "max_steps": np.int64(2)}
    assert dissect.train("srgnn", tiny, **sweep, quiet=True) == plain
    studied = dissect.study("table4", tiny, seeds=np.array([1, 2]), dim=np.int64(8), quiet=True)
    assert repr(studied) == repr(dissect.study("table4", tiny, seeds=(1, 2), dim=8, quiet=True))


def test_seeds_may_be_numbers_of_numpy(tiny):
    group = dissect.train("srgnn", tiny, **TINY, seeds=np.arange(2))
    assert [run.name for run in group.runs()] == ["s0", "s1"]


@pytest.mark.parametrize("jobs", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_only_a_command_is_on_record_as_one(tiny, monkeypatch, jobs):
    """What the running program was called with is no command of dissect."""

    def recorded(folder):
        return [json.loads((run / "environment.json").read_text())["command"] for run in sorted(folder.glob("*/s?"))]

    words = ["train", "srgnn", "--dataset", "tiny", "--dim", "8", "--max-steps", "2", "--quiet", "--seed", "1"]
    words += ["--seed", "2", "--runs-dir", "a", "--jobs", str(jobs)]
    monkeypatch.setattr(sys, "argv", ["dissect", *words])
    assert CliRunner().invoke(main, words).exit_code == 0
    assert recorded(Path("a")) == [["dissect", *words]] * 2
    dissect.train("srgnn", "tiny", dim=8, max_steps=2, seeds=(1, 2), jobs=jobs, runs_dir="b", quiet=True)
    assert recorded(Path("b")) == [[]] * 2


# --- results -----------------------------------------------------------------------------------------------


def test_metrics_are_those_of_the_ranks(trained):
    metrics, ranks = trained.metrics(), trained.ranks()
    assert metrics["split"].tolist() == ["test", "valid"] * 2
    for split in ("test", "valid"):
        rank = trained.ranks(split)
        hit = 100 * (rank["rank"] <= 20).groupby(rank["seed"]).mean()
        gain = 100 * (1 / rank["rank"]).where(rank["rank"] <= 20, 0).groupby(rank["seed"]).mean()
        of = metrics[metrics["split"] == split].set_index("seed")
        pd.testing.assert_series_equal(of["hr@20"], hit, check_names=False)
        pd.testing.assert_series_equal(of["mrr@20"], gain, check_names=False)
    last = ranks.iloc[-1]
    session = trained.data.test[int(last["session"])]
    assert session[int(last["length"])] == last["target"]


def test_a_variant_that_there_is_not_is_refused_with_those_that_there_are(trained):
    with pytest.raises(errors.UsageError, match=r"variant in .* named 'x'") as caught:
        trained.runs("x")
    assert caught.value.hint == "Known: full."


def test_of_a_run_that_held_nothing_out_there_are_no_ranks_of_validation(tiny, trained):
    """It was called damaged, with a command that could not have mended it."""
    assert set(trained.ranks("valid")["seed"]) == {1, 2}
    with pytest.raises(errors.UsageError, match="held no sessions out"):
        dissect.train("pop", tiny, quiet=True).ranks("valid")


def test_training_has_the_loss_and_both_metrics(trained):
    table = trained.training()
    assert set(table["curve"]) == {"loss", "HR@20", "MRR@20"} and set(table["seed"]) == {1, 2}


def test_density_counts_every_weight_once_unless_blocks_are_asked_for(dissected):
    table = dissected.density()
    assert (table["density"] == table["kept"] / table["size"]).all()
    assert not table.duplicated(["seed", "step", "matrix"]).any()
    blocks = dissected.density(blocks=True)
    assert len(blocks) > len(table) and (blocks["block"] == "").sum() == len(table)
    fewer = dissected.density(threshold=0.5)
    assert (fewer["kept"] <= table["kept"]).all() and fewer["kept"].sum() < table["kept"].sum()
    with pytest.raises(errors.UsageError, match=r"threshold=3\.3"):
        dissected.density(threshold=3.3)
    with pytest.raises(errors.UsageError, match="variant"):
        dissected.density("without-attention")


def test_a_dense_group_has_neither_density_nor_verdict(trained):
    with pytest.raises(errors.DataError, match="trained without SparseVD"):
        trained.density()
    with pytest.raises(errors.UsageError, match="verdict"):
        trained.verdict()
    assert not (trained.path / "verdict.json").exists()


@pytest.mark.parametrize("threshold", ["3", True, [3]])
def test_a_threshold_is_a_number(dissected, threshold):
    for ask in (dissected.density, lambda threshold: dissected.figure("histogram", threshold=threshold)):
        with pytest.raises(errors.UsageError, match="threshold is a number"):
            ask(threshold=threshold)


def test_figures_are_not_registered_with_pyplot(trained, dissected):
    from matplotlib import pyplot
    from matplotlib.figure import Figure

    drawn = [dissected.figure("density"), dissected.figure("density", module="gnn"), dissected.figure("histogram")]
    drawn += [trained.figure("training")]
    assert all(isinstance(figure, Figure) for figure in drawn)
    assert pyplot.get_fignums() == []
    with pytest.raises(errors.UsageError, match="densty"):
        dissected.figure("densty")
    with pytest.raises(errors.UsageError, match="no option of a density figure named 'foo'"):
        dissected.figure("density", foo=1)
    with pytest.raises(errors.UsageError, match="no measure named 'D9'"):
        dissected.figure("density", measure="D9")


def test_groups_are_compared(trained, dissected):
    table = dissect.compare([trained, dissected])
    assert set(table["label"]) == {"srgnn", "srgnn with SparseVD", "srgnn matched"}
    mean = trained.metrics().query("split == 'test'")["mrr@20"].mean()
    assert np.isclose(table.set_index("label").loc["srgnn", "mrr@20"], mean)
    pairs = dissect.compare([trained, str(dissected.path)], pairs=True)
    assert set(pairs["metric"]) == {"hr@20", "mrr@20"} and set(pairs["a"]) | set(pairs["b"]) == set(table["label"])


def test_a_baseline_is_a_group_too(tiny):
    group = dissect.train("pop", tiny)
    assert group.metrics()["hr@20"].item() > 0
    assert dissect.recommend(group, [[1]], k=3)["probability"].isna().all()
    same = [
        dissect.recommend(group, session, k=3) for session in ([[1, 2]], np.array([[1, 2]]), torch.tensor([[1, 2]]))
    ]
    assert same[0].equals(same[1]) and same[0].equals(same[2])


# --- recommendations ---------------------------------------------------------------------------------------


def test_recommendations_are_those_of_the_command_line(trained):
    found = dissect.recommend(trained, [[12, 7, 99], [3]], k=4, seed=2)
    assert list(found.columns) == ["session", "rank", "item", "score", "probability"]
    assert found["session"].tolist() == [0] * 4 + [1] * 4
    words = ["recommend", str(trained.path / "s2"), "--session", "12,7,99", "--k", "4", "--json"]
    said = json.loads(CliRunner().invoke(main, words).stdout)["items"]
    pd.testing.assert_frame_equal(found[:4].drop(columns="session"), pd.DataFrame(said))
    unseen = dissect.recommend(str(trained.path / "s1"), [found["item"].tolist()[:4]], k=300, unseen=True)
    assert len(unseen) == 300 - len(set(found["item"].tolist()[:4]))


def test_the_data_of_a_baseline_may_lie_elsewhere(tiny, scratch):
    group = dissect.train("pop", tiny)
    found = dissect.recommend(group.path, [[1]], k=3)
    (scratch / "data").rename(scratch / "elsewhere")
    with pytest.raises(errors.DissectError, match="tiny"):
        dissect.recommend(group.path, [[1]], k=3)
    pd.testing.assert_frame_equal(dissect.recommend(group.path, [[1]], k=3, data_dir="elsewhere"), found)


@pytest.mark.parametrize("session", [[], [0], [301], [1.5], ["1"]])
def test_a_session_that_the_model_cannot_know_is_refused(trained, session):
    with pytest.raises(errors.UsageError):
        dissect.recommend(trained, [[1], session], seed=1)


def test_of_several_seeds_one_has_to_be_named(trained):
    with pytest.raises(errors.UsageError, match="several runs"):
        dissect.recommend(trained, [[1]])
    with pytest.raises(errors.UsageError, match="s7"):
        dissect.recommend(trained, [[1]], seed=7)


def test_sessions_of_identifiers():
    lists = [[1, 2, 3], [2, 3, 1], [3, 1, 2], [1, 3, 2]] * 5
    names = ["red shoe", "sku,2", 1]
    data = dissect.Dataset("shop", 3, Sessions.from_lists(lists), Sessions.from_lists(lists), identifiers=names)
    group = dissect.train("srgnn", data, dim=4, max_steps=5, device="cpu")
    found = dissect.recommend(group, [["red shoe", "sku,2"]], k=3)
    assert sorted(map(str, found["identifier"])) == ["1", "red shoe", "sku,2"]
    same = dissect.recommend(group, [[1, 2]], k=3)
    pd.testing.assert_frame_equal(found, same)
    third = dissect.recommend(group, [["1"]], k=3)  # a text is an identifier, a number is a number
    pd.testing.assert_frame_equal(third, dissect.recommend(group, [[3]], k=3))
    with pytest.raises(errors.UsageError, match="'red shoes'") as caught:
        dissect.recommend(group, [["red shoes"]])
    assert "red shoe" in caught.value.hint


# --- a class of one's own ----------------------------------------------------------------------------------


def test_a_class_of_a_notebook_is_known_by_its_text(tiny):
    own, same = run_cell(OWN)["Own"], run_cell(f"x = 1\n{textwrap.dedent(OWN)}\nx = 2")["Own"]
    changed = run_cell(OWN.replace("self.scale *", "2 * self.scale *"))["Own"]
    groups = [dissect.run(cls, tiny, **TINY, seeds=(1,)) for cls in (own, same, changed)]
    assert groups[0].path == groups[1].path != groups[2].path
    assert groups[0].path.name.startswith("Own-tiny-") and groups[0].config.model == "Own"
    assert len(groups[0].config.model_source) == 64
    # Nothing but recommending needs the class.
    plain = dissect.open_group(groups[0].path)
    assert len(plain.ranks()) and len(plain.metrics()) and len(plain.density()) and plain.verdict()["O1"]
    assert set(dissect.compare(groups)["model"]) == {"Own"}
    with pytest.raises(errors.DataError, match="class Own"):
        dissect.recommend(plain, [[1]])
    with pytest.raises(errors.DataError, match="not the class"):
        dissect.open_group(groups[0].path, model=changed)
    found = dissect.recommend(dissect.open_group(groups[0].path, model=same), [[1, 2]], k=2)
    pd.testing.assert_frame_equal(found, dissect.recommend(groups[0], [[1, 2]], k=2))


def test_the_command_line_takes_such_a_class_from_a_file(tiny, scratch):
    group = dissect.train(run_cell(OWN)["Own"], tiny, **TINY)
    words = ["recommend", str(group.path), "--session", "1,2", "--k", "2", "--json"]
    said = CliRunner().invoke(main, words)
    assert said.exit_code == 3 and "the class Own, which was given to Python" in said.stderr
    (scratch / "one.py").write_text(f"import math\n{textwrap.dedent(OWN)}")
    said = CliRunner().invoke(main, [*words, "--model", "one.py:Own"])
    assert said.exit_code == 0, said.stderr
    assert [row["item"] for row in json.loads(said.stdout)["items"]] == dissect.recommend(group, [[1, 2]], 2)[
        "item"
    ].tolist()
    (scratch / "one.py").write_text(textwrap.dedent(OWN).replace("self.scale *", "2 * self.scale *"))
    assert CliRunner().invoke(main, [*words, "--model", "one.py:Own"]).exit_code == 3


def test_training_leaves_the_process_as_it_was(tiny):
    torch.set_num_threads(2)
    torch.manual_seed(7)
    before = torch.get_rng_state()
    group = dissect.train("srgnn", tiny, **TINY)
    dissect.recommend(group, [[1]])
    group.opinions(n=10, quiet=True)
    Path("mine.toml").write_text('[[arm]]\nmodel = "srgnn"\n')
    study = dissect.study("mine.toml", tiny, dim=8, epochs=1, device="cpu", quiet=True)
    study.run()
    if find_spec("optuna"):
        assert list(study.tune(1))
    assert torch.get_num_threads() == 2 and torch.equal(torch.get_rng_state(), before)
    assert torch.tensor(1e-40) * 1.0 > 0  # denormals


def test_numbers_of_numpy_are_numbers_of_a_study_and_of_a_report(monkeypatch):
    asked = []
    monkeypatch.setattr("dissect.reporting.gathered", lambda _, **given: asked.append(given) or 1 / 0)
    with pytest.raises(ZeroDivisionError):
        dissect.report("table2", dim=np.int64(8), seeds=np.array([1, 2]), protocol="clean")
    given = {name: asked[0][name] for name in ("dim", "seeds", "protocol")}
    assert (
        given == {"dim": 8, "seeds": (1, 2), "protocol": None} and type(given["dim"]) is type(given["seeds"][0]) is int
    )


def test_an_imported_class_is_known_by_its_file_as_on_the_command_line(tiny, scratch, monkeypatch):
    (scratch / "one_of_mine.py").write_text(textwrap.dedent(OWN))
    monkeypatch.syspath_prepend(scratch)
    import one_of_mine

    group = dissect.train(one_of_mine.Own, tiny, **TINY)
    assert group.config.model == "one_of_mine.py:Own"
    assert group.path == dissect.train("one_of_mine.py:Own", tiny, **TINY).path
    again = dissect.open_group(group.path, model=one_of_mine.Own)
    assert len(dissect.recommend(again, [[1]], k=2)) == len(dissect.recommend(str(group.path), [[1]], k=2)) == 2
    in_notebook = dissect.train(run_cell(OWN)["Own"], tiny, **TINY)
    assert len(dissect.recommend(dissect.open_group(in_notebook.path, model=one_of_mine.Own), [[1]], k=2)) == 2


def test_what_a_class_derives_from_is_part_of_it(tiny):
    names = run_cell(OWN)
    run_cell("class Child(Own):\n    def more(self):\n        pass\n", names)
    first = dissect.train(names["Child"], tiny, **TINY)
    names = run_cell(OWN.replace("self.scale *", "2 * self.scale *"))
    run_cell("class Child(Own):\n    def more(self):\n        pass\n", names)
    assert dissect.train(names["Child"], tiny, **TINY).path != first.path


def test_settings_and_options_of_one_name_are_told_apart(tiny):
    group = dissect.train(run_cell(OWN)["Own"], tiny, **TINY, lr=0.01, options={"lr": 0.5})
    assert group.config.lr == 0.01 and group.config.model_options["lr"] == 0.5


@pytest.mark.parametrize(
    ("text", "given", "says"),
    [
        ("class Own:\n    pass", {}, "Own lacks"),
        (OWN.replace("class Own", "class srgnn"), {}, "srgnn"),
        (OWN, {"jobs": 2}, "jobs"),
        (OWN.replace("return self.items", "return self.items[1:]"), {}, "breaks the contract"),
    ],
)
def test_a_class_that_cannot_be_trained_is_refused(tiny, scratch, text, given, says):
    names = run_cell(text)
    with pytest.raises(errors.UsageError, match=says):
        dissect.train(names.get("Own") or names["srgnn"], tiny, **TINY, **given)
    assert not (scratch / "runs").exists()


def test_a_class_without_text_is_refused(tiny):
    names = {"__name__": "nowhere"}
    exec(textwrap.dedent(OWN), names)
    with pytest.raises(errors.UsageError, match="source text of the class Own") as caught:
        dissect.train(names["Own"], tiny)
    assert "file" in caught.value.hint
