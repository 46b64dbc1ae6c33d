"""What waits to be sent to one client: provisional messages make room for newer ones, final ones are never dropped."""

from __future__ import annotations

from collections import deque
from typing import Any

LIMIT = 1_000
"""Messages that may wait: hours of final segments. Past that the client is not reading and the connection is closed."""


class Outbox:
    """A queue of messages. ``full``: the client is too slow."""

    def __init__(self, limit: int = LIMIT) -> None:
        self._messages: deque[dict[str, Any]] = deque()
        self._limit = limit

    def __len__(self) -> int:
        return len(self._messages)

    @property
    def full(self) -> bool:
        return len(self._messages) > self._limit

    def put(self, message: dict[str, Any]) -> None:
        """Append a message; one that waits and is superseded by it goes away.

        An ``emotion.update`` replaces everything provisional of its channel from its segment on, a ``flow`` the
        last ``flow``, and while the client is behind, ``arousal`` points give way: past half, none is taken.
        """
        match message["type"]:
            case "emotion.update":
                channel, seg = message["channel"], message["seg"]
                self._drop(lambda m: m["type"] == "emotion.update" and m["channel"] == channel and m["seg"] >= seg)
            case "flow":
                self._drop(lambda m: m["type"] == "flow")
            case "arousal" if len(self._messages) > self._limit // 2:
                return
        self._messages.append(message)

    def take(self) -> dict[str, Any]:
        """The oldest message. Raises ``IndexError`` when there is none."""
        return self._messages.popleft()

    def _drop(self, superseded: Any) -> None:
        if any(map(superseded, self._messages)):
            self._messages = deque(m for m in self._messages if not superseded(m))
