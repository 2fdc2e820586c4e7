"""What is decayed and what is not, and controls that cannot help: the traps of dissection, each by its own test."""

import warnings
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.optim import lr_scheduler

from dissect.data.sessions import Sessions
from dissect.errors import UsageError
from dissect.runs.config import SETTINGS, Config, lr_at
from dissect.runs.files import write_toml
from dissect.sparsevd import named_variational
from dissect.training.controls import seeded_controls
from dissect.training.evaluation import prefixes_of
from dissect.training.setup import assemble
from models import SRGNN

V, D = 12, 8
OPTIMISERS, SCHEDULES = (next(s.choices for s in SETTINGS if s.name == name) for name in ("optimiser", "schedule"))


def groups_of(**settings):
    prefixes = prefixes_of(Sessions.from_lists([[1, 2, 3, 1], [4, 5], [6, 7, 8]]))
    settings = {"batch_size": 4, "max_steps": 10, "l2": 1e-5, **settings}
    config = Config("srgnn", "x", "", {"dim": D}, **settings)
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


PLAIN = {
    "adam": lambda p, l2: torch.optim.Adam(p, lr=1e-2, weight_decay=l2),
    "adamw": lambda p, l2: torch.optim.AdamW(p, lr=1e-2, weight_decay=l2),
    "amsgrad": lambda p, l2: torch.optim.Adam(p, lr=1e-2, weight_decay=l2, amsgrad=True),
    "adagrad": lambda p, l2: torch.optim.Adagrad(p, lr=1e-2, weight_decay=l2, initial_accumulator_value=1e-6),
}


def updates(optimiser, parameters, sizes=(3.0, 0.1, 0.2, 0.1, 0.1)):
    """What some steps with gradients that fall leave of the parameters."""
    generator = torch.Generator().manual_seed(0)
    for size in sizes:
        for parameter in parameters:
            parameter.grad = size * torch.randn(parameter.shape, generator=generator)
        optimiser.step()
    return [parameter.detach().clone() for parameter in parameters]


@pytest.mark.parametrize("name", OPTIMISERS)
def test_each_optimiser_is_torchs_own(name):
    training, _ = groups_of(where="none", optimiser=name, lr=1e-2, l2=0.1)
    twins = [nn.Parameter(parameter.detach().clone()) for parameter in training.model.parameters()]
    ours = updates(training.optimiser, list(training.model.parameters()))
    for other, make in PLAIN.items():
        start = [nn.Parameter(twin.detach().clone()) for twin in twins]
        theirs = updates(make(start, 0.1), start)
        assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(ours, theirs, strict=True)) is (other == name)


def test_a_new_setting_leaves_the_names_of_old_groups_alone():
    config = Config("srgnn", "x", "0", apart=False)  # as all were
    assert config.hash == replace(config, optimiser="adam").hash == "0008a62c"
    assert len({replace(config, optimiser=name).hash for name in OPTIMISERS}) == 4
    with pytest.raises(UsageError, match="optimiser must be one of adam, adamw, amsgrad, adagrad, not sgd"):
        replace(config, optimiser="sgd")


def test_the_rate_of_each_schedule_is_torchs_own():
    """Steps of 10 to an epoch, 100 in all: what torch's schedulers make of the same rule."""
    rules = {
        "constant": lambda optimiser: lr_scheduler.ConstantLR(optimiser, factor=1.0),
        "steps": lambda optimiser: lr_scheduler.StepLR(optimiser, step_size=30, gamma=0.1),
        "linear-end": lambda optimiser: lr_scheduler.SequentialLR(
            optimiser,
            [lr_scheduler.ConstantLR(optimiser, 1.0), lr_scheduler.LinearLR(optimiser, 1.0, 0.0, total_iters=20)],
            milestones=[80],
        ),
    }
    assert {*rules, "host"} == set(SCHEDULES)
    for schedule, rule in rules.items():
        config = Config("srgnn", "x", "", max_steps=100, schedule=schedule, lr=0.01)
        optimiser = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=config.lr)
        scheduler, expected = rule(optimiser), []
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's own use of what it deprecates
            for _ in range(100):
                expected.append(optimiser.param_groups[0]["lr"])
                optimiser.step()
                scheduler.step()
        assert [lr_at(config, step, 10) for step in range(100)] == pytest.approx(expected), schedule


def test_a_group_with_noise_shared_by_sessions_is_refused_with_a_message(typed, tmp_path):
    group = tmp_path / "runs" / "old"
    (group / "s1").mkdir(parents=True)
    write_toml(group / "config.toml", {"model": "srgnn", "dataset": "demo", "split_hash": "0", "noise": "lrt_shared"})
    for words in (("verdict", "old"), ("evaluate", "old/s1"), ("resume", "old/s1")):
        code, _, err = typed(*words)
        assert code == 3 and "noise = lrt_shared, which this version no longer offers" in " ".join(err.split())


def controls():
    return seeded_controls(1, D, log_sigma2=-30.0)  # hardly any noise


def test_controls_are_those_of_their_seed_and_leave_the_models_numbers_alone():
    state = torch.get_rng_state()
    one, again, other = (seeded_controls(seed, D).rolled.weight for seed in (1, 1, 2))
    assert torch.equal(one, again) and not torch.equal(one, other)
    assert torch.equal(torch.get_rng_state(), state)


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
