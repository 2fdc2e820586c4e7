"""Studies: what they plan, that they stop and go on, what their tables say, and what they refuse."""

import errno
import json
import re
import shutil
import tomllib
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
import torch
from click.testing import CliRunner

import dissect
from analyses import paper, studies, study
from analyses.studies import STUDIES, Arm, Study, find_study
from dissect.cli import main
from dissect.data import catalog
from dissect.data.sessions import Dataset, Sessions
from dissect.errors import DataError, DivergedError, FinishedError, UsageError
from dissect.runs import files, folders
from dissect.studied import Studied
from dissect.usual import SCALES
from figures import lines, style
from models import MODELS

V = 12
SIZE = {"dim": 8, "epochs": 2, "seeds": (1, 2)}
MINE = """
question = "Do the last clicks suffice?"
[[arm]]
label = "popularity"
model = "pop"
[[arm]]
model = "srgnn"
settings = {batch_size = 32}
[[arm]]
label = "no graph"
model = "srgnn"
options = {steps = 0}
without = ["attention"]
settings = {batch_size = 32}
"""


@pytest.fixture
def data():
    """Sessions in which item i is followed by i + 1."""
    starts = np.random.default_rng(1).integers(V, size=200)
    sessions = [[int(start + step) % V + 1 for step in range(2 + n % 3)] for n, start in enumerate(starts)]
    return Dataset("diginetica", V, Sessions.from_lists(sessions[:150]), Sessions.from_lists(sessions[150:]))


@pytest.fixture
def mine(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text(MINE)
    return find_study(str(path))


def test_a_study_is_trained_stops_goes_on_and_is_shared(tmp_path, data, mine, capsys):
    todo = study.jobs(mine, data, SIZE, tmp_path)
    assert [(job.arm.label, job.seed) for job in todo] == [
        ("popularity", 1),  # has no seeds
        ("srgnn", 1),
        ("no graph", 1),
        ("srgnn", 2),
        ("no graph", 2),
    ]
    assert not any(tmp_path.glob("*/s*"))  # nothing is written by planning
    first = next(iter(study.perform(todo[1:], print)))
    assert first.arm.label == "srgnn" and [job.is_done for job in todo] == [False, True, False, False, False]
    told: list[str] = []
    with files.locked(todo[2].run):  # another process trains it
        done = list(study.perform(todo, told.append))
    assert [(job.arm.label, job.seed) for job in done if job.seed == 1] == [("popularity", 1), ("srgnn", 1)]
    assert told == ["no graph, seed 1: another process trains it."]
    rows = study.status(todo).set_index("label")
    assert rows["done"].to_dict() == {"popularity": 1, "srgnn": 2, "no graph": 1}
    left = study.seconds_left(study.status(todo))
    assert left == pytest.approx(rows["seconds"]["no graph"])
    before = {job.run: (job.run / "DONE").stat().st_mtime_ns for job in todo if job.is_done}
    list(study.perform(todo, print))
    assert all(job.is_done for job in todo)
    assert all((run / "DONE").stat().st_mtime_ns == when for run, when in before.items())
    other = studies.Study("other", "", (studies.Arm("the same", "srgnn", settings={"batch_size": 32}),))
    assert all(job.is_done for job in study.jobs(other, data, SIZE, tmp_path))  # what one trained another finds


def test_a_small_arm_leaves_the_threads_to_the_next(tmp_path, data, mine):
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        seen = [torch.get_num_threads() for _ in study.perform(study.jobs(mine, data, SIZE, tmp_path), print)]
    finally:
        torch.set_num_threads(before)
    assert seen == [3] * 5


def test_the_dense_model_beside_a_dissection_is_trained_too(tmp_path, data):
    """Also if it is all that is missing, or was lost."""
    arm = studies.Arm("sparse", "srgnn", verb="run", settings={"max_steps": 3, "batch_size": 32})
    (job,) = study.jobs(studies.Study("s", "?", (arm,)), data, {**SIZE, "seeds": (1,)}, tmp_path)
    list(study.perform([job], print))
    (dense,) = job.plan.beside
    assert job.is_complete and folders.is_done(dense.run(1))
    shutil.rmtree(dense.run(1))
    assert job.is_done and not job.is_complete
    when = (job.run / "DONE").stat().st_mtime_ns
    list(study.perform([job], print))
    assert job.is_complete and (job.run / "DONE").stat().st_mtime_ns == when


def test_damaged_records_of_an_arm_leave_the_others_theirs(tmp_path, data, mine, capsys):
    todo = study.jobs(mine, data, SIZE, tmp_path)
    list(study.perform(todo, print))
    (todo[1].run / "summary.json").write_text("{")
    assert study.status(todo).set_index("label")["done"].to_dict() == {"popularity": 1, "srgnn": 1, "no graph": 2}
    (todo[2].plan.group / "config.toml").write_text("model = ")
    assert set(study.compared(mine, todo).rows["label"]) == {"popularity", "srgnn"}
    assert "config.toml" in capsys.readouterr().err
    assert study.lines(todo)["seed"].tolist() == [1, 1, 1, 1, 2, 2, 2, 2]  # of figures, too
    assert "s1/summary.json" in capsys.readouterr().err
    folders.test_ranks(todo[3].run).write_bytes(b"garbled")
    assert study.lengths(todo).groupby("line")["seed"].unique().map(list).to_dict() == {
        "popularity": [1],
        "srgnn": [1],
        "no graph": [1, 2],
    }


def test_no_dissection_stands_in_a_table_of_the_papers_protocol(tmp_path, data):
    arms = (studies.Arm("dense", "srgnn"), studies.Arm("sparse", "srgnn", verb="run"))
    for protocol, labels in ((None, {"dense", "sparse"}), ("paper", {"dense"})):
        todo = study.jobs(studies.Study("s", "?", arms), data, {**SIZE, "protocol": protocol}, tmp_path)
        assert {job.arm.label for job in todo} == labels


def test_the_time_left_is_that_of_models_that_learn():
    rows = pd.DataFrame(
        {"learns": [False, True, True], "seconds": [1.0, 601.0, np.nan], "done": [1, 1, 0], "wanted": 3}
    )
    rows.loc[0, "wanted"] = 1
    assert study.seconds_left(rows) == 2 * 601.0 + 3 * 601.0
    assert np.isnan(study.seconds_left(rows.assign(seconds=[1.0, np.nan, np.nan])))
    assert study.seconds_left(rows.assign(done=rows["wanted"])) == 0.0


def test_its_table_has_the_labels_of_the_study_and_the_numbers_of_the_paper(tmp_path, data, mine):
    arm = studies.Arm("srgnn", "srgnn", settings={"batch_size": 32}, printed=paper.TABLE2["srgnn"])
    own = studies.Study("own", "?", (mine.arms[0], arm))
    todo = study.jobs(own, data, SIZE, tmp_path)
    with pytest.raises(UsageError, match=r"Arms of own with a finished seed: 0 of 2.*two"):
        study.compared(own, todo)
    list(study.perform(todo, print))
    table = study.compared(own, todo)
    rows = table.rows.set_index("label")
    assert set(rows.index) == {"popularity", "srgnn"} and rows["seeds"].to_dict() == {"popularity": 1, "srgnn": 2}
    tests = [folders.read_summary(job.run)["test"]["mrr@20"] for job in todo if job.arm.label == "srgnn"]
    assert rows["mrr@20"]["srgnn"] == pytest.approx(np.mean(tests))
    assert rows["paper mrr@20"]["srgnn"] == 17.67 and np.isnan(rows["paper hr@20"]["popularity"])
    assert set(table.pairs["a"]) | set(table.pairs["b"]) == {"popularity", "srgnn"}
    length = study.lengths(todo)
    ranks = folders.read_ranks(folders.test_ranks(todo[-1].run))
    two = length[(length["line"] == "srgnn") & (length["seed"] == 2) & (length["x"] == 2)].iloc[0]
    assert two["prefixes"] == (ranks["length"] == 2).sum()
    assert two["value"] == pytest.approx(100 * (ranks["rank"][ranks["length"] == 2] <= 20).mean())
    for job in todo:
        (job.run / "summary.json").write_text("")
    with pytest.raises(DataError, match=r"summary\.json cannot be read"):
        study.compared(own, todo)


def test_an_arm_that_does_not_suit_is_left_out_and_said(tmp_path, data):
    wrong = studies.Arm("wrong", "srgnn", settings={"negatives": 50})  # more than the items
    told: list[str] = []
    todo = study.jobs(studies.Study("s", "", (wrong, studies.Arm("pop", "pop"))), data, SIZE, tmp_path)
    assert [job.arm.label for job in study.perform(todo, told.append)] == ["pop"]
    assert len(told) == 1 and told[0].startswith("wrong is left out: --negatives 50")
    with pytest.raises(UsageError, match="--negatives 50"):  # nothing is left to do well
        list(study.perform(todo[:1], told.append))


def test_settings_of_an_arm_come_first_and_wrong_ones_are_refused(tmp_path, data):
    def of(*settings):
        arms = tuple(studies.Arm(f"arm {n}", "srgnn", settings=each) for n, each in enumerate(settings))
        return study.jobs(studies.Study("s", "?", arms), data, SIZE, tmp_path)

    steps = [job.plan.config.max_steps for job in of({"max_steps": 5}, {"epochs": 4}, {})]
    assert steps[0] == 5 and steps[1] == 2 * steps[2]
    for wrong in ("refit", "options", "seeds", "runs_dir", "lrr"):
        with pytest.raises(UsageError, match=f"setting of arm arm 0.*{wrong}"):
            of({wrong: 1})
    with pytest.raises(UsageError, match="'arm 0' and 'arm 1' are the same training"):
        of({"lr": 0.001}, {})


def test_an_arm_that_diverges_is_left_out_and_one_that_another_process_has_finished_is_not(tmp_path, data, monkeypatch):
    arms = (studies.Arm("wild", "srgnn", settings={"lr": 9.9}), studies.Arm("pop", "pop"), studies.Arm("own", "srgnn"))
    todo = study.jobs(studies.Study("s", "?", arms), data, {**SIZE, "seeds": (1,)}, tmp_path)
    faults = {"wild": DivergedError("The loss is NaN."), "own": FinishedError("Finished already.", "", tmp_path)}
    train = study.train_plan

    def train_or_fail(plan, manner):
        label = "wild" if plan.config.lr == 9.9 else "own" if plan.subject.name == "srgnn" else "pop"
        if label in faults:
            raise faults[label]
        return train(plan, manner)

    monkeypatch.setattr(study, "train_plan", train_or_fail)
    told: list[str] = []
    assert [job.arm.label for job in study.perform(todo, told.append)] == ["pop", "own"]
    assert told == ["wild is left out: The loss is NaN."]
    assert list(study.perform(todo[:1], told.append, todo)) == []  # the others are finished: their table can be shown
    with pytest.raises(DivergedError):
        list(study.perform(todo[:1], told.append, todo[:1]))


def test_a_study_trains_what_it_has_planned(tmp_path, data):
    """Another process may tune meanwhile: then the same arm would be planned otherwise."""
    (job,) = study.jobs(studies.Study("s", "?", (studies.Arm("pop", "pop"),)), data, {**SIZE, "seeds": (1,)}, tmp_path)
    moved = replace(job, plan=replace(job.plan, group=tmp_path / "elsewhere"))
    (done,) = study.perform([moved], print)
    assert done.is_done and done.run.is_relative_to(tmp_path / "elsewhere") and not job.is_done


def test_epochs_of_a_study_file_are_a_number(tmp_path, data):
    arm = studies.Arm("a", "srgnn", settings={"epochs": "3"})
    with pytest.raises(UsageError, match="epochs must be a number, not '3'"):
        study.jobs(studies.Study("s", "?", (arm,)), data, SIZE, tmp_path)


MANY = ("sparsevd", "others")  # arms of models that the others have too


@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.slow] * (n in MANY)) for n in STUDIES])
def test_each_study_of_the_paper_can_be_planned(tmp_path, data, name):
    found = find_study(name)
    todo = study.jobs(found, data, SCALES["quick"], tmp_path)
    labels = [arm.label for arm in found.arms]
    assert len(set(labels)) == len(labels) and found.question.endswith("?")
    assert {job.arm.label for job in todo} == set(labels)
    groups = {(job.plan.group, job.plan.variant, job.seed) for job in todo}
    assert len(groups) == len(todo)  # no two arms are the same training


def test_every_model_has_a_row_in_table_2_and_the_paper_s_rows_are_whole():
    assert {arm.model for arm in find_study("table2").arms} == set(MODELS)
    for table in (paper.TABLE2, paper.TABLE3, paper.TABLE4):
        for row in table.values():
            assert set(row) == set(paper.SETS) and all(of.mrr < of.hr < 100 for of in row.values())
    assert paper.TABLE2["attenmixer"]["diginetica"] == (55.66, 18.96, 288.12)


def test_stand_ins_are_not_the_data_sets_of_the_paper():
    assert study.name_in_paper("diginetica") == "diginetica"
    assert study.name_in_paper("diginetica-srgnn") in ("", "diginetica")
    assert study.name_in_paper("diginetica-eighth") == study.name_in_paper("demo") == ""


@pytest.mark.parametrize(
    ("text", "error", "says"),
    [
        ("arm = []", DataError, "arm"),
        ("[[arm]]\nmodel = 3", DataError, "model"),
        ('[[arm]]\nmodel = "pop"\nx1 = 3', DataError, "There is no key of an arm named 'x1'"),
        ("arms = 3", DataError, "There is no key named 'arms'"),
        ('[[arm]]\nmodel = "pop"\n[[arm]]\nmodel = "pop"', DataError, "label 'pop'; each needs"),
        ('shows = "lines"\n[[arm]]\nmodel = "pop"', DataError, "needs an x; 'pop' has none"),
        ('[[arm]]\nmodel = "pop"\nx = inf', DataError, "x of 'pop' must be a finite number, not inf"),
        ('[[arm]]\nmodel = "pop"\nx = inf', DataError, "finite"),
        ('[[arm]]\nmodel = "pop"\nlabel = "\\u001b[31m"', DataError, "control characters"),
        ("[[arm]", DataError, "not a study"),
        ('[[arm]]\nmodel = "pop"\nx = 1', DataError, 'no effect without shows = "lines"'),
        ('axis = "k"\n[[arm]]\nmodel = "pop"', DataError, 'axis has no effect without shows = "lines"'),
        ('shows = "lines"\n[[arm]]\nmodel = "pop"\nx = 1\n[[arm]]\nmodel = "spop"\nx = 1.0', DataError, "have x = 1;"),
        ('[[arm]]\nmodel = "pop"\nverb = "runn"', DataError, "verb of arm 1 cannot be 'runn'"),
        ('shows = "density"\n[[arm]]\nmodel = "pop"', DataError, "shows cannot be 'density'"),
    ],
)
def test_wrong_files_are_refused(tmp_path, text, error, says):
    path = tmp_path / "mine.toml"
    path.write_text(text)
    with pytest.raises(error, match=says):
        find_study(str(path))


def test_a_wrong_word_is_refused_with_those_that_are_right(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text('[[arm]]\nmodel = "pop"\nverb = "runn"')
    with pytest.raises(DataError) as refused:
        find_study(str(path))
    assert refused.value.hint == "It is one of train, run, literal."


@pytest.mark.parametrize(
    ("arm", "says"),
    [
        ({"verb": "run", "settings": {"where": "none"}}, 'Arm a: verb = "run" trains with SparseVD'),
        ({"settings": {"where": "both"}}, 'Arm a: verb = "train" trains without SparseVD'),
        ({"settings": {"lr": "x"}}, "Arm a: lr is a number"),
        ({"options": {"stepz": 2}}, "Arm a: srgnn takes no stepz"),
        ({"settings": {"epochs": 1, "max_steps": 2}}, "Arm a: --epochs and --max-steps"),
    ],
    ids=str,
)
def test_a_wrong_arm_is_named(data, tmp_path, arm, says):
    with pytest.raises(UsageError, match=re.escape(says)):
        study.jobs(Study("mine", "?", (Arm("a", "srgnn", **arm),)), data, SIZE, tmp_path)


def test_a_study_is_finished_once_the_matched_dense_models_are(data, tmp_path):
    found = Study("mine", "?", (studies._sparse("srgnn"),))
    size = {**SIZE, "seeds": (1,)}
    asked = Studied(replace(found, arms=(replace(found.arms[0], settings={"max_steps": 4}),)), data, size, tmp_path)
    row = asked.run().status().iloc[0]
    assert (row["done"], row["wanted"]) == (1, 1)
    (job,) = asked.jobs
    (dense,) = (each.run(1) for each in job.plan.beside)
    spent = [folders.read_summary(run)["seconds"] for run in (job.run, dense)]
    assert row["seconds"] == pytest.approx(sum(spent))
    shutil.rmtree(dense)
    row = asked.status().iloc[0]
    assert row["done"] == 0 and row["mrr@20"] > 0 and "0 of 1" in repr(asked)
    assert study.seconds_left(asked.status()) > 0
    config = job.plan.group / "config.toml"
    config.write_text(config.read_text().replace("lr =", "l2 = 0.5\nlr ="))
    with folders.hearing() as lost:
        row = asked.status().iloc[0]
    assert row["done"] == 0 and np.isnan(row["mrr@20"]) and len(lost) == 1


def test_wrong_arguments_of_a_study_are_refused_from_python(data, tmp_path):
    with pytest.raises(UsageError, match="tuned is True or False for a study"):
        dissect.study("table2", data, tuned="tuned.toml", runs_dir=tmp_path)
    asked = dissect.study("table2", data, runs_dir=tmp_path, arms=["pop", "spop"], quiet=True)
    with pytest.raises(UsageError, match="trials is a whole number"):
        list(asked.tune("a"))
    asked = dissect.study("table2", data, protocol="paper", runs_dir=tmp_path, arms=["pop", "spop"], quiet=True)
    with pytest.raises(UsageError, match="Tuning has no protocol"):
        list(asked.tune(1))


def test_unknown_names_are_refused(tmp_path):
    with pytest.raises(UsageError, match="table2"):
        find_study("table22")
    with pytest.raises(UsageError, match=r"Could not read .*missing\.toml"):
        find_study(str(tmp_path / "missing.toml"))


def test_arms_are_shown_with_their_settings_and_the_paper_only_where_it_prints_some(tmp_path):
    path = tmp_path / "rates.toml"
    arms = "".join(f'[[arm]]\nlabel = "{x}"\nmodel = "srgnn"\nsettings = {{lr = {x}}}\n' for x in (0.01, 0.02))
    path.write_text(f'question = "Which rate?"\n{arms}')
    out = CliRunner().invoke(main, ["study", "show", str(path)]).output
    assert "lr=0.01" in out and "lr=0.02" in out and "paper" not in out
    assert "paper, Diginetica" in CliRunner().invoke(main, ["study", "show", "table2"], env={"COLUMNS": "120"}).output
    none = CliRunner().invoke(main, ["study", "show", "table1"]).output
    assert "It trains nothing. See it: dissect study table table1" in none and "paper, Diginetica" not in none


def test_the_verbs_on_a_screen(tmp_path):
    run = CliRunner()
    path = tmp_path / "levels.toml"
    arms = "".join(
        f'[[arm]]\nlabel = "L = {n}"\nmodel = "attenmixer"\nx = {n}\n'
        f"options = {{levels = {n}}}\nsettings = {{l2 = 0.{n}}}\n"
        for n in (1, 3)
    )
    path.write_text(f'question = "How many levels?"\nshows = "lines"\naxis = "levels"\n{arms}')
    rates = tmp_path / "rates.toml"
    rates.write_text(re.sub("x = .*", "", arms))
    where = ["--dim", "8", "--epochs", "0.05", "--runs-dir", str(tmp_path)]
    assert "table4" in run.invoke(main, ["study", "list"]).output
    assert "L = 3" in run.invoke(main, ["study", "show", str(path)]).output
    assert json.loads(run.invoke(main, ["study", "show", "table2", "--json"]).output)["name"] == "table2"
    assert "table2-dhcn" in run.invoke(main, ["study", "show", "claims"]).output
    one = run.invoke(main, ["study", "run", str(path), "--arm", "L = 1", *where])
    assert one.exit_code == 0 and "1 training, 0 finished; 1 to do" in one.output, one.output
    (trained,) = tmp_path.rglob("DONE")
    assert tomllib.loads((trained.parents[1] / "config.toml").read_text())["model_options"]["levels"] == 1
    stand = " ".join(run.invoke(main, ["study", "status", str(path), *where]).output.split())
    assert "1 of 2 trainings finished" in stand and "of training left" in stand
    both = run.invoke(main, ["study", "run", str(path), *where])
    assert both.exit_code == 0 and "levels: How many levels?" in both.output, both.output
    assert "The settings of each arm: dissect study show" in both.output
    written = run.invoke(main, ["study", "table", str(path), "--out", str(tmp_path / "t.tex"), *where])
    assert written.exit_code == 0 and "\\begin{tabular}" in (tmp_path / "t.tex").read_text()
    (record,) = json.loads(run.invoke(main, ["study", "table", str(path), "--json", *where]).output)["tables"]
    assert {row["label"] for row in record["rows"]} == {"L = 1", "L = 3"}
    assert all(row["coverage@20"] > 0 and row["ndcg@20"] > 0 for row in record["rows"])
    wide = run.invoke(main, ["study", "table", str(path), "--all-metrics", *where], env={"COLUMNS": "200"}).output
    assert "Coverage@20" in wide and "NDCG@20" in wide and "Popularity@20:" in " ".join(wide.split())
    drawn = run.invoke(main, ["study", "figure", str(path), "--out", str(tmp_path / "fig"), *where])
    assert drawn.exit_code == 0 and (tmp_path / "fig" / "levels-demo-d8-e0.05-s1.pdf").exists(), drawn.output
    counts = tmp_path / "t1.md"
    assert run.invoke(main, ["study", "table", "table1", "--out", str(counts)]).exit_code == 0
    assert "Not a data set of the paper" in counts.read_text()
    for words, says in (
        (["run", str(path), "--shard", "3/2", *where], "--shard is i/n"),
        (["run", str(path), "--shard", f"1/{'9' * 5000}", *where], "--shard is i/n"),
        (["tune", str(path), "--timeout", "0", *where], "--timeout is in hours"),
        (["table", str(path), "--out", "x.doc", *where], "does not say which format"),
        (["figure", "table2", *where], "is no figure"),
        (["figure", str(rates), *where], f"Print it: dissect study table {rates} --dim 8"),
        (["run", "table1", "--shard", "1/2", *where], "--shard has no effect on table1"),
        (["run", "table1", "--tuned", *where], "--tuned has no effect on table1"),
        (["run", "table1", "--protocol", "paper", *where], "--protocol has no effect on table1"),
        (["tune", "table1", *where], "table1 has nothing to tune"),
        (["status", "table2", "--runs-dir", str(path)], "is a file, not a folder"),
        (["table", "claims", "--all-metrics", *where], "--all-metrics has no effect on claims"),
        (["table", "table1", "--all-metrics", *where], "--all-metrics has no effect on table1"),
        (["table", "claims", "--out", "x.tex", *where], "End its name in .md or .json"),
        (["status", "table1", *where], "trains nothing"),
        (["run", str(path), "--arm", "L = 2", *where], "There is no arm of levels named 'L = 2'"),
        (["tune", "claims", "--arm", "core", *where], "The claims need the arms of several studies"),
        (["table", str(path), "--arm", "L = 3", "--arm", "l=3", *where], "There is no arm of levels named 'l=3'"),
    ):
        refused = run.invoke(main, ["study", *words])
        assert refused.exit_code == 2 and says in refused.output, refused.output


def test_the_paper_s_protocol_has_runs_of_its_own(tmp_path, data):
    found = studies.Study("s", "?", (studies.Arm("srgnn", "srgnn"), studies.Arm("pop", "pop"), studies._sparse("narm")))
    usual, own = (study.jobs(found, data, {**SIZE, "protocol": of}, tmp_path) for of in (None, "paper"))
    assert [job.plan.config.protocol for job in own] == ["paper"] * 3 and {job.arm.verb for job in own} == {"train"}
    assert {job.run for job in own}.isdisjoint({job.run for job in usual}) and len(usual) == 5
    kept = studies.Arm("kept", "srgnn", settings={"protocol": "clean"})
    (job,) = study.jobs(studies.Study("s", "?", (kept,)), data, {**SIZE, "seeds": (1,), "protocol": "paper"}, tmp_path)
    assert job.plan.config.protocol == "clean"


def test_every_trained_model_has_an_arm_with_sparsevd_beside_it():
    arms = {arm.label: arm for arm in find_study("sparsevd").arms}
    assert {arm.model for arm in arms.values()} == {name for name, cls in MODELS.items() if cls.learns}
    for sparse, plain in find_study("sparsevd").pairs:
        assert arms[sparse].verb == "run" and arms[plain].verb == "train" and arms[sparse].model == arms[plain].model
    for name in ("table3", "table4"):
        labels = {arm.label for arm in find_study(name).arms}
        assert all({a, b} <= labels for a, b in find_study(name).pairs)


def test_a_table_shows_the_pairs_that_its_study_asks_about(tmp_path, data, mine):
    own = replace(mine, pairs=(("no graph", "srgnn"), ("popularity", "srgnn"), ("popularity", "gone")))
    todo = study.jobs(own, data, {**SIZE, "seeds": (1,)}, tmp_path)
    list(study.perform(todo, print))
    pairs = study.compared(own, todo).pairs
    assert list(zip(pairs["a"], pairs["b"]))[::2] == [("no graph", "srgnn"), ("popularity", "srgnn")]
    means = study.compared(own, todo).rows.set_index("label")["mrr@20"]
    of_mrr = pairs[pairs["metric"] == "mrr@20"].set_index("a")["difference"]
    assert of_mrr["popularity"] == pytest.approx(means["popularity"] - means["srgnn"])


def test_a_study_from_python_does_what_the_command_does(tmp_path, data):
    path = tmp_path / "levels.toml"
    arms = "".join(
        f'[[arm]]\nlabel = "L{n}"\nmodel = "attenmixer"\noptions = {{levels = {n}}}\nx = {n}\n' for n in (1, 2)
    )
    path.write_text(f'shows = "lines"\n{arms}')
    size = {"dim": 8, "epochs": 1, "seeds": (1,), "runs_dir": tmp_path, "quiet": True}
    levels = dissect.study(str(path), data, **size)
    assert repr(levels) == "Studied(levels on diginetica: 0 of 2 trainings finished)"
    levels.run(shard=(1, 2))
    assert levels.status()["done"].tolist() == [1, 0]
    assert sorted(levels.run().table()["label"]) == ["L1", "L2"] and len(levels.table(pairs=True)) == 2
    assert list(levels.figures()) == ["levels-diginetica-d8-e1-s1"] and levels.figure().axes
    own = dissect.study(str(path), data, **size, protocol="paper")
    assert own.status()["done"].tolist() == [0, 0]
    assert dissect.study("table1", data, **size).table()["paper"].tolist() == [981_620, 777_029, 42_596, 4.8]
    for wrong, says in (
        ({"scale": "big"}, "scale is one of"),
        ({"protocol": "own"}, "protocol is"),
        ({"dim": 0}, "dim is"),
        ({"device": "gpu"}, "device is one of auto, cpu, cuda; it cannot be 'gpu'"),
    ):
        with pytest.raises(UsageError, match=says):
            dissect.study("table2", data, **wrong)
    with pytest.raises(UsageError, match="is no figure"):
        dissect.study("table2", data, **size).figures()
    for shard in ((3, 2), "1/2", (1,), (0, 2), (1.0, 2)):
        with pytest.raises(UsageError, match="shard is"):
            levels.run(shard=shard)


def test_an_unknown_model_or_option_of_a_plan_is_refused_before_anything_is_trained(tmp_path, data):
    for arm, says in (
        (studies.Arm("x", "srgn"), "srgnn"),
        (studies.Arm("x", "srgnn", options={"stepz": 2}), "steps"),
        (studies.Arm("x", "srgnn", preset="non"), "preset"),
        (studies.Arm("x", "srgnn", without=("nothing",)), "nothing"),
    ):
        with pytest.raises(UsageError) as caught:
            study.jobs(studies.Study("s", "?", (arm,)), data, SIZE, tmp_path)
        assert says in f"{caught.value.message} {caught.value.hint}"
    assert not any(tmp_path.iterdir())


def test_an_arm_for_which_all_sessions_are_too_short_is_left_out(tmp_path, data):
    arms = (studies.Arm("L = 9", "attenmixer", options={"levels": 9}), studies.Arm("vstan", "vstan"))
    todo = study.jobs(studies.Study("s", "?", arms), data, {**SIZE, "seeds": (1,)}, tmp_path)
    told: list[str] = []
    done = [job.arm.label for job in study.perform(todo, told.append)]
    assert done == ["vstan"]  # without seconds it takes the order of the sessions
    assert any(text.startswith("L = 9 is left out: ") and "9" in text for text in told)


def test_lines_have_the_mean_and_the_range_over_seeds():
    table = pd.DataFrame({"x": [1, 1, 32, 32], "line": "HR@20", "seed": [1, 2, 1, 2], "value": [1.0, 3.0, 4.0, 8.0]})
    shown = lines.over_seeds(table)
    assert shown[["mean", "low", "high", "seeds"]].to_numpy().tolist() == [[2, 1, 3, 2], [6, 4, 8, 2]]
    figure = lines.draw(shown, "heads H", "HR@20 (%)")
    axes = figure.axes[0]
    assert axes.lines[0].get_ydata().tolist() == [2, 6]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["1", "32"]
    assert "2.00 at 1, 6.00 at 32" in lines.describe(shown, "Title", "heads H")
    assert "2.00 at 1, 6.00 at ≥ 32." in lines.describe(shown, "Title", "clicks", "≥ 32")


def test_a_disk_that_refuses_ends_the_tuning_of_a_study(tmp_path, data, monkeypatch):
    """Every arm was left out for it, and the command had done well."""
    (tmp_path / "mine.toml").write_text(MINE)
    catalog.save(data, tmp_path / "data")
    asked = []

    def full(*_, **__):
        asked.append(1)
        raise files.refused(tmp_path, OSError(errno.ENOSPC, "No space left")) from OSError(errno.ENOSPC, "")

    monkeypatch.setattr("dissect.studied.tune", full)
    words = ["tune", str(tmp_path / "mine.toml"), "--dataset", data.name, "--data-dir", str(tmp_path / "data")]
    result = CliRunner().invoke(main, ["study", *words, "--runs-dir", str(tmp_path / "runs")])
    assert result.exit_code == 1 and "Make room on the disk" in result.output and len(asked) == 1


def test_the_labels_of_many_arms_stay_in_the_figure():
    names = [f"an arm with a longer name {number}" for number in range(14)]
    table = pd.DataFrame([{"x": x, "line": name, "seed": 1, "value": 1.0 * x} for name in names for x in (1, 2)])
    figure = lines.draw(lines.over_seeds(table), "x", "HR@20 (%)")
    figure.canvas.draw()
    boxes = sorted((text.get_window_extent() for text in figure.axes[0].texts), key=lambda box: box.y0)
    assert len(boxes) == 14 and all(upper.y0 >= lower.y1 - 1 for lower, upper in pairwise(boxes))
    assert boxes[0].y0 >= 0 and boxes[-1].y1 <= figure.bbox.height


def test_a_dollar_in_a_label_is_no_formula(tmp_path):
    table = pd.DataFrame([{"x": x, "line": name, "seed": 1, "value": x} for name in ("$x_$", "b") for x in (1, 2)])
    figure = lines.draw(lines.over_seeds(table), "an axis in $, $_$", "HR@20 (%)")
    paths = style.save(figure, tmp_path / "figure", table, "words")
    assert "$x_$" in next(path for path in paths if path.suffix == ".svg").read_text()


def test_more_lines_than_colours_can_be_told_apart():
    """The ninth had colour, dashes and marker of the first."""
    names = [f"arm {number}" for number in range(11)]
    table = pd.DataFrame([{"x": x, "line": name, "seed": 1, "value": 1.0 * x} for name in names for x in (1, 2)])
    drawn = lines.draw(lines.over_seeds(table), "x", "HR@20 (%)").axes[0].lines[: len(names)]
    assert len({(line.get_color(), str(line._unscaled_dash_pattern), line.get_marker()) for line in drawn}) == 11
