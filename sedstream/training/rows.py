"""A user's labels: a CSV with a span of a recording and its emotion a line, read and checked."""

import csv
import io
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

from ..errors import BadInput
from ..grid import HOP, RATE
from ..scoring.formats import forbid_twice, seconds_of
from ..scoring.labels import ALIASES, EMOTIONS, SILENCE, vocabulary
from ..scoring.sheet import SECOND, ticks

NAME = "labels.csv"
REQUIRED = ("file", "start", "end", "emotion")
"""Columns, named as audformat names them; also read: speaker, split, channel, arousal, valence."""
SPLITS = ("train", "valid", "test")
UNKNOWN = -1
FRAME = SECOND * HOP // RATE
ABSENT = frozenset({"", "nan", "nat", "none"})


@dataclass(frozen=True)
class Row:
    """A labelled span.

    `line` of the CSV; `file` as it is named there; `channel` from 0, None for the mix of all; frames [`start`, `end`),
    `end` None for the end of the file; `emotion` an index of the labels or -1; `speaker` and `split` may be empty;
    `arousal` and `valence` in 0…1, or NaN.
    """

    line: int
    file: str
    channel: int | None
    start: int
    end: int | None
    emotion: int
    speaker: str
    split: str
    arousal: float
    valence: float


def find_table(data: Path) -> Path | None:
    """The labels in a folder: labels.csv, or the only CSV with the columns file, start, end, emotion; None without one.

    Raises:
        BadInput: there is no such folder, or several files would do.
    """
    if not data.is_dir():
        raise BadInput(f"Bad data folder '{data}', expected a folder that exists")
    if (data / NAME).is_file():
        return data / NAME
    found = [path for path in sorted(data.glob("*.csv")) if set(REQUIRED) <= set(_header(path))]
    if len(found) > 1:
        raise BadInput(f"Bad data folder '{data}' with {', '.join(p.name for p in found)}, expected one, or a {NAME}")
    return found[0] if found else None


def emotions(table: Path) -> tuple[str, ...]:
    """The emotions that occur in a CSV, by their usual names where they have one: those of `EMOTIONS` come first.

    Raises:
        BadInput: the file cannot be read, or has fewer than two.
    """
    told = {fields["emotion"].lower() for _, fields in _lines(table)} - ABSENT - SILENCE
    found = {ALIASES.get(name, name) for name in told}
    if len(found) < 2:
        raise BadInput(f"Bad labels '{table}' with {''.join(found) or 'no emotion'} alone, expected two or more")
    return tuple(name for name in EMOTIONS if name in found) + tuple(sorted(found.difference(EMOTIONS)))


def read_rows(table: Path, labels: Sequence[str]) -> list[Row]:
    """The rows of a CSV, in its order. A name of silence (`silence`, `sil`) is a row that is left out.

    Args:
        table: UTF-8, commas between, the first line names the columns.
        labels: the emotions that may occur; usual other spellings (`anger`, `joy`) are understood.

    Raises:
        BadInput: names the line and what was expected there.
    """
    rows = []
    for line, fields in _lines(table):
        where = f"'{table}' line {line}"
        number = _emotion(fields["emotion"], labels, where)
        if number is None:
            continue
        if not fields["file"]:
            raise BadInput(f"Bad file '' in {where}, expected the name of a recording")
        split = fields.get("split", "").lower()
        if split and split not in SPLITS:
            raise BadInput(f"Bad split '{split}' in {where}, expected one of {', '.join(SPLITS)}")
        affect = [_affect(fields, name, where) for name in ("arousal", "valence")]
        if number == UNKNOWN and all(map(math.isnan, affect)):
            raise BadInput(f"Bad emotion '' in {where}, expected one of {', '.join(labels)}, or arousal or valence")
        start, end = _span(fields["start"], fields["end"], where)
        speaker = fields.get("speaker", "")
        file = os.path.normpath(fields["file"])
        rows.append(Row(line, file, _channel(fields, where), start, end, number, speaker, split, *affect))
    _check(rows, table, labels)
    return _mixed(rows)


def recordings(rows: Sequence[Row]) -> dict[tuple[str, int | None], list[Row]]:
    """The rows of each file and channel, in order of time."""
    found: dict[tuple[str, int | None], list[Row]] = {}
    for row in rows:
        found.setdefault((row.file, row.channel), []).append(row)
    return {key: sorted(group, key=lambda row: row.start) for key, group in found.items()}


def _header(path: Path) -> list[str]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            return [name.strip().lower() for name in next(csv.reader(file), [])]
    except (OSError, UnicodeDecodeError, csv.Error):
        return []


def _lines(table: Path) -> Iterator[tuple[int, dict[str, str]]]:
    try:
        text = table.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"Bad labels '{table}', expected a readable file in UTF-8: {error}") from error
    reader = csv.reader(io.StringIO(text), strict=True)  # lines end as in text files, not as `str.splitlines` has it
    header: list[str] = []
    try:
        for values in reader:
            if not any(value.strip() for value in values):
                continue
            where = f"'{table}' line {reader.line_num}"
            if not header:
                header = [name.strip().lower() for name in values]
                missing = [name for name in REQUIRED if name not in header]
                if missing:
                    raise BadInput(f"Bad header in {where}, expected the columns {', '.join(missing)} as well")
                forbid_twice(header, where)
                continue
            if len(values) != len(header):
                raise BadInput(f"Bad row of {len(values)} fields in {where}, expected {len(header)}")
            yield reader.line_num, {name: value.strip() for name, value in zip(header, values, strict=True)}
    except csv.Error as error:
        raise BadInput(
            f"Bad row in '{table}' line {reader.line_num}, expected comma-separated values: {error}"
        ) from error


def _emotion(text: str, labels: Sequence[str], where: str) -> int | None:
    """Index of an emotion; UNKNOWN for no text, None for silence."""
    name = text.lower()
    if name in ABSENT:
        return UNKNOWN
    known = [label.lower() for label in labels]
    if name not in known:
        try:
            resolved = vocabulary(labels).resolve(name)
        except KeyError:
            resolved = name
        if resolved is None:
            return None
        name = resolved
    if name not in known:
        raise BadInput(f"Bad emotion '{text}' in {where}, expected one of {', '.join(labels)}")
    return known.index(name)


def _span(first: str, last: str, where: str) -> tuple[int, int | None]:
    start = 0 if first.lower() in ABSENT else _frame(first)
    end = None if last.lower() in ABSENT else _frame(last)
    if start is None or start < 0 or (end is None) != (last.lower() in ABSENT) or (end is not None and end <= start):
        raise BadInput(
            f"Bad span '{first} to {last}' in {where}, expected 0 ≤ start < end in seconds, 0.02 or more apart"
        )
    return start, end


def _frame(text: str) -> int | None:
    """The frame boundary next to a time; None for what is no time. Negative times stay negative."""
    found = ticks(seconds_of(text))
    if found is None:
        return None
    return (found + FRAME // 2) // FRAME if found >= 0 else -1


def _affect(fields: Mapping[str, str], name: str, where: str) -> float:
    text = fields.get(name, "")
    if text.lower() in ABSENT:
        return math.nan
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value <= 1:
        raise BadInput(f"Bad {name} '{text}' in {where}, expected a number from 0 to 1")
    return value


def _channel(fields: Mapping[str, str], where: str) -> int | None:
    text = fields.get("channel", "")
    if text.lower() in ABSENT:
        return None
    if text not in ("0", "1"):
        raise BadInput(f"Bad channel '{text}' in {where}, expected 0 or 1")
    return int(text)


def _mixed(rows: list[Row]) -> list[Row]:
    """A recording of which only channel 0 is named is heard as a mix: an answer of `sedstream diarize` calls it so."""
    channels: dict[str, set[int | None]] = {}
    for row in rows:
        channels.setdefault(row.file, set()).add(row.channel)
    return [replace(row, channel=None) if channels[row.file] == {0} else row for row in rows]


def _check(rows: Sequence[Row], table: Path, labels: Sequence[str]) -> None:
    """What only shows when rows are seen together. Raises `BadInput`."""
    known = sorted({row.emotion for row in rows} - {UNKNOWN})
    if len(known) < 2:
        told = " and ".join(labels[n] for n in known) or "no emotion"
        raise BadInput(f"Bad labels '{table}' with {told} alone, expected two or more of {', '.join(labels)}")
    split: dict[str, Row] = {}
    several = any(row.split for row in rows)
    for row in rows:
        first = split.setdefault(row.file, row)
        if row.split != first.split:
            where = f"'{table}' line {row.line}"
            raise BadInput(f"Bad split '{row.split}' in {where}, expected '{first.split}' as in line {first.line}")
        if not row.split and several:
            raise BadInput(f"Bad split '' in '{table}' line {row.line}, expected one in each line or in none")
    for group in recordings(rows).values():
        for before, row in pairwise(group):
            if before.end is None or row.start < before.end:
                until = "the end" if before.end is None else f"{before.end * HOP / RATE:g} s"
                raise BadInput(
                    f"Bad span in '{table}' line {row.line}, expected no overlap with line {before.line}, which goes "
                    f"to {until}"
                )
