"""Batches and their rows against plain loops over lists."""

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from models import MODELS, Batch, Prefixes
from models.base import encoded
from models.kernels import dots_by_length
from models.rows import Rows

few_items = st.lists(st.lists(st.integers(1, 4), min_size=1, max_size=9), min_size=1, max_size=6)


def prefixes_of(sessions, longest=0, device="cpu"):
    offsets = list(itertools.accumulate(map(len, sessions), initial=0))
    return Prefixes([item for session in sessions for item in session], offsets, device, longest)


@given(few_items, st.integers(0, 5), st.randoms())
def test_clicks_nodes_and_edges_are_those_of_the_sessions(sessions, longest, random):
    prefixes = prefixes_of(sessions, longest)
    examples = [(s[:k][-longest:], s[k]) for s in sessions for k in range(1, len(s))]  # -0 keeps all
    assert len(prefixes) == len(examples)
    assert [examples[i][0] for i in prefixes.whole.tolist()] == [s[:-1][-longest:] for s in sessions if len(s) > 1]
    if not examples:
        return
    chosen = random.sample(range(len(examples)), min(5, len(examples)))
    batch = prefixes.batch(torch.tensor(chosen))
    wanted = [examples[i] for i in chosen]
    assert batch.targets.tolist() == [target for _, target in wanted]
    assert [row[:n].tolist() for row, n in zip(batch.items, batch.lengths)] == [clicks for clicks, _ in wanted]
    assert not any(row[n:].any() for row, n in zip(batch.items, batch.lengths))
    assert batch.targets_of_clicks.tolist() == [i for clicks, target in wanted for i in (*clicks[1:], target)]
    clicks = [(owner, at, item) for owner, (items, _) in enumerate(wanted) for at, item in enumerate(items)]
    rows = batch.clicks
    assert list(zip(rows.owner.tolist(), rows.position.tolist(), rows.items.tolist())) == clicks
    assert rows.from_end.tolist() == [len(wanted[owner][0]) - 1 - at for owner, at, _ in clicks]
    nodes = [(owner, item) for owner, (items, _) in enumerate(wanted) for item in dict.fromkeys(items)]
    assert list(zip(batch.nodes.owner.tolist(), batch.nodes.items.tolist())) == nodes
    assert [nodes[n] for n in batch.nodes.of_click.tolist()] == [(owner, item) for owner, _, item in clicks]
    pairs = [((owner, a), (owner, b)) for owner, (items, _) in enumerate(wanted) for a, b in itertools.pairwise(items)]
    ends = zip(batch.edges.source.tolist(), batch.edges.target.tolist())
    assert [(nodes[a], nodes[b]) for a, b in ends] == list(dict.fromkeys(pairs))
    check_transitions_and_shortcuts(batch, [items for items, _ in wanted])
    by_length = prefixes.by_length(torch.tensor(chosen))
    assert sorted(by_length.tolist()) == sorted(chosen) and (prefixes.length[by_length].diff() >= 0).all()


def check_transitions_and_shortcuts(batch, sessions):
    """Against loops over the clicks of each session; a node is (session, item)."""
    nodes = list(zip(batch.nodes.owner.tolist(), batch.nodes.items.tolist()))
    starts = list(itertools.accumulate(map(len, sessions), initial=0))
    assert batch.nodes.first.tolist() == [starts[owner] + sessions[owner].index(item) for owner, item in nodes]
    pairs, slots = [], []
    for owner, items in enumerate(sessions):
        for at in range(1, len(items)):
            slots.append(sum(item == items[at] for item in items[1:at]))
            pairs.append(((owner, items[at - 1]), (owner, items[at])))
    rows = batch.transitions
    ends = list(zip(rows.source.tolist(), rows.target.tolist()))
    assert [(nodes[a], nodes[b]) for a, b in ends] == pairs and rows.slot.tolist() == slots
    assert rows.arrivals == [slots.count(k) for k in range(max(slots, default=-1) + 1)]
    into = [[pair for pair in pairs if pair[1] == node] for node in nodes]
    assert [len(into[n]) for n in rows.place.argsort().tolist()] == sorted(map(len, into), reverse=True)
    for k, of_slot in enumerate(rows.by_slot.split(rows.arrivals) if pairs else ()):
        assert rows.slot[of_slot].eq(k).all()
        assert rows.place[rows.target[of_slot]].tolist() == list(range(len(of_slot)))
    ends = list(zip(batch.shortcuts.source.tolist(), batch.shortcuts.target.tolist()))
    wanted = {
        ((owner, items[i]), (owner, items[j]))
        for owner, items in enumerate(sessions)
        for i in range(len(items))
        for j in range(i, len(items))
    }
    assert len(ends) == len(wanted) and {(nodes[a], nodes[b]) for a, b in ends} == wanted


@given(few_items, st.integers(0, 5), st.integers(1, 5))
def test_the_latest_clicks_are_those_of_prefixes_that_keep_no_more(sessions, longest, n):
    prefixes = prefixes_of(sessions, longest)
    if not len(prefixes):
        return
    index = torch.arange(len(prefixes)).flip(0)
    batch = prefixes.batch(index)
    edges, shortcuts = len(batch.edges.source), len(batch.shortcuts.source)
    arrivals, latest = batch.transitions.arrivals, batch.latest(n)
    wanted = prefixes_of(sessions, min(longest or n, n)).batch(index)
    for of in (lambda b: b.items, lambda b: b.targets, lambda b: b.nodes.items, lambda b: b.nodes.of_click):
        assert torch.equal(of(latest), of(wanted))
    assert torch.equal(latest.edges.source, wanted.edges.source) and torch.equal(
        latest.edges.target, wanted.edges.target
    )
    clicks = [row[:k].tolist() for row, k in zip(wanted.items, wanted.lengths)]
    check_transitions_and_shortcuts(latest, clicks)
    assert latest.latest(n + 1) is latest and prefixes.latest(n) is prefixes.latest(n)
    again = prefixes.batch(index)  # as they were
    assert batch.host_lengths.equal(prefixes.length[index]) and len(again.edges.source) == edges
    assert len(again.shortcuts.source) == shortcuts and again.transitions.arrivals == arrivals


def test_long_sessions_have_the_same_transitions_and_shortcuts_in_every_window():
    sessions = [[1] * 300, [*range(1, 30), *range(29, 0, -1)] * 4, [(7 * k * k) % 31 + 1 for k in range(200)]]
    for longest in (0, 13, 40):
        prefixes = prefixes_of(sessions, longest)
        index = torch.arange(0, len(prefixes), 23)
        clicks = [row[:k].tolist() for row, k in zip(prefixes.batch(index).items, prefixes.batch(index).lengths)]
        check_transitions_and_shortcuts(prefixes.batch(index), clicks)


def test_more_nodes_of_a_session_than_a_byte_can_count():
    batch = Batch.of([[*range(1, 301), *range(1, 290)]])
    assert batch.transitions.arrivals == [300, 288] and len(batch.transitions.by_slot) == 588
    assert batch.transitions.slot.bincount().tolist() == [300, 288]  # the first click of all is on item 1
    assert len(batch.shortcuts.source) == 300 * 301 // 2 + 289 * 299 - 288 * 289 // 2


def test_rows_sum_and_spread_by_owner():
    rows, x = Rows(torch.tensor([0, 0, 2, 0]), 3), torch.randn(4, 2, dtype=torch.float64)
    of = [[0, 1, 3], [], [2]]
    torch.testing.assert_close(rows.sum(x), torch.stack([x[i].sum(0) for i in of]))
    torch.testing.assert_close(rows.mean(x), torch.stack([x[i].mean(0) if i else torch.zeros(2) for i in of]).double())
    assert rows.count.tolist() == [3, 0, 1]
    assert torch.equal(rows.spread(x[:3]), x[torch.tensor([0, 0, 2, 0])])
    softmax = torch.empty_like(x)
    for i in of:
        softmax[i] = x[i].softmax(0)
    torch.testing.assert_close(rows.softmax(x), softmax)
    torch.testing.assert_close(rows.softmax(x + 1000), softmax)
    assert torch.autograd.gradcheck(rows.log_softmax, x.requires_grad_())


def test_padded_and_back():
    batch = Batch.of([[1, 2, 3], [4], [5, 6]])
    x = torch.randn(6, 2)
    padded = batch.clicks.padded(x)
    assert padded.shape == (3, 3, 2) and not padded[1, 1:].any() and torch.equal(batch.clicks.unpadded(padded), x)
    assert torch.equal(batch.clicks.padded(x, 2)[0], x[1:3])  # the latest
    assert torch.equal(batch.clicks.padded(x, 5)[:, :3], padded)
    back = batch.clicks.back(x, 1)
    assert torch.equal(back, torch.stack([x[1], torch.zeros(2), x[4]]))


@pytest.mark.parametrize("sessions", [[[1], [1], [1] * 3, [1] * 3, [1] * 7], [[1] * 4, [1], [1] * 4], [[1]]], ids=str)
def test_dots_by_length_equal_products_click_by_click(sessions):
    torch.manual_seed(0)
    clicks = Batch.of(sessions).clicks
    query = torch.randn(len(sessions), 3, 2, 4, dtype=torch.float64, requires_grad=True)
    key = torch.randn(len(clicks), 2, 4, dtype=torch.float64, requires_grad=True)
    plain = torch.stack([(query[owner] * key[row]).sum(2).t() for row, owner in enumerate(clicks.owner)])
    mine = dots_by_length(query, key, clicks.owner, clicks.host_lengths)
    torch.testing.assert_close(mine, plain)
    by = torch.randn_like(plain)
    torch.testing.assert_close(*(torch.autograd.grad(out, (query, key), by) for out in (mine, plain)))


def test_lone_clicks_are_counted_where_they_come_first():
    clicks = Batch.of([[1], [2], [3, 4], [5]]).clicks
    rest = clicks.after(clicks.lone)
    assert clicks.lone == 2 and rest.owner.tolist() == [0, 0, 1] and rest.items.tolist() == [3, 4, 5]
    assert Batch.of([[1, 2], [3]]).clicks.lone == 0 and Batch.of([[1], [3]]).clicks.lone == 2


@pytest.mark.parametrize("longest", [0, 3])
@pytest.mark.parametrize("name", [name for name, cls in MODELS.items() if cls.learns])
def test_no_step_asks_the_device_for_a_number(name, longest):
    """A meta device has shapes and no contents: whatever waits for it to know a number or a shape fails."""
    prefixes = prefixes_of([[1, 2, 1, 3], [4, 4], [2, 3, 2, 3, 2]], longest, "meta")
    model = MODELS[name](n_items=5, dim=8).to("meta")
    S = model.item_states().detach().requires_grad_()
    batch = prefixes.batch(torch.arange(len(prefixes)))
    vectors, losses = encoded(model, S, batch)
    (vectors.sum() + sum(losses.values())).backward()
    shape = (len(prefixes), batch.clicks.width, 8) if model.every_position else (len(prefixes), 8)
    assert vectors.shape == shape and batch.targets.device.type == S.grad.device.type == "meta"
    with pytest.raises(RuntimeError):  # the check can fail: nonzero has to know how many
        batch.clicks.items.nonzero()


@pytest.mark.parametrize(
    ("sessions", "says"),
    [
        ([[1], [], [2], []], r"sessions\[1\] of 4 has no clicks: leave it out"),
        ([], "a batch needs one session at least, and there is none"),
    ],
)
def test_an_empty_session_or_batch_is_refused(sessions, says):
    with pytest.raises(ValueError, match=says):
        Batch.of(sessions)
