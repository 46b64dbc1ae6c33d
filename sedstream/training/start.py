"""A cached encoder to start from: Whisper's weights, its absolute positions turned into a table of distances."""

from pathlib import Path
from typing import cast

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from ..encoders.cached import CachedEncoder
from ..encoders.whisper import Layer, WhisperEncoder
from ..errors import BadModel
from ..grid import HOP
from ..manifest import Manifest, find


def cached(model: str | Path) -> Manifest:
    """The manifest of a model that a training can start from.

    Raises:
        BadModel: there is no such model, it is not whole, or its encoder is windowed.
    """
    if Path(model).suffix == ".safetensors":
        raise BadModel(f"Bad start '{model}', expected a cached model, by its name or folder")
    manifest = find(model)
    if manifest.kind != "cached":
        raise BadModel(f"Bad start '{model}', expected a cached model: its encoder is {manifest.kind}")
    manifest.verify()
    return manifest


def read_tensors(checkpoint: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file, without the prefix of an encoder in a model folder.

    Raises:
        BadModel: the file cannot be read.
    """
    try:
        tensors = load_file(checkpoint)
    except (OSError, SafetensorError) as error:
        raise BadModel(f"Bad checkpoint '{checkpoint}', expected a safetensors file: {error}") from error
    return {key.removeprefix("encoder."): tensor.float() for key, tensor in tensors.items()}


def fill(module: nn.Module, tensors: dict[str, Tensor], checkpoint: Path) -> None:
    """Fill `module` with the tensors of its names, read from `checkpoint`.

    Raises:
        BadModel: one is missing or has another shape.
    """
    own = module.state_dict()
    for key, tensor in own.items():
        found = tuple(tensors[key].shape) if key in tensors else None
        if found != tuple(tensor.shape):
            raise BadModel(
                f"Bad checkpoint '{checkpoint}', expected {key} of shape {tuple(tensor.shape)}, found {found}"
            )
    module.load_state_dict({key: tensors[key] for key in own})


LEFT, STEP, RIGHT = 104, 48, 16
"""Frames of a window in which Whisper is looked at, and those in it whose attention counts."""


@torch.no_grad()
def without_positions(encoder: CachedEncoder, whisper: WhisperEncoder, samples: Tensor) -> None:
    """Give `encoder` the weights of `whisper`, and what its positions do to the attention as a table of distances.

    All frames get the position in the middle of those that count. The table: the scores of attention from these, with
    the positions minus with that one for all, averaged over speech and over all pairs of frames at the same distance.
    Layer after layer: each is fitted to what the fitted ones below it give.

    Args:
        encoder: to be filled; its layers, heads and widths are those of `whisper`.
        whisper: with at least LEFT + STEP + RIGHT positions.
        samples: speech float32 `[B, T * 320]` at 16 kHz.
    """
    own = encoder.state_dict()
    given = whisper.state_dict()
    encoder.load_state_dict({**own, **{key: given[key] for key in own if key in given}})
    windows = samples.unfold(1, (LEFT + STEP + RIGHT) * HOP, STEP * HOP).flatten(0, 1)
    x = F.gelu(whisper.conv1(whisper.log_mel(windows)))
    x = F.gelu(whisper.conv2(x)).transpose(1, 2)
    frames = x.shape[1]
    positions = whisper.embed_positions.weight[:frames]
    # One that there is, not a mean: the mean of waves is shorter, and the layers expect their length.
    encoder.position.copy_(positions[LEFT + STEP // 2])
    seen = slice(LEFT, LEFT + STEP)
    with_positions, without = x + positions, x + encoder.position
    place = torch.arange(frames)
    distance = (place - place[:, None]).clamp(-encoder.reach, encoder.reach) + encoder.reach
    count = torch.bincount(distance[seen].flatten(), minlength=2 * encoder.reach + 1)
    for number, module in enumerate(whisper.layers):
        layer = cast(Layer, module)
        difference = (_scores(layer, with_positions) - _scores(layer, without))[:, :, seen]
        difference = (difference - difference.mean(-1, keepdim=True)).mean(0).flatten(1)
        sums = torch.zeros(len(difference), len(count)).index_add_(1, distance[seen].flatten(), difference)
        encoder.distance[number] = sums / count.clamp(min=1)
        with_positions = layer(with_positions)
        without, _ = encoder.through(number, without, None, encoder.distance[number][:, distance])


def _scores(layer: Layer, x: Tensor) -> Tensor:
    attention = layer.self_attn
    y = layer.self_attn_layer_norm(x)
    shape = (*x.shape[:2], attention.heads, -1)
    q, k = (p(y).view(shape).transpose(1, 2) for p in (attention.q_proj, attention.k_proj))
    scores: Tensor = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5
    return scores
