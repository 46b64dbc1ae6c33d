"""A server as those who run it see it: room, probes, metrics, logs, and going away in order."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from prometheus_client.parser import text_string_to_metric_families
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus
from wire import CLOSE, START, check, everything, get, process

import sedstream
from sedstream.audio import pcm
from sedstream.capacity import Load, capacity, measure, table
from sedstream.serving import logs
from sedstream.serving.client import Client
from sedstream.serving.server import Server
from sedstream.zoo import Model

Array = NDArray[np.float32]


def scrape(url: str) -> dict[tuple[str, ...], float]:
    """What ``/metrics`` says, by name and values of the labels but ``le``."""
    status, text, headers = get(url, "/metrics")
    assert (status, headers["Content-Type"]) == (200, "text/plain; version=0.0.4; charset=utf-8")
    samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    assert samples
    return {
        (sample.name, *(value for name, value in sorted(sample.labels.items()) if name != "le")): sample.value
        for sample in samples  # of a histogram's buckets the last one stays, which holds all
    }


async def refused(url: str) -> InvalidStatus:
    with pytest.raises(InvalidStatus) as refusal:
        await connect(url, compression=None)
    return refusal.value


async def until(condition: Any) -> None:
    for _ in range(600):
        if condition():
            return
        await asyncio.sleep(0.05)
    raise AssertionError("it never came")


def test_a_full_server_says_when_to_come_back(model: Model, speech: Array) -> None:
    """Two one-channel calls fit. The third handshake is HTTP 503 with Retry-After; once one is over there is room."""

    async def run() -> None:
        async with Server(model, port=0, max_sessions=2) as server:
            url = server.url
            assert (await asyncio.to_thread(get, url, "/readyz"))[:2] == (200, "ready\n")
            async with Client(url) as first:
                waiting = await connect(url, compression=None)  # says nothing yet, but is expected to begin a call
                full = await refused(url)
                assert full.response.status_code == 503
                assert int(full.response.headers["Retry-After"]) > 0
                assert full.response.body == b"full: expected a server with room\n"
                assert (await asyncio.to_thread(get, url, "/readyz"))[:2] == (503, "full\n")
                assert (await asyncio.to_thread(get, url, "/healthz"))[:2] == (200, "ok\n")
                await waiting.close()
                await until(lambda: server.admission.ready)
                async with Client(url) as second:
                    for client in (first, second):
                        await client.send(speech[:32_000])
                        await client.close()
                    ends = [[m["type"] async for m in client][-1] for client in (first, second)]
                    assert ends == ["session.end", "session.end"]
            await until(lambda: server.admission.ready)
            seen = await asyncio.to_thread(scrape, url)
            assert seen["sedstream_refusals_total", "503"] == 1
            assert seen["sedstream_calls_ended_total", "1000"] == 2

    asyncio.run(run())


def test_a_call_that_needs_more_room_than_there_is(model: Model) -> None:
    """Two channels, apart, are two streams: the handshake cannot know, so the call is refused with a code."""

    async def run() -> None:
        async with Server(model, port=0, max_sessions=2) as server:
            async with Client(server.url):
                wide = await connect(server.url, compression=None)
                await wide.send(json.dumps(START | {"audio": {"rate": 8000, "channels": 2}}))
                messages, code = await everything(wide)
                assert [(m["type"], m["code"]) for m in messages] == [("error", "full")]
                assert code == 1013
                await until(lambda: server.admission.ready)
            async with Client(server.url, rate=8000, channels=2):
                assert not server.admission.ready
                assert (await refused(server.url)).response.status_code == 503

    asyncio.run(run())


def test_metrics_count_what_happened(model: Model, speech: Array) -> None:
    async def run() -> tuple[dict[tuple[str, ...], float], dict[tuple[str, ...], float], list[dict[str, Any]]]:
        async with Server(model, port=0, max_sessions=5) as server:
            async with Client(server.url) as client:
                await client.send(speech[:96_000])
                await client.finalize()
                messages = []
                async for message in client:
                    messages.append(message)
                    if message["type"] == "finalized":
                        during = await asyncio.to_thread(scrape, server.url)
                        await client.close()
            with pytest.raises(InvalidStatus):
                await connect(server.url.replace("stream", "nothing"))
            await until(lambda: not server.engine.sessions)
            return during, await asyncio.to_thread(scrape, server.url), messages

    during, after, messages = asyncio.run(run())
    assert during["sedstream_sessions",] == during["sedstream_streams",] == 1
    assert during["sedstream_capacity_streams",] == 5
    assert during["sedstream_queue_seconds",] == during["sedstream_queue_seconds_max",] == 0
    assert (after["sedstream_sessions",], after["sedstream_ready",]) == (0, 1)
    finals = [m for m in messages if m["type"] == "emotion.final"]
    assert after["sedstream_emission_latency_seconds_count", "final"] == len(finals) > 0
    sounds = sum(m["t_audio"] - m["end"] for m in finals)
    lags = after["sedstream_emission_lag_seconds_sum",]
    assert sounds <= after["sedstream_emission_latency_seconds_sum", "final"] <= sounds + len(finals) * lags
    blocks = -(-96_000 // (model.manifest.plan("live").step * 320))
    assert after["sedstream_emission_lag_seconds_count",] == after["sedstream_tick_blocks_sum",] == blocks
    assert after["sedstream_emission_lag_seconds_bucket",] == blocks
    assert after["sedstream_tick_seconds_sum",] <= lags
    assert after["sedstream_calls_ended_total", "1000"] == 1
    assert after["sedstream_refusals_total", "404"] == 1
    assert after["process_resident_memory_bytes",] > 1e7


def test_lost_audio_is_counted(model: Model, speech: Array) -> None:
    async def run() -> dict[tuple[str, ...], float]:
        async with Server(model, port=0) as server:
            socket = await connect(server.url, compression=None)
            await socket.send(json.dumps(START))
            await socket.send(pcm.encode(speech[:16_000], "s16le"))
            await socket.send(json.dumps({"type": "discarded", "samples": 8_000}))
            await socket.send(json.dumps(CLOSE))
            messages, _ = await everything(socket)
            assert messages[-1]["lost"] == 0.5
            return await asyncio.to_thread(scrape, server.url)

    assert asyncio.run(run())["sedstream_lost_audio_seconds_total",] == 0.5


def test_calls_are_counted_by_the_code_that_was_told(model: Model, speech: Array) -> None:
    async def run() -> dict[tuple[str, ...], float]:
        async with Server(model, port=0, idle_seconds=0.2, resume_seconds=0.1) as server:
            for last in (b"\0", b"\0" * (2 << 20), None):
                socket = await connect(server.url, compression=None)
                await socket.send(json.dumps(START))
                if last is not None:
                    await socket.send(last)
                await everything(socket)
            await until(lambda: not server.sessions)
            return await asyncio.to_thread(scrape, server.url)

    seen = asyncio.run(run())
    codes = {key[1]: value for key, value in seen.items() if key[0] == "sedstream_calls_ended_total"}
    assert codes == {"1008": 1, "1009": 1, "4010": 1}


def test_health_tells_when_only_a_restart_helps(model: Model, speech: Array, monkeypatch: pytest.MonkeyPatch) -> None:
    async def run() -> None:
        async with Server(model, port=0) as server:
            monkeypatch.setattr(model, "silero", None)
            socket = await connect(server.url, compression=None)
            await socket.send(json.dumps(START))
            await socket.send(pcm.encode(speech[:32_000], "s16le"))
            assert (await everything(socket))[1] == 1011
            assert (await asyncio.to_thread(get, server.url, "/healthz"))[:2] == (503, "the model fails\n")
            await asyncio.to_thread(server.engine.__exit__)
            assert (await asyncio.to_thread(get, server.url, "/healthz"))[:2] == (503, "the engine has stopped\n")

    asyncio.run(run())


async def begin(url: str, samples: Array) -> tuple[ClientConnection, list[dict[str, Any]]]:
    """A call that has sent all of ``samples`` and heard of the first of them."""
    socket = await connect(url, compression=None)
    await socket.send(json.dumps(START))
    for first in range(0, len(samples), 3200):
        await socket.send(pcm.encode(samples[first : first + 3200], "s16le"))
    messages = [check(json.loads(await socket.recv()))]
    while messages[-1]["type"] != "speech.start":
        messages.append(check(json.loads(await socket.recv())))
    return socket, messages


async def rest(socket: ClientConnection) -> list[dict[str, Any]]:
    """What still comes until the connection is closed."""
    messages = []
    try:
        while True:
            messages.append(check(json.loads(await socket.recv())))
    except ConnectionClosed:
        return messages


def test_sigterm_finishes_the_calls(model: Model, speech: Array) -> None:
    """No new calls from then on; the open ones get their last segments, the reason, and close code 1001; exit 0."""

    async def run(server: subprocess.Popen[str], url: str) -> None:
        calls = [await begin(url, speech[n * 32_000 : n * 32_000 + 48_000]) for n in range(2)]
        async with connect(url, compression=None):  # a client that has not begun: waited for, but not for long
            server.send_signal(signal.SIGTERM)
            for _ in range(100):
                status, body, _ = await asyncio.to_thread(get, url, "/readyz")
                if status == 503:
                    break
            assert (status, body) == (503, "draining\n")
            refusal = await refused(url)
            assert refusal.response.status_code == 503
            assert "Retry-After" in refusal.response.headers
            for n, (socket, messages) in enumerate(calls):
                messages += await rest(socket)
                assert socket.close_code == 1001
                assert [m["seq"] for m in messages] == list(range(len(messages)))
                end = messages[-1]
                assert (end["type"], end["reason"]) == ("session.end", "shutdown")
                # Whatever had arrived by then is answered, to the last segment.
                heard = pcm.decode(pcm.encode(speech[n * 32_000 : n * 32_000 + end["received"]], "s16le"), "s16le", 1)
                answer = sedstream.diarize(heard[:, 0], rate=16_000, model=model, plan="live")
                expected = [(row["start"], row["end"], row["emotion"]) for row in answer.rows()]
                finals = [m for m in messages if m["type"] == "emotion.final"]
                assert [(m["start"], m["end"], m["emotion"]) for m in finals] == expected
                assert end["received"] > 16_000

    with process("--max-sessions", "8") as (server, url):
        asyncio.run(run(server, url))
        assert server.wait(timeout=60) == 0


def test_the_second_signal_ends_it_at_once() -> None:
    async def run(server: subprocess.Popen[str], url: str) -> None:
        async with connect(url, compression=None):  # it would be waited for
            server.send_signal(signal.SIGTERM)
            for _ in range(100):
                if (await asyncio.to_thread(get, url, "/readyz"))[0] == 503:
                    break
            server.send_signal(signal.SIGINT)
            assert await asyncio.to_thread(server.wait, 60) == -signal.SIGINT

    with process("--max-sessions", "8") as (server, url):
        asyncio.run(run(server, url))


def test_logs_are_json_and_hold_neither_audio_nor_tokens(speech: Array, tmp_path: Path) -> None:
    tokens = tmp_path / "tokens.toml"
    command = [sys.executable, "-m", "sedstream", "tokens", tokens, "--add", "desk", "--scopes", "stream,admin"]
    added = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=True)
    secret = added.stdout.strip().splitlines()[-1].split()[-1]
    assert len(secret) > 20
    mark = b"RIFFmarkmark" * 100

    async def run(url: str) -> None:
        for headers in ({}, {"Authorization": f"Bearer {secret}x"}):
            with pytest.raises(InvalidStatus, match="401"):
                await connect(f"{url}?token={secret}", compression=None, additional_headers=headers)
        allowed = {"Authorization": f"Bearer {secret}"}
        async with connect(f"{url}?token={secret}", compression=None, additional_headers=allowed) as socket:
            start = START | {"audio": {"rate": 8000, "roles": ["role-of-the-client"]}}
            await socket.send(json.dumps(start))
            await socket.send(mark)
            await socket.send(json.dumps({"type": "nonsense-of-the-client"}))
            await socket.send(json.dumps(CLOSE))
            assert (await everything(socket))[1] == 1000
        host, port = url.removeprefix("ws://").split("/")[0].split(":")
        _, writer = await asyncio.open_connection(host, int(port))
        writer.write(b"\x16\x03\x01 no HTTP at all\r\n\r\n")
        await writer.drain()
        writer.close()

    with process("--max-sessions", "8", "--log-format", "json", "--tokens", tokens) as (server, url):
        asyncio.run(run(url))
        server.terminate()
        text = server.communicate(timeout=60)[1]
        assert server.returncode == 0
    lines = [json.loads(line) for line in text.splitlines()]
    said = [line["message"] for line in lines]
    assert said.count("call began") == said.count("call over") == 1
    assert said.count("draining") == said.count("drained") == 1
    over = lines[said.index("call over")]
    assert (over["reason"], over["code"], over["duration"]) == ("closed", 1000, len(mark) / 2 / 8000)
    assert all({"time", "level", "logger", "message"} <= set(line) for line in lines)
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", line["time"]) for line in lines)
    for secretive in (secret, secret[:12], "markmark", "of-the-client", "\\u0016"):
        assert secretive not in text, secretive


def test_a_platform_cannot_write_fields_of_the_log() -> None:
    """Its names of calls stand in quotes where they could be taken for more."""
    record = logging.makeLogRecord({"name": "sedstream", "levelname": "INFO", "msg": "call over"})
    record.session, record.code, record.peer = "CA1 code=1000\x1b[2J\n reason=closed", 1011, "[::1]:8765"
    line = logs.TextLines().format(record)
    assert line.endswith(' session="CA1 code=1000\\u001b[2J\\n reason=closed" peer=[::1]:8765 code=1011')
    assert line.isprintable()
    assert json.loads(logs.JsonLines().format(record))["session"] == record.session


def test_measured_capacity(model: Model) -> None:
    """Loads double until one is too much; the capacity lies between the last two."""
    loads = list(measure(model, up_to=0.001))
    assert [load.streams for load in loads] == [1]
    assert loads[0].seconds > 0
    assert loads[0].share == loads[0].seconds / 0.32
    steps = [Load(n, 0.01 * n, 0.32) for n in (1, 2, 4, 8, 16, 32)]
    assert capacity(steps, share=0.5) == 16
    assert capacity(steps, share=0.375) == 12
    assert capacity(steps[:3], share=0.5) == 4
    assert capacity([Load(1, 1.0, 0.32)], share=0.5) == 4, "two two-sided calls in any case"
    lines = list(table(steps))
    assert len(lines) == 1 + 6 + 1
    assert lines[3].split() == ["4", "40.0", "ms", "12.5%", "32"]
    assert "--max-sessions 19" in lines[-1]


def test_the_sizing_table_and_a_bad_number_on_the_command_line() -> None:
    def command(*arguments: str) -> subprocess.CompletedProcess[str]:
        line = [sys.executable, "-m", "sedstream", *arguments]
        return subprocess.run(line, capture_output=True, text=True, timeout=300, check=False, env=os.environ)

    shown = command("bench", "capacity")
    assert shown.returncode == 0, shown.stderr
    rows = shown.stdout.splitlines()
    assert [int(row.split()[0]) for row in rows[1:-1]] == [2**n for n in range(len(rows) - 2)]
    assert re.fullmatch(r"holds \d+ one-channel calls .* \(--max-sessions \d+\)", rows[-1])
    bad = command("serve", "--max-sessions", "0")
    assert bad.returncode == 2
    assert "Bad number '0', expected 1 or more, or auto" in bad.stderr


def test_what_the_command_is_told_the_server_does(tmp_path: Path) -> None:
    desk = "https://desk.example"
    told = ("--idle-seconds", "0.5", "--resume-seconds", "7", "--allow-origin", f"{desk}, http://localhost:3000")

    async def run(url: str) -> None:
        for origin in (desk, "http://localhost:3000"):
            async with connect(url, compression=None, origin=origin):  # type: ignore[arg-type]
                pass
        socket = await connect(url, compression=None)
        await socket.send(json.dumps(START))
        messages, code = await asyncio.wait_for(everything(socket), 30)  # without it, it would be a minute
        assert messages[0]["resume"]["seconds"] == 7
        assert code == 4010

    with process("--max-sessions", "8", *told) as (_, url):
        asyncio.run(run(url))
