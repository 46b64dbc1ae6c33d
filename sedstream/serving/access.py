"""Who may come in: token, scope, origin and the limits of each token, checked before a handshake."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http import HTTPStatus

from websockets.datastructures import Headers

from ..errors import BadInput
from .tokens import SCOPES, Token, TokenFile

SUBPROTOCOL = "sedstream.v1"
"""What a browser offers beside its token, and what the server then selects."""
SUBPROTOCOL_TOKEN = "sedstream.token."
"""Prefix of the subprotocol by which a browser, which cannot set headers, presents a token. Unlike a query it stands in
no log, no history and no ``Referer``."""
BEARER = "Authorization: Bearer …"
"""Where `bearer` looks first, in words."""
BURST = 1.0
"""Seconds' worth of bytes that a token may send at once before it is slowed."""
_ORIGIN = re.compile(r"(?P<scheme>https?)://([a-z0-9_.-]+|\[[0-9a-f:.]+\])(:(?P<port>[1-9][0-9]{0,4}))?")
ANYBODY = Token("anybody", "", frozenset(SCOPES))
"""Who comes in where no tokens are asked for."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a request is not served: an HTTP status and one line."""

    status: HTTPStatus
    reason: str
    headers: Mapping[str, str] = field(default_factory=dict)


class Access:
    """The rules of one server. ``tokens`` None: none are asked for. ``origins``: the web pages, like
    ``https://desk.example``, that may connect from a browser. Raises ``BadInput``."""

    def __init__(self, tokens: TokenFile | None = None, origins: Sequence[str] = ()) -> None:
        for origin in origins:
            _check_origin(origin)
        self._tokens = tokens
        self._origins = frozenset(origin.lower() for origin in origins)
        self._sessions: Counter[str] = Counter()
        self._meters: dict[str, Meter] = {}

    def authorise(self, secret: str | None, scope: str, place: str) -> Token | Refusal:
        """The token that ``secret`` is, if it allows ``scope`` now; who has none is told its ``place``."""
        if self._tokens is None:
            return ANYBODY
        challenge = {"WWW-Authenticate": "Bearer"}
        if secret is None:
            return Refusal(HTTPStatus.UNAUTHORIZED, f"expected a token: {place}", challenge)
        token = self._tokens.find(secret)
        if token is None:
            return Refusal(HTTPStatus.UNAUTHORIZED, "expected a known token", challenge)
        if token.expired(datetime.now(UTC)):
            return Refusal(HTTPStatus.UNAUTHORIZED, "expected a token that has not expired", challenge)
        if scope not in token.scopes:
            return Refusal(HTTPStatus.FORBIDDEN, f"expected a token with scope {scope}")
        return token

    def check_origin(self, headers: Headers) -> Refusal | None:
        """Only browsers send ``Origin``, and the page cannot forge it."""
        for origin in headers.get_all("Origin"):
            if origin.lower() not in self._origins:
                return Refusal(HTTPStatus.FORBIDDEN, "expected a page of an allowed origin")
        return None

    def enter(self, token: Token, scope: str) -> Visit | Refusal:
        """One more session of a token, unless it has as many as it may; the visit must be ended."""
        if token.sessions is not None and self._sessions[token.name] >= token.sessions:
            reason = f"expected at most {token.sessions} sessions at a time of this token"
            return Refusal(HTTPStatus.TOO_MANY_REQUESTS, reason, {"Retry-After": "5"})
        self._sessions[token.name] += 1
        return Visit(self, token, scope, self._meters.setdefault(token.name, Meter()))

    def leave(self, token: Token) -> None:
        """A session of a token is over."""
        self._sessions[token.name] -= 1
        if not self._sessions[token.name]:
            del self._sessions[token.name]  # not its meter: whoever comes back at once is not faster for it

    def open(self, token: Token) -> int:
        """How many sessions of a token there are."""
        return self._sessions[token.name]

    def refresh(self) -> None:
        """Read changed tokens."""
        if self._tokens is not None:
            self._tokens.refresh()
            gone = self._meters.keys() - self._tokens.names - self._sessions.keys()
            for name in gone:
                del self._meters[name]

    def revoked(self, token: Token, scope: str) -> bool:
        """Whether a token that was let in for ``scope`` was removed since, or has lost the scope."""
        if self._tokens is None:
            return False
        current = self._tokens.current(token)
        return current is None or scope not in current.scopes


class Meter:
    """Slows what arrives too fast: how long the next bytes have to wait."""

    def __init__(self) -> None:
        self._due = 0.0

    def take(self, count: int, rate: int, now: float) -> float:
        """Seconds to wait before ``count`` more bytes are used, at ``rate`` bytes a second; ``now`` in seconds of any
        clock that only moves forward."""
        self._due = max(self._due, now - BURST) + count / rate
        return max(0.0, self._due - now)


@dataclass(slots=True)
class Visit:
    """One session of a token, from its handshake until ``end``."""

    access: Access
    token: Token
    scope: str
    meter: Meter
    over: bool = False

    def wait(self, count: int, now: float) -> float:
        """Seconds that ``count`` bytes received at ``now`` have to wait."""
        rate = self.token.bytes_per_second
        return 0.0 if rate is None else self.meter.take(count, rate, now)

    def crowded(self, more: int) -> bool:
        """Whether the token has too many sessions with ``more`` that have no connection."""
        most = self.token.sessions
        return most is not None and self.access.open(self.token) + more > most

    @property
    def revoked(self) -> bool:
        """Whether the token would no longer be let in. Having expired meanwhile does not count: a call that began in
        time may end."""
        return self.access.revoked(self.token, self.scope)

    def end(self) -> None:
        """May be called twice."""
        if not self.over:
            self.over = True
            self.access.leave(self.token)


def bearer(headers: Headers) -> str | None:
    """The token of a request: from ``Authorization: Bearer …`` or, for browsers, from a subprotocol."""
    for value in headers.get_all("Authorization"):
        kind, _, secret = value.strip().partition(" ")
        if kind.lower() == "bearer" and secret:
            return secret.strip()
    for value in headers.get_all("Sec-WebSocket-Protocol"):
        for offered in value.split(","):
            if offered.strip().startswith(SUBPROTOCOL_TOKEN):
                return offered.strip().removeprefix(SUBPROTOCOL_TOKEN)
    return None


def _check_origin(origin: str) -> None:
    """Raises ``BadInput`` for what no browser would say: it would keep out the page that was meant."""
    found = _ORIGIN.fullmatch(origin.lower())
    port = int(found["port"] or 0) if found else 0
    usual = found is not None and port == {"http": 80, "https": 443}[found["scheme"]]  # is left out
    if not found or usual or port > 65_535:
        raise BadInput(
            f"Bad origin {origin!r}, expected one as browsers say it, like https://desk.example or http://localhost:3000"
        )
