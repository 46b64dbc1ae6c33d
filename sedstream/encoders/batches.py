"""How many rows share a batch of a GPU, and what to do when one does not fit in memory: half of it at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import torch

from ..errors import Unavailable

BUCKETS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 320, 384, 448, 512)
"""Batch sizes used on a GPU: fixed shapes, so that a row's numbers do not depend on how full the batch is."""
BUSY = 64
"""Rows that keep a GPU busy: a smaller batch is answered hardly sooner."""
FIRST = 16_384
"""Frames whose samples are sent before anything is computed, at most: all others travel while a GPU computes."""
Answer = TypeVar("Answer")
FULL = ("can't allocate memory", "CUDA error: out of memory", "ALLOC_FAILED")
"""What else says so, in a plain RuntimeError: a CPU, pinned memory, CUDA's libraries."""


def bucket(rows: int) -> int:
    """The size of the batch that so many rows go into."""
    return next(size for size in BUCKETS if size >= rows)


def less(rows: int) -> int:
    """The largest batch that is no more than half of that of so many rows."""
    return max(size for size in BUCKETS if size == 1 or size <= bucket(rows) // 2)


def shares(rows: int, most: int, first: int = BUCKETS[-1]) -> list[int]:
    """How many of some rows go into each batch, none of more than `most`, a bucket: of a large one that is not full, at
    most a quarter is idle. The smallest comes first, of no more than `first` rows: a GPU has nothing to do before it is
    there."""
    found = []
    while rows:
        size = bucket(min(rows, most))
        if size > BUSY and rows < 0.75 * size:
            size = less(size)
        found.append(min(rows, size))
        rows -= found[-1]
    found.reverse()
    while found and found[0] > max(1, first):
        found[:1] = shares(found[0], less(found[0]))
    return found


def halving(
    compute: Callable[[Sequence[int]], Answer], rows: Sequence[int], tell: Callable[[int], None] = lambda rows: None
) -> list[Answer]:
    """`compute(rows)`, or of each half of them where that needs more memory than there is: the answers in order.

    `tell` is told how many rows were too many, before it is tried again.

    Raises:
        Unavailable: one row alone is too much.
    """
    try:
        return [compute(rows)]
    except torch.OutOfMemoryError:
        pass
    except RuntimeError as error:
        # A capture that was cut short may end with an error of its own.
        if not isinstance(error.__context__, torch.OutOfMemoryError) and not any(text in str(error) for text in FULL):
            raise
    # Only here has the error let go of what was computed so far.
    tell(len(rows))
    if len(rows) == 1:
        raise Unavailable("Bad size of a block, expected one that fits in memory: a shorter window or recording")
    half = (len(rows) + 1) // 2
    return [answer for part in (rows[:half], rows[half:]) for answer in halving(compute, part, tell)]
