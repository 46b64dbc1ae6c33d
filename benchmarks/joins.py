"""A long recording against its pieces: ``python -m benchmarks joins [--hours 10] [--folder DIR] [--model M]``.

Recordings drawn from a folder (by default the demonstration clips), each at a level of its own, are joined to calls of
about a minute, and the calls end to end to one recording. From some seconds behind each join on, when what the model
and the VAD remember of the call before has faded, the long answer must give each frame the label that the call alone
has, until its last two seconds, in which the next call is already heard. Calls begin on the grid of the plan's blocks:
elsewhere the model would see other windows of the same sound. Memory is that of ``sedstream diarize`` in a process of
its own.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import soundfile
from numpy.typing import NDArray

import sedstream
from sedstream.audio.files import open_recording
from sedstream.audio.resample import Resampler
from sedstream.grid import HOP, RATE
from sedstream.offline import mix
from sedstream.sources import find_recordings

from .report import ROOT, write
from .speed import run

Samples = NDArray[np.int16]
CALLS = 24
SECONDS = 60
"""Of a call, at least."""
FORGET, AHEAD = 10 * RATE // HOP, 2 * RATE // HOP
"""Frames of a call that are not compared: at its start, at its end."""
SILENCE = -1


def call(paths: list[Path], dice: random.Random, grid: int) -> Samples:
    """A minute of recordings at one level, silence to the next multiple of ``grid`` samples behind it."""
    parts: list[NDArray[np.float32]] = []
    while sum(map(len, parts)) < SECONDS * RATE:
        recording = open_recording(dice.choice(paths))
        resampler = Resampler(recording.rate)
        parts += [resampler.push(mix(block)) for block in recording.blocks()]
        parts += [resampler.flush(), np.zeros(dice.randrange(RATE), np.float32)]
    samples = np.concatenate(parts)
    samples *= 10 ** (dice.uniform(-12, 0) / 20)
    return np.rint(np.pad(samples, (0, -len(samples) % grid)).clip(-1, 1) * 32767).astype(np.int16)


def labels(segments: Iterable[tuple[int, int, str]], frames: int, names: tuple[str, ...]) -> NDArray[np.int8]:
    """The label of each frame ``[frames]``, by number; ``SILENCE``."""
    found = np.full(frames, SILENCE, np.int8)
    for start, end, label in segments:
        found[start:end] = names.index(label)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks joins", description=__doc__)
    parser.add_argument("--hours", type=float, default=10.0, help="of the recording (%(default)s)")
    parser.add_argument("--folder", default=str(ROOT / "sedstream" / "demo"), help="of recordings to draw from")
    parser.add_argument("--model", default="sedstream-base", help="name or folder (%(default)s)")
    options = parser.parse_args()
    dice = random.Random(1)
    model = sedstream.load(options.model)
    names = model.manifest.labels
    grid = model.manifest.plan("batch").step * HOP
    paths = [path for path, _ in find_recordings([options.folder])]
    calls = [call(paths, dice, grid) for _ in range(CALLS)]
    pieces = []
    for samples in calls:
        answer = sedstream.diarize(samples / np.float32(32768), rate=RATE, model=model, frames=False)
        pieces.append(labels([(s.start, s.end, s.label) for s in answer.segments], len(samples) // HOP, names))
    order: list[int] = []
    while sum(len(calls[n]) for n in order) < options.hours * 3600 * RATE:
        order.append(dice.randrange(CALLS))
    with tempfile.TemporaryDirectory() as place:
        path, out = Path(place) / "long.flac", Path(place) / "long.jsonl"
        with soundfile.SoundFile(path, "w", RATE, 1) as file:
            for n in order:
                file.write(calls[n])
        command = (sys.executable, "-m", "sedstream", "diarize", str(path), "--out", str(out), "--model", options.model)
        wall, memory = run(*command)
        rows = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    total = sum(len(pieces[n]) for n in order)
    spans = [(round(row["start"] * RATE / HOP), round(row["end"] * RATE / HOP), row["emotion"]) for row in rows]
    whole = labels(spans, total, names)
    start, compared, spoken, other, moved, exact = len(pieces[order[0]]), 0, 0, 0, 0, 0
    last = []
    for n in order[1:]:
        piece = pieces[n]
        there, alone = (track[:-AHEAD] for track in (whole[start : start + len(piece)], piece))
        start += len(piece)
        last.append(int(np.flatnonzero(there != alone).max(initial=-1)) + 1)
        there, alone = there[FORGET:], alone[FORGET:]
        both = (there != SILENCE) & (alone != SILENCE)
        wrong = int((there[both] != alone[both]).sum())
        compared, spoken, other = compared + len(alone), spoken + int(both.sum()), other + wrong
        moved += int(((there == SILENCE) != (alone == SILENCE)).sum())
        exact += np.array_equal(there, alone)
    heard = {name for n in order for name in np.array(names)[np.unique(pieces[n][pieces[n] != SILENCE])]}
    seconds = total * HOP / RATE
    drawn = f"recordings from `{Path(options.folder).name}`, `{model.manifest.name}`, plan batch"

    def at(share: float) -> float:
        return float(np.quantile(last, share)) * HOP / RATE

    write(
        "Joins",
        f"""
| {seconds / 3600:.2f} h of {len(order)} calls end to end, {drawn} | |
|---|---|
| joins | {len(order) - 1} |
| joins whose call has, from {FORGET * HOP // RATE} s on, the same label or silence in every frame as alone | {exact} |
| frames compared | {compared:,} |
| frames of speech in both, with another label | {other:,} of {spoken:,} ({other / max(1, spoken):.4%}) |
| frames of speech in one only | {moved:,} |
| from where on after a join all frames are the same, median and most | {at(0.5):.1f} s, {at(1):.1f} s |
| labels that occur | {", ".join(sorted(heard))} |
| times real time | {seconds / wall:.0f} |
| peak memory of the process | {memory:.0f} MiB |
""",
    )


if __name__ == "__main__":
    main()
