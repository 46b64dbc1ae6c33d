"""A call: a session of the engine as its clients and followers know it, whatever brings its audio."""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..engine import Delivery, Session
from ..errors import BadModel, Unavailable
from ..events import End, Event, Flushed, Gap, to_wire
from ..grid import RATE, seconds
from . import protocol
from .alerts import Alert, Alerts
from .choices import choose_channels, choose_plan
from .protocol import BROKE_PROTOCOL, DONE, FAILED, LEFT
from .requests import OPTIONAL, Audio, Close, Continue, Discarded, Finalize, Pause, Start, Update, check_alerts

if TYPE_CHECKING:
    from .server import Server

MAX_QUEUED = 4.0
"""Seconds of unanswered audio past which a client is not read until the engine has caught up (back-pressure)."""
FLOW_SECONDS = 2.0
"""How often a session is told its queue, or after how much audio when that comes sooner."""
MAX_GAP = 30 * RATE
"""Samples after which a loss that goes on is told."""

log = logging.getLogger(__name__)


class Call:
    """One session. ``say`` gets every message that the client asked for, with its ``type`` and ``session``, on the
    event loop; so do those who watch.

    Raises ``BadInput``, ``BadMessage``, ``BadModel`` for a start that cannot be served, ``Unavailable`` when full.
    """

    def __init__(
        self, server: Server, start: Start, say: Callable[[dict[str, Any]], None], name: str | None = None
    ) -> None:
        manifest = server.model.manifest
        if start.model not in (None, manifest.name):
            raise BadModel(f"Bad model {start.model!r}, expected {manifest.name}")
        self.name = name or uuid.uuid4().hex
        self.start = start
        self.plan = choose_plan(manifest, start.latency)
        self.received = 0
        """Samples of each channel that came, were discarded or were not to be heard: where the client goes on."""
        self.code: int | None = None
        """Why the call is over, as a close code, once everything about it was said."""
        self._server, self._say = server, say
        self._events, self._own_rules = start.events, start.alerts
        check_alerts(start.alerts, manifest.choose(start.labels), server.rules)
        self._channels = choose_channels(start.roles, server.allow_agent)
        split = start.channels > 1 and not start.mix
        # Of two sides of which one is not analysed, the engine gets only the other.
        self._only = self._channels if split and len(self._channels) == 1 else None
        count = 1 if self._only else start.channels
        self.session: Session = server.engine.open(start.rate, count, split=split, plan=self.plan, labels=start.labels)
        self._stream = self.session.streams[0]
        self._alerts = Alerts((*server.rules, *start.alerts), start.roles, self._stream.labels)
        self._room = asyncio.Event()  # the engine moved on
        self._reason = ""  # why no more audio is taken
        self._last = DONE  # the close code of a call that is over in order
        self._paused = self._losing = False
        self._unheard = 0  # samples of a pause that the engine does not know yet
        self._gaps: dict[int, Gap] = {}  # losses that may go on
        self._ends: list[End] = []
        self._flowed = 0.0, 0  # when, and after how many samples, the queue was told
        server.sessions[self.session] = self
        server.hub.publish(self.ready())
        settings = {"session": self.name, "channels": start.channels, "rate": start.rate, "plan": self.plan}
        log.info("call began", extra=settings)

    def ready(self) -> dict[str, Any]:
        """``session.ready``: the configuration in effect, and the sample from which the client sends."""
        start, plan = self.start, self._stream.plan
        audio = {"encoding": start.encoding, "rate": start.rate, "channels": start.channels}
        audio |= {"roles": list(start.roles), "mix": start.mix}
        return {
            "type": "session.ready",
            "session": self.name,
            "model": self._server.model.manifest.name,
            "plan": self.plan,
            "latency": seconds(plan.step + plan.right),
            "labels": list(self._stream.labels),
            "audio": audio,
            "events": list(self._events),
            "alerts": self._rule_names(),
            "analysed": self._channels,
            "received": self.received,
            "resume": None,
        }

    async def obey(self, request: Audio | Discarded | Finalize | Pause | Continue | Update | Close) -> None:
        """Do what the client asks, and wait while too much audio is unanswered. Raises ``BadInput``,
        ``BadMessage``."""
        if isinstance(request, Update):
            self._update(request)
        elif not self._reason:
            await self._hear(request)

    async def _hear(self, request: Audio | Discarded | Finalize | Pause | Continue | Close) -> None:
        match request:
            case Audio(samples, lost):
                await self._listen(samples if self._only is None else samples[:, self._only], lost)
            case Discarded(samples=count):
                await self._discard(count)
            case Finalize():
                self._lose_unheard()
                self.session.flush()
            case Pause():
                self._paused = self._losing = True
            case Continue():
                self._lose_unheard()
                self._paused = self._losing = False
            case Close():
                self.end("closed")
        await self._catch_up()

    def end(self, reason: str, code: int = DONE) -> None:
        """No more audio is taken: what remains is made final, then ``session.end`` tells ``reason``. ``code``: what
        its client is told then, or was told."""
        if not self._reason:
            self._lose_unheard()
            self._reason, self._last = reason, code
            self.session.close()

    async def over(self) -> None:
        """Wait until everything about the call was said."""
        while self.code is None:
            self._room.clear()
            await self._room.wait()

    def abort(self, code: int = LEFT) -> None:
        """Forget the call at once; its client was told ``code``."""
        self.session.abort()
        self._server.sessions.pop(self.session, None)
        if self.code is None:
            self._end_alerts()
            self._server.hub.publish(self._end("aborted"))
            self._over(code)
        self._room.set()

    def give_up(self, code: int) -> None:
        """Forget the call at once: its client is closed with ``code``."""
        if self.code is None:
            self.code = code  # first: nothing more is said to it
            self._end_alerts()
            self._tell_over(code)
            self._server.hub.publish(self._end("aborted"))
        self.abort()

    def fail(self) -> None:
        """End the call at once because of a fault of ours: its client is told so."""
        if self.code is None:
            error = Unavailable("Bad call, expected it to go on: the server made a mistake")
            with suppress(Exception):  # saying something may be what fails
                self._say(protocol.error(error.code, str(error)) | {"session": self.name})
        self.give_up(FAILED)

    def deliver(self, delivery: Delivery) -> None:
        """Event loop: what a tick had for this session."""
        block: dict[int, list[Event]] = {}
        for number, event in delivery.events:
            channel = self._channels[number]
            if isinstance(event, Flushed):  # everything before it is told before it
                self._judge(channel, block.pop(channel, []))
                if gap := self._gaps.pop(channel, None):
                    self._tell(channel, to_wire(gap, ()))
            block.setdefault(channel, []).append(event)
            if isinstance(event, End):
                self._ends.append(event)
            elif isinstance(event, Gap):
                self._lost(channel, event)
            else:
                self._tell(channel, to_wire(event, self._stream.labels))
        for channel, events in block.items():
            self._judge(channel, events)
        if not self._losing or delivery.done:
            for channel in list(self._gaps):
                self._tell(channel, to_wire(self._gaps.pop(channel), ()))
        self._flow()
        if delivery.error is not None:
            self._end_alerts()
            self._send(protocol.error(delivery.error.code, str(delivery.error)))
            self._server.hub.publish(self._end("failed"))
            self._over(FAILED if isinstance(delivery.error, Unavailable) else BROKE_PROTOCOL)
        elif delivery.done:
            self._send(self._end(self._reason))
            self._over(self._last)
        self._room.set()

    def _judge(self, channel: int, events: list[Event]) -> None:
        """Tell the alerts that follow from the events of a block."""
        for alert in self._alerts.hear(channel, events):
            self._alarm(channel, alert)

    def _end_alerts(self) -> None:
        for channel, alert in self._alerts.change(()):
            self._alarm(channel, alert)

    async def _listen(self, samples: NDArray[np.float32], lost: frozenset[int]) -> None:
        """A second at a time: a message may bring two minutes, whose resampling would hold up every other call."""
        for first in range(0, len(samples), self.start.rate):
            part = samples[first : first + self.start.rate]
            if self._reason:
                return
            self.received += len(part)
            if self._paused:
                self._unheard += len(part)
                if self._unheard >= self.start.rate:  # a loss of its own for each packet would be 50 a second
                    self._lose_unheard()
            else:
                self.session.write(part, lost)
            await self._catch_up()

    async def _discard(self, count: int) -> None:
        """Zeros for ``count`` samples, a second at a time: an hour of them must not stand in memory."""
        self._losing = True
        try:
            while count > 0 and not self._reason:
                part = min(count, self.start.rate)
                count -= part
                self.received += part
                self.session.lose(part)
                await self._catch_up()
        finally:
            self._losing = self._paused

    def _lose_unheard(self) -> None:
        if self._unheard:
            self.session.lose(self._unheard)
            self._unheard = 0

    async def _catch_up(self) -> None:
        bound = MAX_QUEUED + self._stream.plan.latency  # what a block still lacks is nobody's delay
        while self.session.queued > bound and self.session in self._server.sessions:
            self._room.clear()
            await self._room.wait()

    def _update(self, update: Update) -> None:
        if update.alerts is not None:
            check_alerts(update.alerts, self._stream.labels, self._server.rules, fatal=False)
            for channel, alert in self._alerts.change((*self._server.rules, *update.alerts)):
                self._alarm(channel, alert)
            self._own_rules = update.alerts
        if update.events is not None:
            self._events = update.events
        self._send({"type": "session.updated", "events": list(self._events), "alerts": self._rule_names()})

    def _rule_names(self) -> list[str]:
        return [rule.name for rule in (*self._server.rules, *self._own_rules)]

    def _lost(self, channel: int, gap: Gap) -> None:
        """A loss that goes on where the last one ended is one loss."""
        old = self._gaps.get(channel)
        if old is not None and old.sample + old.samples == gap.sample:
            gap = Gap(old.sample, old.samples + gap.samples, gap.at)
        elif old is not None:
            self._tell(channel, to_wire(old, ()))
        self._gaps[channel] = gap
        if gap.samples >= MAX_GAP:
            self._tell(channel, to_wire(self._gaps.pop(channel), ()))

    def _alarm(self, channel: int, alert: Alert) -> None:
        if alert.begins:
            # Clients name their rules as they like; a metric must not grow with them.
            self._server.metrics.alerted(alert.rule.name if alert.rule in self._server.rules else "client")
        message = self._tell(channel, alert.fields())
        if self.code is not None:  # the client is told nothing more, but others follow the call
            self._server.hub.publish(message)
        if alert.rule in self._server.rules:  # what clients make up must neither be signed nor fill the queue
            for webhook in self._server.webhooks:
                webhook.post(message)

    def _flow(self) -> None:
        when, heard = self._flowed
        now = asyncio.get_running_loop().time()
        if now - when >= FLOW_SECONDS or self.received - heard >= FLOW_SECONDS * self.start.rate:
            self._flowed = now, self.received
            self._send({"type": "flow", "queued": round(self.session.queued, 3), "received": self.received})

    def _end(self, reason: str) -> dict[str, Any]:
        """``session.end`` over all channels: totals in seconds, so far where the call was broken off."""
        ends = self._ends if len(self._ends) == len(self._channels) else [s.totals for s in self.session.streams]
        totals = [to_wire(end, ()) for end in ends]
        summed = {key: round(sum(t[key] for t in totals), 4) for key in ("speech", "segments", "lost")}
        longest = {key: max((t[key] for t in totals), default=0.0) for key in ("duration", "t_audio")}
        head = {"type": "session.end", "session": self.name, "reason": reason, "received": self.received}
        return head | longest | summed

    def _tell(self, channel: int, fields: dict[str, Any]) -> dict[str, Any]:
        """Say an event of a channel."""
        return self._send(fields | {"channel": channel, "role": self.start.roles[channel]})

    def _over(self, code: int) -> None:
        if self.code is None:
            self.code = code
            self._tell_over(code)
        self._server.sessions.pop(self.session, None)
        self._room.set()

    def _tell_over(self, code: int) -> None:
        self._server.metrics.ended(code)
        received = round(self.received / self.start.rate, 3)
        log.info("call over", extra={"session": self.name, "code": code, "reason": self._reason, "duration": received})

    def _send(self, fields: dict[str, Any]) -> dict[str, Any]:
        message = fields | {"session": self.name}
        if self.code is not None:
            return message
        self._server.hub.publish(message)
        if message["type"] not in OPTIONAL or message["type"] in self._events:
            self._say(message)
        return message
