"""Observers of a user: told everything, unable to change the outcome; and the examples of docs/tracking.md."""

import json
import re
import shutil
import subprocess
import sys
import types
from pathlib import Path
from typing import ClassVar

import pytest
import torch

import dissect
from dissect.errors import DissectError, UsageError
from dissect.training.observers import GOES_ON
from dissect.training.resume import Interrupted

PAGE = (Path(__file__).resolve().parent.parent / "docs" / "tracking.md").read_text()
TINY = {"dim": 8, "max_steps": 12, "device": "cpu", "quiet": True}


@pytest.fixture(scope="module")
def tiny():
    demo = dissect.load("demo")
    return dissect.Dataset("tiny", demo.n_items, demo.train.part(0, 150), demo.test.part(0, 40))


@pytest.fixture(scope="module")
def plain(tiny, tmp_path_factory):
    """A dissection of two seeds, without an observer. Read it only."""
    return dissect.run("srgnn", tiny, seeds=(1, 2), runs_dir=tmp_path_factory.mktemp("plain") / "runs", **TINY)


@pytest.fixture(autouse=True)
def scratch(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


class Heard(dissect.Observer):
    """Keeps what it is told, by title."""

    told: ClassVar[dict[str, list]] = {}

    def __init__(self, title):
        super().__init__(title)
        self.told[title] = []

    def hear(self, *what):
        self.told[self.title].append(what)

    def begin(self, *what):
        self.hear("begin", *what)

    def step(self, *what):
        self.hear("step", *what)

    def density(self, *what):
        self.hear("density", *what)

    def evaluated(self, *what):
        self.hear("evaluated", *what)

    def end(self):
        self.hear("end")


class Meddler(dissect.Observer):
    """Draws random numbers, and spoils what it gets."""

    def step(self, step, loss, kl_weight, lr):
        torch.manual_seed(step)
        torch.rand(7)

    def density(self, step, rows):
        for row in rows:
            row.clear()

    def evaluating(self, what, done, total):
        torch.rand(3)

    def evaluated(self, split, step, values):
        values.clear()


def records(group):
    """What a group holds of seed 1, without what tells the time."""
    found = {}
    for path in sorted(group.path.rglob("s1/**/*")):
        name = str(path.relative_to(group.path))
        if path.suffix == ".jsonl":
            found[name] = [{**json.loads(line), "seconds": 0} for line in path.read_text().splitlines()]
        elif path.suffix == ".npz":
            found[name] = path.read_bytes()
        elif path.name == "last.pt":
            found[name] = {k: v.tolist() for k, v in torch.load(path, weights_only=True)["model"].items()}
    return found


def test_it_is_told_of_every_seed_what_the_records_say(tiny):
    Heard.told.clear()
    group = dissect.run("srgnn", tiny, seeds=(1, 2), observe=Heard, **TINY)
    titles = [f"srgnn on tiny, seed {seed} ({seed} of 2)" for seed in (1, 2)]
    assert list(Heard.told) == [*titles, *(f"{title}, without SparseVD" for title in titles)]
    for (title, told), run in zip(Heard.told.items(), [*group.runs(), *group.runs("without-sparsevd")], strict=True):
        assert told[0][:3] == ("begin", run, 0) and told[-1] == ("end",), title
        assert [what[0] for what in told].count("begin") == [what[0] for what in told].count("end") == 1
        lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        steps = [(x["step"], x["ce"], x["kl_weight"], x["lr"]) for x in lines if x["kind"] == "train"]
        assert [what[1:] for what in told if what[0] == "step"] == steps
        ranked = [(x["split"], x["step"], x["hr@20"]) for x in lines if x["kind"] == "eval"]
        assert [(what[1], what[2], what[3]["hr@20"]) for what in told if what[0] == "evaluated"] == ranked
        rows = [json.loads(line) for line in (run / "density.jsonl").read_text().splitlines()]
        heard = [{"schema": 1, **row} for what in told if what[0] == "density" for row in what[2]]
        assert json.loads(json.dumps(heard)) == rows and bool(rows) == ("without" not in title)
        assert dissect.open_group(run) == group


def test_results_are_the_same_bit_for_bit_with_and_without_one(tiny, plain):
    how = {"seeds": (1,), "patience": 1, **TINY, "max_steps": 24}
    unwatched = records(dissect.train("narm", tiny, runs_dir="plain", **how))
    assert len(unwatched) >= 3
    assert records(dissect.train("narm", tiny, runs_dir="watched", observe=Meddler, **how)) == unwatched
    watched = records(dissect.run("srgnn", tiny, seeds=(1,), runs_dir="watched", observe=Meddler, **TINY))
    assert watched == records(plain) and len(watched) >= 6


def test_an_exception_stops_the_run_with_a_note_and_the_same_call_goes_on(tiny, plain):
    class Broken(Heard):
        def step(self, step, *rest):
            if step == 7:
                raise ConnectionError("no route to the server")

    Heard.told.clear()
    how = {"seeds": (1,), "runs_dir": "watched", **TINY}
    with pytest.raises(ConnectionError, match="no route") as raised:
        dissect.run("srgnn", tiny, observe=Broken, **how)
    assert raised.value.__notes__ == [f"Raised by the observer Broken, in step(). {GOES_ON}"]
    assert Heard.told["srgnn on tiny, seed 1"][-1] == ("end",)
    assert records(dissect.run("srgnn", tiny, observe=Heard, **how)) == records(plain)


def test_the_note_does_not_blame_a_model_of_the_same_file(tiny, tmp_path):
    (tmp_path / "own.py").write_text(
        "import dissect\nfrom models import SRGNN\n\n\nclass Own(SRGNN):\n    def candidates(self, S):\n"
        "        return super().candidates(S)\n\n\nclass Watch(dissect.Observer):\n"
        "    def step(self, *what):\n        raise ValueError('mine')\n"
    )
    names: dict = {"__name__": "own"}
    exec(compile((tmp_path / "own.py").read_text(), str(tmp_path / "own.py"), "exec"), names)
    with pytest.raises(ValueError, match="mine") as raised:
        dissect.train("own.py:Own", tiny, observe=names["Watch"], **TINY)
    assert not isinstance(raised.value, DissectError) and "Watch, in step()" in raised.value.__notes__[0]


def test_every_observer_ends_even_if_one_of_them_cannot(tiny, capsys, monkeypatch):
    class Stuck(dissect.Observer):
        def end(self):
            raise RuntimeError("cannot close")

    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    with pytest.raises(RuntimeError, match="cannot close"):
        dissect.train("srgnn", tiny, observe=Stuck, **{**TINY, "quiet": False})
    said = capsys.readouterr().err
    assert "srgnn on tiny, seed 1" in said and "12/12" in said  # the progress is shown beside it
    assert len(dissect.train("srgnn", tiny, **TINY).runs()) == 1  # it was finished


def test_an_interruption_ends_it_too(tiny):
    class Stop(Heard):
        def step(self, step, *rest):
            if step == 5:
                raise KeyboardInterrupt

    Heard.told.clear()
    with pytest.raises((KeyboardInterrupt, Interrupted)):
        dissect.train("srgnn", tiny, observe=Stop, **TINY)
    assert [what[0] for what in Heard.told["srgnn on tiny, seed 1"]] == ["begin", "end"]


def test_what_is_no_observer_is_said(tiny):
    with pytest.raises(UsageError, match=r"observe is a class derived from dissect\.Observer"):
        dissect.train("srgnn", tiny, observe=3, **TINY)
    with pytest.raises(UsageError, match="observe made NoneType, which is no observer") as raised:
        dissect.train("srgnn", tiny, observe=lambda title: None, **TINY)
    assert raised.value.hint == "Derive a class from dissect.Observer, and give the class: observe=Mine"
    with pytest.raises(UsageError, match="jobs=2 needs the observer in a file"):
        dissect.train("srgnn", tiny, observe=lambda title: dissect.Observer(), seeds=(1, 2), jobs=2, **TINY)


# --- docs/tracking.md --------------------------------------------------------------------------------------


def stand_ins():
    """Modules with the signatures that the services have, which note the calls."""
    calls = []

    class WandbRun:
        def log(self, data, step=None, commit=None):
            calls.append(("log", data, step))

        def finish(self, exit_code=None):
            calls.append(("end",))

    def wandb_init(entity=None, project=None, dir=None, id=None, name=None, config=None, group=None):
        calls.append(("begin", name, config))
        return WandbRun()

    def trackio_init(project, name=None, group=None, space_id=None, config=None, resume="never"):
        calls.append(("begin", name, config))

    def trackio_log(metrics, step=None):
        calls.append(("log", metrics, step))

    def set_experiment(experiment_name=None, experiment_id=None):
        pass

    def start_run(run_id=None, experiment_id=None, run_name=None, nested=False):
        calls.append(("begin", run_name))

    def log_params(params, synchronous=None, run_id=None):
        calls[-1] = (*calls[-1], params)

    def log_metrics(metrics, step=None, synchronous=None, run_id=None, timestamp=None):
        assert all(re.fullmatch(r"[\w\-. :/]+", name) for name in metrics)  # what MLflow allows
        calls.append(("log", metrics, step))

    def end():
        calls.append(("end",))

    def end_run(status="FINISHED"):
        calls.append(("end",))

    of_mlflow = [set_experiment, start_run, log_params, log_metrics, end_run]
    modules = {
        "wandb": types.SimpleNamespace(init=wandb_init),
        "mlflow": types.SimpleNamespace(**{function.__name__: function for function in of_mlflow}),
        "trackio": types.SimpleNamespace(init=trackio_init, log=trackio_log, finish=end),
    }
    return modules, calls


def test_the_examples_of_the_page_call_the_services_as_they_can_be_called(tiny, monkeypatch, capsys):
    monkeypatch.setattr("dissect.api.load", lambda name: tiny)  # quicker to rank than demo
    blocks = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    names: dict = {"__name__": "notebook"}
    modules, calls = stand_ins()
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    exec(compile(blocks[0], "docs/tracking.md", "exec"), names)
    printed = capsys.readouterr().out
    assert "srgnn on tiny, seed 1 1 {'train/loss': " in printed and "'density/shadow." in printed
    for block, name in zip(blocks[1:], modules, strict=True):
        calls.clear()
        exec(compile(block, "docs/tracking.md", "exec"), names)
        begun = [call for call in calls if call[0] == "begin"]
        assert [call[1] for call in begun] == ["srgnn on tiny, seed 1"], name  # the matched dense model is copied
        assert all(call[2]["max_steps"] == 2 and call[2]["model_options"]["dim"] == 8 for call in begun)
        assert [call[0] for call in calls].count("end") == 1 and calls[-1] == ("end",)
        numbers = {key for call in calls if call[0] == "log" for key in call[1]}
        assert {"train/loss", "test/mrr_20", "valid/hr_5", "density/control.rolled"} <= numbers
        assert all(isinstance(value, float) for call in calls if call[0] == "log" for value in call[1].values())
        steps = [call[2] for call in calls if call[0] == "log"]
        assert steps == sorted(steps) and set(steps) == {0, 1, 2}


def test_a_line_is_flat_and_sqlite_reads_it(plain):
    shutil.copytree(plain.path.parent, "runs")
    group = dissect.open_group(Path("runs") / plain.path.name)
    first = json.loads((group.runs()[0] / "density.jsonl").read_text().splitlines()[0])
    for value in first.values():  # flat, once the counts by threshold are columns
        assert isinstance(value, (str, int, float, list, dict))
        assert not isinstance(value, dict) or all(isinstance(count, int) for count in value.values())
    if shutil.which("sqlite-utils", path=str(Path(sys.executable).parent)) is None:
        pytest.skip("sqlite-utils is not installed")
    commands = re.findall(r"```bash\n(.*?)```", PAGE, re.DOTALL)
    assert len(commands) == 2
    path = f"PATH={Path(sys.executable).parent}:$PATH; set -e\n"
    said = [
        subprocess.run(["bash", "-c", path + line.replace("srgnn-demo", "srgnn-tiny")], capture_output=True, text=True)
        for line in commands
    ]
    assert [done.returncode for done in said] == [0, 0], [done.stderr for done in said]
    shown = dict(re.findall(r"^([\w.]+) +([\d.e-]+)$", said[0].stdout, re.MULTILINE))
    density = group.density()
    last = density[(density["seed"] == 1) & (density["step"] == density["step"].max())]
    assert {name: float(value) for name, value in shown.items()} == pytest.approx(
        dict(zip(last["matrix"], last["density"])), rel=1e-5
    )
    by_role = re.findall(r"^ +([12]) +(\w+) +([\d.e-]+)$", said[1].stdout, re.MULTILINE)
    want = density[density["step"] == density["step"].max()].groupby(["seed", "role"])[["kept", "size"]].sum()
    assert {(int(seed), role): float(value) for seed, role, value in by_role} == pytest.approx(
        (want["kept"] / want["size"]).to_dict(), rel=1e-5
    )
