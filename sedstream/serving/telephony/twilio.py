"""Twilio Media Streams: JSON text frames, 20 ms of base64 mu-law at 8 kHz, both tracks of a call interleaved.

https://www.twilio.com/docs/voice/media-streams/websocket-messages

Chunks of a track are put in order by ``chunk`` and placed by ``timestamp``: one that is missing, broken or more than
``WAIT`` late becomes a gap, and nothing behind it moves. What a caller keyed in (``dtmf``) is not looked at: it may be
a card number.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...audio import pcm
from ...errors import BadMessage
from ..choices import AGENT
from .call import CUSTOMER, MAX_GAP, Audio, Begin, Command, Finish, Gap, bad, inner, parse, word

RATE, ENCODING = 8_000, "mulaw"
WAIT = RATE // 2
"""Samples that a track waits for a chunk, by its own clock or the other track's: half a second."""
LAG = 2 * WAIT
"""Samples that a track may be behind the other one before zeros stand in for it."""
JITTER = RATE // 20
"""Samples by which the timestamp of a consecutive chunk may differ from the audio so far: 50 ms."""
MAX_CHUNK = RATE
"""Bytes of one chunk: 1 s; Twilio sends 160."""
MAX_PENDING = 100
"""Chunks of a track that may wait for an earlier one."""
MAX_NUMBER = 1 << 53
TRACKS = ("inbound", "outbound")


@dataclass(slots=True)
class _Track:
    """One direction of a call on the stream's timeline."""

    channel: int
    position: int = 0  # samples told so far
    following: int = 1  # number of the next chunk
    pending: dict[int, tuple[int, NDArray[np.float32]]] = field(default_factory=dict)

    def put(self, number: int, time: int, samples: NDArray[np.float32]) -> Iterator[Command]:
        if number < self.following or number in self.pending:
            return  # twice, or after its place was filled
        self.pending[number] = time, samples
        while self.following in self.pending or len(self.pending) > MAX_PENDING:
            yield from self._next()

    def wait(self, now: int) -> Iterator[Command]:
        """Give up what is missing once the stream's clock is ``WAIT`` past it."""
        while self.pending and (self.following in self.pending or self.pending[min(self.pending)][0] + WAIT <= now):
            yield from self._next()

    def fill(self, until: int) -> Iterator[Command]:
        """Zeros in place of what is missing up to a sample of the stream."""
        if until > self.position:
            lost, self.position = until - self.position, until
            yield Gap(self.channel, lost)

    def _next(self) -> Iterator[Command]:
        number = min(self.pending)
        time, samples = self.pending.pop(number)
        consecutive = number == self.following
        self.following = number + 1
        late = time - self.position
        if late > (JITTER if consecutive else 0):
            yield from self.fill(time)
        elif late < -JITTER:  # its place was filled, or part of it
            samples = samples[-late:]
        if len(samples):
            self.position += len(samples)
            yield Audio(self.channel, samples)


class Twilio:
    """One stream. ``customParameters`` of the ``<Stream>`` bring the ``token``, and may name who speaks on a track:
    ``inbound=agent``, whatever the case of the names."""

    def __init__(self) -> None:
        self._stream: str | None = None
        self._tracks: dict[str, _Track] = {}
        self._now = 0  # the latest end of a chunk of any track
        self._over = False

    def receive(self, message: str | bytes) -> Iterator[Command]:
        """The commands in one frame. Raises ``BadMessage``; a chunk that cannot be read is not fatal but a gap."""
        if isinstance(message, bytes):
            raise BadMessage("bad_message", "Bad binary message, expected JSON text")
        fields = parse(message)
        event = word(fields, "event")
        if self._over:
            raise BadMessage("closed", "Bad message after 'stop', expected none")
        match event:
            case "connected":
                word(fields, "protocol", known=("Call",))
                return
            case "start":
                yield self._start(fields)
                return
            case "media" | "stop" | "dtmf" | "mark":
                self._check_stream(fields, event)
            case _:
                known = "connected, start, media, dtmf, mark or stop"
                raise BadMessage("unknown_type", f"Bad event {event[:80]!r}, expected {known}", fatal=False)
        if event == "media":
            yield from self._media(inner(fields, "media"))
        elif event == "stop":
            yield from self._stop()

    def begun(self, position: int) -> None:
        """Nothing: Twilio does not wait for an answer."""

    def tell(self, message: Mapping[str, Any]) -> None:
        """Nothing: Twilio takes audio back, no results."""

    def fail(self, error: BadMessage) -> None:
        """Nothing: the close code and its reason tell."""

    def finished(self) -> None:
        """Nothing: Twilio closes the connection itself."""

    def take(self) -> list[str | bytes]:
        """Nothing is ever sent."""
        return []

    def _start(self, fields: Mapping[str, Any]) -> Begin:
        if self._stream is not None:
            raise BadMessage("already_started", "Bad 'start', expected one a connection")
        _number(fields, "sequenceNumber", 0, fatal=True)
        start = inner(fields, "start")
        stream, call = word(fields, "streamSid"), word(start, "callSid")
        form = inner(start, "mediaFormat")
        word(form, "encoding", known=("audio/x-mulaw",))
        if form.get("sampleRate") != RATE or form.get("channels") != 1:
            raise BadMessage("bad_value", f"Bad mediaFormat, expected {RATE} Hz and one channel")
        tracks = start.get("tracks")
        if not isinstance(tracks, list) or tracks not in (["inbound"], ["outbound"], [*TRACKS], [*TRACKS[::-1]]):
            raise bad("tracks", tracks, "inbound, outbound or both")
        named = inner(start, "customParameters") if "customParameters" in start else {}
        present = [track for track in TRACKS if track in tracks]
        roles = {"inbound": CUSTOMER, "outbound": AGENT}
        said = {name.strip().lower(): value for name, value in named.items()}  # or an agent would be analysed unnoticed
        for track in present:
            if track in said:
                roles[track] = word(said, track, known=(CUSTOMER, AGENT))
        self._stream = stream
        self._tracks = {track: _Track(channel) for channel, track in enumerate(present)}
        roles_present = tuple(roles[track] for track in present)
        return Begin(call, stream, RATE, roles_present, ENCODING, token=_token(said))

    def _check_stream(self, fields: Mapping[str, Any], event: str) -> None:
        if self._stream is None:
            raise BadMessage("no_session", f"Bad {event!r}, expected 'start' first")
        _number(fields, "sequenceNumber", 0)
        if fields.get("streamSid") != self._stream:
            raise BadMessage("wrong_stream", f"Bad streamSid, expected {self._stream!r}", fatal=False)

    def _media(self, media: Mapping[str, Any]) -> Iterator[Command]:
        track = self._tracks[word(media, "track", known=tuple(self._tracks), fatal=False)]
        number = _number(media, "chunk", 0)
        time = _number(media, "timestamp", 0) * RATE // 1000
        if time - self._now > MAX_GAP * RATE:
            raise bad("timestamp", str(media["timestamp"]), f"at most {MAX_GAP} s more than before", fatal=False)
        payload = media.get("payload")
        try:
            data = base64.b64decode(payload if isinstance(payload, str) else b"?", validate=True)
        except (ValueError, binascii.Error):
            raise bad("payload", None, "base64", fatal=False) from None
        if not 0 < len(data) <= MAX_CHUNK:
            raise bad("payload", f"of {len(data)} bytes", f"1 to {MAX_CHUNK}", fatal=False)
        yield from track.put(number, time, pcm.decode(data, ENCODING)[:, 0])
        self._now = max(self._now, time + len(data))
        for other in self._tracks.values():
            yield from other.wait(self._now)
            if not other.pending and self._now - other.position > LAG:
                yield from other.fill(self._now - WAIT)

    def _stop(self) -> Iterator[Command]:
        """Both tracks end together."""
        self._over = True
        for track in self._tracks.values():
            yield from track.wait(self._now + WAIT)
        end = max(track.position for track in self._tracks.values())
        for track in self._tracks.values():
            yield from track.fill(end)
        yield Finish()


def _token(named: Mapping[str, Any]) -> str | None:
    """What the ``<Stream>`` brings as ``token``. Raises ``BadMessage``, which is logged and must not tell it."""
    if "token" not in named:
        return None
    try:
        return word(named, "token")
    except BadMessage:
        raise BadMessage("bad_value", "Bad token, expected a text of 1 to 256 printable characters") from None


def _number(fields: Mapping[str, Any], name: str, least: int, *, fatal: bool = False) -> int:
    """A whole number, which Twilio writes as text. Raises ``BadMessage``."""
    value = fields.get(name)
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 17:
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= MAX_NUMBER:
        raise bad(name, value, f"a whole number from {least}", fatal=fatal)
    return value
