"""WebSocket server: many sessions on one model, one engine thread, one event loop."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus
from math import inf
from pathlib import Path
from typing import Protocol

from websockets.asyncio.server import Server as WebSocketServer
from websockets.asyncio.server import ServerConnection, serve
from websockets.datastructures import Headers
from websockets.http11 import Request, Response

from .. import capacity
from ..engine import Delivery, Engine, Session
from ..errors import BadInput
from ..zoo import Model
from . import operation
from .access import BEARER, Access, Refusal, bearer
from .addresses import expect_port, is_loopback, taken
from .admission import Admission
from .call import Call
from .connection import Connection
from .guarded import HANDSHAKE_SECONDS, GuardedConnection
from .metrics import Metrics
from .protocol import MAX_BINARY
from .resume import Lines
from .telephony import mounted
from .telephony.leg import Legs
from .telephony.signature import Nonces
from .tls import Certificate
from .tokens import Token, TokenFile
from .watch import Hub, Watcher
from .webhooks import read_alerts

PATH = "/v1/stream"
REFRESH_SECONDS = 1.0
"""How often changed tokens and certificates are looked for, besides at each handshake."""
PING_SECONDS = 20.0
"""How often every client is sent a WebSocket ping."""
REVOKED = 1008
MAX_SPEED = 20.0
"""Times real time at which a session may be answered: a client that was cut off catches up, a file cannot take all."""

log = logging.getLogger(__name__)
# Below this level websockets tells headers, and with them tokens.
_wire_log = logging.getLogger(f"{__name__}.websockets")
_wire_log.setLevel(logging.WARNING)


class Dialog(Protocol):
    """One client of a WebSocket route, served until it ends."""

    def run(self) -> Awaitable[None]: ...


@dataclass(frozen=True, slots=True)
class Route:
    """A WebSocket path: what serves a client there, the scope that its token must have, and where in the request the
    token is. ``secret`` None: the dialect brings it later, and its dialog must call ``Server.let_in`` before all
    else. ``verify``: what a dialect checks besides, now that it is known whose request it is. ``place``: where the
    token is, in words."""

    dialog: Callable[[Server, ServerConnection], Dialog]
    scope: str
    secret: Callable[[Headers], str | None] | None = bearer
    verify: Callable[[Server, Token, Request], Refusal | None] | None = None
    place: str = BEARER


@dataclass(frozen=True, slots=True)
class Page:
    """A path answered by plain HTTP: status, content type, body; ``scope`` None: anybody may ask."""

    answer: Callable[[Server], tuple[HTTPStatus, str, str]]
    scope: str | None


ROUTES: dict[str, Route | Page] = {
    PATH: Route(Connection, "stream"),
    "/v1/watch": Route(Watcher, "watch"),
    "/v1/twilio": Route(mounted.twilio, "stream", None, place='<Parameter name="token"> in the <Stream>'),
    "/v1/audiohook": Route(mounted.audiohook, "stream", mounted.api_key, mounted.check_signature, "X-API-KEY: …"),
    "/healthz": Page(operation.health, None),
    "/readyz": Page(operation.readiness, None),
    "/metrics": Page(operation.metrics, "admin"),
}
"""Everything that the server answers, by its exact path."""


class Server:
    """``async with Server(model, host, port)`` listens until the block ends; ``port`` 0 takes a free one (see ``url``).

    ``tokens``: file of those that may come in (see ``tokens.py``); without it, anybody on this machine may, and the
    server listens beyond it only with ``insecure``. ``tls_cert`` and ``tls_key``: PEM files; ``wss`` then. All three
    may change while it runs. ``allow_origin``: web pages that may connect from a browser. ``allow_agent``: analyse
    channels whose role is ``agent`` too. ``alerts``: TOML file of rules and webhooks (see ``webhooks.py``).
    ``resume_seconds``: how long a session waits for a client whose connection broke, 0: not at all; ``idle_seconds``:
    after which a connection that sends nothing is closed, 0: never. ``max_sessions``: channels that are analysed at
    once, None: any number. ``max_speed``: times real time that a session is answered at most, 0: as fast as it goes;
    live calls come first in any case. Raises ``Unavailable`` when the port is taken,
    ``BadInput`` for what cannot be used.
    """

    def __init__(
        self,
        model: Model,
        host: str = "127.0.0.1",
        port: int = 8765,
        *,
        tokens: str | Path | None = None,
        tls_cert: str | Path | None = None,
        tls_key: str | Path | None = None,
        allow_origin: Sequence[str] = (),
        allow_agent: bool = False,
        insecure: bool = False,
        alerts: str | Path | None = None,
        resume_seconds: float = 30.0,
        idle_seconds: float = 60.0,
        max_sessions: int | None = None,
        max_speed: float = MAX_SPEED,
    ) -> None:
        if tokens is None and not insecure and not is_loopback(host):
            raise BadInput(f"Bad host {host!r}, expected a loopback address, or tokens: anybody could come in")
        expect_port(port)
        if tls_key is not None and tls_cert is None:
            raise BadInput(f"Bad TLS key '{tls_key}', expected a certificate with it")
        self.access = Access(None if tokens is None else TokenFile(tokens), allow_origin)
        self.allow_agent = allow_agent
        self._certificate = None if tls_cert is None else Certificate(tls_cert, tls_key)
        self._refreshing: asyncio.Task[None] | None = None
        self._closing: set[asyncio.Task[None]] = set()
        self.model = model
        self.sessions: dict[Session, Call] = {}
        self.rules, self.webhooks = ((), ()) if alerts is None else read_alerts(alerts, model.manifest.labels)
        self.hub = Hub()
        self.lines = Lines(resume_seconds)
        self.legs = Legs(self)
        self.nonces = Nonces()
        self.idle_seconds = idle_seconds or None
        self.metrics = Metrics(self)
        self.admission = Admission(self)
        self.engine = Engine(
            model, self._hand_over, capacity=max_sessions, max_speed=max_speed or inf, on_tick=self.metrics.ticked
        )
        self._host, self._port = host, port
        self._loop: asyncio.AbstractEventLoop | None = None
        self._server: WebSocketServer | None = None
        self.url = ""
        """Where clients connect, once the server listens."""

    async def __aenter__(self) -> Server:
        self._loop = asyncio.get_running_loop()
        capacity.warm(self.model)  # before the port opens: the first caller must not wait for it
        self.engine.__enter__()
        try:
            self._server = await serve(
                self._serve,
                self._host,
                self._port,
                process_request=self._answer,
                create_connection=partial(GuardedConnection, {}),  # type: ignore[arg-type]  # any factory will do
                logger=_wire_log,
                ssl=None if self._certificate is None else self._certificate.context,
                open_timeout=HANDSHAKE_SECONDS + 5,  # what is slow is answered before; this is for who does not read
                compression=None,  # audio does not compress, and a compressor per connection costs memory
                max_size=MAX_BINARY,
                max_queue=8,
                # Pings keep middle boxes awake and find out who is gone, but an answer may wait behind minutes of audio
                # that back-pressure holds.
                ping_interval=PING_SECONDS,
                ping_timeout=None,
                close_timeout=2,
                server_header=None,
            )
        except (OSError, UnicodeError) as error:
            self.engine.__exit__()
            raise taken(self._host, self._port, error) from error
        host, port = next(iter(self._server.sockets)).getsockname()[:2]
        scheme = "ws" if self._certificate is None else "wss"
        self.url = f"{scheme}://[{host}]:{port}{PATH}" if ":" in host else f"{scheme}://{host}:{port}{PATH}"
        if self._certificate is None and not is_loopback(self._host):
            log.warning("listening beyond this machine without TLS: tokens and calls can be read on the way")
        self._refreshing = asyncio.create_task(self._refresh())
        for webhook in self.webhooks:
            webhook.__enter__()
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        assert self._refreshing is not None
        self._refreshing.cancel()
        self._server.close()
        await self._server.wait_closed()
        self.lines.close()
        for call in list(self.sessions.values()):  # the engine stops before they have their finals
            call.abort()
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(None, self.engine.__exit__)
        # Side by side: each may take its time for what is still queued.
        await asyncio.gather(*(loop.run_in_executor(None, webhook.__exit__) for webhook in self.webhooks))

    def _answer(self, socket: ServerConnection, request: Request) -> Response | None:
        """Refuse a request or answer a page; None lets the WebSocket handshake go on."""
        assert isinstance(socket, GuardedConnection)
        path = request.path.partition("?")[0]
        route = ROUTES.get(path)
        refusal = self._check(socket, request, route)
        if refusal is not None:
            self.metrics.refused(refusal.status)
            log.warning("refused: %s", refusal.reason, extra={"peer": _peer(socket), "code": int(refusal.status)})
            response = socket.respond(refusal.status, refusal.reason + "\n")
            response.headers.update(refusal.headers)
            return response
        if isinstance(route, Page):
            status, content_type, body = route.answer(self)
            response = socket.respond(status, body)
            del response.headers["Content-Type"]
            response.headers["Content-Type"] = content_type
            return response
        return None

    def _check(self, socket: GuardedConnection, request: Request, route: Route | Page | None) -> Refusal | None:
        """In order: path, method, token and scope, origin, limits of the token, admission."""
        if route is None:
            return Refusal(HTTPStatus.NOT_FOUND, f"expected a path of {', '.join(ROUTES)}")
        if request.method != "GET":
            return Refusal(HTTPStatus.METHOD_NOT_ALLOWED, "expected GET", {"Allow": "GET"})
        secret, place = (bearer, BEARER) if isinstance(route, Page) else (route.secret, route.place)
        token: Token | None = None
        if route.scope is not None and secret is not None:
            found = self.access.authorise(secret(request.headers), route.scope, place)
            if isinstance(found, Refusal):
                return found
            token = found
        if refusal := self.access.check_origin(request.headers):
            return refusal
        if isinstance(route, Page):
            return None
        if token is not None and route.verify is not None and (refusal := route.verify(self, token, request)):
            return refusal
        if token is None:  # nobody knows yet who it is: it takes no place, but need not wait to hear that there is none
            return self.admission.refusal()
        return self._enter(socket, token, route.scope)

    def let_in(self, socket: ServerConnection, secret: str | None) -> Refusal | None:
        """For a route without ``secret``: the token came in the dialect's own way. None: it is let in."""
        route = _route(socket)
        token = self.access.authorise(secret, route.scope, route.place)
        assert isinstance(socket, GuardedConnection)
        refusal = self._enter(socket, token, route.scope)
        if refusal is not None:
            self.metrics.refused(refusal.status)
        return refusal

    def _enter(self, socket: GuardedConnection, token: Token | Refusal, scope: str) -> Refusal | None:
        visit = token if isinstance(token, Refusal) else self.access.enter(token, scope)
        if isinstance(visit, Refusal):
            return visit
        if scope == "stream" and (refusal := self.admission.admit(socket)):
            visit.end()
            return refusal
        socket.let_in(visit)
        return None

    async def _serve(self, socket: ServerConnection) -> None:
        await _route(socket).dialog(self, socket).run()

    async def _refresh(self) -> None:
        """Take changed tokens and certificates; end the sessions of tokens that were removed, as two looks agree: an
        editor may empty a file before it writes it."""
        assert self._server is not None
        suspects: set[GuardedConnection] = set()
        while True:
            await asyncio.sleep(REFRESH_SECONDS)
            try:
                if self._certificate is not None:
                    self._certificate.refresh()
                self.access.refresh()
            except Exception:  # or nothing would ever be refreshed again
                log.exception("not refreshed, what was read last stays in force")
            found = (c for c in self._server.connections if isinstance(c, GuardedConnection))
            revoked = {socket for socket in found if socket.visit is not None and socket.visit.revoked}
            for socket in revoked & suspects:
                log.warning("session ended: its token was revoked", extra={"peer": _peer(socket)})
                task = asyncio.create_task(socket.close(REVOKED, "token revoked"))
                self._closing.add(task)
                task.add_done_callback(self._closing.discard)
            suspects = revoked

    def _hand_over(self, deliveries: list[Delivery]) -> None:
        """Engine thread: the one hand-over of a tick."""
        assert self._loop is not None
        self._loop.call_soon_threadsafe(self._dispatch, deliveries)

    def _dispatch(self, deliveries: list[Delivery]) -> None:
        now = self.engine.clock()
        for delivery in deliveries:
            self.metrics.delivered(delivery, now)
            if call := self.sessions.get(delivery.session):
                try:
                    call.deliver(delivery)
                except Exception:  # its own trouble: the others of this tick must get what is theirs
                    log.exception("a call failed", extra={"session": call.name})
                    call.fail()


def _route(socket: ServerConnection) -> Route:
    assert socket.request is not None
    route = ROUTES[socket.request.path.partition("?")[0]]
    assert isinstance(route, Route)  # pages were answered before the handshake
    return route


def _peer(socket: ServerConnection) -> str:
    address = socket.remote_address
    return f"{address[0]}:{address[1]}" if address else "unknown"
