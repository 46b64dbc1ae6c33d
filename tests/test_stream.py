"""The core's promises: live = offline to the bit, segments tile, nothing is lost silently, silence is not neutral."""

import itertools
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from sedstream.decoding.cadence import CADENCE
from sedstream.decoding.voice import Voice
from sedstream.errors import BadInput, BadModel
from sedstream.events import Arousal, End, Event, Final, Flushed, Gap, SpeechEnd, SpeechStart, Update
from sedstream.grid import HOP, RATE, frames_of
from sedstream.loop import tick
from sedstream.manifest import Manifest
from sedstream.stream import Stream
from sedstream.zoo import Model

Array = NDArray[np.float32]
LENGTHS = [0, 1, 319, 320, 321, 5119, 5120, 5121, 9919, 9920, 9921, 30_000, 48_123]


def cut(samples: Array, packets: list[int]) -> list[Array]:
    bounds = np.minimum(np.cumsum([0, *packets]), len(samples))
    return [samples[a:b] for a, b in zip(bounds, [*bounds[1:], len(samples)], strict=True)]


def run(
    model: Model, sessions: list[list[Array]], order: list[int] | None = None, plan: str = "live"
) -> list[list[Event]]:
    """Feed sessions packet by packet in a given interleaving, ticking over all of them after each packet."""
    streams = [Stream(model.manifest, plan) for _ in sessions]
    queues = [list(packets) for packets in sessions]
    events: list[list[Event]] = [[] for _ in sessions]
    turns = list(order or [])
    while not all(stream.done for stream in streams):
        number = turns.pop(0) % len(streams) if turns else next(n for n, s in enumerate(streams) if not s.done)
        if queues[number]:
            streams[number].write(queues[number].pop(0))
        else:
            streams[number].close()
        while tick(model, streams):
            pass
        for stream, seen in zip(streams, events, strict=True):
            seen.extend(stream.events())
    return events


def check_tiling(events: list[Event], samples: int) -> None:
    """Finals fill the spans of speech exactly; spans of speech and silence cover the timeline; ids have no holes."""
    frames = frames_of(samples)
    spans = []
    for event in events:
        if isinstance(event, SpeechStart):
            spans.append([event.frame, -1])
        elif isinstance(event, SpeechEnd):
            assert spans
            assert spans[-1][1] == -1
            spans[-1][1] = event.frame
    assert all(0 <= start < end <= frames for start, end in spans)
    assert all(a[1] < b[0] for a, b in itertools.pairwise(spans))
    finals = [event for event in events if isinstance(event, Final)]
    assert [final.number for final in finals] == list(range(len(finals)))
    pieces = [(final.segment.start, final.segment.end) for final in finals]
    for start, end in spans:
        inside = [piece for piece in pieces if start <= piece[0] < end]
        assert inside[0][0] == start
        assert inside[-1][1] == end
        assert all(a[1] == b[0] for a, b in itertools.pairwise(inside))
        pieces = [piece for piece in pieces if piece not in inside]
    assert not pieces, "no emotion in silence"
    last = events[-1]
    assert isinstance(last, End)
    assert last == End(frames, sum(end - start for start, end in spans), len(finals), last.lost, samples)


@settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_live_is_offline(data: Any, model: Model, speech: Array) -> None:
    """Any packets, any co-batching of sessions: identical events, all of them, to the bit."""
    count = data.draw(st.integers(1, 3))
    sessions, whole = [], []
    for _ in range(count):
        length = data.draw(st.one_of(st.sampled_from(LENGTHS), st.integers(0, 40_000)))
        start = data.draw(st.integers(0, len(speech) - 50_000))
        samples = speech[start : start + length]
        packets = data.draw(
            st.lists(st.one_of(st.sampled_from([0, 1, 160, 320, 1600]), st.integers(0, 9000)), max_size=12)
        )
        sessions.append(cut(samples, packets))
        whole.append(samples)
    order = data.draw(st.lists(st.integers(0, 2), max_size=30))
    together = run(model, sessions, order)
    for samples, events in zip(whole, together, strict=True):
        assert run(model, [[samples]])[0] == events
        check_tiling(events, len(samples))


@pytest.mark.parametrize("plan", ["live", "batch"])
def test_a_whole_recording_tiles(plan: str, model: Model, speech: Array) -> None:
    events = run(model, [[speech]], plan=plan)[0]
    check_tiling(events, len(speech))
    finals = [event.segment for event in events if isinstance(event, Final)]
    assert finals
    for segment in finals:
        assert segment.confidence == segment.probs[model.manifest.labels.index(segment.label)]
        assert sum(segment.probs) == pytest.approx(1, abs=1e-5)
        assert 0 <= segment.entropy <= np.log(len(segment.probs)) + 1e-6
        assert 0 < segment.arousal_mean <= segment.arousal_peak < 1
        assert 0 < segment.valence_mean < 1


def test_a_segment_before_silence_is_final_without_the_answers_about_the_silence(model: Model, speech: Array) -> None:
    """Its minimum duration of silence, heard to the end of a window, is enough: no lag, no look-ahead behind it."""
    plan = model.manifest.plan("live")
    stream = Stream(model.manifest, plan)
    stream.write(np.concatenate([speech[:48_000], np.zeros(32_000, np.float32)]))
    while tick(model, [stream]):
        pass
    final = [event for event in stream.events() if isinstance(event, Final)][-1]
    assert final.at <= (final.segment.end + model.manifest.decoder.min_duration + plan.step) * HOP
    stream.close()
    while tick(model, [stream]):
        pass
    assert not [event for event in stream.events() if isinstance(event, Final)]


def test_provisional_segments_become_the_final_ones(model: Model, speech: Array) -> None:
    events = run(model, [cut(speech, [1600] * 200)])[0]
    shown: dict[int, Update] = {}
    revisions: dict[int, int] = {}
    for event in events:
        if isinstance(event, Update):
            assert event.revision == revisions.get(event.number, -1) + 1
            revisions[event.number] = event.revision
            shown = {n: u for n, u in shown.items() if u.segment.start < event.segment.start} | {event.number: event}
            starts = [update.segment.start for update in shown.values()]
            assert starts == sorted(starts)
        elif isinstance(event, Final):
            assert event.revision == revisions.pop(event.number, -1) + 1
            shown.pop(event.number, None)
    assert any(isinstance(event, Update) for event in events)


def test_arousal_has_a_fixed_cadence(model: Model, speech: Array) -> None:
    quiet = np.zeros(32_000, np.float32)
    samples = np.concatenate([quiet, speech[:50_001], quiet])
    events = run(model, [[samples]])[0]
    points = [event for event in events if isinstance(event, Arousal)]
    frames = frames_of(len(samples))
    assert [(p.start, p.end) for p in points] == [(f, min(f + CADENCE, frames)) for f in range(0, frames, CADENCE)]
    assert points[0].arousal is None
    assert points[0].valence is None
    assert any(p.arousal is not None for p in points)


def test_silence_is_not_neutral(model: Model) -> None:
    quiet = np.zeros(16_000 * 5, np.float32)
    events = run(model, [[quiet]])[0]
    assert not [event for event in events if isinstance(event, (SpeechStart, Update, Final))]
    check_tiling(events, len(quiet))


def test_lost_audio_is_told_and_shifts_nothing(model: Model, speech: Array) -> None:
    samples = speech[:64_000].copy()
    samples[20_000:24_500] = 0
    complete = run(model, [[samples]])[0]
    stream = Stream(model.manifest)
    stream.write(samples[:20_000])
    stream.write(np.zeros(4_500, np.float32), lost=True)
    stream.write(samples[24_500:])
    stream.close()
    while tick(model, [stream]):
        pass
    events = stream.events()
    assert [event for event in events if isinstance(event, Gap)] == [Gap(20_000, 4_500, 24_500)]
    end = events[-1]
    assert isinstance(end, End)
    assert end.lost == 4_500
    assert [e for e in events if not isinstance(e, (Gap, End))] == complete[:-1]


@settings(deadline=None, max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_flush_is_the_same_as_cutting_the_recording_there(data: Any, model: Model, speech: Array) -> None:
    """Whenever the flush arrives relative to the ticks, the pieces answer as recordings of their own."""
    point = data.draw(st.sampled_from([0, 100, 320, 12_345, 20_000, 9_920, 15_361]))
    total = data.draw(st.sampled_from([20_000, 40_000]))
    samples = speech[30_000 : 30_000 + total]
    stream = Stream(model.manifest)
    events: list[Event] = []
    for packet in cut(samples[:point], data.draw(st.lists(st.integers(0, 5000), max_size=5))):
        stream.write(packet)
        if data.draw(st.booleans()):
            tick(model, [stream])
    stream.flush()
    for packet in cut(samples[point:], data.draw(st.lists(st.integers(0, 5000), max_size=5))):
        stream.write(packet)
        if data.draw(st.booleans()):
            tick(model, [stream])
    stream.close()
    while tick(model, [stream]):
        pass
    events += stream.events()
    whole_frames = point // HOP
    pieces = [samples[: whole_frames * HOP], samples[whole_frames * HOP :]]
    expected = []
    for piece, origin in zip(pieces, (0, whole_frames), strict=True):
        for event in run(model, [[piece]])[0]:
            if isinstance(event, Final):
                expected.append((event.segment.start + origin, event.segment.end + origin, event.segment.probs))
    found = [(e.segment.start, e.segment.end, e.segment.probs) for e in events if isinstance(e, Final)]
    assert found == expected
    assert [e.number for e in events if isinstance(e, Final)] == list(range(len(found)))
    assert [e.frame for e in events if isinstance(e, Flushed)] == [whole_frames]
    assert isinstance(events[-1], End)
    assert events[-1].frames == frames_of(total)


def flushed(model: Model, stream: Stream, parts: list[Array]) -> tuple[Array, Array, NDArray[np.bool_]]:
    """The frames of a stream to which parts are written, with a flush behind each."""
    for part in parts:
        stream.write(part)
        stream.flush()
    stream.close()
    while tick(model, [stream]):
        pass
    return stream.frames()


def test_a_constant_changes_nothing(model: Model, speech: Array) -> None:
    """Neither where a session begins nor behind a flush."""
    answers = []
    for constant in (0.0, 0.05):
        parts = [speech[first : first + 32_000] for first in range(8_000, 168_000, 32_000)]
        stream = Stream(model.manifest, keep_frames=True)
        answers.append(flushed(model, stream, [0.1 * part + np.float32(constant) for part in parts]))
    (probs, _, flags), (others, _, heard) = answers
    assert flags.mean() > 0.5
    assert (flags != heard).mean() < 0.01
    both = flags & heard
    assert (probs[both].argmax(1) != others[both].argmax(1)).mean() < 0.01


def test_memory_is_bounded(model: Model, speech: Array) -> None:
    stream = Stream(model.manifest)
    sizes = []
    for _ in range(8):
        for packet in cut(speech[:64_000], [1600] * 40):
            stream.write(packet)
            while tick(model, [stream]):
                pass
            stream.events()
        sizes.append(sum(a.nbytes for a in (stream._buffer, stream._scores, stream._affect, stream._flags)))
    assert max(sizes[1:]) <= 2 * stream.plan.window * HOP * 4


def test_16_bit_samples_are_as_loud_as_their_floats(model: Model, speech: Array) -> None:
    integers = np.rint(speech[:60_000] * 32768).astype(np.int16)
    assert run(model, [[integers]]) == run(model, [[integers / np.float32(32768)]])


def test_labels_restrict_and_renormalise(model: Model, speech: Array) -> None:
    chosen = ["angry", "neutral"]
    stream = Stream(model.manifest, labels=chosen)
    assert stream.labels == ("neutral", "angry")
    stream.write(speech[:60_000])
    stream.close()
    while tick(model, [stream]):
        pass
    finals = [event.segment for event in stream.events() if isinstance(event, Final)]
    assert finals
    assert all(sum(segment.probs) == pytest.approx(1, abs=1e-5) for segment in finals)
    assert all(len(segment.probs) == 2 for segment in finals)


def test_labels_that_are_all_most_unlikely(model: Model) -> None:
    stream = Stream(model.manifest, labels=["happy", "sad"], keep_frames=True)
    stream.write(np.zeros(RATE, np.float32))
    stream.close()
    scores = np.full((stream.plan.step, len(model.manifest.labels)), -300, np.float32)
    scores[:, model.manifest.labels.index("happy")] = -299
    scores[:, model.manifest.labels.index("neutral")] = 0
    while (block := stream.pull()) is not None:
        stream.hear(np.ones(len(block.chunks), np.float32), block.state)
        stream.push(scores, np.zeros((stream.plan.step, 2), np.float32))
    probs, _, speech = stream.frames()
    assert speech.any()
    np.testing.assert_allclose(
        probs[speech], np.tile([np.e / (1 + np.e), 1 / (1 + np.e)], (speech.sum(), 1)), atol=0.05
    )


@pytest.mark.parametrize("labels", [None, ["neutral", "angry"]])
def test_a_session_learns_its_voice(labels: list[str] | None, model: Model, speech: Array) -> None:
    """Of all labels, those that are not asked for too; a flush begins anew."""
    found = []
    for manifest in (model.manifest, replace(model.manifest, voice=None)):
        stream = Stream(manifest, labels=labels if manifest.voice else None, keep_frames=True)
        found.append(flushed(model, stream, [speech[: 10 * RATE], speech[10 * RATE : 16 * RATE]]))
    (told, _, speaking), (probs, _, _) = found
    assert model.manifest.voice is not None
    learnt = [
        Voice(model.manifest.voice)(np.log(probs[part]), speaking[part]) for part in (slice(500), slice(500, None))
    ]
    columns = [model.manifest.labels.index(label) for label in labels or model.manifest.labels]
    expected = np.exp(np.concatenate(learnt))[:, columns]
    expected /= expected.sum(1, keepdims=True)
    np.testing.assert_allclose(told[speaking], expected[speaking], atol=1e-4)
    plain = probs[:, columns] / probs[:, columns].sum(1, keepdims=True)
    assert np.abs(told - plain)[speaking].max() > 0.005


@pytest.mark.parametrize(
    ("samples", "says"),
    [
        (np.array([0, np.nan], np.float32), "expected finite"),
        (np.array([np.inf], np.float32), "expected finite"),
        (np.zeros((4, 2), np.float32), r"shape \(4, 2\), expected one channel"),
        (np.zeros(4, np.int32), "^Bad samples of type 'int32', expected floats in -1…1 or int16$"),
    ],
)
def test_bad_samples(samples: Array, says: str, model: Model) -> None:
    with pytest.raises(BadInput, match=says):
        Stream(model.manifest).write(samples)


def test_bad_arguments(model: Model) -> None:
    with pytest.raises(BadInput, match="Bad label 'cross', expected some of neutral"):
        Stream(model.manifest, labels=["neutral", "cross"])
    with pytest.raises(BadInput, match="expected two or more"):
        Stream(model.manifest, labels=["neutral"])
    with pytest.raises(BadModel, match="Bad plan 'slowest', expected one of fast, live, slow, batch"):
        Stream(model.manifest, "slowest")
    stream = Stream(model.manifest)
    stream.close()
    with pytest.raises(BadInput, match="after close"):
        stream.write(np.zeros(1, np.float32))


def test_a_block_that_was_never_answered_is_told(manifest: Manifest) -> None:
    """Whoever goes on after a tick that failed would wait for ever."""
    stream = Stream(manifest)
    stream.write(np.zeros(32_000, np.float32))
    assert stream.pull() is not None
    with pytest.raises(BadInput, match="Bad pull, expected none after a block that was never answered"):
        stream.pull()


def test_each_flush_is_answered(model: Model) -> None:
    """Also before there is anything, and where nothing came since the last one; whoever waits for it would wait on."""
    stream = Stream(model.manifest)
    stream.flush()
    assert stream.events() == [Flushed(0, 0)]
    stream.write(np.zeros(16_000, np.float32))
    stream.flush()
    stream.flush()
    while tick(model, [stream]):
        pass
    stream.flush()
    stream.close()
    while tick(model, [stream]):
        pass
    events = [event for event in stream.events() if isinstance(event, Flushed | End)]
    assert [event.at for event in events] == [16_000] * 4
    assert [type(event) for event in events] == [Flushed] * 3 + [End]


def test_what_goes_on_ends_at_a_flush_and_counts_on_behind_it(model: Model, speech: Array) -> None:
    """Speech that a flush cuts ends and begins there; arousal points go on from there; nothing is dated after what was
    written."""
    stream = Stream(model.manifest)
    stream.write(speech[16_000:48_100])
    stream.flush()
    stream.write(speech[48_100:80_001])
    stream.close()
    while tick(model, [stream]):
        pass
    events = stream.events()
    flushed = next(event for event in events if isinstance(event, Flushed))
    edges = [event for event in events if isinstance(event, SpeechStart | SpeechEnd)]
    assert [type(edge) for edge in edges] == [SpeechStart, SpeechEnd] * (len(edges) // 2)
    assert flushed.frame in [edge.frame for edge in edges if isinstance(edge, SpeechEnd)]
    points = [(event.start, event.end) for event in events if isinstance(event, Arousal)]
    assert points[0][0] == 0
    assert all(a[1] == b[0] for a, b in itertools.pairwise(points))
    assert points[-1][1] == frames_of(64_001)
    assert max(event.at for event in events) == 64_001


def test_updates_give_the_whole_picture(manifest: Manifest) -> None:
    """An update replaces everything provisional from its start on: who follows them has, after each block, what stands
    there now, and is told nothing twice. The answers are made up, of labels that change all the time."""
    dice = np.random.default_rng(0)
    stream = Stream(manifest)
    step, classes = stream.plan.step, len(stream.labels)
    stream.write(np.zeros((200 * step + stream.plan.right) * HOP, np.float32))
    labels = np.repeat(dice.integers(0, classes, 40 * step), dice.integers(10, 60, 40 * step))[: 200 * step]
    scores = np.log(np.where(labels[:, None] == np.arange(classes), 0.9, 0.1 / (classes - 1))).astype(np.float32)
    speech = np.repeat(dice.random(200) < 0.8, step)
    shown: dict[int, Update] = {}
    most = 0
    for first in range(0, 200 * step, step):
        block = stream.pull()
        assert block is not None
        probabilities = np.full(len(block.chunks), speech[first], np.float32)
        stream.hear(probabilities, block.state)
        stream.push(scores[first : first + step], np.full((step, 2), 0.5, np.float32))
        fresh = True
        for event in stream.events():
            if isinstance(event, Final):
                shown = {n: u for n, u in shown.items() if n > event.number}
            elif isinstance(event, Update):
                known = shown.get(event.number)
                assert not fresh or known is None or known.segment.extent != event.segment.extent
                shown = {n: u for n, u in shown.items() if u.segment.start < event.segment.start}
                shown[event.number] = event
                fresh = False
        held = stream._assembler.provisional(stream._decoder.tentative())
        assert [update.segment.extent for update in shown.values()] == [segment.extent for segment in held]
        most = max(most, len(held))
    assert most > 2
