"""What a cached encoder follows: Whisper's features of each clean utterance alone, freed from where in it a frame is.

Whisper hears a whole recording at once. Where utterances are joined its features of one say something of the others,
so what is followed is what it says of each as if there was nothing else: that an emotion has changed is then heard.

Of the variance of Whisper base's features (layer 2, each normalised) half is the place of a frame in the window, not
its sound. The mean over many sounds at a place is that part. Less it, one sound gives nearly the same features anywhere
(they differ by a tenth of their variance), and an encoder without positions can follow them.
"""

from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..encoders.cached import BEFORE
from ..encoders.whisper import WhisperEncoder
from ..grid import HOP

SHORT = 30
"""Frames of which Whisper has nothing to say yet: shorter parts of utterances are not followed."""


class Teacher(nn.Module):
    """Whisper, whose features count as they differ from those usual at their position.

    Args:
        whisper: the encoder.
        sounds: windows of clean speech, each float32 `[B, N·320]`, of one N, as long as any that will be followed.
    """

    def __init__(self, whisper: WhisperEncoder, sounds: Sequence[Tensor]) -> None:
        super().__init__()
        self.whisper = whisper
        self.requires_grad_(False).eval()
        usual = torch.stack([self._features(sound).mean(0) for sound in sounds]).mean(0)
        self.register_buffer("usual", usual - usual.mean(0))
        self.usual: Tensor

    def distance(self, features: Tensor, clean: Tensor, piece: Tensor) -> Tensor:
        """Mean square between features `[B, T, D]`, normalised, and Whisper's of the clean windows.

        `clean`: samples float32 `[B, (BEFORE + T + BEHIND)·320]`; `piece`: int `[B, T]`, of which utterance each frame
        is, -1: of none. 0 where there is no part of an utterance of SHORT frames.
        """
        found = normalised(features, len(self.whisper.outputs))
        near, far = [], []
        for row, first, end in parts(piece):
            theirs = self._features(clean[row : row + 1, (BEFORE + first) * HOP : (BEFORE + end) * HOP])
            far.append(theirs[0] - self.usual[: end - first])
            near.append(found[row, first:end])
        return F.mse_loss(torch.cat(near), torch.cat(far)) if far else 0 * features.sum()

    @torch.no_grad()
    def _features(self, samples: Tensor) -> Tensor:
        found: Tensor = self.whisper(samples)
        return normalised(found, len(self.whisper.outputs))


def parts(piece: Tensor) -> Iterator[tuple[int, int, int]]:
    """Row, first frame and end of the utterances in `piece` (see `Teacher.distance`) that have SHORT frames."""
    for row, numbers in enumerate(piece.cpu()):
        found, lengths = numbers.unique_consecutive(return_counts=True)
        ends = lengths.cumsum(0).tolist()
        for number, length, end in zip(found.tolist(), lengths.tolist(), ends, strict=True):
            if number >= 0 and length >= SHORT:
                yield row, end - length, end


def normalised(features: Tensor, outputs: int) -> Tensor:
    """Features `[B, T, D]` of several layers -> each layer's with mean 0 and variance 1, `[B, T, outputs, width]`."""
    layers = features.float().view(*features.shape[:2], outputs, -1)
    return F.layer_norm(layers, layers.shape[-1:])
