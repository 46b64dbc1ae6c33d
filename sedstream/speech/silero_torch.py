"""Silero's network in torch, for a GPU: many sessions are one batch of everything but the recurrence.

The weights are those of the TorchScript that the silero-vad package ships (its safetensors are of another version). A
chunk of 576 samples is reflected at its end to 640; a
convolution with the window and the waves of a Fourier transform gives 4 spectra of 129 magnitudes; four convolutions
make 128 numbers of them, an LSTM cell goes on from chunk to chunk, and one more unit tells the probability.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from ..precision import exact
from .silero import State, folder

REFLECTED, STRIDE = 64, 128
STRIDES = (1, 2, 2, 1)
"""Of the four convolutions."""
GROUP = 1024
"""Sessions of a batch at most: what its convolutions need is then about 50 MB a chunk of each."""


class SileroTorch:
    """One network on a device, the state of each session outside of it; called like `Silero`, and with answers equal to
    its up to rounding (1e-4)."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        script = torch.jit.load(str(folder() / "silero_vad.jit"), map_location=device)  # type: ignore[no-untyped-call]
        weights = dict(script.state_dict())
        self._basis = weights["_model.stft.forward_basis_buffer"]
        self._convolutions = [
            tuple(weights[f"_model.encoder.{n}.reparam_conv.{part}"] for part in ("weight", "bias"))
            for n in range(len(STRIDES))
        ]
        self._last = tuple(weights[f"_model.decoder.decoder.2.{part}"] for part in ("weight", "bias"))
        self._lstm = nn.LSTM(128, 128, batch_first=True).to(device).eval()
        rnn = "_model.decoder.rnn."
        self._lstm.load_state_dict({f"{key[len(rnn) :]}_l0": t for key, t in weights.items() if key.startswith(rnn)})

    @torch.inference_mode()
    def __call__(
        self, chunks: Sequence[NDArray[np.float32]], states: Sequence[State]
    ) -> list[tuple[NDArray[np.float32], State]]:
        """For each session chunks ``[n, CONTEXT + CHUNK]`` f32 and its state: probabilities ``[n]`` f32 and the
        new state.

        Sessions may bring different numbers of chunks, none included.
        """
        alike = defaultdict(list)  # sessions by their number of chunks
        for session, part in enumerate(chunks):
            alike[len(part)].append(session)
        answers: list[Any] = [(np.empty(0, np.float32), state) for state in states]
        for count, sessions in alike.items():
            for first in range(0, len(sessions) if count else 0, GROUP):
                group = sessions[first : first + GROUP]
                probabilities, after = self._answer(
                    self._send(np.stack([chunks[n] for n in group])),
                    self._send(np.concatenate([states[n] for n in group], axis=1)),
                )
                for row, n in enumerate(group):
                    answers[n] = probabilities[row], after[:, row : row + 1].copy()
        return answers

    def groups(self, counts: Sequence[int]) -> list[list[int]]:
        """Which of some sessions should share a call: all."""
        return [list(range(len(counts)))]

    def _send(self, array: NDArray[np.float32]) -> Tensor:
        return torch.from_numpy(array).to(self._device)

    def _answer(self, chunks: Tensor, state: Tensor) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Chunks ``[B, n, 576]`` and states ``[2, B, 128]`` -> probabilities ``[B, n]`` and the states after them."""
        with exact():
            told, after = self._network(chunks, state)
        return told.cpu().numpy(), after.cpu().numpy()

    def _network(self, chunks: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        sessions, count, _ = chunks.shape
        x = F.pad(chunks.flatten(0, 1)[:, None], (0, REFLECTED), mode="reflect")
        real, imaginary = F.conv1d(x, self._basis, stride=STRIDE).chunk(2, 1)
        x = (real.square() + imaginary.square()).sqrt()
        for (weight, bias), stride in zip(self._convolutions, STRIDES, strict=True):
            x = F.relu(F.conv1d(x, weight, bias, stride, padding=1))
        hidden, (h, c) = self._lstm(x.view(sessions, count, -1), (state[:1], state[1:]))
        weight, bias = self._last
        return F.linear(F.relu(hidden), weight[:, :, 0], bias).sigmoid()[..., 0], torch.cat([h, c])
