"""SparseVD layers for GRUCell, LSTMCell, GRU and LSTM: any number of layers, one or both directions.

With noise = weight, and in evaluation, PyTorch's own layer runs on the drawn or masked weights. The local
reparameterisation needs the state of each step, hence a loop, and draws noise of its own at each step, for the product
with the input and for that with the state; its result is in the precision of the weights.

Letters: B sequences, T steps, H units; P what a state is projected to (H without a projection).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from dissect.sparsevd.layers import VariationalLayer, _full_precision

States = tuple[Tensor, ...]  # (h,) of a GRU, (h, c) of an LSTM
GATES = {"GRU": ("r", "z", "n"), "LSTM": ("i", "f", "g", "o")}  # in the order of their rows


class _CellVD(VariationalLayer):
    """What the two cells share: weight_ih [gates x H, in], weight_hh [gates x H, H]."""

    gates: Sequence[str]
    log_sigma2_ih: nn.Parameter
    log_sigma2_hh: nn.Parameter
    # Of the dense class.
    hidden_size: int
    weight_ih: Tensor
    weight_hh: Tensor
    bias_ih: Any
    bias_hh: Any

    def theta_names(self) -> Sequence[str]:
        return ("weight_ih", "weight_hh")

    def blocks(self, theta_name: str) -> dict[str, tuple[slice, ...]]:
        return _gate_rows(self.gates, self.hidden_size)

    def _products(self, x: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        return self._product("weight_ih", x, self.bias_ih), self._product("weight_hh", h, self.bias_hh)


class GRUCellVD(_CellVD, nn.GRUCell):
    """GRUCell: x [B, in], h [B, H] -> [B, H], or all without B; weight_ih [3H, in], weight_hh [3H, H], order r, z, n.

    The two products have noise of their own: the reset gate multiplies one of them.
    """

    dense_class = nn.GRUCell
    gates = GATES["GRU"]

    def forward(self, input: Tensor, hx: Tensor | None = None) -> Tensor:
        if input.dim() == 1:
            return self.forward(input[None], None if hx is None else hx[None])[0]
        if hx is None:
            hx = input.new_zeros(len(input), self.hidden_size)
        if self._uses_weights() and self._shadow is None:
            w_ih, w_hh = self._weight("weight_ih"), self._weight("weight_hh")
            return torch.gru_cell(input, hx, w_ih, w_hh, self.bias_ih, self.bias_hh)
        with _full_precision(input):
            x, h = input.to(self.weight_ih.dtype), hx.to(self.weight_hh.dtype)
            return _gru(*self._products(x, h), h)


class LSTMCellVD(_CellVD, nn.LSTMCell):
    """LSTMCell: x [B, in], (h, c) [B, H] -> (h, c), or all without B; weight_ih [4H, in], weight_hh [4H, H].

    The order of the gates is i, f, g, o.
    """

    dense_class = nn.LSTMCell
    gates = GATES["LSTM"]

    def forward(self, input: Tensor, hx: tuple[Tensor, Tensor] | None = None) -> tuple[Tensor, Tensor]:
        if input.dim() == 1:
            h, c = self.forward(input[None], None if hx is None else (hx[0][None], hx[1][None]))
            return h[0], c[0]
        if hx is None:
            zeros = input.new_zeros(len(input), self.hidden_size)
            hx = zeros, zeros
        if self._uses_weights() and self._shadow is None:
            w_ih, w_hh = self._weight("weight_ih"), self._weight("weight_hh")
            return torch.lstm_cell(input, hx, w_ih, w_hh, self.bias_ih, self.bias_hh)
        with _full_precision(input):
            h, c = (state.to(self.weight_hh.dtype) for state in hx)
            gi, gh = self._products(input.to(self.weight_ih.dtype), h)
            return _lstm(gi + gh, c)


class _RecurrentVD(VariationalLayer):
    """What GRU and LSTM share: sequences, layers, directions and states.

    Inputs as PyTorch's own: [T, B, in], [B, T, in] if batch_first, [T, in], or packed.
    """

    gates: Sequence[str]
    n_states: int
    # Of the dense class.
    bias: bool
    bidirectional: bool
    batch_first: bool
    dropout: float
    hidden_size: int
    num_layers: int
    proj_size: int
    _flat_weights: list[Any]
    _flat_weights_names: list[str]

    def theta_names(self) -> Sequence[str]:
        return [name for name in self._flat_weights_names if name.startswith("weight")]

    def blocks(self, theta_name: str) -> dict[str, tuple[slice, ...]]:
        return {} if "_hr_" in theta_name else _gate_rows(self.gates, self.hidden_size)

    # PyTorch's forward is overloaded in its types: tensors give tensors, packed sequences packed ones.
    def forward(self, input: Any, hx: Any = None) -> Any:
        # With a shadow the layer takes its own steps. Torch's would draw another dropout than those do.
        has_dropout = self.dropout > 0 and self.num_layers > 1
        if not self.training or (self._uses_weights() and self._shadow is None and not has_dropout):
            return self._dense_forward(input, hx)
        states = None if hx is None else hx if isinstance(hx, tuple) else (hx,)
        if isinstance(input, PackedSequence):
            if states is not None and input.sorted_indices is not None:
                states = tuple(state.index_select(1, input.sorted_indices) for state in states)
            rows, states = self._noisy_steps(input.data, input.batch_sizes.tolist(), states)
            if input.unsorted_indices is not None:
                states = tuple(state.index_select(1, input.unsorted_indices) for state in states)
            return input._replace(data=rows), self._given_back(states)
        is_single = input.dim() == 2  # one sequence [T, in], states [layers, H]
        x = input[:, None] if is_single else input.transpose(0, 1) if self.batch_first else input  # [T, B, in]
        steps, batch, width = x.shape
        if is_single and states is not None:
            states = tuple(state[:, None] for state in states)
        rows, states = self._noisy_steps(x.reshape(steps * batch, width), [batch] * steps, states)
        out = rows.reshape(steps, batch, -1)
        if is_single:
            return out[:, 0], self._given_back(tuple(state[:, 0] for state in states))
        return (out.transpose(0, 1) if self.batch_first else out), self._given_back(states)

    def _given_back(self, states: States) -> Any:
        """The last states as PyTorch's own layer returns them."""
        return states

    def _advance(self, gi: Tensor, suffix: str, states: States) -> States:
        """Abstract: the new states from `gi`, the product with the input [B, gates x H], and the states."""
        raise NotImplementedError

    def _dense_forward(self, input: Any, hx: Any) -> Any:
        self._update_flat_weights()  # type: ignore[operator]  # else torch does it within, and puts theta back
        thetas = self._flat_weights
        names = set(self.theta_names())
        self._flat_weights = [
            self._weight(name) if name in names else parameter
            for name, parameter in zip(self._flat_weights_names, thetas, strict=True)
        ]
        try:
            return super().forward(input, hx)
        finally:
            self._flat_weights = thetas

    def _noisy_steps(self, rows: Tensor, batch_sizes: list[int], states: States | None) -> tuple[Tensor, States]:
        """Packed rows [sum of batch_sizes, in] -> [sum, directions x P], and the last states.

        States are [layers x directions, B, P or H]; those of a layer lie in the order forward, backward.
        """
        suffixes = ("", "_reverse") if self.bidirectional else ("",)
        with _full_precision(rows):
            x = rows.to(self.get_parameter("weight_ih_l0").dtype)
            if states is None:
                widths = (self.proj_size or self.hidden_size, self.hidden_size)[: self.n_states]
                states = tuple(x.new_zeros(self.num_layers * len(suffixes), batch_sizes[0], n) for n in widths)
            last: list[States] = []
            for layer in range(self.num_layers):
                x = F.dropout(x, self.dropout) if layer else x
                outputs = []
                for suffix in suffixes:
                    own = tuple(state[len(last)].to(x.dtype) for state in states)
                    out, own = self._noisy_layer(x, own, f"l{layer}{suffix}", batch_sizes, bool(suffix))
                    outputs.append(out)
                    last.append(own)
                x = torch.cat(outputs, -1)
            return x, tuple(torch.stack(state) for state in zip(*last, strict=True))

    def _noisy_layer(
        self, x: Tensor, states: States, suffix: str, batch_sizes: list[int], is_backward: bool
    ) -> tuple[Tensor, States]:
        """One direction of one layer: its outputs [rows, P] in the order of the rows, and its last states."""
        gi = torch.split(self._product(f"weight_ih_{suffix}", x, self._bias(f"ih_{suffix}")), batch_sizes)
        outputs: list[Tensor] = []
        for gi_t in reversed(gi) if is_backward else gi:
            n = len(gi_t)  # the sequences that run at this step, the longest first
            new = self._advance(gi_t, suffix, tuple(state[:n] for state in states))
            outputs.append(new[0])
            # The others have ended; or backwards they have yet to begin, from their first states.
            states = tuple(torch.cat([now, state[n:]]) if n < len(state) else now for now, state in zip(new, states))
        return torch.cat(outputs[::-1] if is_backward else outputs), states

    def _bias(self, suffix: str) -> Tensor | None:
        return self.get_parameter(f"bias_{suffix}") if self.bias else None


class GRUVD(_RecurrentVD, nn.GRU):
    """GRU; weight_ih_l0 [3H, in], weight_hh_l0 [3H, H], ..., order of the gates r, z, n."""

    dense_class = nn.GRU
    gates, n_states = GATES["GRU"], 1

    def _given_back(self, states: States) -> Tensor:
        return states[0]

    def _advance(self, gi: Tensor, suffix: str, states: States) -> States:
        (h,) = states
        return (_gru(gi, self._product(f"weight_hh_{suffix}", h, self._bias(f"hh_{suffix}")), h),)


class LSTMVD(_RecurrentVD, nn.LSTM):
    """LSTM; weight_ih_l0 [4H, in], weight_hh_l0 [4H, P], ..., order of the gates i, f, g, o; weight_hr_l0 [P, H]."""

    dense_class = nn.LSTM
    gates, n_states = GATES["LSTM"], 2

    def _advance(self, gi: Tensor, suffix: str, states: States) -> States:
        h, c = states
        h, c = _lstm(gi + self._product(f"weight_hh_{suffix}", h, self._bias(f"hh_{suffix}")), c)
        return (self._product(f"weight_hr_{suffix}", h, None) if self.proj_size else h), c


def _gate_rows(gates: Sequence[str], units: int) -> dict[str, tuple[slice, ...]]:
    return {gate: (slice(at * units, (at + 1) * units),) for at, gate in enumerate(gates)}


def _gru(gi: Tensor, gh: Tensor, h: Tensor) -> Tensor:
    """The new state [B, H] of a GRU from the products gi, gh [B, 3H], as torch.nn.GRUCell defines it."""
    i_r, i_z, i_n = gi.chunk(3, -1)
    h_r, h_z, h_n = gh.chunk(3, -1)
    r, z = torch.sigmoid(i_r + h_r), torch.sigmoid(i_z + h_z)
    n = torch.tanh(i_n + r * h_n)
    return n + z * (h - n)


def _lstm(gates: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    """The new h and c [B, H] of an LSTM from the sum of its products [B, 4H], as torch.nn.LSTMCell defines it."""
    i, f, g, o = gates.chunk(4, -1)
    c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
    return torch.sigmoid(o) * torch.tanh(c), c
