"""Asterisk AudioSocket: packets over TCP, one channel of s16le, no way back for results.

https://docs.asterisk.org/Configuration/Channel-Drivers/AudioSocket/

A packet is one byte of kind, two bytes of length (big endian) and a payload. The protocol has neither timestamps nor
authentication: it belongs on loopback or a private network, and on the customer's channel.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping
from typing import Any

from ...audio import pcm
from ...errors import BadMessage
from .call import CUSTOMER, Audio, Begin, Command, Finish

HANGUP, UUID, DTMF, ERROR = 0x00, 0x01, 0x03, 0xFF
RATES = {
    0x10: 8_000,
    0x11: 12_000,
    0x12: 16_000,
    0x13: 24_000,
    0x14: 32_000,
    0x15: 44_100,
    0x16: 48_000,
    0x17: 96_000,
    0x18: 192_000,
}
"""Kinds of audio packets and their sample rates in Hz."""
ENCODING = "s16le"
_HEADER = 3


class AudioSocket:
    """One call. It begins at its first audio, which tells the rate."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._call: str | None = None
        self._kind: int | None = None
        self._over = False

    def receive(self, message: str | bytes) -> Iterator[Command]:
        """The commands in the packets that these bytes complete. Raises ``BadMessage``: after a fatal one nothing
        more is read, one that is not comes when all packets have been."""
        if isinstance(message, str):
            raise BadMessage("bad_message", "Bad text, expected bytes")
        if self._over:
            raise BadMessage("closed", "Bad packet after the end, expected none")
        self._buffer += message
        first, forgiven = 0, None
        try:
            while not self._over and len(self._buffer) - first >= _HEADER:
                end = first + _HEADER + int.from_bytes(self._buffer[first + 1 : first + _HEADER])
                if end > len(self._buffer):
                    break
                kind, payload = self._buffer[first], bytes(self._buffer[first + _HEADER : end])
                first = end
                try:
                    yield from self._packet(kind, payload)
                except BadMessage as error:
                    self._over = self._over or error.fatal
                    if error.fatal:
                        raise
                    forgiven = error
        finally:
            del self._buffer[:first]
        if forgiven is not None:
            raise forgiven

    def begun(self, position: int) -> None:
        """Nothing: Asterisk does not wait for an answer."""

    def tell(self, message: Mapping[str, Any]) -> None:
        """Nothing: Asterisk takes audio back, no results."""

    def fail(self, error: BadMessage) -> None:
        """Nothing. A hangup packet would end the caller's call."""

    def finished(self) -> None:
        """Nothing: whoever is done closes the connection."""

    def take(self) -> list[str | bytes]:
        """Nothing is ever sent."""
        return []

    def _packet(self, kind: int, payload: bytes) -> Iterator[Command]:
        if kind in RATES:
            yield from self._audio(kind, payload)
        elif kind == UUID:
            if self._call is not None:
                raise BadMessage("already_started", "Bad UUID packet, expected one a connection")
            if len(payload) != 16:
                raise BadMessage("bad_value", f"Bad UUID of {len(payload)} bytes, expected 16")
            self._call = str(uuid.UUID(bytes=payload))
        elif kind in (HANGUP, ERROR):
            self._over = True
            yield Finish()
        elif kind == DTMF:
            if len(payload) != 1:
                raise BadMessage("bad_value", f"Bad DTMF of {len(payload)} bytes, expected 1", fatal=False)
        else:
            raise BadMessage("unknown_type", f"Bad kind 0x{kind:02x}, expected one of AudioSocket's", fatal=False)

    def _audio(self, kind: int, payload: bytes) -> Iterator[Command]:
        if self._call is None:
            raise BadMessage("no_session", "Bad audio packet, expected the UUID first")
        if len(payload) % 2:
            raise BadMessage("bad_audio", f"Bad audio packet of {len(payload)} bytes, expected a multiple of 2")
        if self._kind is None:
            self._kind = kind
            yield Begin(self._call, self._call, RATES[kind], (CUSTOMER,), ENCODING)
        elif kind != self._kind:
            rates = f"{RATES[kind]} Hz, expected {RATES[self._kind]}"
            raise BadMessage("bad_value", f"Bad change of rate to {rates} as before")
        if payload:
            yield Audio(0, pcm.decode(payload, ENCODING)[:, 0])
