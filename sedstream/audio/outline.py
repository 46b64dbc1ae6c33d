"""What a picture can show of a recording, however long it is."""

from __future__ import annotations

import numpy as np

from .files import Recording
from .pcm import Samples, mix


def outline(recording: Recording, *, mixed: bool) -> tuple[Samples, float]:
    """Least and greatest sample of each 10 ms, or a little less, and how many these are a second.

    Float32 ``[n, channels]``; ``mixed``: of the mix of the channels, ``[n, 1]``.
    """
    step = recording.rate // 100
    width = 1 if mixed else recording.channels
    rest = np.empty((0, width), np.float32)
    parts = []
    for block in recording.blocks():
        rest = np.concatenate([rest, mix(block)[:, None] if mixed else block])
        whole = len(rest) // step * step
        pieces = rest[:whole].reshape(-1, step, width)
        parts.append(np.stack([pieces.min(axis=1), pieces.max(axis=1)], axis=1).reshape(-1, width))
        rest = rest[whole:]
    parts += [rest.min(axis=0, keepdims=True), rest.max(axis=0, keepdims=True)] if len(rest) else []
    return np.concatenate(parts), 2 * recording.rate / step
