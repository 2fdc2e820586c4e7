"""Runs that are killed, that find the disk full, or are asked to stop at a bad moment end with the same numbers."""

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from dissect.data.sessions import Dataset, Sessions
from dissect.errors import DataError, DissectError
from dissect.runs import files, folders
from dissect.runs.config import Config
from dissect.training import checkpoint, loop
from dissect.training.checkpoint import latest_checkpoint, load_checkpoint, save_checkpoint
from dissect.training.loop import fit
from dissect.training.record import Observer
from dissect.training.resume import Interrupted
from models import SRGNN

ROOT = Path(__file__).resolve().parent.parent

# Imports torch once and forks a process for each life of a run, with a checkpoint at every step. Arguments: a folder,
# the configuration, what ends the lives ("kill" or "disk"), their number, and a seed for the moments.
DRIVER = """
import json, os, random, resource, signal, sys, time, traceback
from pathlib import Path

import torch

from dissect.data import catalog
from dissect.data.sessions import Dataset
from dissect.errors import DissectError
from dissect.runs.files import read_jsonl
from dissect.runs.folders import is_done
from dissect.training import loop
from dissect.training.checkpoint import latest_checkpoint
from dissect.runs.config import Config
from dissect.training.record import Observer
from models import SRGNN

folder, settings, how, lives, seed = Path(sys.argv[1]), json.loads(sys.argv[2]), *sys.argv[3:]
demo = catalog.load("demo")
data = Dataset("part", demo.n_items, demo.train.part(0, 600), demo.test.part(0, 100))
config = Config("srgnn", "part", data.split_hash, {"dim": 4}, **settings)
loop.CHECKPOINT_SECONDS = 0.0
torch.set_num_threads(1)
torch.optim.Adam([torch.zeros(1)]).zero_grad()  # imports much, once for all lives
moments = random.Random(int(seed))


class Begun(Observer):
    def __init__(self, pipe):
        self.pipe = pipe

    def begin(self, *_):
        os.write(self.pipe, b".")


def live(name, limit=resource.RLIM_INFINITY):
    '''Train in a process of its own; returns its id and a file that can be read once training goes on.'''
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        code = 0
        os.close(reading)
        try:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
            loop.fit(lambda: SRGNN(data.n_items, 4), data, config, folder / name, seed=1, observer=Begun(writing))
        except DissectError as error:
            code = 7
            assert "Could not write" in error.message, error.message
        except BaseException:
            traceback.print_exc()
            code = 99
        os._exit(code)
    os.close(writing)
    return child, reading


def end_of(child, reading):
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    os.close(reading)
    return code


began = time.monotonic()
assert end_of(*live("whole")) == 0
whole = time.monotonic() - began
ends = []
for number in range(int(lives)):
    if how == "disk":  # each time a little more room for every file
        largest = max(path.stat().st_size for path in (folder / "whole").rglob("*"))
        ends.append(end_of(*live("stopped", int(largest * moments.uniform(number, number + 1) / int(lives)))))
    else:
        child, reading = live("stopped")
        if number % 4:  # else at some moment of the start
            os.read(reading, 1)
            time.sleep(moments.uniform(0, whole / int(lives)))
        else:
            time.sleep(moments.uniform(0, 0.2))
        os.kill(child, signal.SIGKILL)
        ends.append(end_of(child, reading))
    run = folder / "stopped"
    read_jsonl(run / "metrics.jsonl"), read_jsonl(run / "density.jsonl")
    latest_checkpoint(run / "checkpoints" / "last.pt")
    if is_done(run):
        break
last = end_of(*live("stopped"))
print(json.dumps({"ends": ends, "last": last}))
"""

SPARSE = {"max_steps": 60, "batch_size": 500}
DENSE = {"max_steps": 60, "batch_size": 500, "where": "none", "select": "mrr@20", "schedule": "steps", "lr": 0.02}


def drive(folder, settings, how, lives, seed=0):
    """Run DRIVER; returns how each life ended. The folders are `whole` and `stopped`."""
    words = [sys.executable, "-c", DRIVER, str(folder), json.dumps(settings), how, str(lives), str(seed)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(words, capture_output=True, text=True, cwd=ROOT, env=environment, timeout=600)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["last"] == 0 and 99 not in result["ends"], done.stderr
    return result["ends"]


def without_seconds(values):
    return {key: value for key, value in values.items() if key != "seconds"}


def leaves(value):
    """Tensors and primitives of a checkpoint, tensors as bytes, without what depends on how long it took."""
    if isinstance(value, dict):
        return {k: leaves(v) for k, v in value.items() if k not in ("seconds", "metrics_size")}
    if isinstance(value, list | tuple):
        return [leaves(v) for v in value]
    return value.numpy().tobytes() if isinstance(value, torch.Tensor) else value


def assert_same_run(run, whole):
    """Every number of two finished runs is the same to the bit, and nothing half-written lies about."""
    assert folders.is_done(run) and folders.is_done(whole)
    for name in ("metrics.jsonl", "density.jsonl"):
        rows = [[without_seconds(row) for row in files.read_jsonl(folder / name)] for folder in (run, whole)]
        assert rows[0] == rows[1], name
    summaries = [without_seconds(files.read_json(folder / "summary.json")) for folder in (run, whole)]
    assert summaries[0] == summaries[1]
    names, of_run = (
        sorted(path.relative_to(folder) for path in folder.rglob("*") if path.suffix in (".npz", ".pt"))
        for folder in (whole, run)
    )
    known = [[name for name in each if not name.stem.endswith("-1")] for each in (names, of_run)]
    assert names and known[0] == known[1]
    for name in names:
        if name.suffix == ".npz":
            ranks = [folders.read_ranks(folder / name) for folder in (run, whole)]
            assert all(np.array_equal(ranks[0][key], ranks[1][key]) for key in ranks[1])
        elif not name.stem.endswith("-1"):
            assert leaves(load_checkpoint(run / name)) == leaves(load_checkpoint(whole / name)), name
    assert not [path for path in run.rglob(".*") if files.HALF_WRITTEN.fullmatch(path.name)]


@pytest.mark.parametrize(
    "more",
    [pytest.param({}, marks=pytest.mark.slow), {"shadows": True, "average": 0.8}],
    ids=["sparse", "shadows and averages"],
)
def test_a_run_that_is_killed_again_and_again(tmp_path, more):
    ends = drive(tmp_path, {**SPARSE, "max_steps": 20, **more}, "kill", 4)
    assert ends.count(-signal.SIGKILL) >= 3
    assert_same_run(tmp_path / "stopped", tmp_path / "whole")


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize("settings", [SPARSE, DENSE], ids=["sparse", "dense"])
def test_twenty_kills_at_random_moments(tmp_path, settings, seed):
    ends = drive(tmp_path, {**settings, "max_steps": 200}, "kill", 20, seed)
    assert ends.count(-signal.SIGKILL) >= 15
    assert_same_run(tmp_path / "stopped", tmp_path / "whole")


def test_a_disk_that_takes_no_more_of_any_file(tmp_path):
    ends = drive(tmp_path, {**SPARSE, "max_steps": 20}, "disk", 6)
    assert ends.count(7) >= 5
    assert_same_run(tmp_path / "stopped", tmp_path / "whole")


@pytest.mark.slow
@pytest.mark.parametrize("settings", [SPARSE, DENSE], ids=["sparse", "dense"])
def test_a_disk_that_is_full_forty_times(tmp_path, settings):
    ends = drive(tmp_path, settings, "disk", 40)
    assert ends.count(7) >= 30
    assert_same_run(tmp_path / "stopped", tmp_path / "whole")


# --- chosen moments, in this process -------------------------------------------------------------------------

V = 30


def small_data() -> Dataset:
    rng = np.random.default_rng(0)
    sessions = [rng.integers(1, V + 1, rng.integers(2, 7)).tolist() for _ in range(120)]
    return Dataset("small", V, Sessions.from_lists(sessions[:100]), Sessions.from_lists(sessions[100:]))


DATA = small_data()
CONFIG = Config("srgnn", "small", DATA.split_hash, {"dim": 4}, max_steps=24, batch_size=64)
CHOOSING = replace(CONFIG, where="none", select="mrr@20", schedule="steps", lr=0.02)


def train(folder, config=CONFIG, **more):
    return fit(lambda: SRGNN(V, 4), DATA, config, folder, seed=1, **more)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """{configuration: the folder of a run that nothing disturbed}"""
    folder = tmp_path_factory.mktemp("whole")
    train(folder / "last", CONFIG)
    train(folder / "best", CHOOSING)
    return {CONFIG.hash: folder / "last", CHOOSING.hash: folder / "best"}


class Killed(BaseException):
    """What no handler expects: the process is gone."""


def break_call(monkeypatch, module, name, number, error):
    """Let the `number`-th call of module.name raise; returns the calls seen so far."""
    real, calls = getattr(module, name), []

    def call(*arguments, **options):
        calls.append(arguments)
        if len(calls) == number:
            raise error
        return real(*arguments, **options)

    monkeypatch.setattr(module, name, call)
    return calls


@pytest.mark.parametrize("config", [CONFIG, CHOOSING], ids=["last", "best"])
@pytest.mark.parametrize("number", [1, 2, 3, 6])
@pytest.mark.parametrize("name", ["replace", "fsync"])
def test_no_rename_and_no_flush_is_a_bad_moment(whole, tmp_path, monkeypatch, config, name, number):
    for error in (OSError(28, "No space left on device"), Killed()):  # one after the other, in the same run
        calls = break_call(monkeypatch, os, name, number, error)
        with pytest.raises(Killed if isinstance(error, Killed) else DissectError) as stop:
            train(tmp_path / "s1", config)
        assert len(calls) == number
        assert isinstance(error, Killed) or "No space left" in stop.value.message
        monkeypatch.undo()
        files.read_jsonl(tmp_path / "s1" / "metrics.jsonl")
        latest_checkpoint(tmp_path / "s1" / "checkpoints" / "last.pt")
    train(tmp_path / "s1", config)
    assert_same_run(tmp_path / "s1", whole[config.hash])


@pytest.mark.parametrize("number", [1, 2, 4])
def test_sigterm_while_a_checkpoint_is_written(whole, tmp_path, monkeypatch, number):
    real, calls = torch.save, []

    def save(state, file):
        calls.append(file)
        if len(calls) == number:
            os.kill(os.getpid(), signal.SIGTERM)
        real(state, file)

    monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", 0.0)
    monkeypatch.setattr(checkpoint.torch, "save", save)
    with pytest.raises(Interrupted) as stop:
        train(tmp_path / "s1")
    assert stop.value.exit_code == 130 and len(calls) <= number + 1  # heard then, or one step later
    state, note = latest_checkpoint(tmp_path / "s1" / "checkpoints" / "last.pt")
    assert not note and f"step {state['state']['step']} of 24" in stop.value.message
    monkeypatch.undo()
    train(tmp_path / "s1")
    assert_same_run(tmp_path / "s1", whole[CONFIG.hash])


@pytest.mark.parametrize(
    ("config", "moment"),
    [
        (CONFIG, "valid"),
        (CONFIG, "test, gnn bypassed"),
        (CHOOSING, "test, for the summary"),
        (CHOOSING, "test, gnn bypassed"),
    ],
    ids=lambda value: value if isinstance(value, str) else value.select,
)
def test_sigterm_in_the_last_evaluation_is_heard(whole, tmp_path, config, moment):
    class Stop(Observer):
        def evaluating(self, what, done, total):
            if what == moment:
                os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(Interrupted):
        train(tmp_path / "s1", config, observer=Stop())
    assert not folders.is_done(tmp_path / "s1") and not (tmp_path / "s1" / "summary.json").exists()
    train(tmp_path / "s1", config)
    assert_same_run(tmp_path / "s1", whole[config.hash])


class OfTheEnd(Observer):
    """Notes what is evaluated after the last step, and stops the run in the `stop`-th such evaluation."""

    def __init__(self, stop=0):
        super().__init__()
        self.stop, self.now, self.seen = stop, 0, []

    def begin(self, run, step, steps, steps_per_epoch):
        self.now = step

    def step(self, step, loss, kl_weight, lr):
        self.now = step

    def evaluating(self, what, done, total):
        if self.now == CONFIG.max_steps:
            self.seen += [what] * (what not in self.seen)
            if len(self.seen) == self.stop:
                os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.parametrize(
    ("config", "number"),
    [(replace(CONFIG, shadows=True, average=0.8), 10), (CHOOSING, 7)],
    ids=["shadows and averages", "best"],
)
def test_a_resume_goes_on_with_the_next_evaluation(tmp_path, config, number):
    """Also where the time is enough for one evaluation only, and each evaluation is made once."""
    watch, made = OfTheEnd(), []
    train(tmp_path / "whole", config, observer=watch)
    assert len(watch.seen) == number
    for _ in watch.seen[1:]:
        life = OfTheEnd(stop=2)
        with pytest.raises(Interrupted):
            train(tmp_path / "s1", config, observer=life)
        made += life.seen[:1]
    last = OfTheEnd(stop=2)
    train(tmp_path / "s1", config, observer=last)
    assert made + last.seen == watch.seen
    assert_same_run(tmp_path / "s1", tmp_path / "whole")


@pytest.mark.parametrize("change", ["other weights", "damaged results"])
def test_what_was_evaluated_counts_for_the_same_weights_only(whole, tmp_path, change):
    run, end = tmp_path / "s1", OfTheEnd(stop=5)
    with pytest.raises(Interrupted):
        train(run, observer=end)
    kept, last = sorted(run.glob("checkpoints/evaluated/*.pt")), run / "checkpoints" / "last.pt"
    assert len(kept) == 4
    if change == "other weights":
        saved = load_checkpoint(last)
        saved["model"]["items"] = saved["model"]["items"].flip(1)
        save_checkpoint(last, saved)
    else:
        for path in kept:
            path.write_bytes(path.read_bytes()[:-1])
    again = OfTheEnd()
    train(run, observer=again)
    assert again.seen[:5] == end.seen
    if change == "damaged results":
        assert_same_run(run, whole[CONFIG.hash])
    else:
        tests = [files.read_json(folder / "summary.json")["test"] for folder in (run, whole[CONFIG.hash])]
        assert tests[0] != tests[1]


def test_a_checkpoint_with_a_wrong_byte_anywhere_is_noticed(tmp_path):
    """Also where torch reads on: one bit of the archive's index makes it take what memory holds for a tensor."""
    path = tmp_path / "last.pt"
    save_checkpoint(path, {"model": {"a": torch.ones(3), "b": torch.zeros(2, 2)}, "step": 3})
    data = path.read_bytes()
    for at in range(len(data)):
        path.write_bytes(data[:at] + bytes([data[at] ^ 1 << at % 8]) + data[at + 1 :])
        with pytest.raises(DataError, match=r"damaged|cannot be read"):
            load_checkpoint(path)
    for size in (0, 10, len(data) // 2, len(data) - 1):
        path.write_bytes(data[:size])
        with pytest.raises(DataError, match=r"damaged|cannot be read"):
            load_checkpoint(path)


def test_checkpoints_of_earlier_versions_can_be_read(tmp_path):
    state = {"model": {"a": torch.ones(3)}, "step": 3}
    torch.save({**state, "digest": "of another kind"}, tmp_path / "last.pt")
    assert leaves(load_checkpoint(tmp_path / "last.pt")) == leaves(state)
    torch.save(state, tmp_path / "last.pt")  # neither old nor new
    with pytest.raises(DataError, match="damaged"):
        load_checkpoint(tmp_path / "last.pt")


def test_a_folder_that_cannot_be_written_is_a_message(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DissectError, match="Could not write"):
        train(tmp_path / "file" / "s1")


def test_only_what_a_kill_left_half_written_is_cleared_away(tmp_path):
    run = tmp_path / "s1"
    (run / "checkpoints").mkdir(parents=True)
    gone = [run / ".summary.json.x1_y2z3w", run / "checkpoints" / "..new-last.pt.abcdefgh"]
    kept = [
        run / ".notes.txt",
        run / ".DS_Store",
        run / "checkpoints" / "last.pt",
        run / "checkpoints" / ".new-last.pt",
    ]
    for path in gone + kept:
        path.write_text("")
    with files.locked(run):
        assert not any(path.exists() for path in gone) and all(path.exists() for path in kept)
