"""Silero's memory as a relay: answers know of nothing that is older than a period and the overlap before it.

An LSTM's state goes on for ever, and nobody can say when it has forgotten something. Here run *n* of the network begins
anew OVERLAP chunks before period *n* of the session, and answers in that period. While two runs hear the same, the LSTM
works twice: OVERLAP / PERIOD of the time. What it reads of a chunk is the same for both.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from . import silero

PERIOD = 960
"""Chunks (30.72 s) after which another run answers: four periods of the encoder."""
OVERLAP = 240
"""Chunks (7.68 s) that a run has heard before it answers. Silero remembers long: with these numbers the decisions about
0.3 % of the frames are others than those of a state that goes on for ever; without an overlap 0.5 %, with periods of
7.68 s 1.2 %."""

SILENT = 5
"""Chunks of silence that a run has heard when it begins: from nothing, the network is deaf for up to 2 s to a voice
that is already there. It takes noise for such a voice instead,"""
HALF = np.float32(0.5)
"""but less where only so much is left of its memory of the silence. Of concatenated utterances 1.2 % are missed (from
nothing 2.4 %, with all of that memory 0.9 %); of recordings of noise 1.8 % are speech (0.3, 5.3), nearly all in the
first 2 s."""

Array = NDArray[np.float32]


class State(NamedTuple):
    """What a session's VAD remembers: how many chunks it has heard, and the runs under way, by number."""

    heard: int
    runs: dict[int, silero.State]


def new_state() -> State:
    """At the start of a session."""
    return State(0, {})


class Task(NamedTuple):
    """What a run hears of a session's chunks: [first, end), counted from the session's start."""

    session: int
    run: int
    first: int
    end: int


def tasks(session: int, first: int, end: int) -> list[Task]:
    """Who hears the chunks [first, end) of a session."""
    last = (end + OVERLAP - 1) // PERIOD if end > first else -1
    return [
        Task(session, run, max(first, run * PERIOD - OVERLAP), min(end, (run + 1) * PERIOD))
        for run in range(first // PERIOD, last + 1)
    ]


class Relay:
    """`network` by turns; called like it, with the state that a session has here."""

    def __init__(self, network: silero.Silero) -> None:
        self._network = network
        self.groups = network.groups
        silence = np.zeros((SILENT, silero.CONTEXT + silero.CHUNK), np.float32)
        ((_, state),) = network([silence], [silero.new_state()])
        self._start = state * HALF

    def __call__(self, chunks: Sequence[Array], states: Sequence[State]) -> list[tuple[Array, State]]:
        """For each session chunks ``[n, CONTEXT + CHUNK]`` f32 and its state: probabilities ``[n]`` f32 and the
        new state."""
        heard = [state.heard for state in states]
        after = [before + len(part) for before, part in zip(heard, chunks, strict=True)]
        probabilities = [np.empty(len(part), np.float32) for part in chunks]
        going = [dict(state.runs) for state in states]
        todo = [task for n, bounds in enumerate(zip(heard, after, strict=True)) for task in tasks(n, *bounds)]
        rows = self._network.hear(chunks)
        parts = [rows[n][first - heard[n] : end - heard[n]] for n, _, first, end in todo]
        memories = [going[task.session].get(task.run, self._start) for task in todo]
        for (n, run, first, end), (found, state) in zip(todo, self._network.tell(parts, memories), strict=True):
            going[n][run] = state
            found = found[max(0, run * PERIOD - first) :]  # before its period others answer
            probabilities[n][end - heard[n] - len(found) : end - heard[n]] = found
        kept = [
            State(end, {run: state for run, state in of.items() if run >= end // PERIOD})
            for end, of in zip(after, going, strict=True)
        ]
        return list(zip(probabilities, kept, strict=True))
