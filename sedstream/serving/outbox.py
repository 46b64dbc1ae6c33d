"""What waits to be sent to one client, and what was sent last: provisional messages make room for newer ones, final
ones are never dropped."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any

from ..errors import BadMessage
from .protocol import body, numbered

LIMIT = 1_500
"""Messages that may wait: hours of final segments. Past that the client is not reading and the connection is closed."""
KEPT = 500
"""Messages that are kept after they were sent, for a client that resumes: more than a minute of a two-sided call, most
of it arousal."""


@dataclass(frozen=True, slots=True)
class Letter:
    """A message: what decides whether a newer one replaces it, and its JSON but for the number."""

    kind: str
    session: str
    channel: int
    seg: int
    body: str

    @classmethod
    def of(cls, message: Mapping[str, Any]) -> Letter:
        """``message`` has a ``type`` and a ``session``."""
        place = message.get("channel", 0), message.get("seg", 0)
        return cls(message["type"], message["session"], *place, body(message))


class Outbox:
    """A queue of messages to one client. ``full``: the client is too slow. ``kept`` 0: nothing is sent again."""

    def __init__(self, limit: int = LIMIT, kept: int = KEPT) -> None:
        self.limit = limit
        """Messages that may wait."""
        self._waiting: OrderedDict[int, Letter] = OrderedDict()
        # Where those wait that may be replaced: a follower of many calls may have thousands that wait.
        self._places: dict[tuple[str, str, int], set[int]] = {}
        self._free = count()
        self._sent: deque[tuple[int, Letter]] = deque()
        self._kept = kept
        self._seq = 0  # number of the next message
        self._forgotten = -1  # number of the last message that cannot be sent again

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def full(self) -> bool:
        """More waits than a client that reads would let."""
        return len(self._waiting) > self.limit

    def put(self, letter: Letter) -> None:
        """Append a message; one that waits and is superseded by it goes away.

        An ``emotion.update`` replaces everything provisional of its channel from its segment on, ``emotion.final``
        what was provisional of its segment, ``flow`` and ``session.ready`` the last of their kind; while the client
        is behind, ``arousal`` points give way: past half, none is taken.
        """
        if letter.kind == "arousal" and len(self._waiting) > self.limit // 2:
            return
        self._replace(letter)
        self._append(letter)

    def put_first(self, letter: Letter) -> None:
        """Before everything that waits, in place of the last of its kind."""
        self._replace(letter)
        self._waiting.move_to_end(self._append(letter), last=False)

    def take(self) -> str:
        """The oldest message as text, numbered. Raises ``KeyError`` when there is none."""
        place, letter = self._waiting.popitem(last=False)
        self._forget(place, letter)
        text = numbered(letter.body, self._seq)
        self._keep(letter)
        return text

    def rewind(self, seq: int) -> None:
        """What was sent after message ``seq`` waits again, but for what was superseded: the numbers go on at ``seq``
        + 1. Raises ``BadMessage`` for one that was never sent, or too long ago."""
        if seq >= self._seq:
            raise BadMessage("bad_value", f"Bad seq {seq}, expected at most {self._seq - 1}")
        if seq < self._forgotten:
            raise BadMessage("unknown_session", f"Bad seq {seq}, expected {self._forgotten} or more: it is too old")
        again = [letter for number, letter in self._sent if number > seq]
        self._sent = deque(item for item in self._sent if item[0] <= seq)
        current = _current([*again, *self._waiting.values()])
        self._waiting.clear()
        self._places.clear()
        for letter in current:
            self._append(letter)
        self._seq = seq + 1

    def _append(self, letter: Letter) -> int:
        place = next(self._free)
        self._waiting[place] = letter
        if letter.kind in _REPLACED.values():
            self._places.setdefault((letter.kind, letter.session, letter.channel), set()).add(place)
        return place

    def _replace(self, new: Letter) -> None:
        """Take away what waits and is superseded by a message."""
        found = self._places.get((_REPLACED.get(new.kind, ""), new.session, new.channel), ())
        for place in [place for place in found if _replaces(new, self._waiting[place])]:
            self._forget(place, self._waiting.pop(place))

    def _forget(self, place: int, letter: Letter) -> None:
        where = letter.kind, letter.session, letter.channel
        if places := self._places.get(where):
            places.discard(place)
            if not places:
                del self._places[where]

    def _keep(self, letter: Letter) -> None:
        self._sent.append((self._seq, letter))
        self._seq += 1
        if len(self._sent) > self._kept:
            current = set(map(id, _current([letter for _, letter in self._sent])))
            self._sent = deque(item for item in self._sent if id(item[1]) in current)
            while len(self._sent) > self._kept * 3 // 4:  # some at once, so that this is not done for every message
                self._forgotten = self._sent.popleft()[0]


_REPLACED = {
    "emotion.update": "emotion.update",
    "emotion.final": "emotion.update",
    "flow": "flow",
    "session.ready": "session.ready",
}
"""What a message of a kind may replace, of its session and channel."""


def _replaces(new: Letter, old: Letter) -> bool:
    """``old`` is what ``new`` may replace."""
    match new.kind:
        case "emotion.update":
            return old.seg >= new.seg
        case "emotion.final":
            return old.seg <= new.seg
    return True


def _current(letters: Sequence[Letter]) -> list[Letter]:
    """Those that no later one replaces."""
    kept: list[Letter] = []
    lowest: dict[tuple[str, int], int] = {}  # segment of the lowest later update of a channel
    highest: dict[tuple[str, int], int] = {}  # segment of the highest later final of a channel
    once: set[tuple[str, str]] = set()
    for letter in reversed(letters):
        where = letter.session, letter.channel
        match letter.kind:
            case "emotion.update":
                if lowest.get(where, letter.seg + 1) <= letter.seg or highest.get(where, -1) >= letter.seg:
                    continue
                lowest[where] = letter.seg
            case "emotion.final":
                highest[where] = max(highest.get(where, -1), letter.seg)
            case "flow" | "session.ready":
                if (letter.session, letter.kind) in once:
                    continue
                once.add((letter.session, letter.kind))
        kept.append(letter)
    return kept[::-1]
