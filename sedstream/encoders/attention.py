"""WavLM's attention, two ways to the same numbers.

The score of two frames has a bias that is a function of their distance, times a gate that each layer computes of the
frame that looks (Chen et al., "WavLM", 2022). `masked` writes the gated bias of all pairs down for a layer and adds it
by SDPA; `flex` looks it up inside the kernel that FlexAttention makes of it (Dong et al., "Flex Attention", 2024), and
never writes it down.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention.flex_attention import flex_attention
from torchaudio.models.wav2vec2.wavlm_attention import WavLMSelfAttention

Attend: TypeAlias = Callable[[Tensor, Tensor, Tensor, Tensor, int], Tensor]
"""Queries `[B, heads, Q, width]`, keys and values `[B, heads, T, width]`, gates `[B, heads, Q]`, and the place of the
first query among the keys -> `[B, heads, Q, width]`."""
Flex: TypeAlias = Callable[..., Tensor]
"""The same, of a `table` `[heads, 2·reach + 1]` of biases by distance as well."""
ALIGNED = 8
"""Rows of a mask begin at multiples of this many numbers: SDPA's kernel on a GPU copies one of which they do not."""


def pairs(table: Tensor, frames: int, multiple: int = ALIGNED) -> Tensor:
    """Biases by distance `[heads, 2·reach + 1]` -> of all pairs, `[1, heads, T, T or up to the next multiple]`."""
    reach = table.shape[1] // 2
    key = torch.arange(-(-frames // multiple) * multiple, device=table.device)
    distance = (key - key[:frames, None]).clamp(-reach, reach) + reach
    return table[:, distance][None]


def repeated(gate: Tensor, bias: Tensor) -> Tensor:
    """Gates `[B, heads, T]` and biases of pairs `[1, heads, T, K]` -> gated biases `[B, heads, T, K]`."""
    return gate[..., None] * bias


def product(gate: Tensor, bias: Tensor) -> Tensor:
    """The same numbers as matrix products over B for each head and frame, in which all but one of the inner terms are
    zero: a GPU's matrix units write them down faster than it multiplies what it has to repeat."""
    batch, heads, frames = gate.shape
    column = F.pad(gate.permute(1, 2, 0).reshape(heads * frames, batch, 1), (0, ALIGNED - 1))
    row = F.pad(bias.reshape(heads * frames, 1, -1), (0, 0, 0, ALIGNED - 1))
    return torch.bmm(column, row).view(heads, frames, batch, -1).permute(2, 0, 1, 3)


def masked(q: Tensor, k: Tensor, v: Tensor, gate: Tensor, first: int, bias: Tensor) -> Tensor:
    """By SDPA, with the `bias` that `pairs` gives."""
    bias = bias[:, :, first : first + q.shape[2]]
    mask = (product if gate.is_cuda else repeated)(gate, bias)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask[..., : k.shape[2]])


def flex(q: Tensor, k: Tensor, v: Tensor, gate: Tensor, first: int, table: Tensor) -> Tensor:
    """By FlexAttention, as a `Flex`; slow unless it is compiled."""
    reach = table.shape[1] // 2

    def gated(score: Tensor, batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        distance = (key - query - first).clamp(-reach, reach) + reach
        return score + gate[batch, head, query] * table[head, distance]

    answer = flex_attention(q, k, v, score_mod=gated)
    return answer if isinstance(answer, Tensor) else answer[0]


@cache
def compiled() -> Flex:
    """`flex` as one kernel, made anew for each shape, of at most eight: by Triton on a GPU, by a C++ compiler on a
    CPU."""
    made: Flex = torch.compile(flex, dynamic=False)
    return made


class GatedAttention(nn.Module):
    """torchaudio's self-attention of a WavLM, with its parameters under the same names; how queries, keys, values and
    gates become an answer comes as the ``position_bias`` that its layer hands on."""

    def __init__(self, theirs: WavLMSelfAttention) -> None:
        super().__init__()
        self.heads = theirs.num_heads
        self.attention = theirs.attention
        self.rel_attn_embed = theirs.rel_attn_embed
        self.gru_rel_pos_linear = theirs.gru_rel_pos_linear
        self.gru_rel_pos_const = theirs.gru_rel_pos_const

    def forward(
        self,
        x: Tensor,
        *,
        position_bias: Attend,
        attention_mask: None = None,
        key_padding_mask: None = None,
        frames: slice = slice(None),
    ) -> tuple[Tensor, Attend]:
        """`[B, T, width]` -> of some ``frames`` what they see in all, `[B, Q, width]`, and what was handed in."""
        asks = x[:, frames]
        # Of a head's eight numbers four are summed to each of two gates. Both are linear: so are those of all heads in
        # one product, whose weights are zero for the numbers of other heads.
        linear = self.gru_rel_pos_linear
        weight, bias = linear.weight.view(2, 4, -1).sum(1), linear.bias.view(2, 4).sum(1)
        own = torch.eye(self.heads, device=x.device, dtype=x.dtype)
        weight = torch.einsum("gd,hk->ghkd", weight, own).reshape(2 * self.heads, -1)
        both = F.linear(asks, weight, bias.repeat_interleave(self.heads)).sigmoid()
        update, reset = both.transpose(1, 2).chunk(2, 1)
        gate = update * (reset * self.gru_rel_pos_const.view(-1, 1) - 1.0) + 2.0
        weight, bias = self.attention.in_proj_weight, self.attention.in_proj_bias
        if asks.shape == x.shape:
            q, k, v = F.linear(x, weight, bias).chunk(3, -1)
        else:
            width = x.shape[2]
            q = F.linear(asks, weight[:width], bias[:width])
            k, v = F.linear(x, weight[width:], bias[width:]).chunk(2, -1)
        q, k, v = (part.view(*part.shape[:2], self.heads, -1).transpose(1, 2) for part in (q, k, v))
        answer = position_bias(q, k, v, gate, frames.start or 0).transpose(1, 2).flatten(2)
        return self.attention.out_proj(answer), position_bias
