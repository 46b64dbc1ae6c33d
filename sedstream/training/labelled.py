"""A user's labelled folder as the training sees it: labels.csv and the recordings that it names.

A row is speech of a known emotion. What no row covers is heard as context and trained for nothing: whoever labels a few
moments of a call has not said that the rest is neutral.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import pairwise
from math import isnan
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..audio.files import open_recording
from ..audio.resample import Resampler
from ..errors import BadInput, SedstreamError
from ..grid import HOP, RATE, frames_of
from .corpora import AFFECT, OWN, Corpora, Speech, Utterance, decode, speech_flags
from .holdout import Told, hold_out
from .rows import NAME, UNKNOWN, Row, find_table, read_rows, recordings

LONGEST = 400
"""Frames of an utterance: longer spans are cut, so that what is joined changes its emotion now and then."""
GAP = 250
"""Frames without a row that end a passage."""
SLACK = 5
"""Frames by which a span may go beyond the end of its file: decoders differ by so much."""


class Source(NamedTuple):
    """A channel of a recording, or its mix (None), and where it is named."""

    path: Path
    channel: int | None
    where: str


def load(data: Path, store: Path, labels: Sequence[str], *, workers: int = 2) -> Corpora:
    """Read a labelled folder; decoded once, then kept in `store` until the recordings change.

    Args:
        data: folder with labels.csv, or one CSV with its columns; names in it are relative to the folder.
        store: folder for the decoded recordings, 115 MB an hour.
        labels: the emotions that may occur.
        workers: processes that decode; 0: this one.

    Raises:
        BadInput: the labels or a recording cannot be read; names the line.
    """
    table = table_of(data)
    groups = recordings(read_rows(table, labels))
    sources = [
        Source(data / file, channel, f"'{table}' line {min(row.line for row in rows)}")
        for (file, channel), rows in groups.items()
    ]
    parts = decode(read_recording, sources, "\n".join(map(_state, sources)), store, workers)
    corpora = Corpora([])
    for ((file, channel), rows), speech in zip(groups.items(), parts, strict=True):
        voice = file if channel is None else f"{file}, channel {channel}"
        utterances = list(_utterances(rows, speech, voice, labels, table))
        corpora.utterances.extend(u for u in utterances if u.weight > 0)
        corpora.passages.extend(_passages(utterances))
    return _split(corpora, groups)


def table_of(data: Path) -> Path:
    """The labels in a folder. Raises BadInput if there are none."""
    table = find_table(data)
    if table is None:
        raise BadInput(f"Bad data folder '{data}', expected a {NAME} with the columns file, start, end, emotion in it")
    return table


def read_recording(source: Source) -> Speech:
    """A recording in any format, rate and number of channels: all of it, and where it is speech.

    Raises:
        BadInput: it cannot be read, or has no such channel.
        Unavailable: only ffmpeg could read it.
    """
    try:
        recording = open_recording(source.path)
        if source.channel is not None and source.channel >= recording.channels:
            raise BadInput(f"Bad channel {source.channel} of '{source.path}', expected a recording that has it")
        resampler = Resampler(recording.rate)
        blocks = [
            resampler.push(block.mean(1) if source.channel is None else np.ascontiguousarray(block[:, source.channel]))
            for block in recording.blocks()
        ]
    except SedstreamError as error:
        raise type(error)(f"{error} ({source.where})") from error
    samples = np.concatenate([*blocks, resampler.flush()])
    return np.round(np.clip(samples, -1, 1) * 32767).astype(np.int16), speech_flags(samples)


def _state(source: Source) -> str:
    """A recording's name, and what changes when the recording does."""
    try:
        now = source.path.stat()
    except (OSError, ValueError):  # no such file, or no name that a system takes
        return str(source.path)  # reading it will say more
    return f"{source.path} {source.channel} {now.st_size} {now.st_mtime_ns}"


def _utterances(
    rows: Sequence[Row], speech: Speech, voice: str, labels: Sequence[str], table: Path
) -> Iterator[Utterance]:
    """What the rows of a recording cover, from first to last speech, and the gaps between with weight 0."""
    samples, flags = speech
    end = 0
    for row in rows:
        last = len(flags) if row.end is None else row.end
        if row.start >= len(flags) or last > len(flags) + SLACK:
            length = f"{len(samples) / RATE:.2f} s"
            raise BadInput(f"Bad span in '{table}' line {row.line}, expected it within the {length} of '{row.file}'")
        heard = row.start + np.flatnonzero(flags[row.start : last])
        # Where the VAD finds nothing, whoever set the label knows better.
        first, last = (int(heard[0]), int(heard[-1]) + 1) if len(heard) else (row.start, min(last, len(flags)))
        if len(samples[first * HOP : last * HOP]) < HOP:
            raise BadInput(f"Bad span in '{table}' line {row.line}, expected {HOP / RATE} s or more of '{row.file}'")
        spoken = flags if len(heard) else np.ones_like(flags)
        if end < first:
            nothing = Row(row.line, row.file, None, end, first, UNKNOWN, row.speaker, row.split, np.nan, np.nan)
            yield _utterance(samples, flags, end, first, nothing, voice, labels, 0.0)
        cuts = np.linspace(first, last, 1 + -(-(last - first) // LONGEST)).round().astype(int).tolist()
        for a, b in pairwise(cuts):
            yield _utterance(samples, spoken, a, b, row, voice, labels, 1.0)
        end = last


def _utterance(
    samples: NDArray[np.int16],
    flags: NDArray[np.bool_],
    first: int,
    last: int,
    row: Row,
    voice: str,
    labels: Sequence[str],
    weight: float,
) -> Utterance:
    name = labels[row.emotion] if row.emotion != UNKNOWN else ""
    affect = (row.arousal, row.valence)
    usual = AFFECT.get(name, (np.nan, np.nan))
    arousal, valence = (default if isnan(told) else told for told, default in zip(affect, usual, strict=True))
    cut = samples[first * HOP : last * HOP]
    speaker = row.speaker or voice
    return Utterance(cut, flags[first:last], OWN, speaker, row.split, row.emotion, arousal, valence, weight, row.file)


def _passages(utterances: Sequence[Utterance]) -> Iterator[list[Utterance]]:
    """Runs of a recording with two labels or more and no long gap."""
    run: list[Utterance] = []
    for u in utterances:
        if u.weight == 0 and (not run or frames_of(len(u.samples)) > GAP):
            if sum(v.weight > 0 for v in run) > 1:
                yield run
            run = []
        else:
            run.append(u)
    if sum(v.weight > 0 for v in run) > 1:
        yield run


def _split(corpora: Corpora, groups: dict[tuple[str, int | None], list[Row]]) -> Corpora:
    """Say of each utterance which split it is in."""
    if not any(row.split for rows in groups.values() for row in rows):
        told = [Told(u.speaker, u.file, u.emotion, len(u.speech)) for u in corpora.utterances]
        held = hold_out(told)

        def placed(u: Utterance) -> Utterance:
            return replace(u, split="valid" if u.file in held else "train")

        passages = [[placed(u) for u in passage] for passage in corpora.passages]
        corpora = Corpora([placed(u) for u in corpora.utterances], passages=passages)
    for split, least in (("train", 2), ("valid", 1)):
        emotions = {u.emotion for u in corpora.utterances if u.split == split} - {UNKNOWN}
        if len(emotions) < least:
            raise BadInput(f"Bad split {split!r} with {len(emotions)} emotions, expected {least} or more")
    return corpora
