"""The training of a frame head on a frozen encoder: from a data folder to a model folder."""

import json
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import speechbrain as sb
import torch
from rich.progress import Progress
from speechbrain.utils.checkpoints import Checkpointer
from speechbrain.utils.epoch_loop import EpochCounter
from speechbrain.utils.train_logger import FileTrainLogger
from torch import Tensor
from torch.utils.data import ConcatDataset, DataLoader

from ..encoders.heads import FrameHead
from ..encoders.whisper import WhisperEncoder
from ..errors import BadInput
from ..manifest import DEFAULT, find
from .corpora import load
from .features import BATCH, Batch, Pass, Recipe, encode
from .objective import calibrate, concordance, emotion_loss, recalls
from .publish import LABELS, pretrained, publish

ENCODER: Mapping[str, Any] = {
    "mels": 80, "width": 512, "heads": 8, "layers": 3, "outputs": [2, 3], "positions": 704,
    "decades": 8.0, "level": 1.0,
}  # fmt: skip
HEAD: Mapping[str, Any] = {
    "features": 1024, "outputs": 2, "width": 192, "hidden": 128, "dropout": 0.25,
}  # fmt: skip
PLANS: Mapping[str, Mapping[str, int]] = {
    "live": {"left": 104, "step": 16, "right": 16},
    "batch": {"left": 150, "step": 480, "right": 50},
}
VAD: Mapping[str, float] = {"threshold": 0.4, "release": 0.25, "min_speech": 8, "min_silence": 25}
DECODER: Mapping[str, int] = {"switch": 1024, "pause": 256, "min_duration": 30, "lag": 50}
OFFSETS = 0.25
"""Share of the calibration's class offsets that is used: in full they fit the mix of corpora in the valid split, and on
its concatenations the diarization error is least with a quarter of them."""


@dataclass(frozen=True)
class Schedule:
    """Numbers of the optimisation: AdamW, warm-up then a cosine to zero over `steps` batches."""

    steps: int
    rate: float = 1e-3
    decay: float = 0.02
    smoothing: float = 0.1
    affect: float = 0.3
    """Weight of the concordance of arousal and of valence beside the cross-entropy."""

    def at(self, step: int) -> float:
        """Learning rate of a step: it rises over the first tenth."""
        progress = step / max(1, self.steps)
        return self.rate * min(progress / 0.1 + 0.01, 0.5 * (1 + math.cos(math.pi * min(1.0, progress))))


class HeadBrain(sb.Brain):  # type: ignore[misc]
    """SpeechBrain's loop over batches of cached features; the head is all that learns."""

    def __init__(self, head: FrameHead, classes: Tensor, schedule: Schedule, log: Path, **options: Any) -> None:
        optimiser = partial(torch.optim.AdamW, lr=schedule.rate, weight_decay=schedule.decay)
        super().__init__(modules={"head": head}, opt_class=optimiser, **options)
        self.classes = classes
        self.schedule = schedule
        self.log = FileTrainLogger(str(log))
        self.loss: dict[sb.Stage, float] = {}

    def compute_forward(self, batch: Batch, stage: sb.Stage) -> tuple[Tensor, Tensor]:
        """Logits and affect of a batch of features."""
        logits, affect = self.modules["head"](batch.features.float())
        return logits.float(), affect.float()

    def compute_objectives(self, predictions: tuple[Tensor, Tensor], batch: Batch, stage: sb.Stage) -> Tensor:
        """Cross-entropy of the emotion, and how far arousal and valence are from full concordance."""
        logits, affect = predictions
        smoothing = self.schedule.smoothing if stage == sb.Stage.TRAIN else 0.0
        loss = emotion_loss(logits, batch.emotion, batch.weight, self.classes, smoothing)
        for track in range(2):
            agreement = concordance(affect[..., track], batch.affect[..., track], batch.weight)
            loss = loss + self.schedule.affect * (1 - agreement)
        return loss

    def on_fit_batch_start(self, batch: Batch, should_step: bool) -> None:
        """Set the learning rate of the step; the step number is part of the checkpoint."""
        for optimiser in self.optimizers_dict.values():
            for group in optimiser.param_groups:
                group["lr"] = self.schedule.at(self.optimizer_step)

    def on_stage_end(self, stage: sb.Stage, stage_loss: float, epoch: int | None = None) -> None:
        """Log the losses of the epoch and keep a checkpoint after each validation."""
        self.loss[stage] = float(stage_loss)
        if stage == sb.Stage.VALID:
            train_loss = self.loss.get(sb.Stage.TRAIN, math.nan)
            self.log.log_stats({"epoch": epoch}, {"loss": train_loss}, {"loss": float(stage_loss)})
            self.checkpointer.save_and_keep_only(meta={"loss": float(stage_loss)}, num_to_keep=1)


def train(
    data: Path,
    out: Path,
    *,
    epochs: int = 3,
    passes: int = 3,
    hours: float = 10.0,
    rate: float = 1.5e-3,
    seed: int = 1,
    checkpoint: Path | None = None,
    workers: int = 2,
    name: str = DEFAULT,
    corpora: tuple[str, ...] | None = None,
    encoder: Mapping[str, Any] = ENCODER,
    head: Mapping[str, Any] = HEAD,
    quiet: bool = False,
) -> dict[str, Any]:
    """Train a model folder `out` from the folder `data`, which holds index.csv; goes on where it was interrupted.

    Args:
        data: recordings with an index.csv (columns: `corpora.COLUMNS`).
        out: model folder to write; what training needs meanwhile (gigabytes) goes to `out/training`.
        epochs: times that the head sees every pass.
        passes, hours: differently augmented passes over the data, and the speech in each.
        rate: highest learning rate.
        seed: of the windows, the augmentation and the head.
        checkpoint: safetensors of a Whisper encoder; None takes the encoder of the installed default model.
        workers: processes that read, augment and encode; 0: this one.
        name: of the model, in its manifest.
        corpora: names of the corpora to use; None: all.
        encoder, head: keyword arguments of `WhisperEncoder` and `FrameHead`.
        quiet: show no progress.

    Returns:
        Figures on the valid split: loss, recall per class, unweighted average recall, concordance, temperature.

    Raises:
        BadInput: the data cannot be read, or a split has nothing of it.
        BadModel: the checkpoint does not fit the encoder.
    """
    if epochs < 1 or passes < 1 or hours <= 0:
        raise BadInput(f"Bad training of {epochs} epochs, {passes} passes, {hours} hours, expected 1 or more")
    began = time.monotonic()
    work = out / "training"
    frozen = pretrained(WhisperEncoder(**encoder), checkpoint or find(DEFAULT).weights)
    batches = max(1, round(hours * 3600 * 50 / BATCH))
    load(data, work / "speech", workers=workers, corpora=corpora)
    recipe = Recipe(data, work / "speech", corpora=corpora)
    heard = [_pass(frozen, recipe, work / f"pass-{n}", batches, seed + n, workers, quiet) for n in range(passes)]
    valid = [
        _pass(
            frozen, replace(recipe, split="valid", clean=clean), work / name, max(1, batches // 8), seed, workers, quiet
        )
        for clean, name in ((True, "valid-clean"), (False, "valid-augmented"))
    ]

    torch.manual_seed(seed)
    learner = FrameHead(labels=len(LABELS), **head)
    counter = EpochCounter(epochs)
    brain = HeadBrain(
        learner,
        class_weights(heard[0]),
        Schedule(steps=epochs * passes * batches, rate=rate),
        work / "log.txt",
        run_opts={"device": "cpu", "precision": "bf16", "noprogressbar": quiet},
        checkpointer=Checkpointer(work / "checkpoints", {"head": learner, "counter": counter}),
    )
    order = torch.Generator().manual_seed(seed)
    loader: DataLoader[Batch] = DataLoader(ConcatDataset(heard), batch_size=None, shuffle=True, generator=order)
    brain.fit(counter, loader, DataLoader(ConcatDataset(valid), batch_size=None), progressbar=not quiet)
    report = judge(learner.eval(), valid)
    table = {
        "name": name,
        "version": "0.1.0",
        "family": "whisper",
        "kind": "windowed",
        "licence": "CC-BY-NC-SA-4.0",
        "labels": LABELS,
        "temperature": report["temperature"],
        "encoder": encoder,
        "head": {key: value for key, value in head.items() if key != "dropout"},
        "plans": PLANS,
        "vad": VAD,
        "decoder": DECODER,
    }
    publish(out, table, frozen, learner)
    report["minutes"] = round((time.monotonic() - began) / 60, 1)
    (work / "report.json").write_text(json.dumps(report, indent=1), encoding="utf-8")
    return report


def class_weights(seen: Pass) -> Tensor:
    """Weight of each class `[C]`: its inverse frequency in a pass to the power 0.7; 0 if it does not occur."""
    counts = torch.zeros(len(LABELS))
    for number in range(len(seen)):
        emotion, _, weight = seen.targets(number)
        counts += torch.bincount(emotion[(emotion >= 0) & (weight > 0)], minlength=len(LABELS))
    weights = (counts.sum() / len(LABELS) / counts.clamp(min=1)) ** 0.7
    return torch.where(counts > 0, weights, 0.0)  # else label smoothing would call for what never comes


def judge(head: FrameHead, valid: list[Pass]) -> dict[str, Any]:
    """Calibrate a head on the trained frames of passes; its recalls, their mean, concordances and the temperature.

    The offsets of the calibration are added to the head's last bias.
    """
    batches = [seen[number] for seen in valid for number in range(len(seen))]
    with torch.inference_mode():
        answers = [head(batch.features.float()) for batch in batches]
        logits, affect = (torch.cat([answer[n].flatten(0, 1) for answer in answers]) for n in range(2))
    emotion = torch.cat([batch.emotion.flatten() for batch in batches])
    target = torch.cat([batch.affect.flatten(0, 1) for batch in batches])
    weight = torch.cat([batch.weight.flatten() for batch in batches])
    known = (emotion >= 0) & (weight > 0)
    logits = logits[known].clone()
    temperature, offset = calibrate(logits, emotion[known], weight[known])
    offset = OFFSETS * offset
    with torch.no_grad():
        head.emotion.bias.add_(temperature * offset)
    recall = recalls(logits + temperature * offset, emotion[known])
    return {
        "recall": {label: round(float(r), 4) for label, r in zip(LABELS, recall, strict=True)},
        "uar": round(float(recall.nanmean()), 4),
        "concordance": {
            track: round(float(concordance(affect[:, n], target[:, n], weight)), 4)
            for n, track in enumerate(("arousal", "valence"))
        },
        "temperature": temperature,
    }


def _pass(
    encoder: WhisperEncoder, recipe: Recipe, folder: Path, batches: int, seed: int, workers: int, quiet: bool
) -> Pass:
    with Progress(disable=quiet) as progress:
        bar = progress.add_task(f"encoding {folder.name}", total=batches)
        for done in encode(encoder, recipe, folder, batches, seed, workers=workers):
            progress.update(bar, completed=done)
    return Pass(folder, batches)
