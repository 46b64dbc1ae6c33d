"""wav2vec 2.0, HuBERT and WavLM as windowed encoders, on torchaudio's modules.

Sources: Baevski et al., "wav2vec 2.0", 2020; Hsu et al., "HuBERT", 2021; Chen et al., "WavLM", 2022. Seven convolutions
make frames of 20 ms, a transformer reads all of them. Frame *f* hears samples [320·f, 320·f + 400), so a window of W
frames of samples has W - 1 frames of features. The answer depends on nothing but the window's samples: the wave and the
output are normalised over the window alone.

WavLM's attention is in `attention`.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrize import remove_parametrizations
from torchaudio.models import wav2vec2_model, wavlm_model

from ..errors import BadInput, BadModel
from .attention import Attend, Flex, GatedAttention, masked, pairs
from .fused import fits, kernels, norm_of_sum
from .layers import states
from .positions import matrix, position
from .strided import convolve

FIELD = 400
"""Samples that one frame hears."""
STRIDES = (5, 2, 2, 2, 2, 2, 2)
CONVOLUTIONS = ((512, 10), *[(512, 3)] * 4, *[(512, 2)] * 2)
"""Channels and width of the convolutions of all published checkpoints; what hears 400 samples is always 10, 3 3 3 3, 2
2 wide."""
WAVES = ("raw", "centred", "normalised")
FLEX: Flex | None = None
"""`attention.compiled()` where WavLM's attention is to be FlexAttention; None: what is faster, on a CPU SDPA by `python
-m benchmarks attention`, on a GPU our own kernel, and SDPA without it, by `python -m benchmarks gpu`."""


class Wav2VecEncoder(nn.Module):
    """Hidden states of a wav2vec 2.0, HuBERT or WavLM.

    Args:
        width, heads, layers, hidden: of the transformer; ``hidden`` is the width between its two linear layers.
        relative: WavLM's gated bias.
        norm: of the convolutions: ``group`` (over the window, base models) or ``layer`` (each frame by itself, large).
        bias: of the convolutions.
        first: layer norms stand before attention and feed-forward (large models) and not behind them.
        outputs: which hidden states to return: 0 goes into the first layer, 1 comes out of it, ``layers`` is the last
            one's, behind the final norm where there is one. Several are concatenated.
        weighted: several are summed instead, each with a weight that was learned.
        wave: ``raw``, ``centred`` (minus its mean) or ``normalised`` (to variance 1 as well), over the window.
        epsilon: added to that variance.
        together: the output is normalised over frames and channels together, as SpeechBrain's ``output_norm`` does.
        cached: sessions remember what the convolutions made of the part of a window that the next window holds too.
            That gives the same numbers only where each frame is normalised by itself: ``norm`` layer, ``wave`` raw.
        buckets, reach: of WavLM's bias; frames further apart than ``reach`` have the same.
        positions, groups: width and groups of the convolution that tells the transformer where a frame stands.
        convolutions: channels and width of each.

    Raises:
        BadModel: the arguments do not describe an encoder.
    """

    def __init__(
        self,
        *,
        width: int,
        heads: int,
        layers: int,
        hidden: int,
        outputs: Sequence[int],
        relative: bool = False,
        norm: str = "group",
        bias: bool = False,
        first: bool = False,
        weighted: bool = False,
        wave: str = "raw",
        epsilon: float = 1e-5,
        together: bool = False,
        cached: bool = False,
        buckets: int = 320,
        reach: int = 800,
        positions: int = 128,
        groups: int = 16,
        convolutions: Sequence[Sequence[int]] = CONVOLUTIONS,
    ) -> None:
        super().__init__()
        if heads < 1 or width % heads:
            raise BadModel(f"Bad encoder heads {heads!r}, expected a divisor of width {width}")
        if not outputs or not all(0 <= n <= layers for n in outputs):
            raise BadModel(f"Bad encoder outputs {list(outputs)!r}, expected layers from 0 to {layers}")
        if norm not in ("group", "layer"):
            raise BadModel(f"Bad encoder norm {norm!r}, expected group or layer")
        if wave not in WAVES:
            raise BadModel(f"Bad encoder wave {wave!r}, expected {', '.join(WAVES)}")
        if cached and (norm != "layer" or wave != "raw"):
            raise BadModel(
                f"Bad encoder cached with norm {norm!r} and wave {wave!r}, expected 'layer' and 'raw': "
                "what is normalised over the window differs from window to window"
            )
        if [size for _, size in convolutions] != [size for _, size in CONVOLUTIONS]:
            raise BadModel(f"Bad encoder convolutions {convolutions!r}, expected widths 10, 3, 3, 3, 3, 2, 2")
        self.outputs, self.weighted = tuple(outputs), weighted
        self.wave, self.epsilon = wave, epsilon
        self.together, self.cached, self.reach = together, cached, reach
        arguments = {
            "extractor_mode": f"{norm}_norm",
            "extractor_conv_layer_config": [
                (channels, size, stride) for (channels, size), stride in zip(convolutions, STRIDES, strict=True)
            ],
            "extractor_conv_bias": bias,
            "encoder_embed_dim": width,
            "encoder_projection_dropout": 0.0,
            "encoder_pos_conv_kernel": positions,
            "encoder_pos_conv_groups": groups,
            "encoder_num_layers": layers,
            "encoder_num_heads": heads,
            "encoder_attention_dropout": 0.0,
            "encoder_ff_interm_features": hidden,
            "encoder_ff_interm_dropout": 0.0,
            "encoder_dropout": 0.0,
            "encoder_layer_norm_first": first,
            "encoder_layer_drop": 0.0,
            "aux_num_out": None,
        }
        if relative:
            model = wavlm_model(**arguments, encoder_num_buckets=buckets, encoder_max_distance=reach)
        else:
            model = wav2vec2_model(**arguments)
        self.extractor = model.feature_extractor
        self.projection = model.encoder.feature_projection
        self.transformer = model.encoder.transformer
        # Its norm is for training alone; `convert` multiplies it out.
        remove_parametrizations(self.transformer.pos_conv_embed.conv, "weight")
        self.weights = nn.Parameter(torch.zeros(len(outputs))) if weighted else None
        self.register_buffer("distances", None, persistent=False)
        if relative:
            attention = self.transformer.layers[0].attention
            self.distances = attention._relative_positions_bucket(torch.arange(-reach, reach + 1))
            for layer in self.transformer.layers:
                layer.attention = GatedAttention(layer.attention)
        self.flex = FLEX
        self._toeplitz: Tensor | None = None
        self.register_load_state_dict_post_hook(lambda module, _: module.forget())  # type: ignore[no-untyped-call]

    @property
    def features(self) -> int:
        """Width D of the answer."""
        width: int = self.transformer.layer_norm.normalized_shape[0]
        return width if self.weighted else len(self.outputs) * width

    def forward(self, samples: Tensor) -> Tensor:
        """Samples float32 `[B, W]` at 16 kHz -> features float32 `[B, (W - 80) // 320, D]`.

        Raises:
            BadInput: there are fewer than 400 samples.
        """
        return self.encode(self.extract(samples))

    def extract(self, samples: Tensor) -> Tensor:
        """Samples float32 `[B, W]` -> what the convolutions make of them, `[B, (W - 80) // 320, channels]`."""
        if as_products(samples):
            return convolve(self.extractor.conv_layers, self._waves(samples))
        return self.extract_plainly(samples)

    def extract_plainly(self, samples: Tensor) -> Tensor:
        """The same by torch's convolutions, which are the faster ones on a CPU."""
        features: Tensor = self.extractor(self._waves(samples), None)[0]
        return features

    def _waves(self, samples: Tensor) -> Tensor:
        if samples.shape[1] < FIELD:
            raise BadInput(f"Bad window of {samples.shape[1]} samples, expected {FIELD} or more")
        if self.wave == "centred":
            samples = samples - samples.mean(1, keepdim=True)
        elif self.wave == "normalised":
            samples = F.layer_norm(samples, samples.shape[1:], eps=self.epsilon)
        return samples.to(self.dtype)

    def encode(self, features: Tensor, frames: slice = slice(None)) -> Tensor:
        """What the convolutions made `[B, T, channels]` -> features float32 `[B, T, D]`, of some ``frames`` only."""
        transformer = self.transformer
        x = self.projection(features)
        # torchaudio's flag of the transformer says the opposite of that of its layers.
        if transformer.layer_norm_first:
            x = norm_of_sum(x, self._position(x), transformer.layer_norm)
        else:
            x = x + self._position(x)
        # torchaudio's attentions look at what follows only to refuse some of it.
        options = {"attention_mask": None, "key_padding_mask": None, "position_bias": self._attend(x)}
        asked = slice(None) if self.together else frames
        chosen = [state.float() for state in states(transformer, x, self.outputs, asked, **options)]
        if self.weights is not None:
            x = torch.einsum("n,nbtd->btd", self.weights.float().softmax(0), torch.stack(chosen))
        else:
            x = torch.cat(chosen, -1)
        return F.layer_norm(x, x.shape[1:])[:, frames] if self.together else x

    def forget(self) -> None:
        """What was worked out from the weights, and takes memory, is worked out anew."""
        self._toeplitz = None

    def _position(self, x: Tensor) -> Tensor:
        embedding = self.transformer.pos_conv_embed
        if not as_products(x):
            where: Tensor = embedding(x)
            return where
        if self._toeplitz is None or (self._toeplitz.dtype, self._toeplitz.device) != (x.dtype, x.device):
            self._toeplitz = matrix(embedding)
        return position(embedding, x, self._toeplitz)

    @property
    def dtype(self) -> torch.dtype:
        """In which the convolutions and the transformer compute."""
        found: torch.dtype = self.projection.projection.weight.dtype
        return found

    def _attend(self, x: Tensor) -> Attend | None:
        """WavLM's attention but for its gates: one for all layers and rows of frames `[B, T, width]`."""
        if self.distances is None:
            return None
        # A table of distances, not torchaudio's of places: nothing of it is made on the host, so a graph can hold it.
        table: Tensor = self.transformer.layers[0].attention.rel_attn_embed(self.distances).T
        if self.flex is not None:
            return partial(self.flex, table=table)
        width = x.shape[2] // self.transformer.layers[0].attention.heads
        if fits(x) and width in kernels().WIDTHS:
            return partial(kernels().attend, bias=pairs(table, x.shape[1], kernels().KEYS))
        return partial(masked, bias=pairs(table, x.shape[1]))


def as_products(x: Tensor) -> bool:
    """Whether convolutions of `x` are computed as matrix products: on a GPU, but not to learn."""
    return x.is_cuda and not torch.is_grad_enabled()
