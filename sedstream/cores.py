"""How many CPU cores there are, and how many torch uses: where sessions are served, one for each batch."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Thread

import torch


def count() -> int:
    """Cores that this process may use: of a machine's, a container has often less."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def one_core() -> None:
    """Start a thread of a pool with this: each has its own number of cores for a batch, and it should be one."""
    threads = torch.get_num_threads()
    if threads > 1:
        torch.set_num_threads(1)
        # It has become the number of every thread that has not used torch yet, too: they are to have theirs.
        another = Thread(target=torch.set_num_threads, args=(threads,))
        another.start()
        another.join()


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
