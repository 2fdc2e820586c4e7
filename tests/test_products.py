"""Products with the catalogue in less than float32: where they are, and where they are not."""

import pytest
import torch

from dissect.data.sessions import PrefixTensors, Sessions
from dissect.errors import UsageError
from dissect.training import loop, scoring
from dissect.training.config import PRODUCTS, Config
from dissect.training.loop import train_step
from dissect.training.scoring import catalogue_loss, products_in, require_products
from dissect.training.setup import assemble
from models import MODELS

HAS_BF16 = torch.ops.mkldnn._is_mkldnn_bf16_supported()


@pytest.mark.parametrize("products", PRODUCTS)
def test_only_the_loss_is_made_of_such_products(products, monkeypatch):
    prefixes = PrefixTensors(Sessions.from_lists([[1, 2, 3, 2, 4], [5, 5, 6]]))
    config = Config("srgnn", "x", "", {"dim": 8}, where="both", batch_size=6, max_steps=50, products=products)
    training = assemble(lambda: MODELS["srgnn"](n_items=9, dim=8), config, prefixes, 1, "full")
    seen, model = {}, training.model
    encode, candidates = model.encode, model.candidates

    def watched(S, items, lengths):
        seen["forward"] = torch.get_float32_matmul_precision()
        vectors, auxiliary = encode(S, items, lengths)
        vectors.register_hook(lambda _: seen.update(backward=torch.get_float32_matmul_precision()))
        return vectors, auxiliary

    def watched_candidates(S):
        seen["candidates"] = torch.get_float32_matmul_precision()
        return candidates(S)

    training.encode, model.candidates = watched, watched_candidates

    def watched_loss(*arguments):
        seen["loss"] = torch.get_float32_matmul_precision()
        return catalogue_loss(*arguments)

    monkeypatch.setattr(loop, "catalogue_loss", watched_loss)
    train_step(training, prefixes.batch(torch.arange(6)), 0.01, torch.empty(9, 6))
    assert seen.pop("loss") == PRODUCTS[products]
    assert seen == dict.fromkeys(("forward", "candidates", "backward"), "highest")
    assert torch.get_float32_matmul_precision() == "highest"


def test_the_old_products_come_back_after_an_error():
    with pytest.raises(ZeroDivisionError), products_in("bf16"):
        raise ZeroDivisionError
    assert torch.get_float32_matmul_precision() == "highest"


@pytest.mark.skipif(not HAS_BF16, reason="this CPU does not multiply in bfloat16")
def test_bfloat16_products_come_near():
    """Eight bits of a product's factors: a few thousandths, and not nothing."""
    torch.manual_seed(0)
    vectors, matrix = torch.randn(64, 128, requires_grad=True), torch.randn(2000, 128).mul_(0.1).requires_grad_()
    targets = torch.randint(0, 2000, (64,))
    found = []
    for products in ("float32", "bf16"):
        with products_in(products):
            loss = catalogue_loss(vectors, matrix, None, targets)
        found.append((loss.detach(), *torch.autograd.grad(loss, (vectors, matrix))))
    for exact, rough in zip(*found):
        assert 1e-6 < float((exact - rough).norm() / exact.norm()) < 1e-2


def test_products_that_the_device_lacks_are_refused(monkeypatch):
    require_products("float32", "cpu")
    with pytest.raises(UsageError, match="no TF32"):
        require_products("tf32", "cpu")
    monkeypatch.setattr(scoring, "has_bf16_products", lambda: False)
    for device in ("cpu", "cuda"):  # there torch would take TF32
        with pytest.raises(UsageError, match="bfloat16"):
            require_products("bf16", device)


def test_the_command_refuses_them_before_anything_is_written(typed, tmp_path):
    code, _, err = typed("train", "srgnn", "--dataset", "demo", "--device", "cpu", "--products", "tf32")
    assert code == 2 and "no TF32" in err and not list(tmp_path.rglob("config.toml"))


def test_products_belong_to_the_configuration():
    assert Config("srgnn", "x", "").hash != Config("srgnn", "x", "", products="bf16").hash
    with pytest.raises(UsageError, match="negatives=5"):
        Config("srgnn", "x", "", products="bf16", negatives=5)
    with pytest.raises(UsageError, match="products must be one of float32, tf32, bf16, not fp8"):
        Config("srgnn", "x", "", products="fp8")
