"""On a CUDA device: the numbers of the CPU, without waiting for the device. Run with: pytest -m gpu"""

import inspect

import pytest
import torch

from dissect.data.sessions import Sessions
from dissect.runs.config import Config
from dissect.runs.files import read_jsonl
from dissect.runs.folders import is_done
from dissect.sparsevd import penalty, sparsify
from dissect.training.evaluation import evaluate, prefixes_of
from dissect.training.loop import fit, train_step
from dissect.training.record import Observer
from dissect.training.resume import Interrupted
from dissect.training.scoring import score_buffer
from dissect.training.setup import assemble
from models import MODELS
from tests.test_step import SESSIONS, B, V
from tests.test_training import CONFIG, DATA
from tests.test_training import V as N_ITEMS

DEVICE = "cuda"
LEARNING = [name for name, cls in MODELS.items() if cls.learns]
PATIENT = ("srgnn", "attenmixer", "niser", "narm", "dsan", "gcsan", "sasrec", "nextitnet", "core")  # never wait
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(DEVICE == "cuda" and not torch.cuda.is_available(), reason="There is no CUDA device here."),
]


def make(name, device):
    prefixes = prefixes_of(Sessions.from_lists(SESSIONS), device)
    config = Config(name, "x", "", {"dim": 8}, where="none", batch_size=B, max_steps=50)
    options = inspect.signature(MODELS[name]).parameters  # without random numbers, which differ by device
    quiet = {option: 0.0 for option in options if option.endswith("dropout") or option == "ssl"}
    build = lambda: MODELS[name](n_items=V, dim=8, **quiet)  # noqa: E731
    return prefixes, assemble(build, config, prefixes, 1, "full")


@pytest.mark.parametrize("name", LEARNING)
def test_steps_and_ranks_are_those_of_the_cpu(name):
    """In double: Adam makes steps of full size from gradients that are nothing but rounding."""
    here, there = make(name, "cpu"), make(name, DEVICE)
    for _, training in (here, there):
        training.model.double()
    for number in range(4):
        losses = []
        for prefixes, training in (here, there):
            batch = prefixes.batch(torch.arange(len(prefixes))[number * 3 : number * 3 + B])
            losses.append(train_step(training, batch, 0.0, score_buffer(4 * B, V, prefixes.device).double())[0])
        assert losses[0] == pytest.approx(losses[1], rel=1e-9)
    for (key, a), b in zip(here[1].model.named_parameters(), there[1].model.parameters()):
        torch.testing.assert_close(a, b.cpu(), atol=1e-6, rtol=1e-6, msg=lambda text, key=key: f"{key}: {text}")
    assert (evaluate(here[1].model, here[0]) == evaluate(there[1].model, there[0])).mean() > 0.95  # but for rounding


@pytest.mark.filterwarnings("ignore:Synchronization debug mode is a prototype")
@pytest.mark.parametrize("name", PATIENT)
def test_encoding_does_not_wait_for_the_device(name):
    prefixes, training = make(name, DEVICE)
    model = training.model
    sparsify(model, log_sigma2=-10.0)
    S = model.item_states().detach().requires_grad_()
    model.encode(S, prefixes.batch(torch.arange(B)))  # what is set up once may wait
    try:
        torch.cuda.set_sync_debug_mode("error")
        vectors = model.encode(S, prefixes.batch(torch.arange(B)))
        penalty(model, "log-uniform")
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert torch.isfinite(vectors).all()


def test_a_run_stops_and_goes_on(tmp_path):
    class Stop(Observer):
        def step(self, step, loss, kl_weight, lr):
            if step == 20:
                raise KeyboardInterrupt

    def train(folder, **more):
        return fit(lambda: MODELS["srgnn"](N_ITEMS, dim=8), DATA, CONFIG, folder, seed=1, device=DEVICE, **more)

    whole = train(tmp_path / "a")
    with pytest.raises((KeyboardInterrupt, Interrupted)):
        train(tmp_path / "b", observer=Stop())
    again = train(tmp_path / "b")
    assert is_done(tmp_path / "b") and again["steps"] == whole["steps"]
    assert len(read_jsonl(tmp_path / "a" / "density.jsonl")) == len(read_jsonl(tmp_path / "b" / "density.jsonl"))
    assert again["test"]["mrr@20"] == pytest.approx(whole["test"]["mrr@20"], rel=0.2)
