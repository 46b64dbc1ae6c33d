"""Published checkpoints of wav2vec 2.0, HuBERT and WavLM: read without running anything of theirs, and renamed.

transformers, SpeechBrain (whose checkpoints are transformers' under a prefix) and torchaudio give the same tensors
different names. What an encoder needs to know beside them is read off their shapes.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from ..errors import BadModel
from .wav2vec import CONVOLUTIONS

HEAD_WIDTH = 64
"""Channels of one attention head in every published checkpoint; the tensors of wav2vec 2.0 and HuBERT do not tell."""
COMPUTED: Mapping[str, Any] = {
    "conv_pos_batch_norm": False, "layer_norm_eps": 1e-5, "feat_extract_activation": "gelu", "hidden_act": "gelu",
    "conv_stride": [5, 2, 2, 2, 2, 2, 2],
}  # fmt: skip
"""Settings of transformers that no tensor tells, and the values for which it is the same network."""
FILES = ("model.safetensors", "pytorch_model.bin")
"""Weights in a folder that transformers saved; the first that is there."""
EPSILON = 1e-7
"""What transformers' feature extractor adds to the variance of the wave."""
PREPROCESSOR = "preprocessor_config.json"
ANCHOR = "feature_extractor.conv_layers.0.conv.weight"
NORM = "transformer.pos_conv_embed.conv."


def read(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file, or of one that `torch.save` wrote; of the latter nothing but tensors is read.

    Raises:
        BadModel: it cannot be read so.
    """
    try:
        if path.suffix == ".safetensors":
            return dict(load_file(path))
        found = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # of a damaged file torch's reader raises nearly everything that there is
        reason = " ".join(str(error).split())[:200]
        raise BadModel(f"Bad checkpoint '{path}', expected tensors alone: {reason}") from error
    if not isinstance(found, Mapping) or not all(isinstance(value, Tensor) for value in found.values()):
        raise BadModel(f"Bad checkpoint '{path}', expected tensors by name")
    return {str(name): tensor for name, tensor in found.items()}


def convert(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Those of a checkpoint that belong to the encoder, float32, under the names of `Wav2VecEncoder`.

    Raises:
        BadModel: there is no encoder of these families among them.
    """
    anchors = [name for name in tensors if name.endswith(ANCHOR)]
    if len(anchors) != 1:
        raise BadModel(f"Bad checkpoint with {len(tensors)} tensors, expected one named …{ANCHOR}")
    prefix = anchors[0].removesuffix(ANCHOR)
    own = {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
    inner = "encoder." if any(name.startswith("encoder.transformer.") for name in own) else ""
    parts = {
        "feature_extractor.": "extractor.",
        f"{inner}feature_projection.": "projection.",
        f"{inner}transformer." if inner else "encoder.": "transformer.",
    }
    found = {
        new + name.removeprefix(old): tensor.detach().float()
        for name, tensor in own.items()
        for old, new in parts.items()
        if name.startswith(old)
    }
    try:
        return _joined(_multiplied(found))
    except KeyError as error:
        raise BadModel(f"Bad checkpoint, expected a tensor {error}") from error


def describe(tensors: Mapping[str, Tensor], config: Path | None = None) -> dict[str, Any]:
    """The arguments of the `Wav2VecEncoder` that converted tensors fill, as far as they tell: how the wave is
    normalised is not among them, nor which hidden states are wanted.

    `config`: transformers' `config.json`, which counts for what tensors do not tell, if it is there.

    Raises:
        BadModel: tensors are missing, or the configuration cannot be read.
    """
    told = {} if config is None else settings(config)
    for key, computed in COMPUTED.items():
        if key in told and told[key] != computed:
            raise BadModel(f"Bad setting {key} = {told[key]!r} in '{config}', expected {computed!r}")
    names = {"num_attention_heads": "heads", "max_bucket_distance": "reach", "do_stable_layer_norm": "first"}
    first = "transformer.layers.0."
    try:
        width = tensors[first + "layer_norm.weight"].shape[0]
        relative = first + "attention.rel_attn_embed.weight" in tensors
        embedding = tensors[first + "attention.rel_attn_embed.weight"] if relative else None
        position = tensors[NORM + "weight"]
        layered = "extractor.conv_layers.1.layer_norm.weight" in tensors
        count = sum(1 for name in tensors if re.fullmatch(r"extractor\.conv_layers\.\d+\.conv\.weight", name))
        shapes = [tensors[f"extractor.conv_layers.{n}.conv.weight"].shape for n in range(count)]
        arguments = {
            "width": width,
            "heads": width // HEAD_WIDTH if embedding is None else embedding.shape[1],
            "layers": len({name.split(".")[2] for name in tensors if name.startswith("transformer.layers.")}),
            "hidden": tensors[first + "feed_forward.intermediate_dense.weight"].shape[0],
            "relative": relative,
            "norm": "layer" if layered else "group",
            "bias": "extractor.conv_layers.0.conv.bias" in tensors,
            # The large models that normalise each frame are those whose layers begin with their norm.
            "first": layered,
            "positions": position.shape[2],
            "groups": width // position.shape[1],
            "convolutions": [[shape[0], shape[2]] for shape in shapes],
        }
    except KeyError as error:
        raise BadModel(f"Bad checkpoint, expected a tensor {error}") from error
    if arguments["convolutions"] == [list(pair) for pair in CONVOLUTIONS]:
        del arguments["convolutions"]
    if embedding is None:
        del names["max_bucket_distance"]
    else:
        arguments["buckets"] = embedding.shape[0]
    return arguments | {ours: told[theirs] for theirs, ours in names.items() if theirs in told}


def settings(path: Path) -> dict[str, Any]:
    """A JSON file of settings by name; none where there is no file.

    Raises:
        BadModel: it cannot be read.
    """
    if not path.is_file():
        return {}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise BadModel(f"Bad configuration '{path}', expected JSON: {error}") from error
    if not isinstance(found, dict):
        raise BadModel(f"Bad configuration '{path}', expected settings by name")
    return found


def normalises(folder: Path, arguments: Mapping[str, Any]) -> bool:
    """Whether a pretrained model wants its wave normalised: as `preprocessor_config.json` in a folder says, or else all
    but WavLM base. `arguments`: what `describe` said of it."""
    base = arguments["relative"] and arguments["norm"] == "group"
    return bool(settings(folder / PREPROCESSOR).get("do_normalize", not base))


def _multiplied(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """With the weight norm of the positions' convolution multiplied out; torch has had two spellings for it."""
    new = "parametrizations.weight.original"
    for size, direction in (("weight_g", "weight_v"), (f"{new}0", f"{new}1")):
        if NORM + size in tensors and NORM + direction in tensors:
            g, v = tensors.pop(NORM + size), tensors.pop(NORM + direction)
            tensors[NORM + "weight"] = v * (g / v.norm(dim=(0, 1), keepdim=True))
    return tensors


def _joined(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """With WavLM's queries, keys and values in one matrix, as torchaudio has them."""
    layers = [name.removesuffix("gru_rel_pos_const") for name in tensors if name.endswith("gru_rel_pos_const")]
    for layer in layers:
        if f"{layer}q_proj.weight" not in tensors:
            continue
        for kind in ("weight", "bias"):
            parts = [tensors.pop(f"{layer}{name}_proj.{kind}") for name in "qkv"]
            tensors[f"{layer}attention.in_proj_{kind}"] = torch.cat(parts)
            tensors[f"{layer}attention.out_proj.{kind}"] = tensors.pop(f"{layer}out_proj.{kind}")
    return tensors
