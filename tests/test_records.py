"""Records that were edited by hand, cut off or lost: each is named with its cure, and stops nothing but its own run."""

import errno
import io
import json
import os
import random
import re
import shutil
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from analyses.compare import means
from analyses.coverage import read_coverage
from analyses.density import density_rows, density_table
from analyses.entries import entry, labels
from analyses.significance import read_gains
from analyses.training import over_seeds, training_table
from analyses.verdict import judge
from dissect.data import catalog
from dissect.data.sessions import Dataset, Sessions
from dissect.errors import DataError, DissectError, UsageError
from dissect.experiment import pieces
from dissect.experiment.recorded import data_of
from dissect.experiment.train import prepare_group
from dissect.group import Group
from dissect.runs import files, folders, records
from dissect.runs.config import Config
from dissect.sparsevd.density import BINS
from dissect.tables.verdict import on_screen
from dissect.training import loop
from dissect.training.loop import fit
from dissect.training.rebuild import Recorded, read_run, rebuild
from dissect.training.record import Observer
from models import SRGNN

V = 20


def chain() -> Dataset:
    """Sessions in which item i is followed by item i + 1: learnt within a few steps."""
    rng = np.random.default_rng(0)
    starts, lengths = rng.integers(0, V, 150), rng.integers(2, 5, 150)
    sessions = [[int(s + i) % V + 1 for i in range(n)] for s, n in zip(starts, lengths)]
    return Dataset("chain", V, Sessions.from_lists(sessions[:120]), Sessions.from_lists(sessions[120:]))


DATA = chain()
# At evaluation this threshold masks every weight, while the means have learnt the chain.
CONFIG = Config(
    "srgnn",
    "chain",
    DATA.split_hash,
    {"dim": 8},
    max_steps=40,
    batch_size=64,
    lr=0.03,
    threshold=-20.0,
    kl_weight=0.0,
)
NAME = f"srgnn-chain-{CONFIG.hash}"


def train(folder, seed=1, config=CONFIG, **more):
    return fit(lambda: SRGNN(V, 8), DATA, config, folder, seed=seed, **more)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A runs folder with a dissected group of one seed."""
    root = tmp_path_factory.mktemp("made")
    group = root / "runs" / NAME
    prepare_group(group, CONFIG, DATA)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "DENSITY_MEASUREMENTS", 4)  # every test below reads them
        train(group / "s1")
    catalog.save(DATA, root / "data")
    return root / "runs"


@pytest.fixture
def group(made, tmp_path):
    """A copy of that group with a second and a third seed (of the same numbers), to spoil."""
    shutil.copytree(made, tmp_path / "runs")
    shutil.copytree(made.parent / "data", tmp_path / "data")
    copy = tmp_path / "runs" / NAME
    for seed in (2, 3):
        shutil.copytree(copy / "s1", copy / f"s{seed}")
        change(copy / f"s{seed}" / "summary.json", seed=seed)
    return copy


def change(path, **values):
    """Replace values of a JSON record; ... takes them out."""
    record = {**files.read_json(path), **values}
    files.write_json(path, {key: value for key, value in record.items() if value is not ...})


# --- the mask ----------------------------------------------------------------------------------------------


def test_a_mask_that_hides_what_the_weights_do_is_measured_and_doubted(group):
    checks = folders.read_summary(group / "s1")["checks"]
    assert checks["mean"]["mrr@20"] > 90 and checks["masked"]["mrr@20"] < 20
    reasons = " ".join(judge(group)["O1"]["reasons"])
    masked, mean = (checks[name]["mrr@20"] for name in ("masked", "mean"))
    says = f"masked weights have MRR@20 {masked:.2f}, below 98 % of the unmasked {mean:.2f}"
    assert f"seed 1: {says}" in reasons


# --- what is damaged is named ------------------------------------------------------------------------------


def test_a_histogram_has_as_many_bins_on_record_as_are_counted():
    assert records.BINS == BINS + 2


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"test": {"hr@20": 50.0}}, "required field `hr@5`"),
        ({"seed": "1"}, "Expected `int`, got `str` - at `$.seed`"),
        ({"seed": 4}, "belongs to seed 4, but its folder to seed 1"),
        ({"epochs": None}, "`$.epochs`"),
        ({"seconds": -1.0}, "`$.seconds`"),
        ({"protocol": "other"}, "`$.protocol`"),
        ({"checks": {"masked": {}}}, "`$.checks"),
        ({"selection_bias": {"hr@20": 1e9}}, "`$.selection_bias"),
        ({"removable": "gnn"}, "`$.removable`"),
        ({"removable": ["\x1b[31mgnn"]}, "`$.removable"),
        ({"checks": {"\x1b[31m": {"hr@20": 1.0, "mrr@20": 1.0}}}, "`$.checks"),
        ({"test_worst_ties": 3}, "`$.test_worst_ties`"),
    ],
    ids=str,
)
def test_a_changed_summary_is_named(made, tmp_path, values, says):
    run = tmp_path / "s1"
    shutil.copytree(made / NAME / "s1", run, ignore=lambda folder, names: set(names) - {"summary.json"})
    assert folders.read_summary(run)["seed"] == 1
    change(run / "summary.json", **values)
    with pytest.raises(DataError, match=re.escape(says)) as caught:
        folders.read_summary(run)
    assert "s1/summary.json" in caught.value.message and f"dissect resume {run}" in caught.value.hint


@pytest.mark.parametrize(
    ("values", "says"),
    [({"test": ...}, "required field `test`"), ({"checks": {}}, "lacks the checks of the masked and the mean weights")],
    ids=str,
)
def test_a_changed_summary_leaves_its_seed_out_of_the_verdict(group, capsys, values, says):
    change(group / "s2" / "summary.json", **values)
    verdict = judge(group)
    err = capsys.readouterr().err
    assert verdict["seeds"] == [1, 3] and "only 2 seeds; a verdict needs 3" in " ".join(verdict["O1"]["reasons"])
    assert says in err and "s2/summary.json" in err and f"dissect resume {group / 's2'}" in err
    assert len(err.splitlines()) == 1


def test_what_earlier_versions_did_not_write_may_be_lacking(group):
    known = judge(group)
    for name in ("test_worst_ties", "selection_bias", "removable", "selected"):
        change(group / "s1" / "summary.json", **{name: ...}, new_of_a_later_version=3)
    verdict = judge(group)
    assert verdict["O1"] == known["O1"] and verdict["removable"] == known["removable"]
    path = group / "config.toml"
    lines = path.read_text().splitlines()
    path.write_text("\n".join(line for line in lines if not line.startswith(("products", "noise", "refit"))))
    assert folders.group_config(group)["noise"] == "lrt" and judge(group)["O1"] == known["O1"]
    (group / "s1" / "environment.json").unlink()
    change(group / "data.json", later={"a": 1})
    assert read_run(group / "s1").steps == 40
    for seed in (1, 2, 3):
        change(group / f"s{seed}" / "summary.json", selection_bias=...)
    Console(file=io.StringIO()).print(on_screen(judge(group)))


def alter_line(path, number, **values):
    lines = path.read_text().splitlines()
    record = {**json.loads(lines[number]), **values}
    lines[number] = json.dumps({key: value for key, value in record.items() if value is not ...})
    path.write_text("\n".join(lines) + "\n")


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"numel": 0}, "`$.numel`"),
        ({"log_alpha_hist": [1, 2]}, "`$.log_alpha_hist`"),
        ({"log_alpha_hist": [99_999] + [0] * 161}, "is damaged: it counts 99,999 of"),
        ({"kept": {"3": -1}}, "`$.kept"),
        ({"kept": {"9": 1}}, "other thresholds"),
        ({"role": None}, "`$.role`"),
        ({"matrix": "\x1b[31mA"}, "`$.matrix`"),
        ({"block": "z\n"}, "`$.block`"),
        ({"role": "\x9b31m"}, "`$.role`"),
        ({"module": "\u202egnn"}, "`$.module`"),
        ({"step": 50}, "is of step 40, after one of 50"),
        ({"theta_gt": ...}, "`theta_gt`"),
    ],
    ids=str,
)
def test_a_changed_line_of_density_is_named(made, tmp_path, values, says):
    run = tmp_path / "s1"
    shutil.copytree(made / NAME / "s1", run, ignore=lambda folder, names: {"checkpoints"})
    assert density_rows(run)
    alter_line(run / "density.jsonl", 5 if "step" not in values else -4, **values)
    with pytest.raises(DataError, match=re.escape(says)) as caught:
        density_rows(run)
    assert "s1/density.jsonl, line" in caught.value.message and "--force" in caught.value.hint


def test_a_changed_line_of_density_leaves_its_seed_out(group, capsys):
    alter_line(group / "s2" / "density.jsonl", 5, numel=0)
    assert set(density_table(group)["seed"]) == {1, 3}
    err = capsys.readouterr().err
    assert "`$.numel`" in err and "s2/density.jsonl, line" in err and "--force" in err
    assert judge(group)["seeds"] == [1, 3]
    for seed in (1, 3):
        alter_line(group / f"s{seed}" / "density.jsonl", 5, numel=0)
    with pytest.raises(DataError, match=r"s1.density.jsonl"):
        judge(group)


@pytest.mark.parametrize("values", [{"ce": None}, {"kind": "other"}, {"seconds": "1"}, {"step": -1}], ids=str)
def test_a_changed_line_of_metrics_leaves_its_seed_out(group, capsys, values):
    alter_line(group / "s3" / "metrics.jsonl", 2, **values)
    assert set(training_table(group)["seed"]) == {1, 2}
    assert "s3/metrics.jsonl, line 3, is damaged" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "table"), [("metrics.jsonl", training_table), ("density.jsonl", density_table)], ids=["metrics", "density"]
)
def test_a_record_that_lacks_its_end_leaves_its_seed_out(group, capsys, name, table):
    path = group / "s2" / name
    assert set(table(group)["seed"]) == {1, 2, 3}
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[: len(lines) // 2]))
    assert set(table(group)["seed"]) == {1, 3}
    err = capsys.readouterr().err
    assert f"s2/{name} ends at step" in err and "the rest is lost" in err and "--force" in err


SOUND = {name: np.arange(1, 4, dtype=np.int32) for name in ("rank", "session", "length", "target")}


@pytest.mark.parametrize(
    ("arrays", "says"),
    [
        ({"rank": np.ones(3)}, r"rank is float64 \[3\]"),
        ({"rank": np.ones((3, 1), int)}, r"rank is int64 \[3, 1\]"),
        ({"target": np.ones(2, int)}, r"target is int64 \[2\]"),
        ({"rank": np.array(["1", "2", "3"])}, "rank is <U1"),
        ({"rank": np.array([0, 1, 2])}, "rank goes from 0 to 2"),
        ({"session": np.array([0, 1, 2**40])}, "session goes from 0 to 1099511627776"),
        ({"session": np.array([-1, 1, 2])}, "session goes from -1"),
        ({name: np.ones(0, int) for name in SOUND}, r"int64 \[0\]"),
        ({"rank": np.array([None, 1, 2])}, "does not hold ranks"),
    ],
)
def test_ranks_of_another_shape_or_kind_are_refused(tmp_path, arrays, says):
    path = tmp_path / "s1" / "ranks-test-last.npz"
    folders.write_ranks(path, **{**SOUND, **arrays})
    with pytest.raises(DataError, match=says) as caught:
        folders.read_ranks(path)
    assert f"dissect resume {path.parent}" in caught.value.hint
    folders.write_ranks(path, **{name: array.astype(np.uint8) for name, array in SOUND.items()})
    assert folders.read_ranks(path)["rank"].tolist() == [1, 2, 3]


def test_a_group_that_is_moved_while_groups_are_listed_is_left_out(tmp_path, monkeypatch):
    for name in ("a", "b"):
        files.write_toml(tmp_path / name / "config.toml", {})
    real = type(tmp_path).glob

    def glob(path, pattern):
        yield from [*real(path, pattern), path / "gone" / "config.toml"]

    monkeypatch.setattr(type(tmp_path), "glob", glob)
    assert {group.name for group in folders.find_groups(tmp_path)} == {"a", "b"}


def test_a_summary_may_lack_densities_and_validation(group):
    for seed in (1, 2, 3):
        change(group / f"s{seed}" / "summary.json", density=..., valid=...)
    subject: Any = SimpleNamespace(names=(), dissected=True, record=read_run(group / "s1"))
    with pytest.raises(DataError, match="lacks the densities") as error:
        pieces.of_scores(subject, lambda *_: None)
    assert "dissect resume" in error.value.hint
    assert len(Group(group).ranks("valid"))  # which are there


def test_a_finished_seed_whose_densities_end_within_their_first_line_is_damaged(group, typed):
    path = group / "s1" / "density.jsonl"
    path.write_text(path.read_text()[:300])
    err = typed("verdict", NAME, "--runs-dir", str(group.parent))[2]
    assert "density.jsonl holds no whole line: the rest is lost" in err
    assert f"dissect resume {group / 's1'} --force" in err


def test_ranks_that_unpack_to_far_more_than_ranks_do_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(folders, "MANY", 100_000)
    path = tmp_path / "s1" / "ranks-test-last.npz"
    folders.write_ranks(path, **SOUND)
    assert len(folders.read_ranks(path)["rank"]) == 3
    folders.write_ranks(path, **{name: np.ones(100_000, np.int32) for name in SOUND})
    with pytest.raises(DataError, match="unpack to 1,600,"):
        folders.read_ranks(path)


def test_a_number_of_items_that_the_weights_cannot_have_takes_no_memory(group):
    record = replace(read_run(group / "s1"), n_items=2**30)
    with pytest.raises(DataError, match="does not fit the model srgnn: it has 1,073,741,824 items, and its weights"):
        rebuild(record, SRGNN, lambda: DATA.train)


def test_a_file_system_without_locks_is_said(tmp_path, monkeypatch):
    def no_locks(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.flock", no_locks)
    with (
        pytest.raises(DissectError, match=r"\.lock cannot be locked: No locks available") as error,
        files.locked(tmp_path),
    ):
        pass
    assert "--runs-dir" in error.value.hint


@pytest.mark.parametrize("text", ["{", "[]", "[" * 100_000, '{"max_steps": "x", "n_items": "y"}', "", "\x00\xff"])
def test_a_damaged_record_of_a_run_is_named(group, text):
    for name in ("environment.json", "../data.json"):
        path = group / "s1" / name
        whole = path.read_bytes()
        path.write_text(text)
        with pytest.raises(DataError, match=path.name):
            read_run(group / "s1")
        path.write_bytes(whole)


@pytest.mark.parametrize("name", ["matrix", "role", "module", "reason"])
def test_words_that_steer_the_terminal_make_a_record_of_coverage_damaged(group, name):
    path = group / "s1" / "coverage.json"
    rows = files.read_json(path)["coverage"]
    change(path, coverage=[{**row, name: "\x1b[31m"} for row in rows])
    with pytest.raises(DataError, match=rf"`str` without control characters - at `\$\.coverage\[0\]\.{name}`"):
        read_coverage(group / "s1")


def test_a_group_whose_name_steers_the_terminal_is_left_out_and_said(group, typed, monkeypatch):
    monkeypatch.setattr("figures.style.save", lambda drawn, stem, table, words: [stem])
    root = str(group.parent)
    other = group.rename(group.with_name("\x1b[31mred"))
    shutil.copytree(other, group)
    (group / "without-\x1b[31m").mkdir()
    (group / "without-\x1b[31m" / "s1").mkdir()
    assert folders.variants(group) == ["full"]
    os.utime(other / "config.toml", (2**32, 2**32))
    for words in (("verdict",), ("plot", "density", "--out", "f"), ("compare", "--dataset", "chain")):
        _, out, err = typed(*words, "--runs-dir", root)
        assert "\x1b" not in out + err and "its name has control characters" in err, words


# --- a damaged neighbour stops nothing ---------------------------------------------------------------------


def test_a_damaged_group_is_passed_over_and_said(group, capsys):
    other = group.with_name("srgnn-chaos")
    other.mkdir()
    (other / "config.toml").write_text("model = ")
    os.utime(other / "config.toml", (2**32, 2**32))
    root = group.parent
    for find in (
        lambda: folders.newest_group(root),
        lambda: folders.newest_group(root, dissected=True),
        lambda: folders.resolve_group("srgnn-", root),
    ):
        assert find() == group
        err = capsys.readouterr().err
        assert len(err.splitlines()) == 1 and "srgnn-chaos" in err and "move the folder away" in err
    with pytest.raises(UsageError):
        folders.resolve_group("x" * 300, root)


def test_the_commands_go_on_beside_damaged_runs(group, typed, monkeypatch):
    monkeypatch.setattr("figures.style.save", lambda drawn, stem, table, words: [stem])
    root = str(group.parent)
    (group / "s2" / "summary.json").write_text("{")
    (group / "s3" / "density.jsonl").write_text("{}\n")
    other = group.with_name("broken")
    shutil.copytree(group, other)
    (other / "config.toml").write_text("")
    for words in (
        ("verdict", NAME),
        ("plot", "density", NAME, "broken", "--out", "f"),
        ("plot", "histogram", "broken", NAME, "--out", "f"),
        ("plot", "training", NAME, "broken", "--out", "f"),
        ("train", "pop", "--dataset", "chain", "--data-dir", str(group.parents[1] / "data")),
        ("compare", "--dataset", "chain", "--resamples", "100"),
    ):
        code, out, err = typed(*words, "--runs-dir", root)
        assert code == 0 and out, (words, err)
        assert "Left out" in err and ("s2/summary.json" in err or "broken" in err), (words, err)


@pytest.mark.parametrize("text", ["", "model = ", None], ids=["empty", "cut off", "gone"])
def test_a_group_that_has_lost_its_configuration_is_missing_data_to_every_verb(group, typed, text):
    """Exit code 3, as with any damaged record, and not 2, as if nobody had trained anything."""
    path = group / "config.toml"
    path.unlink() if text is None else path.write_text(text)
    newest = [("verdict",), ("plot", "density"), ("plot", "training"), ("opinions",), ("report",), ("tensorboard",)]
    of_run = [("verdict",), ("evaluate",), ("recommend", "--session", "1,2"), ("export", "--out", "x")]
    asked = [(*words, NAME) for words in (*newest, ("compare",), ("resume",))]
    asked += [(*words, f"{NAME}/s1") for words in of_run]
    for words in asked if text is None else [*newest, *asked]:
        code, out, err = typed(*words, "--runs-dir", str(group.parent))
        assert (code, out) == (3, "") and "config.toml" in err, (words, err)


def test_a_damaged_run_is_not_finished_already(group, typed):
    (group / "s2" / "environment.json").write_text("")
    code, _, err = typed("resume", NAME, "--runs-dir", str(group.parent))
    assert code == 3 and "s2/environment.json cannot be read" in err and "Finished already" not in err


def test_a_lost_summary_is_written_again_as_the_message_says(group, typed):
    root, data, run = group.parent, str(group.parents[1] / "data"), group / "s1"
    shutil.rmtree(group / "s2")
    shutil.rmtree(group / "s3")
    whole = files.read_json(run / "summary.json")
    (run / "summary.json").unlink()
    (run / "ranks-test-last.npz").unlink()
    for words in (("verdict", NAME), ("resume", str(run), "--data-dir", data)):
        code, _, err = typed(*words, "--runs-dir", str(root))
        assert code == 3 and f"rm {run / 'DONE'}; dissect resume {run}" in err, words
    (run / "DONE").unlink()
    assert typed("resume", str(run), "--runs-dir", str(root), "--data-dir", data, "--quiet")[0] == 0
    again = files.read_json(run / "summary.json")
    assert {**again, "seconds": 0} == {**whole, "seconds": 0} and folders.test_ranks(run).exists()


def test_of_what_is_finished_resume_prints_the_verdict(group, typed):
    code, out, err = typed("resume", str(group), "--runs-dir", str(group.parent))
    assert code == 0 and f"Nothing to do. Finished already: {group}/s1" in err
    assert out == typed("verdict", str(group))[1]


def test_commands_are_quoted_where_names_have_spaces(group):
    run = group.with_name("my runs") / "s1"
    shutil.copytree(group, run.parent)
    (run / "DONE").unlink()
    assert f"dissect resume '{run}'" in folders.write_again(run)
    assert f"rm '{run / 'DONE'}'" in folders.write_again(run)


# --- folders that cannot be written, or are taken away -----------------------------------------------------


def test_runs_that_may_only_be_read_are_judged(group, monkeypatch, capsys):
    def refuse(*arguments, **options):
        raise OSError(errno.EROFS, "Read-only file system")

    known = judge(group)
    (group / "verdict.json").unlink()
    monkeypatch.setattr(os, "replace", refuse)
    assert judge(group) == known
    err = capsys.readouterr().err
    assert "verdict.json" in err and "Read-only file system" in err and not (group / "verdict.json").exists()


def test_figures_that_cannot_be_written_beside_the_runs_go_elsewhere(group, typed):
    (group / "figures").write_text("a file where the folder should be")
    code, _, err = typed("plot", "density", NAME, "--runs-dir", str(group.parent))
    assert code == 1 and "--out" in err


@pytest.mark.parametrize("moment", ["test", "test, mean"])
def test_a_run_folder_that_is_deleted_while_it_is_trained_ends_the_run(tmp_path, moment):
    class Delete(Observer):
        def evaluating(self, what, done, total):
            if what == moment:
                shutil.rmtree(tmp_path / "s1", ignore_errors=True)

    with pytest.raises(DissectError, match="was deleted") as caught:
        train(
            tmp_path / "s1",
            config=Config("srgnn", "chain", DATA.split_hash, {"dim": 8}, max_steps=4),
            observer=Delete(),
        )
    assert caught.value.exit_code == 1 and not (tmp_path / "s1").exists()
    files.write_json(tmp_path / "s1" / "summary.json", {})  # nobody trains there any more


def test_a_record_that_is_lost_while_it_is_written_ends_the_run_with_a_message(tmp_path):
    class Delete(Observer):
        def evaluating(self, what, done, total):
            if what == "test":
                (tmp_path / "s1" / "metrics.jsonl").unlink(missing_ok=True)

    with pytest.raises(DataError, match="has lost the accuracy on test"):
        train(
            tmp_path / "s1",
            config=Config("srgnn", "chain", DATA.split_hash, {"dim": 8}, max_steps=4),
            observer=Delete(),
        )


# --- whatever stands there ---------------------------------------------------------------------------------

HUGE = [10**30, -1e308, 1e308, float("nan"), float("inf"), 2**53]
ODD = [None, True, -1, 0, 1, "", "x", [], [1], {}, {"a": 1}, *HUGE]
TOML = ["", "true", "-1", "1e308", "nan", '"x"', "[]", "{a = 1}", "1979-05-27", "9" * 40, "[[1]]", "'"]


@pytest.fixture(scope="module")
def fuzzed(made, tmp_path_factory):
    """A copy of the group, under a name that does not tell what its configuration should be: {record: content}."""
    copy = tmp_path_factory.mktemp("fuzzed") / "group"
    shutil.copytree(made / NAME, copy)
    path = copy / "s1" / "density.jsonl"
    rows = [row for row in files.read_jsonl(path) if row["step"] in (32, 40) and row["block"] in ("", "r")]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    shutil.copytree(copy / "s1", copy / "without-gnn" / "s1")
    judge(copy)
    kinds = (".json", ".jsonl", ".toml", ".npz")
    return copy, {path: path.read_bytes() for path in sorted(copy.rglob("*")) if path.suffix in kinds}


def spoil_value(rng, value):
    """One value somewhere in a JSON record replaced, or taken out."""
    if isinstance(value, dict | list) and value and rng.randint(0, 4):
        inner = dict(value) if isinstance(value, dict) else list(value)
        keys = list(value) if isinstance(value, dict) else list(range(len(value)))
        key = rng.choice(keys)
        if rng.randint(0, 5):
            inner[key] = spoil_value(rng, value[key])
        else:
            del inner[key]
        return inner
    return rng.choice(ODD)


def spoil_bytes(rng, content):
    at = rng.randint(0, len(content))
    cut = rng.choice([0, 1, 2, 10, len(content)])
    return content[:at] + rng.randbytes(rng.randint(0, 3)) + content[at + cut :]


def spoil(rng, path, content):
    if rng.random() < 0.5:
        return spoil_bytes(rng, content)
    if path.suffix == ".json":
        return json.dumps(spoil_value(rng, json.loads(content))).encode()
    if path.suffix == ".npz":
        arrays = dict(np.load(io.BytesIO(content)))
        name = rng.choice(list(arrays))
        array = arrays[name]
        arrays[name] = rng.choice([array[:-1], array * 1.5, array[None], -array, array + 7])
        buffer = io.BytesIO()
        np.savez(buffer, **arrays)
        return buffer.getvalue()
    lines = content.decode().splitlines()
    number = rng.randint(0, len(lines) - 1)
    if path.suffix == ".toml":
        lines[number] = f"{lines[number].partition('=')[0]}= {rng.choice(TOML)}"
    else:
        lines[number] = json.dumps(spoil_value(rng, json.loads(lines[number])))
    return "\n".join(lines).encode() + b"\n"


def read_all(group):
    """What stands behind verdict, compare, plot density, plot training and evaluate."""
    yield lambda: Console(file=io.StringIO(), width=100).print(on_screen(judge(group)))
    yield lambda: density_table(group)
    yield lambda: over_seeds(training_table(group))

    def compared():
        row = entry(group)
        if row is not None:
            labels([row]), means([row]), read_gains([row])

    yield compared
    yield lambda: read_run(group / "s1")
    yield lambda: folders.newest_group(group.parent)


@settings(max_examples=40)
@given(st.integers(0, 2**32))
def test_no_damage_of_a_record_is_a_traceback(fuzzed, seed):
    group, contents = fuzzed
    rng = random.Random(seed)
    path = rng.choice(list(contents))
    path.write_bytes(spoil(rng, path, contents[path]))
    try:
        for read in read_all(group):
            try:
                read()
            except DissectError as error:
                assert error.exit_code in (2, 3) and error.message
    finally:
        path.write_bytes(contents[path])


def test_a_recorded_data_folder_is_read_only_where_the_users_own_lacks_the_data(tmp_path, monkeypatch):
    """A run of somebody else names a folder of theirs: nothing may be fetched into it."""
    monkeypatch.setenv("DISSECT_DATA", str(tmp_path / "mine"))
    theirs = str(tmp_path / "theirs")
    record = Recorded(tmp_path, tmp_path, "full", 1, CONFIG, 40, V, ("dissect", "run", "--data-dir", theirs))
    asked = []

    def load(name, data_dir):
        asked.append(data_dir)
        return DATA

    for folder in (None, "given"):
        assert data_of(record, load, folder) is DATA
    catalog.save(DATA, theirs)
    data_of(record, load)  # made here, with --data-dir
    catalog.save(replace(DATA, train=DATA.test, test=DATA.train), tmp_path / "mine")
    data_of(record, load)  # mine has another split
    catalog.save(DATA, tmp_path / "mine", force=True)
    data_of(record, load)
    assert asked == [None, "given", theirs, theirs, None]
