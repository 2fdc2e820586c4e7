"""Dropout by 16 random bits a number: its rate, its scale, its independence."""

import pytest
import torch

from models.dropout import PART, dropout


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_numbers_are_lost_at_the_rate_and_the_others_make_up_for_them(p):
    torch.manual_seed(0)
    n = 1_000_003  # no multiple of four
    out = dropout(torch.ones(n), p, training=True)
    lost = (out == 0).double().mean().item()
    assert abs(lost - p) < 5 * (p * (1 - p) / n) ** 0.5
    torch.testing.assert_close(out[out != 0], torch.full_like(out[out != 0], 1 / (1 - p)), rtol=2e-4, atol=0)


def test_a_rate_next_to_one_loses_all_but_one_in_65536():
    out = dropout(torch.ones(1000), 0.999_999, training=True)
    assert torch.isfinite(out).all() and (out == 0).sum() >= 990


def test_neighbours_are_independent():
    torch.manual_seed(0)
    lost = (dropout(torch.ones(1_000_000), 0.3, training=True) == 0).double() - 0.3
    for lag in (1, 2, 3, 4, 8, PART):  # four numbers share a draw
        assert abs((lost[lag:] * lost[:-lag]).mean().item()) < 5 * 0.21 / 1000


def test_the_gradient_goes_where_the_number_went():
    torch.manual_seed(0)
    x = torch.randn(7, 9, requires_grad=True)
    out = dropout(x, 0.4, training=True)
    (gradient,) = torch.autograd.grad(out.sum(), x)
    torch.testing.assert_close(gradient * x, out)
    assert (gradient == 0).any() and (gradient != 0).any()


def test_outside_of_training_nothing_is_lost_and_impossible_rates_are_refused():
    x = torch.randn(5)
    assert dropout(x, 0.5, training=False) is x and dropout(x, 0.0, training=True) is x
    with pytest.raises(ValueError, match="below 1, not 1"):
        dropout(x, 1, training=True)
