"""What is said of numbers: no mean of other seeds beside it, no rounding against its sentence, no hint that fails."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from analyses import opinions, verdict
from analyses.need import compare_need
from analyses.training import over_seeds
from dissect.errors import UsageError
from dissect.runs import folders
from dissect.runs.config import Config
from dissect.sparsevd import dissect as dissect_any
from dissect.tables.cells import p_value
from dissect.tables.opinions import table_of
from figures import opinions as opinions_figure
from figures import training as training_figure
from tests.test_dissect_any import BATCHES, Branches, accuracy, data, loss

SMALL = ("--dataset", "demo", "--dim", "4", "--max-steps", "6")


def one_group():
    (group,) = folders.find_groups(Path("runs"))
    return group


def test_the_matched_models_of_fewer_seeds_are_set_beside_these_seeds(typed):
    assert typed("run", *SMALL, "--seed", "1", "--seed", "2")[0] == 0
    group = one_group()
    whole = verdict.judge(group)
    assert "SparseVD: " in whole["paragraph"] and "% with it" not in whole["paragraph"]
    shutil.rmtree(group / "without-sparsevd" / "s2")
    found = verdict.judge(group)
    assert found["matched"]["seeds"] == [1]
    assert found["matched"]["mrr@20_dissected"] == found["accuracy"]["by_seed"]["1"]["mrr@20"]
    assert f"% without SparseVD, {found['matched']['mrr@20_dissected']:.2f} % with it" in found["paragraph"]


def test_a_path_of_groups_with_other_seeds_names_them_and_no_dense_model(typed):
    assert typed("run", *SMALL, "--kl-weight", "4", "--seed", "1", "--seed", "2")[0] == 0
    code, out, _ = typed("run", *SMALL, "--kl-weight", "2", "--kl-weight", "4", "--seed", "1")
    assert code == 0 and "seeds" in out and re.search(r"^4 +1 2 ", out, re.MULTILINE), out
    assert "matched dense" not in out and "one seed" not in out


def test_the_options_that_a_verdict_asks_for_are_those_that_it_finds(typed):
    weight = "1.2345678"
    assert typed("run", *SMALL, "--seed", "1", "--kl-weight", weight)[0] == 0
    first = one_group()
    half = next(option for option in verdict.judge(first)["not_run"] if "kl-weight" in option)
    assert typed("run", *SMALL, "--seed", "1", *half.split())[0] == 0
    asked = verdict.judge(first)["not_run"]
    assert half not in asked and asked[-1] == "--literal (without --kl-weight)"
    assert typed("run", *SMALL, "--seed", "1", "--literal")[0] == 0  # without the weight, as it says
    assert not [option for option in verdict.judge(first)["not_run"] if "literal" in option]


def test_a_role_that_keeps_much_is_not_said_to_keep_few_weights(typed):
    assert typed("run", "--model", "gru4rec", *SMALL, "--seed", "1")[0] == 0
    path = one_group() / "s1" / "summary.json"
    summary = json.loads(path.read_text())
    summary["checks"]["swapped_encoder"]["mrr@20"] = 0.5 * summary["checks"]["masked"]["mrr@20"]
    path.write_text(json.dumps(summary))
    said = " ".join(" ".join(role["doubts"]) for role in verdict.judge(one_group())["roles"].values())
    assert "still keeps" in said and "keeps little more than its shadows" in said and "few weights" not in said


class Wide(nn.Module):
    """A wide branch that needs few of its weights, beside one that needs many."""

    def __init__(self):
        super().__init__()
        self.wide, self.rest, self.head = nn.Linear(32, 32), nn.Linear(8, 32), nn.Linear(64, 4)

    def forward(self, x, _):
        return self.head(torch.cat([torch.relu(self.wide(x[:, :32])), torch.relu(self.rest(x[:, 32:]))], 1))


def test_few_weights_may_be_enough_in_any_module():
    def examples(n):
        x = torch.randn(n, 40)
        return x, x, (x[:, 0] > 0).long() + 2 * (x[:, 32] * x[:, 33] > 0).long()

    torch.manual_seed(0)
    x, _, y = examples(6000)
    batches = [(a, a, b) for a, b in zip(x.split(200), y.split(200), strict=True)]
    how = {"steps": 500, "lr": 0.01, "kl_weight": 8, "quiet": True}
    wide = dissect_any(Wide, loss, batches, held_out=[examples(1000)], score=accuracy, **how).verdict()["wide"]
    assert wide["figures_say"] == "withered" and wide["swapped"] > 0.3
    assert wide["answer"] == "undecided" and any("unseen data need wide" in why for why in wide["reasons"])


def test_held_out_batches_that_cannot_be_swapped_are_refused_before_the_training():
    tiny = [tuple(part[:2] for part in data())]
    with pytest.raises(UsageError, match="has 2"):
        dissect_any(Branches, loss, BATCHES, held_out=tiny, score=accuracy, steps=10**4, quiet=True)
    tiny_last = [*BATCHES, *tiny]  # as a loader gives it
    dissect_any(Branches, loss, BATCHES, held_out=tiny_last, score=accuracy, seeds=(1,), steps=4, quiet=True)


def test_rounding_does_not_contradict_its_sentence():
    assert p_value(0.0504) == "0.0504" and p_value(0.05) == "0.050" and p_value(0.0496) == "0.050"
    assert p_value(0.0514) == "0.051"


def test_a_single_session_is_one():
    ranks = {"rank": np.array([1, 2, 3]), "session": np.zeros(3, int)}
    said = compare_need({Path("g/s1"): ranks}, {Path("g/without-x/s1"): ranks}, None)["reasons"]
    assert "only 1 test session; 20 are asked" in said


def test_a_criterion_that_tells_nothing_has_no_agreement_and_no_first_matrix():
    numbers = {
        "sparsevd": [0.1, 0.2, 0.3],
        "l0": [1.0] * 3,
        "magnitude": [1.0, 2.0, 3.0],
        "zero": [1.0, 3.0, 0.4],
        "mean": [1.0, 3.0, 0.4],
    }
    beside = {"seed": [1] * 3, "role": ["propagation"] * 3, "size": [10] * 3}
    matrices = pd.DataFrame({"matrix": list("abc"), **beside, **numbers})
    roles = pd.DataFrame({"seed": [1], "role": ["propagation"], "size": [30], "sparsevd": [0.2], "l0": [1.0]})
    matrices, roles = (opinions._numbers(each, ["seed", "matrix", "role", "size"]) for each in (matrices, roles))
    agree, empty = opinions.agreement(matrices), pd.DataFrame(columns=["criterion", "share", "mrr@20"])
    words = opinions._disagreements(matrices)
    assert "which is far" in words[0] and words[1].startswith("Further still")
    found = opinions.Opinions(matrices, roles, agree, empty, pd.DataFrame(), pd.DataFrame(), words, 5, "test")
    columns = table_of(found, Config("srgnn", "demo", "")).columns
    assert "nan" not in {cell for column in columns for cell in column.cells}
    order = pd.DataFrame({"l0": [1.0, 1.0, 1.0], "sparsevd": [1.0, 1.0, 3.0]}, index=list("abc"))
    said = opinions_figure.describe(order, pd.DataFrame(), {}, "x")
    assert "l0: none (all alike)" in said and "sparsevd: a, b" in said


def test_the_words_of_a_training_are_of_the_epochs_that_all_seeds_have():
    rows = [
        {"seed": seed, "curve": curve, "split": split, "step": 10 * epoch, "epoch": float(epoch), "minutes": epoch,
         "value": base - 0.5 * epoch}
        for seed, last, base in ((1, 3, 10), (2, 3, 10), (3, 6, 14)) for epoch in range(1, last + 1)
        for curve, split in (("HR@20", "valid"), ("MRR@20", "valid"), ("loss", "train"))
    ]  # fmt: skip
    shown = over_seeds(pd.DataFrame(rows)).assign(line="srgnn")
    said = training_figure.describe(shown, "valid", "x")
    assert "at epoch 3 (highest 10.83 at epoch 1), after which fewer seeds go on" in said and "epoch 4" not in said


def test_a_figure_by_length_does_not_call_its_last_length_ten_if_none_is(typed):
    draw = np.random.default_rng(1)
    clicks = [(session, k) for session in range(600) for k in range(2 + session % 4)]
    lines = [f"{session},{draw.integers(1, 31)},{1600000000 + 600 * session + k}" for session, k in clicks]
    Path("log.csv").write_text("\n".join(["visit,product,time", *lines, ""]))
    own = ("--from", "log.csv", "--session-col", "visit", "--item-col", "product", "--time-col", "time")
    code, _, err = typed("data", "prepare", "shorts", *own)
    assert code == 0, err
    size = ("figure8", "--dataset", "shorts", "--dim", "4", "--epochs", "0.2", "--seed", "1", "--arm", "SR-GNN")
    typed("study", "run", *size)
    code, _, err = typed("study", "figure", *size)
    assert code == 0, err
    said = " ".join(path.read_text() for path in Path("runs").rglob("figure8*.txt"))
    assert " at 4" in said and "≥ 10" not in said


def test_a_single_run_of_atten_mixer_is_told_to_train_another_model(typed):
    assert typed("train", "attenmixer", "--dataset", "demo", "--dim", "8", "--max-steps", "3")[0] == 0
    code, _, err = typed("compare", "--dataset", "demo")
    assert code == 2 and "dissect train srgnn --dataset demo" in " ".join(err.split())
