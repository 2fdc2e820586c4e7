"""The experiment from Python and from the command line: the same folders; settings from a file; options of models."""

import importlib
import importlib.machinery
import math
import pickle
import re
import shutil
import tomllib
from dataclasses import replace
from pathlib import Path

import click
import numpy as np
import pytest
import torch
from click.testing import CliRunner

from analyses.verdict import judge
from dissect.cli import COMMANDS, main, options
from dissect.data import planted
from dissect.data.sessions import split_validation
from dissect.errors import DataError, UsageError
from dissect.experiment import own_models
from dissect.experiment.opened import evaluate, finished_run, trained_model
from dissect.experiment.plan import planned, settings_of
from dissect.experiment.request import requested
from dissect.experiment.subject import find_model
from dissect.experiment.train import prepare_group, train
from dissect.runs import files, folders
from dissect.runs.config import CALIBRATED, CALIBRATED_EPOCHS, DENSE, LITERAL, SETTINGS, Config
from dissect.training.record import Observer
from dissect.training.resume import Interrupted
from dissect.training.start import weights_of
from models import MODELS, SRGNN, base
from tests.test_training import StopAt

TINY = ["--max-steps", "3", "--dim", "4", "--seed", "1", "--device", "cpu", "--quiet"]
ALSO = {"max_steps": 3, "device": "cpu"}


@pytest.fixture(scope="module")
def demo():
    return planted.generate("demo")


def parts(group):
    """What a group says about itself, to the byte, and the ranks of its runs."""
    about = {name: (group / name).read_bytes() for name in ("config.toml", "data.json")}
    ranks = {path.relative_to(group): path.read_bytes() for path in sorted(group.rglob("ranks-*.npz"))}
    return group.name, about, ranks


# --- the same from Python ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "usual", "given"),
    [
        (["run", *TINY], CALIBRATED, {"options": {"dim": 4}}),
        (["run", *TINY, "--literal"], LITERAL, {"options": {"dim": 4}}),
        (["run", *TINY, "--kl-weight", "2"], CALIBRATED, {"options": {"dim": 4}, "kl_weight": 2}),
        (["train", "srgnn", *TINY], DENSE, {"options": {"dim": 4}}),
        (["train", "srgnn", *TINY, "--lr", "1"], DENSE, {"options": {"dim": 4}, "lr": 1}),
        (
            ["train", "srgnn", *TINY, "--readout", "attenmixer", "--without", "gnn"],
            DENSE,
            {"options": {"readout": "attenmixer", "dim": 4}, "without": ["gnn"]},
        ),
        (["train", "pop"], DENSE, {}),
    ],
)
def test_python_and_the_command_line_leave_the_same_folder(typed, demo, tmp_path, words, usual, given):
    model = words[1] if words[0] == "train" else "srgnn"
    code, _, err = typed(*words, *(["--dataset", "demo"] if words[0] == "train" else []))
    assert code == 0, err
    also = ALSO if model == "srgnn" else {}
    group = train(model, demo, runs_dir=tmp_path / "python", usual=usual, **{**also, **given})
    assert parts(group) == parts(folders.newest_group("runs"))


def test_the_length_where_none_is_given(demo, tmp_path, monkeypatch):
    """Of a training that chooses its epoch ten epochs; of a dissection 6.6, or by the paper that of its data set."""
    steps = []
    monkeypatch.setattr("dissect.experiment.train.fit", lambda build, data, config, *_, **more: steps.append(config))
    for usual in (LITERAL, DENSE, CALIBRATED):
        train("srgnn", demo, runs_dir=tmp_path, device="cpu", usual=usual)
    assert steps[0].max_steps == 2000
    prefixes = split_validation(demo.train, 0.1)[0].n_prefixes
    assert steps[1].max_steps == 10 * -(-prefixes // 100)
    assert {each.max_steps for each in steps[2:]} == {math.ceil(CALIBRATED_EPOCHS * -(-prefixes // 400))}
    assert [each.where for each in steps[2:]] == ["both", "none"]


def test_a_class_is_a_model_under_the_name_of_its_file(typed, demo, tmp_path, monkeypatch):
    (tmp_path / "own_of_python.py").write_text("from models import SRGNN\n\n\nclass Own(SRGNN):\n    pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    import own_of_python

    group = train(own_of_python.Own, demo, runs_dir="runs", options={"dim": 4}, **ALSO)
    assert folders.group_config(group)["model"] == "own_of_python.py:Own" and group.name.startswith("Own-demo-")
    code, _, err = typed("run", *TINY, "--model", "own_of_python.py:Own")
    assert code == 2 and f"Finished already: {group}/s1" in err.replace(f"{tmp_path}/", "")
    assert find_model(SRGNN).name == "srgnn" and find_model(SRGNN).source is None
    with pytest.raises(UsageError, match="source text of the class Nowhere cannot be read"):
        find_model(type("Nowhere", (SRGNN,), {"__module__": "nowhere"}))


def test_a_users_file_is_executed_once_a_command(typed, tmp_path):
    (tmp_path / "own.py").write_text(
        "from models import SRGNN\n\nwith open('executed', 'a') as file:\n    file.write('x')\n\n\n"
        "class Own(SRGNN):\n    pass\n"
    )
    words = ["own.py:Own", "--dataset", "demo", "--dim", "4", "--device", "cpu", "--quiet", "--epochs", "0.1"]
    assert typed("train", *words, "--refit")[0] == 0
    assert (tmp_path / "executed").read_text() == "x"


def test_the_library_says_and_shows_what_it_is_given_and_prints_nothing(demo, tmp_path, capfd):
    said, titles = [], []

    def observe(title):
        titles.append(title)
        return Observer()

    train("srgnn", demo, runs_dir=tmp_path, options={"dim": 4}, seeds=(1, 2), observe=observe, say=said.append, **ALSO)
    of_seeds = ["srgnn on demo, seed 1 (1 of 2)", "srgnn on demo, seed 2 (2 of 2)"]
    assert titles == [*of_seeds, *(f"{title}, without SparseVD" for title in of_seeds)] and said == []
    again = {"runs_dir": tmp_path, "options": {"dim": 4}, "say": said.append, **ALSO}
    group = train("srgnn", demo, seeds=(2, 3), **again)
    assert said == [f"Seed 2 is finished already: {group}/s2"]
    train("srgnn", demo, seeds=(2,), force=True, **again)
    assert said[1:] == [f"The old run is kept as {group}/{each}s2.old-1" for each in ("", "without-sparsevd/")]
    found = evaluate(finished_run(group / "s1", tmp_path), lambda name, folder: demo)
    assert found["n"] == demo.test.n_prefixes and found["mrr@20"] > 0
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"lrr": 1.0}, "no setting named 'lrr'"),
        ({"where": "gnnn"}, "no module or role named 'gnnn'"),
        ({"lr": "fast"}, "lr is a number, not 'fast'"),
        ({"batch_size": 0}, "batch_size must be at least 1 and at most 1,000,000, not 0"),
        ({"epochs": 1, "max_steps": 3}, "exclude each other"),
        ({"refit": True, "protocol": "paper"}, "nothing to add"),
    ],
)
def test_a_wrong_setting_is_refused_before_anything_is_written(demo, tmp_path, given, says):
    with pytest.raises(UsageError, match=re.escape(says)):
        train("srgnn", demo, runs_dir=tmp_path / "runs", **given)
    assert not (tmp_path / "runs").exists()


def test_a_wrong_place_to_dissect_is_answered_with_all_right_ones(demo, tmp_path):
    with pytest.raises(UsageError) as refused:
        train("srgnn", demo, runs_dir=tmp_path, where="nowhere")
    said = refused.value.hint
    assert all(re.search(rf"\b{name}\b", said) for name in ("both", "none", *base.MODULES, *base.ROLES))
    assert said.endswith("\nThose of this model: dissect models srgnn")


def test_a_baseline_is_not_dissected(demo, tmp_path):
    with pytest.raises(UsageError, match="nothing to dissect"):
        train("pop", demo, runs_dir=tmp_path)


# --- --config ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def made(tmp_path_factory, demo):
    """A folder with a dissected and a dense group of one seed, with settings and options of their own."""
    folder = tmp_path_factory.mktemp("made")
    also = {"runs_dir": folder / "runs", "device": "cpu", "max_steps": 3}
    dissected = train("srgnn", demo, options={"dim": 4, "steps": 2}, kl_weight=2.0, **also)
    dense = train("attenmixer", demo, preset="paper-LP", options={"dim": 8}, **{**DENSE, "lr": 0.01}, **also)
    return folder, dissected.relative_to(folder), dense.relative_to(folder)


@pytest.fixture
def copied(made, typed, tmp_path):
    folder, dissected, dense = made
    shutil.copytree(folder / "runs", tmp_path / "runs")
    return dissected, dense


def test_a_seed_joins_the_group_whose_configuration_is_given(typed, copied):
    dissected, dense = copied
    for words, group in ((["run"], dissected), (["train"], dense)):
        code, _, err = typed(*words, "--config", str(group / "config.toml"), "--seed", "2", "--quiet")
        assert code == 0, err
        assert folders.is_done(group / "s2")
    assert len(folders.find_groups("runs")) == 2


def test_what_is_typed_wins_over_the_file(typed, copied):
    dissected, dense = copied
    words = ["--config", str(dissected / "config.toml"), "--quiet", "--device", "cpu", "--kl-weight", "1.0"]
    assert typed("run", *words, "--dim", "6", "--option", "steps=1", "--seed", "3")[0] == 0
    config = Config(**folders.group_config(folders.newest_group("runs")))
    assert (config.kl_weight, config.model_options, config.max_steps) == (1.0, {"dim": 6}, 3)
    assert typed("run", *words, "--epochs", "0.2")[0] == 0
    assert Config(**folders.group_config(folders.newest_group("runs"))).max_steps > 3
    assert "no data set named 'dmo'" in typed("run", *words, "--dataset", "dmo")[2]
    assert typed("run", *words[:-2], "--literal", "--max-steps", "2", "--seed", "3")[0] == 0  # not the file's settings
    config = Config(**folders.group_config(folders.newest_group("runs")))
    assert (config.kl_weight, config.batch_size, config.average, config.max_steps) == (1.0, 100, 0.0, 2)
    words = ["--config", str(dense / "config.toml"), "--quiet", "--device", "cpu"]
    assert typed("train", "srgnn", *words, "--dim", "4")[0] == 0  # another model, and none of the options of the first
    config = Config(**folders.group_config(folders.newest_group("runs")))
    assert (config.model, config.lr, config.model_options, config.select) == ("srgnn", 0.01, {"dim": 4}, "mrr@20")


@pytest.mark.parametrize(
    ("verb", "change", "code", "says"),
    [
        ("train", ("", ""), 2, "belongs to dissect run"),
        ("run", ("kl_weight", "kl_wieght"), 2, "no setting named 'kl_wieght'"),
        (
            "run",
            ("refit = false", "dim = 64"),
            2,
            "dim is an option of a model, not a setting.\nIt belongs below a line [",
        ),
        ("run", ("refit = false", "mine = 64"), 2, "Options of a model stand below [model_options]."),
        ("run", ('split_hash = "', 'split_hash = "0'), 3, "is not the one of the run"),
        ("run", ("refit = false", "refit = true"), 2, "whose length each seed had chosen before"),
        ("run", ("refit = false", 'init_from = "0123"'), 2, "--init-from RUN"),
        ("run", ("kl_weight = 2.0", 'kl_weight = "2"'), 2, "kl_weight is a number, not '2'"),
        ("run", ("kl_weight = 2.0", "kl_weight = -2.0"), 2, "kl_weight must be at least 0"),
        ("run", ("kl_weight = 2.0", "kl_weight = "), 2, "cannot be read"),
        ("run", ('model = "srgnn"', 'model = "own.py:Own"\nmodel_source = "00"'), 3, "that file is not here"),
        ("run", ('dataset = "demo"', 'dataset = ["demo"]'), 2, "dataset is a text"),
        ("run", ('model = "srgnn"', 'model = "srgnn"\nmodel_source = 5'), 2, "model_source is a text"),
        ("run", ("patience = 0", "patience = 2"), 2, "patience = 2, and dissect run has no such setting"),
        ("train", ('select = "last"', 'select = "mrr@20"'), 2, "where = both, and dissect train has no such setting"),
    ],
)
def test_a_file_that_cannot_be_taken_is_told(typed, copied, tmp_path, verb, change, code, says):
    (tmp_path / "c.toml").write_text((copied[0] / "config.toml").read_text().replace(*change, 1))
    found, out, err = typed(verb, "--config", "c.toml", "--seed", "9", "--quiet")
    assert (found, out) == (code, "") and says in err
    assert len(folders.find_groups("runs")) == 2


def asked(demo, usual, **given):
    """What a command with these options asks `train` for."""
    about = {"config": None, "preset": None, "tuned": False, "epochs": None, "name": None, "extra": (), "dim": None}
    about |= {"model": None, "dataset": None, "data_dir": None, "runs_dir": "runs", **given}
    return requested(about, given.keys(), usual, lambda name, folder: demo, lambda text: None)[2]


@pytest.fixture
def file_of(demo, tmp_path):
    """Writes the config.toml that a group of these arguments has, and gives its path."""

    def write(model, **about):
        plan = planned(model, demo, usual=DENSE, runs_dir=tmp_path, **about)
        prepare_group(plan.group, plan.config, demo)
        return str(plan.group / "config.toml")

    return write


def test_a_preset_that_is_typed_wins_over_the_file(demo, file_of):
    """Its options and its recipe were those of the file, under the name of the preset."""
    file = file_of("sgnnhn", preset="paper", options={"steps": 2}, lr=0.01, max_steps=7)
    found = asked(demo, DENSE, config=file, preset="authors", lr=0.02)
    assert found["options"] == {} and (found["name"], found["lr"], found["max_steps"]) == (None, 0.02, 7)
    assert not {"l2", "schedule", "batch_size"} & found.keys()
    plan = planned("sgnnhn", demo, **found)
    options = {"dim": 256, "steps": 6, "star": "mapped"}
    assert plan.config.model_options == options and plan.config.schedule == "steps" and plan.config.l2 == 1e-5
    found = asked(demo, DENSE, config=file)
    assert found["options"] == {"dim": 256, "steps": 2} and found["name"].startswith("sgnnhn-")


def test_a_file_and_tuned_settings_exclude_each_other(demo, file_of):
    with pytest.raises(UsageError, match="exclude each other"):
        asked(demo, DENSE, config=file_of("srgnn"), tuned=True)


def test_the_file_of_a_baseline_trains_it_again(demo, file_of):
    """It was said to belong to `run`, which said that it belongs to `train`."""
    file, notes = file_of("pop"), []
    plan = planned("pop", demo, **asked(demo, DENSE, config=file), say=notes.append)
    assert plan.group.name == Path(file).parent.name and not notes


def test_an_option_of_the_model_is_given_once(typed):
    for words in (["--steps", "2", "--steps", "3"], ["--dim", "4", "--option", "dim=8"]):
        code, _, err = typed("train", "srgnn", "--dataset", "demo", *words)
        assert code == 2 and "is given twice" in err


def test_a_file_with_some_settings_does(typed, tmp_path):
    (tmp_path / "some.toml").write_text("lr = 0.5\nmax_steps = 2\n\n[model_options]\ndim = 4\n")
    assert typed("train", "srgnn", "--dataset", "demo", "--config", "some.toml", "--quiet")[0] == 0
    config = Config(**folders.group_config(folders.newest_group("runs")))
    assert (config.lr, config.max_steps, config.patience) == (0.5, 2, DENSE["patience"])
    assert config.model_options["dim"] == 4  # though the file names no model
    code, _, err = typed("train", "--config", "some.toml")
    assert code == 2 and "MODEL" in err


def test_a_model_that_only_a_file_names_is_not_executed_unless_named_before(typed, tmp_path, monkeypatch):
    (tmp_path / "own.py").write_text("from models import SRGNN\n\n\nclass Own(SRGNN):\n    pass\n")
    assert typed("run", *TINY, "--model", "own.py:Own")[0] == 0
    path = str(folders.newest_group("runs") / "config.toml")
    assert typed("run", "--config", path, "--seed", "2", "--quiet")[0] == 0
    monkeypatch.setenv("DISSECT_STATE", str(tmp_path / "somebody else"))
    code, _, err = typed("run", "--config", path, "--seed", "3", "--quiet")
    assert code == 3 and "you have never named it" in err
    assert typed("run", "--config", path, "--seed", "3", "--quiet", "--model", "own.py:Own")[0] == 0


# --- options are fields of Config ------------------------------------------------------------------------------


def parameters(verb):
    command = main.get_command(click.Context(main), verb)
    return {parameter.name: parameter for parameter in command.params}


def test_every_setting_is_an_option_of_its_verbs_with_its_default():
    for verb, usual, lacks in (
        ("run", CALIBRATED, {"protocol", "patience"}),
        ("train", DENSE, {each.name for each in SETTINGS if each.group == "SparseVD"}),
    ):
        found = parameters(verb)
        for each in SETTINGS:
            if each.name in lacks:
                assert each.name not in found
                continue
            option, default = found[each.name], usual.get(each.name, each.default)
            assert option.opts == [each.flag] and option.help == each.help
            default = (default,) if option.multiple else default
            assert option.default == (default if each.shown else None) or not default
            assert not each.choices or tuple(option.type.choices) == each.choices


@pytest.mark.parametrize("each", [each for each in SETTINGS if each.choices or each.limits], ids=lambda each: each.name)
def test_every_limit_is_checked_and_told(each):
    wrong = (
        "nothing of the kind" if each.choices else max(each.limits.get("at least", 0), each.limits.get("above", 0)) - 30
    )
    with pytest.raises(UsageError, match=re.escape(f"{each.name} must be {each.allowed}, not {wrong}")):
        Config("srgnn", "x", "", **{each.name: wrong})
    if "below" in each.limits:
        with pytest.raises(UsageError, match=f"{each.name} must be"):
            Config("srgnn", "x", "", **{each.name: each.limits["below"]})
    assert each.allows(each.default)


def test_the_defaults_are_those_that_folders_are_named_for():
    """The hashes of an earlier version."""
    for usual, name in ((LITERAL, "acd4d7b9"), (DENSE, "db48fe4d")):
        assert Config("srgnn", "demo", "x", {"dim": 32}, apart=usual is not LITERAL, **usual).hash == name


def test_help_has_its_groups_and_the_common_options_first():
    out = CliRunner().invoke(main, ["run", "--help"]).stdout
    places = [out.index(f"\n{title}:\n") for title in ("Model", "Data", "Training", "SparseVD", options.PLACES)]
    assert places == sorted(places)
    order = [out.index(f"  {flag} ") for flag in ("--model", "--dataset", "--epochs", "--lr", "--products", "--where")]
    assert order == sorted(order) and out.index("--threshold") < out.index("--log-sigma2")
    assert {parameter.opts[0] for parameter in parameters("run").values()} <= set(re.findall(r"  (--[a-z0-9-]+)", out))


def test_an_argument_of_a_registered_model_is_an_option(typed):
    def options_of(*words):
        code, _, err = typed("train", *words, "--dataset", "demo", *TINY, "--force")
        assert code == 0, err
        return tomllib.loads((folders.newest_group("runs") / "config.toml").read_text())["model_options"]

    assert options_of("srgnn", "--steps", "2") == options_of("srgnn", "--steps=2") == {"dim": 4, "steps": 2}
    assert options_of("srgnn", "--propagation", "A(HW)")["propagation"] == "A(HW)"
    assert options_of("attenmixer", "--heads", "2")["heads"] == 2
    code, _, err = typed("train", "pop", "--steps", "2", "--dataset", "demo")
    assert code == 2 and "pop takes no steps" in err
    code, _, err = typed("train", "srgnn", "--stepz", "2")
    assert code == 2 and "No such option" in err


def test_a_readout_that_is_an_option_names_the_group_as_the_old_flag_did(typed, demo):
    assert typed("train", "srgnn", "--dataset", "demo", *TINY, "--option", "readout=attenmixer")[0] == 0
    (group,) = folders.find_groups("runs")
    assert group.name.startswith("srgnn-attenmixer-demo-")
    older = group.rename(group.with_name(group.name.replace("srgnn-attenmixer-demo", "srgnn-demo")))
    code, _, err = typed("train", "srgnn", "--dataset", "demo", *TINY, "--readout", "attenmixer")
    assert code == 2 and f"Finished already: {older}" in err  # as earlier versions named it


def test_what_a_model_warns_of_is_said_with_the_data(typed, demo):
    words = ["--dataset", "demo", *TINY[:2], "--device", "cpu", "--quiet", "--dim", "8"]
    longest = int(max(demo.train.lengths.max(), demo.test.lengths.max())) - 1
    few = f"padded_length={longest}"
    code, _, err = typed("train", "attenmixer", *words, "--preset", "official", "--option", few)
    assert code == 0 and f"here padded_length={longest + 1}" in " ".join(err.split())
    code, _, err = typed("train", "srgnn", *words, "--readout", "attenmixer", "--levels", "50")
    assert code == 2 and f"the longest prefix has {longest}" in err and f"use --levels={longest} or less" in err


def test_names_are_known_in_one_place():
    baselines = ["pop", "spop", "sr", "sknn", "vsknn", "sfsknn", "stan", "vstan"]
    assert [name for name in MODELS if not find_model(name).learns] == baselines
    assert {"run", "train"} <= COMMANDS.keys()


def test_another_split_than_the_files_is_refused(typed, copied, tmp_path):
    (tmp_path / "c.toml").write_text((copied[0] / "config.toml").read_text().replace("demo", "demo-bag"))
    code, _, err = typed("run", "--config", "c.toml")
    assert code == 3 and "is not the one of the run" in err
    with pytest.raises(DataError):
        evaluate(finished_run(copied[0], "runs"), lambda name, folder: planted.generate("demo-bag"))


def test_the_recipe_of_a_preset_gives_way_to_what_is_said(typed, tmp_path):
    (tmp_path / "own.py").write_text(
        "from models import SRGNN\n\nclass Own(SRGNN):\n    presets = {'mine': {'dim': 4}}\n"
        "    recipes = {'mine': {'optimiser': 'adamw', 'lr': 0.002, 'batch_size': 50}}\n"
    )
    words = ["train", "own.py:Own", "--dataset", "demo", "--max-steps", "2", "--quiet", "--device", "cpu"]
    for more, wanted in (
        (["--preset", "mine"], ("adamw", 0.002, 50)),
        (["--preset", "mine", "--lr", "0.5"], ("adamw", 0.5, 50)),
    ):
        assert typed(*words, *more, "--name", f"a{len(more)}")[0] == 0
        config = folders.group_config(folders.newest_group("runs"))
        assert (config["optimiser"], config["lr"], config["batch_size"]) == wanted
    assert typed(*words, "--name", "plain")[0] == 0
    assert folders.group_config(folders.newest_group("runs"))["optimiser"] == "adam"
    calibrated = settings_of(find_model("own.py:Own"), CALIBRATED, "mine", None, {})  # densities need its settings
    assert (calibrated["optimiser"], calibrated["lr"], calibrated["batch_size"]) == ("adamw", 3e-3, 400)


def test_every_dissection_has_a_verdict_and_no_baseline_has():
    assert Config("srgnn", "x", "0", max_steps=1).has_verdict and Config("srgnn", "x", "0", where="none").has_verdict
    for settings in ({"max_steps": 0}, {"max_steps": 1}, {"select": "mrr@20"}, {"refit": True}):
        assert not Config("pop", "x", "0", where="none", **settings).has_verdict


def test_a_reduced_model_may_have_no_matrix_left_to_dissect(demo, tmp_path):
    """What is dissected is what is left out: the rest is trained as it is, and need can be asked."""
    settings = {"runs_dir": tmp_path, "options": {"dim": 4}, "usual": LITERAL, "where": "gnn", **ALSO}
    group = train("srgnn", demo, **settings)
    train("srgnn", demo, without=["gnn"], **settings)
    assert judge(group)["need"]["gnn"]["by_seed"].keys() == {1}
    assert evaluate(finished_run(group / "without-gnn" / "s1", tmp_path), lambda name, folder: demo)


@pytest.mark.slow
def test_what_is_trained_again_is_not_copied_from_a_neighbour(demo, tmp_path):
    """Also in other processes, which are not told to train it again: the old run is away when they start."""
    again = {"runs_dir": tmp_path, "options": {"dim": 4}, "seeds": (1, 2), **ALSO}
    first, said = train("srgnn", demo, **again), []
    other = train("srgnn", demo, kl_weight=2.0, **again, say=said.append)
    assert sum("copied from" in each for each in said) == 2
    train("srgnn", demo, kl_weight=2.0, force=True, jobs=2, **again)
    when = [folders.run_path(group, 1, folders.MATCHED) / "environment.json" for group in (first, other)]
    assert files.read_json(when[0])["started"] != files.read_json(when[1])["started"]


def test_a_training_starts_from_the_weights_that_a_run_reports(demo, tmp_path):
    """Of a run that averages its parameters, those are the means."""
    again = {"runs_dir": tmp_path, "options": {"dim": 4}, "max_steps": 30, "device": "cpu"}
    dense = train("srgnn", demo, usual=CALIBRATED, where="none", shadows=False, **again)
    model = trained_model(finished_run(dense / "s1", tmp_path), lambda: demo, 50, None, "cpu")[0]
    start = weights_of(dense / "s1", demo, lambda n: SRGNN(n, 4))
    for name, weight in model.state_dict().items():
        assert torch.equal(start.weights[name], weight), name


def test_force_goes_on_with_what_was_stopped(demo, tmp_path):
    again = {
        "runs_dir": tmp_path,
        "options": {"dim": 4},
        "usual": DENSE,
        "device": "cpu",
        "max_steps": 40,
        "force": True,
    }
    group = train("srgnn", demo, seeds=(1,), **again)
    with pytest.raises(Interrupted) as stopped:
        train("srgnn", demo, seeds=(1,), **again, observe=lambda title: StopAt(20))
    assert "without --force" in stopped.value.hint and (group / "s1.old-1").exists()
    said = []
    train("srgnn", demo, seeds=(1,), **again, say=said.append)
    assert folders.is_done(group / "s1") and not (group / "s1.old-2").exists() and said == []


@pytest.mark.parametrize(("model", "preset"), [("gcsan", "port"), ("sasrec", None), ("lessr", "authors")])
def test_the_published_settings_win_over_a_recipe(demo, tmp_path, model, preset):
    """So that a verdict finds them beside it; and nothing stops a dissection early."""
    how = {"runs_dir": tmp_path, "options": {"dim": 8}, "preset": preset}
    literal, calibrated = (
        planned(model, demo, usual=usual, max_steps=10, **how).config for usual in (LITERAL, CALIBRATED)
    )
    assert {name: getattr(literal, name) for name in LITERAL} == dict(LITERAL)
    assert literal.patience == calibrated.patience == calibrated.matched().patience == 0
    about = {"optimiser": calibrated.optimiser, "l2": calibrated.l2, "max_steps": 10}
    assert replace(calibrated, **LITERAL) == replace(literal, **about)


@pytest.mark.parametrize(("usual", "built_in", "real"), [(CALIBRATED, 32, 64), (LITERAL, 32, 256), (DENSE, 32, 256)])
def test_the_width_suits_the_settings(demo, tmp_path, usual, built_in, real):
    """Those of `dissect run` were chosen at small widths; the published ones, and `dissect train`, have the paper's."""
    for data, dim in ((demo, built_in), (replace(demo, name="mine"), real)):
        how = {"usual": usual, "runs_dir": tmp_path, "max_steps": 10}
        assert planned("srgnn", data, **how).config.model_options == {"dim": dim}
        assert planned("srgnn", data, **how, preset="paper").config.model_options["dim"] == 256
        assert planned("srgnn", data, **how, options={"dim": 8}).config.model_options["dim"] == 8


def test_without_validation_the_dense_model_beside_a_dissection_is_said_to_choose_nothing(demo, tmp_path):
    said = []
    train("srgnn", demo, runs_dir=tmp_path, options={"dim": 4}, validation=0.0, say=said.append, **ALSO)
    assert any(each.startswith("Nothing is held out") for each in said)


def test_a_file_that_changes_under_its_process_is_refused(demo, tmp_path, monkeypatch):
    """The hash on record must be that of the code that is trained: in another process, and of an imported class."""
    text = "from models import SRGNN\n\n\nclass Mine(SRGNN):\n    def twice(self):\n        return 2\n"
    (tmp_path / "moving.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    named, imported = find_model(f"{tmp_path}/moving.py:Mine"), importlib.import_module("moving").Mine
    sent = pickle.dumps(named)
    assert pickle.loads(sent).source == named.source == find_model(imported).source
    (tmp_path / "moving.py").write_text(text.replace("return 2", "return 3"))
    with pytest.raises(UsageError, match="was changed after the training began"):
        pickle.loads(sent)
    rewritten = type("Hook", (importlib.machinery.SourceFileLoader,), {})("moving", str(tmp_path / "moving.py"))
    with monkeypatch.context() as hooked:  # as pytest's asserts are: its methods cannot be those of the file
        hooked.setattr(importlib.import_module("moving"), "__loader__", rewritten)
        hooked.setattr(own_models, "_seen", {})
        assert find_model(imported).name == "moving.py:Mine"
    for seen in (own_models._seen, {}):  # known before, or asked for the first time: then its methods differ
        monkeypatch.setattr(own_models, "_seen", seen)
        with pytest.raises(UsageError, match="was changed after Python had imported Mine"):
            find_model(imported)


def test_one_configuration_is_one_group_however_it_is_written(demo):
    def config(model="attenmixer", **given):
        return planned(model, demo, usual=DENSE, **given).config

    whole, real = (config(options={"scale": scale}) for scale in (16, 16.0))
    assert whole.hash == real.hash and whole.model_options["scale"] == 16.0
    assert type(config(options={"levels": 3}).model_options["levels"]) is int
    twice = planned("srgnn", demo, without=("propagation", "propagation"))
    assert twice.variant == "without-propagation" and twice.without == ("propagation",)


def test_the_times_of_sessions_count_for_models_that_read_them(demo):
    timed = replace(demo, train=replace(demo.train, times=np.arange(len(demo.train))))
    assert timed.split_hash == demo.split_hash
    for model, differs in (("stan", True), ("vstan", True), ("sknn", False)):
        hashes = {planned(model, data, usual=DENSE).config.hash for data in (demo, timed)}
        assert len(hashes) == 1 + differs, model


def test_an_option_may_have_any_name(tmp_path):
    files.write_toml(tmp_path / "c.toml", {"model_options": {"größe": 1}})
    assert tomllib.loads((tmp_path / "c.toml").read_text())["model_options"] == {"größe": 1}
