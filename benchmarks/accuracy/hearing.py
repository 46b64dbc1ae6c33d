"""Recordings through the loop that serves live sessions, many side by side."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property, partial
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from sedstream import cores
from sedstream.events import Final, Segment
from sedstream.grid import HOP
from sedstream.loop import tick
from sedstream.scoring.sheet import Span
from sedstream.scoring.tracks import Track
from sedstream.short import stream_of
from sedstream.stream import Stream
from sedstream.training.corpora import Utterance
from sedstream.zoo import Model

from .cases import LABELS, Array, Case, sound, ticks

Line: TypeAlias = Callable[[Case], Array]

ABREAST = 32
"""Recordings side by side: a batch of the model is full of them."""


@dataclass(frozen=True, eq=False)
class Heard:
    """What sedstream answered, as `sedstream.diarize` would: probabilities `[T, C]`, arousal and valence `[T, 2]`
    float32 (of no meaning without speech), speech bool `[T]`, and the segments."""

    probs: Array
    affect: Array
    speech: NDArray[np.bool_]
    segments: tuple[Segment, ...]

    @cached_property
    def spans(self) -> list[Span]:
        return [Span(ticks(s.start * HOP), ticks(s.end * HOP), s.label) for s in self.segments]

    @property
    def arousal(self) -> float:
        """Mean over the speech, or over everything where there is none."""
        return float((self.affect[self.speech] if self.speech.any() else self.affect)[:, 0].mean())


def hear(model: Model, sounds: Sequence[Callable[[], Array]], plan: str, labels: Sequence[str] | None) -> list[Heard]:
    """The answers to recordings, float32 `[n]` at 16 kHz each, which are made only when their turn comes."""
    answers: list[Heard] = []
    with ThreadPoolExecutor(cores.count(), initializer=cores.one_core) as pool:
        for first in range(0, len(sounds), ABREAST):
            streams = []
            for make in sounds[first : first + ABREAST]:
                stream = stream_of(model.manifest, plan, labels, keep_frames=True)
                stream.write(make())
                stream.close()
                streams.append(stream)
            while tick(model, streams, pool.map):
                pass
            answers += [_answer(stream) for stream in streams]
    return answers


def _answer(stream: Stream) -> Heard:
    segments = tuple(event.segment for event in stream.events() if isinstance(event, Final))
    return Heard(*stream.frames(), segments)


class Ear:
    """A model that remembers what it has answered."""

    def __init__(self, model: Model) -> None:
        self.model = model
        # With what was heard, so that no other takes its id.
        self._known: dict[tuple[int, str, str], tuple[object, Heard]] = {}

    def cases(self, cases: Sequence[Case], plan: str, line: str = "", through: Line | None = None) -> list[Heard]:
        """Answers to concatenations, restricted to LABELS; heard `through` a line of that name, if there is one."""
        sounds = [partial(through, case) if through else case.samples for case in cases]
        return self._all(cases, sounds, plan, LABELS, line)

    def utterances(self, utterances: Sequence[Utterance], plan: str) -> list[Heard]:
        """Answers to single utterances, with all labels."""
        return self._all(utterances, [partial(sound, (u,)) for u in utterances], plan, None, "alone")

    def _all(
        self,
        things: Sequence[object],
        sounds: Sequence[Callable[[], Array]],
        plan: str,
        labels: Sequence[str] | None,
        line: str,
    ) -> list[Heard]:
        keys = [(id(thing), plan, line) for thing in things]
        new = {key: n for n, key in enumerate(keys) if key not in self._known}
        answers = hear(self.model, [sounds[n] for n in new.values()], plan, labels)
        for (key, n), heard in zip(new.items(), answers, strict=True):
            self._known[key] = things[n], heard
        return [self._known[key][1] for key in keys]


def tracks(cases: Iterable[Case], answers: Iterable[Iterable[Span]]) -> list[Track]:
    """Cases beside answers to them."""
    return [case.track(answer) for case, answer in zip(cases, answers, strict=True)]
