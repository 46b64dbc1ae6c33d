"""Blocks to the device and answers back, beside what it computes: the next batch travels while one is being answered.

On a CPU nothing travels. On a GPU what `send` gives may be read on the current stream at once, and what `fetch` gives
may be read after `wait`. Memory of the host is pinned and comes from torch's cache, which gives none away again before
the copies that were queued from or to it are done.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

AHEAD = 2
"""Batches that may be under way when another is prepared: more would only take memory."""

Array = NDArray[np.float32]


class Transfers:
    """The way to one device and back, for one thread; to a CPU, for any number of them."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._cuda = device.type == "cuda"
        self._side = torch.cuda.Stream(device) if self._cuda else None  # type: ignore[no-untyped-call]
        self._ends: deque[torch.cuda.Event] = deque()

    def send(self, rows: Sequence[Array], size: int) -> Tensor:
        """Rows `[n]` f32 -> `[size, n]` f32 on the device, zeros behind the rows."""
        while len(self._ends) >= AHEAD:
            self._ends.popleft().synchronize()
        host = torch.empty(size, len(rows[0]), pin_memory=self._cuda)
        lines = host.numpy()
        for n, row in enumerate(rows):
            lines[n] = row
        lines[len(rows) :] = 0
        if self._side is None:
            return host
        with torch.cuda.stream(self._side):
            there = host.to(self._device, non_blocking=True)
        current = torch.cuda.current_stream(self._device)
        current.wait_stream(self._side)
        # It belongs to the other stream, where its memory must not be used again before this one has read it.
        there.record_stream(current)
        return there

    def fetch(self, *answers: Tensor) -> list[Tensor]:
        """The answers to a batch, as float32 on the host; it ends here."""
        if not self._cuda:
            return [answer.float() for answer in answers]
        there = [torch.empty(answer.shape, pin_memory=True) for answer in answers]
        for host, answer in zip(there, answers, strict=True):
            host.copy_(answer.float(), non_blocking=True)
        # Blocking: who waits for it leaves the core to others.
        end = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]
        end.record(torch.cuda.current_stream(self._device))
        self._ends.append(end)
        return there

    def wait(self) -> None:
        """Until everything that was fetched is there."""
        if self._ends:
            self._ends[-1].synchronize()
            self._ends.clear()
