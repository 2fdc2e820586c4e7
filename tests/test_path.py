"""The path over the KL weight: which groups are its points, what its table counts, and how one is added."""

import shlex
import shutil

import numpy as np
import pytest

from analyses.density import siblings
from analyses.path import groups_of_path, path_table
from dissect.drawing import path
from dissect.errors import DataError, UsageError
from dissect.group import Group
from dissect.runs import folders
from tests.test_shadowed import GOOD, SIZES, make_group


def row(table, weight, seed, role, matrix=""):
    chosen = table.query("kl_weight == @weight and seed == @seed and role == @role and matrix == @matrix")
    assert len(chosen) == 1
    return chosen.iloc[0]


def test_the_table_has_matrices_sums_of_roles_shadows_and_accuracy(tmp_path):
    shadows = {**dict.fromkeys(SIZES, 0.01), "readout.attend_score": 0.5}
    group = make_group(tmp_path, mrr=17.0, dense=16.5, shadows=shadows)
    make_group(tmp_path, {**GOOD, "gnn.edge_in": 0.3}, shadows=0.1, seeds=(2, 5), mrr=15.0, dense=None, kl_weight=1.0)
    table = path_table(group)
    assert sorted(set(zip(table["kl_weight"], table["seed"]))) == [(1, 2), (1, 5), (4, 1), (4, 2), (4, 3)]
    for seed in (2, 5):
        edge = row(table, 1.0, seed, "propagation", "gnn.edge_in")
        assert (edge["density"], edge["shadow"], edge["mrr@20"], edge["module"]) == (0.3, 0.1, 15.0, "gnn")
    attention = row(table, 4.0, 1, "attention")  # each matrix by its weights
    assert attention["density"] == pytest.approx((18 + 90) / 1000) and attention["module"] == "readout"
    assert attention["shadow"] == pytest.approx((9 + 50) / 1000) and attention["mrr@20"] == 17.0
    assert row(table, 4.0, 1, "attention", "readout.attend_score")["density"] == 0.9
    by_seed = table.groupby("seed")["dense"].first()  # of the same seed, whichever group has it
    assert by_seed.loc[[1, 2, 3]].tolist() == [16.5] * 3 and np.isnan(by_seed.get(5, np.nan))
    assert set(table["role"]) == {"propagation", "attention", "transformation"}


def test_points_are_the_groups_that_differ_in_the_kl_weight_alone_whatever_their_name(tmp_path):
    group = make_group(tmp_path)
    half = make_group(tmp_path, kl_weight=2.0)
    half.rename(tmp_path / "anything")
    for other in ({"noise": "weight"}, {"kl_weight": 8.0, "lr": 0.01}, {"kl_weight": 8.0, "average": 0.0}):
        make_group(tmp_path, **other)
    make_group(tmp_path / "elsewhere", kl_weight=16.0)
    assert groups_of_path(group) == [(4.0, group), (2.0, tmp_path / "anything")]
    assert set(path_table(group)["kl_weight"]) == {2, 4}


def test_what_shadows_learn_from_makes_no_other_model(tmp_path):
    """Groups from before they learnt from a part of the catalogue stand beside the present ones."""
    group = make_group(tmp_path)
    older = make_group(tmp_path, kl_weight=2.0, shadow_items=0)
    other = make_group(tmp_path, kl_weight=8.0, shadow_items=77)
    assert {each for _, each in groups_of_path(group)} == {group, older, other}
    config = folders.group_config(group)
    assert config["shadow_items"] > 77
    assert [each for each, _ in siblings(group, config, kl_weight=2.0)] == [older]
    same = make_group(tmp_path, kl_weight=2.0)
    assert [each for each, _ in siblings(group, config, kl_weight=2.0)] == [same, older]
    assert not siblings(group, config, kl_weight=8.0) and not siblings(group, config, kl_weight=3.0)
    bare, half = (make_group(tmp_path / "bare", shadows=False, kl_weight=weight) for weight in (4.0, 2.0))
    assert [each for each, _ in siblings(bare, folders.group_config(bare), kl_weight=2.0)] == [half]


def test_of_two_groups_with_one_kl_weight_that_with_the_same_shadows_counts(tmp_path):
    group = make_group(tmp_path)
    config = folders.group_config(group)
    two = [make_group(tmp_path, kl_weight=2.0, shadow_items=items) for items in (0, config["shadow_items"])]
    for first, second in (two, two[::-1]):  # whatever their names
        first.rename(tmp_path / "a")
        second.rename(tmp_path / "b")
        found = [folders.group_config(each)["shadow_items"] for weight, each in groups_of_path(group) if weight == 2]
        assert found == [config["shadow_items"], 0]
        (tmp_path / "a").rename(first)
        (tmp_path / "b").rename(second)


def test_a_group_is_found_from_inside_its_folder(tmp_path, monkeypatch):
    group = make_group(tmp_path)
    make_group(tmp_path, kl_weight=2.0)
    monkeypatch.chdir(group)
    assert {weight for weight, _ in groups_of_path(type(group)("."))} == {2.0, 4.0}


def test_a_seed_counts_once_and_that_of_the_group_itself_wins(tmp_path):
    group = make_group(tmp_path)
    make_group(tmp_path, kl_weight=2.0)
    make_group(tmp_path / "copy", {**GOOD, "gnn.edge_in": 0.5}, seeds=(3, 4)).rename(tmp_path / "a-copy")
    table = path_table(group)
    edges = table[(table["matrix"] == "gnn.edge_in") & (table["kl_weight"] == 4)].set_index("seed")["density"]
    assert edges.to_dict() == {1: 0.01, 2: 0.01, 3: 0.01, 4: 0.5}


def test_only_finished_seeds_count_and_damaged_ones_are_left_out(tmp_path, capsys):
    group = make_group(tmp_path)
    half = make_group(tmp_path, kl_weight=2.0)
    (half / "s2" / "DONE").unlink()
    (half / "s3" / "density.jsonl").write_text("{}\n")
    table = path_table(group)
    assert set(table[table["kl_weight"] == 2]["seed"]) == {1}
    assert "Left out" in capsys.readouterr().err
    (half / "s1" / "DONE").unlink()
    with pytest.raises(UsageError, match="for KL weight 4 only"):
        path_table(group)
    for run in folders.group_runs(group):
        (run / "density.jsonl").write_text("{}\n")
    with pytest.raises(DataError, match=r"density\.jsonl, line 1"):
        path_table(group)


def test_a_group_without_shadows_has_a_path_too(tmp_path):
    groups = [make_group(tmp_path, shadows=False, kl_weight=weight, dense=None) for weight in (0.0, 2.0)]
    for run in (run for group in groups for run in folders.group_runs(group)):
        lines = (run / "density.jsonl").read_text().splitlines()
        (run / "density.jsonl").write_text("".join(f"{line}\n" for line in lines if "shadow" not in line))
    table = path_table(groups[1])
    assert table["shadow"].isna().all() and table["dense"].isna().all() and set(table["kl_weight"]) == {0, 2}
    (drawn,) = path(groups[1])
    assert "KL weight 0 stands left" in drawn.caption and "shadow" not in drawn.caption


def test_another_threshold_counts_other_weights(tmp_path):
    kept = {name: {"0.5": 0.0, "1": 0.0, "2": 0.25, "3": 0.5, "4": 0.5, "5": 0.5} for name in SIZES}
    group = make_group(tmp_path, kept)
    make_group(tmp_path, kept, kl_weight=2.0)
    assert set(path_table(group, 2.0)["density"]) == {0.25} and set(path_table(group)["density"]) == {0.5}
    with pytest.raises(UsageError, match=r"no counts at log α = 2\.5") as caught:
        path_table(group, 2.5)
    assert "Recorded: 0.5, 1, 2" in caught.value.hint


def test_less_than_two_kl_weights_are_no_path(tmp_path):
    group = make_group(tmp_path)
    with pytest.raises(UsageError, match="two KL weights or more") as caught:
        path(group)
    assert f"{group.name} and the groups" in caught.value.message
    config = shlex.quote(str(group / "config.toml"))
    assert f"dissect run --config {config} --kl-weight 2 --seed 1 --seed 2 --seed 3" in caught.value.hint
    for run in folders.group_runs(group):
        (run / "DONE").unlink()
    with pytest.raises(UsageError, match="no KL weight") as caught:
        path(group)
    assert "--kl-weight 4 --seed 1" in caught.value.hint  # its own comes first


def test_rubbish_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"no config\.toml"):
        path(tmp_path)
    group = make_group(tmp_path)
    make_group(tmp_path, kl_weight=2.0)
    with pytest.raises(UsageError, match="no by named 'module'"):
        Group(group).figure("path", by="module")
    with pytest.raises(UsageError, match="no option of a path figure named 'measure'"):
        Group(group).figure("path", measure="D2")
    assert len(Group(group).figure("path", by="matrix").axes) == 2


@pytest.mark.slow
def test_the_command_that_the_refusal_names_adds_a_point(typed):
    assert typed("run", "--shadows", "--max-steps", "4", "--dim", "4", "--device", "cpu", "--quiet")[0] == 0
    code, out, err = typed("plot", "path")
    assert (code, out) == (2, "")
    words = shlex.split(err[err.index("Add one: dissect ") :].removeprefix("Add one: dissect "))
    code, _, err = typed(*words, "--quiet")
    assert code == 0, err
    code, out, err = typed("plot", "path", "--by", "matrix")
    assert code == 0 and "path-by-matrix.csv" in out, err
    group = folders.newest_group("runs")
    assert path_table(group)["kl_weight"].nunique() == 2 and len(folders.find_groups("runs")) == 2
    shutil.rmtree(group)
    assert typed("plot", "path")[0] == 2


@pytest.mark.slow
def test_a_path_without_densities_is_shown_verdict_by_verdict(typed):
    usual = ["--max-steps", "4", "--dim", "4", "--device", "cpu", "--quiet", "--seed", "1"]
    code, out, err = typed("run", "--without", "propagation", "--kl-weight", "2", "--kl-weight", "4", *usual)
    assert code == 0, err
    assert out.count("no seed finished") == 2


def test_without_sparsevd_its_settings_would_only_name_another_group(typed):
    code, _, err = typed("run", "--where", "none", "--kl-weight", "2", "--quiet")
    assert code == 2 and "--kl-weight 2.0 has no effect with --where none." in err
    assert not folders.find_groups("runs")
