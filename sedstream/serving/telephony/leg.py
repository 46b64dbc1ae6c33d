"""What stands between a platform's connection and the call that it brings; it outlives the connection."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .. import requests
from ..access import Visit
from ..call import Call
from ..choices import choose_channels
from ..protocol import LEFT
from ..resume import LOST
from .aligned import Aligned, Together
from .call import Begin

if TYPE_CHECKING:
    from ..server import Server


class Leg:
    """A call of a platform, without the channels that are not to be analysed. ``tell`` gets what is said about it and
    belongs to the connection of the moment. ``owner``: the name of the token that brought it. Raises ``SedstreamError``
    when the call cannot be taken."""

    def __init__(self, server: Server, begin: Begin, owner: str, name: str) -> None:
        self.begin = begin
        self.owner = owner
        self.code = LEFT
        """What its last connection was told."""
        self.tell: Callable[[dict[str, Any]], None] | None = None
        analysed = choose_channels(begin.roles, server.allow_agent)
        self._columns = {channel: column for column, channel in enumerate(analysed)}
        self._aligned = Aligned(len(analysed))
        self._over = asyncio.Event()
        roles = tuple(begin.roles[channel] for channel in analysed)
        self.call = Call(server, requests.Start(begin.encoding, begin.rate, len(analysed), roles), self._say, name)

    @property
    def over(self) -> bool:
        """Everything about the call was told."""
        return self._over.is_set()

    @property
    def position(self) -> int:
        """Samples that every channel has, lost ones too: from here on the platform sends again."""
        return self.call.received

    async def write(self, channel: int, samples: NDArray[np.float32]) -> None:
        """Samples ``[n]`` f32 of a channel. Waits while the engine is behind."""
        if channel in self._columns:
            await self._hear(self._aligned.write(self._columns[channel], samples))

    async def lose(self, channel: int, samples: int) -> None:
        """``samples`` samples of a channel never came. Waits while the engine is behind."""
        if channel in self._columns:
            await self._hear(self._aligned.lose(self._columns[channel], samples))

    async def finish(self) -> None:
        """No more audio; waits until everything about the call was told."""
        await self._hear(self._aligned.end())
        self.call.end("closed")
        await self._over.wait()

    def pause(self) -> None:
        """The connection broke: what one channel was ahead of the other comes again, from `position` on."""
        self.tell = None
        self._aligned = Aligned(len(self._columns))

    def leave(self, reason: str, code: int) -> None:
        """The platform is gone, or was told ``code``: what was heard is made final for those who watch."""
        self.tell = None
        if self.call.code is None:
            for part in self._aligned.end():  # what one channel was ahead of the other, no more
                if isinstance(part, int):
                    self.call.session.lose(part)
                else:
                    self.call.session.write(part.samples, part.lost)
            self.call.end(reason, code)

    async def _hear(self, parts: Iterator[Together | int]) -> None:
        for part in parts:
            if isinstance(part, int):
                await self.call.obey(requests.Discarded(part))
            else:
                await self.call.obey(requests.Audio(part.samples, part.lost))

    def _say(self, message: dict[str, Any]) -> None:
        if self.tell is not None:
            self.tell(message)
        if message["type"] in ("session.end", "error"):
            self._over.set()


class Legs:
    """The calls that platforms bring to one server: one that lost its connection can be gone on with."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._parked: dict[tuple[str, str], tuple[Leg, asyncio.TimerHandle]] = {}  # by owner and stream

    @property
    def away(self) -> list[Call]:
        """The calls that wait for a connection."""
        return [leg.call for leg, _ in self._parked.values()]

    def began(self, socket: object) -> None:
        """A connection has its call."""
        self._server.admission.began(socket)

    def take(self, begin: Begin, visit: Visit | None) -> Leg:
        """The call that ``begin`` goes on from, if it still waits for a connection of the same token; otherwise a new
        one. Raises ``SedstreamError``."""
        owner = "" if visit is None else visit.token.name
        for stream in reversed(begin.continues):
            leg, timer = self._parked.get((owner, stream), (None, None))
            if leg is None or timer is None or leg.over:
                continue
            old = leg.begin
            if (old.call, old.roles, old.rate) == (begin.call, begin.roles, begin.rate):
                timer.cancel()
                del self._parked[owner, stream]
                return leg
        waiting = [key for key in self._parked if key[0] == owner]
        while waiting and visit is not None and visit.crowded(len(waiting)):  # as for clients of the wire
            leg, timer = self._parked[waiting[0]]
            timer.cancel()
            self._expire(waiting.pop(0), leg)
        taken = any(call.name == begin.call for call in self._server.sessions.values())
        return Leg(self._server, begin, owner, f"{begin.call}-{uuid.uuid4().hex[:8]}" if taken else begin.call)

    def park(self, stream: str, leg: Leg, code: int) -> None:
        """A connection broke, or was closed with ``code``: the call ends if nobody goes on with it in as long as
        clients of the wire have."""
        leg.pause()
        leg.code = code
        key = leg.owner, stream
        timer = asyncio.get_running_loop().call_later(self._server.lines.seconds, self._expire, key, leg)
        self._parked[key] = leg, timer

    def _expire(self, key: tuple[str, str], leg: Leg) -> None:
        if self._parked.get(key, (None,))[0] is leg:
            del self._parked[key]
        leg.leave(LOST, leg.code)
