"""A function of tensors that on a GPU is captured once for each of their shapes and then replayed by one launch."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any

import torch
from torch import Tensor

WARM = 3
"""Calls before a capture: libraries choose their kernels and take their memory in them."""


class Graphs:
    """`function` of tensors on the current device, with tensors as its answer; on a CPU it is simply called.

    On CUDA the answer of a call is overwritten by the next call with the same shapes. What is captured holds on to its
    memory, so the shapes should be few: batches of fixed sizes. Arguments that are no tensors count as part of the
    shapes. Other tensors that the function reads or changes must stay where they are, or `clear` be called; and it is
    called several times with the first arguments, so that doing it again must change nothing.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function
        self._held: dict[Hashable, tuple[torch.cuda.CUDAGraph, list[Any], Any]] = {}
        self._stream: torch.cuda.Stream | None = None
        self._pool: Any = None

    def __call__(self, *given: Any) -> Any:
        if not any(isinstance(x, Tensor) and x.is_cuda for x in given):
            return self._function(*given)
        shapes = tuple(x.shape if isinstance(x, Tensor) else x for x in given)
        if shapes not in self._held:
            self._held[shapes] = self._capture(given)
        graph, fixed, answer = self._held[shapes]
        for place, x in zip(fixed, given, strict=True):
            if isinstance(x, Tensor):
                place.copy_(x)
        graph.replay()
        return answer

    def clear(self) -> None:
        """Forget all captures, and give their memory back."""
        if self._held:
            torch.cuda.synchronize()  # some may still be replaying
        self._held.clear()
        self._pool = None

    def _capture(self, given: tuple[Any, ...]) -> tuple[torch.cuda.CUDAGraph, list[Any], Any]:
        fixed = [x.clone() if isinstance(x, Tensor) else x for x in given]
        # Captures share memory only if they are made on one stream.
        stream = self._stream = self._stream or torch.cuda.Stream()  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(WARM):
                self._function(*fixed)
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        # Other threads may go on with what they do on the device: a VAD, say.
        with torch.cuda.graph(graph, pool=self._pool, stream=stream, capture_error_mode="thread_local"):
            answer = self._function(*fixed)
        # The answers are kept, so captures that share their memory never overwrite each other's.
        self._pool = self._pool or graph.pool()
        return graph, fixed, answer
