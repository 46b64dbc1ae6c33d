"""What a cached encoder follows: Whisper's features of each clean utterance alone, freed from where in it a frame is.

Whisper hears a whole recording at once. Where utterances are joined its features of one say something of the others,
so what is followed is what it says of each as if there was nothing else: that an emotion has changed is then heard.

Of the variance of Whisper base's features (layer 2, each normalised) half is the place of a frame in the window, not
its sound. The mean over many sounds at a place is that part. Less it, one sound gives nearly the same features anywhere
(they differ by a tenth of their variance), and an encoder without positions can follow them.

A larger Whisper has wider features. They are guessed from the encoder's by a linear layer, which learns with it and is
thrown away in the end: what a larger one knows must then be in the encoder's features, linearly.
"""

from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..encoders.cached import BEFORE, CachedEncoder
from ..encoders.whisper import FFT, WhisperEncoder
from ..errors import BadModel
from ..grid import HOP
from .batches import Batch

SHORT = 30
"""Frames of which Whisper has nothing to say yet: shorter parts of utterances are not followed."""
LAYERS = {512: (2, 3), 768: (4, 5)}
"""Of Whisper base and small, by their width, those that carry emotion: a linear probe of whole utterances says so."""
GROUPS = 4
"""Of utterances that are heard at once: in fewer more of what is computed is nobody's, in more a GPU has less to do."""
RIDGE = 1e-3
"""Of the sphere in the first guess, relative to the mean variance."""


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

    def distance(self, features: Tensor, clean: Tensor, piece: Tensor, guess: nn.Linear | None = None) -> Tensor:
        """Mean square between features `[B, T, D]`, normalised, or what is guessed from them, and Whisper's of clean
        windows.

        `clean`: samples float32 `[B, (BEFORE + T + BEHIND)·320]`; `piece`: int `[B, T]`, of which utterance each frame
        is, -1: of none. 0 where there is no part of an utterance of SHORT frames.
        """
        near, far = self._both(features, clean, piece)
        if not len(near):
            return 0 * features.sum()
        return F.mse_loss(near if guess is None else guess(near), far)

    @torch.no_grad()
    def guess(self, encoder: CachedEncoder, batches: Sequence[Batch], chunk: int) -> nn.Linear:
        """The layer that guesses best, by ridge regression, what Whisper says of the batches from what `encoder` does
        in chunks of so many frames.

        Raises:
            BadModel: the batches have no utterance to follow.
        """
        width = encoder.features + 1
        inner = torch.zeros(width, width, dtype=torch.float64)
        along = torch.zeros(width, self.whisper.features, dtype=torch.float64)
        for batch in batches:
            near, far = self._both(encoder(batch.heard, chunk), batch.clean, batch.piece)
            near = F.pad(near.double(), (0, 1), value=1.0)
            inner += near.T @ near
            along += near.T @ far.double()
        if not inner.any():
            raise BadModel("Bad speech to follow, expected utterances of half a second and more")
        sphere = RIDGE * inner.diagonal().mean() * torch.eye(width, dtype=torch.float64)
        weight = torch.linalg.solve(inner + sphere, along).T.float()
        layer = nn.Linear(encoder.features, self.whisper.features)
        layer.weight.copy_(weight[:, :-1])
        layer.bias.copy_(weight[:, -1])
        return layer

    def _both(self, features: Tensor, clean: Tensor, piece: Tensor) -> tuple[Tensor, Tensor]:
        """Of all frames that are followed, the features `[n, D]` and Whisper's `[n, D']`."""
        found = normalised(features, len(self.whisper.outputs)).flatten(2)
        near, far = [found[0, :0]], [self.usual[:0].flatten(1)]
        for row, first, length in alike(piece):
            row, first, length = (numbers.to(clean.device) for numbers in (row, first, length))
            theirs = self._alone(clean, row, first, length)
            frame = torch.arange(theirs.shape[1], device=clean.device)
            there = frame < length[:, None]
            far.append((theirs - self.usual[: len(frame)]).flatten(2)[there])
            near.append(found[row[:, None].expand_as(there)[there], (first[:, None] + frame)[there]])
        return torch.cat(near), torch.cat(far)

    @torch.no_grad()
    def _alone(self, clean: Tensor, row: Tensor, first: Tensor, length: Tensor) -> Tensor:
        """Whisper's features of the utterances of so many frames in rows of clean windows, `[n, longest, outputs,
        width]`."""
        place = torch.arange(-FFT // 2, int(length.max()) * HOP + FFT // 2, device=clean.device).abs()
        last = length[:, None] * HOP - 1
        place = torch.where(place > last, 2 * last - place, place).clamp(min=0)  # mirrored at both ends
        samples = clean[row[:, None], (BEFORE + first[:, None]) * HOP + place]
        return normalised(self.whisper.several(samples, length), len(self.whisper.outputs))

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


def alike(piece: Tensor) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Rows, first frames and numbers of frames of the utterances in `piece`, int64: in a few groups of like lengths."""
    found = torch.tensor([(row, first, end - first) for row, first, end in parts(piece)]).view(-1, 3)
    for group in found[found[:, 2].argsort()].tensor_split(GROUPS):
        if len(group):
            yield group[:, 0], group[:, 1], group[:, 2]


def normalised(features: Tensor, outputs: int) -> Tensor:
    """Features `[B, T, D]` of several layers -> each layer's with mean 0 and variance 1, `[B, T, outputs, width]`."""
    layers = features.float().view(*features.shape[:2], outputs, -1)
    return F.layer_norm(layers, layers.shape[-1:])
