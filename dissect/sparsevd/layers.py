"""Layers with a Gaussian posterior over each weight: what they share, and Linear, Conv1d, Conv2d and Embedding.

The recurrent ones are in recurrent.py, attention in attention.py.

Each is a subclass of the dense layer with the same parameters (a `weight` is theta, the mean) and one more
parameter of the same shape for each weight matrix: `log_sigma2`, named after the weight (`weight_ih` has
`log_sigma2_ih`). So the state dict of a dense model loads with strict=False. Biases stay deterministic and
never enter a variance.

In training there is noise, in one of two modes (NOISES):

    lrt     the local reparameterisation (Kingma, Salimans and Welling 2015, arXiv 1506.02557): each output has the mean
            and the variance that noise on the weights would give it, but each row has noise of its own. Exact for a
            single row; but rows are independent, which is not so if all see one W.
    weight  one W for all rows: exact jointly. Each call draws anew, outside of `one_sample`.

In evaluation there is no noise, and weights that are not kept (log alpha >= threshold) are zero: the weights evaluated
are those that a density counts. `masked = False` evaluates theta as it is.

Letters: B sessions, T steps or positions, D width, V rows of a table.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any, ClassVar, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dissect.errors import UsageError, unknown
from dissect.sparsevd.kl import kept, log_alpha
from dissect.sparsevd.noise import moments_once, standard_normal

NOISES = ("lrt", "weight")
UNITS = ("weight", "row", "column")  # what has a sigma^2 of its own, and is pruned as one
VARIANCE_EPS = 1e-8  # under the square root: keeps the gradient finite at rows of zeros, for noise of 1e-4
CONSTANT_LOG_SIGMA2 = -10.0  # initial value for a matrix without spread, for which log Var(theta) has no value


class VariationalLayer(nn.Module):
    """Base class of the layers. A layer is `class XVD(VariationalLayer, X)` for a dense class X.

    Parameters
    ----------
    *args, **kwargs
        Those of X.
    noise : str
        One of NOISES.
    threshold : float
        log alpha from which on a weight counts as pruned.
    log_sigma2 : float, optional
        Where every log sigma^2 begins; log Var(theta) - 4 of the matrix unless given.
    unit : str
        One of UNITS: whether weights have a sigma^2 each, or whole rows (outputs) or columns (inputs) one.

    Attributes
    ----------
    masked : bool
        Whether evaluation leaves pruned weights out.
    """

    dense_class: ClassVar[type[nn.Module]]
    noise: str
    threshold: float
    unit: str
    masked: bool
    log_sigma2_start: float | None
    _held: dict[Any, Tensor] | None
    # From the name of a matrix and its inputs to its shadow and that one's inputs: see shadows.py.
    _shadow: Callable[[str, Tensor], tuple[VariationalLayer, Tensor]] | None = None

    def __init__(
        self,
        *args: Any,
        noise: str = "lrt",
        threshold: float = 3.0,
        log_sigma2: float | None = None,
        unit: str = "weight",
        **kwargs: Any,
    ) -> None:
        """Positional and further keyword arguments are those of the dense layer."""
        super().__init__(*args, **kwargs)
        self._make_variational(noise, threshold, log_sigma2, unit)

    @classmethod
    def from_dense(
        cls,
        dense: nn.Module,
        *,
        noise: str = "lrt",
        threshold: float = 3.0,
        log_sigma2: float | None = None,
        unit: str = "weight",
    ) -> Self:
        """A layer with noise, with the dense layer's own Parameters, device, mode and hooks.

        `noise`, `threshold` and `unit` are those of the class. log_sigma2 is the initial value of all log sigma^2; None
        is log Var(theta) - 4 in each matrix. Frozen weights get a frozen log sigma^2.

        Raises UsageError for a dense layer of another class or in half precision.
        """
        if type(dense) is not cls.dense_class:
            right, given = cls.dense_class.__name__, type(dense).__name__
            raise UsageError(f"{cls.__name__} takes the place of {right}, not of {given}.")
        layer = cls.__new__(cls)
        layer.__dict__.update(_own_containers(dense))
        layer._make_variational(noise, threshold, log_sigma2, unit)
        return layer

    def to_dense(self, prune: bool = True) -> nn.Module:
        """The dense layer with this layer's own Parameters, mode and hooks.

        `prune` sets the weights that are not kept to zero, in place.
        """
        if prune:
            with torch.no_grad():
                for _, theta, log_sigma2 in self.variational():
                    theta.masked_fill_(~kept(log_alpha(theta, log_sigma2), self.threshold), 0.0)
        dense = self.dense_class.__new__(self.dense_class)
        dense.__dict__.update(_own_containers(self))
        for name in self.theta_names():
            del dense._parameters[sigma_name(name)]
        for name in ("noise", "threshold", "unit", "masked", "log_sigma2_start", "_held", "_shadow"):
            dense.__dict__.pop(name, None)
        return dense

    def theta_names(self) -> Sequence[str]:
        """The names of the weight matrices among the parameters of this layer."""
        return ("weight",)

    def blocks(self, theta_name: str) -> dict[str, tuple[slice, ...]]:
        """The named parts of the matrix `theta_name`, as slices of it: the gates of a GRU, say. They may overlap."""
        return {}

    def variational(self) -> Iterator[tuple[str, nn.Parameter, nn.Parameter]]:
        """(name of theta, theta, log_sigma2) of each weight matrix."""
        for name in self.theta_names():
            yield name, *self._pair(name)

    def reset_parameters(self) -> None:
        """Initialise as the dense layer does, and log sigma^2 by its own rule.

        The order counts: nn.GRU fills every parameter that it finds.
        """
        super().reset_parameters()  # type: ignore[misc]  # of the dense class, the next of the bases
        if "noise" in self.__dict__:  # not while the constructor of the dense class runs
            self.reset_log_sigma2()

    def reset_log_sigma2(self) -> None:
        """Reset log sigma^2 to its initial value for the present theta."""
        with torch.no_grad():
            for _, theta, log_sigma2 in self.variational():
                log_sigma2.fill_(self._start(theta))

    def extra_repr(self) -> str:
        of_dense = super().extra_repr()  # "" of an attention
        return f"{of_dense}{', ' * bool(of_dense)}noise={self.noise}, threshold={self.threshold:g}"

    def _make_variational(self, noise: str, threshold: float, log_sigma2: float | None, unit: str) -> None:
        if noise not in NOISES:
            raise unknown("noise", noise, NOISES)
        if unit not in UNITS:
            raise unknown("unit", unit, UNITS)
        if not math.isfinite(threshold):
            raise UsageError(f"The threshold of log alpha must be a number, not {threshold}.")
        if log_sigma2 is not None and not math.isfinite(log_sigma2):
            raise UsageError(f"log_sigma2 must be a number, not {log_sigma2}.")
        self.noise, self.threshold, self.unit, self.masked = noise, threshold, unit, True
        self.log_sigma2_start, self._held = log_sigma2, None
        for name in self.theta_names():
            theta = getattr(self, name)
            if theta.dtype not in (torch.float32, torch.float64):
                raise UsageError(
                    f"SparseVD needs float32 weights, not {theta.dtype}: in lower precision an update of 1e-3 "
                    "would not change log sigma^2 = -10.",
                    "Keep the model in float32 and use torch.autocast.",
                )
            if not torch.isfinite(theta).all():
                raise UsageError(f"{name} holds NaN or infinity.", "SparseVD starts from finite weights.")
            start = torch.full_like(_one_of_each(theta.detach(), unit), self._start(theta))
            self.register_parameter(sigma_name(name), nn.Parameter(start, requires_grad=theta.requires_grad))

    def _pair(self, theta_name: str) -> tuple[nn.Parameter, nn.Parameter]:
        theta, log_sigma2 = self._parameters[theta_name], self._parameters[sigma_name(theta_name)]
        assert theta is not None and log_sigma2 is not None
        return theta, log_sigma2

    def _start(self, theta: Tensor) -> float:
        return initial_log_sigma2(theta) if self.log_sigma2_start is None else self.log_sigma2_start

    def _product(self, name: str, x: Tensor, bias: Tensor | None, rows: slice | None = None) -> Tensor:
        """x times matrix `name`, or those `rows` of it, with its noise, and the bias; in training what its shadow
        makes too.

        The sum of two Gaussians is one: a matrix and its shadow share a draw, as one layer over [x; others] would.
        """
        multiply = partial(self._moments, name, x, bias, rows)
        if self._uses_weights():  # each pass draws its own
            mean, variance = multiply()
        else:
            mean, variance = moments_once(self._pair(name)[0], rows, x, multiply)
        if self._shadow is not None and self.training:
            more, spread = self._of_shadow(*self._shadow(name, x), rows)
            mean = mean + more
            variance = None if variance is None or spread is None else variance + spread
        return mean if variance is None else _add_noise(mean, variance)

    def _of_shadow(self, shadow: VariationalLayer, others: Tensor, rows: slice | None) -> tuple[Tensor, Tensor | None]:
        """The moments of what a shadow adds to the product, from the inputs of other rows."""
        return shadow._moments("weight", others, None, rows)

    def _moments(
        self, name: str, x: Tensor, bias: Tensor | None, rows: slice | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """The mean and the variance of the product; the product and None if this call `_uses_weights`."""
        if self._uses_weights():
            weight = self._weight(name)
            return self._times(x, weight if rows is None else weight[rows], bias), None
        theta, _ = self._pair(name)
        mean = self._times(x, theta if rows is None else theta[rows], bias)
        with _full_precision(x):
            sigma2 = self._sigma2(name)
            # No bias: the variance does not depend on it.
            return mean, self._times(x.to(sigma2.dtype).square(), sigma2 if rows is None else sigma2[rows], None)

    def _times(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """What the dense layer computes with a weight: x [..., in], weight [out, in] -> [..., out]."""
        return F.linear(x, weight, bias)

    def _uses_weights(self) -> bool:
        """Whether this call multiplies by one set of weights, rather than add noise to the outputs."""
        return not self.training or self.noise == "weight"

    def _sigma2(self, name: str) -> Tensor:
        """The variance of each weight; within `one_sample` computed once, however often the layer is called."""
        theta, log_sigma2 = self._pair(name)
        held = {} if self._held is None else self._held
        if id(log_sigma2) not in held:
            held[id(log_sigma2)] = log_sigma2.exp().expand_as(theta)
        return held[id(log_sigma2)]

    def _weight(self, name: str) -> Tensor:
        """For a call that `_uses_weights`: a draw of W in training, in evaluation theta, masked or not."""
        theta, log_sigma2 = self._pair(name)
        if not (self.training or self.masked):
            return theta
        held = {} if self._held is None else self._held
        key = (id(theta), self.training, self.threshold)
        if key not in held:
            with _full_precision(theta):
                if self.training:
                    held[key] = theta + (0.5 * log_sigma2).exp() * torch.randn_like(theta)
                else:
                    held[key] = theta.masked_fill(~kept(log_alpha(theta, log_sigma2), self.threshold), 0.0)
        return held[key]


class LinearVD(VariationalLayer, nn.Linear):
    """Linear: x [..., in] -> [..., out]; weight, log_sigma2 [out, in]."""

    dense_class = nn.Linear
    log_sigma2: nn.Parameter

    def forward(self, x: Tensor) -> Tensor:
        return self._product("weight", x, self.bias)


class _ConvolutionVD(VariationalLayer):
    """What convolutions share. The noise of two positions is independent, although overlapping windows see the same
    weights.
    """

    log_sigma2: nn.Parameter
    bias: Any  # of the convolution, as is the next
    _conv_forward: Any

    def forward(self, x: Tensor) -> Tensor:
        return self._product("weight", x, self.bias)

    def _times(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """The same padding, stride and dilation for the mean and the variance."""
        product: Tensor = self._conv_forward(x, weight, bias)
        return product


class Conv1dVD(_ConvolutionVD, nn.Conv1d):
    """Conv1d: x [B, in, T] or [in, T] -> [B, out, T'] or [out, T']; weight, log_sigma2 [out, in / groups, k]."""

    dense_class = nn.Conv1d


class Conv2dVD(_ConvolutionVD, nn.Conv2d):
    """Conv2d: x [B, in, Y, X] or [in, Y, X] -> [B, out, Y', X']; weight, log_sigma2 [out, in / groups, k, k']."""

    dense_class = nn.Conv2d


class EmbeddingVD(VariationalLayer, nn.Embedding):
    """Embedding: ids of any shape -> [..., D]; weight, log_sigma2 [V, D].

    Each look-up has noise of its own, although look-ups of one id see the same weights. The row of padding_idx stays
    without noise.
    """

    dense_class = nn.Embedding
    log_sigma2: nn.Parameter

    def _make_variational(self, *settings: Any) -> None:
        if self.max_norm is not None or self.sparse or self.scale_grad_by_freq:
            raise UsageError(
                "EmbeddingVD has no max_norm, no scale_grad_by_freq and no sparse gradients, and this Embedding has."
            )
        super()._make_variational(*settings)

    def forward(self, input: Tensor) -> Tensor:
        vectors = self._product("weight", input, None)
        if self.padding_idx is None or not self.training:
            return vectors
        is_padding = (input == self.padding_idx)[..., None]  # it has no noise, and a shadow has nothing to add to it
        return torch.where(is_padding, self._times(input, self.weight, None), vectors)

    def _times(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return F.embedding(x, weight, self.padding_idx)

    def _moments(
        self, name: str, x: Tensor, bias: Tensor | None, rows: slice | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """An id is no factor: the variance is that of its row, and none of padding."""
        if self._uses_weights():
            return self._times(x, self._weight(name), None), None
        variance = self._times(x, self._sigma2("weight"), None)
        if self.padding_idx is not None:
            variance = variance * (x != self.padding_idx)[..., None]
        return self._times(x, self.weight, None), variance

    def _of_shadow(self, shadow: VariationalLayer, others: Tensor, rows: slice | None) -> tuple[Tensor, Tensor | None]:
        """Ids cannot be centred, so their vectors are: the mean over the batch is taken away."""
        more, spread = super()._of_shadow(shadow, others, rows)
        return more - more.reshape(-1, more.shape[-1]).mean(0), spread


def _one_of_each(theta: Tensor, unit: str) -> Tensor:
    """A tensor of the shape of the log sigma^2 of a matrix: a number for each weight, row or column."""
    if unit == "weight":
        return theta
    own = 0 if unit == "row" else 1  # of a convolution, all taps of an output or an input go together
    return theta[tuple(slice(None if axis == own else 1) for axis in range(theta.dim()))]


def sigma_name(theta_name: str) -> str:
    """The parameter that belongs to a weight: weight -> log_sigma2, weight_ih_l0 -> log_sigma2_ih_l0."""
    return theta_name.replace("weight", "log_sigma2", 1)


def initial_log_sigma2(theta: Tensor) -> float:
    """log Var(theta) - 4: every matrix starts at the same density, 0.983 for uniform weights (t = 3).

    CONSTANT_LOG_SIGMA2 for a matrix without spread: constant, or of a single weight.
    """
    variance = float(theta.detach().double().var(correction=0))
    # A constant has no variance, but rounding leaves about 1e-14 of its square.
    spread = variance > 1e-12 * float(theta.detach().double().square().mean())
    return math.log(variance) - 4.0 if spread else CONSTANT_LOG_SIGMA2


@contextmanager
def one_sample(model: nn.Module) -> Iterator[None]:
    """Context manager: each matrix of the model has one set of weights, however often its layer is called.

    In training these are one draw for noise = weight: open it for each step, or rows that should see one W see several.
    For noise = lrt it saves time: sigma^2 is computed once. In evaluation they are the masked theta, computed once for
    all batches. Weights must not change inside, nor must gradients be switched on or off; one backward pass takes all
    losses of a step. Tied matrices share their draw.
    """
    layers = [m for m in model.modules() if isinstance(m, VariationalLayer) and m._held is None]
    held: dict[Any, Tensor] = {}
    for layer in layers:
        layer._held = held
    try:
        yield
    finally:
        for layer in layers:
            layer._held = None


def _full_precision(x: Tensor) -> AbstractContextManager[Any]:
    """Autocast off, where it is on."""
    if torch.is_autocast_enabled(x.device.type):
        return torch.autocast(x.device.type, enabled=False)
    return nullcontext()


def _add_noise(mean: Tensor, variance: Tensor) -> Tensor:
    """mean + std * noise of each element's own, in the precision of the variance, returned in that of the mean."""
    std = (variance + VARIANCE_EPS).sqrt_()
    noise = standard_normal(mean.shape, std.dtype, std.device)
    return torch.addcmul(mean.to(std.dtype), std, noise).to(mean.dtype)


def _own_containers(module: nn.Module) -> dict[str, Any]:
    """The attributes of a module, to give to another one.

    Parameters, buffers, submodules and plain lists get containers of their own. The dictionaries of hooks are
    the same objects, so that a handle that the user holds still removes its hook.
    """
    own = {"_parameters", "_buffers", "_modules", "_non_persistent_buffers_set"}
    return {
        name: value.copy() if name in own or isinstance(value, list) else value
        for name, value in module.__dict__.items()
    }
