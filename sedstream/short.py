"""A recording no longer than what a block answers for, as one block of its own length.

A windowed model computes all of its window. With the context on both sides of the plan for recordings that is 13 s, of
which an utterance of three fills a quarter: the rest would be silence, which costs as much, and which what is
normalised over the window hears.
"""

from __future__ import annotations

from typing import Any

from .block import Block
from .stream import Stream


class ShortStream(Stream):
    """A session that may be short, for a plan whose blocks nobody waits for; arguments and verbs are those of
    :class:`Stream`.

    Of a short one no block is pulled before its end is known, so how its samples come changes nothing.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._given = self.plan

    def pull(self) -> Block | None:
        if self._index == 0 and not self._in_block:
            frames = self._limits[0] - self._origin if self._limits else 0
            self.plan = self._given.short(frames) if 0 < frames <= self._given.step else self._given
        return super().pull()
