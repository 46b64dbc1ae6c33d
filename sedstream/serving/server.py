"""WebSocket server: many sessions on one model, one engine thread, one event loop."""

from __future__ import annotations

import asyncio
import errno
import ipaddress
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from http import HTTPStatus
from typing import Protocol

from websockets.asyncio.server import Server as WebSocketServer
from websockets.asyncio.server import ServerConnection, serve
from websockets.http11 import Request, Response

from ..engine import Delivery, Engine, Session
from ..errors import BadInput, Unavailable
from ..zoo import Model
from .access import Refusal
from .connection import Connection
from .protocol import MAX_BINARY

PATH = "/v1/stream"


class Dialog(Protocol):
    """One client of a WebSocket route, served until it ends."""

    def run(self) -> Awaitable[None]: ...


@dataclass(frozen=True, slots=True)
class Route:
    """A WebSocket path: what serves a client there, and the scope that its token must have."""

    dialog: Callable[[Server, ServerConnection], Dialog]
    scope: str


@dataclass(frozen=True, slots=True)
class Page:
    """A path answered by plain HTTP: status, content type, body; ``scope`` None: anybody may ask."""

    answer: Callable[[Server], tuple[HTTPStatus, str, str]]
    scope: str | None


ROUTES: dict[str, Route | Page] = {
    PATH: Route(Connection, "stream"),
}
"""Everything that the server answers, by its exact path."""


class Server:
    """``async with Server(model, host, port)`` listens until the block ends; ``port`` 0 takes a free one (see ``url``).

    Raises ``Unavailable`` when the port is taken, ``BadInput`` for a host beyond loopback unless ``beyond_loopback``.
    """

    def __init__(
        self, model: Model, host: str = "127.0.0.1", port: int = 8765, *, beyond_loopback: bool = False
    ) -> None:
        if not beyond_loopback and not _is_loopback(host):
            raise BadInput(f"Bad host {host!r}, expected a loopback address: there is no access control yet")
        self.model = model
        self.sessions: dict[Session, Connection] = {}
        self.engine = Engine(model, self._hand_over)
        self._host, self._port = host, port
        self._loop: asyncio.AbstractEventLoop | None = None
        self._server: WebSocketServer | None = None
        self.url = ""
        """Where clients connect, once the server listens."""

    async def __aenter__(self) -> Server:
        self._loop = asyncio.get_running_loop()
        for plan in self.model.manifest.plans.values():
            self.model.warm(plan)  # before the port opens: the first caller must not wait for it
        self.engine.__enter__()
        try:
            self._server = await serve(
                self._serve,
                self._host,
                self._port,
                process_request=self._answer,
                origins=[None],  # no web page may use a visitor's browser to reach this machine
                compression=None,  # audio does not compress, and a compressor per connection costs memory
                max_size=MAX_BINARY,
                max_queue=8,
                # Pings keep middle boxes awake, but an answer may wait behind minutes of audio that back-pressure
                # holds.
                ping_timeout=None,
                close_timeout=2,
                server_header=None,
            )
        except OSError as error:
            self.engine.__exit__()
            taken = error.errno == errno.EADDRINUSE
            reason = "it is in use" if taken else str(error.strerror or error)
            raise Unavailable(f"Bad address {self._host}:{self._port}, expected a free one: {reason}") from error
        host, port = next(iter(self._server.sockets)).getsockname()[:2]
        self.url = f"ws://[{host}]:{port}{PATH}" if ":" in host else f"ws://{host}:{port}{PATH}"
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        await self._server.wait_closed()
        await asyncio.get_running_loop().run_in_executor(None, self.engine.__exit__)

    def _answer(self, socket: ServerConnection, request: Request) -> Response | None:
        """Refuse a request or answer a page; None lets the WebSocket handshake go on. In order: path, token and
        scope, origin, limits, admission."""
        route = ROUTES.get(request.path.partition("?")[0])
        if route is None:
            return _refuse(socket, Refusal(HTTPStatus.NOT_FOUND, f"expected a path of {', '.join(ROUTES)}"))
        if isinstance(route, Page):
            return _page(socket, *route.answer(self))
        if refusal := self._admit():
            return _refuse(socket, refusal)
        return None

    def _admit(self) -> Refusal | None:
        """Whether there is room for one more session."""
        return None

    async def _serve(self, socket: ServerConnection) -> None:
        assert socket.request is not None
        route = ROUTES[socket.request.path.partition("?")[0]]
        assert isinstance(route, Route)  # pages were answered before the handshake
        await route.dialog(self, socket).run()

    def _hand_over(self, deliveries: list[Delivery]) -> None:
        """Engine thread: the one hand-over of a tick."""
        assert self._loop is not None
        self._loop.call_soon_threadsafe(self._dispatch, deliveries)

    def _dispatch(self, deliveries: list[Delivery]) -> None:
        for delivery in deliveries:
            if connection := self.sessions.get(delivery.session):
                connection.deliver(delivery)


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _refuse(socket: ServerConnection, refusal: Refusal) -> Response:
    response = socket.respond(refusal.status, refusal.reason + "\n")
    response.headers.update(refusal.headers)
    return response


def _page(socket: ServerConnection, status: HTTPStatus, content_type: str, body: str) -> Response:
    response = socket.respond(status, body)
    del response.headers["Content-Type"]
    response.headers["Content-Type"] = content_type
    return response
