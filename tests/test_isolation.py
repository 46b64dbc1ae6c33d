"""What one client does, or what goes wrong with one call, is felt by nobody else; and nothing of it stays behind."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from telephone import Genesys, offer
from test_security import everything_of, healthy, request
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed
from wire import CLOSE, START, check, talk

from sedstream.audio import pcm
from sedstream.serving import guarded, server, tokens
from sedstream.serving.call import MAX_QUEUED, Call
from sedstream.serving.client import Client
from sedstream.serving.operation import drain
from sedstream.serving.requests import Start, parse_start
from sedstream.serving.server import Server
from sedstream.serving.webhooks import Webhook
from sedstream.zoo import Model

Array = NDArray[np.float32]


async def until(met: Callable[[], Any]) -> None:
    async with asyncio.timeout(60):
        while not met():
            await asyncio.sleep(0.02)


def frame(data: bytes, kind: int = 2) -> bytes:
    """A client's WebSocket frame, masked with zeros."""
    assert len(data) < 126
    return bytes([0x80 | kind, 0x80 | len(data)]) + b"\0\0\0\0" + data


@asynccontextmanager
async def raw(
    url: str, window: int | None = None, path: str = "/v1/stream"
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A session begun on a connection that no library reads. ``window``: bytes that the kernel takes for it."""
    host, port = url.removeprefix("ws://").split("/")[0].split(":")
    plain = socket.socket()
    plain.setblocking(False)
    if window is not None:
        plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, window)
    await asyncio.get_running_loop().sock_connect(plain, (host, int(port)))
    reader, writer = await asyncio.open_connection(sock=plain, limit=1024)
    try:
        writer.write(request(path))
        await reader.readuntil(b"\r\n\r\n")
        writer.write(frame(json.dumps({"type": "session.start"}).encode(), 1))
        yield reader, writer
    finally:
        writer.transport.abort()


def test_packets_of_two_bytes_are_looked_at_a_few_at_a_time(model: Model, speech: Array) -> None:
    """Thousands come in one read: never are more than those of a slice answered, or waiting, in one turn of the event
    loop; beside them a call goes on. All of them count."""
    packet = frame(b"\0\0")
    count = 40_000

    async def run() -> None:
        async with Server(model, port=0, max_speed=0) as server, raw(server.url) as (reader, writer):
            await until(lambda: server.sessions)
            [connection] = [c for c in server._server.connections if isinstance(c, guarded.GuardedConnection)]  # type: ignore[union-attr]
            [call] = server.sessions.values()
            received, most, queue = 0, 0, 0
            async with healthy(model, server.url, None, speech):
                sending = asyncio.create_task(_write(writer, packet * count))
                reading = asyncio.create_task(_forget(reader))
                async with asyncio.timeout(120):
                    while call.received < count:
                        received, before = call.received, received
                        most = max(most, received - before)
                        queue = max(queue, len(connection.recv_messages.frames))
                        await asyncio.sleep(0)
                await sending
                reading.cancel()
            assert 0 < most <= 2 * guarded.IN_A_ROW
            assert 0 < queue <= 8 + guarded.SLICE // len(packet) + 1

    asyncio.run(run())


async def _write(writer: asyncio.StreamWriter, data: bytes) -> None:
    for first in range(0, len(data), 1 << 18):
        writer.write(data[first : first + (1 << 18)])
        await writer.drain()


async def _forget(reader: asyncio.StreamReader) -> None:
    while await reader.read(4096):
        pass


def test_packets_that_come_with_the_head_are_looked_at_a_few_at_a_time(model: Model) -> None:
    """Also where the head's end comes with them."""
    packet, count = frame(b"\0\0"), 20_000
    start = frame(json.dumps({"type": "session.start"}).encode(), 1)

    async def run(cut: int) -> None:
        async with Server(model, port=0, max_speed=0) as server:
            port = int(server.url.split(":")[2].split("/")[0])
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            head = request()
            writer.write(head[:cut])
            await asyncio.sleep(0.05)
            writer.write(head[cut:] + start + packet * count)
            most = 0
            async with asyncio.timeout(60):
                while not (calls := list(server.sessions.values())) or calls[0].received < count:
                    for connection in server._server.connections:  # type: ignore[union-attr]
                        most = max(most, len(connection.recv_messages.frames))
                    await asyncio.sleep(0)
            assert 0 < most <= 8 + guarded.SLICE // len(packet) + 1
            writer.transport.abort()
            await asyncio.gather(reader.read(), return_exceptions=True)

    for cut in (len(request()), len(request()) - 1, len(request()) - 3, 0):
        asyncio.run(run(cut))


def test_messages_survive_any_slices(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """A head, frames and a close frame cut anywhere, a long message among them, are what they were whole."""
    audio = [b"\1\0" * n for n in (1, 0, 320, 70_000, 5)]

    async def run(size: int) -> tuple[list[str], int, int]:
        monkeypatch.setattr(guarded, "SLICE", size)
        async with Server(model, port=0) as server:
            messages, code = await talk(server.url, START, *audio, CLOSE)
            kinds = [m["type"] for m in messages if m["type"] not in ("flow", "arousal")]
            return kinds, messages[-1]["received"], code

    for size in (1, 7, 1000, 1 << 20):
        kinds, received, code = asyncio.run(run(size))
        assert (kinds[0], kinds[-1], received, code) == ("session.ready", "session.end", 70_326, 1000)


def test_an_empty_packet_is_nothing(model: Model) -> None:
    """Platforms send some; two channels too."""

    async def run() -> None:
        async with Server(model, port=0) as server:
            for channels in (1, 2):
                start = START | {"audio": {"rate": 8000, "channels": channels}}
                messages, code = await talk(server.url, start, b"", b"\0" * 6400, b"", CLOSE)
                assert (messages[-1]["type"], code) == ("session.end", 1000)
                assert messages[-1]["received"] == 3200 // channels

    asyncio.run(run())


@pytest.mark.parametrize("closing", [False, True])
def test_a_shut_window_holds_no_place(model: Model, monkeypatch: pytest.MonkeyPatch, closing: bool) -> None:
    """A client that neither reads nor sends any more, before or after it was told that it is over: its connection is
    cut, and there is room again."""
    monkeypatch.setattr(guarded, "READ_SECONDS", 0.5)
    unknown = frame(json.dumps({"type": "x" * 60}).encode(), 1)

    async def run() -> None:
        async with (
            Server(model, port=0, max_sessions=1, idle_seconds=2.0, resume_seconds=0.2) as server,
            raw(server.url, 4096) as (reader, writer),
        ):
            reader._transport.pause_reading()  # type: ignore[attr-defined]
            await until(lambda: server.sessions)
            [connection] = [c for c in server._server.connections if isinstance(c, guarded.GuardedConnection)]  # type: ignore[union-attr]
            connection.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
            [line] = server.lines._lines.values()
            while not (connection.paused and len(line.outbox)):  # now answers wait, too few to be too many
                writer.write(unknown * 50)
                await asyncio.sleep(0.02)
            if closing:
                writer.write(frame(json.dumps(CLOSE).encode(), 1))
            assert not server.admission.ready
            await until(lambda: server.admission.ready)
            await until(lambda: not server.sessions and not server.admission.visitors)
            messages, code = await talk(server.url, START, CLOSE)
            assert (messages[-1]["type"], code) == ("session.end", 1000)

    asyncio.run(run())


def test_a_long_message_is_heard_a_second_at_a_time(model: Model) -> None:
    """Two minutes in one message never stand in the engine's queue, and all of them are heard."""
    start = START | {"audio": {"encoding": "mulaw", "rate": 8000}, "events": ["flow"]}
    audio = b"\xff" * 8000 * 120

    async def run() -> tuple[list[dict[str, Any]], float]:
        async with Server(model, port=0, max_speed=0) as server, connect(server.url, compression=None) as client:
            await client.send(json.dumps(start))
            await client.send(audio)
            await client.send(json.dumps(CLOSE))
            messages, most = [], 0.0
            with suppress(ConnectionClosed):
                while True:
                    messages.append(check(json.loads(await client.recv())))
                    most = max(most, *(session.queued for session in server.engine.sessions), 0.0)
            return messages, most

    messages, most = asyncio.run(run())
    assert messages[-1]["type"] == "session.end"
    assert messages[-1]["received"] == len(audio)
    bound = MAX_QUEUED + messages[0]["latency"] + 1.1
    assert max(most, *(m["queued"] for m in messages if m["type"] == "flow")) <= bound


def test_an_odd_rate_is_prepared_beside_the_calls(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """The filter of 47,999 Hz has 16,000 phases: the event loop turns while they are computed, and calls share them."""

    async def run() -> None:
        async with Server(model, port=0) as server:
            start = {"audio": {"rate": 47_999}}
            client = await connect(server.url, compression=None)
            await client.send(json.dumps(START | start))
            turns = 0
            ready = asyncio.create_task(client.recv())
            while not ready.done():
                turns += 1
                await asyncio.sleep(0.001)
            assert json.loads(ready.result())["type"] == "session.ready"
            assert turns > 20
            second = await connect(server.url, compression=None)
            await second.send(json.dumps(START | start))
            await second.recv()
            tables = {id(r._table) for session in server.sessions for r in session._resamplers}
            assert len(server.sessions) == 2
            assert len(tables) == 1
            await client.close()
            await second.close()

    asyncio.run(run())


def test_a_call_that_fails_takes_no_other_with_it(
    model: Model, speech: Array, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A fault of ours in what is told of a call, or in what its client asks: it is told and logged, and the events of
    the calls beside it, of the same ticks, all arrive."""
    deliver, update = Call._flow, Call._update

    def tell(call: Call) -> None:
        if call.start.roles == ("broken",):
            raise RuntimeError("a fault in telling")
        deliver(call)

    def obey(call: Call, *request: Any) -> None:
        raise RuntimeError("a fault in asking")

    async def run() -> None:
        async with Server(model, port=0) as server, healthy(model, server.url, None, speech):
            monkeypatch.setattr(Call, "_flow", tell)
            watcher = await connect(server.url.replace("stream", "watch"), compression=None)
            audio = pcm.encode(speech[:32_000], "s16le")
            start = START | {"audio": {"roles": ["broken"]}}
            messages, code = await talk(server.url, start, *(audio[n : n + 3200] for n in range(0, 64_000, 3200)))
            assert (messages[-1]["type"], messages[-1]["code"], code) == ("error", "unavailable", 1011)
            assert len(server.sessions) == 1
            monkeypatch.setattr(Call, "_update", obey)
            messages, code = await talk(server.url, START, {"type": "session.update"})
            assert code == 1011
            await until(lambda: len(server.sessions) == 1)
            ended = 0
            while ended < 2:  # those who follow are told too
                ended += json.loads(await watcher.recv())["type"] == "session.end"
            await watcher.close()
            monkeypatch.setattr(Call, "_flow", deliver)
            monkeypatch.setattr(Call, "_update", update)

    asyncio.run(run())
    faults = [str(record.exc_info[1]) for record in caplog.records if record.exc_info]
    assert set(faults) == {"a fault in telling", "a fault in asking"}


def test_alerts_end_with_a_call_that_fails(
    model: Model, speech: Array, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Those who follow a call, whose client is told nothing more: an alert ends, and the totals are those so far."""
    alerts = tmp_path / "alerts.toml"
    alerts.write_text('[[alert]]\nname = "calm"\nlabel = "neutral"\nthreshold = 0.0\n')

    async def run(fail: str) -> None:
        async with Server(model, port=0, alerts=alerts) as server:
            watcher = await connect(server.url.replace("stream", "watch"), compression=None)
            socket = await connect(server.url, compression=None)
            await socket.send(json.dumps(START))
            await socket.send(pcm.encode(speech[:128_000], "s16le"))
            while json.loads(await watcher.recv())["type"] != "alert":
                pass
            if fail == "engine":
                monkeypatch.setattr(server.engine._schedule, "choose", None)
                await socket.send(pcm.encode(speech[:32_000], "s16le"))
            else:
                next(iter(server.sessions.values())).give_up(4008)
            ends = []
            while not ends or ends[-1]["type"] != "session.end":
                ends.append(json.loads(await watcher.recv()))
            assert [m["state"] for m in ends if m["type"] == "alert"][-1] == "end"
            assert ends[-1]["duration"] > 0
            await watcher.close()
            monkeypatch.undo()

    for fail in ("engine", "client"):
        asyncio.run(run(fail))


def test_the_engine_survives_what_it_does_not_expect(
    model: Model, speech: Array, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fault in its turn: every call is told, and the next one is served."""

    async def run() -> None:
        async with Server(model, port=0) as server:
            monkeypatch.setattr(server.engine._schedule, "choose", None)
            messages, code = await talk(server.url, START, pcm.encode(speech[:32_000], "s16le"))
            assert (messages[-1]["type"], code) == ("error", 1011)
            assert server.engine.running
            assert server.engine.failing
            monkeypatch.undo()
            messages, code = await talk(server.url, START, pcm.encode(speech[:32_000], "s16le"), CLOSE)
            assert (messages[-1]["type"], code) == ("session.end", 1000)
            assert not server.engine.failing

    asyncio.run(run())


def test_who_begins_and_breaks_off_has_no_more_places_for_it(model: Model, tmp_path: Path) -> None:
    """Sessions without a connection count for their token: over the wire, and over AudioHook. Another token has room,
    and its own are not touched."""
    path = tmp_path / "tokens.toml"
    one, two = tokens.add(path, "one", sessions=2), tokens.add(path, "two", sessions=2)

    async def begin(url: str, token: str) -> ClientConnection:
        client = await connect(url, compression=None, additional_headers={"Authorization": f"Bearer {token}"})
        await client.send(json.dumps(START))
        assert json.loads(await client.recv())["type"] == "session.ready"
        return client

    async def hook(url: str, token: str) -> None:
        client = Genesys()
        address = url.replace("stream", "audiohook")
        async with connect(address, compression=None, additional_headers={"X-API-KEY": token}) as platform:
            await platform.send(client.open(offer("PCMU", "external")))
            assert client.hear(await platform.recv())["type"] == "opened"
            platform.transport.abort()

    async def run() -> None:
        async with Server(model, port=0, tokens=path) as server:
            kept = await begin(server.url, two)
            for number in range(6):
                (await begin(server.url, one)).transport.abort()
                await until(lambda number=number: len(server.lines) == min(number + 1, 2))  # type: ignore[misc]
                await until(lambda: server.access._sessions["one"] == 0)
            assert len(server.engine.sessions) == 3
            resumed = next(line for line in server.lines.away)
            client = await connect(server.url, additional_headers={"Authorization": f"Bearer {one}"})
            await client.send(json.dumps({"type": "session.start", "resume": {"token": resumed.token, "seq": 0}}))
            assert json.loads(await client.recv())["type"] == "session.ready"  # the newest ones can be resumed
            await client.close()
            for _ in range(6):
                await hook(server.url, two)
                await until(lambda: server.access._sessions["two"] == 1)
                await until(lambda: len(server.legs._parked) == 1)
            await until(lambda: len(server.engine.sessions) == 3)  # one that waits of each, and the one kept
            await kept.send(json.dumps(CLOSE))
            messages, code = await everything_of(kept)
            assert (messages[-1]["type"], code) == ("session.end", 1000)

    asyncio.run(run())


def test_webhooks_carry_what_the_operator_asked_for(model: Model, speech: Array, tmp_path: Path) -> None:
    """A rule of the client goes to the client and not to the signed webhook."""
    path = tmp_path / "alerts.toml"
    rule = {"name": "mine", "track": "arousal", "threshold": 0.0, "min_duration": 0.5}
    path.write_text('[[alert]]\nname = "loud"\ntrack = "arousal"\nthreshold = 0.0\n')

    async def run() -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        posted: list[dict[str, Any]] = []

        class Seen(Webhook):
            def post(self, message: Any) -> None:
                posted.append(dict(message))
                super().post(message)

        async with Server(model, port=0, alerts=path) as server:
            server.webhooks = (Seen("http://127.0.0.1:9", "s", first_delay=0.001),)
            server.webhooks[0].__enter__()
            async with Client(server.url, alerts=[rule]) as client:
                await client.send(speech[:64_000])
                await client.close()
                told = [m async for m in client if m["type"] == "alert"]
            counted = [line for line in server.metrics.text().splitlines() if line.startswith("sedstream_alerts_total")]
            assert sorted(counted) == [f'sedstream_alerts_total{{rule="{rule}"}} 1.0' for rule in ("client", "loud")]
        return told, posted

    told, posted = asyncio.run(run())
    assert [m["state"] for m in told] == ["begin", "begin", "end", "end"]
    assert [m["name"] for m in posted] == ["loud", "loud"]
    starts = {json.dumps(m["segments"]) + m["state"] for m in posted}
    assert starts <= {json.dumps(m["segments"]) + m["state"] for m in told}


def test_names_that_every_event_repeats_are_short(model: Model) -> None:
    async def run() -> None:
        async with Server(model, port=0) as server:
            rule = {"name": "a", "label": "angry", "threshold": 0.5}
            for bad in (
                {"audio": {"roles": ["x" * 101]}},
                {"alerts": [rule | {"label": "x" * 101}]},
                {"alerts": [rule | {"role": "x" * 101}]},
                {"alerts": [rule | {"name": "x" * 101}]},
            ):
                messages, code = await talk(server.url, START | bad)
                assert (messages[-1]["code"], code) == ("bad_value", 1008)
                assert len(messages[-1]["message"]) < 400
            start = START | {"audio": {"roles": ["x" * 100]}}
            assert (await talk(server.url, start, CLOSE))[1] == 1000

    asyncio.run(run())


def test_pings(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """The server answers them, and sends its own."""
    monkeypatch.setattr(server, "PING_SECONDS", 0.05)

    async def run() -> None:
        async with Server(model, port=0) as server, raw(server.url) as (reader, writer):
            writer.write(frame(b"are you there", 9))
            heard = b""
            async with asyncio.timeout(30):
                while b"\x8a\x0dare you there" not in heard or b"\x89\x04" not in heard:
                    heard += await reader.read(4096)

    asyncio.run(run())


def test_pings_of_who_does_not_read_are_not_answered_for_ever(model: Model) -> None:
    """What waits for a client is bounded, whatever it sends; once it reads, each ping has had its answer."""
    ping, pong = frame(bytes(125), 9), b"\x8a\x7d" + bytes(125)
    count = 150_000

    async def run() -> None:
        async with Server(model, port=0) as server, raw(server.url) as (reader, writer):
            reader._transport.pause_reading()  # type: ignore[attr-defined]
            await until(lambda: server.sessions)
            [connection] = server._server.connections  # type: ignore[union-attr]
            writer.write(ping * count)
            before = -1
            while (left := writer.transport.get_write_buffer_size()) != before:  # until nothing more is taken
                before = left
                await asyncio.sleep(0.5)
                assert connection.transport.get_write_buffer_size() < 2 << 20
            assert left
            reader._transport.resume_reading()  # type: ignore[attr-defined]
            async with asyncio.timeout(60):
                ready = await reader.readuntil(pong)
                rest = await reader.readexactly((count - 1) * len(pong))
            assert ready.count(b"session.ready") == 1
            assert rest == pong * (count - 1)

    asyncio.run(run())


def test_refreshing_goes_on_after_a_surprise(model: Model, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A number too long for Python in the token file: told, and what is changed next is taken."""
    path = tmp_path / "tokens.toml"
    token = tokens.add(path, "one")
    good = path.read_text()

    async def run() -> None:
        async with Server(model, port=0, tokens=path) as server:
            headers = {"Authorization": f"Bearer {token}"}
            client = await connect(server.url, compression=None, additional_headers=headers)
            path.write_text(good + "sessions = " + "1" * 5000 + "\n")
            await until(lambda: any("not re" in record.message for record in caplog.records))
            path.write_text("")
            async with asyncio.timeout(30):
                with suppress(ConnectionClosed):
                    await client.recv()
            assert client.close_code == 1008

    asyncio.run(run())


def test_a_file_that_is_being_written_ends_no_call(
    model: Model, speech: Array, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Editors empty a file, then write it: whoever looks in between sees no token at all."""
    monkeypatch.setattr(server, "REFRESH_SECONDS", 0.2)
    path = tmp_path / "tokens.toml"
    token = tokens.add(path, "one", bytes_per_second=10_000_000)
    good = path.read_text()

    async def run() -> None:
        async with Server(model, port=0, tokens=path) as server, healthy(model, server.url, token, speech):
            for _ in range(3):
                path.write_text("")
                await until(lambda: not server.access._tokens.names)  # type: ignore[union-attr]
                path.write_text(good)
                await until(lambda: server.access._tokens.names)  # type: ignore[union-attr]
            assert set(server.access._meters) == {"one"}
        path.write_text("")
        server.access.refresh()
        assert not server.access._meters, "nothing is kept of tokens that are gone"

    asyncio.run(run())


def test_the_oldest_call_that_waits_goes_first(model: Model, tmp_path: Path) -> None:
    """Where its token begins one more than it may have: the newer ones can still be resumed."""
    path = tmp_path / "tokens.toml"
    headers = {"Authorization": f"Bearer {tokens.add(path, 'one', sessions=2)}"}

    async def begin(url: str, **start: Any) -> tuple[ClientConnection, dict[str, Any]]:
        client = await connect(url, compression=None, additional_headers=headers)
        await client.send(json.dumps(START | start))
        return client, json.loads(await client.recv())

    async def run() -> None:
        async with Server(model, port=0, tokens=path) as server:
            told = []
            for number in range(2):
                client, ready = await begin(server.url)
                told.append(ready["resume"]["token"])
                client.transport.abort()
                await until(lambda number=number: len(server.lines) == number + 1)  # type: ignore[misc]
            await begin(server.url)
            for token, kind in ((told[0], "error"), (told[1], "session.ready")):
                client, answer = await begin(server.url, resume={"token": token, "seq": 0})
                assert answer["type"] == kind
                await client.close()
                await until(lambda: server.access._sessions["one"] == 1)

    asyncio.run(run())


def test_a_follower_that_does_not_read_is_cut(model: Model) -> None:
    """What waits for it is bounded, and the call that it follows goes on."""
    rules = [{"name": f"{n:0100}", "track": "arousal", "threshold": 1.0} for n in range(16)]

    async def run() -> None:
        async with Server(model, port=0) as server, raw(server.url, 4096, "/v1/watch") as (reader, _):
            reader._transport.pause_reading()  # type: ignore[attr-defined]
            await until(lambda: server.hub._watchers)
            [connection] = server._server.connections  # type: ignore[union-attr]
            connection.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
            client = await connect(server.url, compression=None)
            await client.send(json.dumps(START | {"alerts": rules}))
            await client.recv()
            for _ in range(20_000):
                await client.send(json.dumps({"type": "session.update"}))
                assert json.loads(await client.recv())["type"] == "session.updated"
                if not server.hub._watchers:
                    break
            assert not server.hub._watchers
            await client.send(json.dumps(CLOSE))
            messages, code = await everything_of(client)
            assert (messages[-1]["type"], code) == ("session.end", 1000)

    asyncio.run(run())


def test_a_follower_whose_machine_takes_nothing_is_cut(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """However little waits for it: its place of the token is free again before the network gives it up."""
    monkeypatch.setattr(guarded, "READ_SECONDS", 1.0)
    rules = [{"name": f"{n:0100}", "track": "arousal", "threshold": 1.0} for n in range(32)]

    async def run() -> None:
        async with Server(model, port=0) as server, raw(server.url, 4096, "/v1/watch") as (reader, _):
            reader._transport.pause_reading()  # type: ignore[attr-defined]
            client = await connect(server.url, compression=None)
            await client.send(json.dumps(START | {"alerts": rules}))
            await client.recv()
            await until(lambda: server.hub._watchers)
            for _ in range(20):  # tens of kilobytes: more than its window, much less than the kernel holds for it
                await client.send(json.dumps({"type": "session.update"}))
                await client.recv()
            await until(lambda: not server.hub._watchers)
            await client.send(json.dumps(CLOSE))
            messages, code = await everything_of(client)
            assert (messages[-1]["type"], code) == ("session.end", 1000)

    asyncio.run(run())


def test_a_follower_of_many_calls_that_reads_is_not_cut(model: Model) -> None:
    """Neither when it comes nor when all of them end at once, and each is told to it."""
    many = 2000
    start = parse_start({})
    assert isinstance(start, Start)

    async def run() -> None:
        async with Server(model, port=0) as server:
            for _ in range(many):  # as connections begin them, of which a process may not have so many
                Call(server, start, lambda message: None)
            async with connect(server.url.replace("stream", "watch"), compression=None) as watcher:
                kinds = [json.loads(await watcher.recv())["type"] for _ in range(many)]
                assert kinds == ["session.ready"] * many
                await drain(server, 60)
                ended = 0
                async with asyncio.timeout(60):
                    while ended < many:
                        ended += check(json.loads(await watcher.recv()))["type"] == "session.end"

    asyncio.run(run())
