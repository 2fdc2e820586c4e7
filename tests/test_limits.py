"""What no model can be built with: it is refused at once, in words that name the option."""

import re
import time
from collections.abc import Collection

import pytest
import torch
from torch import nn

from dissect.data import catalog
from dissect.errors import UsageError
from dissect.experiment.plan import planned
from dissect.runs.config import DENSE
from models import MODELS

HUGE = 10**20


def refused(tmp_path, name, preset=None, without=(), **options):
    start = time.monotonic()
    with pytest.raises(UsageError) as error:
        planned(
            name,
            catalog.load("demo-bag"),
            preset=preset,
            without=without,
            options={**({"dim": 8} if MODELS[name].learns else {}), **options},
            runs_dir=tmp_path,
            usual=DENSE,
        )
    assert time.monotonic() - start < 20
    return error.value


@pytest.mark.parametrize(
    ("name", "options", "says"),
    [
        ("gcsan", {"blocks": 10**6}, "blocks is at most 100"),
        ("gcsan", {"steps": 10**6}, "steps is at most 100"),
        ("srgnn", {"steps": 10**8}, "steps is at most 100"),
        ("sgnnhn", {"steps": 10**8}, "steps is at most 100"),
        ("sasrec", {"blocks": 10**6}, "blocks is at most 100"),
        ("core", {"layers": 10**6}, "layers is at most 100"),
        ("gru4rec", {"layers": 10**5}, "layers is at most 100"),
        ("attenmixer", {"levels": 10**6}, "levels is at most 100"),
        ("nextitnet", {"dilations": str(HUGE)}, "dilations are at most 10,000"),
        ("niser", {"scale": 1e30}, "scale is above 0 and at most 1,000"),
        ("attenmixer", {"scale": 1e30}, "scale is above 0 and at most 1,000"),
        ("dsan", {"scale": 1e30}, "scale is above 0 and at most 1,000"),
        ("core", {"temperature": 1e-30}, "temperature is at least 0.001"),
        ("dsan", {"max_norm": float("inf")}, "max_norm is above 0 and finite"),
        ("stan", {"lambda1": 1e-300}, "lambda1 is at least 0.001, or 0"),
        ("sknn", {"k": HUGE}, "k is at most 9,007,199,254,740,992"),
        ("sr", {"steps": HUGE}, "steps is at most 9,007,199,254,740,992"),
        ("niser", {"length": HUGE}, "length is at most 9,007,199,254,740,992"),
    ],
    ids=str,
)
def test_an_impossible_number_is_named(tmp_path, name, options, says):
    assert says in refused(tmp_path, name, **options).message


@pytest.mark.parametrize(("name", "option"), [("narm", "hidden"), ("niser", "length")])
def test_a_table_larger_than_the_memory_names_the_option_that_makes_it(tmp_path, name, option):
    error = refused(tmp_path, name, **{option: 2 * 10**9})
    assert "GiB of memory" in error.message and error.hint == f"Give a smaller {option}."


@pytest.mark.parametrize("name", ["gcsan", "sasrec"])
def test_a_part_of_what_is_left_out_cannot_be_left_out(tmp_path, name):
    """Random weights differ with and without it; the scores of equal weights do not."""
    error = refused(tmp_path, name, without=("attention", "self-attention"))
    assert "--without attention changes nothing" in error.message and "self-attention" in error.message


@pytest.mark.parametrize(("name", "preset", "part"), [("core", "ave", "encoder"), ("sgnnhn", "released", "highway")])
def test_what_a_preset_has_left_out_is_said_with_the_preset(tmp_path, name, preset, part):
    error = refused(tmp_path, name, preset, (part,))
    assert re.search(f"--without {part} changes nothing: {name} has none with --preset {preset}", error.message)


def test_what_leaves_a_smaller_matrix_is_no_empty_ablation(tmp_path):
    """The parameters have the same names; their shapes tell the two apart."""

    class Own(MODELS["srgnn"]):
        removable = ("half",)

        def __init__(self, n_items: int, dim: int = 8, without: Collection[str] = ()) -> None:
            super().__init__(n_items, dim)
            self.more = nn.Parameter(torch.zeros(4 if "half" in without else 8))

        def item_states(self) -> torch.Tensor:
            return super().item_states() + self.more.sum()

    assert planned(Own, catalog.load("demo-bag"), without=("half",), runs_dir=tmp_path, usual=DENSE).variant
