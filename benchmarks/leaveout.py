"""Models that never heard one corpus, and what they make of it: ``python -m benchmarks leaveout --out DIR``.

First an encoder learns to follow Whisper on the corpora that are never left out, and nothing from their labels. From
there on the encoder rests, and for each corpus a head learns from all the others: few voices are known, and what is
trained least forgets least of what it never heard. The table is that of ``python -m benchmarks accuracy --only
leave-out``. A training that was interrupted goes on.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from sedstream.training.discriminants import Known
from sedstream.training.recipe import EAGER, train

from . import accuracy

CORPORA = ("RAVDESS", "EmoDB", "nEMO", "ASED", "TurEV-DB")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks leaveout", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="folder with index.csv")
    parser.add_argument("--out", type=Path, required=True, help="folder for the models")
    parser.add_argument("--store", type=Path, help="folder of decoded speech (OUT/speech)")
    parser.add_argument("--whisper", type=Path, help="encoder to start from; default: ../weights beside the data")
    parser.add_argument("--follow", type=Path, help="encoder to follow; default: that to start from")
    parser.add_argument("--hours", type=float, default=8.0, help="of speech for the encoder (%(default)s)")
    parser.add_argument("--head-hours", type=float, default=6.0, help="of speech for each head (%(default)s)")
    parser.add_argument("--split", choices=("valid", "test"), default="valid", help="to score on (%(default)s)")
    options = parser.parse_args()
    data = options.data.resolve()
    whisper = options.whisper or data / ".." / "weights" / "whisper-base-encoder.safetensors"
    store = (options.store or options.out / "speech").resolve()
    common = options.out / "common"
    folders = {name: options.out / name for name in CORPORA}
    for folder in (common, *folders.values()):
        link(folder / "training" / "speech", store)
    hours, head = ({"hours": h, "every": h / 2} for h in (options.hours, options.head_hours))
    train(data, common, init=whisper, follow=options.follow, blind=True, without=CORPORA, name="common", **hours)
    known: Known = {}  # the encoder is the same for all
    for name, folder in folders.items():
        rest = {
            "without": (name,),
            "name": f"without-{name}",
            "encoder_rate": 0,
            "kept": 0,
            "eager": EAGER,
            "known": known,
        }
        train(data, folder, init=common, **rest, **head)
    models = ",".join(f"{name}={folder}" for name, folder in folders.items())
    asked = {"data": data, "split": options.split, "store": store, "whisper": whisper, "only": "leave-out"}
    accuracy.main([f"--{key}={value}" for key, value in (asked | {"left-out": models}).items()])


def link(place: Path, store: Path) -> None:
    """Let all trainings decode once."""
    store.mkdir(parents=True, exist_ok=True)
    place.parent.mkdir(parents=True, exist_ok=True)
    if not place.is_symlink():
        place.symlink_to(store, target_is_directory=True)
