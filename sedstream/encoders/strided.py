"""The convolutions of wav2vec 2.0 and its heirs as matrix products, channels last.

A convolution of width k and stride s over frames `[T, C]` is a product of matrices: row n of the left one, `[n, k·C]`,
begins s·C numbers behind row n - 1. Where k <= s the rows lie side by side in memory, and a product can read them where
they are; the taps beyond s are rows of the same kind, s frames later, and their product is added. Channels stay last,
where the layer norm wants them: torch's convolutions want them first, and each norm between two of them costs two
copies of all there is.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

ALIGNED = 8
"""Numbers of 16 bits that a GPU's matrix units read at once: rows of the left matrix should be multiples of it."""


def convolve(layers: Iterable[Any], samples: Tensor) -> Tensor:
    """torchaudio's ``conv_layers`` over samples `[B, W]` -> `[B, T, channels]`, as its feature extractor gives it."""
    x = samples[..., None]
    for layer in layers:
        product = first if x.shape[2] == 1 else following
        x = F.gelu(normalised(layer.layer_norm, product(x, layer.conv)))
    return x


def first(x: Tensor, convolution: nn.Conv1d) -> Tensor:
    """Of one channel: `[B, T, 1]` -> `[B, n, channels]`. Its rows are short, and are copied and padded with zeros."""
    (size,), (stride,) = convolution.kernel_size, convolution.stride
    spare = -size % ALIGNED
    rows = F.pad(x[..., 0], (0, spare)).unfold(1, size + spare, stride)
    return F.linear(rows, F.pad(convolution.weight[:, 0], (0, spare)), convolution.bias)


def following(x: Tensor, convolution: nn.Conv1d) -> Tensor:
    """Of channels that lie side by side: `[B, T, C]` -> `[B, n, channels]`."""
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


def normalised(norm: nn.Module | None, x: Tensor) -> Tensor:
    """`[B, n, channels]` -> the same, each frame by itself or each channel over the frames."""
    if norm is None:
        return x
    if isinstance(norm, nn.LayerNorm):  # torchaudio's, without its transpositions
        return F.layer_norm(x, norm.normalized_shape, norm.weight, norm.bias, norm.eps)
    answer: Tensor = norm(x.transpose(1, 2)).transpose(1, 2)
    return answer
