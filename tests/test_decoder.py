"""The decoder against an exhaustive search, against its uncompiled self, and against its promises."""

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from sedstream.decoding import decoder
from sedstream.decoding.decoder import Decoder, quantise
from sedstream.decoding.settings import DecoderSettings
from sedstream.errors import BadModel

Problem = tuple[NDArray[np.int32], NDArray[np.bool_], DecoderSettings, list[int]]


@st.composite
def problems(draw: Any, longest: int = 60, lag: int | None = None) -> Problem:
    frames, classes = draw(st.integers(1, longest)), draw(st.integers(2, 4))
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    minimum = draw(st.integers(1, 6))
    settings = DecoderSettings(
        switch=draw(st.integers(0, 900)),
        pause=draw(st.integers(0, 300)),
        min_duration=minimum,
        lag=lag or minimum + draw(st.integers(0, 6)),
    )
    emissions = random.integers(-1000, 1, (frames, classes)).astype(np.int32)
    speech = random.random(frames) < draw(st.sampled_from([0.0, 0.5, 0.8, 1.0]))
    return emissions, speech, settings, draw(st.lists(st.integers(1, 9), min_size=1, max_size=8))


def decode(problem: Problem, whole: bool = False) -> list[int]:
    emissions, speech, settings, packets = problem
    machine = Decoder(emissions.shape[1], settings)
    labels: list[int] = []
    first = 0
    for packet in itertools.cycle([len(speech)] if whole else packets):
        labels += machine.push(emissions[first : first + packet], speech[first : first + packet]).tolist()
        first = min(first + packet, len(speech))
        assert first - len(labels) <= settings.lag, "a frame is final at most lag frames on"
        assert len(machine.tentative()) == first - len(labels)
        if first == len(speech):
            return labels + machine.flush().tolist()
    raise AssertionError


def cost(labels: list[int], problem: Problem) -> int:
    emissions, speech, settings, _ = problem
    paid = 0
    for t, label in enumerate(labels):
        paid -= int(emissions[t, label]) if speech[t] else 0
        if t and label != labels[t - 1]:
            paid += settings.switch if speech[t] and speech[t - 1] else settings.pause
    return paid


def cheapest(problem: Problem, ended: bool = True) -> int:
    """By plain dynamic programming over (class, length of its run so far); not ``ended``: the last run may be short."""
    emissions, speech, settings, _ = problem
    classes, minimum = emissions.shape[1], settings.min_duration
    infinite = 10**12
    costs = {(c, 1): -int(emissions[0, c]) * int(speech[0]) for c in range(classes)}
    for t in range(1, len(speech)):
        change = settings.switch if speech[t] and speech[t - 1] else settings.pause
        step: dict[tuple[int, int], int] = {}
        for (c, run), paid in costs.items():
            after = (c, min(run + 1, minimum))
            step[after] = min(step.get(after, infinite), paid - int(emissions[t, c]) * int(speech[t]))
            for other in range(classes):
                if other != c and run >= minimum:
                    total = paid + change - int(emissions[t, other]) * int(speech[t])
                    step[other, 1] = min(step.get((other, 1), infinite), total)
        costs = step
    complete = [paid for (_, run), paid in costs.items() if run >= minimum or not ended]
    return min(complete or list(costs.values()))


@settings(deadline=None, max_examples=150)
@given(problems(lag=1000))
def test_with_a_long_lag_the_labelling_is_the_cheapest(problem: Problem) -> None:
    if len(problem[1]) >= problem[2].min_duration:
        assert cost(decode(problem), problem) == cheapest(problem)


@settings(deadline=None, max_examples=150)
@given(problems())
def test_packets_change_nothing(problem: Problem) -> None:
    assert decode(problem) == decode(problem, whole=True)


@settings(deadline=None, max_examples=150)
@given(problems())
def test_no_run_is_shorter_than_the_minimum(problem: Problem) -> None:
    labels = decode(problem)
    runs = [len(list(run)) for _, run in itertools.groupby(labels)]
    assert len(labels) == len(problem[1])
    assert len(runs) == 1 or min(runs) >= problem[2].min_duration


@settings(deadline=None, max_examples=25)
@given(problems(longest=40))
def test_the_compiled_decoder_is_the_python_one(problem: Problem) -> None:
    compiled = decode(problem)
    names = ("trace", "best_other", "advance", "current")
    with pytest.MonkeyPatch.context() as patch:
        for name in names:
            python: Callable[..., Any] = getattr(decoder, name).py_func
            patch.setattr(decoder, name, python)
        assert decode(problem) == compiled


def test_silence_has_no_say() -> None:
    speech = np.ones(200, np.bool_)
    speech[80:120] = False
    emissions = np.full((200, 2), -500, np.int32)
    emissions[:80, 0] = emissions[120:, 0] = 0
    emissions[80:120, 1] = 10_000  # would win by far if it counted
    machine = Decoder(2, DecoderSettings(switch=100, pause=10, min_duration=5, lag=40))
    labels = np.concatenate([machine.push(emissions, speech), machine.flush()])
    assert set(labels.tolist()) == {0}


def test_what_comes_before_silence_is_final_a_minimum_duration_into_it() -> None:
    """No later frame can say anything about it: whatever class comes next begins in the silence."""
    speech = np.arange(200) < 80
    emissions = np.full((200, 3), -500, np.int32)
    emissions[:, 1] = 0
    machine = Decoder(3, DecoderSettings(min_duration=30, lag=1000))
    assert len(machine.push(emissions[:109], speech[:109])) < 80
    labels = machine.push(emissions[109:110], speech[109:110])
    assert machine.committed == 80
    assert set(labels.tolist()) == {1}


def test_quantise_is_a_256th_of_a_nat_and_bounded() -> None:
    assert quantise(np.array([[0.0, -1.0, -1 / 512 * 1.01, -np.inf]], np.float32)).tolist() == [[0, -256, -1, -5120]]


@pytest.mark.parametrize(
    "numbers", [(-1, 0, 1, 1), (0, -1, 1, 1), (1_000_001, 0, 1, 1), (0, 1_000_001, 1, 1), (0, 0, 0, 1), (0, 0, 5, 4)]
)
def test_bad_settings(numbers: tuple[int, int, int, int]) -> None:
    with pytest.raises(BadModel, match="Bad decoder"):
        DecoderSettings(*numbers)


@settings(deadline=None, max_examples=300)
@given(problems(lag=1000))
def test_what_is_shown_is_the_cheapest_so_far(problem: Problem) -> None:
    """What is final and what is not yet, together: a last run may be shorter than the minimum."""
    emissions, speech, settings, _ = problem
    machine = Decoder(emissions.shape[1], settings)
    labels = machine.push(emissions, speech).tolist()
    labels += machine.tentative().tolist()
    assert cost(labels, problem) == cheapest(problem, ended=False)
