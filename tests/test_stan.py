"""SR, SF-SKNN, STAN and VSTAN against their definitions as plain loops, and against scores of session-rec."""

import json
import math
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from dissect.data import catalog
from dissect.data.sessions import Dataset, Sessions
from models import MODELS, Batch
from models.rules import SequentialRules
from models.sfsknn import FilteredSessionKNN
from models.stan import DAY, STAN
from models.votes import DECAYS
from models.vstan import VSTAN
from tests.test_baselines import (
    N_ITEMS,
    QUERIES,
    TRAIN,
    below_every_vote,
    clicks_on,
    decay,
    fitted,
    random_sessions,
)

DATA = ((TRAIN, QUERIES), (random_sessions(60, 1), random_sessions(30, 2)))
PARITY = json.loads((Path(__file__).parent / "parity" / "stan.json").read_text())


def with_times(train, times):
    sessions = Sessions.from_lists(train)
    return Sessions(sessions.items, sessions.offsets, np.array(times, np.int64))


def spread(train, seed=0):
    """Times in order, days apart."""
    return np.sort(np.random.default_rng(seed).integers(0, 30 * DAY, len(train))) + 1_460_000_000


def filled(votes: dict[int, float], train) -> list[float]:
    scores = below_every_vote(train)
    for item, score in votes.items():
        scores[item - 1] = score
    return scores


def last_place(session: list[int]) -> dict[int, int]:
    return {item: place for place, item in enumerate(session)}


def sr_twin(train, session, steps, weighting, pruning, last, last_weighting):
    rules: dict[int, dict[int, float]] = {}
    for other in train:
        for place, item in enumerate(other):
            for d in range(1, min(steps, place) + 1):
                of = rules.setdefault(other[place - d], {})
                of[item] = of.get(item, 0.0) + decay(weighting, d)
    for cause, of in rules.items():
        most = len(of) - int(len(of) * pruning) if pruning < 1 else int(pruning)
        rules[cause] = dict(sorted(of.items(), key=lambda rule: -rule[1])[:most])  # stable: first seen, first
    votes: dict[int, float] = {}
    for step, item in enumerate(reversed(session[-last:]), 1):
        for effect, weight in rules.get(item, {}).items():
            factor = 1.0 if step == 1 else decay(last_weighting, step)
            votes[effect] = votes.get(effect, 0.0) + factor * weight
    return filled(votes, train)


def sfsknn_twin(train, session, k, sample):
    now = set(session)
    sharing = [n for n, other in enumerate(train) if now & set(other)][-sample:]
    likeness = {n: len(now & set(train[n])) / math.sqrt(len(now) * len(set(train[n]))) for n in sharing}
    near = sorted(sharing, key=lambda n: (likeness[n], n), reverse=True)[:k]
    follows = {b for other in train for a, b in pairwise(other) if a == session[-1]}
    votes: dict[int, float] = {}
    for n in near:
        for item in set(train[n]) & follows:
            votes[item] = votes.get(item, 0.0) + likeness[n]
    return filled(votes, train)


def fading(distance: float, length: float) -> float:
    return math.exp(-distance / length) if length else 1.0


def stan_twin(train, times, session, k, sample, lambdas, lambda4=0.0, idf=0.0):
    one, two, three = lambdas
    weight = {item: fading(len(session) - 1 - place, one) for item, place in last_place(session).items()}
    sharing = [n for n, other in enumerate(train) if set(session) & set(other)][-sample:]

    def likeness(n):
        shared = sum(weight[i] for i in set(session) & set(train[n]))
        norm = math.sqrt(sum(w**2 for w in weight.values())) * math.sqrt(len(set(train[n])))
        return shared / norm * fading((max(times) - times[n]) / DAY, two)

    near = sorted(sharing, key=lambda n: (np.float32(likeness(n)), n), reverse=True)[:k]
    votes: dict[int, float] = {}
    for n in near:
        place = last_place(train[n])
        latest = max(p for item, p in place.items() if item in weight)
        step = next(s for s, clicked in enumerate(reversed(session), 1) if clicked in place)
        for item, p in place.items():
            rare = max(1 + idf * math.log(len(train) / clicks_on(item, train)), 0)
            vote = likeness(n) * fading(abs(p - latest), three) * fading(step - 1, lambda4) * rare
            votes[item] = votes.get(item, 0.0) + vote
    return filled(votes, train)


@pytest.mark.parametrize("weighting", DECAYS)
@pytest.mark.parametrize(("steps", "pruning", "last"), [(15, 20, 1), (2, 3, 3), (3, 0.5, 2), (20, 0, 9), (1, 1, 1)])
def test_sr_equals_the_definition(weighting, steps, pruning, last):
    other = DECAYS[-1 - DECAYS.index(weighting)]
    for train, queries in DATA:
        model = SequentialRules(N_ITEMS, steps, weighting, pruning, last, other)
        scores = fitted(model, Sessions.from_lists(train)).scores(Batch.of(queries))
        assert scores.dtype == torch.float32
        expected = np.array([sr_twin(train, q, steps, weighting, pruning, last, other) for q in queries])
        np.testing.assert_allclose(scores.numpy(), expected, rtol=2e-6, atol=1e-7)


@pytest.mark.parametrize(("k", "sample"), [(1, 500), (2, 3), (100, 500), (3, 4)])
def test_sfsknn_equals_the_definition(k, sample):
    for train, queries in DATA:
        scores = fitted(FilteredSessionKNN(N_ITEMS, k, sample), Sessions.from_lists(train)).scores(Batch.of(queries))
        expected = np.array([sfsknn_twin(train, q, k, sample) for q in queries])
        np.testing.assert_allclose(scores.numpy(), expected, rtol=2e-6)


@pytest.mark.parametrize(("k", "sample"), [(3, 500), (500, 5000), (4, 6)])
@pytest.mark.parametrize("lambdas", [(1.25, 80.0, 5.0), (0.0, 2.0, 0.6), (2.5, 0.0, 0.0), (0.0, 0.0, 0.0)], ids=str)
def test_stan_and_vstan_equal_the_definition(k, sample, lambdas):
    for train, queries in DATA:
        times = spread(train)
        for model, extra in ((STAN, {}), (VSTAN, {"lambda4": 4.9, "idf": 5.0}), (VSTAN, {"lambda4": 0.0, "idf": 1.0})):
            names = dict(zip(("lambda1", "lambda2", "lambda3"), lambdas))
            ours = fitted(model(N_ITEMS, k, sample, **names, **extra), with_times(train, times))
            expected = np.array([stan_twin(train, times, q, k, sample, lambdas, **extra) for q in queries])
            np.testing.assert_allclose(ours.scores(Batch.of(queries)).numpy(), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("case", PARITY["cases"], ids=lambda case: f"{case['model']}-{case['options']}")
def test_scores_are_those_of_session_rec(case):
    """Up to a factor: there STAN's age counts from `now`, and the scores of the other two are divided by the best."""
    theirs = np.array(case["scores"])
    model = MODELS[case["model"]](PARITY["n_items"], **case["options"])
    fitted(model, with_times(PARITY["train"], PARITY["times"]))
    ours = model.scores(Batch.of(PARITY["queries"])).double().numpy()
    if isinstance(model, STAN):
        ours *= fading((PARITY["now"] - PARITY["times"][-1]) / DAY, model.lambda2)
    else:
        ours /= np.where((best := ours.max(1, keepdims=True)) > 0, best, 1)
    named = theirs > 0
    assert named.any(1).sum() > 8 and ((ours >= 0) == named).all()
    np.testing.assert_allclose(ours[named], theirs[named], rtol=1e-6)


def test_the_order_of_a_neighbour_counts_for_stan_alone():
    train = [[1, 2, 3, 4]]
    stan = fitted(STAN(N_ITEMS, lambda3=1.0), Sessions.from_lists(train)).scores(Batch.of([[2]]))[0]
    assert stan[2 - 1] > stan[1 - 1] == stan[3 - 1] > stan[4 - 1]


def test_the_last_click_on_an_item_is_its_place():
    train = [[5, 1, 2, 3, 5]]  # 5 is next to 3, and as far from 2 as 1 would be with its first click only
    scores = fitted(STAN(N_ITEMS, lambda3=1.0), Sessions.from_lists(train)).scores(Batch.of([[3]]))[0]
    assert scores[5 - 1] == scores[2 - 1] > scores[1 - 1]


def test_recent_sessions_weigh_more_where_times_are_known():
    train, query = [[1, 2], [1, 3]], Batch.of([[1]])
    day = 86400
    scores = fitted(STAN(N_ITEMS, lambda2=2.0), with_times(train, [0, 3 * day])).scores(query)[0]
    assert scores[2 - 1] / scores[3 - 1] == pytest.approx(math.exp(-1.5))
    later = fitted(STAN(N_ITEMS, lambda2=2.0), with_times(train, [10**9, 10**9 + 3 * day])).scores(query)[0]
    torch.testing.assert_close(later, scores)
    off = fitted(STAN(N_ITEMS, lambda2=0.0), with_times(train, [0, 3 * day])).scores(query)[0]
    assert off[2 - 1] == off[3 - 1]


def test_without_times_the_order_stands_for_them_if_days_are_given():
    train, query = [[1, 2], [4], [1, 3], [4]], Batch.of([[1]])
    without = fitted(STAN(N_ITEMS, lambda2=2.0), Sessions.from_lists(train)).scores(query)[0]
    assert without[2 - 1] == without[3 - 1]
    ordered = fitted(STAN(N_ITEMS, lambda2=2.0, days=12.0), Sessions.from_lists(train)).scores(query)[0]
    assert ordered[2 - 1] / ordered[3 - 1] == pytest.approx(math.exp(-6 / 2))
    timed = fitted(STAN(N_ITEMS, lambda2=2.0, days=12.0), with_times(train, [0, 0, 0, 0])).scores(query)[0]
    torch.testing.assert_close(timed, without)  # what is known counts


def test_times_of_a_data_set_on_disk_are_used(tmp_path):
    """Of the part of the sessions that is fitted, too."""
    sessions = with_times(TRAIN, spread(TRAIN))
    catalog.save(Dataset("timed", N_ITEMS, sessions, Sessions.from_lists(TRAIN)), tmp_path)
    stored = catalog.load("timed", tmp_path).train
    model, expected = (fitted(STAN(N_ITEMS, lambda2=3.0), s).scores(Batch.of(QUERIES)) for s in (stored, sessions))
    torch.testing.assert_close(model, expected)
    assert not torch.allclose(model, fitted(STAN(N_ITEMS), Sessions.from_lists(TRAIN)).scores(Batch.of(QUERIES)))
    part = fitted(STAN(N_ITEMS, lambda2=3.0), stored.part(2, 7)).scores(Batch.of(QUERIES))
    same = fitted(STAN(N_ITEMS, lambda2=3.0), with_times(TRAIN[2:7], spread(TRAIN)[2:7])).scores(Batch.of(QUERIES))
    torch.testing.assert_close(part, same)


def test_rules_stay_within_a_session_and_go_forward():
    scores = fitted(SequentialRules(N_ITEMS), Sessions.from_lists([[1, 2, 3], [4, 5]])).scores(Batch.of([[3], [2]]))
    assert (scores[0] < 0).all() and [i for i in range(1, N_ITEMS + 1) if scores[1, i - 1] >= 0] == [3]


def test_of_equal_rules_those_seen_first_are_kept():
    model = fitted(SequentialRules(N_ITEMS, pruning=1), Sessions.from_lists([[1, 9], [1, 2], [1, 5]]))
    assert model.scores(Batch.of([[1]]))[0].argmax() == 9 - 1


def test_sfsknn_recommends_only_what_came_right_after_the_last_item():
    scores = fitted(FilteredSessionKNN(N_ITEMS), Sessions.from_lists([[1, 2, 3], [1, 3], [3, 4], [7, 1]]))
    scores = scores.scores(Batch.of([[1], [2, 1], [4], [12]])) >= 0
    assert scores.sum(1).tolist() == [2, 2, 0, 0]  # [3, 4] and then 7 are two sessions
    assert scores[0, [1, 2]].all()


@pytest.mark.parametrize(
    ("model", "options", "says"),
    [
        (STAN, {"k": 0}, "at least 1"),
        (STAN, {"lambda1": -1.0}, "lambda1 is at least 0.001, or 0 to leave its factor out, not -1.0"),
        (STAN, {"lambda2": math.inf}, "lambda2 is at least 0.001"),
        (STAN, {"lambda3": math.nan}, "lambda3 is at least 0.001"),
        (STAN, {"days": -1.0}, "days is at least 0"),
        (VSTAN, {"lambda4": -2.0}, "lambda4 is at least 0.001"),
        (SequentialRules, {"steps": 0}, "steps is at least 1, not 0"),
        (SequentialRules, {"last": 0}, "at least 1"),
        (SequentialRules, {"weighting": "cubic"}, "weighting is one of same, div"),
        (SequentialRules, {"last_weighting": "cubic"}, "last_weighting is one of same, div"),
        (SequentialRules, {"pruning": 2.5}, "pruning is a share below 1 or a whole number"),
        (SequentialRules, {"pruning": math.nan}, "pruning is a share"),
    ],
    ids=str,
)
def test_settings_are_checked(model, options, says):
    with pytest.raises(ValueError, match=says):
        model(N_ITEMS, **options)


@pytest.mark.parametrize("name", ["sr", "sfsknn", "stan", "vstan"])
def test_presets_can_be_built_and_the_first_is_the_default(name):
    model = MODELS[name]
    for preset, options in model.presets.items():
        built = fitted(model(N_ITEMS, **options), Sessions.from_lists(TRAIN)).scores(Batch.of(QUERIES))
        if preset == next(iter(model.presets)):
            default = fitted(model(N_ITEMS), Sessions.from_lists(TRAIN)).scores(Batch.of(QUERIES))
            assert torch.equal(built, default)


def test_the_options_of_a_baseline_hold_when_its_run_is_opened_again(typed, tmp_path):
    train = random_sessions(80, 5)
    sessions = Sessions.from_lists([session for session in train if len(session) > 1])
    n = len(sessions)
    catalog.save(Dataset("small", N_ITEMS, sessions.part(0, n - 20), sessions.part(n - 20, n)), tmp_path / "data")
    words = ("--dataset", "small", "--quiet", "--json")
    found = {}
    for options in ((), ("--option", "k=1", "--option", "sample=2")):
        code, out, err = typed("train", "stan", *words, *options)
        assert code == 0, err
        group = sorted((tmp_path / "runs").iterdir(), key=lambda path: path.stat().st_mtime)[-1]
        written = json.loads((group / "s1" / "summary.json").read_text())["test"]
        code, out, err = typed("evaluate", str(group / "s1"), "--json")
        assert code == 0, err
        found[options] = written["mrr@20"]
        assert json.loads(out)["mrr@20"] == pytest.approx(written["mrr@20"])
    assert len(set(found.values())) == 2


def test_an_item_with_far_more_clicks_than_sessions_has_no_negative_votes():
    model = fitted(VSTAN(N_ITEMS, idf=10.0), Sessions.from_lists([[1] * 20, [1, 2]]))
    factors = model.item_factor(torch.tensor([0, 1]))
    assert factors[0] == 0 and factors[1] == pytest.approx(1 + 10 * math.log(2))
