"""Counts of weights in use, against plain loops over the weights."""

import json
import math

import pytest
import torch
from torch import Tensor, nn

from dissect.errors import UsageError
from dissect.sparsevd import (
    SIGNED_TAUS,
    TAUS,
    THRESHOLDS,
    kept_count,
    kl_divergence,
    log_alpha,
    measure,
    named_variational,
    sparsify,
)
from dissect.sparsevd.density import key

FIELDS = ["matrix", "block", "shape", "numel", "kl", "log_alpha_hist", "kept", "theta_abs_gt", "theta_gt"]
GATES = {"gates": (("r", "z", "n"), ("in", "out"))}


def gates(dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    """theta and log_sigma2 [12, 10] with log alpha over the whole histogram and beyond."""
    generator = torch.Generator().manual_seed(0)
    theta = torch.randn(12, 10, generator=generator, dtype=dtype) * 0.05
    theta[0, :3] = 0
    return theta, torch.randn(12, 10, generator=generator, dtype=dtype) * 8 - 5


def rows_by_block(rows: list[dict[str, object]]) -> dict[str, dict[str, object]]:
    return {str(row["block"]): row for row in rows}


def histogram(a: Tensor) -> list[int]:
    """The twin: weight by weight, bins [-20 + i / 4, -20 + (i + 1) / 4), those below first and above last."""
    out = [0] * 162
    for value in a.flatten().tolist():
        out[1 + max(-1, min(160, math.floor(value * 4) + 80))] += 1
    return out


def test_counts_of_a_matrix_and_of_its_blocks() -> None:
    theta, log_sigma2 = gates()
    rows = measure([("gates", theta, log_sigma2)], GATES)
    blocks = ["", "r", "z", "n", "in", "out", "r/in", "r/out", "z/in", "z/out", "n/in", "n/out"]
    assert [row["block"] for row in rows] == blocks
    row_of = {"r": slice(0, 4), "z": slice(4, 8), "n": slice(8, 12)}
    col_of = {"in": slice(0, 5), "out": slice(5, 10)}
    for row in rows:
        assert list(row) == FIELDS and row["matrix"] == "gates"
        parts = row["block"].split("/")
        r = next((row_of[part] for part in parts if part in row_of), slice(None))
        c = next((col_of[part] for part in parts if part in col_of), slice(None))
        t, s = theta[r, c], log_sigma2[r, c]
        assert row["shape"] == list(t.shape) and row["numel"] == t.numel()
        assert row["log_alpha_hist"] == histogram(log_alpha(t, s))
        assert row["kept"] == {key(x): int(kept_count(t, s, x)) for x in THRESHOLDS}
        flat = t.flatten().tolist()
        assert row["theta_abs_gt"] == {key(x): sum(abs(w) > x for w in flat) for x in TAUS}
        assert row["theta_gt"] == {key(x): sum(w > x for w in flat) for x in SIGNED_TAUS}
        assert row["kl"] == pytest.approx(kl_divergence(t.double(), s.double()).item(), rel=1e-5)
    json.dumps(rows)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_blocks_add_up(dtype: torch.dtype) -> None:
    rows = rows_by_block(measure([("gates", *gates(dtype))], GATES))
    for parts in (["r", "z", "n"], ["in", "out"], [f"{g}/{d}" for g in "rzn" for d in ("in", "out")]):
        for field in ("kept", "theta_abs_gt", "theta_gt"):
            for threshold, count in rows[""][field].items():
                assert count == sum(rows[part][field][threshold] for part in parts)
        assert rows[""]["numel"] == sum(rows[part]["numel"] for part in parts)
        assert rows[""]["kl"] == pytest.approx(sum(rows[part]["kl"] for part in parts))
        added = [sum(bins) for bins in zip(*(rows[part]["log_alpha_hist"] for part in parts))]
        assert rows[""]["log_alpha_hist"] == added
    assert sum(rows[""]["log_alpha_hist"]) == rows[""]["numel"]
    assert rows["r"]["kl"] == pytest.approx(rows["r/in"]["kl"] + rows["r/out"]["kl"])


def test_histogram_agrees_with_the_counts_at_its_edges() -> None:
    """Values one rounding below an edge belong to the bin below it: (a + 20) * 4 would round them up."""
    a = torch.tensor([3.0, math.nextafter(3.0, 0), 2.75, -20.0, -20.001, 20.0, 19.999])
    a[1] = torch.nextafter(torch.tensor(3.0), torch.tensor(0.0))
    # theta = 1: log alpha is log_sigma2, to the last bit
    (row,) = measure([("m", torch.ones(7, 1), a[:, None])])
    hist = row["log_alpha_hist"]
    assert hist[0] == 1 and hist[161] == 1 and hist[1] == 1 and hist[160] == 1
    assert hist[1 + 92] == 1 and hist[1 + 91] == 2  # [3, 3.25) and [2.75, 3)
    for threshold, count in row["kept"].items():
        assert count == sum(hist[: 1 + round((float(threshold) + 20) * 4)])


def test_only_rows_or_only_columns() -> None:
    theta, log_sigma2 = gates()
    rows = measure([("m", theta, log_sigma2)], {"m": (("r", "z", "n"), ())})
    assert [row["block"] for row in rows] == ["", "r", "z", "n"]
    assert rows[1]["shape"] == [4, 10]
    rows = measure([("m", theta, log_sigma2)], {"m": ((), ("in", "out"))})
    assert [row["block"] for row in rows] == ["", "in", "out"]
    assert rows[2]["shape"] == [12, 5] and rows[2]["kept"]["3"] == int(kept_count(theta[:, 5:], log_sigma2[:, 5:], 3))
    assert [row["block"] for row in measure([("m", theta, log_sigma2)], {"other": (("a",), ())})] == [""]


def test_convolutions_have_blocks_too() -> None:
    theta, log_sigma2 = torch.randn(4, 6, 3), torch.randn(4, 6, 3) * 4
    rows = rows_by_block(measure([("conv", theta, log_sigma2)], {"conv": (("a", "b"), ("x", "y"))}))
    assert rows[""]["shape"] == [4, 6, 3] and rows["b/x"]["shape"] == [2, 3, 3]
    for block, cut in (("a", (slice(0, 2), slice(None))), ("b/x", (slice(2, 4), slice(0, 3)))):
        assert rows[block]["kept"]["3"] == int(kept_count(theta[cut], log_sigma2[cut], 3))


def test_blocks_that_do_not_divide_are_refused() -> None:
    theta, log_sigma2 = gates()
    with pytest.raises(UsageError, match=r"\(12, 10\) does not divide into 5 blocks of rows"):
        measure([("m", theta, log_sigma2)], {"m": (tuple("abcde"), ())})


def test_a_threshold_of_ones_own_is_recorded() -> None:
    theta, log_sigma2 = gates()
    (row,) = measure([("m", theta, log_sigma2)], thresholds=(2.5, 3.0, -1.0))
    assert list(row["kept"]) == ["-1", "0.5", "1", "2", "2.5", "3", "4", "5"]
    assert row["kept"]["2.5"] == int(kept_count(theta, log_sigma2, 2.5))
    assert list(row["kept"].values()) == sorted(row["kept"].values())


def test_thresholds_as_text_come_back() -> None:
    assert [key(x) for x in (3.0, 0.5, 0.001, 0.05, 0.0)] == ["3", "0.5", "0.001", "0.05", "0"]
    assert float(key(2.9999999)) == 2.9999999 and key(2.9999999) != key(3.0)


def test_signed_counts_start_near_a_half() -> None:
    """Equation 3 read literally: a curve that starts near 1 is not one of these."""
    theta = torch.empty(100, 100).uniform_(-0.1, 0.1, generator=torch.Generator().manual_seed(0))
    (row,) = measure([("m", theta, torch.full_like(theta, -10))])
    assert row["theta_gt"]["0"] / row["numel"] == pytest.approx(0.5, abs=0.02)
    assert row["theta_abs_gt"]["0.001"] / row["numel"] > 0.98


def test_weights_that_are_no_numbers_are_not_kept() -> None:
    theta = torch.tensor([[1.0, math.nan, 0.0, math.inf]])
    (row,) = measure([("m", theta, torch.tensor([[0.0, 0.0, 0.0, 0.0]]))])
    assert row["kept"]["3"] == 2 and sum(row["log_alpha_hist"]) == 4
    assert row["log_alpha_hist"][161] == 2 and row["log_alpha_hist"][0] == 1


def test_counts_are_of_unclamped_log_alpha_in_single_precision() -> None:
    """In half precision 1e-16 is 0 and thresholds move; under autocast nothing may change."""
    theta, log_sigma2 = gates()
    expected = measure([("m", theta, log_sigma2)])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert measure([("m", theta, log_sigma2)]) == expected


def test_measures_models_by_name_and_leaves_them_alone() -> None:
    model = nn.ModuleDict({"a": nn.Linear(4, 6), "b": nn.GRUCell(4, 2)})
    sparsify(model)
    state = torch.get_rng_state()
    rows = measure(model, {"b.weight_ih": (("r", "z", "n"), ())})
    assert [(row["matrix"], row["block"]) for row in rows] == [
        ("a", ""),
        ("b.weight_ih", ""),
        ("b.weight_ih", "r"),
        ("b.weight_ih", "z"),
        ("b.weight_ih", "n"),
        ("b.weight_hh", ""),
    ]
    assert rows == measure(named_variational(model), {"b.weight_ih": (("r", "z", "n"), ())})
    assert torch.equal(torch.get_rng_state(), state) and model.training
    assert all(p.grad is None and p.requires_grad for p in model.parameters())


def test_density_is_the_share_of_weights_that_an_evaluation_uses() -> None:
    model = nn.Sequential(nn.Linear(8, 8))
    sparsify(model)
    with torch.no_grad():
        model[0].log_sigma2.uniform_(-10, 2)
    model.eval()
    used = int((model[0]._weight("weight") != 0).sum())
    assert 0 < used < 64 and measure(model)[0]["kept"]["3"] == used


@pytest.mark.parametrize("prior", ["normal", "ard"])
def test_kl_is_of_the_prior_that_was_named(prior: str) -> None:
    theta, log_sigma2 = gates()
    (row,) = measure([("m", theta, log_sigma2 / 4)], prior=prior)
    assert row["kl"] == pytest.approx(kl_divergence(theta, log_sigma2 / 4, prior).item(), rel=1e-5)
