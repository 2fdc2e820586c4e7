"""The live view as a terminal shows it: it fits, and says how far a run is."""

import io
import time
from pathlib import Path

import pytest
from rich.console import Console

from dissect.progress import LiveObserver, PlainObserver, console, density_table, telling


@pytest.fixture
def shown(tmp_path):
    """Renders a view of a long run at a width; returns its lines."""
    now = [100.0]

    def render(width, step, doing=()):
        console = Console(width=width, file=io.StringIO(), force_terminal=False, get_time=lambda: now[0])
        view = LiveObserver(console, "attenmixer on diginetica-srgnn, seed 1 (1 of 3), without attention", 3.0)
        view.begin(tmp_path, 0, 60_000, 6_474)
        row = {"matrix": "readout.attend_query", "role": "attention", "shape": [256, 256], "numel": 4, "block": ""}
        view.density(step, [{**row, "kept": {"3": 3}}])
        for done in (step // 2, step):
            now[0] += 60
            view.step(done, 6.5, 1.0, 1e-3)
        if doing:
            split, done, total = doing
            for ranked in (0, done // 2, done):
                now[0] += 1
                view.evaluating(split, ranked, total)
        view.live.stop()
        console.file = io.StringIO()
        console.print(view.render())
        return console.file.getvalue().splitlines()

    return render


def test_at_80_columns_nothing_wraps(shown):
    title, progress, facts, _, _, row = shown(80, 30_000)
    assert title.strip() == "attenmixer on diginetica-srgnn, seed 1 (1 of 3), without attention"
    assert progress.startswith("step ━") and progress.rstrip().endswith(" 30,000/60,000, left 0:02:00")
    assert facts.strip() == "epoch 4.63  loss 6.500  KL weight 1.00  learning rate 1.0e-03"
    assert "0.750 ██████████████████" in row
    for split in ("test, propagation zero", "valid, for the summary"):
        ranking = shown(80, 30_000, (split, 10_000, 60_858))
        assert ranking[2].startswith(f"ranking {split} ━━╸") and len(ranking) == 7
        assert ranking[2].rstrip().endswith(" 10,000/60,858, left 0:00:11")


def test_names_are_no_markup(monkeypatch):
    monkeypatch.setattr("sys.stderr", io.StringIO())
    screen = console()
    row = {"role": "other", "shape": [2, 2], "numel": 4, "block": "", "kept": {"3": 3}}
    names = ("emb[/x].weight", "emb[user].weight", "emb[bold].weight")
    screen.print(density_table([{**row, "matrix": name} for name in names], 3.0))
    with telling("emb[/x]") as tell:
        tell("emb[/y]", 1, 2)
    assert all(name in screen.file.getvalue() for name in names)


def test_at_the_end_it_says_how_long_it_took(shown):
    assert shown(120, 60_000)[1].rstrip().endswith(" 60,000/60,000, took 0:02:00")


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
        f"srgnn: ranking test {done}/1,000, 0:00:{left:02d} left" for done, left in told
    ]


def test_what_is_being_done_is_told_in_lines_where_there_is_no_terminal(monkeypatch):
    screen, clock = Console(file=io.StringIO(), width=80), [0.0]
    monkeypatch.setattr("dissect.progress.console", lambda quiet=False: screen)
    monkeypatch.setattr("time.monotonic", lambda: clock[0])
    with telling("seed 1") as tell:
        for seconds, what, done in ((4, "Fisher", 10), (12, "Fisher", 50), (14, "curves", 0), (30, "curves", 25)):
            clock[0] = seconds
            tell(what, done, 100)
    assert screen.file.getvalue().splitlines() == [
        "seed 1: Fisher 50/100, 0:00:10 left",
        "seed 1: curves 25/100, 0:00:48 left",
    ]


def test_the_time_left_is_told_once_it_is_known(monkeypatch):
    """The first that is heard of a ranking is that its first batch is done; how long that took, nobody has measured."""
    screen, now = Console(file=io.StringIO(), width=80), [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    monkeypatch.setattr("dissect.progress.console", lambda quiet=False: screen)
    view = PlainObserver(screen, "srgnn")
    with telling("files") as tell:
        for done in (10, 20):
            now[0] += 12
            view.evaluating("test", done, 1_000)
            tell("sessions", done, 1_000)
    assert screen.file.getvalue().splitlines() == [
        "files: sessions 10/1,000",
        "srgnn: ranking test 20/1,000, 0:19:36 left",
        "files: sessions 20/1,000, 0:19:36 left",
    ]


@pytest.mark.parametrize(("step", "said"), [(0, ["srgnn: beginning 60 steps, 10 an epoch, in runs/x/s1"]), (60, [])])
def test_a_training_that_is_at_its_end_neither_begins_nor_continues(step, said):
    """It may have been stopped while its final ranking ran."""
    console = Console(file=io.StringIO(), force_terminal=False)
    PlainObserver(console, "srgnn").begin(Path("runs/x/s1"), step, 60, 10)
    assert console.file.getvalue().splitlines() == said
    live = LiveObserver(Console(file=io.StringIO(), force_terminal=False), "srgnn")
    live.begin(Path("runs/x/s1"), step, 60, 10)
    live.live.stop()
    assert "ontinuing" not in live.console.file.getvalue()
