import itertools

import numpy as np
import onnxruntime
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from sedstream.errors import BadModel
from sedstream.grid import frames_of
from sedstream.speech.level import FADE, FIRST, MOST, SOFT, Level
from sedstream.speech.settings import VadSettings
from sedstream.speech.silero import CHUNK, CONTEXT, Silero, folder, new_state
from sedstream.speech.vad import Segmenter, chunk_of_frame, chunks_for

probabilities = st.lists(st.sampled_from([0.0, 0.2, 0.34, 0.36, 0.49, 0.5, 0.9, 1.0]), max_size=80)
limits = st.builds(VadSettings, min_speech=st.integers(1, 15), min_silence=st.integers(1, 25))


def decide(values: list[float], limits: VadSettings, cuts: list[int]) -> tuple[list[bool], int]:
    """Flags of all frames that the chunks cover, heard in pieces."""
    frames = next(f for f in range(len(values) * 2 + 1) if chunk_of_frame(f) >= len(values))
    segmenter = Segmenter(limits)
    flags: list[bool] = []
    bounds = sorted({min(c, len(values)) for c in cuts} | {0})
    for first, end in itertools.pairwise(bounds):
        flags += segmenter.hear(np.array(values[first:end], np.float32)).tolist()
        assert len(flags) == segmenter.decided
    flags += segmenter.hear(np.array(values[bounds[-1] :], np.float32), frames).tolist()
    return flags, frames


@given(probabilities, limits, st.lists(st.integers(0, 80), max_size=6))
def test_cuts_change_nothing_and_every_frame_is_decided(
    values: list[float], limits: VadSettings, cuts: list[int]
) -> None:
    flags, frames = decide(values, limits, cuts)
    assert len(flags) == frames
    assert flags == decide(values, limits, [])[0]


@given(probabilities, limits)
def test_durations_and_thresholds_hold(values: list[float], limits: VadSettings) -> None:
    flags, frames = decide(values, limits, [])
    edges = [0, *(np.flatnonzero(np.diff(np.array(flags, int))) + 1).tolist(), frames]
    frame_probabilities = [values[chunk_of_frame(f)] for f in range(frames)]
    for first, end in itertools.pairwise(edges):
        if first == end:
            continue
        inside = end < frames  # the last run may be cut by the end
        if flags[first]:
            assert end - first >= limits.min_speech or not inside
            assert frame_probabilities[first] >= limits.threshold
            if inside:
                assert frame_probabilities[end] < limits.release
        elif first > 0 and inside:
            assert end - first >= limits.min_silence


def test_a_frame_belongs_to_the_chunk_of_its_middle() -> None:
    assert [chunk_of_frame(f) for f in range(8)] == [0, 0, 1, 2, 2, 3, 4, 4]
    assert [chunks_for(f) for f in (0, 1, 2, 3, 8, 9)] == [0, 1, 1, 2, 5, 6]


def chunks_of(samples: NDArray[np.float32]) -> NDArray[np.float32]:
    padded = np.concatenate([np.zeros(CONTEXT, np.float32), samples])
    count = len(samples) // CHUNK
    return np.stack([padded[n * CHUNK : (n + 1) * CHUNK + CONTEXT] for n in range(count)])


def test_cuts_and_other_sessions_change_no_bit(speech: NDArray[np.float32]) -> None:
    """Alone in one call, alone in pieces, and beside other sessions at other places: the same probabilities and
    state."""
    silero = Silero()
    chunks = chunks_of(speech)[:120]
    ((whole, state),) = silero([chunks], [new_state()])
    pieces, cut = [], new_state()
    for first in range(0, 120, 10):
        ((part, cut),) = silero([chunks[first : first + 10]], [cut])
        pieces.append(part)
    assert np.array_equal(np.concatenate(pieces), whole)
    assert np.array_equal(cut, state)
    others = [chunks[5:70], chunks, chunks[:0], chunks[100:]]
    beside = silero(others, [new_state() for _ in others])
    assert np.array_equal(beside[1][0], whole)
    assert np.array_equal(beside[1][1], state)
    assert len(beside[2][0]) == 0
    assert not beside[2][1].any()


def test_it_hears_speech_and_not_silence(speech: NDArray[np.float32]) -> None:
    quiet = np.zeros(4 * 16000, np.float32)
    samples = np.concatenate([quiet, speech[: 6 * 16000], quiet])
    ((heard, _),) = Silero()([chunks_of(samples)], [new_state()])
    flags = Segmenter(VadSettings()).hear(heard, frames_of(len(samples)) - 1)
    seconds = np.flatnonzero(flags) * 0.02
    assert 4.0 <= seconds.min() <= 4.6
    assert 9.5 <= seconds.max() <= 10.5


@pytest.mark.parametrize(
    "wrong", [{"threshold": 0.2}, {"release": 0.0}, {"min_speech": 0}, {"min_silence": 0}, {"min_speech": 10_001}]
)
def test_bad_settings(wrong: dict[str, float]) -> None:
    with pytest.raises(BadModel, match="Bad VAD"):
        VadSettings(**wrong)  # type: ignore[arg-type]


def by_onnx(chunks: NDArray[np.float32], state: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """What the package's other network says, that for ONNX Runtime."""
    session = onnxruntime.InferenceSession(str(folder() / "silero_vad_16k_sequence.onnx"))
    if not len(chunks):
        return np.empty(0, np.float32), state
    told, hidden, cell = session.run(None, {"input": chunks, "h": state[:1], "c": state[1:]})
    return told, np.concatenate([hidden, cell])


def test_it_hears_what_the_package_hears(speech: NDArray[np.float32]) -> None:
    """Whatever sessions bring."""
    chunks = chunks_of(np.concatenate([np.zeros(5000, np.float32), speech]))
    parts = [chunks[30 * n :][:count] for n, count in enumerate((10, 10, 7, 0, 250, 10))]
    silero = Silero()
    groups = silero.groups([len(part) for part in parts])
    assert sorted(session for group in groups for session in group) == list(range(len(parts)))
    states = [new_state() for _ in parts]
    for _ in range(2):  # the second time from the states of the first
        ours = silero(parts, states)
        theirs = [by_onnx(part, state) for part, state in zip(parts, states, strict=True)]
        for (told, state), (expected, after) in zip(ours, theirs, strict=True):
            assert told.shape == expected.shape
            assert state.shape == after.shape == (2, 1, 128)
            np.testing.assert_allclose(told, expected, atol=1e-5)
            np.testing.assert_allclose(state, after, rtol=1e-4, atol=1e-4)
        states = [state for _, state in ours]
    assert max(float(told.max(initial=0)) for told, _ in ours) > 0.9


@pytest.mark.gpu
def test_a_gpu_hears_the_same(speech: NDArray[np.float32]) -> None:
    chunks = chunks_of(np.concatenate([np.zeros(5000, np.float32), speech]))
    parts = [chunks[30 * n :][:count] for n, count in enumerate((10, 10, 7, 0, 250, 10))]
    states = [[new_state() for _ in parts] for _ in range(2)]
    for _ in range(2):
        answers = [Silero(device)(parts, known) for device, known in zip(("cpu", "cuda"), states, strict=True)]
        for (told, state), (other, after) in zip(*answers, strict=True):
            np.testing.assert_allclose(other, told, atol=1e-4)
            np.testing.assert_allclose(after, state, atol=1e-3)
        states = [[state for _, state in answer] for answer in answers]


@given(st.lists(st.integers(0, 40), max_size=5))
def test_levels_do_not_depend_on_cuts(cuts: list[int]) -> None:
    dice = np.random.default_rng(0)
    chunks = (dice.normal(size=(40, CONTEXT + CHUNK)) * 10 ** dice.uniform(-4, 0, (40, 1))).astype(np.float32)
    whole, parts = Level(), Level()
    bounds = sorted({0, 40, *cuts})
    pieces = [parts(chunks[first:end]) for first, end in itertools.pairwise(bounds)]
    assert np.array_equal(np.concatenate(pieces), whole(chunks))


def test_only_what_is_soft_is_lifted() -> None:
    chunk = np.tile(np.float32([[0.5, -0.5]]), (CONTEXT + CHUNK) // 2)
    level = Level()
    assert np.array_equal(level(0 * chunk), 0 * chunk)
    assert level(0.002 * chunk).max() == pytest.approx(0.001 * SOFT / FIRST, rel=0.01)  # nothing else is known yet
    for _ in range(round(20 / FADE / (CHUNK / 16000))):
        faint = level(0.002 * chunk)
    assert np.array_equal(faint, np.float32(MOST) * (np.float32(0.002) * chunk))  # as far as it may be
    assert level(0.02 * chunk).max() == pytest.approx(SOFT)
    assert np.array_equal(level(chunk), chunk)  # loud speech is as it is
    assert np.array_equal(level(0.02 * chunk), np.float32(0.02) * chunk)  # and what is soft beside it
    for _ in range(round(40 / FADE / (CHUNK / 16000))):  # until 40 dB are forgotten
        faint = level(0.02 * chunk)
    assert faint.max() == pytest.approx(SOFT)


def test_a_constant_is_not_heard(speech: NDArray[np.float32]) -> None:
    """What a cheap sound card adds."""
    chunks = chunks_of(speech)
    expected, found = Level()(chunks), Level()(chunks + np.float32(0.1))
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_soft_speech_is_heard(speech: NDArray[np.float32]) -> None:
    """At -40 dB as much of it as at full level."""
    found = []
    for gain in (1.0, 0.01):
        chunks = chunks_of((np.rint(speech / np.abs(speech).max() * gain * 32767) / 32768).astype(np.float32))
        ((heard, _),) = Silero()([Level()(chunks)], [new_state()])
        found.append(Segmenter(VadSettings()).hear(heard).mean())
    assert abs(found[1] - found[0]) < 0.02


def test_speech_begins_where_the_threshold_is_reached_and_goes_on_above_release() -> None:
    """A voice that rises and then stays between the two is speech from its first frame on; the same under release is
    none."""
    limits = VadSettings(threshold=0.5, release=0.35, min_speech=12, min_silence=20)
    for level, speaks in ((0.4, True), (0.34, False)):
        probabilities = np.array([0.0] * 5 + [0.9] + [level] * 20, np.float32)
        flags = Segmenter(limits).hear(probabilities, 40)
        assert flags.any() == speaks
        if speaks:
            assert np.flatnonzero(flags).tolist() == list(range(8, 40))
