"""The two layouts of a batch, packed and with all slots: the same numbers, and shapes that no data decides."""

import pytest
import torch
from torch._subclasses.fake_tensor import DynamicOutputShapeException, FakeTensorMode

from dissect.data.sessions import PrefixTensors, Sessions
from dissect.runs.config import Config
from dissect.sparsevd import total_kl
from dissect.sparsevd.sparsify import sparsify
from dissect.training.loop import ExampleOrder
from models import MODELS
from models.graph import build, pack
from tests.test_srgnn import SESSIONS, pad

CASES = [
    ("srgnn", {}),
    ("srgnn", {"steps": 2, "propagation": "A(HW)"}),
    ("srgnn", {"without": ("attention",)}),
    ("srgnn", {"without": ("propagation",)}),
    ("srgnn", {"normalised": True, "dropout": 0.0}),
    ("srgnn", {"readout": "attenmixer", "dropout": 0.0, "levels": 3, "heads": 2}),
    ("attenmixer", {"dropout": 0.0, "levels": 3, "heads": 2}),
    ("attenmixer", {"dropout": 0.0, "levels": 3, "heads": 2, "head_layout": "split", "short": "drop"}),
]


def results(model, items, lengths):
    """(vectors, gradients by name) of a model on some sessions."""
    model.zero_grad()
    S = model.item_states().detach().requires_grad_()  # as in a step: its gradient is sparse
    vectors = model.encode(S, items, lengths)[0]
    (vectors * torch.linspace(-1, 1, vectors.numel()).view_as(vectors)).sum().backward()
    gradients = {name: p.grad for name, p in (*model.named_parameters(), ("S", S)) if p.grad is not None}
    return vectors.detach(), {name: g.to_dense() if g.is_sparse else g for name, g in gradients.items()}


@pytest.mark.parametrize(
    ("name", "options", "off"),
    [
        (name, options, off)
        for name, options in CASES
        for off in (None, *MODELS[name].removable)
        if off not in options.get("without", ())
    ],
    ids=str,
)
def test_both_layouts_give_the_same_vectors_and_gradients(name, options, off):
    torch.manual_seed(0)
    model = MODELS[name](n_items=9, dim=8, **options).double()
    model.switched_off = off
    vectors, gradients = results(model, *pad(SESSIONS))
    model.all_slots = True
    assert pack(*pad(SESSIONS), all_slots=True).width == 9
    mine, my_gradients = results(model, *pad(SESSIONS, 16))
    torch.testing.assert_close(mine, vectors)
    for parameter, gradient in gradients.items():
        torch.testing.assert_close(my_gradients[parameter], gradient, msg=lambda text: f"{parameter}: {text}")  # noqa: B023


def test_graphs_of_both_layouts_have_the_same_edges():
    def edges(graph):
        real = torch.ones_like(graph.source).bool() if graph.real is None else graph.real.bool()
        ends = (graph.source[real], graph.target[real])
        degrees = (graph.out_degree[ends[0]], graph.in_degree[ends[1]])
        columns = [graph.nodes[end].tolist() for end in ends] + [degree.tolist() for degree in degrees]
        return sorted(zip(*columns, strict=True))

    items, lengths = pad(SESSIONS)
    assert edges(build(pack(items, lengths, all_slots=True))) == edges(build(pack(items, lengths)))
    assert build(pack(items[1:2, :1], lengths[1:2], all_slots=True)).source.shape == (0,)  # one click, no edge


@pytest.mark.parametrize(("name", "options"), CASES[:2] + CASES[5:7], ids=str)
def test_with_all_slots_no_shape_depends_on_the_data(name, options):
    """Fake tensors have shapes and no contents: what would wait for the device to know a shape or a number fails."""
    options = {**options, "dropout": 0.1}
    with FakeTensorMode():
        model = MODELS[name](n_items=50, dim=8, **options)
        sparsify(model, log_sigma2=-10.0)
        items, lengths = torch.ones(4, 6, dtype=torch.long), torch.ones(4, dtype=torch.long)
        with pytest.raises(DynamicOutputShapeException):
            model.encode(model.item_states(), items, lengths)
        model.all_slots = True
        S = model.item_states().detach().requires_grad_()
        vectors, _ = model.encode(S, items, lengths)
        (vectors.sum() + total_kl(model, "log-uniform")).backward()
    assert vectors.shape == (4, 8)


@pytest.mark.parametrize("order", ["shuffled", "chronological"])
def test_widths_known_beforehand_hold_every_example(order):
    config = Config("srgnn", "", "", batch_size=3, order=order)
    prefixes = PrefixTensors(Sessions.from_lists([[*s, 1] for s in SESSIONS] + [list(range(1, 20))]))
    steps = -(-len(prefixes) // 3)
    plain = ExampleOrder(prefixes.length, config, 1, static=False)
    static = ExampleOrder(prefixes.length, config, 1, static=True)
    widths = set()
    for step in range(2 * steps):
        (index, nothing), (same, width) = plain.batch(step, steps), static.batch(step, steps)
        assert nothing is None and torch.equal(index, same)
        items, lengths, targets = prefixes.batch(index)
        padded = prefixes.batch(same, width)
        assert torch.equal(padded[0][:, : items.shape[1]], items) and not padded[0][:, items.shape[1] :].any()
        assert torch.equal(padded[1], lengths) and torch.equal(padded[2], targets)
        widths.add(width)
    assert widths <= {8, 16, 24} and len(widths) > 1
