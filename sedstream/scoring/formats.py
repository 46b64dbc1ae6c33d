"""The lines of RTTM, CSV, JSONL and ZED's JSON, each onto a :class:`~sedstream.scoring.sheet.Sheet`."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterable
from itertools import dropwhile
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from ..errors import BadInput
from .sheet import SECOND, Sheet, Span, ticks

RTTM_TYPES = frozenset(
    {"SEGMENT", "NOSCORE", "NO_RT_METADATA", "LEXEME", "NON-LEX", "NON-SPEECH", "FILLER", "EDIT", "IP", "SU", "CB"}
    | {"A/P", "SPKR-INFO"}
)
"""The types of RTTM (NIST, Rich Transcription 2009 evaluation plan, appendix A) beside SPEAKER; none is an emotion."""
NOBODY = frozenset({"<NA>", "unknown"})

REQUIRED = ("start", "end", "emotion")

TIMEDELTA = re.compile(r"(?=.)(?:(\d+) days?(?: |$))?(?:(\d+):(\d\d):(\d\d(?:\.\d+)?))?")
"""``0 days 00:00:01.520000``, as audformat writes times, and ``0 days``, if all of a column are whole days."""


def rttm(file: Path, text: str, sheet: Sheet) -> None:
    """``SPEAKER file channel onset duration <NA> <NA> emotion <NA> <NA>``, the last field optional; ``;;`` comments.

    ``SPKR-INFO`` makes a recording known, and names its channel when there is one such line for it. Names may be
    percent-encoded.
    """
    rows: list[tuple[list[str], str]] = []
    people: dict[tuple[str, str], list[str]] = {}
    for number, line in enumerate(text.split("\n"), 1):
        fields = line.split()
        where = f"'{file}' line {number}"
        if not fields or line.startswith(";;"):
            continue
        if fields[0] == "SPKR-INFO" and len(fields) >= 8:
            sheet.recording(unquote(fields[1]), where)
            people.setdefault((fields[1], fields[2]), []).append("" if fields[7] in NOBODY else unquote(fields[7]))
        if fields[0] in RTTM_TYPES:
            continue
        if fields[0] != "SPEAKER":
            raise BadInput(f"Bad type '{fields[0]}' in {where}, expected SPEAKER")
        if len(fields) not in (9, 10):
            raise BadInput(f"Bad line of {len(fields)} fields in {where}, expected 10: SPEAKER file channel onset …")
        rows.append((fields, where))
    # RTTM counts channels from 1, our rows from 0; some writers of RTTM count from 0 as well.
    shift = 0 if any(fields[2] == "0" for fields, _ in rows) else 1
    for fields, where in rows:
        onset, duration = ticks(fields[3]), ticks(fields[4])
        if onset is None or duration is None or onset < 0 or duration <= 0:
            raise BadInput(f"Bad span '{fields[3]} {fields[4]}' in {where}, expected seconds, onset ≥ 0, duration > 0")
        channel = str(int(fields[2]) - shift) if fields[2].isdecimal() else fields[2]
        named = people.get((fields[1], fields[2]), [])
        role = named[0] if len(named) == 1 else ""
        sheet.add(unquote(fields[1]), where, onset, onset + duration, unquote(fields[7]), channel=channel, role=role)
    if not rows and not people:
        sheet.recording(str(file), f"'{file}'")


def table(file: Path, text: str, sheet: Sheet) -> None:
    """CSV with a header; lines before it that begin with ``#`` are comments (of a row it may be the recording's name).
    Times in seconds, or as audformat writes them."""
    numbered = list(enumerate(text.split("\n"), 1))
    numbered = list(dropwhile(lambda row: row[1].startswith("#") or not row[1].strip(), numbered))
    reader = csv.reader((f"{line}\n" for _, line in numbered), strict=True)
    header: list[str] = []
    rows = 0
    while reader.line_num < len(numbered):
        where = f"'{file}' line {numbered[reader.line_num][0]}"
        try:
            row = next(reader, [])
        except csv.Error as error:
            raise BadInput(f"Bad row in {where}, expected comma-separated values: {error}") from error
        if not any(field.strip() for field in row):
            continue
        if not header:
            header = [name.strip().lower() for name in row]
            _require(header, "header", where)
            forbid_twice(header, where)
            continue
        if len(row) != len(header):
            raise BadInput(f"Bad row of {len(row)} fields in {where}, expected {len(header)}")
        _add_row(dict(zip(header, row, strict=True)), file, where, sheet)
        rows += 1
    if not header:
        raise BadInput(f"Bad file '{file}', expected a header line with {', '.join(REQUIRED)}")
    if not rows:
        sheet.recording(str(file), f"'{file}'")


def summary(text: str) -> dict[str, int]:
    """The durations in a ``summary.csv`` of ``sedstream diarize``, nanoseconds by file; none in other tables."""
    rows = csv.DictReader(io.StringIO(text))
    return {row.get("file") or "": found for row in rows if (found := ticks(row.get("duration")))}


def lines(file: Path, text: str, sheet: Sheet) -> None:
    """One JSON object a line, a segment each. Objects with a ``type`` other than ``emotion.final`` are no segments, but
    may tell the ``duration`` of a ``file``. The segments of a channel must not overlap: a diarization tiles time."""
    told: list[tuple[str, Span, str]] = []
    objects = 0
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        where = f"'{file}' line {number}"
        row = _parse(line, file, number)
        if not isinstance(row, dict):
            raise BadInput(f"Bad row '{line.strip()[:40]}' in {where}, expected a JSON object")
        if row.get("type", "emotion.final") != "emotion.final":
            if "file" in row and "duration" in row:
                sheet.lasts(str(row["file"]), where, row["duration"])
                objects += 1
            continue
        objects += 1
        _require(row, "row", where)
        span = _add_row(row, file, where, sheet)
        if span is not None:
            told.append((str(row.get("file")), span, where))
    if not objects:
        sheet.recording(str(file), f"'{file}'")
    _forbid_overlap(told)


def zed(file: Path, text: str, sheet: Sheet) -> None:
    """The Zaion Emotion Dataset's ``ZED.json``: an object of utterances by id (``spk1_1``), each ``{"wav":
    "datafolder/….wav", "duration": seconds, "emotion": [{"emo": "sad", "start": 1.2, "end": 3.4}], "transcription":
    …}``; time outside the emotion is neutral.

    This is what the recipe that evaluates on ZED reads (SpeechBrain, recipes/ZaionEmotionDataset, ``zed_prepare.py``
    and ``speechbrain/utils/EDER.py``): ``datafolder`` stands for ZED's own folder, each utterance has exactly one
    emotion of happy, sad, angry, neutral, whose first letter counts, and the duration may be a string. Here a list may
    hold any number of emotions. Files that the recipe writes in that layout for other corpora are read as well.

    Wang, Ravanelli, Yacoubi: *Speech Emotion Diarization: Which Emotion Appears When?*, ASRU 2023, arXiv 2306.12991.
    """
    utterances = _parse(text, file, 1)
    if not isinstance(utterances, dict) or not utterances:
        raise BadInput(f"Bad file '{file}', expected a JSON object of utterances by id")
    for identifier, utterance in utterances.items():
        where = f"'{file}', utterance '{identifier}'"
        if not isinstance(utterance, dict) or not isinstance(utterance.get("emotion"), list):
            raise BadInput(f"Bad entry in {where}, expected wav, duration and a list named emotion")
        name = str(utterance.get("wav") or identifier)
        sheet.lasts(name, where, utterance.get("duration"))
        speaker = _word(utterance.get("speaker") or utterance.get("speaker_id"))
        for emotion in utterance["emotion"]:
            if not isinstance(emotion, dict) or not {"emo", "start", "end"} <= set(emotion):
                raise BadInput(f"Bad emotion '{emotion}' in {where}, expected emo, start and end")
            start, end = _span(emotion["start"], emotion["end"], where)
            sheet.add(name, where, start, end, emotion["emo"], speaker=speaker)


def _add_row(row: dict[str, Any], file: Path, where: str, sheet: Sheet) -> Span | None:
    """A row of CSV or JSONL; a recording without a name of its own has that of the annotation."""
    name = str(row.get("file") or file)
    if row.get("duration") not in (None, ""):
        sheet.lasts(name, where, seconds_of(row["duration"]))
    start, end = _span(row["start"], row["end"], where)
    return sheet.add(
        name,
        where,
        start,
        end,
        row["emotion"],
        channel=_word(row.get("channel")),
        role=_word(row.get("role")),
        speaker=_word(row.get("speaker")),
        arousal=_affect(row.get("arousal"), "arousal", where),
        valence=_affect(row.get("valence"), "valence", where),
    )


def _require(names: Iterable[str], what: str, where: str) -> None:
    missing = [name for name in REQUIRED if name not in names]
    if missing:
        raise BadInput(f"Bad {what} in {where}, expected {', '.join(REQUIRED)}: '{missing[0]}' is missing")


def forbid_twice(header: list[str], where: str) -> None:
    """Raise ``BadInput`` where two columns have one name; any number may have none."""
    if twice := next((name for name in header if header.count(name) > 1), None):
        raise BadInput(f"Bad header in {where}, expected '{twice}' once")


def _span(start: Any, end: Any, where: str) -> tuple[int, int]:
    first, last = ticks(seconds_of(start)), ticks(seconds_of(end))
    if first is None or last is None or not 0 <= first < last:
        raise BadInput(f"Bad span '{start} to {end}' in {where}, expected 0 ≤ start < end in seconds")
    return first, last


def seconds_of(value: Any) -> Any:
    """A time as audformat writes it in seconds; anything else as it is."""
    found = TIMEDELTA.fullmatch(value.strip()) if isinstance(value, str) else None
    if found is None:
        return value
    days, hours, minutes, seconds = found.groups()
    return ((int(days or 0) * 24 + int(hours or 0)) * 60 + int(minutes or 0)) * 60 + float(seconds or 0)


def _word(value: Any) -> str:
    return "" if value is None else str(value).strip()


def _affect(value: Any, name: str, where: str) -> float | None:
    """A number, nothing, or the wire's ``{"mean": …}``."""
    inner = value.get("mean") if isinstance(value, dict) else value
    if inner is None or str(inner).strip().lower() in ("", "nan"):
        return None
    if ticks(inner) is None:
        raise BadInput(f"Bad {name} '{value}' in {where}, expected a number")
    return float(inner)


def _forbid_overlap(told: Iterable[tuple[str, Span, str]]) -> None:
    last: dict[tuple[str, str, str], Span] = {}
    for name, span, where in sorted(told, key=lambda item: item[1].start):
        key = (name, span.channel, span.role)
        before = last.get(key)
        if before is not None and span.start < before.end:
            raise BadInput(
                f"Bad span '{span.start / SECOND:g} to {span.end / SECOND:g}' in {where}, expected no overlap with the "
                f"segment that ends at {before.end / SECOND:g}"
            )
        last[key] = span


def _parse(text: str, file: Path, line: int) -> Any:
    """JSON that begins in line ``line`` of ``file``."""
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        at = line + error.lineno - 1
        raise BadInput(f"Bad JSON in '{file}' line {at}, expected an object: {error.msg}") from error
    except (ValueError, RecursionError) as error:
        raise BadInput(f"Bad JSON in '{file}', expected numbers and nesting of a usual size") from error
