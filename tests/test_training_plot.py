"""dissect plot training: the curves are the numbers on record, and the figure shows them."""

import json
import os

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner

from analyses.training import averaged, evaluated_on, over_seeds, training_table
from dissect.cli import main
from dissect.drawing import training
from dissect.errors import DataError
from dissect.runs import files, folders
from dissect.runs.config import Config
from dissect.runs.records import METRICS
from figures import training as figure


def loss(step, ce, seconds):
    return {"kind": "train", "step": step, "epoch": step / 10, "ce": ce, "loss": ce + 5, "seconds": seconds}


def evaluated(step, split, value):
    values = {metric: value / (1 if metric == "hr@20" else 3) for metric in METRICS}
    return {"kind": "eval", "split": split, "step": step, "epoch": step / 10, **values}


def make_run(root, seed, records, model="srgnn", variant="full", done=True, split="a" * 16, steps=20, **more):
    config = Config(model, "x", split, {"dim": 4}, where="none", max_steps=steps, **more)
    group = root / f"{model}-x-{config.hash}"
    files.write_toml(group / "config.toml", config.to_dict())
    run = folders.run_path(group, seed, variant)
    run.mkdir(parents=True)
    (run / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    if done:
        finish(run, seed)
    return group


def finish(run, seed):
    about = {"seed": seed, "protocol": "clean", "epochs": 2, "seconds": 1, "n_parameters": 1}
    files.write_json(run / "summary.json", {**about, "test": dict.fromkeys(METRICS, 0)})
    (run / "DONE").touch()


def records(offset=0.0, steps=20, split="valid"):
    lines = []
    for step in range(5, steps + 1, 5):
        lines.append(loss(step, 10 - step / 5 + offset, 60.0 * step))
        if step % 10 == 0:
            lines += [evaluated(step, part, step + offset) for part in dict.fromkeys(["test", split])]
    return lines


def test_means_and_ranges_over_seeds(tmp_path):
    make_run(tmp_path, 1, records())
    group = make_run(tmp_path / "other", 1, records(), model="other")
    group = make_run(tmp_path / "pair", 1, records())
    make_seed = group / "s2"
    make_seed.mkdir()
    (make_seed / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records(offset=2, steps=10)))
    finish(make_seed, 2)
    shown = over_seeds(training_table(group)).set_index(["curve", "split", "step"])
    at10, at20 = shown.loc[("HR@20", "valid", 10)], shown.loc[("HR@20", "valid", 20)]
    assert at10[["mean", "low", "high", "seeds"]].tolist() == [11, 10, 12, 2]
    assert at20[["mean", "low", "high", "seeds", "epoch", "minutes"]].tolist() == [20, 20, 20, 1, 2, 20]
    assert shown.loc[("loss", "train", 5)]["mean"] == 10  # the cross-entropy, not the loss with KL
    assert shown.loc[("MRR@20", "test", 20)]["mean"] == pytest.approx(20 / 3)


def test_an_evaluation_between_two_losses_takes_the_time_between_them(tmp_path):
    lines = [evaluated(2, "test", 1.0), loss(4, 1.0, 120.0), evaluated(6, "test", 1.0), loss(8, 1.0, 600.0)]
    table = training_table(make_run(tmp_path, 1, lines))
    minutes = table[table["curve"] == "HR@20"].set_index("step")["minutes"]
    assert (minutes[6], minutes[2]) == (6.0, 1.0)


def test_losses_are_averaged_by_the_steps_they_stand_for():
    rng = np.random.default_rng(0)
    by_step = rng.random(93)
    ends = np.unique([*rng.choice(np.arange(1, 93), 40, replace=False), 10, 20, 30, 40, 50, 60, 70, 80, 93])
    starts = [0, *ends[:-1]]
    lines = [loss(int(end), by_step[start:end].mean(), 1.0) for start, end in zip(starts, ends)]
    found = averaged(lines, 10)
    assert [record["step"] for record in found] == [10, 20, 30, 40, 50, 60, 70, 80, 93]  # no stretch of 3
    for record, begin, end in zip(found, range(0, 90, 10), [10, 20, 30, 40, 50, 60, 70, 80, 93]):
        assert record["ce"] == pytest.approx(by_step[begin:end].mean())
    assert averaged(lines[:1], 1000)[0]["ce"] == pytest.approx(lines[0]["ce"])


def test_seeds_that_go_on_count_only_where_none_is_finished(tmp_path):
    group = make_run(tmp_path, 1, records(steps=10), done=False)
    assert training_table(group)["seed"].unique().tolist() == [1]
    (group / "s3").mkdir()
    (group / "s3" / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records()))
    finish(group / "s3", 3)
    assert training_table(group)["seed"].unique().tolist() == [3]


def test_one_split_for_all_of_them(tmp_path):
    clean = training_table(make_run(tmp_path, 1, records()))
    paper = training_table(make_run(tmp_path, 1, records(split="test"), protocol="paper"))
    assert evaluated_on([clean]) == "valid"
    assert evaluated_on([clean, paper]) == evaluated_on([paper]) == "test"


def test_nothing_on_record_is_said(tmp_path):
    group = make_run(tmp_path, 1, [])
    with pytest.raises(DataError, match="no record") as caught:
        training_table(group)
    assert "baseline" in caught.value.hint
    with pytest.raises(DataError) as caught:
        training_table(group, "without-gnn")
    assert "full" in caught.value.hint


def shown_of(lines=("a", "b with a name so long that it breaks")):
    rows = []
    for number, line in enumerate(lines):
        for step in (1, 2, 3):
            for curve, split in (("loss", "train"), ("HR@20", "valid"), ("HR@20", "test"), ("MRR@20", "valid")):
                value = 10.0 * step + number + (100 if split == "test" else 0)
                rows.append(
                    {"line": line, "curve": curve, "split": split, "step": step, "epoch": float(step)}
                    | {"minutes": step * (1 + number), "mean": value, "low": value - 1, "high": value + 1}
                    | {"seeds": 3 if step < 3 else 2}
                )
    return pd.DataFrame(rows)


@pytest.mark.parametrize(("x", "ends"), [("epoch", [3, 3]), ("minutes", [3, 6])])
def test_the_drawing_has_the_numbers_of_the_table(x, ends):
    drawn = figure.draw(shown_of(), "valid", "caption", x)
    assert [axes.get_ylabel() for axes in drawn.axes] == [
        "training loss (nats)",
        "HR@20, validation (%)",
        "MRR@20, validation (%)",
    ]
    hr = drawn.axes[1]
    curves = [line for line in hr.lines if line.get_marker() == "o"]
    solid, thin = curves[::2], curves[1::2]
    assert [line.get_ydata().tolist() for line in solid] == [[10, 20], [11, 21]]  # as far as all seeds go
    assert [line.get_ydata().tolist() for line in thin] == [[20, 30], [21, 31]]
    assert [line.get_xdata()[-1] for line in thin] == ends
    assert thin[0].get_linewidth() < solid[0].get_linewidth()
    assert {text.get_text() for text in hr.texts} == {"a", "b with a name so\nlong that it\nbreaks"}
    assert drawn.axes[2].get_xlabel() == figure.AXES[x]


def test_a_curve_of_one_point_is_seen():
    shown = shown_of()
    one = (shown["curve"] != "loss") | (shown["epoch"] == shown["epoch"].min())
    drawn = figure.draw(shown[one], "valid", "caption")
    assert {line.get_marker() for line in drawn.axes[0].lines if len(line.get_xdata()) == 1} == {"o"}


def test_labels_lie_within_the_figure_and_apart():
    drawn = figure.draw(shown_of(tuple(f"model {n} without propagation with SparseVD" for n in range(8))), "valid", "c")
    drawn.draw_without_rendering()
    boxes = [t.get_window_extent() for axes in drawn.axes for t in axes.texts]
    assert len(boxes) == 24
    for box in boxes:
        assert box.x0 >= 0 and box.x1 <= drawn.bbox.width and box.y0 >= 0 and box.y1 <= drawn.bbox.height
    for one, box in enumerate(boxes):
        assert not any(box.overlaps(other) for other in boxes[one + 1 :])


def test_the_description_says_where_it_went():
    words = figure.describe(shown_of(("a",)), "valid", "caption")
    assert "HR@20 20.00 at epoch 2 (highest 20.00 at epoch 2), after which fewer seeds go on" in words
    assert "loss 20.00 at epoch 2 (lowest 10.00 at epoch 1)" in words and "validation" in words


@pytest.fixture
def typed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def run(*words):
        result = CliRunner().invoke(main, ["plot", "training", *map(str, words)], prog_name="dissect")
        if result.exception and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result.exit_code, result.stdout, result.stderr

    return run


def test_what_a_user_types(typed, tmp_path):
    group = make_run(tmp_path / "runs", 1, records())
    make_run(tmp_path / "without", 1, records(offset=1), variant="without-gnn")
    os.rename(tmp_path / "without" / group.name / "without-gnn", group / "without-gnn")
    other = make_run(tmp_path / "runs", 1, records(offset=2), model="attenmixer")
    code, out, _ = typed("srgnn-x")
    assert code == 0 and [path.split("/")[-1] for path in out.split()] == [
        f"training.{suffix}" for suffix in ("pdf", "svg", "png", "csv", "txt")
    ]
    assert all(path.startswith(f"runs/{group.name}/figures/") for path in out.split())
    numbers = pd.read_csv(group / "figures" / "training.csv")
    assert set(numbers["line"]) == {"srgnn", "srgnn without gnn"}
    code, out, _ = typed(group.name, other.name, "--by", "time", "--variant", "full")
    assert code == 0 and out.split()[0] == "runs/figures/training-by-time.pdf"
    assert set(pd.read_csv("runs/figures/training-by-time.csv")["line"]) == {"srgnn", "attenmixer"}
    make_run(tmp_path / "runs", 1, [], model="pop", steps=0)  # a baseline is newer, and has no training to draw
    assert typed("--out", "elsewhere")[1].startswith("elsewhere/training.pdf")
    assert len(folders.find_groups("runs")) == 3


def test_the_matched_dense_model_is_named_without_sparsevd(tmp_path):
    config = Config("srgnn", "x", "a" * 16, {"dim": 4}, max_steps=20)
    group = tmp_path / f"srgnn-x-{config.hash}"
    files.write_toml(group / "config.toml", config.to_dict())
    for variant in (folders.FULL, folders.MATCHED):
        run = folders.run_path(group, 1, variant)
        run.mkdir(parents=True)
        (run / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records()))
        finish(run, 1)
    assert list(training(group)[0].table["line"].unique()) == ["srgnn with SparseVD", "srgnn matched"]


def test_what_does_not_belong_in_one_figure_is_refused(typed, tmp_path):
    make_run(tmp_path / "runs", 1, records())
    make_run(tmp_path / "runs", 1, records(), model="other", split="b" * 16)
    make_run(tmp_path / "runs", 1, [], model="pop")
    code, out, err = typed("srgnn-x", "other-x")
    assert (code, out) == (2, "") and "dissect plot training srgnn-x" in err and "dissect plot training other-x" in err
    assert typed("pop-x")[0] == 3
    assert typed("srgnn-x", "--variant", "without-gnn")[0] == 3
    assert typed("nothing")[0] == 2
    for number in range(9):
        make_run(tmp_path / "runs", 1, records(), model=f"m{number}")
    assert "more than can be told apart" in typed(*(f"m{number}-x" for number in range(9)))[2]
