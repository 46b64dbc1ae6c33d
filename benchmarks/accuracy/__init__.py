"""How right the default model is, and its peers: ``python -m benchmarks accuracy --data ../shared/data --split test``.

Utterances of speakers that training never saw are cut to speech and joined; they go through the loop that serves live
sessions. EDER = (false alarm + missed emotion + confusion) / total time (Wang et al., ASRU 2023), as
`sedstream.scoring` has it. What is to be chosen is chosen on valid; the tables of the test split go to RESULTS.md and,
for the model that is shipped, to its card. Those of valid are printed only.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from sedstream.manifest import DEFAULT, find
from sedstream.zoo import load

from .. import report
from .ablation import ablation
from .affect import affect
from .bench import Bench
from .calibration import calibration
from .calls import voices
from .cases import Material
from .diarization import eder, latency
from .hearing import Ear
from .peers import leave_out, peers
from .robustness import robustness
from .tables import write_card
from .utterances import utterances

SECTIONS: dict[str, tuple[str, Callable[[Bench], str]]] = {
    "eder": ("Emotion diarization error", eder),
    "latency": ("EDER against latency", latency),
    "ablation": ("Decoders on identical probabilities", ablation),
    "calls": ("Calls of minutes", voices),
    "robustness": ("Lines, noise, level, losses", robustness),
    "affect": ("Arousal", affect),
    "calibration": ("Calibration", calibration),
    "peers": ("Peers", peers),
    "utterances": ("Whole utterances", utterances),
    "leave-out": ("Leave one corpus out", leave_out),
}


def folders(text: str) -> dict[str, Path]:
    """``NAME=FOLDER,…`` as a dictionary."""
    pairs = [part.partition("=") for part in text.split(",") if part]
    if not all(name and folder for name, _, folder in pairs):
        raise argparse.ArgumentTypeError(f"Bad list {text!r}, expected NAME=FOLDER, with commas between")
    return {name: Path(folder) for name, _, folder in pairs}


def names(text: str) -> tuple[str, ...]:
    """Sections by name."""
    wanted = tuple(part.strip().lower() for part in text.split(","))
    for name in wanted:
        if name not in SECTIONS:
            raise argparse.ArgumentTypeError(f"Bad section {name!r}, expected some of {', '.join(SECTIONS)}")
    return wanted


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure what was asked for, and print one table after another."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks accuracy", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="folder with index.csv")
    parser.add_argument("--split", choices=("valid", "test"), default="valid", help="to score on (%(default)s)")
    parser.add_argument(
        "--only",
        type=names,
        default=(),
        help=f"some of {','.join(SECTIONS)}; default: all, the last one with --left-out",
    )
    parser.add_argument("--model", default=DEFAULT, help="name or folder (%(default)s)")
    parser.add_argument("--plan", default="live", help="one that the model has (%(default)s)")
    parser.add_argument("--corpora", default="", help="names, with commas between; default: all")
    parser.add_argument("--repeats", type=int, default=4, help="files a speaker, pattern and emotion (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of what is drawn at random (%(default)s)")
    parser.add_argument(
        "--store",
        type=Path,
        default=Path(tempfile.gettempdir(), "sedstream-speech"),
        help="folder of decoded speech (%(default)s)",
    )
    parser.add_argument("--left-out", type=folders, default={}, help="models without a corpus: NAME=FOLDER,…")
    parser.add_argument("--whisper", type=Path, help="encoder of the peers; default: ../weights beside the data")
    parser.add_argument("--whisper-small", type=Path, help="another encoder of theirs, safetensors or ONNX")
    parser.add_argument("--hours", type=float, default=1.0, help="of speech to train the peers with (%(default)s)")
    options = parser.parse_args(arguments)
    model = load(options.model)
    bench = Bench(
        material=Material(options.data, options.store),
        ear=Ear(model),
        split=options.split,
        plan=options.plan,
        repeats=options.repeats,
        seed=options.seed,
        corpora=tuple(filter(None, options.corpora.split(","))),
        left_out=options.left_out,
        whisper=options.whisper or options.data / ".." / "weights" / "whisper-base-encoder.safetensors",
        whisper_small=options.whisper_small,
        hours=options.hours,
        device="cpu",
    )
    for name in options.only or [name for name in SECTIONS if name != "leave-out" or options.left_out]:
        title, section = SECTIONS[name]
        began = time.monotonic()
        body = section(bench)
        if options.split == "test":
            report.write(f"{title} ({model.manifest.name}, test split)", body)
            if model.manifest.folder == find(DEFAULT).folder:
                write_card(model.manifest.folder / "CARD.md", name, f"### {title}\n\n{body}")
        else:
            print(f"## {title} ({model.manifest.name}, valid split)\n\n{body}\n")
        print(f"[{name}: {time.monotonic() - began:.0f} s]", flush=True)
