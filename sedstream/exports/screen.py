"""Segments as they come: a table for people, JSON lines for programs, on the screen or into a file."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TextIO

from .naming import one_line
from .writing import check_writable, forget, part_of, unwritable

STDOUT = Path("/dev/stdout")
"""What an error calls it."""


class Screen:
    """``with Screen(format, out) as screen``: ``show`` a row a segment. A file appears complete or not at all.

    ``format``: ``table`` or ``jsonl``. ``lasting``: nobody will say it again, so the file has each row at once, and
    keeps it whatever ends the work; until the first one an older file stays. Raises ``BadInput`` when ``out`` cannot be
    written.
    """

    def __init__(self, format: str, out: str | None = None, *, lasting: bool = False) -> None:
        self._format = format
        self._out = None if out is None else Path(out)
        self._file: TextIO = sys.stdout
        self._part: Path | None = None
        self._lasting = lasting
        self._headed: str | None = None

    def __enter__(self) -> Screen:
        if self._out is not None:
            check_writable(self._out)
            if not self._lasting:
                self._part = part_of(self._out)
                self._open(self._part)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._out is None:
            return  # it was flushed with each row
        if kind is not None:
            self.give_up()
        elif self._file is sys.stdout:
            self._open(self._out)  # nothing was said
        if self._file is sys.stdout:
            return
        try:
            self._file.close()  # writes what was held back: the disk may be full only now
            if self._part is not None:
                os.replace(self._part, self._out)
        except OSError as error:
            self.give_up()
            if kind is None:
                raise unwritable(self._out, error) from error

    def _open(self, path: Path) -> None:
        try:
            self._file = path.open("w", encoding="utf-8", errors="backslashreplace")
        except OSError as error:
            raise unwritable(self._out or path, error) from error

    def give_up(self) -> None:
        """A part failed: what would look complete is not left in ``out``."""
        if self._part is not None:
            forget(self._part)
            self._part = None

    def show(self, row: Mapping[str, Any]) -> None:
        """A row of ``Diarization.rows``."""
        if self._format == "jsonl":
            # What another encoding cannot hold would be escaped as Python does it, which JSON does not know.
            wide = (self._file.encoding or "").lower().replace("-", "") == "utf8"
            self._print(json.dumps(row, ensure_ascii=not wide))
            return
        if self._headed != row["file"]:
            self._headed = row["file"]
            self._print(f"\n{one_line(row['file'])}")
            self._print(
                f"{'start':>9} {'end':>9}  {'channel':<10} {'emotion':<10} {'conf.':>5}  {'arousal':>7}  {'valence':>7}"
            )
        channel = row["role"] or str(row["channel"])
        self._print(
            f"{clock(row['start']):>9} {clock(row['end']):>9}  {channel:<10} {row['emotion']:<10} "
            f"{row['confidence']:>5.2f}  {_score(row['arousal']['mean'])}  {_score(row['valence']['mean'])}"
        )

    def file_done(self, file: str, duration: float) -> None:
        """All rows of ``file`` have been shown; in a table a file without speech is told as well."""
        if self._format == "table" and self._headed != file:
            self._print(f"\n{one_line(file)}\n  no speech in {duration:.2f} s")

    def _print(self, text: str) -> None:
        if self._out is not None and self._file is sys.stdout:
            self._open(self._out)
        try:
            print(text, file=self._file, flush=self._out is None or self._lasting)
        except BrokenPipeError:
            raise  # the reader has seen enough
        except OSError as error:
            raise unwritable(self._out or STDOUT, error) from error


def clock(seconds: float) -> str:
    """41.28 -> ``41.28``, 3671.5 -> ``1:01:11.50``."""
    minutes, rest = divmod(round(seconds, 2), 60)  # first: 59.999 is a minute
    hours, minutes = divmod(int(minutes), 60)
    if hours:
        return f"{hours}:{minutes:02d}:{rest:05.2f}"
    return f"{minutes}:{rest:05.2f}" if minutes else f"{rest:.2f}"


def _score(value: float | None) -> str:
    return f"{'' if value is None else format(value, '.2f'):>7}"
