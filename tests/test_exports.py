"""Each format, read back by the library that people use for it: times, labels, roles and channels as they were."""

import csv
import html
import io
import itertools
import json
import os
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlparse

import audformat
import numpy as np
import pandas as pd
import parselmouth
import pytest
import webvtt
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from parselmouth.praat import call as praat
from pyannote.database.util import load_rttm
from pympi.Elan import Eaf

from sedstream.errors import BadInput, Unavailable
from sedstream.events import Arousal, Final, Segment
from sedstream.exports import formats
from sedstream.exports.naming import one_line, voices
from sedstream.offline import Diarization, Track, diarize
from sedstream.zoo import Model

pytestmark = pytest.mark.filterwarnings("ignore:The inplace keyword")  # audformat's own calls of pandas

LABELS = ("neutral", "happy", "sad", "angry")
HOURS_10 = 10 * 3600 * 50
"""Frames."""

Found = list[tuple[int, int, str]]
"""Start and end in frames, and the label."""


def track(channel: int, role: str | None, spans: Found, frames: int) -> Track:
    """Segments as given; the arousal track runs from 0 to 1 over the channel, with a point where there is speech."""
    events: list[Any] = []
    speech = np.zeros(frames, np.bool_)
    for number, (start, end, label) in enumerate(spans):
        speech[start:end] = True
        probs = tuple(0.7 if label == name else 0.1 for name in LABELS)
        arousal, valence = (start % 97) / 97, (end % 89) / 89
        segment = Segment(start, end, label, 0.7, probs, 0.94, arousal, min(1.0, arousal + 0.01), valence)
        events.append(Final(number, 0, segment, end * 320))
    for start in range(0, frames, 25):
        end = min(start + 25, frames)
        known = bool(speech[start:end].any())
        value = start / frames
        events.append(Arousal(start, end, value if known else None, 1 - value if known else None, end * 320))
    return Track(channel, role, tuple(events))


def random_spans(frames: int, count: int, seed: int) -> Found:
    """Segments of odd lengths, some side by side; the last ends with the last frame."""
    random = np.random.default_rng(seed)
    edges = sorted({*random.choice(frames - 1, count, replace=False).tolist(), frames})
    pairs = itertools.pairwise(edges)
    labels = random.choice(LABELS, len(edges) - 1).tolist()
    kept = (random.random(len(edges) - 1) < 0.7) | (np.arange(len(edges) - 1) == len(edges) - 2)
    return [(start, end, label) for (start, end), label, keep in zip(pairs, labels, kept, strict=True) if keep]


def recording(name: str, frames: int, *tracks: tuple[str | None, Found]) -> Diarization:
    made = tuple(track(channel, role, spans, frames) for channel, (role, spans) in enumerate(tracks))
    return Diarization(name, frames / 50, LABELS, made)


CASES = {
    "mono": lambda: recording("calls/one.wav", 831, (None, [(0, 7, "sad"), (7, 333, "angry"), (401, 830, "happy")])),
    "call": lambda: recording(
        "call.flac",
        1501,
        ("customer", [(1, 333, "angry"), (333, 334, "sad"), (999, 1501, "neutral")]),
        ("agent", [(334, 998, "neutral"), (1000, 1001, "happy")]),
    ),
    "unnamed channels": lambda: recording("", 50, (None, [(0, 50, "happy")]), (None, [(1, 49, "sad")])),
    "awkward names": lambda: recording(
        """a b/Anna "Ü" & <b>'s 100% %20\t– 通話.v2.wav""",
        100,
        ("kundin \"Ä\" & <1> --> 'x'", [(3, 50, "angry")]),
        ("agente ñ 2>1]]>", [(50, 99, "sad")]),
    ),
    "one role twice": lambda: recording("NA.wav", 60, ("a", [(0, 30, "sad")]), ("a", [(30, 60, "angry")])),
    "no speech": lambda: recording("quiet.wav", 777, ("customer", []), ("agent", [])),
    "one frame": lambda: recording("short.wav", 1, (None, [])),
    "10 hours": lambda: recording(
        "night.wav",
        HOURS_10,
        ("customer", random_spans(HOURS_10, 3000, 1)),
        ("agent", random_spans(HOURS_10, 3000, 2)),
    ),
}


@pytest.fixture(params=[*CASES, "real"], scope="module")
def diarization(request: pytest.FixtureRequest, model: Model, clip: Path) -> Diarization:
    if request.param == "real":
        answer = diarize(clip, model=model)
        assert answer.segments
        return answer
    made: Diarization = CASES[request.param]()
    return made


def written(diarization: Diarization, name: str, folder: Path) -> Path:
    """A file of the format, as a caller makes it."""
    path = folder / f"out{formats.find(name).SUFFIX}"
    with path.open("wb") as file:
        formats.write(diarization, name, file)
        assert not file.closed
    return path


def frame(seconds: float) -> int:
    """The frame at ``seconds``, which must be on the sample grid to a hundredth of a sample."""
    frame = round(seconds * 50)
    assert abs(seconds * 16_000 - frame * 320) < 0.01
    return frame


def spans(track: Track) -> Found:
    return [(segment.start, segment.end, segment.label) for segment in track.segments]


def test_rttm_by_pyannote(diarization: Diarization, tmp_path: Path) -> None:
    path = written(diarization, "rttm", tmp_path)
    ((uri, annotation),) = load_rttm(path).items()
    expected = one_line(Path(diarization.file).stem) or "unnamed"
    assert unquote(uri) == expected
    found = [(frame(turn.start), frame(turn.end), label) for turn, _, label in annotation.itertracks(yield_label=True)]
    assert sorted(found) == sorted(span for track in diarization.tracks for span in spans(track))

    lines = [line.split(" ") for line in path.read_text(encoding="utf-8").split("\n")[:-1]]
    assert all(len(line) == 10 for line in lines)  # NIST: ten fields
    roles = {int(line[2]) - 1: unquote(line[7]) for line in lines if line[0] == "SPKR-INFO"}
    assert roles == {track.channel: one_line(track.role or "<NA>") for track in diarization.tracks}
    for track in diarization.tracks:
        own = [line for line in lines if line[0] == "SPEAKER" and int(line[2]) == track.channel + 1]
        assert [(frame(float(line[3])), line[7]) for line in own] == [(s, label) for s, _, label in spans(track)]
        assert [float(line[8]) for line in own] == [round(segment.confidence, 6) for segment in track.segments]


def assert_table(frame: pd.DataFrame, diarization: Diarization) -> None:
    """A table as audformat holds it, against the rows of the diarization."""
    rows = list(diarization.rows())
    assert list(frame.index.names) == ["file", "start", "end"]
    assert list(frame.columns) == ["emotion", "arousal", "valence", "role", "confidence", "channel"]
    audformat.assert_index(frame.index)
    if rows and not diarization.file:  # audformat has no empty name
        assert frame.index.get_level_values("file").isna().all()
    else:
        assert list(frame.index.get_level_values("file")) == [one_line(row["file"]) for row in rows]
    for name in ("start", "end"):
        nanoseconds = [time.value for time in frame.index.get_level_values(name)]
        assert nanoseconds == [round(row[name] * 50) * 20_000_000 for row in rows]
    assert list(frame["emotion"]) == [row["emotion"] for row in rows]
    assert [None if pd.isna(role) else role for role in frame["role"]] == [row["role"] for row in rows]
    assert list(frame["channel"]) == [row["channel"] for row in rows]
    scores = [[row["confidence"], row["arousal"]["mean"], row["valence"]["mean"]] for row in rows]
    # pandas before version 3 reads decimals to the last bit but one
    found = frame[["confidence", "arousal", "valence"]].to_numpy(float)
    np.testing.assert_allclose(found, np.reshape(scores, (-1, 3)), rtol=0, atol=1e-12)


def test_csv_by_audformat(diarization: Diarization, tmp_path: Path) -> None:
    path = written(diarization, "csv", tmp_path)
    assert_table(audformat.utils.read_csv(path, as_dataframe=True), diarization)
    with path.open(encoding="utf-8", newline="") as file:
        assert [row["file"] for row in csv.DictReader(file)] == [one_line(row["file"]) for row in diarization.rows()]


def test_parquet_by_audformat(diarization: Diarization, tmp_path: Path) -> None:
    """Our file in the place of a table of an audformat database."""
    database = audformat.Database("calls")
    database.schemes["emotion"] = audformat.Scheme(labels=list(LABELS))
    for name, kind in (("arousal", "float"), ("valence", "float"), ("role", "str"), ("confidence", "float")):
        database.schemes[name] = audformat.Scheme(kind)
    database.schemes["channel"] = audformat.Scheme("int")
    table = database["emotions"] = audformat.Table(audformat.segmented_index(["x"], [0], [1]))
    for name in ("emotion", "arousal", "valence", "role", "confidence", "channel"):
        table[name] = audformat.Column(scheme_id=name)
    database.save(tmp_path, storage_format="parquet")
    path = written(diarization, "parquet", tmp_path).rename(tmp_path / "db.emotions.parquet")
    assert_table(audformat.Database.load(tmp_path)["emotions"].df, diarization)
    plain = pd.read_parquet(path)
    assert [str(plain[name].dtype) for name in ("start", "end")] == ["timedelta64[ns]"] * 2


def test_jsonl_is_the_rows(diarization: Diarization, tmp_path: Path) -> None:
    text = written(diarization, "jsonl", tmp_path).read_bytes().decode()
    assert [json.loads(line) for line in text.split("\n")[:-1]] == list(diarization.rows())


def read_textgrid(path: Path) -> tuple[Any, dict[str, Any]]:
    """Praat's object, and the tiers by name: intervals (start, end, text) or points (time, mark)."""
    grid = parselmouth.read(str(path))
    assert isinstance(grid, parselmouth.TextGrid)
    tiers: dict[str, Any] = {
        praat(grid, "Get tier name", tier): [] for tier in range(1, 1 + int(praat(grid, "Get number of tiers")))
    }
    # no line numbers, nine decimals, tier names, empty intervals
    for line in praat(grid, "List", False, 9, True, True).split("\n")[1:-1]:
        start, tier, text, end = line.split("\t")
        text = "" if text == "?" else text  # Praat's lists show nothing as a question mark
        points = tier.endswith(" arousal")
        tiers[tier].append((float(start), text) if points else (float(start), float(end), text))
    return grid, tiers


def test_textgrid_by_praat(diarization: Diarization, tmp_path: Path) -> None:
    grid, tiers = read_textgrid(written(diarization, "textgrid", tmp_path))
    frames = frame(grid.xmax)
    assert frames == round(diarization.duration * 50)
    names = voices(diarization.tracks)
    assert list(tiers) == [tier for name in names for tier in (name, f"{name} arousal")]
    for number, (track, name) in enumerate(zip(diarization.tracks, names, strict=True)):
        intervals = [(frame(start), frame(end), text) for start, end, text in tiers[name]]
        assert [interval for interval in intervals if interval[2]] == spans(track)
        empty = praat(grid, "Count intervals where", 2 * number + 1, "is equal to", "")
        assert empty == len(intervals) - len(track.segments)
        assert [start for start, *_ in intervals] == [0, *(end for _, end, _ in intervals[:-1])]
        assert intervals[-1][1] == frames
        points = [event for event in track.events if isinstance(event, Arousal) and event.arousal is not None]
        found = [(round(time * 16_000, 3), float(mark)) for time, mark in tiers[f"{name} arousal"]]
        assert found == [((event.start + event.end) * 160, round(event.arousal or 0, 6)) for event in points]


def test_audacity_by_its_definition(diarization: Diarization, tmp_path: Path) -> None:
    """https://manual.audacityteam.org: start, tab, end, tab, label; a line a label."""
    text = written(diarization, "audacity", tmp_path).read_bytes().decode()
    found = [line.split("\t") for line in text.split("\n")[:-1]]
    assert all(len(fields) == 3 for fields in found)
    named = len(diarization.tracks) > 1 or diarization.tracks[0].role is not None
    expected = [
        (start, end, f"{voice}: {label}" if named else label)
        for track, voice in zip(diarization.tracks, voices(diarization.tracks), strict=True)
        for start, end, label in spans(track)
    ]
    assert sorted((frame(float(start)), frame(float(end)), label) for start, end, label in found) == sorted(expected)
    assert [float(start) for start, *_ in found] == sorted(float(start) for start, *_ in found)


def read_elan(path: Path) -> Eaf:
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # an unknown version of the format
        return Eaf(str(path))


def test_elan_by_pympi(diarization: Diarization, tmp_path: Path) -> None:
    document = read_elan(written(diarization, "elan", tmp_path))
    names = voices(diarization.tracks)
    assert tuple(document.get_tier_names()) == names
    for track, name in zip(diarization.tracks, names, strict=True):
        assert document.get_parameters_for_tier(name)["PARTICIPANT"] == name
        annotations = sorted(document.get_annotation_data_for_tier(name))
        assert [(start, end, label) for start, end, label in annotations] == [
            (start * 20, end * 20, label) for start, end, label in spans(track)
        ]
    media = [unquote(urlparse(entry["MEDIA_URL"]).path) for entry in document.media_descriptors]
    assert media == ([str(Path(diarization.file).absolute())] if diarization.file else [])


def test_vtt_by_webvtt(diarization: Diarization, tmp_path: Path) -> None:
    captions = webvtt.read(str(written(diarization, "vtt", tmp_path)), encoding="utf-8", strict=True)
    found = [
        (
            html.unescape(caption.voice) if caption.voice else None,
            *(frame(time.in_milliseconds() / 1000) for time in (caption.start_time, caption.end_time)),
            html.unescape(caption.text),
        )
        for caption in captions
    ]
    named = len(diarization.tracks) > 1 or diarization.tracks[0].role is not None
    expected = {
        (voice if named else None, *span)
        for track, voice in zip(diarization.tracks, voices(diarization.tracks), strict=True)
        for span in spans(track)
    }
    assert set(found) == expected
    assert len(found) == len(expected)


def test_vtt_escapes_what_would_be_a_tag(tmp_path: Path) -> None:
    text = written(CASES["awkward names"](), "vtt", tmp_path).read_text(encoding="utf-8")
    assert "\n<v kundin \"Ä\" &amp; &lt;1&gt; --&gt; 'x'>angry\n" in text


def names_in_audacity(path: Path) -> Iterator[str]:
    for line in path.read_bytes().decode().split("\n")[:-1]:
        yield line.split("\t")[2].removesuffix(": sad")


READ_NAMES: dict[str, Callable[[Path], list[str]]] = {
    "textgrid": lambda path: list(read_textgrid(path)[1])[::2],
    "elan": lambda path: list(read_elan(path).get_tier_names()),
    "audacity": lambda path: list(names_in_audacity(path)),
    "vtt": lambda path: [html.unescape(cue.voice) for cue in webvtt.read(str(path), encoding="utf-8", strict=True)],
}


ROLES = st.text(st.characters(), min_size=1)
FILES = st.one_of(st.text(min_size=1).map(os.fsencode), st.binary(min_size=1)).map(
    lambda raw: os.fsdecode(raw.replace(b"/", b"").replace(b"\0", b"") + b".wav")
)
"""Whatever a file system may hold, UTF-8 or not."""


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@example(name="0.wav", first="0", second="--")
@given(name=FILES, first=ROLES, second=ROLES)
def test_any_name_keeps_a_file_whole(tmp_path: Path, name: str, first: str, second: str) -> None:
    """Control characters, line breaks, unpaired surrogates: each name comes back, or its escaped form."""
    made = recording(name, 50, (first, [(0, 25, "sad")]), (second, [(25, 50, "sad")]))
    for format, read in READ_NAMES.items():
        assert read(written(made, format, tmp_path)) == list(voices(made.tracks)), format
    ((uri, annotation),) = load_rttm(written(made, "rttm", tmp_path)).items()
    assert len(annotation) == 2
    stem = one_line(Path(made.file).stem)
    assert unquote(uri) == stem
    assert len(pd.read_parquet(written(made, "parquet", tmp_path))) == 2
    with written(made, "csv", tmp_path).open(encoding="utf-8", newline="") as file:
        rows = [(row["file"], row["role"]) for row in csv.DictReader(file)]
    assert rows == [(one_line(name), one_line(role)) for role in (first, second)]
    text = written(made, "jsonl", tmp_path).read_bytes().decode()
    found = [json.loads(line) for line in text.split("\n")[:-1]]
    assert [(row["file"], row["role"]) for row in found] == [(name, first), (name, second)]


def test_what_cannot_be_text_is_escaped() -> None:
    assert one_line("Gespräch 通話 🙂") == "Gespräch 通話 🙂"
    assert one_line("a\tb\nc\x00d\udcffe\u2028f") == r"a\x09b\x0ac\x00d\udcffe\u2028f"


def test_every_voice_has_a_name_of_its_own() -> None:
    roles = ["a", "a", "channel 3", None, " "]
    tracks = [Track(channel, role, ()) for channel, role in enumerate(roles)]
    assert voices(tracks) == ("a", "a (1)", "channel 3", "channel 3 (3)", "channel 4")


@pytest.mark.parametrize("name", formats.NAMES)
def test_the_same_answer_gives_the_same_bytes(name: str) -> None:
    files = [io.BytesIO(), io.BytesIO()]
    for file in files:
        formats.write(CASES["call"](), name, file)
    assert files[0].getvalue() == files[1].getvalue() != b""


def test_formats_are_told_apart_by_their_suffix() -> None:
    suffixes = [formats.find(name).SUFFIX for name in formats.NAMES]
    assert len(set(suffixes)) == len(suffixes)
    assert all(suffix.startswith(".") for suffix in suffixes)


@pytest.mark.parametrize("name", ["docx", "", "RTTM", "naming", "summary", "../csv"])
def test_unknown_format(name: str) -> None:
    file = io.BytesIO()
    with pytest.raises(BadInput, match="^Bad format '.*', expected one of rttm, csv, parquet, jsonl"):
        formats.write(CASES["mono"](), name, file)
    assert not file.getvalue()


def test_parquet_without_pyarrow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)  # Python's own way to say that there is none
    file = io.BytesIO()
    with pytest.raises(Unavailable, match=r"^Bad format 'parquet', expected pyarrow to be installed"):
        formats.write(CASES["mono"](), "parquet", file)
    assert not file.getvalue()


def test_pyarrow_waits_until_it_is_needed() -> None:
    code = (
        "from sedstream.exports import formats\n"
        "for name in formats.NAMES: formats.find(name)\n"
        "import sys; print([m for m in ('pyarrow', 'torch', 'numba') if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
