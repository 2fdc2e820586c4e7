"""The example in docs/sparsevd.md, run as it is written."""

import re
from pathlib import Path

import pytest
import torch

from dissect import sparsevd

PAGE = (Path(__file__).resolve().parent.parent / "docs" / "sparsevd.md").read_text()


@pytest.fixture(scope="module")
def page():
    """What the block of code leaves behind."""
    (block,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    names: dict = {}
    exec(compile(block, "docs/sparsevd.md", "exec"), names)
    return names


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
