"""dissect compare: which runs may share a table, the tests against plain twins and simulations, every format."""

import csv
import io
import itertools
import json
import re

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from scipy import special

from analyses import compare
from analyses.compare import METRICS, entry, labels, means, results_table
from analyses.significance import (
    Gains,
    enough_resamples,
    gains_of_ranks,
    holm,
    interval,
    paired_t,
    pairs_table,
    resampled,
)
from dissect import runs
from dissect.cli import main
from dissect.cli.compare_view import p_value, signed
from dissect.cli.text_table import Cell, TextTable, latex, to_latex, to_markdown
from dissect.training.config import Config
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
    runs.write_ranks(run / f"ranks-test-{which}.npz", rank=rank, session=session, length=length, target=length)
    test = metrics(rank)
    if protocol == "paper":  # each metric of an epoch of its own
        test = {name: value + 1 for name, value in test.items()}
    runs.write_json(
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
    settings = {"model_options": {"dim": 4}, "where": "none", **more}
    config = Config(model, dataset, split, protocol=protocol, **settings)
    group = root / f"{model}-{dataset}-{config.hash}"
    runs.write_toml(group / "config.toml", config.to_dict())
    for seed in seeds:
        # hash() of a string differs by process: the seed of the ranks is spelt out.
        number = sum(map(ord, f"{group.name}{variant}")) + seed
        write_run(runs.run_path(group, seed, variant), ranks_of(number, hit), protocol)
    return group


@pytest.fixture
def typed(tmp_path, monkeypatch):
    """Types `dissect <words>` in an empty folder, 100 columns wide; returns exit code, stdout, stderr."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")

    def run(*words):
        result = CliRunner().invoke(main, [str(word) for word in words], prog_name="dissect")
        if result.exception and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result.exit_code, result.stdout, result.stderr

    return run


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "runs"


# --- Holm --------------------------------------------------------------------------------------------------


def plain_holm(p):
    """The definition, one hypothesis at a time."""
    order = sorted(range(len(p)), key=lambda i: p[i])
    adjusted, worst = [0.0] * len(p), 0.0
    for rank, index in enumerate(order):
        worst = max(worst, (len(p) - rank) * p[index])
        adjusted[index] = min(1.0, worst)
    return adjusted


def test_holm_on_an_example_done_by_hand():
    # 0.005 x 4, 0.01 x 3, 0.03 x 2; 0.04 x 1 is less than the one before it.
    np.testing.assert_allclose(holm(np.array([0.01, 0.04, 0.03, 0.005])), [0.03, 0.06, 0.06, 0.02])


@given(st.lists(st.one_of(st.floats(0, 1), st.sampled_from([0.0, 0.01, 1.0])), min_size=1, max_size=12))
def test_holm_equals_its_plain_twin(p):
    np.testing.assert_allclose(holm(np.array(p)), plain_holm(p))


# --- the t-test of the paper -------------------------------------------------------------------------------


def test_the_t_test_by_its_formula():
    d = np.array([1.0, 2.0, 3.0, 4.0, 5.0])
    t, p, d_z = paired_t(d)
    by_hand = 3 / (np.sqrt(2.5) / np.sqrt(5))
    assert t == pytest.approx(by_hand)
    # Two tails of Student's t by the incomplete beta function.
    assert p == pytest.approx(special.betainc(4 / 2, 1 / 2, 4 / (4 + by_hand**2)))
    assert d_z == pytest.approx(3 / np.sqrt(2.5))


def test_differences_that_do_not_vary():
    assert paired_t(np.zeros(9)) == (0.0, 1.0, 0.0)
    assert paired_t(np.full(9, -0.5)) == (-np.inf, 0.0, -np.inf)


# --- the bootstrap -----------------------------------------------------------------------------------------


def made_up(values):
    """Gains of values [K, S]: one prefix a session, the same for either metric."""
    return Gains(np.stack([values.mean(0)] * 2), np.stack([values] * 2))


def test_gains_are_summed_by_session_and_averaged_over_seeds():
    rank = np.array([[1, 2, 21, 4], [20, 100, 1, 2]])
    gains = gains_of_ranks(rank, np.array([0, 0, 1, 1]))
    assert gains.session[0].tolist() == [[2, 1], [1, 2]]
    np.testing.assert_allclose(gains.session[1], [[1.5, 0.25], [0.05, 1.5]])
    np.testing.assert_allclose(gains.example[1], [(1 + 0.05) / 2, 0.25, 0.5, 0.375])


def plain_resamples(gains, count, resamples, rng):
    """Differences of two rows [2, R], one draw at a time."""
    out = np.empty((2, resamples))
    for r in range(resamples):
        drawn = rng.integers(0, len(count), len(count))
        total = count[drawn].sum()
        for m in range(2):
            values = []
            for g in gains:
                seeds = rng.integers(0, g.session.shape[1], g.session.shape[1])
                values.append(np.mean([g.session[m, k, drawn].sum() / total for k in seeds]))
            out[m, r] = values[0] - values[1]
    return out


def test_the_bootstrap_equals_a_plain_one():
    rng = np.random.default_rng(1)
    session = np.sort(rng.integers(0, 60, 200))
    session = np.unique(session, return_inverse=True)[1]
    count = np.bincount(session)
    gains = [gains_of_ranks(rng.integers(1, limit, (3, 200)), session) for limit in (30, 60)]
    drawn = resampled(gains, count, 4000)
    plain = plain_resamples(gains, count, 4000, rng)
    for m in range(2):
        quick = np.quantile(drawn[0, m] - drawn[1, m], [0.025, 0.25, 0.5, 0.75, 0.975])
        np.testing.assert_allclose(quick, np.quantile(plain[m], [0.025, 0.25, 0.5, 0.75, 0.975]), atol=0.01)


def test_the_bootstrap_repeats_and_goes_in_pieces(monkeypatch):
    rng = np.random.default_rng(2)
    gains = [made_up(rng.random((2, 30))) for _ in range(2)]
    count = np.ones(30, int)
    whole = resampled(gains, count, 250)
    assert (resampled(gains, count, 250, seed=1) != whole).any()
    monkeypatch.setattr("analyses.significance.CHUNK", 30 * 7)
    pieces = resampled(gains, count, 250)
    assert pieces.shape == whole.shape and np.isfinite(pieces).all()
    np.testing.assert_allclose(pieces.mean(), whole.mean(), atol=0.02)


def test_rows_are_paired_by_session():
    """Two models that differ by the same on every session differ by that in every resample."""
    values = np.random.default_rng(3).random((1, 50))
    drawn = resampled([made_up(values + 0.1), made_up(values)], np.ones(50, int), 200)
    np.testing.assert_allclose(drawn[0] - drawn[1], 0.1)


def p_under_the_null(simulations, seeds, of_seeds, of_both, of_sessions, sessions=100, resamples=200):
    """Bootstrap and t-test p of equally good models; the noise of seeds, of seeds x sessions, of sessions."""
    rng = np.random.default_rng(4)
    bootstrap, t_test = [], []
    for number in range(simulations):
        common = rng.normal(1, 1, sessions)
        pair = [
            made_up(
                common
                + rng.normal(0, of_sessions, sessions)
                + rng.normal(0, of_seeds / np.sqrt(sessions), (seeds, 1))
                + rng.normal(0, of_both, (seeds, sessions))
            )
            for _ in range(2)
        ]
        drawn = resampled(pair, np.ones(sessions, int), resamples, seed=number)
        bootstrap.append(interval(drawn[0, 0] - drawn[1, 0])[2])
        t_test.append(paired_t(pair[0].example[0] - pair[1].example[0])[1])
    return np.array(bootstrap), np.array(t_test)


@pytest.mark.parametrize("seeds", [1, 3])
def test_p_is_uniform_where_sessions_are_what_varies(seeds):
    p, _ = p_under_the_null(250, seeds, of_seeds=0, of_both=0, of_sessions=1)
    assert 0.02 <= (p <= 0.05).mean() <= 0.085
    for share in (0.25, 0.5, 0.75):
        assert (p <= share).mean() == pytest.approx(share, abs=0.08)


def test_three_seeds_of_every_noise_do_not_reject_more_than_they_say():
    p, _ = p_under_the_null(200, 3, of_seeds=0.8, of_both=1, of_sessions=1)
    assert (p <= 0.05).mean() <= 0.065


def test_noise_of_seeds_fools_the_t_test_and_far_less_the_bootstrap():
    p, t_test = p_under_the_null(200, 3, of_seeds=1, of_both=0, of_sessions=0.01)
    assert (t_test <= 0.05).mean() > 0.9
    assert 0.08 <= (p <= 0.05).mean() <= 0.25  # three seeds; the docstring says so


def test_a_planted_difference_is_found():
    rng = np.random.default_rng(5)
    found = 0
    for number in range(100):
        common = rng.normal(1, 1, 100)
        pair = [made_up(common + shift + rng.normal(0, 0.5, (3, 100))) for shift in (0.3, 0.0)]
        drawn = resampled(pair, np.ones(100, int), 200, seed=number)
        low, high, p = interval(drawn[0, 0] - drawn[1, 0])
        found += p <= 0.05
        assert low < high
    assert found >= 95


def test_models_that_are_the_same_are_a_tie():
    gains = gains_of_ranks(ranks_of(0)[None], SESSION)
    table = pairs_table([gains, gains], np.full(SESSIONS, 3), resamples=200)
    for name in ("difference", "low", "high", "relative", "t", "d_z"):
        assert (table[name] == 0).all() or np.abs(table[name]).max() < 1e-12
    for name in ("p bootstrap", "p bootstrap holm", "p t-test", "p t-test holm"):
        assert (table[name] == 1).all()


def test_the_pairs_by_hand():
    ranks = [np.stack([ranks_of(10 * g + k, hit) for k in range(3)]) for g, hit in enumerate((0.9, 0.5, 0.1))]
    gains = [gains_of_ranks(r, SESSION) for r in ranks]
    table = pairs_table(gains, np.full(SESSIONS, 3), resamples=500)
    assert [tuple(row) for row in table[["a", "b"]].to_numpy()[::2]] == list(itertools.combinations(range(3), 2))
    of = [100 * np.mean(r <= 20) for r in ranks]
    row = table[(table["a"] == 0) & (table["b"] == 2) & (table["metric"] == "hr@20")].iloc[0]
    assert row["difference"] == pytest.approx(of[0] - of[2])
    assert row["relative"] == pytest.approx(100 * (of[0] - of[2]) / of[2])
    assert row["low"] < row["difference"] < row["high"]
    d = (ranks[0] <= 20).mean(0) - (ranks[2] <= 20).mean(0)
    assert row["d_z"] == pytest.approx(d.mean() / d.std(ddof=1))
    assert row["t"] == pytest.approx(row["d_z"] * np.sqrt(len(d)))
    # 2 / 501 x 6 tests: no resample contradicts the sign.
    assert row["at most"] and row["p bootstrap"] == pytest.approx(2 / 501)
    np.testing.assert_allclose(table["p bootstrap holm"], plain_holm(table["p bootstrap"].tolist()))


@pytest.mark.parametrize("tests", [1, 2, 25, 90, 400])
def test_there_are_enough_resamples_for_holm(tests):
    resamples = enough_resamples(tests)
    assert resamples >= 2000 and 2 / (resamples + 1) * tests <= 0.025
    assert enough_resamples(90) > 2000


# --- which runs share a table ------------------------------------------------------------------------------


def test_means_are_those_of_the_summaries(folder):
    group = make_group(folder)
    row = entry(group)
    table = means([row])
    tests = [runs.read_json(run / "summary.json")["test"] for run in runs.group_runs(group)]
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
        "srgnn SparseVD both",
        "attenmixer",
        "srgnn without gnn, attention",
    ]
    assert labels([rows[3], entry(make_group(folder, refit=True, validation=0.0))]) == ["attenmixer", "srgnn refit"]
    assert labels(rows[2:4]) == ["srgnn SparseVD both", "attenmixer"]
    twins = [entry(groups[0], seed=1), entry(groups[0], seed=2)]
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
        np.mean([runs.read_ranks(r / "ranks-test-best.npz")["rank"] <= 20 for r in runs.group_runs(g)]) for g in (a, b)
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
    assert "flatter" in paper["notes"][0] and "nothing to compare it with" in paper["notes"][-1]
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


def test_resamples_that_cannot_decide_are_told(typed, folder):
    for model in ("a", "b", "c"):
        make_group(folder, model=model)
    assert "--resamples 2000" in " ".join(typed("compare", "--resamples", "100")[1].split())
    assert "nothing can be significant" not in typed("compare")[1]


def test_the_stand_in_of_a_data_set_is_found_and_told(typed, folder):
    for model in ("a", "b"):
        make_group(folder, model=model, dataset="diginetica-srgnn")
    code, out, err = typed("compare", "--dataset", "diginetica")
    assert code == 0 and "diginetica-srgnn (split" in out and "another split" in err


def break_lengths(run):
    arrays = runs.read_ranks(run / "ranks-test-best.npz")
    runs.write_ranks(run / "ranks-test-best.npz", **{**arrays, "rank": arrays["rank"][:-1]})


def break_values(run):
    arrays = runs.read_ranks(run / "ranks-test-best.npz")
    runs.write_ranks(run / "ranks-test-best.npz", **{**arrays, "rank": arrays["rank"] * 0 + 1})


def break_targets(run):
    arrays = runs.read_ranks(run / "ranks-test-best.npz")
    runs.write_ranks(run / "ranks-test-best.npz", **{**arrays, "target": arrays["target"] + 1})


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
        (break_targets, "different test prefixes"),
        (lambda run: (run / "summary.json").write_text("{}"), "lacks seed, test"),
        (lambda run: (run / "summary.json").unlink(), "is missing"),
    ],
    ids=["cut", "garbled", "gone", "lengths", "values", "targets", "summary", "no-summary"],
)
def test_damage_is_named(typed, folder, harm, says):
    make_group(folder)
    group = make_group(folder, model="attenmixer")
    harm(group / "s2")
    code, out, err = typed("compare")
    assert (code, out) == (3, "")
    assert says in err and str(group.name) in err and "s2" in err


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (["nothing"], 2, "no group named 'nothing'"),
        (["srgn"], 2, "Only srgnn-x"),
        (["srgnn-x/s7"], 2, "no run s7 in srgnn-x"),
        (["srgnn-x/without-gnn"], 2, "no run without-gnn in srgnn-x"),
        (["runs/attenmixer-y"], 2, "no group"),
        (["begun"], 3, "has no finished seed"),
        (["srgnn-x", "--dataset", "x"], 2, "exclude each other"),
        (["--dataset", "diginetca"], 2, "diginetica"),
        (["--dataset", "x"], 2, "it takes two"),
        (["--dataset", "x", "--json", "--format", "csv"], 2, "exclude each other"),
        (["--dataset", "x", "--out", "table.doc"], 2, ".tex"),
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

NASTY = r"my_model.py:A&B 100% #1 {x} ~^\\ $5 a|b *c* [d] <e> --seed"


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
        columns = len(re.search(r"\\begin\{tabular\}\{([lr]+)\}", part)[1])
        lines = [line for line in part.splitlines() if line.endswith(r" \\")]
        assert len(lines) >= 3
        assert {len(re.findall(r"(?<!\\)&", line)) + 1 for line in lines} == {columns}
    assert r"my\_own.py:A\&B SparseVD both" in out and r"$\pm$" in out and r"\textbf{" in out
    assert out.isascii() and sum(map(unescaped(out).count, "{")) == sum(map(unescaped(out).count, "}"))


def unescaped(text):
    """LaTeX without its escaped characters."""
    return re.sub(r"\\[&%$#_{}]", "", text)


def test_every_letter_is_escaped():
    escaped = latex(NASTY)
    plain = re.sub(r"\\text[a-z]+\{\}|\$[^$]*\$|-\{\}-", "", unescaped(escaped))
    assert not set(plain) & set("&%$#_{}~^\\<>|") and "--" not in plain
    assert latex("[d]") == "{}[d]" and latex("*c") == "{}*c"
    table = TextTable(
        "t|_", (("na\nme", False), ("b", True)), ((Cell(NASTY, bold=True), Cell("", bold=True)),), ("n_",)
    )
    markdown = to_markdown(table).splitlines()
    assert markdown[2] == "| na me | b |"
    assert len(re.findall(r"(?<!\\)\|", markdown[4])) == 3 and "\\*c\\*" in markdown[4]
    assert r"\textbf{}" not in to_latex(table) and "****" not in markdown[4]


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
    assert typed("compare", "--out", f"file/{name}")[0] == 1


def test_numbers_as_they_are_read():
    assert [signed(v) for v in (1.234, -0.5, -0.001, np.inf)] == ["+1.23", "−0.50", "0.00", "+∞"]
    assert [p_value(p) for p in (0.0004, 0.02, 1.0)] == ["<0.001", "0.020", "1.000"]
    assert p_value(0.02, at_most=True) == "≤0.020"


def test_a_real_training_can_be_compared(typed):
    words = ["--dataset", "demo", "--epochs", "0.05", "--dim", "4", "--quiet"]
    typed("train", "srgnn", *words)
    typed("train", "pop", "--dataset", "demo", "--quiet")
    typed("run", "--dataset", "demo", "--max-steps", "4", "--dim", "4", "--device", "cpu", "--quiet")
    code, out, _ = typed("compare", "--json")
    (table,) = json.loads(out)["tables"]
    assert code == 0 and {row["label"] for row in table["rows"]} == {"srgnn", "pop", "srgnn SparseVD both"}
    assert len(table["pairs"]) == 6 and table["resamples"] == 2000


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
    assert " ".join([model, *compare._model_words(model, options)]) == label
