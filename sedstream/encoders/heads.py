"""The frame-level head: emotion logits, arousal and valence for every frame of a window."""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import BadModel


class DilatedBlock(nn.Module):
    """Residual dilated convolution over time, both sides, with a pointwise layer after it."""

    def __init__(self, width: int, kernel: int, dilation: int, dropout: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.conv = nn.Conv1d(width, width, kernel, padding=(kernel // 2) * dilation, dilation=dilation)
        self.mix = nn.Linear(width, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """`[B, T, width]` -> `[B, T, width]`."""
        y = self.conv(self.norm(x).transpose(1, 2)).transpose(1, 2)
        y = self.dropout(self.mix(F.gelu(y)))
        result: Tensor = x + y
        return result


class FrameHead(nn.Module):
    """Dilated convolutions from encoder features to seven emotions, arousal and valence.

    Args:
        labels: number of emotions C.
        features: width D of the encoder's answer.
        outputs: number of encoder layers concatenated in it; each is normalised by itself, for their scales differ.
        width, kernel, dilations: of the convolutions; kernel is odd. The field of view is
            1 + (kernel - 1) * sum(dilations) frames.
        dropout: in training only, 0 to 1.

    Raises:
        BadModel: the arguments do not describe a head.
    """

    def __init__(
        self,
        *,
        labels: int,
        features: int,
        outputs: int,
        width: int,
        kernel: int = 5,
        dilations: Sequence[int] = (1, 2, 4, 8),
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if outputs < 1 or features % outputs:
            raise BadModel(f"Bad head outputs {outputs!r}, expected a divisor of features {features}")
        if kernel % 2 == 0:
            raise BadModel(f"Bad head kernel {kernel!r}, expected an odd number")
        self.outputs = outputs
        self.enter = nn.Linear(features, width)
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(DilatedBlock(width, kernel, d, dropout) for d in dilations)
        self.norm = nn.LayerNorm(width)
        self.emotion = nn.Linear(width, labels)
        self.affect = nn.Linear(width, 2)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Features `[B, T, D]` -> logits `[B, T, C]`, and arousal and valence `[B, T, 2]` in 0 to 1."""
        batch, frames, width = features.shape
        per_layer = features.view(batch, frames, self.outputs, width // self.outputs)
        x = F.layer_norm(per_layer, per_layer.shape[-1:]).reshape(batch, frames, width)
        x = self.enter(self.dropout(x))
        for block in self.blocks:
            x = block(x)
        x = self.norm(x)
        return self.emotion(x), self.affect(x).sigmoid()
