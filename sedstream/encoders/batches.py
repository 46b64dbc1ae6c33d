"""How many rows share a batch of a GPU, and what to do when one does not fit in memory: half of it at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import torch

from ..errors import Unavailable

BUCKETS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
"""Batch sizes used on a GPU: fixed shapes, so that a row's numbers do not depend on how full the batch is."""
BUSY = 64
"""Rows that keep a GPU busy: a smaller batch is answered hardly sooner."""
Answer = TypeVar("Answer")
FULL = ("can't allocate memory", "CUDA error: out of memory", "ALLOC_FAILED")
"""What else says so, in a plain RuntimeError: a CPU, pinned memory, CUDA's libraries."""


def shares(rows: int, most: int) -> Iterator[int]:
    """How many of some rows go into each batch, none of more than `most`, a bucket: of a large one that is not full, at
    most a quarter is idle."""
    while rows:
        bucket = next(size for size in BUCKETS if size >= min(rows, most))
        if bucket > BUSY and rows < 0.75 * bucket:
            bucket //= 2
        yield min(rows, bucket)
        rows -= min(rows, bucket)


def halving(
    compute: Callable[[Sequence[int]], Answer], rows: Sequence[int], less: Callable[[int], None] = lambda rows: None
) -> list[Answer]:
    """`compute(rows)`, or of each half of them where that needs more memory than there is: the answers in order.

    `less` is told how many rows were too many, before it is tried again.

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
    less(len(rows))
    if len(rows) == 1:
        raise Unavailable("Bad size of a block, expected one that fits in memory: a shorter window or recording")
    half = (len(rows) + 1) // 2
    return [answer for part in (rows[:half], rows[half:]) for answer in halving(compute, part, less)]
