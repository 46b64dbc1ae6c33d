"""Whisper's encoder out of an ONNX file with 8-bit weights (as transformers.js's models are), as floats."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

MULTIPLY = ("MatMulInteger", "ConvInteger")


def read(path: Path) -> dict[str, Tensor]:
    """Tensors float32 by the names of transformers' `WhisperEncoder`. Weight = scale · (integer - zero point).

    A product is named after its module (`/layers.0/fc1/MatMul_quant`), its weight after nothing; matrices lie as
    `[in, out]`. What the file has in floats (biases, norms, positions) has its name already.
    """
    import onnx
    from onnx.numpy_helper import to_array

    graph = onnx.load(path).graph
    stored = {tensor.name: tensor for tensor in graph.initializer}
    floats = [name for name, tensor in stored.items() if tensor.data_type == onnx.TensorProto.FLOAT]
    found = {name: to_array(stored[name]) for name in floats if not name.endswith("_scale")}
    for node in graph.node:
        if node.op_type not in MULTIPLY or node.input[1] not in stored:
            continue  # of two activations: attention
        name = node.input[1].removesuffix("_quantized")
        integers, zero = (to_array(stored[name + end]).astype(np.float32) for end in ("_quantized", "_zero_point"))
        weight = to_array(stored[name + "_scale"]) * (integers - zero)
        module = ".".join(node.name.strip("/").split("/")[:-1])
        found[f"{module}.weight"] = weight.T if node.op_type == "MatMulInteger" else weight
    return {name: torch.from_numpy(np.array(value, np.float32)) for name, value in found.items()}
