"""How many bits a network computes with."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

PRECISIONS = {
    "auto": torch.bfloat16,
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}


@contextmanager
def exact() -> Iterator[None]:
    """float32 is float32 on a GPU, not TF32, whoever allowed that in this process: cuDNN does by default, SpeechBrain
    does when it is loaded."""
    matrices, rest = torch.backends.cuda.matmul, torch.backends.cudnn
    before = matrices.allow_tf32, rest.allow_tf32
    matrices.allow_tf32, rest.allow_tf32 = False, False
    try:
        yield
    finally:
        matrices.allow_tf32, rest.allow_tf32 = before
