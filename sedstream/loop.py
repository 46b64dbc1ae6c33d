"""The one loop: every ready block of every session, one VAD call, one model call, the rows handed back."""

from __future__ import annotations

import itertools
from collections.abc import Iterable

from .block import Block
from .encoders.relay import Before
from .stream import Stream
from .zoo import Model, Spread


def tick(model: Model, streams: Iterable[Stream], spread: Spread = map) -> int:
    """Answer at most one block of each stream; how many blocks were answered (0: all wait for samples).

    ``spread``: see :class:`sedstream.zoo.Model`. It changes the time, not the answer.
    """
    ready = [(stream, block) for stream in streams if (block := stream.pull()) is not None]
    if not ready:
        return 0
    groups = [[ready[n] for n in group] for group in model.silero.groups([len(block.chunks) for _, block in ready])]
    parts = spread(lambda group: model.silero([b.chunks for _, b in group], [b.state for _, b in group]), groups)
    heard = [answer for part in parts for answer in part]
    spoken: list[tuple[Stream, Block]] = []
    for (stream, block), (probabilities, state) in zip(itertools.chain(*groups), heard, strict=True):
        if stream.hear(probabilities, state):
            spoken.append((stream, block))
        else:
            stream.push(None, None)
    for plan, size in {(block.plan, len(block.samples)): None for _, block in spoken}:
        rows = [(stream, block) for stream, block in spoken if (block.plan, len(block.samples)) == (plan, size)]
        before = [Before(block.memory, block.follows, block.turns) for _, block in rows]
        scores, affect, memories = model([block.samples for _, block in rows], plan, spread, before)
        for n, (stream, _) in enumerate(rows):
            stream.push(scores[n], affect[n], memories[n])
    return len(ready)
