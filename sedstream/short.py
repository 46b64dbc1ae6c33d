"""A recording no longer than what a block answers for, as one block of its own length.

A model computes all of a block. With the context on both sides of the plan for recordings that is 13 s for a windowed
one, of which an utterance of three fills a quarter, and for a cached one two chunks of 8 s: the rest would be silence,
which costs as much, and which attention and what is normalised over the window hear.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .block import Block
from .manifest import Manifest
from .stream import Stream


class ShortStream(Stream):
    """A session that may be short, for a plan whose blocks nobody waits for; arguments and verbs are those of
    :class:`Stream`.

    Of a short one no block is pulled before its end is known, so how its samples come changes nothing.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._given = self.plan
        self._cached = self._manifest.kind == "cached"

    def pull(self) -> Block | None:
        if self._index == 0 and not self._in_block:
            frames = self._limits[0] - self._origin if self._limits else 0
            short = 0 < frames <= self._given.step
            self.plan = self._given.short(frames, cached=self._cached) if short else self._given
        return super().pull()


def stream_of(
    manifest: Manifest, plan: str, labels: Sequence[str] | None = None, *, keep_frames: bool = False
) -> Stream:
    """A session, live or of a recording: nobody waits for what ``batch`` answers. A whole plan is for neither, and
    refused; arguments are those of :class:`Stream`."""
    kind = ShortStream if plan == "batch" and not manifest.plan(plan).whole else Stream
    return kind(manifest, plan, labels, keep_frames=keep_frames)
