"""What those who run a server ask of it: is it alive, may it have calls, its numbers, and to go away in order."""

from __future__ import annotations

import asyncio
import logging
from http import HTTPStatus
from typing import TYPE_CHECKING

from .metrics import CONTENT_TYPE
from .protocol import LEFT

if TYPE_CHECKING:
    from .server import Server

PLAIN = "text/plain; charset=utf-8"
SHUTDOWN = "shutdown"
"""Why a call ended that was open when the server went away; its connection is closed with 1001."""
DRAIN_SECONDS = 20.0
"""How long a server that was asked to stop works for the calls that are open."""
FAREWELL = 2.0
"""Seconds that clients have to read what was said last and to close."""
LOOK = 0.02

Answer = tuple[HTTPStatus, str, str]

log = logging.getLogger(__name__)


def health(server: Server) -> Answer:
    """``/healthz``: 503 when only a restart helps: the engine has stopped, or the model failed when it last ran."""
    if not server.engine.running:
        return HTTPStatus.SERVICE_UNAVAILABLE, PLAIN, "the engine has stopped\n"
    if server.engine.failing:
        return HTTPStatus.SERVICE_UNAVAILABLE, PLAIN, "the model fails\n"
    return HTTPStatus.OK, PLAIN, "ok\n"


def readiness(server: Server) -> Answer:
    """``/readyz``: 503 while a new call would be refused, full or draining, so that a balancer sends it elsewhere."""
    status = HTTPStatus.OK if server.admission.ready else HTTPStatus.SERVICE_UNAVAILABLE
    return status, PLAIN, f"{server.admission.state}\n"


def metrics(server: Server) -> Answer:
    """``/metrics``: for Prometheus."""
    return HTTPStatus.OK, CONTENT_TYPE, server.metrics.text()


async def drain(server: Server, seconds: float) -> None:
    """Take no more calls, finish those that are open, and wait until their clients have everything, but no longer than
    ``seconds``."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + seconds
    server.admission.draining = True
    server.engine.capacity = 0
    calls = set(server.sessions.values())
    log.info("draining", extra={"calls": len(calls)})
    for call in calls:
        call.end(SHUTDOWN, LEFT)
    while server.sessions and loop.time() < deadline:
        await asyncio.sleep(LOOK)
    deadline = min(deadline, loop.time() + FAREWELL)
    while server.admission.visitors and loop.time() < deadline:
        await asyncio.sleep(LOOK)
    log.info("drained", extra={"calls": len(set(server.sessions.values()))})
