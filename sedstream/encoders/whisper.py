"""Whisper's audio encoder as a windowed feature extractor: its first layers, without the 30 s padding.

Source: Radford et al., "Robust Speech Recognition via Large-Scale Weak Supervision", 2022. Parameter names are those of
transformers' `WhisperEncoder`, so its checkpoints load by name; the layers, the position rows and the final norm that
are not kept are left out.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchaudio.functional import melscale_fbanks

from ..errors import BadInput, BadModel
from ..grid import HOP, RATE

FFT = 400
STRIDE = HOP // 2  # the second convolution halves 100 spectra a second to 50 frames a second
# Power below which a window counts as digital silence: it keeps the loudest of nothing from being shown as loud speech.
SILENCE = -9.0


class LogMel(nn.Module):
    """Whisper's log-mel spectrogram with a normalisation that forgets the level of the window.

    Whisper keeps the top eight decades of a recording and scales them by a constant. Here the window's own maximum is
    moved to `level` first, so the same speech 20 dB louder or softer gives the same spectrogram.

    Args:
        mels: number of mel channels, Slaney scale, 0 to 8000 Hz.
        decades: range kept below the maximum, in powers of ten.
        level: log10 power at which the maximum is put; what a typical utterance has in Whisper's own normalisation.
    """

    def __init__(self, mels: int, decades: float, level: float) -> None:
        super().__init__()
        self.decades = decades
        self.level = level
        bins = FFT // 2 + 1
        filters = melscale_fbanks(bins, 0.0, RATE / 2, mels, RATE, norm="slaney", mel_scale="slaney")
        self.register_buffer("filters", filters.T.contiguous(), persistent=False)
        self.register_buffer("taper", torch.hann_window(FFT), persistent=False)
        self.filters: Tensor
        self.taper: Tensor

    def log_power(self, samples: Tensor, *, center: bool, steady: bool = False) -> Tensor:
        """Samples float32 `[B, W]` -> log10 of the mel power `[B, mels, N]`; `center`: see `torch.stft`. `steady`: as
        if no constant had been added to the samples."""
        spectrum = torch.stft(samples, FFT, STRIDE, window=self.taper, center=center, return_complex=True)
        if steady:
            # Hann's window spreads a constant c over three bins: N/2·c, and -N/4·c on both sides of it. The filters are
            # 0 at 0 Hz.
            spectrum[:, 1] += spectrum[:, 0] / 2
        power = torch.view_as_real(spectrum).square().sum(-1)
        return (self.filters @ power).clamp(min=1e-20).log10()

    def scale(self, log: Tensor, loudest: Tensor) -> Tensor:
        """log10 power against that of the loudest -> what Whisper's convolutions expect, at most (level + 4) / 4."""
        return ((log - loudest).clamp(min=-self.decades) + (self.level + 4.0)) / 4.0

    def forward(self, samples: Tensor) -> Tensor:
        """Samples float32 `[B, W]` -> spectrogram float32 `[B, mels, W / 160]`, at most (level + 4) / 4."""
        log = self.log_power(samples, center=True)[..., :-1]
        return self.scale(log, log.amax((1, 2), keepdim=True).clamp(min=SILENCE))


class SelfAttention(nn.Module):
    """Multi-head attention over all frames of the window; keys have no bias, as in Whisper."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q_proj = nn.Linear(width, width)
        self.k_proj = nn.Linear(width, width, bias=False)
        self.v_proj = nn.Linear(width, width)
        self.out_proj = nn.Linear(width, width)

    def forward(self, x: Tensor, there: Tensor | None = None) -> Tensor:
        """`[B, T, width]` -> `[B, T, width]`; `there` bool `[B, 1, 1, T]`: the frames that are seen, None: all."""
        batch, frames, width = x.shape
        shape = (batch, frames, self.heads, width // self.heads)
        q, k, v = (p(x).view(shape).transpose(1, 2) for p in (self.q_proj, self.k_proj, self.v_proj))
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=there)
        out: Tensor = self.out_proj(y.transpose(1, 2).reshape(batch, frames, width))
        return out


class Layer(nn.Module):
    """One pre-norm transformer layer."""

    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.self_attn_layer_norm = nn.LayerNorm(width)
        self.self_attn = SelfAttention(width, heads)
        self.final_layer_norm = nn.LayerNorm(width)
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, x: Tensor, there: Tensor | None = None) -> Tensor:
        """As `SelfAttention`."""
        x = x + self.self_attn(self.self_attn_layer_norm(x), there)
        y: Tensor = self.fc2(F.gelu(self.fc1(self.final_layer_norm(x))))
        return x + y


class WhisperEncoder(nn.Module):
    """First layers of Whisper's encoder; the answer depends on nothing but the window's samples.

    Args:
        mels, width, heads: as in the checkpoint (base: 80, 512, 8).
        layers: number of transformer layers kept.
        outputs: which hidden states to return, concatenated: 1 is the first layer's, `layers` the last one's.
        positions: rows kept of the position table, which is the longest window in frames of 20 ms (1 to 1500).
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
        positions: int = 1500,
        decades: float = 8.0,
        level: float = 1.0,
    ) -> None:
        super().__init__()
        if heads < 1 or width % heads:
            raise BadModel(f"Bad encoder heads {heads!r}, expected a divisor of width {width}")
        if not outputs or not all(1 <= n <= layers for n in outputs):
            raise BadModel(f"Bad encoder outputs {list(outputs)!r}, expected layers from 1 to {layers}")
        self.outputs = tuple(outputs)
        self.log_mel = LogMel(mels, decades, level)
        self.conv1 = nn.Conv1d(mels, width, 3, padding=1)
        self.conv2 = nn.Conv1d(width, width, 3, stride=2, padding=1)
        self.embed_positions = nn.Embedding(positions, width)
        self.layers = nn.ModuleList(Layer(width, heads, 4 * width) for _ in range(layers))

    @property
    def features(self) -> int:
        """Width D of the answer."""
        return len(self.outputs) * self.conv2.out_channels

    def forward(self, samples: Tensor) -> Tensor:
        """Samples float32 `[B, W]` at 16 kHz, W a multiple of 320 -> features `[B, W / 320, D]`.

        Raises:
            BadInput: W is not a whole number of frames from 1 to the length of the position table.
        """
        frames, rest = divmod(samples.shape[-1], HOP)
        longest = self.embed_positions.num_embeddings
        if rest or not 1 <= frames <= longest:
            raise BadInput(
                f"Bad window of {samples.shape[-1]} samples, expected a multiple of {HOP} up to {HOP * longest}"
            )
        return self.encode(self.log_mel(samples))

    def several(self, samples: Tensor, lengths: Tensor) -> Tensor:
        """Windows of several lengths at once: each gives what it gives alone.

        Args:
            samples: float32 `[B, 200 + longest·320 + 200]`; each window is mirrored at its ends, as `torch.stft` does.
            lengths: of each in frames, int64 `[B]`.

        Returns:
            Features `[B, longest, D]`; those of frames that a window does not have mean nothing.
        """
        frames = (samples.shape[1] - FFT) // HOP
        log = self.log_mel.log_power(samples, center=False)[..., : 2 * frames]
        there = torch.arange(2 * frames, device=samples.device) < 2 * lengths[:, None]
        loudest = log.masked_fill(~there[:, None], -torch.inf).amax((1, 2), keepdim=True).clamp(min=SILENCE)
        return self.encode(self.log_mel.scale(log, loudest), there)

    def encode(self, mel: Tensor, there: Tensor | None = None) -> Tensor:
        """Spectrograms `[B, mels, 2·T]` -> features `[B, T, D]`; `there` bool `[B, 2·T]`: what each has of it, from its
        beginning on, None: all."""
        seen = None if there is None else there[:, None, None, ::2]
        x = F.gelu(self.conv1(_only(mel, there)))
        x = F.gelu(self.conv2(_only(x, there))).transpose(1, 2)
        x = x + self.embed_positions.weight[: x.shape[1]]
        hidden = []
        for layer in self.layers:
            x = layer(x, seen)
            hidden.append(x)
        return torch.cat([hidden[n - 1] for n in self.outputs], -1)


def _only(x: Tensor, there: Tensor | None) -> Tensor:
    """`[B, C, N]`, zeros where nothing is: what a convolution finds beyond an end."""
    return x if there is None else x * there[:, None]
