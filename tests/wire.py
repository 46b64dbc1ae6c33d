"""A server on a free port, the schema, and a client that checks every message."""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from http.client import HTTPMessage
from importlib.resources import files
from pathlib import Path
from typing import Any

import jsonschema
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from sedstream.serving.server import Server
from sedstream.zoo import Model

SCHEMA = json.loads((files("sedstream.serving") / "protocol.schema.json").read_text())
_SERVER = jsonschema.Draft202012Validator({"$ref": "#/$defs/server", "$defs": SCHEMA["$defs"]})
_CLIENT = jsonschema.Draft202012Validator({"$ref": "#/$defs/client", "$defs": SCHEMA["$defs"]})


@asynccontextmanager
async def serving(model: Model) -> AsyncIterator[str]:
    """The URL of a real server."""
    async with Server(model, port=0) as server:
        yield server.url


def check(message: dict[str, Any]) -> dict[str, Any]:
    """A message from the server, valid by the schema."""
    _SERVER.validate(message)
    return message


def check_client(message: dict[str, Any]) -> dict[str, Any]:
    _CLIENT.validate(message)
    return message


def check_numbering(messages: Sequence[dict[str, Any]]) -> None:
    """``seq`` from 0 without holes, one session, final segments numbered without holes a channel."""
    assert [message["seq"] for message in messages] == list(range(len(messages)))
    assert len({message["session"] for message in messages}) <= 1
    finals: dict[int, list[int]] = {}
    for message in messages:
        if message["type"] == "emotion.final":
            finals.setdefault(message["channel"], []).append(message["seg"])
    assert all(numbers == list(range(len(numbers))) for numbers in finals.values())


async def everything(socket: ClientConnection) -> tuple[list[dict[str, Any]], int]:
    """All messages until the connection ends, each checked, and the close code."""
    messages = []
    try:
        while True:
            messages.append(check(json.loads(await socket.recv())))
    except ConnectionClosed as closed:
        check_numbering(messages)
        return messages, closed.rcvd.code if closed.rcvd else 1006


async def talk(url: str, *frames: str | bytes | dict[str, Any]) -> tuple[list[dict[str, Any]], int]:
    """Send frames on a connection of its own; everything that comes back."""
    socket = await connect(url, compression=None, max_size=None)
    try:
        for frame in frames:
            await socket.send(json.dumps(frame) if isinstance(frame, dict) else frame)
    except ConnectionClosed:
        pass
    return await everything(socket)


def get(url: str, path: str) -> tuple[int, str, HTTPMessage]:
    """Status, body and headers of a page of the server at ``url`` (its WebSocket URL)."""
    page = url.replace("ws://", "http://").removesuffix("/v1/stream") + path
    try:
        with urllib.request.urlopen(page, timeout=30) as answer:
            return answer.status, answer.read().decode(), answer.headers
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode(), error.headers


@contextmanager
def process(
    *arguments: str | Path, env: Mapping[str, str] | None = None, cwd: Path | None = None, port: int = 0
) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """``sedstream serve``, on a free port where none is given, and its URL; killed at the end if it is still there."""
    command = [sys.executable, "-m", "sedstream", "serve", "--port", str(port), *map(str, arguments)]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env, cwd=cwd)
    try:
        assert server.stdout is not None
        line = server.stdout.readline()
        assert line.startswith("listening on ws://"), line
        yield server, line.split()[-1]
    finally:
        server.kill()
        server.communicate()


START: dict[str, Any] = {"type": "session.start", "v": 1, "audio": {"encoding": "s16le", "rate": 16000}}
CLOSE = {"type": "close"}
