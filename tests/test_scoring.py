"""EDER against SpeechBrain's, and everything else against counts done the slow way, sample by sample."""

from __future__ import annotations

import importlib.util
import itertools
import random
import runpy
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sedstream.grid import HOP, RATE
from sedstream.scoring import Span, Track, compare, eder
from sedstream.scoring.agreement import ccc
from sedstream.scoring.classes import Found
from sedstream.scoring.segments import boundaries, matching, segments
from sedstream.scoring.sheet import SECOND
from sedstream.scoring.sweep import join, regions, runs

SAMPLE = SECOND // RATE
EMOTIONS = ("neutral", "happy", "sad", "angry")


def track(reference: Sequence[Span], hypothesis: Sequence[Span], duration: int, file: str = "a") -> Track:
    return Track(file, "", file, duration, tuple(reference), tuple(hypothesis))


def spoken(start: float, end: float, emotion: str, **fields: float) -> Span:
    return Span(round(start * SECOND), round(end * SECOND), emotion, **fields)


def test_eder_is_speechbrains_on_1000_files_with_one_emotion() -> None:
    speechbrain = importlib.util.find_spec("speechbrain")
    assert speechbrain is not None
    assert speechbrain.origin is not None
    # The one file: the package puts lazy modules of optional parts into sys.modules, and hypothesis, which looks at all
    # modules there, does not bear them.
    theirs_eder = runpy.run_path(str(Path(speechbrain.origin).parent / "utils" / "EDER.py"))["EDER"]
    draw = random.Random(4)
    tracks, theirs = [], []
    for number in range(1000):
        size = draw.randint(1000, 8 * RATE)
        start = draw.choice([0, draw.randrange(size)])
        end = draw.choice([size, draw.randint(start + 1, size)])
        emotion = draw.choice(EMOTIONS[1:])
        frames: list[str] = []
        while len(frames) * HOP < size:
            frames += [draw.choice(EMOTIONS)] * draw.choice([1, 2, 5, 40, 200])
        frames = frames[: -(-size // HOP) + draw.randint(0, 2)]
        reference = {"emo": emotion, "start": start / RATE, "end": end / RATE}
        letters = [name[0] for name in frames]
        theirs.append(theirs_eder(letters, "x", size / RATE, [reference], 0.02, 0.02))
        hypothesis = [Span(n * HOP * SAMPLE, (n + 1) * HOP * SAMPLE, name) for n, name in enumerate(frames)]
        truth = [Span(start * SAMPLE, end * SAMPLE, emotion)]
        tracks.append(track(truth, hypothesis, size * SAMPLE, str(number)))
    for one, expected in zip(tracks, theirs, strict=True):
        assert eder(regions(one)).rate == pytest.approx(expected, abs=1e-9)
    assert compare(tracks).result.macro == pytest.approx(np.mean(theirs), abs=1e-9)


@st.composite
def spans(draw: st.DrawFn, size: int) -> list[Span]:
    """Segments that may overlap, repeat and touch, in samples times ``SAMPLE``."""
    found = []
    for _ in range(draw(st.integers(0, 8))):
        start = draw(st.integers(0, size - 1))
        length = draw(st.integers(1, size))
        found.append(Span(start * SAMPLE, min(size, start + length) * SAMPLE, draw(st.sampled_from(EMOTIONS))))
    return found


@st.composite
def pairs(draw: st.DrawFn, longest: int = 400) -> Track:
    size = draw(st.integers(1, longest))
    return track(draw(spans(size)), draw(spans(size)), size * SAMPLE)


def painted(found: Sequence[Span], size: int) -> list[set[str]]:
    """The labels of each sample."""
    samples: list[set[str]] = [set() for _ in range(size)]
    for span in found:
        for sample in range(span.start // SAMPLE, span.end // SAMPLE):
            samples[sample].add(span.emotion)
    return samples


def near_boundary(found: Sequence[Span], size: int, collar: int) -> list[bool]:
    """Whether a sample is less than ``collar`` samples from where a label of the reference comes or goes."""
    samples = painted(found, size)
    near = [False] * size
    for before, after, at in zip([set(), *samples], [*samples, set()], range(size + 1), strict=True):
        if before != after:
            for sample in range(max(0, at - collar), min(size, at + collar)):
                near[sample] = True
    return near


@settings(max_examples=1000, deadline=None)
@given(pairs(), st.sampled_from([0, 1, 7, 40]), st.booleans())
def test_eder_is_the_count_of_samples(one: Track, collar: int, silence: bool) -> None:
    size = one.duration // SAMPLE
    counts = dict.fromkeys(("false_alarm", "missed", "confusion", "overlap", "total"), 0)
    near = near_boundary(one.reference, size, collar) if collar else [False] * size
    for held, claimed, unscored in zip(painted(one.reference, size), painted(one.hypothesis, size), near, strict=True):
        truth, said = held - {"neutral"}, claimed - {"neutral"}
        if unscored or (not silence and not held and not said):
            continue
        counts["total"] += 1
        wrong, absent, right = said - truth, truth - said, truth & said
        if truth and not said:
            counts["missed"] += 1
        elif said and not truth:
            counts["false_alarm"] += 1
        elif wrong and (absent or not right):
            counts["confusion"] += 1
        elif wrong:
            counts["overlap"] += 1
        elif absent:
            counts["missed"] += 1
    ours = eder(regions(one, collar=collar * SAMPLE, silence=silence))
    assert {name: getattr(ours, name) / SAMPLE for name in counts} == counts
    if counts["total"]:
        errors = sum(counts.values()) - counts["total"]
        assert ours.rate == pytest.approx(errors / counts["total"], abs=1e-9)
        assert 0 <= ours.rate <= 1


@settings(max_examples=200, deadline=None)
@given(pairs(longest=8 * HOP))
def test_frames_are_counted_at_their_centres(one: Track) -> None:
    size = one.duration // SAMPLE
    centres = range(HOP // 2, size, HOP)
    truth, claim = painted(one.reference, size), painted(one.hypothesis, size)
    found: dict[str, Found] = {}
    for at in centres:
        left, right = truth[at] - {"neutral"} or {"neutral"}, claim[at] - {"neutral"} or {"neutral"}
        for name in left | right:
            found[name] = found.get(name, Found()) + Found(
                int(name in left and name in right), int(name in left), int(name in right)
            )
    report = compare([one])
    assert report.frames.classes == found
    if found:
        f1 = [2 * f.right / (f.reference + f.hypothesis) for f in found.values()]
        recall = [f.right / f.reference for f in found.values() if f.reference]
        assert report.frames.macro_f1 == pytest.approx(np.mean(f1))
        assert report.frames.uar == pytest.approx(np.mean(recall))


@settings(max_examples=200, deadline=None)
@given(pairs())
def test_the_rows_of_the_confusion_are_the_time_of_the_reference(one: Track) -> None:
    size = one.duration // SAMPLE
    matrix = compare([one]).confusion
    for emotion in EMOTIONS[1:]:
        time = sum(emotion in labels for labels in painted(one.reference, size)) * SAMPLE / SECOND
        assert sum(s for (row, _), s in matrix.items() if row == emotion) == pytest.approx(time)


@settings(max_examples=200, deadline=None)
@given(pairs())
def test_sides_swap(one: Track) -> None:
    """What is missed one way is a false alarm, or an overlap, the other way."""
    there = eder(regions(one))
    back = eder(regions(track(one.hypothesis, one.reference, one.duration)))
    assert there.error == back.error
    assert there.missed == back.false_alarm + back.overlap
    assert there.confusion == back.confusion


def test_the_four_parts_of_the_paper() -> None:
    reference = [spoken(1, 5, "sad"), spoken(6, 7, "happy")]
    hypothesis = [spoken(0, 1, "sad"), spoken(2, 3, "angry"), spoken(3, 5, "sad"), spoken(4, 5, "happy")]
    found = eder(regions(track(reference, hypothesis, 10 * SECOND)))
    assert found.to_dict() == {
        "eder": 0.5,
        "false_alarm": 0.1,
        "missed": 0.2,
        "confusion": 0.1,
        "overlap": 0.1,
        "seconds": 10.0,
    }


def test_a_frame_is_a_whole_number_of_ticks() -> None:
    """3000 frames of 20 ms are one segment, where float seconds leave hundreds."""
    frames = [Span(n * HOP * SAMPLE, (n + 1) * HOP * SAMPLE, "sad") for n in range(3000)]
    assert len(join(frames)) == 1
    assert runs(frames, 60 * SECOND) == [(0, 60 * SECOND, frozenset({"sad"}))]


def test_collar_on_each_side() -> None:
    one = track([spoken(2, 4, "sad")], [spoken(1.8, 4.5, "sad")], 10 * SECOND)
    assert eder(regions(one)).error == 0.7 * SECOND
    within = eder(regions(one, collar=SECOND // 4))
    assert within.total == 9 * SECOND
    assert within.false_alarm == 0.25 * SECOND


def test_silence_labelled_as_neutral_cannot_dilute() -> None:
    reference = [spoken(2, 4, "sad"), spoken(4, 5, "neutral")]
    hypothesis = [spoken(2, 3, "sad"), spoken(9, 10, "angry")]
    quiet = [*hypothesis, spoken(5, 9, "neutral")]
    for claimed in (hypothesis, quiet):
        found = eder(regions(track(reference, claimed, 20 * SECOND), silence=False))
        assert (found.total, found.missed, found.false_alarm) == (4 * SECOND, SECOND, SECOND)


def test_micro_macro_and_speakers() -> None:
    short = Track("a", "", "ann", 2 * SECOND, (spoken(0, 1, "sad"),), ())
    long = Track("b", "0", "ann", 6 * SECOND, (spoken(0, 6, "sad"),), (spoken(0, 6, "sad"),))
    other = Track("b", "1", "bob", 2 * SECOND, (), (spoken(0, 2, "happy"),))
    report = compare([short, long, other])
    assert report.eder == pytest.approx(3 / 10)
    assert report.result.macro == pytest.approx((1 / 2 + 2 / 8) / 2)
    assert {name: found.rate for name, found in report.speakers.items()} == {"ann": 1 / 8, "bob": 1.0}
    assert report.to_dict()["speakers"]["worst"] == "bob"
    assert report.to_dict()["speakers"]["mean"] == pytest.approx((1 / 8 + 1) / 2)


def test_baselines() -> None:
    report = compare([track([spoken(0, 6, "sad"), spoken(6, 7, "angry")], [spoken(0, 7, "sad")], 10 * SECOND)])
    assert report.neutral.result.eder.rate == 0.7
    assert report.neutral.result.eder.missed == 7 * SECOND
    assert (report.majority.label, report.majority.result.eder.rate) == ("sad", 0.4)
    assert report.neutral.frames.uar == pytest.approx(1 / 3)
    quiet = compare([track([spoken(0, 6, "sad")], [], 10 * SECOND)], silence=False)
    assert (quiet.majority.label, quiet.majority.result.eder.rate, quiet.neutral.result.eder.rate) == ("sad", 0.0, 1.0)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.lists(st.integers(0, 5), max_size=4), max_size=6))
def test_matching_finds_the_most_pairs(candidates: list[list[int]]) -> None:
    best = 0
    for chosen in itertools.product(*[[None, *row] for row in candidates]):
        taken = [right for right in chosen if right is not None]
        if len(taken) == len(set(taken)):
            best = max(best, len(taken))
    assert matching(candidates) == best


def test_matching_of_a_long_chain() -> None:
    """Where every pair must move: no recursion, whatever the length."""
    assert matching([[n, n + 1] for n in range(5000)] + [[0]]) == 5001


@settings(max_examples=200, deadline=None)
@given(pairs(), st.integers(0, 50))
def test_boundaries_are_matched_as_many_as_can_be(one: Track, within: int) -> None:
    times = [[start for start, _, _ in runs(found, one.duration)[1:]] for found in (one.reference, one.hypothesis)]
    near = [[n for n, time in enumerate(times[1]) if abs(time - at) <= within * SAMPLE] for at in times[0]]
    found = boundaries(one, within * SAMPLE / SECOND)
    assert found == Found(matching(near), len(times[0]), len(times[1]))


@pytest.mark.parametrize(
    ("hypothesis", "right"),
    [
        ([spoken(1.2, 3.0, "sad")], 1),  # onset 200 ms off
        ([spoken(1.21, 3.0, "sad")], 0),
        ([spoken(1.0, 4.0, "sad")], 1),  # offset half the length off
        ([spoken(1.0, 4.01, "sad")], 0),
        ([spoken(1.0, 3.0, "angry")], 0),
        ([spoken(1.0, 2.0, "sad"), spoken(2.0, 3.0, "sad")], 1),  # touching ones are one
        ([spoken(1.0, 2.5, "sad"), spoken(2.6, 3.0, "sad")], 1),
        ([spoken(0.9, 2.5, "sad"), spoken(1.1, 2.6, "angry")], 1),
    ],
)
def test_segments_found(hypothesis: list[Span], right: int) -> None:
    found = segments(track([spoken(1, 3, "sad"), spoken(3, 4, "neutral")], hypothesis, 5 * SECOND))
    assert (found.right, found.reference) == (right, 1)


def test_one_segment_is_matched_once() -> None:
    reference = [spoken(1, 2, "sad"), spoken(2.1, 3, "sad")]
    found = segments(track(reference, [spoken(1, 2, "sad")], 5 * SECOND))
    assert found == Found(1, 2, 1)


def test_fragments_show_what_eder_hides() -> None:
    """One wrong frame in ten: EDER 4 %, but 26 times as many fragments."""
    wrong = [Span(n * HOP * SAMPLE, (n + 1) * HOP * SAMPLE, "angry") for n in range(50, 100, 2)]
    clean = [Span(n * HOP * SAMPLE, (n + 1) * HOP * SAMPLE, "sad") for n in range(51, 100, 2)]
    one = track([spoken(1, 2, "sad")], [*wrong, *clean], 12 * SECOND)
    report = compare([one])
    assert report.eder == pytest.approx(0.5 / 12)
    assert (report.fragments.reference, report.fragments.hypothesis) == (3, 52)
    assert report.fragments.per_minute() == pytest.approx((15, 260))


def test_ccc() -> None:
    draw = np.random.default_rng(3)
    x = draw.normal(size=500)
    y = 0.5 * x + draw.normal(size=500) * 0.3 + 0.2
    expected = 2 * np.cov(x, y, bias=True)[0, 1] / (x.var() + y.var() + (x.mean() - y.mean()) ** 2)
    assert ccc(x, y) == pytest.approx(expected)
    assert ccc(x, x) == pytest.approx(1)
    assert ccc(x, -x + 2 * x.mean()) == pytest.approx(-1)
    assert ccc([0.5, 0.5], [0.5, 0.5]) is None
    assert ccc([], []) is None


def test_ccc_weighs_by_time_and_wants_both_sides() -> None:
    reference = [spoken(0, 3, "sad", arousal=0.1), spoken(3, 4, "sad", arousal=0.9), spoken(5, 6, "sad")]
    hypothesis = [spoken(0, 2, "sad", arousal=0.2), spoken(2, 6, "sad", arousal=0.7)]
    report = compare([track(reference, hypothesis, 6 * SECOND)])
    assert report.ccc["arousal"] == pytest.approx(ccc([0.1, 0.1, 0.1, 0.9], [0.2, 0.2, 0.7, 0.7]))
    assert report.ccc["valence"] is None


def test_the_table_fits_and_says_everything() -> None:
    emotions = ("neutral", "happy", "sad", "angry", "fearful", "disgusted", "surprised", "bewildered", "x" * 40)
    draw = random.Random(1)
    tracks = []
    for number in range(30):
        both = []
        for _ in range(2):
            cuts = sorted(draw.sample(range(3_600_000), 20))
            both.append([Span(a * 10**6, b * 10**6, draw.choice(emotions)) for a, b in itertools.pairwise(cuts)])
        tracks.append(Track(str(number), "", f"{number} {'speaker ' * 9}", 3600 * SECOND, *map(tuple, both)))
    report = compare(tracks, collar=0.25)
    text = report.table()
    assert max(map(len, text.splitlines())) <= 100
    expected = (
        "micro macro confusion overlap hypothesis neutral surprised bewildered speaker boundaries segments collar UAR"
    )
    for word in expected.split():
        assert word in text
    assert f"{100 * report.eder:.2f}" in text
    assert "20 more" in text


def test_claims_beside_the_reference_are_in_the_row_of_neutral() -> None:
    one = track([spoken(1, 2, "sad")], [spoken(1, 2, "sad"), spoken(3, 5, "happy")], 10 * SECOND)
    found = {pair: round(held, 6) for pair, held in compare([one]).confusion.items()}
    assert found == {("sad", "sad"): 1.0, ("neutral", "happy"): 2.0, ("neutral", "neutral"): 7.0}


def test_arousal_of_two_at_once_is_their_mean() -> None:
    reference = [spoken(0, 2, "sad", arousal=0.2), spoken(0, 2, "happy", arousal=0.6), spoken(2, 4, "sad", arousal=0.9)]
    hypothesis = [spoken(0, 2, "sad", arousal=0.4), spoken(2, 4, "sad", arousal=0.9)]
    assert compare([track(reference, hypothesis, 4 * SECOND)]).ccc["arousal"] == pytest.approx(1.0)


def test_conditions_are_reports_of_their_own() -> None:
    tracks = [track([spoken(2, 4, "sad")], [spoken(1.5, 3.9, "sad"), spoken(8, 9, "angry")], 10 * SECOND)]
    report = compare(tracks)
    for (collar, silence), result in report.conditions.items():
        assert result == compare(tracks, collar=collar, silence=silence).result
    assert len({result.eder.rate for result in report.conditions.values()}) == 4


def test_the_worst_and_the_best_speakers_are_shown() -> None:
    tracks = []
    for number in range(25):
        held = (spoken(0, 25, "sad"),)
        tracks.append(
            Track(str(number), "", f"speaker-{number:02d}", 25 * SECOND, held, (spoken(0, number + 1, "sad"),))
        )
    text = compare(tracks).table()
    shown = [number for number in range(25) if f"speaker-{number:02d}" in text]
    assert shown == [0, 1, 2, 3, 4, 20, 21, 22, 23, 24]
    assert text.index("speaker-00") < text.index("15 more") < text.index("speaker-24")


def test_the_majority_is_that_of_what_is_scored() -> None:
    """Without silence, silence is not the class that there is most of; nor is what a collar leaves out."""
    one = track([spoken(2, 5, "sad")], [], 10 * SECOND)
    assert [compare([one], silence=silence).majority.label for silence in (True, False)] == ["neutral", "sad"]
    short = [spoken(n, n + 0.5, "sad") for n in range(10)]
    mixed = track([*short, spoken(20, 23, "angry")], [], 30 * SECOND)
    labels = [compare([mixed], collar=collar, silence=False).majority.label for collar in (0, 0.25)]
    assert labels == ["sad", "angry"]
