"""The inference thread: sessions come, go and fail without touching each other."""

from __future__ import annotations

import copy
import gc
import queue
import time
import weakref
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import sedstream
from sedstream import loop
from sedstream.audio.resample import Resampler
from sedstream.audio.ring import Ring
from sedstream.engine import Delivery, Engine, Session
from sedstream.errors import BadInput, Unavailable
from sedstream.events import End, Event, Final, Gap, Update
from sedstream.grid import Plan
from sedstream.zoo import Model

Array = NDArray[np.float32]


class Post:
    """Takes deliveries on the engine's thread, hands them out on the test's."""

    def __init__(self) -> None:
        self._queue: queue.Queue[list[Delivery]] = queue.Queue()
        self.events: dict[int, list[tuple[int, Event]]] = {}
        self.errors: dict[int, Exception] = {}
        self.over: set[int] = set()

    def __call__(self, deliveries: list[Delivery]) -> None:
        self._queue.put(deliveries)

    def wait(self, *sessions: Session) -> None:
        """Until all of them are over."""
        while any(id(session) not in self.over for session in sessions):
            for delivery in self._queue.get(timeout=60):
                number = id(delivery.session)
                self.events.setdefault(number, []).extend(delivery.events)
                if delivery.error is not None:
                    self.errors[number] = delivery.error
                if delivery.done:
                    self.over.add(number)

    def of(self, session: Session, channel: int = 0) -> list[Event]:
        """All but the provisional ones, which a recording's answer leaves out."""
        events = self.events.get(id(session), [])
        return [event for where, event in events if where == channel and not isinstance(event, Update)]


def offline(samples: Array, rate: int, model: Model, channels: str = "mix", plan: str = "live") -> list[list[Event]]:
    result = sedstream.diarize(samples, rate=rate, model=model, plan=plan, channels=channels)
    return [list(track.events) for track in result.tracks]


@pytest.mark.parametrize(("rate", "plan"), [(8000, "live"), (16000, "live"), (16000, "batch"), (44100, "live")])
def test_a_session_is_the_recording(rate: int, plan: str, model: Model, speech: Array) -> None:
    samples = np.stack([speech[: 4 * rate], speech[4 * rate :: -1][: 4 * rate]], axis=1)
    post = Post()
    with Engine(model, post) as engine:
        split = engine.open(rate, 2, split=True, plan=plan)
        mixed = engine.open(rate, 2, plan=plan)
        for first in range(0, len(samples), 999):
            split.write(samples[first:first])  # a packet without samples is none
            split.write(samples[first : first + 999])
            mixed.write(samples[first : first + 999])
        split.close()
        mixed.close()
        post.wait(split, mixed)
        assert split.queued == mixed.queued == 0
    assert [post.of(split, 0), post.of(split, 1)] == offline(samples, rate, model, "split", plan)
    assert [post.of(mixed)] == offline(samples, rate, model, plan=plan)


def test_bad_audio_ends_its_own_session_only(model: Model, speech: Array) -> None:
    post = Post()
    with Engine(model, post) as engine:
        good, bad, gone = engine.open(), engine.open(), engine.open()
        for first in range(0, 64_000, 1600):
            for session in (good, bad, gone):
                session.write(speech[first : first + 1600])
            if first == 32_000:
                bad.write(np.array([np.nan], np.float32))
                gone.abort()
        good.close()
        post.wait(good, bad)
    assert isinstance(post.errors.pop(id(bad)), BadInput)
    assert not post.errors
    assert id(gone) not in post.over
    assert [post.of(good)] == offline(speech[:64_000], 16_000, model)


@settings(deadline=None, max_examples=8, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(parts=st.lists(st.tuples(st.integers(1, 9000), st.booleans()), min_size=1, max_size=8))
def test_losses_at_8_khz_never_shift_the_timeline(parts: list[tuple[int, bool]], model: Model, speech: Array) -> None:
    """Lost samples pass the resampler as zeros: the session is as long as if they had arrived, and says what is
    missing."""
    post = Post()
    with Engine(model, post) as engine:
        session = engine.open(8000)
        complete: list[Array] = []
        lost = position = 0
        for count, missing in parts:
            piece = np.zeros(count, np.float32) if missing else speech[position : position + count]
            if missing:
                session.lose(count)
                lost += count
            else:
                session.write(piece)
            complete.append(piece)
            position += count
        session.close()
        post.wait(session)
    events = post.of(session)
    end = events[-1]
    assert isinstance(end, End)
    gaps = [event for event in events if isinstance(event, Gap)]
    assert sum(gap.samples for gap in gaps) == end.lost
    assert abs(end.lost - 2 * lost) <= 2 * 24 * 2, "but for the resampler's look-ahead at the edges"
    expected = offline(np.concatenate(complete), 8000, model)[0]
    assert [e for e in events if isinstance(e, Final)] == [e for e in expected if isinstance(e, Final)]
    assert end.frames == expected[-1].frames  # type: ignore[union-attr]


@pytest.mark.parametrize("plan", ["live", "batch"])
def test_flush_mid_way(plan: str, model: Model, speech: Array) -> None:
    post = Post()
    with Engine(model, post) as engine:
        session = engine.open(plan=plan)
        session.write(speech[:48_000])
        session.flush()
        session.write(speech[48_000:96_000])
        session.close()
        post.wait(session)
    first, second = (offline(speech[a : a + 48_000], 16_000, model, plan=plan)[0] for a in (0, 48_000))
    finals = [event.segment.label for event in post.of(session) if isinstance(event, Final)]
    assert finals == [event.segment.label for event in [*first, *second] if isinstance(event, Final)]


def test_a_model_without_live_audio(model: Model) -> None:
    whole = copy.copy(model)
    whole.manifest = replace(model.manifest, plans={"whole": Plan(0, 0, 0)})
    with pytest.raises(BadInput, match="Bad model 'sedstream-base', expected one with a plan for live audio"):
        Engine(whole, lambda deliveries: None)


def test_bad_sessions(model: Model) -> None:
    post = Post()
    engine = Engine(model, post)
    with engine:
        with pytest.raises(BadInput, match="Bad channels 3"):
            engine.open(16_000, 3)
        with pytest.raises(BadInput, match="Bad sample rate 1000"):
            engine.open(1000)
    with pytest.raises(Unavailable, match="expected a running engine"):
        engine.open()
    other = copy.copy(model)
    other.manifest = replace(model.manifest, plans={**model.manifest.plans, "batch": Plan(0, 0, 0)})
    with Engine(other, post) as engine, pytest.raises(BadInput, match="Bad plan 'batch', expected one for live audio"):
        engine.open(plan="batch")


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1)])
def test_who_came_first_changes_nothing(order: tuple[int, ...], model: Model, speech: Array) -> None:
    parts = [speech[n * 32_000 : n * 32_000 + 48_000] for n in range(3)]
    post = Post()
    with Engine(model, post) as engine:
        sessions = {n: engine.open() for n in order}
        for n in order:
            for first in range(0, 48_000, 1600 * (1 + n)):
                sessions[n].write(parts[n][first : min(48_000, first + 1600 * (1 + n))])
            sessions[n].close()
        post.wait(*sessions.values())
    for n, part in enumerate(parts):
        assert [post.of(sessions[n])] == offline(part, 16_000, model)


@pytest.mark.parametrize(("rate", "packet"), [(8000, 160), (8000, 1), (16_000, 777), (44_100, 441), (48_000, 960)])
def test_the_packet_that_completes_a_block_wakes_the_engine(rate: int, packet: int, model: Model) -> None:
    """Each block is answered with no audio behind it, though most packets wake nobody."""
    plan = model.manifest.plan("live")
    answered: queue.Queue[float] = queue.Queue()
    resampler, completed = Resampler(rate), 0
    packets = iter(np.random.default_rng(1).normal(0, 0.01, (4 * rate // packet, packet)).astype(np.float32))

    def deliver(deliveries: list[Delivery]) -> None:
        for delivery in deliveries:
            if delivery.came is not None:
                answered.put(delivery.came)

    with Engine(model, deliver) as engine:
        session = engine.open(rate)
        for block in range(3):
            while completed < plan.span(block)[1]:
                before = engine.clock()
                samples = next(packets)
                completed += len(resampler.push(samples))
                session.write(samples)
            came = answered.get(timeout=30)
            assert before <= came <= engine.clock(), "it came with the last packet"
            assert answered.empty()


def test_live_calls_come_before_files(model: Model) -> None:
    """Six files that have come at once, and a call: whenever its audio completes a block, the next tick answers it."""
    noise = np.random.default_rng(1).normal(0, 0.001, 800_000).astype(np.float32)  # silence costs little
    step = model.manifest.plan("live").step * 320
    ready = model.manifest.plan("live").span(0)[1]
    order: list[list[Session]] = []
    asked: list[int] = []
    done = queue.Queue[None]()

    def deliver(deliveries: list[Delivery]) -> None:
        """Between two ticks: as soon as each file has had a block, the call speaks, and so again for each answer."""
        order.append([d.session for d in deliveries if d.came is not None])
        if len(order) == 10:  # every file was served by then, on up to 16 cores and on one
            live.write(noise[:ready])
        elif len(order) > 10 and live in order[-1]:
            live.write(noise[:step])
        else:
            return
        asked.append(len(order))
        if len(asked) == 6:
            done.put(None)

    # The clock stands: what counts is the order, not how fast this machine is.
    engine = Engine(model, deliver, clock=lambda: 0.0)
    files = [engine.open() for _ in range(6)]
    live = engine.open()
    for file in files:
        file.write(noise)
    with engine:
        done.get(timeout=120)
    assert set(files) == {session for tick in order[:10] for session in tick}, "the files are not starved"
    assert asked[:6] == list(range(10, 16)), "each block of the call was answered by the very next tick"
    for tick in order:
        assert len(tick) == len(set(tick)), "one block of each stream"


def test_a_file_is_answered_no_faster_than_allowed(model: Model, speech: Array) -> None:
    post = Post()
    blocks: list[int] = []
    began = time.monotonic()
    with Engine(model, post, max_speed=10, on_tick=lambda count, seconds: blocks.append(count)) as engine:
        session = engine.open()
        session.write(speech[:80_000])
        session.close()
        post.wait(session)
    assert time.monotonic() - began >= (sum(blocks) - 2) * 0.32 / 10
    assert sum(blocks) == -(-80_000 // (16 * 320))
    assert [post.of(session)] == offline(speech[:80_000], 16_000, model)


def test_no_more_streams_than_there_is_room_for(model: Model, speech: Array) -> None:
    post = Post()
    with Engine(model, post, capacity=3) as engine:
        first = engine.open(8000, 2, split=True)
        second = engine.open()
        with pytest.raises(Unavailable, match="expected fewer than 3") as full:
            engine.open()
        assert full.value.code == "full"
        first.abort()
        third = engine.open(8000, 2, split=True)
        with pytest.raises(Unavailable):
            engine.open()
        second.write(speech[:16_000])
        second.close()
        post.wait(second)
        third.abort()
        assert engine.streams == 0
    assert [post.of(second)] == offline(speech[:16_000], 16_000, model)


def test_a_model_that_fails_is_told_to_everybody(model: Model, speech: Array, monkeypatch: pytest.MonkeyPatch) -> None:
    post = Post()
    with Engine(model, post) as engine:
        with monkeypatch.context() as broken:
            broken.setattr(model, "silero", None)
            sessions = [engine.open(), engine.open()]
            for session in sessions:
                session.write(speech[:32_000])
            post.wait(*sessions)
        assert all(isinstance(post.errors[id(session)], Unavailable) for session in sessions)
        assert engine.failing
        assert not engine.sessions
        healed = engine.open()
        healed.write(speech[:32_000])
        healed.close()
        post.wait(healed)
        assert not engine.failing
    assert [post.of(healed)] == offline(speech[:32_000], 16_000, model)


def test_a_call_that_was_broken_off_leaves_nothing(model: Model, speech: Array) -> None:
    with Engine(model, Post()) as engine:
        session = engine.open()
        session.write(speech[:8_000])
        stream = weakref.ref(session.streams[0])
        time.sleep(0.3)  # the engine has looked at it, and waits for more
        session.abort()
        del session
        deadline = time.monotonic() + 20
        while stream() is not None:
            assert time.monotonic() < deadline
            gc.collect()
            time.sleep(0.02)


@pytest.mark.parametrize("rate", [8000, 16_000, 44_100])
def test_what_waits_is_told_in_seconds_of_the_call(rate: int, model: Model) -> None:
    """Whoever sends too much is slowed by it."""
    session = Engine(model, Post()).open(rate)
    session.write(np.zeros(10 * rate, np.float32))
    session.absorb()
    for _ in range(15):
        assert loop.tick(model, session.streams) == 1
    session.settle()
    assert session.queued == pytest.approx(10 - 15 * 0.32, abs=0.01)


def test_a_model_that_is_late_leaves_the_ring_alone_until_the_end(model: Model) -> None:
    """The ring is bounded, and tells what did not fit; what it holds at the close is heard."""
    ring = Ring(30 * 16_000)
    session = Engine(model, Post()).open(ring=ring)
    for seconds, left in ((15, 0), (5, 5)):
        ring.write(np.zeros(seconds * 16_000, np.float32))
        session.absorb()
        assert len(ring) == left * 16_000
    session.close()
    session.absorb()
    assert (len(ring), session.streams[0].written) == (0, 20 * 16_000)
