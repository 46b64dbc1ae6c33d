"""The capture ring and PortAudio's callback in C++: no Python runs in the audio thread, so none can hold it up.

Importing this raises ``ModuleNotFoundError`` where the extension was not built; ``native/README.md`` tells how it is.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..errors import BadInput
from ._capture import Capture as CaptureObject
from ._capture import Ring as RingObject
from .capture import Capture
from .pcm import Samples
from .ring import Ring


class NativeRing(Ring):
    """A :class:`Ring` in C++. Of 1024 losses that nobody has read yet, the last grows until somebody does."""

    def __init__(self, capacity: int) -> None:
        if capacity <= 0:
            raise BadInput(f"Bad ring capacity {capacity}, expected at least 1 sample")
        self.native = RingObject(capacity)

    def __len__(self) -> int:
        return len(self.native)

    def write(self, samples: Samples) -> int:
        return self.native.write(np.ascontiguousarray(samples, np.float32))

    def lose(self, samples: int) -> None:
        self.native.lose(samples)

    def read(self) -> list[Samples | int]:
        return [part if isinstance(part, int) else np.frombuffer(part, np.float32) for part in self.native.read()]


class NativeCapture(Capture):
    """A :class:`Capture` in C++, into the ring's own memory."""

    def __init__(self, ring: NativeRing, rate: int, channels: int) -> None:
        self.native = CaptureObject(ring.native, rate, channels)

    def open(self, portaudio: Any, **settings: Any) -> Any:
        # sounddevice's class for libraries: it takes a C function where InputStream takes a Python one.
        ffi = portaudio._ffi
        callback = ffi.cast("PaStreamCallback *", self.native.callback)
        userdata = ffi.cast("void *", self.native.userdata)
        return portaudio._StreamBase("input", callback=callback, userdata=userdata, **settings)

    @property
    def captured(self) -> int:
        return self.native.captured

    @property
    def lost(self) -> int:
        return self.native.lost

    def level(self) -> float:
        return self.native.level()

    def stop(self) -> None:
        self.native.stop()
