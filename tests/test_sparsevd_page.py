"""The examples in docs/sparsevd.md, run as they are written."""

import re
from pathlib import Path

import pytest
import torch

from dissect import sparsevd

PAGE = (Path(__file__).resolve().parent.parent / "docs" / "sparsevd.md").read_text()
LOOP, TOWERS, READER, DIGITS, RECBOLE = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)


def run(block, names):
    exec(compile(block, "docs/sparsevd.md", "exec"), names)
    return names


@pytest.fixture(scope="module")
def page():
    """What the loop leaves behind."""
    return run(LOOP, {})


def test_useless_inputs_lose_their_weights_and_needed_ones_keep_theirs(page):
    by_input = page["by_input"]
    assert by_input[:4].min() > 0.1
    assert by_input[4:].mean() < 0.06 and 4 * by_input[4:].mean() < by_input[:4].min()


def test_accuracy_holds(page):
    assert page["masked"] > 0.95 and page["masked"] == pytest.approx(page["whole"], abs=0.01)
    assert page["accuracy"](page["model"], *page["test_set"]) == page["masked"]  # after densify
    assert all(type(module) is not sparsevd.LinearVD for module in page["model"])


def test_the_table_counts_what_the_scores_say(page):
    table, kept = page["table"], page["kept"]
    assert list(table) == ["matrix", "kept", "size", "density", "threshold", "median_log_alpha"]
    assert list(table.matrix) == ["0", "2"] and list(table["size"]) == [512, 128] and (table.threshold == 3).all()
    assert table.kept[0] == int(kept.sum()) == int((page["model"][0].weight != 0).sum())
    assert (table.density == table.kept / table["size"]).all()
    assert table.median_log_alpha[0] > 3  # most of its weights are noise


def test_the_page_shows_what_the_code_prints(page):
    """To two decimals: the digits are those of another machine."""
    shown = re.search(r"^ +0 +(\d+) +512 +([\d.]+)", PAGE, re.MULTILINE)
    assert shown and float(shown[2]) == pytest.approx(page["table"].density[0], abs=0.03)


def test_density_at_another_threshold_and_without_any_layer():
    model = torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.GRUCell(8, 4))
    assert len(sparsevd.density(model)) == 0
    sparsevd.sparsify(model, ["0"], threshold=1.0)
    sparsevd.sparsify(model, threshold=2.0)
    table = sparsevd.density(model)
    assert list(table.matrix) == ["0", "1.weight_ih", "1.weight_hh"] and list(table.threshold) == [1.0, 2.0, 2.0]
    for t in (-4.0, 0.0):
        again = sparsevd.density(model, threshold=t)
        assert (again.threshold == t).all()
        counts = {row["matrix"]: row["kept"][f"{t:g}"] for row in sparsevd.measure(model, thresholds=(t,))}
        assert dict(zip(again.matrix, again.kept, strict=True)) == counts
    assert (sparsevd.density(model, -4.0).kept < table.kept).all()


# --- all of it in one call ---


def few_steps(block):
    shortened, n = re.subn(r"steps=\d+", "steps=6, quiet=True", block)
    assert n == 1
    return shortened


def test_the_examples_of_dissect_run(page, capsys):
    """With too few steps for an answer."""
    pytest.importorskip("sklearn")
    names = run(few_steps(TOWERS), dict(page))
    assert set(names["verdict"]) == {"first four", "the rest"}
    for block, matrices in ((READER, 5), (DIGITS, 3)):
        names = run(few_steps(block), names)
        assert len(names["found"].report.swapped) == matrices and not names["found"].left_out
    assert "of the score lost" in capsys.readouterr().out


@pytest.mark.slow
def test_the_examples_of_dissect_say_what_the_page_says(page, capsys):
    pytest.importorskip("sklearn")
    names = run(TOWERS, dict(page))
    answers = {name: answer["answer"] for name, answer in names["verdict"].items()}
    assert answers == {"first four": "alive", "the rest": "withered"}
    names = run(READER, names)
    verdict = names["found"].verdict(names["groups"])
    answers = {name: answer["answer"] for name, answer in verdict.items()}
    assert answers == {"attention": "alive", "queries": "alive", "feed-forward": answers["feed-forward"]}
    assert answers["feed-forward"] in ("withered", "undecided")  # it lies at the limit
    run(DIGITS, names)
    assert names["found"].scores().masked[0] > 0.9


def test_the_recipe_for_recbole_fits_an_interface_like_its_own():
    """RecBole itself is not installed: a stand-in with the few names that the recipe takes."""
    head, functions = RECBOLE.split("\n\n\n", 1)
    functions, call = functions.rsplit("\n\n\n", 1)
    assert "from recbole" in head and "sparsevd.dissect(" in call

    class Interaction(dict):
        def __len__(self):
            return len(self["item"])

        def to(self, device):
            return self

    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.items, self.map = torch.nn.Embedding(9, 4), torch.nn.Linear(4, 4)

        def scores(self, interaction):
            return self.map(self.items(interaction["item"])) @ self.items.weight.t()

        def calculate_loss(self, interaction):
            loss = torch.nn.functional.cross_entropy(self.scores(interaction), interaction["next"])
            return loss, loss * 0

        def full_sort_predict(self, interaction):
            return self.scores(interaction).flatten()

    class Data(list):
        _dataset = None

    item = torch.arange(1, 9)
    batch = Interaction(item=item, next=item % 8 + 1)
    names = {
        "torch": torch,
        "sparsevd": sparsevd,
        "config": {"model": "Model", "device": "cpu"},
        "get_model": lambda name: lambda config, data: Model(),
        "train_data": Data([batch]),
        "valid_data": [(batch, None, torch.arange(8), batch["next"])],
    }
    run(functions + "\n" + few_steps(call), names)
    found = names["found"]
    assert list(found.report.swapped) == ["map"] and found.n_examples == 8
    with torch.no_grad():
        scores = found.model.scores(batch)[torch.arange(8)]
    ranks = [1 + sum(float(row[i]) > float(row[t]) for i in range(1, 9)) for row, t in zip(scores, batch["next"])]
    assert found.scores().masked[0] == pytest.approx(sum(1 / rank for rank in ranks) / 8)
