"""Small data sets with a known answer, for the truth test of the instrument (benchmarks/truth.py).

Each generator takes a seed and returns a `Planted`: the data, and the test prefixes whose target can be known. What an
item means (its class, its value, its answer) is drawn from the seed too. In all sets but `walk`, `bag` and `half` only
the last target of a session means something; the clicks before it are drawn independently, and sessions end after a
click without memory, so that neither length nor order tells anything that is not planted.

    walk, bag   the kinds of dissect/data/planted.py: propagation is needed, and useless
    pointer     three clicks with different classes and values, then a click that names one of the three classes; the
                target is the value of that click. A score that adds up over clicks gives all three values the same
    average     the target is drawn with log probability proportional to the share of its value among the clicks: a
                linear map of the mean of the clicks gives the best scores there are, whatever else a model has
    order       two different markers among fillers; the target is the answer to the earlier one
    successor   the target is the answer to the last click, not to the others like it
    half        the target has the value of the first click, and one of two kinds, which the last click tells
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from dissect.data import planted
from dissect.data.sessions import Dataset, Sessions, prefix_index

PREFIXES = 54_000  # of the training sessions, about: 6.6 epochs of them are 800 batches of 400
TEST = 6_000  # sessions
LONGEST = 8  # clicks before the target; a session that would be longer ends without it
SHARPNESS = 6.0  # of `average`: log probability of a value per share of the clicks


@dataclass(frozen=True)
class Planted:
    """A data set, and its test prefixes that are judged (bool, in the order of prefix_index)."""

    data: Dataset
    judged: np.ndarray


def walk(seed: int) -> Planted:
    """A session walks a fresh cycle of 4 to 6 items for two laps and more; judged from the second lap on."""
    data = _by_recipe("walk", seed)
    session, length = prefix_index(data.test)
    cycle = np.array([len(set(data.test[s].tolist())) for s in range(len(data.test))])
    return Planted(data, length > cycle[session])


def bag(seed: int) -> Planted:
    """Given the intent of a session its clicks are independent; all prefixes are judged."""
    data = _by_recipe("bag", seed)
    return Planted(data, np.ones(data.test.n_prefixes, bool))


def _by_recipe(kind: str, seed: int) -> Dataset:
    return planted.made(f"truth-{kind}-{seed}", planted.Recipe(kind, n_test=4_000, seed=seed))


CLASSES, VALUES, POINTED = 6, 8, 3


def pointer(seed: int) -> Planted:
    """Items: content (class, value), then a pointer for each class, then an answer for each value."""
    rng = np.random.default_rng([1, seed])
    names = rng.permutation(CLASSES * VALUES + CLASSES + VALUES) + 1
    content, pointers, answers = np.split(names, [CLASSES * VALUES, CLASSES * VALUES + CLASSES])
    content = content.reshape(CLASSES, VALUES)

    def session() -> list[int]:
        classes, values = (rng.permutation(n)[:POINTED] for n in (CLASSES, VALUES))
        chosen = rng.integers(POINTED)
        return [*content[classes, values], pointers[classes[chosen]], answers[values[chosen]]]

    return _collected("pointer", seed, len(names), session)


def average(seed: int) -> Planted:
    """Items: four of each value, then the last click of all sessions, then an answer for each value."""
    n_values, copies = 8, 4
    rng = np.random.default_rng([2, seed])
    names = rng.permutation(n_values * copies + 1 + n_values) + 1
    content, (end,), answers = np.split(names, [n_values * copies, n_values * copies + 1])

    def session() -> list[int]:
        clicks = rng.integers(n_values * copies, size=rng.geometric(0.25))
        if len(clicks) >= LONGEST:
            return [*content[clicks[:LONGEST]]]
        share = np.bincount(clicks % n_values, minlength=n_values) / len(clicks)
        weight = np.exp(SHARPNESS * share)
        return [*content[clicks], end, answers[rng.choice(n_values, p=weight / weight.sum())]]

    return _collected("average", seed, len(names), session, lambda clicks: end in clicks[:-1])


def order(seed: int) -> Planted:
    """Items: fillers, then markers, then the last click of all sessions, then an answer for each marker."""
    fillers, markers = 20, 10
    rng = np.random.default_rng([3, seed])
    names = rng.permutation(fillers + 2 * markers + 1) + 1
    filler, marker, (end,), answers = np.split(names, [fillers, fillers + markers, fillers + markers + 1])

    def gap() -> np.ndarray:
        return np.asarray(filler[rng.integers(fillers, size=min(2, rng.geometric(0.6) - 1))])

    def session() -> list[int]:
        first, second = rng.permutation(markers)[:2]
        return [*gap(), marker[first], *gap(), marker[second], *gap(), end, answers[first]]

    return _collected("order", seed, len(names), session)


def successor(seed: int) -> Planted:
    """Items: keys, and an answer for each; any number of keys, then the answer to the last of them."""
    keys = 40
    rng = np.random.default_rng([4, seed])
    names = rng.permutation(2 * keys) + 1
    key, answer = names[:keys], names[keys:]

    def session() -> list[int]:
        clicks = rng.integers(keys, size=rng.geometric(0.4))
        if len(clicks) >= LONGEST:
            return [*key[clicks[:LONGEST]]]
        return [*key[clicks], answer[clicks[-1]]]

    return _collected("successor", seed, 2 * keys, session, lambda clicks: clicks[-1] in answer)


def half(seed: int) -> Planted:
    """Items: (value, kind, copy); the first click tells the value of all, each click the kind of the next.

    What an item says of the next kind has nothing to do with its own.
    """
    n_values, copies = 10, 4
    rng = np.random.default_rng([5, seed])
    names = (rng.permutation(n_values * 2 * copies) + 1).reshape(n_values, 2, copies)

    def session() -> list[int]:
        value, kind, clicks = rng.integers(n_values), rng.integers(2), list[int]()
        for _ in range(min(LONGEST, 2 + rng.geometric(0.4))):
            copy = rng.integers(copies)
            clicks.append(names[value, kind, copy])
            kind = copy % 2
        return clicks

    found = _collected("half", seed, names.size, session)
    return Planted(found.data, prefix_index(found.data.test)[1] > 1)  # the first click is no other than the last


def nothing(seed: int) -> Planted:
    """Items drawn at random, all alike: there is nothing to learn. All prefixes are judged."""
    n_items = 60
    rng = np.random.default_rng([6, seed])
    found = _collected("nothing", seed, n_items, lambda: (rng.integers(n_items, size=5) + 1).tolist())
    return Planted(found.data, np.ones(found.data.test.n_prefixes, bool))


def _collected(
    kind: str,
    seed: int,
    n_items: int,
    session: Callable[[], Sequence[int]],
    is_whole: Callable[[Sequence[int]], bool] = lambda clicks: True,
) -> Planted:
    """Sessions in two parts, as drawn; judged are the longest prefixes of those that are whole."""
    drawn, prefixes = list[list[int]](), 0
    while prefixes < PREFIXES:
        drawn.append([int(click) for click in session()])
        prefixes += len(drawn[-1]) - 1
    n_train = len(drawn)
    drawn += [[int(click) for click in session()] for _ in range(TEST)]
    sessions = Sessions.from_lists(drawn)
    train, test = sessions.part(0, n_train), sessions.part(n_train, len(drawn))
    source = {"source": f"generated: benchmarks/planted_sets.py, {kind}, seed {seed}"}
    data = Dataset(f"truth-{kind}-{seed}", n_items, train, test, source)
    whole = np.array([is_whole(clicks) for clicks in drawn[n_train:]])
    owner, length = prefix_index(test)
    return Planted(data, whole[owner] & (length == test.lengths[owner] - 1))
