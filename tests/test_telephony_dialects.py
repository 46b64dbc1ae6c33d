"""Each telephone dialect without sockets: what the platform sends against the timeline that comes out."""

import base64
import json
import random
from collections.abc import Iterable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from telephone import CONVERSATION, ORGANIZATION, Genesys, duration, mulaw, offer, packet, signed, twilio, two_sides

from sedstream.audio import pcm
from sedstream.errors import BadMessage
from sedstream.serving.telephony.audiohook import AudioHook
from sedstream.serving.telephony.audiosocket import AudioSocket
from sedstream.serving.telephony.call import Audio, Begin, Command, Dialect, Finish, Gap
from sedstream.serving.telephony.signature import MAX_AGE, Nonces, verify
from sedstream.serving.telephony.twilio import MAX_PENDING, Twilio

Array = NDArray[np.float32]


class Line:
    """What a dialect said, as one timeline a channel: samples, and where they only stand for lost ones."""

    def __init__(self, dialect: Dialect) -> None:
        self.dialect = dialect
        self.commands: list[Command] = []

    def send(self, messages: Iterable[str | bytes | dict[str, Any]]) -> "Line":
        for message in messages:
            text = json.dumps(message) if isinstance(message, dict) else message
            for command in self.dialect.receive(text):
                self.commands.append(command)
                if isinstance(command, Begin):
                    self.dialect.begun(0)
        return self

    def code(self, message: str | bytes | dict[str, Any]) -> tuple[str, bool]:
        with pytest.raises(BadMessage, match="^Bad ") as caught:
            self.send([message])
        return caught.value.code, caught.value.fatal

    @property
    def begin(self) -> Begin:
        (begin,) = (command for command in self.commands if isinstance(command, Begin))
        return begin

    def timeline(self, channel: int) -> tuple[Array, NDArray[np.bool_]]:
        parts, lost = [np.empty(0, np.float32)], [np.empty(0, np.bool_)]
        for command in self.commands:
            if isinstance(command, Audio) and command.channel == channel:
                parts.append(command.samples)
                lost.append(np.zeros(len(command.samples), np.bool_))
            elif isinstance(command, Gap) and command.channel == channel:
                parts.append(np.zeros(command.samples, np.float32))
                lost.append(np.ones(command.samples, np.bool_))
        return np.concatenate(parts), np.concatenate(lost)


@pytest.fixture(scope="module")
def sides() -> Array:
    return two_sides(6)


def tracks(sides: Array) -> dict[str, bytes]:
    return {"inbound": mulaw(sides[:, 0]), "outbound": mulaw(sides[:, 1])}


def test_mulaw_of_the_tests_is_that_of_the_package(sides: Array) -> None:
    """The codec of the generated calls is written independently; one level apart at most."""
    ours, theirs = (pcm.decode(data, "mulaw") for data in (pcm.encode(sides, "mulaw"), mulaw(sides)))
    assert np.abs(ours - theirs).max() <= 1024 / 32768
    assert np.mean(ours == theirs) > 0.9


def test_twilio_whole(sides: Array) -> None:
    sent = tracks(sides)
    line = Line(Twilio()).send(twilio(sent))
    assert line.begin == Begin("CA1", "MZ1", 8000, ("customer", "agent"), "mulaw")
    assert line.commands[-1] == Finish()
    for channel, track in enumerate(sent):
        samples, lost = line.timeline(channel)
        assert (samples == pcm.decode(sent[track], "mulaw")[:, 0]).all()
        assert not lost.any()


def test_twilio_missing_and_shuffled_chunks_never_shift_the_timeline(sides: Array) -> None:
    """Chunks lost at the start, in the middle, in a row and at the end; the rest out of order by up to 200 ms."""
    sent = tracks(sides)
    drop = [("inbound", n) for n in (1, 2, 50, 51, 52, 120, 300)] + [("outbound", n) for n in (7, 51, 299, 300)]
    generator = random.Random(1)
    for spread in (0, 5, 20):
        head, *media, stop = twilio(sent, drop=drop)
        start, *media = media
        order = sorted(range(len(media)), key=lambda n: n + generator.uniform(0, spread))
        line = Line(Twilio()).send([head, start, *(media[n] for n in order), stop])
        for channel, track in enumerate(sent):
            samples, lost = line.timeline(channel)
            expected = np.zeros(len(samples), np.bool_)
            for name, number in drop:
                if name == track:
                    expected[(number - 1) * 160 : number * 160] = True
            whole = pcm.decode(sent[track], "mulaw")[:, 0]
            # Nothing is known of chunks at the very end, unless the other track was longer.
            assert len(samples) in (len(whole), len(whole) - 160)
            assert (lost == expected[: len(lost)]).all()
            assert (samples == np.where(expected, 0, whole[: len(samples)])).all()


def test_twilio_chunks_that_come_too_late_are_lost_once(sides: Array) -> None:
    sent = tracks(sides)
    media = twilio(sent)
    late = [message for message in media if message.get("media", {}).get("chunk") in ("40", "41")]
    rest = [message for message in media if message not in late]
    line = Line(Twilio()).send([*rest[:160], *late, *rest[160:]])
    for channel in (0, 1):
        samples, lost = line.timeline(channel)
        assert len(samples) == len(sides)
        assert np.flatnonzero(lost).tolist() == list(range(39 * 160, 41 * 160))


def test_twilio_a_silent_track_is_filled_and_ends_with_the_other(sides: Array) -> None:
    """One that begins 1.5 s later, and one that breaks off: at most a second and a half behind, never longer."""
    sent = tracks(sides)
    messages = [
        message
        for message in twilio(sent)
        if message.get("media", {}).get("track") != "outbound" or 75 < int(message["media"]["chunk"]) <= 200
    ]
    line = Line(Twilio())
    positions = [0, 0]
    for message in messages:
        seen = len(line.commands)
        line.send([message])
        for command in line.commands[seen:]:
            if isinstance(command, Audio | Gap):
                positions[command.channel] += command.samples if isinstance(command, Gap) else len(command.samples)
        assert positions[0] - positions[1] <= 12_160
    samples, lost = line.timeline(1)
    assert len(samples) == len(sides)
    assert (~lost).nonzero()[0].tolist() == list(range(75 * 160, 200 * 160))
    assert (samples[75 * 160 : 200 * 160] == pcm.decode(sent["outbound"], "mulaw")[75 * 160 : 200 * 160, 0]).all()


def test_twilio_jitter_of_timestamps_is_no_loss(sides: Array) -> None:
    """Consecutive chunks are whole audio, whatever their clocks say within 50 ms; a jump in time is a gap."""
    messages = twilio({"inbound": tracks(sides)["inbound"]})
    generator = random.Random(2)
    for message in messages:
        if "media" in message:
            time = int(message["media"]["timestamp"]) + generator.randrange(45)
            message["media"]["timestamp"] = str(time + (5000 if time > 3000 else 0))
    samples, lost = Line(Twilio()).send(messages).timeline(0)
    assert len(samples) == pytest.approx(len(sides) + 5 * 8000, abs=400)
    assert np.flatnonzero(lost).size == pytest.approx(5 * 8000, abs=400)
    assert np.diff(np.flatnonzero(lost)).max() == 1


def test_twilio_roles_and_tracks() -> None:
    messages = twilio({"outbound": bytes(160)})
    messages[1]["start"]["customParameters"] = {"outbound": "customer"}
    assert Line(Twilio()).send(messages).begin.roles == ("customer",)
    messages[1]["start"] |= {"tracks": ["inbound"], "customParameters": {" Inbound": "agent"}}
    assert Line(Twilio()).send(messages[:2]).begin.roles == ("agent",)
    messages[1]["start"] |= {"tracks": ["outbound"]}
    messages[1]["start"]["customParameters"] = {"outbound": "boss"}
    assert Line(Twilio()).code(messages[1]) == ("bad_value", True)
    messages[1]["start"] |= {"customParameters": {}, "callSid": "\ud800"}  # could be told to no follower
    assert Line(Twilio()).code(messages[1]) == ("bad_value", True)


def test_twilio_never_says_what_a_token_is() -> None:
    """What is wrong with a message is logged and told in the close reason; a token copied with its line end, too."""
    messages = twilio({"inbound": bytes(160)})
    messages[1]["start"]["customParameters"] = {"Token": "sed_secret\n"}
    with pytest.raises(BadMessage, match="Bad token") as raised:
        list(Twilio().receive(json.dumps(messages[1])))
    assert "secret" not in str(raised.value)


def _media(**changes: Any) -> dict[str, Any]:
    media = {"track": "inbound", "chunk": "1", "timestamp": "0", "payload": base64.b64encode(bytes(160)).decode()}
    return {"event": "media", "sequenceNumber": "2", "streamSid": "MZ1", "media": media | changes}


TWILIO_BAD = [
    (b"\0\1", "bad_message", True),
    ("{", "bad_json", True),
    ("[1]", "bad_message", True),
    ("9" * 70_000, "too_long", True),
    ("9" * 60_000, "bad_json", True),
    ({"no": "event"}, "bad_value", True),
    ({"event": 7}, "bad_value", True),
    ({"event": "dance"}, "unknown_type", False),
    ({"event": "connected", "protocol": "Fax"}, "bad_value", True),
    ({"event": "start", "sequenceNumber": "1"}, "already_started", True),
    (_media() | {"streamSid": "MZ2"}, "wrong_stream", False),
    (_media() | {"media": 7}, "bad_value", True),
    (_media(track="outbound"), "bad_value", False),
    (_media(track=["inbound"]), "bad_value", False),
    (_media(chunk="one"), "bad_value", False),
    (_media(chunk="-1"), "bad_value", False),
    (_media(chunk=True), "bad_value", False),
    (_media(chunk="²"), "bad_value", False),
    (_media(timestamp=1e300), "bad_value", False),
    (_media(timestamp="9" * 16), "bad_value", False),
    (_media(timestamp="9" * 9), "bad_value", False),
    (_media(payload="?!"), "bad_value", False),
    (_media(payload=None), "bad_value", False),
    (_media(payload="é"), "bad_value", False),
    (_media(payload=""), "bad_value", False),
    (_media(payload=base64.b64encode(bytes(8001)).decode()), "bad_value", False),
]


@pytest.mark.parametrize(("message", "code", "fatal"), TWILIO_BAD, ids=range(len(TWILIO_BAD)))
def test_twilio_bad_messages(message: Any, code: str, fatal: bool) -> None:
    started = Line(Twilio()).send(twilio({"inbound": bytes(160)})[:2])
    assert started.code(message) == (code, fatal)
    if not fatal:  # and it goes on as if it had not come
        assert len(started.send([_media()]).timeline(0)[0]) == 160


def test_twilio_out_of_turn() -> None:
    assert Line(Twilio()).code(_media()) == ("no_session", True)
    messages = twilio({"inbound": bytes(320)})
    assert Line(Twilio()).send(messages).code(_media()) == ("closed", True)
    dtmf = {
        "event": "dtmf",
        "streamSid": "MZ1",
        "sequenceNumber": "5",
        "dtmf": {"track": "inbound_track", "digit": "1"},
    }
    mark = {"event": "mark", "streamSid": "MZ1", "sequenceNumber": "4", "mark": {"name": "x"}}
    assert len(Line(Twilio()).send([*messages[:3], dtmf, mark]).commands) == 2


def test_audiohook_whole(sides: Array) -> None:
    """Open, ping, audio of two channels, discarded, paused and resumed, update, close: answers and timeline."""
    client = Genesys()
    hook = AudioHook(client.id, ORGANIZATION, allow_agent=True)
    line = Line(hook)

    def heard() -> list[dict[str, Any]]:
        return [client.hear(text) for text in hook.take()]

    line.send([client.open(offer(), offer("L16"), supportedLanguages=True)])
    (opened,) = heard()
    assert opened["type"] == "opened"
    assert opened["parameters"] == {"media": [offer()], "startPaused": False, "supportedLanguages": []}
    assert line.begin == Begin(CONVERSATION, client.id, 8000, ("customer", "agent"), "mulaw")
    line.send([client.say("ping", {"rtt": "PT0.05S"})])
    (pong,) = heard()
    assert (pong["type"], pong["clientseq"]) == ("pong", client.seq)
    data = mulaw(sides)

    def audio(first: int, last: int) -> bytes:
        client.position = last
        return data[2 * first : 2 * last]

    line.send([audio(0, 8000), audio(8000, 9000)])
    client.position = 12_000
    line.send([client.say("discarded", {"start": duration(9000), "discarded": duration(3000)}), audio(12_000, 20_000)])
    line.send([client.say("paused")])
    assert line.code(audio(20_000, 20_160)) == ("bad_state", True)
    client.position = 30_000
    line.send([client.say("resumed", {"start": duration(20_000), "discarded": duration(10_000)})])
    line.send([client.say("update", {"language": "en-US"}), client.say("error", {"code": 429, "message": "slow"})])
    line.send([audio(30_000, 40_000)])
    final = {"type": "emotion.final", "seg": 0, "emotion": "happy"}
    for message in ({"type": "emotion.update"}, final, {"type": "arousal"}):
        hook.tell(message)
    updated, event = heard()
    assert updated["type"] == "updated"
    assert event["parameters"] == {"entities": [{"type": "sedstream.emotion.final", "data": final}]}
    line.send([client.say("close", {"reason": "end"})])
    assert line.commands[-1] == Finish()
    hook.tell(final)
    hook.finished()
    assert [message["type"] for message in heard()] == ["event", "closed"]
    whole = pcm.decode(data, "mulaw", 2)[:40_000]
    lost = np.zeros(40_000, np.bool_)
    lost[9000:12_000] = lost[20_000:30_000] = True
    for channel in (0, 1):
        assert (line.timeline(channel)[1] == lost).all()
        assert (line.timeline(channel)[0] == np.where(lost, 0, whole[:, channel])).all()


@pytest.mark.parametrize(
    ("allow_agent", "offers", "chosen"),
    [
        (False, [offer()], offer()),
        (False, [offer(), offer("PCMU", "internal"), offer("L16", "external")], offer("L16", "external")),
        (True, [offer("PCMU", "external"), offer("L16")], offer("L16")),
        (True, [offer("PCMU", "internal")], offer("PCMU", "internal")),
        (False, [offer("PCMU", "internal")], None),
        (True, [offer("OPUS"), offer() | {"rate": 16_000}, offer("L16", "external")], offer("L16", "external")),
        (True, [], None),
    ],
)
def test_audiohook_chooses_media(allow_agent: bool, offers: list[Any], chosen: Any) -> None:
    client = Genesys()
    hook = AudioHook(allow_agent=allow_agent)
    line = Line(hook).send([client.open(*offers)])
    assert client.hear(hook.take()[0])["parameters"]["media"] == ([chosen] if chosen else [])
    assert bool(line.commands) == bool(chosen)
    if chosen:
        assert line.begin.roles == tuple({"external": "customer", "internal": "agent"}[c] for c in chosen["channels"])


def test_audiohook_l16_is_little_endian() -> None:
    client = Genesys()
    samples = np.array([1, -2, 300, -30_000], "<i2")
    line = Line(AudioHook()).send([client.open(offer("L16", "external")), samples.tobytes()])
    assert (line.timeline(0)[0] == samples / np.float32(32768)).all()


def test_audiohook_probe_begins_no_call() -> None:
    nobody = "00000000-0000-0000-0000-000000000000"
    client = Genesys()
    hook = AudioHook()
    line = Line(hook).send([client.open(offer(), conversationId=nobody)])
    assert client.hear(hook.take()[0])["parameters"]["media"] == [offer()]
    line.send([client.say("close", {"reason": "end"})])
    assert client.hear(hook.take()[0])["type"] == "closed"
    assert not line.commands


def test_audiohook_continues_a_session() -> None:
    """The server has 2.5 s; the client still has them from 2 s on and is told what it may discard."""
    earlier, client = Genesys(), Genesys()
    client.position = 16_000
    hook = AudioHook()
    continued = {"id": earlier.id, "serverseq": 3, "clientseq": 9}
    for command in hook.receive(client.open(offer(), continuedSessions=[continued])):
        assert command == Begin(CONVERSATION, client.id, 8000, ("customer", "agent"), "mulaw", (earlier.id,))
        hook.begun(20_000)
    assert client.hear(hook.take()[0])["parameters"]["discardTo"] == "PT2.500000S"
    client.position = 24_000
    told = client.say("discarded", {"start": "PT2.5S", "discarded": "PT0.5S"})
    assert list(hook.receive(told)) == [Gap(0, 4000), Gap(1, 4000)]


def _hook(**head: Any) -> tuple[str, ...]:
    client = Genesys("30b0e395-84d3-4570-ac13-9a62d8f514c0")
    return client.open(offer()), client.say("ping", **head)


HOOK_BAD = [
    ("{", "bad_json"),
    ("7", "bad_message"),
    (_hook(version="1")[1], "bad_value"),
    (_hook(seq=7)[1], "bad_seq"),
    (_hook(seq="2")[1], "bad_value"),
    (_hook(seq=-1)[1], "bad_value"),
    (_hook(serverseq=9)[1], "bad_seq"),
    (_hook(id="e160e428-53e2-487c-977d-96989bf5c99d")[1], "wrong_session"),
    (_hook(id="me")[1], "bad_value"),
    (_hook(position="5.2")[1], "bad_value"),
    (_hook(position="PT99999999S")[1], "bad_value"),
    (_hook(parameters=7)[1], "bad_value"),
    (_hook(type="open")[1], "already_started"),
    (_hook(type=None)[1], "bad_value"),
    (_hook(type="close")[1], "bad_value"),
    (_hook(type="discarded")[1], "bad_value"),
    (_hook(type="resumed", parameters={"start": "PT0S", "discarded": "PT99999S"})[1], "bad_value"),
    (b"\0", "bad_audio"),
]


@pytest.mark.parametrize(("message", "code"), HOOK_BAD, ids=range(len(HOOK_BAD)))
def test_audiohook_bad_messages(message: str | bytes, code: str) -> None:
    """Each ends the session with ``disconnect``, and ``close`` is still answered."""
    hook = AudioHook()
    line = Line(hook).send([_hook()[0]])
    hook.take()
    with pytest.raises(BadMessage, match="^Bad ") as caught:
        line.send([message])
    assert (caught.value.code, caught.value.fatal) == (code, True)
    hook.fail(caught.value)
    (text,) = hook.take()
    disconnect = json.loads(text)
    assert disconnect["type"] == "disconnect"
    assert disconnect["parameters"]["reason"] == "error"
    assert disconnect["parameters"]["info"].startswith(f"{code}: Bad ")
    line.send([_hook(type="close", parameters={"reason": "disconnect"}, seq=3)[1]])
    (closed,) = map(json.loads, hook.take())
    assert (closed["type"], closed["clientseq"]) == ("closed", 3)


def test_audiohook_out_of_turn() -> None:
    client = Genesys()
    assert Line(AudioHook()).code(client.say("ping")) == ("no_session", True)
    assert Line(AudioHook()).code(b"\0\0") == ("bad_state", True)
    client = Genesys()
    wrong = AudioHook(client.id, "00000000-0972-4844-938e-9060eef73d05")
    assert Line(wrong).code(client.open(offer())) == ("unauthorized", True)
    client = Genesys()
    line = Line(AudioHook()).send([client.open(offer())])
    assert line.code(client.say("playback")) == ("unknown_type", False)
    line.send([client.say("close", {"reason": "end"}), b"\0\0"])
    line.dialect.finished()
    assert line.code(client.say("close", {"reason": "end"})) == ("closed", True)


def test_audiosocket_whole(sides: Array) -> None:
    """Any cut of the bytes, at every rate of the protocol."""
    data = pcm.encode(sides[:, 0], "s16le")
    name = bytes(range(16))
    expected = pcm.decode(data, "s16le")[:, 0]
    rates = [8000, 12_000, 16_000, 24_000, 32_000, 44_100, 48_000, 96_000, 192_000]
    for kind, rate in enumerate(rates, 0x10):
        pieces = [packet(kind, data[n : n + 320]) for n in range(0, len(data), 320)]
        stream = packet(0x01, name) + packet(0x03, b"5") + b"".join(pieces) + packet(0x00)
        size = 1 + 97 * kind % 1000
        line = Line(AudioSocket()).send(stream[n : n + size] for n in range(0, len(stream), size))
        named = "00010203-0405-0607-0809-0a0b0c0d0e0f"
        assert line.begin == Begin(named, named, rate, ("customer",), "s16le")
        assert line.commands[-1] == Finish()
        assert (line.timeline(0)[0] == expected).all()


SOCKET_BAD = [
    (packet(0x10, b"\0\0"), "no_session", True),
    (packet(0x01, b"abc"), "bad_value", True),
    (packet(0x01, bytes(16)) * 2, "already_started", True),
    (packet(0x01, bytes(16)) + packet(0x10, b"\0"), "bad_audio", True),
    (packet(0x01, bytes(16)) + packet(0x10, b"\0\0") + packet(0x12, b"\0\0"), "bad_value", True),
    (packet(0x02, b"?"), "unknown_type", False),
    (packet(0x03, b"12"), "bad_value", False),
]


@pytest.mark.parametrize(("data", "code", "fatal"), SOCKET_BAD, ids=range(len(SOCKET_BAD)))
def test_audiosocket_bad_packets(data: bytes, code: str, fatal: bool) -> None:
    line = Line(AudioSocket())
    assert line.code(data) == (code, fatal)
    if fatal:
        assert line.code(packet(0x10, b"\0\0")) == ("closed", True)
    else:
        line.send([packet(0x01, bytes(16)) + packet(0x10, b"\0\0")])
        assert len(line.timeline(0)[0]) == 1


def test_audiosocket_what_follows_a_forgiven_packet_is_not_lost() -> None:
    line = Line(AudioSocket())
    assert line.code(packet(0x7F) + packet(0x01, bytes(16)) + packet(0x10, bytes(320))) == ("unknown_type", False)
    assert len(line.timeline(0)[0]) == 160


KEY = "SGVsbG8sIEkgYW0gdGhlIEFQSSBrZXkh"
SECRET = base64.b64decode("TXlTdXBlclNlY3JldEtleVRlbGxOby0xITJAMyM0JDU=")
SESSION = "30b0e395-84d3-4570-ac13-9a62d8f514c0"
PATH = "/api/v1/voicebiometrics/ws"


def request(**changes: Any) -> dict[str, str]:
    options = {"target": PATH, "authority": "audiohook.example.com", "session": SESSION, "created": 1641013200}
    headers = signed(SECRET, KEY, **(options | {"expires": 3282026430} | changes))
    return {"host": "audiohook.example.com"} | {name.lower(): value for name, value in headers.items()}


def test_the_signature_of_genesys_documentation() -> None:
    """The example of the AudioHook documentation, whose signature was computed there."""
    headers = request()
    assert headers["signature"] == "sig1=:NZBwyBHRRyRoeLqy1IzOa9VYBuI8TgMFt2GRDkDuJh4=:"
    assert verify(PATH, headers, {"another": b"secret", KEY: SECRET}, 1641013201) == KEY


def test_signatures_that_do_not_hold() -> None:
    good, now = request(), 1641013201.0
    changed = [{name: value.replace("3", "4", 1)} for name, value in good.items() if "-id" in name]
    for change in [*changed, {"host": "elsewhere.example.com"}, {"signature": good["signature"].replace("NZ", "NY")}]:
        assert change != {name: good[name] for name in change}
        with pytest.raises(BadMessage, match="Bad signature"):
            verify(PATH, good | change, {KEY: SECRET}, now)
    with pytest.raises(BadMessage, match="Bad signature"):
        verify(PATH + "?x=1", good, {KEY: SECRET}, now)
    for secrets in ({KEY: b"another"}, {"another": SECRET}, {}):
        with pytest.raises(BadMessage, match="a known API key and its client secret"):
            verify(PATH, good, secrets, now)
    for other in (now - 10, now + 20):
        with pytest.raises(BadMessage, match="made just now"):
            verify(PATH, good, {KEY: SECRET}, other)
    with pytest.raises(BadMessage, match="made just now"):
        verify(PATH, request(expires=1641013190), {KEY: SECRET}, now)
    for part in ("@request-target", "@authority", "audiohook-session-id", "x-api-key"):
        with pytest.raises(BadMessage, match="each of @request-target"):
            verify(PATH, request(leave_out=[part]), {KEY: SECRET}, now)
    with pytest.raises(BadMessage, match="a nonce"):
        verify(PATH, request(nonce="short"), {KEY: SECRET}, now)
    for name in ("signature", "signature-input", "x-api-key", "host"):
        with pytest.raises(BadMessage, match="^Bad "):
            verify(PATH, {key: value for key, value in good.items() if key != name}, {KEY: SECRET}, now)


def test_a_nonce_is_good_for_one_request() -> None:
    """It is kept for as long as its signature holds, and no longer; a signature that does not hold uses up none."""
    nonces, now = Nonces(), 1641013201.0
    for change in ({"signature": request()["signature"].replace("NZ", "NY")}, {"host": "elsewhere.example.com"}):
        with pytest.raises(BadMessage, match="Bad signature"):
            verify(PATH, request() | change, {KEY: SECRET}, now, nonces)
    assert len(nonces) == 0
    assert verify(PATH, request(), {KEY: SECRET}, now, nonces) == KEY
    for later in (now, now + 5, now + MAX_AGE):
        with pytest.raises(BadMessage, match="Bad nonce, expected one that was never used"):
            verify(PATH, request(), {KEY: SECRET}, later, nonces)
    for number in range(1000):
        fresh = request(created=1641013200 + number, nonce=f"one-of-128-bits-or-more-{number}")
        assert verify(PATH, fresh, {KEY: SECRET}, now + number, nonces) == KEY
    assert len(nonces) < 20


def test_a_key_without_a_secret_needs_no_signature_and_no_other_key_does_without() -> None:
    unsigned = {"x-api-key": KEY}
    assert verify(PATH, unsigned, {KEY: b""}, 0) == KEY
    for secrets in ({KEY: SECRET}, {"another": b""}):
        with pytest.raises(BadMessage):
            verify(PATH, unsigned, secrets, 0)
    with pytest.raises(BadMessage):
        verify(PATH, request(), {KEY: b""}, 1641013201)


def test_twilio_chunks_behind_what_stands_in_for_them_move_nothing(sides: Array) -> None:
    """One track is held up for two seconds: zeros stand in, and what comes then is heard from there on only."""
    sent = tracks(sides)
    first, start, *media, stop = twilio(sent)
    held = [m for m in media if m["media"]["track"] == "outbound" and int(m["media"]["chunk"]) <= 100]
    early = [m for m in media if m["media"]["track"] == "inbound" and int(m["media"]["chunk"]) <= 100]
    rest = [m for m in media if int(m["media"]["chunk"]) > 100]
    line = Line(Twilio()).send([first, start, *early, *held, *rest, stop])
    samples, lost = line.timeline(1)
    assert len(sides) <= len(samples) <= len(sides) + 400  # 50 ms
    assert lost[:8000].all()
    whole = pcm.decode(sent["outbound"], "mulaw")[:, 0]
    assert (samples[-16_000:] == whole[-16_000:]).all()


def test_twilio_holds_no_more_chunks_than_a_track_may_have_waiting() -> None:
    """Whatever their clocks say: the first never comes, and all the others are of the same moment."""
    dialect = Twilio()
    line = Line(dialect).send(twilio({"inbound": bytes(160)})[:2])
    line.send([_media(chunk=str(number)) for number in range(2, 402)])
    assert len(dialect._tracks["inbound"].pending) <= MAX_PENDING


def test_audiohook_begins_later_than_the_server(sides: Array) -> None:
    """A server that was started anew has nothing of what the client has sent before: that is lost, and told."""
    client = Genesys()
    client.position = 16_000
    line = Line(AudioHook(allow_agent=True)).send([client.open(offer()), mulaw(sides)[:320]])
    for channel in (0, 1):
        samples, lost = line.timeline(channel)
        assert (len(samples), lost.sum()) == (16_160, 16_000)


def test_audiohook_says_why_and_how_it_ends(sides: Array) -> None:
    """A wrong organization is ``unauthorized``; a call that ends here is ``completed``; behind either comes nothing."""
    final = {"type": "emotion.final", "seg": 0, "emotion": "happy"}
    client = Genesys()
    hook = AudioHook(client.id, "00000000-0972-4844-938e-9060eef73d05")
    with pytest.raises(BadMessage) as caught:
        Line(hook).send([client.open(offer())])
    hook.fail(caught.value)
    hook.tell(final)
    (told,) = [client.hear(text) for text in hook.take()]
    assert (told["type"], told["parameters"]["reason"]) == ("disconnect", "unauthorized")
    client = Genesys()
    hook = AudioHook(client.id.upper(), ORGANIZATION.upper())  # whatever the case
    Line(hook).send([client.open(offer())])
    hook.finished()
    hook.tell(final)
    opened, told = [json.loads(text) for text in hook.take()]
    assert opened["type"] == "opened"
    assert (told["type"], told["parameters"]) == ("disconnect", {"reason": "completed"})


def test_audiohook_time_does_not_go_back() -> None:
    client = Genesys()
    line = Line(AudioHook()).send([client.open(offer())])
    client.position = 8000
    line.send([client.say("ping")])
    client.position = 7999
    assert line.code(client.say("ping")) == ("bad_value", True)


def test_audiosocket_an_error_of_asterisk_ends_the_call() -> None:
    line = Line(AudioSocket()).send([packet(0x01, bytes(16)) + packet(0x10, bytes(320)) + packet(0xFF, b"\1")])
    assert line.commands[-1] == Finish()
