"""Wire protocol v1 without I/O: client messages in, requests out; messages numbered and made JSON text.

Text frames are JSON objects, binary frames are audio. ``protocol.schema.json`` beside this file says the same to
machines. Unknown fields are ignored; an unknown type and a bad ``session.update`` are answered with an
``error`` that is not ``fatal``; everything else that breaks the protocol ends the session with one that is, and a close
code.

=====  ==============================================================================  =========
code   the connection was closed because                                               resume
=====  ==============================================================================  =========
1000   the session is complete: ``session.end`` was sent                               no
1001   the server goes away; after ``session.end`` (``shutdown``) begin anew           yes
1006   (seen, never sent) the connection broke                                         yes
1008   the client broke the protocol: an ``error`` says how; or its token was removed  no
1009   a message was larger than 1 MiB                                                 no
1011   the model failed: an ``error`` says how                                         no
1013   there is no room for a session now                                              no
4008   (counted, never sent) the client does not read what it is sent: it is cut        no
4009   another connection resumed this session                                         there
4010   nothing was sent for the configured time                                        yes
=====  ==============================================================================  =========

A client that closes with 1000, 1001 or no code has left, and its session ends. After any other end the session waits
for it, for as long as ``session.ready`` said in ``resume.seconds``, and ends then. Those who watch get its finals, and
``session.end`` with the reason ``lost``. Who was cut sees no code (1006), whatever is counted.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from ..audio import pcm
from ..errors import BadInput, BadMessage
from .requests import (
    VERSION,
    Audio,
    Close,
    Continue,
    Finalize,
    Pause,
    Request,
    Resume,
    Start,
    parse_discarded,
    parse_start,
    parse_update,
)

MAX_TEXT = 65_536
"""Characters of one client text message."""
MAX_BINARY = 1 << 20
"""Bytes of one audio packet: 5.4 s of 48 kHz stereo f32le, minutes of telephone audio."""
DONE, LEFT, BROKE_PROTOCOL, FAILED, FULL = 1000, 1001, 1008, 1011, 1013
TOO_SLOW, DISPLACED, IDLE = 4008, 4009, 4010
REASONS = {
    DONE: "",
    LEFT: "the session was ended",
    BROKE_PROTOCOL: "see the error message",
    FAILED: "the model failed",
    FULL: "no room now, try again later",
    TOO_SLOW: "client reads too slowly",
    DISPLACED: "another connection resumed the session",
    IDLE: "nothing was sent for too long",
}
"""Close codes and their reasons."""
_KNOWN = (
    "session.start",
    "session.update",
    "analysis.pause",
    "analysis.resume",
    "discarded",
    "finalize",
    "close",
)


class ServerProtocol:
    """One client of a session, seen from the server."""

    def __init__(self) -> None:
        self.start: Start | None = None
        self.closing = False

    def receive(self, message: str | bytes) -> Request:
        """The request in one frame. Raises ``BadMessage``; with ``fatal`` the connection ends after the error is
        sent."""
        return self._binary(message) if isinstance(message, bytes) else self._text(message)

    def _binary(self, data: bytes) -> Audio:
        if self.closing:
            raise BadMessage("closed", "Bad audio after 'close', expected none")
        if self.start is None:
            raise BadMessage("no_session", "Bad binary message, expected session.start first")
        try:
            return Audio(pcm.decode(data, self.start.encoding, self.start.channels))
        except BadInput as error:
            raise BadMessage("bad_audio", str(error)) from error

    def _text(self, text: str) -> Request:
        if len(text) > MAX_TEXT:
            raise BadMessage("too_long", f"Bad text message of {len(text)} characters, expected at most {MAX_TEXT}")
        try:
            message = json.loads(text)
            if "\\u" in text:  # half a surrogate pair can be written so, but never sent on to those who follow the call
                json.dumps(message, ensure_ascii=False).encode()
        except (ValueError, RecursionError) as error:
            raise BadMessage("bad_json", f"Bad JSON, expected an object: {error}") from error
        if not isinstance(message, dict) or not isinstance(message.get("type"), str):
            raise BadMessage("bad_message", "Bad message, expected an object with a 'type'")
        kind = message["type"]
        if kind not in _KNOWN:
            expected = f"{', '.join(_KNOWN[:-1])} or {_KNOWN[-1]}"
            raise BadMessage("unknown_type", f"Bad type {kind[:80]!r}, expected {expected}", fatal=False)
        # A client that resumes cannot know which of its last requests arrived: they may come twice.
        if self.closing and kind in ("session.start", "discarded"):
            raise BadMessage("closed", f"Bad {kind!r} after 'close', expected none")
        if kind == "session.start":
            return self._start(message)
        if self.start is None:
            raise BadMessage("no_session", f"Bad {kind!r}, expected session.start first")
        match kind:
            case "session.update":
                return parse_update(message)
            case "analysis.pause":
                return Pause()
            case "analysis.resume":
                return Continue()
            case "discarded":
                return parse_discarded(message, self.start.rate)
            case "finalize":
                return Finalize()
        self.closing = True
        return Close()

    def _start(self, message: Mapping[str, Any]) -> Start | Resume:
        if self.start is not None:
            raise BadMessage("already_started", "Bad 'session.start', expected one a connection")
        start = parse_start(message)
        if isinstance(start, Start):
            self.start = start
        return start


def error(code: str, text: str, *, fatal: bool = True) -> dict[str, Any]:
    """An ``error``; if it is not ``fatal`` the session goes on."""
    return {"type": "error", "code": code, "message": text, "fatal": fatal}


def body(message: Mapping[str, Any]) -> str:
    """A message as JSON, but for its opening brace and its number."""
    return json.dumps(message, ensure_ascii=False, separators=(",", ":"), allow_nan=False)[1:]


def numbered(body: str, seq: int) -> str:
    """The text frame of a message: numbered when it leaves, so that ``seq`` has no holes whatever was dropped."""
    return f'{{"v":{VERSION},"seq":{seq},{body}'
