"""`sedstream.diarize` from Python: arrays and files, frames, tables, files by suffix."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest
import soundfile
from numpy.typing import NDArray

import sedstream
from sedstream.errors import BadInput, BadModel
from sedstream.events import Arousal, Final
from sedstream.loop import tick
from sedstream.short import ShortStream
from sedstream.stream import Stream
from sedstream.zoo import Model

Array = NDArray[np.float32]


def test_array_and_file_are_the_same(model: Model, clip: Path, speech: Array) -> None:
    by_file = sedstream.diarize(clip, model=model)
    by_array = sedstream.diarize(speech, rate=16_000, model=model)
    assert by_file.segments == by_array.segments
    assert by_file.duration == pytest.approx(len(speech) / 16_000, abs=0.02)
    assert by_file.file == str(clip)


def test_frames_are_those_of_the_segments(model: Model, speech: Array) -> None:
    result = sedstream.diarize(speech, rate=16_000, model=model, plan="live")
    frames = result.frames
    total = round(result.duration * 50)
    assert frames.probs.shape == (total, len(result.labels))
    assert frames.arousal.shape == frames.valence.shape == frames.speech.shape == (total,)
    assert np.isnan(frames.probs[~frames.speech]).all()
    assert np.isnan(frames.arousal[~frames.speech]).all()
    assert np.allclose(frames.probs[frames.speech].sum(1), 1, atol=1e-5)
    covered = np.zeros(total, np.bool_)
    for segment in result.segments:
        inside = slice(segment.start, segment.end)
        covered[inside] = True
        assert np.allclose(frames.probs[inside].mean(0), segment.probs, atol=1e-5)
        assert frames.arousal[inside].mean() == pytest.approx(segment.arousal_mean, abs=1e-5)
        assert frames.arousal[inside].max() == pytest.approx(segment.arousal_peak, abs=1e-6)
    assert np.array_equal(covered, frames.speech)


def test_frames_of_two_channels_and_of_none(model: Model, speech: Array) -> None:
    stereo = np.stack([speech[:48_000], speech[48_000:96_000]], axis=1)
    result = sedstream.diarize(stereo, rate=16_000, model=model, channels="split", roles=["customer", "agent"])
    with pytest.raises(BadInput, match="with 2 channels"):
        _ = result.frames
    assert all(track.frames is not None and len(track.frames.speech) == 150 for track in result.tracks)
    assert [track.role for track in result.tracks] == ["customer", "agent"]
    bare = sedstream.diarize(speech[:48_000], rate=16_000, model=model, frames=False, roles="customer")
    with pytest.raises(BadInput, match="were not kept"):
        _ = bare.frames
    assert bare.tracks[0].role == "customer"


def test_labels_and_roles_from_a_table(model: Model, clip: Path) -> None:
    """A column is neither true nor false, what is in it is not what it holds, and an array holds no plain texts."""
    samples, rate = soundfile.read(clip, dtype="float32", frames=48_000)
    stereo = np.stack([samples, samples], axis=1)
    settings: dict[str, Any] = {"labels": ["neutral", "angry"], "channels": "split", "roles": ["customer", "agent"]}
    told = sedstream.diarize(stereo, rate=rate, model=model, **settings)
    table = pandas.DataFrame({"emotion": settings["labels"], "role": settings["roles"]})
    for column in (table["role"], table["role"].to_numpy(), np.array(settings["roles"])):
        settings |= {"labels": table["emotion"], "roles": column}
        found = sedstream.diarize(stereo, rate=rate, model=model, **settings)
        assert found == told
        assert repr(found.tracks[0]) == repr(told.tracks[0])


def test_dataframe(model: Model, clip: Path) -> None:
    result = sedstream.diarize(clip, model=model)
    table = result.to_dataframe()
    assert list(table.columns[:7]) == ["file", "start", "end", "emotion", "arousal", "valence", "role"]
    assert table["emotion"].tolist() == [segment.label for segment in result.segments]
    assert (table["end"] > table["start"]).all()
    empty = sedstream.diarize(np.zeros(16_000, np.float32), rate=16_000, model=model).to_dataframe()
    assert list(empty.columns) == list(table.columns)
    assert len(empty) == 0


@pytest.mark.parametrize("suffix", [".rttm", ".csv", ".jsonl", ".TextGrid", ".txt", ".eaf", ".vtt", ".parquet"])
def test_save_by_suffix(suffix: str, model: Model, clip: Path, tmp_path: Path) -> None:
    result = sedstream.diarize(clip, model=model, frames=False)
    path = tmp_path / f"answer{suffix}"
    result.save(path)
    assert path.stat().st_size > 0
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_16_bit_samples_are_those_of_the_file(model: Model, clip: Path) -> None:
    samples, rate = soundfile.read(clip, dtype="int16")
    found = sedstream.diarize(samples, rate=float(rate), model=model)
    assert found.segments == sedstream.diarize(clip, model=model).segments


@pytest.mark.parametrize("rate", [None, 0, -16_000, 7999, 16_000.5, float("nan"), "16000", True])
def test_bad_rates(rate: Any, model: Model, speech: Array) -> None:
    with pytest.raises(BadInput, match=f"^Bad rate {rate!r}, expected that of the samples, 8000 to 192000 Hz$"):
        sedstream.diarize(speech, rate=rate, model=model)


@pytest.mark.parametrize("source", [None, b"call.wav", 7, np.zeros(9, np.int32), [0, 1], [[0.5], [0.5, 1]], {}])
def test_bad_sources(source: Any, model: Model) -> None:
    with pytest.raises(BadInput, match="^Bad (source of type|samples)[^\n]*, expected [^\n]*$"):
        sedstream.diarize(source, rate=16_000, model=model)


def test_bad_arguments(model: Model, speech: Array, clip: Path, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="^Bad rate 8000 of '.*austen-1.flac', expected none: a file has its own$"):
        sedstream.diarize(clip, rate=8000, model=model)
    with pytest.raises(BadInput, match="^Bad labels 'happy', expected two or more of neutral, happy"):
        sedstream.diarize(speech, rate=16_000, model=model, labels="happy")
    with pytest.raises(BadInput, match="^Bad label 'cross', expected some of neutral, happy"):
        sedstream.diarize(speech, rate=16_000, model=model, labels="cross")
    with pytest.raises(BadModel, match=r"^Bad plan \['batch'\], expected one of fast, live, slow, batch"):
        sedstream.diarize(speech, rate=16_000, model=model, plan=["batch"])  # type: ignore[arg-type]
    with pytest.raises(BadInput, match=r"shape \(4, 3\)"):
        sedstream.diarize(np.zeros((4, 3), np.float32), rate=16_000, model=model)
    with pytest.raises(BadInput, match="at least one"):
        sedstream.diarize(np.zeros(0, np.float32), rate=16_000, model=model)
    with pytest.raises(BadInput, match="Bad channels 'left'"):
        sedstream.diarize(speech, rate=16_000, model=model, channels="left")
    with pytest.raises(BadInput, match="Bad roles"):
        sedstream.diarize(speech, rate=16_000, model=model, roles=["a", "b"])
    for roles in (["a", "a"], ["a", ""], ["a", "channel 0"]):
        with pytest.raises(BadInput, match="expected another name for each channel"):
            sedstream.diarize(np.stack([speech] * 2, 1), rate=16_000, model=model, channels="split", roles=roles)
    answer = sedstream.diarize(speech[:16_000], rate=16_000, model=model)
    with pytest.raises(BadInput, match="Bad suffix '.docx', expected one of .rttm"):
        answer.save(tmp_path / "a.docx")
    for name, why in ((clip / "a.csv", "Not a directory"), (tmp_path / f"{'a' * 252}.csv", "File name too long")):
        with pytest.raises(BadInput, match=f"^Bad output '{name}', expected a file that can be written: {why}$"):
            answer.save(name)


@pytest.mark.parametrize("plan", ["live", "batch"])
def test_joined_recordings_answer_as_their_pieces(plan: str, model: Model, speech: Array) -> None:
    """Far enough from a join, nothing of the other piece is heard: the same frames, however long the recording is."""
    first, second = speech[:130_000], speech
    # The join falls on the grid of the blocks, so that each block of the piece has its like in the whole.
    grid = model.manifest.plan(plan).step * 320
    quiet = np.zeros(-len(first) % grid, np.float32)
    whole = sedstream.diarize(np.concatenate([first, quiet, second]), rate=16_000, model=model, plan=plan).frames
    piece = sedstream.diarize(second, rate=16_000, model=model, plan=plan).frames
    shift = (len(first) + len(quiet)) // 320
    # From the first block on whose window begins behind the join.
    context = -(-model.manifest.plan(plan).left // model.manifest.plan(plan).step) * model.manifest.plan(plan).step
    both = whole.speech[shift + context :] & piece.speech[context:]
    assert both.sum() > 100
    # The VAD remembers further back than the model hears, but only fades.
    assert (whole.speech[shift + context :] == piece.speech[context:]).mean() > 0.97
    there, alone = whole.probs[shift + context :][both], piece.probs[context:][both]
    if model.manifest.kind == "windowed":
        assert np.array_equal(there, alone)
    else:  # what a cached model remembers fades too
        assert (there.argmax(1) == alone.argmax(1)).mean() > 0.99


@pytest.mark.parametrize("frames", [1, 30, 41, 150, 384])
def test_a_short_recording_is_a_block_of_its_own_length(frames: int, model: Model, speech: Array) -> None:
    """Of a plan that is as long: most of a long block would be silence. How the samples come changes nothing."""
    samples = speech[30_000:][: frames * 320 - 7]
    found = sedstream.diarize(samples, rate=16_000, model=model)
    plan = model.manifest.plan("batch").short(frames, cached=model.manifest.kind == "cached")
    assert frames <= plan.step < frames + 80
    stream = Stream(model.manifest, plan, keep_frames=True)
    stream.write(samples)
    stream.close()
    while tick(model, [stream]):
        pass
    assert found.segments == tuple(event.segment for event in stream.events() if isinstance(event, Final))
    probs, _, spoken = stream.frames()
    assert spoken.any() == (frames > 1)
    np.testing.assert_array_equal(found.frames.speech, spoken)
    np.testing.assert_array_equal(found.frames.probs[spoken], probs[spoken])
    in_parts = ShortStream(model.manifest, "batch")
    for start in range(0, len(samples), 1_600):
        in_parts.write(samples[start : start + 1_600])
        while tick(model, [in_parts]):
            pass
    in_parts.close()
    while tick(model, [in_parts]):
        pass
    assert found.segments == tuple(event.segment for event in in_parts.events() if isinstance(event, Final))


def test_events_are_kept_but_for_the_provisional(model: Model, speech: Array) -> None:
    result = sedstream.diarize(speech[:64_000], rate=16_000, model=model)
    kinds = {type(event).__name__ for event in result.tracks[0].events}
    assert kinds == {"SpeechStart", "SpeechEnd", "Final", "Arousal", "End"}
    finals = [event.segment for event in result.tracks[0].events if isinstance(event, Final)]
    assert tuple(finals) == result.segments


def test_arousal_points_are_the_means_of_their_frames(model: Model, speech: Array) -> None:
    """Of the speech in each half second, and of nothing else."""
    quiet = np.zeros(24_000, np.float32)
    samples = np.concatenate([speech[:50_000], quiet, speech[50_000:120_000]])
    result = sedstream.diarize(samples, rate=16_000, model=model)
    frames = result.frames
    points = [event for event in result.tracks[0].events if isinstance(event, Arousal)]
    assert points
    for point in points:
        inside = slice(point.start, point.end)
        for told, curve in ((point.arousal, frames.arousal), (point.valence, frames.valence)):
            known = curve[inside][frames.speech[inside]]
            assert told == (pytest.approx(known.mean(), abs=1e-5) if len(known) else None)
