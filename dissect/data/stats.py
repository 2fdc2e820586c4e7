"""Counts of a data set: the paper's Table 1, and what it leaves out; and the curves behind `dissect plot data`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from dissect.data.parts import are_targets, joined, session_of_clicks
from dissect.data.sessions import Dataset, Sessions

# What is counted -> how it is printed. The graph of a session, as SR-GNN draws it, has its distinct items as nodes and
# an edge for every transition; that of a prefix is what a model sees. The graph is a chain if no item repeats. It is a
# chain but for loops if items repeat only right after themselves.
ROWS = {
    "clicks": "clicks",
    "prefixes": 'prefixes (the paper\'s "sessions")',
    "items": "items",
    "mean_length": "mean clicks a session",
    "sessions": "sessions",
    "train_sessions": "sessions, train",
    "test_sessions": "sessions, test",
    "train_prefixes": "prefixes, train",
    "test_prefixes": "prefixes, test",
    "median_length": "median clicks a session",
    "longest": "longest session",
    "distinct": "sessions of distinct items (a chain), %",
    "stalling": "sessions, a chain but for loops, %",
    "single_node": "prefixes of a single item, %",
    "chain_prefixes": "prefixes of distinct items (a chain), %",
    "stalling_prefixes": "prefixes, a chain but for loops, %",
    "immediate_repeats": "immediate repeats, % of transitions",
    "target_seen": "target already in the prefix, %",
    "unseen_targets": "test targets unknown to train, %",
    "unseen_removed": "test clicks on such items, removed, %",
    "top_items": "clicks on the top 1 % of items, %",
    "gini": "Gini coefficient of clicks over items",
}
POINTS_PER_DECADE = 40  # of a curve: more than a figure can show, fewer than there are items


def statistics(dataset: Dataset) -> dict[str, Any]:
    """The counts of ROWS over train and test together, unless they say otherwise; shares in percent."""
    train, test = dataset.train, dataset.test
    both = joined(dataset.train, dataset.test)
    lengths, items = both.lengths, both.items
    repeated = already_clicked(both)  # [C]
    inside = np.diff(session_of_clicks(both)) == 0  # [C - 1] both clicks in one session
    stalls = np.append(False, (np.diff(items) == 0) & inside)  # [C] the item clicked just before
    # The first click after which the graph is no longer a chain, or a chain with loops: shorter prefixes are chains. A
    # session has prefixes of 1 to k - 1 clicks.
    first, first_return = first_place(both, repeated), first_place(both, repeated & ~stalls)
    first_other = first_place(both, items != np.repeat(items[both.offsets[:-1]], lengths))
    popularity = item_clicks(dataset)

    def percent(part: np.ndarray, whole: int) -> float:
        return 100 * float(part.sum() / whole)

    def of_prefixes(place: np.ndarray) -> float:
        """The share of prefixes that end before the click at `place` of their session."""
        return percent(np.minimum(place, lengths - 1), both.n_prefixes)

    return {
        "name": dataset.name,
        "split_hash": dataset.split_hash,
        "clicks": len(items),
        "prefixes": both.n_prefixes,
        "items": dataset.n_items,
        "mean_length": float(lengths.mean()),
        "sessions": len(both),
        "train_sessions": len(train),
        "test_sessions": len(test),
        "train_prefixes": train.n_prefixes,
        "test_prefixes": test.n_prefixes,
        "median_length": float(np.median(lengths)),
        "longest": int(lengths.max()),
        "distinct": percent(first == lengths, len(both)),
        "stalling": percent(first_return == lengths, len(both)),
        "single_node": of_prefixes(first_other),
        "chain_prefixes": of_prefixes(first),
        "stalling_prefixes": of_prefixes(first_return),
        "immediate_repeats": percent(stalls, both.n_prefixes),
        "target_seen": percent(repeated, both.n_prefixes),
        "unseen_targets": percent(~np.isin(test.items[are_targets(test)], train.items), test.n_prefixes),
        "unseen_removed": removed_share(dataset),
        "top_items": percent(popularity[: max(1, dataset.n_items // 100)], len(items)),
        "gini": gini(popularity),
    }


def removed_share(dataset: Dataset) -> float | None:
    """Test clicks on items that training lacks, which were removed when the data set was made, in percent of them and
    of what is left; None if no record has their number.
    """
    record = dataset.provenance
    removed = [row["clicks"] for row in record.get("dropped", ()) if row["rule"] == "drop_unseen_items"]
    if record.get("format") != "log" and "dropped_unseen" not in record and record.get("source") != "generated":
        return None
    clicks = sum(removed) + record.get("dropped_unseen", {}).get("clicks", 0)
    return 100 * clicks / (clicks + dataset.test.n_clicks)


def already_clicked(sessions: Sessions) -> np.ndarray:
    """Whether a click's item stands earlier in its session, bool [C]."""
    key = session_of_clicks(sessions) * (int(sessions.items.max()) + 1) + sessions.items
    seen = np.ones(len(key), bool)
    seen[np.unique(key, return_index=True)[1]] = False
    return seen


def first_place(sessions: Sessions, chosen: np.ndarray) -> np.ndarray:
    """The position of the first click chosen (bool [C]) in each session, or else its length, int64 [S]."""
    starts, lengths = sessions.offsets[:-1], sessions.lengths
    position = np.arange(sessions.n_clicks) - np.repeat(starts, lengths)
    return np.asarray(np.minimum.reduceat(np.where(chosen, position, np.repeat(lengths, lengths)), starts))


def item_clicks(dataset: Dataset) -> np.ndarray:
    """How often each item of the catalogue is clicked, in train and test, int64 [V], most first."""
    return np.sort(np.bincount(joined(dataset.train, dataset.test).items, minlength=dataset.n_items + 1)[1:])[::-1]


def gini(counts: np.ndarray) -> float:
    """The Gini coefficient of counts [V]: 0 if all are equal, near 1 where one has everything.

    Half the mean difference between two of them, over their mean; by way of their ranks.
    """
    rising = np.sort(counts).astype(np.float64)
    n = len(rising)
    return float((2 * np.arange(1, n + 1) - n - 1) @ rising / (n * rising.sum()))


def curves(datasets: Sequence[Dataset]) -> pd.DataFrame:
    """The two curves of each data set: columns dataset, curve, x, y; x is spaced for a logarithmic axis.

    length      y, the share of the sessions, train and test, that have at least x clicks
    popularity  y, the share of all clicks, train and test, that fall on the item of rank x
    """
    parts = []
    for dataset in datasets:
        lengths = joined(dataset.train, dataset.test).lengths
        longer = np.cumsum(np.bincount(lengths)[::-1])[::-1]  # [longest + 1] sessions of at least that many clicks
        popularity = item_clicks(dataset)
        popularity = popularity[popularity > 0]
        for curve, x, y in (
            ("length", spaced(int(lengths.min()), int(lengths.max())), longer / len(lengths)),
            ("popularity", spaced(1, len(popularity)), np.append(0, popularity) / popularity.sum()),
        ):
            parts.append(pd.DataFrame({"dataset": dataset.name, "curve": curve, "x": x, "y": y[x]}))
    return pd.concat(parts, ignore_index=True)


def spaced(low: int, high: int) -> np.ndarray:
    """Whole numbers from low to high, both included, about evenly spaced on a logarithmic axis."""
    count = 2 + round(POINTS_PER_DECADE * np.log10(high / low))
    return np.unique(np.geomspace(low, high, count).round().astype(np.int64))
