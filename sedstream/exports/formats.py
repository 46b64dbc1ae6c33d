"""The file formats by name: the name of a format is the name of its module."""

from __future__ import annotations

import io
from importlib import import_module
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Protocol, cast

from ..errors import BadInput
from .writing import write_whole

if TYPE_CHECKING:
    from ..offline import Diarization

NAMES = ("rttm", "csv", "parquet", "jsonl", "textgrid", "audacity", "elan", "vtt")


class Format(Protocol):
    """What each module of a format has."""

    SUFFIX: str
    """Of its files, with the dot."""
    BINARY: bool
    """``write`` takes a binary file; otherwise a text file opened with ``encoding="utf-8", newline=""``."""

    def write(self, diarization: Diarization, file: IO[Any]) -> None: ...


def find(name: str) -> Format:
    """The format called ``name``, one of ``NAMES``; loaded now. Raises ``BadInput`` for another name."""
    if name not in NAMES:
        raise BadInput(f"Bad format {name!r}, expected one of {', '.join(NAMES)}")
    return cast(Format, import_module(f".{name}", __package__))


def by_suffix(suffix: str) -> str:
    """The name of the format whose files end so, in any case. Raises ``BadInput`` for an unknown one."""
    known = {find(name).SUFFIX.lower(): name for name in NAMES}
    if suffix.lower() not in known:
        raise BadInput(f"Bad suffix {suffix!r}, expected one of {', '.join(known)}")
    return known[suffix.lower()]


def write(diarization: Diarization, name: str, file: IO[bytes]) -> None:
    """Write ``diarization`` in the format ``name`` to a binary ``file``, which stays open.

    Raises ``BadInput`` for an unknown name, ``Unavailable`` for parquet without pyarrow; nothing is written then.
    """
    format = find(name)
    if format.BINARY:
        format.write(diarization, file)
        return
    text = io.TextIOWrapper(file, encoding="utf-8", newline="")
    try:
        format.write(diarization, text)
    finally:
        text.detach()  # flushes, and leaves the file to its owner


def save(diarization: Diarization, name: str, path: Path) -> None:
    """``write`` to ``path``, whole or not at all. Raises ``BadInput`` as well when it cannot be written."""
    data = io.BytesIO()
    write(diarization, name, data)
    write_whole(path, data.getvalue())
