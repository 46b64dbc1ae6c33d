"""A long recording against its pieces: ``python -m benchmarks joins [--hours 10] [--folder DIR] [--model M]``.

Recordings drawn from a folder (by default the demonstration clips), each at a level of its own, are joined to calls of
about seven minutes, and the calls end to end to one recording. When a session has forgotten the call before, the long
answer must give each frame the label that the call alone has, until its last block, which already hears the next one
(``foreseen``). ``forgotten`` says how late that is at the latest; how it is before that is told too. Calls begin where
the VAD's states and what is known of the voice turn, and on the grid of the plan's blocks: elsewhere the models would
see other windows of the same sound. Memory is that of ``sedstream diarize`` in a process of its own.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import soundfile
from numpy.typing import NDArray

import sedstream
from sedstream.audio.files import open_recording
from sedstream.audio.resample import Resampler
from sedstream.decoding import voice
from sedstream.grid import HOP, PERIOD, RATE, Plan
from sedstream.manifest import Manifest
from sedstream.offline import mix
from sedstream.sources import find_recordings
from sedstream.speech import relay
from sedstream.speech.level import FADE, MOST, SOFT
from sedstream.speech.silero import CHUNK

from .report import ROOT, write
from .speed import run

Samples = NDArray[np.int16]
CALLS = 24
SECONDS = 420
"""Of a call, at least."""
SOON = 10 * RATE // HOP
"""Frames behind a join from where on calls are compared too, before all is forgotten."""
SILENCE = -1


def foreseen(manifest: Manifest, plan: Plan) -> int:
    """Frames before the end of a call in which the next one may already be heard: the last block reads beyond it, and
    so far back it may change what the decoder says."""
    return plan.step + plan.right + manifest.decoder.lag


def forgotten(manifest: Manifest, plan: Plan) -> int:
    """Frames after which a session in which speech goes on knows of nothing before them.

    One after another: a full-scale peak before the VAD, the VAD's state, the loudness that the encoder measures
    against, the keys and values of each of its layers, the head's state, the voice. What is left is what was decided:
    speech goes on until it is unlikely, an emotion until another is likely.
    """
    level = 20 * math.log10(MOST / SOFT) / FADE * RATE / HOP
    vad = (relay.PERIOD + relay.OVERLAP) * CHUNK // HOP
    layers = manifest.encoder["layers"] * (manifest.encoder["left"] + plan.step)
    known = 0 if manifest.voice is None else 2 * voice.PERIOD
    return math.ceil(level) + vad + 2 * PERIOD + layers + 2 * PERIOD + known


def call(paths: list[Path], dice: random.Random, grid: int) -> Samples:
    """Seven minutes of recordings at one level, silence to the next multiple of ``grid`` samples behind it."""
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


def compare(there: NDArray[np.int8], alone: NDArray[np.int8]) -> dict[str, int]:
    """Frames and joins that count, of a call in the long recording and alone."""
    both = (there != SILENCE) & (alone != SILENCE)
    return {
        "compared": len(alone),
        "spoken": int(both.sum()),
        "other": int((there[both] != alone[both]).sum()),
        "moved": int(((there == SILENCE) != (alone == SILENCE)).sum()),
        "exact": int(np.array_equal(there, alone)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks joins", description=__doc__)
    parser.add_argument("--hours", type=float, default=10.0, help="of the recording (%(default)s)")
    parser.add_argument("--folder", default=str(ROOT / "sedstream" / "demo"), help="of recordings to draw from")
    parser.add_argument("--model", default="sedstream-base", help="name or folder (%(default)s)")
    options = parser.parse_args()
    dice = random.Random(1)
    model = sedstream.load(options.model)
    names = model.manifest.labels
    plan = model.manifest.plan("batch")
    grid = math.lcm(plan.step * HOP, relay.PERIOD * CHUNK, voice.PERIOD * HOP)
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
    start, last = len(pieces[order[0]]), []
    ahead = foreseen(model.manifest, plan)
    horizons = {after: Counter[str]() for after in (SOON, forgotten(model.manifest, plan))}
    for n in order[1:]:
        piece = pieces[n]
        there, alone = (track[:-ahead] for track in (whole[start : start + len(piece)], piece))
        start += len(piece)
        last.append(int(np.flatnonzero(there != alone).max(initial=-1)) + 1)
        for after, counts in horizons.items():
            counts.update(compare(there[after:], alone[after:]))
    heard = {name for n in order for name in np.array(names)[np.unique(pieces[n][pieces[n] != SILENCE])]}
    seconds = total * HOP / RATE
    drawn = f"recordings from `{Path(options.folder).name}`, `{model.manifest.name}`, plan batch"

    def at(share: float) -> float:
        return float(np.quantile(last, share)) * HOP / RATE

    def row(title: str, cell: Callable[[Counter[str]], str]) -> str:
        return f"| {title} | {' | '.join(map(cell, horizons.values()))} |"

    rows = (
        row("joins whose call has the same label or silence in every frame as alone", lambda c: f"{c['exact']}"),
        row("frames compared", lambda c: f"{c['compared']:,}"),
        row(
            "frames of speech in both, with another label",
            lambda c: f"{c['other']:,} of {c['spoken']:,} ({c['other'] / max(1, c['spoken']):.4%})",
        ),
        row("frames of speech in one only", lambda c: f"{c['moved']:,}"),
    )
    write(
        "Joins",
        f"""
| {seconds / 3600:.2f} h of {len(order)} calls end to end, {drawn} | |
|---|---|
| joins | {len(order) - 1} |
| from where on after a join all frames are the same, median and most | {at(0.5):.1f} s, {at(1):.1f} s |
| labels that occur | {", ".join(sorted(heard))} |
| times real time | {seconds / wall:.0f} |
| peak memory of the process | {memory:.0f} MiB |

| from so many seconds after a join on | {" | ".join(f"{after * HOP / RATE:.1f}" for after in horizons)} |
|---|{"---|" * len(horizons)}
{chr(10).join(rows)}

The later one is when a session has forgotten what was before. The last {ahead * HOP / RATE:.1f} s of a call are not
compared: the block that answers for them hears the next one.
""",
    )
