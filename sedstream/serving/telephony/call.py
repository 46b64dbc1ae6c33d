"""What every dialect speaks of: a call begins, audio comes or is lost a channel, the call is over."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ...errors import BadMessage

CUSTOMER = "customer"
MAX_TEXT = 65_536
"""Characters of one text message."""
MAX_GAP = 4 * 3600
"""Seconds that may be told lost at once: a customer on hold for half a day is a broken clock."""


@dataclass(frozen=True, slots=True)
class Begin:
    """A call: the platform's names for it and for this stream of it, Hz, whose voice each channel carries, and how the
    wire (``protocol.schema.json``) names the encoding that its audio came in.

    ``continues``: names of earlier streams, oldest first, whose connections broke and that this one goes on from.
    ``token``: what the platform shows to be let in, where the handshake has no place for it.
    """

    call: str
    stream: str
    rate: int
    roles: tuple[str, ...]
    encoding: str
    continues: tuple[str, ...] = ()
    token: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class Audio:
    """Samples ``[n]`` f32 of a channel, right behind what it had before."""

    channel: int
    samples: NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Gap:
    """``samples`` samples of a channel will never come."""

    channel: int
    samples: int


@dataclass(frozen=True, slots=True)
class Finish:
    """No more audio."""


Command: TypeAlias = Begin | Audio | Gap | Finish


class Dialect(Protocol):
    """One connection of a telephone platform, without I/O."""

    def receive(self, message: str | bytes) -> Iterator[Command]:
        """The commands in one message, or of a TCP dialect in any bytes; they count as they are taken.

        Raises ``BadMessage``: with ``fatal`` nothing more can be understood.
        """
        ...

    def begun(self, position: int) -> None:
        """The call of the last ``Begin`` is open and has ``position`` samples already."""
        ...

    def tell(self, message: Mapping[str, Any]) -> None:
        """A result, as on wire v1; what the platform takes goes into ``take``."""
        ...

    def fail(self, error: BadMessage) -> None:
        """Tell the platform that its call is not analysed further."""
        ...

    def finished(self) -> None:
        """Everything about the call has been told."""
        ...

    def take(self) -> list[str | bytes]:
        """What is to be sent now."""
        ...


def parse(text: str) -> dict[str, Any]:
    """A JSON object. Raises ``BadMessage``."""
    if len(text) > MAX_TEXT:
        raise BadMessage("too_long", f"Bad text message of {len(text)} characters, expected at most {MAX_TEXT}")
    try:
        message = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BadMessage("bad_json", f"Bad JSON, expected an object: {error}") from error
    if not isinstance(message, dict):
        raise BadMessage("bad_message", "Bad message, expected an object")
    return message


def inner(message: Mapping[str, Any], name: str) -> dict[str, Any]:
    """The object ``name`` of a message. Raises ``BadMessage``, which is logged: an object that stands there as text may
    have a token in it, or audio, and is not told."""
    value = message.get(name)
    if not isinstance(value, dict):
        raise bad(name, type(value).__name__ if isinstance(value, str) else value, "an object")
    return value


def word(message: Mapping[str, Any], name: str, *, known: Sequence[str] = (), fatal: bool = True) -> str:
    """The text ``name`` of a message, 1 to 256 characters. Raises ``BadMessage``."""
    value = message.get(name)
    # Half a surrogate pair can be written in JSON, but never sent on.
    if not isinstance(value, str) or not 0 < len(value) <= 256 or not value.isprintable():
        raise bad(name, value, "a text of 1 to 256 printable characters", fatal=fatal)
    if known and value not in known:
        raise bad(name, value, " or ".join(known), fatal=fatal)
    return value


def bad(name: str, value: object, expected: str, *, fatal: bool = True) -> BadMessage:
    """A field that cannot be used."""
    return BadMessage("bad_value", f"Bad {name} {_short(value)!r}, expected {expected}", fatal=fatal)


def _short(value: object) -> str:
    # Written out only when it is short: a number of 60,000 digits or a deep list costs more than it tells.
    return str(value)[:80] if isinstance(value, (str, bool, float, type(None))) else type(value).__name__
