"""Lists of 20 items: the first items, coverage, popularity and NDCG, against plain loops."""

import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dissect.data.sessions import Dataset, Sessions
from dissect.experiment.train import train
from dissect.runs import files, folders
from dissect.runs.config import DENSE
from dissect.training.evaluation import evaluate_by, gains, prefixes_of
from dissect.training.lists import LENGTH, Lists, first_items
from models import MODELS

V = 60


def in_order(scores):
    """All columns by plain sorting: the highest first, of equal scores the lowest."""
    return [sorted(range(len(row)), key=lambda item: (-row[item], item)) for row in scores.tolist()]


@given(st.integers(0, 10**6), st.integers(1, 90), st.integers(1, 9), st.booleans())
def test_the_first_items_are_those_of_sorting(seed, items, k, by_item):
    rng = np.random.default_rng(seed)
    scores = torch.tensor(rng.integers(-3, 4, (4, items)), dtype=torch.float32)  # many are equal
    scores[0, 0] = -0.0
    scores = scores.t().contiguous().t() if by_item else scores
    assert first_items(scores, k).tolist() == [row[:k] for row in in_order(scores)]


def test_infinite_scores_are_sorted_too():
    scores = torch.full((1, 500), -math.inf)
    scores[0, [7, 490]] = torch.tensor([1e-30, math.inf])
    assert first_items(scores, 4).tolist() == [[490, 7, 0, 1]]


@pytest.fixture
def data():
    rng = np.random.default_rng(3)
    sessions = [rng.integers(1, V + 1, 2 + n % 4).tolist() for n in range(120)]
    return Dataset("tiny", V, Sessions.from_lists(sessions[:90]), Sessions.from_lists(sessions[90:]))


def by_loops(model, data):
    """(coverage, popularity) in percent from the scores of each prefix alone."""
    from models import Batch

    clicks = [0] * (V + 1)
    for session in range(len(data.train)):
        for item in data.train[session].tolist():
            clicks[item] += 1
    seen, means = set(), []
    for session in range(len(data.test)):
        items = data.test[session].tolist()
        for length in range(1, len(items)):
            scores = model.scores(Batch.of([items[:length]])).detach()
            listed = [column + 1 for column in in_order(scores)[0][:LENGTH]]
            seen.update(listed)
            means.append(sum(clicks[item] / max(clicks) for item in listed) / LENGTH)
    return 100 * len(seen) / V, 100 * sum(means) / len(means)


@pytest.mark.parametrize("name", ["srgnn", "pop", "vsknn"])
def test_coverage_and_popularity_are_those_of_the_lists(name, data):
    torch.manual_seed(1)
    model = MODELS[name](n_items=V, **({"dim": 8} if MODELS[name].learns else {}))
    model.prepare(data.train)
    model.eval()
    lists = Lists()
    evaluate_by(model, prefixes_of(data.test), ("best",), batch_size=7, lists=lists)
    found = lists.about(data.train)
    assert list(found.values()) == pytest.approx(by_loops(model, data), rel=1e-5)


def test_popularity_recommends_the_same_items_always(data):
    model = MODELS["pop"](n_items=V)
    model.prepare(data.train)
    lists = Lists()
    evaluate_by(model, prefixes_of(data.test), ("best",), lists=lists)
    assert lists.about(data.train)["coverage@20"] == pytest.approx(100 * LENGTH / V)


@pytest.mark.parametrize("name", ["srgnn", "pop"])
@pytest.mark.parametrize("epochs", [1, 2])
def test_a_summary_has_them_and_an_older_one_gets_them(name, epochs, data, tmp_path, typed):
    """With one epoch the summary takes the ranks of the last evaluation; with two it may rank again."""
    more = {"options": {"dim": 8}, "epochs": epochs, "batch_size": 20, "lr": 0.1} if name == "srgnn" else {}
    run = train(name, data, runs_dir=tmp_path, usual=DENSE, **more) / "s1"
    summary = folders.read_summary(run)
    from dissect.experiment.opened import evaluate, finished_run

    found = evaluate(finished_run(run, tmp_path), lambda *_: data)
    lists = summary.pop("lists")
    assert set(lists) == {"coverage@20", "popularity@20"} and lists == pytest.approx({k: found[k] for k in lists})
    files.write_json(run / "summary.json", summary)
    evaluate(finished_run(run, tmp_path), lambda *_: data, keep=True)
    assert json.loads((run / "summary.json").read_text())["lists"] == pytest.approx(lists)
    code, _, err = typed("evaluate", str(run), "--keep", "--split", "valid")
    assert code == 2 and "--keep is for the run's own test set" in err


@given(st.lists(st.integers(1, 60), min_size=1, max_size=30))
def test_ndcg_is_that_of_a_list_with_one_relevant_item(ranks):
    def ndcg(rank):
        """From the definition, with the relevance of each place of the list and of the ideal list."""
        places = [1 if place == rank else 0 for place in range(1, 21)]
        ideal = [1] + [0] * 19
        dcg, best = (sum(r / math.log2(place + 1) for place, r in enumerate(of, 1)) for of in (places, ideal))
        return dcg / best

    assert gains(np.array(ranks), "ndcg@20").tolist() == pytest.approx([ndcg(rank) for rank in ranks])
