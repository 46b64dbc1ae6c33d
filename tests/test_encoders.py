"""Whisper's encoder against transformers', its promises about level and silence, and the head."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from transformers import WhisperConfig, WhisperFeatureExtractor
from transformers.models.whisper.modeling_whisper import WhisperEncoder as Reference

from sedstream.encoders.heads import FrameHead
from sedstream.encoders.whisper import WhisperEncoder
from sedstream.errors import BadInput, BadModel
from sedstream.training.start import fill, read_tensors

SIZE = {"mels": 80, "width": 64, "heads": 4, "layers": 3}


def voice(frames: int, seed: int = 0) -> torch.Tensor:
    """Something like a voice: harmonics with a moving pitch, and a little noise. Float32 `[1, frames * 320]`."""
    rng = np.random.default_rng(seed)
    time = np.arange(frames * 320) / 16000
    phase = 2 * np.pi * np.cumsum(140 + 40 * np.sin(5 * time)) / 16000
    sound = sum(np.sin(k * phase) / k for k in range(1, 20)) * 0.1 + rng.normal(size=len(time)) * 0.003
    return torch.from_numpy((sound * (0.6 + 0.4 * np.sin(9 * time))).astype(np.float32))[None]


@pytest.fixture
def encoder() -> WhisperEncoder:
    torch.manual_seed(0)
    return WhisperEncoder(**SIZE, outputs=[2, 3], positions=100).eval()


@torch.inference_mode()
def test_equals_transformers(tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = WhisperConfig(
        num_mel_bins=80, d_model=64, encoder_layers=3, encoder_attention_heads=4, encoder_ffn_dim=256,
        max_source_positions=50,
    )  # fmt: skip
    reference = Reference(config).eval()
    save_file(reference.state_dict(), tmp_path / "whisper.safetensors")
    samples = voice(50)
    extractor = WhisperFeatureExtractor(chunk_length=1)
    mel = extractor(samples[0].numpy(), sampling_rate=16000, return_tensors="pt").input_features
    level = float(mel.max()) * 4 - 4  # where this recording's loudest spot stands in Whisper's own normalisation
    encoder = WhisperEncoder(**SIZE, outputs=[1, 2, 3], positions=50, level=level)
    path = tmp_path / "whisper.safetensors"
    fill(encoder, read_tensors(path), path)
    encoder.eval()
    torch.testing.assert_close(encoder.log_mel(samples), mel, atol=1e-4, rtol=0)
    hidden = reference(mel, output_hidden_states=True).hidden_states
    found = encoder(samples)
    assert found.shape == (1, 50, encoder.features) == (1, 50, 192)
    torch.testing.assert_close(found[..., :64], hidden[1], atol=1e-4, rtol=0)
    torch.testing.assert_close(found[..., 64:128], hidden[2], atol=1e-4, rtol=0)
    # transformers reports its last state behind the final norm
    last = reference.layer_norm(found[..., 128:])
    torch.testing.assert_close(last, hidden[3], atol=1e-4, rtol=0)


@torch.inference_mode()
@pytest.mark.parametrize("decibels", [-20.0, 20.0])
def test_level_changes_nothing(encoder: WhisperEncoder, decibels: float) -> None:
    samples = voice(60)
    torch.testing.assert_close(encoder(samples * 10 ** (decibels / 20)), encoder(samples), atol=1e-3, rtol=0)


@torch.inference_mode()
def test_silence_is_finite(encoder: WhisperEncoder) -> None:
    assert encoder(torch.zeros(2, 60 * 320)).isfinite().all()
    faint = torch.full((1, 60 * 320), 1e-30)
    assert encoder(faint).isfinite().all()
    # The loudest of nothing does not become loud.
    assert encoder.log_mel(torch.zeros(1, 3200)).max() < 0 < encoder.log_mel(voice(10)).max()


@torch.inference_mode()
def test_rows_are_independent(encoder: WhisperEncoder) -> None:
    quiet = torch.cat([voice(60), voice(60, 1) * 1e-3])
    torch.testing.assert_close(encoder(quiet)[:1], encoder(voice(60)), atol=1e-5, rtol=0)
    torch.testing.assert_close(encoder(quiet)[1:], encoder(voice(60, 1) * 1e-3), atol=1e-5, rtol=0)


@torch.inference_mode()
def test_several_lengths_at_once(encoder: WhisperEncoder) -> None:
    lengths, longest = torch.tensor([31, 50, 8]), 50
    sounds = [voice(int(frames), seed) for seed, frames in enumerate(lengths)]
    mirrored = [F.pad(sound, (200, 200), mode="reflect")[0] for sound in sounds]
    samples = torch.full((3, longest * 320 + 400), 0.5)  # what stands behind an end is not heard
    for row, sound in zip(samples, mirrored, strict=True):
        row[: len(sound)] = sound
    found = encoder.several(samples, lengths)
    assert found.shape == (3, longest, encoder.features)
    for answer, sound, frames in zip(found, sounds, lengths.tolist(), strict=True):
        torch.testing.assert_close(answer[:frames], encoder(sound)[0], atol=2e-4, rtol=1e-4)


@pytest.mark.parametrize("samples", [0, 319, 321, 101 * 320])
def test_bad_window(encoder: WhisperEncoder, samples: int) -> None:
    with pytest.raises(BadInput, match=f"Bad window of {samples} samples, expected"):
        encoder(torch.zeros(1, samples))


@pytest.mark.parametrize("change", [{"heads": 5}, {"heads": 0}, {"outputs": []}, {"outputs": [4]}, {"outputs": [0]}])
def test_bad_encoder(change: dict[str, object]) -> None:
    with pytest.raises(BadModel, match="expected"):
        WhisperEncoder(**{**SIZE, "outputs": [3], **change})  # type: ignore[arg-type]


def test_bad_checkpoint(tmp_path: Path, encoder: WhisperEncoder) -> None:
    path = tmp_path / "weights.safetensors"
    with pytest.raises(BadModel, match="expected a safetensors file"):
        read_tensors(path)
    path.write_bytes(b"not safetensors")
    with pytest.raises(BadModel, match="expected a safetensors file"):
        read_tensors(path)
    tensors = encoder.state_dict()
    tensors.pop("conv1.bias")
    with pytest.raises(BadModel, match="expected conv1"):
        fill(encoder, tensors, path)
    with pytest.raises(BadModel, match=r"expected conv1.bias of shape \(64,\), found \(3,\)"):
        fill(encoder, {**tensors, "conv1.bias": torch.zeros(3)}, path)


@torch.inference_mode()
def test_head() -> None:
    torch.manual_seed(0)
    head = FrameHead(labels=7, features=128, outputs=2, width=32, hidden=24, dropout=0.5).eval()
    features = torch.randn(2, 40, 128)
    logits, affect = head(features)
    assert logits.shape == (2, 40, 7)
    assert affect.shape == (2, 40, 2)
    assert affect.min() >= 0
    assert affect.max() <= 1
    # Each layer is normalised by itself: its scale does not matter, its direction does.
    scaled = torch.cat([features[..., :64] * 50, features[..., 64:]], -1)
    torch.testing.assert_close(head(scaled)[0], logits, atol=1e-3, rtol=0)
    changed = features.clone()
    changed[:, 20] = -changed[:, 20]
    found = (head(changed)[0] - logits).abs().amax((0, 2)) > 1e-4
    assert found[19]
    assert found[21]


@pytest.mark.parametrize("outputs", [0, 3])
def test_bad_head(outputs: int) -> None:
    with pytest.raises(BadModel, match="expected a divisor of features 128"):
        FrameHead(labels=7, features=128, outputs=outputs, width=32, hidden=24)
