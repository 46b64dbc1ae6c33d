"""What a session remembers ends: relays, and answers that are to the bit those of a session that never heard more."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from test_cached import PLAN, make, voice
from test_vad import chunks_of

from sedstream.decoding import voice as voices
from sedstream.encoders.cached import Memory
from sedstream.encoders.relay import OLDER, Before, turn, two
from sedstream.events import Final, Segment
from sedstream.grid import HOP, PERIOD, RATE, Plan
from sedstream.loop import tick
from sedstream.manifest import Manifest
from sedstream.speech import relay, silero
from sedstream.speech.level import FADE, MOST, SOFT, Level
from sedstream.speech.relay import Relay, State, new_state
from sedstream.speech.silero import CHUNK, CONTEXT, Silero
from sedstream.stream import Stream
from sedstream.zoo import Model

Array = NDArray[np.float32]
PLANS = ("fast", "live", "slow", "batch")


def test_the_one_that_answers_has_heard_a_period_or_two() -> None:
    """Two sessions count what they heard; the second is told of the turns."""
    nothing = two(torch.zeros(3))
    states = nothing.expand(2, 2, 3)
    for step in range(40):
        states = turn(states, torch.tensor([False, step % 8 == 0]), nothing) + 1
        assert (states[0] == step + 1).all()
        assert (states[1, OLDER] == (step + 1 if step < 16 else 8 + step % 8 + 1)).all()


@pytest.mark.parametrize(("step", "blocks"), [(8, 48), (16, 24), (32, 12), (384, 1), (40, 10), (768, 1)])
def test_periods_are_whole_blocks(step: int, blocks: int) -> None:
    plan = Plan(3, step, 8)
    assert [plan.period(block) for block in (0, blocks - 1, blocks, 2 * blocks)] == [0, 0, 1, 2]


def test_a_chunk_period_is_a_period() -> None:
    assert relay.PERIOD * CHUNK == 4 * PERIOD * HOP


@pytest.fixture(scope="module")
def vad() -> Relay:
    return Relay(Silero())


@pytest.fixture(scope="module")
def long(speech: Array) -> Array:
    """100 s of speech whose loudest sample is at half of full scale."""
    return np.resize(speech / (2 * np.abs(speech).max()), 100 * RATE).astype(np.float32)


@settings(max_examples=20)
@given(cuts=st.lists(st.integers(0, 1000), max_size=4))
def test_the_vad_does_not_depend_on_cuts(cuts: list[int], vad: Relay, long: Array) -> None:
    chunks = chunks_of(long)[:1000]
    ((whole, end),) = vad([chunks], [new_state()])
    state, parts = new_state(), []
    for first, last in itertools.pairwise([0, *sorted(cuts), 1000]):
        ((part, state),) = vad([chunks[first:last]], [state])
        parts.append(part)
    assert np.array_equal(np.concatenate(parts), whole)
    assert state.heard == end.heard == 1000
    assert state.runs.keys() == end.runs.keys() == {1}
    assert np.array_equal(state.runs[1], end.runs[1])


def test_the_vad_forgets(vad: Relay, long: Array) -> None:
    """Sessions beside each other: one that hears all, one that begins a period later, one that hears nothing."""
    chunks = chunks_of(long)
    later = chunks[relay.PERIOD :]
    (whole, _), (alone, _), (none, state) = vad([chunks, later, chunks[:0]], [new_state()] * 3)
    assert not len(none)
    assert state == new_state()
    same = whole[relay.PERIOD :] == alone
    assert len(same) > 2 * relay.PERIOD
    assert not same[: relay.PERIOD].all()
    assert same[relay.PERIOD :].all()
    silence = np.zeros((relay.SILENT, CONTEXT + CHUNK), np.float32)
    ((_, start),) = Silero()([silence], [silero.new_state()])
    ((first, _),) = Silero()([chunks], [start * relay.HALF])
    assert np.array_equal(whole[: relay.PERIOD], first[: relay.PERIOD])
    assert (np.abs(whole - first) > 0.1).mean() < 0.02, "nearly as one that has heard everything"


def test_a_voice_that_is_already_there_is_heard(vad: Relay, speech: Array) -> None:
    """Soft speech from the middle of a word on, wherever that is: earlier than with a blank memory."""
    ((known, _),) = vad([chunks_of(speech)], [new_state()])
    said = [n for n in range(0, 400, 3) if known[n : n + 12].min() > 0.9]
    begun = [chunks_of(speech[n * CHUNK :] / 10)[:40] for n in said]
    asked = [vad([chunks], [new_state()])[0][0] for chunks in begun]
    blank = [Silero()([chunks], [silero.new_state()])[0][0] for chunks in begun]
    late, later = (np.mean([np.argmax(np.append(p > 0.25, True)) for p in heard]) for heard in (asked, blank))
    assert late < 0.5 * later


def test_a_state_that_never_fades_ends(vad: Relay, long: Array) -> None:
    chunks = chunks_of(long)[: 2 * relay.PERIOD]
    ((_, state),) = vad([chunks[:500]], [new_state()])
    spoilt = State(500, {run: np.full_like(found, np.nan) for run, found in state.runs.items()})
    (found, _), (expected, _) = vad([chunks[500:]] * 2, [spoilt, state])
    assert np.isnan(found[: relay.PERIOD - 500]).all()
    assert np.array_equal(found[relay.PERIOD - 500 :], expected[relay.PERIOD - 500 :])


def test_a_level_is_forgotten() -> None:
    """A peak of full scale, and one beyond it, as late as the fade says."""
    chunks = np.tile(np.float32([[0.003, -0.003]]), (3000, (CONTEXT + CHUNK) // 2))
    louder = chunks.copy()
    louder[0] *= 1000
    late = round(20 * np.log10(MOST / SOFT) / FADE * RATE / CHUNK) + 1
    assert late * CHUNK / RATE == pytest.approx(80, abs=0.1)
    found, expected = Level()(louder), Level()(chunks)
    assert np.array_equal(found[late:], expected[late:])
    assert (abs(found[1 : late - 10]) < abs(expected[1 : late - 10])).all()


Answers = list[tuple[tuple[NDArray[Any], ...], list[Segment]]]


def answers(model: Model, manifest: Manifest, plan: str, sounds: list[Array]) -> Answers:
    """Of sessions beside each other: frames as `Stream.frames` has them, and segments."""
    streams = []
    for samples in sounds:
        stream = Stream(manifest, plan, keep_frames=True)
        stream.write(samples)
        stream.close()
        streams.append(stream)
    while tick(model, streams):
        pass
    return [
        (stream.frames(), [event.segment for event in stream.events() if isinstance(event, Final)])
        for stream in streams
    ]


def forgotten(manifest: Manifest, plan: Plan) -> int:
    """Frames behind an edge of a period of the VAD, after which a session in which speech goes on knows no more of what
    was before: the VAD's run that answers has begun since, then the loudness has been measured since, then the keys and
    values of each layer, then the head's state has begun, then what is known of the voice."""
    reach = manifest.encoder["layers"] * (manifest.encoder["left"] + plan.step)
    known = 0 if manifest.voice is None else 2 * voices.PERIOD
    return relay.PERIOD * CHUNK // HOP + 2 * PERIOD + reach + 2 * PERIOD + known


@pytest.mark.parametrize(("plan", "learns"), [*((plan, False) for plan in PLANS), ("batch", True)])
def test_after_a_join_a_session_is_as_if_it_began_there(plan: str, learns: bool, model: Model, long: Array) -> None:
    """To the bit, beside the session that did; also where it learns its voice, which takes longest to forget."""
    manifest = model.manifest if learns else replace(model.manifest, voice=None)
    edge = voices.PERIOD if learns else relay.PERIOD * CHUNK // HOP
    late = forgotten(manifest, manifest.plan(plan))
    piece = np.resize(long, late * HOP + 9 * RATE)
    noise = np.random.default_rng(0).normal(0, 0.2, edge * HOP // 2).astype(np.float32)
    before = np.concatenate([noise, 1.5 * piece[: edge * HOP - len(noise)][::-1]])
    (alone, pieces), (joined, segments) = answers(model, manifest, plan, [piece, np.concatenate([before, piece])])
    assert not np.array_equal(joined[0][edge:][:50], alone[0][:50])
    if learns:
        still = late - 2 * voices.PERIOD
        assert not np.array_equal(joined[0][edge + still :], alone[0][still:])
    for found, expected in zip(joined, alone, strict=True):
        assert np.array_equal(found[edge + late :], expected[late:])
    assert alone[2][late:].any(), "speech"
    ends = [(s.start - edge, s.end - edge, s.label) for s in segments]
    assert [s for s in ends if s[0] >= late] == [(s.start, s.end, s.label) for s in pieces if s.start >= late]


@torch.inference_mode()
@pytest.mark.parametrize("way", ["by_rows", "by_slots"])
def test_what_never_fades_ends(way: str) -> None:
    """A state of NaN and a loudness without end, in one of two sessions beside each other."""
    network = make()
    sound = torch.nn.functional.pad(voice(130 * PLAN.step), (PLAN.left * HOP, PLAN.window * HOP)).repeat(2, 1)
    before, same = [Before(), Before()], []
    for k in range(125):
        if k % 7 == 5:  # silent
            before = [b._replace(follows=False) for b in before]
            continue
        block = sound[:, k * PLAN.step * HOP :][:, : PLAN.window * HOP]
        turns = PLAN.period(k) > PLAN.period(k - 1 - (k % 7 == 6))
        logits, affect, memories = getattr(network, way)(block, PLAN, [b._replace(turns=turns) for b in before])
        same.append(torch.equal(logits[0], logits[1]) and torch.equal(affect[0], affect[1]))
        if k == 10:
            own = memories[1]
            if way == "by_slots":
                own = Memory(*(field[own.number] for field in network._slots[PLAN.right].fields))
            own.hidden.fill_(torch.nan)
            own.loudest.fill_(torch.inf)
        before = [Before(memory, True) for memory in memories]
        if k >= 4 * 24:  # the loudness since two turns ago, keys and values since then, the state since the next turn
            assert same[-1]
    assert same[:9] == [True] * 9
    assert not any(same[10 : 2 * 24 - 8])


@pytest.mark.parametrize("plan", ["live", "batch"])
def test_after_two_periods_of_silence_the_model_begins_anew(plan: str, model: Model, long: Array) -> None:
    stream = Stream(model.manifest, plan)
    quiet = np.zeros(4 * PERIOD * HOP, np.float32)
    stream.write(np.concatenate([long[: 20 * RATE], quiet, long[: 20 * RATE]]))
    seen: dict[int, tuple[bool, bool, bool]] = {}
    answered = [-1]
    number = 0
    while (block := stream.pull()) is not None:
        seen[number] = block.memory is None, block.follows, block.turns
        ((heard, state),) = model.silero([block.chunks], [block.state])
        if stream.hear(heard, state):
            scores, affect, memories = model([block.samples], block.plan)
            stream.push(scores[0], affect[0], memories[0])
            answered.append(number)
        else:
            stream.push(None, None)
        number += 1
    period = stream.plan.period
    for last, now in itertools.pairwise(answered):
        periods = period(now) - period(max(0, last))
        assert seen[now] == (last < 0 or periods > 1, last >= 0 and now == last + 1, periods == 1)
    gaps = [period(now) - period(last) for last, now in itertools.pairwise(answered[1:])]
    assert max(gaps) > 1, "the silence"
    assert gaps.count(1) >= 4
