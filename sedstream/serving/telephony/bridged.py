"""One call of a telephone platform on the engine: a session for each channel that is analysed.

The channels of a call arrive apart and may have different holes, so each has a timeline of its own; they are numbered
as on wire v1, where one session has them side by side.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...engine import Delivery, Engine, Session
from ...errors import SedstreamError
from ...events import End, to_wire
from .call import AGENT, Begin

MAX_QUEUED = 4.0
"""Seconds of unanswered audio past which a connection is not read until the engine has caught up."""
PIECE = 10.0
"""Seconds of a gap that are handed over at once."""

Publish = Callable[[dict[str, Any]], None]


class Call:
    """From its ``Begin`` until ``over``; it may outlive the connection that it began on.

    ``publish`` is told everything, in order; ``tell`` and ``ended`` belong to the connection that has the call now.
    """

    def __init__(
        self,
        engine: Engine,
        begin: Begin,
        publish: Publish,
        *,
        allow_agent: bool = False,
        keep: Callable[[Session, Call], None],
        forget: Callable[[Session], None],
    ) -> None:
        self.begin = begin
        self.positions = [0] * len(begin.roles)
        self.over = asyncio.Event()
        """Every event has been told."""
        self.error: SedstreamError | None = None
        self.tell: Publish | None = None
        self._publish = publish
        self._forget = forget
        self._reason = "closed"
        self._moved = asyncio.Event()
        self._channels: dict[Session, int] = {}
        self._ends: list[End] = []
        for channel, role in enumerate(begin.roles):
            if allow_agent or role != AGENT:
                session = engine.open(begin.rate)
                self._channels[session] = channel
                keep(session, self)
        self._left = set(self._channels)

    @property
    def labels(self) -> Sequence[str]:
        return next((session.streams[0].labels for session in self._channels), ())

    @property
    def latency(self) -> float:
        """Algorithmic latency in seconds."""
        return next((session.streams[0].plan.latency for session in self._channels), 0.0)

    async def write(self, channel: int, samples: NDArray[np.float32]) -> None:
        """``[n]`` f32 at the call's rate. Waits while the engine is behind."""
        self.positions[channel] += len(samples)
        for session in self._of(channel):
            session.write(samples[:, None])
            await self._room(session)

    async def lose(self, channel: int, samples: int) -> None:
        """``samples`` samples of a channel never came. Waits while the engine is behind."""
        self.positions[channel] += samples
        piece = round(PIECE * self.begin.rate)
        for session in self._of(channel):
            for first in range(0, samples, piece):
                session.lose(min(piece, samples - first))
                await self._room(session)

    def close(self, reason: str = "closed") -> None:
        """No more audio: what remains to be said follows, then ``over``."""
        self._reason = reason
        for session in self._left:
            session.close()
        self._settle()

    def abort(self) -> None:
        """Forget the call at once."""
        for session in self._left:
            session.abort()
            self._forget(session)
        self._left.clear()
        self.over.set()

    def deliver(self, delivery: Delivery) -> None:
        """Event loop: what a tick had for one of the channels."""
        channel = self._channels[delivery.session]
        for _, event in delivery.events:
            if isinstance(event, End):
                self._ends.append(event)
            else:
                self._say(to_wire(event, self.labels) | {"channel": channel, "role": self.begin.roles[channel]})
        if delivery.error is not None and self.error is None:
            self.error = delivery.error
            self._say({"type": "error", "code": delivery.error.code, "message": str(delivery.error)})
        if delivery.done:
            self._forget(delivery.session)
            self._left.discard(delivery.session)
            if self.error is not None:  # the other channel cannot go on alone
                for session in self._left:
                    session.close()
            self._settle()
        self._moved.set()

    def _of(self, channel: int) -> list[Session]:
        return [session for session, own in self._channels.items() if own == channel and session in self._left]

    async def _room(self, session: Session) -> None:
        bound = MAX_QUEUED + session.streams[0].plan.latency  # what a block still lacks is nobody's delay
        while session.queued > bound and session in self._left:
            self._moved.clear()
            await self._moved.wait()

    def _settle(self) -> None:
        if not self._left and not self.over.is_set():
            self._say(_end(self._ends, self._reason))
            self.over.set()

    def _say(self, message: dict[str, Any]) -> None:
        self._publish(message)
        if self.tell is not None:
            self.tell(message)


def _end(ends: Sequence[End], reason: str) -> dict[str, Any]:
    totals = [to_wire(end, ()) for end in ends]
    summed = {key: round(sum(t[key] for t in totals), 4) for key in ("speech", "segments", "lost")}
    longest = {key: max((t[key] for t in totals), default=0.0) for key in ("duration", "t_audio")}
    return {"type": "session.end", "reason": reason} | longest | summed
