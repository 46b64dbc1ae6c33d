"""The inference thread: sessions come and go on any thread, one thread runs the loop, one hand-over a tick leaves
it."""

from __future__ import annotations

import logging
import os
import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from .audio.resample import Resampler
from .audio.ring import Ring
from .errors import BadInput, SedstreamError, Unavailable
from .events import Event
from .grid import HOP, RATE
from .offline import mix
from .stream import Stream
from .tick import tick
from .zoo import Model, one_core

Array = NDArray[np.float32]
POLL = 0.02
"""Seconds between looks at a capture ring, whose callback must not wake anybody."""
BACKLOG = 10 * RATE
"""Samples that may wait in a stream, beyond those of a block, before its capture ring is left to fill up."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Audio:
    samples: Array


@dataclass(frozen=True, slots=True)
class _Lost:
    samples: int


@dataclass(frozen=True, slots=True)
class _Flush:
    pass


@dataclass(frozen=True, slots=True)
class _Close:
    pass


_Command: TypeAlias = _Audio | _Lost | _Flush | _Close


@dataclass(slots=True)
class Delivery:
    """What a tick has for one session: events with their channel, and how it stands."""

    session: Session
    events: list[tuple[int, Event]]
    done: bool = False
    error: SedstreamError | None = None


@dataclass(eq=False, slots=True)
class Session:
    """One call: 1 or 2 channels at ``rate`` Hz, mixed into one stream or one stream a channel.

    Its methods may be called from any one thread; the streams belong to the engine's.
    """

    engine: Engine
    rate: int
    streams: tuple[Stream, ...]
    ring: Ring | None = None
    _resamplers: tuple[Resampler, ...] = ()
    _inbox: deque[_Command] = field(default_factory=deque)
    _taken: int = 0  # sample frames handed in, written by the caller's thread
    _used: int = 0  # sample frames that streams have answered for, written by the engine's thread
    _over: bool = False

    def write(self, samples: Array) -> None:
        """Append ``[n]`` or ``[n, channels]`` f32 at the session's rate. Never blocks: see ``queued``."""
        self._taken += len(samples)
        self._send(_Audio(samples.reshape(len(samples), -1)))

    def lose(self, samples: int) -> None:
        """``samples`` samples at the session's rate never arrived: zeros and a ``gap`` event take their place."""
        self._taken += samples
        self._send(_Lost(samples))

    def flush(self) -> None:
        """Make final what was written so far."""
        self._send(_Flush())

    def close(self) -> None:
        """No more audio: the remaining events follow, then a delivery with ``done``."""
        self._send(_Close())

    def abort(self) -> None:
        """Forget the session at once; nothing more is delivered."""
        self._over = True
        self.engine.wake()

    @property
    def queued(self) -> float:
        """Seconds of audio that were written and not answered yet."""
        return max(0, self._taken - self._used) / self.rate

    def _send(self, command: _Command) -> None:
        self._inbox.append(command)
        self.engine.wake()

    def _absorb(self) -> None:
        """Engine thread: hand what arrived to the streams."""
        self._empty_ring()
        while self._inbox:
            match self._inbox.popleft():
                case _Audio(samples):
                    self._hear(samples)
                case _Lost(samples=lost):
                    self._hear(np.zeros((lost, 1), np.float32), lost=True)
                case _Flush():
                    self._empty_ring(ending=True)
                    for stream in self.streams:
                        stream.flush()
                case _Close():
                    self._empty_ring(ending=True)
                    for stream, resampler in zip(self.streams, self._resamplers, strict=True):
                        stream.write(resampler.flush())
                        stream.close()

    def _empty_ring(self, ending: bool = False) -> None:
        """Hear what the ring holds. A model that cannot keep up leaves it there: it is bounded and counts drops."""
        late = any(stream.waiting > stream.plan.window * HOP + BACKLOG for stream in self.streams)
        if self.ring is None or (late and not ending):
            return
        for part in self.ring.read():
            lost = isinstance(part, int)
            samples = np.zeros(part, np.float32) if isinstance(part, int) else part
            self._taken += len(samples)
            self._hear(samples[:, None], lost=lost)

    def _hear(self, samples: Array, *, lost: bool = False) -> None:
        """Samples ``[n, channels]`` f32; lost ones are resampled too, so that rounding never shifts the timeline."""
        for column, (stream, resampler) in enumerate(zip(self.streams, self._resamplers, strict=True)):
            one = samples[:, column].copy() if len(self.streams) > 1 and not lost else mix(samples)
            stream.write(resampler.push(one), lost=lost)

    def _settle(self) -> None:
        """Engine thread: how much of what was taken is answered."""
        waiting = max(stream.waiting for stream in self.streams)
        written = max(stream.written for stream in self.streams)
        self._used = (written - waiting) * self.rate // RATE


class Engine:
    """Runs ``model`` for any number of sessions on one thread of its own.

    ``deliver`` is called on that thread, once a tick, with what each session that moved has: it must only pass it on.
    """

    def __init__(self, model: Model, deliver: Callable[[list[Delivery]], None]) -> None:
        self.model = model
        self._deliver = deliver
        self._sessions: list[Session] = []
        self._arrivals: deque[Session] = deque()
        self._wake = threading.Event()
        self._stopping = False
        self._pool = ThreadPoolExecutor(os.cpu_count(), "sedstream-row", initializer=one_core)
        self._thread = threading.Thread(target=self._run, name="sedstream-engine", daemon=True)

    def __enter__(self) -> Engine:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping = True
        self.wake()
        self._thread.join()
        self._pool.shutdown()

    def wake(self) -> None:
        """There is something to do."""
        self._wake.set()

    def open(
        self,
        rate: int = RATE,
        channels: int = 1,
        *,
        split: bool = False,
        plan: str = "live",
        labels: Sequence[str] | None = None,
        ring: Ring | None = None,
    ) -> Session:
        """A new session. ``split``: one stream a channel. ``ring``: mono audio is taken from there too. Raises
        ``BadInput``."""
        if not 1 <= channels <= 2:
            raise BadInput(f"Bad channels {channels}, expected 1 or 2")
        if self._stopping or (self._thread.ident is not None and not self._thread.is_alive()):
            raise Unavailable("Bad engine state 'stopped', expected a running engine")
        count = channels if split else 1
        streams = tuple(Stream(self.model.manifest, plan, labels) for _ in range(count))
        session = Session(self, rate, streams, ring, tuple(Resampler(rate) for _ in range(count)))
        self._arrivals.append(session)
        self.wake()
        return session

    def _run(self) -> None:
        polling = False
        while not self._stopping:
            self._wake.wait(POLL if polling else None)
            self._wake.clear()
            while self._turn():
                pass
            polling = any(session.ring is not None for session in self._sessions)

    def _turn(self) -> int:
        """Take in what arrived, answer one block of each stream, hand over; how many blocks were answered."""
        while self._arrivals:
            self._sessions.append(self._arrivals.popleft())
        self._sessions = [session for session in self._sessions if not session._over]
        failed: list[Delivery] = []
        for session in self._sessions:
            try:
                session._absorb()
            except SedstreamError as error:  # one caller's bad audio is nobody else's trouble
                session._over = True
                failed.append(Delivery(session, [], done=True, error=error))
        running = [session for session in self._sessions if not session._over]
        try:
            streams = [stream for session in running for stream in session.streams]
            answered = 0 if self._stopping else tick(self.model, streams, self._pool.map)
        except Exception as error:
            # The model itself failed (out of memory, a broken device): no session can go on, and each is told so.
            log.exception("the model failed")
            cause = Unavailable(f"Bad model run, expected an answer: {error}")
            for session in running:
                session._over = True
                failed.append(Delivery(session, [], done=True, error=cause))
            running, answered = [], 0
        deliveries = failed + [self._collect(session) for session in running]
        moved = [d for d in deliveries if d.events or d.done or answered]
        if moved:
            self._deliver(moved)
        return answered

    def _collect(self, session: Session) -> Delivery:
        session._settle()
        events = [(channel, event) for channel, stream in enumerate(session.streams) for event in stream.events()]
        done = all(stream.done for stream in session.streams)
        session._over = session._over or done
        return Delivery(session, events, done)
