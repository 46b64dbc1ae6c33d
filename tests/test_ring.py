"""The capture ring, in Python and in C++: nothing is lost silently, and both do the same."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from twins import RINGS, each_ring, needs_native

from sedstream.audio.ring import Ring
from sedstream.errors import BadInput


def listed(ring: Ring) -> list[list[float] | int]:
    """What ``read`` says, comparable."""
    return [part if isinstance(part, int) else part.tolist() for part in ring.read()]


@each_ring
@given(st.integers(1, 40), st.lists(st.tuples(st.integers(0, 60), st.booleans()), max_size=30))
def test_nothing_is_lost_silently(kind: type[Ring], capacity: int, steps: list[tuple[int, bool]]) -> None:
    """Every sample written comes out once, in order, or is told as lost at its place."""
    ring = kind(capacity)
    position = 0  # of the consumer on the producer's timeline
    written = 0

    def consume() -> None:
        nonlocal position
        for part in ring.read():
            if isinstance(part, int):
                position += part
            else:
                assert part.tolist() == list(range(position, position + len(part)))
                position += len(part)

    for count, read in steps:
        ring.write(np.arange(written, written + count, dtype=np.float32))
        written += count
        if read:
            consume()
    consume()
    assert position == written


@each_ring
def test_two_threads(kind: type[Ring]) -> None:
    ring = kind(1000)
    total = 200_000

    def produce() -> None:
        for first in range(0, total, 77):
            ring.write(np.arange(first, min(first + 77, total), dtype=np.float32))

    thread = threading.Thread(target=produce)
    thread.start()
    position = 0
    while position < total:
        for part in ring.read():
            if isinstance(part, int):
                position += part
            else:
                assert part[0] == position
                assert part[-1] == position + len(part) - 1
                position += len(part)
    thread.join()
    assert position == total


@each_ring
def test_a_ring_holds_something(kind: type[Ring]) -> None:
    with pytest.raises(BadInput, match="Bad ring capacity 0, expected at least 1 sample"):
        kind(0)


WRITE, LOSE, READ = st.integers(0, 60), st.integers(1, 10**12), st.none()


@needs_native
@given(st.integers(1, 40), st.lists(st.one_of(st.tuples(WRITE), LOSE, READ), max_size=60))
def test_both_rings_do_the_same(capacity: int, steps: list[tuple[int] | int | None]) -> None:
    pure, native = (kind(capacity) for kind in RINGS)
    samples = iter(range(10**9))
    for step in steps:
        if isinstance(step, tuple):
            block = np.array([next(samples) for _ in range(step[0])], np.float32)
            assert pure.write(block) == native.write(block)
        elif step is None:
            assert listed(pure) == listed(native)
        else:
            pure.lose(step)
            native.lose(step)
        assert len(pure) == len(native)
    assert listed(pure) == listed(native)


@needs_native
def test_more_losses_than_the_native_ring_can_note() -> None:
    """Then the last of them takes in what comes, until somebody reads."""
    ring = RINGS[1](100_000)
    one = np.ones(1, np.float32)
    for _ in range(2000):
        ring.lose(1)
        ring.write(one)
    parts = ring.read()
    assert sum(part if isinstance(part, int) else len(part) for part in parts) == 4000
    assert [part if isinstance(part, int) else -len(part) for part in parts] == [1, -1] * 1023 + [2 + 2 * 976]
    ring.write(one)
    assert listed(ring) == [[1.0]]
