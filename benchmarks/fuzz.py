"""A million bad messages: ``python -m benchmarks fuzz [--messages 1000000] [--seed 0]``.

Dialogues of every dialect (our own wire, Twilio, AudioHook, AudioSocket), each with messages that are dropped,
repeated, cut, and changed field by field or byte by byte, and with ones that were never any dialect's. Whatever comes,
a protocol object may answer with commands or with ``BadMessage`` and a code, and what it wants to send must be
sendable; anything else is a crash. Mutations are drawn from a seed, not by hypothesis, which would need days for a
million; ``tests/test_fuzz.py`` has hypothesis choose the seeds and shrink what it finds.
"""

from __future__ import annotations

import argparse
import base64
import json
import resource
import time
from collections import Counter
from collections.abc import Callable, Iterator
from random import Random
from typing import Any, TypeAlias

from sedstream.errors import BadMessage
from sedstream.serving.protocol import MAX_BINARY, ServerProtocol, body, numbered
from sedstream.serving.requests import Request, Start, Update
from sedstream.serving.telephony.audiohook import AudioHook
from sedstream.serving.telephony.audiosocket import AudioSocket
from sedstream.serving.telephony.call import MAX_GAP, Audio, Begin, Dialect, Finish, Gap
from sedstream.serving.telephony.twilio import Twilio

from .report import write

Message: TypeAlias = str | bytes
LENGTH = 24
"""Messages of one dialogue."""
NAMES = ("wire", "twilio", "audiohook", "audiosocket")
SLOW = 0.5
"""Seconds of processor time after which one message counts as a hang."""
ODD: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 2, 8000, 16_000, 1 << 31, 1 << 63, 10**400, 0.5, -0.0, 1e308, -1e308),
    *(float("nan"), float("inf"), "", " ", "0", "-1", "1", "²", "é", "\x00", "\ud800", "\U0001f4a9", "9" * 30),
    *(
        "30b0e395-84d3-4570-ac13-9a62d8f514c1",
        "x" * 300,
        "PT1S",
        "PT-1S",
        "PT1e9S",
        "PT9999999999S",
        "inbound",
        "external",
        "close",
        "open",
        "media",
        "Call",
    ),
    *([], {}, [[]], [None], [1], ["external"], ["inbound", "inbound"], {"type": "audio"}, {"": {}}, [{}] * 50),
)
"""Values that some program somewhere once sent in place of a good one."""


class Crash(Exception):
    """Something other than commands or ``BadMessage`` came of a message."""


def dialogue(name: str, random: Random) -> list[Any]:
    """The good messages of one session: JSON objects, or bytes."""
    audio = random.randbytes(160 * random.choice((1, 1, 1, 5)))
    match name:
        case "wire":
            form = {
                "encoding": random.choice(("s16le", "f32le", "mulaw", "alaw")),
                "rate": random.choice((8000, 48_000)),
            }
            form |= {"channels": random.choice((1, 2)), "mix": random.random() < 0.3}
            audio = bytes(len(audio)) if form["encoding"] == "f32le" else audio  # random floats may be NaN
            start = {"type": "session.start", "v": 1, "audio": form, "events": ["emotion.final"], "labels": ["angry"]}
            rule = {"name": "a", "label": "angry", "threshold": 0.5, "release": 0.4, "min_duration": 1.0, "on": "final"}
            start |= {"latency": 1.0, "model": None, "alerts": [rule]}
            resumed = {"type": "session.start", "resume": {"token": "t", "seq": 3}}
            others = [{"type": "finalize"}, {"type": "analysis.pause"}, {"type": "analysis.resume"}]
            others += [{"type": "discarded", "samples": 160}, {"type": "session.update", "alerts": [rule]}]
            middle = [random.choice((audio, audio, audio, *others)) for _ in range(LENGTH)]
            return [random.choice((start, start, start, resumed)), *middle, {"type": "close"}]
        case "twilio":
            tracks = random.choice((["inbound"], ["outbound"], ["inbound", "outbound"]))
            form = {"encoding": "audio/x-mulaw", "sampleRate": 8000, "channels": 1}
            start = {"callSid": "CA1", "tracks": tracks, "mediaFormat": form, "customParameters": {"inbound": "agent"}}
            said: list[Any] = [{"event": "connected", "protocol": "Call", "version": "1.0.0"}]
            said.append({"event": "start", "start": start})
            for number in range(LENGTH):
                media = {"track": random.choice(tracks), "chunk": str(number + 1), "timestamp": str(20 * number)}
                said.append({"event": "media", "media": media | {"payload": base64.b64encode(audio).decode()}})
            said.append({"event": "dtmf", "dtmf": {"track": "inbound_track", "digit": "1"}})
            said += [{"event": "mark", "mark": {"name": "m"}}, {"event": "stop", "stop": {"callSid": "CA1"}}]
            return [m | {"sequenceNumber": str(n), "streamSid": "MZ1"} for n, m in enumerate(said)]
        case "audiohook":
            return _audiohook(random, audio)
    kind = random.randrange(0x10, 0x19)
    packets = [_packet(0x01, random.randbytes(16))] + [_packet(kind, audio) for _ in range(LENGTH)]
    return [*packets, _packet(0x03, b"5"), _packet(random.choice((0x00, 0xFF)), b"")]


def _audiohook(random: Random, audio: bytes) -> list[Any]:
    known = "30b0e395-84d3-4570-ac13-9a62d8f514c0"
    media = [
        {"type": "audio", "format": form, "channels": channels, "rate": 8000}
        for form in ("PCMU", "L16")
        for channels in (["external", "internal"], ["external"])
    ]
    random.shuffle(media)
    participant = {"id": known, "ani": "1", "aniName": "2", "dnis": "3"}
    opened = {"organizationId": known, "conversationId": known, "participant": participant, "media": media}
    opened |= {"continuedSessions": [{"id": known, "serverseq": 1, "clientseq": 2}], "supportedLanguages": True}
    said: list[Any] = [("open", opened)]
    others = [("ping", {"rtt": "PT0.05S"}), ("discarded", {"start": "PT1S", "discarded": "PT1S"}), ("paused", {})]
    others += [("resumed", {"start": "PT2S", "discarded": "PT3.5S"}), ("update", {"language": "en-US"})]
    others += [("error", {"code": 429, "message": "slow"})]
    said += [random.choice((audio, audio, *others)) for _ in range(LENGTH)]
    said.append(("close", {"reason": "end"}))
    messages: list[Any] = []
    seq = 0
    for one in said:
        if isinstance(one, bytes):
            messages.append(one)
            continue
        seq += 1
        head = {"version": "2", "type": one[0], "seq": seq, "serverseq": 0, "id": known, "position": "PT0S"}
        messages.append(head | {"parameters": one[1]})
    return messages


def _packet(kind: int, payload: bytes) -> bytes:
    return bytes([kind]) + len(payload).to_bytes(2, "big") + payload


def mutate(messages: list[Any], random: Random) -> Iterator[Message]:
    """The dialogue as it arrives after something went wrong with it."""
    often = random.choice((0.05, 0.2, 0.5, 1.0))
    for message in messages:
        if random.random() >= often:
            yield message if isinstance(message, bytes) else json.dumps(message)
            continue
        match random.randrange(8):
            case 0:
                continue
            case 1:
                yield from [message if isinstance(message, bytes) else json.dumps(message)] * 2
            case 2:
                yield random.randbytes(random.choice((0, 1, 3, 100, 5000)))
            case 3:
                yield random.choice(("", "{", "null", "[" * 3000, '{"a":' * 3000, "9" * 5000, '"\\ud800"', "\ufeff{}"))
            case 4:
                other = random.choice(dialogue(random.choice(NAMES), random))
                yield other if isinstance(other, bytes) else json.dumps(other)
            case _ if isinstance(message, bytes):
                yield _scratch(message, random)
            case 5:
                text = json.dumps(message)
                at = random.randrange(len(text))
                yield (
                    text[:at]
                    + random.choice(("", "\x00", '"', "}", text[at:] + text))
                    + text[at + random.randrange(9) :]
                )
            case _:
                yield json.dumps(_change(message, random))


def _scratch(data: bytes, random: Random) -> bytes:
    """A few bytes other than they were, some missing, some too many."""
    if len(data) > 4 and random.random() < 0.2:
        return _packet(data[0], data[4:])
    scratched = bytearray(data)
    for _ in range(random.randrange(4)):
        at = random.randrange(len(scratched) + 1)
        scratched[at : at + random.randrange(3)] = random.randbytes(random.randrange(4))
    return bytes(scratched)


def _change(value: Any, random: Random) -> Any:
    """One thing inside a JSON value other than it was."""
    if isinstance(value, dict) and value and random.random() < 0.9:
        key = random.choice(list(value))
        changed = dict(value)
        if random.random() < 0.15:
            del changed[key]
        elif random.random() < 0.1:
            changed[str(random.choice(ODD)) if random.random() < 0.5 else key + "2"] = value[key]
        else:
            changed[key] = _change(value[key], random)
        return changed
    if isinstance(value, list) and value and random.random() < 0.7:
        at = random.randrange(len(value))
        return [*value[:at], _change(value[at], random), *value[at + random.randrange(2) :]]
    return random.choice(ODD)


class Peer:
    """A protocol object and what may come of it."""

    def __init__(self, name: str, random: Random) -> None:
        self.codes: Counter[str] = Counter()
        self._over = False
        self._wire = ServerProtocol() if name == "wire" else None
        agent = random.random() < 0.5
        makers: dict[str, Callable[[], Dialect]] = {
            "twilio": Twilio,
            "audiohook": lambda: AudioHook(allow_agent=agent),
            "audiosocket": AudioSocket,
        }
        self._dialect = None if name == "wire" else makers[name]()
        self._channels = 0
        self._rate = 0

    def receive(self, message: Message) -> bool:
        """Give it a message; False: the connection would be closed now. Raises ``Crash``."""
        began = time.process_time()
        try:
            if self._wire is not None:
                self._read(self._wire.receive(message))
            else:
                self._talk(message)
            self.codes["taken"] += 1
        except BadMessage as error:
            self.codes[error.code] += 1
            if not error.code.isidentifier() or not str(error).startswith("Bad ") or len(str(error)) > 2000:
                raise Crash(f"{error.code}: {str(error)[:200]}") from error
            if error.fatal and self._dialect is not None:
                self._dialect.fail(error)
                self._send()
            return not error.fatal
        except Exception as error:
            raise Crash(repr(error)) from error
        finally:
            if time.process_time() - began > SLOW:
                raise Crash(f"took {time.process_time() - began:.1f} s")
        return True

    def _read(self, request: Request) -> None:
        if isinstance(request, Start | Update):  # what is said back to the client and to every follower
            said = {"roles": getattr(request, "roles", ()), "alerts": [rule.name for rule in request.alerts or ()]}
            numbered(body(said), 0).encode()

    def _talk(self, message: Message) -> None:
        assert self._dialect is not None
        for command in self._dialect.receive(message):
            if self._over:
                raise Crash("a command after the end")
            match command:
                case Begin(rate=rate, roles=roles):
                    if self._channels:
                        raise Crash("two calls on a connection")
                    self._channels, self._rate = len(roles), rate
                    json.dumps([command.call, command.stream]).encode()
                    command.call.encode()  # followers get it as it is
                    self._dialect.begun(0)
                case Audio(channel, samples):
                    if not 0 <= channel < self._channels or samples.ndim != 1 or not 0 < len(samples) <= MAX_BINARY:
                        raise Crash(f"audio of channel {channel} of shape {samples.shape}")
                case Gap(channel, samples):
                    if not 0 <= channel < self._channels or not 0 < samples <= 2 * MAX_GAP * self._rate:
                        raise Crash(f"a gap of {samples} samples in channel {channel}")
                case Finish():
                    self._over = True
                    self._dialect.tell({"type": "emotion.final", "seg": 0})
                    self._dialect.finished()
        self._send()

    def _send(self) -> None:
        assert self._dialect is not None
        for text in self._dialect.take():
            if isinstance(text, str):
                text.encode()
                json.loads(text)


def run(seed: int) -> tuple[int, Counter[str]]:
    """One dialogue: how many messages it had, and what became of them by dialect and code. Raises ``Crash``."""
    random = Random(seed)
    name = NAMES[seed % len(NAMES)]
    peer = Peer(name, random)
    count = 0
    for message in mutate(dialogue(name, random), random):
        count += 1
        if not peer.receive(message):
            break
    return count, Counter({f"{name} {code}": times for code, times in peer.codes.items()})


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks fuzz", description=__doc__)
    parser.add_argument("--messages", type=int, default=1_000_000, help="how many (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the first dialogue (%(default)s)")
    options = parser.parse_args()
    codes: Counter[str] = Counter()
    crashes: list[str] = []
    sent, seed = 0, options.seed
    began = time.perf_counter()
    tenth = 0
    while sent < options.messages:
        try:
            count, found = run(seed)
            sent += count
            codes += found
        except Crash as crash:
            crashes.append(f"seed {seed}: {crash}")
            sent += 1
        seed += 1
        if not tenth and sent >= options.messages // 10:
            tenth = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    wall = time.perf_counter() - began
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - tenth
    for crash in crashes[:20]:
        print(crash)
    rejected = sum(times for code, times in codes.items() if not code.endswith(" taken"))
    rows = []
    for name in NAMES:
        own = {code.split(" ", 1)[1]: times for code, times in codes.items() if code.startswith(f"{name} ")}
        refused = ", ".join(f"{code} {times:,}" for code, times in sorted(own.items()) if code != "taken")
        rows.append(f"| {name} | {own.get('taken', 0):,} | {refused} |")
    text = f"""
{sent:,} messages of {seed - options.seed:,} dialogues: {len(crashes)} crashes, {rejected:,} rejected with a code,
{wall:.0f} s, {sent / wall:,.0f} a second. Peak memory grew by {grown / 1024:.1f} MiB after the first tenth.

| dialect | taken | rejected |
|---|---|---|
"""
    write("Fuzz", text + "\n".join(rows))
    if crashes:
        raise SystemExit(1)
