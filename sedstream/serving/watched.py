"""Files that an operator may change while the server runs."""

from __future__ import annotations

import os
from pathlib import Path


class Watched:
    """Tells when any of ``paths`` is another file than at the last look, or has other content."""

    def __init__(self, *paths: Path) -> None:
        self._paths = paths
        self._seen = self._look()

    def changed(self) -> bool:
        """Whether something changed since the last call; a missing file differs from one that is there."""
        last, self._seen = self._seen, self._look()
        return last != self._seen

    def _look(self) -> list[tuple[int, int, int] | None]:
        return [_stamp(path) for path in self._paths]


def _stamp(path: Path) -> tuple[int, int, int] | None:
    try:
        found = os.stat(path)  # the target of a link: certificates are often renewed by pointing a link elsewhere
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns
