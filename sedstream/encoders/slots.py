"""Memories of sessions in numbered places on a device, so that a batch of them is one gather and one scatter.

A slot is written once, by the block whose answer it came with, and not again while anybody holds it: the next block
reads it and writes another. A block may therefore be answered twice, or fail half-way, without harm to its session.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from .relay import Before

NOTHING, SPARE = 0, 1
"""Slots that no session has: how a session begins, and where rows write that belong to none."""
FEW = 64
"""Slots at first; then twice as many whenever they do not suffice."""
IDLE = Before(None, True)
"""What stands for a session in a row that only fills the batch: it follows a block that never was."""


class Slot:
    """One session's place. It is free again when nobody holds this any more, on whatever thread that happens."""

    __slots__ = ("_free", "number")

    def __init__(self, number: int, free: list[int]) -> None:
        self.number = number
        self._free = free

    def __del__(self) -> None:
        self._free.append(self.number)


class Slots:
    """Places for the memories of any number of sessions, for one thread and one stream of the device.

    Args:
        nothing: the fields of a memory, each without the dimension of the session, as a session has them that begins.
        device: where the places are.
        growing: is told how many there will be, before there are more: what holds on to `fields` must let go.
    """

    def __init__(
        self, nothing: Sequence[Tensor], device: torch.device, growing: Callable[[int], None] = lambda count: None
    ) -> None:
        self.fields = tuple(field.new_empty(FEW, *field.shape, device=device) for field in nothing)
        for field, row in zip(self.fields, nothing, strict=True):
            field[NOTHING] = row
        self.device = device
        self.count = FEW
        """Slots that there are, with those that no session has."""
        self._growing = growing
        self._free = list(range(FEW - 1, SPARE, -1))

    def take(self, count: int) -> list[Slot]:
        """As many slots that nobody holds; what stands in them means nothing.

        Raises:
            torch.OutOfMemoryError: there is no room for more slots; those that there are stay as they were.
        """
        if (missing := count - len(self._free)) > 0:
            self._grow(max(2 * self.count, self.count + missing))
        return [Slot(self._free.pop(), self._free) for _ in range(count)]

    def step(self, before: Sequence[Before]) -> tuple[list[Slot | None], Tensor]:
        """What the rows of a batch do, each with a slot as the memory of its session.

        The slots that the sessions have then (None: the row is idle), and int64 `[4, B]` on the device: the slot that
        each row reads, the one that it writes, 1 if it follows, and 1 if its states turn.
        """
        idle = [b.memory is None and b.follows for b in before]
        taken = iter(self.take(idle.count(False)))
        now = [None if row else next(taken) for row in idle]
        rows = [
            [NOTHING if b.memory is None else b.memory.number for b in before],
            [SPARE if slot is None else slot.number for slot in now],
            [int(b.follows) for b in before],
            [int(b.turns) for b in before],
        ]
        return now, upload(rows, self.device)

    def _grow(self, count: int) -> None:
        self._growing(count)
        larger = tuple(field.new_empty(count, *field.shape[1:]) for field in self.fields)
        for old, new in zip(self.fields, larger, strict=True):
            new[: self.count] = old
        self.fields = larger
        self._free += range(count - 1, self.count - 1, -1)
        self.count = count


def upload(rows: Sequence[Sequence[int]], device: torch.device) -> Tensor:
    """Whole numbers to the device, without waiting for what it is at: int64."""
    table = torch.tensor(rows, pin_memory=device.type == "cuda")
    return table.to(device, non_blocking=True)
