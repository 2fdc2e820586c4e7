"""The live view as a terminal shows it: it fits, and says how far a run is."""

import io
import time

import pytest
from rich.console import Console

from dissect.cli.live import LiveObserver, PlainObserver


@pytest.fixture
def shown(tmp_path):
    """Renders a view of a long run at a width; returns its lines."""

    def render(width, step, doing=()):
        console = Console(width=width, file=io.StringIO(), force_terminal=False)
        view = LiveObserver(console, "attenmixer on diginetica-srgnn, seed 1 (1 of 3), without attention", 3.0)
        view.clock.begin(0, 60_000, 6_474)
        view.step(step, 6.5, 1.0, 1e-3)
        row = {"matrix": "readout.attend_query", "role": "attention", "shape": [256, 256], "numel": 4, "block": ""}
        view.density(step, [{**row, "kept": {"3": 3}}])
        if doing:
            view.evaluating(*doing)
        console.print(view.render())
        return console.file.getvalue().splitlines()

    return render


def test_at_80_columns_nothing_wraps(shown):
    title, progress, facts, _, _, row = shown(80, 30_000)
    assert title.strip() == "attenmixer on diginetica-srgnn, seed 1 (1 of 3), without attention"
    assert "step 30,000/60,000  epoch 4.63" in progress and progress.rstrip().endswith("left")
    assert facts.split() == ["loss", "6.500", "KL", "weight", "1.00", "learning", "rate", "1.0e-03"]
    assert "0.750  ██████████████████" in row
    for split in ("test, propagation zero", "valid, for the summary"):
        ranking = shown(80, 30_000, (split, 10_000, 60_858))
        assert f"ranking {split} 10,000/60,858, 0 s left" in ranking[1] and len(ranking) == 6


def test_at_the_end_it_says_how_long_it_took(shown):
    assert "took 0 s" in shown(120, 60_000)[1]


def test_a_file_is_told_how_far_a_long_evaluation_is(monkeypatch):
    console = Console(file=io.StringIO(), force_terminal=False)
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    view = PlainObserver(console, "srgnn")
    for done in range(0, 1_001, 100):  # a batch in 4 s
        view.evaluating("test", done, 1_000)
        now[0] += 4
    told = [(300, 28), (600, 16), (900, 4)]
    assert console.file.getvalue().splitlines() == [
        f"srgnn: ranking test {done}/1,000, {left} s left" for done, left in told
    ]
