"""Manifests and weights: what is installed is whole, what is not is told."""

import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba
import numpy as np
import pytest
import torch
from conftest import ROOT
from numpy.typing import NDArray

from sedstream.compiled import compiled
from sedstream.decoding.settings import VoiceSettings
from sedstream.encoders.heads import FrameHead
from sedstream.encoders.whisper import WhisperEncoder
from sedstream.errors import BadInput, BadModel
from sedstream.events import Update
from sedstream.grid import HOP
from sedstream.loop import tick
from sedstream.manifest import Manifest, find, installed, read
from sedstream.stream import Stream
from sedstream.training.publish import publish
from sedstream.zoo import Model, load


@pytest.fixture
def folder(manifest: Manifest, tmp_path: Path) -> Path:
    """A copy of the default model to spoil."""
    return Path(shutil.copytree(manifest.folder, tmp_path / "copy"))


def edit(folder: Path, change: Callable[[str], str]) -> None:
    path = folder / "manifest.toml"
    text = path.read_text()
    assert change(text) != text
    path.write_text(change(text))


def test_installed_models_are_whole() -> None:
    assert "sedstream-base" in [folder.name for folder in installed()]
    for folder in installed():
        manifest = read(folder)
        assert manifest.name == folder.name
        assert (folder / "CARD.md").is_file()
        if not any(file.url for file in manifest.files):
            manifest.verify()
            assert manifest.weights.stat().st_size <= 25 * 2**20
        assert manifest.plan("live").latency <= 0.64


def test_a_folder_is_a_model(folder: Path, model: Model, speech: NDArray[np.float32]) -> None:
    copy = load(folder)
    plan = copy.manifest.plan("live")
    block = speech[: plan.window * HOP][None]
    for ours, theirs in zip(model(block, plan)[:2], copy(block, plan)[:2], strict=True):
        assert np.array_equal(ours, theirs)


def test_the_answer_is_a_distribution_and_rows_are_independent(model: Model, speech: NDArray[np.float32]) -> None:
    plan = model.manifest.plan("live")
    width = plan.window * HOP
    blocks = np.stack([speech[n * 5000 : n * 5000 + width] for n in range(5)])
    scores, affect, _ = model(blocks, plan)
    assert scores.shape == (5, plan.step, len(model.manifest.labels))
    assert affect.shape == (5, plan.step, 2)
    assert np.allclose(np.exp(scores).sum(-1), 1, atol=1e-5)
    assert ((affect > 0) & (affect < 1)).all()
    alone = model(blocks[3:4], plan)
    assert np.array_equal(alone[0][0], scores[3])
    assert np.array_equal(alone[1][0], affect[3])


def test_a_windowed_model(tmp_path: Path, speech: NDArray[np.float32]) -> None:
    """The other kind: no memory, the block brings its context; its sessions too do not depend on their packets."""
    torch.manual_seed(0)
    encoder = {"mels": 80, "width": 64, "heads": 4, "layers": 2, "outputs": [1, 2], "positions": 200}
    head = {"features": 128, "outputs": 2, "width": 24, "hidden": 16}
    table = {
        "name": "tiny", "version": "1", "family": "whisper", "kind": "windowed", "licence": "CC0-1.0",
        "labels": ["neutral", "angry"], "temperature": 1.0, "encoder": encoder, "head": head,
        "plans": {"live": {"left": 104, "step": 16, "right": 16}},
        "vad": {"threshold": 0.4, "release": 0.25, "min_speech": 8, "min_silence": 25},
        "decoder": {"switch": 256, "pause": 64, "min_duration": 10, "lag": 50},
    }  # fmt: skip
    publish(tmp_path / "tiny", table, WhisperEncoder(**encoder), FrameHead(labels=2, **head))
    model = load(tmp_path / "tiny")
    plan = model.manifest.plan("live")
    blocks = np.stack([speech[n * 5000 : n * 5000 + plan.window * HOP] for n in range(5)])
    scores, _, memories = model(blocks, plan)
    assert memories == [None] * 5
    assert np.array_equal(model(blocks[3:4], plan)[0][0], scores[3])
    answers = []
    for packet in (160, 12_345):
        stream = Stream(model.manifest)
        for start in range(0, 80_000, packet):
            stream.write(speech[start : min(80_000, start + packet)])
            tick(model, [stream])
        stream.close()
        while not stream.done:
            tick(model, [stream])
        answers.append([event for event in stream.events() if not isinstance(event, Update)])
    assert len(answers[0]) > 2
    assert answers[0] == answers[1]


def test_level_does_not_matter(model: Model, speech: NDArray[np.float32]) -> None:
    """±20 dB changes no label probability by more than rounding."""
    plan = model.manifest.plan("live")
    block = speech[30_000 : 30_000 + plan.window * HOP][None] * np.float32(0.1)
    here = model(block, plan)[0]
    for gain in (0.1, 10.0):
        assert np.abs(np.exp(model(block * np.float32(gain), plan)[0]) - np.exp(here)).max() < 1e-2


def test_a_constant_does_not_matter(model: Model, speech: NDArray[np.float32]) -> None:
    """What a cheap sound card adds to all samples changes no label probability by more than rounding."""
    plan = model.manifest.plan("live")
    block = speech[30_000 : 30_000 + plan.window * HOP][None]
    here = np.exp(model(block, plan)[0])
    for constant in (-0.05, 0.1):
        assert np.abs(np.exp(model(block + np.float32(constant), plan)[0]) - here).max() < 1e-2


def test_silence_gives_finite_answers(model: Model) -> None:
    plan = model.manifest.plan("live")
    scores, affect, _ = model(np.zeros((1, plan.window * HOP), np.float32), plan)
    assert np.isfinite(scores).all()
    assert np.isfinite(affect).all()


@pytest.mark.parametrize("name", ["nobody", "", "../sedstream-base", "/", "a" * 300, "a\0"])
def test_unknown_model(name: str) -> None:
    with pytest.raises(BadModel, match="expected one of .*sedstream-base"):
        find(name)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda t: t.replace("[vad]", "[vad]\nloudness = 3"), "Bad key 'vad.loudness', expected one of threshold"),
        (lambda t: 'colour = "red"\n' + t, "Bad key 'colour'"),
        (lambda t: t.replace("[encoder]", "[encoder]\nwings = 2"), "Bad key 'encoder.wings'"),
        (lambda t: t.replace("[head]", "[head]\nwings = 2"), "Bad key 'head.wings'"),
        (lambda t: t.replace("width = 512", "width = 512.5"), "Bad value 512.5 of 'encoder.width' .*, expected int"),
        (lambda t: t.replace("fade = 2.0", "fade = nan"), "Bad value nan of 'encoder.fade' .*, expected float"),
        (lambda t: t.replace("[2, 3]", "[2, true]"), "Bad value .* of 'encoder.outputs' .*, expected Sequence"),
        (lambda t: t.replace("experts = 7", 'experts = ""'), "Bad value '' of 'head.experts' .*, expected int"),
        (lambda t: t.replace("[plans.live]", "[plans.live]\nspeed = 1"), "Bad key 'plans.live.speed'"),
        (lambda t: t.replace('"whisper"', '"murmur"'), "Bad family 'murmur'"),
        (lambda t: t.replace('"cached"', '"wound"'), "Bad kind 'wound'"),
        (lambda t: t.replace("step = 16", "step = 15"), "Bad plan step 15"),
        (lambda t: t.replace("[weights]", "[weights"), "expected readable TOML"),
        (lambda t: t.replace('name = "sedstream-base"\n', ""), "Bad value None of 'name', expected str"),
        (lambda t: t.replace('"happy"', '"neutral"'), "Bad labels"),
        (lambda t: t.replace('"weights.safetensors"', '"../weights.safetensors"'), "expected a name inside"),
        (lambda t: t.replace('sha256 = "', 'sha256 = "0'), "expected sha256"),
        (lambda t: t.replace("switch = 2048", "switch = 99999999999999999999"), "Bad decoder costs .* 0 to 1000000"),
        (lambda t: t.replace("min_speech = 8", "min_speech = 99999999999"), "Bad VAD durations .* 1 to 10000 frames"),
        (
            lambda t: t.replace("min_speech = 8", "min_speech = true"),
            "Bad value True of 'vad.min_speech', expected int",
        ),
        (lambda t: t.replace("left = 355", "left = 99999999999"), "Bad plan of 100000000415 frames, expected 10000 or"),
        (lambda t: t.replace("= 2.045", f"= {'9' * 400}"), "Bad temperature inf, expected 0.001 to 1000"),
        (lambda t: t.replace("= 2.045", f"= {'9' * 5000}"), "expected readable TOML: Exceeds the limit"),
        (lambda t: t.replace("= 2.045", "= 1e-320"), "Bad temperature 1e-320, expected 0.001 to 1000"),
        (lambda t: t.replace('"weights.safetensors"', r'"a\u0000b"'), "expected a name inside"),
        (
            lambda t: re.sub(r"\[plans\.\w+\]\n(\w+ = \d+\n)+", "", t) + "[plans]\n",
            "Bad plans {}, expected one or more",
        ),
        (lambda t: re.sub('sha256 = ".*"', 'sha256 = ""', t), "expected their sha256 in the manifest"),
        (lambda t: t.replace("after = 3000", "after = 0"), "Bad after 0 of a voice, expected 1 to 1000000 frames"),
        (lambda t: t.replace("after = 3000", ""), "Bad value None of 'voice.after', expected int"),
        (
            lambda t: t.replace("after = 3000", "after = 3000\nrate = 1"),
            "Bad key 'voice.rate', expected one of neutral",
        ),
        (lambda t: t.replace("[-0.52, ", "["), "of a voice, expected one number a label, and one of them 'neutral'"),
        (
            lambda t: t.replace('"neutral"', '"calm"'),
            "of a voice, expected one number a label, and one of them 'neutral'",
        ),
        (
            lambda t: t.replace("-0.52", "nan"),
            r"Bad neutral \[nan, .* of a voice, expected log-probabilities, -1000 to 0",
        ),
        (
            lambda t: t.replace("-0.52", "0.48"),
            r"Bad neutral \[0.48, .* of a voice, expected log-probabilities, -1000 to",
        ),
        (lambda t: t.replace("-0.52", "true"), "Bad value True of 'voice.neutral.neutral', expected float"),
        (lambda t: "voice = 1\n" + re.sub(r"\[voice\]\n.*\n.*\n", "", t), "Bad value of 'voice', expected a table"),
    ],
)
def test_bad_manifest(change: Callable[[str], str], says: str, folder: Path) -> None:
    edit(folder, change)
    with pytest.raises(BadModel, match=says):
        load(folder)


def test_a_manifest_need_not_know_voices(folder: Path) -> None:
    assert read(folder).voice == VoiceSettings((-0.52, -3.11, -3.52, -4.17, -3.51, -8.08, -7.13), 3000, 0)
    edit(folder, lambda t: re.sub(r"\[voice\]\n.*\n.*\n", "", t))
    assert load(folder).manifest.voice is None


def test_corrupt_and_missing_weights(folder: Path) -> None:
    weights = folder / "weights.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    with pytest.raises(BadModel, match="Bad weights .*expected sha256"):
        load(folder)
    weights.unlink()
    with pytest.raises(BadModel, match="Bad weights .*No such file"):
        load(folder)


@pytest.mark.parametrize("content", [b"", b"not safetensors at all", b"\x80\x04\x95pickle"])
def test_weights_that_are_no_safetensors(content: bytes, folder: Path) -> None:
    """Even with the right hash nothing but safetensors is read; a pickle least of all."""
    from hashlib import sha256

    old = read(folder).sha256
    (folder / "weights.safetensors").write_bytes(content)
    edit(folder, lambda t: t.replace(old, sha256(content).hexdigest()))
    with pytest.raises(BadModel, match="expected safetensors"):
        load(folder)


def test_weights_of_another_model(folder: Path) -> None:
    from hashlib import sha256

    from safetensors.numpy import save_file

    save_file({"encoder.conv1.weight": np.zeros((2, 2), np.float32)}, folder / "weights.safetensors")
    digest = sha256((folder / "weights.safetensors").read_bytes()).hexdigest()
    old = read(folder).sha256
    edit(folder, lambda t: t.replace(old, digest))
    with pytest.raises(BadModel, match="expected those of its manifest"):
        load(folder)


def test_bad_device() -> None:
    with pytest.raises(BadInput, match="Bad device 'toaster', expected cpu or cuda"):
        load(device="toaster")
    with pytest.raises(BadInput, match="^Bad device None, expected cpu or cuda$"):
        load(device=None)  # type: ignore[arg-type]


@pytest.mark.parametrize("model", [None, 7, b"sedstream-base"])
def test_what_is_no_name(model: Any) -> None:
    with pytest.raises(BadInput, match="^Bad model .*, expected its name or folder$"):
        load(model)


def test_the_rest_of_the_process_keeps_its_cores() -> None:
    """Another model of the caller's beside ours is as fast as without it."""
    script = """
import sys
import numpy as np, torch
torch.set_num_threads(3)
import sedstream
print(len(sedstream.diarize(np.zeros(32_000, np.float32), rate=16_000).segments))
print(torch.get_num_threads(), sys.modules.keys() & {"silero_vad", "onnxruntime"})
from concurrent.futures import ThreadPoolExecutor
for _, answer in sedstream.diarize_many(["sedstream/demo/austen-2.flac"]):
    print(len(answer.tracks), ThreadPoolExecutor(1).submit(torch.get_num_threads).result())
"""
    found = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False)
    assert found.stdout.splitlines() == ["0", "3 set()", "1 3"], found.stderr


def test_what_is_compiled_need_not_be_kept() -> None:
    """A service may have no home, and no right to write beside the package; so has a function without a file."""
    written: dict[str, Callable[[int], int]] = {}
    exec("def twice(x): return 2 * x", written)
    with pytest.raises(RuntimeError, match="no locator available"):
        numba.njit(cache=True)(written["twice"])
    assert compiled()(written["twice"])(21) == 42
