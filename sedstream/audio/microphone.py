"""A microphone through PortAudio into a ring; what the host loses is told as lost, so the timeline never shifts."""

from __future__ import annotations

import atexit
import ctypes
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from ..errors import Unavailable
from ..grid import RATE
from .capture import Capture
from .resample import MAX_RATE, MIN_RATE
from .ring import Ring

try:
    from .native import NativeCapture, NativeRing
except ModuleNotFoundError:  # not built: see native/README.md
    NATIVE = False
else:
    NATIVE = True

BUFFER = 0.2
"""Seconds that the host is asked to buffer: what Python may oversleep. Blocks arrive several times as often."""
ASLEEP = 0.5
"""Seconds between two checks from which on the program itself was suspended: the device has time to begin anew."""
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


def capture_ring(capacity: int) -> Ring:
    """A ring of ``capacity`` samples to capture into. Raises ``BadInput`` for less than 1."""
    return NativeRing(capacity) if NATIVE else Ring(capacity)


class Microphone:
    """``with Microphone(ring) as microphone``: the first channel of ``device`` flows into ``ring`` until the end.

    ``rate`` in Hz; None: 16 000 where the device can, otherwise the device's own, and whoever reads the ring resamples.
    Raises ``Unavailable`` for an unknown device or one that cannot be opened so.
    """

    def __init__(self, ring: Ring, device: str | int | None = None, rate: int | None = None) -> None:
        self.device = find_device(device)
        self._portaudio = _portaudio()
        self.rate, self._channels = self._choose(rate)
        self._capture = capture_into(ring, self.rate, self._channels)
        self._seen = (0, -1.0)  # samples captured, and when that was first seen
        self._checked = 0.0
        self._stuck = False
        self._stream: Any = None

    def __enter__(self) -> Microphone:
        try:
            self._stream = self._capture.open(
                self._portaudio,
                device=self.device.index,
                samplerate=self.rate,
                channels=self._channels,
                dtype="float32",
                latency=BUFFER,
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
        slept, self._checked = now - self._checked > ASLEEP, now
        if captured != self.captured or since < 0 or slept:
            self._seen = (self.captured, now)
        elif now - since > (STALL if captured else START):
            self._stuck = True
            self._capture.stop()
            raise Unavailable(
                f"Bad device '{self.device.name}', expected audio: none came for {now - since:.0f} seconds"
            )

    @property
    def captured(self) -> int:
        """Samples since the start, lost ones included: the device's own time."""
        return self._capture.captured

    @property
    def lost(self) -> int:
        """How many of them the host lost."""
        return self._capture.lost

    def level(self) -> float:
        """The highest absolute sample, 0…1, since the last call."""
        return self._capture.level()

    def abandon(self) -> None:
        """The sound server does not answer, not even to a ``close`` on another thread: leave all of it as it is."""
        self._stuck = True
        self._capture.stop()
        self.close()

    def close(self) -> None:
        """Stop capturing. Nothing is written to the ring afterwards; may be called twice."""
        if self._stuck:
            # PortAudio waits for a sound server that no longer answers, here and when the interpreter exits; a program
            # that must end leaves the stream to the operating system instead. PortAudio's thread goes on meanwhile, so
            # its code and its callback must outlive even the interpreter: they are never freed.
            if waiting := getattr(self._portaudio, "_exit_handler", None):
                atexit.unregister(waiting)
            for kept in (self._stream, self._capture, getattr(self._portaudio, "_lib", None)):
                ctypes.pythonapi.Py_IncRef(ctypes.py_object(kept))
        elif self._stream is not None:
            self._stream.close(ignore_errors=True)
        self._stream = None

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


def capture_into(ring: Ring, rate: int, channels: int) -> Capture:
    """What writes the first of ``channels`` into ``ring``, in the language of the ring."""
    return NativeCapture(ring, rate, channels) if NATIVE and isinstance(ring, NativeRing) else Capture(ring, rate)


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
