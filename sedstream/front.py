"""The front-end of a batch on the device: every session's window out of its ring, as float32, normalised.

A ring takes only new samples, and holds 2 bytes of each, or 1 for G.711. ``native/front.cu`` does in one launch what
:func:`gather` does in several; it is used on CUDA where it was built.
"""

from __future__ import annotations

import ctypes
from functools import cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from .audio.pcm import decode
from .errors import BadInput, Unavailable

LIBRARY = Path(__file__).with_name("libfront.so")
EPSILON = 1e-5
"""Added to the variance of samples in -1…1, as in wav2vec 2.0 and its heirs."""
FULL_SCALE = 32768.0


class Rings:
    """``slots`` rings of the last ``capacity`` samples of a session each, on ``device``.

    ``encoding``: ``s16le`` (int16), ``mulaw`` or ``alaw`` (uint8). A slot needs no clearing between sessions: samples
    before the 0th are silence. Raises ``BadInput`` for another encoding or an empty ring.
    """

    def __init__(self, slots: int, capacity: int, encoding: str = "s16le", device: str | torch.device = "cpu") -> None:
        if encoding not in ("s16le", "mulaw", "alaw"):
            raise BadInput(f"Bad ring encoding {encoding!r}, expected s16le, mulaw or alaw")
        if slots < 1 or capacity < 1:
            raise BadInput(f"Bad rings of {slots} times {capacity} samples, expected at least 1")
        linear = encoding == "s16le"
        self.samples = torch.zeros(slots, capacity, dtype=torch.int16 if linear else torch.uint8, device=device)
        self.levels = None if linear else _levels(encoding).to(device)
        """What each byte of G.711 means: int16 ``[256]``."""

    @property
    def capacity(self) -> int:
        """Samples that a ring holds."""
        return self.samples.shape[1]

    def grow(self, slots: int) -> None:
        """As many rings as that; the first ones keep what they hold."""
        larger = self.samples.new_zeros(slots, self.capacity)
        larger[: len(self.samples)] = self.samples
        self.samples = larger

    def write(self, slots: Tensor, starts: Tensor, packets: Tensor) -> None:
        """Put ``packets`` ``[B, n]`` (int16 or uint8) into ``slots`` ``[B]``, the first sample being number ``starts``
        ``[B]`` (int64) of its session. All on the device; a CUDA graph may capture it."""
        if packets.dtype != self.samples.dtype or packets.shape[1] > self.capacity:
            raise BadInput(
                f"Bad packets of {packets.shape[1]} samples of {packets.dtype}, "
                f"expected at most {self.capacity} of {self.samples.dtype}"
            )
        places = starts[:, None] + torch.arange(packets.shape[1], device=packets.device)
        self.samples[slots[:, None], places % self.capacity] = packets

    def windows(
        self, slots: Tensor, ends: Tensor, width: int, *, normalise: bool = False, native: bool | None = None
    ) -> Tensor:
        """The ``width`` samples before sample ``ends`` of the sessions in ``slots`` (both int64 ``[B]``, on the
        device), as float32 ``[B, width]`` in -1…1, or with mean 0 and variance 1 each when ``normalise``.

        ``native``: None takes what is there. A CUDA graph may capture it: call it once before. Raises ``BadInput`` for
        a window that no ring holds, ``Unavailable`` when the native part is asked for and missing, or fails.
        """
        if not 1 <= width <= self.capacity:
            raise BadInput(f"Bad window of {width} samples, expected 1 to {self.capacity}")
        if not all(index.dtype == torch.int64 and index.shape == (len(slots),) for index in (slots, ends)):
            raise BadInput(f"Bad slots or ends {slots.dtype}, {ends.dtype}, expected int64, one for each row")
        library = _library() if self.samples.is_cuda and native is not False else None
        if native and library is None:
            raise Unavailable("Bad native front-end 'missing', expected CUDA and a build with CUDA_HOME set")
        if library is not None:
            return self._launch(library, slots, ends, width, normalise)
        return gather(self.samples, self.levels, slots, ends, width, normalise)

    def _launch(self, library: ctypes.CDLL, slots: Tensor, ends: Tensor, width: int, normalise: bool) -> Tensor:
        device = self.samples.device
        if slots.device != device or ends.device != device:
            raise BadInput(f"Bad device {slots.device} or {ends.device} of slots and ends, expected {device}")
        slots, ends = slots.contiguous(), ends.contiguous()
        out = torch.empty(len(slots), width, device=device)
        with torch.cuda.device(device):
            code = library.sedstream_windows(
                self.samples.data_ptr(),
                self.capacity,
                None if self.levels is None else self.levels.data_ptr(),
                slots.data_ptr(),
                ends.data_ptr(),
                len(slots),
                width,
                normalise,
                EPSILON,
                out.data_ptr(),
                torch.cuda.current_stream().cuda_stream,
            )
        if code:
            raise Unavailable(f"Bad launch of the native front-end: {library.sedstream_error(code).decode()}")
        return out


def gather(samples: Tensor, levels: Tensor | None, slots: Tensor, ends: Tensor, width: int, normalise: bool) -> Tensor:
    """The twin of ``native/front.cu``, in torch, on any device: see :meth:`Rings.windows`."""
    places = ends[:, None] - width + torch.arange(width, device=samples.device)
    raw = samples[slots[:, None], places % samples.shape[1]]
    linear = raw if levels is None else levels[raw.long()]
    x = linear.masked_fill(places < 0, 0).float()
    if not normalise:
        return x / FULL_SCALE
    # Sums of whole numbers, exact in float64: no order of adding can change the answer.
    wide = x.double()
    mean = wide.mean(1, keepdim=True)
    power = (wide.square().mean(1, keepdim=True) - mean.square()).clamp(min=0)
    return (x - mean.float()) * (power + EPSILON * FULL_SCALE**2).rsqrt().float()


def _levels(encoding: str) -> Tensor:
    return torch.from_numpy((decode(bytes(range(256)), encoding)[:, 0] * FULL_SCALE).astype(np.int16))


@cache
def _library() -> ctypes.CDLL | None:
    """The shared library, or None where it was not built."""
    if not LIBRARY.is_file():
        return None
    library = ctypes.CDLL(str(LIBRARY))
    pointer, whole = ctypes.c_void_p, ctypes.c_int64
    library.sedstream_windows.argtypes = [
        pointer, whole, pointer, pointer, pointer, whole, whole, ctypes.c_int, ctypes.c_float, pointer, pointer,
    ]  # fmt: skip
    library.sedstream_error.argtypes = [ctypes.c_int]
    library.sedstream_error.restype = ctypes.c_char_p
    return library
