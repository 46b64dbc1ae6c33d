"""What the server writes to its log: text for people or one JSON object a line; never audio, never a token.

Whoever logs passes what belongs to a record in ``extra``; only the fields named here come out, so that nothing that a
client sent can get into the log by accident.
"""

from __future__ import annotations

import json
import logging
import queue
import re
import sys
import threading
import time
from contextlib import suppress
from typing import Any, TextIO

from ..errors import BadInput

FIELDS = (
    "session",
    "calls",
    "peer",
    "dialect",
    "channels",
    "rate",
    "plan",
    "reason",
    "code",
    "duration",
    "segments",
    "lost",
)
"""What ``extra`` may bring: identifiers, numbers and words of our own."""

QUEUED = 10_000
"""Lines that may wait for a reader of the log."""
FAREWELL = 1.0
"""Seconds that remain for what waits when the process ends."""


class TextLines(logging.Formatter):
    """``2026-01-31T12:00:00.123Z INFO session opened session=… rate=8000``."""

    def format(self, record: logging.LogRecord) -> str:
        fields = "".join(f" {name}={_word(value)}" for name, value in _fields(record).items())
        text = f"{_when(record)} {record.levelname} {record.getMessage()}{fields}"
        return f"{text}\n{self.formatException(record.exc_info)}" if record.exc_info else text


class JsonLines(logging.Formatter):
    """``{"time": …, "level": …, "logger": …, "message": …, …}``, one line a record."""

    def format(self, record: logging.LogRecord) -> str:
        head = {"time": _when(record), "level": record.levelname.lower(), "logger": record.name}
        line: dict[str, Any] = head | {"message": record.getMessage()} | _fields(record)
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False, default=str)


FORMATS: dict[str, type[logging.Formatter]] = {"text": TextLines, "json": JsonLines}


class Writer(logging.Handler):
    """Writes to ``out`` on a thread of its own: whoever reads the log may stop reading it, and the calls must go on.
    What finds no room then is dropped, and how much is told in the end."""

    def __init__(self, out: TextIO) -> None:
        super().__init__()
        self._out = out
        self._lines: queue.Queue[str] = queue.Queue(QUEUED)
        self._dropped = 0
        threading.Thread(target=self._run, name="sedstream-log", daemon=True).start()

    def emit(self, record: logging.LogRecord) -> None:
        """Never blocks."""
        try:
            self._lines.put_nowait(self.format(record))
        except queue.Full:
            self._dropped += 1

    def flush(self) -> None:
        """Wait until all is written, for ``FAREWELL`` seconds."""
        deadline = time.monotonic() + FAREWELL
        while self._lines.unfinished_tasks and time.monotonic() < deadline:
            time.sleep(0.005)

    def _run(self) -> None:
        while True:
            line = self._lines.get()
            with suppress(OSError, ValueError):  # nobody reads any more
                self._out.write(line + "\n")
                self._out.flush()
            if self._dropped and self._lines.empty():
                dropped, self._dropped = self._dropped, 0
                told = {"name": __name__, "levelno": logging.WARNING, "levelname": "WARNING"}
                self.handle(logging.makeLogRecord(told | {"msg": f"{dropped} lines of the log were dropped"}))
            self._lines.task_done()


def configure(format: str = "text") -> None:
    """Send the log of this process to stderr. Raises ``BadInput`` for an unknown format."""
    if format not in FORMATS:
        raise BadInput(f"Bad log format {format!r}, expected {' or '.join(FORMATS)}")
    out = Writer(sys.stderr)
    out.setFormatter(FORMATS[format]())
    out.addFilter(_worth_telling)
    logging.basicConfig(level=logging.INFO, handlers=[out], force=True)
    logging.getLogger("websockets").setLevel(logging.WARNING)  # below, it tells headers and frames


def _worth_telling(record: logging.LogRecord) -> bool:
    """Whoever knocks at a port and speaks no HTTP is no news, and would fill the log."""
    return not (record.name.startswith("websockets") and record.msg == "opening handshake failed")


def _when(record: logging.LogRecord) -> str:
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(record.created))}.{int(record.msecs):03d}Z"


def _word(value: object) -> str:
    """A value that cannot be taken for the next field: a platform names its calls as it likes."""
    text = str(value)
    return text if re.fullmatch(r"[\w.:@/+\[\]-]+", text, re.ASCII) else json.dumps(text)


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    return {name: getattr(record, name) for name in FIELDS if getattr(record, name, None) is not None}
