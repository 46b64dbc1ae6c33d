"""Bytes on the wire to float32 samples and back: s16le, f32le and ITU-T G.711 mu-law and A-law."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..errors import BadInput

Samples = NDArray[np.float32]

SAMPLE_BYTES = {"s16le": 2, "f32le": 4, "mulaw": 1, "alaw": 1}
"""Encodings and the bytes that one sample takes."""


def _mulaw_table() -> NDArray[np.int16]:
    # G.711: the byte is sent inverted; 1 sign, 3 segment, 4 step bits; the value is biased by 33 (<<2 = 132).
    code = ~np.arange(256, dtype=np.uint8)
    segment, step = (code >> 4) & 7, (code & 15).astype(np.int32)
    value = (((step << 3) + 132) << segment) - 132
    return np.where(code & 0x80, -value, value).astype(np.int16)


def _alaw_table() -> NDArray[np.int16]:
    # G.711: even bits are sent inverted (0x55); segment 0 is linear, the others carry a hidden leading one.
    code = np.arange(256, dtype=np.uint8) ^ 0x55
    segment, step = ((code >> 4) & 7).astype(np.int32), (code & 15).astype(np.int32)
    value = np.where(segment == 0, (step << 4) + 8, ((step << 4) + 264) << np.maximum(segment - 1, 0))
    return np.where(code & 0x80, value, -value).astype(np.int16)


LOUDEST = 1e12
"""Of a sample: its power must fit in 32 bits. Whoever has 1 for the loudest sound is far from it."""
_EXPAND = {"mulaw": _mulaw_table(), "alaw": _alaw_table()}


def decode(data: bytes | bytearray | memoryview, encoding: str, channels: int = 1) -> Samples:
    """Bytes to samples ``[n, channels]`` f32 in -1…1 (f32le is passed on as it is).

    Raises ``BadInput`` for an unknown encoding, a byte count that is not a whole number of sample frames, and
    f32le values that are no sound (see `check`).
    """
    width = _width(encoding) * channels
    if len(data) % width:
        raise BadInput(f"Bad audio packet of {len(data)} bytes, expected a multiple of {width}")
    if encoding == "f32le":
        samples = np.frombuffer(data, "<f4").astype(np.float32)
        check(samples)
    elif encoding == "s16le":
        samples = np.frombuffer(data, "<i2").astype(np.float32) / np.float32(32768)
    else:
        expanded = _EXPAND[encoding][np.frombuffer(data, np.uint8)]
        samples = expanded.astype(np.float32) / np.float32(32768)
    return samples.reshape(-1, channels)


def mix(samples: Samples) -> Samples:
    """Samples ``[n, 1 or 2]`` to one channel ``[n]``: the mean."""
    if samples.shape[1] == 1:
        return samples[:, 0].copy()
    return ((samples[:, 0] + samples[:, 1]) * np.float32(0.5)).astype(np.float32)


def check(samples: Samples) -> None:
    """Raises ``BadInput`` for NaN, infinity, and what is louder than `LOUDEST`."""
    peak = float(np.abs(samples).max(initial=0))
    if not peak < math.inf:
        raise BadInput("Bad audio sample 'nan' or 'inf', expected finite values")
    if peak > LOUDEST:
        raise BadInput(f"Bad audio sample of {peak:g}, expected values in -1…1")


def as_floats(samples: ArrayLike) -> Samples:
    """An array of samples as f32: floats as they are, 16-bit integers, as sound files hold them, from their range to
    -1…1.

    Raises ``BadInput`` for what is neither: of other integers nobody can tell how loud the loudest is.
    """
    try:
        array = np.asarray(samples)
    except (TypeError, ValueError, RuntimeError) as error:  # rows of different lengths, say, or a tensor with gradients
        raise BadInput(f"Bad samples, expected an array of floats or int16: {error}") from error
    if array.dtype.kind == "i" and array.dtype.itemsize == 2:
        return array.astype(np.float32) / np.float32(32768)
    if array.dtype.kind != "f":
        raise BadInput(f"Bad samples of type '{array.dtype}', expected floats in -1…1 or int16")
    return array.astype(np.float32, copy=False)


def encode(samples: Samples, encoding: str) -> bytes:
    """Samples (any shape, f32 in -1…1, clipped) to bytes in row order. Raises ``BadInput`` for an unknown encoding."""
    _width(encoding)
    if encoding == "f32le":
        return samples.astype("<f4").tobytes()
    linear = np.clip(np.rint(samples * np.float32(32768)), -32768, 32767).astype("<i2")
    return linear.tobytes() if encoding == "s16le" else _compress(linear, encoding).tobytes()


def _compress(linear: NDArray[np.int16], law: str) -> NDArray[np.uint8]:
    # The nearest of the 256 levels, found on the sorted table: slower than bit tricks, and evidently right.
    order = np.argsort(_EXPAND[law], kind="stable")
    levels = _EXPAND[law][order].astype(np.int32)
    bounds = (levels[1:] + levels[:-1]) / 2
    return order[np.searchsorted(bounds, linear.astype(np.int32))].astype(np.uint8)


def _width(encoding: str) -> int:
    if encoding not in SAMPLE_BYTES:
        raise BadInput(f"Bad encoding {encoding!r}, expected one of {', '.join(SAMPLE_BYTES)}")
    return SAMPLE_BYTES[encoding]
