"""The telephone dialects that come over WebSocket, as a server mounts them: who may come in, and as what."""

from __future__ import annotations

import base64
import time
from http import HTTPStatus
from typing import TYPE_CHECKING

from websockets.asyncio.server import ServerConnection
from websockets.datastructures import Headers
from websockets.http11 import Request

from ...errors import BadMessage, SedstreamError, Unavailable
from ..access import Refusal, bearer
from ..guarded import GuardedConnection
from ..tokens import Token
from .audiohook import AudioHook
from .bridge import Bridge
from .signature import verify
from .twilio import Twilio

if TYPE_CHECKING:
    from ..server import Server


def twilio(server: Server, socket: ServerConnection) -> Bridge:
    """Twilio Media Streams; the token is the parameter ``token`` of the ``<Stream>``, or a bearer token."""
    assert socket.request is not None
    assert isinstance(socket, GuardedConnection)
    headers = socket.request.headers

    def let_in(token: str | None) -> SedstreamError | None:
        refusal = server.let_in(socket, token or bearer(headers))
        if refusal is None:
            return None
        if refusal.status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
            return BadMessage("unauthorized", f"Bad token, {refusal.reason}")
        full = Unavailable(f"Bad time for a call, {refusal.reason}")
        full.code = "full"
        return full

    return Bridge(socket, Twilio(), server.legs, idle=server.idle_seconds, let_in=let_in)


def audiohook(server: Server, socket: ServerConnection) -> Bridge:
    """Genesys AudioHook."""
    assert socket.request is not None
    assert isinstance(socket, GuardedConnection)
    assert socket.visit is not None  # let in at the handshake
    names = (_first(socket.request.headers, f"Audiohook-{name}-Id") for name in ("Session", "Organization"))
    dialect = AudioHook(*names, allow_agent=server.allow_agent)
    return Bridge(socket, dialect, server.legs, lasting=True, visit=socket.visit, idle=server.idle_seconds)


def api_key(headers: Headers) -> str | None:
    """Where an AudioHook request has its token."""
    return _first(headers, "X-API-KEY")


def check_signature(server: Server, token: Token, request: Request) -> Refusal | None:
    """Where a token has a client secret, an AudioHook request must be signed with it."""
    if token.client_secret is None:
        return None
    headers = {name.lower(): ", ".join(request.headers.get_all(name)) for name in request.headers}
    try:
        key = headers.get("x-api-key", "")
        verify(request.path, headers, {key: base64.b64decode(token.client_secret)}, time.time(), server.nonces)
    except BadMessage as error:
        return Refusal(HTTPStatus.UNAUTHORIZED, str(error))
    return None


def _first(headers: Headers, name: str) -> str | None:
    values = headers.get_all(name)  # get() would raise for one that stands there twice
    return values[0] if values else None
