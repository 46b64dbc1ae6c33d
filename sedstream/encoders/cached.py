"""A chunk-wise Whisper encoder with a memory: each frame is computed once, when its chunk arrives.

Frames come in chunks of c. A layer's attention sees [at most `left` frames before the chunk | the chunk], so that a
chunk needs nothing but its own samples and the keys and values that the layer kept. The loudness that the spectrogram
is measured against is that of the sound so far. The head answers `right` frames behind the encoder: that is its
look-ahead (Zhang et al., "Highway long short-term memory RNNs for distant speech recognition", 2016: the backward
recurrence starts anew in every chunk, the forward one goes on).

Whisper adds absolute positions to its input, which would run out. Here every frame has the same position, and what the
positions did to the attention, as a function of the distance of two frames, is a table that is added to its scores.

`forward` answers a whole recording at once with exactly the numbers that `advance` gives chunk by chunk, up to the
first turn of its states (see `relay`): the windows of a training are as long as that.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import BadModel
from ..grid import HOP, RATE
from .relay import OLDER, turn, two
from .whisper import FFT, SILENCE, STRIDE, Layer, LogMel

BEFORE, BEHIND = 2, 1
"""Frames of samples that the first and the last frame of a chunk read beyond it: 2 convolutions and the spectrum."""


class Memory(NamedTuple):
    """What sessions remember between chunks; the first dimension of each tensor is the session."""

    loudest: Tensor
    """log10 power float32 `[B, 2]`: of the loudest mel channel so far, forgotten at `fade`; a relay."""
    known: Tensor
    """How many of the `left` frames there are, int64 `[B, 2]`; a relay."""
    keys: Tensor
    """Keys and values of the frames before the chunk, `[B, layers, 2, left, width]`."""
    ahead: Tensor
    """What the head read of the frames that it has not answered for, `[B, right, head width]`."""
    hidden: Tensor
    """States of the head's forward recurrence, float32 `[B, 2, hidden]`; a relay."""

    def turn(self, due: Tensor, nothing: Memory) -> Memory:
        """Another period has begun for those that are `due`, bool `[B]`. Frames from before the state that is the older
        one now are no longer known, so their keys and values need not be touched."""
        relays = {name: turn(getattr(self, name), due, getattr(nothing, name)) for name in RELAYS}
        return self._replace(**relays)


RELAYS = ("loudest", "known", "hidden")


class CachedEncoder(nn.Module):
    """The first layers of Whisper's encoder, chunk by chunk.

    Args:
        mels, width, heads, layers: as in `WhisperEncoder`.
        outputs: which hidden states to return, concatenated: 1 is the first layer's, `layers` the last one's.
        left: frames before the chunk that attention sees.
        reach: distances up to this many frames have a score of their own in the table; further ones share the last.
        fade: how fast a loudness is forgotten, in dB a second.
        decades, level: see `LogMel`.

    Raises:
        BadModel: the arguments do not describe an encoder.
    """

    def __init__(
        self,
        *,
        mels: int,
        width: int,
        heads: int,
        layers: int,
        outputs: Sequence[int],
        left: int = 104,
        reach: int = 64,
        fade: float = 2.0,
        decades: float = 8.0,
        level: float = 1.0,
    ) -> None:
        super().__init__()
        if heads < 1 or width % heads:
            raise BadModel(f"Bad encoder heads {heads!r}, expected a divisor of width {width}")
        if not outputs or not all(1 <= n <= layers for n in outputs):
            raise BadModel(f"Bad encoder outputs {list(outputs)!r}, expected layers from 1 to {layers}")
        if left < 1 or reach < 1:
            raise BadModel(f"Bad encoder left {left!r} and reach {reach!r}, expected 1 or more")
        self.outputs = tuple(outputs)
        self.left, self.reach, self.fade = left, reach, fade
        self.width, self.heads = width, heads
        self.log_mel = LogMel(mels, decades, level)
        self.conv1 = nn.Conv1d(mels, width, 3)
        self.conv2 = nn.Conv1d(width, width, 3, stride=2)
        self.position = nn.Parameter(torch.zeros(width))
        self.distance = nn.Parameter(torch.zeros(layers, heads, 2 * reach + 1))
        self.layers = nn.ModuleList(Layer(width, heads, 4 * width) for _ in range(layers))
        self._tables: dict[tuple[int, torch.device], Tensor] = {}

    @property
    def features(self) -> int:
        """Width D of the answer."""
        return len(self.outputs) * self.width

    def train(self, mode: bool = True) -> CachedEncoder:
        self._tables.clear()
        return super().train(mode)

    def forward(self, samples: Tensor, chunk: int, loudest: Tensor | None = None) -> Tensor:
        """A recording at once: samples float32 `[B, (2 + T + 1)·320]` -> features `[B, T, D]`, T a multiple of `chunk`.

        `loudest` `[B]`: loudness before the first chunk; None: silence.
        """
        log = self._spectrum(samples)
        chunks = log.unfold(2, 2 * chunk + 3, 2 * chunk).transpose(1, 2)  # [B, K, mels, 2c + 3]
        batch, count = chunks.shape[:2]
        if loudest is None:
            loudest = log.new_full((batch,), SILENCE)
        # The loudest that is forgotten by a constant a chunk: a running maximum, seen along a falling line.
        fall = self._fall(chunk) * torch.arange(count + 1, device=log.device)
        peaks = torch.cat([loudest[:, None], chunks.amax((2, 3)).clamp(min=SILENCE)], 1)
        against = (peaks + fall).cummax(1).values[:, 1:] - fall[1:]
        x = self._front(chunks.flatten(0, 1), against.flatten().clamp(min=SILENCE))
        x = x.reshape(batch, count * chunk, self.width)
        place = torch.arange(count * chunk, device=log.device)
        start = place // chunk * chunk
        seen = (place >= start[:, None] - self.left) & (place < start[:, None] + chunk)
        # With the dimension of the rows: without it torch takes a slower attention.
        scores = self._scores(place, place).masked_fill(~seen, -torch.inf)[:, None]
        hidden = []
        for number, bias in enumerate(scores):
            x = self.through(number, x, None, bias)
            hidden.append(x)
        return torch.cat([hidden[n - 1] for n in self.outputs], -1)

    def advance(
        self, samples: Tensor, loudest: Tensor, known: Tensor, keys: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """One chunk: samples float32 `[B, (2 + c + 1)·320]` and three fields of `Memory` -> features `[B, c, D]` and
        the fields after the chunk."""
        log = self._spectrum(samples)
        chunk = log.shape[-1] // 2 - 1
        loudest = torch.maximum(loudest - self._fall(chunk), log.amax((1, 2))[:, None]).clamp(min=SILENCE)
        x = self._front(log, loudest[:, OLDER])
        unknown = (torch.arange(-self.left, chunk, device=log.device) < -known[:, OLDER, None])[:, None, None]
        seen = keys.new_empty(*keys.shape[:3], self.left + chunk, self.width)
        seen[..., : self.left, :] = keys
        hidden = []
        for number, bias in enumerate(self._table(chunk, log.device).unbind()):
            x = self.through(number, x, seen[:, number], bias.masked_fill(unknown, -torch.inf))
            hidden.append(x)
        features = torch.cat([hidden[n - 1] for n in self.outputs], -1)
        return features, loudest, (known + chunk).clamp(max=self.left), seen[..., chunk:, :]

    def nothing(self, like: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """What `advance` takes for one session at its beginning, without the dimension B."""
        dtype = self.conv1.weight.dtype
        keys = torch.zeros(len(self.layers), 2, self.left, self.width, dtype=dtype, device=like.device)
        known = torch.zeros((), dtype=torch.int64, device=like.device)
        return two(torch.full((), SILENCE, device=like.device)), two(known), keys

    def through(self, number: int, x: Tensor, seen: Tensor | None, bias: Tensor) -> Tensor:
        """Frames `[B, c, width]` through a layer.

        `seen`: keys and values of earlier frames and room for those of these, which are put there,
        `[B, 2, left + c, width]`; None: there are no earlier ones. `bias`: added to the scores, `[..., c, left + c]`.
        """
        layer = cast(Layer, self.layers[number])
        attention = layer.self_attn
        dtype = attention.q_proj.weight.dtype
        y = layer.self_attn_layer_norm(x).to(dtype)
        queries, keys, values = attention.q_proj(y), attention.k_proj(y), attention.v_proj(y)
        batch, frames, width = queries.shape
        if seen is not None:
            seen[:, 0, -frames:], seen[:, 1, -frames:] = keys, values
            keys, values = seen[:, 0], seen[:, 1]
        queries, keys, values = (
            part.view(batch, part.shape[1], attention.heads, -1).transpose(1, 2) for part in (queries, keys, values)
        )
        y = F.scaled_dot_product_attention(queries, keys, values, attn_mask=bias.to(queries.dtype))
        x = x + attention.out_proj(y.transpose(1, 2).reshape(batch, frames, width))
        y = layer.final_layer_norm(x).to(dtype)
        result: Tensor = x + layer.fc2(F.gelu(layer.fc1(y)))
        return result

    def _fall(self, chunk: int) -> float:
        return self.fade / 10 * chunk * HOP / RATE

    def _spectrum(self, samples: Tensor) -> Tensor:
        """Samples `[B, (2 + T + 1)·320]` -> log10 power `[B, mels, 2T + 3]`: what the convolutions read of T frames."""
        # Frame t comes from the spectra centred at (2t - 2)·160 to (2t + 2)·160 samples, each 400 wide.
        first = BEFORE * HOP - 2 * STRIDE - FFT // 2
        last = BEHIND * HOP - FFT // 2
        return self.log_mel.log_power(samples[:, first : samples.shape[1] - last], center=False, steady=True)

    def _front(self, log: Tensor, loudest: Tensor) -> Tensor:
        x = self.log_mel.scale(log, loudest[:, None, None]).to(self.conv1.weight.dtype)
        x = F.gelu(self.conv2(F.gelu(self.conv1(x)))).transpose(1, 2)
        return x.float() + self.position

    def _table(self, chunk: int, device: torch.device) -> Tensor:
        """Scores between a chunk and what it sees, as precise as the attention is: `[layers, heads, c, left + c]`."""
        if (known := self._tables.get((chunk, device))) is not None and not torch.is_grad_enabled():
            return known
        place = torch.arange(-self.left, chunk, device=device)
        table = self._scores(place[self.left :], place).to(self.conv1.weight.dtype)
        if not torch.is_grad_enabled():
            self._tables[chunk, device] = table  # tens of megabytes: too much to make anew for each chunk
        return table

    def _scores(self, queries: Tensor, keys: Tensor) -> Tensor:
        """What is added to the attention between frames at these places: `[layers, heads, Q, K]`."""
        distance = (keys - queries[:, None]).clamp(-self.reach, self.reach) + self.reach
        return self.distance[:, :, distance]
