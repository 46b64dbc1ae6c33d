"""A windowed model that learns: wav2vec 2.0, HuBERT or WavLM under a frame-level head."""

from torch import Tensor

from ..encoders.cached import BEFORE, BEHIND
from ..encoders.heads import FrameHead
from ..encoders.wav2vec import Wav2VecEncoder
from ..grid import HOP
from .brain import Learner


class Windowed(Learner):
    """A window is answered as a whole; chunks, and what came before it, mean nothing to it.

    Of the encoder learn the weights of its layers' sum; `unfreeze`: its transformer too. The convolutions never do
    (Baevski et al., "wav2vec 2.0", 2020).
    """

    def __init__(self, encoder: Wav2VecEncoder, head: FrameHead, *, unfreeze: bool = False) -> None:
        super().__init__(encoder, head)
        encoder.requires_grad_(unfreeze)
        encoder.extractor.requires_grad_(False)
        if encoder.weights is not None:
            encoder.weights.requires_grad_(True)

    def forward(
        self, samples: Tensor, chunk: int, right: int, loudest: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Samples float32 `[B, (BEFORE + T + BEHIND)·320]` -> logits `[B, T, C]`, affect `[B, T, 2]`, features `[B, T,
        D]`."""
        features = self.encoder(samples)
        logits, affect = self.head(features)
        answered = slice(BEFORE, samples.shape[1] // HOP - BEHIND)
        return logits[:, answered], affect[:, answered], features[:, answered]
