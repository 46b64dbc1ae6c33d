"""A call as the engine sees it: what any thread may ask of it, and what the engine's thread does for it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from .audio.pcm import mix
from .audio.resample import Resampler
from .audio.ring import Ring
from .errors import SedstreamError
from .events import Event
from .grid import HOP, RATE
from .schedule import Lane
from .stream import Stream

Array = NDArray[np.float32]
BACKLOG = 10 * RATE
"""Samples that may wait in a stream, beyond those of a block, before its capture ring is left to fill up."""
MARGIN = 8
"""Samples by which the engine is called too early rather than too late: rounding of the session's rate."""


@dataclass(frozen=True, slots=True)
class _Audio:
    samples: Array
    at: float
    lost: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True)
class _Lost:
    samples: int
    at: float


@dataclass(frozen=True, slots=True)
class _Flush:
    at: float


@dataclass(frozen=True, slots=True)
class _Close:
    at: float


_Command: TypeAlias = _Audio | _Lost | _Flush | _Close


@dataclass(slots=True)
class Delivery:
    """What a tick has for one session: events with their channel, and how it stands. ``came``: when the audio was
    there that the tick answered (by the engine's clock); None if it answered none."""

    session: Session
    events: list[tuple[int, Event]]
    done: bool = False
    error: SedstreamError | None = None
    came: float | None = None


@dataclass(eq=False, slots=True)
class Session:
    """One call: 1 or 2 channels at ``rate`` Hz, mixed into one stream or one stream a channel.

    ``write``, ``lose``, ``flush``, ``close`` and ``abort`` may be called from any one thread; the rest belongs to the
    engine's.
    """

    _call: Callable[[Session], None]
    _clock: Callable[[], float]
    rate: int
    streams: tuple[Stream, ...]
    ring: Ring | None
    _resamplers: tuple[Resampler, ...]
    lanes: tuple[Lane, ...]
    _inbox: deque[_Command] = field(default_factory=deque)
    _taken: int = 0  # sample frames handed in, written by the caller's thread
    _heard: int = 0  # sample frames handed to the streams, and the two below: written by the engine's thread
    _used: int = 0  # sample frames that streams have answered for
    _enough: int = 0  # sample frames handed in before there can be another block
    _called: bool = False  # the engine is going to look at the inbox
    over: bool = False
    """Nothing more is delivered."""

    def write(self, samples: Array, lost: frozenset[int] = frozenset()) -> None:
        """Append ``[n]`` or ``[n, channels]`` f32 at the session's rate; the channels ``lost`` only stand for what
        never arrived. Never blocks: see ``queued``."""
        if not len(samples):
            return
        self._taken += len(samples)
        audio = _Audio(samples.reshape(len(samples), -1), self._clock(), lost)
        # Most packets complete no block: they wait here and wake nobody.
        self._send(audio, call=self._taken >= self._enough)

    def lose(self, samples: int) -> None:
        """``samples`` samples at the session's rate never arrived: zeros and a ``gap`` event take their place."""
        self._taken += samples
        self._send(_Lost(samples, self._clock()))

    def flush(self) -> None:
        """Make final what was written so far."""
        self._send(_Flush(self._clock()))

    def close(self) -> None:
        """No more audio: the remaining events follow, then a delivery with ``done``."""
        self._send(_Close(self._clock()))

    def abort(self) -> None:
        """Forget the session at once; nothing more is delivered."""
        self.over = True
        self._call(self)

    @property
    def queued(self) -> float:
        """Seconds of audio that were written and not answered yet."""
        return max(0, self._taken - self._used) / self.rate

    def _send(self, command: _Command, call: bool = True) -> None:
        self._inbox.append(command)
        if call and not self._called:
            self._called = True
            self._call(self)

    def absorb(self) -> None:
        """Hand what arrived to the streams."""
        self._called = False  # before the inbox is read: what comes now calls again
        self._empty_ring()
        packets: list[_Audio] = []
        while self._inbox:
            command = self._inbox.popleft()
            if isinstance(command, _Audio):
                if packets and packets[0].lost != command.lost:
                    self._hear(packets)
                    packets = []
                packets.append(command)
                continue
            self._hear(packets)
            packets = []
            match command:
                case _Lost(samples=lost):
                    zeros = np.zeros((lost, 1), np.float32)
                    self._hear([_Audio(zeros, command.at, frozenset(range(len(self.streams))))])
                case _Flush() | _Close():
                    self._empty_ring(ending=True)
                    self._end(command)
        self._hear(packets)

    def _end(self, command: _Flush | _Close) -> None:
        for lane, resampler in zip(self.lanes, self._resamplers, strict=True):
            if isinstance(command, _Flush):
                lane.stream.flush()
            else:
                lane.stream.write(resampler.flush())
                lane.stream.close()
            lane.ends(command.at)

    def _empty_ring(self, ending: bool = False) -> None:
        """Hear what the ring holds. A model that cannot keep up leaves it there: it is bounded and counts drops."""
        late = any(stream.waiting > stream.plan.window * HOP + BACKLOG for stream in self.streams)
        if self.ring is None or (late and not ending):
            return
        now = self._clock()
        for part in self.ring.read():
            lost = isinstance(part, int)
            samples = np.zeros(part, np.float32) if isinstance(part, int) else part
            self._taken += len(samples)
            self._hear([_Audio(samples[:, None], now, frozenset({0} if lost else ()))])

    def _hear(self, packets: list[_Audio]) -> None:
        """Packets ``[n, channels]`` f32 that have lost the same channels; those are resampled too, so that rounding
        never shifts the timeline."""
        if not packets:
            return
        samples = packets[0].samples if len(packets) == 1 else np.concatenate([p.samples for p in packets])
        for column, (stream, resampler) in enumerate(zip(self.streams, self._resamplers, strict=True)):
            one = samples[:, column].copy() if len(self.streams) > 1 and samples.shape[1] > 1 else mix(samples)
            stream.write(resampler.push(one), lost=column in packets[0].lost)
        self._heard += len(samples)
        behind = len(samples)
        for packet in packets:
            behind -= len(packet.samples)
            for column, lane in enumerate(self.lanes):
                lane.arrived(lane.stream.written - -(-behind * RATE // self.rate), packet.at, column in packet.lost)

    def settle(self) -> None:
        """How much of what was taken is answered, and how much makes another block."""
        waiting = max(stream.waiting for stream in self.streams)
        written = max(stream.written for stream in self.streams)
        self._used = (written - waiting) * self.rate // RATE
        self._enough = self._heard + (min(lane.lacking for lane in self.lanes) - MARGIN) * self.rate // RATE
