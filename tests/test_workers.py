"""Several processes on one training, started by torchrun as a user would: the numbers of one process."""

import os
import signal
import subprocess
import sys
import time

import pytest
import torch

from dissect.data.sessions import Sessions
from dissect.runs import files, folders
from dissect.runs.config import Config
from dissect.training import workers
from dissect.training.evaluation import prefixes_of
from dissect.training.loop import ExampleOrder

TINY = ["--dataset", "demo", "--dim", "4", "--device", "cpu", "--quiet"]
TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]


def start(folder, *words, processes=2):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    command = [sys.executable, *(TORCHRUN if processes == 2 else []), "-m", "dissect", *words, *TINY]
    return subprocess.Popen(
        [*command, "--runs-dir", str(folder)],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finished(process):
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    return out


def metrics_of(folder):
    run = folders.group_runs(folders.newest_group(folder))[0]
    rows = files.read_jsonl(run / "metrics.jsonl")
    return [{k: v for k, v in row.items() if isinstance(v, int | float) and k != "seconds"} for row in rows], run


def test_two_processes_get_the_numbers_of_one(tmp_path):
    words = ["train", "srgnn", "--epochs", "0.2", "--batch-size", "75"]
    finished(start(tmp_path / "one", *words, processes=1))
    out = finished(start(tmp_path / "two", *words))
    assert out.count("protocol clean") == 1  # the table is printed once
    (one, _), (two, run) = metrics_of(tmp_path / "one"), metrics_of(tmp_path / "two")
    assert len(one) == len(two) and [row["step"] for row in one] == [row["step"] for row in two]
    for a, b in zip(one, two):
        assert a == pytest.approx(b, rel=1e-4), (a, b)
    ranks = [folders.read_ranks(r / "ranks-test-best.npz")["rank"] for r in (metrics_of(tmp_path / "one")[1], run)]
    assert (ranks[0] == ranks[1]).mean() > 0.999  # sums in another order may swap two neighbours


@pytest.mark.slow
@pytest.mark.parametrize("setting", [["--literal"], []], ids=["literal", "with shadows"])
def test_two_processes_stop_together_and_go_on_with_noise_as_if_they_had_not(tmp_path, setting):
    words = ["run", *setting, "--seed", "1", "--max-steps", "400"]
    finished(start(tmp_path / "whole", *words))
    process = start(tmp_path / "stopped", *words)
    while not list(tmp_path.glob("stopped/*/s1/metrics.jsonl")):
        time.sleep(0.05)
    time.sleep(1)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=120)
    run = folders.group_runs(folders.newest_group(tmp_path / "stopped"))[0]
    assert not folders.is_done(run) and (run / "checkpoints" / "last.pt").exists()
    finished(start(tmp_path / "stopped", *words))
    assert metrics_of(tmp_path / "stopped")[0] == metrics_of(tmp_path / "whole")[0]


def test_a_batch_is_shared_without_rest_and_no_part_is_empty(monkeypatch):
    batch = torch.tensor([5, 6, 7, 8, 9])
    for count in (1, 2, 3, 7):
        monkeypatch.setattr(workers, "count", lambda count=count: count)
        parts = []
        for number in range(count):
            monkeypatch.setattr(workers, "number", lambda number=number: number)
            parts.append(workers.share(batch))
        assert sum(weight for _, weight in parts) == pytest.approx(1)
        assert sorted(i for part, weight in parts if weight for i in part.tolist()) == batch.tolist()
        assert all(len(part) for part, _ in parts)


def test_parts_of_whole_sessions_weigh_as_much_as_their_targets(monkeypatch):
    """The losses of the parts, each a mean over targets, add up to the mean over the targets of the batch."""
    lengths, losses = torch.tensor([9, 1, 1, 4, 2]), torch.rand(17).double().split([9, 1, 1, 4, 2])
    monkeypatch.setattr(workers, "count", lambda: 2)
    total = 0.0
    for number in range(2):
        monkeypatch.setattr(workers, "number", lambda number=number: number)
        part, weight = workers.share(torch.arange(5), lambda index: lengths[index])
        total += weight * torch.cat([losses[i] for i in part]).mean()
    assert float(total) == pytest.approx(float(torch.cat(losses).mean()), rel=1e-6)
    order = ExampleOrder(prefixes_of(Sessions.from_lists([[1, 2, 3, 4], [5, 6]])), Config("x", "", ""), 1, True)
    assert order.targets_of(order.examples).tolist() == [3, 1]
