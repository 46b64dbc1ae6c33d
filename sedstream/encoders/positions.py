"""The convolution that tells a wav2vec transformer where a frame stands, as a matrix product a group, on a GPU.

It is 128 frames wide and has 16 groups of 48 or 64 channels, for which cuDNN has nothing fast. For D frames of answers
at once a group reads D + 127 frames; with all of their channels as one row it is multiplied by a matrix in which the
weights stand D times, each time a frame lower (Toeplitz). The zeros between cost (D + 127) / 128 times the work. Where
frames of a group lie side by side in memory, so do these rows, and are read where they are.
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
    count, reads = -(-frames // TOGETHER), TOGETHER + size - 1

    before = size // 2
    padded = x.new_zeros(groups, batch, (count - 1) * TOGETHER + reads, channels)
    padded[:, :, before : before + frames] = x.view(batch, frames, groups, channels).permute(2, 0, 1, 3)
    rows = padded.flatten(2).unfold(2, reads * channels, TOGETHER * channels)  # [groups, batch, count, reads·channels]
    answer = x.new_empty(groups, batch, count, TOGETHER * channels)
    for number in range(count):  # a product of all would need copies of rows, which overlap
        torch.bmm(rows[:, :, number], matrix, out=answer[:, :, number])
    answer = answer.view(groups, batch, -1, channels).permute(1, 2, 0, 3)
    return F.gelu(answer.reshape(batch, -1, width)[:, :frames] + convolution.bias)
