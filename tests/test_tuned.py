"""Which of several tunings a training takes, and what is searched for it."""

import os
from dataclasses import replace
from typing import ClassVar

import numpy as np
import pytest

from analyses import study
from analyses.studies import Arm, Study
from dissect.data.sessions import Dataset, Sessions
from dissect.experiment import tuned
from dissect.experiment.plan import planned
from dissect.experiment.subject import find_model
from dissect.experiment.task import task
from dissect.runs import files
from dissect.runs.config import DENSE
from models import MODELS
from models.search import Choice

V = 12
SIZE = {"dim": 8, "epochs": 1, "seeds": (1,)}
OWN = """
from torch import nn
from models import SessionModel
class Own(SessionModel):
    def __init__(self, n_items, dim=8):
        super().__init__()
        self.items = nn.Embedding(n_items, dim)
    def item_states(self):
        return self.items.weight
    def encode(self, S, batch):
        return S[batch.items[:, 0] - 1]
"""


@pytest.fixture
def data():
    starts = np.random.default_rng(1).integers(V, size=60)
    sessions = [[int(start + step) % V + 1 for step in range(2 + n % 3)] for n, start in enumerate(starts)]
    return Dataset("chain", V, Sessions.from_lists(sessions[:50]), Sessions.from_lists(sessions[50:]))


def kept(runs, data, name, age=0, **about):
    """A folder of tuned settings, `age` seconds old."""
    usual = {"model": "srgnn", "verb": "train", "dataset": data.name, "split_hash": data.split_hash, "dim": 8}
    usual |= {"trials": 12, "asked": 12, "best_trial": 3, "mrr_20": 12.5, "seed": 0}
    usual |= {"dissect": "0.1.0", "torch": "2.13.0", "optuna": "5.0.0"}
    path = runs / "tuned" / name / "tuned.toml"
    files.write_toml(path, {**usual, **about})
    os.utime(path, (1e9 - age, 1e9 - age))
    return path


def test_what_was_fixed_by_hand_comes_after_a_whole_search(data, tmp_path):
    whole = kept(tmp_path, data, "whole", age=50, settings={"lr": 0.004})
    fixed = kept(tmp_path, data, "fixed", settings={"lr": 5.0, "longest": 1}, fixed={"lr": 5.0, "longest": 1})
    find = lambda **given: tuned.find("srgnn", data.split_hash, "train", tmp_path, settings=given)  # noqa: E731
    assert find() == find(lr=5.0) == find(lr=5.0, longest=2) == whole
    assert find(lr=5.0, longest=1, batch_size=32) == fixed
    whole.unlink()
    said = []
    config = planned("srgnn", data, tuned=True, usual=DENSE, runs_dir=tmp_path, say=said.append).config
    assert config.lr == 5.0 and "with lr = 5.0, longest = 1 fixed by hand" in said[0]


def test_an_arm_of_a_preset_takes_what_was_tuned_for_the_preset(data, tmp_path):
    arms = tuple(Arm(f"{n}", "attenmixer", preset="official", options={"levels": n}, x=n) for n in (1, 2))
    lines = Study("mine", "?", arms, "lines")
    (about,) = study.to_tune(lines, SIZE).values()
    assert (about["preset"], about["options"]) == ("official", {"dim": 8})
    assert len(study.to_tune(replace(lines, shows="table"), SIZE)) == 2  # a table tunes each arm as it is
    plain = kept(tmp_path, data, "plain", model="attenmixer")
    assert set(study.tuned_arms(lines, data, SIZE, tmp_path).values()) == {plain}
    own = kept(tmp_path, data, "own", age=50, model="attenmixer", preset="official")
    assert set(study.tuned_arms(lines, data, SIZE, tmp_path).values()) == {own}


def test_a_study_takes_no_settings_of_another_version_of_a_users_model(data, tmp_path):
    path = tmp_path / "own.py"
    path.write_text(OWN)
    model = f"{path}:Own"
    name, source = find_model(model).name, find_model(model).source
    found = Study("mine", "?", (Arm("own", model), Arm("pop", "pop")))
    kept(tmp_path, data, "other", model=name, model_source="0" * 64)
    assert study.tuned_arms(found, data, SIZE, tmp_path) == {}
    same = kept(tmp_path, data, "same", age=50, model=name, model_source=source)
    assert study.tuned_arms(found, data, SIZE, tmp_path) == {"own": same}


def test_a_tuning_that_was_moved_aside_counts_no_longer(data, tmp_path):
    path = kept(tmp_path, data, "srgnn-chain-1")
    path.parent.rename(path.parent.with_name("srgnn-chain-1.old"))
    assert tuned.find("srgnn", data.split_hash, "train", tmp_path) is None


def test_an_option_without_effect_on_the_data_is_not_searched_and_is_told(data, tmp_path):
    times = np.arange(len(data.train)) * 86_400
    timed = replace(data, train=replace(data.train, times=times))
    for model in ("stan", "vstan"):
        assert "lambda2" not in task(model, data, runs_dir=tmp_path).space
        assert "lambda2" in task(model, data, runs_dir=tmp_path, options={"days": 9.0}).space
        assert "lambda2" in task(model, timed, runs_dir=tmp_path).space
    said = []
    task("stan", data, runs_dir=tmp_path, options={"lambda2": 5.0}, say=said.append)
    assert any("lambda2 has no effect without times" in each for each in said)


def test_none_is_searched_only_where_it_is_the_default(data, tmp_path):
    class Own(MODELS["srgnn"]):
        search: ClassVar = {"dropout": Choice((None, 0.5))}

        def __init__(self, n_items: int, dim: int = 8, dropout: float | None = 0.5) -> None:
            super().__init__(n_items, dim, dropout=dropout)

    assert task(Own, data, runs_dir=tmp_path).space["dropout"].values == (0.5,)
