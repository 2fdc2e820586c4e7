"""Flat sessions and prefix tensors against lists."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dissect.data.sessions import Dataset, Sessions, prefix_index, split_validation

lists = st.lists(st.lists(st.integers(1, 9), min_size=1, max_size=7), min_size=1, max_size=12)


@given(lists)
def test_prefixes_are_all_beginnings_that_have_a_target(sessions):
    flat = Sessions.from_lists(sessions)
    expected = [(s[:k], s[k]) for s in sessions for k in range(1, len(s))]
    assert flat.n_prefixes == len(expected)
    assert flat.n_clicks == sum(map(len, sessions)) and len(flat) == len(sessions)
    session, length = prefix_index(flat)
    assert [(flat[s][:k].tolist(), int(flat[s][k])) for s, k in zip(session, length)] == expected


@given(lists, st.floats(0, 0.99))
def test_validation_is_the_last_part_in_time(sessions, fraction):
    train, valid = split_validation(Sessions.from_lists(sessions), fraction)
    assert [s.tolist() for part in (train, valid) for s in (part[i] for i in range(len(part)))] == sessions
    assert len(valid) == round(len(sessions) * fraction)


def test_a_validation_share_of_one_is_refused():
    with pytest.raises(ValueError, match="below 1"):
        split_validation(Sessions.from_lists([[1, 2]]), 1.0)


def test_parts_carry_times_and_users():
    flat = Sessions.from_lists([[1, 2], [3], [4, 5]])
    full = Sessions(flat.items, flat.offsets, np.arange(3), np.arange(3) + 10, np.arange(5) + 100)
    part = full.part(1, 3)
    assert part.times.tolist() == [1, 2] and part.users.tolist() == [11, 12]
    assert part.click_times.tolist() == [102, 103, 104] and part.offsets.tolist() == [0, 1, 3]


def test_the_split_hash_knows_items_and_boundaries():
    def hashed(train, test, n_items=9):
        return Dataset("x", n_items, Sessions.from_lists(train), Sessions.from_lists(test)).split_hash

    base = hashed([[1, 2], [3, 4]], [[5, 6]])
    assert base == hashed([[1, 2], [3, 4]], [[5, 6]]) and len(base) == 16
    assert (
        len(
            {
                base,
                hashed([[1, 2, 3], [4]], [[5, 6]]),
                hashed([[1, 2], [3, 5]], [[5, 6]]),
                hashed([[1, 2], [3, 4]], [[5, 6]], 10),
            }
        )
        == 4
    )
