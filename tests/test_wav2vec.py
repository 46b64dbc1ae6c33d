"""wav2vec 2.0, HuBERT and WavLM against transformers and SpeechBrain, from tiny random checkpoints that those saved."""

from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from torch import Tensor, nn

from sedstream.encoders import checkpoints
from sedstream.encoders.heads import FrameHead, LinearHead
from sedstream.encoders.networks import OverlappingNetwork
from sedstream.encoders.positions import matrix, position
from sedstream.encoders.relay import Before
from sedstream.encoders.strided import convolve
from sedstream.encoders.wav2vec import STRIDES, Wav2VecEncoder
from sedstream.errors import BadInput, BadModel
from sedstream.events import Update
from sedstream.grid import HOP, Plan
from sedstream.loop import tick
from sedstream.manifest import Manifest
from sedstream.stream import Stream
from sedstream.training.publish import publish
from sedstream.zoo import Model, load

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


def small(**changes: object) -> Wav2VecEncoder:
    """A WavLM that normalises each frame of its convolutions by itself."""
    torch.manual_seed(5)
    arguments = {
        "width": 64, "heads": 4, "layers": 2, "hidden": 96, "outputs": [2], "relative": True, "norm": "layer",
        "first": True, "positions": 16, "groups": 4, "convolutions": [[16, n] for n in (10, 3, 3, 3, 3, 2, 2)],
    }  # fmt: skip
    encoder = Wav2VecEncoder(**{**arguments, **changes}).eval()  # type: ignore[arg-type]
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    return encoder


@torch.inference_mode()
@pytest.mark.parametrize("norm", ["layer", "group"])
@pytest.mark.parametrize("bias", [False, True])
def test_convolutions_as_products(norm: str, bias: bool) -> None:
    """What a GPU runs, here on the CPU: torchaudio's numbers, from the shortest window on."""
    encoder = small(norm=norm, bias=bias)
    for samples in (400, 719, 720, 721, 4_000, 4_321):
        heard = voices(3, samples)
        found, expected = convolve(encoder.extractor.conv_layers, heard), encoder.extract_plainly(heard)
        assert found.shape == expected.shape
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


@torch.inference_mode()
@pytest.mark.parametrize("size", [16, 128, 7])
def test_positions_as_products(size: int) -> None:
    """What a GPU runs, here on the CPU: torchaudio's numbers, for any number of frames."""
    embedding = small(positions=size).transformer.pos_conv_embed
    for frames in (1, 31, 32, 33, 100, 249):
        x = torch.randn(3, frames, 64)
        torch.testing.assert_close(position(embedding, x, matrix(embedding)), embedding(x), atol=1e-5, rtol=1e-5)


@torch.inference_mode()
def test_a_weighted_sum(tmp_path: Path) -> None:
    """The sum of layers is SpeechBrain's, with its weights."""
    from speechbrain.integrations.huggingface.weighted_ssl import WeightedSSLModel

    library("WavLM", BASE).save_pretrained(tmp_path)
    reference = WeightedSSLModel(str(tmp_path), str(tmp_path)).eval()
    with torch.no_grad():
        reference.weights.copy_(torch.tensor([0.5, -1.0, 2.0, 0.1]))
    tensors = checkpoints.convert(reference.state_dict())
    arguments = checkpoints.describe(tensors)
    encoder = Wav2VecEncoder(**arguments, outputs=[0, 1, 2, 3], weighted=True).eval()
    encoder.load_state_dict({**tensors, "weights": reference.weights})
    assert encoder.features == 128
    samples = voices(2, 9_000)
    torch.testing.assert_close(encoder(samples), reference(samples), atol=1e-4, rtol=1e-4)


@torch.inference_mode()
@pytest.mark.parametrize("outputs", [[2], [0, 1, 2], [0], [1]])
@pytest.mark.parametrize(
    "kind", [{}, {"first": False, "norm": "group"}, {"weighted": True}, {"together": True}, {"relative": False}]
)
def test_frames_that_nobody_asked_for(kind: dict[str, object], outputs: list[int]) -> None:
    """The others are the same without them."""
    encoder = small(outputs=outputs, **kind)
    features = encoder.extract(voices(3, 9_000))
    whole = encoder.encode(features)
    for frames in (slice(5, 9), slice(0, 1), slice(20, 27), slice(None)):
        torch.testing.assert_close(encoder.encode(features, frames), whole[:, frames], atol=1e-5, rtol=1e-5)


@torch.inference_mode()
def test_fewer_layers_are_the_same() -> None:
    """Layers above the wanted ones are not computed."""
    all_of_them, first = small(outputs=[0, 1]), small(outputs=[1])
    torch.testing.assert_close(first(voices(1, 8_000)), all_of_them(voices(1, 8_000))[..., 64:], atol=0, rtol=0)


@pytest.mark.parametrize("name", ["WAVLM_BASE_PLUS", "HUBERT_BASE", "WAV2VEC2_LARGE_LV60K"])
@torch.inference_mode()
def test_equals_torchaudio(name: str) -> None:
    """The names of torchaudio's bundles too; small ones, for theirs are on the network."""
    import torchaudio
    from torchaudio.models import wav2vec2_model, wavlm_model

    bundle = getattr(torchaudio.pipelines, name)
    settings = bundle._params | {
        "extractor_conv_layer_config": [(16, n, s) for n, s in zip((10, 3, 3, 3, 3, 2, 2), STRIDES, strict=True)],
        "encoder_embed_dim": 128, "encoder_num_heads": 2, "encoder_num_layers": 2, "encoder_ff_interm_features": 96,
        "aux_num_out": None,
    }  # fmt: skip
    torch.manual_seed(4)
    reference = (wavlm_model if "WAVLM" in name else wav2vec2_model)(**settings).eval()
    tensors = checkpoints.convert(reference.state_dict())
    encoder = Wav2VecEncoder(**checkpoints.describe(tensors), outputs=[2]).eval()
    encoder.load_state_dict(tensors)
    samples = voices(2, 9_000)
    torch.testing.assert_close(encoder(samples), reference(samples)[0], atol=1e-4, rtol=1e-4)


@torch.inference_mode()
def test_large_shape() -> None:
    """WavLM-large as it is, with random weights, against transformers."""
    torch.manual_seed(6)
    config = transformers.WavLMConfig(
        hidden_size=1024, num_hidden_layers=24, num_attention_heads=16, intermediate_size=4096,
        feat_extract_norm="layer", do_stable_layer_norm=True, num_buckets=320, max_bucket_distance=800,
    )  # fmt: skip
    reference = transformers.WavLMModel(config).eval()
    tensors = checkpoints.convert(reference.state_dict())
    arguments = checkpoints.describe(tensors)
    assert (arguments["width"], arguments["heads"], arguments["layers"]) == (1024, 16, 24)
    samples = voices(1, 2 * 16_000)
    expected = reference(samples).last_hidden_state
    del reference
    encoder = Wav2VecEncoder(**arguments, outputs=[24]).eval()
    encoder.load_state_dict(tensors)
    torch.manual_seed(7)
    head = LinearHead(labels=4, features=1024)
    ours, theirs = (head(x)[0].log_softmax(-1) for x in (encoder(samples), expected))
    assert theirs.std() > 0.1
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"heads": 5}, "expected a divisor of width 64"),
        ({"outputs": []}, "expected layers from 0 to 2"),
        ({"outputs": [3]}, "expected layers from 0 to 2"),
        ({"norm": "batch"}, "expected group or layer"),
        ({"wave": "loud"}, "expected raw, centred, normalised"),
        ({"cached": True, "norm": "group"}, "what is normalised over the window differs from window to window"),
        ({"cached": True, "wave": "normalised"}, "what is normalised over the window differs from window to window"),
        ({"convolutions": [[16, 10]]}, "expected widths 10, 3, 3, 3, 3, 2, 2"),
    ],
)
def test_bad_encoder(change: dict[str, object], says: str) -> None:
    with pytest.raises(BadModel, match=says):
        small(**change)


def test_bad_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "it.ckpt"
    for content in (b"", b"no checkpoint", b"\x80\x04\x95pickle"):
        path.write_bytes(content)
        with pytest.raises(BadModel, match="expected tensors alone"):
            checkpoints.read(path)
    torch.save({"step": 3}, path)
    with pytest.raises(BadModel, match="expected tensors by name"):
        checkpoints.read(path)
    with pytest.raises(BadModel, match="expected one named"):
        checkpoints.convert({"head.weight": torch.zeros(2)})
    tensors = {f"encoder.{name}": tensor for name, tensor in library("WavLM", BASE).state_dict().items()}
    del tensors["encoder.encoder.pos_conv_embed.conv.bias"]
    found = checkpoints.convert(tensors)
    with pytest.raises(RuntimeError, match="pos_conv_embed"):
        Wav2VecEncoder(**checkpoints.describe(found), outputs=[3]).load_state_dict(found)


def test_a_checkpoint_runs_nothing(tmp_path: Path) -> None:
    """What would write a file when it is unpickled is not unpickled."""

    class Trap:
        def __reduce__(self) -> tuple[object, ...]:
            return (Path.write_text, (tmp_path / "sprung", "caught"))

    torch.save({"weight": Trap()}, tmp_path / "it.ckpt")
    with pytest.raises(BadModel, match="expected tensors alone"):
        checkpoints.read(tmp_path / "it.ckpt")
    assert not (tmp_path / "sprung").exists()


PLAN = Plan(24, 16, 8)


def networks() -> tuple[OverlappingNetwork, OverlappingNetwork]:
    """The same one without and with a memory."""
    torch.manual_seed(8)
    head = LinearHead(labels=3, features=64)
    return OverlappingNetwork(small(), head).eval(), OverlappingNetwork(small(cached=True), head).eval()


@torch.inference_mode()
def test_what_the_convolutions_made_is_remembered() -> None:
    """Cached and uncached windows agree; a session that begins, or begins again, too."""
    plain, cached = networks()
    samples = voices(2, (PLAN.left + 12 * PLAN.step + PLAN.right) * HOP)
    before = [Before(), Before()]
    for block in range(12):
        window = samples[:, block * PLAN.step * HOP :][:, : PLAN.window * HOP]
        if block == 5:  # the second session was silent for a block
            before[1] = before[1]._replace(follows=False)
        logits, _, memories = cached(window, PLAN, before)
        expected, _, nothing = plain(window, PLAN, before)
        assert nothing == [None, None]
        assert memories[0].shape == (PLAN.window - 1 - PLAN.step, 16)
        torch.testing.assert_close(logits, expected, atol=1e-5, rtol=1e-5)
        assert expected.std() > 0.1
        before = [Before(memory, True) for memory in memories]


@torch.inference_mode()
def test_only_what_is_new_is_computed() -> None:
    """What is remembered is not looked at again: samples that it stands for may change."""
    _, cached = networks()
    samples = voices(1, (PLAN.window + PLAN.step) * HOP)
    _, _, memory = cached(samples[:, : PLAN.window * HOP], PLAN, [Before()])
    window = samples[:, PLAN.step * HOP :]
    expected, _, _ = cached(window, PLAN, [Before(memory[0], True)])
    spoilt = torch.cat([torch.zeros_like(window[:, : -(PLAN.step + 1) * HOP]), window[:, -(PLAN.step + 1) * HOP :]], 1)
    torch.testing.assert_close(cached(spoilt, PLAN, [Before(memory[0], True)])[0], expected, atol=0, rtol=0)


@pytest.mark.parametrize("cached", [False, True])
def test_packets_change_nothing(cached: bool, tmp_path: Path, speech: np.ndarray, manifest: Manifest) -> None:
    """A model of this family behind sessions: alone, together, in any packets, to the bit."""
    encoder = {
        "width": 64, "heads": 4, "layers": 2, "hidden": 96, "outputs": [1, 2], "norm": "layer", "positions": 16,
        "groups": 4, "wave": "raw" if cached else "normalised",
    }  # fmt: skip
    head = {"features": 128, "outputs": 2, "width": 24, "hidden": 16}
    table = {
        "name": "tiny", "version": "1", "family": "wav2vec", "kind": "windowed", "licence": "CC0-1.0",
        "labels": ["neutral", "angry"], "temperature": 1.0, "encoder": encoder, "head": head,
        "plans": {"live": {"left": 24, "step": 16, "right": 8}},
        "vad": {"threshold": 0.4, "release": 0.25, "min_speech": 8, "min_silence": 25},
        "decoder": {"switch": 256, "pause": 64, "min_duration": 10, "lag": 50},
    }  # fmt: skip
    torch.manual_seed(9)
    made = Wav2VecEncoder(**encoder, cached=cached)  # type: ignore[arg-type]
    path = publish(tmp_path / "tiny", table, made, FrameHead(labels=2, **head))
    path.write_text(path.read_text().replace("[encoder]", f"[encoder]\ncached = {str(cached).lower()}"))
    model = load(tmp_path / "tiny")
    answers = run(model, speech[:80_000], [160]), run(model, speech[:80_000], [12_345, 4_000])
    assert len(answers[0][0]) > 2
    assert answers[0][0] == answers[1][0] == answers[1][1]


def run(model: Model, samples: np.ndarray, packets: list[int]) -> list[list[object]]:
    """The events of sessions that get the same samples in packets of their own."""
    streams = [Stream(model.manifest) for _ in packets]
    for second in range(0, len(samples), 16_000):
        for stream, packet in zip(streams, packets, strict=True):
            for start in range(second, second + 16_000, packet):
                stream.write(samples[start : min(second + 16_000, start + packet)])
        tick(model, streams)
    for stream in streams:
        stream.close()
    while tick(model, streams):
        pass
    return [[event for event in stream.events() if not isinstance(event, Update)] for stream in streams]


@torch.inference_mode()
def test_too_short_a_window() -> None:
    with pytest.raises(BadInput, match="Bad window of 399 samples, expected 400 or more"):
        small()(torch.zeros(1, 399))
    assert small()(torch.zeros(1, 400)).isfinite().all()
