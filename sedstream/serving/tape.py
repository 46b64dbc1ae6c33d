"""What a client sends, without I/O: what waits to be sent, and the latest of what was, should it be needed again."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from .protocol import MAX_BINARY

PAUSE, CONTINUE = '{"type":"analysis.pause"}', '{"type":"analysis.resume"}'
FINALIZE, CLOSE = '{"type":"finalize"}', '{"type":"close"}'
KEPT_SECONDS = 30.0
"""Audio that is kept although the server has it: what a server that died may not have made final. It bounds, too, how
much may be under way."""


@dataclass(frozen=True, slots=True)
class _Piece:
    """Audio of ``samples`` samples from ``first`` on, as bytes; None: discarded. A request has none, and a text."""

    first: int
    samples: int
    data: bytes | str | None


class Tape:
    """``frame``: bytes of a sample of all channels; ``rate``: Hz. Samples count from the first one ever sent.
    ``lasting``: keep what may be needed again."""

    def __init__(self, frame: int, rate: int, *, lasting: bool) -> None:
        self._frame = frame
        self._kept = round(KEPT_SECONDS * rate)
        self._lasting = lasting
        self._pieces: deque[_Piece] = deque()
        self.unsent: deque[bytes | str] = deque()
        """What waits, the oldest first; whoever sends takes it away."""
        self.start = 0
        """The first sample that can be sent again."""
        self.end = 0
        """Samples so far."""
        self.received = 0
        """Samples that the server has."""
        self.closed = False
        """No more audio will come."""
        self._paused = False  # whether analysis is, before the first piece
        self._muted = False  # whether it is at the end

    @property
    def full(self) -> bool:
        """So much is under way that the server must tell what it has before more is sent."""
        return self._lasting and self.end - self.received > self._kept

    def audio(self, data: bytes) -> None:
        """Append audio, in messages no larger than the server takes; of a pause, nothing is kept once it was sent."""
        for first in range(0, len(data), MAX_BINARY):  # whole samples: 1 to 8 bytes divide it
            part = data[first : first + MAX_BINARY]
            self._append(len(part) // self._frame, part, None if self._muted else part)

    def discarded(self, samples: int) -> None:
        """Append audio that will never be sent."""
        self._append(samples, _discard(samples), None)

    def request(self, text: str) -> None:
        """Append a request."""
        self._append(0, text, text)
        self._muted = {PAUSE: True, CONTINUE: False}.get(text, self._muted)
        self.closed = self.closed or text == CLOSE

    def acknowledge(self, received: int, settled: int) -> None:
        """The server has ``received`` samples, of which ``settled`` will not be needed even if it dies."""
        self.received = max(self.received, received)
        self.start = max(self.start, min(self.received, max(settled, self.received - self._kept)))
        while self._pieces and self._pieces[0].first + self._pieces[0].samples < self.start:
            self._paused = _pauses(self._pieces.popleft(), self._paused)

    def rewind(self, sample: int, *, anew: bool = False) -> None:
        """The server has everything before ``sample``, the rest waits again; ``anew``: and knows of no pause."""
        self.received = sample
        self.unsent = deque(self._since(sample, anew))

    def _append(self, samples: int, data: bytes | str, kept: bytes | str | None) -> None:
        self.unsent.append(data)
        if self._lasting:
            self._pieces.append(_Piece(self.end, samples, kept))
        self.end += samples

    def _since(self, sample: int, anew: bool) -> Iterator[bytes | str]:
        paused = self._paused
        for piece in self._pieces:
            if piece.first < sample:
                paused = _pauses(piece, paused)
        if anew and paused:
            yield PAUSE
        if sample < self.start:  # no longer there: that is told
            yield _discard(self.start - sample)
            sample = self.start
        for piece in self._pieces:
            skipped = max(0, sample - piece.first)
            if isinstance(piece.data, str):
                if not skipped:
                    yield piece.data
            elif skipped < piece.samples:
                yield _discard(piece.samples - skipped) if piece.data is None else piece.data[skipped * self._frame :]


def _pauses(piece: _Piece, paused: bool) -> bool:
    return {PAUSE: True, CONTINUE: False}.get(piece.data, paused) if isinstance(piece.data, str) else paused


def _discard(samples: int) -> str:
    return f'{{"type":"discarded","samples":{samples}}}'


class Timeline:
    """The messages of a client's sessions, one after the other, on one timeline. ``rate``: Hz of the audio."""

    def __init__(self, rate: int) -> None:
        self.base = 0
        """The sample at which the session of the moment began."""
        self._rate = rate
        self._ends: dict[int, float] = {}  # seconds up to which a channel is final

    @property
    def settled(self) -> int:
        """Samples that are final on every channel."""
        return round(min(self._ends.values(), default=0.0) * self._rate)

    def begin(self, channels: list[int]) -> None:
        """A session that analyses ``channels`` begins at ``base``."""
        self._ends = {channel: self._ends.get(channel, 0.0) for channel in channels}

    def place(self, message: dict[str, Any]) -> bool:
        """Shift the times of a message. False: it was told by an earlier session already."""
        offset = self.base / self._rate
        if offset:
            cited = message.get("segments")
            for fields in (message, *(cited if isinstance(cited, list) else ())):
                for name in ("start", "end", "t_audio"):
                    value = fields.get(name)
                    if isinstance(value, (int, float)):
                        fields[name] = round(value + offset, 4)
        if message["type"] != "emotion.final":
            return True
        channel, start, end = message["channel"], message["start"], message["end"]
        told = self._ends.get(channel, 0.0)
        if offset and end <= told:
            return False
        if offset and start < told:
            message["start"] = told
        self._ends[channel] = end
        return True
