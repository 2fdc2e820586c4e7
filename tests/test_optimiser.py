"""What is decayed and what is not, and controls that cannot help: the traps of dissection, each by its own test."""

import pytest
import torch

from dissect.data.sessions import Sessions
from dissect.runs.config import Config
from dissect.sparsevd import named_variational
from dissect.training.controls import seeded_controls
from dissect.training.evaluation import prefixes_of
from dissect.training.setup import assemble
from models import SRGNN

V, D = 12, 8


def groups_of(**settings):
    prefixes = prefixes_of(Sessions.from_lists([[1, 2, 3, 1], [4, 5], [6, 7, 8]]))
    config = Config("srgnn", "x", "", {"dim": D}, batch_size=4, max_steps=10, l2=1e-5, **settings)
    training = assemble(lambda: SRGNN(V, dim=D), config, prefixes, 1, "full")
    return training, training.optimiser.param_groups


@pytest.mark.parametrize("everything", [False, True])
def test_theta_and_log_sigma2_are_decayed_only_where_it_is_asked_for(everything):
    training, groups = groups_of(where="both", decay_everything=everything)
    at = {id(p): (group["weight_decay"], group["eps"]) for group in groups for p in group["params"]}
    decay = 1e-5 if everything else 0.0
    variational = set()
    for part in (training.model, training.controls):
        for _, theta, log_sigma2 in named_variational(part):
            assert at[id(theta)] == (decay, 1e-8)
            assert at[id(log_sigma2)] == (decay, 1e-12)  # its gradient from the KL is below 1e-8 / N
            variational |= {id(theta), id(log_sigma2)}
    host = [p for p in training.model.parameters() if id(p) not in variational]
    assert host and all(at[id(p)] == (1e-5, 1e-8) for p in host)
    everyone = [*training.model.parameters(), *training.controls.parameters()]
    assert at.keys() == {id(p) for p in everyone if p.requires_grad}


def test_a_dense_model_is_decayed_as_a_whole():
    training, groups = groups_of(where="none")
    assert [(group["weight_decay"], group["eps"]) for group in groups] == [(1e-5, 1e-8)]
    assert len(groups[0]["params"]) == len(list(training.model.parameters()))


def controls():
    return seeded_controls(1, D, "lrt", 3.0, -30.0)  # hardly any noise


def test_what_all_sessions_share_never_reaches_the_rolled_control():
    alike = torch.randn(D).repeat(5, 1)
    torch.testing.assert_close(controls()(alike), alike, atol=1e-3, rtol=0)  # what is left is noise
    vectors = torch.randn(5, D)
    shifted = controls()(vectors + 3.0) - 3.0
    torch.testing.assert_close(shifted, controls()(vectors), atol=2e-3, rtol=1e-3)


def test_a_session_gets_another_one_from_the_rolled_control_and_no_gradient_through_it():
    vectors = torch.randn(5, D, requires_grad=True)
    made = controls()
    out = made(vectors)
    centred = vectors.detach() - vectors.detach().mean(0)
    expected = vectors + torch.roll(centred, 1, 0) @ made.rolled.weight.t()
    torch.testing.assert_close(out, expected, atol=2e-3, rtol=1e-3)
    out.sum().backward()
    assert torch.equal(vectors.grad, torch.ones_like(vectors))
    assert made.rolled.weight.grad is not None and made.kl_only.weight.grad is None
