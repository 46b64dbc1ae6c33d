"""The microphone: devices, and no sample lost without being told, on a real PortAudio device where there is one."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile
from pulse import Room, open_room

from sedstream import diarize
from sedstream.events import segment_fields
from sedstream.grid import RATE, frames_of
from sedstream.zoo import Model

HEAD = """
import json, sys, time
from sedstream.audio.microphone import Microphone
from sedstream.audio.ring import Ring

class Recorded(Ring):
    '''A ring that also keeps on disk what it is given.'''
    def write(self, samples):
        captured.write(samples.tobytes())
        return super().write(samples)

captured = open(sys.argv[1], "wb", buffering=0)

def capture_until(microphone, samples):
    while microphone.captured < samples:
        microphone.check(time.monotonic())
        time.sleep(0.02)
"""

STALLED = """
from sedstream.engine import Engine
from sedstream.events import End, Final, Gap, segment_fields
from sedstream.zoo import load

model = load()
ring = Recorded(16_000)
arrived = []
with Microphone(ring, "pulse") as microphone:
    print("capturing", flush=True)
    capture_until(microphone, 56_000)  # and nobody reads
    with Engine(model, arrived.extend) as engine:
        session = engine.open(microphone.rate, ring=ring)
        capture_until(microphone, 120_000)
        microphone.close()
        session.close()
        while not (arrived and arrived[-1].done):
            time.sleep(0.02)
events = [event for delivery in arrived for _, event in delivery.events]
print(json.dumps({
    "captured": microphone.captured,
    "gaps": [(event.sample, event.samples) for event in events if isinstance(event, Gap)],
    "finals": [segment_fields(event.segment, model.manifest.labels) for event in events if isinstance(event, Final)],
    "end": [(event.frames, event.lost) for event in events if isinstance(event, End)],
}))
"""

SUSPENDED = """
ring = Ring(192_000 * 20)
with Microphone(ring, "pulse", 192_000) as microphone:
    capture_until(microphone, 192_000 * 2)
    before = microphone.captured, time.monotonic()
    print("capturing", flush=True)
    sys.stdin.readline()  # suspended meanwhile
    deadline = time.monotonic() + 3
    while time.monotonic() < deadline:
        time.sleep(0.02)
    after = microphone.captured, time.monotonic()
read = sum(part if isinstance(part, int) else len(part) for part in ring.read())
print(json.dumps({"before": before, "after": after, "lost": microphone.lost, "read": read,
                  "captured": microphone.captured}))
"""


def start(room: Room, script: str, recorded: Path) -> subprocess.Popen[str]:
    """Run a script beside the tests, in the room's environment; it has begun to capture when this returns."""
    process = subprocess.Popen(
        [sys.executable, "-c", HEAD + script, str(recorded)],
        env=room.env,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "capturing\n"
    return process


def test_a_stalled_reader_is_a_gap_and_no_shift(model: Model, clip: Path, tmp_path: Path) -> None:
    """What did not fit into the ring stands as zeros; everything after it keeps its place."""
    recorded = tmp_path / "captured"
    excerpt = tmp_path / "excerpt.wav"
    samples, rate = soundfile.read(clip, frames=7 * RATE)
    soundfile.write(excerpt, samples, rate)
    with open_room() as room:
        process = start(room, STALLED, recorded)
        room.play(excerpt)
        told = json.loads(process.communicate(timeout=120)[0])
    captured = np.fromfile(recorded, np.float32)
    assert len(captured) == told["captured"]
    ((first, lost),) = told["gaps"]
    assert first == 16_000
    assert lost >= 40_000
    assert told["end"] == [[frames_of(len(captured)), lost]]
    captured[first : first + lost] = 0
    expected = diarize(captured, rate=RATE, model=model, plan="live")
    assert told["finals"] == [segment_fields(segment, expected.labels) for segment in expected.segments]


def test_a_suspended_program_keeps_time(tmp_path: Path) -> None:
    """PulseAudio keeps 4 MB for a recorder that does not read, then drops audio and says nothing."""
    with open_room() as room:
        process = start(room, SUSPENDED, tmp_path / "captured")
        process.send_signal(19)
        time.sleep(8)
        process.send_signal(18)
        told = json.loads(process.communicate("\n", timeout=60)[0])
    assert told["lost"] > 192_000  # or this test has tested nothing
    assert told["read"] == told["captured"]
    (samples, begin), (more, end) = told["before"], told["after"]
    assert (more - samples) / 192_000 == pytest.approx(end - begin, abs=0.2)
