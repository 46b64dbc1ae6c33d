"""Attacks on a live server, each answered, while a healthy session goes on whose events must be those of its audio."""

import asyncio
import json
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import trustme
from numpy.typing import NDArray
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus
from wire import CLOSE, START, check, check_numbering, everything

import sedstream
from sedstream.audio import pcm
from sedstream.commands import row_of
from sedstream.errors import BadInput, BadMessage, Unavailable
from sedstream.serving import guarded, tokens
from sedstream.serving import server as server_module
from sedstream.serving.choices import choose_channels
from sedstream.serving.client import Client
from sedstream.serving.server import Server
from sedstream.zoo import Model

Array = NDArray[np.float32]
PACKET = 1600

DESK = "https://desk.example"
UPGRADE = {
    "Host": "127.0.0.1",
    "Upgrade": "websocket",
    "Connection": "Upgrade",
    "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
    "Sec-WebSocket-Version": "13",
}


class Keys:
    """A token file with a token of each kind."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "tokens.toml"
        self.good = tokens.add(self.path, "good")
        self.second = tokens.add(self.path, "second")
        self.watch = tokens.add(self.path, "watch", scopes=["watch", "admin"])
        self.expired = tokens.add(self.path, "expired", expires=datetime.now(UTC) - timedelta(seconds=1))
        self.single = tokens.add(self.path, "single", sessions=1)
        self.slow = tokens.add(self.path, "slow", bytes_per_second=32_000)


@pytest.fixture(scope="session")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Keys:
    return Keys(tmp_path_factory.mktemp("tokens"))


@asynccontextmanager
async def healthy(
    model: Model, url: str, token: str | None, speech: Array, trust: ssl.SSLContext | None = None
) -> AsyncIterator[None]:
    """A call goes on inside the block; at its end all its events must be those that its audio has offline."""
    headers = {} if token is None else {"Authorization": f"Bearer {token}"}
    socket = await connect(url, additional_headers=headers, compression=None, ssl=trust)
    await socket.send(json.dumps(START))
    ready = check(json.loads(await socket.recv()))
    over = asyncio.Event()
    sent: list[Array] = []

    async def send() -> None:
        while not over.is_set() or len(sent) < 80:
            first = len(sent) * PACKET % (len(speech) - PACKET)
            sent.append(speech[first : first + PACKET])
            await socket.send(pcm.encode(sent[-1], "s16le"))
            with suppress(TimeoutError):
                await asyncio.wait_for(over.wait(), 0.1)
        await socket.send(json.dumps(CLOSE))

    sender = asyncio.create_task(send())
    reader = asyncio.create_task(everything_of(socket))
    try:
        yield
        over.set()
        await sender
        messages, code = await reader
    finally:
        for task in (sender, reader):
            task.cancel()
        await asyncio.gather(sender, reader, return_exceptions=True)
    check_numbering([ready, *messages])
    assert code == 1000
    assert messages[-1]["type"] == "session.end"
    assert messages[-1]["lost"] == 0
    heard = pcm.decode(pcm.encode(np.concatenate(sent), "s16le"), "s16le", 1)[:, 0]
    expected = list(sedstream.diarize(heard, rate=16_000, model=model, plan="live").rows())
    names = ("start", "end", "emotion", "confidence", "probs", "arousal", "valence")
    found = [row_of(message, "") for message in messages if message["type"] == "emotion.final"]
    assert found
    assert [[row[name] for name in names] for row in found] == [[row[name] for name in names] for row in expected]


async def everything_of(socket: ClientConnection) -> tuple[list[dict[str, Any]], int]:
    messages = []
    try:
        while True:
            messages.append(check(json.loads(await socket.recv())))
    except ConnectionClosed as closed:
        return messages, closed.rcvd.code if closed.rcvd else 1006


def port_of(url: str) -> int:
    return int(url.split(":")[2].split("/")[0])


def request(path: str = "/v1/stream", method: str = "GET", **headers: str | None) -> bytes:
    """A WebSocket request; keywords are headers with ``_`` for ``-``, None leaves one out."""
    fields = UPGRADE | {name.replace("_", "-"): value for name, value in headers.items()}
    lines = [f"{name}: {value}" for name, value in fields.items() if value is not None]
    return "\r\n".join([f"{method} {path} HTTP/1.1", *lines, "", ""]).encode()


async def answer(url: str, data: bytes, trust: ssl.SSLContext | None = None) -> tuple[int, str]:
    """Status and body of what the server answers to raw bytes; 101 when it accepts."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port_of(url), ssl=trust)
    try:
        writer.write(data)
        head = (await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 10)).decode()
        status = int(head.split(" ")[1])
        body = "" if status == 101 else (await asyncio.wait_for(reader.read(), 10)).decode()
        return status, body
    finally:
        writer.transport.abort()


async def refused(url: str, *attacks: tuple[bytes, int]) -> None:
    """Each attack is answered by its status and one line that says what was expected."""
    for data, expected in attacks:
        status, body = await answer(url, data)
        assert status == expected, (data[:200], body)
        if status != 101:
            assert body.strip(), data[:200]
            assert len(body.strip().splitlines()) == 1, body


def attack(run: Callable[[Server], Awaitable[None]], model: Model, keys: Keys, speech: Array) -> None:
    async def go() -> None:
        async with (
            Server(model, port=0, tokens=keys.path, allow_origin=[DESK]) as server,
            healthy(model, server.url, keys.good, speech),
        ):
            await run(server)

    asyncio.run(go())


def test_tokens_paths_heads_and_origins(model: Model, speech: Array, keys: Keys) -> None:
    good = f"Bearer {keys.good}"
    digest = tokens.read(keys.path)[0].sha256
    no_token = [
        request(),
        *(
            request(Authorization=value)
            for value in (
                "Bearer",
                "Bearer ",
                "Bearer x",
                f"Bearer {keys.good[:-1]}",
                f"Bearer {keys.good}x",
                f"Bearer {digest}",
                f"Basic {keys.good}",
                keys.good,
                f"Bearer {keys.expired}",
                "Bearer " + "é" * 50,
            )
        ),
        request(f"/v1/stream?access_token={keys.good}&token={keys.good}"),
        request(Cookie=f"token={keys.good}"),
        request(Sec_WebSocket_Protocol="sedstream.v1, sedstream.token.x"),
        request(Upgrade=None, Connection=None),
    ]
    bad_paths = ["/", "/v1", "/v1/stream/", "//v1/stream", "/v1//stream", "/v1/../v1/stream", "/v1/./stream"]
    bad_paths += ["/v1/%73tream", "/V1/stream", "/v1/stream%00", "/v1/stream;x", "/v1/stream#x", "/v1\\stream", "*"]
    bad_paths += ["http://127.0.0.1/v1/stream", "/../../../../etc/passwd", "/%2e%2e/%2e%2e/etc/passwd", "v1/stream"]
    no_request = [b"\r\n\r\n", b"GET\r\n\r\n", b"GET /v1/stream\r\n\r\n", b"GET /v1/str eam HTTP/1.1\r\n\r\n"]
    no_request += [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "GET /v1/strëam HTTP/1.1\r\n\r\n".encode(), b"\0\xff\r\n\r\n"]
    no_request += [
        request(Content_Length="5") + b"hello",
        request(Transfer_Encoding="chunked"),
        request(**{"a b": "c"}),
    ]
    no_request += [request(X="a\rb\0c"), b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\n\n"]
    big = [request(X="x" * 9000), request(**{f"X{n}": "x" for n in range(200)})]
    big += [request(**{f"X{n}": "x" * 4000 for n in range(5)}), request(X="x" * 1_000_000), b"GET /" + b"x" * 17_000]
    evil = [
        "https://evil.example",
        "null",
        "http://desk.example",
        DESK + ":444",
        DESK + ".evil.example",
        "",
        DESK + "/",
    ]
    evil += ["http://127.0.0.1", "http://localhost"]
    two = request(Authorization=good, Origin=DESK).replace(
        b"Upgrade: web", b"Origin: https://evil.example\r\nUpgrade: web"
    )

    async def run(server: Server) -> None:
        await refused(
            server.url,
            *((data, 401) for data in no_token),
            (request(Authorization=f"Bearer {keys.watch}"), 403),
            *((request(path, Authorization=good), 404) for path in bad_paths),
            *((request(method=method, Authorization=good), 405) for method in ("POST", "HEAD", "get", "CONNECT")),
            *((data, 400) for data in no_request),
            (request("/" + "x" * 9000), 414),
            *((data, 431) for data in big),
            *((request(Authorization=good, Origin=origin), 403) for origin in evil),
            (two, 403),
            (request(Authorization=good, Origin=DESK), 101),
            (request(Authorization=good, Origin=DESK.upper()), 101),
            (request("/v1/stream?any=thing", Authorization=good), 101),
        )
        status, body = await answer(server.url, request(Upgrade=None, Connection=None, Authorization=good))
        assert status == 426
        assert keys.good not in body
        for path in ("/v1/stream", "/healthz"):
            for headers in ({}, {"Content_Length": "5"}, {"Transfer_Encoding": "chunked"}):
                said = await answer(server.url, request(path, "POST", **headers) + b"hello"[: 5 * len(headers)])
                assert said == (405, "expected GET\n"), headers
            said = await answer(server.url, request(path, Content_Length="5") + b"hello")
            assert said == (400, "expected a request without a body\n")
        protocols = ["sedstream.v1", f"sedstream.token.{keys.good}"]  # as a browser does, which cannot set headers
        async with connect(server.url, subprotocols=protocols, origin=DESK, compression=None) as socket:  # type: ignore[arg-type]
            assert socket.subprotocol == "sedstream.v1"
            await socket.send(json.dumps(START))
            assert json.loads(await socket.recv())["type"] == "session.ready"
        async with Client(server.url, token=keys.good) as client:
            assert client.ready["type"] == "session.ready"
        with pytest.raises(Unavailable, match="HTTP 401, expected a known token"):
            async with Client(server.url, token="x"):
                pass

    attack(run, model, keys, speech)


def test_slow_handshakes(model: Model, speech: Array, keys: Keys, monkeypatch: pytest.MonkeyPatch) -> None:
    """Byte by byte, nothing at all, and more of them than the server lets wait: each is told, none keeps others out."""

    async def drip(url: str, pause: float) -> tuple[int, str]:
        reader, writer = await asyncio.open_connection("127.0.0.1", port_of(url))
        drops = asyncio.create_task(_drip(writer, request(Authorization=f"Bearer {keys.good}"), pause))
        try:
            data = await asyncio.wait_for(reader.read(), guarded.HANDSHAKE_SECONDS + 5)
            return int(data.split(b" ")[1]), data.split(b"\r\n\r\n")[1].decode()
        finally:
            drops.cancel()
            await asyncio.gather(drops, return_exceptions=True)
            writer.transport.abort()

    async def run(server: Server) -> None:
        slow = [asyncio.create_task(drip(server.url, pause)) for pause in (0.5, 1.0, 60.0)]
        for result in await asyncio.gather(*slow):
            assert result == (408, "expected a whole request in 5 s\n")
        monkeypatch.setattr(guarded, "HANDSHAKE_SECONDS", 60.0)  # from here on, only the crowd ends anybody
        crowd = [
            await asyncio.open_connection("127.0.0.1", port_of(server.url)) for _ in range(guarded.MAX_WAITING + 50)
        ]
        async with Client(server.url, token=keys.good) as client:
            assert client.ready["type"] == "session.ready"
        told = await asyncio.wait_for(asyncio.gather(*(reader.read() for reader, _ in crowd[:50])), 20)
        assert all(data.startswith(b"HTTP/1.1 408 ") and b"sooner, others wait" in data for data in told)
        for _, writer in crowd:
            writer.transport.abort()
        # A dialect that brings its token later is let in later: until then it takes no place either.
        crowd = [
            await asyncio.open_connection("127.0.0.1", port_of(server.url)) for _ in range(guarded.MAX_WAITING + 50)
        ]
        for _, writer in crowd:
            writer.write(request("/v1/twilio"))
        async with Client(server.url, token=keys.good) as client:
            assert client.ready["type"] == "session.ready"
        ended = await asyncio.wait_for(asyncio.gather(*(reader.read() for reader, _ in crowd[:40])), 20)
        assert all(data.split(b" ")[1] in (b"101", b"408") for data in ended)
        for _, writer in crowd:
            writer.transport.abort()

    attack(run, model, keys, speech)


async def _drip(writer: asyncio.StreamWriter, data: bytes, pause: float) -> None:
    for first in range(len(data)):
        writer.write(data[first : first + 1])
        await asyncio.sleep(pause)


def test_limits_of_a_token(model: Model, speech: Array, keys: Keys) -> None:
    """Sessions at a time, bytes a second, size of a message; another token is not touched."""

    async def run(server: Server) -> None:
        headers = {"Authorization": f"Bearer {keys.single}"}
        async with connect(server.url, additional_headers=headers, compression=None):
            status, body = await answer(server.url, request(Authorization=headers["Authorization"]))
            assert (status, body) == (429, "expected at most 1 sessions at a time of this token\n")
            async with Client(server.url, token=keys.second):
                pass
        for _ in range(100):  # once it has gone, another may come
            status, _ = await answer(server.url, request(Authorization=headers["Authorization"]))
            if status == 101:
                break
            await asyncio.sleep(0.02)
        assert status == 101
        # A handshake that fails after it was let in holds no place.
        broken = request(Authorization=headers["Authorization"], Sec_WebSocket_Version="7")
        for _ in range(3):
            await asyncio.sleep(0.1)
            assert (await answer(server.url, broken))[0] == 400
        big = {"Authorization": f"Bearer {keys.second}"}
        async with connect(server.url, additional_headers=big, compression=None) as socket:
            await socket.send(json.dumps(START))
            with suppress(ConnectionClosed):
                await socket.send(b"\0" * 3_000_000)
            assert (await everything(socket))[1] == 1009

        async def send(seconds: float) -> None:
            async with Client(server.url, token=keys.slow) as client:
                for _ in range(round(seconds * 10)):
                    await client.send(b"\0" * 3200)
                await client.close()
                async for _ in client:
                    pass

        began = asyncio.get_running_loop().time()
        await asyncio.gather(send(3), send(2))  # 160,000 bytes at 32,000 a second, of which one second at once
        assert asyncio.get_running_loop().time() - began > 3.9

    attack(run, model, keys, speech)


def test_tokens_change_while_calls_go_on(model: Model, speech: Array, tmp_path: Path) -> None:
    """Added: works at once. Removed: its session ends, told why. Broken: the last good ones stay."""
    path = tmp_path / "tokens.toml"
    first = tokens.add(path, "first")
    kept = path.read_text()

    async def go() -> None:
        async with Server(model, port=0, tokens=path) as server, healthy(model, server.url, first, speech):
            second = tokens.add(path, "second")
            async with connect(server.url, additional_headers={"Authorization": f"Bearer {second}"}) as socket:
                await socket.send(json.dumps(START))
                assert json.loads(await socket.recv())["type"] == "session.ready"
                path.write_text(kept + "\n[[token]\n")
                await asyncio.sleep(1.5)
                await socket.send(b"\0" * 3200)
                path.write_text(kept)
                _, code = await asyncio.wait_for(everything_of(socket), 5)
                assert code == 1008
                assert socket.close_reason == "token revoked"
            with pytest.raises(InvalidStatus, match="401"):
                await connect(server.url, additional_headers={"Authorization": f"Bearer {second}"})

    asyncio.run(go())


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion")
def test_tls(model: Model, speech: Array, keys: Keys, tmp_path: Path) -> None:
    """1.2 and 1.3 are served, older ones and plain text are not; a renewal does nothing to the call that goes on."""
    authority = trustme.CA()
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"

    def issue() -> bytes:
        issued = authority.issue_cert("127.0.0.1", "localhost")
        issued.cert_chain_pems[0].write_to_path(cert)
        issued.private_key_pem.write_to_path(key)
        return ssl.PEM_cert_to_DER_cert(issued.cert_chain_pems[0].bytes().decode())

    trust = ssl.create_default_context()
    authority.configure_trust(trust)

    async def shown(url: str, name: str) -> bytes | None:
        """The certificate that the server shows a new client that asks for a name, or an address."""
        _, writer = await asyncio.open_connection("127.0.0.1", port_of(url), ssl=trust, server_hostname=name)
        connection = writer.get_extra_info("ssl_object")
        writer.transport.abort()
        found: bytes | None = connection.getpeercert(binary_form=True)
        return found

    async def go() -> None:
        first = issue()
        async with Server(model, port=0, tokens=keys.path, tls_cert=cert, tls_key=key) as server:
            assert server.url.startswith("wss://127.0.0.1:")
            async with healthy(model, server.url, keys.good, speech, trust):
                for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
                    assert await _negotiated(server.url, version) == version.name.replace("_", ".")
                async with _permissive(cert, key) as permissive:  # this client can speak what the server refuses
                    for version in (ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1):
                        assert await _negotiated(permissive, version) == version.name.replace("_", ".")
                        with pytest.raises((ssl.SSLError, ConnectionError)):
                            await _negotiated(server.url, version)
                reader, writer = await asyncio.open_connection("127.0.0.1", port_of(server.url))
                writer.write(request(Authorization=f"Bearer {keys.good}"))
                assert b"101" not in await asyncio.wait_for(reader.read(), 5)
                writer.close()
                stalled, held = await asyncio.open_connection("127.0.0.1", port_of(server.url))
                held.write(b"\x16\x03\x01")  # a TLS handshake that never goes on
                status, _ = await answer(server.url, request(), trust)
                assert status == 401
                status, _ = await answer(server.url, request(Authorization=f"Bearer {keys.good}"), trust)
                assert status == 101
                assert await shown(server.url, "127.0.0.1") == first
                second = issue()
                for name in ("127.0.0.1", "localhost"):
                    for _ in range(60):
                        if await shown(server.url, name) == second:
                            break
                        await asyncio.sleep(0.05)
                    assert await shown(server.url, name) == second
                key.write_text("no key")
                await asyncio.sleep(1.2)
                assert await shown(server.url, "127.0.0.1") == second
                ended = await asyncio.wait_for(stalled.read(), guarded.HANDSHAKE_SECONDS + 8)
                assert b"HTTP" not in ended
                held.close()

    asyncio.run(go())


@asynccontextmanager
async def _permissive(cert: Path, key: Path) -> AsyncIterator[str]:
    """A server, not ours, that takes any version."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.set_ciphers("ALL:@SECLEVEL=0")
    context.minimum_version = ssl.TLSVersion.TLSv1
    context.load_cert_chain(cert, key)
    async with await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", 0, ssl=context) as server:
        yield f"wss://127.0.0.1:{server.sockets[0].getsockname()[1]}/"


async def _negotiated(url: str, version: ssl.TLSVersion) -> str:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_ciphers("ALL:@SECLEVEL=0")  # or this client would refuse old versions itself
    context.minimum_version = context.maximum_version = version
    _, writer = await asyncio.open_connection("127.0.0.1", port_of(url), ssl=context)
    found: str = writer.get_extra_info("ssl_object").version()
    writer.transport.abort()
    return found


def test_the_agent_is_not_analysed(model: Model, speech: Array) -> None:
    """However its role is written: told in ``session.ready``, and no event is of its channel."""
    stereo = np.stack([speech[:96_000], speech[::-1][:96_000]], axis=1)
    rows = list(sedstream.diarize(stereo, rate=16_000, model=model, plan="live", channels="split").rows())

    async def finals(url: str, *roles: str) -> tuple[list[int], list[tuple[int, str, float, float]]]:
        async with Client(url, channels=len(roles), roles=roles, encoding="f32le") as client:
            await client.send(stereo[:, : len(roles)])
            await client.close()
            messages = [message async for message in client]
        told = [message for message in messages if "channel" in message]
        assert {message["channel"] for message in told} <= set(client.ready["analysed"])
        found = [message for message in told if message["type"] == "emotion.final"]
        return client.ready["analysed"], sorted((m["channel"], m["emotion"], m["start"], m["end"]) for m in found)

    expected = sorted((row["channel"], row["emotion"], row["start"], row["end"]) for row in rows)
    assert {channel for channel, *_ in expected} == {0, 1}

    async def go() -> None:
        async with Server(model, port=0) as server:
            for roles, kept in ((("customer", "Agent"), 0), (("AGENT", "customer"), 1)):
                only = [row for row in expected if row[0] == kept]
                assert await finals(server.url, *roles) == ([kept], only)
            for role in ("agent", "Agent ", "\tagent\n", "\xa0AGENT", "agent\u200b", "\ufeffagent", "(agent)"):
                with pytest.raises(BadMessage, match="Bad role 'agent', expected a customer"):
                    await finals(server.url, role)
            assert choose_channels(["agent's customer", "agente", "", None], False) == [0, 1, 2, 3]
        async with Server(model, port=0, allow_agent=True) as server:
            assert await finals(server.url, "customer", "agent") == ([0, 1], expected)

    asyncio.run(go())


def test_where_it_listens(model: Model, keys: Keys) -> None:
    for host in ("0.0.0.0", "::", "", "192.0.2.1", "example.org"):
        with pytest.raises(BadInput, match="expected a loopback address, or tokens"):
            Server(model, host)
        Server(model, host, insecure=True)
        Server(model, host, tokens=keys.path)
    for host in ("127.0.0.1", "127.1.2.3", "::1", "localhost"):
        Server(model, host)
    with pytest.raises(BadInput, match="Bad TLS key 'key.pem', expected a certificate with it"):
        Server(model, tls_key="key.pem")


def test_no_token_is_ever_logged(model: Model, keys: Keys, speech: Array, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG")
    presented: Sequence[bytes] = [
        request(Authorization=f"Bearer {keys.good}"),
        request(Authorization=f"Bearer {keys.expired}"),
        request(f"/v1/stream?access_token={keys.good}"),
        request(f"/{keys.good}"),
        request(Sec_WebSocket_Protocol=f"sedstream.v1, sedstream.token.{keys.good}"),
        request(Authorization=f"Bearer {keys.good}", Upgrade=None),
        request(Authorization=f"Bearer {keys.good}", X="x" * 9000),
    ]

    async def run(server: Server) -> None:
        for data in presented:
            await answer(server.url, data)

    attack(run, model, keys, speech)
    told = [caplog.handler.format(record) for record in caplog.records if record.name != "websockets.client"]
    assert any("refused" in line for line in told)
    for secret in (keys.good, keys.expired):
        assert not [line for line in told if secret in line]


def test_what_comes_behind_a_request_is_no_frame(model: Model, caplog: pytest.LogCaptureFixture) -> None:
    """Pipelined requests and blank lines, as some programs send them: an answer, and nothing in the log."""

    async def ask(host: str, port: int, rest: bytes) -> bytes:
        reader, writer = await asyncio.open_connection(host, port)
        writer.write(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n" + rest)
        answer = await asyncio.wait_for(reader.read(), 10)
        writer.close()
        return answer

    async def run() -> None:
        async with Server(model, port=0) as server:
            host, port = server.url.removeprefix("ws://").split("/")[0].split(":")
            for rest in (b"\r\n", b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n", bytes(5000)):
                assert (await ask(host, int(port), rest)).startswith(b"HTTP/1.1 200")

    asyncio.run(run())
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


def test_each_path_asks_for_its_scope(model: Model, tmp_path: Path) -> None:
    """Who may send calls may neither follow those of others nor read the server's numbers; probes are anybody's."""
    path = tmp_path / "tokens.toml"
    bearers = {scope: f"Bearer {tokens.add(path, scope, scopes=[scope])}" for scope in tokens.SCOPES}
    places = {"/v1/stream": "stream", "/v1/watch": "watch", "/metrics": "admin"}

    async def run() -> None:
        async with Server(model, port=0, tokens=path) as server:
            for place, wanted in places.items():
                assert (await answer(server.url, request(place)))[0] == 401
                for scope, bearer in bearers.items():
                    status, _ = await answer(server.url, request(place, Authorization=bearer))
                    assert status == (403 if scope != wanted else 200 if place == "/metrics" else 101), (place, scope)
            await refused(server.url, (request("/healthz"), 200), (request("/readyz"), 200))
            await refused(server.url, (request("/metrics", Authorization=bearers["admin"], Origin=DESK), 403))

    asyncio.run(run())


def test_whom_a_full_server_refuses_holds_no_place_of_the_token(model: Model, tmp_path: Path) -> None:
    path = tmp_path / "tokens.toml"
    secret = tokens.add(path, "two", sessions=2)

    async def run() -> None:
        async with (
            Server(model, port=0, tokens=path, max_sessions=1) as server,
            Client(server.url, token=secret),
        ):
            await refused(server.url, *[(request(Authorization=f"Bearer {secret}"), 503)] * 3)

    asyncio.run(run())


def test_a_token_that_comes_when_its_connection_is_gone_takes_no_place(model: Model, keys: Keys) -> None:
    """As Twilio brings it: behind the handshake."""

    async def run() -> None:
        async with Server(model, port=0, tokens=keys.path) as server:
            client = await connect(server.url.replace("stream", "twilio"), compression=None)
            [connection] = [c for c in server._server.connections if isinstance(c, guarded.GuardedConnection)]  # type: ignore[union-attr]
            client.transport.abort()
            await asyncio.wait_for(connection.wait_closed(), 30)
            assert server.let_in(connection, keys.single) is None
            assert (await answer(server.url, request(Authorization=f"Bearer {keys.single}")))[0] == 101

    asyncio.run(run())


def test_those_who_came_and_went_end_nobody_sooner(model: Model, keys: Keys, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only those who are there count as a crowd."""
    monkeypatch.setattr(guarded, "HANDSHAKE_SECONDS", 300.0)

    async def run() -> None:
        async with Server(model, port=0, tokens=keys.path) as server:
            reader, writer = await asyncio.open_connection("127.0.0.1", port_of(server.url))
            whole = request(Authorization=f"Bearer {keys.good}")
            writer.write(whole[:20])
            for _ in range(guarded.MAX_WAITING + 10):
                assert (await answer(server.url, request("/nowhere")))[0] == 404
            writer.write(whole[20:])
            assert (await asyncio.wait_for(reader.readuntil(b"\r\n"), 30)).startswith(b"HTTP/1.1 101 ")
            writer.transport.abort()

    asyncio.run(run())


@pytest.mark.parametrize("change", ["another secret", "another scope"])
def test_a_token_that_changed_ends_its_sessions(
    change: str, model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Under the same name, in a file of the same length: what let them in is not in it any more."""
    monkeypatch.setattr(server_module, "REFRESH_SECONDS", 0.1)
    path = tmp_path / "tokens.toml"
    secret = tokens.add(path, "one", scopes=["stream", "watch"])
    old = tokens.read(path)[0].sha256 if change == "another secret" else '["stream", "watch"]'
    new = "f" * 64 if change == "another secret" else '["watch", "admin" ]'
    assert len(new) == len(old)

    async def run() -> None:
        async with Server(model, port=0, tokens=path) as server:
            socket = await connect(server.url, additional_headers={"Authorization": f"Bearer {secret}"})
            await socket.send(json.dumps(START))
            assert json.loads(await socket.recv())["type"] == "session.ready"
            path.write_text(path.read_text().replace(old, new))
            _, code = await asyncio.wait_for(everything_of(socket), 30)
            assert (code, socket.close_reason) == (1008, "token revoked")

    asyncio.run(run())
