"""Silero VAD from the silero-vad package: speech probability per chunk of 512 samples (32 ms)."""

from __future__ import annotations

import os
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

# From 1.29 on ONNX Runtime writes down what models run, with an id of the machine, and sends it to its makers, unless
# this is said before it is imported: its disable_telemetry_events() comes too late for the first of it.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

import numpy as np
import onnxruntime
from numpy.typing import NDArray

CHUNK = 512
"""Samples that one probability answers for."""
CONTEXT = 64
"""Samples before the chunk that the network reads as well."""
GROUP = 8
"""Sessions that share a call: larger batches gain nothing more."""
LONG = 10
"""Chunks from which on a session's own call costs no more than its share of a group's, and leaves Python alone."""

State = NDArray[np.float32]


def folder() -> Path:
    """Where the package has its networks. It is not imported for that: it would leave torch one core in all of the
    process, the caller's own models included."""
    spec = find_spec("silero_vad")
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError("No module named 'silero_vad'", name="silero_vad")
    return Path(spec.origin).parent / "data"


def new_state() -> State:
    """The network's memory at the start of a session: ``[2, 1, 128]`` f32 (hidden and cell of its LSTM)."""
    return np.zeros((2, 1, 128), np.float32)


class Silero:
    """One network, the state of each session outside of it.

    The package ships the same network twice: for many sessions one chunk at a time, and for many chunks of one session.
    Both give the same bits for any batch and any cut, so whichever is faster may answer.
    """

    def __init__(self) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1  # the network is too small to share out
        options.inter_op_num_threads = 1
        data = folder()

        def load(name: str) -> onnxruntime.InferenceSession:
            return onnxruntime.InferenceSession(str(data / name), options, providers=["CPUExecutionProvider"])

        self._batch = load("silero_vad_16k_op15.onnx")
        self._sequence = load("silero_vad_16k_sequence.onnx")
        self._rate = np.array(16_000, np.int64)

    def __call__(
        self, chunks: Sequence[NDArray[np.float32]], states: Sequence[State]
    ) -> list[tuple[NDArray[np.float32], State]]:
        """For each session chunks ``[n, CONTEXT + CHUNK]`` f32 and its state: probabilities ``[n]`` f32 and the
        new state.

        Sessions may bring different numbers of chunks, none included.
        """
        if len(chunks) == 1 and len(chunks[0]):
            return [self._one(chunks[0], states[0])]
        # Lock-step: chunk i of every session that has one. Longest first, so that the batch only shrinks at its end.
        order = sorted(range(len(chunks)), key=lambda n: -len(chunks[n]))
        probabilities = [np.empty(len(part), np.float32) for part in chunks]
        finals = [state.copy() for state in states]
        if order:
            state = np.concatenate([states[n] for n in order], axis=1)
            for i in range(len(chunks[order[0]])):
                active = [n for n in order if len(chunks[n]) > i]
                batch = np.stack([chunks[n][i] for n in active])
                feed = {"input": batch, "state": state[:, : len(active)], "sr": self._rate}
                answer, state = self._batch.run(None, feed)
                for row, n in enumerate(active):
                    probabilities[n][i] = answer[row, 0]
                    if i == len(chunks[n]) - 1:
                        finals[n] = state[:, row : row + 1].copy()
        return list(zip(probabilities, finals, strict=True))

    def groups(self, counts: Sequence[int]) -> list[list[int]]:
        """Which of some sessions, by number, should share a call; ``counts``: the chunks of each."""
        short = [session for session, count in enumerate(counts) if count < LONG]
        alone = [[session] for session, count in enumerate(counts) if count >= LONG]
        return alone + [short[n : n + GROUP] for n in range(0, len(short), GROUP)]

    def _one(self, chunks: NDArray[np.float32], state: State) -> tuple[NDArray[np.float32], State]:
        feed = {"input": chunks, "h": state[:1], "c": state[1:]}
        probabilities, hidden, cell = self._sequence.run(None, feed)
        return probabilities, np.concatenate([hidden, cell])
