"""wav2vec 2.0, HuBERT and WavLM against transformers and SpeechBrain, from tiny random checkpoints that those saved."""

from pathlib import Path

import pytest
import torch
import transformers
from torch import Tensor, nn

from sedstream.encoders import checkpoints
from sedstream.encoders.heads import LinearHead
from sedstream.encoders.wav2vec import Wav2VecEncoder

FAMILIES = ("Wav2Vec2", "Hubert", "WavLM")
SIZE = {
    "hidden_size": 128, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 96,
    "conv_dim": (16,) * 7, "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 4,
}  # fmt: skip
BASE = {"feat_extract_norm": "group", "do_stable_layer_norm": False, "conv_bias": False}
LARGE = {"feat_extract_norm": "layer", "do_stable_layer_norm": True, "conv_bias": True}


def voices(rows: int, samples: int, seed: int = 0) -> Tensor:
    """Noise of a moving level with a hum under it: float32 `[rows, samples]`."""
    generator = torch.Generator().manual_seed(seed)
    time = torch.arange(samples) / 16_000
    noise = torch.randn(rows, samples, generator=generator) * (0.05 + 0.04 * torch.sin(9 * time))
    return noise + 0.1 * torch.sin(2 * torch.pi * 150 * time) + 0.01


def library(family: str, kind: dict[str, object]) -> nn.Module:
    """A model of transformers with random weights, none of them where training starts from."""
    torch.manual_seed(1)
    model = getattr(transformers, f"{family}Model")(getattr(transformers, f"{family}Config")(**SIZE, **kind)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return model


@pytest.mark.parametrize("kind", [BASE, LARGE], ids=["base", "large"])
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("wave", ["raw", "normalised"])
@torch.inference_mode()
def test_equals_transformers(family: str, kind: dict[str, object], wave: str, tmp_path: Path) -> None:
    reference = library(family, kind)
    reference.save_pretrained(tmp_path)
    tensors = checkpoints.convert(checkpoints.read(tmp_path / "model.safetensors"))
    arguments = checkpoints.describe(tensors)
    assert arguments["relative"] == (family == "WavLM")
    encoder = Wav2VecEncoder(**arguments, outputs=[0, 1, 2, 3], wave=wave, epsilon=1e-7).eval()
    encoder.load_state_dict(tensors)
    samples = voices(2, 40 * 320 + 100)
    given = samples
    if wave == "normalised":
        extractor = transformers.Wav2Vec2FeatureExtractor(do_normalize=True)
        given = extractor(list(samples.numpy()), sampling_rate=16_000, return_tensors="pt").input_values
    expected = reference(given, output_hidden_states=True)
    found = encoder(samples).split(128, -1)
    assert found[0].shape == (2, 40, 128)
    # The last one stands behind the final norm; transformers 4 and 5 differ in whether their list has it so.
    for ours, theirs in zip(found, [*expected.hidden_states[:3], expected.last_hidden_state], strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)
    torch.manual_seed(2)
    head = LinearHead(labels=4, features=128)
    logits, affect = head(found[3])
    same = head.emotion(expected.last_hidden_state)
    torch.testing.assert_close(logits.log_softmax(-1), same.log_softmax(-1), atol=1e-4, rtol=0)
    assert affect.shape == (2, 40, 2)
    assert affect.isnan().all()
