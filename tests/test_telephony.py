"""Whole two-sided calls over real sockets against the real server: the same final segments as the file, and what a
platform that breaks off, lies or is not let in gets."""

import asyncio
import json
import re
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from telephone import CHUNK, CONVERSATION, Genesys, duration, mulaw, offer, packet, signed, twilio, two_sides
from websockets.asyncio.client import ClientConnection, connect
from websockets.datastructures import Headers
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.http11 import Response
from wire import check, get

import sedstream
from sedstream.audio import pcm
from sedstream.errors import BadInput, Unavailable
from sedstream.serving import tokens
from sedstream.serving.operation import drain
from sedstream.serving.server import Server
from sedstream.serving.telephony import bridge
from sedstream.serving.telephony.asterisk import Asterisk
from sedstream.zoo import Model

Array = NDArray[np.float32]
Rows = list[dict[str, Any]]


@pytest.fixture(scope="module")
def sides() -> Array:
    return two_sides()


@pytest.fixture(scope="module")
def coded(sides: Array) -> bytes:
    """Both sides through G.711, interleaved."""
    return mulaw(sides)


@pytest.fixture(scope="module")
def expected(coded: bytes, model: Model) -> Rows:
    rows = rows_of(pcm.decode(coded, "mulaw", 2), model)
    assert {row["channel"] for row in rows} == {0, 1}
    assert len(rows) > 3
    return rows


def rows_of(samples: Array, model: Model) -> Rows:
    """The final segments of both channels, offline."""
    roles = ["customer", "agent"]
    answer = sedstream.diarize(samples, rate=8000, model=model, plan="live", channels="split", roles=roles)
    return [{name: row[name] for name in row if name != "file"} for row in answer.rows()]


def finals(messages: Iterable[dict[str, Any]]) -> Rows:
    """The final segments among the messages of a call, as rows."""
    names = ("channel", "role", "start", "end", "emotion", "confidence", "probs", "entropy", "arousal", "valence")
    rows = [{name: m[name] for name in names} for m in messages if m["type"] == "emotion.final"]
    return sorted(rows, key=lambda row: (row["start"], row["channel"]))


@asynccontextmanager
async def serving(model: Model, **options: Any) -> AsyncIterator[tuple[Server, str]]:
    """A real server that analyses agents too, and its address."""
    async with Server(model, port=0, **({"allow_agent": True} | options)) as server:
        yield server, server.url.removesuffix("/v1/stream")


async def until(met: Callable[[], Any]) -> None:
    for _ in range(400):
        if met():
            return
        await asyncio.sleep(0.025)
    raise AssertionError("it never came to that")


async def watched(url: str, session: str | None, run: Awaitable[Any], ends: int = 1) -> Rows:
    """Everything that a follower hears while ``run`` goes on, until ``ends`` calls ended."""
    heard = []

    async def follow() -> None:
        ended = 0
        async for text in watcher:
            heard.append(check(json.loads(text)))
            ended += heard[-1]["type"] == "session.end"
            if ended == ends:
                return

    async with connect(url + "/v1/watch" + (f"?session={session}" if session else "")) as watcher:
        following = asyncio.create_task(follow())
        await run
        await asyncio.wait_for(following, 60)
    assert [message["seq"] for message in heard] == list(range(len(heard)))
    return heard


async def speak(url: str, messages: Iterable[str | bytes | dict[str, Any]], **options: Any) -> tuple[int, str]:
    """Send and wait for the close code and its reason."""
    async with connect(url, **options) as socket:
        try:
            for message in messages:
                await socket.send(json.dumps(message) if isinstance(message, dict) else message)
            async for _ in socket:
                pass
        except ConnectionClosed:
            pass
        await socket.wait_closed()
        return socket.close_code or 1006, socket.close_reason or ""


def stereo(coded: bytes) -> dict[str, bytes]:
    return {"inbound": coded[0::2], "outbound": coded[1::2]}


def test_a_twilio_call_gives_the_segments_of_the_file(model: Model, coded: bytes, expected: Rows) -> None:
    async def run() -> Rows:
        async with serving(model) as (_, url):
            return await watched(url, "CA1", said(url))

    async def said(url: str) -> None:
        assert await speak(url + "/v1/twilio", twilio(stereo(coded))) == (1000, "")

    heard = asyncio.run(run())
    assert finals(heard) == expected
    assert heard[0]["type"] == "session.ready"
    assert heard[0]["audio"]["roles"] == ["customer", "agent"]
    assert heard[0]["audio"]["encoding"] == "mulaw"
    assert not [message for message in heard if message["type"] in ("gap", "error")]
    assert heard[-1]["duration"] == len(coded) / 2 / 8000
    assert heard[-1]["reason"] == "closed"


def test_a_twilio_call_with_lost_and_late_chunks_gives_the_segments_of_the_file_with_holes(
    model: Model, coded: bytes
) -> None:
    """Chunks are missing on both tracks and one side at a time, others come up to 100 ms out of order, and the agent's
    track begins 1.5 s late: where the file has zeros instead, the segments are the same, and the gaps are told."""
    generator = np.random.default_rng(1)
    count = len(coded) // 2 // CHUNK
    drop = {("inbound", int(n)) for n in generator.integers(10, count - 10, 12)} | {("inbound", 200), ("inbound", 201)}
    drop |= {("outbound", n) for n in range(1, 76)} | {("outbound", 200), ("outbound", 500)}
    holes = pcm.decode(coded, "mulaw", 2).copy()
    for track, number in drop:
        holes[(number - 1) * CHUNK : number * CHUNK, int(track == "outbound")] = 0
    first, start, *media, stop = twilio(stereo(coded), drop=drop)
    order = np.argsort(np.arange(len(media)) + generator.uniform(0, 10, len(media)))

    async def run() -> Rows:
        async with serving(model) as (_, url):
            return await watched(url, None, speak(url + "/v1/twilio", [first, start, *(media[n] for n in order), stop]))

    heard = asyncio.run(run())
    assert finals(heard) == rows_of(holes, model)
    for channel, track in enumerate(("inbound", "outbound")):
        lost = np.zeros(count, np.bool_)
        for message in heard:
            if message["type"] == "gap" and message["channel"] == channel:
                lost[round(message["start"] / 0.02) : round(message["end"] / 0.02)] = True
        assert set(np.flatnonzero(lost) + 1) == {number for name, number in drop if name == track}
    assert heard[-1]["lost"] == pytest.approx(len(drop) * 0.02, abs=0.01)


@pytest.mark.parametrize("form", ["PCMU", "L16"])
def test_an_audiohook_dialogue_gives_the_segments_of_the_file(
    form: str, model: Model, coded: bytes, expected: Rows
) -> None:
    """Both channels interleaved, pings between, results as ``event`` entities before ``closed``; a follower hears the
    same."""
    samples = pcm.decode(coded, "mulaw", 2)
    data, width = (coded, 2) if form == "PCMU" else (pcm.encode(samples, "s16le"), 4)
    client = Genesys()
    events: Rows = []
    kinds: list[str] = []

    async def listen(socket: ClientConnection) -> None:
        async for text in socket:
            message = client.hear(text)
            kinds.append(message["type"])
            if message["type"] == "event":
                for entity in message["parameters"]["entities"]:
                    assert entity["type"] == f"sedstream.{entity['data']['type']}"
                    events.append(entity["data"])
            elif message["type"] == "closed":
                return

    async def talk(url: str) -> None:
        async with connect(url + "/v1/audiohook") as socket:
            listening = asyncio.create_task(listen(socket))
            await socket.send(client.open(offer(form)))
            await until(lambda: kinds)
            step = 1600
            for number, first in enumerate(range(0, len(samples), step)):
                await socket.send(data[first * width : (first + step) * width])
                client.position = first + step
                if number % 20 == 0:
                    await socket.send(client.say("ping"))
            await socket.send(client.say("close", {"reason": "end"}))
            await asyncio.wait_for(listening, 60)

    async def run() -> Rows:
        async with serving(model) as (_, url):
            return await watched(url, CONVERSATION, talk(url))

    heard = asyncio.run(run())
    assert finals(events) == expected
    assert finals(heard) == expected
    assert heard[0]["audio"]["encoding"] == ("mulaw" if form == "PCMU" else "s16le")
    assert kinds[0] == "opened"
    assert kinds[-1] == "closed"
    assert kinds.count("pong") == -(-len(samples) // 1600 // 20)


def test_an_audiohook_call_with_pauses_and_discarded_audio(model: Model, coded: bytes) -> None:
    """What the client left out are zeros of the file."""
    step = 800
    holes = pcm.decode(coded, "mulaw", 2).copy()
    pauses = {20: 30, 70: 3}  # block where it begins: how many are left out
    for first, count in pauses.items():
        holes[first * step : (first + count) * step] = 0
    client = Genesys()

    async def talk(url: str) -> None:
        async with connect(url + "/v1/audiohook") as socket:
            await socket.send(client.open(offer()))
            number = 0
            while number * step < len(holes):
                left_out = pauses.pop(number, 0)
                if left_out:
                    told = {"start": duration(number * step), "discarded": duration(left_out * step)}
                    kind = "discarded" if left_out < 10 else "resumed"
                    if kind == "resumed":
                        await socket.send(client.say("paused"))
                    number += left_out
                    client.position = number * step
                    await socket.send(client.say(kind, told))
                await socket.send(coded[number * step * 2 : (number + 1) * step * 2])
                number += 1
                client.position = number * step
            await socket.send(client.say("close", {"reason": "end"}))
            while client.hear(await socket.recv())["type"] != "closed":
                pass

    async def run() -> Rows:
        async with serving(model) as (_, url):
            return await watched(url, None, talk(url))

    heard = asyncio.run(run())
    assert finals(heard) == rows_of(holes, model)
    # The resampler looks 3 ms ahead.
    gaps = [(m["channel"], round(m["start"], 2), round(m["end"], 2)) for m in heard if m["type"] == "gap"]
    assert sorted(gaps) == [(0, 2.0, 5.0), (0, 7.0, 7.3), (1, 2.0, 5.0), (1, 7.0, 7.3)]


def test_an_audiohook_call_goes_on_after_its_connection_broke(model: Model, coded: bytes, expected: Rows) -> None:
    """The client keeps a second, is told what of it to discard, and the call is one."""

    async def hear(client: Genesys, socket: ClientConnection, kind: str) -> dict[str, Any]:
        while True:
            message = client.hear(await socket.recv())
            if message["type"] == kind:
                return message

    async def talk(server: Server, url: str) -> None:
        first, second = Genesys(), Genesys()
        cut = 40_000
        async with connect(url + "/v1/audiohook") as socket:
            await socket.send(first.open(offer()))
            await socket.send(coded[: 2 * cut])
            first.position = cut
            await socket.send(first.say("ping"))
            await hear(first, socket, "pong")
            socket.transport.abort()
        await until(lambda: server.legs._parked)
        second.position = cut - 8000
        async with connect(url + "/v1/audiohook") as socket:
            continued = {"id": first.id, "serverseq": first.serverseq, "clientseq": first.seq}
            await socket.send(second.open(offer(), continuedSessions=[continued]))
            opened = await hear(second, socket, "opened")
            assert opened["parameters"]["discardTo"] == "PT5S"
            second.position = cut
            await socket.send(second.say("discarded", {"start": duration(cut - 8000), "discarded": "PT1S"}))
            await socket.send(coded[2 * cut :])
            second.position = len(coded) // 2
            await socket.send(second.say("close", {"reason": "end"}))
            await hear(second, socket, "closed")

    async def run() -> Rows:
        async with serving(model) as (server, url):
            return await watched(url, None, talk(server, url))

    heard = asyncio.run(run())
    assert finals(heard) == expected
    assert [message["type"] for message in heard].count("session.ready") == 1


def test_a_call_goes_on_from_what_it_had_when_the_connection_broke(model: Model, coded: bytes) -> None:
    """Not from what the platform had said by then: ten minutes of loss take a while, and the end of them is dropped."""

    async def run() -> None:
        first, second = Genesys(), Genesys()
        async with serving(model) as (server, url):
            async with connect(url + "/v1/audiohook") as socket:
                await socket.send(first.open(offer()))
                await socket.send(coded[:160_000])
                first.position = 80_000
                await socket.send(first.say("discarded", {"start": duration(80_000), "discarded": "PT600S"}))
                socket.transport.abort()
            await until(lambda: server.legs._parked)
            (call,) = server.sessions.values()
            had = call.received
            assert 0 < had < 80_000 + 600 * 8000
            async with connect(url + "/v1/audiohook") as socket:
                continued = {"id": first.id, "serverseq": first.serverseq, "clientseq": first.seq}
                await socket.send(second.open(offer(), continuedSessions=[continued]))
                opened = second.hear(await socket.recv())
                assert float(opened["parameters"]["discardTo"][2:-1]) * 8000 == had

    asyncio.run(run())


def test_a_call_that_nobody_goes_on_with_ends(model: Model, coded: bytes) -> None:
    client = Genesys()

    async def talk(url: str) -> None:
        async with connect(url + "/v1/audiohook") as socket:
            await socket.send(client.open(offer()))
            await socket.send(coded[:80_000])
            client.hear(await socket.recv())
            await socket.send(client.say("ping"))
            await socket.recv()
            socket.transport.abort()

    async def run() -> Rows:
        async with serving(model, resume_seconds=0.2) as (_, url):
            return await watched(url, None, talk(url))

    heard = asyncio.run(run())
    assert heard[-1]["type"] == "session.end"
    assert heard[-1]["reason"] == "lost"
    assert heard[-1]["duration"] == 5.0


def test_nobody_goes_on_with_the_call_of_another(model: Model, coded: bytes, tmp_path: Path) -> None:
    """Whoever knows a session's name but has another token begins a call of its own."""
    path = tmp_path / "tokens.toml"
    keys = [tokens.add(path, name, scopes=["stream"]) for name in ("one", "two")]
    first, second = Genesys(), Genesys()

    async def run() -> dict[str, Any]:
        async with serving(model, tokens=path) as (server, url):
            async with connect(url + "/v1/audiohook", additional_headers={"X-API-KEY": keys[0]}) as socket:
                await socket.send(first.open(offer()))
                await socket.send(coded[:16_000])
                await until(lambda: any(call.received == 8000 for call in server.sessions.values()))
                socket.transport.abort()
            await until(lambda: server.legs._parked)
            async with connect(url + "/v1/audiohook", additional_headers={"X-API-KEY": keys[1]}) as socket:
                continued = {"id": first.id, "serverseq": 1, "clientseq": 1}
                await socket.send(second.open(offer(), continuedSessions=[continued]))
                opened = second.hear(await socket.recv())
                assert len({call.name for call in server.sessions.values()}) == 2
                return opened

    assert "discardTo" not in asyncio.run(run())["parameters"]


def test_a_full_server_keeps_the_door_open_for_a_call_that_was_cut_off(model: Model, coded: bytes) -> None:
    first = Genesys()

    async def run() -> None:
        async with serving(model, max_sessions=2) as (server, url):
            async with connect(url + "/v1/audiohook") as socket:
                await socket.send(first.open(offer()))
                await socket.send(coded[:16_000])
                first.hear(await socket.recv())
                assert server.admission.state == "full"
                with pytest.raises(InvalidStatus, match="503"):
                    await connect(url + "/v1/stream")
                socket.transport.abort()
            await until(lambda: server.legs.away)
            assert server.admission.state == "full"
            async with connect(url + "/v1/audiohook") as socket:
                pass

    asyncio.run(run())


def test_calls_without_a_websocket_take_places(model: Model) -> None:
    async def run() -> None:
        async with serving(model, max_sessions=2) as (server, url), Asterisk(server, "127.0.0.1", 0) as asterisk:
            reader, writer = await asyncio.open_connection("127.0.0.1", asterisk.port)
            writer.write(packet(0x01, bytes(range(16))) + packet(0x10, bytes(320)))
            await until(lambda: server.sessions)
            async with connect(url + "/v1/stream"):
                assert server.admission.state == "full"
                with pytest.raises(InvalidStatus, match="503"):
                    await connect(url + "/v1/stream")
            writer.write(packet(0x00))
            assert await reader.read() == b""
            writer.close()

    asyncio.run(run())


def test_an_asterisk_call_gives_the_segments_of_the_file(model: Model, sides: Array) -> None:
    data = pcm.encode(sides[:, 0], "s16le")
    answer = sedstream.diarize(pcm.decode(data, "s16le"), rate=8000, model=model, plan="live")
    name = "00010203-0405-0607-0809-0a0b0c0d0e0f"

    async def talk(port: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(packet(0x01, bytes(range(16))))
        for first in range(0, len(data), 320):
            writer.write(packet(0x10, data[first : first + 320]))
            await writer.drain()
        writer.write(packet(0x00))
        assert await reader.read() == b""
        writer.close()

    async def run() -> Rows:
        async with serving(model) as (server, url), Asterisk(server, "127.0.0.1", 0) as asterisk:
            with pytest.raises(Unavailable, match=f"Bad address 127.0.0.1:{asterisk.port}"):
                async with Asterisk(server, "127.0.0.1", asterisk.port):
                    pass
            with pytest.raises(BadInput, match="expected a loopback address"):
                Asterisk(server, "0.0.0.0", 0)
            with pytest.raises(BadInput, match="Bad port -1, expected 0 to 65535"):
                Asterisk(server, "127.0.0.1", -1)
            return await watched(url, name, talk(asterisk.port))

    heard = asyncio.run(run())
    rows = [{k: v for k, v in row.items() if k not in ("file", "role")} for row in answer.rows()]
    assert [{k: v for k, v in row.items() if k != "role"} for row in finals(heard)] == rows
    assert {row["role"] for row in finals(heard)} == {"customer"}


def test_the_fastest_asterisk_call_is_told_as_it_is(model: Model) -> None:
    async def talk(port: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(packet(0x01, bytes(16)) + packet(0x18, bytes(38_400)) + packet(0x00))
        assert await reader.read() == b""
        writer.close()

    async def run() -> Rows:
        async with serving(model) as (server, url), Asterisk(server, "127.0.0.1", 0) as asterisk:
            return await watched(url, None, talk(asterisk.port))

    heard = asyncio.run(run())
    assert (heard[0]["audio"]["rate"], heard[0]["audio"]["encoding"]) == (192_000, "s16le")
    assert heard[-1]["duration"] == 0.1


def test_a_hangup_before_any_audio_closes_the_connection(model: Model) -> None:
    async def run() -> None:
        async with serving(model) as (server, _), Asterisk(server, "127.0.0.1", 0) as asterisk:
            for first in (packet(0x01, bytes(16)), b""):
                reader, writer = await asyncio.open_connection("127.0.0.1", asterisk.port)
                writer.write(first + packet(0x00))
                assert await asyncio.wait_for(reader.read(), 10) == b""
                writer.close()

    asyncio.run(run())


def test_the_agent_is_not_analysed_unless_allowed(model: Model, coded: bytes, expected: Rows) -> None:
    """Nothing of that channel reaches the engine; AudioHook does not even ask for it where the client offers so."""
    client = Genesys()

    async def run() -> tuple[Rows, dict[str, Any]]:
        async with serving(model, allow_agent=False) as (_, url):
            heard = await watched(url, None, speak(url + "/v1/twilio", twilio(stereo(coded))))
            async with connect(url + "/v1/audiohook") as socket:
                await socket.send(client.open(offer(), offer("PCMU", "external")))
                return heard, client.hear(await socket.recv())

    heard, opened = asyncio.run(run())
    assert heard[0]["audio"]["roles"] == ["customer"]
    assert {message["channel"] for message in heard if "channel" in message} == {0}
    assert finals(heard) == [row for row in expected if row["role"] == "customer"]
    assert opened["parameters"]["media"] == [offer("PCMU", "external")]


def test_bad_platforms_get_a_code_and_hurt_nobody(model: Model, coded: bytes, expected: Rows) -> None:
    """Broken messages, connections cut at once and in the middle; a good call beside them is not touched."""
    start = twilio(stereo(coded))[:50]

    async def run() -> Rows:
        async with serving(model) as (server, url), Asterisk(server, "127.0.0.1", 0) as asterisk:

            async def trouble() -> None:
                assert await speak(url + "/v1/twilio", ["{"]) == (
                    1008,
                    "bad_json: Bad JSON, expected an object: Expecting property name enclosed in double quotes: line 1"
                    " column 2 (char 1)",
                )
                code, reason = await speak(url + "/v1/twilio", [*start, start[1]])
                assert (code, reason.partition(":")[0]) == (1008, "already_started")
                code, reason = await speak(url + "/v1/twilio", [start[2]])
                assert (code, reason.partition(":")[0]) == (1008, "no_session")
                client = Genesys()
                async with connect(url + "/v1/audiohook") as socket:
                    await socket.send(client.open(offer()))
                    client.hear(await socket.recv())
                    await socket.send(client.say("ping", seq=9))
                    told = client.hear(await socket.recv())
                    assert told["parameters"] == {
                        "reason": "error",
                        "info": "bad_seq: Bad seq 9, expected 2",
                    }
                    await socket.send("{")
                    with pytest.raises(ConnectionClosed):
                        await socket.recv()
                    assert (socket.close_code, socket.close_reason) == (1008, "bad_seq: Bad seq 9, expected 2")
                client = Genesys()
                async with connect(url + "/v1/audiohook") as socket:
                    await socket.send(client.open(offer()))
                    await socket.send(client.say("ping", seq=9))
                    await socket.send(client.say("close", {"reason": "disconnect"}))
                    kinds = [client.hear(await socket.recv())["type"] for _ in range(3)]
                    assert kinds == ["opened", "disconnect", "closed"]
                for data in (b"", packet(0x10, b"\0\0"), packet(0x01, bytes(16)) + packet(0x10, bytes(640)) + b"\x10"):
                    reader, writer = await asyncio.open_connection("127.0.0.1", asterisk.port)
                    writer.write(data)
                    if len(data) == 5:
                        assert await reader.read() == b""
                    writer.close()
                for path in ("/v1/twilio", "/v1/audiohook"):
                    async with connect(url + path) as socket:
                        socket.transport.abort()

            good = asyncio.create_task(
                watched(url, "good", speak(url + "/v1/twilio", twilio(stereo(coded), call="good")))
            )
            await trouble()
            heard = await good
            await until(lambda: not server.sessions)
            return heard

    assert finals(asyncio.run(run())) == expected


@pytest.mark.parametrize(
    ("role", "told"),
    [
        ("foo", "bad_value: Bad inbound 'foo', expected customer or agent"),
        ("é" * 80, f"bad_value: Bad inbound '{'é' * 49}"),  # a close frame has room for 123 bytes
    ],
    ids=["short", "long"],
)
def test_the_first_error_is_what_a_call_is_closed_for(role: str, told: str, model: Model, coded: bytes) -> None:
    """Whatever has arrived behind it."""
    messages = twilio({"inbound": coded[:1600]})
    messages[1]["start"]["customParameters"] = {"Inbound": role}

    async def run() -> tuple[int, str]:
        async with serving(model) as (_, url):
            return await speak(url + "/v1/twilio", messages)

    assert asyncio.run(run()) == (1008, told)


def test_a_call_that_failed_is_told_once_in_the_log(model: Model, caplog: pytest.LogCaptureFixture) -> None:
    """However much has arrived behind what nobody understands."""

    async def run() -> None:
        async with serving(model) as (server, _), Asterisk(server, "127.0.0.1", 0) as asterisk:
            reader, writer = await asyncio.open_connection("127.0.0.1", asterisk.port)
            bad = packet(0x01, bytes(16)) + packet(0x10, bytes(640)) + packet(0x10, b"odd")
            writer.write(bad + packet(0x10, bytes(640)) * 1000)
            with suppress(ConnectionResetError):  # it closes on what it has not read
                assert await reader.read() == b""
            writer.close()

    asyncio.run(run())
    warnings = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert warnings == [f"call {uuid.UUID(int=0)}: Bad audio packet of 3 bytes, expected a multiple of 2"]


def test_a_server_that_goes_away_finishes_its_calls(model: Model, coded: bytes) -> None:
    """AudioHook is told what was final and to disconnect, Twilio is closed with 1001."""
    client = Genesys()

    async def run() -> tuple[list[str], Rows, tuple[int, str]]:
        async with serving(model) as (server, url), connect(url + "/v1/audiohook") as socket:
            await socket.send(client.open(offer()))
            await socket.send(coded[:80_000])
            streaming = asyncio.create_task(speak(url + "/v1/twilio", twilio(stereo(coded))[:300]))
            await until(lambda: sum(call.received for call in server.sessions.values()) >= 40_000 + 20_000)
            draining = asyncio.create_task(drain(server, 10))
            said = [client.hear(await socket.recv())]
            while said[-1]["type"] != "disconnect":
                said.append(client.hear(await socket.recv()))
            await socket.send(client.say("close", {"reason": "disconnect"}))
            await socket.close()
            await draining
            events = [entity["data"] for m in said if m["type"] == "event" for entity in m["parameters"]["entities"]]
            return [m["type"] for m in said], events, await streaming

    kinds, events, twilio_end = asyncio.run(run())
    assert kinds[0] == "opened"
    assert twilio_end == (1001, "the server goes away")
    assert finals(events) == rows_of(pcm.decode(coded[:80_000], "mulaw", 2), model)


def test_a_silent_connection_is_closed(model: Model) -> None:
    async def run() -> tuple[bytes, tuple[int, str]]:
        async with serving(model, idle_seconds=0.2) as (server, url), Asterisk(server, "127.0.0.1", 0) as asterisk:
            reader, writer = await asyncio.open_connection("127.0.0.1", asterisk.port)
            writer.write(packet(0x01, bytes(16)) + packet(0x10, bytes(320)))
            silent = twilio({"inbound": bytes(320)})[:3]
            return await reader.read(), await speak(url + "/v1/twilio", silent)

    assert asyncio.run(run()) == (b"", (4010, "nothing was sent for too long"))


def test_calls_of_platforms_are_counted_by_how_they_ended(model: Model, coded: bytes) -> None:
    """Who says nothing more, breaks off or sends nonsense has not asked for the end of its call."""

    async def run() -> tuple[list[str], str]:
        async with (
            serving(model, idle_seconds=2, resume_seconds=0.1) as (server, url),
            Asterisk(server, "127.0.0.1", 0) as asterisk,
        ):

            async def bring() -> None:
                said = twilio({"inbound": coded[0:16_000:2]})
                for messages in (said, [*said[:9], said[1]], said[:9]):  # whole, begun twice, silent
                    await speak(url + "/v1/twilio", messages)
                    await until(lambda: not server.sessions)
                client = Genesys()
                for path, texts in (("twilio", [*map(json.dumps, said[:9])]), ("audiohook", [client.open(offer())])):
                    async with connect(f"{url}/v1/{path}") as socket:
                        for text in texts:
                            await socket.send(text)
                        await until(lambda: bool(server.sessions))
                        socket.transport.abort()
                    await until(lambda: not server.sessions)
                _, writer = await asyncio.open_connection("127.0.0.1", asterisk.port)
                writer.write(packet(0x01, bytes(16)) + packet(0x10, bytes(320)))
                writer.close()

            heard = await watched(url, None, bring(), ends=6)
            ends = [message["reason"] for message in heard if message["type"] == "session.end"]
            return ends, (await asyncio.to_thread(get, server.url, "/metrics"))[1]

    ends, metrics = asyncio.run(run())
    assert ends == ["closed", "error", "lost", "lost", "lost", "closed"]
    counted = dict(re.findall(r'sedstream_calls_ended_total{code="(\d+)"} (\d+)', metrics))
    assert counted == {"1000": "2", "1001": "2", "1008": "1", "4010": "1"}


def test_objects_that_stand_there_as_text_are_not_logged(model: Model, caplog: pytest.LogCaptureFixture) -> None:
    """As programs write them that encode what they have twice: tokens and audio are in them."""
    caplog.set_level("DEBUG")
    secret, sound = "sed_" + "S" * 43, "//79" * 40
    said = twilio({"inbound": bytes(320)})
    token = said[1] | {"start": said[1]["start"] | {"customParameters": json.dumps({"token": secret})}}
    audio = said[2] | {"media": json.dumps({"payload": sound})}

    async def run() -> list[tuple[int, str]]:
        async with serving(model) as (_, url):
            return [await speak(url + "/v1/twilio", texts) for texts in ([said[0], token], [*said[:2], audio])]

    names = ("customParameters", "media")
    assert asyncio.run(run()) == [(1008, f"bad_value: Bad {name} 'str', expected an object") for name in names]
    told = [caplog.handler.format(record) for record in caplog.records if record.name != "websockets.client"]
    assert [line for line in told if "Bad media" in line]
    assert not [line for line in told if secret[:12] in line or sound[:12] in line]


def test_a_connection_without_a_call_is_closed(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bridge, "PATIENCE", 0.1)

    async def run() -> tuple[int, str]:
        async with serving(model) as (_, url):
            return await speak(url + "/v1/twilio", twilio({"inbound": b""})[:1])

    assert asyncio.run(run()) == (1008, "expected a call sooner")


def test_who_may_come_in(model: Model, coded: bytes, tmp_path: Path) -> None:
    """Twilio: a parameter of the stream, or a bearer token. AudioHook: the API key is a token, and requests with it
    are signed where it has a client secret."""
    path = tmp_path / "tokens.toml"
    caller = tokens.add(path, "caller", scopes=["stream"])
    other = tokens.add(path, "other", scopes=["watch"])
    signing = tokens.add(path, "genesys", scopes=["stream"])
    secret = b"0123456789abcdef"
    with path.open("a") as file:
        file.write('client_secret = "MDEyMzQ1Njc4OWFiY2RlZg=="\n')

    async def run() -> None:
        async with serving(model, tokens=path) as (_, url):
            plain = twilio({"inbound": coded[:8000]})
            for shown, code in ((caller, 1000), (other, 1008), ("sed_wrong", 1008), (None, 1008)):
                messages = json.loads(json.dumps(plain))
                if shown is not None:
                    messages[1]["start"]["customParameters"]["Token"] = shown
                found, reason = await speak(url + "/v1/twilio", messages)
                assert found == code, shown
                assert code == 1000 or reason.startswith("unauthorized: Bad token, expected a")
            place = '<Parameter name="token"> in the <Stream>'
            assert reason == f"unauthorized: Bad token, expected a token: {place}"
            headers = {"Authorization": f"Bearer {caller}"}
            assert (await speak(url + "/v1/twilio", plain, additional_headers=headers))[0] == 1000

            async def opened(headers: dict[str, str] | Headers, client: Genesys) -> str:
                async with connect(url + "/v1/audiohook", additional_headers=headers) as socket:
                    await socket.send(client.open(offer()))
                    message = json.loads(await socket.recv())
                    return str(message["type"]) + message["parameters"].get("info", "").partition(":")[0]

            async def refusal(headers: dict[str, str]) -> Response:
                with pytest.raises(InvalidStatus) as caught:
                    await opened(headers, Genesys())
                return caught.value.response

            async def status(headers: dict[str, str]) -> int:
                return (await refusal(headers)).status_code

            assert await opened({"X-API-KEY": caller}, Genesys()) == "opened"
            twice = Headers({"X-API-KEY": caller, "Audiohook-Session-Id": "7"})
            twice["Audiohook-Session-Id"] = "8"
            assert await opened(twice, Genesys()) == "disconnectwrong_session"
            nobody = await refusal({"Authorization": f"Bearer {caller}"})
            assert (nobody.status_code, nobody.body) == (401, "expected a token: X-API-KEY: …\n".encode())
            assert await status({"X-API-KEY": "sed_wrong"}) == 401
            assert await status({"X-API-KEY": other}) == 403
            assert await status({"X-API-KEY": signing}) == 401
            client = Genesys()
            now = int(time.time())
            request: dict[str, Any] = {"target": "/v1/audiohook", "authority": url.removeprefix("ws://")}
            request |= {"session": client.id, "created": now}
            first = signed(secret, signing, **request)
            assert await opened(first, client) == "opened"
            assert await status(first) == 401  # overheard and said again
            assert await status(signed(secret, signing, **request | {"created": now - 1})) == 401
            again = signed(secret, signing, **request, nonce="another-of-128-bits-or-so")
            assert await opened(again, Genesys(client.id)) == "opened"
            third = signed(secret, signing, **request, nonce="and-another-of-128-bits-")
            assert await opened(third, Genesys()) == "disconnectwrong_session"
            for change in ({"created": now - 60}, {"expires": now - 30}):
                late = signed(secret, signing, **request | change, nonce="one-more-of-128-bits-or-so")
                assert await status(late) == 401
            forged = signed(b"fedcba9876543210", signing, **request, nonce="yet-another-of-128-bits-")
            assert await status(forged) == 401

    asyncio.run(run())


def test_a_call_that_finds_no_room_is_told_so(model: Model, tmp_path: Path) -> None:
    """Twilio says who it is when it is connected: too late for HTTP, and not taken for a wrong token."""
    path = tmp_path / "tokens.toml"
    wide, single = tokens.add(path, "wide"), tokens.add(path, "single", sessions=1)

    def begun(token: str, call: str) -> list[dict[str, Any]]:
        messages = twilio({"inbound": bytes(320)}, call=call)[:2]
        messages[1]["start"]["customParameters"]["token"] = token
        return messages

    async def run() -> None:
        async with serving(model, tokens=path, max_sessions=2) as (server, url):
            first, second, *others = [await connect(url + "/v1/twilio") for _ in range(4)]
            for number, (socket, token) in enumerate(((first, single), (second, wide))):
                for message in begun(token, f"CA{number}"):
                    await socket.send(json.dumps(message))
                await until(lambda number=number: len(server.sessions) == number + 1)  # type: ignore[misc]
            for socket, token, reason in (
                (others[0], single, "full: Bad time for a call, expected at most 1 sessions at a time"),
                (others[1], wide, "full: Bad time for a call, full: expected a server with room"),
            ):
                for message in begun(token, "CA9"):
                    await socket.send(json.dumps(message))
                await socket.wait_closed()
                assert socket.close_code == 1013
                assert (socket.close_reason or "").startswith(reason)
            assert len(server.sessions) == 2
            assert 'sedstream_refusals_total{status="429"} 1.0' in server.metrics.text()
            assert 'sedstream_refusals_total{status="503"} 1.0' in server.metrics.text()
            await first.close()
            await second.close()

    asyncio.run(run())


def test_nobody_goes_on_with_another_conversation(model: Model, coded: bytes) -> None:
    """A stream that names an earlier one, of another call, begins a call of its own."""
    first, second = Genesys(), Genesys()

    async def run() -> dict[str, Any]:
        async with serving(model) as (server, url):
            async with connect(url + "/v1/audiohook") as socket:
                await socket.send(first.open(offer()))
                await socket.send(coded[:16_000])
                await until(lambda: any(call.received == 8000 for call in server.sessions.values()))
                socket.transport.abort()
            await until(lambda: server.legs._parked)
            async with connect(url + "/v1/audiohook") as socket:
                continued = {"id": first.id, "serverseq": 1, "clientseq": 1}
                other = str(uuid.uuid4())
                await socket.send(second.open(offer(), continuedSessions=[continued], conversationId=other))
                opened = second.hear(await socket.recv())
                assert {call.name for call in server.sessions.values()} == {CONVERSATION, other}
                return opened

    assert "discardTo" not in asyncio.run(run())["parameters"]


def test_what_one_side_was_ahead_when_the_connection_broke_is_heard(model: Model, coded: bytes) -> None:
    messages = twilio(stereo(coded[:32_000]), drop=[("outbound", n) for n in range(71, 101)])

    async def talk(server: Server, url: str) -> None:
        async with connect(url + "/v1/twilio") as socket:
            for message in messages[:-1]:
                await socket.send(json.dumps(message))
            await until(lambda: any(call.received >= 70 * CHUNK for call in server.sessions.values()))
            await socket.close()

    async def run() -> Rows:
        async with serving(model) as (server, url):
            return await watched(url, None, talk(server, url))

    heard = asyncio.run(run())
    assert heard[-1]["duration"] == 2.0
    assert heard[-1]["lost"] == pytest.approx(0.6, abs=0.01)
