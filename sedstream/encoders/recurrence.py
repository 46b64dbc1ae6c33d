"""torch's GRU, faster on a CPU core where nothing is learned."""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..recurrences import TOGETHER, gru


class Recurrence(nn.GRU):
    """`nn.GRU` of one layer, batch first; see `recurrences`.

    Args:
        width: numbers of a frame.
        hidden: numbers of a state; a multiple of `TOGETHER` where it is to be fast.
    """

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__(width, hidden, batch_first=True)

    def forward(self, x: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Frames `[B, T, width]` and states `[1, B, hidden]` before them, None: zeros -> the states after each frame
        `[B, T, hidden]`, and after the last one `[1, B, hidden]`."""
        learns = torch.is_grad_enabled() or torch.is_autocast_enabled(x.device.type)
        if learns or x.device.type != "cpu" or x.dtype != torch.float32 or self.hidden_size % TOGETHER:
            return cast(tuple[Tensor, Tensor], nn.GRU.forward(self, x, state))
        weights = [getattr(self, name) for name in ("weight_ih_l0", "bias_ih_l0", "weight_hh_l0", "bias_hh_l0")]
        inward, offset, across, bias = (cast(Tensor, weight) for weight in weights)
        told = F.linear(x, inward, offset).contiguous()
        last = (
            x.new_zeros(1, len(x), self.hidden_size)
            if state is None
            else state.clone(memory_format=torch.contiguous_format)
        )
        out = x.new_empty(*x.shape[:2], self.hidden_size)
        gru(told.numpy(), across.t().contiguous().numpy(), bias.numpy(), last[0].numpy(), out.numpy())
        return out, last
