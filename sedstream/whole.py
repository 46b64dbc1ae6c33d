"""A recording as one block: what models are published with, an answer for a whole file at its end.

There is neither a VAD nor a decoder: the best label of each frame, and equal neighbours are one segment. Frames at the
end for which the model has no answer, because its field reaches beyond them, are silence.
"""

from __future__ import annotations

import numpy as np

from .block import Block
from .grid import HOP
from .speech.relay import State
from .speech.silero import CHUNK, CONTEXT
from .stream import Array, Stream


class WholeStream(Stream):
    """A session for a whole plan: it keeps all samples up to a flush or the close, and then answers for them at once.

    The verbs are those of :class:`Stream`.
    """

    def pull(self) -> Block | None:
        self._expect_answered()
        if self.done or not self._limits:
            return None
        self._in_block = True
        samples = self._read(0, self._at - self._origin * HOP, None)
        return Block(self.plan, samples, np.empty((0, CONTEXT + CHUNK), np.float32), self._state, None, False, False)

    def hear(self, probabilities: Array, state: State) -> bool:
        return True

    def push(self, scores: Array | None, affect: Array | None, memory: object = None) -> None:
        """Log-probabilities ``[n, C]``, arousal and valence ``[n, 2]`` of the first n frames; None: of none."""
        frames = self._limits[0] - self._origin
        answered = 0 if scores is None else min(len(scores), frames)
        probs = np.zeros((frames, len(self.labels)), np.float32)
        best = np.zeros(frames, np.int64)
        moods = np.zeros((frames, 2), np.float32)
        speech = np.arange(frames) < answered
        if scores is not None and affect is not None:
            restricted = self._restrict(scores[:answered])
            probs[:answered], best[:answered] = np.exp(restricted), restricted.argmax(axis=1)
            moods[:answered] = affect[:answered]
        self._segmenter.decided = frames
        self._tell_speech(speech)
        if self._frames is not None:
            self._frames.append((probs, moods, speech))
        self._assembler.add(probs, moods, speech)
        self._emit(self._assembler.commit(best) + self._assembler.close())
        self._tell_arousal(self._cadence.add(moods, speech) + self._cadence.close())
        self._speech_frames += answered
        self._index += 1
        self._in_block = False
        self._end_span()
        self._drop()
        self._settle()

    @property
    def _at(self) -> int:
        """The end of the span being answered; before it is known, of what is written."""
        return min(self._limits[0] * HOP, self._written) if self._limits else self._written
