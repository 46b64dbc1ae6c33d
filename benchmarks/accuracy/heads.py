"""SpeechBrain's recipe head: one linear layer on the features of a frame, softmax, argmax; the encoder is frozen.

Source: the emotion diarization recipe of SpeechBrain (Wang et al., ASRU 2023): utterances concatenated in four
patterns, the whole file at once, full attention, no silence, no decoder.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from sedstream.grid import RATE
from sedstream.scoring.sheet import Span

from .bench import errors, mean
from .cases import LABELS, Case, Ints, spans
from .hearing import tracks

CHOICES = ((0, 1), (2,), (3,))
"""States that a head may read, numbered as the encoder keeps them; which, is chosen on valid."""
EPOCHS, PATIENCE, ROWS, RATE_OF_LEARNING = 60, 4, 512, 1e-3
STRIDE = 2
"""Of the frames, every so many are trained with: neighbours are nearly equal."""
Encode = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True, eq=False)
class Sheet:
    """Frames of the concatenations of one corpus: states float16 `[n, layers, width]`, classes int64 `[n]`."""

    states: np.ndarray
    classes: Ints


def limited(cases: Mapping[str, Sequence[Case]], hours: float, seed: int) -> dict[str, list[Case]]:
    """Concatenations drawn from each corpus at random, the same time of each, `hours` together (or what there is)."""
    rng = np.random.default_rng(seed)
    share = hours * 3600 * RATE / max(1, len(cases))
    found: dict[str, list[Case]] = {}
    for corpus, some in cases.items():
        order = rng.permutation(len(some))
        lengths = np.cumsum([some[n].ends[-1] for n in order])
        found[corpus] = [some[n] for n in order[: 1 + int(np.searchsorted(lengths, share))]]
    return found


def sheets(cases: Mapping[str, Sequence[Case]], encode: Encode) -> dict[str, Sheet]:
    """The frames of concatenations, by corpus."""
    found = {}
    for corpus, some in cases.items():
        states = [encode(case.samples())[::STRIDE] for case in some]
        classes = [case.truth[::STRIDE] for case in some]
        found[corpus] = Sheet(np.concatenate(states), np.concatenate(classes))
    return found


class Head:
    """One linear layer on some of the states, `chosen` by number."""

    def __init__(self, chosen: tuple[int, ...], width: int, device: str) -> None:
        self.chosen = chosen
        self._device = device
        self._linear = nn.Linear(width * len(chosen), len(LABELS)).to(device)

    def fit(self, train: Sequence[Sheet], valid: Sequence[Sheet], seed: int) -> float:
        """Cross-entropy on frames until it no longer falls on valid; the least loss there."""
        torch.manual_seed(seed)
        self._linear.reset_parameters()
        (x, y), held = self._tensors(train), self._tensors(valid)
        optimizer = torch.optim.Adam(self._linear.parameters(), lr=RATE_OF_LEARNING)
        best, kept, since = float("inf"), {}, 0
        for _ in range(EPOCHS):
            for rows in torch.randperm(len(x)).split(ROWS):
                loss = F.cross_entropy(self._linear(self._batch(x[rows])), y[rows].to(self._device))
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
            now = self._loss(*held)
            since += 1
            if now < best:
                best, since = now, 0
                kept = {name: value.clone() for name, value in self._linear.state_dict().items()}
            if since >= PATIENCE:
                break
        self._linear.load_state_dict(kept)
        return best

    @torch.inference_mode()
    def classes(self, states: np.ndarray) -> Ints:
        """Classes `[T]` of states `[T, layers, width]`."""
        answers: Ints = self._linear(self._batch(self._chosen(states))).argmax(-1).cpu().numpy()
        return answers

    @torch.inference_mode()
    def _loss(self, x: torch.Tensor, y: torch.Tensor) -> float:
        losses = [
            F.cross_entropy(self._linear(self._batch(some)), truth.to(self._device), reduction="sum")
            for some, truth in zip(x.split(ROWS), y.split(ROWS), strict=True)
        ]
        return float(sum(losses)) / len(x)

    def _tensors(self, found: Sequence[Sheet]) -> tuple[torch.Tensor, torch.Tensor]:
        x = torch.cat([self._chosen(sheet.states) for sheet in found])
        return x, torch.cat([torch.from_numpy(sheet.classes) for sheet in found])

    def _chosen(self, states: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(states[:, self.chosen]).flatten(1)

    def _batch(self, some: torch.Tensor) -> torch.Tensor:
        return some.to(self._device).float()


class Peers:
    """Heads trained on the same frames, all corpora or all but one."""

    def __init__(
        self,
        train: Mapping[str, Sequence[Case]],
        valid: Mapping[str, Sequence[Case]],
        encode: Encode,
        *,
        device: str,
        seed: int,
    ) -> None:
        self._encode, self._device, self._seed = encode, device, seed
        self._train, self._valid = sheets(train, encode), sheets(valid, encode)
        self._held = valid

    def head(self, without: str = "") -> Head:
        """The head whose layers have the least macro EDER on valid, neither trained nor chosen with corpus
        `without`."""
        train = [sheet for corpus, sheet in self._train.items() if corpus != without]
        valid = {corpus: sheet for corpus, sheet in self._valid.items() if corpus != without}
        heads = []
        width = train[0].states.shape[2]
        for chosen in CHOICES:
            head = Head(chosen, width, self._device)
            head.fit(train, list(valid.values()), self._seed)
            wrong = [float((head.classes(sheet.states) != sheet.classes).mean()) for sheet in valid.values()]
            heads.append((mean(list(wrong)), len(heads), head))
        return min(heads)[2]

    def answers(self, head: Head, cases: Sequence[Case]) -> list[list[Span]]:
        """A span for each run of equal classes."""
        return [spans(head.classes(self._encode(case.samples()))) for case in cases]

    def rate(self, head: Head, cases: Sequence[Case]) -> float | None:
        """EDER of the head, 0…1."""
        return errors(tracks(cases, self.answers(head, cases))).rate
