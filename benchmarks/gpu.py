"""What one GPU holds: ``python -m benchmarks gpu [--tiny] [--only PART]``.

Weights are random where a checkpoint would have to be pulled: the numbers mean nothing, the time does. Every session
speaks all the time, and its audio is in memory. ``--tiny``: small networks and few sessions, on whatever there is, to
see that it runs; nothing is written then. ``--only``: one part, ``sessions``, ``recordings``, ``exactness`` or
``steps``; each is a section of its own, written once it is measured.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from unittest import mock

import numpy as np
import torch

import sedstream
from sedstream import zoo
from sedstream.front import LIBRARY
from sedstream.grid import HOP, RATE, Plan, seconds
from sedstream.manifest import DEFAULT, find
from sedstream.zoo import Model

from . import steps
from .report import write
from .wavlm import BASE_PLUS, LARGE, TICKS, TINY, WINDOW, build, forget, speech, ticks

GOALS = {"WavLM-large": 800, "WavLM-base+": 3_000}
BATCH = Plan(150, 480, 50)
"""Of recordings: windows of 13.6 s of which 9.6 s are answered; what is shorter is read alone."""
LENGTHS = (9.6, 60.0, 300.0)
"""Seconds of recordings: an utterance or two, a voice mail, a short call."""
LIMIT = 0.5
"""Seconds that a tick may take."""
HALF = torch.bfloat16


def sessions(model: Model, plan: Plan, most: int, times: int) -> tuple[int, float]:
    """The most sessions of which every block is answered within the limit at p99, and their p99; about, by trying a few
    ticks of twice as many and then of numbers between, and at last as many ticks as it takes."""
    limit = min(LIMIT, seconds(plan.step))

    def fits(count: int) -> bool:
        return max(ticks(model, plan, count, min(times, 3))) <= limit

    low = 1
    while 2 * low <= most and fits(2 * low):
        low *= 2
    high = min(2 * low, most + 1)
    while high - low > max(1, low // 64):
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    while (took := sorted(ticks(model, plan, low, times))[-2]) > limit and low > 1:
        low = min(low - 1, low - low // 64)
    return low, took


def offline(model: Model, rows: int, length: float) -> float:
    """Hours of audio an hour, of recordings of some seconds in blocks of the plan batch, or of their own length."""
    frames = round(length * RATE / HOP)
    plan = BATCH.short(frames) if frames <= BATCH.step else BATCH
    blocks = speech(rows * math.ceil(frames / plan.step), plan.window * HOP)
    return rows * length / best_of(lambda: model(blocks, plan))


def speechbrain(arguments: dict[str, Any], device: str, samples: int, rows: int) -> float:
    """Hours of audio an hour of SpeechBrain's `diarize_batch` with the same shape, whole files of the same length."""
    import transformers
    from speechbrain.dataio.encoder import CategoricalEncoder
    from speechbrain.inference.diarization import Speech_Emotion_Diarization
    from speechbrain.nnet.activations import Softmax
    from speechbrain.nnet.linear import Linear
    from speechbrain.nnet.pooling import Pooling1d
    from speechbrain.processing.features import InputNormalization

    layered = arguments.get("norm") == "layer"
    config = transformers.WavLMConfig(
        hidden_size=arguments["width"], num_hidden_layers=arguments["layers"],
        num_attention_heads=arguments["heads"], intermediate_size=arguments["hidden"],
        feat_extract_norm="layer" if layered else "group", do_stable_layer_norm=layered,
        num_conv_pos_embeddings=arguments.get("positions", 128),
        num_conv_pos_embedding_groups=arguments.get("groups", 16),
    )  # fmt: skip

    class Encoder(torch.nn.Module):  # SpeechBrain's wrapper wants a download; this is its forward
        def __init__(self) -> None:
            super().__init__()
            self.model = transformers.WavLMModel(config)

        def forward(self, wav: torch.Tensor) -> torch.Tensor:
            wav = torch.nn.functional.layer_norm(wav, wav.shape[1:])
            out = self.model(wav).last_hidden_state
            return torch.nn.functional.layer_norm(out, out.shape[1:])

    labels = CategoricalEncoder()
    labels.update_from_iterable("nsha")
    labels.expect_len(4)
    with torch.device(device):
        encoder = Encoder()
    peer = Speech_Emotion_Diarization(
        modules={
            "input_norm": InputNormalization(norm_type="sentence", std_norm=False),
            "wav2vec": encoder,
            "wav2vec2": encoder,
            "output_mlp": Linear(input_size=arguments["width"], n_neurons=4, bias=False),
        },
        hparams={
            "avg_pool": Pooling1d("avg", kernel_size=1, stride=1, ceil_mode=True),
            "log_softmax": Softmax(apply_log=True),
            "label_encoder": labels,
            "window_length": 1,
            "stride": 1,
        },
        run_opts={"device": device},
    ).eval()
    audio = torch.from_numpy(np.stack(speech(rows, samples)))
    names = [str(n) for n in range(rows)]
    with torch.inference_mode():
        best = best_of(lambda: peer.diarize_batch(audio, torch.ones(rows), names))
    return rows * samples / RATE / best


def best_of(run: Callable[[], object], times: int = 3) -> float:
    """Least seconds of a few runs after one for warmth; each ends with an answer on the host."""
    run()
    took = []
    for _ in range(times):
        began = time.perf_counter()
        run()
        took.append(time.perf_counter() - began)
    return min(took)


def peak(device: str, size: int) -> float:
    """FLOP a second of a bf16 matrix product, measured."""
    a, b = (torch.randn(size, size, device=device, dtype=torch.bfloat16) for _ in range(2))

    def run() -> None:
        for _ in range(10):
            torch.mm(a, b)
        if a.is_cuda:
            torch.cuda.synchronize()

    return 10 * 2 * size**3 / best_of(run)


def work(arguments: dict[str, Any], frames: int) -> float:
    """FLOP of one window's matrices and convolutions: two for each multiplication."""
    width, layers, hidden = arguments["width"], arguments["layers"], arguments["hidden"]
    total, time_steps, channels = 0.0, frames * HOP, 1
    for size, stride in ((10, 5), *[(3, 2)] * 4, *[(2, 2)] * 2):
        time_steps //= stride
        total += 2 * time_steps * channels * size * 512
        channels = 512
    positions, groups = arguments.get("positions", 128), arguments.get("groups", 16)
    total += 2 * frames * (512 * width + width * width // groups * positions)
    layer = 4 * width * width + 2 * width * hidden + 2 * frames * width
    return total + 2 * frames * layers * layer


def same(model: Model, other: Model, rows: int) -> tuple[bool, float]:
    """Whether a session has the same numbers in a full batch wherever it stands; label agreement with another
    precision."""
    blocks = speech(rows, WINDOW.window * HOP)
    with mock.patch.object(zoo, "FIRST", rows * WINDOW.window):  # all in one batch
        scores = model(blocks, WINDOW)[0]
        turned = model(blocks[::-1], WINDOW)[0][::-1]
    agree = (other(blocks, WINDOW)[0].argmax(-1) == scores.argmax(-1)).mean()
    return bool(np.array_equal(scores, turned)), float(agree)


@dataclass(frozen=True)
class Case:
    """What is measured, and where.

    ``shapes``: of the WavLMs. ``most``: sessions to try. ``rows``: of a full batch. ``times``: ticks. ``size``: of the
    matrices that show the peak. ``lengths`` of recordings in seconds.
    """

    shapes: Mapping[str, dict[str, Any]]
    device: str
    most: int = 32_768
    rows: int = 512
    times: int = TICKS
    size: int = 8192
    lengths: Sequence[float] = LENGTHS


def holds(case: Case) -> Iterator[str]:
    """How many sessions it holds."""
    yield from ("| sessions, 5 s windows every 0.48 s | hold | p99 of a tick | goal |", "|---|---|---|---|")
    for name, shape in case.shapes.items():
        model = steps.on_rings(build(shape, case.device, HALF))
        count, took = sessions(model, WINDOW, case.most, case.times)
        del model
        forget()
        yield f"| {name}, bf16, rings | {count} | {took * 1e3:.0f} ms | {GOALS[name]} |"
    plan = find(DEFAULT).plan("live")
    count, took = sessions(sedstream.load(device=case.device), plan, case.most, case.times)
    forget()
    yield f"| default model, plan live | {count} | {took * 1e3:.0f} ms | 10000 |"
    shape = case.shapes["WavLM-large"]
    full = peak(case.device, case.size)
    model = build(shape, case.device, HALF)
    share = case.rows * work(shape, WINDOW.window) / min(ticks(model, WINDOW, case.rows, case.times)) / full
    del model
    forget()
    yield from (
        "",
        f"bf16 matrix peak {full / 1e12:.0f} TFLOP/s; a tick of {case.rows} reaches {share:.0%} of it (goal 35 %).",
    )


def recordings(case: Case) -> Iterator[str]:
    """How fast it is with recordings, beside SpeechBrain."""
    shape = case.shapes["WavLM-large"]
    model = build(shape, case.device, HALF)
    several = max(1, case.rows // 8)
    yield from (
        "| WavLM-large, recordings of | together | sedstream | SpeechBrain | ratio, goal 10 |",
        "|---|---|---|---|---|",
    )
    for length in case.lengths:
        count = max(1, round(several * case.lengths[0] / length))
        ours, theirs = offline(model, count, length), speechbrain(shape, case.device, int(length * RATE), count)
        forget()
        yield f"| {length:g} s | {count} | {ours:.0f} | {theirs:.0f} | {ours / theirs:.1f} |"
    yield from (
        "",
        "Hours of audio an hour: sedstream's plan batch in bf16, SpeechBrain's `diarize_batch` in fp32 with TF32. "
        f"A block of {seconds(BATCH.step):g} s is computed with its context, {seconds(BATCH.window):g} s; a recording "
        "that is no longer, alone.",
    )


def exactness(case: Case) -> Iterator[str]:
    """Whether a session's numbers depend on the others, and on the precision."""
    for name, shape in case.shapes.items():
        exact, agree = same(*(build(shape, case.device, dtype) for dtype in (HALF, torch.float32)), case.rows)
        forget()
        yield (
            f"{name}: a session among {case.rows - 1} is {'exactly' if exact else 'not exactly'} the same wherever it "
            f"stands; fp32 and bf16 agree in {agree:.2%} of the labels."
        )


def gains(case: Case) -> Iterator[str]:
    """What each step gains."""
    return steps.table(case.shapes["WavLM-large"], case.device, max(2, case.rows // 2), min(case.times, 3))


PARTS = {"sessions": holds, "recordings": recordings, "exactness": exactness, "steps": gains}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks gpu", description=__doc__)
    parser.add_argument("--tiny", action="store_true", help="only see that it runs")
    parser.add_argument("--only", choices=PARTS, help="one part")
    options = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    parts = [options.only] if options.only else PARTS
    if options.tiny:
        shapes = {"WavLM-large": TINY | {"norm": "layer"}, "WavLM-base+": TINY}
        case = Case(shapes, device, most=2, rows=2, times=2, size=256, lengths=(2.0, 4.0))
        for part in parts:
            print("\n".join(PARTS[part](case)), end="\n\n")
    elif device == "cpu":
        print("no GPU here: nothing to measure (--tiny sees that it runs)")
    else:
        case = Case({"WavLM-large": LARGE, "WavLM-base+": BASE_PLUS}, device)
        front = "is" if LIBRARY.is_file() else "is not"
        head = (
            f"{torch.cuda.get_device_name()}, random weights, model alone, audio in memory; the native front-end "
            f"{front} built."
        )
        for part in parts:
            write(f"GPU: {part}", "\n".join([head, "", *told(PARTS[part](case))]))


def told(lines: Iterable[str]) -> Iterator[str]:
    """The lines as they come, shown as well: it takes minutes."""
    for line in lines:
        print(line, file=sys.stderr, flush=True)
        yield line
