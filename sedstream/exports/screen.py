"""Segments as they come: a table for people, JSON lines for programs, on the screen or into a file."""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

from ..errors import BadInput


class Screen:
    """``with Screen(format, out) as screen``: ``show`` a row a segment. A file appears complete or not at all.

    ``format``: ``table`` or ``jsonl``. Raises ``BadInput`` when ``out`` cannot be written.
    """

    def __init__(self, format: str, out: str | None = None) -> None:
        self._format = format
        self._out = Path(out) if out else None
        self._file: IO[str] = sys.stdout
        self._temporary: str | None = None
        self._headed: str | None = None

    def __enter__(self) -> Screen:
        if self._out is not None:
            try:
                handle, self._temporary = tempfile.mkstemp(dir=self._out.parent, prefix=f".{self._out.name}.")
            except OSError as error:
                raise _unwritable(self._out, error) from error
            self._file = os.fdopen(handle, "w", encoding="utf-8")
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._out is None:
            if kind is None:
                self._file.flush()
            return
        self._file.close()
        if self._temporary is None:
            return
        if kind is not None:
            os.unlink(self._temporary)
            return
        try:
            os.chmod(self._temporary, 0o666 & ~_umask())
            os.replace(self._temporary, self._out)
        except OSError as error:
            os.unlink(self._temporary)
            raise _unwritable(self._out, error) from error

    def give_up(self) -> None:
        """A part failed: what would look complete is not left in ``out``."""
        if self._temporary is not None:
            os.unlink(self._temporary)
            self._temporary = None

    def show(self, row: Mapping[str, Any]) -> None:
        """A row of ``Diarization.rows``."""
        if self._format == "jsonl":
            print(json.dumps(row, ensure_ascii=False), file=self._file, flush=self._out is None)
            return
        if self._headed != row["file"]:
            self._headed = row["file"]
            print(f"\n{row['file']}", file=self._file)
            head = (
                f"{'start':>9} {'end':>9}  {'channel':<10} {'emotion':<10} {'conf.':>5}  {'arousal':>7}  {'valence':>7}"
            )
            print(head, file=self._file)
        channel = row["role"] or str(row["channel"])
        print(
            f"{clock(row['start']):>9} {clock(row['end']):>9}  {channel:<10} {row['emotion']:<10} "
            f"{row['confidence']:>5.2f}  {row['arousal']['mean']:>7.2f}  {row['valence']['mean']:>7.2f}",
            file=self._file,
            flush=self._out is None,
        )

    def file_done(self, file: str, duration: float) -> None:
        """All rows of ``file`` have been shown; in a table a file without speech is told as well."""
        if self._format == "table" and self._headed != file:
            print(f"\n{file}\n  no speech in {duration:.2f} s", file=self._file)


def clock(seconds: float) -> str:
    """41.28 -> ``41.28``, 3671.5 -> ``1:01:11.50``."""
    minutes, rest = divmod(seconds, 60)
    hours, minutes = divmod(int(minutes), 60)
    if hours:
        return f"{hours}:{minutes:02d}:{rest:05.2f}"
    return f"{minutes}:{rest:05.2f}" if minutes else f"{rest:.2f}"


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _unwritable(out: Path, error: OSError) -> BadInput:
    return BadInput(f"Bad output '{out}', expected a file that can be written: {error.strerror}")
