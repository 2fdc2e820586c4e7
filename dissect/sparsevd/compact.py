"""A pruned model made smaller: layers without their dead rows and columns, which compute the same.

`compact` puts a Compact layer in place of each pruned Linear, a CompactGRU in that of a GRU. A row without a kept
weight gives a constant, and a column without one is not read. What else can be left out is found by a dye, NaN: it goes
through sums, products and functions, and a Compact layer does not read what it left out. Hence, whatever the code
between the layers does:

    fold_constants   inputs of a layer that stay numbers though all inputs of the model are NaN, and are equal in all
                     rows, are constants: what they contribute goes into the bias
    drop_unread      if the result of the model stays a number though an output of a layer is NaN, nothing reads it

Comparing and sorting can swallow a dye. So whoever shrinks a model has to compare its results before and after.

Scattered zeros save nothing: only whole rows and columns can be left out of a dense product.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from dissect.sparsevd.sparsifier import variational_layers
from dissect.sparsevd.sparsify import densify, exchange

SMALL = 1 << 16  # weights of a whole matrix, up to which a CPU multiplies by it in less time than it gathers columns
SAME = 1e-12  # values that differ by less, in double precision, are the same constant but for rounding

READS_WEIGHTS = nn.TransformerEncoderLayer, nn.MultiheadAttention  # the weights of their Linears, in a fast path

Run = Callable[[], Tensor]  # runs the model on some inputs and gives its result


class Compact(nn.Module):
    """A Linear [..., in] -> [..., out] without dead rows and columns.

    `rows` [r] and `cols` [c] are the outputs and inputs that are left, `inner` is the small Linear between them, and
    `constant` [out] is what comes out elsewhere. `bias` is that of the whole layer, for code that reads it.
    """

    rows: Tensor
    cols: Tensor
    constant: Tensor
    inner: Any  # None without rows
    spread: Tensor | None  # [out, in], see `spread_small`
    spread_bias: Tensor | None

    def __init__(self, layer: nn.Linear, rows: int, cols: int) -> None:
        """Room for so many rows and columns of a layer; `of` and load_state_dict fill it."""
        super().__init__()
        like: dict[str, Any] = {"device": layer.weight.device, "dtype": layer.weight.dtype}
        self.out_features, self.in_features = layer.weight.shape
        self.register_buffer("rows", torch.zeros(rows, dtype=torch.long, device=like["device"]))
        self.register_buffer("cols", torch.zeros(cols, dtype=torch.long, device=like["device"]))
        self.register_buffer("constant", torch.zeros(self.out_features, **like))
        self.bias = None if layer.bias is None else nn.Parameter(layer.bias.detach().clone())
        for name in ("spread", "spread_bias"):
            self.register_buffer(name, None, persistent=False)
        self.inner = nn.Linear(cols, rows, **like) if rows else None

    @classmethod
    def of(cls, layer: nn.Linear) -> Self:
        """The same as a pruned layer, whose zeros are dead."""
        made = cls(layer, *layer.weight.shape)
        made.rows, made.cols = (torch.arange(n, device=layer.weight.device) for n in layer.weight.shape)
        bias = torch.zeros_like(made.constant) if layer.bias is None else layer.bias.detach()
        made._set(layer.weight.detach(), bias)
        return made.train(layer.training)

    def forward(self, x: Tensor) -> Tensor:
        if self.spread is not None:
            return F.linear(x, self.spread, self.spread_bias)
        if self.inner is None:
            return self.constant.expand(*x.shape[:-1], -1).clone()
        y: Tensor = self.inner(x if len(self.cols) == self.in_features else x.index_select(-1, self.cols))
        if len(self.rows) == self.out_features:
            return y
        return self.constant.expand(*y.shape[:-1], -1).clone().index_copy_(-1, self.rows, y)

    def spread_small(self) -> None:
        """For a small matrix, put its rows and columns back among zeros: that takes less time than to gather them."""
        if self.inner is not None and self.out_features * self.in_features <= SMALL:
            weight = self.inner.weight.new_zeros(self.out_features, self.in_features)
            weight[self.rows[:, None], self.cols] = self.inner.weight.detach()
            self.spread = weight
            self.spread_bias = self.constant.index_copy(0, self.rows, self.inner.bias.detach())

    def fold(self, constant: Tensor, values: Tensor) -> None:
        """Put the inputs that are `constant` (bool [c]), with these `values` [c], into the bias."""
        weight, bias = self.inner.weight.detach(), self.inner.bias.detach()
        self.cols = self.cols[~constant]
        self._set(weight[:, ~constant], bias + weight[:, constant] @ values[constant])

    def drop(self, unread: Tensor) -> None:
        """Leave out the rows that nothing reads (bool [r]): zeros come out."""
        weight, bias = self.inner.weight.detach(), self.inner.bias.detach()
        self.constant = self.constant.index_fill(0, self.rows[unread], 0.0)
        self.rows = self.rows[~unread]
        self._set(weight[~unread], bias[~unread])

    @property
    def size(self) -> tuple[int, int]:
        """Rows and columns that are left."""
        return len(self.rows), len(self.cols)

    def extra_repr(self) -> str:
        return f"{len(self.rows)} of {self.out_features} rows, {len(self.cols)} of {self.in_features} columns"

    def _set(self, weight: Tensor, bias: Tensor) -> None:
        """The matrix between the present rows and columns, [r, c], of which the dead ones go; the bias [r]."""
        rows, cols = (weight != 0).any(1), (weight != 0).any(0)
        self.constant = self.constant.index_copy(0, self.rows[~rows], bias[~rows])
        self.rows, self.cols = self.rows[rows], self.cols[cols]
        self.inner = None
        if len(self.rows):
            self.inner = nn.Linear(len(self.cols), len(self.rows), device=weight.device, dtype=weight.dtype)
            _fill(self.inner, weight=weight[rows][:, cols], bias=bias[rows])


class CompactGRU(nn.Module):
    """A GRU of one layer and direction, without the inputs that it does not read and the units that nothing reads.

    `cols` [c] are the inputs and `rows` [h] the units that are left, at least one each; zeros come out for the others.
    """

    rows: Tensor
    cols: Tensor
    inner: nn.GRU

    def __init__(self, layer: nn.GRU, rows: int, cols: int) -> None:
        super().__init__()
        self.out_features, self.in_features = layer.hidden_size, layer.input_size
        self.hidden_size, self.batch_first = layer.hidden_size, layer.batch_first
        weight = layer.get_parameter("weight_ih_l0")
        device, dtype = weight.device, weight.dtype
        self.register_buffer("rows", torch.zeros(rows, dtype=torch.long, device=device))
        self.register_buffer("cols", torch.zeros(cols, dtype=torch.long, device=device))
        self.inner = nn.GRU(cols, rows, batch_first=layer.batch_first, device=device, dtype=dtype)

    @classmethod
    def of(cls, layer: nn.GRU) -> Self:
        """The same as a pruned layer, with all of its units."""
        made = cls(layer, layer.hidden_size, layer.input_size)
        ih, hh = (layer.get_parameter(f"weight_{which}_l0").detach() for which in ("ih", "hh"))
        zeros = ih.new_zeros(len(ih))
        biases = [layer.get_parameter(f"bias_{w}_l0").detach() if layer.bias else zeros for w in ("ih", "hh")]
        made.rows, made.cols = (torch.arange(n, device=ih.device) for n in (layer.hidden_size, layer.input_size))
        made._set(ih, hh, *biases)
        return made.train(layer.training)

    def forward(self, input: Any, hx: Tensor | None = None) -> Any:
        is_packed = isinstance(input, PackedSequence)
        x = input.data if is_packed else input
        x = x if len(self.cols) == self.in_features else x.index_select(-1, self.cols)
        h0 = None if hx is None else hx.index_select(-1, self.rows)
        out, h = self.inner(input._replace(data=x) if is_packed else x, h0)
        return (out._replace(data=self._whole(out.data)) if is_packed else self._whole(out)), self._whole(h)

    def fold(self, constant: Tensor, values: Tensor) -> None:
        """Put the inputs that are `constant` (bool [c]), with these `values` [c], into the bias."""
        ih, hh, bias_ih, bias_hh = (parameter.detach() for parameter in self.inner.parameters())
        bias_ih = bias_ih + ih[:, constant] @ values[constant]
        self._set(ih.masked_fill(constant, 0.0), hh, bias_ih, bias_hh)

    def drop(self, unread: Tensor) -> None:
        """Leave out the units that nothing reads (bool [h]), unless a gate of a unit that stays reads them."""
        ih, hh, *biases = (parameter.detach() for parameter in self.inner.parameters())
        h = len(self.rows)
        reads, gone = (hh != 0).view(3, h, h).any(0), unread.clone()  # reads[i, j]: unit i reads unit j
        while bool((needed := gone & reads[~gone].any(0)).any()):
            gone &= ~needed
        gone[0] &= not bool(gone.all())
        left, gates = ~gone, (~gone).repeat(3)
        self.rows = self.rows[left]
        self._set(ih[gates], hh[gates][:, left], *(bias[gates] for bias in biases))

    @property
    def size(self) -> tuple[int, int]:
        """Units and inputs that are left."""
        return len(self.rows), len(self.cols)

    def extra_repr(self) -> str:
        return f"{len(self.rows)} of {self.out_features} units, {len(self.cols)} of {self.in_features} columns"

    def _whole(self, y: Tensor) -> Tensor:
        if len(self.rows) == self.out_features:
            return y
        return y.new_zeros(*y.shape[:-1], self.out_features).index_copy_(-1, self.rows, y)

    def _set(self, ih: Tensor, hh: Tensor, bias_ih: Tensor, bias_hh: Tensor) -> None:
        cols = (ih != 0).any(0)
        cols[0] |= not bool(cols.any())  # PyTorch's GRU needs an input
        self.cols = self.cols[cols]
        self.inner = nn.GRU(
            len(self.cols), len(self.rows), batch_first=self.batch_first, device=ih.device, dtype=ih.dtype
        ).train(self.training)
        _fill(self.inner, weight_ih_l0=ih[:, cols], weight_hh_l0=hh, bias_ih_l0=bias_ih, bias_hh_l0=bias_hh)


Layer = Compact | CompactGRU


def compact(model: nn.Module) -> list[str]:
    """Put compact layers in place of all SparseVD layers, in place; returns the names of those that stay whole.

    These are pruned dense layers of other kinds than Linear and a GRU of one layer, and those whose weights torch reads
    past the layer.
    """
    names = [name for name, _ in variational_layers(model)]
    densify(model)
    dense = {name: model.get_submodule(name) for name in names}
    past = {name for name in names if isinstance(model.get_submodule(name.rpartition(".")[0]), READS_WEIGHTS)}
    made = {name: kind.of(dense[name]) for name in names if name not in past and (kind := kind_for(dense[name]))}  # type: ignore[arg-type]
    exchange(model, {id(dense[name]): layer for name, layer in made.items()})
    return [name for name in names if name not in made]


def kind_for(layer: nn.Module) -> type[Layer] | None:
    """The compact layer for a dense one; None if there is none."""
    if type(layer) is nn.Linear:
        return Compact
    return CompactGRU if type(layer) is nn.GRU and layer.num_layers == 1 and not layer.bidirectional else None


def layers_of(model: nn.Module) -> dict[str, Layer]:
    """The compact layers of a model by name, each once."""
    return {name: module for name, module in model.named_modules() if isinstance(module, Layer)}


def never_ran(model: nn.Module, run: Run) -> list[str]:
    """The names of the compact layers that `run` does not call."""
    ran = set()
    with ExitStack() as hooks:
        for name, layer in layers_of(model).items():
            hooks.enter_context(layer.register_forward_hook(lambda *_, name=name: ran.add(name)))
        run()
    return [name for name in layers_of(model) if name not in ran]


@torch.no_grad()
def fold_constants(model: nn.Module, dyed: Run, true: Run) -> int:
    """Put the constant inputs of compact layers into their biases; returns how many.

    `dyed` runs the model, in double precision, on NaN instead of its inputs, `true` on inputs as they are: on many, of
    all kinds, since what is equal in all of their rows counts as constant.
    """
    ranges = [_ranges(model, run) for run in (dyed, true)]
    folded = 0
    for name, layer in layers_of(model).items():
        if name not in ranges[0] or not layer.size[0]:
            continue
        (low, high), (true_low, true_high) = (found[name] for found in ranges)
        same = SAME * (1 + high.abs())
        constant = (high - low <= same) & (true_high - true_low <= same)
        constant &= (true_high - high).abs() <= same
        if isinstance(layer, CompactGRU):
            is_read = torch.ne(layer.inner.get_parameter("weight_ih_l0"), 0).any(0)  # one input stays, read or not
            constant &= is_read
        if count := int(constant.sum()):
            layer.fold(constant, true_high)
            folded += count
    return folded


def _ranges(model: nn.Module, run: Run) -> dict[str, tuple[Tensor, Tensor]]:
    """The lowest and highest value of each input that a compact layer reads, over all rows; NaN if one is."""
    found = dict[str, tuple[Tensor, Tensor]]()

    def note(name: str, layer: Layer, inputs: tuple[Any, ...]) -> None:
        x = inputs[0].data if isinstance(inputs[0], PackedSequence) else inputs[0]
        x = x.flatten(0, -2).index_select(-1, layer.cols)
        if len(x):
            low, high = found.get(name, (x[0], x[0]))
            found[name] = torch.minimum(low, x.amin(0)), torch.maximum(high, x.amax(0))

    with ExitStack() as hooks:
        for name, layer in layers_of(model).items():
            hook = layer.register_forward_pre_hook(lambda layer, inputs, name=name: note(name, layer, inputs))
            hooks.enter_context(hook)
        run()
    return found


def drop_unread(model: nn.Module, run: Run) -> int:
    """Leave out the rows of compact layers that nothing reads; returns how many.

    An output with a gradient is read. One without is tried with the dye.
    """
    read = _with_gradient(model, run)
    dropped = 0
    for name, layer in layers_of(model).items():
        before = layer.size[0]
        unread = torch.ones(before, dtype=torch.bool, device=layer.rows.device)
        if name in read:
            unread = ~read[name]
        if not before or not bool(unread.any()):
            continue
        if not _is_unread(layer, layer.rows[unread], run):
            for place in unread.nonzero()[:, 0].tolist():
                unread[place] = _is_unread(layer, layer.rows[place : place + 1], run)
        if bool(unread.any()):
            layer.drop(unread)
        dropped += before - layer.size[0]
    return dropped


def _with_gradient(model: nn.Module, run: Run) -> dict[str, Tensor]:
    """Which rows of each compact layer the result has a derivative by, bool [r]."""
    outputs: list[tuple[str, Layer, Tensor]] = []

    def hold(name: str, layer: Layer, _: Any, output: Any) -> None:
        y = _tensor(output)
        if y.requires_grad:
            y.retain_grad()
            outputs.append((name, layer, y))

    with ExitStack() as hooks, torch.enable_grad():
        for name, layer in layers_of(model).items():
            hooks.enter_context(layer.register_forward_hook(lambda layer, x, y, name=name: hold(name, layer, x, y)))
        result = run()
        if result.requires_grad:
            torch.autograd.backward(result, torch.randn_like(result))
    model.zero_grad()
    read = {name: torch.zeros(layer.size[0], dtype=torch.bool, device=layer.rows.device) for name, layer, _ in outputs}
    for name, layer, y in outputs:
        if y.grad is not None:
            read[name] |= (y.grad.flatten(0, -2).index_select(-1, layer.rows) != 0).any(0)
    return read


@torch.no_grad()
def _is_unread(layer: Layer, rows: Tensor, run: Run) -> bool:
    """Whether the result stays a number if these outputs of a layer are NaN."""

    def dye(_: nn.Module, __: Any, output: Any) -> Any:
        y = _tensor(output).clone().index_fill_(-1, rows, torch.nan)
        if isinstance(output, Tensor):
            return y
        first, state = output
        first = first._replace(data=y) if isinstance(first, PackedSequence) else y
        return first, state.clone().index_fill_(-1, rows, torch.nan)

    with layer.register_forward_hook(dye):
        return bool(torch.isfinite(run()).all())


def _tensor(output: Any) -> Tensor:
    """The outputs of a layer for all rows: that of a GRU comes with its last state, and may be packed."""
    first = output[0] if isinstance(output, tuple) else output
    return first.data if isinstance(first, PackedSequence) else first


@torch.no_grad()
def _fill(module: nn.Module, **values: Tensor) -> None:
    for name, value in values.items():
        module.get_parameter(name).copy_(value)


@torch.no_grad()
def unread_parameters(model: nn.Module, run: Run) -> list[str]:
    """The names of the floating-point parameters and buffers that can be NaN while the result stays a number."""
    found = []
    for name, tensor in model.state_dict(keep_vars=True).items():
        if not tensor.is_floating_point() or not tensor.numel():
            continue
        kept = tensor.detach().clone()
        tensor.data.fill_(torch.nan)
        try:
            if bool(torch.isfinite(run()).all()):
                found.append(name)
        finally:
            tensor.data.copy_(kept)
    return found
