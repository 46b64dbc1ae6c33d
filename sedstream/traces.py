"""A function of tensors that on a CPU is traced once for each of their shapes, and from then on runs outside of Python.

torch lets Python's interpreter lock go for every operation and takes it again behind it. A step of a small model is
hundreds of them, and where other threads are busy in Python, as those of a server, each waits its turn: steps took
twice as long as they computed. A trace waits once.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

_ONE_AT_A_TIME = threading.Lock()
"""How traces are made is a setting of the process."""


class Traces:
    """`function` of tensors with a tensor or a tuple of them as its answer; weights that could learn are in `module`.

    Arguments that are no tensors count as part of the shapes. What the function does must follow from these alone: of
    what is in the tensors nothing may be asked. On a GPU, and where something is learned, it is simply called.
    """

    def __init__(self, function: Callable[..., Any], module: nn.Module | None = None) -> None:
        self._function = function
        self._module = module
        self._held: dict[Hashable, Any] = {}

    def __call__(self, *given: Any) -> Any:
        tensors = [x for x in given if isinstance(x, Tensor)]
        if torch.is_grad_enabled() or any(x.is_cuda for x in tensors):
            return self._function(*given)
        key = tuple((x.shape, x.dtype) if isinstance(x, Tensor) else x for x in given)
        if (trace := self._held.get(key)) is None:
            with _ONE_AT_A_TIME:
                trace = self._held[key] = self._held.get(key) or self._trace(given, tensors)
        return trace(*tensors)

    def clear(self) -> None:
        """Forget all traces."""
        self._held.clear()

    def _trace(self, given: tuple[Any, ...], tensors: list[Tensor]) -> Any:
        places = [isinstance(x, Tensor) for x in given]

        def function(*some: Tensor) -> Any:
            waiting = iter(some)
            return self._function(*(next(waiting) if place else x for x, place in zip(given, places, strict=True)))

        function(*tensors)  # tables that it makes the first time are no part of the trace
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # what is to follow it compiles, which takes a compiler
            trace = torch.jit.trace(_Call(self._module, function), tuple(tensors), check_trace=False)  # type: ignore[no-untyped-call]
        with _as_it_is():
            trace(*tensors)
        return trace


@contextmanager
def _as_it_is() -> Iterator[None]:
    """What first runs meanwhile runs as it was traced, for ever. Else torch profiles it, and fuses then what rounds
    otherwise; its older executor, which SpeechBrain chooses for the whole process, does so at once."""
    executor, profiles = torch._C._jit_set_profiling_executor(True), torch._C._jit_set_profiling_mode(False)
    try:
        yield
    finally:
        torch._C._jit_set_profiling_executor(executor)
        torch._C._jit_set_profiling_mode(profiles)


class _Call(nn.Module):
    """A function as a module, for which the weights of another are its own."""

    def __init__(self, module: nn.Module | None, function: Callable[..., Any]) -> None:
        super().__init__()
        self.module = module
        self.function = function

    def forward(self, *tensors: Tensor) -> Any:
        return self.function(*tensors)
