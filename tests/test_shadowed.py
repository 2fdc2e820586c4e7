"""The rules of a verdict with shadows, each at its edge, on fabricated run folders."""

import json

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from analyses.density import at_step, density_table
from analyses.shadowed import Excess, excess_of, kept_by_role
from analyses.verdict import judge
from dissect.runs import folders
from dissect.runs.config import CALIBRATED, Config
from dissect.runs.files import write_json, write_toml

SIZES = {"gnn.edge_in": 1000, "readout.attend_all": 900, "readout.attend_score": 100, "readout.transform": 1000}
ROLES = dict(
    zip(
        SIZES,
        (("propagation", "gnn"), ("attention", "readout"), ("attention", "readout"), ("transformation", "readout")),
    )
)
GOOD = {"gnn.edge_in": 0.01, "readout.attend_all": 0.02, "readout.attend_score": 0.9, "readout.transform": 0.6}


def record(matrix, kept, role, module, size):
    counts = kept if isinstance(kept, dict) else dict.fromkeys(("0.5", "1", "2", "3", "4", "5"), kept)
    return {
        "schema": 1,
        "step": 100,
        "epoch": 6.6,
        "matrix": matrix,
        "block": "",
        "role": role,
        "module": module,
        "numel": size,
        "kl_weight": 4.0,
        "log_alpha_hist": [0] * 161 + [size],
        "kept": {t: round(share * size) for t, share in counts.items()},
        "theta_abs_gt": {"0.01": 0},
        "theta_gt": {"0": 0},
    }


def make_group(root, kept=GOOD, shadows=0.002, seeds=(1, 2, 3), mrr=17.0, dense=17.1, **settings):
    """A group whose seeds keep `kept` (by matrix, or a list by seed), and whose shadows keep `shadows`."""
    config = Config("srgnn", "x", "hash", {"dim": 4}, **{**CALIBRATED, **settings})
    group = root / f"srgnn-x-{config.hash}"
    write_toml(group / "config.toml", config.to_dict())
    write_json(group / "data.json", {"name": "x"})
    for number, seed in enumerate(seeds):
        of_seed = kept[number] if isinstance(kept, list) else kept
        of_shadows = shadows if isinstance(shadows, dict) else dict.fromkeys(SIZES, shadows)
        lines = [record(name, of_seed[name], *ROLES[name], size) for name, size in SIZES.items()]
        lines += [record(f"shadow.{name}", of_shadows[name], "shadow", "shadow", size) for name, size in SIZES.items()]
        run = folders.run_path(group, seed)
        run.mkdir(parents=True)
        (run / "density.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        finish(run, seed, mrr)
        if dense is not None:
            finish(folders.run_path(group, seed, folders.MATCHED), seed, dense)
    return group


def finish(run, seed, mrr):
    test = {f"hr@{k}": 50.0 for k in (5, 10, 20)} | {f"mrr@{k}": mrr for k in (5, 10, 20)}
    summary = {"seed": seed, "steps": 100, "epochs": 6.6, "seconds": 1.0, "n_parameters": 1000, "protocol": "clean"}
    bias = {"hr@20": 0.1, "mrr@20": 0.1}
    write_json(
        run / "summary.json",
        {**summary, "test": test, "selection_bias": bias, "checks": {"masked": test, "mean": test}},
    )
    (run / "DONE").touch()


def answers(group):
    verdict = judge(group)
    assert verdict["rules"] == "shadows"
    return verdict["O1"], verdict["O2"]


@pytest.mark.parametrize(
    ("propagation", "attention", "first", "second"),
    [
        (0.01, 0.30, "holds", "holds"),
        (0.049, 0.30, "holds", "holds"),
        (0.06, 0.30, "fails", "holds"),
        (0.30, 0.25, "fails", "fails"),
        (0.01, 0.02, "holds", "fails"),
        (0.30, 0.40, "fails", "undecided"),
    ],
)
def test_the_edges_of_the_observations(tmp_path, propagation, attention, first, second):
    kept = {**GOOD, "gnn.edge_in": propagation, "readout.attend_all": attention, "readout.attend_score": attention}
    found = answers(make_group(tmp_path, kept, shadows=0.0))
    assert tuple(answer["answer"] for answer in found) == (first, second), found


def test_excess_is_density_less_that_of_the_shadows_each_matrix_by_its_weights(tmp_path):
    shadows = {"gnn.edge_in": 0.01, "readout.attend_all": 0.0, "readout.attend_score": 0.5, "readout.transform": 0.1}
    kept = kept_by_role(at_step(density_table(make_group(tmp_path, shadows=shadows))), "3")
    attention = kept.loc[("attention", 1)]
    assert attention["density"] == pytest.approx((18 + 90) / 1000) and attention["shadow"] == pytest.approx(0.05)
    assert attention["excess"] == pytest.approx(0.058) and attention["false"] == pytest.approx(50 / 108)


def test_the_interval_is_that_of_the_t_distribution():
    values = [0.03, 0.05, 0.10]
    index = pd.MultiIndex.from_product([["propagation"], [1, 2, 3]], names=["role", "seed"])
    found = excess_of(pd.DataFrame({"excess": values}, index=index), "propagation")
    low, high = stats.t.interval(0.95, 2, np.mean(values), stats.sem(values))
    assert (found.low, found.high) == pytest.approx((low, high))
    assert not found.is_empty and not found.is_alive
    assert Excess(found.by_seed, None, None).is_empty is Excess(found.by_seed, None, None).is_alive is False


def test_a_dense_shadow_casts_doubt_on_what_is_alive_only(tmp_path):
    alive = {**GOOD, "gnn.edge_in": 0.4}
    first, _ = answers(make_group(tmp_path / "a", alive, shadows={**dict.fromkeys(SIZES, 0.0), "gnn.edge_in": 0.06}))
    assert first["answer"] == "undecided" and "may be chance" in " ".join(first["reasons"])
    first, _ = answers(make_group(tmp_path / "b", {**GOOD, "gnn.edge_in": 0.1}, shadows=0.06))
    assert first["answer"] == "holds"


def test_an_empty_role_needs_a_run_that_keeps_what_it_needs(tmp_path):
    for number, (change, says) in enumerate(
        (
            ({"dense": None}, "no matched dense run"),
            ({"mrr": 16.0}, "below 98%"),
            ({"kept": {**GOOD, "readout.transform": 0.1, "readout.attend_score": 0.1}}, "no role keeps more"),
            ({"seeds": (1, 2)}, "only 2 seeds"),
        )
    ):
        first, _ = answers(make_group(tmp_path / str(number), **change))
        assert (first["answer"], first["figures_say"]) == ("undecided", "holds") and says in " ".join(first["reasons"])
    alive = {**GOOD, "gnn.edge_in": 0.4}
    assert answers(make_group(tmp_path / "alive", alive, mrr=16.0))[0]["answer"] == "fails"  # no control asked for


def test_another_threshold_or_kl_weight_that_answers_otherwise_is_a_doubt(tmp_path):
    at_two = {"gnn.edge_in": dict.fromkeys(("0.5", "1", "3", "4", "5"), 0.01) | {"2": 0.3}}
    first, _ = answers(make_group(tmp_path / "a", {**GOOD, **at_two}))
    assert first["answer"] == "undecided" and "t = 2" in " ".join(first["reasons"])
    group = make_group(tmp_path / "b")
    reasons = " ".join(answers(group)[0]["reasons"])
    assert "not run: the same with --kl-weight 2" in reasons and "--noise weight" in reasons
    make_group(tmp_path / "b", seeds=(1,), kl_weight=2.0)
    assert "--kl-weight" not in " ".join(answers(group)[0]["reasons"])
    for run in folders.find_groups(tmp_path / "b"):
        if run != group:
            __import__("shutil").rmtree(run)
    make_group(tmp_path / "b", {**GOOD, "gnn.edge_in": 0.2}, seeds=(1,), kl_weight=2.0)
    first, _ = answers(group)
    assert first["answer"] == "undecided" and "with --kl-weight 2 it keeps 0.198" in " ".join(first["reasons"])


def test_the_matched_training_is_the_same_without_sparsevd():
    config = Config("srgnn", "x", "hash", {"dim": 4}, **CALIBRATED, max_steps=50)
    assert config.matched() == Config(
        "srgnn",
        "x",
        "hash",
        {"dim": 4},
        where="none",
        select="mrr@20",
        batch_size=400,
        lr=3e-3,
        schedule="host",
        average=0.4,
        max_steps=50,
    )


def test_a_calibrated_run_trains_its_matched_dense_model_and_is_judged_by_its_shadows(typed):
    words = ["run", "--calibrated", "--max-steps", "12", "--dim", "4", "--device", "cpu", "--quiet"]
    code, out, err = typed(*words)
    assert code == 0 and "shadow" in out and err == "", err
    group = folders.newest_group("runs")
    assert folders.variants(group) == ["full", folders.MATCHED]
    rows = [
        row for row in folders.read_summary(group / "s1")["density"] if row["role"] == "shadow" and not row["block"]
    ]
    assert len(rows) == 8 and {row["module"] for row in rows} == {"shadow"}
    beside = folders.read_summary(group / folders.MATCHED / "s1")
    assert beside["where"] == "none" and beside["selected"]["rule"] == "mrr@20"
    for run in (group / "s1", group / folders.MATCHED / "s1"):
        code, out, err = typed("evaluate", str(run), "--json")
        assert code == 0 and json.loads(out)["mrr@20"] == folders.read_summary(run)["test"]["mrr@20"], err
    assert typed("plot", "density")[0] == 0
    code, _, err = typed(*words)
    assert code == 2 and "Finished already" in err
