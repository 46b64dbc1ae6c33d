"""The convolutions of wav2vec 2.0 and its heirs as matrix products, channels last, on a GPU.

A convolution of width k and stride s over frames `[T, C]` is a product of matrices: row n of the left one, `[n, k·C]`,
begins s·C numbers behind row n - 1. Where k <= s the rows lie side by side in memory, and a product can read them where
they are; the taps beyond s are rows of the same kind, s frames later, and their product is added. Channels stay last,
where a layer norm wants them: torch's convolutions want them first, and each norm between two of them costs two copies
of all there is.

The first convolution hears k samples of one channel and writes a hundred times as much as it reads. So its norm is
worked out from what it reads, and is part of the product.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

ALIGNED = 8
"""Numbers of 16 bits that a GPU's matrix units read at once: the width of the left matrix should be a multiple."""


def convolve(layers: Sequence[Any], samples: Tensor) -> Tensor:
    """torchaudio's ``conv_layers`` over samples `[B, W]` -> `[B, T, channels]`, as its feature extractor gives it."""
    x = F.gelu(first(samples, layers[0].conv, layers[0].layer_norm))
    for layer in layers[1:]:
        x, norm = following(x, layer.conv), layer.layer_norm
        if norm is not None:  # torchaudio's, without its transpositions
            x = F.layer_norm(x, norm.normalized_shape, norm.weight, norm.bias, norm.eps)
        x = F.gelu(x)
    return x


def first(samples: Tensor, convolution: nn.Conv1d, norm: Any) -> Tensor:
    """The convolution of samples `[B, W]` and its norm: `[B, n, channels]`.

    Channel c of frame n is w_c·x_n + b_c, where x_n are k samples. Its norm needs mean and variance of that.

    Over the channels of a frame, with 1 as one more sample, so that b_c is one more weight: less their mean over the
    channels the weights are v_c, and the variance is the mean of (v_c·x_n)², which is x_n·V x_n with V the mean of the
    v_c v_c'. So x_n is divided by its root.

    Over the frames of a channel: less their mean over the frames the samples are d_n, and the variance is w_c·D w_c
    with D the mean of the d_n d_n'. So w_c is divided by its root.
    """
    (size,), (stride,) = convolution.kernel_size, convolution.stride
    weight = convolution.weight[:, 0].float()
    bias = weight.new_zeros(len(weight)) if convolution.bias is None else convolution.bias.float()
    heard = samples.float().unfold(1, size, stride)
    if norm is None:
        factors, shift = weight, bias
    elif isinstance(norm, nn.LayerNorm):
        heard = F.pad(heard, (0, 1), value=1.0)
        weight = torch.cat([weight, bias[:, None]], 1)
        weight = weight - weight.mean(0)
        power = ((heard @ (weight.T @ weight / len(weight))) * heard).sum(-1, keepdim=True).clamp(min=0)
        heard = heard * (power + norm.eps).rsqrt()
        factors, shift = norm.weight.float()[:, None] * weight, norm.bias.float()
    else:  # a group norm of as many groups as there are channels
        heard = heard - heard.mean(1, keepdim=True)
        power = ((weight @ (heard.transpose(1, 2) @ heard / heard.shape[1])) * weight).sum(-1).clamp(min=0)
        factors = (norm.weight.float() * (power + norm.eps).rsqrt())[..., None] * weight
        shift = norm.bias.float()
    columns = torch.cat([factors, shift.expand(factors.shape[:-1])[..., None]], -1)
    spare = (0, -columns.shape[-1] % ALIGNED)
    rows = F.pad(F.pad(heard, (0, 1), value=1.0), spare).to(samples.dtype)
    columns = F.pad(columns, spare).to(samples.dtype)
    return rows @ columns.transpose(-1, -2)


def following(x: Tensor, convolution: nn.Conv1d) -> Tensor:
    """A convolution of frames `[B, T, C]`: `[B, n, channels]`."""
    (size,), (stride,) = convolution.kernel_size, convolution.stride
    x = x.contiguous()
    batch, frames, channels = x.shape
    count = (frames - size) // stride + 1
    strides = (x.stride(0), stride * channels, 1)

    def factors(tap: int) -> tuple[Tensor, Tensor]:
        taps = min(stride, size - tap)
        rows = x.as_strided((batch, count, taps * channels), strides, x.storage_offset() + tap * channels)
        weight = convolution.weight[:, :, tap : tap + taps].transpose(1, 2).flatten(1).T
        return rows, weight.expand(batch, -1, -1)

    y = torch.bmm(*factors(0))
    for tap in range(stride, size, stride):
        y.baddbmm_(*factors(tap))
    return y if convolution.bias is None else y + convolution.bias
