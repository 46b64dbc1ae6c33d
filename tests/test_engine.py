"""The inference thread: sessions come, go and fail without touching each other."""

from __future__ import annotations

import queue

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import sedstream
from sedstream.engine import Delivery, Engine, Session
from sedstream.errors import BadInput, Unavailable
from sedstream.events import End, Event, Final, Gap, Update
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


def offline(samples: Array, rate: int, model: Model, channels: str = "mix") -> list[list[Event]]:
    result = sedstream.diarize(samples, rate=rate, model=model, plan="live", channels=channels)
    return [list(track.events) for track in result.tracks]


@pytest.mark.parametrize("rate", [8000, 16000, 44100])
def test_a_session_is_the_recording(rate: int, model: Model, speech: Array) -> None:
    samples = np.stack([speech[: 4 * rate], speech[4 * rate :: -1][: 4 * rate]], axis=1)
    post = Post()
    with Engine(model, post) as engine:
        split = engine.open(rate, 2, split=True)
        mixed = engine.open(rate, 2)
        for first in range(0, len(samples), 999):
            split.write(samples[first : first + 999])
            mixed.write(samples[first : first + 999])
        split.close()
        mixed.close()
        post.wait(split, mixed)
        assert split.queued == mixed.queued == 0
    assert [post.of(split, 0), post.of(split, 1)] == offline(samples, rate, model, "split")
    assert [post.of(mixed)] == offline(samples, rate, model)


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


def test_flush_mid_way(model: Model, speech: Array) -> None:
    post = Post()
    with Engine(model, post) as engine:
        session = engine.open()
        session.write(speech[:48_000])
        session.flush()
        session.write(speech[48_000:96_000])
        session.close()
        post.wait(session)
    first, second = (offline(speech[a : a + 48_000], 16_000, model)[0] for a in (0, 48_000))
    finals = [event.segment.label for event in post.of(session) if isinstance(event, Final)]
    assert finals == [event.segment.label for event in [*first, *second] if isinstance(event, Final)]


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
