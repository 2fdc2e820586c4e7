"""dissect compare: which runs may share a table, what is left out of it, what it says, and in which format."""

import csv
import io
import json
import re
import time

import numpy as np
import pytest
from rich.console import Console

from analyses import entries
from analyses.compare import compare, means, results_table
from analyses.entries import JUDGED, entry, labels
from analyses.significance import pairs_table, read_gains
from dissect.errors import UsageError
from dissect.runs import files, folders
from dissect.runs.config import Config
from dissect.runs.records import METRICS
from dissect.tables.results import means_columns, render_results
from dissect.tables.text import PROSE, Table
from dissect.training.evaluation import metrics
from models.attenmixer import AttenMixer

SESSIONS = 40
SESSION = np.repeat(np.arange(SESSIONS, dtype=np.int32), 3)


def ranks_of(seed, hit=0.5):
    """Ranks of the prefixes of SESSION: within 20 with chance `hit`."""
    rng = np.random.default_rng(seed)
    return np.where(rng.random(len(SESSION)) < hit, rng.integers(1, 21, len(SESSION)), 100).astype(np.int32)


def write_run(run, rank, protocol="clean", which="best", session=SESSION, epochs=2.0, bias=0.25, done=True):
    length = np.ones(len(rank), np.int32)
    folders.write_ranks(run / f"ranks-test-{which}.npz", rank=rank, session=session, length=length, target=length)
    test = metrics(rank)
    if protocol == "paper":  # each metric of an epoch of its own
        test = {name: value + 1 for name, value in test.items()}
    files.write_json(
        run / "summary.json",
        {
            "seed": int(run.name[1:]),
            "test": test,
            "epochs": epochs,
            "seconds": 30.0,
            "n_parameters": 1234,
            "protocol": protocol,
            "selection_bias": {"hr@20": bias, "mrr@20": bias / 2},
        },
    )
    if done:
        (run / "DONE").touch()


def make_group(
    root, model="srgnn", seeds=(1, 2, 3), hit=0.5, split="a" * 16, dataset="x", protocol="clean", variant="full", **more
):
    """A finished group; `more` are settings of its configuration."""
    source = {"model_source": "0"} if ".py:" in model else {}
    settings = {"model_options": {"dim": 4}, "where": "none", **source, **more}
    config = Config(model, dataset, split, protocol=protocol, **settings)
    group = root / f"{model}-{dataset}-{config.hash}"
    files.write_toml(group / "config.toml", config.to_dict())
    for seed in seeds:
        # hash() of a string differs by process: the seed of the ranks is spelt out.
        number = sum(map(ord, f"{group.name}{variant}")) + seed
        write_run(folders.run_path(group, seed, variant), ranks_of(number, hit), protocol)
    return group


@pytest.fixture
def typed(typed, monkeypatch):
    """Types `dissect <words>` in an empty folder, 100 columns wide; returns exit code, stdout, stderr."""
    monkeypatch.setenv("COLUMNS", "100")
    return lambda *words: typed(*map(str, words))


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "runs"


# --- which runs share a table ------------------------------------------------------------------------------


def test_means_are_those_of_the_summaries(folder):
    group = make_group(folder)
    row = entry(group)
    table = means([row])
    tests = [files.read_json(run / "summary.json")["test"] for run in folders.group_runs(group)]
    for metric in METRICS:
        values = [test[metric] for test in tests]
        assert table[metric][0] == pytest.approx(np.mean(values))
        assert table[f"{metric} sd"][0] == pytest.approx(np.std(values, ddof=1))
    assert (table["seconds_per_epoch"][0], table["parameters"][0], table["bias hr@20"][0]) == (15.0, 1234, 0.25)


def test_results_of_another_split_or_protocol_stay_out_even_if_they_are_damaged(folder):
    make_group(folder)
    other = make_group(folder, split="b" * 16)
    make_group(folder, protocol="paper")
    (other / "s1" / "summary.json").write_text("{")
    assert results_table(folder, "a" * 16, "clean")["protocol"].tolist() == ["clean"]
    assert len(results_table(folder, "c" * 16, "clean")) == 0


def test_labels_say_what_is_different_and_nothing_else(folder):
    groups = [
        make_group(folder),
        make_group(folder, model_options={"dim": 8}),
        make_group(folder, where="both"),
        make_group(folder, model="attenmixer"),
    ]
    make_group(folder, variant="without-gnn-attention")
    rows = [entry(group) for group in groups] + [entry(groups[0], "without-gnn-attention")]
    assert labels(rows) == [
        "srgnn (dim 4)",
        "srgnn (dim 8)",
        "srgnn with SparseVD",
        "attenmixer",
        "srgnn without gnn, attention",
    ]
    assert labels([rows[3], entry(make_group(folder, refit=True, validation=0.0))]) == ["attenmixer", "srgnn refit"]
    assert labels(rows[2:4]) == ["srgnn with SparseVD", "attenmixer"]
    twins = [entry(groups[0], runs=[folders.run_path(groups[0], seed)]) for seed in (1, 2)]
    assert labels(twins) == ["srgnn seed 1", "srgnn seed 2"]


# --- what a user types -------------------------------------------------------------------------------------


def test_the_screen_shows_means_and_the_pairs_with_the_best(typed, folder):
    make_group(folder, hit=0.8)
    make_group(folder, model="attenmixer", hit=0.4)
    make_group(folder, model="stamp", hit=0.2)
    code, out, err = typed("compare", "--dataset", "x")
    assert (code, err) == (0, "")
    assert "x (split aaaaaaaa), protocol clean: 120 test prefixes of 40 sessions" in out
    assert "srgnn (the best MRR@20) against the others" in out and "…" not in out
    below = out.split("against the others")[1]
    assert "attenmixer" in below and "stamp" in below and not re.search(r"^ *srgnn", below, re.MULTILINE)
    assert "HR@5" not in out and "0.25 / 0.12" in out and "clean" in out
    assert "the test that counts" in out and "as the paper" in out and "Holm over 6 tests" in out
    every = typed("compare", "--dataset", "x", "--pairs", "--all-metrics")[1]
    assert "HR@5" in every and len(re.findall(r"\bHR@20 +[+−]", every)) == 3
    assert max(len(line) for line in every.splitlines()) <= 100


def test_json_holds_the_numbers_and_csv_the_same(typed, folder):
    a, b = make_group(folder, hit=0.8), make_group(folder, model="attenmixer", hit=0.4)
    code, out, err = typed("compare", a.name, b.name, "--json", "--resamples", "300", "--seed", "5")
    (table,) = json.loads(out)["tables"]
    assert (code, err, table["resamples"], table["test_sessions"]) == (0, "", 300, SESSIONS)
    hits = [
        np.mean([folders.read_ranks(r / "ranks-test-best.npz")["rank"] <= 20 for r in folders.group_runs(g)])
        for g in (a, b)
    ]
    (pair,) = [row for row in table["pairs"] if row["metric"] == "hr@20"]
    assert (pair["a run"], pair["b run"]) == (a.name, b.name)
    assert pair["difference"] == pytest.approx(100 * (hits[0] - hits[1]))
    assert pair["low"] < pair["difference"] < pair["high"]
    rows = list(csv.DictReader(io.StringIO(typed("compare", a.name, b.name, "--format", "csv")[1])))
    assert [float(row["hr@20"]) for row in rows] == pytest.approx([100 * hit for hit in hits], rel=1e-5)
    assert rows[0]["seed_list"] == "1 2 3" and rows[0]["split_hash"] == "a" * 16
    words = ["--resamples", "300", "--seed", "5", "--format", "csv", "--pairs"]
    pairs = list(csv.DictReader(io.StringIO(typed("compare", a.name, b.name, *words)[1])))
    assert float(pairs[0]["p bootstrap holm"]) == pytest.approx(pair["p bootstrap holm"], rel=1e-5)


def test_python_gets_the_same_tables_with_their_facts(typed, folder):
    a, b = make_group(folder, hit=0.8), make_group(folder, model="attenmixer", hit=0.4)
    make_group(folder, protocol="paper")
    clean, paper = compare(runs_dir=folder, dataset="x", resamples=300)
    first, second = json.loads(typed("compare", "--dataset", "x", "--resamples", "300", "--json")[1])["tables"]
    for table, said in ((clean, first), (paper, second)):
        facts = table.rows.attrs
        assert facts == table.pairs.attrs and facts.items() >= {"dataset": "x", "ties": "best"}.items()
        assert {**facts, "notes": list(facts["notes"])} == {name: said[name] for name in facts}
        assert table.rows["mrr@20"].tolist() == pytest.approx([row["mrr@20"] for row in said["rows"]], rel=1e-12)
    pairs = clean.pairs.set_index("metric")
    assert pairs.loc["hr@20", ["a", "b", "a run", "b run"]].tolist() == ["srgnn", "attenmixer", a.name, b.name]
    assert pairs["low"].tolist() == pytest.approx([pair["low"] for pair in first["pairs"]], rel=1e-9)
    assert paper.pairs.empty
    (named,) = compare([a, f"{b.name}/s2"], folder, resamples=300)
    with pytest.raises(UsageError, match="Only srgnn-x"):
        compare(a.name, folder)
    assert named.rows["seed_list"].tolist() == ["1 2 3", "2"]


def test_another_protocol_has_a_table_of_its_own(typed, folder):
    make_group(folder)
    make_group(folder, model="attenmixer")
    make_group(folder, protocol="paper")
    make_group(folder, split="b" * 16)
    code, out, _ = typed("compare", "--dataset", "x", "--json")
    tables = json.loads(out)["tables"]
    assert code == 0
    assert [(t["split_hash"][0], t["protocol"], len(t["rows"])) for t in tables] == [
        ("a", "clean", 2),
        ("a", "paper", 1),
        ("b", "clean", 1),
    ]
    paper = tables[1]
    assert paper["rows"][0]["bias hr@20"] is None and paper["pairs"] == []
    assert "too high" in paper["notes"][0] and "nothing to compare it with" in paper["notes"][-1]
    screen = typed("compare", "--dataset", "x")[1]
    assert "protocol paper" in screen and "within" in screen and "split bbbbbbbb" in screen


def test_different_test_sets_are_refused_with_the_way_to_split_them(typed, folder):
    a, b = make_group(folder), make_group(folder, split="b" * 16)
    code, out, err = typed("compare", a, b)
    assert (code, out) == (2, "")
    assert a.name in err and b.name in err and "different test sets" in err
    assert f"dissect compare {b}\n" in typed("compare", a, b, "--runs-dir", "elsewhere")[2]
    assert f"dissect compare {a.name}\n" in err and f"dissect compare {b.name}\n" in err


def test_a_name_is_a_group_a_variant_or_a_seed(typed, folder):
    group = make_group(folder)
    make_group(folder, variant="without-propagation")

    def rows(*names):
        code, out, err = typed("compare", *names, "--json")
        assert code == 0, err
        return sorted((row["label"], row["seed_list"]) for row in json.loads(out)["tables"][0]["rows"])

    both = [("srgnn", "1 2 3"), ("srgnn without propagation", "1 2 3")]
    assert rows("srgnn-x") == rows(group) == rows(group, group.name) == rows() == both
    assert rows(group / "s2", group / "without-propagation/s3") == [("srgnn", "2"), ("srgnn without propagation", "3")]
    assert rows(f"{group.name}/s1", "srgnn-x/s2") == [("srgnn seed 1", "1"), ("srgnn seed 2", "2")]
    assert rows("srgnn-x/without-propagation", f"{group}/s1") == [("srgnn", "1"), both[1]]


def test_a_run_named_twice_is_told_and_counts_once(typed, folder):
    a, b = make_group(folder), make_group(folder, model="attenmixer")
    code, out, err = typed("compare", a.name, b, a, "--json")
    assert code == 0 and len(json.loads(out)["tables"][0]["rows"]) == 2
    assert f"These runs are named more than once and count once: {a.name}." in err
    assert typed("compare", a, b)[2] == ""


def test_the_rule_for_ties_is_named_wherever_ranks_are(typed, folder):
    make_group(folder)
    make_group(folder, model="attenmixer")
    for form in ("screen", "markdown", "latex"):
        words = " ".join(typed("compare", "--format", form)[1].split())
        assert "Ties count in the target's favour (best)" in words and "ties worst" in words
    (table,) = json.loads(typed("compare", "--json")[1])["tables"]
    assert table["ties"] == "best" and {row["ties"] for row in table["rows"]} == {"best"}
    for more in ([], ["--pairs"]):
        rows = list(csv.DictReader(io.StringIO(typed("compare", "--format", "csv", *more)[1])))
        assert {row["ties"] for row in rows} == {"best"}
    trained = results_table(folder, "a" * 16, "clean")
    assert set(trained["ties"]) == {"best"}
    assert any("Ties count" in note for note in render_results(trained, "x", "clean", "").notes)


def cells(view, name):
    """The texts of a column by the name of the row."""
    place = [column.name for column in view.columns].index(name)
    return {row[0][0]: row[place][0] for row in view.rows()}


def view_of(folder, newest=None):
    return Table("x", means_columns(results_table(folder, "a" * 16, "clean"), JUDGED, newest))


def test_settings_in_which_rows_differ_are_columns_and_stand_in_every_format(typed, folder):
    """A model that has been trained longer is no better model."""
    make_group(folder, lr=0.01, max_steps=500_000, batch_size=50, l2=0.0)
    make_group(folder, model="attenmixer", model_options={"dim": 8}, negatives=10)
    write_run(make_group(folder, model="pop", seeds=()) / "s1", ranks_of(1), epochs=0, which="last")
    for view in (view_of(folder), view_of(folder, newest="attenmixer")):
        found = {column.name: sorted(cells(view, column.name).values()) for column in view.columns}
        assert {name: found.get(name) for name in WANTED} == WANTED
    says = "Rows differ in settings: "
    words = " ".join(typed("compare")[1].split())
    assert f"{says}max steps, batch size, negatives, lr, l2, dim." in words
    assert says in " ".join(render_results(results_table(folder, "a" * 16, "clean"), "x", "clean", "").notes)
    (table,) = json.loads(typed("compare", "--json")[1])["tables"]
    of = {row["model"]: row for row in table["rows"]}
    assert [of[m]["setting max_steps"] for m in ("srgnn", "attenmixer", "pop")] == [500_000, 60_000, None]
    assert any(note.startswith(says) for note in table["notes"])
    rows = {row["model"]: row for row in csv.DictReader(io.StringIO(typed("compare", "--format", "csv")[1]))}
    assert [rows[m]["setting max_steps"] for m in ("srgnn", "attenmixer", "pop")] == ["500000", "60000", ""]
    assert (rows["srgnn"]["setting lr"], rows["srgnn"]["setting batch_size"]) == ("0.01", "50")


WANTED = {
    "max\nsteps": ["", "500000", "60000"],
    "batch\nsize": ["", "100", "50"],
    "negatives": ["", "0", "10"],
    "lr": ["", "0.001", "0.01"],
    "l2": ["", "0", "1e-05"],
    "dim": ["", "4", "8"],
}


def test_what_has_no_effect_on_a_row_is_no_difference(folder):
    make_group(folder, kl_weight=2.0, noise="weight")  # dense
    make_group(folder, model="attenmixer", patience=5)  # reports its last step
    make_group(folder, model="attenmixer", refit=True, validation=0.0)
    assert [column for column in results_table(folder, "a" * 16, "clean") if column.startswith("setting")] == []
    make_group(folder, where="gnn", kl_weight=2.0)
    make_group(folder, where="both")
    table = results_table(folder, "a" * 16, "clean").set_index("where")
    assert [column for column in table if column.startswith("setting")] == ["setting kl_weight"]
    assert table["setting kl_weight"].isna()["none"].all() and table["setting kl_weight"]["both"] == 1


def test_a_model_of_the_user_is_told_by_its_arguments_and_its_file(folder):
    """Those of a model of ours are in its label."""
    for source, depth in (("1" * 64, 2), ("2" * 64, 3)):
        make_group(folder, "my.py:Model", model_options={"dim": 4, "depth": depth}, model_source=source)
    make_group(folder, "other.py:Other", model_source="3" * 64)
    make_group(folder, model_options={"dim": 4, "steps": 2})
    make_group(folder, model_options={"dim": 4, "steps": 3})
    table = results_table(folder, "a" * 16, "clean")
    assert {"setting depth", "setting model_source", "option steps"} <= set(table)
    view = view_of(folder)
    assert sorted(cells(view, "depth").values()) == ["", "", "", "2", "3"]
    assert sorted(cells(view, "model\nsource").values()) == ["", "", "", "1" * 16, "2" * 16]
    assert "steps" not in [column.name for column in view.columns]
    assert {"srgnn steps 2", "srgnn steps 3"} <= set(table["label"])


def test_other_seeds_are_a_column(folder):
    make_group(folder, seeds=(1, 2))
    make_group(folder, model="attenmixer", seeds=(3, 4))
    assert cells(view_of(folder), "seeds") == {"srgnn": "1 2", "attenmixer": "3 4"}


def worst_of(group, **values):
    for path in group.glob("s*/summary.json"):
        files.write_json(path, {**files.read_json(path), "test_worst_ties": values})


def test_equal_scores_do_not_head_the_table_and_are_told_at_the_row(typed, folder):
    """A model with the same score for every item ranks the target first: HR and MRR are 100 %."""
    constant = make_group(folder, model="constant", seeds=())
    write_run(constant / "s1", np.ones(len(SESSION), np.int32))
    worst_of(constant, **dict.fromkeys(METRICS, 0.0))
    good = make_group(folder, hit=0.9, seeds=(1,))
    worst_of(good, **files.read_json(good / "s1" / "summary.json")["test"])
    make_group(folder, model="stamp", hit=0.2, seeds=(1,))
    out = typed("compare", "--format", "markdown", "--all-metrics")[1]
    rows = [line for line in out.split("\n\n")[1].splitlines() if line.startswith("| ")][2:]
    assert [row.split()[1].strip("*") for row in rows] == ["srgnn", "stamp", "constant"]
    assert rows[0].count("**") == 2 * len(METRICS) and "**" not in rows[1] + rows[2]
    assert "| 100.00 |" in rows[2] and "| 0.00 / 0.00 |" in rows[2]
    assert "| ? |" in rows[1] and "/" not in rows[0].split("|")[8]
    assert "srgnn (the best MRR@20, ties against it) against the others" in out
    assert "| constant † | HR@20 |" in out and "† Its scores tie with the target's" in out and "| stamp |" in out
    assert cells(view_of(folder, newest=good.name), "ties against\nHR / MRR")["constant"] == "0.00 / 0.00"
    assert typed("compare", "--format", "latex")[1].isascii()


def test_a_model_that_wins_in_spite_of_its_ties_is_bold(folder):
    best = make_group(folder, hit=0.9, seeds=(1,))
    test = files.read_json(best / "s1" / "summary.json")["test"]
    worst_of(best, **{metric: value - 1 for metric, value in test.items()})
    make_group(folder, model="stamp", hit=0.2, seeds=(1,))
    view = view_of(folder)
    assert [[bold for _, bold in row[1:3]] for row in view.rows()] == [[True, True], [False, False]]
    assert view.rows()[0][3][0] == f"{test['hr@20'] - 1:.2f} / {test['mrr@20'] - 1:.2f}"


def test_what_ties_are_worth_is_told_where_a_run_knows_it(typed, folder):
    make_group(folder)
    worst_of(make_group(folder, model="sknn"), **{"hr@20": 12.5, "mrr@20": 3.25})
    words = " ".join(typed("compare")[1].split())
    assert "order and best row follow the lower; of the others, dissect evaluate RUN --ties worst tells" in words
    rows = {row["model"]: row for row in json.loads(typed("compare", "--json")[1])["tables"][0]["rows"]}
    assert rows["sknn"]["worst mrr@20"] == 3.25 and rows["srgnn"]["worst mrr@20"] is None


@pytest.mark.parametrize(("n_items", "certain"), [(20, True), (21, False), ("20", False)])
def test_a_hit_rate_over_the_whole_catalogue_is_told_and_never_bold(typed, folder, n_items, certain):
    for model in ("a", "b"):
        group = make_group(folder, model=model, hit=1.0)
        files.write_json(group / "data.json", {"n_items": n_items})
    view = view_of(folder)
    (hr,) = (i for i, column in enumerate(view.columns) if column.name.startswith("HR@20"))
    assert view.columns[hr].name == ("HR@20\n(all items)" if certain else "HR@20")
    assert [row[hr][1] for row in view.rows()] == [not certain] * 2 and view.rows()[0][hr + 1][1]
    says = "HR@20 is 100 % by construction: the catalogue has 20 items."
    (table,) = json.loads(typed("compare", "--json")[1])["tables"]
    assert (says in table["notes"]) == (says in typed("compare", "--format", "csv")[2]) == certain
    assert (says in render_results(results_table(folder, "a" * 16, "clean"), "x", "clean", "").notes) == certain


def test_how_the_epoch_was_chosen_is_told_where_rows_differ_in_it(typed, folder):
    make_group(folder, select="mrr@20")
    make_group(folder, model="attenmixer", select="mrr@20")
    write_run(make_group(folder, model="pop", seeds=()) / "s1", ranks_of(1), epochs=0, which="last")
    assert "epoch " not in typed("compare")[1].split("Percent")[0].replace("s/epoch", "")
    make_group(folder, where="both")
    make_group(folder, refit=True, validation=0.0)
    rows = json.loads(typed("compare", "--json")[1])["tables"][0]["rows"]
    chosen = {row["label"]: row["selection"] for row in rows}
    assert chosen == {
        "srgnn": "validation",
        "attenmixer": "validation",
        "pop": "",
        "srgnn with SparseVD": "final",
        "srgnn refit": "refit",
    }
    trained = render_results(results_table(folder, "a" * 16, "clean"), "x", "clean", "")
    for notes in (typed("compare")[1], " ".join(trained.notes)):
        words = " ".join(notes.split())
        assert (
            "best valid, chosen by MRR@20 on validation" in words
            and "last, the final step; no epoch is chosen" in words
        )
    place = [column.name for column in trained.columns].index("epoch")
    assert {row[0][0].split("-")[0]: row[place][0] for row in trained.rows()}["pop"] == ""
    make_group(folder, protocol="paper", select="mrr@20")
    assert results_table(folder, "a" * 16, "paper")["selection"].tolist() == ["test"]


def test_the_table_of_a_training(folder):
    for model, seeds in (("srgnn", (1, 2)), ("attenmixer", (1,))):
        make_group(folder, model=model, seeds=seeds, dataset="a-data-set-of-a-long-name", where="both")
    runs_of = {group.name: group for group in folders.find_groups(folder)}
    for group in runs_of.values():
        for run in folders.group_runs(group):
            summary = files.read_json(run / "summary.json")
            files.write_json(run / "summary.json", {**summary, "seconds": 0.07})
    for name in runs_of:
        table = render_results(results_table(folder, "a" * 16, "clean"), "x", "clean", name)
        assert dict(row[0] for row in table.rows()) == {f"{other} (with SparseVD)": other == name for other in runs_of}
        for width in (60, 80, 200):
            console = Console(file=io.StringIO(), width=width)
            console.print(table)
            text = console.file.getvalue()
            assert all(other in text for other in runs_of) and "…" not in text
            assert "0.035" in text and max(map(len, text.splitlines())) <= max(width, PROSE)
    make_group(folder, protocol="paper")
    assert "too high" in render_results(results_table(folder, "a" * 16, "paper"), "x", "paper", "").notes[-1]


def test_what_is_the_same_in_all_rows_has_no_column(typed, folder, monkeypatch):
    make_group(folder)
    make_group(folder, model="attenmixer")
    out = typed("compare")[1]
    assert "mean ± standard deviation over 3 seeds" in out
    assert "protocol" not in out.split("prefixes of")[1].split("\n\n")[0]
    make_group(folder, model="stamp", seeds=(1,))
    assert re.search(r"bias of.*\n.*\bseeds\b", typed("compare")[1])
    monkeypatch.setenv("COLUMNS", "80")
    narrow = typed("compare", "--all-metrics")[1]
    means = narrow.split(" sessions\n")[1].split("\nPercent")[0].split("\n\n")
    heads = [" ".join(part.split("srgnn")[0].split()) for part in means]
    assert len(means) > 1 and all("HR@5" not in head for head in heads[1:])
    assert re.findall(r"\S+@\d+", " ".join(heads))[-1] == "Popularity@20" and "parameters" in heads[-1]
    assert max(map(len, narrow.splitlines())) <= 80


@pytest.mark.parametrize("columns", ["60", "80", "100", None])
def test_names_are_whole_on_every_screen_and_in_a_pipe(typed, folder, monkeypatch, columns):
    """In a pipe (no COLUMNS, no terminal) a row is a line."""
    kinds = [{"prior": "normal"}, {"kl_warmup": 0.1, "schedule": "steps"}, {}]
    for kind in kinds:
        make_group(folder, model="my-own-file-of-a-model.py:AClassWithAName", where="both", **kind)
    if columns is None:
        monkeypatch.delenv("COLUMNS")
    else:
        monkeypatch.setenv("COLUMNS", columns)
    names = [row["label"] for row in json.loads(typed("compare", "--json")[1])["tables"][0]["rows"]]
    for more in ([], ["--pairs"], ["--all-metrics"]):
        out = typed("compare", *more)[1]
        assert all(name in " ".join(out.split()) for name in names) and "…" not in out
        if columns is None:
            assert all(re.search(rf"^{re.escape(name)}  +\d", out, re.MULTILINE) for name in names)


def test_one_seed_and_unfinished_seeds_are_told(typed, folder):
    group = make_group(folder, seeds=(1,))
    make_group(folder, model="attenmixer")
    write_run(group / "s2", ranks_of(1), done=False)
    out = " ".join(typed("compare")[1].split())
    assert "One seed (srgnn): intervals and p say what other test sessions would change, not what another seed" in out
    assert "Left out, unfinished: 1 of srgnn." in out


def test_a_baseline_needs_no_second_seed(typed, folder):
    write_run(make_group(folder, model="pop", seeds=()) / "s1", ranks_of(1), epochs=0, which="last", bias=0.0)
    make_group(folder)
    assert "One seed" not in typed("compare")[1]


def test_resamples_that_are_too_few_to_count_p_are_told(typed, folder):
    for model, hit in (("a", 0.9), ("b", 0.4), ("c", 0.4)):
        make_group(folder, model=model, hit=hit)
    few, enough = (" ".join(typed("compare", *words)[1].split()) for words in (("--resamples", "100"), ()))
    assert "100 resamples are too few" in few and "normal distribution" in few
    assert "too coarse" not in enough and "normal distribution" not in enough
    (table,) = json.loads(typed("compare", "--resamples", "100", "--json")[1])["tables"]
    assert all(pair["p bootstrap holm"] < 0.001 for pair in table["pairs"])  # counted: 6 x 2 / 101


def test_pairs_are_those_with_the_best_unless_all_are_asked_for_in_every_format(typed, folder, tmp_path):
    for model, hit in (("a", 0.8), ("b", 0.5), ("c", 0.2)):
        make_group(folder, model=model, hit=hit)
    for more, pairs in (([], 2), (["--pairs"], 3)):
        (table,) = json.loads(typed("compare", "--json", *more)[1])["tables"]
        assert (len(table["pairs"]), table["holm_tests"]) == (2 * pairs, 6)
        typed("compare", "--out", "t.csv", *more)
        assert len((tmp_path / "t-pairs.csv").read_text().splitlines()) == 1 + 2 * pairs
        assert len(re.findall(r"\bHR@20 +[+−]", typed("compare", *more)[1])) == pairs


def test_forty_groups_are_compared_at_once(typed, folder):
    """Of all 780 pairs Holm's smallest p would take 124,800 resamples to be counted."""
    rng = np.random.default_rng(1)
    session = np.repeat(np.arange(2_000, dtype=np.int32), 4)
    hard = rng.random(len(session))
    for number in range(40):
        rank = (1 + hard * rng.lognormal(3, 1, len(session)) * (1 + number / 200)).astype(np.int32)
        write_run(make_group(folder, seeds=(), lr=(number + 1) * 1e-4) / "s1", rank, session=session)
    began = time.process_time()
    (table,) = json.loads(typed("compare", "--json")[1])["tables"]
    assert time.process_time() - began < 2
    assert (len(table["rows"]), len(table["pairs"]), table["resamples"]) == (40, 78, 2000)
    worst = table["pairs"][-1]
    assert worst["p bootstrap holm"] < 0.001 and worst["low"] > 0


def test_progress_stands_on_a_terminal_only(folder, monkeypatch, typed):
    for model in ("a", "b"):
        make_group(folder, model=model)
    assert typed("compare", "a-x", "b-x")[2] == ""
    told = []

    def tell(done, total):
        told.append((done, total))

    rows, gains, count = read_gains([entry(group) for group in folders.find_groups(folder)], report=tell)
    assert (told[-1], len(rows)) == ((6, 6), 2)
    pairs_table(gains, count, 300, report=tell)
    assert told[-1] == (300, 300)


def test_the_stand_in_of_a_data_set_is_found_and_told(typed, folder):
    for model in ("a", "b"):
        make_group(folder, model=model, dataset="diginetica-srgnn")
    code, out, err = typed("compare", "--dataset", "diginetica")
    assert code == 0 and "diginetica-srgnn (split" in out and "another split" in err


def breaks(name, change):
    """What changes an array beside the ranks of a run, or the ranks."""

    def harm(run):
        arrays = folders.read_ranks(run / "ranks-test-best.npz")
        folders.write_ranks(run / "ranks-test-best.npz", **{**arrays, name: change(arrays[name])})

    return harm


break_lengths = breaks("rank", lambda rank: rank[:-1])
break_values = breaks("rank", lambda rank: rank * 0 + 1)
break_targets = breaks("target", lambda target: target + 1)
break_shape = breaks("rank", lambda rank: rank[:, None])
break_kind = breaks("rank", lambda rank: rank.astype(str))


def put(run, **what):
    files.write_json(run / "summary.json", {**files.read_json(run / "summary.json"), **what})


ODD = [
    {"epochs": "two"},
    {"seconds": None},
    {"seed": "x"},
    {"n_parameters": []},
    {"protocol": 1},
    {"selection_bias": {"hr@20": "high", "mrr@20": 1}},
    {"test_worst_ties": 3},
]


def break_test(run):
    put(run, test={**files.read_json(run / "summary.json")["test"], "hr@5": "12"})


def cut(run):
    path = run / "ranks-test-best.npz"
    path.write_bytes(path.read_bytes()[:-40])


@pytest.mark.parametrize(
    ("harm", "says"),
    [
        (cut, "does not hold ranks"),
        (lambda run: (run / "ranks-test-best.npz").write_text("ranks"), "does not hold ranks"),
        (lambda run: (run / "ranks-test-best.npz").unlink(), "has no ranks"),
        (break_lengths, "is damaged"),
        (break_values, "one of them is damaged"),
        (
            lambda run: (run / "summary.json").write_text("{}"),
            "damaged: Object missing required field `seed`",
        ),
        (lambda run: (run / "summary.json").write_text("{"), "summary.json cannot be read"),
        (lambda run: (run / "summary.json").unlink(), "summary.json is missing"),
        (break_test, "summary.json is damaged: Expected `float`, got `str` - at `$.test.hr@5`"),
        (break_targets, "ranks other test prefixes"),
        (break_shape, "is damaged"),
        (break_kind, "is damaged"),
        *((lambda run, what=what: put(run, **what), f"- at `$.{next(iter(what))}") for what in ODD),
    ],
)
def test_a_damaged_seed_is_left_out_and_named(typed, folder, harm, says):
    a, b = make_group(folder), make_group(folder, model="attenmixer")
    harm(b / "s2")
    for words in ([], ["--dataset", "x"], [a.name, b.name]):
        code, out, err = typed("compare", "--format", "json", *words)
        assert code == 0 and says in err and f"{b.name}/s2" in err
        (table,) = json.loads(out)["tables"]
        assert {row["label"]: row["seed_list"] for row in table["rows"]} == {"srgnn": "1 2 3", "attenmixer": "1 3"}
        assert "Left out, damaged: 1 of attenmixer." in table["notes"] and len(table["pairs"]) == 2


def test_the_table_of_a_training_leaves_damage_out_too(folder, capsys):
    make_group(folder)
    (make_group(folder, model="attenmixer") / "s2" / "summary.json").write_text("{")
    assert sorted(results_table(folder, "a" * 16, "clean")["seeds"]) == [2, 3]
    assert "s2/summary.json cannot be read" in capsys.readouterr().err


def test_what_is_no_run_is_left_out_and_named(typed, folder):
    groups = [make_group(folder), make_group(folder, model="attenmixer")]
    (folder / "notes.txt").write_text("")
    (folder / "figures").mkdir()
    (folder / "other").mkdir()
    (folder / "other" / "config.toml").write_text("x = 1")
    (folder / "half").mkdir()
    (folder / "half" / "config.toml").write_text("x = ")
    begun = make_group(folder, model="begun", seeds=())
    for words, there in (
        ([], ("other", "half", "begun")),
        (sorted(folder.iterdir()), ("notes.txt", "figures", "other", "half", "begun")),
    ):
        code, out, err = typed("compare", "--json", *words)
        assert code == 0 and len(json.loads(out)["tables"][0]["rows"]) == 2
        assert all(name in err for name in there) and not any(group.name in err for group in groups)
    assert typed("compare", groups[0], folder / "figures")[0] == 3
    code, out, err = typed("compare", folder / "figures", begun)
    assert (code, out) == (3, "") and "figures is not a run" in err and "Nothing is left" in err
    for group in groups:
        for seed in ("s1", "s2", "s3"):
            (group / seed / "summary.json").write_text("{")
    code, out, err = typed("compare")
    assert (code, out) == (3, "") and "finished and undamaged" in err


def test_runs_that_rank_different_prefixes_are_an_error_where_no_most_say_which_are_right(typed, folder):
    make_group(folder, seeds=(1,))
    group = make_group(folder, model="attenmixer", seeds=(2,))
    break_targets(group / "s2")
    code, out, err = typed("compare")
    assert (code, out) == (3, "") and "different test prefixes" in err and "s2" in err


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (["nothing"], 2, "no group named 'nothing'"),
        (["srgn"], 2, "Only srgnn-x"),
        (["srgnn-x/s7"], 2, "named 's7'"),
        (["srgnn-x/without-gnn"], 2, "named 'without-gnn'"),
        (["runs/attenmixer-y"], 2, "no group"),
        (["begun"], 3, "has no finished seed"),
        (["srgnn-x", "--dataset", "x"], 2, "exclude each other"),
        (["--dataset", "diginetca"], 2, "diginetica"),
        (["--dataset", "x"], 2, "it takes two"),
        (["--dataset", "x", "--json", "--format", "csv"], 2, "exclude each other"),
        (["--dataset", "x", "--out", "runs"], 2, "it is a folder"),  # said before anything is computed
        (["--dataset", "x", "--out", "table.doc"], 2, ".tex"),
        (["--dataset", "x", "--out", "t.json", "--format", "latex"], 2, "--out t.json means json"),
        (["--dataset", "x", "--out", "t.json", "--format", "latex"], 2, "--format latex does not"),
        (["--dataset", "x", "--out", "t.csv", "--json"], 2, "--json does not"),
        (["srgnn-x", "srgnn-x"], 2, "These runs are named more than once and count once: srgnn-x"),
        (["--runs-dir", "elsewhere"], 2, "no runs in elsewhere"),
        (["--runs-dir", "elsewhere", "--dataset", "x"], 2, "no runs in elsewhere"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_bad_words_are_refused_with_the_way_out(typed, folder, words, code, says):
    make_group(folder)
    make_group(folder, model="begun", seeds=(), dataset="diginetica")
    (next(folder.glob("begun-*")) / "s1").mkdir()
    given, out, err = typed("compare", *words)
    assert (given, out) == (code, "")
    assert says in err and "Traceback" not in err


def test_a_data_set_of_which_nothing_is_finished(typed, folder):
    make_group(folder, seeds=())
    code, _, err = typed("compare", "--dataset", "x")
    assert code == 3 and "No run on x is finished" in err
    make_group(folder, dataset="y")
    assert "Finished: --dataset y." in typed("compare", "--dataset", "x")[2]


# --- formats -----------------------------------------------------------------------------------------------


def test_the_best_is_bold_and_so_is_its_equal(typed, folder):
    rank = ranks_of(1, 0.5)
    better = np.where(np.arange(len(rank)) == np.flatnonzero(rank > 20)[0], 20, rank)  # HR higher, MRR all but equal
    for model, ranks in (("a", rank), ("b", rank), ("c", better)):
        write_run(make_group(folder, model=model, seeds=()) / "s1", ranks)
    out = typed("compare", "--format", "markdown")[1]
    table = {line.split(" | ")[0][2:]: line.split(" | ")[1:3] for line in out.split("\n\n")[1].splitlines()[2:]}
    hr, mrr = 100 * np.mean(rank <= 20), metrics(rank)["mrr@20"]
    assert table["a"] == table["b"] == [f"{hr:.2f}", f"{mrr:.2f}"]
    assert table["c"][0] == f"**{hr + 100 / len(rank):.2f}**" and table["c"][1].startswith("**")
    again = typed("compare", "a-x", "b-x", "--format", "markdown")[1]
    assert again.count(f"**{hr:.2f}**") == 2


def test_latex_is_sound(typed, folder):
    make_group(folder, model="my_own.py:A&B", where="both")
    make_group(folder)
    out = typed("compare", "--format", "latex", "--all-metrics", "--pairs")[1]
    for environment in ("table", "tabular"):
        assert out.count(rf"\begin{{{environment}}}") == out.count(rf"\end{{{environment}}}") == 2
    assert all(out.count(rf"\{rule}rule") == 2 for rule in ("top", "mid", "bottom"))
    for part in out.split(r"\end{tabular}")[:-1]:
        columns = len(re.search(r"\\begin\{tabular\}\{(?:p\{.*?\}|l)([lr]+)\}", part)[1]) + 1
        lines = [line for line in part.splitlines() if line.endswith(r" \\")]
        assert len(lines) >= 3
        assert {len(re.findall(r"(?<!\\)&", line)) + 1 for line in lines} == {columns}
    assert r"my\_own.py:A\&B with SparseVD" in out and r"$\pm$" in out and r"\textbf{" in out
    unescaped = re.sub(r"\\[&%$#_{}]", "", out)
    assert out.isascii() and unescaped.count("{") == unescaped.count("}") and unescaped.count("$") % 2 == 0
    assert r"& Cohen's \\" in out and r"$d_z$ \\" in out and "_" not in unescaped.replace("$d_z$", "")
    assert re.findall(r"\\label\{(.*)\}", out) == ["tab:x-aaaaaaaa-clean", "tab:x-aaaaaaaa-clean-pairs"]


@pytest.mark.parametrize(
    ("name", "begins"),
    [
        ("t.md", "**x (split"),
        ("t.csv", "dataset,"),
        ("t.tex", r"\begin{table}"),
        ("t.json", "{"),
        ("t.txt", "x (split"),
    ],
)
def test_a_file_says_by_its_name_what_is_in_it(typed, folder, tmp_path, name, begins):
    make_group(folder)
    make_group(folder, model="attenmixer")
    code, out, _ = typed("compare", "--out", f"new/{name}")
    files = [f"new/{name}", *(["new/t-pairs.csv"] if name == "t.csv" else [])]
    assert (code, out.split()) == (0, files)
    assert (tmp_path / files[0]).read_text().startswith(begins)
    assert all(not line.endswith(" ") for line in (tmp_path / files[0]).read_text().splitlines())
    (tmp_path / "file").write_text("")
    assert typed("compare", "--out", f"file/{name}")[0] == 2


def test_a_real_training_can_be_compared(typed):
    words = ["--dataset", "demo", "--epochs", "0.05", "--dim", "4", "--quiet"]
    typed("train", "srgnn", *words)
    words = ["--dataset", "demo", "--max-steps", "4", "--dim", "4", "--device", "cpu", "--quiet"]
    typed("run", "--seed", "1", *words, "--kl-weight", "2", "--kl-weight", "4")  # both have the same dense model
    rows = json.loads(typed("train", "pop", "--dataset", "demo", "--quiet", "--json")[1])
    assert [row["label"] for row in rows].count("srgnn matched") == 1 and len(rows) == 5
    code, out, _ = typed("compare", "--json")
    (table,) = json.loads(out)["tables"]
    labels = {row["label"] for row in table["rows"]}
    dissected = {f"srgnn with SparseVD (kl weight {weight})" for weight in (2, 4)}
    assert code == 0 and labels == {"srgnn", "pop", "srgnn matched", *dissected}
    assert len(table["pairs"]) == 8 and table["resamples"] == 2000


@pytest.mark.parametrize(
    ("model", "options", "label"),
    [
        ("srgnn", {"dim": 64}, "srgnn"),
        ("srgnn", {"dim": 64, "steps": 1, "propagation": "(AH)W"}, "srgnn"),
        ("srgnn", {"steps": 0}, "srgnn steps 0"),
        ("srgnn", {"normalised": True, "dim": 8}, "srgnn normalised"),
        ("srgnn", {"normalised": True, "steps": 0}, "srgnn normalised steps 0"),
        ("srgnn", {"readout": "attenmixer", "levels": 3}, "srgnn attenmixer levels 3"),
        ("attenmixer", {**AttenMixer.presets["paper"], "dim": 32}, "attenmixer"),
        ("attenmixer", {**AttenMixer.presets["official"], "dim": 32}, "attenmixer official"),
        ("attenmixer", AttenMixer.presets["paper-LP"], "attenmixer paper-LP"),
        ("mine.py:Model", {"depth": 3}, "mine.py:Model"),
    ],
)
def test_models_are_called_by_preset_and_by_what_departs_from_it(model, options, label):
    assert " ".join([model, *entries._model_words(model, options)]) == label
