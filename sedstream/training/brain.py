"""What learns, and how: encoder and head, their losses, SpeechBrain's loop."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import speechbrain as sb
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from ..encoders.cached import CachedEncoder
from ..encoders.heads import CachedHead, FrameHead
from ..encoders.wav2vec import Wav2VecEncoder
from ..encoders.whisper import SILENCE
from .batches import Batch
from .objective import concordance, emotion_loss
from .publish import writing
from .teacher import Teacher

CHUNKS = ((8, 7), (16, 15), (16, 15), (32, 27), (64, 31), (384, 31))
"""Chunk and look-ahead that a batch may be trained with: those of the plans, the live one twice, and one more between
slow and batch."""
LIVE = (16, 15)


@dataclass(frozen=True)
class Schedule:
    """Numbers of the optimisation: AdamW, warm-up then a cosine to zero over `steps` batches."""

    steps: int
    head_rate: float = 1.5e-3
    encoder_rate: float = 1.5e-4
    """Highest learning rates."""
    decay: float = 0.02
    smoothing: float = 0.1
    affect: float = 0.3
    """Weight of the concordance of arousal and of valence beside the cross-entropy."""
    faster: float = 3.0
    """Times the encoder's learning rate while it follows."""
    following: float = 0.3
    """First part of the steps, in which the encoder follows Whisper's features of the clean window, and only the head
    learns from labels."""
    held: float = 1.0
    """Weight of the distance to Whisper's features afterwards, beside the errors of the labels: few speakers are known,
    and what tells them apart must not become what tells emotions."""
    average: float = 0.995
    """Decay a step of the moving average of the weights that is published."""

    def at(self, step: int) -> float:
        """Share of the learning rates at a step: it rises over the first twentieth."""
        progress = step / max(1, self.steps)
        return min(progress / 0.05 + 0.01, 0.5 * (1 + math.cos(math.pi * min(1.0, progress))))


class Learner(nn.Module):
    """Encoder and head as one module."""

    def __init__(self, encoder: CachedEncoder | Wav2VecEncoder, head: CachedHead | FrameHead) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = head
        self.guess: nn.Linear | None = None
        """Of a teacher's features from the encoder's, where the teacher is wider: it learns, and is not published."""
        self.apart = False
        """The head's errors are not the encoder's."""
        self.fresh = False
        """The head has learned nothing yet."""

    def forward(
        self, samples: Tensor, chunk: int, right: int, loudest: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Samples as in `CachedEncoder.forward` -> logits `[B, T, C]`, affect `[B, T, 2]`, features `[B, T, D]`."""
        features = self.encoder(samples, chunk, loudest)
        logits, affect = self.head(features.detach() if self.apart else features, chunk, right)
        return logits, affect, features


class Diarizer(sb.Brain):  # type: ignore[misc]
    """SpeechBrain's loop: every batch with the chunk and the look-ahead of another plan."""

    def __init__(
        self,
        learner: Learner,
        teacher: Teacher | None,
        classes: Tensor,
        schedule: Schedule,
        log: Path,
        **options: Any,
    ) -> None:
        super().__init__(modules={"learner": learner}, opt_class=self._optimiser, **options)
        self.teacher = None if teacher is None else teacher.to(self.device)
        self.average = AveragedModel(learner, multi_avg_fn=_following(schedule.average)).eval()
        self.checkpointer.add_recoverable("average", self.average)
        self.classes = classes.to(self.device)
        self.schedule = schedule
        self.log = log
        self.loss: dict[sb.Stage, float] = {}

    def _optimiser(self, _: Any) -> torch.optim.Optimizer:
        learner = self.modules["learner"]
        rates = (
            (learner.encoder, self.schedule.encoder_rate, self.schedule.faster),
            (learner.head, self.schedule.head_rate, 1.0),
            (learner.guess or nn.Identity(), self.schedule.head_rate, 1.0),
        )
        groups = [
            {"params": [p for p in part.parameters() if p.requires_grad], "lr": rate, "highest": rate, "faster": faster}
            for part, rate, faster in rates
        ]
        return torch.optim.AdamW([g for g in groups if g["params"]], weight_decay=self.schedule.decay)

    def compute_forward(self, batch: Batch, stage: sb.Stage) -> tuple[Tensor, ...]:
        """Logits, affect and features of a batch."""
        heard = batch.heard.to(self.device)
        if stage != sb.Stage.TRAIN:
            return answer(self.average, heard)
        self.modules["learner"].apart = self._follows
        found: tuple[Tensor, Tensor, Tensor] = self.modules["learner"](heard, *self._circumstances(heard))
        return found

    def compute_objectives(self, predictions: tuple[Tensor, ...], batch: Batch, stage: sb.Stage) -> Tensor:
        """Cross-entropy of the emotion, how far arousal and valence are from full concordance, how far the features
        are from Whisper's."""
        logits, affect, found = predictions
        emotion, target, weight = (t.to(self.device) for t in (batch.emotion, batch.affect, batch.weight))
        training = stage == sb.Stage.TRAIN
        loss = emotion_loss(logits.float(), emotion, weight, self.classes, self.schedule.smoothing * training)
        for track in range(2):
            agreement = concordance(affect[..., track].float(), target[..., track], weight)
            loss = loss + self.schedule.affect * (1 - agreement)
        if training and self.teacher is not None:
            share = 1.0 if self._follows else self.schedule.held
            guess = self.modules["learner"].guess
            loss = loss + share * self.teacher.distance(found, batch.clean.to(self.device), batch.piece, guess)
        return loss

    def _circumstances(self, heard: Tensor) -> tuple[int, int, Tensor]:
        """Of a step, the same after an interruption: chunk, look-ahead, and the loudness `[B]` before the windows."""
        rng = np.random.default_rng(self.optimizer_step)
        chunk, right = CHUNKS[rng.integers(len(CHUNKS))]
        # What was said before a window may have been louder, or nothing.
        before = np.where(rng.random(len(heard)) < 0.7, SILENCE, rng.uniform(-1, 3, len(heard)))
        return chunk, right, torch.from_numpy(before).float().to(heard.device)

    @property
    def _follows(self) -> bool:
        return self.teacher is not None and self.optimizer_step < self.schedule.following * self.schedule.steps

    def on_fit_batch_start(self, batch: Batch, should_step: bool) -> None:
        """Set the learning rates of the step; the step number is part of the checkpoint."""
        for optimiser in self.optimizers_dict.values():
            for group in optimiser.param_groups:
                faster = group["faster"] if self._follows else 1.0
                group["lr"] = faster * group["highest"] * self.schedule.at(self.optimizer_step)

    def on_fit_batch_end(self, batch: Batch, outputs: Any, loss: Tensor, should_step: bool) -> None:
        """Follow the weights with their average."""
        if should_step:
            self.average.update_parameters(self.modules["learner"])

    def on_stage_end(self, stage: sb.Stage, stage_loss: float, epoch: int | None = None) -> None:
        """Log the losses of the epoch and keep a checkpoint after each validation."""
        self.loss[stage] = float(stage_loss)
        if stage == sb.Stage.VALID:
            train_loss = self.loss.get(sb.Stage.TRAIN, math.nan)
            with writing(self.log.parent), self.log.open("a", encoding="utf-8") as file:
                print(f"epoch: {epoch} - train loss: {train_loss:.3f} - valid loss: {stage_loss:.3f}", file=file)
            self.checkpointer.save_and_keep_only(meta={"loss": float(stage_loss)}, num_to_keep=1)


class Follower(Diarizer):
    """A diarizer that learns nothing from labels: its encoder follows, its head rests."""

    def compute_forward(self, batch: Batch, stage: sb.Stage) -> tuple[Tensor, ...]:
        """Features of a batch, `[B, T, D]`; in the valid stage those of the average, in the live plan."""
        heard = batch.heard.to(self.device)
        chunk, _, before = (*LIVE, None) if stage != sb.Stage.TRAIN else self._circumstances(heard)
        return (self._learner(stage).encoder(heard, chunk, before),)

    def compute_objectives(self, predictions: tuple[Tensor, ...], batch: Batch, stage: sb.Stage) -> Tensor:
        """How far the features are from Whisper's."""
        (features,) = predictions
        teacher, clean = cast(Teacher, self.teacher), batch.clean.to(self.device)
        return teacher.distance(features, clean, batch.piece, self._learner(stage).guess)

    def _learner(self, stage: sb.Stage) -> Learner:
        return cast(Learner, self.modules["learner"] if stage == sb.Stage.TRAIN else self.average.module)


def answer(learner: nn.Module, heard: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """What a learner answers in the live plan, in the numbers of the training."""
    with torch.inference_mode(), torch.autocast(heard.device.type, torch.bfloat16):
        found: tuple[Tensor, Tensor, Tensor] = learner(heard, *LIVE)
    return found


def _following(decay: float) -> Any:
    return get_ema_multi_avg_fn(decay)  # type: ignore[no-untyped-call]
