"""A function of one tensor that on a GPU is captured once for each shape and then replayed by one launch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

WARM = 3
"""Calls before a capture: libraries choose their kernels and take their memory in them."""


class Graphs:
    """`function` of a tensor, with tensors as its answer; on a CPU it is simply called.

    On CUDA the answer of a call is overwritten by the next call with the same shape. What is captured holds on to its
    memory, so the shapes should be few: batches of fixed sizes.
    """

    def __init__(self, function: Callable[[Tensor], Any]) -> None:
        self._function = function
        self._held: dict[torch.Size, tuple[torch.cuda.CUDAGraph, Tensor, Any]] = {}
        self._pool: Any = None

    def __call__(self, x: Tensor) -> Any:
        if not x.is_cuda:
            return self._function(x)
        if x.shape not in self._held:
            self._held[x.shape] = self._capture(x)
        graph, given, answer = self._held[x.shape]
        given.copy_(x)
        graph.replay()
        return answer

    def clear(self) -> None:
        """Forget all captures, and give their memory back."""
        self._held.clear()
        self._pool = None

    def _capture(self, x: Tensor) -> tuple[torch.cuda.CUDAGraph, Tensor, Any]:
        given = x.clone()
        stream = torch.cuda.Stream(x.device)  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream(x.device))
        with torch.cuda.stream(stream):
            for _ in range(WARM):
                self._function(given)
        torch.cuda.current_stream(x.device).wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool):
            answer = self._function(given)
        # The answers are kept, so captures that share their memory never overwrite each other's.
        self._pool = self._pool or graph.pool()
        return graph, given, answer
