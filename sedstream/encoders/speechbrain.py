"""SpeechBrain's emotion diarization checkpoints: a folder that its recipe saved, into encoder and linear head.

`hyperparams.yaml` is a program to SpeechBrain: its tags name classes to import and call. Here it is read as data:
a tag is a text beside its arguments, and nothing is imported. Weights are read as tensors alone, labels as text.

What the recipe computes (Wang et al., "Speech Emotion Diarization", 2023): the wave minus its mean, normalised where
the pretrained model wants it; the last hidden state; that normalised over frames and channels together; one matrix.
"""

from __future__ import annotations

import ast
import os
import re
from collections.abc import Mapping, Sequence
from math import inf, isnan
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from torch import Tensor

from ..errors import BadModel
from . import checkpoints

FILES = ("hyperparams.yaml", "label_encoder.txt", "model.ckpt", "wav2vec2.ckpt")
"""What is read of a checkpoint's folder, as it is on the hub."""
SAVED = "CKPT*"
"""What the recipe itself leaves in `save`, beside the label encoder: a folder of weights an epoch that it kept."""
EMOTIONS = {"a": "angry", "h": "happy", "n": "neutral", "s": "sad"}
"""SpeechBrain's letters."""
_REFERENCE = re.compile(r"<(\w+)>")


class Checkpoint(NamedTuple):
    """What a folder says: labels in the order of the matrix's rows, arguments of `Wav2VecEncoder` and `LinearHead`,
    tensors `encoder.*` and `head.*`, and the files that were read."""

    labels: tuple[str, ...]
    encoder: dict[str, Any]
    head: dict[str, Any]
    tensors: dict[str, Tensor]
    files: tuple[Path, ...]


class Places(NamedTuple):
    """Where the `FILES` lie; `pretrained`: the folder of `config.json` and `preprocessor_config.json`, if any."""

    files: tuple[Path, Path, Path, Path]
    pretrained: Path


def places(folder: Path) -> Places:
    """Those of a folder as it is on the hub, or of one that the recipe wrote: of the epochs in its `save`, that with
    the lowest error rate, the newest of equals, which the recipe tests too.

    Raises:
        BadModel: no epoch was saved.
    """
    save = folder / "save"
    if os.path.exists(folder / FILES[2]) or not os.path.isdir(save):
        settings, labels, matrix, encoder = (folder / name for name in FILES)
        return Places((settings, labels, matrix, encoder), folder)
    best = min((path for path in save.glob(SAVED) if (path / FILES[2]).is_file()), key=_rank, default=None)
    if best is None:
        raise BadModel(f"Bad checkpoint '{save}', expected an epoch {SAVED} in it")
    # The recipe has transformers keep what it fetched there.
    told = next(iter(sorted((save / "wav2vec2_checkpoint").glob("**/config.json"))), folder / "config.json")
    return Places((folder / FILES[0], save / FILES[1], best / FILES[2], best / FILES[3]), told.parent)


def load(folder: Path, labels: Sequence[str] | None = None) -> Checkpoint:
    """Read a checkpoint's folder, see `places`; with `labels`, the matrix's rows in their order.

    Beside `FILES`, `config.json` and `preprocessor_config.json` of the pretrained model count if they are there;
    otherwise its heads are 64 wide, and its wave is normalised unless it is WavLM base.

    Raises:
        BadModel: a file is missing or is not what it should be, or says what sedstream does not compute.
    """
    files, pretrained = places(folder)
    path, names, matrix_path, encoder_path = files
    settings = hyperparameters(path)
    _need(settings, "window_length", 1)
    _need(settings, "stride", 1)
    tensors = checkpoints.convert(checkpoints.read(encoder_path))
    encoder = checkpoints.describe(tensors, pretrained / "config.json")
    encoder["outputs"] = [encoder["layers"]]
    told = _arguments(settings, "wav2vec2")
    if told.get("output_all_hiddens"):
        raise BadModel(f"Bad output_all_hiddens in '{folder}', expected false")
    encoder["together"] = bool(told.get("output_norm", False))
    encoder["wave"] = _wave(pretrained, settings, encoder)
    own = label_encoder(names)
    matrix = checkpoints.read(matrix_path)
    weight = next((tensor for name, tensor in matrix.items() if name.endswith("w.weight")), None)
    bias = next((tensor for name, tensor in matrix.items() if name.endswith("w.bias")), None)
    if weight is None or tuple(weight.shape) != (len(own), encoder["width"]):
        shape = None if weight is None else tuple(weight.shape)
        raise BadModel(f"Bad matrix in '{folder}', expected shape {(len(own), encoder['width'])}, found {shape}")
    if labels is not None and sorted(labels) != sorted(own):
        raise BadModel(f"Bad labels of '{folder}', expected {', '.join(labels)}, found {', '.join(own)}")
    labels = own if labels is None else tuple(labels)
    rows = [own.index(label) for label in labels]
    filled = {f"encoder.{name}": tensor for name, tensor in tensors.items()}
    filled["head.emotion.weight"] = weight[rows].float()
    if bias is not None:
        filled["head.emotion.bias"] = bias[rows].float()
    return Checkpoint(tuple(labels), encoder, {"features": encoder["width"], "bias": bias is not None}, filled, files)


def hyperparameters(path: Path) -> dict[str, Any]:
    """The settings of a `hyperparams.yaml` as data: ``<name>`` stands for another setting's value, a tag is ignored,
    or, of a mapping, kept as its entry ``""``.

    Raises:
        BadModel: it cannot be read.
    """
    try:
        settings = yaml.load(path.read_text(encoding="utf-8"), _Plain)
    except (OSError, ValueError, AttributeError, yaml.YAMLError, RecursionError) as error:
        reason = " ".join(str(error).split())
        raise BadModel(f"Bad hyperparameters '{path}', expected readable YAML: {reason}") from error
    if not isinstance(settings, dict):
        raise BadModel(f"Bad hyperparameters '{path}', expected settings by name")
    return settings


def label_encoder(path: Path) -> tuple[str, ...]:
    """The labels of a `label_encoder.txt` in order of their numbers, SpeechBrain's letters as words.

    Raises:
        BadModel: it cannot be read, or has fewer than two labels or a hole.
    """
    found = {}
    try:
        for line in path.read_text(encoding="utf-8").splitlines():
            if line.startswith("="):
                break
            text, _, number = line.partition(" => ")
            label = ast.literal_eval(text)
            found[int(number)] = EMOTIONS.get(label, label) if isinstance(label, str) else label
    except (OSError, ValueError, SyntaxError, RecursionError, MemoryError) as error:
        raise BadModel(f"Bad label encoder '{path}', expected lines \"'label' => number\": {error}") from error
    labels = tuple(found[number] for number in sorted(found))
    words = len(set(labels)) == len(labels) >= 2 and all(isinstance(label, str) for label in labels)
    if not words or sorted(found) != list(range(len(found))):
        raise BadModel(f"Bad label encoder '{path}', expected two or more different labels, numbered from 0")
    return labels


def _rank(epoch: Path) -> tuple[float, float]:
    """Least for the best epoch: its error rate, and its age. What was saved within an epoch has no error rate."""
    try:
        told = yaml.safe_load((epoch / "CKPT.yaml").read_text(encoding="utf-8"))
        rate, time = float(told.get("error_rate", inf)), float(told.get("unixtime", 0))
    except (OSError, ArithmeticError, ValueError, TypeError, AttributeError, RecursionError, yaml.YAMLError):
        return inf, inf
    return (inf, inf) if isnan(rate) or isnan(time) else (rate, -time)


class _Plain(yaml.SafeLoader):  # type: ignore[misc]
    """A loader for which every tag is text."""


def _tagged(loader: Any, suffix: str, node: Any) -> Any:
    if isinstance(node, yaml.MappingNode):
        return {"": suffix, **loader.construct_mapping(node, deep=True)}
    if isinstance(node, yaml.SequenceNode):
        return loader.construct_sequence(node, deep=True)
    return loader.construct_scalar(node) if isinstance(node, yaml.ScalarNode) else None


_Plain.add_multi_constructor("!", _tagged)


def _value(settings: Mapping[str, Any], value: Any) -> Any:
    """A value, or that of the setting that it refers to; what refers to itself stays a text."""
    for _ in range(len(settings)):
        match = _REFERENCE.fullmatch(value) if isinstance(value, str) else None
        if match is None:
            break
        value = settings.get(match[1])
    return value


def _arguments(settings: Mapping[str, Any], name: str) -> dict[str, Any]:
    found = _value(settings, settings.get(name))
    if not isinstance(found, dict):
        raise BadModel(f"Bad hyperparameter {name!r}, expected a module and its arguments")
    return {key: _value(settings, value) for key, value in found.items()}


def _need(settings: Mapping[str, Any], name: str, expected: object) -> None:
    found = _value(settings, settings.get(name, expected))
    if found != expected:
        raise BadModel(f"Bad hyperparameter {name} {found!r}, expected {expected!r}")


def _wave(folder: Path, settings: Mapping[str, Any], encoder: Mapping[str, Any]) -> str:
    norm = _arguments(settings, "input_norm") if "input_norm" in settings else {"norm_type": "none"}
    if norm.get("norm_type") not in ("none", "sentence") or norm.get("std_norm", norm["norm_type"] != "none"):
        raise BadModel(f"Bad input_norm {norm} in '{folder}', expected norm_type sentence and std_norm false")
    if checkpoints.normalises(folder, encoder):
        return "normalised"
    return "raw" if norm["norm_type"] == "none" else "centred"
