"""What the tool says where a stranger was left without an answer: each says what is meant, and what to type."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner

import dissect
from analyses import density
from analyses.studies import find_study
from dissect import sparsevd
from dissect.arguments import check
from dissect.cli import as_typed, main
from dissect.data import bring, catalog
from dissect.data.sessions import Dataset, Sessions
from dissect.data.stats import statistics
from dissect.errors import DataError, UsageError, in_short
from dissect.experiment import subject
from dissect.experiment.recommended import read_sessions
from dissect.runs import files, folders
from dissect.runs.config import Config

LISTS = [[i % 30 + 1, (i + 1) % 30 + 1, (i + 2) % 30 + 1] for i in range(60)]
SMALL = Dataset("small", 30, Sessions.from_lists(LISTS[:45]), Sessions.from_lists(LISTS[45:]))
TINY = ["--max-steps", "6", "--dim", "4", "--device", "cpu", "--quiet", "--dataset", "small", "--name", "x"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with a data set, and of one name a dissection, a longer one without its end, and a dense group."""
    root = tmp_path_factory.mktemp("told")
    catalog.save(SMALL, root / "data")
    places = ["--runs-dir", str(root / "runs"), "--data-dir", str(root / "data")]
    for words in (["run", "--literal", "--seed", "1", "--seed", "2"], ["train", "srgnn"], ["train", "spop"]):
        done = CliRunner().invoke(main, [*words, *TINY, *places], prog_name="dissect")
        assert done.exit_code == 0, done.stderr
    return root


@pytest.fixture
def runs(trained, typed, tmp_path):
    """Its groups where `typed` looks for them, by the verb that made them."""
    shutil.copytree(trained / "runs", tmp_path / "runs")
    shutil.copytree(trained / "data", tmp_path / "data")
    made = {folders.group_config(group)["model"]: group for group in folders.find_groups("runs")}
    return {"run": folders.newest_group("runs", dissected=True), "spop": made["spop"]}


# --- names that mean several ----------------------------------------------------------------------------------


def make_group(folder: Path, name: str, **settings) -> Path:
    config = Config("srgnn", "small", "0", settings.pop("options", {"dim": 4}), **settings)
    group = folder / f"{name}-{config.hash}"
    files.write_toml(group / "config.toml", config.to_dict())
    return group


def test_groups_of_one_name_are_told_apart_by_their_settings(tmp_path):
    """By those that they have: settings of SparseVD say nothing of a dense model."""
    wide = make_group(tmp_path, "x", options={"dim": 32}, kl_weight=4.0)
    usual = make_group(tmp_path, "x", kl_weight=1.0)
    dense = make_group(tmp_path, "x", where="none")
    with pytest.raises(UsageError, match="Several groups begin with 'x'") as caught:
        folders.resolve_group("x", tmp_path)
    assert set(caught.value.hint.split("\n")[1:]) == {
        f"  {wide.name} (dim 32, with SparseVD, KL weight 4)",
        f"  {usual.name} (dim 4, with SparseVD, KL weight 1)",
        f"  {dense.name} (dim 4, without SparseVD)",
    }
    with pytest.raises(UsageError) as caught:
        folders.resolve_group("x", tmp_path, dissected=True)
    assert dense.name not in caught.value.hint and f"{usual.name} (dim 4, KL weight 1)" in caught.value.hint
    shutil.rmtree(wide)
    assert folders.resolve_group("x", tmp_path, dissected=True) == usual
    shutil.rmtree(usual)
    assert folders.resolve_group("x", tmp_path, dissected=True) == dense


def test_groups_that_are_all_damaged_are_told_by_their_names(tmp_path):
    groups = [make_group(tmp_path, "x", kl_weight=weight) for weight in (1.0, 2.0)]
    for group in groups:
        (group / "config.toml").write_text("model = ")
    with pytest.raises(UsageError) as caught:
        folders.resolve_group("x", tmp_path)
    assert sorted(caught.value.hint.split("\n")[1:]) == sorted(f"  {group.name}" for group in groups)


def test_verbs_that_need_a_dissection_take_the_one_of_that_name(runs, typed):
    name = runs["run"].name
    assert typed("verdict", "x", "--json")[0] == typed("verdict", "x/s1", "--json")[0] == 0
    assert json.loads(typed("verdict", "x", "--json")[1])["group"] == name
    for words in (["plot", "density", "x"], ["plot", "heatmap", "x"]):
        code, out, err = typed(*words)
        assert code == 0 and all(name in line for line in out.splitlines()), err
    code, _, err = typed("recommend", "x", "--session", "1")
    assert code == 2 and name in err and runs["spop"].name in err


def test_the_seeds_of_a_group_are_named_one_a_line(runs, typed):
    group = runs["run"]
    shutil.copytree(group / "s1", group / "without-gnn" / "s1")
    code, _, err = typed("recommend", group.name, "--session", "1")
    assert code == 2 and err.splitlines()[-3:] == ["Name one of them:", *(f"  runs/{group.name}/s{n}" for n in (1, 2))]


def test_a_list_that_is_cut_leaves_out_two_names_at_least():
    assert in_short(["a", "b", "c"], 2) == "a, b, c"
    assert in_short(["a", "b", "c", "d"], 2) == "a, b and 2 more"
    assert in_short(["a, b", "c"]) == "a, b; c" and in_short([]) == ""


# --- what is not finished, and what is not dissected ----------------------------------------------------------


def test_of_a_stopped_dissection_the_command_that_goes_on_is_told(runs, typed):
    group = runs["run"]
    for run in folders.group_runs(group):
        (run / "DONE").unlink()
    code, out, _ = typed("verdict", group.name)
    said = " ".join(out.split())
    assert code == 0 and f"dissect resume runs/{group.name}" in said and "--without" not in said
    assert "no seed finished" in said and "SparseVD on: both" in said
    for run in folders.group_runs(group):
        shutil.move(run, group / "without-gnn" / run.name)
    said = " ".join(typed("verdict", group.name)[1].split())
    assert "the same `dissect run` without --without" in said and "resume" not in said  # the whole model never began


def test_a_group_without_sparsevd_has_no_densities(runs, typed):
    for words in (["plot", "density", runs["spop"].name], ["plot", "heatmap", runs["spop"].name]):
        code, _, err = typed(*words)
        assert code == 3 and "was trained without SparseVD" in err and "--force" not in err and "damaged" not in err
    for run in folders.group_runs(runs["run"]):
        (run / "density.jsonl").unlink()
    with pytest.raises(DataError, match="lost or damaged") as caught:
        density.density_table(runs["run"])
    assert "--force" in caught.value.hint


def test_validation_that_is_empty_is_explained(runs, typed):
    code, _, err = typed("evaluate", runs["spop"].name, "--split", "valid")
    assert code == 2 and "has no prefix to rank: it held no sessions out of the training" in err


# --- data -----------------------------------------------------------------------------------------------------


def split(tmp_path, train, test):
    paths = [tmp_path / "train.txt", tmp_path / "test.txt"]
    for path, lists in zip(paths, (train, test)):
        path.write_text("\n".join(",".join(map(str, items)) for items in lists) + "\n")
    return paths


def test_a_recent_part_that_is_too_small_is_warned_of(tmp_path):
    files = split(tmp_path, LISTS, LISTS[30:50])
    few = list(bring.report(*bring.from_files("few", "lessr", files, tmp_path / "d", recent="1/20", first_id=1)))
    warning = "Warning: --recent 0.05 leaves 3 training sessions (6 prefixes), which is too little to train on."
    assert (warning, True) in few
    most = list(bring.report(*bring.from_files("most", "lessr", files, tmp_path / "d", recent="9/10", first_id=1)))
    assert not any(is_warning for _, is_warning in most)


def test_counts_tell_what_was_removed_from_the_test_part(tmp_path, typed):
    files = split(tmp_path, LISTS, [[1, 2, 3, 4], [9, 10]])
    some, _ = bring.from_files("some", "lessr", files, recent="1/10", first_id=1)  # items 25 to 30, 1 and 2
    assert statistics(some)["unseen_removed"] == pytest.approx(100 * 4 / 6)
    whole, _ = bring.from_files("whole", "lessr", files, first_id=1)
    assert statistics(whole)["unseen_removed"] is None
    of_log = {"format": "log", "dropped": [{"rule": "drop_unseen_items", "clicks": 15}, {"rule": "x", "clicks": 9}]}
    assert statistics(Dataset("log", 30, SMALL.train, SMALL.test, of_log))["unseen_removed"] == 25
    code, out, _ = typed("data", "stats", "some", "whole")
    row = next(line.split() for line in out.splitlines() if "removed" in line)
    assert code == 0 and row[-3:] == ["66.67", "not", "known"]


def test_a_dataset_shows_its_counts_and_no_identifier():
    named = Dataset("named", 30, SMALL.train, SMALL.test, {}, [f"sku-{n}" for n in range(30)])
    assert repr(named) == (
        "Dataset('named': 30 items; train 45 sessions = 90 prefixes; test 15 sessions = 30 prefixes)"
    )


def test_empty_lines_of_a_file_of_sessions_are_skipped(tmp_path):
    path = tmp_path / "sessions.txt"
    path.write_text("1,2\n\n  \n3\n\n")
    assert read_sessions(path, 9, None, False, print) == {1: [1, 2], 4: [3]}
    for text in ("", "\n \n"):
        path.write_text(text)
        with pytest.raises(DataError, match=r"sessions\.txt: the file is empty"):
            read_sessions(path, 9, None, False, print)


# --- arguments ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arm", "says"),
    [
        ("model = 'srgn'", "There is no model named 'srgn'"),
        ("model = 'srgnn'\nsettings = {lrr = 1}", "no setting of arm srgnn named 'lrr'"),
        ("model = 'srgnn'\nlabel = 3", "label of arm 1 is a text, not 3"),
        ("label = 'x'", "arm 1 has no model"),
        ("model = 'srgnn'\npreset = 'no'", "no preset of srgnn named 'no'"),
        ("model = 'narm'\nwithout = ['gnn']", "'gnn'"),
        ("model = 'narm'\noptions = {foo = 3}", "narm takes no foo"),
        ("model = 'narm'\nsettings = {lr = 'x'}", "lr is a number"),
        ("model = 'sknn'\nsettings = {lr = 0.5}", "Arm sknn: lr has no effect"),
        ("model = 'sknn'\nverb = 'run'", "Arm sknn: verb has no effect"),
    ],
)
def test_show_refuses_a_study_that_run_refuses(typed, arm, says):
    Path("mine.toml").write_text(f"[[arm]]\n{arm}\n")
    for verb in ("show", "run"):
        code, out, err = typed("study", verb, "mine.toml")
        assert code in (2, 3) and says in err and not out, (verb, err)
    with pytest.raises((UsageError, DataError)):  # a file of the user's may be anything, and is not read
        Path("mine.toml").write_text("[[arm]]\nmodel = 'own.py:Own'\nverb = 'x'\n")
        find_study("mine.toml")
    Path("mine.toml").write_text("[[arm]]\nmodel = 'own.py:Own'\n")
    assert typed("study", "show", "mine.toml")[0] == 0


def test_a_setting_of_another_kind_is_told_in_words():
    with pytest.raises(UsageError, match="lr is a number, not 'fast'"):
        dissect.train("srgnn", SMALL, lr="fast", quiet=True)
    with pytest.raises(UsageError, match=r"max_steps is a whole number, not 1\.5"):
        dissect.train("srgnn", SMALL, max_steps=1.5, quiet=True)


def test_one_seed_is_a_number(tmp_path):
    about = {"dim": 4, "max_steps": 2, "quiet": True, "runs_dir": tmp_path / "runs", "device": "cpu"}
    for seeds, found in ((3, "s3"), (np.int64(4), "s4")):
        assert dissect.train("srgnn", SMALL, seeds=seeds, **about).runs()[0].name in ("s3", found)
    asked = dissect.study("table4", SMALL, seeds=2, arms=["attenmixer"], runs_dir=tmp_path, quiet=True)
    assert [job.seed for job in asked.jobs] == [2]
    for wrong in (True, "1", -1, 1.0):
        with pytest.raises(UsageError, match="seeds is a whole number, or a list of them"):
            check({"seeds": wrong})
    model, rows = torch.nn.Sequential(torch.nn.Linear(2, 2)), [torch.randn(8, 2)]
    loss = lambda model, x: model(x).square().mean()  # noqa: E731
    assert list(sparsevd.dissect(model, loss, rows, seeds=5, steps=2, quiet=True).runs) == [5]


@pytest.mark.parametrize("items", [subject.PROBE_ITEMS, 10**9])
def test_a_model_that_memory_cannot_hold_is_refused_before_it_is_built(monkeypatch, items):
    found = subject.find_model("srgnn")
    monkeypatch.setattr(found.cls, "reset_parameters", lambda self: pytest.fail("built"), raising=False)
    for dim in (10**6, 10**8, 10**10):
        with pytest.raises(UsageError, match=f"srgnn of width {dim:,} .*needs at least [0-9,]+ GiB of memory"):
            subject.require_memory(found, {"dim": dim}, items)


def test_the_memory_asked_for_is_four_times_that_of_the_parameters(monkeypatch):
    found, options = subject.find_model("srgnn"), {"dim": 8}
    model = found.cls(n_items=5000, **options)
    monkeypatch.setattr(subject, "SMALL", 0)  # it is built, without memory, whatever its size
    needed = 16 * sum(parameter.numel() for parameter in model.parameters())
    for pages, is_enough in ((needed, True), (needed - 1, False)):
        monkeypatch.setattr(os, "sysconf", lambda name, n=pages: n if "PHYS" in name else 1)
        if is_enough:
            subject.require_memory(found, options, 5000)
        else:
            with pytest.raises(UsageError, match="with 5,000 items"):
                subject.require_memory(found, options, 5000)


def test_a_command_is_told_its_options_and_not_settings(typed):
    code, _, err = typed("run", "--kl-weight", "-1", *TINY[:2])
    assert code == 2 and "Error: --kl-weight must be at least 0" in err
    code, _, err = typed("run", "--loss=bpr-max", "--products", "bf16")
    assert code == 2 and "--loss=bpr-max needs --products=float32" in err
    assert as_typed("kl_weight must be at least 0.", ["study", "run", "x.toml"]) == "kl_weight must be at least 0."
    for same in ("none with --option dim=3.", "--dim=3 is wrong.", "a = b"):
        assert as_typed(same, ["run", "--dim=3", "--"]) == same


def test_groups_that_differ_late_in_the_settings_are_told_apart_too(tmp_path):
    """Three settings are named; the first three that differ leave two of these groups alike."""
    groups = [
        make_group(tmp_path, "x", options={"dim": dim}, kl_weight=weight, noise=noise, max_steps=steps)
        for dim, weight, noise, steps in (
            (32, 4.0, "weight", 60), (4, 1.0, "lrt", 60), (4, 1.0, "lrt", 212), (32, 1.0, "lrt", 60)
        )
    ]  # fmt: skip
    with pytest.raises(UsageError) as caught:
        folders.resolve_group("x", tmp_path)
    told = [line.split("(")[1] for line in caught.value.hint.split("\n")[1:]]
    assert len(told) == len(set(told)) == len(groups) and all(line.count(",") <= 2 for line in told)
