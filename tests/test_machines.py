"""What a table says of the machines on which its rows were timed, and on which device torch is seeded."""

import json
from contextlib import contextmanager

import pytest
import torch

from analyses.compare import cautions, results_table
from dissect.sparsevd.probe import seed_torch
from tests.test_compare import make_group, ranks_of, write_run

CPU = {"processor": "a; b", "threads": 1, "device": "cpu"}
GPU = {**CPU, "device": "NVIDIA H200"}


@pytest.mark.parametrize(
    ("first", "second", "warns"),
    [
        (CPU, CPU, False),
        (CPU, GPU, True),
        (CPU, {**CPU, "threads": 2}, True),
        (GPU, None, True),  # not told
        (None, None, False),
        (CPU, "{not json", True),
        (CPU, [1], True),
        (CPU, {**CPU, "processor": 3}, True),
    ],
)
def test_a_comparison_warns_of_seconds_from_several_machines(tmp_path, first, second, warns):
    """Seen: a table with seconds of a GPU in most rows, of a CPU in two, and of both in one."""
    for name, about in (("srgnn", first), ("attenmixer", second)):
        for run in make_group(tmp_path, model=name, seeds=(1, 2)).glob("s*"):
            if about is not None:
                (run / "environment.json").write_text(about if isinstance(about, str) else json.dumps(about))
    write_run(make_group(tmp_path, model="pop", seeds=()) / "s1", ranks_of(1), epochs=0, which="last")
    table = results_table(tmp_path, "a" * 16, "clean")
    assert len(table) == 3
    assert any("more than one machine" in note for note in cautions(table)) == warns


def test_torch_is_seeded_as_by_its_own_function():
    seed_torch(7, torch.device("cpu"))
    mine = torch.randn(5)
    torch.manual_seed(7)
    assert torch.equal(mine, torch.randn(5))


def test_the_device_that_is_meant_is_seeded(monkeypatch):
    current, seeded = [torch.device("cuda:0")], []

    @contextmanager
    def device(new):
        current.append(new)
        yield
        current.pop()

    monkeypatch.setattr(torch.cuda, "device", device)
    monkeypatch.setattr(torch.cuda, "manual_seed", lambda seed: seeded.append((seed, current[-1])))
    seed_torch(7, torch.device("cuda:1"))
    assert seeded == [(7, torch.device("cuda:1"))]
