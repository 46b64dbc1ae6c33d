"""Windowed models whose sessions have their last samples in rings on the device.

Of a block that follows the one before it only the step is new, and only that crosses the bus: with 5 s windows every
half second a tenth of what the window has. The price is that samples are rounded to 16 bits, on the device: the host
would take longer to round them than the bus takes for twice the bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .encoders.networks import Answer, Network
from .encoders.relay import Before
from .encoders.slots import FEW, SPARE, Slot, Slots, upload
from .front import EPSILON, FULL_SCALE, Rings
from .grid import HOP, Plan


class Heard(NamedTuple):
    """What a session remembers: its ring, how many samples it took, and what the network itself remembers.

    The ring holds a step more than a window. What a block writes there is nothing that the block before it reads, so
    both may be answered again.
    """

    slot: Slot
    end: int
    memory: Any


class RingedNetwork(Network):
    """A windowed `network` with rings before it; for one thread. ``native``: see :meth:`sedstream.front.Rings.windows`.

    It takes over from the encoder what that would do to the wave of a whole window, where that is what the front-end
    does too.
    """

    def __init__(self, network: Network, native: bool | None = None) -> None:
        super().__init__()
        self.network = network
        self._native = native
        encoder: Any = network.encoder
        self._normalise = getattr(encoder, "wave", "raw") == "normalised" and encoder.epsilon == EPSILON
        if self._normalise:
            encoder.wave = "raw"
        self._rings: dict[Plan, tuple[Slots, Rings]] = {}

    def forward(self, samples: Tensor, plan: Plan, before: Sequence[Before]) -> Answer:
        if plan.whole:
            if self._normalise:
                samples = F.layer_norm(samples, samples.shape[1:], eps=EPSILON)
            answer: Answer = self.network(samples, plan, before)
            return answer
        if plan not in self._rings:
            rings = Rings(FEW, (plan.window + plan.step) * HOP, device=samples.device)
            self._rings[plan] = Slots([], samples.device, rings.grow), rings
        slots, rings = self._rings[plan]
        starting = iter(slots.take(sum(not b.follows for b in before)))
        places, ends = [], []
        for memory, follows, _ in before:
            old = memory if follows else Heard(next(starting), (plan.window - plan.step) * HOP, None)
            places.append(SPARE if old is None else old.slot)
            ends.append(plan.window * HOP if old is None else old.end + plan.step * HOP)
        numbers = [place if isinstance(place, int) else place.number for place in places]
        slot, end = upload([numbers, ends], samples.device)
        rings.write(slot, end - samples.shape[1], rounded(samples))
        width = self.network.reads(plan, all(b.follows for b in before))
        windows = rings.windows(slot, end, width, normalise=self._normalise, native=self._native)
        inner = [b if b.memory is None else b._replace(memory=b.memory.memory) for b in before]
        logits, affect, memories = self.network(windows, plan, inner)
        heard = [
            None if isinstance(place, int) else Heard(place, end, memory)
            for place, end, memory in zip(places, ends, memories, strict=True)
        ]
        return logits, affect, heard

    def reads(self, plan: Plan, follows: bool) -> int:
        if plan.whole:
            return self.network.reads(plan, follows)
        return (plan.step if follows else plan.window) * HOP

    def check(self, name: str, plan: Plan) -> None:
        self.network.check(name, plan)

    def halve(self, dtype: torch.dtype) -> None:
        self.network.halve(dtype)

    def release(self) -> None:
        self.network.release()


def rounded(samples: Tensor) -> Tensor:
    """Samples float32 in -1…1 -> int16, to the nearest 1/32768."""
    return (samples * FULL_SCALE).round().clamp(-FULL_SCALE, FULL_SCALE - 1).to(torch.int16)
