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
from twins import each_ring

from sedstream import diarize
from sedstream.audio.ring import Ring
from sedstream.events import segment_fields
from sedstream.grid import RATE, frames_of
from sedstream.zoo import Model

HEAD = """
import json, sys, time
import numpy as np
from twins import RINGS
from sedstream.audio.microphone import Microphone

Ring = {kind.__name__: kind for kind in RINGS}[sys.argv[2]]

class Recorded(Ring):
    '''A ring that also keeps on disk what is read from it, zeros for what was lost.'''
    def read(self):
        parts = super().read()
        for part in parts:
            captured.write(np.zeros(part, np.float32) if isinstance(part, int) else part)
        return parts

captured = open(sys.argv[1], "wb", buffering=0)

def capture_until(microphone, samples):
    while microphone.captured < samples:
        microphone.check(time.monotonic())
        time.sleep(0.02)
"""

STALLED = """
from sedstream.engine import Engine
from sedstream.events import End, Final, Gap, segment_fields
from sedstream.offline import diarize
from sedstream.zoo import load

model = load()
diarize(np.zeros(16_000, np.float32), rate=16_000, model=model, plan="live")  # compiled now, not while capturing
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

HELD = """
import ctypes, select, threading

ring = Recorded(192_000 * 60)

def hold():
    usleep = ctypes.PyDLL(None).usleep  # keeps the GIL
    for _ in range(int(sys.argv[4])):
        usleep(int(sys.argv[3]))

with Microphone(ring, "pulse", 192_000) as microphone:
    capture_until(microphone, 192_000)
    print("capturing", flush=True)
    threading.Thread(target=hold).start()
    while not select.select([sys.stdin], [], [], 0.02)[0]:  # as `listen` looks after the microphone
        pass
    time.sleep(3)  # what was late arrives, what was lost shows
ring.read()
print(json.dumps({"captured": microphone.captured, "lost": microphone.lost}))
"""


def start(room: Room, script: str, recorded: Path, kind: type[Ring], *arguments: str) -> subprocess.Popen[str]:
    """Run a script beside the tests, in the room's environment; it has begun to capture when this returns."""
    process = subprocess.Popen(
        [sys.executable, "-c", HEAD + script, str(recorded), kind.__name__, *arguments],
        env=room.env | {"PYTHONPATH": str(Path(__file__).parent)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "capturing\n"
    return process


@each_ring
def test_a_stalled_reader_is_a_gap_and_no_shift(kind: type[Ring], model: Model, clip: Path, tmp_path: Path) -> None:
    """What did not fit into the ring stands as zeros; everything after it keeps its place."""
    recorded = tmp_path / "captured"
    excerpt = tmp_path / "excerpt.wav"
    samples, rate = soundfile.read(clip, frames=7 * RATE)
    soundfile.write(excerpt, samples, rate)
    with open_room() as room:
        process = start(room, STALLED, recorded, kind)
        room.play(excerpt)
        told = json.loads(process.communicate(timeout=120)[0])
    captured = np.fromfile(recorded, np.float32)
    assert len(captured) == told["captured"]
    ((first, lost),) = told["gaps"]
    assert first == 16_000
    assert lost >= 40_000
    assert told["end"] == [[frames_of(len(captured)), lost]]
    assert not captured[first : first + lost].any()
    expected = diarize(captured, rate=RATE, model=model, plan="live")
    assert told["finals"] == [segment_fields(segment, expected.labels) for segment in expected.segments]


@each_ring
def test_a_suspended_program_keeps_time(kind: type[Ring], tmp_path: Path) -> None:
    """PulseAudio keeps 4 MB for a recorder that does not read, then drops audio and says nothing."""
    with open_room() as room:
        process = start(room, SUSPENDED, tmp_path / "captured", kind)
        process.send_signal(19)
        time.sleep(8)
        process.send_signal(18)
        told = json.loads(process.communicate("\n", timeout=60)[0])
    assert told["lost"] > 192_000  # or this test has tested nothing
    assert told["read"] == told["captured"]
    (samples, begin), (more, end) = told["before"], told["after"]
    assert (more - samples) / 192_000 == pytest.approx(end - begin, abs=0.2)


@each_ring
@pytest.mark.parametrize(("seconds", "times"), [(0.2, 20), (10.0, 1)])
def test_a_thread_that_holds_the_gil(kind: type[Ring], seconds: float, times: int, tmp_path: Path) -> None:
    """In Python, the sound server must keep what the callback has no time for, and drops what it cannot: PulseAudio
    what is more than 4 MB, 5.5 s here. In C++ the callback always has time."""
    noise = np.random.default_rng(1).integers(1, 2**15, 192_000 * round(4 + seconds)).astype(np.int16)  # no zeros
    soundfile.write(tmp_path / "noise.wav", noise, 192_000)
    recorded = tmp_path / "captured"
    with open_room(192_000) as room:
        process = start(room, HELD, recorded, kind, str(round(seconds * 1e6)), str(times))
        room.play(tmp_path / "noise.wav")
        told = json.loads(process.communicate("\n", timeout=120)[0])
    captured = np.fromfile(recorded, np.float32)
    assert len(captured) == told["captured"]
    heard = captured[captured != 0] * 32768  # silence is where nothing is played, and what is told as lost
    print(f"{kind.__name__}, {seconds} s: {len(noise) - len(heard)} of {len(noise)} lost, {told['lost']} told")
    if kind is Ring and seconds > 1:
        assert len(heard) < len(noise)
        assert told["lost"] > len(noise) - len(heard) - 0.2 * 192_000
    else:
        assert told["lost"] == 0
        assert np.array_equal(heard, noise)
