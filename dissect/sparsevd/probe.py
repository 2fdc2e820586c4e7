"""Watch a model run once: which layers it calls, and which weights are read without a call of their layer."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

# Functions that look at the shape or kind of a weight, not at its values, beside new_... and ..._like.
LOOKS_ONLY = (
    "size",
    "dim",
    "numel",
    "stride",
    "element_size",
    "is_contiguous",
    "is_floating_point",
    "__len__",
)
VIEWS = tuple(getattr(Tensor, name) for name in ("T", "mT", "H", "mH", "data", "real"))  # they give the values


def watch(
    model: nn.Module, layers: dict[str, nn.Module], probe: Callable[[], object]
) -> tuple[set[str], dict[str, str]]:
    """Run the probe: which layers are called, and which functions read weights without calling the layer?

    Returns the names of the layers called, and by layer the name of such a function. The model stays `as_before`.
    """
    reads = _Reads(layers)
    with as_before(model), torch.no_grad(), ExitStack() as hooks:
        for name, layer in layers.items():
            hooks.enter_context(layer.register_forward_pre_hook(reads.entering(name)))
            hooks.enter_context(layer.register_forward_hook(reads.leaving(name)))
        with reads:
            probe()
    return reads.ran, reads.elsewhere


def still_called(model: nn.Module, layers: dict[str, nn.Module], probe: Callable[[], object]) -> list[str]:
    """The names of the `layers`, which were exchanged, that the probe calls all the same. The model stays `as_before`.

    A SparseVD layer has the hooks of the layer that it was made from, so the module tells which one was called.
    """
    called: set[int] = set()
    with as_before(model), torch.no_grad(), ExitStack() as hooks:
        for layer in layers.values():
            hooks.enter_context(layer.register_forward_pre_hook(lambda module, _: called.add(id(module))))
        probe()
    return [name for name, layer in layers.items() if id(layer) in called]


class _Reads(TorchFunctionMode):
    """Notes every function that gets a weight of a layer while no layer with that weight runs."""

    def __init__(self, layers: dict[str, nn.Module]) -> None:
        super().__init__()
        self.ran: set[str] = set()
        self.running: list[str] = []
        self.elsewhere: dict[str, str] = {}
        self.owners: dict[int, list[str]] = {}  # by the id of a weight, the layers that have it
        for name, layer in layers.items():
            for parameter_name, parameter in layer.named_parameters():
                if "weight" in parameter_name:
                    self.owners.setdefault(id(parameter), []).append(name)

    def entering(self, name: str) -> Callable[..., None]:
        return lambda *_: self.running.append(name)

    def leaving(self, name: str) -> Callable[..., None]:
        def hook(*_: Any) -> None:
            self.running.remove(name)
            self.ran.add(name)

        return hook

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        function = getattr(func, "__name__", str(func))
        is_property = function == "__get__" and getattr(func, "__self__", None) not in VIEWS
        if not is_property and not _looks_only(function):
            for value in _tensors((*args, *(kwargs or {}).values())):
                owners = self.owners.get(id(value), [])
                if owners and not set(owners) & set(self.running):
                    if function == "__get__":
                        function = getattr(func.__self__, "__name__", function)
                    self.elsewhere.setdefault(owners[-1], function)
        return func(*args, **(kwargs or {}))


def _looks_only(function: str) -> bool:
    return function in LOOKS_ONLY or function.startswith("new_") or function.endswith("_like")


def _tensors(values: Iterable[Any]) -> Iterator[Tensor]:
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, list | tuple):
            yield from _tensors(value)


def seed_torch(seed: int, device: torch.device) -> None:
    """Seed torch on the CPU and on `device`. torch.manual_seed does more, which takes a millisecond without a GPU."""
    if device.type not in ("cpu", "cuda"):
        torch.manual_seed(seed)
        return
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        with torch.cuda.device(device):
            torch.cuda.manual_seed(seed)


@contextmanager
def as_before(model: nn.Module) -> Iterator[None]:
    """Context manager: restores torch's random state, the mode of each module and all buffers at its end."""
    modes = [(module, module.training) for module in model.modules()]
    buffers = [
        (module, name, buffer, buffer.clone() if buffer is not None and buffer.layout == torch.strided else None)
        for module in model.modules()
        for name, buffer in module._buffers.items()
    ]
    devices = {p.device for p in model.parameters() if p.device.type == "cuda"}
    with torch.random.fork_rng(devices=sorted(device.index for device in devices)):
        try:
            yield
        finally:
            for module, mode in modes:
                module.training = mode
            with torch.no_grad():
                for module, name, buffer, saved in buffers:
                    module._buffers[name] = buffer
                    # Always: batch normalisation changes its statistics and keeps their version. Sparse
                    # buffers (a graph, say) can only be replaced, not changed in place.
                    if buffer is not None and saved is not None:
                        buffer.copy_(saved)
