"""The verbs as a user types them, on tiny runs: what they leave, print and return."""

import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import time

import pytest
from click.testing import CliRunner

from dissect.cli import main
from dissect.data import catalog
from dissect.data.sessions import Dataset, Sessions
from dissect.runs import files, folders
from dissect.training import loop

ONE = ["--literal", "--seed", "1"]  # quick: one seed, without shadows and the matched dense run
TINY = ["--max-steps", "6", "--dim", "4", "--device", "cpu", "--quiet"]


@pytest.fixture(scope="module")
def two_seeds(tmp_path_factory):
    """A runs folder with a dissected group of two seeds."""
    folder = tmp_path_factory.mktemp("made") / "runs"
    words = ["run", "--literal", *TINY, "--seed", "1", "--seed", "2", "--runs-dir", str(folder)]
    assert CliRunner().invoke(main, words, prog_name="dissect").exit_code == 0
    return folder


@pytest.fixture
def group(two_seeds, typed, tmp_path):
    """That group, copied to where `typed` looks for runs."""
    shutil.copytree(two_seeds, tmp_path / "runs")
    return folders.newest_group("runs")


@pytest.fixture
def undrawn(monkeypatch):
    """Figures are drawn, and not written in all their formats, which takes a second each."""
    monkeypatch.setattr("figures.style.save", lambda drawn, stem, table, words: [stem])


@pytest.fixture
def small(tmp_path):
    """A data set that is trained and ranked in no time, in the data folder of `typed`."""
    sessions = Sessions.from_lists([[i % 30 + 1, (i + 1) % 30 + 1, (i + 2) % 30 + 1] for i in range(60)])
    catalog.save(Dataset("small", 30, sessions.part(0, 45), sessions.part(45, 60)), tmp_path / "data")
    return ["--dataset", "small"]


def test_run_leaves_a_group_and_a_verdict_and_is_refused_the_second_time(typed, tmp_path):
    code, out, _ = typed("run", *ONE, *TINY, "--json")
    verdict = json.loads(out)
    assert code == 0 and verdict["O1"]["answer"] == "undecided"
    group = folders.newest_group("runs")
    assert files.read_json(group / "verdict.json")["seeds"] == [1]
    assert files.read_json(group / "data.json")["provenance"]["source"] == "generated"
    code, _, err = typed("run", *ONE, *TINY)
    assert code == 2 and "Finished already" in err and "--force" in err
    assert "…" not in typed("verdict")[1]  # all numbers fit into 80 columns
    assert typed("run", *ONE, *TINY, "--force")[0] == 0
    assert (group / "s1.old-1" / "DONE").exists()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--epochs", "nan"], "--epochs must be above 0, and below a million, not nan"),
        (["--epochs", "inf"], "not inf"),
        (["--epochs", "1", "--batch-size", "0"], "'--batch-size': 0 is not in the range"),
        (["--batch-size", "99999999999999999999"], "is not in the range"),
        (["--max-steps", "99999999999999999999"], "is not in the range"),
        (["--seed", "99999999999999999999"], "is not in the range"),
        (["--validation", "0"], "--validation 0 leaves nothing to choose the epoch on"),
        (["--validation", "0.00001"], "leaves nothing to choose the epoch on"),
        (["--negatives", "999999"], "must be fewer than the 300 items"),
        (["--patience", "-1"], "'--patience': -1 is not in the range"),
        (["--option", "dropout=1.5"], "cannot be built with these options"),
    ],
)
def test_settings_that_make_no_sense_are_usage_errors(typed, tmp_path, words, says):
    code, _, err = typed("train", "srgnn", "--dataset", "demo", "--quiet", *words)
    assert code == 2 and says in " ".join(err.split()) and not list(tmp_path.rglob("config.toml"))


def test_a_configuration_that_was_changed_by_hand_is_told(typed, tmp_path):
    typed("run", *ONE, *TINY)
    path = folders.newest_group("runs") / "config.toml"
    text = path.read_text()
    for old, new, says in (
        ("threshold = 3.0", 'threshold = "three"', "Expected `float`, got `str` - at `$.threshold`"),
        ("max_steps = 6", "max_steps = 6.5", "Expected `int`, got `float` - at `$.max_steps`"),
        ('noise = "lrt"', "noise = true", "Expected `str`, got `bool` - at `$.noise`"),
    ):
        assert old in text
        path.write_text(text.replace(old, new))
        for words in (["plot", "density", str(path.parent)], ["evaluate", str(path.parent)]):
            code, _, err = typed(*words)
            assert code == 3 and says in " ".join(err.split())
    path.write_text(text.replace("lr = 0.001", "lr = 0.002"))
    again = ["run", "--literal", *TINY, "--seed", "2"]
    for words in (again, ["verdict"], ["plot", "density"], ["compare", path.parent.name]):
        code, _, err = typed(*words)
        assert (
            code in (2, 3)
            and ("do not match the hash" in err or "There are no" in err)
            and len(folders.group_runs(path.parent)) == 1
        )
    path.write_text("")
    code, _, err = typed("verdict", path.parent.name)
    assert code == 3 and "required field `model`" in err
    path.write_text(text)
    (path.parent / "s1" / "summary.json").write_text('{"schema": 1}')
    code, _, err = typed("verdict", path.parent.name)
    assert code == 3 and "summary.json is damaged" in err and "`seed`" in err


def test_verdict_and_figures_are_of_the_newest_dissected_group(typed, small, undrawn):
    assert typed("verdict")[0] == 2
    code, ended, _ = typed("run", *ONE, *small, *TINY)
    dissected = folders.newest_group("runs")
    assert typed("train", "srgnn", *small, *TINY)[0] == 0
    dense = folders.newest_group("runs")
    assert dense != dissected and folders.newest_group("runs", dissected=True) == dissected
    for words in (["verdict"], ["verdict", dissected.name]):
        assert typed(*words) == (0, ended, "")
    assert json.loads(typed("verdict", "--json")[1]) == {
        name: value for name, value in files.read_json(dissected / "verdict.json").items() if name != "schema"
    }
    for figure in ("density", "histogram"):
        code, out, _ = typed("plot", figure)
        assert code == 0 and dissected.name in out and dense.name not in out
    code, _, err = typed("plot", "density", dense.name)
    assert code == 3 and "trained without SparseVD" in err
    code, _, err = typed("verdict", dense.name)
    assert code == 2 and "made by dissect train" in err
    assert typed("verdict", f"{dissected.name}/s1") == (0, ended, "")
    shutil.copytree(dissected / "s1", dissected / "s2", ignore=shutil.ignore_patterns("DONE"))
    left = f"Not finished, so not counted: {dissected}/s2. Go on: dissect resume {dissected}/s2\n"
    assert typed("verdict", dissected.name) == (0, ended, left)


def test_a_preset_that_is_the_default_is_the_same_group(typed):
    words = ["train", "attenmixer", "--dataset", "demo", *TINY, "--option", "heads=2"]
    assert typed(*words)[0] == 0
    code, _, err = typed("train", "attenmixer", "--dataset", "demo", *TINY, "--preset", "paper", "--option", "heads=2")
    assert code == 2 and "Finished already" in err
    assert typed("train", "attenmixer", "--dataset", "demo", *TINY, "--option", "heads=8")[0] == 0
    code, _, err = typed("train", "attenmixer", "--dataset", "demo", *TINY, "--preset", "paper")
    assert code == 2 and "Finished already" in err and len(folders.find_groups("runs")) == 2


def test_the_closing_table_tells_settings_that_the_names_do_not(typed):
    words = ["train", "srgnn", "--dataset", "demo", *TINY]
    assert typed(*words)[0] == 0
    _, out, _ = typed(*words, "--option", "steps=0")
    assert f"{folders.newest_group('runs').name} (steps 0)" in " ".join(out.split())


def test_any_threshold_has_its_verdict_and_figure(typed, small, undrawn):
    assert typed("run", *ONE, *small, *TINY, "--threshold", "2.71828182")[0] == 0
    for words in (["verdict"], ["plot", "density"]):
        code, out, _ = typed(*words)
        assert code == 0 and out


def test_a_run_that_is_not_finished_is_no_start(typed):
    words = ["--dataset", "demo", *TINY]
    typed("train", "srgnn", *words)
    run = folders.newest_group("runs") / "s1"
    (run / "DONE").unlink()
    code, _, err = typed("run", *ONE, *words, "--init-from", str(run))
    assert code == 2 and "is not finished" in err


def test_a_density_record_that_lost_its_end_is_not_drawn(typed):
    typed("run", *ONE, *TINY)
    record = folders.newest_group("runs") / "s1" / "density.jsonl"
    lines = record.read_bytes().splitlines(keepends=True)
    last = json.loads(lines[-1])["step"]
    record.write_bytes(b"".join(line for line in lines if json.loads(line)["step"] < last))
    for words in (["plot", "density"], ["plot", "histogram"], ["verdict"]):
        code, _, err = typed(*words)
        assert code == 3 and f"and the run has {last}" in err


def test_the_newest_group_is_the_newest_that_can_be_read(typed, tmp_path, group, undrawn):
    sound = group
    (tmp_path / "runs" / "zz").mkdir()
    (tmp_path / "runs" / "zz" / "config.toml").write_bytes(b"\xff\xfe garbage")
    assert folders.newest_group("runs") == sound
    code, out, _ = typed("plot", "density")
    assert code == 0 and sound.name in out


def test_what_a_figure_leaves_out_of_the_model_is_in_its_words(typed):
    typed("run", *ONE, *TINY)
    typed("run", *ONE, *TINY, "--without", "propagation")
    code, out, _ = typed("plot", "density", "--variant", "without-propagation")
    words = [line for line in out.split() if line.endswith(".txt")]
    with open(words[0]) as file:
        assert code == 0 and "srgnn without propagation, demo" in file.read()


def test_runs_of_a_model_that_differ_say_in_what(typed):
    words = ["train", "srgnn", "--dataset", "demo", "--max-steps", "3", "--dim", "4", "--device", "cpu", "--quiet"]
    typed(*words)
    _, out, _ = typed(*words, "--order", "chronological")
    assert " order\n" in out and "chronological" in out and "shuffled" in out


def test_several_seeds_go_on_with_those_that_are_missing(typed):
    typed("run", "--literal", *TINY, "--seed", "1")
    code, out, err = typed("run", "--literal", *TINY, "--seed", "1", "--seed", "2", "--json")
    assert code == 0 and "Seed 1 is finished already" in err
    assert json.loads(out)["seeds"] == [1, 2]


def test_the_reduced_model_joins_the_group_and_the_verdict(typed):
    typed("run", *ONE, *TINY)
    code, out, _ = typed("run", *ONE, *TINY, "--without", "propagation", "--json")
    verdict = json.loads(out)
    assert code == 0 and set(verdict["need"]) == {"propagation"}
    for kind, run in (("full", "s1"), ("reduced", "without-propagation/s1")):
        test = files.read_json(folders.newest_group("runs") / run / "summary.json")["test"]
        assert verdict["need"]["propagation"][f"mrr@20_{kind}"] == pytest.approx(test["mrr@20"])
        assert verdict["need"]["propagation"][f"hr@20_{kind}"] == pytest.approx(test["hr@20"])
    assert folders.variants(folders.newest_group("runs")) == ["full", "without-propagation"]
    assert len(folders.find_groups("runs")) == 1


def test_a_seed_or_role_given_twice_counts_once_and_is_said(typed):
    words = ["--seed", "1", "--seed", "1", "--without", "propagation", "--without", "propagation"]
    code, _, err = typed("run", *ONE, *TINY, *words)
    assert code == 0 and "--seed 1 is given more than once" in err and "--without propagation is given" in err
    assert folders.variants(folders.newest_group("runs")) == ["without-propagation"]


def test_a_preset_says_the_width_unless_the_user_does(typed):
    words = ["train", "srgnn", "--dataset", "demo", "--max-steps", "1", "--device", "cpu", "--quiet"]
    for more, dim in (([], 32), (["--preset", "authors"], 100), (["--preset", "authors", "--dim", "4"], 4)):
        assert typed(*words, *more)[0] == 0
        group = folders.newest_group("runs")
        assert folders.group_config(group)["model_options"]["dim"] == dim
        assert files.read_json(group / "s1" / "summary.json")["steps"] == 1


def test_an_infinite_exponent_stands_in_the_summary_as_text(typed):
    words = ["--preset", "paper-LP", "--dim", "8", "--max-steps", "1", "--device", "cpu", "--quiet"]
    assert typed("train", "attenmixer", "--dataset", "demo", *words)[0] == 0
    assert files.read_json(folders.newest_group("runs") / "s1" / "summary.json")["p"] == "inf"


def test_where_chooses_the_module(typed):
    verdict = json.loads(typed("run", *ONE, *TINY, "--where", "gnn", "--json")[1])
    assert {m["module"] for m in verdict["density"]["matrices"]} == {"gnn", "control"}
    assert verdict["O2"]["answer"] == "not applicable"


@pytest.mark.parametrize(("noise", "prior"), [("weight", "normal"), ("lrt", "ard")])
def test_every_noise_and_prior_trains(typed, noise, prior):
    assert typed("run", *ONE, *TINY, "--noise", noise, "--prior", prior)[0] == 0


def test_a_dense_run_can_be_the_start_of_a_dissection(typed):
    assert typed("train", "srgnn", "--dataset", "demo", "--epochs", "0.1", "--dim", "4", "--quiet")[0] == 0
    dense = folders.newest_group("runs") / "s1"
    assert typed("run", *ONE, *TINY, "--init-from", str(dense))[0] == 0
    dissected = folders.newest_group("runs") / "s1"
    code, _, err = typed("run", *ONE, *TINY[:2], *TINY[4:], "--dim", "8", "--init-from", str(dense))
    assert code == 3 and "another shape" in err
    code, _, err = typed("run", *ONE, *TINY, "--init-from", str(dissected))
    assert code == 3 and "itself dissected" in err


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (["run", "--model", "srgn"], 2, "Did you mean srgnn"),
        (["run", "--dataset", "demo-wlak"], 2, "demo-walk"),
        (["run", "--dataset", "gowalla"], 3, "dissect data import gowalla"),
        (["run", "--where", "reedout"], 2, "readout"),
        (["run", "--without", "transformation"], 2, "propagation, gnn, attention"),
        (["run", "--option", "stps=2"], 2, "steps="),
        (["run", "--preset", "papr"], 2, "paper"),
        (["run", "--option", "steps=x"], 2, "steps of srgnn is a whole number, not 'x'"),
        (["run", "--option", "steps=-1"], 2, "steps is at least 0, not -1"),
        (
            ["train", "srgnn", "--option", "readout=attenmixer", "--option", "levels=x"],
            2,
            "srgnn cannot be built with these options",
        ),
        (["train", "attenmixer", "--option", "levels=50"], 2, "and the longest prefix has"),
        (["run", "--threshold", "99"], 2, "at most 20, not 99"),
        (["run", "--kl-weight", "inf"], 2, "--kl-weight must"),
        (["run", "--model", "sknn"], 2, "baseline"),
        (["models", "attenmixer", "--dim", "0"], 2, "range"),
        (["train", "pop", "--preset", "x"], 2, "pop has no presets"),
        (["train", "srgnn", "--epochs", "1", "--max-steps", "5"], 2, "exclude"),
        (["run", "--lr", "-1"], 2, "lr must"),
        (["run", "--epochs", "0"], 2, "above 0"),
        (["run", "--epochs", "1", "--max-steps", "5"], 2, "exclude"),
        (["run", "--validation", "1.5"], 2, "validation"),
        (["run", "--max-steps", "0"], 2, "learns in steps, and --max-steps is 0"),
        (["run", "--model", "nofile.py:X"], 2, "no file"),
        (["run", "--init-from", "nowhere"], 2, "no group"),
        (["plot", "density"], 2, "dissect run"),
        (["plot", "density", "nothing"], 2, "no group"),
        (["train", "attenmixer", "--option", "heads=3", "--preset", "official", "--dim", "8"], 2, "heads"),
        (["train", "attenmixr", "--dataset", "demo"], 2, "attenmixer"),
        (["data", "stats", "nothing"], 2, "data set"),
        (["compare", "--seed", "-1"], 2, "0<=x<=1000000000"),
        (["models", "srgnn", "--items", "1000000000000000"], 2, "cannot be built with 1,000,000,000,000,000 items"),
        (["train", "srgnn", "--anyway"], 2, "Add --tuned."),
        (["study", "table", "claims", "--json", "--out", "claims.md"], 2, "means markdown by its ending"),
        (["study", "table", "table2", "--dim", "8"], 2, "Train: dissect study run table2"),
        (["study", "figure", "figure6", "--seed", "2", "--seed", "3"], 2, "dissect study run figure6"),
        (["study", "table", "claims", "--out", "claims.csv"], 2, "End its name in .md or .json."),
        (["data", "import", "x", "--format", "srgnn", "no.txt", "no.txt"], 3, "Give the path from the folder"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_bad_words_are_refused_with_the_way_out_and_write_nothing(typed, tmp_path, words, code, says):
    given, out, err = typed(*words)
    assert (given, out) == (code, "")
    assert says in err and "Traceback" not in err
    assert not (tmp_path / "runs").exists() and not (tmp_path / "data").exists()


def test_a_users_file_that_breaks_is_a_message(typed, tmp_path):
    (tmp_path / "bad.py").write_text("import nothing_like_this\n")
    code, _, err = typed("run", "--model", "bad.py:X")
    assert code == 2 and "imports nothing_like_this" in err
    (tmp_path / "other.py").write_text("class Other:\n    pass\n")
    assert "lacks item_states" in typed("run", "--model", "other.py:Other")[2]
    assert "Other" in typed("run", "--model", "other.py:Othr")[2]


def test_import_list_stats_and_run_on_the_data(typed, tmp_path):
    sessions = [[1, 2, 3], [2, 3, 1, 2], [4, 1], [3, 4, 2]] * 5
    (tmp_path / "train.txt").write_bytes(pickle.dumps(sessions))
    (tmp_path / "test.txt").write_bytes(pickle.dumps(([[1, 2], [1], [4]], [3, 2, 1])))
    words = ["data", "import", "mine", "--format", "srgnn", "train.txt", "test.txt"]
    code, out, _ = typed(*words)
    assert code == 0 and "20 sessions = 40 prefixes" in out and "2 sessions = 3 prefixes" in out
    assert typed(*words)[0] == 2 and out.endswith("Next: dissect run --dataset mine\n")
    elsewhere = typed(*words, "--data-dir", "my data")[1]
    assert elsewhere.endswith("Next: dissect run --dataset mine --data-dir 'my data'\n")
    assert json.loads(typed("data", "list", "--json")[1])["present"] == ["mine"]
    counts = json.loads(typed("data", "stats", "mine", "--json")[1])["mine"]
    assert (counts["clicks"], counts["prefixes"], counts["items"], counts["sessions"]) == (65, 43, 4, 22)
    assert counts["distinct"] == pytest.approx(100 * 17 / 22)
    assert "prefixes" in typed("data", "stats", "mine", "demo")[1]
    assert "not known" in typed("data", "stats", "mine", "demo")[1]
    assert "not known" not in typed("data", "stats", "mine")[1]
    assert typed("run", *ONE, *TINY, "--dataset", "mine")[0] == 0
    assert typed("run", *ONE, *TINY, "--dataset", "mine", "--model", "attenmixer", "--option", "heads=2")[0] == 0


def test_a_name_that_is_taken_is_not_to_be_forced_by_a_command_that_cannot_bring_it(typed, tmp_path):
    (tmp_path / "train.txt").write_bytes(pickle.dumps([[1, 2, 3], [2, 3, 1, 2]] * 5))
    (tmp_path / "test.txt").write_bytes(pickle.dumps(([[1, 2], [1]], [3, 2])))
    assert typed("data", "import", "tmall", "--format", "srgnn", "train.txt", "test.txt")[0] == 0
    for words, code in ((["prepare", "tmall", "--from", "log.csv"], 2), (["fetch", "tmall"], 3)):
        given, _, err = typed("data", *words)
        assert given == code and "dissect data import tmall --format srgnn" in err and "--force" not in err
    (tmp_path / "data" / "tmall" / "data.json").write_text('{"n_items": ')
    code, _, err = typed("data", "stats", "tmall")
    assert (
        code == 3
        and "data.json: it is not JSON from line 1, column 13 on" in err
        and "Bring it again with --force" in err
    )


@pytest.mark.parametrize("kind", ["density", "histogram"])
def test_a_figure_is_written_in_all_formats(typed, group, kind):
    code, out, _ = typed("plot", kind)
    paths = out.split()
    assert code == 0 and all(os.path.getsize(path) > 0 for path in paths)
    assert {path.rsplit(".", 1)[1] for path in paths} == {"pdf", "svg", "png", "csv", "txt"}


def test_figures_take_options_and_refuse_wrong_ones(typed, group, undrawn):
    assert typed("plot", "density", "--measure", "D2s", "--tau", "0")[0] == 0
    assert typed("plot", "density", "--threshold", "2.5")[0] == 2
    assert "from -20 to 20" in typed("plot", "histogram", "--threshold", "99")[2]
    code, _, err = typed("plot", "density", "--variant", "without-gnn")
    assert code == 2 and "full" in err


def test_figures_that_cannot_be_written_are_told(typed, group):
    for kind in ("density", "histogram", "training"):
        code, _, err = typed("plot", kind, "--out", "/dev/null/figures")
        assert code == 1 and "Could not write to /dev/null/figures" in err and "--out" in err


def test_an_option_of_a_model_without_a_value_is_true(typed, small):
    words = ["train", "narm", *small, *TINY]
    assert typed(*words, "--softmax")[0] == 0
    assert typed("train", "narm", "--softmax", *small, *TINY)[0] == 2  # the same group: finished already
    assert typed(*words, "--softmax=false")[0] == 0
    groups = folders.find_groups("runs")
    assert [folders.group_config(group)["model_options"].get("softmax", False) for group in groups] == [True, False]
    code, _, err = typed("train", "srgnn", "--steps", *small, *TINY)
    assert code == 2 and "steps of srgnn is a whole number" in err


def test_models_without_a_name_takes_no_option_of_a_model(typed):
    for words in (["--dim", "3"], ["--items", "9"], ["--preset", "paper"], ["--steps", "2"]):
        code, out, err = typed("models", *words)
        assert code == 2 and not out and "of which model?" in err and "dissect models NAME" in err
    assert typed("models", "--json")[0] == 0


def test_models_counts_the_weights_by_role(typed):
    model = json.loads(typed("models", "srgnn", "--dim", "4", "--items", "10", "--json")[1])
    assert model["parameters"] == 10 * 4 + (15 * 16 + 4) + (2 * 12 + 2 * 4 + 2 * 4 + 4) + 8
    assert {m["role"] for m in model["matrices"]} == {"propagation", "update", "attention", "transformation"}


def test_train_takes_the_newest_data_set_and_ends_with_a_table(typed, small):
    typed("run", *ONE, *TINY, *small)
    code, out, err = typed("train", "attenmixer", *TINY, "--option", "heads=2")
    assert code == 0 and "as in the newest group" in err
    assert "attenmixer-small" in out and "srgnn-small" in out
    for name in ("pop", "spop", "sknn", "vsknn"):
        code, out, _ = typed("train", name, *small, "--quiet", "--json")
        assert code == 0 and name in {row["model"] for row in json.loads(out)}
    code, out, err = typed("train", "srgnn", *TINY, "--protocol", "paper")
    assert code == 0 and "flatter" in err and "attenmixer-small" not in out


def test_what_a_baseline_has_no_use_for_is_said(typed):
    words = ["train", "pop", "--dataset", "demo"]
    code, _, err = typed(*words, "--dim", "8", "--products", "bf16", "--seed", "1", "--seed", "2")
    assert code == 0 and "--seed, --dim, --products: ignored, because pop" in err
    assert "without effect" not in typed(*words, "--force")[2]


def test_the_paper_protocol_reports_each_metric_at_its_best(typed):
    typed("train", "srgnn", "--dataset", "demo", "--epochs", "2", "--dim", "4", "--protocol", "paper", "--quiet")
    run = folders.newest_group("runs") / "s1"
    history = [row for row in files.read_jsonl(run / "metrics.jsonl") if row["kind"] == "eval"]
    summary = files.read_json(run / "summary.json")
    assert {row["split"] for row in history} == {"test"} and summary["valid"] is None
    assert summary["test"] == {metric: max(row[metric] for row in history) for metric in summary["test"]}


def test_refit_trains_on_everything_for_the_epochs_each_seed_chose(typed):
    words = ["srgnn", "--dataset", "demo", "--dim", "4", "--device", "cpu", "--quiet", "--batch-size", "1000"]
    seeds = ["--seed", "1", "--seed", "2"]
    code, out, _ = typed("train", *words, *seeds, "--epochs", "2", "--refit", "--json")
    assert code == 0 and len(json.loads(out)) == 2  # the chosen epoch's row and the refitted one
    chosen, refitted = sorted(folders.find_groups("runs"), key=lambda group: "refit" in group.name)
    for seed in (1, 2):
        first, again = (files.read_json(group / f"s{seed}" / "summary.json") for group in (chosen, refitted))
        assert (again["epochs"], again["valid"]) == (first["selected"]["epoch"], None)
        assert files.read_json(refitted / f"s{seed}" / "environment.json")["max_steps"] == again["steps"]
        assert again["steps"] / again["epochs"] > first["steps"] / first["epochs"]  # more examples
    assert typed("train", *words, "--protocol", "paper", "--refit")[0] == 2


def test_none_is_the_default_or_refused(typed):
    words = ["--dataset", "demo", "--dim", "4", "--device", "cpu", "--quiet", "--epochs", "0.02"]
    assert typed("train", "srgnn", *words, "--option", "dropout=none")[0] == 0
    assert folders.group_config(folders.newest_group("runs")).get("model_options") == {"dim": 4}
    code, _, err = typed("train", "srgnn", *words, "--option", "steps=none")
    assert code == 2 and "steps=none" in err


def test_the_readout_is_an_option_and_part_of_the_name(typed):
    words = ["--dataset", "demo", "--dim", "4", "--device", "cpu", "--quiet", "--epochs", "0.02"]
    assert typed("train", "srgnn", *words, "--readout", "attenmixer", "--option", "levels=2")[0] == 0
    assert folders.newest_group("runs").name.startswith("srgnn-attenmixer-demo-")
    code, _, err = typed("train", "attenmixer", *words, "--readout", "attenmixer")
    assert code == 2 and "takes no readout" in err


def test_seeds_side_by_side_have_the_numbers_of_seeds_in_turn(typed, small):
    words = ["srgnn", *small, *TINY]
    seeds = ["--seed", "1", "--seed", "2"]
    assert typed("train", *words, *seeds, "--runs-dir", "turn")[0] == 0
    assert typed("train", *words, *seeds, "--runs-dir", "side", "--jobs", "2")[0] == 0
    for seed in (1, 2):
        turn, side = (folders.run_path(folders.newest_group(folder), seed) for folder in ("turn", "side"))
        ranks = [folders.read_ranks(run / "ranks-test-best.npz")["rank"] for run in (turn, side)]
        assert (ranks[0] == ranks[1]).all()


def test_sigterm_stops_all_seeds_with_checkpoints(tmp_path, small):
    words = ["--max-steps", "100000", "--dim", "4", "--device", "cpu", "--seed", "1", "--seed", "2", "--seed", "3"]
    words += [*small, "--data-dir", str(tmp_path / "data")]
    process = subprocess.Popen(
        [sys.executable, "-m", "dissect", "run", *ONE, *words, "--jobs", "2", "--runs-dir", str(tmp_path)],
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    until = time.monotonic() + 60
    while len(list(tmp_path.glob("*/s*/density.jsonl"))) < 2 and time.monotonic() < until:
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130 and "Seed 1: Stopped" in err and "Seed 2: Stopped" in err
    for run in tmp_path.glob("*/s[12]"):
        assert f"\n  dissect resume {run}\n" in err
    assert len(list(tmp_path.glob("*/s*/checkpoints/last.pt"))) == 2  # the third never began


def test_sigterm_writes_a_checkpoint_and_the_same_command_goes_on(typed, small, monkeypatch):
    words = ["run", "--literal", "--seed", "1", *small, "--max-steps", "40", "--dim", "4", "--device", "cpu"]
    steps, real = [], loop.train_step

    def stopped(*about):
        steps.append(1)
        if len(steps) == 20:
            os.kill(os.getpid(), signal.SIGTERM)
        return real(*about)

    monkeypatch.setattr(loop, "train_step", stopped)
    code, _, err = typed(*words)
    assert code == 130 and "Go on from there" in err
    run = folders.run_path(folders.newest_group("runs"), 1)
    assert f"\n  dissect resume {run}\n" in err and "Error" not in err
    assert (run / "checkpoints" / "last.pt").exists() and not folders.is_done(run) and len(steps) < 25
    assert files.read_jsonl(run / "density.jsonl")
    assert typed(*words, "--quiet")[0] == 0
    assert folders.is_done(run) and len(steps) == 40


@pytest.mark.parametrize("name", ["../x", "a/b", ".x"])
def test_a_name_that_leads_out_of_the_runs_folder_is_refused(typed, tmp_path, name):
    code, _, err = typed("run", *ONE, *TINY, "--name", name)
    assert code == 2 and "--name" in err and not (tmp_path / "runs").exists()


@pytest.mark.parametrize("words", [["--dim", "0"], ["--dim", "-3"], ["--seed", "-1"]])
def test_numbers_out_of_range_are_refused(typed, words):
    assert typed("run", *ONE, "--max-steps", "2", "--device", "cpu", *words)[0] == 2


def test_an_option_given_twice_is_refused(typed):
    for words in (
        ("run", "--lr", "1", "--lr", "0.01"),
        ("data", "stats", "demo", "--data-dir", "a", "--data-dir", "b"),
    ):
        code, _, err = typed(*words)
        assert code == 2 and f"{words[-2]} is given 2 times" in err
    assert typed("data", "stats", "demo", "--json", "--json")[0] == 0  # a flag says the same twice


def test_an_option_for_several_values_is_taken_more_than_once(typed, tmp_path):
    words = ("train", "pop", "--dataset", "demo", "--seed", "1", "--seed", "2", "--runs-dir", str(tmp_path))
    assert typed(*words)[0] == 0


def test_a_seed_that_resume_begins_records_the_command_of_the_others(typed, monkeypatch):
    words = ["train", "srgnn", "--dataset", "demo", "--dim", "4", "--max-steps", "2", "--seed", "1", "--seed", "2"]
    monkeypatch.setattr("sys.argv", ["dissect", *words, "--quiet"])
    assert typed(*words, "--quiet")[0] == 0
    group = folders.newest_group("runs")
    shutil.rmtree(group / "s2")
    monkeypatch.setattr("sys.argv", ["dissect", "resume", str(group)])
    code, _, err = typed("resume", str(group), "--quiet")
    assert code == 0, err
    first, second = (files.read_json(group / f"s{seed}" / "environment.json")["command"] for seed in (1, 2))
    assert first == second == ["dissect", *words, "--quiet"]


@pytest.mark.parametrize("is_done", [True, False])
def test_a_run_that_is_begun_anew_is_that_of_its_command_and_the_old_one_is_kept(typed, monkeypatch, is_done):
    words = ["run", "--dataset", "demo", "--dim", "4", "--max-steps", "4", "--seed", "2", "--no-shadows", "--quiet"]
    monkeypatch.setattr("sys.argv", ["dissect", *words])
    assert typed(*words)[0] == 0
    group = folders.newest_group("runs")
    run, aside = group / "s2", group / "s2.old-1"
    before = {name: files.read_json(run / name) for name in ("summary.json", "environment.json")}
    if not is_done:
        (run / "DONE").unlink()
        for path in (run / "checkpoints").glob("last*.pt"):
            path.write_bytes(path.read_bytes()[:-9])
        code, _, err = typed("resume", str(run))
        assert code == 3 and f"dissect resume {run} --force" in err
    monkeypatch.setattr("sys.argv", ["dissect", "resume", str(run), "--force"])
    code, _, err = typed("resume", str(run), "--force")
    assert code == 0 and f"The old run is kept as {aside}" in err
    now = {name: files.read_json(run / name) for name in before}
    assert folders.is_done(run) and (aside / "DONE").exists() == is_done
    assert now["summary.json"]["test"] == before["summary.json"]["test"]
    assert now["environment.json"]["command"] == before["environment.json"]["command"] == ["dissect", *words]
    code, _, err = typed("resume", str(group), "--force")
    assert code == 2 and f"{group} is a group" in err and "/s1 --force" in err
    code, _, err = typed("resume", str(aside), "--force")
    assert code == 2 and "was set aside" in err
