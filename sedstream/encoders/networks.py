"""Encoder and head as one: blocks of samples and what their sessions remember -> logits, affect, and what they remember
then."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, Self

import torch
from torch import Tensor, nn

from ..errors import BadModel
from ..grid import HOP, Plan
from ..traces import Traces
from .cached import BEFORE, BEHIND, CachedEncoder, Memory
from .graphs import Graphs
from .gru import FEW
from .heads import CachedHead, FrameHead, LinearHead
from .relay import Before
from .slots import NOTHING, Slots
from .wav2vec import FIELD, Wav2VecEncoder

Answer = tuple[Tensor, Tensor, list[Any]]
FULL = 128
"""Frames that keep a core busy: smaller matrices spend their time on fetching the weights."""


class Network(nn.Module):
    """What every kind of network can do."""

    def forward(self, samples: Tensor, plan: Plan, before: Sequence[Before]) -> Answer:
        """Samples ``[B, plan.window·320]``, or only the end of them that is read, and what came before them in B
        sessions -> logits ``[B, step, C]``, arousal and valence ``[B, step, 2]``, B memories. Nothing that was given as
        a memory changes: a block may be answered again.

        For a whole plan samples ``[B, n]``, and as many frames as the encoder makes of them."""
        raise NotImplementedError

    def reads(self, plan: Plan, follows: bool) -> int:
        """How many samples at the end of a block are read, 0: all; ``follows``: all sessions bring a memory from the
        block right before."""
        return plan.window * HOP

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

    def train(self, mode: bool = True) -> Self:
        self.release()  # captures read weights and tables where they were
        return super().train(mode)


class WindowedNetwork(Network):
    """Encodes each block with its context anew and remembers nothing."""

    def __init__(self, encoder: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = head

    def forward(self, samples: Tensor, plan: Plan, before: Sequence[Before]) -> Answer:
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
        self._answer = Graphs(partial(_answered, encoder, head))
        self._slots: dict[int, Slots] = {}  # by the frames that are kept

    def forward(self, samples: Tensor, plan: Plan, before: Sequence[Before]) -> Answer:
        if plan.whole:
            return self._whole(samples)
        if not self.encoder.cached:
            features, memories = self._extract(samples), [None] * len(samples)
        else:
            features, memories = (self.by_slots if samples.is_cuda else self.by_rows)(samples, plan, before)
        return *self._answer(features, plan), memories

    def by_rows(self, samples: Tensor, plan: Plan, before: Sequence[Before]) -> tuple[Tensor, list[Any]]:
        """What the convolutions made of a window, and memories that are tensors of their own."""
        features = fresh = self._fresh(samples, plan, before)
        if kept := plan.window - 1 - fresh.shape[1]:
            nothing = fresh.new_zeros(kept, fresh.shape[2])
            old = [nothing if b.memory is None else b.memory for b in before]
            features = torch.cat([torch.stack(old), fresh], 1)
        # Cloned: a session that falls silent must not keep the whole batch in memory.
        return features, [row.clone() for row in features[:, plan.step :]]

    def by_slots(self, samples: Tensor, plan: Plan, before: Sequence[Before]) -> tuple[Tensor, list[Any]]:
        """The same with memories in slots on the device."""
        features = fresh = self._fresh(samples, plan, before)
        kept = plan.window - 1 - plan.step
        if kept not in self._slots:
            self._slots[kept] = Slots([fresh.new_zeros(kept, fresh.shape[2])], fresh.device)
        slots = self._slots[kept]
        memories, (read, write, *_) = slots.step(before)
        (field,) = slots.fields
        if fresh.shape[1] == plan.step:
            features = torch.cat([field.index_select(0, read), fresh], 1)
        field.index_copy_(0, write, features[:, plan.step :])
        return features, memories

    def _fresh(self, samples: Tensor, plan: Plan, before: Sequence[Before]) -> Tensor:
        length = self.reads(plan, all(b.follows for b in before))
        fresh: Tensor = self._extract(samples[:, -length:])
        return fresh

    def reads(self, plan: Plan, follows: bool) -> int:
        kept = plan.window - 1 - plan.step if self.encoder.cached and follows else 0
        return (plan.window - kept) * HOP

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
        self.encoder.forget()


def _answered(encoder: Wav2VecEncoder, head: nn.Module, features: Tensor, plan: Plan) -> tuple[Tensor, Tensor]:
    answered = slice(plan.left, plan.left + plan.step)
    if isinstance(head, LinearHead):  # which needs no other frames
        alone: tuple[Tensor, Tensor] = head(encoder.encode(features, answered))
        return alone
    logits, affect = head(encoder.encode(features))
    return logits[:, answered], affect[:, answered]


class CachedNetwork(Network):
    """Encodes each frame once. A block answers for frames [k·step, (k + 1)·step) and encodes as many, `right` later.

    The last frame of look-ahead is what the encoder's convolutions need. A session that begins, or goes on after
    blocks that nobody asked for, first encodes the chunk before this one: the block holds its samples too. What goes on
    from chunk to chunk are relays of two states: see `relay`.

    On a GPU memories are slots; on a CPU, where batches are small and run side by side, they are tensors.
    """

    def __init__(self, encoder: CachedEncoder, head: CachedHead) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = head
        self._slots: dict[int, Slots] = {}  # by the look-ahead, on which the size of a memory depends
        self._step = Graphs(self._step_slots)
        self._trace = Traces(self._step_rows, self)

    def forward(self, samples: Tensor, plan: Plan, before: Sequence[Before]) -> Answer:
        return (self.by_slots if samples.is_cuda else self.by_rows)(samples, plan, before)

    def by_rows(self, samples: Tensor, plan: Plan, before: Sequence[Before]) -> Answer:
        """Memories are tensors of their own."""
        nothing = self._nothing(plan, samples)
        rows = [nothing if b.memory is None else b.memory for b in before]
        memory = [torch.stack(field) for field in zip(*rows, strict=True)]
        follows, turns = torch.tensor([(b.follows, b.turns) for b in before], device=samples.device).unbind(1)
        # Where several sessions share a batch, other threads share the interpreter. And a trace cannot hold what the
        # recurrences do for few.
        step = self._trace if len(samples) > FEW else self._step_rows
        logits, affect, *fields = step(samples, follows, turns, plan, all(b.follows for b in before), *nothing, *memory)
        # Cloned: a session that falls silent must not keep the whole batch in memory.
        return logits, affect, [Memory(*(field.clone() for field in row)) for row in zip(*fields, strict=True)]

    def by_slots(self, samples: Tensor, plan: Plan, before: Sequence[Before]) -> Answer:
        """Memories are in slots on the device, and all that happens to a batch is one launch."""
        if plan.right not in self._slots:
            nothing = self._nothing(plan, samples)
            self._slots[plan.right] = Slots(nothing, samples.device, lambda count: self._step.clear())
        memories, places = self._slots[plan.right].step(before)
        logits, affect = self._step(samples, places, plan, all(b.follows for b in before))
        return logits, affect, memories

    def _step_rows(
        self, samples: Tensor, follows: Tensor, turns: Tensor, plan: Plan, all_follow: bool, *fields: Tensor
    ) -> tuple[Tensor, ...]:
        """``fields``: of the memory of nothing, and of that of the sessions."""
        nothing, memory = Memory(*fields[: len(fields) // 2]), Memory(*fields[len(fields) // 2 :])
        logits, affect, memory = self._advance(
            samples, plan, memory.turn(turns, nothing), None if all_follow else follows
        )
        return logits, affect, *memory

    def _step_slots(self, samples: Tensor, places: Tensor, plan: Plan, all_follow: bool) -> tuple[Tensor, Tensor]:
        fields = self._slots[plan.right].fields
        read, write, follows, turns = places
        memory = Memory(*(field.index_select(0, read) for field in fields))
        memory = memory.turn(turns.bool(), Memory(*(field[NOTHING] for field in fields)))
        logits, affect, memory = self._advance(samples, plan, memory, None if all_follow else follows.bool())
        for field, value in zip(fields, memory, strict=True):
            field.index_copy_(0, write, value)
        return logits, affect

    def _advance(
        self, samples: Tensor, plan: Plan, memory: Memory, follows: Tensor | None
    ) -> tuple[Tensor, Tensor, Memory]:
        """Answer a block; ``follows`` bool ``[B]``: whose memory is from the block right before, None: everybody's."""
        right = plan.right - BEHIND
        span = (BEFORE + plan.step + BEHIND) * HOP
        if follows is not None:  # the chunk before this one begins a step earlier
            early = samples[:, -span - plan.step * HOP :][:, :span]
            read, loudest, known, keys = self._encode(early, memory)
            fresh = Memory(loudest, known, keys, read[:, plan.step - right :], memory.hidden)
            memory = Memory(
                *(
                    torch.where(follows.view(-1, *[1] * (old.ndim - 1)), old, new)
                    for old, new in zip(memory, fresh, strict=True)
                )
            )
        read, loudest, known, keys = self._encode(samples[:, -span:], memory)
        read = torch.cat([memory.ahead, read], 1)
        logits, affect, hidden = self.head.advance(read, right, memory.hidden)
        return logits, affect, Memory(loudest, known, keys, read[:, plan.step :], hidden)

    def _encode(self, samples: Tensor, memory: Memory) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        features, loudest, known, keys = self.encoder.advance(samples, memory.loudest, memory.known, memory.keys)
        return self.head.read(features), loudest, known, keys

    def _nothing(self, plan: Plan, like: Tensor) -> Memory:
        return Memory(*self.encoder.nothing(like), *self.head.nothing(plan.right - BEHIND, like))

    def reads(self, plan: Plan, follows: bool) -> int:
        return (BEFORE + (1 if follows else 2) * plan.step + BEHIND) * HOP

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
        self.halve(torch.bfloat16)

    def halve(self, dtype: torch.dtype) -> None:
        for part in self.encoder.modules():
            if isinstance(part, nn.Linear | nn.Conv1d):
                part.to(dtype)

    def release(self) -> None:
        self._step.clear()
        self._trace.clear()
