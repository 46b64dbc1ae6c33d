"""Silero VAD: speech probability per chunk of 512 samples (32 ms), with the weights of the silero-vad package.

The network: a chunk of 576 samples is reflected at its end to 640, and the waves of a Fourier transform give 4 spectra
of 129 magnitudes; four convolutions make 128 numbers of them; an LSTM goes on from chunk to chunk, and one more unit
tells the probability. All but the LSTM knows nothing of other chunks. So chunks of any sessions and times are computed
together, each layer as one product: a convolution over so few places is a small matrix.

The weights are those of the package's TorchScript (its safetensors are of another version). A test holds the answers to
those of the package's network for ONNX Runtime: they differ by rounding (1e-5).
"""

from __future__ import annotations

import itertools
import math
import warnings
from collections import defaultdict
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ..compiled import compiled
from ..cores import alone
from ..precision import exact
from ..recurrences import lstm
from ..traces import Traces

CHUNK = 512
"""Samples that one probability answers for."""
CONTEXT = 64
"""Samples before the chunk that the network reads as well."""
REFLECTED, WAVE, STRIDE, BINS = 64, 256, 128, 129
STRIDES = (1, 2, 2, 1)
"""Of the four convolutions."""
WIDTH = 128
"""Numbers of the LSTM's state."""
BATCH = 32
"""Chunks of a product on a CPU, always: a product of another height may round otherwise."""
GROUP = 5 * BATCH
"""Chunks of sessions that share a call on a CPU: more gain nothing, and leave nothing for another core."""
MANY = 1024
"""Sessions that share a call on a GPU at most: their spectra are then about 10 MB for each of their chunks."""

Array = NDArray[np.float32]
State = Array


def folder() -> Path:
    """Where the package has its networks. It is not imported for that: it would leave torch one core in all of the
    process, the caller's own models included."""
    spec = find_spec("silero_vad")
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError("No module named 'silero_vad'", name="silero_vad")
    return Path(spec.origin).parent / "data"


def new_state() -> State:
    """The network's memory at the start of a session: ``[2, 1, 128]`` f32 (hidden and cell of its LSTM)."""
    return np.zeros((2, 1, WIDTH), np.float32)


class Silero:
    """One network on a device, the state of each session outside of it.

    On a CPU a session's numbers are the same bits whatever else is heard, and however its chunks are cut.
    """

    def __init__(self, device: torch.device | str = "cpu") -> None:
        self._device = torch.device(device)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # the package has no other file with these weights
            script = torch.jit.load(str(folder() / "silero_vad.jit"), map_location="cpu")  # type: ignore[no-untyped-call]
        weights = {name.removeprefix("_model."): tensor.detach() for name, tensor in script.state_dict().items()}
        # All cosines, then all sines, each `[WAVE]`.
        self._waves = weights["stft.forward_basis_buffer"][:, 0].t().contiguous().to(self._device)
        places = (CONTEXT + CHUNK + REFLECTED - WAVE) // STRIDE + 1
        layers = []
        for n, stride in enumerate(STRIDES):
            weight, bias = (weights[f"encoder.{n}.reparam_conv.{part}"] for part in ("weight", "bias"))
            matrix = _matrix(weight, places, stride)
            layers.append((matrix, bias.repeat(matrix.shape[1] // len(bias))))
            places = matrix.shape[1] // len(bias)
        self._layers = [(matrix.to(self._device), bias.to(self._device)) for matrix, bias in layers]
        last, (offset,) = (weights[f"decoder.decoder.2.{part}"].flatten() for part in ("weight", "bias"))
        self._last, self._offset = last.to(self._device), float(offset)
        rnn = {name.rpartition(".")[2]: tensor for name, tensor in weights.items() if name.startswith("decoder.rnn.")}
        if self._device.type == "cpu":
            self._inward = rnn["weight_ih"].t().contiguous(), rnn["bias_ih"] + rnn["bias_hh"]
            self._across = rnn["weight_hh"].t().contiguous().numpy()
            self._trace = Traces(self._to_lstm)
        else:
            self._lstm = nn.LSTM(WIDTH, WIDTH, batch_first=True)
            self._lstm.load_state_dict({f"{name}_l0": tensor for name, tensor in rnn.items()})
            self._lstm.to(self._device).eval()

    def __call__(self, chunks: Sequence[Array], states: Sequence[State]) -> list[tuple[Array, State]]:
        """For each session chunks ``[n, CONTEXT + CHUNK]`` f32 and its state: probabilities ``[n]`` f32 and the
        new state.

        Sessions may bring different numbers of chunks, none included.
        """
        return self.tell(self.hear(chunks), states)

    @torch.inference_mode()
    def hear(self, chunks: Sequence[Array]) -> list[Any]:
        """What the chunks are to the LSTM, for each session `n` rows: only `tell` knows what they mean."""
        bounds = [0, *itertools.accumulate(len(part) for part in chunks)]
        batches = -(-bounds[-1] // BATCH)
        padded = torch.zeros(batches, BATCH, CONTEXT + CHUNK)
        if bounds[-1]:
            np.concatenate(chunks, out=padded.numpy().reshape(-1, CONTEXT + CHUNK)[: bounds[-1]])
        if self._device.type == "cpu":
            found = torch.empty(batches, BATCH, 4 * WIDTH)
            with alone():
                for part, out in zip(padded, found, strict=True):
                    out.copy_(self._trace(part))
        else:
            with exact():
                found = self._numbers(padded.flatten(0, 1)[: bounds[-1]].to(self._device))
        rows = found.view(-1, found.shape[-1])
        return [rows[first:end] for first, end in itertools.pairwise(bounds)]

    @torch.inference_mode()
    def tell(self, heard: Sequence[Any], states: Sequence[State]) -> list[tuple[Array, State]]:
        """Rows of `hear` for each session, and its state: as the call."""
        if self._device.type == "cpu":
            return [self._go_on(rows.numpy(), state) for rows, state in zip(heard, states, strict=True)]
        alike = defaultdict(list)  # sessions by their number of chunks
        for session, rows in enumerate(heard):
            alike[len(rows)].append(session)
        answers: list[Any] = [(np.empty(0, np.float32), state) for state in states]
        for count, sessions in alike.items():
            if count:
                before = torch.from_numpy(np.concatenate([states[n] for n in sessions], axis=1)).to(self._device)
                with exact():
                    hidden, (h, c) = self._lstm(torch.stack([heard[n] for n in sessions]), (before[:1], before[1:]))
                    told = (hidden.relu() @ self._last + self._offset).sigmoid().cpu().numpy()
                after = torch.cat([h, c]).cpu().numpy()
                for row, n in enumerate(sessions):
                    answers[n] = told[row], after[:, row : row + 1].copy()
        return answers

    def groups(self, counts: Sequence[int]) -> list[list[int]]:
        """Which of some sessions, by number, should share a call; ``counts``: the chunks of each."""
        if self._device.type != "cpu":
            return [list(range(len(counts)))[n : n + MANY] for n in range(0, len(counts), MANY)]
        groups: list[list[int]] = []
        room = 0
        for session, count in enumerate(counts):
            if not groups or count > room:
                groups.append([])
                room = GROUP
            groups[-1].append(session)
            room -= count
        return groups

    def _numbers(self, chunks: Tensor) -> Tensor:
        """Chunks ``[N, 576]`` -> what the LSTM reads of them, ``[N, 128]``."""
        ends = chunks[:, -REFLECTED - 1 : -1].flip(1)
        places = torch.cat([chunks, ends], 1).unfold(1, WAVE, STRIDE)
        waves = (places.reshape(-1, WAVE) @ self._waves).square_()
        x: Tensor = (waves[:, :BINS] + waves[:, BINS:]).sqrt_().view(chunks.shape[0], self._layers[0][0].shape[0])
        for matrix, bias in self._layers:
            x = torch.addmm(bias, x, matrix).relu_()
        return x

    def _to_lstm(self, chunks: Tensor) -> Tensor:
        """Chunks ``[N, 576]`` -> what they are to the four parts of the LSTM, ``[N, 512]``."""
        weight, bias = self._inward
        return torch.addmm(bias, self._numbers(chunks), weight)

    def _go_on(self, inward: Array, state: State) -> tuple[Array, State]:
        after = state.copy()
        out = np.empty((1, len(inward), WIDTH), np.float32)
        lstm(inward[None], self._across, after[0], after[1], out)
        return _told(out[0], self._last.numpy(), self._offset), after


def _matrix(weight: Tensor, places: int, stride: int) -> Tensor:
    """A convolution's weight ``[outputs, inputs, 3]``, a zero before and behind the places -> the same as a matrix
    ``[places·inputs, places'·outputs]``."""
    outputs, inputs, taps = weight.shape
    count = (places - 1) // stride + 1
    matrix = torch.zeros(places, inputs, count, outputs)
    for to in range(count):
        for tap in range(taps):
            if 0 <= (at := to * stride + tap - 1) < places:
                matrix[at, :, to] = weight[:, :, tap].t()
    return matrix.view(places * inputs, count * outputs)


@compiled()
def _told(states: Array, weight: Array, offset: float) -> Array:
    """Probabilities ``[n]`` from states ``[n, 128]``."""
    told = np.empty(len(states), np.float32)
    for n in range(len(states)):
        total = offset
        for k in range(len(weight)):
            total += max(states[n, k], 0.0) * weight[k]
        told[n] = 1 / (1 + math.exp(-total))
    return told
