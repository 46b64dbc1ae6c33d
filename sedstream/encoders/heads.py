"""The frame-level head: emotion logits, arousal and valence for every frame of a window."""

import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import BadModel


class FrameHead(nn.Module):
    """A bidirectional GRU over the window, from encoder features to emotions, arousal and valence.

    Each frame may look at all of the window, both ways: how far that is is the plan's choice.

    Args:
        labels: number of emotions C.
        features: width D of the encoder's answer.
        outputs: number of encoder layers concatenated in it; each is normalised by itself, for their scales differ.
        width: of the projection that the GRU reads.
        hidden: units of the GRU in each direction.
        dropout: share of the channels that are dropped in training, for a whole window each, 0 to 1.

    Raises:
        BadModel: the arguments do not describe a head.
    """

    def __init__(
        self, *, labels: int, features: int, outputs: int, width: int, hidden: int, dropout: float = 0.0
    ) -> None:
        super().__init__()
        if outputs < 1 or features % outputs:
            raise BadModel(f"Bad head outputs {outputs!r}, expected a divisor of features {features}")
        self.outputs = outputs
        # Channels are dropped for a whole window: neighbouring frames are so alike that one gives away the other.
        self.dropout = nn.Dropout1d(dropout)
        self.enter = nn.Linear(features, width)
        self.gru = nn.GRU(width, hidden, batch_first=True, bidirectional=True)
        self.norm = nn.LayerNorm(2 * hidden)
        self.emotion = nn.Linear(2 * hidden, labels)
        self.affect = nn.Linear(2 * hidden, 2)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Features `[B, T, D]` -> logits `[B, T, C]`, and arousal and valence `[B, T, 2]` in 0 to 1."""
        batch, frames, width = features.shape
        per_layer = features.view(batch, frames, self.outputs, width // self.outputs)
        x = F.layer_norm(per_layer, per_layer.shape[-1:]).reshape(batch, frames, width)
        x = F.gelu(self.enter(self._drop(x)))
        x, _ = self.gru(self._drop(x))
        x = self._drop(self.norm(x))
        return self.emotion(x), self.affect(x).sigmoid()

    def _drop(self, x: Tensor) -> Tensor:
        if not self.training:
            return x
        dropped: Tensor = self.dropout(x.transpose(1, 2)).transpose(1, 2)
        return dropped
