"""What stands on a disk while a folder of answers is made: files that may change meanwhile, and other runs."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import file_digest
from pathlib import Path

from .errors import BadInput

AHEAD = 16
"""Recordings whose content is hashed while others are answered."""


@dataclass(frozen=True, slots=True)
class Look:
    """What a file was before it was read: size and time of its last change, and the sha256 of its content."""

    stamp: tuple[int, int]
    digest: str


def looks(paths: Sequence[Path]) -> Iterator[tuple[Path, Look | None]]:
    """Each file with a look at it, taken ahead on another thread; None where it cannot be read."""
    with ThreadPoolExecutor(1, "sedstream-look") as looker:
        ahead: deque[tuple[Path, Future[Look | None]]] = deque()
        try:
            for path in paths:
                ahead.append((path, looker.submit(_look, path)))
                if len(ahead) > AHEAD:
                    first, look = ahead.popleft()
                    yield first, look.result()
            while ahead:
                first, look = ahead.popleft()
                yield first, look.result()
        finally:
            looker.shutdown(cancel_futures=True)


def _look(path: Path) -> Look | None:
    try:
        if not path.is_file():  # a pipe would be waited for
            return None
        stamp = stamp_of(path)
        with path.open("rb") as file:
            return Look(stamp, file_digest(file, "sha256").hexdigest())
    except OSError:
        return None


def stamp_of(path: Path) -> tuple[int, int]:
    """Bytes of a file, and when it last changed, in nanoseconds. Raises ``OSError``."""
    status = path.stat()
    return status.st_size, status.st_mtime_ns


@contextmanager
def held(out: Path) -> Iterator[None]:
    """No other run writes to the folder meanwhile, where the system can tell. Raises ``BadInput`` if one does."""
    try:
        import fcntl
    except ImportError:  # not on Windows
        yield
        return
    place = os.open(out, os.O_RDONLY)
    try:
        fcntl.flock(place, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(place)
        raise BadInput(f"Bad output folder '{out}', expected one that no other run writes to") from error
    except OSError:  # a file system without locks
        pass
    try:
        yield
    finally:
        os.close(place)
