"""The inference thread: sessions come and go on any thread, one thread runs the loop, one hand-over a tick leaves
it."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from math import inf

from . import cores
from .audio.resample import Resampler
from .audio.ring import Ring
from .errors import BadInput, SedstreamError, Unavailable
from .grid import RATE, seconds
from .loop import tick
from .schedule import SHARE, Lane, Schedule
from .session import Delivery, Session
from .short import stream_of
from .zoo import Model

__all__ = ["Delivery", "Engine", "Session"]

POLL = 0.02
"""Seconds between looks at a capture ring, whose callback must not wake anybody."""

log = logging.getLogger(__name__)


class Engine:
    """Runs ``model`` for any number of sessions on one thread of its own.

    ``deliver`` is called on that thread, once a tick, with what each session that moved has: it must only pass it on.
    ``capacity``: streams that may be open at once. ``max_speed``: times real time at which a session is answered at
    most. ``on_tick``: called on that thread with the blocks and the seconds of each tick. Raises ``BadInput`` for a
    model that has no plan for live audio.
    """

    def __init__(
        self,
        model: Model,
        deliver: Callable[[list[Delivery]], None],
        *,
        capacity: int | None = None,
        max_speed: float = inf,
        on_tick: Callable[[int, float], None] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.model = model
        self.capacity = capacity
        self.clock = clock
        self.failing = False
        """The model, or this engine, failed the last time it ran."""
        self._deliver = deliver
        self._on_tick = on_tick
        live = [plan for plan in model.manifest.plans.values() if not plan.whole]
        if not live:
            raise BadInput(f"Bad model {model.manifest.name!r}, expected one with a plan for live audio")
        shortest = min(live, key=lambda plan: plan.step)
        self._schedule = Schedule(seconds(shortest.step) * SHARE, cores.count() * model.rows(shortest), max_speed)
        self._sessions: dict[Session, None] = {}  # added to by any thread, taken from by the engine's
        self._calls: deque[Session] = deque()
        self._ready: dict[Lane, Session] = {}
        self._wake = threading.Event()
        self._stopping = False
        self._pool = ThreadPoolExecutor(cores.count(), "sedstream-row", initializer=cores.one_core)
        self._thread = threading.Thread(target=self._run, name="sedstream-engine", daemon=True)

    def __enter__(self) -> Engine:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping = True
        self._wake.set()
        self._thread.join()
        self._pool.shutdown()

    @property
    def running(self) -> bool:
        """The thread is there."""
        return self._thread.is_alive() and not self._stopping

    @property
    def sessions(self) -> list[Session]:
        """Those that are open."""
        return [session for session in list(self._sessions) if not session.over]

    @property
    def streams(self) -> int:
        """How many streams are open."""
        return sum(len(session.streams) for session in self.sessions)

    def call(self, session: Session) -> None:
        """There is something to do for a session."""
        self._calls.append(session)
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
        """A new session. ``split``: one stream a channel. ``ring``: mono audio is taken from there too.

        Raises ``BadInput``, and ``Unavailable`` when the engine has stopped or (``code`` "full") holds all it can.
        """
        if not 1 <= channels <= 2:
            raise BadInput(f"Bad channels {channels}, expected 1 or 2")
        if self._stopping or (self._thread.ident is not None and not self._thread.is_alive()):
            raise Unavailable("Bad engine state 'stopped', expected a running engine")
        count = channels if split else 1
        streams = tuple(stream_of(self.model.manifest, plan, labels) for _ in range(count))
        resamplers = tuple(Resampler(rate) for _ in range(count))
        if self.capacity is not None and self.streams + count > self.capacity:
            full = Unavailable(f"Bad time for a session, expected fewer than {self.capacity} streams: try again later")
            full.code = "full"
            raise full
        session = Session(self.call, self.clock, rate, streams, ring, resamplers, tuple(map(Lane, streams)))
        self._sessions[session] = None
        self.call(session)
        return session

    def _run(self) -> None:
        while not self._stopping:
            self._wake.wait(self._patience())
            self._wake.clear()
            try:
                while not self._stopping and self._turn():
                    pass
            except Exception as error:  # without this thread, every call would wait for ever
                log.exception("the engine failed")
                self.failing = True
                cause = Unavailable(f"Bad engine, expected it to go on: {error}")
                self._deliver([self._give_up(session, cause) for session in self.sessions])

    def _patience(self) -> float | None:
        """Seconds until there is something to do in any case; None: until called."""
        waits = [max(0.0, lane.earliest - self.clock()) for lane in self._ready]
        if any(session.ring is not None for session in self.sessions):
            waits.append(POLL)
        return min(waits, default=None)

    def _turn(self) -> bool:
        """Take in what arrived, answer a tick's worth of blocks, hand over; False: nothing was to be answered."""
        touched = self._take_in()
        failed: list[Delivery] = []
        for session in touched:
            try:
                session.absorb()
            except SedstreamError as error:  # one caller's bad audio is nobody else's trouble
                failed.append(self._give_up(session, error))
            except Exception as error:
                log.exception("a session failed")
                failed.append(self._give_up(session, Unavailable(f"Bad session, expected it to go on: {error}")))
            else:
                self._line_up(session)
        chosen = self._schedule.choose(self._ready, self.clock())
        served = {lane: self._ready.pop(lane) for lane in chosen}
        came: dict[Session, float] = {}
        try:
            for lane in self._tick(chosen):
                came[served[lane]] = min(lane.came, came.get(served[lane], inf))
        except Exception as error:
            # The model itself failed (out of memory, a broken device): no session can go on, and each is told so.
            log.exception("the model failed")
            self.failing = True
            cause = Unavailable(f"Bad model run, expected an answer: {error}")
            failed += [self._give_up(session, cause) for session in self.sessions]
        moved = [s for s in dict.fromkeys([*touched, *served.values()]) if not s.over]
        deliveries = [self._collect(session, came.get(session)) for session in moved]
        if worth := failed + [d for d in deliveries if d.events or d.done or d.came is not None]:
            self._deliver(worth)
        return bool(chosen)

    def _take_in(self) -> list[Session]:
        """Sessions that have something new, and those that are watched; what is over is forgotten."""
        called = [session for session in self.sessions if session.ring is not None]
        while self._calls:
            session = self._calls.popleft()
            if session.over:
                self._forget(session)
            else:
                called.append(session)
        return list(dict.fromkeys(called))

    def _tick(self, lanes: Sequence[Lane]) -> list[Lane]:
        """Answer one block of each; those that had one."""
        if not lanes:
            return []
        before = [lane.stream.waiting for lane in lanes]
        began = self.clock()
        tick(self.model, [lane.stream for lane in lanes], self._pool.map)
        ended = self.clock()
        self.failing = False
        moved = [lane for lane, was in zip(lanes, before, strict=True) if lane.stream.waiting < was]
        for lane in lanes:
            lane.answered(lane in moved)
        self._schedule.answered(moved, began, ended)
        if self._on_tick is not None and moved:
            self._on_tick(len(moved), ended - began)
        return moved

    def _line_up(self, session: Session) -> None:
        for lane in session.lanes:
            if lane.ready and lane not in self._ready:
                lane.line_up()
                self._ready[lane] = session

    def _collect(self, session: Session, came: float | None) -> Delivery:
        session.settle()
        self._line_up(session)
        events = [(channel, event) for channel, stream in enumerate(session.streams) for event in stream.events()]
        done = all(stream.done for stream in session.streams)
        if done:
            self._forget(session)
        return Delivery(session, events, done, came=came)

    def _give_up(self, session: Session, error: SedstreamError) -> Delivery:
        self._forget(session)
        return Delivery(session, [], done=True, error=error)

    def _forget(self, session: Session) -> None:
        session.over = True
        self._sessions.pop(session, None)
        for lane in session.lanes:
            self._ready.pop(lane, None)
