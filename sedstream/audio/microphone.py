"""A microphone through PortAudio into a ring; what the host loses is told as lost, so the timeline never shifts."""

from __future__ import annotations

import atexit
import ctypes
from collections import deque
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import numpy as np

from ..errors import Unavailable
from ..grid import RATE
from .resample import MAX_RATE, MIN_RATE
from .ring import Ring

BUFFER = 0.2
"""Seconds that the host is asked to buffer: what Python may oversleep. Blocks arrive several times as often."""
STALL = 2.0
"""Seconds without a block after which a device counts as gone; the first block may take ``START``."""
START = 10.0


@dataclass(frozen=True, slots=True)
class Device:
    """An input device. ``rate``: its default in Hz; ``default``: the one that is used when none is named."""

    index: int
    name: str
    host: str
    channels: int
    rate: int
    default: bool


def devices() -> list[Device]:
    """The input devices that PortAudio knows. Raises ``Unavailable`` when the library is missing or cannot start."""
    portaudio = _portaudio()
    hosts = portaudio.query_hostapis()
    chosen = portaudio.default.device[0]
    return [
        Device(
            index=index,
            name=about["name"],
            host=hosts[about["hostapi"]]["name"],
            channels=about["max_input_channels"],
            rate=round(about["default_samplerate"]),
            default=index == chosen,
        )
        for index, about in enumerate(portaudio.query_devices())
        if about["max_input_channels"] > 0
    ]


def find_device(wanted: str | int | None = None) -> Device:
    """A device by index, name or a part of its name that fits no other; None: the default. Raises ``Unavailable``."""
    known = devices()
    if not known:
        raise Unavailable(f"Bad device {str(wanted or 'default')!r}, expected a microphone: there is none")
    if wanted is None:
        return next((device for device in known if device.default), known[0])
    text = str(wanted).casefold()
    for fits in (
        [device for device in known if text == str(device.index)],
        [device for device in known if text == device.name.casefold()],
        [device for device in known if text in device.name.casefold()],
    ):
        if len(fits) == 1:
            return fits[0]
    names = ", ".join(f"{device.index} ({device.name})" for device in known)
    raise Unavailable(f"Bad device {str(wanted)!r}, expected one of {names}")


class Microphone:
    """``with Microphone(ring) as microphone``: the first channel of ``device`` flows into ``ring`` until the end.

    ``rate`` in Hz; None: 16 000 where the device can, otherwise the device's own, and whoever reads the ring resamples.
    Raises ``Unavailable`` for an unknown device or one that cannot be opened so.
    """

    def __init__(self, ring: Ring, device: str | int | None = None, rate: int | None = None) -> None:
        self.device = find_device(device)
        self._portaudio = _portaudio()
        self.rate, self._channels = self._choose(rate)
        self.captured = 0
        """Samples since the start, lost ones included: the device's own time."""
        self.lost = 0
        """How many of them the host lost."""
        self._ring = ring
        self._clock = CaptureClock(self.rate)
        self._peak = 0.0
        self._seen = (0, -1.0)  # samples captured, and when that was first seen
        self._stuck = False
        self._stream: Any = None

    def __enter__(self) -> Microphone:
        try:
            self._stream = self._portaudio.InputStream(
                device=self.device.index,
                samplerate=self.rate,
                channels=self._channels,
                dtype="float32",
                latency=BUFFER,
                callback=self._capture,
            )
            self._stream.start()
        except self._portaudio.PortAudioError as error:
            self.close()
            raise self._unusable(error) from error
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def check(self, now: float) -> None:
        """Raise ``Unavailable`` if the device is gone. Call it often; ``now``: seconds of any clock that only grows."""
        if self._stream is None or not self._stream.active:
            raise Unavailable(f"Bad device '{self.device.name}', expected it to stay connected: it is gone")
        captured, since = self._seen
        if captured != self.captured or since < 0:
            self._seen = (self.captured, now)
        elif now - since > (STALL if captured else START):
            self._stuck = True
            raise Unavailable(
                f"Bad device '{self.device.name}', expected audio: none came for {now - since:.0f} seconds"
            )

    def level(self) -> float:
        """The highest absolute sample, 0…1, since the last call."""
        peak, self._peak = self._peak, 0.0
        return peak

    def close(self) -> None:
        """Stop capturing. Nothing is written to the ring afterwards; may be called twice."""
        if self._stuck:
            # PortAudio waits for a sound server that no longer answers, here and when the interpreter exits; a program
            # that must end leaves the stream to the operating system instead. PortAudio's thread goes on meanwhile, so
            # its code and its callback must outlive even the interpreter: they are never freed.
            if waiting := getattr(self._portaudio, "_exit_handler", None):
                atexit.unregister(waiting)
            for kept in (self._stream, getattr(self._portaudio, "_lib", None)):
                ctypes.pythonapi.Py_IncRef(ctypes.py_object(kept))
        elif self._stream is not None:
            self._stream.close(ignore_errors=True)
        self._stream = None

    def _capture(self, block: Any, frames: int, time: Any, status: Any) -> None:
        """PortAudio's thread: ``[frames, channels]`` f32. Nothing here may wait."""
        if self._stuck or not frames:
            return
        lost = self._clock.lost(frames, time.inputBufferAdcTime, time.currentTime, bool(status.input_overflow))
        if lost:
            self._ring.lose(lost)
            self.lost += lost
        samples = block[:, 0]
        self._ring.write(samples)
        self.captured += lost + frames
        self._peak = max(self._peak, float(np.abs(samples).max(initial=0.0)))

    def _choose(self, rate: int | None) -> tuple[int, int]:
        """The rate in Hz and the number of channels to open: some hardware has no mono and no 16 kHz of its own."""
        wanted = (RATE, self.device.rate) if rate is None else (rate,)
        reason: Exception | None = None
        for hertz in wanted:
            for channels in (1, self.device.channels):
                try:
                    self._portaudio.check_input_settings(self.device.index, channels, "float32", None, hertz)
                except self._portaudio.PortAudioError as error:
                    reason = error
                    continue
                if MIN_RATE <= hertz <= MAX_RATE:
                    return hertz, channels
        if reason is None:
            raise Unavailable(f"Bad rate {wanted[-1]} Hz of '{self.device.name}', expected {MIN_RATE} to {MAX_RATE}")
        raise self._unusable(reason)

    def _unusable(self, error: Exception) -> Unavailable:
        reason = " ".join(str(error).split())
        return Unavailable(f"Bad device '{self.device.name}', expected a microphone that can be opened: {reason}")


class CaptureClock:
    """How many samples the host lost before each block, told from the times that come with the blocks.

    Two clocks, because each knows what the other does not. When the host *says* that it lost samples, the capture time
    of the block's first sample tells how many at once: it runs ahead of the samples counted by what is missing. It is
    trusted only if it ran evenly before (some hosts leave it at zero, and sound servers correct it during their first
    second); otherwise one block is taken as lost, since hosts drop whole buffers.

    A sound server may also drop samples and say nothing (PulseAudio does after 4 MB, when a program is suspended for a
    minute). Then every later block arrives later than its number of samples allows. A busy machine delays blocks as
    well, but catches up; so only a delay that stays the same for two half seconds is a loss.
    """

    EVEN = 0.02
    """Seconds by which clocks may jitter and still count as even."""
    SILENT = 0.25
    """Seconds missing before a host that says nothing is disbelieved: less than one block of a live plan."""
    LONGEST = 60
    """Seconds of one loss at most: whoever slept longer did not listen, and zeros cost memory."""

    def __init__(self, rate: int) -> None:
        self._rate = rate
        self._counted = 0  # samples so far, lost ones included
        self._begins: deque[float] = deque(maxlen=16)  # capture time less counted samples, of the last blocks
        self._until = rate // 2  # where the current half second ends
        self._delay = np.inf  # smallest arrival time less counted samples in it,
        self._before = np.inf  # in the one before,
        self._usual = np.inf  # and when all is well

    def lost(self, frames: int, captured: float, now: float, overflow: bool) -> int:
        """Samples lost just before a block of ``frames`` samples whose first was captured at ``captured`` seconds.

        ``now``: when the block was handed over, in seconds of the same clock. ``overflow``: the host says it lost some.
        """
        lost = self._said(frames, captured) if overflow else self._unsaid(now)
        lost = max(0, min(lost, self.LONGEST * self._rate))
        self._counted += lost
        self._begins.append(captured - self._counted / self._rate)
        self._counted += frames
        self._delay = min(self._delay, now - self._counted / self._rate)
        return lost

    def _said(self, frames: int, captured: float) -> int:
        begins = sorted(self._begins)
        if len(begins) < 4 or begins[-1] - begins[0] > self.EVEN:
            return frames
        return round((captured - begins[len(begins) // 2]) * self._rate) - self._counted

    def _unsaid(self, now: float) -> int:
        if self._counted < self._until:
            return 0
        delay, before = self._delay, self._before
        self._before, self._delay, self._until = delay, np.inf, self._counted + self._rate // 2
        if abs(delay - before) > self.EVEN:
            return 0
        if delay - self._usual < self.SILENT:
            self._usual = delay  # follows the slow drift between the two clocks, and a host that became quicker
            return 0
        lost = min(round((delay - self._usual) * self._rate), self.LONGEST * self._rate)
        self._usual = self._before = delay - lost / self._rate
        return lost


def _portaudio() -> Any:
    """The module ``sounddevice``, loaded when a microphone is first asked for."""
    try:
        import sounddevice
    except OSError as error:
        raise Unavailable(
            "Bad PortAudio library 'missing', expected libportaudio2 (Debian: apt-get install libportaudio2)"
        ) from error
    except Exception as error:  # PortAudio starts on import; its error class comes with the module that failed to load
        raise Unavailable(f"Bad PortAudio start, expected a working sound system: {error}") from error
    return sounddevice
