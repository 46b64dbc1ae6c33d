"""What to do when a batch does not fit in memory: half of it at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import torch

from ..errors import Unavailable

Answer = TypeVar("Answer")
CPU = "can't allocate memory"
"""What torch says in a plain RuntimeError when a CPU has no more."""


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
        if CPU not in str(error):
            raise
    # Only here has the error let go of what was computed so far.
    less(len(rows))
    if len(rows) == 1:
        raise Unavailable("Bad size of a block, expected one that fits in memory: a shorter window or recording")
    half = (len(rows) + 1) // 2
    return [answer for part in (rows[:half], rows[half:]) for answer in halving(compute, part, less)]
