"""Sums, norms and GELUs in few passes: Triton's kernels against torch, and torch where there are none."""

from __future__ import annotations

import copy
import os
import subprocess
import sys

import pytest
import torch
from conftest import ROOT
from test_wav2vec import small, voices
from torch import nn

from sedstream.encoders import fused

pytest.importorskip("triton")


def test_kernels_by_the_interpreter() -> None:
    environment = {**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "tests/triton_twins.py"], cwd=ROOT, env=environment, check=True, timeout=300)


def test_there_are_no_kernels_without_a_gpu() -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    fused.kernels.cache_clear()
    with pytest.warns(UserWarning, match="slower, without Triton's kernels: "):
        assert fused.kernels() is None
    assert not fused.fits(torch.zeros(2, dtype=torch.bfloat16))


def test_twins_in_torch() -> None:
    layer, x, y = nn.LayerNorm(8), torch.randn(2, 3, 8), torch.randn(2, 3, 8)
    total, normed = fused.add_norm(x, y, layer)
    assert torch.equal(total, x + y)
    assert torch.equal(normed, layer(x + y))
    assert torch.equal(fused.norm_of_sum(x, y, layer), normed)
    assert torch.equal(fused.norm(x, layer), layer(x))
    assert torch.equal(fused.norm_gelu(x, layer), nn.functional.gelu(layer(x)))
    dense = nn.Linear(8, 5)
    assert torch.equal(fused.dense_gelu(x, dense), nn.functional.gelu(dense(x)))


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@torch.inference_mode()
def test_kernels(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    import triton_twins as twins

    torch.manual_seed(0)
    twins.check_gelu("cuda", dtype)
    twins.check_norms("cuda", dtype)
    twins.check_attention("cuda", dtype)
    twins.check_first_convolution("cuda", dtype, monkeypatch.setattr)


@pytest.mark.gpu
@pytest.mark.parametrize("kind", [{}, {"norm": "group", "first": False}], ids=["large", "base"])
@torch.inference_mode()
def test_an_encoder_in_16_bits(kind: dict[str, object]) -> None:
    """With kernels it is not further from float32 than torch's 16 bits are."""
    exact = small(**kind)
    samples = voices(3, 9_000)
    expected = exact(samples)
    halved = copy.deepcopy(exact).cuda().to(torch.bfloat16)
    found = halved(samples.cuda()).cpu()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fused, "kernels", lambda: None)
        plain = halved(samples.cuda()).cpu()
    assert not torch.equal(found, plain)
    assert (found - expected).square().mean() < 1.2 * (plain - expected).square().mean()
    features, some = halved.extract(samples.cuda()), slice(3, 19)
    torch.testing.assert_close(halved.encode(features, some), halved.encode(features)[:, some], atol=0.05, rtol=0.05)
