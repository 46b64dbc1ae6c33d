"""The training, end to end on a made-up corpus, and each of its parts."""

import csv
import math
import re
import shutil
import tomllib
from collections import defaultdict
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from safetensors.torch import load_file, save_file
from speechbrain.utils.epoch_loop import EpochCounter
from test_cli import fails, sedstream

from sedstream.decoding.settings import VoiceSettings
from sedstream.encoders.cached import BEFORE, BEHIND, CachedEncoder
from sedstream.encoders.heads import CachedHead
from sedstream.encoders.relay import Before
from sedstream.encoders.whisper import WhisperEncoder
from sedstream.errors import BadInput, BadModel
from sedstream.grid import HOP, RATE, Plan
from sedstream.manifest import read
from sedstream.scoring.labels import EMOTIONS
from sedstream.training import augment, corpora, recipe
from sedstream.training.batches import FRAMES, ROWS, Batch, Batches, Source, cut, speakers
from sedstream.training.brain import Learner, answer
from sedstream.training.concatenations import PATTERNS, UNHEARD, Piece, Speakers, follow, pieces, window
from sedstream.training.corpora import UNKNOWN, Utterance, load, read_audio, read_index, read_speech, targets
from sedstream.training.interrupted import WholeCheckpointer
from sedstream.training.objective import calibrate, concordance, emotion_loss, recalls
from sedstream.training.publish import toml
from sedstream.training.recipe import judge, train
from sedstream.zoo import load as load_model

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
SIZE = {"mels": 80, "width": 32, "heads": 2, "layers": 2, "outputs": [1, 2], "decades": 8.0, "level": 1.0}
ENCODER = {**SIZE, "left": 40, "reach": 20}
HEAD = {"features": 64, "outputs": 2, "width": 16, "hidden": 16, "dropout": 0.1}


def hum(pitch: float, seconds: float, seed: int) -> np.ndarray:
    """Harmonics of a pitch in Hz, float32."""
    time = np.arange(int(seconds * RATE)) / RATE
    sound = sum(np.sin(2 * np.pi * k * pitch * time) / k for k in range(1, 12)) * 0.1
    return (sound + np.random.default_rng(seed).normal(size=len(time)) * 0.001).astype(np.float32)


def utterance(emotion: int, frames: int, value: int = 1000, **change: object) -> Utterance:
    """A constant as an utterance."""
    known = {"corpus": "RAVDESS", "speaker": "RAVDESS/1", "split": "train"}
    known |= {"arousal": 0.5, "valence": 0.5, "weight": 1.0}
    samples = np.full(frames * HOP, value, np.int16)
    return Utterance(samples, np.ones(frames, np.bool_), emotion=emotion, **{**known, **change})


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three speakers, low for neutral and high for angry."""
    folder = tmp_path_factory.mktemp("data")
    with (folder / "index.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(corpora.COLUMNS)
        for speaker, split in (("1", "train"), ("2", "train"), ("3", "valid")):
            for emotion, pitch in (("neutral", 110.0), ("angry", 330.0)):
                for n in range(3):
                    name = f"{speaker}-{emotion}-{n}.wav"
                    soundfile.write(folder / name, hum(pitch * (1 + 0.05 * n), 1.5 + 0.2 * n, n), RATE)
                    rows.writerow([name, "RAVDESS", speaker, emotion, emotion, "normal", split])
    return folder


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("checkpoint") / "whisper.safetensors"
    encoder = WhisperEncoder(**SIZE, positions=700)
    encoder.embed_positions.weight.data *= 0.01  # a random table would drown the sound
    save_file(encoder.state_dict(), path)
    return path


def test_train(data: Path, checkpoint: Path, tmp_path: Path) -> None:
    settings = {"init": checkpoint, "encoder": ENCODER, "head": HEAD, "workers": 0, "quiet": True, "name": "tiny"}
    settings |= {"every": 0.1, "head_rate": 0.02, "encoder_rate": 0.005, "average": 0.8}
    first = train(data, tmp_path / "model", hours=0.1, **settings)
    assert set(first["recall"]) == set(EMOTIONS)
    log = tmp_path / "model" / "training" / "log.txt"
    assert log.read_text().count("epoch: 1 ") == 1
    # More, from the checkpoint on.
    report = train(data, tmp_path / "model", hours=1.6, **settings)
    assert [line.split()[1] for line in log.read_text().splitlines()] == [str(n + 1) for n in range(16)]
    assert report["uar"] > 0.7, report  # low or high is not hard, even through noise
    model = load_model(tmp_path / "model")
    assert model.manifest.temperature == report["temperature"]
    assert model.manifest.voice == VoiceSettings(tuple(report["neutral"]), recipe.AFTER, EMOTIONS.index("neutral"))
    sound = np.concatenate([np.zeros(RATE), hum(110, 2, 9), hum(340, 3, 9)]).astype(np.float32)
    plan = model.manifest.plan("live")
    said, before = [], [Before()]
    for start in range(0, len(sound) - plan.window * HOP, plan.step * HOP):
        scores, affect, (memory,) = model(sound[None, start : start + plan.window * HOP], plan, map, before)
        assert 0 <= affect.min() <= affect.max() <= 1
        before = [Before(memory, True)]
        said += [EMOTIONS[n] for n in scores[0].argmax(-1)]
    assert said[100:130].count("neutral") > 25
    assert said[180:240].count("angry") > 50
    # A trained model is a start too: one short step leaves it good.
    settings |= {"init": tmp_path / "model", "head_rate": 1e-5, "encoder_rate": 1e-6}
    assert train(data, tmp_path / "tuned", hours=0.05, **settings)["uar"] > 0.7
    # An encoder at rest does not move, nor does anything where all of the start is kept, but the calibration's offsets.
    begun = load_file(tmp_path / "model" / "weights.safetensors")
    for name, kept in (("resting", 0.0), ("kept", 1.0)):
        train(data, tmp_path / name, hours=0.05, kept=kept, **(settings | {"head_rate": 0.02, "encoder_rate": 0}))
        now = load_file(tmp_path / name / "weights.safetensors")
        moved = {key for key in begun if not torch.equal(begun[key], now[key])} - {"head.emotion.bias"}
        assert all(key.startswith("head.") for key in moved)
        assert bool(moved) == (kept < 1)


def test_train_after_a_wider_whisper(
    data: Path, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it guesses with is in the checkpoint and not in the model."""
    monkeypatch.setattr("sedstream.training.start.LAYERS", {64: (1, 2)})
    wide = tmp_path / "wide.safetensors"
    torch.manual_seed(1)
    save_file(WhisperEncoder(**{**SIZE, "width": 64, "heads": 1}, positions=700).state_dict(), wide)
    settings = {"init": checkpoint, "follow": wide, "encoder": ENCODER, "head": HEAD, "workers": 0, "quiet": True}
    settings |= {"hours": 0.1, "every": 0.05}
    train(data, tmp_path / "model", **settings)
    (saved,) = (tmp_path / "model" / "training" / "checkpoints").rglob("learner.ckpt")
    assert torch.load(saved, weights_only=True)["guess.weight"].shape == (128, 64)
    now = load_file(tmp_path / "model" / "weights.safetensors")
    assert {key.split(".")[0] for key in now} == {"encoder", "head"}
    train(data, tmp_path / "other", **(settings | {"follow": None}))
    before = load_file(tmp_path / "other" / "weights.safetensors")
    assert not torch.equal(now["encoder.conv1.weight"], before["encoder.conv1.weight"])
    # One that goes on follows alone.
    weights = []
    both = {"following": 0.0, "kept": 0}
    for name, change in (("more", {}), ("alone", both | {"following": 1.0}), ("both", both)):
        train(data, tmp_path / name, rows=6, **(settings | {"init": tmp_path / "model"} | change))
        weights.append(load_file(tmp_path / name / "weights.safetensors")["encoder.conv1.weight"])
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
    with pytest.raises(BadModel, match=r"Bad start '.*wide.*', expected a Whisper of width 32"):
        train(data, tmp_path / "bad", **(settings | {"init": wide}))
    monkeypatch.setattr("sedstream.training.start.LAYERS", {48: (1, 2)})
    with pytest.raises(BadModel, match=r"Bad Whisper '.*wide.*' of width 64, expected 32, 48"):
        train(data, tmp_path / "bad", **settings)
    save_file({"weight": torch.zeros(1)}, wide)
    with pytest.raises(BadModel, match=r"Bad checkpoint '.*', expected a Whisper encoder"):
        train(data, tmp_path / "bad", **settings)


@pytest.mark.gpu
def test_train_on_a_gpu(data: Path, checkpoint: Path, tmp_path: Path) -> None:
    """The model that comes of it is an ordinary one, and a start for more."""
    settings = {"encoder": ENCODER, "head": HEAD, "workers": 2, "quiet": True, "name": "tiny", "device": "cuda"}
    settings |= {"every": 0.4, "head_rate": 0.005, "encoder_rate": 0.001}
    report = train(data, tmp_path / "model", hours=1.6, init=checkpoint, average=0.8, **settings)
    assert report["uar"] > 0.7, report
    assert train(data, tmp_path / "more", hours=0.1, init=tmp_path / "model", **settings)["start"]["uar"] > 0.7
    assert load_model(tmp_path / "more").manifest.name == "tiny"


def test_same_batches_anywhere(data: Path, tmp_path: Path) -> None:
    source = Source(data, tmp_path / "speech")
    found = Batches(source, 3, 4)
    assert len(Batches(source, 3, 4, rows=2)[0].heard) == 2
    for one, two in zip(found[2], Batches(source, 3, 9, first=1)[1], strict=True):
        torch.testing.assert_close(one, two, equal_nan=True)
    assert not torch.equal(found[0].heard, found[1].heard)
    assert not torch.equal(found[0].clean, Batches(source, 4, 1)[0].clean)
    assert found[0].heard.shape == (ROWS, (BEFORE + FRAMES + BEHIND) * HOP)
    assert found[0].emotion.shape == found[0].weight.shape == found[0].affect.shape[:2] == (ROWS, FRAMES)
    clean = Batches(Source(data, tmp_path / "speech", clean=True), 3, 1)[0]
    assert torch.equal(clean.heard[0], found[0].clean[0])  # the first row: augmentation has not yet drawn numbers
    for emotion in ("neutral", "angry"):
        row = {"corpus": "RAVDESS", "emotion": emotion, "label_original": emotion, "intensity": "normal"}
        number, *affect = targets(row)
        here = found[0].affect[found[0].emotion == number]
        assert len(here)
        torch.testing.assert_close(here, torch.tensor(affect).expand_as(here))


@pytest.mark.parametrize("change", [{"hours": 0}, {"hours": -1}, {"every": 0}])
def test_bad_numbers(data: Path, tmp_path: Path, change: dict[str, int]) -> None:
    with pytest.raises(BadInput, match="expected more than 0"):
        train(data, tmp_path, **change)


def test_bad_corpus(data: Path, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="Bad corpus 'EmoDB' to leave out, expected one of RAVDESS"):
        train(data, tmp_path, workers=0, without=("EmoDB",), init=tmp_path / "none.safetensors")


def test_corpora_without_a_share(data: Path, tmp_path: Path) -> None:
    """Of which nothing would be drawn."""
    shutil.copytree(data, tmp_path / "data")
    index = tmp_path / "data" / "index.csv"
    text = index.read_text()
    for split, rows in (("train", text.replace("RAVDESS", "Mine")), ("valid", text.replace("RAVDESS,3", "Mine,3"))):
        index.write_text(rows)
        with pytest.raises(BadInput, match=f"Bad corpora Mine in the split '{split}', expected one of RAVDESS, EmoDB"):
            train(tmp_path / "data", tmp_path / split, workers=0)


def test_bad_data(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="expected an index"):
        train(tmp_path, tmp_path / "out", workers=0)
    (tmp_path / "index.csv").write_text("path,corpus\n")
    with pytest.raises(BadInput, match="expected the columns speaker, emotion"):
        read_index(tmp_path)
    (tmp_path / "noise.wav").write_text("no audio")
    with pytest.raises(BadInput, match=r"noise\.wav', expected audio"):
        read_audio(tmp_path / "noise.wav")
    soundfile.write(tmp_path / "slow.wav", np.zeros(800), 8000)
    with pytest.raises(BadInput, match="expected mono audio at 16000 Hz"):
        read_audio(tmp_path / "slow.wav")
    soundfile.write(tmp_path / "empty.wav", np.zeros(0), RATE)
    with pytest.raises(BadInput, match=r"empty\.wav', expected at least one sample"):
        read_speech(tmp_path / "empty.wav")
    (tmp_path / "index.csv").write_text(",".join(corpora.COLUMNS) + "\n")
    with pytest.raises(BadInput, match="expected labelled speech"):
        load(tmp_path, tmp_path / "store", workers=0)


def test_load(data: Path, tmp_path: Path) -> None:
    found = load(data, tmp_path, workers=0)
    assert [u.split for u in found.utterances].count("valid") == len(found.split("valid")) == 6
    again = load(data, tmp_path, workers=0).utterances
    for u, v in zip(found.utterances, again, strict=True):
        np.testing.assert_array_equal(u.samples, v.samples)
        assert len(u.speech) == -(-len(u.samples) // HOP)
        assert u.speaker.startswith("RAVDESS/")


def test_targets() -> None:
    row = {"corpus": "RAVDESS", "emotion": "angry", "label_original": "angry", "intensity": "strong"}
    strong, normal = targets(row), targets({**row, "intensity": "normal"})
    assert strong[0] == normal[0] == EMOTIONS.index("angry")
    assert strong[1] > normal[1] > corpora.AFFECT["neutral"][0]
    assert strong[2] < normal[2] < corpora.AFFECT["neutral"][1]
    for emotion in ("sad", "calm"):
        row |= {"emotion": emotion, "label_original": emotion}
        assert targets(row)[1] > targets({**row, "intensity": "normal"})[1]  # below neutral too
    bored = targets({"corpus": "EmoDB", "emotion": "other", "label_original": "boredom", "intensity": ""})
    assert bored == (UNKNOWN, *corpora.AFFECT["boredom"])
    loud = targets({"corpus": "BAVED", "emotion": "", "label_original": "high_arousal", "intensity": "2"})
    assert loud[:2] == (UNKNOWN, 0.85)
    assert math.isnan(loud[2])
    read_aloud = {"corpus": "LibriSpeech_Resemblyzer", "emotion": "", "label_original": "", "intensity": ""}
    assert targets(read_aloud)[0] == EMOTIONS.index("neutral")


def test_window_labels() -> None:
    parts = [Piece(utterance(0, 100), silence=10 * HOP), Piece(utterance(3, 100, 2000, weight=0.4), gain=0.5)]
    starts, speeds = set(), set()
    for seed in range(40):
        samples, answer = window(parts, 120, 14, np.random.default_rng(seed))
        assert samples.shape == (120 * HOP,)
        middle = samples.reshape(120, HOP)[:, HOP // 2]
        voiced = answer.emotion != UNKNOWN
        # Speech is heard where it is labelled, silence where it is not (but for the resampling's edges).
        inner = np.convolve(voiced, np.ones(5), "same") % 5 == 0
        np.testing.assert_allclose(np.abs(middle[inner & voiced]), 1000 / 32768, atol=2e-3)
        np.testing.assert_allclose(middle[inner & ~voiced], 0, atol=2e-3)
        np.testing.assert_array_equal(answer.weight[answer.emotion == UNKNOWN], 0)
        trained = answer.weight > 0
        assert set(answer.weight[trained & (answer.emotion == 3)].tolist()) <= {np.float32(0.4).item()}
        # Frames whose look-ahead is not there are not trained; where the recording ends there is none to come.
        if answer.piece[-1] == -1:
            assert trained[np.flatnonzero(voiced)[-1]]
        else:
            assert trained[-15] == voiced[-15]
            assert not trained[-14:].any()
        for number, emotion in enumerate((0, 3)):
            assert (answer.piece[answer.emotion == emotion] == number).all()
        starts.add(not voiced[0])
        speeds.add(int(np.argmax(answer.emotion == 3)))
        if voiced[0]:
            assert not trained[:UNHEARD].any()
    assert starts == {True, False}
    assert len(speeds) > 10


def test_patterns() -> None:
    rng = np.random.default_rng(0)
    voice = {e: [utterance(e, 10 + n) for n in range(3)] for e in (0, 1, 3)}
    for pattern in PATTERNS:
        said = [u.emotion for u in follow(pattern, voice, 3, rng)]
        assert said == [3 if step == "emotion" else 0 for step in pattern.split("+")]
    mixed = [u for group in voice.values() for u in group]
    other = [utterance(2, 20, speaker="nEMO/7", corpus="nEMO"), utterance(0, 20, speaker="nEMO/8", corpus="nEMO")]
    speakers = Speakers(mixed + other + [utterance(1, 5, corpus="unheard of")])
    drawn = [speakers.pattern(rng) for _ in range(300)]
    assert all(len({u.speaker for u in said}) == 1 for said in drawn)
    assert {u.corpus for said in drawn for u in said} == {"RAVDESS", "nEMO"}
    assert {len(said) for said in drawn} == {2, 3, 4, 5, 6}
    gains = [p.gain for said in drawn for p in pieces(said, rng)]
    assert 2 < np.std(20 * np.log10(gains)) < 4


def test_targets_belong_to_their_frames() -> None:
    """Of a window as it is drawn, with the frames before and behind that only the encoder hears."""
    voices = Speakers([utterance(e, 60, arousal=0.2, valence=0.9) for e in (0, 3)])
    rng = np.random.default_rng(0)
    for _ in range(20):
        samples, answer = cut(voices, rng)
        middle = samples.reshape(-1, HOP)[BEFORE:-BEHIND, HOP // 2]
        voiced = answer.emotion != UNKNOWN
        inner = np.convolve(voiced, np.ones(3), "same") % 3 == 0
        np.testing.assert_array_equal(np.abs(middle[inner]) > 100 / 32768, voiced[inner])
        assert not inner.all()
        np.testing.assert_allclose(answer.arousal[voiced], 0.2)
        np.testing.assert_allclose(answer.valence[voiced], 0.9)


def test_voices_are_of_one_split(tmp_path: Path) -> None:
    """Joined ones, and recordings as they are."""
    taught = [utterance(e, 40) for e in (0, 1)]
    held = [utterance(e, 40, split="valid", speaker="RAVDESS/2") for e in (0, 1)]
    other = [utterance(e, 40, corpus="nEMO", speaker="nEMO/1") for e in (0, 1)]
    there = corpora.Corpora([*taught, *held, *other], passages=[taught, held])
    rng = np.random.default_rng(0)
    for split in ("train", "valid"):
        voices = speakers(Source(tmp_path, tmp_path, split, without=("nEMO",)), there)
        drawn = [u for _ in range(60) for u in voices.draw(rng)[0]]
        assert {(u.split, u.corpus) for u in drawn} == {(split, "RAVDESS")}


def test_shares_of_corpora() -> None:
    """Those that were chosen; for a training without labels the roots of what there is."""
    said = [utterance(0, 40), *(utterance(0, 40, corpus="EmoDB", speaker="EmoDB/1") for _ in range(4))]
    np.testing.assert_allclose(Speakers(said).shares, [0.20 / 0.31, 0.11 / 0.31])
    np.testing.assert_allclose(Speakers(said, blind=True).shares, [1 / 3, 2 / 3])


def test_what_an_index_says(tmp_path: Path) -> None:
    """Recordings without a name are of different voices; labels by the crowd count less; unacted speech is trained."""
    told = [("RAVDESS", "", "angry", "train"), ("RAVDESS", "", "sad", "valid"), ("RAVDESS", "7", "sad", "other")]
    told += [("IndianEmoSpeech", "1", "sad", "train"), ("AMI_pyannote", "1", "", "other")]
    with (tmp_path / "index.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(corpora.COLUMNS)
        for n, (corpus, speaker, emotion, split) in enumerate(told):
            soundfile.write(tmp_path / f"{n}.wav", hum(200, 0.2, n), RATE)
            rows.writerow([f"{n}.wav", corpus, speaker, emotion, emotion, "", split])
    found = load(tmp_path, tmp_path / "store", workers=0).utterances
    assert len({u.speaker for u in found}) == 5
    assert [u.weight for u in found] == [1.0, 1.0, 1.0, 0.4, 1.0]
    assert [u.split for u in found] == ["train", "valid", "other", "train", "train"]
    assert found[4].emotion == EMOTIONS.index("neutral")


def test_speech_is_heard_in_parts(speech: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    """A long recording goes to the VAD by and by, which goes on with what it remembers."""
    expected = corpora.speech_flags(speech)
    assert 0.2 < expected.mean() < 1
    monkeypatch.setattr(corpora, "CUT", 8)
    np.testing.assert_array_equal(corpora.speech_flags(speech), expected)


def test_augment() -> None:
    sound = hum(220, 1, 0)
    noises = [(hum(900, 2, 1) * 30000).astype(np.int16)]
    other = (hum(150, 1, 2) * 30000).astype(np.int16)
    changed = [augment.augment(sound, noises, other, np.random.default_rng(seed)) for seed in range(30)]
    for seed, after in enumerate(changed):
        assert after.shape == sound.shape
        assert after.dtype == np.float32
        assert np.isfinite(after).all()
        np.testing.assert_array_equal(after, augment.augment(sound, noises, other, np.random.default_rng(seed)))
    same = sum(np.array_equal(after, sound) for after in changed)
    assert 3 <= same <= 20
    assert not augment.augment(np.zeros(1600, np.float32), [], other, np.random.default_rng(1)).any()


def test_held() -> None:
    sound = hum(220, 1, 0)
    sound[4000:9000] = 0
    sound[12000:13000] = 0
    filled = augment.held(sound, hum(500, 1, 1) * 30000, np.random.default_rng(0))
    assert (filled[4100:8900].reshape(-1, 100) != 0).any(1).all()  # long enough for hold music
    quiet = np.ones(len(sound), np.bool_)
    quiet[4000:9000] = False
    np.testing.assert_array_equal(filled[quiet], sound[quiet])
    assert np.abs(filled[4000:9000]).max() <= np.abs(sound).max() * (1 + 1e-6)


def test_lossy() -> None:
    sound = np.ones(30 * RATE, np.float32)
    lost = augment.lossy(sound, 0.1, np.random.default_rng(0)).reshape(-1, HOP) == 0
    assert (lost.all(1) == lost.any(1)).all()  # whole packets
    assert 0.07 < lost.mean() < 0.13
    edges = np.flatnonzero(np.diff(lost[:, 0], prepend=False, append=False))
    assert 1.6 < np.diff(edges)[::2].mean() < 2.4  # packets a burst


def test_noise_ratio() -> None:
    sound = hum(220, 1, 0)
    sound[:8000] = 0
    noise = np.random.default_rng(0).normal(size=len(sound)).astype(np.float32)
    added = augment.noisy(sound, noise, 10.0) - sound
    ratio = np.mean(sound[8000:] ** 2) / np.mean(added**2)
    assert 10 * np.log10(ratio) == pytest.approx(10, abs=0.05)


def test_telephone_band() -> None:
    noise = np.random.default_rng(0).normal(size=RATE).astype(np.float32)
    line = augment.telephone(noise, np.random.default_rng(0))
    power = np.abs(np.fft.rfft(line)) ** 2  # 1 Hz a bin
    assert power[4200:].mean() < 1e-3 * power[500:3000].mean()
    assert power[:40].mean() < 1e-1 * power[500:3000].mean()


def test_telephone_distorts_little() -> None:
    """What is compressed to 8 bits is expanded again: of a tone no harmonic is within 30 dB."""
    time = np.arange(RATE) / RATE
    line = augment.telephone(np.sin(2 * np.pi * 1000 * time).astype(np.float32), np.random.default_rng(0))
    power = np.abs(np.fft.rfft(line)) ** 2  # 1 Hz a bin
    assert power.argmax() == 1000
    assert power[2900:3100].sum() < 1e-3 * power[900:1100].sum()


def test_echo_comes_after_the_sound() -> None:
    click = np.zeros(RATE, np.float32)
    click[100] = 1
    for seed in range(10):
        room = augment.echo(click, np.random.default_rng(seed))
        assert np.abs(room[:100]).max() < 1e-5
        assert room[100] == pytest.approx(1, abs=1e-5)
        assert -20.1 < 10 * np.log10(np.sum(room[101:] ** 2)) < -2.9


def test_level() -> None:
    for decibels, peak in ((-20, 0.015), (0, 0.15), (6, 0.2993), (40, 32767 / 32768)):
        louder = augment.level(hum(220, 1, 0), decibels)
        assert np.abs(louder).max() == pytest.approx(peak, abs=5e-5)
        np.testing.assert_array_equal(louder * 32768, np.round(louder * 32768))


def test_losses() -> None:
    torch.manual_seed(0)
    logits = torch.randn(2, 5, 7)
    emotion = torch.randint(0, 7, (2, 5))
    weight = torch.ones(2, 5)
    expected = torch.nn.functional.cross_entropy(logits.view(-1, 7), emotion.view(-1))
    classes = torch.ones(7)
    torch.testing.assert_close(emotion_loss(logits, emotion, weight, classes, 0.0), expected)
    hidden = emotion.clone()
    hidden[0] = UNKNOWN
    first = emotion_loss(logits, hidden, weight, classes, 0.1)
    logits[0] += 100 * torch.randn(5, 7)
    torch.testing.assert_close(emotion_loss(logits, hidden, weight, classes, 0.1), first)
    assert emotion_loss(logits, torch.full((2, 5), UNKNOWN), weight, classes, 0.1) == 0


def test_what_counts_in_the_losses() -> None:
    """Frames by their weights, classes by theirs, and a little of all classes."""
    torch.manual_seed(0)
    logits, emotion = torch.randn(4, 6, 3), torch.randint(0, 3, (4, 6))
    weight, classes = 2 * torch.rand(4, 6), torch.tensor([0.5, 1.0, 3.0])
    wanted = 0.8 * torch.nn.functional.one_hot(emotion, 3) + 0.2 / 3
    each = -(wanted * classes * logits.log_softmax(-1)).sum(-1)
    expected = (weight * each).sum() / weight.sum()
    torch.testing.assert_close(emotion_loss(logits, emotion, weight, classes, 0.2), expected)
    # Concordance and calibration with a weight of two are those of frames that come twice.
    estimate, target = torch.rand(50), torch.rand(50)
    twice = torch.cat([torch.ones(30), torch.full((20,), 2.0)])
    agreement = concordance(torch.cat([estimate, estimate[30:]]), torch.cat([target, target[30:]]), torch.ones(70))
    torch.testing.assert_close(concordance(estimate, target, twice), agreement)
    scores, said = 3 * torch.randn(50, 3), torch.randint(0, 3, (50,))
    found = calibrate(scores, said, twice)
    again = calibrate(torch.cat([scores, scores[30:]]), torch.cat([said, said[30:]]), torch.ones(70))
    assert found[0] == pytest.approx(again[0], rel=0.01)
    torch.testing.assert_close(found[1], again[1], atol=0.01, rtol=0)


def test_concordance() -> None:
    rng = np.random.default_rng(0)
    a = rng.random(100)
    b = 0.7 * a + 0.1 * rng.random(100)
    expected = 2 * np.cov(a, b, ddof=0)[0, 1] / (a.var() + b.var() + (a.mean() - b.mean()) ** 2)
    weight = torch.ones(101)
    estimate = torch.tensor([*a, 0.9])
    target = torch.tensor([*b, math.nan])
    assert concordance(estimate, target, weight).item() == pytest.approx(expected, abs=1e-4)
    assert concordance(target[:100], target[:100], weight[:100]).item() == pytest.approx(1, abs=1e-4)


def test_recalls_and_calibration() -> None:
    logits = torch.tensor([[2.0, 0, 0], [0, 2, 0], [2, 0, 0], [2, 0, 0]])
    emotion = torch.tensor([0, 1, 1, 0])
    found = recalls(logits, emotion)
    assert found[:2].tolist() == [1.0, 0.5]
    assert found[2].isnan()
    torch.manual_seed(0)
    logits = torch.randn(20000, 4)
    truth = torch.tensor([1.0, 0.0, -0.5, -0.5])
    drawn = torch.multinomial((logits / 2 + truth).softmax(-1), 1)[:, 0]
    temperature, offset = calibrate(logits, drawn, torch.ones(20000))
    assert temperature == pytest.approx(2, rel=0.1)
    torch.testing.assert_close(offset, truth, atol=0.1, rtol=0)
    # A class that was never heard is left alone.
    _, offset = calibrate(logits[drawn < 3], drawn[drawn < 3], torch.ones(int((drawn < 3).sum())))
    assert offset[3] == 0


def test_toml() -> None:
    table = {"name": 'a "b"', "x": 0.5, "n": [1, 2], "plans": {"live": {"left": 3}, "batch": {"left": 4}}}
    assert tomllib.loads(toml(table)) == table
    # What a user calls an emotion or a plan, and a start its licence: line breaks, quotes, dots, controls.
    table = {"licence": 'a\nb\t"\\\x7f\x01 ü', "labels": ["very\nangry", "ok"], "plans": {'my "plan" ü.2': {"left": 3}}}
    assert tomllib.loads(toml(table)) == table


def test_shipped_model() -> None:
    manifest = read(Path(__file__).resolve().parents[1] / "models" / "sedstream-base")
    assert manifest.labels == EMOTIONS
    assert manifest.plan("live").latency <= 0.64
    assert all(isinstance(plan, Plan) for plan in manifest.plans.values())


def test_an_option_of_a_users_folder(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "no"
    done = sedstream("train", data, "--out", out, "--hours", "0.001", "--unfreeze")
    fails(done, "Bad option --unfreeze, expected it with a labels.csv")
    assert not out.exists()


def test_train_without_labels(data: Path, checkpoint: Path, tmp_path: Path) -> None:
    """Which emotion it is changes nothing but the calibration; the encoder comes closer to what it follows."""
    other = tmp_path / "data"
    shutil.copytree(data, other)
    index = other / "index.csv"
    index.write_text(index.read_text().replace("angry,angry", "happy,happy"))
    settings = {"init": checkpoint, "encoder": ENCODER, "head": HEAD, "workers": 0, "quiet": True, "every": 0.1}
    found = []
    for labels, where in (("angry", data), ("happy", other)):
        report = train(where, tmp_path / labels, hours=0.4, blind=True, **settings)
        assert math.isnan(report["recall"]["sad"])
        found.append(load_file(tmp_path / labels / "weights.safetensors"))
    changed = {key for key, tensor in found[0].items() if not torch.equal(tensor, found[1][key])}
    assert changed <= {"head.emotion.bias"}
    lines = (tmp_path / "angry" / "training" / "log.txt").read_text().splitlines()
    distances = [float(line.split()[-1]) for line in lines]
    assert distances[-1] < 0.9 * distances[0]
    with pytest.raises(BadInput, match="expected an encoder to follow"):
        train(data, tmp_path / "none", hours=0.1, blind=True, **(settings | {"init": tmp_path / "angry"}))


@pytest.mark.data
@pytest.mark.skipif(not (DATA / "index.csv").is_file(), reason="the recordings are not here")
def test_real_data() -> None:
    rows = read_index(DATA)
    splits = defaultdict(set)
    for row in rows:
        if row["emotion"] and row["speaker"]:
            splits[row["corpus"], row["speaker"]].add(row["split"])
    assert all(len(split) == 1 for split in splits.values())
    spoken = next(row for row in rows if row["corpus"] == "RAVDESS" and row["split"] == "valid")
    whole = read_audio(DATA / spoken["path"])
    samples, speech = read_speech(DATA / spoken["path"])
    assert len(samples) < 0.8 * len(whole)  # RAVDESS begins and ends with a second of silence
    assert speech[0]
    assert speech[-1]
    assert len(speech) == -(-len(samples) // HOP)


def test_eager(data: Path, tmp_path: Path) -> None:
    """Neutral, and nothing else, loses what is asked beside the calibration: in nats, so after the temperature."""
    batches = [Batches(Source(data, tmp_path, "valid"), 0, 1)[0]]
    biases, temperatures = [], []
    for eager in (0.0, 0.3):
        torch.manual_seed(0)
        learner = Learner(CachedEncoder(**ENCODER), CachedHead(labels=len(EMOTIONS), **HEAD)).eval()  # type: ignore[arg-type]
        temperatures.append(judge(learner, batches, eager=eager)["temperature"])
        biases.append(learner.head.emotion.bias.detach())
    lost = torch.zeros(len(EMOTIONS))
    lost[EMOTIONS.index("neutral")] = 0.3 * temperatures[0]
    torch.testing.assert_close(biases[0] - biases[1], lost)
    assert temperatures[0] == temperatures[1]


def test_what_is_judged(data: Path, tmp_path: Path) -> None:
    """Trained frames alone; the head's last bias gets half of the offsets; recalls are those with them."""
    (batch,) = (Batches(Source(data, tmp_path, "valid"), 0, 1)[0],)
    torch.manual_seed(0)
    learner = Learner(CachedEncoder(**ENCODER), CachedHead(labels=len(EMOTIONS), **HEAD)).eval()  # type: ignore[arg-type]
    known = (batch.emotion >= 0) & (batch.weight > 0)
    assert ((batch.emotion >= 0) & (batch.weight == 0)).any()
    logits, emotion = answer(learner, batch.heard)[0].float()[known], batch.emotion[known]
    temperature, offset = calibrate(logits, emotion, batch.weight[known])
    temperature = min(max(temperature, recipe.COLDEST), recipe.HOTTEST)
    before = learner.head.emotion.bias.detach().clone()
    report = judge(learner, [batch])
    assert report["temperature"] == temperature
    moved = learner.head.emotion.bias.detach() - before
    assert moved.abs().max() > 0.1
    torch.testing.assert_close(moved, temperature * recipe.OFFSETS * offset)
    expected = recalls(logits + moved, emotion)
    assert not torch.equal(expected, recalls(logits, emotion))
    found = torch.tensor(list(report["recall"].values()))
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0, equal_nan=True)
    # What voices say where they sound neutral: as a session hears it, after the temperature.
    scores = ((logits + moved) / temperature).log_softmax(-1)
    sounds = scores[:, EMOTIONS.index("neutral")].exp()
    told = (sounds[:, None] * scores).sum(0) / sounds.sum()
    torch.testing.assert_close(torch.tensor(report["neutral"]), told, atol=1e-3, rtol=0)


def test_every_epoch_has_other_windows(data: Path, tmp_path: Path) -> None:
    source, counter = Source(data, tmp_path / "speech"), EpochCounter(3)
    drawn = recipe._Epochs(source, 3, 2, counter, 2)
    for epoch in (1, 2):
        counter.current = epoch
        assert torch.equal(drawn[1].heard, Batches(source, 3, 4, rows=2)[2 * epoch - 1].heard)


def test_rare_classes_count_more() -> None:
    """And what does not occur at all, not at all."""
    said = [*(utterance(0, 90, speaker=f"RAVDESS/{n}") for n in range(9)), utterance(3, 90, speaker="RAVDESS/9")]
    weights = recipe.class_weights(Speakers(said), 7)
    assert weights.count_nonzero() == 2
    # A voice is drawn as often as another here.
    assert weights[3] / weights[0] == pytest.approx(9**0.7, rel=0.15)


@pytest.mark.parametrize("file", ["learner.ckpt", "counter.ckpt", None], ids=["cut", "empty", "missing"])
def test_a_checkpoint_that_was_cut_off(file: str | None, data: Path, checkpoint: Path, tmp_path: Path) -> None:
    """Killed while it was written: the training goes on from the one before."""
    settings = {"init": checkpoint, "encoder": ENCODER, "head": HEAD, "workers": 0, "quiet": True, "every": 0.05}
    train(data, tmp_path / "model", hours=0.05, **settings)
    kept = tmp_path / "model" / "training" / "checkpoints"
    (whole,) = kept.iterdir()
    half = shutil.copytree(whole, kept / "CKPT+later+00")
    note = half / "CKPT.yaml"
    note.write_text(re.sub(r"unixtime: [0-9.]+", "unixtime: 9000000000.0", note.read_text()))
    if file is None:
        (half / "optimizer_opt.ckpt").unlink(missing_ok=True)
        (half / "brain.ckpt").unlink()
    else:
        data_of = (half / file).read_bytes()
        (half / file).write_bytes(data_of[: len(data_of) // 2] if file == "learner.ckpt" else b"")
    train(data, tmp_path / "model", hours=0.1, **settings)
    log = tmp_path / "model" / "training" / "log.txt"
    assert [line.split()[1] for line in log.read_text().splitlines()] == ["1", "2"]


def test_another_vad_hears_the_recordings_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Decoded speech is cut by the VAD: what another one left is not taken for it."""
    heard: list[int] = []

    def once(source: int) -> tuple[np.ndarray, np.ndarray]:
        heard.append(source)
        return np.zeros(HOP, np.int16), np.ones(1, np.bool_)

    for _ in range(2):
        list(corpora.decode(once, [1], "key", tmp_path, 0))
    assert heard == [1]
    monkeypatch.setattr(corpora, "VAD", replace(corpora.VAD, release=0.2))
    list(corpora.decode(once, [1], "key", tmp_path, 0))
    assert heard == [1, 1]


def test_a_full_disk(tmp_path: Path) -> None:
    """What cannot be written is told, and where: decoded speech, and checkpoints."""
    store = tmp_path / "store"
    store.mkdir()
    named = sha256(f"{corpora.VAD}\nkey".encode()).hexdigest()[:12]
    (store / f"speech-{named}.i16").symlink_to("/dev/full")
    silence = np.zeros(9_000, np.int16), np.zeros(29, np.bool_)
    with pytest.raises(BadInput, match=f"Bad folder '{store}' to write, .*: No space left on device"):
        next(corpora.decode(lambda source: silence, [1, 2], "key", store, 0))
    kept = tmp_path / "checkpoints"
    (kept / "CKPT+full").mkdir(parents=True)
    (kept / "CKPT+full" / "learner.ckpt").symlink_to("/dev/full")
    checkpointer = WholeCheckpointer(kept, {"learner": torch.nn.Linear(300, 300)})
    with pytest.raises(BadInput, match=f"Bad folder '{kept}' to write, expected room in it: "):
        checkpointer.save_and_keep_only(name="full")


def test_a_training_goes_on_from_no_other(data: Path, checkpoint: Path, tmp_path: Path) -> None:
    settings = {"init": checkpoint, "encoder": ENCODER, "head": HEAD, "workers": 0, "quiet": True}
    another = tmp_path / "another.safetensors"
    save_file({name: 2 * tensor for name, tensor in load_file(checkpoint).items()}, another)
    train(data, tmp_path / "model", hours=0.05, **settings)
    with pytest.raises(BadInput, match="expected none of a training with other seed: remove"):
        train(data, tmp_path / "model", hours=0.05, **settings, seed=7)
    with pytest.raises(BadInput, match="expected none of a training with other start: remove"):
        train(data, tmp_path / "model", hours=0.05, **(settings | {"init": another}))
    with pytest.raises(BadInput, match="expected recordings with emotions in the split 'train'"):
        train(data, tmp_path / "none", hours=0.05, **settings, without=("RAVDESS",))


def test_calibration_by_one_emotion() -> None:
    """Held-out speech that lacks an emotion cannot tell a temperature for all: the usual one stays. Nor can it tell
    what voices say where they sound neutral, if it has nothing neutral."""
    torch.manual_seed(0)
    learner = Learner(CachedEncoder(**ENCODER), CachedHead(labels=2, **{**HEAD, "experts": 0})).eval()
    samples = torch.randn(1, (BEFORE + 96 + BEHIND) * HOP) * 0.1
    angry, weight = torch.ones(1, 96, dtype=torch.int64), torch.ones(1, 96)
    batch = Batch(samples, samples, angry, torch.full((1, 96, 2), 0.5), weight, torch.zeros(1, 96))
    before = learner.head.emotion.bias.detach().clone()
    report = judge(learner, [batch], ("neutral", "angry"), 0.0, {0, 1}, 1.7)
    assert report["temperature"] == 1.7
    assert torch.equal(learner.head.emotion.bias, before)
    assert judge(learner, [batch], ("neutral", "angry"), 0.0, {1}, 1.7)["temperature"] != 1.7
    assert "neutral" not in report
    assert len(judge(learner, [batch], ("angry", "neutral"))["neutral"]) == 2
