"""Fine-tuning from pretrained encoders, tiny and random: what is read of each kind, and a model made end to end."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import recipe
import soundfile
import torch
import torchaudio
from safetensors.torch import load_file, save_file
from test_pull import Shelf, serving
from test_training import hum
from test_wav2vec import BASE, LARGE, SIZE, library, voices
from torch import Tensor, nn

import sedstream as package
from sedstream.catalogue import check, lines
from sedstream.cli import main
from sedstream.encoders import checkpoints
from sedstream.encoders.wav2vec import STRIDES, Wav2VecEncoder
from sedstream.errors import BadInput, BadModel, Unavailable
from sedstream.grid import RATE
from sedstream.manifest import read
from sedstream.training import backbones
from sedstream.training.backbones import BUNDLES, begin
from sedstream.training.rows import emotions
from sedstream.training.tune import tune

EMOTIONS = ("neutral", "angry")
QUICK = {"head_rate": 0.006, "average": 0.5, "workers": 0, "quiet": True}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five voices, low when they are neutral and high when they are angry; the VAD takes none of it for speech."""
    folder = tmp_path_factory.mktemp("data")
    with (folder / "labels.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["file", "start", "end", "emotion", "speaker"])
        for voice in range(5):
            sounds = {
                "neutral": hum(220 * (1 + 0.03 * voice), 2.0, voice),
                "Anger": hum(1000 * (1 + 0.03 * voice), 2.0, voice),
            }
            for emotion, sound in sounds.items():
                soundfile.write(folder / f"{voice}-{emotion}.wav", sound, RATE)
                table.writerow([f"{voice}-{emotion}.wav", "", "", emotion, voice])
    return folder


def small(name: str) -> nn.Module:
    """A bundle of torchaudio's, small and with random weights, its heads as wide as they are there."""
    width = BUNDLES[name]._params["encoder_embed_dim"] // BUNDLES[name]._params["encoder_num_heads"]
    shape = BUNDLES[name]._params | {
        "extractor_conv_layer_config": [(16, n, s) for n, s in zip((10, 3, 3, 3, 3, 2, 2), STRIDES, strict=True)],
        "encoder_embed_dim": 2 * width, "encoder_num_heads": 2, "encoder_num_layers": 2, "aux_num_out": None,
        "encoder_ff_interm_features": 64, "encoder_pos_conv_kernel": 16, "encoder_pos_conv_groups": 4,
    }  # fmt: skip
    torch.manual_seed(13)
    make = torchaudio.models.wavlm_model if "WAVLM" in name else torchaudio.models.wav2vec2_model
    return make(**shape).eval()  # type: ignore[no-any-return]


def test_tune(data: Path, tmp_path: Path, clip: Path) -> None:
    torch.save(small("WAVLM_LARGE").state_dict(), tmp_path / "tiny.pth")
    init, out = f"WAVLM_LARGE={tmp_path / 'tiny.pth'}", tmp_path / "ours"
    figures = tune(data, out, init=init, hours=0.085, **QUICK)
    assert figures["uar"] > 0.7, figures  # by chance it would be a half
    assert figures["before"] is None
    # A model as any other.
    made = read(out)
    assert (made.family, made.kind, made.licence, made.labels) == ("wav2vec", "windowed", "MIT", EMOTIONS)
    answer = package.diarize(clip, model=out)
    assert answer.segments
    assert {segment.label for segment in answer.segments} <= set(EMOTIONS)
    listed = list(lines(check(out, run=True)))
    assert listed[0].startswith("ours 0.1.0  windowed wav2vec, MIT")
    assert listed[1] == "  labels: neutral, angry; arousal, valence"
    # The encoder is what it was, but for rounding; its layers count as was learned.
    tensors = load_file(out / "weights.safetensors")
    given = checkpoints.convert(checkpoints.read(tmp_path / "tiny.pth"))
    for name, tensor in given.items():
        torch.testing.assert_close(tensors[f"encoder.{name}"].float(), tensor, atol=1e-3, rtol=1e-3)
    assert tensors["encoder.weights"].shape == (3,)
    assert tensors["encoder.weights"].std() > 1e-3
    # What is written says so.
    told = json.loads((out / "metrics.json").read_text())
    assert (told["frozen"], told["before"]) == (True, None)
    card = (out / "CARD.md").read_text()
    assert "a wav2vec encoder that is windowed; it had no head.\n- **Learned**: the head, and how much" in card
    assert f"| angry | – | {100 * figures['recall']['angry']:.1f} |" in card
    assert f"recall {100 * figures['uar']:.1f}, by chance 50.0." in card
    assert not any(line.rstrip() != line or "{" in line for line in card.splitlines())
    # It is a start too, with its own head; now its transformer learns, and its convolutions still do not.
    with pytest.raises(BadInput, match="with other part frozen"):
        tune(data, out, init=init, unfreeze=True, hours=0.085, **QUICK)
    again = tune(data, tmp_path / "again", init=out, unfreeze=True, hours=0.04, workers=0, quiet=True)
    assert again["before"]["uar"] > 0.7
    assert again["uar"] > 0.7
    assert not again["frozen"]
    learned = load_file(tmp_path / "again" / "weights.safetensors")
    changed = {name for name, tensor in learned.items() if not torch.equal(tensor, tensors[name])}
    assert "encoder.transformer.layers.0.attention.attention.in_proj_weight" in changed
    assert not any(name.startswith("encoder.extractor.") for name in changed)


def test_the_command(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    library("Hubert", BASE).save_pretrained(tmp_path / "hub")
    out = tmp_path / "mine"
    train = ["train", str(data), "--hours", "0.02", "--quiet"]
    assert main([*train, "--init", str(tmp_path / "hub"), "--out", str(out), "--unfreeze"]) == 0
    assert capsys.readouterr().out.startswith("valid, mine, per frame: unweighted average recall 0.")
    assert not json.loads((out / "metrics.json").read_text())["frozen"]
    assert main([*train, "--init", "WAVLM", "--out", str(tmp_path / "no")]) == 2
    assert "Bad start 'WAVLM', expected a model or its folder" in capsys.readouterr().err
    assert not (tmp_path / "no").exists()


def hub(folder: Path, family: str, kind: dict[str, object]) -> list[Tensor]:
    """A folder of transformers; what its layers make of `voices`."""
    model = library(family, kind)
    model.save_pretrained(folder)
    model.eval()
    with torch.inference_mode():
        found = model(voices(2, 9_000), output_hidden_states=True)
    return [*found.hidden_states[:3], found.last_hidden_state]


def mean_of_layers(init: str | Path, table: Path) -> Tensor:
    """What an encoder answers whose weights nobody has changed yet, to the same."""
    manifest, learner = begin(init, table)
    assert learner is not None
    assert learner.fresh
    assert manifest.labels == EMOTIONS
    assert learner.head.emotion.out_features == 2
    with torch.inference_mode():
        return learner.eval().encoder(voices(2, 9_000))  # type: ignore[no-any-return]


@pytest.mark.parametrize("family", ["Wav2Vec2", "Hubert", "WavLM"])
def test_starts_of_transformers(family: str, data: Path, tmp_path: Path) -> None:
    table = data / "labels.csv"
    layers = hub(tmp_path, family, LARGE)
    expected = torch.stack(layers).mean(0)
    (tmp_path / "preprocessor_config.json").write_text('{"do_normalize": false}')
    found = mean_of_layers(tmp_path, table)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    tensors = load_file(tmp_path / "model.safetensors")
    (tmp_path / "model.safetensors").unlink()
    torch.save(tensors, tmp_path / "pytorch_model.bin")
    for init in (tmp_path, tmp_path / "pytorch_model.bin"):
        torch.testing.assert_close(mean_of_layers(init, table), found, atol=0, rtol=0)
    assert begin(tmp_path, table).manifest.licence == "unknown"
    (tmp_path / "preprocessor_config.json").unlink()
    assert begin(tmp_path, table).manifest.encoder["wave"] == "normalised"


@pytest.mark.parametrize("name", ["WAVLM_LARGE", "HUBERT_XLARGE", "WAV2VEC2_BASE"])
def test_starts_of_torchaudio(name: str, data: Path, tmp_path: Path) -> None:
    model = small(name)
    torch.save(model.state_dict(), tmp_path / "it.pth")
    manifest, learner = begin(f"{name}={tmp_path / 'it.pth'}", data / "labels.csv")
    assert learner is not None
    assert manifest.encoder["wave"] == ("raw" if "BASE" in name else "normalised")
    samples = voices(2, 9_000)
    heard = torch.nn.functional.layer_norm(samples, samples.shape[1:]) if BUNDLES[name]._normalize_waveform else samples
    with torch.inference_mode():
        learner.encoder.weights.copy_(torch.tensor([-100.0, -100.0, 0.0]))
        torch.testing.assert_close(learner.eval().encoder(samples), model(heard)[0], atol=1e-4, rtol=1e-4)


def test_starts_of_speechbrain(data: Path, tmp_path: Path) -> None:
    """A model whose head is for frames, but tells no arousal: its encoder is a start."""
    checkpoint = recipe.save(tmp_path, "WavLM", {**SIZE, **BASE}, normalise=False)
    manifest, learner = begin(checkpoint, data / "labels.csv")
    assert learner is not None
    assert learner.fresh
    assert (manifest.family, manifest.labels, manifest.encoder["wave"]) == ("wav2vec", EMOTIONS, "centred")
    assert "together" not in manifest.encoder
    assert set(manifest.plans) == {"live", "batch", "whole"}


def test_a_bundle_comes(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By its name, once; a server that has it not, or none at all, says what else would do."""
    table = data / "labels.csv"
    torch.save(small("HUBERT_BASE").state_dict(), tmp_path / "it.pth")
    old = torch.hub.get_dir()
    torch.hub.set_dir(tmp_path / "hub")
    try:
        with serving(Shelf()) as shelf:
            shelf.files[BUNDLES["HUBERT_BASE"]._path] = (tmp_path / "it.pth").read_bytes()
            monkeypatch.setattr(backbones, "SHELF", f"{shelf.url.rstrip('/')}/")
            manifest, _ = begin("HUBERT_BASE", table, quiet=True)
            with pytest.raises(Unavailable, match="Bad answer 404 .*or give the file: HUBERT_LARGE=FILE"):
                begin("HUBERT_LARGE", table, quiet=True)
        monkeypatch.setattr(backbones, "SHELF", "http://127.0.0.1:9/")
        assert begin("HUBERT_BASE", table, quiet=True).manifest.sha256 == manifest.sha256
        assert len(shelf.asked) == 2
        with pytest.raises(Unavailable, match="Bad connection .*or give the file: WAVLM_LARGE=FILE"):
            begin("WAVLM_LARGE", table, quiet=True)
    finally:
        torch.hub.set_dir(old)


def test_emotions(tmp_path: Path) -> None:
    table = tmp_path / "labels.csv"
    table.write_text("file,start,end,emotion\na,,,Calm\nb,,,fear\nc,,,\nd,,,bored\ne,,,sil\nf,,,N\ng,,,calm\n")
    assert emotions(table) == ("neutral", "fearful", "bored", "calm")


def test_bad_starts(data: Path, tmp_path: Path) -> None:
    table = data / "labels.csv"
    with pytest.raises(BadModel, match="Bad start 'nobody', expected a model or its folder, .*WAVLM_LARGE"):
        begin("nobody", table)
    with pytest.raises(BadModel, match="expected a model or its folder"):
        begin(tmp_path / "gone.safetensors", table)
    with pytest.raises(BadModel, match=r"Bad checkpoint '.*gone\.pth'"):
        begin(f"WAVLM_BASE={tmp_path / 'gone.pth'}", table)
    with pytest.raises(BadModel, match="expected them pulled: sedstream models pull wavlm-large-sed"):
        begin("wavlm-large-sed", table)
    tensors = {k: v.contiguous() for k, v in library("WavLM", BASE).state_dict().items()}
    tensors["encoder.layers.1.final_layer_norm.bias"] = torch.zeros(7)
    save_file(tensors, tmp_path / "wrong.safetensors")
    with pytest.raises(BadModel, match=r"wrong\.safetensors', expected transformer.layers.1.final_layer_norm.bias of"):
        begin(tmp_path / "wrong.safetensors", table)
    (tmp_path / "one.csv").write_text("file,start,end,emotion\na.wav,,,fear\nb.wav,,,sil\n")
    library("WavLM", BASE).save_pretrained(tmp_path / "hub")
    with pytest.raises(BadInput, match="with fearful alone, expected two or more"):
        begin(tmp_path / "hub", tmp_path / "one.csv")
    assert np.isfinite(mean_of_layers(tmp_path / "hub", table).numpy()).all()


@pytest.mark.parametrize("loudness", [1.0, 1e-2, 1e-3])
def test_a_folder_of_transformers_at_any_level(loudness: float, tmp_path: Path) -> None:
    """Where the wave is normalised, what is added to its variance counts for soft ones, and transformers adds less."""
    import transformers

    reference = library("Wav2Vec2", LARGE)
    reference.save_pretrained(tmp_path)
    extractor = transformers.Wav2Vec2FeatureExtractor(do_normalize=True)
    extractor.save_pretrained(tmp_path)
    found = backbones._backbone(tmp_path, quiet=True)
    assert found is not None
    manifest, tensors = found
    encoder = Wav2VecEncoder(**{**manifest.encoder, "outputs": [2]}).eval()
    encoder.load_state_dict(tensors)
    samples = loudness * voices(1, 40 * 320 + 100)
    with torch.inference_mode():
        given = extractor(samples[0].numpy(), sampling_rate=RATE, return_tensors="pt").input_values
        expected = reference(given, output_hidden_states=True).hidden_states[2]
        assert (encoder(samples) - expected).abs().max() < 1e-4 * expected.abs().max()
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"hidden_act": "relu"}))
    with pytest.raises(BadModel, match="Bad setting hidden_act = 'relu'.*expected 'gelu'"):
        backbones._backbone(tmp_path, quiet=True)
