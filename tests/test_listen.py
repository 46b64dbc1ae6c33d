"""``sedstream listen`` as a person runs it: a program beside a real sound server into which a recording is played."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from pulse import Room, open_room

from sedstream import diarize
from sedstream.errors import BadInput
from sedstream.grid import HOP, RATE, frames_of
from sedstream.listen import RING, listen
from sedstream.offline import Diarization
from sedstream.zoo import Model

Rows = list[dict[str, Any]]

# The real command; what leaves its ring is also kept on disk, to be diarized as a recording afterwards.
RECORDED = """
import signal
import sys
import numpy as np
from sedstream import listen
from sedstream.cli import main

signal.signal(signal.SIGHUP, signal.SIG_DFL)  # whoever runs the tests may ignore it, as nohup does
captured = open(sys.argv[1], "wb", buffering=0)

class Recorded(type(listen.capture_ring(1))):
    def read(self):
        parts = super().read()
        for part in parts:
            captured.write(np.zeros(part, np.float32) if isinstance(part, int) else part)
        return parts

listen.capture_ring = Recorded
listen.RING = int(sys.argv[2])
sys.exit(main(["listen", "--device", "pulse", *sys.argv[3:]]))
"""


def start(room: Room, recorded: Path, *options: str, ring: int = RING, script: str = RECORDED) -> subprocess.Popen[str]:
    """The command, capturing when this returns."""
    process = subprocess.Popen(
        [sys.executable, "-c", script, str(recorded), str(ring), *options],
        env=room.env,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    assert process.stderr.readline() == "sedstream: listening to microphone:pulse at 16000 Hz\n"
    deadline = time.monotonic() + 20
    while not recorded.exists() or not recorded.stat().st_size:
        assert time.monotonic() < deadline, "no sample came"
        time.sleep(0.05)
    return process


def run(env: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *arguments]
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=120, check=False)


def rows_of(text: str) -> Rows:
    return [json.loads(line) for line in text.splitlines()]


def as_heard(found: Diarization) -> Rows:
    return [row | {"file": "microphone:pulse"} for row in found.rows()]


def find(part: NDArray[np.float32], whole: NDArray[np.float32]) -> int:
    """Where ``part`` lies in ``whole``, in samples: the peak of their correlation."""
    size = 1 << (len(whole) + len(part)).bit_length()
    spectrum = np.fft.rfft(whole, size) * np.conj(np.fft.rfft(part, size))
    return int(np.fft.irfft(spectrum, size)[: len(whole)].argmax())


def spoken(rows: Rows, frames: int, shift: float = 0.0) -> NDArray[np.bool_]:
    """``[frames]``: where somebody speaks, ``shift`` seconds later than the rows say."""
    mask = np.zeros(frames, np.bool_)
    for row in rows:
        start, end = (max(0, round((row[name] + shift) * RATE / HOP)) for name in ("start", "end"))
        mask[start:end] = True
    return mask


def widened(mask: NDArray[np.bool_], by: int) -> NDArray[np.bool_]:
    return np.convolve(mask, np.ones(2 * by + 1), mode="same") > 0.5


def test_a_recording_played_into_the_microphone(model: Model, short_clip: Path, tmp_path: Path) -> None:
    played = short_samples(short_clip)
    for attempt in range(3):
        recorded = tmp_path / f"captured-{attempt}"
        with open_room() as room:
            process = start(room, recorded, "--format", "jsonl")
            room.play(short_clip)
            time.sleep(1)
            process.send_signal(signal.SIGINT)
            output, errors = process.communicate(timeout=60)
        assert (process.returncode, errors) == (0, "")
        captured = np.fromfile(recorded, np.float32)
        rows = rows_of(output)

        # To the bit what the same samples give as a recording.
        assert rows == as_heard(diarize(captured, rate=RATE, model=model, plan="live"))

        begin = find(played, captured)
        clean = np.zeros_like(captured)
        clean[begin : begin + len(played)] = played[: len(captured) - begin]
        if np.abs(clean - captured).max() < 2 / 32768:
            break  # otherwise the sound server stuttered: play it again
    else:
        pytest.fail("the sound server did not play the recording cleanly in three attempts")

    # And within one block what the file gives, played after the same silence …
    block = model.manifest.plan("live").step
    expected = list(diarize(clean, rate=RATE, model=model, plan="live").rows())
    assert [row["emotion"] for row in rows] == [row["emotion"] for row in expected]
    for row, other in zip(rows, expected, strict=True):
        assert abs(row["start"] - other["start"]) * RATE <= block * HOP
        assert abs(row["end"] - other["end"]) * RATE <= block * HOP

    # … and by itself, on its own grid: speech starts and ends at the same places.
    alone = list(diarize(short_clip, model=model, plan="live").rows())
    frames = frames_of(len(captured))
    here, there = spoken(rows, frames), spoken(alone, frames, begin / RATE)
    assert there.sum() > 200
    assert not (here & ~widened(there, block)).any()
    assert not (there & ~widened(here, block)).any()


def short_samples(path: Path) -> NDArray[np.float32]:
    import soundfile

    samples: NDArray[np.float32] = soundfile.read(path, dtype="float32")[0]
    return samples


@pytest.fixture
def short_clip(clip: Path) -> Path:
    """A real recording: 9.9 s of read speech, 16 kHz mono."""
    return clip.with_name("austen-2.flac")


def play_in_vain(room: Room, recording: Path) -> None:
    with suppress(subprocess.CalledProcessError):
        room.play(recording)


@pytest.mark.parametrize("leave", [Room.close, Room.freeze], ids=["unplugged", "frozen"])
def test_a_microphone_that_goes_away(leave: Any, model: Model, short_clip: Path, tmp_path: Path) -> None:
    """What was said before is answered, then one line says what happened."""
    recorded = tmp_path / "captured"
    with open_room() as room:
        process = start(room, recorded)
        player = threading.Thread(target=play_in_vain, args=(room, short_clip))
        player.start()
        time.sleep(5)
        leave(room)
        output, errors = process.communicate(timeout=60)
        room.close()
        player.join()
    assert process.returncode == 2
    ours = [line for line in errors.splitlines() if line.startswith("sedstream:")]  # PortAudio may add one of its own
    assert len(ours) == 1
    assert ours[0].startswith("sedstream: Bad device 'pulse', expected ")
    assert "Traceback" not in errors
    captured = np.fromfile(recorded, np.float32)
    rows = rows_of(output)
    assert rows
    assert rows == as_heard(diarize(captured, rate=RATE, model=model, plan="live"))


def test_what_is_lost_is_told_and_shifts_nothing(model: Model, short_clip: Path, tmp_path: Path) -> None:
    """A small ring, and a program that is suspended for four seconds: silence is lost, speech keeps its place."""
    recorded = tmp_path / "captured"
    for ring in (12_000, 3_000, 800):  # how fast a sound server hands over what it kept is its own affair
        with open_room() as room:
            process = start(room, recorded, ring=ring)
            process.send_signal(signal.SIGSTOP)
            time.sleep(4)
            process.send_signal(signal.SIGCONT)
            room.play(short_clip)
            process.send_signal(signal.SIGINT)
            output, errors = process.communicate(timeout=60)
        assert process.returncode == 0
        told = [re.fullmatch(r"sedstream: gap (\d+\.\d{3})-(\d+\.\d{3}) s", line) for line in errors.splitlines()]
        if told:
            break
    assert told
    captured = np.fromfile(recorded, np.float32)
    for gap in told:
        assert gap is not None
        first, end = (round(float(second) * RATE) for second in gap.groups())
        assert not captured[first + 16 : end - 16].any()  # its line is exact to 1 ms
    rows, expected = rows_of(output), as_heard(diarize(captured, rate=RATE, model=model, plan="live"))
    assert rows == expected


def test_seconds_and_a_file(tmp_path: Path) -> None:
    recorded, out = tmp_path / "captured", tmp_path / "rows.txt"
    with open_room() as room:
        process = start(room, recorded, "--seconds", "1.5", "--format", "table", "--out", str(out))
        output, errors = process.communicate(timeout=60)
    assert (process.returncode, output, errors) == (0, "", "")
    assert recorded.stat().st_size >= 1.5 * RATE * 4
    assert "no speech" in out.read_text()


def test_sigterm_ends_like_ctrl_c(tmp_path: Path) -> None:
    with open_room() as room:
        process = start(room, tmp_path / "captured")
        process.terminate()
        output, errors = process.communicate(timeout=60)
    assert (process.returncode, output, errors) == (0, "", "")


def test_on_a_terminal(short_clip: Path) -> None:
    """The panel stands below the rows, and Ctrl-C leaves only the rows."""
    with open_room() as room:
        outer, inner = pty.openpty()
        command = [sys.executable, "-m", "sedstream", "listen", "--device", "pulse"]
        env = room.env | {"TERM": "xterm-256color", "COLUMNS": "100", "LINES": "40"}
        with subprocess.Popen(command, env=env, stdin=inner, stdout=inner, stderr=inner, start_new_session=True) as it:
            os.close(inner)
            shown = read_until(outer, b"Ctrl-C ends", 60)
            assert shown.startswith(b"sedstream: loading sedstream-base\r\n")
            room.play(short_clip)
            it.send_signal(signal.SIGINT)
            shown += read_until(outer, None, 30)
            assert it.wait(60) == 0
        os.close(outer)
    text = shown.decode()
    for word in ("silence", "speech", "neutral", "arousal", "level", "behind", "microphone:pulse", "conf."):
        assert word in text
    assert "Traceback" not in text


def read_until(terminal: int, mark: bytes | None, seconds: float) -> bytes:
    """What a terminal shows until ``mark`` appears; None: until the program has left it."""
    shown = b""
    deadline = time.monotonic() + seconds
    while mark is None or mark not in shown:
        assert time.monotonic() < deadline, shown.decode(errors="replace")
        if not select.select([terminal], [], [], 0.1)[0]:
            continue
        try:
            shown += os.read(terminal, 65536)
        except OSError:  # the other side is closed
            break
    return shown


def test_devices() -> None:
    with open_room() as room:
        listed = run(room.env, "-m", "sedstream", "listen", "--list-devices")
        assert (listed.returncode, listed.stderr) == (0, "")
        assert any("pulse" in line for line in listed.stdout.splitlines())
        assert any(line.startswith("*") for line in listed.stdout.splitlines())
        unknown = run(room.env, "-m", "sedstream", "listen", "--device", "no such thing")
    assert (unknown.returncode, unknown.stdout) == (2, "")
    assert unknown.stderr.startswith("sedstream: Bad device 'no such thing', expected one of ")
    assert "(pulse)" in unknown.stderr
    assert unknown.stderr.count("\n") == 1


def outside(tmp_path: Path) -> dict[str, str]:
    """An environment where no sound server answers."""
    return dict(os.environ) | {"HOME": str(tmp_path), "PULSE_SERVER": f"unix:{tmp_path}/nobody"}


def test_no_microphone(tmp_path: Path) -> None:
    try:
        listed = run(outside(tmp_path), "-m", "sedstream", "listen", "--list-devices")
    except subprocess.TimeoutExpired:
        pytest.skip("this machine's sound system does not answer")
    if "libportaudio2" in listed.stderr:
        pytest.skip("needs PortAudio (Debian: libportaudio2)")
    if listed.stdout:
        pytest.skip("this machine has a microphone")
    assert listed.returncode == 2
    assert listed.stderr == "sedstream: Bad sound system, expected a microphone: there is none\n"
    answer = run(outside(tmp_path), "-m", "sedstream", "listen")
    assert (answer.returncode, answer.stdout) == (2, "")
    assert answer.stderr == "sedstream: Bad device 'default', expected a microphone: there is none\n"


@pytest.mark.parametrize("options", [[], ["--list-devices"]], ids=["listen", "list"])
def test_no_portaudio(options: Sequence[str], tmp_path: Path) -> None:
    # What sounddevice finds on a machine without the library.
    script = "import sys, ctypes.util; ctypes.util.find_library = lambda name: None; from sedstream.cli import main; "
    answer = run(outside(tmp_path), "-c", script + "sys.exit(main(sys.argv[1:]))", "listen", *options)
    assert (answer.returncode, answer.stdout) == (2, "")
    assert answer.stderr == (
        "sedstream: Bad PortAudio library 'missing', expected libportaudio2 (Debian: apt-get install libportaudio2)\n"
    )


def test_bad_arguments() -> None:
    for seconds in (0, -1, float("nan"), float("inf")):
        with pytest.raises(BadInput, match="Bad seconds"):
            listen(seconds=seconds)
    with pytest.raises(BadInput, match="Bad format 'xml', expected table or jsonl"):
        listen(format="xml")


def test_what_was_heard_outlasts_its_terminal(short_clip: Path, tmp_path: Path) -> None:
    """A closed window or a broken ssh, and somebody who presses Ctrl-C twice: nobody will say it again."""
    for number, again in ((signal.SIGHUP, False), (signal.SIGINT, True)):
        out = tmp_path / f"{number}.jsonl"
        with open_room() as room:
            process = start(room, tmp_path / f"captured-{number}", "--out", str(out))
            room.play(short_clip)
            time.sleep(2)
            process.send_signal(number)
            if again:
                time.sleep(0.03)
                process.send_signal(number)
            process.communicate(timeout=60)
        assert rows_of(out.read_text())
        assert not list(tmp_path.glob(".*.part"))


def test_nohup_outlasts_its_terminal(short_clip: Path, tmp_path: Path) -> None:
    """Who ignores SIGHUP goes on listening."""
    with open_room() as room:
        script = RECORDED.replace("signal.SIGHUP, signal.SIG_DFL", "signal.SIGHUP, signal.SIG_IGN")
        process = start(room, tmp_path / "captured", script=script)
        process.send_signal(signal.SIGHUP)
        room.play(short_clip)
        process.send_signal(signal.SIGINT)
        output, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (0, "")
    assert rows_of(output)


def test_a_row_is_in_its_file_at_once(short_clip: Path, tmp_path: Path) -> None:
    """Whatever ends it, a kill too; before there is a row, what the file held stays."""
    out = tmp_path / "rows.jsonl"
    out.write_text("of yesterday\n")
    with open_room() as room:
        process = start(room, tmp_path / "captured", "--out", str(out))
        assert out.read_text() == "of yesterday\n"
        room.play(short_clip)
        deadline = time.monotonic() + 60
        while out.read_text() in ("of yesterday\n", ""):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        process.kill()
        process.communicate(timeout=60)
    assert rows_of(out.read_text())
    assert [path.name for path in tmp_path.glob("*rows*")] == ["rows.jsonl"]


def test_ctrl_c_while_the_sound_server_is_frozen(short_clip: Path, tmp_path: Path) -> None:
    out = tmp_path / "rows.jsonl"
    with open_room() as room:
        process = start(room, tmp_path / "captured", "--out", str(out))
        room.play(short_clip)
        room.freeze()
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)
        room.close()
    assert process.returncode == 0
    assert rows_of(out.read_text())


def test_rows_that_go_elsewhere_are_not_overwritten(short_clip: Path) -> None:
    """`sedstream listen | tee rows`: the terminal gets the rows, and no panel that would paint over them."""
    with open_room() as room:
        outer, inner = pty.openpty()
        command = f"{sys.executable} -m sedstream listen --device pulse --seconds 12 | tee /dev/null"
        env = room.env | {"TERM": "xterm-256color", "COLUMNS": "100", "LINES": "40"}
        with subprocess.Popen(command, shell=True, env=env, stdin=inner, stdout=inner, stderr=inner) as it:
            os.close(inner)
            shown = read_until(outer, b"listening to", 60)
            room.play(short_clip)
            shown += read_until(outer, None, 60)
            assert it.wait(60) == 0
        os.close(outer)
    assert b"\x1b" not in shown
    assert b'"emotion"' in shown
