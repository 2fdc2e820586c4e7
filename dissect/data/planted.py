"""Built-in data with a known answer: sessions in which graph propagation is needed, and in which it is useless.

"Needed" means: the next click cannot be computed from the last item and the multiset of clicks, which is all
that SR-GNN sees without propagation.

    demo-walk  a session draws 4 to 6 items of one intent and a fresh cyclic order of them, and walks the cycle
               for two to two and a half laps: the next click is the last item's successor in that cycle.
               From the second lap on the graph says which; the multiset never does.
    demo-bag   given its intent, the clicks of a session are independent (70 % the intent's items, 30 % overall
               popularity), hence exchangeable: no order means anything, and propagation can add nothing.
    demo       a small demo-bag.

Both kinds have the same catalogue, intents, popularity and lengths.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dissect.data.sessions import Dataset, Sessions, prefix_index


@dataclass(frozen=True)
class Recipe:
    """How large a planted data set is."""

    kind: str  # "walk" or "bag"
    n_items: int = 600
    items_per_intent: int = 60
    n_train: int = 6_000
    n_test: int = 12_000
    seed: int = 20221

    @property
    def n_intents(self) -> int:
        return self.n_items // self.items_per_intent


BUILT_IN = {
    "demo": Recipe("bag", n_items=300, n_train=4_000, n_test=1_200),
    "demo-bag": Recipe("bag"),
    "demo-walk": Recipe("walk"),
}

SHORTEST_CYCLE, LONGEST_CYCLE = 4, 6
INTENT_SHARE = 0.7  # of the clicks of a bag


def generate(name: str) -> Dataset:
    """The built-in data set of that name; always the same."""
    return made(name, BUILT_IN[name])


def made(name: str, recipe: Recipe) -> Dataset:
    """A data set by a recipe, under any name."""
    rng = np.random.default_rng(recipe.seed)
    popularity = item_popularity(recipe)
    n = recipe.n_train + recipe.n_test
    intents = rng.choice(recipe.n_intents, n, p=popularity.sum(1))  # [S]
    cycles = rng.integers(SHORTEST_CYCLE, LONGEST_CYCLE + 1, n)  # [S]
    lengths = 2 * cycles + rng.integers(0, cycles // 2 + 1)  # [S] at least two laps
    flat = _walk(rng, popularity, intents, cycles, lengths)
    if recipe.kind == "bag":  # with the popularity of those walks, so that only the order differs
        clicks = np.bincount(flat - 1, minlength=recipe.n_items).reshape(popularity.shape)
        flat = _bag(rng, clicks / clicks.sum(), intents, lengths)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    sessions = Sessions(flat.astype(np.int32), offsets.astype(np.int64))
    provenance = {
        "source": "generated",
        "recipe": {**vars(recipe), "n_intents": recipe.n_intents},
        "judged": "prefixes of at least one lap and one click" if recipe.kind == "walk" else "all prefixes",
    }
    return Dataset(name, recipe.n_items, sessions.part(0, recipe.n_train), sessions.part(recipe.n_train, n), provenance)


def item_popularity(recipe: Recipe) -> np.ndarray:
    """Probability [intents, items per intent] of each item, sum 1: falls with the rank, within and between intents."""
    within = 1 / np.sqrt(1 + np.arange(recipe.items_per_intent))
    between = 1 / np.sqrt(1 + np.arange(recipe.n_intents))
    table = between[:, None] * within[None, :]
    return np.asarray(table / table.sum())


def _walk(
    rng: np.random.Generator, popularity: np.ndarray, intents: np.ndarray, cycles: np.ndarray, lengths: np.ndarray
) -> np.ndarray:
    """Item numbers [C]: a fresh cycle of `cycles` distinct items of the intent, walked for `lengths` clicks."""
    # Weighted draws without replacement, in random order: the largest Gumbel-perturbed log weights come first.
    weights = np.log(popularity[intents])  # [S, items per intent]
    chosen = np.argsort(-(weights + rng.gumbel(size=weights.shape)), axis=1)[:, :LONGEST_CYCLE]  # [S, 6]
    place = np.where(np.arange(LONGEST_CYCLE) < cycles[:, None], rng.random(chosen.shape), 2.0)
    chosen = np.take_along_axis(chosen, place.argsort(1), 1)  # order says nothing about popularity
    session = np.repeat(np.arange(len(lengths)), lengths)  # [C]
    step = np.arange(len(session)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    return np.asarray(intents[session] * popularity.shape[1] + chosen[session, step % cycles[session]] + 1)


def _bag(rng: np.random.Generator, popularity: np.ndarray, intents: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Item numbers [C]: independent clicks given the intent, 70 % from the intent and 30 % from the catalogue."""
    session = np.repeat(np.arange(len(lengths)), lengths)  # [C]
    cumulated = np.cumsum(popularity, 1)  # [intents, items per intent]
    intent = intents[session]
    place = (rng.random(len(session)) * cumulated[intent, -1])[:, None] > cumulated[intent]  # [C, items per intent]
    own = intent * popularity.shape[1] + place.sum(1)
    any_item = rng.choice(popularity.size, len(session), p=popularity.ravel())
    return np.asarray(np.where(rng.random(len(session)) < INTENT_SHARE, own, any_item) + 1)


def judged(name: str) -> np.ndarray | None:
    """The test prefixes whose answer can be known, bool [P] in the order of prefix_index.

    In demo-walk these are the second lap and later; None means all of them.
    """
    if name not in BUILT_IN or BUILT_IN[name].kind != "walk":
        return None
    dataset = generate(name)
    session, length = prefix_index(dataset.test)
    cycle = np.array([len(set(dataset.test[s].tolist())) for s in range(len(dataset.test))])
    return np.asarray(length > cycle[session])
