"""Both sides of a call as the platforms send them, written out by hand from their documentation."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import uuid
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import soundfile
from conftest import DEMO
from numpy.typing import NDArray

Array = NDArray[np.float32]
CHUNK = 160
"""Samples of 20 ms at 8 kHz."""
ORGANIZATION = "d7934305-0972-4844-938e-9060eef73d05"
CONVERSATION = "090eaa2f-72fa-480a-83e0-8667ff89c0ec"


def two_sides(seconds: float = 12.0) -> Array:
    """``[n, 2]`` f32 at 8 kHz: two demonstration clips taking turns, as customer and agent."""
    first, second = (soundfile.read(DEMO / f"austen-{n}.flac", dtype="float32")[0][::2] for n in (1, 2))
    count = round(seconds * 50) * CHUNK
    sides = np.zeros((count, 2), np.float32)
    turn = 2 * 8000
    for start in range(0, count, 2 * turn):
        for side, clip, since, until in ((0, first, 0, turn + 2000), (1, second, turn, 2 * turn)):  # 0.25 s overlap
            span = np.arange(start + since, min(start + until, count))
            sides[span, side] = clip[(start // 2 + span - start - since) % len(clip)]
    return sides


def mulaw(samples: Array) -> bytes:
    """ITU-T G.711 mu-law by the table of the standard: sign, 3 bits of segment, 4 of step, inverted."""
    linear = np.clip(np.rint(samples * 32768), -32635, 32635).astype(np.int32)
    biased = np.abs(linear) + 132
    segment = np.floor(np.log2(biased)).astype(np.int32) - 7
    step = (biased >> (segment + 3)) & 15
    code = (np.where(linear < 0, 0x80, 0) | (segment << 4) | step).astype(np.uint8)
    return (~code).tobytes()


def twilio(
    sides: dict[str, bytes], *, drop: Iterable[tuple[str, int]] = (), stream: str = "MZ1", call: str = "CA1"
) -> list[dict[str, Any]]:
    """A whole stream: ``sides`` of equal length by track; ``drop`` names chunks (from 1) that never come."""
    tracks = list(sides)
    said: list[dict[str, Any]] = [{"event": "connected", "protocol": "Call", "version": "1.0.0"}]
    form = {"encoding": "audio/x-mulaw", "sampleRate": 8000, "channels": 1}
    start = {"streamSid": stream, "accountSid": "AC1", "callSid": call, "tracks": tracks, "mediaFormat": form}
    said.append({"event": "start", "start": start | {"customParameters": {}}})
    missing = set(drop)
    for number in range(len(sides[tracks[0]]) // CHUNK):
        for track in tracks:
            if (track, number + 1) not in missing:
                piece = sides[track][number * CHUNK : (number + 1) * CHUNK]
                media = {"track": track, "chunk": str(number + 1), "timestamp": str(20 * number)}
                said.append({"event": "media", "media": media | {"payload": base64.b64encode(piece).decode()}})
    said.append({"event": "stop", "stop": {"accountSid": "AC1", "callSid": call}})
    for number, message in enumerate(said[1:], 1):
        message |= {"sequenceNumber": str(number), "streamSid": stream}
    return said


class Genesys:
    """The client's half of an AudioHook session."""

    def __init__(self, session: str | None = None) -> None:
        self.id = session or str(uuid.uuid4())
        self.seq = 0
        self.serverseq = 0
        self.position = 0  # samples sent or discarded

    def say(self, kind: str, parameters: dict[str, Any] | None = None, **head: Any) -> str:
        """The text of the next message."""
        self.seq += 1
        message = {"version": "2", "type": kind, "seq": self.seq, "serverseq": self.serverseq, "id": self.id}
        message |= {"position": duration(self.position), "parameters": parameters or {}}
        return json.dumps(message | head)

    def open(self, *media: dict[str, Any], **parameters: Any) -> str:
        """``open`` with these offers."""
        participant = {"id": str(uuid.uuid4()), "ani": "tel:+15550100", "aniName": "A", "dnis": "tel:+15550101"}
        head = {"organizationId": ORGANIZATION, "conversationId": CONVERSATION, "participant": participant}
        return self.say("open", head | {"media": list(media)} | parameters)

    def hear(self, text: str | bytes) -> dict[str, Any]:
        """A message of the server, which must be well formed and in order."""
        message: dict[str, Any] = json.loads(text)
        assert set(message) == {"version", "type", "seq", "clientseq", "id", "parameters"}
        assert message["version"] == "2"
        assert message["id"] == self.id
        assert message["seq"] == self.serverseq + 1
        assert message["clientseq"] <= self.seq
        self.serverseq += 1
        return message


def offer(form: str = "PCMU", *channels: str) -> dict[str, Any]:
    return {"type": "audio", "format": form, "channels": list(channels or ("external", "internal")), "rate": 8000}


def duration(samples: int) -> str:
    return f"PT{samples / 8000:.6f}S"


def signed(
    secret: bytes,
    key: str,
    *,
    target: str,
    authority: str,
    session: str,
    created: int,
    expires: int | None = None,
    leave_out: Sequence[str] = (),
    nonce: str = "VGhpc0lzQVVuaXF1ZU5vbmNl",
) -> dict[str, str]:
    """Headers of a signed AudioHook request."""
    headers = {
        "Audiohook-Organization-Id": ORGANIZATION,
        "Audiohook-Correlation-Id": "e160e428-53e2-487c-977d-96989bf5c99d",
        "Audiohook-Session-Id": session,
        "X-API-KEY": key,
    }
    values = {"@request-target": target, "@authority": authority} | {k.lower(): v for k, v in headers.items()}
    names = ["@request-target", "@authority", "audiohook-organization-id", "audiohook-session-id"]
    names = [name for name in [*names, "audiohook-correlation-id", "x-api-key"] if name not in leave_out]
    listed = " ".join(f'"{name}"' for name in names)
    until = created + 30 if expires is None else expires
    described = f'({listed});keyid="{key}";nonce="{nonce}";alg="hmac-sha256";created={created};expires={until}'
    base = "".join(f'"{name}": {values[name]}\n' for name in names) + f'"@signature-params": {described}'
    mac = base64.b64encode(hmac.new(secret, base.encode(), hashlib.sha256).digest()).decode()
    return headers | {"Signature-Input": f"sig1={described}", "Signature": f"sig1=:{mac}:"}


def packet(kind: int, payload: bytes = b"") -> bytes:
    """An AudioSocket packet."""
    return bytes([kind]) + len(payload).to_bytes(2, "big") + payload
