"""What is asked of the models about one session: the atom of all computing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .grid import Plan
from .speech.relay import State


@dataclass(frozen=True, slots=True)
class Block:
    """What the models must read next for one session.

    ``samples`` ``[plan.window·320]`` f32: the window. ``chunks`` ``[n, 576]`` f32 and ``state``: for the VAD,
    which reads each sample once. ``memory``: what the model gave with its last answer, None at first and when that is
    two periods ago; ``follows``: that was the answer to the block right before this one; ``turns``: a period has begun
    since.
    """

    plan: Plan
    samples: NDArray[np.float32]
    chunks: NDArray[np.float32]
    state: State
    memory: Any
    follows: bool
    turns: bool
