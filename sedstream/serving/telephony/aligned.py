"""Channels that arrive apart, side by side again, each with its own holes."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class Together:
    """Samples ``[n, channels]`` f32; those of the channels ``lost`` are zeros in place of what never came."""

    samples: Array
    lost: frozenset[int]


class Aligned:
    """``channels`` of one call. What one has and another has not yet waits here: whoever fills this bounds it."""

    def __init__(self, channels: int) -> None:
        self._channels = [_Channel() for _ in range(channels)]

    def write(self, channel: int, samples: Array) -> Iterator[Together | int]:
        """Samples ``[n]`` of a channel; what all channels have now: an int is samples that all have lost."""
        self._channels[channel].put(samples)
        yield from self._ready()

    def lose(self, channel: int, samples: int) -> Iterator[Together | int]:
        """``samples`` samples of a channel never came; what all channels have now."""
        self._channels[channel].put(samples)
        yield from self._ready()

    def end(self) -> Iterator[Together | int]:
        """Every channel becomes as long as the longest; what is left."""
        longest = max(channel.position for channel in self._channels)
        for channel in self._channels:
            channel.put(longest - channel.position)
        yield from self._ready()

    def _ready(self) -> Iterator[Together | int]:
        while count := min(channel.run for channel in self._channels):
            lost = frozenset(number for number, channel in enumerate(self._channels) if channel.losing)
            columns = [channel.take(count) for channel in self._channels]
            if len(lost) == len(columns):
                yield count
            else:
                zeros = np.zeros(count, np.float32)  # no more of them than another channel has audio
                yield Together(np.stack([zeros if c is None else c for c in columns], axis=1), lost)


class _Channel:
    def __init__(self) -> None:
        self.position = 0  # samples put so far
        self._parts: deque[Array | int] = deque()  # an int: lost samples

    @property
    def losing(self) -> bool:
        """What comes next is lost."""
        return bool(self._parts) and isinstance(self._parts[0], int)

    @property
    def run(self) -> int:
        """Samples until audio becomes loss, or loss audio, or nothing more is here."""
        total = 0
        for part in self._parts:
            if isinstance(part, int) != self.losing:
                break
            total += part if isinstance(part, int) else len(part)
        return total

    def put(self, part: Array | int) -> None:
        length = part if isinstance(part, int) else len(part)
        if length:
            self.position += length
            self._parts.append(part)

    def take(self, count: int) -> Array | None:
        """The next ``count`` samples, no more than ``run``; None: they are lost."""
        taken: list[Array] = []
        while count:
            part = self._parts.popleft()
            length = part if isinstance(part, int) else len(part)
            if length > count:
                self._parts.appendleft(part - count if isinstance(part, int) else part[count:])
            if not isinstance(part, int):
                taken.append(part[:count])
            count -= min(length, count)
        return np.concatenate(taken) if taken else None
