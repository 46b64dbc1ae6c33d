"""How many samples a host loses, told from the times that come with its blocks."""

from __future__ import annotations

from collections import deque

import numpy as np


class CaptureClock:
    """How many samples the host lost before each block, told from the times that come with the blocks.

    Two clocks, because each knows what the other does not. When the host *says* that it lost samples, the capture time
    of the block's first sample tells how many at once: it runs ahead of the samples counted by what is missing. It is
    trusted only if it ran evenly before (some hosts leave it at zero, and sound servers correct it during their first
    second); otherwise one block is taken as lost, since hosts drop whole buffers.

    A sound server may also drop samples and say nothing (PulseAudio does after 4 MB, when a program is suspended for a
    minute). Then every later block arrives later than its number of samples allows. A busy machine delays blocks as
    well, but catches up; so only a delay that stays the same for two half seconds is a loss.
    """

    EVEN = 0.02
    """Seconds by which clocks may jitter and still count as even."""
    SILENT = 0.25
    """Seconds missing before a host that says nothing is disbelieved: less than one block of a live plan."""
    LONGEST = 60
    """Seconds of one loss at most: whoever slept longer did not listen, and zeros cost memory."""

    def __init__(self, rate: int) -> None:
        self._rate = rate
        self._counted = 0  # samples so far, lost ones included
        self._begins: deque[float] = deque(maxlen=16)  # capture time less counted samples, of the last blocks
        self._until = rate // 2  # where the current half second ends
        self._delay = np.inf  # smallest arrival time less counted samples in it,
        self._before = np.inf  # in the one before,
        self._usual = np.inf  # and when all is well

    def lost(self, frames: int, captured: float, now: float, overflow: bool) -> int:
        """Samples lost just before a block of ``frames`` samples whose first was captured at ``captured`` seconds.

        ``now``: when the block was handed over, in seconds of the same clock. ``overflow``: the host says it lost some.
        """
        lost = self._said(frames, captured) if overflow else self._unsaid()
        lost = max(0, min(lost, self.LONGEST * self._rate))
        self._counted += lost
        self._begins.append(captured - self._counted / self._rate)
        self._counted += frames
        self._delay = min(self._delay, now - self._counted / self._rate)
        return lost

    def _said(self, frames: int, captured: float) -> int:
        begins = sorted(self._begins)
        if len(begins) < 4 or begins[-1] - begins[0] > self.EVEN:
            return frames
        return round((captured - begins[len(begins) // 2]) * self._rate) - self._counted

    def _unsaid(self) -> int:
        if self._counted < self._until:
            return 0
        delay, before = self._delay, self._before
        self._before, self._delay, self._until = delay, np.inf, self._counted + self._rate // 2
        if abs(delay - before) > self.EVEN:
            return 0
        if delay - self._usual < self.SILENT:
            self._usual = delay  # follows the slow drift between the two clocks, and a host that became quicker
            return 0
        lost = min(round((delay - self._usual) * self._rate), self.LONGEST * self._rate)
        self._usual = self._before = delay - lost / self._rate
        return lost
