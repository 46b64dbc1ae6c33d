"""torch's GRU, faster on a CPU core where nothing is learned."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..recurrences import TOGETHER, gru

FEW = 2
"""Rows up to which it is faster: in torch more of them share the call for each step."""


class GRU(nn.GRU):
    """`nn.GRU` of one layer, batch first; for few rows see `recurrences`.

    Args:
        width: numbers of a frame.
        hidden: numbers of a state; a multiple of `TOGETHER` where it is to be fast.
    """

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__(width, hidden, batch_first=True)

    def forward(self, x: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Frames `[B, T, width]` and states `[1, B, hidden]` before them, None: zeros -> the states after each frame
        `[B, T, hidden]`, and after the last one `[1, B, hidden]`."""
        state = x.new_zeros(1, x.shape[0], self.hidden_size) if state is None else state
        weights: list[Tensor] = [*self.all_weights[0]]
        trained = torch.is_grad_enabled() or torch.is_autocast_enabled(x.device.type)
        traced = torch._C._get_tracing_state() is not None  # which is of more rows, and does not ask how many
        able = x.device.type == "cpu" and x.dtype == torch.float32 and self.hidden_size % TOGETHER == 0
        if trained or traced or not able or len(x) > FEW:
            return torch.gru(x, state, weights, True, 1, 0.0, self.training, False, True)
        inward, across, offset, bias = weights
        told = F.linear(x, inward, offset).contiguous()
        last = state.clone(memory_format=torch.contiguous_format)
        out = x.new_empty(*x.shape[:2], self.hidden_size)
        gru(told.numpy(), across.t().contiguous().numpy(), bias.numpy(), last[0].numpy(), out.numpy())
        return out, last
