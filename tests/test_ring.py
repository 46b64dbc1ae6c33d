import threading

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from sedstream.audio.ring import Ring


@given(st.integers(1, 40), st.lists(st.tuples(st.integers(0, 60), st.booleans()), max_size=30))
def test_nothing_is_lost_silently(capacity: int, steps: list[tuple[int, bool]]) -> None:
    """Every sample written comes out once, in order, or is told as lost at its place."""
    ring = Ring(capacity)
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


def test_two_threads() -> None:
    ring = Ring(1000)
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
