"""Write a model folder: half-precision safetensors and the manifest that `sedstream.zoo` reads."""

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeAlias

import torch
from safetensors.torch import save
from torch import nn

from ..errors import BadInput
from ..exports.naming import one_line
from ..exports.writing import check_writable, write_whole

Value: TypeAlias = str | int | float | Sequence[float] | Sequence[str]
Table: TypeAlias = Mapping[str, "Value | Table"]
_BARE = re.compile(r"[A-Za-z0-9_-]+")
"""Keys that TOML takes without quotes."""


def toml(table: Table, path: str = "") -> str:
    """A nested table as TOML: plain values first, then each table under its dotted name."""
    lines = [f"{_key(key)} = {_literal(value)}" for key, value in table.items() if not isinstance(value, Mapping)]
    if path and lines:
        lines = ["", f"[{path}]", *lines]
    text = "".join(line + "\n" for line in lines)
    for key, value in table.items():
        if isinstance(value, Mapping):
            text += toml(value, f"{path}.{_key(key)}" if path else _key(key))
    return text


def _key(name: str) -> str:
    return name if _BARE.fullmatch(name) else _literal(name)


def _literal(value: Value) -> str:
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")  # JSON leaves that one as it is
    if isinstance(value, Sequence):
        return "[" + ", ".join(_literal(v) for v in value) + "]"
    return str(value).lower() if isinstance(value, bool) else repr(value)


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """While something is written in a folder: an `OSError` becomes a `BadInput` that names it."""
    try:
        yield
    except OSError as error:
        raise BadInput(f"Bad folder '{folder}' to write, expected one that can be written: {error.strerror}") from error


def check(folder: Path) -> None:
    """Look, before the work, whether a training may write a model there. Leaves nothing behind.

    Raises:
        BadInput: it cannot be written, holds a model that no training made there, or has a name that no model can have.
    """
    missing = []
    try:
        with writing(folder):
            name = folder.resolve().name  # which the model gets
            if one_line(name) != name:
                raise BadInput(f"Bad folder {name!r} to write, expected a name in UTF-8 without control characters")
            if (folder / "manifest.toml").exists() and not (folder / "training").is_dir():
                raise BadInput(f"Bad folder '{folder}' to write, expected none with a model that was not trained there")
            missing = [place for place in (folder, *folder.parents) if not place.exists()]
            folder.mkdir(parents=True, exist_ok=True)
            check_writable(folder / "manifest.toml")
    finally:
        for place in missing:
            with suppress(OSError):
                place.rmdir()


def publish(folder: Path, table: Table, encoder: nn.Module, head: nn.Module) -> Path:
    """Write weights.safetensors (fp16, `encoder.*` and `head.*`) and manifest.toml to a model folder.

    `table` is the manifest but for its table `weights`, which is added here. Returns the manifest's path.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {
        f"{part}.{key}": tensor.detach().to("cpu", torch.float16).contiguous()
        for part, module in (("encoder", encoder), ("head", head))
        for key, tensor in module.state_dict().items()
    }
    weights = folder / "weights.safetensors"
    data = save(tensors)
    digest = hashlib.sha256(data).hexdigest()
    write_whole(weights, data)
    path = folder / "manifest.toml"
    write_whole(path, toml({**table, "weights": {"file": weights.name, "sha256": digest}}).encode())
    return path
