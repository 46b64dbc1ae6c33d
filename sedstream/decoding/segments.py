"""Decided frames to segments with their statistics; what is not decided yet to provisional segments."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from ..events import Segment

Array = NDArray[np.float32]
SILENCE = -1


@dataclass(slots=True)
class _Open:
    """A segment under way: its sums over ``frames`` frames."""

    start: int
    label: int
    frames: int
    probs: NDArray[np.float64]
    affect: NDArray[np.float64]
    peak: float = 0.0

    def extend(self, probs: Array, affect: Array) -> _Open:
        return replace(
            self,
            frames=self.frames + len(probs),
            probs=self.probs + probs.sum(axis=0, dtype=np.float64),
            affect=self.affect + affect.sum(axis=0, dtype=np.float64),
            peak=max(self.peak, float(affect[:, 0].max())),
        )

    def segment(self, labels: Sequence[str]) -> Segment:
        probs = self.probs / self.frames
        mean = self.affect / self.frames
        arousal, valence = (None if np.isnan(value) else float(value) for value in mean)
        entropy = -float((probs * np.log(np.maximum(probs, 1e-12))).sum())
        return Segment(
            start=self.start,
            end=self.start + self.frames,
            label=labels[self.label],
            confidence=float(probs[self.label]),
            probs=tuple(probs.tolist()),
            entropy=max(0.0, entropy),
            arousal_mean=arousal,
            arousal_peak=None if arousal is None else self.peak,
            valence_mean=valence,
        )


@dataclass(slots=True)
class Assembler:
    """Frames in order of time, labels as the decoder commits them. ``origin``: the frame number of the first frame.

    Arousal or valence NaN: the model does not tell them.
    """

    labels: Sequence[str]
    origin: int = 0
    _open: _Open | None = None
    _probs: list[Array] = field(default_factory=list)
    _affect: list[Array] = field(default_factory=list)
    _speech: list[NDArray[np.bool_]] = field(default_factory=list)
    _committed: int = 0

    def add(self, probs: Array, affect: Array, speech: NDArray[np.bool_]) -> None:
        """Frames that the decoder has been given: ``[n, C]``, ``[n, 2]``, ``[n]``."""
        self._probs.append(probs)
        self._affect.append(affect)
        self._speech.append(speech)

    def commit(self, labels: NDArray[np.int64]) -> list[Segment]:
        """Labels ``[m]`` of the oldest m frames, now final; the segments that they complete. Silence ends a segment
        before its own label is final: that says nothing."""
        probs, affect, speech = self._held()
        done: list[Segment] = []
        if len(labels):
            for state in self._runs(labels, probs, affect, speech[: len(labels)]):
                if self._open is not None and (state is None or state.start != self._open.start):
                    done.append(self._open.segment(self.labels))
                self._open = state
            self._committed += len(labels)
            probs, affect = probs[len(labels) :].copy(), affect[len(labels) :].copy()
            speech = speech[len(labels) :].copy()
        self._probs, self._affect, self._speech = [probs], [affect], [speech]
        if len(speech) and not speech[0]:
            done += self.close()
        return done

    def close(self) -> list[Segment]:
        """The end of the session: the segment under way is complete."""
        done = [] if self._open is None else [self._open.segment(self.labels)]
        self._open = None
        return done

    def provisional(self, labels: NDArray[np.int64]) -> list[Segment]:
        """The segments that are not final yet, if the held frames had ``labels`` ``[n]``."""
        states: list[_Open] = [] if self._open is None else [self._open]
        if len(labels):
            for state in self._runs(labels, *self._held()):
                if states and state is not None and state.start == states[-1].start:
                    states[-1] = state
                elif state is not None:
                    states.append(state)
        return [state.segment(self.labels) for state in states]

    def _held(self) -> tuple[Array, Array, NDArray[np.bool_]]:
        return np.concatenate(self._probs), np.concatenate(self._affect), np.concatenate(self._speech)

    def _runs(
        self, labels: NDArray[np.int64], probs: Array, affect: Array, speech: NDArray[np.bool_]
    ) -> Iterator[_Open | None]:
        """The state after each run of equal labels: the open segment extended, a new one, or None in silence."""
        shown = np.where(speech, labels, SILENCE)
        bounds = [0, *(np.flatnonzero(np.diff(shown)) + 1).tolist(), len(shown)]
        state = self._open
        for first, end in itertools.pairwise(bounds):
            label = int(shown[first])
            if label == SILENCE:
                state = None
            else:
                if state is None or state.label != label:
                    zero = np.zeros(probs.shape[1])
                    state = _Open(self.origin + self._committed + first, label, 0, zero, np.zeros(2))
                state = state.extend(probs[first:end], affect[first:end])
            yield state
