"""Whose block is answered next: the oldest deadline first, a bounded number a tick, nobody faster than allowed.

A block is due when the audio that completes it arrives. Audio that comes faster than real time brings its blocks early:
they are due as if it had been spoken, so they use what live calls leave over and never stand in front of one (earliest
deadline first: Liu and Layland, "Scheduling Algorithms for Multiprogramming in a Hard-Real-Time Environment", 1973).
No clock stands here: times are seconds of any clock that only grows, and come from outside.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from math import inf

from .grid import HOP, seconds
from .stream import Stream

CATCH_UP = 1.25
"""Times real time at which deadlines follow each other at most: what a call that fell behind has to catch up with."""
SHARE = 1 / 8
"""Of a step: how long a tick may take. Audio that arrives meanwhile waits for its end."""


@dataclass(eq=False, slots=True)
class Lane:
    """One stream's place in the queue."""

    stream: Stream
    due: float = -inf
    """When the block that is next should be answered; as ``line_up`` found it."""
    came: float = -inf
    """When the audio was there that completes that block."""
    earliest: float = -inf
    """It may not be answered before."""
    _arrivals: deque[tuple[int, float]] = field(default_factory=deque)  # (samples, when all of them were there)
    _there: int = 0  # samples that have arrived
    _lost: deque[tuple[int, int]] = field(default_factory=deque)  # first and last (exclusive) of what only stands there
    _ahead: float = 0.0  # by how much that has put off the next deadline
    _ending: bool = False

    def arrived(self, samples: int, now: float, lost: bool = False) -> None:
        """The stream's first ``samples`` samples were there at ``now``; ``lost``: the newest only stand for others."""
        if samples <= self._there:
            return
        if lost:
            joined = self._lost and self._lost[-1][1] == self._there
            first = self._lost.pop()[0] if joined else self._there
            self._lost.append((first, samples))
        self._there = samples
        self._arrivals.append((samples, now))

    def ends(self, now: float) -> None:
        """A flush or the close: blocks are ready that lack samples."""
        self._ending = True
        self._arrivals.append((self.stream.written, now))

    def answered(self, any_block: bool) -> None:
        """A tick has been there; without ``any_block``, what a flush had cut short is through."""
        self._ending = self._ending and any_block

    @property
    def ready(self) -> bool:
        """There may be a block to answer."""
        return not self.stream.done and (self._ending or self.stream.waiting >= self._first)

    @property
    def lacking(self) -> int:
        """Samples at 16 kHz until one more block is complete."""
        step = self.stream.plan.step * HOP
        complete = max(0, (self.stream.waiting - self._first) // step + 1)
        return self._first + complete * step - self.stream.waiting

    def line_up(self) -> None:
        """There is a next block: due when its audio came, but not much sooner after the last one than it was spoken."""
        end = self.stream.written - self.stream.waiting + self._first
        while len(self._arrivals) > 1 and self._arrivals[0][0] < end:
            self._arrivals.popleft()
        self.came = self._arrivals[0][1] if self._arrivals else -inf
        pace = seconds(self.stream.plan.step) / CATCH_UP
        while self._lost and self._lost[0][1] < end:
            self._lost.popleft()
        if self._lost and self._lost[0][0] <= end - self.stream.plan.step * HOP:
            self._ahead += pace  # nobody has spoken faster: who goes on after a hold is not late for it
        else:
            self.due -= self._ahead
            self._ahead = 0.0
        self.due = max(self.came, self.due + pace)

    @property
    def _first(self) -> int:
        """Samples from the start of a block to the end of what it reads."""
        return self.stream.plan.span(0)[1]


class Schedule:
    """Chooses the lanes of each tick. ``budget``: seconds a tick should take at most; ``least``: blocks that one may
    hold in any case (what a machine computes side by side); ``max_speed``: times real time that a lane may run at."""

    def __init__(self, budget: float, least: int = 1, max_speed: float = inf) -> None:
        self.limit = least
        """Blocks of the next tick at most."""
        self._budget = budget
        self._least = least
        self._max_speed = max_speed

    def choose(self, ready: Iterable[Lane], now: float) -> list[Lane]:
        """The lanes whose next block is answered now, the oldest deadline first."""
        return sorted((lane for lane in ready if lane.earliest <= now), key=lambda lane: lane.due)[: self.limit]

    def answered(self, lanes: Sequence[Lane], began: float, ended: float) -> None:
        """``lanes`` had a block answered in a tick: how many fit in the next one, and when each may go on."""
        for lane in lanes:
            lane.earliest = max(lane.earliest, began) + seconds(lane.stream.plan.step) / self._max_speed
        count, took = len(lanes), ended - began
        if took > self._budget:
            self.limit = max(self._least, int(count * self._budget / took))
        elif count >= self.limit:
            self.limit += 1
