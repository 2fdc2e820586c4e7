"""What is refused at once: before anything is trained, written or moved; and what is not ignored in silence."""

import json
import shlex
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

import dissect
from dissect import studied
from dissect.data.sessions import Dataset, Sessions
from dissect.errors import DataError, DivergedError, UsageError
from dissect.experiment.trials import stopped
from dissect.runs import folders
from dissect.text import as_options
from dissect.training.resume import Interrupted

SMALL = ("--dataset", "demo", "--dim", "4", "--max-steps", "6")


def command_of(run):
    return json.loads((run / "environment.json").read_text())["command"]


def test_a_run_without_a_checkpoint_keeps_the_command_that_began_it(typed):
    """It names the data folder, the other seeds and the user's model; `resume` names none of them."""
    assert typed("run", *SMALL, "--seed", "1", "--seed", "2")[0] == 0
    (group,) = folders.find_groups(Path("runs"))
    run, began = group / "s1", command_of(group / "s1")
    shutil.rmtree(run / "checkpoints")
    shutil.rmtree(group / "s2")
    (run / "DONE").unlink()
    assert typed("resume", str(run))[0] == 0
    assert command_of(run) == began and "--seed" in began
    assert typed("resume", str(group))[0] == 0 and folders.is_done(group / "s2")


@pytest.mark.parametrize("again", ["refit", "init_from"])
def test_a_run_that_cannot_begin_anew_is_not_moved(typed, again):
    words = ("gru4rec", "--dataset", "demo", "--dim", "4", "--max-steps", "6")
    assert typed("train", *words, *(["--refit", "--validation", "0.2"] if again == "refit" else []))[0] == 0
    first, *_ = folders.find_groups(Path("runs"))
    if again == "refit":
        (refit,) = Path("runs").glob("gru4rec-refit-*/s1")
        assert typed("resume", str(refit), "--force")[0] == 0 and folders.is_done(refit)
        return
    assert typed("train", *words, "--init-from", str(first / "s1"), "--name", "second")[0] == 0
    (second,) = Path("runs").glob("second-*/s1")
    shutil.move(first, "away")
    code, _, err = typed("resume", str(second), "--force")
    assert code and not list(second.parent.glob("s1.old*")) and folders.is_done(second), err


def test_resume_adds_no_seeds_of_the_group_that_a_dense_model_was_copied_from(typed):
    assert typed("run", *SMALL, "--seed", "1", "--seed", "2", "--kl-weight", "4")[0] == 0
    assert typed("run", *SMALL, "--seed", "1", "--kl-weight", "8")[0] == 0
    (eight,) = [g for g in folders.find_groups(Path("runs")) if folders.group_config(g)["kl_weight"] == 8]
    typed("resume", str(eight))
    assert [run.name for run in folders.group_runs(eight, folders.MATCHED)] == ["s1"]


@pytest.mark.parametrize("wrong", [("--kl-weight", "1", "--kl-weight", "-1"), ("--validation", "0.99999")])
def test_a_wrong_number_is_refused_before_anything_is_written(typed, wrong):
    code, _, err = typed("run", *SMALL, "--seed", "1", *wrong)
    assert code == 2 and wrong[0] in err and not Path("runs").exists()


TRAIN = [[1, 2, 3], [2, 3, 4], [3, 4, 1], [4, 2, 1], [1, 3, 2], [2, 4, 5], [1, 2, 3, 4], [2, 3], [3, 1], [4, 1]]


@pytest.mark.parametrize(
    ("parts", "says"),
    [
        ((TRAIN, [[1, 2, 9]]), "part test .* items should be 1 to 6, and click 2 is 9"),
        (([[0, 2], *TRAIN], [[1, 2]]), "part train .* click 0 is 0"),
        ((TRAIN, [[1], [2]]), "part test .* no session of two clicks"),
        (([], [[1, 2]]), "part train .* over one session or more"),
        ((TRAIN, [[1, 2], []]), "part test .* offsets should rise"),
    ],
)
def test_a_data_set_that_was_made_in_python_is_checked(tmp_path, parts, says):
    data = Dataset("own", 6, *map(Sessions.from_lists, parts))
    for verb in (dissect.train, dissect.run, dissect.tune):
        with pytest.raises(DataError, match=says):
            verb("srgnn", data, dim=4, runs_dir=tmp_path / "runs")
    with pytest.raises(DataError, match=says):
        dissect.study("table2", data, runs_dir=tmp_path / "runs")
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("given", [{"validation": "x"}, {"validation": None}, {"preset": ["x"]}], ids=str)
def test_a_value_of_another_kind_is_refused_by_every_verb(tmp_path, given):
    for verb in (dissect.train, dissect.tune):
        with pytest.raises(UsageError, match=next(iter(given))):
            verb("srgnn", "demo", dim=4, runs_dir=tmp_path, **given)


def test_names_with_spaces_are_quoted_in_every_command(typed):
    assert typed("train", "srgnn", *SMALL, "--runs-dir", "my runs")[0] == 0
    (group,) = folders.find_groups(Path("my runs"))
    (group / "s1" / "DONE").unlink()
    err = typed("run", *SMALL, "--init-from", str(group / "s1"))[2]
    assert f"dissect resume '{group}/s1'" in " ".join(err.split())
    err = typed("run", "--config", str(group / "config.toml"))[2]
    assert f"dissect train --config '{group}/config.toml'" in " ".join(err.split())
    Path("my model.py").write_text("from models.srgnn import SRGNN as M\n\n\nclass N(M):\n    pass\n")
    err = typed("train", "my model.py:N", *SMALL, "--tuned")[2]
    assert "dissect tune 'my model.py:N' --dataset demo" in " ".join(err.split())


def test_options_that_exclude_each_other_are_refused(typed):
    Path("log.csv").write_text("visit,product,time\n" + "".join(f"{i // 3},{i % 7},{1000 + i}\n" for i in range(300)))
    own = ("--from", "log.csv", "--session-col", "visit", "--item-col", "product", "--time-col", "time")
    code, _, err = typed("data", "prepare", "shop", *own, "--test-share", "0.5", "--test-last", "2d")
    assert code == 2 and "--test-last" in err and "--test-share" in err
    code, _, err = typed("data", "prepare", "shop", *own, "--recipe", "nosuch")
    assert code == 2 and "--recipe" in err
    code, _, err = typed("train", "srgnn", *SMALL, "--protocol", "paper", "--validation", "0.3")
    assert code == 2 and "--validation" in err
    code, _, err = typed("study", "run", "table1", "--dataset", "demo", "--shard", "3/2")
    assert code == 2 and "--shard" in err


def test_opinions_without_a_whole_model_say_how_it_is_trained(typed):
    assert typed("run", *SMALL, "--seed", "1", "--without", "propagation")[0] == 0
    code, _, err = typed("opinions", "srgnn-demo")
    assert code and "dissect resume" not in err and "--without" in err


def test_a_group_is_opened_as_the_model_that_made_it(typed):
    assert typed("train", "srgnn", *SMALL)[0] == 0
    dissect.open_group("srgnn-demo", model="srgnn")
    for other, error in (("narm", DataError), ("nosuch", UsageError)):
        with pytest.raises(error):
            dissect.open_group("srgnn-demo", model=other).evaluate()


def test_a_command_has_all_digits_of_a_number():
    assert as_options({"epochs": 2.0000001, "lr": 0.003}) == ["--epochs", "2.0000001", "--lr", "0.003"]
    assert as_options({"epochs": 3.0, "l2": 1e-05}) == ["--epochs", "3", "--l2", "1e-05"]


def test_an_export_says_the_way_back_to_the_folder_it_came_from(typed):
    code, out, _ = typed("data", "export", "demo", "--format", "srgnn", "--out", "one", "--data-dir", "my data")
    back = next(line for line in out.splitlines() if line.startswith("Back again: dissect "))
    assert code == 0 and typed(*shlex.split(back)[3:])[0] == 0
    assert (Path("my data") / "demo-copy").is_dir()


def test_the_error_of_another_process_has_the_class_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("wild.py").write_text(
        "from models.srgnn import SRGNN\n\n\n"
        "class Wild(SRGNN):\n"
        "    def encode(self, S, batch):\n"
        "        return super().encode(S, batch) * (float('nan') if len(batch) > 300 else 1.0)\n"
    )
    how = {"dim": 4, "max_steps": 3, "batch_size": 400}
    for jobs in (1, 2):
        with pytest.raises(DivergedError):
            dissect.train("wild.py:Wild", "demo", seeds=[1, 2], jobs=jobs, **how, runs_dir=f"runs{jobs}")


def test_a_tuning_that_is_stopped_stops_the_study_too(monkeypatch, tmp_path):
    """Only the fault of an arm leaves that arm out."""
    begun = []

    def tune(model, data, **how):
        begun.append(model)
        raise stopped(SimpleNamespace(folder=tmp_path), 3)

    monkeypatch.setattr(studied, "tune", tune)
    with pytest.raises(Interrupted):
        list(dissect.study("table2", "demo", dim=4, arms=["srgnn", "narm"], runs_dir=tmp_path).tune(1))
    assert len(begun) == 1


def test_what_is_for_a_study_is_refused_where_no_study_is_named(typed):
    assert typed("train", "gru4rec", "--dataset", "demo", "--dim", "4", "--max-steps", "6")[0] == 0
    (group,) = map(str, folders.find_groups(Path("runs")))
    code, _, err = typed("report", group, "--scale", "eighth", "--arm", "narm")
    said = " ".join(err.split())
    assert code == 2 and "no study is named: " in said and "scale" in said and "arms" in said
    assert not Path("report.html").exists()
    assert typed("report", group, "--runs-dir", "runs", "--data-dir", "data")[0] == 0


def test_the_weight_of_l0_gates_is_refused_without_them(typed):
    code, _, err = typed("opinions", "--l0-weight", "5")
    assert code == 2 and "Add --l0." in err


def test_a_tuning_with_a_damaged_table_says_so(typed):
    words = ("tune", "gru4rec", "--dataset", "demo", "--dim", "4", "--epochs", "0.02", "--trials", "1")
    assert typed(*words)[0] == 0
    (table,) = Path("runs/tuned").glob("*/trials.csv")
    table.write_text("a,b\n1,2\n")
    code, _, err = typed(*words, "--status")
    assert code == 3 and "trials.csv cannot be read" in err and "no column trial" in " ".join(err.split())
    code, _, err = typed(*words, "--status", "--timeout", "1")
    assert code == 2 and "--timeout has no effect" in err


def test_a_study_without_arms_is_told_that_it_has_none(typed):
    Path("b.toml").write_text('question = "x"\n')
    code, _, err = typed("study", "show", "b.toml")
    assert code == 3 and "it has no arm." in err


def test_a_recent_part_has_no_size_of_its_own(typed):
    Path("train.txt").write_text("0,1,2\n1,2\n2,0\n0,1\n")
    Path("test.txt").write_text("2,1\n0,2\n")
    words = ("data", "import", "x", "--format", "lessr", "train.txt", "test.txt", "--items", "9")
    code, _, err = typed(*words, "--recent", "1/2")
    assert code == 2 and "--items has no effect" in err
    assert typed(*words)[0] == 0
