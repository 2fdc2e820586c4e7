"""Events for TensorBoard, read back by its own reader and set beside the records of the run."""

import json
import shutil
import sys
from datetime import datetime
from itertools import pairwise

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import dissect
from dissect.errors import DataError, UsageError
from dissect.experiment import tensorboard


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder of runs with a dissected group, and one beside it without a matched dense model."""
    folder = tmp_path_factory.mktemp("made") / "runs"
    demo = dissect.load("demo")
    tiny = dissect.Dataset("tiny", demo.n_items, demo.train.part(0, 300), demo.test.part(0, 100))
    how = {"dim": 8, "max_steps": 12, "device": "cpu", "quiet": True, "runs_dir": folder}
    group = dissect.run("srgnn", tiny, seeds=(1, 2), kl_weight=3.0, **how)
    dissect.train("pop", tiny, runs_dir=folder, quiet=True)
    return group.path


@pytest.fixture
def group(made, typed, tmp_path):
    """The group, in a folder of runs of the test's own."""
    shutil.copytree(made.parent, tmp_path / "runs")
    return tmp_path / "runs" / made.name


def events(folder):
    found = EventAccumulator(str(folder), size_guidance={"scalars": 0, "histograms": 0})
    found.Reload()
    return found


def lines(run, name):
    return [json.loads(line) for line in (run / name).read_text().splitlines()]


def scalars(found, tag):
    return {event.step: event.value for event in found.Scalars(tag)}


@pytest.mark.parametrize("place", ["s1", "without-sparsevd/s2"])
def test_the_events_hold_what_the_records_hold(group, tmp_path, place):
    run = group / place
    tensorboard.export(run, tmp_path / "board")
    found, metrics = events(tmp_path / "board"), lines(run, "metrics.jsonl")
    trained = [line for line in metrics if line["kind"] == "train"]
    assert len(trained) == 12
    for tag, name in {
        "loss/cross_entropy": "ce",
        "loss/kl": "kl",
        "loss/total": "loss",
        "schedule/kl_weight": "kl_weight",
        "schedule/learning_rate": "lr",
    }.items():
        assert scalars(found, tag) == pytest.approx({line["step"]: line[name] for line in trained}, rel=1e-6)
    ranked = [line for line in metrics if line["kind"] == "eval"]
    assert {line["split"] for line in ranked} == {"test", "valid"}
    for split in ("test", "valid"):
        for k in (5, 10, 20):
            for metric in ("hr", "mrr"):
                want = {line["step"]: line[f"{metric}@{k}"] for line in ranked if line["split"] == split}
                assert scalars(found, f"{split}/{metric}_{k}") == pytest.approx(want, rel=1e-6)
    assert (tmp_path / "board" / "shadow").exists() == (place == "s1")


def test_each_density_stands_beside_that_of_its_shadow(group, tmp_path):
    run = group / "s1"
    folders = tensorboard.export(run, tmp_path / "board")
    assert folders == [tmp_path / "board", tmp_path / "board" / "shadow"]
    own, shadows = map(events, folders)
    whole = [line for line in lines(run, "density.jsonl") if not line["block"]]
    names = {line["matrix"] for line in whole}
    assert any(name.startswith("shadow.") for name in names) and "control.rolled" in names
    seen = 0
    for name in names:
        found, tag = (shadows, name.removeprefix("shadow.")) if name.startswith("shadow.") else (own, name)
        of = [line for line in whole if line["matrix"] == name]
        want = {line["step"]: line["kept"]["3"] / line["numel"] for line in of}
        assert scalars(found, f"density/{tag}") == pytest.approx(want, rel=1e-6)
        seen += 1
    tags = [set(found.Tags()["scalars"]) for found in (own, shadows)]
    assert sum(tag.startswith("density/") for tag in tags[0] | tags[1]) < seen  # one chart for a matrix and its shadow
    assert tags[1] < tags[0]


def test_histograms_hold_the_counts_at_their_edges(group, tmp_path):
    """An oracle without bins: each bucket lies between its limit and the one before."""
    run = group / "s1"
    tensorboard.export(run, tmp_path / "board")
    found = events(tmp_path / "board")
    of = [line for line in lines(run, "density.jsonl") if line["matrix"] == "readout.q_last" and not line["block"]]
    of = of or [line for line in lines(run, "density.jsonl") if line["module"] == "readout" and not line["block"]]
    name = of[0]["matrix"]
    of = [line for line in of if line["matrix"] == name]
    told = found.Histograms(f"log_alpha/{name}")
    assert [event.step for event in told] == [line["step"] for line in of] and len(of) > 5
    for event, line in zip(told, of, strict=True):
        value, hist = event.histogram_value, line["log_alpha_hist"]
        assert list(value.bucket) == hist and value.num == line["numel"] == sum(hist)
        assert value.bucket_limit[0] == -20 and value.bucket_limit[160] == 20
        assert {round(after - before, 9) for before, after in pairwise(value.bucket_limit)} == {0.25}
        for t in ("0.5", "1", "2", "3", "4"):  # counts below a threshold, by the record's own other count
            below = sum(n for n, edge in zip(value.bucket, value.bucket_limit) if edge <= float(t))
            assert below == line["kept"][t]
        filled = np.flatnonzero(hist)
        assert value.max == value.bucket_limit[filled[-1]] and value.min == value.bucket_limit[filled[0]] - 0.25
        assert value.min <= value.sum / value.num <= value.max
        assert value.sum_squares / value.num >= (value.sum / value.num) ** 2


def test_wall_times_begin_with_the_run_and_pass_with_the_training(group, tmp_path):
    run = group / "s1"
    tensorboard.export(run, tmp_path / "board")
    began = datetime.fromisoformat(json.loads((run / "environment.json").read_text())["started"]).timestamp()
    told = events(tmp_path / "board").Scalars("loss/total")
    spent = {line["step"]: line["seconds"] for line in lines(run, "metrics.jsonl") if line["kind"] == "train"}
    assert {event.step: event.wall_time - began for event in told} == pytest.approx(spent, abs=1e-5)
    density = events(tmp_path / "board").Scalars("density/control.rolled")
    assert density[0].wall_time == began and density[-1].wall_time == pytest.approx(told[-1].wall_time)


def test_settings_are_hyperparameters(group, tmp_path):
    tensorboard.export(group / "s2", tmp_path / "board")
    found = events(tmp_path / "board").summary_metadata
    start = found["_hparams_/session_start_info"].plugin_data.content
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

    told = HParamsPluginData.FromString(start).session_start_info.hparams
    assert told["kl_weight"].number_value == 3.0 and told["model.dim"].number_value == 8
    assert told["model"].string_value == "srgnn" and told["seed"].number_value == 2 and told["shadows"].number_value


def test_the_command_writes_a_folder_for_each_run_and_replaces_it(group, typed):
    code, out, err = typed("tensorboard", group.name)
    board = f"runs/tensorboard/{group.name}"
    assert code == 0 and err == "See them: tensorboard --logdir runs/tensorboard\n"
    assert out.splitlines() == [
        f"{board}/{place}" for place in ("s1", "s2", "without-sparsevd/s1", "without-sparsevd/s2")
    ]
    folder = group.parent / "tensorboard" / group.name / "s1"
    first = {path.name for path in folder.rglob("events*")}
    assert typed("tensorboard", f"{group.name}/s1", "--quiet")[::2] == (0, "")
    again = {path.name for path in folder.rglob("events*")}
    assert len(first) == len(again) == 2 and not first & again
    assert scalars(events(folder), "loss/total")
    assert typed("compare", group.name)[0] == 0  # the folder of events is no group


def test_a_baseline_has_its_accuracy(group, typed, tmp_path):
    assert typed("tensorboard", "pop", "--out", "board")[0] == 0
    (folder,) = (tmp_path / "board").glob("*/s1")
    (test, *_) = lines(next(group.parent.glob("pop*")) / "s1", "metrics.jsonl")
    assert scalars(events(folder), "test/mrr_20") == pytest.approx({0: test["mrr@20"]}, rel=1e-6)


def test_two_groups_of_one_name_are_not_written_over_each_other(group, typed, tmp_path):
    shutil.copytree(group, tmp_path / "b" / group.name)
    code, out, err = typed("tensorboard", str(group), f"b/{group.name}", "--out", "board")
    assert code == 2 and "have one name" in err and not out and not (tmp_path / "board").exists()
    assert typed("tensorboard", str(group), f"runs/{group.name}/s1", "--out", "board")[0] == 0  # it is the same one


def test_an_unfinished_run_is_written_as_far_as_it_went(group, tmp_path):
    run = group / "s1"
    (run / "DONE").unlink()
    kept = (run / "metrics.jsonl").read_text().splitlines(keepends=True)[:4]
    (run / "metrics.jsonl").write_text("".join(kept) + kept[0][:20])  # a line that is being written
    tensorboard.export(run, tmp_path / "board")
    assert list(scalars(events(tmp_path / "board"), "loss/total")) == [1, 2, 3, 4]


def test_what_cannot_be_written_is_said(group, typed, tmp_path, monkeypatch):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("mine")
    with pytest.raises(UsageError, match=r"do not belong to events of dissect: thesis\.txt"):
        tensorboard.export(group / "s1", tmp_path / "mine")
    assert (tmp_path / "mine" / "thesis.txt").exists()
    theirs = tmp_path / "theirs" / "events.out.tfevents.1700000000.host.7.0"  # of another program
    theirs.parent.mkdir()
    theirs.write_bytes(b"weeks of work")
    with pytest.raises(UsageError, match=r"do not belong to events of dissect: events\.out"):
        tensorboard.export(group / "s1", theirs.parent)
    assert list(theirs.parent.iterdir()) == [theirs] and theirs.read_bytes() == b"weeks of work"
    for place in ("metrics.jsonl", "density.jsonl"):
        (group / "s2" / place).unlink()
    code, _, err = typed("tensorboard", f"{group.name}/s2")
    assert code == 3 and "has no record of a training yet" in err
    code, _, err = typed("tensorboard", "nothing")
    assert code == 2 and "no group named 'nothing'" in err
    lines = (group / "s1" / "density.jsonl").read_text().splitlines(keepends=True)
    (group / "s1" / "density.jsonl").write_text(lines[0] + lines[1].replace('"numel"', '"number"') + lines[2])
    with pytest.raises(DataError, match=r"density\.jsonl, line 2, is damaged"):
        tensorboard.export(group / "s1", tmp_path / "board")
    assert not (tmp_path / "board").exists()
    code, out, err = typed("tensorboard", group.name)  # the others are written all the same
    assert code == 0 and "Left out: " in err and len(out.splitlines()) == 2
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    code, _, err = typed("tensorboard", group.name)
    assert code == 2 and "needs the package tensorboard" in err and 'pip install -e ".[tensorboard]"' in err


def test_a_histogram_that_counts_other_weights_is_refused(group, tmp_path):
    copied = shutil.copytree(group, tmp_path / group.name)
    path = copied / "s1" / "density.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    rows[0]["log_alpha_hist"] = [0] * len(rows[0]["log_alpha_hist"])
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    with pytest.raises(DataError, match="it counts 0 of"):
        tensorboard.export(copied / "s1", tmp_path / "board")
    assert not (tmp_path / "board").exists()
