"""Counts of data sets against plain loops that draw each graph, and the figure that shows them."""

from __future__ import annotations

import json
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from dissect.cli import main
from dissect.data.sessions import Dataset, Sessions
from dissect.data.stats import ROWS, curves, gini, item_clicks, spaced, statistics
from figures import data as figure

some_sessions = st.lists(st.lists(st.integers(1, 5), min_size=2, max_size=7), min_size=1, max_size=8)


def dataset(train, test, n_items=None, name="x"):
    most = max(max(map(max, train)), max(map(max, test)))
    return Dataset(name, n_items or most, Sessions.from_lists(train), Sessions.from_lists(test))


def is_path(clicks, loops=False):
    """Whether the graph of some clicks, drawn edge by edge, is one directed path over all of its nodes."""
    nodes, edges = set(clicks), set(pairwise(clicks))
    if loops:
        edges = {(a, b) for a, b in edges if a != b}
    sources, targets = [a for a, _ in edges], [b for _, b in edges]
    no_fork = len(set(sources)) == len(sources) and len(set(targets)) == len(targets)
    return no_fork and len(edges) == len(nodes) - 1  # connected, as a walk always is


def plain(train, test, n_items):
    """`statistics` one session, one prefix and one pair at a time."""
    sessions = [*train, *test]
    prefixes = [(s[:k], s[k]) for s in sessions for k in range(1, len(s))]
    transitions = [pair for s in sessions for pair in pairwise(s)]
    count = sorted((sum(s.count(i) for s in sessions) for i in range(1, n_items + 1)), reverse=True)
    seen = {i for s in train for i in s}
    targets = [i for s in test for i in s[1:]]

    def percent(chosen):
        chosen = list(chosen)
        return 100 * sum(chosen) / len(chosen)

    return {
        "clicks": sum(map(len, sessions)),
        "prefixes": len(prefixes),
        "items": n_items,
        "mean_length": sum(map(len, sessions)) / len(sessions),
        "sessions": len(sessions),
        "train_sessions": len(train),
        "test_sessions": len(test),
        "train_prefixes": sum(len(s) - 1 for s in train),
        "test_prefixes": sum(len(s) - 1 for s in test),
        "median_length": float(np.median([len(s) for s in sessions])),
        "longest": max(map(len, sessions)),
        "distinct": percent(is_path(s) for s in sessions),
        "stalling": percent(is_path(s, loops=True) for s in sessions),
        "single_node": percent(len(set(p)) == 1 for p, _ in prefixes),
        "chain_prefixes": percent(is_path(p) for p, _ in prefixes),
        "stalling_prefixes": percent(is_path(p, loops=True) for p, _ in prefixes),
        "immediate_repeats": percent(a == b for a, b in transitions),
        "target_seen": percent(target in p for p, target in prefixes),
        "unseen_targets": percent(i not in seen for i in targets),
        "top_items": 100 * sum(count[: max(1, n_items // 100)]) / sum(count),
        "gini": sum(abs(a - b) for a in count for b in count) / (2 * len(count) * sum(count)),
    }


@given(train=some_sessions, test=some_sessions, more=st.integers(0, 250))
def test_every_count_is_that_of_plain_loops(train, test, more):
    data = dataset(train, test)
    data = dataset(train, test, data.n_items + more)
    found = statistics(data)
    assert found.pop("name") == "x" and found.pop("split_hash") == data.split_hash
    assert list(found) == list(ROWS)
    assert found.pop("unseen_removed") is None  # no record of it
    assert found == pytest.approx(plain(train, test, data.n_items), abs=1e-9)


@pytest.mark.parametrize(
    ("clicks", "chain", "with_loops"),
    [
        ([1, 2, 3], True, True),
        ([1, 1, 2], False, True),
        ([1, 2, 1], False, False),
        ([1, 2, 3, 2], False, False),
        ([4, 4], False, True),
    ],
)
def test_a_graph_is_a_chain_where_no_item_comes_back(clicks, chain, with_loops):
    assert (is_path(clicks), is_path(clicks, loops=True)) == (chain, with_loops)  # the twin itself
    found = statistics(dataset([clicks], [clicks]))
    assert (found["distinct"], found["stalling"]) == (100 * chain, 100 * with_loops)


def test_gini_at_its_ends():
    assert gini(np.array([3, 3, 3])) == 0
    assert gini(np.array([0] * 99 + [7])) == pytest.approx(0.99)


def test_curves_have_the_shares():
    table = curves([dataset([[1, 1, 2], [1, 3]], [[2, 1], [1, 2, 3, 1]], n_items=9)])
    lengths, popularity = (table[table["curve"] == curve] for curve in ("length", "popularity"))
    assert dict(zip(lengths["x"], lengths["y"])) == {2: 1.0, 3: 0.5, 4: 0.25}
    assert popularity["x"].tolist() == [1, 2, 3]
    assert popularity["y"].tolist() == pytest.approx([6 / 11, 3 / 11, 2 / 11])


@given(low=st.integers(1, 5), more=st.integers(0, 100_000))
def test_points_are_distinct_and_reach_both_ends(low, more):
    points = spaced(low, low + more)
    assert points[0] == low and points[-1] == low + more and (np.diff(points) > 0).all()
    assert len(points) <= 42 + 40 * np.log10((low + more) / low)


def test_the_figure_has_the_numbers_and_names_of_its_table():
    rng = np.random.default_rng(0)
    sets = []
    for name in ("one", "other"):
        lists = [rng.zipf(1.5, rng.integers(2, 30)).clip(1, 400).tolist() for _ in range(300)]
        sets.append(dataset(lists[:200], lists[200:], 400, name))
    table = curves(sets)
    drawn = figure.draw(table)
    for axes, curve in zip(drawn.axes, figure.PANELS):
        lines = [(line.get_xdata().tolist(), line.get_ydata().tolist()) for line in axes.lines]
        for name in ("one", "other"):
            part = table[(table["dataset"] == name) & (table["curve"] == curve)]
            assert (part["x"].tolist(), part["y"].tolist()) in lines
        assert {text.get_text() for text in axes.texts} == {"one", "other"}
        assert axes.get_xscale() == axes.get_yscale() == "log"
        heights = sorted(text.get_position()[1] for text in axes.texts)
        assert heights[1] - heights[0] >= 0.07 - 1e-9
    assert f"{100 * item_clicks(sets[0]).max() / item_clicks(sets[0]).sum():.3f} %" in figure.describe(table)


def test_the_figure_in_words_has_a_line_with_the_median_for_each_set():
    sets = [dataset([[1, 2], [1, 2, 3], [1, 2, 3, 3]], [[1, 2, 2]], name=name) for name in ("one", "other")]
    _, one, other = figure.describe(curves(sets)).splitlines()
    assert one.startswith("one: sessions of 2 to 4 clicks, median 3; ") and other.startswith("other: ")
    ends = [axes.get_position().x1 for axes in figure.draw(curves(sets)).axes]
    assert 0.4 < ends[0] < 0.5 and ends[1] > 0.9  # the names are short: there is no room to leave for them


def test_the_figure_and_the_table_as_they_are_typed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(main, ["plot", "data", "demo", "demo-walk", "demo"])
    assert done.exit_code == 0, done.stderr
    assert done.stdout.split() == [f"runs/figures/data.{kind}" for kind in ("pdf", "svg", "png", "csv", "txt")]
    assert set(pd.read_csv("runs/figures/data.csv")["dataset"]) == {"demo", "demo-walk"}
    assert CliRunner().invoke(main, ["plot", "data"]).exit_code == 2
    assert CliRunner().invoke(main, ["plot", "data", "nothing"]).exit_code == 2
    done = CliRunner().invoke(main, ["data", "stats", "demo", "demo-walk", "--markdown"])
    lines = [line for line in done.stdout.splitlines() if line.startswith("|")]
    assert len(lines) == 2 + len(ROWS) and {line.count("|") for line in lines} == {4}
    found = json.loads(CliRunner().invoke(main, ["data", "stats", "demo", "--json"]).stdout)["demo"]
    assert f"| {found['clicks']:,} |" in lines[2] and f"| {found['gini']:.2f} |" in lines[-1]
