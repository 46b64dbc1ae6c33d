"""How fast and in how much memory: ``python -m benchmarks speed [--hours 3]``.

Recordings are the demonstration clips end to end: speech nearly all the time, the slowest case, for silence is not
encoded. One recording keeps one core busy, for it is answered in order; many share all of them. The peer has the shape
of SpeechBrain's recipe, WavLM-large, whole file, linear head, argmax, with random weights: its numbers mean nothing,
its time does. It uses all cores for each file.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import soundfile

from .report import ROOT, write

DEMO = ROOT / "sedstream" / "demo"


WATCH = """
import os, subprocess, sys, time
began = time.perf_counter()
process = subprocess.Popen(sys.argv[1:], stdout=subprocess.DEVNULL)
_, status, usage = os.wait4(process.pid, 0)
print(status, time.perf_counter() - began, usage.ru_maxrss / 1024)
"""


def run(*command: str) -> tuple[float, float]:
    """Wall seconds and peak memory in MiB of a process.

    One without models or recordings starts it: on Linux a process has the peak of whoever started it.
    """
    told = subprocess.run([sys.executable, "-c", WATCH, *command], stdout=subprocess.PIPE, check=True).stdout
    status, wall, memory = map(float, told.split())
    if status:
        raise SystemExit(f"failed: {' '.join(command)}")
    return wall, memory


MANY, MINUTES = 40, 3
"""Recordings in a folder, and how long each is."""


def recording(folder: Path, seconds: float) -> Path:
    """The clips end to end, as long as asked, 16 kHz FLAC."""
    clips = np.concatenate([soundfile.read(path, dtype="int16")[0] for path in sorted(DEMO.glob("*.flac"))])
    path = folder / f"{seconds:.0f}.flac"
    left = round(seconds * 16_000)
    with soundfile.SoundFile(path, "w", 16_000, 1) as file:
        while left > 0:
            file.write(clips[:left])
            left -= len(clips)
    return path


def start_up() -> str:
    """Seconds of `import sedstream` and `--help` beyond a bare interpreter's, least of five."""
    rows = []
    commands = {
        "python -c pass": ["-c", "pass"],
        "import sedstream": ["-c", "import sedstream"],
        "sedstream --help": ["-m", "sedstream", "--help"],
    }
    for name, arguments in commands.items():
        rows.append(f"| `{name}` | {min(run(sys.executable, *arguments)[0] for _ in range(5)):.3f} s |")
    return "| start | wall |\n|---|---|\n" + "\n".join(rows)


def peer() -> float:
    """Times real time of a WavLM-large over whole files, on this process's threads."""
    import torch
    from torchaudio.models import wavlm_large

    samples = np.concatenate([soundfile.read(path, dtype="float32")[0] for path in sorted(DEMO.glob("*.flac"))])
    encoder, head = wavlm_large().eval(), torch.nn.Linear(1024, 4)
    with torch.inference_mode():
        times = []
        for _ in range(3):
            began = time.perf_counter()
            head(encoder(torch.from_numpy(samples[None]))[0]).argmax(-1)
            times.append(time.perf_counter() - began)
    return len(samples) / 16_000 / min(times)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks speed", description=__doc__)
    parser.add_argument("--hours", type=float, default=3.0, help="length of the long recording (%(default)s)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        diarize = (sys.executable, "-m", "sedstream", "diarize")
        short, long = recording(folder, 60), recording(folder, options.hours * 3600)
        live = recording(folder, 300)
        start, small = min(run(*diarize, str(short)) for _ in range(2))
        wall, large = run(*diarize, str(long))
        live_wall, _ = run(*diarize, str(live), "--plan", "live")
        calls = folder / "calls"
        calls.mkdir()
        first = recording(calls, 60 * MINUTES)
        for number in range(1, MANY):
            shutil.copy(first, calls / f"{number}.flac")
        together, most = run(*diarize, str(calls), "--out", f"{folder}/out/")
    speed = options.hours * 3600 / wall
    live_speed = 300 / (live_wall - start)
    many = MANY * MINUTES * 60 / together
    other = peer()
    write(
        "Speed and memory",
        f"""
| `sedstream diarize`, default model, CPU | times real time | peak memory |
|---|---|---|
| 1 minute, plan batch (start included) | {60 / start:.0f} | {small:.0f} MiB |
| {options.hours:g} hours, plan batch | {speed:.0f} | {large:.0f} MiB ({large - small:+.0f}) |
| {MANY} recordings of {MINUTES} minutes, plan batch | {many:.0f} | {most:.0f} MiB |
| 5 minutes, plan live (start taken off) | {live_speed:.0f} | |
| peer: WavLM-large, whole files of 27 s, same run | {other:.1f} | |

One recording in plan batch is {speed / other:.0f} times as fast as the peer, many are {many / other:.0f} times as fast.

{start_up()}
""",
    )
