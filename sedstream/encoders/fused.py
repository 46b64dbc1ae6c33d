"""What stands between the matrix products of a wav2vec transformer, in few passes over a GPU's memory.

A layer norm or a GELU computes next to nothing, and reads and writes all there is: on a GPU these passes take half as
long as the products beside them. So in 16 bits a sum and its norm, or a norm and its GELU, are one kernel each, and the
first convolution, which hears ten numbers and makes five hundred of them, is one with its norm and its GELU
(`kernels`); the GELU of a feed-forward layer is part of its product. In 16 bits the GELU is the one with a tanh, which
differs from the exact one by less than 16 bits tell apart.

Everywhere else, and to learn, it is what torch has.
"""

from __future__ import annotations

import warnings
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def fits(x: Tensor) -> bool:
    """Whether `x` is computed with by `kernels`: in 16 bits on a GPU, but not to learn."""
    return x.is_cuda and x.dtype != torch.float32 and not torch.is_grad_enabled() and kernels() is not None


@cache
def kernels() -> Any:
    """The module `kernels`, tried once on the current device; None, and a warning, where Triton or the C compiler that
    it needs is missing."""
    try:
        from . import kernels as module

        module.gelu(torch.zeros(1, device="cuda", dtype=torch.bfloat16))
    except Exception as error:  # whatever Triton, a compiler or a driver may say
        warnings.warn(f"slower, without Triton's kernels: {type(error).__name__}: {error}", stacklevel=2)
        return None
    return module


def gelu(x: Tensor) -> Tensor:
    """The GELU of `x`."""
    return kernels().gelu(x) if fits(x) else F.gelu(x)


def norm(x: Tensor, layer: nn.LayerNorm) -> Tensor:
    """The layer norm of `[…, width]`."""
    normed: Tensor = kernels().norm(x, None, layer)[1] if fits(x) else layer(x)
    return normed


def norm_gelu(x: Tensor, layer: nn.LayerNorm) -> Tensor:
    """The GELU of its layer norm."""
    if fits(x):
        y: Tensor = kernels().norm(x, None, layer, gelu=True)[1]
        return y
    # Not `layer(x)`: that of torchaudio's convolutions wants channels first.
    return F.gelu(F.layer_norm(x, layer.normalized_shape, layer.weight, layer.bias, layer.eps))


def add_norm(x: Tensor, y: Tensor, layer: nn.LayerNorm) -> tuple[Tensor, Tensor]:
    """x + y and the layer norm of that."""
    if fits(x):
        both: tuple[Tensor, Tensor] = kernels().norm(x, y, layer, keeps=True)
        return both
    x = x + y
    return x, layer(x)


def norm_of_sum(x: Tensor, y: Tensor, layer: nn.LayerNorm) -> Tensor:
    """Only the layer norm of x + y."""
    normed: Tensor = kernels().norm(x, y, layer)[1] if fits(x) else layer(x + y)
    return normed


def dense_gelu(x: Tensor, dense: nn.Linear) -> Tensor:
    """The GELU of a linear layer of `[…, width]`."""
    if fits(x) and dense.bias is not None:
        y = torch._addmm_activation(dense.bias, x.flatten(0, -2), dense.weight.T, use_gelu=True)
        return y.view(*x.shape[:-1], -1)
    return F.gelu(dense(x))
