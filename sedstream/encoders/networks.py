"""Encoder and head as one: blocks of samples and what their sessions remember -> logits, affect, and what they remember
then."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import BadModel
from ..grid import HOP, Plan
from .cached import BEFORE, BEHIND, CachedEncoder, Memory
from .graphs import Graphs
from .heads import CachedHead, FrameHead, LinearHead
from .wav2vec import FIELD, Wav2VecEncoder

Answer = tuple[Tensor, Tensor, list[Any]]
FULL = 128
"""Frames that keep a core busy: smaller matrices spend their time on fetching the weights."""


class Network(nn.Module):
    """What every kind of network can do."""

    def forward(self, samples: Tensor, plan: Plan, before: Sequence[tuple[Any, bool]]) -> Answer:
        """Samples ``[B, plan.window·320]`` and the memories of B sessions (None: it begins), each with whether it is
        from the block right before -> logits ``[B, step, C]``, arousal and valence ``[B, step, 2]``, B memories.

        For a whole plan samples ``[B, n]``, and as many frames as the encoder makes of them."""
        raise NotImplementedError

    def rows(self, plan: Plan) -> int:
        """How many sessions share a batch on a CPU core."""
        return 1

    def check(self, name: str, plan: Plan) -> None:
        """Raises ``BadModel`` if the network cannot serve a plan."""

    def shorten(self) -> None:
        """Compute in bfloat16 what does not suffer from it. Call it once, after the weights are there."""

    def halve(self, dtype: torch.dtype) -> None:
        """Compute in 16 bits on a GPU. Call it once, after the weights are there."""

    def release(self) -> None:
        """Memory is short: give back what is held only for speed."""


class WindowedNetwork(Network):
    """Encodes each block with its context anew and remembers nothing."""

    def __init__(self, encoder: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = head

    def forward(self, samples: Tensor, plan: Plan, before: Sequence[tuple[Any, bool]]) -> Answer:
        logits, affect = self.head(self.encoder(samples))
        answered = slice(plan.left, plan.left + plan.step)
        return logits[:, answered], affect[:, answered], [None] * len(samples)

    def check(self, name: str, plan: Plan) -> None:
        if plan.whole:
            raise BadModel(f"Bad plan {name!r}, expected a step: the encoder's windows have a longest length")


class OverlappingNetwork(Network):
    """Windows of a wav2vec 2.0, HuBERT or WavLM. Where its encoder is `cached`, a session remembers what the
    convolutions made of the part of its window that the next one holds too, float `[window - 1 - step, channels]`.

    The numbers are then those of the whole window up to rounding, for the convolutions are of other lengths.
    """

    def __init__(self, encoder: Wav2VecEncoder, head: FrameHead | LinearHead) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = head
        self._extract = Graphs(encoder.extract)
        self._answer = Graphs(lambda features: head(encoder.encode(features)))

    def forward(self, samples: Tensor, plan: Plan, before: Sequence[tuple[Any, bool]]) -> Answer:
        if plan.whole:
            return self._whole(samples)
        kept = plan.window - 1 - plan.step
        if not self.encoder.cached or not all(follows for _, follows in before):
            features = self._extract(samples)
        else:
            fresh = self._extract(samples[:, kept * HOP :])
            nothing = fresh.new_zeros(kept, fresh.shape[2])
            old = [nothing if memory is None else memory for memory, _ in before]
            features = torch.cat([torch.stack(old), fresh], 1)
        memories: list[Any] = [None] * len(samples)
        if self.encoder.cached:
            # Cloned: a session that falls silent must not keep the whole batch in memory.
            memories = [row.clone() for row in features[:, plan.step :]]
        logits, affect = self._answer(features)
        answered = slice(plan.left, plan.left + plan.step)
        return logits[:, answered], affect[:, answered], memories

    def _whole(self, samples: Tensor) -> Answer:
        if samples.shape[1] < FIELD:  # not one frame
            logits = samples.new_zeros(len(samples), 0, self.head.emotion.out_features)
            return logits, logits[..., :2], [None] * len(samples)
        return *self.head(self.encoder(samples)), [None] * len(samples)

    def halve(self, dtype: torch.dtype) -> None:
        for part in (self.encoder.extractor, self.encoder.projection, self.encoder.transformer):
            part.to(dtype)

    def release(self) -> None:
        self._extract.clear()
        self._answer.clear()


class CachedNetwork(Network):
    """Encodes each frame once. A block answers for frames [k·step, (k + 1)·step) and encodes as many, `right` later.

    The last frame of look-ahead is what the encoder's convolutions need. A session that begins, or goes on after
    blocks that nobody asked for, first encodes the chunk before this one: the block holds its samples too.
    """

    def __init__(self, encoder: CachedEncoder, head: CachedHead) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = head

    def forward(self, samples: Tensor, plan: Plan, before: Sequence[tuple[Any, bool]]) -> Answer:
        right = plan.right - BEHIND
        # Where in the block the chunk's samples begin; the chunk before it begins a step earlier.
        first = (plan.left + right - BEFORE) * HOP
        span = (BEFORE + plan.step + BEHIND) * HOP
        memory = self._gather([known for known, _ in before], right, samples)
        follows = torch.tensor([follows for _, follows in before], device=samples.device)
        if not all(follows for _, follows in before):
            early = samples[:, first - plan.step * HOP :][:, :span]
            read, loudest, known, keys = self._encode(early, memory)
            fresh = Memory(loudest, known, keys, read[:, plan.step - right :], memory.hidden)
            memory = Memory(
                *(
                    torch.where(follows.view(-1, *[1] * (old.ndim - 1)), old, new)
                    for old, new in zip(memory, fresh, strict=True)
                )
            )
        read, loudest, known, keys = self._encode(samples[:, first:][:, :span], memory)
        read = torch.cat([memory.ahead, read], 1)
        logits, affect, hidden = self.head.advance(read, right, memory.hidden)
        memory = Memory(loudest, known, keys, read[:, plan.step :], hidden)
        # Cloned: a session that falls silent must not keep the whole batch in memory.
        return logits, affect, [Memory(*(field.clone() for field in row)) for row in zip(*memory, strict=True)]

    def _encode(self, samples: Tensor, memory: Memory) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        features, loudest, known, keys = self.encoder.advance(samples, memory.loudest, memory.known, memory.keys)
        return self.head.read(features), loudest, known, keys

    def _gather(self, memories: Sequence[Memory | None], right: int, like: Tensor) -> Memory:
        nothing = Memory(*self.encoder.nothing(like), *self.head.nothing(right, like))
        rows = [nothing if memory is None else memory for memory in memories]
        return Memory(*(torch.stack(field) for field in zip(*rows, strict=True)))

    def rows(self, plan: Plan) -> int:
        return max(1, FULL // plan.step)

    def check(self, name: str, plan: Plan) -> None:
        if plan.whole:
            raise BadModel(f"Bad plan {name!r}, expected a step: a cached encoder goes on from block to block")
        least = plan.step - plan.right + BEFORE + BEHIND
        if plan.right - BEHIND > plan.step:
            raise BadModel(f"Bad plan {name!r}: right {plan.right}, expected at most step + {BEHIND}")
        if plan.left < least:
            raise BadModel(f"Bad plan {name!r}: left {plan.left}, expected {least} or more")

    def shorten(self) -> None:
        for part in self.encoder.modules():
            if isinstance(part, nn.Linear | nn.Conv1d):
                part.to(torch.bfloat16)
