"""A session as a Sans-I/O object: samples in, blocks out, the model's answers in, events out.

No thread, no clock, no network inside. The events are a pure function of the samples written (and of where audio was
lost or flushed): how the samples were cut in packets, when blocks were pulled and who else was served changes nothing.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .audio.pcm import as_floats, check
from .block import Block
from .decoding.cadence import Cadence, Point
from .decoding.decoder import Decoder, quantise
from .decoding.segments import Assembler
from .decoding.voice import Voice
from .errors import BadInput
from .events import Arousal, End, Event, Final, Flushed, Gap, Segment, SpeechEnd, SpeechStart, Update
from .grid import HOP, Plan, frames_of
from .manifest import Manifest
from .speech.level import Level
from .speech.relay import State, new_state
from .speech.silero import CHUNK, CONTEXT
from .speech.vad import Segmenter, chunks_for

Array = NDArray[np.float32]


class Stream:
    """One channel of one session, owned by one thread.

    ``write`` samples, then let :func:`sedstream.tick` run the models (it calls ``pull``, ``hear`` and ``push``),
    then drain ``events``; ``close`` at the end, and go on ticking until ``done``.
    """

    def __init__(
        self,
        manifest: Manifest,
        plan: str | Plan = "live",
        labels: Sequence[str] | None = None,
        *,
        keep_frames: bool = False,
    ) -> None:
        self.plan = plan if isinstance(plan, Plan) else manifest.plan(plan)
        if self.plan.whole and type(self) is Stream:
            raise BadInput(f"Bad plan '{plan}', expected one for live audio: it answers at the end")
        self.labels = manifest.choose(labels)
        self._columns = [manifest.labels.index(label) for label in self.labels]
        self._all = len(self._columns) == len(manifest.labels)
        self._manifest = manifest
        self._events: list[Event] = []
        self._parts: list[Array] = []
        self._buffer = np.empty(0, np.float32)
        self._first = 0  # sample number of buffer[0]; samples and frames below count from the session's start
        self._written = 0
        self._limits: deque[int] = deque()  # frames at which a flush or the close ends a span
        self._closed = False
        self.done = False
        """Closed, and every event has been produced."""
        self._segments = 0
        self._speech_frames = 0
        self._lost = 0
        self._revisions: dict[int, int] = {}  # last revision sent of each segment that is not final
        self._in_block = False
        self._frames: list[tuple[Array, Array, NDArray[np.bool_]]] | None = [] if keep_frames else None
        self._begin(0)

    def _begin(self, origin: int) -> None:
        """Start a span at frame ``origin``: everything that remembers starts afresh."""
        self._origin = origin
        self._index = 0
        self._level = Level()
        self._segmenter = Segmenter(self._manifest.vad)
        self._voice = None if self._manifest.voice is None else Voice(self._manifest.voice)
        self._decoder = Decoder(len(self.labels), self._manifest.decoder)
        self._assembler = Assembler(self.labels, origin)
        self._cadence = Cadence(origin)
        self._state = new_state()
        self._memory: Any = None
        self._follows = False
        self._period = 0  # in which the memory is from
        self._heard = 0  # VAD chunks heard in this span
        self._fed = 0  # frames of this span given to the decoder
        self._flags = np.empty(0, np.bool_)  # VAD decisions of frames from _fed on
        self._scores = np.empty((0, len(self._manifest.labels)), np.float32)  # model answers of frames from _fed on
        self._affect = np.empty((0, 2), np.float32)
        self._speaking = False
        self._shown: list[Segment] = []  # the provisional segments as last sent

    @property
    def written(self) -> int:
        """Samples taken so far."""
        return self._written

    @property
    def waiting(self) -> int:
        """Samples that no block has answered for yet."""
        return max(0, self._written - (self._origin + self._index * self.plan.step) * HOP)

    def write(self, samples: Array | NDArray[np.int16], *, lost: bool = False) -> None:
        """Append ``[n]`` samples at 16 kHz, floats in -1…1 or int16; ``lost``: they only stand for audio that is
        missing, as a ``gap`` event tells.

        Raises ``BadInput`` for another shape or type, NaN, infinity, or after close.
        """
        samples = as_floats(samples)
        if samples.ndim != 1:
            raise BadInput(f"Bad samples of shape {samples.shape}, expected one channel [n]")
        check(samples)
        if self._closed:
            raise BadInput("Bad write, expected none after close")
        self._parts.append(samples.copy())
        self._written += len(samples)
        if lost and len(samples):
            self._lost += len(samples)
            self._events.append(Gap(self._written - len(samples), len(samples), self._written))

    def flush(self) -> None:
        """Make everything up to the last whole frame final without waiting for more; the session goes on afresh
        there, not knowing the voice. Each is answered by a ``Flushed``, also where there is nothing new."""
        if not self._closed:
            self._limits.append(self._written // HOP)
            self._settle()

    def close(self) -> None:
        """No more samples will come."""
        if not self._closed:
            self._closed = True
            self._limits.append(frames_of(self._written))
            self._settle()

    def events(self) -> list[Event]:
        """The events since the last call, in order."""
        events, self._events = self._events, []
        return events

    def frames(self) -> tuple[Array, Array, NDArray[np.bool_]]:
        """The frames answered since the last call: probabilities ``[n, C]``, arousal and valence ``[n, 2]``,
        speech ``[n]``.

        What stands in frames without speech means nothing. Empty unless the stream was made with ``keep_frames``.
        """
        kept, self._frames = self._frames or [], None if self._frames is None else []
        nothing = (np.empty((0, len(self.labels)), np.float32), np.empty((0, 2), np.float32), np.empty(0, np.bool_))
        probs, affect, speech = zip(nothing, *kept, strict=True)
        return np.concatenate(probs), np.concatenate(affect), np.concatenate(speech)

    def pull(self) -> Block | None:
        """The next block if its samples are complete. It must be answered by ``hear`` and ``push`` before the next."""
        self._expect_answered()
        if self.done:
            return None
        start, end = self.plan.span(self._index)
        limit = self._limits[0] - self._origin if self._limits else None
        if limit is None and self._written < self._origin * HOP + end:
            return None
        heard = end // CHUNK if limit is None else min(end // CHUNK, chunks_for(limit))
        audio = self._read(self._heard * CHUNK - CONTEXT, heard * CHUNK, limit)
        rows = np.arange(heard - self._heard)[:, None] * CHUNK + np.arange(CONTEXT + CHUNK)
        window, chunks = self._read(start, end, limit), self._level(audio[rows])
        turns = self.plan.period(self._index) - self._period
        if turns > 1:  # both of the states that it holds have been followed by others
            self._memory = None
        block = Block(self.plan, window, chunks, self._state, self._memory, self._follows, turns == 1)
        self._heard = heard
        self._in_block = True
        return block

    def _expect_answered(self) -> None:
        if self._in_block:
            raise BadInput("Bad pull, expected none after a block that was never answered: whatever failed, begin anew")

    def hear(self, probabilities: Array, state: State) -> bool:
        """The VAD's answer for the block's chunks. False: the block is silent for certain, the model need not run."""
        self._state = state
        limit = self._limits[0] - self._origin if self._last_block else None
        decided = self._segmenter.hear(probabilities, limit)
        self._tell_speech(decided)
        self._flags = np.concatenate([self._flags, decided])
        # Of the block's frames, those that are silence may have been fed already.
        first = max(self._fed, self._index * self.plan.step)
        last = (self._index + 1) * self.plan.step if limit is None else limit
        wanted = self._flags[first - self._fed : max(0, last - self._fed)]
        return bool(wanted.any()) or first + len(wanted) < last

    def push(self, scores: Array | None, affect: Array | None, memory: Any = None) -> None:
        """The model's answer: log-probabilities ``[step, C]``, arousal and valence ``[step, 2]``, its memory; None for
        a silent block, after which the model goes on with the memory that it had."""
        self._follows = scores is not None
        if self._follows:
            self._memory, self._period = memory, self.plan.period(self._index)
        if scores is None or affect is None:
            scores = np.zeros((self.plan.step, self._scores.shape[1]), np.float32)
            affect = np.zeros((self.plan.step, 2), np.float32)
        last = self._last_block
        scores, affect = (found[max(0, self._fed - self._index * self.plan.step) :] for found in (scores, affect))
        # Silence right behind the answer needs none of its own, and decides sooner about what comes before it.
        unanswered = self._flags[len(self._scores) + len(scores) :]
        silence = int(unanswered.argmax()) if unanswered.any() else len(unanswered)
        quiet = np.zeros((silence, self._scores.shape[1]), np.float32)
        self._scores = np.concatenate([self._scores, scores, quiet])
        self._affect = np.concatenate([self._affect, affect, quiet[:, :2]])
        self._index += 1
        self._in_block = False
        self._feed(min(len(self._scores), len(self._flags)))
        if last:
            self._emit(self._assembler.commit(self._decoder.flush()) + self._assembler.close())
            self._tell_arousal(self._cadence.close())
            self._end_span()
        else:
            self._update()
        self._drop()
        self._settle()

    def _restrict(self, scores: Array) -> Array:
        chosen = scores[:, self._columns]
        return scores if self._all else chosen - np.logaddexp.reduce(chosen, axis=1, keepdims=True)

    @property
    def _last_block(self) -> bool:
        return bool(self._limits) and (self._index + 1) * self.plan.step >= self._limits[0] - self._origin

    @property
    def _at(self) -> int:
        """Samples read so far, as events say it: the end of the window of the block being answered."""
        end = self._origin * HOP + self.plan.span(self._index - (not self._in_block))[1]
        if self._limits:
            limit = self._limits[0] * HOP
            end = min(end, self._written if self._closed and len(self._limits) == 1 else limit)
        return end

    def _read(self, start: int, end: int, limit: int | None) -> Array:
        """Samples [start, end) of this span: its first before it, zeros behind its last frame once that is known."""
        if self._parts:
            self._buffer = np.concatenate([self._buffer, *self._parts])
            self._parts.clear()
        until = end if limit is None else min(end, limit * HOP)
        shift = self._origin * HOP - self._first
        before = np.repeat(self._buffer[shift : shift + 1], max(0, -start))  # no step where it begins
        known = np.concatenate([before, self._buffer[max(0, start) + shift : max(0, until) + shift]])
        known.resize(end - start, refcheck=False)
        return known

    def _drop(self) -> None:
        """Forget what no block will read again."""
        keep = self._origin * HOP + max(0, min(self.plan.span(self._index)[0], self._heard * CHUNK - CONTEXT))
        if keep > self._first:
            self._buffer = self._buffer[keep - self._first :]
            self._first = keep

    def _feed(self, count: int) -> None:
        """Give the decoder ``count`` frames that have both an answer and a VAD decision."""
        scores, affect, speech = self._scores[:count], self._affect[:count], self._flags[:count]
        if self._limits:  # frames behind the end of the span were answered, but do not exist
            count = min(count, self._limits[0] - self._origin - self._fed)
            scores, affect, speech = scores[:count], affect[:count], speech[:count]
        if count <= 0:
            return
        scores = self._restrict(scores if self._voice is None else self._voice(scores, speech))
        probs = np.exp(scores)
        if self._frames is not None:
            self._frames.append((probs, affect, speech))
        self._assembler.add(probs, affect, speech)
        self._emit(self._assembler.commit(self._decoder.push(quantise(scores), speech)))
        self._tell_arousal(self._cadence.add(affect, speech))
        self._fed += count
        self._scores, self._affect = self._scores[count:], self._affect[count:]
        self._flags = self._flags[count:]
        self._speech_frames += int(speech.sum())

    def _tell_speech(self, decided: NDArray[np.bool_]) -> None:
        first = self._origin + self._segmenter.decided - len(decided)
        edges = np.flatnonzero(np.diff(decided, prepend=self._speaking))
        for edge in edges.tolist():
            kind = SpeechStart if decided[edge] else SpeechEnd
            self._events.append(kind(first + edge, self._at))
        if len(decided):
            self._speaking = bool(decided[-1])

    def _tell_arousal(self, points: list[Point]) -> None:
        self._events.extend(Arousal(*point, self._at) for point in points)

    def _emit(self, segments: list[Segment]) -> None:
        for segment in segments:
            del self._shown[:1]
            self._events.append(Final(self._segments, self._revise(self._segments), segment, self._at))
            del self._revisions[self._segments]
            self._segments += 1

    def _update(self) -> None:
        segments = self._assembler.provisional(self._decoder.tentative())
        same = True  # so far: an update replaces everything from its start on, so all that follow are sent again
        for place, segment in enumerate(segments):
            old = self._shown[place] if place < len(self._shown) else None
            same = same and old is not None and old.extent == segment.extent
            if not same:
                number = self._segments + place
                self._events.append(Update(number, self._revise(number), segment, self._at))
        self._shown = segments

    def _revise(self, number: int) -> int:
        self._revisions[number] = self._revisions.get(number, -1) + 1
        return self._revisions[number]

    def _end_span(self) -> None:
        """The last frame before a flush or the close is final."""
        limit = self._limits[0]
        if self._speaking:
            self._events.append(SpeechEnd(limit, self._at))
        if self._closed and len(self._limits) == 1:
            self._finish()
            return
        self._limits.popleft()
        self._events.append(Flushed(limit, limit * HOP))
        self._begin(limit)

    @property
    def totals(self) -> End:
        """What ``End`` says, so far."""
        return End(frames_of(self._written), self._speech_frames, self._segments, self._lost, self._written)

    def _finish(self) -> None:
        self._events.append(self.totals)
        self._parts.clear()
        self._buffer = np.empty(0, np.float32)
        self.done = True

    def _settle(self) -> None:
        """A flush or a close right at the start of a span has no block left to wait for."""
        while not self._in_block and not self.done and self._limits and self._limits[0] <= self._origin:
            if self._closed and len(self._limits) == 1:
                self._finish()
            else:
                self._events.append(Flushed(self._origin, self._origin * HOP))
                self._limits.popleft()
