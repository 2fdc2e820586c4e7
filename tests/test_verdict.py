"""The rules of the verdict, each at its edge, on fabricated run folders; the bootstrap against a plain loop."""

import io
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from rich.console import Console

from analyses.bootstrap import relative_loss_interval, session_sums
from analyses.density import beyond_control, density, density_table
from analyses.need import compare_need, need_answer
from analyses.verdict import judge
from dissect.errors import DataError
from dissect.runs.config import Config
from dissect.runs.files import Lines, read_json, read_jsonl, write_json, write_toml
from dissect.runs.folders import run_path, write_ranks
from dissect.tables.verdict import on_screen

ROLES = {
    "edge_in": ("propagation", "gnn"),
    "attend_all": ("attention", "readout"),
    "attend_score": ("attention", "readout"),
    "control.kl_only": ("control", "control"),
}
SIZE = {"edge_in": 1000, "attend_all": 900, "attend_score": 100, "control.kl_only": 1000}
THRESHOLDS = ("0.5", "1", "2", "3", "4", "5")


def record(step, matrix, kept):
    counts = kept if isinstance(kept, dict) else dict.fromkeys(THRESHOLDS, kept)
    role, module = ROLES[matrix]
    return {
        "schema": 1,
        "step": step,
        "epoch": step / 10,
        "matrix": matrix,
        "block": "",
        "role": role,
        "module": module,
        "numel": SIZE[matrix],
        "kl_weight": 1.0,
        "log_alpha_hist": [0] * 161 + [SIZE[matrix]],
        "kept": {t: round(share * SIZE[matrix]) for t, share in counts.items()},
        "theta_abs_gt": {"0.01": 0},
        "theta_gt": {"0": 0},
    }


def make_group(
    tmp_path, densities, seeds=(1, 2, 3), noise="lrt", checks=None, with_weight_noise=True, where="both"
) -> Path:
    """A group whose seeds end with `densities` (matrix -> share, or share by threshold)."""
    config = Config("srgnn", "x", "hash", {"dim": 4}, noise=noise, where=where)
    group = tmp_path / f"srgnn-x-{config.hash}"
    write_toml(group / "config.toml", config.to_dict())
    write_json(group / "data.json", {"name": "x"})
    for seed in seeds:
        run = run_path(group, seed)
        run.mkdir(parents=True)
        lines = [
            record(step, matrix, share)
            for step in (80, 100)
            for matrix, share in {"control.kl_only": 0.0, **densities}.items()
        ]
        (run / "density.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        test = {f"hr@{k}": 50.0 for k in (5, 10, 20)} | {f"mrr@{k}": 17.0 for k in (5, 10, 20)}
        write_json(
            run / "summary.json",
            {
                "seed": seed,
                "steps": 100,
                "epochs": 10.0,
                "seconds": 1.0,
                "n_parameters": 1000,
                "protocol": "clean",
                "test": test,
                "selection_bias": {"hr@20": 0.1, "mrr@20": 0.1},
                "checks": checks or {"masked": test, "mean": test},
            },
        )
        (run / "DONE").touch()
    if with_weight_noise and noise == "lrt":
        make_group(tmp_path, densities, seeds=(1,), noise="weight", where=where)
    return group


def dense(propagation, attention):
    return {"edge_in": propagation, "attend_all": attention, "attend_score": attention}


@pytest.mark.parametrize(
    ("propagation", "attention", "first", "second"),
    [
        (0.05, 0.25, "holds", "holds"),
        (0.06, 0.25, "undecided", "holds"),
        (0.20, 0.61, "undecided", "holds"),
        (0.21, 0.60, "fails", "undecided"),
        (0.30, 0.29, "fails", "fails"),
        (0.02, 0.20, "holds", "undecided"),
        (0.02, 0.01, "holds", "fails"),
        (0.10, 0.25, "undecided", "undecided"),
    ],
)
def test_the_edges_of_the_two_observations(tmp_path, propagation, attention, first, second):
    verdict = judge(make_group(tmp_path, dense(propagation, attention)))
    assert (verdict["O1"]["answer"], verdict["O2"]["answer"]) == (first, second)


def test_roles_are_weighted_by_entries_and_matrices_stand_beside(tmp_path):
    verdict = judge(make_group(tmp_path, {"edge_in": 0.01, "attend_all": 0.1, "attend_score": 1.0}))
    assert verdict["density"]["roles"]["attention"] == pytest.approx((90 + 100) / 1000)
    assert {m["matrix"]: m["density"] for m in verdict["density"]["matrices"]}["attend_score"] == 1.0


def doubts(verdict):
    return " ".join(verdict["O1"]["reasons"])


def test_two_seeds_decide_nothing(tmp_path):
    verdict = judge(make_group(tmp_path, dense(0.01, 0.5), seeds=(1, 2)))
    assert verdict["O1"]["answer"] == "undecided" and verdict["O1"]["figures_say"] == "holds"
    assert "2 seeds" in doubts(verdict)


def test_one_seed_of_three_decides_against_holding(tmp_path):
    group = make_group(tmp_path, dense(0.01, 0.5))
    path, seed = run_path(group, 3) / "density.jsonl", {**dense(0.06, 0.5), "control.kl_only": 0.0}
    path.write_text("".join(json.dumps(record(100, m, s)) + "\n" for m, s in seed.items()))
    assert judge(group)["O1"]["figures_say"] == "undecided"


def test_a_control_that_is_still_dense_decides_nothing(tmp_path):
    verdict = judge(make_group(tmp_path, {**dense(0.01, 0.5), "control.kl_only": 0.06}))
    assert verdict["O1"]["answer"] == "undecided" and "control.kl_only" in doubts(verdict)


def test_a_mask_that_costs_accuracy_decides_nothing(tmp_path):
    checks = {"masked": {"hr@20": 50.0, "mrr@20": 16.6}, "mean": {"hr@20": 50.0, "mrr@20": 17.0}}
    verdict = judge(make_group(tmp_path, dense(0.01, 0.5), checks=checks))
    assert verdict["O1"]["answer"] == "undecided" and "unmasked 17.00" in doubts(verdict)


@pytest.mark.parametrize("other", ["2", "4"])
def test_another_answer_at_another_threshold_decides_nothing(tmp_path, other):
    shares = dict.fromkeys(THRESHOLDS, 0.01) | {other: 0.3}
    verdict = judge(make_group(tmp_path, dense(shares, 0.5)))
    assert verdict["O1"]["answer"] == "undecided" and f"t = {other}" in doubts(verdict)


def test_weight_noise_belongs_to_a_verdict(tmp_path):
    verdict = judge(make_group(tmp_path, dense(0.01, 0.5), with_weight_noise=False))
    assert verdict["O1"]["answer"] == "undecided" and "--noise weight" in doubts(verdict)


def test_weight_noise_that_answers_otherwise_decides_nothing(tmp_path):
    group = make_group(tmp_path, dense(0.01, 0.5), with_weight_noise=False)
    make_group(tmp_path, dense(0.3, 0.5), seeds=(1,), noise="weight")
    verdict = judge(group)
    assert verdict["O1"]["answer"] == "undecided" and "answers 'fails' with --noise weight" in doubts(verdict)


def test_unfinished_seeds_do_not_enter_the_comparison_of_noise(tmp_path):
    group = make_group(tmp_path, dense(0.01, 0.5), with_weight_noise=False)
    sibling = make_group(tmp_path, dense(0.01, 0.5), seeds=(1,), noise="weight")
    before = judge(group)["O1"]
    for place in (group, sibling):
        begun = run_path(place, 9)
        begun.mkdir()
        (begun / "density.jsonl").write_text(json.dumps(record(0, "edge_in", 1.0)) + "\n")
    assert judge(group)["O1"] == before and before["answer"] == "holds"


def test_a_control_is_judged_in_every_seed(tmp_path):
    group = make_group(tmp_path, dense(0.01, 0.5))
    path = run_path(group, 2) / "density.jsonl"
    lines = [line for line in read_jsonl(path) if not (line["matrix"] == "control.kl_only" and line["step"] == 100)]
    path.write_text("".join(json.dumps(line) + "\n" for line in [*lines, record(100, "control.kl_only", 0.12)]))
    verdict = judge(group)
    assert verdict["O1"]["answer"] == "undecided" and "still has density 0.120 (> 0.05)" in doubts(verdict)


def write_coverage(group, seeds=(1, 2, 3), **covered):
    """A record by role: how many of 1,000 weights are dissected."""
    rows = [
        {"matrix": f"{role} matrix", "declared": True, "role": role, "module": "gnn", "shapes": [[10, 100]]}
        | {"numel": 1000, "covered": count, "reason": "" if count == 1000 else "why"}
        for role, count in covered.items()
    ]
    for seed in seeds:
        write_json(run_path(group, seed) / "coverage.json", {"coverage": rows})


@pytest.mark.parametrize(
    ("covered", "first", "second"),
    [
        ({"propagation": 1000, "attention": 1000, "update": 1}, "holds", "holds"),
        ({"propagation": 999, "attention": 1000}, "undecided", "undecided"),
        ({"propagation": 1000, "attention": 999}, "holds", "undecided"),
    ],
)
def test_an_answer_on_a_role_dissected_in_part_is_undecided(tmp_path, covered, first, second):
    group = make_group(tmp_path, dense(0.01, 0.5))
    assert judge(group)["O1"]["answer"] == "holds" and judge(group)["coverage"] is None  # a run of before
    write_coverage(group, **covered)
    write_coverage(group, seeds=(1, 3), propagation=1000, attention=1000)
    verdict = judge(group)
    assert (verdict["O1"]["answer"], verdict["O2"]["answer"]) == (first, second)
    assert (verdict["O1"]["figures_say"], verdict["O2"]["figures_say"]) == ("holds", "holds")
    part = "999 of 1,000 weights are dissected (99.9 %)"
    assert (part in doubts(verdict)) == (first == "undecided")
    assert (part in " ".join(verdict["O2"]["reasons"])) == (second == "undecided")
    assert "matrix, " in screen(verdict) and "weights: why" in screen(verdict)


def test_scores_that_are_all_equal_decide_nothing(tmp_path):
    group = make_group(tmp_path, dense(0.01, 0.5))
    for seed in (1, 2, 3):
        path = run_path(group, seed) / "summary.json"
        worst = {"hr@20": 0.0, "mrr@20": 0.0 if seed == 2 else 17.0}
        write_json(path, {**read_json(path), "test_worst_ties": worst})
    verdict = judge(group)
    assert verdict["O1"]["answer"] == "undecided" and "seed 2: MRR@20 is 17.00, but 0.00 with ties counted" in doubts(
        verdict
    )
    assert "seed 1" not in doubts(verdict)
    console = Console(width=200, file=io.StringIO())
    console.print(on_screen(verdict))
    assert "with ties counted against the target" in console.file.getvalue()


def test_a_role_that_is_not_there_is_not_applicable(tmp_path):
    verdict = judge(make_group(tmp_path, {"attend_all": 0.5}, where="readout"))
    assert verdict["O1"]["answer"] == verdict["O2"]["answer"] == "not applicable"
    verdict = judge(make_group(tmp_path / "gnn", {"edge_in": 0.01}, where="gnn"))
    assert (verdict["O1"]["answer"], verdict["O2"]["answer"]) == ("holds", "not applicable")


def test_unfinished_seeds_do_not_count(tmp_path):
    group = make_group(tmp_path, dense(0.01, 0.5))
    for seed in (1, 2, 3):
        (run_path(group, seed) / "DONE").unlink()
    verdict = judge(group)
    assert verdict["seeds"] == [] and verdict["O1"]["answer"] == "undecided"
    assert read_json(group / "verdict.json")["seeds"] == []


def rank_file(run, gain, rng, sessions=400):
    """Ranks whose MRR is about `gain`: rank 1 with that chance, else a miss."""
    session = np.repeat(np.arange(sessions, dtype=np.int32), 3)
    rank = np.where(rng.random(len(session)) < gain, 1, 100).astype(np.int32)
    write_ranks(run / "ranks-test-last.npz", rank=rank, session=session, length=session, target=session)


@pytest.mark.parametrize(("gain", "answer"), [(0.5, "undecided"), (0.3, "needed"), (0.7, "redundant")])
def test_need_by_retraining(tmp_path, gain, answer):
    group, rng = make_group(tmp_path, dense(0.5, 0.5)), np.random.default_rng(0)
    for seed in (1, 2, 3):
        rank_file(run_path(group, seed), 0.5, rng)
        reduced = run_path(group, seed, "without-propagation")
        rank_file(reduced, gain, rng)
        (reduced / "DONE").touch()
    given = judge(group)["need"]["propagation"]
    assert given["answer"] == answer
    assert set(given["by_seed"]) == {1, 2, 3}
    assert given["mrr@20_full"] == pytest.approx(50, abs=3)


def test_need_can_be_judged_on_some_prefixes_only(tmp_path):
    group = make_group(tmp_path, dense(0.5, 0.5))
    for variant in ("full", "without-propagation"):
        for seed in (1, 2, 3):
            run = run_path(group, seed, variant)
            run.mkdir(parents=True, exist_ok=True)
            rank = np.tile(np.array([1, 20, 100 if variant == "full" else 1], np.int32), 100)
            write_ranks(
                run / "ranks-test-last.npz",
                rank=rank,
                session=np.repeat(np.arange(100, dtype=np.int32), 3),
                length=np.zeros(300, np.int32),
                target=np.zeros(300, np.int32),
            )
            (run / "DONE").touch()
    chosen = np.tile([True, True, False], 100)
    given = judge(group, judged=chosen)["need"]["propagation"]
    assert given["loss"] == 0 and given["judged_prefixes"] == 200
    numbers = [f"{metric}@20_{model}" for metric in ("hr", "mrr") for model in ("full", "reduced")]
    assert [given[name] for name in numbers] == pytest.approx([100, 100, 52.5, 52.5])
    given = judge(group)["need"]["propagation"]
    assert [given[name] for name in numbers] == pytest.approx([200 / 3, 100, 35, 205 / 3])
    assert given["loss"] == pytest.approx(1 - 205 / 105)


def test_each_seed_is_compared_with_itself():
    def ranks(rank):
        return {"rank": np.full(100, rank), "session": np.repeat(np.arange(50), 2)}

    full = {Path(f"g/s{seed}"): ranks(1) for seed in (1, 2, 3)}
    reduced = {Path("g/without-gnn/s3"): ranks(2), Path("g/without-gnn/s2"): ranks(4)}
    given = compare_need(full, reduced, None)
    assert {seed: one["loss"] for seed, one in given["by_seed"].items()} == {2: 0.75, 3: 0.5}
    assert given["loss"] == 0.625 and "only 2 seeds; a verdict needs 3" in given["reasons"]


@pytest.mark.parametrize(("sessions", "answer"), [(19, "undecided"), (20, "needed")])
def test_need_is_not_decided_by_a_handful_of_sessions(sessions, answer):
    def runs(rank, where):
        ranks = {"rank": np.full(2 * sessions, rank), "session": np.repeat(np.arange(sessions), 2)}
        return {Path(f"g/{where}s{seed}"): ranks for seed in (1, 2, 3)}

    given = compare_need(runs(1, ""), runs(2, "without-gnn/"), None)
    assert given["answer"] == answer and {one["answer"] for one in given["by_seed"].values()} == {answer}
    assert (f"only {sessions} test sessions; 20 are asked" in given["reasons"]) == (answer == "undecided")


def test_runs_with_other_prefixes_than_most_are_left_out_of_need(tmp_path, capsys):
    """Of the reduced model, or of the full one, be it the first; the others still answer."""
    group, rng = make_group(tmp_path, dense(0.5, 0.5)), np.random.default_rng(0)
    reduced = run_path(group, 1, "without-propagation")
    for seed in (1, 2, 3):
        rank_file(run_path(group, seed), 0.5, rng)
    rank_file(reduced, 0.5, rng, sessions=399)
    (reduced / "DONE").touch()
    assert judge(group)["need"] == {} and "other test prefixes" in capsys.readouterr().err
    rank_file(reduced, 0.5, rng)
    rank_file(run_path(group, 1), 0.5, rng, sessions=399)
    given = judge(group)["need"]["propagation"]
    assert given["by_seed"] == {} and "s1 ranks other test prefixes" in capsys.readouterr().err
    rank_file(run_path(group, 1), 0.5, rng)
    (reduced / "ranks-test-last.npz").rename(reduced / "ranks-test-best.npz")
    assert judge(group)["need"]["propagation"]["by_seed"].keys() == {1}


def test_need_with_two_seeds_is_undecided(tmp_path):
    group, rng = make_group(tmp_path, dense(0.5, 0.5), seeds=(1, 2)), np.random.default_rng(0)
    for seed in (1, 2):
        rank_file(run_path(group, seed), 0.5, rng)
        rank_file(run_path(group, seed, "without-propagation"), 0.1, rng)
        (run_path(group, seed, "without-propagation") / "DONE").touch()
    given = judge(group)["need"]["propagation"]
    assert given["answer"] == "undecided" and given["figures_say"] == "needed"


def test_need_of_a_model_that_ranks_nothing_is_null_with_a_reason(tmp_path):
    group, rng = make_group(tmp_path, dense(0.5, 0.5)), np.random.default_rng(0)
    for gain, says in ((0.0, "the full model ranks nothing: MRR@20 is 0"), (0.002, "no interval")):
        for seed in (1, 2, 3):
            rank_file(run_path(group, seed), gain, np.random.default_rng(0), sessions=100)
            rank_file(run_path(group, seed, "without-propagation"), 0.1, rng, sessions=100)
            (run_path(group, seed, "without-propagation") / "DONE").touch()
        given = judge(group)["need"]["propagation"]
        assert given["answer"] == given["by_seed"][1]["answer"] == "undecided"
        assert says in given["reasons"][0] and given["low"] is given["high"] is None
        assert (given["loss"] is None) == (gain == 0)
        refuse = {"parse_constant": lambda word: pytest.fail(f"{word} is no JSON")}
        assert json.loads((group / "verdict.json").read_text(), **refuse)["need"]["propagation"] == {
            **given,
            "by_seed": {str(seed): one for seed, one in given["by_seed"].items()},
        }
        assert says in screen(judge(group))


def test_what_is_no_number_is_null_in_every_record(tmp_path):
    write_json(tmp_path / "a.json", {"a": [1.5, float("nan")], "b": {"c": -float("inf"), "d": 2}})
    assert read_json(tmp_path / "a.json") == {"schema": 1, "a": [1.5, None], "b": {"c": None, "d": 2}}
    lines = Lines(tmp_path / "b.jsonl")
    lines.append({"a": float("inf"), "b": "NaN"})
    lines.close()
    assert read_jsonl(tmp_path / "b.jsonl") == [{"schema": 1, "a": None, "b": "NaN"}]


def test_the_limits_of_need():
    assert [need_answer(*i) for i in ((-0.02, 0.009), (0.011, 0.2), (0.0, 0.02))] == [
        "redundant",
        "needed",
        "undecided",
    ]


def plain_interval(full, reduced, count, resamples, rng):
    """The hierarchical bootstrap once more, one draw at a time."""
    losses = []
    sessions = full.shape[1]
    for _ in range(resamples):
        a_seeds = rng.integers(0, len(full), len(full) - 1)
        b_seeds = rng.integers(0, len(reduced), len(reduced) - 1)
        drawn = rng.integers(0, sessions, sessions)
        a = np.mean([full[k, drawn].sum() for k in a_seeds])
        b = np.mean([reduced[k, drawn].sum() for k in b_seeds])
        losses.append(1 - b / a)
    return np.quantile(losses, [0.025, 0.975])


def test_the_bootstrap_equals_a_plain_one():
    rng = np.random.default_rng(1)
    full, reduced = rng.random((3, 150)) + 0.2, rng.random((3, 150)) + 0.1
    reduced[0] += 0.05  # seeds differ
    count = np.full(150, 2.0)
    estimate, low, high = relative_loss_interval(full, reduced, count, resamples=4000)
    assert estimate == pytest.approx(1 - reduced.sum() / full.sum())
    np.testing.assert_allclose([low, high], plain_interval(full, reduced, count, 4000, rng), atol=0.006)


def test_the_interval_covers_the_truth_as_often_as_it_says():
    rng = np.random.default_rng(2)
    covered = 0
    for _ in range(200):
        both = rng.normal(1, 0.5, 100)  # a session's difficulty is common to both models
        full, reduced = (both + rng.normal(0, 0.5, (1, 100)) + shift for shift in (0.0, -0.1))
        _, low, high = relative_loss_interval(full, reduced, np.ones(100), resamples=400)
        covered += low <= 0.1 <= high
    assert 180 <= covered <= 198


def test_sums_by_session():
    total, count = session_sums(np.array([1, 2, 21, 4]), np.array([0, 0, 1, 2]), np.array([True, True, True, False]))
    assert total.tolist() == [1.5, 0, 0] and count.tolist() == [2, 1, 0]


def test_density_counts_whole_matrices_once(tmp_path):
    group = make_group(tmp_path, dense(0.5, 0.2), seeds=(1,))
    path = run_path(group, 1) / "density.jsonl"
    counts = [0] * 161 + [500]
    block = {**record(100, "edge_in", 0.4), "block": "r", "numel": 500, "log_alpha_hist": counts}
    path.write_text(path.read_text() + json.dumps(block) + "\n")
    table = density_table(group)
    shares = density(table[table["step"] == 100], ["role"], "kept 3")
    assert shares["propagation"] == 0.5


def screen(verdict, width=80):
    console = Console(width=width, record=True, file=io.StringIO())
    console.print(on_screen(verdict))
    return console.export_text()


def test_doubts_about_both_are_printed_once(tmp_path):
    verdict = judge(make_group(tmp_path, {**dense(0.01, 0.5), "control.kl_only": 0.06}, seeds=(1, 2)))
    common = [reason for reason in verdict["O1"]["reasons"] if reason in verdict["O2"]["reasons"]]
    text = screen(verdict, 200)
    assert "density by seed: propagation 0.010, 0.010: all <= 0.05\n" in text
    assert len(common) == 2 and text.count("undecided (the numbers alone say: holds)") == 2
    for reason in {*verdict["O1"]["reasons"], *verdict["O2"]["reasons"]}:
        assert text.count(f"    {reason}") == 1
    questions = screen(verdict).split("O1  ")[1].split("Judged by")[0]
    for line in questions.splitlines()[1:]:
        assert line.startswith(("    ", "O2  ", "O1 and O2: ", "need: "))  # reasons are indented on every line


def test_need_is_suggested_for_roles_of_the_model(tmp_path):
    group = make_group(tmp_path, dense(0.01, 0.5))
    assert "--without propagation" in " ".join(screen(judge(group)).split())  # an older run: by its class
    for seed in (1, 2, 3):
        path = run_path(group, seed) / "summary.json"
        write_json(path, {**read_json(path), "removable": ["encoder"]})
    assert "--without encoder" in " ".join(screen(judge(group)).split())
    write_json(run_path(group, 1) / "summary.json", {**read_json(path), "seed": 1, "removable": []})
    text = " ".join(screen(judge(group)).split())
    assert "cannot be built without a part" in text and "--without" not in text


def test_a_record_without_its_keys_is_named_by_file_and_line(tmp_path):
    group = make_group(tmp_path, dense(0.5, 0.2), seeds=(1,))
    path = run_path(group, 1) / "density.jsonl"
    whole = path.read_text()
    for line, says in (('{"step": 1}', "is damaged: .*`epoch`"), ("3", "is damaged")):
        path.write_text(f"{whole}{line}\n")
        with pytest.raises(DataError, match=f"density.jsonl, line {whole.count(chr(10)) + 1}, {says}"):
            density_table(group)


def test_the_verdict_can_be_read_on_screen(tmp_path):
    text = screen(judge(make_group(tmp_path, dense(0.01, 0.5))))
    assert "O1  propagation withers (Figure 3): holds" in text and "edge_in" in text
    assert "…" not in text


# --- against the useless control ---


def histogram_of(low, high, n=1000):
    """n weights with log alpha evenly between two edges of bins."""
    bins = [0] * 162
    first, last = round((low + 20) * 4) + 1, round((high + 20) * 4) + 1
    for i in range(n):
        bins[first + i * (last - first) // n] += 1
    return bins


def final_of(**by_matrix):
    rows = [
        {"seed": seed, "step": 100, "matrix": matrix, "block": "", "numel": 1000, "log_alpha_hist": counts}
        for matrix, per_seed in by_matrix.items()
        for seed, counts in enumerate(per_seed, 1)
    ]
    return pd.DataFrame(rows).replace({"matrix": {"rolled": "control.rolled"}})


def test_density_beyond_the_control_is_taken_where_that_keeps_a_twentieth():
    # The control lies evenly over 0 .. 5 in the first seed, and over -5 .. 0 in the second: a twentieth of it lies
    # below 0.25, or -4.75. A matrix over -4 .. 1 has 17 twentieths of its weights there, or none.
    found = beyond_control(
        final_of(rolled=[histogram_of(0, 5), histogram_of(-5, 0)], edge_in=[histogram_of(-4, 1), histogram_of(-4, 1)])
    ).set_index(["matrix", "seed"])
    assert found["limit_at"].unstack("matrix").drop_duplicates().to_numpy().tolist() == [[0.25, 0.25], [-4.75, -4.75]]
    assert found.loc[("control.rolled", 1), "density"] == found.loc[("control.rolled", 2), "density"] == 0.05
    assert found.loc[("edge_in", 1), "density"] == 0.85 and found.loc[("edge_in", 2), "density"] == 0.0


def test_without_that_control_there_is_nothing_beyond_it(tmp_path):
    assert beyond_control(final_of(edge_in=[histogram_of(0, 5)])).empty
    lowest = [1000, *[0] * 161]  # all below the range: no edge has a twentieth below it
    assert beyond_control(final_of(rolled=[lowest], edge_in=[lowest])).empty
    verdict = judge(make_group(tmp_path, {"edge_in": 0.5, "attend_all": 0.5}))
    assert verdict["density"]["beyond_control_at"] == {}
    assert verdict["density"]["matrices"][0]["beyond_control"] is None
