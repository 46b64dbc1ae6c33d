"""How strongly an emotion is spoken: the regression against its formula, and on made-up readings."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from safetensors.torch import load_file, save_file
from test_discriminants import learner, said
from test_training import ENCODER, HEAD, SIZE, hum

from sedstream.encoders.whisper import WhisperEncoder
from sedstream.grid import HOP, RATE
from sedstream.training import corpora, discriminants
from sedstream.training.corpora import Utterance
from sedstream.training.intensity import RIDGE, fit, groups, mean_features, regression
from sedstream.training.recipe import train
from sedstream.zoo import load


def reading(voice: int, emotion: int, strong: bool, seed: int, arousal: float | None = None) -> Utterance:
    """A hum of a voice's own pitch; strong ones are rough."""
    plain = said("EmoDB", emotion, 90 * (1 + 0.1 * voice) * 1.5**emotion, seed)
    noise = np.random.default_rng(seed).normal(0, 2_500 if strong else 100, len(plain.samples))
    level = 0.4 + 0.1 * emotion + (0.1 if strong else 0) if arousal is None else arousal
    samples = (plain.samples + noise).clip(-32768, 32767).astype(np.int16)
    known = {"corpus": "RAVDESS", "speaker": str(voice), "split": "train", "emotion": emotion}
    return Utterance(
        samples, np.ones(-(-len(samples) // HOP), np.bool_), **known, arousal=level, valence=0.5, weight=1.0
    )  # type: ignore[arg-type]


def readings(voices: range) -> list[Utterance]:
    return [
        reading(voice, emotion, strong, 100 * voice + 10 * emotion + 2 * take + strong)
        for voice in voices
        for emotion in range(1, 4)
        for strong in (False, True)
        for take in range(2)
    ]


def test_the_formula() -> None:
    random = np.random.default_rng(0)
    x = random.normal(size=(50, 6)) @ random.normal(size=(6, 6))
    spread, along, between = x.T @ x / 50, random.normal(size=6), np.diag(random.random(6))
    found = regression(*map(torch.from_numpy, (spread, along, between))).numpy()
    expected = np.linalg.inv(spread + between + RIDGE * np.trace(spread) / 6 * np.eye(6)) @ along
    np.testing.assert_allclose(found / np.linalg.norm(found), expected / np.linalg.norm(expected), atol=1e-9)
    assert abs(found @ spread @ found - 1) < 1e-9


def test_groups_in_which_arousal_varies() -> None:
    constant = [reading(1, 2, False, n, arousal=0.5) for n in range(3)]
    calm = [reading(1, 0, False, 0, arousal=0.2), reading(1, 0, True, 1, arousal=0.4)]
    unknown = [reading(1, 3, False, 0, arousal=float("nan"))]
    found = groups([*readings(range(2)), *constant, *calm, *unknown])
    assert list(found) == ["RAVDESS"]
    assert sorted(len(group) for group in found["RAVDESS"]) == [4] * 5 + [7]  # the constant ones are of a varying group
    assert groups([*constant, *calm, *unknown]) == {}


def test_strong_readings_of_another_voice_are_told() -> None:
    own = learner()
    fit(own, groups(readings(range(4))), torch.zeros(2 * [own.encoder.features], dtype=torch.float64))
    intensity = own.head.experts.intensity

    def scores(strong: bool) -> list[float]:
        some = [u for u in readings(range(6, 8)) if (u.arousal > 0.45 + 0.1 * u.emotion) == strong]
        return [float(intensity(mean_features(own, u))) for u in some]

    assert min(scores(True)) > max(scores(False))
    heard = [float(intensity(mean_features(own, u))) for u in readings(range(4))]
    assert abs(np.mean(heard)) < 1e-4


def test_pauses_say_nothing() -> None:
    own = learner()
    u = reading(1, 2, True, 0)
    frames = np.arange(len(u.speech))
    first, last = (mean_features(own, replace(u, speech=half)) for half in (frames < 10, frames >= 10))
    whole = mean_features(own, u)
    torch.testing.assert_close((10 * first + (len(frames) - 10) * last) / len(frames), whole)
    assert not torch.allclose(first, last, atol=1e-2)
    torch.testing.assert_close(mean_features(own, replace(u, speech=frames < 0)), whole)  # the VAD heard nothing


def test_steps_of_a_corpus_may_have_any_size() -> None:
    """A corpus that tells small differences of arousal counts as much as one that tells large ones."""
    found = []
    for size in (1.0, 0.1):
        own = learner()
        other = [replace(u, corpus="BAVED", arousal=size * u.arousal) for u in readings(range(2, 4))]
        fit(own, groups([*readings(range(2)), *other]), torch.zeros(2 * [own.encoder.features], dtype=torch.float64))
        found.append(own.head.experts.intensity.weight)
    torch.testing.assert_close(found[0], found[1])


def test_arousal_moves_and_nothing_else() -> None:
    own = learner()
    x = torch.from_numpy(readings(range(1))[1].samples[None, : 24 * HOP] / np.float32(32768))
    with torch.inference_mode():
        before = own(x, 8, 7)
        own.head.experts.intensity.bias.fill_(0.3)
        after = own(x, 8, 7)
    assert torch.equal(before[0], after[0])
    assert torch.equal(before[1][..., 1], after[1][..., 1])
    moved = (after[1][..., 0].logit() - before[1][..., 0].logit())[0]
    torch.testing.assert_close(moved[:-7], torch.full_like(moved[:-7], 0.3))
    torch.testing.assert_close(moved[-7:], 0.3 * torch.arange(7, 0, -1) / 8)  # behind the end there is nothing


def test_a_training_ends_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = tmp_path / "data"
    data.mkdir()
    with (data / "index.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(corpora.COLUMNS)
        for corpus, voice, split in (("RAVDESS", 1, "train"), ("RAVDESS", 2, "valid"), ("EmoDB", 3, "train")):
            for emotion, label in enumerate(("neutral", "happy", "sad", "angry")):
                for intensity in ("normal", "strong") if corpus == "RAVDESS" and emotion else ("",):
                    rough = np.random.default_rng(emotion).normal(0, 0.05 * (intensity == "strong"), RATE)
                    name = f"{voice}-{label}-{intensity}.wav"
                    soundfile.write(data / name, 0.5 * hum(90 * 1.5**emotion * (1 + 0.1 * voice), 1.0, 0) + rough, RATE)
                    rows.writerow([name, corpus, str(voice), label, label, intensity, split])
    torch.manual_seed(0)
    whisper = WhisperEncoder(**SIZE, positions=700)
    whisper.embed_positions.weight.data *= 0.01
    save_file(whisper.state_dict(), tmp_path / "whisper.safetensors")
    monkeypatch.setattr(discriminants, "WINDOWS", 8)
    train(
        data, tmp_path / "model", hours=0.02, init=tmp_path / "whisper.safetensors", encoder=ENCODER,
        head={**HEAD, "experts": 2}, workers=0, quiet=True, name="tiny",
    )  # fmt: skip
    tensors = load_file(tmp_path / "model" / "weights.safetensors")
    assert float(tensors["head.experts.share"]) == pytest.approx(discriminants.SHARE, abs=1e-3)
    assert tensors["head.experts.intensity.weight"].any()
    heard = load(tmp_path / "model").network
    told = {}
    for intensity in ("normal", "strong"):  # of the voice of the valid split
        samples, _ = soundfile.read(data / f"2-happy-{intensity}.wav", dtype="float32")
        with torch.inference_mode():
            features = heard.head.normalised(heard.encoder(torch.from_numpy(samples[None, : 48 * HOP]), 16))
            told[intensity] = float(heard.head.experts.intensity(features).mean())
    assert told["strong"] > told["normal"]
