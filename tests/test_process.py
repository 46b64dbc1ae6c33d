"""``sedstream serve`` as a process: what it leaves on the disk, when its port opens, a restart under its clients."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import resource
import signal
import socket
import stat
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import ROOT
from numpy.typing import NDArray
from telephone import Genesys, mulaw, offer, twilio, two_sides
from test_resume import finals, offline
from websockets.asyncio.client import connect
from wire import CLOSE, START, get, process, talk

from sedstream.audio import pcm
from sedstream.serving import link, logs
from sedstream.serving.client import Client
from sedstream.zoo import Model

Array = NDArray[np.float32]
LINUX = pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="needs /proc")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def tree(*folders: Path) -> dict[str, tuple[int, int]]:
    """Size and time of change of everything below some folders."""
    found = {}
    for folder in folders:
        for path in [folder, *folder.rglob("*")]:
            state = path.lstat()
            found[str(path)] = state.st_size, state.st_mtime_ns
    return found


def writable(process: int) -> set[str]:
    """The files that a process may write to now."""
    found = set()
    for fd in Path(f"/proc/{process}/fd").iterdir():
        try:
            mode, name = fd.stat().st_mode, os.readlink(fd)
            flags = int(Path(f"/proc/{process}/fdinfo/{fd.name}").read_text().split("flags:")[1].split()[0], 8)
        except FileNotFoundError:  # closed meanwhile
            continue
        if stat.S_ISREG(mode) and flags & os.O_ACCMODE != os.O_RDONLY:
            found.add(name)
    return found


@LINUX
def test_nothing_is_written_while_calls_go_on(speech: Array, tmp_path: Path) -> None:
    """A call of the wire that raises alerts, breaks and is resumed, one of Twilio, one of AudioHook, and a follower: no
    file appears or changes at home, in the temporary folder, in the working directory or in the package, and none is
    open to be written."""
    folders = [tmp_path / name for name in ("home", "tmp", "work")]
    for folder in folders:
        folder.mkdir()
    home, temporary, work = map(str, folders)
    env = {name: value for name, value in os.environ.items() if not name.startswith("XDG_")}
    env |= {"HOME": home, "TMPDIR": temporary, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}
    rules = tmp_path / "alerts.toml"
    rules.write_text('[[alert]]\nname = "loud"\ntrack = "arousal"\nthreshold = 0.0\n')
    audio, sides = pcm.encode(speech[:64_000], "s16le"), mulaw(two_sides(4.0))
    opened: set[str] = set()

    async def wire(url: str) -> None:
        first = await connect(url, compression=None)
        await first.send(json.dumps(START))
        token = json.loads(await first.recv())["resume"]["token"]
        await first.send(audio[:64_000])
        while (message := json.loads(await first.recv()))["type"] != "emotion.update":
            pass
        first.transport.abort()
        second = await connect(url, compression=None)
        resume = {"token": token, "seq": message["seq"]}
        await second.send(json.dumps({"type": "session.start", "resume": resume}))
        received = json.loads(await second.recv())["received"]
        await second.send(audio[2 * received :])
        await second.send(json.dumps(CLOSE))
        kinds = []
        async for text in second:
            kinds.append(json.loads(text)["type"])
        assert kinds[-1] == "session.end"
        assert "alert" in kinds

    async def telephones(url: str) -> None:
        async with connect(url.replace("stream", "twilio")) as platform:
            for message in twilio({"inbound": sides[0::2], "outbound": sides[1::2]}):
                await platform.send(json.dumps(message))
            async for _ in platform:
                pass
        client = Genesys()
        async with connect(url.replace("stream", "audiohook")) as platform:
            await platform.send(client.open(offer()))
            await platform.send(sides)
            client.position = len(sides) // 2
            await platform.send(client.say("close", {"reason": "end"}))
            while client.hear(await platform.recv())["type"] != "closed":
                pass

    async def look(process: int) -> None:
        while True:
            opened.update(writable(process))
            await asyncio.sleep(0.02)

    async def run(process: int, url: str) -> None:
        watcher = await connect(url.replace("stream", "watch"), compression=None)
        looking = asyncio.create_task(look(process))
        try:
            await asyncio.gather(wire(url), telephones(url))
        finally:
            looking.cancel()
        seen = set()
        while len(seen) < 3:
            message = json.loads(await watcher.recv())
            if message["type"] == "session.end":
                seen.add(message["session"])
        await watcher.close()

    places = [*folders, ROOT / "sedstream"]
    with process("--max-sessions", "8", "--allow-agent", "--alerts", rules, env=env, cwd=Path(work)) as (server, url):
        assert get(url, "/readyz")[:2] == (200, "ready\n")
        before = tree(*places)
        asyncio.run(run(server.pid, url))
        assert tree(*places) == before
        assert opened == set()
        server.send_signal(signal.SIGTERM)
        assert server.wait(timeout=60) == 0
        assert tree(*folders) == {name: state for name, state in before.items() if name.startswith(str(tmp_path))}
    assert not [name for name in tree(*folders) if "runtime" in name], "nor before: what runs here is nobody's business"


# A thread of the process looks at its port from the beginning.
LOOK = """
import gc, json, os, resource, signal, socket, sys, threading, time
from sedstream import capacity
from sedstream.cli import main

port, warm, warmed = int(sys.argv[1]), capacity.warm, []

def warming(model):
    warm(model)
    warmed.append(True)

def look():
    while True:
        with socket.socket() as probe:
            found = list(warmed)
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                break
        time.sleep(0.001)
    print(json.dumps([found, gc.get_freeze_count(), resource.getrlimit(resource.RLIMIT_NOFILE)]), flush=True)
    os.kill(os.getpid(), signal.SIGTERM)

capacity.warm = warming
threading.Thread(target=look, daemon=True).start()
sys.exit(main(["serve", "--port", str(port), "--max-sessions", "4"]))
"""


def test_the_port_opens_when_all_is_ready(tmp_path: Path) -> None:
    """Whoever gets through first finds a model that was warmed up, what was loaded out of the garbage collector's way,
    and as many files allowed as may be."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    few = soft if hard == resource.RLIM_INFINITY else min(soft, 512, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(few, 512), hard))
    try:
        command = [sys.executable, "-c", LOOK, str(free_port())]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert done.returncode == 0, done.stderr
    line = next(line for line in done.stdout.splitlines() if line.startswith("["))
    warmed, frozen, files = json.loads(line)
    assert warmed == [True]
    assert frozen > 100_000, "torch alone is more"
    assert files == [hard, hard]


def test_a_restart_under_clients_that_resume(model: Model, speech: Array, monkeypatch: pytest.MonkeyPatch) -> None:
    """SIGTERM, exit, and a new process on the same port: every final segment reaches its client once, those of before
    and those of after, on one timeline."""
    monkeypatch.setattr(link, "PATIENCE", 300.0)
    heard = [
        pcm.decode(pcm.encode(speech[n * 16_000 : n * 16_000 + 128_000], "s16le"), "s16le")[:, 0] for n in range(3)
    ]
    port = free_port()

    async def call(url: str, samples: Array, half: asyncio.Semaphore, go: asyncio.Event) -> list[dict[str, Any]]:
        messages: list[dict[str, Any]] = []
        async with Client(url, reconnect=True) as client:

            async def send() -> None:
                for first in range(0, len(samples), 1600):
                    await client.send(samples[first : first + 1600])
                    if first == 64_000:
                        half.release()
                        await go.wait()
                await client.close()

            sending = asyncio.create_task(send())
            async for message in client:
                messages.append(message)
            await sending
        return messages

    async def run() -> list[list[dict[str, Any]]]:
        half, go = asyncio.Semaphore(0), asyncio.Event()
        with ExitStack() as first, ExitStack() as second:
            options = ("--max-sessions", "8")
            server, url = await asyncio.to_thread(first.enter_context, process(*options, port=port))
            calls = [asyncio.create_task(call(url, samples, half, go)) for samples in heard]
            for _ in calls:
                await half.acquire()
            server.send_signal(signal.SIGTERM)
            go.set()
            assert await asyncio.to_thread(server.wait, 60) == 0
            await asyncio.to_thread(second.enter_context, process(*options, port=port))
            return await asyncio.wait_for(asyncio.gather(*calls), 300)

    for samples, messages in zip(heard, asyncio.run(run()), strict=True):
        kinds = [m["type"] for m in messages]
        assert (kinds.count("session.ready"), kinds.count("session.end")) == (1, 1), "those of the second session"
        shift = len(samples) - messages[-1]["received"]
        assert 0 < shift < len(samples)
        expected = offline(samples[:shift], model) + offline(samples[shift:], model, shift / 16_000)
        assert finals(messages) == expected


def test_a_log_that_nobody_reads_stops_no_call(speech: Array) -> None:
    """More than a pipe holds; when somebody reads again, what waited is there."""
    with process("--max-sessions", "4", "--log-format", "json") as (server, url):
        for _ in range(600):
            assert get(url, "/nowhere")[0] == 404
        audio = pcm.encode(speech[:32_000], "s16le")
        messages, code = asyncio.run(asyncio.wait_for(talk(url, START, audio, CLOSE), 120))
        assert (messages[-1]["type"], code) == ("session.end", 1000)
        server.terminate()
        told = [json.loads(line)["message"] for line in server.communicate(timeout=60)[1].splitlines()]
        assert sum(line.startswith("refused: expected a path") for line in told) == 600
        assert (told[-4], told[-1]) == ("call began", "drained")


def test_a_log_drops_what_finds_no_room() -> None:
    """A reader that sleeps holds up nobody who logs, and is told what it missed."""
    reading, writing = os.pipe()
    with os.fdopen(reading) as reader, os.fdopen(writing, "w") as out:
        writer = logs.Writer(out)
        log = logging.Logger("test")
        log.addHandler(writer)
        many = logs.QUEUED + 5_000
        for number in range(many):
            log.warning("%s of them %s", number, "x" * 100)
        read: list[str] = []
        while not read or "dropped" not in read[-1]:
            read.append(reader.readline().strip())
        writer.flush()
        assert int(read[-1].split()[0]) == many - len(read) + 1
        numbers = [int(line.split()[0]) for line in read[:-1]]
        assert numbers == sorted(set(numbers))  # in order, and those that found no room are missing between
        assert 5_000 > int(read[-1].split()[0]) > 0
