"""Kernels of a GPU and what torch makes of the same numbers; as a script, the kernels by Triton's interpreter on a CPU.

TRITON_INTERPRET=1 python tests/triton_twins.py
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from test_wav2vec import small, voices
from torch import Tensor, nn

from sedstream.encoders import kernels, strided
from sedstream.encoders.attention import masked, pairs


def near(found: Tensor, expected: Tensor) -> None:
    """To the last digits of the type of what was found."""
    digits = 4 * torch.finfo(found.dtype).eps
    torch.testing.assert_close(found.float(), expected.float(), atol=digits, rtol=digits)


def check_gelu(device: str, dtype: torch.dtype) -> None:
    x = 3 * torch.randn(3, 5_001, device=device).to(dtype)
    near(kernels.gelu(x), F.gelu(x.float()))
    wide = torch.tensor([-300.0, -30.0, 0.0, 30.0, 300.0], device=device).to(dtype)
    assert kernels.gelu(wide).tolist() == [0, 0, 0, *wide[3:].tolist()]


def check_norms(device: str, dtype: torch.dtype) -> None:
    for width, rows in ((48, 7), (768, 5), (1024, 3)):
        layer = nn.LayerNorm(width, device=device)
        nn.init.normal_(layer.weight, 1.0, 0.3)
        nn.init.normal_(layer.bias)
        x, y = torch.randn(2, 2, rows, width, device=device).to(dtype)
        both = x.float() + y.float()
        total, normed = kernels.norm(x, y, layer, keeps=True)
        near(total, both)
        near(normed, layer(both))
        near(kernels.norm(x, y, layer)[1], layer(both))
        near(kernels.norm(x, None, layer)[1], layer(x.float()))
        near(kernels.norm(x, None, layer, gelu=True)[1], F.gelu(layer(x.float())))


def check_first_convolution(device: str, dtype: torch.dtype, patch: Any) -> None:
    patch(strided, "fits", lambda x: True)
    patch(strided, "kernels", lambda: kernels)
    for norm in ("layer", "group"):
        for bias in (False, True):
            layer = small(norm=norm, bias=bias).extractor.conv_layers[0].to(device)
            for samples in (400, 721, 9_000):
                heard = (voices(3, samples) + 0.3 * torch.arange(3)[:, None]).to(device, dtype)
                found = strided.first_gelu(heard, layer.conv, layer.layer_norm)
                expected = F.gelu(strided.first(heard.float(), layer.conv, layer.layer_norm))
                assert found.shape == expected.shape
                near(found, expected)


def check_attention(device: str, dtype: torch.dtype) -> None:
    for batch, heads, frames, width in ((2, 3, 37, 16), (1, 2, 249, 64), (2, 2, 128, 32), (1, 1, 1, 16)):
        projected = torch.randn(batch, frames, 3 * heads * width, device=device).to(dtype)
        q, k, v = (part.view(batch, frames, heads, width).transpose(1, 2) for part in projected.chunk(3, -1))
        gate = (2 * torch.rand(batch, 2 * heads, frames, device=device)).to(dtype).chunk(2, 1)[1]
        table = torch.randn(heads, 61, device=device).to(dtype)
        bias = pairs(table, frames, kernels.KEYS)
        expected = masked(q.float(), k.float(), v.float(), gate.float(), 0, pairs(table.float(), frames))
        for some in (slice(None), slice(frames // 2, frames // 2 + 9), slice(frames - 1, frames)):
            asks = q[:, :, some].clone()  # queries of some frames are made apart
            found = kernels.attend(asks, k, v, gate[:, :, some], some.start or 0, bias)
            near(found, expected[:, :, some])
            assert found.transpose(1, 2).is_contiguous()  # what comes next reads it so


def main() -> None:
    from triton.runtime import interpreter

    # Triton 3.6 makes an array of each number, which NumPy 2.4 does not take for one.
    given = interpreter._implicit_cvt
    interpreter._implicit_cvt = lambda x: x if isinstance(x, int) else given(x)
    torch.manual_seed(0)
    with torch.inference_mode():
        # float16: what the interpreter makes of a product in bfloat16 is wrong.
        check_gelu("cpu", torch.float16)
        check_norms("cpu", torch.float16)
        check_first_convolution("cpu", torch.float16, setattr)
        check_attention("cpu", torch.float16)


if __name__ == "__main__":
    main()
