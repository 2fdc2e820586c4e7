"""Rows and columns that are pruned as one: their alpha, their KL, their noise, and a run with them."""

import json
import sys
from functools import partial

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from scipy.optimize import minimize_scalar
from torch import nn

from dissect.cli import main
from dissect.data import catalog
from dissect.data.sessions import Dataset, Sessions
from dissect.errors import UsageError
from dissect.runs import files
from dissect.sparsevd import density, kept, log_alpha, measure, sparsify
from dissect.sparsevd.kl import kl_divergence, kl_per_weight
from dissect.sparsevd.sparsifier import named_variational
from dissect.training.checkpoint import load_checkpoint
from dissect.training.rebuild import reported

SHAPES = {"row": (3, 1), "column": (1, 5)}


@pytest.mark.parametrize("unit", ["row", "column"])
def test_the_kl_of_a_group_is_that_from_the_best_prior_that_it_shares(unit):
    torch.manual_seed(0)
    theta = torch.randn(3, 5, dtype=torch.double)
    log_sigma2 = torch.randn(SHAPES[unit], dtype=torch.double)
    groups = theta if unit == "row" else theta.t()

    at, step = np.linspace(-12, 12, 2001, retstep=True)  # in units of sigma

    def integrated(means: np.ndarray, sigma: float, s: float) -> float:
        """The integral of q log(q / p) for each mean, summed; q = N(mean, sigma^2), p = N(0, s^2)."""
        w = means[:, None] + sigma * at
        log_q = -0.5 * at**2 - np.log(sigma)
        log_p = -0.5 * (w / s) ** 2 - np.log(s)
        return float((np.exp(-0.5 * at**2) / np.sqrt(2 * np.pi) * (log_q - log_p) * step).sum())

    total = 0.0
    for means, log_square in zip(groups.numpy(), log_sigma2.flatten().tolist(), strict=True):
        sigma = float(np.exp(log_square / 2))
        best = minimize_scalar(partial(integrated, means, sigma), bounds=(0.05, 20), method="bounded")
        total += best.fun
    assert float(kl_divergence(theta, log_sigma2, "ard")) == pytest.approx(total, rel=1e-6)


@pytest.mark.parametrize("unit", ["row", "column"])
@pytest.mark.parametrize("prior", ["log-uniform", "normal", "ard"])
def test_gradients_of_the_kl_of_groups(unit, prior):
    theta = torch.randn(3, 5, dtype=torch.double, requires_grad=True)
    log_sigma2 = torch.randn(SHAPES[unit], dtype=torch.double, requires_grad=True)
    assert torch.autograd.gradcheck(lambda t, s: kl_divergence(t, s, prior), (theta, log_sigma2))


def test_groups_of_one_weight_are_weights():
    theta, log_sigma2 = torch.randn(6, 1), torch.randn(6, 1)
    single = kl_per_weight(theta, log_sigma2)
    assert torch.equal(log_alpha(theta, log_sigma2), log_sigma2 - (theta * theta + 1e-16).log())
    torch.testing.assert_close(kl_divergence(theta, log_sigma2), single.sum())


class Several(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear, self.conv, self.picture = nn.Linear(4, 6), nn.Conv1d(4, 6, 3), nn.Conv2d(4, 6, (3, 2))
        self.cell, self.gru = nn.GRUCell(4, 6), nn.GRU(4, 6)

    def forward(self, x):  # [T, B, 4]
        parts = [self.linear(x), self.conv(x.permute(1, 2, 0)).sum((0, 2)), self.cell(x[0]), self.gru(x)[0]]
        parts.append(self.picture(x.permute(1, 2, 0)[..., None].expand(-1, -1, -1, 2)))
        return sum(part.sum() for part in parts)


@pytest.mark.parametrize("unit", ["row", "column"])
@pytest.mark.parametrize("noise", ["lrt", "weight"])
def test_a_group_is_kept_or_pruned_as_one(unit, noise):
    torch.manual_seed(1)
    model = Several()
    sparsify(model, unit=unit, noise=noise)
    x = torch.randn(5, 3, 4)
    model(x).backward()  # runs with noise
    for name, theta, log_sigma2 in named_variational(model):
        assert log_sigma2.grad is not None and log_sigma2.numel() == theta.shape[unit == "column"]
        log_sigma2.data = torch.where(torch.rand_like(log_sigma2) < 0.5, 8.0, -8.0)
        is_kept = kept(log_alpha(theta, log_sigma2), 3.0)
        groups = (is_kept if unit == "row" else is_kept.transpose(0, 1)).flatten(1)
        assert torch.equal(groups.all(1), groups.any(1)), name
    assert torch.isfinite(model.eval()(x))
    table, rows = density(model).set_index("matrix"), measure(model, thresholds=[3.0])
    for row in rows:
        assert row["kept"]["3"] == table.loc[row["matrix"], "kept"]


@pytest.mark.parametrize("unit", ["row", "column"])
def test_the_noise_of_a_group_is_that_of_its_weights(unit):
    torch.manual_seed(2)
    shared, each = nn.Sequential(nn.Linear(4, 6)), nn.Sequential(nn.Linear(4, 6))
    each.load_state_dict(shared.state_dict())
    sparsify(shared, unit=unit)
    sparsify(each)
    shared[0].log_sigma2.data.normal_()
    each[0].log_sigma2.data = shared[0].log_sigma2.data.expand(6, 4).clone()
    x, made = torch.randn(7, 4), []
    for model in (shared, each):
        torch.manual_seed(3)
        made.append(model(x))
    torch.testing.assert_close(*made)


def test_an_unknown_unit_is_refused():
    with pytest.raises(UsageError, match="unit"):
        sparsify(nn.Sequential(nn.Linear(2, 2)), unit="rows")


def invoke(*words):
    words = [str(word) for word in words]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["dissect", *words])
        result = CliRunner().invoke(main, words, prog_name="dissect")
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout, result.stderr


def test_a_run_by_rows_is_pruned_by_rows_and_its_export_is_smaller(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DISSECT_DATA", str(tmp_path / "data"))
    random = np.random.default_rng(0)
    parts = [[random.integers(1, 31, random.integers(2, 7)).tolist() for _ in range(n)] for n in (80, 20)]
    catalog.save(Dataset("small", 30, *map(Sessions.from_lists, parts)), tmp_path / "data")
    words = ["--dataset", "small", "--dim", 8, "--seed", 1, "--max-steps", 20, "--literal", "--kl-weight", 5]
    code, _, err = invoke("run", *words, "--lr", 0.03, "--unit", "row", "--prior", "ard", "--device", "cpu", "--quiet")
    assert code == 0, err
    (run,) = (tmp_path / "runs").glob("*/s1")
    weights = reported(load_checkpoint(run / "checkpoints" / "last.pt"))
    assert weights["gnn.edge_in.log_sigma2"].shape == (8, 1)
    assert files.read_json(run / "summary.json")["unit"] == "row"
    code, out, err = invoke("export", run, "--out", tmp_path / "small", "--json", "--quiet")
    assert code == 0, err
    left = [layer["left"][0] for layer in json.loads(out)["layers"].values()]
    assert min(left) < 8
    assert invoke("recommend", tmp_path / "small", "--session", "1,2", "--k", 3)[0] == 0
