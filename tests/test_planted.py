"""The built-in data really has the answer that it claims: judged by the best predictors there are."""

import numpy as np
import pytest

from dissect.data import planted
from dissect.data.sessions import prefix_index


def mrr(scores: np.ndarray, target: np.ndarray) -> float:
    """MRR@20 of score rows [P, V], ties shared out evenly: the rank is that of the middle of the tied."""
    of_target = scores[np.arange(len(target)), target]
    rank = 1 + (scores > of_target[:, None]).sum(1) + ((scores == of_target[:, None]).sum(1) - 1) / 2
    return float(np.mean(np.where(rank <= 20, 1 / rank, 0)))


def prefixes(data, chosen):
    session, length = prefix_index(data.test)
    for s, n in list(zip(session, length))[::7]:  # a seventh is enough
        if chosen is None or chosen[data.test.offsets[s] - s + n - 1]:
            yield data.test[s][:n], int(data.test[s][n])


@pytest.fixture(scope="module")
def walk():
    return planted.generate("demo-walk")


@pytest.fixture(scope="module")
def bag():
    return planted.generate("demo-bag")


def test_same_lengths_and_popularity(walk, bag):
    np.testing.assert_array_equal(
        np.concatenate([walk.train.lengths, walk.test.lengths]),
        np.concatenate([bag.train.lengths, bag.test.lengths]),
    )
    clicks = [np.bincount(np.concatenate([d.train.items, d.test.items]), minlength=601)[1:] for d in (walk, bag)]
    expected = (clicks[0] + clicks[1]) / 2
    # Both counts vary around the same expectation; walks repeat each item, which doubles their spread.
    z = (clicks[0] - clicks[1]) / np.sqrt(expected * 4)
    assert np.abs(z).mean() < 1.2 and np.abs(z).max() < 5


def test_generation_is_fixed():
    one, other = planted.generate("demo"), planted.generate("demo")
    assert one.split_hash == other.split_hash


def test_walks_walk_a_cycle_of_their_own(walk):
    orders = {}
    for s in range(300):
        session = walk.train[s]
        cycle = len(set(session.tolist()))
        assert 4 <= cycle <= 6 and len(session) >= 2 * cycle
        assert (session[cycle:] == session[:-cycle]).all()
        orders.setdefault(frozenset(session.tolist()), set()).add(tuple(session[:cycle].tolist()))
    assert all(len({(item - 1) // 60 for item in items}) == 1 for items in orders)


def test_in_a_walk_the_graph_tells_the_next_click_and_nothing_else_does(walk):
    judged = planted.judged(walk.name)
    with_graph, without, targets = [], [], []
    for prefix, target in prefixes(walk, judged):
        scores = np.zeros(walk.n_items)
        successor = prefix[np.flatnonzero(prefix[:-1] == prefix[-1])[0] + 1]
        scores[successor - 1] = 1
        with_graph.append(scores)
        # The cyclic order is fresh and uniform: given the last item and the multiset of clicks the successor is
        # some other item of the cycle. Counts only betray where the walk began: an item clicked less often than
        # the last one has just been passed by, so those with the smallest count come first.
        items, counts = np.unique(prefix, return_counts=True)
        scores = np.zeros(walk.n_items)
        scores[items - 1] = 10 - counts
        scores[prefix[-1] - 1] = 0
        without.append(scores)
        targets.append(target - 1)
    assert mrr(np.stack(with_graph), np.array(targets)) == 1.0
    assert mrr(np.stack(without), np.array(targets)) < 0.65


def best_in_bag(data, prefix, by_intent):
    """P(next | prefix): the posterior over intents by Bayes' rule, then 70 % intent and 30 % popularity."""
    popularity = by_intent.ravel() / by_intent.sum()
    within = by_intent / by_intent.sum(1, keepdims=True)
    width = by_intent.shape[1]
    intents = len(by_intent)
    log_posterior = np.log(by_intent.sum(1) / by_intent.sum())
    for item in prefix - 1:
        own = np.zeros(intents)
        own[item // width] = within[item // width, item % width]
        log_posterior = log_posterior + np.log(0.7 * own + 0.3 * popularity[item])
    posterior = np.exp(log_posterior - log_posterior.max())
    posterior /= posterior.sum()
    return 0.7 * (posterior[:, None] * within).ravel() + 0.3 * popularity


def test_in_a_bag_the_order_of_the_prefix_but_for_its_last_item_means_nothing(bag):
    by_intent = np.bincount(bag.train.items - 1, minlength=600).reshape(-1, 60).astype(float)
    rng = np.random.default_rng(0)
    for prefix, _ in list(prefixes(bag, None))[:200]:
        mixed = np.append(rng.permutation(prefix[:-1]), prefix[-1])
        np.testing.assert_allclose(best_in_bag(bag, mixed, by_intent), best_in_bag(bag, prefix, by_intent), rtol=1e-9)


def test_the_best_prediction_in_a_bag_is_what_bayes_says_and_successors_add_nothing(bag):
    by_intent = np.bincount(bag.train.items - 1, minlength=600).reshape(-1, 60).astype(float)
    bayes, successor, targets = [], [], []
    for prefix, target in list(prefixes(bag, None))[:1500]:
        scores = best_in_bag(bag, prefix, by_intent)
        bayes.append(scores)
        followers = prefix[1:][prefix[:-1] == prefix[-1]]
        tilted = scores.copy()
        tilted[followers - 1] *= 3  # as one would who believed in transitions
        successor.append(tilted)
        targets.append(target - 1)
    best = mrr(np.stack(bayes), np.array(targets))
    assert 0.05 < best < 0.2
    assert mrr(np.stack(successor), np.array(targets)) < best


def test_clicks_of_a_bag_are_exchangeable(bag):
    """Adjacent clicks agree in intent as often as distant ones."""
    near, far = [], []
    for s in range(1500):
        intent = (bag.train[s] - 1) // 60
        near.append((intent[:-1] == intent[1:]).mean())
        far.append((intent[:4] == intent[-4:]).mean())
    assert abs(np.mean(near) - np.mean(far)) < 0.02


def test_judged_prefixes_are_those_of_the_second_lap(walk, bag):
    judged = planted.judged(walk.name)
    session, length = prefix_index(walk.test)
    cycle = len(set(walk.test[0].tolist()))
    assert judged[session == 0].tolist() == [n > cycle for n in length[session == 0]]
    assert planted.judged(bag.name) is None
