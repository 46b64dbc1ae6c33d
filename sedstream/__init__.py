"""Streaming speech emotion diarization: which emotion appears when, while the call is still going on."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .errors import BadInput, BadMessage, BadModel, SedstreamError, Unavailable
    from .events import Segment
    from .loop import tick
    from .offline import Diarization, diarize
    from .recordings import diarize_many
    from .serving.client import Client
    from .stream import Stream
    from .zoo import Model, load

__version__ = "0.1.0"

# Loaded when first used: `import sedstream` must not wait for torch.
_HOME = {
    "BadInput": "errors",
    "BadMessage": "errors",
    "BadModel": "errors",
    "Client": "serving.client",
    "Diarization": "offline",
    "Model": "zoo",
    "SedstreamError": "errors",
    "Segment": "events",
    "Stream": "stream",
    "Unavailable": "errors",
    "diarize": "offline",
    "diarize_many": "recordings",
    "load": "zoo",
    "tick": "loop",
}

__all__ = [
    "BadInput",
    "BadMessage",
    "BadModel",
    "Client",
    "Diarization",
    "Model",
    "SedstreamError",
    "Segment",
    "Stream",
    "Unavailable",
    "diarize",
    "diarize_many",
    "load",
    "tick",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'sedstream' has no attribute {name!r}")
    value = getattr(import_module(f".{_HOME[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
