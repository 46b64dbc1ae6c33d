"""Single-producer, single-consumer ring of samples between a capture callback and the inference thread.

Both counters only grow (int64: 18 million years at 16 kHz); the producer alone moves ``written``, the consumer alone
``read``, so neither needs a lock. What does not fit is dropped at the producer's side and counted, never overwritten:
the consumer learns how many samples are missing and where.
"""

from __future__ import annotations

from collections import deque

import numpy as np

from ..errors import BadInput
from .pcm import Samples


class Ring:
    """``capacity`` samples of float32, one channel."""

    def __init__(self, capacity: int) -> None:
        if capacity <= 0:
            raise BadInput(f"Bad ring capacity {capacity}, expected at least 1 sample")
        self._data = np.zeros(capacity, np.float32)
        self._written = 0
        self._read = 0
        # (position in the written stream, samples lost there); a deque's append and popleft are atomic.
        self._losses: deque[tuple[int, int]] = deque()

    def __len__(self) -> int:
        """Samples that wait to be read."""
        return self._written - self._read

    def write(self, samples: Samples) -> int:
        """Producer: store what fits of ``[n]`` f32, note the rest as lost; the number stored."""
        room = len(self._data) - len(self)
        kept = samples[:room]
        start = self._written % len(self._data)
        head = min(len(kept), len(self._data) - start)
        self._data[start : start + head] = kept[:head]
        self._data[: len(kept) - head] = kept[head:]
        self._written += len(kept)  # published last: the consumer never sees unwritten samples
        if len(kept) < len(samples):
            self.lose(len(samples) - len(kept))
        return len(kept)

    def lose(self, samples: int) -> None:
        """Producer: note that ``samples`` are missing at the current position (an overflow of the device)."""
        self._losses.append((self._written, samples))

    def read(self) -> list[Samples | int]:
        """Consumer: everything that waits, in order: arrays ``[n]`` f32, and ints for samples lost between them."""
        end = self._written
        parts: list[Samples | int] = []
        while self._losses and self._losses[0][0] <= end:
            position, lost = self._losses.popleft()
            self._take(position, parts)
            # A hole is told once, however many writes found the ring full.
            last = parts.pop() if parts and isinstance(parts[-1], int) else 0
            parts.append(last + lost)
        self._take(end, parts)
        return parts

    def _take(self, end: int, parts: list[Samples | int]) -> None:
        count = end - self._read
        if count <= 0:
            return
        start = self._read % len(self._data)
        head = min(count, len(self._data) - start)
        parts.append(np.concatenate([self._data[start : start + head], self._data[: count - head]]))
        self._read = end
