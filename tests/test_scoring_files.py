"""Scoring from files: each format, each bad line, ZED's layout, and our own output."""

from __future__ import annotations

import io
import json
from codecs import BOM_UTF16_BE
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import audformat
import numpy as np
import pandas
import parselmouth.praat
import pytest
import soundfile
from nobody import as_nobody, readable_by_nobody
from numpy.typing import NDArray

from sedstream.errors import BadInput
from sedstream.exports import formats, summary
from sedstream.folders import AnswerFolder
from sedstream.offline import diarize
from sedstream.scoring import pair, read, score
from sedstream.scoring.sheet import SECOND, stem
from sedstream.sources import find_recordings
from sedstream.zoo import Model

RTTM = "SPEAKER {file} 1 {start} {length} <NA> <NA> {emotion} <NA> <NA>\n"
_HEAD = 'File type = "ooTextFile"\nObject class = "TextGrid"\n\n'
TEXTGRID = (
    _HEAD
    + """xmin = 0
xmax = 3
tiers? <exists>
size = 2
item []:
    item [1]:
        class = "IntervalTier"
        name = "customer"
        xmin = 0
        xmax = 3
        intervals: size = 3
        intervals [1]:
            xmin = 0
            xmax = 0.02
            text = ""
        intervals [2]:
            xmin = 0.02
            xmax = 1.5
            text = "joy"
        intervals [3]:
            xmin = 1.5
            xmax = 3
            text = " "
    item [2]:
        class = "IntervalTier"
        name = "agent"
        xmin = 0
        xmax = 3
        intervals: size = 1
        intervals [1]:
            xmin = 1
            xmax = 2.0000000000000004
            text = "Angry"
"""
)


ZED = {
    "spk1_1": {
        "wav": "datafolder/wavs/spk1_1.wav",
        "duration": 4.0,
        "emotion": [{"emo": "sad", "start": 1.0, "end": 3.0}],
        "transcription": "oh no",
    },
    "spk2_1": {"wav": "datafolder/wavs/spk2_1.wav", "duration": 2.0, "emotion": []},
}


@pytest.fixture
def put(tmp_path: Path) -> Callable[[str, str | bytes], Path]:
    def write(name: str, content: str | bytes) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    return write


Put = Callable[[str, str | bytes], Path]


def seconds(path: Path) -> dict[str, list[tuple[float, float, str]]]:
    return {
        name: [(span.start / SECOND, span.end / SECOND, span.emotion) for span in recording.spans]
        for name, recording in read(path).items()
    }


EXPECTED = {"call.one": [(0.02, 1.5, "happy"), (1.0, 2.0, "angry")]}


@pytest.mark.parametrize(
    ("name", "content"),
    [
        (
            "x.rttm",
            ";; a comment\nSPKR-INFO call.one 1 <NA> <NA> <NA> unknown x <NA> <NA>\n\n"
            + RTTM.format(file="call.one", start="1.0", length="1.0", emotion="anger")
            + "SPEAKER call.one 1 0.02 1.48 <NA> <NA> Hap <NA>\n",
        ),
        (
            "x.csv",
            "# written by hand\n\n# twice\n\ufefffile,start,end,emotion\n"
            "calls/call.one.wav,0 days 00:00:00.020000,0 days 00:00:01.5,joy\n\ncalls/call.one.wav,1,2,a\n",
        ),
        ("x.csv", '"start","end","emotion",file\r\n.02,1.5,h,call.one.flac\r\n1,2,ang,call.one.flac\r\n'),
        (
            "x.jsonl",
            '{"file": "call.one.wav", "channel": 0, "start": 0.02, "end": 1.5, "emotion": "happy"}\n'
            '{"type": "arousal", "start": 0, "end": 1}\n'
            '{"file": "call.one.wav", "channel": 1, "start": 1, "end": 2, "emotion": "angry", "role": null}\n',
        ),
        (
            "x.json",
            '{"u": {"wav": "datafolder/call.one.wav", "duration": 9, "emotion": [{"emo": "happy", "start": 0.02, '
            '"end": 1.5}, {"emo": "angry", "start": 1, "end": 2}]}}',
        ),
        ("call.one.TextGrid", TEXTGRID),
    ],
)
def test_every_format_says_the_same(put: Put, name: str, content: str) -> None:
    if name.endswith("csv") and "\ufeff" in content:
        content = "\ufeff" + content.replace("\ufeff", "")
    assert seconds(put(name, content)) == EXPECTED


def test_fields_of_a_row(put: Put) -> None:
    rows = "file,start,end,emotion,arousal,valence,role,channel,speaker\na.wav,0,1,sad,.25,nan,customer,0,ann\n"
    (span,) = read(put("x.csv", rows))["a"].spans
    assert (span.arousal, span.valence, span.role, span.channel, span.speaker) == (0.25, None, "customer", "0", "ann")
    row = {"file": "a", "start": 0, "end": 1, "emotion": "sad", "arousal": {"mean": 0.5, "peak": 1}, "valence": None}
    (span,) = read(put("x.jsonl", json.dumps(row)))["a"].spans
    assert (span.arousal, span.valence) == (0.5, None)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.rttm", "SPEAKER a 1 0 1 <NA> <NA> sad\n", "Bad line of 8 fields in '{}' line 1, expected 10"),
        ("x.rttm", ";;\nSPEEKER a 1 0 1 <NA> <NA> sad <NA> <NA>\n", "Bad type 'SPEEKER' in '{}' line 2, expected"),
        ("x.rttm", RTTM.format(file="a", start="-1", length="2", emotion="sad"), "Bad span '-1 2' in '{}' line 1"),
        ("x.rttm", RTTM.format(file="a", start="1", length="0", emotion="sad"), "Bad span '1 0' in '{}' line 1"),
        ("x.rttm", RTTM.format(file="a", start="one", length="1", emotion="sad"), "Bad span 'one 1' in '{}' line 1"),
        ("x.rttm", RTTM.format(file="a", start="nan", length="1", emotion="sad"), "Bad span 'nan 1' in '{}' line 1"),
        ("x.rttm", RTTM.format(file="a", start="0", length="1", emotion="bored"), "Bad emotion 'bored' in '{}' line 1"),
        (
            "x.csv",
            "start,end,emotion\n0,1,sad\n2,1,sad\n",
            "Bad span '2 to 1' in '{}' line 3, expected 0 ≤ start < end",
        ),
        ("x.csv", "start,end,emotion\n-1,1,sad\n", "Bad span '-1 to 1' in '{}' line 2"),
        ("x.csv", "start,end,emotion\n1,inf,sad\n", "Bad span '1 to inf' in '{}' line 2"),
        ("x.csv", "start,end,emotion\n,1,sad\n", "Bad span ' to 1' in '{}' line 2"),
        ("x.csv", "#\nstart,end,emotion\n0,1,sad,3\n", "Bad row of 4 fields in '{}' line 3, expected 3"),
        ("x.csv", 'start,end,emotion\n0,1,"sad\n', "Bad row in '{}' line 2, expected comma-separated values"),
        ("x.csv", "start,End,emotion,end\n0,1,sad,2\n", "Bad header in '{}' line 1, expected 'end' once"),
        ("x.csv", "start,end\n0,1\n", "Bad header in '{}' line 1, expected start, end, emotion: 'emotion' is missing"),
        ("x.csv", "", "Bad file '{}', expected a header line"),
        ("x.csv", "start,end,emotion,arousal\n0,1,sad,high\n", "Bad arousal 'high' in '{}' line 2, expected a number"),
        ("x.csv", "start,end,emotion,duration\n0,1,sad,-3\n", "Bad duration '-3' in '{}' line 2"),
        ("x.jsonl", '\n{"start": 0\n', "Bad JSON in '{}' line 2, expected an object: Expecting"),
        ("x.jsonl", '{"start": ' + "9" * 5000 + "}", "Bad JSON in '{}', expected numbers and nesting of a usual size"),
        ("x.json", "{\n\n'u': 3}", "Bad JSON in '{}' line 3, expected an object: Expecting property name"),
        ("x.jsonl", "[1, 2]\n", "Bad row '[1, 2]' in '{}' line 1, expected a JSON object"),
        ("x.jsonl", '{"start": 0, "end": 1}\n', "'emotion' is missing"),
        ("x.jsonl", '{"start": true, "end": [1], "emotion": "sad"}\n', "Bad span 'True to [1]' in '{}' line 1"),
        (
            "x.jsonl",
            '{"start": 1, "end": 2, "emotion": "sad"}\n{"start": 0, "end": 1.5, "emotion": "angry"}\n',
            "Bad span '1 to 2' in '{}' line 1, expected no overlap with the segment that ends at 1.5",
        ),
        ("x.json", "[]", "Bad file '{}', expected a JSON object of utterances"),
        ("x.json", '{"u": {"duration": 3}}', "Bad entry in '{}', utterance 'u', expected wav, duration and a list"),
        ("x.json", '{"u": {"emotion": []}}', "Bad duration 'None' in '{}', utterance 'u'"),
        (
            "x.json",
            '{"u": {"duration": 1, "emotion": [{"emo": "sad"}]}}',
            "in '{}', utterance 'u', expected emo, start",
        ),
        (
            "x.json",
            '{"u": {"duration": 1, "emotion": [{"emo": "sad", "start": 1, "end": 0}]}}',
            "Bad span '1 to 0' in '{}', utterance 'u'",
        ),
        ("x.rttm", b"\n\xff\xfe\n", "Bad file '{}', expected UTF-8, which line 2 is not"),
        (
            "x.TextGrid",
            TEXTGRID.replace("xmax = 1.5", "xmax = 1,5", 1),
            "Bad value '1,5' in '{}' line 21, expected a number",
        ),
        (
            "x.TextGrid",
            TEXTGRID.replace("xmax = 1.5", "xmax =", 1),
            "Bad value '' in '{}' line 21, expected a number or a text",
        ),
        ("x.TextGrid", TEXTGRID.replace("xmax = 1.5", "", 1), "Bad value 'joy' in '{}' line 22, expected a number"),
        (
            "x.TextGrid",
            TEXTGRID.replace('"joy"', '"joy', 1),
            "Bad value 'joy' in '{}' line 22, expected a text in quotes",
        ),
        (
            "x.TextGrid",
            TEXTGRID.replace('"Angry"', '"Angry', 1),
            "Bad value '\"' in '{}' line 36, expected a text in quotes",
        ),
        (
            "x.TextGrid",
            TEXTGRID.replace('"joy"', '"bored"', 1),
            "Bad emotion 'bored' in '{}' line 22, expected one of neutral",
        ),
        (
            "x.TextGrid",
            TEXTGRID.replace("xmax = 1.5", "xmax = 0.01", 1),
            "Bad span '0.02 to 0.01' in '{}' line 21, expected seconds, 0.02",
        ),
        (
            "x.TextGrid",
            TEXTGRID.replace("xmin = 1.5", "xmin = 1.4", 1),
            "Bad span '1.4 to 3' in '{}' line 25, expected seconds, 1.5",
        ),
        (
            "x.TextGrid",
            TEXTGRID.replace("xmin = 1\n", "xmin = -1\n", 1),
            "Bad span '-1 to 2' in '{}' line 35, expected seconds, 0 ",
        ),
        (
            "x.TextGrid",
            TEXTGRID.replace("size = 3", "size = -3", 1),
            "Bad size '-3' in '{}' line 14, expected how many follow",
        ),
        (
            "x.TextGrid",
            TEXTGRID.replace("size = 3", "size = 9", 1),
            "Bad value 'IntervalTier' in '{}' line 28, expected a number",
        ),
        (
            "x.TextGrid",
            TEXTGRID.replace("size = 2", "size = 3", 1),
            "Bad value 'the end of the file' in '{}' line 36, expected a text in quotes",
        ),
        (
            "x.TextGrid",
            TEXTGRID.replace("size = 2", "size = 1", 1),
            "Bad value 'IntervalTier' in '{}' line 28, expected the end of the file",
        ),
        (
            "x.TextGrid",
            TEXTGRID.replace('"IntervalTier"', '"DurationTier"', 1),
            "Bad class 'DurationTier' in '{}' line 10, expected IntervalTier or",
        ),
        (
            "x.TextGrid",
            TEXTGRID.replace("xmax = 3", "xmax = 0", 1),
            "Bad duration '0.0' in '{}' line 5, expected seconds above 0",
        ),
        (
            "x.TextGrid",
            TEXTGRID.replace('"TextGrid"', '"PitchTier"', 1),
            "Bad file '{}', expected a TextGrid that Praat saved as text file",
        ),
        ("x.TextGrid", b"ooBinaryFile\x08TextGrid", "Bad value 'the end of the file' in '{}' line 1, expected a text"),
        ("x.txt", "hello", "Bad file '{}', expected one of .jsonl, .csv, .rttm, .textgrid, .json"),
    ],
)
def test_bad_lines_are_named(put: Put, name: str, content: str | bytes, message: str) -> None:
    path = put(name, content)
    with pytest.raises(BadInput) as error:
        read(path)
    text = str(error.value)
    assert message.replace("{}", str(path)) in text
    assert "\n" not in text


def test_bad_paths(tmp_path: Path, put: Put) -> None:
    with pytest.raises(BadInput, match=r"Bad path '.*nowhere', expected a file or folder that exists"):
        read(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(BadInput, match="Bad folder '.*empty', expected at least one file of .jsonl, .csv, .rttm"):
        read(tmp_path / "empty")
    put("two/x.csv", "file,start,end,emotion\nmonday/a.wav,0,1,sad\ntuesday/a.wav,0,1,sad\n")
    with pytest.raises(BadInput, match=r"Bad recordings 'monday/a.wav' and 'tuesday/a.wav' in .* line 3"):
        read(tmp_path / "two")


def test_different_recordings_are_named(put: Put) -> None:
    many = "".join(RTTM.format(file=f"only{n}", start=0, length=1, emotion="sad") for n in range(8))
    here = put("ref.rttm", RTTM.format(file="both", start=0, length=1, emotion="sad") + many)
    there = put("hyp.rttm", RTTM.format(file="both", start=0, length=1, emotion="sad"))
    with pytest.raises(BadInput, match="Bad reference 'only0, .*only4' and 3 more, expected recordings that the hyp"):
        score(here, there)
    with pytest.raises(BadInput, match="Bad hypothesis 'only0, .*only4' and 3 more, expected recordings that the ref"):
        score(there, here)


def test_different_channels_are_named(put: Put) -> None:
    here = put("ref.csv", "file,role,start,end,emotion\na,customer,0,1,sad\n")
    there = put("hyp.csv", "file,role,start,end,emotion\na,customer,0,1,sad\na,agent,0,1,sad\n")
    with pytest.raises(BadInput, match="Bad channel 'agent' of 'a' in the hypothesis, expected .*: customer"):
        score(here, there)
    assert score(there, here).eder == 0.5  # the hypothesis may find nothing in a channel


@pytest.mark.parametrize("name", ["x.csv", "x.jsonl"])
def test_a_duration_is_the_recordings(put: Put, name: str) -> None:
    """Not a segment's: what lies beyond it would not be scored, without a word."""
    head = "file,start,end,duration,emotion\n"
    rows: list[tuple[float, float, float, str]] = [(1, 3, 2, "angry"), (4, 5, 1, "sad")]

    def table(rows: list[tuple[float, float, float, str]]) -> Path:
        if name.endswith("csv"):
            return put(name, head + "".join(f"a.wav,{a},{b},{c},{e}\n" for a, b, c, e in rows))
        keys = ("start", "end", "duration", "emotion")
        return put(name, "\n".join(json.dumps({"file": "a.wav"} | dict(zip(keys, row, strict=True))) for row in rows))

    with pytest.raises(BadInput, match="Bad duration '1' in .*, expected that of the recording, 2"):
        read(table(rows))
    with pytest.raises(BadInput, match="Bad duration '2' of 'a', expected that of the recording: a segment ends at 3"):
        read(table(rows[:1]))
    assert read(table([(1, 3, 2.95, "angry")]))["a"].duration == 2.95 * SECOND


def test_two_files_of_one_recording_each(put: Put) -> None:
    """What takes its name from its file says nothing about whose it is; two that say something must agree."""
    row = "start,end,emotion\n0,1,sad\n"
    one, other = put("ref.csv", row), put("hyp.csv", row)
    named = put("named.rttm", RTTM.format(file="call", start=0, length=1, emotion="sad"))
    for here, there in ((one, other), (one, named), (named, one)):
        assert score(here, there).eder == 0.0
    with pytest.raises(BadInput, match="Bad reference 'call', expected recordings that the hypothesis has too"):
        score(named, put("second.rttm", RTTM.format(file="talk", start=0, length=1, emotion="sad")))


def test_what_no_clock_can_hold(put: Put) -> None:
    one = put("a.csv", "start,end,emotion\n0,1,sad\n")
    with pytest.raises(BadInput, match="Bad collar '1e\\+300', expected seconds"):
        score(one, one, collar=1e300)
    with pytest.raises(BadInput, match="Bad span '0 to 1e300' in .* line 2, expected"):
        read(put("b.csv", "start,end,emotion\n0,1e300,sad\n"))


def test_a_row_may_begin_with_a_hash(put: Put) -> None:
    """Comments stand before the header; behind it a hash is the first letter of a recording's name."""
    path = put("x.csv", "# a comment\nfile,start,end,emotion\n#1 call.wav,1,2,sad\ncall.wav,1,2,happy\n")
    assert seconds(path) == {"#1 call": [(1.0, 2.0, "sad")], "call": [(1.0, 2.0, "happy")]}


def test_names(put: Put) -> None:
    for file, name in {
        "calls/a.wav": "a", "C:\\calls\\b.aif": "b", "new\\x0aline.wav": "new\\x0aline", "x/bad\\udcff": "bad\\udcff",
        "v1.2": "v1.2", "c.CAF": "c", ".wav": ".wav",
    }.items():  # fmt: skip
        assert stem(file) == name


@pytest.mark.parametrize("collar", [-0.1, float("nan"), float("inf")])
def test_bad_collar(put: Put, collar: float) -> None:
    path = put("x.csv", "start,end,emotion\n0,1,sad\n")
    with pytest.raises(BadInput, match="Bad collar '.*', expected seconds, 0 or more"):
        score(path, path, collar=collar)


@pytest.mark.parametrize("collar", [np.float32(0.25), np.float64(0.25), np.int64(1)])
def test_a_collar_of_numpy(put: Put, collar: Any) -> None:
    path = put("x.csv", "start,end,emotion\n0,1,sad\n1,4,happy\n")
    report, plain = score(path, path, collar=collar), score(path, path, collar=float(collar))
    assert json.dumps(report.to_dict()) == json.dumps(plain.to_dict())
    assert report.table() == plain.table()


def test_labels_and_mapping(put: Put) -> None:
    path = put("x.csv", "start,end,emotion\n0,1,Excited\n1,2,n\n2,3,silence\n3,4,Joy\n")
    with pytest.raises(BadInput, match="Bad emotion 'Excited' in .* line 2, expected one of neutral, happy, sad"):
        read(path)
    found = read(path, mapping={"excited": "hap"})["x"].spans
    assert [span.emotion for span in found] == ["happy", "neutral", "happy"]
    found = read(path, labels=["happy", "excited"])["x"].spans
    assert [span.emotion for span in found] == ["excited", "neutral", "happy"]
    with pytest.raises(BadInput, match="Bad emotion 'Joy' in .* line 5, expected one of neutral, excited"):
        read(path, labels=["excited"])
    with pytest.raises(BadInput, match="Bad emotion 'Joy' in .* line 5, expected one of neutral, excited"):
        read(path, labels="excited")  # one, not its letters
    assert read(path, labels=np.array(["happy", "excited"]))["x"].spans == tuple(found)
    with pytest.raises(BadInput, match="Bad mapping 'excited=thrilled', expected one of neutral, happy"):
        read(path, mapping={"excited": "thrilled"})


def test_tables_of_audformat(put: Put) -> None:
    """A column of whole days, as one of zeros is, has no hours."""
    seconds = [("0s", "1.5s"), ("0s", "86401s")], [("0s", "86400s"), ("0s", "172800s")], [("1.25s", "2s"), ("2s", "3s")]
    for times in seconds:
        starts, ends = zip(*times, strict=True)
        index = audformat.segmented_index(["a.wav", "b.wav"], starts, ends)
        path = put("x.csv", pandas.Series(["sad", "happy"], index, name="emotion").to_csv())
        spans = [recording.spans[0] for recording in read(path).values()]
        expected = [tuple(pandas.Timedelta(time).value for time in pair) for pair in times]
        assert [(span.start, span.end) for span in spans] == expected


@pytest.mark.parametrize("time", ["0 days 1", "days", "1 day 00:00", "", "00:00"])
def test_times_that_are_none(put: Put, time: str) -> None:
    path = put("x.csv", f"start,end,emotion\n{time},1,sad\n")
    with pytest.raises(BadInput, match="Bad span"):
        read(path)


def test_channels_of_rttm_count_from_one(put: Put) -> None:
    rttm = "SPEAKER a 1 0 1 <NA> <NA> sad <NA> <NA>\nSPEAKER a 2 1 1 <NA> <NA> happy <NA> <NA>\n"
    rows = [{"file": "a.wav", "channel": n, "start": n, "end": n + 1, "emotion": ("sad", "happy")[n]} for n in (0, 1)]
    report = score(put("x.rttm", rttm), put("y.jsonl", "\n".join(map(json.dumps, rows))))
    assert (report.eder, report.tracks, set(report.speakers)) == (0.0, 2, {"a/0", "a/1"})


def test_folders_meet_by_name(put: Put, tmp_path: Path) -> None:
    for name in ("one", "deep/two"):
        stem = name.rsplit("/", 1)[-1]
        put(f"ref/{name}.rttm", RTTM.format(file=stem, start=1, length=1, emotion="sad"))
        put(f"hyp/{stem}.csv", "start,end,emotion\n0,4,junk\n")  # the richer format is read instead
        put(f"hyp/{stem}.jsonl", f'{{"file": "calls/{stem}.mp3", "start": 1, "end": 2, "emotion": "sad"}}\n')
    put("ref/three.rttm", "")
    put("hyp/three.jsonl", '{"type": "recording", "file": "three.wav", "duration": 10}\n')
    put("hyp/run.jsonl", "not an annotation")
    put("hyp/summary.csv", "file,duration\ncalls/one.mp3,30\nother.wav,9\n")
    report = score(tmp_path / "ref", tmp_path / "hyp")
    assert set(report.files) == {"one", "two", "three"}
    assert (report.eder, report.seconds) == (0.0, 42.0)  # 30 s by the summary


def test_zed_by_one_command(put: Put, tmp_path: Path) -> None:
    put("ZED/ZED.json", json.dumps(ZED))
    put("ZED/wavs/spk1_1.wav", b"RIFF")
    rows = [
        {"file": "ZED/wavs/spk1_1.wav", "start": 0.5, "end": 2.0, "emotion": "sad"},
        {"file": "ZED/wavs/spk1_1.wav", "start": 3.0, "end": 4.02, "emotion": "neutral"},
        {"file": "ZED/wavs/spk2_1.wav", "start": 1.0, "end": 2.02, "emotion": "angry"},
    ]
    hypothesis = put("hyp.jsonl", "\n".join(map(json.dumps, rows)))
    report = score(tmp_path / "ZED", hypothesis)
    assert report.seconds == 6.0  # ZED's own durations; the last frame of a hypothesis is cut there
    assert report.result.macro == pytest.approx((1.5 / 4 + 1 / 2) / 2)  # what SpeechBrain would report
    assert report.eder == pytest.approx(2.5 / 6)
    text = json.dumps(report.to_dict(), allow_nan=False)
    assert json.loads(text)["eder"]["macro"] == pytest.approx((1.5 / 4 + 1 / 2) / 2)
    assert "43.75" in report.table()


def test_what_lies_beyond_the_end_is_cut(put: Put) -> None:
    reference = read(put("ref.json", json.dumps(ZED)))
    rows = "file,start,end,emotion\nspk1_1,3.9,4.02,sad\nspk1_1,4.0,9.0,angry\nspk2_1,0,1,sad\n"
    first, second = pair(reference, read(put("hyp.csv", rows)))
    assert [(span.start, span.end) for span in first.hypothesis] == [(3.9 * SECOND, 4 * SECOND)]
    assert (first.duration, second.duration) == (4 * SECOND, 2 * SECOND)


def test_nothing_to_score_is_none_not_a_crash(put: Put) -> None:
    path = put("x.csv", "start,end,emotion\n0,0.1,sad\n")
    report = score(path, path, collar=0.25)
    assert report.eder is None
    assert "–" in report.table()
    json.dumps(report.to_dict(), allow_nan=False)


@pytest.mark.parametrize("form", ["Save as text file", "Save as short text file"])
def test_textgrids_saved_by_praat(tmp_path: Path, form: str) -> None:
    grid = parselmouth.praat.call("Create TextGrid", 0, 3.3, "one Käufer curve", "curve")
    parselmouth.praat.call(grid, "Set tier name", 1, "channel 1")
    for time in (1.1, 2.2):
        parselmouth.praat.call(grid, "Insert boundary", 2, time)
    parselmouth.praat.call(grid, "Set interval text", 1, 1, "neutral")
    parselmouth.praat.call(grid, "Set interval text", 2, 2, "sadness")
    parselmouth.praat.call(grid, "Insert point", 3, 0.5, "0.25")
    parselmouth.praat.call(grid, form, str(tmp_path / "a.TextGrid"))
    assert (tmp_path / "a.TextGrid").read_bytes().startswith(BOM_UTF16_BE)  # Praat's choice for the umlaut
    (found,) = read(tmp_path).values()
    assert (found.name, found.duration) == ("a", 3.3 * SECOND)
    spans = [(span.start / SECOND, span.end / SECOND, span.emotion, span.channel, span.role) for span in found.spans]
    assert spans == [(0, 3.3, "neutral", "1", ""), (1.1, 2.2, "sad", "1", "Käufer")]


def test_a_folder_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    """Not read as one without annotations."""
    with readable_by_nobody() as folder:
        (folder / "call.rttm").write_text(RTTM.format(file="call", start=0, length=1, emotion="sad"))
        (folder / "deep").mkdir(0o000)
        ((code, errors),) = as_nobody(["score", folder, folder])
    assert code == 2
    assert errors == f"sedstream: Bad folder '{folder}/deep', expected one that can be read: Permission denied\n"


def test_one_recording_in_two_files(put: Put, tmp_path: Path) -> None:
    for day in ("monday", "tuesday"):
        put(f"ref/{day}.rttm", RTTM.format(file="001", start=0, length=1, emotion="sad"))
    with pytest.raises(BadInput, match="Bad recording '001' in .*tuesday.*, expected it in one file: '.*monday.*' has"):
        read(tmp_path / "ref")


@pytest.mark.parametrize("name", ["rttm", "csv", "jsonl", "textgrid"])
def test_recordings_of_one_name_in_folders(
    model: Model, speech: NDArray[np.float32], tmp_path: Path, name: str
) -> None:
    """What `diarize` wrote of two days scores against itself, and against another format; each day has its length."""
    calls, answers, others = tmp_path / "calls", tmp_path / "answers", tmp_path / "others"
    for day, end in (("monday", 48_000), ("tuesday", 80_000)):
        (calls / day).mkdir(parents=True)
        soundfile.write(calls / day / "call.wav", speech[:end], 16_000)
    settings = {"plan": "batch", "labels": None, "channels": "mix", "roles": None}
    for out, kind in ((answers, name), (others, "csv")):
        AnswerFolder(out, find_recordings([str(calls)]), [kind], model, **settings).run(lambda _: None)
    for other in (answers, others):
        report = score(answers, other)
        assert (report.eder, report.seconds) == (0.0, 8.0)
        assert set(report.files) == {"monday/call", "tuesday/call"}


@pytest.mark.parametrize(("name", "content"), [("csv", "start,end,emotion\n"), ("rttm", ""), ("jsonl", "")])
def test_nothing_is_felt_in_a_file_without_segments(put: Put, name: str, content: str) -> None:
    """All of the reference is missed; the other way round all that was found is a false alarm."""
    felt, nothing = put("a.csv", "start,end,emotion\n0,2,sad\n2,4,neutral\n"), put(f"hyp/a.{name}", content)
    (found,) = read(nothing).values()
    assert (found.name, found.spans, found.duration) == ("a", (), None)
    assert score(felt, nothing).eder == 0.5
    assert score(nothing, felt).eder == 0.5


def test_roles_of_rttm(put: Put) -> None:
    info = "SPKR-INFO my%20call {channel} <NA> <NA> <NA> unknown {role} <NA> <NA>\n"
    head = info.format(channel=1, role="customer") + info.format(channel=2, role="agent")
    rttm = head + RTTM.format(file="my%20call", start=0, length=1, emotion="sad")
    report = score(put("x.csv", "file,role,start,end,emotion\nmy call.wav,customer,0,1,sad\n"), put("x.rttm", rttm))
    assert (report.eder, set(report.speakers)) == (0.0, {"my call/customer"})
    (silent,) = read(put("y.json", json.dumps({"b": {"duration": 1, "emotion": []}}))).values()
    assert (silent.spans, silent.duration) == ((), SECOND)
    both = put(
        "z.rttm", rttm + info.format(channel=1, role="ann") + info.replace("my%20call", "b").format(channel=1, role="")
    )
    found = read(both)
    assert [span.role for span in found["my call"].spans] == [""]  # two people in one channel: it is neither's
    assert found["b"].spans == ()


@pytest.mark.parametrize("name", ["rttm", "csv", "jsonl", "textgrid"])
def test_our_own_answer_scores_zero(
    model: Model, speech: NDArray[np.float32], tmp_path: Path, put: Put, name: str
) -> None:
    both = np.stack([speech, np.roll(speech, 80_000)], axis=1)
    answer = replace(
        diarize(both, rate=16_000, model=model, channels="split", roles=["customer", "agent"]), file="a.wav"
    )
    for kind, folder in (("jsonl", "ref"), (name, "hyp")):
        data = io.BytesIO()
        formats.write(answer, kind, data)
        put(f"{folder}/a.{kind}", data.getvalue())
    table = io.StringIO()
    summary.write_csv(summary.rows(answer), answer.labels, table)
    put("hyp/summary.csv", table.getvalue())
    report = score(tmp_path / "ref", tmp_path / "hyp")
    assert report.eder == 0.0
    assert report.segments.f1 in (None, 1.0)
    assert report.ccc["arousal"] == (None if name in ("rttm", "textgrid") else pytest.approx(1.0))
    assert (report.tracks, report.seconds) == (2, pytest.approx(2 * answer.duration))
    assert set(report.speakers) == {"a/customer", "a/agent"}


def test_people_of_one_channel_may_speak_at_once(put: Put) -> None:
    rows = [{"role": role, "start": n, "end": n + 2, "emotion": "sad"} for n, role in enumerate(("customer", "agent"))]
    (found,) = read(put("x.jsonl", "\n".join(map(json.dumps, rows)))).values()
    assert [span.role for span in found.spans] == ["customer", "agent"]


def test_days_of_audformat(put: Put) -> None:
    path = put("x.csv", "start,end,emotion\n1 days 02:03:04.5,2 days 00:00:00,sad\n")
    assert seconds(path) == {"x": [(93_784.5, 172_800.0, "sad")]}


def test_channels_meet_by_role_before_speaker(put: Put) -> None:
    """Each side has its own names for people."""
    head = "file,role,speaker,start,end,emotion\n"
    here = put("ref.csv", head + "a,customer,ann,0,1,sad\na,agent,bob,0,1,happy\n")
    there = put("hyp.csv", head + "a,customer,1,0,1,sad\na,agent,2,0,1,happy\n")
    assert score(here, there).eder == 0.0


def test_a_length_that_two_recordings_may_have_is_neithers(put: Put, tmp_path: Path) -> None:
    put("ref/a.csv", "start,end,emotion\n0,1,sad\n")
    put("hyp/a.csv", "start,end,emotion\n0,1,sad\n")
    put("hyp/summary.csv", "file,duration\nmonday/a.wav,10\ntuesday/a.wav,20\n")
    assert score(tmp_path / "ref", tmp_path / "hyp").seconds == 1.0
    put("hyp/summary.csv", "file,duration\nmonday/a.wav,10\ntuesday/a.wav,10\n")
    assert score(tmp_path / "ref", tmp_path / "hyp").seconds == 10.0
