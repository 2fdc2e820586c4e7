"""The training step with its model compiled: the same numbers as without."""

import shutil

import pytest
import torch
import torch._inductor.config

from dissect.data.sessions import PrefixTensors, Sessions
from dissect.training.config import Config
from dissect.training.loop import train_step
from dissect.training.setup import assemble
from models import MODELS
from tests.test_step import SESSIONS, B, V

pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")


@pytest.mark.filterwarnings("ignore")  # torch's own, from inside its compiler
@pytest.mark.parametrize(("name", "where"), [("srgnn", "both"), ("attenmixer", "none")])
@torch._inductor.config.patch(fallback_random=True)  # the noise of the plain step
def test_compiled_steps_equal_plain_steps(name, where):
    prefixes = PrefixTensors(Sessions.from_lists(SESSIONS))
    options = {"dim": 8} if name == "srgnn" else {"dim": 8, "heads": 2, "levels": 3, "dropout": 0.0}
    config = Config(name, "x", "", options, where=where, batch_size=B, max_steps=50)
    losses, models = [], []
    for compiled in (False, True):
        training = assemble(lambda: MODELS[name](n_items=V, **options), config, prefixes, 1, "full", compiled=compiled)
        training.model.all_slots = True
        losses.append([])
        for number in range(3):
            torch.manual_seed(number)
            batch = prefixes.batch(torch.arange(len(prefixes))[number * 3 : number * 3 + B], 8)
            losses[-1].append(train_step(training, batch, 0.01, torch.empty(V, B)))
        models.append(training.model)
    assert models[1].all_slots and torch._dynamo.utils.counters["stats"]["unique_graphs"] > 0
    torch.testing.assert_close(torch.tensor(losses[0]), torch.tensor(losses[1]))
    for (key, a), b in zip(models[0].named_parameters(), models[1].parameters()):
        torch.testing.assert_close(a, b, atol=2e-5, rtol=1e-4, msg=lambda text, key=key: f"{key}: {text}")


@pytest.mark.filterwarnings("ignore")
def test_a_compiled_run_ends_like_any_other(typed):
    words = ("train", "srgnn", "--dataset", "demo", "--max-steps", "3", "--dim", "4", "--device", "cpu", "--quiet")
    assert typed(*words, "--compile", "--name", "a")[0] == typed(*words, "--name", "b")[0] == 0
