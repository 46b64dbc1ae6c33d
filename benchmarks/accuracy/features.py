"""What networks make of a recording, frame by frame: Whisper's layers, and what the model's own last layer reads."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor

from sedstream.encoders.cached import BEFORE, BEHIND, CachedEncoder
from sedstream.encoders.whisper import WhisperEncoder
from sedstream.grid import HOP, frames_of
from sedstream.zoo import Model

from . import quantised
from .cases import Array

CHUNK = 16
"""Frames that a cached encoder hears at once: 0.32 s, as live."""


class Whisper:
    """A frozen encoder of Whisper of any size; each recording is one window, and every frame attends to all of it.

    `weights`: safetensors, or ONNX (see `quantised`), named as in transformers. `layers`: those whose states are kept,
    a third, half, two thirds of the way and the last one.
    """

    def __init__(self, weights: Path, device: str) -> None:
        tensors = quantised.read(weights) if weights.suffix == ".onnx" else load_file(weights)
        depth = 1 + max(int(name.split(".")[1]) for name in tensors if name.startswith("layers."))
        self.width, mels, _ = tensors["conv1.weight"].shape
        self.layers = (depth // 3, depth // 2, 2 * depth // 3, depth)
        shape = {"mels": mels, "width": self.width, "heads": self.width // 64, "layers": depth}
        self.encoder = WhisperEncoder(**shape, outputs=self.layers)
        known = self.encoder.state_dict()
        self.encoder.load_state_dict({name: tensors[name].float() for name in known})
        self.encoder.to(device).eval()
        self.device = device

    @torch.inference_mode()
    def __call__(self, samples: Array) -> np.ndarray:
        """Samples float32 `[n]` -> states of `layers`, each normalised by itself, float16 `[T, len(layers), width]`."""
        states = self.encoder(padded(samples, 0, frames_of(len(samples))).to(self.device))[0]
        states = F.layer_norm(states.view(-1, len(self.layers), self.width), (self.width,))
        return states.half().cpu().numpy()


@torch.inference_mode()
def states(model: Model, samples: Array) -> Array:
    """Samples float32 `[n]` -> what the model's encoder gives and what its last layer reads, float32 `[T, D]`."""
    network = model.network
    frames = frames_of(len(samples))
    taken: list[Tensor] = []
    handle = network.head.norm.register_forward_hook(lambda module, read, made: taken.append(made))
    try:
        if isinstance(network.encoder, CachedEncoder):
            whole = -(-frames // CHUNK) * CHUNK
            sound = padded(samples, BEFORE, whole + BEHIND).to(model.device)
            encoded = network.encoder(sound, CHUNK)
            network.head(encoded, CHUNK, CHUNK - BEHIND)
        else:
            encoded = network.encoder(padded(samples, 0, frames).to(model.device))
            network.head(encoded)
    finally:
        handle.remove()
    both = torch.cat([encoded.float(), taken[0].float()], -1)[0, :frames]
    result: Array = both.cpu().numpy()
    return result


def padded(samples: Array, before: int, frames: int) -> Tensor:
    """Samples with `before` frames of zeros before, and zeros behind up to `frames` frames, `[1, n]`."""
    out = np.zeros((before + frames) * HOP, np.float32)
    out[before * HOP : before * HOP + len(samples)] = samples
    return torch.from_numpy(out)[None]
