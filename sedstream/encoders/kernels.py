"""Kernels of a GPU for 16 bits, in Triton; `fused` says what they are for, and has their twins in torch.

Numbers are read and written in 16 bits, and float32 between. What a kernel adds up it adds in one order, so a row has
the same numbers wherever it stands in a batch.
"""

# Triton reads annotations of a kernel: it has none but of what is known when it is compiled.
# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator"

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

TAPS = 16
"""Samples of a frame as the matrix units want them: those of the first convolution, a one, and zeros."""
FRAMES = 32
"""Of the first convolution, computed together."""
PARTS = 16
"""Times as many whose moments are summed together."""
ELEMENTS = 4096
"""Numbers that a program holds."""
QUERIES, KEYS, WARPS, STAGES = 64, 64, 4, 2
"""Of attention: frames that look and that are seen at once, warps, blocks of keys under way. Chosen on an H200."""
WIDTHS = (16, 32, 64, 128)
"""Numbers of a head that attention's blocks can be made of."""
INTERPRETED = tl.constexpr(triton.knobs.runtime.interpret)


@triton.jit
def _gelu(x):
    # 0.5 x (1 + tanh(√(2/π) (x + 0.044715 x³))) (Hendrycks and Gimpel, "Gaussian Error Linear Units", 2016): it leaves
    # the exact one by 0.0005 at most, and so does the chip's own tanh, which is one instruction; 16 bits see neither.
    y = 0.7978845608 * (x + 0.044715 * x * x * x)
    if INTERPRETED:
        tanh = 2.0 * tl.sigmoid(2.0 * y) - 1.0
    else:
        tanh = tl.inline_asm_elementwise("tanh.approx.f32 $0, $1;", "=f,f", [y], tl.float32, is_pure=True, pack=1)
    return 0.5 * x * (1.0 + tanh)


@triton.jit
def _gelu_of(x, y, size, block: tl.constexpr):
    at = tl.program_id(0).to(tl.int64) * block + tl.arange(0, block)
    value = tl.load(x + at, mask=at < size).to(tl.float32)
    tl.store(y + at, _gelu(value).to(y.dtype.element_ty), mask=at < size)


@triton.jit
def _norm(
    x, plus, weight, bias, total, y, rows, epsilon,
    width: tl.constexpr, block: tl.constexpr, several: tl.constexpr,
    adds: tl.constexpr, keeps: tl.constexpr, gelu: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64) * several + tl.arange(0, several)
    column = tl.arange(0, block)
    known = column < width
    inside = (row < rows)[:, None] & known[None, :]
    at = row[:, None] * width + column[None, :]
    value = tl.load(x + at, mask=inside, other=0.0).to(tl.float32)
    if adds:
        value += tl.load(plus + at, mask=inside, other=0.0).to(tl.float32)
        if keeps:
            tl.store(total + at, value.to(total.dtype.element_ty), mask=inside)
    value = tl.where(inside, value - (tl.sum(value, 1) / width)[:, None], 0.0)
    scale = 1.0 / tl.sqrt(tl.sum(value * value, 1) / width + epsilon)
    factor = tl.load(weight + column, mask=known, other=0.0).to(tl.float32)
    shift = tl.load(bias + column, mask=known, other=0.0).to(tl.float32)
    value = value * scale[:, None] * factor[None, :] + shift[None, :]
    if gelu:
        value = _gelu(value)
    tl.store(y + at, value.to(y.dtype.element_ty), mask=inside)


@triton.jit
def _heard(
    samples, less, row, frame, count, length,
    stride: tl.constexpr, size: tl.constexpr, taps: tl.constexpr,
):  # fmt: skip
    # Frames [n, taps]: `size` samples less the row's mean, a one, zeros; only zeros beyond the last frame.
    tap = tl.arange(0, taps)
    inside = (frame < count)[:, None] & (tap < size)[None, :]
    at = row.to(tl.int64) * length + frame[:, None] * stride + tap[None, :]
    heard = tl.load(samples + at, mask=inside, other=0.0).to(tl.float32) - tl.load(less + row)
    one = tl.where((frame < count)[:, None] & (tap == size)[None, :], 1.0, 0.0)
    return tl.where(inside, heard, one)


@triton.jit
def _moments(
    samples, less, y, count, length,
    stride: tl.constexpr, size: tl.constexpr, taps: tl.constexpr, block: tl.constexpr, parts: tl.constexpr,
):  # fmt: skip
    chunk, row = tl.program_id(0), tl.program_id(1)
    total = tl.zeros((taps, taps), tl.float32)
    for part in range(parts):
        frame = (chunk * parts + part) * block + tl.arange(0, block)
        heard = _heard(samples, less, row, frame, count, length, stride, size, taps)
        total += tl.dot(tl.trans(heard), heard, input_precision="ieee")
    tap = tl.arange(0, taps)
    place = (row * tl.num_programs(0) + chunk) * taps * taps
    tl.store(y + place + tap[:, None] * taps + tap[None, :], total)


@triton.jit
def _first(
    samples, less, power, columns, y, count, length, each, epsilon,
    stride: tl.constexpr, size: tl.constexpr, width: tl.constexpr, taps: tl.constexpr, block: tl.constexpr,
    channels: tl.constexpr, scaled: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(1)
    frame = tl.program_id(0) * block + tl.arange(0, block)
    tap = tl.arange(0, taps)
    heard = _heard(samples, less, row, frame, count, length, stride, size, taps)
    if scaled:
        mixed = tl.load(power + tap[:, None] * taps + tap[None, :])
        variance = tl.sum(tl.dot(heard, mixed, input_precision="ieee") * heard, 1)
        heard = heard * (1.0 / tl.sqrt(tl.maximum(variance, 0.0) + epsilon))[:, None]
    heard = tl.where((tap == size + 1)[None, :], 1.0, heard).to(y.dtype.element_ty)
    for start in range(0, width, channels):
        channel = start + tl.arange(0, channels)
        known = channel < width
        factors = tl.load(
            columns + row * each + tap[:, None] * width + channel[None, :], mask=known[None, :], other=0.0
        )
        value = _gelu(tl.dot(heard, factors))
        at = (row.to(tl.int64) * count + frame[:, None]) * width + channel[None, :]
        tl.store(y + at, value.to(y.dtype.element_ty), mask=(frame < count)[:, None] & known[None, :])


@triton.jit
def _attend(
    q, k, v, gate, bias, y, asked, frames, rows, scale,
    q_row, q_head, q_time, row, head, time, gate_row, gate_head, gate_time, bias_head, bias_time,
    y_row, y_time,
    width: tl.constexpr, queries: tl.constexpr, keys: tl.constexpr,
):  # fmt: skip
    # Softmax over one block of keys after another (Milakov and Gimelshein, "Online normalizer calculation", 2018), in
    # powers of two.
    # Programs that run at once are of the same head, and find its biases close by.
    h, b = (tl.program_id(1) // rows).to(tl.int64), (tl.program_id(1) % rows).to(tl.int64)
    query = tl.program_id(0) * queries + tl.arange(0, queries)
    asks = query < asked
    part = tl.arange(0, width)
    place = b * row + h * head
    at = q + b * q_row + h * q_head + query[:, None] * q_time + part[None, :]
    looks = tl.load(at, mask=asks[:, None], other=0.0)
    opening = tl.load(gate + b * gate_row + h * gate_head + query * gate_time, mask=asks, other=0.0)
    opening = opening.to(tl.float32) * 1.4426950409
    highest = tl.full((queries,), -1e30, tl.float32)
    total = tl.zeros((queries,), tl.float32)
    answer = tl.zeros((queries, width), tl.float32)
    for start in range(0, frames, keys):
        key = start + tl.arange(0, keys)
        known = key < frames
        held = tl.load(k + place + key[None, :] * time + part[:, None], mask=known[None, :], other=0.0)
        score = tl.dot(looks, held) * scale
        near = tl.load(bias + h * bias_head + query[:, None] * bias_time + key[None, :], mask=asks[:, None], other=0.0)
        score += opening[:, None] * near.to(tl.float32)
        score = tl.where(known[None, :], score, -1e30)
        above = tl.maximum(highest, tl.max(score, 1))
        share = tl.exp2(score - above[:, None])
        fade = tl.exp2(highest - above)
        total = total * fade + tl.sum(share, 1)
        value = tl.load(v + place + key[:, None] * time + part[None, :], mask=known[:, None], other=0.0)
        answer = answer * fade[:, None] + tl.dot(share.to(value.dtype), value)
        highest = above
    answer = answer / total[:, None]
    to = y + b * y_row + h * width + query[:, None] * y_time + part[None, :]
    tl.store(to, answer.to(y.dtype.element_ty), mask=asks[:, None])


def attend(q: Tensor, k: Tensor, v: Tensor, gate: Tensor, first: int, bias: Tensor) -> Tensor:
    """Attention with gated biases, which are not written down: arguments and answer as those of `attention.masked`.

    Keys and values have the same strides, the numbers of a frame lie side by side, and rows of the biases end at a
    multiple of `KEYS`."""
    batch, heads, asked, width = q.shape
    y = torch.empty(batch, asked, heads, width, device=q.device, dtype=q.dtype)
    _attend[(triton.cdiv(asked, QUERIES), batch * heads)](
        q, k, v, gate, bias[:, :, first:], y, asked, k.shape[2], batch, 1.4426950409 / width**0.5,
        *q.stride()[:3], *k.stride()[:3], *gate.stride(), *bias.stride()[1:3], *y.stride()[:2],
        width, QUERIES, KEYS, num_warps=WARPS, num_stages=STAGES,
    )  # fmt: skip
    return y.transpose(1, 2)


def gelu(x: Tensor) -> Tensor:
    """The GELU of any tensor, contiguous."""
    x = x.contiguous()
    y = torch.empty_like(x)
    _gelu_of[(triton.cdiv(x.numel(), ELEMENTS),)](x, y, x.numel(), ELEMENTS)
    return y


def norm(
    x: Tensor, plus: Tensor | None, layer: torch.nn.LayerNorm, *, keeps: bool = False, gelu: bool = False
) -> tuple[Tensor, Tensor]:
    """The sum of x and ``plus`` `[…, width]` if it ``keeps`` it, else x, and the layer norm of the sum, or the GELU of
    that."""
    x = x.contiguous()
    given = x if plus is None else plus.contiguous()
    y = torch.empty_like(x)
    total = torch.empty_like(x) if keeps else x
    width = x.shape[-1]
    block = triton.next_power_of_2(width)
    several = max(1, ELEMENTS // block)
    rows = x.numel() // width
    _norm[(triton.cdiv(rows, several),)](
        x, given, layer.weight, layer.bias, total, y, rows, layer.eps, width, block, several,
        plus is not None, keeps, gelu,
    )  # fmt: skip
    return total, y


def moments(samples: Tensor, less: Tensor, count: int, size: int, stride: int) -> Tensor:
    """Samples `[B, W]` less `[B]` -> the mean of the products of a frame's `size` samples and 1 with each other, over
    `count` frames, float32 `[B, size + 1, size + 1]`."""
    chunks = triton.cdiv(count, FRAMES * PARTS)
    y = torch.empty(len(samples), chunks, TAPS, TAPS, device=samples.device)
    _moments[(chunks, len(samples))](
        samples, less, y, count, samples.shape[1], stride, size, TAPS, FRAMES, PARTS
    )  # fmt: skip
    return y.sum(1)[:, : size + 1, : size + 1] / count


def first(
    samples: Tensor, less: Tensor, columns: Tensor, power: Tensor | None, epsilon: float, size: int, stride: int
) -> Tensor:
    """The GELU of the first convolution `[B, n, channels]`, in the type of the columns.

    Args:
        samples: `[B, W]`, of each row of which `less` float32 `[B]` is taken away.
        columns: factors of a frame's samples, of 1 and, of a 1 that is never scaled, `[B or 1, size + 2, channels]`.
        power: float32 `[size + 1, size + 1]`: by the root of this form of a frame's samples and 1, and epsilon, the
            frame is divided; None: it is not.
    """
    count = (samples.shape[1] - size) // stride + 1
    width = columns.shape[2]
    spare = TAPS - size
    columns = torch.nn.functional.pad(columns, (0, 0, 0, spare - 2)).contiguous()
    form = columns if power is None else torch.nn.functional.pad(power, (0, spare - 1, 0, spare - 1)).contiguous()
    y = torch.empty(len(samples), count, width, device=samples.device, dtype=columns.dtype)
    each = 0 if len(columns) == 1 else TAPS * width
    channels = min(128, max(16, triton.next_power_of_2(width)))
    _first[(triton.cdiv(count, FRAMES), len(samples))](
        samples, less, form, columns, y, count, samples.shape[1], each, epsilon, stride, size, width, TAPS, FRAMES,
        channels, power is not None,
    )  # fmt: skip
    return y
