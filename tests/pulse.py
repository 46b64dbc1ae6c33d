"""A real sound server without a sound card: PulseAudio with a null sink, whose monitor PortAudio records."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

PROGRAMS = ("pulseaudio", "pactl", "paplay")


def need_pulse() -> None:
    """Skip the test where the sound server or PortAudio is not installed."""
    missing = [program for program in PROGRAMS if shutil.which(program) is None]
    if missing:
        pytest.skip(f"needs {', '.join(missing)} (Debian: pulseaudio pulseaudio-utils libasound2-plugins)")
    try:
        import sounddevice  # noqa: F401
    except OSError:
        pytest.skip("needs PortAudio (Debian: libportaudio2)")


class Room:
    """A sound server of one's own: what is played into it comes out of its only microphone, sample by sample."""

    def __init__(self, folder: Path, rate: int) -> None:
        self._folder = folder
        socket = folder / "socket"
        self.env = {name: value for name, value in os.environ.items() if not name.startswith("PULSE_")}
        self.env |= {"HOME": str(folder), "XDG_RUNTIME_DIR": str(folder), "PULSE_SERVER": f"unix:{socket}"}
        self._server = subprocess.Popen(
            [
                "pulseaudio",
                "-n",
                "--daemonize=no",
                "--exit-idle-time=-1",
                "--use-pid-file=no",
                "--disable-shm=yes",
                "--realtime=no",
                "--high-priority=no",
                "-L",
                f"module-native-protocol-unix socket={socket} auth-anonymous=1",
                # norewinds: a buffer of 50 ms in place of 2 s, so that recording begins at once.
                "-L",
                f"module-null-sink sink_name=room rate={rate} channels=1 format=s16le norewinds=1",
            ],
            env=self.env,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        deadline = time.monotonic() + 20
        while subprocess.run(["pactl", "info"], env=self.env, capture_output=True, check=False).returncode:
            if self._server.poll() is not None or time.monotonic() > deadline:
                self.close()
                pytest.skip("pulseaudio does not start here")
            time.sleep(0.1)

    def play(self, recording: Path) -> None:
        """Play a recording from beginning to end."""
        # A long buffer: on a busy machine the player may oversleep.
        command = ["paplay", "--device=room", "--latency-msec=1500", str(recording)]
        subprocess.run(command, env=self.env, check=True, timeout=300)

    def freeze(self) -> None:
        """The server stops answering."""
        self._server.send_signal(signal.SIGSTOP)

    def close(self) -> None:
        """The server dies at once, and the microphone with it."""
        self._server.kill()
        self._server.wait()


@contextmanager
def open_room(rate: int = 16_000) -> Iterator[Room]:
    """A :class:`Room` for one test, at ``rate`` Hz."""
    need_pulse()
    # A short path: a socket's name may have 107 characters.
    with TemporaryDirectory(prefix="room") as folder:
        room = Room(Path(folder), rate)
        try:
            yield room
        finally:
            room.close()
