"""Fine-tuning: a model goes on learning from a user's labelled folder, and from nothing else."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from hashlib import sha256
from math import isnan
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..errors import BadInput
from ..exports.writing import write_whole
from ..grid import HOP, RATE
from ..manifest import DEFAULT, Manifest
from ..zoo import device_of
from . import labelled
from .backbones import begin
from .card import card
from .corpora import Corpora
from .interrupted import claim
from .publish import check
from .recipe import HEAD, train

HEAD_RATE, ENCODER_RATE = 3e-4, 3e-5
"""Highest learning rates: a fifth of those that the start was trained with."""
NEW_HEAD_RATE, LAYERS_RATE = 1.5e-3, 1e-2
"""Those of a head that begins with nothing, and of the weights of an encoder's layers where the rest of it rests."""
TIMES, LEAST, MOST = 10.0, 1.0, 8.0
"""Hours of training for each labelled hour, and at least and at most."""
CHECKPOINTS = 4


def tune(
    data: Path,
    out: Path,
    *,
    init: str | Path = DEFAULT,
    hours: float | None = None,
    unfreeze: bool = False,
    seed: int = 1,
    device: str = "cpu",
    workers: int = 2,
    quiet: bool = False,
    **schedule: float,
) -> dict[str, Any]:
    """Fine-tune a model on a labelled folder; goes on where it was interrupted.

    Labels, plans, VAD, decoder and how soon a voice counts remain those of the start; a start without a head for frames
    gets one, for the emotions that the labels name. `out` gets manifest.toml, the weights, metrics.json and CARD.md;
    its name is the model's.

    Args:
        data: folder with labels.csv and the recordings that it names (see `rows` and `labelled`).
        out: model folder to write; what training needs meanwhile goes to `out/training`.
        init: see `backbones.begin`.
        hours: of augmented speech to train with; None: ten times what is labelled, from 1 to 8.
        unfreeze: of a windowed start all learns, not only the head and the weights of the layers.
        seed, device, workers, quiet, schedule: as of `recipe.train`.

    Returns:
        What metrics.json holds: the figures of `recipe.train`, `before` those of the start on the same speech (None: it
        had no head), `frozen`, whether its encoder was, and `speech`, what was learned from.

    Raises:
        BadInput: the labels, a recording, `out` or the device cannot be used, or `out` holds another training.
        BadModel: the start is none of these, or not whole.
        Unavailable: the start cannot be downloaded.
    """
    device_of(device)
    check(out)
    table = labelled.table_of(data)
    torch.manual_seed(seed)
    start, learner = begin(init, table, unfreeze=unfreeze, quiet=quiet)
    frozen = learner is not None and not unfreeze
    name = out.resolve().name
    if out.resolve() == start.folder.resolve():
        raise BadInput(f"Bad folder '{out}' to write, expected another one than that of the start")
    work = out / "training"
    corpora = labelled.load(data, work / "speech", start.labels, workers=workers)
    speech = account(corpora, start.labels)
    if hours is None:
        hours = min(MOST, max(LEAST, TIMES * speech["train"]["minutes"] / 60))
    # A checkpoint of another start, of other labels or of other recordings must not be taken up.
    told = {"start": start.sha256, "labels": sha256(table.read_bytes()).hexdigest(), "seed": seed, "hours": hours}
    told |= {"part frozen": frozen, "recordings": _recordings(corpora)}
    claim(work, "tune.json", told)
    rates: dict[str, Any] = {
        "head_rate": NEW_HEAD_RATE if learner is not None and learner.fresh else HEAD_RATE,
        "encoder_rate": LAYERS_RATE if frozen else ENCODER_RATE,
    }
    report = train(
        data,
        out,
        hours=hours,
        every=hours / CHECKPOINTS,
        seed=seed,
        init=start.folder,
        device=device,
        workers=workers,
        name=name,
        encoder=start.encoder,
        head={**start.head, "dropout": HEAD["dropout"]},
        settings=_settings(start),
        learner=learner,
        temperature=start.temperature,
        voice=start.voice,
        eager=0,  # the start has it, or its labels are a user's, of which the first may be any
        quiet=quiet,
        **(rates | schedule),
    )
    before = report.pop("start", None)
    figures = {**report, "hours": _short(hours), "init": f"{start.name} {start.version}", "before": before}
    figures |= {"frozen": frozen, "speech": speech}
    write_whole(out / "metrics.json", json.dumps(_finite(figures), indent=1).encode() + b"\n")
    write_whole(out / "CARD.md", card(name, start, figures).encode())
    return figures


def account(corpora: Corpora, labels: tuple[str, ...]) -> dict[str, Any]:
    """What there is of each split: recordings, speakers, minutes of labelled speech, in all and by emotion."""
    found: dict[str, Any] = {}
    for split in ("train", "valid"):
        here = corpora.split(split)
        minutes = dict.fromkeys(labels, 0.0)
        for u in here:
            if u.emotion >= 0:
                minutes[labels[u.emotion]] += u.speech.sum() * HOP / RATE / 60
        found[split] = {
            "recordings": len({u.file for u in here}),
            "speakers": len({u.speaker for u in here}),
            "minutes": _short(sum(u.speech.sum() for u in here) * HOP / RATE / 60),
            "emotions": {label: _short(value) for label, value in minutes.items()},
        }
    voices = [{u.speaker for u in corpora.split(split)} for split in ("train", "valid")]
    found["shared_speakers"] = len(voices[0] & voices[1])
    return found


def _short(number: float) -> float:
    """Four digits of a number: what is little is not nothing."""
    return float(f"{number:.4g}")


def _settings(start: Manifest) -> dict[str, Any]:
    return {
        "version": "0.1.0",
        "family": start.family,
        "kind": start.kind,
        "licence": start.licence,
        "labels": start.labels,
        "plans": {name: asdict(plan) for name, plan in start.plans.items()},
        "vad": asdict(start.vad),
        "decoder": asdict(start.decoder),
    }


def _recordings(corpora: Corpora) -> str:
    """What the recordings say, as a sha256."""
    told = sha256()
    for utterance in corpora.utterances:
        told.update(utterance.file.encode(errors="surrogateescape"))
        told.update(np.ascontiguousarray(utterance.samples).tobytes())
    return told.hexdigest()


def _finite(value: Any) -> Any:
    """NaN is no JSON: null, for what there was nothing to measure on."""
    if isinstance(value, Mapping):
        return {key: _finite(inner) for key, inner in value.items()}
    return None if isinstance(value, float) and isnan(value) else value
