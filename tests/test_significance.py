"""The tests of `dissect compare` against plain twins, other programs and simulations."""

import itertools

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import special, stats

from analyses.bootstrap import resampled
from analyses.significance import (
    MOST_RESAMPLES,
    Gains,
    can_count,
    enough_resamples,
    gains_of_ranks,
    holm,
    n_tests,
    p_value,
    paired_t,
    paired_t_tests,
    pairs_table,
)
from dissect.training.evaluation import gains, metrics

SESSIONS = 40
SESSION = np.repeat(np.arange(SESSIONS, dtype=np.int32), 3)


def ranks_of(seed, hit=0.5):
    """Ranks of the prefixes of SESSION: within 20 with chance `hit`."""
    rng = np.random.default_rng(seed)
    return np.where(rng.random(len(SESSION)) < hit, rng.integers(1, 21, len(SESSION)), 100).astype(np.int32)


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


def test_the_t_test_is_scipys_for_related_samples():
    a, b = np.random.default_rng(6).random((2, 300))
    t, p, d_z = paired_t(a - b)
    other = stats.ttest_rel(a, b)
    assert (t, p) == pytest.approx((other.statistic, other.pvalue))
    assert d_z == pytest.approx(other.statistic / np.sqrt(300))


def test_differences_that_do_not_vary():
    assert paired_t(np.zeros(9)) == paired_t(np.ones(1)) == paired_t(np.ones(0)) == (0.0, 1.0, 0.0)
    assert paired_t(np.full(9, -0.5)) == (-np.inf, 0.0, -np.inf)


# --- the bootstrap -----------------------------------------------------------------------------------------


def made_up(values):
    """Gains of values [K, S]: one prefix a session, the same for either metric."""
    return Gains(np.stack([values.mean(0)] * 2), np.stack([values] * 2))


def drawn_of(gains, count, resamples, seed=0):
    return resampled([g.session for g in gains], count, resamples, seed)


def test_gains_are_summed_by_session_and_averaged_over_seeds():
    rank = np.array([[1, 2, 21, 4], [20, 100, 1, 2]])
    found = gains_of_ranks(rank, np.array([0, 0, 1, 1]))
    assert found.session[0].tolist() == [[2, 1], [1, 2]]
    np.testing.assert_allclose(found.session[1], [[1.5, 0.25], [0.05, 1.5]])
    np.testing.assert_allclose(found.example[1], [(1 + 0.05) / 2, 0.25, 0.5, 0.375])


@given(st.lists(st.integers(1, 25), min_size=1, max_size=9))
def test_every_metric_is_the_mean_of_what_each_rank_gains(ranks):
    of = metrics(np.array(ranks))
    for k in (5, 10, 20):
        plain = {"hr": [float(r <= k) for r in ranks], "mrr": [1 / r if r <= k else 0.0 for r in ranks]}
        for kind, values in plain.items():
            assert gains(np.array(ranks), f"{kind}@{k}").tolist() == values
            assert of[f"{kind}@{k}"] == pytest.approx(100 * np.mean(values))


def plain_resamples(gains, count, resamples, rng):
    """Differences of two rows [2, R], one draw at a time."""
    out = np.empty((2, resamples))
    for r in range(resamples):
        drawn = rng.integers(0, len(count), len(count))
        total = count[drawn].sum()
        for m in range(2):
            values = []
            for g in gains:
                seeds = rng.integers(0, g.session.shape[1], max(g.session.shape[1] - 1, 1))
                values.append(np.mean([g.session[m, k, drawn].sum() / total for k in seeds]))
            out[m, r] = values[0] - values[1]
    return out


def test_the_bootstrap_equals_a_plain_one():
    rng = np.random.default_rng(1)
    session = np.sort(rng.integers(0, 60, 200))
    session = np.unique(session, return_inverse=True)[1]
    count = np.bincount(session)
    gains = [gains_of_ranks(rng.integers(1, limit, (3, 200)), session) for limit in (30, 60)]
    drawn = drawn_of(gains, count, 4000)
    plain = plain_resamples(gains, count, 4000, rng)
    for m in range(2):
        quick = np.quantile(drawn[0, m] - drawn[1, m], [0.025, 0.25, 0.5, 0.75, 0.975])
        np.testing.assert_allclose(quick, np.quantile(plain[m], [0.025, 0.25, 0.5, 0.75, 0.975]), atol=0.01)


def test_the_bootstrap_repeats_and_goes_in_pieces(monkeypatch):
    rng = np.random.default_rng(2)
    gains = [made_up(rng.random((2, 30))) for _ in range(2)]
    count = np.ones(30, int)
    whole = drawn_of(gains, count, 250)
    assert (drawn_of(gains, count, 250, seed=1) != whole).any()
    monkeypatch.setattr("analyses.bootstrap.CHUNK", 30 * 7)
    pieces = drawn_of(gains, count, 250)
    assert pieces.shape == whole.shape and np.isfinite(pieces).all()
    np.testing.assert_allclose(pieces.mean(), whole.mean(), atol=0.02)


def test_rows_are_paired_by_session():
    """Two models that differ by the same on every session differ by that in every resample."""
    values = np.random.default_rng(3).random((1, 50))
    drawn = drawn_of([made_up(values + 0.1), made_up(values)], np.ones(50, int), 200)
    np.testing.assert_allclose(drawn[0] - drawn[1], 0.1)


def test_p_of_draws_that_are_counted():
    drawn = np.arange(-100, 901) / 1000  # 101 of 1001 draws at zero or below
    for tail in (False, True):
        p = p_value(np.stack([drawn, -drawn]), tail)
        assert p == pytest.approx(2 * 102 / 1002)


def test_the_tail_takes_over_where_no_resample_contradicts_and_only_there():
    drawn = np.random.default_rng(7).normal([[[5.0], [2.5], [-5.0]]], 1.0, (1, 3, 1000))
    counted, tail = p_value(drawn)[0], p_value(drawn, tail=True)[0]
    assert counted[0] == counted[2] == pytest.approx(2 / 1001) and counted[1] == tail[1]
    assert tail[[0, 2]] == pytest.approx(2 * stats.norm.sf(5), rel=0.8) and (tail[[0, 2]] < 1e-5).all()
    assert p_value(np.ones(100), tail=True) == 0 and p_value(np.zeros(100), tail=True) == 1


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
        drawn = drawn_of(pair, np.ones(sessions, int), resamples, seed=number)
        bootstrap.append(p_value(drawn[0, 0] - drawn[1, 0]))
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


@pytest.mark.parametrize(("seeds", "least", "most"), [(3, 0.08, 0.19), (5, 0.04, 0.14)])
def test_noise_of_seeds_fools_the_t_test_and_far_less_the_bootstrap(seeds, least, most):
    p, t_test = p_under_the_null(200, seeds, of_seeds=1, of_both=0, of_sessions=0.01)
    assert (t_test <= 0.05).mean() > 0.9
    assert least <= (p <= 0.05).mean() <= most  # docs/comparing.md says so


@pytest.mark.parametrize("seeds", [2, 3, 5])
def test_resampled_means_vary_as_means_of_new_seeds_do(seeds):
    """In the mean over many sets of seeds whose values have variance 1; the sessions are alike."""
    rng, count = np.random.default_rng(8), np.ones(30, int)
    sets = [made_up(np.repeat(rng.normal(size=(seeds, 1)), 30, 1)) for _ in range(400)]
    assert drawn_of(sets, count, 200)[:, 0].var(1).mean() == pytest.approx(1 / seeds, rel=0.15)


def test_a_planted_difference_is_found():
    rng = np.random.default_rng(5)
    found = 0
    for number in range(100):
        common = rng.normal(1, 1, 100)
        pair = [made_up(common + shift + rng.normal(0, 0.5, (3, 100))) for shift in (0.3, 0.0)]
        drawn = drawn_of(pair, np.ones(100, int), 200, seed=number)
        found += p_value(drawn[0, 0] - drawn[1, 0]) <= 0.05
    assert found >= 95


def test_models_that_are_the_same_are_a_tie():
    gains = gains_of_ranks(ranks_of(0)[None], SESSION)
    table = pairs_table([gains, gains], np.full(SESSIONS, 3), resamples=200)
    for name in ("difference", "low", "high", "relative", "t", "d_z"):
        assert (table[name] == 0).all() or np.abs(table[name]).max() < 1e-12
    for name in ("p bootstrap", "p bootstrap holm", "p t-test", "p t-test holm"):
        assert (table[name] == 1).all()


def test_a_single_session_tells_nothing_apart():
    """It is drawn in every resample: nothing ever contradicts the sign."""
    gains = [gains_of_ranks(np.full((1, 9), rank), np.zeros(9, int)) for rank in (1, 30)]
    table = pairs_table(gains, np.array([9]), resamples=200)
    assert (table["difference"] == 100).all()
    assert (table["p bootstrap"] == 1).all() and (table["p bootstrap holm"] == 1).all() and not table["at most"].any()


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


def test_the_interval_holds_19_of_20():
    """Where only sessions differ it is that of a mean: 1.96 standard errors to either side."""
    a, b = np.random.default_rng(3).random((2, 1, 400))
    table = pairs_table([made_up(a), made_up(b)], np.ones(400, int))
    half = 100 * 1.96 * (a - b).std() / 400**0.5
    for row in table.to_dict("records"):
        assert row["high"] - row["difference"] == pytest.approx(half, rel=0.12)
        assert row["difference"] - row["low"] == pytest.approx(half, rel=0.12)


def test_the_pairs_with_the_best_are_the_first_of_all_pairs_with_the_same_p():
    """The best is chosen from the same numbers: a correction for its own pairs alone would be too small."""
    gains = [
        gains_of_ranks(np.stack([ranks_of(10 * g + k, 0.6 - g / 10) for k in range(2)]), SESSION) for g in range(4)
    ]
    count = np.full(SESSIONS, 3)
    every, best = (pairs_table(gains, count, resamples=400, every=every) for every in (True, False))
    assert len(every) == n_tests(4) == 12 and len(best) == 6 and (best["a"] == 0).all()
    pd.testing.assert_frame_equal(best, every.head(6))
    np.testing.assert_allclose(every["p t-test holm"], plain_holm(every["p t-test"].tolist()))


@pytest.mark.parametrize("shift", [1, 1e-3, 0])
def test_t_tests_of_all_pairs_are_those_of_each(shift):
    """Rows that all but agree are done one by one: there the product leaves nothing but rounding."""
    rng = np.random.default_rng(8)
    common = rng.random(500) > 0.5
    rows = [np.where(rng.random(500) < shift, rng.random(500), common) for _ in range(4)]
    rows += [rows[0], np.ones(500), np.ones(500), np.zeros(500)]
    rows.append(common + 1e-9 * rng.random(500))
    t, p, d_z = paired_t_tests(rows)
    for a, b in itertools.combinations(range(len(rows)), 2):
        assert (t[a, b], p[a, b], d_z[a, b]) == pytest.approx(paired_t(rows[a] - rows[b]), rel=1e-6)


def test_equally_good_rows_are_seldom_called_different_though_the_best_is_chosen_among_them():
    """With 24 rows the resamples are too few to count p: what is told apart, is so by the tail."""
    rng = np.random.default_rng(9)
    wrong = 0
    for number in range(40):
        rows = [made_up(rng.normal(1, 1, (1, 200))) for _ in range(24)]
        rows.sort(key=lambda g: -g.session[1].sum())
        table = pairs_table(rows, np.ones(200, int), resamples=500, seed=number, every=False)
        assert not can_count(500, n_tests(24))
        wrong += (table["p bootstrap holm"] <= 0.05).any()
    assert wrong <= 2  # 1 is expected; 7, did Holm count the pairs with the best only


def test_a_row_that_is_worse_is_told_among_a_hundred():
    rng = np.random.default_rng(10)
    common = rng.normal(3, 1, 300)
    rows = [made_up((common - shift + rng.normal(0, 0.3, 300))[None]) for shift in [0.0] * 99 + [1.0]]
    table = pairs_table(rows, np.ones(300, int), every=False)
    assert (table["p bootstrap holm"][:-2] > 0.05).mean() > 0.9
    assert (table["p bootstrap holm"][-2:] < 1e-6).all() and not table["at most"].any()


@pytest.mark.parametrize("tests", [1, 2, 25, 90, 125])
def test_there_are_enough_resamples_for_holm(tests):
    resamples = enough_resamples(tests)
    assert resamples >= 2000 and 2 / (resamples + 1) * tests <= 0.025
    assert enough_resamples(90) > 2000


def test_where_too_many_would_be_needed_there_are_2000_again():
    assert max(enough_resamples(tests) for tests in range(1, 400)) <= MOST_RESAMPLES
    assert enough_resamples(n_tests(200)) == 2000 and not can_count(2000, n_tests(200))
