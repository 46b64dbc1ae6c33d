"""How many bits a network computes with."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock

import torch

PRECISIONS = {
    "auto": torch.bfloat16,
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}

_lock = Lock()
_inside: list[tuple[bool, bool]] = []
"""For each thread that is inside of `exact`, what was allowed before the first of them came."""


@contextmanager
def exact() -> Iterator[None]:
    """float32 is float32 on a GPU, not TF32, whoever allowed that in this process: cuDNN does by default, SpeechBrain
    does when it is loaded. What was allowed is again once no thread is inside."""
    matrices, rest = torch.backends.cuda.matmul, torch.backends.cudnn
    with _lock:
        _inside.append(_inside[0] if _inside else (matrices.allow_tf32, rest.allow_tf32))
        matrices.allow_tf32, rest.allow_tf32 = False, False
    try:
        yield
    finally:
        with _lock:
            before = _inside.pop()
            if not _inside:
                matrices.allow_tf32, rest.allow_tf32 = before
