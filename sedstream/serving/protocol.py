"""Wire protocol v1 without I/O: client messages in, commands out; events in, JSON text out.

Text frames are JSON objects, binary frames are audio. ``protocol.schema.json`` beside this file says the same to
machines. Unknown fields are ignored; an unknown type is answered with a (non-fatal) ``error``; everything else
that breaks the protocol ends the session with an ``error`` and a close code.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ..audio import pcm
from ..errors import BadInput, BadMessage
from ..events import End, Event, to_wire

VERSION = 1
MAX_TEXT = 65_536
"""Bytes of one client text message."""
MAX_BINARY = 1 << 20
"""Bytes of one audio packet: 5.4 s of 48 kHz stereo f32le, minutes of telephone audio."""
MIN_RATE, MAX_RATE = 8_000, 48_000
OPTIONAL = ("speech.start", "speech.end", "emotion.update", "emotion.final", "arousal", "gap", "flow")
"""The server's message types that ``events`` chooses from; the others are always sent."""


@dataclass(frozen=True, slots=True)
class Start:
    """A valid ``session.start``. ``latency``: seconds at most, or a plan's name, or None. ``model``, ``labels``:
    None: default."""

    encoding: str
    rate: int
    channels: int
    roles: tuple[str | None, ...]
    mix: bool
    model: str | None
    latency: float | str | None
    labels: tuple[str, ...] | None
    events: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Audio:
    """Samples ``[n, channels]`` f32."""

    samples: NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Finalize:
    pass


@dataclass(frozen=True, slots=True)
class Close:
    pass


Command: TypeAlias = Start | Audio | Finalize | Close


class ServerProtocol:
    """One connection, seen from the server."""

    def __init__(self, session: str) -> None:
        self.session = session
        self.start: Start | None = None
        self.closing = False
        self._seq = 0

    def receive(self, message: str | bytes) -> Command:
        """The command in one frame. Raises ``BadMessage``; with ``fatal`` the connection ends after the error is
        sent."""
        if self.closing:
            raise BadMessage("closed", "Bad message after 'close', expected none")
        return self._binary(message) if isinstance(message, bytes) else self._text(message)

    def _binary(self, data: bytes) -> Audio:
        if self.start is None:
            raise BadMessage("no_session", "Bad binary message, expected session.start first")
        try:
            return Audio(pcm.decode(data, self.start.encoding, self.start.channels))
        except BadInput as error:
            raise BadMessage("bad_audio", str(error)) from error

    def _text(self, text: str) -> Command:
        if len(text) > MAX_TEXT:
            raise BadMessage("too_long", f"Bad text message of {len(text)} characters, expected at most {MAX_TEXT}")
        try:
            message = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise BadMessage("bad_json", f"Bad JSON, expected an object: {error}") from error
        if not isinstance(message, dict) or not isinstance(message.get("type"), str):
            raise BadMessage("bad_message", "Bad message, expected an object with a 'type'")
        match message["type"]:
            case "session.start" if self.start is not None:
                raise BadMessage("already_started", "Bad 'session.start', expected one a connection")
            case "session.start":
                self.start = parse_start(message)
                return self.start
            case "finalize" | "close" if self.start is None:
                raise BadMessage("no_session", f"Bad {message['type']!r}, expected session.start first")
            case "finalize":
                return Finalize()
            case "close":
                self.closing = True
                return Close()
        known = "session.start, finalize or close"
        raise BadMessage("unknown_type", f"Bad type {message['type'][:80]!r}, expected {known}", fatal=False)

    def ready(self, *, model: str, plan: str, latency: float, labels: Sequence[str]) -> dict[str, Any]:
        """``session.ready``: the configuration in effect; ``latency`` is the algorithmic one in seconds."""
        start = self.start
        assert start is not None
        audio = {"encoding": start.encoding, "rate": start.rate, "channels": start.channels}
        audio |= {"roles": list(start.roles), "mix": start.mix}
        head = {"type": "session.ready", "model": model, "plan": plan, "latency": latency, "labels": list(labels)}
        return head | {"audio": audio, "events": list(start.events)}

    def event(self, channel: int, event: Event, labels: Sequence[str]) -> dict[str, Any] | None:
        """An event of a channel as a message; None when the client did not ask for its type."""
        assert self.start is not None
        message = to_wire(event, labels)
        if message["type"] in OPTIONAL and message["type"] not in self.start.events:
            return None
        return message | {"channel": channel, "role": self.start.roles[channel]}

    def end(self, ends: Sequence[End], reason: str) -> dict[str, Any]:
        """``session.end`` over all channels: totals in seconds."""
        totals = [to_wire(end, ()) for end in ends]
        summed = {key: round(sum(t[key] for t in totals), 4) for key in ("speech", "segments", "lost")}
        longest = {key: max((t[key] for t in totals), default=0.0) for key in ("duration", "t_audio")}
        return {"type": "session.end", "reason": reason} | longest | summed

    @staticmethod
    def flow(queued: float) -> dict[str, Any]:
        """``flow``: how many seconds of audio wait on the server."""
        return {"type": "flow", "queued": round(queued, 3)}

    @staticmethod
    def error(code: str, text: str) -> dict[str, Any]:
        return {"type": "error", "code": code, "message": text}

    def send(self, message: Mapping[str, Any]) -> str:
        """Text of a message, numbered now: ``seq`` has no holes whatever was dropped before."""
        head = {"v": VERSION, "type": message["type"], "session": self.session, "seq": self._seq}
        self._seq += 1
        return json.dumps(head | dict(message), ensure_ascii=False, separators=(",", ":"), allow_nan=False)


def parse_start(message: Mapping[str, Any]) -> Start:
    """Check a ``session.start``. Raises ``BadMessage`` naming the field and what was expected."""
    if message.get("v", VERSION) != VERSION:
        raise BadMessage("bad_version", f"Bad v {message['v']!r}, expected {VERSION}")
    audio = message.get("audio", {})
    if not isinstance(audio, dict):
        raise _bad("audio", audio, "an object")
    encoding = audio.get("encoding", "s16le")
    if not isinstance(encoding, str) or encoding not in pcm.SAMPLE_BYTES:
        raise BadMessage("unknown_encoding", f"Bad encoding {encoding!r}, expected {', '.join(pcm.SAMPLE_BYTES)}")
    rate = audio.get("rate", 16_000)
    if not _whole(rate) or not MIN_RATE <= rate <= MAX_RATE:
        raise _bad("rate", rate, f"{MIN_RATE} to {MAX_RATE} Hz")
    channels = audio.get("channels", 1)
    if not _whole(channels) or channels not in (1, 2):
        raise _bad("channels", channels, "1 or 2")
    mix = audio.get("mix", False)
    if not isinstance(mix, bool):
        raise _bad("mix", mix, "true or false")
    tracks = 1 if mix else channels
    roles = audio.get("roles") or [None] * tracks
    if not isinstance(roles, list) or not all(role is None or isinstance(role, str) for role in roles):
        raise _bad("roles", roles, "a list of names")
    if len(roles) != tracks:
        raise _bad("roles", roles, f"{tracks} of them")
    latency = message.get("latency")
    if latency is not None and (isinstance(latency, bool) or not isinstance(latency, (int, float, str))):
        raise _bad("latency", latency, "seconds or the name of a plan")
    model = message.get("model")
    if model is not None and not isinstance(model, str):
        raise _bad("model", model, "a name")
    labels = _names(message, "labels")
    events = _names(message, "events")
    for name in events or ():
        if name not in OPTIONAL:
            raise _bad("events", name, f"some of {', '.join(OPTIONAL)}")
    return Start(
        encoding=encoding,
        rate=rate,
        channels=channels,
        roles=tuple(roles),
        mix=mix,
        model=model,
        latency=latency,
        labels=labels,
        events=OPTIONAL if events is None else events,
    )


def _names(message: Mapping[str, Any], field: str) -> tuple[str, ...] | None:
    names = message.get(field)
    if names is None:
        return None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise _bad(field, names, "a list of names")
    return tuple(names)


def _whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _bad(field: str, value: object, expected: str) -> BadMessage:
    return BadMessage("bad_value", f"Bad {field} {str(value)[:80]!r}, expected {expected}")
