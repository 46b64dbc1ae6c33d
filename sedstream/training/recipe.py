"""The training of a cached encoder and its head: from a data folder to a model folder."""

import copy
import json
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from speechbrain.utils.epoch_loop import EpochCounter
from torch import Tensor
from torch.utils.data import DataLoader

from ..decoding.settings import VoiceSettings
from ..encoders.cached import CachedEncoder
from ..encoders.heads import CachedHead
from ..errors import BadInput
from ..exports.writing import write_whole
from ..manifest import BASELINE, DEFAULT
from ..scoring.labels import EMOTIONS
from ..zoo import device_of
from . import discriminants, intensity
from .batches import FRAMES, ROWS, Batch, Batches, Source, read, speakers
from .brain import Diarizer, Follower, Learner, Schedule, answer
from .concatenations import NEUTRAL, SHARES, Speakers
from .interrupted import WholeCheckpointer, claim
from .objective import baseline, calibrate, concordance, recalls
from .publish import check, publish
from .rows import UNKNOWN
from .start import begin, fingerprint

ENCODER: Mapping[str, Any] = {
    "mels": 80, "width": 512, "heads": 8, "layers": 3, "outputs": [2, 3], "left": 104, "reach": 64, "fade": 2.0,
    "decades": 8.0, "level": 1.0,
}  # fmt: skip
HEAD: Mapping[str, Any] = {
    "features": 1024, "outputs": 2, "width": 192, "hidden": 128, "dropout": 0.25, "experts": 7,
}  # fmt: skip
PLANS: Mapping[str, Mapping[str, int]] = {
    "fast": {"left": 3, "step": 8, "right": 8},
    "live": {"left": 3, "step": 16, "right": 16},
    "slow": {"left": 7, "step": 32, "right": 28},
    "batch": {"left": 355, "step": 384, "right": 32},
}
VAD: Mapping[str, float] = {"threshold": 0.25, "release": 0.12, "min_speech": 8, "min_silence": 35}
DECODER: Mapping[str, int] = {"switch": 2048, "pause": 256, "min_duration": 30, "lag": 50}
OFFSETS = 0.5
"""Share of the calibration's class offsets that is used, chosen on concatenations of the valid split, those of two
emotions too: in full they fit its mix of corpora."""
EAGER = 0.4
"""Nats that neutral loses beside that: for voices that nobody trained with it is too likely. Chosen by cross-validation
over the voices of train and valid, for our corpora."""
KEPT = 0.25
"""Share of the model that a training went on from in the weights that are published: between the two they are better
than either on voices that neither knows (Wortsman et al., "Robust fine-tuning of zero-shot models", 2022)."""

SETTINGS: Mapping[str, Any] = {
    "version": "0.7.2",
    "family": "whisper",
    "kind": "cached",
    "licence": "CC-BY-NC-SA-4.0",
    "labels": EMOTIONS,
    "plans": PLANS,
    "vad": VAD,
    "decoder": DECODER,
}
"""Of the manifest: what is chosen, not learnt."""
COLDEST, HOTTEST = 0.25, 4.0
"""Temperatures beyond are those of a handful of frames."""
AFTER = 3000
"""Neutral frames of a voice that count as much as those of the valid split, a minute. Chosen there, in calls that are
mostly neutral, which fewer are better for, and in those that are not (`python -m benchmarks accuracy --only calls`)."""


def train(
    data: Path,
    out: Path,
    *,
    hours: float = 28.0,
    every: float = 2.0,
    seed: int = 1,
    init: str | Path = DEFAULT,
    follow: str | Path | None = None,
    device: str = "cpu",
    workers: int = 2,
    rows: int = ROWS,
    name: str = DEFAULT,
    without: tuple[str, ...] = (),
    blind: bool = False,
    encoder: Mapping[str, Any] = ENCODER,
    head: Mapping[str, Any] = HEAD,
    settings: Mapping[str, Any] = SETTINGS,
    learner: Learner | None = None,
    temperature: float | None = None,
    voice: VoiceSettings | None = None,
    kept: float | None = None,
    eager: float | None = None,
    known: discriminants.Known | None = None,
    quiet: bool = False,
    **schedule: float,
) -> dict[str, Any]:
    """Train a model folder `out` from the folder `data`; goes on where it was interrupted.

    Args:
        data: recordings with an index.csv (columns: `corpora.COLUMNS`) or a labels.csv (see `rows`).
        out: model folder to write; what training needs meanwhile (gigabytes) goes to `out/training`.
        hours: of augmented speech to train with, in all.
        every: hours of it after which a checkpoint is kept.
        seed: of the windows, the augmentation and the head.
        init: safetensors of a Whisper encoder to start from and to follow, or a cached model's name or folder.
        follow: safetensors of a Whisper encoder, base or small, whose features are followed in place of those of
            `init`; None: a model that goes on follows none.
        device: cpu or cuda.
        workers: processes that read and augment; 0: this one.
        rows: windows in a batch.
        name: of the model, in its manifest.
        without: names of corpora to leave out.
        blind: learn nothing from labels: the encoder follows, and the head stays as it is but for the experts.
        encoder, head: keyword arguments of `CachedEncoder` and `CachedHead`, or of those of `learner`.
        settings: of the manifest, as `SETTINGS`.
        learner: what is to learn, already filled, where that is not a cached model; `init` and `follow` do not count.
        temperature: of the model, where the valid split lacks an emotion that is taught, and so cannot tell it; None:
            it can tell that of the others.
        voice: how soon a voice counts, and what voices say where they sound neutral, if the valid split has nothing
            neutral; None: `AFTER`, and the model then learns nothing of a voice.
        kept: share of the model that it goes on from in the weights that are published, 0 to 1; None: `KEPT`, or 0 if
            the encoder learns from what it follows alone.
        eager: nats that neutral, the first label, loses beside the calibration; None: `EAGER`, or none if the start has
            lost them.
        known: what the experts are fitted to, of corpora that another training heard with the same encoder, which
            rests; those of this one are put there.
        quiet: show no progress.
        schedule: numbers of `Schedule` other than `steps`; `encoder_rate` 0: only the head learns. Unless told, the
            `average` of a short training is shorter, and the encoder of a model that goes on and follows learns from
            that alone (`following` 1).

    Returns:
        Figures on the valid split: recall per class, unweighted average recall, concordance, temperature; those of the
        model that it started from, if it had a head, as `start`.

    Raises:
        BadInput: the data cannot be read, or a split has nothing of it; `out` or the device cannot be used; a training
            without labels has nothing to follow.
        BadModel: what it starts from does not fit the encoder.
    """
    if hours <= 0 or every <= 0:
        raise BadInput(f"Bad training of {hours} hours, checkpoints every {every}, expected more than 0")
    device_of(device)
    check(out)
    began = time.monotonic()
    work = out / "training"
    labels = tuple(settings["labels"])
    source = Source(data, work / "speech", without=without, labels=labels, blind=blind)
    corpora = read(source, workers)
    for split in ("train", "valid"):
        said = [u for u in corpora.split(split, without) if blind or u.emotion >= 0]
        if not said:
            raise BadInput(f"Bad data '{data}', expected recordings with emotions in the split '{split}'")
        if not any(u.corpus in SHARES for u in said):
            names = ", ".join(sorted({u.corpus for u in said}))
            raise BadInput(f"Bad corpora {names} in the split '{split}', expected one of {', '.join(SHARES)}")
    voices = speakers(source, corpora)
    per_hour = 3600 * 50 / (FRAMES * rows)
    steps = max(1, round(hours * per_hour))
    epochs = max(1, round(hours / every))

    torch.manual_seed(seed)
    teacher = None
    if learner is None:
        told = {"start": fingerprint(init), "encoder to follow": fingerprint(follow) if follow else None, "seed": seed}
        claim(work, "train.json", told | {"corpora left out": list(without), "use of labels": not blind})
        learner = Learner(CachedEncoder(**encoder), CachedHead(labels=len(labels), **head))
        teacher = begin(learner, init, follow, encoder, head, source)
        learner.encoder.distance.requires_grad_(False)  # its gradient would cost a table for every pair of frames
        if schedule.get("encoder_rate") == 0:
            learner.encoder.requires_grad_(False)
    if blind and teacher is None:
        raise BadInput(f"Bad training of '{init}' without labels, expected an encoder to follow")
    start = None if learner.fresh else copy.deepcopy(learner).eval()
    said = corpora.split("train", without)
    to_fit = discriminants.begin(learner, said)
    if blind or (start is not None and teacher is not None):
        schedule.setdefault("following", 1.0)
    if kept is None:
        kept = 0.0 if teacher is not None and schedule.get("following", 0.0) >= 1 else KEPT
    if eager is None:
        eager = EAGER if start is None else 0.0
    counter = EpochCounter(epochs)
    # An average that reaches further back than a tenth of the steps would still hold the start.
    schedule.setdefault("average", max(0.8, min(Schedule.average, 1 - 10 / steps)))
    brain = (Follower if blind else Diarizer)(
        learner,
        teacher,
        class_weights(voices, len(labels)),
        Schedule(steps=steps, **schedule),
        work / "log.txt",
        run_opts={"device": device, "precision": "bf16", "noprogressbar": quiet},
        checkpointer=WholeCheckpointer(work / "checkpoints", {"learner": learner, "counter": counter}),
    )
    valid = [
        Batches(replace(source, split="valid", clean=clean), seed, max(1, min(16, steps))) for clean in (True, False)
    ]
    heard = [batch for batches in valid for batch in DataLoader(batches, batch_size=None, num_workers=workers)]
    train_set = _Epochs(source, seed, -(-steps // epochs), counter, rows)
    context = "fork" if workers else None
    loader = DataLoader(train_set, batch_size=None, num_workers=workers, multiprocessing_context=context)
    few: DataLoader[Batch] = DataLoader(heard[::4], batch_size=None)  # type: ignore[arg-type]
    brain.fit(counter, loader, few, progressbar=not quiet)
    best = cast(Learner, brain.average.module.to("cpu").eval())
    if start is not None:
        _blend(best, start, kept)
    if to_fit:
        between = discriminants.fit(best, to_fit, seed, known)
        if strengths := intensity.groups(said):
            intensity.fit(best, strengths, between)
    taught = {u.emotion for u in said if u.emotion >= 0}
    report = judge(best, heard, labels, eager, taught, temperature)
    if start is not None:
        report["start"] = judge(start, heard, labels, eager, taught, temperature)
    table = {
        "name": name,
        **settings,
        "temperature": report["temperature"],
        "encoder": encoder,
        "head": {key: value for key, value in head.items() if key != "dropout"},
    }
    if usual := report.get("neutral", voice and list(voice.neutral)):
        table["voice"] = {"neutral": usual, "after": voice.after if voice else AFTER}
    publish(out, table, best.encoder, best.head)
    report["minutes"] = round((time.monotonic() - began) / 60, 1)
    write_whole(work / "report.json", json.dumps(report, indent=1).encode())
    return report


class _Epochs(Batches):
    """The batches of an epoch: every epoch has others."""

    def __init__(self, source: Source, seed: int, count: int, counter: EpochCounter, rows: int) -> None:
        super().__init__(source, seed, count, rows=rows)
        self.counter = counter

    def __getitem__(self, number: int) -> Batch:
        self.first = (self.counter.current - 1) * self.count
        return super().__getitem__(number)


@torch.no_grad()
def _blend(learner: Learner, start: Learner, share: float) -> None:
    """Move the weights of `learner` by a share of the way towards those of `start`."""
    for own, old in zip(learner.parameters(), start.parameters(), strict=True):
        own.lerp_(old, share)


def class_weights(speakers: Speakers, labels: int) -> Tensor:
    """Weight of each class `[C]`: its inverse frequency in what is drawn to the power 0.7; 0 if it does not occur."""
    counts = torch.zeros(labels)
    rng = np.random.default_rng(0)
    for _ in range(2000):
        for utterance in speakers.draw(rng)[0]:
            if utterance.emotion >= 0:
                counts[utterance.emotion] += len(utterance.samples)
    weights = (counts.sum() / labels / counts.clamp(min=1)) ** 0.7
    return torch.where(counts > 0, weights, 0.0)  # else label smoothing would call for what never comes


def judge(
    learner: Learner,
    valid: Sequence[Batch],
    labels: Sequence[str] = EMOTIONS,
    eager: float = 0.0,
    taught: Collection[int] = (),
    usual: float | None = None,
) -> dict[str, Any]:
    """Calibrate a learner on the trained frames of batches; its recalls, their mean, concordances and the temperature,
    and, if some of the frames are neutral, what voices say where they sound so: those of angry voices are no measure.

    The offsets of the calibration, neutral's less `eager`, are added to the head's last bias. Where not all emotions
    that were `taught` occur there are none, and the temperature is the `usual` one, if there is one.
    """
    answers = [answer(learner, batch.heard)[:2] for batch in valid]
    logits, affect = (torch.cat([found[n].flatten(0, 1).float() for found in answers]) for n in range(2))
    emotion = torch.cat([batch.emotion.flatten() for batch in valid])
    target = torch.cat([batch.affect.flatten(0, 1) for batch in valid])
    weight = torch.cat([batch.weight.flatten() for batch in valid])
    known = (emotion >= 0) & (weight > 0)
    logits = logits[known].clone()
    heard = set(emotion[known].tolist())
    if usual is None or set(taught) <= heard:
        temperature, offset = calibrate(logits, emotion[known], weight[known])
    else:
        temperature, offset = usual, torch.zeros(logits.shape[-1])
    temperature = min(max(temperature, COLDEST), HOTTEST)
    offset = OFFSETS * offset
    offset[NEUTRAL] -= eager
    with torch.no_grad():
        learner.head.emotion.bias.add_(temperature * offset)
    recall = recalls(logits + temperature * offset, emotion[known])
    scores = (logits / temperature + offset).log_softmax(-1)
    neutral = labels.index(BASELINE) if BASELINE in labels else UNKNOWN
    voices = {"neutral": baseline(scores, neutral)} if neutral in heard else {}
    return {
        "recall": {label: round(float(r), 4) for label, r in zip(labels, recall, strict=True)},
        "uar": round(float(recall.nanmean()), 4),
        "concordance": {
            track: round(float(concordance(affect[:, n], target[:, n], weight)), 4)
            for n, track in enumerate(("arousal", "valence"))
        },
        "temperature": temperature,
        **voices,
    }
