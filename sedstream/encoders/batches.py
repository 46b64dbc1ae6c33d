"""What to do when a batch does not fit in memory: half of it at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import torch

from ..errors import Unavailable

Answer = TypeVar("Answer")
FULL = ("can't allocate memory", "CUDA error: out of memory", "ALLOC_FAILED")
"""What else says so, in a plain RuntimeError: a CPU, pinned memory, CUDA's libraries."""


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
