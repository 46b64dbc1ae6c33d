"""Integer time. Samples and frames are numbered from the start of a session; seconds exist only at the edges."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf

from .errors import BadInput

RATE = 16_000
"""Samples per second inside sedstream."""
HOP = 320
"""Samples per frame: 20 ms."""
PERIOD = 384
"""Frames (7.68 s) after which a session begins to forget, see ``encoders/relay.py``: a whole number of blocks of every
plan of the default model."""

LONGEST = 10_000
"""Frames (200 s) that a block of a plan reads at most."""
LENGTHS = 10
"""Of blocks of short recordings: a GPU prepares itself for each."""


def frames_of(samples: int) -> int:
    """The number of frames that ``samples`` touch: frame *f* owns samples [HOP·f, HOP·(f+1))."""
    return -(-samples // HOP)


def seconds(frames: int) -> float:
    """The time of a frame boundary in seconds; 0.02 is not a binary fraction, so round once, here."""
    return round(frames * HOP / RATE, 4)


@dataclass(frozen=True, slots=True)
class Plan:
    """Which samples a block reads and which frames it answers for, all in frames of 20 ms.

    Block *k* answers frames [k·step, (k+1)·step) and reads [k·step - left, (k+1)·step + right).
    ``step`` is a multiple of 8 so that a block holds whole 32 ms VAD chunks (8·320 = 5·512 samples).

    ``Plan(0, 0, 0)`` is the whole session in one block, once its end is known: for recordings, not for live audio, in
    memory that grows with their length.
    """

    left: int
    step: int
    right: int

    def __post_init__(self) -> None:
        if self.whole:
            return
        if self.step <= 0 or self.step % 8:
            raise BadInput(f"Bad plan step {self.step}, expected a positive multiple of 8 frames")
        # right ≥ 1: a block is then never the last one before its session is known to end, so what the last block does
        # cannot depend on whether the end was announced before or after it was pulled.
        if self.left < 0 or self.right < 1:
            raise BadInput(f"Bad plan context {self.left}, {self.right}, expected left ≥ 0 and right ≥ 1 frames")
        if self.window > LONGEST:
            raise BadInput(f"Bad plan of {self.window} frames, expected {LONGEST} or fewer in a block")

    @property
    def whole(self) -> bool:
        """One block for all of the session."""
        return self.left == self.step == self.right == 0

    @property
    def window(self) -> int:
        """Frames that one block reads."""
        return self.left + self.step + self.right

    @property
    def latency(self) -> float:
        """Algorithmic latency in seconds: how long after its sound a frame is answered at the latest."""
        return inf if self.whole else seconds(self.step + self.right)

    def span(self, block: int) -> tuple[int, int]:
        """First and last (exclusive) sample that ``block`` reads; the first is negative at the start."""
        first = block * self.step
        return (first - self.left) * HOP, (first + self.step + self.right) * HOP

    def short(self, frames: int, *, cached: bool = False) -> Plan:
        """The plan of a recording of so many ``frames``, at most ``step``: one block of one of few lengths, without
        context. A ``cached`` encoder keeps its look-ahead, for which it encodes as long a chunk before."""
        length = -(-self.step // (8 * LENGTHS)) * 8
        step = min(self.step, -(-max(frames, self.right if cached else 1) // length) * length)
        return Plan(self.left - self.step + step, step, self.right) if cached else Plan(0, step, 1)

    def period(self, block: int) -> int:
        """In which period ``block`` stands: they are of PERIOD frames, or as many more as make a whole block."""
        return block // -(-PERIOD // self.step)
