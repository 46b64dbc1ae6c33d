"""What a training starts from: a cached model, or Whisper's weights, its absolute positions turned into a table of
distances; and what it follows."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from ..encoders.cached import CachedEncoder
from ..encoders.whisper import Layer, WhisperEncoder
from ..errors import BadModel
from ..grid import HOP
from ..manifest import Manifest, digest, find
from .batches import FRAMES, Batches, Source
from .brain import LIVE, Learner
from .teacher import LAYERS, Teacher

SOUNDS = 16
"""Batches that tell what is usual at a position of Whisper."""


def begin(
    learner: Learner,
    init: str | Path,
    follow: str | Path | None,
    encoder: Mapping[str, Any],
    head: Mapping[str, Any],
    source: Source,
) -> Teacher | None:
    """Fill the learner from `init`, a head of another shape than the one there left as it is; what it follows."""
    learner.fresh = True
    own = cast(CachedEncoder, learner.encoder)
    whisper = None
    if Path(init).suffix == ".safetensors":
        whisper = _whisper(Path(init), encoder)
        if whisper.conv2.out_channels != encoder["width"]:
            raise BadModel(f"Bad start '{init}', expected a Whisper of width {encoder['width']}")
    else:
        manifest = cached(init)
        tensors = read_tensors(manifest.weights)
        fill(own, tensors, manifest.weights)
        if _shape(manifest.head) == _shape(head):
            learner.fresh = False
            heads = {key.removeprefix("head."): value for key, value in tensors.items() if key.startswith("head.")}
            fill(learner.head, {**learner.head.state_dict(), **heads}, manifest.weights)
    followed = whisper if follow is None else _whisper(Path(follow), encoder)
    if followed is None:
        return None
    drawn = Batches(source, 0, SOUNDS)
    batches = [drawn[n] for n in range(SOUNDS)]
    if whisper is not None:
        without_positions(own, whisper, torch.cat([batch.clean for batch in batches[:2]]))
    teacher = Teacher(followed, [batch.clean for batch in batches])
    if followed.features != own.features:
        learner.guess = teacher.guess(own, batches, LIVE[0])
    return teacher


def _whisper(file: Path, encoder: Mapping[str, Any]) -> WhisperEncoder:
    """Whisper's first layers, as many as count: those of `encoder`, or of a Whisper of another width those of
    `LAYERS`."""
    tensors = read_tensors(file)
    if "embed_positions.weight" not in tensors:
        raise BadModel(f"Bad checkpoint '{file}', expected a Whisper encoder")
    positions = tensors["embed_positions.weight"]
    width = positions.shape[1]
    shape = {key: encoder[key] for key in ("mels", "width", "heads", "layers", "outputs", "decades", "level")}
    if width != encoder["width"]:
        if width not in LAYERS:
            widths = ", ".join(map(str, (encoder["width"], *LAYERS)))
            raise BadModel(f"Bad Whisper '{file}' of width {width}, expected {widths}")
        shape |= {"width": width, "heads": width // 64, "layers": max(LAYERS[width]), "outputs": LAYERS[width]}
    whisper = WhisperEncoder(**shape, positions=min(len(positions), 2 * FRAMES))
    tensors["embed_positions.weight"] = positions[: whisper.embed_positions.num_embeddings]
    fill(whisper, tensors, file)
    return whisper.eval().requires_grad_(False)


def _shape(head: Mapping[str, Any]) -> dict[str, Any]:
    """What must be alike for one head to go on from another: the experts are fitted anew."""
    return {key: value for key, value in head.items() if key not in ("dropout", "experts")}


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


def fingerprint(init: str | Path) -> str:
    """The sha256 of what a training starts from: a file's, or that of a model's weights. Raises `BadModel`."""
    path = Path(init)
    return digest(path) if path.suffix == ".safetensors" and path.is_file() else cached(init).sha256


def read_tensors(checkpoint: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file, without the prefix of an encoder in a model folder.

    Raises:
        BadModel: the file cannot be read.
    """
    try:
        tensors = load_file(checkpoint)
    except (OSError, SafetensorError) as error:
        raise BadModel(f"Bad checkpoint '{checkpoint}', expected a safetensors file: {error}") from error
    return {re.sub(r"^(model\.)?encoder\.", "", key): tensor.float() for key, tensor in tensors.items()}


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
        without = encoder.through(number, without, None, encoder.distance[number][:, distance])


def _scores(layer: Layer, x: Tensor) -> Tensor:
    attention = layer.self_attn
    y = layer.self_attn_layer_norm(x)
    shape = (*x.shape[:2], attention.heads, -1)
    q, k = (p(y).view(shape).transpose(1, 2) for p in (attention.q_proj, attention.k_proj))
    scores: Tensor = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5
    return scores
