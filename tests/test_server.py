"""The server through real sockets: live = offline, several clients, and every kind of bad client."""

import asyncio
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from conftest import DATA
from numpy.typing import NDArray
from websockets.asyncio.client import connect
from websockets.asyncio.server import ServerConnection, serve
from wire import CLOSE, START, check, check_client, check_numbering, serving, talk

import sedstream
from sedstream.audio import pcm
from sedstream.audio.files import open_recording
from sedstream.commands import row_of
from sedstream.errors import BadInput, BadMessage, Unavailable
from sedstream.serving.choices import choose_plan
from sedstream.serving.client import Client, stream_recording
from sedstream.serving.operation import drain
from sedstream.serving.protocol import MAX_BINARY
from sedstream.serving.server import Server
from sedstream.zoo import Model

Array = NDArray[np.float32]
Rows = list[dict[str, Any]]


async def rows_over_the_wire(url: str, path: Path, packet: float, split: bool = False, **options: Any) -> Rows:
    messages = []
    async for message in stream_recording(url, open_recording(path), packet=packet, speed=0, split=split, **options):
        messages.append(check(message))
    check_numbering(messages)
    found = [row_of(message, str(path)) for message in messages if message["type"] == "emotion.final"]
    return sorted(found, key=lambda row: (row["start"], row["channel"]))


def rows_offline(path: Path, model: Model, split: bool = False, **options: Any) -> Rows:
    channels = "split" if split else "mix"
    return list(sedstream.diarize(path, model=model, plan="live", channels=channels, **options).rows())


@pytest.fixture(scope="session")
def stereo(tmp_path_factory: pytest.TempPathFactory, speech: Array) -> Path:
    """A two-sided telephone call of 10 s at 8 kHz, mu-law."""
    path = tmp_path_factory.mktemp("call") / "call.wav"
    left, right = speech[0:160_000:2], speech[::-1][0:160_000:2]
    soundfile.write(path, np.stack([left, right], axis=1), 8000, subtype="ULAW")
    return path


def test_live_is_offline_over_the_wire(model: Model, clip: Path, stereo: Path) -> None:
    """Same final segments for any packet size, mono and stereo, mixed and split, alone and side by side."""

    async def run() -> None:
        async with serving(model) as url:
            assert await rows_over_the_wire(url, stereo, 0.1, split=True) == rows_offline(stereo, model, split=True)
            assert await rows_over_the_wire(url, stereo, 0.0371) == rows_offline(stereo, model)
            expected = rows_offline(clip, model)
            assert expected
            together = await asyncio.gather(
                *(rows_over_the_wire(url, clip, packet) for packet in (0.02, 0.1, 0.333)),
                rows_over_the_wire(url, clip, 1.0, labels=["neutral", "angry"]),
            )
            assert together[:3] == [expected] * 3
            assert together[3] == rows_offline(clip, model, labels=["neutral", "angry"])
            slow = await rows_over_the_wire(url, clip, 0.1, latency="batch")
            assert slow == list(sedstream.diarize(clip, model=model).rows())

    asyncio.run(run())


@pytest.mark.data
@pytest.mark.parametrize("call", ["repairs-40", "repairs-49"])
def test_whole_telephone_calls(call: str, model: Model, clip: Path) -> None:
    """Whole two-sided calls in packets of 20 ms, 100 ms and random sizes, alone and with 8 sessions beside."""
    path = DATA / "audio" / "calls" / f"{call}.stereo.flac"
    expected = rows_offline(path, model, split=True)
    beside = rows_offline(clip, model)
    assert len(expected) > 20

    async def random_packets(url: str) -> Rows:
        recording = open_recording(path)
        random = np.random.default_rng(1)
        audio = np.concatenate(list(recording.blocks()))
        found = []
        async with Client(url, rate=recording.rate, channels=2) as client:

            async def send() -> None:
                first = 0
                while first < len(audio):
                    size = int(random.integers(1, 4000))
                    await client.send(audio[first : first + size])
                    first += size
                await client.close()

            sender = asyncio.create_task(send())
            async for message in client:
                if message["type"] == "emotion.final":
                    found.append(row_of(message, str(path)))
            await sender
        return sorted(found, key=lambda row: (row["start"], row["channel"]))

    async def run() -> None:
        async with serving(model) as url:
            assert await rows_over_the_wire(url, path, 0.02, split=True) == expected
            assert await random_packets(url) == expected
            crowd = (rows_over_the_wire(url, clip, 0.02 * n) for n in range(1, 9))
            found, *others = await asyncio.gather(rows_over_the_wire(url, path, 0.1, split=True), *crowd)
            assert found == expected
            assert others == [beside] * 8

    asyncio.run(run())


def test_a_client_sends_samples_of_any_number_and_type(model: Model, speech: Array) -> None:
    """More than one message holds; 16 bits as numbers are those of the wire; what else there is has no full scale."""
    coarse = np.round(speech * 32767).astype(np.int16)
    assert speech.nbytes > MAX_BINARY

    async def finals(url: str, encoding: str, samples: Any) -> list[tuple[float, float, str, Any]]:
        async with Client(url, encoding=encoding, events=["emotion.final"]) as client:
            with pytest.raises(BadInput, match="Bad samples of type 'int32', expected floats in -1…1 or int16"):
                await client.send(coarse.astype(np.int32))
            await client.send(samples)
            await client.close()
            found = [message async for message in client if message["type"] == "emotion.final"]
        return [(m["start"], m["end"], m["emotion"], m["probs"]) for m in found]

    async def run() -> None:
        async with serving(model) as url:
            for samples, encoding, heard in [
                (speech, "f32le", speech),
                (speech.tobytes(), "f32le", speech),
                (coarse, "s16le", coarse / np.float32(32768)),
            ]:
                rows = sedstream.diarize(heard, rate=16_000, model=model, plan="live").rows()
                expected = [(row["start"], row["end"], row["emotion"], row["probs"]) for row in rows]
                assert await finals(url, encoding, samples) == expected

    asyncio.run(run())


def test_a_client_that_is_not_connected_says_so() -> None:
    """Rather than wait for ever."""

    async def run() -> None:
        client = Client("ws://127.0.0.1:1")
        for call in (client.send(b"\0\0"), client.discarded(1), client.pause(), client.close(), anext(aiter(client))):
            with pytest.raises(BadInput, match="Bad client, expected one that is connected: async with Client"):
                await asyncio.wait_for(call, 5)
        assert not client._tape.unsent

    asyncio.run(run())


def test_a_whole_session(model: Model, speech: Array) -> None:
    """Ready with the configuration in effect, events by the schema, end with totals."""
    start = START | {"audio": {"encoding": "mulaw", "rate": 8000, "channels": 1, "roles": ["customer"]}, "extra": 1}
    audio = pcm.encode(speech[:160_000:2], "mulaw")
    packets = [audio[n : n + 160] for n in range(0, len(audio), 160)]

    async def run() -> tuple[list[dict[str, Any]], int]:
        async with serving(model) as url:
            return await talk(url, check_client(start), *packets, check_client(CLOSE))

    messages, code = asyncio.run(run())
    assert code == 1000
    ready, end = messages[0], messages[-1]
    assert ready["type"] == "session.ready"
    assert ready["audio"] == {"encoding": "mulaw", "rate": 8000, "channels": 1, "roles": ["customer"], "mix": False}
    assert ready["latency"] == model.manifest.plan("live").latency
    assert ready["labels"] == list(model.manifest.labels)
    assert end["type"] == "session.end"
    assert end["duration"] == 10.0
    finals = [m for m in messages if m["type"] == "emotion.final"]
    assert end["segments"] == len(finals) > 0
    assert all(m["role"] == "customer" for m in finals)
    kinds = {m["type"] for m in messages}
    assert {"speech.start", "speech.end", "emotion.update", "arousal"} <= kinds
    spans = [m["end"] - m["start"] for m in finals]
    assert sum(spans) == pytest.approx(end["speech"])
    assert all(m["t_audio"] <= 10.0 for m in messages if "t_audio" in m)


def test_finalize_and_chosen_events(model: Model, speech: Array) -> None:
    audio = pcm.encode(speech[:80_000], "s16le")
    start = START | {"events": ["emotion.final"]}

    async def run() -> list[dict[str, Any]]:
        async with serving(model) as url, connect(url, compression=None) as socket:
            await socket.send(json.dumps(start))
            await socket.send(audio)
            await socket.send('{"type":"finalize"}')
            messages = []
            while not messages or messages[-1]["type"] != "finalized":
                messages.append(check(json.loads(await socket.recv())))
            await socket.send(audio)
            await socket.send('{"type":"close"}')
            rest = []
            async for text in socket:
                rest.append(check(json.loads(text)))
            check_numbering(messages + rest)
            assert {m["type"] for m in messages} == {"session.ready", "emotion.final", "finalized"}
            assert {m["type"] for m in rest} == {"emotion.final", "session.end"}
            assert messages[-1]["end"] == 5.0
            assert all(m["end"] <= 5.0 for m in messages[1:])
            assert all(m["start"] >= 5.0 for m in rest[:-1])
            return messages

    asyncio.run(run())


RULE = {"name": "a", "label": "angry", "threshold": 0.5}
BAD = [
    (["{not json"], "bad_json", 1008),
    (["[" * 50_000], "bad_json", 1008),
    (['"text"'], "bad_message", 1008),
    (['{"no":"type"}'], "bad_message", 1008),
    ([b"\0" * 640], "no_session", 1008),
    ([{"type": "finalize"}], "no_session", 1008),
    ([{"type": "close"}], "no_session", 1008),
    ([START | {"v": 2}], "bad_version", 1008),
    ([START | {"audio": {"encoding": "opus"}}], "unknown_encoding", 1008),
    ([START | {"audio": {"encoding": ["s16le"]}}], "unknown_encoding", 1008),
    ([START | {"audio": {"rate": 1000}}], "bad_value", 1008),
    ([START | {"audio": {"rate": 400_000}}], "bad_value", 1008),
    ([START | {"audio": {"rate": 16000.5}}], "bad_value", 1008),
    ([START | {"audio": {"channels": 3}}], "bad_value", 1008),
    ([START | {"audio": {"channels": True}}], "bad_value", 1008),
    ([START | {"audio": {"channels": 2, "roles": ["a"]}}], "bad_value", 1008),
    *(([START | {"audio": {"roles": roles}}], "bad_value", 1008) for roles in (0, {}, "", False)),
    ([START | {"v": True}], "bad_version", 1008),
    ([START | {"audio": 7}], "bad_value", 1008),
    ([START | {"audio": {"mix": 1}}], "bad_value", 1008),
    ([START | {"model": "gpt"}], "bad_model", 1008),
    ([START | {"model": 7}], "bad_value", 1008),
    ([START | {"latency": 0.01}], "bad_input", 1008),
    ([START | {"latency": "tomorrow"}], "bad_model", 1008),
    ([START | {"latency": False}], "bad_value", 1008),
    ([START | {"labels": ["neutral", "cross"]}], "bad_input", 1008),
    ([START | {"labels": "neutral"}], "bad_value", 1008),
    ([START | {"events": ["everything"]}], "bad_value", 1008),
    ([START | {"alerts": [{"name": "a", "label": "angry"}]}], "bad_value", 1008),
    ([START | {"alerts": {}}], "bad_value", 1008),
    ([START | {"alerts": [RULE | {"label": "angri"}]}], "bad_value", 1008),
    ([START | {"alerts": [RULE], "labels": ["neutral", "sad"]}], "bad_value", 1008),
    ([START | {"resume": "token"}], "bad_value", 1008),
    ([START | {"resume": {"token": "x", "seq": -2}}], "bad_value", 1008),
    ([START | {"resume": {"token": "x", "seq": 0}}], "unknown_session", 1008),
    ([{"type": "analysis.pause"}], "no_session", 1008),
    ([START, {"type": "discarded"}], "bad_value", 1008),
    ([START, {"type": "discarded", "samples": 0}], "bad_value", 1008),
    ([START, {"type": "discarded", "samples": 3600 * 16000 + 1}], "bad_value", 1008),
    ([START, START], "already_started", 1008),
    ([START, b"\0" * 641], "bad_audio", 1008),
    ([START | {"audio": {"encoding": "f32le"}}, np.array([np.nan], "<f4").tobytes()], "bad_audio", 1008),
    ([START, "x" * 70_000], "too_long", 1008),
]


def test_bad_clients_get_a_code_and_hurt_nobody(model: Model, clip: Path) -> None:
    """Each is answered by one ``error`` with its code; a good session beside them is not touched."""

    async def run() -> None:
        async with serving(model) as url:
            good = asyncio.create_task(rows_over_the_wire(url, clip, 0.05))
            for frames, expected, expected_code in BAD:
                messages, code = await talk(url, *frames)
                assert messages, frames
                assert messages[-1]["type"] == "error", frames
                assert (messages[-1]["code"], code) == (expected, expected_code), frames
                assert messages[-1]["message"].startswith("Bad ")
            assert await good == rows_offline(clip, model)

    asyncio.run(run())


def test_an_unknown_type_is_told_and_forgiven(model: Model) -> None:
    async def run() -> tuple[list[dict[str, Any]], int]:
        async with serving(model) as url:
            return await talk(url, START, {"type": "dance"}, b"\0" * 6400, CLOSE)

    messages, code = asyncio.run(run())
    assert [m["code"] for m in messages if m["type"] == "error"] == ["unknown_type"]
    assert messages[-1]["type"] == "session.end"
    assert code == 1000


def test_ten_megabytes_of_text(model: Model) -> None:
    """Refused by size before it is in memory: close code 1009."""

    async def run() -> tuple[list[dict[str, Any]], int]:
        async with serving(model) as url:
            return await talk(url, START, "x" * 10_000_000)

    messages, code = asyncio.run(run())
    assert code == 1009
    assert [m["type"] for m in messages] in ([], ["session.ready"])


def test_connections_that_break(model: Model, clip: Path) -> None:
    """Dropped in the middle of a session, of a message and of the handshake: gone, and nobody else notices."""

    async def run() -> None:
        async with Server(model, port=0, resume_seconds=0) as server:
            good = asyncio.create_task(rows_over_the_wire(server.url, clip, 0.05))
            host, port = server.url.removeprefix("ws://").split("/")[0].split(":")
            for _ in range(3):
                async with connect(server.url, compression=None) as socket:
                    await socket.send(json.dumps(START))
                    await socket.send(b"\0" * 64_000)
                    socket.transport.abort()
                async with connect(server.url, compression=None) as socket:
                    await socket.send(json.dumps(START))
                    await socket.recv()
                    # A binary frame that announces 60,000 bytes and brings 100.
                    socket.transport.write(b"\x82\xfe\xea\x60" + b"\0\0\0\0" + b"\0" * 100)
                    await asyncio.sleep(0.05)
                    socket.transport.abort()
                _, writer = await asyncio.open_connection(host, int(port))
                writer.write(b"GET /v1/stream HTTP/1.1\r\nHost: x\r\nUpg")
                await writer.drain()
                writer.transport.abort()
            assert await good == rows_offline(clip, model)
            for _ in range(100):
                if not server.sessions:
                    break
                await asyncio.sleep(0.05)
            assert not server.sessions

    asyncio.run(run())


def test_a_client_that_never_reads_is_cut_and_hurts_nobody(model: Model, clip: Path) -> None:
    async def run() -> None:
        async with Server(model, port=0) as server:
            host, port = server.url.removeprefix("ws://").split("/")[0].split(":")
            # Raw sockets: a WebSocket library would read for us. Unknown types are answered one by one.
            reader, writer = await asyncio.open_connection(host, int(port), limit=1024)
            writer.write(
                b"GET /v1/stream HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
            )
            await reader.readuntil(b"\r\n\r\n")
            reader._transport.pause_reading()  # type: ignore[attr-defined]
            good = asyncio.create_task(rows_over_the_wire(server.url, clip, 0.05))
            text = json.dumps({"type": "x" * 60}).encode()
            frame = bytes([0x81, 0x80 | len(text)]) + b"\0\0\0\0" + text
            cut = False
            for _ in range(400):
                try:
                    writer.write(frame * 200)
                    await asyncio.wait_for(writer.drain(), 10)
                except (ConnectionError, TimeoutError):
                    cut = True
                    break
                await asyncio.sleep(0)
            assert cut, "80,000 unread answers must not be kept"
            writer.transport.abort()
            assert await good == rows_offline(clip, model)

    asyncio.run(run())


def test_port_in_use_and_foreign_hosts(model: Model) -> None:
    async def run() -> None:
        async with Server(model, port=0) as server:
            port = int(server.url.rsplit(":", 1)[1].split("/")[0])
            second = Server(model, port=port)
            with pytest.raises(Unavailable, match=f"Bad address 127.0.0.1:{port}, expected a free one: it is in use"):
                await second.__aenter__()
            assert not second.engine.running
            nowhere = Server(model, "a..b", insecure=True)
            with pytest.raises(BadInput, match=r"Bad host 'a\.\.b', expected a name or an address of this machine"):
                await nowhere.__aenter__()
            assert not nowhere.engine.running
            with pytest.raises(BadInput, match=r"Bad host '0\.0\.0\.0', expected a loopback address"):
                Server(model, "0.0.0.0")
            with pytest.raises(BadInput, match="Bad port 65536, expected 0 to 65535"):
                Server(model, port=65_536)
            with pytest.raises(Unavailable, match="HTTP 404"):
                async with Client(server.url.replace("/v1/stream", "/v1/other")):
                    pass
            with pytest.raises(BadMessage, match="Bad model 'other'"):
                async with Client(server.url, model="other"):
                    pass
            with pytest.raises(Exception, match="403"):
                async with connect(server.url, origin="https://elsewhere.example"):  # type: ignore[arg-type]
                    pass
        with pytest.raises(Unavailable, match="Bad server .*, expected one that listens"):
            async with Client(server.url):
                pass

    asyncio.run(run())


def test_a_bad_file_ends_the_client_and_not_the_server(model: Model, tmp_path: Path, clip: Path) -> None:
    path = tmp_path / "broken.flac"
    path.write_bytes(clip.read_bytes()[:100_000])

    async def run() -> None:
        async with serving(model) as url:
            with pytest.raises(BadInput, match="broken.flac"):
                await rows_over_the_wire(url, path, 0.1)
            assert await rows_over_the_wire(url, clip, 0.1) == rows_offline(clip, model)

    asyncio.run(run())


def test_latency_chooses_the_plan(model: Model) -> None:
    manifest = model.manifest
    assert choose_plan(manifest, None) == "live"
    assert choose_plan(manifest, "batch") == "batch"
    assert choose_plan(manifest, 1.0) == "live"
    for name in ("live", "batch"):
        assert choose_plan(manifest, manifest.plan(name).latency) == name
    assert choose_plan(manifest, 60) == "batch"


def test_what_the_server_forgives_ends_no_call(model: Model, speech: Array) -> None:
    """An update that it cannot take: told as a message, and what was in effect goes on."""

    async def run() -> Rows:
        async with serving(model) as url, Client(url) as client:
            await client.update(alerts=[{"name": "x", "label": "furious", "threshold": 0.5}])
            await client.send(speech[:64_000])
            await client.close()
            return [check(message) async for message in client]

    messages = asyncio.run(run())
    assert [(m["code"], m["fatal"]) for m in messages if m["type"] == "error"] == [("bad_value", False)]
    assert messages[-1]["type"] == "session.end"
    assert messages[-1]["duration"] == 4.0


@pytest.mark.parametrize("said", ["hello", '{"a":1}', "[]", '{"type":"welcome","seq":0}', '{"type":"error"}'])
def test_another_program_behind_the_address(said: str) -> None:
    async def talk(socket: ServerConnection) -> None:
        await socket.recv()
        await socket.send(said)
        await socket.wait_closed()

    async def run() -> None:
        async with serve(talk, "127.0.0.1", 0) as server:
            url = f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}"
            with pytest.raises(Unavailable, match="Bad server 'ws.*', expected one of sedstream: it said"):
                await Client(url).__aenter__()

    asyncio.run(run())


@pytest.mark.parametrize("sound", [[np.zeros(8000)] * 3, np.zeros((800, 2)), bytes(801), [0.0, np.nan], [1e20, 0.0]])
def test_a_client_sends_no_nonsense(model: Model, sound: Any) -> None:
    async def run() -> None:
        async with serving(model) as url, Client(url) as client:
            with pytest.raises(BadInput, match="^Bad (samples|audio)"):
                await client.send(sound if isinstance(sound, bytes) else np.array(sound))
            await client.send(bytearray(3200))
            await client.close()
            assert [message async for message in client][-1]["duration"] == 0.1

    asyncio.run(run())


def test_a_sample_that_is_no_sound(model: Model, speech: Array) -> None:
    start = START | {"audio": {"encoding": "f32le", "rate": 16_000}}
    loud = speech[:16_000].copy()
    loud[5000] = 1e20

    async def run() -> None:
        async with serving(model) as url:
            messages, code = await talk(url, start, loud.tobytes())
            assert (messages[-1]["code"], code) == ("bad_audio", 1008)

    asyncio.run(run())


def test_requests_may_come_twice(model: Model, speech: Array) -> None:
    """Whoever resumes cannot know which of the last ones arrived."""

    async def run() -> None:
        async with serving(model) as url:
            again = [{"type": kind} for kind in ("finalize", "analysis.resume", "close")]
            audio = pcm.encode(speech[:48_000], "s16le")
            messages, code = await talk(url, START, audio, {"type": "finalize"}, {"type": "close"}, *again)
            assert (messages[-1]["type"], code) == ("session.end", 1000)
            assert not [message for message in messages if message["type"] == "error"]

    asyncio.run(run())


def test_a_client_that_was_left(model: Model) -> None:
    async def run() -> None:
        async with serving(model) as url:
            async with Client(url) as client:
                pass
            with pytest.raises(Unavailable, match="expected one that was not closed"):
                await asyncio.wait_for(client.close(), 5)
            with pytest.raises(Unavailable, match="expected one that was not closed"):
                await asyncio.wait_for(anext(aiter(client)), 5)

    asyncio.run(run())


def test_half_a_recording_is_no_success(model: Model, clip: Path) -> None:
    """The server goes away in the middle: what it told is told, and then that it was not all."""

    async def hear(server: Server, seen: list[str]) -> None:
        draining = None
        async for message in stream_recording(server.url, open_recording(clip), speed=4):
            seen.append(message["type"])
            if message["type"] == "emotion.update" and draining is None:
                draining = asyncio.create_task(drain(server, 60))

    async def run() -> None:
        async with Server(model, port=0) as server:
            seen: list[str] = []
            with pytest.raises(Unavailable, match="expected one that goes on: it ended after"):
                await hear(server, seen)
            assert seen[-1] == "session.end"

    asyncio.run(run())


def test_a_recording_goes_as_fast_as_asked(model: Model, clip: Path, tmp_path: Path) -> None:
    """As it would be spoken, or so many times as fast: neither sooner nor, by far, later."""
    quiet = tmp_path / "quiet.wav"
    soundfile.write(quiet, np.zeros(8000 * 600, np.int16), 8000)

    async def run() -> None:
        async with Server(model, port=0, max_speed=0) as server:
            loop = asyncio.get_running_loop()
            for path, speed, least in ((clip, 8.0, 2.0), (quiet, 600.0, 1.0)):
                began = loop.time()
                async with asyncio.timeout(300):
                    async for _ in stream_recording(server.url, open_recording(path), speed=speed):
                        pass
                assert loop.time() - began > least

    asyncio.run(run())


def test_a_packet_that_no_message_holds(clip: Path) -> None:
    async def run() -> None:
        with pytest.raises(BadInput, match=f"Bad packet 100 s, expected less than {MAX_BINARY} bytes"):
            await anext(stream_recording("ws://127.0.0.1:1", open_recording(clip), packet=100))

    asyncio.run(run())
