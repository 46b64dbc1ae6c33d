"""SpeechBrain's emotion diarization: its checkpoints, its numbers on a window, its answer for a whole file."""

from pathlib import Path

import numpy as np
import pytest
import recipe
import soundfile
import torch
from numpy.typing import NDArray
from test_wav2vec import BASE, FAMILIES, LARGE, SIZE, voices

import sedstream
from sedstream.events import End, Final, SpeechEnd, SpeechStart
from sedstream.grid import HOP, Plan
from sedstream.tick import tick
from sedstream.whole import WholeStream
from sedstream.zoo import load

WHOLE = Plan(0, 0, 0)
WORDS = {"n": "neutral", "s": "sad", "h": "happy", "a": "angry"}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return recipe.save(tmp_path_factory.mktemp("wavlm"), "WavLM", {**SIZE, **LARGE, "conv_bias": False})


@pytest.mark.parametrize("normalise", [False, True])
@pytest.mark.parametrize("kind", [BASE, LARGE], ids=["base", "large"])
@pytest.mark.parametrize("family", FAMILIES)
@torch.inference_mode()
def test_equals_speechbrain(family: str, kind: dict[str, object], normalise: bool, tmp_path: Path) -> None:
    """The log-probabilities of a window are SpeechBrain's of that window as a recording."""
    checkpoint = recipe.save(tmp_path, family, {**SIZE, **kind}, normalise)
    theirs = recipe.reference(checkpoint)
    model = load(checkpoint)
    assert model.manifest.labels == ("neutral", "sad", "happy", "angry")
    plan = Plan(10, 16, 14)
    samples = voices(2, plan.window * HOP)
    expected = theirs.hparams.log_softmax(theirs.mods.output_mlp(theirs.encode_batch(samples, torch.ones(2))))
    scores, affect, _ = model(samples.numpy(), plan)
    np.testing.assert_allclose(scores, expected[:, 10:26].numpy(), atol=1e-4, rtol=0)
    assert np.isnan(affect).all()
    whole, _, _ = model(samples.numpy(), WHOLE)
    np.testing.assert_allclose(whole, expected.numpy(), atol=1e-4, rtol=0)


@pytest.mark.parametrize("cut", [0, 79, 80, 81, 319])
def test_a_whole_file(cut: int, checkpoint: Path, speech: NDArray[np.float32], tmp_path: Path) -> None:
    """`--plan whole` is SpeechBrain's answer for a file: every frame's label, every boundary."""
    path = tmp_path / "speech.wav"
    soundfile.write(path, speech[: 300 * HOP + cut], 16_000, subtype="FLOAT")
    expected = recipe.reference(checkpoint).diarize_batch(
        torch.from_numpy(speech[None, : 300 * HOP + cut]), torch.ones(1), ["it"]
    )["it"]
    assert len({row["emotion"] for row in expected}) > 1
    assert len(expected) > 5
    answer = sedstream.diarize(path, model=checkpoint, plan="whole")
    assert [row["emotion"] for row in answer.rows()] == [WORDS[row["emotion"]] for row in expected]
    for side in ("start", "end"):
        ours, theirs = [row[side] for row in answer.rows()], [row[side] for row in expected]
        np.testing.assert_allclose(ours, theirs, atol=1e-6, rtol=0)
    frames = answer.frames
    assert frames.speech.sum() == (300 * HOP + cut - 80) // HOP
    labels = [label for row in expected for label in [row["emotion"]] * round((row["end"] - row["start"]) / 0.02)]
    assert [answer.labels[n] for n in frames.probs[frames.speech].argmax(1)] == [WORDS[label] for label in labels]
    together = dict(sedstream.diarize_many([path, path], model=checkpoint, plan="whole"))
    assert together == {path: answer}


def test_a_whole_stream(checkpoint: Path, speech: NDArray[np.float32]) -> None:
    """How the samples come changes nothing, a flush ends a span, and frames without an answer are silence."""
    model = load(checkpoint)
    answers = []
    for packet in (160, 7_001, 48_000):
        stream = WholeStream(model.manifest, "whole")
        for start in range(0, 48_000, packet):
            stream.write(speech[start : min(start + packet, 48_000)])
            assert not tick(model, [stream])
        stream.close()
        while tick(model, [stream]):
            pass
        assert stream.done
        answers.append(stream.events())
    assert answers[0] == answers[1] == answers[2]
    kinds = [type(event) for event in answers[0]]
    assert kinds[:2] == [SpeechStart, SpeechEnd]
    assert kinds[-1] is End
    segments = [event.segment for event in answers[0] if isinstance(event, Final)]
    assert [segment.start for segment in segments] == [0, *(segment.end for segment in segments[:-1])]
    assert segments[-1].end == 149
    assert segments[0].arousal_mean is segments[0].valence_mean is None
    stream = WholeStream(model.manifest, "whole")
    stream.write(speech[:20_000])
    stream.flush()
    stream.write(speech[20_000:48_000])
    stream.close()
    while tick(model, [stream]):
        pass
    pieces = [event.segment for event in stream.events() if isinstance(event, Final)]
    first = sedstream.diarize(speech[: 62 * HOP], rate=16_000, model=model, plan="whole")
    second = sedstream.diarize(speech[62 * HOP : 48_000], rate=16_000, model=model, plan="whole")
    assert pieces[: len(first.segments)] == list(first.segments)
    assert [(s.start - 62, s.label) for s in pieces[len(first.segments) :]] == [
        (s.start, s.label) for s in second.segments
    ]


def test_too_short_for_a_frame(checkpoint: Path) -> None:
    """SpeechBrain fails then; here the recording is all silence."""
    for samples in (1, 399):
        short = np.zeros(samples, np.float32)
        assert not sedstream.diarize(short, rate=16_000, model=checkpoint, plan="whole").segments
    assert len(sedstream.diarize(voices(1, 400)[0].numpy(), rate=16_000, model=checkpoint, plan="whole").segments) == 1
