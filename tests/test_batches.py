"""Batches that do not fit in memory, with allocations that really fail; and what runs on a GPU where there is one."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import recipe
import torch
from conftest import ROOT
from test_wav2vec import LARGE, PLAN, SIZE, networks, small, voices

from sedstream.encoders.batches import bucket, halving, less, shares
from sedstream.encoders.graphs import Graphs
from sedstream.encoders.heads import LinearHead
from sedstream.encoders.networks import OverlappingNetwork
from sedstream.encoders.relay import Before
from sedstream.errors import BadInput, Unavailable
from sedstream.grid import HOP, Plan
from sedstream.precision import exact
from sedstream.zoo import load

TOO_MUCH = 2**56
"""Bytes that no machine has."""


@pytest.mark.parametrize("fits", [1, 2, 3, 5, 8])
def test_halves_until_it_fits(fits: int) -> None:
    tried: list[int] = []
    told: list[int] = []

    def compute(rows: Sequence[int]) -> torch.Tensor:
        tried.append(len(rows))
        torch.empty(TOO_MUCH if len(rows) > fits else 8, dtype=torch.uint8)
        return torch.tensor(rows)

    answers = halving(compute, list(range(8)), told.append)
    assert torch.cat(answers).tolist() == list(range(8))
    assert all(len(answer) <= fits for answer in answers)
    assert told == [count for count in tried if count > fits]


@pytest.mark.parametrize("most", [8, 64, 512])
def test_batches_are_nearly_full(most: int) -> None:
    for rows in range(1, 1500):
        parts = shares(rows, most)
        assert sum(parts) == rows
        assert max(parts) <= most
        assert parts == sorted(parts)
        computed = sum(map(bucket, parts))
        assert computed < 4 / 3 * rows + 64
        assert len(parts) <= rows // most + 5
    assert shares(800, 512) == [288, 512]
    assert shares(700, 512) == [60, 128, 512]
    assert shares(500, 512) == [500]
    assert shares(64, 512, 34) == [32, 32]
    assert shares(512, 512, 65) == [64, 64, 128, 256]
    assert shares(448, 512, 65) == [64, 128, 128, 128]
    assert shares(3, 512, 0) == [1, 2]
    for first in (1, 7, 40, 100):
        for rows in range(1, 700):
            parts = shares(rows, most, first)
            assert sum(parts) == rows
            assert max(parts) <= most
            assert parts[0] <= first
            assert sum(map(bucket, parts)) < 4 / 3 * rows + 64
    assert [less(rows) for rows in (1, 2, 3, 256, 257, 400, 512)] == [1, 1, 2, 128, 128, 128, 256]


def test_one_row_is_too_much() -> None:
    with pytest.raises(Unavailable, match="expected one that fits in memory"):
        halving(lambda rows: torch.empty(TOO_MUCH, dtype=torch.uint8), [0, 1])


def test_other_errors_are_not_hidden() -> None:
    with pytest.raises(RuntimeError, match="shape"):
        halving(lambda rows: torch.zeros(3).reshape(len(rows), 2), [0, 1])


def test_the_other_kind_of_error() -> None:
    """What a GPU raises is halved too."""
    tried: list[int] = []

    def compute(rows: Sequence[int]) -> int:
        tried.append(len(rows))
        if len(rows) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return len(rows)

    assert halving(compute, list(range(6))) == [2, 1, 2, 1]
    assert tried == [6, 3, 2, 1, 3, 2, 1]


def test_precision(tmp_path: Path) -> None:
    checkpoint = recipe.save(tmp_path, "WavLM", {**SIZE, **LARGE, "conv_bias": False})
    with pytest.raises(BadInput, match="Bad precision 'float8', expected auto, float32, bfloat16, float16"):
        load(checkpoint, precision="float8")
    plan = Plan(10, 16, 14)
    samples = voices(2, plan.window * HOP).numpy()
    ours = load(checkpoint)(samples, plan)[0]
    assert np.array_equal(load(checkpoint, precision="float32")(samples, plan)[0], ours)


def test_float32_is_not_tf32() -> None:
    """SpeechBrain allows it for the whole process; that is put back, after errors too."""
    matrices, rest = torch.backends.cuda.matmul, torch.backends.cudnn
    before = matrices.allow_tf32
    matrices.allow_tf32 = True
    try:
        with suppress(ArithmeticError), exact():
            assert not matrices.allow_tf32
            assert not rest.allow_tf32
            raise ArithmeticError
        assert matrices.allow_tf32
        assert rest.allow_tf32
    finally:
        matrices.allow_tf32 = before


@torch.inference_mode()
def test_half_the_bits_give_nearly_the_same() -> None:
    """The code that a GPU runs in 16 bits, here on the CPU."""
    plain, half = networks()[0], networks()[0]
    half.halve(torch.bfloat16)
    samples = voices(2, PLAN.window * HOP)
    before = [Before()] * 2
    expected, found = plain(samples, PLAN, before)[0], half(samples, PLAN, before)[0]
    assert half.encoder.dtype == torch.bfloat16
    assert found.dtype == torch.float32
    assert (expected.argmax(-1) == found.argmax(-1)).float().mean() > 0.9
    torch.testing.assert_close(found, expected, atol=0.1, rtol=0)
    assert not torch.equal(found, expected)


def test_a_graph_on_a_cpu_is_a_call() -> None:
    called = []
    graphs = Graphs(lambda x: (called.append(x.shape), x + 1)[1])
    assert torch.equal(graphs(torch.zeros(2)), torch.ones(2))
    assert torch.equal(graphs(torch.ones(2)), torch.ones(2) + 1)
    assert len(called) == 2


@pytest.mark.parametrize("says", ["CUDA error: out of memory", "CUBLAS_STATUS_ALLOC_FAILED when calling"])
def test_libraries_that_say_it_in_their_own_words(says: str) -> None:
    def compute(rows: Sequence[int]) -> int:
        if len(rows) > 1:
            raise RuntimeError(says)
        return rows[0]

    assert halving(compute, [3, 4]) == [3, 4]


def test_a_capture_that_was_cut_short() -> None:
    """What ends it may fail too, and its error then hides the reason."""

    def compute(rows: Sequence[int]) -> int:
        try:
            if len(rows) > 1:
                raise torch.OutOfMemoryError("CUDA out of memory")
        finally:
            if len(rows) > 1:
                raise RuntimeError("the capture was invalidated")
        return rows[0]

    assert halving(compute, [3, 4]) == [3, 4]


def test_a_graph_takes_several_arguments() -> None:
    graphs = Graphs(lambda x, y, sign: (x + y, sign * y))
    together, alone = graphs(torch.ones(2), torch.arange(2), -1)
    assert (together.tolist(), alone.tolist()) == ([1, 2], [0, -1])


@pytest.mark.gpu
def test_a_graph_for_each_shape_and_constant() -> None:
    state = torch.zeros(2, device="cuda")

    def function(x: torch.Tensor, y: torch.Tensor, sign: int) -> torch.Tensor:
        state.copy_(x)
        return x + sign * y

    graphs = Graphs(function)
    for n in range(4):
        x, y = torch.full((2,), float(n), device="cuda"), torch.ones(2, device="cuda")
        assert graphs(x, y, 2).tolist() == [n + 2] * 2
        assert state.tolist() == [n] * 2
        assert graphs(x, y, -1).tolist() == [n - 1] * 2
        assert graphs(x, torch.ones(1, device="cuda"), -1).tolist() == [n - 1] * 2
    assert len(graphs._held) == 3
    graphs.clear()
    assert graphs(x, y, 2).tolist() == [5, 5]


@pytest.mark.gpu
@torch.inference_mode()
def test_graphs_replay_what_was_captured() -> None:
    plain, cached = (network.cuda() for network in networks())
    samples = voices(4, (PLAN.window + 3 * PLAN.step) * HOP).cuda()
    before = [Before()] * 4
    for block in range(4):
        window = samples[:, block * PLAN.step * HOP :][:, : PLAN.window * HOP]
        with exact():
            expected = plain.head(plain.encoder(window))[0][:, PLAN.left : PLAN.left + PLAN.step]
            found, _, memories = cached(window, PLAN, before)
            again = plain(window, PLAN, before)[0]
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(again, expected, atol=1e-4, rtol=1e-4)
        before = [Before(memory, True) for memory in memories]


@pytest.mark.gpu
def test_cpu_and_gpu_agree(tmp_path: Path) -> None:
    checkpoint = recipe.save(tmp_path, "WavLM", {**SIZE, **LARGE, "conv_bias": False})
    plan = Plan(10, 16, 14)
    samples = voices(5, plan.window * HOP).numpy()
    expected = load(checkpoint)(samples, plan)[0]
    found = load(checkpoint, "cuda", "float32")(samples, plan)[0]
    np.testing.assert_allclose(found, expected, atol=1e-3, rtol=0)
    half = load(checkpoint, "cuda")(samples, plan)[0]
    assert (half.argmax(-1) == expected.argmax(-1)).mean() > 0.95


@pytest.mark.gpu
def test_a_row_alone_and_among_others(tmp_path: Path) -> None:
    """Exact in batches of one size: a full one, and the same rows in another order."""
    model = load(recipe.save(tmp_path, "WavLM", {**SIZE, **LARGE, "conv_bias": False}), "cuda")
    plan = Plan(10, 16, 14)
    samples = voices(64, plan.window * HOP).numpy()
    together = model(samples, plan)[0]
    assert np.array_equal(model(samples[::-1].copy(), plan)[0][::-1], together)


@pytest.mark.gpu
@pytest.mark.parametrize("kind", [{}, {"norm": "group", "first": False}], ids=["large", "base"])
@torch.inference_mode()
def test_a_row_alone_and_among_others_in_16_bits(kind: dict[str, object]) -> None:
    """The last layer for the frames that are answered alone, too: in every size from some hundred rows on."""
    torch.manual_seed(8)
    network = OverlappingNetwork(small(**kind), LinearHead(labels=3, features=64)).eval().cuda()
    network.halve(torch.bfloat16)
    for rows in (320, 448, 512):
        samples = voices(rows, PLAN.window * HOP).cuda()
        together = network(samples, PLAN, [Before()] * rows)[0].clone()
        assert torch.equal(network(samples.flip(0), PLAN, [Before()] * rows)[0].flip(0), together)


@pytest.mark.gpu
def test_a_full_gpu_answers_in_smaller_batches(tmp_path: Path) -> None:
    model = load(recipe.save(tmp_path, "WavLM", {**SIZE, **LARGE, "conv_bias": False}), "cuda", "float32")
    plan = Plan(10, 480, 14)
    samples = voices(16, plan.window * HOP).numpy()
    expected = model(samples, plan)[0]
    _, total = torch.cuda.mem_get_info()
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + 2**26) / total)
    try:
        many = np.tile(samples, (32, 1))
        found = model(many, plan)[0]
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    np.testing.assert_allclose(found, np.tile(expected, (32, 1, 1)), atol=1e-3, rtol=0)


def test_the_benchmark_says_that_there_is_no_gpu() -> None:
    command = [sys.executable, "-m", "benchmarks", "gpu"]
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "no GPU here: nothing to measure (--tiny sees that it runs)\n"


def test_precision_on_a_cpu() -> None:
    with pytest.raises(BadInput, match="Bad precision 'float16' on a CPU, expected auto, float32 or bfloat16"):
        load(precision="float16")
    plan = Plan(3, 16, 16)
    samples = voices(2, plan.window * HOP).numpy()
    exact, short = (load(precision=name)(samples, plan)[0] for name in ("float32", "bfloat16"))
    assert not np.array_equal(exact, short)
    assert np.abs(np.exp(exact) - np.exp(short)).max() < 0.05


def test_what_is_exact_for_one_thread_is_for_another() -> None:
    """Whoever leaves first does not take it from the other, and the last one leaves what was there before."""
    first, second = exact(), exact()
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = True
    try:
        first.__enter__()
        second.__enter__()
        first.__exit__(None, None, None)
        assert not torch.backends.cudnn.allow_tf32
        second.__exit__(None, None, None)
        assert torch.backends.cudnn.allow_tf32
    finally:
        torch.backends.cudnn.allow_tf32 = before
