"""A real browser, Debian's Chromium: which pages may open a session, and what they can read otherwise."""

from __future__ import annotations

import asyncio
import base64
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import sedstream
from sedstream.audio import pcm
from sedstream.serving import tokens
from sedstream.serving.server import Server
from sedstream.zoo import Model

playwright = pytest.importorskip("playwright.async_api", reason="needs playwright")
CHROMIUM = shutil.which("chromium")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs chromium (Debian: chromium)")

FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-background-networking"]
PAGE = """<!doctype html><meta charset="utf-8"><title>desk</title><script>
const talk = (url, protocols, audio) => new Promise(resolve => {
  const socket = new WebSocket(url, protocols), messages = [];
  socket.onopen = () => {
    if (audio === null) return;
    socket.send(JSON.stringify({type: "session.start", v: 1, audio: {encoding: "s16le", rate: 16000}}));
    const bytes = Uint8Array.from(atob(audio), c => c.charCodeAt(0));
    for (let n = 0; n < bytes.length; n += 6400) socket.send(bytes.slice(n, n + 6400));
    socket.send(JSON.stringify({type: "close"}));
  };
  socket.onmessage = event => {
    messages.push(JSON.parse(event.data));
    if (audio === null && messages.at(-1).type === "session.end") socket.close();
  };
  socket.onclose = event => resolve({code: event.code, protocol: socket.protocol, messages});
});
const read = url => fetch(url).then(answer => answer.text(), error => error.name);
</script>"""

Array = NDArray[np.float32]


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def site(folder: Path) -> Iterator[str]:
    """A web site with one page, and its origin."""
    (folder / "index.html").write_text(PAGE)
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
    thread = Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@asynccontextmanager
async def browser() -> AsyncIterator[Callable[[str], Awaitable[Any]]]:
    """Opens a page of an origin."""
    async with playwright.async_playwright() as player:
        chromium = await player.chromium.launch(executable_path=CHROMIUM, args=FLAGS, timeout=120_000)
        try:

            async def visit(origin: str) -> Any:
                page = await chromium.new_page()
                await page.goto(origin + "/index.html", timeout=120_000)
                return page

            yield visit
        finally:
            await chromium.close()


async def talk(page: Any, url: str, audio: bytes | None, *protocols: str) -> dict[str, Any]:
    """What a page gets: close code, subprotocol, messages. ``audio`` None: it only listens."""
    coded = None if audio is None else base64.b64encode(audio).decode()
    found: dict[str, Any] = await page.evaluate("([...given]) => talk(...given)", [url, protocols, coded])
    return found


def test_pages_of_a_browser(model: Model, speech: Array, tmp_path: Path) -> None:
    """A page of an allowed origin sends a call and follows it, with its token as a subprotocol, and gets the answer of
    the recording. A page of another origin opens nothing and reads nothing, be its token good, or none asked for."""
    path = tmp_path / "tokens.toml"
    token = tokens.add(path, "desk", scopes=["stream", "watch", "admin"])
    shown = ("sedstream.v1", f"sedstream.token.{token}")
    audio = pcm.encode(speech[:64_000], "s16le")
    heard = pcm.decode(audio, "s16le")[:, 0]
    expected = [
        (row["start"], row["end"], row["emotion"])
        for row in sedstream.diarize(heard, rate=16_000, model=model, plan="live").rows()
    ]
    assert expected

    async def run(desk: str, evil: str) -> None:
        async with browser() as visit, Server(model, port=0, tokens=path, allow_origin=[desk]) as server:
            allowed, other = await visit(desk), await visit(evil)
            watch = server.url.replace("/v1/stream", "/v1/watch")
            following = asyncio.create_task(talk(allowed, watch, None, *shown))
            while not server.hub._watchers:
                assert not following.done(), following.result()
                await asyncio.sleep(0.02)
            own = await talk(allowed, server.url, audio, *shown)
            assert (own["code"], own["protocol"]) == (1000, "sedstream.v1")
            assert own["messages"][0]["type"] == "session.ready"
            for told in (own, await following):
                finals = [m for m in told["messages"] if m["type"] == "emotion.final"]
                assert [(m["start"], m["end"], m["emotion"]) for m in finals] == expected
                assert told["messages"][-1]["type"] == "session.end"
            for page, url, protocols in (
                (other, server.url, shown),
                (other, watch, shown),
                (allowed, server.url, ("sedstream.v1", "sedstream.token.x")),
                (allowed, server.url, ()),
            ):
                assert await talk(page, url, audio, *protocols) == {"code": 1006, "protocol": "", "messages": []}
            assert not server.sessions
            kinds = [m["type"] for m in (await talk(allowed, server.url, b"", *shown))["messages"]]
            assert (kinds[0], kinds[-1]) == ("session.ready", "session.end")
            async with Server(model, port=0) as open_to_all:  # of this machine: no token, and no page either
                for page in (allowed, other):
                    assert (await talk(page, open_to_all.url, audio))["messages"] == []
                    metrics = open_to_all.url.replace("ws", "http", 1).replace("/v1/stream", "/metrics")
                    assert await page.evaluate("read", metrics) == "TypeError"  # what a browser says of CORS
                assert not open_to_all.sessions

    (tmp_path / "desk").mkdir()
    (tmp_path / "evil").mkdir()
    with site(tmp_path / "desk") as desk, site(tmp_path / "evil") as evil:
        asyncio.run(asyncio.wait_for(run(desk, evil), 300))
