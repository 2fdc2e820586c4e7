"""Popularity and kNN baselines against the definitions of session-rec, as plain loops over dictionaries."""

import math

import numpy as np
import pytest
import torch

from dissect.data.sessions import Sessions
from models import MODELS, Batch
from models.neighbours import SessionKNN
from models.popularity import Popularity, SessionPopularity
from models.votes import DECAYS
from models.vsknn import VectorSessionKNN

N_ITEMS = 12
TRAIN = [[1, 2, 3], [2, 3, 2, 4], [5, 1], [6, 7, 8, 2], [2, 9], [3, 3, 1], [4, 5, 6, 7], [2, 1], [10, 2, 4]]
QUERIES = [[2], [1, 2, 1], [3, 4, 2, 7], [11], [5, 6, 7, 8, 9, 1, 2, 3, 4, 10, 1, 5], [12, 2]]


def random_sessions(count: int, seed: int) -> list[list[int]]:
    rng = np.random.default_rng(seed)
    return [[int(i) for i in rng.integers(1, N_ITEMS + 1, rng.integers(1, 8))] for _ in range(count)]


def fitted(model, sessions):
    model.prepare(sessions)
    return model


def clicks_on(item: int, sessions: list[list[int]]) -> int:
    return sum(session.count(item) for session in sessions)


def below_every_vote(train: list[list[int]]) -> list[float]:
    clicks = [clicks_on(i, train) for i in range(1, N_ITEMS + 1)]
    return [c / (max(clicks) + 1) - 1 for c in clicks]


def sknn_twin(train: list[list[int]], session: list[int], k: int, sample: int) -> list[float]:
    now = set(session)
    sharing = [n for n, other in enumerate(train) if now & set(other)][-sample:]

    def similarity(n: int) -> float:
        return len(now & set(train[n])) / math.sqrt(len(now) * len(set(train[n])))

    near = sorted(sharing, key=lambda n: (similarity(n), n), reverse=True)[:k]
    scores = below_every_vote(train)
    for item in range(1, N_ITEMS + 1):
        votes = [similarity(n) for n in near if item in train[n]]
        if votes:
            scores[item - 1] = sum(votes)
    return scores


def weight(kind: str, position: int, length: int) -> float:
    return {
        "same": 1.0,
        "div": position / length,
        "quadratic": (position / length) ** 2,
        "linear": max(1 - 0.1 * (length - position), 0),
        "log": 1 / math.log10(length - position + 1.7),
    }[kind]


def decay(kind: str, step: int) -> float:
    return {
        "same": 1.0,
        "div": 1 / step,
        "quadratic": 1 / step**2,
        "linear": max(1 - 0.1 * step, 0),
        "log": 1 / math.log10(step + 1.7),
    }[kind]


def vsknn_twin(
    train: list[list[int]], session: list[int], k: int, sample: int, weighting: str, falls: str, idf: float
) -> list[float]:
    weights = {item: weight(weighting, i, len(session)) for i, item in enumerate(session, 1)}  # the last click counts
    sharing = [n for n, other in enumerate(train) if set(session) & set(other)][-sample:]

    def similarity(n: int) -> float:
        return sum(weights[i] for i in set(session) & set(train[n])) / len(set(session))

    near = sorted(sharing, key=lambda n: (np.float32(similarity(n)), n), reverse=True)[:k]
    scores = below_every_vote(train)
    for item in range(1, N_ITEMS + 1):
        votes = []
        for n in near:
            if item in train[n]:
                step = next(s for s, clicked in enumerate(reversed(session), 1) if clicked in train[n])
                factor = 1 + idf * math.log(len(train) / clicks_on(item, train))
                votes.append(similarity(n) * decay(falls, step) * max(factor, 0))
        if votes:
            scores[item - 1] = sum(votes)
    return scores


def test_popularity_orders_items_by_their_clicks():
    model = fitted(Popularity(N_ITEMS), Sessions.from_lists(TRAIN))
    scores = model.scores(Batch.of(QUERIES))
    assert scores.shape == (len(QUERIES), N_ITEMS) and scores.dtype == torch.float32
    support = np.array([clicks_on(i, TRAIN) for i in range(1, N_ITEMS + 1)])
    usual = support / (1 + support)
    for row in scores.numpy():
        assert ((row[:, None] > row) == (usual[:, None] > usual)).all()


def test_session_popularity_counts_the_session_first():
    model = fitted(SessionPopularity(N_ITEMS), Sessions.from_lists(TRAIN))
    scores = model.scores(Batch.of(QUERIES)).numpy()
    support = np.array([clicks_on(i, TRAIN) for i in range(1, N_ITEMS + 1)])
    for row, session in zip(scores, QUERIES):
        usual = np.array([session.count(i) for i in range(1, N_ITEMS + 1)]) + support / (1 + support)
        assert ((row[:, None] > row) == (usual[:, None] > usual)).all()


def test_popular_items_do_not_tie():
    many = [[1]] * 5000 + [[2]] * 5001 + [[1, 2]]
    scores = fitted(SessionPopularity(3), Sessions.from_lists(many)).scores(Batch.of([[3, 1, 2, 1, 2]]))
    assert scores[0, 1] > scores[0, 0] > scores[0, 2]


@pytest.mark.parametrize(("k", "sample"), [(1, 500), (2, 3), (100, 500), (3, 4)])
def test_sknn_equals_the_definition(k, sample):
    for train, queries in ((TRAIN, QUERIES), (random_sessions(60, 1), random_sessions(30, 2))):
        model = fitted(SessionKNN(N_ITEMS, k, sample), Sessions.from_lists(train))
        expected = np.array([sknn_twin(train, q, k, sample) for q in queries])
        scores = model.scores(Batch.of(queries))
        assert scores.dtype == torch.float32
        np.testing.assert_allclose(scores.numpy(), expected, rtol=2e-6)


@pytest.mark.parametrize(("weighting", "falls"), [*zip(DECAYS, reversed(DECAYS)), ("quadratic", "div")])
@pytest.mark.parametrize(("k", "sample", "idf"), [(2, 4, 5.0), (500, 5000, 0.0)])
def test_vsknn_equals_the_definition(weighting, falls, k, sample, idf):
    for train, queries in ((TRAIN, QUERIES), (random_sessions(40, 3), random_sessions(15, 4))):
        model = fitted(VectorSessionKNN(N_ITEMS, k, sample, weighting, falls, idf), Sessions.from_lists(train))
        expected = np.array([vsknn_twin(train, q, k, sample, weighting, falls, idf) for q in queries])
        np.testing.assert_allclose(model.scores(Batch.of(queries)).numpy(), expected, rtol=2e-5, atol=1e-6)


def test_idf_counts_clicks_and_not_sessions():
    """As session-rec, which counts rows of its log. Items 2 and 3 are in two sessions each; 3 has four clicks."""
    train = [[1, 2, 3, 3], [1, 3, 3], [2], [4], [4]]
    scores = fitted(VectorSessionKNN(N_ITEMS, idf=1.0), Sessions.from_lists(train)).scores(Batch.of([[1]]))[0]
    assert scores[2 - 1] == pytest.approx(1 + math.log(5 / 2)) and scores[3 - 1] == pytest.approx(
        2 + 2 * math.log(5 / 4)
    )


def test_weights_that_would_turn_negative_are_nothing():
    train = [[1, 2], [3, 3, 3, 3, 3, 3, 3]]
    session = [1, *[4] * 11]
    linear = fitted(VectorSessionKNN(N_ITEMS, weighting="same", decay="linear", idf=0.0), Sessions.from_lists(train))
    assert linear.scores(Batch.of([session]))[0, 2 - 1] == 0  # 12 clicks from the end: 1 - 1.2
    often = fitted(VectorSessionKNN(N_ITEMS, idf=5.0), Sessions.from_lists(train)).scores(Batch.of([[3]]))
    assert often[0, 3 - 1] == 0  # 1 + 5 ln(2 / 7)


def test_between_equally_similar_sessions_the_later_is_the_neighbour():
    train = [[1, 2], [1, 3], [1, 4]]
    for model in (SessionKNN(N_ITEMS, k=1), VectorSessionKNN(N_ITEMS, k=1)):
        scores = fitted(model, Sessions.from_lists(train)).scores(Batch.of([[1]]))[0]
        assert scores[4 - 1] > 0 > max(scores[2 - 1], scores[3 - 1])


BASELINES = [cls for cls in MODELS.values() if not cls.learns]


@pytest.mark.parametrize("model", BASELINES)
def test_batch_and_padding_change_nothing(model):
    model = fitted(model(N_ITEMS), Sessions.from_lists(TRAIN))
    together = model.scores(Batch.of(QUERIES))
    alone = torch.cat([model.scores(Batch.of([session])) for session in QUERIES])
    torch.testing.assert_close(alone, together)


@pytest.mark.parametrize("model", [SessionKNN, VectorSessionKNN])
def test_items_that_no_neighbour_has_come_last_by_popularity(model):
    """If they tied, a rank that counts better scores only would call a target that nobody named a hit."""
    scores = fitted(model(N_ITEMS), Sessions.from_lists(TRAIN)).scores(Batch.of([[5, 1], [12]])).numpy()
    named = {1, 2, 3, 4, 5, 6, 7}  # by the sessions with 5 or 1
    others = sorted(set(range(1, N_ITEMS + 1)) - named, key=lambda i: -clicks_on(i, TRAIN))
    assert min(scores[0, i - 1] for i in named) > 0 > max(scores[0, i - 1] for i in others)
    assert [scores[0, i - 1] for i in others] == sorted((scores[0, i - 1] for i in others), reverse=True)
    assert (scores[1] < 0).all() and scores[1].argmax() == 1  # nothing like it: item 2 is the most popular


def test_part_of_the_sessions_can_be_fitted():
    """`offsets` of a part begin at 0 again."""
    sessions = Sessions.from_lists(TRAIN)
    part = fitted(SessionKNN(N_ITEMS), sessions.part(2, 7)).scores(Batch.of(QUERIES))
    assert torch.equal(part, fitted(SessionKNN(N_ITEMS), Sessions.from_lists(TRAIN[2:7])).scores(Batch.of(QUERIES)))


def test_settings_are_checked():
    with pytest.raises(ValueError, match="at least 1"):
        SessionKNN(N_ITEMS, k=0)
    with pytest.raises(ValueError, match="weighting is one of same, div"):
        VectorSessionKNN(N_ITEMS, weighting="cubic")
    with pytest.raises(ValueError, match="decay is one of same, div"):
        VectorSessionKNN(N_ITEMS, decay="cubic")


@pytest.mark.parametrize("model", BASELINES)
def test_arrays_that_cannot_be_written_are_fitted_without_a_warning(model):
    sessions = Sessions.from_lists(TRAIN)
    for array in (sessions.items, sessions.offsets):
        array.flags.writeable = False  # as mapped from disk
    torch.set_warn_always(True)
    try:
        fitted(model(N_ITEMS), sessions).scores(Batch.of(QUERIES))
    finally:
        torch.set_warn_always(False)


def test_a_baseline_that_was_stopped_goes_on(tmp_path):
    from dissect.data.sessions import Dataset, Sessions
    from dissect.runs.config import Config
    from dissect.training.evaluation import prefixes_of
    from dissect.training.resume import restore, snapshot
    from dissect.training.setup import assemble

    sessions = Sessions.from_lists([[1, 2, 3], [2, 3], [3, 1]])
    data = Dataset("toy", 3, sessions, sessions)
    config = Config("sknn", "toy", data.split_hash, {}, where="none", max_steps=0)
    make = lambda: assemble(lambda: MODELS["sknn"](n_items=3), config, prefixes_of(sessions), 1, "full")  # noqa: E731
    restore(make(), snapshot(make()), tmp_path / "last.pt")


def test_scores_that_are_no_numbers_are_refused():
    from dissect.data.sessions import Sessions
    from dissect.errors import DivergedError
    from dissect.training.evaluation import evaluate, prefixes_of

    model = MODELS["vsknn"](n_items=3)
    sessions = Sessions.from_lists([[1, 2, 3], [2, 3], [3, 1]])
    model.prepare(sessions)
    model.scores = lambda batch: torch.full((len(batch), 3), math.nan)
    with pytest.raises(DivergedError, match="no longer numbers"):
        evaluate(model, prefixes_of(sessions))
