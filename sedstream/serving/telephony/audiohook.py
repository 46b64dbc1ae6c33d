"""Genesys AudioHook v2: JSON text frames with two-way sequence numbers, PCMU or L16 at 8 kHz in binary frames.

https://developer.genesys.cloud/devapps/audiohook/ and, where that leaves a question open (L16 is little endian, which
states take audio), https://github.com/purecloudlabs/audiohook-reference-implementation.

Audio that the client says it discarded, or paused over, becomes a gap. Where the agent's channel is not analysed, it is
not even asked for when the client offers to leave it out. Phone numbers in ``open`` are not looked at.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from ...audio import pcm
from ...errors import BadInput, BadMessage
from ..choices import AGENT
from .call import CUSTOMER, MAX_GAP, Audio, Begin, Command, Finish, Gap, bad, inner, parse, word

RATE = 8_000
ROLES = {"external": CUSTOMER, "internal": AGENT}
ENCODINGS = {"PCMU": "mulaw", "L16": "s16le"}
RESULTS = ("emotion.final", "alert")
"""Types of messages that go back as entities of an ``event``; the client limits how many it takes."""
NOBODY = "00000000-0000-0000-0000-000000000000"
"""Conversation of a connection probe: everything but audio."""
_UUID = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
_DURATION = re.compile(r"PT(\d{0,9}\.\d{1,9}|\d{1,9})S")


class AudioHook:
    """One connection. ``session`` and ``organization``: what the ``Audiohook-…-Id`` headers said, if they did."""

    def __init__(
        self, session: str | None = None, organization: str | None = None, *, allow_agent: bool = False
    ) -> None:
        self._id = session
        self._organization = organization
        self._allow_agent = allow_agent
        self._state = "new"  # open, paused, closing, closed; failed: told to disconnect
        self._begun = False
        self._media: dict[str, Any] | None = None
        self._offer: dict[str, Any] = {}  # parameters of open
        self._position = 0  # samples received or told lost
        self._told = 0  # the last position the client named
        self._seq = 0
        self._clientseq = 0
        self._out: list[str | bytes] = []

    def receive(self, message: str | bytes) -> Iterator[Command]:
        """The commands in one frame. Raises ``BadMessage``."""
        if isinstance(message, bytes):
            yield from self._audio(message)
            return
        fields = parse(message)
        self._check(fields)
        parameters = inner(fields, "parameters")
        match word(fields, "type"):
            case "close":
                word(parameters, "reason")
                yield from self._close()
            case _ if self._state in ("failed", "closing", "closed"):
                pass  # sent before the client knew
            case "open":
                yield from self._open(parameters, _samples(fields, "position"))
            case kind if self._state == "new":
                raise BadMessage("no_session", f"Bad {kind!r}, expected 'open' first")
            case "ping":
                self._say("pong", {})
            case "update":
                word(parameters, "language")
                self._say("updated", {})
            case "discarded":
                yield from self._discard(parameters)
            case "paused":
                self._state = "paused"
            case "resumed":
                self._state = "open"
                yield from self._discard(parameters)
            case "error":
                pass  # whatever went wrong there, the close that follows says it
            case kind:
                known = "open, ping, update, discarded, paused, resumed, error or close"
                raise BadMessage("unknown_type", f"Bad type {kind[:80]!r}, expected {known}", fatal=False)

    def begun(self, position: int) -> None:
        """Answer ``open``: the client may discard what it keeps up to ``position`` samples."""
        self._begun = True
        self._position = position
        opened: dict[str, Any] = {"media": [self._media] if self._media else [], "startPaused": False}
        if position > 0:
            opened["discardTo"] = f"PT{position / RATE:g}S" if position % RATE == 0 else f"PT{position / RATE:.6f}S"
        if self._offer.get("supportedLanguages") is True:
            opened["supportedLanguages"] = []  # emotions have no language
        self._say("opened", opened)

    def tell(self, message: Mapping[str, Any]) -> None:
        """A final segment or an alert, as an entity ``sedstream.…`` whose data is the message."""
        if message["type"] in RESULTS and self._state in ("open", "paused", "closing"):
            entity = {"type": f"sedstream.{message['type']}", "data": dict(message)}
            self._say("event", {"entities": [entity]})

    def fail(self, error: BadMessage) -> None:
        """Ask the client to close the session; ``close`` is still answered."""
        if self._state not in ("failed", "closed"):
            self._state = "failed"
            reason = "unauthorized" if error.code == "unauthorized" else "error"
            self._say("disconnect", {"reason": reason, "info": f"{error.code}: {error}"[:1000]})

    def finished(self) -> None:
        """Answer ``close``, or end the session from here."""
        if self._state == "closing":
            self._say("closed", {})
        elif self._state in ("open", "paused"):
            self._say("disconnect", {"reason": "completed"})
        self._state = "closed"

    def take(self) -> list[str | bytes]:
        """What is to be sent now."""
        out, self._out = self._out, []
        return out

    def _say(self, kind: str, parameters: dict[str, Any]) -> None:
        self._seq += 1
        head = {"version": "2", "type": kind, "seq": self._seq, "clientseq": self._clientseq, "id": self._id or NOBODY}
        self._out.append(json.dumps(head | {"parameters": parameters}, allow_nan=False))

    def _check(self, fields: Mapping[str, Any]) -> None:
        """What every message must have; once the client was told to disconnect, by its form only: ``close`` is still
        answered."""
        word(fields, "version", known=("2",))
        seq, serverseq = _count(fields, "seq"), _count(fields, "serverseq")
        name, position = _uuid(fields, "id"), _samples(fields, "position")
        if self._state == "failed":
            self._clientseq = seq
            return
        if seq != self._clientseq + 1:
            raise BadMessage("bad_seq", f"Bad seq {seq}, expected {self._clientseq + 1}")
        self._clientseq = seq
        if serverseq > self._seq:
            raise BadMessage("bad_seq", f"Bad serverseq {serverseq}, expected at most {self._seq}")
        if self._id is not None and name.lower() != self._id.lower():
            raise BadMessage("wrong_session", f"Bad id {name!r}, expected {self._id!r}")
        self._id = name
        if not 0 <= position - self._told <= MAX_GAP * RATE and self._state != "new":
            raise bad("position", fields["position"], "the time since the call began")
        self._told = position

    def _open(self, parameters: dict[str, Any], position: int) -> Iterator[Command]:
        if self._state != "new":
            raise BadMessage("already_started", "Bad 'open', expected one a connection")
        organization = _uuid(parameters, "organizationId")
        if self._organization is not None and organization.lower() != self._organization.lower():
            raise BadMessage("unauthorized", "Bad organizationId, expected that of the request's header")
        conversation = _uuid(parameters, "conversationId")
        inner(parameters, "participant")
        earlier = parameters.get("continuedSessions", [])
        if not isinstance(earlier, list) or not all(isinstance(session, dict) for session in earlier):
            raise bad("continuedSessions", earlier, "a list of objects")
        if position > MAX_GAP * RATE:
            raise bad("position", str(position), f"at most {MAX_GAP} s")
        self._offer = parameters
        self._media = self._choose(parameters.get("media"))
        self._state = "open"
        if conversation == NOBODY or self._media is None:
            self.begun(0)
            self._begun = False
            return
        roles = tuple(ROLES[channel] for channel in self._media["channels"])
        assert self._id is not None  # every message has one
        continues = tuple(_uuid(session, "id") for session in earlier)
        yield Begin(conversation, self._id, RATE, roles, ENCODINGS[self._media["format"]], continues)
        yield from self._lose(position)

    def _choose(self, media: object) -> dict[str, Any] | None:
        """The first offer that can be used, without the agent's channel where that is not wanted."""
        if not isinstance(media, list) or len(media) > 64 or not all(isinstance(offer, dict) for offer in media):
            raise bad("media", media, "a list of objects")
        fitting = [offer for offer in media if _fits(offer)]
        wanted = [offer for offer in fitting if self._allow_agent or "external" in offer["channels"]]
        if not self._allow_agent:
            wanted = [offer for offer in wanted if "internal" not in offer["channels"]] or wanted
        elif both := [offer for offer in wanted if len(offer["channels"]) == 2]:
            wanted = both
        return {name: wanted[0][name] for name in ("type", "format", "channels", "rate")} if wanted else None

    def _audio(self, data: bytes) -> Iterator[Command]:
        if self._state in ("failed", "closing", "closed"):
            return
        if self._state != "open" or not self._begun or self._media is None:
            raise BadMessage("bad_state", f"Bad audio in a session that is {self._state}, expected none")
        try:
            samples = pcm.decode(data, ENCODINGS[self._media["format"]], len(self._media["channels"]))
        except BadInput as error:
            raise BadMessage("bad_audio", str(error)) from error
        self._position += len(samples)
        for channel in range(samples.shape[1] if len(samples) else 0):
            yield Audio(channel, samples[:, channel])

    def _discard(self, parameters: Mapping[str, Any]) -> Iterator[Command]:
        yield from self._lose(_samples(parameters, "start") + _samples(parameters, "discarded"))

    def _lose(self, until: int) -> Iterator[Command]:
        """All channels go on at a sample of the call."""
        lost = until - self._position
        if lost > MAX_GAP * RATE:
            raise bad("discarded", f"{lost / RATE} s", f"at most {MAX_GAP} s")
        if lost > 0 and self._begun and self._media is not None:
            self._position = until
            for channel in range(len(self._media["channels"])):
                yield Gap(channel, lost)

    def _close(self) -> Iterator[Command]:
        if self._state == "closed":
            raise BadMessage("closed", "Bad 'close', expected one")
        analysed = self._begun and self._state in ("open", "paused")
        if self._state != "closing":
            self._state = "closing"
            if analysed:
                yield Finish()
            else:
                self.finished()


def _fits(offer: Mapping[str, Any]) -> bool:
    channels = offer.get("channels")
    return (
        offer.get("type") == "audio"
        and offer.get("format") in tuple(ENCODINGS)
        and offer.get("rate") == RATE
        and channels in (["external"], ["internal"], ["external", "internal"], ["internal", "external"])
    )


def _count(fields: Mapping[str, Any], name: str) -> int:
    value = fields.get(name)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 1 << 53:
        raise bad(name, value, "a whole number from 0")
    return value


def _uuid(fields: Mapping[str, Any], name: str) -> str:
    value = word(fields, name)
    if not _UUID.fullmatch(value):
        raise bad(name, value, "a UUID")
    return value


def _samples(fields: Mapping[str, Any], name: str) -> int:
    """An ISO 8601 duration in seconds, ``PT5.2S``, as samples."""
    value = word(fields, name)
    found = _DURATION.fullmatch(value)
    if not found:
        raise bad(name, value, "a duration like PT5.2S")
    return round(float(found[1]) * RATE)
