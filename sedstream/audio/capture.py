"""From PortAudio's callback into a ring, in Python; ``native.py`` has the same in C++."""

from __future__ import annotations

from typing import Any

import numpy as np

from .clock import CaptureClock
from .ring import Ring


class Capture:
    """The first channel of a stream at ``rate`` Hz, into ``ring``; what the host loses is told as lost."""

    def __init__(self, ring: Ring, rate: int) -> None:
        self._ring = ring
        self._clock = CaptureClock(rate)
        self._captured = 0
        self._lost = 0
        self._peak = 0.0
        self._stopped = False

    def open(self, portaudio: Any, **settings: Any) -> Any:
        """An input stream of the module ``sounddevice`` that calls this one. ``settings``: those of ``InputStream``."""
        return portaudio.InputStream(callback=self.block, **settings)

    @property
    def captured(self) -> int:
        """Samples since the start, lost ones included: the device's own time."""
        return self._captured

    @property
    def lost(self) -> int:
        """How many of them the host lost."""
        return self._lost

    def level(self) -> float:
        """The highest absolute sample, 0…1, since the last call."""
        peak, self._peak = self._peak, 0.0
        return peak

    def stop(self) -> None:
        """Ignore all later blocks."""
        self._stopped = True

    def block(self, block: Any, frames: int, time: Any, status: Any) -> None:
        """PortAudio's thread: ``[frames, channels]`` f32. Nothing here may wait."""
        if self._stopped or not frames:
            return
        lost = self._clock.lost(frames, time.inputBufferAdcTime, time.currentTime, bool(status.input_overflow))
        if lost:
            self._ring.lose(lost)
            self._lost += lost
        samples = block[:, 0]
        self._ring.write(samples)
        self._captured += lost + frames
        self._peak = max(self._peak, float(np.abs(samples).max(initial=0.0)))
