"""A folder against one file after another: ``python -m benchmarks recordings [--files 64] [--model M]``.

Both in this process, with the same loaded model; the recordings are 10 to 40 s cuts of the demonstration clips, and,
only together, four times as many of 2 to 6 s, as utterances are. Memory is that of ``sedstream diarize FOLDER --out
FOLDER`` in a process of its own, for all of the first and for an eighth of them.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import soundfile

import sedstream

from .report import ROOT, write
from .speed import run


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks recordings", description=__doc__)
    parser.add_argument("--files", type=int, default=64, help="recordings (%(default)s)")
    parser.add_argument("--model", default="sedstream-base", help="name or folder (%(default)s)")
    options = parser.parse_args()
    dice = random.Random(1)
    clips = sorted((ROOT / "sedstream" / "demo").glob("*.flac"))
    audio = np.tile(np.concatenate([soundfile.read(path, dtype="int16")[0] for path in clips]), 3)
    with tempfile.TemporaryDirectory() as name:
        paths = [Path(name) / f"{n:03d}.flac" for n in range(options.files)]
        utterances = [Path(name) / f"u{n:03d}.flac" for n in range(4 * options.files)]
        for some, shortest, longest in ((paths, 160_000, 640_000), (utterances, 32_000, 96_000)):
            for path in some:
                first = dice.randrange(len(audio) // 2)
                soundfile.write(path, audio[first : first + dice.randrange(shortest, longest)], 16_000)
        seconds, spoken = (sum(soundfile.info(path).duration for path in some) for some in (paths, utterances))
        model = sedstream.load(options.model)
        warm = dict(sedstream.diarize_many(paths[:8], model=model))
        began = time.perf_counter()
        alone = {path: sedstream.diarize(path, model=model, frames=False) for path in paths}
        middle = time.perf_counter()
        together = dict(sedstream.diarize_many(paths, model=model))
        ended = time.perf_counter()
        count = sum(1 for _ in sedstream.diarize_many(utterances, model=model))
        short = spoken / (time.perf_counter() - ended)
        command = [sys.executable, "-m", "sedstream", "diarize", "--quiet", "--model", options.model]
        few, many = (
            run(*command, *map(str, some), "--out", f"{name}/{len(some)}/")[1]
            for some in (paths[: max(1, len(paths) // 8)], paths)
        )
    if together != alone or len(warm) != 8:
        raise SystemExit("Bad answers, expected the same together as alone")
    slow, fast = seconds / (middle - began), seconds / (ended - middle)
    write(
        "Folders",
        f"""
| {options.files} recordings, {seconds / 60:.0f} min, plan batch | times real time |
|---|---|
| one after another | {slow:.0f} |
| together (`diarize_many`, `sedstream diarize FOLDER --out FOLDER`) | {fast:.0f} |
| {count} of 2 to 6 s, {spoken / 60:.0f} min, together | {short:.0f} |

Peak memory of the command: {few:.0f} MiB for {max(1, options.files // 8)} of them, {many:.0f} MiB for all.

Together is {fast / slow:.2f} times as fast; the answers are equal.
""",
    )
