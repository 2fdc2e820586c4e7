"""Products with the catalogue in less than float32: where they are, where they are not, and which kernel is taken."""

import time
from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch

from dissect.data.sessions import Sessions
from dissect.errors import UsageError
from dissect.runs.config import PRODUCTS, Config
from dissect.runs.files import read_json
from dissect.training import loop, products, workers
from dissect.training.evaluation import prefixes_of
from dissect.training.loop import fit, train_step
from dissect.training.products import ALLOWED, KERNELS, is_usable, multiply, multiplying_as
from dissect.training.record import Observer
from dissect.training.resume import Interrupted
from dissect.training.scoring import catalogue_loss, score_buffer
from dissect.training.setup import assemble, choose_kernel
from models import MODELS
from tests.test_training import CONFIG, DATA

CPU = torch.device("cpu")
HERE = [kernel for kernel in KERNELS if is_usable(kernel, CPU)]


def test_every_choice_has_kernels():
    assert tuple(ALLOWED) == PRODUCTS
    assert set().union(*ALLOWED.values()) == set(KERNELS)


@pytest.mark.parametrize("kernel", KERNELS)
def test_only_the_loss_is_made_of_such_products(kernel, monkeypatch):
    prefixes = prefixes_of(Sessions.from_lists([[1, 2, 3, 2, 4], [5, 5, 6]]))
    config = Config("srgnn", "x", "", {"dim": 8}, where="both", batch_size=6, max_steps=50)
    training = assemble(lambda: MODELS["srgnn"](n_items=9, dim=8), config, prefixes, 1, "full")
    training.kernel = kernel
    seen, model = {}, training.model
    encode, candidates = model.encode, model.candidates

    def watched(S, batch):
        seen["forward"] = torch.get_float32_matmul_precision()
        vectors = encode(S, batch)
        if vectors.requires_grad:  # not in the pass of the controls
            vectors.register_hook(lambda _: seen.update(backward=torch.get_float32_matmul_precision()))
        return vectors

    def watched_candidates(S):
        seen["candidates"] = torch.get_float32_matmul_precision()
        return candidates(S)

    model.encode, model.candidates = watched, watched_candidates
    asked = []

    def watched_loss(*arguments):
        asked.append(arguments[-1])
        return catalogue_loss(*arguments)

    monkeypatch.setattr(loop, "catalogue_loss", watched_loss)
    train_step(training, prefixes.batch(torch.arange(6)), 0.01, torch.empty(9, 6))
    assert asked == [kernel] * 2  # of the model, and of the controls
    assert seen == dict.fromkeys(("forward", "candidates", "backward"), "highest")
    assert torch.get_float32_matmul_precision() == "highest"


def test_the_old_products_come_back_after_an_error():
    with pytest.raises(ZeroDivisionError), multiplying_as("bf16-mode"):
        raise ZeroDivisionError
    assert torch.get_float32_matmul_precision() == "highest"


def test_a_product_of_bfloat16_factors_is_that_of_the_rounded_numbers():
    torch.manual_seed(0)
    a, b = torch.randn(5, 300), torch.randn(300, 7)
    rounded = a.bfloat16().double() @ b.bfloat16().double()
    found = multiply(a.bfloat16(), b.bfloat16())
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), rounded, rtol=2**-8, atol=1e-3)  # the result has 8 bits on a CPU
    assert not torch.equal(found, multiply(a, b))
    out = torch.empty(5, 7)
    assert multiply(a.bfloat16(), b.bfloat16(), out=out) is out and torch.equal(out, found)


def rounding(parameters):
    """(vectors [64, 128], rows [2000, 128], bias, rows whose lengths divide, targets, buffer) of a case."""
    torch.manual_seed(0)
    vectors, matrix = torch.randn(64, 128, requires_grad=True), torch.randn(2000, 128).mul_(0.1).requires_grad_()
    bias = torch.randn(2000).mul_(0.1).requires_grad_() if "bias" in parameters else None
    unit_of = {"own": matrix, "other": torch.randn(2000, 128, requires_grad=True)}.get(parameters)
    rows = 100 if parameters == "pieces" else 2000  # fewer rows than items: the scores are made twice
    return vectors, matrix, bias, unit_of, torch.randint(0, 2000, (64,)), torch.empty(rows, 64)


@pytest.mark.parametrize("case", ["plain", "bias", "own", "other", "pieces"])
@pytest.mark.parametrize("kernel", [kernel for kernel in HERE if kernel != "float32"])
def test_rough_products_come_near(kernel, case):
    """Eight bits of a product's factors: a few thousandths off in loss and gradients, and not nothing."""
    found = []
    for each in ("float32", kernel):
        vectors, matrix, bias, unit_of, targets, buffer = rounding(case)
        loss = catalogue_loss(vectors, matrix, bias, targets, buffer, unit_of, each)
        leaves = dict.fromkeys(x for x in (vectors, matrix, bias, unit_of) if x is not None)
        found.append((loss.detach(), *torch.autograd.grad(loss, list(leaves))))
    for exact, rough in zip(*found):
        assert rough.dtype == torch.float32
        assert float((exact - rough).norm() / exact.norm()) < 1e-2
        assert exact.dim() == 0 or float((exact - rough).norm() / exact.norm()) > 1e-5


def test_the_targets_own_scores_are_float32():
    """With one item the loss is log exp(score) - score: off by the rounding of the first score only."""
    vectors, matrix = torch.full((1, 1), 1.0), torch.full((1, 1), 1 + 2**-9)  # 1 in bfloat16
    loss = catalogue_loss(vectors, matrix, None, torch.tensor([0]), torch.empty(1, 1), None, "bf16-operands")
    assert float(loss) == pytest.approx(-(2**-9), rel=1e-3)


def test_a_mode_that_rounds_nothing_is_not_usable(monkeypatch):
    """A processor may claim bfloat16 and multiply in float32 all the same."""
    monkeypatch.setitem(KERNELS, "bf16-mode", KERNELS["float32"])
    assert not is_usable("bf16-mode", CPU)
    assert is_usable("bf16-operands", CPU) and is_usable("float32", CPU)
    assert products.at_hand("bf16", CPU) == ["bf16-operands"]
    assert products.at_hand("auto", CPU) == ["float32", "bf16-operands"]


@pytest.mark.parametrize("slow", [0, 1])
def test_the_quickest_kernel_comes_first(slow):
    kernels = ("float32", "bf16-operands")
    found = products.quickest(kernels, lambda kernel: time.sleep(0.01 * (kernel == kernels[slow])), CPU)
    assert list(found) == [kernels[1 - slow], kernels[slow]] and found[kernels[slow]] >= 10


def trained(kind, name="srgnn"):
    prefixes = prefixes_of(Sessions.from_lists([[1, 2, 3, 2, 4], [5, 5, 6]]))
    config = Config(name, "x", "", {"dim": 8}, where="none", batch_size=6, products=kind)
    return assemble(lambda: MODELS[name](n_items=9, dim=8), config, prefixes, 1, "full")


@pytest.mark.parametrize("quick", HERE)
def test_auto_takes_what_was_quickest(quick, monkeypatch):
    monkeypatch.setattr(products, "quickest", lambda kernels, run, device: {quick: 1.0})
    training = trained("auto")
    assert choose_kernel(training, 9, "cpu") == {quick: 1.0} and training.kernel == quick


@pytest.mark.parametrize("name", ["srgnn", "core"])  # core has dropout in its candidates
def test_a_choice_times_the_loss_and_draws_no_random_number(name):
    training, state = trained("auto", name), torch.get_rng_state()
    tried = choose_kernel(training, 9, "cpu")
    assert set(tried) == set(HERE) and min(tried.values()) > 0 and training.kernel == next(iter(tried))
    assert torch.equal(state, torch.get_rng_state())
    training = trained("float32")
    assert choose_kernel(training, 9, "cpu") == {} and training.kernel == "float32"


@pytest.mark.parametrize("slow", [0.9, 1.5, 15.0])
def test_a_processor_that_emulates_bfloat16_is_told_of(slow, monkeypatch, tmp_path):
    """Seen on an EPYC without avx512_bf16: 3,500 milliseconds a step in place of 330, without a word."""
    notes: list[str] = []
    times = {kernel: slow if "bf16" in kernel else 1.0 for kernel in KERNELS}
    ordered = lambda kernels, *_: dict(sorted({k: times[k] for k in kernels}.items(), key=lambda x: x[1]))  # noqa: E731
    monkeypatch.setattr(products, "quickest", ordered)

    class Watch(Observer):
        def note(self, text):
            notes.append(text)

    build = lambda: MODELS["srgnn"](n_items=DATA.n_items, dim=8)  # noqa: E731
    fit(build, DATA, replace(CONFIG, products="bf16", max_steps=2), tmp_path, seed=1, observer=Watch())
    assert any("--products auto" in note for note in notes) == (slow == 15.0)
    used = read_json(tmp_path / "environment.json")["products"]
    assert used["kernel"].startswith("bf16") and "float32" in used["milliseconds"]


def test_all_processes_take_the_kernel_of_the_first(monkeypatch):
    monkeypatch.setattr(products, "quickest", lambda kernels, run, device: {"float32": 1.0})
    of_all = [torch.tensor(list(KERNELS).index(kernel)) for kernel in ("bf16-operands", "float32")]
    monkeypatch.setattr(workers, "gather", lambda mine: of_all)
    training = trained("auto")
    choose_kernel(training, 9, "cpu")
    assert training.kernel == "bf16-operands"


def test_a_resumed_run_keeps_the_kernel_that_it_began_with(tmp_path, monkeypatch):
    """A second measurement could turn out otherwise: the same run would then go on with other numbers."""
    config = replace(CONFIG, products="auto")
    build = lambda: MODELS["srgnn"](n_items=DATA.n_items, dim=8)  # noqa: E731

    def stopping(seen=[]):  # noqa: B006  # counts over the calls of one run
        seen.append(1)
        return len(seen) > 5

    monkeypatch.setattr(products, "quickest", lambda *given: {"bf16-operands": 1.0, "float32": 2.0})

    @contextmanager
    def stop():
        yield stopping

    with monkeypatch.context() as patch:
        patch.setattr(loop, "stop_on_signal", stop)
        with pytest.raises(Interrupted):
            fit(build, DATA, config, tmp_path / "a", seed=1)
    assert read_json(tmp_path / "a" / "environment.json")["products"]["kernel"] == "bf16-operands"
    monkeypatch.setattr(products, "quickest", lambda *given: {"float32": 1.0})
    kernels, step = [], loop.train_step

    def watched(training, *given):
        kernels.append(training.kernel)
        return step(training, *given)

    monkeypatch.setattr(loop, "train_step", watched)
    fit(build, DATA, config, tmp_path / "a", seed=1)
    assert set(kernels) == {"bf16-operands"}


def test_products_that_the_device_lacks_are_refused():
    with pytest.raises(UsageError, match="no TF32"):
        products.at_hand("tf32", CPU)


def test_the_command_refuses_them_before_anything_is_written(typed, tmp_path):
    code, _, err = typed("train", "srgnn", "--dataset", "demo", "--device", "cpu", "--products", "tf32")
    assert code == 2 and "no TF32" in err and not list(tmp_path.rglob("config.toml"))


def test_products_belong_to_the_configuration():
    assert Config("srgnn", "x", "").hash != Config("srgnn", "x", "", products="bf16").hash
    with pytest.raises(UsageError, match="negatives=5"):
        Config("srgnn", "x", "", products="bf16", negatives=5)
    with pytest.raises(UsageError, match="products must be one of float32, tf32, bf16, auto, not fp8"):
        Config("srgnn", "x", "", products="fp8")


def test_the_loss_over_pieces_keeps_its_buffer_small():
    assert score_buffer(100, 10**7, CPU).numel() < 10**8
