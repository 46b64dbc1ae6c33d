"""The layers of torchaudio's transformers, with each sum computed together with the norm that follows it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from .attention import GatedAttention
from .fused import add_norm, dense_gelu, norm, norm_of_sum


def states(
    transformer: Any, x: Tensor, outputs: Sequence[int], frames: slice = slice(None), **options: Any
) -> list[Tensor]:
    """What goes into the first layer of torchaudio's ``transformer``, `[B, T, width]` -> ``frames`` of its hidden
    states of the numbers ``outputs``: 0 is what goes in, the last one stands behind the final norm.

    ``options`` are for the attention of each layer. What no frame asked for needs is not computed: in the last layer,
    of other frames all but keys and values.
    """
    last = max(outputs)
    # torchaudio's flag of the transformer says the opposite of that of its layers.
    through = _norms_behind if transformer.layer_norm_first else _norms_first
    found = {0: x} | through(transformer, x, transformer.layers[:last], set(outputs), frames, options)
    return [found[n] if 0 < n == last else found[n][:, frames] for n in outputs]


def _norms_behind(
    _: Any, x: Tensor, layers: Sequence[Any], outputs: set[int], frames: slice, options: dict[str, Any]
) -> dict[int, Tensor]:
    found = {}
    for number, layer in enumerate(layers, 1):
        heard = _heard(layer.attention, x, frames if number == len(layers) else slice(None), options)
        if number == len(layers):
            x = x[:, frames]
        x = norm_of_sum(x, heard, layer.layer_norm)
        x = norm_of_sum(x, _feed_forward(layer, x), layer.final_layer_norm)
        if number in outputs:
            found[number] = x
    return found


def _norms_first(
    transformer: Any, x: Tensor, layers: Sequence[Any], outputs: set[int], frames: slice, options: dict[str, Any]
) -> dict[int, Tensor]:
    found = {}
    norms = [layer.layer_norm for layer in transformer.layers] + [transformer.layer_norm]
    normed = norm(x, norms[0]) if layers else x
    for number, layer in enumerate(layers, 1):
        heard = _heard(layer.attention, normed, frames if number == len(layers) else slice(None), options)
        if number == len(layers):
            x = x[:, frames]
        x, normed = add_norm(x, heard, layer.final_layer_norm)
        x, normed = add_norm(x, _feed_forward(layer, normed), norms[number])
        if number in outputs:
            found[number] = normed if number == len(transformer.layers) else x
    return found


def _heard(attention: Any, x: Tensor, frames: slice, options: dict[str, Any]) -> Tensor:
    """What some frames hear of all."""
    if isinstance(attention, GatedAttention):
        some: Tensor = attention(x, frames=frames, **options)[0]
        return some
    every: Tensor = attention(x, **options)[0]
    return every[:, frames]


def _feed_forward(layer: Any, x: Tensor) -> Tensor:
    inner = layer.feed_forward
    y: Tensor = inner.output_dense(dense_gelu(x, inner.intermediate_dense))
    return y
