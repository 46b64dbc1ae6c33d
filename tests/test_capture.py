"""PortAudio's callback, in Python and in C++: what a host loses is told, at its place, and both tell the same."""

from __future__ import annotations

import ctypes
import threading
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from twins import RINGS, each_ring, needs_native

from sedstream.audio.capture import Capture
from sedstream.audio.clock import CaptureClock
from sedstream.audio.microphone import capture_into
from sedstream.audio.ring import Ring
from sedstream.grid import RATE

BLOCK = 800
NOTHING = np.zeros((BLOCK, 1), np.float32)


class TimeInfo(ctypes.Structure):
    """``PaStreamCallbackTimeInfo``."""

    _fields_ = (("captured", ctypes.c_double), ("now", ctypes.c_double), ("played", ctypes.c_double))


C_CALLBACK = ctypes.CFUNCTYPE(
    ctypes.c_int,
    ctypes.c_void_p,
    ctypes.c_void_p,
    ctypes.c_ulong,
    ctypes.POINTER(TimeInfo),
    ctypes.c_ulong,
    ctypes.c_void_p,
)


def call(capture: Capture, block: NDArray[np.float32], captured: float, now: float, overflow: bool) -> None:
    """Hand over ``[frames, channels]`` as PortAudio does."""
    native: Any = getattr(capture, "native", None)
    if native is None:
        times = SimpleNamespace(inputBufferAdcTime=captured, currentTime=now)
        capture.block(block, len(block), times, SimpleNamespace(input_overflow=overflow))
    else:
        times = TimeInfo(captured, now, 0.0)
        function = C_CALLBACK(native.callback)
        assert function(block.ctypes.data, None, len(block), times, 2 if overflow else 0, native.userdata) == 0


BLOCK = 800


class Host:
    """The times that PortAudio passes with each block, as measured: even to a tenth of a millisecond."""

    def __init__(self, kind: type[Ring], rate: int = RATE, tells_time: bool = True) -> None:
        self.capture = capture_into(kind(1), RATE, 1)
        self.tells_time = tells_time
        self.rate = rate
        self.sample = 0  # of the device, those that nobody gets included
        self.now = 100.0
        self.jitter = np.random.default_rng(1)

    def block(self, *, overflow: bool = False, waits: bool = True) -> int:
        """The next block; with ``waits`` handed over when complete, otherwise at once, for it was complete before."""
        begin, end = (100 + (self.sample + n) / self.rate for n in (0, BLOCK))
        self.now = max(end, self.now) if waits else self.now
        self.sample += BLOCK
        seen = begin + 0.0001 * self.jitter.standard_normal() if self.tells_time else 0.0
        before = self.capture.lost
        call(self.capture, NOTHING, seen, self.now + 0.001 * self.jitter.random(), overflow)
        return self.capture.lost - before

    def blocks(self, count: int) -> int:
        return sum(self.block() for _ in range(count))


@each_ring
def test_an_overflow_is_as_long_as_the_host_clock_says(kind: type[Ring]) -> None:
    host = Host(kind)
    assert host.blocks(30) == 0
    host.sample += 5_000
    assert host.block(overflow=True) == pytest.approx(5_000, abs=10)
    assert host.blocks(200) == 0
    host.sample += 100
    assert host.block(overflow=True) == pytest.approx(100, abs=10)


@each_ring
def test_an_overflow_without_a_host_clock_is_one_block(kind: type[Ring]) -> None:
    host = Host(kind, tells_time=False)
    host.blocks(30)
    assert host.block(overflow=True) == BLOCK
    first = Host(kind)
    assert first.block(overflow=True) == BLOCK  # nothing to compare with yet


@each_ring
def test_an_overflow_of_nothing_shifts_nothing(kind: type[Ring]) -> None:
    host = Host(kind)
    host.blocks(30)
    assert host.block(overflow=True) == pytest.approx(0, abs=10)


@each_ring
def test_blocks_that_come_late_are_not_lost(kind: type[Ring]) -> None:
    """A suspended program finds everything in the sound server's buffer."""
    host = Host(kind)
    host.blocks(50)
    host.now += 1.5
    for _ in range(30):
        assert host.block(waits=False) == 0
    assert host.blocks(100) == 0


@each_ring
def test_what_a_host_loses_silently_is_found(kind: type[Ring]) -> None:
    host = Host(kind)
    host.blocks(50)
    host.now += 9
    for _ in range(100):  # the 5 seconds that its buffer held
        assert host.block(waits=False) == 0
    host.sample += 4 * RATE
    assert host.blocks(30) == pytest.approx(4 * RATE, abs=RATE * 0.002)
    assert host.blocks(500) == 0


@each_ring
def test_two_clocks_that_drift_apart_lose_nothing(kind: type[Ring]) -> None:
    host = Host(kind, rate=RATE + 8)  # 500 ppm, for 50 minutes
    assert host.blocks(60_000) == 0


@each_ring
def test_a_loss_is_bounded(kind: type[Ring]) -> None:
    host = Host(kind)
    host.blocks(50)
    host.sample += 10_000 * RATE
    host.now += 10_000
    assert host.blocks(200) == CaptureClock.LONGEST * RATE


@each_ring
def test_one_channel_and_its_level(kind: type[Ring]) -> None:
    ring = kind(2000)
    capture = capture_into(ring, RATE, 2)
    block = np.linspace(-0.5, 0.25, 2 * BLOCK, dtype=np.float32).reshape(BLOCK, 2)
    call(capture, block, 0.0, 0.0, False)
    call(capture, block[:0], 0.0, 0.0, False)
    (part,) = ring.read()
    assert np.array_equal(part, block[:, 0])
    assert (capture.captured, capture.lost, capture.level(), capture.level()) == (BLOCK, 0, 0.5, 0.0)
    capture.stop()
    call(capture, block, 0.0, 0.0, False)
    assert (len(ring), capture.captured) == (0, BLOCK)


STEPS = st.tuples(
    st.integers(1, 400),  # frames
    st.just(0) | st.integers(0, 20_000),  # samples that the host drops before them
    st.just(0.0) | st.floats(-0.03, 0.03) | st.floats(-100, 100),  # seconds of jitter
    st.booleans(),  # the host says when it drops some
    st.integers(0, 9).map(lambda n: n == 0),  # somebody reads
)


@needs_native
@given(st.sampled_from([200, 1_000, 44_100]), st.integers(1, 2_000), st.lists(STEPS, min_size=10, max_size=60))
def test_both_do_the_same(rate: int, capacity: int, steps: list[tuple[int, int, float, bool, bool]]) -> None:
    rings = [kind(capacity) for kind in RINGS]
    captures = [capture_into(ring, rate, 1) for ring in rings]
    sample = 0
    for frames, dropped, jitter, honest, read in steps:
        sample += dropped
        block = np.arange(sample, sample + frames, dtype=np.float32)[:, None]
        for capture in captures:
            call(capture, block, sample / rate + jitter, (sample + frames) / rate + jitter, honest and dropped > 0)
        sample += frames
        assert (captures[0].captured, captures[0].lost) == (captures[1].captured, captures[1].lost)
        if read:
            assert captures[0].level() == captures[1].level()
            pure, native = (ring.read() for ring in rings)
            assert all(np.array_equal(one, other) for one, other in zip(pure, native, strict=True))


@needs_native
def test_reading_while_the_callback_runs() -> None:
    """The C function runs without the GIL: it writes while this thread reads."""
    ring = RINGS[1](300)
    capture = capture_into(ring, RATE, 1)
    total = 16_000_000  # the whole numbers of float32 end soon after
    done = threading.Event()

    def produce() -> None:
        for first in range(0, total, 160):
            block = np.arange(first, first + 160, dtype=np.float32)[:, None]
            call(capture, block, first / RATE, first / RATE, False)
        done.set()

    thread = threading.Thread(target=produce)
    thread.start()
    position = lost = 0
    over = False
    while not over:
        over = done.is_set()  # before the last look
        for part in ring.read():
            if isinstance(part, int):
                position += part
                lost += part
            else:
                assert np.array_equal(part, np.arange(position, position + len(part)))
                position += len(part)
    thread.join()
    assert position == capture.captured == total
    assert 0 < lost < total  # or this has tested less than it says
