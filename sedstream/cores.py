"""How many CPU cores torch uses: where sessions are served, one for each batch."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


def one_core() -> None:
    """Start a thread of a pool with this: each has its own number of cores for a batch, and it should be one."""
    torch.set_num_threads(1)


@contextmanager
def alone() -> Iterator[None]:
    """One core for what this thread computes meanwhile. Threads that share a batch wait for each other in busy loops,
    and where another program wants a core too, it takes ten times as long. Threads side by side, each with a batch, are
    faster in any case."""
    threads = torch.get_num_threads()
    if threads > 1:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        if threads > 1:
            torch.set_num_threads(threads)
