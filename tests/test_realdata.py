"""The imported data sets: their counts, how fast they load, and every exchange format there and back.

    DISSECT_DATA=... DISSECT_RAW=.../train-item-views.csv pytest -m realdata tests/test_realdata.py

Nothing is written to $DISSECT_DATA.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

import numpy as np
import pytest

from dissect.data import catalog, preprocess
from dissect.data.export import export
from dissect.data.formats import FORMATS, import_files
from dissect.data.log import read_log
from dissect.data.preprocess import to_sessions
from dissect.data.recipes import RECIPES

pytestmark = pytest.mark.realdata

# Data set -> items, sessions of train and test, prefixes of train and test, as those who made the files say.
COUNTS = {
    "diginetica-srgnn": (43_097, 186_670, 15_963, 719_470, 60_858),
    "tmall": (40_727, 65_286, 1_027, 351_268, 25_898),
    "gowalla-tail": (23_617, 45_993, 11_121, 123_510, 30_555),
    "lastfm-tail": (30_597, 72_425, 18_015, 752_869, 180_204),
}


@pytest.fixture(params=COUNTS)
def name(request):
    if request.param not in catalog.names():
        pytest.skip(f"No data set {request.param} in {catalog.data_root()}: docs/data.md tells how to bring it.")
    return request.param


def test_the_counts_are_those_of_its_makers(name):
    data = catalog.load(name)
    train, test = data.train, data.test
    assert (data.n_items, len(train), len(test), train.n_prefixes, test.n_prefixes) == COUNTS[name]
    assert train.items.min() >= 1 and max(train.items.max(), test.items.max()) <= data.n_items


def test_loading_is_a_memory_map_and_takes_no_time(name):
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        data = catalog.load(name)
        seconds.append(time.perf_counter() - start)
    assert isinstance(data.train.items, np.memmap) and min(seconds) <= 0.2


@pytest.mark.parametrize("format", FORMATS)
def test_there_and_back_is_the_same_split(name, format, tmp_path):
    data = catalog.load(name)
    folder, files = export(data, format, tmp_path / "out")
    paths = [folder / file for file in files]
    back = import_files(name, format, paths[0], paths[-1], valid=paths[1] if len(paths) == 3 else None)
    assert back.split_hash == data.split_hash


def test_the_rules_find_the_sessions_of_srgnns_authors():
    """Of a raw Diginetica log, or a part of one, in $DISSECT_RAW, against the authors' split.

    The numbers of the items differ, so a session is known by its pattern (which clicks are the same item). Long
    patterns that stand once in the authors' file are found in it in the order of our dates and ties, before and
    after the same day, and one translation of the items holds for all of them.
    """
    raw = os.environ.get("DISSECT_RAW")
    if not raw:
        pytest.skip(
            "$DISSECT_RAW does not name a raw Diginetica log (train-item-views.csv), which has to be asked for."
        )
    if "diginetica-srgnn" not in catalog.names():
        pytest.skip(f"No data set diginetica-srgnn in {catalog.data_root()}: docs/data.md tells how to bring it.")
    recipe, theirs = RECIPES["diginetica-srgnn"], catalog.load("diginetica-srgnn")
    log = read_log(Path(raw), recipe.log).table
    # Number, date, sort, drop single clicks. A part of a log does not show which items are rare in the whole.
    for rule, settings in recipe.rules[:4]:
        log = preprocess.RULES[rule](log, **settings)
    train, test = preprocess.RULES[recipe.split[0]](log, **recipe.split[1])
    ours = [to_sessions(part) for part in preprocess.order_sessions(train, test, "date")]

    known: dict[tuple[int, ...], list[int]] = {}
    theirs_all = [part[i].tolist() for part in (theirs.train, theirs.test) for i in range(len(part))]
    for place, session in enumerate(theirs_all):
        known.setdefault(pattern(session), []).append(place)
    pairs = []
    for number, part in enumerate(ours):
        for session in (part[i].tolist() for i in range(len(part))):
            places = known.get(pattern(session), ())
            if len(session) >= 8 and len(set(session)) < len(session) - 1 and len(places) == 1:
                pairs.append((number, session, places[0]))
    in_order = longest_rising([place for _, _, place in pairs])
    # A session that lost a rare item may have the pattern of another by chance: a few are out of order.
    assert len(pairs) >= 50 and len(in_order) >= 0.85 * len(pairs)
    there: dict[int, int] = {}
    back: dict[int, int] = {}
    for index in in_order:
        number, session, place = pairs[index]
        assert (place >= len(theirs.train)) == bool(number)  # train in train, test in test
        for a, b in zip(session, theirs_all[place]):
            assert there.setdefault(a, b) == b and back.setdefault(b, a) == a
    assert {pairs[index][0] for index in in_order} == {0, 1}


def pattern(session):
    """Which clicks of a session are the same item: [7, 3, 7] is (0, 1, 0)."""
    seen: dict[int, int] = {}
    return tuple(seen.setdefault(item, len(seen)) for item in session)


def longest_rising(values):
    """The indices of a longest rising subsequence."""
    best = [(1, -1)] * len(values)
    for i, value in enumerate(values):
        best[i] = max(((best[j][0] + 1, j) for j in range(i) if values[j] < value), key=lambda b: b[0], default=(1, -1))
    at = max(range(len(values)), key=lambda i: best[i][0], default=-1)
    chain = []
    while at >= 0:
        chain.append(at)
        at = best[at][1]
    return chain[::-1]
