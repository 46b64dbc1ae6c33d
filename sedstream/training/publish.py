"""Write a model folder: half-precision safetensors and the manifest that `sedstream.zoo` reads."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from ..encoders.whisper import WhisperEncoder
from ..errors import BadModel

LABELS = ("neutral", "happy", "sad", "angry", "fearful", "disgusted", "surprised")

Value = str | int | float | list[int] | list[str]
Table = Mapping[str, Value]


@dataclass(frozen=True)
class Manifest:
    """The numbers that travel with the weights; every table is written as it stands.

    Plans are in frames of 20 ms, decoder costs in 1/256 nat; `temperature` divides the logits.
    """

    name: str
    encoder: Table
    head: Table
    temperature: float
    plans: Mapping[str, Table]
    vad: Table
    decoder: Table
    version: str = "0.1.0"
    licence: str = "CC-BY-NC-SA-4.0"

    def toml(self, sha256: str) -> str:
        """The text of manifest.toml for weights with this sha256 (hex)."""
        top: Table = {
            "name": self.name,
            "version": self.version,
            "family": "whisper",
            "kind": "windowed",
            "licence": self.licence,
            "labels": list(LABELS),
            "temperature": self.temperature,
        }
        tables: dict[str, Table] = {
            "weights": {"file": "weights.safetensors", "sha256": sha256},
            "encoder": self.encoder,
            "head": self.head,
            **{f"plans.{name}": plan for name, plan in self.plans.items()},
            "vad": self.vad,
            "decoder": self.decoder,
        }
        lines = [f"{key} = {_literal(value)}" for key, value in top.items()]
        for name, table in tables.items():
            lines += ["", f"[{name}]", *(f"{key} = {_literal(value)}" for key, value in table.items())]
        return "\n".join(lines) + "\n"


def _literal(value: Value) -> str:
    if isinstance(value, str):
        return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
    if isinstance(value, list):
        return "[" + ", ".join(_literal(v) for v in value) + "]"
    return repr(value)


def pretrained(encoder: WhisperEncoder, checkpoint: Path) -> WhisperEncoder:
    """Fill `encoder` with the tensors it keeps of a Whisper encoder checkpoint (safetensors, transformers' names).

    Raises:
        BadModel: the file cannot be read, or lacks a tensor, or one has another shape.
    """
    try:
        tensors = load_file(checkpoint)
    except Exception as error:  # safetensors raises its own class, OSError and ValueError for one and the same thing
        raise BadModel(f"Bad checkpoint '{checkpoint}', expected a safetensors file ({error})") from error
    own = encoder.state_dict()
    name = "embed_positions.weight"
    if name in tensors:
        tensors[name] = tensors[name][: own[name].shape[0]]
    for key, tensor in own.items():
        if key not in tensors or tensors[key].shape != tensor.shape:
            found = tuple(tensors[key].shape) if key in tensors else "nothing"
            raise BadModel(f"Bad checkpoint '{checkpoint}', expected {key} {tuple(tensor.shape)}, found {found}")
    encoder.load_state_dict({key: tensors[key].float() for key in own})
    return encoder.eval()


def publish(folder: Path, manifest: Manifest, encoder: nn.Module, head: nn.Module) -> Path:
    """Write weights.safetensors (fp16, `encoder.*` and `head.*`) and manifest.toml; returns the manifest's path."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {
        f"{part}.{key}": tensor.detach().to("cpu", torch.float16).contiguous()
        for part, module in (("encoder", encoder), ("head", head))
        for key, tensor in module.state_dict().items()
    }
    weights = folder / "weights.safetensors"
    save_file(tensors, weights)
    weights.chmod(0o644)
    path = folder / "manifest.toml"
    path.write_text(manifest.toml(hashlib.sha256(weights.read_bytes()).hexdigest()))
    return path
