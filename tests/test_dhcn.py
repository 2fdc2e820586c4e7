"""DHCN against its definition, written once more as plain loops: prefixes as sets, one session at a time, pairs."""

import itertools
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from dissect.data.sessions import Dataset, Sessions, split_validation
from dissect.errors import DataError
from dissect.runs.config import Config
from dissect.training.checkpoint import load_checkpoint
from dissect.training.evaluation import evaluate, metrics, prefixes_of
from dissect.training.loop import backward_to_table, fit, train_step
from dissect.training.rebuild import Recorded, rebuild
from dissect.training.resume import restore
from dissect.training.setup import assemble
from models import DHCN, Batch
from models.base import encoded, session_vectors, sparse_lookups
from models.line_graph import contrast, line_graph
from models.order import neighbours_near

V, D = 9, 6
# Repeats, self loops, two clicks, a session of one click (no prefix). Item 9 is only ever the last click, 8 nowhere.
TRAIN = [[1, 2, 3, 2, 4], [6, 6], [7, 1, 7, 3, 7, 7], [5], [4, 9], [3, 1, 2, 3, 4, 5, 6, 1, 2, 2], [2, 1, 9]]
SESSIONS = [[1, 2, 3, 2, 4], [5], [6, 6], [7, 8, 7, 8, 7], [9, 1, 2, 3, 4, 5, 6, 1, 2], [3, 2, 1], [4], [1, 2]]


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def operator(sessions, least=0.0):
    """D^-1 H B^-1 H^T, entry by entry, over the prefixes that have a target."""
    prefixes = [set(session[:end]) for session in sessions for end in range(1, len(session))]
    P = np.zeros((V, V))
    for u, v in itertools.product(range(V), repeat=2):
        of_u = [prefix for prefix in prefixes if u + 1 in prefix]
        P[u, v] = sum(1 / len(prefix) for prefix in of_u if v + 1 in prefix) / max(1, len(of_u))
    return np.where(least > P, 0, P)


def mean_of_powers(P, x, layers):
    return sum(np.linalg.matrix_power(P, power) @ x for power in range(layers + 1)) / (layers + 1)


def weights_of(model):
    return {name: p.detach().numpy() for name, p in model.named_parameters()}


def session_vector(w, S, session, length=200):
    x = [S[item - 1] for item in session]
    mean = sum(x) / len(x)
    s = np.zeros(D)
    for t, x_t in enumerate(x):
        c = x_t
        if "position_bias" in w:
            place = w["position_bias"][min(len(x) - 1 - t, length - 1)]
            c = w["attend_click.weight"] @ np.concatenate([place, x_t]) + w["attend_click.bias"]
        hidden = w["attend_all.weight"] @ np.tanh(c) + w["attend_all.bias"] + w["attend_mean.weight"] @ mean
        s += w["attend_score.weight"][0] @ sigmoid(hidden) * x_t
    return s


def lines(sessions):
    A = np.eye(len(sessions))
    for i, j in itertools.permutations(range(len(sessions)), 2):
        some, other = set(sessions[i]), set(sessions[j])
        A[i, j] = len(some & other) / len(some | other)
    return A / A.sum(1, keepdims=True)


def self_supervision(w, vectors, sessions, layers, rows, columns):
    """Of each session; `rows` and `columns` are the permutations that spoil the vectors."""
    q = np.stack([sum(w["items"][item - 1] for item in session) / len(session) for session in sessions])
    q = mean_of_powers(lines(sessions), q, layers)
    spoilt = [[vectors[row][column] for column in columns] for row in rows]
    pairs = zip(vectors, q, spoilt, strict=True)
    return [-math.log(1e-8 + sigmoid(s @ q)) - math.log(1e-8 + 1 - sigmoid(q @ other)) for s, q, other in pairs]


def make(seed=0, prepared=True, **options):
    torch.manual_seed(seed)
    model = DHCN(V, **{"dim": D, **options}).double()
    if prepared:
        model.prepare(Sessions.from_lists(TRAIN))
    return model


@pytest.mark.parametrize(
    "options",
    [{}, {"layers": 0}, {"layers": 1, "positions": False}, {"length": 3}, {"least": 0.3}],
    ids=str,
)
def test_equals_the_equations(options):
    model = make(**options)
    w = weights_of(model)
    P, layers = operator(TRAIN, options.get("least", 0.0)), options.get("layers", 3)
    S = mean_of_powers(P, w["items"], layers)
    expected = np.stack([session_vector(w, S, session, options.get("length", 200)) for session in SESSIONS])
    np.testing.assert_allclose(model.item_states().detach().numpy(), S, rtol=0, atol=1e-10)
    np.testing.assert_allclose(model.eval().scores(Batch.of(SESSIONS)).numpy(), expected @ S.T, rtol=0, atol=1e-10)
    model.train()
    torch.manual_seed(5)
    vectors, losses = encoded(model, model.item_states(), Batch.of(SESSIONS))
    np.testing.assert_allclose(vectors.detach().numpy(), expected, rtol=0, atol=1e-10)
    torch.manual_seed(5)
    rows, columns = torch.randperm(len(SESSIONS)).tolist(), torch.randperm(D).tolist()
    each = self_supervision(w, expected, SESSIONS, layers, rows, columns)
    assert losses["ssl"].item() == pytest.approx(0.01 * 100 * sum(each) / len(each), rel=1e-10)


def test_gradients_are_those_of_the_powers_of_a_matrix():
    model, P = make(), torch.from_numpy(operator(TRAIN))
    G = torch.randn(V, D, dtype=torch.double)
    (model.item_states() * G).sum().backward()
    expected = sum(torch.linalg.matrix_power(P.t(), power) @ G for power in range(4)) / 4
    torch.testing.assert_close(model.items.grad, expected, rtol=0, atol=1e-12)
    filtered = make(least=0.3)  # what is left out leaves another transpose than its own pattern
    assert torch.autograd.gradcheck(filtered.hypergraph, (filtered.items.detach().requires_grad_(),))


def test_rows_sum_to_one_and_are_zero_for_items_that_are_never_inputs():
    model = make(layers=1, ssl=0.0)
    with torch.no_grad():
        model.items.fill_(1.0)
    S = model.item_states().detach()
    torch.testing.assert_close(S[:7], torch.ones(7, D).double())
    torch.testing.assert_close(S[7:], torch.full((2, D), 0.5).double())  # 8 is nowhere, 9 only the last click


def test_the_last_clicks_and_what_is_held_out_are_not_in_the_hypergraph():
    train, held_out = split_validation(Sessions.from_lists(TRAIN), 0.3)
    assert len(held_out)
    whole, part = make(), make(prepared=False)
    part.prepare(train)
    last = make(prepared=False)
    last.prepare(Sessions.from_lists([[*session[:-1], 8] for session in TRAIN]))
    assert torch.equal(whole.item_states(), last.item_states())  # another target after each session
    np.testing.assert_allclose(
        part.item_states().detach().numpy(),
        mean_of_powers(operator(TRAIN[: len(train)]), part.items.detach().numpy(), 3),
        rtol=0,
        atol=1e-12,
    )
    assert not torch.equal(whole.item_states(), part.item_states())


@pytest.mark.parametrize("ssl", [0.0, 0.01])
def test_a_vector_does_not_depend_on_the_other_sessions_while_it_trains(ssl):
    model = make(ssl=ssl)
    S = model.item_states()
    together = session_vectors(model, S, Batch.of(SESSIONS))
    alone = torch.cat([session_vectors(model, S, Batch.of([session])) for session in SESSIONS])
    torch.testing.assert_close(alone, together)
    losses = encoded(model, S, Batch.of(SESSIONS))[1]
    assert list(losses) == (["ssl"] if ssl else [])
    assert encoded(model.eval(), S, Batch.of(SESSIONS))[1] == {}


def test_the_line_graph_has_a_unit_diagonal_before_its_rows_are_divided():
    """Sessions of the same items in another order, sessions without a common item, a click on one item twice."""
    sessions = [[1, 2, 2], [2, 1], [3], [3, 4, 5], [6]]
    A = line_graph(Batch.of(sessions).clicks, V, torch.double)
    np.testing.assert_allclose(A.numpy(), lines(sessions), rtol=0, atol=1e-15)
    assert A[0, 1] == A[0, 0] == 0.5 and A[4, 4] == 1
    order = [3, 1, 4, 0, 2]
    torch.testing.assert_close(
        line_graph(Batch.of([sessions[i] for i in order]).clicks, V, torch.double), A[order][:, order]
    )


@pytest.mark.parametrize("line_gradient", [False, True])
def test_the_line_channel_is_detached_unless_it_is_not(line_gradient):
    model = make(line_gradient=line_gradient)
    S, batch = model.item_states().detach(), Batch.of(SESSIONS)
    encoded(model, S, batch)[1]["ssl"].backward()  # S is detached: what reaches the items came through the line channel
    assert (model.items.grad is not None) is line_gradient
    assert all(p.grad.abs().max() > 0 for name, p in model.named_parameters() if name != "items")


def test_the_pass_of_the_shadows_takes_the_table_that_is_made(monkeypatch):
    """Propagation is half of a step, draws no numbers, and leaves nothing behind: once is enough."""
    calls, weights = [], []
    for remakes in (True, False):
        monkeypatch.setattr(DHCN, "remakes_table", remakes)
        prefixes, config = prefixes_of(Sessions.from_lists(TRAIN)), Config("dhcn", "x", "", shadows=True, kl_weight=4.0)
        build = lambda: DHCN(V, D)  # noqa: E731
        training = assemble(build, config, prefixes, 1, "full", train=Sessions.from_lists(TRAIN))
        calls.append(0)
        forward = training.model.item_states

        def counted(forward=forward):
            calls[-1] += 1
            return forward()

        training.model.item_states = counted
        train_step(training, prefixes.batch(torch.arange(8)), 0.01, torch.empty(V, 8))
        weights.append({**training.model.state_dict(), **training.controls.state_dict()})
    assert calls == [2, 1]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


@pytest.mark.parametrize("layers", [0, 3])
@pytest.mark.parametrize("line_gradient", [False, True])
def test_the_training_loop_gives_the_gradients_of_a_plain_one(layers, line_gradient):
    batch, grads = Batch.of(SESSIONS), []
    for split in (False, True):
        model = make(layers=layers, line_gradient=line_gradient)
        S = model.item_states()
        looked_up, scored = (S.detach().requires_grad_(), S.detach().requires_grad_()) if split else (S, S)
        torch.manual_seed(3)
        if split:
            with sparse_lookups(looked_up):
                vectors, losses = encoded(model, looked_up, batch)
        else:
            vectors, losses = encoded(model, S, batch)
        ((vectors @ scored.t()).logsumexp(1).mean() + losses["ssl"]).backward()
        if split:
            backward_to_table(S, scored.grad, looked_up.grad)
        grads.append({name: p.grad.to_dense() for name, p in model.named_parameters()})
    for name, grad in grads[0].items():
        torch.testing.assert_close(grads[1][name], grad, rtol=0, atol=1e-12, msg=name)


def test_the_loss_is_the_same_for_batches_of_any_size():
    """Batches of one kind of session only: the mean does not change, where the released sum doubles."""
    model = make()
    with torch.no_grad():
        model.items.copy_(model.items[:, :1].expand(-1, D))  # permuted columns change nothing
    few, many = (encoded(model, model.item_states(), Batch.of([[1, 2]] * B))[1]["ssl"] for B in (3, 12))
    torch.testing.assert_close(few, many)
    torch.testing.assert_close(make(ssl=0.02).ssl * few / model.ssl, 2 * few)


def test_the_loss_stays_finite_where_the_sigmoid_is_zero_or_one():
    s = torch.full((2, 3), 100.0)
    for q in (s, -s):
        assert torch.isfinite(contrast(s, q)).all() and contrast(s, q).max() < 40


def test_each_part_left_out():
    w = weights_of(make(without=("attention",)))
    assert set(w) == {"items"}
    model = make(without=("attention",))
    S = model.item_states()
    means = torch.stack([S[torch.tensor(session) - 1].mean(0) for session in SESSIONS])
    torch.testing.assert_close(session_vectors(model, S, Batch.of(SESSIONS)), means)
    flat = make(without=("hypergraph",))
    assert flat.item_states() is flat.items and flat.hypergraph is None
    tmall, npos = make(positions=False), make(without=("positions",))
    assert weights_of(tmall).keys() == weights_of(npos).keys()
    assert not any(name.startswith(("position", "attend_click")) for name in weights_of(npos))


def test_parts_switched_off_in_a_trained_model():
    model = make().eval()
    full, S = session_vectors(model, model.item_states(), Batch.of(SESSIONS)), model.item_states()
    model.switched_off = "hypergraph"
    assert model.item_states() is model.items
    model.switched_off = "attention"
    uniform = session_vectors(model, S, Batch.of(SESSIONS))
    torch.testing.assert_close(uniform[1], full[1])  # of one click
    direction = torch.stack([S[torch.tensor(session) - 1].mean(0) for session in SESSIONS])
    torch.testing.assert_close(torch.cosine_similarity(uniform, direction).abs(), torch.ones(len(SESSIONS)).double())
    model.switched_off = "positions"
    off = session_vectors(model, S, Batch.of([[1, 2, 3], [3, 1, 2]]))
    torch.testing.assert_close(off[0], off[1])  # order tells nothing
    model.switched_off = None
    on = session_vectors(model, S, Batch.of([[1, 2, 3], [3, 1, 2]]))
    assert not torch.allclose(on[0], on[1])


def test_a_checkpoint_holds_no_hypergraph_and_fits_no_other():
    model, other = make(), make(seed=1)
    state = model.state_dict()
    assert {name for name in state if "hypergraph" in name} == {"hypergraph.made_of"}
    assert state["hypergraph.made_of"].numel() == 32
    other.load_state_dict(state)
    assert torch.equal(other.item_states(), model.item_states())
    other.prepare(Sessions.from_lists(TRAIN[:-1]))
    with pytest.raises(ValueError, match="hypergraph of other sessions"):
        other.load_state_dict(state)
    bare = make(prepared=False)
    bare.load_state_dict(state)
    bare.eval()
    with pytest.raises(ValueError, match="call prepare"):
        bare.item_states()
    bare.prepare(Sessions.from_lists(TRAIN))
    assert torch.equal(bare.item_states(), model.item_states())


def test_the_order_of_the_items_puts_neighbours_side_by_side():
    """Three groups of items whose numbers alternate, weak ties between two groups, and an item without neighbours."""
    n, generator = 31, torch.Generator().manual_seed(0)
    ties = {(u, v): 1.0 for u in range(n - 1) for v in range(n - 1) if u % 3 == v % 3} | {(0, 1): 0.1, (1, 0): 0.1}
    weight = torch.tensor(list(ties.values())).double()
    weight += 0.01 * torch.rand(len(weight), generator=generator).double()
    row, column = torch.tensor(list(ties)).t()
    order = neighbours_near(row, column, weight, n)
    assert sorted(order.tolist()) == list(range(n))
    group = [item % 3 if item < n - 1 else 3 for item in order.tolist()]
    assert sum(a != b for a, b in itertools.pairwise(group)) == 3
    assert torch.equal(order, neighbours_near(row, column, weight, n))
    lone = torch.zeros(0, dtype=torch.long)
    assert neighbours_near(lone, lone, lone.double(), 4).tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("sessions", [[[5]], [[5], [2]], [[5, 5, 5], [2]]], ids=str)
def test_training_sessions_without_prefixes_or_with_one_item(sessions):
    model = make(prepared=False)
    model.prepare(Sessions.from_lists(sessions))
    S = model.item_states()
    torch.testing.assert_close(S[0], model.items[0] / 4)
    torch.testing.assert_close(S[4], model.items[4] * (1 if len(sessions[0]) > 1 else 0.25))


@pytest.mark.parametrize(
    "wrong",
    [
        {"layers": -1},
        {"layers": 21},
        {"ssl": -0.1},
        {"ssl": math.inf},
        {"ssl": math.nan},
        {"length": 0},
        {"least": 1.5},
    ],
    ids=str,
)
def test_wrong_options_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        DHCN(3, 2, **wrong)


def test_a_data_set_of_more_items_is_refused():
    with pytest.raises(ValueError, match="item 10, and the model has 9 items"):
        make(prepared=False).prepare(Sessions.from_lists([[1, 10, 2]]))


PARITY = json.loads((Path(__file__).parent / "parity" / "dhcn.json").read_text())


@pytest.mark.parametrize("case", PARITY["cases"])
def test_the_released_model_gives_the_same_scores_loss_and_gradient(case):
    """Of xiaxin1998/DHCN at the commit in the file, in double: random weights, a hypergraph of random sessions.

    Its loss is a sum over the batch. The gradient is that of the items, in the mean cross-entropy of item 1 plus the
    loss: it tells whether the line channel is detached.
    """
    known, sessions = PARITY["cases"][case], PARITY["sessions"]
    model = DHCN(len(known["gradient"]), length=known["length"], **known["options"]).double()
    model.load_state_dict(
        {
            "hypergraph.made_of": model.hypergraph.made_of,
            **{name: torch.tensor(weight, dtype=torch.double) for name, weight in known["weights"].items()},
        }
    )
    model.prepare(Sessions.from_lists(PARITY["train"]))
    torch.manual_seed(PARITY["seed"])
    S = model.item_states()
    vectors, losses = encoded(model, S, Batch.of(sessions))
    scores, ssl = vectors @ S.t(), losses["ssl"] * len(sessions) / 100
    torch.testing.assert_close(scores, torch.tensor(known["scores"], dtype=torch.double), rtol=1e-9, atol=1e-14)
    assert ssl.item() == pytest.approx(known["ssl"], rel=1e-9)
    (F.cross_entropy(scores, torch.zeros(len(sessions), dtype=torch.long)) + ssl).backward()
    torch.testing.assert_close(
        model.items.grad, torch.tensor(known["gradient"], dtype=torch.double), rtol=1e-9, atol=1e-14
    )


def test_a_run_is_rebuilt_and_continued_with_its_own_sessions_only(tmp_path):
    lists = [[(start + step) % V + 1 for step in range(2 + start % 4)] for start in range(60)]
    mine, other = (Dataset("mine", V, Sessions.from_lists(part), Sessions.from_lists(TRAIN)) for part in (lists, TRAIN))
    config = Config("dhcn", "mine", mine.split_hash, {"dim": D}, where="none", lr=0.01, max_steps=8, batch_size=32)
    summary = fit(lambda: DHCN(V, D), mine, config, tmp_path, seed=1)
    record = Recorded(tmp_path, tmp_path.parent, "full", 1, config, 8, V, ())
    model, step = rebuild(record, DHCN, lambda: mine.train)
    ranks = metrics(evaluate(model, prefixes_of(mine.test)))
    assert step == 8 and {name: summary["test"][name] for name in ranks} == ranks
    with pytest.raises(DataError, match=r"does not fit the model dhcn: .* hypergraph of other sessions"):
        rebuild(record, DHCN, lambda: other.train)
    training = assemble(lambda: DHCN(V, D), config, prefixes_of(other.train), 1, "full")
    path = tmp_path / "checkpoints" / "last.pt"
    training.model.prepare(other.train)
    with pytest.raises(DataError, match="hypergraph of other sessions"):
        restore(training, load_checkpoint(path), path)
    given = load_checkpoint(path)["model"]  # to start from its weights on other sessions is fine
    fresh = assemble(lambda: DHCN(V, D), config, prefixes_of(other.train), 1, "full", given, other.train).model
    assert torch.equal(fresh.items, model.items)
    assert not torch.equal(fresh.hypergraph.made_of, model.hypergraph.made_of)
    assert torch.isfinite(fresh.eval().scores(Batch.of(SESSIONS))).all()
