"""``sedstream serve``: the server as a process, from its flags to its exit code."""

from __future__ import annotations

import argparse
import asyncio
import gc
import logging
import os
import resource
import signal
from contextlib import AsyncExitStack

from .. import capacity
from ..zoo import load
from . import logs, operation
from .addresses import expect_free
from .server import Server
from .telephony.asterisk import Asterisk

log = logging.getLogger(__name__)


def run(options: argparse.Namespace) -> int:
    """Serve until SIGINT or SIGTERM; the exit code."""
    logs.configure(options.log_format)
    _allow_files()
    model = load(options.model, options.device)
    access = ("tokens", "tls_cert", "tls_key", "allow_origin", "allow_agent", "insecure")
    wire = ("alerts", "resume_seconds", "idle_seconds", "max_sessions", "max_speed")
    settings = {name: getattr(options, name) for name in (*access, *wire)}
    server = Server(model, options.host, options.port, **settings)
    asterisk = None
    if options.audiosocket is not None:
        # Without --insecure on loopback, wherever the server listens: AudioSocket has no place for a token.
        host = options.host if options.insecure else "127.0.0.1"
        asterisk = Asterisk(server, host, options.audiosocket, insecure=options.insecure)
    expect_free(options.host, options.port)  # what is wrong is said before the seconds that measuring takes
    if options.max_sessions is None:
        server.engine.capacity = capacity.capacity(capacity.measure(model))
        log.info("measured capacity: %d streams that speak all the time", server.engine.capacity)
    # What is loaded by now stays: to look for garbage in it would stop every call for a good part of a second.
    gc.collect()
    gc.freeze()
    try:
        return asyncio.run(_serve(server, asterisk))
    finally:
        logging.shutdown()  # lines may still wait, and the command leaves without Python's own farewell


def _allow_files() -> None:
    """Each call is an open file, and the usual limit of a shell is 1024 of them."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


async def _serve(server: Server, asterisk: Asterisk | None) -> int:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    signals = (signal.SIGINT, signal.SIGTERM)

    def ask(number: int) -> None:
        if stop.is_set():  # asked twice: at once, and the parent sees which signal it was
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        stop.set()

    for number in signals:
        loop.add_signal_handler(number, ask, number)
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(server)
        if asterisk is not None:
            await stack.enter_async_context(asterisk)
            print(f"listening for AudioSocket on port {asterisk.port}", flush=True)
        print(f"listening on {server.url}", flush=True)
        await stop.wait()
        await operation.drain(server, operation.DRAIN_SECONDS)
    return 0
