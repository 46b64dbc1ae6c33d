"""The convolution that tells a wav2vec transformer where a frame stands, as a matrix product a group, on a GPU.

It is 128 frames wide and has 16 groups of 48 or 64 channels, for which cuDNN has nothing fast. For D frames of answers
at once a group reads D + 127 frames; with all of their channels as one row it is multiplied by a matrix in which the
weights stand D times, each time a frame lower (Toeplitz). The zeros between cost (D + 127) / 128 times the work.

Where the frames of a group lie side by side in memory so do these rows, and of all windows those that begin a multiple
of 5·D frames apart, which do not overlap (D + 127 <= 5·D), are the rows of a matrix as they lie: no copies are made.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

TOGETHER = 32
"""Answers D that share a row: with more the matrix has more zeros, with fewer the rows repeat more of each other."""


def matrix(embedding: Any) -> Tensor:
    """The Toeplitz matrices of torchaudio's ``pos_conv_embed``, `[groups, (D + K - 1)·channels, D·channels]`."""
    weight, groups = embedding.conv.weight, embedding.conv.groups  # [width, channels of a group, K]
    channels, size = weight.shape[1:]
    taps = weight.view(groups, channels, channels, size).permute(0, 3, 2, 1)
    shifted = F.pad(taps, (0, 0, 0, 0, TOGETHER - 1, TOGETHER - 1)).unfold(1, TOGETHER, 1).flip(-1)
    return shifted.permute(0, 1, 2, 4, 3).reshape(groups, -1, TOGETHER * channels)


def position(embedding: Any, x: Tensor, matrix: Tensor) -> Tensor:
    """``pos_conv_embed`` of frames `[B, T, width]`, as torchaudio gives it; the `matrix` is its own."""
    convolution = embedding.conv
    groups, size = convolution.groups, convolution.weight.shape[2]
    batch, frames, width = x.shape
    channels = width // groups
    before, reads = size // 2, TOGETHER + size - 1
    apart = -(-reads // TOGETHER)  # of rows one of so many, and they do not overlap
    period = apart * TOGETHER
    each = -(-(before + frames) // period)
    length = each * period  # of a window, whose zeros in front are those behind the one before it
    padded = x.new_zeros(groups, batch * length - TOGETHER + reads, channels)
    windows = padded[:, : batch * length].view(groups, batch, length, channels)
    windows[:, :, before : before + frames] = x.view(batch, frames, groups, channels).permute(2, 0, 1, 3)
    answer = x.new_empty(groups, batch, each, apart, TOGETHER * channels)
    for first in range(min(apart, -(-frames // TOGETHER))):
        # Of a window one row, if the frames end before its second; else all, beyond the frames too.
        some = 1 if (first + apart) * TOGETHER >= frames else each
        step = length // some * channels
        rows = padded[:, first * TOGETHER :].flatten(1).unfold(1, reads * channels, step)[:, : batch * some]
        torch.bmm(rows, matrix, out=answer[:, :, :some, first].view(groups, batch * some, -1))
    answer = answer.view(groups, batch, length, channels)[:, :, :frames].permute(1, 2, 0, 3)
    return F.gelu(answer.reshape(batch, frames, width) + convolution.bias)
