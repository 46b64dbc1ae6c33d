"""The frame-level heads: emotion logits, arousal and valence for every frame, of a window or of a session."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import BadModel
from .experts import Experts
from .gru import GRU
from .relay import OLDER, two


class ChannelDropout(nn.Dropout1d):
    """Channels are dropped for a whole window: neighbouring frames are so alike that one gives away the other."""

    def forward(self, x: Tensor) -> Tensor:
        """Frames `[B, T, width]` -> the same, in training without some of their channels."""
        return super().forward(x.transpose(1, 2)).transpose(1, 2) if self.training else x


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
        self.dropout = ChannelDropout(dropout)
        self.enter = nn.Linear(features, width)
        self.gru = nn.GRU(width, hidden, batch_first=True, bidirectional=True)
        self.norm = nn.LayerNorm(2 * hidden)
        self.emotion = nn.Linear(2 * hidden, labels)
        self.affect = nn.Linear(2 * hidden, 2)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Features `[B, T, D]` -> logits `[B, T, C]`, and arousal and valence `[B, T, 2]` in 0 to 1."""
        x = F.gelu(self.enter(self.dropout(normalised(features, self.outputs))))
        x, _ = self.gru(self.dropout(x))
        x = self.dropout(self.norm(x))
        return self.emotion(x), self.affect(x).sigmoid()


class CachedHead(nn.Module):
    """Emotion logits, arousal and valence from encoder features: one recurrence goes on through the session, one comes
    back from the end of what has been heard. In a session the first is a relay of two.

    Arguments as those of `FrameHead`, and:
        experts: of so many corpora are asked beside the recurrences, and their logits of the frame added, that of
            arousal too (see `experts`): what is fitted knows voices that nobody trained with better than what is
            trained.
    """

    def __init__(
        self,
        *,
        labels: int,
        features: int,
        outputs: int,
        width: int,
        hidden: int,
        dropout: float = 0.0,
        experts: int = 0,
    ) -> None:
        super().__init__()
        if outputs < 1 or features % outputs:
            raise BadModel(f"Bad head outputs {outputs!r}, expected a divisor of features {features}")
        self.outputs, self.hidden = outputs, hidden
        self.widths = [width, labels + 1 if experts else 0]
        """Of the two parts of what is read of a frame: for the recurrences, and the logits of the experts, arousal's
        behind those of the emotions."""
        self.dropout = ChannelDropout(dropout)
        self.enter = nn.Linear(features, width)
        self.onward = GRU(width, hidden)
        self.back = GRU(width, hidden)
        self.norm = nn.LayerNorm(2 * hidden)
        self.emotion = nn.Linear(2 * hidden, labels)
        self.affect = nn.Linear(2 * hidden, 2)
        self.experts = Experts(labels=labels, features=features, corpora=experts) if experts else None

    def normalised(self, features: Tensor) -> Tensor:
        """What the experts read of features `[B, T, D]`: the same, each layer by itself with mean 0 and variance 1."""
        return normalised(features, self.outputs)

    def read(self, features: Tensor) -> Tensor:
        """Features `[B, T, D]` -> what the head reads of them, `[B, T, sum(widths)]`."""
        features = self.normalised(features)
        x: Tensor = self.dropout(F.gelu(self.enter(self.dropout(features))))
        if self.experts is None:
            return x
        return torch.cat([x, self.experts(features), self.experts.intensity(features)], -1)

    def forward(self, features: Tensor, chunk: int, right: int) -> tuple[Tensor, Tensor]:
        """A recording at once: features `[B, T, D]` -> logits `[B, T, C]`, arousal and valence `[B, T, 2]` in 0 to 1.

        Chunks of answers end `right` before those of the encoder; the last `right` frames see only each other.
        """
        x, known = self.read(features).split_with_sizes(self.widths, -1)
        batch, frames, _ = x.shape
        onward, _ = self.onward(x)
        # A chunk of answers and its look-ahead end where a chunk of the encoder ends.
        padded = F.pad(x, (0, 0, right, chunk))
        parts = padded.unfold(1, chunk + right, chunk).movedim(3, 2).flatten(0, 1)
        back, _ = self.back(parts.flip(1))
        back = back.flip(1)[:, :chunk].reshape(batch, -1, self.hidden)[:, right : right + frames]
        return self._answer(onward, back, F.pad(known, (0, 0, 0, right)))

    def advance(self, read: Tensor, right: int, hidden: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """What was read `[B, c + right, sum(widths)]` and two states `[B, 2, hidden]` -> logits `[B, c, C]` from the
        older state, affect `[B, c, 2]`, and the states after them."""
        chunk = read.shape[1] - right
        x, known = read.split_with_sizes(self.widths, -1)
        both, state = self.onward(x[:, :chunk].repeat_interleave(2, 0), hidden.flatten(0, 1)[None])
        onward = both.unflatten(0, (-1, 2))[:, OLDER]
        back, _ = self.back(x.flip(1))
        return *self._answer(onward, back.flip(1)[:, :chunk], known), state[0].unflatten(0, (-1, 2))

    def nothing(self, right: int, like: Tensor) -> tuple[Tensor, Tensor]:
        """What was read ahead `[right, sum(widths)]` and the states `[2, hidden]` of a session at its beginning."""
        ahead = torch.zeros(right, sum(self.widths), device=like.device)
        return ahead, two(torch.zeros(self.hidden, device=like.device))

    def _answer(self, onward: Tensor, back: Tensor, known: Tensor) -> tuple[Tensor, Tensor]:
        x = self.dropout(self.norm(torch.cat([onward, back], -1)))
        logits, affect = self.emotion(x), self.affect(x)
        if self.experts is not None:
            frames = x.shape[1]
            logits = logits + known[:, :frames, :-1]
            # How strongly is not told by one frame: the mean of it and of all that are certain to be heard.
            strongly = F.avg_pool1d(known[..., -1:].transpose(1, 2), known.shape[1] - frames + 1, 1).transpose(1, 2)
            affect = affect + F.pad(strongly, (0, 1))  # valence is the recurrences' alone
        return logits, affect.sigmoid()


class LinearHead(nn.Module):
    """One matrix from features to emotions, as SpeechBrain's emotion diarization has it; arousal and valence are not
    told.

    Args:
        labels: number of emotions C.
        features: width D of the encoder's answer.
        bias: whether it adds one.
    """

    def __init__(self, *, labels: int, features: int, bias: bool = False) -> None:
        super().__init__()
        self.emotion = nn.Linear(features, labels, bias=bias)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Features `[B, T, D]` -> logits `[B, T, C]`, and NaN `[B, T, 2]`."""
        return self.emotion(features), features.new_full((*features.shape[:2], 2), torch.nan)


class AffectHead(nn.Module):
    """Arousal, dominance and valence of a window: the mean of its features, a layer with tanh, and a matrix.

    Source: Wagner et al., "Dawn of the transformer era in speech emotion recognition", 2023; names of the parameters
    as in audEERING's checkpoint.

    Args:
        features: width D of the encoder's answer.
    """

    def __init__(self, *, features: int) -> None:
        super().__init__()
        self.dense = nn.Linear(features, features)
        self.out_proj = nn.Linear(features, 3)

    def forward(self, features: Tensor) -> Tensor:
        """Features `[B, T, D]` -> arousal, dominance and valence `[B, 3]`, about 0 to 1."""
        answer: Tensor = self.out_proj(self.dense(features.mean(1)).tanh())
        return answer


def normalised(features: Tensor, outputs: int) -> Tensor:
    """Features `[B, T, D]` of several layers, those of each by themselves with mean 0 and variance 1."""
    layers = features.view(*features.shape[:2], outputs, -1)
    return F.layer_norm(layers, layers.shape[-1:]).flatten(2)
