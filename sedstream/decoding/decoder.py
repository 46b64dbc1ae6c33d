"""Fixed-lag Viterbi over emotion classes with a switch cost and a minimum duration, in exact integers.

A labelling of frames pays -e[t, c] for each frame t of class c, ``switch`` for each change of class (``pause``
where one of the two frames at the change is silence; silence itself has e = 0 for every class) and may change only
after ``min_duration`` = D frames. With prefix sums S[t, c] = Σ_{τ≤t} e[τ, c] the best labelling that ends in a run of c
of at least D frames obeys

    V[t, c] = max( V[t-1, c] + e[t, c],                                                           the run goes on
                   max_{c'≠c} V[t-D, c'] - cost(t-D) + S[t, c] - S[t-D, c] )                  it began at t-D+1

so a minimum duration costs no extra states (a semi-Markov model: Yu, "Hidden semi-Markov models", 2010). Each
column also keeps, per class, where its run began and which class stood before: any path is traced back in hops of
whole runs.

A frame is final as soon as every path that can still win agrees about it, at the latest ``lag`` frames on; then
the best path decides. What disagrees is dropped, so later decisions always continue earlier ones. Paths that can win
are those of all classes now, and of the last D - 1 columns that of the best class: a later run begins there. Not the
second best: it could only begin a run of the best, which is never better than the best going on.

e is int32 in 1/256 nat; the sums are int64 and do not overflow in 10,000 years.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..compiled import compiled
from .settings import DecoderSettings

NAT = 256
"""Integer steps per nat."""
_DEAD = np.int64(-(2**62))
_FLOOR = -20.0  # log-probabilities under this say no more

Ints = NDArray[np.int64]


def quantise(log_probabilities: NDArray[np.float32]) -> NDArray[np.int32]:
    """Natural logs ``[n, C]`` to 1/256 nat, int32, not under -20 nats."""
    steps: NDArray[np.int32] = np.rint(np.maximum(log_probabilities, _FLOOR) * NAT).astype(np.int32)
    return steps


@compiled()
def trace(frame: int, label: int, until: int, start: Ints, before: Ints) -> int:
    """The label at frame ``until`` of the best path that is in class ``label`` at ``frame`` ≥ ``until``."""
    ring = start.shape[0]
    while start[frame % ring, label] > until:
        row = frame % ring
        frame, label = start[row, label] - 1, before[row, label]
    return label


@compiled()
def best_other(score: Ints, label: int) -> int:
    """The class with the highest score in one column, ``label`` itself excluded (-1: all classes)."""
    best = -1
    for c in range(score.shape[0]):
        if c != label and (best < 0 or score[c] > score[best]):
            best = c
    return best


@compiled()
def advance(
    emissions: NDArray[np.int32], speech: NDArray[np.bool_], first: int, committed: int,
    score: Ints, total: Ints, start: Ints, before: Ints, heard: NDArray[np.bool_],
    switch: int, pause: int, minimum: int, lag: int, out: NDArray[np.int64],
) -> int:  # fmt: skip
    """Take ``[n, C]`` emissions of frames ``first``…; write the labels that become final to ``out``, return how many.

    ``score, total, start, before`` are rings ``[R, C]`` of columns, ``heard`` ``[R]``; frame t stands in row t mod
    R, the time before the session in row R-1.
    """
    ring, classes = score.shape
    count = 0
    for n in range(emissions.shape[0]):
        t = first + n
        row, last, source = t % ring, (t - 1) % ring, (t - minimum) % ring
        heard[row] = speech[n]
        # The first run, too, lasts D frames before it may end: no jump from a column before frame D-1.
        jump = t - minimum >= minimum - 1
        quiet = jump and not (heard[source] and heard[(t - minimum + 1) % ring])
        cost = pause if quiet else switch
        for c in range(classes):
            gain = emissions[n, c] if speech[n] else 0
            total[row, c] = total[last, c] + gain
            score[row, c] = max(score[last, c] + gain, _DEAD)
            start[row, c] = start[last, c]
            before[row, c] = before[last, c]
            if jump:
                rival = best_other(score[source], c)
                if rival >= 0 and score[source, rival] > _DEAD:
                    reached = score[source, rival] - cost + total[row, c] - total[source, c]
                    if reached > score[row, c]:
                        score[row, c] = reached
                        start[row, c] = t - minimum + 1
                        before[row, c] = rival

        while committed <= t - minimum + 1:
            winner = trace(t, best_other(score[row], -1), committed, start, before)
            agreed = True
            for column in range(t - minimum + 1, t + 1):
                best = best_other(score[column % ring], -1)
                for c in range(classes):
                    rivals = column == t or c == best
                    if rivals and score[column % ring, c] > _DEAD:
                        agreed = agreed and trace(column, c, committed, start, before) == winner
            if not agreed and t - committed < lag:
                break
            for column in range(t - minimum + 1, t + 1):
                for c in range(classes):
                    if trace(column, c, committed, start, before) != winner:
                        score[column % ring, c] = _DEAD
            out[count] = winner
            count += 1
            committed += 1
    return count


@compiled()
def current(
    t: int, committed: int, score: Ints, total: Ints, start: Ints, before: Ints, heard: NDArray[np.bool_],
    switch: int, pause: int, minimum: int, out: NDArray[np.int64],
) -> None:  # fmt: skip
    """Write to ``out`` the labels of frames ``committed``…t of the best path, a last run shorter than D allowed."""
    ring, classes = score.shape
    label = best_other(score[t % ring], -1)
    best = score[t % ring, label]
    begin = t + 1  # where a short last run starts; t + 1: there is none
    for tau in range(max(committed, t - minimum + 1, minimum - 1), t):
        cost = switch if heard[tau % ring] and heard[(tau + 1) % ring] else pause
        for c in range(classes):
            rival = best_other(score[tau % ring], c)
            if rival < 0 or score[tau % ring, rival] <= _DEAD:
                continue
            reached = score[tau % ring, rival] - cost + total[t % ring, c] - total[tau % ring, c]
            if reached > best:
                best, label, begin = reached, c, tau + 1
    for frame in range(begin, t + 1):
        out[frame - committed] = label
    if begin <= t:
        label = best_other(score[(begin - 1) % ring], label)
    for frame in range(committed, begin):
        out[frame - committed] = trace(begin - 1, label, frame, start, before)


class Decoder:
    """One session's decoder over ``classes`` classes. The labels it returns are class numbers, int64."""

    def __init__(self, classes: int, settings: DecoderSettings) -> None:
        ring = settings.lag + settings.min_duration + 2
        self._settings = settings
        self._score = np.zeros((ring, classes), np.int64)
        self._total = np.zeros((ring, classes), np.int64)
        self._start = np.zeros((ring, classes), np.int64)
        self._before = np.zeros((ring, classes), np.int64)
        self._heard = np.zeros(ring, np.bool_)
        self._next = 0
        self.committed = 0
        """Labels of frames [0, committed) are final."""

    def push(self, emissions: NDArray[np.int32], speech: NDArray[np.bool_]) -> Ints:
        """Emissions ``[n, C]`` in 1/256 nat and speech flags ``[n]`` of the next frames; the labels that became
        final."""
        limits = self._settings
        out = np.empty(self._next - self.committed + len(emissions), np.int64)
        count = advance(
            emissions, speech, self._next, self.committed,
            self._score, self._total, self._start, self._before, self._heard,
            limits.switch, limits.pause, limits.min_duration, limits.lag, out,
        )  # fmt: skip
        self._next += len(emissions)
        self.committed += count
        return out[:count]

    def tentative(self) -> Ints:
        """The labels of the frames that are not final yet, as they look now."""
        limits = self._settings
        out = np.empty(self._next - self.committed, np.int64)
        if len(out):
            current(
                self._next - 1, self.committed, self._score, self._total, self._start, self._before, self._heard,
                limits.switch, limits.pause, limits.min_duration, out,
            )  # fmt: skip
        return out

    def flush(self) -> Ints:
        """The end of the session: every remaining frame becomes final. A last run keeps the minimum duration too."""
        t, ring = self._next - 1, len(self._score)
        if t < self.committed:
            return np.empty(0, np.int64)
        label = best_other(self._score[t % ring], -1)
        rest = [trace(t, label, frame, self._start, self._before) for frame in range(self.committed, t + 1)]
        self.committed = self._next
        return np.array(rest, np.int64)
