"""What a cached encoder follows: Whisper's features of the clean window, freed from where in the window a frame is.

Of the variance of Whisper base's features (layer 2, each normalised) half is the place of a frame in the window, not
its sound. The mean over many sounds at a place is that part. Less it, one sound gives nearly the same features anywhere
(they differ by a tenth of their variance), and an encoder without positions can follow them.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..encoders.cached import BEFORE, BEHIND
from ..encoders.whisper import WhisperEncoder


class Teacher(nn.Module):
    """Whisper, whose features count as they differ from those usual at their position.

    Args:
        whisper: the encoder.
        sounds: windows of clean speech, each float32 `[B, (BEFORE + T + BEHIND)·320]`, of one T.
    """

    def __init__(self, whisper: WhisperEncoder, sounds: Sequence[Tensor]) -> None:
        super().__init__()
        self.whisper = whisper
        self.requires_grad_(False).eval()
        usual = torch.stack([self._features(sound).mean(0) for sound in sounds]).mean(0)
        self.register_buffer("usual", usual - usual.mean(0))
        self.usual: Tensor

    def distance(self, features: Tensor, clean: Tensor) -> Tensor:
        """Mean square between features `[B, T, D]`, normalised, and Whisper's of the clean window."""
        theirs = self._features(clean) - self.usual
        return F.mse_loss(normalised(features, theirs.shape[2]), theirs)

    @torch.no_grad()
    def _features(self, samples: Tensor) -> Tensor:
        found: Tensor = self.whisper(samples)[:, BEFORE:-BEHIND]
        return normalised(found, len(self.whisper.outputs))


def normalised(features: Tensor, outputs: int) -> Tensor:
    """Features `[B, T, D]` of several layers -> each layer's with mean 0 and variance 1, `[B, T, outputs, width]`."""
    layers = features.float().view(*features.shape[:2], outputs, -1)
    return F.layer_norm(layers, layers.shape[-1:])
