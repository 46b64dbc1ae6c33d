"""The summary of a recording against cases counted by hand, another way of counting, and what must always hold."""

import csv
import io
import itertools
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sedstream.errors import Unavailable
from sedstream.events import Arousal, Event, Final, Segment
from sedstream.exports import summary
from sedstream.offline import Diarization, Track, diarize
from sedstream.zoo import Model

LABELS = ("neutral", "happy", "sad", "angry")


def segment(start: int, end: int, label: str, arousal: float = 0.5, valence: float = 0.5) -> Segment:
    probs = tuple(float(label == name) for name in LABELS)
    return Segment(start, end, label, 1.0, probs, 0.0, arousal, arousal, valence)


def recording(frames: int, *tracks: tuple[str | None, Sequence[Segment], Sequence[Arousal]]) -> Diarization:
    made = []
    for channel, (role, segments, points) in enumerate(tracks):
        finals: list[Event] = [Final(number, 0, one, one.end * 320) for number, one in enumerate(segments)]
        made.append(Track(channel, role, (*finals, *points)))
    return Diarization("call.wav", frames / 50, LABELS, tuple(made))


def test_a_call_counted_by_hand() -> None:
    """100 s: neutral 10-30 s, angry 30-35, pause to 36, angry 36-40, sad 60-71; the agent says nothing."""
    segments = [
        segment(500, 1500, "neutral", arousal=0.2, valence=0.6),  # 20 s
        segment(1500, 1750, "angry", arousal=0.9, valence=0.1),  # 5 s
        segment(1800, 2000, "angry", arousal=0.8, valence=0.2),  # 4 s
        segment(3000, 3550, "sad", arousal=0.1, valence=0.3),  # 11 s
    ]
    points = [
        Arousal(0, 25, None, None, 0),
        Arousal(500, 525, 0.2, 0.6, 0),
        Arousal(2000, 2025, 0.8, 0.2, 0),  # 1500 frames are half a minute: 1.2 and -0.8 a minute
    ]
    customer, agent = summary.rows(recording(5000, ("customer", segments, points), ("agent", [], [])))
    assert customer == {
        "file": "call.wav",
        "channel": 0,
        "role": "customer",
        "duration": 100.0,
        "speech": 40.0,
        "silence": 60.0,
        "share_of_time_neutral": 0.2,
        "share_of_time_happy": 0.0,
        "share_of_time_sad": 0.11,
        "share_of_time_angry": 0.09,
        "share_of_speech_neutral": 0.5,
        "share_of_speech_happy": 0.0,
        "share_of_speech_sad": 0.275,
        "share_of_speech_angry": 0.225,
        "arousal_mean": 0.32,  # (20·0.2 + 5·0.9 + 4·0.8 + 11·0.1) / 40 = 12.8 / 40
        "arousal_peak": 0.8,
        "arousal_slope": 1.2,
        "valence_mean": 0.415,  # (20·0.6 + 5·0.1 + 4·0.2 + 11·0.3) / 40 = 16.6 / 40
        "valence_peak": 0.6,
        "valence_slope": -0.8,
        "longest_angry": 10.0,  # the pause of 1 s belongs to it
        "longest_angry_start": 30.0,
        "longest_angry_end": 40.0,
        "changes": 2,
    }
    assert (agent["channel"], agent["role"], agent["speech"], agent["silence"]) == (1, "agent", 0.0, 100.0)
    assert agent["share_of_time_angry"] == 0.0
    assert (agent["longest_angry"], agent["changes"]) == (0.0, 0)
    undefined = ["share_of_speech_angry", "arousal_mean", "arousal_peak", "arousal_slope", "valence_mean"]
    assert [agent[name] for name in [*undefined, "longest_angry_start", "longest_angry_end"]] == [None] * 7


@pytest.mark.parametrize(
    ("spans", "expected"),
    [
        ([], None),
        ([(0, 50, "sad")], None),
        ([(7, 8, "angry")], (7, 8)),
        ([(0, 50, "angry"), (150, 151, "angry")], (0, 151)),  # a gap of 2 s joins,
        ([(0, 50, "angry"), (151, 152, "angry")], (0, 50)),  # one frame more does not
        ([(0, 50, "angry"), (50, 150, "happy"), (150, 200, "angry")], (0, 200)),  # whatever is in the gap
        ([(0, 60, "angry"), (100, 160, "angry"), (260, 300, "angry")], (0, 300)),  # gaps count one by one
        ([(0, 50, "angry"), (500, 550, "angry")], (0, 50)),  # the first of equals
        ([(0, 50, "angry"), (500, 551, "angry")], (500, 551)),
    ],
)
def test_longest_episode(spans: list[tuple[int, int, str]], expected: tuple[int, int] | None) -> None:
    assert summary.longest_episode([segment(*span) for span in spans]) == expected


def test_who_was_not_asked_for_anger_is_not_told_that_there_was_none() -> None:
    events: list[Event] = [Final(0, 0, segment(0, 50, "sad"), 50 * 320)]
    [row] = summary.rows(Diarization("call.wav", 1.0, ("neutral", "sad"), (Track(0, None, tuple(events)),)))
    assert row["share_of_time_sad"] == 1.0
    assert [row[name] for name in ("longest_angry", "longest_angry_start", "longest_angry_end")] == [None] * 3


def test_changes_are_of_emotion() -> None:
    """Silence between two segments is none, nor is a flush, which splits a segment in two of the same emotion."""
    spans = [
        (0, 10, "sad"),
        (10, 20, "sad"),
        (90, 95, "sad"),
        (95, 99, "angry"),
        (200, 210, "sad"),
        (210, 220, "happy"),
    ]
    assert summary.changes([segment(*span) for span in spans]) == 3
    assert summary.changes([segment(0, 10, "sad")]) == summary.changes([]) == 0


def test_slope_needs_two_points() -> None:
    assert summary.slope([]) is None
    assert summary.slope([(5.0, 0.4)]) is None
    assert summary.slope([(0.0, 0.4), (3000.0, 0.3)]) == pytest.approx(-0.1)  # 3000 frames are a minute
    # x = 0, 1, 2, y = 0, 1, 0.5: x̄ = 1, ȳ = 0.5, Σ(x - x̄)(y - ȳ) = 0.5 + 0 + 0, Σ(x - x̄)² = 2
    assert summary.slope([(0.0, 0.0), (3000.0, 1.0), (6000.0, 0.5)]) == pytest.approx(0.25)


@st.composite
def recordings(draw: st.DrawFn) -> Diarization:
    frames = draw(st.integers(1, 20_000))
    tracks = []
    for role in draw(st.sampled_from([(None,), ("customer", "agent")])):
        edges = sorted(draw(st.sets(st.integers(0, frames), max_size=30)))
        spans = [(start, end) for start, end in itertools.pairwise(edges) if draw(st.booleans())]
        score = st.floats(0, 1)
        segments = [segment(*span, draw(st.sampled_from(LABELS)), draw(score), draw(score)) for span in spans]
        starts = sorted(draw(st.sets(st.integers(0, (frames - 1) // 25), max_size=20)))
        points = [Arousal(25 * n, min(25 * n + 25, frames), draw(score), draw(score), 0) for n in starts]
        tracks.append((role, segments, points))
    return recording(frames, *tracks)


def number(row: summary.Row, name: str) -> float:
    value = row[name]
    assert isinstance(value, (int, float))
    return value


@given(recordings())
def test_what_always_holds(diarization: Diarization) -> None:
    rows = list(summary.rows(diarization))
    assert [row["role"] for row in rows] == [track.role for track in diarization.tracks]
    for row, track in zip(rows, diarization.tracks, strict=True):
        assert list(row) == list(summary.columns(LABELS))
        assert number(row, "speech") + number(row, "silence") == pytest.approx(number(row, "duration"))
        time = [number(row, f"share_of_time_{label}") for label in LABELS]
        assert sum(time) + number(row, "silence") / number(row, "duration") == pytest.approx(1, abs=3e-6)
        if track.segments:
            speech = [number(row, f"share_of_speech_{label}") for label in LABELS]
            assert sum(speech) == pytest.approx(1, abs=3e-6)
            assert all(part >= whole for part, whole in zip(speech, time, strict=True))
            lowest = min(segment.arousal_mean for segment in track.segments)
            highest = max(segment.arousal_mean for segment in track.segments)
            assert lowest - 1e-6 <= number(row, "arousal_mean") <= highest + 1e-6
        assert 0 <= number(row, "changes") <= max(0, len(track.segments) - 1)
        points = [event for event in track.events if isinstance(event, Arousal)]
        for name in ("arousal", "valence"):
            values = [getattr(event, name) for event in points]
            assert row[f"{name}_peak"] == (round(max(values), 6) if values else None)
            if len(values) > 1:  # another way to the same line
                minutes = [(event.start + event.end) / 2 * 0.02 / 60 for event in points]
                assert number(row, f"{name}_slope") == pytest.approx(np.polyfit(minutes, values, 1)[0], abs=1e-4)


@given(recordings())
def test_longest_episode_counted_frame_by_frame(diarization: Diarization) -> None:
    for row, track in zip(summary.rows(diarization), diarization.tracks, strict=True):
        best: tuple[int, int] = (0, 0)
        run, quiet = 0, 10**6  # frames of the episode up to its last angry one; frames since that
        angry = [(one.start, one.end) for one in track.segments if one.label == "angry"]
        flags = np.zeros(round(diarization.duration * 50), np.bool_)
        for start, end in angry:
            flags[start:end] = True
        for frame, flag in enumerate(flags.tolist()):
            if flag:
                run = run + quiet + 1 if quiet <= 100 else 1
                quiet = 0
                best = max(best, (run, -frame))
            else:
                quiet += 1
        assert round(number(row, "longest_angry") * 50) == best[0]
        if angry:
            assert round(number(row, "longest_angry_end") * 50) == 1 - best[1]
            length = number(row, "longest_angry_end") - number(row, "longest_angry_start")
            assert length == pytest.approx(number(row, "longest_angry"))


def three_rows() -> list[summary.Row]:
    calls = [
        recording(5000, ("customer", [segment(0, 10, "angry")], [Arousal(0, 25, 0.5, 0.5, 0)]), ("agent", [], [])),
        recording(1, (None, [], [])),
    ]
    return [row for call in calls for row in summary.rows(call)]


def test_csv_by_pandas() -> None:
    file = io.StringIO(newline="")
    summary.write_csv(three_rows(), LABELS, file)
    frame = pd.read_csv(io.StringIO(file.getvalue()))
    assert list(frame.columns) == list(summary.columns(LABELS))
    found = [
        {name: None if pd.isna(value) else value for name, value in row.items()} for row in frame.to_dict("records")
    ]
    assert found == three_rows()


def test_parquet_by_pandas() -> None:
    file = io.BytesIO()
    summary.write_parquet(three_rows(), LABELS, file)
    frame = pd.read_parquet(io.BytesIO(file.getvalue()))
    assert {str(frame[name].dtype) for name in ("duration", "share_of_time_sad", "longest_angry_end")} == {"float64"}
    assert str(frame["changes"].dtype) == "int64"
    found = [
        {name: None if pd.isna(value) else value for name, value in row.items()} for row in frame.to_dict("records")
    ]
    assert found == three_rows()


def test_no_recording_leaves_the_head() -> None:
    text, binary = io.StringIO(newline=""), io.BytesIO()
    summary.write_csv([], LABELS, text)
    summary.write_parquet([], LABELS, binary)
    assert next(csv.reader([text.getvalue()])) == list(summary.columns(LABELS))
    assert list(pd.read_parquet(binary).columns) == list(summary.columns(LABELS))


def test_parquet_without_pyarrow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)  # Python's own way to say that there is none
    with pytest.raises(Unavailable, match="expected pyarrow to be installed"):
        summary.write_parquet(three_rows(), LABELS, io.BytesIO())


def test_a_real_recording(clip: Path, model: Model) -> None:
    answer = diarize(clip, model=model)
    (row,) = summary.rows(answer)
    spoken = sum(one.end - one.start for one in answer.segments)
    assert row["duration"] == answer.duration
    assert number(row, "speech") == pytest.approx(spoken * 0.02)
    assert 0 <= number(row, "arousal_mean") <= number(row, "arousal_peak") <= 1


def test_names_that_no_line_holds_and_moods_that_nobody_told() -> None:
    """Names as in the other exports; a model that tells no arousal leaves its columns empty."""
    one = Segment(0, 50, "sad", 1.0, (0.0, 0.0, 1.0, 0.0), 0.0, None, None, None)
    track = Track(0, "a\tb", (Final(0, 0, one, 50 * 320), Arousal(0, 25, None, None, 0)))
    (row,) = summary.rows(Diarization("two\nlines\udcff.wav", 1.0, LABELS, (track,)))
    assert (row["file"], row["role"]) == (r"two\x0alines\udcff.wav", r"a\x09b")
    assert {value for name, value in row.items() if name.startswith(("arousal", "valence"))} == {None}
    assert row["share_of_speech_sad"] == 1.0
