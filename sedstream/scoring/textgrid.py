"""Praat's TextGrid, saved as text file or short text file: each interval tier is a channel, each text an emotion.

https://www.fon.hum.uva.nl/praat/manual/TextGrid_file_formats.html: what counts are the numbers, the texts in quotes and
the flags in angle brackets, in their order; the words between them (``xmin =``, ``intervals [1]:``) are for people. A
file that lost a value would shift all that follow, so here a line with ``=`` must hold its value.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from ..errors import BadInput
from .sheet import SECOND, Sheet, ticks

TOKEN = re.compile(r'"(?P<text>(?:[^"]|"")*)"|(?P<open>")|(?P<comment>!.*)|(?P<flag><\w+>)|(?P<word>[^\s"]+)')
NUMBER = re.compile(r"[+-]?\d+(?:\.\d*)?(?:[eE][+-]?\d+)?")
CHANNEL = re.compile(r"channel (\d+)")
"""What ``sedstream diarize`` calls the tier of a channel without a role."""


def textgrid(file: Path, text: str, sheet: Sheet) -> None:
    """The tier's name is the role. An interval without text is silence; point tiers (arousal) are not read.

    All interval tiers count: one of words is told as unknown emotions. The recording lasts until ``xmax``.
    """
    values = _Values(file, text)
    if values.text() not in ("ooTextFile", "ooTextFile short") or values.text() != "TextGrid":
        raise BadInput(f"Bad file '{file}', expected a TextGrid that Praat saved as text file or short text file")
    _, end = values.number(), values.number()
    sheet.lasts(str(file), values.where, end)
    tiers = values.count() if values.flag() == "<exists>" else 0
    channels = 0
    for _ in range(tiers):
        kind = values.text()
        if kind not in ("IntervalTier", "TextTier"):
            raise BadInput(f"Bad class '{kind}' in {values.where}, expected IntervalTier or TextTier")
        name = values.text().strip()
        values.number(), values.number()
        if kind == "IntervalTier":
            numbered = CHANNEL.fullmatch(name)
            channel, role = (numbered[1], "") if numbered else (str(channels), name)
            _intervals(values, sheet, str(file), channel, role)
            channels += 1
        else:
            for _ in range(values.count()):
                values.number(), values.text()
    values.end()


def _intervals(values: _Values, sheet: Sheet, file: str, channel: str, role: str) -> None:
    last = 0
    for _ in range(values.count()):
        start, end = ticks(values.number()), ticks(values.number())
        if start is None or end is None or not last <= start < end:
            raise BadInput(
                f"Bad span '{(start or 0) / SECOND:g} to {(end or 0) / SECOND:g}' in {values.where}, expected seconds, "
                f"{last / SECOND:g} ≤ xmin < xmax"
            )
        last = end
        emotion = values.text().strip()
        if emotion:
            sheet.add(file, values.where, start, end, emotion, channel=channel, role=role)


class _Values:
    """The values of a file in their order; ``where``: file and line of the one that was read last."""

    def __init__(self, file: Path, text: str) -> None:
        self.where = f"'{file}' line 1"
        self._file = file
        self._found = self._find(text)

    def text(self) -> str:
        """In one line. Praat allows line breaks, but they tell of a quote that is missing in this line."""
        return self._next("text", "a text in quotes")

    def flag(self) -> str:
        return self._next("flag", "<exists> or <absent>")

    def number(self) -> float:
        return float(self._next("number", "a number"))

    def count(self) -> int:
        number = self._next("number", "how many follow")
        if not number.isdecimal():
            raise BadInput(f"Bad size '{number}' in {self.where}, expected how many follow")
        return int(number)

    def end(self) -> None:
        for _, content in self._found:
            raise BadInput(f"Bad value '{_short(content)}' in {self.where}, expected the end of the file")

    def _next(self, kind: str, expected: str) -> str:
        found, content = next(self._found, ("end", "the end of the file"))
        if found != kind or "\n" in content:
            raise BadInput(f"Bad value '{_short(content)}' in {self.where}, expected {expected}")
        return content

    def _find(self, text: str) -> Iterator[tuple[str, str]]:
        """Kind and content of each value."""
        line, done, promised = 1, 0, 0
        for found in TOKEN.finditer(text):
            line += text.count("\n", done, found.start())
            done = found.start()
            kind, content = found.lastgroup or "", found[0]
            if kind == "comment":
                continue
            if kind == "word" and NUMBER.fullmatch(content):
                kind = "number"
            if promised and (promised != line or kind == "word"):
                self.where = f"'{self._file}' line {promised}"
                content = content if promised == line else ""
                raise BadInput(f"Bad value '{_short(content)}' in {self.where}, expected a number or a text in quotes")
            promised = line if content == "=" else 0
            if kind != "word":
                self.where = f"'{self._file}' line {line}"
                yield kind, found["text"].replace('""', '"') if kind == "text" else content


def _short(text: str) -> str:
    first = text.split("\n")[0].strip()
    return first if len(first) <= 40 else f"{first[:39]}…"
