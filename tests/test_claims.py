"""Claims: each answer on run folders where it is known, the rules against plain loops, and the page that they make."""

import json
import os
import sys
from dataclasses import replace

import numpy as np
import pytest

from analyses import claims, evidence, study
from analyses.answers import FAILS, HOLDS, UNDECIDED
from analyses.claims import CLAIMS
from analyses.entries import JUDGED
from analyses.evidence import NOT_RUN, Evidence, slopes
from analyses.studies import STUDIES, Arm, Study
from dissect.cli.screen import chosen_form
from dissect.cli.study_view import print_claims
from dissect.data.sessions import Dataset, Sessions
from dissect.errors import DataError, UsageError
from dissect.experiment.plan import Plan
from dissect.runs import files, folders
from dissect.runs.config import CALIBRATED, LITERAL, Config
from dissect.tables.results import views_of_study
from dissect.training.evaluation import metrics
from tests.test_shadowed import GOOD
from tests.test_shadowed import make_group as dissected

SIZE = {"dim": 8, "epochs": 1, "seeds": (1, 2, 3)}
MACHINE = {"processor": "EPYC", "threads": 2, "device": "cpu"}
LENGTHS = np.tile(np.arange(1, 13, dtype=np.int32), 60)  # of 60 sessions with 12 prefixes each
SESSION = np.repeat(np.arange(60, dtype=np.int32), 12)
SESSIONS = Sessions.from_lists([[1, 2, 3] * 4 + [4] for _ in range(60)])


@pytest.fixture
def data():
    return Dataset("diginetica-eighth", 50, SESSIONS, SESSIONS)


def jobs_of(found, data, size, runs_dir, say=None):
    """The trainings of a study as plans that nothing was tried for."""
    todo = []
    for seed in size["seeds"]:
        for number, arm in enumerate(found.arms):
            about = {"max_steps": 5, "where": "none", "select": "mrr@20", "protocol": size.get("protocol") or "clean"}
            config = Config(arm.model, data.name, data.split_hash, {"dim": number + 1}, **about)
            group = runs_dir / f"{found.name}-{config.hash}"
            todo.append(study.Job(arm, seed, Plan(None, data, config, group, (seed,))))
    return todo


def write(todo, hits, seconds=None):
    """Finish the trainings whose label is in `hits`: the chance of a hit, or a function of the length of the prefix."""
    for number, job in enumerate(todo):
        if job.arm.label not in hits:
            continue
        rng = np.random.default_rng(1000 * job.seed + number)
        chance = hits[job.arm.label]
        chance = chance(LENGTHS) if callable(chance) else chance
        rank = np.where(rng.random(len(LENGTHS)) < chance, 3, 99).astype(np.int32)
        files.write_toml(job.plan.group / "config.toml", job.plan.config.to_dict())
        folders.write_ranks(
            job.run / "ranks-test-best.npz", rank=rank, session=SESSION, length=LENGTHS, target=np.ones_like(LENGTHS)
        )
        about = {"epochs": 2.0, "seconds": 2 * (seconds or {}).get(job.arm.label, 30.0), "n_parameters": 9}
        protocol = job.plan.config.protocol
        summary = {"seed": job.seed, "protocol": protocol, "test": metrics(rank), **about}
        files.write_json(job.run / "summary.json", summary)
        files.write_json(job.run / "environment.json", MACHINE)
        folders.mark_done(job.run)


@pytest.fixture
def evidence_of(data, tmp_path):
    """Makes the Evidence of a study from chances of a hit."""

    def make(found, hits, seconds=None, protocol="clean", **size):
        found = STUDIES[found] if isinstance(found, str) else found
        todo = jobs_of(found, data, {**SIZE, **size, "protocol": protocol}, tmp_path)
        write(todo, hits, seconds)
        return Evidence(found, todo, protocol)

    return make


def of(*labels):
    return Study("own", "?", tuple(Arm(label, "srgnn", x=float(x)) for x, label in enumerate(labels, 1)))


# --- pairs -------------------------------------------------------------------------------------------------

PAIRS = [("a", "b", "hr@20"), ("a", "c", "mrr@20")]


@pytest.mark.parametrize(
    ("hits", "answer"),
    [
        ({"a": 0.8, "b": 0.3, "c": 0.4}, HOLDS),
        ({"a": 0.3, "b": 0.2, "c": 0.8}, FAILS),
        ({"a": 0.5, "b": 0.5, "c": 0.2}, UNDECIDED),  # a and b are not told apart
        ({"a": 0.8, "b": 0.3}, UNDECIDED),  # c is not there
        ({"a": 0.3, "c": 0.8}, FAILS),  # b is not there, but c is better already
        ({"a": 0.8}, NOT_RUN),
        ({}, NOT_RUN),
    ],
)
def test_an_order_holds_only_if_each_pair_does_and_fails_if_one_is_the_other_way(evidence_of, hits, answer):
    found = evidence.ordered(evidence_of(of("a", "b", "c"), hits), PAIRS)
    assert found.answer == answer
    assert bool(found.groups) == (answer != NOT_RUN) and ("not run" in found.measured) == (0 < len(hits) == 2)


def test_one_seed_decides_nothing_under_the_fair_protocol_only(evidence_of):
    hits = {"a": 0.8, "b": 0.3, "c": 0.4}
    fair = evidence.ordered(evidence_of(of("a", "b", "c"), hits, seeds=(1,)), PAIRS)
    assert (fair.answer, fair.says) == (UNDECIDED, HOLDS) and "only 1 seed" in fair.measured
    own = evidence.ordered(evidence_of(of("a", "b", "c"), hits, seeds=(1,), protocol="paper"), PAIRS)
    assert own.answer == HOLDS


def test_notes_below_a_table_have_the_labels_of_its_study(evidence_of):
    found = evidence_of(of("one", "two"), {}, seeds=(1, 2))
    write(found.todo[:3], {"one": 0.7, "two": 0.4})
    assert any("One seed (two)" in note for note in found.table.rows.attrs["notes"])


def test_a_report_names_both_sides_of_the_pairs_that_a_study_asks_about(evidence_of):
    """It said of each that it is one of the best row."""
    found = evidence_of(of("a", "b", "c"), {"a": 0.8, "b": 0.3, "c": 0.4})
    for pair in (("b", "c"), ("a", "b")):
        asking = replace(found.study, pairs=(pair,))
        _, shown = views_of_study(asking, study.compared(asking, found.todo), JUDGED, is_named_once=False)
        assert shown.columns[0].name == "pair" and shown.columns[0].cells == [" against ".join(pair)] * 2
        assert "best" not in shown.title


def test_a_pair_that_is_turned_round_says_the_same_the_other_way(evidence_of):
    found = evidence_of(of("a", "b"), {"a": 0.7, "b": 0.4})
    there, back = found.pair("a", "b", "mrr@20"), found.pair("b", "a", "mrr@20")
    a, b = found.rows["mrr@20"]["a"], found.rows["mrr@20"]["b"]
    assert there["difference"] == pytest.approx(a - b) and back["difference"] == pytest.approx(b - a)
    assert there["relative"] == pytest.approx(100 * (a - b) / b) and back["relative"] == pytest.approx(
        100 * (b - a) / a
    )
    assert (back["low"], back["high"]) == (-there["high"], -there["low"]) and back["t"] == -there["t"]
    assert back["p bootstrap holm"] == there["p bootstrap holm"] and back["a run"] == there["b run"]
    assert found.sign("a", "b", "mrr@20") == 1 == -found.sign("b", "a", "mrr@20")
    assert found.sign("a", "z", "mrr@20") is None


def test_a_turned_pair_is_of_the_same_ranks_though_the_summary_has_another_epoch(evidence_of):
    """As under the paper's protocol, where each metric is of an epoch of its own; a row may hit nothing at all."""
    found = evidence_of(of("a", "b", "c"), {"a": 0.7, "b": 0.4, "c": 0.0}, protocol="paper")
    for job in found.todo:
        summary = files.read_json(job.run / "summary.json", dict)
        summary["test"] = {name: value + 5.0 for name, value in summary["test"].items()}
        files.write_json(job.run / "summary.json", summary)
    there, back = found.pair("a", "b", "hr@20"), found.pair("b", "a", "hr@20")
    assert (1 + there["relative"] / 100) * (1 + back["relative"] / 100) == pytest.approx(1)
    assert np.isnan(found.pair("a", "c", "hr@20")["relative"]) and found.pair("c", "a", "hr@20")["relative"] == -100


# --- lines -------------------------------------------------------------------------------------------------


def curve(*chances):
    labels = [f"L = {n}" for n in range(1, len(chances) + 1)]
    return of(*labels), {label: chance for label, chance in zip(labels, chances) if chance is not None}


@pytest.mark.parametrize(
    ("chances", "peaked", "rising", "worst", "best_second"),
    [
        ((0.2, 0.7, 0.45), HOLDS, FAILS, HOLDS, HOLDS),
        ((0.2, 0.4, 0.7), FAILS, HOLDS, HOLDS, FAILS),
        ((0.7, 0.5, 0.2), FAILS, FAILS, FAILS, FAILS),
        ((0.5, 0.5, 0.5), UNDECIDED, UNDECIDED, UNDECIDED, UNDECIDED),
        ((0.2, 0.7, None), NOT_RUN, NOT_RUN, UNDECIDED, UNDECIDED),
        # An arm between the ends that is not run could be the peak, or a fall.
        ((0.2, 0.7, None, 0.45), HOLDS, FAILS, UNDECIDED, UNDECIDED),
        ((0.2, 0.4, None, 0.7), UNDECIDED, UNDECIDED, UNDECIDED, FAILS),
        ((None, None, None), NOT_RUN, NOT_RUN, NOT_RUN, NOT_RUN),
    ],
)
def test_the_shape_of_a_line(evidence_of, chances, peaked, rising, worst, best_second):
    found = evidence_of(*curve(*chances))
    answers = (
        evidence.peaked(found),
        evidence.rising(found),
        evidence.worst_at(found, 1.0),
        evidence.best_at(found, 2.0),
    )
    assert tuple(each.answer for each in answers) == (peaked, rising, worst, best_second)


@pytest.mark.parametrize(("power", "answer"), [(1.0, HOLDS), (2.0, HOLDS), (2.5, FAILS)])
def test_the_growth_of_time_is_its_power_of_x(evidence_of, power, answer):
    found, hits = curve(0.5, 0.5, 0.5, 0.5)
    seconds = {f"L = {n}": 7 * n**power for n in range(1, 5)}
    grown = evidence.growth(evidence_of(found, hits, seconds), 2.0 + 1e-9)
    assert grown.answer == answer and f"power {power:.2f}" in grown.measured
    assert evidence.growth(evidence_of(*curve(0.5, 0.5)), 2.0).answer == NOT_RUN


def test_the_growth_of_time_is_undecided_while_an_arm_is_not_run(evidence_of):
    found, hits = curve(0.5, None, 0.5, 0.5)
    gap = evidence.growth(evidence_of(found, hits, {"L = 1": 7.0, "L = 3": 21.0, "L = 4": 28.0}), 2.0)
    assert gap.answer == UNDECIDED and gap.measured.endswith("; 1 of 4 not run")


def test_a_fixed_cost_does_not_hide_how_time_grows(evidence_of):
    found, hits = curve(*[0.5] * 10)
    seconds = {f"L = {n}": 10 + 0.05 * n**3 for n in range(1, 11)}  # the logarithms have the slope 0.78
    grown = evidence.growth(evidence_of(found, hits, seconds), 2.0)
    assert grown.answer == FAILS and "power 3.00" in grown.measured
    flat = evidence.growth(evidence_of(found, hits, dict.fromkeys(hits, 30.0), seeds=(1,)), 2.0)
    assert flat.answer == UNDECIDED  # a constant is a part of every power


@pytest.mark.parametrize("power", [1.0, 2.5])
def test_the_interval_of_a_power_covers_it_and_is_wide_if_times_are_noisy(power):
    rng = np.random.default_rng(0)
    x = np.tile(np.arange(1.0, 11), 3)
    widths = {}
    for noise in (0.02, 0.2):
        found = [evidence.powers(x, (5 + x**power) * np.exp(rng.normal(0, noise, len(x)))) for _ in range(20)]
        assert sum(low <= power <= high for _, low, high in found) >= 16
        widths[noise] = np.mean([high - low for _, low, high in found])
    assert widths[0.2] > 2 * widths[0.02]
    assert evidence.powers(x[:3], 5 + x[:3])[1:] == (0.05, 6.0)  # three times say nothing


# --- by length ---------------------------------------------------------------------------------------------

THREE = of("mixed", "plain", "other")


@pytest.mark.parametrize(
    ("hits", "best", "worst", "long"),
    [
        ({"mixed": 0.95, "plain": 0.05, "other": 0.5}, HOLDS, HOLDS, FAILS),
        ({"mixed": 0.05, "plain": 0.95, "other": 0.5}, FAILS, FAILS, HOLDS),
        ({"mixed": 0.5, "plain": 0.5, "other": 0.5}, UNDECIDED, UNDECIDED, UNDECIDED),
        ({"mixed": 0.9, "plain": 0.1}, NOT_RUN, NOT_RUN, NOT_RUN),
    ],
)
def test_best_at_most_lengths(evidence_of, hits, best, worst, long):
    found = evidence_of(THREE, hits)
    assert evidence.mostly(found, "mixed", ("plain", "other"), ["hr@20"]).answer == best
    assert evidence.mostly(found, "plain", ("mixed", "other"), ["hr@20"], -1).answer == worst
    assert evidence.on_long(found, "plain", "other").answer == long


@pytest.mark.parametrize("number", [1, 19])
def test_few_sessions_decide_nothing_of_lengths(evidence_of, monkeypatch, number):
    monkeypatch.setattr(sys.modules[__name__], "SESSION", SESSION % number)
    found = evidence_of(THREE, {"mixed": 0.95, "plain": 0.05, "other": 0.5})
    for answer in (
        evidence.mostly(found, "mixed", ("plain", "other"), ["hr@20"]),
        evidence.on_long(found, "mixed", "plain"),
    ):
        assert answer.answer == UNDECIDED and "20 sessions" in answer.measured
    told = "A single test session says" if number == 1 else f"Only {number} test sessions say"
    assert any(note.startswith(told) for note in found.table.rows.attrs["notes"])


def test_too_few_test_sessions_are_told(evidence_of, monkeypatch):
    hits = {"mixed": 0.5, "plain": 0.5}
    assert not any("sessions say" in note for note in evidence_of(THREE, hits).table.rows.attrs["notes"])
    monkeypatch.setattr(sys.modules[__name__], "SESSION", SESSION % 5)
    found = evidence_of(THREE, hits)
    assert any(note.startswith("Only 5 test sessions say") for note in found.table.rows.attrs["notes"])


def test_the_pairs_at_a_length_are_those_of_its_prefixes(evidence_of):
    found = evidence_of(of("a", "b"), {"a": lambda n: np.where(n > 8, 0.9, 0.1), "b": 0.5})
    for x in (1, 5, 10):
        here = (x == LENGTHS) if x < 10 else (LENGTHS >= 10)
        shares = [
            np.mean([(folders.read_ranks(folders.test_ranks(job.run))["rank"][here] <= 20).mean() for job in own])
            for own in ([job for job in found.todo if job.arm.label == label] for label in "ab")
        ]
        row = found.by_length["hr@20", x].iloc[0]
        assert row["difference"] == pytest.approx(100 * (shares[0] - shares[1]))
    assert evidence.sign_at(found, "a", "b", "hr@20", 10) == 1 == -evidence.sign_at(found, "a", "b", "hr@20", 1)


@pytest.mark.parametrize(("way", "answer"), [(-1, HOLDS), (1, FAILS)])
def test_all_arms_fall_with_length(evidence_of, way, answer):
    falling = dict.fromkeys(("mixed", "plain"), lambda n: 0.9 - 0.07 * np.minimum(n, 10))
    found = evidence_of(THREE, {**falling, "other": 0.5})
    assert evidence.along_length(found, ("mixed", "plain"), way, ["hr@20"]).answer == answer
    assert evidence.along_length(found, ("mixed", "other"), -1, ["hr@20"]).answer == UNDECIDED
    assert evidence.along_length(found, ("mixed", "gone"), way, ["hr@20"]).answer == NOT_RUN


def test_slopes_are_those_of_seeds_and_sessions_drawn_anew():
    rng = np.random.default_rng(0)
    session = np.repeat(np.arange(80), rng.integers(1, 8, 80))
    length = rng.integers(1, 11, len(session)).astype(float)
    of_seed = np.array([-0.03, -0.01, 0.01, 0.03])[:, None]
    shared = rng.normal(size=80)[session]  # prefixes of a session are alike
    gain = 0.3 + of_seed * length + 0.2 * shared + 0.1 * rng.normal(size=(4, len(session)))
    own, drawn = slopes(np.stack([gain, 2 * gain]), length, session, 2000)
    assert own[0] == pytest.approx(np.polyfit(length, gain.mean(0), 1)[0]) and own[1] == pytest.approx(2 * own[0])
    loop = []
    for _ in range(1000):
        rows = np.concatenate([np.flatnonzero(session == s) for s in rng.integers(0, 80, 80)])
        seeds = gain[rng.integers(0, 4, 3)].mean(0)
        loop.append(np.polyfit(length[rows], seeds[rows], 1)[0])
    assert drawn[0].std() == pytest.approx(np.std(loop), rel=0.1)
    assert drawn[0].mean() == pytest.approx(np.mean(loop), abs=0.2 * np.std(loop))
    np.testing.assert_allclose(slopes(gain[None], np.full(len(length), 3.0), session, 20)[1], 0)  # of one length


def test_seeds_that_disagree_say_nothing_of_length(evidence_of):
    """Seeds with steep slopes of either sign: the mean has one, and with the sessions alone it would be significant."""
    slope_of = iter([0.07, 0.06, -0.045, 0.07, 0.06, -0.045])

    def own(n):
        return 0.5 + next(slope_of) * (np.minimum(n, 10) - 5.5)

    found = evidence_of(of("a", "b"), {"a": own, "b": own})
    assert evidence.along_length(found, ("a", "b"), 1, ["hr@20"]).answer == UNDECIDED


def test_the_paper_s_protocol_takes_the_t_test_of_a_slope(evidence_of):
    """It must have p < 0.01, without a correction."""
    rising = evidence_of(of("a", "b"), dict.fromkeys("ab", lambda n: 0.2 + 0.06 * np.minimum(n, 10)), protocol="paper")
    assert evidence.along_length(rising, ("a", "b"), 1, ["hr@20"]).answer == HOLDS
    for p, answer in ((0.02, UNDECIDED), (0.005, HOLDS)):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(evidence.stats, "linregress", lambda x, y, p=p: type("Fit", (), {"pvalue": p}))
            assert evidence.along_length(rising, ("a", "b"), 1, ["hr@20"]).answer == answer


def test_the_claims_of_figure_8_can_be_decided(evidence_of):
    """132 tests need more resamples than are drawn: the p of a plain difference must come from the tail."""
    hits = {arm.label: 0.1 for arm in STUDIES["figure8"].arms} | {claims.MIXED: 0.95, claims.GCSAN: 0.5}
    found = evidence_of("figure8", hits)
    assert evidence.mostly(found, claims.MIXED, (claims.PLAIN, claims.GCSAN), ["hr@20"]).answer == HOLDS
    assert evidence.on_long(found, claims.GCSAN, claims.PLAIN).answer == HOLDS


def test_arms_that_rank_other_prefixes_are_not_set_side_by_side(evidence_of):
    found = evidence_of(of("a", "b"), dict.fromkeys("ab", 0.5))
    path = folders.test_ranks(found.todo[-1].run)
    ranks = folders.read_ranks(path)
    folders.write_ranks(path, **{**ranks, "length": ranks["length"][::-1]})
    with pytest.raises(DataError, match="ranks other test prefixes"):
        evidence.on_long(found, "a", "b")


# --- time --------------------------------------------------------------------------------------------------


def test_times(evidence_of):
    hits = dict.fromkeys("abcd", 0.5)
    found = evidence_of(of(*"abcd"), hits, {"a": 60.0, "b": 10.0, "c": 12.0, "d": 9.0})
    assert evidence.times_slower(found, "a", "abcd", 5.0).answer == HOLDS
    assert evidence.times_slower(found, "b", "abcd", 5.0).answer == FAILS
    assert evidence.times_slower(found, "z", "abcd", 5.0).answer == NOT_RUN
    # One that is not run moves the median to between 9.5 and 11: 6.3 or 5.5 times.
    answers = [evidence.times_slower(found, "a", "abcdz", least).answer for least in (5.0, 6.0, 7.0)]
    assert answers == [HOLDS, UNDECIDED, FAILS]
    assert evidence.quicker(found, "b", ["a"]).answer == HOLDS
    assert evidence.quicker(found, "b", ["a", "d"]).answer == FAILS
    assert evidence.quicker(found, "d", ["b"]).answer == UNDECIDED  # 10 % is the margin
    assert evidence.quicker(found, "b", ["a", "z"]).answer == UNDECIDED
    assert evidence.quicker(found, "b", ["z"]).answer == NOT_RUN


@pytest.mark.parametrize("about", [{**MACHINE, "device": "H100"}, {**MACHINE, "threads": 16}, {}])
def test_times_of_several_machines_are_not_compared(evidence_of, about):
    hits = dict.fromkeys("abcd", 0.5)
    found = evidence_of(of(*"abcd"), hits, {"a": 80.0, "b": 10.0, "c": 20.0, "d": 40.0})
    files.write_json(found.todo[1].run / "environment.json", about)
    for each, says in (
        (evidence.times_slower(found, "a", "abc", 2.0), HOLDS),
        (evidence.quicker(found, "b", ["a", "d"]), HOLDS),
        (evidence.growth(found, 6.0), HOLDS),
    ):
        assert (each.answer, each.says) == (UNDECIDED, says) and "not of one machine" in each.measured
        assert ("unknown" if not about else "EPYC, ") in each.measured
    assert evidence.quicker(found, "c", ["a", "d"]).answer == HOLDS  # these share one


# --- densities ---------------------------------------------------------------------------------------------


@pytest.fixture
def case(tmp_path):
    sessions = Sessions.from_lists([[1, 2]])
    data = replace(Dataset("x", 5, sessions, sessions))
    object.__setattr__(data, "split_hash", "hash")

    def make(protocol="clean"):
        return claims.Case(data, "diginetica", tmp_path, protocol, lambda name: None, claims.judge)

    return make


def test_figures_3_and_4_are_those_of_the_verdict(case, tmp_path):
    assert claims.observed(case(), "srgnn", "O1").answer == NOT_RUN
    dissected(tmp_path)
    dissected(tmp_path, kl_weight=2.0)  # the verdict looks at half the weight
    found = claims.observed(case(), "srgnn", "O1")
    assert found.answer == HOLDS and "KL weight 4" in found.measured and "3 seeds" in found.measured
    assert claims.observed(case("paper"), "srgnn", "O1").answer == NOT_RUN
    dissected(tmp_path, usual=LITERAL, where="both", kept={**GOOD, "gnn.edge_in": 0.9}, max_steps=100)
    assert claims.observed(case("paper"), "srgnn", "O1").answer == FAILS


@pytest.mark.parametrize(
    ("answers", "answer"),
    [
        ({}, NOT_RUN),
        ({"gcsan": HOLDS}, UNDECIDED),  # the others are not run
        (dict.fromkeys(claims.GNNS, HOLDS), HOLDS),
        ({**dict.fromkeys(claims.GNNS, HOLDS), "dhcn": FAILS}, FAILS),
        ({**dict.fromkeys(claims.GNNS, HOLDS), "dhcn": "not applicable"}, HOLDS),
    ],
)
def test_other_models(monkeypatch, answers, answer):
    def observed(case, model, question):
        return evidence.Finding(answers[model], "", (model,)) if model in answers else evidence.MISSING

    monkeypatch.setattr(claims, "observed", observed)
    assert claims.similar(None).answer == answer


# --- the page ----------------------------------------------------------------------------------------------


def test_every_claim_names_a_study_and_is_one_on_each_log():
    for log in ("diginetica", "gowalla", "lastfm"):
        names = [claim.name for claim in CLAIMS if log in claim.logs]
        assert len(set(names)) == len(names) >= 22
        assert all(claim.printed(log) for claim in CLAIMS)
    assert {claim.study for claim in CLAIMS} - {""} <= set(claims.STUDIED)


def test_the_page_is_made_of_run_folders(data, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(study, "jobs", jobs_of)
    empty = claims.judged(data, SIZE, tmp_path)
    assert set(empty["clean answer"]) == {NOT_RUN}
    hits = dict.fromkeys(claims.TABLE2, 0.3) | {"attenmixer": 0.8}
    write(jobs_of(STUDIES["table2"], data, SIZE, tmp_path), hits)
    write(jobs_of(STUDIES["table2"], data, {**SIZE, "protocol": "paper"}, tmp_path), {**hits, "attenmixer": 0.1})
    page = claims.judged(data, SIZE, tmp_path)
    monkeypatch.setattr(claims, "judged", lambda *_: page)
    rows = page.set_index("name")
    assert rows["clean answer"]["table2-best"] == HOLDS and rows["paper answer"]["table2-best"] == FAILS
    assert rows["clean answer"]["table2-dhcn"] == FAILS and rows["clean answer"]["table4-M"] == NOT_RUN
    given = {"scale": "eighth", "dim": None, "epochs": None, "seeds": (1,), "runs_dir": str(tmp_path)}
    monkeypatch.setenv("COLUMNS", "80")
    print_claims(data, SIZE, given, "screen", None)
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= 80 and "fair protocol: 1 holds" in out
    assert "dissect study run table4 --dataset diginetica-eighth --scale eighth" in " ".join(out.split())
    for name in ("claims.md", "claims.json"):
        print_claims(data, SIZE, given, chosen_form(None, name, False), str(tmp_path / "out" / name))
    text = (tmp_path / "out" / "claims.md").read_text()
    assert "| Atten-Mixer is better than each other model in HR@20 and MRR@20. | Table 2 | holds | fails |" in text
    assert text.count("\n## ") == len(rows)
    record = json.loads((tmp_path / "out" / "claims.json").read_text())
    (best,) = (each for each in record["claims"] if each["name"] == "table2-best")
    assert best["clean"]["answer"] == HOLDS and len(best["clean"]["groups"]) == len(claims.TABLE2)
    assert best["paper"]["command"].endswith("--protocol paper")
    with pytest.raises(UsageError, match=r"cannot be written to claims\.tex"):
        print_claims(data, SIZE, given, "latex", "claims.tex")


def test_a_damaged_file_of_ranks_leaves_the_other_claims_their_answers(data, tmp_path, monkeypatch):
    monkeypatch.setattr(study, "jobs", jobs_of)
    todo = jobs_of(STUDIES["figure8"], data, SIZE, tmp_path)
    write(todo, {arm.label: 0.1 for arm in STUDIES["figure8"].arms} | {claims.MIXED: 0.95})
    others = {arm.label: 0.3 for arm in STUDIES["table3"].arms}
    write(jobs_of(STUDIES["table3"], data, SIZE, tmp_path), {**others, "srgnn, Atten-Mixer": 0.8})
    folders.test_ranks(todo[0].run).write_bytes(b"no ranks")
    rows = claims.judged(data, SIZE, tmp_path).set_index("name")
    assert rows["clean answer"]["table3-control"] == HOLDS and rows["clean answer"]["figure8-best"] == UNDECIDED
    assert "ranks-test-best.npz does not hold ranks" in rows["clean measured"]["figure8-best"]


def test_the_trainings_of_all_claims_are_each_there_once(data, tmp_path, monkeypatch):
    monkeypatch.setattr(study, "jobs", lambda found, *args: [
        replace(job, plan=replace(job.plan, group=tmp_path / job.arm.model)) for job in jobs_of(found, *args)
    ])  # fmt: skip
    todo = claims.jobs(data, SIZE, tmp_path)
    assert len({job.run for job in todo}) == len(todo) and [job.seed for job in todo] == sorted(
        job.seed for job in todo
    )
    assert todo[0].arm.label.startswith("figure3: ")


def test_damaged_runs_decide_nothing(case, tmp_path):
    group = dissected(tmp_path)
    for seed in (1, 2, 3):
        (group / f"s{seed}" / "density.jsonl").write_text("{}\n")
    found = claims.observed(case(), "srgnn", "O1")
    assert found.answer == UNDECIDED and "density.jsonl" in found.measured


def test_usual_settings_come_first(case, tmp_path):
    wider = dissected(tmp_path, seeds=(1, 2, 3, 4), kl_weight=8.0)
    usual = dissected(tmp_path)
    assert claims.dissection(case(), "srgnn") == usual
    assert claims.dissection(case("paper"), "srgnn") is None and wider != usual
    assert CALIBRATED["kl_weight"] == 4.0


def test_which_dissection_answers_does_not_depend_on_when_it_was_made(case, tmp_path):
    """Times change when folders are copied."""
    less, more = (dissected(tmp_path, kl_weight=weight) for weight in (2.0, 8.0))
    for first, second in ((1, 2), (2, 1)):
        os.utime(less / "config.toml", (first, first))
        os.utime(more / "config.toml", (second, second))
        assert claims.dissection(case(), "srgnn") == more


@pytest.mark.parametrize(
    "changed",
    [
        {"prior": "normal"},
        {"noise": "weight"},
        {"longest": 3},
        {"unit": "row"},
        {"init_from": "0" * 8},
        {"where": "gnn"},
        {"loss": "bpr-max"},
        {"model_options": {"dim": 4, "readout": "attenmixer"}},
    ],
    ids=str,
)
def test_a_dissection_of_another_model_or_kind_answers_no_claim(case, tmp_path, changed):
    group = dissected(tmp_path, seeds=(1, 2, 3, 4))
    config = Config(**{**folders.group_config(group), **changed})
    other = group.with_name(f"srgnn-x-{config.hash}")
    group.rename(other)
    files.write_toml(other / "config.toml", config.to_dict())
    assert claims.dissection(case(), "srgnn") is None
    files.write_json(other / "tuned.json", {"file": "tuned.toml"})  # none of this is searched
    assert claims.dissection(case(), "srgnn") is None


def test_a_tuned_dissection_may_differ_in_what_is_searched(case, tmp_path):
    group = dissected(tmp_path, seeds=(1, 2, 3, 4))
    searched = {"lr": 0.007, "l2": 1e-6, "kl_weight": 1.7, "model_options": {"dim": 4, "steps": 2, "dropout": 0.3}}
    config = Config(**{**folders.group_config(group), **searched})
    other = group.with_name(f"srgnn-x-{config.hash}")
    group.rename(other)
    files.write_toml(other / "config.toml", config.to_dict())
    assert claims.dissection(case(), "srgnn") is None
    files.write_json(other / "tuned.json", {"file": "tuned.toml"})
    assert claims.dissection(case(), "srgnn") == other


def test_the_papers_protocol_takes_no_other_kl_weight(case, tmp_path):
    dissected(tmp_path, usual=LITERAL, kl_weight=8.0)
    assert claims.dissection(case("paper"), "srgnn") is None
