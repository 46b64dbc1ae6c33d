"""What neutral sounds like in a voice: against the formula, against its uncompiled self, and against its promises."""

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.special import log_softmax

from sedstream.decoding import voice
from sedstream.decoding.settings import VoiceSettings
from sedstream.decoding.voice import PERIOD, Voice
from sedstream.grid import HOP
from sedstream.grid import PERIOD as MEMORY
from sedstream.speech import relay
from sedstream.speech.silero import CHUNK

Array = NDArray[np.float32]
USUAL = (-0.5, -2.0, -3.0)
SETTINGS = VoiceSettings(USUAL, after=200, column=0)


def call(frames: int, seed: int, offset: tuple[float, ...] = (0, 0, 0)) -> tuple[Array, NDArray[np.bool_]]:
    """Frames that mostly sound neutral, all of them off by the same amount, with pauses."""
    rng = np.random.default_rng(seed)
    logits = np.array(USUAL) + np.array(offset) + rng.normal(0, 0.7, (frames, 3))
    speech = np.repeat(rng.random(-(-frames // 25)) < 0.8, 25)[:frames]
    return log_softmax(logits, 1).astype(np.float32), speech


def formula(scores: Array, speech: NDArray[np.bool_], heard: int = 0) -> NDArray[np.float64]:
    """As the docstring has it, from frame `heard` on, frame by frame."""
    found = scores.astype(np.float64)
    for t in np.flatnonzero(speech):
        before = np.flatnonzero(speech[heard:t]) + heard
        weights = np.exp(scores[before, 0].astype(np.float64))
        offset = weights @ (scores[before] - np.array(USUAL)) / (SETTINGS.after + weights.sum())
        found[t] = log_softmax(scores[t] - offset)
    return found


def test_it_is_the_formula() -> None:
    scores, speech = call(900, 1, (-0.7, 0.2, 1.0))
    told = Voice(SETTINGS)(scores, speech)
    assert told.dtype == np.float32
    np.testing.assert_allclose(told, formula(scores, speech), atol=1e-5)
    assert np.array_equal(told[~speech], scores[~speech])
    np.testing.assert_allclose(np.exp(told[speech]).sum(1), 1, atol=1e-5)


@settings(max_examples=30)
@given(cuts=st.lists(st.integers(0, 2 * PERIOD), max_size=6), seed=st.integers(0, 99))
def test_it_does_not_depend_on_cuts(cuts: list[int], seed: int) -> None:
    scores, speech = call(2 * PERIOD + 9, seed)
    session = Voice(SETTINGS)
    bounds = itertools.pairwise([0, *sorted(cuts), len(scores)])
    parts = [session(scores[first:last], speech[first:last]) for first, last in bounds]
    assert np.array_equal(np.concatenate(parts), Voice(SETTINGS)(scores, speech))


def test_compiled_or_not(monkeypatch: pytest.MonkeyPatch) -> None:
    scores, speech = call(700, 2)
    sums, out = np.zeros((2, 4)), np.empty_like(scores)
    adapt: Any = voice.adapt
    adapt.py_func(scores, speech, 0, sums, np.array(USUAL), 0, SETTINGS.after, 300, out)
    monkeypatch.setattr(voice, "PERIOD", 300)
    np.testing.assert_allclose(out, Voice(SETTINGS)(scores, speech), atol=1e-6)


def emotional(scores: Array, speech: NDArray[np.bool_]) -> float:
    """Share of the speech at the end that has another label than neutral."""
    return float((scores.argmax(1) != 0)[speech][-2000:].mean())


@pytest.mark.parametrize(
    ("offset", "before", "after"),
    [
        ((-1.2, 0.0, 1.6), (0.5, 1.0), (0.0, 0.2)),  # neutral, that sounds sad to the model
        ((0.0, 0.0, 0.0), (0.0, 0.15), (0.0, 0.15)),  # neutral
        ((-3.0, -1.0, 4.0), (0.99, 1.0), (0.95, 1.0)),  # angry all the time: there is hardly a frame to learn from
    ],
)
def test_what_becomes_of_voices(
    offset: tuple[float, ...], before: tuple[float, float], after: tuple[float, float]
) -> None:
    scores, speech = call(9000, 3, offset)
    told = Voice(SETTINGS)(scores, speech)
    for share, (low, high) in ((emotional(scores, speech), before), (emotional(told, speech), after)):
        assert low <= share <= high


def test_it_forgets() -> None:
    """To the bit what a session says that began one period later, from two periods on."""
    scores, speech = call(4 * PERIOD, 6, (-0.7, 0.2, 1.0))
    whole = Voice(SETTINGS)(scores, speech)
    later = Voice(SETTINGS)(scores[PERIOD:], speech[PERIOD:])
    same = (whole[PERIOD:] == later).all(1)
    assert not same[: PERIOD - 9][speech[PERIOD : 2 * PERIOD - 9]].all()
    assert same[PERIOD:].all()
    np.testing.assert_allclose(
        whole[2 * PERIOD : 2 * PERIOD + 300],
        formula(scores[: 2 * PERIOD + 300], speech[: 2 * PERIOD + 300], PERIOD)[-300:],
        atol=1e-5,
    )


def test_its_period_is_whole_periods_of_all_else() -> None:
    """So calls that begin on one grid forget on it."""
    assert PERIOD * HOP % (relay.PERIOD * CHUNK) == 0
    assert PERIOD % MEMORY == 0
