"""Tuning: the spaces of the models, trials that stop and go on, and tuned settings that trainings take or refuse."""

import hashlib
import json
import random
import shlex
import shutil
import subprocess
import sys
import time
from functools import partial
from threading import Barrier, Thread
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

import dissect
from analyses import claims, study
from analyses.compare import compare
from analyses.studies import STUDIES, Arm, Study
from dissect.data.catalog import save
from dissect.data.sessions import Dataset, Sessions, split_validation
from dissect.errors import DataError, DissectError, DivergedError, FinishedError, ModelError, UsageError
from dissect.experiment import task as tasks
from dissect.experiment import trials, tune, tuned
from dissect.experiment.plan import planned
from dissect.experiment.subject import defaults, find_model
from dissect.experiment.task import Task
from dissect.experiment.train import train
from dissect.experiment.tuned import find, read, read_trials
from dissect.reporting.appendix import appendix
from dissect.runs import files, folders
from dissect.runs.config import CALIBRATED, DENSE, SETTINGS
from dissect.tables.trials import best_of
from dissect.training.evaluation import metrics, rank_sessions
from dissect.training.record import Observer
from models import MODELS, Batch
from models.search import SPARSE, TRAINED, Choice, Float, Int

optuna = pytest.importorskip("optuna")

V = 12
SMALL = {"options": {"dim": 8}, "epochs": 3, "batch_size": 32}


def chain(n, seed):
    """Sessions in which item i is followed by i + 1."""
    starts = np.random.default_rng(seed).integers(V, size=n)
    return [[int(start + step) % V + 1 for step in range(2 + n % 3)] for n, start in enumerate(starts)]


@pytest.fixture
def data():
    return Dataset("chain", V, Sessions.from_lists(chain(100, 1)), Sessions.from_lists(chain(20, 2)))


def tried(folder):
    """The trials of a tuning without what depends on the clock."""
    return read_trials(folder).drop(columns="seconds")


# --- spaces ------------------------------------------------------------------------------------------------


def points(space, rng):
    """The ends of a space, or its choices, and three points between."""
    if isinstance(space, Choice):
        return list(space.values)
    between = [rng.uniform(space.low, space.high) for _ in range(3)]
    return [space.low, space.high, *(map(round, between) if isinstance(space, Int) else between)]


@pytest.mark.parametrize("name", MODELS)
def test_every_space_has_names_that_exist_and_points_that_can_be_built(name):
    subject, rng = find_model(name), random.Random(1)
    takes, known = defaults(subject), {each.name for each in SETTINGS}
    width = {"dim": 32} if "dim" in takes else {}
    assert set(subject.cls.search) <= takes.keys() | known
    assert all(option in takes for each in subject.cls.search.values() for option, _ in each.when)
    for preset in (None, *subject.cls.presets):
        fixed = {**subject.cls.presets.get(preset, {}), **width}
        now = {**takes, **fixed}
        spaces = {
            option: each
            for option, each in subject.cls.search.items()
            if option not in fixed and (not each.when or any(now[other] == value for other, value in each.when))
        }
        assert [option for option, each in spaces.items() if not each.holds(takes[option])] == []
        of_each = {option: points(each, rng) for option, each in spaces.items()}
        for place in range(max(map(len, of_each.values()), default=1) if preset is None else 1):
            # All options at once: the n-th point of each. tests/test_contract.py checks more, and is slower.
            options = {option: each[place % len(each)] for option, each in of_each.items()}
            model = subject.cls(n_items=V, **fixed, **options)
            model.prepare(Sessions.from_lists(chain(20, 1)))
            with torch.inference_mode():
                assert model.eval().scores(Batch.of([[1, 2, 3], [4]])).shape == (2, V)


def test_the_spaces_of_trainings_hold_the_defaults():
    usual = {each.name: each.default for each in SETTINGS}
    assert all(each.holds(usual[name]) for name, each in TRAINED.items())
    assert all(each.holds(CALIBRATED.get(name, usual[name])) for name, each in {**TRAINED, **SPARSE}.items())


def test_every_model_with_arguments_worth_tuning_has_a_space():
    assert {name for name, cls in MODELS.items() if not cls.search} == {"pop", "spop"}  # which have no arguments


def test_a_space_holds_and_takes_in_a_value():
    assert Float(0, 1).with_value(2.5) == Float(0, 2.5) and Int(1, 3).with_value(0) == Int(0, 3)
    assert Choice((1, 2)).with_value(True).values == (1, 2, True)  # 1 == True, and they are not the same
    assert Choice((1, None)).with_value(None).values == (1, None)
    assert not Int(1, 3).holds(True) and not Float(0, 1).holds(None) and not Int(1, 3).holds(2.0)


def test_what_is_given_or_in_a_preset_is_not_searched(data, monkeypatch):
    for check in ("suits", "try_on"):  # of model and data, which are small here
        monkeypatch.setattr(tasks, check, lambda *about: None)
    task = partial(tasks.task, data=data, max_steps=4)
    assert set(task("srgnn").space) == {"lr", "l2", "steps", "dropout"}
    assert set(task("srgnn", lr=0.01, options={"steps": 2}).space) == {"l2", "dropout"}
    normalised = task("srgnn", preset="normalised")
    assert set(normalised.space) == {"lr", "l2", "steps", "dropout", "scale"} and normalised.start["scale"] == 12
    mixed = task("srgnn", options={"readout": "attenmixer"})
    assert {"levels", "heads", "scale"} < set(mixed.space)
    assert set(task("attenmixer", preset="paper").space) == {"lr", "l2", "dropout"}
    recipe = task("gru4rec", preset="authors")  # a rate and batches of its own
    assert recipe.start["lr"] == 0.05 and recipe.space["lr"] == Float(5e-4, 0.05, log=True)
    assert task("srgnn", sparsevd=True).start["kl_weight"] == 4
    assert task("sasrec", options={"dim": 6}).space["heads"].values == (1, 2)  # four do not divide the width


# --- trials ------------------------------------------------------------------------------------------------


def test_the_first_trial_has_the_defaults_and_the_validation_accuracy_of_a_training(data, tmp_path):
    folder = tune.tune("srgnn", data, trials=1, runs_dir=tmp_path, **SMALL)
    group = train("srgnn", data, usual=DENSE, seeds=(0,), runs_dir=tmp_path, **SMALL)
    valid = [row for row in files.read_jsonl(group / "s0" / "metrics.jsonl") if row.get("split") == "valid"]
    found = files.read_jsonl(folder / "trials" / "000" / "s0" / "metrics.jsonl")
    judged = [row for row in found if row["kind"] == "eval"]
    assert [(row["step"], row["mrr@20"]) for row in judged] == [(row["step"], row["mrr@20"]) for row in valid]
    assert read(folder).mrr_20 == max(row["mrr@20"] for row in valid) == read(folder).default_mrr_20
    plan = planned("srgnn", data, tuned=True, usual=DENSE, runs_dir=tmp_path, batch_size=32)
    assert plan.config.hash == folders.HASHED.search(group.name)[1]  # the defaults again
    assert [path.name for path in folders.find_groups(tmp_path)] == [group.name]  # trials are no groups
    assert not (folder / "trials" / "000" / "s0" / "checkpoints").exists()


def test_the_test_part_changes_nothing(data, tmp_path):
    other = Dataset(data.name, V, data.train, Sessions.from_lists([[1, 1, 1]]))
    tables = [tried(tune.tune("srgnn", each, trials=2, runs_dir=tmp_path, **SMALL)) for each in (data, other)]
    pd.testing.assert_frame_equal(*tables)
    assert len(list((tmp_path / "tuned").iterdir())) == 2  # though they are two tunings


def test_the_same_seed_makes_the_same_trials_and_another_seed_others(data, tmp_path):
    runs = {(where, seed): tmp_path / where for where, seed in (("a", 0), ("b", 0), ("c", 1))}
    tables = [tried(tune.tune("sknn", data, trials=8, seed=seed, runs_dir=to)) for (_, seed), to in runs.items()]
    pd.testing.assert_frame_equal(tables[0], tables[1])
    assert not tables[0]["k"].equals(tables[2]["k"]) and tables[0]["k"][0] == tables[2]["k"][0] == 100


class Stops(Observer):
    """Stops the second trial after its first epoch, as Ctrl-C would while it ranks."""

    def __init__(self, title):
        self.is_second = "trial 1 " in title

    def evaluated(self, split, step, values):
        if self.is_second:
            raise KeyboardInterrupt


def test_a_tuning_that_was_stopped_makes_the_trials_that_it_would_have_made(data, tmp_path):
    whole = tune.tune("srgnn", data, trials=4, runs_dir=tmp_path / "whole", **SMALL)
    with pytest.raises(KeyboardInterrupt):
        tune.tune("srgnn", data, trials=4, runs_dir=tmp_path / "stopped", observe=Stops, **SMALL)
    folder = next((tmp_path / "stopped" / "tuned").iterdir())
    assert read(folder).trials == 1 and (folder / "trials" / "001" / "s0" / "checkpoints" / "last.pt").exists()
    begun = []

    class Begins(Observer):
        def begin(self, run, step, steps, steps_per_epoch):
            begun.append((run.parent.name, step > 0))

    told = []
    how = {"observe": lambda title: Begins(), "say": told.append}
    tune.tune("srgnn", data, trials=3, runs_dir=tmp_path / "stopped", **how, **SMALL)
    assert begun == [("001", True), ("002", False)]  # from its checkpoint, and no trial twice
    tune.tune("srgnn", data, trials=4, runs_dir=tmp_path / "stopped", **SMALL)  # more trials of the same tuning
    pd.testing.assert_frame_equal(tried(folder), tried(whole))
    assert len(tried(whole).drop_duplicates(["lr", "l2", "steps", "dropout"])) == 4
    assert told[0].startswith("2 of 3: trial 1 finished, MRR@20 ") and told[0].endswith(" left.")
    assert (
        tune.tune("srgnn", data, trials=4, runs_dir=tmp_path / "stopped", observe=Stops, **SMALL) == folder
    )  # nothing


def test_a_run_that_cannot_go_on_is_set_aside(data, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        tune.tune("srgnn", data, trials=2, runs_dir=tmp_path, observe=Stops, **SMALL)
    run = next(tmp_path.glob("tuned/*/trials/001/s0"))
    (run / "checkpoints" / "last.pt").write_bytes(b"damaged")
    for kept in run.glob("checkpoints/*.pt"):
        kept.write_bytes(b"damaged")
    folder = tune.tune("srgnn", data, trials=2, runs_dir=tmp_path, **SMALL)
    whole = tune.tune("srgnn", data, trials=2, runs_dir=tmp_path / "whole", **SMALL)
    pd.testing.assert_frame_equal(tried(folder), tried(whole))


def test_a_diverging_trial_is_recorded_and_skipped(data, tmp_path, monkeypatch):
    fit = trials.fit

    def diverges(build, view, config, run, **more):
        if run.parent.name in bad:
            raise DivergedError("The loss is no longer a number at step 3.")
        return fit(build, view, config, run, **more)

    monkeypatch.setattr(trials, "fit", diverges)
    bad = {"001"}
    folder = tune.tune("sknn", data, trials=3, runs_dir=tmp_path)
    table = read_trials(folder)
    assert table["state"].tolist() == ["finished", "failed", "finished"] and read(folder).trials == 3
    assert table["note"][1] == "The loss is no longer a number at step 3."
    bad = {"000", "001"}
    with pytest.raises(DissectError, match="No trial of sknn came to its end") as error:
        tune.tune("sknn", data, trials=2, runs_dir=tmp_path / "none")
    assert error.value.exit_code == 1
    folder = tune.tune("sknn", data, trials=3, runs_dir=tmp_path / "none")
    assert read(folder).best_trial == 2 and read(folder).default_mrr_20 is None


def test_a_trial_that_raises_is_recorded_and_the_tuning_goes_on(data, tmp_path, monkeypatch):
    fit = trials.fit
    raised = {}

    def raises(build, view, config, run, **more):
        if error := raised.get(run.parent.name):
            raise error
        return fit(build, view, config, run, **more)

    monkeypatch.setattr(trials, "fit", raises)
    memory = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.")
    raised |= {"001": memory, "002": ModelError("Own raised ValueError in training: no (own.py, line 3).")}
    folder = tune.tune("sknn", data, trials=4, runs_dir=tmp_path)
    assert read_trials(folder)["state"].tolist() == ["finished", "failed", "failed", "finished"]
    notes = ["OutOfMemoryError: CUDA out of memory. Tried to allocate 2 GiB.", raised["002"].message]
    assert read_trials(folder)["note"].tolist()[1:3] == notes
    # The defaults, and what nobody expects, are told once; the same call goes on without them.
    raised = {"000": memory, "002": ZeroDivisionError("division by zero")}
    again = {"trials": 4, "runs_dir": tmp_path / "again"}
    for kind in (torch.OutOfMemoryError, ZeroDivisionError):
        with pytest.raises(kind):
            tune.tune("sknn", data, **again)
    folder = tune.tune("sknn", data, **again)
    assert read_trials(folder)["state"].tolist() == ["failed", "finished", "failed", "finished"]
    assert read_trials(folder)["note"][2] == "ZeroDivisionError: division by zero" and read(folder).trials == 4


def test_a_disk_that_refuses_is_no_fault_of_a_trial(data, tmp_path, monkeypatch):
    def refuses(*about, **more):
        raise files.refused(tmp_path, OSError(28, "No space left on device"))

    monkeypatch.setattr(trials, "fit", refuses)
    for _ in range(3):
        with pytest.raises(DissectError, match="No space left"):
            tune.tune("sknn", data, trials=2, runs_dir=tmp_path)
    monkeypatch.undo()
    assert read(tune.tune("sknn", data, trials=2, runs_dir=tmp_path)).default_mrr_20 is not None


def test_a_bad_trial_is_pruned_but_never_the_defaults(data, tmp_path, monkeypatch):
    monkeypatch.setattr(optuna.pruners.MedianPruner, "prune", lambda self, study, trial: True)
    folder = tune.tune("srgnn", data, trials=3, runs_dir=tmp_path, **SMALL)
    table = read_trials(folder)
    assert table["state"].tolist() == ["finished", "pruned", "pruned"] and table["epochs"].tolist() == [3, 1, 1]
    assert read(folder).best_trial == 0 and table["mrr@20"][1:].isna().all()


def test_a_baseline_is_fitted_on_the_one_part_and_judged_on_the_other(data, tmp_path):
    fixed = {"weighting": "same", "idf": 0.0}  # gives many items the same score
    folder = tune.tune("vsknn", data, trials=4, runs_dir=tmp_path, options=fixed)
    record, (rest, valid), won = read(folder), split_validation(data.train, 0.1), []
    for options, value in ((record.options, record.mrr_20), ({}, record.default_mrr_20)):
        model = MODELS["vsknn"](V, **{**fixed, **options})
        model.prepare(rest)
        ranks = {ties: rank_sessions(model, valid, "cpu", ties).rank for ties in ("worst", "best")}
        assert metrics(ranks["worst"])["mrr@20"] == pytest.approx(value, abs=1e-9)
        won.append(metrics(ranks["best"])["mrr@20"] - value)
    assert max(won) > 0.1  # by equal scores, if they counted
    config = planned("vsknn", data, tuned=True, usual=DENSE, runs_dir=tmp_path, options=fixed).config
    usual = defaults(find_model("vsknn"))
    assert config.model_options == {name: v for name, v in {**fixed, **record.options}.items() if v != usual[name]}


def test_a_model_without_anything_to_tune_makes_one_trial(data, tmp_path):
    told = []
    folder = tune.tune("pop", data, trials=12, runs_dir=tmp_path, say=told.append)
    assert len(read_trials(folder)) == 1 and told[0] == "pop has nothing to tune: one trial, its defaults."


def test_the_same_values_are_not_trained_twice(data, tmp_path, monkeypatch):
    folder = tune.tune("sknn", data, trials=1, runs_dir=tmp_path)
    monkeypatch.setattr(Task, "values", lambda self, params: {"k": 100, "sample": 500})
    monkeypatch.setattr(trials, "fit", None)
    tune.tune("sknn", data, trials=3, runs_dir=tmp_path)
    table = read_trials(folder)
    assert table["note"].tolist()[1:] == ["the same as trial 0"] * 2 and table["mrr@20"].nunique() == 1


def test_no_trial_begins_after_the_time_is_over(data, tmp_path, monkeypatch):
    now = iter(range(0, 10**6, 1800))  # half an hour passes at each look at the clock
    monkeypatch.setattr(tune, "time", SimpleNamespace(monotonic=lambda: next(now)))
    folder = tune.tune("sknn", data, trials=50, timeout=2, runs_dir=tmp_path)
    assert len(read_trials(folder)) == read(folder).trials == 3 and read(folder).asked == 50
    told = []
    planned("sknn", data, tuned=True, usual=DENSE, runs_dir=tmp_path, say=told.append)
    assert "(3 of 50 trials, MRR@20 " in told[0]
    with pytest.raises(UsageError, match="--timeout is in hours and above 0, not -1"):
        tune.tune("sknn", data, timeout=-1, runs_dir=tmp_path)


def test_two_workers_share_the_trials_of_a_tuning(data, tmp_path):
    told: list[list[str]] = [[], []]
    both, how = Barrier(2), {"trials": 12, "runs_dir": tmp_path}

    def say(own, line):
        if "of 12: trial" in line and not any("of 12: trial" in each for each in own):
            both.wait(30)  # until the other has made one, too: the trials take no time
        own.append(line)

    workers = [Thread(target=tune.tune, args=("sknn", data), kwargs={**how, "say": partial(say, own)}) for own in told]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    table = read_trials(next((tmp_path / "tuned").iterdir()))
    assert table["trial"].tolist() == list(range(12)) and set(table["state"]) == {"finished"}
    assert not table[["k", "sample"]].duplicated().any()
    made = [[line for line in own if "of 12: trial" in line] for own in told]
    assert sum(map(len, made)) == 12 and all(made)


@pytest.mark.slow
def test_two_processes_share_the_trials_of_a_tuning(data, tmp_path):
    save(data, tmp_path / "data")
    words = ["tune", "sknn", "--dataset", data.name, "--trials", "8", "--runs-dir", str(tmp_path / "runs")]
    command = [sys.executable, "-m", "dissect", *words, "--data-dir", str(tmp_path / "data")]
    processes = [subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    ends = [process.communicate(timeout=120) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], ends
    table = read_trials(next((tmp_path / "runs" / "tuned").iterdir()))
    assert table["trial"].tolist() == list(range(8)) and set(table["state"]) == {"finished"}
    made = [[line for line in err.splitlines() if "of 8: trial" in line] for _, err in ends]
    assert sum(map(len, made)) == 8


# --- the journal -------------------------------------------------------------------------------------------


def test_a_half_written_line_is_cut_off_and_a_garbled_one_is_told(data, tmp_path):
    folder = tune.tune("sknn", data, trials=2, runs_dir=tmp_path)
    journal = folder / trials.JOURNAL
    with open(journal, "ab") as file:
        file.write(b'{"op_code": 4, "wor')  # killed while it wrote
    tune.tune("sknn", data, trials=3, runs_dir=tmp_path)
    assert len(read_trials(folder)) == 3
    journal.write_bytes(journal.read_bytes().replace(b'"op_code":', b'"op_c', 3))
    with pytest.raises(DataError, match=r"trials\.journal is damaged") as error:
        tune.tune("sknn", data, trials=4, runs_dir=tmp_path)
    assert error.value.hint == f"Move it away and tune anew: mv {folder} {folder}.old"


@pytest.mark.parametrize("harm", ["head", "line", "empty", "gone", "random", "folder"])
def test_a_damaged_journal_is_told_whether_one_tunes_or_looks(data, tmp_path, harm):
    folder = tune.tune("sknn", data, trials=2, runs_dir=tmp_path)
    journal = folder / trials.JOURNAL
    whole = journal.read_bytes()
    journal.unlink()
    if harm == "folder":
        journal.mkdir()
    elif harm != "gone":
        left = {
            "head": whole[150:],
            "line": whole[whole.index(b"\n") + 1 :],
            "empty": b"",
            "random": b"\xdf\x00\n" * 99,
        }
        journal.write_bytes(left[harm])
    for ask in (tune.look, tune.tune):
        with pytest.raises(DataError, match=r"trials\.journal is damaged") as error:
            ask("sknn", data, trials=2, runs_dir=tmp_path)
        assert error.value.exit_code == 3 and f"mv {folder} {folder}.old" in error.value.hint


def test_a_lost_file_of_a_tuning_is_written_again_when_one_looks(data, tmp_path):
    folder = tune.tune("sknn", data, trials=2, runs_dir=tmp_path)
    before, rows = read(folder), read_trials(folder)
    for name in (tuned.FILE, tuned.TABLE):
        (folder / name).unlink()
        assert tune.look("sknn", data, trials=2, runs_dir=tmp_path) == folder
        assert read(folder) == before and read_trials(folder).equals(rows)


def test_without_optuna_the_command_that_installs_it_is_told(data, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(UsageError, match="needs Optuna") as error:
        tune.tune("sknn", data, runs_dir=tmp_path)
    assert "pip install -e '.[tune]'" in error.value.hint


# --- tuned settings ----------------------------------------------------------------------------------------


@pytest.fixture
def found(data, tmp_path):
    """A tuning, whose file says other values than the defaults."""
    folder = tune.tune("srgnn", data, trials=1, runs_dir=tmp_path, schedule="constant", **SMALL)
    change(folder, settings={**read(folder).settings, "lr": 0.007}, options={"steps": 2})
    return folder


def change(folder, **fields):
    record = {**tuned.msgspec.to_builtins(read(folder)), **fields}
    files.write_toml(folder / "tuned.toml", record)


def test_a_training_takes_tuned_settings_and_what_is_given_wins(data, tmp_path, found):
    def config(**more):
        return planned("srgnn", data, **{"usual": DENSE, "runs_dir": tmp_path, "tuned": True, **more}).config

    plain = config()
    assert (plain.lr, plain.model_options, plain.batch_size) == (0.007, {"dim": 8, "steps": 2}, 32)
    assert plain.schedule == "constant" and plain.protocol == "clean" and plain.validation == 0.1
    assert plain.max_steps == config(tuned=None, options={"dim": 8}, batch_size=32, epochs=3).max_steps
    assert config(tuned=found) == config(tuned=found / "tuned.toml") == plain
    given = config(lr=0.5, options={"steps": 1, "dim": 16}, epochs=1)
    assert (given.lr, given.model_options, given.l2) == (0.5, {"dim": 16}, plain.l2)
    assert given.max_steps < plain.max_steps
    told = []
    config(options={"dim": 16}, say=told.append)
    assert told == [
        f"Tuned settings: {found / 'tuned.toml'} (1 trial, MRR@20 {read(found).mrr_20:.2f} on validation, "
        "with schedule = constant, batch_size = 32 fixed by hand, at width 8)."
    ]


def test_a_group_records_where_its_tuned_settings_come_from(data, tmp_path, found):
    how = {"usual": DENSE, "runs_dir": tmp_path, "epochs": 1}
    tuned_group = train("srgnn", data, seeds=(1,), tuned=found, **how)
    other = train("narm", data, seeds=(1,), options={"dim": 4}, **how)
    file = found / "tuned.toml"
    assert folders.tuned_by(tuned_group) == {
        "schema": 1,
        "file": f"{found.name}/tuned.toml",
        "sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
        "trials": 1,
        "asked": 1,
    }
    assert folders.tuned_by(other) is None
    (table,) = compare([tuned_group, other])
    label = table.rows["label"][table.rows["group"] == tuned_group.name].item()
    assert f"Tuned on validation: {label} (1 trial)." in table.rows.attrs["notes"]
    (says,) = [row[1] for row in appendix([tuned_group, other], [])["chosen"] if row[0].startswith("settings")]
    told = f"tuned: {tuned_group.name} on validation, 1 trial ({found.name}/tuned.toml, SHA-256 "
    assert says.startswith(told) and "no other search" in says
    (says,) = [row[1] for row in appendix([other], [])["chosen"] if row[0].startswith("settings")]
    assert says.startswith("set before each training") and "tell of no search" in says
    files.write_json(tuned_group / "tuned.json", {**folders.tuned_by(tuned_group), "asked": 12})
    assert f"Tuned on validation: {label} (1 of 12 trials)." in compare([tuned_group, other])[0].rows.attrs["notes"]
    (tuned_group / "tuned.json").unlink()  # as if the group were older than the tuning
    with pytest.raises(FinishedError):
        train("srgnn", data, seeds=(1,), tuned=found, **how)
    assert folders.tuned_by(tuned_group)["trials"] == 1
    (tuned_group / "tuned.json").write_text("{")
    with folders.hearing() as heard:
        assert "Tuned" not in " ".join(compare([tuned_group, other])[0].rows.attrs["notes"])
        appendix([tuned_group], [])
    assert len(heard) == 2


def test_a_preset_wins_unless_it_was_tuned(data, tmp_path, found):
    plan = planned("srgnn", data, preset="normalised", tuned=True, usual=DENSE, runs_dir=tmp_path)
    assert plan.config.model_options == {"dim": 8, "steps": 2, "normalised": True}
    change(found, preset="normalised", options={"steps": 3, "scale": 9.0})
    plan = planned("srgnn", data, preset="normalised", tuned=True, usual=DENSE, runs_dir=tmp_path)
    assert plan.config.model_options == {"dim": 8, "steps": 3, "normalised": True, "scale": 9.0}
    with pytest.raises(UsageError, match="has no tuned settings of srgnn"):  # those of a preset are not the model's
        planned("srgnn", data, tuned=True, usual=DENSE, runs_dir=tmp_path)


def test_settings_of_other_data_another_model_or_method_are_refused(data, tmp_path, found):
    other = Dataset("chain", V, data.train, Sessions.from_lists(chain(50, 3)))
    how = {"usual": DENSE, "runs_dir": tmp_path, "tuned": found / "tuned.toml"}
    with pytest.raises(UsageError, match=rf"were tuned on chain \(split {data.split_hash}\), not on chain") as error:
        train("srgnn", other, **how)
    assert error.value.hint == "Tune: dissect tune srgnn --dataset chain, or take them by --anyway."
    assert planned("srgnn", other, anyway=True, **how).config.lr == 0.007
    with pytest.raises(UsageError, match="has the settings of srgnn, not of narm"):
        planned("narm", data, anyway=True, **how)
    with pytest.raises(UsageError, match="were tuned without SparseVD"):
        planned("srgnn", data, **{**how, "usual": CALIBRATED})
    with pytest.raises(UsageError, match="no tuned settings of srgnn on chain with SparseVD") as error:
        planned("srgnn", data, usual=CALIBRATED, runs_dir=tmp_path, tuned=True)
    assert error.value.hint == "Tune it: dissect tune srgnn --dataset chain --sparsevd"
    with pytest.raises(UsageError, match="not with --literal"):
        planned("srgnn", data, usual={}, runs_dir=tmp_path, tuned=True)
    with pytest.raises(UsageError, match="There are no tuned settings in"):
        planned("srgnn", data, usual=DENSE, tuned=tmp_path / "none.toml")
    assert not list(tmp_path.glob("srgnn-*"))


@pytest.mark.parametrize("text", ["model = ", "model = 'srgnn'", "trials = -1", "\x00", "lr = 1\nschedule = 'steps'"])
def test_a_damaged_file_is_told(data, found, text):
    path = found / "tuned.toml"
    path.write_text(text if text.startswith("model") else f"{text}\n{path.read_text()}")
    with pytest.raises(DataError, match="holds no tuned settings") as error:
        planned("srgnn", data, usual=DENSE, tuned=path)
    assert error.value.exit_code == 3


def test_the_weight_of_the_kl_is_tuned_for_a_model_with_sparsevd(data, tmp_path):
    small = {"sparsevd": True, "options": {"dim": 8}, "max_steps": 4, "batch_size": 32}
    folder = tune.tune("srgnn", data, trials=2, runs_dir=tmp_path, **small)
    assert set(read_trials(folder)["kl_weight"]) > {4.0} and "kl_weight" in read(folder).searched
    # The default of `Config` differs from that of `dissect run`: it is written all the same.
    fixed = tune.tune("srgnn", data, trials=1, runs_dir=tmp_path / "fixed", kl_weight=1.0, **small)
    plan = planned("srgnn", data, usual=CALIBRATED, runs_dir=tmp_path, tuned=fixed)
    assert read(fixed).verb == "run" and plan.config.kl_weight == 1 and plan.config.max_steps == 4
    assert plan.config.is_sparse and plan.config.shadows and plan.config.select == "last"
    with pytest.raises(UsageError, match="baseline"):
        tasks.task("sknn", data, sparsevd=True)


def test_of_several_files_that_of_the_width_and_then_the_newest_counts(data, tmp_path, capsys):
    folders_of = {
        dim: tune.tune("narm", data, trials=1, runs_dir=tmp_path, options={"dim": dim}, epochs=1) for dim in (4, 6)
    }
    for dim, folder in folders_of.items():
        assert find("narm", data.split_hash, "train", tmp_path, options={"dim": dim}) == folder / "tuned.toml"
    (folders_of[4] / "tuned.toml").touch()
    # Of two that a command without a width could mean, the other is named by its file.
    uses = {dim: best_of(folder, "narm", None)[1].splitlines()[-1] for dim, folder in folders_of.items()}
    assert uses[4].endswith(" --tuned") and uses[6].endswith(f" --tuned {folders_of[6] / 'tuned.toml'}")
    assert find("narm", data.split_hash, "train", tmp_path, options={"dim": 5}) == folders_of[4] / "tuned.toml"
    (folders_of[4] / "tuned.toml").write_text("damaged")
    assert find("narm", data.split_hash, "train", tmp_path) == folders_of[6] / "tuned.toml"
    assert "Left out: " in capsys.readouterr().err


def test_of_two_versions_of_a_users_model_its_own_settings_count(data, tmp_path):
    folder = tune.tune("narm", data, trials=1, runs_dir=tmp_path, options={"dim": 4}, epochs=1)
    change(folder, model_source="a")
    shutil.copytree(folder, folder.with_name("other"))
    change(folder.with_name("other"), model_source="b")  # the newest
    assert find("narm", data.split_hash, "train", tmp_path, source="a") == folder / "tuned.toml"


# --- commands, studies, Python -------------------------------------------------------------------------------


def test_the_command_tunes_shows_and_hands_on(data, tmp_path, typed):
    save(data, tmp_path / "data")
    words = ["tune", "sknn", "--dataset", data.name, "--trials", "3"]
    code, out, err = typed(*words, "--status")
    assert code == 2 and "No trial is finished in runs/tuned/sknn-chain-" in err
    code, out, err = typed(*words)
    assert code == 0 and "sknn on chain: 3 finished, of 3 trials" in out and "0, defaults" in out
    assert "3 of 3: trial 2 finished" in err and "Use it: dissect train sknn --dataset chain --tuned" in out
    assert typed(*words, "--status")[1] == out
    told = json.loads(typed(*words, "--json")[1])
    assert told["trials"] == 3 and len(told["rows"]) == 3 and told["command"] == f"dissect {' '.join(words)} --json"
    code, out, err = typed("train", "sknn", "--dataset", data.name, "--tuned")
    assert code == 0 and "Tuned settings: runs/tuned/sknn-chain-" in err
    code, out, err = typed("train", "--tuned", "sknn", "--dataset", data.name)
    assert code == 2 and "--tuned takes a tuned.toml, not sknn." in err
    code, out, err = typed("tune", "vsknn", "--dataset", data.name, "--trials", "1", "--decay", "same")
    assert "vsknn (decay=same) on chain: 1 finished" in out
    assert "Use it: dissect train vsknn --dataset chain --option decay=same --tuned" in out
    assert "--test-at-end" not in typed("tune", "--help")[1] and "--test-at-end" in typed("train", "--help")[1]


def test_the_command_that_uses_a_tuning_has_its_places_and_exact_options(data, tmp_path, typed):
    save(data, tmp_path / "my data")
    words = ["--dataset", data.name, "--data-dir", "my data", "--runs-dir", "my runs"]
    code, out, err = typed("tune", "stan", *words, "--trials", "1", "--lambda1", "0.12345678")
    assert code == 0, err
    use = out.splitlines()[-1].removeprefix("Use it: dissect ")
    assert use.endswith("--option lambda1=0.12345678 --runs-dir 'my runs' --data-dir 'my data' --tuned")
    code, out, err = typed(*shlex.split(use))
    assert code == 0 and "Tuned settings: my runs/tuned/stan-chain-" in err
    (tmp_path / "mine.toml").write_text('[[arm]]\nmodel = "sknn"\n')
    code, out, err = typed("study", "tune", "mine.toml", *words, "--trials", "1")
    assert code == 0 and out.endswith("--runs-dir 'my runs' --data-dir 'my data' --tuned\n")


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (["srgn"], 2, "Did you mean srgnn"),
        (["sknn", "--trials", "0"], 2, "--trials must be at least 1, not 0."),
        (["sknn", "--timeout", "0"], 2, "--timeout is in hours and above 0, not 0."),
        (["srgnn", "--validation", "0"], 2, "--validation must be above 0 and below 1 to tune on, not 0."),
        (["srgnn", "--validation", "0.001"], 2, "leaves 0 prefixes to judge a trial on"),
        (["sknn", "--sparsevd"], 2, "is a baseline"),
        (["srgnn", "--steps", "-1"], 2, "steps is at least 0"),
        (["srgnn", "--sparsevd", "--patience", "2"], 2, "--patience and --sparsevd exclude each other"),
    ],
)
def test_what_makes_no_sense_is_told(data, tmp_path, typed, words, code, says):
    save(data, tmp_path / "data")
    got, _, err = typed("tune", *words, "--dataset", data.name)
    assert got == code and says in err
    assert not (tmp_path / "runs").exists()


def test_a_study_takes_tuned_settings_where_there_are_some(data, tmp_path):
    arms = (
        Arm("sknn", "sknn"),
        Arm("srgnn", "srgnn", settings={"batch_size": 32}),
        Arm("two", "srgnn", options={"steps": 2}),
    )
    mine, size = (
        Study("mine", "?", (*arms, Arm("pop", "pop"), Arm("old", "srgnn", verb="literal"))),
        {"dim": 8, "epochs": 1, "seeds": (1,)},
    )
    todo = study.to_tune(mine, size)
    assert list(todo) == ["sknn", "srgnn", "two", "pop"] and todo["srgnn"]["usual"]["schedule"] == "constant"
    about = {**todo["srgnn"]}
    folder = tune.tune(about.pop("model"), data, trials=1, runs_dir=tmp_path, **about)
    change(folder, settings={**read(folder).settings, "lr": 0.007}, options={"steps": 3})
    size["tuned"] = study.tuned_arms(mine, data, size, tmp_path)
    assert size["tuned"] == {"srgnn": folder / "tuned.toml", "two": folder / "tuned.toml"}
    configs = {job.arm.label: job.plan.config for job in study.jobs(mine, data, size, tmp_path)}
    assert configs["srgnn"].lr == configs["two"].lr == 0.007 and configs["old"].lr == 1e-3
    assert [configs[label].model_options["steps"] for label in ("srgnn", "two")] == [3, 2]  # an arm's own win
    jobs = [job for job in study.jobs(mine, data, size, tmp_path) if job.arm.label == "srgnn"]
    assert list(study.perform(jobs, print)) == jobs
    (jobs[0].plan.group / "tuned.json").unlink()  # as if it had been trained before it was tuned
    assert list(study.perform([], print, jobs)) == [] and folders.tuned_by(jobs[0].plan.group)["trials"] == 1
    figure = Study("mine", "?", tuple(Arm(f"{n}", "srgnn", options={"steps": n}, x=n) for n in (1, 2)), "lines")
    assert list(study.to_tune(figure, size)) == ["1"] and study.to_tune(figure, size)["1"]["options"] == {"dim": 8}


def test_the_claims_take_the_tuned_settings_of_each_study(data, tmp_path, monkeypatch, typed):
    monkeypatch.setattr(claims, "STUDIED", ("figure3", "table3"))
    size = {"dim": 8, "epochs": 1, "seeds": (1,)}
    found = claims.whole(STUDIES["claims"])
    todo = study.to_tune(found, size)
    assert todo["figure3: srgnn"]["sparsevd"] and {"table3: srgnn", "table3: srgnn, Atten-Mixer"} <= set(todo)
    about = {**todo["table3: srgnn"], "batch_size": 32}
    folder = tune.tune(about.pop("model"), data, trials=1, runs_dir=tmp_path / "runs", **about)
    change(folder, settings={**read(folder).settings, "lr": 0.007})
    size["tuned"] = study.tuned_arms(found, data, size, tmp_path / "runs")
    assert "table3: srgnn" in size["tuned"] and "figure3: srgnn" not in size["tuned"]  # tuned without SparseVD
    rates = {job.arm.label: job.plan.config.lr for job in claims.jobs(data, size, tmp_path / "runs")}
    assert rates["table3: srgnn"] == 0.007 != rates["figure3: srgnn"]
    judged, plan = [], study.jobs
    with monkeypatch.context() as patch:
        patch.setattr(study, "jobs", lambda *args: judged.extend(plan(*args)) or [])
        patch.setattr(claims, "CLAIMS", [claim for claim in claims.CLAIMS if claim.study == "table3"])
        patch.setattr(claims, "trained", lambda *args: {("srgnn", "clean")})
        claims.judged(data, size, tmp_path / "runs")
    assert {job.plan.config.lr for job in judged if (job.arm.label, job.arm.verb) == ("srgnn", "train")} == {0.007}
    save(data, tmp_path / "data")
    words = ["claims", "--dataset", data.name, "--data-dir", "data", "--dim", "8"]
    _, out, err = typed("study", "table", *words, "--tuned")
    assert "Without tuned settings: figure3: srgnn" in err and "--dim 8 --data-dir data --tuned" in " ".join(
        out.split()
    )
    code, _, err = typed("study", "tune", *words, "--timeout", "1e-9")
    assert code == 0 and f"1 of {len(todo)}: figure3: srgnn." in err and "The time is over" in err
    arms = ["table2", "--dataset", data.name, "--data-dir", "data", "--arm", "pop", "--arm", "spop", "--tuned"]
    code, _, err = typed("study", "run", *arms, "--quiet")
    assert code == 0 and "Without tuned settings: pop; spop." in err and "finished" not in err  # a note is no progress
    for tuned_too, lr in ((True, 0.007), (False, 1e-3)):
        own = dissect.study("claims", data, dim=8, epochs=1, seeds=(1,), tuned=tuned_too, runs_dir="runs", quiet=True)
        assert {job.arm.label: job.plan.config.lr for job in own.jobs}["table3: srgnn"] == lr


def test_python_tunes_and_hands_on(data, tmp_path):
    tuning = dissect.tune("srgnn", data, trials=2, dim=8, epochs=1, batch_size=32, runs_dir=tmp_path, quiet=True)
    assert set(tuning.best) >= {"lr", "l2", "steps"} and len(tuning.trials()) == 2
    assert tuning.record.trials == 2 and tuning.path.parent == tmp_path / "tuned"
    group = dissect.train("srgnn", data, tuned=tuning, runs_dir=tmp_path, quiet=True)
    config = folders.group_config(group.path)
    assert config["lr"] == tuning.best["lr"] and config["model_options"]["dim"] == 8
    with pytest.raises(UsageError, match="trials is a whole number"):
        dissect.tune("srgnn", data, trials=0)
    with pytest.raises(UsageError, match="no setting"):
        dissect.tune("srgnn", data, protocol="paper")
    with pytest.raises(UsageError, match="tuned is True"):
        dissect.train("srgnn", data, tuned=3)


def test_a_wait_for_another_process_names_the_file_that_it_holds(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(trials, "PATIENCE", 0.0)
    with files.locked(tmp_path):
        other = Thread(target=lambda: trials.alone(tmp_path).__enter__())
        other.start()
        time.sleep(0.3)
    other.join(30)
    assert capsys.readouterr().err == f"Waiting for another process, which holds {tmp_path / '.lock'}.\n"
