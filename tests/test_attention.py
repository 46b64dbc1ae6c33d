"""WavLM's attention by SDPA and by FlexAttention, against torchaudio's own."""

import copy

import pytest
import torch
from test_wav2vec import voices
from torchaudio.models import wavlm_model

from sedstream.encoders import checkpoints
from sedstream.encoders.attention import flex, masked, pairs, product, repeated
from sedstream.encoders.wav2vec import STRIDES, Wav2VecEncoder

CONVOLUTIONS = [(16, n, s) for n, s in zip((10, 3, 3, 3, 3, 2, 2), STRIDES, strict=True)]
SHAPE = {
    "extractor_conv_layer_config": CONVOLUTIONS, "encoder_projection_dropout": 0.0, "encoder_pos_conv_kernel": 16,
    "encoder_pos_conv_groups": 4, "encoder_embed_dim": 48, "encoder_num_heads": 3, "encoder_num_layers": 3,
    "encoder_num_buckets": 12, "encoder_max_distance": 20, "encoder_attention_dropout": 0.0,
    "encoder_ff_interm_features": 64, "encoder_ff_interm_dropout": 0.0, "encoder_dropout": 0.0,
    "encoder_layer_drop": 0.0, "aux_num_out": None,
}  # fmt: skip
BASE = {"extractor_mode": "group_norm", "extractor_conv_bias": False, "encoder_layer_norm_first": False}
LARGE = {"extractor_mode": "layer_norm", "extractor_conv_bias": True, "encoder_layer_norm_first": True}


pytestmark = pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")


@pytest.mark.parametrize("kind", [BASE, LARGE], ids=["base", "large"])
@torch.inference_mode()
def test_equals_torchaudio(kind: dict[str, object]) -> None:
    torch.manual_seed(11)
    reference = wavlm_model(**SHAPE, **kind).eval()
    for parameter in reference.parameters():
        parameter += 0.1 * torch.randn_like(parameter)
    tensors = checkpoints.convert(reference.state_dict())
    encoder = Wav2VecEncoder(**checkpoints.describe(tensors) | {"reach": 20}, outputs=[3]).eval()
    encoder.load_state_dict(tensors)
    other = copy.deepcopy(encoder)
    other.flex = flex
    biases = encoder.transformer.layers[0].attention.rel_attn_embed
    for frames in (5, 40, 67):  # short of the reach, a multiple of eight, neither
        samples = voices(2, frames * 320 + 80)
        expected, _ = reference(samples)
        torch.testing.assert_close(encoder(samples), expected, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(other(samples), expected, atol=1e-4, rtol=1e-4)
    # Without its bias it would be another answer.
    biases.weight.zero_()
    assert (encoder(samples) - expected).abs().max() > 1e-2


@torch.inference_mode()
def test_both_agree() -> None:
    generator = torch.Generator().manual_seed(12)
    q, k, v = torch.randn(3, 2, 4, 37, 16, generator=generator)
    gate, table = 2 * torch.rand(2, 4, 37, generator=generator), torch.randn(4, 21, generator=generator)
    bias = pairs(table, 37)
    assert bias.shape == (1, 4, 37, 40)
    assert bias[0, 1, 3, 9] == table[1, 10 + 6]
    assert bias[0, 2, 30, 3] == table[2, 0]
    expected = masked(q, k, v, gate, 0, bias)
    torch.testing.assert_close(flex(q, k, v, gate, 0, table), expected, atol=1e-5, rtol=1e-5)
    few = q[:, :, 20:29], k, v, gate[:, :, 20:29], 20
    for found in (masked(*few, bias), flex(*few, table)):
        torch.testing.assert_close(found, expected[:, :, 20:29], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_gated_biases_are_the_same_either_way(dtype: torch.dtype) -> None:
    """What a GPU runs, here on the CPU; to the bit, and with the alignment that the attention's kernel wants."""
    gate, bias = torch.randn(3, 4, 27).to(dtype), pairs(torch.randn(4, 41).to(dtype), 27)
    found = product(gate, bias)
    assert torch.equal(found, repeated(gate, bias))
    assert found.stride(-1) == 1
    assert all(stride % 8 == 0 for stride in found.stride()[:-1])
