"""Verbs that work from a run folder alone: evaluate, recommend, resume; and what they say where it is not enough."""

import csv
import errno
import json
import os
import shutil
import signal
import sys
import tomllib
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from dissect import progress
from dissect.cli import main
from dissect.data import catalog
from dissect.data.sessions import Dataset, Sessions, prefix_index
from dissect.errors import DataError, DissectError, UsageError
from dissect.experiment.plan import longest_prefix
from dissect.experiment.resume import unfinished
from dissect.runs import files, folders, replace
from dissect.runs.config import Config
from dissect.training import loop, recommend
from dissect.training.checkpoint import load_checkpoint, save_checkpoint
from dissect.training.evaluation import metrics
from dissect.training.rebuild import read_run, rebuild, roles_without
from dissect.training.record import Observer
from models import MODELS, SRGNN, Batch

V = 40
WORDS = ["--dataset", "small", "--dim", "4", "--device", "cpu", "--quiet", "--batch-size", "32"]


def small(seed: int = 0, n_items: int = V, name: str = "small") -> Dataset:
    rng = np.random.default_rng(seed)
    sessions = [rng.integers(1, n_items + 1, rng.integers(2, 8)).tolist() for _ in range(150)]
    return Dataset(name, n_items, Sessions.from_lists(sessions[:120]), Sessions.from_lists(sessions[120:]))


def invoke(*words):
    words = [str(word) for word in words]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["dissect", *words])  # goes on record
        result = CliRunner().invoke(main, words, prog_name="dissect")
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout, result.stderr


RUN = ["run", "--literal", "--seed", "1"]
BASELINES = [name for name, cls in MODELS.items() if not cls.learns]
KINDS = ["sparse", "gnn", "reduced", "dense", "mixer", "capped", "refit", "paper", "own model", "started", *BASELINES]


def verb_of(kind, made):
    """The words that make a run of this kind."""
    return {
        "sparse": [*RUN, "--max-steps", "30"],
        "gnn": [*RUN, "--max-steps", "10", "--where", "gnn", "--prior", "normal"],
        "reduced": [*RUN, "--max-steps", "12", "--without", "attention", "--without", "propagation"],
        "dense": ["train", "srgnn", "--epochs", "6", "--lr", "0.1"],
        "mixer": ["train", "attenmixer", "--epochs", "1", "--preset", "paper-LP", "--option", "heads=2"],
        "capped": ["train", "srgnn", "--epochs", "2", "--longest", "2"],
        "refit": ["train", "srgnn", "--epochs", "2", "--lr", "0.02", "--refit"],
        "paper": ["train", "srgnn", "--epochs", "2", "--protocol", "paper"],
        "own model": [*RUN, "--model", f"{made['own']}:Own", "--max-steps", "5"],
        "started": [*RUN, "--max-steps", "8", "--init-from", made.get("dense")],
        **{name: ["train", name] for name in BASELINES},
    }[kind]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder with data and one run of each kind: {kind: run}. Read it only."""
    folder = tmp_path_factory.mktemp("made")
    catalog.save(small(), folder / "data")
    own = folder / "own.py"
    own.write_text("from models import SRGNN\n\n\nclass Own(SRGNN):\n    pass\n")
    words = [*WORDS, "--runs-dir", folder / "runs", "--data-dir", folder / "data"]
    found = {"data": folder / "data", "runs": folder / "runs", "own": own}
    for kind in KINDS:
        code, _, err = invoke(*verb_of(kind, found), *words)
        assert code == 0, err
        group = folders.newest_group(folder / "runs")
        found[kind] = next(run for variant in folders.variants(group) for run in folders.group_runs(group, variant))
    return found


def typed(made, *words):
    return invoke(*words, "--runs-dir", made["runs"], "--data-dir", made["data"])


def twin_ranks(scores: np.ndarray, target: int, ties: str) -> int:
    """The rank of item `target` (from 1) among scores [V], by counting one by one."""
    better = sum(score > scores[target - 1] for score in scores)
    equal = sum(score == scores[target - 1] for score in scores) - 1
    return 1 + int(better) + {"best": 0, "worst": int(equal), "mean": int(equal) // 2}[ties]


@pytest.mark.parametrize("kind", KINDS)
def test_evaluate_finds_the_ranks_that_the_run_wrote(made, tmp_path, kind):
    run = made[kind]
    code, out, err = typed(made, "evaluate", run, "--json", "--ranks", tmp_path / "ranks.npz")
    assert code == 0, err
    written = folders.read_ranks(next(run.glob("ranks-test-*.npz")))
    again = folders.read_ranks(tmp_path / "ranks.npz")
    np.savez(tmp_path / "mine.npz", weights=np.zeros(3))
    before = (tmp_path / "mine.npz").read_bytes()
    code, _, refused = typed(made, "evaluate", run, "--ranks", tmp_path / "mine.npz")
    assert code == 2 and "mine.npz is not replaced: it is no file of ranks" in refused
    assert (tmp_path / "mine.npz").read_bytes() == before
    assert all(np.array_equal(written[name], again[name]) for name in written)
    result, summary = json.loads(out), files.read_json(run / "summary.json")
    assert (result["n"], result["step"]) == (small().test.n_prefixes, summary["selected"]["step"])
    assert {k: result[k] for k in summary["test"]} == metrics(written["rank"])


@pytest.mark.parametrize("kind", ["sparse", "dense"])
def test_the_validation_part_is_the_runs_own(made, kind):
    _, out, _ = typed(made, "evaluate", made[kind], "--split", "valid", "--json")
    valid = files.read_json(made[kind] / "summary.json")["valid"]
    assert {k: json.loads(out)[k] for k in valid} == valid
    _, out, _ = typed(made, "evaluate", made[kind], "--split", "train", "--json")
    data = small()
    assert json.loads(out)["n"] == data.train.part(0, 108).n_prefixes


@pytest.mark.parametrize("ties", ["best", "worst", "mean"])
@pytest.mark.parametrize("kind", ["sparse", "dense", "pop", "sknn"])
def test_ranks_are_those_of_counting_by_hand(made, tmp_path, kind, ties):
    code, _, err = typed(made, "evaluate", made[kind], "--ties", ties, "--ranks", tmp_path / "r.npz")
    assert code == 0, err
    ranks = folders.read_ranks(tmp_path / "r.npz")
    data = small()
    record = read_run(made[kind])
    if kind in BASELINES:
        model = MODELS[kind](V)
        model.prepare(data.train)
    else:
        model, _ = rebuild(record, SRGNN, lambda: data.train)
    sessions, lengths = prefix_index(data.test)
    for place in range(0, len(sessions), 5):
        clicks = data.test[sessions[place]]
        batch = Batch.of([clicks[: lengths[place]].tolist()])
        with torch.no_grad():
            if kind in BASELINES:
                scores = model.scores(batch)[0].numpy()
            else:
                S = model.item_states()
                vector = model.encode(S, batch)[0].numpy()
                scores = np.array([vector @ row for row in S.numpy()])
        # Scores of other batches differ in the last bit; those of the kinds with ties here are counts.
        assert ranks["rank"][place] == twin_ranks(scores, int(clicks[lengths[place]]), ties)


def test_baselines_record_what_their_ties_are_worth(made):
    summary = files.read_json(made["pop"] / "summary.json")
    for ties, key in (("best", "test"), ("worst", "test_worst_ties")):
        found = json.loads(typed(made, "evaluate", made["pop"], "--ties", ties, "--json")[1])
        assert {m: found[m] for m in summary[key]} == summary[key]


def test_ties_make_a_difference_and_lie_in_order(made):
    best, mean, worst = (
        json.loads(typed(made, "evaluate", made["pop"], "--ties", ties, "--json")[1])["mrr@20"]
        for ties in ("best", "mean", "worst")
    )
    assert best > mean > worst


def test_ties_are_counted_for_a_model_with_gradients_too(copied, tmp_path):
    path = copied["dense"] / "checkpoints" / "best.pt"
    state = load_checkpoint(path)
    state["model"]["items"].zero_()  # every score is 0
    save_checkpoint(path, state)
    for ties, rank in {"best": 1, "mean": 1 + (V - 1) // 2, "worst": V}.items():
        assert typed(copied, "evaluate", copied["dense"], "--ties", ties, "--ranks", tmp_path / "r.npz")[0] == 0
        assert set(folders.read_ranks(tmp_path / "r.npz")["rank"]) == {rank}


def test_the_chosen_epoch_is_what_is_evaluated(made):
    run = made["dense"]
    best, last = (load_checkpoint(run / "checkpoints" / name) for name in ("best.pt", "last.pt"))
    assert best["step"] < last["state"]["step"]  # else this test says nothing
    model, step = rebuild(read_run(run), SRGNN, lambda: small().train)
    assert step == best["step"] and torch.equal(model.items, best["model"]["items"])
    assert not torch.equal(model.items, last["model"]["items"])


def test_a_rebuilt_model_has_its_sparsevd_layers_and_no_others(made):
    for kind, n in (("sparse", 8), ("gnn", 4), ("dense", 0)):
        model, _ = rebuild(read_run(made[kind]), SRGNN, lambda: small().train)
        assert sum(name.endswith("log_sigma2") for name in model.state_dict()) == n
    before = torch.get_rng_state()
    rebuild(read_run(made["dense"]), SRGNN, lambda: small().train)
    assert torch.equal(before, torch.get_rng_state())


def test_a_model_that_prepares_itself_gets_the_training_part(made):
    seen = []

    class Prepares(SRGNN):
        def prepare(self, train):
            seen.append(len(train))

    rebuild(read_run(made["sparse"]), Prepares, lambda: small().train)
    assert seen == [108]


def test_variants_are_read_back():
    assert roles_without("full", ("gnn",)) == ()
    assert roles_without("without-attention-propagation", SRGNN.removable) == ("attention", "propagation")
    assert roles_without("without-a-b-c", ("c", "a-b")) == ("a-b", "c")
    with pytest.raises(DataError, match="encoder"):
        roles_without("without-encoder", SRGNN.removable)


# --- recommend ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["sparse", "dense", "mixer", "vsknn"])
def test_recommend_lists_the_highest_scores(made, kind):
    clicks = [7, 12, 7, 3]
    code, out, err = typed(made, "recommend", made[kind], "--session", "7,12,7,3", "--k", V + 5, "--json")
    assert code == 0, err
    rows = json.loads(out)["items"]
    assert [row["rank"] for row in rows] == list(range(1, V + 1))
    assert sorted(row["item"] for row in rows) == list(range(1, V + 1))
    assert all(a["score"] >= b["score"] for a, b in pairwise(rows))
    if kind == "vsknn":
        assert rows[0]["probability"] is None
    else:
        weights = np.exp(np.array([row["score"] for row in rows]))
        assert np.allclose([row["probability"] for row in rows], weights / weights.sum(), rtol=1e-6)
    _, out, _ = typed(made, "recommend", made[kind], "--session", "7,12,7,3", "--k", 5, "--unseen", "--json")
    unseen = [row for row in rows if row["item"] not in clicks][:5]
    assert [{**row, "rank": 0} for row in json.loads(out)["items"]] == [{**row, "rank": 0} for row in unseen]


@pytest.mark.parametrize("kind", ["sparse", "capped"])
def test_recommend_and_evaluate_agree(made, tmp_path, kind):
    typed(made, "evaluate", made[kind], "--ranks", tmp_path / "r.npz")
    ranks, data = folders.read_ranks(tmp_path / "r.npz"), small()
    for place in (0, 20, 40):
        clicks = data.test[ranks["session"][place]][: ranks["length"][place]]
        words = ["--session", ",".join(map(str, clicks)), "--k", V, "--json"]
        rows = json.loads(typed(made, "recommend", made[kind], *words)[1])["items"]
        assert rows[ranks["rank"][place] - 1]["item"] == ranks["target"][place]


def test_a_capped_model_looks_at_the_last_clicks_only(made):
    def items(kind, session):
        return json.loads(typed(made, "recommend", made[kind], "--session", session, "--json")[1])["items"]

    assert items("capped", "7,9,3,4") == items("capped", "3,4") != items("capped", "4")
    assert items("dense", "7,9,3,4") != items("dense", "3,4")
    assert "longest = 2" in (made["capped"].parent / "config.toml").read_text()


def test_a_long_session_is_told_with_the_cure(tmp_path):
    """One session of 4,000 clicks makes every layer of its padded batch 400 MB large."""
    rng = np.random.default_rng(1)
    sessions = [*([rng.integers(1, V, 6).tolist()] * 300), rng.integers(1, V, 4000).tolist()]
    data = Dataset("long", V, Sessions.from_lists(sessions), Sessions.from_lists(sessions[:30]))
    said = []

    def longest(data, dim, **settings):
        return longest_prefix(data, Config("srgnn", "long", "", {"dim": dim}, **settings), said.append)

    assert longest(data, 256) == 3999
    assert "has 3,999 clicks" in said[0] and "0.41 GB" in said[0] and "--longest 20 keeps the last 20" in said[0]
    assert longest(small(), 256) == 6 and longest(data, 8) == 3999 and longest(data, 256, longest=20) == 20
    assert len(said) == 1
    catalog.save(data, tmp_path / "data")
    words = ["--dataset", "long", "--runs-dir", tmp_path / "runs", "--data-dir", tmp_path / "data", "--max-steps", "1"]
    code, _, err = invoke("train", "attenmixer", *words, "--dim", "16", "--longest", "20", "--device", "cpu")
    assert code == 0 and "The longest prefix" not in err


@pytest.mark.parametrize(
    ("session", "says"),
    [
        ("0", "no item '0'"),
        ("41", "from 1 to 40"),
        ("3,-1", "no item '-1'"),
        ("3,x", "no item 'x'"),
        ("1.5", "no item '1.5'"),
        ("²", "no item"),
        ("", "empty"),
        (" , ", "empty"),
        ("12,,7", "12,7?"),
        ("12,7,", "has an empty place"),
        (", 12 7", "has an empty place"),
        ("9" * 5000, "There is no item '999999999999...9999999999999'."),
    ],
)
def test_sessions_that_are_none_are_refused(made, session, says):
    code, out, err = typed(made, "recommend", made["sparse"], "--session", session)
    assert (code, out) == (2, "") and says in err


def test_what_a_reader_sees(made):
    _, out, _ = typed(made, "evaluate", made["sparse"])
    words = " ".join(out.split())  # where a line ends depends on the length of the path
    assert "step 30" in words and "HR@20" in words and "ties in the target's favour" in words
    _, out, _ = typed(made, "recommend", made["pop"], "--session", "1, 2 3", "--k", "2")
    assert "after 1, 2, 3" in " ".join(out.split()) and out.splitlines()[-3].split()[:2] == ["rank", "item"]


@pytest.mark.parametrize("kind", ["dense", "vsknn"])
def test_a_file_of_sessions_is_answered_as_each_of_them_alone(made, tmp_path, monkeypatch, kind):
    monkeypatch.setattr(recommend, "AT_ONCE", 4 * V * 3)  # three sessions at once
    data = small().test
    lines = [",".join(map(str, data[place])) for place in range(8)] + ["5"]
    (tmp_path / "sessions.txt").write_text("\n".join(lines) + "\n\n")  # and a blank last line
    for more in ([], ["--unseen"]):
        words = ["recommend", made[kind], "--k", "7", *more]
        code, out, err = typed(made, *words, "--sessions", tmp_path / "sessions.txt", "--json")
        assert (code, err) == (0, "")
        rows = [json.loads(line) for line in out.splitlines()]
        assert [row["session"] for row in rows] == [number for number in range(1, 10) for _ in range(7)]
        for number, line in enumerate(lines, 1):
            alone = json.loads(typed(made, *words, "--session", line, "--json")[1])["items"]
            mine = rows[7 * number - 7 : 7 * number]
            assert [(row["rank"], row["item"]) for row in mine] == [(row["rank"], row["item"]) for row in alone]
            assert np.allclose([row["score"] for row in mine], [row["score"] for row in alone], atol=1e-5)
        _, table, _ = typed(made, *words, "--sessions", tmp_path / "sessions.txt")
        head, *cells = csv.reader(table.splitlines())
        assert head == ["session", "rank", "item", "score", "probability"]
        assert [row[:3] for row in cells] == [[str(row[name]) for name in head[:3]] for row in rows]
        assert [float(row[3]) for row in cells] == [row["score"] for row in rows]


def test_a_file_that_holds_no_sessions_is_refused_with_the_line(made, tmp_path):
    file = tmp_path / "sessions.txt"
    for content, says in (
        (b"1,2\n3,41\n", "line 2: There is no item '41'"),
        (b"", "empty"),
        (b"1,\xe9\n", "UTF-8"),
    ):
        file.write_bytes(content)
        code, out, err = typed(made, "recommend", made["pop"], "--sessions", file)
        assert (code, out) == (3, "") and f"{file}" in err and says in err
    assert typed(made, "recommend", made["pop"], "--sessions", tmp_path / "none")[0] == 3
    for words in ([], ["--session", "1", "--sessions", file]):
        code, _, err = typed(made, "recommend", made["pop"], *words)
        assert code == 2 and "one session, or a file" in err


def test_of_equal_scores_the_lower_number_comes_first():
    scores = torch.tensor([[1.0, 3, 2, 3, 2, 2]])

    class Fixed:
        learns = False

        def scores(self, batch):
            return scores

    def items(k, unseen=False):
        (found,) = recommend.recommend(Fixed(), [[2, 5]], 6, torch.device("cpu"), k, unseen)
        return [each.item for each in found]

    assert items(3) == [2, 4, 3] and items(9) == [2, 4, 3, 5, 6, 1]
    assert items(2, True) == [4, 3] and items(9, True) == [4, 3, 6, 1]


# --- names, and folders that do not suffice ------------------------------------------------------------------


def test_a_run_is_found_by_path_name_and_beginning(made, monkeypatch):
    run = made["reduced"]
    group, place = run.parents[1], f"{run.parent.name}/{run.name}"
    full = made["sparse"]
    folder = made["runs"]
    assert folders.resolve_run(run, folder) == run
    assert folders.resolve_run(f"{group.name}/{place}", folder) == run
    assert folders.resolve_run(f"{full.parent.name[:-2]}/s1", folder) == full
    assert folders.resolve_run(full.parent.name, folder) == full
    monkeypatch.chdir(run)
    assert folders.resolve_run(".", folder).samefile(run)
    monkeypatch.chdir(full.parent)
    assert folders.resolve_run("s1", folder).samefile(full)
    for name, says in ((f"{group.name}/s7", "no run in"), ("attenmixr", "no group")):
        with pytest.raises(UsageError, match=says):
            folders.resolve_run(name, folder)


@pytest.fixture
def copied(made, tmp_path):
    """A copy of what was made, to spoil."""
    shutil.copytree(made["runs"], tmp_path / "runs")
    shutil.copytree(made["data"], tmp_path / "data")
    moved = {kind: tmp_path / path.relative_to(made["runs"].parent) for kind, path in made.items()}
    return {**moved, "own": made["own"]}


def test_a_group_of_several_seeds_wants_one_named(copied):
    shutil.copytree(copied["dense"], copied["dense"].with_name("s2"))
    code, _, err = typed(copied, "evaluate", copied["dense"].parent)
    assert code == 2 and "several runs" in err and "s2" in err
    shutil.rmtree(copied["dense"].with_name("s2"))
    assert typed(copied, "evaluate", copied["dense"].parent)[0] == 0
    aside = replace.set_aside(copied["dense"])
    assert typed(copied, "evaluate", aside)[0] == 0
    assert typed(copied, "evaluate", aside.parent)[0] == 2


@pytest.mark.parametrize("kind", ["sparse", "dense", "pop"])
def test_an_unfinished_run_is_refused_with_the_way_on(copied, kind):
    (copied[kind] / "DONE").unlink()
    for words in (["evaluate", copied[kind]], ["recommend", copied[kind], "--session", "1"]):
        code, out, err = typed(copied, *words)
        assert (code, out) == (3, "") and f"dissect resume {copied[kind]}" in err


def test_another_split_under_the_name_is_refused_with_both_hashes(copied):
    catalog.save(small(seed=1), copied["data"], force=True)
    (copied["gnn"] / "DONE").unlink()
    for verb, kind in (("evaluate", "sparse"), ("evaluate", "pop"), ("resume", "gnn")):
        code, _, err = typed(copied, verb, copied[kind])
        assert code == 3 and small().split_hash in err and small(seed=1).split_hash in err


def test_another_data_set_without_names_for_its_items_is_refused(copied):
    catalog.save(small(seed=1, name="like"), copied["data"])
    for kind in ("dense", "pop"):
        code, out, err = typed(copied, "evaluate", copied[kind], "--dataset", "like")
        assert (code, out) == (3, "") and "'like' and the run's 'small' have numbers only" in err
    assert typed(copied, "evaluate", copied["dense"], "--dataset", "lik")[0] == 2
    assert typed(copied, "evaluate", copied["dense"], "--dataset", "small")[2] == ""


def test_a_run_without_validation_has_no_valid_part(made):
    code, _, err = typed(made, "evaluate", made["paper"], "--split", "valid")
    assert code == 2 and "'valid'" in err


@pytest.mark.parametrize("damage", ["missing", "cut", "one bit", "other seed", "other step", "other shape", "lacks"])
@pytest.mark.parametrize("kind", ["sparse", "dense"])
def test_a_checkpoint_that_is_not_the_runs_is_refused(copied, kind, damage):
    run = copied[kind]
    path = run / "checkpoints" / ("last.pt" if kind == "sparse" else "best.pt")
    content, state = bytearray(path.read_bytes()), load_checkpoint(path)
    if damage == "missing":
        path.unlink()
    elif damage in ("cut", "one bit"):
        content[content.index(state["model"]["items"].numpy().tobytes())] ^= 1
        path.write_bytes(content if damage == "one bit" else content[:1000])
    elif damage in ("other seed", "other step"):
        save_checkpoint(path, {**state, "seed": 5} if damage == "other seed" else {**state, "config": "0123"})
    else:
        weights = dict(state["model"])
        weights["items"] = weights["items"][:-1]
        if damage == "lacks":
            del weights["readout.transform.weight"]
        save_checkpoint(path, {**state, "model": weights})
    code, out, err = typed(copied, "evaluate", run)
    assert (code, out) == (3, "") and str(path) in err and "--force" in err


def test_a_configuration_that_was_changed_is_noticed(copied):
    file = copied["dense"].parent / "config.toml"
    file.write_text(file.read_text().replace("lr = 0.1\n", "lr = 0.2\n"))
    assert "do not match the hash" in typed(copied, "evaluate", copied["dense"])[2]
    file.write_text(file.read_text() + "\n[nonsense]\nx = 1\n")
    code, _, err = typed(copied, "evaluate", copied["dense"])
    assert code == 3 and "another version" in err


def test_a_users_model_is_found_again_or_asked_for(copied, tmp_path):
    run, own = copied["own model"], copied["own"]
    text = own.read_text()
    try:
        own.write_text(text + "# changed\n")
        code, _, err = typed(copied, "evaluate", run)
        assert code == 3 and "SHA-256" in err and "--model" in err
        own.unlink()
        code, _, err = typed(copied, "recommend", run, "--session", "1")
        assert code == 3 and "not here" in err and "--model" in err
        elsewhere = tmp_path / "elsewhere.py"
        elsewhere.write_text(text)
        assert typed(copied, "evaluate", run, "--model", f"{elsewhere}:Own")[0] == 0
    finally:
        own.write_text(text)


# --- resume --------------------------------------------------------------------------------------------------


def records(run):
    lines = [{k: v for k, v in row.items() if k != "seconds"} for row in files.read_jsonl(run / "metrics.jsonl")]
    return lines, files.read_jsonl(run / "density.jsonl")


class StopAt(Observer):
    """Asks this process to stop at a step of the `number`-th training that it sees."""

    def __init__(self, at, number):
        self.at, self.number = at, number

    def begin(self, run, step, steps, steps_per_epoch):
        self.number -= 1

    def step(self, step, loss, kl_weight, lr):
        if step == self.at and self.number == 0:
            os.kill(os.getpid(), signal.SIGTERM)


def interrupted(made, folder, monkeypatch, kind, at=4, number=1, more=()):
    """Stop a training of this kind at step `at`, in a runs folder of its own; returns the run."""
    observer = StopAt(at, number)
    monkeypatch.setattr(progress, "observer", lambda *_, **__: observer)
    words = [*WORDS, "--runs-dir", folder, "--data-dir", made["data"], *more]
    code, _, err = invoke(*verb_of(kind, made), *words)
    monkeypatch.undo()
    assert code == 130 and "dissect resume" in err
    return folder / made[kind].relative_to(made["runs"])


def assert_same_run(run, other):
    assert folders.is_done(run) and records(run) == records(other)
    names = {path.name for path in other.glob("ranks-*")}
    assert names == {path.name for path in run.glob("ranks-*")}
    for name in names:
        assert np.array_equal(folders.read_ranks(run / name)["rank"], folders.read_ranks(other / name)["rank"])
    for name in ("last.pt", "best.pt"):
        if (other / "checkpoints" / name).exists():
            mine, others = (load_checkpoint(folder / "checkpoints" / name)["model"] for folder in (run, other))
            assert mine.keys() == others.keys() and all(torch.equal(mine[key], others[key]) for key in mine)


@pytest.mark.parametrize("kind", ["sparse", "reduced", "dense", "mixer", "refit", "paper", "own model", "started"])
def test_resume_ends_with_the_numbers_of_a_run_that_was_not_stopped(made, tmp_path, monkeypatch, kind):
    run = interrupted(made, tmp_path / "runs", monkeypatch, kind, number=2 if kind == "refit" else 1)
    assert not folders.is_done(run) and (run / "checkpoints" / "last.pt").exists()
    # The data folder is that of the command on record.
    code, out, err = invoke("resume", run, "--runs-dir", tmp_path / "runs", "--quiet", "--json")
    assert code == 0, err
    assert_same_run(run, made[kind])
    result = json.loads(out)
    if folders.group_config(read_run(run).group)["where"] != "none":
        assert result["model"].startswith(("srgnn", "own")) and "O1" in result
    else:
        assert run.parent.name in {row["group"] for row in result}
    code, again, err = invoke("resume", run, "--runs-dir", tmp_path / "runs", "--json")
    assert code == 0 and "Nothing to do. Finished already" in err and json.loads(again) == result


def test_resume_tells_what_the_command_would_have_done_next(made, tmp_path, monkeypatch):
    interrupted(made, tmp_path / "runs", monkeypatch, "refit")
    (run,) = (tmp_path / "runs").glob("*/s1")  # the first of two trainings
    code, _, err = invoke("resume", run, "--runs-dir", tmp_path / "runs", "--quiet")
    assert code == 0 and "comes next: dissect train srgnn" in err and "--refit" in err


def test_resume_says_where_it_had_to_fall_back(made, tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", 0.0)
    observer = StopAt(9, 1)
    monkeypatch.setattr(progress, "observer", lambda *_, **__: observer)
    words = [*WORDS, "--runs-dir", tmp_path / "runs", "--data-dir", made["data"]]
    assert invoke(*verb_of("sparse", made), *words)[0] == 130
    monkeypatch.undo()
    run = tmp_path / made["sparse"].relative_to(made["runs"].parent)
    (run / "checkpoints" / "last.pt").write_bytes(b"not a checkpoint")
    code, _, err = invoke("resume", run)
    assert code == 0 and "Going on from the one before it" in err
    assert_same_run(run, made["sparse"])


def test_a_group_lacks_its_matched_dense_model_too(made, tmp_path):
    words = [*WORDS, "--runs-dir", tmp_path / "runs", "--data-dir", made["data"], "--max-steps", "3", "--seed", "2"]
    assert invoke("run", *words)[0] == 0
    (group,) = folders.find_groups(tmp_path / "runs")
    shutil.rmtree(group / folders.MATCHED)
    code, _, err = typed({**made, "runs": tmp_path / "runs"}, "resume", group.name, "--quiet")
    assert code == 0 and folders.is_done(folders.run_path(group, 2, folders.MATCHED)), err
    code, _, err = typed({**made, "runs": tmp_path / "runs"}, "resume", group.name, "--quiet")
    assert code == 0 and "Finished already" not in err  # --quiet


def test_a_group_is_all_its_unfinished_runs(made, tmp_path, monkeypatch):
    words = [*WORDS, "--runs-dir", tmp_path / "runs", "--data-dir", made["data"]]
    first = interrupted(made, tmp_path / "runs", monkeypatch, "sparse", more=["--seed=1", "--seed", "2", "--seed", "3"])
    second = folders.run_path(first.parent, 2)
    third = folders.run_path(first.parent, 3)
    assert invoke("run", "--literal", "--max-steps", "30", *words, "--seed", "2")[0] == 0
    monkeypatch.setattr(progress, "observer", lambda *_, **__: StopAt(4, 1))
    assert invoke(*RUN, "--max-steps", "30", *words, "--without", "gnn")[0] == 130
    monkeypatch.undo()
    before = (second / "summary.json").stat().st_mtime_ns
    code, out, err = typed({**made, "runs": tmp_path / "runs"}, "resume", first.parent.name, "--json", "--quiet")
    assert code == 0, err
    assert json.loads(out)["seeds"] == [1, 2, 3] and set(json.loads(out)["need"]) == {"gnn"}
    assert folders.is_done(third) and folders.is_done(first.parent / "without-gnn" / "s1")
    assert (second / "summary.json").stat().st_mtime_ns == before
    assert_same_run(first, made["sparse"])


def test_the_seeds_that_the_command_had_not_begun_belong_to_a_group_without_shadows_too(copied):
    path = copied["sparse"] / "environment.json"
    record = json.loads(path.read_text())
    record["command"] = [word for word in record["command"] if not word.startswith(("--seed", "1"))]
    path.write_text(json.dumps(record))
    (copied["sparse"] / "DONE").unlink()
    assert [each.seed for each in unfinished(copied["sparse"].parent, "runs")] == [1, 2, 3]


@pytest.mark.parametrize("kind", ["sparse", "started", "own model", "pop"])
def test_a_run_that_was_killed_before_its_first_step_begins_again(made, copied, kind):
    run = copied[kind]
    for path in [run / "summary.json", run / "DONE", *run.glob("ranks*"), *run.glob("*.jsonl")]:
        path.unlink(missing_ok=True)
    shutil.rmtree(run / "checkpoints", ignore_errors=True)
    code, _, err = typed(copied, "resume", run, "--quiet")
    assert code == 0, err
    if kind == "pop":
        ranks = [folders.read_ranks(folder / "ranks-test-last.npz")["rank"] for folder in (run, made[kind])]
        assert np.array_equal(*ranks) and folders.is_done(run)
    else:
        assert_same_run(run, made[kind])


def test_what_the_folder_does_not_tell_is_asked_for(copied):
    for kind, says in (("refit", "its number of steps"), ("started", "starts from weights")):
        shutil.rmtree(copied[kind])
        copied[kind].mkdir()
        code, _, err = typed(copied, "resume", copied[kind])
        assert code == 3 and says in err and "same command" in err
    aside = replace.set_aside(copied["sparse"])
    (aside / "DONE").unlink()
    code, _, err = typed(copied, "resume", aside)
    assert code == 2 and "set aside" in err


def test_a_run_that_goes_on_elsewhere_is_not_resumed(copied):
    (copied["sparse"] / "DONE").unlink()
    with files.locked(copied["sparse"]):
        code, _, err = typed(copied, "resume", copied["sparse"])
    assert code == 2 and "Another process" in err


def test_infinite_settings_can_be_read_back(tmp_path):
    files.write_toml(tmp_path / "config.toml", {"a": float("inf"), "t": {"b": float("-inf"), "c": 1e-5, "d": None}})
    assert tomllib.loads((tmp_path / "config.toml").read_text()) == {
        "a": float("inf"),
        "t": {"b": float("-inf"), "c": 1e-5},
    }


def test_weights_that_do_not_fit_leave_no_group_behind(made, tmp_path):
    words = [*RUN, *WORDS, "--max-steps", "3", "--data-dir", made["data"], "--runs-dir", tmp_path / "runs"]
    wider = ["8" if before == "--dim" else word for before, word in zip(["", *words], words)]
    code, _, err = invoke(*wider, "--init-from", made["dense"])
    assert code == 3 and "another shape" in err
    code, _, err = invoke(*words, "--where", "encoder")
    assert code == 3 and "'encoder'" in err
    assert not (tmp_path / "runs").exists()


def test_a_name_without_its_hash_is_no_beginning_of_a_longer_name(tmp_path):
    groups = {}
    for name, dataset in (("srgnn-demo", "demo"), ("srgnn-demo-bag", "demo-bag")):
        config = Config("srgnn", dataset, "0")
        groups[name] = tmp_path / f"{name}-{config.hash}"
        files.write_toml(groups[name] / "config.toml", config.to_dict())
    assert folders.resolve_group("srgnn-demo", tmp_path) == groups["srgnn-demo"]
    assert folders.resolve_group("srgnn-demo-bag", tmp_path) == groups["srgnn-demo-bag"]
    with pytest.raises(UsageError, match="Several groups") as caught:
        folders.resolve_group("srgnn-d", tmp_path)
    lines = [f"  {path.name} (dataset {name.removeprefix('srgnn-')})" for name, path in sorted(groups.items())]
    assert sorted(caught.value.hint.split("\n")[1:]) == sorted(lines)


def test_a_file_system_that_takes_no_file_is_told_in_words(tmp_path, monkeypatch):
    def refuse(*arguments, **more):
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr("builtins.open", refuse)
    monkeypatch.setattr(Path, "unlink", refuse)
    with pytest.raises(DissectError, match="Read-only file system"):
        files.write_json(tmp_path / "x.json", {})
