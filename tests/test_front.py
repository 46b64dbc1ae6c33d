"""The device front-end: windows out of rings are what the host would have cut, and the CUDA part gives the twin's."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.functional import layer_norm

from sedstream.audio.pcm import decode
from sedstream.errors import BadInput, Unavailable
from sedstream.front import EPSILON, LIBRARY, Rings

ENCODINGS = ("s16le", "mulaw", "alaw")


def calls(rows: int, length: int, encoding: str, seed: int = 0) -> torch.Tensor:
    """``[rows, length]`` samples as they come over the wire."""
    random = np.random.default_rng(seed)
    if encoding == "s16le":
        return torch.from_numpy(random.integers(-(2**15), 2**15, (rows, length)).astype(np.int16))
    return torch.from_numpy(random.integers(0, 256, (rows, length)).astype(np.uint8))


def cut(call: torch.Tensor, end: int, width: int, encoding: str) -> np.ndarray:
    """The window as the host knows it: silence before the first sample."""
    heard = decode(call[max(0, end - width) : end].numpy().tobytes(), encoding)[:, 0]
    return np.concatenate([np.zeros(width - len(heard), np.float32), heard])


@given(
    st.sampled_from(ENCODINGS),
    st.integers(1, 50),
    st.lists(st.integers(1, 30), min_size=1, max_size=8),
    st.integers(1, 50),
    st.booleans(),
)
def test_windows_are_what_the_host_would_cut(
    encoding: str, capacity: int, packets: list[int], width: int, normalise: bool
) -> None:
    width = min(width, capacity)
    packets = [min(packet, capacity) for packet in packets]
    rings = Rings(5, capacity, encoding)
    slots = torch.tensor([4, 0, 2])
    sent = calls(3, sum(packets), encoding)
    rings.write(torch.arange(5), torch.zeros(5, dtype=torch.int64), calls(5, capacity, encoding, 1))  # sessions before
    end = 0
    for packet in packets:
        starts = torch.full((3,), end)
        rings.write(slots, starts, sent[:, end : end + packet])
        end += packet
        windows = rings.windows(slots, starts + packet, width, normalise=normalise)
        expected = torch.from_numpy(np.stack([cut(call, end, width, encoding) for call in sent]))
        if normalise:
            normal = layer_norm(expected.double(), (width,), eps=EPSILON)
            torch.testing.assert_close(windows.double(), normal, rtol=1e-5, atol=2e-5)
        else:
            assert torch.equal(windows, expected)


def test_more_rings() -> None:
    rings = Rings(2, 10)
    sent = calls(2, 10, "s16le")
    rings.write(torch.arange(2), torch.zeros(2, dtype=torch.int64), sent)
    rings.grow(5)
    assert torch.equal(rings.samples, torch.cat([sent, torch.zeros(3, 10, dtype=torch.int16)]))
    rings.write(torch.tensor([4]), torch.tensor([0]), sent[1:])
    windows = rings.windows(torch.tensor([1, 4]), torch.tensor([10, 10]), 10)
    assert torch.equal(windows[0], windows[1])


def test_bad_rings() -> None:
    with pytest.raises(BadInput, match="Bad ring encoding 'f32le', expected s16le, mulaw or alaw"):
        Rings(1, 1, "f32le")
    with pytest.raises(BadInput, match="Bad rings of 0 times 1 samples"):
        Rings(0, 1)
    rings = Rings(1, 10)
    row = torch.zeros(1, dtype=torch.int64)
    with pytest.raises(BadInput, match="Bad window of 11 samples, expected 1 to 10"):
        rings.windows(row, row, 11)
    with pytest.raises(BadInput, match=r"Bad slots or ends torch.int64, torch.int32, expected int64"):
        rings.windows(row, row.int(), 10)
    with pytest.raises(BadInput, match=r"Bad packets of 3 samples of torch.float32"):
        rings.write(row, row, torch.zeros(1, 3))
    with pytest.raises(Unavailable, match="Bad native front-end 'missing'"):
        rings.windows(row, row, 10, native=True)


def need_library(library: Path = LIBRARY) -> None:
    if not library.is_file():
        pytest.skip("needs the CUDA part: CUDA_HOME when it was installed")


@pytest.mark.gpu
@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("normalise", [False, True])
@pytest.mark.parametrize("width", [1, 31, 80_000])
def test_cuda_does_the_same(encoding: str, normalise: bool, width: int) -> None:
    need_library()
    rings = Rings(64, 80_001, encoding, "cuda")
    rings.samples.copy_(calls(64, 80_001, encoding))
    rings.samples[3] = 0
    slots = torch.randperm(64, device="cuda")[:33]
    ends = torch.randint(0, 2**40, (33,), device="cuda")
    ends[:4] = torch.tensor([0, 1, 40_000, 80_000])  # sessions that begin
    ends[4], slots[4] = 2**40, 3
    pure, native = (rings.windows(slots, ends, width, normalise=normalise, native=native) for native in (False, True))
    if normalise:
        torch.testing.assert_close(native, pure, rtol=1e-6, atol=1e-6)
    else:
        assert torch.equal(native, pure)


@pytest.mark.gpu
def test_a_cuda_graph_sees_new_samples() -> None:
    need_library()
    rings = Rings(8, 2000, device="cuda")
    slots, ends = torch.arange(8, device="cuda"), torch.full((8,), 1000, device="cuda")
    rings.windows(slots, ends, 1000, normalise=True, native=True)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        windows = rings.windows(slots, ends, 1000, normalise=True, native=True)
    for seed in range(3):
        rings.samples.copy_(calls(8, 2000, "s16le", seed))
        ends += 777
        graph.replay()
        torch.testing.assert_close(windows, rings.windows(slots, ends, 1000, normalise=True, native=False))
