"""What each step towards a full GPU gains: the same ticks without it and with it, the others as they are."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

import sedstream
from sedstream.encoders import attention, fused, wav2vec
from sedstream.encoders.graphs import Graphs
from sedstream.encoders.transfers import Transfers
from sedstream.front import LIBRARY
from sedstream.grid import Plan
from sedstream.ringed import RingedNetwork
from sedstream.speech.silero import CHUNK, CONTEXT, Silero, new_state
from sedstream.zoo import Model

from .wavlm import WINDOW, build, forget, speech, ticks

CHUNKS = 10
"""That a live block brings to the VAD."""
SEVERAL = 4
"""Batches of a tick in which copies can run beside the computing."""


class InTurn(Transfers):
    """Nothing travels while anything is computed."""

    def send(self, *arguments: Any) -> Tensor:
        sent = super().send(*arguments)
        self._settle()
        return sent

    def fetch(self, *answers: Tensor) -> list[Tensor]:
        fetched = super().fetch(*answers)
        self._settle()
        return fetched

    def _settle(self) -> None:
        if self._cuda:
            torch.cuda.synchronize()


class Launched(Graphs):
    """Every kernel by itself."""

    def __call__(self, *given: Any) -> Any:
        return self._function(*given)


def in_turn(model: Model) -> Model:
    model._transfers = InTurn(model.device)
    return model


def without_graphs(model: Model) -> Model:
    for network in model.network.modules():
        for name, value in list(vars(network).items()):
            if isinstance(value, Graphs):
                setattr(network, name, Launched(value._function))
    return model


def by(way: str, model: Model) -> Model:
    """Memories ``by_rows`` or ``by_slots``, whatever the device."""
    network: Any = model.network
    network.forward = getattr(network, way)
    return model


def on_rings(model: Model, native: bool | None = None) -> Model:
    return Model(model.manifest, RingedNetwork(model.network, native), model.device)


def by_torchaudio(model: Model) -> Model:
    """The convolutions as torchaudio has them."""
    network: Any = model.network
    network._extract = Graphs(network.encoder.extract_plainly)
    return model


def within(model: Model, change: Callable[[], AbstractContextManager[Any]]) -> Model:
    """As it is while that is changed, the captures of its graphs included."""
    network: Any = model.network
    inner = network.forward

    def forward(*arguments: Any) -> Any:
        with change():
            return inner(*arguments)

    network.forward = forward
    return model


def by_torch(model: Model) -> Model:
    """Without kernels of our own: every norm, sum and GELU by itself, and attention by SDPA."""
    return within(model, lambda: mock.patch.object(fused, "kernels", return_value=None))


def by_sdpa(model: Model) -> Model:
    """Attention by SDPA, and its gated biases written down before."""
    return within(model, lambda: mock.patch.object(wav2vec, "fits", return_value=False))


def by_repeating(model: Model) -> Model:
    """WavLM's gated biases as an elementwise product."""
    return within(model, lambda: mock.patch.object(attention, "product", attention.repeated))


def by_cudnn(model: Model) -> Model:
    """The convolution for positions as torchaudio has it."""
    return within(model, lambda: mock.patch.object(wav2vec, "position", lambda embedding, x, _: embedding(x)))


def by_math(model: Model) -> Model:
    """Attention as it is written down: all scores, then the softmax, then the product."""
    return within(model, lambda: sdpa_kernel(SDPBackend.MATH))


def by_flex(model: Model) -> Model:
    """FlexAttention in place of SDPA."""
    network: Any = model.network
    network.encoder.flex = attention.compiled()
    return model


def table(shape: dict[str, Any], device: str, rows: int, times: int) -> Iterator[str]:
    """The table, line by line. ``shape``: of a WavLM with layer norms; ``rows``: sessions of a full batch."""

    def wavlm(dtype: torch.dtype = torch.bfloat16, **change: Any) -> Model:
        return build({**shape, **change}, device, dtype)

    def default(precision: str = "bfloat16") -> Model:
        return sedstream.load(device=device, precision=precision)

    def launched() -> Model:
        return without_graphs(default())

    def by_sdpa_alone() -> Model:
        return by_sdpa(wavlm())

    live, raw, full = default().manifest.plan("live"), {"wave": "raw"}, torch.float32
    cases: list[tuple[str, Plan, int, Callable[[], Model], Callable[[], Model]]] = [
        ("WavLM: bf16", WINDOW, rows, lambda: without_graphs(wavlm(full)), lambda: without_graphs(wavlm())),
        ("WavLM: graphs", WINDOW, rows, lambda: without_graphs(wavlm()), wavlm),
        ("WavLM: convolutions as products", WINDOW, rows, lambda: by_torchaudio(wavlm()), wavlm),
        ("WavLM: positions as products", WINDOW, rows, lambda: by_cudnn(wavlm()), wavlm),
        ("WavLM: gated biases as products", WINDOW, rows, lambda: by_repeating(by_sdpa(wavlm())), by_sdpa_alone),
        ("WavLM: SDPA's own kernels", WINDOW, rows, lambda: by_math(by_sdpa(wavlm())), by_sdpa_alone),
        ("WavLM: attention in one kernel", WINDOW, rows, by_sdpa_alone, wavlm),
        ("WavLM: all in fewer passes", WINDOW, rows, lambda: by_torch(wavlm()), wavlm),
        ("WavLM: convolutions remembered", WINDOW, rows, lambda: wavlm(**raw), lambda: wavlm(**raw, cached=True)),
        ("WavLM: rings, pure", WINDOW, rows, wavlm, lambda: on_rings(wavlm(), False)),
        ("WavLM: copies beside computing", WINDOW, SEVERAL * rows, lambda: in_turn(wavlm()), wavlm),
        ("default: 16 bits", live, rows, lambda: default("float32"), default),
        ("default: slots", live, rows, lambda: by("by_rows", default()), lambda: by("by_slots", launched())),
        ("default: graphs", live, rows, launched, lambda: by("by_slots", default())),
        ("default: copies beside computing", live, SEVERAL * rows, lambda: in_turn(default()), default),
    ]  # fmt: skip
    if device == "cuda":
        cases.append(("WavLM: FlexAttention", WINDOW, rows, by_sdpa_alone, lambda: by_flex(wavlm())))
    if device == "cuda" and LIBRARY.is_file():
        pure, native = (lambda: on_rings(wavlm(), False)), (lambda: on_rings(wavlm(), True))
        cases.append(("WavLM: rings, native", WINDOW, rows, pure, native))
    yield from ("| step | sessions | ms a tick without | with | gain |", "|---|---|---|---|---|")
    for step, plan, sessions, one, other in cases:
        try:
            without, having = (least(make, plan, sessions, times) for make in (one, other))
        except RuntimeError as error:
            yield f"| {step} | {sessions} | not usable: {' '.join(str(error).split())[:160]} | | |"
            continue
        yield f"| {step} | {sessions} | {without:.1f} | {having:.1f} | {without / having:.2f} |"
    one_core, side_by_side = (hearing(silero, SEVERAL * rows, times) for silero in (Silero(), Silero(device)))
    gain = one_core / side_by_side
    yield f"| VAD: on the device | {SEVERAL * rows} | {one_core:.1f} (one core) | {side_by_side:.1f} | {gain:.2f} |"


def hearing(silero: Silero, sessions: int, times: int) -> float:
    """Milliseconds of the shortest of some ticks of the VAD alone, of live blocks."""
    heard = speech(sessions, CONTEXT + CHUNKS * CHUNK)
    chunks = [np.lib.stride_tricks.sliding_window_view(row, CONTEXT + CHUNK)[::CHUNK] for row in heard]
    states = [new_state() for _ in chunks]
    took = []
    for _ in range(times):
        began = time.perf_counter()
        for group in silero.groups([len(part) for part in chunks]):
            answers = silero([chunks[n] for n in group], [states[n] for n in group])
            for n, (_, state) in zip(group, answers, strict=True):
                states[n] = state
        took.append(time.perf_counter() - began)
    return 1e3 * min(took)


def least(make: Callable[[], Model], plan: Plan, sessions: int, times: int) -> float:
    """Milliseconds of the shortest of some ticks; nothing stays on the device."""
    took = 1e3 * min(ticks(make(), plan, sessions, times))
    forget()
    return took
