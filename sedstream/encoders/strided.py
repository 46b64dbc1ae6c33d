"""The convolutions of wav2vec 2.0 and its heirs as matrix products, channels last, on a GPU.

A convolution of width k and stride s over frames `[T, C]` is a product of matrices: row n of the left one, `[n, k·C]`,
begins s·C numbers behind row n - 1. Where k <= s the rows lie side by side in memory, and a product can read them where
they are; the taps beyond s are rows of the same kind, s frames later, and their product is added. Channels stay last,
where a layer norm wants them: torch's convolutions want them first, and each norm between two of them costs two copies
of all there is.

The first convolution hears k samples of one channel and writes a hundred times as much as it reads. So its norm is
worked out from what it reads, and is part of the product; in 16 bits its GELU is too.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .fused import fits, gelu, kernels, norm_gelu

ALIGNED = 8
"""Numbers of 16 bits that a GPU's matrix units read at once: the width of the left matrix should be a multiple."""


def convolve(layers: Sequence[Any], samples: Tensor) -> Tensor:
    """torchaudio's ``conv_layers`` over samples `[B, W]` -> `[B, T, channels]`, as its feature extractor gives it."""
    x = first_gelu(samples, layers[0].conv, layers[0].layer_norm)
    for layer in layers[1:]:
        x = following(x, layer.conv)
        x = gelu(x) if layer.layer_norm is None else norm_gelu(x, layer.layer_norm)
    return x


def first_gelu(samples: Tensor, convolution: nn.Conv1d, norm: Any) -> Tensor:
    """The GELU of `first`, in 16 bits on a GPU in one pass."""
    (size,), (stride,) = convolution.kernel_size, convolution.stride
    if not fits(samples):
        return gelu(first(samples, convolution, norm))
    weight, bias = _parameters(convolution)
    less = samples.new_zeros(len(samples), dtype=torch.float32)
    power = None
    epsilon = 0.0 if norm is None else norm.eps
    if norm is None:
        factors, shift = torch.cat([weight, bias[:, None]], 1)[None], torch.zeros_like(bias)[None]
    elif isinstance(norm, nn.LayerNorm):
        weight, power = over_channels(weight, bias)
        factors, shift = (norm.weight.float()[:, None] * weight)[None], norm.bias.float()[None]
    else:
        less = samples.mean(1, dtype=torch.float32)
        products = kernels().moments(samples, less, (samples.shape[1] - size) // stride + 1, size, stride)
        mean = products[:, :size, size]
        spread = products[:, :size, :size] - mean[:, :, None] * mean[:, None]
        factors = over_frames(weight, spread, norm)
        shift = norm.bias.float() - (factors * mean[:, None]).sum(-1)
        factors = F.pad(factors, (0, 1))  # a bias is the same in all frames
    columns = torch.cat([factors.transpose(1, 2), shift[:, None]], 1).to(samples.dtype)
    answer: Tensor = kernels().first(samples, less, columns, power, epsilon, size, stride)
    return answer


def first(samples: Tensor, convolution: nn.Conv1d, norm: Any) -> Tensor:
    """The convolution of samples `[B, W]` and its norm: `[B, n, channels]`.

    Channel c of frame n is w_c·x_n + b_c, where x_n are k samples. Its norm needs mean and variance of that.
    """
    (size,), (stride,) = convolution.kernel_size, convolution.stride
    weight, bias = _parameters(convolution)
    heard = samples.float().unfold(1, size, stride)
    if norm is None:
        factors, shift = weight, bias
    elif isinstance(norm, nn.LayerNorm):
        heard = F.pad(heard, (0, 1), value=1.0)
        weight, power = over_channels(weight, bias)
        variance = ((heard @ power) * heard).sum(-1, keepdim=True).clamp(min=0)
        heard = heard * (variance + norm.eps).rsqrt()
        factors, shift = norm.weight.float()[:, None] * weight, norm.bias.float()
    else:  # a group norm of as many groups as there are channels
        heard = heard - heard.mean(1, keepdim=True)
        factors = over_frames(weight, heard.transpose(1, 2) @ heard / heard.shape[1], norm)
        shift = norm.bias.float()
    columns = torch.cat([factors, shift.expand(factors.shape[:-1])[..., None]], -1)
    spare = (0, -columns.shape[-1] % ALIGNED)
    rows = F.pad(F.pad(heard, (0, 1), value=1.0), spare).to(samples.dtype)
    columns = F.pad(columns, spare).to(samples.dtype)
    return rows @ columns.transpose(-1, -2)


def over_channels(weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """For a layer norm: the weights `[channels, k + 1]`, b_c among them as that of one more sample, which is 1, less
    their mean over the channels; and of these v_c the mean V of the v_c v_c'.

    The variance of a frame is the mean of (v_c·x_n)², which is x_n·V x_n: its x_n is divided by the root."""
    weight = torch.cat([weight, bias[:, None]], 1)
    weight = weight - weight.mean(0)
    return weight, weight.T @ weight / len(weight)


def over_frames(weight: Tensor, spread: Tensor, norm: nn.GroupNorm) -> Tensor:
    """For a norm over the frames of a channel: the weights `[B, channels, k]` divided by the root of its variance,
    times the norm's own.

    Of d_n, the samples of a frame less their mean over the frames, `spread` `[B, k, k]` is the mean D of the d_n d_n':
    the variance is w_c·D w_c."""
    variance = ((weight @ spread) * weight).sum(-1).clamp(min=0)
    return (norm.weight.float() * (variance + norm.eps).rsqrt())[..., None] * weight


def _parameters(convolution: nn.Conv1d) -> tuple[Tensor, Tensor]:
    weight = convolution.weight[:, 0].float()
    return weight, weight.new_zeros(len(weight)) if convolution.bias is None else convolution.bias.float()


def following(x: Tensor, convolution: nn.Conv1d) -> Tensor:
    """A convolution of frames `[B, T, C]`: `[B, n, channels]`."""
    (size,), (stride,) = convolution.kernel_size, convolution.stride
    if size > stride and fits(x):
        # cuDNN's kernel for images with channels last reads all taps at once, in 16 bits.
        weight = convolution.weight[:, :, None].contiguous(memory_format=torch.channels_last)
        image = x.contiguous().transpose(1, 2)[:, :, None]
        return F.conv2d(image, weight, convolution.bias, (1, stride))[:, :, 0].transpose(1, 2)
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
