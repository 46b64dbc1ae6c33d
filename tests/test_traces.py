"""A function that runs outside of Python gives what it gave in it."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import Tensor, nn

from sedstream.traces import Traces


class Counted:
    """A function of tensors and a word, which knows how often Python ran it."""

    def __init__(self) -> None:
        self.calls = 0
        self.layer = nn.Linear(3, 3)

    def __call__(self, x: Tensor, word: str, y: Tensor) -> tuple[Tensor, Tensor]:
        self.calls += 1
        return self.layer(x) + y, x if word == "same" else -x


def same(found: tuple[Tensor, Tensor], expected: tuple[Tensor, Tensor]) -> None:
    for a, b in zip(found, expected, strict=True):
        assert torch.equal(a, b)


@torch.inference_mode()
def test_gives_what_the_function_gives() -> None:
    function = Counted()
    traces = Traces(function, function.layer)
    for word in ("same", "other"):
        for rows in (1, 4):
            for _ in range(4):
                x, y = torch.randn(rows, 3), torch.randn(rows, 3)
                same(traces(x, word, y), Counted.__call__(function, x, word, y))
    before = function.calls
    traces(torch.randn(4, 3), "same", torch.randn(4, 3))
    assert function.calls == before, "Python had nothing to do"
    traces.clear()
    traces(torch.randn(4, 3), "same", torch.randn(4, 3))
    assert function.calls > before


@torch.inference_mode()
def test_numbers_of_another_kind_are_traced_anew() -> None:
    """What the function makes by itself, as a mask, is part of the trace."""
    traces = Traces(lambda x: torch.linspace(0, 1, 3, dtype=x.dtype) / 3)
    for kind in (torch.float32, torch.float64, torch.float32):
        x = torch.zeros(3, dtype=kind)
        assert torch.equal(traces(x), torch.linspace(0, 1, 3, dtype=kind) / 3)
        assert traces(x).dtype == kind


@pytest.mark.parametrize("new", [True, False], ids=["torch", "SpeechBrain"])
@torch.inference_mode()
def test_rounds_as_the_function_does(new: bool) -> None:
    """However the process wants traces to run: they may add the bias of a wide product behind it, not in it."""
    weight, bias = torch.randn(516, 512), torch.randn(512)
    traces = Traces(lambda x: torch.addmm(bias, x, weight))
    before = torch._C._jit_set_profiling_executor(new), torch._C._jit_set_profiling_mode(new)
    try:
        for x in torch.randn(4, 32, 516):
            assert torch.equal(traces(x), torch.addmm(bias, x, weight))
        assert torch._C._jit_set_profiling_executor(new) == new, "the setting is as it was"
        assert torch._C._jit_set_profiling_mode(new) == new
    finally:
        torch._C._jit_set_profiling_executor(before[0])
        torch._C._jit_set_profiling_mode(before[1])


@torch.inference_mode()
def test_reads_the_weights_that_there_are() -> None:
    function = Counted()
    traces = Traces(function, function.layer)
    x = torch.randn(2, 3)
    traces(x, "same", x)
    function.layer.weight.copy_(torch.eye(3))
    function.layer.bias.zero_()
    same(traces(x, "same", x), (2 * x, x))


def test_threads_may_share_one() -> None:
    function = Counted()
    traces = Traces(function, function.layer)

    def run(number: int) -> None:
        with torch.inference_mode():
            x = torch.full((2 + number % 3, 3), float(number))
            for _ in range(20):
                same(traces(x, "other", x), (function.layer(x) + x, -x))

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(run, range(12)))


def test_what_learns_is_not_traced() -> None:
    function = Counted()
    traces = Traces(function, function.layer)
    for times in range(1, 4):
        traces(torch.ones(1, 3), "same", torch.ones(1, 3))[0].sum().backward()
        assert function.calls == times
    assert function.layer.weight.grad is not None


@pytest.mark.filterwarnings("error")
@torch.inference_mode()
def test_a_trace_warns_of_nothing() -> None:
    function = Counted()
    for _ in range(2):
        Traces(function, function.layer)(torch.ones(1, 3), "same", torch.ones(1, 3))
