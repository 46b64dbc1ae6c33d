"""Two states that begin anew by turns, so that what a session remembers is never older than two periods.

Of a state that goes on for ever nobody can say when it has forgotten something. Here two of them are told the same: the
older one answers, and when a period of the session is over it gives way to the younger one, beside which a new one
begins. The one that answers has then heard all of the session, or at least one period of it and at most two.

Periods are those of `Plan.period`: counted from where the session begins, silent blocks too. So states turn at the same
places of the same sound, however long nothing was asked about it.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

OLDER = 0
"""Of the two states, the one that answers."""


class Before(NamedTuple):
    """What came before a block in its session."""

    memory: Any = None
    """What the network gave with its last answer; None: nothing yet, or nothing that is not forgotten."""
    follows: bool = False
    """That was the answer to the block right before this one."""
    turns: bool = False
    """A period has begun since then."""


def two(nothing: Tensor) -> Tensor:
    """The states `[2, ...]` of a session at its beginning, from that of nothing `[...]`."""
    return torch.stack([nothing, nothing])


def turn(states: Tensor, due: Tensor, nothing: Tensor) -> Tensor:
    """States `[B, 2, ...]` after they have turned where it is `due`, bool `[B]`: what was the younger one is the older
    one, and the younger one begins with `nothing`, `[2, ...]` as `two` gives it."""
    turned = torch.stack([states[:, 1], nothing[1].expand_as(states[:, 1])], 1)
    return torch.where(due.view(-1, *[1] * (states.ndim - 1)), turned, states)
