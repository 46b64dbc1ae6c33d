"""What an annotation holds, in integer nanoseconds, and the sheet on which the readers note it down."""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from numbers import Real

from ..errors import BadInput
from .labels import Vocabulary

SECOND = 1_000_000_000
"""Ticks a second. A 20 ms frame, a sample at 8 or 16 kHz and every decimal of an annotation are whole nanoseconds, so
equal times compare equal; as floats, not even consecutive frames of 0.02 s all touch each other."""

AUDIO = (
    ".wav", ".flac", ".ogg", ".opus", ".oga", ".mp3", ".m4a", ".aac", ".mp4", ".webm", ".wma", ".aiff", ".aif", ".aifc",
    ".au", ".caf", ".w64", ".rf64", ".mka", ".mkv", ".mov", ".ac3", ".amr", ".3gp", ".wave", ".sph",
    ".mp2", ".m4b", ".m4v", ".avi", ".wv", ".tta",
)  # fmt: skip
"""What recordings are called."""
SUFFIXES = (".jsonl", ".csv", ".rttm", ".textgrid", ".json")
"""Annotations, in the order of preference inside a folder that holds several: what says more comes first."""
BEYOND = SECOND // 10
"""That a span may end behind the end of its recording: a last frame, or what an encoder added."""


@dataclass(frozen=True, slots=True)
class Span:
    """``emotion`` in [start, end), nanoseconds. ``arousal``, ``valence``: on the file's own scale, or None."""

    start: int
    end: int
    emotion: str
    channel: str = ""
    role: str = ""
    speaker: str = ""
    arousal: float | None = None
    valence: float | None = None


@dataclass(frozen=True, slots=True)
class Recording:
    """The annotation of one recording, in order of time. ``name``: its file name without suffix, and without folder
    where no other one is called so.
    ``duration``: nanoseconds, None when the format does not say."""

    name: str
    spans: tuple[Span, ...]
    duration: int | None = None


class Sheet:
    """What has been read so far from the files of one side. Everything is checked as it is noted down; ``where`` says
    in the error which file and line it came from."""

    def __init__(self, words: Vocabulary) -> None:
        self._words = words
        self._source = self._place = ""
        self._sources: dict[str, str] = {}
        self._files: dict[str, str] = {}
        self._spans: dict[str, list[Span]] = {}
        self._durations: dict[str, int] = {}

    def turn(self, source: str, place: str = "") -> None:
        """What comes now is from the annotation file ``source``; ``place``: the folder that tells it from others of its
        name."""
        self._source, self._place = source, place

    def recording(self, file: str, where: str) -> str:
        """The name of the recording ``file``, known from now on."""
        name = stem(file)
        if self._place and name == stem(self._source):
            name = f"{self._place}/{name}"
        if (other := self._sources.setdefault(name, self._source)) != self._source:
            raise BadInput(f"Bad recording '{name}' in {where}, expected it in one file: '{other}' has it too")
        if self._files.setdefault(name, file) != file:
            raise BadInput(
                f"Bad recordings '{self._files[name]}' and '{file}' in {where}, expected names that differ without "
                "their folders"
            )
        self._spans.setdefault(name, [])
        return name

    def add(
        self,
        file: str,
        where: str,
        start: int,
        end: int,
        emotion: object,
        *,
        channel: str = "",
        role: str = "",
        speaker: str = "",
        arousal: float | None = None,
        valence: float | None = None,
    ) -> Span | None:
        """A span of ``file`` in nanoseconds; None when it is labelled as silence."""
        name = self.recording(file, where)
        try:
            label = self._words.resolve(str(emotion))
        except KeyError:
            expected = ", ".join(self._words.labels)
            raise BadInput(f"Bad emotion '{emotion}' in {where}, expected one of {expected}") from None
        if label is None:
            return None
        span = Span(start, end, label, channel, role, speaker, arousal, valence)
        self._spans[name].append(span)
        return span

    def lasts(self, file: str, where: str, seconds: object) -> None:
        """``file`` is so long."""
        duration = ticks(seconds)
        if duration is None or duration <= 0:
            raise BadInput(f"Bad duration '{seconds}' in {where}, expected seconds above 0")
        name = self.recording(file, where)
        if (told := self._durations.setdefault(name, duration)) != duration:
            raise BadInput(f"Bad duration '{seconds}' in {where}, expected that of the recording, {told / SECOND:g}")

    def lengths(self, durations: Mapping[str, int]) -> None:
        """How long recordings are, from elsewhere, by path: of those that are known and have not told it themselves."""
        called: dict[str, list[tuple[str, int]]] = defaultdict(list)
        for file, duration in durations.items():
            called[stem(file)].append(("/" + "/".join(_parts(file)[:-1]), duration))
        for name in self._spans.keys() - self._durations.keys():
            place = "/" + name.rpartition("/")[0] if "/" in name else ""
            found = {duration for folder, duration in called[stem(name)] if folder.endswith(place)}
            if len(found) == 1:
                self._durations[name] = found.pop()

    def recordings(self) -> dict[str, Recording]:
        """What was noted down, by name."""
        found = {}
        for name, spans in self._spans.items():
            spans.sort(key=lambda span: (span.start, span.end))
            duration = self._durations.get(name)
            end = max((span.end for span in spans), default=0)
            if duration is not None and end > duration + BEYOND:
                raise BadInput(
                    f"Bad duration '{duration / SECOND:g}' of '{name}', expected that of the recording: a segment ends "
                    f"at {end / SECOND:g}"
                )
            found[name] = Recording(name, tuple(spans), duration)
        return found


def stem(file: str) -> str:
    """``calls/a.wav`` -> ``a``. Only known suffixes go: the identifiers of RTTM may hold dots."""
    name = _parts(file)[-1]
    for suffix in (*AUDIO, *SUFFIXES):
        if name.lower().endswith(suffix) and len(name) > len(suffix):
            return name[: -len(suffix)]
    return name


def _parts(file: str) -> list[str]:
    """Folders and name, of Windows too; what is escaped as exports do (``\\x0a``) is no folder."""
    return re.split(r"/|\\(?!x[0-9a-f]{2}|u[0-9a-f]{4})", file.rstrip("/"))


def ticks(seconds: object) -> int | None:
    """Nanoseconds; None for what is no finite number of them."""
    if isinstance(seconds, bool) or not isinstance(seconds, Real | str):
        return None
    try:
        value = float(seconds) * SECOND
    except (ValueError, OverflowError):
        return None
    return round(value) if math.isfinite(value) else None
