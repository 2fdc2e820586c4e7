"""Counts of a data set: the paper's Table 1, and what it leaves out."""

from __future__ import annotations

from typing import Any

import numpy as np

from dissect.data.sessions import Dataset, Sessions

ROWS = {
    "clicks": "clicks",
    "prefixes": 'prefixes (the paper\'s "sessions")',
    "items": "items",
    "mean_length": "mean clicks a session",
    "sessions": "sessions",
    "train_sessions": "  train",
    "test_sessions": "  test",
    "train_prefixes": "prefixes, train",
    "test_prefixes": "prefixes, test",
    "median_length": "median clicks a session",
    "longest": "longest session",
    "distinct": "sessions of distinct items, %",
    "immediate_repeats": "immediate repeats, % of transitions",
    "target_seen": "target already in the prefix, %",
    "top_items": "clicks on the top 1 % of items, %",
    "unseen_targets": "test targets unknown to train, %",
}


def statistics(dataset: Dataset) -> dict[str, Any]:
    """The counts of ROWS over train and test together, unless they say otherwise; shares in percent."""
    train, test = dataset.train, dataset.test
    lengths = np.concatenate([train.lengths, test.lengths])
    items = np.concatenate([train.items, test.items])
    offsets = np.concatenate([train.offsets, train.offsets[-1] + test.offsets[1:]])
    both = Sessions(items, offsets)
    repeated = already_clicked(both)  # [C]
    distinct = np.bincount(session_of_clicks(both)[repeated], minlength=len(both)) == 0
    inside = np.diff(session_of_clicks(both)) == 0
    popularity = np.sort(np.bincount(items, minlength=dataset.n_items + 1)[1:])[::-1]
    targets = test.items[np.setdiff1d(np.arange(test.n_clicks), test.offsets[:-1])]
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
        "distinct": 100 * float(distinct.mean()),
        "immediate_repeats": 100 * float((np.diff(items) == 0)[inside].mean()),
        "target_seen": 100 * float(repeated.sum() / both.n_prefixes),
        "top_items": 100 * float(popularity[: max(1, dataset.n_items // 100)].sum() / len(items)),
        "unseen_targets": 100 * float((~np.isin(targets, train.items)).mean()),
    }


def session_of_clicks(sessions: Sessions) -> np.ndarray:
    """The session of each click, int64 [C]."""
    return np.repeat(np.arange(len(sessions)), sessions.lengths)


def already_clicked(sessions: Sessions) -> np.ndarray:
    """Whether a click's item stands earlier in its session, bool [C]."""
    key = session_of_clicks(sessions) * (int(sessions.items.max()) + 1) + sessions.items
    seen = np.ones(len(key), bool)
    seen[np.unique(key, return_index=True)[1]] = False
    return seen
