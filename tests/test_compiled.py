"""The training step with its model compiled: the same numbers as without."""

import shutil
from functools import partial

import pytest
import torch
import torch._inductor.config

from dissect.data.sessions import PrefixTensors, Sessions
from dissect.runs import folders
from dissect.runs.config import Config
from dissect.training import setup
from dissect.training.loop import ExampleOrder, train_step
from dissect.training.setup import assemble
from models import MODELS
from tests.test_step import SESSIONS, B, V

pytestmark = [
    pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler"),
    pytest.mark.filterwarnings("ignore"),  # torch's own, from inside its compiler
]
WORDS = ("train", "srgnn", "--dataset", "demo", "--max-steps", "3", "--dim", "4", "--device", "cpu", "--quiet")


# Tracing is what depends on a model. C++ of a trace takes a minute for SR-GNN, and one model shows that it works.
@pytest.mark.parametrize(
    ("name", "where", "backend"), [("srgnn", "both", "aot_eager"), ("attenmixer", "none", "inductor")]
)
@torch._inductor.config.patch(fallback_random=True)  # the noise of the plain step
def test_compiled_steps_equal_plain_steps(name, where, backend, monkeypatch):
    monkeypatch.setattr(setup.torch, "compile", partial(torch.compile, backend=backend))
    prefixes = PrefixTensors(Sessions.from_lists(SESSIONS))
    options = {"dim": 8} if name == "srgnn" else {"dim": 8, "heads": 2, "levels": 3, "dropout": 0.2}
    losses, models = [], []
    torch._dynamo.reset()
    for compiled in (False, True):
        config = Config(name, "x", "", options, where=where, batch_size=B, max_steps=50, compiled=compiled)
        training = assemble(lambda: MODELS[name](n_items=V, **options), config, prefixes, 1, "full")
        if not compiled:
            training.model.all_slots = True  # the layout of the compiled one, whose draws are in this order
        torch._dynamo.utils.counters.clear()
        losses.append([])
        for number in range(3):
            torch.manual_seed(number)
            batch = prefixes.batch(torch.arange(len(prefixes))[number * 3 : number * 3 + B], 8)
            losses[-1].append(train_step(training, batch, 0.01, torch.empty(V, B)))
        assert (torch._dynamo.utils.counters["stats"]["unique_graphs"] > 0) is compiled
        models.append(training.model)
    assert models[1].all_slots
    torch.testing.assert_close(torch.tensor(losses[0]), torch.tensor(losses[1]))
    for (key, a), b in zip(models[0].named_parameters(), models[1].parameters()):
        torch.testing.assert_close(a, b, atol=2e-5, rtol=1e-4, msg=lambda text, key=key: f"{key}: {text}")


def test_the_command_compiles_by_few_widths_and_says_so_in_the_configuration(typed, monkeypatch):
    compiled, orders = [], []

    class Order(ExampleOrder):
        def __init__(self, *arguments, **more):
            super().__init__(*arguments, **more)
            orders.append(self.static)

    monkeypatch.setattr(setup.torch, "compile", lambda function, **more: compiled.append(function) or function)
    monkeypatch.setattr("dissect.training.loop.ExampleOrder", Order)
    assert typed(*WORDS, "--compile", "--name", "a")[0] == typed(*WORDS, "--name", "b")[0] == 0
    assert len(compiled) == 1 and orders == [True, False]
    groups = {group.name[0]: folders.group_config(group)["compiled"] for group in folders.find_groups("runs")}
    assert groups == {"a": True, "b": False}


def test_without_a_compiler_nothing_is_begun(typed, tmp_path, monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    code, _, err = typed(*WORDS, "--compile")
    assert code == 2 and "no-such-compiler" in err and not list(tmp_path.rglob("config.toml"))
