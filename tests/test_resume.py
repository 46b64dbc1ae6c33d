"""Sessions that outlive their connection, and what a client may ask of one while it runs: real sockets."""

from __future__ import annotations

import asyncio
import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed
from wire import CLOSE, START, check, check_client, everything, talk

import sedstream
from sedstream.audio import pcm
from sedstream.errors import BadMessage, Unavailable
from sedstream.serving import guarded, link, tokens
from sedstream.serving.access import Visit
from sedstream.serving.client import Client
from sedstream.serving.operation import drain
from sedstream.serving.server import Server
from sedstream.zoo import Model

Array = NDArray[np.float32]
Messages = list[dict[str, Any]]
SECOND = 16_000 * 2  # bytes


def finals(messages: Messages) -> list[tuple[Any, ...]]:
    """Final segments without their numbers."""
    return [
        (m["channel"], m["start"], m["end"], m["emotion"], m["probs"]) for m in messages if m["type"] == "emotion.final"
    ]


def offline(samples: Array, model: Model, shift: float = 0.0) -> list[tuple[Any, ...]]:
    """The final segments that the recording gives, as from the wire."""
    rows = sedstream.diarize(samples, rate=16_000, model=model, plan="live").rows()
    return [
        (0, round(row["start"] + shift, 4), round(row["end"] + shift, 4), row["emotion"], row["probs"]) for row in rows
    ]


@pytest.fixture(scope="module")
def heard(speech: Array) -> Array:
    """Four seconds as they arrive in 16 bits."""
    return pcm.decode(pcm.encode(speech[:64_000], "s16le"), "s16le")[:, 0]


@pytest.fixture(scope="module")
def audio(heard: Array) -> bytes:
    return pcm.encode(heard, "s16le")


async def begin(url: str, **start: Any) -> tuple[ClientConnection, dict[str, Any]]:
    socket = await connect(url, compression=None)
    await socket.send(json.dumps(check_client(START | start)))
    return socket, check(json.loads(await socket.recv()))


async def resume(url: str, token: str, seq: int) -> tuple[ClientConnection, dict[str, Any]]:
    socket = await connect(url, compression=None)
    await socket.send(json.dumps(check_client({"type": "session.start", "resume": {"token": token, "seq": seq}})))
    return socket, check(json.loads(await socket.recv()))


async def until(socket: ClientConnection, kind: str) -> Messages:
    """Messages up to one of a type."""
    messages: Messages = []
    while not messages or messages[-1]["type"] != kind:
        messages.append(check(json.loads(await socket.recv())))
    return messages


async def rest(socket: ClientConnection) -> tuple[Messages, int]:
    """What still comes, and the close code."""
    messages: Messages = []
    try:
        while True:
            messages.append(check(json.loads(await socket.recv())))
    except ConnectionClosed as closed:
        return messages, closed.rcvd.code if closed.rcvd else 1006


async def settle(condition: Any) -> None:
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0.02)


def test_a_full_server_keeps_the_door_open_for_those_who_come_back(model: Model) -> None:
    """A balancer asks whether a new call would find room; the handshake cannot know who begins and who returns."""

    async def run() -> None:
        async with Server(model, port=0, max_sessions=1) as server:
            first, ready = await begin(server.url)
            first.transport.abort()
            await settle(lambda: server.lines.away)
            assert server.admission.state == "full"
            new = await connect(server.url, compression=None)
            await new.send(json.dumps(START))
            messages, code = await rest(new)
            assert ([m["code"] for m in messages], code) == (["full"], 1013)
            second, again = await resume(server.url, ready["resume"]["token"], 0)
            assert again["session"] == ready["session"]
            await second.close()
            await settle(lambda: server.admission.ready)

    asyncio.run(run())


def test_resume_by_hand(model: Model, heard: Array, audio: bytes) -> None:
    """Cut in the middle: the messages that were lost on the way come again, the timeline goes on where it was, and the
    answer is that of the whole recording."""

    async def run() -> None:
        async with Server(model, port=0) as server:
            first, ready = await begin(server.url)
            assert ready["received"] == 0
            token = ready["resume"]["token"]
            assert len(token) >= 32
            await first.send(audio[: 2 * SECOND])
            got = [ready, *await until(first, "emotion.update")]
            await settle(lambda: not len(next(iter(server.lines._lines.values())).outbox))
            first.transport.abort()
            await settle(lambda: server.lines.away)
            second, again = await resume(server.url, token, got[-1]["seq"])
            assert again["type"] == "session.ready"
            assert again["session"] == ready["session"]
            assert again["received"] == 32_000
            assert not server.lines.away
            await second.send(audio[again["received"] * 2 :])
            await second.send(json.dumps(CLOSE))
            more, code = await rest(second)
            assert code == 1000
            messages = [*got, again, *more]
            assert [m["seq"] for m in messages] == list(range(len(messages)))
            assert finals(messages) == offline(heard, model)
            assert messages[-1]["duration"] == 4.0
            await settle(lambda: not server.lines._lines)

    asyncio.run(run())


def test_the_end_of_a_session_can_be_fetched_later(model: Model, heard: Array, audio: bytes) -> None:
    """The connection breaks after ``close``: everything up to ``session.end`` waits."""

    async def run() -> None:
        async with Server(model, port=0) as server:
            first, ready = await begin(server.url)
            await first.send(audio)
            await first.send(json.dumps(CLOSE))
            await settle(lambda: any(line.protocol.closing for line in server.lines._lines.values()))
            first.transport.abort()
            await settle(lambda: server.lines.away and not server.sessions)
            second, _ = await resume(server.url, ready["resume"]["token"], 0)
            messages, code = await rest(second)
            assert (messages[-1]["type"], code) == ("session.end", 1000)
            assert finals(messages) == offline(heard, model)
            await settle(lambda: not server.lines._lines)

    asyncio.run(run())


def test_one_connection_at_a_time(model: Model, audio: bytes) -> None:
    """A second connection with the token takes the session over: the first is told and closed, whatever its state."""

    async def run() -> None:
        async with Server(model, port=0) as server:
            first, ready = await begin(server.url)
            await first.send(audio[:SECOND])
            await settle(lambda: all(call.received for call in server.sessions.values()))
            second, again = await resume(server.url, ready["resume"]["token"], 0)
            assert again["received"] == 16_000
            _, code = await rest(first)
            assert code == 4009
            await second.send(json.dumps(CLOSE))
            messages, code = await rest(second)
            assert (messages[-1]["type"], code) == ("session.end", 1000)

    asyncio.run(run())


def test_who_cannot_resume(model: Model, audio: bytes) -> None:
    """Too late, a guess, a number that was never sent, a client that left: each is told; the session is not touched."""

    async def run() -> None:
        async with Server(model, port=0, resume_seconds=0.5) as server:
            socket, ready = await begin(server.url)
            token = ready["resume"]["token"]
            await socket.send(audio[:SECOND])
            guess = token[:-1] + ("_" if token[-1] != "_" else "-")
            for bad, seq, expected in [(guess, 0, "unknown_session"), (token, 10_000, "bad_value")]:
                messages, code = await talk(server.url, {"type": "session.start", "resume": {"token": bad, "seq": seq}})
                assert (messages[0]["code"], code) == (expected, 1008)
            assert len(server.sessions) == 1
            await socket.send(json.dumps({"type": "finalize"}))
            await until(socket, "finalized")
            socket.transport.abort()
            await settle(lambda: server.lines.away)
            await settle(lambda: not server.sessions)
            _, answer = await resume(server.url, token, 0)
            assert answer["code"] == "unknown_session"
            left, ready = await begin(server.url)
            await left.close()
            await settle(lambda: not server.sessions)
            assert not server.lines.away
        async with Server(model, port=0, resume_seconds=0) as server:
            socket, ready = await begin(server.url)
            assert ready["resume"] is None
            socket.transport.abort()
            await settle(lambda: not server.sessions)

    asyncio.run(run())


def test_an_idle_connection_is_closed_and_can_be_resumed(model: Model) -> None:
    async def run() -> None:
        async with Server(model, port=0, idle_seconds=0.3) as server:
            socket, ready = await begin(server.url)
            messages, code = await rest(socket)
            assert (messages, code) == ([], 4010)
            second, _ = await resume(server.url, ready["resume"]["token"], 0)
            for _ in range(6):  # any message keeps it open
                await asyncio.sleep(0.1)
                await second.send('{"type":"session.update"}')
            await second.send(json.dumps(CLOSE))
            messages, code = await rest(second)
            assert (messages[-1]["type"], code) == ("session.end", 1000)
            silent = await connect(server.url)
            assert (await everything(silent)) == ([], 4010)

    asyncio.run(run())


@pytest.mark.parametrize(
    ("how", "seconds", "code"),
    [("breaks off", 0.2, 1001), ("breaks off", 0, 1001), ("leaves", 30, 1001), ("idle", 0.2, 4010)],
)
def test_who_follows_a_call_gets_the_finals_of_a_client_that_vanished(
    how: str, seconds: float, code: int, model: Model, heard: Array, audio: bytes
) -> None:
    """As if it had said ``close``, once nobody can go on with it; alerts end before the call does."""
    rule = {"name": "speech", "track": "arousal", "threshold": 0.0}

    async def run() -> tuple[Messages, str]:
        idle = 1 if how == "idle" else 60
        async with Server(model, port=0, resume_seconds=seconds, idle_seconds=idle) as server:
            watcher = await connect(server.url.replace("/v1/stream", "/v1/watch"), compression=None)
            await settle(lambda: server.hub._watchers)
            socket, _ = await begin(server.url, alerts=[rule])
            await socket.send(audio)
            await settle(lambda: any(call.received == len(heard) for call in server.sessions.values()))
            if how == "breaks off":
                socket.transport.abort()
            elif how == "leaves":
                await socket.close()
            followed = await until(watcher, "session.end")
            assert not server.lines._lines
            await watcher.close()
            return followed, server.metrics.text()

    followed, metrics = asyncio.run(run())
    assert finals(followed) == offline(heard, model)
    assert [m["state"] for m in followed if m["type"] == "alert"] == ["begin", "end"]
    end = followed[-1]
    assert (end["reason"], end["duration"], end["segments"]) == ("lost", 4.0, len(finals(followed)))
    assert f'sedstream_calls_ended_total{{code="{code}"}} 1.0' in metrics


def test_a_client_that_begins_anew_finds_the_place_of_its_old_call(
    model: Model, heard: Array, audio: bytes, tmp_path: Path
) -> None:
    """Which still gets its finals."""
    path = tmp_path / "tokens.toml"
    bearer = {"Authorization": f"Bearer {tokens.add(path, 'one', scopes=['stream', 'watch'], sessions=1)}"}
    other = {"Authorization": f"Bearer {tokens.add(path, 'other', scopes=['watch'])}"}

    async def run() -> Messages:
        async with Server(model, port=0, tokens=path, max_sessions=1) as server:
            url = server.url.replace("/v1/stream", "/v1/watch")
            watcher = await connect(url, compression=None, additional_headers=other)
            await settle(lambda: server.hub._watchers)
            for _ in range(2):
                socket = await connect(server.url, compression=None, additional_headers=bearer)
                await socket.send(json.dumps(START))
                assert check(json.loads(await socket.recv()))["type"] == "session.ready"
                await socket.send(audio)
                await settle(lambda: any(call.received == len(heard) for call in server.sessions.values()))
                socket.transport.abort()
                await settle(lambda: server.lines.away)
            followed = await until(watcher, "session.end")
            await watcher.close()
            return followed

    assert finals(asyncio.run(run())) == offline(heard, model)


def test_a_server_that_stops_forgets_no_call(model: Model, audio: bytes) -> None:
    """However it stops: those that wait for their client, and those that still end, are told to be over."""

    async def run() -> Server:
        async with Server(model, port=0, resume_seconds=0.05) as server:
            for _ in range(2):
                socket, _ = await begin(server.url)
                await socket.send(audio)
            await settle(lambda: sum(call.received for call in server.sessions.values()) >= 64_000)
        return server

    server = asyncio.run(run())
    assert not server.sessions
    assert 'sedstream_calls_ended_total{code="1001"} 2.0' in server.metrics.text()


def test_pause_is_a_gap_and_nothing_of_it_is_heard(model: Model, heard: Array) -> None:
    """Two channels: what is said in the pause changes nothing; the gap has its span; the timeline does not move."""
    quiet = heard.copy()
    quiet[16_000:40_000] = 0
    start = {"audio": {"encoding": "s16le", "rate": 16000, "channels": 2, "roles": ["customer", "other"]}}

    async def call(url: str, secret: Array) -> Messages:
        both = pcm.encode(np.stack([secret, secret[::-1]], axis=1), "s16le")
        socket, _ = await begin(url, **start)
        for first, last, ask in [
            (0, 16_000, "analysis.pause"),
            (16_000, 40_000, "analysis.resume"),
            (40_000, 64_000, ""),
        ]:
            for n in range(first, last, 800):
                await socket.send(both[4 * n : 4 * min(n + 800, last)])
            if ask:
                await socket.send(json.dumps(check_client({"type": ask})))
        await socket.send(json.dumps(CLOSE))
        messages, code = await rest(socket)
        assert code == 1000
        return messages

    async def run() -> None:
        async with Server(model, port=0) as server:
            told, other = await call(server.url, heard), await call(server.url, np.roll(heard, 16_000) * 0.5)
        for channel in (0, 1):  # told at once, or piece by piece while it lasts
            gaps = sorted((m["start"], m["end"]) for m in told if m["type"] == "gap" and m["channel"] == channel)
            starts, ends = zip(*gaps, strict=True)
            assert (starts[0], ends[-1]) == (1.0, 2.5)
            assert starts[1:] == ends[:-1]
        expected = offline(quiet, model)
        assert [final for final in finals(told) if final[0] == 0] == expected
        assert told[-1]["lost"] == 3.0
        assert told[-1]["duration"] == other[-1]["duration"] == 4.0

    asyncio.run(run())


def test_a_gap_is_told_before_the_flush_behind_it(model: Model, audio: bytes) -> None:
    async def run() -> Messages:
        async with Server(model, port=0) as server:
            socket, _ = await begin(server.url)
            await socket.send(audio[: 2 * SECOND])
            await socket.send('{"type":"analysis.pause"}')
            await socket.send(audio[2 * SECOND : 3 * SECOND])
            await socket.send('{"type":"finalize"}')
            await socket.send('{"type":"analysis.resume"}')
            await socket.send(json.dumps(CLOSE))
            return (await rest(socket))[0]

    told = [(m["type"], m["end"]) for m in asyncio.run(run()) if m["type"] in ("gap", "finalized")]
    assert told == [("gap", 3.0), ("finalized", 3.0)]


def test_discarded_audio_is_a_gap(model: Model, heard: Array, audio: bytes) -> None:
    """An hour that never comes is told as one or a few gaps, at once, and counts."""
    quiet = heard.copy()
    quiet[16_000:32_000] = 0

    async def run() -> None:
        async with Server(model, port=0, max_speed=0) as server:
            socket, _ = await begin(server.url)
            await socket.send(audio[:SECOND])
            await socket.send(json.dumps(check_client({"type": "discarded", "samples": 16_000})))
            await socket.send(audio[2 * SECOND :])
            await socket.send(json.dumps({"type": "discarded", "samples": 60 * 16_000}))
            await socket.send(json.dumps(CLOSE))
            messages, _ = await rest(socket)
        gaps = [m for m in messages if m["type"] == "gap"]
        assert (gaps[0]["start"], gaps[0]["end"]) == (1.0, 2.0)
        assert len(gaps) < 20
        assert all(a["end"] == b["start"] for a, b in pairwise(gaps[1:]))
        assert (gaps[1]["start"], gaps[-1]["end"]) == (4.0, 64.0)
        assert messages[-1]["lost"] == 61.0
        assert messages[-1]["received"] == 64 * 16_000
        padded = np.concatenate([quiet, np.zeros(60 * 16_000, np.float32)])
        assert finals(messages) == offline(padded, model)

    asyncio.run(run())


def test_events_and_alerts_change_while_it_runs(model: Model, audio: bytes, tmp_path: Path) -> None:
    """Alerts cite the final segments they rest on; a bad change is told and leaves all as it was."""
    path = tmp_path / "alerts.toml"
    path.write_text('[[alert]]\nname = "speech"\ntrack = "arousal"\nthreshold = 0.0\nmin_duration = 0.5\n')
    rule = {"name": "mine", "track": "arousal", "threshold": 0.0, "on": "provisional"}
    angry = {"name": "mine", "label": "angry", "threshold": 0.5}

    async def run() -> None:
        async with Server(model, port=0, alerts=path) as server:
            _, refused = await begin(server.url, alerts=[rule | {"name": "speech"}])
            assert refused["code"] == "bad_value"
            assert refused["message"] == "Bad alert name 'speech', expected one that no rule of the server has"
            labels = ["neutral", "happy"]
            socket, ready = await begin(server.url, events=["alert", "emotion.final"], labels=labels)
            assert ready["alerts"] == ["speech"]
            await socket.send(audio)
            await socket.send(json.dumps({"type": "finalize"}))
            messages = await until(socket, "finalized")
            assert {m["type"] for m in messages} == {"alert", "emotion.final", "finalized"}
            [alert] = [m for m in messages if m["type"] == "alert"]
            known = {m["seg"]: (m["start"], m["end"]) for m in messages if m["type"] == "emotion.final"}
            assert (alert["name"], alert["state"]) == ("speech", "begin")
            assert all(known[cited["seg"]] == (cited["start"], cited["end"]) for cited in alert["segments"])
            assert alert["start"] == alert["segments"][0]["start"]
            for bad in ({"name": "mine"}, angry | {"label": "angri"}, angry, rule | {"name": "speech"}):
                await socket.send(json.dumps({"type": "session.update", "alerts": [bad]}))
                [error] = await until(socket, "error")
                assert error["code"] == "bad_value"
            update = {"type": "session.update", "events": ["alert"], "alerts": [rule]}
            await socket.send(json.dumps(check_client(update)))
            [updated] = await until(socket, "session.updated")
            assert (updated["events"], updated["alerts"]) == (["alert"], ["speech", "mine"])
            late = await connect(server.url.replace("/v1/stream", "/v1/watch"), compression=None)
            [told] = await until(late, "session.ready")
            assert (told["events"], told["alerts"]) == (["alert"], ["speech", "mine"])
            await late.close()
            await socket.send(audio)
            await socket.send(json.dumps(CLOSE))
            messages, _ = await rest(socket)
            assert {m["type"] for m in messages} == {"alert", "session.end"}
            names = [(m["name"], m["state"]) for m in messages if m["type"] == "alert"]
            assert ("mine", "begin") in names
            assert names[-2:] in ([("speech", "end"), ("mine", "end")], [("mine", "end"), ("speech", "end")])

    asyncio.run(run())


def test_who_watches_sees_every_call(model: Model, audio: bytes) -> None:
    """From the beginning of a call, whatever events its client chose, and no resume token."""

    async def run() -> None:
        async with Server(model, port=0) as server:
            url = server.url.replace("/v1/stream", "/v1/watch")
            early = await connect(url, compression=None)
            socket, ready = await begin(server.url, events=[])
            late = await connect(f"{url}?session={ready['session']}", compression=None)
            others = [await connect(f"{url}?session={name}", compression=None) for name in ("other", "")]
            await settle(lambda: len(server.hub._watchers) == 4)
            await socket.send(audio)
            await socket.send(json.dumps(CLOSE))
            own, _ = await rest(socket)
            assert [m["type"] for m in own] == ["session.end"]
            for watcher in (early, late):
                messages = await until(watcher, "session.end")
                assert messages[0]["type"] == "session.ready"
                assert messages[0]["resume"] is None
                assert finals(messages)
                assert [m["seq"] for m in messages] == list(range(len(messages)))
                assert {m["session"] for m in messages} == {ready["session"]}
            for other in others:
                with pytest.raises(TimeoutError):
                    await asyncio.wait_for(other.recv(), 0.1)
            for watcher in (early, late, *others):
                await watcher.close()

    asyncio.run(run())


def test_an_agent_is_not_analysed(model: Model, heard: Array) -> None:
    """Unless the operator says so: their channel has no events, the customer's are as ever."""
    both = pcm.encode(np.stack([heard[::-1], heard], axis=1), "s16le")
    start = {"audio": {"encoding": "s16le", "rate": 16000, "channels": 2, "roles": ["agent", "customer"]}}

    async def run() -> None:
        async with Server(model, port=0) as server:
            socket, ready = await begin(server.url, **start)
            assert ready["analysed"] == [1]
            await socket.send(both)
            await socket.send(json.dumps(CLOSE))
            messages, _ = await rest(socket)
            assert {m["role"] for m in messages if "role" in m} == {"customer"}
            assert finals(messages) == [(1, *final[1:]) for final in offline(heard, model)]
            _, refused = await begin(server.url, audio={"roles": ["Agent"]})
            assert refused["code"] == "bad_input"
        async with Server(model, port=0, allow_agent=True) as server:
            _, ready = await begin(server.url, **start)
            assert ready["analysed"] == [0, 1]

    asyncio.run(run())


def test_a_client_follows_a_server_that_is_restarted(model: Model, speech: Array) -> None:
    """Drained and started again on the same port: two sessions, one timeline, every final once; the answer is that of
    the two halves."""
    heard = pcm.decode(pcm.encode(speech[:128_000], "s16le"), "s16le")[:, 0]

    async def run() -> tuple[Messages, int]:
        async with Server(model, port=0) as server:
            port = int(server.url.rsplit(":", 1)[1].split("/")[0])
            client = Client(server.url, reconnect=True)
            await client.__aenter__()
            for first in range(0, 64_000, 1600):
                await client.send(heard[first : first + 1600])
            await drain(server, 30)
        messages: Messages = []

        async def receive() -> None:
            async for message in client:
                messages.append(message)

        async with Server(model, port=port):
            receiver = asyncio.create_task(receive())
            for first in range(64_000, 128_000, 1600):
                await client.send(heard[first : first + 1600])
            await client.close()
            await asyncio.wait_for(receiver, 60)
            await client.__aexit__(None, None, None)
        return messages, port

    messages, _ = asyncio.run(run())
    kinds = [m["type"] for m in messages]
    assert kinds.count("session.ready") == 1, "that of the second session"
    assert kinds.count("session.end") == 1
    shift = 128_000 - messages[-1]["received"]
    expected = offline(heard[:shift], model) + offline(heard[shift:], model, shift / 16_000)
    assert finals(messages) == expected


def test_a_client_without_reconnect_is_told(model: Model, audio: bytes) -> None:
    async def run() -> None:
        async with Server(model, port=0) as server:
            async with Client(server.url) as client:
                await client.send(audio)
                client._link._socket.transport.abort()  # type: ignore[union-attr]
                with pytest.raises(Unavailable, match="the connection broke"):
                    async for _ in client:
                        pass
            with pytest.raises(BadMessage, match="Bad name None of alert 1"):
                async with Client(server.url, alerts=[{}], reconnect=True):
                    pass

    asyncio.run(run())


def test_who_sends_first_and_reads_later(model: Model, speech: Array, monkeypatch: pytest.MonkeyPatch) -> None:
    """What tells that there is room to send more is read, however much waits for the program."""
    monkeypatch.setattr(link, "UNREAD", 5)

    async def run() -> None:
        async with Server(model, port=0) as server, Client(server.url, reconnect=True) as client:
            for _ in range(6):
                await asyncio.wait_for(client.send(speech), 120)
            await client.close()
            assert [message async for message in client][-1]["duration"] == pytest.approx(
                6 * len(speech) / 16_000, abs=0.02
            )

    asyncio.run(run())


def test_who_comes_back_takes_one_place(model: Model) -> None:
    async def run() -> None:
        async with Server(model, port=0, max_sessions=2) as server:
            first, ready = await begin(server.url)
            first.transport.abort()
            await settle(lambda: server.lines.away)
            again, _ = await resume(server.url, ready["resume"]["token"], 0)
            other, found = await begin(server.url)
            assert found["type"] == "session.ready"
            for socket in (again, other):
                await socket.close()

    asyncio.run(run())


def test_who_came_back_is_not_waited_for(model: Model) -> None:
    """The time in which it had to come is over, as is that of another who broke off later and did not come."""

    async def run() -> None:
        async with Server(model, port=0, resume_seconds=4.0) as server:
            first, ready = await begin(server.url)
            other, _ = await begin(server.url)
            first.transport.abort()
            await settle(lambda: server.lines.away)
            again, _ = await resume(server.url, ready["resume"]["token"], 0)
            other.transport.abort()
            await settle(lambda: len(server.sessions) == 1)
            await again.send(json.dumps(CLOSE))
            messages, code = await rest(again)
            assert (messages[-1]["reason"], code) == ("closed", 1000)

    asyncio.run(run())


@pytest.mark.parametrize("code", [1000, 1001, None])
def test_nobody_waits_for_a_client_that_left(code: int | None, model: Model) -> None:
    """A page that goes to another one says 1001; some clients give no code at all."""

    async def run() -> None:
        async with Server(model, port=0, resume_seconds=1000.0) as server:
            socket, _ = await begin(server.url)
            socket.protocol.send_close(code)
            socket.send_data()
            await asyncio.wait_for(socket.wait_closed(), 30)
            await settle(lambda: not server.sessions)

    asyncio.run(run())


def test_who_has_said_close_may_be_silent(model: Model, audio: bytes) -> None:
    """For longer than others may, while the rest is answered; and for ever, where the operator says so."""

    async def run() -> None:
        async with Server(model, port=0, idle_seconds=1.0, max_speed=1.0) as server:
            socket, _ = await begin(server.url)
            await socket.send(audio)
            await socket.send(json.dumps(CLOSE))
            messages, code = await rest(socket)
            assert (messages[-1]["type"], code) == ("session.end", 1000)
        async with Server(model, port=0, idle_seconds=0) as server:
            socket, _ = await begin(server.url)
            await socket.send(json.dumps(CLOSE))
            messages, code = await rest(socket)
            assert (messages[-1]["type"], code) == ("session.end", 1000)

    asyncio.run(run())


def test_a_call_that_is_over_is_told_to_nobody_who_comes_later(model: Model) -> None:
    """And who followed and went is forgotten."""

    async def run() -> None:
        async with Server(model, port=0) as server:
            await talk(server.url, START, CLOSE)
            await settle(lambda: not server.sessions)
            watcher = await connect(server.url.replace("/v1/stream", "/v1/watch"), compression=None)
            await settle(lambda: server.hub._watchers)
            socket, ready = await begin(server.url)
            assert check(json.loads(await watcher.recv()))["session"] == ready["session"]
            await watcher.close()
            await settle(lambda: not server.hub._watchers)
            await socket.close()

    asyncio.run(run())


def test_a_client_goes_on_where_it_was_idle(model: Model, audio: bytes) -> None:
    async def run() -> None:
        async with Server(model, port=0, idle_seconds=0.3) as server, Client(server.url, reconnect=True) as client:
            await client.send(audio[:SECOND])
            first = client._link._socket
            await settle(lambda: client._link._socket is not first)
            await client.send(audio[SECOND:])
            await client.close()
            messages = [message async for message in client]
            assert not [m for m in messages if m["type"] == "session.ready"], "it is the same session"
            assert messages[-1]["duration"] == 4.0

    asyncio.run(run())


def test_a_client_does_not_knock_where_it_is_not_wanted(model: Model, tmp_path: Path) -> None:
    """Its token was taken away: that will not pass, unlike too many sessions of it."""
    path = tmp_path / "tokens.toml"
    secret = tokens.add(path, "one", sessions=1)
    [token] = tokens.read(path)

    async def run() -> None:
        async with Server(model, port=0, tokens=path) as server:
            async with Client(server.url, token=secret, reconnect=True) as client:
                [connection] = server._server.connections  # type: ignore[union-attr]
                assert isinstance(connection, guarded.GuardedConnection)
                assert connection.visit is not None
                connection.visit.end()
                other = server.access.enter(token, "stream")
                assert isinstance(other, Visit)
                connection.transport.abort()
                await settle(lambda: 'sedstream_refusals_total{status="429"}' in server.metrics.text())
                other.end()
                await client.close()
                assert [message async for message in client][-1]["type"] == "session.end"
            async with Client(server.url, token=secret, reconnect=True) as client:
                path.write_text("")
                for connection in server._server.connections:  # type: ignore[union-attr]
                    connection.transport.abort()
                with pytest.raises(Unavailable, match="HTTP 401, expected a known token"):
                    await asyncio.wait_for(anext(aiter(client)), 30)

    asyncio.run(run())


def test_a_client_gives_a_server_up_that_does_not_come_back(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link, "PATIENCE", 0.3)

    async def run() -> None:
        async with Server(model, port=0) as server:
            client = await Client(server.url, reconnect=True).__aenter__()
        with pytest.raises(Unavailable, match="expected one that listens"):
            await asyncio.wait_for(anext(message async for message in client if message["type"] == "none"), 30)
        await client.__aexit__(None, None, None)

    asyncio.run(run())


def test_whoever_comes_before_a_server_goes_and_begins_after_is_told_so(model: Model, audio: bytes) -> None:
    """And a call that is not done in time is not waited for."""

    async def run() -> None:
        async with Server(model, port=0, max_speed=0.1) as server:
            call, _ = await begin(server.url)
            await call.send(audio)
            await settle(lambda: any(heard.received for heard in server.sessions.values()))
            await asyncio.wait_for(drain(server, 0), 20)
            assert server.sessions
            call.transport.abort()
        async with Server(model, port=0) as server:
            early = await connect(server.url, compression=None)
            draining = asyncio.create_task(drain(server, 60))
            await settle(lambda: server.admission.draining)
            await early.send(json.dumps(START))
            messages, code = await asyncio.wait_for(rest(early), 20)
            assert ([m["code"] for m in messages], code) == (["full"], 1013)
            await draining

    asyncio.run(run())


def test_who_said_close_before_the_server_went_has_ended_its_call_itself(model: Model, audio: bytes) -> None:
    async def run() -> None:
        async with Server(model, port=0, max_speed=2.0) as server:
            socket, _ = await begin(server.url)
            await socket.send(audio)
            await socket.send(json.dumps(CLOSE))
            await settle(lambda: any(line.protocol.closing for line in server.lines._lines.values()))
            draining = asyncio.create_task(drain(server, 60))
            messages, code = await rest(socket)
            assert (messages[-1]["reason"], code) == ("closed", 1000)
            await draining

    asyncio.run(run())


def test_a_client_that_wants_few_events_can_send_for_ever(model: Model, speech: Array) -> None:
    """What tells it how far the server has come is asked for all the same, and is not among its messages."""

    async def run() -> None:
        async with (
            Server(model, port=0, max_speed=0) as server,
            Client(server.url, reconnect=True, events=["emotion.final"]) as client,
        ):
            for _ in range(6):
                await asyncio.wait_for(client.send(speech), 120)
            await client.close()
            kinds = {message["type"] async for message in client}
            assert kinds == {"emotion.final", "session.end"}

    asyncio.run(run())
